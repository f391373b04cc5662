"""TopK of axes whose extent only a run knows: a result never holds more elements than there are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from ingot.compiler import compile
from ingot.compiler.frontend import ModelError, load_onnx
from ingot.runtime import InputError, RuntimeFault, Session

TWO = "g (float[n, 2] x, float[p, 2] z) => (float[m, 2] y, int64[m, 2] i)"
ONE = "g (float[n, 2] x) => (float[m, 2] y, int64[m, 2] i)"


def session(text: str) -> Session:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    return compile(proto, cache=False).session()


def rows(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).standard_normal((count, 2)).astype(np.float32)


def largest(x: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    return np.argsort(-x, axis=0, kind="stable")[:k]


def test_a_dim_is_bounded() -> None:
    with session(f"{ONE} <int64[1] k = {{3}}> {{ y, i = TopK<axis=0>(x, k) }}") as model:
        for count in (3, 7):
            assert np.array_equal(model.run({"x": rows(count)})["i"], largest(rows(count), 3))
        for count in (0, 2):
            with pytest.raises(InputError, match="n must be 3 or more"):
                model.run({"x": rows(count)})


def test_a_sum_of_dims_is_checked() -> None:
    body = "{ c = Concat<axis=0>(x, z) y, i = TopK<axis=0>(c, k) }"
    with session(f"{TWO} <int64[1] k = {{3}}> {body}") as model:
        x, z = rows(1), rows(2)
        assert np.array_equal(model.run({"x": x, "z": z})["i"], largest(np.concatenate([x, z]), 3))
        with pytest.raises(RuntimeFault, match="TopK needs 3 elements on axis 0"):
            model.run({"x": x, "z": z[:1]})


def test_numbers_made_of_the_extent() -> None:
    """min(n, 3) and n // 2 are never too many and bound nothing; 2 * n are too many unless n is 0."""
    size = "s = Shape<start=0, end=1>(x)"
    for step, k in (("Min", lambda n: min(n, 3)), ("Div", lambda n: n // 3)):
        body = f"{size} k = {step}(s, three) y, i = TopK<axis=0>(x, k)"
        with session(f"{ONE} <int64[1] three = {{3}}> {{ {body} }}") as model:
            for count in (0, 1, 5):
                assert np.array_equal(model.run({"x": rows(count)})["i"], largest(rows(count), k(count)))
    with session(f"{ONE} <int64[1] two = {{2}}> {{ {size} k = Mul(s, two) y, i = TopK<axis=0>(x, k) }}") as model:
        assert model.run({"x": rows(0)})["i"].shape == (0, 2)
        with pytest.raises(RuntimeFault, match="TopK needs 2"):
            model.run({"x": rows(1)})


def test_fixed_extents() -> None:
    text = "g (float[2, 2] x) => (float[m, 2] y, int64[m, 2] i) <int64[1] k = {3}> { y, i = TopK<axis=0>(x, k) }"
    with pytest.raises(ModelError, match="3 elements cannot be chosen"):
        load_onnx(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))
