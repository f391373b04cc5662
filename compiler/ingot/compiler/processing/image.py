"""``image``: pictures as they come out of a decoder, to what a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.dims import Dim, show
from ingot.compiler.ir.graph import Graph, Input
from ingot.compiler.processing.steps import Step
from ingot.runtime.dtypes import DType, f32, u8

KEYS = ("mean", "std", "scale", "layout", "dtype", "channels", "size", "resize")
RESIZES = ("linear", "nearest", "cubic")
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Normalisation:
    """``(x * scale - mean) / std``, mean and std one for each channel or one for all."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


PRESETS = MappingProxyType(
    {
        "raw": Normalisation(),
        "unit": Normalisation(1 / 255),
        "signed": Normalisation(1 / 127.5, (1.0,)),
        "imagenet": Normalisation(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    }
)


@dataclass(frozen=True)
class Picture:
    """How the caller gives pictures. `size` is (height, width) before resizing, None where it is the network's."""

    how: Normalisation
    layout: str
    dtype: DType
    reverse: bool
    size: tuple[int | str, int | str] | None
    resize: str


def read_picture(step: Step, label: str) -> Picture:
    """The options of an ``image`` step of input `label`. Raises ProcessingError."""
    step.require(1, *KEYS)
    preset = step.words[0] if step.words else "raw"
    if preset not in PRESETS:
        raise step.error(f"there is no normalisation {preset!r}; there are {', '.join(PRESETS)}")
    base, get = PRESETS[preset], step.options.get
    numbers = {key: tuple(step.number(t) for t in text.split(":")) for key in ("mean", "std") if (text := get(key))}
    how = Normalisation(
        step.number(get("scale", repr(base.scale))), numbers.get("mean", base.mean), numbers.get("std", base.std)
    )
    if 0.0 in how.std:
        raise step.error("a standard deviation of 0")
    picture = Picture(
        how,
        _one_of(step, "layout", ("nhwc", "nchw")),
        step.dtype(get("dtype", "u8")),
        _one_of(step, "channels", ("kept", "reversed")) == "reversed",
        _size(step, label),
        _one_of(step, "resize", RESIZES),
    )
    if picture.dtype not in (u8, f32):
        raise step.error("pictures are u8 or f32")
    return picture


def _one_of(step: Step, key: str, choices: tuple[str, ...]) -> str:
    found = step.options.get(key, choices[0])
    if found not in choices:
        raise step.error(f"{key}={found}: it is one of {', '.join(choices)}")
    return found


def _size(step: Step, label: str) -> tuple[int | str, int | str] | None:
    text = step.options.get("size")
    if text is None:
        return None
    if text == "any":
        return f"{label}_height", f"{label}_width"
    height, cross, width = text.partition("x")
    if not cross:
        raise step.error(f"size={text}: give HEIGHTxWIDTH, or any for symbolic ones")
    sides = step.integer(height), step.integer(width)
    if min(sides) < 1:
        raise step.error(f"size={text}: both sides are at least 1")
    return sides


def image(step: Step, target: Input) -> Graph:
    """A graph from pictures to `target`, the model's f32 input [N, C, H, W] or [N, H, W, C].

    The layout of the model's input is read off its dims: an axis of 1, 3 or 4 is the channels. Resizing takes pixel
    centres at halves, without anti-aliasing. Raises ProcessingError.
    """
    picture = read_picture(step, target.label)
    first, count = _channels_first(step, target)
    for name, values in (("mean", picture.how.mean), ("std", picture.how.std)):
        if len(values) not in (1, count):
            raise step.error(f"{name} has {len(values)} numbers for {count} channels")
    batch, *rest = target.shape
    height, width = rest[1:] if first else rest[:2]
    for dim in (batch, height, width):
        if not (isinstance(dim, int) or show(dim).isidentifier()):
            raise step.error(f"{target.label} is {target.type}, where {show(dim)} follows from others: pin its shape")
    if picture.size is not None and not (isinstance(height, int) and isinstance(width, int)):
        raise step.error(f"size: {target.label} is {target.type}, so pictures of every size go in: leave it out")
    wanted = _spelt(height), _spelt(width)
    extents = _Extents(_spelt(batch), picture.size or wanted, wanted, count)
    return load_onnx(_fragment(picture, target.label, extents, first))


def _channels_first(step: Step, target: Input) -> tuple[bool, int]:
    if target.rank != 4 or target.dtype != f32:
        raise step.error(f"{target.label} is {target.type}; an image goes into an f32 tensor of rank 4")
    for axis in (1, 3):
        if target.shape[axis] in CHANNELS:
            return axis == 1, int(target.shape[axis])
    raise step.error(f"{target.label} is {target.type}: no axis of 1, 3 or 4 channels")


@dataclass(frozen=True)
class _Extents:
    """Dims as ONNX spells them: batch, (height, width) as given and as wanted, and channels."""

    batch: int | str
    given: tuple[int | str, int | str]
    wanted: tuple[int | str, int | str]
    channels: int


def _spelt(dim: Dim) -> int | str:
    return dim if isinstance(dim, int) else show(dim)


def _fragment(picture: Picture, label: str, extents: _Extents, first: bool) -> onnx.ModelProto:
    """The step as a model of the standard's operators; its input and output have the label's name, the output with a
    colon."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def then(operator: str, *more: str, **attributes: Any) -> None:
        source = nodes[-1].output[0] if nodes else label
        nodes.append(helper.make_node(operator, [source, *more], [f"{label}:{len(nodes)}"], **attributes))

    def constant(name: str, array: Any, dtype: str = "float32") -> str:
        constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    batch, given, wanted, count = extents.batch, extents.given, extents.wanted, extents.channels
    shape = (batch, *given, count) if picture.layout == "nhwc" else (batch, count, *given)
    if picture.layout == "nchw":
        then("Transpose", perm=[0, 2, 3, 1])
    then("Cast", to=onnx.TensorProto.FLOAT)
    if given != wanted:
        then("Resize", "", "", constant("sizes", wanted, "int64"), mode=picture.resize, axes=[1, 2])
    if picture.reverse:
        then("Gather", constant("reversed", range(count - 1, -1, -1), "int64"), axis=3)
    how = picture.how
    if how != Normalisation():
        factor = how.scale / np.asarray(how.std)
        then("Mul", constant("factor", factor))
        then("Add", constant("shift", -np.asarray(how.mean) / np.asarray(how.std)))
    if first:
        then("Transpose", perm=[0, 3, 1, 2])
    kind = onnx.TensorProto.UINT8 if picture.dtype == u8 else onnx.TensorProto.FLOAT
    result = helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "image", [helper.make_tensor_value_info(label, kind, shape)], [result], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
