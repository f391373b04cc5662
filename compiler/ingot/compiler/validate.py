"""Validation of passes and of lowering: evaluate what was before and what came after on probe inputs, and find the
first harmful rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ingot.compiler.ir import dims
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Array, Graph
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Program
from ingot.compiler.rewrite import Firing, Trace
from ingot.compiler.single_pass import Pass, PassError, call_pass, write_repro
from ingot.runtime.dtypes import DType, from_numpy, string

# Largest allowed difference relative to the largest finite magnitude of an output, by its element type. Rules may
# reorder sums and fold constants, which costs some roundings, never more.
TOLERANCE: Mapping[str, float] = {"f64": 1e-10, "f32": 1e-4, "f16": 2e-2, "bf16": 1e-1}


class ValidationError(PassError):
    """A pass changed what the graph computes. `rule`, `node` and `firing` name the first harmful rule firing when the
    pass runs rules with a trace; `output` is the output that differs."""

    def __init__(
        self, message: str, pass_name: str, firing: Firing | None, output: str, repro: Path | None = None
    ) -> None:
        rule, node = (firing.rule, firing.node) if firing else ("", "")
        super().__init__(message, pass_name, rule, node, repro)
        self.firing = firing
        self.output = output


@dataclass(frozen=True, slots=True)
class Difference:
    """How an output differs: `amount` and `bound` are relative to its largest magnitude (see TOLERANCE)."""

    output: str
    amount: float
    bound: float
    detail: str

    def __str__(self) -> str:
        return f"output {self.output!r} {self.detail}"


def compare(
    before: Mapping[str, Array], after: Mapping[str, Array], tolerance: Mapping[str, float] = TOLERANCE
) -> Difference | None:
    """The first output that differs, None when all agree: names, dtypes and shapes equal, integers and bools exactly,
    floats within `tolerance`, NaN and infinities at the same places."""
    if list(before) != list(after):
        return Difference(", ".join(before), math.inf, 0.0, f"became {', '.join(after)}")
    for name, a in before.items():
        b = after[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            return Difference(name, math.inf, 0.0, f"{a.dtype}{list(a.shape)} became {b.dtype}{list(b.shape)}")
        if a.dtype == np.bool_ or a.dtype.hasobject or np.issubdtype(a.dtype, np.integer):
            if not np.array_equal(a, b):
                count = int((a != b).sum())
                return Difference(name, math.inf, 0.0, f"differs in {count} of {a.size} elements")
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(x)
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True) or not np.isfinite(y[finite]).all():
            return Difference(name, math.inf, 0.0, "has NaN or infinity at other places")
        scale = float(np.abs(x[finite]).max(initial=0.0)) or 1.0
        amount = float(np.abs(x[finite] - y[finite]).max(initial=0.0)) / scale
        bound = tolerance[from_numpy(a.dtype).name]
        if amount > bound:
            return Difference(
                name, amount, bound, f"differs by {amount:.2g} of its largest magnitude, allowed is {bound:.2g}"
            )
    return None


def make_probes(graph: Graph, seed: int = 0) -> list[dict[str, Array]]:
    """Two sets of inputs for `graph`: random ones with small symbolic dims, different for each symbol, and zeros with
    the smallest dims but at least 1 (small integers are valid indices most often)."""
    names = sorted({s for i in graph.inputs for d in i.shape for s in dims.symbols(d)})
    random = np.random.default_rng(seed)
    probes: list[dict[str, Array]] = []
    for kind in ("random", "zeros"):
        values: dict[str, int] = {}
        for i, name in enumerate(names):
            low, high = graph.ranges.get(name, (0, dims.UNBOUNDED))
            wanted = 2 + i if kind == "random" else 1
            values[name] = min(max(wanted, low), high)
        probe: dict[str, Array] = {}
        for node in graph.inputs:
            shape = tuple(dims.evaluate(d, values) for d in node.shape)
            nothing = np.full(shape, "0" if node.dtype == string else 0, node.dtype.to_numpy())
            probe[node.label] = _sample(random, shape, node.dtype) if kind == "random" else nothing
        probes.append(probe)
    return probes


def _sample(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    if dtype.kind == "float":
        return random.standard_normal(shape).astype(dtype.to_numpy())
    if dtype == string:
        return random.choice(np.array(["0", "1", "2.5"], object), shape)  # numbers, in case that they are read
    return random.integers(0, 2, shape).astype(dtype.to_numpy())


def validate_pass(
    item: Pass,
    before: Graph,
    after: Graph,
    probes: Sequence[Mapping[str, Array]] | None = None,
    repro_dir: Path | None = None,
) -> None:
    """Check that `after`, what `item` made of `before`, computes the same on `probes` (`make_probes` by default).

    A probe on which `before` itself cannot be evaluated says nothing and is skipped; when all are, that is an error
    that asks for probes. Raises ValidationError naming the pass and, where the pass takes a trace, the first rule
    firing that changes the result, found by bisection over the firing number.
    """
    used = _answers(before, f"pass {item.name}", item.name, probes)
    found = _difference(after, used)
    if found is None:
        return
    firing = _first_harmful(item, before, used)
    where = f" by rule {firing.rule} on {firing.node} (firing {firing.number} of the pass)" if firing else ""
    message = f"pass {item.name} changes the result{where}: {found}"
    repro: Path | None = None
    if repro_dir is not None:
        repro, command = write_repro(repro_dir, before, item)
        message += f"\nreplay with: {command} --verify"
    raise ValidationError(message, item.name, firing, found.output, repro)


def validate_lowering(graph: Graph, program: Program, probes: Sequence[Mapping[str, Array]] | None = None) -> None:
    """Check that `program`, which `graph` was lowered to, computes the same on `probes` (default: `make_probes`), with
    every access to memory checked. Raises ValidationError, as `validate_pass` does."""
    used = _answers(graph, "lowering", "lower", probes)
    labels = [i.label for i in graph.inputs]
    for probe, expected in used:
        given = {s.name: probe[label] for label, s in zip(labels, program.of_kind("input"), strict=True)}
        try:
            made = run_program(program, given)
        except Exception as error:
            raise ValidationError(
                f"lowering changes the result: the program cannot be run: {type(error).__name__}: {error}",
                "lower",
                None,
                ", ".join(expected),
            ) from error
        got = {name: made[s.name] for (name, _), s in zip(graph.outputs, program.of_kind("output"), strict=True)}
        if (found := compare(expected, got)) is not None:
            raise ValidationError(f"lowering changes the result: {found}", "lower", None, found.output)


def _answers(
    graph: Graph, what: str, name: str, probes: Sequence[Mapping[str, Array]] | None
) -> list[tuple[Mapping[str, Array], dict[str, Array]]]:
    """The probes that `graph` can be evaluated on, with its outputs. ValidationError when there are none."""
    used: list[tuple[Mapping[str, Array], dict[str, Array]]] = []
    refused: Exception | None = None
    for probe in make_probes(graph) if probes is None else probes:
        try:
            used.append((probe, evaluate_graph(graph, probe)))
        except Exception as error:
            refused = error
    if not used:
        raise ValidationError(
            f"{what} cannot be validated: the graph cannot be evaluated on the probe inputs ({refused}); "
            "hand in probes",
            name,
            None,
            "",
        )
    return used


def _difference(graph: Graph, used: Sequence[tuple[Mapping[str, Array], dict[str, Array]]]) -> Difference | None:
    for probe, expected in used:
        try:
            got = evaluate_graph(graph, probe)
        except Exception as error:
            return Difference(
                ", ".join(expected), math.inf, 0.0, f"cannot be evaluated: {type(error).__name__}: {error}"
            )
        found = compare(expected, got)
        if found is not None:
            return found
    return None


def _first_harmful(
    item: Pass, before: Graph, used: Sequence[tuple[Mapping[str, Array], dict[str, Array]]]
) -> Firing | None:
    """The firing after which the result differs for the first time, None when the pass has no numbered firings or is
    wrong without any."""
    full = Trace()
    call_pass(item, before, full)
    good, bad = 0, len(full.firings)
    if not bad or _difference(call_pass(item, before, Trace(stop_at=0)), used) is not None:
        return None
    if _difference(call_pass(item, before, Trace(stop_at=bad)), used) is None:
        return None  # what follows the rules is to blame, or the pass is not deterministic
    while bad - good > 1:
        middle = (good + bad) // 2
        if _difference(call_pass(item, before, Trace(stop_at=middle)), used) is None:
            good = middle
        else:
            bad = middle
    return full.firings[bad - 1]
