"""The whole model with the schedules that were found beside itself with those of the cost model.

A kernel measured alone is not quite the kernel in the model: what lies in which cache depends on its neighbours. So the
two programs are run in turn, and each kernel keeps its new schedule only if it is faster there too.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from ingot.compiler.artifact import Artifact
from ingot.compiler.ir.dims import evaluate, symbols
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.labels import Labels
from ingot.compiler.lower.schedules import Decision, Schedule, Schedules
from ingot.compiler.targets.target import Programs
from ingot.compiler.tuning.harness import GROUPS, Harness, random_values
from ingot.runtime.dtypes import string
from ingot.runtime.errors import InputError

GAIN = 0.01  # that the schedule must bring in the model
RUNS = 3  # of each program in each group, after others to warm up


@dataclass(frozen=True)
class Comparison:
    """Microseconds of one run: of the launches of each signature, and of the whole model, with the schedules of the
    cost model and with others."""

    default: Mapping[str, float]
    tuned: Mapping[str, float]
    whole: tuple[float, float]

    def holds(self, signature: str) -> bool:
        """Whether kernels are faster in the model, too. Those that never ran are believed."""
        default, tuned = self.default.get(signature, 0.0), self.tuned.get(signature, 0.0)
        return default == 0.0 or tuned < (1 - GAIN) * default


def compare(
    graph: Graph, before: Mapping[str, Schedule], after: Mapping[str, Schedule], harness: Harness
) -> Comparison:
    """Run `graph` with the schedules `before` and `after`. Raises InputError and RuntimeFault for a model that does not
    run on made-up inputs."""
    if any(x.dtype == string for x in graph.inputs):
        raise InputError("it takes strings")
    sides = [_build(graph, harness, before), _build(graph, harness, after)]
    shapes = [_likely(x.type, graph) for x in graph.inputs]
    arrays = {x.label: random_values(kind) for x, kind in zip(graph.inputs, shapes, strict=True)}
    times: list[list[dict[str, float]]] = [[], []]
    wholes: list[list[float]] = [[], []]
    with sides[0].artifact.session(threads=1) as one, sides[1].artifact.session(threads=1) as other:
        for turn in range(GROUPS):
            for number, session in ((0, one), (1, other)) if turn % 2 == 0 else ((1, other), (0, one)):
                profile = session.profile(arrays, runs=RUNS)
                found: dict[str, float] = {}
                for launch in profile.launches:
                    signature = sides[number].signatures.get(launch.kernel)
                    if signature is not None:
                        found[signature] = found.get(signature, 0.0) + 1e6 * launch.best
                times[number].append(found)
                wholes[number].append(1e6 * profile.best)
    default, tuned = (
        {name: statistics.median(each[name] for each in side) for name in side[0]} for side in times
    )
    return Comparison(default, tuned, (statistics.median(wholes[0]), statistics.median(wholes[1])))


@dataclass(frozen=True)
class _Side:
    """An artifact of the model, and the signatures of its kernels."""

    artifact: Artifact
    signatures: Mapping[str, str]


def _build(graph: Graph, harness: Harness, schedules: Mapping[str, Schedule]) -> _Side:
    decisions: list[Decision] = []
    wanted = Schedules(lambda signature, origin: schedules.get(signature), decisions.append)
    program = harness.lowered(graph, wanted)
    artifact = harness.target.build(Programs(program), Labels.of(graph), harness.compilation)
    return _Side(artifact, {name: each.signature for each in decisions for name in each.kernels})


def _likely(kind: TensorType, graph: Graph) -> TensorType:
    """`kind` with every symbol at the low end of its range, 1 at least."""
    names = {name for dim in kind.shape for name in symbols(dim)}
    values = {name: max(1, graph.ranges.get(name, (1, 1))[0]) for name in names}
    return TensorType(kind.dtype, tuple(evaluate(dim, values) for dim in kind.shape))
