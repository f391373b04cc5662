"""Scores of one panel of queries over one block of keys, and their running softmax."""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

import math

from ingot.compiler.ir import dims
from ingot.compiler.ir.loops import Call, Expr, Index, Load
from ingot.compiler.targets.cpu import flow, functions, microkernel
from ingot.compiler.targets.cpu.attention_workspace import Workspace, coefficient
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim, emit_expr
from ingot.compiler.targets.cpu.flow import Value, as_constant, const
from ingot.compiler.targets.cpu.functions import I32, memory_type
from ingot.compiler.targets.cpu.microkernel import Depth, MicroKernel, Operand
from ingot.runtime.dtypes import f32


def emit_scores(work: Workspace, scope: Scope, first: Value, query: Value, count: Value, size: Value) -> None:
    """scores[key][query] of one block of keys and one panel, and the largest of each query.

    The panel's queries are number `query` of the block on and `first` of all; `count` of them are there."""
    b, template = work.b, work.template
    mask = template.mask
    by_query = mask is not None and template.queries.var in _symbols(mask)
    if mask is not None and by_query:
        _write_mask(work, scope, mask, first, count, size)
    for v in range(work.vectors):
        work.write(work.splat(-math.inf), work.block_top, v * work.lanes)
    stride = emit_dim(b, coefficient(template.k, template.keys), scope)
    most = microkernel.fitting_rows(work.vectors, work.level.vector_registers, as_constant(stride), work.key_dtype)
    pointer = scope.buffer(template.k.buffer)[0]
    origin = emit_dim(b, dims.substitute(template.k.offset, {template.depth.var: 0}), scope)
    start = b.gep(pointer, [origin], source_etype=memory_type(work.key_dtype))
    inner = scope.child(b)
    base = scope.symbol(template.keys.var)
    panel = work.at(work.panels, flow.multiply(b, query, work.depth))

    def tile(slot: Value, rows: int, region: Scope) -> None:
        region.symbols[template.keys.var] = flow.add(b, base, slot)
        plan = microkernel.plan(rows, work.width, work.lanes, work.level.vector_registers)
        first_row = b.gep(start, [flow.multiply(b, slot, stride)], source_etype=memory_type(work.key_dtype))
        operands = _row_operands(work, first_row, stride, rows)
        kernel = MicroKernel(
            b,
            plan,
            (work.key_dtype, f32, f32),
            operands,
            [Operand(panel)],
            Depth((), (const(work.depth), const(1))),
        )
        (sums,) = kernel.emit()
        tops = [work.read(work.block_top, v * work.lanes) for v in range(work.vectors)]
        for i, vectors in enumerate(sums):
            bias = None
            if mask is not None and not by_query:
                row = region.child(b)
                row.symbols[template.keys.var] = flow.add(b, region.symbol(template.keys.var), i)
                bias = functions.splat(b, emit_expr(b, mask, row), work.lanes)
            for v, total in enumerate(vectors):
                at = flow.add(b, flow.multiply(b, flow.add(b, slot, i), work.width), v * work.lanes)
                if by_query:
                    total = b.fadd(total, work.read(work.scores, at))
                elif bias is not None:
                    total = b.fadd(total, bias)
                work.write(total, work.scores, at)
                tops[v] = b.select(b.fcmp_ordered(">", total, tops[v]), total, tops[v])
        for v, top in enumerate(tops):
            work.write(top, work.block_top, v * work.lanes)

    microkernel.row_tiles(b, size, most, inner, tile)


def _row_operands(work: Workspace, first: Value, stride: Value, rows: int) -> list[Operand]:
    known = as_constant(stride)
    if known is not None:
        return [Operand(first, i * known) for i in range(rows)]
    element = memory_type(work.key_dtype)
    shifts = [flow.multiply(work.b, stride, i) for i in range(rows)]
    return [Operand(work.b.gep(first, [shift], source_etype=element)) for shift in shifts]


def _write_mask(work: Workspace, scope: Scope, mask: Expr, first: Value, count: Value, size: Value) -> None:
    """scores[key][query] = mask, read along the keys and transposed; queries past the last one repeat it."""
    b, lanes = work.b, work.lanes
    key, query = work.template.keys.var, work.template.queries.var
    base = scope.symbol(key)
    last = b.sub(count, const(1))
    rows: list[Scope] = []
    for i in range(work.width):
        row = scope.child(b)
        row.symbols[query] = b.add(first, flow.minimum(b, const(i), last))
        rows.append(row)

    def square(slot: Value, active: Value | None, inside: list[Scope]) -> None:
        for v in range(work.vectors):
            vectors: list[Value] = []
            for row in inside[v * lanes : (v + 1) * lanes]:
                row.symbols[key] = b.add(base, slot)
                vectors.append(emit_expr(b, mask, row, lanes, key, active))
            for k, column in enumerate(microkernel.transpose(b, vectors)):
                at = flow.add(b, flow.multiply(b, flow.add(b, slot, k), work.width), v * lanes)
                if active is None:
                    work.write(column, work.scores, at)
                else:
                    flow.branch(
                        b,
                        b.extract_element(active, I32(k)),
                        lambda column=column, at=at: work.write(column, work.scores, at),
                        None,
                    )

    whole = b.and_(size, const(-lanes))
    looped, tail = [row.child(b) for row in rows], [row.child(b) for row in rows]

    def body(slot: Value, _: list[Value]) -> list[Value]:
        square(slot, None, looped)
        return []

    def rest() -> None:
        square(whole, microkernel.lanes_below(b, b.sub(size, whole), lanes), tail)

    flow.loop(b, const(0), whole, lanes, [], body, rounds=16)
    flow.branch(b, b.icmp_signed("<", whole, size), rest, None, (1, 16))


def emit_softmax(work: Workspace, query: Value, size: Value) -> None:
    """Scores to exponentials relative to the largest so far; updates the maxima, the sums and the decay."""
    b = work.b
    tops: list[Value] = []
    places = [flow.add(b, query, v * work.lanes) for v in range(work.vectors)]
    for v, place in enumerate(places):
        old, block = work.read(work.top, place), work.read(work.block_top, v * work.lanes)
        new = b.select(b.fcmp_ordered(">", block, old), block, old)
        work.write(new, work.top, place)
        # -inf - -inf is NaN: queries that have seen no finite score yet are measured from 0.
        new = b.select(b.fcmp_ordered("==", new, work.splat(-math.inf)), work.splat(0.0), new)
        decay = _exp(work, b.fsub(old, new))
        work.write(decay, work.decay, v * work.lanes)
        work.write(b.fmul(work.read(work.norm, place), decay), work.norm, place)
        tops.append(new)

    def body(key: Value, carried: list[Value]) -> list[Value]:
        totals: list[Value] = []
        for v, total in enumerate(carried):
            at = flow.add(b, flow.multiply(b, key, work.width), v * work.lanes)
            weight = _exp(work, b.fsub(work.read(work.scores, at), tops[v]))
            work.write(weight, work.scores, at)
            totals.append(b.fadd(total, weight))
        return totals

    start = [work.read(work.norm, place) for place in places]
    totals = flow.loop(b, const(0), size, 1, start, body, nonempty=True, rounds=64)
    for place, total in zip(places, totals, strict=True):
        work.write(total, work.norm, place)


def _exp(work: Workspace, x: Value) -> Value:
    return functions.call(work.b, work.level, "fast_exp", [x], f32, f32)  # of differences to a maximum


def _symbols(expr: Expr) -> frozenset[str]:
    """The symbols that an expression's dims mention."""
    match expr:
        case Load(offset=dim) | Index(dim=dim):
            return dims.symbols(dim)
        case Call(args=args):
            return frozenset().union(*map(_symbols, args))
        case _:
            return frozenset()
