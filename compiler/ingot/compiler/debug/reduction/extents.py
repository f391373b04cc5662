"""Smaller extents: dims of inputs, weights, shape constants and attributes are changed together, by their value."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
import onnx
from onnx import numpy_helper

from ingot.compiler.debug.reduction.case import Case, copied, infer
from ingot.compiler.frontend.topology import graphs_of
from ingot.compiler.ir.graph import Array

FEW = 64
"""Integer constants of at most so many elements may be shapes."""

SMALL = (1, 2, 3)
"""What extents are tried at, besides their halves."""


def smaller_extents(case: Case) -> Generator[Case, bool, None]:
    """Every extent, large ones first, as 1, 2, 3 or its half wherever the number stands; then with its multiples."""
    for multiples in (False, True):
        for extent in sorted(_extents(case), reverse=True):
            for new in (*(s for s in SMALL if s < extent), *((extent // 2,) if extent // 2 > max(SMALL) else ())):
                candidate = _resized(case, _changed(extent, new, multiples))
                if candidate is not None and (yield candidate):
                    case = candidate
                    break


def fixed_dims(case: Case) -> Generator[Case, bool, None]:
    """Named dims as the numbers 1, 2 or 3 (with data: what they are)."""
    for name in sorted({d.dim_param for i in case.model.graph.input for d in _dims(i) if d.dim_param}):
        known = {
            shape[axis]
            for i in case.model.graph.input
            for shape in ([case.data[i.name].shape] if case.data is not None else [])
            for axis, d in enumerate(_dims(i))
            if d.dim_param == name
        }
        for value in sorted(known) or SMALL:
            model = copied(case.model)
            for graph in graphs_of(model.graph):
                for info in (*graph.input, *graph.output, *graph.value_info):
                    for d in _dims(info):
                        if d.dim_param == name:
                            d.dim_value = value
            if (yield Case(model, case.data)):
                case = Case(model, case.data)
                break


def shorter_axes(case: Case) -> Generator[Case, bool, None]:
    """Each axis of each input alone as 1 or 2."""
    for number, value in enumerate(case.model.graph.input):
        for axis in range(len(_dims(value))):
            for new in SMALL[:2]:
                d = _dims(case.model.graph.input[number])[axis]
                if not d.HasField("dim_value") or d.dim_value <= new:
                    continue
                model = copied(case.model)
                _dims(model.graph.input[number])[axis].dim_value = new
                data = case.data
                if data is not None:
                    name = value.name
                    data = {**data, name: np.take(data[name], range(new), axis)}
                candidate = Case(_retyped(model), data)
                if (yield candidate):
                    case = candidate
                    break


def _changed(extent: int, new: int, multiples: bool) -> Callable[[int], int]:
    """What a number becomes when `extent`, and maybe all its multiples, become `new` and its multiples."""

    def change(number: int) -> int:
        if multiples and extent > 1 and number > 0 and number % extent == 0:
            return number // extent * new
        return new if number == extent else number

    return change


def _extents(case: Case) -> set[int]:
    """The extents of inputs and initialisers, from 2."""
    found = {d.dim_value for i in case.model.graph.input for d in _dims(i)}
    found |= {d for g in graphs_of(case.model.graph) for t in g.initializer for d in t.dims}
    return {d for d in found if d > 1}


def _resized(case: Case, change: Callable[[int], int]) -> Case | None:
    """`case` with `change` applied to every extent; None where nothing changes."""
    model = copied(case.model)
    before = model.SerializeToString(deterministic=True)
    for graph in graphs_of(model.graph):
        for info in graph.input:
            for d in _dims(info):
                if d.HasField("dim_value"):
                    d.dim_value = change(d.dim_value)
        for tensor in graph.initializer:
            _resize(tensor, change)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    _resize(attribute.t, change)
                elif attribute.type == onnx.AttributeProto.INT and attribute.name not in ("to", "axis", "dtype"):
                    attribute.i = change(attribute.i)
                elif attribute.type == onnx.AttributeProto.INTS and attribute.name not in ("perm", "axes"):
                    attribute.ints[:] = [change(i) for i in attribute.ints]
    if model.SerializeToString(deterministic=True) == before:
        return None
    data = case.data
    if data is not None:
        data = {name: _taken(array, tuple(map(change, array.shape))) for name, array in data.items()}
    return Case(_retyped(model), data)


def _resize(tensor: onnx.TensorProto, change: Callable[[int], int]) -> None:
    array = numpy_helper.to_array(tensor)
    shape = tuple(map(change, array.shape))
    changed: Array = _taken(array, shape)
    if array.dtype.kind == "i" and array.size <= FEW:
        changed = np.array([change(int(x)) for x in changed.flat], array.dtype).reshape(shape)
    if shape != array.shape or not np.array_equal(changed, array):
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed).reshape(shape), tensor.name))


def _taken(array: Array, shape: tuple[int, ...]) -> Array:
    """The first elements of `array` along each axis."""
    return array[tuple(slice(0, n) for n in shape)]


def _retyped(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with the types of computed tensors as they follow from its inputs."""
    graph = model.graph
    for inner in graphs_of(graph):
        del inner.value_info[:]
    given = {i.name for i in graph.input}
    for inner in graphs_of(graph):
        for output in inner.output:
            if output.name not in given:
                output.type.tensor_type.ClearField("shape")
    types = infer(model)
    for output in graph.output:
        if output.name in types:
            output.type.CopyFrom(types[output.name].type)
    return model


def _dims(info: onnx.ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(info.type.tensor_type.shape.dim) if info.type.WhichOneof("value") == "tensor_type" else []
