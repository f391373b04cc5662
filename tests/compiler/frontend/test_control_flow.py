"""If, Loop, Scan and functions: sub-graphs are closed, captures explicit, bodies put in place of calls."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from ingot.compiler.frontend import ModelError, UnsupportedError, load_onnx
from ingot.compiler.ir.graph import Graph, Input, node_of, operands_of, subgraphs_of
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import IrError
from ingot.compiler.ir.verify import verify_graph
from ingot.compiler.ops.control import If, Loop, Require

onnxruntime = pytest.importorskip("onnxruntime")

HEADER = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'


def load(text: str, **options: object) -> tuple[onnx.ModelProto, Graph]:
    model = parser.parse_model(HEADER + text)
    return model, load_onnx(model, **options)  # type: ignore[arg-type]


def check(text: str, *samples: dict[str, np.ndarray]) -> Graph:
    """Import, evaluate on the samples, compare with onnxruntime; the graph."""
    model, graph = load(text)
    require_closed(graph, set())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for sample in samples:
        found = evaluate_graph(graph, sample)
        for (name, _), want in zip(graph.outputs, session.run(None, sample), strict=True):
            assert found[name].dtype == want.dtype and found[name].shape == want.shape
            np.testing.assert_allclose(found[name], want, rtol=1e-6)
    return graph


def require_closed(graph: Graph, outer: set[object]) -> None:
    """A graph reads its own inputs only, and inputs of other graphs never."""
    own = set(graph.inputs)
    for node in graph.nodes():
        assert not isinstance(node, Input) or node in own
        assert not (node in outer and operands_of(node))
        for inner in subgraphs_of(node):
            require_closed(inner, outer | set(graph.nodes()))


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_if_captures_what_its_branches_use() -> None:
    graph = check(
        """agraph (bool c, float[3] x) => (float[3] y) {
          d = Add(x, x)
          y = If (c) <then_branch = t () => (float[3] a) { a = Mul(x, d) },
                      else_branch = e () => (float[3] b) { k = Constant<value = float {2.0}>() b = Sub(x, k) }>
        }""",
        {"c": np.array(True), "x": f32(1, 2, 3)},
        {"c": np.array(False), "x": f32(1, 2, 3)},
    )
    node = node_of(graph.results[0])
    assert isinstance(node, If) and len(node.captures) == 2
    assert node.then_graph.inputs[0] is not node.else_graph.inputs[0]


def test_if_inside_if_captures_through_both() -> None:
    check(
        """agraph (bool c, bool d, float[2] x) => (float[2] y) {
          s = Exp(x)
          y = If (c) <
            then_branch = t () => (float[2] a) {
              a = If (d) <then_branch = tt () => (float[2] p) { p = Add(s, x) },
                          else_branch = te () => (float[2] q) { q = Identity(s) }>
            },
            else_branch = e () => (float[2] b) { b = Neg(x) }>
        }""",
        *({"c": np.array(c), "d": np.array(d), "x": f32(0, 1)} for c in (True, False) for d in (True, False)),
    )


def test_if_with_a_condition_that_shapes_decide_is_inlined() -> None:
    _, graph = load(
        """agraph (float[n, 3] x) => (float[m, 3] y) {
          shape = Shape(x)
          one = Constant<value = int64 {1}>()
          columns = Gather<axis = 0>(shape, one)
          three = Constant<value = int64 {3}>()
          c = Equal(columns, three)
          y = If (c) <then_branch = t () => (float[m, 3] a) { a = Neg(x) },
                      else_branch = e () => (float[k] b) { b = ReduceSum<keepdims = 0>(x) }>
        }"""
    )
    assert not any(isinstance(node, If) for node in graph.nodes())
    assert [str(d) for d in graph.results[0].shape] == ["n", "3"]


def test_a_branch_that_shapes_rule_out_becomes_a_requirement() -> None:
    text = """agraph (bool c, float[n, 3] x) => (float[n, k] y) {
          y = If (c) <then_branch = t () => (float[n, 4] a) {
                        w = Constant<value = float[3, 4] {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>()
                        a = MatMul(x, w)
                      },
                      else_branch = e () => (float[n, 2] b) {
                        v = Constant<value = float[5, 2] {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}>()
                        b = MatMul(x, v)
                      }>
        }"""
    other = text.replace("then_branch", "?").replace("else_branch", "then_branch").replace("?", "else_branch")
    for swapped in (False, True):
        _, graph = load(other if swapped else text)
        assert isinstance(node_of(graph.results[0]), Require) and graph.results[0].shape[1] == 4
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        found = evaluate_graph(graph, {"c": np.array(not swapped), "x": x})["y"]
        np.testing.assert_array_equal(found, x @ np.arange(1, 13, dtype=np.float32).reshape(3, 4))
        with pytest.raises(IrError, match="with these shapes the other branch is wrong"):
            evaluate_graph(graph, {"c": np.array(swapped), "x": x})
    with pytest.raises(ModelError, match="5"):  # neither fits
        load(text.replace("3, 4] {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}", "5, 1] {1, 2, 3, 4, 5}"))


def test_of_branches_of_different_ranks_the_declared_one_is_taken() -> None:
    _, graph = load(
        """agraph (bool c, float[2] x, float[3, 1] z) => (float[k] y) {
          y = If (c) <then_branch = t () => (float[k] a) { a = Neg(x) },
                      else_branch = e () => (float[k, l] b) { b = Neg(z) }>
        }"""
    )
    assert isinstance(node_of(graph.results[0]), Require) and graph.results[0].shape == (2,)
    feed = {"c": np.array(True), "x": np.ones(2, np.float32), "z": np.ones((3, 1), np.float32)}
    np.testing.assert_array_equal(evaluate_graph(graph, feed)["y"], -feed["x"])
    with pytest.raises(IrError, match="the model declares 'y' with 1 axes"):
        evaluate_graph(graph, {**feed, "c": np.array(False)})


LOOP = """agraph (float[2] x, float[2] step) => (float[2] last, float[4, 2] rows) {
  trip = Constant<value = int64 {4}>()
  go = Constant<value = bool {1}>()
  last, rows = Loop (trip, go, x) <body = b (int64 i, bool c, float[2] v) => (bool co, float[2] w, float[2] row) {
    co = Identity(c)
    f = Cast<to = 1>(i)
    s = Mul(step, f)
    w = Add(v, s)
    row = Identity(w)
  }>
}"""


def test_loop_with_scan_outputs() -> None:
    graph = check(LOOP, {"x": f32(1, 2), "step": f32(10, 20)})
    node = node_of(graph.results[0])
    assert isinstance(node, Loop) and node.scans == (4,) and node.condition is None and len(node.captures) == 1


def test_loop_until_a_condition_fails() -> None:
    graph = check(
        """agraph (float x, float limit) => (float y, int64 n) {
          trip = Constant<value = int64 {9223372036854775807}>()
          go = Constant<value = bool {1}>()
          zero = Constant<value = int64 {0}>()
          y, n = Loop (trip, go, x, zero) <
            body = b (int64 i, bool c, float v, int64 k) => (bool co, float w, int64 k1) {
            w = Add(v, v)
            one = Constant<value = int64 {1}>()
            k1 = Add(k, one)
            co = Less(w, limit)
          }>
        }""",
        {"x": np.array(1, np.float32), "limit": np.array(100, np.float32)},
        {"x": np.array(500, np.float32), "limit": np.array(100, np.float32)},
    )
    node = node_of(graph.results[0])
    assert isinstance(node, Loop) and node.trip is None and node.scans == ()


def test_loop_over_a_symbolic_length() -> None:
    text = LOOP.replace("float[2] x", "float[n, 2] z, float[2] x").replace("float[4, 2] rows", "float[m, 2] rows")
    text = text.replace(
        "trip = Constant<value = int64 {4}>()",
        """shape = Shape(z)
           zero = Constant<value = int64 {0}>()
           trip = Gather(shape, zero)""",
    )
    sample = {"z": np.zeros((3, 2), np.float32), "x": f32(1, 2), "step": f32(10, 20)}
    graph = check(text, sample)
    assert [str(d) for d in graph.results[1].shape] == ["n", "2"]


def test_a_condition_that_is_passed_on_to_an_inner_loop_holds() -> None:
    """In an iteration the condition is true, so that an inner loop has all its iterations and rows for each."""
    check(
        """agraph (float[3, 4] x) => (float[3, 4] s, float[3] t) {
          three = Constant<value = int64 {3}>()  four = Constant<value = int64 {4}>()
          yes = Constant<value = bool {1}>()  zero = Constant<value = float {0.0}>()
          a, s, t = Loop (three, yes, zero) <body = rows (int64 i, bool g, float before) =>
              (bool again, float after, float[4] row, float last) {
            xi = Gather(x, i)
            last, row = Loop (four, g, before) <body = columns (int64 j, bool h, float p) =>
                (bool more, float q, float r) { e = Gather(xi, j) q = Add(p, e) r = Mul(q, e) more = Identity(h) }>
            after = Sub(last, before)  again = Identity(g)
          }>
        }""",
        {"x": np.random.default_rng(4).standard_normal((3, 4)).astype(np.float32)},
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [("w = Add(v, s)", "w = Concat<axis = 0>(v, s)", "scan output 'row' is .* changes between iterations")],
)
def test_scan_outputs_of_changing_shape_are_refused(old: str, new: str, problem: str) -> None:
    text = LOOP.replace(old, new).replace("agraph (", "agraph (float x0, ").replace("float[2] w,", "float[k] w,")
    with pytest.raises(UnsupportedError, match=problem):
        load(text.replace("float[2] row)", "float[k] row)").replace("float[2] last", "float[k] last"))


def test_scan_runs_over_an_axis() -> None:
    def body() -> onnx.GraphProto:
        return parser.parse_graph(
            "b (float[2] s, float[2] e) => (float[2] so, float[2] row) { so = Add(s, e) row = Mul(so, e) }"
        )

    for axis, backwards, out_axis, out_backwards in ((0, 0, 0, 0), (1, 1, 1, 0), (1, 0, -1, 1)):
        shape = (3, 2) if axis == 0 else (2, 3)
        node = helper.make_node(
            "Scan",
            ["s", "x"],
            ["last", "rows"],
            body=body(),
            num_scan_inputs=1,
            scan_input_axes=[axis],
            scan_input_directions=[backwards],
            scan_output_axes=[out_axis],
            scan_output_directions=[out_backwards],
        )
        graph = helper.make_graph(
            [node],
            "g",
            [
                helper.make_tensor_value_info("s", TensorProto.FLOAT, [2]),
                helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            ],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("last", "rows")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        sample = {"s": f32(1, 2), "x": np.arange(6, dtype=np.float32).reshape(shape)}
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        imported = load_onnx(model)
        require_closed(imported, set())
        found = evaluate_graph(imported, sample)
        for name, want in zip(("last", "rows"), session.run(None, sample), strict=True):
            np.testing.assert_allclose(found[name], want)


FUNCTION = """agraph (float[3] x) => (float[3] y) { y = local.scaled <by = 3.0> (x) }
<domain: "local", opset_import: ["" : 17]>
scaled <by: float = 2.0> (a) => (b) {
  k = Constant <value_float: float = @by> ()
  b = Mul(a, k)
}"""


def test_model_local_function() -> None:
    _, graph = load(FUNCTION)
    np.testing.assert_array_equal(evaluate_graph(graph, {"x": f32(1, 2, 3)})["y"], f32(3, 6, 9))
    _, graph = load(FUNCTION.replace(" <by = 3.0>", ""))
    np.testing.assert_array_equal(evaluate_graph(graph, {"x": f32(1, 2, 3)})["y"], f32(2, 4, 6))
    assert {n.origin for n in graph.nodes()} == {("x",), ("scaled:y",)}


def test_function_without_end_is_refused() -> None:
    with pytest.raises(ModelError, match="deep"):
        load(
            FUNCTION.replace("b = Mul(a, k)", "b = local.scaled(k)").replace(
                '["" : 17]>\nscaled', '["" : 17, "local" : 1]>\nscaled'
            )
        )


def test_unsupported_operators_inside_functions_and_branches_are_listed() -> None:
    text = FUNCTION.replace("b = Mul(a, k)", "b = Unheard(a)\nunused = local.nothing(a)")
    with pytest.raises(UnsupportedError) as caught:
        load(text)
    assert [str(o) for o in caught.value.operators] == ["Unheard (opset 17, 1 node(s): Unheard:b)"]
    text = """agraph (bool c, float[3] x) => (float[k] y) {
      y = If (c) <then_branch = t () => (float[k] a) { a = Inexistent(x) p = Inexistent(x) },
                  else_branch = e () => (float[k] b) { q = local.foo(x) b = Inexistent(q) }>
    }"""
    with pytest.raises(UnsupportedError) as caught:
        load(text)
    assert {(o.domain, o.op_type, o.opset, o.count) for o in caught.value.operators} == {
        ("", "Inexistent", 17, 2),
        ("local", "foo", 1, 1),
    }


@pytest.mark.parametrize("start", ["x", "nothing"])
@pytest.mark.parametrize("grown", ["Concat<axis = 0>(a, x)", "Concat<axis = 0>(a, a, x)", "Concat<axis = 0>(x, a, z)"])
def test_a_loop_whose_carried_value_grows(grown: str, start: str) -> None:
    body = f"b (int64 i, bool c, float[q] a) => (bool d, float[r] e) {{ d = Identity(c)  e = {grown} }}"
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        "net (int64 m, float[n] x, float[k] z) => (float[p] y) { nothing = Constant<value = float[0] {}>()\n"
        f"[grow] y = Loop<body = {body}>(m, , {start}) }}"
    )
    x, z = f32(1, 2), f32(5)
    value = np.zeros(0, np.float32) if start == "nothing" else x
    for _ in range(3):
        parts = {"a": value, "x": x, "z": z}
        value = np.concatenate([parts[name] for name in grown[grown.index("(") + 1 : -1].split(", ")])
    graph = load_onnx(model)
    verify_graph(graph)
    found = evaluate_graph(graph, {"m": np.array(3, np.int64), "x": x, "z": z})["y"]
    np.testing.assert_array_equal(found, value)


def test_branches_that_both_contradict_the_model() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (bool c, float[n, 4] x) => (float y) { [choice] y = If(c)<
          then_branch = t () => (float[n, 4] to) { to = Neg(x) },
          else_branch = e () => (float[n, 4] eo) { eo = Transpose<perm = [0]>(x) }> }"""
    )
    with pytest.raises(ModelError, match=r"'choice'.*neither branch fits .*the then-.*'y' .*the else-.*perm"):
        load_onnx(model)
