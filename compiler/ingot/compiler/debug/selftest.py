"""The self-test: built-in models compiled on this machine and compared with the interpreter on numpy."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from ingot.compiler.api import compile
from ingot.compiler.debug.failure import Failure
from ingot.compiler.debug.selftest_models import MODELS, SelfTestModel, build
from ingot.compiler.debug.trial import Arrays, difference
from ingot.compiler.demo import held_out, model_path
from ingot.compiler.frontend.onnx import load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.validate import make_probes
from ingot.runtime import __version__
from ingot.runtime.limits import available_cpus

DEMO = "the demo model"

ACCURACY = 0.95
"""Of held-out digits that the demo model must tell right."""


@dataclass(frozen=True)
class Outcome:
    """What a test came to: the level of the code that ran, how many outputs were compared, and what is wrong (None
    where nothing is)."""

    name: str
    level: str
    compared: int
    failure: Failure | None


def names(*, quick: bool = False) -> list[str]:
    """The tests in order; with `quick` the most important ones."""
    return [*(name for name, model in MODELS.items() if model.quick or not quick), DEMO]


def run(name: str, target: str) -> Outcome:
    """Run one test: every output at every size with one and with two threads, which must give equal bits."""
    try:
        return _demo(target) if name == DEMO else _model(name, MODELS[name], target)
    except Exception as error:
        return Outcome(name, "", 0, Failure.raised("compile", error))


def _model(name: str, model: SelfTestModel, target: str) -> Outcome:
    graph = load_onnx(build(model.text))
    probes = [probe for size in model.sizes for probe in _probes(graph, size)]
    return _compare(name, graph, target, probes)


def _demo(target: str) -> Outcome:
    images, labels = held_out()
    graph = load_onnx(model_path())
    outcome = _compare(DEMO, graph, target, [{"image": images}])
    if outcome.failure is not None:
        return outcome
    with compile(graph, target=target, cache=False).session(threads=1) as session:
        right = float((session.run({"image": images})["logits"].argmax(1) == labels).mean())
    if right >= ACCURACY:
        return outcome
    failure = Failure("accuracy", "", f"{right:.1%} of digits are told right")
    return Outcome(DEMO, outcome.level, outcome.compared, failure)


def _compare(name: str, graph: Graph, target: str, probes: list[Arrays]) -> Outcome:
    artifact = compile(graph, target=target, cache=False)
    compared = 0
    with artifact.session(threads=1, seed=0) as one, artifact.session(threads=2, seed=0) as two:
        level = str(one.metadata["level"])
        for probe in probes:
            with np.errstate(all="ignore"):
                want = evaluate_graph(graph, probe)
            have, again = one.run(dict(probe)), two.run(dict(probe))
            compared += len(want)
            if (found := difference(want, have, None)) is not None:
                return Outcome(name, level, compared, Failure("accuracy", "", str(found), found.amount))
            for output, array in have.items():
                if array.tobytes() != again[output].tobytes():
                    message = f"output {output!r} is not the same with two threads"
                    return Outcome(name, level, compared, Failure("accuracy", "", message))
    return Outcome(name, level, compared, None)


def _probes(graph: Graph, size: int) -> Iterator[Arrays]:
    """Inputs with the symbolic dim `n` of this size: random ones, and zeros."""
    sized = Graph(graph.inputs, graph.outputs, graph.name, {"n": (size, size)})
    yield from make_probes(sized, seed=size)


def report(
    wanted: Sequence[str], target: str, *, progress: Callable[[str], None] = lambda message: None
) -> list[Outcome]:
    """What the tests come to, in order."""
    outcomes: list[Outcome] = []
    for name in wanted:
        progress(name)
        outcomes.append(run(name, target))
    return outcomes


def machine() -> Mapping[str, str]:
    """The processor and the versions of what takes part."""

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "cpus": str(available_cpus()),
        "ingot": __version__,
        "python": platform.python_version(),
        **{package: installed(package) for package in ("numpy", "onnx", "llvmlite")},
    }


def processor() -> str:
    """The name of the processor as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
