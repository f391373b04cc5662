"""Large products by Strassen's algorithm: chosen where they pay, right for every shape of halves, and deterministic."""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ingot.compiler import compile, default_pipeline, load_onnx
from ingot.compiler.ir.dims import evaluate, product
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.templates import Contraction, Strassen, depth_blocks
from ingot.compiler.ir.text.program import parse_program, show_program
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.machine import AVX2

Floats = NDArray[np.float32]


def linear(rows: int | str, depth: int, columns: int, tail: str = "") -> ModelProto:
    """y = tail(x @ w + bias) for a tail of "", "gelu" or "residual"."""
    random = np.random.default_rng(depth + columns)
    weights = {
        "w": (random.standard_normal((depth, columns)) / np.sqrt(depth)).astype(np.float32),
        "bias": random.standard_normal(columns).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "bias"], ["s" if tail else "y"]),
    ]
    if tail == "gelu":
        nodes.append(helper.make_node("Gelu", ["s"], ["y"]))
    elif tail == "residual":
        nodes.append(helper.make_node("Add", ["s", "x"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])],
        [numpy_helper.from_array(data, name) for name, data in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def expected(model: ModelProto, x: Floats, tail: str = "") -> NDArray[np.float64]:
    w, bias = (numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer)
    y = x.astype(np.float64) @ w + bias
    if tail == "gelu":
        return 0.5 * y * (1 + np.vectorize(erf)(y / np.sqrt(2)))
    return y + x if tail == "residual" else y


def data(rows: int, depth: int) -> Floats:
    return np.random.default_rng(rows).standard_normal((rows, depth)).astype(np.float32)


def lowered(model: ModelProto, *, reorder: bool = True) -> Program:
    return lower(default_pipeline().run(load_onnx(model)), AVX2, reorder=reorder)


def bodies(program: Program) -> list[type]:
    return [type(launch.kernel.body) for launch in program.launches()]


def close(found: Floats, wanted: NDArray[np.float64]) -> None:
    assert np.abs(found - wanted).max() <= 5e-6 * np.abs(wanted).max()


def test_it_is_chosen_where_it_pays() -> None:
    assert Strassen in bodies(lowered(linear(256, 256, 512)))
    assert Strassen not in bodies(lowered(linear(256, 256, 512), reorder=False))
    assert Strassen not in bodies(lowered(linear(16, 256, 512)))  # few rows
    assert Strassen not in bodies(lowered(linear(256, 257, 512)))  # an odd depth
    assert Strassen in bodies(lowered(linear(256, 256, 505)))  # the last panel is cut off
    assert Strassen not in bodies(lowered(linear(256, 256, 520)))  # an odd number of panels
    both = bodies(lowered(linear("n", 256, 512)))
    assert Strassen in both and Contraction in both


def test_depths_are_cut_evenly() -> None:
    assert [depth_blocks(depth) for depth in (64, 768, 1536, 3072, 800, 2000)] == [1, 1, 2, 4, 2, 4]
    assert depth_blocks(63) is None and depth_blocks(797) is None


@pytest.mark.parametrize(("rows", "columns"), [(192, 768), (193, 761)])
def test_its_meaning_and_its_text(rows: int, columns: int) -> None:
    model = linear(rows, 192, columns)
    program = lowered(model)
    assert Strassen in bodies(program)
    resources: dict[str, Any] = {}
    text = show_program(program, resources)
    assert show_program(parse_program(text, resources)) == show_program(program)
    verify_program(program)
    x = data(rows, 192)
    (name,) = (s.name for s in program.of_kind("input"))
    (found,) = run_program(program, {name: x}).values()
    close(found, expected(model, x))


@pytest.mark.parametrize("target", ["x86-64-v3", "native"])
@pytest.mark.parametrize(
    ("rows", "depth", "columns", "tail"),
    [
        (256, 256, 768, ""),
        (33, 256, 768, "gelu"),
        (255, 512, 512, "gelu"),  # an odd number of rows, results by way of the stack
        (197, 384, 384, "residual"),  # whose halves have no good divisor
        (226, 3072, 256, ""),  # a depth in two blocks
        (227, 3072, 256, "gelu"),
        (256, 256, 753, ""),  # of the last panel one column is there
        (129, 512, 511, "gelu"),
    ],
)
def test_native(target: str, rows: int, depth: int, columns: int, tail: str) -> None:
    model = linear(rows, depth, columns, tail)
    assert Strassen in bodies(lowered(model))
    x = data(rows, depth)
    artifact = compile(model, target=target, cache=False)
    found = [artifact.session(threads=threads).run({"x": x})["y"] for threads in (1, 2)]
    close(found[0], expected(model, x, tail))
    np.testing.assert_array_equal(found[0], found[1])


def test_rows_whose_sums_would_come_from_memory_take_the_plain_product() -> None:
    """From 2341 rows on they take more than 8 MiB, and cost more than is gained by 512 columns."""
    model = linear("n", 512, 512)
    program = lowered(model)
    products = [launch for launch in program.launches() if isinstance(launch.kernel.body, Strassen | Contraction)]
    assert {type(launch.kernel.body) for launch in products} == {Strassen, Contraction}

    def chosen(rows: int) -> list[type]:
        sizes = [product(evaluate(axis.extent, {"n": rows}) for axis in launch.kernel.grid) for launch in products]
        return [type(launch.kernel.body) for launch, size in zip(products, sizes, strict=True) if size]

    assert chosen(16) == [Contraction] and chosen(512) == [Strassen] and chosen(2400) == [Contraction]
    assert chosen(2340) == [Strassen] and chosen(2341) == [Contraction]
    assert Strassen not in bodies(lowered(linear(2400, 512, 512)))


@pytest.mark.parametrize(("columns", "tail"), [(512, ""), (512, "residual"), (501, "")])
def test_rows_that_are_known_at_run_time(columns: int, tail: str) -> None:
    """Few rows take the plain product; of many the last tile may reach past the end."""
    model = linear("n", 512, columns, tail)
    with compile(model, target="native", cache=False).session(threads=2) as session:
        for rows in (0, 1, 63, 64, 97, 128, 129, 255, 256, 301, 514):
            x = data(rows, 512)
            found = session.run({"x": x})["y"]
            assert found.shape == (rows, columns)
            if rows:
                close(found, expected(model, x, tail))


def test_what_is_not_finite_reaches_its_own_row_and_its_neighbour() -> None:
    model = linear(65, 384, 768)
    x = data(65, 384)
    x[10, 3], x[64, 100] = np.nan, np.inf
    found = compile(model, target="native", cache=False).session(threads=1).run({"x": x})["y"]
    assert not np.isfinite(found[[10, 64]]).any()
    others = np.delete(np.arange(65), [10, 11, 64])
    close(found[others], expected(model, x)[others])
