"""What errors are measured against: the model in double precision, where that can be had."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from benchmarks.fuzz.double import as_double, data_as_double
from benchmarks.models import Case
from ingot.compiler.bench.engines import Arrays, onnxruntime

DEAREST = 30_000.0  # MFLOP that numpy computes in about a minute
DOUBLE, SINGLE = "float64", "ONNX Runtime"


def expected(case: Case, megaflops: float) -> tuple[Arrays, str]:
    """The outputs and where they come from: onnx.reference on the model in double precision, or ONNX Runtime without
    optimisations for models above `DEAREST`, quantised ones (whose steps fall elsewhere in other precisions) and those
    that onnx.reference does not run."""
    inputs = dict(case.inputs())
    if megaflops <= DEAREST and not case.quantised:
        try:
            evaluator = ReferenceEvaluator(as_double(onnx.load(case.path)))
            values = [np.asarray(value) for value in evaluator.run(None, data_as_double(inputs))]
            if not any(value.dtype in (np.float16, np.float32) for value in values):
                return dict(zip(map(str, evaluator.output_names), values, strict=True)), DOUBLE
        except Exception:  # onnx.reference lacks operators and raises what it likes; then the other is the reference
            pass
    return onnxruntime(case.path, 1, optimise=False).run(inputs), SINGLE
