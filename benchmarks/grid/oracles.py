"""What an example must come to, and whether what came out is that.

In this order: the formula given with the example; onnx.reference on the newest spelling, in double precision unless the
results are exact; the same on the spelling at hand; ONNX Runtime. What differs from one is right where a later one
gives the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from benchmarks.fuzz.build import dtype_code
from benchmarks.fuzz.double import TYPE_ATTRIBUTES, as_double, data_as_double
from benchmarks.fuzz.oracles import NEWEST_OF_RUNTIME
from benchmarks.grid.cases import Case
from benchmarks.grid.examples import FLOATS, Array, Example, as_model, initializers, value_infos

TOLERANCE: Mapping[str, float] = {"float64": 1e-9, "float32": 3e-5, "float16": 5e-3, "bfloat16": 4e-2}
"""Of an element's magnitude, and of the largest one's up to `SCALE`."""

SCALE = 8.0

DRAWN = ("Bernoulli", "Multinomial", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike")
"""Operators of whose results only types and shapes are known."""

WINDOWS = ("BlackmanWindow", "HammingWindow", "HannWindow")

CUT = (*WINDOWS, "ReduceLogSum", "ReduceLogSumExp")
"""Operators whose integer results are numbers with their fractions dropped, so that a rounding shows as 1."""

SINGLE = (
    "HardSigmoid", "HardSwish", "LRN", "Selu", "Celu", "Elu", "LeakyRelu", "ThresholdedRelu", "Swish", "Clip", "Gelu",
    "LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization", "BatchNormalization",
    "MeanVarianceNormalization", "Resize", "Upsample", "Attention", "Shrink", "Gemm", "Erf",
    "RoiAlign", "DeformConv", *WINDOWS,
)  # fmt: skip
"""Operators with factors, scales or intermediate results that are f32 by definition, whatever the type of the rest."""


def answers(case: Case) -> Iterator[tuple[str, Sequence[Array]]]:
    """What each oracle gives, with its name; an oracle that fails is left out."""
    if case.example.want is not None:
        yield "formula", case.example.want
        return
    spellings = [(case.newest, case.newest_opset)] if case.newest is not None else []
    spellings.append((case.example, case.opset))
    for precise in (case.maker.exact,) if case.maker.exact else (False, True):
        for example, opset in spellings:
            if (found := _reference(example, opset, exact=precise)) is not None:
                yield "onnx.reference", found
    for example, opset in spellings:
        if (found := _runtime(example, opset)) is not None:
            yield "ONNX Runtime", found
    if any(kind in FLOATS and kind != "float32" for kind in case.given.types.values()):
        for example, opset in spellings:
            if (found := _runtime(as_single(example, FLOATS), opset)) is not None:
                yield "ONNX Runtime, in f32", found


def model_of(example: Example, opset: int) -> onnx.ModelProto:
    """The example as a model of its own."""
    infos = value_infos(example, opset)
    inputs, outputs = ([infos[n] for n in names] for names in (example.inputs, example.outputs))
    graph = helper.make_graph(example.nodes, "case", inputs, outputs, initializers(example.constants))
    return as_model(graph, opset)


def difference(case: Case, have: Sequence[Array], want: Sequence[Array]) -> str:
    """How results differ from what they must be; the empty string where they do not."""
    if len(have) != len(want):
        return f"{len(have)} results, not {len(want)}"
    for name, got, wanted in zip(case.example.outputs, have, want, strict=True):
        declared, wanted = case.declared.get(name, got.dtype), np.asarray(wanted)
        if got.dtype != declared:
            return f"{got.dtype}, not {declared}"
        if got.shape != wanted.shape:
            return f"{list(got.shape)}, not {list(wanted.shape)}"
        if case.given.op in DRAWN:
            continue
        if wanted.dtype != got.dtype and not _alike(got.dtype, wanted.dtype):
            return f"{got.dtype}, not {wanted.dtype}"
        if got.dtype.name not in FLOATS or case.maker.exact:
            is_same = _nearly if case.given.op in CUT else _same
            if not is_same(got, wanted):
                return f"{_shown(got)}, not {_shown(wanted)}"
        elif (text := _distance(got, wanted, _bound(case, got, wanted))) != "":
            return text
    return ""


def _alike(a: np.dtype[Any], b: np.dtype[Any]) -> bool:
    """Types that an oracle may give for one another: it widens some."""
    return all(t.name in FLOATS for t in (a, b)) or (a.kind in "iu" and b.kind in "iuf") or a.hasobject


def _bound(case: Case, got: Array, wanted: Array) -> float:
    tolerance = max(TOLERANCE[got.dtype.name], TOLERANCE[wanted.dtype.name] if got.dtype != wanted.dtype else 0)
    return max(tolerance, TOLERANCE["float32"]) if case.given.op in SINGLE else tolerance


def _nearly(a: Array, b: Array) -> bool:
    return bool((np.abs(a.astype(np.float64) - b.astype(np.float64)) <= 1).all())


def _same(a: Array, b: Array) -> bool:
    """Equal elements; NaN is like NaN, and zeros of floats have the same signs."""
    if a.dtype.hasobject:  # onnx.reference fills strings with 0
        return [str(x) for x in a.flat] == ["" if isinstance(x, int | np.integer) else str(x) for x in b.flat]
    if a.dtype.kind in "iub":
        return bool(np.array_equal(a, b.astype(a.dtype)))
    b = b.astype(a.dtype)
    if a.dtype.kind == "V" and "int" in a.dtype.name:
        return bool(np.array_equal(a.astype(np.int64), b.astype(np.int64)))
    x, y = a.astype(np.float64), b.astype(np.float64)
    return bool(np.array_equal(x, y, equal_nan=True) and (np.signbit(x) == np.signbit(y))[~np.isnan(x)].all())


def _distance(got: Array, wanted: Array, bound: float) -> str:
    with np.errstate(all="ignore"):
        wanted = wanted.astype(got.dtype)
    x, y = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(y)
    scale = min(max(float(np.abs(y[finite]).max(initial=0.0)), 1e-3), SCALE)
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True) or not np.isfinite(x[finite]).all():
        return f"{_shown(got)}, not {_shown(wanted)}"
    excess = np.abs(x - y)[finite] - bound * np.abs(y[finite])
    if (excess > bound * scale).any():
        return f"{_shown(got)}, not {_shown(wanted)}: off by {float(np.abs(x - y)[finite].max()):.2g}"
    return ""


def _shown(array: Array) -> str:
    flat = np.array2string(array.reshape(-1)[:8], precision=6, separator=" ", max_line_width=200)
    return " ".join(flat.split()) + ("..." if array.size > 8 else "")


def _reference(example: Example, opset: int, *, exact: bool) -> Sequence[Array] | None:
    spelled = example if exact else as_single(example, ["bfloat16"])
    model, data = model_of(spelled, opset), dict(spelled.inputs)
    try:
        if not exact:
            model, data = as_double(model), data_as_double(data)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results: Any = ReferenceEvaluator(model).run(None, data)
    except Exception:  # whatever it does not know
        return None
    return [np.asarray(r) for r in results] if not any(isinstance(r, list) or r is None for r in results) else None


def as_single(example: Example, kinds: Collection[str]) -> Example:
    """The example with f32 in the place of other floats."""

    def changed(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {n: a.astype(np.float32) if a.dtype.name in kinds else a for n, a in arrays.items()}

    codes = {dtype_code(kind) for kind in kinds}
    nodes: list[onnx.NodeProto] = []
    for node in example.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for attribute in copy.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i in codes:
                attribute.i = TensorProto.FLOAT
        nodes.append(copy)
    return Example(example.variant, changed(example.inputs), changed(example.constants), nodes, example.outputs)


def _runtime(example: Example, opset: int) -> Sequence[Array] | None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    model = model_of(example, min(opset, NEWEST_OF_RUNTIME))
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        if not any(a.dtype.kind == "V" for a in example.inputs.values()):
            results: Any = session.run(None, dict(example.inputs))
        else:
            make = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
            codes = {n: helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in example.inputs.items()}
            values = {n: make(np.ascontiguousarray(a), codes[n]) for n, a in example.inputs.items()}
            results = [value.numpy() for value in session.run_with_ort_values(None, values)]
    except Exception:  # whatever it does not know
        return None
    return results if all(isinstance(r, np.ndarray) for r in results) else None
