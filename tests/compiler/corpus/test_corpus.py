"""What exporters write, and what it becomes.

Each snippet lies here as several exporters write it. Beside it, ``<snippet>.golden.ir`` shows the graph after the
default pipeline in the form of `listing`: once, where all exports become the same. ``INGOT_UPDATE_GOLDEN=1`` rewrites
these files. Every snippet is also compiled and compared with onnxruntime.
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.compiler.corpus.listing import launches, listing

from ingot.compiler import compile, default_pipeline, load_onnx
from ingot.compiler.ir.graph import Array, Graph, Input, Value
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.lower.lowering import lower
from ingot.compiler.passes import sink
from ingot.compiler.passes.recognise import RULES
from ingot.compiler.rewrite import Trace, rebuild, rule_name
from ingot.compiler.targets.registry import find_target

onnxruntime = pytest.importorskip("onnxruntime")

FOLDER = Path(__file__).parent
UPDATE = bool(os.environ.get("INGOT_UPDATE_GOLDEN"))
EXTENTS = {"batch": 3, "tokens": 11, "keys": 6, "height": 4, "width": 9}
TOLERANCE = 1e-4  # of the largest element
# onnxruntime 1.31 refuses masks of one query row in Attention-23: the same module's export in opset 18 stands in.
REFUSED = {"multi_head_padded.dynamo-23", "sdpa_bool.dynamo-23", "sdpa_float.dynamo-23"}


class Export(NamedTuple):
    """One file of the corpus."""

    path: Path

    @property
    def snippet(self) -> str:
        return self.path.name.split(".")[0]

    @property
    def exporter(self) -> str:
        return self.path.name.split(".")[1]


EXPORTS = [Export(path) for path in sorted(FOLDER.glob("*/*.onnx"))]
SNIPPETS = sorted({(e.path.parent.name, e.snippet) for e in EXPORTS})


@functools.cache
def optimised(export: Export) -> tuple[Graph, frozenset[str]]:
    """The graph after the default pipeline, and the rules that fired."""
    trace = Trace()
    graph = default_pipeline().run(load_onnx(export.path), trace=trace)
    return graph, frozenset(f.rule for f in trace.firings)


def feed(graph: Graph) -> dict[str, Array]:
    """Inputs for a snippet: masks whose first key is valid, small integers, normal numbers."""
    made: dict[str, Array] = {}
    for x in graph.inputs:
        shape = tuple(EXTENTS[str(d)] if not isinstance(d, int) else d for d in x.shape)
        random = np.random.default_rng(zlib.crc32(x.label.encode()))
        if x.label.startswith("mask"):
            made[x.label] = (random.random(shape) < 0.6).astype(np.int64)
            made[x.label][..., 0] = 1
        elif x.dtype.is_integer:
            made[x.label] = random.integers(0, 8, shape)
        else:
            made[x.label] = random.standard_normal(shape).astype(np.float32)
    return made


def expected(export: Export, inputs: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    name = export.path.name.removesuffix(".onnx")
    path = export.path.with_name(f"{export.snippet}.dynamo-18.onnx") if name in REFUSED else export.path
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def agree(have: Sequence[Any], want: Sequence[Array], label: str) -> None:
    for a, b in zip(have, want, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, label
        if b.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * np.abs(b).max(), err_msg=label)
        else:
            np.testing.assert_array_equal(a, b, err_msg=label)


@pytest.mark.parametrize(("family", "snippet"), SNIPPETS, ids=[f"{f}-{s}" for f, s in SNIPPETS])
def test_golden(family: str, snippet: str) -> None:
    machine = find_target("cpu").machine
    found: dict[str, list[str]] = {}
    for export in EXPORTS:
        if (export.path.parent.name, export.snippet) == (family, snippet):
            graph = optimised(export)[0]
            text = f"{listing(graph)}launches: {launches(lower(graph, machine))}\n"
            found.setdefault(text, []).append(export.exporter)
    golden = "\n".join(f"# {', '.join(exporters)}\n{text}" for text, exporters in found.items())
    path = FOLDER / family / f"{snippet}.golden.ir"
    if UPDATE:
        path.write_text(golden, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == golden, f"{path} is out of date: set INGOT_UPDATE_GOLDEN=1 and look"


def representatives() -> list[Export]:
    """One export of each snippet, the newest."""
    return list(
        {export.snippet: export for export in sorted(EXPORTS, key=lambda e: int(e.exporter.split("-")[1]))}.values()
    )


def side_by_side(exports: Sequence[Export], given: Mapping[str, Array]) -> Graph:
    """The snippets, imported for the shapes of what is given, as one graph; labels are prefixed by numbers."""
    inputs: list[Input] = []
    outputs: list[tuple[str, Value]] = []
    for number, export in enumerate(exports):
        shapes = {name.partition(":")[2]: x.shape for name, x in given.items() if name.startswith(f"{number}:")}
        graph = load_onnx(export.path, shapes=shapes)
        renamed: dict[Value, Value] = {x: Input(f"{number}:{x.label}", x.type) for x in graph.inputs}
        moved = rebuild(graph, renamed)
        inputs += [x for x in renamed.values() if isinstance(x, Input)]
        outputs += [(f"{number}:{i}", value) for i, value in enumerate(moved.results)]
    return Graph(tuple(inputs), tuple(outputs), "corpus")


@pytest.mark.slow
def test_compiled_snippets_agree_with_onnxruntime() -> None:
    exports = representatives()
    given: dict[str, Array] = {}
    wanted: list[list[Array]] = []
    for number, export in enumerate(exports):
        alone = feed(load_onnx(export.path))
        wanted.append(expected(export, alone))
        given |= {f"{number}:{name}": array for name, array in alone.items()}
    with compile(side_by_side(exports, given)).session(threads=2) as session:
        results = session.run(given)
    for number, export in enumerate(exports):
        have = [results[f"{number}:{i}"] for i in range(len(wanted[number]))]
        agree(have, wanted[number], export.path.name)


def test_every_export_agrees_with_onnxruntime() -> None:
    """The optimised graph, interpreted: also those exports that are not compiled because they become the same."""
    for export in EXPORTS:
        graph = load_onnx(export.path)
        inputs = feed(graph)
        have = evaluate_graph(optimised(export)[0], inputs)
        agree([have[label] for label, _ in graph.outputs], expected(export, inputs), export.path.name)


def test_every_rule_fires() -> None:
    fired = frozenset().union(*(optimised(export)[1] for export in EXPORTS))
    assert sorted({rule_name(rule) for rule in (*RULES, *sink.RULES)} - fired) == []


def test_files_are_small() -> None:
    assert not [export.path.name for export in EXPORTS if export.path.stat().st_size > 20_000]
