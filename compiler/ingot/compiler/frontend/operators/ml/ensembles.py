"""Ensembles of trees: regressors and classifiers as versions 1 and 3 have them, and the TreeEnsemble of version 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.ml.forest import LEAF, MEMBER, MODES, Forest, aggregated, empty_weights, reached
from ingot.compiler.frontend.operators.ml.linear import class_labels, column, rows_of, transformed
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import ML, Table
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Concat, Gather, Reshape
from ingot.compiler.ops.reduction import ArgMax
from ingot.runtime.dtypes import f32, f64, i64

TABLE = Table(domain=ML)
onnx_op = TABLE.onnx_op

Numbers = NDArray[Any]

_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def _list(ctx: Context, name: str, count: int | None = None) -> Numbers:
    """An attribute of integers as i64, of `count` elements."""
    found = np.array(ctx.ints(name) or (), np.int64)
    if count is not None and len(found) != count:
        raise ctx.error(f"{name} has {len(found)} elements, {count} are needed")
    return found


def _reals(ctx: Context, name: str) -> Numbers:
    """An attribute of floats, or the tensor that stands for it."""
    tensor = ctx.tensor(f"{name}_as_tensor")
    return np.array(ctx.floats(name) or (), np.float32) if tensor is None else tensor.reshape(-1)


def _read(ctx: Context, x: Value) -> Value:
    """The rows in the type in which they are compared."""
    rows = rows_of(ctx, x)
    return rows if rows.dtype in (f32, f64) else ctx.build(ops.Cast, rows, f32)


# -- versions 1 and 3 -------------------------------------------------------------------------------------------------


def _forest(ctx: Context, kind: str, targets: int) -> Forest:
    """The trees of a node; `kind` is what its weights are called, and for which of `targets` they are."""
    trees, numbers = _list(ctx, "nodes_treeids"), _list(ctx, "nodes_nodeids")
    count = len(trees)
    names = ctx.strings("nodes_modes") or ()
    unknown = sorted(set(names) - MODES.keys())
    if unknown or len(names) != count or len(numbers) != count:
        raise ctx.error(f"{len(names)} nodes_modes for {count} nodes, unknown are {unknown}")
    places = {(int(t), int(n)): i for i, (t, n) in enumerate(zip(trees, numbers, strict=True))}
    if len(places) != count:
        raise ctx.error("two nodes of a tree have one number")
    modes = np.array([MODES[name] for name in names], np.uint8)
    itself = np.arange(count)
    children: list[Numbers] = []
    for side in ("true", "false"):
        given = _list(ctx, f"nodes_{side}nodeids", count)
        wanted = [
            i if mode == LEAF else places.get((int(t), int(n)), -1)
            for i, (t, n, mode) in enumerate(zip(trees, given, modes, strict=True))
        ]
        children.append(np.array(wanted, np.int64))
    is_child = np.zeros(count, bool)
    for each in children:
        inner = (modes != LEAF) & (each >= 0)
        is_child[each[inner]] = True
    splits = _reals(ctx, "nodes_values")
    ctx.tensor("nodes_hitrates_as_tensor")
    ctx.ignore("nodes_hitrates")
    missing = _list(ctx, "nodes_missing_value_tracks_true")
    if len(splits) != count or len(missing) not in (0, count):
        raise ctx.error(f"{len(splits)} nodes_values for {count} nodes")
    features = np.where(modes == LEAF, 0, _list(ctx, "nodes_featureids", count))
    weights = _weights(ctx, kind, count, targets, places)
    tracks = missing.astype(bool) if len(missing) else np.zeros(count, bool)
    yes, no = children
    return Forest(features, splits, modes, yes, no, tracks, itself[~is_child], weights, {})


def _weights(ctx: Context, kind: str, count: int, targets: int, places: dict[tuple[int, int], int]) -> Numbers:
    """[nodes, targets]: what each leaf adds, NaN for nothing."""
    given = _reals(ctx, f"{kind}_weights")
    lists = (_list(ctx, f"{kind}_{what}", len(given)) for what in ("treeids", "nodeids", "ids"))
    table = empty_weights(ctx, count, targets, np.result_type(given.dtype, np.float32))
    for tree, node, target, weight in zip(*lists, given, strict=True):
        place = places.get((int(tree), int(node)))
        if place is None or not 0 <= target < targets:
            raise ctx.error(f"a weight belongs to node {node} of tree {tree} and target {target}, which are not there")
        before = table[place, target]
        table[place, target] = weight if np.isnan(before) else before + weight
    return table


@onnx_op("TreeEnsembleRegressor")
def tree_ensemble_regressor(ctx: Context) -> Results:
    x, targets = _read(ctx, ctx.operand(0)), ctx.attribute("n_targets", 1)
    if targets < 1:
        raise ctx.error(f"n_targets is {targets}")
    forest = _forest(ctx, "target", targets)
    scores = aggregated(ctx, forest, reached(ctx, forest, x), ctx.attribute("aggregate_function", "SUM"))
    base = _reals(ctx, "base_values")
    if len(base):
        if len(base) not in (1, targets):
            raise ctx.error(f"{len(base)} base_values for {targets} targets")
        scores = ctx.build(ops.Add, scores, ctx.constant(base.astype(scores.dtype.to_numpy())))
    return ctx.cast(transformed(ctx, scores, ctx.attribute("post_transform", "NONE")), f32)


@onnx_op("TreeEnsembleClassifier")
def tree_ensemble_classifier(ctx: Context) -> Results:
    """Labels and scores. Two labels of which the weights know one make a score of one number: how sure the second is,
    as a probability where no weight is negative, else on both sides of 0."""
    x, labels = _read(ctx, ctx.operand(0)), class_labels(ctx, "classlabels_int64s")
    classes, how = int(labels.shape[0]), ctx.attribute("post_transform", "NONE")
    named, weights, base = _list(ctx, "class_ids"), _reals(ctx, "class_weights"), _reals(ctx, "base_values")
    if len(base) not in (0, classes) and not (classes == 2 and len(base) == 1):
        raise ctx.error(f"{len(base)} base_values for {classes} classes")
    forest = _forest(ctx, "class", classes)
    scores = aggregated(ctx, forest, reached(ctx, forest, x), "SUM")
    base = base.astype(scores.dtype.to_numpy())
    if classes != 2 or len(np.unique(named)) != 1:
        scores = ctx.build(ops.Add, scores, ctx.constant(base)) if len(base) else scores
        place: Value = ctx.build(ArgMax, scores, 1, False, False)
        return ctx.build(Gather, labels, place, 0), ctx.cast(transformed(ctx, scores, how), f32)
    single = column(ctx, scores, int(named[0]))
    if len(base):
        single = ctx.build(ops.Add, single, ctx.constant(base[-1]))
    is_share = bool((weights >= 0).all()) and len(base) != 2
    bound = ctx.constant(0.5 if is_share else 0.0, single.dtype)
    beyond = ctx.build(ops.Cast, ctx.build(ops.Greater, single, bound), i64)
    label = ctx.build(Gather, labels, ctx.build(Reshape, beyond, (x.shape[0],)), 0)
    if is_share and how != "LOGISTIC":
        return label, ctx.cast(ctx.build(Concat, (_rest(ctx, single), single), 1), f32)
    both = ctx.build(Concat, (ctx.build(ops.Neg, single), single), 1)
    return label, ctx.cast(transformed(ctx, both, how), f32)


def _rest(ctx: Context, share: Value) -> Value:
    return ctx.build(ops.Sub, ctx.constant(1, share.dtype), share)


# -- version 5 --------------------------------------------------------------------------------------------------------


def _sets(ctx: Context, modes: Numbers) -> dict[int, tuple[float, ...]]:
    """The sets of the nodes of mode MEMBER, which lie one after the other, each with NaN behind it."""
    nodes = np.flatnonzero(modes == MEMBER).tolist()
    given = ctx.tensor("membership_values")
    values = np.zeros(0) if given is None else given.reshape(-1)
    ends = np.flatnonzero(np.isnan(values)).tolist()
    if len(ends) != len(nodes):
        raise ctx.error(f"membership_values has {len(ends)} sets for {len(nodes)} nodes")
    starts = [0, *(end + 1 for end in ends)][: len(ends)]
    return {n: tuple(values[a:b].tolist()) for n, a, b in zip(nodes, starts, ends, strict=True)}


@onnx_op("TreeEnsemble", since=5)
def tree_ensemble(ctx: Context) -> Results:
    """Inner nodes and leaves are lists of their own; here leaves come behind the inner nodes."""
    x, targets = rows_of(ctx, ctx.operand(0)), ctx.attribute("n_targets", 1)
    features, modes, splits = _list(ctx, "nodes_featureids"), ctx.tensor("nodes_modes"), ctx.tensor("nodes_splits")
    weights, owners = ctx.tensor("leaf_weights"), _list(ctx, "leaf_targetids")
    inner, leaves = len(features), len(owners)
    if modes is None or splits is None or weights is None or targets < 1:
        raise ctx.error("TreeEnsemble lacks an attribute", "run onnx.checker on the model")
    if modes.size != inner or splits.size != inner or weights.size != leaves:
        raise ctx.error(f"{modes.size} modes and {splits.size} splits for {inner} nodes, {weights.size} weights")
    if leaves and not 0 <= owners.min() <= owners.max() < targets:
        raise ctx.error(f"a leaf belongs to a target that is not one of {targets}")
    ctx.tensor("nodes_hitrates")
    ends = inner + np.arange(leaves)
    children: list[Numbers] = []
    for side in ("true", "false"):
        given, is_leaf = _list(ctx, f"nodes_{side}nodeids", inner), _list(ctx, f"nodes_{side}leafs", inner)
        most = np.where(is_leaf != 0, leaves, inner)
        if inner and ((given < 0) | (given >= most)).any():
            raise ctx.error(f"nodes_{side}nodeids names a node or leaf that does not exist")
        children.append(np.concatenate([given + np.where(is_leaf != 0, inner, 0), ends]))
    missing = _list(ctx, "nodes_missing_value_tracks_true")
    if len(missing) not in (0, inner):
        raise ctx.error(f"nodes_missing_value_tracks_true has {len(missing)} elements for {inner} nodes")
    table = empty_weights(ctx, inner + leaves, targets, weights.dtype)
    table[ends, owners] = weights.reshape(-1)
    modes = modes.reshape(-1)
    if inner and not 0 <= modes.min() <= modes.max() <= MEMBER:
        raise ctx.error(f"nodes_modes has {modes.min()} to {modes.max()}, 0 to {MEMBER} are known")

    def behind(values: Numbers, leaf: int) -> Numbers:
        return np.concatenate([values, np.full(leaves, leaf, values.dtype)])

    yes, no = children
    forest = Forest(
        behind(features, 0), behind(splits.reshape(-1), 0), behind(modes.astype(np.uint8), LEAF), yes, no,
        behind(missing.astype(bool) if len(missing) else np.zeros(inner, bool), 0),
        _list(ctx, "tree_roots"), table, _sets(ctx, modes),
    )  # fmt: skip
    how = _named(ctx, "aggregate_function", 1, _AGGREGATES)
    scores = aggregated(ctx, forest, reached(ctx, forest, x), how)
    scores = ctx.cast(scores, x.dtype)
    return transformed(ctx, scores, _named(ctx, "post_transform", 0, _TRANSFORMS))


def _named(ctx: Context, name: str, default: int, names: Sequence[str]) -> str:
    number = ctx.attribute(name, default)
    if not 0 <= number < len(names):
        raise ctx.error(f"{name} is {number}, 0 to {len(names) - 1} are known")
    return names[number]
