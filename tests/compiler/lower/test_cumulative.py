"""Running sums and products: along the last axis, and along others, where lanes lie beside each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ingot.compiler import compile
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.reduction import CumProd, CumSum, Cumulative
from ingot.runtime.dtypes import DType, f16, f32, i32

SHAPES = ((7,), (5, 130), (130, 5), (2, 3, 65), (0, 3), (3, 0), (1, 64, 1))


@pytest.mark.parametrize("op", [CumSum, CumProd])
@pytest.mark.parametrize(("dtype", "bound"), [(f32, 1e-5), (f16, 4e-3), (i32, 0)])
def test_every_axis(op: type[Cumulative], dtype: DType, bound: float) -> None:
    """All axes and directions of all shapes in one program; integers wrap."""
    rng, outputs, wanted = np.random.default_rng(3), [], {}
    inputs, data = [], {}
    for number, shape in enumerate(SHAPES):
        x = (rng.uniform(0.8, 1.2, shape) * (1 if bound else 1e5)).astype(dtype.to_numpy())
        data[f"x{number}"] = x
        inputs.append(Input(f"x{number}", TensorType(dtype, shape)))
        for axis, exclusive, reverse in itertools.product(range(len(shape)), (False, True), (False, True)):
            name = f"y{len(outputs)}"
            outputs.append((name, op(inputs[-1], axis, exclusive, reverse)))
            rows = np.moveaxis(x.astype(np.float64) if bound else x, axis, 0)
            rows = rows[::-1] if reverse else rows
            made, total = np.empty_like(rows), np.full(rows.shape[1:], int(op is CumProd), rows.dtype)
            for place, row in enumerate(rows):
                with np.errstate(over="ignore"):
                    after = total + row if op is CumSum else total * row
                made[place] = total if exclusive else after
                total = after
            wanted[name] = np.moveaxis(made[::-1] if reverse else made, 0, axis)
    with compile(Graph(tuple(inputs), tuple(outputs)), jobs=1).session(threads=1) as session:
        for name, have in session.run(data).items():
            np.testing.assert_allclose(have, wanted[name].astype(have.dtype), rtol=bound, strict=True)


def test_open_axes() -> None:
    n, m = symbol("n"), symbol("m")
    x = Input("x", TensorType(f32, (n, m)))
    graph = Graph((x,), (("down", CumSum(x, 0, False, True)), ("across", CumProd(x, 1, True, False))))
    with compile(graph, jobs=1, checked=True).session(threads=1) as session:
        for shape in ((3, 150), (0, 2), (2, 0), (1, 1), (70, 64)):
            data = np.random.default_rng(5).uniform(0.8, 1.2, shape).astype(np.float32)
            have = session.run({"x": data})
            wide = data.astype(np.float64)
            np.testing.assert_allclose(have["down"], wide[::-1].cumsum(0)[::-1], rtol=1e-5)
            shifted = np.concatenate([np.ones((shape[0], min(shape[1], 1))), wide[:, :-1]], 1)
            np.testing.assert_allclose(have["across"], shifted.cumprod(1), rtol=1e-5)
