"""Products and convolutions together with what follows them, and activation functions."""

from __future__ import annotations

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.activation import SELU_ALPHA, SELU_GAMMA
from ingot.compiler.frontend.operators.contraction import conv, gemm, matrix_product
from ingot.compiler.frontend.operators.microsoft.operands import given, plus
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import MICROSOFT, Table
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import composite
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Transpose

TABLE = Table(domain=MICROSOFT)
onnx_op = TABLE.onnx_op


def activated(ctx: Context, x: Value, name: str, parameters: tuple[float | None, ...]) -> Value:
    """x after the activation function that a fused node names, with its parameters alpha, beta and gamma."""

    def parameter(index: int, default: float) -> float:
        found = parameters[index] if index < len(parameters) else None
        return default if found is None else found

    match name:
        case "":
            return x
        case "Relu":
            return ctx.build(ops.Relu, x)
        case "Tanh":
            return ctx.build(ops.Tanh, x)
        case "Sigmoid":
            return ctx.build(ops.Sigmoid, x)
        case "Softplus":
            return ctx.build(ops.Softplus, x)
        case "LeakyRelu":
            return ctx.build(composite.LeakyRelu, x, parameter(0, 0.01))
        case "Elu":
            return ctx.build(composite.Elu, x, parameter(0, 1.0))
        case "HardSigmoid":
            return ctx.build(composite.HardSigmoid, x, parameter(0, 0.2), parameter(1, 0.5))
        case "HardSwish":
            return ctx.build(composite.HardSwish, x)
        case "Selu":
            gamma = ctx.constant(parameter(2, SELU_GAMMA), x.dtype)
            return ctx.build(ops.Mul, ctx.build(composite.Elu, x, parameter(0, SELU_ALPHA)), gamma)
        case "Softsign":
            larger = ctx.build(ops.Add, ctx.build(ops.Abs, x), ctx.constant(1.0, x.dtype))
            return ctx.build(ops.Div, x, larger)
        case "ThresholdedRelu":
            above = ctx.build(ops.Greater, x, ctx.constant(parameter(0, 1.0), x.dtype))
            return ctx.build(ops.Where, above, x, ctx.constant(0.0, x.dtype))
        case "Clip":
            bounds = (parameter(0, -3.4028234663852886e38), parameter(1, 3.4028234663852886e38))
            return ctx.build(ops.Clip, x, *(ctx.constant(b, x.dtype) for b in bounds))
        case _:
            raise ctx.unsupported(f"the activation {name!r}", "save the model without optimising it in ONNX Runtime")


@onnx_op("FusedConv")
def fused_conv(ctx: Context) -> Results:
    """Conv, then Z added, then the activation."""
    result = conv(given(ctx, ctx.operand(0), ctx.operand(1), ctx.optional(2)))
    assert isinstance(result, Value)
    result = plus(ctx, result, ctx.optional(3))
    return activated(ctx, result, ctx.attribute("activation", ""), ctx.floats("activation_params") or ())


@onnx_op("FusedGemm")
def fused_gemm(ctx: Context) -> Results:
    result = gemm(given(ctx, ctx.operand(0), ctx.operand(1), ctx.optional(2)))
    assert isinstance(result, Value)
    parameters = tuple(ctx.maybe(f"activation_{name}", float) for name in ("alpha", "beta", "gamma"))
    return activated(ctx, result, ctx.attribute("activation", ""), parameters)


@onnx_op("FusedMatMul")
@onnx_op("TransposeMatMul")
def fused_mat_mul(ctx: Context) -> Results:
    """``alpha * op(a) @ op(b)``. With transBatch the first axis comes behind the batch axes; then trans exchanges the
    last two."""
    sides: list[Value] = []
    for index, side in enumerate("AB"):
        x = ctx.operand(index)
        across, batch = ctx.attribute(f"trans{side}", 0), ctx.attribute(f"transBatch{side}", 0)
        if x.rank >= 2 and (across or batch):
            perm = [*range(1, x.rank - 1), 0, x.rank - 1] if batch else list(range(x.rank))
            if across:
                perm[-2:] = perm[:-3:-1]
            x = ctx.build(Transpose, x, tuple(perm))
        sides.append(x)
    product, alpha = matrix_product(ctx, sides[0], sides[1]), ctx.attribute("alpha", 1.0)
    return product if alpha == 1.0 else ctx.build(ops.Mul, product, ctx.constant(alpha, product.dtype))


# -- activation functions ---------------------------------------------------------------------------------------------


@onnx_op("Gelu")
def gelu(ctx: Context) -> Results:
    return ctx.build(composite.Gelu, ctx.operand(0), False)


@onnx_op("BiasGelu")
def bias_gelu(ctx: Context) -> Results:
    return ctx.build(composite.Gelu, ctx.pointwise(ops.Add, ctx.operand(0), ctx.operand(1)), False)


@onnx_op("FastGelu")
def fast_gelu(ctx: Context) -> Results:
    x, bias = ctx.operand(0), ctx.optional(1)
    return ctx.build(composite.Gelu, x if bias is None else ctx.pointwise(ops.Add, x, bias), True)


@onnx_op("QuickGelu")
def quick_gelu(ctx: Context) -> Results:
    """``x * sigmoid(alpha * x)``"""
    x, alpha = ctx.operand(0), ctx.attribute("alpha", 1.702)
    if alpha == 1.0:
        return ctx.build(composite.Silu, x)
    return ctx.build(ops.Mul, x, ctx.build(ops.Sigmoid, ctx.build(ops.Mul, x, ctx.constant(alpha, x.dtype))))
