"""JSON from files that nobody vouches for, taken apart with a check at every step. All errors are ArtifactError and
begin with the place: ``storages.dims is not a JSON array``."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final, NoReturn, cast

from ingot.runtime.errors import ArtifactError

_INTEGERS: Final = frozenset((int,))
_STRINGS: Final = frozenset((str,))


def decode(data: bytes, what: str, most: int) -> object:
    """The value that `data`, `most` bytes at most, is the JSON text of."""
    if len(data) > most:
        raise ArtifactError(f"{what} has {len(data)} bytes; {most} is the most")
    try:
        return _DECODER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{what} is not valid JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key is given twice")
    return record


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)


class Record:
    """A decoded JSON object that is taken apart key by key; each error says where it is."""

    def __init__(self, where: str, value: object) -> None:
        if not isinstance(value, dict):
            raise ArtifactError(f"{where} is not a JSON object")
        self.where = where
        self._rest = dict(cast("dict[str, object]", value))

    def take(self, key: str) -> object:
        """The value of a key that there must be."""
        try:
            return self._rest.pop(key)
        except KeyError:
            raise ArtifactError(f"{self.where} has no {key!r}") from None

    def __contains__(self, key: str) -> bool:
        return key in self._rest

    def names(self) -> tuple[str, ...]:
        """The keys that have not been taken."""
        return tuple(self._rest)

    def text(self, key: str, *, longest: int = 1 << 16) -> str:
        """A string."""
        return text(self.take(key), f"{self.where}.{key}", longest)

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer of `low` to `high`."""
        return integer(self.take(key), f"{self.where}.{key}", low, high)

    def sequence(self, key: str) -> list[object]:
        """An array."""
        value = self.take(key)
        if not isinstance(value, list):
            raise ArtifactError(f"{self.where}.{key} is not a JSON array")
        return cast("list[object]", value)

    def integers(self, key: str, low: int, high: int) -> list[int]:
        """An array of integers of `low` to `high`."""
        items = self.sequence(key)
        if not _INTEGERS.issuperset(map(type, items)):  # by type, as true is 1 for all that follows
            raise ArtifactError(f"{self.where}.{key} is not an array of integers")
        numbers = cast("list[int]", items)
        if numbers and not low <= min(numbers) <= max(numbers) <= high:
            index = next(i for i, number in enumerate(numbers) if not low <= number <= high)
            found = str(numbers[index])[:40]
            raise ArtifactError(f"{self.where}.{key}[{index}] is {found}, which is not in {low} to {high}")
        return numbers

    def texts(self, key: str, longest: int = 1 << 16) -> list[str]:
        """An array of strings."""
        items = self.sequence(key)
        if _STRINGS.issuperset(map(type, items)):
            strings = cast("list[str]", items)
            if max(map(len, strings), default=0) <= longest and all(map(str.isascii, strings)):
                return strings
        return [text(item, f"{self.where}.{key}[{index}]", longest) for index, item in enumerate(items)]

    def choice(self, key: str, values: Collection[str]) -> str:
        """One of the strings `values`."""
        value = self.take(key)
        if not isinstance(value, str) or value not in values:
            raise ArtifactError(f"{self.where}.{key} is {str(value)[:40]!r}; known are {', '.join(values)}")
        return value

    def end(self) -> None:
        """All keys must have been taken by now."""
        if self._rest:
            raise ArtifactError(f"{self.where} has unknown keys: {', '.join(sorted(self._rest))[:200]}")


def text(value: object, where: str, longest: int = 1 << 16) -> str:
    """`value`, which must be a string of at most `longest` characters that UTF-8 can say."""
    if not isinstance(value, str) or len(value) > longest:
        raise ArtifactError(f"{where} is not a string of at most {longest} characters")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ArtifactError(f"{where} is not valid Unicode")
    return value


def integer(value: object, where: str, low: int, high: int) -> int:
    """`value`, which must be an integer of `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise ArtifactError(f"{where} is {str(value)[:40]}, not an integer of {low} to {high}")
    return value


def sequence(value: object, where: str, longest: int | None = None) -> list[object]:
    """`value`, which must be an array, of at most `longest` entries if that is given."""
    if not isinstance(value, list):
        raise ArtifactError(f"{where} is not a JSON array")
    items = cast("list[object]", value)
    if longest is not None and len(items) > longest:
        raise ArtifactError(f"{where} has {len(items)} entries; {longest} is the most")
    return items
