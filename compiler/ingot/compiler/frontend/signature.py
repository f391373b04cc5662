"""The types of a model's inputs: dim_params become symbols, unnamed dims get names, the caller's shapes pin or rename.

Symbols are identifiers: a dim_param such as ``batch size`` becomes ``batch_size``. A dim_param that is an expression
over other dim_params (``past + 1``) stays one.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from ingot.compiler.frontend.assumptions import Assumptions, Ranges
from ingot.compiler.frontend.errors import ModelError, UnsupportedError
from ingot.compiler.frontend.weights import dtype_of
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, Expr, show
from ingot.compiler.ir.types import TensorType
from ingot.runtime.dtypes import DType

Shapes = Mapping[str, Sequence[int | str]]


def identifier(text: str) -> str:
    """`text` as an identifier that is no Python keyword and not the name of an operation on dims."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII) or "_"
    if name[0].isdigit() or keyword.iskeyword(name) or name in ("max", "min"):
        name = "_" + name
    return name


@dataclass
class Symbols:
    """The symbols of one model: dim_param -> identifier, without collisions."""

    names: dict[str, str] = field(default_factory=dict[str, str])

    def named(self, param: str) -> str:
        """The identifier for a dim_param; the same text gives the same identifier."""
        if param not in self.names:
            self.names[param] = self._free(identifier(param))
        return self.names[param]

    def fresh(self, wish: str) -> str:
        """An identifier like `wish` for a dim that has no name."""
        name = self._free(identifier(wish))
        self.names["\0" + name] = name  # no dim_param starts with a null character
        return name

    def _free(self, wish: str) -> str:
        name, number = wish, 2
        while name in self.names.values():
            name, number = f"{wish}_{number}", number + 1
        return name

    def dim(self, param: str) -> Dim:
        """A dim_param as a dim: a symbol, or an expression when it is one over known dim_params."""
        if param in self.names or not re.search(r"[-+*/]", param):
            return dims.symbol(self.named(param))
        try:
            parsed = dims.parse(param)
        except dims.DimSyntaxError:
            return dims.symbol(self.named(param))
        if isinstance(parsed, Expr) and all(name in self.names for name in dims.symbols(parsed)):
            return dims.substitute(parsed, {name: dims.symbol(self.names[name]) for name in dims.symbols(parsed)})
        return dims.symbol(self.named(param))


@dataclass(frozen=True)
class Signature:
    """The inputs that a caller passes, in order, and the assumptions that the import starts with."""

    inputs: tuple[tuple[str, TensorType], ...]
    symbols: Symbols
    assumptions: Assumptions


def read_signature(graph: onnx.GraphProto, shapes: Shapes, ranges: Ranges) -> Signature:
    """The types of all inputs that are not initialisers. `shapes` gives whole shapes by input name (ints pin a dim,
    strings rename it), `ranges` bounds symbols by name. ModelError when they contradict the model."""
    initialised = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = [i for i in graph.input if i.name not in initialised]
    names = [i.name for i in graph.input]
    passed = {i.name for i in inputs}
    for name in shapes:
        if name not in passed:
            raise ModelError(f"a shape is given for {name!r}, which is no input; the inputs are {_listing(passed)}")
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ModelError(f"two inputs are named {twice!r}", remedy="names must be unique: run onnx.checker")
    table = Symbols()
    for i in inputs:  # plain names first, so that expressions over them are understood in any order
        for d in i.type.tensor_type.shape.dim:
            if d.WhichOneof("value") == "dim_param" and identifier(d.dim_param) == d.dim_param:
                table.named(d.dim_param)
    aliases: dict[str, Dim] = {}
    unnamed: set[str] = set()
    types: list[tuple[str, TensorType]] = []
    for i in inputs:
        dtype, declared = _declared(i)
        shape = _shape(i.name, declared, shapes.get(i.name), table, aliases, unnamed)
        types.append((i.name, TensorType(dtype, shape)))
    return _settle(types, table, aliases, unnamed, ranges)


def _shape(
    name: str,
    declared: tuple[int | str | None, ...] | None,
    given: Sequence[int | str] | None,
    table: Symbols,
    aliases: dict[str, Dim],
    unnamed: set[str],
) -> tuple[Dim, ...]:
    """The dims of one input: as declared, with what `given` says about them entered into `aliases`."""
    if declared is None and given is None:
        raise ModelError(
            f"input {name!r} has no shape",
            remedy=f"give one: shapes={{{name!r}: (1, 3, 'h', 'w')}}, or --shape {name}=1,3,h,w",
        )
    rank = len(declared if declared is not None else given or ())
    params = declared if declared is not None else (None,) * rank
    if given is not None and len(given) != rank:
        raise ModelError(
            f"the shape given for input {name!r} has {len(given)} axes, the model declares {rank}",
            remedy="give one entry for each axis",
        )
    shape: list[Dim] = []
    for axis, param in enumerate(params):
        wish = _given(given[axis], name, axis, table) if given is not None else None
        if param is not None:
            own = param if isinstance(param, int) else table.dim(param)
            if wish is not None and wish != own:
                _pin(own, wish, name, axis, aliases)
        elif wish is not None:
            own = wish
        else:
            fresh = table.fresh(f"{name}_d{axis}")
            unnamed.add(fresh)
            own = dims.symbol(fresh)
        shape.append(own)
    return tuple(shape)


def _settle(
    types: list[tuple[str, TensorType]], table: Symbols, aliases: dict[str, Dim], unnamed: set[str], ranges: Ranges
) -> Signature:
    """Check `ranges` and let a range of one value pin its symbol."""
    renamed = Assumptions(aliases=aliases)
    present = {s for _, t in types for d in t.shape for s in dims.symbols(renamed.resolve(d))}
    bounds: dict[str, tuple[int, int]] = {}
    for name, (low, high) in ranges.items():
        symbol = renamed.resolve(dims.symbol(table.names.get(name, name)))
        spelled = show(symbol)
        if isinstance(symbol, int):
            if low <= symbol <= high:
                continue
            raise ModelError(f"dim {name!r} is {symbol} by the shapes given, which is outside its range {low}..{high}")
        if spelled not in present:
            known = f"the symbolic dims are {_listing(present)}" if present else "all dims of the inputs are fixed"
            raise ModelError(f"a range is given for the dim {name!r}, which no input has; {known}")
        if not 0 <= low <= high:
            raise ModelError(f"the range {low}..{high} of dim {name!r} is empty or negative")
        if low == high > 0:  # 0 stays a symbol: in a shape that the model computes, 0 would mean another dim
            aliases[spelled] = low
        else:
            bounds[spelled] = (low, high)
    taken = frozenset({*table.names.values(), *aliases})
    return Signature(tuple(types), table, Assumptions(bounds, aliases, frozenset(unnamed), taken))


def _declared(value: onnx.ValueInfoProto) -> tuple[DType, tuple[int | str | None, ...] | None]:
    kind = value.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        raise UnsupportedError(
            f"input {value.name!r} is a {str(kind).removesuffix('_type')}", remedy="inputs must be dense tensors"
        )
    dtype = dtype_of(value.type.tensor_type.elem_type, f"input {value.name!r}")
    return dtype, declared_dims(value)


def declared_dims(value: onnx.ValueInfoProto) -> tuple[int | str | None, ...] | None:
    """The dims of a declared tensor: ints, dim_params, None where unknown (no value, or a negative one); None when it
    has no shape."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    found: list[int | str | None] = []
    for d in tensor.shape.dim:
        kind = d.WhichOneof("value")
        if kind == "dim_value":
            found.append(d.dim_value if d.dim_value >= 0 else None)
        else:
            found.append(d.dim_param.strip() or None)
    return tuple(found)


def _given(wish: int | str, name: str, axis: int, table: Symbols) -> Dim:
    if isinstance(wish, str):
        try:
            parsed = dims.parse(wish)
        except dims.DimSyntaxError:
            place = f"axis {axis} of input {name!r}"
            raise ModelError(f"{place} is given as {wish!r}: a name or a number is needed") from None
        return dims.substitute(parsed, {s: dims.symbol(table.named(s)) for s in sorted(dims.symbols(parsed))})
    if int(wish) < 0:
        raise ModelError(f"axis {axis} of input {name!r} is given as {wish}: a dim is not negative")
    return int(wish)


def _pin(own: Dim, given: Dim, name: str, axis: int, aliases: dict[str, Dim]) -> None:
    """The caller says that the model's dim `own` is `given`."""
    place = f"axis {axis} of input {name!r}"
    settled, wanted = Assumptions(aliases=aliases).resolve(own), Assumptions(aliases=aliases).resolve(given)
    if settled == wanted:
        return
    if isinstance(settled, int):
        why = f"the model fixes it to {own}" if isinstance(own, int) else f"{show(own)} is {settled} by another entry"
        raise ModelError(f"{place} is given as {show(given)}, but {why}", remedy="correct the shape given")
    if settled != dims.symbol(show(settled)):
        raise ModelError(f"{place} is given as {show(given)}, but the model computes it as {show(own)}")
    if dims.symbols(wanted) & dims.symbols(settled):
        raise ModelError(f"{place} is given as {show(given)}, which depends on {show(settled)} itself")
    aliases[show(settled)] = wanted


def _listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(repr, names))) or "none"
