"""Statistics of activations: what the compiled model's observers tell is what the interpreter's arrays have."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiler.passes.quantize.layered import encoder, samples

from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.statistics import observed
from ingot.compiler.quantization.activations import activation_statistics


def test_observers_tell_what_the_interpreter_has() -> None:
    random = np.random.default_rng(0)
    graph = encoder(random, width=32, residual=True)
    given = samples(graph, 3, random)
    found, expected = activation_statistics(graph, given, threads=1), observed(graph, given)
    assert found.keys() == expected.keys()
    assert found["q"] is found["v"] and found["q"] is not found["up"]
    for name, each in found.items():
        other = expected[name]
        assert each.count == other.count == 36
        for field in ("mean", "mean_magnitude", "largest", "moment"):
            mine, theirs = getattr(each, field), getattr(other, field)
            assert mine.shape == theirs.shape
            assert np.allclose(mine, theirs, rtol=1e-3, atol=1e-5 * np.abs(theirs).max()), (name, field)


def test_names() -> None:
    random = np.random.default_rng(0)
    graph = encoder(random, width=32)
    assert activation_statistics(graph, [], ()) == {}
    with pytest.raises(QuantisationError, match="called 'attention'"):
        activation_statistics(graph, [], ("attention",))
