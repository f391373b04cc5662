"""Weights of a few bits, several to a byte, each block with a scale and a zero point of its own."""

from __future__ import annotations

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.contraction import matrix_product
from ingot.compiler.frontend.operators.narrow import readable
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import MICROSOFT, Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.bitwise import BitAnd, ShiftRight
from ingot.compiler.ops.movement import Concat, Expand, Gather, Reshape, Slice, Transpose
from ingot.compiler.ops.quantised import Dequantize
from ingot.runtime.dtypes import DType, f32, u8

TABLE = Table(domain=MICROSOFT)
onnx_op = TABLE.onnx_op
BYTES = 4  # the accuracy level that lets activations be rounded to 8 bits


def unpacked(ctx: Context, x: Value, bits: int, extent: Dim) -> Value:
    """u8 [..., n] as u8 [..., extent]: the parts of each byte one after the other, the lowest bits first."""
    if bits not in (2, 4, 8) or x.dtype != u8:
        raise ctx.unsupported(f"weights of {bits} bits in {x.type}", "2, 4 and 8 bits in uint8 are supported")
    whole = x
    if bits < 8:
        mask = ctx.constant(2**bits - 1, u8)
        parts = [
            ctx.build(BitAnd, x if not low else ctx.build(ShiftRight, x, ctx.constant(low, u8)), mask)
            for low in range(0, 8, bits)
        ]
        columns = tuple(ctx.build(Reshape, part, (*x.shape, 1)) for part in parts)
        joined = ctx.build(Concat, columns, x.rank)
        whole = ctx.build(Reshape, joined, (*x.shape[:-1], x.shape[-1] * (8 // bits)))
    return _cut(ctx, whole, extent)


def _cut(ctx: Context, x: Value, extent: Dim) -> Value:
    """The first `extent` elements of the last axis."""
    if x.shape[-1] == extent:
        return x
    ctx.at_least(x.shape[-1] - extent, 0, f"{dims.show(extent)} weights are needed, {x.type} holds fewer")
    return ctx.build(Slice, x, (0,) * x.rank, (*x.shape[:-1], extent), (1,) * x.rank)


def _repeated(ctx: Context, x: Value, block: int, extent: Dim) -> Value:
    """Each element of the last axis `block` times, up to `extent`."""
    spread = ctx.build(Expand, ctx.build(Reshape, x, (*x.shape, 1)), (*x.shape, block))
    return _cut(ctx, ctx.build(Reshape, spread, (*x.shape[:-1], x.shape[-1] * block)), extent)


def _difference(ctx: Context, x: Value, zero: Value, to: DType) -> Value:
    return ctx.pointwise(ops.Sub, *(ctx.cast(v, to) for v in (x, zero)))


@onnx_op("MatMulNBits")
def mat_mul_n_bits(ctx: Context) -> Results:
    """``a @ w.T + bias`` with w [N, K] in blocks along K: ``(bits - zero point) * scale``. An accuracy level of 4 says
    that a may be rounded to 8 bits; below it, nothing is rounded."""
    a, packed, scales, zeros, groups, bias = (ctx.optional(i) for i in range(6))
    if a is None or packed is None or scales is None:
        raise ctx.error("MatMulNBits lacks an input", "run onnx.checker on the model")
    if groups is not None:
        raise ctx.unsupported("MatMulNBits with an order of its own (g_idx)", "quantise the model without it")
    if ctx.attribute("weight_prepacked", 0):
        raise ctx.unsupported("MatMulNBits with weights in a layout of one processor", "quantise the model without it")
    level = ctx.attribute("accuracy_level", 0)
    rows, depth = ctx.attribute("N", 0), ctx.attribute("K", 0)
    bits, block = ctx.attribute("bits", 4), ctx.attribute("block_size", 0)
    if rows < 1 or depth < 1 or block < 1:
        raise ctx.error(f"MatMulNBits of {rows} rows of {depth} in blocks of {block}")
    blocks = dims.ceil_divide(depth, block)
    ctx.equal(packed.type.size * (8 // max(bits, 1)), rows * blocks * block)
    flat = ctx.build(Reshape, packed, (rows, blocks * block * bits // 8))
    weight = unpacked(ctx, flat, bits, depth)
    scale = _repeated(ctx, ctx.build(Reshape, scales, (rows, blocks)), block, depth)
    if zeros is None:
        zero: Value = ctx.constant(2 ** (bits - 1), u8)
    elif zeros.dtype == u8:
        width = dims.ceil_divide(blocks * bits, 8)
        zero = unpacked(ctx, ctx.build(Reshape, zeros, (rows, width)), bits, blocks)
        zero = _repeated(ctx, zero, block, depth)
    else:
        zero = _repeated(ctx, ctx.build(Reshape, zeros, (rows, blocks)), block, depth)
    if zero.dtype == u8:
        real: Value = ctx.build(Dequantize, weight, scale, zero)
    else:
        real = ctx.build(ops.Mul, _difference(ctx, weight, zero, scale.dtype), scale)
    real = ctx.cast(real, a.dtype)
    a_bits = 8 if level == BYTES and a.dtype == f32 else 0
    product = matrix_product(ctx, a, ctx.build(Transpose, real, (1, 0)), a_bits)
    return product if bias is None else ctx.pointwise(ops.Add, product, bias)


@onnx_op("GatherBlockQuantized")
def gather_block_quantized(ctx: Context) -> Results:
    """Rows of a quantised table, dequantised in blocks along the last axis."""
    data, indices, scales, zeros = ctx.operand(0), ctx.operand(1), ctx.operand(2), ctx.optional(3)
    axis = ctx.axis(ctx.attribute("gather_axis", 0), data.rank)
    along = ctx.axis(ctx.attribute("quantize_axis", 1), data.rank)
    bits, block = ctx.attribute("bits", 4), ctx.attribute("block_size", 128)
    last = data.rank - 1
    if along != last or axis == last or block < 1:
        raise ctx.unsupported(
            f"GatherBlockQuantized along axis {axis}, in blocks of {block} along axis {along} of {data.type}",
            "blocks along the last axis and another axis to gather from are supported",
        )

    def rows(x: Value) -> Value:
        return ctx.build(Gather, x, indices, axis)

    packed = data.dtype == u8
    found = rows(data)
    extent = found.shape[-1] * (8 // max(bits, 1)) if packed else found.shape[-1]
    weight = unpacked(ctx, found, bits, extent) if packed else readable(ctx, found)
    scale = rows(scales)
    blocks = scale.shape[-1]
    ctx.equal(blocks, dims.ceil_divide(extent, block))
    if zeros is None:
        zero: Value = ctx.constant(2 ** (bits - 1) if packed else 0, weight.dtype)
    else:
        chosen = rows(zeros)
        chosen = unpacked(ctx, chosen, bits, blocks) if packed else readable(ctx, chosen)
        zero = _repeated(ctx, chosen, block, extent)
    return ctx.build(Dequantize, weight, _repeated(ctx, scale, block, extent), zero)
