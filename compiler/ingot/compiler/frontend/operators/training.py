"""Update rules of optimisers (ai.onnx.preview.training): one step of training as a graph."""

from __future__ import annotations

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import TRAINING, Table
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops

TABLE = Table(domain=TRAINING)
onnx_op = TABLE.onnx_op


class _Update:
    """The learning rate, the number of the step, and arithmetic in which numbers take the type of the other operand."""

    def __init__(self, ctx: Context, groups: int) -> None:
        self.ctx = ctx
        self.rate, self.step = ctx.scalar(ctx.operand(0)), ctx.scalar(ctx.operand(1))
        tensors = ctx.variadic(2)
        if len(tensors) % groups:
            raise ctx.error(f"{len(tensors)} tensors to be updated: {groups} are needed for each weight")
        count = len(tensors) // groups
        self.weights = [tuple(tensors[i + k * count] for k in range(groups)) for i in range(count)]

    def value(self, x: Value | float, like: Value) -> Value:
        if not isinstance(x, Value):
            return self.ctx.constant(x, like.dtype)
        return self.ctx.cast(x, like.dtype)

    def add(self, a: Value, b: Value | float) -> Value:
        return self.ctx.pointwise(ops.Add, a, self.value(b, a))

    def sub(self, a: Value, b: Value | float) -> Value:
        return self.ctx.pointwise(ops.Sub, a, self.value(b, a))

    def mul(self, a: Value, b: Value | float) -> Value:
        return self.ctx.pointwise(ops.Mul, a, self.value(b, a))

    def div(self, a: Value, b: Value | float) -> Value:
        return self.ctx.pointwise(ops.Div, a, self.value(b, a))

    def started(self, later: Value | float, first: float | Value, like: Value) -> Value:
        """`later`, but `first` in step 0."""
        beyond = self.ctx.build(ops.Greater, self.step, self.ctx.constant(0, self.step.dtype))
        return self.ctx.build(ops.Where, beyond, self.value(later, like), self.value(first, like))

    def regularised(self, x: Value, gradient: Value) -> Value:
        return self.add(gradient, self.mul(x, self.ctx.attribute("norm_coefficient", 0.0)))


def _by_kind(rows: list[tuple[Value, ...]]) -> Results:
    """First all new weights, then each kind of state for all weights."""
    return [row[kind] for kind in range(len(rows[0])) for row in rows]


@onnx_op("Momentum")
def momentum(ctx: Context) -> Results:
    u, mode = _Update(ctx, 3), ctx.attribute("mode", "")
    alpha, beta = ctx.attribute("alpha", 0.0), ctx.attribute("beta", 0.0)
    if mode not in ("standard", "nesterov"):
        raise ctx.error(f"unknown mode {mode!r}")
    rows: list[tuple[Value, ...]] = []
    for x, given, v in u.weights:
        gradient = u.regularised(x, given)
        new = u.add(u.mul(v, alpha), u.mul(gradient, u.started(beta, 1.0, gradient)))
        direction = new if mode == "standard" else u.add(gradient, u.mul(new, alpha))
        rows.append((u.sub(x, u.mul(direction, u.rate)), new))
    return _by_kind(rows)


@onnx_op("Adagrad")
def adagrad(ctx: Context) -> Results:
    """Duchi, Hazan, Singer 2011."""
    u, epsilon, decay = _Update(ctx, 3), ctx.attribute("epsilon", 0.0), ctx.attribute("decay_factor", 0.0)
    rows: list[tuple[Value, ...]] = []
    for x, given, h in u.weights:
        gradient = u.regularised(x, given)
        rate = u.div(u.value(u.rate, x), u.add(u.mul(u.value(u.step, x), decay), 1.0))
        new = u.add(h, u.mul(gradient, gradient))
        scale = u.add(ctx.build(ops.Sqrt, new), epsilon)
        rows.append((u.sub(x, u.div(u.mul(gradient, rate), scale)), new))
    return _by_kind(rows)


@onnx_op("Adam")
def adam(ctx: Context) -> Results:
    """Kingma, Ba 2014."""
    u, epsilon = _Update(ctx, 4), ctx.attribute("epsilon", 0.0)
    alpha, beta = ctx.attribute("alpha", 0.9), ctx.attribute("beta", 0.999)
    post = ctx.attribute("norm_coefficient_post", 0.0)
    rows: list[tuple[Value, ...]] = []
    for x, given, v, h in u.weights:
        gradient = u.regularised(x, given)
        first = u.add(u.mul(v, alpha), u.mul(gradient, 1 - alpha))
        second = u.add(u.mul(h, beta), u.mul(u.mul(gradient, gradient), 1 - beta))
        rate, step = u.value(u.rate, x), u.value(u.step, x)

        def rest(base: float, step: Value = step) -> Value:
            """``1 - base ** step``"""
            return ctx.build(ops.Sub, u.value(1.0, step), ctx.build(ops.Pow, u.value(base, step), step))

        corrected = u.div(u.mul(rate, ctx.build(ops.Sqrt, rest(beta))), rest(alpha))
        quotient = u.div(first, u.add(ctx.build(ops.Sqrt, second), epsilon))
        moved = u.sub(x, u.mul(quotient, u.started(corrected, rate, x)))
        rows.append((moved if post == 0.0 else u.mul(moved, 1 - post), first, second))
    return _by_kind(rows)
