"""What one compilation wants of tuning: schedules from a record, and new ones for it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.compiler.cache import Cache, open_cache
from ingot.compiler.cache.fingerprint import key_of
from ingot.compiler.environment import Environment
from ingot.compiler.ir.graph import Graph, Origin
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.schedules import Decision, Option, Schedule, Schedules
from ingot.compiler.lower.sparsity import Sparse
from ingot.compiler.lower.weight_forms import WeightForms
from ingot.compiler.request import Request
from ingot.compiler.targets.registry import find_level
from ingot.compiler.targets.target import Compilation
from ingot.compiler.tuning.record import Kernels, Machine, Record, TuningError, TuningWarning, read_record
from ingot.runtime.cpu import processor_name
from ingot.runtime.errors import InputError, RuntimeFault

if TYPE_CHECKING:
    from ingot.compiler.targets.cpu.features import Level
    from ingot.compiler.tuning.harness import Harness
    from ingot.compiler.tuning.search import Found

OBJECTS = 256 << 20  # bytes of compiled candidates kept while measuring, where there is no cache


@dataclass
class Tuning:
    """The record of a compilation for `machine`; `seconds` of measuring are left, None where none is asked for."""

    machine: Machine
    level: Level | None = None
    record: Record = field(default_factory=Record)
    path: Path | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, request: Request) -> Tuning:
        """The tuning that a compilation asks for.

        Raises TuningError for a record that cannot be read, for targets without code, and where measuring is asked for
        with another target than this very machine. Warns with TuningWarning of a record of other machines.
        """
        path, seconds, target = request.tuning, request.tune, request.target
        if path is None and seconds is None:
            return cls(Machine("", target, ()))
        level = find_level(target, checked=request.checked, denormals=request.denormals)
        if level is None:
            raise TuningError(f"the target {target} makes no code that schedules are for: leave the tuning out")
        if seconds is not None and target != "native":
            raise TuningError(f"schedules are measured on this machine: tune for the target native, not {target}")
        if seconds is not None and level.checked:
            raise TuningError("code that checks its accesses is not to be measured: tune without the checks")
        machine = Machine(processor_name(), target, tuple(sorted(level.required)))
        # A record that is to be written need not be there yet.
        known = read_record(path) if path is not None and (seconds is None or path.exists()) else Record()
        if known.machines and machine not in known.machines:
            others = "; ".join(map(str, known.machines))
            warnings.warn(
                f"{path} was tuned for {others}, not for {machine}: it is ignored", TuningWarning, stacklevel=2
            )
        return cls(machine, level, known, path, seconds)

    @property
    def kernels(self) -> Kernels:
        """What is known for the machine."""
        return self.record.kernels(self.machine)

    @property
    def key(self) -> str:
        """What an artifact depends on, for keys of caches; empty where nothing is known."""
        if not self.kernels:
            return ""
        mine = Record({self.machine: self.kernels})
        return key_of(mine.encode())

    def schedules(self, note: Callable[[Decision], None] | None) -> Schedules:
        """What lowering is to use and whom it is to tell."""
        kernels = self.kernels

        def find(signature: str, origin: Origin) -> Schedule | None:
            options = kernels.get(signature)
            return None if options is None else options[0].schedule

        return Schedules(find, note)

    def measure(
        self,
        graph: Graph,
        compilation: Compilation,
        *,
        reorder: bool,
        forms: WeightForms,
        sparse: Sparse,
        share: float,
        tell: Callable[[str], None],
    ) -> None:
        """Measure the kernels of `graph` that the record does not know, within `share` of the seconds, and write the
        record."""
        from ingot.compiler.targets.cpu.target import CpuTarget
        from ingot.compiler.tuning.harness import Harness, cold_bytes
        from ingot.compiler.tuning.search import search, tasks_of, weight_bytes

        if self.seconds is None or self.level is None:
            return
        target = CpuTarget(self.level)
        context = Context(target.machine, reorder=reorder, forms=forms, sparse=sparse, ranges=dict(graph.ranges))
        tasks, symbolic = tasks_of(graph, context)
        tasks = [task for task in tasks if task.signature not in self.kernels]
        if symbolic:
            tell(f"tuning: {symbolic} kernels have extents that are not constant and are not measured; give --shape")
        tell(f"tuning: {len(tasks)} kernels to measure")
        with tempfile.TemporaryDirectory(prefix="ingot-tuning-") as folder:
            cache = compilation.cache or _objects(Path(folder))
            cold = cold_bytes(weight_bytes(graph), self.level.l2)
            quiet = replace(compilation, cache=cache, progress=None)
            harness = Harness(target, quiet, cold, reorder, forms, sparse)
            found = search(tasks, context, harness, self.seconds * share, tell)
            found = self._confirmed(graph, found, harness, tell)
        self.record = self.record.joined(self.machine, found)
        if self.path is not None:
            self.record.save(self.path)

    def _confirmed(
        self, graph: Graph, found: Mapping[str, Found], harness: Harness, tell: Callable[[str], None]
    ) -> dict[str, tuple[Option, ...]]:
        """The options of what was found, with those first that are faster in the whole model."""
        from ingot.compiler.tuning.confirm import compare

        changed = {name: each.options[0].schedule for name, each in found.items() if each.is_changed}
        if not changed:
            return {name: each.options for name, each in found.items()}
        before = {name: options[0].schedule for name, options in self.kernels.items()}
        try:
            seen = compare(graph, before, {**before, **changed}, harness)
        except (InputError, RuntimeFault) as error:
            tell(f"tuning: the whole model was not run to confirm what was found: {error}")
            return {name: each.options for name, each in found.items()}
        kept = {name for name in changed if seen.holds(name)}
        tell(f"tuning: {len(kept)} of {len(changed)} new schedules are faster in the model, too")
        return {
            name: each.options if name in kept or name not in changed else each.reverted
            for name, each in found.items()
        }


def _objects(folder: Path) -> Cache | None:
    """A cache for this compilation alone: candidates are measured more than once."""
    return open_cache(Environment(cache=folder, cache_size=OBJECTS), lambda message: None)
