"""Fixtures that build libraries for C, programs around them, and run those, on this machine or under emulation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.api import compile_library
from ingot.compiler.ir.dims import evaluate
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.cpu.c_interface.library import Library

Array = NDArray[Any]
RUNNER = Path(__file__).with_name("runner.c")
SYSROOT = "/usr/aarch64-linux-gnu"
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1")
ARM = "aarch64"
HOST = "cpu"


def compiler_for(target: str) -> list[str]:
    """A C compiler for the target; skips where there is none."""
    host = features.host_arch()
    wanted = ["gcc", "clang"] if not target.startswith(ARM) or host == ARM else ["aarch64-linux-gnu-gcc"]
    found = next(filter(None, map(shutil.which, wanted)), None)
    if found is None:
        pytest.skip(f"no C compiler: {' or '.join(wanted)} is needed")
    return [found]


def emulator_for(target: str) -> list[str]:
    """What runs programs for the target; skips where nothing does."""
    if not target.startswith(ARM) or features.host_arch() == ARM:
        return []
    found = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if found is None:
        pytest.skip("qemu-aarch64 is not installed")
    return [found, "-L", SYSROOT]


@dataclass(frozen=True)
class Program:
    """A program for the command line, and the library in it."""

    command: tuple[str, ...]
    library: Library
    folder: Path

    def output(self, *arguments: str, data: bytes = b"", status: int = 0, vector_bytes: int = 16) -> bytes:
        """What it writes; its exit status must be `status`. Emulated processors have SVE's vectors of that length."""
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.folder), "QEMU_SET_ENV": ""}
        environment["QEMU_SET_ENV"] = f"LD_LIBRARY_PATH={self.folder}"
        environment["QEMU_CPU"] = f"max,sve-default-vector-length={vector_bytes}"
        done = subprocess.run([*self.command, *arguments], input=data, capture_output=True, env=environment)
        assert done.returncode == status, (done.returncode, done.stderr)
        return done.stdout

    def run(
        self, inputs: Mapping[str, Array], symbols: Mapping[str, int], threads: int, vector_bytes: int = 16
    ) -> dict[str, Array]:
        """The outputs of `runner.c`."""
        signature = self.library.signature
        words = np.array([symbols[each.name] for each in signature.symbols], np.int64).tobytes()
        data = words + b"".join(np.ascontiguousarray(inputs[port.name]).tobytes() for port in signature.inputs)
        made = self.output(str(threads), data=data, vector_bytes=vector_bytes)
        results: dict[str, Array] = {}
        for port in signature.outputs:
            shape = [evaluate(dim, symbols) for dim in port.shape]
            dtype = port.storage.dtype.to_numpy()
            size = int(np.prod(shape)) * dtype.itemsize
            results[port.name] = np.frombuffer(made[:size], dtype).reshape(shape)
            made = made[size:]
        assert not made
        return results


def named(text: str, prefix: str) -> str:
    """C with the model's names in the place of NAME, and its macros in that of NAME_SYMBOLS and the like."""
    macros = {"SYMBOLS": "SYMBOL_COUNT", "INPUTS": "INPUT_COUNT", "OUTPUTS": "OUTPUT_COUNT"}
    macros |= {"TEAM": "TEAM_BYTES", "STATE": "STATE_BYTES"}

    def name(found: re.Match[str]) -> str:
        return f"{prefix.upper()}_{macros[found[1]]}" if found[1] else prefix

    return re.sub(rf"\bNAME_({'|'.join(macros)})\b|NAME", name, text)


class Workshop:
    """Builds programs, once for each model and target."""

    compiler = staticmethod(compiler_for)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.libraries: dict[tuple[str, str], Library] = {}

    def library(self, model: Any, name: str, target: str = HOST, **options: Any) -> Library:
        """The library of a model, with all its files in a folder of the target."""
        key = name, target
        if key not in self.libraries:
            library = self.libraries[key] = compile_library(model, target=target, name=name, jobs=1, **options)
            folder = self.folder / target
            folder.mkdir(exist_ok=True)
            for suffix in (".h", ".so", ".o"):
                library.save(folder / f"{name}{suffix}")
        return self.libraries[key]

    def program(self, library: Library, target: str = HOST, kind: str = ".so", source: str | None = None) -> Program:
        """`source`, by default `runner.c`, compiled with the library's header and linked with its file."""
        compiler, emulator = compiler_for(target), emulator_for(target)
        folder, prefix = self.folder / target, library.signature.prefix
        made = folder / f"{prefix}{kind.replace('.', '-')}-{'runner' if source is None else 'own'}"
        text = RUNNER.read_text() if source is None else source
        path = made.with_suffix(".c")
        path.write_text(named(text, prefix))
        inside = str(folder / f"{prefix}{kind}")
        self.run_compiler([*compiler, *FLAGS, str(path), inside, "-o", str(made), "-lpthread"])
        return Program((*emulator, str(made)), library, folder)

    def run_compiler(self, command: Sequence[str]) -> None:
        """Run a compiler, which must not say anything."""
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("libraries"))
