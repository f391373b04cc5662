"""Sizes that come from data as detection and language models have them, in the spelling of the exporters, against ONNX
Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from ingot.compiler import compile

Feed = Mapping[str, np.ndarray]
CONSTANTS = """<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4},
    int64[1] ten = {10}, int64[1] last = {-1}, int64 i0 = {0}, int64 i1 = {1}, float f0 = {0}, float f1 = {1},
    float half = {0.5}, float[2] off_on = {0, 1}, int64[1] far = {9223372036854775807}, bool yes = {1}>"""


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float, dtype: type = np.int64) -> np.ndarray:
    return np.array(value, dtype)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape, np.float32)


MODELS: dict[str, tuple[str, list[Feed]]] = {}


def add(name: str, text: str, *feeds: Feed) -> None:
    head, nodes = text.split("{", 1)
    MODELS[name] = (f'<ir_version: 9, opset_import: ["" : 18]> m {head.strip()} {CONSTANTS} {{{nodes}', list(feeds))


def limits(n: int, *values: float) -> list[Feed]:
    return [{"scores": noise(n), "boxes": noise(n, 4), "limit": scalar(v, np.float32)} for v in values]


# -- what is found ----------------------------------------------------------------------------------------------------

add(
    "gather_nd",
    """(float[n] scores, float[n, 4] boxes, float limit) => (float[c, k, 2] y, float[m, 4] flat) {
        mask = Greater(scores, limit)
        found = NonZero(mask)
        places = Transpose<perm = [1, 0]>(found)
        chosen = GatherND(boxes, places)
        count = Shape<start = 0, end = 1>(chosen)
        shape = Concat<axis = 0>(count, last, two)
        y = Reshape(chosen, shape)
        back = Concat<axis = 0>(last, four)
        flat = Reshape(y, back) }""",
    *limits(7, 0.4, 0),
)
add(
    "boolean_mask",
    """(float[b, s, d] x, bool[b, s] mask) => (float[n, d] y, float[b, s, d] back, float[m] flat) {
        found = NonZero(mask)
        places = Transpose(found)
        rows = GatherND(x, places)
        y = Relu(rows)
        shape = Shape(x)
        zeros = ConstantOfShape(shape)
        back = ScatterND(zeros, places, y)
        flat = Reshape(rows, last) }""",
    *({"x": noise(2, 3, 4), "mask": np.array(m, bool).reshape(2, 3)} for m in ([1, 0, 1, 0, 0, 1], [0] * 6, [1] * 6)),
)
add(
    "masked_fill_of_rows",
    """(float[n, 3] x, float[n] scores, float limit) => (float[n, 3] y) {
        mask = Less(scores, limit)
        found = NonZero(mask)
        places = Transpose(found)
        chosen = GatherND(x, places)
        shape = Shape(chosen)
        value = Expand(half, shape)
        y = ScatterND(x, places, value) }""",
    *({"x": noise(5, 3), "scores": noise(5), "limit": scalar(v, np.float32)} for v in (0.5, 0, 2)),
)
add(
    "unique_and_expand",
    """(int64[n] ids, float[10, 3] table) => (float[u, 3] rows, float[n, 3] back, float[u, 5, 3] wide, int64[u] counts) {
        values, first, inverse, counts = Unique(ids)
        rows = Gather(table, values)
        back = Gather(rows, inverse)
        u = Shape(values)
        five = Constant<value_ints = [5]>()
        shape = Concat<axis = 0>(u, five, three)
        tall = Unsqueeze(rows, one)
        wide = Expand(tall, shape) }""",
    *({"ids": i64(*v), "table": noise(10, 3)} for v in ((3, 1, 3, 9), (5,), (2, 2, 2))),
)
add(
    "range_and_gather",
    """(float[n, 2] x, bool[n] mask) => (float[k, 2] y, int64[k] r) {
        numbers = Cast<to = 7>(mask)
        count = ReduceSum<keepdims = 0>(numbers)
        r = Range(i0, count, i1)
        y = Gather(x, r) }""",
    *({"x": noise(4, 2), "mask": np.array(m, bool)} for m in ([1, 0, 1, 1], [0] * 4, [1] * 4)),
)
add(
    "top_of_what_is_found",
    """(float[n] scores, float[n, 4] boxes, float limit) => (float[k] best, float[k, 4] y) {
        mask = Greater(scores, limit)
        found = NonZero(mask)
        row = Squeeze(found, zero)
        kept = Gather(scores, row)
        count = Shape(kept)
        k = Min(count, three)
        best, places = TopK<axis = 0, sorted = 1>(kept, k)
        boxes_kept = Gather(boxes, row)
        y = Gather(boxes_kept, places) }""",
    *limits(9, 0.2, 0.9, 2),
)
add(
    "top_of_both",
    """(float[n] scores, int64[1] most) => (float[k] best, float[r] rest) {
        count = Shape(scores)
        k = Min(most, count)
        best, places = TopK<axis = 0>(scores, k)
        zeros = Sub(scores, scores)
        marked = ScatterElements<axis = 0>(scores, places, best)
        left = Sub(count, k)
        sizes = Concat<axis = 0>(k, left)
        head, rest = Split<axis = 0>(marked, sizes) }""",
    *({"scores": noise(6), "most": i64(k)} for k in (2, 9, 0, 6)),
)

# -- parts ------------------------------------------------------------------------------------------------------------

add(
    "split_of_the_best",
    """(float[n] x, int64[1] k, int64[2] cut) => (float[a] first, float[b] rest) {
        best, places = TopK<axis = 0>(x, k)
        first, rest = Split<axis = 0>(best, cut) }""",
    *({"x": noise(5), "k": i64(k), "cut": i64(a, k - a)} for k, a in ((4, 1), (5, 5), (0, 0), (3, 0))),
)
add(
    "split_of_the_best_by_other_names",
    """(float[n] x, int64[1] k, int64[2] cut) => (float[a] a, float[b] b) {
        zvalues, places = TopK<axis = 0>(x, k)
        a, b = Split<axis = 0>(zvalues, cut) }""",
    *({"x": noise(5), "k": i64(k), "cut": i64(a, k - a)} for k, a in ((4, 1), (5, 5), (0, 0))),
)
add(
    "concat_and_split_back",
    """(float[n] x, float[m] y) => (float[a] first, float[b] second) {
        p = NonZero(x)
        q = NonZero(y)
        ps = Squeeze(p, zero)
        qs = Squeeze(q, zero)
        xs = Gather(x, ps)
        ys = Gather(y, qs)
        both = Concat<axis = 0>(xs, ys)
        soft = Relu(both)
        pn = Shape(xs)
        qn = Shape(ys)
        sizes = Concat<axis = 0>(pn, qn)
        first, second = Split<axis = 0>(soft, sizes) }""",
    *({"x": f32(*a), "y": f32(*b)} for a, b in (((1, 0, 2), (3,)), ((0,), (1, 2)), ((), ()), ((5, 6), (0, 0)))),
)
add(
    "split_in_a_branch",
    """(float[n] x, int64[1] k, int64[2] cut, bool c) => (float[a] y) {
        best, places = TopK<axis = 0>(x, k)
        y = If(c) <then_branch = t () => (float[a] first) { first, rest = Split<axis = 0>(best, cut) },
                   else_branch = e () => (float[b] other) { other = Neg(best) }> }""",
    *(
        {"x": noise(5), "k": i64(k), "cut": i64(a, k - a), "c": scalar(c, np.bool_)}
        for k, a, c in ((4, 1, True), (5, 5, True), (0, 0, True), (3, 0, False))
    ),
)
add(
    "split_in_a_loop",
    """(float[n] x, int64[1] k, int64[2] cut, int64 trips) => (float sum, float[r] totals) {
        best, places = TopK<axis = 0>(x, k)
        sum, totals = Loop(trips, yes, f0) <body = b (int64 i, bool c, float acc) => (bool d, float next, float t) {
            d = Identity(c)
            a, z = Split<axis = 0>(best, cut)
            t = ReduceSum<keepdims = 0>(a)
            u = ReduceSum<keepdims = 0>(z)
            v = Sub(t, u)
            next = Add(acc, v) }> }""",
    *(
        {"x": noise(5), "k": i64(k), "cut": i64(a, k - a), "trips": scalar(t)}
        for k, a, t in ((4, 1, 3), (5, 5, 1), (0, 0, 2), (3, 0, 0))
    ),
)
add(
    "split_by_the_iteration",
    """(float[n] x, int64 trips) => (float[r] totals) {
        total = Shape(x)
        start = Identity(f0)
        sum, totals = Loop(trips, yes, start) <body = b (int64 i, bool c, float acc) => (bool d, float next, float t) {
            d = Identity(c)
            il = Unsqueeze(i, zero)
            left = Sub(total, il)
            sizes = Concat<axis = 0>(il, left)
            a, z = Split<axis = 0>(x, sizes)
            t = ReduceSum<keepdims = 0>(z)
            next = Add(acc, t) }> }""",
    *({"x": noise(5), "trips": scalar(t)} for t in (5, 0, 1)),
)
add(
    "slices_by_data",
    """(float[n, 6] x, int64[1] start, int64[1] end) => (float[a, 6] y, float[b, 6] z, float[c, 6] w) {
        y = Slice(x, start, end, zero, one)
        from = Neg(end)
        z = Slice(x, from, far, zero, two)
        w = Slice(x, last, start, zero, last) }""",
    *({"x": noise(7, 6), "start": i64(a), "end": i64(b)} for a, b in ((1, 5), (0, 0), (-3, 100), (5, 2))),
)
add(
    "slice_by_computed_steps",
    """(float[n] x, int64[1] start, int64[1] end, int64[1] step) => (float[a] y) {
        y = Slice(x, start, end, zero, step) }""",
    *(
        {"x": noise(7), "start": i64(a), "end": i64(b), "step": i64(s)}
        for a, b, s in ((1, 5, 2), (0, 7, 1), (6, 0, -2), (5, 2, 1))
    ),
)

# -- padding, repeating, filling --------------------------------------------------------------------------------------

add(
    "pad_to_the_longest",
    """(float[b, s, d] x, int64[b] lengths) => (float[b, t, d] y, float[b, t] mask) {
        longest = ReduceMax<keepdims = 0>(lengths)
        whole = Unsqueeze(longest, zero)
        have = Shape<start = 1, end = 2>(x)
        more = Sub(whole, have)
        pads = Concat<axis = 0>(zero, zero, zero, zero, more, zero)
        y = Pad(x, pads, f0)
        steps = Range(i0, longest, i1)
        column = Unsqueeze(lengths, one)
        valid = Less(steps, column)
        mask = Cast<to = 1>(valid) }""",
    *({"x": noise(2, 3, 4), "lengths": i64(*v)} for v in ((5, 3), (3, 1), (1, 2), (0, 0))),
)
add(
    "pad_to_a_multiple",
    """(float[1, c, h, w] x, int64[2] by) => (float[1, c, p, q] y, int64[4] shape) {
        size = Shape<start = 2, end = 4>(x)
        rest = Mod(size, by)
        need = Sub(by, rest)
        more = Mod(need, by)
        front = Constant<value_ints = [0, 0, 0, 0, 0, 0]>()
        pads = Concat<axis = 0>(front, more)
        y = Pad(x, pads)
        shape = Shape(y) }""",
    *({"x": noise(1, 2, h, w), "by": i64(*b)} for h, w, b in ((5, 6, (4, 4)), (8, 4, (4, 4)), (3, 3, (1, 5)))),
)
add(
    "tile_and_expand",
    """(float[n, 3] x, int64 count) => (float[m, 3] y, float[k, n, 3] z, float[j, n, 3] w) {
        listed = Reshape(count, last)
        repeats = Concat<axis = 0>(listed, one)
        y = Tile(x, repeats)
        asked = Concat<axis = 0>(listed, last, last)
        rank = Shape(asked)
        ones = ConstantOfShape<value = int64[1] {1}>(rank)
        minus = Neg(ones)
        open = Equal(asked, minus)
        shape = Where(open, ones, asked)
        z = Expand(x, shape)
        w = Neg(z) }""",
    *({"x": noise(2, 3), "count": scalar(c)} for c in (3, 1, 0)),
)
add(
    "constant_of_a_count",
    """(float[n] x, float[k] y) => (float[m] z, int64[j] labels) {
        found = NonZero(x)
        count = Shape<start = 1, end = 2>(found)
        zeros = ConstantOfShape<value = float[1] {0.5}>(count)
        z = Concat<axis = 0>(zeros, y)
        labels = ConstantOfShape<value = int64[1] {1}>(count) }""",
    *({"x": f32(*a), "y": f32(*b)} for a, b in (((1, 0, 2), (3,)), ((0,), ()), ((1, 1), (7, 8)))),
)
add(
    "one_hot_of_computed_depth",
    """(int64[n] ids) => (float[n, c] hot, float[c] counts) {
        most = ReduceMax<keepdims = 0>(ids)
        depth = Add(most, i1)
        hot = OneHot(ids, depth, off_on)
        counts = ReduceSum<keepdims = 0>(hot, zero) }""",
    *({"ids": i64(*v)} for v in ((3, 0, 2), (0,), (7, 7, 1, 1))),
)
add(
    "causal_masks",
    """(int64[1] length, int64 k) => (float[n, n] y, float[n, n] z) {
        shape = Concat<axis = 0>(length, length)
        ones = ConstantOfShape<value = float[1] {1}>(shape)
        y = Trilu<upper = 1>(ones, k)
        z = Trilu<upper = 0>(ones, k) }""",
    *({"length": i64(n), "k": scalar(k)} for n, k in ((4, 1), (3, -1), (1, 0), (0, 0), (5, 9))),
)
add(
    "positions_by_running_sums",
    """(int64[b, s] ids, int64 pad, int64 axis) => (int64[b, s] positions, float[b, t] y, int64[b, s] sums) {
        same = Equal(ids, pad)
        real = Not(same)
        ones = Cast<to = 7>(real)
        running = CumSum(ones, i1)
        masked = Mul(running, ones)
        positions = Add(masked, pad)
        sums = CumSum(ones, axis)
        most = ReduceMax<keepdims = 0>(running)
        depth = Add(most, i1)
        hot = OneHot(masked, depth, off_on)
        y = ReduceSum<keepdims = 0>(hot, one) }""",
    *(
        {"ids": np.array(v, np.int64), "pad": scalar(1), "axis": scalar(a)}
        for v, a in (([[5, 6, 1], [7, 1, 1]], 0), ([[1, 1]], 1), ([[4, 3]], -1))
    ),
)
add(
    "scatter_into_a_computed_shape",
    """(int64[n] places, float[n, 3] rows) => (float[m, 3] y, float[m] z) {
        most = ReduceMax<keepdims = 1>(places)
        size = Add(most, one)
        shape = Concat<axis = 0>(size, three)
        zeros = ConstantOfShape(shape)
        listed = Unsqueeze(places, one)
        y = ScatterND(zeros, listed, rows)
        line = ConstantOfShape(size)
        column = Slice(rows, zero, one, one)
        flat = Reshape(column, last)
        z = ScatterElements<axis = 0, reduction = "add">(line, places, flat) }""",
    *({"places": i64(*v), "rows": noise(len(v), 3)} for v in ((3, 0, 2), (0,), (6, 1))),
)
add(
    "grid_of_computed_sizes",
    """(float[1, c, h, w] x, int64 rows, int64 columns) => (int64[n, 2] y, int64[m, 2] z) {
        r = Range(i0, rows, i1)
        q = Range(i0, columns, i1)
        rl = Reshape(rows, last)
        ql = Reshape(columns, last)
        shape = Concat<axis = 0>(rl, ql)
        tall = Unsqueeze(r, one)
        a = Expand(tall, shape)
        b = Expand(q, shape)
        af = Unsqueeze(a, two)
        bf = Unsqueeze(b, two)
        both = Concat<axis = -1>(af, bf)
        flat = Concat<axis = 0>(last, two)
        y = Reshape(both, flat)
        halved = Div(y, two)
        z = Mul(halved, two) }""",
    *({"x": noise(1, 1, 2, 2), "rows": scalar(a), "columns": scalar(b)} for a, b in ((2, 3), (0, 4), (1, 1))),
)

# -- loops, branches, sequences ---------------------------------------------------------------------------------------

add(
    "greedy_decoding",
    """(int64[1, s] prompt, float[12, 12] table, int64 most, int64 stop) => (int64[1, t] tokens, float[k, 12] steps) {
        tokens, steps = Loop(most, yes, prompt) <
            body = b (int64 i, bool c, int64[1, p] given) => (bool going, int64[1, q] longer, float[12] logits) {
                newest = Slice(given, last, far, one)
                flat = Reshape(newest, last)
                rows = Gather(table, flat)
                logits = Squeeze(rows, zero)
                best = ArgMax<axis = -1, keepdims = 1>(rows)
                longer = Concat<axis = 1>(given, best)
                ended = Equal(best, stop)
                done = Squeeze(ended)
                going = Not(done) }> }""",
    *({"prompt": i64(*p)[None], "table": noise(12, 12), "most": scalar(m), "stop": scalar(s)}
      for p, m, s in (((1, 2), 6, -1), ((3,), 0, 5), ((4, 5, 6), 9, 7))),
)
add(
    "rows_collected_in_a_sequence",
    """(float[n, 3] x, int64[m] counts) => (float[k, 3] y) {
        trips = Size(counts)
        nothing = SequenceEmpty<dtype = 1>()
        rows = Loop(trips, yes, nothing) <
            body = b (int64 i, bool c, seq(float[p, 3]) given) => (bool d, seq(float[q, 3]) longer) {
                d = Identity(c)
                count = Gather<axis = 0>(counts, i)
                row = Gather<axis = 0>(x, i)
                one_row = Unsqueeze(row, zero)
                listed = Unsqueeze(count, zero)
                repeats = Concat<axis = 0>(listed, one)
                part = Tile(one_row, repeats)
                longer = SequenceInsert(given, part) }>
        y = ConcatFromSequence<axis = 0>(rows) }""",
    *({"x": noise(len(c), 3), "counts": i64(*c)} for c in ((2, 0, 3), (1,), (0, 0))),
)
add(
    "repeat_interleave",
    """(float[n, 2] x, int64[n] repeats) => (float[m, 2] y) {
        each = SplitToSequence<axis = 0>(x, ones)
        counts = SplitToSequence<axis = 0>(repeats, ones)
        trips = SequenceLength(each)
        nothing = SequenceEmpty<dtype = 1>()
        parts = Loop(trips, yes, nothing) <
            body = b (int64 i, bool c, seq(float[p, 2]) given) => (bool d, seq(float[q, 2]) longer) {
                d = Identity(c)
                row = SequenceAt(each, i)
                count = SequenceAt(counts, i)
                shape = Concat<axis = 0>(count, two)
                part = Expand(row, shape)
                longer = SequenceInsert(given, part) }>
        y = ConcatFromSequence<axis = 0>(parts) }""".replace("(x, ones)", "(x, i1)").replace("(repeats, ones)", "(repeats, i1)"),
    *({"x": noise(len(c), 2), "repeats": i64(*c)} for c in ((2, 1, 3), (1,), (0, 4))),
)
add(
    "crops",
    """(float[1, 3, h, w] image, int64[n, 4] boxes) => (float[m, 3, 4, 4] y) {
        trips0 = Shape<start = 0, end = 1>(boxes)
        trips = Squeeze(trips0)
        size = Constant<value_ints = [1, 3, 4, 4]>()
        last_carried, crops = Loop(trips, yes, i0) <
            body = b (int64 i, bool c, int64 same) => (bool d, int64 same_out, float[1, 3, 4, 4] crop) {
                d = Identity(c)
                same_out = Identity(same)
                box = Gather<axis = 0>(boxes, i)
                starts = Slice(box, zero, two)
                ends = Slice(box, two, four)
                axes = Concat<axis = 0>(two, three)
                part = Slice(image, starts, ends, axes)
                crop = Resize<mode = "linear">(part, , , size) }>
        y = Squeeze(crops, one) }""",
    *({"image": noise(1, 3, 9, 8), "boxes": np.array(v, np.int64).reshape(-1, 4)}
      for v in ([[0, 0, 5, 4], [2, 1, 9, 8]], [[3, 3, 4, 4]], [])),
)
add(
    "branches_of_other_ranks",
    """(float[n, m] x, int64[1] k) => (float[] y, float[] z) {
        shape = Concat<axis = 0>(k, last)
        cut = Reshape(x, shape)
        count = Shape<start = 0, end = 1>(cut)
        alone = Equal(count, one)
        single = Squeeze(alone)
        y = If(single) <then_branch = t () => (float[a] flat) { flat = Squeeze(cut, zero) },
                        else_branch = e () => (float[a, b] whole) { whole = Identity(cut) }>
        z = Neg(y) }""",
    *({"x": noise(2, 3), "k": i64(k)} for k in (1, 2, 6)),
)
add(
    "nothing_found_takes_another_way",
    """(float[n] scores, float[n, 4] boxes, float limit) => (float[k, 5] y) {
        mask = Greater(scores, limit)
        found = NonZero(mask)
        row = Squeeze(found, zero)
        count = Size(row)
        none = Equal(count, i0)
        y = If(none) <
            then_branch = t () => (float[a, 5] empty) {
                empty = Constant<value = float[1, 5] {0, 0, 0, 0, 0}>() },
            else_branch = e () => (float[b, 5] made) {
                kept = Gather(boxes, row)
                score = Gather(scores, row)
                column = Unsqueeze(score, one)
                made = Concat<axis = 1>(kept, column) }> }""",
    *limits(6, 0.3, 2, -1),
)
add(
    "a_loop_that_keeps_what_is_above_the_mean",
    """(float[n] x) => (float[k] y, int64 rounds) {
        y, rounds = Loop(, yes, x, i0) <
            body = b (int64 i, bool c, float[p] v, int64 r) => (bool going, float[q] w, int64 s) {
                mean = ReduceMean<keepdims = 0>(v)
                keep = GreaterOrEqual(v, mean)
                found = NonZero(keep)
                places = Reshape(found, last)
                w = Gather(v, places)
                s = Add(r, i1)
                count = Size(w)
                going = Greater(count, i1) }> }""",
    *({"x": f32(*v)} for v in ((1, 5, 2, 8), (3,), (1, 2, 3, 4, 5, 6))),
)
add(
    "a_running_sum_of_slices",
    """(float[n] x, float[1] y, int64 trips) => (float[1] sum, float[k, 1] all) {
        sum, all = Loop(trips, yes, y) <
            body = b (int64 i, bool c, float[1] acc) => (bool d, float[1] next, float[1] row) {
                d = Identity(c)
                end = Add(i, i1)
                from = Unsqueeze(i, zero)
                to = Unsqueeze(end, zero)
                part = Slice(x, from, to)
                next = Add(acc, part)
                row = Identity(next) }> }""",
    *({"x": noise(5), "y": f32(-2), "trips": scalar(t)} for t in (5, 1, 0)),
)

# -- images -----------------------------------------------------------------------------------------------------------

add(
    "resize_by_computed_sizes",
    """(float[1, 2, h, w] x, int64[2] wanted) => (float[1, 2, a, b] y, float[1, 2, c, d] z) {
        head = Shape<start = 0, end = 2>(x)
        size = Concat<axis = 0>(head, wanted)
        y = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(x, , , size)
        have = Shape<start = 2, end = 4>(x)
        back = Concat<axis = 0>(head, have)
        z = Resize<mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = "asymmetric">(y, , , back)
    }""",
    *({"x": noise(1, 2, 4, 5), "wanted": i64(*w)} for w in ((8, 10), (3, 7), (1, 1))),
)
add(
    "resize_to_fit",
    """(float[1, 3, h, w] x, float side) => (float[1, 3, a, b] y) {
        shape = Shape<start = 2, end = 4>(x)
        extents = Cast<to = 1>(shape)
        longest = ReduceMax<keepdims = 0>(extents)
        scale = Div(side, longest)
        scaled = Mul(extents, scale)
        rounded = Floor(scaled)
        spatial = Cast<to = 7>(rounded)
        head = Shape<start = 0, end = 2>(x)
        size = Concat<axis = 0>(head, spatial)
        y = Resize<mode = "linear">(x, , , size) }""",
    *({"x": noise(1, 3, h, w), "side": scalar(s, np.float32)} for h, w, s in ((4, 6, 9), (8, 5, 4), (3, 3, 3))),
)
add(
    "suppression_and_the_best",
    """(float[1, n, 4] boxes, float[1, c, n] scores, float limit) => (float[k] best, float[k, 4] y, int64[k] labels) {
        room = Constant<value_int = 5>()
        iou = Constant<value_float = 0.5>()
        chosen = NonMaxSuppression(boxes, scores, room, iou, limit)
        columns = Slice(chosen, one, three, one)
        label2 = Slice(chosen, one, two, one)
        box2 = Slice(chosen, two, three, one)
        label = Squeeze(label2, one)
        box = Squeeze(box2, one)
        table = Squeeze(boxes, zero)
        found = Gather(table, box)
        scored = Squeeze(scores, zero)
        each = GatherND(scored, columns)
        have = Shape(each)
        k = Min(have, four)
        best, places = TopK<axis = 0>(each, k)
        y = Gather(found, places)
        labels = Gather(label, places) }""",
    *({"boxes": np.sort(noise(1, 8, 4).reshape(1, 8, 2, 2), axis=2).reshape(1, 8, 4), "scores": noise(1, 2, 8),
       "limit": scalar(v, np.float32)} for v in (0.1, 0.6, 2)),
)
add(
    "regions_by_level",
    """(float[1, 2, 8, 8] fine, float[1, 2, 4, 4] coarse, float[n, 4] boxes) => (float[n, 2, 2, 2] y) {
        x0 = Slice(boxes, zero, two, one)
        x1 = Slice(boxes, two, four, one)
        sides = Sub(x1, x0)
        area = ReduceProd<keepdims = 0>(sides, one)
        nine = Constant<value_float = 9.0>()
        large = Greater(area, nine)
        small = Not(large)
        count = Shape<start = 0, end = 1>(boxes)
        tail = Constant<value_ints = [2, 2, 2]>()
        shape = Concat<axis = 0>(count, tail)
        zeros = ConstantOfShape(shape)
        nz0 = NonZero(small)
        at0 = Squeeze(nz0, zero)
        b0 = Gather(boxes, at0)
        n0 = Shape(at0)
        i_0 = ConstantOfShape<value = int64[1] {0}>(n0)
        r0 = RoiAlign<output_height = 2, output_width = 2, sampling_ratio = 2>(fine, b0, i_0)
        p0 = Unsqueeze(at0, one)
        y0 = ScatterND(zeros, p0, r0)
        nz1 = NonZero(large)
        at1 = Squeeze(nz1, zero)
        b1 = Gather(boxes, at1)
        n1 = Shape(at1)
        i_1 = ConstantOfShape<value = int64[1] {0}>(n1)
        r1 = RoiAlign<output_height = 2, output_width = 2, sampling_ratio = 2, spatial_scale = 0.5>(coarse, b1, i_1)
        p1 = Unsqueeze(at1, one)
        y = ScatterND(y0, p1, r1) }""",
    *({"fine": noise(1, 2, 8, 8), "coarse": noise(1, 2, 4, 4), "boxes": np.array(b, np.float32).reshape(-1, 4)}
      for b in ([[0, 0, 2, 2], [1, 1, 7, 6], [2, 0, 4, 3]], [[0, 0, 1, 1]], [[0, 0, 7, 7]])),
)
add(
    "overlaps_of_what_is_found",
    """(float[n] scores, float[n, 4] boxes, float limit) => (float[k, k] y, int64[k] first) {
        mask = Greater(scores, limit)
        found = NonZero(mask)
        row = Squeeze(found, zero)
        kept = Gather(boxes, row)
        a = Unsqueeze(kept, one)
        b = Unsqueeze(kept, zero)
        low = Max(a, b)
        high = Min(a, b)
        gap = Sub(high, low)
        y = ReduceSum<keepdims = 0>(gap, two)
        product = MatMul(y, y)
        first = ArgMax<axis = 1, keepdims = 0>(product) }""",
    *limits(7, 0.3, 0.99, -1),
)

# -- language ---------------------------------------------------------------------------------------------------------

add(
    "unpadded_attention",
    """(float[b, s, 4] x, int64[b, s] mask, float[4, 4] w) => (float[b, s, 4] y) {
        flat_mask = Reshape(mask, last)
        found = NonZero(flat_mask)
        at = Reshape(found, last)
        rows_shape = Concat<axis = 0>(last, four)
        rows = Reshape(x, rows_shape)
        packed = Gather(rows, at)
        product = MatMul(packed, w)
        act = Sigmoid(product)
        batch = Shape<start = 0, end = 1>(x)
        steps = Shape<start = 1, end = 2>(x)
        all = Mul(batch, steps)
        shape = Concat<axis = 0>(all, four)
        zeros = ConstantOfShape(shape)
        places = Unsqueeze(at, one)
        spread = ScatterND(zeros, places, act)
        whole = Concat<axis = 0>(batch, steps, four)
        y = Reshape(spread, whole) }""",
    *({"x": noise(2, 3, 4), "mask": np.array(m, np.int64).reshape(2, 3), "w": noise(4, 4)}
      for m in ([1, 1, 0, 1, 0, 0], [0] * 6, [1] * 6)),
)
add(
    "decoding_of_classes_in_time",
    """(float[t, c] logits) => (int64[k] labels, int64 count) {
        best = ArgMax<axis = 1, keepdims = 0>(logits)
        head = Slice(best, zero, last)
        tail = Slice(best, one, far)
        same = Equal(head, tail)
        differs = Not(same)
        first = Cast<to = 9>(one)
        fresh = Concat<axis = 0>(first, differs)
        blank = Equal(best, i0)
        real = Not(blank)
        keep = And(fresh, real)
        labels = Compress<axis = 0>(best, keep)
        count = Size(labels) }""",
    *({"logits": np.eye(4, dtype=np.float32)[list(v)]} for v in ((0, 1, 1, 0, 2, 2, 3), (0, 0), (3,))),
)
add(
    "the_last_state_of_each",
    """(float[b, s, 3] x, int64[b] lengths, int64 window) => (float[b, 3] y, float[b, w, 3] z) {
        longest = ReduceMax<keepdims = 1>(lengths)
        cut = Slice(x, zero, longest, one)
        before = Sub(lengths, i1)
        count = Shape<start = 0, end = 1>(x)
        many = Squeeze(count)
        rows = Range(i0, many, i1)
        left = Unsqueeze(rows, one)
        right = Unsqueeze(before, one)
        places = Concat<axis = 1>(left, right)
        y = GatherND(cut, places)
        from0 = Neg(window)
        from = Unsqueeze(from0, zero)
        z = Slice(cut, from, far, one) }""",
    *({"x": noise(2, 5, 3), "lengths": i64(*v), "window": scalar(w)} for v, w in (((5, 2), 2), ((1, 1), 3), ((4, 3), 1))),
)
add(
    "pairs_of_what_is_found",
    """(float[n, m] x) => (int64[k, 2] y, float[h, 2, 2] z) {
        found = NonZero(x)
        y = Transpose(found)
        values0 = GatherND(x, y)
        count = Size(values0)
        two0 = Squeeze(two)
        half_count = Div(count, two0)
        even = Mul(half_count, two0)
        stop = Unsqueeze(even, zero)
        cut = Slice(y, zero, stop, zero)
        listed = Unsqueeze(half_count, zero)
        shape = Concat<axis = 0>(listed, two, two)
        floats = Cast<to = 1>(cut)
        z = Reshape(floats, shape) }""",
    *({"x": np.array(v, np.float32)} for v in ([[1, 0, 2], [0, 3, 4]], [[0, 0]], [[1], [1], [1]])),
)
add(
    "windows_of_a_computed_number",
    """(float[n] x, int64 width) => (float[k, w] y, float[k] sums) {
        count = Size(x)
        last_start = Sub(count, width)
        windows = Add(last_start, i1)
        starts = Range(i0, windows, i1)
        offsets = Range(i0, width, i1)
        column = Unsqueeze(starts, one)
        places = Add(column, offsets)
        y = Gather(x, places)
        sums = ReduceSum<keepdims = 0>(y, one) }""",
    *({"x": noise(7), "width": scalar(w)} for w in (3, 7, 1)),
)


@pytest.mark.parametrize("name", MODELS)
def test_as_onnx_runtime(name: str) -> None:
    """It compiles as it is, and gives in one session for every feed what ONNX Runtime gives."""
    text, feeds = MODELS[name]
    model = onnx.parser.parse_model(text)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    reference = ort.InferenceSession(model.SerializeToString(), options)
    names = [o.name for o in reference.get_outputs()]
    with compile(model, jobs=1).session(threads=1) as session:
        for feed in feeds:
            found = session.run(dict(feed))
            for output, want in zip(names, reference.run(None, dict(feed)), strict=True):
                expected = np.asarray(want)
                assert found[output].dtype == expected.dtype and found[output].shape == expected.shape, output
                np.testing.assert_allclose(found[output], expected, rtol=1e-5, atol=1e-5, err_msg=output)
