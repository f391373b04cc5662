"""The compiler's environment variables."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import ingot.compiler
from ingot.compiler.environment import Environment, VariableError, read_environment


def test_values() -> None:
    assert read_environment({}) == read_environment({"INGOT_DUMP": "", "INGOT_STOP_AT": ""}) == Environment()
    assert read_environment({"INGOT_TRACEBACK": "0"}) == Environment()
    given = {"INGOT_DUMP": "some/folder", "INGOT_STOP_AT": "0", "INGOT_TRACEBACK": "1", "HOME": "elsewhere"}
    assert read_environment(given) == Environment(Path("some/folder"), 0, True)


def test_the_folder_of_the_cache() -> None:
    """XDG's base directories, which must be absolute; INGOT_CACHE before them."""
    home = {"HOME": "/there"}
    assert read_environment(home).cache == Path("/there/.cache/ingot/kernels")
    assert read_environment({**home, "XDG_CACHE_HOME": "/else"}).cache == Path("/else/ingot/kernels")
    assert read_environment({**home, "XDG_CACHE_HOME": "relative"}).cache == Path("/there/.cache/ingot/kernels")
    assert read_environment({**home, "INGOT_CACHE": "mine"}).cache == Path("mine")
    assert read_environment({**home, "INGOT_CACHE": "1"}) == read_environment(home)
    assert read_environment({**home, "INGOT_CACHE": "0"}).cache is None
    assert read_environment({"HOME": "relative"}).cache is None
    sizes = [read_environment({"INGOT_CACHE_SIZE": text}).cache_size for text in ("", "1", "300K", "2G", "1T")]
    assert sizes == [1 << 30, 1, 300 << 10, 2 << 30, 1 << 40]


@pytest.mark.parametrize(
    ("name", "value"),
    [("INGOT_STOP_AT", "-1"), ("INGOT_STOP_AT", "1.5"), ("INGOT_STOP_AT", "9" * 30), ("INGOT_TRACEBACK", "true")],
)
def test_values_without_meaning(name: str, value: str) -> None:
    with pytest.raises(VariableError, match=f"{name} is '{value}'"):
        read_environment({name: value})


def test_nothing_else_reads_the_environment() -> None:
    folder = Path(ingot.compiler.__file__).parent
    readers: list[str] = []
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="getenv")):
                    readers.append(path.name)
                case ast.Call(func=ast.Attribute(attr="get", value=ast.Attribute(attr="environ"))):
                    readers.append(path.name)
                case ast.Subscript(value=ast.Attribute(attr="environ"), ctx=ast.Load()):
                    readers.append(path.name)
                case ast.Constant(value=str(text)) if re.fullmatch(r"INGOT_[A-Z_]+", text):
                    readers.append(path.name)
                case _:
                    pass
    assert set(readers) == {"environment.py"}
