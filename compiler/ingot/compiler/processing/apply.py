"""Steps joined to a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.ops.composite import Softmax
from ingot.compiler.ops.control import Require
from ingot.compiler.ops.indexing import TopK
from ingot.compiler.ops.movement import DimValues, Reshape, Transpose
from ingot.compiler.ops.pointwise import Cast, Less, Sigmoid
from ingot.compiler.ops.reduction import ArgMax
from ingot.compiler.processing.errors import ProcessingError
from ingot.compiler.processing.image import image
from ingot.compiler.processing.steps import Listed, Step, parse_step
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import i64

Outputs: TypeAlias = Sequence[tuple[str, Value]]
T = TypeVar("T")


def prepended(graph: Graph, steps: Listed) -> Graph:
    """`graph` with steps before its inputs, by label. Raises ProcessingError."""
    for label, texts in steps.items():
        for text in reversed(texts):  # the last step is next to the model
            target = _named(label, {i.label: i for i in graph.inputs}, "input")
            step = parse_step(text)
            front = _chosen(step, BEFORE)(step, target)
            graph = _before(graph, target, front)
    return graph


def appended(graph: Graph, steps: Listed) -> Graph:
    """`graph` with steps after its outputs, by name. Raises ProcessingError."""
    for label, texts in steps.items():
        for text in texts:
            value = _named(label, dict(graph.outputs), "output")
            step = parse_step(text)
            try:
                made = _chosen(step, AFTER)(step, label, value)
            except IrError as error:
                raise step.error(f"output {label} is {value.type}: {error}") from None
            outputs: list[tuple[str, Value]] = []
            for name, old in graph.outputs:
                outputs.extend(made if name == label else [(name, old)])
            names = [name for name, _ in outputs]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise step.error(f"there is an output {twice[0]} already")
            graph = replace(graph, outputs=tuple(outputs))
    return graph


def _named(label: str, known: Mapping[str, T], what: str) -> T:
    if label not in known:
        raise ProcessingError(f"the model has no {what} {label!r}; it has {', '.join(known)}")
    return known[label]


def _chosen(step: Step, known: Mapping[str, T]) -> T:
    if step.name not in known:
        raise step.error(f"there is no step {step.name!r} here; there are {', '.join(known)}")
    return known[step.name]


def _before(graph: Graph, target: Input, front: Graph) -> Graph:
    """`graph` with `front`, whose one output has the type of `target`, in place of that input."""
    (result,) = front.results
    if result.type != target.type:
        raise ProcessingError(f"the steps before {target.label} give {result.type}, the model takes {target.type}")
    joined = rebuild(graph, {target: result})
    inputs: list[Input] = []
    for old in graph.inputs:
        inputs.extend(front.inputs if old is target else (old,))
    return replace(joined, inputs=tuple(inputs), ranges={**graph.ranges, **front.ranges})


# -- before -----------------------------------------------------------------------------------------------------------


def _cast_before(step: Step, target: Input) -> Graph:
    """``cast:u8``: the caller gives that type."""
    step.require(1)
    dtype = step.dtype(_only(step, "a type, as in cast:u8"))
    given = Input(target.label, TensorType(dtype, target.shape), origin=target.origin)
    return Graph((given,), ((target.label, Cast(given, target.dtype)),))


def _transpose_before(step: Step, target: Input) -> Graph:
    """``transpose:0:2:3:1``: axis i of the model's input is axis perm[i] of what the caller gives."""
    perm = _permutation(step, target.rank)
    shape = tuple(target.shape[perm.index(axis)] for axis in range(target.rank))
    given = Input(target.label, TensorType(target.dtype, shape), origin=target.origin)
    return Graph((given,), ((target.label, Transpose(given, perm)),))


# -- after ------------------------------------------------------------------------------------------------------------


def _argmax(step: Step, label: str, value: Value) -> Outputs:
    """``argmax[:axis]``: i64 positions, without the axis (default: the last)."""
    axis = _axis(step, value)
    found = ArgMax(_with_elements(step, label, value, axis, 1), axis, True, False)
    shape = (*value.shape[:axis], *value.shape[axis + 1 :])
    return [(label, Reshape(found, shape))]


def _topk(step: Step, label: str, value: Value) -> Outputs:
    """``topk:k[,axis=a]``: the k largest in order, and their i64 positions as output ``<name>_indices``."""
    step.require(1, "axis")
    count = step.integer(_only(step, "how many, as in topk:5"))
    axis = _checked(step, step.integer(step.options.get("axis", "-1")), value)
    if count < 1:
        raise step.error(f"{count} elements are none: at least 1 is needed")
    found = TopK(_with_elements(step, label, value, axis, count), count, axis, True)
    return [(label, found.result(0)), (f"{label}_indices", found.result(1))]


def _with_elements(step: Step, label: str, value: Value, axis: int, count: int) -> Value:
    """`value`, checked to have so many elements along an axis whose extent is known when the model runs."""
    extent = value.shape[axis]
    if isinstance(extent, int):
        return value
    short = Less(DimValues((extent,), True), constant(count, i64))
    message = f"{step.text} needs {count} element(s) on axis {axis} of output {label}, and there are fewer"
    return Require((value,), short, False, message).result(0)


def _softmax(step: Step, label: str, value: Value) -> Outputs:
    """``softmax[:axis]`` (default: the last)."""
    return [(label, Softmax(value, _axis(step, value)))]


def _sigmoid(step: Step, label: str, value: Value) -> Outputs:
    step.require(0)
    return [(label, Sigmoid(value))]


def _cast_after(step: Step, label: str, value: Value) -> Outputs:
    """``cast:f16``"""
    step.require(1)
    return [(label, Cast(value, step.dtype(_only(step, "a type, as in cast:f16"))))]


def _transpose_after(step: Step, label: str, value: Value) -> Outputs:
    """``transpose:0:2:3:1``: axis i of the result is axis perm[i] of the model's output."""
    return [(label, Transpose(value, _permutation(step, value.rank)))]


# -- values -----------------------------------------------------------------------------------------------------------


def _only(step: Step, what: str) -> str:
    if not step.words:
        raise step.error(f"give {what}")
    return step.words[0]


def _permutation(step: Step, rank: int) -> tuple[int, ...]:
    step.require(1)
    perm = tuple(step.integer(text) for text in _only(step, "the axes, as in transpose:0:2:3:1").split(":"))
    if sorted(perm) != list(range(rank)):
        raise step.error(f"that is no order of the {rank} axes 0..{rank - 1}")
    return perm


def _axis(step: Step, value: Value) -> int:
    step.require(1)
    return _checked(step, step.integer(step.words[0] if step.words else "-1"), value)


def _checked(step: Step, axis: int, value: Value) -> int:
    if not -value.rank <= axis < value.rank:
        raise step.error(f"there is no axis {axis} in {value.type}")
    return axis % value.rank


BEFORE: Mapping[str, Callable[[Step, Input], Graph]] = MappingProxyType(
    {"image": image, "cast": _cast_before, "transpose": _transpose_before}
)
AFTER: Mapping[str, Callable[[Step, str, Value], Outputs]] = MappingProxyType(
    {
        "argmax": _argmax,
        "topk": _topk,
        "softmax": _softmax,
        "sigmoid": _sigmoid,
        "cast": _cast_after,
        "transpose": _transpose_after,
    }
)
