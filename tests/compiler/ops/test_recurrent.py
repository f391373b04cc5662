"""Recurrent layers beyond the example table: symbolic sizes, bad lengths, what `infer` refuses, import."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.compiler.ops.example import normal
from tests.compiler.ops.recurrent_examples import BOTH, CASES, GRU, LSTM, RNN, Case, onnx_runtime

from ingot.compiler import compile
from ingot.compiler.frontend import ModelError, UnsupportedError, load_onnx
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Repeat
from ingot.compiler.ir.text.graph import parse_graph, show_graph
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.machine import AVX2
from ingot.compiler.ops import recurrent
from ingot.runtime import RuntimeFault
from ingot.runtime.dtypes import f32, i32

SYMBOLIC = {
    "lstm": Case(LSTM, given=("b", "initial_h", "initial_c")),
    "lstm_both": Case(LSTM, BOTH, lengths=(), sizes=(5, 3, 4, 9)),
    "gru": Case(GRU, "reverse", options=(("linear_before_reset", True),), sizes=(5, 3, 4, 8)),
    "rnn": Case(RNN, layout=1),
    "lstm_large": Case(LSTM, BOTH, sizes=(5, 3, 4, 232), lengths=()),  # a launch a step
}


def symbolic_graph(case: Case) -> Graph:
    """The case with symbolic T and N."""
    steps, batch = symbol("steps"), symbol("batch")
    *_, inputs, hidden = case.sizes
    pair = (batch, steps) if case.layout else (steps, batch)
    state = (batch, 2 if case.direction == BOTH else 1)
    state = state if case.layout else state[::-1]
    types = {
        "x": TensorType(f32, (*pair, inputs)),
        "sequence_lens": TensorType(i32, (batch,)),
        "initial_h": TensorType(f32, (*state, hidden)),
        "initial_c": TensorType(f32, (*state, hidden)),
    }
    names = [name for name in case.arrays() if name in types]
    values = tuple(Input(name, types[name]) for name in names)
    results = case.build(*values).results()
    return Graph(values, tuple((f"y{i}", value) for i, value in enumerate(results)), "symbolic")


@pytest.mark.parametrize("name", SYMBOLIC)
def test_one_artifact_serves_all_sizes(name: str) -> None:
    case = SYMBOLIC[name]
    graph = symbolic_graph(case)
    artifact = compile(graph, jobs=1)
    with artifact.session(threads=1) as one, artifact.session(threads=2) as two:
        for steps, batch in ((1, 1), (7, 1), (2, 3), (3, 8), (2, 21), (0, 2), (3, 0)):
            sized = dataclasses.replace(case, sizes=(steps, batch, *case.sizes[2:]))
            if case.lengths is not None:
                lengths = tuple(int(n) for n in np.random.default_rng(steps).integers(0, steps + 1, batch))
                sized = dataclasses.replace(sized, lengths=lengths)
            feed = {n: a for n, a in sized.arrays().items() if n in {x.label for x in graph.inputs}}
            have, other = one.run(feed), two.run(feed)
            for label, want in evaluate_graph(graph, feed).items():
                assert have[label].shape == want.shape
                np.testing.assert_allclose(have[label], want, rtol=2e-5, atol=2e-5, err_msg=f"{steps} {batch}")
                assert have[label].tobytes() == other[label].tobytes()


@pytest.mark.parametrize(
    ("case", "launches"),
    [
        (Case(LSTM, BOTH, sizes=(9, 1, 4, 64)), None),  # every step in one kernel
        (Case(GRU, sizes=(9, 40, 4, 128)), None),  # threads share the batch
        (Case(LSTM, sizes=(9, 1, 4, 256)), 1),
        (Case(GRU, BOTH, sizes=(9, 1, 4, 512)), 2),  # the candidate needs the reset gates of all units
    ],
)
def test_steps_become_launches_where_threads_gain(case: Case, launches: int | None) -> None:
    program = lower(_graph(case.build(Input("x", TensorType(f32, case.arrays()["x"].shape)))), AVX2)
    loops = [step for step in program.steps if isinstance(step, Repeat)]
    assert [len(loop.body) for loop in loops] == ([] if launches is None else [launches])
    assert len(program.steps) <= 8


def test_values_past_a_length_do_not_count() -> None:
    case = Case(LSTM, BOTH, lengths=(2, 5, 0), given=("b", "initial_h", "initial_c"))
    arrays = case.arrays()
    arrays["x"][2:, 0] = np.nan
    arrays["x"][:, 2] = np.inf
    values = [a for n, a in arrays.items() if n not in ("w", "r", "b")]
    node = case.example("lengths").build(*(Input(f"x{i}", TensorType(*_type(a))) for i, a in enumerate(values)))
    y, y_h, y_c = node.evaluate(*(arrays[n] for n, _ in node.named_operands()))  # pyright: ignore[reportAttributeAccessIssue]
    assert np.all(y[2:, :, 0] == 0) and np.all(y[:, :, 2] == 0) and np.isfinite(y).all()
    np.testing.assert_array_equal(y_h[:, 2], arrays["initial_h"][:, 2])
    np.testing.assert_array_equal(y_c[:, 2], arrays["initial_c"][:, 2])
    np.testing.assert_array_equal(y_h[0, 0], y[1, 0, 0])  # the forward direction ends at the last valid step,
    np.testing.assert_array_equal(y_h[1, 1], y[0, 1, 1])  # the other at the first
    with compile(_graph(node), jobs=1).session(threads=1) as session:
        have = session.run({f"x{i}": a for i, a in enumerate(values)})
    for name, want in zip(("y0", "y1", "y2"), (y, y_h, y_c), strict=True):
        np.testing.assert_allclose(have[name], want, rtol=2e-5, atol=2e-6)


def _type(array: np.ndarray) -> tuple[Any, tuple[int, ...]]:
    return (i32 if array.dtype == np.int32 else f32), array.shape


def _graph(node: Any) -> Graph:
    inputs = tuple(v for _, v in node.named_operands() if isinstance(v, Input))
    return Graph(inputs, tuple((f"y{i}", value) for i, value in enumerate(node.results())), "one")


@pytest.mark.parametrize("bad", [-1, 6])
def test_a_length_out_of_range_is_reported(bad: int) -> None:
    case = Case(GRU, BOTH, lengths=(2, bad, 5))
    node = case.build(Input("x", TensorType(f32, (5, 3, 4))), Input("lens", TensorType(i32, (3,))))
    feed = {"x": case.arrays()["x"], "lens": case.arrays()["sequence_lens"]}
    with pytest.raises(IrError, match=r"outside 0\.\.5"):
        evaluate_graph(_graph(node), feed)
    with compile(_graph(node), jobs=1).session(threads=1) as session:
        with pytest.raises(RuntimeFault, match="a sequence length is negative or larger"):
            session.run(feed)
        feed["lens"] = np.array([2, 0, 5], np.int32)
        assert np.isfinite(session.run(feed)["y0"]).all()


def test_not_a_number_travels_on() -> None:
    case = Case(LSTM)
    arrays = case.arrays()
    arrays["x"][1, 1, 0] = np.nan
    node = case.build(Input("x", TensorType(f32, (5, 3, 4))))
    with compile(_graph(node), jobs=1).session(threads=1) as session:
        y = session.run({"x": arrays["x"]})["y0"]
    assert np.isnan(y[1:, 0, 1]).all() and np.isfinite(np.delete(y, 1, axis=2)).all() and np.isfinite(y[0]).all()


@pytest.mark.parametrize("name", ["lstm_both", "gru_both", "rnn_reverse"])
def test_text_round_trip(name: str) -> None:
    graph = CASES[name].example(name).graph()
    assert show_graph(parse_graph(show_graph(graph))) == show_graph(graph)


BASE = Case(LSTM, given=("b", "initial_h")).build(
    Input("x", TensorType(f32, (5, 3, 4))), Input("h", TensorType(f32, (1, 3, 5)))
)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"direction": "both"}, "direction is 'both'"),
        ({"layout": 2}, "layout is 2"),
        ({"direction": BOTH}, "activations has 3 entries, 6 are needed"),
        ({"activations": ("Sigmoid", "Tanh", "Sin")}, "unknown activation function 'Sin'"),
        ({"activation_alpha": ()}, "activation_alpha has 0 entries"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"w": Input("w", TensorType(f32, (1, 20, 3)))}, "w .* differ: 3 against 4"),
        ({"r": Input("r", TensorType(f32, (1, 20, symbol("h"))))}, "must be a positive constant"),
        ({"r": Input("r", TensorType(f32, (20, 5)))}, "rank 3"),
        ({"initial_h": Input("h", TensorType(f32, (1, 4, 5)))}, "initial_h .* differ: 4 against 3"),
        ({"sequence_lens": Input("l", TensorType(f32, (3,)))}, "integers are needed"),
        ({"p": Input("p", TensorType(f32, (1, 10)))}, "p .* differ: 10 against 15"),
    ],
)
def test_infer_refuses(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(IrError, match=problem):
        dataclasses.replace(BASE, **changes)


def test_parameters_go_to_the_functions_that_have_them() -> None:
    resolve = recurrent.resolve_activations
    names = ("Tanh", "hardsigmoid", "LEAKYRELU", "Elu")
    assert resolve(names, (0.5, 0.25), (0.75,)) == (
        ("Tanh", "HardSigmoid", "LeakyRelu", "Elu"),
        (0.0, 0.5, 0.25, 1.0),
        (0.0, 0.75, 0.0, 0.0),
    )
    assert resolve(("Tanh",), (0.0,), ()) == (("Tanh",), (0.0,), (0.0,))
    with pytest.raises(ValueError, match="no activation function takes"):
        resolve(("Tanh",), (0.5,), ())
    with pytest.raises(ValueError, match="no value for Affine"):
        resolve(("Affine",), (), ())


# -- import -----------------------------------------------------------------------------------------------------------


def model(kind: str, opset: int, symbolic: bool = False, **attributes: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A model of one layer with 4 units, and an input for it."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    directions = 2 if attributes.get("direction") == BOTH else 1
    weights = {
        "w": normal("w", directions, gates * 4, 3),
        "r": normal("r", directions, gates * 4, 4),
        "b": normal("b", directions, 8 * gates),
    }
    shape = ["steps", "batch", 3] if symbolic else [5, 2, 3]
    given: dict[str, Any] = {"hidden_size": 4, **attributes}
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "w", "r", "b"], ["y", "y_h"], **given)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "y_h")],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return proto, {"x": normal("x", 5, 2, 3)}


@pytest.mark.parametrize(
    ("kind", "opset"), [("RNN", 7), ("RNN", 14), ("GRU", 7), ("GRU", 22), ("LSTM", 7), ("LSTM", 22)]
)
@pytest.mark.parametrize("direction", recurrent.DIRECTIONS)
def test_import_agrees_with_onnxruntime(kind: str, opset: int, direction: str) -> None:
    proto, feed = model(kind, opset, symbolic=True, direction=direction)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    have = evaluate_graph(load_onnx(proto), feed)
    for name, want in zip(("y", "y_h"), session.run(["y", "y_h"], feed), strict=True):
        np.testing.assert_allclose(have[name], np.asarray(want), rtol=1e-5, atol=1e-6)


def test_import_of_the_first_opset() -> None:
    proto, feed = model("GRU", 1, output_sequence=1)
    later, _ = model("GRU", 7)
    have, want = (evaluate_graph(load_onnx(p), feed) for p in (proto, later))
    np.testing.assert_array_equal(have["y"], want["y"])


@pytest.mark.parametrize(
    ("attributes", "error", "problem"),
    [
        ({"direction": "sideways"}, ModelError, "direction is 'sideways'"),
        ({"layout": 3}, ModelError, "layout is 3"),
        ({"activations": ["Sigmoid"]}, ModelError, "1 activations are named, 3 are needed"),
        ({"activations": ["Sigmoid", "Tanh", "Sin"]}, UnsupportedError, "activation 'Sin'"),
        ({"activation_alpha": [0.5]}, ModelError, "no activation function takes"),
        ({"hidden_size": 5}, ModelError, r"W is .* but the shape \[1, 20, 3\] is needed"),
    ],
)
def test_import_refuses(attributes: dict[str, Any], error: type[Exception], problem: str) -> None:
    proto, _ = model("LSTM", 14, **attributes)
    with pytest.raises(error, match=problem):
        load_onnx(proto)


def test_reference_of_the_examples_is_not_the_op_itself() -> None:
    case = CASES["lstm"]
    node = case.build(Input("x", TensorType(f32, (5, 3, 4))))
    wrong = dataclasses.replace(node, direction="reverse")
    x = case.arrays()["x"]
    assert not np.allclose(onnx_runtime(wrong, x)[0], onnx_runtime(node, x)[0])
