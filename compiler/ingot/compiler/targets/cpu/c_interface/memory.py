"""Where temporaries lie in the arena of a library that runs without the Python runtime's allocator.

They are placed once, at compile time, for typical values of the symbolic dims and by the runtime's own allocator. What
is kept is the order: of two temporaries that are live together, which one lies below the other. At run time a temporary
begins where the highest of those below it ends, whatever the values are. So no two that are live together ever
overlap, sizes are as at compile time where the values are, and no search is left for the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingot.compiler.ir.dims import Dim, evaluate, symbols
from ingot.compiler.ir.lifetimes import lifetimes
from ingot.compiler.ir.program import Program, Storage
from ingot.runtime.memory import ALIGNMENT, Placer
from ingot.runtime.tables import MAX_SIZE

_TYPICAL = (1, 16, 128)  # values of symbols for which orders are tried and compared

Span = tuple[int, int]


@dataclass(frozen=True)
class Place:
    """A temporary of `size` bytes, a multiple of 64, that begins where the highest of those `below` it ends, or at 0.
    `below` are positions in the plan, all smaller than this one's."""

    storage: Storage
    size: Dim
    below: tuple[int, ...]


@dataclass(frozen=True)
class MemoryPlan:
    """The temporaries that steps touch, from the bottom of the arena to its top."""

    places: tuple[Place, ...]

    def ends(self, values: Mapping[str, int]) -> list[int]:
        """Where each ends for these values of the symbols, in bytes."""
        ends: list[int] = []
        for place in self.places:
            start = max((ends[index] for index in place.below), default=0)
            ends.append(start + evaluate(place.size, values))
        return ends

    def arena_bytes(self, values: Mapping[str, int]) -> int:
        """Bytes of the arena where the symbols have these values."""
        return max(self.ends(values), default=0)


def plan_memory(program: Program) -> MemoryPlan:
    """Places for all temporaries that steps touch; the others need no memory. Raises InputError where they need more
    memory than there are addresses."""
    live = lifetimes(program)
    touched = [storage for storage in program.of_kind("temp") if storage in live]
    sizes = [_rounded(byte_size(storage)) for storage in touched]
    placer = Placer([live[storage] for storage in touched])
    names = {name for size in sizes for name in symbols(size)}
    samples = [_values(names, program.ranges, typical) for typical in (_TYPICAL if names else _TYPICAL[:1])]
    best: tuple[float, MemoryPlan] | None = None
    least: list[int] = []
    plans: list[MemoryPlan] = []
    for values in samples:
        # A temporary without elements here may have some elsewhere: it needs a place of its own.
        typical = [max(evaluate(size, values), ALIGNMENT) for size in sizes]
        placement = placer.place(typical, limit=MAX_SIZE)
        least.append(max(placement.total, 1))
        plans.append(MemoryPlan(_order(touched, sizes, typical, placement.offsets, live)))
    for plan in plans:
        waste = sum(plan.arena_bytes(values) / bytes_ for values, bytes_ in zip(samples, least, strict=True))
        if best is None or waste < best[0]:
            best = waste, plan
    assert best is not None
    return best[1]


def byte_size(storage: Storage) -> Dim:
    """Bytes of a storage."""
    return storage.size * storage.dtype.bytes


def _rounded(size: Dim) -> Dim:
    return (size + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT


def _values(names: set[str], ranges: Mapping[str, Span], typical: int) -> dict[str, int]:
    bounds = {name: ranges.get(name, (0, typical)) for name in names}
    return {name: max(low, min(high, typical)) for name, (low, high) in bounds.items()}


def _order(
    storages: Sequence[Storage],
    sizes: Sequence[Dim],
    typical: Sequence[int],
    offsets: Sequence[int],
    live: Mapping[Storage, Span],
) -> tuple[Place, ...]:
    """The order in which temporaries lie at these offsets; of those below, only the ones directly below are kept."""
    order = sorted(range(len(storages)), key=lambda index: (offsets[index], index))
    places: list[Place] = []
    beneath: list[int] = []  # for each place a set of bits: all that lie below it, directly or not
    for index in order:
        first, last = live[storages[index]]
        below = [
            position
            for position, other in enumerate(order[: len(places)])
            if offsets[other] + typical[other] <= offsets[index]
            and live[storages[other]][0] <= last
            and first <= live[storages[other]][1]
        ]
        known = 0
        direct: list[int] = []
        for position in reversed(below):  # from the top, so that those further down are known already
            if not known >> position & 1:
                direct.append(position)
            known |= beneath[position] | 1 << position
        places.append(Place(storages[index], sizes[index], tuple(reversed(direct))))
        beneath.append(known)
    return tuple(places)
