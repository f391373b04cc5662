"""What the documents point to is there: files that they name in code, and the targets of their links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.test_examples import DOCUMENTS, ROOT

# Documents name files from the repository's root or from one of these.
FOLDERS = (ROOT, ROOT / "compiler/ingot/compiler", ROOT / "runtime/ingot")
WRITTEN = {"fuzz-failures/", "mutation-failures/"}  # by commands that the documents tell of

_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_PATH = re.compile(r"(?:[\w.-]+/)+(?:[\w.-]+\.(?:py|md|txt|toml)|(?=$))")


def paths(text: str) -> Iterator[str]:
    """Files and folders that code within the text of a document names, with all that braces stand for."""
    for word in (word for code in _CODE.findall(_FENCE.sub("", text)) for word in code.rstrip(":").split()):
        before, brace, rest = word.partition("{")
        inside, _, after = rest.partition("}")
        for each in inside.split(",") if brace else ("",):
            if _PATH.fullmatch(path := before + each + after):
                yield path


def anchor(heading: str) -> str:
    """What links call a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_what_is_looked_for() -> None:
    text = "`a/b.py` and ``c/d.py``, `e/{f,g}.py`\n```sh\n`h/i.py`\n```\n`j.py` `python k/l.py` `m/n` `o/`, `p/*`"
    assert list(paths(text)) == ["a/b.py", "e/f.py", "e/g.py", "k/l.py", "o/"]
    assert anchor("Weights in half precision: `--weights`") == "weights-in-half-precision---weights"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files(document: Path) -> None:
    named = set(paths(document.read_text())) - WRITTEN
    assert not [name for name in sorted(named) if not any((folder / name).exists() for folder in FOLDERS)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links(document: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", document.read_text())):
        name, _, place = target.partition("#")
        if "://" in name:
            continue
        file = document.parent / name if name else document
        assert file.exists(), target
        assert not place or place in map(anchor, _HEADING.findall(file.read_text())), target


def test_enough_is_found() -> None:
    assert sum(len(list(paths(document.read_text()))) for document in DOCUMENTS) > 100
