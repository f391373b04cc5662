"""Strings by number."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.runtime import RuntimeFault
from ingot.runtime.host.pool import Constants, Pool


def array(*texts: str) -> np.ndarray:
    return np.array(texts, object)


def test_equal_strings_have_equal_handles_and_the_empty_one_has_0() -> None:
    pool = Pool(Constants(("", "yes", "no", "yes")))
    handles = pool.intern(array("no", "", "other", "no", "yes", "other"))
    assert handles.tolist() == [2, 0, 3, 2, 1, 3] and handles.dtype == np.int64
    assert pool.strings(handles).tolist() == ["no", "", "other", "no", "yes", "other"]
    assert pool.strings(np.zeros((2, 0), np.int64)).shape == (2, 0)
    assert pool.intern(np.array("x", object)).shape == ()


def test_what_a_run_makes_is_forgotten_and_the_constants_are_not() -> None:
    constants = Constants(("a",))
    one, other = Pool(constants), Pool(constants)
    assert constants.strings == ("", "a")
    assert one.handle("b") == 2 and other.handle("c") == 2
    one.forget()
    assert len(one) == 2 and one.handle("a") == 1 and one.handle("c") == 2
    assert one.strings(np.array([2])).tolist() == ["c"] and other.strings(np.array([2])).tolist() == ["c"]


@pytest.mark.parametrize("handle", [-1, 2, 2**62, -(2**62)])
def test_numbers_that_are_no_handles(handle: int) -> None:
    with pytest.raises(RuntimeFault, match="no handle"):
        Pool(Constants(("a",))).strings(np.array([0, handle]))


@pytest.mark.parametrize("item", [b"bytes", None, 1, 1.5, ["list"]])
def test_elements_that_are_no_strings(item: object) -> None:
    given = np.empty(2, object)
    given[:] = ["a", item]
    with pytest.raises(RuntimeFault, match=r"element 1 .* not str"):
        Pool(Constants()).intern(given)


def test_numpy_strings_come_back_as_str() -> None:
    pool = Pool(Constants())
    handles = pool.intern(np.array([np.str_("n")], object))
    assert type(pool.strings(handles)[0]) is str
