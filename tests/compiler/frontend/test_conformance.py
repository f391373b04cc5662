"""The standard's own node tests: every case is evaluated right, or refused for a reason listed here.

Inputs that determine shapes (integers and single numbers) become constants where a case needs it. An operator or
reason that stops being needed makes the test of its list fail, so that the lists stay true.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case import node

from ingot.compiler.frontend import UnsupportedError, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph

UNSUPPORTED_OPERATORS = {
    "BitCast",
    "Compress",
    "CumProd",
    "DeformConv",
    "Det",
    "ImageDecoder",
    "NonMaxSuppression",
    "NonZero",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "RandomUniformLike",
    "Scan-8",
    "SequenceConstruct",
    "SplitToSequence",
    "TfIdfVectorizer",
    "Unique",
}
UNSUPPORTED_DOMAINS = {"ai.onnx.preview.training"}
REASONS = (
    "element types supported",  # strings, 8-bit floats and smaller, 4-bit integers and smaller
    "inputs must be dense tensors",  # sequences and optionals
    "in training mode",
    "computed from data",  # slices whose bounds another node computes from values
)

# Cases that expect something else than ONNX Runtime gives, which is what we follow.
DEVIATIONS = {
    "test_maxunpool_export_with_output_shape",  # positions count in the default shape, not in the shape asked for
    "test_resize_downsample_scales_cubic_align_corners",  # the resized length is taken for a fraction
    "test_resize_downsample_scales_linear_align_corners",
}

SLOW = {"averagepool", "lppool", "maxpool"}  # modules of cases that take seconds to make


def cases(without: frozenset[str]) -> dict[str, Any]:
    """The cases of all modules but some; importing a module makes its cases."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(node.__path__):
            if module.name not in without:
                importlib.import_module(f"{node.__name__}.{module.name}")
    return {case.name: case for case in node._NodeTestCases}


def array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def with_constants(model: onnx.ModelProto, inputs: list[Any]) -> onnx.ModelProto:
    """The model with small integer inputs, single numbers and what a Resize goes by as initialisers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for declared, value in zip(model.graph.input, inputs, strict=True):
        data = array(value)
        if (data.dtype.kind in "iub" and data.size <= 64) or data.size == 1 or declared.name in ("roi", "scales"):
            copy.graph.initializer.append(numpy_helper.from_array(data, declared.name))
    return copy


def check(model: onnx.ModelProto, inputs: list[Any], outputs: list[Any]) -> None:
    try:
        graph = load_onnx(model)
    except UnsupportedError as error:
        if "data" not in str(error) or error.operators:
            raise
        graph = load_onnx(with_constants(model, inputs))
    given = {declared.name: array(value) for declared, value in zip(model.graph.input, inputs, strict=True)}
    found = evaluate_graph(graph, {i.label: given[i.label] for i in graph.inputs})
    for (name, _), expected in zip(graph.outputs, outputs, strict=True):
        got, want = found[name], array(expected)
        assert got.dtype == want.dtype and got.shape == want.shape
        if want.dtype.kind in "fV":
            tolerance = (1e-3, 1e-5) if want.dtype.itemsize >= 4 else (2e-2, 2e-2)
            np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), *tolerance)
        else:
            np.testing.assert_array_equal(got, want)


def survey(cases: dict[str, Any]) -> tuple[int, set[str]]:
    """How many cases are right and why the others are refused; fails when one is wrong or refused without reason."""
    right, refused, problems = 0, set[str](), list[str]()
    for name, case in cases.items():
        for inputs, outputs in case.data_sets:
            try:
                if name in DEVIATIONS:
                    with pytest.raises(AssertionError):
                        check(case.model, inputs, outputs)
                    continue
                check(case.model, inputs, outputs)
                right += 1
            except UnsupportedError as error:
                for o in error.operators:
                    versioned = f"{o.op_type}-{o.opset}"
                    spelled = versioned if versioned in UNSUPPORTED_OPERATORS else o.op_type
                    refused.add(o.domain if o.domain in UNSUPPORTED_DOMAINS else spelled)
                reason = next((r for r in REASONS if r in str(error)), None)
                if not error.operators and reason is None:
                    problems.append(f"{name}: {error}")
                elif reason is not None:
                    refused.add(reason)
            except Exception as error:
                problems.append(f"{name}: {type(error).__name__}: {error}")
    assert not problems, "\n".join(problems)
    return right, refused


def test_cases_that_are_quick_to_make() -> None:
    right, refused = survey(cases(frozenset(SLOW)))
    assert refused <= UNSUPPORTED_OPERATORS | UNSUPPORTED_DOMAINS | set(REASONS)
    assert right > 1300


@pytest.mark.slow
def test_all_cases() -> None:
    right, refused = survey(cases(frozenset()))
    listed = UNSUPPORTED_OPERATORS | UNSUPPORTED_DOMAINS | set(REASONS)
    assert sorted(refused) == sorted(listed)
    assert right > 1340
