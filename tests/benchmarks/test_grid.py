"""The grid of operators: a slice with every version, element type and variant natively, a few cases by every executor,
and the list of what is not right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from benchmarks.grid import report
from benchmarks.grid.batches import EXECUTORS, judged, judged_batch
from benchmarks.grid.cases import Case, all_cases, assignments, history, is_known, opset_of, pairwise, slice_cases
from benchmarks.grid.oracles import answers, difference
from benchmarks.grid.report import Record, listed, read_exceptions, surprises


def records(cases: list[Case]) -> list[Record]:
    return [Record.of(outcome) for outcome in judged(cases)]


def require_as_listed(part: int) -> None:
    """A quarter of the operators in all versions, types and variants."""
    found = records(list(slice_cases(list(history())[part::4])))
    assert len(found) > 500
    assert not list(surprises(found))
    assert sum(r.verdict == "right" for r in found) > 0.9 * len(found)


def test_slice_comes_out_as_listed() -> None:
    require_as_listed(0)


@pytest.mark.slow
@pytest.mark.parametrize("part", [1, 2, 3])
def test_the_other_operators_come_out_as_listed(part: int) -> None:
    require_as_listed(part)


def test_slice_has_every_version_type_and_variant() -> None:
    for op in ("Softmax", "Clip", "ReduceSum", "TopK"):
        cases = list(slice_cases([op]))
        assert {c.operator for c in cases} == {f"{op}-{s.since_version}" for s in history()[op]}
        newest = history()[op][-1]
        kinds = {pair for types in assignments(newest) for pair in types.items() if is_known(pair[1])}
        assert kinds == {pair for c in cases for pair in c.given.types.items() if is_known(pair[1])}
        assert {c.example.variant for c in all_cases([op])} == {c.example.variant for c in cases}


def test_every_executor() -> None:
    cases = list(slice_cases())[::150]
    outcomes = judged_batch(cases, EXECUTORS)
    assert not list(surprises(Record.of(outcome) for outcome in outcomes))


def test_versions_are_met_in_their_opsets() -> None:
    for op, schemas in history().items():
        for schema in schemas:
            opset = opset_of(op, schema.since_version)
            assert max(s.since_version for s in schemas if s.since_version <= opset) == schema.since_version


def test_pairwise_keeps_every_type_and_variant() -> None:
    cases = [c for c in all_cases(["Clip"]) if c.operator == "Clip-13"]
    few = pairwise(cases)
    assert len(few) < len(cases) / 2
    assert {c.types for c in few} == {c.types for c in cases}
    assert {c.example.variant for c in few} == {c.example.variant for c in cases}


def test_judge_sees_what_differs() -> None:
    case = next(c for c in all_cases(["Add"]) if c.name == "Add-14 f32 row")
    (want,) = next(iter(answers(case)))[1]
    good = want.astype(np.float32)
    assert difference(case, [good], [want]) == ""
    assert "off by" in difference(case, [good + 1e-3], [want])
    assert "float64" in difference(case, [want], [want])
    assert "[5, 3]" in difference(case, [good.T], [want])
    assert difference(case, [np.where(good > 0, np.nan, good).astype(np.float32)], [want])


def test_list_is_sorted_and_has_reasons() -> None:
    assert read_exceptions()


def test_surprises_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    good = Record("Add-14", "f32", "row", "right", "", "onnx.reference")
    bad = dataclasses.replace(good, variant="same", verdict="wrong", reason="7, not 8")
    assert listed([good, bad]) == ["Add-14 f32 [same] wrong: 7, not 8"]
    monkeypatch.setattr(report, "read_exceptions", lambda: {("Add-14", "f32"): [("row", "refused")]})
    assert list(surprises([good, bad])) == [
        "Add-14 f32 row: right, refused was expected.",
        "Add-14 f32 same: wrong, right was expected. 7, not 8",
    ]
