"""Columns chosen, scaled, imputed and spread."""

from __future__ import annotations

import math

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import ML, Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Concat, Gather, Reshape
from ingot.compiler.ops.reduction import ReduceMax, ReduceSum
from ingot.runtime.dtypes import f32, i64

TABLE = Table(domain=ML)
onnx_op = TABLE.onnx_op


@onnx_op("ArrayFeatureExtractor")
def array_feature_extractor(ctx: Context) -> Results:
    """Elements of the last axis; a list counts as one row."""
    x, places = ctx.operand(0), ctx.operand(1)
    if x.rank == 0:
        raise ctx.error("ArrayFeatureExtractor of a scalar")
    if x.rank == 1:
        x = ctx.build(Reshape, x, (1, x.shape[0]))
    return ctx.build(Gather, x, ctx.build(Reshape, places, (places.type.size,)), x.rank - 1)


@onnx_op("Binarizer")
def binarizer(ctx: Context) -> Results:
    """1 above the threshold, else 0."""
    x = ctx.operand(0)
    threshold = ctx.attribute("threshold", 0.0)
    if x.dtype.is_integer:  # above a fraction is above the whole number below it
        threshold = math.floor(threshold)
    return ctx.build(ops.Cast, ctx.build(ops.Greater, x, ctx.constant(threshold, x.dtype)), x.dtype)


@onnx_op("Scaler")
def scaler(ctx: Context) -> Results:
    """``(x - offset) * scale``, each with one element or one a column."""
    x = ctx.cast(ctx.operand(0), f32)
    for name, op in (("offset", ops.Sub), ("scale", ops.Mul)):
        given = ctx.floats(name)
        if given:
            x = ctx.pointwise(op, x, _columns(ctx, x, given, name))
    return x


def _columns(ctx: Context, x: Value, given: tuple[float, ...], name: str) -> Value:
    array = np.array(given, np.float32)
    if len(given) == 1:
        return ctx.constant(array.reshape(()))
    if x.rank == 0:
        raise ctx.error(f"{name} has {len(given)} elements for {x.type}")
    ctx.equal(x.shape[-1], len(given))
    return ctx.constant(array)


@onnx_op("Imputer")
def imputer(ctx: Context) -> Results:
    """Elements that are the replaced value, NaN too, become what is imputed in their column."""
    x = ctx.operand(0)
    whole, real = ctx.ints("imputed_value_int64s"), ctx.floats("imputed_value_floats")
    replaced = ctx.attribute("replaced_value_float", 0.0), ctx.attribute("replaced_value_int64", 0)
    values, old = (real, replaced[0]) if x.dtype.is_float else (whole, replaced[1])
    if not values:
        raise ctx.error(f"there are no values to be imputed in {x.type}")
    if len(values) > 1:
        ctx.equal(x.shape[-1] if x.rank else 0, len(values))
    array = np.array(values, x.dtype.to_numpy())
    array = array if len(values) > 1 else array.reshape(())
    missing: Value
    if isinstance(old, float) and math.isnan(old):
        missing = ctx.build(ops.IsNaN, x)
    else:
        missing = ctx.build(ops.Equal, x, ctx.constant(old, x.dtype))
    return ctx.pointwise(ops.Where, missing, ctx.constant(array), x)


@onnx_op("Normalizer")
def normalizer(ctx: Context) -> Results:
    """Rows divided by their largest size, their sum of sizes or their length; rows of zeros stay."""
    x, norm = ctx.cast(ctx.operand(0), f32), ctx.attribute("norm", "MAX")
    if x.rank not in (1, 2):
        raise ctx.error(f"Normalizer of {x.type}: a matrix or a list is needed")
    axes = (x.rank - 1,)
    match norm:
        case "MAX":
            length: Value = ctx.build(ReduceMax, x, axes, True)
        case "L1":
            length = ctx.build(ReduceSum, ctx.build(ops.Abs, x), axes, True)
        case "L2":
            length = ctx.build(ops.Sqrt, ctx.build(ReduceSum, ctx.build(ops.Mul, x, x), axes, True))
        case _:
            raise ctx.error(f"unknown norm {norm!r}")
    nothing = ctx.build(ops.Equal, length, ctx.constant(0, f32))
    return ctx.build(ops.Where, nothing, x, ctx.build(ops.Div, x, length))


@onnx_op("FeatureVectorizer")
def feature_vectorizer(ctx: Context) -> Results:
    """The columns of all inputs side by side."""
    parts = [ctx.cast(x, f32) for x in ctx.variadic()]
    widths = ctx.ints("inputdimensions")
    rows: list[Value] = []
    for number, part in enumerate(parts):
        count = part.shape[0] if part.rank else 1
        width = dims.product(part.shape[1:])
        if widths is not None and number < len(widths):
            ctx.equal(width, widths[number])
        ctx.equal(count, parts[0].shape[0] if parts[0].rank else 1)
        rows.append(ctx.build(Reshape, part, (count, width)))
    return ctx.build(Concat, tuple(rows), 1)


@onnx_op("OneHotEncoder")
def one_hot_encoder(ctx: Context) -> Results:
    """A new last axis with 1 at the place of the category; none where it is unknown."""
    x = ctx.operand(0)
    names, numbers = ctx.strings("cats_strings"), ctx.ints("cats_int64s")
    if (names is None) == (numbers is None):
        raise ctx.error("OneHotEncoder needs either cats_strings or cats_int64s")
    if names is not None:
        known = ctx.constant(np.array(names, object))
    else:
        known = ctx.constant(np.array(numbers, np.int64))
        x = ctx.cast(x, i64)
    same = ctx.build(ops.Equal, ctx.build(Reshape, x, (*x.shape, 1)), known)
    if not ctx.attribute("zeros", 1):
        found = ctx.build(ReduceMax, ctx.build(ops.Cast, same, i64), (x.rank,), False)
        whole = ctx.build(ReduceSum, found, tuple(range(x.rank)), False) if x.rank else found
        all_known = ctx.build(ops.Equal, whole, ctx.dim_values((x.type.size,), True))
        ctx.require(all_known, "OneHotEncoder: a category is unknown")
    return ctx.build(ops.Cast, same, f32)
