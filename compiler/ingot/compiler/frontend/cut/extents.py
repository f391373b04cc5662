"""Other dims: a dim_param gets a value or another name, an input other extents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx

from ingot.compiler.frontend.cut.errors import CutError, near
from ingot.compiler.frontend.topology import subgraphs
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Expr

Extents = Sequence[tuple[str, Sequence[int | str]]]
Infer = Callable[[onnx.ModelProto], Mapping[str, onnx.ValueInfoProto]]


def change_dims(model: onnx.ModelProto, changes: Extents, infer: Infer) -> None:
    """Change dims of `model` in place.

    A change names an input or output and gives all its dims, or a dim_param and gives one: an int or a name. A
    dim_param changes wherever it stands, in expressions such as ``2*batch`` too. Where an extent that the model fixes
    becomes another, declared types of intermediate tensors are dropped and those of the outputs inferred anew with
    `infer`, which raises CutError when the model cannot take the new dims. Raises CutError.
    """
    graph = model.graph
    ends = {v.name: v for v in (*graph.input, *graph.output)}
    params = dict.fromkeys(d.dim_param for info in _infos(graph) for d in _dims(info) if d.dim_param)
    values: dict[str, int | str] = {}
    fixed: list[tuple[onnx.TensorShapeProto.Dimension, int | str]] = []
    for name, wanted in changes:
        if name in ends and not (len(wanted) == 1 and name in params and len(_dims(ends[name])) != 1):
            fixed += _change_tensor(ends[name], wanted, values)
        elif name in params and len(wanted) == 1:
            _assign(values, name, wanted[0])
        elif name in params:
            raise CutError(f"{name!r} is a dim, which has one value, not {len(wanted)}")
        else:
            raise CutError(f"{name!r} is no input, output or named dim{near(name, (*params, *ends))}")
    for info in _infos(graph):
        for d in _dims(info):
            if d.dim_param:
                _set(d, _substituted(d.dim_param, values))
    for d, value in fixed:
        _set(d, value)
    if fixed:
        _infer_anew(model, infer)


def _change_tensor(
    info: onnx.ValueInfoProto, wanted: Sequence[int | str], values: dict[str, int | str]
) -> list[tuple[onnx.TensorShapeProto.Dimension, int | str]]:
    """Enter what `wanted` says of dim_params into `values`; the dims that are not dim_params and change."""
    tensor = info.type.tensor_type
    if info.type.WhichOneof("value") != "tensor_type":
        raise CutError(f"{info.name!r} is no tensor: it has no dims")
    if not tensor.HasField("shape"):
        tensor.shape.CopyFrom(onnx.TensorShapeProto(dim=[onnx.TensorShapeProto.Dimension() for _ in wanted]))
    if len(tensor.shape.dim) != len(wanted):
        raise CutError(f"{info.name!r} has {len(tensor.shape.dim)} axes, {len(wanted)} dims are given")
    changed: list[tuple[onnx.TensorShapeProto.Dimension, int | str]] = []
    for d, value in zip(tensor.shape.dim, wanted, strict=True):
        if d.dim_param and d.dim_param != value:
            _assign(values, d.dim_param, value)
        elif not d.dim_param and not (d.WhichOneof("value") == "dim_value" and d.dim_value == value):
            changed.append((d, value))
    return changed


def _assign(values: dict[str, int | str], name: str, value: int | str) -> None:
    if values.setdefault(name, value) != value:
        raise CutError(f"the dim {name!r} is given the values {values[name]} and {value}")


def _set(d: onnx.TensorShapeProto.Dimension, value: int | str) -> None:
    if isinstance(value, int):
        d.dim_value = value
    else:
        d.dim_param = value


def _substituted(param: str, values: Mapping[str, int | str]) -> int | str:
    """A dim_param, or an expression over dim_params, with the new values."""
    if param in values:
        return values[param]
    try:
        expression = dims.parse(param)
    except dims.DimSyntaxError:
        return param
    named = dims.symbols(expression)
    if not isinstance(expression, Expr) or not named & values.keys():
        return param
    try:
        new = {name: dims.parse(str(values[name])) for name in named & values.keys()}
    except dims.DimSyntaxError:  # a name that is no identifier
        return param
    try:
        result = dims.substitute(expression, new)
    except ArithmeticError as error:
        raise CutError(f"the dim {param} cannot be computed: {error}") from error
    return result if isinstance(result, int) else dims.show(result)


def _infer_anew(model: onnx.ModelProto, infer: Infer) -> None:
    """Declared types of computed tensors speak of the old extents."""
    graph = model.graph
    del graph.value_info[:]
    for node in graph.node:
        for inner in subgraphs(node):
            del inner.value_info[:]
    given = {i.name for i in graph.input}
    for output in graph.output:
        if output.name not in given and output.type.WhichOneof("value") == "tensor_type":
            output.type.tensor_type.ClearField("shape")
    found = infer(model)
    for output in graph.output:
        if output.name in found and output.name not in given:
            output.type.CopyFrom(found[output.name].type)


def _infos(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """All declared types, those in sub-graphs too."""
    yield from (*graph.input, *graph.output, *graph.value_info)
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _infos(inner)


def _dims(info: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    return info.type.tensor_type.shape.dim if info.type.WhichOneof("value") == "tensor_type" else ()
