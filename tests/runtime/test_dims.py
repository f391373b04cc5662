from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.compiler.ir import dims as algebra
from ingot.runtime.dims import (
    INT64_MAX,
    MAX_DEPTH,
    OPERATORS,
    Dim,
    compile_dims,
    parse_dim,
    show,
    symbols_of,
)
from ingot.runtime.errors import ArtifactError, InputError

NAMES = ("batch", "seq", "k")
leaves: st.SearchStrategy[Any] = st.integers(-9, 9) | st.sampled_from(NAMES)
serialised = st.recursive(
    leaves, lambda inner: st.tuples(st.sampled_from(sorted(OPERATORS)), inner, inner), max_leaves=12
)
values = st.fixed_dictionaries({name: st.integers(0, 50) for name in NAMES})


def meaning(dim: Dim, point: dict[str, int]) -> int:
    """The dim's value by the compiler's algebra, applied one operation after the other."""
    if isinstance(dim, tuple):
        result = algebra.apply(dim[0], meaning(dim[1], point), meaning(dim[2], point))
        assert isinstance(result, int)
        return result
    return point[dim] if isinstance(dim, str) else dim


@given(st.lists(serialised, max_size=6), values)
def test_values_are_those_of_the_compiler(dims: list[Dim], point: dict[str, int]) -> None:
    compiled = compile_dims(parse_dim(dim, NAMES) for dim in dims)
    try:
        expected = [meaning(dim, point) for dim in dims]
    except ZeroDivisionError:
        with pytest.raises(InputError, match="division by zero"):
            compiled.evaluate(point)
        return
    assert compiled.evaluate(point) == expected


@st.composite
def expressions(draw: st.DrawFn) -> algebra.Dim:
    dim: algebra.Dim = algebra.symbol(draw(st.sampled_from(NAMES)))
    for _ in range(draw(st.integers(0, 6))):
        op = draw(st.sampled_from(["+", "*", "//", "%", "max", "min"]))
        other: algebra.Dim = draw(st.integers(1, 7)) if op in "//%" or draw(st.booleans()) else algebra.symbol("k")
        dim = algebra.apply(op, dim, other)
    return dim


@given(expressions(), values)
def test_serialised_dims_survive(dim: algebra.Dim, point: dict[str, int]) -> None:
    stored = parse_dim(algebra.serialise(dim), NAMES)
    assert compile_dims([stored]).evaluate(point) == [algebra.evaluate(dim, point)]
    assert symbols_of(stored) == algebra.symbols(dim)
    assert algebra.evaluate(algebra.parse(show(stored)), point) == algebra.evaluate(dim, point)


def test_equal_parts_are_computed_once() -> None:
    square = ("*", "k", "k")
    compiled = compile_dims([("+", square, 1), ("+", square, 2), square, ("+", square, 1)])
    assert len(compiled.table.operators) == 3
    assert compiled.evaluate({"k": 5}) == [26, 27, 25, 26]


@pytest.mark.parametrize(
    "value",
    [None, 1.5, True, "other", [], ["+", 1], ["+", 1, 2, 3], ["-", 1, 2], [["+"], 1, 2], {"k": 1}, ["+", 1, False],
     2**63, -(2**63), ["//", "k", 2**64], ["+", 1, None]],
)  # fmt: skip
def test_malformed_dims_are_refused(value: object) -> None:
    with pytest.raises(ArtifactError):
        parse_dim(value, NAMES)


def test_deep_dims_are_refused() -> None:
    deep: Any = "k"
    for _ in range(100_000):
        deep = ["+", deep, 1]
    with pytest.raises(ArtifactError, match="nested"):
        parse_dim(deep, NAMES)


def test_dims_that_share_parts_are_compiled_once() -> None:
    dim: Any = "k"
    for _ in range(12):
        dim = ("+", dim, dim)
    compiled = compile_dims([dim, dim, ("*", dim, 2)])
    assert len(compiled.table.operators) == 13
    assert compiled.evaluate({"k": 3}) == [3 << 12, 3 << 12, 3 << 13]


def test_depth_is_bounded() -> None:
    deep: Any = "k"
    for _ in range(MAX_DEPTH):
        deep = ["+", deep, 1]
    assert compile_dims([parse_dim(deep, NAMES)]).evaluate({"k": 1}) == [MAX_DEPTH + 1]
    with pytest.raises(ArtifactError, match="deep"):
        parse_dim(["+", deep, 1], NAMES)


def test_overflow_is_refused_not_wrapped() -> None:
    compiled = compile_dims([("*", ("*", "k", "k"), "k"), ("+", "k", -1)])
    assert compiled.evaluate({"k": 2**20}) == [2**60, 2**20 - 1]
    with pytest.raises(InputError, match=r"k = 2097152.*beyond 64 bits"):
        compiled.evaluate({"k": 2**21})
    assert compile_dims([("+", "k", 0)]).evaluate({"k": INT64_MAX}) == [INT64_MAX]


def test_division_by_zero_names_the_shapes() -> None:
    for op in ("//", "%"):
        with pytest.raises(InputError, match=r"seq = 0.*division by zero"):
            compile_dims([(op, 4, "seq")]).evaluate({"seq": 0})


def test_a_symbol_without_value_is_named() -> None:
    with pytest.raises(InputError, match="'seq'"):
        compile_dims([("+", "seq", 1)]).evaluate({"batch": 1})
