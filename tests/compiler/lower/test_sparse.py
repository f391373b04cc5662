"""Products with sparse weights: chosen where they pay, right at every density, shape and level, and deterministic."""

from __future__ import annotations

from math import erf
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ingot.compiler import compile, default_pipeline, load_onnx
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.sparse import BlockTranspose, SparseProduct, SparseVector
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.ir.text.program import parse_program, show_program
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.machine import AVX2, NEON, Machine
from ingot.compiler.lower.schedules import ANALYTICAL, Decision, Schedule, Schedules
from ingot.compiler.lower.sparsity import Sparse
from ingot.compiler.lower.weight_forms import WeightForms
from ingot.compiler.targets.cpu import features

Floats = NDArray[np.float32]


def sparse_matrix(depth: int, columns: int, density: float, together: int = 1) -> Floats:
    """Elements whose visits of `together` columns are there with this probability."""
    random = np.random.default_rng(depth + columns)
    kept = np.repeat(random.random((depth, -(-columns // together))) < density, together, 1)[:, :columns]
    return (random.standard_normal((depth, columns)) / np.sqrt(depth) * kept).astype(np.float32)


def linear(
    rows: int | str, depth: int, columns: int, density: float = 0.2, together: int = 1, tail: str = ""
) -> ModelProto:
    """y = tail(x @ w + bias) for a tail of "", "Gelu", "Relu" or "residual"."""
    weights = {
        "w": sparse_matrix(depth, columns, density, together),
        "bias": np.random.default_rng(columns).standard_normal(columns).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "bias"], ["s" if tail else "y"]),
    ]
    if tail == "residual":
        nodes.append(helper.make_node("Add", ["s", "x"], ["y"]))
    elif tail:
        nodes.append(helper.make_node(tail, ["s"], ["y"]))
    return model_of(nodes, {"x": [rows, depth]}, {"y": [rows, columns]}, weights)


def model_of(
    nodes: list[Any], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], weights: dict[str, Floats]
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "sparse",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(data, name) for name, data in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def expected(model: ModelProto, x: Floats, tail: str = "") -> NDArray[np.float64]:
    w, bias = (numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer)
    y = x.astype(np.float64) @ w + bias
    if tail == "Gelu":
        return 0.5 * y * (1 + np.vectorize(erf, otypes=[float])(y / np.sqrt(2)))
    if tail == "Relu":
        return np.maximum(y, 0)
    return y + x if tail == "residual" else y


def data(*shape: int) -> Floats:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def lowered(
    model: ModelProto,
    machine: Machine = AVX2,
    *,
    sparse: Sparse = "auto",
    reorder: bool = True,
    schedules: Schedules = ANALYTICAL,
    forms: WeightForms | None = None,
) -> Program:
    graph = default_pipeline().run(load_onnx(model))
    return lower(graph, machine, sparse=sparse, reorder=reorder, forms=forms or WeightForms(), schedules=schedules)


def bodies(program: Program) -> list[type]:
    return [type(launch.kernel.body) for launch in program.launches()]


def close(found: Floats, wanted: NDArray[np.float64]) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max(initial=0) <= 2e-6 * max(1.0, np.abs(wanted).max(initial=0))


def test_it_is_chosen_where_it_pays() -> None:
    assert SparseProduct in bodies(lowered(linear(128, 256, 512, 0.1)))
    assert SparseProduct in bodies(lowered(linear(128, 256, 512, 0.3, 4)))
    assert SparseProduct not in bodies(lowered(linear(128, 256, 512, 0.7)))
    assert SparseProduct not in bodies(lowered(linear(128, 256, 512, 1.0)))
    assert SparseProduct in bodies(lowered(linear(128, 256, 512, 0.7), sparse="on"))
    assert SparseProduct not in bodies(lowered(linear(128, 256, 512, 1.0), sparse="on"))
    assert SparseProduct not in bodies(lowered(linear(128, 256, 512, 0.1), sparse="off"))
    assert SparseProduct not in bodies(lowered(linear(128, 256, 512, 0.1), reorder=False))
    assert SparseProduct in bodies(lowered(linear(128, 256, 512, 0.1), NEON))


def test_blocks_of_columns_are_visited_together() -> None:
    for together, machine in ((1, AVX2), (4, AVX2), (4, NEON)):
        (template,) = (
            launch.kernel.body
            for launch in lowered(linear(128, 256, 512, 0.1, together), machine).launches()
            if isinstance(launch.kernel.body, SparseProduct)
        )
        assert (template.together > 1) == (together > 1)


def test_small_programs_take_it_where_it_is_no_larger() -> None:
    forms = WeightForms("small")
    assert SparseProduct in bodies(lowered(linear(128, 256, 512, 0.1), forms=forms))
    dense, sparse = lowered(linear(128, 256, 512, 0.45), sparse="off", forms=forms), lowered(
        linear(128, 256, 512, 0.4), sparse="on", forms=forms
    )

    def size(program: Program) -> int:
        return sum(storage.data.nbytes for storage in program.of_kind("weight") if storage.data is not None)

    assert size(sparse) <= size(dense)
    assert SparseProduct not in bodies(lowered(linear(128, 256, 512, 0.5), sparse="on", forms=forms))


@pytest.mark.parametrize(("rows", "columns", "together"), [(16, 48, 1), (19, 37, 4)])
def test_its_meaning_and_its_text(rows: int, columns: int, together: int) -> None:
    model = linear(rows, 40, columns, 0.3, together)
    program = lowered(model, sparse="on")
    assert {SparseProduct, BlockTranspose} <= set(bodies(program))
    resources: dict[str, Any] = {}
    text = show_program(program, resources)
    assert show_program(parse_program(text, resources)) == text
    verify_program(program)
    x = data(rows, 40)
    (name,) = (s.name for s in program.of_kind("input"))
    (found,) = run_program(program, {name: x}).values()
    close(found, expected(model, x))


@pytest.mark.parametrize("target", ["x86-64-v3", "native"])
@pytest.mark.parametrize(
    ("rows", "depth", "columns", "density", "together", "tail"),
    [
        (128, 256, 512, 0.1, 1, ""),
        (128, 96, 512, 0.2, 4, "Gelu"),
        (64, 128, 128, 0.3, 2, "residual"),
        (33, 70, 50, 0.3, 1, "Gelu"),
        (130, 500, 65, 0.05, 1, "Relu"),
        (17, 33, 1, 0.3, 1, "Relu"),
        (2, 64, 100, 0.2, 1, "Relu"),
        (7, 2, 40, 0.5, 4, ""),
        (40, 100, 300, 0.0, 1, "Relu"),  # no element at all
        (40, 100, 300, 0.79, 1, ""),
    ],
)
def test_native(
    target: str, rows: int, depth: int, columns: int, density: float, together: int, tail: str
) -> None:
    model = linear(rows, depth, columns, density, together, tail)
    assert SparseProduct in bodies(lowered(model, sparse="on"))
    x = data(rows, depth)
    artifact = compile(model, target=target, cache=False, sparse="on")
    found = [artifact.session(threads=threads).run({"x": x})["y"] for threads in (1, 2)]
    close(found[0], expected(model, x, tail))
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("target", ["x86-64-v3", "native"])
@pytest.mark.parametrize(
    ("depth", "columns", "density", "tail"),
    [
        (768, 512, 0.1, ""),
        (70, 50, 0.3, "Gelu"),
        (32, 1, 0.4, "Relu"),
        (33, 100, 0.79, "Relu"),
        (500, 37, 0.0, ""),
        (64, 64, 0.2, "residual"),
    ],
)
def test_one_row(target: str, depth: int, columns: int, density: float, tail: str) -> None:
    model = linear(1, depth, columns, density, 1, tail)
    machine = features.machine(features.level(target))
    assert SparseVector in bodies(lowered(model, machine, sparse="on"))
    x = data(1, depth)
    artifact = compile(model, target=target, cache=False, sparse="on")
    found = [artifact.session(threads=threads).run({"x": x})["y"] for threads in (1, 2)]
    close(found[0], expected(model, x, tail))
    np.testing.assert_array_equal(found[0], found[1])


def test_one_row_by_its_meaning_and_checked() -> None:
    model = linear(1, 45, 19, 0.3, tail="Relu")
    program = lowered(model, sparse="on")
    assert bodies(program) == [SparseVector]
    resources: dict[str, Any] = {}
    text = show_program(program, resources)
    assert show_program(parse_program(text, resources)) == text
    verify_program(program)
    x = data(1, 45)
    (found,) = run_program(program, {"x": x}).values()
    close(found, expected(model, x, "Relu"))
    artifact = compile(model, cache=False, sparse="on", checked=True)
    close(artifact.session(threads=1).run({"x": x})["y"], expected(model, x, "Relu"))
    assert SparseVector not in bodies(lowered(model, NEON, sparse="on"))
    assert SparseVector in bodies(lowered(linear(1, 512, 512, 0.1)))
    assert SparseVector not in bodies(lowered(linear(1, 512, 512, 0.7)))


@pytest.mark.parametrize(("columns", "tail"), [(64, ""), (40, "Gelu")])
def test_rows_that_are_known_at_run_time(columns: int, tail: str) -> None:
    model = linear("n", 96, columns, 0.2, tail=tail)
    with compile(model, target="native", cache=False, sparse="on").session(threads=2) as session:
        for rows in (0, 1, 16, 17, 33, 63, 64, 65, 127, 130):
            x = data(rows, 96)
            close(session.run({"x": x})["y"], expected(model, x, tail))


def test_rows_of_several_axes_that_lie_apart() -> None:
    """The second and third axes are transposed by the product's input, and by its result."""
    w = sparse_matrix(32, 24, 0.3)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("MatMul", ["t", "w"], ["p"]),
        helper.make_node("Transpose", ["p"], ["y"], perm=[1, 0, 2, 3]),
    ]
    model = model_of(nodes, {"x": [2, 5, 3, 32]}, {"y": [3, 2, 5, 24]}, {"w": w})
    program = lowered(model, sparse="on")
    assert SparseProduct in bodies(program)
    x = data(2, 5, 3, 32)
    found = compile(model, target="native", cache=False, sparse="on").session(threads=1).run({"x": x})["y"]
    close(found, (x.astype(np.float64) @ w).transpose(2, 0, 1, 3))


@pytest.mark.parametrize("rows", [1, 33])
def test_what_is_not_finite_reaches_the_columns_with_an_element_for_it(rows: int) -> None:
    model = linear(rows, 64, 96, 0.2)
    w = numpy_helper.to_array(model.graph.initializer[0])
    x = data(rows, 64)
    x[rows // 3, 3], x[-1, 60] = np.nan, np.inf
    for target in ("x86-64-v3", "native"):
        found = compile(model, target=target, cache=False, sparse="on").session(threads=1).run({"x": x})["y"]
        reached = np.zeros(found.shape, bool)
        reached[rows // 3] |= w[3] != 0
        reached[-1] |= w[60] != 0
        np.testing.assert_array_equal(np.isfinite(found), ~reached)
        finite = np.where(np.isfinite(x), x, 0)
        close(np.where(reached, 0, found), np.where(reached, 0, expected(model, finite)))
    strict = compile(model, target="native", cache=False, numerics="strict").session(threads=1).run({"x": x})["y"]
    np.testing.assert_array_equal(
        np.isfinite(strict).all(1), [row not in (rows // 3, rows - 1) for row in range(rows)]
    )


def test_weights_that_are_not_finite() -> None:
    model = linear(5, 16, 20, 0.3)
    w = numpy_helper.to_array(model.graph.initializer[0]).copy()
    w[3, 7] = np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    x = np.abs(data(5, 16)) + 1
    found = compile(model, target="native", cache=False, sparse="on").session(threads=1).run({"x": x})["y"]
    assert np.isposinf(found[:, 7]).all() and np.isfinite(np.delete(found, 7, 1)).all()


@pytest.mark.parametrize(("strides", "size", "channels"), [([1, 1], 7, 48), ([2, 2], 9, 20), ([1, 1], 1, 64)])
@pytest.mark.parametrize("residual", [False, True])
def test_convolutions_of_one_tap(strides: list[int], size: int, channels: int, residual: bool) -> None:
    out = (size - 1) // strides[0] + 1
    w = sparse_matrix(channels, 40, 0.2).T.reshape(40, channels, 1, 1)
    bias = data(40)
    nodes = [helper.make_node("Conv", ["x", "w", "bias"], ["p"], strides=strides)]
    nodes += [helper.make_node("Add", ["p", "r"], ["s"])] if residual else []
    nodes.append(helper.make_node("Relu", ["s" if residual else "p"], ["y"]))
    inputs: dict[str, list[Any]] = {"x": [2, channels, size, size]}
    inputs |= {"r": [2, 40, out, out]} if residual else {}
    model = model_of(nodes, inputs, {"y": [2, 40, out, out]}, {"w": np.ascontiguousarray(w), "bias": bias})
    assert SparseProduct in bodies(lowered(model, sparse="on"))
    feed = {name: data(*shape) for name, shape in inputs.items()}
    found = compile(model, target="native", cache=False, sparse="on").session(threads=1).run(feed)["y"]
    x = feed["x"][:, :, :: strides[0], :: strides[1]].astype(np.float64)
    wanted = np.einsum("bchw,oc->bohw", x, w[:, :, 0, 0].astype(np.float64)) + bias[:, None, None]
    close(found, np.maximum(wanted + feed.get("r", np.zeros(1)), 0))


@pytest.mark.parametrize("target", ["x86-64-v3", "native"])
@pytest.mark.parametrize(
    ("size", "channels", "attributes"),
    [
        ((14, 14), 24, {"pads": [1, 1, 1, 1]}),
        ((7, 9), 17, {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ((6, 20), 16, {"pads": [2, 0, 1, 3], "strides": [1, 2], "dilations": [1, 2]}),
        ((8, 35), 3, {"strides": [3, 1], "dilations": [2, 1]}),
        ((3, 3), 5, {}),
    ],
)
def test_convolutions(target: str, size: tuple[int, int], channels: int, attributes: dict[str, Any]) -> None:
    w = np.ascontiguousarray(sparse_matrix(9 * channels, 20, 0.2).T).reshape(20, channels, 3, 3)
    nodes = [helper.make_node("Conv", ["x", "w", "bias"], ["c"], **attributes), helper.make_node("Relu", ["c"], ["y"])]
    model = model_of(nodes, {"x": ["n", channels, *size]}, {"y": ["n", 20, "h", "w"]}, {"w": w, "bias": data(20)})
    assert SparseProduct in bodies(lowered(model, sparse="on"))
    reference = ReferenceEvaluator(model)
    artifact = compile(model, target=target, cache=False, sparse="on")
    for images in (1, 3):
        x = data(images, channels, *size)
        found = [artifact.session(threads=threads).run({"x": x})["y"] for threads in (1, 2)]
        (wanted,) = cast(list[Any], reference.run(None, {"x": x}))
        close(found[0], wanted.astype(np.float64))
        np.testing.assert_array_equal(found[0], found[1])


def test_a_convolution_between_others_and_its_meaning() -> None:
    """The first writes the border that the second, sparse one reads; the interpreter reads what vectors do not."""
    first = np.ascontiguousarray(sparse_matrix(27, 16, 1.0).T).reshape(16, 3, 3, 3)
    second = np.ascontiguousarray(sparse_matrix(144, 8, 0.2).T).reshape(8, 16, 3, 3)
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    model = model_of(nodes, {"x": [1, 3, 6, 10]}, {"y": [1, 8, 6, 10]}, {"v": first, "w": second})
    program = lowered(model, sparse="on")
    assert bodies(program).count(SparseProduct) == 1
    verify_program(program)
    x = data(1, 3, 6, 10)
    (wanted,) = cast(list[Any], ReferenceEvaluator(model).run(None, {"x": x}))
    wanted = wanted.astype(np.float64)
    (found,) = run_program(program, {"x": x}).values()
    close(found, wanted)
    artifact = compile(model, cache=False, sparse="on", checked=True)
    close(artifact.session(threads=1).run({"x": x})["y"], wanted)


def test_winograds_algorithm_is_faster_where_few_weights_are_zero() -> None:
    def chosen(density: float) -> bool:
        w = np.ascontiguousarray(sparse_matrix(9 * 64, 64, density).T).reshape(64, 64, 3, 3)
        node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
        model = model_of([node], {"x": [1, 64, 28, 28]}, {"y": [1, 64, 28, 28]}, {"w": w})
        return SparseProduct in bodies(lowered(model))

    assert chosen(0.04) and not chosen(0.4)


def test_a_schedule_of_one_row() -> None:
    told: list[Decision] = []
    wanted = Schedule("sparse", 1, 1, 16, 3)
    model = linear(1, 128, 96, 0.3)
    lowered(model, schedules=Schedules(lambda signature, origin: wanted, told.append))
    assert told[0].options[0].schedule == wanted
    for wrong in (Schedule("sparse", 1, 2, 16, 3), Schedule("sparse", 1, 1, 32, 3), Schedule("sparse", 1, 1, 16, 13)):
        with pytest.raises(ValueError, match="does not fit"):
            lowered(model, schedules=Schedules(lambda signature, origin, s=wrong: s, None))


def test_schedules_that_are_wanted() -> None:
    model = linear(64, 128, 96, 0.3)
    told: list[Decision] = []

    def bodies_with(wanted: Schedule | None) -> list[type]:
        told.clear()
        return bodies(lowered(model, schedules=Schedules(lambda signature, origin: wanted, told.append)))

    wanted = Schedule("sparse", 16, 2, 32, 3)
    assert SparseProduct in bodies_with(wanted)
    assert told[0].options[0].schedule == wanted
    assert {"direct", "sparse"} <= {option.schedule.algorithm for option in told[0].options}
    assert "zeros 70 % of 1, 50 % of 2, 25 % of 4" in told[0].signature
    assert str(wanted) == "sparse 2 x 1, 16 rows x 32 deep, 3 panels"
    assert Contraction in bodies_with(Schedule("direct", 16, 4, 64, 6))
    for wrong in (
        Schedule("sparse", 12, 2, 32, 3),
        Schedule("sparse", 16, 3, 32, 3),
        Schedule("sparse", 16, 2, 129, 3),
        Schedule("sparse", 16, 2, 32, 13),
        Schedule("sparse", 4096, 1, 32, 3),
    ):
        with pytest.raises(ValueError, match="does not fit"):
            bodies_with(wrong)


def test_other_targets_and_checked_code() -> None:
    model = linear(21, 48, 72, 0.2, tail="Relu")
    assert compile(model, target="aarch64", cache=False, sparse="on").manifest.code
    x = data(21, 48)
    artifact = compile(model, cache=False, sparse="on", checked=True)
    close(artifact.session(threads=1).run({"x": x})["y"], expected(model, x, "Relu"))
