"""Many cases in one model: joined, compiled and run together; a batch that fails is halved until the case is found."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from benchmarks.grid.cases import Case
from benchmarks.grid.examples import Array
from benchmarks.grid.oracles import answers, difference, model_of
from ingot.compiler import compile, load_onnx
from ingot.compiler.frontend.errors import UnsupportedError
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.interpret import evaluate_graph

Executor: TypeAlias = Literal["native", "checked", "program", "graph"]
EXECUTORS: tuple[Executor, ...] = ("native", "checked", "program", "graph")
"""Native code, the same with checks of each access, the interpreter of programs, the interpreter of graphs."""

Verdict: TypeAlias = Literal["right", "wrong", "refused", "failed", "unjudged"]
SIZE = 128
"""Cases a model."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case. `refused`: said not to be supported; `failed`: any other error; `unjudged`: it runs, but
    no oracle knows what must come out. `oracle` is the one that agrees."""

    case: Case
    verdict: Verdict
    reason: str = ""
    oracle: str = ""


def judged(cases: Sequence[Case], executors: Sequence[Executor] = ("native",), size: int = SIZE) -> Iterator[Outcome]:
    """The outcomes of all cases. Those behind one another share a program, where equal kernels are made once."""
    for start in range(0, len(cases), size):
        yield from judged_batch(cases[start : start + size], executors)


@dataclass(frozen=True)
class _Member:
    """A case in a batch: its names begin with `prefix`."""

    case: Case
    prefix: str
    graph: Graph

    @property
    def feed(self) -> dict[str, Array]:
        return {self.prefix + name: array for name, array in self.case.example.inputs.items()}


def judged_batch(cases: Sequence[Case], executors: Sequence[Executor]) -> list[Outcome]:
    """The outcomes of cases that are joined in one program."""
    outcomes: list[Outcome] = []
    members: list[_Member] = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for i, case in enumerate(cases):
            try:
                graph = load_onnx(model_of(case.example.prefixed(f"c{i}_"), case.opset))
                members.append(_Member(case, f"c{i}_", graph))
            except UnsupportedError as error:
                outcomes.append(Outcome(case, "refused", shortened(error, f"c{i}_")))
            except Exception as error:
                outcomes.append(Outcome(case, "failed", f"{type(error).__name__}: {shortened(error, f'c{i}_')}"))
        found = {executor: _run(members, executor) for executor in executors}
        for index, member in enumerate(members):
            outcomes.append(_judged(member, {executor: found[executor][index] for executor in executors}))
    return outcomes


def _judged(member: _Member, found: dict[Executor, list[Array] | Exception]) -> Outcome:
    """One case by what each executor gave."""
    results: dict[Executor, list[Array]] = {}
    case = member.case
    for executor, result in found.items():
        if isinstance(result, Exception):
            verdict = "refused" if isinstance(result, UnsupportedError) else "failed"
            return Outcome(case, verdict, f"{executor}: {type(result).__name__}: {shortened(result, member.prefix)}")
        results[executor] = result
    first = ""
    for oracle, want in answers(case):
        wrong = {executor: difference(case, have, want) for executor, have in results.items()}
        reason = "; ".join(f"{executor}: {text}" for executor, text in wrong.items() if text)
        if not reason:
            return Outcome(case, "right", first and f"by {oracle}; otherwise {first}", oracle)
        first = first or f"{reason} ({oracle})"
    return Outcome(case, "wrong", first) if first else Outcome(case, "unjudged", "no oracle evaluates it")


def _run(members: Sequence[_Member], executor: Executor) -> list[list[Array] | Exception]:
    """The results of each case, or why it has none."""
    if not members:
        return []
    feed = {name: array for member in members for name, array in member.feed.items()}
    try:
        outputs = _outputs(joined([m.graph for m in members]), feed, executor)
    except Exception as error:
        if len(members) == 1:
            return [error]
        half = len(members) // 2
        return [*_run(members[:half], executor), *_run(members[half:], executor)]
    return [[outputs[m.prefix + name] for name in m.case.example.outputs] for m in members]


def _outputs(graph: Graph, feed: dict[str, Array], executor: Executor) -> dict[str, Array]:
    if executor == "graph":
        return dict(evaluate_graph(graph, feed))
    if executor == "program":
        with compile(graph, target="interpreter", cache=False).session() as session:
            return dict(session.run(feed))
    checked = executor == "checked"
    artifact = compile(graph, target="native", jobs=1, cache=False, checked=checked)
    with artifact.session(threads=1) as session:
        return dict(session.run(feed))


def joined(graphs: Sequence[Graph]) -> Graph:
    """Graphs side by side in one; no name is in two of them."""
    return Graph(
        tuple(x for graph in graphs for x in graph.inputs),
        tuple(pair for graph in graphs for pair in graph.outputs),
        "grid",
        {name: bounds for graph in graphs for name, bounds in graph.ranges.items()},
        {name: value for graph in graphs for name, value in graph.bound.items()},
    )


def shortened(error: Exception, prefix: str) -> str:
    """The first words of an error, without the names that joining gives."""
    return " ".join(str(error).split()).replace(prefix, "")[:200]
