# pyright: basic
# llvmlite is untyped.
"""Constants of a library for C: strings, tables of numbers, descriptions of tensors and symbols."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from ingot.compiler.targets.cpu.c_interface.signature import TYPE_NUMBERS, Port, SymbolRange
from ingot.compiler.targets.cpu.functions import I8, I32, I64, PTR

TENSOR = ir.LiteralStructType([PTR, PTR, I32, I32])  # name, shape as text, type, rank
SYMBOL = ir.LiteralStructType([PTR, I64, I64])  # name, lowest and highest value


class Tables:
    """Constants of one module, numbered."""

    def __init__(self, module: ir.Module) -> None:
        self._module = module
        self._strings: dict[str, ir.Value] = {}
        self._count = 0

    def _constant(self, value: ir.Constant, align: int) -> ir.Value:
        variable = ir.GlobalVariable(self._module, value.type, f"table{self._count}")
        self._count += 1
        variable.linkage, variable.global_constant, variable.initializer = "internal", True, value
        variable.align, variable.type = align, PTR  # llvmlite still gives globals a typed pointer
        return variable

    def string(self, text: str) -> ir.Value:
        """A pointer to `text` in UTF-8 with a zero behind it."""
        if text not in self._strings:
            data = bytearray(text.encode(errors="replace") + b"\0")
            self._strings[text] = self._constant(ir.Constant(ir.ArrayType(I8, len(data)), data), 1)
        return self._strings[text]

    def numbers(self, type_: ir.IntType, values: Sequence[int]) -> ir.Value:
        """A pointer to an array of integers."""
        known = list(values) or [0]
        return self._constant(ir.Constant(ir.ArrayType(type_, len(known)), known), 8)

    def strings(self, texts: Sequence[str]) -> ir.Value:
        """A pointer to an array of pointers to texts."""
        pointers = [self.string(text) for text in texts or ("",)]
        return self._constant(ir.Constant(ir.ArrayType(PTR, len(pointers)), pointers), 8)

    def tensors(self, ports: Sequence[Port]) -> ir.Value:
        """A pointer to descriptions of inputs or outputs."""
        rows = [
            (
                self.string(port.name),
                self.string(port.shape_text),
                I32(TYPE_NUMBERS[port.storage.dtype.name]),
                I32(len(port.shape)),
            )
            for port in ports
        ]
        return self._rows(TENSOR, rows or [[self.string(""), self.string(""), I32(0), I32(0)]])

    def symbols(self, symbols: Sequence[SymbolRange]) -> ir.Value:
        """A pointer to descriptions of symbolic dims."""
        rows = [[self.string(each.name), I64(each.low), I64(each.high)] for each in symbols]
        return self._rows(SYMBOL, rows or [[self.string(""), I64(0), I64(0)]])

    def _rows(self, type_: ir.LiteralStructType, rows: Sequence[Sequence[ir.Constant]]) -> ir.Value:
        values = [ir.Constant(type_, list(row)) for row in rows]
        return self._constant(ir.Constant(ir.ArrayType(type_, len(values)), values), 8)
