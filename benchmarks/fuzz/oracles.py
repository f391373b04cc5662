"""What a compiled model is compared with, and which of the differences mean something.

In order: the imported graph interpreted, without any pass, for two sizes of each open axis; onnx.reference in double
precision; ONNX Runtime; and the model after a detour (detours.py). A difference from the second counts only where the
third, if it runs the model, does not side with Ingot. None counts where the model is ill-conditioned: the output
changes as much when it is evaluated in double precision, when inputs change in the last digits, or when the results of
its operators do.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from benchmarks.fuzz.build import LARGEST, Array, numpy_type
from benchmarks.fuzz.detours import DETOURS, FOREIGN_DETOURS, NEWEST_OF_RUNTIME, gathers_strings
from benchmarks.fuzz.double import as_double, data_as_double
from ingot.compiler import compile, load_onnx
from ingot.compiler.frontend.errors import ModelError, UnsupportedError
from ingot.compiler.frontend.topology import graphs_of
from ingot.compiler.ir import interpret
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Graph, Node
from ingot.compiler.ir.interpret import BindingError, evaluate_graph
from ingot.compiler.ir.types import IrError
from ingot.compiler.ops import movement
from ingot.compiler.ops.pointwise import Pointwise
from ingot.compiler.request import Numerics
from ingot.compiler.validate import Difference, compare

Outputs = Mapping[str, Array]


class Settings(TypedDict):
    """What `compile` is asked for."""

    target: str
    checked: bool
    numerics: Numerics


TOLERANCE: Mapping[str, float] = {"f64": 1e-8, "f32": 1e-3, "f16": 5e-2, "bf16": 2e-1}
"""Of the largest magnitude of an output: well above what the order of sums and short series cost."""

FOREIGN: Mapping[str, float] = {**TOLERANCE, "f64": 1e-6}
"""The same for other engines, which compute some functions of f64 in f32."""

WINDOWS = ("BlackmanWindow", "HammingWindow", "HannWindow")
"""Operators that are defined in f32 whatever they give: no digits of their f64 are wrong that f32 does not have."""

EDGES = (0, 1, 41)
"""Extents that all open axes have at once, one of them in each model."""

NUDGES = 3
"""How many changes in the last digits are tried, of inputs and of all results."""

MISJUDGED = {"Loop": 99, "OptionalHasElement": 99, "TfIdfVectorizer": 99, "LRN": 99, "BatchNormalization": 13}
"""What onnx.reference has otherwise than the standard, up to an opset (docs/disagreements.md); also, it drops axes of
extent 1 of what a Loop stacks."""

NEGLIGIBLE: Mapping[str, float] = {"float32": 1e-6, "float16": 1e-3}
"""Differences from other engines that do not count however small the output: they compute exp(x) - 1 literally."""

EXACT = (movement.__name__, "Abs", "Neg", "Relu", "Max", "Min", "Clip", "Where", "Identity", "Cast", "Floor", "Ceil",
         "Round", "Sign", "ReduceMax", "ReduceMin")  # fmt: skip
"""Operators whose results are not rounded, by module or name."""


class InterpreterMismatchError(AssertionError):
    """The compiled model differs from its own graph interpreted."""


class ReferenceMismatchError(AssertionError):
    """The compiled model differs from onnx.reference in double precision."""


class RuntimeMismatchError(AssertionError):
    """The compiled model differs from ONNX Runtime."""


class DetourMismatchError(AssertionError):
    """The model comes back from a detour as another one."""


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
        artifact = compile(graph, **settings(model), jobs=1, cache=False, repro=path.parent)
        with artifact.session(threads=2 if sum(array.size for array in inputs.values()) > LARGEST else 1) as session:
            have = session.run(dict(inputs))
            _require_same(model, inputs, wanted, have)
            for others in _resized(model, inputs):
                with suppress(IrError, BindingError, ValueError, IndexError):  # these sizes do not fit the model
                    wanted = evaluate_graph(graph, others)
                    _require_same(model, others, wanted, session.run(others))
        if not own_only:
            double, runtime = reference(model, inputs), _runtime(model, inputs, list(have))
            for name, array in have.items():
                _confront(model, inputs, name, array, double.get(name), runtime.get(name))
        _require_same_by_detour(path, graph, inputs, own_only=own_only)


def _require_same_by_detour(path: Path, graph: Graph, inputs: dict[str, Array], *, own_only: bool) -> None:
    """Raise DetourMismatchError where the model that comes back from a detour, one for each model, gives otherwise."""
    model = onnx.load(path)
    code = zlib.crc32(model.graph.name.encode()) // 16
    detour = DETOURS[code % len(DETOURS)]
    name = detour.__name__
    if own_only and detour in FOREIGN_DETOURS:
        return
    try:
        back = detour(path, graph, np.random.default_rng(code))
    except UnsupportedError as error:
        raise RefusedError(f"{name}: {error}") from error
    except ModelError as error:
        raise DetourMismatchError(f"{name}: {error}") from error
    if back is None:
        return
    bounds = FOREIGN if detour in FOREIGN_DETOURS else TOLERANCE
    found = compare(evaluate_graph(graph, inputs), evaluate_graph(back, inputs), bounds)
    if found is not None:
        require_stable(model, inputs, found)
        raise DetourMismatchError(f"{name}: {found}")


def _confront(
    model: onnx.ModelProto,
    inputs: dict[str, Array],
    name: str,
    have: Array,
    double: Array | None,
    runtime: Array | None,
) -> None:
    """Raise a mismatch where the other engines' word on an output is another than ours."""

    def differs(other: Array) -> Difference | None:
        other = other.astype(object) if other.dtype.kind == "U" else other
        is_wider = other.dtype != have.dtype and other.dtype.kind == have.dtype.kind == "f"
        other = other.astype(have.dtype) if is_wider else other
        if have.dtype.kind == "f" and have.shape == other.shape:
            bound = NEGLIGIBLE.get(have.dtype.name, 0.0)
            if np.allclose(have, other, rtol=0.0, atol=bound, equal_nan=True):
                return None
        return compare({name: other}, {name: have}, FOREIGN)

    if double is not None and (found := differs(double)) is not None:
        if runtime is None or differs(runtime) is not None:
            require_stable(model, inputs, found)
            raise ReferenceMismatchError(str(found))
    elif runtime is not None and (found := differs(runtime)) is not None and double is None:
        require_stable(model, inputs, found)
        raise RuntimeMismatchError(str(found))


def settings(model: onnx.ModelProto) -> Settings:
    """How a model is compiled, by its name: for this very machine or the portable level, few with checks of every
    access to memory, fewer of these for this machine, whose long kernels then take most of a campaign's time, few with
    strict numerics."""
    code = zlib.crc32(model.graph.name.encode())
    numerics: Numerics = "strict" if code % 16 == 4 else "default"
    return {"target": ("native", "cpu")[code % 2], "checked": code % 16 == 3 or code % 128 == 2, "numerics": numerics}


def _require_same(model: onnx.ModelProto, inputs: dict[str, Array], wanted: Outputs, have: Outputs) -> None:
    found = compare(wanted, have, FOREIGN if any(node.op_type in WINDOWS for node in model.graph.node) else TOLERANCE)
    if found is not None:
        require_stable(model, inputs, found)
        raise InterpreterMismatchError(str(found))


def _resized(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[dict[str, Array]]:
    """Inputs in which every open axis has another extent, and inputs in which they all have none, one or many."""
    axes = {
        info.name: [(axis, d.dim_param) for axis, d in enumerate(info.type.tensor_type.shape.dim) if d.dim_param]
        for info in model.graph.input
    }
    if not any(axes.values()):
        return []
    same = EDGES[zlib.crc32(model.graph.name.encode()) // 256 % len(EDGES)]
    others: tuple[dict[str, Array], dict[str, Array]] = {}, {}
    for name, array in inputs.items():
        for place, found in enumerate(others):
            found[name] = array
            for axis, symbol in axes[name]:
                have = array.shape[axis]
                extent = same if place else have + (1 if symbol == "batch" else 2) if have % 2 else 2
                found[name] = _stretched(found[name], axis, extent)
    return list(others)


def _stretched(array: Array, axis: int, extent: int) -> Array:
    """`array` with `extent` elements along an axis, those that it has over and over."""
    if not array.size:
        return np.zeros((*array.shape[:axis], extent, *array.shape[axis + 1 :]), array.dtype)
    return np.take(array, np.arange(extent) % array.shape[axis], axis)


def require_stable(model: onnx.ModelProto, inputs: dict[str, Array], found: Difference) -> None:
    """Raise DiscardedError where a difference as large comes from rounding alone, by the interpreter's word: also where
    it finds infinities though no input holds any."""
    narrow = evaluate_graph(graph := load_onnx(model), inputs)
    if found.output in narrow and is_finite(inputs) and not is_finite(narrow, found.output):
        raise DiscardedError(f"{found}; it overflows")
    variants: list[Outputs] = []
    try:
        wide = load_onnx(as_double(model))
        variants.append(_like(evaluate_graph(wide, data_as_double(inputs)), narrow))
    except Exception:  # an operator that has no double form
        variants.clear()
    rng = np.random.default_rng(0)
    for _ in range(NUDGES):
        nudged = {name: _nudged(rng, array) for name, array in inputs.items()}
        try:
            variants.append(evaluate_graph(load_onnx(_nudged_weights(rng, model)), nudged))
        except ModelError:  # a weight was a parameter, such as a scale that gives a shape
            variants.append(evaluate_graph(graph, nudged))
        variants.append(_rounded_otherwise(rng, graph, inputs))
    if (array := narrow.get(found.output)) is None:
        return
    for variant in variants:
        changed = variant.get(found.output)
        if changed is not None and changed.shape == array.shape:
            bounds = {name: bound / 4 for name, bound in TOLERANCE.items()}
            other = compare({found.output: array}, {found.output: changed}, bounds)
            if other is not None:
                raise DiscardedError(f"{found}; rounding alone: {other}")


def _rounded_otherwise(rng: np.random.Generator, graph: Graph, inputs: dict[str, Array]) -> Outputs:
    """The outputs where every result of an operator that rounds is off by a few units in the last place."""
    evaluate = interpret._evaluate  # pyright: ignore[reportPrivateUsage]

    def disturbed(node: Node, operands: Sequence[Array], values: Mapping[str, Dim]) -> tuple[Array, ...]:
        results = evaluate(node, operands, values)
        is_exact = type(node).__module__ in EXACT or type(node).__name__ in EXACT
        is_sum = not isinstance(node, Pointwise)  # whose terms may cancel
        return results if is_exact else tuple(_nudged(rng, array, absolute=is_sum) for array in results)

    interpret._evaluate = disturbed  # pyright: ignore[reportPrivateUsage]
    try:
        return evaluate_graph(graph, inputs)
    finally:
        interpret._evaluate = evaluate  # pyright: ignore[reportPrivateUsage]


def is_finite(arrays: Outputs, *names: str) -> bool:
    """Whether the floats of these arrays, of all by default, are numbers."""
    floats = [arrays[name] for name in names or arrays if arrays[name].dtype.kind == "f"]
    return all(bool(np.isfinite(array).all()) for array in floats)


def _nudged(rng: np.random.Generator, array: Array, *, absolute: bool = False) -> Array:
    """`array` with some floats changed by a few units in the last place, their own or that of the largest."""
    if array.dtype == numpy_type("bfloat16"):
        unit = 2.0**-8
    elif array.dtype.kind == "f" and array.dtype.isbuiltin == 1:  # of the others every digit counts
        unit = 4 * float(np.finfo(array.dtype).eps)
    else:
        return array
    step = unit * rng.choice([-1.0, 0.0, 1.0], array.shape)
    wide = array.astype(np.float64)
    largest = np.max(np.abs(wide), initial=0.0, where=np.isfinite(wide)) if absolute else wide
    return np.asarray(wide + step * largest).astype(array.dtype)


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


def reference(model: onnx.ModelProto, inputs: dict[str, Array]) -> Outputs:
    """What onnx.reference gives in double precision, if it can evaluate the model: nothing where a tensor in it has
    another shape than ONNX infers, which a later operator would hide."""
    opset, nodes = model.opset_import[0].version, [n for graph in graphs_of(model.graph) for n in graph.node]
    if any(opset <= MISJUDGED.get(node.op_type, 0) or _is_simplified(node) for node in nodes):
        return {}
    wide = onnx.shape_inference.infer_shapes(as_double(model))
    try:
        results: Any = ReferenceEvaluator(wide).run(None, data_as_double(inputs), intermediate=True)
    except Exception:
        return {}
    for info in (*wide.graph.value_info, *wide.graph.output):
        is_declared = info.type.tensor_type.HasField("shape")
        if is_declared and not _fits(np.shape(results[info.name]), info.type.tensor_type.shape.dim):
            return {}
    return {info.name: np.asarray(results[info.name]) for info in wide.graph.output}


def _is_simplified(node: onnx.NodeProto) -> bool:
    """Whether onnx.reference leaves out something that the operator is asked for."""
    if node.op_type == "Unique":  # it sorts whatever `sorted` says where the elements alone are wanted
        return len(node.output) == 1 and any(a.name == "sorted" and not a.i for a in node.attribute)
    if node.op_type in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"):
        return any(a.name == "ignore_index" for a in node.attribute)  # the mean counts what is ignored
    if node.op_type not in ("RNN", "GRU", "LSTM"):
        return False
    lengths = len(node.input) > 4 and node.input[4] != ""
    return lengths or any(a.name in ("activations", "clip", "layout") for a in node.attribute)


def _has_softplus_cells(node: onnx.NodeProto) -> bool:
    """Whether a recurrent layer has the activation Softplus, of which ONNX Runtime takes the exponential first."""
    return any(a.name == "activations" and b"Softplus" in a.strings for a in node.attribute)


def _fits(shape: tuple[int, ...], declared: Sequence[onnx.TensorShapeProto.Dimension]) -> bool:
    return len(shape) == len(declared) and all(
        not d.HasField("dim_value") or d.dim_value == e for d, e in zip(declared, shape, strict=True)
    )


def _runtime(model: onnx.ModelProto, inputs: dict[str, Array], names: list[str]) -> Outputs:
    """What ONNX Runtime gives without its optimisations, of which some change results: outputs of the shapes that ONNX
    infers; nothing where it refuses the model, or where that has tensors without elements (products over none it leaves
    undefined) or cells that overflow."""
    nodes = (node for graph in graphs_of(model.graph) for node in graph.node)
    if not _all_filled(model, inputs) or gathers_strings(model) or any(_has_softplus_cells(node) for node in nodes):
        return {}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    for opset in shown.opset_import:
        opset.version = min(opset.version, NEWEST_OF_RUNTIME)
    try:
        session = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results: Any = session.run(names, inputs)
    except Exception:
        return {}
    declared = {info.name: info.type.tensor_type.shape.dim for info in model.graph.output}
    found = {name: array for name, array in zip(names, results, strict=True) if isinstance(array, np.ndarray)}  # sparse
    return {name: array for name, array in found.items() if array.size and _fits(array.shape, declared[name])}


def _all_filled(model: onnx.ModelProto, inputs: dict[str, Array]) -> bool:
    """True where no input and no weight is empty."""
    return all(a.size for a in inputs.values()) and all(0 not in t.dims for t in model.graph.initializer)
