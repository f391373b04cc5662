# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""The memory that a thread team shares and what compiled code does with it: atomic accesses, system calls, time."""

from __future__ import annotations

from llvmlite import ir
from llvmlite.ir.instructions import StoreAtomicInstr

from ingot.compiler.targets.cpu import declarations
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.functions import I32, I64, PTR

CLAIM, EPOCH = 0, 4  # u64, and its upper half as a futex word
FUNCTION, ARGS, CHUNKS = 64, 72, 80  # the job; a line of its own, written once a region
FINISHED, WAITING = 128, 132  # u32 each: chunks finished, whether the leader sleeps
SLEEPERS, STOP, RESTING = 192, 196, 200  # u32 each
WORKERS, SYSCALL, STARTED = 256, 264, 272  # constant after the start
PROCESSOR, GATHERED = 320, 324  # u32 each: where the leader ran last, whether it has moved workers
LEADER = 384  # what a thread says of itself is in its slot: this is the leader's,
SLOTS = 512  # and from here on are the workers'
SLOT_BYTES, MOST_SLOTS = 256, 64
SHARED = SLOTS + SLOT_BYTES * MOST_SLOTS  # that of all further ones, which nobody reads
BUSY, PLACE, RAN, THREAD, MOVED, MASK = 0, 4, 8, 64, 68, 128  # u32, u32, u64, u32, u32, and bits of processors
MASK_BYTES = 128
SIZE = SHARED + SLOT_BYTES

# Numbers of Linux's system calls.
_NUMBERS = {
    "x86-64": {"futex": 202, "gettid": 186, "getcpu": 309, "sched_setaffinity": 203, "sched_getaffinity": 204},
    "aarch64": {"futex": 98, "gettid": 178, "getcpu": 168, "sched_setaffinity": 122, "sched_getaffinity": 123},
}
WAIT_PRIVATE, WAKE_PRIVATE = 128, 129
_SPIN_CYCLES = 80_000  # of the time stamp counter, which runs at 2 to 4 GHz
_SPIN_ROUNDS = 10_000  # where reading the time may trap


class TeamMemory:
    """One function of the team under construction, with the pointer to the team's memory."""

    def __init__(self, function: ir.Function, team: ir.Value, level: Level) -> None:
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.team, self.level = team, level
        self.module = function.module

    @property
    def has_clock(self) -> bool:
        """Whether `clock` counts."""
        return self.level.arch == "x86-64"

    def at(self, offset: int | ir.Value) -> ir.Value:
        """The address of byte `offset`."""
        return self.within(self.team, offset)

    def within(self, start: ir.Value, offset: int | ir.Value) -> ir.Value:
        """The address of byte `offset` from `start`."""
        place = I64(offset) if isinstance(offset, int) else offset
        return self.b.gep(start, [place], source_etype=ir.IntType(8))

    def load(self, offset: int, type_: ir.Type, ordering: str = "monotonic") -> ir.Value:
        """An atomic load."""
        return self.load_from(self.at(offset), type_, ordering)

    def load_from(self, address: ir.Value, type_: ir.Type, ordering: str = "monotonic") -> ir.Value:
        """An atomic load."""
        return self.b.load_atomic(address, ordering, align=_bytes(type_), typ=type_)

    def store(self, offset: int, value: ir.Value, ordering: str = "monotonic") -> None:
        """An atomic store."""
        self.store_to(self.at(offset), value, ordering)

    def store_to(self, address: ir.Value, value: ir.Value, ordering: str = "monotonic") -> None:
        """An atomic store."""
        # The builder's own method does not know opaque pointers.
        b = self.b
        b._insert(StoreAtomicInstr(b.block, value, address, ordering, _bytes(value.type)))

    def add(self, offset: int, value: int) -> ir.Value:
        """Add to a u32; the value before."""
        return self.b.atomic_rmw("add", self.at(offset), I32(value), "seq_cst")

    def system(self, name: str, *arguments: ir.Value) -> ir.Value:
        """A system call through libc's ``syscall``: the i64 that it returns, -1 where it failed."""
        function = self.b.load(self.at(SYSCALL), typ=PTR, align=8)
        number = I64(_NUMBERS[self.level.arch][name])
        return self.b.call(Callee(function, ir.FunctionType(I64, [I64], var_arg=True)), [number, *arguments])

    def wait(self, offset: int, value: ir.Value, timeout: ir.Value | None = None) -> None:
        """Sleep while the u32 at `offset` is `value`, until `wake` is called or `timeout` (timespec) is over."""
        none = ir.Constant(PTR, None)
        operation, value = I64(WAIT_PRIVATE), self.b.zext(value, I64)
        self.system("futex", self.at(offset), operation, value, none if timeout is None else timeout, none, I64(0))

    def wake(self, offset: int, count: ir.Value) -> None:
        """Wake `count` of those that sleep on the u32 at `offset`."""
        none = ir.Constant(PTR, None)
        self.system("futex", self.at(offset), I64(WAKE_PRIVATE), self.b.zext(count, I64), none, none, I64(0))

    def pause(self) -> None:
        """A hint that this is a loop that waits."""
        if self.level.arch == "x86-64":
            declarations.call(self.b, "llvm.x86.sse2.pause", ir.VoidType(), [])
        else:
            declarations.call(self.b, "llvm.aarch64.hint", ir.VoidType(), [I32(1)])

    def clock(self) -> ir.Value:
        """A counter of 2 to 4 GHz; 0 where there is none that may be read."""
        if self.has_clock:
            return declarations.call(self.b, "llvm.readcyclecounter", I64, [])
        return I64(0)

    def spun(self, start: ir.Value, rounds: ir.Value) -> ir.Value:
        """i1: whether enough time was spent watching since `start`, after so many rounds."""
        if self.has_clock:
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

    def when(self, condition: ir.Value, then) -> None:
        """``then()`` if an i1 holds."""
        b = self.b
        yes, on = b.append_basic_block("yes"), b.append_basic_block("on")
        b.cbranch(condition, yes, on)
        b.position_at_end(yes)
        then()
        b.branch(on)
        b.position_at_end(on)


class Callee:
    """A pointer called as a function of the given type."""

    def __init__(self, pointer: ir.Value, function_type: ir.FunctionType) -> None:
        self.type = pointer.type
        self.function_type = function_type
        self._pointer = pointer

    def get_reference(self) -> str:
        return self._pointer.get_reference()


def _bytes(type_: ir.Type) -> int:
    return type_.width // 8 if isinstance(type_, ir.IntType) else 8
