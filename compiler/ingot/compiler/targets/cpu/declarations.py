# pyright: basic
# llvmlite is untyped.
"""Functions that a module calls and does not define, LLVM's intrinsics most of all: declared on first use."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir
from llvmlite.ir._utils import NameScope


class _Numbered(NameScope):
    """The names in one function, where nearly all values have none of their own: llvmlite's, found without search."""

    def __init__(self, taken: int) -> None:
        super().__init__()
        self._count = taken

    def register(self, name: str, deduplicate: bool = False) -> str:
        if name:
            return super().register(name, deduplicate)
        self._count += 1
        return f".{self._count}"


def number_values(function: ir.Function) -> None:
    """Name the values of a function that has none yet but its arguments by their numbers alone."""
    function.scope = _Numbered(len(function.args))


def declared(module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """The function `name` of `module`, whether it is declared or defined there; a new declaration where it is not."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def call(b: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
    """A call of the function `name`, whose parameters have the types of `arguments`."""
    return b.call(declared(b.module, name, result, [a.type for a in arguments]), arguments)
