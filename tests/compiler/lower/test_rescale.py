"""Requantisation by multipliers and shifts as code: what TOSA says, on every level, and by which instructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.compiler.ops.example import Example
from tests.compiler.ops.rescale_examples import RESCALES, tosa
from tests.compiler.targets.cpu import test_aarch64 as arm
from tests.compiler.targets.cpu.test_dots import any_bytes, assembly
from tests.compiler.targets.levels import RUNNABLE

from ingot.compiler import compile
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.program import Launch
from ingot.compiler.ir.types import type_of
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.rescale import Rescale
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.cpu import features
from ingot.runtime.dtypes import i8, u8


@pytest.mark.parametrize("target", RUNNABLE)
def test_as_tosa_says(target: str) -> None:
    inputs = [Input(f"x{n}", type_of(example.inputs[0])) for n, example in enumerate(RESCALES)]
    nodes = [example.build(x) for example, x in zip(RESCALES, inputs, strict=True)]
    feed = {x.label: example.inputs[0] for x, example in zip(inputs, RESCALES, strict=True)}
    graph = Graph(tuple(inputs), tuple((f"y{n}", node.results()[0]) for n, node in enumerate(nodes)))
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        have = session.run(feed)
    for n, (node, example) in enumerate(zip(nodes, RESCALES, strict=True)):
        assert isinstance(node, Rescale)
        np.testing.assert_array_equal(have[f"y{n}"], tosa(node, example.inputs[0]), err_msg=example.name)


def launched(example: Example, level: features.Level) -> Launch:
    """The kernel of an example."""
    program = lower(default_pipeline().run(example.graph()), features.machine(level))
    (launch,) = program.launches()
    return launch


@pytest.mark.skipif(arm.EMULATOR is None, reason="qemu-aarch64 is not installed")
@pytest.mark.parametrize("example", RESCALES, ids=lambda e: e.name)
def test_arm(example: Example, tmp_path: Path) -> None:
    """The code, emulated, against the meaning of the kernel, for any multipliers and shifts."""
    level = features.level("aarch64")
    launch = launched(example, level)
    arm.check(launch.kernel, any_bytes(launch), tmp_path, level=level)


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("rounding", ["single", "double"])
def test_behind_a_product(rounding: str, target: str) -> None:
    """In the registers of the sums, for each column a multiplier and a shift."""
    rng = np.random.default_rng(0)
    a, w = Input("a", type_of(np.zeros((13, 40), np.uint8))), rng.integers(-128, 128, (40, 37)).astype(np.int8)
    multiplier, shift = rng.integers(1 << 30, 1 << 31, 37), rng.integers(37, 45, 37)
    parts: list[Value] = [constant(each.astype(np.int32)) for each in (multiplier, shift)]
    kind = "double" if rounding == "double" else "single"
    node = Rescale(MatMul(a, constant(w)), parts[0], parts[1], None, constant(-3, i8), i8, kind)
    data = rng.integers(0, 256, (13, 40)).astype(np.uint8)
    sums = (data.astype(np.int64) @ w.astype(np.int64)).astype(np.int32)
    with compile(Graph((a,), (("y", node),)), target=target, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run({"a": data})["y"], tosa(node, sums))


@pytest.mark.skipif(features.host_arch() != "x86-64", reason="levels of x86-64")
@pytest.mark.parametrize(("name", "register"), [("x86-64-v3", "ymm"), ("x86-64-v4", "zmm")])
def test_long_shifts_take_the_upper_half_of_products(name: str, register: str) -> None:
    (example,) = (each for each in RESCALES if each.name == "rescale_sums")
    level = features.level(name)
    text = assembly(launched(example, level).kernel, level)
    wide = [line for line in text.splitlines() if "vpmuldq" in line and register in line]
    assert wide and "vpsrad" in text and not any("vpsraq" in line or "vpmullq" in line for line in text.splitlines())


def test_bytes_stay_bytes() -> None:
    """One that is not constant is a view of nothing: parameters may be computed, too."""
    x = np.arange(256, dtype=np.uint8).reshape(4, 64)
    source, multiplier, shift = (Input(n, type_of(v)) for n, v in (
        ("x", x), ("m", np.zeros((), np.int32)), ("s", np.zeros((), np.int32))
    ))  # fmt: skip
    node = Rescale(source, multiplier, shift, constant(7, u8), constant(100, u8), u8, "single")
    feed = {"x": x, "m": np.array(1502913241, np.int32), "s": np.array(31, np.int32)}
    with compile(Graph((source, multiplier, shift), (("y", node),)), jobs=1).session(threads=1) as session:
        have = session.run(feed)["y"]
    wanted = [min(max((((int(v) - 7) * 1502913241 + (1 << 30)) >> 31) + 100, 0), 255) for v in x.reshape(-1)]
    assert have.reshape(-1).tolist() == wanted
