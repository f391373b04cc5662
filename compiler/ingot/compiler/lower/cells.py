"""The arithmetic of one unit of a recurrent cell, as level-2 expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ingot.compiler.ir.loops import Call, Const, Expr
from ingot.compiler.ops.recurrent import Activation
from ingot.runtime.dtypes import DType, boolean


@dataclass(frozen=True)
class Arithmetic:
    """Expressions of one float type; `clip` bounds what goes into the gates' activation functions."""

    dtype: DType
    clip: float | None = None

    def literal(self, value: float) -> Const:
        """A literal of the type."""
        return Const(float(value), self.dtype)

    def call(self, fn: str, *args: Expr) -> Expr:
        """A scalar function with arguments and result of the type."""
        return Call(fn, args, self.dtype)

    def sum(self, *terms: Expr | None) -> Expr:
        """The sum of the terms that are there; 0 where none is."""
        total: Expr | None = None
        for term in terms:
            if term is not None:
                total = term if total is None else self.call("add", total, term)
        return self.literal(0) if total is None else total

    def blend(self, weight: Expr, a: Expr, b: Expr) -> Expr:
        """``(1 - weight) * a + weight * b``"""
        rest = self.call("sub", self.literal(1), weight)
        return self.call("add", self.call("mul", rest, a), self.call("mul", weight, b))

    def gate(self, function: Activation, x: Expr) -> Expr:
        """The activation of a gate: its argument is clipped."""
        if self.clip is not None:
            x = self.call("clip", x, self.literal(-self.clip), self.literal(self.clip))
        return self.activate(function, x)

    def activate(self, function: Activation, x: Expr) -> Expr:
        """``function(x)``"""
        alpha, beta = self.literal(function.alpha), self.literal(function.beta)
        zero, one = self.literal(0), self.literal(1)
        match function.name:
            case "Sigmoid" | "Tanh" | "Relu" | "Softplus":
                return self.call(function.name.lower(), x)
            case "Affine":
                return self.call("fma", alpha, x, beta)
            case "HardSigmoid":
                return self.call("clip", self.call("fma", alpha, x, beta), zero, one)
            case "ScaledTanh":
                return self.call("mul", alpha, self.call("tanh", self.call("mul", beta, x)))
            case "LeakyRelu":
                return self.call("select", Call("lt", (x, zero), boolean), self.call("mul", alpha, x), x)
            case "Elu":
                below = self.call("mul", alpha, self.call("expm1", x))
                return self.call("select", Call("lt", (x, zero), boolean), below, x)
            case "ThresholdedRelu":
                return self.call("select", Call("gt", (x, alpha), boolean), x, zero)
            case "Softsign":
                return self.call("div", x, self.call("add", one, self.call("abs", x)))
            case name:
                raise ValueError(f"no expression for activation function {name!r}")


Keep = Callable[[str, Expr], Expr]  # gives an expression a name, so that it is computed once


def rnn(m: Arithmetic, functions: Sequence[Activation], total: Expr) -> Expr:
    """The hidden state from the sum of input and recurrent part."""
    return m.gate(functions[0], total)


def gru_candidate(m: Arithmetic, functions: Sequence[Activation], total: Expr, z: Expr, h: Expr) -> Expr:
    """The hidden state from the candidate's sum, the update gate and the state before."""
    return m.blend(z, m.gate(functions[1], total), h)


def lstm(
    m: Arithmetic,
    functions: Sequence[Activation],
    sums: Mapping[str, Expr],
    peepholes: Mapping[str, Expr],
    c: Expr,
    keep: Keep,
) -> tuple[Expr, Expr]:
    """The new (h, c) from the sums of gates i, o, f, c (no f: it is ``1 - i``), peephole weights and the old c."""
    f, g, last = functions

    def peeped(gate: str, cell: Expr) -> Expr:
        weight = peepholes.get(gate)
        return sums[gate] if weight is None else m.call("fma", weight, cell, sums[gate])

    i = keep("i", m.gate(f, peeped("i", c)))
    forget = m.gate(f, peeped("f", c)) if "f" in sums else m.call("sub", m.literal(1), i)
    candidate = m.gate(g, sums["c"])
    new = keep("c", m.call("fma", forget, c, m.call("mul", i, candidate)))
    o = m.gate(f, peeped("o", new))
    return m.call("mul", o, m.activate(last, new)), new
