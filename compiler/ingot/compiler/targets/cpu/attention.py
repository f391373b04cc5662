"""`ir.templates.Attention` as LLVM IR: softmax(scale * Q K^T + mask) V without the score matrix.

Queries are the lanes. A panel of `WIDTH` queries is transposed once (Q is all that is ever transposed); K is read row
by row as the left operand of the micro-kernel, so scores come out as [key][query] and the maximum, the exponential and
the sum of the softmax run down the lanes without a horizontal step. The scores of a block of keys stay in the
first-level cache; over the blocks the running maximum and sum are kept as in "FlashAttention" (Dao et al., 2022), so
scratch memory does not grow with the sequence.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.loops import Axis, Call, Expr, Index, Load
from ingot.compiler.ir.templates import Attention
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import flow, functions, microkernel
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim, emit_expr, emit_store
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import Value, as_constant, const
from ingot.compiler.targets.cpu.functions import F32, I32, constant, memory_type, widened
from ingot.compiler.targets.cpu.microkernel import Depth, MicroKernel, Operand, over_axes
from ingot.runtime.dtypes import DType, f32

WIDTH = 16  # queries a panel
KEY_BLOCK = 240  # keys whose scores are in scratch at once
ALIASING = 2048  # rows of V a multiple of so many bytes apart evict each other: they are copied first
COPY_PANELS = 4  # panels of queries that share a copy
MAX_STACK = 192 << 10  # bytes


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
    body = _Body(b, template, scope, ranges, level)
    over_axes(b, template.batch, ranges, scope, body.query_blocks)


class _Body:
    """The emission of one attention kernel; the methods go from the outermost loop inwards."""

    def __init__(
        self,
        b: ir.IRBuilder,
        template: Attention,
        scope: Scope,
        ranges: Mapping[str, tuple[Value, Value]],
        level: Level,
    ) -> None:
        self.b, self.template, self.ranges, self.level = b, template, ranges, level
        self.depth = self._extent(template.depth)
        self.value = self._extent(template.value)
        self._check_operands(scope)
        queries = template.queries.extent
        keys = template.keys.extent
        self.key_block = min(KEY_BLOCK, keys) if isinstance(keys, int) and keys > 0 else KEY_BLOCK
        self.key_dtype = scope.buffer(template.k.buffer)[1]
        self.value_dtype = scope.buffer(template.v.buffer)[1]
        stride = self._coefficient(template.v, template.keys)
        aliases = isinstance(stride, int) and stride * self.value_dtype.bytes % ALIASING == 0
        width = 8 if isinstance(queries, int) and queries <= 8 else WIDTH
        # Long rows of V are read where they are, and by fewer queries at a time.
        for self.copied, self.width in ((aliases, width), (False, width), (False, 8)):
            self.block = self.width * (COPY_PANELS if self.copied else 1)
            size = self._stack_bytes()
            if size <= MAX_STACK:
                break
        else:
            raise IrError(f"attention over depth {self.depth} and value {self.value} takes {size} bytes of stack")
        self.whole_panels = isinstance(queries, int) and queries % self.width == 0
        self.lanes = min(level.lanes(4), self.width)
        self.vectors = self.width // self.lanes
        block, scores = self.block, self.key_block * self.width
        self.vector = ir.VectorType(F32, self.lanes)
        self.panels = flow.stack(b, F32, self.depth * block)  # [panel][depth][query]
        self.scores = flow.stack(b, F32, scores)  # [key][query]
        self.sums = flow.stack(b, F32, block * self.value)  # [query][value]
        self.top = flow.stack(b, F32, block)  # largest score so far
        self.norm = flow.stack(b, F32, block)  # sum of exponentials so far
        self.block_top = flow.stack(b, F32, self.width)
        self.decay = flow.stack(b, F32, self.width)  # what a new maximum scales older sums by
        self.values = flow.stack(b, F32, self.key_block * self.value) if self.copied else None  # [key][value]

    def _stack_bytes(self) -> int:
        scratch = self.key_block * (self.width + self.copied * self.value)
        return 4 * (self.block * (self.depth + self.value + 2) + 2 * self.width + scratch)

    def _extent(self, axis: Axis) -> int:
        if not isinstance(axis.extent, int):
            raise IrError(f"attention needs a constant extent of {axis.var!r}, not {dims.show(axis.extent)}")
        return axis.extent

    def _check_operands(self, scope: Scope) -> None:
        template = self.template
        along = ((template.q, template.depth, template.queries), (template.k, template.depth, template.keys))
        for load, inner, outer in (*along, (template.v, template.value, template.keys)):
            inside = dims.coefficient(load.offset, inner.var)
            if inside is None or (inside[0] != 1 and inner.extent != 1):
                raise IrError(f"attention reads {load.buffer!r} with a stride other than 1 along {inner.var!r}")
            if dims.coefficient(load.offset, outer.var) is None:
                raise IrError(f"the offset of {load.buffer!r} is not affine in {outer.var!r}")
            dtype = scope.buffer(load.buffer)[1]
            if not dtype.is_float or dtype.bits > 32:
                raise IrError(f"attention accumulates in f32; {load.buffer!r} is {dtype}")

    def _at(self, base: Value, index: Value | int) -> Value:
        """The address of f32 element `index` of a scratch array."""
        index = const(index) if isinstance(index, int) else index
        return self.b.gep(base, [index], source_etype=F32)

    def _read(self, base: Value, index: Value | int) -> Value:
        return self.b.load(self._at(base, index), align=4, typ=self.vector)

    def _write(self, value: Value, base: Value, index: Value | int) -> None:
        self.b.store(value, self._at(base, index), align=4)

    def _call(self, fn: str, *args: Value) -> Value:
        return functions.call(self.b, self.level, fn, list(args), f32, f32)

    def _splat(self, number: float) -> Value:
        return constant(number, self.vector)

    # -- loops --------------------------------------------------------------------------------------------------------

    def query_blocks(self, scope: Scope) -> None:
        """Blocks of query panels; for each the blocks of keys."""
        b = self.b
        var = self.template.queries.var
        begin, end = self.ranges[var]
        inner = scope.child(b)

        def body(first: Value, _: list[Value]) -> list[Value]:
            inner.symbols[var] = first
            count = flow.minimum(b, b.sub(end, first), const(self.block))
            packing, softmax = inner.child(b), inner.child(b)

            def prepare(query: Value, _: list[Value]) -> list[Value]:
                self._pack_queries(packing, first, query, count)
                for v in range(self.vectors):
                    at = flow.add(b, query, v * self.lanes)
                    self._write(self._splat(-math.inf), self.top, at)
                    self._write(self._splat(0.0), self.norm, at)
                return []

            self._panel_loop(count, prepare)
            self._clear_sums(count)
            self._key_blocks(softmax, first, count)
            self._finish(inner.child(b), first, count)
            return []

        flow.loop(b, begin, end, self.block, [], body)

    def _panel_loop(self, count: Value, body: Callable[[Value, list[Value]], list[Value]]) -> None:
        """`body` for the first query of each panel of a block."""
        if self.block == self.width:
            body(const(0), [])
        else:
            flow.loop(self.b, const(0), count, self.width, [], body, nonempty=True, rounds=COPY_PANELS)

    def _clear_sums(self, count: Value) -> None:
        def body(index: Value, _: list[Value]) -> list[Value]:
            self._write(self._splat(0.0), self.sums, index)
            return []

        size = self.b.mul(count, const(self.value)) if self.copied else const(self.block * self.value)
        flow.loop(self.b, const(0), size, self.lanes, [], body, rounds=16)

    def _pack_queries(self, scope: Scope, first: Value, query: Value, count: Value) -> None:
        """Transpose a panel's queries, times the scale; rows past the last query repeat it."""
        b, template = self.b, self.template
        pointer, dtype = scope.buffer(template.q.buffer)
        element = memory_type(dtype)
        stride = emit_dim(b, self._coefficient(template.q, template.queries), scope)
        origin = emit_dim(b, dims.substitute(template.q.offset, {template.depth.var: 0}), scope)
        last = b.sub(count, const(1))
        panel = self._at(self.panels, flow.multiply(b, query, self.depth))
        rows: list[Value] = []
        for i in range(self.width):
            row = flow.multiply(b, flow.minimum(b, flow.add(b, query, i), last), stride)
            rows.append(b.gep(pointer, [flow.add(b, origin, row)], source_etype=element))
        whole = self.depth - self.depth % self.lanes
        scale = self.template.scale

        def load(row: Value, d: Value, lanes: int | None) -> Value:
            at = b.gep(row, [d], source_etype=element)
            raw = b.load(at, align=dtype.bytes, typ=widened(element, lanes))
            value = functions.cast(b, functions.from_memory(b, raw, dtype), dtype, f32)
            return b.fmul(value, constant(scale, value.type))

        def body(d: Value, _: list[Value]) -> list[Value]:
            for v in range(self.vectors):
                group = rows[v * self.lanes : (v + 1) * self.lanes]
                columns = microkernel.transpose(b, [load(row, d, self.lanes) for row in group])
                for k, column in enumerate(columns):
                    at = flow.add(b, flow.multiply(b, flow.add(b, d, k), self.width), v * self.lanes)
                    self._write(column, panel, at)
            return []

        flow.loop(b, const(0), const(whole), self.lanes, [], body, rounds=8)
        for d in range(whole, self.depth):
            for i, row in enumerate(rows):
                b.store(load(row, const(d), None), self._at(panel, d * self.width + i), align=4)

    def _coefficient(self, load: Load, axis: Axis) -> Dim:
        found = dims.coefficient(load.offset, axis.var)
        assert found is not None
        return found[0]

    def _key_blocks(self, scope: Scope, first: Value, count: Value) -> None:
        b = self.b
        keys = self.template.keys
        extent = emit_dim(b, keys.extent, scope)
        inner = scope.child(b)

        def body(key: Value, _: list[Value]) -> list[Value]:
            inner.symbols[keys.var] = key
            size = flow.minimum(b, flow.subtract(b, extent, key), const(self.key_block))
            if self.copied:
                self._copy_values(inner.child(b), size)
            panels = inner.child(b)

            def panel(query: Value, _: list[Value]) -> list[Value]:
                left = flow.subtract(b, count, query)
                self._scores(panels, flow.add(b, first, query), query, left, size)
                self._soften(query, size)
                self._accumulate(panels, query, left, size)
                return []

            self._panel_loop(count, panel)
            return []

        known = as_constant(extent)
        if known is not None and 0 < known <= self.key_block:
            body(const(0), [])
        else:
            flow.loop(b, const(0), extent, self.key_block, [], body, rounds=4)

    # -- scores -------------------------------------------------------------------------------------------------------

    def _scores(self, scope: Scope, first: Value, query: Value, count: Value, size: Value) -> None:
        """scores[key][query] of one block of keys and one panel, and the largest of each query.

        The panel's queries are number `query` of the block on and `first` of all; `count` of them are there."""
        b, template = self.b, self.template
        mask = template.mask
        by_query = mask is not None and template.queries.var in _symbols(mask)
        if mask is not None and by_query:
            self._write_mask(scope, mask, first, count, size)
        for v in range(self.vectors):
            self._write(self._splat(-math.inf), self.block_top, v * self.lanes)
        stride = emit_dim(b, self._coefficient(template.k, template.keys), scope)
        most = microkernel.fitting_rows(self.vectors, self.level.vector_registers, as_constant(stride), self.key_dtype)
        pointer = scope.buffer(template.k.buffer)[0]
        origin = emit_dim(b, dims.substitute(template.k.offset, {template.depth.var: 0}), scope)
        start = b.gep(pointer, [origin], source_etype=memory_type(self.key_dtype))
        inner = scope.child(b)
        base = scope.symbol(template.keys.var)
        panel = self._at(self.panels, flow.multiply(b, query, self.depth))

        def tile(slot: Value, rows: int, region: Scope) -> None:
            region.symbols[template.keys.var] = flow.add(b, base, slot)
            plan = microkernel.plan(rows, self.width, self.lanes, self.level.vector_registers)
            first_row = b.gep(start, [flow.multiply(b, slot, stride)], source_etype=memory_type(self.key_dtype))
            operands = self._row_operands(first_row, stride, rows)
            kernel = MicroKernel(
                b,
                plan,
                (self.key_dtype, f32, f32),
                operands,
                [Operand(panel)],
                Depth((), (const(self.depth), const(1))),
            )
            (sums,) = kernel.emit()
            tops = [self._read(self.block_top, v * self.lanes) for v in range(self.vectors)]
            for i, vectors in enumerate(sums):
                bias = None
                if mask is not None and not by_query:
                    row = region.child(b)
                    row.symbols[template.keys.var] = flow.add(b, region.symbol(template.keys.var), i)
                    bias = functions.splat(b, emit_expr(b, mask, row), self.lanes)
                for v, total in enumerate(vectors):
                    at = flow.add(b, flow.multiply(b, flow.add(b, slot, i), self.width), v * self.lanes)
                    if by_query:
                        total = b.fadd(total, self._read(self.scores, at))
                    elif bias is not None:
                        total = b.fadd(total, bias)
                    self._write(total, self.scores, at)
                    tops[v] = b.select(b.fcmp_ordered(">", total, tops[v]), total, tops[v])
            for v, top in enumerate(tops):
                self._write(top, self.block_top, v * self.lanes)

        microkernel.row_tiles(b, size, most, inner, tile)

    def _row_operands(self, first: Value, stride: Value, rows: int) -> list[Operand]:
        known = as_constant(stride)
        if known is not None:
            return [Operand(first, i * known) for i in range(rows)]
        element = memory_type(self.key_dtype)
        shifts = [flow.multiply(self.b, stride, i) for i in range(rows)]
        return [Operand(self.b.gep(first, [shift], source_etype=element)) for shift in shifts]

    def _write_mask(self, scope: Scope, mask: Expr, first: Value, count: Value, size: Value) -> None:
        """scores[key][query] = mask, read along the keys and transposed; queries past the last one repeat it."""
        b, lanes = self.b, self.lanes
        key, query = self.template.keys.var, self.template.queries.var
        base = scope.symbol(key)
        last = b.sub(count, const(1))
        rows: list[Scope] = []
        for i in range(self.width):
            row = scope.child(b)
            row.symbols[query] = b.add(first, flow.minimum(b, const(i), last))
            rows.append(row)

        def square(slot: Value, active: Value | None, inside: list[Scope]) -> None:
            for v in range(self.vectors):
                vectors: list[Value] = []
                for row in inside[v * lanes : (v + 1) * lanes]:
                    row.symbols[key] = b.add(base, slot)
                    vectors.append(emit_expr(b, mask, row, lanes, key, active))
                for k, column in enumerate(microkernel.transpose(b, vectors)):
                    at = flow.add(b, flow.multiply(b, flow.add(b, slot, k), self.width), v * lanes)
                    if active is None:
                        self._write(column, self.scores, at)
                    else:
                        flow.branch(
                            b,
                            b.extract_element(active, I32(k)),
                            lambda column=column, at=at: self._write(column, self.scores, at),
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

    def _soften(self, query: Value, size: Value) -> None:
        """Scores to exponentials relative to the largest so far; updates the maxima, the sums and the decay."""
        b = self.b
        tops: list[Value] = []
        places = [flow.add(b, query, v * self.lanes) for v in range(self.vectors)]
        for v, place in enumerate(places):
            old, block = self._read(self.top, place), self._read(self.block_top, v * self.lanes)
            new = b.select(b.fcmp_ordered(">", block, old), block, old)
            self._write(new, self.top, place)
            # -inf - -inf is NaN: queries that have seen no finite score yet are measured from 0.
            new = b.select(b.fcmp_ordered("==", new, self._splat(-math.inf)), self._splat(0.0), new)
            decay = self._call("exp", b.fsub(old, new))
            self._write(decay, self.decay, v * self.lanes)
            self._write(b.fmul(self._read(self.norm, place), decay), self.norm, place)
            tops.append(new)

        def body(key: Value, carried: list[Value]) -> list[Value]:
            totals: list[Value] = []
            for v, total in enumerate(carried):
                at = flow.add(b, flow.multiply(b, key, self.width), v * self.lanes)
                weight = self._call("fast_exp", b.fsub(self._read(self.scores, at), tops[v]))
                self._write(weight, self.scores, at)
                totals.append(b.fadd(total, weight))
            return totals

        start = [self._read(self.norm, place) for place in places]
        totals = flow.loop(b, const(0), size, 1, start, body, nonempty=True, rounds=64)
        for place, total in zip(places, totals, strict=True):
            self._write(total, self.norm, place)

    # -- values -------------------------------------------------------------------------------------------------------

    def _copy_values(self, scope: Scope, size: Value) -> None:
        """The block's rows of V one behind the other, as f32."""
        b = self.b
        start, stride = self._value_rows(scope)
        assert self.values is not None
        kind = memory_type(self.value_dtype)
        lanes = self.level.lanes(4)
        whole = self.value - self.value % lanes
        spans = [*((e, lanes) for e in range(0, whole, lanes)), *((e, None) for e in range(whole, self.value))]

        def body(key: Value, _: list[Value]) -> list[Value]:
            row = b.gep(start, [flow.multiply(b, key, stride)], source_etype=kind)
            target = self._at(self.values, flow.multiply(b, key, self.value))
            for e, count in spans:
                at = b.gep(row, [const(e)], source_etype=kind)
                raw = b.load(at, align=self.value_dtype.bytes, typ=widened(kind, count))
                wide = functions.cast(b, functions.from_memory(b, raw, self.value_dtype), self.value_dtype, f32)
                b.store(wide, self._at(target, e), align=4)
            return []

        flow.loop(b, const(0), size, 1, [], body, nonempty=True, rounds=64)

    def _value_rows(self, scope: Scope) -> tuple[Value, Value]:
        """The address of V's row for the current key, and the distance between rows in elements."""
        b, template = self.b, self.template
        pointer = scope.buffer(template.v.buffer)[0]
        origin = emit_dim(b, dims.substitute(template.v.offset, {template.value.var: 0}), scope)
        start = b.gep(pointer, [origin], source_etype=memory_type(self.value_dtype))
        return start, emit_dim(b, self._coefficient(template.v, template.keys), scope)

    def _accumulate(self, scope: Scope, first: Value, count: Value, size: Value) -> None:
        """sums[query] = decay * sums[query] + weights of the block times V, for the `count` queries of the panel that
        starts with number `first` of the block."""
        b = self.b
        if self.values is not None:
            start, stride, dtype = self.values, const(self.value), f32
        else:
            (start, stride), dtype = self._value_rows(scope), self.value_dtype
        sums = self._at(self.sums, flow.multiply(b, first, self.value))
        whole = self.value - self.value % WIDTH

        def column(e: Value, width: int) -> None:
            lanes = min(self.level.lanes(4), width)
            most = microkernel.fitting_rows(width // lanes, self.level.vector_registers, None, f32, self.width)
            tiles = -(-self.width // most)
            sizes = [self.width // tiles + (t < self.width % tiles) for t in range(tiles)]
            for rows, query in zip(sizes, itertools.accumulate(sizes, initial=0), strict=False):

                def tile(query: int = query, rows: int = rows) -> None:
                    self._value_tile((start, stride, dtype), sums, e, query, rows, width, lanes, size)

                if query == 0 or self.whole_panels:
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
        while e < self.value:
            if width <= self.value - e:
                column(const(e), width)
                e += width
            else:
                width //= 2

    def _value_tile(
        self,
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
        b = self.b
        start, stride, dtype = v
        plan = microkernel.plan(rows, width, lanes, self.level.vector_registers)
        at = b.gep(start, [e], source_etype=memory_type(dtype))
        kernel = MicroKernel(
            b,
            plan,
            (f32, dtype, f32),
            [Operand(self.scores, query + i) for i in range(rows)],
            [Operand(at)],
            Depth((), (size, const(self.width))),
            step=stride,
        )
        (sums,) = kernel.emit()
        kind = widened(F32, plan.lanes if plan.lanes > 1 else None)
        for i, vectors in enumerate(sums):
            scalar = b.load(self._at(self.decay, query + i), align=4, typ=F32)
            decay = functions.splat(b, scalar, plan.lanes if plan.lanes > 1 else None)
            for part, total in enumerate(vectors):
                place = self._at(target, flow.add(b, e, (query + i) * self.value + part * plan.lanes))
                old = b.load(place, align=4, typ=kind)
                b.store(microkernel.multiply_add(b, old, decay, total, f32), place, align=4)

    def _finish(self, scope: Scope, first: Value, count: Value) -> None:
        """Divide by the sums and store, query by query."""
        b, template = self.b, self.template
        var, lanes = template.value.var, self.level.lanes(4)
        inner = scope.child(b)
        keys = emit_dim(b, template.keys.extent, inner)

        def body(i: Value, _: list[Value]) -> list[Value]:
            row = inner
            row.symbols[template.queries.var] = b.add(first, i)
            norm = b.load(self._at(self.norm, i), align=4, typ=F32)
            if not as_constant(keys):  # over no keys the sum is 0, as in a product
                norm = b.select(b.icmp_signed("==", keys, const(0)), constant(1.0, F32), norm)
            compare = {"masked": b.fcmp_ordered, "nan": b.fcmp_unordered}.get(template.guard)
            lost = compare("==", norm, constant(0.0, F32)) if compare else None
            base = b.mul(i, const(self.value))
            spans = [row.child(b) for _ in range(3)]

            def store(e: Value, width: int | None, span: Scope) -> None:
                span.symbols[var] = e
                total = b.load(self._at(self.sums, b.add(base, e)), align=4, typ=widened(F32, width))
                mean = b.fdiv(total, functions.splat(b, norm, width))
                span.locals["acc"] = mean if lost is None else b.select(lost, constant(0.0, mean.type), mean)
                emit_store(b, template.out, span, width, var)

            whole = self.value - self.value % lanes

            def vector(e: Value, _: list[Value]) -> list[Value]:
                store(e, lanes, spans[0])
                return []

            def single(e: Value, _: list[Value]) -> list[Value]:
                store(e, None, spans[1])
                return []

            flow.loop(b, const(0), const(whole), lanes, [], vector, rounds=8)
            flow.loop(b, const(whole), const(self.value), 1, [], single, rounds=2)
            return []

        flow.loop(b, const(0), count, 1, [], body, nonempty=True, rounds=self.block)


def _symbols(expr: Expr) -> frozenset[str]:
    """The symbols that an expression's dims mention."""
    match expr:
        case Load(offset=dim) | Index(dim=dim):
            return dims.symbols(dim)
        case Call(args=args):
            return frozenset().union(*map(_symbols, args))
        case _:
            return frozenset()
