"""The models that benchmarks run, each with an input.

Three groups: `demo` (the embedded one), `real` (trained models in the folder given by INGOT_MODELS, by default
``../shared/models`` beside the checkout) and `zoo` (`benchmarks.zoo`, random weights). Models whose file is not there
are left out, and `missing` says which. `further` has some of the same models with other inputs, for timing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks import zoo

Inputs = Mapping[str, NDArray[Any]]
Group = Literal["demo", "real", "zoo"]
Kind = Literal["cnn", "transformer", "recurrent", "other"]
GROUPS: tuple[Group, ...] = ("demo", "real", "zoo")
BUILDERS: Mapping[str, Kind] = {
    "cnn": "cnn",
    "detection": "cnn",
    "light": "cnn",
    "transformer": "transformer",
    "generative": "transformer",
    "speech": "recurrent",
}
"""What the files of the zoo build; others build networks of no such kind."""
OTHERS: Mapping[str, int] = {"batch": 4, "sequence": 37, "past": 21, "target": 5, "frames": 131, "steps": 7}
SHORT = (
    "digits",
    "mnist_cnn",
    "resnet20_cifar10",
    "mobilenet_v2_224_fp32",
    "minilm_l6_v2_fp16w (sequence 128)",
    "minilm_l6_v2_fp16w (sequence 16)",
)


@dataclass(frozen=True)
class Case:
    """A model and a way to make an input for it; `others` are inputs that give its symbolic dims other extents.
    The outputs of a `quantised` one lie on a grid. A run of a decoder adds `tokens`. `bound`: so short a run that what
    a call costs counts, so that calls on fixed buffers are timed as well."""

    name: str
    group: Group
    path: Path
    inputs: Callable[[], Inputs]
    others: Mapping[str, Callable[[], Inputs]] = field(default_factory=dict[str, Callable[[], Inputs]])
    quantised: bool = False
    kind: Kind = "other"
    tokens: int = 0
    bound: bool = False


def models_folder() -> Path:
    """Where the real models are."""
    default = Path(__file__).resolve().parents[2] / "shared" / "models"
    return Path(os.environ.get("INGOT_MODELS") or default)


def cases(*groups: Group) -> tuple[Case, ...]:
    """All models of the groups (default: all groups) whose file is there."""
    return tuple(case for case in _every() if case.group in (groups or GROUPS) and case.path.is_file())


def further(*groups: Group) -> tuple[Case, ...]:
    """Models of the groups (default: all groups) with other inputs than usual: CNNs of the zoo with eight images, BERT
    and MiniLM with short and long sentences."""
    chosen: list[Case] = []
    for model in zoo.MODELS.values():
        if _kind(model) == "cnn" and "batch" in model.dims:
            chosen.append(_from_zoo(model, batch=8))
        if model.name in ("bert_base", "minilm"):
            chosen += [_from_zoo(model, sequence=length) for length in (8, 512)]
    return tuple(case for case in chosen if case.group in (groups or GROUPS) and case.path.is_file())


def short() -> tuple[Case, ...]:
    """The few models of README.md's tables."""
    return tuple(case for case in cases("demo", "real") if case.name in SHORT)


def missing() -> tuple[str, ...]:
    """The names of the models whose file is not there."""
    return tuple(case.name for case in _every() if not case.path.is_file())


def _every() -> list[Case]:
    from ingot.compiler.demo import model_path

    def digits(batch: int = 1) -> Inputs:
        return {"image": np.random.default_rng(0).standard_normal((batch, 1, 8, 8)).astype(np.float32)}

    demo = Case("digits", "demo", model_path(), digits, {"batch 4": partial(digits, 4)}, kind="cnn")
    return [demo, *_real(), *_zoo()]


def _real() -> list[Case]:
    def case(name: str, axes: Mapping[str, int] | None = None, kind: Kind = "cnn", **options: Any) -> Case:
        """`axes`: by input, the one along which there may be several examples."""
        folder = models_folder() / name
        more = {"batch 4": partial(_stored, folder, 4, axes)} if axes else {}
        return Case(name, "real", folder / "model.onnx", partial(_stored, folder), more, kind=kind, **options)

    def language(length: int) -> Case:
        path = models_folder() / "minilm_l6_v2_fp16w/model.onnx"
        more = {"batch 4": partial(_tokens, 4, length)}
        name = f"minilm_l6_v2_fp16w (sequence {length})"
        return Case(name, "real", path, partial(_tokens, 1, length), more, kind="transformer")

    return [
        case("mnist_cnn"),
        case("resnet20_cifar10", {"input": 0}),
        case("mobilenet_v2_224_fp32"),
        case("mobilenet_v2_tf2_qdq", quantised=True),
        *(language(length) for length in (8, 16, 128, 512)),
        case("micro_kws_m_static_fp32"),
        case("micro_kws_m_static_qdq", quantised=True),
        case("silero_vad", {"input": 0, "state": 1}, "recurrent"),
        case("magika_v3_3", {"bytes": 0}, "other"),
        case("superres_espcn", {"input": 0}),
        case("ultraface_rfb_320"),
        case("yolox_nano"),
    ]


def _stored(folder: Path, batch: int = 1, axes: Mapping[str, int] | None = None) -> Inputs:
    """The first of the inputs that lie beside a real model, `batch` times along the axes that `axes` has for inputs."""
    with np.load(min((folder / "inputs").glob("*.npz"))) as data:
        found = {key.removeprefix("in:"): data[key] for key in data.files if key.startswith("in:")}
    repeated = axes or {}
    return {name: np.concatenate([x] * batch, repeated[name]) if name in repeated else x for name, x in found.items()}


def _tokens(batch: int, length: int) -> Inputs:
    ids = np.random.default_rng(0).integers(1000, 20000, (batch, length), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def _zoo() -> list[Case]:
    return [_from_zoo(model) for model in zoo.MODELS.values()]


def _from_zoo(model: zoo.Model, **dims: int) -> Case:
    """`dims`: other extents than usual, which the name tells."""
    said = ", ".join(f"{symbol} {extent}" for symbol, extent in dims.items())
    more = {
        f"{symbol} {extent}": partial(zoo.inputs, model.name, "full", **{symbol: extent})
        for symbol, extent in OTHERS.items()
        if symbol in model.dims
    }
    return Case(
        f"zoo/{model.name} ({said})" if said else f"zoo/{model.name}",
        "zoo",
        zoo.place(model.name, "full", model.exported_by("full")[0]),
        partial(zoo.inputs, model.name, "full", **dims),
        more,
        kind=_kind(model),
        tokens=1 if model.name.endswith("_decode") else 0,
        bound=model.name == "mlp",
    )


def _kind(model: zoo.Model) -> Kind:
    return BUILDERS.get(model.builder.partition(":")[0], "other")
