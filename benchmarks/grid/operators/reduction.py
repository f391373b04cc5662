"""Reductions, running sums, extremes, softmax."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.grid.examples import FLOATS, Const, Example, Given, Table, specials

TABLE = Table()
AXES: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None, int]] = {
    "all": ((3, 5), None, 1),
    "last": ((3, 5, 7), (2,), 0),
    "first": ((3, 5, 7), (0,), 1),
    "two": ((3, 5, 7), (0, 2), 0),
    "one": ((1, 3), (0,), 1),
    "long": ((3, 67), (1,), 1),
    "list": ((7,), (0,), 0),
    "kept empty": ((0, 3), (1,), 1),
}
SUMS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")


@TABLE.row(*(f"Reduce{name}" for name in SUMS))
def reductions(g: Given) -> Iterator[Example]:
    """Axes as an attribute and as an operand, all of them, none, negative ones; tensors without elements."""
    operand = 13 if g.op == "ReduceSum" else 18
    bounds = (1, 3) if g.op in ("ReduceLogSum", "ReduceProd") else (-2, 2)
    variants = dict(AXES)
    if g.since >= 11:
        variants["negative"] = ((3, 5, 7), (-1, -3), 1)
    if g.since >= operand:
        variants["scalar"] = ((), None, 0)
        variants["over empty"] = ((3, 0), (1,), 0)
        is_undefined = g.op in ("ReduceMax", "ReduceMin", "ReduceMean") and g.dtype("T") != "bool"
        if is_undefined or (g.op.startswith("ReduceLog") and g.dtype("T") not in FLOATS):
            del variants["over empty"]
    for name, (shape, axes, keepdims) in variants.items():
        x = g.data("T", shape, *bounds)
        chosen = g.by_attribute(operand, axes=None if axes is None else list(axes))
        want = (
            _logarithm(g.op, x, axes, keepdims) if g.op.startswith("ReduceLog") and g.dtype("T") not in FLOATS else None
        )
        yield g.case(name, x, g.by_operand(operand, axes), want=want, keepdims=keepdims, **chosen)
    if g.since >= operand:
        x = g.data("T", (3, 5), *bounds)
        if not g.op.startswith("ReduceLog") or g.dtype("T") in FLOATS:
            yield g.case("noop", x, noop_with_empty_axes=1)
        if g.dtype("T") in FLOATS and g.op != "ReduceLogSumExp":
            numbers = specials(g.dtype("T"))
            rows = np.stack([np.roll(numbers, i)[:2] for i in range(len(numbers))])
            yield g.case("special", rows, Const(np.array([1])), keepdims=0)


def _logarithm(op: str, x: np.ndarray, axes: tuple[int, ...] | None, keepdims: int) -> list[np.ndarray]:
    """Of integers: in double precision, the fraction dropped."""
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        total = (wide if op == "ReduceLogSum" else np.exp(wide)).sum(axes, keepdims=bool(keepdims))
        return [np.log(total).astype(x.dtype)]


@TABLE.row("ArgMax", "ArgMin", exact=True)
def extremes(g: Given) -> Iterator[Example]:
    """The first and the last of equal ones."""
    for name, (shape, axes, keepdims) in AXES.items():
        if axes is None or len(axes) == 1:
            yield g.case(name, g.data("T", shape), axis=axes[0] if axes else None, keepdims=keepdims)
    if g.since >= 11:
        yield g.case("negative", g.data("T", (3, 5, 7)), axis=-2)
    if g.since >= 12:
        yield g.case("equal", np.repeat(g.data("T", (3, 1)), 5, 1), axis=1, select_last_index=1)


@TABLE.row("CumSum", "CumProd")
def running(g: Given) -> Iterator[Example]:
    """Along each axis, in each direction."""
    bounds = (0.5, 1.5) if g.op == "CumProd" and g.dtype("T") in FLOATS else (0, 2)
    kind = g.dtype("T2")
    for reverse in (0, 1):
        for exclusive in (0, 1):
            flags = {"reverse": reverse, "exclusive": exclusive}
            yield g.case(f"first {flags}", g.data("T", (5, 3), *bounds), Const(np.array(0, kind)), **flags)
    yield g.case("last", g.data("T", (3, 19), *bounds), Const(np.array(-1, kind)))
    yield g.case("computed", g.data("T", (2, 3), *bounds), np.array(1, kind))
    yield g.case("empty", g.data("T", (0, 3), *bounds), Const(np.array(1, kind)))
    yield g.case("one", g.data("T", (1,), *bounds), Const(np.array(0, kind)))


@TABLE.row("Softmax", "LogSoftmax", "Hardmax")
def softmax(g: Given) -> Iterator[Example]:
    """Along one axis; before version 13 along all from one on."""
    parameter = g.schema.inputs[0].type_str
    for axis in (1, 0, 2):
        x = g.data(parameter, (2, 3, 5))
        if g.since >= 13:
            for place in (axis, axis - 3):
                yield g.case(f"axis {place}", x, axis=place)
        rows = int(np.prod(x.shape[:axis]))
        flat = x.astype(np.float64).reshape(rows, -1)
        if g.since < 13:
            yield g.case(f"from {axis}", x, axis=axis, want=[_rows(g.op, flat).reshape(x.shape)])
    if g.since < 13:
        x = g.data(parameter, (3, 5))
        yield g.case("default", x, want=[_rows(g.op, x.astype(np.float64))])
    else:
        yield g.case("last", g.data(parameter, (3, 67)))
        yield g.case("empty", g.data(parameter, (0, 3)))
        yield g.case("one", g.data(parameter, (3, 1)))
        if g.op != "Hardmax":
            huge = np.array([[0, -np.inf, 1], [88.0, -88.0, 0], [3e4, -3e4, 3e4], [np.nan, 0, 1]])
            yield g.case("special", huge.astype(x.dtype))


def _rows(op: str, x: np.ndarray) -> np.ndarray:
    """The function of each row."""
    if op == "Hardmax":
        return np.eye(x.shape[1])[x.argmax(1)]
    exp = np.exp(x - x.max(1, keepdims=True))
    result = exp / exp.sum(1, keepdims=True)
    return np.log(result) if op == "LogSoftmax" else result


@TABLE.row("TopK", exact=True)
def top(g: Given) -> Iterator[Example]:
    """The largest and smallest, of equal ones the first; the number as attribute, constant and data."""
    for name, shape, k, axis in (
        ("last", (3, 7), 3, -1),
        ("first", (7, 3), 2, 0),
        ("all", (2, 5), 5, 1),
        ("none", (2, 5), 0, 1),
        ("long", (67,), 9, 0),
    ):
        if g.since < 10 and axis < 0:
            axis += len(shape)
        x = _distinct(g, shape)
        for largest in (1, 0) if g.since >= 11 else (1,):
            flags = {"largest": largest} if g.since >= 11 else {}
            count = g.by_attribute(10, k=k)
            yield g.case(f"{name} {largest}", x, g.by_operand(10, [k]), axis=axis, results=2, **count, **flags)
    if g.since >= 10:
        yield g.case("equal", np.repeat(g.data("T", (3, 1)), 5, 1), Const(np.array([2])), axis=1, results=2)
        yield g.case("computed", _distinct(g, (3, 5)), np.array([2]), axis=1, results=2)


def _distinct(g: Given, shape: tuple[int, ...]) -> np.ndarray:
    order = g.rng(shape).permutation(int(np.prod(shape))).reshape(shape)
    return order.astype(g.data("T", ()).dtype)


@TABLE.row("NonZero", exact=True)
def non_zero(g: Given) -> Iterator[Example]:
    """Some, all, none, of one axis and of three."""
    for name, shape in (("odd", (3, 5)), ("deep", (2, 3, 4)), ("list", (19,)), ("empty", (0, 3)), ("one", (1,))):
        yield g.case(name, g.data("T", shape, -1, 1))
    yield g.case(
        "none", np.zeros((3, 2), g.data("T", ()).dtype) if g.dtype("T") != "string" else np.full((3, 2), "", object)
    )


@TABLE.row("Unique", exact=True)
def unique(g: Given) -> Iterator[Example]:
    """Of all elements and of slices, sorted and in order of occurrence; all results and the first alone."""
    for name, shape, axis in (
        ("flat", (3, 5), None),
        ("list", (19,), 0),
        ("rows", (5, 2), 0),
        ("columns", (2, 5), -1),
        ("one", (1,), None),
    ):
        for order in (1, 0):
            yield g.case(f"{name} sorted={order}", g.data("T", shape), axis=axis, sorted=order, results=4)
    yield g.case("values", g.data("T", (3, 5)))


@TABLE.row("Det")
def determinant(g: Given) -> Iterator[Example]:
    """Of one matrix and of several."""
    for n in (1, 2, 3, 5):
        yield g.case(f"{n}", g.data("T", (n, n)))
    yield g.case("batch", g.data("T", (2, 3, 3, 3)))
    yield g.case("empty", g.data("T", (0, 2, 2)))
    yield g.case("singular", np.zeros((2, 2), g.data("T", ()).dtype))
