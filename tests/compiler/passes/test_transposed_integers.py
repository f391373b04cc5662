"""Transposed convolutions of bytes in integers: every form of the operator against sums in int64."""

from __future__ import annotations

from itertools import product as cartesian
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler import compile
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.pointwise import Relu
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.compiler.passes.default import default_pipeline
from ingot.runtime.dtypes import DType, f32, i8, u8

Array = NDArray[Any]
SCALE, STEP = np.float32(0.02), np.float32(0.9)
Ints = tuple[int, ...]

# x, w, strides, pads, dilations, output padding, groups
FORMS: dict[str, tuple[Ints, Ints, Ints, Ints, Ints, Ints, int]] = {
    "upsampling by 2": ((1, 8, 5, 6), (8, 12, 2, 2), (2, 2), (0, 0, 0, 0), (1, 1), (0, 0), 1),
    "3x3 stride 2": ((2, 8, 5, 4), (8, 5, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (1, 1), 1),
    "4x4 stride 2": ((1, 3, 4, 4), (3, 16, 4, 4), (2, 2), (1, 1, 1, 1), (1, 1), (0, 0), 1),
    "stride 1": ((1, 4, 6, 5), (4, 7, 3, 3), (1, 1), (1, 0, 1, 2), (1, 1), (0, 0), 1),
    "dilated": ((1, 4, 4, 5), (4, 3, 2, 3), (2, 1), (0, 1, 1, 0), (2, 2), (0, 0), 1),
    "groups": ((1, 6, 4, 4), (6, 4, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (0, 0), 3),
    "1d": ((2, 5, 9), (5, 4, 5), (3,), (1, 2), (1,), (1,), 1),
    "cut": ((1, 4, 5, 5), (4, 4, 1, 1), (2, 2), (2, 2, 1, 1), (1, 1), (0, 0), 1),
}


def transposed(x: Array, w: Array, form: str) -> Array:
    """The sums in int64."""
    _, _, strides, pads, dilations, more, group = FORMS[form]
    rank, inner, filters = len(strides), x.shape[1] // group, w.shape[1]
    whole = [(x.shape[2 + i] - 1) * strides[i] + dilations[i] * (w.shape[2 + i] - 1) + 1 + more[i] for i in range(rank)]
    total = np.zeros((x.shape[0], filters * group, *whole), np.int64)
    for tap in cartesian(*map(range, w.shape[2:])):
        places = [
            slice(tap[i] * dilations[i], tap[i] * dilations[i] + (x.shape[2 + i] - 1) * strides[i] + 1, strides[i])
            for i in range(rank)
        ]
        for g in range(group):
            part = x[:, g * inner : (g + 1) * inner].astype(np.int64)
            own = w[g * inner : (g + 1) * inner][(slice(None), slice(None), *tap)].astype(np.int64)
            seen = (slice(None), slice(g * filters, (g + 1) * filters), *places)
            total[seen] += np.einsum("nc...,cm->nm...", part, own)
    kept = [slice(pads[i], whole[i] - pads[rank + i]) for i in range(rank)]
    return total[(slice(None), slice(None), *kept)]


def network(form: str, dtype: DType, kind: DType, zero: int, point: int, bias: str) -> tuple[Graph, Array, Array]:
    """A quantised transposed convolution, its input, and the sums less what the zero points add, with the bias."""
    shape, filters, strides, pads, dilations, more, group = FORMS[form]
    rng, limits = np.random.default_rng(len(form)), np.iinfo(dtype.to_numpy())
    data = rng.integers(limits.min, limits.max + 1, shape).astype(dtype.to_numpy())
    own = np.iinfo(kind.to_numpy())
    w = rng.integers(own.min, own.max + 1, filters).astype(kind.to_numpy())
    x, count = Input("x", TensorType(dtype, shape)), filters[1]
    scales = (rng.uniform(0.5, 1, (1, count, *(1,) * (len(shape) - 2))) * 0.01).astype(np.float32)
    weights = Dequantize(constant(w), constant(scales), constant(point, kind) if point else None)
    steps = np.tile(scales.reshape(-1), group)
    shift, added = np.zeros(count * group, np.int64), None
    if bias == "exact":
        shift = rng.integers(-5000, 5000, count * group)
        added = Dequantize(constant(shift.astype(np.int32)), constant(SCALE * steps), None)
    real = Dequantize(x, constant(SCALE), constant(zero, dtype))
    other = constant(rng.standard_normal(count * group).astype(np.float32))
    shifts = other if bias == "float" else added
    y: Value = ConvTranspose(real, weights, shifts, strides, pads, dilations, more, group, False)
    graph = Graph((x,), (("y", Quantize(Relu(y), constant(STEP), constant(3, u8), u8)),))
    column = (-1, *(1,) * (len(shape) - 2))
    sums = transposed(data.astype(np.int64) - zero, w.astype(np.int64) - point, form) + shift.reshape(column)
    total = sums * (np.float64(SCALE) * steps.reshape(column).astype(np.float64))
    if bias == "float":
        total = total + other.data.reshape(column)
    return graph, data, np.clip(np.rint(np.maximum(total, 0) / np.float64(STEP)) + 3, 0, 255)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("types", "zeros", "bias"),
    [((u8, i8), (130, 0), "exact"), ((i8, i8), (-7, 0), "none"), ((u8, u8), (0, 117), "float")],
)
@pytest.mark.parametrize("mode", ["onnx", "tosa"])
def test_every_form(form: str, types: tuple[DType, DType], zeros: tuple[int, int], bias: str, mode: Any) -> None:
    graph, data, want = network(form, *types, *zeros, bias)
    done = default_pipeline("default", mode).without("fuse").run(graph)
    convolutions = [node for node in done.nodes() if isinstance(node, Conv)]
    if types[1] == u8 and FORMS[form][-1] > 1:
        return  # grouped weights that no i8 holds stay floats
    assert convolutions and all((conv.x.dtype, conv.w.dtype) == (u8, i8) for conv in convolutions)
    exact = evaluate_graph(done, {"x": data})["y"]
    difference = np.abs(exact.astype(int) - want)
    assert difference.max() <= 1 and (difference != 0).mean() < 0.02
    with compile(graph, requantise=mode, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run({"x": data})["y"], exact)


def test_scales_along_what_is_summed_stay_floats() -> None:
    x = Input("x", TensorType(u8, (1, 4, 3, 3)))
    scales = np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1, 1)
    w = Dequantize(constant(np.ones((4, 2, 2, 2), np.int8)), constant(scales), None)
    real = Dequantize(x, constant(SCALE), None)
    y = ConvTranspose(real, w, None, (2, 2), (0, 0, 0, 0), (1, 1), (0, 0), 1, False)
    done = default_pipeline().without("fuse").run(Graph((x,), (("y", y),)))
    assert [node.x.dtype for node in done.nodes() if isinstance(node, Conv)] == [f32]
