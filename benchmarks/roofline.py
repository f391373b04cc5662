"""How near to what the machine can do kernels come: ``python -m benchmarks.roofline [--models digits] [--json out]``.

The roof of a kernel is the longer of two times: its operations at the measured rate of multiply-adds in registers, and
its bytes at the measured rates of the cache, or memory, that holds them. What share of that a kernel reaches is the
roof over its time. Bytes count once however often they are read; those written count as copied, with as many that are
read. Weights come from where those of the whole model fit, other bytes from where those of the kernel do. A kernel with
the transforms of its algorithm counts as one, with the operations of the convolution or product as the model has it, so
that Winograd's, Fourier's and Strassen's may be above their roof. One thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.models import GROUPS, Case, cases
from ingot.compiler import compile
from ingot.compiler.driver import explain
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.ir.costs import bytes_moved, elements_read, operations
from ingot.compiler.ir.dims import Dim, evaluate, symbols
from ingot.compiler.ir.program import Host, Launch, Program
from ingot.compiler.ir.templates import Contraction, Strassen
from ingot.compiler.request import Request
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.peak import copy_rate, multiply_add_rate, read_rate
from ingot.compiler.targets.registry import find_level, find_target
from ingot.compiler.tuning.harness import caches
from ingot.runtime.inputs import solve
from ingot.runtime.profile import LaunchProfile

NEAR = 0.8  # of the roof: kernels that have nothing more to gain
WORST = 3  # kernels that are listed for a model
# Kernels whose operations no model asks for.
TRANSFORMS = ("winograd_data_", "winograd_output_", "spectral_data_", "spectral_output_", "quarters_")
NAME_WIDTH = 40


@dataclass(frozen=True)
class Rates:
    """Bytes a second: read, and copied (each counts when it is read and when it is written)."""

    read: float
    copy: float


@dataclass(frozen=True)
class Work:
    """What launches do: operations, `dot` products an instruction and lane, and bytes: of weights, and of what else is
    read and written."""

    flops: int = 0
    weights: int = 0
    read: int = 0
    written: int = 0
    dot: int = 1

    @property
    def bytes(self) -> int:
        """All of them."""
        return self.weights + self.read + self.written

    def __add__(self, other: Work) -> Work:
        sums = (getattr(self, name) + getattr(other, name) for name in ("flops", "weights", "read", "written"))
        return Work(*sums, dot=max(self.dot, other.dot))

    def times(self, count: int) -> Work:
        """The work of so many launches."""
        return Work(self.flops * count, self.weights * count, self.read * count, self.written * count, self.dot)


@dataclass(frozen=True)
class Machine:
    """Operations a second by products an instruction and lane; (bytes it holds, rates) of each cache from the nearest
    on, memory last."""

    flops: Mapping[int, float]
    memory: tuple[tuple[float, Rates], ...]

    @staticmethod
    def measured(level: Level) -> Machine:
        """What this machine does with instructions of `level`."""
        known = caches()
        nearest = known.get(2, level.l2)
        sizes = [nearest, max(known.get(3, 0), 2 * nearest)]
        held = [(size, size // (2 if number == 0 else 4)) for number, size in enumerate(sizes)]
        rates = [(float(size), Rates(read_rate(level, part), copy_rate(part))) for size, part in held]
        beyond = 4 * sizes[-1]
        return Machine(
            {dot: multiply_add_rate(level, dot) for dot in sorted({1, level.dot})},
            (*rates, (math.inf, Rates(read_rate(level, beyond), copy_rate(beyond)))),
        )

    def faster(self, other: Machine) -> Machine:
        """The better of two measurements in all."""
        pairs = zip(self.memory, other.memory, strict=True)
        memory = ((size, Rates(max(a.read, b.read), max(a.copy, b.copy))) for (size, a), (_, b) in pairs)
        return Machine({dot: max(rate, other.flops[dot]) for dot, rate in self.flops.items()}, tuple(memory))

    def rates(self, size: int) -> Rates:
        """Those of the nearest place that holds `size` bytes."""
        return next(rates for most, rates in self.memory if size <= most)

    def arithmetic(self, work: Work) -> float:
        """Seconds that the operations take at least."""
        return work.flops / self.flops[work.dot]

    def traffic(self, work: Work, weights: int) -> float:
        """Seconds that the bytes of one launch take at least, where the model reads so many bytes of weights."""
        near, far = self.rates(work.bytes), self.rates(max(weights, work.weights))
        read = max(work.read - work.written, 0)
        return (work.read - read + work.written) / near.copy + read / near.read + work.weights / far.read


@dataclass(frozen=True)
class Kernel:
    """A kernel, with the transforms of its `algorithm` where that is not the plain one: the nodes that it computes, the
    seconds of a run that it takes, and those that its operations and its bytes take at least."""

    names: tuple[str, ...]
    nodes: tuple[str, ...]
    algorithm: str
    seconds: float
    arithmetic: float
    traffic: float
    flops: int
    bytes: int

    @property
    def share(self) -> float:
        """Of the roof that is reached."""
        return max(self.arithmetic, self.traffic) / self.seconds if self.seconds else 1.0

    @property
    def lost(self) -> float:
        """Seconds beyond the roof."""
        return max(0.0, self.seconds - max(self.arithmetic, self.traffic))


@dataclass(frozen=True)
class Roofline:
    """A model: seconds of a run, of which `elsewhere` are in no kernel whose work is known, and its kernels."""

    model: str
    seconds: float
    elsewhere: float
    kernels: tuple[Kernel, ...]

    @property
    def rate(self) -> float:
        """Operations a second."""
        return sum(each.flops for each in self.kernels) / self.seconds

    @property
    def near(self) -> float:
        """The share of the time spent in kernels that reach `NEAR` of their roof."""
        return sum(each.seconds for each in self.kernels if each.share >= NEAR) / self.seconds

    @property
    def lost(self) -> float:
        """The share of the time that kernels take beyond their roofs, without transforms that pay for themselves."""
        return sum(each.lost for each in self.kernels) / self.seconds

    @property
    def worst(self) -> list[Kernel]:
        """The kernels that lose the most time."""
        return sorted(self.kernels, key=lambda each: -each.lost)[:WORST]


def work_of(step: Launch | Host, values: Mapping[str, int]) -> Work | None:
    """What a launch does where the symbols have these values; None where that depends on data, and for host steps."""
    if isinstance(step, Host):
        return None
    reads = elements_read(step)
    dims: list[Dim] = [operations(step), bytes_moved(step), *(elements for _, elements in reads)]
    if any(symbols(dim) - values.keys() for dim in dims):
        return None
    flops, moved, *elements = (evaluate(dim, values) for dim in dims)
    sizes = [(storage, count * storage.dtype.bytes) for (storage, _), count in zip(reads, elements, strict=True)]
    weights = sum(size for storage, size in sizes if storage.kind == "weight")
    read = sum(size for storage, size in sizes if storage.kind != "weight")
    body = step.kernel.body
    if step.kernel.name.startswith(TRANSFORMS):
        flops = 0
    return Work(flops, weights, read, moved - weights - read, body.dot if isinstance(body, Contraction) else 1)


def algorithm_of(step: Launch | Host) -> str:
    """The algorithm of a contraction that takes fewer multiplications than the model has; else nothing."""
    match step:
        case Launch(kernel=kernel) if isinstance(kernel.body, Strassen):
            return "Strassen"
        case Launch(kernel=kernel) if kernel.name.startswith("winograd_"):
            return "Winograd"
        case Launch(kernel=kernel) if kernel.name.startswith("spectral_"):
            return "Fourier"
        case _:
            return ""


def kernels_of(
    program: Program, launches: Sequence[LaunchProfile], values: Mapping[str, int], machine: Machine
) -> Iterator[Kernel]:
    """The kernels of a profiled program whose work is known."""
    steps = list(program.timed())
    if [each.kernel for each in launches] != [_name(step) for step in steps]:
        raise RuntimeError(f"the profile of {program.name} is that of another program")
    works = [work_of(step, values) for step in steps]
    weights = sum(work.weights for work in works if work is not None)
    items = zip(steps, launches, works, strict=True)
    known = [(step, launch, work) for step, launch, work in items if work and launch.calls and launch.chunks]
    for group in _groups(known):
        algorithm = next(filter(None, (algorithm_of(step) for step, _, _ in group)), "")
        work, traffic, arithmetic = Work(), 0.0, 0.0
        for _, launch, each in group:
            # Weights of a loop are read more than once in a run, the second time from nearer by.
            traffic += launch.calls * machine.traffic(each, weights if launch.calls == 1 else each.weights)
            arithmetic += launch.calls * machine.arithmetic(each)
            work += each.times(launch.calls)
        first = group[0][1]
        yield Kernel(
            tuple(launch.kernel for _, launch, _ in group),
            first.origin,
            algorithm,
            sum(launch.best for _, launch, _ in group),
            arithmetic,
            traffic,
            work.flops,
            work.bytes,
        )


Known = tuple[Launch | Host, LaunchProfile, Work]


def _groups(known: Sequence[Known]) -> Iterator[list[Known]]:
    """Launches one by one, those of one convolution or product together where there are transforms."""
    for _, each in itertools.groupby(known, key=lambda item: item[1].origin):
        run = list(each)
        if any(algorithm_of(step) for step, _, _ in run):
            yield run
        else:
            yield from ([item] for item in run)


def _name(step: Launch | Host) -> str:
    return step.kernel.name if isinstance(step, Launch) else f"host {step.function}"


def measured(case: Case, target: str, runs: int) -> tuple[Roofline, Machine]:
    """Compile, profile and hold against the machine, which is measured before and after. Raises ModelError."""
    level = find_level(target)
    assert level is not None, f"{target} makes no code"
    artifact = compile(case.path, target=target)
    _, (program,) = explain(Request(case.path, target), find_target(target).machine)
    inputs = dict(case.inputs())
    machine = Machine.measured(level)
    with artifact.session(threads=1) as session:
        shapes = [inputs[info.name].shape for info in session.inputs]
        profile = session.profile(inputs, runs=runs)
    machine = machine.faster(Machine.measured(level))
    kernels = tuple(kernels_of(program, profile.launches, solve(artifact.manifest, shapes), machine))
    whole = sum(launch.best for launch in profile.launches) + profile.between
    elsewhere = whole - sum(each.seconds for each in kernels)
    return Roofline(case.name, whole, elsewhere, kernels), machine


def table(rows: Iterable[Roofline]) -> str:
    """A line a model, as a Markdown table."""
    head = ["model", "ms", "GFLOP/s", f"time at ≥ {NEAR:.0%} of the roof", "time above the roof"]
    lines = [f"| {' | '.join([*head, 'kernels that lose most: time, work, share of the roof'])} |", "|---" * 6 + "|"]
    for row in rows:
        cells = [row.model, f"{row.seconds * 1e3:.3f}", f"{row.rate / 1e9:.1f}", f"{row.near:.0%}", f"{row.lost:.0%}"]
        lines.append(f"| {' | '.join(cells)} | {'<br>'.join(map(_told, row.worst))} |")
    return "\n".join(lines)


def _told(kernel: Kernel) -> str:
    first = kernel.nodes[0] if kernel.nodes else kernel.names[0]
    short = first if len(first) <= NAME_WIDTH else "…" + first[1 - NAME_WIDTH :]
    more = f" +{len(kernel.nodes) - 1}" if len(kernel.nodes) > 1 else ""
    algorithm = f", {kernel.algorithm}" if kernel.algorithm else ""
    limit = "arithmetic" if kernel.arithmetic >= kernel.traffic else "bytes"
    escaped = short.replace("|", "\\|")
    return (
        f"`{escaped}`{more}{algorithm}: {kernel.seconds * 1e6:.1f} µs, {kernel.flops / 1e6:.3g} MFLOP, "
        f"{kernel.bytes / 1e6:.3g} MB, {kernel.share:.0%} ({limit})"
    )


def told(machine: Machine) -> str:
    """The machine's rates in a line."""
    names = [*(f"{size / 2**20:.0f} MiB" for size, _ in machine.memory[:-1]), "memory"]
    places = zip(names, machine.memory, strict=True)
    moved = "; ".join(f"{name}: {each.read / 1e9:.0f} read, {each.copy / 1e9:.0f} copied" for name, (_, each) in places)
    rates = ", ".join(
        f"{rate / 1e9:.0f} {'GFLOP/s of f32' if dot == 1 else f'Gop/s of bytes, {dot} products at a time'}"
        for dot, rate in machine.flops.items()
    )
    return f"One thread: {rates}; GB/s within {moved}."


def report(chosen: Iterable[Case], target: str = "native", runs: int = 30) -> tuple[str, list[Roofline]]:
    """The table of models, with the rates of the machine below it, and its rows; what is done is printed."""
    rows: list[Roofline] = []
    refused: list[str] = []
    machine: Machine | None = None
    for case in chosen:
        try:
            row, seen = measured(case, target, runs)
        except ModelError:
            refused.append(case.name)
            continue
        rows.append(row)
        machine = seen if machine is None else machine.faster(seen)
        print(table([row]).splitlines()[-1], flush=True)
    notes = [] if machine is None else [told(machine)]
    notes += [f"Refused: {', '.join(refused)}."] if refused else []
    return "\n\n".join([table(rows), *notes]), rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", default=",".join(GROUPS), help="demo, real, zoo; comma separated; default all")
    parser.add_argument("--models", default="", help="names (substrings) of models, comma separated; default all")
    parser.add_argument("--target", default="native", help="what is compiled for")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write all kernels of all models to this file")
    options = parser.parse_args(arguments)
    wanted = [name for name in options.models.split(",") if name]
    chosen = [c for c in cases(*options.groups.split(",")) if not wanted or any(name in c.name for name in wanted)]
    text, rows = report(chosen, options.target, options.runs)
    print(f"\n{text}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
