"""The keys and streams of sessions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ingot.runtime.entropy import RUNS, Entropy
from ingot.runtime.environment import read_environment
from ingot.runtime.errors import InputError


def test_streams() -> None:
    entropy = Entropy(7)
    assert [entropy.stream() for _ in range(3)] == [(7, 0), (7, RUNS), (7, 2 * RUNS)]
    assert not entropy.renew() and entropy.stream()[0] == 7
    assert Entropy(np.int64(7)).stream() == (7, 0)


def test_keys_of_the_system_differ() -> None:
    one, other = Entropy(), Entropy()
    key = one.stream()[0]
    assert key != other.stream()[0]
    assert one.renew() and one.stream()[0] != key


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "3", True])
def test_seeds_are_checked(seed: Any) -> None:
    with pytest.raises(InputError, match="seed"):
        Entropy(seed)


def test_environment() -> None:
    assert read_environment({}).seed is None
    assert read_environment({"INGOT_SEED": "18446744073709551615"}).seed == 2**64 - 1
    for text in ("-1", "18446744073709551616", "x"):
        with pytest.raises(InputError, match="INGOT_SEED"):
            read_environment({"INGOT_SEED": text})
