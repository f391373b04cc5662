"""What a block of keys adds to the results of a panel of queries: the panel's weights times rows of V."""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

import itertools

from ingot.compiler.ir import dims
from ingot.compiler.targets.cpu import flow, functions, microkernel
from ingot.compiler.targets.cpu.attention_workspace import WIDTH, Workspace, coefficient
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim
from ingot.compiler.targets.cpu.flow import Value, const
from ingot.compiler.targets.cpu.functions import F32, memory_type, widened
from ingot.compiler.targets.cpu.microkernel import Depth, MicroKernel, Operand
from ingot.runtime.dtypes import DType, f32


def copy_values(work: Workspace, scope: Scope, size: Value) -> None:
    """The block's rows of V one behind the other, as f32."""
    b = work.b
    start, stride = _value_rows(work, scope)
    assert work.values is not None
    kind = memory_type(work.value_dtype)
    lanes = work.level.lanes(4)
    whole = work.value - work.value % lanes
    spans = [*((e, lanes) for e in range(0, whole, lanes)), *((e, None) for e in range(whole, work.value))]

    def body(key: Value, _: list[Value]) -> list[Value]:
        row = b.gep(start, [flow.multiply(b, key, stride)], source_etype=kind)
        target = work.at(work.values, flow.multiply(b, key, work.value))
        for e, count in spans:
            at = b.gep(row, [const(e)], source_etype=kind)
            raw = b.load(at, align=work.value_dtype.bytes, typ=widened(kind, count))
            wide = functions.cast(b, functions.from_memory(b, raw, work.value_dtype), work.value_dtype, f32)
            b.store(wide, work.at(target, e), align=4)
        return []

    flow.loop(b, const(0), size, 1, [], body, nonempty=True, rounds=64)


def accumulate(work: Workspace, scope: Scope, first: Value, count: Value, size: Value) -> None:
    """sums[query] = decay * sums[query] + weights of the block times V, for the `count` queries of the panel that
    starts with number `first` of the block."""
    b = work.b
    if work.values is not None:
        start, stride, dtype = work.values, const(work.value), f32
    else:
        (start, stride), dtype = _value_rows(work, scope), work.value_dtype
    sums = work.at(work.sums, flow.multiply(b, first, work.value))
    whole = work.value - work.value % WIDTH

    def column(e: Value, width: int) -> None:
        lanes = min(work.level.lanes(4), width)
        most = microkernel.fitting_rows(width // lanes, work.level.vector_registers, None, f32, work.width)
        tiles = -(-work.width // most)
        sizes = [work.width // tiles + (t < work.width % tiles) for t in range(tiles)]
        for rows, query in zip(sizes, itertools.accumulate(sizes, initial=0), strict=False):

            def tile(query: int = query, rows: int = rows) -> None:
                _value_tile(work, (start, stride, dtype), sums, e, query, rows, width, lanes, size)

            if query == 0 or work.whole_panels:
                tile()
            else:
                flow.branch(b, b.icmp_signed("<", const(query), count), tile, None)

    def body(e: Value, _: list[Value]) -> list[Value]:
        column(e, WIDTH)
        return []

    if whole == WIDTH:
        column(const(0), WIDTH)
    else:
        flow.loop(b, const(0), const(whole), WIDTH, [], body, rounds=4)
    width, e = WIDTH // 2, whole
    while e < work.value:
        if width <= work.value - e:
            column(const(e), width)
            e += width
        else:
            width //= 2


def _value_rows(work: Workspace, scope: Scope) -> tuple[Value, Value]:
    """The address of V's row for the current key, and the distance between rows in elements."""
    b, template = work.b, work.template
    pointer = scope.buffer(template.v.buffer)[0]
    origin = emit_dim(b, dims.substitute(template.v.offset, {template.value.var: 0}), scope)
    start = b.gep(pointer, [origin], source_etype=memory_type(work.value_dtype))
    return start, emit_dim(b, coefficient(template.v, template.keys), scope)


def _value_tile(
    work: Workspace,
    v: tuple[Value, Value, DType],
    target: Value,
    e: Value,
    query: int,
    rows: int,
    width: int,
    lanes: int,
    size: Value,
) -> None:
    """`rows` queries from `query` on times `width` values from `e` on, added to `target`."""
    b = work.b
    start, stride, dtype = v
    plan = microkernel.plan(rows, width, lanes, work.level.vector_registers)
    at = b.gep(start, [e], source_etype=memory_type(dtype))
    kernel = MicroKernel(
        b,
        plan,
        (f32, dtype, f32),
        [Operand(work.scores, query + i) for i in range(rows)],
        [Operand(at)],
        Depth((), (size, const(work.width))),
        step=stride,
    )
    (sums,) = kernel.emit()
    kind = widened(F32, plan.lanes if plan.lanes > 1 else None)
    for i, vectors in enumerate(sums):
        scalar = b.load(work.at(work.decay, query + i), align=4, typ=F32)
        decay = functions.splat(b, scalar, plan.lanes if plan.lanes > 1 else None)
        for part, total in enumerate(vectors):
            place = work.at(target, flow.add(b, e, (query + i) * work.value + part * plan.lanes))
            old = b.load(place, align=4, typ=kind)
            b.store(microkernel.multiply_add(b, old, decay, total, f32), place, align=4)
