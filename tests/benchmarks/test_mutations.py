"""A slice of the campaigns of damaged models and artifacts, and what they found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.mutations import campaign as campaigns
from benchmarks.mutations.campaign import campaign, mutants
from benchmarks.mutations.models import WRITTEN, sources

from ingot.compiler import compile, load_onnx
from ingot.runtime import ArtifactError, Session
from ingot.runtime.container import Container
from ingot.runtime.manifest import WEIGHTS_MEMBER


def test_the_models_are_accepted() -> None:
    for name, data in sources().items():
        assert load_onnx(data).outputs, name


def test_the_seed_decides(tmp_path: Path) -> None:
    one, two = (list(mutants("model", 5, 30, tmp_path)) for _ in range(2))
    assert one == two and len({data for _, data, _ in one}) > 20


@pytest.mark.parametrize(("kind", "count"), [("model", 24), ("artifact", 30)])
def test_damage_gives_typed_errors(kind: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns, "sources", lambda: {name: sources()[name] for name in WRITTEN})
    counts = campaign(kind, 0, count, 1.0, tmp_path)
    assert set(counts) == {"fine"}, counts


def test_constants_that_are_indices_are_verified(tmp_path: Path) -> None:
    """The code trusts the tables of a Resize: damage there is found without reading all weights."""
    compile(load_onnx(sources()["image"]), jobs=1).save(path := tmp_path / "m.ingot")
    with Container(path) as container:
        entry = container.entry(WEIGHTS_MEMBER)
    data = bytearray(path.read_bytes())
    data[entry.offset : entry.offset + entry.size] = np.full(entry.size, 0x7F, np.uint8).tobytes()
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"'weights.bin' is damaged"):
        Session(path, threads=1)
