"""Products of f32 by weights of a few bits, which stay narrow in memory, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ingot.compiler import compile
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.templates import Contraction, Strassen
from ingot.compiler.ir.text.loops import parse_kernel, show_kernel
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.block_weights import pack_words
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.weight_forms import WeightForms
from ingot.compiler.ops.composite import Attention
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.pointwise import Add, Relu
from ingot.compiler.ops.quantised import DequantizeBlocks
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import f32

Array = np.ndarray[Any, Any]
MACHINE = find_target("cpu").machine
ROWS = (0, 1, 2, 5, 17, 128)
N = symbol("n")


class Weights:
    """Random weights [depth, columns] of `bits` bits in blocks of `block` rows."""

    def __init__(self, bits: int, block: int, depth: int, columns: int, *, zeros: bool = False) -> None:
        rng = np.random.default_rng(bits * block + depth)
        blocks = -(-depth // block)
        self.bits, self.block = bits, block
        self.x = rng.integers(0, 2**bits, (depth, columns), np.uint8)
        self.scale = (0.1 + rng.random((blocks, columns))).astype(np.float32)
        self.zero = np.full((1, 1), 2 ** (bits - 1), np.uint8)
        if zeros:
            self.zero = rng.integers(0, 2**bits, (blocks, columns), np.uint8)

    @property
    def node(self) -> DequantizeBlocks:
        return DequantizeBlocks(constant(self.x), constant(self.scale), constant(self.zero), self.bits, self.block)

    @property
    def numbers(self) -> Array:
        """What the weights stand for, in float64."""
        rows = np.arange(len(self.x)) // self.block
        zero = np.broadcast_to(self.zero, self.scale.shape)[rows]
        return (self.x.astype(np.float64) - zero) * self.scale[rows].astype(np.float64)

    def graph(self, rows: Dim, a_bits: int = 0) -> Graph:
        """relu(x @ weights + bias)"""
        x = Input("x", TensorType(f32, (rows, len(self.x))))
        bias = constant(np.linspace(-1, 1, self.x.shape[1], dtype=np.float32))
        ranges = {} if isinstance(rows, int) else {"n": (0, 1000)}
        return Graph((x,), (("y", Relu(Add(MatMul(x, self.node, a_bits), bias))),), "product", ranges)

    def wanted(self, x: Array) -> Array:
        """The result in float64."""
        bias = np.linspace(-1, 1, self.x.shape[1], dtype=np.float32)
        return np.maximum(x.astype(np.float64) @ self.numbers + bias, 0)


def random(rows: int, depth: int) -> Array:
    return np.random.default_rng(rows).standard_normal((rows, depth)).astype(np.float32)


def close(have: Array, want: Array) -> None:
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=2e-6 * max(1.0, float(np.abs(want).max(initial=0))))


def product_of(program: Program) -> Kernel:
    """The kernel of the product."""
    (found,) = [launch.kernel for launch in program.launches() if isinstance(launch.kernel.body, Contraction)]
    return found


def stored(program: Program) -> dict[str, int]:
    """Bytes of the weights by the types of their elements."""
    found: dict[str, int] = {}
    for storage in program.of_kind("weight"):
        assert isinstance(storage.size, int)
        found[storage.dtype.name] = found.get(storage.dtype.name, 0) + storage.size * storage.dtype.bytes
    return found


FORMS = [
    Weights(4, 32, 96, 70),
    Weights(4, 32, 131, 33, zeros=True),
    Weights(4, 16, 67, 129, zeros=True),
    Weights(4, 1000, 77, 80),
    Weights(8, 16, 523, 96),
    Weights(8, 64, 200, 47, zeros=True),
    Weights(8, 1000, 131, 40, zeros=True),
    Weights(2, 128, 300, 17, zeros=True),
    Weights(2, 1000, 101, 1),
    Weights(4, 8, 8, 100),
]


def name_of(form: Weights) -> str:
    zeros = " zeros" if form.zero.size > 1 else ""
    return f"u{form.bits} by {form.block} {form.x.shape[0]}x{form.x.shape[1]}{zeros}"


@pytest.mark.parametrize("form", FORMS, ids=name_of)
@pytest.mark.parametrize("target", ["cpu", "native"])
def test_products_of_all_numbers_of_rows(form: Weights, target: str) -> None:
    artifact = compile(form.graph(N), jobs=1, target=target)
    with artifact.session(threads=1) as session:
        for rows in ROWS:
            x = random(rows, len(form.x))
            close(session.run({"x": x})["y"], form.wanted(x))


@pytest.mark.parametrize(("rows", "numerics"), [(2, "default"), (3, "default"), (1, "strict"), (7, "strict")])
def test_products_of_few_rows(rows: int, numerics: Any) -> None:
    form = Weights(4, 32, 160, 150, zeros=True)
    x = random(rows, len(form.x))
    artifact = compile(form.graph(rows), jobs=1, numerics=numerics)
    for threads in (1, 2):
        with artifact.session(threads=threads) as session:
            close(session.run({"x": x})["y"], form.wanted(x))


@pytest.mark.parametrize("form", FORMS[1::3], ids=name_of)
def test_the_program_means_the_same(form: Weights) -> None:
    graph = form.graph(3)
    program, x = lower(graph, MACHINE), random(3, len(form.x))
    close(evaluate_graph(graph, {"x": x})["y"], form.wanted(x))
    close(run_program(program, {"x": x})["y"], form.wanted(x))
    kernel = product_of(program)
    assert parse_kernel(show_kernel(kernel)) == kernel


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_what_is_not_finite_stays_in_its_row(rows: int) -> None:
    form = Weights(4, 32, 96, 70)
    x = random(7, 96)
    x[1, 3], x[3, 40], x[5, 95] = np.nan, np.inf, -np.inf
    with compile(form.graph(rows), jobs=1, target="native").session(threads=1) as session:
        parts = [session.run({"x": x[i : i + rows]})["y"] for i in range(8 - rows)]
    have = parts[0] if rows == 7 else np.concatenate([part[:1] for part in parts])
    x = x[: len(have)]
    with np.errstate(invalid="ignore"):
        want = form.wanted(x)
    np.testing.assert_array_equal(np.isnan(have), np.isnan(want))
    np.testing.assert_array_equal(np.isposinf(have), np.isposinf(want))
    close(have[[0, 2, 4]], want[[0, 2, 4]])


def test_rows_of_all_magnitudes() -> None:
    """Elements far below the largest of their block, and rows near the ends of f32's range."""
    form = Weights(8, 32, 96, 70)
    x = random(5, 96) * np.float32(10.0) ** np.random.default_rng(1).integers(-9, 4, (5, 96)).astype(np.float32)
    x[1] *= np.float32(1e-30)
    x[2] *= np.float32(1e28)
    x[3] = 0
    x[4, ::2] = 0
    bias = np.linspace(-1, 1, 70, dtype=np.float32)
    with compile(form.graph(1), jobs=1, target="native").session(threads=1) as session:
        for row in x:
            want = np.maximum(row.astype(np.float64) @ form.numbers + bias, 0)
            wide = np.abs(row).astype(np.float64)
            largest = np.repeat(wide.reshape(3, 32).max(1), 32)  # of each block
            bound = (2.0**-22 * largest + 2e-7 * wide) @ np.abs(form.numbers) + 1e-6
            assert (np.abs(session.run({"x": row[None]})["y"][0] - want) <= bound).all()


def rounded(x: Array, block: int) -> Array:
    """What rows are where they are rounded to 8 bits, block by block, in float64."""
    found = np.zeros(x.shape)
    for first in range(0, x.shape[1], block):
        part = x[:, first : first + block].astype(np.float64)
        unit = np.maximum(np.abs(part).max(1, keepdims=True), 2.0**-100) / 127
        found[:, first : first + block] = np.rint(part / unit) * unit
    return found


@pytest.mark.parametrize("form", FORMS[::2], ids=name_of)
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_rows_that_may_be_rounded(form: Weights, rows: int) -> None:
    """They are, to what the definition says; halves go one way or the other, and more rows than that are not."""
    x = random(rows, len(form.x))
    x[0, :3] = 0
    block = min(form.block, 256)
    with compile(form.graph(rows, 8), jobs=1, target="native").session(threads=2) as session:
        have = session.run({"x": x})["y"]
    close(have, form.wanted(rounded(x, block)))
    assert np.abs(have - form.wanted(x)).max() > 1e-5 * np.abs(have).max()


def test_more_rows_are_not_rounded() -> None:
    form = Weights(4, 32, 96, 70)
    trials: list[tuple[Any, int]] = [("default", 0), ("default", 40), ("strict", 1), ("strict", 2)]
    for numerics, rows in trials:
        x = random(rows, 96)
        with compile(form.graph(rows, 8), jobs=1, target="native", numerics=numerics).session(threads=1) as session:
            close(session.run({"x": x})["y"], form.wanted(x))


def test_rounded_rows_of_all_magnitudes() -> None:
    form = Weights(4, 32, 96, 70, zeros=True)
    x = random(6, 96)
    x[0] *= np.float32(1e-37)
    x[1] *= np.float32(1e35)
    x[2] = 0
    x[3, 5], x[4, 95], x[5, 40:] = np.nan, np.inf, -0.0
    with compile(form.graph(1, 8), jobs=1, target="native").session(threads=1) as session:
        have = np.concatenate([session.run({"x": row[None]})["y"] for row in x])
    with np.errstate(invalid="ignore"):
        want = form.wanted(np.concatenate([rounded(x[:3], 32), x[3:5], rounded(x[5:], 32)]))
    np.testing.assert_array_equal(np.isnan(have), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(have), np.isinf(want))
    for i in (0, 1, 2, 5):
        close(have[i], want[i])


@pytest.mark.parametrize("form", [Weights(4, 32, 512, 512), Weights(8, 64, 512, 510, zeros=True)], ids=name_of)
def test_many_rows_take_one_level_of_strassen(form: Weights) -> None:
    """The weights are written out as f32 for it, where they may be."""
    x = random(257, 512)
    for rows in (257, N):
        graph = form.graph(rows)
        program = lower(graph, MACHINE)
        assert any(isinstance(launch.kernel.body, Strassen) for launch in program.launches())
        with compile(graph, jobs=1).session(threads=2) as session:
            for count in (257,) if rows == 257 else (1, 7, 100, 257):
                have, want = session.run({"x": x[:count]})["y"], form.wanted(x[:count])
                np.testing.assert_allclose(have, want, rtol=0, atol=4e-6 * float(want.max()))
    for forms in (WeightForms(memory="small"), WeightForms(weights="f32")):
        other = lower(form.graph(257), MACHINE, forms=forms)
        assert not any(launch.kernel.name.startswith("widen") for launch in other.launches())
    strict = lower(form.graph(257), MACHINE, reorder=False)
    assert not any(isinstance(launch.kernel.body, Strassen) for launch in strict.launches())


def test_the_strassen_program_means_the_same() -> None:
    form = Weights(4, 32, 256, 256, zeros=True)
    program, x = lower(form.graph(200), MACHINE), random(200, 256)
    assert any(isinstance(launch.kernel.body, Strassen) for launch in program.launches())
    close(run_program(program, {"x": x})["y"], form.wanted(x))


def test_scales_that_are_not_finite() -> None:
    form = Weights(8, 32, 96, 70)
    form.scale[1, 4], form.scale[2, 5] = np.inf, 0
    x = np.abs(random(2, 96))
    with compile(form.graph(2), jobs=1).session(threads=1) as session:
        have = session.run({"x": x})["y"]
    with np.errstate(invalid="ignore"):
        want = form.wanted(x)
    kept = np.arange(70) != 4
    close(have[:, kept], want[:, kept])
    assert not np.isfinite(have[:, 4][have[:, 4] != 0]).any()


def test_checked_builds() -> None:
    form = Weights(4, 32, 131, 33, zeros=True)
    x = random(5, 131)
    with compile(form.graph(N), jobs=1, checked=True).session(threads=1) as session:
        close(session.run({"x": x})["y"], form.wanted(x))


def test_weights_stay_narrow() -> None:
    program = lower(Weights(4, 32, 1024, 512).graph(1), MACHINE)
    narrow = stored(program)
    assert narrow == {"u32": 1024 * 512 // 2, "f32": 1024 * 512 // 8 + 512 * 4}
    strict = lower(Weights(4, 32, 1024, 512).graph(1), MACHINE, reorder=False)
    for each, factored in ((program, True), (strict, False)):
        template = product_of(each).body
        assert isinstance(template, Contraction) and template.blocks is not None
        assert template.blocks.factored == factored


def test_zero_points_take_a_byte_a_block() -> None:
    narrow = stored(lower(Weights(4, 32, 1024, 512, zeros=True).graph(1), MACHINE))
    assert narrow["u8"] == 1024 * 512 // 32


def test_weights_as_f32_where_asked_for() -> None:
    form = Weights(4, 32, 96, 70)
    graph = form.graph(3)
    program = lower(graph, MACHINE, forms=WeightForms(weights="f32"))
    assert stored(program).keys() == {"f32"}
    x = random(3, 96)
    close(run_program(program, {"x": x})["y"], form.wanted(x))


def test_other_readers_get_them_dequantised() -> None:
    """An attention over constant values, and an output."""
    form = Weights(8, 32, 64, 64)
    q = Input("q", TensorType(f32, (5, 64)))
    narrow: Value = form.node
    attended = Attention(q, narrow, narrow, None, 0.125, "none")
    graph = Graph((q,), (("y", attended), ("w", narrow)))
    program, x = lower(graph, MACHINE), random(5, 64)
    have, want = run_program(program, {"q": x}), evaluate_graph(graph, {"q": x})
    close(have["y"], want["y"])
    np.testing.assert_array_equal(have["w"], want["w"])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_words(bits: int) -> None:
    """Every number is where the template's documentation says."""
    depth, columns, width, per = 45, 21, 16, 32 // bits
    data = np.random.default_rng(bits).integers(0, 2**bits, (depth, columns), np.uint8)
    words = pack_words(data, bits, width).reshape(-1)
    count = -(-depth // per)
    for k in range(depth):
        for n in range(columns):
            word = int(words[(n // width * count + k // per) * width + n % width])
            assert word >> (k % 4 * 8 + k % per // 4 * bits) & 2**bits - 1 == data[k, n]
