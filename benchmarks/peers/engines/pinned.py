"""A model with the shapes of one set of inputs, for engines that compile for fixed shapes."""
# The peer lives in an environment of its own and comes without types.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import math
from pathlib import Path

import onnx
from onnx import shape_inference

from benchmarks.peers.jobs import Job

LEAST_IR = 4  # from this version on, initialisers need not be inputs as well


def pin(job: Job) -> Path:
    """A copy of the model in the job's folder whose inputs have the shapes of the job's and no initialisers among them.
    Other shapes are inferred."""
    path = job.folder / "pinned.onnx"
    if path.exists():
        return path
    model = onnx.load(str(job.model))
    graph = model.graph
    inputs = [info for info in graph.input if info.name in job.inputs]
    for info in inputs:
        shape = info.type.tensor_type.shape
        del shape.dim[:]
        for extent in job.shape(info.name):
            shape.dim.add().dim_value = extent
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.value_info[:]
    for info in graph.output:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.Clear()
    model.ir_version = max(model.ir_version, LEAST_IR)
    model = shape_inference.infer_shapes(model, data_prop=True)
    unfinished = path.with_suffix(".partial")
    onnx.save(model, str(unfinished))
    unfinished.replace(path)
    return path


def input_names(path: Path) -> list[str]:
    """In the model's order."""
    return [info.name for info in onnx.load(str(path), load_external_data=False).graph.input]


def output_shapes(path: Path) -> list[tuple[int, ...] | None]:
    """In the model's order, None where inference could not tell."""
    found: list[tuple[int, ...] | None] = []
    for info in onnx.load(str(path), load_external_data=False).graph.output:
        tensor = info.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim) if tensor.HasField("shape") else (0,)
        found.append(shape if math.prod(shape) > 0 else None)
    return found
