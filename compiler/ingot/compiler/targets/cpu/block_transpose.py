"""`ir.sparse.BlockTranspose` as LLVM IR: squares of as many rows as a vector has lanes, transposed in registers."""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.sparse import BlockTranspose
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import flow, microkernel
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import Value, const
from ingot.compiler.targets.cpu.functions import F32, widened
from ingot.compiler.targets.cpu.microkernel import over_axes


def emit_body(
    b: ir.IRBuilder,
    template: BlockTranspose,
    scope: Scope,
    ranges: Mapping[str, tuple[Value, Value]],
    level: Level,
) -> None:
    """Emit one chunk: `ranges` gives ``begin, end`` of every axis of ``template.grid`` by its variable.

    Raises IrError when the offset of X is not affine in rows, or not contiguous along the depth.
    """
    row, k = (dims.coefficient(template.x.offset, axis.var) for axis in (template.rows, template.depth))
    if row is None or k is None or k[0] != 1 or not isinstance(template.depth.extent, int):
        raise IrError(f"the offset of {template.x.buffer!r} is not that of rows")
    lanes = level.lanes(4)
    while lanes > 1 and (template.depth.extent < lanes or template.size % lanes):
        lanes //= 2
    over_axes(b, template.blocks, ranges, scope, lambda inner: _block(b, template, inner, row[0], lanes))


def _block(b: ir.IRBuilder, template: BlockTranspose, scope: Scope, stride: dims.Dim, lanes: int) -> None:
    """A block, whose rows lie `stride` elements apart, `lanes` at a time."""
    depth, size = template.depth.extent, template.size
    assert isinstance(depth, int)
    first = dims.substitute(template.x.offset, {template.rows.var: 0, template.depth.var: 0})
    x = b.gep(scope.buffer(template.x.buffer)[0], [emit_dim(b, first, scope)], source_etype=F32)
    start = emit_dim(b, template.number * (depth * size), scope)
    y = b.gep(scope.buffer(template.y)[0], [start], source_etype=F32)
    step, last = emit_dim(b, stride, scope), emit_dim(b, template.rows.extent - 1, scope)
    kind = widened(F32, lanes if lanes > 1 else None)

    def square(row: Value, at: Value) -> None:
        """`lanes` rows from `row` on, `lanes` steps of the depth from `at` on."""
        vectors: list[Value] = []
        for i in range(lanes):
            place = flow.multiply(b, flow.minimum(b, flow.add(b, row, i), last), step)
            vectors.append(b.load(b.gep(x, [flow.add(b, place, at)], source_etype=F32), align=4, typ=kind))
        for i, vector in enumerate(microkernel.transpose(b, vectors)):
            place = flow.add(b, flow.multiply(b, flow.add(b, at, i), size), row)
            b.store(vector, b.gep(y, [place], source_etype=F32), align=4)

    def rows(row: Value, _: list[Value]) -> list[Value]:
        def steps(at: Value, _: list[Value]) -> list[Value]:
            square(row, at)
            return []

        flow.loop(b, const(0), const(depth - depth % lanes), lanes, [], steps, rounds=8)
        if depth % lanes:  # the last steps, of which some are moved twice
            square(row, const(depth - lanes))
        return []

    flow.loop(b, const(0), const(size), lanes, [], rows)
