# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""Calls of routines, in the convention of the functions that Numba compiles.

``i32 f(ptr result, ptr exception, arrays...)``, 0 unless an exception was raised; an array is meminfo, parent, number
of elements, bytes of an element, address, extents and strides in bytes, each an argument of its own. An operand that is
left out, and an attribute, is no argument: it is a constant of the function.
"""

from __future__ import annotations

import hashlib

from llvmlite import ir

from ingot.compiler.ir.routines import Parameter, Routine, RoutineCall, Tensor
from ingot.compiler.targets.cpu import declarations, flow
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim, emit_store
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.functions import I32, I64, PTR, memory_type


def routine_symbol(routine: Routine) -> str:
    """The name of the function that calls of equal routines share."""
    return "r" + hashlib.sha256(repr(routine).encode()).hexdigest()[:16]


def declare_routine(module: ir.Module, routine: Routine) -> ir.Function:
    """The hidden function of a routine, declared on first use."""
    name = routine_symbol(routine)
    types = [PTR, PTR]
    for parameter in routine.parameters:
        if parameter is not None:
            types += [PTR, PTR, I64, I64, PTR, *[I64] * (2 * parameter.rank)]
    function = declarations.declared(module, name, I32, types)
    function.linkage = "hidden"
    return function


def emit_body(
    b: ir.IRBuilder, call: RoutineCall, scope: Scope, ranges: dict[str, tuple[ir.Value, ir.Value]], level: Level
) -> None:
    """The call for the rows of one chunk, and the fault if it fails."""
    begin, end = ranges[call.rows.var]
    ignored = flow.stack(b, PTR, 2)
    arguments = [ignored, b.gep(ignored, [I64(1)], source_etype=PTR)]
    for tensor, parameter in zip(call.tensors, call.routine.parameters, strict=True):
        if tensor is not None and parameter is not None:
            arguments += _array(b, tensor, parameter, scope, begin, end)
    status = b.call(declare_routine(b.module, call.routine), arguments)
    failed, after = b.append_basic_block("failed"), b.append_basic_block("after")
    b.cbranch(b.icmp_unsigned("!=", status, I32(0)), failed, after)
    b.position_at_end(failed)
    emit_store(b, call.fault, scope)
    b.branch(after)
    b.position_at_end(after)


def _array(
    b: ir.IRBuilder, tensor: Tensor, parameter: Parameter, scope: Scope, begin: ir.Value, end: ir.Value
) -> list[ir.Value]:
    element = memory_type(parameter.dtype)
    size = I64(parameter.dtype.bytes)
    extents = [emit_dim(b, d, scope) for d in tensor.shape]
    address, _ = scope.buffers[tensor.buffer]
    if tensor.cut:
        extents[0] = b.sub(end, begin)
        inside = I64(1)
        for extent in extents[1:]:
            inside = flow.multiply(b, inside, extent)
        address = b.gep(address, [flow.multiply(b, begin, inside)], source_etype=element)
    strides: list[ir.Value] = []
    step = size
    for extent in reversed(extents):
        strides.insert(0, step)
        step = flow.multiply(b, step, extent)
    count = I64(1)
    for extent in extents:
        count = flow.multiply(b, count, extent)
    return [PTR(None), PTR(None), count, size, address, *extents, *strides]
