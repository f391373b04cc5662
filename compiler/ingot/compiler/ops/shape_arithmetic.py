"""Symbolic contents of small integer values: what shape-computing sub-graphs come to.

`known_dims` reads the target shape of a reshape, the bounds of a slice and so on from the value that holds them.
Contents are numpy object arrays of dims (and bools, for conditions); an element that is not known is None, and does
not keep the others from being known. Arithmetic is that of integers without overflow, and float detours (Cast to
float, Mul, Floor, Cast back) are followed while every value on the way is whole. Symbols are taken to be >= 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import numpy as np

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, Expr
from ingot.compiler.ir.graph import Array, Constant, Node, Result, Value, fields_of, node_of, operands_of
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops import movement, pointwise, reduction

LIMIT = 64  # elements of a value that is looked into

Element: TypeAlias = "int | Expr | bool | None"
Contents: TypeAlias = Array  # of objects: Element


def known_dims(value: Value) -> tuple[Dim, ...] | None:
    """The elements of an integer value of rank 0 or 1 with at most 64 elements as dims, None unless all are known."""
    if value.rank > 1 or not value.dtype.is_integer:
        return None
    found = contents(value)
    if found is None:
        return None
    elements = [_as_dim(x) for x in found.ravel().tolist()]
    known = tuple(x for x in elements if x is not None)
    return known if len(known) == len(elements) else None


def contents(value: Value) -> Contents | None:
    """The elements of a small static value of any rank, None for others. Memoised on the nodes; iterative."""
    stack = [node_of(value)]
    while stack:
        node = stack[-1]
        if "_contents" in node.__dict__:
            stack.pop()
            continue
        if type(node) not in _EVALUATE or not any(_small(t) for t in node.types):
            waiting: list[Node] = []
        else:
            waiting = [n for v in operands_of(node) if "_contents" not in (n := node_of(v)).__dict__]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        object.__setattr__(node, "_contents", _evaluate(node))
    found: tuple[Contents | None, ...] = node_of(value).__dict__["_contents"]
    return found[value.index if isinstance(value, Result) else 0]


def _small(type_: TensorType) -> bool:
    return type_.is_static and type_.dtype.kind != "unsigned" and isinstance(n := type_.size, int) and n <= LIMIT


def _evaluate(node: Node) -> tuple[Contents | None, ...]:
    nothing = tuple(_filled(None, t.static_shape()) if _small(t) else None for t in node.types)
    compute = _EVALUATE.get(type(node))
    if compute is None or not any(_small(t) for t in node.types):
        return nothing
    operands: list[Contents] = []
    for value in operands_of(node):
        found: Contents | None = node_of(value).__dict__["_contents"][value.index if isinstance(value, Result) else 0]
        if found is None:
            return nothing
        operands.append(found)
    results = compute(node, *operands)
    if results is None:
        return nothing
    return tuple(r if _small(t) else None for r, t in zip(results, node.types, strict=True))


def _as_dim(element: Element) -> Dim | None:
    return int(element) if isinstance(element, bool) else element


def _array(elements: list[Any], shape: tuple[int, ...]) -> Contents:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


def _filled(content: Any, shape: tuple[int, ...]) -> Contents:
    """An object array of `content`, which numpy may have unwrapped to a single object."""
    array = np.empty(shape, object)
    array[...] = content
    return array


def _constant(node: Constant) -> tuple[Contents] | None:
    data = node.data
    elements: list[Element] = []
    for x in data.ravel().tolist():
        whole = isinstance(x, bool | int) or (isinstance(x, float) and x.is_integer())
        elements.append((x if isinstance(x, bool) else int(x)) if whole else None)
    return (_array(elements, data.shape),)


def _moved(node: Node, *operands: Contents) -> tuple[Contents, ...] | None:
    """Movement operators evaluate on objects as on numbers, once their attributes are numbers."""
    for f in fields_of(node):
        item: Any = getattr(node, f.name)
        if isinstance(item, Expr) or (isinstance(item, tuple) and any(isinstance(x, Expr) for x in item)):  # pyright: ignore[reportUnknownVariableType]
            return None
    if isinstance(node, movement.Gather):
        extent, indices = operands[0].shape[node.axis], operands[1].ravel().tolist()
        if any(not isinstance(i, int) or not -extent <= i < extent for i in indices):
            return None
    return tuple(_filled(r, t.static_shape()) for r, t in zip(node.evaluate(*operands), node.types, strict=True))


def _dim_values(node: movement.DimValues) -> tuple[Contents]:
    return (_array(list(node.dims), () if node.scalar else (len(node.dims),)),)


def _iota(node: movement.Iota, *operands: Contents) -> tuple[Contents] | None:
    start, step = (_as_dim(x.item()) for x in operands)
    if start is None or step is None or not isinstance(node.length, int):
        return None
    return (_array([start + step * i for i in range(node.length)], (node.length,)),)


def _lifted(function: Callable[..., Element], arguments: int) -> Callable[..., tuple[Contents]]:
    def strict(*elements: Element) -> Element:
        return None if any(x is None for x in elements) else function(*elements)

    on_objects = np.frompyfunc(strict, arguments, 1)

    def compute(node: Node, *operands: Contents) -> tuple[Contents]:
        return (_filled(on_objects(*operands), np.broadcast_shapes(*(x.shape for x in operands))),)

    return compute


def _unary(function: Callable[[Dim], Element]) -> Callable[..., tuple[Contents]]:
    """`function` of each element, None where that is."""
    return _lifted(function, 1)


def _binary(function: Callable[[Dim, Dim], Element]) -> Callable[..., tuple[Contents]]:
    """`function` of each pair of elements, None where either is."""
    return _lifted(function, 2)


def nonnegative(dim: Dim) -> bool:
    """True when `dim` is provably >= 0 for symbols >= 0."""
    return dims.bounds(dim, {})[0] >= 0


def _divide(a: Dim, b: Dim) -> Dim | None:
    """The quotient rounded towards 0."""
    if b == 0:
        return None
    exact = dims.divide_exact(a, b)
    if exact is not None:
        return exact
    if isinstance(b, int) and b < 0:
        a, b = -a, -b
    if not nonnegative(b):
        return None
    if nonnegative(a):
        return a // b
    return -(-a // b) if nonnegative(-a) else larger(a, 0) // b - larger(-a, 0) // b


def _quotient(node: pointwise.Div, a: Contents, b: Contents) -> tuple[Contents]:
    """Integers divide towards 0; a quotient of floats is known where it is whole."""
    return _binary(dims.divide_exact if node.a.dtype.is_float else _divide)(node, a, b)


def _modulo(a: Dim, b: Dim) -> Dim | None:
    return a % b if b != 0 and nonnegative(b) else None


def _fmod(a: Dim, b: Dim) -> Dim | None:
    quotient = _divide(a, b)
    return None if quotient is None else a - quotient * b


def smaller(a: Dim, b: Dim) -> Dim:
    """min(a, b), decided where the bounds of the difference decide it."""
    low, high = _difference(a, b)
    return a if high <= 0 else b if low >= 0 else dims.minimum(a, b)


def larger(a: Dim, b: Dim) -> Dim:
    """max(a, b), decided where the bounds of the difference decide it."""
    low, high = _difference(a, b)
    return b if high <= 0 else a if low >= 0 else dims.maximum(a, b)


def _less_or_equal(a: Dim, b: Dim) -> bool | None:
    low, high = _difference(a, b)
    return True if high <= 0 else False if low > 0 else None


def _less(a: Dim, b: Dim) -> bool | None:
    low, high = _difference(a, b)
    return True if high < 0 else False if low >= 0 else None


def _difference(a: Dim, b: Dim) -> tuple[int, int]:
    """Bounds of a - b: those of the simplified difference and those of a and b by themselves both hold."""
    low, high = dims.bounds(a - b, {})
    (a_low, a_high), (b_low, b_high) = dims.bounds(a, {}), dims.bounds(b, {})
    return max(low, a_low - b_high), min(high, a_high - b_low)


def _equal(a: Dim, b: Dim) -> bool | None:
    if a == b:
        return True
    low, high = _difference(a, b)
    return False if low > 0 or high < 0 else None


def _absolute(a: Dim) -> Dim:
    return larger(a, -a)


def _power(a: Dim, b: Dim) -> Dim | None:
    return dims.product([a] * b) if isinstance(b, int) and 0 <= b <= 4 else None


def _whole(a: Element) -> Element:
    return a


def _cast(node: pointwise.Cast, x: Contents) -> tuple[Contents]:
    def convert(element: Element) -> Element:
        if element is None:
            return None
        if node.to.kind == "bool":
            equal = _equal(cast(Dim, element), 0)
            return None if equal is None else not equal
        return _as_dim(element)

    return (_array([convert(e) for e in x.ravel().tolist()], x.shape),)


def _where(node: Node, condition: Contents, a: Contents, b: Contents) -> tuple[Contents]:
    def choose(c: Element, x: Element, y: Element) -> Element:
        return (x if c else y) if isinstance(c, bool) else x if x is not None and x == y else None

    shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
    return (_filled(np.frompyfunc(choose, 3, 1)(condition, a, b), shape),)


def _clip(node: pointwise.Clip, x: Contents, *bounds: Contents) -> tuple[Contents]:
    rest = list(bounds)
    if node.low is not None:
        (x,) = _binary(larger)(node, x, rest.pop(0))
    if node.high is not None:
        (x,) = _binary(smaller)(node, x, rest.pop(0))
    return (x,)


def _reduction(function: Callable[[Dim, Dim], Dim], start: int | None) -> Callable[..., tuple[Contents] | None]:
    """A reduction by `function`; None over no elements where there is no start value."""

    def strict(a: Element, b: Element) -> Element:
        return None if a is None or b is None else function(a, b)

    lifted = np.frompyfunc(strict, 2, 1, identity=start)

    def compute(node: reduction.Reduction, x: Contents) -> tuple[Contents] | None:
        if start is None and any(x.shape[a] == 0 for a in node.axes):
            return None
        total = lifted.reduce(x, axis=node.axes, keepdims=node.keepdims) if node.axes else x
        return (_filled(total, node.type.static_shape()),)

    return compute


def _add(a: Dim, b: Dim) -> Dim:
    return a + b


def _multiply(a: Dim, b: Dim) -> Dim:
    return a * b


_EVALUATE: Mapping[type[Node], Callable[..., tuple[Contents | None, ...] | None]] = {
    Constant: _constant,
    movement.DimValues: _dim_values,
    movement.Iota: _iota,
    **dict.fromkeys(
        (
            movement.Reshape,
            movement.Transpose,
            movement.Expand,
            movement.Slice,
            movement.Concat,
            movement.Gather,
            movement.Split,
        ),
        _moved,
    ),
    pointwise.Identity: _unary(_whole),
    **dict.fromkeys((pointwise.Floor, pointwise.Ceil, pointwise.Round), _unary(_whole)),
    pointwise.Cast: _cast,
    pointwise.Add: _binary(_add),
    pointwise.Sub: _binary(lambda a, b: a - b),
    pointwise.Mul: _binary(_multiply),
    pointwise.Div: _quotient,
    pointwise.Mod: _binary(_modulo),
    pointwise.Fmod: _binary(_fmod),
    pointwise.Pow: _binary(_power),
    pointwise.Min: _binary(smaller),
    pointwise.Max: _binary(larger),
    pointwise.Clip: _clip,
    pointwise.Neg: _unary(lambda a: -a),
    pointwise.Abs: _unary(_absolute),
    pointwise.Relu: _unary(lambda a: larger(a, 0)),
    pointwise.Equal: _binary(_equal),
    pointwise.Less: _binary(_less),
    pointwise.LessOrEqual: _binary(_less_or_equal),
    pointwise.Greater: _binary(lambda a, b: _less(b, a)),
    pointwise.GreaterOrEqual: _binary(lambda a, b: _less_or_equal(b, a)),
    pointwise.Not: _unary(lambda a: not a),
    pointwise.And: _binary(lambda a, b: bool(a and b)),
    pointwise.Or: _binary(lambda a, b: bool(a or b)),
    pointwise.Where: _where,
    reduction.ReduceSum: _reduction(_add, 0),
    reduction.ReduceProd: _reduction(_multiply, 1),
    reduction.ReduceMax: _reduction(larger, None),
    reduction.ReduceMin: _reduction(smaller, None),
}
