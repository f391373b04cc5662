"""Trials in another process: what kills or stops it is an answer."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from ingot.compiler.debug.failure import Failure, message_shape
from ingot.compiler.debug.sandbox import Sandbox, SandboxError
from ingot.compiler.debug.trial import Trial


def test_crashes_hangs_and_exits_are_failures(model: Path, faulty: str) -> None:
    module = importlib.import_module(faulty)
    with Sandbox(30) as sandbox:
        crash = sandbox.attempt(Trial(check=module.crash), model)
        assert crash is not None and (crash.kind, crash.error) == ("crash", "SIGSEGV")
        left = sandbox.attempt(Trial(check=module.leave), model)
        assert left is not None and (left.kind, left.error) == ("crash", "exit status 7")
        assert sandbox.attempt(Trial(check=module.has_erf), model) is None  # and it goes on
        sandbox.seconds = 0.5
        hang = sandbox.attempt(Trial(check=module.hang), model)
        assert hang is not None and hang.kind == "hang"
        sandbox.seconds = 30
        assert sandbox.attempt(Trial(), model) is None


def test_data_lie_beside_the_model(model: Path, faulty: str) -> None:
    module = importlib.import_module(faulty)
    with Sandbox(30) as sandbox:
        trial = Trial(check=module.reads_data)
        assert sandbox.attempt(trial, model, {"x": np.zeros((1, 4), np.float32)}) is None
        found = sandbox.attempt(trial, model.read_bytes(), {"x": np.full((1, 4), 8, np.float32)})
        assert found is not None and (found.kind, found.error) == ("check", "AssertionError")


def test_what_has_no_name_is_refused(model: Path) -> None:
    with Sandbox(30) as sandbox, pytest.raises(SandboxError, match="no name"):
        sandbox.attempt(Trial(check=lambda path: None), model)


def test_inputs_that_cannot_be_evaluated_are_no_answer(model: Path) -> None:
    with Sandbox(30) as sandbox:
        found = sandbox.attempt(Trial(), model, {"x": np.zeros((1, 5), np.float32)})
    assert found is not None and found.kind == "reference"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("node 'a' (Conv): 3 axes", "node 'conv 17' (Conv): 12 axes", True),
        ("no kernel for softmax (x, y)", "no kernel for softmax (z)", True),
        ("no kernel for softmax (x)", "no kernel for top_k (x)", False),
        ("dim [1, 2], n", "dim [7, [8, 9]], n", True),
        ("/a/b/c.onnx: bad", "/d.onnx: bad", True),
    ],
)
def test_shapes_of_messages(one: str, other: str, alike: bool) -> None:
    assert (message_shape(one) == message_shape(other)) is alike


def test_failures_of_one_kind() -> None:
    large = Failure("accuracy", "", "output 'y' differs by 0.5 of its largest magnitude", 0.5)
    small = Failure("accuracy", "", "output 'z' differs by 0.001 of its largest magnitude", 0.001)
    assert large.is_like(small) and not small.is_like(large)
    assert not Failure("compile", "A", "m").is_like(Failure("compile", "B", "m"))
