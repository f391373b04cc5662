"""Integer expressions over a model's symbolic dims, as the artifact's manifest writes them.

A dim is an int, a symbol's name, or ``[operator, left, right]`` with an operator of ``+ * // % max min``; division and
modulo round down, as in Python. `parse_dim` checks one that comes from a file. A `DimTable` holds many, as a list of
operations on what stands before them, so that equal parts are there, and are computed, once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias, cast, overload

from ingot.runtime.errors import ArtifactError, InputError

Dim: TypeAlias = "int | str | tuple[str, Dim, Dim]"

INT64_MAX: Final = 2**63 - 1
UNBOUNDED: Final = 2**62
"""The upper end of a symbol's range where the model gives none; no dim is larger."""
MAX_DEPTH: Final = 128
"""Operators within operators that one dim may have."""
MAX_NODES: Final = 1 << 16
"""Operators, numbers and symbols that one dim may have, written out."""
MAX_STEPS: Final = 1 << 20
"""Different sub-expressions that one artifact may have."""

_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "*": operator.mul, "//": operator.floordiv, "%": operator.mod, "max": max, "min": min,
}  # fmt: skip
OPERATORS: Final = MappingProxyType(_FUNCTIONS)
_NAMES: Final = tuple(_FUNCTIONS)
_BY_NUMBER: Final = tuple(_FUNCTIONS.values())
_NUMBERS: Final = {name: number for number, name in enumerate(_NAMES)}


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


class DimTable(Sequence[Dim]):
    """Dims by number: first `symbols`, then `constants`, then operations. Operation k applies operator `operators[k]`,
    by its position in OPERATORS, to the dims with the numbers `left[k]` and `right[k]`, which are lower than its own.

    Equal parts of what it was made from are one dim.
    """

    __slots__ = ("_dims", "constants", "first", "left", "operators", "right", "symbols")

    def __init__(
        self,
        symbols: Sequence[str] = (),
        constants: Sequence[int] = (),
        operators: Sequence[int] = (),
        left: Sequence[int] = (),
        right: Sequence[int] = (),
    ) -> None:
        self.symbols = symbols
        self.constants = constants
        self.operators = operators
        self.left = left
        self.right = right
        self.first: int = len(symbols) + len(constants)
        """The number of the first operation."""
        self._dims: list[Dim] | None = None

    @staticmethod
    def of(dims: Iterable[Dim], symbols: Iterable[str] = ()) -> tuple[DimTable, list[int]]:
        """A table with these dims, and the number of each; `symbols` come first among its symbols. Raises ArtifactError
        for more than MAX_STEPS different sub-expressions."""
        wanted = list(dims)
        different = dict.fromkeys(wanted)
        constants: dict[int, int] = {}
        names = dict.fromkeys(symbols, 0)
        for dim in different:
            _collect_leaves(dim, constants, names)
        first = len(names) + len(constants)
        places: dict[Dim, int] = {leaf: number for number, leaf in enumerate((*names, *constants))}
        steps: dict[tuple[int, int, int], int] = {}

        def place(dim: Dim) -> int:
            known = places.get(dim)
            if known is None:
                assert isinstance(dim, tuple)
                step = (_NUMBERS[dim[0]], place(dim[1]), place(dim[2]))
                known = places[dim] = steps.setdefault(step, first + len(steps))
            return known

        where = {dim: place(dim) for dim in different}
        if len(steps) > MAX_STEPS:
            raise ArtifactError(f"the dims have {len(steps)} different sub-expressions; {MAX_STEPS} is the most")
        operators, left, right = zip(*steps, strict=True) if steps else ((), (), ())
        return DimTable(tuple(names), tuple(constants), operators, left, right), [where[dim] for dim in wanted]

    def check(self) -> None:
        """Raises ArtifactError where an operation is not on dims before it, and for dims with more than MAX_NODES parts
        or deeper than MAX_DEPTH."""
        depths, nodes = [0] * self.first, [1] * self.first
        try:
            for left, right in zip(self.left, self.right, strict=True):
                depth, other = depths[left], depths[right]
                depth = (depth if depth > other else other) + 1
                parts = nodes[left] + nodes[right] + 1
                if depth > MAX_DEPTH or parts > MAX_NODES:
                    raise ArtifactError(
                        f"dim {len(depths)} is nested more than {MAX_DEPTH} levels deep or has over {MAX_NODES} parts"
                    )
                depths.append(depth)
                nodes.append(parts)
        except IndexError:
            raise ArtifactError(f"dim {len(depths)} is not made of those before it") from None

    def constant(self, number: int) -> int | None:
        """The value of a dim that is a number, None for others."""
        place = number - len(self.symbols)
        return self.constants[place] if 0 <= place < len(self.constants) else None

    def evaluate(self, values: Mapping[str, int]) -> list[int]:
        """The values of all dims, by number.

        Raises InputError for a symbol without a value, a division by zero, or a result that needs more than 64 bits:
        the shapes given are then not ones that the model can be run with.
        """
        try:
            memory = [values[name] for name in self.symbols]
        except KeyError as error:
            raise InputError(
                f"the symbolic dim {error.args[0]!r} has no value; it must follow from the inputs' shapes"
            ) from None
        memory += self.constants
        for number, left, right in zip(self.operators, self.left, self.right, strict=True):
            a, b = memory[left], memory[right]
            try:
                result = _BY_NUMBER[number](a, b)
            except ZeroDivisionError:
                raise InputError(f"{_shapes(values)} lead to a division by zero in the model's shapes") from None
            if not -INT64_MAX <= result <= INT64_MAX:
                raise InputError(f"{_shapes(values)} lead to sizes beyond 64 bits ({a} {_NAMES[number]} {b})")
            memory.append(result)
        return memory

    def mentions(self, symbols: Collection[str]) -> list[bool]:
        """For each dim, whether any of `symbols` occurs in it."""
        found = [name in symbols for name in self.symbols] + [False] * len(self.constants)
        for left, right in zip(self.left, self.right, strict=True):
            found.append(found[left] or found[right])
        return found

    def without(self, symbols: Collection[str]) -> DimTable:
        """The table with 0 for each dim in which any of `symbols` occurs. It is to be evaluated with 0 for these."""
        found = self.mentions(symbols)
        if True not in found:
            return self
        zero, times = found.index(True), _NAMES.index("*")  # symbols come first
        rest = found[self.first :]
        columns = ((times, self.operators), (zero, self.left), (zero, self.right))
        changed = ([own if is_found else each for is_found, each in zip(rest, c, strict=True)] for own, c in columns)
        return DimTable(self.symbols, self.constants, *changed)

    @overload
    def __getitem__(self, index: int) -> Dim: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Dim]: ...
    def __getitem__(self, index: int | slice) -> Dim | Sequence[Dim]:
        if self._dims is None:
            dims: list[Dim] = [*self.symbols, *self.constants]
            for number, left, right in zip(self.operators, self.left, self.right, strict=True):
                dims.append((_NAMES[number], dims[left], dims[right]))
            self._dims = dims
        return self._dims[index]

    def __len__(self) -> int:
        return self.first + len(self.operators)


@dataclass(frozen=True, eq=False, slots=True)
class CompiledDims(Sequence[Dim]):
    """Dims ready for evaluation: those of a table that have these `numbers`."""

    table: DimTable
    numbers: Sequence[int]

    def evaluate(self, values: Mapping[str, int]) -> list[int]:
        """The dims' values, in order; raises as `DimTable.evaluate` does."""
        memory = self.table.evaluate(values)
        return [memory[number] for number in self.numbers]

    @overload
    def __getitem__(self, index: int) -> Dim: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Dim]: ...
    def __getitem__(self, index: int | slice) -> Dim | Sequence[Dim]:
        if isinstance(index, slice):
            return [self.table[number] for number in self.numbers[index]]
        return self.table[self.numbers[index]]

    def __len__(self) -> int:
        return len(self.numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompiledDims) and list(self) == list(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def compile_dims(dims: Iterable[Dim]) -> CompiledDims:
    """Prepare dims for evaluation. Raises ArtifactError for more than MAX_STEPS different sub-expressions."""
    return CompiledDims(*DimTable.of(dims))


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
