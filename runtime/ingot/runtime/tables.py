"""The two long tables of a manifest, column by column: what the storages are, and what the argument words hold.

A model has hundreds or thousands of entries, and a session needs columns of them, not entries: written so, they are
read, checked and evaluated by a few operations on whole columns. The dims of a program are a table too, to which the
others refer by position. As sequences, the tables give entries one by one to whoever wants to look at them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, overload

from ingot.runtime.dims import INT64_MAX, MAX_STEPS, OPERATORS, Dim, DimTable
from ingot.runtime.dtypes import BY_NAME, DType, stored_dtype
from ingot.runtime.errors import ArtifactError
from ingot.runtime.memory import ALIGNMENT
from ingot.runtime.records import Record

MAX_SIZE: Final = 1 << 56
"""Bound of offsets and sizes that do not depend on shapes, in bytes."""
MAX_STEP: Final = 1 << 31

StorageKind: TypeAlias = Literal["input", "output", "weight", "temp", "status", "entropy"]
STORAGE_KINDS: Final[tuple[StorageKind, ...]] = ("input", "output", "weight", "temp", "status", "entropy")
INPUT, OUTPUT, WEIGHT, TEMP, STATUS, ENTROPY = range(6)
"""Positions in STORAGE_KINDS: the numbers of the column `kind`."""

VALUE: Final = -1
BLOCK: Final = -2
HOST: Final = -3
"""What stands in the column `storage` of an argument word that is no pointer."""

_Table: TypeAlias = dict[str, Any]

_STORED: Final = {name: dtype for name, dtype in BY_NAME.items() if stored_dtype(dtype) == dtype}
"""The element types of storages."""


class Storage(NamedTuple):
    """A buffer of `size` elements. A temp is `live` from its first step to its last, both included; a weight lies
    `offset` bytes into the weights member."""

    kind: StorageKind
    dtype: DType
    size: Dim
    live: tuple[int, int] | None = None
    offset: int | None = None


class Value(NamedTuple):
    """An argument word that holds the value of a dim."""

    dim: Dim


class Pointer(NamedTuple):
    """An argument word that holds the address of element `element` of storage number `storage`."""

    storage: int
    element: Dim


@dataclass(frozen=True, slots=True)
class Block:
    """The argument word that holds the address of the block of a lane's late storages (`ingot.runtime.late`)."""


@dataclass(frozen=True, slots=True)
class HostFunction:
    """The argument word that holds the address of the function that answers host calls (`ingot.runtime.callback`)."""


Argument: TypeAlias = Value | Pointer | Block | HostFunction


@dataclass(frozen=True, eq=False, slots=True)
class Storages(Sequence[Storage]):
    """Storages by number. `kind`, `dtype` and `size` [storages] are positions in STORAGE_KINDS, `dtypes` and `dims`;
    `live` [2 * temps] has the first and last step of each temp in turn, `offset` [weights] that of each weight in
    bytes, both in the order of the storages."""

    dtypes: tuple[DType, ...]
    dims: DimTable
    kind: Sequence[int]
    dtype: Sequence[int]
    size: Sequence[int]
    live: Sequence[int]
    offset: Sequence[int]

    @staticmethod
    def of(storages: Iterable[Storage]) -> Storages:
        """The table of these storages. Raises ArtifactError for a temp without `live` or a weight without `offset`."""
        entries = tuple(storages)
        dtypes = {each: i for i, each in enumerate(dict.fromkeys(s.dtype for s in entries))}
        dims, size = DimTable.of(s.size for s in entries)
        for number, each in enumerate(entries):
            if (each.live is None) == (each.kind == "temp") or (each.offset is None) == (each.kind == "weight"):
                raise ArtifactError(f"storage {number} is a {each.kind}: temps alone have lives, weights alone offsets")
        return Storages(
            tuple(dtypes),
            dims,
            [STORAGE_KINDS.index(s.kind) for s in entries],
            [dtypes[s.dtype] for s in entries],
            size,
            [step for s in entries if s.live is not None for step in s.live],
            [s.offset for s in entries if s.offset is not None],
        )

    @staticmethod
    def parse(value: object, dims: DimTable) -> Storages:
        """The table that decoded JSON stands for, whose sizes are among `dims`. Raises ArtifactError for one that is
        not valid in itself."""
        table = Record("storages", value)
        names = table.sequence("dtypes")
        if unknown := [name for name in names if not isinstance(name, str) or name not in _STORED]:
            raise ArtifactError(f"storages.dtypes has {str(unknown[0])[:40]!r}; known are {', '.join(_STORED)}")
        kinds = table.integers("kind", 0, len(STORAGE_KINDS) - 1)
        types = table.integers("dtype", 0, len(names) - 1)
        sizes = table.integers("size", 0, len(dims) - 1)
        lives = table.integers("live", 0, MAX_STEP)
        offsets = table.integers("offset", 0, MAX_SIZE)
        table.end()
        if not len(kinds) == len(types) == len(sizes):
            raise ArtifactError("storages: the columns kind, dtype and size are not of one length")
        if len(lives) != 2 * kinds.count(TEMP) or any(map(operator.gt, lives[::2], lives[1::2])):
            raise ArtifactError("storages.live is not a first and last step for each temp")
        if len(offsets) != kinds.count(WEIGHT) or any(offset % ALIGNMENT for offset in offsets):
            raise ArtifactError(f"storages.offset is not a multiple of {ALIGNMENT} for each weight")
        constants = {number: dims.constant(number) for number in set(sizes)}
        if wrong := [size for size in constants.values() if size is not None and not 0 <= size <= MAX_SIZE]:
            raise ArtifactError(f"storages.size: a size is {wrong[0]}")
        if None in {constants[size] for size, kind in zip(sizes, kinds, strict=True) if kind == WEIGHT}:
            raise ArtifactError("storages: a weight's size must be constant")
        dtypes = tuple([_STORED[cast("str", name)] for name in names])
        for kind, dtype, size in ((STATUS, "i64", 1), (ENTROPY, "u64", 2)):
            if count := kinds.count(kind):
                number = kinds.index(kind)
                if count > 1:
                    raise ArtifactError(f"there are two {STORAGE_KINDS[kind]} storages")
                if dtypes[types[number]].name != dtype or dims.constant(sizes[number]) != size:
                    raise ArtifactError(f"storages: the {STORAGE_KINDS[kind]} is not {size} {dtype}")
        return Storages(dtypes, dims, kinds, types, sizes, lives, offsets)

    def encode(self, sizes: Sequence[int]) -> _Table:
        """What `parse` reads, with the numbers that the sizes have there."""
        return {
            "dtypes": [dtype.name for dtype in self.dtypes],
            "kind": self.kind,
            "dtype": self.dtype,
            "size": sizes,
            "live": self.live,
            "offset": self.offset,
        }

    def numbers(self, kind: int) -> list[int]:
        """The numbers of the storages of a kind, in order."""
        return [number for number, each in enumerate(self.kind) if each == kind]

    def weight_ends(self) -> list[int]:
        """Where each weight ends in the weights member, in bytes [weights]."""
        itemsizes = [dtype.bytes for dtype in self.dtypes]
        return [
            offset + (self.dims.constant(self.size[number]) or 0) * itemsizes[self.dtype[number]]
            for number, offset in zip(self.numbers(WEIGHT), self.offset, strict=True)
        ]

    @overload
    def __getitem__(self, index: int) -> Storage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Storage, ...]: ...
    def __getitem__(self, index: int | slice) -> Storage | tuple[Storage, ...]:
        return tuple(self)[index]

    def __iter__(self) -> Iterator[Storage]:
        lives, offsets = iter(self.live), iter(self.offset)
        for kind, dtype, size in zip(self.kind, self.dtype, self.size, strict=True):
            live = (next(lives), next(lives)) if kind == TEMP else None
            offset = next(offsets) if kind == WEIGHT else None
            yield Storage(STORAGE_KINDS[kind], self.dtypes[dtype], self.dims[size], live, offset)

    def __len__(self) -> int:
        return len(self.kind)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storages) and tuple(self) == tuple(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]


@dataclass(frozen=True, eq=False, slots=True)
class Arguments(Sequence[Argument]):
    """Argument words in order. `dim` [words] are positions in `dims`: of the value, or of the element pointed to;
    `storage` [words] has the number of the storage pointed into, VALUE, BLOCK or HOST."""

    dims: DimTable
    dim: Sequence[int]
    storage: Sequence[int]

    @staticmethod
    def of(words: Iterable[Argument]) -> Arguments:
        """The table of these words."""
        pairs: list[tuple[int, Dim]] = []
        for word in words:
            match word:
                case Value(dim):
                    pairs.append((VALUE, dim))
                case Pointer(storage, element):
                    pairs.append((storage, element))
                case Block():
                    pairs.append((BLOCK, 0))
                case HostFunction():
                    pairs.append((HOST, 0))
        dims, dim = DimTable.of(dim for _, dim in pairs)
        return Arguments(dims, dim, [at for at, _ in pairs])

    @staticmethod
    def parse(value: object, dims: DimTable, storages: int) -> Arguments:
        """The table that decoded JSON stands for, whose words have values among `dims` and point into so many storages.
        Raises ArtifactError."""
        table = Record("args", value)
        dim = table.integers("dim", 0, len(dims) - 1)
        storage = table.integers("storage", HOST, storages - 1)
        table.end()
        if len(dim) != len(storage):
            raise ArtifactError("args: the columns dim and storage are not of one length")
        return Arguments(dims, dim, storage)

    def encode(self, dims: Sequence[int]) -> _Table:
        """What `parse` reads, with the numbers that the words' dims have there."""
        return {"dim": dims, "storage": self.storage}

    def numbers(self, storage: int) -> list[int]:
        """The numbers of the words with this in the column `storage`, in order."""
        return [number for number, each in enumerate(self.storage) if each == storage]

    @overload
    def __getitem__(self, index: int) -> Argument: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Argument, ...]: ...
    def __getitem__(self, index: int | slice) -> Argument | tuple[Argument, ...]:
        return tuple(self)[index]

    def __iter__(self) -> Iterator[Argument]:
        for dim, storage in zip(self.dim, self.storage, strict=True):
            if storage == BLOCK:
                yield Block()
            elif storage == HOST:
                yield HostFunction()
            else:
                yield Value(self.dims[dim]) if storage == VALUE else Pointer(storage, self.dims[dim])

    def __len__(self) -> int:
        return len(self.dim)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arguments) and tuple(self) == tuple(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def parse_dim_table(value: object, symbols: Sequence[str]) -> DimTable:
    """The dims over all of `symbols` that decoded JSON stands for. Raises ArtifactError for anything else."""
    table = Record("dims", value)
    constants = table.integers("constants", -INT64_MAX, INT64_MAX)
    operators = table.integers("operators", 0, len(OPERATORS) - 1)
    left = table.integers("left", 0, INT64_MAX)
    right = table.integers("right", 0, INT64_MAX)
    table.end()
    if not len(operators) == len(left) == len(right) <= MAX_STEPS:
        raise ArtifactError(f"dims: operators, left and right are not of one length, or have over {MAX_STEPS} entries")
    dims = DimTable(symbols, constants, operators, left, right)
    dims.check()
    return dims


def encode_dim_table(dims: DimTable) -> _Table:
    """What `parse_dim_table` reads, given the table's symbols."""
    return {"constants": dims.constants, "operators": dims.operators, "left": dims.left, "right": dims.right}
