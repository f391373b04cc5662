"""Calls of the host as code makes them: through an address, with words that point to memory."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from ingot.runtime import RuntimeFault
from ingot.runtime.dtypes import f32, i64, string
from ingot.runtime.errors import HostError
from ingot.runtime.host.calls import Call, Tensor
from ingot.runtime.host.lane import HostLane
from ingot.runtime.host.pool import Constants

CONCAT = Call("string_concat", {}, (Tensor(string, 2), Tensor(string, 0)), (Tensor(string, 2),))
READ = Call("string_to_number", {}, (Tensor(string, 1),), (Tensor(f32, 1),))
RANK = Call("string_rank", {}, (Tensor(string, 1),), (Tensor(i64, 1),))

Native = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)


def answer(lane: HostLane, number: int, *arrays: np.ndarray[Any, Any], shapes: Any = None) -> int:
    """What code does: a table of addresses and extents, and a call of the address."""
    words = [number]
    for array, shape in zip(arrays, shapes or [a.shape for a in arrays], strict=True):
        words += [array.ctypes.data, *shape]
    table = np.array(words, np.int64)
    return Native(lane.callback.address)(table.ctypes.data)


def test_calls_read_and_write_memory() -> None:
    lane = HostLane(Constants(("-",)), (CONCAT, READ, RANK))
    (x,) = lane.begin([np.array([["1", ""], ["2.5", "-"]], object)])
    mark, y = np.array(1), np.full((2, 2), -9)
    assert answer(lane, 0, x, mark, y) == 1 and lane.callback.error is None
    assert lane.strings(y).tolist() == [["1-", "-"], ["2.5-", "--"]] and y[0, 1] == 1
    numbers, ranks = np.zeros(1, np.float32), np.zeros(2, np.int64)
    assert answer(lane, 1, x[1, :1].copy(), numbers) == 1 and numbers[0] == 2.5
    assert answer(lane, 2, x[0].copy(), ranks) == 1 and ranks.tolist() == [1, 0]
    empty = np.zeros((0, 2), np.int64)
    assert answer(lane, 0, empty, mark, empty.copy()) == 1


@pytest.mark.parametrize(
    ("number", "shapes", "kind"),
    [
        (1, None, HostError),
        (2, [(-1,), (2,)], RuntimeFault),
        (2, [(2**61,), (2,)], RuntimeFault),
        (7, None, IndexError),
    ],
)
def test_failures_are_kept_for_the_session(number: int, shapes: Any, kind: type[Exception]) -> None:
    lane = HostLane(Constants(), (CONCAT, READ, RANK))
    (x,) = lane.begin([np.array(["no", "number"], object)])
    assert answer(lane, number, x, np.zeros(2, np.float32), shapes=shapes) == 0
    assert isinstance(lane.callback.error, kind)
    lane.begin([])
    assert lane.callback.error is None


def test_numbers_that_are_no_handles_are_found_in_operands() -> None:
    lane = HostLane(Constants(), (RANK,))
    lane.begin([])
    ranks = np.zeros(2, np.int64)
    assert answer(lane, 0, np.array([0, 5]), ranks) == 0 and "no handle" in str(lane.callback.error)
    assert ranks.tolist() == [0, 0]
