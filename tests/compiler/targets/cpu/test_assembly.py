# pyright: basic
# llvmlite is untyped.
"""The text of modules is to LLVM what llvmlite's is."""

from __future__ import annotations

import pytest
from llvmlite import binding as llvm
from llvmlite import ir

from ingot.compiler.ir.program import Program
from ingot.compiler.targets.cpu.assembly import module_text
from ingot.compiler.targets.cpu.features import level
from ingot.compiler.targets.cpu.objects import new_module
from ingot.compiler.targets.cpu.program import emit_program
from ingot.compiler.targets.cpu.vecmath.lanes import Uniform

I32, I64, F32, PTR = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.PointerType()
LEVEL = level("x86-64-v3")


def equal(module: ir.Module) -> bool:
    """Whether LLVM reads the same in both texts."""
    return str(llvm.parse_assembly(module_text(module))) == str(llvm.parse_assembly(str(module)))


def function_of(module: ir.Module, name: str = "f") -> tuple[ir.Function, ir.IRBuilder]:
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, I64, F32]), name)
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def test_all_kinds_of_instructions() -> None:
    module = new_module("module", LEVEL)
    function, b = function_of(module)
    pointer, number, real = function.args
    head, done = b.append_basic_block("head"), b.append_basic_block('a "quoted" \\ name')
    b.branch(head)
    b.position_at_end(head)
    count = b.phi(I64)
    count.add_incoming(I64(0), function.entry_basic_block)
    more = b.add(count, number, flags=("nuw", "nsw"), name="named")
    count.add_incoming(more, head)
    address = b.gep(pointer, [more], inbounds=True, source_etype=F32)
    vector = b.load(address, typ=ir.VectorType(F32, 4), align=4)
    vector = b.fadd(vector, Uniform(vector.type, 1.5), flags=("contract",))
    vector = b.insert_element(vector, b.fneg(real), I32(3))
    vector = b.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, 4), [3, 2, 1, 7]))
    lanes = b.bitcast(vector, ir.VectorType(I32, 4))
    lanes = b.select(b.icmp_signed("<", lanes, ir.Constant(lanes.type, [1, -2, 3, 0])), lanes, lanes)
    b.store(b.extract_element(lanes, I32(0)), pointer)
    b.store(ir.Constant(ir.VectorType(F32, 2), [0.1, float("nan")]), pointer, align=1)
    b.store(b.load_atomic(pointer, "acquire", 8, typ=I64), pointer, align=8)
    b.atomic_rmw("add", pointer, b.ptrtoint(address, I64), "monotonic")
    room = b.alloca(I64, 3)
    room.align = 64
    b.store(b.sext(b.trunc(number, I32), I64), pointer, align=8)
    b.store(ir.Constant(I64, ir.Undefined), pointer, align=8)
    callee = ir.Function(module, ir.FunctionType(F32, [F32, PTR]), "callee with spaces")
    b.call(callee, [real, pointer])
    b.call(callee, [real, ir.Constant(PTR, None)], tail="notail", fastmath=("fast",))
    again = b.cbranch(b.fcmp_unordered("<", real, F32(0.1)), head, done)
    again.set_weights([7, 1])
    b.position_at_end(done)
    b.ret_void()
    assert equal(module)


def test_several_functions_and_globals() -> None:
    module = new_module("module", LEVEL)
    table = ir.GlobalVariable(module, ir.ArrayType(I64, 2), "table")
    table.initializer, table.global_constant, table.linkage = ir.Constant(table.value_type, [1, 2]), True, "internal"
    for name in ("f", "g"):
        function, b = function_of(module, name)
        function.linkage = "hidden"
        function.attributes.add("nounwind")
        unknown = b.append_basic_block()
        choice = b.switch(function.args[1], unknown)
        choice.add_case(I64(3), unknown)
        b.position_at_end(unknown)
        b.ret_void()
    assert equal(module)


@pytest.mark.parametrize("name", ["x86-64-v3", "aarch64"])
def test_the_team_and_the_walk(name: str) -> None:
    """The atomics, inline assembly and indirect calls of the runtime's functions."""
    chosen = level(name)
    module = new_module("program", chosen)
    emit_program(module, Program("program", (), (), {}), chosen, lambda kernel: kernel.name)
    assert equal(module)
