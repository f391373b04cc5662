"""Bits under a budget, against every combination."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ingot.compiler.passes.quantize.allocation import Option, allocate, frontier
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.groups import WeightForm

FORMS = [WeightForm(bits, 32) for bits in (2, 3, 4, 8)]


def made(random: np.random.Generator, weights: int) -> dict[str, list[Option[WeightForm]]]:
    def options() -> list[Option[WeightForm]]:
        size, error = int(random.integers(1, 9)) * 100, float(random.random())
        return [Option(form, size * form.bits // 2, error * random.random() * 4.0**-form.bits) for form in FORMS]

    return {f"w{i}": options() for i in range(weights)}


@pytest.mark.parametrize("seed", range(5))
def test_no_combination_of_as_many_bytes_is_better(seed: int) -> None:
    random = np.random.default_rng(seed)
    options = made(random, 5)
    least, most = (sum(pick(o.cost for o in each) for each in options.values()) for pick in (min, max))
    for budget in np.linspace(least, most, 12).astype(int).tolist():
        found = allocate(options, budget)
        used = sum(each.cost for each in found.values())
        assert used <= budget
        error = sum(each.error for each in found.values())
        combinations = list(itertools.product(*options.values()))
        best = min(sum(o.error for o in c) for c in combinations if sum(o.cost for o in c) <= budget)
        gap = max(max(o.error for o in each) for each in options.values())
        assert best <= error * (1 + 1e-12) and error <= best + gap  # the last step that does not fit
        if budget == most:
            assert error == pytest.approx(best)


def test_greedy_steps_are_optimal_where_they_end() -> None:
    random = np.random.default_rng(9)
    options = made(random, 4)
    steps = sorted(
        ((b.error - a.error) / (b.cost - a.cost), b.cost - a.cost)
        for each in options.values()
        for a, b in itertools.pairwise(frontier(each))
    )
    budget = sum(frontier(each)[0].cost for each in options.values())
    for _, more in steps:
        budget += more
        found = sum(each.error for each in allocate(options, budget).values())
        every = itertools.product(*options.values())
        best = min(sum(o.error for o in c) for c in every if sum(o.cost for o in c) <= budget)
        assert found == pytest.approx(best, rel=1e-12)


def test_options_that_others_beat() -> None:
    a, b, c, d, e = (
        Option(FORMS[0], 10, 9.0), Option(FORMS[1], 20, 8.5), Option(FORMS[1], 20, 9.5),
        Option(FORMS[2], 30, 1.0), Option(FORMS[3], 40, 1.0),
    )  # fmt: skip
    assert frontier([e, c, a, d, b]) == [a, d]
    assert frontier([e]) == [e]
    with pytest.raises(QuantisationError, match="without options"):
        frontier([])


def test_too_few_bytes() -> None:
    with pytest.raises(QuantisationError, match="take 10 bytes at least, 9 are allowed"):
        allocate({"w": [Option(FORMS[0], 10, 1.0)]}, 9)
    assert allocate({}, 0) == {}
