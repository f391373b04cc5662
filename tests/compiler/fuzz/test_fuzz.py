"""A slice of the fuzzer: its models are valid and the same for a seed, and Ingot agrees with the oracles on some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmarks.fuzz.campaign import examine, has_special
from benchmarks.fuzz.double import as_double, data_as_double
from benchmarks.fuzz.generate import generate
from benchmarks.fuzz.oracles import DiscardedError, RefusedError

from ingot.compiler import compile, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.validate import compare


def test_models_are_valid_and_many_kinds() -> None:
    kinds: set[str] = set()
    for seed in range(150):
        sample = generate(seed)
        onnx.checker.check_model(sample.model, full_check=True)
        assert {i.name for i in sample.model.graph.input} == set(sample.data)
        kinds |= {node.op_type for node in sample.model.graph.node}
    assert len(kinds) > 90


def test_the_seed_decides() -> None:
    for seed in (3, 17):
        one, two = generate(seed), generate(seed)
        assert one.model.SerializeToString(deterministic=True) == two.model.SerializeToString(deterministic=True)
        assert all(np.array_equal(one.data[name], two.data[name], equal_nan=True) for name in one.data)


def test_double_precision_is_the_same_function() -> None:
    for seed in (5, 9, 31):
        sample = generate(seed)
        if sample.special:
            continue
        narrow = evaluate_graph(load_onnx(sample.model), sample.data)
        wide = evaluate_graph(load_onnx(as_double(sample.model)), data_as_double(sample.data))
        for name, array in narrow.items():
            if array.dtype.kind == "f":
                np.testing.assert_allclose(array, wide[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(200, 210))
def test_agreement(seed: int, tmp_path: Path) -> None:
    sample = generate(seed, 7)
    path = tmp_path / "model.onnx"
    onnx.save(sample.model, path)
    np.savez(path.with_suffix(".npz"), allow_pickle=False, **sample.data)
    try:
        examine(path)
    except (RefusedError, DiscardedError) as reason:
        pytest.skip(str(reason))
    assert has_special(sample.data) or not sample.special


# What the fuzzer found, reduced.
FOUND = {
    "slices read backwards are not joined": """m (float[3] x) => (float[8] y)
        <int64[1] low = {-1}, int64[1] high = {-9}, int64[1] axis = {0}, int64[1] step = {-2}>
        { a = Slice (x, low, high, axis, step)  y = Concat <axis = 0> (a, x, x) }""",
    "a row value beside a reduced axis of extent 1": """m (float[1, 2] x) => (uint8 y, uint8[1, 2] z)
        { z, s, y = DynamicQuantizeLinear (x) }""",
    "one column, turned": """m (float[2, 3, 2] x, float[2] w) => (float[3, 2] y)
        { a = MatMul (x, w)  y = Transpose (a) }""",
    "one column of weights, turned": """m (float[2, 3, 2] x) => (float[3, 2] y) <float[2] w = {0.5, -2}>
        { a = MatMul (x, w)  y = Transpose (a) }""",
    "a backward slice that starts before the front": """m (float[1, 3] x) => (float[1, 3] y)
        <int64[1] low = {-2}, int64[1] high = {-2}, int64[1] axis = {0}, int64[1] step = {-1}>
        { y = Slice (x, low, high, axis, step) }""",
    "celu of a scalar": "m (float x) => (float y) { y = Celu <alpha = 0.5> (x) }",
    "elu keeps its digits near zero": "m (double[3, 4] x) => (double[3, 4] y) { y = Selu (x) }",
}


@pytest.mark.parametrize("name", FOUND)
def test_found_and_mended(name: str) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {FOUND[name]}')
    graph = load_onnx(model)
    rng = np.random.default_rng(0)
    data = {i.label: (rng.standard_normal(i.shape) * 1e-4).astype(i.dtype.to_numpy()) for i in graph.inputs}
    with compile(graph, jobs=1).session(threads=1) as session:
        difference = compare(evaluate_graph(graph, data), session.run(data), {"f32": 1e-5, "f64": 1e-12})
    assert difference is None, str(difference)
