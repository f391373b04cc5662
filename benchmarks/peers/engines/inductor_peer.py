"""PyTorch: the module that the model was exported from, else what onnx2torch makes of the file, through
torch.compile with frozen weights."""
# The peer lives in an environment of its own and comes without types.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from torch import nn

from benchmarks.peers.engines.pinned import input_names, pin
from benchmarks.peers.jobs import Call, Job, RefusedError, contiguous


def prepare(job: Job) -> Call:
    """Build, compile (at the first run), run once. That the weights are those of the file is seen by the outputs."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(job.folder / "inductor")
    from torch._inductor import config

    config.freezing = True
    torch.set_num_threads(job.threads)
    module, names = _module(job)
    tensors = [torch.from_numpy(contiguous(job.inputs[name]).copy()) for name in names]
    compiled = torch.compile(module.eval(), dynamic=False)

    def run() -> list[Any]:
        with torch.no_grad():  # freezing does nothing in inference mode
            return [tensor.numpy() for tensor in _flat(compiled(*tensors))]

    run()
    return run


def version() -> str:
    """Of the package."""
    return torch.__version__


def _module(job: Job) -> tuple[nn.Module, list[str]]:
    """The module and the names of its arguments."""
    record = job.model.with_suffix(".json")
    if record.is_file():
        told = json.loads(record.read_text())
        if told.get("exporter") in ("torchscript", "dynamo"):
            from benchmarks.zoo.catalogue import find
            from benchmarks.zoo.export import build

            module, _ = build(find(told["name"]), told["variant"], f"{told['exporter']}-{told['opset']}")
            return module, [each["name"] for each in told["inputs"]]
    return _converted(job)


def _converted(job: Job) -> tuple[nn.Module, list[str]]:
    # onnx2torch imports torchvision for two operators. One built for another torch cannot load its library, and then
    # wants these declared before it is imported; models that need them are refused.
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    try:
        from onnx2torch import convert
    except ImportError:
        raise RefusedError("no PyTorch source of this model, and onnx2torch is not installed") from None
    model = onnx.load(str(pin(job)))
    try:
        return convert(model), input_names(pin(job))
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise RefusedError(f"onnx2torch does not convert it: {lines[0][:200]}") from error


def _flat(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for part in value:
            yield from _flat(part)
