"""Recurrent layers: RNN, GRU and LSTM of ONNX, one direction or both.

Letters: T steps, N batch rows, D directions, I inputs and H hidden units. `layout` 0 puts time first (x [T, N, I],
states [D, N, H]), 1 the batch (x [N, T, I], states [N, D, H]). Gates lie one after the other in the weights' second
axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Array, Node, Value, fields_of, op
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import equal_dims, fail, require_kind, same_dtype
from ingot.compiler.ops.numeric import sigmoid
from ingot.compiler.ops.pointwise import FLOAT

DIRECTIONS = ("forward", "reverse", "bidirectional")


@dataclass(frozen=True)
class ActivationKind:
    """An activation function that cells may use: on f64 data with its alpha and beta, how many of the two it has, and
    the values of those that have a default."""

    compute: Callable[[Array, float, float], Array]
    parameters: int = 0
    defaults: tuple[float, ...] = ()


ACTIVATIONS: Mapping[str, ActivationKind] = {
    "Sigmoid": ActivationKind(lambda x, a, b: sigmoid(x)),
    "Tanh": ActivationKind(lambda x, a, b: np.tanh(x)),
    "Relu": ActivationKind(lambda x, a, b: np.maximum(x, 0)),
    "Affine": ActivationKind(lambda x, a, b: a * x + b, 2),
    "LeakyRelu": ActivationKind(lambda x, a, b: np.where(x < 0, a * x, x), 1, (0.01,)),
    "ThresholdedRelu": ActivationKind(lambda x, a, b: np.where(x > a, x, 0), 1, (1.0,)),
    "ScaledTanh": ActivationKind(lambda x, a, b: a * np.tanh(b * x), 2),
    "HardSigmoid": ActivationKind(lambda x, a, b: np.clip(a * x + b, 0, 1), 2, (0.2, 0.5)),
    "Elu": ActivationKind(lambda x, a, b: np.where(x < 0, a * np.expm1(x), x), 1, (1.0,)),
    "Softsign": ActivationKind(lambda x, a, b: x / (1 + np.abs(x))),
    "Softplus": ActivationKind(lambda x, a, b: np.logaddexp(x, 0)),
}


@dataclass(frozen=True)
class Activation:
    """An activation function with its parameters."""

    name: str
    alpha: float
    beta: float

    def __call__(self, x: Array) -> Array:
        return ACTIVATIONS[self.name].compute(x, self.alpha, self.beta)


@dataclass(frozen=True)
class Weights:
    """One direction's operands as f64 arrays: w [G*H, I], r [G*H, H], b [2*G*H] (zeros where left out), p [3*H] or
    None, and its activation functions."""

    w: Array
    r: Array
    b: Array
    p: Array | None
    functions: tuple[Activation, ...]


class Recurrent(Node):
    """What the layers share. `activations`, `activation_alpha` and `activation_beta` have one entry for each function
    of each direction (0 where a function has no such parameter). `clip` bounds what goes into the gates' functions."""

    gates: ClassVar[int]
    slots: ClassVar[int]  # activation functions a direction
    states: ClassVar[int] = 1  # hidden state, cell state
    x: Value
    w: Value
    r: Value
    b: Value | None
    sequence_lens: Value | None
    initial_h: Value | None
    activations: tuple[str, ...]
    activation_alpha: tuple[float, ...]
    activation_beta: tuple[float, ...]
    clip: float | None
    direction: str
    layout: int

    @property
    def directions(self) -> int:
        """D"""
        return 2 if self.direction == "bidirectional" else 1

    @property
    def hidden(self) -> int:
        """H"""
        size = self.r.type.shape[2]
        assert isinstance(size, int)
        return size

    @property
    def steps(self) -> Dim:
        """T"""
        return self.x.type.shape[self.layout]

    @property
    def batch(self) -> Dim:
        """N"""
        return self.x.type.shape[1 - self.layout]

    def functions(self, direction: int) -> tuple[Activation, ...]:
        """The activation functions of one direction."""
        every = zip(self.activations, self.activation_alpha, self.activation_beta, strict=True)
        start = direction * self.slots
        return tuple(Activation(*entry) for entry in every)[start : start + self.slots]

    # -- types --------------------------------------------------------------------------------------------------------

    def infer(self) -> Sequence[TensorType]:
        if self.direction not in DIRECTIONS:
            fail(self, f"direction is {self.direction!r}, not one of {', '.join(DIRECTIONS)}")
        if self.layout not in (0, 1):
            fail(self, f"layout is {self.layout}, 0 or 1 is needed")
        self._check_functions()
        floats = [v for name, v in self.named_operands() if name != "sequence_lens"]
        dtype = same_dtype(self, *floats)
        require_kind(self, self.x, FLOAT, "x")
        for value, what in ((self.x, "x"), (self.w, "w"), (self.r, "r")):
            if value.rank != 3:
                fail(self, f"{what} is {value.type}: rank 3 is needed")
        hidden = self.r.type.shape[2]
        if not isinstance(hidden, int) or hidden < 1:
            fail(self, f"the hidden size of r {self.r.type} must be a positive constant")
        wide = self.gates * hidden
        self._check_shape("w", self.w, (self.directions, wide, self.x.type.shape[2]))
        self._check_shape("r", self.r, (self.directions, wide, hidden))
        state = self._state_shape(hidden)
        for name, value in self.named_operands():
            match name:
                case "b":
                    self._check_shape(name, value, (self.directions, 2 * wide))
                case "p":
                    self._check_shape(name, value, (self.directions, 3 * hidden))
                case "sequence_lens":
                    if not value.dtype.is_integer:
                        fail(self, f"sequence_lens is {value.type}: integers are needed")
                    self._check_shape(name, value, (self.batch,))
                case "initial_h" | "initial_c":
                    self._check_shape(name, value, state)
                case _:
                    pass
        if self.layout:
            whole = (self.batch, self.steps, self.directions, hidden)
        else:
            whole = (self.steps, self.directions, self.batch, hidden)
        return [TensorType(dtype, whole), *[TensorType(dtype, state)] * self.states]

    def named_operands(self) -> Iterator[tuple[str, Value]]:
        """The operands that are present, by field, in order."""
        for f in fields_of(self):
            value = getattr(self, f.name)
            if isinstance(value, Value):
                yield f.name, value

    def _state_shape(self, hidden: int) -> tuple[Dim, ...]:
        pair = (self.batch, self.directions) if self.layout else (self.directions, self.batch)
        return (*pair, hidden)

    def _check_functions(self) -> None:
        for name in self.activations:
            if name not in ACTIVATIONS:
                fail(self, f"unknown activation function {name!r}; there are {', '.join(ACTIVATIONS)}")
        want = self.slots * self.directions
        for what, entries in (
            ("activations", self.activations),
            ("activation_alpha", self.activation_alpha),
            ("activation_beta", self.activation_beta),
        ):
            if len(entries) != want:
                fail(self, f"{what} has {len(entries)} entries, {want} are needed ({self.direction})")
        if self.clip is not None and not self.clip >= 0:
            fail(self, f"clip is {self.clip}, a bound of 0 or more is needed")

    def _check_shape(self, what: str, value: Value, shape: Sequence[Dim]) -> None:
        if value.rank != len(shape):
            fail(self, f"{what} is {value.type}: rank {len(shape)} is needed")
        for have, want in zip(value.type.shape, shape, strict=True):
            equal_dims(self, have, want, f"{what} {value.type} and the shape {TensorType(value.dtype, tuple(shape))}")

    # -- meaning ------------------------------------------------------------------------------------------------------

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        """In f64, rounded once. Rows past their sequence_lens are 0 in Y and leave the states as they are; a reverse
        direction starts at the end of each sequence."""
        given = dict(zip((name for name, _ in self.named_operands()), operands, strict=True))
        wide = {name: a.astype(np.float64) for name, a in given.items() if name != "sequence_lens"}
        x = np.swapaxes(wide["x"], 0, 1) if self.layout else wide["x"]
        steps, batch, _ = x.shape
        every = np.full(batch, steps, np.int64)
        lengths = given["sequence_lens"].astype(np.int64) if self.sequence_lens is not None else every
        if np.any((lengths < 0) | (lengths > steps)):
            fail(self, f"sequence_lens {lengths.tolist()} are outside 0..{steps}")
        hidden = self.hidden
        y = np.zeros((steps, self.directions, batch, hidden))
        finals = [np.zeros((self.directions, batch, hidden)) for _ in range(self.states)]
        for state, name in zip(finals, ("initial_h", "initial_c"), strict=False):
            if name in wide:
                state[...] = np.swapaxes(wide[name], 0, 1) if self.layout else wide[name]
        rows = np.arange(int(batch))
        with np.errstate(all="ignore"):
            for d in range(self.directions):
                bias = wide["b"][d] if "b" in wide else np.zeros(2 * self.gates * hidden)
                peepholes = wide["p"][d] if "p" in wide else None
                weights = Weights(wide["w"][d], wide["r"][d], bias, peepholes, self.functions(d))
                backwards = self.direction == "reverse" or d == 1
                for t in range(steps):
                    valid = t < lengths
                    place = np.where(valid & backwards, lengths - 1 - t, t)
                    new = self.step(weights, x[place, rows], tuple(state[d] for state in finals))
                    y[place, d, rows] = np.where(valid[:, None], new[0], 0)
                    for state, value in zip(finals, new, strict=True):
                        state[d] = np.where(valid[:, None], value, state[d])
        if self.layout:
            y, finals = np.moveaxis(y, 2, 0), [np.swapaxes(state, 0, 1) for state in finals]
        return tuple(np.ascontiguousarray(a).astype(self.x.dtype.to_numpy()) for a in (y, *finals))

    def step(self, weights: Weights, x: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
        """The states [N, H] after one step from x [N, I] and the states before."""
        raise NotImplementedError(type(self).__name__)

    def clipped(self, x: Array) -> Array:
        """What goes into the activation function of a gate."""
        return x if self.clip is None else np.clip(x, -self.clip, self.clip)


@op("rnn")
class RNN(Recurrent):
    """``h = f(x w' + h r' + wb + rb)``. ONNX RNN-22: x, w [D, H, I], r [D, H, H], b [D, 2*H] (wb, rb) -> y, y_h."""

    gates = 1
    slots = 1

    x: Value
    w: Value
    r: Value
    b: Value | None
    sequence_lens: Value | None
    initial_h: Value | None
    activations: tuple[str, ...]
    activation_alpha: tuple[float, ...]
    activation_beta: tuple[float, ...]
    clip: float | None
    direction: str
    layout: int

    def step(self, weights: Weights, x: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
        total = x @ weights.w.T + states[0] @ weights.r.T + weights.b.reshape(2, -1).sum(0)
        return (weights.functions[0](self.clipped(total)),)


@op("gru")
class GRU(Recurrent):
    """Gates z, r, h (Cho et al. 2014). ONNX GRU-22: w [D, 3*H, I], r [D, 3*H, H], b [D, 6*H] -> y, y_h.

    ``z = f(x wz' + h rz' + bz)``, ``r = f(x wr' + h rr' + br)``, ``c = g(x wh' + (r * h) rh' + wbh + rbh)`` or with
    `linear_before_reset` ``c = g(x wh' + r * (h rh' + rbh) + wbh)``, ``h = (1 - z) * c + z * h``.
    """

    gates = 3
    slots = 2

    x: Value
    w: Value
    r: Value
    b: Value | None
    sequence_lens: Value | None
    initial_h: Value | None
    activations: tuple[str, ...]
    activation_alpha: tuple[float, ...]
    activation_beta: tuple[float, ...]
    clip: float | None
    direction: str
    layout: int
    linear_before_reset: bool

    def step(self, weights: Weights, x: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
        (h,) = states
        f, g = weights.functions
        wz, wr, wh = np.split(x @ weights.w.T, 3, axis=1)
        rz, rr, rh = np.split(weights.r, 3)
        bz, br, bh, cz, cr, ch = np.split(weights.b, 6)
        z = f(self.clipped(wz + h @ rz.T + bz + cz))
        r = f(self.clipped(wr + h @ rr.T + br + cr))
        past = r * (h @ rh.T + ch) if self.linear_before_reset else (r * h) @ rh.T + ch
        c = g(self.clipped(wh + past + bh))
        return ((1 - z) * c + z * h,)


@op("lstm")
class LSTM(Recurrent):
    """Gates i, o, f, c (Hochreiter and Schmidhuber 1997; peepholes of Gers and Schmidhuber 2000). ONNX LSTM-22:
    w [D, 4*H, I], r [D, 4*H, H], b [D, 8*H], p [D, 3*H] (i, o, f) -> y, y_h, y_c.

    ``i = f(x wi' + h ri' + pi * c + bi)``, ``f`` alike, ``c = f * c + i * g(x wc' + h rc' + bc)``,
    ``o = f(x wo' + h ro' + po * c + bo)`` with the new c, ``h = o * h(c)``. With `input_forget` f is ``1 - i``.
    """

    gates = 4
    slots = 3
    states = 2

    x: Value
    w: Value
    r: Value
    b: Value | None
    sequence_lens: Value | None
    initial_h: Value | None
    initial_c: Value | None
    p: Value | None
    activations: tuple[str, ...]
    activation_alpha: tuple[float, ...]
    activation_beta: tuple[float, ...]
    clip: float | None
    direction: str
    layout: int
    input_forget: bool

    def step(self, weights: Weights, x: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
        h, c = states
        f, g, last = weights.functions
        total = x @ weights.w.T + h @ weights.r.T + weights.b.reshape(2, -1).sum(0)
        si, so, sf, sc = np.split(total, 4, axis=1)
        pi, po, pf = np.split(weights.p, 3) if weights.p is not None else (0.0, 0.0, 0.0)
        i = f(self.clipped(si + pi * c))
        forget = 1 - i if self.input_forget else f(self.clipped(sf + pf * c))
        c = forget * c + i * g(self.clipped(sc))
        o = f(self.clipped(so + po * c))
        return o * last(c), c


def resolve_activations(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]
) -> tuple[tuple[str, ...], tuple[float, ...], tuple[float, ...]]:
    """One alpha and beta a function, from lists that only the functions with such a parameter consume, in order.

    Names are matched without regard to case; unknown ones stay as they are. Raises ValueError for a value that is
    missing and has no default, and for values other than 0 that no function takes.
    """
    known = {name.lower(): name for name in ACTIVATIONS}
    resolved = tuple(known.get(given.lower(), given) for given in names)
    alpha, beta = (_consumed(resolved, i, values) for i, values in enumerate((alphas, betas)))
    return resolved, alpha, beta


def _consumed(names: Sequence[str], index: int, values: Sequence[float]) -> tuple[float, ...]:
    """Parameter `index` (alpha, beta) of each function."""
    left = list(values)
    taken: list[float] = []
    what = ("activation_alpha", "activation_beta")[index]
    for name in names:
        kind = ACTIVATIONS.get(name)
        if kind is None or kind.parameters <= index:
            taken.append(0.0)
        elif left:
            taken.append(left.pop(0))
        elif len(kind.defaults) > index:
            taken.append(kind.defaults[index])
        else:
            raise ValueError(f"{what} has no value for {name}, which has no default")
    if any(left):
        raise ValueError(f"{what} has the values {left} that no activation function takes")
    return tuple(taken)


__all__ = ["ACTIVATIONS", "DIRECTIONS", "GRU", "LSTM", "RNN", "Activation", "Recurrent", "resolve_activations"]
