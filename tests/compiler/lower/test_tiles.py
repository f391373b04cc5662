"""Schedules: what tiles and blocks must satisfy whatever the extents, and a few choices that measurements favour."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.compiler.ir.dims import ceil_divide, evaluate, symbol
from ingot.compiler.lower import tiles
from ingot.compiler.lower.machine import AVX2, AVX512, NEON, Machine
from ingot.compiler.lower.tiles import choose_attention, choose_contraction, choose_depthwise

extent = st.integers(1, 5000)
machines = st.sampled_from([AVX2, AVX512, NEON])


@given(machines, extent, extent, extent, st.integers(1, 64))
def test_contraction_blocks_cover_the_extents(machine: Machine, m: int, n: int, k: int, batch: int) -> None:
    tile = choose_contraction(machine, rows=m, columns=n, depth=k, batch=batch)
    panels = -(-n // tile.width)
    assert isinstance(tile.row_block, int) and isinstance(tile.panel_block, int)
    assert 1 <= tile.row_block <= m and 1 <= tile.panel_block <= panels
    chunks = batch * -(-m // tile.row_block) * -(-panels // tile.panel_block)
    assert chunks <= max(tiles.MOST_CHUNKS, batch)
    vectors = max(1, tile.width // machine.lanes_f32)
    assert tile.tile_rows * vectors + vectors + 1 <= machine.vector_registers


@given(machines, st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3000))
def test_symbolic_blocks_are_positive_for_every_value(machine: Machine, m: int, n: int, k: int) -> None:
    tile = choose_contraction(machine, rows=symbol("m"), columns=symbol("n"), depth=symbol("k"))
    values = {"m": m, "n": n, "k": k}
    assert evaluate(tile.row_block, values) >= 1
    panel_block = evaluate(tile.panel_block, values)
    assert 1 <= panel_block <= max(1, evaluate(ceil_divide(symbol("n"), tile.width), values))


def test_small_launches_stay_whole() -> None:
    tile = choose_contraction(AVX2, rows=1, columns=128, depth=64)
    assert tile.row_block == 1 and tile.panel_block == -(-128 // tile.width)
    tile = choose_contraction(AVX2, rows=symbol("batch"), columns=1024, depth=256)
    one = evaluate(tile.panel_block, {"batch": 1})
    many = evaluate(tile.panel_block, {"batch": 256})
    assert one == -(-1024 // tile.width) and many < one


def test_large_launches_are_cut_into_many_chunks() -> None:
    for m, n, k in ((128, 3072, 768), (3136, 64, 576), (49, 2048, 512), (12544, 32, 27)):
        tile = choose_contraction(AVX2, rows=m, columns=n, depth=k)
        assert isinstance(tile.row_block, int) and isinstance(tile.panel_block, int)
        panels = -(-n // tile.width)
        chunks = -(-m // tile.row_block) * -(-panels // tile.panel_block)
        assert chunks >= 16, (m, n, k)


@pytest.mark.parametrize(("columns", "width"), [(24, 24), (8, 8), (16, 16), (1000, 16), (64, 16)])
def test_panel_width_wastes_few_columns(columns: int, width: int) -> None:
    assert choose_contraction(AVX2, rows=196, columns=columns, depth=256).width == width


@given(st.integers(1, 4000), st.integers(1, 300), st.integers(1, 2000), st.sampled_from([1, 9, 25, 49]))
def test_depthwise_rows(rows: int, columns: int, channels: int, taps: int) -> None:
    block = choose_depthwise(AVX2, rows=rows, columns=columns, channels=channels, taps=taps)
    assert isinstance(block, int) and 1 <= block <= rows
    assert -(-rows // block) <= tiles.MOST_CHUNKS
    symbolic = choose_depthwise(AVX2, rows=symbol("rows"), columns=columns, channels=channels, taps=taps)
    assert isinstance(symbolic, int) and symbolic >= 1


@given(st.integers(1, 64), st.integers(0, 5000), st.integers(0, 5000), st.sampled_from([8, 64, 128]))
def test_attention_queries(batch: int, queries: int, keys: int, depth: int) -> None:
    block = choose_attention(AVX2, batch=batch, queries=queries, keys=keys, depth=depth, value=depth)
    assert isinstance(block, int) and 1 <= block <= max(queries, 1)
    assert block % 16 == 0 or block == max(queries, 1)
    symbolic = choose_attention(AVX2, batch=batch, queries=symbol("s"), keys=symbol("t"), depth=depth, value=depth)
    assert evaluate(symbolic, {"s": queries, "t": keys}) >= 16


def test_typical_values_stay_within_ranges() -> None:
    assert tiles.typical(symbol("b") * 3, {"b": (1, 4)}) == 12
    assert tiles.typical(symbol("b"), {"b": (200, 1000)}) == 200
    assert tiles.typical(symbol("b"), {}) == tiles.TYPICAL
