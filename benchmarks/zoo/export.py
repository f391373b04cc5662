"""Export of the models that torch builds, by both of its exporters."""
# pyright: basic, reportMissingImports=false
# torch is installed only where the zoo is exported.

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.specification import Input, Model, Variant
from benchmarks.zoo.weights import randomize, settle

SETTLING = 8  # examples whose statistics batch normalisations take; fewer make some channels' variance tiny
GAINS = {"cnn": 2.0, "detection": 2.0, "feedforward": 2.0}


def build(model: Model, variant: Variant, exporter: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The module with seeded weights in eval mode, and the arguments it is traced with."""
    file, kind = model.builder.split(":")
    torch.manual_seed(model.seed)
    module = getattr(importlib.import_module(f"benchmarks.zoo.{file}"), kind)(**model.options(variant))
    randomize(module, model.seed, GAINS.get(file, 1.0))
    settle(module, _tensors(model, variant, {**model.traced, **({"batch": SETTLING} if "batch" in model.dims else {})}))
    return module, _tensors(model, variant, {**model.traced, **model.fixed(exporter)})


def _tensors(model: Model, variant: Variant, dims: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array.copy()) for array in model.arrays(variant, dims).values())


def export(model: Model, variant: Variant, exporter: str, path: Path) -> None:
    """Write the model to `path`. `exporter` is ``torchscript-<opset>`` or ``dynamo-<opset>``."""
    kind, opset = exporter.split("-")
    module, arguments = build(model, variant, exporter)
    options = model.options(variant)
    inputs = tuple(i.pinned(model.fixed(exporter)) for i in model.inputs(options))
    outputs = model.outputs(options)
    names: dict[str, Any] = {"input_names": [i.name for i in inputs], "output_names": list(outputs)}
    names["opset_version"] = int(opset)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells on every export that torchvision is absent
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            axes = {i.name: {k: dim for k, dim in enumerate(i.shape) if isinstance(dim, str)} for i in inputs}
            with contextlib.redirect_stdout(io.StringIO()):
                torch.onnx.export(module, arguments, path, dynamo=False, dynamic_axes=axes, **names)
            return
        translations = getattr(importlib.import_module(type(module).__module__), "TRANSLATIONS", None)
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(
                module,
                arguments,
                path,
                dynamo=True,
                verbose=False,
                external_data=False,
                dynamic_shapes=_dynamic_shapes(module, inputs),
                custom_translation_table=translations,
                **names,
            )


def _dynamic_shapes(module: nn.Module, inputs: tuple[Input, ...]) -> Any:
    """Per parameter of `forward` the names of its open axes; a variadic parameter takes the inputs that are left."""
    shapes = [{axis: dim for axis, dim in enumerate(i.shape) if isinstance(dim, str)} for i in inputs]
    code = module.forward.__code__
    fixed = code.co_argcount - 1
    variadic = bool(code.co_flags & inspect.CO_VARARGS)
    return (*shapes[:fixed], tuple(shapes[fixed:])) if variadic and shapes[fixed:] else tuple(shapes)
