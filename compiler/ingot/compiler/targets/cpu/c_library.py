# pyright: basic
# llvmlite is untyped.
"""Functions of the C library in terms of our own vector mathematics, for code that others emit.

An artifact is closed: there is no C library to call. Calls that stand in IR are redirected to functions under names of
ours, which are inlined; those that code generation makes of instructions (``frem``, memory moves) find a weak
definition under the library's own name.
"""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from ingot.compiler.targets.cpu import flow, functions
from ingot.compiler.targets.cpu.emit import forbid_libraries
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.functions import I8, I32, I64, PTR
from ingot.runtime.dtypes import DType, f32, f64

PREFIX = "ingot."

# The library's names without a type's suffix -> functions of `ir.loops.FUNCTIONS` and how many arguments they take.
_SAME = ("acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "expm1", "floor")
_SAME += ("log", "log1p", "sin", "sinh", "sqrt", "tan", "tanh", "trunc")
_MATH: Mapping[str, tuple[str, int]] = {
    **{name: (name, 1) for name in _SAME},
    **dict.fromkeys(("rint", "nearbyint", "roundeven"), ("round", 1)),
    **{name: (name, 2) for name in ("pow", "atan2", "fmod", "copysign")},
}
_BY_PARTS = frozenset(("exp2", "log2", "log10"))
_MEMORY = frozenset(("memcpy", "memmove", "memset"))
# Numba counts references to the memory of arrays. An artifact's arrays have none to be counted, and there are no
# others, because what would make one stays undefined.
COUNT = "ingot.count"
_TYPES: Mapping[str, DType] = {"f32": f32, "f64": f64}
# Intrinsics that are instructions on every level that there is.
_INSTRUCTIONS = frozenset(("ceil", "copysign", "floor", "nearbyint", "rint", "roundeven", "sqrt", "trunc"))


def _names() -> frozenset[str]:
    found = {f"{name}{end}" for name in (*_MATH, *_BY_PARTS) for end in ("", "f")}
    return frozenset(found | _MEMORY)


NAMES = _names()
"""What code generation may call, and `define` defines."""


def symbol_of(name: str) -> str | None:
    """Our function for a declared function or intrinsic; None for what is left as it is."""
    if name.startswith("llvm."):
        stem, _, end = name.removeprefix("llvm.").partition(".")
        known = end in _TYPES and stem not in _INSTRUCTIONS and (stem in _MATH or stem in _BY_PARTS)
        return f"{PREFIX}{stem}.{end}" if known else None
    stem, kind = name.removeprefix("numba_"), "f64"
    if stem not in _MATH and stem not in _BY_PARTS and stem.endswith("f"):
        stem, kind = stem[:-1], "f32"
    if stem in _MATH or stem in _BY_PARTS:
        return f"{PREFIX}{stem}.{kind}"
    return None


def define(module: ir.Module, name: str, level: Level) -> None:
    """Define one of our functions (``ingot.exp.f32``), to be inlined, or one of `NAMES`, weakly."""
    if name in _MEMORY:
        _define_memory(module, name)
        return
    if name == COUNT:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR]), name)
        function.linkage = "linkonce_odr"
        function.attributes.add("alwaysinline")
        ir.IRBuilder(function.append_basic_block("entry")).ret_void()
        return
    ours = name if name.startswith(PREFIX) else symbol_of(name)
    assert ours is not None
    _, stem, end = ours.split(".")
    dtype = _TYPES[end]
    type_ = functions.register_type(dtype)
    arity = _MATH[stem][1] if stem in _MATH else 1
    function = ir.Function(module, ir.FunctionType(type_, [type_] * arity), name)
    forbid_libraries(function)
    if name == ours:
        function.linkage = "linkonce_odr"
        function.attributes.add("alwaysinline")
    else:
        function.linkage = "weak"
    b = ir.IRBuilder(function.append_basic_block("entry"))
    b.ret(_value(b, level, stem, list(function.args), dtype))


def _value(b: ir.IRBuilder, level: Level, stem: str, args: list[ir.Value], dtype: DType) -> ir.Value:
    def call(fn: str, *operands: ir.Value) -> ir.Value:
        return functions.call(b, level, fn, list(operands), dtype, dtype)

    def number(value: float) -> ir.Value:
        return functions.constant(value, args[0].type)

    match stem:
        case "exp2":
            return call("pow", number(2.0), args[0])
        case "log2":
            return call("div", call("log", args[0]), number(0.6931471805599453))
        case "log10":
            return call("div", call("log", args[0]), number(2.302585092994046))
        case _:
            return call(_MATH[stem][0], *args)


def _define_memory(module: ir.Module, name: str) -> None:
    """``ptr f(ptr to, ptr from, i64 size)``, or with a byte in place of `from`, byte by byte."""
    fills = name == "memset"
    function = ir.Function(module, ir.FunctionType(PTR, [PTR, I32 if fills else PTR, I64]), name)
    forbid_libraries(function)
    function.linkage = "weak"
    target, source, size = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))

    def move(index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        value = b.trunc(source, I8) if fills else b.load(b.gep(source, [index], source_etype=I8), typ=I8, align=1)
        b.store(value, b.gep(target, [index], source_etype=I8), align=1)
        return carried

    if name != "memmove":
        flow.loop(b, I64(0), size, 1, [], move)
        b.ret(target)
        return
    forward, backward = b.append_basic_block("forward"), b.append_basic_block("backward")
    b.cbranch(b.icmp_unsigned("<=", b.ptrtoint(target, I64), b.ptrtoint(source, I64)), forward, backward)
    b.position_at_end(forward)
    flow.loop(b, I64(0), size, 1, [], move)
    b.ret(target)
    b.position_at_end(backward)
    flow.loop(b, I64(0), size, 1, [], lambda i, c: move(b.sub(b.sub(size, I64(1)), i), c))
    b.ret(target)
