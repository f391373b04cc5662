# pyright: basic
# llvmlite is untyped.
"""Dims as LLVM IR where no kernel is around: i64 arithmetic with the meaning of `ir.dims`.

Division and modulo round towards minus infinity. Nothing here traps: a division by zero gives 0 and sums and products
wrap around; `Checked` says afterwards whether either has happened, which takes several instructions for each.
"""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from ingot.compiler.ir.dims import Atom, Dim, Symbol
from ingot.compiler.ir.types import IrError

I1, I64 = ir.IntType(1), ir.IntType(64)
Symbols = Mapping[str, ir.Value]


def emit_dim(builder: ir.IRBuilder, dim: Dim, symbols: Symbols) -> ir.Value:
    """The i64 value of `dim` where `builder` stands; `symbols` gives the i64 values of its symbols.

    Raises IrError for a symbol without a value.
    """
    return Wrapping(builder, symbols).emit(dim)


class Wrapping:
    """Values of dims."""

    def __init__(self, builder: ir.IRBuilder, symbols: Symbols) -> None:
        self.b = builder
        self.symbols = symbols
        self._known: dict[Dim, ir.Value] = {}

    def emit(self, dim: Dim) -> ir.Value:
        """The i64 value of `dim`; every distinct dim is computed once."""
        if isinstance(dim, int):
            return I64(dim)
        value = self._known.get(dim)
        if value is None:
            for monomial, factor in dim.terms:
                term: ir.Value | None = None if factor == 1 and monomial else I64(factor)
                for atom in monomial:
                    part = self._atom(atom)
                    term = part if term is None else self.multiply(term, part)
                assert term is not None
                value = term if value is None else self.add(value, term)
            assert value is not None
            self._known[dim] = value
        return value

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x + y"""
        return self.b.add(x, y)

    def multiply(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x * y"""
        return self.b.mul(x, y)

    def fail_if(self, condition: ir.Value) -> None:
        """`condition` (i1) is a failure, for those who ask."""

    def _atom(self, atom: Atom) -> ir.Value:
        if isinstance(atom, Symbol):
            if atom.name not in self.symbols:
                raise IrError(f"the symbol {atom.name} has no value here")
            return self.symbols[atom.name]
        b, x, y = self.b, self.emit(atom.left), self.emit(atom.right)
        match atom.op:
            case "max":
                return b.select(b.icmp_signed(">", x, y), x, y)
            case "min":
                return b.select(b.icmp_signed("<", x, y), x, y)
            case "//":
                return self._divide(x, y)[0]
            case "%":
                return self._divide(x, y)[1]

    def _divide(self, x: ir.Value, y: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Quotient rounded down and the rest, which has the sign of y."""
        b = self.b
        zero = b.icmp_signed("==", y, I64(0))
        self.fail_if(zero)
        negated = b.icmp_signed("==", y, I64(-1))  # the processor's division traps for the smallest integer by -1
        safe = b.select(b.or_(zero, negated), I64(1), y)
        quotient, rest = b.sdiv(x, safe), b.srem(x, safe)
        below = b.and_(b.icmp_signed("!=", rest, I64(0)), b.icmp_signed("<", b.xor(rest, safe), I64(0)))
        quotient = b.select(below, b.sub(quotient, I64(1)), quotient)
        rest = b.select(below, b.add(rest, safe), rest)
        quotient = b.select(negated, b.sub(I64(0), x), quotient)
        return b.select(zero, I64(0), quotient), b.select(zero, I64(0), rest)


class Checked(Wrapping):
    """Values of dims, and in `failed` (i1) whether one of them needs more than 64 bits or divides by zero."""

    def __init__(self, builder: ir.IRBuilder, symbols: Symbols) -> None:
        super().__init__(builder, symbols)
        self.failed: ir.Value = I1(0)

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self._overflowing("sadd", x, y)

    def multiply(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self._overflowing("smul", x, y)

    def fail_if(self, condition: ir.Value) -> None:
        """Count `condition` (i1) among what fails."""
        self.failed = self.b.or_(self.failed, condition)

    def _overflowing(self, operation: str, x: ir.Value, y: ir.Value) -> ir.Value:
        pair = getattr(self.b, f"{operation}_with_overflow")(x, y)
        self.fail_if(self.b.extract_value(pair, 1))
        return self.b.extract_value(pair, 0)
