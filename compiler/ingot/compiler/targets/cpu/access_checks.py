# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""Bounds checks in the code of a kernel, put in when all of it has been emitted.

Working on instructions instead of in the emitters leaves none out: every instruction that touches memory is looked at,
whoever emitted it, and one whose address cannot be traced to a buffer or to an array on the stack is refused. An
address is traced through the arithmetic on it and through the phis of loops that carry it.

A check compares the bytes that an access touches with the whole storage that its buffer is bound to (for a masked
access from its first active lane to the last). An access that fails goes to a place on the stack that holds zeros
instead, so that it is not performed, and is noted there; the kernel ends by storing the note in the status. There is no
branch on the way, so blocks and phis stay as they are. Prefetches touch nothing and are not checked.

Accesses of one basic block whose addresses are constants apart are checked by the first of them, from the lowest to the
highest: all of them are performed, or none, and one of the two ends is at fault. The tile of a product makes hundreds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from llvmlite import ir

from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.routines import RoutineCall
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import declarations, flow
from ingot.compiler.targets.cpu.checked import FIRST, STATUS, extent_dim, own_buffers, start_dim
from ingot.compiler.targets.cpu.functions import I8, I32, I64, PTR
from ingot.compiler.targets.cpu.routine import routine_symbol
from ingot.runtime.checked import FOUND, PLACE_LIMIT, PLACE_SHIFT
from ingot.runtime.dtypes import DType

_MASKED_LOAD, _MASKED_STORE, _PREFETCH = "llvm.masked.load.", "llvm.masked.store.", "llvm.prefetch."
_GUARDED = "ingot_guarded_"
_TRASH, _NOTE = 0, 2  # words of the record: number and element of an access inside, of one outside


_Origin: TypeAlias = tuple[int, tuple[tuple[int, int], ...]]
"""A value, by its id, and the indices that are added to it, each by its id and the bytes of an element."""


@dataclass(frozen=True, eq=False)
class _Room:
    """What addresses derived from `root` may touch: `extent` bytes from `start` bytes before it on. A violation has
    this number, its place is given in units of ``1 << shift`` bytes."""

    root: ir.Value
    number: int
    shift: int
    start: ir.Value
    extent: ir.Value


def check_accesses(
    function: ir.Function,
    kernel: Kernel,
    buffers: Mapping[str, tuple[ir.Value, DType]],
    dims: Mapping[str, ir.Value],
) -> None:
    """Put a check before every access of memory in `function`, the code of the checked kernel `kernel`, whose
    parameters are the values `buffers` and `dims`.

    Raises IrError for a kernel that is not a checked one, for an address of unknown origin and for a call that is given
    addresses and is not known.
    """
    _Checks(function, kernel, buffers, dims).run()


class _Checks:
    def __init__(
        self,
        function: ir.Function,
        kernel: Kernel,
        buffers: Mapping[str, tuple[ir.Value, DType]],
        dims: Mapping[str, ir.Value],
    ) -> None:
        self.function, self.module = function, function.module
        self.kernel, self.buffers, self.dims = kernel, buffers, dims
        self.own = own_buffers(kernel)
        self.free = {id(function.args[0]), id(buffers[STATUS][0])}  # laid out by the compiler itself
        self.rooms: dict[int, _Room] = {}
        self.roots: dict[int, ir.Value] = {}
        self.widest = 1
        self.b = ir.IRBuilder(function.entry_basic_block)

    def run(self) -> None:
        entry = self.function.entry_basic_block
        emitted = [(block, list(block.instructions)) for block in self.function.blocks]
        first = list(entry.instructions)
        entry.instructions.clear()
        self.b.position_at_end(entry)
        self.record = self.b.alloca(I64, 4)
        self.record.type = PTR
        self.b.store(ir.Constant(ir.VectorType(I64, 4), [I64(0)] * 4), self.record, align=8)
        self.elsewhere = self.b.alloca(I8, 1)  # as large as the largest access; known at the end
        self.elsewhere.type, self.elsewhere.align = PTR, 64
        clear = self.b.store(I8(0), self.elsewhere, align=8)
        self._define_rooms(first)
        for block, instructions in emitted:
            if block is not entry:
                block.instructions.clear()
            else:
                instructions = [i for i in first if id(i) not in self.moved]
            self._survey(instructions)
            for instruction in instructions:
                self.b.position_at_end(block)
                self._instruction(instruction)
                block.instructions.append(instruction)
        size = -(-self.widest // 64) * 64
        self.elsewhere.operands = [I32(size)]
        kind = ir.VectorType(I8, size)
        clear.operands = [ir.Constant(kind, [I8(0)] * size), clear.operands[1]]

    def _define_rooms(self, entry: list[ir.Instruction]) -> None:
        """The parameters and what is known of them stand at the very front: they are needed wherever a buffer is."""
        wanted = [pointer for pointer, _ in self.buffers.values()] + list(self.dims.values())
        needed = {id(value) for value in wanted} | {id(i.operands[0]) for i in wanted if isinstance(i, ir.LoadInstr)}
        self.moved = {id(i) for i in entry if id(i) in needed}
        self.b.block.instructions += [i for i in entry if id(i) in needed]
        self.b.position_at_end(self.b.block)
        for i, buffer in enumerate(self.own):
            pointer, dtype = self.buffers[buffer.name]
            size, shift = I64(dtype.bytes), dtype.bytes.bit_length() - 1
            start = self.b.mul(self.dims[start_dim(buffer.name)], size)
            extent = self.b.mul(self.dims[extent_dim(buffer.name)], size)
            self.rooms[id(pointer)] = _Room(pointer, i + 1, shift, start, extent)

    # -- where an address comes from ----------------------------------------------------------------------------------

    def _root(self, address: ir.Value) -> ir.Value:
        """The buffer, the array or the argument table that `address` is computed from."""
        known = self.roots.get(id(address))
        if known is None:
            found: dict[int, ir.Value] = {}
            self._collect(address, found, set())
            if len(found) != 1:
                raise IrError(f"an address comes from {len(found)} different places: it cannot be checked")
            known = self.roots[id(address)] = next(iter(found.values()))
        return known

    def _collect(self, address: ir.Value, found: dict[int, ir.Value], seen: set[int]) -> None:
        while isinstance(address, ir.GEPInstr):
            address = address.pointer
        if id(address) in seen:
            return
        seen.add(id(address))
        if isinstance(address, ir.PhiInstr):
            for value, _ in address.incomings:
                self._collect(value, found, seen)
        elif isinstance(address, ir.SelectInstr):
            self._collect(address.lhs, found, seen)
            self._collect(address.rhs, found, seen)
        elif isinstance(address, ir.AllocaInstr) or id(address) in self.free or id(address) in self.rooms:
            found[id(address)] = address
        else:
            raise IrError(f"an address comes from {str(address).strip()[:100]!r}: it cannot be checked")

    def _room(self, address: ir.Value) -> _Room | None:
        """What may be touched through `address`; None for what is not checked."""
        root = self._root(address)
        if id(root) in self.free:
            return None
        room = self.rooms.get(id(root))
        if room is None:  # an array on the stack
            count = root.operands[0].constant if root.operands else 1
            element = size_of(root.allocated_type)
            shift = (element & -element).bit_length() - 1
            room = _Room(root, len(self.own) + 1, shift, I64(0), I64(element * count))
            self.rooms[id(root)] = room
        return room

    # -- instructions -------------------------------------------------------------------------------------------------

    def _instruction(self, instruction: ir.Instruction) -> None:
        match instruction:
            case ir.LoadInstr():
                self._access(instruction, 0, size_of(instruction.type))
            case ir.StoreInstr():
                self._access(instruction, 1, size_of(instruction.operands[0].type))
            case ir.CallInstr():
                self._call(instruction)
            case ir.Ret():
                self._report()
            case ir.GEPInstr() | ir.PhiInstr() | ir.SelectInstr() | ir.AllocaInstr():
                pass
            case _:
                if any(isinstance(value.type, ir.PointerType) for value in instruction.operands):
                    raise IrError(f"the instruction {instruction.opname} takes an address: it cannot be checked")

    def _survey(self, instructions: list[ir.Instruction]) -> None:
        """What the loads and stores of a block touch from each origin on: all are performed if one is."""
        self.spans: dict[_Origin, tuple[int, int]] = {}
        self.inside: dict[_Origin, ir.Value] = {}
        for instruction in instructions:
            match instruction:
                case ir.LoadInstr():
                    address, type_ = instruction.operands[0], instruction.type
                case ir.StoreInstr():
                    address, type_ = instruction.operands[1], instruction.operands[0].type
                case _:
                    continue
            origin, start = _split(address)
            low, high = self.spans.get(origin, (start, start))
            self.spans[origin] = min(low, start), max(high, start + size_of(type_))

    def _access(self, instruction: ir.Instruction, operand: int, width: int) -> None:
        """The first of the block's accesses from one origin checks them all; none is performed if one fails."""
        operands = list(instruction.operands)
        room = self._room(operands[operand])
        if room is not None:
            b, (origin, start) = self.b, _split(operands[operand])
            if origin not in self.inside:
                low, high = self.spans[origin]
                first = b.add(self._place(operands[operand], room), I64(low - start))
                self.inside[origin] = self._checked(room, first, b.add(first, I64(high - low)))
            operands[operand] = self._elsewhere_unless(self.inside[origin], operands[operand], width)
            instruction.operands = operands

    def _call(self, call: ir.CallInstr) -> None:
        if not any(isinstance(value.type, ir.PointerType) for value in call.args):
            return
        name = getattr(call.callee, "name", "")
        if name.startswith(_MASKED_LOAD):
            self._masked(call, 0, call.args[2], call.type)
        elif name.startswith(_MASKED_STORE):
            self._masked(call, 1, call.args[3], call.args[0].type)
        elif isinstance(self.kernel.body, RoutineCall) and name == routine_symbol(self.kernel.body.routine):
            self._routine(call)
        elif not name.startswith(_PREFETCH):
            raise IrError(f"a call of {name or 'unknown code'} is given an address: it cannot be checked")

    def _masked(self, call: ir.CallInstr, argument: int, mask: ir.Value, type_: ir.VectorType) -> None:
        """Lanes outside the mask touch nothing."""
        b, arguments = self.b, list(call.args)
        room = self._room(arguments[argument])
        if room is None:
            return
        lanes, element = type_.count, size_of(type_.element)
        word = ir.IntType(lanes)
        bits = b.bitcast(mask, word)
        low = self._place(arguments[argument], room)
        high = b.add(low, b.mul(b.sub(I64(lanes), self._count("ctlz", bits)), I64(element)))
        low = b.add(low, b.mul(self._count("cttz", bits), I64(element)))
        inside = self._checked(room, low, high, b.icmp_unsigned("==", bits, word(0)))
        arguments[argument] = self._elsewhere_unless(inside, arguments[argument], lanes * element)
        call.operands = [call.callee, *arguments]

    def _routine(self, call: ir.CallInstr) -> None:
        """A call of a custom operator's function, which is left out unless all its arrays are inside. An array's
        address follows on its number of elements and their size (`routine`)."""
        b, inside = self.b, ir.IntType(1)(1)
        for i, value in enumerate(call.args):
            if not isinstance(value.type, ir.PointerType) or isinstance(value, ir.Constant):
                continue
            room = self._room(value)
            if room is not None and not isinstance(room.root, ir.AllocaInstr):
                low = self._place(value, room)
                size = b.mul(call.args[i - 2], call.args[i - 1])
                empty = b.icmp_signed("<=", size, I64(0))
                inside = b.and_(inside, self._checked(room, low, b.add(low, size), empty))
        call.operands = [self._guarded(call.callee), inside, *call.args]

    def _guarded(self, callee: ir.Function) -> ir.Function:
        """``callee`` behind an i1: where that is 0, nothing is done and 0 is the result."""
        kind = callee.function_type
        function = ir.Function(self.module, ir.FunctionType(kind.return_type, [ir.IntType(1), *kind.args]), _GUARDED)
        function.linkage = "internal"
        b = ir.IRBuilder(function.append_basic_block("entry"))
        called, refused = function.append_basic_block("called"), function.append_basic_block("refused")
        b.cbranch(function.args[0], called, refused)
        b.position_at_end(called)
        b.ret(b.call(callee, function.args[1:]))
        b.position_at_end(refused)
        b.ret(kind.return_type(0))
        return function

    # -- checks -------------------------------------------------------------------------------------------------------

    def _place(self, address: ir.Value, room: _Room) -> ir.Value:
        """The first byte that `address` stands for, counted from the beginning of the storage."""
        b = self.b
        return b.add(b.sub(b.ptrtoint(address, I64), b.ptrtoint(room.root, I64)), room.start)

    def _checked(self, room: _Room, low: ir.Value, high: ir.Value, empty: ir.Value | None = None) -> ir.Value:
        """Whether the bytes low .. high are in the room, or none at all; it is noted if they are not."""
        b = self.b
        inside = b.and_(b.icmp_signed(">=", low, I64(0)), b.icmp_signed("<=", high, room.extent))
        inside = b.and_(inside, b.icmp_signed("<=", low, high))  # where the sum that made `high` overflows
        if empty is not None:
            inside = b.or_(inside, empty)
        outermost = b.select(b.icmp_signed("<", low, I64(0)), low, b.sub(high, I64(1)))
        note = b.gep(self.record, [b.select(inside, I64(_TRASH), I64(_NOTE))], source_etype=I64)
        b.store(I64(room.number), note, align=8)
        b.store(b.ashr(outermost, I64(room.shift)), b.gep(note, [I64(1)], source_etype=I64), align=8)
        return inside

    def _elsewhere_unless(self, inside: ir.Value, address: ir.Value, width: int) -> ir.Value:
        self.widest = max(self.widest, width)
        return self.b.select(inside, address, self.elsewhere)

    def _count(self, name: str, bits: ir.Value) -> ir.Value:
        """Zeros at one end of an integer, as i64; all of its bits for 0."""
        b, word = self.b, bits.type
        count = declarations.call(b, f"llvm.{name}.i{word.width}", word, [bits, ir.IntType(1)(0)])
        if word.width == 64:
            return count
        return b.zext(count, I64) if word.width < 64 else b.trunc(count, I64)

    def _report(self) -> None:
        """Store what was noted, if anything was, in the status."""
        b = self.b
        note = b.gep(self.record, [I64(_NOTE)], source_etype=I64)
        number = b.load(note, typ=I64, align=8)
        place = b.load(b.gep(note, [I64(1)], source_etype=I64), typ=I64, align=8)
        place = flow.maximum(b, flow.minimum(b, place, I64(PLACE_LIMIT)), I64(-PLACE_LIMIT))
        fault = b.add(self.dims[FIRST], b.sub(number, I64(1)))
        word = b.or_(b.shl(place, I64(PLACE_SHIFT)), b.or_(fault, I64(FOUND)))
        found = b.icmp_signed("!=", number, I64(0))
        b.store(word, b.select(found, self.buffers[STATUS][0], self.record), align=8)


def _split(address: ir.Value) -> tuple[_Origin, int]:
    """Where an address is computed from, equal for addresses that are a constant apart, and the bytes from there on."""
    start, moving = 0, []
    while isinstance(address, ir.GEPInstr) and len(address.indices) == 1:
        element, index = address.source_etype, address.indices[0]
        padded = element.width not in (8, 16, 32, 64) if isinstance(element, ir.IntType) else False
        if padded or isinstance(element, ir.VectorType):
            break  # these may lie further apart than they are large
        while getattr(index, "opname", "") == "add" and isinstance(index.operands[1], ir.Constant):
            start += index.operands[1].constant * size_of(element)
            index = index.operands[0]
        if isinstance(index, ir.Constant):
            start += index.constant * size_of(element)
        else:
            moving.append((id(index), size_of(element)))
        address = address.pointer
    return (id(address), tuple(sorted(moving))), start


def size_of(type_: ir.Type) -> int:
    """Bytes that an access of a value of this type touches."""
    match type_:
        case ir.VectorType():
            return type_.count * size_of(type_.element)
        case ir.IntType():
            return -(-type_.width // 8)
        case ir.HalfType():
            return 2
        case ir.FloatType():
            return 4
        case ir.DoubleType() | ir.PointerType():
            return 8
        case _:
            raise IrError(f"values of type {type_} are not known in memory: they cannot be checked")
