"""Matrix products, convolution and Einsum."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.compiler.frontend.assumptions import spell
from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.table import Results, Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Reshape, Transpose
from ingot.compiler.ops.reduction import ReduceSum
from ingot.compiler.ops.transposed import ConvTranspose

TABLE = Table()
onnx_op = TABLE.onnx_op


@onnx_op("MatMul")
def mat_mul(ctx: Context) -> Results:
    return matrix_product(ctx, ctx.operand(0), ctx.operand(1))


def matrix_product(ctx: Context, a: Value, b: Value) -> Value:
    """numpy's matmul: a vector on the left is a row, on the right a column, and its axis is dropped again."""
    if a.rank == 0 or b.rank == 0:
        raise ctx.error(f"MatMul of {a.type} and {b.type}: scalars are not allowed")
    left = ctx.build(Reshape, a, (1, a.shape[0])) if a.rank == 1 else a
    right = ctx.build(Reshape, b, (b.shape[0], 1)) if b.rank == 1 else b
    ctx.equal(left.shape[-1], right.shape[-2])
    ctx.broadcast(left.shape[:-2], right.shape[:-2])
    product = ctx.build(MatMul, left, right)
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
    pads: tuple[int, ...]
    dilations: tuple[int, ...]


def window(ctx: Context, x: Value, kernel: tuple[int, ...]) -> Window:
    """The window attributes of a convolution or pooling of x [N, C, *spatial], auto_pad resolved."""
    n = len(kernel)
    strides = ctx.ints("strides") or (1,) * n
    dilations = ctx.ints("dilations") or (1,) * n
    explicit = ctx.ints("pads")
    mode = ctx.attribute("auto_pad", "NOTSET")
    if len(strides) != n or len(dilations) != n or min(strides) < 1:
        raise ctx.error(f"strides {list(strides)} and dilations {list(dilations)} do not fit a kernel of {n} axes")
    if mode in ("NOTSET", ""):
        return Window(strides, explicit or (0,) * (2 * n), dilations)
    if mode == "VALID":
        return Window(strides, (0,) * (2 * n), dilations)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise ctx.error(f"unknown auto_pad {mode!r}", "run onnx.checker on the model")
    begins: list[int] = []
    ends: list[int] = []
    for extent, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        reach = dilation * (k - 1) + 1
        total = (dims.ceil_divide(extent, stride) - 1) * stride + reach - extent
        if not isinstance(total, int):
            raise ctx.unsupported(
                f"auto_pad {mode} with stride {stride} over an axis of extent {dims.show(extent)}",
                "pin the input's height and width with shapes, or export explicit pads",
            )
        total = max(total, 0)
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
    return ctx.build(Conv, x, w, bias, shared.strides, shared.pads, shared.dilations, group, False)


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


@onnx_op("Einsum", since=12)
def einsum(ctx: Context) -> Results:
    """Two operands at a time become one MatMul: labels of both that stay are batch axes, those that go are summed."""
    operands = ctx.variadic()
    equation = ctx.attribute("equation", "").replace(" ", "")
    if "." in equation:
        raise ctx.unsupported(f"Einsum {equation!r} with an ellipsis", "write the axes as letters")
    terms, arrow, result = equation.partition("->")
    labels = terms.split(",")
    if not arrow:
        result = "".join(sorted(c for c in set(terms) - {","} if terms.count(c) == 1))
    if len(labels) != len(operands) or any(len(t) != v.rank for t, v in zip(labels, operands, strict=False)):
        raise ctx.error(f"Einsum {equation!r} does not fit operands {', '.join(str(v.type) for v in operands)}")
    if not all(c.isalpha() or c == "," for c in terms) or set(result) - set(terms) or len(set(result)) < len(result):
        raise ctx.error(f"Einsum {equation!r} is malformed")
    if any(len(set(t)) < len(t) for t in labels):
        raise ctx.unsupported(f"Einsum {equation!r} takes a diagonal (a label twice in one operand)")
    value, names = operands[0], labels[0]
    for position, (other, other_names) in enumerate(zip(operands[1:], labels[1:], strict=True)):
        needed = set(result).union(*labels[position + 2 :])
        value, names = _einsum_pair(ctx, value, names, other, other_names, needed)
    value, names = _sum_out(ctx, value, names, set(result))
    return _arrange(ctx, value, names, result)


def _sum_out(ctx: Context, value: Value, names: str, kept: set[str]) -> tuple[Value, str]:
    axes = tuple(i for i, c in enumerate(names) if c not in kept)
    if axes:
        value = ctx.build(ReduceSum, value, axes, False)
    return value, "".join(c for c in names if c in kept)


def _arrange(ctx: Context, value: Value, names: str, order: str) -> Value:
    return value if names == order else ctx.build(Transpose, value, tuple(names.index(c) for c in order))


def _einsum_pair(ctx: Context, a: Value, a_names: str, b: Value, b_names: str, needed: set[str]) -> tuple[Value, str]:
    a, a_names = _sum_out(ctx, a, a_names, needed | set(b_names))
    b, b_names = _sum_out(ctx, b, b_names, needed | set(a_names))
    extents: dict[str, Dim] = dict(zip(b_names, b.shape, strict=True))
    for name, extent in zip(a_names, a.shape, strict=True):
        if name in extents:
            ctx.equal(extent, extents[name])
            if ctx.assumptions.differ(extent, extents[name]):
                raise ctx.unsupported(f"Einsum label {name!r} is {spell((extent, extents[name]))}")
        extents[name] = extent
    both = [c for c in a_names if c in b_names]
    batch = "".join(c for c in both if c in needed)
    inner = "".join(c for c in both if c not in needed)
    left = "".join(c for c in a_names if c not in b_names)
    right = "".join(c for c in b_names if c not in a_names)

    def shape(*groups: str) -> tuple[Dim, ...]:
        return (*(extents[c] for c in batch), *(dims.product(extents[c] for c in group) for group in groups))

    a = ctx.build(Reshape, _arrange(ctx, a, a_names, batch + left + inner), shape(left, inner))
    b = ctx.build(Reshape, _arrange(ctx, b, b_names, batch + inner + right), shape(inner, right))
    names = batch + left + right
    return ctx.build(Reshape, ctx.build(MatMul, a, b), tuple(extents[c] for c in names)), names
