"""Observers as operators: a graph with what observers read of its values as further outputs.

The model itself is compiled as it would be without them. Passes follow the observed values (`Graph.watched`) without
keeping them alive, so that none decides otherwise because somebody looks; the observers are put behind what has become
of the values just before kernels are made, and are grouped into kernels of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ingot.compiler.calibration.errors import CalibrationError
from ingot.compiler.calibration.observers import Histogram, Observer
from ingot.compiler.calibration.taps import WORDS, Tap
from ingot.compiler.ir.graph import Graph, Input, Value, node_of
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.movement import Reshape, Slice, Transpose
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.passes.fuse import fuse
from ingot.compiler.rewrite import substitute
from ingot.runtime.dtypes import f32

Watched = tuple[str, Observer]
"""The name of a value, and one observer of it."""


@dataclass(frozen=True, eq=False)
class Observation:
    """A graph with observers, as far as passes go: its next stage is lowering.

    `reads` says for each observer of each value which outputs hold what it reads; an int is the number itself.
    `rows` gives the row of each histogram in the input `windows`, f32 [histograms, 2]: the reciprocal of the width of
    its bins and the place of the first one. `windows` is None where there are no histograms.
    """

    graph: Graph
    reads: Mapping[Watched, Mapping[str, str | int]]
    rows: Mapping[Watched, int]
    windows: str | None

    @property
    def histograms(self) -> int:
        """How many rows `windows` has."""
        return len(set(self.rows.values()))


def observe(graph: Graph, points: Mapping[str, Value], observers: Mapping[str, Sequence[Observer]]) -> Observation:
    """`graph`, whose passes have still to be run, with `observers` of the values `points`, both by the same names. The
    model's outputs come last, and are the same to the last bit as without observers.

    Raises CalibrationError for values that are not floats of the graph, and for channels whose number is not known
    before the model runs.
    """
    for name, value in points.items():
        require_observable(graph, name, value, observers[name])
    settled, found = _settled(graph, points)
    tapped = fuse(dataclasses.replace(settled, outputs=(*settled.outputs, *found.items()), watched={}))
    kept = len(settled.outputs)
    return _observed(dataclasses.replace(tapped, outputs=tapped.outputs[:kept]), tapped.outputs[kept:], observers)


def require_observable(graph: Graph, name: str, value: Value, observers: Sequence[Observer]) -> None:
    """Raise CalibrationError where these observers cannot watch `value`."""
    if not value.dtype.is_float:
        raise CalibrationError(f"{name!r} is {value.type}: ranges are those of floats; leave it out")
    for observer in observers:
        try:
            axis = observer.located(value.rank).channel_axis()
        except ValueError as error:
            raise CalibrationError(f"{observer} of {name!r}: {error} in {value.type}") from None
        if axis is not None and not isinstance(value.shape[axis], int):
            raise CalibrationError(
                f"{observer} of {name!r}: axis {axis} of {value.type} has no fixed number of channels; pin the shape "
                "of the model's inputs, or observe it as a whole"
            )


def _settled(graph: Graph, points: Mapping[str, Value]) -> tuple[Graph, dict[str, Value]]:
    """The graph after all passes but the last, and what has become of the points."""
    passes = default_pipeline().without("fuse")
    plain = dataclasses.replace(graph, watched=dict(points))
    settled = passes.run(plain)
    live = set(settled.nodes())
    lost = [name for name, value in settled.watched.items() if node_of(_elements(value)) not in live]
    if not lost:
        return settled, dict(settled.watched)
    # Something else is computed in their place: they are kept, and the model may be another one with them.
    names = {name: f"{name}:kept" for name in lost}
    while names.values() & dict(graph.outputs).keys():
        names = {name: f"{other}'" for name, other in names.items()}
    kept = tuple((other, points[name]) for name, other in names.items())
    settled = passes.run(dataclasses.replace(plain, outputs=(*graph.outputs, *kept)))
    outputs = dict(settled.outputs)
    found = {name: outputs[names[name]] if name in names else value for name, value in settled.watched.items()}
    shown = tuple((name, outputs[name]) for name, _ in graph.outputs)
    return dataclasses.replace(settled, outputs=shown), found


def _elements(value: Value) -> Value:
    """What holds the same elements in another order, as near to where they are computed as can be."""
    while isinstance(value, Transpose | Reshape):
        value = value.x
    return value


def _observed(
    graph: Graph, points: Sequence[tuple[str, Value]], observers: Mapping[str, Sequence[Observer]]
) -> Observation:
    """`graph`, whose kernels are made, with observers of the points."""
    order = {node: index for index, node in enumerate(Graph((), (*graph.outputs, *points), bound=graph.bound).nodes())}
    points = sorted(points, key=lambda point: order[node_of(_elements(point[1]))])
    watched = [(name, value, each.located(value.rank)) for name, value in points for each in observers[name]]
    counted = {(_elements(v), each.bins): 0 for _, v, each in watched if isinstance(each, Histogram)}
    rows = {key: row for row, key in enumerate(counted)}
    labels = {x.label for x in graph.inputs}
    windows = Input(_unused("windows", labels), TensorType(f32, (len(rows), WORDS)))
    stand_ins = {e: Input(f"x{i}", e.type) for i, e in enumerate(dict.fromkeys(_elements(v) for _, v in points))}

    def window(elements: Value, bins: int) -> Value:
        return Reshape(Slice(windows, (rows[elements, bins], 0), (1, WORDS), (1, 1)), (WORDS,))

    taps = {
        value: Tap(
            substitute((value,), {_elements(value): stand_ins[_elements(value)]})[0],
            stand_ins[_elements(value)],
            partial(window, _elements(value)),
        )
        for _, value in points
    }
    outputs: dict[Value, str] = {}
    reads: dict[Watched, dict[str, str | int]] = {}
    taken = {name for name, _ in graph.outputs}
    for name, value, observer in watched:
        told = reads.setdefault((name, observer), {})
        for field, wanted in observer.outputs(taps[value]).items():
            if isinstance(wanted, Value):
                told[field] = outputs.setdefault(wanted, _unused(f"observed {len(outputs)}", taken))
            else:
                told[field] = wanted
    inside = Graph((*stand_ins.values(), windows), tuple((name, v) for v, name in outputs.items()), ranges=graph.ranges)
    fused = fuse(inside)
    results = substitute(fused.results, {stand_in: e for e, stand_in in stand_ins.items()})
    added = tuple((name, value) for (name, _), value in zip(fused.outputs, results, strict=True))
    return Observation(
        # Observers come first: what they read is then read soon after it is computed, and needs its memory no longer.
        dataclasses.replace(
            graph, inputs=(*graph.inputs, windows) if rows else graph.inputs, outputs=(*added, *graph.outputs)
        ),
        reads,
        {(name, each): rows[_elements(v), each.bins] for name, v, each in watched if isinstance(each, Histogram)},
        windows.label if rows else None,
    )


def _unused(name: str, taken: set[str]) -> str:
    """`name`, changed where it is taken."""
    while name in taken:
        name += "'"
    return name
