"""``ingot prune``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ingot.compiler.cli import main
from ingot.compiler.demo import model_path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).standard_normal((8, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", image=image)
    return tmp_path / "data.npz"


def test_it_writes_both_formats_and_a_report(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [tmp_path / "p.onnx", tmp_path / "p.ingot"]
    written = [f"--output={each}" for each in outputs]
    given = ["prune", str(model_path()), "--rate=0.7", "--pattern=4x1", "--ends", f"--data={data}", *written]
    assert main([*given, f"--report={tmp_path / 'r.json'}", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [each["bytes"] for each in record["outputs"]] == [each.stat().st_size for each in outputs]
    assert record["report"] == json.loads((tmp_path / "r.json").read_text())
    assert record["report"]["how"] == "shrinkage, 4x1"


def test_it_says_what_is_wrong_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.onnx"
    for arguments, message in (
        (["--rate=1"], "leaves nothing"),
        (["--criterion=wanda"], "needs samples"),
        (["--pattern=round"], "pattern"),
        (["--report", str(out)], "twice"),
        (["--target=abacus"], "abacus"),
    ):
        assert main(["prune", str(model_path()), "-o", str(out), *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
