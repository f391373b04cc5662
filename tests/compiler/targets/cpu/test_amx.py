"""Products of bytes in AMX's tiles: the instructions that are chosen, the shapes that tiles get, and that weights lie
as tiles read them. What the instructions do is the processor's, which this does not run."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.compiler.targets.cpu.test_dots import EXAMPLES, assembly, contractions, lowered

from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.weight_forms import WeightForms
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.cpu import amx, features
from ingot.compiler.targets.cpu.blocking import Blocking

Array = NDArray[Any]
LEVEL = features.level("x86-64-v4+amx-int8")
DEEP, ROW = "mat_mul_bytes_deep", "mat_mul_bytes_row"


def configuration(text: str) -> dict[int, tuple[int, int]]:
    """The rows and bytes a row of each tile that code gives a shape."""
    fields = [int(byte) for byte in re.findall(r"^\s*\.byte\s+(\d+)", text, re.MULTILINE)[:64]]
    assert fields[:16] == [1] + [0] * 15  # the palette; no tile is begun in its middle
    found = {tile: (fields[48 + tile], fields[16 + 2 * tile] + 256 * fields[17 + 2 * tile]) for tile in range(8)}
    assert not any(fields[32:48] + fields[56:])
    return {tile: shape for tile, shape in found.items() if shape != (0, 0)}


@pytest.mark.parametrize(
    ("name", "depths"),
    [(DEEP, {64, 516 % 64}), ("conv_bytes_1x1_last", {16}), ("conv_bytes_3x3_last", {48})],
)
def test_instructions(name: str, depths: set[int]) -> None:
    """Each product multiplies a tile of A by one of B on top of one of sums, whose shapes fit each other."""
    (launch,) = contractions(lowered(name, LEVEL))
    text = assembly(launch.kernel, LEVEL)
    shapes = configuration(text)
    products = re.findall(r"tdpbusd\s+%tmm(\d), %tmm(\d), %tmm(\d)", text)
    assert products
    used: set[int] = set()
    for b, a, c in ((int(b), int(a), int(c)) for b, a, c in products):
        depth = shapes[a][1]
        assert shapes[a] == (16, depth) and shapes[b] == (depth // 4, 64) and shapes[c] == (16, 64)
        used.add(depth)
    assert used == depths
    # What is loaded are factors, what is stored are sums: no tile is spilt.
    loaded = {int(tile) for tile in re.findall(r"tileloadd\s.*%tmm(\d)$", text, re.MULTILINE)}
    stored = {int(tile) for tile in re.findall(r"tilestored\s+%tmm(\d)", text)}
    assert loaded == {int(tile) for b, a, _ in products for tile in (a, b)}
    assert stored == {int(c) for _, _, c in products} == set(range(len(stored)))
    assert len(re.findall(r"\tldtilecfg", text)) == len(re.findall(r"\ttilerelease", text)) == 1


@pytest.mark.parametrize("name", [DEEP, "mat_mul_bytes_odd", "mat_mul_bytes_plain"])
def test_weights_lie_as_tiles_read_them(name: str) -> None:
    """Tile after tile of the packed weights, multiplied as the manual says, gives the product."""
    (launch,) = contractions(lowered(name, LEVEL))
    body = launch.kernel.body
    assert isinstance(body, Contraction) and (body.dot, body.width) == (amx.DOT, amx.COLUMNS)
    assert isinstance(body.depth, int) and isinstance(body.columns.extent, int) and isinstance(body.panels, int)
    (packed,) = (
        argument.storage.data
        for buffer, argument in zip(launch.kernel.buffers, launch.buffers, strict=True)
        if buffer.name == body.b
    )
    assert packed is not None
    memory = np.asarray(packed).reshape(-1).view(np.int8)
    (a,) = EXAMPLES[name].feed().values()
    filled = np.zeros((a.shape[0], body.depth), np.int64)
    filled[:, : a.shape[1]] = a
    sums = np.zeros((a.shape[0], body.panels * amx.COLUMNS), np.int64)
    for panel in range(body.panels):
        columns = slice(panel * amx.COLUMNS, (panel + 1) * amx.COLUMNS)
        for k in range(0, body.depth, amx.STEP):
            depth = min(amx.STEP, body.depth - k)
            start = (panel * body.depth + k) * amx.COLUMNS
            tile = memory[start : start + depth * amx.COLUMNS].reshape(depth // 4, amx.COLUMNS, 4)  # rows of 64 bytes
            rows = filled[:, k : k + depth].reshape(-1, depth // 4, 4)
            sums[:, columns] += np.einsum("mkd,kjd->mj", rows, tile.astype(np.int64))
    (want,) = evaluate_graph(EXAMPLES[name].graph(), EXAMPLES[name].feed()).values()
    np.testing.assert_array_equal(sums[:, : body.columns.extent], want)


def test_few_rows_do_without() -> None:
    (launch,) = contractions(lowered(ROW, LEVEL))
    text = assembly(launch.kernel, LEVEL)
    assert "vpdpbusd" in text and "tmm" not in text and "tilecfg" not in text


def test_where_there_are_none() -> None:
    """Nor where accesses are checked, in panels of another width, and on levels that only have the instructions."""
    graph = default_pipeline().run(EXAMPLES["mat_mul_bytes_column"].graph())
    small = lower(graph, features.machine(LEVEL), forms=WeightForms(memory="small"))
    (narrow,), (wide,) = contractions(small), contractions(lowered(DEEP, LEVEL))
    assert isinstance(narrow.kernel.body, Contraction) and isinstance(wide.kernel.body, Contraction)
    assert narrow.kernel.body.width != amx.COLUMNS
    for kernel, level, tiles in (
        (wide.kernel.body, LEVEL, True),
        (narrow.kernel.body, LEVEL, False),
        (wide.kernel.body, replace(LEVEL, checked=True), False),
        (wide.kernel.body, replace(LEVEL, tiles=False), False),
    ):
        assert Blocking(kernel, level).tiles == tiles


def test_tiles_are_worth_wide_chunks() -> None:
    """The model knows that a tile of rows is multiplied at once: chunks are of whole ones."""
    plain, tiled = (
        contractions(lowered(DEEP, level))[0].kernel.body for level in (features.level("x86-64-v4+avx512vnni"), LEVEL)
    )
    assert isinstance(plain, Contraction) and isinstance(tiled, Contraction)
    assert plain.tile_rows < tiled.tile_rows == amx.ROWS
