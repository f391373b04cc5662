"""Names, functions and files of exported models, and what cannot be exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.compiler.frontend.test_export import run, same

from ingot.compiler.frontend import load_onnx
from ingot.compiler.frontend.export import ExportError, export_onnx, save_onnx
from ingot.compiler.frontend.mapping import map_file
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Array, Constant, Graph, Input, Node, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops import composite, movement, pointwise
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType, f32, f64, i64

pytest.importorskip("onnxruntime")


def value(label: str, *shape: int, dtype: DType = f32) -> Input:
    return Input(label, TensorType(dtype, shape), origin=(label,))


def graph_of(*inputs: Input, **outputs: Value) -> Graph:
    return Graph(inputs, tuple(outputs.items()))


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_come_from_the_origin() -> None:
    x = value("x", 3, 4)
    w = constant(normal(4), origin=("layer.weight",))
    scaled = pointwise.Mul(x, w, origin=("/layer/Mul",))
    unnamed = pointwise.Relu(scaled, origin=("Relu:relu_out",))
    merged = pointwise.Add(unnamed, w, origin=("a", "b"))
    plain = pointwise.Neg(merged)
    model = export_onnx(graph_of(x, y=plain, z=scaled))
    nodes = [(n.name, n.op_type, list(n.input), list(n.output)) for n in model.graph.node]
    assert nodes == [
        ("/layer/Mul", "Mul", ["x", "layer.weight"], ["z"]),
        ("Relu:relu_out", "Relu", ["z"], ["relu_out"]),
        ("a+b", "Add", ["relu_out", "layer.weight"], ["a+b_output"]),
        ("", "Neg", ["a+b_output"], ["y"]),
    ]
    assert [t.name for t in model.graph.initializer] == ["layer.weight"]
    again = load_onnx(model)
    assert ("/layer/Mul",) in [node.origin for node in again.nodes()]
    assert {v.name for v in model.graph.value_info} == {"relu_out", "a+b_output"}


def test_many_nodes_of_one_origin() -> None:
    x = value("x", 2)
    y: Value = x
    for _ in range(3):
        y = pointwise.Relu(pointwise.Neg(y, origin=("gemm",)), origin=("gemm",))
    model = export_onnx(graph_of(x, gemm_output=y))
    names = [n.name for n in model.graph.node]
    assert names == ["gemm", "gemm_2", "gemm_3", "gemm_4", "gemm_5", "gemm_6"]
    made = [n.output[0] for n in model.graph.node]
    assert made[-1] == "gemm_output" and len(set(made)) == 6


def test_outputs_that_no_node_makes() -> None:
    """An input, a constant, one value under two names, and what is an output and used too."""
    x, c = value("x", 2), constant(np.array([1.5, -2], np.float32), origin=("c",))
    total = pointwise.Add(x, c)
    graph = graph_of(x, copied=x, constant=c, first=total, second=total, last=pointwise.Identity(total))
    model = export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    feed = {"x": np.array([1, 2], np.float32)}
    same(run(model, feed), evaluate_graph(graph, feed))
    passed = Graph((x,), (("x", x),))
    assert [o.name for o in export_onnx(passed).graph.output] == ["x"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "problem"),
    [
        (["x", "x"], ["y"], "two inputs are named 'x'"),
        (["x"], ["y", "y"], "two outputs are named 'y'"),
        (["x"], ["x"], "an input and an output are named 'x'"),
    ],
)
def test_names_that_clash(inputs: Sequence[str], outputs: Sequence[str], problem: str) -> None:
    values = tuple(value(name, 2) for name in inputs)
    graph = Graph(values, tuple((name, pointwise.Relu(values[0])) for name in outputs))
    with pytest.raises(ExportError, match=problem):
        export_onnx(graph)


# -- functions --------------------------------------------------------------------------------------------------------


def test_a_function_is_written_once() -> None:
    x, y = value("x", 4), value("y", 2, 3)
    a, b = composite.Silu(x, origin=("/act/Silu",)), composite.Silu(composite.Silu(y))
    wide = composite.Silu(value("z", 4, dtype=f64))
    model = export_onnx(graph_of(x, y, value("z", 4, dtype=f64), a=a, b=b))
    assert [(f.domain, f.name) for f in model.functions] == [("ingot", "Silu"), ("ingot", "Silu_2")]  # one a rank
    assert [(n.domain, n.op_type) for n in model.graph.node] == [
        ("ingot", "Silu"),
        ("ingot", "Silu_2"),
        ("ingot", "Silu_2"),
    ]
    assert model.graph.node[0].name == "/act/Silu"
    assert ("ingot", 1) in [(i.domain, i.version) for i in model.opset_import]
    onnx.checker.check_model(model, full_check=True)
    parts = export_onnx(graph_of(x, a=a), functions=False)
    assert not parts.functions and [n.op_type for n in parts.graph.node] == ["Sigmoid", "Mul"]
    assert [n.op_type for n in export_onnx(graph_of(x, a=a), opset=24).graph.node] == ["Swish"]
    assert wide.dtype == f64


def test_a_function_called_with_one_value_twice() -> None:
    q = value("q", 1, 2, 3, 4)
    k = value("k", 1, 2, 3, 4)
    graph = graph_of(q, k, a=composite.Attention(q, q, q, None, 0.5), b=composite.Attention(q, k, k, None, 0.5))
    model = export_onnx(graph)
    assert [list(f.input) for f in model.functions] == [["q", "k", "v"]]
    feed = {"q": normal(1, 2, 3, 4), "k": -normal(1, 2, 3, 4)}
    same(run(model, feed), evaluate_graph(graph, feed))


@pytest.mark.parametrize(
    ("make", "opset", "op_type"),
    [
        (lambda x: composite.Gelu(x, False), 19, "ingot.Gelu"),
        (lambda x: composite.Gelu(x, True), 20, "Gelu"),
        (composite.HardSwish, 13, "ingot.HardSwish"),
        (composite.HardSwish, 14, "HardSwish"),
        (lambda x: composite.LayerNorm(x, constant(normal(4)), None, 1, 1e-5), 16, "ingot.LayerNorm"),
        (lambda x: composite.LayerNorm(x, constant(normal(4)), None, 1, 1e-5), 17, "LayerNormalization"),
        (lambda x: composite.LayerNorm(x, constant(normal(3, 4)), None, 1, 1e-5), 17, "ingot.LayerNorm"),
    ],
)
def test_standard_operator_or_function(make: Callable[[Value], Value], opset: int, op_type: str) -> None:
    x = value("x", 3, 4)
    graph = graph_of(x, y=make(x))
    model = export_onnx(graph, opset=opset)
    (node,) = model.graph.node
    assert (f"{node.domain}.{node.op_type}" if node.domain else node.op_type) == op_type
    onnx.checker.check_model(model, full_check=True)
    feed = {"x": normal(3, 4)}
    same(run(model, feed), evaluate_graph(graph, feed))


# -- element types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_constants_of_every_type(dtype: DType, tmp_path: Path) -> None:
    data = (np.arange(1200).reshape(40, 30) % 7 - 3 * (dtype.kind in ("float", "signed"))).astype(dtype.to_numpy())
    x = value("x", 40, 30, dtype=dtype)
    graph = graph_of(x, y=movement.Concat((x, Constant(data), constant(data[:1])), 0))
    model = export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    same(run(model, {"x": data}), evaluate_graph(graph, {"x": data}))
    save_onnx(graph, tmp_path / "m.onnx", external_data="always")
    for have, want in zip(onnx.load(tmp_path / "m.onnx").graph.initializer, model.graph.initializer, strict=True):
        assert (have.name, have.raw_data) == (want.name, want.raw_data)
    same(evaluate_graph(load_onnx(tmp_path / "m.onnx"), {"x": data}), evaluate_graph(graph, {"x": data}))


def test_layouts_of_constants(tmp_path: Path) -> None:
    """Fortran order, strides, big endian, no elements, one element repeated."""
    data = normal(40, 30)
    layouts = [
        np.asfortranarray(data),
        np.repeat(data, 2, 0)[::2],
        data.astype(">f4"),
        np.broadcast_to(data[0], (9, 30)),
    ]
    layouts.append(np.zeros((0, 30), np.float32))
    x = value("x", 1, 30)
    graph = graph_of(x, y=movement.Concat((x, *map(Constant, layouts)), 0))
    feed = {"x": data[:1]}
    for external in ("never", "always"):
        save_onnx(graph, tmp_path / "m.onnx", external_data=external)
        onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
        same(run(tmp_path / "m.onnx", feed), evaluate_graph(graph, feed))
        same(evaluate_graph(load_onnx(tmp_path / "m.onnx"), feed), evaluate_graph(graph, feed))
    same(run(export_onnx(graph), feed), evaluate_graph(graph, feed))


def test_equal_constants_are_written_once() -> None:
    x, w = value("x", 30), normal(30)
    total = pointwise.Add(pointwise.Mul(x, constant(w)), constant(w))
    total = pointwise.Add(pointwise.Mul(total, constant(2.0, f32)), constant(2.0, f32))
    model = export_onnx(graph_of(x, y=total))
    assert sorted(numpy_helper.to_array(t).size for t in model.graph.initializer) == [1, 30]


# -- files ------------------------------------------------------------------------------------------------------------


def weighted(rows: int = 300) -> Graph:
    x = value("x", 1, 30)
    w = constant(normal(30, rows), origin=("w",))
    from ingot.compiler.ops.linear import MatMul

    return graph_of(x, y=pointwise.Add(MatMul(x, w), constant(normal(rows), origin=("bias",))))


def test_one_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_onnx(weighted(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert onnx.load(path) == export_onnx(weighted())
    first = path.read_bytes()
    save_onnx(weighted(), path)
    assert path.read_bytes() == first


def test_external_data(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_onnx(weighted(300_000), path, external_data="always")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert path.stat().st_size < 1000
    onnx.checker.check_model(path, full_check=True)
    entries = [
        {e.key: e.value for e in t.external_data} for t in onnx.load(path, load_external_data=False).graph.initializer
    ]
    assert [e["location"] for e in entries] == ["m.onnx.data"] * 2
    assert all(int(e["offset"]) % 65536 == 0 for e in entries)
    feed = {"x": normal(1, 30)}
    same(run(path, feed), run(export_onnx(weighted(300_000)), feed))
    weights = [n for n in load_onnx(path).nodes() if isinstance(n, Constant)]
    assert all(not w.data.flags.owndata for w in weights)


def test_a_model_over_its_own_weights(tmp_path: Path) -> None:
    """The file that the constants are mapped from is replaced, not written into."""
    path = tmp_path / "m.onnx"
    save_onnx(weighted(), path, external_data="always")
    graph = load_onnx(path)
    feed = {"x": normal(1, 30)}
    wanted = evaluate_graph(graph, feed)
    for external in ("always", "never"):
        save_onnx(graph, path, external_data=external)
        same(evaluate_graph(load_onnx(path), feed), wanted)


def huge() -> Graph:
    """Constants of 2.4 GB that take 4 bytes of memory."""
    part = Constant(np.broadcast_to(np.float32(1.5), (300_000_000,)), origin=("huge",))
    other = Constant(np.broadcast_to(np.float32(0.5), (300_000_000,)), origin=("other",))
    x = value("x", 1, dtype=i64)
    return graph_of(x, y=pointwise.Add(movement.Gather(part, x, 0), movement.Gather(other, x, 0)))


def test_more_than_one_message_holds(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"2\.4 GB, an ONNX message holds 2: use save_onnx"):
        export_onnx(huge())
    with pytest.raises(ExportError, match="without external data holds 2"):
        save_onnx(huge(), tmp_path / "m.onnx", external_data="never")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_over_two_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_onnx(huge(), path)
    assert (tmp_path / "m.onnx.data").stat().st_size == 2_400_000_000 + -1_200_000_000 % 65536
    onnx.checker.check_model(path)
    feed = {"x": np.array([299_999_999])}
    assert evaluate_graph(load_onnx(path), feed)["y"].tolist() == [2.0]
    assert run(path, feed)["y"].tolist() == [2.0]


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    graph = graph_of(value("x", 2), y=Strange(value("x", 2)))
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    with pytest.raises(ExportError):
        save_onnx(graph, path)
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    with pytest.raises(FileNotFoundError):
        save_onnx(weighted(), tmp_path / "missing" / "m.onnx")
    assert len(map_file(path)) == 6


# -- what cannot be exported ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Strange(Node):
    """An operator that ONNX does not know."""

    x: Value

    def infer(self) -> Sequence[TensorType]:
        return (self.x.type,)


def test_all_unknown_operators_are_listed() -> None:
    x = value("x", 2)
    y = Strange(Strange(x, origin=("a",)), origin=("b",))
    with pytest.raises(ExportError, match=r"ONNX has no counterpart of 2 node: node \(a\), node \(b\)"):
        export_onnx(graph_of(x, y=y))


@pytest.mark.parametrize("opset", [0, 12, 99])
def test_opsets_that_cannot_be_written(opset: int) -> None:
    with pytest.raises(ExportError, match=f"opset {opset} cannot be written: opsets 13 to"):
        export_onnx(weighted(), opset=opset)


def test_what_an_older_opset_lacks() -> None:
    x = value("x", 2, 3, 8, 8)
    from ingot.compiler.ops.linear import AveragePool

    pool = AveragePool(x, (2, 2), (1, 1), (0, 0, 0, 0), (2, 2), False, False, False, origin=("pool",))
    with pytest.raises(ExportError, match=r"average_pool \(pool\): AveragePool of opset 18 does not dilate: export to"):
        export_onnx(graph_of(x, y=pool), opset=18)


def test_dims_must_be_known() -> None:
    x = Input("x", TensorType(f32, (symbol("a") * symbol("b"),)))
    with pytest.raises(ExportError, match="pin it when importing"):
        export_onnx(Graph((x,), (("y", movement.DimValues((symbol("a"),), False)),)))
