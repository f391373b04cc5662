"""Integer expressions over a model's symbolic dims, as the artifact's manifest writes them.

A serialised dim is an int, a symbol's name, or ``[operator, left, right]`` with an operator of ``+ * // % max min``;
division and modulo round down, as in Python. `parse_dim` checks one that comes from a file, `compile_dims` turns many
into one list of steps in which equal sub-expressions are computed once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias, cast

from ingot.runtime.errors import ArtifactError, InputError

Dim: TypeAlias = "int | str | tuple[str, Dim, Dim]"

INT64_MAX: Final = 2**63 - 1
UNBOUNDED: Final = 2**62
"""The upper end of a symbol's range where the model gives none; no dim is larger."""
MAX_DEPTH: Final = 128
"""Operators within operators that one dim may have."""
MAX_STEPS: Final = 1 << 20
"""Different sub-expressions that one artifact may have."""

_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "*": operator.mul, "//": operator.floordiv, "%": operator.mod, "max": max, "min": min,
}  # fmt: skip
OPERATORS: Final = MappingProxyType(_FUNCTIONS)


def parse_dim(value: object, symbols: Collection[str]) -> Dim:
    """The dim that decoded JSON `value` stands for. Raises ArtifactError for anything else than a serialised dim over
    `symbols`, deeper than MAX_DEPTH or with numbers beyond 64 bits."""
    return _parse(value, symbols, MAX_DEPTH)


def parse_dims(values: Iterable[object], symbols: Collection[str]) -> tuple[Dim, ...]:
    """`parse_dim` of each of many values."""
    return tuple([_parse(value, symbols, MAX_DEPTH) for value in values])


def _parse(value: object, symbols: Collection[str], depth: int) -> Dim:
    if type(value) is int:
        if not -INT64_MAX <= value <= INT64_MAX:
            raise ArtifactError(f"a dim holds {value}, which needs more than 64 bits")
        return value
    if isinstance(value, str):
        if value not in symbols:
            raise ArtifactError(f"a dim names {value!r}, which is no symbol of the model")
        return value
    if not isinstance(value, list | tuple) or len(parts := cast("list[object]", value)) != 3:
        raise ArtifactError("a dim is neither an int nor a symbol nor [operator, left, right]")
    if not depth:
        raise ArtifactError(f"a dim is nested more than {MAX_DEPTH} levels deep")
    name, left, right = parts
    if not isinstance(name, str) or name not in OPERATORS:
        raise ArtifactError(f"a dim has the operator {str(name)[:20]!r}; known are {' '.join(OPERATORS)}")
    return (name, _parse(left, symbols, depth - 1), _parse(right, symbols, depth - 1))


def show(dim: Dim) -> str:
    """A dim as people write it: ``("+", ("*", 2, "n"), 1)`` is ``2*n + 1``."""
    if not isinstance(dim, tuple):
        return str(dim)
    name, left, right = dim
    if name in ("max", "min"):
        return f"{name}({show(left)}, {show(right)})"
    if name == "+":
        return f"{show(left)} + {show(right)}"
    join = "*" if name == "*" else f" {name} "
    return join.join(f"({show(side)})" if _is_infix(side) else show(side) for side in (left, right))


def _is_infix(dim: Dim) -> bool:
    return isinstance(dim, tuple) and dim[0] not in ("max", "min")


class CompiledDims(NamedTuple):
    """Dims ready for evaluation: constants and symbols first, then one step per different operation."""

    constants: tuple[int, ...]
    symbols: tuple[str, ...]
    steps: tuple[tuple[str, int, int], ...]
    results: tuple[int, ...]

    def evaluate(self, values: Mapping[str, int]) -> list[int]:
        """The dims' values, in the order given to `compile_dims`.

        Raises InputError for a symbol without a value, a division by zero, or a result that needs more than 64 bits:
        the shapes given are then not ones that the model can be run with.
        """
        memory = list(self.constants)
        for name in self.symbols:
            if name not in values:
                raise InputError(f"the symbolic dim {name!r} has no value; it must follow from the inputs' shapes")
            memory.append(values[name])
        for name, left, right in self.steps:
            a, b = memory[left], memory[right]
            try:
                result = OPERATORS[name](a, b)
            except ZeroDivisionError:
                raise InputError(f"{_shapes(values)} lead to a division by zero in the model's shapes") from None
            if not -INT64_MAX <= result <= INT64_MAX:
                raise InputError(f"{_shapes(values)} lead to sizes beyond 64 bits ({a} {name} {b})")
            memory.append(result)
        return [memory[index] for index in self.results]


def compile_dims(dims: Iterable[Dim]) -> CompiledDims:
    """Prepare dims for evaluation. Raises ArtifactError for more than MAX_STEPS different sub-expressions."""
    wanted = list(dims)
    different = dict.fromkeys(wanted)
    constants = {dim: index for index, dim in enumerate(dim for dim in different if isinstance(dim, int))}
    names: dict[str, int] = {}
    for dim in different:
        if not isinstance(dim, int):
            _collect_leaves(dim, constants, names)
    places: dict[Dim, int] = {**constants, **{name: len(constants) + index for name, index in names.items()}}
    first = len(places)
    steps: dict[tuple[str, int, int], int] = {}

    def place(dim: Dim) -> int:
        known = places.get(dim)
        if known is None:
            assert isinstance(dim, tuple)
            step = (dim[0], place(dim[1]), place(dim[2]))
            known = places[dim] = steps.setdefault(step, first + len(steps))
        return known

    where = {dim: places[dim] if dim in places else place(dim) for dim in different}
    results = tuple([where[dim] for dim in wanted])
    if len(steps) > MAX_STEPS:
        raise ArtifactError(f"the dims have {len(steps)} different sub-expressions; {MAX_STEPS} is the most")
    return CompiledDims(tuple(constants), tuple(names), tuple(steps), results)


def _collect_leaves(dim: Dim, constants: dict[int, int], names: dict[str, int]) -> None:
    if isinstance(dim, tuple):
        _collect_leaves(dim[1], constants, names)
        _collect_leaves(dim[2], constants, names)
    elif isinstance(dim, str):
        names.setdefault(dim, len(names))
    else:
        constants.setdefault(dim, len(constants))


def symbols_of(dim: Dim) -> frozenset[str]:
    """The symbols that occur in a dim."""
    names: dict[str, int] = {}
    _collect_leaves(dim, {}, names)
    return frozenset(names)


def linear(dim: Dim) -> tuple[int, str, int] | None:
    """(stride, symbol, rest) of a dim that is ``stride * symbol + rest`` with a positive stride, else None."""
    found = _linear(dim)
    return None if found is None or found[1] is None or found[0] < 1 else (found[0], found[1], found[2])


def _linear(dim: Dim) -> tuple[int, str | None, int] | None:
    if isinstance(dim, int):
        return 0, None, dim
    if isinstance(dim, str):
        return 1, dim, 0
    name, a, b = dim[0], _linear(dim[1]), _linear(dim[2])
    if a is None or b is None:
        return None
    if name == "+" and (a[1] is None or b[1] is None or a[1] == b[1]):
        return a[0] + b[0], a[1] or b[1], a[2] + b[2]
    if name == "*" and (a[1] is None or b[1] is None):
        (factor, scaled) = (a[2], b) if a[1] is None else (b[2], a)
        return factor * scaled[0], scaled[1], factor * scaled[2]
    return None


def _shapes(values: Mapping[str, int]) -> str:
    return "the shapes of the inputs (" + ", ".join(f"{name} = {value}" for name, value in values.items()) + ")"
