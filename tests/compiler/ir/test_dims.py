"""The algebra of dims against integers: values, and one normal form however an expression was made."""

from __future__ import annotations

import random

from ingot.compiler.ir.dims import (
    Dim,
    Expr,
    add,
    apply,
    coefficient,
    evaluate,
    multiply,
    parse,
    show,
    substitute,
    symbol,
    symbols,
)

NAMES = ("a", "b", "c")


def grown(rng: random.Random, depth: int) -> Dim:
    """A random expression."""
    if not depth:
        return rng.choice([*map(symbol, NAMES), *range(-3, 4)])
    left, op = grown(rng, depth - 1), rng.choice("+*+*+*/%mM")
    if op in "/%":
        return apply("//" if op == "/" else "%", left, rng.randint(1, 5))
    right = grown(rng, depth - 1)
    return apply({"m": "min", "M": "max"}.get(op, op), left, right)


def samples() -> list[tuple[Dim, Dim, dict[str, int]]]:
    rng = random.Random(7)
    return [
        (grown(rng, rng.randint(0, 3)), grown(rng, rng.randint(0, 3)), {name: rng.randint(-9, 9) for name in NAMES})
        for _ in range(500)
    ]


def test_values() -> None:
    for a, b, at in samples():
        x, y = evaluate(a, at), evaluate(b, at)
        assert evaluate(add(a, b), at) == x + y
        assert evaluate(multiply(a, b), at) == x * y
        for number in (-2, 0, 1, 3):
            assert evaluate(add(a, number), at) == evaluate(add(number, a), at) == x + number
            assert evaluate(multiply(a, number), at) == evaluate(multiply(number, a), at) == x * number
        assert evaluate(substitute(a, {"a": b}), at) == evaluate(a, {**at, "a": y})
        assert substitute(a, {"d": 5}) is a


def test_one_normal_form() -> None:
    for a, b, _ in samples():
        assert add(a, b) == add(b, a)
        assert multiply(a, b) == multiply(b, a)
        assert add(add(a, 5), b) == add(a, add(b, 5))
        assert add(add(a, b), multiply(b, -1)) == a
        assert multiply(add(a, b), 3) == add(multiply(a, 3), multiply(3, b))
        assert add(add(a, 4), -4) == a and add(a, multiply(a, -1)) == 0
        assert parse(show(a)) == a
        for each in (add(a, b), multiply(a, 3), add(a, 2)):
            assert not isinstance(each, Expr) or (all(c for _, c in each.terms) and any(m for m, _ in each.terms))


def test_symbols_and_coefficients() -> None:
    for a, _, at in samples():
        assert symbols(a) <= {*NAMES}
        parts = coefficient(a, "a")
        if parts is not None:
            stride, rest = parts
            assert "a" not in symbols(stride) | symbols(rest)
            assert add(multiply(stride, symbol("a")), rest) == a
            assert evaluate(stride, at) == evaluate(a, {**at, "a": 1}) - evaluate(a, {**at, "a": 0})
    assert coefficient(symbol("b"), "a") == (0, symbol("b"))
    assert coefficient(7, "a") == (0, 7)
    assert coefficient(symbol("a") // 2, "a") is None
    assert coefficient(multiply(symbol("a"), symbol("a")), "a") is None
