"""Graphs as ONNX: every operator example and every real model is valid, equal in onnxruntime and loads again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.compiler.ops.example import Example
from tests.compiler.ops.examples import EXAMPLES

from ingot.compiler.frontend import load_onnx
from ingot.compiler.frontend.export import ExportError, export_onnx
from ingot.compiler.frontend.export.rows import TABLE
from ingot.compiler.ir.graph import OPS, Array, Constant, Input, Node
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ops.composite import COMPOSITES
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.pipeline import Pipeline

onnxruntime = pytest.importorskip("onnxruntime")

DIGITS = Path(__file__).parents[3] / "compiler/ingot/compiler/demo/digits.onnx"
MODELS = Path(os.environ.get("INGOT_MODELS") or Path(__file__).parents[4] / "shared" / "models")

# Examples that onnxruntime computes otherwise, or not at all.
DIFFERS = {
    "gru_f64": "no kernel for GRU of f64",
    "mat_mul_bytes_empty_depth": "MatMulInteger of depth 0 leaves its result as it was",
    **dict.fromkeys(("image_decode", "image_nothing", "image_size"), "no kernel for ImageDecoder"),
    "number_to_string_f64": "large numbers are written in scientific notation",
    "string_parts": "the empty string has no parts",
    "string_to_number_i8": "the exponent of a numeral does not count for integers",
    "lstm_no_steps": "final states are not initialised when there are no steps",
    "reduce_max_nan": "ReduceMax ignores NaN",
    "reduce_min_nan": "ReduceMin ignores NaN",
    "top_k_largest_special": "TopK has another order of NaN",
    "top_k_smallest_special": "TopK has another order of NaN",
}
ABORTS = {
    "lstm_no_rows": "onnxruntime ends the process on a recurrent layer of a batch of 0",
    **dict.fromkeys(("string_kept", "string_normalize"), "onnxruntime needs a locale that a machine may lack"),
}
EXPORTED = [e for e in EXAMPLES if e.name != "entropy"]  # for which ONNX has random numbers of other generators
# Examples that an older opset has no operator for.
NEEDS = {
    "average_pool_dilated": 19,
    "bit_and": 18,
    "bit_not": 18,
    "bit_or": 18,
    "bit_xor": 18,
    **dict.fromkeys(("image_decode", "image_nothing", "image_size", "regex_full_match"), 20),
    "pad_wrap": 19,
    "random_bits": 18,
    "scatter_add": 16,
    "scatter_f16": 16,
    "scatter_max": 18,
    "scatter_min": 18,
    "scatter_mul": 16,
    "scatter_nothing": 16,
    "scatter_rows_add": 16,
    "scatter_rows_max": 18,
    "scatter_rows_min": 18,
    "scatter_rows_mul": 16,
    "scatter_vector": 16,
    **dict.fromkeys(("string_concat", "string_parts", "string_split"), 20),
}
# Relative to the element and to the largest finite element: onnxruntime computes in the type itself, or in f32.
TOLERANCE = {"float64": 1e-12, "float32": 8e-6, "float16": 4e-3, "bfloat16": 2e-2}


def session(model: onnx.ModelProto | Path, optimise: bool = True) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | Path, feed: Mapping[str, Array], optimise: bool = True) -> dict[str, Array]:
    """onnxruntime's results; bf16 goes in and comes out through OrtValues, numpy has no such type."""
    made = session(model, optimise)
    names = [o.name for o in made.get_outputs()]
    if not any("bfloat16" in v.type for v in (*made.get_inputs(), *made.get_outputs())):
        return dict(zip(names, made.run(names, dict(feed)), strict=True))
    import ml_dtypes

    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(*_plain(x)) for name, x in feed.items()}
    found: dict[str, Array] = {}
    for name, value in zip(names, made.run_with_ort_values(names, values), strict=True):
        if "bfloat16" in value.data_type():
            import ctypes

            bits = (ctypes.c_uint16 * int(np.prod(value.shape()))).from_address(value.data_ptr())
            raw = np.frombuffer(memoryview(bits), np.uint16).copy()
            found[name] = raw.view(ml_dtypes.bfloat16).reshape(value.shape())
        else:
            found[name] = value.numpy()
    return found


def _plain(x: Array) -> tuple[Array, int]:
    code = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    return (np.ascontiguousarray(x).view(np.uint16) if x.dtype.name == "bfloat16" else x), code


def same(found: Mapping[str, Array], wanted: Mapping[str, Array], tolerance: float | None = None) -> None:
    assert list(found) == list(wanted)
    for name, want in wanted.items():
        have = found[name]
        assert have.dtype == want.dtype and have.shape == want.shape
        if want.dtype.kind in "iubO":
            np.testing.assert_array_equal(have, want, err_msg=name)
            continue
        bound = tolerance or TOLERANCE[want.dtype.name]
        have, want = have.astype(np.float64), want.astype(np.float64)
        largest = min(np.abs(want[np.isfinite(want)]).max(initial=0.0), 1e3)
        np.testing.assert_allclose(have, want, rtol=bound, atol=bound * largest, err_msg=name)


# -- every operator ---------------------------------------------------------------------------------------------------


def test_every_operator_has_a_row_or_a_definition() -> None:
    inner = "ingot.compiler.lower."  # what lowering makes for itself is in no graph that is exported
    ours = [op for op in OPS.values() if op.__module__.startswith("ingot.") and not op.__module__.startswith(inner)]
    without = {op for op in ours if TABLE.find(op) is None and op.expand is Node.expand}
    assert without == {Input, Constant}


@pytest.mark.parametrize("example", EXPORTED, ids=lambda e: e.name)
def test_example(example: Example) -> None:
    graph, feed = example.graph(), example.feed()
    model = export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    wanted = evaluate_graph(graph, feed)
    same(evaluate_graph(load_onnx(model), feed), wanted)
    if example.name in ABORTS:
        return
    try:
        same(run(model, feed), wanted)
    except Exception:
        if example.name not in DIFFERS:
            raise
    else:
        # The order of NaN changes with the instruction set that onnxruntime finds.
        assert "order" in DIFFERS.get(example.name, "order"), f"{example.name} agrees now: take it off the list"


@pytest.mark.parametrize(("opset", "every"), [(13, 1), (17, 3), (19, 3), (23, 3), (24, 3)])
def test_examples_in_other_opsets(opset: int, every: int) -> None:
    """All examples in the oldest opset; of the others a third, and all composites."""
    failed: list[str] = []
    composites = [e for e in EXPORTED if any(type(node) in COMPOSITES for node in e.graph().nodes())]
    for example in {e.name: e for e in (*EXPORTED[opset % every :: every], *composites)}.values():
        if example.name in {**DIFFERS, **ABORTS}:
            continue
        needs = max((least for prefix, least in NEEDS.items() if example.name.startswith(prefix)), default=0)
        graph, feed = example.graph(), example.feed()
        if opset < needs:
            with pytest.raises(ExportError, match="opset"):
                export_onnx(graph, opset=opset)
            continue
        model = export_onnx(graph, opset=opset)
        assert {i.domain: i.version for i in model.opset_import}[""] == opset
        onnx.checker.check_model(model, full_check=True)
        try:
            same(run(model, feed), evaluate_graph(graph, feed))
        except Exception as error:
            failed.append(f"{example.name}: {str(error)[:200]}")
    assert not failed, "\n".join(failed)


def test_newest_opset_is_valid() -> None:
    """onnxruntime does not read it yet."""
    for example in EXPORTED[::7]:
        model = export_onnx(example.graph(), opset=onnx.defs.onnx_opset_version())
        onnx.checker.check_model(model, full_check=True)
        wanted = evaluate_graph(example.graph(), example.feed())
        same(evaluate_graph(load_onnx(model), example.feed()), wanted)


# -- real models ------------------------------------------------------------------------------------------------------

# What the shapes must be pinned to for the model to be imported at all.
SHAPES: Mapping[str, Mapping[str, Sequence[int | str]]] = {"silero_vad": {"input": ("batch", 576)}}
# Quantised models: onnxruntime's optimiser turns weights that `simplify` has made floats back into integers, one scale
# a tensor, and its integer kernels saturate; unoptimised, it computes what the model says.
QUANTISED = {"micro_kws_m_static_qdq", "mobilenet_v2_tf2_qdq"}
NAMES = (
    "magika_v3_3",
    "micro_kws_m_static_fp32",
    "micro_kws_m_static_qdq",
    "minilm_l6_v2_fp16w",
    "mnist_cnn",
    "mobilenet_v2_224_fp32",
    "mobilenet_v2_tf2_qdq",
    "resnet20_cifar10",
    "silero_vad",
    "superres_espcn",
    "ultraface_rfb_320",
    "yolox_nano",
)
STAGES = {"import": 0, "fold_norm": 4, "fuse": 9}


def test_stages_are_those_of_the_pipeline() -> None:
    names = default_pipeline().names
    assert {"import": 0, **{name: names.index(name) + 1 for name in STAGES if name != "import"}} == STAGES


@pytest.mark.parametrize("name", NAMES)
def test_model(name: str) -> None:
    path = MODELS / name / "model.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there: set INGOT_MODELS to the folder of models")
    sample = np.load(sorted((path.parent / "inputs").glob("*.npz"))[0])
    feed = {key.removeprefix("in:"): sample[key] for key in sample.files if key.startswith("in:")}
    imported = load_onnx(path, shapes=SHAPES.get(name))
    optimise = name not in QUANTISED
    wanted = run(path, feed, optimise)
    graph, done = imported, 0
    for stage, count in STAGES.items():
        graph = Pipeline(default_pipeline().passes[done:count]).run(graph)
        done = count
        model = export_onnx(graph)
        onnx.checker.check_model(model, full_check=True)
        same(run(model, feed, optimise), wanted, 2e-5)
        again = load_onnx(model)
        assert [i.type for i in again.inputs] == [i.type for i in graph.inputs], stage
        if stage == "import":
            same(run(export_onnx(again), feed, optimise), wanted, 2e-5)


@pytest.mark.parametrize("name", ["magika_v3_3", "micro_kws_m_static_qdq", "mnist_cnn", "resnet20_cifar10"])
def test_model_loaded_again_evaluates_equal(name: str) -> None:
    path = MODELS / name / "model.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there: set INGOT_MODELS to the folder of models")
    sample = np.load(sorted((path.parent / "inputs").glob("*.npz"))[0])
    feed = {key.removeprefix("in:"): sample[key] for key in sample.files if key.startswith("in:")}
    graph = load_onnx(path)
    again = load_onnx(export_onnx(graph))
    wanted, found = evaluate_graph(graph, feed), evaluate_graph(again, feed)
    for key, want in wanted.items():
        np.testing.assert_array_equal(found[key], want)


def test_symbolic_model_at_several_shapes() -> None:
    path = MODELS / "minilm_l6_v2_fp16w" / "model.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there: set INGOT_MODELS to the folder of models")
    graph = Pipeline(default_pipeline().passes[:3]).run(load_onnx(path))
    model = export_onnx(graph)
    assert [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "seq"]
    calls = {n.op_type for n in model.graph.node if n.domain == "ingot"}
    assert calls == {"Attention"} == {f.name for f in model.functions}
    ours, theirs = session(model), session(path)
    rng = np.random.default_rng(0)
    for batch, seq in ((1, 1), (3, 7)):
        mask = np.ones((batch, seq), np.int64)
        mask[-1, seq // 2 + 1 :] = 0
        feed = {"input_ids": rng.integers(1, 20000, (batch, seq)), "attention_mask": mask}
        feed["token_type_ids"] = np.zeros((batch, seq), np.int64)
        for have, want in zip(ours.run(None, feed), theirs.run(None, feed), strict=True):
            np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_what_the_shapes_rule_out_fails() -> None:
    """Silero's other sampling rate: the node that fails carries the reason."""
    path = MODELS / "silero_vad" / "model.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there: set INGOT_MODELS to the folder of models")
    model = session(export_onnx(load_onnx(path, shapes=SHAPES["silero_vad"])))
    feed = {"input": np.zeros((1, 576), np.float32), "state": np.zeros((2, 1, 128), np.float32)}
    model.run(None, {**feed, "sr": np.array(16000, np.int64)})
    with pytest.raises(Exception, match="require: the condition must be true"):
        model.run(None, {**feed, "sr": np.array(8000, np.int64)})


# -- the same bytes ---------------------------------------------------------------------------------------------------

DIGEST = """
import hashlib
from ingot.compiler.frontend import load_onnx
from ingot.compiler.frontend.export import export_onnx
from ingot.compiler.passes.default import default_pipeline

def digest(path):
    graph = default_pipeline().run(load_onnx(path))
    return hashlib.sha256(export_onnx(graph).SerializeToString()).hexdigest()
"""


def test_same_bytes_in_every_process() -> None:
    script = f"{DIGEST}\nimport sys\nprint(digest(sys.argv[1]))"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script, DIGITS], env=environment, capture_output=True, text=True, check=True
    )
    here: dict[str, Any] = {}
    exec(DIGEST, here)
    assert done.stdout.split() == [here["digest"](DIGITS)]


def test_names_are_stable() -> None:
    """What is exported, loaded and exported again has the same names."""
    graph = load_onnx(DIGITS)
    first = export_onnx(graph)
    second = export_onnx(load_onnx(first))
    for field in ("node", "initializer"):
        assert [x.name for x in getattr(first.graph, field)] == [x.name for x in getattr(second.graph, field)]
    assert [list(n.output) for n in first.graph.node] == [list(n.output) for n in second.graph.node]
    names = {n.name for n in first.graph.node}
    assert {node.origin[0] for node in graph.nodes() if not isinstance(node, Input | Constant)} <= names
    assert len(names) == len(first.graph.node)


def test_model_says_who_made_it() -> None:
    graph = EXAMPLES[0].graph()
    model = export_onnx(graph, name="renamed")
    assert model.graph.name == "renamed" and export_onnx(graph).graph.name == graph.name
    assert model.producer_name == "ingot" and model.ir_version == 10
