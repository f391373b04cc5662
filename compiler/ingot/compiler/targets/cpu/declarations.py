# pyright: basic
# llvmlite is untyped.
"""Functions that a module calls and does not define, LLVM's intrinsics most of all: declared on first use."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir


def declared(module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """The function `name` of `module`, whether it is declared or defined there; a new declaration where it is not."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def call(b: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
    """A call of the function `name`, whose parameters have the types of `arguments`."""
    return b.call(declared(b.module, name, result, [a.type for a in arguments]), arguments)
