"""The table of quantised models: which files it is made of, and what it says."""

from __future__ import annotations

from benchmarks.quantised import TRIALS, table

from benchmarks import zoo

ROW = {
    "model": "resnet50, static",
    "kind": "cnn",
    "threads": 1,
    "milliseconds": {"ingot": 20.0, "f32": 60.0, "onnxruntime": 24.0, "openvino": 30.0},
    "speedup": {"f32": 3.0, "onnxruntime": 1.2, "openvino": 1.5},
    "error": {"ingot": 1e-2, "onnxruntime": 2e-2, "openvino": 3e-2},
}


def test_all_models_are_in_the_zoo() -> None:
    assert {name for name, _ in TRIALS} <= zoo.MODELS.keys()


def test_rows_and_means() -> None:
    other = ROW | {"model": "vgg11, static", "speedup": {"f32": 3.0, "onnxruntime": 4.8, "openvino": 2.4}}
    lines = table([ROW, other]).splitlines()
    times = ["20.000 (1e-02)", "60.000", "24.000 (2e-02)", "30.000 (3e-02)"]
    cells = ["resnet50, static", "1", *times, "3.00", "1.20", "1.50"]
    assert lines[2] == f"| {' | '.join(cells)} |"
    means = "geometric means 3.00 against f32, 1.70 against the faster engine, 2.40 against ONNX Runtime, 1.90 against"
    assert lines[-1].startswith(f"- CNNs, 1 thread: {means}")
