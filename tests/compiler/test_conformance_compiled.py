"""The standard's node tests once more, compiled: what is imported runs natively and gives the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from tests.compiler.frontend.test_conformance import DEVIATIONS, array, cases, with_constants

from ingot.compiler import compile
from ingot.compiler.frontend import UnsupportedError, load_onnx
from ingot.compiler.ir.graph import Graph


def imported(model: onnx.ModelProto, inputs: list[Any]) -> Graph | None:
    """The graph of a case, None where it is refused (the interpreter's test says why)."""
    try:
        return load_onnx(model)
    except UnsupportedError as error:
        if "data" not in str(error) or error.operators:
            return None
    try:
        return load_onnx(with_constants(model, inputs))
    except UnsupportedError:
        return None


def check(graph: Graph, model: onnx.ModelProto, inputs: list[Any], outputs: list[Any]) -> None:
    given = {declared.name: array(value) for declared, value in zip(model.graph.input, inputs, strict=True)}
    with compile(graph, jobs=1).session(threads=2) as session:
        found = session.run({x.label: given[x.label] for x in graph.inputs})
    for (name, _), expected in zip(graph.outputs, outputs, strict=True):
        got, want = found[name], array(expected)
        assert got.dtype == want.dtype and got.shape == want.shape
        if want.dtype.kind in "fV":
            tolerance = (1e-3, 1e-5) if want.dtype.itemsize >= 4 else (2e-2, 2e-2)
            np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), *tolerance)
        else:
            np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_every_case_that_is_imported_runs() -> None:
    right, problems = 0, list[str]()
    for name, case in cases(frozenset()).items():
        if name in DEVIATIONS:
            continue
        for inputs, outputs in case.data_sets:
            graph = imported(case.model, inputs)
            if graph is None:
                continue
            try:
                check(graph, case.model, inputs, outputs)
                right += 1
            except Exception as error:  # every failure is listed, whatever it is
                problems.append(f"{name}: {type(error).__name__}: {error}")
    assert not problems, "\n".join(problems)
    assert right > 1500
