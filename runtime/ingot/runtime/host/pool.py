"""Strings by number: what code sees of them.

In memory that code works on, an element of a tensor of strings is a *handle*, an i64 that indexes a pool. Equal strings
have equal handles, so that moving and comparing strings is work on integers. Handle 0 is the empty string: memory that
is zero is valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.errors import RuntimeFault

MAX_STRINGS: Final = 1 << 31
"""Strings that a pool may hold."""


class Constants:
    """The strings of a model, which the pools of all runs begin with. The first is empty, no two are equal."""

    __slots__ = ("numbers", "strings")

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self.strings: Sequence[str] = tuple(dict.fromkeys(("", *strings)))
        self.numbers = {text: number for number, text in enumerate(self.strings)}


class Pool:
    """The strings of one run: those of the model, and after them those that come in or are made."""

    __slots__ = ("_first", "_numbers", "_strings")

    def __init__(self, constants: Constants) -> None:
        self._first = len(constants.strings)
        self._strings = list(constants.strings)
        self._numbers = dict(constants.numbers)

    def forget(self) -> None:
        """Forget all but the model's own strings; handles of others are worth nothing then."""
        made = self._strings[self._first :]
        del self._strings[self._first :]
        for text in made:
            del self._numbers[text]

    def __len__(self) -> int:
        return len(self._strings)

    def handle(self, text: str) -> int:
        """The handle of a string. Raises RuntimeFault for one string too many."""
        number = self._numbers.get(text)
        if number is None:
            number = len(self._strings)
            if number >= MAX_STRINGS:
                raise RuntimeFault(f"a run makes more than {MAX_STRINGS} different strings")
            self._strings.append(str(text))
            self._numbers[self._strings[-1]] = number
        return number

    def intern(self, array: NDArray[Any]) -> NDArray[np.int64]:
        """The handles of an array of str, in an array of that shape. Raises RuntimeFault for other elements."""
        items: list[Any] = array.reshape(-1).tolist()
        if not set(map(type, items)) <= {str}:
            for index, item in enumerate(items):
                if not isinstance(item, str):
                    kind = type(item).__name__
                    raise RuntimeFault(f"element {index} of a tensor of strings is of type {kind}, not str")
        found = list(map(self._numbers.get, items))
        handles = [self.handle(item) if n is None else n for item, n in zip(items, found, strict=True)]
        return np.array(handles, np.int64).reshape(array.shape)

    def strings(self, handles: NDArray[np.int64]) -> NDArray[Any]:
        """The strings of an array of handles, in an array of objects of that shape. Raises RuntimeFault for a number
        that is no handle."""
        numbers: list[int] = handles.reshape(-1).tolist()
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(self._strings):
            wrong = next(number for number in numbers if not 0 <= number < len(self._strings))
            raise RuntimeFault(f"the model's code made {wrong}, which is no handle of a string")
        return np.array(list(map(self._strings.__getitem__, numbers)), object).reshape(handles.shape)
