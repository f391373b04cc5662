"""Counting n-grams."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.table import Results, Table
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Concat, Reshape, Slice
from ingot.compiler.ops.reduction import ReduceSum
from ingot.runtime.dtypes import f32, i64

TABLE = Table()
onnx_op = TABLE.onnx_op


@onnx_op("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(ctx: Context) -> Results:
    """How often each n-gram of a pool of integers occurs in each row, with up to so many elements skipped between two
    of its own; weighted, or 1 for those that occur at all."""
    x, mode = ctx.operand(0), ctx.attribute("mode", "")
    shortest, longest = ctx.attribute("min_gram_length", 0), ctx.attribute("max_gram_length", 0)
    skips, columns = ctx.attribute("max_skip_count", 0), ctx.required_ints("ngram_indexes")
    pool, weights = ctx.ints("pool_int64s"), ctx.floats("weights")
    if pool is None:
        raise ctx.unsupported("TfIdfVectorizer of strings", "turn words into numbers before the model")
    if mode not in ("TF", "IDF", "TFIDF") or not 1 <= shortest <= longest or skips < 0 or not columns:
        raise ctx.error(f"mode {mode!r}, n-grams of {shortest} to {longest}, {skips} skips")
    if x.rank > 2 or not x.dtype.is_integer or not isinstance(x.shape[-1] if x.rank else 1, int):
        raise ctx.unsupported(f"TfIdfVectorizer of {x.type}", "rank 1 or 2 and a constant last dim are needed")
    width = max(columns) + 1
    if min(columns) < 0 or (weights is not None and len(weights) != width):
        raise ctx.error(f"{len(weights or ())} weights and {len(columns)} n-grams do not fit {width} columns")
    rows = ctx.build(Reshape, x, (x.shape[0] if x.rank == 2 else 1, x.shape[-1] if x.rank else 1))
    wide = rows if rows.dtype == i64 else ctx.build(ops.Cast, rows, i64)
    counts: list[Value] = []
    place = np.zeros((len(columns), width), np.float32)
    first = 0
    ends = (*ctx.required_ints("ngram_counts"), len(pool))
    for length, (begin, end) in enumerate(pairwise(ends), 1):
        number, rest = divmod(end - begin, length)
        if begin < 0 or number < 0 or rest or first + number > len(columns):
            raise ctx.error(f"ngram_counts {list(ends[:-1])} do not fit a pool of {len(pool)} numbers")
        if shortest <= length <= longest and number:
            grams = np.array(pool[begin:end], np.int64).reshape(number, length)
            counts.append(_occurrences(ctx, wide, grams, 0 if length == 1 else skips))
            place[first : first + number][np.arange(number), columns[first : first + number]] = 1.0
        else:
            counts.append(ctx.expand(ctx.constant(0.0, f32), (rows.shape[0], number)))
        first += number
    if first != len(columns):
        raise ctx.error(f"{len(columns)} ngram_indexes for {first} n-grams")
    joined = counts[0] if len(counts) == 1 else ctx.build(Concat, tuple(counts), 1)
    total: Value = ctx.build(MatMul, joined, ctx.constant(place))
    if mode == "IDF":
        total = ctx.build(ops.Cast, ctx.build(ops.Greater, total, ctx.constant(0.0, f32)), f32)
    if mode != "TF" and weights is not None:
        total = ctx.build(ops.Mul, total, ctx.constant(np.array(weights, np.float32)))
    return total if x.rank == 2 else ctx.build(Reshape, total, (width,))


def _occurrences(ctx: Context, rows: Value, grams: np.ndarray, skips: int) -> Value:
    """f32 [rows, n-grams]: at how many places of each row each of `grams` [number, length] begins, for all skips."""
    (number, length), extent = grams.shape, rows.shape[1]
    assert isinstance(extent, int)
    total: Value = ctx.expand(ctx.constant(0.0, f32), (rows.shape[0], number))
    for distance in range(1, skips + 2):
        windows = extent - (length - 1) * distance
        if windows < 1:
            break
        found: Value | None = None
        for k in range(length):
            part = ctx.build(Slice, rows, (0, k * distance), (rows.shape[0], windows), (1, 1))
            column = ctx.build(Reshape, part, (rows.shape[0], 1, windows))
            same = ctx.build(ops.Equal, column, ctx.constant(grams[:, k].reshape(number, 1)))
            found = same if found is None else ctx.build(ops.And, found, same)
        assert found is not None
        total = ctx.build(ops.Add, total, ctx.build(ReduceSum, ctx.build(ops.Cast, found, f32), (2,), False))
    return total
