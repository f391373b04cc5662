"""Weights in half precision, arithmetic in f32: every kernel that reads them, and the rounding that makes them so."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ingot.compiler import ModelError, compile
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Constant, Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.rounding import round_weights
from ingot.compiler.lower.weight_forms import WeightForms, Weights, exact_type
from ingot.compiler.ops.control import If
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Gather
from ingot.compiler.ops.pointwise import Add, Cast
from ingot.compiler.ops.recurrent import GRU, LSTM
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import BY_NAME, bf16, boolean, f16, f32, i64

Array = np.ndarray[Any, Any]
MACHINE = find_target("cpu").machine
KEEP = WeightForms(weights="keep")
HALVES: tuple[Weights, ...] = ("f16", "bf16")
STEP = {"f16": 2.0**-11, "bf16": 2.0**-8}


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rounded(data: Array, name: Weights) -> Array:
    return data.astype(BY_NAME[name].to_numpy()).astype(np.float32)


def graph_of(value: Value, *inputs: Input) -> Graph:
    return Graph(inputs, (("y", value),))


def run(graph: Graph, feeds: dict[str, Array], **options: Any) -> Array:
    with compile(graph, jobs=1, **options).session(threads=1) as session:
        return session.run(feeds)["y"]


def stored(program: Program) -> set[str]:
    return {s.dtype.name for s in program.of_kind("weight")}


# -- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 130, 200), (2, 5, 16), (6, 64, 24), (19, 33, 40), (0, 3, 7)], ids=str)
def test_products(name: Weights, shape: tuple[int, int, int]) -> None:
    rows, depth, columns = shape
    x, w = Input("x", TensorType(f32, (rows, depth))), rounded(random(1, depth, columns), name)
    graph = graph_of(MatMul(x, constant(w)), x)
    program = lower(graph, MACHINE, forms=WeightForms(weights=name))
    assert stored(program) == {name}
    data = random(2, rows, depth)
    want = data.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_allclose(run(graph, {"x": data}, weights=name), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run_program(program, {"x": data})["y"], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["cpu", "native"])
def test_all_numbers_of_f16_are_widened_exactly(target: str) -> None:
    """Denormal numbers, infinities and NaNs too."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32).reshape(1, -1)
    assert exact_type(every) == f16
    x = Input("x", TensorType(f32, (1, 1)))
    graph = graph_of(MatMul(x, constant(every)), x)
    have = run(graph, {"x": np.ones((1, 1), np.float32)}, target=target)
    np.testing.assert_array_equal(have, every)


@pytest.mark.parametrize("name", HALVES)
def test_infinities_and_nans_of_weights(name: Weights) -> None:
    w = rounded(random(1, 8, 20), name)
    w[2, 3], w[4, 5], w[5, 5], w[6, 7] = np.inf, np.inf, -np.inf, np.nan
    x = Input("x", TensorType(f32, (3, 8)))
    graph = graph_of(MatMul(x, constant(w)), x)
    assert stored(lower(graph, MACHINE, forms=WeightForms(weights=name))) == {name}
    data = np.abs(random(2, 3, 8))
    with np.errstate(invalid="ignore"):
        want = data.astype(np.float64) @ w.astype(np.float64)
    assert np.isposinf(want[:, 3]).all() and np.isnan(want[:, [5, 7]]).all()
    np.testing.assert_allclose(run(graph, {"x": data}, weights=name), want, rtol=1e-5, atol=1e-5)


def test_batches_of_matrices() -> None:
    x, w = Input("x", TensorType(f32, (2, 3, 5, 7))), rounded(random(1, 3, 7, 19), "f16")
    graph = graph_of(MatMul(x, constant(w)), x)
    data = random(2, 2, 3, 5, 7)
    assert stored(lower(graph, MACHINE, forms=KEEP)) == {"f16"}
    want = data.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_allclose(run(graph, {"x": data}, weights="keep"), want, rtol=1e-5, atol=1e-5)


CONVOLUTIONS = {
    "pointwise": (33, 7, (1, 1), 1, True),
    "square": (24, 16, (3, 3), 1, True),
    "channels first": (5, 3, (3, 2), 1, False),
    "grouped": (12, 3, (3, 3), 4, True),
    "depthwise": (21, 1, (3, 3), 21, True),
}


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case: str, name: Weights) -> None:
    out, inner, taps, groups, last = CONVOLUTIONS[case]
    shape = (2, 9, 8, inner * groups) if last else (2, inner * groups, 9, 8)
    x, w = Input("x", TensorType(f32, shape)), rounded(random(1, out, inner, *taps), name)
    bias = constant(random(3, out))
    graph = graph_of(Conv(x, constant(w), bias, (1, 1), (1, 1, 1, 1), (1, 1), groups, last), x)
    program = lower(graph, MACHINE, forms=WeightForms("small", name))
    assert name in stored(program)
    feeds = {"x": random(2, *shape)}
    want = evaluate_graph(graph, feeds)["y"]
    np.testing.assert_allclose(run_program(program, feeds)["y"], want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run(graph, feeds, memory="small", weights=name), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", HALVES)
def test_tables(name: Weights) -> None:
    ids, table = Input("ids", TensorType(i64, (2, 3))), rounded(random(1, 100, 51), name)
    graph = graph_of(Gather(constant(table), ids, 0), ids)
    assert name in stored(lower(graph, MACHINE, forms=WeightForms(weights=name)))
    at = np.array([[0, -1, 99], [7, -100, 50]])
    np.testing.assert_array_equal(run(graph, {"ids": at}, weights=name), table[at])


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("layer", [LSTM, GRU])
def test_recurrent_layers(layer: Any, name: Weights) -> None:
    gates, hidden, depth = (4 if layer is LSTM else 3), 13, 6
    x = Input("x", TensorType(f32, (5, 2, depth)))
    w, r = (constant(rounded(random(s, 1, gates * hidden, n) / 4, name)) for s, n in ((1, depth), (2, hidden)))
    absent: dict[str, Any] = dict.fromkeys(("b", "sequence_lens", "initial_h", "clip"))
    if layer is LSTM:
        absent |= {"initial_c": None, "p": None, "input_forget": False}
        functions: tuple[str, ...] = ("Sigmoid", "Tanh", "Tanh")
    else:
        absent |= {"linear_before_reset": True}
        functions = ("Sigmoid", "Tanh")
    zeros = (0.0,) * len(functions)
    made = layer(
        x=x,
        w=w,
        r=r,
        activations=functions,
        activation_alpha=zeros,
        activation_beta=zeros,
        direction="forward",
        layout=0,
        **absent,
    )
    graph = graph_of(made.result(0), x)
    assert name in stored(lower(graph, MACHINE, forms=WeightForms(weights=name)))
    feeds = {"x": random(3, 5, 2, depth)}
    want = evaluate_graph(graph, feeds)["y"]
    np.testing.assert_allclose(run(graph, feeds, weights=name), want, rtol=1e-4, atol=1e-5)


# -- what lies narrow -------------------------------------------------------------------------------------------------


def test_matrices_of_half_precision_models_lie_narrow_and_give_the_same() -> None:
    x, w = Input("x", TensorType(f32, (8, 100))), rounded(random(1, 100, 96), "f16")
    graph = graph_of(MatMul(x, Cast(constant(w.astype(np.float16)), f32)), x)
    narrow, wide = compile(graph, jobs=1), compile(graph, jobs=1, weights="f32")
    assert wide.size - narrow.size > w.nbytes * 0.45
    feeds = {"x": random(2, 8, 100)}
    with narrow.session(threads=1) as a, wide.session(threads=1) as b:
        np.testing.assert_array_equal(a.run(feeds)["y"], b.run(feeds)["y"])


@pytest.mark.parametrize(("rows", "want"), [(31, {"f16"}), (32, {"f32"}), (symbol("n"), {"f32"})], ids=str)
def test_many_rows_are_multiplied_by_what_is_wide_already(rows: Dim, want: set[str]) -> None:
    x = Input("x", TensorType(f32, (rows, 64)))
    graph = graph_of(MatMul(x, constant(rounded(random(1, 64, 64), "f16"))), x)
    assert stored(lower(graph, MACHINE)) == want


@pytest.mark.parametrize(("weights", "want"), [("default", {"f32"}), ("f32", {"f32"}), ("keep", {"f16"})])
def test_small_matrices_are_left_alone_by_default(weights: Weights, want: set[str]) -> None:
    x = Input("x", TensorType(f32, (8, 10)))
    graph = graph_of(MatMul(x, constant(rounded(random(1, 10, 16), "f16"))), x)
    assert stored(lower(graph, MACHINE, forms=WeightForms(weights=weights))) == want


def test_exact_types() -> None:
    assert exact_type(random(1, 5, 7)) == f32
    assert exact_type(rounded(random(1, 5, 7), "f16").T) == f16
    assert exact_type(rounded(random(1, 5, 7), "bf16"), (bf16, f16)) == bf16
    assert exact_type(np.array([1.0, 1e30], np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)) == bf16
    assert exact_type(np.array([2.0**-24, 1023 * 2.0**-24, -0.0, 65504.0, np.inf], np.float32)) == f16
    for outside in (65520.0, 2.0**-25, 1 + 2.0**-11, 1.5 * 2.0**-24):
        assert exact_type(np.array([outside], np.float32)) != f16
    payload = np.array([0x7F800001], np.uint32).view(np.float32)  # a signalling NaN is changed by any conversion
    assert exact_type(payload) == f32
    assert exact_type(np.zeros((0, 4), np.float32)) == f16


# -- rounding ---------------------------------------------------------------------------------------------------------


def weights_of(graph: Graph) -> list[Array]:
    return [node.data for node in graph.nodes() if isinstance(node, Constant)]


@pytest.mark.parametrize("name", HALVES)
def test_rounding(name: Weights) -> None:
    x, w = Input("x", TensorType(f32, (3, 100))), random(1, 100, 60)
    w[0, :5] = [0.0, 1e-7, 2.0**-24, np.inf, np.nan]
    bias = random(2, 60)
    graph, error = round_weights(graph_of(Add(MatMul(x, constant(w)), constant(bias)), x), name)
    narrow = rounded(w, name)
    for data in weights_of(graph):
        np.testing.assert_array_equal(data, bias if data.ndim == 1 else narrow)
    finite = np.isfinite(w)
    most = np.abs(narrow[finite].astype(np.float64) - w[finite]).max() / np.abs(w[finite]).max()
    assert error == pytest.approx(most, rel=1e-6) and 0 < error <= STEP[name]


@pytest.mark.parametrize("name", HALVES)
def test_results_of_rounded_weights_are_within_the_bound(name: Weights) -> None:
    x, w = Input("x", TensorType(f32, (5, 96))), random(1, 96, 80)
    graph = graph_of(MatMul(x, constant(w)), x)
    artifact = compile(graph, jobs=1, weights=name)
    error = artifact.manifest.provenance["weights_error"]
    data = random(2, 5, 96)
    with artifact.session(threads=1) as session:
        have = session.run({"x": data})["y"]
    np.testing.assert_allclose(have, data.astype(np.float64) @ rounded(w, name).astype(np.float64), atol=2e-5)
    bound = np.abs(data.astype(np.float64)).sum(1, keepdims=True) * error * np.abs(w).max() + 2e-5
    assert (np.abs(have - data.astype(np.float64) @ w.astype(np.float64)) <= bound).all()


def test_passes_and_lowering_are_verified_on_their_own() -> None:
    """What rounding changes is no fault of a pass, nor of lowering."""
    x = Input("x", TensorType(f32, (3, 64)))
    graph = graph_of(MatMul(x, constant(random(1, 64, 64))), x)
    assert compile(graph, jobs=1, weights="bf16", verify=True).manifest.provenance["weights"] == "bf16"


def test_what_f16_cannot_hold_is_refused() -> None:
    x, w = Input("x", TensorType(f32, (1, 64))), random(1, 64, 64)
    w[3, 4] = -70000
    graph = graph_of(MatMul(x, constant(w, origin=("layer.weight",))), x)
    with pytest.raises(ModelError, match=r"layer\.weight\) reach 70000, which f16 cannot hold; store weights as bf16"):
        compile(graph, weights="f16")
    assert round_weights(graph, "bf16")[1] <= STEP["bf16"]


def test_tables_stay_one_with_their_transpose() -> None:
    ids, table = Input("ids", TensorType(i64, (4,))), random(1, 91, 64)
    graph = graph_of(MatMul(Gather(constant(table), ids, 0), constant(table.T)), ids)
    program = lower(round_weights(graph, "f16")[0], MACHINE, forms=WeightForms("small", "f16"))
    weights = [s.data.nbytes for s in program.of_kind("weight") if s.data is not None]
    assert table.nbytes / 2 <= sum(weights) <= table.nbytes / 2 * 65 / 64 + 8 * 64


def test_branches_are_rounded_too() -> None:
    x, c = Input("x", TensorType(f32, (2, 64))), Input("c", TensorType(boolean, ()))
    inner = [Input("x", TensorType(f32, (2, 64))) for _ in range(2)]
    graphs = [graph_of(MatMul(v, constant(random(s, 64, 64))), v) for s, v in enumerate(inner)]
    graph = graph_of(If(c, (x,), graphs[0], graphs[1], ()), x, c)
    made, _ = round_weights(graph, "f16")
    branch = next(node for node in made.nodes() if isinstance(node, If))
    for seed, body in enumerate((branch.then_graph, branch.else_graph)):
        np.testing.assert_array_equal(weights_of(body)[0], rounded(random(seed, 64, 64), "f16"))
