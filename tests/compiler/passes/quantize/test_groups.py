"""Weights in groups: every form against loops in f64 over groups and columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.passes.quantize.groups import RATIOS, REFITS, WeightForm, nearest, output_error

FORMS = [
    WeightForm(bits, group, symmetric)
    for bits in (2, 3, 4, 8)
    for group in (0, 16, 32)
    for symmetric in (False, True)
]


def lost(w: NDArray[Any], scale: float, zero: float, form: WeightForm, weight: NDArray[Any]) -> float:
    total = 0.0
    for x, h in zip(w, weight, strict=True):
        code = min(max(float(np.rint(x / scale)) + zero, form.low), form.high)
        total += h * ((code - zero) * scale - x) ** 2
    return total


def fitted(w: NDArray[Any], form: WeightForm, weight: NDArray[Any]) -> tuple[float, float]:
    """The scale and zero point of one group of one column."""
    low, high = min(float(w.min()), 0.0), max(float(w.max()), 0.0)

    def grid(ratio: float) -> tuple[float, float]:
        if form.symmetric:
            wide, top = max(-low, high) * ratio, 2 ** (form.bits - 1) - 1
        else:
            wide, top = (high - low) * ratio, 2**form.bits - 1
        scale = float(np.float32(wide / top)) or 1.0
        zero = 0.0 if form.symmetric else min(max(float(np.rint(-low * ratio / scale)), 0.0), float(top))
        return scale, zero

    if form.bits == 8:
        return grid(1.0)
    best = min((grid(ratio) for ratio in RATIOS), key=lambda each: lost(w, *each, form, weight))
    for _ in range(REFITS):
        scale, zero = best
        codes = [min(max(float(np.rint(x / scale)) + zero, form.low), form.high) - zero for x in w]
        squares = sum(h * c * c for h, c in zip(weight, codes, strict=True))
        products = sum(h * c * x for h, c, x in zip(weight, codes, w, strict=True))
        if squares <= 0 or products <= 0:
            break
        new = float(np.float32(products / squares)), zero
        if lost(w, *new, form, weight) >= lost(w, *best, form, weight):
            break
        best = new
    return best


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f.bits}-{f.group}-{'symmetric' if f.symmetric else 'affine'}")
@pytest.mark.parametrize("shape", [(1, 1), (37, 5), (64, 3)])
def test_nearest_is_what_loops_find(form: WeightForm, shape: tuple[int, int]) -> None:
    random = np.random.default_rng(form.bits * 100 + form.group + shape[0])
    w = random.standard_normal(shape) ** 3
    importance = random.random(shape[0]) + 0.1
    for weight in (None, importance):
        made = nearest(w, form, weight)
        used = np.ones(shape[0]) if weight is None else weight
        rows = form.group or shape[0]
        for group in range(math.ceil(shape[0] / rows)):
            part = slice(group * rows, (group + 1) * rows)
            for column in range(shape[1]):
                scale, zero = fitted(w[part, column], form, used[part])
                own = 0.0 if made.zero is None else float(made.zero[group, column])
                mine = lost(w[part, column], float(made.scale[group, column]), own, form, used[part])
                theirs = lost(w[part, column], scale, zero, form, used[part])
                assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-30)
        assert made.codes.min() >= form.low and made.codes.max() <= form.high
        spread = [0.0 if made.zero is None else made.zero[i // rows] for i in range(shape[0])]
        values = [(made.codes[i].astype(float) - spread[i]) * made.scale[i // rows] for i in range(shape[0])]
        assert np.array_equal(made.values(), np.array(values, np.float32))


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f.bits}-{f.group}-{'symmetric' if f.symmetric else 'affine'}")
def test_zero_and_what_has_no_range_are_exact(form: WeightForm) -> None:
    w = np.zeros((40, 3), np.float32)
    w[:, 1] = 0.7
    w[:, 2] = -3e-39
    made = nearest(w, form)
    assert not made.values()[:, 0].any()
    assert np.allclose(made.values()[:, 1], 0.7, rtol=1e-6)
    assert np.abs(made.values()[:, 2]).max() <= 2e-38


def test_clipping_is_better_than_the_whole_range() -> None:
    random = np.random.default_rng(0)
    w = random.standard_t(4, (256, 16)).astype(np.float32)
    form = WeightForm(4, 32)
    blocks = w.reshape(8, 32, 16)
    scale = np.abs(blocks).max(1, keepdims=True) / 7
    plain = np.clip(np.rint(blocks / scale), -8, 7) * scale
    clipped = nearest(w, form).values()
    assert np.square(clipped - w).sum() < 0.9 * np.square(plain.reshape(w.shape) - w).sum()


def test_bytes() -> None:
    assert WeightForm(4, 32).bytes(768, 768) == 0.15625 * 4 * 768 * 768
    assert WeightForm(8, 128).bytes(768, 768) <= 0.27 * 4 * 768 * 768
    assert WeightForm(4, 32, False, "f16").bytes(64, 3) == 96 + 12 + 3
    assert WeightForm(3, 16, False).bytes(17, 1) == 9 + 8 + 1
    assert WeightForm(2, 0).bytes(9, 2) == 5 + 8


def test_scales_of_halves() -> None:
    w = np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32) * 1e-3
    made = nearest(w, WeightForm(4, 16, True, "f16"))
    assert np.array_equal(made.scale, made.scale.astype(np.float16).astype(np.float32))
    assert np.square(made.values() - w).sum() < 0.01 * np.square(w).sum()


@pytest.mark.parametrize("given", [{"bits": 5}, {"group": 8}, {"group": 2048}, {"scale": "bf16"}])
def test_forms_that_there_are_not(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="are supported"):
        WeightForm(**given)


def test_output_error_is_that_of_the_rows() -> None:
    random = np.random.default_rng(2)
    x, d = random.standard_normal((50, 9)), random.standard_normal((9, 4))
    assert output_error(d, x.T @ x / 50) == pytest.approx(np.square(x @ d).sum() / 50)
