"""The garbage collector's thresholds during a compilation, and after it."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest
from onnx import parser

from ingot.compiler import ModelError, compile
from ingot.compiler.collector import rarely_collected

USUAL = (700, 10, 0)  # the third is what Python 3.14 tells of any


@pytest.fixture(autouse=True)
def usual() -> Generator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*USUAL)
    yield
    gc.set_threshold(*before)


def test_thresholds_are_raised_and_given_back() -> None:
    with rarely_collected():
        assert gc.get_threshold()[0] > USUAL[0]
    assert gc.get_threshold() == USUAL
    with pytest.raises(KeyError), rarely_collected():
        raise KeyError
    assert gc.get_threshold() == USUAL


def test_compilations_give_them_back() -> None:
    during: list[int] = []
    model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    compile(model, cache=False, target="null", progress=lambda _: during.append(gc.get_threshold()[0]))
    assert min(during) > USUAL[0]
    assert gc.get_threshold() == USUAL
    with pytest.raises(ModelError):
        compile(b"no model", cache=False)
    assert gc.get_threshold() == USUAL


def test_compilations_that_overlap() -> None:
    first, second = rarely_collected(), rarely_collected()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == USUAL
    second.__exit__(None, None, None)
    assert gc.get_threshold() == USUAL


@pytest.mark.parametrize("wanted", [(0, 10, 0), (1_000_000, 5, 0)])
def test_a_collector_that_is_off_or_rare_stays_so(wanted: tuple[int, int, int]) -> None:
    gc.set_threshold(*wanted)
    with rarely_collected():
        assert gc.get_threshold() == wanted
    assert gc.get_threshold() == wanted


def test_thresholds_set_meanwhile_stay() -> None:
    with rarely_collected():
        gc.set_threshold(123, 4, 0)
    assert gc.get_threshold() == (123, 4, 0)


def test_a_collector_that_ignores_the_third(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.14 has two generations, and tells 0 for the third threshold, whatever was set."""
    kept = gc.set_threshold

    def two(first: int, second: int, third: int) -> None:
        kept(first, second, 0)

    monkeypatch.setattr(gc, "set_threshold", two)
    with rarely_collected():
        assert gc.get_threshold()[0] > USUAL[0] and gc.get_threshold()[2] == 0
    assert gc.get_threshold() == USUAL
