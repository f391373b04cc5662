"""What errors are measured against: the model in double precision, where that can be had."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from benchmarks.fuzz.double import as_double, data_as_double
from benchmarks.models import Case
from benchmarks.peers.worker import one_line
from ingot.compiler.bench.agreement import relative_error
from ingot.compiler.bench.engines import Arrays, onnxruntime

DEAREST = 30_000.0  # MFLOP that numpy computes in about a minute
SINGLE = 1e-2  # more than that is no error of single precision: one of the two does not compute the model


def expected(case: Case, megaflops: float) -> tuple[Arrays, str]:
    """The outputs by onnx.reference on the model in double precision and an empty string; or by ONNX Runtime without
    optimisations, and why: the work is above `DEAREST`, the model is quantised (the steps fall elsewhere in other
    precisions), onnx.reference does not run it, or gives something else altogether."""
    if case.quantised:
        return _single(case), "quantised"
    if megaflops > DEAREST:
        return _single(case), f"more than {DEAREST:.0f} MFLOP"
    try:
        evaluator = ReferenceEvaluator(as_double(onnx.load(case.path)))
        values = [np.asarray(value) for value in evaluator.run(None, data_as_double(dict(case.inputs())))]
    except Exception as error:  # onnx.reference lacks operators and raises what it likes
        return _single(case), one_line(error)
    if narrow := next((v.dtype for v in values if v.dtype.kind == "f" and v.dtype.itemsize < 8), None):
        return _single(case), f"onnx.reference computes it in {narrow}"
    found = dict(zip(map(str, evaluator.output_names), values, strict=True))
    if (error := relative_error(single := _single(case), found)) > SINGLE:
        return single, f"onnx.reference differs from ONNX Runtime by {error:.0e}"
    return found, ""


def _single(case: Case) -> Arrays:
    return onnxruntime(case.path, 1, optimise=False).run(dict(case.inputs()))
