"""ruff and pyright find nothing to say about the project."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def passes(tool: str, *arguments: str) -> None:
    """Run `python -m tool` at the root of the project; its output is shown when it fails."""
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed: pip install -e '.[dev]'")
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{tool} {' '.join(arguments)}\n{done.stdout}"


def test_ruff() -> None:
    passes("ruff", "check", ".")


@pytest.mark.slow
def test_types() -> None:
    passes("pyright", "--pythonpath", sys.executable)
