"""Matrix products and convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ir.types import show_shape
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.indexing import Scatter
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Pad, Reshape, Slice, Transpose
from ingot.compiler.ops.reduction import ArgMax, ReduceSum
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.runtime.dtypes import i64

TABLE = Table()
onnx_op = TABLE.onnx_op


@onnx_op("MatMul")
def mat_mul(ctx: Context) -> Results:
    return matrix_product(ctx, ctx.operand(0), ctx.operand(1))


def matrix_product(ctx: Context, a: Value, b: Value, a_bits: int = 0) -> Value:
    """numpy's matmul: a vector on the left is a row, on the right a column, and its axis is dropped again. `a_bits` is
    that of `MatMul`."""
    if a.rank == 0 or b.rank == 0:
        raise ctx.error(f"MatMul of {a.type} and {b.type}: scalars are not allowed")
    left = ctx.build(Reshape, a, (1, a.shape[0])) if a.rank == 1 else a
    right = ctx.build(Reshape, b, (b.shape[0], 1)) if b.rank == 1 else b
    ctx.equal(left.shape[-1], right.shape[-2])
    left, right = ctx.whole_rows(left, right, behind=2)
    ctx.broadcast(left.shape[:-2], right.shape[:-2])
    product = ctx.build(MatMul, left, right, a_bits)
    shape = list(product.shape)
    if b.rank == 1:
        del shape[-1]
    if a.rank == 1:
        del shape[-2 if b.rank > 1 else -1]
    return product if len(shape) == product.rank else ctx.build(Reshape, product, tuple(shape))


@onnx_op("Gemm")
def gemm(ctx: Context) -> Results:
    """``alpha * op(a) @ op(b) + beta * c``"""
    ctx.ignore("broadcast")
    a, b, c = ctx.operand(0), ctx.operand(1), ctx.optional(2)
    if a.rank != 2 or b.rank != 2:
        raise ctx.error(f"Gemm needs matrices, the operands are {a.type} and {b.type}")
    if ctx.attribute("transA", 0):
        a = ctx.build(Transpose, a, (1, 0))
    if ctx.attribute("transB", 0):
        b = ctx.build(Transpose, b, (1, 0))
    ctx.equal(a.shape[1], b.shape[0])
    result: Value = ctx.build(MatMul, a, b)
    alpha, beta = ctx.attribute("alpha", 1.0), ctx.attribute("beta", 1.0)
    if alpha != 1.0:
        result = ctx.build(ops.Mul, result, ctx.constant(alpha, result.dtype))
    if c is None or beta == 0.0:
        return result
    if beta != 1.0:
        c = ctx.build(ops.Mul, c, ctx.constant(beta, c.dtype))
    ctx.broadcast_to(result.shape, c.shape)
    total = ctx.pointwise(ops.Add, result, c)
    if total.shape != result.shape:
        raise ctx.error(f"C {c.type} does not broadcast to the product {result.type}")
    return total


@dataclass(frozen=True)
class Window:
    """Strides, pads (begins, then ends) and dilations of a sliding window."""

    strides: tuple[int, ...]
    pads: Dims
    dilations: tuple[int, ...]

    def padded(self, ctx: Context, x: Value, border: Value | None = None) -> tuple[Value, tuple[int, ...]]:
        """x [N, C, *spatial] with those pads added, of `border` (default: 0), that depend on its extents, and the pads
        that are left."""
        left = tuple(p if isinstance(p, int) else 0 for p in self.pads)
        if left == self.pads:
            return x, left
        n = len(self.strides)
        added = tuple(0 if isinstance(p, int) else p for p in self.pads)
        return ctx.build(Pad, x, (0, 0, *added[:n], 0, 0, *added[n:]), "constant", border), left


def window(ctx: Context, x: Value, kernel: tuple[int, ...], ceil_mode: bool = False) -> Window:
    """The window attributes of a convolution or pooling of x [N, C, *spatial], auto_pad resolved.

    There must be room for one window: each padded extent is at least what the kernel spans (with `ceil_mode` it may
    stick out by less than a stride). ModelError where that cannot be.
    """
    n = len(kernel)
    strides = ctx.ints("strides") or (1,) * n
    dilations = ctx.ints("dilations") or (1,) * n
    explicit = ctx.ints("pads")
    mode = ctx.attribute("auto_pad", "NOTSET")
    if len(strides) != n or len(dilations) != n or min(strides) < 1:
        raise ctx.error(f"strides {list(strides)} and dilations {list(dilations)} do not fit a kernel of {n} axes")
    if mode in ("NOTSET", "", "VALID"):
        pads = explicit or (0,) * (2 * n) if mode != "VALID" else (0,) * (2 * n)
        if len(pads) != 2 * n:
            raise ctx.error(f"pads {list(pads)} do not fit a kernel of {n} axes")
        slack = [s - 1 if ceil_mode else 0 for s in strides]
        for i, extent in enumerate(x.shape[2:]):
            padded, reach = extent + (pads[i] + pads[n + i]), dilations[i] * (kernel[i] - 1) + 1
            ctx.at_least(
                padded, reach - slack[i], f"the kernel spans {reach} on axis {i + 2} of {x.type}, padding included"
            )
        return Window(strides, pads, dilations)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise ctx.error(f"unknown auto_pad {mode!r}", "run onnx.checker on the model")
    begins: list[Dim] = []
    ends: list[Dim] = []
    for extent, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        reach = dilation * (k - 1) + 1
        total = (dims.ceil_divide(extent, stride) - 1) * stride + reach - extent
        if reach < stride:
            total = ctx.assumptions.largest(total, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return Window(strides, (*begins, *ends), dilations)


@onnx_op("Conv")
def conv(ctx: Context) -> Results:
    x, w, bias = ctx.operand(0), ctx.operand(1), ctx.optional(2)
    if w.rank != x.rank or x.rank < 3:
        raise ctx.error(f"the weight {w.type} does not fit {x.type}: both need the same rank, 3 or more")
    given = ctx.ints("kernel_shape")
    if given is not None and len(given) == w.rank - 2:
        for extent, k in zip(w.shape[2:], given, strict=True):
            ctx.equal(extent, k)
    kernel = tuple(d for d in w.shape[2:] if isinstance(d, int))
    if len(kernel) != x.rank - 2:
        raise ctx.unsupported(f"the weight {w.type} has a symbolic kernel", "pin its spatial dims with shapes")
    if given is not None and given != kernel:
        raise ctx.error(f"kernel_shape {list(given)} does not agree with the weight {w.type}")
    shared = window(ctx, x, kernel)
    group = ctx.attribute("group", 1)
    ctx.equal(x.shape[1], w.shape[1] * group)
    if group > 1 and not isinstance(w.shape[0], int):
        raise ctx.unsupported(f"{group} groups of filters {w.type}", "pin the number of filters with shapes")
    x, pads = shared.padded(ctx, x)
    return ctx.build(Conv, x, w, bias, shared.strides, pads, shared.dilations, group, False)


@onnx_op("ConvTranspose")
def conv_transpose(ctx: Context) -> Results:
    x, w, bias = ctx.operand(0), ctx.operand(1), ctx.optional(2)
    if w.rank != x.rank or x.rank < 3 or not all(isinstance(d, int) for d in w.shape[1:]):
        raise ctx.error(f"the weight {w.type} does not fit {x.type}: both need the same rank, 3 or more")
    n = x.rank - 2
    kernel = tuple(d for d in w.shape[2:] if isinstance(d, int))
    given = ctx.ints("kernel_shape")
    if given is not None and given != kernel:
        raise ctx.error(f"kernel_shape {list(given)} does not agree with the weight {w.type}")
    strides, dilations = ctx.ints("strides") or (1,) * n, ctx.ints("dilations") or (1,) * n
    beyond, group = ctx.ints("output_padding") or (0,) * n, ctx.attribute("group", 1)
    mode, pads, shape = ctx.attribute("auto_pad", "NOTSET"), ctx.ints("pads"), ctx.ints("output_shape")
    if mode not in ("NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ctx.error(f"unknown auto_pad {mode!r}", "run onnx.checker on the model")
    ctx.equal(x.shape[1], w.shape[0])
    if shape is not None:
        shape = shape[-n:]
    if shape is not None or mode.startswith("SAME"):
        begins: list[int] = []
        ends: list[int] = []
        for i, (extent, k) in enumerate(zip(x.shape[2:], kernel, strict=True)):
            wanted = shape[i] if shape is not None else extent * strides[i]
            total = (extent - 1) * strides[i] + beyond[i] + (k - 1) * dilations[i] + 1 - wanted
            if not isinstance(total, int):
                raise ctx.unsupported(f"ConvTranspose of {x.type} to a constant shape", "pin its extents with shapes")
            if shape is None:
                total = max(total, 0)
            half, rest = total // 2, total - total // 2
            begins.append(half if mode == "SAME_UPPER" else rest)
            ends.append(rest if mode == "SAME_UPPER" else half)
        pads = (*begins, *ends)
    elif mode == "VALID" or pads is None:
        pads = (0,) * (2 * n)
    return ctx.build(ConvTranspose, x, w, bias, strides, pads, dilations, beyond, group, False)


@onnx_op("Col2Im", since=18)
def column_to_image(ctx: Context) -> Results:
    """Blocks added up where they overlap: a transposed convolution; the filter for a place in a block is 1 there."""
    x, image, block = ctx.operand(0), ctx.dims(1, "the image shape"), ctx.dims(2, "the block shape")
    n = len(block)
    strides, dilations = ctx.ints("strides") or (1,) * n, ctx.ints("dilations") or (1,) * n
    pads = ctx.ints("pads") or (0,) * (2 * n)
    if n == 0 or x.rank != 3 or len(image) != n or len(strides) != n or len(dilations) != n or len(pads) != 2 * n:
        raise ctx.error(f"image {show_shape(image)} and block {show_shape(block)} do not fit {x.type}")
    if min((*strides, *dilations), default=1) < 1 or min(pads, default=0) < 0:
        raise ctx.error(f"strides {strides}, dilations {dilations} and pads {pads}: positive ones are needed")
    known = tuple(d for d in block if isinstance(d, int))
    channels = dims.divide_exact(x.shape[1], math.prod(known)) if len(known) == n and 0 not in known else None
    places: list[Dim] = []
    beyond: list[Dim] = []
    for i, extent in enumerate(image):
        room = extent + (pads[i] + pads[n + i] - dilations[i] * (block[i] - 1) - 1)
        places.append(room // strides[i] + 1)
        beyond.append(room % strides[i])
    rests = tuple(d for d in beyond if isinstance(d, int))
    if x.dtype.kind in ("bool", "string"):
        raise ctx.unsupported(f"Col2Im of {x.dtype.name}, which cannot be added", "cast it to numbers")
    if not isinstance(channels, int) or len(rests) != n or not x.dtype.is_float:
        return _columns_added(ctx, x, image, block, strides, dilations, pads)
    ctx.equal(x.shape[2], dims.product(places))
    taps = math.prod(known)
    filters = np.tile(np.eye(taps).reshape(taps, 1, *known), (channels, *(1,) * (n + 1)))
    columns = ctx.build(Reshape, ctx.checked(x)[0], (x.shape[0], x.shape[1], *places))
    weight = ctx.constant(filters, x.dtype)
    return ctx.build(ConvTranspose, columns, weight, None, strides, pads, dilations, rests, channels, False)


def _columns_added(
    ctx: Context,
    x: Value,
    image: Dims,
    block: Dims,
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...],
) -> Value:
    """Col2Im of blocks and images that are computed: every element is added where it belongs in the padded image."""
    n, one = len(block), ctx.constant(1, i64)
    padded = tuple(d + pads[i] + pads[n + i] for i, d in enumerate(image))
    number: Value = one
    rows: list[Value] = []  # of each axis: where an element of a block lies, by place in the block and by block
    counts: list[Dim] = []
    for i, (extent, size) in enumerate(zip(padded, block, strict=True)):
        last = ctx.dim_values(((size - 1) * dilations[i],), True)
        room = ctx.build(ops.Sub, ctx.dim_values((extent - 1,), True), last)
        some = ctx.build(ops.GreaterOrEqual, ctx.dim_values((size,), True), one)
        fits = ctx.build(ops.And, some, ctx.build(ops.GreaterOrEqual, room, ctx.constant(0, i64)))
        ctx.require(fits, f"a block is empty or larger than the image along axis {i}")
        (room,) = ctx.checked(room)
        several = ctx.build(ops.Div, room, ctx.constant(strides[i], i64))
        counts.append(ctx.size(ctx.build(ops.Add, several, one), "the number of blocks"))
        inside = ctx.build(ops.Mul, counted(ctx, size, i64), ctx.constant(dilations[i], i64))
        begin = ctx.build(ops.Mul, counted(ctx, counts[i], i64), ctx.constant(strides[i], i64))
        own = ctx.build(ops.Add, ctx.build(Reshape, inside, (size, 1)), begin)
        step = ctx.dim_values((dims.product(padded[i + 1 :]),), True)
        shape: list[Dim] = [1] * (2 * n)
        shape[i], shape[n + i] = size, counts[i]
        rows.append(ctx.build(Reshape, ctx.build(ops.Mul, own, step), tuple(shape)))
        number = ctx.build(ops.Mul, number, ctx.dim_values((size,), True))
    place = rows[0]
    for row in rows[1:]:
        place = ctx.build(ops.Add, place, row)
    taps, total = dims.product(block), dims.product(counts)
    ctx.equal(x.shape[2], total)
    wide = ctx.dim_values((x.shape[1],), True)
    channels = ctx.size(ctx.build(ops.Div, wide, ctx.checked(number)[0]), "the channels")
    whole = ctx.build(ops.Equal, wide, ctx.dim_values((channels * taps,), True))
    ctx.require(whole, f"the channels of {x.type} are no multiple of a block's elements")
    batch = x.shape[0]
    given = ctx.build(Reshape, ctx.checked(x)[0], (batch * channels, taps * total))
    nothing = ctx.expand(ctx.constant(0, x.dtype), (batch * channels, dims.product(padded)))
    places = ctx.build(Reshape, place, (1, taps * total))
    added = ctx.build(Reshape, ctx.build(Scatter, nothing, places, given, 1, "add"), (batch, channels, *padded))
    return ctx.build(Slice, added, (0, 0, *pads[:n]), (batch, channels, *image), (1,) * (2 + n))


LARGEST_DETERMINANT = 32  # rows: each is one elimination step in the graph


@onnx_op("Det", since=11)
def determinant(ctx: Context) -> Results:
    """Gaussian elimination with partial pivoting, one row after the other; the product of the pivots."""
    x = ctx.operand(0)
    size = x.shape[-1] if x.rank > 1 else 0
    if x.rank < 2 or not x.dtype.is_float:
        raise ctx.error(f"Det of {x.type}: matrices of floats are needed")
    ctx.equal(x.shape[-1], x.shape[-2])
    if not isinstance(size, int) or not 1 <= size <= LARGEST_DETERMINANT or x.shape[-2] != size:
        raise ctx.unsupported(f"Det of {x.type}", f"square matrices of 1 to {LARGEST_DETERMINANT} rows are supported")
    batch = x.shape[:-2]
    rows = ctx.build(Reshape, x, (dims.product(batch), size, size))
    result: Value | None = None
    for left in range(size, 0, -1):
        pivot, rows, sign = _eliminated(ctx, rows, left)
        factor = ctx.build(ops.Mul, pivot, sign)
        result = factor if result is None else ctx.build(ops.Mul, result, factor)
    assert result is not None
    return ctx.build(Reshape, result, batch)


def _eliminated(ctx: Context, rows: Value, size: int) -> tuple[Value, Value, Value]:
    """The pivot of the first column [batch, 1, 1], what is left of the other rows and columns, and -1 where rows were
    exchanged."""
    batch, zero = rows.shape[0], ctx.constant(0, rows.dtype)

    def cut(value: Value, row: int, column: int, height: int, width: int) -> Value:
        return ctx.build(Slice, value, (0, row, column), (batch, height, width), (1, 1, 1))

    largest = ctx.build(ArgMax, ctx.build(ops.Abs, cut(rows, 0, 0, size, 1)), 1, True, False)
    chosen = ctx.build(ops.Equal, ctx.constant(np.arange(size).reshape(size, 1)), largest)
    pivot_row = ctx.build(ReduceSum, ctx.build(ops.Where, chosen, rows, zero), (1,), True)
    pivot = cut(pivot_row, 0, 0, 1, 1)
    moved = ctx.build(ops.Equal, largest, ctx.constant(0, i64))
    sign = ctx.build(ops.Where, moved, ctx.constant(1, rows.dtype), ctx.constant(-1, rows.dtype))
    if size == 1:
        return pivot, rows, sign
    others = cut(ctx.build(ops.Where, chosen, cut(rows, 0, 0, 1, size), rows), 1, 0, size - 1, size)
    ratio = ctx.build(ops.Div, cut(others, 0, 0, size - 1, 1), pivot)
    ratio = ctx.build(ops.Where, ctx.build(ops.Equal, pivot, zero), zero, ratio)  # the whole column is 0
    taken = ctx.build(ops.Mul, ratio, cut(pivot_row, 0, 1, 1, size - 1))
    return pivot, ctx.build(ops.Sub, cut(others, 0, 1, size - 1, size - 1), taken), sign
