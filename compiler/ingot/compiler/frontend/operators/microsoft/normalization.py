"""Layer norms with the sums before them, and embeddings."""

from __future__ import annotations

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.microsoft.operands import plus
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import MICROSOFT, Table
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import composite
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Gather, Slice
from ingot.compiler.ops.quantised import working_type
from ingot.compiler.ops.reduction import ReduceMean, ReduceSum
from ingot.runtime.dtypes import i32

TABLE = Table(domain=MICROSOFT)
onnx_op = TABLE.onnx_op

TINY = 1e-12  # the default epsilon of the fused norms


def root_mean_square(ctx: Context, x: Value, scale: Value, axis: int, epsilon: float) -> tuple[Value, Value]:
    """``x / sqrt(mean(x * x) + epsilon) * scale`` over the axes from `axis` on, and the factor, both computed in f32
    for halves (Zhang and Sennrich 2019)."""
    wide = ctx.cast(x, working_type(x.dtype))
    mean = ctx.build(ReduceMean, ctx.build(ops.Mul, wide, wide), tuple(range(axis, x.rank)), True)
    root = ctx.build(ops.Sqrt, ctx.build(ops.Add, mean, ctx.constant(epsilon, wide.dtype)))
    factor = ctx.build(ops.Reciprocal, root)
    normal = ctx.cast(ctx.build(ops.Mul, wide, factor), scale.dtype)
    return ctx.pointwise(ops.Mul, normal, scale), factor


@onnx_op("SimplifiedLayerNormalization", domain="")
def simplified_layer_normalization(ctx: Context) -> Results:
    """ONNX Runtime writes it into the standard's domain, though the standard does not have it."""
    x, scale = ctx.operand(0), ctx.operand(1)
    if ctx.attribute("stash_type", 1) != 1:
        raise ctx.unsupported("SimplifiedLayerNormalization with a stash_type other than float32")
    axis = ctx.axis(ctx.attribute("axis", -1), x.rank)
    ctx.broadcast_to(x.shape, scale.shape)
    return root_mean_square(ctx, x, scale, axis, ctx.attribute("epsilon", 1e-5))


def _summed(ctx: Context, bias: Value | None) -> Value:
    """input + skip + bias, in the shape of the input; skip may be the same for all of the batch."""
    return plus(ctx, plus(ctx, ctx.operand(0), ctx.operand(1)), bias)


@onnx_op("SkipLayerNormalization")
def skip_layer_normalization(ctx: Context) -> Results:
    """The norm of input + skip + bias over the last axis; result 3 is the sum."""
    gamma, beta, bias = ctx.operand(2), ctx.optional(3), ctx.optional(4)
    total = _summed(ctx, bias)
    normal = ctx.build(composite.LayerNorm, total, gamma, beta, total.rank - 1, ctx.attribute("epsilon", TINY))
    return normal, None, None, total


@onnx_op("SkipSimplifiedLayerNormalization")
def skip_simplified_layer_normalization(ctx: Context) -> Results:
    """As SkipLayerNormalization, by the root of the mean square."""
    gamma, bias = ctx.operand(2), ctx.optional(3)
    total = _summed(ctx, bias)
    normal, _ = root_mean_square(ctx, total, gamma, total.rank - 1, ctx.attribute("epsilon", TINY))
    return normal, None, None, total


@onnx_op("EmbedLayerNormalization")
def embed_layer_normalization(ctx: Context) -> Results:
    """The norm of the sum of the embeddings of words, positions and segments; how many elements of each row of the mask
    are 1; the sum."""
    words, segments, word_table, position_table, segment_table, gamma, beta, mask, positions = (
        ctx.optional(i) for i in range(9)
    )
    if words is None or word_table is None or position_table is None or gamma is None or beta is None:
        raise ctx.error("EmbedLayerNormalization lacks an input", "run onnx.checker on the model")
    ctx.ignore("mask_index_type")
    batch, length = words.shape
    total: Value = ctx.build(Gather, word_table, words, 0)
    if positions is None:
        room, width = position_table.shape
        ctx.at_least(room - length, 0, f"there are {room} positions in the table")
        found: Value = ctx.build(Slice, position_table, (0, 0), (length, width), (1, 1))
    else:
        found = ctx.build(Gather, position_table, positions, 0)
    total = ctx.pointwise(ops.Add, total, found)
    if segments is not None and segment_table is not None:
        total = ctx.pointwise(ops.Add, total, ctx.build(Gather, segment_table, segments, 0))
    normal = ctx.build(composite.LayerNorm, total, gamma, beta, 2, ctx.attribute("epsilon", TINY))
    if mask is None:
        counts: Value = ctx.expand(ctx.constant(0, i32), (batch,))
    else:
        ones = ctx.build(ops.Equal, mask, ctx.constant(1, mask.dtype))
        counts = ctx.build(ReduceSum, ctx.build(ops.Cast, ones, i32), (1,), False)
    return normal, counts, total
