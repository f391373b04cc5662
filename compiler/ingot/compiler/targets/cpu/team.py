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

The memory of the team is `size` bytes, 64-byte aligned, and outlives its workers. Functions:
``i64 ingot_team_size()``, ``void ingot_team_init(team, i64 workers, syscall)`` with libc's ``syscall``,
``void *ingot_worker(team)``, a start routine that returns after ``void ingot_stop(team)``.
"""

from __future__ import annotations

from llvmlite import ir
from llvmlite.ir.instructions import StoreAtomicInstr

from ingot.compiler.targets.cpu import declarations
from ingot.compiler.targets.cpu.emit import forbid_libraries
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.float_mode import FloatMode
from ingot.compiler.targets.cpu.functions import I32, I64, PTR

EXPORTS = ("ingot_team_size", "ingot_team_init", "ingot_worker", "ingot_stop")
REGION = "ingot_region"

SIZE = 512
_CLAIM, _EPOCH = 0, 4  # u64, and its upper half as a futex word
_FUNCTION, _ARGS, _CHUNKS = 64, 72, 80  # the job; a line of its own, written once a region
_FINISHED, _WAITING = 128, 132  # u32 each: chunks finished, whether the leader sleeps
_SLEEPERS, _STOP = 192, 196  # u32 each
_WORKERS, _SYSCALL = 256, 264  # constant after the start

_FUTEX_CALL = {"x86-64": 202, "aarch64": 98}
_WAIT_PRIVATE, _WAKE_PRIVATE = 128, 129
_ALL = 0x7FFFFFFF
_SPIN_CYCLES = 80_000  # of the time stamp counter, which runs at 2 to 4 GHz
_SPIN_ROUNDS = 10_000  # where reading the time may trap


class _Team:
    """One function of the team under construction, with the pointer to the team's memory."""

    def __init__(self, function: ir.Function, team: ir.Value, level: Level) -> None:
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.team, self.level = team, level
        self.module = function.module

    def at(self, offset: int) -> ir.Value:
        return self.b.gep(self.team, [I64(offset)], source_etype=ir.IntType(8))

    def load(self, offset: int, type_: ir.Type, ordering: str = "monotonic") -> ir.Value:
        return self.b.load_atomic(self.at(offset), ordering, align=_bytes(type_), typ=type_)

    def store(self, offset: int, value: ir.Value, ordering: str = "monotonic") -> None:
        # The builder's own method does not know opaque pointers.
        b = self.b
        b._insert(StoreAtomicInstr(b.block, value, self.at(offset), ordering, _bytes(value.type)))

    def add(self, offset: int, value: int) -> ir.Value:
        """The value before the addition."""
        return self.b.atomic_rmw("add", self.at(offset), I32(value), "seq_cst")

    def futex(self, offset: int, operation: int, value: ir.Value) -> None:
        system = self.b.load(self.at(_SYSCALL), typ=PTR, align=8)
        none = ir.Constant(PTR, None)
        arguments = [I64(_FUTEX_CALL[self.level.arch]), self.at(offset), I64(operation), self.b.zext(value, I64), none]
        self.b.call(Callee(system, ir.FunctionType(I64, [I64], var_arg=True)), [*arguments, none, I64(0)])

    def pause(self) -> None:
        if self.level.arch == "x86-64":
            declarations.call(self.b, "llvm.x86.sse2.pause", ir.VoidType(), [])
        else:
            declarations.call(self.b, "llvm.aarch64.hint", ir.VoidType(), [I32(1)])

    def clock(self) -> ir.Value:
        """A counter for `spun`; 0 where there is none that may be read."""
        if self.level.arch == "x86-64":
            return declarations.call(self.b, "llvm.readcyclecounter", I64, [])
        return I64(0)

    def spun(self, start: ir.Value, rounds: ir.Value) -> ir.Value:
        """i1: whether enough time was spent watching since `start`, after so many rounds."""
        if self.level.arch == "x86-64":
            return self.b.icmp_unsigned(">", self.b.sub(self.clock(), start), I64(_SPIN_CYCLES))
        return self.b.icmp_unsigned(">", rounds, I64(_SPIN_ROUNDS))

    def watch(self, ready, sleep) -> None:
        """Until ``ready()`` (an i1) holds: pause, and once the time for that is over call ``sleep()``."""
        b = self.b
        begin, look, wait, doze, again, done = (
            b.append_basic_block(name) for name in ("watch", "look", "wait", "doze", "again", "watched")
        )
        b.branch(begin)
        b.position_at_end(begin)
        start = self.clock()
        b.branch(look)
        b.position_at_end(look)
        rounds = b.phi(I64)
        rounds.add_incoming(I64(0), begin)
        b.cbranch(ready(), done, wait)
        b.position_at_end(wait)
        self.pause()
        b.cbranch(self.spun(start, rounds), doze, again)
        b.position_at_end(again)
        rounds.add_incoming(b.add(rounds, I64(1)), again)
        b.branch(look)
        b.position_at_end(doze)
        sleep()
        b.branch(begin)
        b.position_at_end(done)


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


def _bytes(type_: ir.Type) -> int:
    return type_.width // 8 if isinstance(type_, ir.IntType) else 8


class Callee:
    """A pointer called as a function of the given type."""

    def __init__(self, pointer: ir.Value, function_type: ir.FunctionType) -> None:
        self.type = pointer.type
        self.function_type = function_type
        self._pointer = pointer

    def get_reference(self) -> str:
        return self._pointer.get_reference()


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
    t = _Team(function, team, level)
    for offset in range(0, SIZE, 8):
        t.b.store(I64(0), t.at(offset), align=8)
    t.b.store(workers, t.at(_WORKERS), align=8)
    t.b.store(system, t.at(_SYSCALL), align=8)
    t.b.ret_void()


def _emit_stop(module: ir.Module, level: Level) -> None:
    function = _define(module, "ingot_stop", ir.VoidType(), [PTR], "")
    t = _Team(function, function.args[0], level)
    t.store(_STOP, I32(1), "seq_cst")
    t.b.atomic_rmw("add", t.at(_CLAIM), I64(1 << 32), "seq_cst")
    t.futex(_EPOCH, _WAKE_PRIVATE, I32(_ALL))
    t.b.ret_void()


def _emit_work(module: ir.Module, level: Level) -> ir.Function:
    """``i64 work(team)``: run chunks while there are any; the claim word that had none left."""
    function = _define(module, "ingot_work", I64, [PTR], "internal")
    t = _Team(function, function.args[0], level)
    b = t.b
    look, claim, run, last, wake, none = (
        b.append_basic_block(name) for name in ("look", "claim", "run", "last", "wake", "none")
    )
    b.branch(look)
    b.position_at_end(look)
    word = t.load(_CLAIM, I64, "acquire")
    remaining = b.and_(word, I64(0xFFFFFFFF))
    b.cbranch(b.icmp_unsigned("==", remaining, I64(0)), none, claim)
    b.position_at_end(claim)
    job, arguments = (b.inttoptr(t.load(offset, I64), PTR) for offset in (_FUNCTION, _ARGS))
    chunks = t.load(_CHUNKS, I64)
    swapped = b.extract_value(b.cmpxchg(t.at(_CLAIM), word, b.sub(word, I64(1)), "seq_cst", "monotonic"), 1)
    b.cbranch(swapped, run, look)
    b.position_at_end(run)
    _call_kernel(b, job, arguments, b.sub(chunks, remaining))
    finished = b.add(t.add(_FINISHED, 1), I32(1))
    b.cbranch(b.icmp_unsigned("==", b.zext(finished, I64), chunks), last, look)
    b.position_at_end(last)
    waiting = t.load(_WAITING, I32, "seq_cst")
    b.cbranch(b.icmp_unsigned("!=", waiting, I32(0)), wake, look)
    b.position_at_end(wake)
    t.futex(_FINISHED, _WAKE_PRIVATE, I32(1))
    b.branch(look)
    b.position_at_end(none)
    b.ret(word)
    return function


def _call_kernel(b: ir.IRBuilder, pointer: ir.Value, arguments: ir.Value, chunk: ir.Value) -> None:
    b.call(Callee(pointer, ir.FunctionType(ir.VoidType(), [PTR, I64])), [arguments, chunk])


def _emit_worker(module: ir.Module, level: Level, work: ir.Function) -> None:
    function = _define(module, "ingot_worker", PTR, [PTR], "")
    t = _Team(function, function.args[0], level)
    b = t.b
    mode = FloatMode(b, level)
    serve, idle, stopped = (b.append_basic_block(name) for name in ("serve", "idle", "stopped"))
    b.branch(serve)
    b.position_at_end(serve)
    seen = b.call(work, [t.team])
    b.cbranch(b.icmp_unsigned("!=", t.load(_STOP, I32, "seq_cst"), I32(0)), stopped, idle)
    b.position_at_end(idle)
    epoch = b.trunc(b.lshr(seen, I64(32)), I32)

    def changed() -> ir.Value:
        return b.icmp_unsigned("!=", t.load(_EPOCH, I32, "seq_cst"), epoch)

    def sleep() -> None:
        t.add(_SLEEPERS, 1)
        t.futex(_EPOCH, _WAIT_PRIVATE, epoch)  # returns at once if the epoch has changed
        t.add(_SLEEPERS, -1)

    t.watch(changed, sleep)
    b.branch(serve)
    b.position_at_end(stopped)
    mode.leave()
    b.ret(ir.Constant(PTR, None))


def _emit_region(module: ir.Module, level: Level, work: ir.Function) -> ir.Function:
    function = _define(module, REGION, ir.VoidType(), [PTR, PTR, PTR, I64], "")
    team, job, arguments, chunks = function.args
    t = _Team(function, team, level)
    b = t.b
    alone, loop, done, ask, publish = (
        b.append_basic_block(name) for name in ("alone", "loop", "done", "ask", "publish")
    )
    # One chunk, none, or more than the claim word can count.
    unfit = b.icmp_unsigned(">=", b.sub(chunks, I64(2)), I64(_ALL - 1))
    b.cbranch(b.or_(unfit, b.icmp_unsigned("==", team, ir.Constant(PTR, None))), alone, ask)

    b.position_at_end(ask)
    workers = b.load(t.at(_WORKERS), typ=I64, align=8)
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
    t.store(_FUNCTION, b.ptrtoint(job, I64))
    t.store(_ARGS, b.ptrtoint(arguments, I64))
    t.store(_CHUNKS, chunks)
    t.store(_FINISHED, I32(0))
    epoch = b.add(t.load(_EPOCH, I32), I32(1))
    t.store(_CLAIM, b.or_(b.shl(b.zext(epoch, I64), I64(32)), chunks), "seq_cst")
    sleepers = t.load(_SLEEPERS, I32, "seq_cst")
    wake, join = b.append_basic_block("wake"), b.append_basic_block("join")
    b.cbranch(b.icmp_unsigned("!=", sleepers, I32(0)), wake, join)
    b.position_at_end(wake)
    others = b.trunc(b.sub(chunks, I64(1)), I32)
    t.futex(_EPOCH, _WAKE_PRIVATE, others)
    b.branch(join)
    b.position_at_end(join)
    b.call(work, [team])

    def over() -> ir.Value:
        return b.icmp_unsigned("==", b.zext(t.load(_FINISHED, I32, "acquire"), I64), chunks)

    def sleep() -> None:
        t.store(_WAITING, I32(1), "seq_cst")
        finished = t.load(_FINISHED, I32, "seq_cst")
        unfinished, woken = b.append_basic_block("unfinished"), b.append_basic_block("woken")
        b.cbranch(b.icmp_unsigned("==", b.zext(finished, I64), chunks), woken, unfinished)
        b.position_at_end(unfinished)
        t.futex(_FINISHED, _WAIT_PRIVATE, finished)  # returns at once if another chunk was finished meanwhile
        b.branch(woken)
        b.position_at_end(woken)
        t.store(_WAITING, I32(0))

    t.watch(over, sleep)
    b.ret_void()
    return function
