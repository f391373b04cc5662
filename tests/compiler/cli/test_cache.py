"""``ingot cache`` and ``--no-cache``."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.compiler.cli.conftest import Ingot


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache that is not there yet."""
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path / "kept"))
    monkeypatch.setenv("INGOT_CACHE_SIZE", "2M")
    monkeypatch.setattr("ingot.compiler.cache.fingerprint.Fingerprint.is_loaded", lambda self: True)
    return tmp_path / "kept"


def test_show_and_clear(ingot: Ingot, model: Path, folder: Path) -> None:
    shown = ingot("cache", "show", "--json").record
    assert (shown["kernels"], shown["programs"], shown["limit"]) == (0, 0, 2 << 20)
    assert ingot("compile", model, "-o", "a.ingot", "--no-cache").status == 0
    assert not folder.exists()
    for name in ("b.ingot", "c.ingot"):
        assert ingot("compile", model, "-o", name).status == 0
    assert Path("a.ingot").read_bytes() == Path("b.ingot").read_bytes() == Path("c.ingot").read_bytes()
    shown = ingot("cache", "show", "--json").record
    # The kernel, the function that launches it and what no program changes.
    assert (shown["kernels"], shown["programs"], shown["folder"]) == (3, 1, str(folder))
    assert shown["kernel_bytes"] + shown["program_bytes"] == sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "growth"
    )
    assert "3 kernels" in ingot("cache", "show").out and "1 program (" in ingot("cache", "clear").out
    assert ingot("cache", "show", "--json").record["kernels"] == 0
    assert "removed from" in ingot("cache", "clear").out


def test_a_cache_that_cannot_be_used_is_a_note(ingot: Ingot, model: Path, folder: Path) -> None:
    folder.write_bytes(b"")
    done = ingot("compile", model, "-o", "a.ingot")
    assert done.status == 0
    assert sum("cannot be used" in line for line in done.err.splitlines()) == 1
    assert ingot("compile", model, "-o", "a.ingot", "-q").err == ""


@pytest.mark.parametrize("value", ["0", "-1", "1.5G", "1GB", "many"])
def test_sizes_without_meaning(ingot: Ingot, folder: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("INGOT_CACHE_SIZE", value)
    assert f"INGOT_CACHE_SIZE is '{value}'" in ingot("cache", "show").complaint


def test_no_cache_to_show(ingot: Ingot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_CACHE", "0")
    assert "there is no cache" in ingot("cache", "clear").complaint
    assert "show" in ingot("cache", "list").complaint
