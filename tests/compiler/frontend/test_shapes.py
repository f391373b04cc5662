"""Symbolic dims: how they are named, pinned, renamed, bounded, and identified where the model demands it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from ingot.compiler import compile
from ingot.compiler.frontend import ModelError, UnsupportedError, load_onnx
from ingot.compiler.frontend.assumptions import Assumptions, Refinement
from ingot.compiler.frontend.errors import ModelWarning
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import IrError
from ingot.runtime import InputError

Dims = Sequence[int | str | None]


def model_of(
    nodes: Sequence[onnx.NodeProto], inputs: dict[str, Dims], outputs: dict[str, Dims | None], opset: int = 17
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def identity(shape: Dims, declared: Dims | None = None) -> onnx.ModelProto:
    return model_of([helper.make_node("Neg", ["x"], ["y"])], {"x": shape}, {"y": declared})


def shape_of(graph: Graph, index: int = 0) -> list[str]:
    return [str(d) for d in graph.inputs[index].shape]


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        (["batch", 3], ["batch", "3"]),
        ([None, None], ["x_d0", "x_d1"]),
        ([-1, "  "], ["x_d0", "x_d1"]),
        (["batch size", "class", "1d", "max", "größe"], ["batch_size", "_class", "_1d", "_max", "gr__e"]),
        (["a b", "a_b", "a.b"], ["a_b_2", "a_b", "a_b_3"]),
        (["past", "past + 1", "2*past"], ["past", "past + 1", "2*past"]),
        (["past + 1"], ["past___1"]),
        (["x_d1", None], ["x_d1", "x_d1_2"]),
        ([0], ["0"]),
    ],
)
def test_names(declared: Dims, names: list[str]) -> None:
    assert shape_of(load_onnx(identity(declared))) == names


@pytest.mark.parametrize(
    ("shapes", "names"),
    [
        ({"x": (1, 3)}, ["1", "3"]),
        ({"x": ("n", 3)}, ["n", "3"]),
        ({"x": ("2*n", 3)}, ["2*n", "3"]),
        ({}, ["batch", "3"]),
    ],
)
def test_shapes_pin_and_rename(shapes: dict[str, tuple[int | str, ...]], names: list[str]) -> None:
    graph = load_onnx(identity(["batch", 3]), shapes=shapes)
    assert shape_of(graph) == names == [str(d) for d in graph.results[0].shape]


def add(first: Dims, second: Dims, op: str = "Add", axis: int | None = None) -> onnx.ModelProto:
    node = helper.make_node(op, ["a", "b"], ["y"])
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return model_of([node], {"a": first, "b": second}, {"y": None})


def test_pinning_a_name_pins_it_everywhere() -> None:
    graph = load_onnx(add(["n", 2], ["n", 2]), shapes={"a": (5, 2)})
    assert shape_of(graph, 0) == shape_of(graph, 1) == ["5", "2"]


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ({"x": (1, 4)}, "axis 1 of input 'x' is given as 4.*fixes it to 3"),
        ({"x": (1,)}, "'x' has 1 axes, the model declares 2"),
        ({"z": (1, 3)}, "'z', which is no input.*'x'"),
        ({"x": (-1, 3)}, "axis 0 of input 'x' is given as -1"),
        ({"x": ("no name", 3)}, "axis 0 of input 'x' is given as 'no name'"),
    ],
)
def test_contradicting_shapes(shapes: dict[str, tuple[int | str, ...]], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        load_onnx(identity(["batch", 3]), shapes=shapes)
    with pytest.raises(ModelError, match="axis 0 of input 'b' is given as 3, but n is 2"):
        load_onnx(add(["n"], ["n"]), shapes={"a": (2,), "b": (3,)})


def test_ranges() -> None:
    model = identity(["batch size", 3])
    assert load_onnx(model, ranges={"batch size": (1, 8)}).ranges == {"batch_size": (1, 8)}
    assert load_onnx(model, ranges={"batch_size": (1, 8)}).ranges == {"batch_size": (1, 8)}
    assert shape_of(load_onnx(model, ranges={"batch_size": (4, 4)})) == ["4", "3"]
    with pytest.raises(ModelError, match=r"dim 'batch_size' is 9 by the shapes given, .* outside its range 1\.\.8"):
        load_onnx(model, shapes={"x": (9, 3)}, ranges={"batch_size": (1, 8)})
    renamed = load_onnx(model, shapes={"x": ("n", 3)}, ranges={"n": (2, 9)})
    assert renamed.ranges == {"n": (2, 9)}
    for ranges, problem in (
        ({"q": (1, 2)}, "'q', which no input has.*'batch_size'"),
        ({"batch_size": (3, 2)}, "empty"),
    ):
        with pytest.raises(ModelError, match=problem):
            load_onnx(model, ranges=ranges)


def test_an_input_without_a_shape_needs_one() -> None:
    model = model_of([helper.make_node("Neg", ["x"], ["y"])], {"x": []}, {"y": None})
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="input 'x' has no shape; give one"):
        load_onnx(model)
    assert shape_of(load_onnx(model, shapes={"x": (2, "n")})) == ["2", "n"]


# -- what the model demands -------------------------------------------------------------------------------------------


def test_unnamed_dims_are_identified_where_they_are_broadcast() -> None:
    graph = load_onnx(add([None, None], [None, None]))
    assert shape_of(graph, 0) == shape_of(graph, 1) == ["a_d0", "a_d1"]
    graph = load_onnx(add([None, 3], ["n", 3]))
    assert shape_of(graph, 0) == ["n", "3"]


def test_named_dims_are_not_identified_by_broadcasting() -> None:
    model = add(["n"], ["m"])
    with pytest.raises(UnsupportedError, match=r"dims n and m are broadcast.*give both one name with shapes"):
        load_onnx(model)
    assert shape_of(load_onnx(model, shapes={"a": ("k",), "b": ("k",)})) == ["k"]


def test_dims_that_must_be_equal_are_identified() -> None:
    graph = load_onnx(add(["n", 2], ["m", 3], "Concat", axis=1))
    assert shape_of(graph, 0)[0] == shape_of(graph, 1)[0]
    assert [str(d) for d in graph.results[0].shape] == [shape_of(graph, 0)[0], "5"]
    graph = load_onnx(add(["n", "k"], [4, "m"], "MatMul"))
    assert shape_of(graph, 0) == ["n", "4"]


def test_a_fixed_reshape_pins_the_batch() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[batch, 6] x) => (float[2, 9] y) <int64[2] s = {2, 9}> { y = Reshape(x, s) }"""
    )
    assert shape_of(load_onnx(model)) == ["3", "6"]


def test_a_clamped_slice_bounds_its_symbol() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 4] x) => (float[n, 4] y) <float[512, 4] table, int64[1] zero = {0}> {
      size = Shape<start = 0, end = 1>(x)
      rows = Slice(table, zero, size)
      y = Add(x, rows)
    }"""
    model = parser.parse_model(text)
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(np.ones((512, 4), np.float32), "table"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "zero"))
    graph = load_onnx(model)
    assert graph.ranges == {"n": (0, 512)}
    assert evaluate_graph(graph, {"x": np.zeros((7, 4), np.float32)})["y"].shape == (7, 4)


def test_declared_names_identify_unnamed_dims() -> None:
    model = model_of(
        [helper.make_node("Neg", ["a"], ["y"]), helper.make_node("Neg", ["b"], ["z"])],
        {"a": [None, 2], "b": ["n", 2]},
        {"y": ["n", 2], "z": ["n", 2]},
    )
    assert shape_of(load_onnx(model)) == ["n", "2"]


def test_declared_shapes_may_be_vaguer_but_not_wrong() -> None:
    load_onnx(identity(["n", 3], [None, 3]))
    load_onnx(identity(["n", 3], ["m", 3]))
    load_onnx(identity(["n", 3], [1, 3]))
    for declared, problem in (([7, 4], "'y' with axis 1 = 4.*n, 3"), ([3], "'y' with 1 axes")):
        with pytest.warns(ModelWarning, match=f"{problem}.*ignored"):
            assert shape_of(load_onnx(identity(["n", 3], declared))) == ["n", "3"]
    wrong = identity([2, 3], [2, 3])
    wrong.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(ModelError, match="'y' as i64, but it is f32"):
        load_onnx(wrong)
    inner = model_of(
        [helper.make_node("Neg", ["x"], ["m"]), helper.make_node("Neg", ["m"], ["y"])], {"x": [2]}, {"y": [2]}
    )
    inner.graph.value_info.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, [3]))
    with pytest.warns(ModelWarning, match="declares 'm' with axis 0 = 3.*ignored"):
        assert shape_of(load_onnx(inner)) == ["2"]


def test_shapes_from_data_become_symbols() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[6] x, int64[2] s) => (float[k, m] y) { y = Reshape(x, s) }"""
    )
    graph = load_onnx(model)
    assert [str(d) for d in graph.results[0].shape] == ["y", "y_2"] == list(graph.sizes())


# -- the assumptions themselves ---------------------------------------------------------------------------------------


def test_what_is_certain() -> None:
    n, m = dims.symbol("n"), dims.symbol("m")
    known = Assumptions(ranges={"n": (1, 8)})
    assert known.at_least(n, 1) and not known.at_least(n, 2) and known.at_least(8, n)
    assert known.at_least(n, dims.minimum(n, m)) and known.at_least(dims.maximum(n, m), m)
    assert known.largest(n, 0) == n and known.smallest(n, 100) == n
    assert known.differ(n, 9) and not known.differ(n, m) and known.differ(n + 1, n)


def test_refinements_are_the_least_that_help() -> None:
    n, m = dims.symbol("n"), dims.symbol("m")
    known = Assumptions(unnamed=frozenset({"m"}))
    with pytest.raises(Refinement) as caught:
        known.demand_equal(2 * n + 1, m)
    assert caught.value.assumptions.aliases == {"m": 2 * n + 1}
    with pytest.raises(Refinement) as caught:
        known.suggest_equal(dims.minimum(n + 2, 10), n + 2)
    assert caught.value.assumptions.ranges == {"n": (0, 8)}
    bounded = Assumptions(ranges={"n": (1, 8), "m": (2, 20)})
    with pytest.raises(Refinement) as caught:
        bounded.demand_equal(2 * n - 1, m)
    assert caught.value.assumptions.aliases == {"m": 2 * n - 1}
    assert caught.value.assumptions.ranges == {"n": (2, 8), "m": (2, 20)}
    bounded.demand_equal(n, m + 7)
    known.suggest_equal(n, n + 1)
    known.demand_equal(2 * n, 2 * n + 1)
    known.suggest_equal(n, dims.symbol("k"))
    known.demand_equal(n, -1)


def test_a_clamped_size_bounds_what_is_clamped() -> None:
    """A list without its last element, and one more: it has at least one."""
    h = dims.symbol("h")
    with pytest.raises(Refinement) as caught:
        Assumptions().demand_equal(h // 2, dims.maximum(h // 2 - 1, 0) + 1)
    assert caught.value.assumptions.ranges["h"][0] == 2
    Assumptions(ranges={"h": (6, 50)}).demand_equal(h // 2, dims.maximum(h // 2 - 3, 0) + 3)


def test_a_limit_inside_of_a_size_bounds_what_is_limited() -> None:
    """The elements from 1 to before 9 and all but the last one: there are 9 at most. The first three and the first one
    may also be broadcast."""
    n = dims.symbol("n")
    with pytest.raises(Refinement) as caught:
        Assumptions().suggest_equal(dims.maximum(dims.minimum(n, 9) - 1, 0), dims.maximum(n - 1, 0))
    assert caught.value.assumptions.ranges == {"n": (0, 9)}
    Assumptions(ranges={"n": (2, 9)}).suggest_equal(dims.minimum(n, 3) // 3, dims.minimum(n, 3))


PARTS = """g (float[n, 3, 3] x) => (a, b) {
    none = Constant<value_ints = [0]>()  one = Constant<value_ints = [1]>()
    last = Constant<value_ints = [-1]>()  far = Constant<value_ints = [99999]>()
    after = Slice(x, one, far)  before = Slice(x, none, last)  a = Add(after, before)
    first = Slice(x, none, one)  product = MatMul(first, x)  rest = Sub(x, first)  b = Mul(rest, product)
}"""


def test_parts_of_an_open_axis_are_broadcast() -> None:
    """All but the first and all but the last; the first, if there is one, and all."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{PARTS}')
    graph = load_onnx(model)
    assert graph.ranges == {"n": (0, 99999)}
    rng = np.random.default_rng(3)
    with compile(graph, jobs=1).session(threads=1) as session:
        for rows in (0, 1, 2, 5):
            x = rng.standard_normal((rows, 3, 3)).astype(np.float32)
            for found in (evaluate_graph(graph, {"x": x}), session.run({"x": x})):
                np.testing.assert_allclose(found["a"], x[1:] + x[:-1], rtol=1e-6)
                np.testing.assert_allclose(found["b"], (x - x[:1]) * (x[:1] @ x), rtol=1e-5, atol=1e-6)


def test_a_first_row_beside_others() -> None:
    """There must be one, where there are elements of the others."""
    text = PARTS.replace("[n, 3, 3] x", "[n, 3, 3] x, float[4, 3, 3] other")
    text = text.replace("Sub(x, first)", "Sub(other, first)")
    text = text.replace("b = Mul(rest, product)", "b = Neg(rest)")
    graph = load_onnx(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}'))
    other = np.ones((4, 3, 3), np.float32)
    found = evaluate_graph(graph, {"x": np.full((2, 3, 3), 3, np.float32), "other": other})["b"]
    np.testing.assert_array_equal(found, 2 * other)
    with pytest.raises(IrError, match=r"min\(n, 1\) is broadcast with 4: it must be 1"):
        evaluate_graph(graph, {"x": np.zeros((0, 3, 3), np.float32), "other": other})


def test_equalities_that_leave_a_dim_nothing_but_0_are_refused() -> None:
    n, m = dims.symbol("n"), dims.symbol("m")
    for sum_ in (n + n, n + m):
        with pytest.raises(ModelError, match="nothing but 0"):
            Assumptions().demand_equal(sum_, n)
    with pytest.raises(Refinement) as caught:  # unless the model has a 0
        Assumptions().demand_equal(n, 0)
    assert caught.value.assumptions.aliases == {"n": 0}


# -- dims that must be multiples --------------------------------------------------------------------------------------


def test_factors_are_the_least_that_help() -> None:
    h = dims.symbol("h")
    for a, b, wanted in (
        (h, 2 * (h // 2), {"h": 2 * dims.symbol("h_over_2")}),
        (h // 2, 2 * (h // 2 // 2), {"h": 4 * dims.symbol("h_over_4")}),
        (h, 2 * ((h + 1) // 2), {"h": 2 * dims.symbol("h_over_2")}),
        (h, 3 * (h // 3) + 1, {"h": 3 * dims.symbol("h_over_3") + 1}),
        (h % 8, 0, {"h": 8 * dims.symbol("h_over_8")}),
    ):
        with pytest.raises(Refinement) as caught:
            Assumptions().demand_equal(a, b)
        assert caught.value.assumptions.aliases == wanted
    with pytest.raises(Refinement) as caught:
        Assumptions(ranges={"h": (3, 17)}, taken=frozenset({"h_over_2"})).demand_equal(h, 2 * (h // 2))
    assert caught.value.assumptions.aliases == {"h": 2 * dims.symbol("h_over_2_2")}
    assert caught.value.assumptions.ranges == {"h_over_2_2": (2, 8)}
    with pytest.raises(Refinement) as caught:  # no multiple of 4 is within the range
        Assumptions(ranges={"h": (5, 7)}).demand_equal(h // 2, 2 * (h // 2 // 2))
    assert caught.value.assumptions.aliases == {"h": 4 * dims.symbol("h_over_4") + 1}
    Assumptions(ranges={"h": (5, 7)}).demand_equal(h, 4 * (h // 4))
    Assumptions().demand_equal(h, 2 * (h // 2) + 2)
    Assumptions().suggest_equal(h, dims.symbol("w") // 2)


@pytest.mark.parametrize("join", ["Concat<axis = 1>", "Add"])
@pytest.mark.parametrize("down", ["MaxPool<kernel_shape = [2, 2], strides = [2, 2]>", "strided"])
def test_skip_connections_need_even_extents(join: str, down: str) -> None:
    """As in a U-Net: halved twice, doubled twice, joined with what was before."""
    if down == "strided":
        down = "MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>"
    up = 'Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[n, 2, height, width] x) => (float[a, b, c, d] y) {{
            s = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>()
            p = {down}(x)
            q = {down}(p)
            r = {up}(q, , s)
            t = {join}(p, r)
            u = {up}(t, , s)
            y = {join}(x, u)
        }}""")
    graph = load_onnx(model)
    assert shape_of(graph) == ["n", "2", "4*height_over_4", "4*width_over_4"]
    x = np.random.default_rng(0).standard_normal((1, 2, 8, 12)).astype(np.float32)
    want = np.asarray(next(iter(ReferenceEvaluator(model).run(None, {"x": x}))))
    np.testing.assert_allclose(evaluate_graph(graph, {"x": x})["y"], want, rtol=1e-6)
    with compile(graph, jobs=1).session(threads=1) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], want, rtol=1e-6)
        with pytest.raises(InputError, match=r"has 10 on axis 2, but 4\*height_over_4 is needed: a multiple of 4"):
            session.run({"x": np.zeros((1, 2, 10, 12), np.float32)})
    assert load_onnx(model, shapes={"x": (1, 2, 16, 8)}).inputs[0].type.is_static
    with pytest.raises(ModelError):
        load_onnx(model, shapes={"x": (1, 2, 16, 9)})


def test_min_of_a_bounded_dim_is_the_dim() -> None:
    """A table of 16 positions cut to the sequence, as shape arithmetic spells it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=1, end=2),
        helper.make_node("Constant", [], ["most"], value_ints=[16]),
        helper.make_node("Min", ["shape", "most"], ["least"]),
        helper.make_node("Constant", [], ["zero"], value_ints=[0]),
        helper.make_node("Slice", ["table", "zero", "least", "zero"], ["cut"]),
        helper.make_node("Add", ["x", "cut"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["batch", "sequence", 4]}, {"y": ["batch", "sequence", 4]})
    model.graph.initializer.append(numpy_helper.from_array(np.ones((16, 4), np.float32), "table"))
    graph = load_onnx(model)
    assert graph.ranges["sequence"] == (0, 16) and shape_of(graph) == ["batch", "sequence", "4"]
    x = np.zeros((2, 5, 4), np.float32)
    np.testing.assert_array_equal(evaluate_graph(graph, {"x": x})["y"], 1)


def test_an_unnamed_dim_broadcast_with_a_constant_is_the_constant() -> None:
    model = model_of([helper.make_node("Add", ["x", "y"], ["z"])], {"x": [10], "y": [None]}, {"z": None})
    graph = load_onnx(model)
    assert shape_of(graph, 1) == ["10"]
    x, y = np.arange(10, dtype=np.float32), np.ones(10, np.float32)
    with compile(graph, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run({"x": x, "y": y})["z"], x + 1)
        with pytest.raises(InputError, match="10 is needed"):
            session.run({"x": x, "y": y[:7]})
    assert load_onnx(model, shapes={"y": (1,)}).results[0].type.shape == (10,)
