"""onnx's light models, whose weights are left out, with random weights put in.

The files are part of the onnx package (onnx/backend/test/data/light). A weight is the result of a ConstantOfShape or an
initialiser; both become initialisers whose values suit the place where they are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.zoo.specification import Model, Variant

Array = NDArray[Any]


def rebuild(model: Model, variant: Variant, path: Path) -> None:
    """Write the model with weights to `path`; the tiny variant has its channels divided."""
    options = model.options(variant)
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    proto = onnx.load(folder / options["file"])
    graph = proto.graph
    shapes = {i.name: list(i.dims) for i in graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    made = [node for node in graph.node if node.op_type == "ConstantOfShape" and node.input[0] in stored]
    shapes |= {node.output[0]: stored[node.input[0]].tolist() for node in made}
    kept = [node for node in graph.node if node.op_type != "ConstantOfShape" or node.input[0] not in stored]

    roles = _roles(kept, shapes)
    rng = np.random.default_rng(model.seed)
    divide, classes = options["divide"], 1000
    values: dict[str, Array] = {}
    for name in sorted(roles):
        values[name] = _weight(roles[name], _divided(shapes[name], roles[name], divide, classes), rng)
    for name, array in stored.items():  # the extents that Reshape flattens to
        if array.dtype == np.int64 and any(name in node.input[1:] for node in kept if node.op_type == "Reshape"):
            flat = array.ndim == 1 and len(array) == 2
            values[name] = np.array([array[0], -1], np.int64) if flat and divide > 1 else array

    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in sorted(values))
    inputs = {made.name for made in model.inputs(options)}
    declared = [i for i in graph.input if i.name in inputs]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(declared)
    proto.ir_version = max(proto.ir_version, 4)  # from 4 on initialisers need not be inputs
    if logits := _last_weight(kept, values):
        _moderate(proto, model, variant, logits)
    onnx.save(proto, path)


def _roles(nodes: list[onnx.NodeProto], shapes: dict[str, list[int]]) -> dict[str, tuple[str, int]]:
    """Which operand of which operator a weight is; Unsqueeze and Reshape between the two are looked through."""
    readers = {name: (node, index) for node in nodes for index, name in enumerate(node.input)}
    roles: dict[str, tuple[str, int]] = {}
    for name in shapes:
        if name not in readers:
            continue
        reader, index = readers[name]
        while reader.op_type in ("Unsqueeze", "Reshape"):
            reader, index = readers[reader.output[0]]
        roles[name] = (reader.op_type, index)
    return roles


def _divided(shape: list[int], role: tuple[str, int], divide: int, classes: int) -> list[int]:
    """The shape with channels divided. Ones, the image's three, the classes and kernels' extents stay."""
    kernel = range(2, len(shape)) if role[0] == "Conv" else ()
    return [
        extent if axis in kernel or extent in (1, 3, classes) else extent // divide for axis, extent in enumerate(shape)
    ]


def _weight(role: tuple[str, int], shape: list[int], rng: np.random.Generator) -> Array:
    """Kernels after He et al. 2015, scales and variances near one, everything else small."""
    match role:
        case ("Conv" | "Gemm", 1):
            fan_in = shape[-1] if role[0] == "Gemm" else float(np.prod(shape[1:]))
            values = rng.standard_normal(shape, np.float32) * (2.0 / fan_in) ** 0.5
        case ("BatchNormalization", 1 | 4) | ("Mul", 1):
            values = rng.uniform(0.8, 1.2, shape)
        case _:
            values = rng.standard_normal(shape, np.float32) * 0.05
    return np.asarray(values, np.float32)


def _last_weight(nodes: list[onnx.NodeProto], values: dict[str, Array]) -> tuple[str, str] | None:
    """The last kernel that is followed by Softmax, and the result that it makes."""
    if nodes[-1].op_type != "Softmax":
        return None
    last = next(node for node in reversed(nodes) if node.op_type in ("Conv", "Gemm"))
    producers = {node.output[0]: node for node in nodes}
    weight = last.input[1]
    while weight not in values:
        weight = producers[weight].input[0]
    return weight, last.output[0]


def _moderate(proto: onnx.ModelProto, model: Model, variant: Variant, logits: tuple[str, str]) -> None:
    """Scale the last kernel so that the logits have deviation two: neither uniform nor one-hot after Softmax."""
    import onnxruntime

    weight, result = logits
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(result))
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run([result], model.arrays(variant, {}))
    for tensor in proto.graph.initializer:
        if tensor.name == weight:
            scaled = numpy_helper.to_array(tensor) * np.float32(2.0 / float(np.std(np.asarray(found))))
            tensor.CopyFrom(numpy_helper.from_array(scaled, weight))
