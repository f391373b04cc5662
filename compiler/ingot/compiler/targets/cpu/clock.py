# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""Reading the time in generated code."""

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.targets.cpu import declarations
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.functions import I64


def time_stamp(b: ir.IRBuilder, level: Level) -> ir.Value:
    """A counter that runs at a constant rate on all cores: the time stamp counter of x86-64, the virtual counter of Arm
    (whose cycle counter programs may not read)."""
    if level.arch == "x86-64":
        return declarations.call(b, "llvm.readcyclecounter", I64, [])
    register = b.module.add_metadata(["cntvct_el0"])
    read = declarations.declared(b.module, "llvm.read_volatile_register.i64", I64, [ir.MetaDataType()])
    return b.call(read, [register])
