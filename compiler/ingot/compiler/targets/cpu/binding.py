# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""Binding of symbols during the run: the checks, the memory of late storages, and the words that depend on them.

A word of the argument table that depends on bound symbols is computed at every bind of one of them at which the others
are bound as well, in program order: so it is right from the last of these binds on, and no step uses it before.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from llvmlite import ir

from ingot.compiler.ir.dims import UNBOUNDED, Dim, symbols
from ingot.compiler.ir.program import Bind, Program, Storage
from ingot.compiler.targets.cpu import declarations
from ingot.compiler.targets.cpu.dims import Checked, Wrapping
from ingot.compiler.targets.cpu.emit import forbid_libraries
from ingot.compiler.targets.cpu.functions import I32, I64, PTR
from ingot.compiler.targets.cpu.team_memory import Callee
from ingot.compiler.targets.cpu.words import Sizes, Word
from ingot.runtime import late as layout
from ingot.runtime.memory import ALIGNMENT
from ingot.runtime.tables import MAX_SIZE

I1 = ir.IntType(1)
ENLARGE, BIND = "ingot_enlarge", "ingot_bind"
_NULL = PTR(None)


class Binder:
    """Emits the binds of one function that walks the program; `stop` is where a run that has failed goes on.

    A bind is a function of its own, which all functions of the module that walk the program call: those whose names
    are the same from the first point on. They come to the binds in one order.
    """

    def __init__(self, b: ir.IRBuilder, program: Program, arguments: ir.Value, stop: ir.Block) -> None:
        self.b, self.program, self.arguments, self.stop = b, program, arguments, stop
        self.sizes = Sizes(program)
        self.known: set[str] = set()
        self.name = ".".join([BIND, *b.function.name.split(".")[1:]])
        self.count = 0

    def bind(self, step: Bind, address: ir.Value) -> None:
        """The symbol has the value at `address` from here on."""
        b = self.b
        self.known.add(step.symbol)
        name = f"{self.name}.{self.count}"
        self.count += 1
        function = b.module.globals.get(name)
        if function is None:
            function = _Bound(b.module, name, self.program, self.sizes, self.known).define(step)
        following = b.append_basic_block("bound")
        outcome = b.call(function, [self.arguments, address])
        b.cbranch(b.icmp_signed("!=", outcome, I32(0)), following, self.stop)
        b.position_at_end(following)


class _Bound:
    """``i32 name(arguments, address)``: a symbol has the value at the address, where the symbols `known` have theirs;
    0 where the run has failed, before or here."""

    def __init__(self, module: ir.Module, name: str, program: Program, sizes: Sizes, known: Set[str]) -> None:
        self.program, self.sizes, self.known = program, sizes, known
        self.numbers = {storage: i for i, storage in enumerate(sizes.late)}
        self.order = list(sizes.bound)
        self.enlarge = module.globals.get(ENLARGE) or _emit_enlarge(module)
        self.function = ir.Function(module, ir.FunctionType(I32, [PTR, PTR]), name)
        self.function.linkage = "internal"
        forbid_libraries(self.function)
        declarations.number_values(self.function)
        self.arguments, self.address = self.function.args
        self.b = b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.stop = b.append_basic_block("stop")
        with b.goto_block(self.stop):
            b.ret(I32(0))
        self.block = self._read(self.arguments, sizes.block, PTR)
        assert sizes.status is not None
        self.status = self._read(self.arguments, sizes.status, PTR)

    def _read(self, base: ir.Value, index: int, type_: ir.Type = I64) -> ir.Value:
        return self.b.load(self._at(base, index), typ=type_, align=8)

    def _at(self, base: ir.Value, index: int) -> ir.Value:
        return self.b.gep(base, [I64(index)], source_etype=I64)

    def _go_on_if(self, holds: ir.Value, failing: ir.Block) -> None:
        following = self.b.append_basic_block("bound")
        self.b.cbranch(holds, following, failing)
        self.b.position_at_end(following)

    def _faulty(self, number: int) -> ir.Block:
        """A block that reports a fault and ends the run."""
        block = self.b.append_basic_block("fault")
        with self.b.goto_block(block):
            self.b.store(I64(number), self.status, align=8)
            self.b.branch(self.stop)
        return block

    def define(self, step: Bind) -> ir.Function:
        """The function, complete."""
        b, sizes = self.b, self.sizes
        self._go_on_if(b.icmp_signed("==", b.load(self.status, typ=I64, align=8), I64(0)), self.stop)
        value = b.load(self.address, typ=I64, align=8)
        place = layout.value_word(len(sizes.late), self.order.index(step.symbol))
        b.store(value, self._at(self.block, place), align=8)
        low, high = self.program.ranges.get(step.symbol, (0, UNBOUNDED))
        inside = b.and_(b.icmp_signed(">=", value, I64(low)), b.icmp_signed("<=", value, I64(high)))
        self._go_on_if(inside, self._faulty(step.fault))
        late = [(storage, fault) for storage, fault in sizes.late.items() if self._is_due(step, symbols(storage.size))]
        words = [(number, word) for number, word, needs in sizes.depending if self._is_due(step, needs)]
        values = self._values([*(storage.size for storage, _ in late), *(word.dim for _, word in words)])
        for storage, fault in late:
            self._obtain(storage, fault, values)
        emitter = Wrapping(b, values)  # what overflows here belongs to a storage that there was no memory for
        for number, word in words:
            b.store(self._word(word, emitter), self._at(self.arguments, number), align=8)
        b.ret(I32(1))
        return self.function

    def _is_due(self, step: Bind, needs: Set[str]) -> bool:
        """Whether what needs these symbols can be computed here and not before."""
        return step.symbol in needs and needs & self.sizes.bound.keys() <= self.known

    def _values(self, dims: Iterable[Dim]) -> dict[str, ir.Value]:
        """The values of the symbols of `dims`."""
        names = {name for dim in dims for name in symbols(dim)}
        values = {name: self._read(self.arguments, word) for name, word in self.sizes.values.items() if name in names}
        for i, name in enumerate(self.order):
            if name in names:
                values[name] = self._read(self.block, layout.value_word(len(self.sizes.late), i))
        return values

    def _obtain(self, storage: Storage, fault: int, values: dict[str, ir.Value]) -> None:
        b, emitter = self.b, Checked(self.b, values)
        wanted = emitter.multiply(emitter.emit(storage.size), I64(storage.dtype.bytes))
        emitter.fail_if(b.icmp_unsigned(">", wanted, I64(MAX_SIZE)))
        record = self._at(self.block, layout.record_word(self.numbers[storage], layout.RECORD[0]))
        faulty = self._faulty(fault)
        shown = b.select(emitter.failed, I64(2**63 - 1), wanted)
        b.store(shown, self._at(record, layout.RECORD.index("wanted")), align=8)
        self._go_on_if(b.not_(emitter.failed), faulty)
        self._go_on_if(b.call(self.enlarge, [self.block, record, wanted]), faulty)

    def _word(self, word: Word, emitter: Wrapping) -> ir.Value:
        b, value = self.b, emitter.emit(word.dim)
        if word.storage is None:
            return value
        if word.storage in self.numbers:
            base = self._read(self.block, layout.record_word(self.numbers[word.storage], "address"))
        elif word.storage in self.sizes.bases:
            base = self._read(self.arguments, self.sizes.bases[word.storage])
        else:
            raise AssertionError("every storage that is pointed into has a base")
        return b.add(base, b.mul(value, I64(word.storage.dtype.bytes)))


def _emit_enlarge(module: ir.Module) -> ir.Function:
    """``i1 ingot_enlarge(block, record, i64 bytes)``: the storage of `record` has room for `bytes`, if there is memory.

    One that must grow gets half as much again, so that repeated growth costs little.
    """
    function = ir.Function(module, ir.FunctionType(I1, [PTR, PTR, I64]), ENLARGE)
    function.linkage = "internal"
    function.attributes.add("noinline")
    forbid_libraries(function)
    block, record, wanted = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    smaller, tight, obtain, refused, enough = (
        b.append_basic_block(name) for name in ("smaller", "tight", "obtain", "refused", "enough")
    )

    def at(base: ir.Value, fields: tuple[str, ...], name: str) -> ir.Value:
        return b.gep(base, [I64(fields.index(name))], source_etype=I64)

    def read(base: ir.Value, fields: tuple[str, ...], name: str, type_: ir.Type = I64) -> ir.Value:
        return b.load(at(base, fields, name), typ=type_, align=8)

    def rounded(size: ir.Value) -> ir.Value:
        return b.and_(b.add(size, I64(ALIGNMENT - 1)), I64(-ALIGNMENT))

    capacity = read(record, layout.RECORD, "capacity")
    least = rounded(b.select(b.icmp_signed(">", wanted, I64(1)), wanted, I64(1)))
    b.cbranch(b.icmp_signed("<=", least, capacity), enough, smaller)

    b.position_at_end(smaller)
    budget = b.add(read(block, layout.HEADER, "budget"), capacity)
    grows = b.icmp_signed(">", capacity, I64(0))
    more = b.select(grows, rounded(b.add(least, b.ashr(least, I64(1)))), least)
    chosen = b.select(b.icmp_signed("<=", more, budget), more, least)
    b.cbranch(b.icmp_signed("<=", chosen, budget), tight, refused)

    b.position_at_end(tight)
    release = Callee(read(block, layout.HEADER, "release", PTR), ir.FunctionType(ir.VoidType(), [PTR]))
    b.call(release, [read(record, layout.RECORD, "address", PTR)])
    b.store(_NULL, at(record, layout.RECORD, "address"), align=8)
    b.store(I64(0), at(record, layout.RECORD, "capacity"), align=8)
    b.store(budget, at(block, layout.HEADER, "budget"), align=8)
    allocate = Callee(read(block, layout.HEADER, "allocate", PTR), ir.FunctionType(PTR, [I64, I64]))
    memory = b.call(allocate, [I64(ALIGNMENT), chosen])
    b.cbranch(b.icmp_unsigned("==", memory, _NULL), refused, obtain)

    b.position_at_end(obtain)
    b.store(memory, at(record, layout.RECORD, "address"), align=8)
    b.store(chosen, at(record, layout.RECORD, "capacity"), align=8)
    b.store(b.sub(budget, chosen), at(block, layout.HEADER, "budget"), align=8)
    b.branch(enough)

    b.position_at_end(enough)
    b.ret(I1(1))
    b.position_at_end(refused)
    b.ret(I1(0))
    return function
