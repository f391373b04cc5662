"""Every version of every operator of the standard, from opset 1 on: imported, evaluated and compared.

The judge is onnxruntime where it runs the version, else the standard's reference, else our own newest version of the
same use: where none runs, the versions differ in the spelling alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from tests.compiler.frontend.operator_forms import FORMS, model_of

from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.interpret import evaluate_graph

onnxruntime = pytest.importorskip("onnxruntime")

# Operators without a form, and why.
ELSEWHERE = {
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"), "no two implementations agree"),
    **dict.fromkeys(("RandomUniform", "RandomUniformLike"), "no two implementations agree"),
    **dict.fromkeys(("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch"), "test_strings.py"),
    **dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt"), "test_sequences.py"),
    **dict.fromkeys(("SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"), "test_sequences.py"),
    **dict.fromkeys(("SequenceLength", "SequenceMap", "SplitToSequence", "ConcatFromSequence"), "test_sequences.py"),
    "ImageDecoder": "test_strings.py",
}


def versions() -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain and not schema.deprecated:
            found[schema.name].append(schema.since_version)
    return found


VERSIONS = versions()


def ours(op: str, version: int) -> list[np.ndarray]:
    model, inputs = model_of(op, version)
    graph = load_onnx(model)
    found = evaluate_graph(graph, {i.label: inputs[i.label] for i in graph.inputs})
    return [found[name] for name, _ in graph.outputs]


def expected(op: str, version: int) -> Sequence[np.ndarray]:
    model, inputs = model_of(op, version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, inputs)
    except Exception:  # onnxruntime has no common base of its errors; it lacks most versions before 7
        pass
    try:
        return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, inputs)]
    except Exception:  # nor has the reference
        return ours(op, max(VERSIONS[op]))


def test_every_operator_has_a_form_or_a_reason() -> None:
    assert FORMS.keys() | ELSEWHERE.keys() == VERSIONS.keys()
    assert not FORMS.keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("op", sorted(FORMS))
def test_all_versions(op: str) -> None:
    for version in sorted(VERSIONS[op]):
        got = ours(op, version)
        for mine, other in zip(got, expected(op, version), strict=True):
            want = np.asarray(other)
            assert (mine.dtype, mine.shape) == (want.dtype, want.shape), f"{op}-{version}"
            wide = [x.astype(np.float64) for x in (mine, want)]
            np.testing.assert_allclose(*wide, rtol=1e-4, atol=1e-5, err_msg=f"{op}-{version}")


def test_lp_pooling_of_whole_channels() -> None:
    """No other implementation has it."""
    (x,) = FORMS["GlobalLpPool"].operands
    assert x is not None
    (got,) = ours("GlobalLpPool", 22)
    np.testing.assert_allclose(got, np.sqrt((x.astype(np.float64) ** 2).sum((2, 3), keepdims=True)), rtol=1e-5)
