"""Artifacts that are pickled and copied: those that were read from a file own its descriptor alone."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from ingot.compiler import compile
from ingot.compiler.artifact import Artifact, open_artifact

MODEL = """
    <ir_version: 8, opset_import: ["" : 17]>
    add (float[n, 3] x) => (float[n, 3] y) <float[3] w = {1.0, 2.0, 4.0}> { y = Add(x, w) }
"""


def pickled(artifact: Artifact) -> Artifact:
    return pickle.loads(pickle.dumps(artifact))


@pytest.mark.parametrize("duplicate", [pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("stored", [False, True])
def test_copies_outlive_the_original(tmp_path: Path, stored: bool, duplicate: Callable[[Artifact], Artifact]) -> None:
    artifact = compile(onnx.parser.parse_model(MODEL), cache=False)
    artifact.save(tmp_path / "a.ingot")
    if stored:
        artifact = open_artifact(tmp_path / "a.ingot")
    size = artifact.size
    twin = duplicate(artifact)
    del artifact
    gc.collect()
    (tmp_path / "a.ingot").rename(tmp_path / "old.ingot")
    with open(tmp_path / "other", "wb") as other:  # takes the number of the descriptor that is closed now
        other.write(b"something else")
        x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
        with twin.session() as session:
            assert np.array_equal(session.run({"x": x})["y"], x + np.array([1, 2, 4], np.float32))
        twin.save(tmp_path / "b.ingot")
    assert twin.size == size and (tmp_path / "b.ingot").read_bytes() == (tmp_path / "old.ingot").read_bytes()
