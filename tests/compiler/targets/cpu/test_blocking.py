"""The row counts of tiles against those that the loops of a contraction come to."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ingot.compiler import compile
from ingot.compiler.ir.dims import Dim, divisor, floor_divide, symbol
from ingot.compiler.ir.loops import Axis, Load
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.cpu.blocking import Blocking

N = symbol("n")


def blocking(rows: Dim, row_block: int) -> Blocking:
    template = Contraction(
        batch=(),
        rows=(Axis("i", rows),),
        columns=Axis("j", 64),
        segments=(),
        run=Axis("k", 32),
        a=Load("a", symbol("i") * 32 + symbol("k")),
        b="b",
        b_offset=0,
        width=16,
        tile_rows=6,
        row_block=row_block,
        panel_block=4,
        stores=(),
    )
    return Blocking(template, features.level("x86-64-v3"))


def tiles(chosen: Blocking, rows: int, row_block: int) -> set[int]:
    """The rows of all tiles, as `contraction` shares them out."""
    found: set[int] = set()
    for begin in range(0, rows, row_block):
        end = min(begin + row_block, rows)
        for row in range(begin, end, chosen.block_rows):
            count = min(end - row, chosen.block_rows)
            number = -(-count // chosen.most)
            least, larger = divmod(count, number)
            found |= {least, least + 1} if larger else {least}
    return found


@pytest.mark.parametrize("row_block", [1, 6, 36, 60, 132, 196, 204, 1000])
@pytest.mark.parametrize("each", [1, 2, 16, 49, 196, 784])
def test_sizes_of_tiles(each: int, row_block: int) -> None:
    chosen = blocking(N * each, row_block)
    met = set[int]().union(*(tiles(chosen, each * n, row_block) for n in range(row_block + 1)))
    assert met == set(chosen.sizes)
    for n in (1, 3):
        assert tiles(blocking(n * each, row_block), n * each, row_block) == set(blocking(n * each, row_block).sizes)


def test_divisors() -> None:
    m = symbol("m")
    dims: list[Dim] = [0, 12, -12, N, N * 12 + 8, N * m * 6 + N * 4, floor_divide(N, 2) * 10, N * 4 - m * 6]
    assert [divisor(dim) for dim in dims] == [0, 12, 12, 1, 4, 2, 10, 2]


def test_images_of_a_batch() -> None:
    """Products whose rows are a multiple of 196: their tiles have few different numbers of rows, whatever the batch."""
    rng = np.random.default_rng(7)
    w = rng.standard_normal((24, 20, 1, 1)).astype(np.float32)
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 20, 14, 14] x) => (float[n, 24, 14, 14] y)'
    model = onnx.parser.parse_model(text + " { y = Conv (x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    with compile(model, cache=False).session(threads=1) as session:
        for n in (1, 2, 3, 7):
            x = rng.standard_normal((n, 20, 14, 14)).astype(np.float32)
            wanted = np.einsum("nchw,oc->nohw", x.astype(np.float64), w[:, :, 0, 0].astype(np.float64))
            np.testing.assert_allclose(session.run({"x": x})["y"], wanted, rtol=1e-5, atol=1e-5)
