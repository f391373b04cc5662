"""Custom operators over arrays, from the graph to native code: against the Python function and numpy."""

# pyright: reportMissingParameterType=false
# The operators are written as their authors write them.

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.compiler import Artifact, CustomOpError, compile, custom_op
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.execute import ExecutionError, run_program
from ingot.compiler.ir.graph import Array, Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.routines import RoutineCall
from ingot.compiler.ir.text.loops import parse_kernel, show_kernel
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.movement import Concat, Transpose
from ingot.compiler.ops.pointwise import Add, Mul, Relu
from ingot.compiler.targets.cpu.compiled_routines import called_routines, compile_routines
from ingot.compiler.targets.cpu.features import level
from ingot.compiler.targets.registry import find_target
from ingot.runtime import RuntimeFault, Session
from ingot.runtime.dtypes import boolean, f16, f32, f64, i8, i64

TABLE = np.array([0.5, 2.0, 8.0], np.float32)


def decay(distance: float) -> float:
    """A function of the user's that the operator calls."""
    return math.exp(-distance)


@custom_op(
    "test::Smooth",
    form="loops",
    infer=lambda x, bias=None: (x, TensorType(i64, x.shape[:1])),
    parallel=("x", "y", "best"),
)
def smooth(x, bias, y, best, *, scale: float = 1.0, weights: tuple[float, ...] = (1.0, 0.5), mode: str = "add"):
    """Rows weighted by their distance from the largest element, which is the first of those that are as large."""
    for row in range(x.shape[0]):
        at = 0
        for j in range(x.shape[1]):
            if x[row, j] > x[row, at]:
                at = j
        best[row] = at
        for j in range(x.shape[1]):
            total = 0.0
            for w in weights:
                total = total * 0.25 + w * x[row, j] * TABLE[j % 3]
            if bias is not None:
                if mode == "add":
                    total += bias[j]
                else:
                    total *= bias[j]
            y[row, j] = total * decay(abs(j - at) * scale)


def expected_smooth(x: Array, bias: Array | None, scale: float, mode: str = "add") -> tuple[Array, Array]:
    """The same in numpy."""
    at = x.argmax(1) if len(x) else np.zeros(0, np.int64)
    j = np.arange(x.shape[1])
    total = (x * TABLE[j % 3] * (1.0 * 0.25 + 0.5)).astype(np.float64)
    if bias is not None:
        total = total + bias if mode == "add" else total * bias
    return total * np.exp(-np.abs(j - at[:, None]) * scale), at


def graph_of(results: Mapping[str, Value], *inputs: Input) -> Graph:
    return Graph(inputs, tuple(results.items()), "custom")


def lowered(graph: Graph) -> Program:
    program = lower(graph, find_target("cpu").machine)
    verify_program(program)
    return program


def session(artifact: Artifact, folder: Path, threads: int = 1) -> Session:
    path = folder / "model.ingot"
    artifact.save(path)
    return Session(path, threads=threads)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """The operator with and without its optional operand, between others."""
    x = Input("x", TensorType(f32, (symbol("n"), 17)))
    bias = Input("bias", TensorType(f32, (17,)))
    y, best = smooth(Relu(x), bias, scale=0.5)
    z, _ = smooth(x, mode="mul")
    w, _ = smooth(x, Mul(bias, bias), mode="mul")
    return compile(graph_of({"y": y, "best": best, "z": Relu(z), "w": w}, x, bias), cache=False)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [0, 1, 7, 1500])
def test_native(artifact: Artifact, tmp_path: Path, n: int, threads: int) -> None:
    """Any number of rows, cut for one thread or two; NaN is never the largest, unless it comes first."""
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, 17)).astype(np.float32)
    bias = rng.standard_normal(17).astype(np.float32)
    have = session(artifact, tmp_path, threads).run({"x": x, "bias": bias})
    y, best = expected_smooth(np.maximum(x, 0), bias, 0.5)
    np.testing.assert_allclose(have["y"], y, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(have["best"], best)
    np.testing.assert_allclose(have["z"], np.maximum(expected_smooth(x, None, 1.0)[0], 0), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(have["w"], expected_smooth(x, bias * bias, 1.0, "mul")[0], rtol=2e-5, atol=1e-6)


def test_special_values(artifact: Artifact, tmp_path: Path) -> None:
    x = np.zeros((2, 17), np.float32)
    x[0, 3], x[1, 4], x[1, 5] = np.nan, np.inf, 1
    have = session(artifact, tmp_path).run({"x": x, "bias": np.zeros(17, np.float32)})
    assert np.isnan(have["w"][0, 3]) and np.isnan(have["w"][1, 4])  # 0 * NaN, 0 * inf
    assert np.isinf(have["y"][1, 4]) and have["best"].tolist() == [0, 4]


@custom_op("test::Strings", form="loops", infer=lambda x: x)
def same_for_all(x, y, *, flag: bool = True, n: int = 3):
    """Views, reductions, a condition on constants."""
    for i in range(x.shape[0]):
        row = x[i]
        top = row[0]
        out = y[i]
        for v in row:
            top = max(top, v)
        for j in range(row.size):
            out[j] = row[j] - top if flag else row.sum() * n


@custom_op("test::Collatz", form="loops", infer=lambda x: TensorType(i64, x.shape), parallel=("x", "steps"))
def collatz(x, steps):
    for i in range(x.shape[0]):
        value, count = x[i], 0
        while value > 1 and count < 1000:
            value = value // 2 if value % 2 == 0 else 3 * value + 1
            count += 1
        steps[i] = count


def total_types(x: TensorType, scale: TensorType) -> tuple[TensorType, TensorType]:
    return TensorType(f64, ()), TensorType(boolean, (x.shape[0], 2))


@custom_op("test::Total", form="loops", infer=total_types)
def total(x, scale, y, flags):
    s = 0.0
    for i in range(x.shape[0]):
        s += x[i] * scale[()]
        flags[i, 0] = x[i] > 0
        flags[i, 1] = not flags[i, 0]
    y[()] = s


@custom_op("test::Checked", form="loops", infer=lambda x, at: TensorType(x.dtype, at.shape), checked=True)
def pick(x, at, y):
    for i in range(at.shape[0]):
        if x[at[i]] > 100:
            raise ValueError("too large")
        y[i] = x[at[i]]


@pytest.fixture(scope="module")
def several() -> tuple[Graph, Artifact]:
    n = symbol("n")
    x = Input("x", TensorType(f32, (n, 4)))
    k = Input("k", TensorType(i64, (n,)))
    v, scale = Input("v", TensorType(i8, (n,))), Input("scale", TensorType(f64, ()))
    s, flags = total(v, scale)
    results = {
        "a": same_for_all(Transpose(Transpose(x, (1, 0)), (1, 0))),
        "b": same_for_all(Transpose(x, (1, 0)), flag=False, n=2),
        "c": collatz(k),
        "s": s,
        "flags": flags,
        "p": pick(constant(np.array([1, 2, 101, 4], np.float32)), k),
    }
    graph = graph_of(results, x, k, v, scale)
    return graph, compile(graph, cache=False)


def several_inputs(n: int) -> dict[str, Array]:
    rng = np.random.default_rng(n)
    return {
        "x": rng.standard_normal((n, 4)).astype(np.float32),
        "k": np.array([0, 1, 3, 1, 3][:n], np.int64),
        "v": rng.integers(-128, 128, n).astype(np.int8),
        "scale": np.array(0.5),
    }


@pytest.mark.parametrize("n", [1, 2, 5])
def test_same_on_every_executor(several: tuple[Graph, Artifact], tmp_path: Path, n: int) -> None:
    """The graph, the program interpreted, native code; integers, bools, ranks 0 and 2, operands that are views."""
    graph, artifact = several
    feed = several_inputs(n)
    want = evaluate_graph(graph, feed)
    np.testing.assert_array_equal(want["c"], [0, 0, 7, 0, 7][:n])
    np.testing.assert_allclose(want["a"], feed["x"] - feed["x"].max(1, keepdims=True))
    np.testing.assert_allclose(want["s"], feed["v"].astype(np.float64).sum() / 2)
    for have in (run_program(lowered(graph), feed), session(artifact, tmp_path).run(feed)):
        for name, array in want.items():
            assert have[name].dtype == array.dtype and have[name].shape == array.shape, name
            np.testing.assert_allclose(have[name], array, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("index", [2, 4, -5])
def test_exceptions_are_faults(several: tuple[Graph, Artifact], tmp_path: Path, index: int) -> None:
    """One that the function raises, and an index out of range where indices are checked. The session goes on."""
    graph, artifact = several
    feed = several_inputs(3)
    running = session(artifact, tmp_path)
    bad = {**feed, "k": np.array([0, index, 0], np.int64)}
    with pytest.raises(RuntimeFault, match="test::Checked reports an error"):
        running.run(bad)
    with pytest.raises(ExecutionError, match="test::Checked reports an error"):
        run_program(lowered(graph), bad)
    running.run(feed)


def test_placements(tmp_path: Path) -> None:
    """Results wanted with a border, or inside a concatenation, arrive there."""

    def double(x, y):
        for n in range(x.shape[0]):
            for c in range(x.shape[1]):
                for h in range(x.shape[2]):
                    for w in range(x.shape[3]):
                        y[n, c, h, w] = 2 * x[n, c, h, w]

    twice = custom_op("test::Double", form="loops", infer=lambda x: x, parallel=("x", "y"))(double)
    rng = np.random.default_rng(0)
    x = Input("x", TensorType(f32, (symbol("n"), 3, 5, 6)))
    w = constant(rng.standard_normal((4, 3, 3, 3)).astype(np.float32))
    made = twice(x)
    conv = Conv(made, w, None, (1, 1), (1, 1, 1, 1), (1, 1), 1, False)
    graph = graph_of({"conv": conv, "cat": Concat((Relu(x), twice(made), x), 1), "both": twice(Add(x, x))}, x)
    feed = {"x": rng.standard_normal((2, 3, 5, 6)).astype(np.float32)}
    want = evaluate_graph(graph, feed)
    have = session(compile(graph, cache=False), tmp_path, threads=2).run(feed)
    for name, array in want.items():
        np.testing.assert_allclose(have[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def test_never_in_place() -> None:
    """What the function reads after it has written does not change under it: no result takes an operand's storage."""

    def reverse(x, y):
        for i in range(x.shape[0]):
            y[i] = x[x.shape[0] - 1 - i]

    flip = custom_op("test::Reverse", form="loops", infer=lambda x: x)(reverse)
    x = Input("x", TensorType(f32, (6,)))
    program = lowered(graph_of({"y": Relu(flip(flip(Relu(x))))}, x))
    for launch in program.launches():
        if isinstance(launch.kernel.body, RoutineCall):
            assert len({argument.storage for argument in launch.buffers}) == len(launch.buffers)
    feed = {"x": np.arange(6, dtype=np.float32)}
    np.testing.assert_array_equal(run_program(program, feed)["y"], feed["x"])


def test_kernels_have_a_text_form_and_travel() -> None:
    """Without the function, which neither text nor another process has."""
    x = Input("x", TensorType(f32, (symbol("n"), 3)))
    program = lowered(graph_of({"y": smooth(x, scale=2.0)[0]}, x))
    kernel = next(launch.kernel for launch in program.launches())
    assert "template routinecall(" in show_kernel(kernel) and "scale=2.0" in show_kernel(kernel)
    for again in (parse_kernel(show_kernel(kernel)), pickle.loads(pickle.dumps(kernel))):
        assert again == kernel and show_kernel(again) == show_kernel(kernel)
        assert isinstance(again.body, RoutineCall)
        with pytest.raises(ValueError, match="is a Python function, which is not part of"):
            _ = again.body.routine.source


# -- what is refused --------------------------------------------------------------------------------------------------


def makes_list(x, y):
    items = [1.0]
    for i in range(x.shape[0]):
        items.append(x[i])
    y[0] = len(items)


def makes_array(x, y):
    y[0] = np.zeros(x.shape[0])[0]


def prints(x, y):
    print(x[0])
    y[0] = 0


def formats(x, y):
    raise ValueError("it is", x[0])


def factorial(n: int) -> int:
    return n * factorial(n - 1) if n > 1 else 1


def recursive(x, y):
    y[0] = factorial(3)


def returns(x, y):
    y[0] = 1
    return 3


def calls_gamma(x, y):
    y[0] = math.gamma(x[0])


def writes_operand(x, y):
    x[0] = 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (makes_list, "memory of its own"),
        (makes_array, "memory of its own"),
        (prints, "Python objects"),
        (formats, "an exception made at run time"),
        (recursive, "'factorial' calls itself"),
        (returns, "returns a value"),
        (calls_gamma, "it calls numba_gammaf, which an artifact does not have"),
        (writes_operand, "it writes into an operand, which it may only read"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_functions_refused(function: Callable[..., Any], message: str) -> None:
    operator = custom_op("test::Bad", form="loops", infer=lambda x: x)(function)
    x = Input("x", TensorType(f32, (4,)))
    with pytest.raises(CustomOpError, match=f"test::Bad.*{message}"):
        compile(graph_of({"y": operator(x)}, x), cache=False)


def test_half_precision_refused() -> None:
    x = Input("x", TensorType(f16, (3, 4)))
    program = lowered(graph_of({"y": smooth(x)[0]}, x))
    with pytest.raises(CustomOpError, match="arrays of f16 cannot be compiled: cast them in the model"):
        compile_routines(called_routines(program), level("x86-64-v3"))


def test_two_operators_of_one_name() -> None:
    first = custom_op("test::Same", form="loops", infer=lambda x: x)(makes_array)
    second = custom_op("test::Same", form="loops", infer=lambda x: x)(prints)
    x = Input("x", TensorType(f32, (4,)))
    program = lowered(graph_of({"y": first(x), "z": second(x)}, x))
    with pytest.raises(CustomOpError, match="two custom operators are called test::Same"):
        compile_routines(called_routines(program), level("x86-64-v3"))


def test_same_bytes_every_time() -> None:
    """An artifact depends on what it is made of alone."""
    x = Input("x", TensorType(f32, (symbol("n"), 3)))
    graph = graph_of({"y": smooth(x)[0]}, x)
    made = [compile_routines(called_routines(lowered(graph)), level("x86-64-v3")) for _ in range(2)]
    assert made[0] == made[1]




def test_spelling() -> None:
    assert repr(smooth) == "<custom operator test::Smooth, loops>" and smooth.spelling == "custom.test.Smooth"
