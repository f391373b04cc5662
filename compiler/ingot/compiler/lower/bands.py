"""Chains of launches that run band by band of their rows, so that what lies between them stays in a cache.

Launch by launch a tensor that no second-level cache holds goes out to the next one and comes back. Where the launches
of a chain can be cut into parts of some rows (`row_parts`), they take turns instead: some rows of the first, then what
the second can make of them, and so on. What lies between two launches of a chain and is used nowhere else shrinks to
the rows that are still needed, those that windows of the next band overlap included: nothing is computed twice. A band
writes behind what is kept of the one before; where there is no room left, that is copied to the beginning.

Which iterations of a launch must have been done for some of another follows from the elements that they touch, and
nothing else: the mechanism knows neither convolutions nor images. Each part of a launch is one as before, with chunks
that do not depend on the number of threads: neither do results.

A model of bytes and caches says which chains are worth it, and in how many bands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.loops import Axis, For, Kernel
from ingot.compiler.ir.program import Argument, Bind, Branch, Host, Launch, Program, Repeat, Step, Stop, Storage
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.nest import KernelBuilder
from ingot.compiler.lower.row_parts import Rows, Touch
from ingot.compiler.lower.views import View

BANDS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56)
MOST = 64  # bands
TRIED = 6  # numbers of bands for one chain
LONGEST = 12  # launches of a chain
LARGE = 0.5  # of the second-level cache: what is smaller between two launches stays there by itself
LAUNCH = 600  # cycles that a launch more costs
LEAST_GAIN = 0.05  # of the cycles of a chain: less is not worth the kernels that are compiled for it,
LEAST_CYCLES = 15_000  # nor are fewer than these
LINE = 16  # elements: what is kept moves by whole cache lines


def in_bands(program: Program, machine: Machine) -> Program:
    """`program` with chains of launches in bands where `machine` is expected to run faster so."""
    search = _Search(machine, _uses(program.steps))
    steps = search.steps(program.steps)
    if not search.shrunk:
        return program
    storages = tuple(search.shrunk.get(s, s) for s in program.storages)
    return replace(program, storages=storages, steps=steps)


def _uses(steps: Iterable[Step]) -> Counter[Storage]:
    """How many steps use a storage; those that are no launches count twice, so that it is in no chain alone."""
    found: Counter[Storage] = Counter()
    for step in steps:
        match step:
            case Launch(buffers=buffers):
                found.update({argument.storage for argument in buffers})
            case Branch(condition=condition, then=then, otherwise=otherwise):
                found[condition.storage] += 2
                found.update(_uses(then))
                found.update(_uses(otherwise))
            case Repeat(counter=counter, trip=trip, condition=condition, body=body):
                found.update({a.storage: 2 for a in (counter, trip, condition) if a is not None})
                found.update(_uses(body))
            case Bind(value=value):
                found[value.storage] += 2
            case Host(operands=operands, results=results):
                found.update({tensor.storage: 2 for tensor in (*operands, *results)})
            case Stop():
                pass
    return found


@dataclass(frozen=True)
class _Window:
    """Where the rows of a storage lie that are needed: of `size` elements, for each band the element of the whole
    storage that is the first here, and how many elements from which one on are brought there from the band before."""

    size: int
    firsts: tuple[int, ...]
    kept: tuple[tuple[int, int], ...]

    @property
    def copied(self) -> int:
        """Elements that are copied in all."""
        return sum(count for _, count in self.kept)


class _Chain:
    """Launches that may run band by band."""

    def __init__(self, parts: Sequence[Rows], uses: Mapping[Storage, int]) -> None:
        self.parts = parts
        self.touches: dict[Storage, list[tuple[int, Touch]]] = {}
        for i, rows in enumerate(parts):
            for touch in rows.touches:
                self.touches.setdefault(touch.storage, []).append((i, touch))
        self.inner = [storage for storage in self.touches if self._is_inner(storage, uses)]
        self.sizes = [sum(rows.bytes_of(touch) for touch in rows.touches) for rows in parts]
        self.edges = list(self._edges())
        producers = {before for before, _, _, _ in self.edges}
        self.last = [i for i in range(len(parts)) if i not in producers]

    def _is_inner(self, storage: Storage, uses: Mapping[Storage, int]) -> bool:
        """Whether a storage is used in the chain alone, and moves on from row to row in all of it."""
        touches = self.touches[storage]
        alone = uses[storage] == len({i for i, _ in touches})
        return storage.kind == "temp" and alone and all(t.stride > 0 for _, t in touches) and touches[0][1].writes

    def _edges(self) -> Iterator[tuple[int, int, Touch, Touch]]:
        """(writer, user, what the writer touches, what the user touches) for launches of which the second uses, or
        writes again, what the first writes."""
        for touches in self.touches.values():
            for i, touch in touches:
                if touch.writes:
                    for j, other in touches:
                        if j > i:
                            yield i, j, touch, other

    @property
    def is_ordered(self) -> bool:
        """Whether no launch writes what an earlier one reads."""
        return all(
            not (other.writes and not touch.writes and j > i)
            for touches in self.touches.values()
            for i, touch in touches
            for j, other in touches
        )

    def progress(self, bands: int) -> list[list[int]]:
        """For each band how many rows of each launch are done after it: no more than needed."""
        into: dict[int, list[tuple[int, Touch, Touch]]] = {}
        for before, after, touch, other in self.edges:
            into.setdefault(before, []).append((after, touch, other))
        found: list[list[int]] = []
        for band in range(1, bands + 1):
            done = [0] * len(self.parts)
            for i in range(len(self.parts) - 1, -1, -1):
                extent = self.parts[i].extent
                if band == bands:
                    done[i] = extent
                elif i in into:
                    done[i] = max(_needed(done[after], touch, other, extent) for after, touch, other in into[i])
                else:
                    done[i] = min(extent, band * -(-extent // bands))
            found.append(done)
        return found

    def window(self, storage: Storage, progress: Sequence[Sequence[int]]) -> _Window | None:
        """What of an inner storage is needed at a time; None where that is as much as all of it."""
        touches = self.touches[storage]
        spans: list[tuple[int, int, int]] = []  # elements that matter from, of the bands before to, with this one to
        before = [0] * len(self.parts)
        end = 0
        for done in progress:
            starts = [t.stride * before[i] + t.low for i, t in touches if before[i] < self.parts[i].extent]
            ends = [t.stride * (done[i] - 1) + t.high + 1 for i, t in touches if done[i] > before[i]]
            begin = min(starts, default=end)
            spans.append((begin, end, max((end, *ends))))
            before, end = list(done), spans[-1][2]
        largest = max(end - begin for begin, _, end in spans)
        kept = max(max(0, old - begin) for begin, old, _ in spans)
        size = largest + kept + LINE
        if not isinstance(storage.size, int) or size >= storage.size:
            return None
        first = spans[0][0]
        firsts: list[int] = []
        moved: list[tuple[int, int]] = []
        for begin, old, end in spans:
            count = 0
            if end - first > size:
                first, count = begin - (begin - first) % LINE, max(0, old - begin)
            firsts.append(first)
            moved.append((begin, count))
        return _Window(size, tuple(firsts), tuple(moved))


def _needed(done: int, touch: Touch, other: Touch, extent: int) -> int:
    """Rows of a launch that writes `touch` without which `done` rows of one with `other` cannot run."""
    if not done:
        return 0
    reach = other.stride * (done - 1) + other.high - touch.low
    if reach < 0:
        return 0
    return extent if touch.stride == 0 else min(extent, reach // touch.stride + 1)


@dataclass(frozen=True)
class _Plan:
    """A chain in bands: rows that are done after each, windows of the storages that shrink, and the cycles saved."""

    chain: _Chain
    progress: list[list[int]]
    windows: dict[Storage, _Window]
    gain: float


@dataclass
class _Search:
    """The search for chains; `shrunk` has the storages that became smaller."""

    machine: Machine
    uses: Mapping[Storage, int]
    shrunk: dict[Storage, Storage] = field(default_factory=dict[Storage, Storage])

    @cached_property
    def large(self) -> float:
        """Bytes that do not stay in the second-level cache by themselves."""
        return LARGE * self.machine.l2

    def steps(self, steps: Sequence[Step]) -> tuple[Step, ...]:
        """`steps` with chains in bands."""
        made: list[Step] = []
        run: list[Rows] = []

        def finish() -> None:
            made.extend(self._run(run))
            run.clear()

        for step in steps:
            rows = Rows.of(step) if isinstance(step, Launch) else None
            if rows is not None:
                run.append(rows)
                continue
            finish()
            match step:
                case Branch(then=then, otherwise=otherwise):
                    made.append(replace(step, then=self.steps(then), otherwise=self.steps(otherwise)))
                case Repeat(body=body):
                    made.append(replace(step, body=self.steps(body)))
                case _:
                    made.append(step)
        finish()
        return tuple(made)

    def _run(self, run: Sequence[Rows]) -> list[Step]:
        """Launches one after the other that can be cut: the chains in them that save most together."""
        count = len(run)
        crossing = self._crossing(run)
        best, came = [0.0] * (count + 1), list[tuple[int, _Plan] | None]([None] * (count + 1))
        for end in range(1, count + 1):
            best[end] = best[end - 1]
            for begin in range(end - 2, max(-1, end - 1 - LONGEST), -1):
                if crossing[begin] <= self.large:
                    break
                plan = self._plan(run[begin:end], best[end] - best[begin])
                if plan is not None:
                    best[end], came[end] = best[begin] + plan.gain, (begin, plan)
        found: list[list[Step]] = []
        place = count
        while place:
            chosen = came[place]
            if chosen is None:
                place -= 1
                found.append([run[place].launch])
            else:
                place = chosen[0]
                found.append(self._banded(chosen[1]))
        return [step for steps in reversed(found) for step in steps]

    def _crossing(self, run: Sequence[Rows]) -> list[int]:
        """For each launch the bytes of the largest temp that is written up to it and read behind it."""
        first: dict[Storage, int] = {}
        last: dict[Storage, int] = {}
        for i, rows in enumerate(run):
            for touch in rows.touches:
                if touch.writes:
                    first.setdefault(touch.storage, i)
                last[touch.storage] = i
        largest = [0] * len(run)
        for storage, begin in first.items():
            if storage.kind == "temp":
                for i in range(begin, last[storage]):
                    largest[i] = max(largest[i], _bytes(storage))
        return largest

    def _plan(self, parts: Sequence[Rows], floor: float) -> _Plan | None:
        """A chain in the best number of bands; None where it saves no more than `floor` cycles."""
        chain = _Chain(parts, self.uses)
        moved = {storage: self._moved(chain, storage) for storage in chain.inner}
        least = 1 / self.machine.l2_rate
        most = sum(size * (cycles - least) for each in moved.values() for size, cycles in each)
        if most <= floor + len(parts) * LAUNCH or not chain.is_ordered:
            return None
        whole = sum(map(self._arithmetic, parts)) + sum(n * cycles for each in moved.values() for n, cycles in each)
        for numbers in _numbers([parts[i].extent for i in chain.last]):
            best: _Plan | None = None
            for bands in numbers:
                progress = chain.progress(bands)
                windows = {s: w for s in chain.inner if (w := chain.window(s, progress)) is not None}
                near = self.machine.cycles_a_byte(self._footprint(chain, windows, bands))
                saved = sum(size * max(0.0, cycles - near) for s in windows for size, cycles in moved[s])
                gain = saved - self._spent(chain, progress, windows)
                if gain > (max(floor, LEAST_GAIN * whole, LEAST_CYCLES) if best is None else best.gain):
                    best = _Plan(chain, progress, windows, gain)
                elif best is not None and near == least:
                    break
            if best is not None:
                return best
        return None

    def _footprint(self, chain: _Chain, windows: Mapping[Storage, _Window], bands: int) -> float:
        """Bytes that a band touches, but for weights: they are read in order, while they are multiplied."""
        total = 0.0
        for storage, touches in chain.touches.items():
            if storage in windows:
                total += windows[storage].size * storage.dtype.bytes
            else:
                largest = max(chain.parts[i].bytes_of(touch) for i, touch in touches)
                total += min(_bytes(storage), largest) / bands
        return total

    def _arithmetic(self, rows: Rows) -> float:
        """Cycles of the arithmetic of a launch."""
        flops = rows.launch.kernel.flops
        return flops / 2 / self.machine.fma_rate / self.machine.lanes_f32 if isinstance(flops, int) else 0.0

    def _moved(self, chain: _Chain, storage: Storage) -> list[tuple[int, float]]:
        """Bytes that launches move of a storage where each runs as a whole, with the cycles that each takes."""
        found: list[tuple[int, float]] = []
        for i, touch in chain.touches[storage]:
            if not self._is_border(chain, i, touch):
                # What is written is read first.
                size = chain.parts[i].bytes_of(touch) * (2 if touch.writes else 1)
                found.append((size, self.machine.cycles_a_byte(chain.sizes[i])))
        return found

    def _is_border(self, chain: _Chain, i: int, touch: Touch) -> bool:
        """Whether a launch that writes is followed by another that writes the same elements, most likely all but a
        border."""
        return touch.writes and any(j > i and other.writes for j, other in chain.touches[touch.storage])

    def _spent(
        self, chain: _Chain, progress: Sequence[Sequence[int]], windows: Mapping[Storage, _Window]
    ) -> float:
        """Cycles for launches, copies and weights that are read again."""
        before = [0] * len(chain.parts)
        launches = -len(chain.parts)
        for done in progress:
            launches += sum(a < b for a, b in zip(before, done, strict=True))
            before = done
        launches += sum(1 for w in windows.values() for _, count in w.kept if count)
        copied = sum(2 * w.copied * s.dtype.bytes for s, w in windows.items())
        read = (len(progress) - 1) * sum(w for w in map(_weights, chain.parts) if w > self.large)
        return launches * LAUNCH + copied / self.machine.l2_rate + read / self.machine.rate(read)

    def _banded(self, plan: _Plan) -> list[Step]:
        """The launches of a chain in bands."""
        kernels: dict[tuple[int, int], Kernel] = {}
        for storage, window in plan.windows.items():
            self.shrunk[storage] = replace(storage, size=window.size)
        steps: list[Step] = []
        before = [0] * len(plan.chain.parts)
        for band, done in enumerate(plan.progress):
            moved: dict[Storage, Argument] = {}
            for storage, window in plan.windows.items():
                small = self.shrunk[storage]
                first, (begin, count) = window.firsts[band], window.kept[band]
                moved[storage] = Argument(small, -first)
                if count:
                    steps.append(_keep(small, begin - window.firsts[band - 1], begin - first, count))
            for i, rows in enumerate(plan.chain.parts):
                if count := done[i] - before[i]:
                    if (i, count) not in kernels:
                        kernels[i, count] = rows.kernel(count, self.machine)
                    steps.append(rows.part(kernels[i, count], before[i], moved))
            before = done
        return steps


def _numbers(extents: Sequence[int]) -> tuple[list[int], list[int]]:
    """Numbers of bands to try for what the last launches of a chain have of rows: those that cut them in equal parts,
    for which fewer kernels are needed, and the others."""
    fitting = sorted({*BANDS, *extents})
    fitting = [bands for bands in fitting if 1 < bands <= min(*extents, MOST)]
    equal = [bands for bands in fitting if all(extent % bands == 0 for extent in extents)]
    other = [bands for bands in fitting if bands not in equal]
    return equal[:: -(-len(equal) // TRIED) or 1], other[:: -(-len(other) // TRIED) or 1]


def _bytes(storage: Storage) -> int:
    return storage.size * storage.dtype.bytes if isinstance(storage.size, int) else 0


def _weights(rows: Rows) -> int:
    """Bytes of the weights of a launch."""
    return sum(_bytes(a.storage) for a in rows.launch.buffers if a.storage.kind == "weight")


def _keep(storage: Storage, source: int, target: int, count: int) -> Launch:
    """A copy of `count` elements within a storage, to a place before them that they do not reach."""
    build = KernelBuilder(f"keep_{storage.dtype.name}_rows{count}")
    place = symbol("_i")
    one = View(storage, (count,), (1,), source)
    other = View(storage, (count,), (1,), target)
    store = build.store(other, other.at([place]), build.load(one, one.at([place])))
    return build.launch((Axis("_point", 1),), (For("_i", count, (store,), "vector"),), origin=storage.origin)
