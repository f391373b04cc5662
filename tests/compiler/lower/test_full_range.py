"""Sums of products of integers from the whole range of their types, at their ends and as long as fits, on every level:
what int64 says, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product as cartesian
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.compiler.targets.levels import RUNNABLE

from ingot.compiler import compile
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.runtime.dtypes import i8, u8

Array = NDArray[Any]
DEEPEST = 1 << 16  # products of 255 by -128 whose sum fits i32


def ends(seed: int, *shape: int) -> Array:
    """Weights at the ends of i8 and between."""
    rng = np.random.default_rng(seed)
    found = rng.integers(-128, 128, shape)
    found[rng.random(shape) < 0.4] = -128
    found[rng.random(shape) < 0.3] = 127
    return found.astype(np.int8)


KINDS: dict[str, Callable[..., Array]] = {
    "least": lambda *shape: np.full(shape, -128, np.int8),
    "largest": lambda *shape: np.full(shape, 127, np.int8),
    "in turns": lambda *shape: np.resize(np.array([127, -128, -128, 127, 127], np.int8), shape),
    "drawn": lambda *shape: ends(5, *shape),
}


def convolved(x: Array, w: Array, stride: int, pad: int, dilation: int, group: int) -> Array:
    """The sums in int64, channels first."""
    x = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out, own, height, width = w.shape
    size = [(x.shape[2 + i] - dilation * (k - 1) - 1) // stride + 1 for i, k in enumerate((height, width))]
    result = np.zeros((x.shape[0], out, *size), np.int64)
    for row, column in cartesian(range(height), range(width)):
        y0, x0 = row * dilation, column * dilation
        seen = x[:, :, y0 : y0 + (size[0] - 1) * stride + 1 : stride, x0 : x0 + (size[1] - 1) * stride + 1 : stride]
        for g in range(group):
            part, filters = seen[:, g * own : (g + 1) * own], w[g * (out // group) : (g + 1) * (out // group)]
            sums = np.einsum("nchw,mc->nmhw", part, filters[:, :, row, column].astype(np.int64))
            result[:, g * (out // group) : (g + 1) * (out // group)] += sums
    return result


PRODUCTS = [(1, 1, 1), (1, 64, 33), (3, 7, 16), (37, 130, 48), (6, 3, 5), (2, 2, 17), (1, DEEPEST, 3), (5, DEEPEST, 16)]
CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], int, int, int, int]] = [
    ((2, 16, 6, 7), (24, 16, 1, 1), 1, 0, 1, 1),
    ((1, 3, 13, 11), (17, 3, 3, 3), 2, 1, 1, 1),
    ((1, 24, 9, 8), (20, 24, 3, 3), 1, 1, 1, 1),
    ((1, 7, 11, 10), (5, 7, 3, 3), 1, 2, 2, 1),
    ((1, 8, 7, 7), (6, 4, 3, 3), 1, 1, 1, 2),
    ((2, 35, 9, 10), (35, 1, 3, 3), 1, 1, 1, 35),
    ((1, 16, 13, 13), (16, 1, 5, 5), 2, 2, 1, 16),
]


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("kind", KINDS)
def test_products_of_bytes(kind: str, target: str) -> None:
    make, inputs, outputs = KINDS[kind], list[Input](), dict[str, Value]()
    feed, want = dict[str, Array](), dict[str, Array]()
    rng = np.random.default_rng(3)

    def operand(name: str, *shape: int) -> Input:
        data = rng.integers(0, 256, shape).astype(np.uint8)
        data[: len(data) // 2 + 1] = 255
        feed[name] = data
        inputs.append(Input(name, TensorType(u8, shape)))
        return inputs[-1]

    for number, (m, k, n) in enumerate(PRODUCTS):
        name, w = f"m{number}", make(k, n)
        outputs[f"{name}_y"] = MatMul(operand(name, m, k), constant(w))
        want[f"{name}_y"] = feed[name].astype(np.int64) @ w.astype(np.int64)
    for number, (shape, filters, stride, pad, dilation, group) in enumerate(CONVOLUTIONS):
        name, w = f"c{number}", make(*filters)
        window = (stride,) * 2, (pad,) * 4, (dilation,) * 2
        outputs[f"{name}_y"] = Conv(operand(name, *shape), constant(w), None, *window, group, False)
        want[f"{name}_y"] = convolved(feed[name], w, stride, pad, dilation, group)
    graph = Graph(tuple(inputs), tuple(outputs.items()))
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        have = session.run(feed)
    for name, sums in want.items():
        assert np.abs(sums).max() < 2**31
        np.testing.assert_array_equal(have[name], sums, err_msg=name)


@pytest.mark.parametrize("target", RUNNABLE)
def test_products_of_bytes_that_are_computed(target: str) -> None:
    """Without constant weights: those of attention."""
    inputs, outputs, feed, want = list[Input](), dict[str, Value](), dict[str, Array](), dict[str, Array]()
    for number, (a, b) in enumerate((((2, 3, 5, 32), (2, 3, 32, 7)), ((3, 9, 64), (3, 64, 33)), ((4, 70), (70, 16)))):
        first, second = np.full(a, 255, np.uint8), ends(number, *b)
        first[..., ::3] = np.random.default_rng(number).integers(0, 256, first[..., ::3].shape)
        second[..., 0] = -128
        feed |= {f"a{number}": first, f"b{number}": second}
        operands = Input(f"a{number}", TensorType(u8, a)), Input(f"b{number}", TensorType(i8, b))
        inputs += operands
        outputs[f"y{number}"] = MatMul(*operands)
        want[f"y{number}"] = first.astype(np.int64) @ second.astype(np.int64)
    with compile(Graph(tuple(inputs), tuple(outputs.items())), target=target, jobs=1).session(threads=1) as session:
        have = session.run(feed)
    for name, sums in want.items():
        np.testing.assert_array_equal(have[name], sums, err_msg=name)
