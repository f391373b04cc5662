"""The first harmful rule firing: bisection over the number of firings that passes may do (`Trace.stop_at`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ingot.compiler.debug.failure import Failure
from ingot.compiler.debug.sandbox import Sandbox
from ingot.compiler.debug.trial import Arrays, Trial, difference
from ingot.compiler.ir.graph import Graph, Input, Node, Value, node_of, operands_of, topological
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.text.graph import show_graph
from ingot.compiler.passes.default import default_pipeline, expand_composites
from ingot.compiler.pipeline import Pipeline
from ingot.compiler.rewrite import Firing, Patch, Trace, substitute
from ingot.compiler.single_pass import Named, Pass, PassError
from ingot.compiler.validate import make_probes

SHOWN = 40
"""Nodes of a pattern that are shown; what lies below them is shown as inputs."""


@dataclass(frozen=True)
class Culprit:
    """What makes a model fail.

    `failure` is how it fails with all passes, `firings` how many rules fire then. `firing` is the first harmful rule
    firing, numbered as INGOT_STOP_AT counts, with the patch as text `before` and `after`; None where no rule is to
    blame. `pass_name` is then the pass that is, "" where it is none: the import, the lowering or the code generation.
    `graph_is_right`: the graph after the firing (or pass) still computes the right thing when it is interpreted, so
    that the fault lies in what the lowering or the code generation makes of it; None where that is not known.
    """

    failure: Failure
    firings: int
    firing: Firing | None = None
    pass_name: str = ""
    before: str = ""
    after: str = ""
    graph_is_right: bool | None = None


def find_culprit(
    trial: Trial,
    model: Path,
    data: Arrays | None = None,
    *,
    seconds: float = 600.0,
    progress: Callable[[str], None] = lambda message: None,
) -> Culprit | None:
    """The first rule firing with which `model` fails, None when it does not fail at all.

    Every try compiles and runs in another process, `seconds` at most. The failure with fewer firings may differ from
    the one with all. Raises ModelError for a model that cannot be imported, SandboxError.
    """
    graph = trial.load(model)
    pipeline = trial.pipeline or default_pipeline(trial.numerics)
    full, patches, stopped = _fire(graph, pipeline)
    with Sandbox(seconds) as sandbox:
        tried: dict[tuple[int, int | None], Failure | None] = {}

        def fails(count: int | None, passes: int = len(pipeline)) -> Failure | None:
            key = passes, count
            if key not in tried:
                progress(f"{len(tried) + 1}. try: {'all' if count is None else count} of {len(full)} rule firings")
                limited = replace(trial, pipeline=_lowerable(pipeline.passes[:passes]), stop_at=count)
                tried[key] = sandbox.attempt(limited, model, data)
            return tried[key]

        failure = fails(None)
        if failure is None or failure.kind == "reference":
            return Culprit(failure, len(full)) if failure else None
        if fails(0) is not None:
            count = _first(len(pipeline) + 1, lambda n: fails(0, n) is not None)
            name = pipeline.names[count - 1] if count else ""
            right = _is_right(trial, graph, _lowerable(pipeline.passes[:count]), 0, data)
            return Culprit(failure, len(full), pass_name=name, graph_is_right=right)
        if not full or fails(len(full)) is None:  # a rule fails while it looks for its pattern
            rule = stopped.rule if stopped else ""
            name = stopped.pass_name if stopped else ""
            firing = Firing(len(full) + 1, name, rule, stopped.node) if stopped and rule else None
            return Culprit(failure, len(full), firing, name)
        first = _first(len(full) + 1, lambda n: fails(n) is not None)
    firing, (before, after) = full[first - 1], patches(first)
    right = _is_right(trial, graph, _lowerable(pipeline.passes), first, data)
    return Culprit(failure, len(full), firing, firing.pass_name, before, after, right)


def _lowerable(passes: Sequence[Pass]) -> Pipeline:
    """`passes` and, however few rules may fire, what the lowering cannot do without."""
    return Pipeline((*passes, Named(_expand_all, "expand_all")))


def _expand_all(graph: Graph) -> Graph:
    """Without an argument for the trace a pass is neither counted nor stopped."""
    return expand_composites(graph)


def _first(count: int, bad: Callable[[int], bool]) -> int:
    """The smallest number below `count` that is bad, where the last is known to be and all after the first are."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if bad(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _fire(
    graph: Graph, pipeline: Pipeline
) -> tuple[Sequence[Firing], Callable[[int], tuple[str, str]], PassError | None]:
    """All rule firings, a function that gives the patch of one as text, and the error that ended the passes."""
    trace = Trace()
    stopped: PassError | None = None
    with TemporaryDirectory(prefix="ingot-bisect-") as folder:
        try:
            pipeline.run(graph, trace=trace, repro_dir=Path(folder))
        except PassError as error:
            stopped = error

    def patch(number: int) -> tuple[str, str]:
        found: list[Patch] = []
        watched = Trace(number, watch=lambda firing, patch: found.append(patch))
        with TemporaryDirectory(prefix="ingot-bisect-") as folder, suppress(PassError):
            pipeline.run(graph, trace=watched, repro_dir=Path(folder))
        return show_patch(found[number - 1])

    return trace.firings, patch, stopped


def show_patch(patch: Patch) -> tuple[str, str]:
    """The replaced values and their replacements as two graphs in text form. Inputs are what both have in common and
    what lies more than `SHOWN` nodes deep; they are named after what they stand for."""
    old, new = tuple(patch), tuple(patch.values())
    border = set(topological(new)) & set(topological(old)) - {node_of(value) for value in (*old, *new)}
    names = [f"result_{i}" for i in range(len(old))]
    return _excerpt(old, border, names), _excerpt(new, border, names)


def _excerpt(values: Sequence[Value], border: set[Node], names: Sequence[str]) -> str:
    """The graph of `values` down to the nodes of `border`."""
    inputs: dict[Value, Input] = {}
    labels: set[str] = set()

    def stand_in(value: Value) -> None:
        node = node_of(value)
        if value in inputs:
            return
        wish = node.label if isinstance(node, Input) else next(iter(node.origin), node.name)
        label, count = wish, 1
        while label in labels:
            label, count = f"{wish}_{count}", count + 1
        labels.add(label)
        inputs[value] = Input(label, value.type)

    inner: set[Node] = set()
    queue = [node_of(v) for v in values]
    while queue:
        node = queue.pop(0)
        if node in inner or isinstance(node, Input) or node in border:
            continue
        if len(inner) == SHOWN:
            break
        inner.add(node)
        queue.extend(node_of(operand) for operand in operands_of(node))
    for node in inner:
        for operand in operands_of(node):
            if node_of(operand) not in inner:
                stand_in(operand)
    for value in values:
        if node_of(value) not in inner:
            stand_in(value)
    results = substitute(values, inputs)
    return show_graph(Graph(tuple(inputs.values()), tuple(zip(names, results, strict=True)), "patch"))


def _is_right(trial: Trial, graph: Graph, pipeline: Pipeline, count: int, data: Arrays | None) -> bool | None:
    """Whether the graph after `count` firings computes on numpy what `graph` does."""
    probes: Sequence[Arrays] = [data] if data is not None else make_probes(graph, trial.seed)
    try:
        with TemporaryDirectory(prefix="ingot-bisect-") as folder:
            changed = pipeline.run(graph, trace=Trace(count), repro_dir=Path(folder))
        for probe in probes:
            if difference(evaluate_graph(graph, probe), evaluate_graph(changed, probe), trial.bound) is not None:
                return False
    except Exception:  # it cannot be evaluated: nothing is known
        return None
    return True
