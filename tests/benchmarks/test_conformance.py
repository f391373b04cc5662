"""The conformance runner: some of its cases, the list of exceptions and what it says when a case surprises."""

from __future__ import annotations

import dataclasses

import pytest
from benchmarks.conformance import report
from benchmarks.conformance.cases import load_cases
from benchmarks.conformance.judge import judge
from benchmarks.conformance.report import counts, read_exceptions, surprises

CONVERTED = "^test_(BatchNorm1d|Conv1d_pad1size1|PReLU_1d|Softmax|Linear)$"
RESULTS = {case.name: judge(case) for case in load_cases(CONVERTED, ["pytorch-converted"])}


def test_exceptions_are_sorted_and_have_reasons() -> None:
    listed = read_exceptions()
    assert listed == dict(sorted(listed.items()))
    assert all(reason for _, reason in listed.values())


def test_cases_are_right() -> None:
    assert len(RESULTS) >= 3
    for result in RESULTS.values():
        assert result.verdict == "right" and result.milliseconds > 0, result
    assert not surprises(RESULTS.values())


def test_what_is_refused() -> None:
    (training,) = load_cases("^test_gradient_of_add$", ["simple"])
    found = judge(training, peers=False)
    assert found.verdict == "refused" and "Gradient" in found.reason
    assert found.name in read_exceptions()


def test_strings() -> None:
    (strings,) = load_cases("^test_strnorm_model_nostopwords_nochangecase$", ["simple"])
    assert judge(strings, peers=False).verdict == "right"


def test_surprises_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    name, result = next(iter(RESULTS.items()))
    wrong = dataclasses.replace(result, verdict="wrong", reason="7 is not 8")
    assert surprises([wrong]) == [f"{name}: wrong, right was expected. 7 is not 8"]
    monkeypatch.setattr(report, "read_exceptions", lambda: {name: ("wrong", "7")})
    assert surprises([result]) == [f"{name}: right, wrong was expected."]
    assert not surprises([wrong])


def test_tables_count() -> None:
    table = counts(list(RESULTS.values()), "category", lambda r: r.category).splitlines()
    assert table[2].startswith(f"| pytorch-converted | {len(RESULTS)} | {len(RESULTS)} | 0 |")
    assert len({line.count("|") for line in table}) == 1
