# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""Workers that have no processor of their own because another process takes it, and what a team does about them.

- A worker that is preempted with a chunk holds it until its turn comes again, milliseconds later, and the leader waits
  with a processor that has nothing to do. Once it has waited out of proportion it moves such workers to its own
  processor (sched_setaffinity, taken back when the region is over) and sleeps: they finish at once what they hold.
  Only where cycles can be counted: not on AArch64.
- A worker that wakes up on the leader's processor runs instead of the leader. It moves to another one; where it may use
  no other it goes back to sleep, and while there is work it looks again every now and then.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ingot.compiler.targets.cpu import team_memory as layout
from ingot.compiler.targets.cpu.emit import forbid_libraries
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import stack
from ingot.compiler.targets.cpu.functions import I32, I64, PTR
from ingot.compiler.targets.cpu.team_memory import TeamMemory

_SECOND = 1_000_000_000
_REST = 2_000_000  # ns until a worker that is in the leader's way looks again: a try costs the leader some 5 us
_STALL_CYCLES = 150_000  # some 50 us: less than that is no reason
_STALL_CHUNKS = 4  # times what the leader took for one of its chunks


class Stalls:
    """What the leader knows of one region: when it began, and when it ran out of chunks."""

    def __init__(self, t: TeamMemory, gather: ir.Function, scatter: ir.Function) -> None:
        self.t, self.gather, self.scatter = t, gather, scatter
        self.time = stack(t.b, I64, 2)

    def begin(self) -> None:
        """The region is about to be published."""
        self.start = self.t.clock()

    def ran_out(self) -> None:
        """The leader has no further chunk and begins to wait."""
        t, b = self.t, self.t.b
        self.left = t.clock()
        ran = b.load(t.at(layout.LEADER + layout.RAN), typ=I64, align=8)
        chunk = b.udiv(b.sub(self.left, self.start), b.add(ran, I64(1)))
        proportionate, floor = b.mul(chunk, I64(_STALL_CHUNKS)), I64(_STALL_CYCLES)
        self.usual = b.select(b.icmp_unsigned(">", proportionate, floor), proportionate, floor)

    def help(self) -> None:
        """The leader is about to sleep: if it has waited for too long, move who holds it up."""
        t, b = self.t, self.t.b
        if t.has_clock:
            late = b.icmp_unsigned(">", b.sub(t.clock(), self.left), self.usual)
            still = b.icmp_unsigned("==", t.load(layout.GATHERED, I32), I32(0))
            t.when(b.and_(late, still), lambda: b.call(self.gather, [t.team]))

    def timeout(self) -> ir.Value:
        """How long it may sleep before it looks again (a timespec): without end once all is done that can be."""
        t, b = self.t, self.t.b
        none = ir.Constant(PTR, None)
        if not t.has_clock:
            return none
        given = timespec(t, self.time, b.lshr(self.usual, I64(1)))
        return b.select(b.icmp_unsigned("!=", t.load(layout.GATHERED, I32), I32(0)), none, given)

    def over(self) -> None:
        """The region is: give back what was moved."""
        t, b = self.t, self.t.b
        t.when(b.icmp_unsigned("!=", t.load(layout.GATHERED, I32), I32(0)), lambda: b.call(self.scatter, [t.team]))


def timespec(t: TeamMemory, memory: ir.Value, nanoseconds: ir.Value) -> ir.Value:
    """`memory`, with so much time in it."""
    b = t.b
    b.store(b.udiv(nanoseconds, I64(_SECOND)), memory, align=8)
    b.store(b.urem(nanoseconds, I64(_SECOND)), t.within(memory, 8), align=8)
    return memory


def tell_processor(t: TeamMemory) -> None:
    """The leader writes down where it runs."""
    null = ir.Constant(PTR, None)
    t.system("getcpu", t.at(layout.PROCESSOR), null, null)


class Place:
    """Where a worker runs: not where the leader does, or it keeps the leader from working instead of helping it."""

    def __init__(self, t: TeamMemory, slot: ir.Value) -> None:
        self.t, self.slot, self.time = t, slot, stack(t.b, I64, 2)
        self.allowed, self.others = (stack(t.b, I64, layout.MASK_BYTES // 8) for _ in range(2))

    def make_way(self) -> None:
        """Leave the leader's processor. Where there is no other, rest for as long as there are regions, or until the
        team is stopped."""
        t, b = self.t, self.t.b
        look, leave, rest, done = (b.append_basic_block(name) for name in ("place", "leave", "rest", "placed"))
        b.branch(look)
        b.position_at_end(look)
        null = ir.Constant(PTR, None)
        mine = t.within(self.slot, layout.PLACE)
        t.system("getcpu", mine, null, null)
        same = b.icmp_unsigned("==", t.load_from(mine, I32), t.load(layout.PROCESSOR, I32))
        going = b.icmp_unsigned("==", t.load(layout.STOP, I32, "seq_cst"), I32(0))
        b.cbranch(b.and_(same, going), leave, done)
        b.position_at_end(leave)
        b.cbranch(self._left(), done, rest)
        b.position_at_end(rest)
        before = t.load(layout.CLAIM, I64)
        t.add(layout.RESTING, 1)
        t.wait(layout.STOP, I32(0), timespec(t, self.time, I64(_REST)))
        t.add(layout.RESTING, -1)
        after = t.load(layout.CLAIM, I64)
        unclaimed = b.icmp_unsigned("!=", b.and_(after, I64(0xFFFFFFFF)), I64(0))
        b.cbranch(b.or_(unclaimed, b.icmp_unsigned("!=", after, before)), look, done)
        b.position_at_end(done)


    def _left(self) -> ir.Value:
        """i1: whether there is another processor, to which the worker is moved; it may run again where it could."""
        t, b, size = self.t, self.t.b, I64(layout.MASK_BYTES)
        me, processor = I64(0), b.zext(t.load(layout.PROCESSOR, I32), I64)
        for place in range(0, layout.MASK_BYTES, 8):
            b.store(I64(0), t.within(self.allowed, place), align=8)
        read = t.system("sched_getaffinity", me, size, self.allowed)
        for place in range(0, layout.MASK_BYTES, 8):
            b.store(b.load(t.within(self.allowed, place), typ=I64, align=8), t.within(self.others, place), align=8)
        word = t.within(self.others, _word(t, processor))
        bit = b.shl(I64(1), b.and_(processor, I64(63)))
        b.store(b.and_(b.load(word, typ=I64, align=8), b.not_(bit)), word, align=8)
        gone = b.icmp_signed("==", t.system("sched_setaffinity", me, size, self.others), I64(0))
        t.system("sched_setaffinity", me, size, self.allowed)
        return b.and_(b.icmp_signed(">", read, I64(0)), gone)


def _word(t: TeamMemory, processor: ir.Value) -> ir.Value:
    """The byte of the word of a mask that has a processor's bit."""
    b = t.b
    return b.shl(b.and_(b.lshr(processor, I64(6)), I64(layout.MASK_BYTES // 8 - 1)), I64(3))


def introduce(t: TeamMemory) -> ir.Value:
    """The slot of the worker that runs this, with its number among threads."""
    b = t.b
    index = b.zext(t.add(layout.STARTED, 1), I64)
    own = t.at(b.add(b.mul(index, I64(layout.SLOT_BYTES)), I64(layout.SLOTS)))
    slot = b.select(b.icmp_unsigned("<", index, I64(layout.MOST_SLOTS)), own, t.at(layout.SHARED))
    t.store_to(t.within(slot, layout.THREAD), b.trunc(t.system("gettid"), I32))
    return slot


def emit_gather(module: ir.Module, level: Level) -> ir.Function:
    """``void gather(team)``: workers that hold a chunk go to the caller's processor, if they may run there."""
    t = _function(module, "ingot_gather", level)
    b = t.b
    here = stack(b, I64, layout.MASK_BYTES // 8)
    t.store(layout.GATHERED, I32(1))
    tell_processor(t)
    processor = b.zext(t.load(layout.PROCESSOR, I32), I64)
    word = _word(t, processor)
    bit = b.shl(I64(1), b.and_(processor, I64(63)))
    for place in range(0, layout.MASK_BYTES, 8):
        b.store(I64(0), t.within(here, place), align=8)
    b.store(bit, t.within(here, word), align=8)

    def move(slot: ir.Value) -> None:
        thread, mask = b.zext(t.load_from(t.within(slot, layout.THREAD), I32), I64), t.within(slot, layout.MASK)
        # Fails where there are more processors than bits: then it stays where it is.
        read = t.system("sched_getaffinity", thread, I64(layout.MASK_BYTES), mask)
        there = b.and_(b.load(t.within(mask, word), typ=I64, align=8), bit)

        def go() -> None:
            b.store(I32(1), t.within(slot, layout.MOVED), align=4)
            t.system("sched_setaffinity", thread, I64(layout.MASK_BYTES), here)

        t.when(b.and_(b.icmp_signed(">", read, I64(0)), b.icmp_unsigned("!=", there, I64(0))), go)

    def each(slot: ir.Value) -> None:
        t.when(b.icmp_unsigned("!=", t.load_from(t.within(slot, layout.BUSY), I32), I32(0)), lambda: move(slot))

    _each_worker(t, each)
    return b.function


def emit_scatter(module: ir.Module, level: Level) -> ir.Function:
    """``void scatter(team)``: what `gather` moved may run again where it could before."""
    t = _function(module, "ingot_scatter", level)
    b = t.b
    t.store(layout.GATHERED, I32(0))

    def back(slot: ir.Value) -> None:
        b.store(I32(0), t.within(slot, layout.MOVED), align=4)
        thread = b.zext(t.load_from(t.within(slot, layout.THREAD), I32), I64)
        t.system("sched_setaffinity", thread, I64(layout.MASK_BYTES), t.within(slot, layout.MASK))

    def each(slot: ir.Value) -> None:
        moved = b.load(t.within(slot, layout.MOVED), typ=I32, align=4)
        t.when(b.icmp_unsigned("!=", moved, I32(0)), lambda: back(slot))

    _each_worker(t, each)
    return b.function


def _function(module: ir.Module, name: str, level: Level) -> TeamMemory:
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    forbid_libraries(function)
    return TeamMemory(function, function.args[0], level)


def _each_worker(t: TeamMemory, act: Callable[[ir.Value], None]) -> None:
    """``act(slot)`` for each worker that has a slot of its own, then return."""
    b = t.b
    begin = b.block
    look, body, done = (b.append_basic_block(name) for name in ("look", "each", "done"))
    b.branch(look)
    b.position_at_end(look)
    index = b.phi(I64)
    index.add_incoming(I64(0), begin)
    started = b.zext(t.load(layout.STARTED, I32), I64)
    there = b.and_(b.icmp_unsigned("<", index, started), b.icmp_unsigned("<", index, I64(layout.MOST_SLOTS)))
    b.cbranch(there, body, done)
    b.position_at_end(body)
    act(t.at(b.add(b.mul(index, I64(layout.SLOT_BYTES)), I64(layout.SLOTS))))
    index.add_incoming(b.add(index, I64(1)), b.block)
    b.branch(look)
    b.position_at_end(done)
    b.ret_void()
