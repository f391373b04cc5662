"""Reductions, with axes as an attribute (older opsets) or as an input; ArgMax, ArgMin, CumSum and CumProd."""

from __future__ import annotations

from collections.abc import Callable

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.axes import by_axis, reduced
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Row, Table
from ingot.compiler.ir.graph import Node, Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops import reduction
from ingot.compiler.ops.quantised import working_type
from ingot.runtime.dtypes import f64, i64

TABLE = Table()


def _reduced(op: Callable[..., Node]) -> Callable[..., Value]:
    def reduce(ctx: Context, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
        return ctx.build(op, x, axes, keepdims)

    return reduce


def _l1(ctx: Context, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    return ctx.build(reduction.ReduceSum, ctx.build(ops.Abs, x), axes, keepdims)


def _squares(ctx: Context, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    return ctx.build(reduction.ReduceSum, ctx.build(ops.Mul, x, x), axes, keepdims)


def _l2(ctx: Context, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    return ctx.build(ops.Sqrt, _squares(ctx, x, axes, keepdims))


def _log_sum(ctx: Context, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    return ctx.build(ops.Log, ctx.build(reduction.ReduceSum, x, axes, keepdims))


def _log_sum_exp(ctx: Context, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    """max + log(sum(exp(x - max))), with an infinite max taken as 0 so that no inf - inf arises."""
    largest = ctx.build(reduction.ReduceMax, x, axes, True)
    zero = ctx.constant(0, x.dtype)
    finite = ctx.build(ops.Where, ctx.build(ops.IsInf, largest), zero, largest)
    powers = ctx.build(ops.Exp, ctx.build(ops.Sub, x, finite))
    logarithm = ctx.build(ops.Log, ctx.build(reduction.ReduceSum, powers, axes, keepdims))
    kept = finite if keepdims else ctx.build(reduction.ReduceSum, finite, axes, False)
    return ctx.build(ops.Add, logarithm, kept)


def _wide(reduce: Callable[..., Value]) -> Callable[..., Value]:
    """A reduction in several steps: of halves in f32 and rounded once, as squares of 256 and more are no halves."""

    def row(ctx: Context, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
        if not x.dtype.is_float:
            return reduce(ctx, x, axes, keepdims)
        return ctx.cast(reduce(ctx, ctx.cast(x, working_type(x.dtype)), axes, keepdims), x.dtype)

    return row


def _in_floats(reduce: Callable[..., Value]) -> Callable[..., Value]:
    """A reduction that has fractions on the way, of integers too: computed in f64, its fraction dropped."""

    def row(ctx: Context, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
        if x.dtype.is_float:
            return _wide(reduce)(ctx, x, axes, keepdims)
        return ctx.build(ops.Cast, reduce(ctx, ctx.build(ops.Cast, x, f64), axes, keepdims), x.dtype)

    return row


REDUCTIONS: dict[str, Callable[..., Value]] = {
    "ReduceSum": _reduced(reduction.ReduceSum),
    "ReduceMean": _reduced(reduction.ReduceMean),
    "ReduceMax": _reduced(reduction.ReduceMax),
    "ReduceMin": _reduced(reduction.ReduceMin),
    "ReduceProd": _reduced(reduction.ReduceProd),
    "ReduceL1": _l1,
    "ReduceL2": _in_floats(_l2),
    "ReduceLogSum": _in_floats(_log_sum),
    "ReduceLogSumExp": _in_floats(_log_sum_exp),
    "ReduceSumSquare": _wide(_squares),
}


def _with_attribute(reduce: Callable[..., Value]) -> Row:
    def row(ctx: Context) -> Results:
        x = ctx.operand(0)
        axes = ctx.ints("axes")
        chosen = ctx.axes(axes, x.rank) if axes is not None else tuple(range(x.rank))
        return reduce(ctx, x, chosen, bool(ctx.attribute("keepdims", 1)))

    return row


def _with_input(reduce: Callable[..., Value]) -> Row:
    def row(ctx: Context) -> Results:
        x = ctx.operand(0)
        keepdims, keep_all = bool(ctx.attribute("keepdims", 1)), ctx.attribute("noop_with_empty_axes", 0)
        given = ctx.optional(1)
        if given is not None and given.type.size != 0 and ctx.known(given) is None:
            return reduced(ctx, reduce, x, given, keepdims)
        axes = ctx.fixed(1, "the axes") if given is not None and given.type.size != 0 else ()
        chosen = ctx.axes(axes, x.rank)
        if not axes and not keep_all:
            chosen = tuple(range(x.rank))
        return reduce(ctx, x, chosen, keepdims)

    return row


for _name, _reduce in REDUCTIONS.items():
    TABLE.add(_name, _with_attribute(_reduce), since=1)
    TABLE.add(_name, _with_input(_reduce), since=13 if _name == "ReduceSum" else 18)


def _has_results_without(x: Value, axis: int) -> bool:
    """Whether there may be something to choose when the axis has no elements: not where another is as long."""
    extent = x.shape[axis]
    return isinstance(extent, int) or all(i == axis or d != extent for i, d in enumerate(x.shape))


def _arg(op: Callable[..., Node]) -> Row:
    def row(ctx: Context) -> Results:
        x = ctx.operand(0)
        axis = ctx.axis(ctx.attribute("axis", 0), x.rank)
        keepdims, last = bool(ctx.attribute("keepdims", 1)), bool(ctx.attribute("select_last_index", 0))
        need, extent = f"{ctx.node.op_type} chooses among the elements of axis {axis}", x.shape[axis]
        if _has_results_without(x, axis):
            ctx.at_least(extent, 1, need)
            if ctx.scope.is_closed:  # where the inputs are not restricted, as this may not run
                some = ctx.build(ops.Greater, ctx.dim_values((extent,), True), ctx.constant(0, i64))
                ctx.require(some, f"{need}, but there are none")
        return ctx.build(op, x, axis, keepdims, last)

    return row


TABLE.add("ArgMax", _arg(reduction.ArgMax))
TABLE.add("ArgMin", _arg(reduction.ArgMin))


def _cumulative(op: Callable[..., Node]) -> Row:
    def row(ctx: Context) -> Results:
        x, given = ctx.operand(0), ctx.operand(1)
        exclusive, reverse = bool(ctx.attribute("exclusive", 0)), bool(ctx.attribute("reverse", 0))

        def along(axis: int) -> Value:
            return ctx.build(op, x, axis, exclusive, reverse)

        if ctx.known(given) is None:
            return by_axis(ctx, given, x.rank, along)
        axes = ctx.fixed(1, "the axis")
        if len(axes) != 1:
            raise ctx.error(f"one axis is needed, not {list(axes)}")
        return along(ctx.axis(axes[0], x.rank))

    return row


TABLE.add("CumSum", _cumulative(reduction.CumSum), since=11)
TABLE.add("CumProd", _cumulative(reduction.CumProd), since=26)
