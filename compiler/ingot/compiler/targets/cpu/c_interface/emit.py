# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""The functions of a library for C as LLVM IR. The header (`header.py`) says what each is for.

`init` fills the caller's state, words of 64 bits: a mark and the state's own address, by which a state that was never
made or was moved is told, the status of a run, the entropy of random operators, the values that `sizes` computes, the
argument table of `ingot_run`, and the offsets of the table's words that point into inputs and outputs, to which `run`
adds their addresses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from ingot.compiler.ir.dims import Dim, deserialise, show, symbol
from ingot.compiler.ir.program import Program, Storage
from ingot.compiler.targets.cpu import flow, team
from ingot.compiler.targets.cpu.c_interface.memory import MemoryPlan, byte_size
from ingot.compiler.targets.cpu.c_interface.signature import (
    CODES,
    ERRORS,
    OK_MESSAGE,
    UNKNOWN_MESSAGE,
    Signature,
)
from ingot.compiler.targets.cpu.c_interface.tables import Tables
from ingot.compiler.targets.cpu.dims import Checked
from ingot.compiler.targets.cpu.emit import forbid_libraries
from ingot.compiler.targets.cpu.functions import I1, I8, I32, I64, PTR
from ingot.compiler.targets.cpu.program import argument_table
from ingot.compiler.targets.errors import TargetError
from ingot.runtime.manifest import RUN_SYMBOL, STOP_SYMBOL, TEAM_INIT_SYMBOL, WORKER_SYMBOL
from ingot.runtime.memory import ALIGNMENT
from ingot.runtime.tables import MAX_SIZE

WEIGHTS_SYMBOL = "ingot_weights"
MOST_WORKERS = 1 << 16

FUNCTIONS = (
    "input_count", "output_count", "symbol_count", "input", "output", "symbol", "input_dims", "output_dims", "plan",
    "init", "run", "error_message", "team_init", "worker", "team_stop",
)  # fmt: skip
"""The ends of the names of the functions that a library exports."""

_NULL = ir.Constant(PTR, None)
_MARK, _SELF, _STATUS, _ENTROPY, _VALUES = 0, 1, 2, 4, 6  # words of the state
_MOST_VALUES = 8192  # words on the stack of `plan`
_ABSOLUTE, _ARENA, _WEIGHTS, _STATE = range(4)  # what the words of the table are relative to


@dataclass(frozen=True)
class _Word:
    """A word of the argument table: `value` relative to a base; `port` is the input or output that it points into."""

    base: int
    value: Dim
    port: int | None = None


class CFunctions:
    """The functions of one library, for emission into `module`, which has the program already. `weights` gives the
    offsets of the weights' storages.

    Raises TargetError for a model that a library for C cannot hold.
    """

    def __init__(
        self, module: ir.Module, program: Program, signature: Signature, plan: MemoryPlan, weights: dict[Storage, int]
    ) -> None:
        self.module, self.signature, self.plan, self.program = module, signature, plan, program
        self.tables = Tables(module)
        self.starts = self._name_starts()
        self.value_count = self._place_values()
        self.words = self._list_words(weights)
        self.patches = [(number, word.port) for number, word in enumerate(self.words) if word.port is not None]
        digest = hashlib.sha256(repr((signature.model, len(self.words), self.value_count)).encode()).digest()
        self.mark = int.from_bytes(digest[:7], "little")
        self.state_bytes = 8 * (_VALUES + self.value_count + len(self.words) + len(self.patches))
        self.state_bytes += -self.state_bytes % ALIGNMENT

    # -- what is computed ---------------------------------------------------------------------------------------------

    def _name_starts(self) -> dict[Storage, Dim]:
        """Where temporaries begin in the arena: constants, and symbols of their own for what `sizes` computes."""
        prefix = "start"
        while any(each.name.startswith(prefix) for each in self.signature.symbols):
            prefix += "_"
        starts: dict[Storage, Dim] = {}
        ends: list[int | None] = []
        for number, place in enumerate(self.plan.places):
            below = [ends[index] for index in place.below]
            start = None if None in below else max((end for end in below if end is not None), default=0)
            ends.append(start + place.size if start is not None and isinstance(place.size, int) else None)
            starts[place.storage] = symbol(f"{prefix}{number}") if start is None else start
        return starts

    def _place_values(self) -> int:
        """Decide the order of what `sizes` computes, and count it: where temporaries begin, bytes of the arena, the
        largest number of chunks, then for each input and output (at `first_value`) its bytes and extents."""
        computed = [start for start in self.starts.values() if not isinstance(start, int)]
        self.start_names = [show(start) for start in computed]
        self.arena_value = len(computed)
        self.chunks_value = count = self.arena_value + 1
        self.first_value: list[int] = []
        for port in self.signature.ports:
            self.first_value.append(count + 1)
            count += 1 + len(port.shape)
        if count >= _MOST_VALUES:
            raise TargetError(
                f"a library for C holds at most {_MOST_VALUES} sizes of buffers, this model has {count}: "
                "fix some of the dims with --shape, or compile to an .ingot artifact"
            )
        return count + 1

    def _list_words(self, weights: dict[Storage, int]) -> list[_Word]:
        ports = {port.storage: number for number, port in enumerate(self.signature.ports)}
        words: list[_Word] = []
        for entry in argument_table(self.program, interruptible=False):
            match entry:
                case ["d", dim]:
                    words.append(_Word(_ABSOLUTE, deserialise(dim)))
                    continue
                case ["p", int() as index, element]:
                    storage = self.program.storages[index]
                case _:
                    raise TargetError(f"a library for C cannot hold this model: its code needs {entry[0]!r} words")
            offset = deserialise(element) * storage.dtype.bytes
            match storage.kind:
                case "input" | "output":
                    words.append(_Word(_ABSOLUTE, offset, ports[storage]))
                case "weight":
                    words.append(_Word(_WEIGHTS, offset + weights[storage]))
                case "status":
                    words.append(_Word(_STATE, offset + 8 * _STATUS))
                case "entropy":
                    words.append(_Word(_STATE, offset + 8 * _ENTROPY))
                case "temp":
                    words.append(_Word(_ARENA, offset + self.starts[storage]))
        return words

    # -- emission -----------------------------------------------------------------------------------------------------

    def emit(self) -> None:
        """Define everything."""
        self._emit_counts()
        self.sizes = self._emit_sizes()
        self._emit_dims("input", 0, len(self.signature.inputs))
        self._emit_dims("output", len(self.signature.inputs), len(self.signature.outputs))
        self._emit_plan()
        self._emit_init()
        self._emit_run()
        self._emit_messages()
        self._emit_team()

    def _define(self, name: str, result: ir.Type, arguments: Sequence[ir.Type], linkage: str = "") -> _Body:
        function = ir.Function(self.module, ir.FunctionType(result, arguments), name)
        function.linkage = linkage
        forbid_libraries(function)
        return _Body(function)

    def _export(self, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> _Body:
        return self._define(f"{self.signature.prefix}_{name}", result, arguments)

    def _emit_counts(self) -> None:
        signature = self.signature
        for name, rows, size, table in (
            ("input", signature.inputs, 24, self.tables.tensors(signature.inputs)),
            ("output", signature.outputs, 24, self.tables.tensors(signature.outputs)),
            ("symbol", signature.symbols, 24, self.tables.symbols(signature.symbols)),
        ):
            body = self._export(f"{name}_count", I32, [])
            body.b.ret(I32(len(rows)))
            body = self._export(name, PTR, [I32])
            b, (index,) = body.b, body.arguments
            fits = b.icmp_unsigned("<", index, I32(len(rows)))
            offset = b.mul(b.zext(index, I64), I64(size))
            b.ret(b.select(fits, b.gep(table, [offset], source_etype=I8), _NULL))

    def _emit_sizes(self) -> ir.Function:
        """``i32 sizes(i64 *symbols, i64 *values)``"""
        signature = self.signature
        body = self._define("sizes", I32, [PTR, PTR], "internal")
        b, (given, values) = body.b, body.arguments
        if signature.symbols:
            body.require(b.icmp_unsigned("!=", given, _NULL), "ERROR_ARGUMENT")
        known: dict[str, ir.Value] = {}
        inside: ir.Value = I1(1)
        for number, each in enumerate(signature.symbols):
            value = known[each.name] = body.load(given, number)
            inside = b.and_(inside, b.icmp_signed(">=", value, I64(each.low)))
            inside = b.and_(inside, b.icmp_signed("<=", value, I64(each.high)))
        body.require(inside, "ERROR_SYMBOL")
        checked = Checked(b, known)
        sizes = dict.fromkeys(byte_size(storage) for storage in self.program.storages)
        for size in sizes:
            _emit_size(checked, size)
        self._emit_places(body, checked, values)
        chunks = dict.fromkeys(launch.chunks for launch in self.program.launches())
        body.store(values, self.chunks_value, _largest(b, [I64(1), *(_emit_size(checked, each) for each in chunks)]))
        for first, port in zip(self.first_value, self.signature.ports, strict=True):
            for number, dim in enumerate((byte_size(port.storage), *port.shape), first):
                body.store(values, number, _emit_size(checked, dim))
        body.require(b.not_(checked.failed), "ERROR_SHAPE")
        b.ret(I32(0))
        return body.function

    def _emit_places(self, body: _Body, checked: Checked, values: ir.Value) -> None:
        """Store where temporaries begin, as far as that is to be computed, and the bytes of the arena."""
        ends: list[ir.Value] = []
        count = 0
        for place in self.plan.places:
            start = self.starts[place.storage]
            if isinstance(start, int):
                begin: ir.Value = I64(start)
            else:
                begin = _largest(body.b, [ends[index] for index in place.below])
                body.store(values, count, begin)
                count += 1
            size = _emit_size(checked, place.size)
            # Two values of at most 2**56: the sum is checked before it is part of another.
            ends.append(body.b.add(begin, size))
            _check_size(checked, ends[-1])
        body.store(values, self.arena_value, _largest(body.b, [I64(0), *ends]))

    def _sizes_on_stack(self, body: _Body, symbols: ir.Value) -> ir.Value:
        values = flow.stack(body.b, I64, self.value_count)
        body.pass_on(body.b.call(self.sizes, [symbols, values]))
        return values

    def _emit_dims(self, name: str, first: int, count: int) -> None:
        """``i32 NAME_input_dims(i32 index, i64 *symbols, i64 *dims)``"""
        body = self._export(f"{name}_dims", I32, [I32, PTR, PTR])
        b, (index, symbols, dims) = body.b, body.arguments
        body.require(b.icmp_unsigned("<", index, I32(count)), "ERROR_ARGUMENT")
        ports = self.signature.ports[first : first + count]
        starts = self.tables.numbers(I64, [start + 1 for start in self.first_value[first : first + count]])
        ranks = self.tables.numbers(I64, [len(port.shape) for port in ports])
        index = b.zext(index, I64)
        start, rank = body.load(starts, index), body.load(ranks, index)
        present = b.or_(b.icmp_unsigned("!=", dims, _NULL), b.icmp_unsigned("==", rank, I64(0)))
        body.require(present, "ERROR_ARGUMENT")
        values = self._sizes_on_stack(body, symbols)
        body.each(rank, lambda axis: body.store(dims, axis, body.load(values, b.add(start, axis))))
        b.ret(I32(0))

    def _emit_plan(self) -> None:
        """``i32 NAME_plan(i64 *symbols, NAME_plan_t *plan)``"""
        body = self._export("plan", I32, [PTR, PTR])
        b, (symbols, plan) = body.b, body.arguments
        body.require(b.icmp_unsigned("!=", plan, _NULL), "ERROR_ARGUMENT")
        values = self._sizes_on_stack(body, symbols)
        body.store(plan, 0, I64(self.state_bytes))
        body.store(plan, 1, body.load(values, self.arena_value))
        body.store(plan, 2, I64(team.SIZE))
        body.store(plan, 3, body.load(values, self.chunks_value))
        b.ret(I32(0))

    def _emit_init(self) -> None:
        """``i32 NAME_init(state, state_bytes, arena, arena_bytes, i64 *symbols)``"""
        body = self._export("init", I32, [PTR, I64, PTR, I64, PTR])
        b, (state, state_bytes, arena, arena_bytes, symbols) = body.b, body.arguments
        body.require_aligned(state, 8)
        body.require(b.icmp_unsigned(">=", state_bytes, I64(self.state_bytes)), "ERROR_MEMORY")
        body.store(state, _MARK, I64(0))
        values = body.at(state, _VALUES)
        body.pass_on(b.call(self.sizes, [symbols, values]))
        needed = body.load(values, self.arena_value)
        body.require(b.icmp_unsigned(">=", arena_bytes, needed), "ERROR_MEMORY")
        empty = b.icmp_unsigned("==", needed, I64(0))
        body.require(b.or_(empty, body.is_aligned(arena, ALIGNMENT)), "ERROR_ARGUMENT")
        bases = self._bases(body, state, arena)
        table = body.at(state, _VALUES + self.value_count)
        self._fill(body, table, bases)
        known = {each.name: body.load(symbols, number) for number, each in enumerate(self.signature.symbols)}
        known |= {name: body.load(values, number) for number, name in enumerate(self.start_names)}
        checked = Checked(b, known)
        for number, word in enumerate(self.words):
            if isinstance(word.value, int):
                continue
            value = checked.emit(word.value)
            if word.base != _ABSOLUTE:
                value = b.add(value, bases[word.base])
            body.store(table, number, value)
        body.require(b.not_(checked.failed), "ERROR_SHAPE")
        offsets = body.at(table, len(self.words))
        numbers = self.tables.numbers(I64, [word for word, _ in self.patches])
        body.each(
            I64(len(self.patches)), lambda k: body.store(offsets, k, body.load(table, body.load(numbers, k)))
        )
        body.store(state, _STATUS, I64(0))
        for word in range(2):  # the numbers are those of a session with seed 0, from its first run on
            body.store(state, _ENTROPY + word, I64(0))
        body.store(state, _SELF, b.ptrtoint(state, I64))
        body.store(state, _MARK, I64(self.mark))
        b.ret(I32(0))

    def _bases(self, body: _Body, state: ir.Value, arena: ir.Value) -> list[ir.Value]:
        """Addresses that words of the table are relative to."""
        weights: ir.Value = I64(0)
        if any(word.base == _WEIGHTS for word in self.words):
            variable = ir.GlobalVariable(self.module, I8, WEIGHTS_SYMBOL)
            variable.global_constant, variable.type = True, PTR
            weights = body.b.ptrtoint(variable, I64)
        return [I64(0), body.b.ptrtoint(arena, I64), weights, body.b.ptrtoint(state, I64)]

    def _fill(self, body: _Body, table: ir.Value, bases: list[ir.Value]) -> None:
        """Store the words that no symbol changes; the others become their base."""
        b = body.b
        constants = self.tables.numbers(
            I64, [word.value if isinstance(word.value, int) else 0 for word in self.words]
        )
        relative = self.tables.numbers(I8, [word.base for word in self.words])
        stack = flow.stack(b, I64, len(bases))
        for number, base in enumerate(bases):
            body.store(stack, number, base)

        def fill(k: ir.Value) -> None:
            base = b.load(b.gep(relative, [k], source_etype=I8), typ=I8, align=1)
            address = body.load(stack, b.zext(base, I64))
            body.store(table, k, b.add(address, body.load(constants, k)))

        body.each(I64(len(self.words)), fill)

    def _emit_run(self) -> None:
        """``i32 NAME_run(state, void **inputs, void **outputs, team)``"""
        native = self.module.globals[RUN_SYMBOL]
        body = self._export("run", I32, [PTR, PTR, PTR, PTR])
        b, (state, inputs, outputs, workers) = body.b, body.arguments
        body.require_aligned(state, 8)
        made = b.icmp_unsigned("==", body.load(state, _MARK), I64(self.mark))
        here = b.icmp_unsigned("==", body.load(state, _SELF), b.ptrtoint(state, I64))
        body.require(b.and_(made, here), "ERROR_STATE")
        body.require(b.or_(b.icmp_unsigned("==", workers, _NULL), body.is_aligned(workers, 64)), "ERROR_ARGUMENT")
        addresses = flow.stack(b, I64, max(1, len(self.signature.ports)))
        first = 0
        for given, ports in ((inputs, self.signature.inputs), (outputs, self.signature.outputs)):
            if ports:
                body.require_aligned(given, 8)
                self._take(body, given, addresses, state, first, len(ports))
            first += len(ports)
        table = body.at(state, _VALUES + self.value_count)
        offsets = body.at(table, len(self.words))
        numbers = self.tables.numbers(I64, [word for word, _ in self.patches])
        owners = self.tables.numbers(I64, [port for _, port in self.patches])

        def patch(k: ir.Value) -> None:
            address = body.load(addresses, body.load(owners, k))
            body.store(table, body.load(numbers, k), b.add(address, body.load(offsets, k)))

        body.each(I64(len(self.patches)), patch)
        body.store(state, _STATUS, I64(0))
        body.pass_on(b.call(native, [table, workers]))
        b.ret(b.trunc(body.load(state, _STATUS), I32))

    def _take(
        self, body: _Body, given: ir.Value, addresses: ir.Value, state: ir.Value, first: int, count: int
    ) -> None:
        """Copy the addresses of `count` inputs or outputs, and check those whose tensors have elements."""
        b = body.b
        ports = self.signature.ports[first : first + count]
        sizes = self.tables.numbers(I64, [_VALUES + start for start in self.first_value[first : first + count]])
        masks = self.tables.numbers(I64, [port.storage.dtype.bytes - 1 for port in ports])

        def take(k: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            address = body.load(given, k)
            body.store(addresses, b.add(k, I64(first)), address)
            empty = b.icmp_signed("==", body.load(state, body.load(sizes, k)), I64(0))
            whole = b.icmp_unsigned("==", b.and_(address, body.load(masks, k)), I64(0))
            fits = b.or_(empty, b.and_(whole, b.icmp_unsigned("!=", address, I64(0))))
            return [b.and_(carried[0], fits)]

        (fit,) = flow.loop(b, I64(0), I64(count), 1, [I1(1)], take, nonempty=True)
        body.require(fit, "ERROR_ARGUMENT")

    def _emit_messages(self) -> None:
        """``const char *NAME_error_message(i32 code)``"""
        body = self._export("error_message", PTR, [I32])
        b, (code,) = body.b, body.arguments
        messages = [error.message for error in reversed(ERRORS)] + [OK_MESSAGE, *self.signature.faults]
        table = self.tables.strings(messages)
        index = b.add(b.sext(code, I64), I64(len(ERRORS)))
        known = b.icmp_unsigned("<", index, I64(len(messages)))
        safe = b.select(known, index, I64(0))
        text = b.load(b.gep(table, [safe], source_etype=I64), typ=PTR, align=8)
        b.ret(b.select(known, text, self.tables.string(UNKNOWN_MESSAGE)))

    def _emit_team(self) -> None:
        void = ir.VoidType()
        start = self.module.globals[TEAM_INIT_SYMBOL]
        worker = self.module.globals[WORKER_SYMBOL]
        stop = self.module.globals[STOP_SYMBOL]
        body = self._export("team_init", I32, [PTR, I64, I32, PTR])
        b, (memory, size, workers, system) = body.b, body.arguments
        body.require_aligned(memory, 64)
        body.require(b.icmp_unsigned(">=", size, I64(team.SIZE)), "ERROR_MEMORY")
        body.require(b.icmp_unsigned("<=", workers, I32(MOST_WORKERS)), "ERROR_ARGUMENT")
        body.require(b.icmp_unsigned("!=", system, _NULL), "ERROR_ARGUMENT")
        b.call(start, [memory, b.zext(workers, I64), system])
        b.ret(I32(0))
        body = self._export("worker", PTR, [PTR])
        body.b.ret(body.b.call(worker, body.arguments))
        body = self._export("team_stop", void, [PTR])
        body.b.call(stop, body.arguments)
        body.b.ret_void()


def _check_size(checked: Checked, value: ir.Value) -> None:
    checked.fail_if(checked.b.icmp_unsigned(">", value, I64(MAX_SIZE)))  # negative ones are large, unsigned


def _emit_size(checked: Checked, size: Dim) -> ir.Value:
    value = checked.emit(size)
    _check_size(checked, value)
    return value


def _largest(b: ir.IRBuilder, values: Sequence[ir.Value]) -> ir.Value:
    largest, *others = values
    for value in others:
        largest = flow.maximum(b, largest, value)
    return largest


class _Body:
    """A function under construction."""

    def __init__(self, function: ir.Function) -> None:
        self.function = function
        self.arguments = list(function.args)
        self.b = ir.IRBuilder(function.append_basic_block("entry"))

    def at(self, words: ir.Value, index: ir.Value | int) -> ir.Value:
        """The address of a word of 64 bits."""
        return self.b.gep(words, [I64(index) if isinstance(index, int) else index], source_etype=I64)

    def load(self, words: ir.Value, index: ir.Value | int) -> ir.Value:
        return self.b.load(self.at(words, index), typ=I64, align=8)

    def store(self, words: ir.Value, index: ir.Value | int, value: ir.Value) -> None:
        self.b.store(value, self.at(words, index), align=8)

    def require(self, holds: ir.Value, error: str) -> None:
        """Go on where `holds`, else return the code of `error`."""
        failed, following = self.b.append_basic_block("failed"), self.b.append_basic_block("fits")
        self.b.cbranch(holds, following, failed)
        self.b.position_at_end(failed)
        self.b.ret(I32(CODES[error]))
        self.b.position_at_end(following)

    def is_aligned(self, pointer: ir.Value, alignment: int) -> ir.Value:
        """i1: whether it points to something, at a multiple of `alignment` bytes."""
        address = self.b.ptrtoint(pointer, I64)
        whole = self.b.icmp_unsigned("==", self.b.and_(address, I64(alignment - 1)), I64(0))
        return self.b.and_(whole, self.b.icmp_unsigned("!=", address, I64(0)))

    def require_aligned(self, pointer: ir.Value, alignment: int) -> None:
        self.require(self.is_aligned(pointer, alignment), "ERROR_ARGUMENT")

    def pass_on(self, code: ir.Value) -> None:
        """Return `code` unless it is 0."""
        failed, following = self.b.append_basic_block("failed"), self.b.append_basic_block("fits")
        self.b.cbranch(self.b.icmp_unsigned("==", code, I32(0)), following, failed)
        self.b.position_at_end(failed)
        self.b.ret(code)
        self.b.position_at_end(following)

    def each(self, count: ir.Value, body) -> None:
        """``body(index)`` for 0 <= index < count."""

        def once(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            body(index)
            return []

        flow.loop(self.b, I64(0), count, 1, [], once)
