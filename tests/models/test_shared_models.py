"""Real trained models, compiled whole, against the outputs that are stored with them.

The folder is that of INGOT_MODELS, by default ``../shared/models`` beside the checkout; without it the tests skip. The
stored outputs of quantised models come from 8-bit kernels that saturate sums, so these are held against ONNX Runtime
without optimisations, which computes in floats between the quantisation steps.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from ingot.compiler import compile
from ingot.compiler.artifact import Artifact
from ingot.compiler.lower.weight_forms import Memory
from ingot.runtime import Session

onnxruntime = pytest.importorskip("onnxruntime")

FOLDER = Path(os.environ.get("INGOT_MODELS") or Path(__file__).parents[3] / "shared" / "models")
FLOAT = (
    "magika_v3_3",
    "micro_kws_m_static_fp32",
    "minilm_l6_v2_fp16w",
    "mnist_cnn",
    "mobilenet_v2_224_fp32",
    "resnet20_cifar10",
    "superres_espcn",
    "ultraface_rfb_320",
    "yolox_nano",
)
QUANTISED = ("micro_kws_m_static_qdq", "mobilenet_v2_tf2_qdq")
SLOW = {"ultraface_rfb_320", "yolox_nano", "mobilenet_v2_tf2_qdq"}  # many kernels to compile

Arrays = dict[str, NDArray[Any]]


def models(names: tuple[str, ...]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


@cache
def compiled(name: str, memory: Memory = "fast") -> Artifact:
    path = FOLDER / name / "model.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not there: set INGOT_MODELS to the folder of models")
    return compile(path, jobs=2, memory=memory)


def samples(name: str) -> list[tuple[Arrays, Arrays]]:
    """Inputs and stored outputs; outputs that are not stored are computed."""
    found: list[tuple[Arrays, Arrays]] = []
    for path in sorted((FOLDER / name / "inputs").glob("s*.npz")):
        with np.load(path) as data:
            inputs = {key[3:]: data[key] for key in data.files if key.startswith("in:")}
            outputs = {key[4:]: data[key] for key in data.files if key.startswith("out:")}
        found.append((inputs, outputs or exact(name, inputs)))
    return found


def exact(name: str, inputs: Arrays) -> Arrays:
    """What ONNX Runtime gives without fusing anything."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(FOLDER / name / "model.onnx"), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def step_of(name: str, output: str) -> float:
    """The scale of the DequantizeLinear that gives an output."""
    graph = onnx.load(FOLDER / name / "model.onnx").graph
    node = next(n for n in graph.node if output in n.output)
    assert node.op_type == "DequantizeLinear"
    scale = next(i for i in graph.initializer if i.name == node.input[1])
    return float(numpy_helper.to_array(scale).item())


def gives_the_stored_outputs(name: str, session: Session) -> None:
    for inputs, outputs in samples(name):
        found = session.run(inputs)
        for label, wanted in outputs.items():
            assert found[label].dtype == wanted.dtype
            assert found[label].shape == wanted.shape
            scale = float(np.abs(wanted).max())
            assert float(np.abs(found[label] - wanted).max()) <= 1e-4 * scale, label


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", models(FLOAT))
def test_float_models_give_the_stored_outputs(name: str, threads: int) -> None:
    with compiled(name).session(threads=threads) as session:
        gives_the_stored_outputs(name, session)


@pytest.mark.parametrize("name", ["minilm_l6_v2_fp16w", "resnet20_cifar10"])
def test_small_programs_are_no_larger_than_their_models(name: str) -> None:
    artifact = compiled(name, "small")
    weights = artifact.manifest.digests["weights.bin"].size
    assert weights <= 1.02 * (FOLDER / name / "model.onnx").stat().st_size
    with artifact.session(threads=1) as session:
        gives_the_stored_outputs(name, session)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", models(QUANTISED))
def test_quantised_models_are_within_one_step(name: str, threads: int) -> None:
    with compiled(name).session(threads=threads) as session:
        for inputs, _ in samples(name):
            found = session.run(inputs)
            for label, wanted in exact(name, inputs).items():
                assert found[label].shape == wanted.shape
                assert float(np.abs(found[label] - wanted).max()) <= step_of(name, label) * 1.001, label
