"""The types of tensors in a model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from ingot.compiler.frontend.cut.errors import CutError


class Types:
    """The types of tensors: declared, those of initialisers, else inferred."""

    def __init__(self, graph: onnx.GraphProto, infer: Callable[[], Mapping[str, onnx.ValueInfoProto]]) -> None:
        self._declared = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
        self._tensors = {t.name: (t.data_type, list(t.dims)) for t in graph.initializer}
        self._tensors |= {s.values.name: (s.values.data_type, list(s.dims)) for s in graph.sparse_initializer}
        self._infer = infer

    def find(self, name: str) -> onnx.ValueInfoProto:
        """The type of `name`, with a shape where one is known; CutError when not even the element type is."""
        declared = self._declared.get(name)
        if declared is not None and _typed(declared) and _has_shape(declared):
            return declared
        if name in self._tensors:
            return onnx.helper.make_tensor_value_info(name, *self._tensors[name])
        inferred = self._infer().get(name)
        for info in (inferred, declared):
            if info is not None and _typed(info):
                return info
        raise CutError(
            f"the element type of {name!r} is neither declared in the model nor follows from it: cut at another tensor"
        )


def _typed(info: onnx.ValueInfoProto) -> bool:
    """True when the type says what the elements are."""
    kind = info.type.WhichOneof("value")
    return kind is not None and (kind != "tensor_type" or info.type.tensor_type.elem_type != 0)


def _has_shape(info: onnx.ValueInfoProto) -> bool:
    """True when the type says how many axes there are, or is no tensor type."""
    return info.type.WhichOneof("value") != "tensor_type" or info.type.tensor_type.HasField("shape")


def describe_type(info: onnx.ValueInfoProto) -> str:
    """A type for people: ``float[batch, 3]``; ? for what is not known."""
    if info.type.WhichOneof("value") != "tensor_type":
        return str(info.type.WhichOneof("value")).removesuffix("_type")
    tensor = info.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    if not tensor.HasField("shape"):
        return name
    shown = [str(d.dim_value) if d.WhichOneof("value") == "dim_value" else d.dim_param or "?" for d in tensor.shape.dim]
    return f"{name}[{', '.join(shown)}]"
