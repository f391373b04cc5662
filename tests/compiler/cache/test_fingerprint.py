"""Keys change with everything that a cached result depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from tests.test_house import HALVES, imports_of

from ingot.compiler.cache import open_cache
from ingot.compiler.cache.fingerprint import EMITTER, EVERYTHING, content_digest, fingerprint, key_of
from ingot.compiler.environment import Environment
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.cpu.objects import level_text


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Two files of sources, long there."""
    (tmp_path / "part" / "deep").mkdir(parents=True)
    (tmp_path / "part" / "a.py").write_text("a = 1\n")
    (tmp_path / "part" / "deep" / "b.py").write_text("b = 2\n")
    return tmp_path


def text_of(root: Path) -> str:
    found = fingerprint(("part",), roots=(root,))
    assert found is not None
    return found.text


def test_parts_are_kept_apart() -> None:
    assert key_of("ab", "c") != key_of("a", "bc") != key_of("abc")
    assert key_of("a") == key_of(b"a") and len(key_of()) == 64


def test_any_edit_gives_another_fingerprint(sources: Path) -> None:
    seen = {text_of(sources)}
    assert text_of(sources) in seen
    (sources / "part" / "deep" / "b.py").write_text("b = 3\n")
    seen.add(text_of(sources))
    (sources / "part" / "c.py").write_text("")
    seen.add(text_of(sources))
    (sources / "part" / "c.py").rename(sources / "part" / "d.py")
    seen.add(text_of(sources))
    (sources / "part" / "a.py").unlink()
    seen.add(text_of(sources))
    assert len(seen) == 5
    (sources / "part" / "notes.txt").write_text("no source")
    assert text_of(sources) in seen


def test_no_sources_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert fingerprint(("empty",), roots=(tmp_path,)) is None
    assert fingerprint(("absent",), roots=(tmp_path,)) is None


def test_code_edited_since_the_process_started_is_not_what_runs(sources: Path) -> None:
    found = fingerprint(("part",), roots=(sources,))
    assert found is not None and not found.is_loaded()  # the files are newer than this process
    installed = dataclasses.replace(found, files=(Path(os.__file__),))
    assert installed.is_loaded()
    assert not dataclasses.replace(found, files=(Path(os.__file__), sources / "gone.py")).is_loaded()


def test_every_module_that_makes_an_object_is_in_its_key() -> None:
    """All that `targets.cpu.objects` imports, directly or not, lies in EMITTER."""
    found = fingerprint(EMITTER)
    assert found is not None
    waiting, seen = ["ingot.compiler.targets.cpu.objects"], set[Path]()
    while waiting:
        relative = Path(*waiting.pop().split("."))
        for half in HALVES.values():
            for path in ((half / relative).with_suffix(".py"), half / relative / "__init__.py"):
                if path.is_file() and path not in seen:
                    seen.add(path)
                    waiting += [each.module for each in imports_of(path) if each.module.startswith("ingot.")]
    assert seen and not seen - set(found.files)


def test_everything_is_every_module() -> None:
    found = fingerprint(EVERYTHING)
    assert found is not None
    assert set(found.files) == {path for half in HALVES.values() for path in half.rglob("*.py")}


def test_levels_have_texts_of_their_own() -> None:
    names = ("x86-64-v3", "x86-64-v4", "aarch64")
    assert len({level_text(features.level(name)) for name in names}) == 3
    level = features.level("x86-64-v3")
    for field in dataclasses.fields(level):
        value = getattr(level, field.name)
        other = {str: f"{value}x", int: 7, bool: not value, tuple: ("+sse",)}.get(type(value))
        if field.name != "required":
            changed = dataclasses.replace(level, **{field.name: other})
            assert level_text(changed) != level_text(level), field.name


@pytest.mark.parametrize("size", [0, 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, 20 << 20])
def test_content_digest(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    blocks = [data[start : start + (8 << 20)] for start in range(0, size, 8 << 20)]
    expected = hashlib.sha256(repr([size]).encode() + b"".join(hashlib.sha256(b).digest() for b in blocks)).digest()
    assert content_digest([memoryview(data)]) == content_digest([memoryview(data)], threads=1) == expected


def test_content_digest_tells_pieces_apart() -> None:
    pieces = [[b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"abc", b""], [b"", b"abc"], []]
    assert len({content_digest([memoryview(p) for p in each]) for each in pieces}) == len(pieces)


def test_off() -> None:
    assert open_cache(Environment(), print) is None
