"""docs/use-from-c.md from its beginning to its end: blocks marked ``from-c`` are run in order as they stand there.

``python`` blocks share one namespace, ``c`` blocks are written to their file, and of ``console`` blocks the lines that
begin with ``$`` are run, `ingot` in this process.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.docs.test_examples import ROOT, examples

from ingot.compiler.cli import main

DOCUMENT = ROOT / "docs" / "use-from-c.md"


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: cc is needed")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    count = 0
    for example in examples(DOCUMENT.read_text(encoding="utf-8")):
        if "from-c" not in example.words:
            continue
        count += 1
        match example.language:
            case "python":
                exec(compile("\n" * (example.line - 1) + example.body, str(DOCUMENT), "exec"), namespace)
            case "c":
                file = next(word.removeprefix("file=") for word in example.words if word.startswith("file="))
                Path(file).write_text(example.body, encoding="utf-8")
            case _:
                for line in example.body.splitlines():
                    run(line, example.line)
    assert count == 7


def run(line: str, number: int) -> None:
    if line.startswith("$ ingot "):
        assert main(shlex.split(line)[2:]) == 0, f"{DOCUMENT.name}:{number}: {line}"
    elif line.startswith("$ "):
        done = subprocess.run(line[2:], shell=True, capture_output=True, text=True)
        assert done.returncode == 0, f"{DOCUMENT.name}:{number}: {line}\n{done.stderr}"
        assert "warning" not in done.stderr, done.stderr
