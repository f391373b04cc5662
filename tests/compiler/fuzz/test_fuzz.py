"""A slice of the fuzzer: its models are valid and the same for a seed, and Ingot agrees with the oracles on some."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmarks.fuzz import oracles
from benchmarks.fuzz.build import numpy_type
from benchmarks.fuzz.campaign import examine, has_special, inputs_of
from benchmarks.fuzz.coverage import count, report, supported
from benchmarks.fuzz.detours import DETOURS
from benchmarks.fuzz.double import as_double, data_as_double
from benchmarks.fuzz.generate import generate
from benchmarks.fuzz.oracles import (
    FOREIGN,
    DetourMismatchError,
    DiscardedError,
    RefusedError,
    reference,
    require_stable,
)
from onnx.reference import ReferenceEvaluator

from ingot.compiler import compile, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.validate import Difference, compare
from ingot.runtime.errors import RuntimeFault


def test_models_are_valid_and_hold_every_operator() -> None:
    """`generate` runs onnx.checker. What needs a locale or pictures is not drawn."""
    samples = [generate(seed, 40) for seed in range(900)]
    for sample in samples:
        assert {i.name for i in sample.model.graph.input} == set(sample.data)
    found = count(samples)
    assert supported() - {"StringNormalizer", "ImageDecoder"} <= set(found["operators"])
    assert len(found["opsets"]) == onnx.defs.onnx_opset_version() - 12
    assert len(found["features"]) == 10 and len(found["element types"]) > 15
    assert "never" in report(found)


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


def agreed(seeds: range, folder: Path) -> int:
    """How many models agree; the others must be refused, or ill-conditioned."""
    path, count = folder / "model.onnx", 0
    for seed in seeds:
        sample = generate(seed)
        onnx.save(sample.model, path)
        np.savez(path.with_suffix(".npz"), allow_pickle=False, **sample.data)
        with suppress(RefusedError, DiscardedError):
            examine(path)
            count += 1
    return count


@pytest.mark.parametrize("first", range(200, 260, 10))
def test_agreement(first: int, tmp_path: Path) -> None:
    assert agreed(range(first, first + 10), tmp_path) >= 8


def test_windows_in_f64_are_right_to_the_digits_of_f32(tmp_path: Path) -> None:
    """A model with a HannWindow of f64, which ONNX's own definition computes in f32."""
    assert agreed(range(4080345, 4080346), tmp_path) == 1


def test_every_detour_comes_back(tmp_path: Path) -> None:
    """Each makes another graph of some models, which computes the same."""
    path, passed = tmp_path / "model.onnx", set[str]()
    for seed in (31, 33, 34, 36, 44, 52):
        sample = generate(seed)
        onnx.save(sample.model, path)
        graph = load_onnx(path)
        with np.errstate(all="ignore"):
            wanted = evaluate_graph(graph, sample.data)
            for detour in DETOURS:
                back = detour(path, graph, np.random.default_rng(seed))
                if back is not None:
                    assert back is not graph
                    assert compare(wanted, evaluate_graph(back, sample.data), FOREIGN) is None
                    passed.add(detour.__name__)
    assert passed == {detour.__name__ for detour in DETOURS}


def test_a_detour_that_changes_the_model_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the detour: here all of them lead to another model."""
    path = tmp_path / "model.onnx"
    texts = [f"m (float[n, 3] x) => (float[n, 3] y) {{ y = {op} (x) }}" for op in ("Relu", "Neg")]
    models = [onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {text}') for text in texts]
    onnx.save(models[0], path)
    np.savez(path.with_suffix(".npz"), allow_pickle=False, x=np.ones((2, 3), np.float32))
    examine(path)
    elsewhere = load_onnx(models[1])
    monkeypatch.setattr(oracles, "DETOURS", (lambda path, graph, rng: elsewhere,))
    with pytest.raises(DetourMismatchError):
        examine(path)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 12_000, 100))
def test_agreement_of_many(first: int, tmp_path: Path) -> None:
    assert agreed(range(first, first + 100), tmp_path) >= 90


def test_special_numbers_are_seen() -> None:
    samples = [generate(seed) for seed in range(100)]
    assert any(has_special(sample.data) for sample in samples)
    assert all(sample.special or not has_special(sample.data) for sample in samples)


def test_inputs_keep_types_that_numpy_lacks(tmp_path: Path) -> None:
    """In numpy's files bfloat16 has no name: the model says what the bytes are."""
    text = "m (bfloat16[3] x, bfloat16[3] y) => (bool[3] z) { z = GreaterOrEqual (x, y) }"
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {text}'), path)
    data = {name: np.array(row, numpy_type("bfloat16")) for name, row in (("x", [1, 2, np.nan]), ("y", [1, 3, 0]))}
    np.savez(path.with_suffix(".npz"), allow_pickle=False, **data)
    found = inputs_of(path)
    assert all(found[name].dtype == array.dtype for name, array in data.items())
    assert has_special(found) and not has_special({"y": found["y"]})
    examine(path)


def test_a_rounding_to_few_digits_decides_about_more() -> None:
    """What lies halfway between floats of 8 bits, but for rounding, is no failure."""
    text = """m (float16[1] a, float16[1] b) => (float[1] y) {
        mean = Mean (a, b)  z = Cast <to = 19> (mean)  to = Constant <value_ints = [-1]> ()
        r = Reshape (z, to)  y = Cast <to = 1> (r)
    }"""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 24]> {text}')
    halfway = {"a": np.array([1.126], np.float16), "b": np.array([1.126], np.float16)}
    with pytest.raises(DiscardedError):
        require_stable(model, halfway, Difference("y", 0.2, 0.001, "differs"))


def test_elements_in_the_order_of_their_places_have_no_reference() -> None:
    """onnx.reference sorts them where they are the only result."""
    text = '''<ir_version: 10, opset_import: ["" : 21]> g (float[3] x) => (float[n] y) { y = Unique<sorted = 0>(x) }'''
    x = {"x": np.array([1, 2, 0], np.float32)}
    assert reference(onnx.parser.parse_model(text), x) == {}
    found = reference(onnx.parser.parse_model(text.replace("<sorted = 0>", "")), x)
    np.testing.assert_array_equal(found["y"], [0, 1, 2])


def test_a_wrong_shape_inside_is_no_reference() -> None:
    """onnx.reference reduces the channels with the places of a signal: the sum after it has the right shape."""
    text = "m (float[2, 3, 4] x) => (float y) { a = GlobalMaxPool (x)  y = ReduceSum <keepdims = 0> (a) }"
    model, x = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {text}'), np.ones((2, 3, 4), "f4")
    assert ReferenceEvaluator(model).run(None, {"x": x}) == [2]
    assert not reference(model, {"x": x})
    rightly = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {text.replace("4]", "4, 1]")}')
    assert reference(rightly, {"x": x[..., None]})["y"] == 6


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
    "attention over no keys": """m (float[2, 3, 4] q, float[2, 0, 4] k, float[2, 0, 5] v) => (float[2, 3, 5] y)
        { t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)  w = Softmax <axis = -1> (s)  y = MatMul (w, v) }""",
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


def test_attention_over_no_keys_of_an_open_axis() -> None:
    text = """m (float[2, 3, 4] q, float[2, T, 4] k, float[2, T, 5] v) => (float[2, 3, 5] y)
        { t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)  w = Softmax <axis = -1> (s)  y = MatMul (w, v) }"""
    rng = np.random.default_rng(1)
    with compile(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}')).session() as session:
        for length in (0, 3, 0):
            shapes = {"q": (2, 3, 4), "k": (2, length, 4), "v": (2, length, 5)}
            data = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
            scores = np.exp(data["q"].astype(np.float64) @ data["k"].astype(np.float64).swapaxes(1, 2))
            weights = scores / scores.sum(-1, keepdims=True) if length else scores
            np.testing.assert_allclose(session.run(data)["y"], weights @ data["v"], rtol=1e-5, atol=1e-6)


def test_gelu_of_infinities() -> None:
    """By the formula, -inf times 0."""
    text = "m (float[4] x) => (float[4] y) { y = Gelu (x) }"
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> {text}')
    data = {"x": np.array([-np.inf, np.inf, np.nan, -50], np.float32)}
    with compile(model).session() as session:
        for y in (session.run(data)["y"], evaluate_graph(load_onnx(model), data)["y"]):
            np.testing.assert_array_equal(y, [np.nan, np.inf, np.nan, 0])


def test_weights_of_n_grams_go_by_the_pool() -> None:
    """ONNX: the i-th weight is that of the i-th n-gram in the pool, whatever its column."""
    for mode, times in (("IDF", [1, 1, 0]), ("TFIDF", [2, 1, 0])):
        node = onnx.helper.make_node(
            "TfIdfVectorizer", ["x"], ["y"], mode=mode, min_gram_length=1, max_gram_length=1, max_skip_count=0,
            ngram_counts=[0], ngram_indexes=[2, 0, 1], pool_int64s=[7, 8, 9], weights=[0.5, 3.0, 10.0],
        )  # fmt: skip
        ends = (onnx.TensorProto.INT64, [4]), (onnx.TensorProto.FLOAT, [3])
        x, y = (onnx.helper.make_tensor_value_info(n, *end) for n, end in zip("xy", ends, strict=True))
        graph = onnx.helper.make_graph([node], "m", [x], [y])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
        seven, eight, nine = times
        with compile(model).session() as session:
            have = session.run({"x": np.array([7, 8, 7, 1])})["y"]
        np.testing.assert_allclose(have, [3.0 * eight, 10.0 * nine, 0.5 * seven])


def test_a_multiple_is_asked_for_only_as_far_as_it_must_be() -> None:
    """33 * n elements are 22 rows for every even n."""
    text = "m (float[n, 33] x) => (float[22, ?] y) <int64[2] to = {22, -1}> { y = Reshape (x, to) }"
    with compile(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}')).session() as session:
        for n in (2, 6):
            x = np.arange(33 * n, dtype=np.float32).reshape(n, 33)
            np.testing.assert_array_equal(session.run({"x": x})["y"], x.reshape(22, -1))


def test_an_open_axis_stays_where_data_ask_for_1() -> None:
    text = "m (float[n, 4, 1] x, int64[4] to) => (float[?, ?, ?, ?] y) { y = Expand (x, to) }"
    with compile(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}')).session() as session:
        for n, to in ((3, (2, 1, 1, 5)), (3, (1, 3, 4, 1)), (0, (2, 1, 4, 2)), (1, (1, 1, 4, 2))):
            x = np.arange(4 * n, dtype=np.float32).reshape(n, 4, 1)
            wanted = x * np.ones(to, np.float32)
            np.testing.assert_array_equal(session.run({"x": x, "to": np.array(to)})["y"], wanted, strict=True)
        with pytest.raises(RuntimeFault, match="must be n or 1"):
            session.run({"x": np.zeros((3, 4, 1), np.float32), "to": np.array((1, 2, 4, 1))})
