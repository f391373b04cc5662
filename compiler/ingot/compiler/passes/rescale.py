"""Requantisation with integer multipliers and shifts, as TOSA and accelerators have it, in the place of float scales.

What a Quantize makes of sums and products of integers times constant scales is computed in integers to its end:

    quantize(cast(sums) * s + b, t, z)          -> rescale(sums + round(b / s), s / t) + z
    quantize(dequantize(x, s, z), t, u)         -> rescale(x - z, s / t) + u
    quantize(dequantize(x) + dequantize(y), t)  -> rescale(rescale(x, s / c) + rescale(y, r / c), c / t)
    quantize(dequantize(x) * dequantize(y), t)  -> rescale((x - z) * (y - w), s * r / t)

All other functions of one byte are tables (`passes.bytewise`). A Relu or Clip in between becomes bounds of the result.
c is such that the sum never leaves 32 bits: of two operands of 8 bits twice the larger scale over 2**20, as in TFLite's
kernels and TOSA's legalisations of them, else what the largest values that there can be allow. Functions of several
operands that are not sums, and scales that are known at run time alone, stay floats.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.graph import Array, Constant, Graph, Value, constant
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Reshape, Transpose
from ingot.compiler.ops.pointwise import Add, Cast, Clip, Mul, Relu, Sub
from ingot.compiler.ops.quantised import Dequantize, Quantize, integer_range
from ingot.compiler.ops.reduction import ReduceMean, ReduceSum
from ingot.compiler.ops.rescale import NARROW_TYPES, Rescale, Rounding, multiplier_and_shift
from ingot.compiler.passes.bytewise import tabulate_all
from ingot.compiler.passes.exact_products import largest_sum
from ingot.compiler.rewrite import Patch, Rule, Trace, rewrite
from ingot.runtime.dtypes import DType, f32, f64, i8, i32, i64, u8

Scale: TypeAlias = NDArray[np.float64]
LEFT = 20  # bits that two operands of 8 bits are shifted to the left by before they are added
MOST_SUM = 1 << 30  # of what is rescaled to a common scale and added
MOST = 2**31 - 1
MOST_LONG = 1 << 47  # of sums of 48 bits
DEPTH = 16  # steps that are looked back


@dataclasses.dataclass(frozen=True, eq=False)
class _Term:
    """Integers less a zero point, if any, times a scale. `most` is the largest absolute value that they have less it,
    None where that is not known."""

    x: Value
    zero: Constant | None
    scale: Scale
    most: int | None

    def whole(self) -> Value:
        """The integers in i32, the zero point taken off."""
        x = self.x if self.x.dtype == i32 else Cast(self.x, i32)
        if self.zero is None or not self.zero.data.any():
            return x
        return Sub(x, constant(self.zero.data.astype(np.int32)))


@dataclasses.dataclass(frozen=True, eq=False)
class _Sum:
    """Terms and a constant that is added to them."""

    terms: tuple[_Term, ...]
    added: Scale | None = None

    def with_added(self, data: Scale) -> _Sum:
        """`data` added."""
        return dataclasses.replace(self, added=data if self.added is None else self.added + data)

    def times(self, factor: Scale) -> _Sum | None:
        """Everything times a positive `factor`."""
        if not bool(((factor > 0) & (factor < math.inf)).all()):
            return None
        terms = tuple(dataclasses.replace(term, scale=term.scale * factor) for term in self.terms)
        return _Sum(terms, None if self.added is None else self.added * factor)


def rescale_single(node: Quantize, graph: Graph) -> Patch | None:
    """quantize(sum of integers times scales) -> rescale(integers), rounded once"""
    return _rescaled(node, graph, "single")


def rescale_double(node: Quantize, graph: Graph) -> Patch | None:
    """quantize(sum of integers times scales) -> rescale(integers), rounded twice"""
    return _rescaled(node, graph, "double")


def _rescaled(node: Quantize, graph: Graph, rounding: Rounding) -> Patch | None:
    step, zero = _real(node.scale), node.zero_point
    if step is None or step.size != 1 or not 0 < (width := float(step.reshape(()))) < math.inf:
        return None
    if zero is not None and not (isinstance(zero, Constant) and zero.data.size == 1):
        return None
    inner, low, high = _bounds(node)
    total = _sum(inner, graph, DEPTH)
    if total is None:
        return None
    zero = None if zero is None else constant(zero.data.reshape(()))
    made = _requantised(total, width, zero, node.to, rounding)
    if made is None or made.type != node.type:
        return None
    least, most = integer_range(node.to)
    if (low, high) == (least, most):
        return {node: made}
    below, above = (None if end == limit else constant(end, node.to) for end, limit in ((low, least), (high, most)))
    return {node: Clip(made, below, above)}


def _bounds(node: Quantize) -> tuple[Value, int, int]:
    """What is quantised without the Relu and Clip around it, and the least and largest integer that these leave."""
    limits = integer_range(node.to)
    value, (low, high) = node.x, limits
    while True:
        match value:
            case Relu(x=x):
                ends: tuple[Value | None, Value | None] = (constant(0, f32), None)
            case Clip(x=x, low=below, high=above) if _is_number(below) and _is_number(above):
                ends = below, above
            case _:
                return value, low, high
        if x.type != value.type:
            return value, low, high
        first, last = (_quantised(node, end, limit) for end, limit in zip(ends, limits, strict=True))
        low, high = (min(max(end, low), high) for end in (min(first, last), last))
        value = x


def _is_number(value: Value | None) -> bool:
    return value is None or (isinstance(value, Constant) and value.data.size == 1)


def _quantised(node: Quantize, value: Value | None, limit: int) -> int:
    """A constant as `node` quantises it; `limit` for None."""
    if value is None:
        return limit
    parts = [v.data.reshape(()) for v in (value, node.scale, node.zero_point) if isinstance(v, Constant)]
    return int(node.evaluate(*parts)[0])


def _real(value: Value) -> Scale | None:
    """The numbers of an f32 constant, None for anything else."""
    if not isinstance(value, Constant) or value.dtype != f32:
        return None
    return value.data.astype(np.float64)


# -- what is quantised ------------------------------------------------------------------------------------------------


def _sum(value: Value, graph: Graph, depth: int) -> _Sum | None:
    """`value` as a sum of integers times scales; None for others, and where there are more than `depth` steps to it."""
    if depth == 0:
        return None
    match value:
        case Cast(x=x, to=to) if to == f32:
            return _cast(x)
        case Dequantize():
            return _dequantised(value)
        case ReduceMean(x=Dequantize() as x) if (found := _dequantised(x)) is not None:
            return _mean(found.terms[0], value)
        case MatMul() if (most := largest_sum(value, graph)) is not None:
            return _Sum((_Term(Cast(value, i32), None, np.ones(()), most),))
        case Mul(a=Dequantize(), b=Dequantize()):
            return _product(value)
        case (Mul(a=x, b=Constant() as other) | Mul(a=Constant() as other, b=x)) if other.dtype == f32:
            found = _sum(x, graph, depth - 1)
            return None if found is None else found.times(other.data.astype(np.float64))
        case (Add(a=x, b=Constant() as other) | Add(a=Constant() as other, b=x)) if other.dtype == f32:
            found = _sum(x, graph, depth - 1)
            return None if found is None else found.with_added(other.data.astype(np.float64))
        case Add(a=a, b=b) if value.dtype == f32:
            first, second = _sum(a, graph, depth - 1), _sum(b, graph, depth - 1)
            if first is None or second is None:
                return None
            both = _Sum((*first.terms, *second.terms), first.added)
            return both if second.added is None else both.with_added(second.added)
        case _:
            return None


def _cast(x: Value) -> _Sum | None:
    """The number that an integer is, or what two of them are in f64: 256 * a + b."""
    match x:
        case _ if x.dtype == i32:
            return _Sum((_Term(x, None, np.ones(()), _most(x, None, DEPTH)),))
        case Add(a=Mul(a=Cast(x=a), b=Constant(data=data)), b=Cast(x=b)) if x.dtype == f64 and data.size == 1:
            factor, most = int(data.reshape(())), (_most(a, None, DEPTH), _most(b, None, DEPTH))
            if a.dtype != i32 or b.dtype != i32 or factor != data or most[0] is None or most[1] is None:
                return None
            whole = Add(Mul(Cast(a, i64), constant(factor, i64)), Cast(b, i64))
            bound = abs(factor) * most[0] + most[1]
            return _Sum((_Term(whole, None, np.ones(()), bound),)) if bound < MOST_LONG else None
        case _:
            return None


def _dequantised(node: Dequantize) -> _Sum | None:
    factor, zero = _real(node.scale), node.zero_point
    if factor is None or not (zero is None or isinstance(zero, Constant)):
        return None
    return _Sum((_Term(node.x, zero, np.ones(()), _most(node.x, zero, DEPTH)),)).times(factor)


def _mean(term: _Term, node: ReduceMean) -> _Sum | None:
    """The mean of dequantised values as a sum of integers."""
    extents = [node.x.shape[axis] for axis in node.axes]
    if term.scale.size != 1 or term.most is None or not all(isinstance(d, int) and d > 0 for d in extents):
        return None
    count = math.prod(int(d) for d in extents)
    if count * term.most > MOST:
        return None
    total = ReduceSum(term.whole(), node.axes, node.keepdims)
    return _Sum((_Term(total, None, term.scale.reshape(()) / count, count * term.most),))


def _product(node: Mul) -> _Sum | None:
    """The product of two dequantised values as one of integers."""
    if not isinstance(node.a, Dequantize) or not isinstance(node.b, Dequantize):
        return None
    first, second = _dequantised(node.a), _dequantised(node.b)
    if first is None or second is None:
        return None
    (a,), (b,) = first.terms, second.terms
    if a.most is None or b.most is None or a.most * b.most > MOST:
        return None
    return _Sum((_Term(Mul(a.whole(), b.whole()), None, np.ones(()), a.most * b.most),)).times(a.scale * b.scale)


def _most(value: Value, zero: Constant | None, depth: int) -> int | None:
    """The largest absolute value that integers, less `zero`, can have; None where that is not known."""
    if zero is not None:
        if zero.dtype not in NARROW_TYPES:
            return None
        low, high = integer_range(value.dtype)
        return max(int(zero.data.max(initial=low)) - low, high - int(zero.data.min(initial=high)))
    if depth == 0:
        return None
    match value:
        case Conv(x=x, w=Constant(data=w), bias=bias) if x.dtype == u8:
            own = _largest(np.abs(w.astype(np.int64)).sum(tuple(range(1, w.ndim)))) * 255
            return _total(own, 0 if bias is None else _most(bias, None, depth - 1))
        case MatMul(a=a, b=Constant(data=b)) if a.dtype == u8:
            return _largest(np.abs(b.astype(np.int64)).sum(-2)) * 255
        case Constant(data=data):
            return _largest(data)
        case Add(a=a, b=b) | Sub(a=a, b=b):
            return _total(_most(a, None, depth - 1), _most(b, None, depth - 1))
        case Mul(a=a, b=b):
            first, second = _most(a, None, depth - 1), _most(b, None, depth - 1)
            return None if first is None or second is None else _within(first * second)
        case (Cast(x=x) | Reshape(x=x) | Transpose(x=x)) if x.dtype.is_integer:
            return _most(x, None, depth - 1)
        case ReduceSum(x=x, axes=axes):
            most, extents = _most(x, None, depth - 1), [x.shape[axis] for axis in axes]
            if most is None or not all(isinstance(d, int) for d in extents):
                return None
            return _within(most * math.prod(int(d) for d in extents))
        case _ if value.dtype in NARROW_TYPES:
            return max(map(abs, integer_range(value.dtype)))
        case _:
            return None


def _largest(data: Array) -> int:
    return int(np.abs(data.astype(np.int64)).max(initial=0))


def _total(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else _within(a + b)


def _within(most: int) -> int | None:
    """`most`, None for what i32 does not hold: it may have wrapped."""
    return most if most <= MOST else None


# -- what it becomes --------------------------------------------------------------------------------------------------


def _requantised(total: _Sum, step: float, zero: Constant | None, to: DType, rounding: Rounding) -> Value | None:
    """The sum in steps of `step`, `zero` added, as `to`."""
    if len(total.terms) == 1:
        (term,) = total.terms
        if total.added is None:
            return _scaled(term, term.scale / step, zero, to, rounding)
        added = np.rint(total.added / term.scale)
        most = _largest_real(added) + (math.inf if term.most is None else term.most)
        if term.x.dtype == i64 or not most <= MOST:
            return None
        whole = Add(term.whole(), constant(added.astype(np.int32)))
        return _scaled(_Term(whole, None, term.scale, int(most)), term.scale / step, zero, to, rounding)
    unit = _common(total)
    if unit is None:
        return None
    parts: list[Value] = []
    for term in total.terms:
        part = _scaled(term, term.scale / unit, None, i32, rounding)
        if part is None:
            return None
        parts.append(part)
    if total.added is not None:
        parts.append(constant(np.rint(total.added / unit).astype(np.int32)))
    whole = parts[0]
    for part in parts[1:]:
        whole = Add(whole, part)
    return _scaled(_Term(whole, None, np.ones(()), MOST_SUM), np.asarray(unit / step), zero, to, rounding)


def _common(total: _Sum) -> float | None:
    """The scale in which the terms are added."""
    if total.added is None and len(total.terms) == 2 and all(term.x.dtype in (i8, u8) for term in total.terms):
        return 2 * max(float(term.scale.max(initial=0)) for term in total.terms) / (1 << LEFT)
    whole = 0.0 if total.added is None else _largest_real(total.added)
    for term in total.terms:
        if term.most is None:
            return None
        whole += term.most * float(term.scale.max(initial=0))
    return whole / MOST_SUM if 0 < whole < math.inf else None


def _largest_real(data: Scale) -> float:
    return float(np.abs(data).max(initial=0))


def _scaled(term: _Term, factor: Scale, zero: Value | None, to: DType, rounding: Rounding) -> Value | None:
    """A term times `factor` as integers of `to`; None where no multiplier and shift say that."""
    long = term.x.dtype == i64
    one = factor.reshape(-1)
    uniform = factor.reshape(-1)[:1].reshape(()) if factor.size and bool((one == one[0]).all()) else factor
    found = multiplier_and_shift(uniform, 16 if long else 32)
    if found is None:
        return None
    x, taken = (term.x, term.zero) if term.x.dtype in NARROW_TYPES else (term.x if long else term.whole(), None)
    multiplier, shift = (constant(part) for part in found)
    return Rescale(x, multiplier, shift, taken, zero, to, "single" if long else rounding)


_RULES: dict[Rounding, Rule] = {"single": rescale_single, "double": rescale_double}


@dataclasses.dataclass(frozen=True)
class Rescaling:
    """The pass: requantisation in integers, rounded once or twice."""

    rounding: Rounding = "single"
    name: str = dataclasses.field(default="rescale", init=False)
    lossy: bool = dataclasses.field(default=True, init=False)

    def __call__(self, graph: Graph, *, trace: Trace | None = None) -> Graph:
        return rewrite(graph, (_RULES[self.rounding], tabulate_all), trace=trace, pass_name=self.name)
