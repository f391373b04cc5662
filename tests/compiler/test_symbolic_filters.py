"""Convolutions whose filters come at run time, with numbers of channels that are not known before."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from ingot.compiler import compile, load_onnx
from ingot.compiler.frontend import UnsupportedError
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.runtime import InputError

HEADER = '<ir_version: 9, opset_import: ["" : 18]> '


def conv(filters: str, attributes: str) -> onnx.ModelProto:
    text = f"m (float[n, c, h, w] x, float[{filters}] f) => (float[a, b, d, e] y) {{ y = Conv<{attributes}>(x, f) }}"
    return onnx.parser.parse_model(HEADER + text)


@pytest.mark.parametrize(
    ("filters", "attributes", "cases"),
    [
        (
            "o, i, 3, 3",
            "pads = [1, 1, 1, 1]",
            [((1, 2, 5, 5), (3, 2, 3, 3)), ((2, 19, 4, 7), (37, 19, 3, 3)), ((1, 0, 3, 3), (4, 0, 3, 3))],
        ),
        ("o, i, 1, 1", "strides = [2, 2]", [((2, 9, 6, 5), (17, 9, 1, 1)), ((1, 3, 2, 2), (0, 3, 1, 1))]),
        ("4, i, 3, 2", "group = 2", [((2, 6, 5, 6), (4, 3, 3, 2)), ((1, 2, 3, 3), (4, 1, 3, 2))]),
    ],
)
def test_any_number_of_channels(
    filters: str, attributes: str, cases: list[tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    graph = load_onnx(conv(filters, attributes))
    rng = np.random.default_rng(0)
    with compile(graph, jobs=1).session(threads=1) as session:
        for x, f in cases:
            feed = {"x": rng.standard_normal(x).astype(np.float32), "f": rng.standard_normal(f).astype(np.float32)}
            wanted = evaluate_graph(graph, feed)["y"]
            np.testing.assert_allclose(session.run(feed)["y"], wanted, rtol=1e-4, atol=1e-4)
        with pytest.raises(InputError):
            session.run({"x": np.zeros((1, 5, 8, 8), np.float32), "f": np.zeros((4, 7, 3, 3), np.float32)})


def test_groups_of_an_unknown_number_of_filters() -> None:
    with pytest.raises(UnsupportedError, match=r"2 groups of filters .*; pin the number of filters with shapes"):
        load_onnx(conv("o, i, 3, 3", "group = 2"))
