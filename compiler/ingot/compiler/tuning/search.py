"""The search for schedules within a time: where most of the model's time is, first.

Kernels wait in a queue by the time that the model spends in all launches of one signature: first as the arithmetic or
the traffic says, then as measured. A kernel is looked at twice: for other algorithms, loop orders and panel widths, and
a third as urgently for other tiles and chunks around the best of these.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter

from ingot.compiler.ir.graph import Constant, Graph, Node, subgraphs_of
from ingot.compiler.lower.choices import signature_of
from ingot.compiler.lower.context import Context, body_of
from ingot.compiler.lower.contraction import Group
from ingot.compiler.lower.convolution import is_depthwise
from ingot.compiler.lower.explain import extents_of, option_of
from ingot.compiler.lower.lowering import ANCHORS
from ingot.compiler.lower.schedules import Option, Schedule
from ingot.compiler.ops.linear import Conv
from ingot.compiler.tuning.candidates import alternatives, neighbours, orders
from ingot.compiler.tuning.harness import Harness, Measured

GAIN = 0.02  # that a schedule must bring: less may be noise
MOST_AT_ONCE = 9  # candidates measured together
MOST_BYTES = 512 << 20  # of their packed weights, but two packings may be of any size
SECOND_LOOK = 1 / 3


@dataclass(frozen=True)
class Task:
    """A group to find a schedule for, standing for all `count` groups of its signature."""

    signature: str
    group: Group
    count: int


@dataclass(frozen=True)
class Found:
    """The options that were measured for a signature, the best first, and the schedule of the cost model."""

    options: tuple[Option, ...]
    default: Schedule

    @property
    def is_changed(self) -> bool:
        """Whether something better than the cost model's schedule was found."""
        return self.options[0].schedule != self.default

    @property
    def reverted(self) -> tuple[Option, ...]:
        """The options with that of the cost model first."""
        return tuple(sorted(self.options, key=lambda option: option.schedule != self.default))


@dataclass
class _State:
    """What is known of a task: the default's measurement first, then the best of others, and all options by schedule
    with what they took."""

    task: Task
    default: Measured | None = None
    best: Measured | None = None
    options: dict[Schedule, Option] = field(default_factory=dict[Schedule, Option])


def tasks_of(graph: Graph, context: Context) -> tuple[list[Task], int]:
    """The contraction groups of `graph` and its sub-graphs, one for each signature, and the number of groups that have
    none because their extents are not constant."""
    found: dict[str, Task] = {}
    symbolic = 0
    for node in _nodes(graph):
        body, outer = body_of(node)
        anchor = next((n for n in body.nodes() if isinstance(n, ANCHORS)), None)
        if anchor is None:
            continue
        group = Group(node, body, dict(zip(body.inputs, outer, strict=True)), anchor)
        if isinstance(anchor, Conv) and is_depthwise(anchor, group.resolve(anchor.w)):
            continue
        signature = signature_of(context, group)
        if signature is None:
            symbolic += any(not isinstance(d, int) for d in anchor.type.shape)
            continue
        known = found.get(signature)
        found[signature] = Task(signature, group, 1) if known is None else replace(known, count=known.count + 1)
    return list(found.values()), symbolic


def weight_bytes(graph: Graph) -> int:
    """Bytes of all constants of `graph` and its sub-graphs."""
    return sum(node.data.nbytes for node in _nodes(graph) if isinstance(node, Constant))


def _nodes(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes():
        yield node
        body = getattr(node, "body", None)
        for inner in subgraphs_of(node):
            # A fused group is one kernel; its constants are its own, other nodes none to look at.
            if node.name == "fused" and inner is body:
                yield from (n for n in inner.nodes() if isinstance(n, Constant))
            else:
                yield from _nodes(inner)


def search(
    tasks: list[Task],
    context: Context,
    harness: Harness,
    seconds: float,
    tell: Callable[[str], None],
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Found]:
    """What was found for as many tasks as `seconds` are enough for, by signature."""
    started = clock()
    queue = [(-_expected(context, task), number, 0) for number, task in enumerate(tasks)]
    heapq.heapify(queue)
    states = [_State(task) for task in tasks]
    dearest = 0.0  # seconds of the costliest measurement so far
    while queue:
        _, number, stage = heapq.heappop(queue)
        left = seconds - (clock() - started)
        if left < dearest / 2 or left <= 0:
            break
        state, begun = states[number], clock()
        _look(state, context, harness, stage)
        dearest = max(dearest, clock() - begun)
        tell(f"tuning, {clock() - started:.0f} of {seconds:.0f} s: {_news(state)}")
        if stage == 0 and state.default is not None:
            spent = state.default.microseconds * state.task.count
            heapq.heappush(queue, (-spent * SECOND_LOOK, number, 1))
    return {state.task.signature: _result(state) for state in states if state.default is not None}


def _expected(context: Context, task: Task) -> float:
    """Microseconds in all launches of a task, roughly."""
    extents = extents_of(context, task.group, "direct")
    machine = context.machine
    m, n, k = extents.rows, extents.columns, extents.depth
    arithmetic = m * n * k / (machine.fma_rate * machine.lanes_f32)
    traffic = 4.0 * (m * k + k * n + m * n) / machine.l3_rate
    return task.count * extents.batch * max(arithmetic, traffic) / machine.cycles_per_microsecond


def _look(state: _State, context: Context, harness: Harness, stage: int) -> None:
    """Measure some candidates beside the default and the best so far."""
    group, level = state.task.group, harness.target.level
    if stage == 0:
        wanted = alternatives(context, group)
    else:
        assert state.default is not None
        now = state.best or state.default
        chosen = now.decision.options[0].schedule
        wanted = [*orders(chosen, now.template, level), *neighbours(context, group, chosen)]
    best = [] if state.best is None else [state.best.decision.options[0].schedule]
    fresh = _affordable([*best, *(s for s in wanted if s not in state.options)], group)
    measured = harness.measure(group, [None, *fresh])
    default, others = measured[0], [each for each in measured[1:] if each is not None]
    assert default is not None  # lowering takes what it chose itself
    state.default, state.best = default, None
    for each in (default, *others):
        schedule = each.decision.options[0].schedule
        state.options[schedule] = replace(option_of(context, group, schedule), measured=each.microseconds)
    for each in sorted(others, key=lambda each: each.microseconds):
        if each.beats(default, GAIN):
            state.best = each
            break


def _affordable(schedules: list[Schedule], group: Group) -> list[Schedule]:
    """The first ones, as many as are measured together."""
    values = (*group.outer.values(), *group.body.nodes())
    size = sum(value.data.nbytes for value in values if isinstance(value, Constant))
    most = max(2, MOST_BYTES // max(size, 1))
    packings: set[tuple[str, int]] = set()
    found: list[Schedule] = []
    for schedule in schedules:
        packing = (schedule.algorithm, schedule.width)
        if (packing in packings or len(packings) < most - 1) and len(found) < MOST_AT_ONCE - 1:
            packings.add(packing)
            found.append(schedule)
    return found


def _result(state: _State) -> Found:
    """The options with the chosen one first, then from the fastest to the slowest."""
    assert state.default is not None
    default = state.default.decision.options[0].schedule
    first = default if state.best is None else state.best.decision.options[0].schedule
    others = sorted((o for s, o in state.options.items() if s != first), key=lambda o: (o.measured or 0.0, o.schedule))
    rounded = (replace(o, predicted=round(o.predicted, 3)) for o in (state.options[first], *others))
    return Found(tuple(rounded), default)


def _news(state: _State) -> str:
    nodes = ", ".join(state.task.group.node.origin[:1]) or state.task.group.node.name
    more = f" (x{state.task.count})" if state.task.count > 1 else ""
    assert state.default is not None
    if state.best is None:
        return f"{nodes}{more}: {state.default.microseconds:.1f} us, nothing better"
    schedule = state.best.decision.options[0].schedule
    return f"{nodes}{more}: {state.default.microseconds:.1f} -> {state.best.microseconds:.1f} us, {schedule}"
