"""Symbolic dims as ONNX: dim_params, shapes computed from the inputs', sub-graphs that read them from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import pytest
from tests.compiler.frontend.test_export import run, same

from ingot.compiler.frontend import load_onnx
from ingot.compiler.frontend.export import ExportError, export_onnx
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.graph import Array, Constant, Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops import composite, control, fused, linear, movement, pointwise, reduction
from ingot.runtime.dtypes import DType, boolean, f32, i64

pytest.importorskip("onnxruntime")

b, s, h = symbol("b"), symbol("s"), symbol("h")
EXTENTS: Sequence[Mapping[str, int]] = ({"b": 1, "s": 1, "h": 4}, {"b": 2, "s": 5, "h": 7}, {"b": 3, "s": 2, "h": 9})


def value(label: str, *shape: Dim, dtype: DType = f32) -> Input:
    return Input(label, TensorType(dtype, shape))


def feed_of(graph: Graph, extents: Mapping[str, int]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    made: dict[str, Array] = {}
    for i in graph.inputs:
        data = rng.standard_normal([dims.evaluate(d, extents) for d in i.shape])
        made[i.label] = (data * 3).astype(i.dtype.to_numpy())
    return made


def check(
    graph: Graph, extents: Sequence[Mapping[str, int]] = EXTENTS, opsets: Sequence[int] = (13, 21), again: bool = True
) -> onnx.ModelProto:
    """Equal in onnxruntime and when loaded again, for several extents; the model of the newest opset."""
    model = onnx.ModelProto()
    for opset in opsets:
        model = export_onnx(graph, opset=opset)
        onnx.checker.check_model(model, full_check=True)
        loaded = load_onnx(model) if again else graph
        assert [i.type for i in loaded.inputs] == [i.type for i in graph.inputs]
        for values in extents:
            feed = feed_of(graph, values)
            wanted = evaluate_graph(graph, feed)
            same(run(model, feed), wanted)
            same(evaluate_graph(loaded, feed), wanted)
    return model


def graph_of(inputs: Sequence[Input], *results: Value) -> Graph:
    return Graph(tuple(inputs), tuple((f"y{i}", v) for i, v in enumerate(results)), "symbolic")


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in model.graph.node)


# -- shapes that need no arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("have", "want", "op_type", "spelled"),
    [
        ((b, s, 12), (b, s, 3, 4), "Reshape", [0, 0, 3, 4]),
        ((b, 3, 4), (b, 12), "Reshape", [0, 12]),
        ((b, 12), (2 * b, 6), "Reshape", [-1, 6]),
        ((b, s, 12), (b * s, 12), "Reshape", [-1, 12]),
        ((b, s), (b, 1, 1, s), "Unsqueeze", [1, 2]),
        ((1, b, 1), (b,), "Squeeze", [0, 2]),
    ],
)
def test_reshape_with_constants(
    have: tuple[Dim, ...], want: tuple[Dim, ...], op_type: str, spelled: Sequence[int]
) -> None:
    x = value("x", *have)
    model = check(graph_of([x], movement.Reshape(x, want)), [*EXTENTS, {"b": 0, "s": 3}])
    assert kinds(model) == {op_type: 1}
    (data,) = (onnx.numpy_helper.to_array(t) for t in model.graph.initializer)
    assert data.tolist() == spelled


def test_reshape_of_nothing() -> None:
    """0 is an extent here, not ONNX's copy."""
    x = value("x", 3, 0)
    model = check(graph_of([x], movement.Reshape(x, (0, 7))), [{}])
    assert kinds(model) == {"Reshape": 1}
    y = value("y", b, s, h)  # each extent may be 0
    check(graph_of([y], movement.Reshape(y, (s * h, b))), [*EXTENTS, {"b": 0, "s": 2, "h": 3}], [14, 21])


def test_expand_keeps_what_is_there() -> None:
    x = value("x", b, 1)
    assert kinds(check(graph_of([x], movement.Expand(x, (4, b, 3))))) == {"Expand": 1}


def test_slices_to_the_end_are_constant() -> None:
    x = value("x", b, h)
    parts = [
        movement.Slice(x, (0, 1), (b, dims.maximum(h - 1, 0)), (1, 1)),
        movement.Slice(x, (0, 0), (b, (h + 1) // 2), (1, 2)),
        movement.Slice(x, (0, h - 1), (b, h), (1, -1)),
    ]
    assert kinds(check(graph_of([x], *parts))) == {"Slice": 3}


# -- shape arithmetic -------------------------------------------------------------------------------------------------


def test_dims_are_computed_once() -> None:
    x, y = value("x", b, s), value("y", h)
    shape = (b, s, h, 2 * b * s + 3)
    grown = movement.Expand(movement.Reshape(x, (b, s, 1, 1)), shape)
    again = movement.Expand(constant(1.0, f32), shape)
    model = check(graph_of([x, y], grown, again, movement.DimValues(shape, False)))
    assert kinds(model)["Shape"] == 2 and kinds(model)["Gather"] == 3
    assert kinds(model)["Mul"] == 2 and kinds(model)["Add"] == 1
    declared = [[d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output]
    assert declared == [["b", "s", "h", "2*b*s + 3"]] * 2 + [[4]]
    assert [[d.dim_param for d in i.type.tensor_type.shape.dim] for i in model.graph.input] == [["b", "s"], ["h"]]


@pytest.mark.parametrize(
    "dim",
    [
        h // 3,
        (h - 5) // 2,
        (5 - h) // 3,
        h % 4,
        (2 - h) % 5,
        dims.maximum(h - 4, 2),
        dims.minimum(h, s + 3),
        b * b * s - 2 * h + 1,
        dims.ceil_divide(7 * h, 2) * s,
        -h,
    ],
    ids=str,
)
def test_every_operation_on_dims(dim: Dim) -> None:
    x = value("x", b, s, h)
    results = (movement.DimValues((dim,), True), movement.DimValues((1, dim, b, 4, 5), False))
    model = check(graph_of([x], *results))
    assert {"Shape", "Gather"} <= kinds(model).keys()


def test_data_movement_by_symbolic_amounts() -> None:
    x = value("x", b, h)
    back = movement.Slice(x, (0, h // 2), (b, h // 2 + 1), (1, -1))
    check(
        graph_of(
            [x],
            movement.Pad(x, (0, b, 0, h - 3), "constant", constant(2.5, f32)),
            movement.Pad(x, (0, 0, 0, 3 - h), "constant", None),
            movement.Slice(x, (0, h // 2), (b, h - h // 2), (1, 1)),
            movement.Slice(x, (0, h // 4), (b, 2), (1, 1)),
            back,
            movement.Concat((x, movement.Reshape(x, (b, h)), back), 1),
            *movement.Split(x, 1, (h // 2, h - h // 2)).results(),
            movement.Iota(constant(2, i64), constant(-3, i64), h),
            movement.Iota(constant(0.5, f32), constant(0.1, f32), b * h),
        )
    )


def test_falling_slice_that_may_be_empty() -> None:
    """x[n-1::-1] of the first n elements, n from 0 on: the end lies before the first element."""
    x, y = value("x", h), value("y", s)
    part = movement.Slice(x, (s - 1,), (s,), (-1,))
    check(graph_of([x, y], part), [{"h": 4, "s": n} for n in (0, 1, 3, 4)], again=False)  # its end is chosen by Where


def test_windows() -> None:
    x = value("x", b, 3, h, h)
    w = constant(np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32))
    conv = linear.Conv(x, w, None, (2, 2), (1, 1, 0, 0), (1, 1), 1, False)
    last = movement.Transpose(x, (0, 2, 3, 1))
    pool = linear.MaxPool(last, (3, 2), (2, 1), (1, 0, 1, 1), (1, 1), True, True)
    mean = linear.AveragePool(last, (3, 2), (2, 1), (1, 0, 1, 1), (1, 1), False, True, True)
    model = check(graph_of([x], conv, pool, mean), EXTENTS)
    assert kinds(model)["Transpose"] == 5


def test_integer_windows() -> None:
    """ONNX has no convolution of i32 and no pooling of i64: they become slices and products."""
    x, y = value("x", b, 4, h, h, dtype=i64), value("y", b, h, h, 4, dtype=i64)
    w = constant(np.random.default_rng(1).integers(-5, 5, (6, 2, 3, 3)))
    bias = constant(np.arange(6))
    conv = linear.Conv(x, w, bias, (2, 1), (1, 0, 1, 2), (1, 1), 2, False)
    turned = linear.Conv(y, w, None, (1, 1), (1, 1, 1, 1), (1, 1), 2, True)
    pool = linear.MaxPool(y, (3, 2), (2, 1), (1, 1, 1, 0), (1, 1), False, True)
    check(graph_of([y], turned), EXTENTS[1:])
    check(graph_of([x, y], conv, pool), EXTENTS[1:], again=False)  # whether strides fit is not followed symbolically


def test_dims_that_only_an_expression_tells() -> None:
    x, y = value("x", 2 * b + 1), value("y", b * s - b)
    results = [movement.DimValues((b, s), False), movement.Expand(constant(1.0, f32), (s, b))]
    check(graph_of([x, y], *results), [{"b": 1, "s": 2}, {"b": 3, "s": 4}], again=False)


def test_dims_that_nothing_tells() -> None:
    x = value("x", b * s)
    with pytest.raises(ExportError, match="the dim s cannot be computed: no input has an axis that tells it"):
        export_onnx(graph_of([x], movement.Expand(constant(1.0, f32), (s,))))


def test_ranges_are_kept_as_metadata() -> None:
    x = value("x", b, s)
    graph = Graph((x,), (("y", pointwise.Relu(x)),), "g", {"s": (1, 512), "b": (2, 4)})
    assert {p.key: p.value for p in export_onnx(graph).metadata_props} == {"ingot.ranges": "b=2..4 s=1..512"}


# -- control flow -----------------------------------------------------------------------------------------------------


def branch(*types: TensorType) -> tuple[Input, ...]:
    return tuple(Input(f"c{i}", t) for i, t in enumerate(types))


@pytest.mark.parametrize("taken", [True, False])
def test_branches_see_the_outer_dims(taken: bool) -> None:
    """Dims that a branch alone needs are computed outside and shared; captures keep their outer names."""
    x, condition = value("x", b, s), value("condition", dtype=boolean)
    doubled = pointwise.Add(x, x)

    def body(make: Callable[[Input, Input], Value]) -> Graph:
        captured = branch(x.type, doubled.type)
        return Graph(captured, (("flat", make(*captured)), ("same", captured[0])), "branch")

    flat = (b * s,)
    node = control.If(
        condition,
        (x, doubled),
        body(lambda u, v: movement.Reshape(pointwise.Add(u, v), flat)),
        body(lambda u, v: pointwise.Add(movement.Reshape(u, flat), pointwise.Cast(counted(b * s), f32))),
    )
    graph = graph_of([x, condition], *node.results())
    model = export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    (if_node,) = (n for n in model.graph.node if n.op_type == "If")
    inside = [n for a in if_node.attribute for n in a.g.node]
    assert {"x"} <= {name for n in inside for name in n.input} and not any(n.op_type == "Shape" for n in inside)
    names = [name for n in (*model.graph.node, *inside) for name in n.output]
    assert len(names) == len(set(names))
    loaded = load_onnx(model)
    for extents in EXTENTS:
        feed = {**feed_of(graph, extents), "condition": np.array(taken)}
        wanted = evaluate_graph(graph, feed)
        same(run(model, feed), wanted)
        same(evaluate_graph(loaded, feed), wanted)


def counted(length: Dim) -> Value:
    return movement.Iota(constant(0, i64), constant(1, i64), length)


def test_loops_in_loops() -> None:
    """The inner body uses values and dims of both graphs around it; both scan as often as dims say."""
    x = value("x", b, s)
    i, going, total = Input("i", TensorType(i64, ())), Input("going", TensorType(boolean, ())), value("total", s)
    outer_x = value("outer_x", b, s)
    row = movement.Gather(outer_x, i, 0)
    j, still, inner = Input("i", TensorType(i64, ())), Input("going", TensorType(boolean, ())), value("total", s)
    inner_row, inner_total = value("row", s), value("outer", s)
    step = pointwise.Add(pointwise.Add(inner, inner_row), pointwise.Mul(inner_total, pointwise.Cast(j, f32)))
    small = Graph(
        (j, still, inner, inner_row, inner_total),
        (("still", still), ("total", step), ("seen", reduction.ReduceMax(step, (0,), False))),
        "inner",
    )
    nested = control.Loop(movement.DimValues((s,), True), None, (total,), (row, total), small, (s,))
    results = nested.results()
    body = Graph((i, going, total, outer_x), (("going", going), ("total", results[0]), ("seen", results[1])), "outer")
    start = movement.Expand(constant(0.25, f32), (s,))
    loop = control.Loop(movement.DimValues((b,), True), None, (start,), (x,), body, (b,))
    check(graph_of([x], *loop.results()), [{"b": 1, "s": 1}, {"b": 3, "s": 2}])


def test_fused_bodies_are_written_out() -> None:
    """One body in two groups, a group whose result is an operand, names of outputs kept."""
    x, y = value("x", b, s), value("y", s)
    u, v = value("u", b, s), value("v", s)
    body = Graph((u, v), (("sum", pointwise.Add(u, v)), ("same", u)), "body")
    first = fused.Fused((x, y), body)
    second = fused.Fused((first.results()[0], y), body)
    model = check(graph_of([x, y], *second.results(), first.results()[1]))
    assert kinds(model) == {"Add": 2, "Identity": 1} or kinds(model) == {"Add": 2, "Identity": 2}


def test_attention_of_symbolic_lengths() -> None:
    q, k, mask = value("q", b, 3, s, 8), value("k", b, 3, h, 8), value("mask", b, 1, 1, h)
    attention = composite.Attention(q, k, k, mask, 0.35)
    model = check(graph_of([q, k, mask], attention))
    assert [(f.domain, f.name, list(f.input)) for f in model.functions] == [
        ("ingot", "Attention", ["q", "k", "v", "mask"])
    ]
    assert kinds(check(graph_of([q, k], composite.Attention(q, k, k, None, 0.35)), opsets=[23])) == {"Attention": 1}
    assert not any(isinstance(node, Constant) and node.data.size > 4 for node in load_onnx(model).nodes())
