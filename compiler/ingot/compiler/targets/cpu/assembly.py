# pyright: basic
# llvmlite is untyped.
"""The text of a module as LLVM reads it: what ``str(module)`` says, without the time that it takes.

llvmlite spells every type and every operand anew wherever it stands. Here each is spelt once, and the instructions
that kernels are made of are formatted directly; the others are left to llvmlite.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from llvmlite.ir import instructions as kinds


def module_text(module: ir.Module) -> str:
    """The assembly of `module`."""
    return _Writer().module(module)


class _Writer:
    """One text; what has been spelt is kept by identity, as long as the module keeps it alive."""

    def __init__(self) -> None:
        self._types: dict[int, str] = {}
        self._references: dict[int, str] = {}

    def module(self, module: ir.Module) -> str:
        """Head, types, globals and metadata, in llvmlite's order."""
        lines = [
            f'; ModuleID = "{module.name}"',
            f'target triple = "{module.triple}"',
            f'target datalayout = "{module.data_layout}"',
            "",
        ]
        lines += [kind.get_declaration() for kind in module.get_identified_types().values()]
        for each in module.globals.values():
            if isinstance(each, ir.Function) and each.blocks:
                self._function(each, lines)
            else:
                lines.append(str(each))
        lines += module._get_metadata_lines()
        return "\n".join(lines)

    def _function(self, function: ir.Function, lines: list[str]) -> None:
        prototype: list[str] = []
        function.descr_prototype(prototype)
        lines += ["".join(prototype).rstrip("\n"), "{"]
        writers, reference, void = _WRITERS, self.reference, ir.VoidType
        for block in function.blocks:
            lines.append(f"{block._format_name()}:")
            for item in block.instructions:
                writer = writers.get(type(item))
                if writer is None or item.metadata:
                    lines.append(str(item))
                elif isinstance(item.type, void):
                    lines.append(writer(self, item))
                else:
                    lines.append(f"{reference(item)} = {writer(self, item)}")
        lines.append("}\n")

    def type(self, type_: ir.Type) -> str:
        """The spelling of a type."""
        found = self._types.get(id(type_))
        if found is None:
            found = self._types[id(type_)] = str(type_)
        return found

    def reference(self, value: ir.Value) -> str:
        """The spelling of an operand, without its type."""
        found = self._references.get(id(value))
        if found is None:
            found = self._references[id(value)] = self._spelt(value)
        return found

    def _spelt(self, value: ir.Value) -> str:
        kind = type(value)
        if kind in _WRITERS:
            name = value.name  # "" or what llvmlite made of it, nearly always: a point and a number
            return f"%{name}" if name[1:].isdigit() and name[0] == "." else value.get_reference()
        if kind is ir.Constant:
            content, of = value.constant, type(value.type)
            if of is ir.IntType and type(content) is int:
                return str(content)
            if of is ir.VectorType and type(content) is list:
                return f"<{self._elements(value.type.element, content)}>"
        return value.get_reference()

    def _elements(self, type_: ir.Type, content: list[ir.Constant]) -> str:
        if type(type_) is ir.IntType and all(type(x.constant) is int for x in content):
            kind = self.type(type_)
            return ", ".join([f"{kind} {x.constant}" for x in content])
        return self.operands(content)

    def operand(self, value: ir.Value) -> str:
        """An operand behind its type."""
        kind = self._types.get(id(value.type)) or self.type(value.type)
        return f"{kind} {self._references.get(id(value)) or self.reference(value)}"

    def operands(self, values) -> str:
        """Operands behind their types, with commas."""
        return ", ".join([self.operand(value) for value in values])


def _arithmetic(w: _Writer, item: ir.Instruction) -> str:
    flags = "".join([f" {flag}" for flag in item.flags])
    return f"{item.opname}{flags} {w.type(item.type)} {', '.join([w.reference(x) for x in item.operands])}"


def _compare(w: _Writer, item: kinds.CompareInstr) -> str:
    left, right = item.operands
    flags = "".join([f" {flag}" for flag in item.flags])
    return f"{item.opname}{flags} {item.op} {w.operand(left)}, {w.reference(right)}"


def _listed(w: _Writer, item: ir.Instruction) -> str:
    flags = "".join([f" {flag}" for flag in item.flags])
    return f"{item.opname}{flags} {w.operands(item.operands)}"


def _cast(w: _Writer, item: kinds.CastInstr) -> str:
    return f"{item.opname} {w.operand(item.operands[0])} to {w.type(item.type)}"


def _load(w: _Writer, item: ir.LoadInstr) -> str:
    return f"load {w.type(item.type)}, {w.operand(item.operands[0])}{_aligned(item)}"


def _store(w: _Writer, item: ir.StoreInstr) -> str:
    return f"store {w.operands(item.operands)}{_aligned(item)}"


def _aligned(item: ir.LoadInstr | ir.StoreInstr) -> str:
    return "" if item.align is None else f", align {item.align}"


def _address(w: _Writer, item: ir.GEPInstr) -> str:
    inbounds = " inbounds" if item.inbounds else ""
    return f"getelementptr{inbounds} {w.type(item.source_etype)}, {w.operands(item.operands)}"


def _phi(w: _Writer, item: ir.PhiInstr) -> str:
    arrivals = [f"[{w.reference(value)}, {w.reference(block)}]" for value, block in item.incomings]
    return f"{' '.join(['phi', *item.flags])} {w.type(item.type)} {', '.join(arrivals)}"


def _call(w: _Writer, item: ir.CallInstr) -> str:
    kind = item.callee.function_type
    if kind.var_arg or item.cconv or item.tail or item.fastmath or item.attributes or item.arg_attributes:
        written: list[str] = []
        item.descr(written)
        return "".join(written).rstrip()
    return f"call {w.type(kind.return_type)} {w.reference(item.callee)}({w.operands(item.args)})"


def _return(w: _Writer, item: ir.Ret) -> str:
    return f"ret {w.operand(item.return_value)}" if item.operands else "ret void"


_WRITERS: dict[type, Callable[[_Writer, ir.Instruction], str]] = {
    kinds.Instruction: _arithmetic,
    kinds.ICMPInstr: _compare,
    kinds.FCMPInstr: _compare,
    kinds.CastInstr: _cast,
    kinds.LoadInstr: _load,
    kinds.StoreInstr: _store,
    kinds.GEPInstr: _address,
    kinds.PhiInstr: _phi,
    kinds.CallInstr: _call,
    kinds.SelectInstr: _listed,
    kinds.ExtractElement: _listed,
    kinds.InsertElement: _listed,
    kinds.ShuffleVector: _listed,
    kinds.Branch: _listed,
    kinds.ConditionalBranch: _listed,
    kinds.Ret: _return,
}
