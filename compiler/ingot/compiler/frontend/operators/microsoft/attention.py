"""Attention with all that is around it: projections, heads, masks, caches and rotary positions.

Heads are laid out as [batch, heads, length, depth]. Where ONNX Runtime adds a large negative number to a score, so does
this, and a row of which nothing is left is then an average, as there.
"""

from __future__ import annotations

import math

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.contraction import matrix_product
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.operators.microsoft.integers import integer_product
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import MICROSOFT, Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import composite
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.indexing import Scatter
from ingot.compiler.ops.movement import Concat, Expand, Gather, Reshape, Slice, Transpose
from ingot.runtime.dtypes import i64

TABLE = Table(domain=MICROSOFT)
onnx_op = TABLE.onnx_op

LOWEST = float(np.finfo(np.float32).min)  # what stands for a score that causality forbids
FILTER = -10000.0  # what is added, by default, to one that a mask forbids


# -- heads ------------------------------------------------------------------------------------------------------------


def in_heads(ctx: Context, x: Value, count: int) -> Value:
    """[batch, length, heads * depth] as heads."""
    batch, length, width = x.shape
    depth = dims.divide_exact(width, count)
    if depth is None:
        raise ctx.error(f"{x.type} has no {count} heads")
    return ctx.build(Transpose, ctx.build(Reshape, x, (batch, length, count, depth)), (0, 2, 1, 3))


def joined(ctx: Context, x: Value) -> Value:
    """Heads as [batch, length, heads * depth]."""
    batch, heads, length, depth = x.shape
    return ctx.build(Reshape, ctx.build(Transpose, x, (0, 2, 1, 3)), (batch, length, heads * depth))


def parted(ctx: Context, x: Value, axis: int, sizes: tuple[Dim, ...]) -> list[Value]:
    """x cut along an axis."""
    found: list[Value] = []
    start: Dim = 0
    for size in sizes:
        starts = (*(0,) * axis, start, *(0,) * (x.rank - axis - 1))
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        found.append(ctx.build(Slice, x, starts, shape, (1,) * x.rank))
        start = start + size
    return found


def _heads_wanted(ctx: Context, name: str = "num_heads") -> int:
    count = ctx.attribute(name, 0)
    if count < 1:
        raise ctx.error(f"{name} is {count}, a positive number is needed")
    return count


def _scale(ctx: Context, q: Value) -> float:
    given, depth = ctx.attribute("scale", 0.0), q.shape[-1]
    if given:
        return given
    if not isinstance(depth, int):
        raise ctx.unsupported(f"heads of {dims.show(depth)} elements", "pin the width of the input with shapes")
    return 1 / math.sqrt(depth)


def _refuse(ctx: Context, *inputs: int) -> None:
    for index in inputs:
        if ctx.optional(index) is not None:
            raise ctx.unsupported(f"input {index} of {ctx.node.op_type}")


def _behind(ctx: Context, past: Value | None, x: Value) -> Value:
    """Heads after those of a cache, along the length."""
    if past is None:
        return x
    if past.rank != 4:
        raise ctx.error(f"the cache {past.type} is not [batch, heads, length, depth]")
    for axis in (0, 1, 3):
        ctx.equal(past.shape[axis], x.shape[axis])
    return ctx.build(Concat, (past, x), 2)


# -- masks ------------------------------------------------------------------------------------------------------------


def _where(ctx: Context, allowed: Value, otherwise: float, like: Value) -> Value:
    return ctx.build(ops.Where, allowed, ctx.constant(0, like.dtype), ctx.constant(otherwise, like.dtype))


def _list_mask(ctx: Context, mask: Value, batch: Dim, keys: Dim) -> Value:
    """[batch, 1, 1, keys]: the keys before the end of each row, or between its end and, in the second half of the list,
    its beginning."""
    wide = ctx.cast(mask, i64)
    place = ctx.build(Reshape, counted(ctx, keys, i64), (1, 1, 1, keys))

    def column(x: Value) -> Value:
        return ctx.build(Reshape, x, (batch, 1, 1, 1))

    if mask.shape[0] == 2 * batch:
        end, start = parted(ctx, wide, 0, (batch, batch))
        inside = ctx.build(ops.Less, place, column(end))
        return ctx.build(ops.And, inside, ctx.build(ops.LessOrEqual, column(start), place))
    ctx.equal(mask.shape[0], batch)
    return ctx.build(ops.Less, place, column(wide))


def key_mask(ctx: Context, mask: Value, q: Value, keys: Dim) -> Value:
    """What a mask input in any of its forms allows, as bools that broadcast to the scores of q."""
    batch, _, length, _ = q.shape
    if mask.rank == 1:
        return _list_mask(ctx, mask, batch, keys)
    positive = ctx.build(ops.Greater, mask, ctx.constant(0, mask.dtype))
    match mask.rank:
        case 2:
            ctx.equal(mask.shape[1], keys)
            return ctx.build(Reshape, positive, (mask.shape[0], 1, 1, keys))
        case 3:
            ctx.equal(mask.shape[2], keys)
            return ctx.build(Reshape, positive, (mask.shape[0], 1, length, keys))
        case 4:
            shape = (mask.shape[0], mask.shape[1], length, keys)
            return ctx.build(Slice, positive, (0, 0, keys - length, 0), shape, (1,) * 4)
        case _:
            raise ctx.error(f"the mask {mask.type} has none of the forms that are known")


def causal_mask(ctx: Context, length: Dim, keys: Dim) -> Value:
    """[length, keys]: no key after the query, which stand at the end."""
    query = ctx.build(Reshape, counted(ctx, length, i64), (length, 1))
    last = ctx.build(ops.Add, query, ctx.dim_values((keys - length,), True))
    return ctx.build(ops.LessOrEqual, counted(ctx, keys, i64), last)


def _added(ctx: Context, a: Value | None, b: Value | None) -> Value | None:
    if a is None or b is None:
        return a if b is None else b
    return ctx.pointwise(ops.Add, a, b)


def attended(ctx: Context, q: Value, k: Value, v: Value, mask: Value | None, bias: Value | None) -> Value:
    """The heads of the result joined. `mask` is one of the forms of `key_mask`, `bias` is added to the scores; the
    attributes say the rest."""
    keys = k.shape[2]
    total: Value | None = None
    if mask is not None:
        filtered = ctx.attribute("mask_filter_value", FILTER)
        total = _where(ctx, key_mask(ctx, mask, q, keys), filtered, q)
    ctx.ignore("mask_filter_value")
    if ctx.attribute("unidirectional", 0):
        allowed = causal_mask(ctx, q.shape[2], keys)
        kept = total if total is not None else ctx.constant(0, q.dtype)
        total = ctx.build(ops.Where, allowed, kept, ctx.constant(LOWEST if q.dtype.bits > 16 else -65504.0, q.dtype))
    if bias is not None:
        ctx.broadcast_to((q.shape[0], q.shape[1], q.shape[2], keys), bias.shape)
    total = _added(ctx, total, bias)
    return joined(ctx, ctx.build(composite.Attention, q, k, v, total, _scale(ctx, q)))


# -- operators --------------------------------------------------------------------------------------------------------


def _projected(ctx: Context, qkv: Value, mask: int, past: int, bias: int | None) -> Results:
    """Attention from queries, keys and values side by side [batch, length, widths]; the others are input numbers."""
    count = _heads_wanted(ctx)
    sizes: tuple[Dim, ...] | None = ctx.ints("qkv_hidden_sizes")
    if sizes is None:
        third = dims.divide_exact(qkv.shape[2], 3)
        if third is None:
            raise ctx.error(f"queries, keys and values {qkv.type} are not of one width")
        sizes = (third,) * 3
    if len(sizes) != 3 or sizes[0] != sizes[1]:
        raise ctx.error(f"qkv_hidden_sizes is {list(sizes)}")
    for name in ("do_rotary", "past_present_share_buffer", "rotary_embedding_dim"):
        if ctx.attribute(name, 0):
            raise ctx.unsupported(f"{ctx.node.op_type} with {name}")
    q, k, v = (in_heads(ctx, part, count) for part in parted(ctx, qkv, 2, sizes))
    cache = ctx.optional(past)
    if cache is not None:
        shape = cache.shape[1:]
        before = [ctx.build(Reshape, part, shape) for part in parted(ctx, cache, 0, (1, 1))]
        k, v = (_behind(ctx, p, x) for p, x in zip(before, (k, v), strict=True))
    added = None if bias is None else ctx.optional(bias)
    result = attended(ctx, q, k, v, ctx.optional(mask), added)
    if len(ctx.node.output) < 2 or not ctx.node.output[1]:
        return result
    ctx.equal(sizes[0], sizes[2])
    present = ctx.build(Concat, tuple(ctx.build(Reshape, x, (1, *x.shape)) for x in (k, v)), 0)
    return result, present


@onnx_op("Attention")
def attention(ctx: Context) -> Results:
    """Inputs: x, weights and bias of the projection, mask, past [2, batch, heads, length, depth], bias of scores."""
    qkv: Value = matrix_product(ctx, ctx.operand(0), ctx.operand(1))
    bias = ctx.optional(2)
    qkv = qkv if bias is None else ctx.pointwise(ops.Add, qkv, bias)
    _refuse(ctx, 6)
    return _projected(ctx, qkv, 3, 4, 5)


@onnx_op("QAttention")
def quantised_attention(ctx: Context) -> Results:
    """Attention whose projection is a product of integers."""
    x, weight, bias, x_scale, weight_scale = (ctx.operand(i) for i in range(5))
    zeros = ctx.optional(6), ctx.optional(7)
    qkv = ctx.pointwise(ops.Add, integer_product(ctx, x, weight, zeros, (x_scale, weight_scale)), bias)
    return _projected(ctx, qkv, 5, 8, None)


@onnx_op("MultiHeadAttention")
def multi_head_attention(ctx: Context) -> Results:
    """Queries [batch, length, width], or with keys and values [batch, length, heads, 3, depth]; keys and values as
    queries, together [batch, length, heads, 2, depth], or in heads already."""
    query, key, value, bias = ctx.operand(0), ctx.optional(1), ctx.optional(2), ctx.optional(3)
    count = _heads_wanted(ctx)
    _refuse(ctx, 8, 9)

    def packed(x: Value, parts: int) -> list[Value]:
        batch, length, heads, _, depth = x.shape
        columns = parted(ctx, x, 3, (1,) * parts)
        return [ctx.build(Reshape, c, (batch, length, heads * depth)) for c in columns]

    if query.rank == 5:
        query, key, value = packed(query, 3)
    elif key is not None and key.rank == 5:
        key, value = packed(key, 2)
    if key is None or value is None:
        raise ctx.error(f"there are no keys or no values beside the queries {query.type}")
    sides = [query, key, value]
    if bias is not None:
        widths = [x.shape[2] if x.rank == 3 else x.shape[1] * x.shape[3] for x in sides]
        ctx.equal(bias.shape[0], widths[0] + widths[1] + widths[2])
        parts = parted(ctx, bias, 0, tuple(widths))
        sides = [ctx.pointwise(ops.Add, x, p) if x.rank == 3 else x for x, p in zip(sides, parts, strict=True)]
    q, k, v = (in_heads(ctx, x, count) if x.rank == 3 else x for x in sides)
    ctx.equal(k.shape[2], v.shape[2])
    k, v = _behind(ctx, ctx.optional(6), k), _behind(ctx, ctx.optional(7), v)
    return attended(ctx, q, k, v, ctx.optional(4), ctx.optional(5)), k, v


# -- rotary positions -------------------------------------------------------------------------------------------------


def rotated(ctx: Context, x: Value, cosine: Value, sine: Value, interleaved: bool) -> Value:
    """Heads whose pairs of elements are turned by the angles of their positions (Su et al. 2021): element i with i plus
    half of those that are turned, or with its neighbour. `cosine` and `sine` are [batch or 1, 1, length, half]."""
    half, depth = cosine.shape[-1], x.shape[-1]
    lead, zeros, ones = x.shape[:-1], (0,) * (x.rank - 1), (1,) * (x.rank - 1)
    step = 2 if interleaved else 1
    a, b = (
        ctx.build(Slice, x, (*zeros, start), (*lead, half), (*ones, step)) for start in (0, 1 if interleaved else half)
    )
    ctx.broadcast_to(a.shape, cosine.shape)
    turned: list[Value] = [
        ctx.build(ops.Sub, ctx.build(ops.Mul, a, cosine), ctx.build(ops.Mul, b, sine)),
        ctx.build(ops.Add, ctx.build(ops.Mul, b, cosine), ctx.build(ops.Mul, a, sine)),
    ]
    if interleaved:
        pairs = ctx.build(Concat, tuple(ctx.build(Reshape, t, (*lead, half, 1)) for t in turned), x.rank)
        turned = [ctx.build(Reshape, pairs, (*lead, half * 2))]
    if half * 2 != depth:
        turned.append(ctx.build(Slice, x, (*zeros, half * 2), (*lead, depth - half * 2), (*ones, 1)))
    return ctx.concat(turned, x.rank - 1)


def angles(ctx: Context, table: Value, places: Value) -> Value:
    """Rows of a table [positions, half] for places [batch or 1, length], for all heads."""
    found = ctx.build(Gather, table, places, 0)
    return ctx.build(Reshape, found, (found.shape[0], 1, *found.shape[1:]))


@onnx_op("RotaryEmbedding")
def rotary_embedding(ctx: Context) -> Results:
    """x [batch, length, width] or in heads; positions for each element, or the first one of all rows."""
    x, positions, cosine, sine = (ctx.operand(i) for i in range(4))
    if ctx.attribute("is_packed_batching", 0) or ctx.attribute("scale", 1.0) != 1.0:
        raise ctx.unsupported("RotaryEmbedding of packed batches or with a scale")
    count, part = ctx.attribute("num_heads", 0), ctx.attribute("rotary_embedding_dim", 0)
    if part and cosine.shape[-1] * 2 != part:
        raise ctx.error(f"rotary_embedding_dim is {part}, the table is {cosine.type}")
    heads = x
    if x.rank == 3:
        if not count:
            found = dims.divide_exact(x.shape[2], cosine.shape[-1] * 2)
            if not isinstance(found, int):
                raise ctx.unsupported(f"RotaryEmbedding of {x.type}: how many heads there are is not known")
            count = found
        heads = in_heads(ctx, x, count)
    length = heads.shape[2]
    if positions.rank == 1:
        rows = ctx.build(Reshape, counted(ctx, length, i64), (1, length))
        positions = ctx.build(ops.Add, rows, ctx.scalar(positions))
    interleaved = bool(ctx.attribute("interleaved", 0))
    result = rotated(ctx, heads, angles(ctx, cosine, positions), angles(ctx, sine, positions), interleaved)
    return joined(ctx, result) if x.rank == 3 else result


# -- grouped queries --------------------------------------------------------------------------------------------------


@onnx_op("GroupQueryAttention")
def group_query_attention(ctx: Context) -> Results:
    """Several heads of queries for one of keys and values (Ainslie et al. 2023), with a cache that is written behind
    what each row of the batch has: its number of keys less one is input 5, the largest number of keys input 6.

    The cache that goes out has room for the largest number, or for as many as the one that comes in.
    """
    count, groups = _heads_wanted(ctx), _heads_wanted(ctx, "kv_num_heads")
    _refuse(ctx, 11, 12, 13, 14, 15)
    for name, plain in (("smooth_softmax", (-1, 0)), ("qk_output", (0,)), ("kv_cache_bit_width", (0,))):
        if ctx.attribute(name, plain[0]) not in plain:
            raise ctx.unsupported(f"GroupQueryAttention with {name}")
    if ctx.attribute("softcap", 0.0) or not ctx.attribute("causal", 1) or ctx.attribute("sliding_window_cache", 0):
        raise ctx.unsupported("GroupQueryAttention that is not causal, or with softcap or a sliding cache")
    if any(ctx.attribute(f"{side}_quant_type", "NONE") != "NONE" for side in "kv"):
        raise ctx.unsupported("GroupQueryAttention with a quantised cache")
    ctx.ignore("qk_norm_epsilon")
    query, key, value = ctx.operand(0), ctx.optional(1), ctx.optional(2)
    if key is None or value is None:
        depth = dims.divide_exact(query.shape[2], count + 2 * groups)
        if depth is None:
            raise ctx.error(f"{query.type} has no {count} heads of queries and {groups} of keys and values")
        query, key, value = parted(ctx, query, 2, (depth * count, depth * groups, depth * groups))
    q, k, v = (in_heads(ctx, x, n) for x, n in ((query, count), (key, groups), (value, groups)))
    batch, _, length, depth = q.shape

    lengths = ctx.cast(ctx.operand(5), i64)
    most = ctx.dims(6, "the largest number of keys")[0]
    past_key, past_value = ctx.optional(3), ctx.optional(4)
    before: Dim = 0 if past_key is None else past_key.shape[2]
    room = ctx.assumptions.largest(most, before)
    # The first tokens of all come with as many keys as queries: nothing is before them, whatever the lengths say.
    first = ctx.build(ops.Equal, ctx.dim_values((most,), True), ctx.dim_values((length,), True))
    held = ctx.build(ops.Sub, ctx.build(Reshape, lengths, (batch, 1)), ctx.dim_values((length - 1,), True))
    held = ctx.build(ops.Where, first, ctx.constant(0, i64), held)
    places = ctx.build(ops.Add, held, counted(ctx, length, i64))  # [batch, length]
    if ctx.attribute("do_rotary", 0):
        cosine, sine, positions = ctx.operand(7), ctx.operand(8), ctx.optional(9)
        cosine, sine = (angles(ctx, t, places if positions is None else positions) for t in (cosine, sine))
        interleaved = bool(ctx.attribute("rotary_interleaved", 0))
        q, k = (rotated(ctx, x, cosine, sine, interleaved) for x in (q, k))
    ctx.ignore("rotary_interleaved")
    for index in (7, 8, 9):
        ctx.optional(index)
    k, v = (_written(ctx, p, x, places, room) for p, x in ((past_key, k), (past_value, v)))
    grouped = ctx.build(Reshape, q, (batch, groups, count // groups, length, depth))
    mask = _window_mask(ctx, grouped, places, room)
    shared = [ctx.build(Reshape, x, (batch, groups, 1, room, x.shape[3])) for x in (k, v)]
    result = ctx.build(composite.Attention, grouped, *shared, mask, _scale(ctx, q))
    return joined(ctx, ctx.build(Reshape, result, (batch, count, length, v.shape[3]))), k, v


def _window_mask(ctx: Context, q: Value, places: Value, room: Dim) -> Value:
    """What is added to the scores of q [batch, groups, heads of a group, length, depth] at places [batch, length] for
    the `room` keys of the cache: no key behind the query or before its window counts; and the bias."""
    batch, groups, heads, length, _ = q.shape
    last = ctx.build(Reshape, places, (batch, 1, 1, length, 1))
    allowed = ctx.build(ops.LessOrEqual, counted(ctx, room, i64), last)
    window = ctx.attribute("local_window_size", -1)
    if window > 0:
        oldest = ctx.build(ops.Sub, last, ctx.constant(window, i64))
        allowed = ctx.build(ops.And, allowed, ctx.build(ops.Less, oldest, counted(ctx, room, i64)))
    mask = _where(ctx, allowed, -math.inf, q)
    bias = ctx.optional(10)
    if bias is None:
        return mask
    ctx.equal(bias.shape[3], room)
    each = (1, 1) if bias.shape[1] == 1 else (groups, heads)
    return ctx.pointwise(ops.Add, mask, ctx.build(Reshape, bias, (bias.shape[0], *each, length, bias.shape[3])))


def _written(ctx: Context, past: Value | None, x: Value, places: Value, room: Dim) -> Value:
    """The cache with room for `room` keys and heads written at places [batch, length]."""
    batch, heads, length, depth = x.shape
    if past is None:
        cache: Value = ctx.expand(ctx.constant(0, x.dtype), (batch, heads, room, depth))
    else:
        ctx.equal(past.shape[0], batch)
        ctx.equal(past.shape[1], heads)
        ctx.equal(past.shape[3], depth)
        more = room - past.shape[2]
        cache = past
        if more != 0:
            rest = ctx.build(Expand, ctx.constant(0, x.dtype), (batch, heads, more, depth))
            cache = ctx.build(Concat, (past, rest), 2)
    where = ctx.build(Reshape, places, (batch, 1, length, 1))
    return ctx.build(Scatter, cache, where, x, 2, "none")
