"""The examples of the README and of docs/ are run as they stand there.

Blocks marked ``python run`` are executed in order, with one namespace a document; ``python run file=name.py`` is
written to that file and executed on its own. In blocks marked ``console run`` the lines that begin with ``$ ingot`` are
run and must succeed. Other blocks are left alone. Each document has a directory of its own.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from ingot.compiler.cli import main

ROOT = Path(__file__).parents[2]
# At least so many; a mark that is misspelt would go unnoticed.
EXPECTED = {"README.md": 1, "write-a-pass.md": 10, "write-an-operator.md": 9}
DOCUMENTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.is_file()]

_FENCE = re.compile(r"^(?P<ticks>```+)(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=ticks)[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A fenced block: what its first line says and the number of the line after it."""

    language: str
    words: tuple[str, ...]
    body: str
    line: int


def examples(text: str) -> list[Example]:
    """All blocks of a document in order."""
    found: list[Example] = []
    for match in _FENCE.finditer(text):
        words = match["info"].split() or [""]
        found.append(Example(words[0], tuple(words[1:]), match["body"], text.count("\n", 0, match.start("body")) + 1))
    return found


def commands(body: str) -> list[list[str]]:
    """The arguments of the ``$ ingot`` lines; a backslash at the end of a line continues it."""
    lines = body.replace("\\\n", " ").splitlines()
    return [shlex.split(line[2:])[1:] for line in lines if line.startswith("$ ingot ")]


def run(document: Path) -> int:
    """Run a document's examples in the current directory; how many there were."""
    before = set(sys.modules)
    try:
        return run_all(document)
    finally:
        for name in set(sys.modules) - before:  # modules written here are no others' business
            file = getattr(sys.modules[name], "__file__", None)
            if name == "example" or (file is not None and Path(file).parent == Path.cwd()):
                del sys.modules[name]


def run_all(document: Path) -> int:
    """What `run` does, leaving modules behind."""
    module = ModuleType("example")
    count = 0
    for example in examples(document.read_text(encoding="utf-8")):
        if "run" not in example.words:
            continue
        if example.language == "python":
            count += 1
            file = next((word.removeprefix("file=") for word in example.words if word.startswith("file=")), None)
            if file is not None:
                Path(file).write_text(example.body, encoding="utf-8")
                runpy.run_path(file)
                continue
            # The lines are numbered as in the document.
            source = "\n" * (example.line - 1) + example.body
            sys.modules["example"] = module  # dataclasses look their module up
            exec(compile(source, str(document), "exec", dont_inherit=True), module.__dict__)
        elif example.language == "console":
            for arguments in commands(example.body):
                count += 1
                assert main(arguments) == 0, f"{document.name}:{example.line}: ingot {shlex.join(arguments)}"
    return count


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_examples(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    count = run(document)
    assert count >= EXPECTED.get(document.name, 0)


TEXT = """a
```python
x = 1
```
b ```c``` d
```
plain
```
````python run
```
````
```console run
$ ingot a \\
  b
$ ls
out
```
"""


def test_blocks_are_found() -> None:
    found = examples(TEXT)
    assert [(e.language, e.words, e.line) for e in found] == [
        ("python", (), 3),
        ("", (), 7),
        ("python", ("run",), 10),
        ("console", ("run",), 13),
    ]
    assert found[0].body == "x = 1\n" and found[2].body == "```\n"
    assert commands(found[3].body) == [["a", "b"]]


def test_a_wrong_example_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = tmp_path / "wrong.md"
    document.write_text("```console run\n$ ingot inspect nothing.ingot\n```\n")
    with pytest.raises(AssertionError, match=r"wrong.md:2: ingot inspect nothing.ingot"):
        run(document)
    document.write_text("text\n\n```python run\nassert 1 == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run(document)
    assert caught.traceback[-1].lineno == 3  # counted from 0
