"""Custom operators over arrays as calls of their routines."""

from __future__ import annotations

from ingot.compiler.ir.dims import Dim, product
from ingot.compiler.ir.graph import Node, describe
from ingot.compiler.ir.loops import Axis, Const
from ingot.compiler.ir.routines import Parameter, Routine, RoutineCall, Source, Tensor
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.nest import grain_for
from ingot.compiler.lower.pointwise import copy, materialise
from ingot.compiler.lower.views import View
from ingot.compiler.ops.custom.nodes import Loops
from ingot.compiler.ops.custom.reference import reference
from ingot.runtime.dtypes import i64

ELEMENTS = 4096  # of the largest array that is cut, in one chunk: what is done with each is not known


def lower_custom(context: Context, node: Node) -> bool:
    """Lower a "loops" operator; False for any other node."""
    if not isinstance(node, Loops):
        return False
    definition = node.definition
    operands = [
        None if value is None else materialise(context, context.view(value), node.origin)
        for value in node.operand_values()
    ]
    targets = [context.destination(value) for value in node.results()]
    results = [
        target if target.is_dense else context.temp(type_, origin=node.origin)
        for target, type_ in zip(targets, node.types, strict=True)
    ]
    build = kernel(context, node)

    def tensor(name: str, view: View, access: str) -> Tensor:
        return Tensor(build.parameter(view, access), view.shape, name in definition.parallel)

    status, number = context.fault(f"{describe(node)}: {definition.name} reports an error")
    named = zip((o.name for o in definition.signature.operands), operands, strict=True)
    read = tuple(None if view is None else tensor(name, view, "read") for name, view in named)
    written = tuple(tensor(n, view, "write") for n, view in zip(definition.results, results, strict=True))
    cut = [t.shape for t in (*read, *written) if t is not None and t.cut]
    rows = Axis("_row", 1)
    if cut:
        rows = Axis("_row", cut[0][0], grain_for(_largest([product(shape[1:]) for shape in cut]), ELEMENTS))
    types = [(v.type, False) if v is not None else None for v in node.operand_values()]
    types += [(t, True) for t in node.types]
    attributes = node.attribute_values()
    routine = Routine(
        definition.name,
        tuple(None if t is None else Parameter(t[0].dtype, t[0].rank, t[1]) for t in types),
        ", ".join(f"{name}={value!r}" for name, value in attributes.items()),
        definition.checked,
    ).bound(Source(definition.function, reference(definition.function), attributes))
    call = RoutineCall(routine, rows, written, read, build.store(status, 0, Const(number, i64)))
    context.run(build.launch(call.grid, call, origin=node.origin))
    for target, view in zip(targets, results, strict=True):
        if view is not target:
            copy(context, view, target, node.origin)
    return True


def _largest(sizes: list[Dim]) -> Dim:
    """The largest of the sizes that are known, else the first."""
    return max((s for s in sizes if isinstance(s, int)), default=sizes[0])
