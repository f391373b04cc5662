"""The models that benchmarks run, each with an input. The folder of real models is given by INGOT_MODELS (default:
``../shared/models`` beside the checkout); models that are not there are left out, and that is said."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Inputs = Mapping[str, NDArray[Any]]


def models_folder() -> Path:
    """Where the real models are."""
    default = Path(__file__).resolve().parents[2] / "shared" / "models"
    return Path(os.environ.get("INGOT_MODELS", default))


@dataclass(frozen=True)
class Case:
    """A model and a way to make an input for it; `batched` if its leading dim is symbolic."""

    name: str
    path: Path
    inputs: Callable[[], Inputs]
    batched: bool = False


def _random(name: str, *shape: int) -> Callable[[], Inputs]:
    return lambda: {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def _tokens(batch: int, length: int) -> Callable[[], Inputs]:
    def make() -> Inputs:
        ids = np.random.default_rng(0).integers(1000, 20000, (batch, length), dtype=np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    return make


def cases() -> tuple[Case, ...]:
    """All models that are present: the embedded digits model and the real ones."""
    from ingot.compiler.demo import model_path

    real = models_folder()
    wanted = (
        Case("digits", model_path(), _random("image", 1, 1, 8, 8), batched=True),
        Case("mnist_cnn", real / "mnist_cnn/model.onnx", _random("Input3", 1, 1, 28, 28)),
        Case("resnet20_cifar10", real / "resnet20_cifar10/model.onnx", _random("input", 1, 3, 32, 32), batched=True),
        Case("mobilenet_v2", real / "mobilenet_v2_224_fp32/model.onnx", _random("input", 1, 3, 224, 224)),
        Case("minilm_l6 (seq 128)", real / "minilm_l6_v2_fp16w/model.onnx", _tokens(1, 128), batched=True),
        Case("minilm_l6 (seq 16)", real / "minilm_l6_v2_fp16w/model.onnx", _tokens(1, 16), batched=True),
    )
    return tuple(case for case in wanted if case.path.exists())
