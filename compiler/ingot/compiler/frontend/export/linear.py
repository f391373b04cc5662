"""Matrix products, convolution and pooling. Channels-last operands are turned around and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as cartesian
from typing import Any, TypeAlias

import numpy as np

from ingot.compiler.frontend.export.errors import ExportError
from ingot.compiler.frontend.export.integers import bytes_less_zero
from ingot.compiler.frontend.export.kernels import compute_type, runs
from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value, constant, describe
from ingot.compiler.ops import linear as ops
from ingot.compiler.ops import pointwise
from ingot.compiler.ops.movement import Concat, Pad, Reshape, Slice, Transpose
from ingot.compiler.ops.reduction import lowest
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.runtime.dtypes import i32, u8

TABLE = Table()

Windowed: TypeAlias = ops.Conv | ConvTranspose | ops.MaxPool | ops.AveragePool


@TABLE.exports(ops.MatMul)
def mat_mul(scope: Scope, node: ops.MatMul) -> Written:
    if node.a.dtype != node.b.dtype:
        return scope.add("MatMulInteger", scope.name(node.a), scope.name(node.b))
    if node.a.dtype == i32:
        a, b = bytes_less_zero(node.a), bytes_less_zero(node.b)
        if a is not None and b is not None and a[0].dtype == u8:
            return scope.add("MatMulInteger", *(None if v is None else scope.name(v) for v in (a[0], b[0], a[1], b[1])))
    return scope.apply("MatMul", node, node.a, node.b)


def _first(rank: int) -> tuple[int, ...]:
    """The permutation that puts the channels, which are last, behind the images."""
    return (0, rank - 1, *range(1, rank - 1))


def _last(rank: int) -> tuple[int, ...]:
    """The inverse of `_first`."""
    return (0, *range(2, rank), 1)


def _window(node: Windowed) -> dict[str, Any]:
    """The window as attributes, those that say nothing left out."""
    kernel = [int(k) for k in node.kernel]
    ones, zeros = [1] * len(kernel), [0] * (2 * len(kernel))
    given = {"strides": (list(node.strides), ones), "pads": (list(node.pads), zeros)}
    given["dilations"] = (list(node.dilations), ones)
    return {"kernel_shape": kernel, **{key: value for key, (value, default) in given.items() if value != default}}


def _windowed(
    scope: Scope,
    node: Windowed,
    op_type: str,
    others: Sequence[Value | None],
    **attributes: Any,
) -> str:
    dtype, rank = node.x.dtype, node.x.rank
    compute = scope.compute_type(op_type, dtype, node)
    x = scope.cast(scope.name(node.x), dtype, compute)
    rest = [None if v is None else scope.cast(scope.name(v), dtype, compute) for v in others]
    if node.channels_last:
        x = scope.add("Transpose", x, perm=_first(rank))
    result = scope.add(op_type, x, *rest, **_window(node), **attributes)
    if node.channels_last:
        result = scope.add("Transpose", result, perm=_last(rank))
    return scope.cast(result, compute, dtype)


@TABLE.exports(ops.Conv)
def conv(scope: Scope, node: ops.Conv) -> Written:
    if node.x.dtype != node.w.dtype:
        return _conv_of_bytes(scope, node, (node.x, None), (node.w, None))
    if not node.x.dtype.is_float:
        x, w = bytes_less_zero(node.x), bytes_less_zero(node.w)
        if node.type.dtype == i32 and x is not None and w is not None and x[0].dtype == u8:
            return _conv_of_bytes(scope, node, x, w)
        return _conv_of_integers(node)
    return _windowed(scope, node, "Conv", (node.w, node.bias), group=node.group if node.group > 1 else None)


def _conv_of_bytes(
    scope: Scope, node: ops.Conv, x_bytes: tuple[Value, Value | None], w_bytes: tuple[Value, Value | None]
) -> str:
    """Bytes, with or without a zero point for each operand: ConvInteger, which has no bias."""
    rank, x = node.rank, scope.name(x_bytes[0])
    if node.channels_last:
        x = scope.add("Transpose", x, perm=_first(rank))
    group = node.group if node.group > 1 else None
    rest = [None if v is None else scope.name(v) for v in (w_bytes[0], x_bytes[1], w_bytes[1])]
    result = scope.add("ConvInteger", x, *rest, **_window(node), group=group)
    if node.channels_last:
        result = scope.add("Transpose", result, perm=_last(rank))
    if node.bias is None:
        return result
    bias = scope.name(node.bias)
    if not node.channels_last:
        bias = scope.add("Reshape", bias, scope.shape((node.w.shape[0], *(1,) * (rank - 2))))
    return scope.add("Add", result, bias)


@TABLE.exports(ConvTranspose)
def conv_transpose(scope: Scope, node: ConvTranspose) -> Written:
    if min(node.pads) < 0 or not runs("ConvTranspose", node.x.dtype, scope.opset):
        return None
    padding = list(node.output_padding) if any(node.output_padding) else None
    group = node.group if node.group > 1 else None
    return _windowed(scope, node, "ConvTranspose", (node.w, node.bias), group=group, output_padding=padding)


@TABLE.exports(ops.MaxPool)
def max_pool(scope: Scope, node: ops.MaxPool) -> Written:
    if compute_type("MaxPool", node.x.dtype, scope.opset) is None:
        return _max_of_taps(node)
    return _windowed(scope, node, "MaxPool", (), ceil_mode=1 if node.ceil_mode else None)


@TABLE.exports(ops.AveragePool)
def average_pool(scope: Scope, node: ops.AveragePool) -> Written:
    if scope.opset < 19 and any(d != 1 for d in node.dilations):
        raise ExportError(f"{describe(node)}: AveragePool of opset {scope.opset} does not dilate: export to opset 19")
    attributes = {"ceil_mode": 1 if node.ceil_mode else None, "count_include_pad": 1 if node.include_pad else None}
    return _windowed(scope, node, "AveragePool", (), **attributes)


# -- windows of element types that ONNX has no operator for -----------------------------------------------------------


def _taps(node: ops.Conv | ops.MaxPool, fill: Value | None) -> tuple[list[Value], tuple[Dim, ...]]:
    """For each kernel position the elements [N, C, *out] that it sees, and `out`."""
    rank = node.x.rank
    x = Transpose(node.x, _first(rank)) if node.channels_last else node.x
    out = tuple(node.type.shape[1:-1] if node.channels_last else node.type.shape[2:])
    n = rank - 2
    ends: list[Dim] = []
    for i in range(n):
        end: Dim = node.pads[n + i]
        if isinstance(node, ops.MaxPool) and node.ceil_mode:  # the last window may reach beyond the padding
            reach = (out[i] - 1) * node.strides[i] + node.dilations[i] * (int(node.kernel[i]) - 1) + 1
            end = dims.maximum(reach - x.shape[2 + i] - node.pads[i], end)
        ends.append(end)
    padded = Pad(x, (0, 0, *node.pads[:n], 0, 0, *ends), "constant", fill)
    steps = (1, 1, *node.strides)
    seen: list[Value] = []
    for tap in cartesian(*(range(int(k)) for k in node.kernel)):
        starts = (0, 0, *(t * d for t, d in zip(tap, node.dilations, strict=True)))
        seen.append(Slice(padded, starts, (*x.shape[:2], *out), steps))
    return seen, out


def _conv_of_integers(node: ops.Conv) -> Value:
    """One product of the filters as matrices [G, M/G, K*C/G] with the windows as columns [N, G, K*C/G, P]."""
    seen, out = _taps(node, None)
    w = node.w
    filters, depth = w.shape[0] // node.group, w.shape[1]
    taps, places = len(seen), dims.product(out)
    n = seen[0].shape[0]
    columns = Concat(tuple(Reshape(v, (n, node.group, 1, depth, places)) for v in seen), 2)
    columns = Reshape(columns, (n, node.group, taps * depth, places))
    flat = Reshape(w, (node.group, filters, depth, taps))
    rows = Reshape(Transpose(flat, (0, 1, 3, 2)), (node.group, filters, taps * depth))
    result: Value = Reshape(ops.MatMul(rows, columns), (n, w.shape[0], *out))
    if node.bias is not None:
        result = pointwise.Add(result, Reshape(node.bias, (w.shape[0], *(1,) * len(out))))
    return Transpose(result, _last(node.x.rank)) if node.channels_last else result


def _max_of_taps(node: ops.MaxPool) -> Value:
    """The maximum of what the kernel positions see, the padding filled with the smallest value."""
    dtype = node.x.dtype
    seen, _ = _taps(node, constant(np.asarray(lowest(dtype.to_numpy()), dtype.to_numpy())))
    result = seen[0]
    for value in seen[1:]:
        result = pointwise.Max(result, value)
    return Transpose(result, _last(node.x.rank)) if node.channels_last else result
