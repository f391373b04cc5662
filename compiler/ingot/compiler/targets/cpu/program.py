# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""The program as one native function ``i32 ingot_run(i64 *args, void *team)`` and the table of its arguments.

`argument_table` and `emit_program` walk the steps in one order; a step's words lie where the walk has come to:

    launch  chunks, a pointer per buffer, dims        branch  condition, then, otherwise
    repeat  counter, trip if it has one, condition if it has one, body
    bind    address of the value
    host    its number, for each operand, then for each result: address, extents
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir

from ingot.compiler.ir.dims import Serial, serialise
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Bind, Branch, Host, Launch, Program, Repeat, Step, Stop
from ingot.compiler.targets.cpu import declarations
from ingot.compiler.targets.cpu.binding import Binder
from ingot.compiler.targets.cpu.clock import time_stamp
from ingot.compiler.targets.cpu.emit import declare_kernel, forbid_libraries
from ingot.compiler.targets.cpu.fastcall import emit_call
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.float_mode import FloatMode
from ingot.compiler.targets.cpu.functions import I8, I32, I64, PTR
from ingot.compiler.targets.cpu.team import emit_team
from ingot.compiler.targets.cpu.team_memory import Callee
from ingot.compiler.targets.cpu.words import Sizes
from ingot.runtime.callback import INTERRUPTED
from ingot.runtime.manifest import RUN_SYMBOL

Entry: TypeAlias = list[Serial]

_PATIENCE = {"x86-64": 1 << 28, "aarch64": 1 << 22}
"""Ticks of the clock between two looks for interrupts in a loop: a tenth of a second or so, less on some Arm."""


def argument_table(program: Program, *, interruptible: bool = True) -> list[Entry]:
    """The words of `ingot_run`'s args in order, as the manifest lists them: ``["d", dim]``, the value of a dim, or
    ``["p", storage, dim]``, the address of element dim of the storage with that index in ``program.storages``. Where
    symbols are bound during the run, words that depend on them are filled in by the code itself; then there is a word
    ``["late"]``, the address of the block that `ingot.runtime.late` lays out. Where there are host steps, or loops that
    are to be `interruptible`, the last word is ``["host"]``, the address of the function that `ingot.runtime.callback`
    makes."""
    positions = {storage: index for index, storage in enumerate(program.storages)}
    sizes = Sizes(program)
    table: list[Entry] = []
    for word in sizes.words:
        dim = serialise(word.dim)
        table.append(["d", dim] if word.storage is None else ["p", positions[word.storage], dim])
    host = sizes.host is not None and (interruptible or sizes.has_host_steps)
    return [*table, *([["late"]] if sizes.bound else []), *([["host"]] if host else [])]


def emit_program(module: ir.Module, program: Program, level: Level, symbol_of: Callable[[Kernel], str]) -> None:
    """Define `ingot_run`, its entry for Python and the thread team in `module`; kernels are external, named by
    `symbol_of`. Loops do not look for interrupts: nobody need be there to answer."""
    walk = Walk(declare_run(module), emit_team(module, level), symbol_of, level, interruptible=False)
    emit_call(module, walk.whole(program))


def emit_run(
    module: ir.Module,
    program: Program,
    region: ir.Function,
    level: Level,
    symbol_of: Callable[[Kernel], str],
    name: str = RUN_SYMBOL,
) -> ir.Function:
    """Define `ingot_run` alone, as `name`; `region` is the team's."""
    return Walk(declare_run(module, name), region, symbol_of, level).whole(program)


def declare_run(module: ir.Module, name: str = RUN_SYMBOL) -> ir.Function:
    """`ingot_run` in `module`, as `name` and without a body."""
    return ir.Function(module, ir.FunctionType(I32, [PTR, PTR]), name)


class Walk:
    """Emission of steps in order; `position` is the next word of args.

    `program` makes what the steps of one program share: `binder` fills in the words that depend on bound symbols,
    `stop` has the address of the status and the block where a run that ends early goes on, `mode` is the kernels'
    floating-point mode, `host_word` the number of the word with the address of the host's function. `interrupted` is
    the block that ends a run that the host does not want to go on, made where the first loop asks.
    """

    def __init__(
        self,
        function: ir.Function,
        region: ir.Function,
        symbol_of: Callable[[Kernel], str],
        level: Level,
        *,
        interruptible: bool = True,
    ) -> None:
        forbid_libraries(function)
        declarations.number_values(function)
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.module, self.region, self.symbol_of = function.module, region, symbol_of
        self.function, self.level, self.interruptible = function, level, interruptible
        self.arguments, self.team = function.args[:2]
        self.position = 0
        self.binder: Binder | None = None
        self.stop: tuple[ir.Value, ir.Block] | None = None
        self.mode: FloatMode | None = None
        self.host_word: int | None = None
        self.interrupted: ir.Block | None = None

    def whole(self, program: Program) -> ir.Function:
        """The function, complete: all steps and a return."""
        self.program(program)
        self.b.ret(I32(0))
        return self.function

    def program(self, program: Program) -> None:
        """All steps of a program, in the kernels' floating-point mode; a run that ends early goes on behind them."""
        b = self.b
        self.mode = FloatMode(b, self.level)
        end = b.append_basic_block("end")
        self.binder = Binder(b, program, self.arguments, end) if program.bound() else None
        sizes = Sizes(program)
        if sizes.status is not None:
            status = b.load(b.gep(self.arguments, [I64(sizes.status)], source_etype=I64), typ=PTR, align=8)
            self.stop = status, end
        self.host_word = sizes.host
        self.steps(program.steps)
        b.branch(end)
        b.position_at_end(end)
        self.mode.leave()

    def word(self, type_: ir.Type) -> ir.Value:
        """The next word of args."""
        pointer = self.b.gep(self.arguments, [I64(self.position)], source_etype=I64)
        self.position += 1
        return self.b.load(pointer, typ=type_, align=8)

    def steps(self, steps: Sequence[Step]) -> None:
        """Steps in order."""
        for step in steps:
            match step:
                case Launch():
                    self.launch(step)
                case Branch():
                    self._branch(step)
                case Repeat():
                    self._repeat(step)
                case Bind():
                    assert self.binder is not None
                    self.binder.bind(step, self.word(PTR))
                case Host():
                    self._stop()
                    self.host(step)
                case Stop():
                    self._stop()

    def host(self, step: Host) -> None:
        """A call of the host, by number, in the caller's floating-point mode; where it fails the run ends."""
        b = self.b
        assert self.stop is not None
        status, end = self.stop
        words = b.gep(self.arguments, [I64(self.position)], source_etype=I64)
        self.position += 1 + sum(1 + tensor.type.rank for tensor in (*step.operands, *step.results))
        failed, following = b.append_basic_block("failed"), b.append_basic_block("following")
        b.cbranch(self._ask(words), following, failed)
        b.position_at_end(failed)
        b.store(I64(step.fault), status, align=8)
        b.branch(end)
        b.position_at_end(following)

    def _ask(self, words: ir.Value) -> ir.Value:
        """i1: whether the run goes on after the function of `ingot.runtime.callback` was called, in the caller's
        floating-point mode."""
        b = self.b
        assert self.host_word is not None and self.mode is not None
        address = b.load(b.gep(self.arguments, [I64(self.host_word)], source_etype=I64), typ=PTR, align=8)
        self.mode.leave()
        outcome = b.call(Callee(address, ir.FunctionType(I32, [PTR])), [words])
        self.mode.enter()
        return b.icmp_signed("!=", outcome, I32(0))

    def _look_for_interrupts(self, since: ir.Value) -> ir.Value:
        """Ask whether the run goes on where some time went by `since` that was done last; when it was done last now."""
        b, before = self.b, self.b.block
        now = time_stamp(b, self.level)
        late = b.icmp_unsigned(">", b.sub(now, since), I64(_PATIENCE[self.level.arch]))
        ask, following = b.append_basic_block("ask"), b.append_basic_block("following")
        b.cbranch(late, ask, following).set_weights([1, 1 << 20])
        if self.interrupted is None:
            self.interrupted = b.append_basic_block("interrupted")
            assert self.mode is not None
            with b.goto_block(self.interrupted):
                self.mode.leave()
                b.ret(I32(INTERRUPTED))
        b.position_at_end(ask)
        goes_on, asked = self._ask(PTR(None)), b.block
        b.cbranch(goes_on, following, self.interrupted)
        b.position_at_end(following)
        last = b.phi(I64)
        last.add_incoming(since, before)
        last.add_incoming(now, asked)
        return last

    def _stop(self) -> None:
        """End the run where the status is set: what follows may compute with shapes that make no sense then."""
        b = self.b
        assert self.stop is not None
        status, end = self.stop
        following = b.append_basic_block("following")
        b.cbranch(b.icmp_signed("==", b.load(status, typ=I64, align=8), I64(0)), following, end)
        b.position_at_end(following)

    def launch(self, launch: Launch) -> None:
        """One launch; one that never has a chunk is left out."""
        b, kernel = self.b, declare_kernel(self.module, self.symbol_of(launch.kernel))
        if launch.chunks == 0:
            self.position += 1 + len(launch.buffers) + len(launch.dims)
            return
        chunks = self.word(I64)
        arguments = b.gep(self.arguments, [I64(self.position)], source_etype=I64)
        self.position += len(launch.buffers) + len(launch.dims)
        self.run(kernel, arguments, None if launch.chunks == 1 else chunks)

    def run(self, kernel: ir.Value, arguments: ir.Value, chunks: ir.Value | None) -> None:
        """Run the chunks of a kernel, by the team; None: just the one that there is."""
        if chunks is None:
            self.b.call(kernel, [arguments, I64(0)])
        else:
            self.b.call(self.region, [self.team, kernel, arguments, chunks])

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
        polls = self.interruptible
        started = time_stamp(b, self.level) if polls else I64(0)
        before = b.block
        test, ask, body, after = (b.append_basic_block(name) for name in ("test", "ask", "body", "after"))
        b.branch(test)
        b.position_at_end(test)
        index = b.phi(I64)
        index.add_incoming(I64(0), before)
        asked = b.phi(I64)
        asked.add_incoming(started, before)
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
        following = self._look_for_interrupts(asked) if polls else asked
        index.add_incoming(b.add(index, I64(1)), b.block)
        asked.add_incoming(following, b.block)
        b.branch(test)
        b.position_at_end(after)
