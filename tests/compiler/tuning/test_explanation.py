"""What artifacts say of schedules: it comes back, is cut where it is long, and may be damaged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ingot.compiler.lower.schedules import Decision, Option, Schedule
from ingot.compiler.tuning.explanation import Explanation, decode, encode, explanations
from ingot.runtime.errors import ArtifactError

OPTIONS = tuple(Option(Schedule("direct", 8, rows, 4, 1, "tiles"), 1.5, "bandwidth", 2.25) for rows in range(1, 9))


def test_equal_groups_are_one() -> None:
    first = [Decision("a", ("k0",), ("n0",), OPTIONS[:2]), Decision("b", ("k1",), ("n1",), OPTIONS[:1])]
    again = [Decision("a", ("k2", "k3"), ("n2",), OPTIONS[:2])]
    tuned = (replace(OPTIONS[0], measured=7.0), *OPTIONS[2:4])
    found = explanations([first + again, again], {"b": tuned, "a": OPTIONS[2:4]})  # of "a" others could be had
    assert found == (
        Explanation(0, 2, "a", ("k0", "k2", "k3"), OPTIONS[:2]),
        Explanation(0, 1, "b", ("k1",), tuned),
        Explanation(1, 1, "a", ("k2", "k3"), OPTIONS[:2]),
    )
    assert decode(encode(found)) == found


def test_long_ones_are_cut() -> None:
    items = [Explanation(0, 1, f"kernel {number}", (f"k{number}",), OPTIONS) for number in range(40)]
    sizes = [len(decode(encode(items, most))[0].options) for most in (20_000, 8_000, 4_000)]
    assert sizes == [8, 3, 1] and all(len(encode(items, most)) <= most for most in (20_000, 8_000, 4_000))
    assert encode(items, 500) == b"" and encode([]) == b""


GOOD = [0, 1, "a", ["k"], [["direct", 8, 1, 4, 1, "tiles", 1.5, "compute", None]]]


@pytest.mark.parametrize(
    "row",
    [
        1,
        GOOD[:4],
        [0, 1, 2, ["k"], GOOD[4]],
        [0, 1, "a", [1], GOOD[4]],
        [-1, 1, "a", ["k"], GOOD[4]],
        [0, 1, "a", ["k"], []],
        [0, 1, "a", ["k"], [[]]],
        [0, 1, "a", ["k"], [["fft", 8, 1, 4, 1, "tiles", 1.5, "compute", None]]],
        [0, 1, "a", ["k"], [[["direct"], 8, 1, 4, 1, "tiles", 1.5, "compute", None]]],
        [0, 1, "a", ["k"], [["direct", 8, 1, 4, -1, "tiles", 1.5, "compute", None]]],
        [0, 1, "a", ["k"], [["direct", 8, 1, 4, 1, "tiles", "x", "compute", None]]],
        [0, 1, "a", ["k"], [["direct", 8, 1, 4, 1, "tiles", 1.5, "compute", -1]]],
    ],
    ids=str,
)
def test_damaged(row: object) -> None:
    assert len(decode(json.dumps([GOOD]).encode())) == 1
    with pytest.raises(ArtifactError):
        decode(json.dumps([GOOD, row]).encode())
