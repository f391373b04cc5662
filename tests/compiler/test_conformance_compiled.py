"""The standard's node tests once more, compiled: what is imported runs natively and gives the same."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiler.frontend.test_conformance import DEVIATIONS, RANDOM, cases, dense, imported, require_same

from ingot.compiler import compile
from ingot.compiler.frontend import UnsupportedError
from ingot.compiler.ir.graph import Graph


def run(graph: Graph, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with compile(graph, jobs=1).session(threads=2) as session:
        return session.run({x.label: given[x.label] for x in graph.inputs})


@pytest.mark.slow
def test_every_case_that_is_imported_runs() -> None:
    right, problems = 0, list[str]()
    for name, case in cases(frozenset()).items():
        if name in DEVIATIONS:
            continue
        for inputs, outputs in case.data_sets:
            plain, given = dense(case.model, inputs)
            try:
                graph = imported(plain, given)
            except UnsupportedError:  # the interpreter's test says why
                continue
            try:
                require_same(run(graph, given), case.model, outputs, RANDOM.fullmatch(name) is not None)
                right += 1
            except Exception as error:  # every failure is listed, whatever it is
                problems.append(f"{name}: {type(error).__name__}: {error}")
    assert not problems, "\n".join(problems)
    assert right > 1780
