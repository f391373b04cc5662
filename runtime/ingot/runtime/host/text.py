"""Host functions on text: ONNX StringConcat, StringSplit, StringNormalizer and the order of strings.

Texts are sequences of Unicode code points; their order is that of code points, which is that of the bytes of UTF-8.
Upper and lower case follow the Unicode standard whatever the locale. Arrays of strings are arrays of objects, each a
str.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.errors import HostError

Array = NDArray[Any]
Shape = tuple[int, ...]


def objects(items: Iterable[str], shape: Shape) -> Array:
    """An array of str. Raises HostError when there are not as many as the shape wants."""
    texts = list(items)
    result = np.array(texts, object)
    try:
        return result.reshape(shape)
    except ValueError:
        raise HostError(f"there are {len(texts)} strings where the shape {list(shape)} is expected") from None


def concat(a: Array, b: Array, shape: Shape) -> Array:
    """The strings of `a` with those of `b` behind them; both broadcast to `shape`."""
    left, right = (x if x.shape == shape else np.broadcast_to(x, shape) for x in (a, b))
    return objects(map(operator.add, left.reshape(-1).tolist(), right.reshape(-1).tolist()), shape)


def split_text(text: str, delimiter: str, most: int) -> list[str]:
    """The parts of `text`: at most `most` cuts, from the left (negative: all). An empty delimiter stands for any run of
    white space, which is taken off the ends."""
    return text.split(delimiter, most) if delimiter else text.strip().split(None, most)


def parts(x: Array, delimiter: str, most: int) -> Array:
    """How many parts each string has, i64."""
    counts = [len(split_text(text, delimiter, most)) for text in x.reshape(-1).tolist()]
    return np.array(counts, np.int64).reshape(x.shape)


def split(x: Array, delimiter: str, most: int, shape: Shape) -> Array:
    """The parts of each string along a new last axis, with "" behind them. Raises HostError for one part too many."""
    width = shape[-1]
    found: list[str] = []
    for text in x.reshape(-1).tolist():
        cut = split_text(text, delimiter, most)
        if len(cut) > width:
            raise HostError(f"a string has {len(cut)} parts where there is room for {width}")
        found += [*cut, *[""] * (width - len(cut))]
    return objects(found, shape)


def _kept(x: Array, stopwords: Sequence[str], sensitive: bool) -> list[str]:
    texts: list[str] = x.reshape(-1).tolist()
    if sensitive:
        gone = set(stopwords)
        return [text for text in texts if text not in gone]
    gone = {word.lower() for word in stopwords}
    return [text for text in texts if text.lower() not in gone]


def kept(x: Array, stopwords: Sequence[str], sensitive: bool) -> Array:
    """How many of the strings are no stop words, but at least 1: where none is left, the result is one empty string."""
    return np.array(max(len(_kept(x, stopwords, sensitive)), 1), np.int64)


def normalise(x: Array, stopwords: Sequence[str], sensitive: bool, case: str, shape: Shape) -> Array:
    """The strings that are no stop words, in upper or lower case or as they are."""
    left = _kept(x, stopwords, sensitive) or [""]
    if case == "UPPER":
        left = [text.upper() for text in left]
    elif case == "LOWER":
        left = [text.lower() for text in left]
    return objects(left, shape)


def rank(x: Array) -> Array:
    """The place of each string among the different ones in order, i64: as integers the ranks are ordered as the strings
    are."""
    texts: list[str] = x.reshape(-1).tolist()
    order = {text: place for place, text in enumerate(sorted(set(texts)))}
    return np.array([order[text] for text in texts], np.int64).reshape(x.shape)
