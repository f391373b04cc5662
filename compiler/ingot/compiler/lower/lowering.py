"""Graph to program: every node or group becomes views, kernels and steps."""

from __future__ import annotations

from collections.abc import Mapping

from ingot.compiler.ir.dims import Dim, product
from ingot.compiler.ir.graph import Constant, Graph, Input, Node, Value, describe, node_of, subgraphs_of
from ingot.compiler.ir.program import Program
from ingot.compiler.lower.attention import lower_attention
from ingot.compiler.lower.bands import in_bands
from ingot.compiler.lower.carried import carry_in_place
from ingot.compiler.lower.context import Context, LoweringError, body_of
from ingot.compiler.lower.contraction import Group
from ingot.compiler.lower.control import lower_check, lower_control
from ingot.compiler.lower.convolution import conv_halo, lower_conv
from ingot.compiler.lower.custom import lower_custom
from ingot.compiler.lower.explain import explain
from ingot.compiler.lower.host import lower_host
from ingot.compiler.lower.indexing import lower_indexing
from ingot.compiler.lower.inplace import share_storages
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.matmul import lower_matmul
from ingot.compiler.lower.movement import lower_movement, may_be_written_inside, view_of
from ingot.compiler.lower.pointwise import copy, lower_pointwise
from ingot.compiler.lower.pooling import lower_window
from ingot.compiler.lower.random import lower_random
from ingot.compiler.lower.recurrent import lower_recurrent
from ingot.compiler.lower.reduction import lower_reduction
from ingot.compiler.lower.resample import lower_resample
from ingot.compiler.lower.schedules import ANALYTICAL, Schedules
from ingot.compiler.lower.sparsity import Sparse
from ingot.compiler.lower.strings import with_handles
from ingot.compiler.lower.suppression import lower_suppression
from ingot.compiler.lower.symbols import called_again, set_apart
from ingot.compiler.lower.tables import matrices_of
from ingot.compiler.lower.variants import interface_of
from ingot.compiler.lower.views import View, dense_strides
from ingot.compiler.lower.weight_forms import FAST, WeightForms
from ingot.compiler.ops import composite, linear, movement, reduction
from ingot.compiler.ops.control import Require
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.pointwise import Pointwise
from ingot.compiler.ops.quantised import DequantizeBlocks

ANCHORS = (linear.Conv, linear.MatMul, composite.Attention)


def lower(
    graph: Graph,
    machine: Machine,
    *,
    reorder: bool = True,
    forms: WeightForms = FAST,
    sparse: Sparse = "auto",
    schedules: Schedules = ANALYTICAL,
    bands: bool = True,
) -> Program:
    """The program that computes `graph`, with schedules chosen for `machine` where `schedules` wants no others;
    `reorder` allows algorithms that change the order of floating-point operations beyond sums, `forms` says how weights
    may lie, `sparse` which of them are multiplied without their zeros, `bands` whether launches may be cut into some
    that take turns.

    Raises LoweringError for an op that has no kernel, ScheduleError for a schedule that does not fit.
    """
    graph, called = set_apart(graph)
    graph, strings = with_handles(graph)
    matrices = {} if forms.may_grow else matrices_of(graph)
    context = Context(machine, bound_symbols(graph), reorder, forms, sparse, matrices, schedules, dict(graph.ranges))
    targets = _declare_interface(graph, context)
    taken: set[Value] = set()
    for value, view in targets:
        if value not in taken and not isinstance(value, (Input, Constant)):
            context.placements[value] = view
            taken.add(value)
    _plan_placements(context, graph)
    _lower_nodes(context, graph)
    for value, view in targets:
        have = context.view(value)
        if have.storage is not view.storage or have.offset != view.offset:
            copy(context, have, view, node_of(value).origin, "output")
    program = _program_of(context, graph, strings)
    if bands:
        program = in_bands(program, machine)
    return called_again(carry_in_place(share_storages(program)), called)


def lower_interface(graph: Graph, machine: Machine) -> Program:
    """What describes `graph` where its general program is left out: inputs and outputs, and for sizes that come from
    data the binds that say so. It is not to be run. Raises what `lower` does."""
    if bound_symbols(graph):
        return interface_of(lower(graph, machine))
    graph, strings = with_handles(graph)
    context = Context(machine, frozenset(), reorder=True, ranges=dict(graph.ranges))
    _declare_interface(graph, context)
    return _program_of(context, graph, strings)


def _declare_interface(graph: Graph, context: Context) -> list[tuple[Value, View]]:
    """Give `context` the storages of inputs and outputs; each output's value with the place where it is to be."""
    for x in graph.inputs:
        storage = context.storage("input", x.dtype, product(x.shape), name=x.label, type=x.type)
        context.views[x] = View(storage, x.shape, dense_strides(x.shape))
    targets: list[tuple[Value, View]] = []
    for label, value in graph.outputs:
        # An input may be an output under the same name.
        name = label if all(s.name != label for s in context.storages) else context.unique(label)
        storage = context.storage("output", value.dtype, product(value.shape), name=name, type=value.type)
        targets.append((value, View(storage, value.shape, dense_strides(value.shape))))
    return targets


def _program_of(context: Context, graph: Graph, strings: tuple[str, ...]) -> Program:
    return Program(
        graph.name, tuple(context.storages), tuple(context.steps), context.ranges, tuple(context.faults), strings
    )


def bound_symbols(graph: Graph) -> frozenset[str]:
    """The symbols that are bound in `graph` or in its sub-graphs."""
    inner = (bound_symbols(body) for node in graph.nodes() for body in subgraphs_of(node))
    return frozenset(graph.sizes()).union(*inner)


def _lower_graph(context: Context, graph: Graph) -> None:
    """Lower a sub-graph whose inputs have views already; its results have views afterwards."""
    context.ranges.update(graph.ranges)
    _plan_placements(context, graph)
    _lower_nodes(context, graph)


def _lower_nodes(context: Context, graph: Graph) -> None:
    """Lower the nodes of `graph` in order, each followed by the binds and checks that its results allow."""
    names: dict[Node, list[str]] = {}
    for name, value in graph.sizes().items():
        names.setdefault(node_of(value), []).append(name)
    checks: dict[Node, list[Require]] = {}
    for node in graph.nodes():
        if isinstance(node, Require):
            checks.setdefault(node_of(node.condition), []).append(node)
    for node in graph.nodes():
        if not isinstance(node, (Input, Constant)):
            _lower_placed(context, node)
        for name in names.get(node, ()):
            if name not in context.bound:
                context.bind(name, context.view(graph.bound[name]), node)
        for check in checks.get(node, ()):  # at once: what comes later may rely on it
            lower_check(context, check)


def _lower_placed(context: Context, node: Node) -> None:
    """Lower `node` to views where strides can say what it does, copied where its results have placements; else to a
    kernel."""
    if node not in context.placements:
        views = view_of(context, node)
        if views is not None:
            for value, view in zip(node.results(), views, strict=True):
                if value in context.placements:
                    copy(context, view, context.destination(value), node.origin)
                else:
                    context.views[value] = view
            return
    elif isinstance(node, (movement.Transpose, movement.Expand, movement.Slice, movement.Reshape)):
        views = view_of(context, node)
        place = context.placements[node]
        if views is not None:
            context.views[node] = place
            if views[0].storage is not place.storage:
                copy(context, views[0], place, node.origin)
            return
    _lower_node(context, node)


def _lower_node(context: Context, node: Node) -> None:
    """Lower `node` to steps: by the first family that knows it, else as a group of its own. Raises LoweringError."""
    if isinstance(node, DequantizeBlocks):  # what reads it says in which form
        return
    if lower_control(context, node, _lower_graph) or lower_movement(context, node) or lower_random(context, node):
        return
    if lower_window(context, node) or lower_resample(context, node) or lower_recurrent(context, node):
        return
    if lower_indexing(context, node) or lower_suppression(context, node) or lower_custom(context, node):
        return
    if lower_host(context, node):
        return
    body, outer = body_of(node)
    operands: Mapping[Value, Value] = dict(zip(body.inputs, outer, strict=True))
    if any(isinstance(n, ANCHORS) for n in body.nodes()):
        _lower_contraction(context, node, body, operands)
    elif any(isinstance(n, reduction.Reduction) for n in body.nodes()):
        lower_reduction(context, node, body, operands)
    elif all(isinstance(n, (Pointwise, Input, Constant)) for n in body.nodes()):
        lower_pointwise(context, node, body, operands)
    else:
        raise LoweringError(
            f"no kernel for {describe(node)}: run the `expand` pass before lowering, or leave it in the pipeline"
        )


def _lower_contraction(context: Context, node: Node, body: Graph, outer: Mapping[Value, Value]) -> None:
    """One kernel for a group anchored in a Conv, MatMul or Attention."""
    anchor = next(n for n in body.nodes() if isinstance(n, ANCHORS))
    if not context.forms.keeps_blocks:
        outer = {x: context.widened(v) if isinstance(v, DequantizeBlocks) else v for x, v in outer.items()}
    group = Group(node, body, outer, anchor)
    first = len(context.steps)
    match anchor:
        case linear.Conv():
            lower_conv(context, group, anchor)
        case linear.MatMul():
            lower_matmul(context, group, anchor)
        case _:
            assert isinstance(anchor, composite.Attention)
            lower_attention(context, group, anchor)
    explain(context, group, context.steps[first:])


def _plan_placements(context: Context, graph: Graph) -> None:
    """Decide, from the last node to the first, where values are written: placements and halos."""
    uses = graph.uses()
    for node in reversed(graph.nodes()):
        _demand_halo(context, node)
        if isinstance(node, movement.Concat):
            _place_parts(context, node, uses)
        elif isinstance(node, movement.Reshape):
            _place_reshaped(context, node, uses)
        elif isinstance(node, movement.Pad):
            _place_padded(context, node, uses)
        elif (
            isinstance(node, movement.Transpose)
            and node in context.placements
            and _is_placeable(context, node.x, uses, context.placements[node].storage.size)
        ):
            inverse = tuple(sorted(range(node.rank), key=node.perm.__getitem__))
            context.placements[node.x] = context.placements[node].transpose(inverse)
    for value in [v for v in context.halos if v in context.placements]:
        del context.halos[value]


def _place_reshaped(context: Context, node: movement.Reshape, uses: Mapping[Value, int]) -> None:
    """Let the producer of a reshaped value write it in its final order, looking through a transpose between."""
    x = node.x
    size = context.placements[node].storage.size if node in context.placements else node.type.size
    if not _is_placeable(context, x, uses, size):
        return
    if isinstance(x, movement.Transpose) and node not in context.placements:
        context.placements[node] = context.temp(node.type, origin=node.origin)
    if node in context.placements:
        reshaped = context.placements[node].reshape(x.type.shape)
        if reshaped is not None:
            context.placements[x] = reshaped


def _place_padded(context: Context, node: movement.Pad, uses: Mapping[Value, int]) -> None:
    """Let the producer of a padded value write it inside its border."""
    size = context.placements[node].storage.size if node in context.placements else node.type.size
    if not may_be_written_inside(node) or node in context.halos or not _is_placeable(context, node.x, uses, size):
        return
    if node not in context.placements:
        context.placements[node] = context.temp(node.type, origin=node.origin)
    rank = node.x.rank
    context.placements[node.x] = context.placements[node].slice(node.pads[:rank], node.x.type.shape, (1,) * rank)


def _is_placeable(context: Context, value: Value, uses: Mapping[Value, int], size: Dim) -> bool:
    """Whether `value`, or what it is another view of, may be written where its only reader wants it: in a storage of
    `size` elements."""
    while value not in context.placements and value not in context.halos and uses.get(value) == 1:
        if not isinstance(value, (movement.Transpose, movement.Reshape)):
            return _is_kernel(value) and context.may_hold(size, value)
        value = value.x
    return False


def _demand_halo(context: Context, node: Node) -> None:
    """Ask for a zero border around what a convolution reads, if a kernel of ours writes it."""
    body, outer = body_of(node) if isinstance(node, (Fused, linear.Conv)) else (None, ())
    if body is None:
        return
    inner: dict[Value, Value] = dict(zip(body.inputs, outer, strict=True))
    for anchor in body.nodes():
        if not isinstance(anchor, linear.Conv) or not anchor.channels_last:
            continue
        value = inner.get(anchor.x, anchor.x)
        need = conv_halo(context, Group(node, body, inner, anchor), anchor)
        if not any(low or high for low, high in need) or not _is_kernel(value):
            continue
        have = context.halos.get(value, ((0, 0),) * len(need))
        context.halos[value] = tuple((max(a[0], b[0]), max(a[1], b[1])) for a, b in zip(have, need, strict=True))


def _place_parts(context: Context, node: movement.Concat, uses: Mapping[Value, int]) -> None:
    """Let the producers of a concatenation's parts write straight into it."""
    if node not in context.placements:
        halo = context.halos.get(node)
        if halo is not None:
            return
        context.placements[node] = context.temp(node.type, origin=node.origin)
    target = context.placements[node]
    start = 0
    for part in node.parts:
        size = part.type.shape[node.axis]
        starts = tuple(start if a == node.axis else 0 for a in range(node.rank))
        if _is_placeable(context, part, uses, target.storage.size):
            context.placements[part] = target.slice(starts, part.type.shape, (1,) * node.rank)
        start = start + size


def _is_kernel(value: Value) -> bool:
    """Whether the producer of `value` writes it through strides (and so can write anywhere)."""
    node = node_of(value)
    if isinstance(node, (Input, Constant)):
        return False
    return not isinstance(node, (movement.Transpose, movement.Expand, movement.Slice, movement.Split, movement.Reshape))
