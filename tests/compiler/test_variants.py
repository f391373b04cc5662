"""Models compiled for some of their shapes besides all others, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from ingot.compiler import compile
from ingot.compiler.api import compile_library
from ingot.compiler.cache import open_cache
from ingot.compiler.cache.fingerprint import Fingerprint
from ingot.compiler.cache.programs import program_key
from ingot.compiler.environment import Environment
from ingot.compiler.frontend import load_onnx
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.ir.graph import Graph
from ingot.compiler.lower.lowering import lower, lower_interface
from ingot.compiler.lower.machine import AVX2
from ingot.compiler.lower.variants import interface_of
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.request import Request
from ingot.compiler.targets.errors import TargetError
from ingot.compiler.variants import Case, read_variants, require_same_interface
from ingot.runtime import InputError, RuntimeFault, Session
from ingot.runtime.variants import choose

Arrays = dict[str, NDArray[Any]]
RNG = np.random.default_rng(5)


def weight(*shape: int) -> NDArray[Any]:
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


def parsed(text: str, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    made: onnx.ModelProto = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}')
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return made


def tokens() -> onnx.ModelProto:
    """Attention-like: products over the sequence, a softmax over it, sums that empty sequences have too."""
    text = """
    net (float[batch, seq, 8] x) => (float[batch, seq, 8] y, float[batch, 8] total) {
      q = MatMul(x, wq)
      k = MatMul(x, wk)
      kt = Transpose<perm = [0, 2, 1]>(k)
      scores = MatMul(q, kt)
      p = Softmax<axis = -1>(scores)
      mixed = MatMul(p, x)
      y = Add(mixed, bias)
      total = ReduceSum<keepdims = 0>(y, one)
    }"""
    return parsed(text, {"wq": weight(8, 8), "wk": weight(8, 8), "bias": weight(8), "one": np.array([1])})


def images() -> onnx.ModelProto:
    text = """
    net (float[batch, 3, height, width] image) => (float[batch, 4, h, w] y) {
      a = Conv<pads = [1, 1, 1, 1]>(image, w0, b0)
      b = Relu(a)
      c = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(b, w1)
      y = MaxPool<kernel_shape = [2, 2], strides = [1, 1], pads = [0, 0, 1, 1]>(c)
    }"""
    return parsed(text, {"w0": weight(8, 3, 3, 3), "b0": weight(8), "w1": weight(4, 8, 3, 3)})


def check(made: onnx.ModelProto, session: Any, feeds: Iterable[Arrays]) -> None:
    reference = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in reference.get_outputs()]
    for feed in feeds:
        wanted: list[Any] = list(reference.run(names, feed))
        for _ in range(3):
            found = session.run(feed)
            for name, want in zip(names, wanted, strict=True):
                assert found[name].dtype == want.dtype and found[name].shape == want.shape
                np.testing.assert_allclose(found[name], want, rtol=1e-5, atol=1e-5, err_msg=f"{name} {feed}")


def feeds(name: str, shapes: Iterable[Sequence[int]]) -> Iterable[Arrays]:
    for shape in shapes:
        yield {name: np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)}


TOKEN_CASES: list[Case] = [
    {"batch": 1, "seq": 4},
    {"batch": 1},
    {"seq": (3, 5)},
    {"batch": 0},
    {"batch": (2, 4), "seq": (0, 4)},
]


def test_all_shapes_of_tokens() -> None:
    made = tokens()
    ranges = {"batch": (0, 5), "seq": (0, 6)}
    artifact = compile(made, specialise=TOKEN_CASES, ranges=ranges, jobs=1)
    assert [v.name for v in artifact.manifest.variants] == [
        "batch=1, seq=4",
        "batch=1",
        "batch=0",
        "batch=2..4, seq=0..4",
        "seq=3..5",
    ]
    assert choose(artifact.manifest, ((1, 4, 8),)) == 1 and choose(artifact.manifest, ((5, 6, 8),)) == 0
    with artifact.session(threads=2) as session:
        check(made, session, feeds("x", [(b, s, 8) for b in range(6) for s in range(7)]))
        for shape, dim in (((6, 1, 8), "batch must be in 0 to 5"), ((1, 7, 8), "seq must be in 0 to 6")):
            with pytest.raises(InputError, match=dim):
                session.run({"x": np.zeros(shape, np.float32)})


def test_all_shapes_of_images(tmp_path: Path) -> None:
    made = images()
    cases: list[Case] = [{"batch": 1, "height": 8, "width": 8}, {"height": (1, 8)}, {"batch": 0}]
    path = tmp_path / "images.ingot"
    compile(made, specialise=cases, ranges={"batch": (0, 8)}, jobs=1).save(path)
    shapes = [(b, 3, h, w) for b in (0, 1, 2, 8) for h, w in ((8, 8), (7, 9), (1, 1), (9, 8))]
    with Session(path, threads=2) as session:
        check(made, session, feeds("image", shapes))


def test_weights_are_shared_and_there_once() -> None:
    made = tokens()
    plain = compile(made, target="null")
    several = compile(made, target="null", specialise=[{"batch": 1}, {"batch": 2}, {"batch": (3, 4)}])
    assert several.weights_bytes == plain.weights_bytes


def test_small_programs_share_a_matrix_whatever_the_rows() -> None:
    text = "net (float[rows, 24] x) => (float[rows, 48] y) { y = MatMul(x, w) }"
    made, cases = parsed(text, {"w": weight(24, 48)}), [{"rows": 1}, {"rows": 100}]
    fast, small = (compile(made, target="null", specialise=cases, memory=memory) for memory in ("fast", "small"))
    assert small.weights_bytes == 24 * 48 * 4 < fast.weights_bytes


def test_only_the_shapes_asked_for() -> None:
    made = tokens()
    cases: list[Case] = [{"batch": 1}, {"batch": (3, 4)}]
    with compile(made, specialise=cases, ranges={"seq": (1, 9)}, general=False, jobs=1).session() as session:
        assert session.inputs[0].shape == ("batch", "seq", 8)
        check(made, session, feeds("x", [(b, s, 8) for b in (1, 3, 4) for s in (1, 9)]))
        for batch in (0, 2, 5):
            with pytest.raises(InputError, match=r"these alone: batch=1; batch=3\.\.4"):
                session.run({"x": np.zeros((batch, 2, 8), np.float32)})
        with pytest.raises(InputError, match="seq must be in 1 to 9"):
            session.run({"x": np.zeros((2, 10, 8), np.float32)})


@pytest.mark.parametrize("with_sizes", [False, True])
def test_what_describes_a_model_is_what_its_program_says_of_itself(with_sizes: bool) -> None:
    text = "net (float[n] x) => (int64[1, m] y) { y = NonZero (x) }"
    graph = default_pipeline().run(load_onnx(parsed(text, {}) if with_sizes else tokens()))
    machine = AVX2
    wanted, found = interface_of(lower(graph, machine)), lower_interface(graph, machine)
    sides = [[(s.name, s.kind, s.dtype, s.type) for s in each.storages] for each in (wanted, found)]
    assert sides[0] == sides[1] and (wanted.ranges, wanted.strings) == (found.ranges, found.strings)
    assert wanted.bound() == found.bound() and bool(found.steps) == with_sizes and not list(found.launches())


def test_a_shape_that_copies_an_empty_axis() -> None:
    """An extent of 0 stays symbolic, so that [0, -1] means what it means in the general program."""
    made = parsed("net (float[n, 2, 3] x) => (float[n, 6] y) { y = Reshape(x, to) }", {"to": np.array([0, -1])})
    with compile(made, target="interpreter", specialise=[{"n": 0}, {"n": 1}]).session() as session:
        for n in (0, 1, 2):
            assert session.run({"x": np.zeros((n, 2, 3), np.float32)})["y"].shape == (n, 6)


def nonzero() -> onnx.ModelProto:
    text = """
    net (float[n] x) => (int64[r, found] y, float[found] z) {
      y = NonZero(x)
      f = Cast<to = 1>(y)
      z = Squeeze(f, zero)
    }"""
    return parsed(text, {"zero": np.array([0])})


@pytest.mark.parametrize("general", [True, False])
def test_sizes_from_data(general: bool) -> None:
    made = nonzero()
    artifact = compile(made, specialise=[{"n": 5}, {"n": (8, 9)}], general=general, jobs=1)
    shapes = [(n,) for n in (0, 5, 6, 8, 9, 5)]
    given = [feed for feed in feeds("x", shapes) if general or feed["x"].size in (5, 8, 9)]
    for feed in given:
        feed["x"][::2] = 0
    with artifact.session() as session:
        check(made, session, [*given, *given])


def test_faults_are_those_of_the_program_that_ran() -> None:
    made = parsed("net (int64[n] i) => (float[n] y) { y = Gather(table, i) }", {"table": weight(4)})
    with compile(made, specialise=[{"n": 2}], jobs=1).session() as session:
        for n in (1, 2, 3):
            session.run({"i": np.zeros(n, np.int64)})
            with pytest.raises(RuntimeFault, match="index"):
                session.run({"i": np.full(n, 9)})


def test_checked_builds() -> None:
    made = parsed("net (float[n, 4] x) => (float[n, 3] y) { y = MatMul(x, w) }", {"w": weight(4, 3)})
    with compile(made, specialise=[{"n": 1}, {"n": (2, 3)}], checked=True, jobs=1).session() as session:
        check(made, session, feeds("x", [(n, 4) for n in (0, 1, 2, 4)]))


def test_other_targets() -> None:
    made = tokens()
    cases: list[Case] = [{"batch": 1}, {"batch": (2, 3)}]
    shapes = [(b, 2, 8) for b in (0, 1, 2, 4)]
    check(made, compile(made, target="interpreter", specialise=cases).session(), feeds("x", shapes))
    outline = compile(made, target="null", specialise=cases)
    record = outline.record({"batch": 1, "seq": 3})
    assert [each["name"] for each in record["variants"]] == ["batch=1", "batch=2..3"] and not record["closed"]
    assert all(each["launches"] for each in record["variants"])
    closed = compile(made, target="interpreter", specialise=cases, general=False).session()
    with pytest.raises(InputError, match="these alone"):
        closed.run({"x": np.zeros((4, 2, 8), np.float32)})
    with pytest.raises(TargetError, match="holds one program"):
        compile_library(made, specialise=cases)


@pytest.mark.parametrize(
    ("cases", "problem"),
    [
        ([{}], "no dict of dims"),
        ([["batch"]], "no dict of dims"),
        ([{"batch": "1"}], "the dim 'batch' the value '1'"),
        ([{"batch": True}], "the value True"),
        ([{"batch": -1}], "the value -1"),
        ([{"batch": (3, 2)}], r"the value \(3, 2\)"),
        ([{"batch": (1, 2, 3)}], r"the value \(1, 2, 3\)"),
        ([{"batch": 2}, {"batch": (2, 2)}], "batch=2 is asked for twice"),
        ([{"batch": 9}], r"batch=9 lies outside of the range of batch, 0\.\.8"),
        ([{"batch": (0, 9)}], r"batch=0\.\.9 lies outside"),
        ([{"seq": n} for n in range(65)], "65 variants are asked for; 64 are the most"),
        ([{"nothing": 1}], "'nothing', which no input has"),
    ],
)
def test_bad_cases(cases: Any, problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        compile(tokens(), target="null", specialise=cases, ranges={"batch": (0, 8)})


def test_more_that_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing to compile"):
        compile(tokens(), general=False)
    with pytest.raises(ModelError, match="give the ONNX model"):
        compile(load_onnx(tokens()), specialise=[{"batch": 1}])


def test_variants_have_the_interface_of_the_model() -> None:
    def graph(text: str) -> Graph:
        return load_onnx(parsed(text, {"zero": np.array([0])}))

    general = graph("net (float[n, 3] x) => (float[n, 3] y) { y = Neg(x) }")
    require_same_interface(general, graph("net (float[1, 3] x) => (float[1, 3] y) { y = Neg(x) }"), "n=1")
    with pytest.raises(ModelError, match=r"output 'y' is f32\[3\] with n=1, and f32\[n, 3\] otherwise"):
        require_same_interface(general, graph("net (float[1, 3] x) => (float[3] y) { y = Squeeze(x, zero) }"), "n=1")
    with pytest.raises(ModelError, match="with n=1 the model has other outputs"):
        require_same_interface(general, graph("net (float[1, 3] x) => (float[1, 3] z) { z = Neg(x) }"), "n=1")


def test_fewest_shapes_come_first() -> None:
    ranges = {"batch": (1, 32)}
    cases: list[Case] = [
        {"seq": (1, 64)},
        {"batch": 2},
        {"batch": 1, "seq": 8},
        {"batch": (1, 8), "seq": 8},
        {"seq": 8},
    ]
    assert [v.name for v in read_variants(cases, ranges)] == [
        "batch=1, seq=8",
        "batch=1..8, seq=8",
        "seq=8",
        "seq=1..64",
        "batch=2",
    ]


def test_cache_keys_tell_variants_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fingerprint, "is_loaded", lambda self: True)  # though somebody may just have edited sources
    cache = open_cache(Environment(cache=tmp_path), print)
    assert cache is not None
    data = tokens().SerializeToString()
    asked: list[dict[str, Any]] = [
        {},
        {"specialise": [{"batch": 1}]},
        {"specialise": [{"batch": 1}], "general": False},
        {"specialise": [{"batch": 1}, {"batch": 2}]},
        {"ranges": {"batch": (1, 1)}},
    ]
    keys = [program_key(cache, Request(data, "cpu", **options)) for options in asked]
    assert None not in keys and len(set(keys)) == len(keys)
    again = Request(data, "cpu", specialise=[{"batch": (1, 1)}, {"batch": 2}])
    assert program_key(cache, again) == keys[3]
