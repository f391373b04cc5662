"""Writing at indices, choosing the largest elements, and resampling."""

from __future__ import annotations

from ingot.compiler.frontend.export.errors import ExportError
from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.ir.graph import Value, describe
from ingot.compiler.ops import indexing as ops
from ingot.compiler.ops.movement import Expand, Gather, Reshape
from ingot.compiler.ops.pointwise import Cast, Mul
from ingot.compiler.ops.reduction import ReduceSum
from ingot.compiler.ops.resample import Resample
from ingot.runtime.dtypes import f32, i32, i64

TABLE = Table()


@TABLE.exports(ops.Scatter)
def scatter(scope: Scope, node: ops.Scatter) -> Written:
    if node.indices.shape != node.updates.shape:
        return ops.Scatter(node.data, Expand(node.indices, node.updates.shape), node.updates, node.axis, node.reduction)
    have = node.indices.dtype
    indices = scope.cast(scope.name(node.indices), have, have if have in (i32, i64) else i64)
    compute = scope.compute_type("ScatterElements", node.data.dtype, node)
    if node.reduction != "none":
        oldest = 18 if node.reduction in ("max", "min") else 16
        if scope.opset < oldest:
            raise ExportError(f"{describe(node)}: reduction {node.reduction} needs opset {oldest} or later")
        compute = f32 if compute.bits == 16 and compute.is_float else compute  # ONNX Runtime combines no halves
    data, updates = (scope.cast(scope.name(v), v.dtype, compute) for v in (node.data, node.updates))
    reduction = node.reduction if node.reduction != "none" else None
    result = scope.add("ScatterElements", data, indices, updates, axis=node.axis, reduction=reduction)
    return scope.cast(result, compute, node.data.dtype)


@TABLE.exports(ops.Compact)
def compact(scope: Scope, node: ops.Compact) -> Written:
    """NonZero does not tell how many there are; where that is known it is written too."""
    found = scope.add("NonZero", scope.name(node.x))  # [1, count]
    places = scope.add("Gather", found, scope.constant(0, "first", i64), axis=0)
    return scope.add("Reshape", places, scope.shape((node.count,))) if isinstance(node.count, int) else places


@TABLE.exports(ops.TopK)
def top_k(scope: Scope, node: ops.TopK) -> Written:
    compute = scope.compute_type("TopK", node.x.dtype, node)
    x = scope.cast(scope.name(node.x), node.x.dtype, compute)
    values, places = scope.add_many("TopK", (x, scope.dim(node.k)), 2, axis=node.axis, largest=int(node.largest))
    return [scope.cast(values, compute, node.x.dtype), places]


@TABLE.exports(Resample)
def resample(scope: Scope, node: Resample) -> Written:
    """The neighbours side by side, times their weights, added."""
    wide = node.weights.dtype
    seen = Gather(Cast(node.x, wide), node.indices, node.axis)
    weights: Value = Reshape(node.weights, (*node.weights.shape, *(1,) * (node.x.rank - 1 - node.axis)))
    return Cast(ReduceSum(Mul(seen, weights), (node.axis + 1,), False), node.x.dtype)
