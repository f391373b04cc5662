"""The target null: what it says is what an artifact has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingot.compiler import compile
from ingot.compiler.demo import model_path
from ingot.compiler.targets.errors import TargetError
from ingot.runtime.errors import InputError
from ingot.runtime.inputs import describe
from ingot.runtime.limits import MemoryLimit
from ingot.runtime.plan import Loaded, Planner


def test_what_an_artifact_has() -> None:
    outline, artifact = compile(model_path(), target="null"), compile(model_path(), cache=False)
    manifest = artifact.manifest
    record = json.loads(json.dumps(outline.record({"batch": 3})))
    assert outline.manifest.args == manifest.args and outline.manifest.storages == manifest.storages
    assert outline.manifest.code == () and record["argument_words"] == len(manifest.args)
    assert record["weights_bytes"] == manifest.digests["weights.bin"].size
    assert record["launches"] == manifest.provenance["launches"]
    assert len(record["kernels"]) == manifest.provenance["kernels"]
    assert record["inputs"] == [{"name": "image", "dtype": "f32", "shape": ["batch", 1, 8, 8]}]
    planner = Planner(manifest, Loaded(describe(manifest.inputs), describe(manifest.outputs), 0, MemoryLimit(2**40)))
    assert record["memory"] == {"symbols": {"batch": 3}, "arena_bytes": planner.plan(((3, 1, 8, 8),)).arena_size}
    with pytest.raises(InputError):
        outline.arena_bytes({"batch": -1})


def test_there_is_no_code(tmp_path: Path) -> None:
    outline = compile(model_path(), target="null")
    with pytest.raises(TargetError, match="no code to run"):
        outline.session()
    with pytest.raises(TargetError, match=r"x\.ingot: the target null makes no code to write"):
        outline.save(tmp_path / "x.ingot")
    assert not list(tmp_path.iterdir())
