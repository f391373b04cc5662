"""What the row of an operator sees of its node: operands, attributes, shapes as dims, and the means to build values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import onnx

from ingot.compiler.frontend.assumptions import Assumptions
from ingot.compiler.frontend.errors import ModelError, UnsupportedError
from ingot.compiler.frontend.folding import fold
from ingot.compiler.frontend.sequences import ITEMS, Item, Optional, RaggedSequence, TensorSequence, mapped, tensors_of
from ingot.compiler.frontend.sizes import bound_size
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, show
from ingot.compiler.ir.graph import Array, Constant, Node, Origin, Value, constant
from ingot.compiler.ir.types import broadcast_shapes, show_shape
from ingot.compiler.ops.control import Require
from ingot.compiler.ops.movement import Concat, DimValues, Expand, Reshape, Slice
from ingot.compiler.ops.pointwise import Cast, Equal, Or
from ingot.compiler.ops.shape_arithmetic import contents, known_dims
from ingot.runtime.dtypes import DType, i64

if TYPE_CHECKING:
    from ingot.compiler.frontend.scope import Scope
    from ingot.compiler.frontend.table import Results

Dims = tuple[Dim, ...]
T = TypeVar("T", int, float, str)
L = TypeVar("L", int, float, str)
N = TypeVar("N", bound=Node)

_KINDS = onnx.AttributeProto
_READERS: dict[int, Callable[[onnx.AttributeProto], Any]] = {
    _KINDS.INT: lambda a: int(a.i),
    _KINDS.FLOAT: lambda a: float(a.f),
    _KINDS.STRING: lambda a: a.s.decode("utf-8"),
    _KINDS.INTS: lambda a: tuple(int(i) for i in a.ints),
    _KINDS.FLOATS: lambda a: tuple(float(x) for x in a.floats),
    _KINDS.STRINGS: lambda a: tuple(x.decode("utf-8") for x in a.strings),
    _KINDS.TENSOR: lambda a: a.t,
    _KINDS.GRAPH: lambda a: a.g,
    _KINDS.SPARSE_TENSOR: lambda a: a.sparse_tensor,
}


@dataclass(frozen=True)
class Context:
    """One node as its row sees it.

    What the row reads is noted: an input or attribute that is present and never read means that the row would give the
    node another meaning than the model does, so `unread` makes it an error.
    """

    node: onnx.NodeProto
    opset: int
    origin: Origin
    scope: Scope
    attributes: Mapping[str, onnx.AttributeProto]
    operands: tuple[Item | None, ...]
    _read: set[str | int] = field(default_factory=set[str | int], repr=False)
    _required: list[tuple[Value, str]] = field(default_factory=list[tuple[Value, str]], repr=False)

    # -- inputs and attributes ---------------------------------------------------------------------------------------

    def operand(self, index: int) -> Value:
        """Input `index`, which must be there."""
        value = self.optional(index)
        if value is None:
            raise ModelError(f"input {index} is missing", remedy="run onnx.checker on the model")
        return value

    def optional(self, index: int) -> Value | None:
        """Input `index`, None when it is left out; ModelError when it is a sequence or an optional."""
        self._read.add(index)
        found = self.operands[index] if index < len(self.operands) else None
        if found is not None and not isinstance(found, Value):
            raise ModelError(f"input {index} is {found}: a tensor is needed", remedy="run onnx.checker on the model")
        return found

    def item(self, index: int) -> Item | None:
        """Input `index` whatever it is, None when it is left out."""
        self._read.add(index)
        return self.operands[index] if index < len(self.operands) else None

    def sequence(self, index: int) -> TensorSequence | RaggedSequence:
        """Input `index`, which must be a sequence, or an optional that holds one."""
        found = self.item(index)
        if isinstance(found, Optional) and found.content is not None:
            found = self.held(found)
        if not isinstance(found, TensorSequence | RaggedSequence):
            raise ModelError(f"input {index} is no sequence", remedy="run onnx.checker on the model")
        return found

    def held(self, optional: Optional) -> Item:
        """What an optional holds. Where its presence depends on data, a run in which it holds nothing ends."""
        if optional.content is None:
            raise self.error("OptionalGetElement of an empty optional value")
        if optional.present is None:
            return optional.content
        self.require(optional.present, "the content of an empty optional value is needed")
        tensors = tensors_of(optional.content)
        renewed = dict(zip(tensors, self.checked(*tensors), strict=True))
        return mapped(optional.content, renewed.__getitem__)

    def variadic(self, first: int = 0) -> tuple[Value, ...]:
        """All inputs from `first` on; at least one."""
        return tuple(self.operand(i) for i in range(first, max(len(self.operands), first + 1)))

    def attribute(self, name: str, default: T) -> T:
        """The attribute `name`, or `default`; ModelError when it is of another kind than the default."""
        value = self.maybe(name, type(default))
        return default if value is None else value

    def maybe(self, name: str, kind: type[T]) -> T | None:
        """The attribute `name`, None when it is left out."""
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, kind):
            raise ModelError(f"attribute {name!r} is a {type(value).__name__}, not a {kind.__name__}")
        return value

    def ints(self, name: str) -> tuple[int, ...] | None:
        """The attribute `name` of integers, None when it is left out."""
        return self._list(name, int, "integers")

    def floats(self, name: str) -> tuple[float, ...] | None:
        """The attribute `name` of floats, None when it is left out."""
        return self._list(name, float, "floats")

    def strings(self, name: str) -> tuple[str, ...] | None:
        """The attribute `name` of strings, None when it is left out."""
        return self._list(name, str, "strings")

    def _list(self, name: str, kind: type[L], what: str) -> tuple[L, ...] | None:
        value: object = self._value(name)
        if value is None:
            return None
        items = cast(tuple[object, ...], value) if isinstance(value, tuple) else None
        if items is None or not all(isinstance(x, kind) for x in items):
            raise ModelError(f"attribute {name!r} is not a list of {what}")
        return tuple(x for x in items if isinstance(x, kind))

    def required_ints(self, name: str) -> tuple[int, ...]:
        """The attribute `name` of integers, which must be there."""
        value = self.ints(name)
        if value is None:
            raise ModelError(f"attribute {name!r} is missing", remedy="run onnx.checker on the model")
        return value

    def graph(self, name: str) -> onnx.GraphProto:
        """The graph attribute `name`, which must be there."""
        value = self._value(name)
        if not isinstance(value, onnx.GraphProto):
            raise ModelError(f"attribute {name!r} must be a graph", remedy="run onnx.checker on the model")
        return value

    def tensor(self, name: str) -> Array | None:
        """The contents of the tensor attribute `name`, None when it is left out."""
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, onnx.TensorProto):
            raise ModelError(f"attribute {name!r} must be a tensor", remedy="run onnx.checker on the model")
        return self.scope.importer.model.array(value)

    def sparse_tensor(self, name: str) -> Array | None:
        """The contents, with their zeros, of the sparse tensor attribute `name`, None when it is left out."""
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, onnx.SparseTensorProto):
            raise ModelError(f"attribute {name!r} must be a sparse tensor", remedy="run onnx.checker on the model")
        return self.scope.importer.model.dense(value)

    def _value(self, name: str) -> Any:
        self._read.add(name)
        attribute = self.attributes.get(name)
        if attribute is None:
            return None
        if attribute.type not in _READERS:
            kind = _KINDS.AttributeType.Name(attribute.type) if attribute.type in _KINDS.AttributeType.values() else "?"
            raise UnsupportedError(f"attribute {name!r} has the kind {kind}")
        return _READERS[attribute.type](attribute)

    def ignore(self, *names: str) -> None:
        """Attributes that change nothing in inference."""
        self._read.update(names)

    def unread(self) -> list[str]:
        """Inputs and attributes that are present and that the row did not read."""
        inputs = [f"input {i}" for i, v in enumerate(self.operands) if v is not None and i not in self._read]
        return inputs + [f"attribute {n!r}" for n in self.attributes if n not in self._read]

    # -- what is known of values -------------------------------------------------------------------------------------

    @property
    def assumptions(self) -> Assumptions:
        """What is known about symbolic dims."""
        return self.scope.importer.assumptions

    def known(self, value: Value) -> Dims | None:
        """The elements of an integer value in row-major order as dims, None when they depend on data."""
        found = known_dims(value)
        return None if found is None else tuple(self.assumptions.simplified(d) for d in found)

    def dims(self, index: int, what: str, count: int | None = None) -> Dims:
        """The elements of input `index`, none of them negative, as dims; symbols stand for what depends on data. The
        model makes sense with `count` of them alone, where that is not None."""
        value = self.operand(index)
        if count is not None and value.rank == 1 and not isinstance(value.shape[0], int):
            self.equal(value.shape[0], count)
        found = self.known(value)
        return found if found is not None else tuple(self.size(v, what) for v in self.elements(value, what))

    def elements(self, value: Value, what: str) -> tuple[Value, ...]:
        """The elements of an integer value of rank 0 or 1 whose extent is known, each an i64 scalar."""
        if not value.dtype.is_integer or value.rank > 1 or not value.type.is_static:
            raise UnsupportedError(f"{what} is {value.type}: a list of integers of fixed length is needed")
        wide = self.cast(value, i64)
        parts = [wide] if value.rank == 0 else [self.element(wide, i) for i in range(int(value.shape[0]))]
        return tuple(part if (d := self.known(part)) is None else self.dim_values(d, True) for part in parts)

    def size(self, value: Value, what: str, most: Dim | None = None) -> Dim:
        """The i64 scalar `value` as a dim: what it is known to be, or a new symbol bound to it (see `bound_size`)."""
        return bound_size(self, value, what, most)

    def require(self, condition: Value, message: str) -> None:
        """This node is only right where `condition` (bool []) holds: its results are checked, see also `checked`."""
        if self.decided(condition) is not True:
            self._required.append((condition, message))

    def checked(self, *values: Value) -> tuple[Value, ...]:
        """`values` as they are where all that was required so far holds; otherwise the run ends."""
        for condition, message in self._required:
            values = self.build(Require, values, condition, True, message).results()
        self._required.clear()
        return values

    def guarded(self, results: Results) -> Results:
        """The results of the node, checked."""
        if not self._required:
            return results
        values = (results,) if isinstance(results, ITEMS) else tuple(results)
        present = [v for item in values if item is not None for v in tensors_of(item)]
        renewed = dict(zip(present, self.checked(*present), strict=True))
        return [None if item is None else mapped(item, renewed.__getitem__) for item in values]

    def fixed(self, index: int, what: str) -> tuple[int, ...]:
        """As `dims`, but all must be plain ints."""
        found = self.dims(index, what)
        if not all(isinstance(d, int) for d in found):
            reason = "computed from data" if self.bound(*found) else show_shape(found)
            raise UnsupportedError(f"{what} (input {index}) is {reason}, but must be constant")
        return tuple(d for d in found if isinstance(d, int))

    def decided(self, condition: Value) -> bool | None:
        """The value of a condition that follows from constants and shapes, None when it depends on data."""
        found = contents(condition)
        if found is not None and found.size == 1 and isinstance(found.item(), bool):
            return found.item()
        array = self.array(condition)
        return None if array is None or array.size != 1 else bool(array.item())

    def array(self, value: Value) -> Array | None:
        """The contents of a small value as an array, None when they depend on data or on symbolic dims."""
        return fold(value)

    def axis(self, axis: int, rank: int) -> int:
        """`axis` counted from the front; ModelError when it is out of range."""
        if not -rank <= axis < rank:
            raise ModelError(f"axis {axis} is outside {-rank}..{rank - 1}", remedy="run onnx.checker on the model")
        return axis % rank

    def axes(self, axes: Iterable[int], rank: int) -> tuple[int, ...]:
        """Distinct axes counted from the front, in the order given."""
        found = tuple(self.axis(a, rank) for a in axes)
        if len(set(found)) != len(found):
            raise ModelError(f"axes {list(found)} name one axis twice")
        return found

    # -- building ----------------------------------------------------------------------------------------------------

    def build(self, op: Callable[..., N], *fields: object) -> N:
        """A node with this node's origin."""
        return op(*fields, origin=self.origin)

    def constant(self, data: Array | float | int | bool | Sequence[int], dtype: DType | None = None) -> Constant:
        """A constant with this node's origin."""
        return constant(data if isinstance(data, int) else np.asarray(data), dtype, self.origin)

    def dim_values(self, values: Dims, scalar: bool) -> Value:
        """i64 data made of dims: a constant where all are ints."""
        if all(isinstance(d, int) for d in values):
            array = np.array(values, np.int64)
            return self.constant(array.reshape(()) if scalar else array)
        return self.build(DimValues, values, scalar)

    def cast(self, value: Value, to: DType) -> Value:
        """`value` with elements of the type `to`, by a Cast where it has others."""
        return value if value.dtype == to else self.build(Cast, value, to)

    def scalar(self, value: Value) -> Value:
        """A value of one element with shape []."""
        if value.rank == 0:
            return value
        for d in value.shape:
            self.equal(d, 1)
        return self.build(Reshape, value, ())

    def element(self, value: Value, index: int) -> Value:
        """Element `index` of a value of rank 1, with shape []."""
        if value.rank != 1:
            raise self.error(f"a list is needed, not {value.type}")
        return self.build(Reshape, self.build(Slice, value, (index,), (1,), (1,)), ())

    def expand(self, value: Value, shape: Dims) -> Value:
        """`value` broadcast to exactly `shape`."""
        return value if value.shape == shape else self.build(Expand, value, shape)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """The parts, at least one, one after another along an axis; learns that their other dims are equal."""
        first = parts[0]
        for part in parts[1:]:
            for i, (a, b) in enumerate(zip(first.shape, part.shape, strict=True) if part.rank == first.rank else ()):
                if i != axis:
                    self.equal(a, b)
        return first if len(parts) == 1 else self.build(Concat, tuple(parts), axis)

    def common_shape(self, *shapes: Dims) -> Dims:
        """What the shapes broadcast to, after `broadcast`."""
        self.broadcast(*shapes)
        return broadcast_shapes(shapes)

    def equal(self, a: Dim, b: Dim) -> None:
        """The model is only valid when a == b: learn it where it can be learnt (see `Assumptions.demand_equal`)."""
        bound = self.bound(a, b)
        self.assumptions.demand_equal(a, b, bound or None)
        if bound and a != b:
            equal = self.build(Equal, self.dim_values((a,), True), self.dim_values((b,), True))
            self.require(equal, f"{show(a)} and {show(b)} must be equal for the model to make sense")

    def bound(self, *found: Dim) -> frozenset[str]:
        """The symbols of dims that come from data."""
        return frozenset(s for d in found for s in dims.symbols(d)) & self.scope.importer.bound

    def at_least(self, dim: Dim, low: int, need: str) -> None:
        """The model is only valid when dim >= low, for the reason `need`: bound the symbol where that can be done.

        ModelError when it is impossible. In a sub-graph that may not run nothing is concluded.
        """
        assumptions = self.assumptions
        most = dims.bounds(dim, assumptions.ranges)[1]
        if most < low:
            have = f"{show(dim)} is at most {most}" if not isinstance(dim, int) else f"there are only {dim}"
            raise self.error(f"{need}, but {have}", "correct the model or the shapes given")
        if not self.scope.is_closed:
            self.scope.importer.narrow(assumptions.demand_at_least(dim, low))

    def broadcast(self, *shapes: Sequence[Dim]) -> None:
        """The shapes are about to be broadcast: learn what makes different symbolic dims equal."""
        rank = max((len(s) for s in shapes), default=0)
        for axis in range(1, rank + 1):
            column: list[Dim] = []
            for shape in shapes:
                if len(shape) >= axis and shape[-axis] != 1 and shape[-axis] not in column:
                    column.append(shape[-axis])
            constants = [d for d in column if isinstance(d, int)]
            for other in column if constants else ():
                if not isinstance(other, int):
                    self._one_or(other, constants[0])
            for other in column[1:] if not constants else ():
                if bound := self.bound(column[0], other):
                    self.assumptions.demand_equal(column[0], other, bound)
                self.assumptions.suggest_equal(column[0], other)
                raise self._unrelated(column[0], other)

    def _one_or(self, dim: Dim, extent: int) -> None:
        """A symbolic dim is broadcast with a constant: it is the same, or else 1."""
        if self.bound(dim):
            self.equal(dim, extent)
            return
        self.assumptions.suggest_equal(dim, extent)
        value = self.dim_values((dim,), True)
        fits = [self.build(Equal, value, self.dim_values((d,), True)) for d in (1, extent)]
        self.require(self.build(Or, *fits), f"{show(dim)} is broadcast with {extent}: it must be 1 or {extent}")

    def _unrelated(self, a: Dim, b: Dim) -> UnsupportedError:
        return UnsupportedError(
            f"dims {show(a)} and {show(b)} are broadcast, but nothing says that they are equal",
            remedy="if they are, give both one name with shapes; otherwise pin one of them",
        )

    def broadcast_to(self, target: Sequence[Dim], *shapes: Sequence[Dim]) -> None:
        """The shapes are about to be broadcast to `target` itself: their dims are 1 or equal to its own."""
        for shape in shapes:
            for have, want in zip(reversed(shape), reversed(target), strict=False):
                if have != 1 and want != 1:
                    self.equal(have, want)
                    self.broadcast((have,), (want,))

    def pointwise(self, op: Callable[..., N], *operands: Value) -> N:
        """A pointwise node, after `broadcast`."""
        self.broadcast(*(v.shape for v in operands))
        return self.build(op, *operands)

    # -- refusing ----------------------------------------------------------------------------------------------------

    def error(self, problem: str, remedy: str | None = None) -> ModelError:
        """An error about this node, to be raised."""
        return ModelError(problem, remedy=remedy)

    def unsupported(self, problem: str, remedy: str | None = None) -> UnsupportedError:
        """An error about a use of this operator that is not supported, to be raised."""
        return UnsupportedError(problem, remedy=remedy)
