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

    def weighted(self, total: Expr, weight: Expr | None, value: Expr) -> Expr:
        """``total + weight * value``, `total` where there is no weight."""
        return total if weight is None else self.call("fma", weight, value, total)

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


def lstm_state(
    m: Arithmetic,
    functions: Sequence[Activation],
    sums: Mapping[str, Expr],
    peepholes: Mapping[str, Expr | None],
    c: Expr,
    keep: Keep,
) -> Expr:
    """The new cell state from the sums of gates i, f, c (no f: it is ``1 - i``), peephole weights and the old c."""
    f, g, _ = functions
    i = keep("i", m.gate(f, m.weighted(sums["i"], peepholes["i"], c)))
    if "f" in sums:
        forget = m.gate(f, m.weighted(sums["f"], peepholes["f"], c))
    else:
        forget = m.call("sub", m.literal(1), i)
    return m.call("fma", forget, c, m.call("mul", i, m.gate(g, sums["c"])))


def lstm_output(m: Arithmetic, functions: Sequence[Activation], total: Expr, peephole: Expr | None, c: Expr) -> Expr:
    """The hidden state from the sum of gate o, its peephole weight and the new cell state."""
    f, _, last = functions
    return m.call("mul", m.gate(f, m.weighted(total, peephole, c)), m.activate(last, c))
