"""Random operators: their distributions, what is the same from run to run, session and thread, and what is not."""

from __future__ import annotations

import os
from math import erf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from ingot.compiler import ModelError, compile, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.runtime import Session

MANY = 40_000


def model_of(text: str, opset: int = 22) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, Path]:
    """Every operator once, compiled."""
    model = model_of("""g (float[n] x, float[2, classes] logs, bool training) => (
        float[n] uniform, float[n] normal, float[n] seeded, float[n] again, float[n] kept, bool[n] mask,
        float[n] coins, int64[2, 20000] classes_drawn, double[4001] wide, double[4001] wide_normal,
        float16[4001] half)
    {
        uniform = RandomUniformLike <low = -1.0, high = 3.0> (x)
        normal = RandomNormalLike <mean = 1.0, scale = 2.0> (x)
        seeded = RandomNormalLike <seed = 3.0> (x)
        again = RandomNormalLike <seed = 3.0> (x)
        ratio = Constant <value_float = 0.25> ()
        kept, mask = Dropout (x, ratio, training)
        coins = Bernoulli (x)
        classes_drawn = Multinomial <sample_size = 20000, dtype = 7> (logs)
        wide = RandomUniform <shape = [4001], dtype = 11> ()
        wide_normal = RandomNormal <shape = [4001], dtype = 11> ()
        half = RandomUniform <shape = [4001], dtype = 10> ()
    }""")
    path = tmp_path_factory.mktemp("random") / "everything.ingot"
    compile(model, cache=False).save(path)
    return model, path


def inputs(count: int = MANY, training: bool = True) -> dict[str, Any]:
    logs = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]], np.float32))
    return {"x": np.full(count, 0.3, np.float32), "logs": logs, "training": np.array(training)}


def distance(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Kolmogorov and Smirnov's: the largest difference of the distribution functions, times the root of the number;
    beyond 1.95 in one case of a thousand. `wanted` is the true one at the sorted elements."""
    count = len(found)
    steps = np.arange(count + 1) / count
    return float(max(np.abs(wanted - steps[:-1]).max(), np.abs(wanted - steps[1:]).max()) * sqrt(count))


def normal_distribution(x: NDArray[Any]) -> NDArray[Any]:
    return np.array([0.5 * (1 + erf(each / sqrt(2))) for each in x])


def test_distributions(everything: tuple[onnx.ModelProto, Path]) -> None:
    with Session(everything[1], seed=12) as session:
        found = session.run(inputs())
    x = np.sort(found["uniform"].astype(np.float64))
    assert x[0] >= -1 and x[-1] <= 3 and distance(x, (x + 1) / 4) < 1.95
    for name, mean, scale in (("normal", 1, 2), ("seeded", 0, 1), ("wide_normal", 0, 1)):
        x = np.sort((found[name].astype(np.float64) - mean) / scale)
        assert distance(x, normal_distribution(x)) < 1.95
        assert abs(x.mean()) < 4 / sqrt(len(x)) and abs((x**2).mean() - 1) < 8 / sqrt(len(x))
        assert abs((x**4).mean() - 3) < 40 / sqrt(len(x))
    for name in ("wide", "half"):
        x = np.sort(found[name].astype(np.float64))
        assert x[0] >= 0 and x[-1] < 1 and distance(x, x) < (1.95 if name == "wide" else 2.5)  # of f16: steps
    assert found["wide"].dtype == np.float64 and len(np.unique(found["wide"])) == 4001
    assert abs(found["coins"].mean() - 0.3) < 4 * sqrt(0.21 / MANY) and set(found["coins"]) == {0.0, 1.0}
    for row, shares in zip(found["classes_drawn"], ([0.1, 0.2, 0.7], [0.5, 0.25, 0.25]), strict=True):
        counts = np.bincount(row, minlength=3)
        chi = float(((counts - 20000 * np.array(shares)) ** 2 / (20000 * np.array(shares))).sum())
        assert chi < 13.8, "beyond in one case of a thousand"


def test_neighbours_do_not_depend_on_each_other(everything: tuple[onnx.ModelProto, Path]) -> None:
    with Session(everything[1], seed=12) as session:
        found = session.run(inputs())
        later = session.run(inputs())
    names = ("uniform", "normal", "seeded")
    quarter = MANY // 4  # four words of a block lie so far apart
    for name in names:
        x = found[name] - found[name].mean()
        for lag in (1, 2, quarter, 2 * quarter):
            assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 4 / sqrt(MANY - lag)
        assert abs(np.corrcoef(x, later[name])[0, 1]) < 4 / sqrt(MANY)
    assert abs(np.corrcoef(found["uniform"], found["normal"])[0, 1]) < 4 / sqrt(MANY)


def test_sessions_and_threads(everything: tuple[onnx.ModelProto, Path]) -> None:
    path = everything[1]
    with Session(path, seed=5) as one, Session(path, seed=5, threads=1) as same, Session(path) as other:
        for count in (MANY, MANY, 7, MANY):
            found, equal, different = (s.run(inputs(count)) for s in (one, same, other))
            for name, array in found.items():
                assert np.array_equal(array, equal[name]), name
            assert not np.array_equal(found["uniform"], different["uniform"])
            assert np.array_equal(found["seeded"], different["seeded"]), "the seed in the model decides"
            assert np.array_equal(found["seeded"], found["again"])


def test_runs_go_on(everything: tuple[onnx.ModelProto, Path]) -> None:
    with Session(everything[1], seed=5) as session:
        runs = [session.run(inputs(64)) for _ in range(5)]
        bound = {name: np.empty_like(array) for name, array in runs[0].items()}
        call = session.bind(inputs(64), bound)
        for _ in range(2):
            call()
            runs.append({name: array.copy() for name, array in bound.items()})
    for name in ("uniform", "seeded", "wide_normal"):
        assert len({each[name].tobytes() for each in runs}) == len(runs), name


def test_meaning(everything: tuple[onnx.ModelProto, Path]) -> None:
    """The reference evaluates the first run of a session with seed 0."""
    expected = evaluate_graph(load_onnx(everything[0]), inputs(33))
    with Session(everything[1], seed=0) as session:
        found = session.run(inputs(33))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name].astype(float), array.astype(float), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_children_of_fork(everything: tuple[onnx.ModelProto, Path]) -> None:
    """A child goes on with numbers of its own, unless a seed says which."""
    for seed, differs in ((None, True), (3, False)):
        with Session(everything[1], seed=seed, threads=1) as session:
            session.run(inputs(8))
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(writer, session.run(inputs(8))["uniform"].tobytes())
                os._exit(0)
            theirs = os.read(reader, 32)
            assert os.waitpid(child, 0)[1] == 0
            for end in (reader, writer):
                os.close(end)
            assert (session.run(inputs(8))["uniform"].tobytes() != theirs) is differs


def test_interpreter() -> None:
    """The interpreter's sessions count runs as those of artifacts do."""
    text = "g (float[n] x) => (float[n] y, float[n] z) { y = RandomUniformLike (x) z = RandomNormalLike (x) }"
    model = model_of(text)
    given = {"x": np.zeros(9, np.float32)}
    slow, fast = compile(model, target="interpreter"), compile(model, cache=False)
    with slow.session(seed=5) as one, fast.session(seed=5) as other:
        for _ in range(2):
            found, expected = one.run(given), other.run(given)
            np.testing.assert_array_equal(found["y"], expected["y"])
            np.testing.assert_allclose(found["z"], expected["z"], rtol=1e-5, atol=1e-5)


def test_dropout(everything: tuple[onnx.ModelProto, Path]) -> None:
    with Session(everything[1], seed=1) as session:
        found, off = session.run(inputs()), session.run(inputs(training=False))
    assert abs(found["mask"].mean() - 0.75) < 4 * sqrt(0.1875 / MANY)
    np.testing.assert_allclose(found["kept"], np.where(found["mask"], np.float32(0.4), 0), rtol=1e-6)
    assert off["mask"].all() and (off["kept"] == np.float32(0.3)).all()


@pytest.mark.parametrize(
    ("opset", "text"),
    [
        (6, "g (float[4, 5000] x) => (float[4, 5000] y) { y = Dropout <ratio = 0.4> (x) }"),
        (12, """g (float[4, 5000] x) => (float[4, 5000] y) <bool on = {1}, float r = {0.4}>
            { y = Dropout <seed = 7> (x, r, on) }"""),
    ],
)  # fmt: skip
def test_dropout_of_versions(opset: int, text: str) -> None:
    y = evaluate_graph(load_onnx(model_of(text, opset)), {"x": np.ones((4, 5000), np.float32)})["y"]
    assert abs((y == 0).mean() - 0.4) < 4 * sqrt(0.24 / 20000)
    np.testing.assert_allclose(y[y != 0], 1 / 0.6, rtol=1e-6)


def test_inference_draws_nothing() -> None:
    for opset, text in (
        (6, "g (float[4] x) => (float[4] y) { y = Dropout <is_test = 1> (x) }"),
        (7, "g (float[4] x) => (float[4] y) { y = Dropout <ratio = 0.4> (x) }"),
        (22, "g (float[4] x) => (float[4] y) { y = Dropout (x) }"),
    ):
        assert not any(node.name in ("random_bits", "entropy") for node in load_onnx(model_of(text, opset)).nodes())


def test_loops_draw_anew(tmp_path: Path) -> None:
    model = model_of("""g (int64 trips, float[n] x) => (float[k, n] rows, float[k, n] seeded)
    {
        on = Constant <value = bool {1}> ()
        rows, seeded = Loop (trips, on) <body = b (int64 i, bool c) => (bool d, float[n] r, float[n] s)
            { d = Identity (c) r = RandomUniformLike (x) s = RandomNormalLike <seed = 5.0> (x) }>
    }""")
    path = tmp_path / "loop.ingot"
    compile(model, cache=False).save(path)
    given = {"trips": np.array(4), "x": np.zeros(6, np.float32)}
    with Session(path, seed=1) as one, Session(path, seed=2) as other:
        found, different = one.run(given), other.run(given)
    for name in ("rows", "seeded"):
        assert len(np.unique(found[name])) == 24
    assert np.array_equal(found["seeded"], different["seeded"]) and not np.array_equal(found["rows"], different["rows"])


def test_loops_in_loops_and_branches() -> None:
    """Every iteration of every loop has numbers of its own, and so has a branch."""
    model = model_of("""g (int64 trips, float[n] x) => (float[k, 2, n] all)
    {
        on = Constant <value = bool {1}> ()
        two = Constant <value_int = 2> ()
        all = Loop (trips, on) <body = b (int64 i, bool c) => (bool d, float[2, n] rows)
        {
            d = Identity (c)
            rows = Loop (two, on) <body = b2 (int64 j, bool e) => (bool f, float[n] r)
            {
                f = Identity (e)
                first = Equal (j, two)
                r = If (first) <
                    then_branch = t () => (float[n] p) { p = RandomUniformLike (x) },
                    else_branch = q () => (float[n] s) { s = RandomUniformLike <seed = 4.0> (x) }>
            }>
        }>
    }""")
    found = evaluate_graph(load_onnx(model), {"trips": np.array(3), "x": np.zeros(5, np.float32)})["all"]
    assert found.shape == (3, 2, 5) and len(np.unique(found)) == 30


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_edge_sizes(everything: tuple[onnx.ModelProto, Path], count: int) -> None:
    with Session(everything[1], seed=1) as session:
        found = session.run(inputs(count))
    assert found["normal"].shape == found["mask"].shape == (count,)
    assert np.isfinite(found["normal"]).all()


@pytest.mark.parametrize("shape", [(3, 0), (2, 3), ()])
def test_shapes(shape: tuple[int, ...]) -> None:
    model = model_of("g (float[] x) => (float[] y) { y = RandomNormalLike (x) }")
    graph = load_onnx(model, shapes={"x": shape})
    assert evaluate_graph(graph, {"x": np.zeros(shape, np.float32)})["y"].shape == shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g () => (int64[2] y) { y = RandomNormal <shape = [2], dtype = 7> () }", "float type"),
        ("g () => (float[2] y) { y = RandomUniform <shape = [-2]> () }", "negative extent"),
        ("g (float[3] x) => (int32[3, 1] y) { y = Multinomial (x) }", "a matrix"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_onnx(model_of(text))
