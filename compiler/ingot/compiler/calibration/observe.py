"""Observers as operators: a graph with what observers read of its values as further outputs.

The model itself is compiled as it would be without them, kernel by kernel. Passes follow the observed values
(`Graph.watched`) without keeping them alive, so that none decides otherwise because somebody looks. When groups are
formed, observers get kernels of their own that read what the model stores; a value that a kernel of the model never
stores is computed again by those, because a kernel that stored it would round other values otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ingot.compiler.calibration.errors import CalibrationError
from ingot.compiler.calibration.observers import Histogram, Observer
from ingot.compiler.calibration.taps import WORDS, Tap
from ingot.compiler.ir.graph import Constant, Graph, Input, Node, Value, node_of, operands_of
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
    fused = fuse(_settled(graph, points))
    return _observed(dataclasses.replace(fused, watched={}), fused.watched, observers)


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


def _settled(graph: Graph, points: Mapping[str, Value]) -> Graph:
    """The graph after all passes but the last; what has become of the points is watched."""
    passes = default_pipeline().without("fuse")
    plain = dataclasses.replace(graph, watched=dict(points))
    settled = passes.run(plain)
    live = set(settled.nodes())
    lost = [name for name, value in settled.watched.items() if node_of(_elements(value)) not in live]
    if not lost:
        return settled
    # Something else is computed in their place: they are kept, and the model may be another one with them.
    names = {name: f"{name}:kept" for name in lost}
    while names.values() & dict(graph.outputs).keys():
        names = {name: f"{other}'" for name, other in names.items()}
    kept = tuple((other, points[name]) for name, other in names.items())
    settled = passes.run(dataclasses.replace(plain, outputs=(*graph.outputs, *kept)))
    outputs = dict(settled.outputs)
    return dataclasses.replace(
        settled,
        outputs=tuple((name, outputs[name]) for name, _ in graph.outputs),
        watched={name: outputs[names.get(name, name)] if name in names else v for name, v in settled.watched.items()},
    )


def _elements(value: Value) -> Value:
    """What holds the same elements in another order, as near to where they are computed as can be."""
    while isinstance(value, Transpose | Reshape):
        value = value.x
    return value


def _observed(graph: Graph, points: Mapping[str, Value], observers: Mapping[str, Sequence[Observer]]) -> Observation:
    """`graph`, whose kernels are chosen, with observers of the points, which are made of its values."""
    order = {node: index for index, node in enumerate(graph.nodes())}
    stored = {value: _stored(value, order) for value in points.values()}
    ready = {value: max((order[node_of(x)] for x in below), default=0) for value, below in stored.items()}
    named = sorted(points.items(), key=lambda point: ready[point[1]])
    watched = [(name, value, each.located(value.rank)) for name, value in named for each in observers[name]]
    counted = {(_elements(v), each.bins): 0 for _, v, each in watched if isinstance(each, Histogram)}
    rows = {key: row for row, key in enumerate(counted)}
    windows = Input(_unused("windows", {x.label for x in graph.inputs}), TensorType(f32, (len(rows), WORDS)))
    read = dict.fromkeys(x for _, value in named for x in stored[value])
    stand_ins: dict[Value, Value] = {x: Input(f"x{i}", x.type) for i, x in enumerate(read)}

    def window(elements: Value, bins: int) -> Value:
        return Reshape(Slice(windows, (rows[elements, bins], 0), (1, WORDS), (1, 1)), (WORDS,))

    values = dict(zip(points.values(), substitute(tuple(points.values()), stand_ins), strict=True))
    taps = {v: Tap(inside, _elements(inside), partial(window, _elements(v))) for v, inside in values.items()}
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
    given = (*(x for x in stand_ins.values() if isinstance(x, Input)), windows)
    fused = fuse(Graph(given, tuple((name, value) for value, name in outputs.items()), ranges=graph.ranges))
    results = substitute(fused.results, {stand_in: x for x, stand_in in stand_ins.items()})
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


def _stored(value: Value, live: Container[Node]) -> list[Value]:
    """The results of `live` nodes that `value` is made of, constants left out."""
    found: dict[Value, None] = {}
    stack, seen = [value], {value}
    while stack:
        x = stack.pop()
        if node_of(x) not in live:
            below = [y for y in operands_of(node_of(x)) if y not in seen]
            stack.extend(below)
            seen.update(below)
        elif not isinstance(x, Constant):
            found[x] = None
    return list(found)


def _unused(name: str, taken: set[str]) -> str:
    """`name`, changed where it is taken."""
    while name in taken:
        name += "'"
    return name
