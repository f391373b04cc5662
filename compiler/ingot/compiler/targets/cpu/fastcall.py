# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""The program's entry for Python: ``PyObject *ingot_call(PyObject *self, PyObject *inputs)``.

`self` is an array of words laid out by `ingot.runtime.fastcall`, which also has the offsets within objects. The
function takes the inputs from an exact dict, compares each with what the words ask for, copies it to its place, runs
`ingot_run` and returns a dict of new arrays. It returns None when something does not fit or the run meets a fault
(through Py_IncRef, because None's count is not to be touched by hand), and NULL for an exception of Python.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ingot.compiler.targets.cpu.emit import forbid_libraries
from ingot.compiler.targets.cpu.functions import I8, I32, I64, PTR
from ingot.compiler.targets.cpu.team_memory import Callee
from ingot.runtime import fastcall as layout
from ingot.runtime.manifest import CALL_SYMBOL

_NULL = ir.Constant(PTR, None)

# Results and arguments of the functions called through the context.
_TYPES: dict[str, tuple[ir.Type, tuple[ir.Type, ...]]] = {
    "PyDict_GetItemWithError": (PTR, (PTR, PTR)),
    "PyDict_New": (PTR, ()),
    "PyDict_SetItem": (I32, (PTR, PTR, PTR)),
    "PyDict_Size": (I64, (PTR,)),
    "PyErr_Clear": (ir.VoidType(), ()),
    "PyEval_RestoreThread": (ir.VoidType(), (PTR,)),
    "PyEval_SaveThread": (PTR, ()),
    "PyObject_CallNoArgs": (PTR, (PTR,)),
    "Py_DecRef": (ir.VoidType(), (PTR,)),
    "Py_IncRef": (ir.VoidType(), (PTR,)),
    "memmove": (PTR, (PTR, PTR, I64)),
}


def emit_call(module: ir.Module, run: ir.Function) -> ir.Function:
    """Define the entry in `module`, which has `run` as ``i32 ingot_run(i64 *args, void *team)``."""
    function = ir.Function(module, ir.FunctionType(PTR, [PTR, PTR]), CALL_SYMBOL)
    forbid_libraries(function)
    return _Entry(function, run).emit()


class _Entry:
    """The function under construction; blocks that end it are made first."""

    def __init__(self, function: ir.Function, run: ir.Function) -> None:
        self.function, self.native = function, run
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.self, self.inputs = function.args
        self.context = self.at(self.self, layout.ARRAY_DATA, PTR)

    # -- reading ------------------------------------------------------------------------------------------------------

    def at(self, pointer: ir.Value, offset: int, type_: ir.Type) -> ir.Value:
        address = self.b.gep(pointer, [I64(offset)], source_etype=I8)
        return self.b.load(address, typ=type_, align=4 if type_ == I32 else 8)

    def header(self, name: str, type_: ir.Type = PTR) -> ir.Value:
        return self.at(self.context, 8 * layout.HEADER.index(name), type_)

    def call(self, name: str, *arguments: ir.Value) -> ir.Value:
        result, parameters = _TYPES[name]
        return self.b.call(Callee(self.header(name), ir.FunctionType(result, parameters)), list(arguments))

    # -- control ------------------------------------------------------------------------------------------------------

    def block(self, name: str) -> ir.Block:
        return self.function.append_basic_block(name)

    def require(self, holds: ir.Value, otherwise: ir.Block) -> None:
        """Go on where `holds`, else at `otherwise`."""
        following = self.block("fits")
        self.b.cbranch(holds, following, otherwise)
        self.b.position_at_end(following)

    def same(self, left: ir.Value, right: ir.Value) -> ir.Value:
        return self.b.icmp_unsigned("==", left, right)

    def each(self, count: ir.Value, body: Callable[[ir.Value], None]) -> None:
        """``body(index)`` for 0 <= index < count."""
        b, before = self.b, self.b.block
        test, inside, after = (self.block(name) for name in ("test", "each", "after"))
        b.branch(test)
        b.position_at_end(test)
        index = b.phi(I64)
        index.add_incoming(I64(0), before)
        b.cbranch(b.icmp_signed("<", index, count), inside, after)
        b.position_at_end(inside)
        body(index)
        index.add_incoming(b.add(index, I64(1)), b.block)
        b.branch(test)
        b.position_at_end(after)

    # -- the steps ----------------------------------------------------------------------------------------------------

    def emit(self) -> ir.Function:
        b = self.b
        self.declined, self.absent = self.block("declined"), self.block("absent")
        inputs = self.header("inputs", I64)
        self.require(self.same(self.at(self.inputs, layout.OBJECT_TYPE, PTR), self.header("dict type")), self.declined)
        self.require(self.same(self.call("PyDict_Size", self.inputs), inputs), self.declined)
        self.each(inputs, self._take)
        self._run()
        self._give(inputs)

        b.position_at_end(self.absent)  # or an exception came from a key's own comparison
        self.call("PyErr_Clear")
        b.branch(self.declined)
        b.position_at_end(self.declined)
        self.call("Py_IncRef", self.header("None"))
        b.ret(self.header("None"))
        return self.function

    def _take(self, index: ir.Value) -> None:
        """Check input number `index` and copy it."""
        b = self.b
        start = b.add(b.mul(index, I64(8 * len(layout.INPUT))), I64(8 * len(layout.HEADER)))
        entry = b.gep(self.context, [start], source_etype=I8)

        def word(name: str, type_: ir.Type) -> ir.Value:
            return self.at(entry, 8 * layout.INPUT.index(name), type_)

        # A borrowed reference: until the copy is made no code of Python runs that could drop it.
        array = self.call("PyDict_GetItemWithError", self.inputs, word("name", PTR))
        self.require(b.icmp_unsigned("!=", array, _NULL), self.absent)
        self.require(self.same(self.at(array, layout.OBJECT_TYPE, PTR), self.header("array type")), self.declined)
        self.require(self.same(self.at(array, layout.ARRAY_DTYPE, PTR), word("dtype", PTR)), self.declined)
        rank = word("rank", I64)
        self.require(self.same(b.zext(self.at(array, layout.ARRAY_RANK, I32), I64), rank), self.declined)
        contiguous = b.and_(self.at(array, layout.ARRAY_FLAGS, I32), I32(layout.CONTIGUOUS))
        self.require(b.icmp_unsigned("!=", contiguous, I32(0)), self.declined)
        found, wanted = self.at(array, layout.ARRAY_EXTENTS, PTR), word("extents", PTR)

        def compare(axis: ir.Value) -> None:
            extents = (b.load(b.gep(each, [axis], source_etype=I64), typ=I64, align=8) for each in (found, wanted))
            self.require(self.same(*extents), self.declined)

        self.each(rank, compare)
        self.call("memmove", word("place", PTR), self.at(array, layout.ARRAY_DATA, PTR), word("size", I64))

    def _run(self) -> None:
        b = self.b
        release, keep, ended, fault = (self.block(name) for name in ("release", "keep", "ended", "fault"))
        table = self.header("table")
        b.cbranch(b.icmp_unsigned("!=", self.header("releases", I64), I64(0)), release, keep)
        b.position_at_end(release)
        thread = self.call("PyEval_SaveThread")
        released = b.call(self.native, [table, _NULL])
        self.call("PyEval_RestoreThread", thread)
        b.branch(ended)
        b.position_at_end(keep)
        kept = b.call(self.native, [table, _NULL])
        b.branch(ended)
        b.position_at_end(ended)
        status = b.phi(I32)
        status.add_incoming(released, release)
        status.add_incoming(kept, keep)
        word = self.header("status")
        self.require(self.same(b.or_(b.sext(status, I64), self.at(word, 0, I64)), I64(0)), fault)
        following = b.block
        b.position_at_end(fault)
        b.store(I64(0), word, align=8)
        b.branch(self.declined)
        b.position_at_end(following)

    def _give(self, inputs: ir.Value) -> None:
        b = self.b
        none, undone = self.block("none"), self.block("undone")
        results = self.call("PyDict_New")
        self.require(b.icmp_unsigned("!=", results, _NULL), none)
        start = b.add(b.mul(inputs, I64(8 * len(layout.INPUT))), I64(8 * len(layout.HEADER)))
        entries = b.gep(self.context, [start], source_etype=I8)

        def give(index: ir.Value) -> None:
            entry = b.gep(entries, [b.mul(index, I64(8 * len(layout.OUTPUT)))], source_etype=I8)
            name, copy = (self.at(entry, 8 * position, PTR) for position in range(len(layout.OUTPUT)))
            array = self.call("PyObject_CallNoArgs", copy)
            self.require(b.icmp_unsigned("!=", array, _NULL), undone)
            failed = self.call("PyDict_SetItem", results, name, array)
            self.call("Py_DecRef", array)
            self.require(self.same(failed, I32(0)), undone)

        self.each(self.header("outputs", I64), give)
        b.ret(results)
        b.position_at_end(undone)
        self.call("Py_DecRef", results)
        b.branch(none)
        b.position_at_end(none)
        b.ret(_NULL)
