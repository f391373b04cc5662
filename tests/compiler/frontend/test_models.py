"""Real models: imported, evaluated by the reference interpreter and compared with onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from ingot.compiler.frontend import UnsupportedError, load_onnx
from ingot.compiler.ir.graph import Constant, Input, node_of, operands_of
from ingot.compiler.ir.interpret import evaluate_graph

onnxruntime = pytest.importorskip("onnxruntime")

# A folder with one sub-folder a model: model.onnx and inputs/*.npz with "in:<name>" arrays.
MODELS = Path(os.environ.get("INGOT_MODELS") or Path(__file__).parents[4] / "shared" / "models")
DIGITS = Path(__file__).parents[3] / "compiler" / "ingot" / "compiler" / "demo" / "digits.onnx"

SUPPORTED = {
    "magika_v3_3": ["unk__214", 2048],
    "micro_kws_m_static_fp32": [1, 1960],
    "micro_kws_m_static_qdq": ["unk__68", 1960],
    "minilm_l6_v2_fp16w": ["batch", "seq"],
    "mnist_cnn": [1, 1, 28, 28],
    "mobilenet_v2_224_fp32": [1, 3, 224, 224],
    "mobilenet_v2_tf2_qdq": [1, 3, 224, 224],
    "resnet20_cifar10": ["batch", 3, 32, 32],
    "superres_espcn": ["batch", 1, 224, 224],
    "ultraface_rfb_320": [1, 3, 240, 320],
    "yolox_nano": [1, 3, 416, 416],
}
# Not evaluated here: no stored input, long in numpy, or quantised (held to exact arithmetic in tests/models).
IMPORTED_ONLY = {"superres_espcn", "yolox_nano", "micro_kws_m_static_qdq", "mobilenet_v2_tf2_qdq"}


def model_path(name: str) -> Path:
    path = MODELS / name / "model.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there: set INGOT_MODELS to the folder of models")
    return path


def compare(path: Path, inputs: dict[str, np.ndarray]) -> None:
    graph = load_onnx(path)
    names = [name for name, _ in graph.outputs]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    expected = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(names, inputs)
    found = evaluate_graph(graph, inputs)
    for name, want in zip(names, expected, strict=True):
        got = found[name]
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", SUPPORTED)
def test_model_imports(name: str) -> None:
    path = model_path(name)
    graph = load_onnx(path)
    assert [d if isinstance(d, int) else str(d) for d in graph.inputs[0].shape] == SUPPORTED[name]
    known = {label for node in onnx.load(path, load_external_data=False).graph.node for label in _labels(node)}
    for node in graph.nodes():
        if not isinstance(node, Input | Constant):
            assert len(node.origin) == 1 and node.origin[0] in known


def _labels(node: onnx.NodeProto) -> tuple[str, ...]:
    return (node.name or f"{node.op_type}:{node.output[0]}",)


@pytest.mark.parametrize("name", sorted(SUPPORTED.keys() - IMPORTED_ONLY))
def test_model_agrees_with_onnxruntime(name: str) -> None:
    path = model_path(name)
    sample = np.load(sorted((path.parent / "inputs").glob("*.npz"))[0])
    compare(path, {key.removeprefix("in:"): sample[key] for key in sample.files if key.startswith("in:")})


@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (2, 8)])
def test_minilm_at_other_shapes(batch: int, seq: int) -> None:
    rng = np.random.default_rng(0)
    mask = np.ones((batch, seq), np.int64)
    mask[-1, seq // 2 + 1 :] = 0
    ids = rng.integers(1, 20000, (batch, seq))
    compare(
        model_path("minilm_l6_v2_fp16w"),
        {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros((batch, seq), np.int64)},
    )


def test_resnet_at_batch_3() -> None:
    x = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    compare(model_path("resnet20_cifar10"), {"input": x})


def test_a_table_of_positions_bounds_the_sequence() -> None:
    graph = load_onnx(model_path("minilm_l6_v2_fp16w"))
    assert graph.ranges == {"seq": (0, 512)}


def test_unsupported_operators_are_all_listed() -> None:
    nodes = [
        onnx.helper.make_node("Unheard", ["x"], ["a"], "first"),
        onnx.helper.make_node("Unseen", ["a"], ["b"], "second"),
        onnx.helper.make_node("Relu", ["b"], ["c"]),
        onnx.helper.make_node("Unseen", ["c"], ["y"], "third"),
    ]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4])
    graph = onnx.helper.make_graph(nodes, "unsupported", [x], [onnx.ValueInfoProto(name="y")])
    with pytest.raises(UnsupportedError) as caught:
        load_onnx(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]))
    assert {o.op_type: o.nodes for o in caught.value.operators} == {
        "Unheard": ("first",),
        "Unseen": ("second", "third"),
    }
    assert all(o.count == len(o.nodes) and o.op_type in str(caught.value) for o in caught.value.operators)


def test_demo_model() -> None:
    graph = load_onnx(DIGITS)
    shape = [d if isinstance(d, int) else 5 for d in graph.inputs[0].shape]
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    compare(DIGITS, {graph.inputs[0].label: x})
    assert all(node_of(v) in set(graph.nodes()) for n in graph.nodes() for v in operands_of(n))
