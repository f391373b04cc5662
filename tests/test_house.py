"""The architecture, kept by machine: who may import whom, what files may be called, and patterns that can match."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
HALVES = {"compiler": ROOT / "compiler", "runtime": ROOT / "runtime"}
MODULES = sorted(path for half in HALVES.values() for path in half.rglob("*.py"))
PYTHON = sorted(
    path for folder in ("compiler", "runtime", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)

# Where a part of the compiler stands; it may import its own level and those below. A new part is entered here.
LEVELS = {
    "array_files": 0,
    "collector": 0,
    "environment": 0,
    "ir": 0,
    "ops": 1,
    "frontend": 2,
    "labels": 1,
    "lower": 2,
    "options": 1,
    "passes": 2,
    "pipeline": 2,
    "rewrite": 2,
    "single_pass": 2,
    "validate": 2,
    "targets": 3,
    "defects": 3,
    "api": 4,
    "driver": 4,
    "request": 3,
    "artifact": 3,
    "packaging": 3,
    "cache": 3,
    "processing": 3,
    "stored": 2,
    "tuning": 3,
    "variants": 3,
    "bench": 5,
    "calibration": 5,
    "quantization": 5,
    "compressed": 5,
    "pruning": 5,
    "onnx_backend": 5,
    "debug": 5,
    "demo": 5,
    "": 5,  # ingot.compiler itself: the public API
    "cli": 6,
}

# Third-party libraries of the compiler and the places, under ingot/compiler, that may import them.
OWNERS = {
    "PIL": ("calibration/images.py",),
    "google": ("frontend/",),  # protobuf, through onnx
    "llvmlite": ("targets/",),
    "ml_dtypes": ("",),
    "numba": ("targets/",),
    "numpy": ("",),
    "onnx": ("bench/", "debug/", "demo/train_digits.py", "frontend/", "onnx_backend.py", "processing/image.py"),
    "onnx_graphsurgeon": ("frontend/",),
    "onnxruntime": ("bench/",),
    "openvino": ("bench/",),
    "sklearn": ("demo/train_digits.py",),
}

# Imports go round in no circle but where one of these closes it, inside a function: by default a node evaluates to what
# its expansion does, which the interpreter knows.
CLOSING = {("ingot.compiler.ir.graph", "ingot.compiler.ir.interpret")}

FORBIDDEN_NAMES = {"base", "common", "helper", "helpers", "impl", "manager", "misc", "util", "utils"}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|farm|opt/venv)/")

# Types that take one positional sub-pattern and match it against the value itself (PEP 634).
MATCH_SELF = (bool, bytearray, bytes, dict, float, frozenset, int, list, set, str, tuple)


class Import(NamedTuple):
    """One imported module by its full name, and whether the import runs only when a function is called."""

    module: str
    lazy: bool
    line: int


def module_name(path: Path) -> str:
    """The dotted name of a file of either half."""
    half = next(folder for folder in HALVES.values() if path.is_relative_to(folder))
    parts = path.relative_to(half).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    relative = Path(*name.split("."))
    return any((half / relative).is_dir() or (half / relative).with_suffix(".py").is_file() for half in HALVES.values())


def imports(tree: ast.Module, package: str) -> Iterator[Import]:
    """Every import of a module; `from package import name` counts as the sub-module where there is one."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, lazy, node.lineno)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                origin = ".".join([*above, *([module] if module else [])])
                for alias in names:
                    name = f"{origin}.{alias.name}"
                    yield Import(name if is_module(name) else origin, lazy, node.lineno)
            case _:
                inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                for child in ast.iter_child_nodes(node):
                    yield from walk(child, inside)

    yield from walk(tree, lazy=False)


def imports_of(path: Path) -> list[Import]:
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return list(imports(parse(path), package))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def part_of(module: str) -> str:
    """`ingot.compiler.ops.pointwise` -> `ops`; `ingot.compiler` -> the empty string."""
    return module.removeprefix("ingot.compiler").lstrip(".").partition(".")[0]


def place(path: Path, line: int = 0) -> str:
    return f"{path.relative_to(ROOT)}:{line}" if line else str(path.relative_to(ROOT))


def none(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


# -- the two halves ---------------------------------------------------------------------------------------------------


def test_namespace_has_no_init() -> None:
    for half, folder in HALVES.items():
        init = folder / "ingot" / "__init__.py"
        assert not init.exists(), f"{place(init)} would hide the other half; the {half} is the package below it"


def test_both_halves_are_importable() -> None:
    assert importlib.import_module("ingot.compiler") and importlib.import_module("ingot.runtime")


def test_runtime_import_loads_nothing_heavy() -> None:
    listing = "import sys, ingot.runtime; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & (OWNERS.keys() - {"numpy"}), "import ingot.runtime loaded compiler libraries"
    whole = "import sys, ingot.runtime; print(any(name.startswith('ingot.compiler') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", "import ingot.runtime loaded a part of the compiler"


# -- import direction -------------------------------------------------------------------------------------------------


def runtime_problems(path: Path, found: list[Import]) -> list[str]:
    problems: list[str] = []
    for item in found:
        top = item.module.partition(".")[0]
        if top == "ingot":
            allowed = item.module == "ingot.runtime" or item.module.startswith("ingot.runtime.")
        else:
            lazily = {"ml_dtypes": "", "PIL": "host/images.py"}  # where a library is imported when it is needed
            allowed = top in sys.stdlib_module_names or top == "numpy"
            allowed = allowed or (top in lazily and item.lazy and str(path).endswith(lazily[top]))
        if not allowed:
            problems.append(f"{place(path, item.line)}: the runtime may not import {item.module} here")
    return problems


def direction_problems(path: Path, found: list[Import]) -> list[str]:
    own = part_of(module_name(path))
    if own not in LEVELS:
        return [f"{place(path)}: '{own}' has no place in LEVELS; say what it may import"]
    problems: list[str] = []
    for item in found:
        if item.module != "ingot.compiler" and not item.module.startswith("ingot.compiler."):
            continue
        part = part_of(item.module)
        if part not in LEVELS or LEVELS[part] > LEVELS[own]:
            problems.append(f"{place(path, item.line)}: {own or 'ingot.compiler'} may not import {item.module}")
    return problems


def owner_problems(path: Path, found: list[Import]) -> list[str]:
    inside = path.relative_to(ROOT / "compiler/ingot/compiler").as_posix()
    problems: list[str] = []
    for item in found:
        top = item.module.partition(".")[0]
        if top == "ingot" or top in sys.stdlib_module_names:
            continue
        if not any(inside.startswith(owner) for owner in OWNERS.get(top, ())):
            problems.append(f"{place(path, item.line)}: {top} is not for this module (OWNERS)")
    return problems


def test_runtime_needs_numpy_alone() -> None:
    paths = [path for path in MODULES if path.is_relative_to(HALVES["runtime"])]
    none([problem for path in paths for problem in runtime_problems(path, imports_of(path))])


def test_compiler_parts_import_downwards() -> None:
    paths = [path for path in MODULES if path.is_relative_to(HALVES["compiler"])]
    none([problem for path in paths for problem in direction_problems(path, imports_of(path))])


def circular(needed: Mapping[str, set[str]]) -> list[str]:
    """The modules that lie on a circle of imports, or between two."""
    left = {name: set(found) for name, found in needed.items()}
    while free := {name for name, found in left.items() if not found & left.keys()} | (
        left.keys() - set().union(*left.values())
    ):
        left = {name: found for name, found in left.items() if name not in free}
    return sorted(left)


def test_modules_import_each_other_in_one_direction() -> None:
    """Imports for type checkers count too: what needs each other's types is one subject, or wants a Protocol."""
    paths = {module_name(path): path for path in MODULES}

    needed = {name: {i.module for i in imports_of(path)} & paths.keys() - {name} for name, path in paths.items()}
    needed = {name: {each for each in found if (name, each) not in CLOSING} for name, found in needed.items()}
    assert not (found := circular(needed)), f"these import each other in circles: {found}"


def test_circles_are_noticed() -> None:
    assert circular({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circular({"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": set()}) == ["b", "c"]


def test_libraries_stay_with_their_owners() -> None:
    paths = [path for path in MODULES if path.is_relative_to(HALVES["compiler"])]
    none([problem for path in paths for problem in owner_problems(path, imports_of(path))])


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("passes/fuse.py", "from ingot.compiler.targets.cpu import emit", "passes may not import"),
        ("passes/fuse.py", "def f():\n    from ..targets import cpu", "passes may not import"),
        ("ir/graph.py", "from .. import ops", "ir may not import"),
        ("ops/linear.py", "import ingot.compiler", "ops may not import"),
        ("ops/linear.py", "from ..ir.graph import Node", None),
        ("targets/cpu/emit.py", "from ...lower import nest", None),
        ("cli/__init__.py", "from ingot.compiler import compile", None),
        ("attic/old.py", "import math", "has no place in LEVELS"),
    ],
)
def test_direction_check_notices(module: str, source: str, problem: str | None) -> None:
    path = ROOT / "compiler/ingot/compiler" / module
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    problems = direction_problems(path, list(imports(ast.parse(source), package)))
    assert problem in problems[0] if problem else not problems


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("import numpy as np, json", True),
        ("from . import artifact", True),
        ("import ml_dtypes", False),
        ("def f():\n    import ml_dtypes", True),
        ("def f():\n    import onnx", False),
        ("from ingot.compiler import ir", False),
    ],
)
def test_runtime_check_notices(source: str, allowed: bool) -> None:
    path = ROOT / "runtime/ingot/runtime/session.py"
    assert (not runtime_problems(path, list(imports(ast.parse(source), "ingot.runtime")))) is allowed


# -- names, lengths, words --------------------------------------------------------------------------------------------


def test_files_have_one_subject() -> None:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in PYTHON}
    none([f"{place(path)}: {lines} lines, 600 is the most" for path, lines in lengths.items() if lines > 600])


def test_modules_are_named_after_what_they_hold() -> None:
    named = [path for path in PYTHON if {path.stem, *path.relative_to(ROOT).parts} & FORBIDDEN_NAMES]
    none([f"{place(path)}: this name says nothing" for path in named])


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of the tree; caches, version control and build output are left out."""
    kept = {".ci", ".github", ".gitignore"}
    for top in sorted(ROOT.iterdir()):
        if (top.name.startswith(".") and top.name not in kept) or top.name in {"build", "dist"}:
            continue
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                content = path.read_bytes()
                if b"\0" not in content[:8192]:
                    yield path, content.decode("utf-8", "replace")


def test_no_machine_paths() -> None:
    none(
        [
            f"{place(path, number)}: a path of one machine: {line.strip()[:80]}"
            for path, text in texts()
            for number, line in enumerate(text.splitlines(), 1)
            if MACHINE_PATH.search(line)
        ]
    )


# -- class patterns ---------------------------------------------------------------------------------------------------


def attributes(cls: type[Any]) -> set[str]:
    """What a keyword of a class pattern may name: fields, annotated attributes, properties and slots, not methods."""
    names: set[str] = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    for parent in cls.__mro__:
        names |= set(vars(parent).get("__annotations__", {}))
        names |= {name for name, value in vars(parent).items() if not isinstance(value, FunctionType | classmethod)}
    return names | set(getattr(cls, "_fields", ()))


def pattern_problems(tree: ast.AST, namespace: dict[str, Any]) -> list[str]:
    """Class patterns that cannot match: an unknown class or keyword, too many positional sub-patterns."""
    problems: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.MatchClass):
            continue
        spelling = ast.unparse(node.cls)
        try:
            cls = eval(compile(ast.Expression(node.cls), "<pattern>", "eval"), namespace)
        except (NameError, AttributeError):
            problems.append(f"{node.lineno}: {spelling} is not known at module level")
            continue
        if not isinstance(cls, type):
            problems.append(f"{node.lineno}: {spelling} is not a class")
            continue
        positions: tuple[str, ...] = getattr(cls, "__match_args__", ())
        most = len(positions) or int(issubclass(cls, MATCH_SELF))
        if len(node.patterns) > most:
            problems.append(f"{node.lineno}: {spelling} takes {most} positional patterns, not {len(node.patterns)}")
        known = attributes(cls)
        problems += [f"{node.lineno}: {spelling} has no field '{name}'" for name in node.kwd_attrs if name not in known]
    return problems


def test_class_patterns_name_real_fields() -> None:
    problems: list[str] = []
    for path in MODULES:
        tree = parse(path)
        if path.name == "__main__.py" or not any(isinstance(node, ast.MatchClass) for node in ast.walk(tree)):
            continue
        namespace = vars(importlib.import_module(module_name(path)))
        problems += [f"{place(path)}:{problem}" for problem in pattern_problems(tree, namespace)]
    none(problems)


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    left: object
    right: object
    note: str = dataclasses.field(default="", kw_only=True)

    @property
    def swapped(self) -> Pair:
        return Pair(self.right, self.left)

    def reversed(self) -> Pair:
        return self.swapped


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("Pair(left=1, right=Pair(note='n'))", None),
        ("Pair(_, _, swapped=Pair())", None),
        ("int(x) | str()", None),
        ("ast.Name(id=x)", None),
        ("Pair(letf=1)", "no field 'letf'"),
        ("Pair(left=Pair(rigth=_))", "no field 'rigth'"),
        ("Pair(reversed=_)", "no field 'reversed'"),
        ("Pair(_, _, _)", "takes 2 positional patterns"),
        ("int(_, _)", "takes 1 positional"),
        ("Pear(left=1)", "not known"),
    ],
)
def test_pattern_check_notices(pattern: str, problem: str | None) -> None:
    problems = pattern_problems(ast.parse(f"match value:\n    case {pattern}:\n        pass"), globals())
    assert problem in problems[0] if problem else not problems
