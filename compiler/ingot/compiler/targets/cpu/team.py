# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""The thread team as LLVM IR: parallel regions whose chunks are claimed by compare-and-swap.

One leader, the caller of the program, publishes a region (function, args, number of chunks) and works on it like the
others; it is over when its chunks are finished, so a worker that is late or preempted without a chunk delays nobody.

- `claim` is ``epoch << 32 | remaining``. A claim lowers `remaining` by compare-and-swap. The job's fields change only
  while `remaining` is 0 and everything is finished, so a swap that succeeds proves that fields read before it belong to
  the chunk it won.
- An idle worker watches `claim` for some 30 us, then sleeps on its epoch half (futex). `sleepers` lets the leader leave
  out the wake when nobody sleeps; publishing and going to sleep both write one word and read the other's in one total
  order, so one of the two sees the other.
- The leader, out of chunks, watches `finished` as long, then sleeps on it; the last worker to finish wakes it.
- Other processes may take the processors of workers: what happens then is in `stalls`.

The memory of the team is `size` bytes, 64-byte aligned, and outlives its workers. Functions:
``i64 ingot_team_size()``, ``void ingot_team_init(team, i64 workers, syscall)`` with libc's ``syscall``,
``void *ingot_worker(team)``, a start routine that returns after ``void ingot_stop(team)``.
"""

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.targets.cpu import declarations
from ingot.compiler.targets.cpu import team_memory as layout
from ingot.compiler.targets.cpu.emit import forbid_libraries
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.float_mode import FloatMode
from ingot.compiler.targets.cpu.flow import stack
from ingot.compiler.targets.cpu.functions import I32, I64, PTR
from ingot.compiler.targets.cpu.stalls import Place, Stalls, emit_gather, emit_scatter, introduce, tell_processor
from ingot.compiler.targets.cpu.team_memory import SIZE, Callee, TeamMemory

EXPORTS = ("ingot_team_size", "ingot_team_init", "ingot_worker", "ingot_stop")
REGION = "ingot_region"

_ALL = 0x7FFFFFFF


def emit_team(module: ir.Module, level: Level) -> ir.Function:
    """Define the team's functions in `module`; returns ``void region(team, function, args, i64 chunks)``."""
    _emit_size(module)
    _emit_init(module, level)
    _emit_stop(module, level)
    work = _emit_work(module, level)
    _emit_worker(module, level, work)
    return _emit_region(module, level, work)


def declare_region(module: ir.Module) -> ir.Function:
    """The region function of `emit_team` in a module that is linked with the team's."""
    return declarations.declared(module, REGION, ir.VoidType(), [PTR, PTR, PTR, I64])


def _define(module: ir.Module, name: str, result: ir.Type, arguments: list[ir.Type], linkage: str) -> ir.Function:
    function = ir.Function(module, ir.FunctionType(result, arguments), name)
    function.linkage = linkage
    forbid_libraries(function)
    return function


def _emit_size(module: ir.Module) -> None:
    function = _define(module, "ingot_team_size", I64, [], "")
    ir.IRBuilder(function.append_basic_block("entry")).ret(I64(SIZE))


def _emit_init(module: ir.Module, level: Level) -> None:
    function = _define(module, "ingot_team_init", ir.VoidType(), [PTR, I64, PTR], "")
    team, workers, system = function.args
    t = TeamMemory(function, team, level)
    b = t.b
    begin, clear, done = b.block, b.append_basic_block("clear"), b.append_basic_block("done")
    b.branch(clear)
    b.position_at_end(clear)
    offset = b.phi(I64)
    offset.add_incoming(I64(0), begin)
    b.store(I64(0), t.at(offset), align=8)
    following = b.add(offset, I64(8))
    offset.add_incoming(following, clear)
    b.cbranch(b.icmp_unsigned("<", following, I64(SIZE)), clear, done)
    b.position_at_end(done)
    b.store(workers, t.at(layout.WORKERS), align=8)
    b.store(system, t.at(layout.SYSCALL), align=8)
    b.store(I32(-1), t.at(layout.PROCESSOR), align=4)
    b.ret_void()


def _emit_stop(module: ir.Module, level: Level) -> None:
    function = _define(module, "ingot_stop", ir.VoidType(), [PTR], "")
    t = TeamMemory(function, function.args[0], level)
    t.store(layout.STOP, I32(1), "seq_cst")
    t.b.atomic_rmw("add", t.at(layout.CLAIM), I64(1 << 32), "seq_cst")
    for offset in (layout.EPOCH, layout.STOP):
        t.wake(offset, I32(_ALL))
    t.b.ret_void()


def _emit_work(module: ir.Module, level: Level) -> ir.Function:
    """``i64 work(team, slot)``: run chunks while there are any; the claim word that had none left."""
    function = _define(module, "ingot_work", I64, [PTR, PTR], "internal")
    t = TeamMemory(function, function.args[0], level)
    busy, ran = (t.within(function.args[1], place) for place in (layout.BUSY, layout.RAN))
    b = t.b
    look, claim, run, last, wake, none = (
        b.append_basic_block(name) for name in ("look", "claim", "run", "last", "wake", "none")
    )
    b.branch(look)
    b.position_at_end(look)
    word = t.load(layout.CLAIM, I64, "acquire")
    remaining = b.and_(word, I64(0xFFFFFFFF))
    b.cbranch(b.icmp_unsigned("==", remaining, I64(0)), none, claim)
    b.position_at_end(claim)
    job, arguments = (b.inttoptr(t.load(offset, I64), PTR) for offset in (layout.FUNCTION, layout.ARGS))
    chunks = t.load(layout.CHUNKS, I64)
    swapped = b.extract_value(b.cmpxchg(t.at(layout.CLAIM), word, b.sub(word, I64(1)), "seq_cst", "monotonic"), 1)
    b.cbranch(swapped, run, look)
    b.position_at_end(run)
    t.store_to(busy, I32(1))
    _call_kernel(b, job, arguments, b.sub(chunks, remaining))
    t.store_to(busy, I32(0))
    b.store(b.add(b.load(ran, typ=I64, align=8), I64(1)), ran, align=8)
    finished = b.add(t.add(layout.FINISHED, 1), I32(1))
    b.cbranch(b.icmp_unsigned("==", b.zext(finished, I64), chunks), last, look)
    b.position_at_end(last)
    waiting = t.load(layout.WAITING, I32, "seq_cst")
    b.cbranch(b.icmp_unsigned("!=", waiting, I32(0)), wake, look)
    b.position_at_end(wake)
    t.wake(layout.FINISHED, I32(1))
    b.branch(look)
    b.position_at_end(none)
    b.ret(word)
    return function


def _call_kernel(b: ir.IRBuilder, pointer: ir.Value, arguments: ir.Value, chunk: ir.Value) -> None:
    b.call(Callee(pointer, ir.FunctionType(ir.VoidType(), [PTR, I64])), [arguments, chunk])


def _emit_worker(module: ir.Module, level: Level, work: ir.Function) -> None:
    function = _define(module, "ingot_worker", PTR, [PTR], "")
    t = TeamMemory(function, function.args[0], level)
    b = t.b
    mode = FloatMode(b, level)
    serve, idle, stopped = (b.append_basic_block(name) for name in ("serve", "idle", "stopped"))
    slot = introduce(t)
    place, slept = Place(t, slot), stack(b, I32, 1, 4)
    b.branch(serve)
    b.position_at_end(serve)
    seen = b.call(work, [t.team, slot])
    b.cbranch(b.icmp_unsigned("!=", t.load(layout.STOP, I32, "seq_cst"), I32(0)), stopped, idle)
    b.position_at_end(idle)
    b.store(I32(0), slept, align=4)
    epoch = b.trunc(b.lshr(seen, I64(32)), I32)

    def changed() -> ir.Value:
        return b.icmp_unsigned("!=", t.load(layout.EPOCH, I32, "seq_cst"), epoch)

    def sleep() -> None:
        t.add(layout.SLEEPERS, 1)
        t.wait(layout.EPOCH, epoch)  # returns at once if the epoch has changed
        t.add(layout.SLEEPERS, -1)
        b.store(I32(1), slept, align=4)

    t.watch(changed, sleep)
    t.when(b.icmp_unsigned("!=", b.load(slept, typ=I32, align=4), I32(0)), place.make_way)
    b.branch(serve)
    b.position_at_end(stopped)
    mode.leave()
    b.ret(ir.Constant(PTR, None))


def _emit_region(module: ir.Module, level: Level, work: ir.Function) -> ir.Function:
    gather, scatter = emit_gather(module, level), emit_scatter(module, level)
    function = _define(module, REGION, ir.VoidType(), [PTR, PTR, PTR, I64], "")
    team, job, arguments, chunks = function.args
    t = TeamMemory(function, team, level)
    b = t.b
    alone, loop, done, ask, publish = (
        b.append_basic_block(name) for name in ("alone", "loop", "done", "ask", "publish")
    )
    # One chunk, none, or more than the claim word can count.
    unfit = b.icmp_unsigned(">=", b.sub(chunks, I64(2)), I64(_ALL - 1))
    b.cbranch(b.or_(unfit, b.icmp_unsigned("==", team, ir.Constant(PTR, None))), alone, ask)

    b.position_at_end(ask)
    workers = b.load(t.at(layout.WORKERS), typ=I64, align=8)
    b.cbranch(b.icmp_unsigned("==", workers, I64(0)), alone, publish)

    b.position_at_end(alone)
    b.cbranch(b.icmp_signed(">", chunks, I64(0)), loop, done)
    b.position_at_end(loop)
    chunk = b.phi(I64)
    chunk.add_incoming(I64(0), alone)
    _call_kernel(b, job, arguments, chunk)
    following = b.add(chunk, I64(1))
    chunk.add_incoming(following, loop)
    b.cbranch(b.icmp_signed("<", following, chunks), loop, done)
    b.position_at_end(done)
    b.ret_void()

    b.position_at_end(publish)
    stalls = Stalls(t, gather, scatter)
    stalls.begin()
    t.store(layout.FUNCTION, b.ptrtoint(job, I64))
    t.store(layout.ARGS, b.ptrtoint(arguments, I64))
    t.store(layout.CHUNKS, chunks)
    t.store(layout.FINISHED, I32(0))
    b.store(I64(0), t.at(layout.LEADER + layout.RAN), align=8)
    epoch = b.add(t.load(layout.EPOCH, I32), I32(1))
    t.store(layout.CLAIM, b.or_(b.shl(b.zext(epoch, I64), I64(32)), chunks), "seq_cst")
    sleepers = t.load(layout.SLEEPERS, I32, "seq_cst")
    away = b.or_(sleepers, t.load(layout.RESTING, I32))
    t.when(b.icmp_unsigned("!=", away, I32(0)), lambda: tell_processor(t))
    others = b.trunc(b.sub(chunks, I64(1)), I32)
    t.when(b.icmp_unsigned("!=", sleepers, I32(0)), lambda: t.wake(layout.EPOCH, others))
    b.call(work, [team, t.at(layout.LEADER)])
    stalls.ran_out()

    def over() -> ir.Value:
        return b.icmp_unsigned("==", b.zext(t.load(layout.FINISHED, I32, "acquire"), I64), chunks)

    def sleep() -> None:
        stalls.help()
        t.store(layout.WAITING, I32(1), "seq_cst")
        finished = t.load(layout.FINISHED, I32, "seq_cst")
        unfinished, woken = b.append_basic_block("unfinished"), b.append_basic_block("woken")
        b.cbranch(b.icmp_unsigned("==", b.zext(finished, I64), chunks), woken, unfinished)
        b.position_at_end(unfinished)
        t.wait(layout.FINISHED, finished, stalls.timeout())  # returns at once if another was finished meanwhile
        b.branch(woken)
        b.position_at_end(woken)
        t.store(layout.WAITING, I32(0))

    t.watch(over, sleep)
    stalls.over()
    b.ret_void()
    return function
