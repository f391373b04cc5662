"""Measuring schedules of one contraction group: the kernels that the model will have, in a program of their own.

The program runs every candidate in turn, and a profile of it many times, so that what disturbs the machine disturbs all
of them. Before each candidate it brings the caches into the state that the model leaves them in: where the model's
weights exceed the second-level cache, as many bytes are read (no more than evict the last cache), then the memory that
the kernels write is written, then the operands are, by a kernel as that of the layer before (which also makes their
zero borders). Weights are then where a model finds them, activations are near.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Constant, Graph, Input, Origin, Value
from ingot.compiler.ir.loops import Axis, Const
from ingot.compiler.ir.program import Launch, Program, Step, Storage
from ingot.compiler.ir.types import TensorType
from ingot.compiler.labels import Labels
from ingot.compiler.lower.contraction import Group
from ingot.compiler.lower.explain import ProductTemplate
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.nest import CHUNK, KernelBuilder
from ingot.compiler.lower.schedules import Decision, Schedule, Schedules
from ingot.compiler.lower.sparsity import Sparse
from ingot.compiler.lower.views import View
from ingot.compiler.lower.weight_forms import FAST, WeightForms
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.pointwise import Add, Cast
from ingot.compiler.ops.reduction import ReduceSum
from ingot.compiler.targets.cpu.target import CpuTarget
from ingot.compiler.targets.target import Compilation, Programs
from ingot.runtime.dtypes import DType, f32

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
GROUPS = 5  # of runs, of which each gives its least time: what else the machine does only adds
RUNS = (4, 15)  # at least, at most, in each group
SECONDS = 0.08  # of a group


@dataclass(frozen=True)
class Measured:
    """A candidate's kernels: what was decided, the contraction, and the least time of a launch of all of them in each
    group of runs, in microseconds."""

    decision: Decision
    template: ProductTemplate
    times: tuple[float, ...]

    @property
    def microseconds(self) -> float:
        """The time to quote."""
        return round(statistics.median(self.times), 3)

    def beats(self, other: Measured, gain: float) -> bool:
        """Whether it takes less than (1 - gain) of the other's time, as a rule and at best, and less in all groups but
        one."""
        faster = sum(mine < theirs for mine, theirs in zip(self.times, other.times, strict=True))
        rule, best = statistics.median(self.times), min(self.times)
        least = (1 - gain) * statistics.median(other.times), (1 - gain) * min(other.times)
        return rule < least[0] and best < least[1] and faster >= len(self.times) - 1


@dataclass(frozen=True)
class Harness:
    """Measures for `target`, whose code runs here; `cold` bytes are read before each candidate; `reorder`, `forms`
    and `sparse` are those of `lower`."""

    target: CpuTarget
    compilation: Compilation
    cold: int = 0
    reorder: bool = True
    forms: WeightForms = FAST
    sparse: Sparse = "auto"

    def measure(self, group: Group, candidates: Sequence[Schedule | None]) -> list[Measured | None]:
        """The times of schedules of `group`, None for that of the cost model; nothing for those that lowering does not
        take: Strassen's algorithm, where the rows lie apart. Raises ScheduleError."""
        graph, program, made = self._program(group, candidates)
        owners = {name: number for number, decision in made.items() for name in decision.kernels}
        program = _prepared(program, owners)
        artifact = self.target.build(Programs(program), Labels.of(graph, "tuning"), self.compilation)
        read, *others = graph.inputs
        arrays = {x.label: random_values(x.type) for x in others}
        arrays[read.label] = np.zeros(read.type.static_shape(), np.float32)  # the operands stay as they are
        times = [[0.0] * GROUPS for _ in candidates]
        with artifact.session(threads=1) as session:
            first = session.profile(arrays, runs=3)
            runs = int(min(max(SECONDS / max(first.seconds, 1e-9), RUNS[0]), RUNS[1]))
            for turn in range(GROUPS):
                for launch in session.profile(arrays, runs=runs).launches:
                    if launch.kernel in owners:
                        times[owners[launch.kernel]][turn] += 1e6 * launch.best
        templates = _templates(program, owners)
        return [
            Measured(replace(made[number], origin=group.node.origin), templates[number], tuple(times[number]))
            if wanted is None or made[number].options[0].schedule == wanted
            else None
            for number, wanted in enumerate(candidates)
        ]

    def _program(
        self, group: Group, candidates: Sequence[Schedule | None]
    ) -> tuple[Graph, Program, dict[int, Decision]]:
        """The graph of candidates, lowered, and what was decided for each."""
        made: dict[int, Decision] = {}

        def find(signature: str, origin: Origin) -> Schedule | None:
            return candidates[int(origin[0])]

        def note(decision: Decision) -> None:
            made[int(decision.origin[0])] = decision

        graph = self._graph(group, len(candidates))
        return graph, self.lowered(graph, Schedules(find, note)), made

    def lowered(self, graph: Graph, schedules: Schedules) -> Program:
        """The program of `graph` with these schedules, each launch whole."""
        return lower(
            graph,
            self.target.machine,
            reorder=self.reorder,
            forms=self.forms,
            sparse=self.sparse,
            schedules=schedules,
            bands=False,
        )

    def _graph(self, group: Group, count: int) -> Graph:
        """`count` copies of the group, each with operands of its own making after `cold` bytes have been read."""
        read = Input("read", TensorType(f32, (max(self.cold // 4, 1),)))
        given = {
            value: Input(f"x{number}", value.type)
            for number, value in enumerate(dict.fromkeys(group.outer.values()))
            if not isinstance(value, Constant)
        }
        outputs: list[tuple[str, Value]] = []
        for number in range(count):
            total = ReduceSum(read, (0,), False)
            fresh = {value: Add(x, _cast(total, x.dtype)) for value, x in given.items()}
            operands = tuple(fresh.get(group.outer[x], group.outer[x]) for x in group.body.inputs)
            node = Fused(operands, group.body, origin=(str(number),))
            outputs += [(f"y{number}_{place}", value) for place, value in enumerate(node.results())]
        return Graph((read, *given.values()), tuple(outputs), "tuning")


def cold_bytes(weights: int, second_level: int) -> int:
    """How many bytes to read between two runs of a kernel of a model with so many bytes of `weights`."""
    if weights <= second_level:
        return 0
    return min(weights, 3 * max(last_cache(), 8 << 20) // 2)


def last_cache(folder: Path = CACHES) -> int:
    """Bytes of the largest cache that the first processor has to do with, 0 where Linux does not tell."""
    return max(caches(folder).values(), default=0)


def caches(folder: Path = CACHES) -> dict[int, int]:
    """Bytes of the largest cache of each level that the first processor has to do with, as far as Linux tells."""
    sizes: dict[int, int] = {}
    for file in sorted(folder.glob("index*/size")):
        with contextlib.suppress(OSError, ValueError):
            text = file.read_text(encoding="ascii").strip()
            size = int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1:], 0)
            level = int(file.with_name("level").read_text(encoding="ascii"))
            sizes[level] = max(size, sizes.get(level, 0))
    return sizes


def _templates(program: Program, owners: Mapping[str, int]) -> dict[int, ProductTemplate]:
    """The contraction of each candidate."""
    return {
        owners[launch.kernel.name]: launch.kernel.body
        for launch in program.launches()
        if launch.kernel.name in owners and isinstance(launch.kernel.body, ProductTemplate)
    }


def _cast(value: Value, dtype: DType) -> Value:
    return value if value.dtype == dtype else Cast(value, dtype)


def random_values(kind: TensorType) -> NDArray[Any]:
    """Numbers of about 1 for floats, 0 and 1 for others."""
    shape, dtype = kind.static_shape(), kind.dtype
    rng = np.random.default_rng(0)
    if dtype.is_float:
        return rng.standard_normal(shape, np.float32).astype(dtype.to_numpy())
    return rng.integers(0, 2, shape).astype(dtype.to_numpy())


def _prepared(program: Program, owners: dict[str, int]) -> Program:
    """`program` with what the kernels of each candidate write written before its operands are made."""
    written: dict[int, dict[Storage, None]] = {}
    for launch in program.launches():
        number = owners.get(launch.kernel.name)
        if number is not None:
            for buffer, argument in zip(launch.kernel.buffers, launch.buffers, strict=True):
                if buffer.access != "read":
                    written.setdefault(number, {})[argument.storage] = None
    steps: list[Step] = []
    ready: list[Step] = []  # what makes the operands of the next candidate
    done: set[int] = set()
    for step in program.steps:
        number = owners.get(step.kernel.name) if isinstance(step, Launch) else None
        if number is None:
            ready.append(step)
            continue
        if number not in done:
            done.add(number)
            sums, others = ready[:1], ready[1:]
            fills = [_fill(storage, f"fill_{number}_{i}") for i, storage in enumerate(written.get(number, {}))]
            steps += [*sums, *fills, *others]
            ready = []
        steps += [*ready, step]
        ready = []
    return replace(program, steps=(*steps, *ready))


def _fill(storage: Storage, name: str) -> Launch:
    build = KernelBuilder(name)
    view = View(storage, (storage.size,), (1,))
    zero = Const(0.0 if storage.dtype.is_float else 0, storage.dtype)
    body = (build.store(view, symbol("i"), zero),)
    return build.launch((Axis("i", storage.size, CHUNK),), body)
