"""Philox4x32-10: the known answers of Random123, and its expansion into integer arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.compiler.ir.graph import constant
from ingot.compiler.ir.interpret import evaluate_expansion
from ingot.compiler.ir.types import IrError
from ingot.compiler.ops.random import Entropy, RandomBits, philox
from ingot.runtime.dtypes import f32, u64

ONES = 2**64 - 1


@pytest.mark.parametrize(
    ("counter", "run", "key", "words"),
    [
        (0, 0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (ONES, ONES, ONES, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x85A308D3243F6A88, 0x0370734413198A2E, 0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)  # fmt: skip
def test_known_answers(counter: int, run: int, key: int, words: tuple[int, ...]) -> None:
    assert tuple(int(w[0]) for w in philox(np.array([counter], np.uint64), run, key)) == words


@pytest.mark.parametrize("blocks", [0, 1, 37])
def test_expansion(blocks: int) -> None:
    key, run = 0x299F31D0A4093822, 2**40 + 3
    node = RandomBits(constant(key, u64), constant(run, u64), blocks)
    expanded = evaluate_expansion(node, [np.array(key, np.uint64), np.array(run, np.uint64)])
    for want, got in zip(node.evaluate(*(np.array(x, np.uint64) for x in (key, run))), expanded, strict=True):
        assert got.dtype == np.uint32 and np.array_equal(want, got)


def test_types() -> None:
    assert [str(t) for t in Entropy().types] == ["u64[2]"]
    with pytest.raises(IrError, match="u64"):
        RandomBits(constant(0.0, f32), constant(0, u64), 3)
    with pytest.raises(IrError, match="blocks"):
        RandomBits(constant(0, u64), constant(0, u64), -1)
