"""A model in double precision: every f32 and f16 becomes f64."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.fuzz.build import Array

NARROW = (TensorProto.FLOAT, TensorProto.FLOAT16)
TYPE_ATTRIBUTES = ("to", "dtype", "stash_type", "output_datatype")


def as_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in which inputs, outputs, constants and casts of narrow floats are of double precision."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen(wide.graph)
    return wide


def data_as_double(data: dict[str, Array]) -> dict[str, Array]:
    """The inputs for such a model."""
    return {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in data.items()}


def _widen(graph: onnx.GraphProto) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        kind = info.type.sequence_type.elem_type if info.type.HasField("sequence_type") else info.type
        if kind.tensor_type.elem_type in NARROW:
            kind.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        scales = node.op_type == "Resize"
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _widen(attribute.g)
            elif attribute.name in TYPE_ATTRIBUTES and attribute.i in NARROW:
                attribute.i = TensorProto.DOUBLE
            elif attribute.name in ("value_float", "value_floats") and node.op_type == "Constant":
                value = np.asarray(helper.get_attribute_value(attribute), np.float32).astype(np.float64)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
        if scales:  # the scales of Resize are f32 by definition
            _keep_narrow(graph, node.input[2])


def _keep_narrow(graph: onnx.GraphProto, name: str) -> None:
    constants = [t for t in graph.initializer if t.name == name]
    constants += [a.t for n in graph.node if name in n.output for a in n.attribute if a.name == "value"]
    for tensor in constants:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in NARROW:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
