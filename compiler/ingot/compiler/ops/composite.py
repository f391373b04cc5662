"""Composites: operators with a definition in terms of simpler ones (`expand`) that some kernels know whole.

`evaluate` computes in f64 and rounds once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Array, Constant, Node, Value, constant, op, operands_of
from ingot.compiler.ir.types import IrError, TensorType, broadcast_shapes
from ingot.compiler.ops.checks import equal_dims, fail, require_axis, require_kind, same_dtype
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Reshape, Transpose
from ingot.compiler.ops.numeric import sigmoid
from ingot.compiler.ops.pointwise import (
    FLOAT,
    Add,
    Cast,
    Clip,
    Div,
    Equal,
    Exp,
    Gelu,
    IsNaN,
    Less,
    Log,
    Mul,
    Reciprocal,
    Sigmoid,
    Sqrt,
    Sub,
    Tanh,
    Where,
)
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean, ReduceSum
from ingot.runtime.dtypes import DType, f32


def scalar(value: float, like: Value) -> Constant:
    """A rank-0 constant of `like`'s element type."""
    return constant(value, like.dtype)


def _rounded(x: Array, dtype: DType) -> Array:
    return np.asarray(x).astype(dtype.to_numpy(), copy=False)


class FloatComposite(Node):
    """A composite on floats whose `compute` works in f64."""

    def compute(self, *operands: Array) -> Array:
        """The result in f64 from operands in f64."""
        raise NotImplementedError(type(self).__name__)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        with np.errstate(all="ignore"):
            wide = [x.astype(np.float64) for x in operands]
            return (_rounded(self.compute(*wide), self.type.dtype),)

    def elementwise_type(self, x: Value) -> Sequence[TensorType]:
        """x's own type, which must be a float one."""
        require_kind(self, x, FLOAT, "the operand")
        return (x.type,)


@op("softmax")
class Softmax(FloatComposite):
    """``exp(x - max) / sum(exp(x - max))`` along one axis; a row of -inf gives NaN. ONNX Softmax-13."""

    x: Value
    axis: int

    def infer(self) -> Sequence[TensorType]:
        require_axis(self, self.axis, self.x.rank)
        return self.elementwise_type(self.x)

    def compute(self, *operands: Array) -> Array:
        return softmax(operands[0], self.axis)

    def expand(self) -> Value:
        powers = Exp(Sub(self.x, ReduceMax(self.x, (self.axis,), True)))
        return Mul(powers, Reciprocal(ReduceSum(powers, (self.axis,), True)))


def softmax(x: Array, axis: int) -> Array:
    """Softmax of f64 data."""
    powers = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf))
    return powers / np.sum(powers, axis=axis, keepdims=True)


@op("log_softmax")
class LogSoftmax(FloatComposite):
    """``log(softmax(x))`` along one axis. ONNX LogSoftmax-13."""

    x: Value
    axis: int

    def infer(self) -> Sequence[TensorType]:
        require_axis(self, self.axis, self.x.rank)
        return self.elementwise_type(self.x)

    def compute(self, *operands: Array) -> Array:
        centred = operands[0] - np.max(operands[0], axis=self.axis, keepdims=True, initial=-np.inf)
        return centred - np.log(np.sum(np.exp(centred), axis=self.axis, keepdims=True))

    def expand(self) -> Value:
        centred = Sub(self.x, ReduceMax(self.x, (self.axis,), True))
        return Sub(centred, Log(ReduceSum(Exp(centred), (self.axis,), True)))


@op("layer_norm")
class LayerNorm(FloatComposite):
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` over the axes from `axis` on (Ba et al. 2016).

    `scale` and `bias` broadcast to x. f16 and bf16 are computed in f32. ONNX LayerNormalization-17.
    """

    x: Value
    scale: Value
    bias: Value | None
    axis: int
    epsilon: float

    def infer(self) -> Sequence[TensorType]:
        same_dtype(self, *operands_of(self))
        require_axis(self, self.axis, self.x.rank)
        for value in operands_of(self)[1:]:
            _require_broadcast_to(self, value, self.x)
        return self.elementwise_type(self.x)

    def compute(self, *operands: Array) -> Array:
        x, scale = operands[:2]
        axes = tuple(range(self.axis, x.ndim))
        centred = x - np.mean(x, axis=axes, keepdims=True)
        result = centred / np.sqrt(np.mean(centred * centred, axis=axes, keepdims=True) + self.epsilon) * scale
        return result + operands[2] if self.bias is not None else result

    def expand(self) -> Value:
        axes = tuple(range(self.axis, self.x.rank))
        x = Cast(self.x, f32) if self.x.dtype.bits == 16 else self.x
        centred = Sub(x, ReduceMean(x, axes, True))
        variance = ReduceMean(Mul(centred, centred), axes, True)
        normal: Value = Mul(centred, Reciprocal(Sqrt(Add(variance, scalar(self.epsilon, x)))))
        if normal.dtype != self.x.dtype:
            normal = Cast(normal, self.x.dtype)
        result = Mul(normal, self.scale)
        return Add(result, self.bias) if self.bias is not None else result


def _require_broadcast_to(node: Node, value: Value, target: Value) -> None:
    try:
        common = broadcast_shapes((target.type.shape, value.type.shape))
    except IrError as error:
        fail(node, f"{value.type} does not broadcast to {target.type}: {error}")
    if common != target.type.shape:
        fail(node, f"{value.type} does not broadcast to {target.type}")


@op("batch_norm")
class BatchNorm(FloatComposite):
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` per channel (axis 1) with given statistics, all [C].

    Ioffe and Szegedy 2015 at inference. ONNX BatchNormalization with training_mode = 0.
    """

    x: Value
    scale: Value
    bias: Value
    mean: Value
    var: Value
    epsilon: float

    def infer(self) -> Sequence[TensorType]:
        same_dtype(self, *operands_of(self))
        if self.x.rank < 2:
            fail(self, f"{self.x.type} has no channel axis: rank 2 or more is needed")
        for value in operands_of(self)[1:]:
            if value.rank != 1:
                fail(self, f"the statistics {value.type} must have rank 1")
            equal_dims(self, value.shape[0], self.x.shape[1], f"statistics {value.type} and channels of {self.x.type}")
        return self.elementwise_type(self.x)

    def compute(self, *operands: Array) -> Array:
        shape = (-1, *(1,) * (operands[0].ndim - 2))
        scale, bias, mean, var = (v.reshape(shape) for v in operands[1:])
        return (operands[0] - mean) / np.sqrt(var + self.epsilon) * scale + bias

    def expand(self) -> Value:
        def column(value: Value) -> Value:
            return Reshape(value, (value.shape[0], *(1,) * (self.x.rank - 2)))

        factor = Div(self.scale, Sqrt(Add(self.var, scalar(self.epsilon, self.var))))
        offset = Sub(self.bias, Mul(self.mean, factor))
        return Add(Mul(self.x, column(factor)), column(offset))


@op("silu")
class Silu(FloatComposite):
    """``x * sigmoid(x)`` (swish)."""

    x: Value

    def infer(self) -> Sequence[TensorType]:
        return self.elementwise_type(self.x)

    def compute(self, *operands: Array) -> Array:
        return operands[0] * sigmoid(operands[0])

    def expand(self) -> Value:
        return Mul(self.x, Sigmoid(self.x))


@op("hard_sigmoid")
class HardSigmoid(FloatComposite):
    """``max(0, min(1, alpha * x + beta))``. ONNX HardSigmoid."""

    x: Value
    alpha: float
    beta: float

    def infer(self) -> Sequence[TensorType]:
        return self.elementwise_type(self.x)

    def compute(self, *operands: Array) -> Array:
        return np.clip(self.alpha * operands[0] + self.beta, 0.0, 1.0)

    def expand(self) -> Value:
        x = self.x
        line = Add(Mul(x, scalar(self.alpha, x)), scalar(self.beta, x))
        return Clip(line, scalar(0.0, x), scalar(1.0, x))


@op("hard_swish")
class HardSwish(FloatComposite):
    """``x * hard_sigmoid(x, 1/6, 1/2)`` (Howard et al. 2019). ONNX HardSwish."""

    x: Value

    def infer(self) -> Sequence[TensorType]:
        return self.elementwise_type(self.x)

    def compute(self, *operands: Array) -> Array:
        return operands[0] * np.clip(operands[0] / 6 + 0.5, 0.0, 1.0)

    def expand(self) -> Value:
        return Mul(self.x, HardSigmoid(self.x, 1 / 6, 0.5))


@op("leaky_relu")
class LeakyRelu(FloatComposite):
    """``x`` where x >= 0, else ``alpha * x``."""

    x: Value
    alpha: float

    def infer(self) -> Sequence[TensorType]:
        return self.elementwise_type(self.x)

    def compute(self, *operands: Array) -> Array:
        return np.where(operands[0] < 0, self.alpha * operands[0], operands[0])

    def expand(self) -> Value:
        x = self.x
        return Where(Less(x, scalar(0.0, x)), Mul(x, scalar(self.alpha, x)), x)


@op("elu")
class Elu(FloatComposite):
    """``x`` where x >= 0, else ``alpha * (exp(x) - 1)`` (Clevert et al. 2015)."""

    x: Value
    alpha: float

    def infer(self) -> Sequence[TensorType]:
        return self.elementwise_type(self.x)

    def compute(self, *operands: Array) -> Array:
        x = operands[0]
        return np.where(x < 0, self.alpha * np.expm1(x), x)

    def expand(self) -> Value:
        x = self.x
        # exp(x) - 1 = tanh(x / 2) * (exp(x) + 1), which keeps its digits where x is small
        grown = Mul(Tanh(Mul(x, scalar(0.5, x))), Add(Exp(x), scalar(1.0, x)))
        below = Mul(grown, scalar(self.alpha, x))
        return Where(Less(x, scalar(0.0, x)), below, x)


Guard: TypeAlias = Literal["none", "masked", "nan"]


@op("attention")
class Attention(FloatComposite):
    """``softmax(scale * q @ k^T + mask) @ v`` (Vaswani et al. 2017).

    q [..., S, D], k [..., T, D], v [..., T, E] -> [..., S, E]; batch axes broadcast. `mask` is added to the scores
    [..., S, T] and broadcasts to them. Where all scores of a row are -inf the result is NaN, or 0 if `guard` is
    "masked"; with "nan" every row of weights that would be NaN counts as zeros.
    """

    q: Value
    k: Value
    v: Value
    mask: Value | None
    scale: float
    guard: Guard = "none"

    def infer(self) -> Sequence[TensorType]:
        q, k, v = self.q, self.k, self.v
        dtype = same_dtype(self, *operands_of(self))
        require_kind(self, q, FLOAT, "q")
        if min(q.rank, k.rank, v.rank) < 2:
            fail(self, f"q {q.type}, k {k.type} and v {v.type} need rank 2 or more")
        equal_dims(self, q.shape[-1], k.shape[-1], f"depths of q {q.type} and k {k.type}")
        keys = equal_dims(self, k.shape[-2], v.shape[-2], f"lengths of k {k.type} and v {v.type}")
        try:
            scores = (*broadcast_shapes((q.shape[:-2], k.shape[:-2])), q.shape[-2], keys)
            if self.mask is not None and broadcast_shapes((scores, self.mask.type.shape)) != scores:
                fail(self, f"mask {self.mask.type} does not broadcast to the scores {TensorType(dtype, scores)}")
            batch = broadcast_shapes((scores[:-2], v.shape[:-2]))
        except IrError as error:
            fail(self, f"q {q.type}, k {k.type}, v {v.type}: {error}")
        shape: tuple[Dim, ...] = (*batch, q.shape[-2], v.shape[-1])
        return (TensorType(dtype, shape),)

    def compute(self, *operands: Array) -> Array:
        q, k, v = operands[:3]
        scores = np.matmul(q, np.swapaxes(k, -1, -2)) * self.scale
        if self.mask is not None:
            scores = scores + operands[3]
        weights = softmax(scores, -1)
        if self.guard == "nan":
            weights = np.where(np.isnan(weights), 0.0, weights)
        elif self.guard == "masked":
            weights = np.where(np.max(scores, -1, keepdims=True, initial=-np.inf) == -np.inf, 0.0, weights)
        return np.matmul(weights, v)

    def expand(self) -> Value:
        rank = self.k.rank
        perm = (*range(rank - 2), rank - 1, rank - 2)
        scores: Value = Mul(MatMul(self.q, Transpose(self.k, perm)), scalar(self.scale, self.q))
        if self.mask is not None:
            scores = Add(scores, self.mask)
        weights: Value = Softmax(scores, scores.rank - 1)
        nothing = scalar(0.0, scores)
        if self.guard == "nan":
            weights = Where(IsNaN(weights), nothing, weights)
        elif self.guard == "masked":
            top = ReduceMax(scores, (scores.rank - 1,), True)
            weights = Where(Equal(top, scalar(-math.inf, scores)), nothing, weights)
        return MatMul(weights, self.v)


COMPOSITES: frozenset[type[Node]] = frozenset(
    (
        Softmax,
        LogSoftmax,
        LayerNorm,
        BatchNorm,
        Gelu,
        Silu,
        HardSigmoid,
        HardSwish,
        LeakyRelu,
        Elu,
        Attention,
    )
)
