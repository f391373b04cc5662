# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""The program as one native function ``i32 ingot_run(i64 *args, void *team)`` and the table of its arguments.

`argument_table` and `emit_program` walk the steps in one order; a step's words lie where the walk has come to:

    launch  chunks, a pointer per buffer, dims        branch  condition, then, otherwise
    repeat  counter, trip if it has one, condition if it has one, body
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir

from ingot.compiler.ir.dims import Serial, serialise
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Argument, Branch, Launch, Program, Repeat, Step
from ingot.compiler.targets.cpu.emit import declare_kernel, forbid_libraries
from ingot.compiler.targets.cpu.fastcall import emit_call
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.functions import I8, I32, I64, PTR
from ingot.compiler.targets.cpu.team import emit_team

Entry: TypeAlias = list[Serial]


def argument_table(program: Program) -> list[Entry]:
    """The words of `ingot_run`'s args in order, as the manifest lists them: ``["d", dim]``, the value of a dim, or
    ``["p", storage, dim]``, the address of element dim of the storage with that index in ``program.storages``."""
    positions = {id(storage): index for index, storage in enumerate(program.storages)}
    table: list[Entry] = []

    def address(argument: Argument) -> None:
        table.append(["p", positions[id(argument.storage)], serialise(argument.offset)])

    def walk(steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Launch():
                    table.append(["d", serialise(step.chunks)])
                    for argument in step.buffers:
                        address(argument)
                    table.extend(["d", serialise(dim)] for dim in step.dims)
                case Branch(condition=condition, then=then, otherwise=otherwise):
                    address(condition)
                    walk(then)
                    walk(otherwise)
                case Repeat(counter=counter, trip=trip, condition=condition, body=body):
                    for argument in (counter, trip, condition):
                        if argument is not None:
                            address(argument)
                    walk(body)

    walk(program.steps)
    return table


def emit_program(module: ir.Module, program: Program, level: Level, symbol_of: Callable[[Kernel], str]) -> None:
    """Define `ingot_run`, its entry for Python and the thread team in `module`; kernels are external, named by
    `symbol_of`."""
    region = emit_team(module, level)
    function = ir.Function(module, ir.FunctionType(I32, [PTR, PTR]), "ingot_run")
    forbid_libraries(function)
    walk = _Walk(function, region, symbol_of)
    walk.steps(program.steps)
    walk.b.ret(I32(0))
    emit_call(module, function)


class _Walk:
    """Emission of steps in order; `position` is the next word of args."""

    def __init__(self, function: ir.Function, region: ir.Function, symbol_of: Callable[[Kernel], str]) -> None:
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.module, self.region, self.symbol_of = function.module, region, symbol_of
        self.arguments, self.team = function.args
        self.position = 0

    def word(self, type_: ir.Type) -> ir.Value:
        """The next word of args."""
        pointer = self.b.gep(self.arguments, [I64(self.position)], source_etype=I64)
        self.position += 1
        return self.b.load(pointer, typ=type_, align=8)

    def steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Launch():
                    self._launch(step)
                case Branch():
                    self._branch(step)
                case Repeat():
                    self._repeat(step)

    def _launch(self, launch: Launch) -> None:
        b, kernel = self.b, declare_kernel(self.module, self.symbol_of(launch.kernel))
        if launch.chunks == 0:
            self.position += 1 + len(launch.buffers) + len(launch.dims)
            return
        chunks = self.word(I64)
        arguments = b.gep(self.arguments, [I64(self.position)], source_etype=I64)
        self.position += len(launch.buffers) + len(launch.dims)
        if launch.chunks == 1:
            b.call(kernel, [arguments, I64(0)])
        else:
            b.call(self.region, [self.team, kernel, arguments, chunks])

    def _branch(self, branch: Branch) -> None:
        b = self.b
        holds = self._holds(self.word(PTR))
        then, otherwise, after = (b.append_basic_block(name) for name in ("then", "otherwise", "after"))
        b.cbranch(holds, then, otherwise)
        for block, steps in ((then, branch.then), (otherwise, branch.otherwise)):
            b.position_at_end(block)
            self.steps(steps)
            b.branch(after)
        b.position_at_end(after)

    def _holds(self, address: ir.Value) -> ir.Value:
        return self.b.icmp_unsigned("!=", self.b.load(address, typ=I8, align=1), I8(0))

    def _repeat(self, repeat: Repeat) -> None:
        b = self.b
        counter = self.word(PTR)
        trip = None if repeat.trip is None else b.load(self.word(PTR), typ=I64, align=8)
        condition = None if repeat.condition is None else self.word(PTR)
        before = b.block
        test, ask, body, after = (b.append_basic_block(name) for name in ("test", "ask", "body", "after"))
        b.branch(test)
        b.position_at_end(test)
        index = b.phi(I64)
        index.add_incoming(I64(0), before)
        if trip is None:
            b.branch(ask)
        else:
            b.cbranch(b.icmp_signed("<", index, trip), ask, after)
        b.position_at_end(ask)
        if condition is None:
            b.branch(body)
        else:
            b.cbranch(self._holds(condition), body, after)
        b.position_at_end(body)
        b.store(index, counter, align=8)
        self.steps(repeat.body)
        index.add_incoming(b.add(index, I64(1)), b.block)
        b.branch(test)
        b.position_at_end(after)
