"""If and Loop with random bodies that capture what is outside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import helper

from benchmarks.fuzz.build import Builder, Tensor, dtype_code

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


def _latest(inner: Builder, x: Tensor) -> Tensor | None:
    """A tensor of the type of `x` that was made inside."""
    return inner.pick(lambda t: t in inner.made and t.dtype == x.dtype and t.shape == x.shape)
