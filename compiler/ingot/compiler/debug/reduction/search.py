"""The search: all mutations in turn until none helps any more."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import onnx

from ingot.compiler.debug.failure import Failure
from ingot.compiler.debug.reduction.case import Case, Mutation
from ingot.compiler.debug.reduction.contents import (
    constants_for_inputs,
    fewer_attributes,
    simpler_constants,
    without_clutter,
)
from ingot.compiler.debug.reduction.extents import fixed_dims, shorter_axes, smaller_extents
from ingot.compiler.debug.reduction.structure import (
    bypassed,
    earlier_output,
    fewer_nodes,
    fewer_outputs,
    inlined,
    later_inputs,
)
from ingot.compiler.frontend.mapping import map_file
from ingot.compiler.frontend.weights import open_model
from ingot.compiler.ir.graph import Array

MUTATIONS: Sequence[Mutation] = (
    fewer_outputs,
    earlier_output,
    later_inputs,
    fewer_nodes,
    inlined,
    bypassed,
    smaller_extents,
    shorter_axes,
    fixed_dims,
    fewer_attributes,
    simpler_constants,
    constants_for_inputs,
    without_clutter,
)
"""In the order in which they are tried: what takes most away comes first."""

LARGEST = 2**31 - 1
"""Bytes of a model that protobuf can hold."""


class ReductionError(ValueError):
    """The model cannot be reduced; the message says why."""


@dataclass(frozen=True, eq=False)
class Reduced:
    """The smallest case found and its failure; how many cases were tried; whether time ran out before the end."""

    case: Case
    failure: Failure
    tried: int
    stopped: bool


def reduce_model(
    model: onnx.ModelProto,
    try_case: Callable[[bytes, Mapping[str, Array] | None], Failure | None],
    *,
    data: Mapping[str, Array] | None = None,
    seconds: float = 300.0,
    progress: Callable[[str], None] = lambda message: None,
    accepted: Callable[[Case], None] = lambda case: None,
) -> Reduced:
    """The smallest model found that fails as `model` does (`Failure.is_like`).

    `try_case` gets a serialised model and its data and gives the failure or None. `data`: inputs by name; where they
    are given, those of smaller models are made of them. No step is begun after `seconds`; without that limit the same
    model gives the same result. Every case that is tried passes onnx.checker if `model` does. `accepted` is called with
    every smaller case that fails. Raises ReductionError where `model` does not fail or is too large.
    """
    deadline = monotonic() + seconds
    best = Case(model, data)
    if model.ByteSize() > LARGEST:
        raise ReductionError("the model is larger than 2 GB; cut a part of it first (ingot cut)")
    first = try_case(model.SerializeToString(), data)
    if first is None:
        raise ReductionError("the model does not fail")
    if first.kind == "reference":
        raise ReductionError(f"the model cannot be evaluated on its inputs, nothing can be compared: {first.message}")
    valid = _is_valid(model)
    seen: set[bytes] = set()
    failure = first
    tried = 0
    shrunk = True
    while shrunk:
        shrunk = False
        for mutation in MUTATIONS:
            candidates = mutation(best)
            answer: bool | None = None
            while True:
                try:
                    candidate = candidates.send(answer) if answer is not None else next(candidates)
                except StopIteration:
                    break
                answer = False
                key = _key(candidate)
                if key in seen or (valid and not _is_valid(candidate.model)):
                    continue
                if monotonic() > deadline:
                    return Reduced(best, failure, tried, stopped=True)
                seen.add(key)
                tried += 1
                found = try_case(candidate.model.SerializeToString(), candidate.data)
                answer = found is not None and found.is_like(first)
                if found is not None and answer:
                    best, failure, shrunk = candidate, found, True
                    accepted(best)
                nodes, ends, elements = best.size
                size = f"{nodes} nodes, {ends} inputs and outputs, {elements} weights"
                progress(f"{mutation.__name__}: {tried} tried; {size}")
    return Reduced(best, failure, tried, stopped=False)


def read_model(path: Path) -> onnx.ModelProto:
    """The model with all its weights in memory. Raises ModelError, ReductionError."""
    open_model(map_file(path), str(path), path.parent)
    try:
        return onnx.load(path)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ReductionError(f"its weights cannot be read: {error}") from error


def _key(case: Case) -> bytes:
    """Equal for equal cases."""
    digest = hashlib.sha256(case.model.SerializeToString(deterministic=True))
    for name, array in (case.data or {}).items():
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    return digest.digest()


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return False
    return True
