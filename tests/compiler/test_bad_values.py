"""Values that a model cannot be run with: a fault that says what is wrong, never the element of another row."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from ingot.compiler import compile, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import IrError
from ingot.runtime import InputError, RuntimeFault

Arrays = dict[str, NDArray[Any]]
X = np.arange(15, dtype=np.float32).reshape(5, 3)
U = np.array([[7, 8, 9]], np.float32)


def i64(*values: Any) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


CASES: dict[str, tuple[str, Arrays, list[Arrays]]] = {
    "GatherElements": (
        "m (float[5, 3] x, int64[r, k] i) => (float[r, k] y) { y = GatherElements <axis = 1> (x, i) }",
        {"x": X, "i": i64([-3, 2], [0, -1])},
        [{"i": i64([0, 0], [v, 0])} for v in (-4, 3, -(2**63), 2**62)],
    ),
    "GatherND": (
        "m (float[5, 3] x, int64[k, 2] i) => (float[k] y) { y = GatherND (x, i) }",
        {"x": X, "i": i64([-5, 2], [4, -3])},
        [{"i": i64(v)} for v in ([-6, 0], [0, 3], [1, -4], [2**62, 2**62], [5, 0])],
    ),
    "ScatterND": (
        "m (float[5, 3] x, int64[k, 2] i, float[k] u) => (float[5, 3] y) { y = ScatterND (x, i, u) }",
        {"x": X, "i": i64([-5, 2]), "u": f32([1])},
        [{"i": i64(v)} for v in ([-6, 0], [0, 3], [1, -4], [2**62, 2**62], [5, 0])],
    ),
    "ScatterND rows": (
        "m (float[5, 3] x, int64[k, 1] i, float[k, 3] u) => (float[5, 3] y) { y = ScatterND (x, i, u) }",
        {"x": X, "i": i64([-5]), "u": U},
        [{"i": i64([v])} for v in (-6, 5)],
    ),
    "Gather by floats": (
        "m (float[k] x) => (float[k] y) <float[4] t = {1, 2, 3, 4}> { i = Cast <to = 7> (x)  y = Gather (t, i) }",
        {"x": f32([-4, 3])},
        [{"x": f32([v])} for v in (np.inf, -np.inf, 1e30, -5, 4)],
    ),
    "CumSum of a list": (
        "m (float[4] x, int64 a) => (float[4] y) { y = CumSum (x, a) }",
        {"x": X[0:4, 0].copy(), "a": np.array(-1)},
        [{"a": np.array(v)} for v in (1, -2, 2**62)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_indices_out_of_range(name: str) -> None:
    text, good, wrong = CASES[name]
    graph = load_onnx(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}'))
    with compile(graph, jobs=1).session(threads=1) as session:
        for bad in wrong:
            with np.errstate(all="ignore"), pytest.raises(IrError):
                evaluate_graph(graph, {**good, **bad})
            with pytest.raises(RuntimeFault, match="out of range"):
                session.run({**good, **bad})
            np.testing.assert_array_equal(session.run(good)["y"], evaluate_graph(graph, good)["y"])


def test_past_beyond_the_table_of_positions() -> None:
    """A decoder that keeps what it has seen: a past that leaves no position for the next token is refused."""
    text = """m (float[b, s, 4] x, float[b, p, 4] past) => (float[b, s, 4] y, float[b, t, 4] present)
        <float[8, 4] table> {
        present = Concat <axis = 1> (past, x)  shape = Shape (present)
        one = Constant <value = int64 {1}> ()  zero = Constant <value = int64 {0}> ()
        end = Gather (shape, one)  axis = Constant <value = int64[1] {0}> ()
        last = Unsqueeze (end, axis)  first = Constant <value = int64[1] {0}> ()
        places = Range (zero, end, one)  rows = Gather (table, places)
        all = Add (present, rows)  mean = ReduceMean <keepdims = 1> (all, one_axis)
        y = Add (x, mean) }"""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}')
    rng = np.random.default_rng(0)
    table = rng.standard_normal((8, 4)).astype(np.float32)
    del model.graph.initializer[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(i64(1), "one_axis"))

    def feed(past: int, new: int = 1) -> Arrays:
        return {
            "x": rng.standard_normal((1, new, 4)).astype(np.float32),
            "past": rng.standard_normal((1, past, 4)).astype(np.float32),
        }

    with compile(model, jobs=1).session(threads=1) as session:
        for past in (0, 3, 7):
            data = feed(past)
            whole = np.concatenate([data["past"], data["x"]], 1) + table[: past + 1]
            np.testing.assert_allclose(session.run(data)["y"], data["x"] + whole.mean(1, keepdims=True), rtol=1e-5)
        for past, new in ((8, 1), (7, 2), (1000, 1)):
            with pytest.raises((RuntimeFault, InputError)):
                session.run(feed(past, new))


def test_values_outside_declared_ranges() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> m (float[n, 2] x) => (float[n, 2] y) { y = Neg (x) }'
    )
    with compile(model, ranges={"n": (2, 4)}, jobs=1).session(threads=1) as session:
        for rows in (0, 1, 5, 1000):
            with pytest.raises(InputError, match="n must be in 2 to 4"):
                session.run({"x": np.zeros((rows, 2), np.float32)})
        assert session.run({"x": np.ones((3, 2), np.float32)})["y"].shape == (3, 2)


@pytest.mark.parametrize("mode", ["reflect", "wrap", "edge"])
def test_pads_wider_than_what_is_there(mode: str) -> None:
    """As numpy: to and fro, or around, as often as it takes; what is cropped is not seen again."""
    text = f'm (float[n] x, int64[2] p) => (float[k] y) {{ y = Pad <mode = "{mode}"> (x, p) }}'
    given = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 19]> {text}')
    for pads in ((2, 3), (7, 100), (-2, 9), (0, 5)):
        fixed = onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["" : 19]> m (float[n] x) => (float[k] y)'
            f' <int64[2] p = {{{pads[0]}, {pads[1]}}}> {{ y = Pad <mode = "{mode}"> (x, p) }}'
        )
        computed = [(given, {"p": i64(*pads)})] if min(pads) >= 0 else []  # sizes that come from data are not negative
        for model, extra in (*computed, (fixed, {})):
            with compile(model, jobs=1).session(threads=1) as session:
                for n in (3, 6):
                    x = np.arange(n, dtype=np.float32)
                    kept = x[max(-pads[0], 0) : n - max(-pads[1], 0)]
                    want = np.pad(kept, [max(p, 0) for p in pads], mode=mode)  # type: ignore[call-overload]
                    np.testing.assert_array_equal(session.run({"x": x, **extra})["y"], want)
                with pytest.raises((InputError, RuntimeFault)):
                    session.run({"x": np.zeros(0, np.float32), **extra})
