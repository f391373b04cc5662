"""Counting n-grams."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Reshape, Slice
from ingot.compiler.ops.reduction import ReduceSum
from ingot.runtime.dtypes import f32, i64, string

TABLE = Table()
onnx_op = TABLE.onnx_op


@onnx_op("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(ctx: Context) -> Results:
    """How often each n-gram of a pool of integers or strings occurs in each row, with up to so many elements skipped
    between two of its own; weighted, or 1 for those that occur at all."""
    x, mode = ctx.operand(0), ctx.attribute("mode", "")
    shortest, longest = ctx.attribute("min_gram_length", 0), ctx.attribute("max_gram_length", 0)
    skips, columns = ctx.attribute("max_skip_count", 0), ctx.required_ints("ngram_indexes")
    numbers, texts, weights = ctx.ints("pool_int64s"), ctx.strings("pool_strings"), ctx.floats("weights")
    pool = np.array(texts, object) if numbers is None else np.array(numbers, np.int64)
    if (numbers is None) == (texts is None) or (texts is None) == (x.dtype == string):
        raise ctx.error(f"TfIdfVectorizer of {x.type} needs one pool, of elements of its kind")
    if mode not in ("TF", "IDF", "TFIDF") or not 1 <= shortest <= longest or skips < 0 or not columns:
        raise ctx.error(f"mode {mode!r}, n-grams of {shortest} to {longest}, {skips} skips")
    if x.rank > 2 or not (texts or x.dtype.is_integer) or not isinstance(x.shape[-1] if x.rank else 1, int):
        raise ctx.unsupported(f"TfIdfVectorizer of {x.type}", "rank 1 or 2 and a constant last dim are needed")
    width = max(columns) + 1
    if min(columns) < 0 or (weights is not None and len(weights) != len(columns)):
        raise ctx.error(f"{len(weights or ())} weights for {len(columns)} n-grams in columns up to {width - 1}")
    rows = ctx.build(Reshape, x, (x.shape[0] if x.rank == 2 else 1, x.shape[-1] if x.rank else 1))
    wide = rows if rows.dtype in (i64, string) else ctx.build(ops.Cast, rows, i64)
    counts: list[Value] = []
    place = np.zeros((len(columns), width), np.float32)
    first = 0
    ends = (*ctx.required_ints("ngram_counts"), len(pool))
    for length, (begin, end) in enumerate(pairwise(ends), 1):
        number, rest = divmod(end - begin, length)
        if begin < 0 or number < 0 or rest or first + number > len(columns):
            raise ctx.error(f"ngram_counts {list(ends[:-1])} do not fit a pool of {len(pool)} elements")
        if shortest <= length <= longest and number:
            grams = pool[begin:end].reshape(number, length)
            counts.append(_occurrences(ctx, wide, grams, 0 if length == 1 else skips))
            place[first : first + number][np.arange(number), columns[first : first + number]] = 1.0
        else:
            counts.append(ctx.expand(ctx.constant(0.0, f32), (rows.shape[0], number)))
        first += number
    if first != len(columns):
        raise ctx.error(f"{len(columns)} ngram_indexes for {first} n-grams")
    joined = ctx.concat(counts, 1)
    if mode == "IDF":
        joined = ctx.build(ops.Cast, ctx.build(ops.Greater, joined, ctx.constant(0.0, f32)), f32)
    if mode != "TF" and weights is not None:
        place *= np.array(weights, np.float32).reshape(-1, 1)
    total: Value = ctx.build(MatMul, joined, ctx.constant(place))
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
