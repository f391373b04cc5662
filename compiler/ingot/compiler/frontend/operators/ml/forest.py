"""Decision trees as tables of nodes, walked by all rows through all trees at once.

A leaf's children are the leaf itself, so that every walk may take as many steps as the deepest tree has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.ir.graph import Constant, Graph, Input, Node, Value, constant
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.control import Loop
from ingot.compiler.ops.movement import Gather, Reshape
from ingot.compiler.ops.reduction import ReduceMax, ReduceMin, ReduceSum
from ingot.runtime.dtypes import boolean, i64, u8

Numbers: TypeAlias = NDArray[Any]

LEAF = 255
MEMBER = 6
MODES: dict[str, int] = {
    "BRANCH_LEQ": 0, "BRANCH_LT": 1, "BRANCH_GTE": 2, "BRANCH_GT": 3, "BRANCH_EQ": 4, "BRANCH_NEQ": 5, "LEAF": LEAF,
}  # fmt: skip
"""Names before version 5, numbers from then on."""

_COMPARISONS: dict[int, Callable[..., Node]] = {
    0: ops.LessOrEqual,
    1: ops.Less,
    2: ops.GreaterOrEqual,
    3: ops.Greater,
    4: ops.Equal,
    5: ops.Equal,  # and not
}
LARGEST_TABLE = 1 << 26  # elements: of each node, what it adds to each target


@dataclass(frozen=True)
class Forest:
    """Nodes by number: the feature looked at [nodes], what it is compared with, how (`MODES`), where to go on, and
    whether a missing value counts as true. `weights` [nodes, targets] are what leaves give, NaN for nothing. `members`
    are the sets of nodes of mode MEMBER, as rows filled up with NaN."""

    features: Numbers
    splits: Numbers
    modes: Numbers
    yes: Numbers
    no: Numbers
    missing: Numbers
    roots: Numbers
    weights: Numbers
    members: Mapping[int, tuple[float, ...]]

    def depth(self, ctx: Context) -> int:
        """Steps from a root to the farthest leaf. ModelError where the nodes are no trees."""
        count = len(self.features)
        for name, numbers in (("root", self.roots), ("child", self.yes), ("child", self.no)):
            if numbers.size and not 0 <= numbers.min() <= numbers.max() < count:
                raise ctx.error(f"a {name} of a tree is a node that does not exist")
        if not self.roots.size:
            raise ctx.error("there are no trees")
        unknown = set(self.modes.tolist()) - {*_COMPARISONS, MEMBER, LEAF}
        if unknown:
            raise ctx.error(f"unknown modes of nodes: {sorted(unknown)}")
        seen = np.zeros(count, bool)
        level, steps = np.unique(self.roots), 0
        while (inner := level[self.modes[level] != LEAF]).size:
            if seen[inner].any():
                raise ctx.error("the nodes of a tree lead back to it, or to a part of another")
            seen[inner] = True
            level, steps = np.unique(np.concatenate([self.yes[inner], self.no[inner]])), steps + 1
        return steps


def reached(ctx: Context, forest: Forest, x: Value) -> Value:
    """The leaves [rows, trees] where the rows of x [rows, features] arrive."""
    rows, width = x.shape
    steps = forest.depth(ctx)
    if forest.features.size:
        ctx.at_least(width, int(forest.features.max()) + 1, "the trees look at more features")
        if forest.features.min() < 0:
            raise ctx.error("a tree looks at a negative feature")
    trees = len(forest.roots)
    start = ctx.expand(ctx.constant(forest.roots.reshape(1, trees)), (rows, trees))
    if not steps:
        return start
    flat = ctx.build(Reshape, x, (x.type.size,))
    row = ctx.build(Reshape, counted(ctx, rows, i64), (rows, 1))
    first = ctx.build(ops.Mul, row, ctx.dim_values((width,), True))
    iteration, going = Input("iteration", TensorType(i64, ())), Input("going", TensorType(boolean, ()))
    place, data, begin = (Input(name, v.type) for name, v in (("place", start), ("data", flat), ("begin", first)))
    outputs = (("going", going), ("next", _step(forest, place, data, begin)))
    body = Graph((iteration, going, place, data, begin), outputs, "step")
    trip = ctx.constant(steps, i64)
    return ctx.build(Loop, trip, None, (start,), (flat, first), body, (), ()).result(0)


def _step(forest: Forest, place: Value, data: Value, begin: Value) -> Value:
    """The nodes after `place`."""

    def of_node(table: Numbers) -> Value:
        return Gather(_constant(table), place, 0)

    value = Gather(data, ops.Add(of_node(forest.features), begin), 0)
    inner = [int(m) for m in np.unique(forest.modes) if m != LEAF]
    split = of_node(forest.splits.astype(data.dtype.to_numpy()))
    holds: Value | None = None
    for mode in inner:
        this = _member(forest, value, place) if mode == MEMBER else _COMPARISONS[mode](value, split)
        if mode == MODES["BRANCH_NEQ"]:
            this = ops.Not(this)
        holds = this if holds is None else ops.Where(ops.Equal(of_node(forest.modes), constant(mode, u8)), this, holds)
    assert holds is not None  # a walk of some steps has nodes that are no leaves
    if forest.missing.any():
        holds = ops.Or(holds, ops.And(ops.IsNaN(value), of_node(forest.missing)))
    return ops.Where(holds, of_node(forest.yes), of_node(forest.no))


def _member(forest: Forest, value: Value, place: Value) -> Value:
    """Whether the value is in the node's set."""
    longest = max((len(s) for s in forest.members.values()), default=0)
    table = np.full((1 + len(forest.members), longest), np.nan, value.dtype.to_numpy())
    rows = np.zeros(len(forest.features), np.int64)
    for row, (node, members) in enumerate(forest.members.items(), 1):
        table[row, : len(members)], rows[node] = members, row
    sets = Gather(_constant(table), Gather(_constant(rows), place, 0), 0)
    same = ops.Equal(Reshape(value, (*value.shape, 1)), sets)
    found = ReduceSum(ops.Cast(same, i64), (value.rank,), False)
    return ops.Greater(found, constant(0, i64))


def _constant(data: Numbers) -> Constant:
    return constant(np.ascontiguousarray(data))


def empty_weights(ctx: Context, nodes: int, targets: int, dtype: Any) -> Numbers:
    """[nodes, targets] of NaN. UnsupportedError where that is too much."""
    if nodes * targets > LARGEST_TABLE:
        raise ctx.unsupported(f"trees of {nodes} nodes for {targets} targets", "at most 2**26 weights are supported")
    return np.full((nodes, targets), np.nan, dtype)


def aggregated(ctx: Context, forest: Forest, leaves: Value, how: str) -> Value:
    """What the leaves [rows, trees] give each target, together: [rows, targets], 0 where there is nothing."""
    found = ctx.build(Gather, ctx.constant(forest.weights), leaves, 0)
    nothing, zero = ctx.build(ops.IsNaN, found), ctx.constant(0, found.dtype)
    if how in ("SUM", "AVERAGE"):
        total: Value = ctx.build(ReduceSum, ctx.build(ops.Where, nothing, zero, found), (1,), False)
        if how == "AVERAGE":
            total = ctx.build(ops.Div, total, ctx.constant(len(forest.roots), found.dtype))
        return total
    if how not in ("MIN", "MAX"):
        raise ctx.error(f"unknown aggregate_function {how!r}")
    present = ctx.build(ReduceMax, ctx.build(ops.Cast, ctx.build(ops.Not, nothing), i64), (1,), False)
    there = ctx.build(ops.Greater, present, ctx.constant(0, i64))
    limit = np.inf if how == "MIN" else -np.inf
    kept = ctx.build(ops.Where, nothing, ctx.constant(limit, found.dtype), found)
    extreme = ctx.build(ReduceMin if how == "MIN" else ReduceMax, kept, (1,), False)
    return ctx.build(ops.Where, there, extreme, zero)
