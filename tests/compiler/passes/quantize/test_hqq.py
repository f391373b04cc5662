"""HQQ: the norm that it makes small, against rounding to nearest and against its steps one group at a time."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.compiler.passes.quantize.groups import WeightForm, blocks_of, fit, nearest
from ingot.compiler.passes.quantize.hqq import BETA, GROWTH, ITERATIONS, NORM, hqq


def slow(w: np.ndarray, form: WeightForm, scale: float, zero: float) -> float:
    """The least norm that is met from one group [rows] and its first grid on."""

    def encoded(scale: float, zero: float) -> tuple[list[float], list[float], float]:
        codes = [min(max(float(np.rint(x / scale)) + zero, form.low), form.high) for x in w]
        rest = [x / scale - (c - zero) for x, c in zip(w, codes, strict=True)]
        return codes, rest, sum(abs(r) ** NORM for r in rest) * scale**NORM

    codes, rest, least = encoded(scale, zero)
    beta = BETA
    for _ in range(ITERATIONS):
        target: list[float] = []
        for x, r in zip(w, rest, strict=True):
            split = max(abs(r) - NORM / beta * abs(r) ** (NORM - 1), 0.0) * np.sign(r) if r else 0.0
            target.append(x - split * scale)
        if not form.symmetric:
            mean = sum(c - t / scale for c, t in zip(codes, target, strict=True)) / len(w)
            zero = min(max(float(np.rint(mean)), form.low), form.high)
        squares = sum((c - zero) ** 2 for c in codes)
        products = sum((c - zero) * t for c, t in zip(codes, target, strict=True))
        if squares > 0 and products > 0:
            scale = float(np.float32(products / squares))
        codes, rest, error = encoded(scale, zero)
        least = min(least, error)
        beta *= GROWTH
    return least


@pytest.mark.parametrize("form", [WeightForm(4, 16), WeightForm(4, 32, False), WeightForm(2, 16, False)])
def test_each_group_is_what_a_loop_finds(form: WeightForm) -> None:
    w = np.random.default_rng(form.bits).standard_t(3, (64, 3))
    made = hqq(w, form)
    scale, zero = fit(blocks_of(w, form), form)
    for group in range(64 // form.group):
        part = slice(group * form.group, (group + 1) * form.group)
        for column in range(3):
            expected = slow(w[part, column], form, float(scale[group, column]), float(zero[group, column]))
            own = float(made.scale[group, column])
            offset = 0 if made.zero is None else float(made.zero[group, column])
            values = (made.codes[part, column].astype(np.float64) - offset) * own
            assert (np.abs(values - w[part, column]) ** NORM).sum() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", [WeightForm(4, 32), WeightForm(4, 64, False), WeightForm(3, 32, False)])
def test_the_norm_is_smaller_than_after_rounding_to_nearest(form: WeightForm) -> None:
    w = np.random.default_rng(7).standard_t(4, (513, 24)).astype(np.float32)
    mine, plain = (np.abs(each(w, form).values() - w) for each in (hqq, nearest))
    assert (mine**NORM).sum() < 0.99 * (plain**NORM).sum()


def test_zeros_stay() -> None:
    w = np.zeros((33, 2), np.float32)
    w[3, 1] = 1.0
    assert np.allclose(hqq(w, WeightForm(4, 16, False)).values(), w)
