"""`prune` from file to file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from ingot.compiler import PruningError, prune, quantize
from ingot.compiler.demo import model_path
from ingot.runtime import Session

RANDOM = np.random.default_rng(0)
SAMPLES = [{"image": RANDOM.standard_normal((4, 1, 8, 8)).astype(np.float32)} for _ in range(4)]


def onnx_runtime(path: Path, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [np.asarray(each) for each in session.run(None, feed)]


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "2:4"])
def test_what_is_written_runs_elsewhere_and_here_alike(tmp_path: Path, pattern: str) -> None:
    pruned = prune(model_path(), SAMPLES, rate=0.5, pattern=pattern, ends=True)
    pruned.save(tmp_path / "p.onnx")
    pruned.save(tmp_path / "p.ingot")
    zeros = sum(
        int(np.count_nonzero(onnx.numpy_helper.to_array(each) == 0))
        for each in onnx.load(tmp_path / "p.onnx").graph.initializer
    )
    assert zeros >= pruned.report.removed > 0.45 * pruned.report.weights
    with Session(tmp_path / "p.ingot", threads=1) as session:
        for sample in SAMPLES:
            wanted = onnx_runtime(tmp_path / "p.onnx", sample)
            for mine, other in zip(session.run(sample).values(), wanted, strict=True):
                np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_the_report_tells_of_every_layer(tmp_path: Path) -> None:
    report = prune(model_path(), SAMPLES, rate=0.6, criterion="wanda", ends=True).report
    assert all(layer.zeros == pytest.approx(0.6, abs=0.05) for layer in report.layers)
    assert report.outputs and report.samples == 4
    text = report.text()
    assert all(layer.name in text for layer in report.layers) and "wanda" in text
    report.save(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_text() == report.json()


def test_the_first_and_the_last_layer_stay() -> None:
    whole = prune(model_path(), ends=True).report
    some = prune(model_path()).report
    assert 0 < len(some.layers) < len(whole.layers)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 1.0}, "leaves nothing"),
        ({"rate": -1}, "leaves nothing"),
        ({"criterion": "wanda"}, "needs samples"),
        ({"criterion": "taylor"}, "gradient"),
        ({"criterion": "best"}, "magnitude"),
        ({"pattern": "5"}, "pattern"),
        ({"only": ["nowhere"]}, "nowhere"),
        ({"rates": {"nowhere": 0.5}}, "nowhere"),
        ({"distribution": "sensitivity"}, "needs samples"),
        ({"pattern": "2:4", "rate": 0.8}, "a rate of 0.5, not 0.8"),
        ({"scope": "global", "distribution": "erk"}, "leave distribution erk out"),
        ({"pattern": "2:4", "scope": "output"}, "leave scope output out"),
        ({"rates": {"nowhere": 0.5}, "distribution": "erk"}, "leave rates of single ones out"),
        ({"data": {"image": np.zeros((0, 1, 8, 8), np.float32)}}, "all samples are empty"),
        ({"data": {"image": np.full((1, 1, 8, 8), 3e38, np.float32)}, "ends": True}, "NaN or infinities"),
    ],
)
def test_what_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        prune(model_path(), **given)  # pyright: ignore[reportArgumentType]


def test_a_model_of_integers_is_refused(tmp_path: Path) -> None:
    quantize(model_path(), SAMPLES, ends=True, measure=False).save(tmp_path / "q.onnx")
    with pytest.raises(PruningError, match="quantised already"):
        prune(tmp_path / "q.onnx")
