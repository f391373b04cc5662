"""What a compiled model is compared with, and which of the differences mean something.

In order: the imported graph interpreted, without any pass; onnx.reference in double precision; ONNX Runtime. A
difference from the second counts only where the third, if it runs the model, does not side with Ingot. None counts
where the model is ill-conditioned: its outputs change as much when it is evaluated in double precision, or when its
inputs change in the last digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from benchmarks.fuzz.build import Array
from benchmarks.fuzz.double import as_double, data_as_double
from ingot.compiler import compile, load_onnx
from ingot.compiler.frontend.errors import ModelError, UnsupportedError
from ingot.compiler.frontend.topology import graphs_of
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.validate import Difference, compare

Outputs = Mapping[str, Array]

TOLERANCE: Mapping[str, float] = {"f64": 1e-8, "f32": 1e-3, "f16": 5e-2, "bf16": 2e-1}
"""Of the largest magnitude of an output: well above what the order of sums and short series cost."""

FOREIGN: Mapping[str, float] = {**TOLERANCE, "f64": 1e-6}
"""The same for other engines, which compute some functions of f64 in f32."""

NUDGES = 3
"""How many changes of the inputs in the last digits are tried."""


class InterpreterMismatchError(AssertionError):
    """The compiled model differs from its own graph interpreted."""


class ReferenceMismatchError(AssertionError):
    """The compiled model differs from onnx.reference in double precision."""


class RuntimeMismatchError(AssertionError):
    """The compiled model differs from ONNX Runtime."""


class RefusedError(Exception):
    """Ingot says that it does not support something in the model: no failure."""


class DiscardedError(Exception):
    """A difference in an ill-conditioned model: no failure."""


def judge(path: Path, inputs: dict[str, Array], *, own_only: bool = False) -> None:
    """Compile the model at `path`, run it on `inputs` and compare with the oracles (with `own_only` the first alone).

    Raises one of the mismatches, RefusedError, DiscardedError, or what the compile or the run raises.
    """
    model = onnx.load(path)
    with np.errstate(all="ignore"):
        try:
            graph = load_onnx(path)
        except UnsupportedError as error:
            raise RefusedError(str(error)) from error
        wanted = evaluate_graph(graph, inputs)
        artifact = compile(graph, jobs=1, cache=False, repro=path.parent)
        with artifact.session(threads=1) as session:
            have = session.run(dict(inputs))
        found = compare(wanted, have, TOLERANCE)
        if found is not None:
            require_stable(model, inputs, found)
            raise InterpreterMismatchError(str(found))
        if own_only:
            return
        double = _reference(model, inputs)
        # ONNX Runtime leaves products over no elements undefined.
        runtime = _runtime(path, inputs, list(have)) if _all_filled(model, inputs) else None
        runtime = _filled(runtime, have) if runtime is not None else None
        if double is not None and (found := compare(_like(double, have), have, FOREIGN)) is not None:
            if runtime is None or compare(runtime, have, FOREIGN) is not None:
                require_stable(model, inputs, found)
                raise ReferenceMismatchError(str(found))
        elif runtime is not None and (found := compare(runtime, have, FOREIGN)) is not None and double is None:
            require_stable(model, inputs, found)
            raise RuntimeMismatchError(str(found))


def require_stable(model: onnx.ModelProto, inputs: dict[str, Array], found: Difference) -> None:
    """Raise DiscardedError where a difference as large comes from rounding alone, by the interpreter's word."""
    narrow = evaluate_graph(load_onnx(model), inputs)
    variants: list[Outputs] = []
    try:
        wide = load_onnx(as_double(model))
    except Exception:  # an operator that has no double form
        wide = None
    if wide is not None:
        variants.append(_like(evaluate_graph(wide, data_as_double(inputs)), narrow))
    rng = np.random.default_rng(0)
    for _ in range(NUDGES):
        nudged = {name: _nudged(rng, array) for name, array in inputs.items()}
        try:
            variants.append(evaluate_graph(load_onnx(_nudged_weights(rng, model)), nudged))
        except ModelError:  # a weight was a parameter, such as a scale that gives a shape
            variants.append(evaluate_graph(load_onnx(model), nudged))
    for variant in variants:
        other = compare(narrow, variant, {name: bound / 4 for name, bound in TOLERANCE.items()})
        if other is not None:
            raise DiscardedError(f"{found}; rounding alone: {other}")


def _nudged(rng: np.random.Generator, array: Array) -> Array:
    """`array` with some floats changed by a few units in the last place."""
    if array.dtype.kind != "f":
        return array
    step = 4 * np.finfo(array.dtype).eps * rng.choice([-1.0, 0.0, 1.0], array.shape)
    return np.asarray(array * (1 + step), array.dtype)


def _nudged_weights(rng: np.random.Generator, model: onnx.ModelProto) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.ndim:
            tensor.CopyFrom(onnx.numpy_helper.from_array(_nudged(rng, array), tensor.name))
    return changed


def _like(outputs: Outputs, types: Outputs) -> Outputs:
    """`outputs` in the element types of `types`, where they only differ in the width of floats."""
    return {
        name: array.astype(types[name].dtype) if array.dtype.kind == types[name].dtype.kind == "f" else array
        for name, array in outputs.items()
    }


def _reference(model: onnx.ModelProto, inputs: dict[str, Array]) -> Outputs | None:
    """onnx.reference in double precision; None where it cannot evaluate the model."""
    if any(node.op_type == "Loop" for graph in graphs_of(model.graph) for node in graph.node):
        return None  # without a condition it runs no iteration, and it drops axes of extent 1 of what is stacked
    wide = as_double(model)
    try:
        results = ReferenceEvaluator(wide).run(None, data_as_double(inputs))
    except Exception:
        return None
    return {o.name: np.asarray(r) for o, r in zip(wide.graph.output, results, strict=True)}


def _runtime(path: Path, inputs: dict[str, Array], names: list[str]) -> Outputs | None:
    """ONNX Runtime without its optimisations, of which some change results; None where it refuses the model."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        results: Any = session.run(names, inputs)
    except Exception:
        return None
    return dict(zip(names, results, strict=True))


def _all_filled(model: onnx.ModelProto, inputs: dict[str, Array]) -> bool:
    """True where no input and no weight is empty."""
    return all(a.size for a in inputs.values()) and all(0 not in t.dims for t in model.graph.initializer)


def _filled(outputs: Outputs, have: Outputs) -> Outputs:
    """`outputs` without those that are empty as in `have`: ONNX Runtime gives empty scan outputs other shapes."""
    return {name: a if a.size or have[name].size else have[name] for name, a in outputs.items()}
