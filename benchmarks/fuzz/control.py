"""If, Loop and Scan with random bodies that capture what is outside, and sizes that they change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import helper

from benchmarks.fuzz.build import Attributes, Builder, Tensor, dtype_code

DEEPEST = 2

Grow = Callable[[Builder, int], None]


def branch(b: Builder, grow: Grow) -> bool:
    """If: two branches that give results of one type."""
    x = b.pick(lambda t: t.is_float and not any(isinstance(e, str) and e.startswith("d") for e in t.shape))
    if x is None or b.depth >= DEEPEST:
        return False
    flag = b.pick(lambda t: t.dtype == "bool" and t.shape == ())
    if flag is None:
        flag = b.constant(np.asarray(b.chance(0.5))) if b.depth or b.chance(0.2) else b.add_input("bool", ())
    branches = {}
    for name in ("then_branch", "else_branch"):
        inner = b.child()
        start = inner.unary(b.choice(("Relu", "Tanh", "Neg", "Identity")), x)
        grow(inner, b.integer(0, 3))
        last = _latest(inner, x) or start
        result = inner.unary("Identity", last, visible=False)
        branches[name] = helper.make_graph(
            inner.nodes, f"{name}_{result.name}", [], [b.value_info(result)], inner.initializers
        )
    b.node("If", [flag], [(x.dtype, x.shape)], **branches)
    return True


def loop(b: Builder, grow: Grow) -> bool:
    """Loop: a carried value, a scan output, a trip count, maybe a condition that ends it early."""
    x = b.pick(lambda t: t.is_float and not any(isinstance(e, str) and e.startswith("d") for e in t.shape))
    if x is None or b.depth >= DEEPEST:
        return False
    inner = b.child()
    count = Tensor(f"i{next(b.numbers)}", "int64", ())
    condition = Tensor(f"k{next(b.numbers)}", "bool", ())
    carried = Tensor(f"v{next(b.numbers)}", x.dtype, x.shape)
    inner.pool += [carried, count]
    if b.chance(0.6):
        inner.pool.append(inner.node("Cast", [count], [(x.dtype, ())], visible=False, to=dtype_code(x.dtype))[0])
    inner.unary("Tanh", carried)
    grow(inner, b.integer(0, 3))
    last = _latest(inner, x)
    assert last is not None
    following = inner.unary(b.choice(("Identity", "Tanh")), last, visible=False)
    going = inner.unary("Identity", condition, visible=False)
    trips = b.integer(0, 4)
    scanned = b.chance(0.6)
    scan = inner.unary("Neg", last, visible=False)
    inputs = [b.value_info(t) for t in (count, condition, carried)]
    outputs = [b.value_info(t) for t in (going, following, *([scan] if scanned else []))]
    body = helper.make_graph(inner.nodes, f"body_{count.name}", inputs, outputs, inner.initializers)
    results = [(x.dtype, x.shape), *([(x.dtype, (trips, *x.shape))] if scanned else [])]
    flag = b.constant(np.asarray(True), as_node=False) if b.chance(0.5) else None
    b.node("Loop", [b.ints([trips], scalar=True), flag, x], results, body=body)
    return True


def scan(b: Builder, grow: Grow) -> bool:
    """Scan over an axis of a tensor, of any extent, forwards or backwards, with a state."""
    x = b.pick(lambda t: t.is_float and t.rank >= 1 and sum(isinstance(e, str) for e in t.shape) <= 1)
    if x is None or b.depth >= DEEPEST:
        return False
    axis = b.integer(0, x.rank - 1) if b.chance(0.4) else 0
    axis = next((i for i, e in enumerate(x.shape) if isinstance(e, str)), axis)
    rest = (*x.shape[:axis], *x.shape[axis + 1 :])
    inner = b.child()
    state = Tensor(f"s{next(b.numbers)}", x.dtype, rest)
    element = Tensor(f"e{next(b.numbers)}", x.dtype, rest)
    inner.pool += [state, element]
    mixed = inner.node("Add", [state, element], [(x.dtype, rest)])[0]
    inner.unary("Tanh", mixed)
    grow(inner, b.integer(0, 2))
    last = _latest(inner, state)
    assert last is not None
    following, scanned = inner.unary("Identity", last, visible=False), inner.unary("Neg", mixed, visible=False)
    body = helper.make_graph(
        inner.nodes, f"scan_{state.name}", [b.value_info(state), b.value_info(element)],
        [b.value_info(following), b.value_info(scanned)], inner.initializers,
    )  # fmt: skip
    place = b.integer(0, len(rest)) if b.chance(0.3) else 0
    attributes: Attributes = {"num_scan_inputs": 1, "scan_input_axes": [axis], "scan_output_axes": [place]}
    if b.chance(0.4):
        attributes |= {"scan_input_directions": [1], "scan_output_directions": [b.integer(0, 1)]}
    start = b.weights(b.concrete(rest), x.dtype)
    out = (*rest[:place], x.shape[axis], *rest[place:])
    b.node("Scan", [start, x], [(x.dtype, rest), (x.dtype, out)], body=body, **attributes)
    return True


def until(b: Builder, grow: Grow) -> bool:
    """A Loop that ends when a counter, which is data, has reached a number; with a scan output."""
    x = b.pick(lambda t: t.is_float and not any(isinstance(e, str) and e.startswith("d") for e in t.shape))
    if x is None or b.depth >= DEEPEST:
        return False
    stop, limit = b.integer(0, 4), b.choice((None, 2, 6))
    inner = b.child()
    count, condition = Tensor(f"i{next(b.numbers)}", "int64", ()), Tensor(f"k{next(b.numbers)}", "bool", ())
    carried = Tensor(f"v{next(b.numbers)}", x.dtype, x.shape)
    inner.pool.append(carried)
    inner.unary("Tanh", carried)
    grow(inner, b.integer(0, 2))
    last = _latest(inner, x)
    assert last is not None
    bound = b.given(np.asarray(stop, np.int64), 0.3)
    going = inner.node("Less", [count, bound], [("bool", ())], visible=False)[0]
    results = [inner.unary("Identity", last, visible=False), inner.unary("Neg", carried, visible=False)]
    body = helper.make_graph(
        inner.nodes, f"until_{count.name}", [b.value_info(t) for t in (count, condition, carried)],
        [b.value_info(t) for t in (going, *results)], inner.initializers,
    )  # fmt: skip
    b.used.add(bound.name)
    trips = stop + 1 if limit is None else min(stop + 1, limit)
    trip = None if limit is None else b.given(np.asarray(limit, np.int64), 0.5)
    start = b.constant(np.asarray(True), as_node=False)
    b.node("Loop", [trip, start, x], [(x.dtype, x.shape), (x.dtype, (b.found(trips), *x.shape))], body=body)
    return True


def over(b: Builder, grow: Grow) -> bool:
    """A Loop over the elements of the first axis, of any extent, each of which is gathered; with a state."""
    x = b.pick(lambda t: t.is_float and t.rank >= 1 and all(isinstance(e, int) for e in t.shape[1:]))
    if x is None or b.depth >= DEEPEST:
        return False
    rest = x.shape[1:]
    inner = b.child()
    count, condition = Tensor(f"i{next(b.numbers)}", "int64", ()), Tensor(f"k{next(b.numbers)}", "bool", ())
    carried = Tensor(f"v{next(b.numbers)}", x.dtype, rest)
    row = inner.node("Gather", [x, count], [(x.dtype, rest)], axis=0)[0]
    mixed = inner.node("Add", [carried, row], [(x.dtype, rest)])[0]
    inner.unary("Tanh", mixed)
    grow(inner, b.integer(0, 2))
    last = _latest(inner, carried)
    assert last is not None
    going = inner.unary("Identity", condition, visible=False)
    results = [inner.unary("Identity", last, visible=False), inner.unary("Neg", mixed, visible=False)]
    body = helper.make_graph(
        inner.nodes, f"over_{count.name}", [b.value_info(t) for t in (count, condition, carried)],
        [b.value_info(t) for t in (going, *results)], inner.initializers,
    )  # fmt: skip
    b.used.add(x.name)
    shape = b.node("Shape", [x], [("int64", (x.rank,))], visible=False)[0]
    trips = b.node("Gather", [shape, b.ints([0], scalar=True)], [("int64", ())], visible=False, axis=0)[0]
    start = b.weights(b.concrete(rest), x.dtype)
    flag = b.constant(np.asarray(True), as_node=False) if b.chance(0.5) else None
    b.node("Loop", [trips, flag, start], [(x.dtype, rest), (x.dtype, x.shape)], body=body)
    return True


def growing(b: Builder, grow: Grow) -> bool:
    """A Loop whose carried value grows along an axis; of as many iterations as an input says."""
    x = b.pick(lambda t: t.is_float and t.rank >= 1 and all(isinstance(e, int) for e in t.shape[1:]))
    if x is None or b.depth:
        return False
    trips, size = b.integer(0, 4), b.size(x.shape[0])
    inner = b.child()
    count, condition = Tensor(f"i{next(b.numbers)}", "int64", ()), Tensor(f"k{next(b.numbers)}", "bool", ())
    carried = Tensor(f"v{next(b.numbers)}", x.dtype, (b.found(size), *x.shape[1:]))
    row = b.weights((1, *b.concrete(x.shape[1:])), x.dtype)
    longer = (b.found(size), *x.shape[1:])
    joined = inner.node("Concat", [carried, row], [(x.dtype, longer)], visible=False, axis=0)[0]
    changed = inner.unary(b.choice(("Tanh", "Neg", "Identity")), joined, visible=False)
    going = inner.unary("Identity", condition, visible=False)
    body = helper.make_graph(
        inner.nodes, f"growing_{count.name}", [b.value_info(t) for t in (count, condition, carried)],
        [b.value_info(t) for t in (going, changed)], inner.initializers,
    )  # fmt: skip
    total = b.found(size + trips)
    operands = [b.given(np.asarray(trips, np.int64), 0.3), b.constant(np.asarray(True), as_node=False), x]
    b.node("Loop", operands, [(x.dtype, (total, *x.shape[1:]))], body=body)
    return True


def differing(b: Builder, grow: Grow) -> bool:
    """If whose branches give results of different extents."""
    x = b.pick(lambda t: t.is_float and t.rank >= 1 and all(isinstance(e, int) for e in t.shape))
    if x is None or b.depth >= DEEPEST or b.size(x.shape[0]) < 1:
        return False
    taken = b.chance(0.5)
    flag = b.given(np.asarray(taken), 0.15)
    size = b.size(x.shape[0])
    cut = b.integer(1, size)
    branches = {}
    for name, extent in (("then_branch", cut), ("else_branch", size)):
        inner = b.child()
        operands = [x, *(inner.ints([n]) for n in (0, extent, 0))]
        part = inner.node("Slice", operands, [(x.dtype, (extent, *x.shape[1:]))])[0]
        result = inner.unary(b.choice(("Relu", "Neg")), part, visible=False)
        info = b.value_info(Tensor(result.name, x.dtype, ("d", *x.shape[1:])))
        branches[name] = helper.make_graph(inner.nodes, f"{name}_{result.name}", [], [info], inner.initializers)
    b.node("If", [flag], [(x.dtype, (b.found(cut if taken else size), *x.shape[1:]))], **branches)
    return True


def _latest(inner: Builder, x: Tensor) -> Tensor | None:
    """A tensor of the type of `x` that was made inside."""
    return inner.pick(lambda t: t in inner.made and t.dtype == x.dtype and t.shape == x.shape)
