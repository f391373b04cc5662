"""What would be made of a program: its kernels, its memory, its argument table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ingot.compiler.ir.dims import show
from ingot.compiler.ir.program import Program
from ingot.compiler.targets.cpu.objects import kernel_symbol
from ingot.compiler.targets.errors import TargetError
from ingot.runtime.dims import compile_dims
from ingot.runtime.manifest import Manifest
from ingot.runtime.plan import Loaded
from ingot.runtime.tables import TEMP
from ingot.runtime.variants import Variants


@dataclass(frozen=True)
class KernelUse:
    """A kernel and its place in the program: how many launches use it, `chunks` of each different launch as text.
    `kind` is the template's name, or "nest" for plain loops."""

    name: str
    kind: str
    launches: int
    chunks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Outline:
    """An artifact without code. `manifest` is what the artifact's would be but for code and digests; `programs` has the
    kernels of the general program and of each variant, `weights_bytes` is the size of all weights."""

    manifest: Manifest
    programs: tuple[tuple[KernelUse, ...], ...]
    weights_bytes: int

    @property
    def kernels(self) -> tuple[KernelUse, ...]:
        """Those of the general program."""
        return self.programs[0]

    def arena_bytes(self, values: Mapping[str, int]) -> int:
        """Bytes of working memory of a run where the symbols have these values, as the runtime plans it. Raises
        InputError for values that the model does not take."""
        planner = Variants(self.manifest, Loaded.described(self.manifest))
        shapes = (tuple(compile_dims(each.shape).evaluate(values)) for each in self.manifest.inputs)
        return planner.plan(tuple(shapes)).arena_size

    def record(self, values: Mapping[str, int]) -> dict[str, Any]:
        """All of it as JSON can hold it, memory for the symbols' `values`."""
        return {
            "name": self.manifest.name,
            "inputs": [each.described() for each in self.manifest.inputs],
            "outputs": [each.described() for each in self.manifest.outputs],
            "symbols": {name: list(bounds) for name, bounds in self.manifest.symbols.items()},
            "weights_bytes": self.weights_bytes,
            "argument_words": len(self.manifest.args),
            "temporaries": len(self.manifest.storages.numbers(TEMP)),
            "memory": {"symbols": dict(values), "arena_bytes": self.arena_bytes(values)},
            **_kernels(self.kernels),
            "variants": [
                {"name": variant.name, **_kernels(kernels)}
                for variant, kernels in zip(self.manifest.variants, self.programs[1:], strict=True)
            ],
            "closed": self.manifest.closed,
        }

    def session(self, *, threads: int | None = None) -> NoReturn:
        """Raises TargetError: there is no code to run."""
        raise TargetError("the target null makes no code to run; compile for another target, such as cpu")

    def save(self, path: str | os.PathLike[str]) -> NoReturn:
        """Raises TargetError: there is no code to write."""
        raise TargetError(f"{os.fspath(path)}: the target null makes no code to write; compile for another target")


def kernel_uses(program: Program) -> tuple[KernelUse, ...]:
    """The different kernels of a program in the order of their first launches."""
    names: dict[str, tuple[str, str]] = {}
    chunks: dict[str, list[str]] = {}
    for launch in program.launches():
        symbol, body = kernel_symbol(launch.kernel), launch.kernel.body
        names.setdefault(symbol, (launch.kernel.name, "nest" if isinstance(body, tuple) else type(body).__name__))
        chunks.setdefault(symbol, []).append(show(launch.chunks))
    return tuple(
        KernelUse(name, kind, len(chunks[symbol]), tuple(dict.fromkeys(chunks[symbol])))
        for symbol, (name, kind) in names.items()
    )


def _kernels(uses: Sequence[KernelUse]) -> dict[str, Any]:
    return {
        "launches": sum(use.launches for use in uses),
        "kernels": [
            {"name": use.name, "kind": use.kind, "launches": use.launches, "chunks": list(use.chunks)} for use in uses
        ],
    }
