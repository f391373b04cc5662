"""Labels as other labels: a table of keys and values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import ML, Table
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Gather, Reshape
from ingot.compiler.ops.reduction import ReduceMax
from ingot.runtime.dtypes import i64

TABLE = Table(domain=ML)
onnx_op = TABLE.onnx_op


def translated(ctx: Context, x: Value, keys: NDArray[Any], values: NDArray[Any], default: NDArray[Any]) -> Value:
    """For each element the value of the last key that equals it (NaN equals NaN), else `default`."""
    if keys.ndim != 1 or values.shape != keys.shape or default.size != 1:
        raise ctx.error(f"{keys.size} keys, {values.size} values and {default.size} defaults do not make a table")
    table = ctx.constant(keys)
    if x.dtype != table.dtype:
        raise ctx.error(f"{x.type} is looked up in a table of {table.dtype.name}")
    column = ctx.build(Reshape, x, (*x.shape, 1))
    same: Value = ctx.build(ops.Equal, column, table)
    if x.dtype.is_float and np.isnan(keys).any():
        both = ctx.build(ops.And, ctx.build(ops.IsNaN, column), ctx.build(ops.IsNaN, table))
        same = ctx.build(ops.Or, same, both)
    places = ctx.constant(np.arange(1, len(keys) + 1))
    place = ctx.build(ops.Where, same, places, ctx.constant(0, i64))
    found: Value = ctx.expand(ctx.constant(0, i64), x.shape)
    if len(keys):
        found = ctx.build(ReduceMax, place, (x.rank,), False)
    return ctx.build(Gather, ctx.constant(np.append(default.reshape(1), values)), found, 0)


def strings(items: tuple[str, ...]) -> NDArray[Any]:
    """Strings as an array."""
    found = np.empty(len(items), object)
    found[:] = items
    return found


@onnx_op("LabelEncoder")
def label_encoder_list(ctx: Context) -> Results:
    """Strings by their place in a list, and back."""
    x, names = ctx.operand(0), strings(ctx.strings("classes_strings") or ())
    places = np.arange(len(names))
    name, number = ctx.attribute("default_string", "_Unused"), ctx.attribute("default_int64", -1)
    if x.dtype.is_integer:
        return translated(ctx, x, places, names, strings((name,)))
    return translated(ctx, x, names, places, np.array(number))


@onnx_op("LabelEncoder", since=2)
def label_encoder(ctx: Context) -> Results:
    """Keys and values of any of the types, from lists or (since version 4) tensors."""
    keys, values = (_column(ctx, side) for side in ("keys", "values"))
    given = {
        "string": strings((ctx.attribute("default_string", "_Unused"),)),
        "int": np.array(ctx.attribute("default_int64", -1)),
        "float": np.array(ctx.attribute("default_float", -0.0), np.float32),
    }
    default = ctx.tensor("default_tensor")
    if default is None:
        kind = "string" if values.dtype == object else "float" if values.dtype.kind == "f" else "int"
        default = given[kind].astype(values.dtype)
    return translated(ctx, ctx.operand(0), keys.reshape(-1), values.reshape(-1), default)


def _column(ctx: Context, side: str) -> NDArray[Any]:
    """The keys or the values, of which there must be one list."""
    names, numbers, reals = (ctx.strings(f"{side}_strings"), ctx.ints(f"{side}_int64s"), ctx.floats(f"{side}_floats"))
    found: list[NDArray[Any]] = []
    if names is not None:
        found.append(strings(names))
    if numbers is not None:
        found.append(np.array(numbers, np.int64))
    if reals is not None:
        found.append(np.array(reals, np.float32))
    tensor = ctx.tensor(f"{side}_tensor")
    if tensor is not None:
        found.append(tensor)
    if len(found) != 1:
        raise ctx.error(f"LabelEncoder has {len(found)} lists of {side}, one is needed")
    return found[0]


@onnx_op("CategoryMapper")
def category_mapper(ctx: Context) -> Results:
    """Strings as the numbers beside them, and back."""
    x, names = ctx.operand(0), strings(ctx.strings("cats_strings") or ())
    numbers = np.array(ctx.ints("cats_int64s") or (), np.int64)
    name, number = ctx.attribute("default_string", "_Unused"), ctx.attribute("default_int64", -1)
    if x.dtype.is_integer:
        return translated(ctx, x, numbers, names, strings((name,)))
    return translated(ctx, x, names, numbers, np.array(number))
