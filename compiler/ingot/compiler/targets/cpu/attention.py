"""`ir.templates.Attention` as LLVM IR: softmax(scale * Q K^T + mask) V without the score matrix.

Queries are the lanes. A panel of `WIDTH` queries is transposed once (Q is all that is ever transposed); K is read row
by row as the left operand of the micro-kernel, so scores come out as [key][query] and the maximum, the exponential and
the sum of the softmax run down the lanes without a horizontal step (`attention_scores`). The scores of a block of keys
stay in the first-level cache; over the blocks the running maximum and sum are kept as in "FlashAttention" (Dao et al.,
2022), so scratch memory does not grow with the sequence, and each block adds its weights times V to the results
(`attention_values`), which are divided by the sum in the end.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.templates import Attention
from ingot.compiler.targets.cpu import flow, functions, microkernel
from ingot.compiler.targets.cpu.attention_scores import emit_scores, emit_softmax
from ingot.compiler.targets.cpu.attention_values import accumulate, copy_values
from ingot.compiler.targets.cpu.attention_workspace import COPY_PANELS, Workspace, coefficient
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim, emit_store
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import Value, as_constant, const
from ingot.compiler.targets.cpu.functions import F32, constant, memory_type, widened
from ingot.compiler.targets.cpu.microkernel import over_axes
from ingot.runtime.dtypes import f32


def emit_body(
    b: ir.IRBuilder,
    template: Attention,
    scope: Scope,
    ranges: Mapping[str, tuple[Value, Value]],
    level: Level,
) -> None:
    """Emit one chunk: `ranges` gives ``begin, end`` of the batch axes and of the queries.

    Raises IrError when depth or value extents are not constant, an operand is not contiguous along them, or they are so
    long that the panels do not fit the stack.
    """
    work = Workspace(b, template, scope, level)
    queries = ranges[template.queries.var]
    over_axes(b, template.batch, ranges, scope, lambda inside: _query_blocks(work, inside, *queries))


def _query_blocks(work: Workspace, scope: Scope, begin: Value, end: Value) -> None:
    """Blocks of query panels; for each the blocks of keys."""
    b = work.b
    var = work.template.queries.var
    inner = scope.child(b)

    def body(first: Value, _: list[Value]) -> list[Value]:
        inner.symbols[var] = first
        count = flow.minimum(b, b.sub(end, first), const(work.block))
        packing, softmax = inner.child(b), inner.child(b)

        def prepare(query: Value, _: list[Value]) -> list[Value]:
            _pack_queries(work, packing, first, query, count)
            for v in range(work.vectors):
                at = flow.add(b, query, v * work.lanes)
                work.write(work.splat(-math.inf), work.top, at)
                work.write(work.splat(0.0), work.norm, at)
            return []

        _panel_loop(work, count, prepare)
        _clear_sums(work, count)
        _key_blocks(work, softmax, first, count)
        _finish(work, inner.child(b), first, count)
        return []

    flow.loop(b, begin, end, work.block, [], body)


def _panel_loop(work: Workspace, count: Value, body: Callable[[Value, list[Value]], list[Value]]) -> None:
    """`body` for the first query of each panel of a block."""
    if work.block == work.width:
        body(const(0), [])
    else:
        flow.loop(work.b, const(0), count, work.width, [], body, nonempty=True, rounds=COPY_PANELS)


def _clear_sums(work: Workspace, count: Value) -> None:
    def body(index: Value, _: list[Value]) -> list[Value]:
        work.write(work.splat(0.0), work.sums, index)
        return []

    size = work.b.mul(count, const(work.value)) if work.copied else const(work.block * work.value)
    flow.loop(work.b, const(0), size, work.lanes, [], body, rounds=16)


def _pack_queries(work: Workspace, scope: Scope, first: Value, query: Value, count: Value) -> None:
    """Transpose a panel's queries, times the scale; rows past the last query repeat it."""
    b, template = work.b, work.template
    pointer, dtype = scope.buffer(template.q.buffer)
    element = memory_type(dtype)
    stride = emit_dim(b, coefficient(template.q, template.queries), scope)
    origin = emit_dim(b, dims.substitute(template.q.offset, {template.depth.var: 0}), scope)
    last = b.sub(count, const(1))
    panel = work.at(work.panels, flow.multiply(b, query, work.depth))
    rows: list[Value] = []
    for i in range(work.width):
        row = flow.multiply(b, flow.minimum(b, flow.add(b, query, i), last), stride)
        rows.append(b.gep(pointer, [flow.add(b, origin, row)], source_etype=element))
    whole = work.depth - work.depth % work.lanes
    scale = work.template.scale

    def load(row: Value, d: Value, lanes: int | None) -> Value:
        at = b.gep(row, [d], source_etype=element)
        raw = b.load(at, align=dtype.bytes, typ=widened(element, lanes))
        value = functions.cast(b, functions.from_memory(b, raw, dtype), dtype, f32)
        return b.fmul(value, constant(scale, value.type))

    def body(d: Value, _: list[Value]) -> list[Value]:
        for v in range(work.vectors):
            group = rows[v * work.lanes : (v + 1) * work.lanes]
            columns = microkernel.transpose(b, [load(row, d, work.lanes) for row in group])
            for k, column in enumerate(columns):
                at = flow.add(b, flow.multiply(b, flow.add(b, d, k), work.width), v * work.lanes)
                work.write(column, panel, at)
        return []

    flow.loop(b, const(0), const(whole), work.lanes, [], body, rounds=8)
    for d in range(whole, work.depth):
        for i, row in enumerate(rows):
            b.store(load(row, const(d), None), work.at(panel, d * work.width + i), align=4)


def _key_blocks(work: Workspace, scope: Scope, first: Value, count: Value) -> None:
    b = work.b
    keys = work.template.keys
    extent = emit_dim(b, keys.extent, scope)
    inner = scope.child(b)

    def body(key: Value, _: list[Value]) -> list[Value]:
        inner.symbols[keys.var] = key
        size = flow.minimum(b, flow.subtract(b, extent, key), const(work.key_block))
        if work.copied:
            copy_values(work, inner.child(b), size)
        panels = inner.child(b)

        def panel(query: Value, _: list[Value]) -> list[Value]:
            left = flow.subtract(b, count, query)
            emit_scores(work, panels, flow.add(b, first, query), query, left, size)
            emit_softmax(work, query, size)
            accumulate(work, panels, query, left, size)
            return []

        _panel_loop(work, count, panel)
        return []

    known = as_constant(extent)
    if known is not None and 0 < known <= work.key_block:
        body(const(0), [])
    else:
        flow.loop(b, const(0), extent, work.key_block, [], body, rounds=4)


def _finish(work: Workspace, scope: Scope, first: Value, count: Value) -> None:
    """Divide by the sums and store, query by query."""
    b, template = work.b, work.template
    var, lanes = template.value.var, work.level.lanes(4)
    inner = scope.child(b)
    keys = emit_dim(b, template.keys.extent, inner)

    def body(i: Value, _: list[Value]) -> list[Value]:
        row = inner
        row.symbols[template.queries.var] = b.add(first, i)
        norm = b.load(work.at(work.norm, i), align=4, typ=F32)
        if not as_constant(keys):  # over no keys the sum is 0, as in a product
            norm = b.select(b.icmp_signed("==", keys, const(0)), constant(1.0, F32), norm)
        compare = {"masked": b.fcmp_ordered, "nan": b.fcmp_unordered}.get(template.guard)
        lost = compare("==", norm, constant(0.0, F32)) if compare else None
        base = b.mul(i, const(work.value))
        spans = [row.child(b) for _ in range(3)]

        def store(e: Value, width: int | None, span: Scope) -> None:
            span.symbols[var] = e
            total = b.load(work.at(work.sums, b.add(base, e)), align=4, typ=widened(F32, width))
            mean = b.fdiv(total, functions.splat(b, norm, width))
            span.locals["acc"] = mean if lost is None else b.select(lost, constant(0.0, mean.type), mean)
            emit_store(b, template.out, span, width, var)

        whole = work.value - work.value % lanes

        def vector(e: Value, _: list[Value]) -> list[Value]:
            store(e, lanes, spans[0])
            return []

        def single(e: Value, _: list[Value]) -> list[Value]:
            store(e, None, spans[1])
            return []

        flow.loop(b, const(0), const(whole), lanes, [], vector, rounds=8)
        flow.loop(b, const(whole), const(work.value), 1, [], single, rounds=2)
        return []

    flow.loop(b, const(0), count, 1, [], body, nonempty=True, rounds=work.block)
