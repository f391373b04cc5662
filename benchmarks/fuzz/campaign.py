"""One model of a campaign: what came of it, and failures kept with their inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from benchmarks.fuzz.build import Array, numpy_type
from benchmarks.fuzz.generate import Sample
from benchmarks.fuzz.oracles import DiscardedError, RefusedError, judge
from ingot.compiler.debug.failure import Failure
from ingot.compiler.debug.reduction import ReductionError, reduce_model
from ingot.compiler.debug.sandbox import Sandbox
from ingot.compiler.debug.trial import Trial

PEER = "PeerCrash"
HARMLESS = (RefusedError.__name__, DiscardedError.__name__, PEER)
"""Outcomes that are no failures of Ingot."""

PATIENCE = 10
"""What does not end in its time is tried once more with so many times as much: the machine may have been busy."""


def examine(path: Path) -> None:
    """All oracles on the model at `path`, whose inputs lie beside it; models with special numbers, on which the oracles
    do not agree with each other, only against Ingot's own interpreter."""
    inputs = inputs_of(path)
    judge(path, inputs, own_only=has_special(inputs))


def examine_alone(path: Path) -> None:
    """As `examine`, but against Ingot's own interpreter alone."""
    judge(path, inputs_of(path), own_only=True)


def inputs_of(path: Path) -> dict[str, Array]:
    """The inputs that lie beside the model at `path`, in its types: numpy's files have no names for types that numpy
    lacks, such as bfloat16, and give them back as bytes."""
    types = {
        info.name: onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        for info in onnx.load(path).graph.input
    }
    with np.load(path.with_suffix(".npz")) as arrays:
        stored = {name: arrays[name] for name in arrays.files}
    return {name: array.view(types[name]) if array.dtype.kind == "V" else array for name, array in stored.items()}


def attempt(sandbox: Sandbox, sample: Sample) -> Failure | None:
    """All oracles on a sample; a crash counts only where it is not one of the other engines, a hang where more time
    does not help."""
    model = sample.model.SerializeToString()
    failure = sandbox.attempt(Trial(check=examine), model, sample.data)
    if failure is not None and failure.kind == "hang":
        with Sandbox(PATIENCE * sandbox.seconds) as patient:
            failure = patient.attempt(Trial(check=examine), model, sample.data)
    if failure is not None and failure.kind in ("crash", "hang"):
        return sandbox.attempt(Trial(check=examine_alone), model, sample.data) or Failure("check", PEER, str(failure))
    return failure


def has_special(inputs: dict[str, Array]) -> bool:
    """True where an input holds NaN, infinities or huge numbers."""
    floats = [a for a in inputs.values() if a.dtype.kind == "f" or a.dtype == numpy_type("bfloat16")]
    with np.errstate(all="ignore"):
        return any(not bool((np.abs(array) < 1e4).all()) for array in floats)


def outcome(failure: Failure | None) -> str:
    """The kind of a result: "agreed", the class of the exception, "crash" or "hang"."""
    return "agreed" if failure is None else failure.error if failure.kind == "check" else failure.kind


def save(folder: Path, seed: int, sample: Sample, sandbox: Sandbox, seconds: float) -> str:
    """Write the model of a failure and its inputs, and reduce it for at most `seconds`; what was reached, as text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seed-{seed}.onnx"
    onnx.save(sample.model, path)
    np.savez(path.with_suffix(".npz"), allow_pickle=False, **sample.data)
    if not seconds:
        return ""
    trial = Trial(check=examine)
    try:
        reduced = reduce_model(
            sample.model, lambda model, data: sandbox.attempt(trial, model, data), data=sample.data, seconds=seconds
        )
    except ReductionError as error:  # it did not fail a second time
        return f"not reduced: {error}"
    small = folder / f"seed-{seed}.small.onnx"
    onnx.save(reduced.case.model, small)
    np.savez(small.with_suffix(".npz"), allow_pickle=False, **dict(reduced.case.data or {}))
    return f"{onnx.printer.to_text(reduced.case.model)}\n{reduced.failure}"
