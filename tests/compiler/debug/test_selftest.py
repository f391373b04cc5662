"""The self-test: its models are valid, right, and it notices what is wrong."""

from __future__ import annotations

import json

import onnx
import pytest

from ingot.compiler.cli import main
from ingot.compiler.debug import selftest
from ingot.compiler.debug.selftest_models import MODELS, build


@pytest.mark.parametrize("name", MODELS)
def test_models_are_valid(name: str) -> None:
    onnx.checker.check_model(build(MODELS[name].text), full_check=True)


@pytest.mark.parametrize("name", ["attention", "branches and loops"])
def test_each_passes(name: str) -> None:
    outcome = selftest.run(name, "cpu")
    assert outcome.failure is None and outcome.compared >= 6


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["softmax and normalisation", selftest.DEMO]
    assert main(["selftest", "--json", *wanted]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["passed"] and record["levels"] and record["machine"]["processor"]
    assert [test["name"] for test in record["tests"]] == wanted
    assert set(wanted) < set(selftest.names(quick=True)) < set(selftest.names())
    assert main(["selftest", "nothing"]) == 2
    assert "'attention'" in capsys.readouterr().err


def test_a_target_that_this_machine_cannot_run_fails(capsys: pytest.CaptureFixture[str]) -> None:
    other = "aarch64" if selftest.machine()["architecture"] == "x86_64" else "x86-64-v3"
    outcome = selftest.run("attention", other)
    assert outcome.failure is not None
    assert main(["selftest", "--target", "nonsense"]) == 2
    assert "no target" in capsys.readouterr().err
