# onnxruntime is optional and, like parts of onnx, without types.
# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false
"""All tensors of an ONNX model by name, as evaluators that are not Ingot compute them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from ingot.compiler.bench.engines import require

Arrays: TypeAlias = dict[str, NDArray[Any]]
Inputs: TypeAlias = Mapping[str, NDArray[Any]]

_FLOATS = frozenset((onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16))
_DOUBLE = onnx.TensorProto.DOUBLE
_TYPE_ATTRIBUTES = frozenset(("to", "dtype", "output_dtype", "stash_type"))


class EvaluationError(RuntimeError):
    """A reference cannot evaluate the model; the message says why and what to try."""


def exact(model: Path, inputs: Inputs) -> Arrays:
    """onnx.reference, with every float of the model and of `inputs` as float64. Raises EvaluationError."""
    from onnx.reference import ReferenceEvaluator

    with _explained("onnx.reference", "try --reference onnxruntime"):
        proto = widened(onnx.load(model))
        given = {name: _wide(array) for name, array in inputs.items()}
        with np.errstate(all="ignore"):
            found: Any = ReferenceEvaluator(proto, new_ops=_replaced(proto)).run(None, given, intermediate=True)
        return {n: np.asarray(found[n]) for n in _made(proto) if isinstance(found.get(n), np.ndarray | np.generic)}


def onnxruntime(model: Path, inputs: Inputs) -> Arrays:
    """ONNX Runtime without its graph optimisations, one thread, in the model's own types. Raises EvaluationError."""
    require("onnxruntime")
    import onnxruntime as ort

    with _explained("onnxruntime", "try --reference exact"):
        proto = onnx.load(model)
        known = {value.name for value in proto.graph.output}
        for node in proto.graph.node:
            for name in node.output:
                if name and name not in known:
                    known.add(name)
                    proto.graph.output.append(onnx.ValueInfoProto(name=name))
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {each.name for each in session.get_inputs()}
        results: Any = session.run(None, {name: array for name, array in inputs.items() if name in feeds})
        arrays = dict(zip((each.name for each in session.get_outputs()), results, strict=True))
        return {name: arrays[name] for name in _made(proto) if isinstance(arrays.get(name), np.ndarray)}


EVALUATORS: Mapping[str, Callable[[Path, Inputs], Arrays]] = MappingProxyType(
    {"exact": exact, "onnxruntime": onnxruntime}
)
"""References by name. Each gives what the nodes of the main graph make, in order, then outputs that no node makes."""


def _made(proto: onnx.ModelProto) -> list[str]:
    made = [name for node in proto.graph.node for name in node.output if name]
    return list(dict.fromkeys((*made, *(value.name for value in proto.graph.output))))


@contextlib.contextmanager
def _explained(name: str, remedy: str) -> Generator[None]:
    """Whatever another library raises, as an EvaluationError."""
    try:
        yield
    except Exception as error:
        raise EvaluationError(f"{name} cannot evaluate the model: {type(error).__name__}: {error}; {remedy}") from error


def _replaced(model: onnx.ModelProto) -> list[Any]:
    """Operators that onnx.reference lacks in old versions (quantisation before 19) or has wrong: batch normalisation
    of versions 9 to 13 (with the batch's own statistics, as in training) and global maxima over other than two axes.
    What the old versions allow at inference means the same in the new ones that take their place."""
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops import op_batch_normalization, op_dequantize_linear, op_quantize_linear

    class GlobalMaxPool(OpRun):
        op_domain = ""

        def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
            return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)

    version = next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 0)
    bases: dict[str, Any] = {}
    if 9 <= version < 14:
        bases["BatchNormalization"] = op_batch_normalization.BatchNormalization_14
    if 10 <= version < 19:
        bases["DequantizeLinear"] = op_dequantize_linear.DequantizeLinear_25
        bases["QuantizeLinear"] = op_quantize_linear.QuantizeLinear_25
    return [GlobalMaxPool, *(type(name, (cls,), {"op_domain": ""}) for name, cls in bases.items())]


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float64) if is_float else array


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, changed in place, with f64 for every f32, f16 and bf16: weights, constants, casts and declared types."""
    for function in model.functions:
        _widen_nodes(function.node)
        for attribute in function.attribute_proto:
            _widen_attribute(attribute)
    _widen_graph(model.graph)
    return model


def _widen_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for sparse in graph.sparse_initializer:
        _widen_tensor(sparse.values)
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.WhichOneof("value")
        if kind == "tensor_type" and value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = _DOUBLE
    _widen_nodes(graph.node)


def _widen_nodes(nodes: Any) -> None:
    for node in nodes:
        for attribute in node.attribute:
            _widen_attribute(attribute)
        if node.op_type == "Constant":
            _widen_constant(node)
        elif node.op_type == "ConstantOfShape" and not node.attribute:  # f32 where nothing is said
            zero = onnx.helper.make_tensor("value", _DOUBLE, [1], [0.0])
            node.attribute.append(onnx.helper.make_attribute("value", zero))


def _widen_constant(node: onnx.NodeProto) -> None:
    """The short spellings of a constant make f32 arrays."""
    for attribute in list(node.attribute):
        if attribute.name in ("value_float", "value_floats"):
            numbers = [attribute.f] if attribute.name == "value_float" else list(attribute.floats)
            shape = [] if attribute.name == "value_float" else [len(numbers)]
            node.attribute.remove(attribute)
            tensor = onnx.helper.make_tensor("value", _DOUBLE, shape, numbers)
            node.attribute.append(onnx.helper.make_attribute("value", tensor))


def _widen_attribute(attribute: onnx.AttributeProto) -> None:
    if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _FLOATS:
        attribute.i = _DOUBLE
    if attribute.HasField("t"):
        _widen_tensor(attribute.t)
    for tensor in attribute.tensors:
        _widen_tensor(tensor)
    if attribute.HasField("g"):
        _widen_graph(attribute.g)
    for graph in attribute.graphs:
        _widen_graph(graph)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64), name))
