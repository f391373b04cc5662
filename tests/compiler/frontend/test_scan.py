"""Scan in all its forms, and Loop, If and Scan inside each other: imported, compiled, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, parser

from ingot.compiler import compile
from ingot.compiler.frontend import ModelError, load_onnx
from ingot.compiler.ir.graph import subgraphs_of
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import IrError
from ingot.compiler.ops.control import Loop

onnxruntime = pytest.importorskip("onnxruntime")
Array = np.ndarray[Any, Any]


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(model: onnx.ModelProto, *feeds: Mapping[str, Array], native: bool = True) -> None:
    """The interpreter, and native code, give what ONNX Runtime gives."""
    graph = load_onnx(model)
    artifact = compile(model) if native else None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    other = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for feed in feeds:
        wanted = other.run(None, dict(feed))
        answers = [evaluate_graph(graph, dict(feed))]
        if artifact is not None:
            with artifact.session() as session:
                answers.append(session.run(dict(feed)))
        for answer in answers:
            for (name, _), want in zip(graph.outputs, wanted, strict=True):
                assert answer[name].dtype == want.dtype and answer[name].shape == want.shape
                np.testing.assert_allclose(answer[name], want, rtol=1e-5, atol=1e-6)


def scan_model(opset: int, inputs: Mapping[str, tuple[int, list[int | str]]], body: str, **attributes: Any) -> Any:
    node_inputs = [("" if name == "none" else name) for name in inputs if name != "w"]
    graph_body = parser.parse_graph(body)
    node = helper.make_node("Scan", node_inputs, ["last", "rows"], body=graph_body, **attributes)
    values = [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items() if n != "none"]
    outputs = [helper.make_tensor_value_info(n, 1, None) for n in ("last", "rows")]
    graph = helper.make_graph([node], "g", values, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


STEP = "b (float[2] s, float[2] e) => (float[2] so, float[2] row) { so = Add(s, e) t = Mul(so, e) row = Mul(t, w) }"


@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("lengths", [False, True])
def test_scan_of_batches(backwards: int, lengths: bool) -> None:
    inputs: dict[str, tuple[int, list[int | str]]] = {"lens" if lengths else "none": (7, ["n"])}
    inputs |= {"s": (1, ["n", 2]), "x": (1, ["n", "t", 2]), "w": (1, [2])}
    model = scan_model(8, inputs, STEP, num_scan_inputs=1, directions=[backwards])
    feed = {"s": normal(0, 4, 2), "x": normal(1, 4, 3, 2), "w": normal(2, 2)}
    one = {"s": normal(0, 1, 2), "x": normal(1, 1, 7, 2), "w": normal(2, 2)}
    if lengths:
        feed["lens"], one["lens"] = np.array([3, 1, 2, 1]), np.array([5])
    check(model, feed, one)
    if lengths:
        bad = {**feed, "lens": np.array([3, 1, 4, 1])}
        with pytest.raises(IrError, match="sequence length"):
            evaluate_graph(load_onnx(model), bad)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(0, 5),
    width=st.integers(1, 4),
    axis=st.integers(-2, 1),
    backwards=st.booleans(),
    out_axis=st.integers(-2, 1),
    out_backwards=st.booleans(),
)
def test_scan_directions_and_axes(
    length: int, width: int, axis: int, backwards: bool, out_axis: int, out_backwards: bool
) -> None:
    shape = (length, width) if axis % 2 == 0 else (width, length)
    model = scan_model(
        17,
        {"s": (1, [width]), "x": (1, [*shape]), "w": (1, [width])},
        STEP.replace("[2]", f"[{width}]"),
        num_scan_inputs=1,
        scan_input_axes=[axis],
        scan_input_directions=[int(backwards)],
        scan_output_axes=[out_axis],
        scan_output_directions=[int(out_backwards)],
    )
    feed = {"s": normal(0, width), "x": normal(1, *shape), "w": normal(2, width)}
    if length:
        check(model, feed, native=False)
    else:  # ONNX Runtime refuses what it cannot begin
        found = evaluate_graph(load_onnx(model), feed)
        np.testing.assert_array_equal(found["last"], feed["s"])
        assert found["rows"].size == 0


def test_one_value_scanned_twice() -> None:
    body = "b (float[2] s, float[2] e, float[2] f) => (float[2] so, float[2] row) { so = Add(s, e) row = Sub(so, f) }"
    model = scan_model(17, {"s": (1, [2]), "x": (1, ["t", 2])}, body, num_scan_inputs=2, scan_input_directions=[0, 1])
    model.graph.node[0].input.append("x")
    check(model, {"s": normal(0, 2), "x": normal(1, 5, 2)}, {"s": normal(0, 2), "x": normal(1, 1, 2)})


def test_scan_inputs_that_do_not_fit_are_refused() -> None:
    model = scan_model(17, {"s": (1, [2]), "x": (1, [3, 2]), "w": (1, [2])}, STEP, num_scan_inputs=3)
    with pytest.raises(ModelError, match="do not fit"):
        load_onnx(model)
    model = scan_model(
        8, {"none": (7, []), "s": (1, [4, 2]), "x": (1, [5, 3, 2]), "w": (1, [2])}, STEP, num_scan_inputs=1
    )
    with pytest.raises(ModelError):
        load_onnx(model)


NESTED = """<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3] x, int64 trip, bool go, bool choose, float[3] w) => (float[3] total, float[2, 3] rows) {
  zero = Constant<value = float {0.0}>()
  start = Mul(w, zero)
  two = Constant<value = int64 {2}>()
  yes = Constant<value = bool {1}>()
  total, rows = Loop(two, yes, start) <
   body = outer (int64 i, bool c, float[3] acc) => (bool co, float[3] next, float[3] row) {
    co = Identity(c)
    scaled = Mul(w, w)
    middle = If (choose) <
      then_branch = yes_ () => (float[3] p) {
        p = Loop(trip, go, acc) <body = inner (int64 j, bool d, float[3] v) => (bool do_, float[3] u) {
          limit = Constant<value = float {50.0}>()
          last, seen = Scan<num_scan_inputs = 1, body = step (float[3] s, float[3] e) => (float[3] t, float[3] r) {
            m = Mul(e, scaled)
            t = Add(s, m)
            f = Cast<to = 1>(i)
            r = Mul(t, f)
          }> (v, x)
          some = ReduceSum<keepdims = 0>(seen)
          gain = Mul(w, zero)
          g = Add(gain, last)
          k = Mul(some, zero)
          u = Add(g, k)
          size = ReduceMax<keepdims = 0>(u)
          do_ = Less(size, limit)
        }>
      },
      else_branch = no_ () => (float[3] q) { q = Sub(acc, scaled) }>
    next = Add(middle, w)
    row = Mul(next, scaled)
  }>
}"""


def test_loop_if_scan_four_deep_with_captured_values() -> None:
    model = parser.parse_model(NESTED)
    graph = load_onnx(model)
    depth = 0
    bodies = [graph]
    while bodies := [inner for body in bodies for node in body.nodes() for inner in subgraphs_of(node)]:
        depth += 1
    assert depth == 4
    feeds: list[dict[str, Array]] = []
    for rows, trip, go, choose in ((3, 2, True, True), (1, 0, True, True), (4, 3, False, True), (5, 9, True, False)):
        feeds.append(
            {
                "x": np.abs(normal(rows, rows, 3)),
                "trip": np.array(trip),
                "go": np.array(go),
                "choose": np.array(choose),
                "w": np.abs(normal(7, 3)) + np.float32(1),
            }
        )
    check(model, *feeds)


COUNTED = """<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 2] z, float[2] x, bool go) => (float[2] last, float[m, 2] rows) {
  shape = Shape<start = 0, end = 1>(z)
  first = Constant<value = int64 {0}>()
  trip = Gather(shape, first)
  yes = Constant<value = bool {1}>()
  last, rows = Loop(trip, yes, x) <body = b (int64 i, bool c, float[2] v) => (bool co, float[2] w, float[2] row) {
    co = Identity(c)
    line = Gather(z, i)
    w = Add(v, line)
    row = Mul(v, v)
  }>
}"""


def test_a_loop_as_long_as_an_input() -> None:
    model = parser.parse_model(COUNTED.replace(", bool go", ""))
    (loop,) = [n for n in load_onnx(model).nodes() if isinstance(n, Loop)]
    assert [str(d) for d in loop.scans] == ["n"]
    check(model, *({"z": normal(n, n, 2), "x": normal(9, 2)} for n in (0, 1, 2, 7)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 4), length=st.integers(1, 5))
def test_random_carried_values(seed: int, count: int, length: int) -> None:
    """Loops whose carried values go round, swap, stay, or come from each other."""
    rng = np.random.default_rng(seed)
    names = [f"v{i}" for i in range(count)]
    statements: list[str] = []
    results: list[str] = []
    for i in range(count):
        a, b = (names[j] for j in rng.integers(0, count, 2))
        kind = rng.integers(0, 4)
        if kind == 0:
            statements.append(f"o{i} = Identity({a})")
        elif kind == 1:
            statements.append(f"o{i} = Add({a}, {b})")
        elif kind == 2:
            statements.append(f"t{i} = Transpose({a}) o{i} = Sub(t{i}, {b})")
        else:
            statements.append(f"t{i} = Tanh({a}) o{i} = Mul(t{i}, {b})")
        results.append(f"float[2, 2] o{i}")
    order = rng.permutation(count)
    text = (
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        f"net ({', '.join(f'float[2, 2] x{i}' for i in range(count))}) => "
        f"({', '.join(f'float[2, 2] y{i}' for i in range(count))}, float[{length}, 2, 2] rows) {{\n"
        f"n = Constant<value = int64 {{{length}}}>()\nyes = Constant<value = bool {{1}}>()\n"
        f"{', '.join(f'y{i}' for i in range(count))}, rows = Loop(n, yes, {', '.join(f'x{i}' for i in order)}) <body = "
        f"b (int64 i, bool c, {', '.join(f'float[2, 2] {n}' for n in names)}) => "
        f"(bool co, {', '.join(results)}, float[2, 2] row) {{ co = Identity(c) {' '.join(statements)} "
        f"row = Sub({names[0]}, o{count - 1}) }}>\n}}"
    )
    check(parser.parse_model(text), {f"x{i}": normal(seed + i, 2, 2) for i in range(count)}, native=seed % 4 == 0)
