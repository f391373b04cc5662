"""Arithmetic on one floating type, scalar or vector: the vocabulary the functions of this folder are written in."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from ingot.compiler.targets.cpu import declarations


@dataclass(frozen=True)
class MathOptions:
    """What the target's instruction set can do without calling a library.

    fma: fused multiply-add (x86-64-v3, every AArch64). Without it errors grow, by less than half an ulp.
    half: conversion between f16 and f32 (F16C, every AArch64).
    rounding: floor, ceil, trunc and round half to even (SSE4.1, every AArch64).
    """

    fma: bool = True
    half: bool = True
    rounding: bool = True


DEFAULT = MathOptions()


class Uniform(ir.Constant):
    """A vector constant of equal elements, which its text has once: there are many of them, and of many lanes."""

    def __init__(self, type_: ir.VectorType, value: Any) -> None:
        self.type = type_
        self.constant = [value if isinstance(value, ir.Constant) else ir.Constant(type_.element, value)] * type_.count

    def _get_reference(self) -> str:
        return f"splat ({self.constant[0]})"


class Unset(ir.Constant):
    """A vector of elements that do not matter, which are all inserted later on, or not used."""

    def __init__(self, type_: ir.VectorType) -> None:
        self.type = type_
        self.constant = [ir.Constant(type_.element, ir.Undefined)] * type_.count

    def _get_reference(self) -> str:
        return "undef"


@functools.lru_cache(maxsize=1024)
def lane_numbers(numbers: tuple[int, ...]) -> ir.Constant:
    """The vector constant of i32 that says which lanes a shuffle takes."""
    type_ = ir.VectorType(ir.IntType(32), len(numbers))
    return Uniform(type_, numbers[0]) if len(set(numbers)) == 1 else ir.Constant(type_, numbers)


class Lanes:
    """IEEE 754 arithmetic on `float`, `double` or a vector of them, emitted where the builder stands.

    Raises TypeError for any other type.
    """

    def __init__(self, b: ir.IRBuilder, floating: ir.Type, options: MathOptions = DEFAULT) -> None:
        self.count = floating.count if isinstance(floating, ir.VectorType) else None
        element = floating.element if isinstance(floating, ir.VectorType) else floating
        if not isinstance(element, ir.FloatType | ir.DoubleType):
            raise TypeError(f"vecmath is defined on float and double lanes, not on {floating}; convert first")
        self.b = b
        self.options = options
        self.float = floating
        self.bits = 32 if isinstance(element, ir.FloatType) else 64
        self.mantissa = 23 if self.bits == 32 else 52
        self.bias = 127 if self.bits == 32 else 1023
        self.int = self.lanes_of(ir.IntType(self.bits))

    def lanes_of(self, element: ir.Type) -> ir.Type:
        """`element`, as often as this type has lanes."""
        return element if self.count is None else ir.VectorType(element, self.count)

    def double(self) -> Lanes:
        """The same number of lanes in f64."""
        return Lanes(self.b, self.lanes_of(ir.DoubleType()), self.options)

    # Constants

    def const(self, value: float) -> ir.Constant:
        return ir.Constant(self.float, value) if self.count is None else Uniform(self.float, value)

    def word(self, value: int) -> ir.Constant:
        """An integer of the lanes' width; negative numbers are two's complement."""
        value &= (1 << self.bits) - 1
        return ir.Constant(self.int, value) if self.count is None else Uniform(self.int, value)

    @property
    def inf(self) -> ir.Constant:
        return self.const(float("inf"))

    @property
    def nan(self) -> ir.Constant:
        return self.const(float("nan"))

    @property
    def magic(self) -> float:
        """1.5 * 2^mantissa. Adding it rounds a small number to an integer, half to even, and leaves that integer in
        the low bits of the sum."""
        return 1.5 * 2.0**self.mantissa

    # Operations

    def intrinsic(self, name: str, *args: ir.Value) -> ir.Value:
        """The LLVM intrinsic on this type whose arguments and result all have it."""
        suffix = f"f{self.bits}" if self.count is None else f"v{self.count}f{self.bits}"
        return declarations.call(self.b, f"{name}.{suffix}", self.float, args)

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """x * y + z, rounded once where the target can."""
        if self.options.fma:
            return self.intrinsic("llvm.fma", x, y, z)
        return self.b.fadd(self.b.fmul(x, y), z)

    def polynomial(self, x: ir.Value, coefficients: Sequence[float], paired: bool = False) -> ir.Value:
        """sum of coefficients[i] * x**i.

        Horner's rule has the fewest operations, and a dependency as long as the degree. In pairs, (a + b x) +
        x^2 (...), it is half as long for one operation more; long polynomials always take that.
        """
        stride = x
        terms: list[ir.Value] = [self.const(c) for c in coefficients]
        if paired or len(terms) > 7:
            stride = self.b.fmul(x, x)
            pairs = [self.fma(high, x, low) for low, high in zip(terms[::2], terms[1::2], strict=False)]
            terms = pairs if len(terms) % 2 == 0 else [*pairs, terms[-1]]
        result = terms[-1]
        for term in reversed(terms[:-1]):
            result = self.fma(result, stride, term)
        return result

    def abs(self, x: ir.Value) -> ir.Value:
        return self.intrinsic("llvm.fabs", x)

    def copysign(self, magnitude: ir.Value, sign: ir.Value) -> ir.Value:
        return self.intrinsic("llvm.copysign", magnitude, sign)

    def sqrt(self, x: ir.Value) -> ir.Value:
        return self.intrinsic("llvm.sqrt", x)

    def at_least(self, x: ir.Value, bound: float) -> ir.Value:
        """max(x, bound) that keeps NaN; the operand order is the one of x86's maxps, one instruction."""
        low = self.const(bound)
        return self.b.select(self.b.fcmp_ordered("<", x, low), low, x)

    def at_most(self, x: ir.Value, bound: float) -> ir.Value:
        """min(x, bound) that keeps NaN."""
        high = self.const(bound)
        return self.b.select(self.b.fcmp_ordered(">", x, high), high, x)

    def clamp(self, x: ir.Value, low: float, high: float) -> ir.Value:
        return self.at_most(self.at_least(x, low), high)

    def as_int(self, x: ir.Value) -> ir.Value:
        return self.b.bitcast(x, self.int)

    def as_float(self, x: ir.Value) -> ir.Value:
        return self.b.bitcast(x, self.float)

    def unsigned_to_float(self, x: ir.Value, offset: int = 0) -> ir.Value:
        """An integer below 2^mantissa as a float, minus `offset`: exact, and possible without a 64-bit conversion."""
        shifted = self.as_float(self.b.or_(x, self.word((self.bias + self.mantissa) << self.mantissa)))
        return self.b.fsub(shifted, self.const(2.0**self.mantissa + offset))

    def is_nan(self, x: ir.Value) -> ir.Value:
        return self.b.fcmp_unordered("uno", x, x)

    def any(self, mask: ir.Value) -> ir.Value:
        """Whether a lane of an i1 mask is set."""
        if self.count is None:
            return mask
        return declarations.call(self.b, f"llvm.vector.reduce.or.v{self.count}i1", ir.IntType(1), [mask])

    def two_sum(self, x: ir.Value, y: ir.Value) -> tuple[ir.Value, ir.Value]:
        """x + y as the rounded sum and its exact error (Knuth)."""
        b = self.b
        total = b.fadd(x, y)
        part = b.fsub(total, x)
        return total, b.fadd(b.fsub(x, b.fsub(total, part)), b.fsub(y, part))

    def fast_two_sum(self, large: ir.Value, small: ir.Value) -> tuple[ir.Value, ir.Value]:
        """`two_sum` for |large| >= |small| (Dekker)."""
        total = self.b.fadd(large, small)
        return total, self.b.fsub(small, self.b.fsub(total, large))

    def two_product(self, x: ir.Value, y: ir.Value) -> tuple[ir.Value, ir.Value]:
        """x * y as the rounded product and its exact error (by fma, else Veltkamp's splitting)."""
        b = self.b
        product = b.fmul(x, y)
        if self.options.fma:
            return product, self.fma(x, y, b.fneg(product))
        x1, x2 = self._split(x)
        y1, y2 = self._split(y)
        error = b.fsub(b.fmul(x1, y1), product)
        error = b.fadd(b.fadd(error, b.fmul(x1, y2)), b.fmul(x2, y1))
        return product, b.fadd(error, b.fmul(x2, y2))

    def _split(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """x as two halves whose products are exact."""
        b = self.b
        scaled = b.fmul(x, self.const(2.0 ** ((self.mantissa + 2) // 2) + 1))
        high = b.fsub(scaled, b.fsub(scaled, x))
        return high, b.fsub(x, high)
