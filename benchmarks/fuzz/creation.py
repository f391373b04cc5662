"""Tensors made of numbers and shapes: ranges, constants of a shape, identities, one-hot rows, windows, shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from benchmarks.fuzz.build import Attributes, Builder, Tensor, dtype_code

SPELLINGS = ("value", "value_float", "value_int", "value_floats", "value_ints")


def create(b: Builder) -> bool:
    """One of them."""
    return bool(b.choice((_range, _filled, _eye, _one_hot, _window, _constant, _extents, _mel))(b))


def _range(b: Builder) -> bool:
    """Range, up or down, of none too; bounds are weights or inputs."""
    dtype = b.choice(("int64", "int32", "float32", "float64"))
    start, step = b.integer(-4, 4), b.choice((1, 1, 2, 3, -1, -2))
    limit = start + step * b.integer(0, 6) + (b.integer(0, 1) if step > 1 else 0)
    bounds = [np.asarray(value, dtype) for value in (start, limit, step)]
    count = max(math.ceil((limit - start) / step), 0)
    operands = [b.given(value, 0.5) for value in bounds]
    b.node("Range", operands, [(dtype, (b.found(count),))])
    return True


def _filled(b: Builder) -> bool:
    """ConstantOfShape of a constant, an input, or another tensor's shape."""
    dtype = b.choice(("float32", "float16", "int64", "int32", "uint8", "bool", "float64"))
    value: Attributes = {}
    if dtype != "float32" or b.chance(0.7):
        value["value"] = numpy_helper.from_array(b.values(dtype, (1,)))
    like = b.pick(lambda t: t.rank > 0, text=True) if b.chance(0.5) else None
    if like is not None:
        shape = b.node("Shape", [like], [("int64", (like.rank,))], visible=False)[0]
        b.node("ConstantOfShape", [shape], [(dtype, like.shape)], **value)
        return True
    extents = b.shape(b.integer(0, 3))
    b.node("ConstantOfShape", [b.given(np.array(extents, np.int64))], [(dtype, _computed(b, extents))], **value)
    return True


def _computed(b: Builder, extents: tuple[int, ...]) -> tuple[str | int, ...]:
    return tuple(b.found(e) for e in extents)


def _eye(b: Builder) -> bool:
    x = b.pick(lambda t: t.rank == 2 and t.dtype in ("float32", "float64", "int32", "int64"))
    if x is None:
        return False
    dtype = b.choice((x.dtype, "float32", "int64"))
    attributes: Attributes = {"dtype": dtype_code(dtype)} if dtype != x.dtype or b.chance(0.3) else {}
    b.node("EyeLike", [x], [(dtype, x.shape)], k=b.integer(-2, 2), **attributes)
    return True


def _one_hot(b: Builder) -> bool:
    """Indices on both sides of zero, some outside of the depth."""
    shape = b.shape(b.integer(1, 2))
    depth = b.integer(1, 6)
    indices = b.given(np.asarray(b.rng.integers(-depth - 1, depth + 2, shape), b.choice((np.int64, np.int32))))
    dtype = b.choice(("float32", "int64", "int32"))
    values = b.constant(np.array([0, 1] if b.chance(0.5) else [2, -3], dtype))
    axis = b.integer(-1, len(shape))
    place = len(shape) if axis == -1 else axis
    count = b.given(np.asarray(depth, np.int64), 0.6)
    extent = b.found(depth)
    b.node("OneHot", [indices, count, values], [(dtype, (*shape[:place], extent, *shape[place:]))], axis=axis)
    return True


def _window(b: Builder) -> bool:
    if b.opset < 17:
        return False
    op = b.choice(("HannWindow", "HammingWindow", "BlackmanWindow"))
    size = b.integer(2, 12)
    dtype = b.choice(("float32", "float32", "float64"))
    attributes: Attributes = {"output_datatype": dtype_code(dtype)} if dtype != "float32" else {}
    b.node(op, [b.given(np.asarray(size, np.int64), 0.7)], [(dtype, (b.found(size),))], periodic=b.integer(0, 1),
           **attributes)  # fmt: skip
    return True


def _mel(b: Builder) -> bool:
    if b.opset < 17:
        return False
    bins, length, rate = b.integer(2, 8), b.choice((16, 32, 33)), b.choice((8000, 16000))
    operands = [b.constant(np.asarray(v, np.int64)) for v in (bins, length, rate)]
    operands += [b.constant(np.asarray(v, np.float32)) for v in (0.0, rate / 2)]
    b.node("MelWeightMatrix", operands, [("float32", (length // 2 + 1, bins))])
    return True


def _constant(b: Builder) -> bool:
    """A constant that other nodes read, by any attribute of Constant, sparse ones too."""
    name = f"c{next(b.numbers)}"
    if b.chance(0.3):
        return _sparse(b, name)
    spelling = b.choice(SPELLINGS)
    shape = b.shape(b.integer(0, 3)) if spelling == "value" else (b.integer(1, 4),) if spelling.endswith("s") else ()
    dtype = b.float_type if spelling == "value" else "int64" if "int" in spelling else "float32"
    array = np.asarray(b.values(dtype, shape))
    value: Any = numpy_helper.from_array(array) if spelling == "value" else array.tolist()
    attributes: dict[str, Any] = {spelling: value}
    b.nodes.append(helper.make_node("Constant", [], [name], **attributes))
    return _entered(b, Tensor(name, dtype, shape))


def _sparse(b: Builder, name: str) -> bool:
    rows, columns = b.integer(1, 6), b.integer(1, 6)
    places = np.sort(b.rng.choice(rows * columns, b.integer(1, rows * columns), replace=False)).astype(np.int64)
    values = b.rng.standard_normal(len(places)).astype(np.float32)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values, f"{name}_values"), numpy_helper.from_array(places, f"{name}_places"),
        [rows, columns],
    )  # fmt: skip
    b.nodes.append(helper.make_node("Constant", [], [name], sparse_value=sparse))
    return _entered(b, Tensor(name, "float32", (rows, columns)))


def _entered(b: Builder, tensor: Tensor) -> bool:
    b.pool.append(tensor)
    b.made.append(tensor)
    return True


def _extents(b: Builder) -> bool:
    """Shape, in part, and Size as data."""
    x = b.pick(text=True)
    assert x is not None
    if b.chance(0.3):
        b.node("Size", [x], [("int64", ())])
        return True
    start, end = b.integer(-x.rank - 1, x.rank + 1), b.integer(-x.rank - 1, x.rank + 1)
    attributes = {}
    if b.opset >= 15 and b.chance(0.6):
        attributes: Attributes = {"start": start, **({"end": end} if b.chance(0.7) else {})}
    count = len(x.shape[slice(attributes.get("start", 0), attributes.get("end"))])
    b.node("Shape", [x], [("int64", (count,))], **attributes)
    return True
