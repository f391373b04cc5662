# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""The program with time stamps: ``i32 ingot_profile(i64 *args, void *team, i64 *record)``.

It walks the steps as `ingot_run` does and stores in `record`, laid out by `ingot.runtime.profile`, when each launch and
each of its chunks began and ended. `ingot_run` is not touched: who does not ask pays nothing but the bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Host, Launch, Program
from ingot.compiler.targets.cpu import declarations, flow
from ingot.compiler.targets.cpu.clock import time_stamp
from ingot.compiler.targets.cpu.emit import forbid_libraries
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.functions import I32, I64, PTR
from ingot.compiler.targets.cpu.program import Walk
from ingot.compiler.targets.cpu.team import declare_region
from ingot.compiler.targets.cpu.team_memory import Callee
from ingot.runtime import profile as layout
from ingot.runtime.manifest import PROFILE_SYMBOL

_VOID = ir.VoidType()
_JOB = ("kernel", "arguments", "record", "launch")  # words, on the leader's stack while the region lasts
_AFTER, _CHUNK = "ingot_launched", "ingot_profiled"
_WHOLE = -1  # the chunk number of an event that is a whole launch


def emit_profile(
    module: ir.Module,
    program: Program,
    level: Level,
    symbol_of: Callable[[Kernel], str],
    name: str = PROFILE_SYMBOL,
) -> ir.Function:
    """Define `ingot_profile` in `module`, as `name`; it is linked with those of `team.emit_team` and `emit_stamps`."""
    function = ir.Function(module, ir.FunctionType(I32, [PTR, PTR, PTR]), name)
    walk = _ProfiledWalk(function, symbol_of, level)
    b, record = walk.b, walk.record
    fits, unfit = (function.append_basic_block(name) for name in ("fits", "unfit"))
    launches = sum(1 for _ in program.timed())
    b.cbranch(b.icmp_unsigned("==", walk.read(record, layout.HEADER.index("launches")), I64(launches)), fits, unfit)
    b.position_at_end(unfit)
    b.ret(I32(layout.MISMATCH))
    b.position_at_end(fits)
    walk.write(record, layout.HEADER.index("thread"), thread_pointer(b))
    walk.write(record, layout.HEADER.index("started"), time_stamp(b, level))
    walk.program(program)
    walk.write(record, layout.HEADER.index("ended"), time_stamp(b, level))
    b.ret(I32(0))
    return function


def emit_stamps(module: ir.Module, level: Level) -> None:
    """Define what `ingot_profile` calls, which is the same for all programs."""
    log = _emit_log(module)
    _emit_after(module, level, log)
    _emit_chunk(module, level, log)


def thread_pointer(b: ir.IRBuilder) -> ir.Value:
    """A number that is different for every thread: where its thread-local storage lies."""
    return b.ptrtoint(declarations.call(b, "llvm.thread.pointer.p0", PTR, []), I64)


def _define(module: ir.Module, name: str, arguments: list[ir.Type]) -> ir.Function:
    function = ir.Function(module, ir.FunctionType(_VOID, arguments), name)
    forbid_libraries(function)
    return function


def _word(b: ir.IRBuilder, base: ir.Value, index: ir.Value | int) -> ir.Value:
    return b.gep(base, [I64(index) if isinstance(index, int) else index], source_etype=I64)


def _read(b: ir.IRBuilder, base: ir.Value, index: ir.Value | int, type_: ir.Type = I64) -> ir.Value:
    return b.load(_word(b, base, index), typ=type_, align=8)


class _ProfiledWalk(Walk):
    """The walk with a time stamp before and after every launch and host step; numbers are those of `Program.timed`."""

    def __init__(self, function: ir.Function, symbol_of: Callable[[Kernel], str], level: Level) -> None:
        super().__init__(function, declare_region(function.module), symbol_of, level)
        self.record = function.args[2]
        self.number = 0
        self.job = flow.stack(self.b, I64, len(_JOB))
        self.after = declarations.declared(self.module, _AFTER, _VOID, [PTR, I64, I64])
        self.chunk = declarations.declared(self.module, _CHUNK, _VOID, [PTR, I64])
        self.write(self.job, _JOB.index("record"), self.record)

    def write(self, base: ir.Value, index: int, value: ir.Value) -> None:
        """Store one word."""
        self.b.store(value, _word(self.b, base, index), align=8)

    def read(self, base: ir.Value, index: int) -> ir.Value:
        """Load one word."""
        return _read(self.b, base, index)

    def launch(self, launch: Launch) -> None:
        super().launch(launch)
        self.number += 1

    def host(self, step: Host) -> None:
        started = time_stamp(self.b, self.level)
        super().host(step)
        self.b.call(self.after, [self.record, I64(self.number), started])
        self.number += 1

    def run(self, kernel: ir.Value, arguments: ir.Value, chunks: ir.Value | None) -> None:
        number = I64(self.number)
        started = time_stamp(self.b, self.level)
        if chunks is not None:
            for name, value in (("kernel", kernel), ("arguments", arguments), ("launch", number)):
                self.write(self.job, _JOB.index(name), value)
            kernel, arguments = self.chunk, self.job
        super().run(kernel, arguments, chunks)
        self.b.call(self.after, [self.record, number, started])


def _emit_after(module: ir.Module, level: Level, log: ir.Function) -> ir.Function:
    """``void launched(record, i64 launch, i64 started)``: a launch has ended."""
    function = _define(module, _AFTER, [PTR, I64, I64])
    function.attributes.add("noinline")
    record, number, started = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    ended = time_stamp(b, level)
    entry = _entry(b, record, number)
    for name, more in (("count", I64(1)), ("ticks", b.sub(ended, started))):
        place = _word(b, entry, layout.LAUNCH.index(name))
        b.store(b.add(b.load(place, typ=I64, align=8), more), place, align=8)
    b.call(log, [record, number, I64(_WHOLE), _read(b, record, layout.HEADER.index("thread")), started, ended])
    b.ret_void()
    return function


def _emit_chunk(module: ir.Module, level: Level, log: ir.Function) -> ir.Function:
    """``void profiled(job, i64 chunk)``: a kernel as far as the team can tell, which runs the job's kernel."""
    function = _define(module, _CHUNK, [PTR, I64])
    job, chunk = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    kernel, arguments, record = (_read(b, job, _JOB.index(name), PTR) for name in _JOB[:3])
    number = _read(b, job, _JOB.index("launch"))
    started = time_stamp(b, level)
    b.call(Callee(kernel, ir.FunctionType(_VOID, [PTR, I64])), [arguments, chunk])
    ended = time_stamp(b, level)
    busy = _word(b, _entry(b, record, number), layout.LAUNCH.index("busy"))
    b.atomic_rmw("add", busy, b.sub(ended, started), "monotonic")
    b.call(log, [record, number, chunk, thread_pointer(b), started, ended])
    b.ret_void()
    return function


def _entry(b: ir.IRBuilder, record: ir.Value, number: ir.Value) -> ir.Value:
    return _word(b, record, b.add(b.mul(number, I64(len(layout.LAUNCH))), I64(len(layout.HEADER))))


def _emit_log(module: ir.Module) -> ir.Function:
    """``void log(record, launch, chunk, thread, started, ended)``: append an event, or count it where all is full."""
    function = _define(module, "ingot_log", [PTR, *[I64] * len(layout.EVENT)])
    record, *values = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    store, full = (b.append_basic_block(name) for name in ("store", "full"))
    index = b.atomic_rmw("add", _word(b, record, layout.HEADER.index("events")), I64(1), "monotonic")
    b.cbranch(b.icmp_unsigned("<", index, _read(b, record, layout.HEADER.index("capacity"))), store, full)
    b.position_at_end(store)
    launches = _read(b, record, layout.HEADER.index("launches"))
    start = b.add(b.mul(launches, I64(len(layout.LAUNCH))), I64(len(layout.HEADER)))
    event = _word(b, record, b.add(start, b.mul(index, I64(len(layout.EVENT)))))
    for position, value in enumerate(values):
        b.store(value, _word(b, event, position), align=8)
    b.branch(full)
    b.position_at_end(full)
    b.ret_void()
    return function
