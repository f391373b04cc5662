"""The benchmark of sparse weights: its layers are what they say, and its table."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from benchmarks.sparse import Layer, report
from onnx import numpy_helper

from benchmarks import sparse


@pytest.mark.parametrize("layer", [Layer(4, 64, 48), Layer(7, 16, 24, 3)], ids=str)
def test_layers_have_the_zeros_that_they_are_asked_for(layer: Layer) -> None:
    for rate, together in ((0.0, 1), (0.8, 1), (0.9, 4)):
        model = layer.model(rate, together)
        onnx.checker.check_model(model)
        w = numpy_helper.to_array(model.graph.initializer[0]).reshape(-1, layer.columns if not layer.taps else 144)
        matrix = w.T if layer.taps else w  # [depth, columns]
        assert abs(np.mean(matrix == 0) - rate) < 0.06
        blocks = (matrix != 0).reshape(len(matrix), -1, together)
        np.testing.assert_array_equal(blocks.any(2), blocks.all(2))


def test_the_table() -> None:
    row = Layer(8, 16, 32), {"ingot": 4e-6, "onnxruntime": 6e-6}, {80: 2e-6, 90: 1e-6}
    assert list(report(iter([row]), (80, 90))) == [
        "| | ingot | onnxruntime | 80 % | 90 % |",
        "|---|---|---|---|---|",
        "| 8 x 16 x 32 | 4 | 6 | 2.00 (3.0) | 4.00 (6.0) |",
    ]


def test_a_layer_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sparse, "SHAPES", ((64, 128),))
    sparse.main(["--tokens", "32", "--rates", "90", "--rounds", "1", "--peers"])
    head, _, row = capsys.readouterr().out.splitlines()
    assert head == "| | ingot | 90 % |" and row.startswith("| 32 x 64 x 128 | ")
