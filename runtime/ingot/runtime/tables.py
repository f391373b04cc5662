"""The two long tables of a manifest, column by column: what the storages are, and what the argument words hold.

A model has hundreds or thousands of entries, and a session needs columns of them, not entries: written so, they are
read, checked and evaluated by a few operations on arrays. Each table says its different dims once, in `dims`, and
refers to them by position. As sequences, the tables give entries one by one to whoever wants to look at them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.dims import Dim, parse_dims
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
    `live` [temps, 2] has the first and last step of each temp, `offset` [weights] that of each weight in bytes, both in
    the order of the storages. All are i64."""

    dtypes: tuple[DType, ...]
    dims: tuple[Dim, ...]
    kind: NDArray[np.int64]
    dtype: NDArray[np.int64]
    size: NDArray[np.int64]
    live: NDArray[np.int64]
    offset: NDArray[np.int64]

    @staticmethod
    def of(storages: Iterable[Storage]) -> Storages:
        """The table of these storages. Raises ArtifactError for a temp without `live` or a weight without `offset`."""
        entries = tuple(storages)
        dtypes = {each: i for i, each in enumerate(dict.fromkeys(s.dtype for s in entries))}
        dims = {each: i for i, each in enumerate(dict.fromkeys(s.size for s in entries))}
        for number, each in enumerate(entries):
            if (each.live is None) == (each.kind == "temp") or (each.offset is None) == (each.kind == "weight"):
                raise ArtifactError(f"storage {number} is a {each.kind}: temps alone have lives, weights alone offsets")
        return Storages(
            tuple(dtypes),
            tuple(dims),
            _column(STORAGE_KINDS.index(s.kind) for s in entries),
            _column(dtypes[s.dtype] for s in entries),
            _column(dims[s.size] for s in entries),
            _column(step for s in entries if s.live is not None for step in s.live).reshape(-1, 2),
            _column(s.offset for s in entries if s.offset is not None),
        )

    @staticmethod
    def parse(value: object, symbols: Collection[str]) -> Storages:
        """The table that decoded JSON stands for. Raises ArtifactError for one that is not valid in itself."""
        table = Record("storages", value)
        names = table.sequence("dtypes")
        known = [name for name, dtype in BY_NAME.items() if stored_dtype(dtype) == dtype]
        if unknown := [name for name in names if not isinstance(name, str) or name not in known]:
            raise ArtifactError(f"storages.dtypes has {str(unknown[0])[:40]!r}; known are {', '.join(known)}")
        dims = _dims(table, symbols)
        for dim in dims:
            if isinstance(dim, int) and not 0 <= dim <= MAX_SIZE:
                raise ArtifactError(f"storages.dims: a size is {dim}")
        kind = _integers(table, "kind", 0, len(STORAGE_KINDS) - 1)
        dtype = _integers(table, "dtype", 0, len(names) - 1)
        size = _integers(table, "size", 0, len(dims) - 1)
        live = _integers(table, "live", 0, MAX_STEP)
        offset = _integers(table, "offset", 0, MAX_SIZE)
        table.end()
        if not len(kind) == len(dtype) == len(size):
            raise ArtifactError("storages: the columns kind, dtype and size are not of one length")
        if len(live) != 2 * np.count_nonzero(kind == TEMP) or (live[::2] > live[1::2]).any():
            raise ArtifactError("storages.live is not a first and last step for each temp")
        if len(offset) != np.count_nonzero(kind == WEIGHT) or (offset % ALIGNMENT).any():
            raise ArtifactError(f"storages.offset is not a multiple of {ALIGNMENT} for each weight")
        found = Storages(
            tuple(BY_NAME[cast("str", name)] for name in names), dims, kind, dtype, size, live.reshape(-1, 2), offset
        )
        constant = np.array([isinstance(dim, int) for dim in dims], np.bool_)
        if not constant[size[kind == WEIGHT]].all():
            raise ArtifactError("storages: a weight's size must be constant")
        status = found.numbers(STATUS)
        if len(status) > 1:
            raise ArtifactError("there are two status storages")
        if len(status) and (found.dtypes[dtype[status[0]]].name != "i64" or dims[size[status[0]]] != 1):
            raise ArtifactError("storages: the status is one i64")
        entropy = found.numbers(ENTROPY)
        if len(entropy) > 1:
            raise ArtifactError("there are two entropy storages")
        if len(entropy) and (found.dtypes[dtype[entropy[0]]].name != "u64" or dims[size[entropy[0]]] != 2):
            raise ArtifactError("storages: the entropy is two u64")
        return found

    def encode(self) -> _Table:
        """What `parse` reads."""
        return {
            "dtypes": [dtype.name for dtype in self.dtypes],
            "dims": self.dims,
            "kind": self.kind.tolist(),
            "dtype": self.dtype.tolist(),
            "size": self.size.tolist(),
            "live": self.live.reshape(-1).tolist(),
            "offset": self.offset.tolist(),
        }

    def numbers(self, kind: int) -> NDArray[np.intp]:
        """The numbers of the storages of a kind, in order."""
        return np.flatnonzero(self.kind == kind)

    def itemsizes(self) -> NDArray[np.int64]:
        """Bytes of an element of each storage [storages]."""
        return np.array([dtype.bytes for dtype in self.dtypes], np.int64)[self.dtype]

    def weight_ends(self) -> NDArray[np.int64]:
        """Where each weight ends in the weights member, in bytes [weights]."""
        weights = self.numbers(WEIGHT)
        sizes = np.array([dim if isinstance(dim, int) else 0 for dim in self.dims], np.int64)[self.size[weights]]
        return self.offset + sizes * self.itemsizes()[weights]

    @overload
    def __getitem__(self, index: int) -> Storage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Storage, ...]: ...
    def __getitem__(self, index: int | slice) -> Storage | tuple[Storage, ...]:
        return tuple(self)[index]

    def __iter__(self) -> Iterator[Storage]:
        lives, offsets = iter(self.live.tolist()), iter(self.offset.tolist())
        kinds: list[int] = self.kind.tolist()
        dtypes: list[int] = self.dtype.tolist()
        sizes: list[int] = self.size.tolist()
        for kind, dtype, size in zip(kinds, dtypes, sizes, strict=True):
            live = tuple(next(lives)) if kind == TEMP else None
            offset = next(offsets) if kind == WEIGHT else None
            yield Storage(STORAGE_KINDS[kind], self.dtypes[dtype], self.dims[size], live, offset)

    def __len__(self) -> int:
        return len(self.kind)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storages) and self.encode() == other.encode()

    __hash__ = None  # pyright: ignore[reportAssignmentType]


@dataclass(frozen=True, eq=False, slots=True)
class Arguments(Sequence[Argument]):
    """Argument words in order. `dim` [words] are positions in `dims`: of the value, or of the element pointed to;
    `storage` [words] has the number of the storage pointed into, VALUE, BLOCK or HOST. Both are i64."""

    dims: tuple[Dim, ...]
    dim: NDArray[np.int64]
    storage: NDArray[np.int64]

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
        dims = {each: i for i, each in enumerate(dict.fromkeys(dim for _, dim in pairs))}
        return Arguments(tuple(dims), _column(dims[dim] for _, dim in pairs), _column(at for at, _ in pairs))

    @staticmethod
    def parse(value: object, symbols: Collection[str], storages: int) -> Arguments:
        """The table that decoded JSON stands for, whose words point into so many storages. Raises ArtifactError."""
        table = Record("args", value)
        dims = _dims(table, symbols)
        dim = _integers(table, "dim", 0, len(dims) - 1)
        storage = _integers(table, "storage", HOST, storages - 1)
        table.end()
        if len(dim) != len(storage):
            raise ArtifactError("args: the columns dim and storage are not of one length")
        return Arguments(dims, dim, storage)

    def encode(self) -> _Table:
        """What `parse` reads."""
        return {"dims": self.dims, "dim": self.dim.tolist(), "storage": self.storage.tolist()}

    @overload
    def __getitem__(self, index: int) -> Argument: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Argument, ...]: ...
    def __getitem__(self, index: int | slice) -> Argument | tuple[Argument, ...]:
        return tuple(self)[index]

    def __iter__(self) -> Iterator[Argument]:
        dims: list[int] = self.dim.tolist()
        storages: list[int] = self.storage.tolist()
        for dim, storage in zip(dims, storages, strict=True):
            if storage == BLOCK:
                yield Block()
            elif storage == HOST:
                yield HostFunction()
            else:
                yield Value(self.dims[dim]) if storage == VALUE else Pointer(storage, self.dims[dim])

    def __len__(self) -> int:
        return len(self.dim)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arguments) and self.encode() == other.encode()

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def _column(numbers: Iterable[int]) -> NDArray[np.int64]:
    return np.array(list(numbers), np.int64)


def _dims(table: Record, symbols: Collection[str]) -> tuple[Dim, ...]:
    dims = table.sequence("dims")
    try:
        return parse_dims(dims, symbols)
    except ArtifactError as error:
        raise ArtifactError(f"{table.where}.dims: {error}") from None


def _integers(table: Record, key: str, low: int, high: int) -> NDArray[np.int64]:
    """A column; the check by type comes first, as numpy takes true for 1 and reads numbers out of text."""
    items, where = table.sequence(key), f"{table.where}.{key}"
    if not set(map(type, items)) <= {int}:
        raise ArtifactError(f"{where} is not an array of integers")
    numbers = cast("list[int]", items)
    if numbers and not low <= min(numbers) <= max(numbers) <= high:
        index = next(i for i, number in enumerate(numbers) if not low <= number <= high)
        raise ArtifactError(f"{where}[{index}] is {str(numbers[index])[:40]}, which is not in {low} to {high}")
    return np.array(numbers, np.int64)
