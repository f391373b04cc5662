"""Graphs whose sizes come from data, as ONNX: valid, equal in onnxruntime at every stage, loaded again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.compiler.frontend.test_export import run, same

from ingot.compiler.frontend import load_onnx
from ingot.compiler.frontend.export import export_onnx, hold_narrow
from ingot.compiler.frontend.export.signs import never_negative
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Array, Graph, Input, Value, constant, node_of
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops import control, fused, indexing, movement, pointwise, reduction
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.pipeline import Pipeline
from ingot.runtime.dtypes import boolean, f32, i64

pytest.importorskip("onnxruntime")

Feed = Mapping[str, Array]
RNG = np.random.default_rng(5)


def parsed(text: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')


def stages(graph: Graph) -> Iterator[Graph]:
    """As imported, simplified, and with its groups."""
    pipeline = default_pipeline()
    yield graph
    simplified = Pipeline(pipeline.passes[: pipeline.names.index("fold_norm") + 1]).run(graph)
    yield simplified
    yield Pipeline(pipeline.passes[pipeline.names.index("fold_norm") + 1 :]).run(simplified)


def check(model: onnx.ModelProto, *feeds: Feed, opsets: Sequence[int] = (13, 21), again: bool = True) -> None:
    """What onnxruntime gives for the model it gives for the export of every stage, which loads again to the same."""
    graph = load_onnx(model)
    wanted = [run(model, feed) for feed in feeds]
    for stage in stages(graph):
        for opset in opsets:
            exported = export_onnx(stage, opset=opset)
            onnx.checker.check_model(exported, full_check=True)
            for feed, want in zip(feeds, wanted, strict=True):
                same(run(exported, feed), want)
        if again:
            loaded = load_onnx(export_onnx(stage))
            for feed, want in zip(feeds, wanted, strict=True):
                same(evaluate_graph(loaded, feed), want)


def names(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of all nodes."""
    for node in graph.node:
        yield node.name
        for attribute in node.attribute:
            yield from names(attribute.g)


def f(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def n(*values: int) -> Array:
    return np.array(values, np.int64)


# -- what data select -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extent", [0, 1, 7])
def test_found_elements(extent: int) -> None:
    text = """main (float[n, 3] x) => (y, places, rest)
    <float[1] zero = {0}, int64[1] two = {2}, int64[2] swapped = {1, 0}> {
        mask = Greater(x, zero)  places = NonZero(mask)  rows = Transpose<perm = [1, 0]>(places)
        y = GatherND(x, rows)  last = ReduceMax<axes = [1], keepdims = 0>(x)  kept = Greater(last, zero)
        rest = Compress<axis = 0>(x, kept)
    }"""
    x = f(extent, 3)
    check(parsed(text), {"x": x}, {"x": -np.abs(x)}, {"x": np.full_like(x, np.nan)}, {"x": np.full_like(x, np.inf)})


def test_unique() -> None:
    text = "main (float[n] x) => (a, b, c, d) { a, b, c, d = Unique<sorted = 0>(x) }"
    check(parsed(text), {"x": floats(3, 1, 3, 2, 1)}, {"x": floats(5)}, opsets=(16, 21))


def test_boxes() -> None:
    text = """main (float[1, 9, 4] boxes, float[1, 2, 9] scores, int64 most) => (found, best)
    <float iou = {0.4}, float least = {0.1}, int64[1] two = {2}, int64[1] axis = {1}, int64[1] zeros = {0}> {
        found = NonMaxSuppression(boxes, scores, most, iou, least)
        box = Gather<axis = 1>(found, two)  flat = Squeeze(box, axis)  all = Squeeze(boxes, zeros)
        best = Gather<axis = 0>(all, flat)
    }"""
    corner = RNG.uniform(0, 4, (1, 9, 2))
    boxes = np.concatenate((corner, corner + RNG.uniform(0.5, 3, (1, 9, 2))), -1).astype(np.float32)
    scores = RNG.uniform(0, 1, (1, 2, 9)).astype(np.float32)
    feeds = [{"boxes": boxes, "scores": scores, "most": np.array(most)} for most in (0, 1, 9)]
    check(parsed(text), *feeds, {"boxes": boxes, "scores": scores * 0, "most": np.array(5)})


# -- sizes that are inputs --------------------------------------------------------------------------------------------


def test_computed_numbers_of_elements() -> None:
    text = """main (float[m, 6] x, int64[1] k, int64 start, int64 end) => (largest, places, numbers, part)
    <int64 one = {1}, int64[1] axis = {0}, int64[1] last = {1}> {
        largest, places = TopK<axis = 1>(x, k)
        numbers = Range(start, end, one)
        from = Unsqueeze(start, axis)  to = Unsqueeze(end, axis)  part = Slice(x, from, to, last)
    }"""
    x = f(3, 6)
    made = [(0, 0, 0), (1, 2, 5), (6, -3, 7), (4, 5, 2)]
    check(parsed(text), *({"x": x, "k": n(k), "start": np.array(a), "end": np.array(b)} for k, a, b in made))


def test_computed_shapes() -> None:
    text = """main (float[m, 6] x, int64[2] shape, int64[2] wide, int64[4] pads) => (y, z, padded)
    <float[1] half = {0.5}> {
        y = Reshape(x, shape)  z = Expand(half, wide)  padded = Pad(x, pads)
    }"""
    x = f(2, 6)
    feeds = [
        {"x": x, "shape": n(*shape), "wide": n(*wide), "pads": n(*pads)}
        for shape, wide, pads in (
            ((12, 1), (0, 5), (0, 0, 0, 0)),
            ((-1, 3), (1, 1), (1, 0, 0, 2)),
            ((0, -1), (2, 6), (0, 3, 1, 0)),
        )
    ]
    check(parsed(text), *feeds)


def test_extents_of_nothing_are_no_copies() -> None:
    """Before opset 14 an extent of 0 says, in the shape of a Reshape, that the operand's stays."""
    text = """main (float[n, 3, m] x, int64[3] times) => (tiled, turned) <int64[2] to = {0, -1}> {
        tiled = Tile(x, times)
        moved = Transpose<perm = [2, 0, 1]>(x)  turned = Reshape(moved, to)
    }"""
    made = [(2, 5, (2, 1, 0)), (1, 4, (0, 2, 3)), (2, 2, (0, 0, 0)), (3, 1, (2, 1, 1)), (0, 2, (1, 1, 2))]
    check(parsed(text), *({"x": f(rows, 3, columns), "times": n(*times)} for rows, columns, times in made))


def test_equal_sizes_are_checked() -> None:
    """Two sizes that must be one: a run in which they differ fails."""
    text = """main (float[m] x, float[k] y) => (z) <float[1] zero = {0}, int64[1] axis = {0}> {
        a = Greater(x, zero)  b = Greater(y, zero)
        found = Compress(x, a)  other = Compress(y, b)  z = Add(found, other)
    }"""
    x = floats(1, -1, 2, -2)
    check(parsed(text), {"x": x, "y": floats(-5, 3, 4)}, {"x": -np.abs(x), "y": floats()})
    exported = export_onnx(load_onnx(parsed(text)))
    with pytest.raises(Exception, match="require: "):
        run(exported, {"x": x, "y": floats(1, 2, 3)})


def test_negative_sizes_fail() -> None:
    """A slice would take -1 for an end from behind, a reshape for what is left."""
    x, size = Input("x", TensorType(f32, (symbol("m"),))), Input("size", TensorType(i64, ()))
    length = symbol("length")
    part = movement.Slice(x, (0,), (length,), (1,))
    graph = Graph((x, size), (("y", part),), "cut", bound={"length": size})
    exported = export_onnx(graph)
    onnx.checker.check_model(exported, full_check=True)
    feed = {"x": f(4), "size": np.array(3)}
    same(run(exported, feed), evaluate_graph(graph, feed))
    with pytest.raises(Exception, match="require: length is not negative"):
        run(exported, {**feed, "size": np.array(-1)})


def test_counts_need_no_check() -> None:
    x, flags = Input("x", TensorType(i64, ())), Input("flags", TensorType(boolean, (symbol("m"),)))
    zero, one = constant(0, i64), constant(1, i64)
    count = reduction.ReduceSum(pointwise.Cast(flags, i64), (0,), False)
    captured = Input("c", count.type)
    branch = Graph((captured,), (("r", captured),))
    other = Graph((captured,), (("r", movement.DimValues((symbol("m"),), True)),))
    chosen = control.If(pointwise.Less(x, zero), (count,), branch, other)
    group_input = Input("g", count.type)
    group = fused.Fused((count,), Graph((group_input,), (("r", pointwise.Max(group_input, one)),)))
    never: Sequence[Value] = (
        count,
        pointwise.Max(x, zero),
        pointwise.Min(count, pointwise.Mod(x, count)),
        pointwise.Clip(x, zero, one),
        pointwise.Relu(x),
        movement.Gather(indexing.Compact(flags, symbol("k")), zero, 0),
        movement.Reshape(movement.DimValues((symbol("m"), 3), False), (2, 1)),
        chosen,
        group,
        counting(zero),
    )
    for value in never:
        assert never_negative(value), node_of(value)
    perhaps: Sequence[Value] = (
        x,
        pointwise.Sub(count, one),
        pointwise.Clip(x, zero, x),
        pointwise.Mod(count, x),
        pointwise.Cast(pointwise.Cast(count, f32), i64),
        movement.DimValues((symbol("m") - 1,), True),
        control.If(pointwise.Less(x, zero), (x,), branch, other),
        fused.Fused((x,), Graph((group_input,), (("r", group_input),))),
        counting(constant(-5, i64)),
    )
    for value in perhaps:
        assert not never_negative(value), node_of(value)


def counting(start: Value) -> Value:
    """How often a loop of three iterations runs, from `start` on."""
    i, going, total = Input("i", TensorType(i64, ())), Input("going", TensorType(boolean, ())), Input("t", start.type)
    body = Graph((i, going, total), (("g", going), ("t", pointwise.Add(total, constant(1, i64)))))
    return control.Loop(constant(3, i64), None, (start,), (), body, ())


# -- control flow -----------------------------------------------------------------------------------------------------


def test_branches_of_different_extents() -> None:
    text = """main (bool which, float[m] x) => (y, total) <float[1] zero = {0}, int64[1] axis = {0}> {
        y = If(which) <
            then_branch = one () => (float[p] a) { positive = Greater(x, zero)  a = Compress(x, positive) },
            else_branch = two () => (float[q] b) { b = Concat<axis = 0>(x, x, zero) }
        >
        doubled = Add(y, y)  total = ReduceSum(doubled, axis)
    }"""
    x = f(5)
    feeds = [{"which": np.array(w), "x": v} for w in (True, False) for v in (x, -np.abs(x), x[:0])]
    check(parsed(text), *feeds)


LOOPS = """main (float[2] x, int64 trips, float limit) => (grown, rows, total)
<bool true = {1}, float[1, 2] none = {0, 0}, int64[1] zero = {0}, int64[1] one = {1}, int64 step = {1}> {
    start = Slice(none, zero, zero)
    grown, last, rows = Loop(trips, true, start, x) <
        body = each (int64 i, bool c, float[u, 2] seen, float[2] v)
            => (bool d, float[w, 2] more, float[2] v2, float r) {
            row = Unsqueeze(v, zero)  more = Concat<axis = 0>(seen, row, row)
            v2 = Add(v, x)  r = ReduceSum<keepdims = 0>(v2, zero)  d = Less(r, limit)
        }
    >
    total = ReduceSum(grown, zero)
}"""


def test_a_loop_that_grows_and_ends_as_data_say() -> None:
    x = floats(0.5, 1)
    made = [(0, 1), (1, 7), (4, 5), (9, 5), (3, 100)]
    check(parsed(LOOPS), *({"x": x, "trips": np.array(t), "limit": np.array(m, np.float32)} for t, m in made))


@pytest.mark.parametrize("limit", [0.0, 2.5, 100.0])
def test_rows_that_no_iteration_gives_are_zero(limit: float) -> None:
    """A graph made by hand that reads them: ONNX stacks fewer rows."""
    x = Input("x", TensorType(f32, (2,)))
    i, going, total = Input("i", TensorType(i64, ())), Input("going", TensorType(boolean, ())), Input("t", x.type)
    more = pointwise.Add(total, constant(1, f32))
    ends = pointwise.Less(reduction.ReduceMax(more, (0,), False), constant(limit, f32))
    flag = pointwise.Less(total, constant(0.5, f32))
    largest = reduction.ReduceMax(more, (0,), False)
    body = Graph((i, going, total), (("g", ends), ("t", more), ("r", more), ("b", flag), ("l", largest)), "body")
    loop = control.Loop(constant(5, i64), None, (x,), (), body, (5, 7, 5))
    graph = Graph((x,), tuple((f"y{k}", v) for k, v in enumerate(loop.results())), "padded")
    exported = export_onnx(graph)
    onnx.checker.check_model(exported, full_check=True)
    feed = {"x": floats(0, 0.25)}
    same(run(exported, feed), evaluate_graph(graph, feed))


STACKS = """main (float[m] x, int64 trips) => (rows, total) <int64 limit = {4}, int64[1] axis = {0}> {
    last, rows = Loop(trips, , x) <
        body = each (int64 i, bool c, float[m] v) => (bool d, float[m] v2, float[m] r) {
            d = Identity(c)  v2 = Add(v, x)  r = Identity(v2)
        }
    >
    sum = ReduceSum<keepdims = 0>(rows, axis)  total = Add(sum, x)
}"""


@pytest.mark.parametrize("text", [STACKS, STACKS.replace("Identity(c)", "Less(i, limit)"), LOOPS])
def test_rows_are_not_filled_up_where_nobody_reads_more(text: str) -> None:
    """The loop runs in full, or its rows are cut to those that it gave."""
    for stage in stages(load_onnx(parsed(text))):
        assert "Pad" not in {node.op_type for node in export_onnx(stage).graph.node}
    if text is not LOOPS:
        check(parsed(text), *({"x": f(3), "trips": np.array(t)} for t in (1, 4, 7)))


@pytest.mark.parametrize("text", [STACKS, STACKS.replace("Identity(c)", "Less(i, limit)")])
def test_rows_of_no_iteration_have_their_extents(text: str) -> None:
    """onnxruntime makes them 0 where they are symbolic, and does not run the model itself."""
    graph, feed = load_onnx(parsed(text)), {"x": f(3), "trips": np.array(0)}
    for stage in stages(graph):
        for opset in (13, 21):
            same(run(export_onnx(stage, opset=opset), feed), evaluate_graph(graph, feed))
            same(run(export_onnx(stage, opset=opset), {**feed, "x": f(0)}), evaluate_graph(graph, {**feed, "x": f(0)}))


def test_sizes_inside_of_bodies() -> None:
    """Each iteration finds another number of elements; a branch inside of it reads the dims around."""
    text = """main (float[m, k] x, float limit) => (sums, kept)
    <int64[1] axis = {0}, int64 zero = {0}, float none = {0}> {
        whole = Shape(x)  count = Gather(whole, zero)
        t, sums = Loop(count, , none) <
            body = each (int64 i, bool c, float t) => (bool d, float t2, float s) {
                d = Identity(c)  row = Gather(x, i)  above = Greater(row, limit)  found = Compress(row, above)
                big = Greater(t, limit)
                part = If(big) <
                    then_branch = one () => (float[p] a) { a = Add(found, found) },
                    else_branch = two () => (float[q] b) { b = Concat<axis = 0>(found, row) }
                >
                s = ReduceSum<keepdims = 0>(part, axis)  t2 = Add(t, s)
            }
        >
        kept = Identity(t)
    }"""
    check(parsed(text), *({"x": f(a, b), "limit": np.array(0.2, np.float32)} for a, b in ((1, 1), (3, 5))))


def test_fused_bodies_that_mention_sizes() -> None:
    flags, x = Input("flags", TensorType(boolean, (symbol("m"),))), Input("x", TensorType(f32, (symbol("m"),)))
    size = symbol("found")
    places = indexing.Compact(flags, size)
    count = reduction.ReduceSum(pointwise.Cast(flags, i64), (0,), False)
    picked = movement.Gather(x, places, 0)
    inner = Input("v", picked.type)
    length = pointwise.Cast(movement.DimValues((size + 1,), True), f32)
    body = Graph((inner,), (("r", pointwise.Div(movement.Reshape(inner, (1, size)), length)),), "body")
    graph = Graph((flags, x), (("y", fused.Fused((picked,), body)),), "groups", bound={"found": count})
    exported = export_onnx(graph)
    onnx.checker.check_model(exported, full_check=True)
    for mask in ([1, 0, 1], [0, 0, 0], [1, 1, 1], []):
        feed = {"flags": np.array(mask, bool), "x": f(len(mask))}
        same(run(exported, feed), evaluate_graph(graph, feed))


def test_a_number_of_elements_that_is_known() -> None:
    """Of three flags two are known to be set: a shape says so, and fails where it is not so."""
    flags = Input("flags", TensorType(boolean, (3,)))
    graph = Graph((flags,), (("y", indexing.Compact(flags, 2)),), "known")
    for opset in (13, 21):
        exported = export_onnx(graph, opset=opset)
        onnx.checker.check_model(exported, full_check=True)
        same(run(exported, {"flags": np.array([True, False, True])}), {"y": n(0, 2)})
        with pytest.raises(Exception, match="Reshape"):
            run(exported, {"flags": np.array([True, False, False])})
    assert load_onnx(export_onnx(graph)).results[0].shape == (2,)


def test_narrow_weights_beside_sizes() -> None:
    """Weights that are held while a graph is simplified leave its sizes as they are."""
    text = """main (float[m] x) => (y) <int64[1] axis = {0}, float zero = {0}, int64[2] shape = {-1, 1}> {
        mask = Greater(x, zero)  found = Compress(x, mask)  column = Reshape(found, shape)
        weight = Cast<to = 1>(small)  y = MatMul(column, weight)
    }"""
    model = parsed(text)
    small = (np.arange(8192) % 7).astype(np.float16).reshape(1, 8192)
    model.graph.initializer.append(onnx.numpy_helper.from_array(small, "small"))
    held = hold_narrow(load_onnx(model))
    graph = held.release(Pipeline(default_pipeline().passes[:1]).run(held.graph))
    exported = export_onnx(graph)
    onnx.checker.check_model(exported, full_check=True)
    assert any(t.data_type == onnx.TensorProto.FLOAT16 for t in exported.graph.initializer)
    same(run(exported, {"x": floats(1, -1, 2)}), run(model, {"x": floats(1, -1, 2)}))


# -- models of the zoo ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["moe_routed", "yolo"])
def test_zoo(name: str) -> None:
    zoo = pytest.importorskip("benchmarks.zoo")
    try:
        path: Path = zoo.load(name, "tiny")
        feed = zoo.inputs(name, "tiny")
    except Exception as error:
        pytest.skip(f"{name} is not there: {error}")
    wanted = run(path, feed)
    for stage in stages(load_onnx(path)):
        exported = export_onnx(stage)
        onnx.checker.check_model(exported, full_check=True)
        same(run(exported, feed), wanted, 1e-4)
        assert not any("not negative" in name for name in names(exported.graph))
