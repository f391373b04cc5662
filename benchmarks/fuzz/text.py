"""Strings: constants, what moves and compares them, takes them apart, and makes numbers of them and back."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzz.build import TEXT, WORDS, Array, Attributes, Builder, Tensor, broadcast, dtype_code, partner_shape

NUMERALS = ("0", "1", "-2", "3.5", "1e2", "-0.25", "7")
PATTERNS = ("a.*", "[a-z]+", "(a|b)+", ".*é.*", "", "\\d+", "a b?")


def text(b: Builder) -> bool:
    """One of the operators below."""
    return bool(b.choice((_joined, _joined, _split, _matched, _equal, _chosen, _numbers, _written, _distinct))(b))


def _strings(b: Builder, shape: tuple[int, ...], words: tuple[str, ...] = WORDS) -> tuple[Tensor, Array]:
    """A constant of words, with its contents."""
    array = b.words(shape, words)
    tensor = b.constant(array)
    b.pool.append(tensor)
    return tensor, array


def _operand(b: Builder) -> Tensor:
    """Strings that were made before, or a constant."""
    found = b.pick(lambda t: t.dtype == TEXT, text=True) if b.chance(0.7) else None
    return found or _strings(b, b.shape(b.integer(0, 3)))[0]


def _partner(b: Builder, x: Tensor) -> Tensor | None:
    other = b.pick(lambda t: t.dtype == TEXT and broadcast(b, t.shape, x.shape) is not None, text=True)
    return other if other is not None and b.chance(0.5) else _strings(b, b.concrete(partner_shape(b, x.shape)))[0]


def _joined(b: Builder) -> bool:
    x = _operand(b)
    y = _partner(b, x)
    if y is None or b.opset < 20:
        return False
    x, y = (y, x) if b.chance(0.5) else (x, y)
    shape = broadcast(b, x.shape, y.shape)
    if shape is None:
        return False
    b.node("StringConcat", [x, y], [(TEXT, shape)])
    return True


def _split(b: Builder) -> bool:
    """At a delimiter that is there or not, or at white space, so many times or everywhere. Of words without white space
    at their ends and not empty, on which engines differ."""
    if b.opset < 20:
        return False
    x, array = _strings(b, b.shape(b.integer(1, 2)), tuple(w for w in WORDS if w and w == w.strip()))
    if not array.size:
        return False
    delimiter, most = b.choice((None, ",", "b", " ")), b.choice((None, 0, 1, 2))
    parts = [word.split(delimiter, -1 if most is None else most) for word in array.reshape(-1)]
    attributes: Attributes = {} if delimiter is None else {"delimiter": delimiter}
    attributes |= {} if most is None else {"maxsplit": most}
    width = b.found(max(len(p) for p in parts))
    b.node("StringSplit", [x], [(TEXT, (*x.shape, width)), ("int64", x.shape)], **attributes)
    return True


def _matched(b: Builder) -> bool:
    x = _operand(b)
    if b.opset < 20:
        return False
    b.node("RegexFullMatch", [x], [("bool", x.shape)], pattern=b.choice(PATTERNS))
    return True


def _equal(b: Builder) -> bool:
    x = _operand(b)
    y = _partner(b, x)
    shape = None if y is None or b.opset < 19 else broadcast(b, x.shape, y.shape)
    if y is None or shape is None:
        return False
    b.node("Equal", [x, y], [("bool", shape)])
    return True


def _chosen(b: Builder) -> bool:
    """Where between strings."""
    x = _operand(b)
    flag = b.pick(lambda t: t.dtype == "bool" and broadcast(b, t.shape, x.shape) is not None)
    y = _partner(b, x)
    if flag is None or y is None:
        return False
    shape = broadcast(b, flag.shape, x.shape, y.shape)
    if shape is None:
        return False
    b.node("Where", [flag, x, y], [(TEXT, shape)])
    return True


def _numbers(b: Builder) -> bool:
    """Numerals as numbers."""
    dtype, words = b.choice((("float32", NUMERALS), ("float64", NUMERALS), ("int64", ("0", "12", "-7"))))
    x, _ = _strings(b, b.shape(b.integer(0, 2)), words)
    b.node("Cast", [x], [(dtype, x.shape)], to=dtype_code(dtype))
    return True


def _written(b: Builder) -> bool:
    """Integers as strings."""
    x = b.pick(lambda t: t.dtype in ("int64", "int32", "int8", "uint8"))
    if x is None:
        return False
    b.node("Cast", [x], [(TEXT, x.shape)], to=dtype_code(TEXT))
    return True


def _distinct(b: Builder) -> bool:
    """Unique strings, sorted or in the order of their places."""
    x, array = _strings(b, (b.integer(1, 9),))
    values, inverse = np.unique(array.astype(str), return_inverse=True)
    count = b.found(len(values))
    numbers = ("int64", (count,)), ("int64", (inverse.size,)), ("int64", (count,))
    attributes: Attributes = {"sorted": 0} if b.chance(0.4) else {}
    b.node("Unique", [x], [(TEXT, (count,)), *numbers][: b.integer(1, 4)], **attributes)
    return True
