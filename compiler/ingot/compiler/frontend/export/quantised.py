"""Conversions between floats and quantised integers."""

from __future__ import annotations

import numpy as np

from ingot.compiler.frontend.export.kernels import RUNS, allowed
from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.ir.graph import Constant, Value, constant
from ingot.compiler.ops import pointwise
from ingot.compiler.ops import quantised as ops
from ingot.compiler.ops.movement import Reshape
from ingot.runtime.dtypes import DType, f32, i8, i32, u8

TABLE = Table()


def broadcast_axis(parameter: Value, rank: int) -> int | None:
    """The axis of an operand of `rank` axes that a scale has several entries along, -1 for one entry in all; None where
    the operator has no spelling for it."""
    if parameter.rank > rank:
        return None
    several = [i for i, d in enumerate(parameter.shape) if d != 1]
    if len(several) > 1:
        return None
    return rank - parameter.rank + several[0] if several else -1


def _placed(scope: Scope, parameter: Value, axis: int) -> str:
    """A scale or zero point as ONNX has it: [] or [entries]."""
    rank = 0 if axis < 0 else 1
    if isinstance(parameter, Reshape) and parameter.x.rank == rank:  # spread along the axis: undone
        return scope.name(parameter.x)
    if parameter.rank == rank:
        return scope.name(parameter)
    if isinstance(parameter, Constant):
        flat = parameter.data.reshape(() if axis < 0 else -1)
        return scope.constant(flat, parameter.origin[0] if parameter.origin else "parameter")
    return scope.add("Reshape", scope.name(parameter), scope.constant(np.full(rank, -1, np.int64), "shape"))


def _fits(scope: Scope, op_type: str, x: Value, scale: Value, zero_point: Value | None, integers: DType) -> int | None:
    """The axis for the standard's operator, None where it does not have these types or this way of broadcasting."""
    axis = broadcast_axis(scale, x.rank)
    if axis is None or (axis >= 0 and scale.shape[_from_end(scale, x.rank, axis)] != x.shape[axis]):
        return None
    if zero_point is not None and broadcast_axis(zero_point, x.rank) != axis:
        return None
    if zero_point is not None and zero_point.type.size != scale.type.size:
        return None
    newest = scope.opset >= 21
    if integers not in ((i8, u8, i32) if not newest else RUNS["DequantizeLinear"]):
        return None
    if scale.dtype != f32 and not (newest and scale.dtype in RUNS["QuantizeLinear"]):
        return None
    return axis if allowed(op_type, scope.opset) else None


def _from_end(parameter: Value, rank: int, axis: int) -> int:
    return axis - (rank - parameter.rank)


@TABLE.exports(ops.Quantize)
def quantize(scope: Scope, node: ops.Quantize) -> Written:
    axis = _fits(scope, "QuantizeLinear", node.x, node.scale, node.zero_point, node.to)
    if axis is None or node.type.shape != node.x.shape:
        return _quantized(node)
    scale = _placed(scope, node.scale, axis)
    if node.zero_point is not None:
        zero_point = _placed(scope, node.zero_point, axis)
    else:
        zeros = np.zeros(() if axis < 0 else _extent(node.scale), node.to.to_numpy())
        zero_point = scope.constant(zeros, "zero_point") if node.to != u8 else None
    given = axis if axis >= 0 else None
    return scope.add("QuantizeLinear", scope.name(node.x), scale, zero_point, axis=given)


def _extent(scale: Value) -> int:
    size = scale.type.size
    assert isinstance(size, int)
    return size


def _quantized(node: ops.Quantize) -> Value:
    """``saturate(round(x / scale) + zero_point)``"""
    wide = ops.working_type(node.x.dtype)
    result: Value = pointwise.Round(pointwise.Div(pointwise.Cast(node.x, wide), pointwise.Cast(node.scale, wide)))
    if node.zero_point is not None:
        result = pointwise.Add(result, pointwise.Cast(node.zero_point, wide))
    low, high = (constant(bound, wide) for bound in ops.integer_range(node.to))
    return pointwise.Cast(pointwise.Clip(result, low, high), node.to)


@TABLE.exports(ops.Dequantize)
def dequantize(scope: Scope, node: ops.Dequantize) -> Written:
    given = node.zero_point
    if node.x.dtype == i32 and _is_zero(given):  # the standard has no other one for 32 bits
        given = None
    axis = _fits(scope, "DequantizeLinear", node.x, node.scale, given, node.x.dtype)
    if axis is None or node.type.shape != node.x.shape or (node.x.dtype == i32 and given is not None):
        return _dequantized(node)
    scale = _placed(scope, node.scale, axis)
    zero_point = _placed(scope, given, axis) if given is not None else None
    return scope.add("DequantizeLinear", scope.name(node.x), scale, zero_point, axis=axis if axis >= 0 else None)


def _is_zero(value: Value | None) -> bool:
    source = value.x if isinstance(value, Reshape) else value
    return isinstance(source, Constant) and not source.data.any()


def _dequantized(node: ops.Dequantize) -> Value:
    """``(x - zero_point) * scale``; the difference of 32-bit integers wraps."""
    wide = ops.working_type(node.scale.dtype)
    if node.zero_point is None:
        difference: Value = pointwise.Cast(node.x, wide)
    elif node.x.dtype.bits <= ops.NARROW:
        difference = pointwise.Sub(pointwise.Cast(node.x, wide), pointwise.Cast(node.zero_point, wide))
    else:
        difference = pointwise.Cast(pointwise.Sub(node.x, node.zero_point), wide)
    return pointwise.Cast(pointwise.Mul(difference, pointwise.Cast(node.scale, wide)), node.scale.dtype)
