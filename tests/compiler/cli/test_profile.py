"""``ingot profile``: what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from .conftest import Ingot


@pytest.mark.parametrize("kind", ["model", "artifact"])
def test_record(ingot: Ingot, model: Path, artifact: Path, kind: str) -> None:
    path = model if kind == "model" else artifact
    record = ingot("profile", path, "--shape", "batch=100", "--threads", "1", "--runs", "3", "--json").record
    assert record["threads"] == 1 and record["runs"] == 3 and record["peaks"] is None
    assert record["inputs"] == {"x": {"dtype": "float32", "shape": [100, 4]}}
    assert 0 < record["best_seconds"] <= record["median_seconds"]
    (launch,) = record["launches"]
    assert {"scale", "relu_a", "third", "sum"} <= set(launch["origin"])
    assert launch["calls"] == 1 and launch["chunks"] == 1
    assert launch["bytes"] >= 2 * 4 * 400 and launch["flops"] >= 4 * 400
    assert launch["bytes_rate"] == pytest.approx(launch["bytes"] / launch["seconds"])
    assert launch["share"] + record["between_share"] == pytest.approx(1)


def test_text(ingot: Ingot, artifact: Path) -> None:
    done = ingot("profile", artifact, "--threads", "1", "--runs", "2")
    assert done.status == 0
    head, table = done.out.split("\n\n", 1)
    assert "x float32[1, 4]" in head and "1 launches" in head
    assert "scale, relu_a" in table and "between launches:" in table
    assert "busy" not in table and "peak" not in done.out


def test_top(ingot: Ingot, tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> main (float[8, 8] x) => (float[8, 8] y) '
    proto = onnx.parser.parse_model(text + "{ a = MatMul(x, x) b = Transpose(a) y = MatMul(b, x) }")
    onnx.save(proto, tmp_path / "products.onnx")
    done = ingot("profile", "products.onnx", "--threads", "2", "--top", "1", "--runs", "2", "--peak")
    assert done.status == 0 and "more launches" in done.out and "GFLOP/s of multiply-adds" in done.out


def test_trace(ingot: Ingot, artifact: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.ones((5, 4), np.float32))
    done = ingot("profile", artifact, "--input", "in.npz", "--trace", "out.json", "--runs", "1")
    assert done.status == 0 and "out.json" in done.out
    trace = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert any(event["ph"] == "X" and event["args"]["nodes"] for event in trace["traceEvents"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz", "out.json"]


def test_mistakes(ingot: Ingot, model: Path, artifact: Path) -> None:
    assert "no such file" in ingot("profile", "gone.onnx").complaint
    assert "overwritten" in ingot("profile", artifact, "--trace", artifact).complaint
    assert "no folder" in ingot("profile", artifact, "--trace", "gone/out.json").complaint
    assert "--shape" in ingot("profile", artifact, "--shape", "rows=3").complaint
    assert "no native code" in ingot("profile", model, "--target", "interpreter").complaint
    assert "no number" in ingot("profile", artifact, "--runs", "0").complaint
