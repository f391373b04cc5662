"""`--specialise` and what other commands make of such artifacts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

Ingot = Callable[..., Any]
CASES = ("--shape", "batch=0..9", "--specialise", "batch=1", "--specialise", "batch=2..4")


def test_from_model_to_profile(ingot: Ingot, model: Path, scale: Callable[[Any], Any]) -> None:
    assert ingot("compile", model, "-o", "m.ingot", *CASES).status == 0
    for batch in (0, 1, 3, 9):
        x = np.random.default_rng(batch).standard_normal((batch, 4)).astype(np.float32)
        np.save("x.npy", x)
        assert ingot("run", "m.ingot", "--input", "x=x.npy", "-o", "y.npz").status == 0
        with np.load("y.npz") as outputs:
            assert_allclose(outputs["y"], scale(x), rtol=1e-6, atol=1e-6)
    record = ingot("inspect", "m.ingot", "--json").record
    assert [each["name"] for each in record["variants"]] == ["batch=1", "batch=2..4"] and not record["closed"]
    assert record["variants"][0]["inputs"][0]["shape"] == [1, 4]
    assert record["variants"][1]["symbols"] == {"batch": [2, 4]} and record["symbols"] == {"batch": [0, 9]}
    shown = ingot("inspect", "m.ingot").out
    assert "variants   batch=1: x[1, 4]\n           batch=2..4: x[batch, 4]" in shown
    for batch, name in ((1, "batch=1"), (3, "batch=2..4"), (9, "scale")):
        done = ingot("profile", "m.ingot", "--shape", f"batch={batch}", "--runs", "2", "--json").record
        assert done["program"] == name and done["variants"] == ["batch=1", "batch=2..4"]
    shown = ingot("profile", "m.ingot", "--runs", "2").out
    assert "program batch=1, of batch=1, batch=2..4 and the general one" in shown


def test_only_specialised(ingot: Ingot, model: Path) -> None:
    given = ("--specialise", "batch=2", "--specialise", "batch=5..6", "--only-specialised")
    assert ingot("compile", model, "-o", "m.ingot", *given).status == 0
    assert "no others" in ingot("inspect", "m.ingot").out
    assert "[2, 4]" in ingot("run", "m.ingot", "--random").out
    assert "[6, 4]" in ingot("run", "m.ingot", "--random", "--shape", "batch=6").out
    assert "these alone: batch=2; batch=5..6" in ingot("run", "m.ingot", "--random", "--shape", "batch=3").complaint


def test_check_and_outline(ingot: Ingot, model: Path) -> None:
    record = ingot("check", model, *CASES, "--json").record
    assert set(record["targets"]["cpu"]["variants"]) == {"batch=1", "batch=2..4"}
    assert "  with batch=1: 1 kernel launches a run" in ingot("check", model, *CASES).out
    shown = ingot("compile", model, "--target", "null", *CASES).out
    assert "variant     batch=1: 1 kernels, 1 launches" in shown


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (("--specialise", "batch"), "has no name"),
        (("--specialise", "batch=n"), "a number or a range"),
        (("--specialise", "batch=1,2"), "a number or a range"),
        (("--specialise", "batch=1,batch=2"), "twice"),
        (("--specialise", "batch=3..2"), "a variant gives the dim 'batch' the value (3, 2)"),
        (("--specialise", "rows=1"), "'rows', which no input has"),
        (("--shape", "batch=1..4", "--specialise", "batch=5"), "batch=5 lies outside of the range of batch, 1..4"),
        (("--only-specialised",), "nothing to compile"),
        (("--specialise", "batch=1", "--emit", "so"), "holds one program"),
    ],
)
def test_bad_cases(ingot: Ingot, model: Path, given: tuple[str, ...], problem: str) -> None:
    assert problem in ingot("compile", model, "-o", "m.so" if "so" in given else "m.ingot", *given).complaint
    assert not Path("m.ingot").exists() and not Path("m.so").exists()
