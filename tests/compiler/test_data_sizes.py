"""Sizes that come from data: every level and native code, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler import compile, default_pipeline
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.execute import FaultError, run_program
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Bind, Program
from ingot.compiler.ir.text.graph import parse_graph, show_graph
from ingot.compiler.ir.text.program import parse_program, show_program
from ingot.compiler.ir.types import IrError
from ingot.compiler.ir.verify import verify_graph, verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.targets.registry import find_target
from ingot.runtime import InputError, RuntimeFault

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Feed = dict[str, np.ndarray]
Port = tuple[str, int, Sequence[int | str] | None]

CONSTANTS = {
    "zero": np.array([0], np.int64),
    "one": np.array([1], np.int64),
    "minus_one": np.array([-1], np.int64),
    "off_on": np.array([0, 1], np.float32),
    "true": np.array(True),
    "twelve": np.array(12, np.int64),
    "f_one": np.array(1, np.float32),
    "i_zero": np.array(0, np.int64),
}


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node with its inputs and outputs separated by spaces; `_` is an input that is left out."""
    return helper.make_node(op, ["" if i == "_" else i for i in inputs.split()], outputs.split(), **attributes)


def port(name: str, dtype: int, shape: Sequence[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def body(nodes: Sequence[onnx.NodeProto], inputs: Sequence[Port], outputs: Sequence[Port]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", [port(*i) for i in inputs], [port(*o) for o in outputs])


def model(nodes: Sequence[onnx.NodeProto], inputs: Sequence[Port], outputs: Sequence[Port]) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(data, name) for name, data in CONSTANTS.items()]
    graph = helper.make_graph(nodes, "net", [port(*i) for i in inputs], [port(*o) for o in outputs], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def agree(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray], what: str) -> None:
    assert list(got) == list(want)
    for name, expected in want.items():
        assert got[name].dtype == expected.dtype and got[name].shape == expected.shape, (what, name)
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-5, err_msg=f"{what}: {name}")


def levels(proto: onnx.ModelProto) -> tuple[Graph, Graph, Program]:
    """The imported graph, the optimised one and the program, verified; their texts are read back."""
    graph = load_onnx(proto)
    verify_graph(graph)
    resources: dict[str, np.ndarray] = {}
    again = parse_graph(show_graph(graph, resources), resources)
    assert show_graph(again) == show_graph(graph)
    optimised = default_pipeline().run(graph)
    verify_graph(optimised)
    program = lower(optimised, find_target("cpu").machine)
    verify_program(program)
    resources.clear()
    text = show_program(program, resources)
    assert show_program(parse_program(text, resources)) == show_program(program)
    return graph, optimised, program


def check(proto: onnx.ModelProto, *feeds: Feed) -> None:
    """Every level gives for every feed what ONNX Runtime gives, one after the other in one session."""
    graph, optimised, program = levels(proto)
    assert any(isinstance(step, Bind) for step in program.all_steps())
    options = ort.SessionOptions()
    options.log_severity_level = 3
    reference = ort.InferenceSession(proto.SerializeToString(), options)
    names = [o.name for o in reference.get_outputs()]
    with compile(proto).session(threads=2) as session:
        for feed in feeds:
            want = {name: np.asarray(x) for name, x in zip(names, reference.run(None, feed), strict=True)}
            agree(evaluate_graph(graph, feed), want, "graph")
            agree(evaluate_graph(optimised, feed), want, "optimised graph")
            agree(run_program(program, feed), want, "program")
            for _ in range(2):
                agree(session.run(feed), want, "native")


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


X = np.arange(24, dtype=np.float32).reshape(4, 6) - 5


def test_what_is_found_is_gathered_and_written_back() -> None:
    proto = model(
        [
            node("Greater", "x limit", "mask"),
            node("NonZero", "mask", "rows"),
            node("Squeeze", "rows zero", "row"),
            node("Gather", "data row", "chosen"),
            node("MatMul", "chosen w", "product"),
            node("Add", "product chosen", "sum"),
            node("Unsqueeze", "row one", "places"),
            node("ScatterND", "data places sum", "result"),
            node("Softmax", "sum", "soft", axis=0),
        ],
        [("x", FLOAT, ["n"]), ("limit", FLOAT, []), ("data", FLOAT, ["n", 8]), ("w", FLOAT, [8, 8])],
        [("sum", FLOAT, None), ("result", FLOAT, None), ("soft", FLOAT, None)],
    )
    random = np.random.default_rng(1)
    feeds: list[Feed] = []
    for count, limit in ((37, 0.5), (37, 0.1), (37, 2.0), (1, -1.0), (300, 0.3), (0, 0.5), (37, 0.5)):
        data = random.standard_normal((count, 8)).astype(np.float32)
        x = random.random(count, np.float32)
        w = random.standard_normal((8, 8)).astype(np.float32)
        feeds.append({"x": x, "limit": np.array(limit, np.float32), "data": data, "w": w})
    check(proto, *feeds)


def test_shapes_from_inputs() -> None:
    """Reshape with 0 and -1, Expand, Tile, Pad, ConstantOfShape, OneHot and Split in one model."""
    proto = model(
        [
            node("Reshape", "x shape", "reshaped"),
            node("Expand", "row wide", "expanded"),
            node("Exp", "expanded", "exp"),
            node("Tile", "row repeats", "tiled"),
            node("Pad", "x pads", "padded"),
            node("ConstantOfShape", "wide", "zeros"),
            node("OneHot", "places depth off_on", "hot"),
            node("Split", "x cuts", "left right", axis=1),
        ],
        [
            *(("x", FLOAT, ["n", 6]), ("shape", INT64, [3]), ("row", FLOAT, [1, 3]), ("wide", INT64, [2])),
            *(("repeats", INT64, [2]), ("pads", INT64, [4]), ("places", INT64, ["k"]), ("depth", INT64, [])),
            ("cuts", INT64, [2]),
        ],
        [(name, FLOAT, None) for name in ("reshaped", "exp", "tiled", "padded", "zeros", "hot", "left", "right")],
    )

    def feed(shape: np.ndarray, wide: np.ndarray, repeats: np.ndarray, pads: np.ndarray, cut: int) -> Feed:
        integers = {"shape": shape, "wide": wide, "repeats": repeats, "pads": pads, "cuts": i64(cut, 6 - cut)}
        return {"x": X, "row": X[:1, :3], "places": i64(0, 2, -1), "depth": np.array(cut + 3), **integers}

    check(
        proto,
        feed(i64(2, 3, 4), i64(4, 3), i64(2, 2), i64(0, 1, 2, 3), 2),
        feed(i64(0, 2, -1), i64(1, 3), i64(1, 1), i64(0, 0, 0, 0), 6),
        feed(i64(-1, 1, 1), i64(0, 3), i64(0, 3), i64(5, 0, 0, 0), 0),
        feed(i64(4, 0, 1)[[0, 2, 2]] * i64(1, 6, 1), i64(60, 3), i64(30, 3), i64(0, 9, 0, 0), 1),
    )


def test_slices_from_inputs() -> None:
    proto = model(
        [
            node("Slice", "x start end one", "columns"),
            node("Slice", "x start end one minus_one", "backwards"),
            node("Slice", "x zero end zero", "prefix"),
            node("Neg", "columns", "negated"),
            node("ReduceSum", "prefix", "total", keepdims=0),
        ],
        [("x", FLOAT, ["n", 6]), ("start", INT64, [1]), ("end", INT64, [1])],
        [(name, FLOAT, None) for name in ("columns", "backwards", "negated", "prefix", "total")],
    )
    bounds = ((0, 3), (-2, 6), (1, -1), (5, 2), (-100, 100), (3, 3), (2**62, -5), (5, 0))
    check(proto, *({"x": X, "start": i64(a), "end": i64(b)} for a, b in bounds))


def test_ranges_and_choices_from_inputs() -> None:
    proto = model(
        [node("Range", "a b c", "whole"), node("Range", "d e f", "real"), node("TopK", "x k", "values places")],
        [
            *((name, INT64, []) for name in "abc"),
            *((name, FLOAT, []) for name in "def"),
            *(("x", FLOAT, ["n", 6]), ("k", INT64, [1])),
        ],
        [("whole", INT64, None), ("real", FLOAT, None), ("values", FLOAT, None), ("places", INT64, None)],
    )
    feeds: list[Feed] = []
    for whole, real, k in (((0, 5, 1), (0, 5, 1), 2), ((5, 0, -2), (5, 0, -0.75), 6), ((3, 3, 1), (0, 1, 0.1), 0)):
        feed = {name: np.array(v, np.int64) for name, v in zip("abc", whole, strict=True)}
        feed |= {name: np.array(v, np.float32) for name, v in zip("def", real, strict=True)}
        feeds.append(feed | {"x": X, "k": i64(k)})
    check(proto, *feeds)


def test_sizes_that_must_be_equal() -> None:
    """Two counts that are added and concatenated across must be equal: that becomes a check."""
    proto = model(
        [
            node("NonZero", "x", "p"),
            node("NonZero", "y", "q"),
            node("Add", "p q", "sum"),
            node("Concat", "p q", "both", axis=1),
        ],
        [("x", FLOAT, ["n"]), ("y", FLOAT, ["m"])],
        [("sum", INT64, None), ("both", INT64, None)],
    )
    check(proto, {"x": f32(1, 0, 2), "y": f32(5, 6)}, {"x": f32(0), "y": f32()})
    with compile(proto).session() as session:
        with pytest.raises(RuntimeFault, match="the number of elements found must be p for the model to make sense"):
            session.run({"x": f32(1, 1, 1), "y": f32(5, 6)})
        np.testing.assert_array_equal(session.run({"x": f32(1), "y": f32(1)})["sum"], [[0]])


def test_too_few_elements_for_the_parts_of_a_split() -> None:
    """Parts of one element each may leave less than none for the last, which nobody defines."""
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[n] x) => (int64[1, p] a, int64[1, q] c) {
        found = NonZero (x)
        a, b, c = Split <axis = 1, num_outputs = 3> (found) }"""
    with compile(onnx.parser.parse_model(text), jobs=1).session(threads=1) as session:
        for count, sizes in ((9, (3, 3)), (8, (3, 2)), (4, (2, 0)), (3, (1, 1)), (2, (1, 0)), (0, (0, 0))):
            a, c = session.run({"x": np.ones(count, np.float32)}).values()
            assert (a.shape[1], c.shape[1]) == sizes
            np.testing.assert_array_equal(c[0], np.arange(2 * sizes[0], count))
        with pytest.raises(RuntimeFault, match="found elements must be enough for 3 parts"):
            session.run({"x": np.ones(1, np.float32)})


def test_what_grows_is_checked_when_its_loop_has_ended() -> None:
    """The largest row needs a row: there is none before the first iteration."""
    text = """<ir_version: 9, opset_import: ["" : 21]> m (bool start, int64 n, float[2] x) => (float[1, 2] y)
        <int64[1] k = {1}, int64 one = {1}> {
        last, rows = Loop ("", start, x) <body = b (int64 i, bool c, float[2] v) => (bool more, float[2] w, float[2] u)
            { next = Add (i, one)  more = Less (next, n)  w = Add (v, v)  u = Neg (v) }>
        y, places = TopK <axis = 0> (rows, k) }"""
    x = f32(-1, 2)
    with compile(onnx.parser.parse_model(text), jobs=1).session(threads=1) as session:
        for n, wanted in ((1, (1, -2)), (3, (4, -2)), (0, (1, -2))):
            found = session.run({"start": np.array(True), "n": np.array(n), "x": x})["y"]
            np.testing.assert_array_equal(found, [wanted])
        with pytest.raises(RuntimeFault, match="outside 1 and more"):
            session.run({"start": np.array(False), "n": np.array(3), "x": x})


BRANCHES = (
    body([node("NonZero", "x", "tp"), node("Squeeze", "tp zero", "tq")], [], [("tq", INT64, ["k"])]),
    body(
        [node("Cast", "x", "e", to=INT64), node("Concat", "e e", "ee", axis=0)],
        [],
        [("ee", INT64, ["l"])],
    ),
)


def test_branches_of_different_extents() -> None:
    proto = model(
        [node("If", "c", "y", then_branch=BRANCHES[0], else_branch=BRANCHES[1]), node("Neg", "y", "z")],
        [("x", FLOAT, ["n"]), ("c", BOOL, [])],
        [("y", INT64, None), ("z", INT64, None)],
    )
    check(proto, *({"x": f32(*v), "c": np.array(c)} for v in ((1, 0, 3), (0, 0), ()) for c in (False, True)))


LOOP = (("i", INT64, []), ("c", BOOL, []))
GROW = body(
    [node("Concat", "v x", "w", axis=0), node("Identity", "c", "d")],
    [*LOOP, ("v", FLOAT, ["g", 3])],
    [("d", BOOL, []), ("w", FLOAT, ["h", 3])],
)


def test_a_carried_value_grows() -> None:
    """One that grows by its operand, and two that grow alike and meet in the body."""
    both = body(
        [
            *(node("Concat", "k x", "kk", axis=0), node("Concat", "v x", "vv", axis=0), node("Mul", "k v", "kv")),
            *(node("ReduceSum", "kv", "r", keepdims=0), node("Add", "acc r", "sum"), node("Identity", "c", "d")),
        ],
        [*LOOP, ("k", FLOAT, ["g", 3]), ("v", FLOAT, ["h", 3]), ("acc", FLOAT, [])],
        [("d", BOOL, []), ("kk", FLOAT, ["p", 3]), ("vv", FLOAT, ["q", 3]), ("sum", FLOAT, [])],
    )
    proto = model(
        [
            node("Loop", "t _ x", "y", body=GROW),
            node("Relu", "y", "positive"),
            node("Loop", "t _ x x f_one", "k v total", body=both),
            node("Add", "k v", "added"),
        ],
        [("x", FLOAT, ["n", 3]), ("t", INT64, [])],
        [("positive", FLOAT, None), ("total", FLOAT, None), ("added", FLOAT, None)],
    )
    random = np.random.default_rng(2)
    check(
        proto,
        *(
            {"x": random.standard_normal((n, 3)).astype(np.float32), "t": np.array(t)}
            for n, t in ((2, 3), (1, 0), (2, 30), (0, 4), (1, 1))
        ),
    )


def test_a_carried_value_shrinks_as_data_say() -> None:
    shrink = body(
        [
            *(node("Greater", "v low", "m"), node("Compress", "v m", "w", axis=0), node("Add", "low f_one", "higher")),
            *(node("Size", "w", "s"), node("Greater", "s i_zero", "d")),
        ],
        [*LOOP, ("v", FLOAT, ["g"]), ("low", FLOAT, [])],
        [("d", BOOL, []), ("w", FLOAT, ["h"]), ("higher", FLOAT, [])],
    )
    proto = model(
        [node("Loop", "_ true x f_one", "y last", body=shrink)],
        [("x", FLOAT, ["n"])],
        [("y", FLOAT, None), ("last", FLOAT, None)],
    )
    check(proto, {"x": f32(1, 5, 3, 2)}, {"x": f32(0, 0)}, {"x": f32(9, 8)})


def test_scan_outputs_of_loops_that_data_end() -> None:
    """A trip count from data, a condition with a trip count, and a condition alone."""
    always = body(
        [node("Add", "v x", "w"), node("Identity", "c", "d"), node("Mul", "w w", "row")],
        [*LOOP, ("v", FLOAT, [3])],
        [("d", BOOL, []), ("w", FLOAT, [3]), ("row", FLOAT, [3])],
    )
    until = body(
        [
            *(node("Add", "v x", "w"), node("ReduceMax", "w", "m", keepdims=0), node("Less", "m limit", "d")),
            node("Mul", "w w", "row"),
        ],
        [*LOOP, ("v", FLOAT, [3])],
        [("d", BOOL, []), ("w", FLOAT, [3]), ("row", FLOAT, [3])],
    )
    proto = model(
        [
            node("Loop", "t _ x", "a rows", body=always),
            node("Loop", "t _ x", "b some", body=until),
            node("Loop", "_ true x", "e more", body=until),
            node("Loop", "twelve true x", "f twelve_rows", body=until),
            node("Concat", "rows some more twelve_rows", "all", axis=0),
        ],
        [("x", FLOAT, [3]), ("t", INT64, []), ("limit", FLOAT, [])],
        [(name, FLOAT, None) for name in ("rows", "some", "more", "twelve_rows", "all")],
    )
    x = f32(0.5, 1, 2)
    check(
        proto,
        *(
            {"x": x, "t": np.array(t), "limit": np.array(limit, np.float32)}
            for t, limit in ((0, 1), (1, 7), (5, 7), (20, 90))
        ),
    )


def test_known_sizes_are_settled() -> None:
    """Counts of constants become constants; symbols bound to one value become one."""
    proto = model(
        [
            node("NonZero", "off_on", "k"),
            node("NonZero", "x", "p"),
            node("Neg", "x", "minus"),
            node("Neg", "minus", "same"),
            node("NonZero", "same", "q"),
        ],
        [("x", FLOAT, ["n"])],
        [("k", INT64, None), ("p", INT64, None), ("q", INT64, None)],
    )
    graph, optimised, program = levels(proto)
    assert list(graph.sizes()) == ["p", "q"]  # that of a constant is known at once
    assert list(optimised.sizes()) == ["p"] == list(program.bound())
    assert [str(d) for v in optimised.results for d in v.shape] == ["1", "1", "1", "p", "1", "p"]


COUNTED = model(
    [node("ConstantOfShape", "s", "y"), node("Shape", "y", "z")],
    [("s", INT64, [2])],
    [("y", FLOAT, None), ("z", INT64, None)],
)


def test_sizes_out_of_range_and_beyond_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _, program = levels(COUNTED)
    with pytest.raises(IrError, match="the size y = -1 is outside 0"):
        evaluate_graph(graph, {"s": i64(-1, 2)})
    with pytest.raises(FaultError, match="the size y is outside 0 and more: it is -1"):
        run_program(program, {"s": i64(-1, 2)})
    monkeypatch.setenv("INGOT_MEMORY_LIMIT", str(1 << 20))
    with compile(COUNTED).session() as session:
        for shape, problem in (
            (i64(3, -7), "the size y_2 is outside 0 and more: it is -7$"),
            (i64(2**40, 1), f"out of memory for y: {2**42} bytes$"),
            (i64(2**40, 2**40), "out of memory for y"),
            (i64(2**62, 4), "out of memory for y"),
            (i64(300, 1000), "out of memory for y: 1200000 bytes$"),
        ):
            with pytest.raises(RuntimeFault, match=problem):
                session.run({"s": shape})
            assert session.run({"s": i64(3, 5)})["y"].shape == (3, 5)


def test_outputs_of_unknown_shape_cannot_be_bound() -> None:
    with compile(COUNTED).session() as session:
        assert session.outputs[0].shape == ("y", "y_2")
        outputs = {"y": np.zeros((2, 3), np.float32), "z": np.zeros(2, np.int64)}
        with pytest.raises(InputError, match="output 'y' cannot be bound: its shape is known only after a run"):
            session.bind({"s": i64(2, 3)}, outputs)
        session.bind({"s": i64(2, 3)}, {**outputs, "y": None})()
        np.testing.assert_array_equal(outputs["z"], [2, 3])
        results = session.run({"s": i64(2, 3)})
        again = session.run({"s": i64(4, 1)})
        assert results["y"].shape == (2, 3) and again["y"].shape == (4, 1)  # results are copies


def test_runs_at_the_same_time_have_memory_of_their_own() -> None:
    from concurrent.futures import ThreadPoolExecutor

    proto = model([node("NonZero", "x", "p")], [("x", FLOAT, ["n"])], [("p", INT64, None)])
    with compile(proto).session(threads=2) as session, ThreadPoolExecutor(4) as pool:

        def run(count: int) -> bool:
            x = (np.arange(500 + count) % (count + 2) == 0).astype(np.float32)
            return all(np.array_equal(session.run({"x": x})["p"][0], np.flatnonzero(x)) for _ in range(20))

        assert all(pool.map(run, range(16)))
