"""Recurrent layers."""

from __future__ import annotations

from typing import NamedTuple

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ir.types import show_shape
from ingot.compiler.ops import recurrent as ops

TABLE = Table()
onnx_op = TABLE.onnx_op


class _Operands(NamedTuple):
    """Inputs 0 to 5, which all layers share, with the dims that must be equal learnt."""

    x: Value
    w: Value
    r: Value
    b: Value | None
    sequence_lens: Value | None
    initial_h: Value | None


STANDARD = {"RNN": ("Tanh", "Tanh")}
"""What the standard gives `activations` by default, for two directions where there is one too: ONNX Runtime's optimiser
writes it out."""


class _Attributes(NamedTuple):
    """The attributes that all layers share, in the order of the ops' fields."""

    activations: tuple[str, ...]
    activation_alpha: tuple[float, ...]
    activation_beta: tuple[float, ...]
    clip: float | None
    direction: str
    layout: int


def _attributes(ctx: Context, defaults: tuple[str, ...]) -> _Attributes:
    direction = ctx.attribute("direction", "forward").lower()
    if direction not in ops.DIRECTIONS:
        raise ctx.error(f"direction is {direction!r}, not one of {', '.join(ops.DIRECTIONS)}")
    count = 2 if direction == "bidirectional" else 1
    names = ctx.strings("activations") or defaults * count
    if tuple(names) == STANDARD.get(ctx.node.op_type):
        names = names[: len(defaults) * count]
    if len(names) != len(defaults) * count:
        raise ctx.error(f"{len(names)} activations are named, {len(defaults) * count} are needed")
    unknown = [n for n in names if n.lower() not in {known.lower() for known in ops.ACTIVATIONS}]
    if unknown:
        raise ctx.unsupported(f"activation {unknown[0]!r}", f"known are {', '.join(ops.ACTIVATIONS)}")
    alpha, beta = ctx.floats("activation_alpha") or (), ctx.floats("activation_beta") or ()
    try:
        functions = ops.resolve_activations(names, alpha, beta)
    except ValueError as error:
        raise ctx.error(str(error)) from error
    clip = ctx.maybe("clip", float)
    layout = ctx.attribute("layout", 0)
    if layout not in (0, 1):
        raise ctx.error(f"layout is {layout}, 0 or 1 is needed")
    return _Attributes(*functions, clip, direction, layout)


def _operands(ctx: Context, gates: int, direction: str, layout: int) -> _Operands:
    ctx.ignore("output_sequence")  # before opset 7: whether Y is wanted at all
    x, w, r = ctx.operand(0), ctx.operand(1), ctx.operand(2)
    b, lens, initial = ctx.optional(3), ctx.optional(4), ctx.optional(5)
    for value, what in ((x, "X"), (w, "W"), (r, "R")):
        if value.rank != 3:
            raise ctx.error(f"{what} is {value.type}, rank 3 is needed")
    hidden = ctx.maybe("hidden_size", int)
    if hidden is None:
        known = r.shape[2]
        if not isinstance(known, int):
            raise ctx.unsupported("a hidden size that is not constant", "give the attribute hidden_size")
        hidden = known
    directions = 2 if direction == "bidirectional" else 1
    _expect(ctx, "W", w, directions, gates * hidden, x.shape[2])
    _expect(ctx, "R", r, directions, gates * hidden, hidden)
    if b is not None:
        _expect(ctx, "B", b, directions, 2 * gates * hidden)
    if lens is not None:
        _expect(ctx, "sequence_lens", lens, x.shape[1 - layout])
    if initial is not None:
        _expect_state(ctx, "initial_h", initial, x, directions, hidden, layout)
    return _Operands(x, w, r, b, lens, initial)


def _expect(ctx: Context, what: str, value: Value, *shape: Dim) -> None:
    """`value` must have this shape; what is not certain is learnt."""
    if value.rank != len(shape):
        raise ctx.error(f"{what} is {value.type}, rank {len(shape)} is needed")
    for have, want in zip(value.shape, shape, strict=True):
        if ctx.assumptions.differ(have, want):
            raise ctx.error(f"{what} is {value.type}, but the shape {show_shape(shape)} is needed")
        ctx.equal(have, want)


def _expect_state(ctx: Context, what: str, value: Value, x: Value, directions: int, hidden: int, layout: int) -> None:
    pair = (directions, x.shape[1 - layout])
    _expect(ctx, what, value, *(reversed(pair) if layout else pair), hidden)


@onnx_op("RNN")
def rnn(ctx: Context) -> Results:
    attributes = _attributes(ctx, ("Tanh",))
    operands = _operands(ctx, 1, attributes.direction, attributes.layout)
    return ctx.build(ops.RNN, *operands, *attributes).results()


@onnx_op("GRU")
def gru(ctx: Context) -> Results:
    attributes = _attributes(ctx, ("Sigmoid", "Tanh"))
    operands = _operands(ctx, 3, attributes.direction, attributes.layout)
    before_reset = bool(ctx.attribute("linear_before_reset", 0))
    return ctx.build(ops.GRU, *operands, *attributes, before_reset).results()


@onnx_op("LSTM")
def lstm(ctx: Context) -> Results:
    attributes = _attributes(ctx, ("Sigmoid", "Tanh", "Tanh"))
    operands = _operands(ctx, 4, attributes.direction, attributes.layout)
    initial, peepholes = ctx.optional(6), ctx.optional(7)
    directions, hidden = operands.r.shape[0], operands.r.shape[2]
    if isinstance(directions, int) and isinstance(hidden, int):
        if initial is not None:
            _expect_state(ctx, "initial_c", initial, operands.x, directions, hidden, attributes.layout)
        if peepholes is not None:
            _expect(ctx, "P", peepholes, directions, 3 * hidden)
    input_forget = bool(ctx.attribute("input_forget", 0))
    return ctx.build(ops.LSTM, *operands, initial, peepholes, *attributes, input_forget).results()
