"""``ingot compile --tune`` and ``ingot inspect --kernels``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from tests.compiler.cli.conftest import Ingot


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """y = relu(x @ w) for x f32[batch, 24]."""
    text = "net (float[batch, 24] x) => (float[batch, 40] y) { z = MatMul(x, w) y = Relu(z) }"
    made = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}')
    weights = np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    onnx.save(made, tmp_path / "product.onnx")
    return tmp_path / "product.onnx"


def test_tune_and_inspect(ingot: Ingot, product: Path) -> None:
    asked = ("--shape", "batch=30", "--target", "native", "--tune=0.5", "--tuning", "t.json", "-v")
    done = ingot("compile", product, "-o", "m.ingot", *asked)
    assert done.status == 0 and "tuning: 1 kernels to measure" in done.err
    (kernel,) = ingot("inspect", "m.ingot", "--kernels", "--json").record["kernels"]
    assert kernel["signature"] == "matmul, f32[30x24], f32[24x40], then relu" and kernel["count"] == 1
    assert kernel["flops"] == 2 * 30 * 24 * 40 and kernel["bytes"] >= 4 * (30 * 24 + 24 * 40 + 30 * 40)
    assert kernel["limit"] in ("compute", "bandwidth") and kernel["chosen"]["measured_microseconds"] > 0
    assert kernel["rejected"]
    text = ingot("inspect", "m.ingot", "--kernels").out
    assert "measured" in text and "predicted" in text and "GFLOP" in text
    # The model says the same with the record, and only predictions without it.
    arguments = ("inspect", product, "--kernels", "--shape", "batch=30", "--json")
    (again,) = ingot(*arguments, "--tuning", "t.json").record["kernels"]
    assert again["chosen"]["schedule"] == kernel["chosen"]["schedule"] and again["flops"] == kernel["flops"]
    (plain,) = ingot(*arguments).record["kernels"]
    assert plain["chosen"]["measured_microseconds"] is None and plain["chosen"]["predicted_microseconds"] > 0


def test_what_there_is_nothing_to_say_of(ingot: Ingot, product: Path) -> None:
    assert ingot("compile", product, "-o", "m.ingot", "-q").status == 0
    assert "give the model" in ingot("inspect", "m.ingot", "--kernels").complaint
    assert ingot("inspect", product, "--kernels", "--json").record["kernels"] == []
    assert "an artifact has the schedules" in ingot("inspect", "m.ingot", "--kernels", "--tuning", "t.json").complaint
    assert "no such file" in ingot("inspect", "none.onnx", "--kernels").complaint


def test_errors(ingot: Ingot, product: Path) -> None:
    assert "--tune=60" in ingot("compile", "--tune", product).complaint
    assert "target native" in ingot("compile", product, "-o", "m.ingot", "--tune").complaint
    assert "made by --tune" in ingot("compile", product, "-o", "m.ingot", "--tuning", "none.json").complaint
    Path("bad.json").write_text("{}")
    assert "bad.json" in ingot("compile", product, "-o", "m.ingot", "--tuning", "bad.json").complaint
