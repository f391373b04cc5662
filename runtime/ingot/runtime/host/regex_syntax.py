"""Regular expressions in the syntax of RE2 (https://github.com/google/re2/wiki/Syntax), read into expressions.

What a pattern captures and how eagerly it repeats does not matter where all of a text has to match; both are read and
left out.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from ingot.runtime.errors import HostError

MAX_PATTERN: Final = 1 << 16
"""Characters of a pattern."""
MAX_DEPTH: Final = 100
"""Groups within groups."""
MAX_REPEAT: Final = 1000
"""The largest number in a counted repetition, as in RE2."""

_LAST: Final = 0x10FFFF
Ranges: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Characters:
    """One character: in one of the ranges or categories (Unicode general categories or their first letters, "!" before
    those that it is not in), or in none of them. `fold` looks at its upper and lower case as well."""

    ranges: Ranges
    categories: tuple[str, ...] = ()
    negated: bool = False
    fold: bool = False

    def contains(self, character: str) -> bool:
        """Whether the character is one of them."""
        found = self._lists(character)
        if self.fold and not found:
            low, high = character.lower(), character.upper()
            found = any(len(c) == 1 and self._lists(c) for c in (low, high, low.upper(), high.lower()))
        return found != self.negated

    def _lists(self, character: str) -> bool:
        code = ord(character)
        if any(low <= code <= high for low, high in self.ranges):
            return True
        category = unicodedata.category(character) if self.categories else ""
        return any(
            not category.startswith(each[1:]) if each[0] == "!" else category.startswith(each)
            for each in self.categories
        )


@dataclass(frozen=True)
class Empty:
    """Nothing."""


@dataclass(frozen=True)
class Assertion:
    """A place: "begin" and "end" of the text or, with " line", of a line; "boundary" of a word, or "inside"."""

    kind: str


@dataclass(frozen=True)
class Sequence:
    """One after another."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Alternative:
    """One of several."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeat:
    """`body` at least `least` and at most `most` times (None: any number)."""

    body: Expression
    least: int
    most: int | None


Expression: TypeAlias = Characters | Empty | Assertion | Sequence | Alternative | Repeat

_DIGIT: Final[Ranges] = ((48, 57),)
_UPPER: Final[Ranges] = ((65, 90),)
_LOWER: Final[Ranges] = ((97, 122),)
_SPACE: Final[Ranges] = ((9, 10), (12, 13), (32, 32))
_WORD: Final[Ranges] = (*_DIGIT, *_UPPER, (95, 95), *_LOWER)
_PERL: Final = {"d": _DIGIT, "s": _SPACE, "w": _WORD}
_POSIX: Final[dict[str, Ranges]] = {
    "alnum": (*_DIGIT, *_UPPER, *_LOWER),
    "alpha": (*_UPPER, *_LOWER),
    "ascii": ((0, 127),),
    "blank": ((9, 9), (32, 32)),
    "cntrl": ((0, 31), (127, 127)),
    "digit": _DIGIT,
    "graph": ((33, 126),),
    "lower": _LOWER,
    "print": ((32, 126),),
    "punct": ((33, 47), (58, 64), (91, 96), (123, 126)),
    "space": ((9, 13), (32, 32)),
    "upper": _UPPER,
    "word": _WORD,
    "xdigit": (*_DIGIT, (65, 70), (97, 102)),
}
_ESCAPES: Final = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_ASSERTIONS: Final = {"A": "begin", "z": "end", "b": "boundary", "B": "inside"}
_CATEGORY: Final = re.compile(r"L[ultmo]?|M[nce]?|N[dlo]?|P[cdseifo]?|S[mcko]?|Z[slp]?|C[cfos]?")
_COUNT: Final = re.compile(r"\{([0-9]+)(,([0-9]*))?\}")
_GROUP_NAME: Final = re.compile(r"\(\?P?<([A-Za-z0-9_]+)>")
_FLAGS: Final = re.compile(r"\(\?([imsU]*)(-[imsU]+)?([:)])")
_HEX: Final = re.compile(r"\\x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]+)\})")
_OCTAL: Final = re.compile(r"\\(0[0-7]{0,2}|[1-7][0-7]{1,2})")
_PROPERTY: Final = re.compile(r"\\([pP])(?:([A-Z])|\{(\^?)([A-Za-z_]+)\})")
_NAMED: Final = re.compile(r"\[:(\^?)([a-z]+):\]")


def is_word(character: str) -> bool:
    """Whether assertions take a character ("" for none) for a part of a word."""
    return bool(character) and any(low <= ord(character) <= high for low, high in _WORD)


def parse(pattern: str) -> Expression:
    """The expression that a pattern stands for. Raises HostError with the place where it is no RE2 syntax, or uses what
    is not known here."""
    return _Parser(pattern).whole()


def _inverse(ranges: Ranges) -> Ranges:
    """The characters in none of the ranges, which are in order."""
    starts = [0, *(high + 1 for _, high in ranges)]
    ends = [*(low - 1 for low, _ in ranges), _LAST]
    return tuple((low, high) for low, high in zip(starts, ends, strict=True) if low <= high)


class _Parser:
    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_PATTERN:
            raise HostError(f"a regular expression has {len(pattern)} characters; {MAX_PATTERN} are the most")
        self.pattern = pattern
        self.at = 0
        self.flags: frozenset[str] = frozenset()
        self.names: set[str] = set()
        self.depth = 0

    def fail(self, problem: str) -> NoReturn:
        raise HostError(f"the regular expression {self.pattern[:200]!r} has {problem} at character {self.at}")

    def sees(self, token: str) -> bool:
        return self.pattern.startswith(token, self.at)

    def accept(self, token: str) -> bool:
        if not self.sees(token):
            return False
        self.at += len(token)
        return True

    def take(self, form: re.Pattern[str]) -> re.Match[str] | None:
        """What `form` matches here, passed by."""
        found = form.match(self.pattern, self.at)
        if found is not None:
            self.at = found.end()
        return found

    @property
    def done(self) -> bool:
        return self.at >= len(self.pattern)

    def whole(self) -> Expression:
        found = self.alternatives()
        if not self.done:
            self.fail("a ')' without '('")
        return found

    def alternatives(self) -> Expression:
        parts = [self.sequence()]
        while self.accept("|"):
            parts.append(self.sequence())
        return parts[0] if len(parts) == 1 else Alternative(tuple(parts))

    def sequence(self) -> Expression:
        parts: list[Expression] = []
        while not self.done and not self.sees("|") and not self.sees(")"):
            if self.accept("\\Q"):
                end = self.pattern.find("\\E", self.at)
                quoted = self.pattern[self.at :] if end < 0 else self.pattern[self.at : end]
                self.at = len(self.pattern) if end < 0 else end + 2
                parts += map(self.literal, quoted)
                if quoted:
                    parts.append(self.repeated(parts.pop()))
                continue
            found = self.atom()
            if found is not None:  # flags alone are nothing that could be repeated
                parts.append(self.repeated(found))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts)) if parts else Empty()

    def literal(self, character: str) -> Characters:
        code = ord(character)
        return Characters(((code, code),), fold="i" in self.flags)

    def repeated(self, body: Expression) -> Expression:
        start = self.at
        least, most = self.count()
        if self.at == start:
            return body
        self.accept("?")  # as few as possible: the same texts match
        again = self.at
        self.count()
        if self.at != again:
            self.at = again
            self.fail("a repetition of a repetition")
        return Repeat(body, least, most)

    def count(self) -> tuple[int, int | None]:
        for token, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.accept(token):
                return bounds
        start = self.at
        found = self.take(_COUNT)
        if found is None:  # a brace that counts nothing stands for itself
            return 1, 1
        if any(len(digits or "") > 4 for digits in (found[1], found[3])):
            self.at = start
            self.fail(f"a repetition of more than {MAX_REPEAT} times")
        least = int(found[1])
        most = least if found[2] is None else int(found[3]) if found[3] else None
        if max(least, most or 0) > MAX_REPEAT or (most is not None and most < least):
            self.at = start
            self.fail(f"a repetition that is not of 0 to {MAX_REPEAT} times, the smaller number first,")
        return least, most

    def atom(self) -> Expression | None:
        character = self.pattern[self.at]
        match character:
            case "(":
                return self.group()
            case "[":
                return self.characters()
            case "\\":
                return self.escape()
            case "*" | "+" | "?":
                self.fail(f"a {character!r} with nothing before it")
            case ".":
                self.at += 1
                return Characters(((0, _LAST),) if "s" in self.flags else ((0, 9), (11, _LAST)))
            case "^" | "$":
                self.at += 1
                kind = "begin" if character == "^" else "end"
                return Assertion(f"{kind} line" if "m" in self.flags else kind)
            case _:
                if (found := _COUNT.match(self.pattern, self.at)) is not None:
                    self.fail(f"a {found[0]!r} with nothing before it")
                self.at += 1
                return self.literal(character)

    def group(self) -> Expression | None:
        before, self.depth = self.flags, self.depth + 1
        if self.depth > MAX_DEPTH:
            self.fail(f"more than {MAX_DEPTH} groups within groups")
        if (flags := self.take(_FLAGS)) is not None:
            if flags[1] == "" and flags[2] is None and flags[3] == ")":
                self.fail("a group of no flags")
            self.flags = (self.flags | set(flags[1])) - set(flags[2] or "")
            if flags[3] == ")":
                self.depth -= 1
                return None
        elif (name := self.take(_GROUP_NAME)) is not None:
            if name[1] in self.names:
                self.fail(f"a second group called {name[1]!r}")
            self.names.add(name[1])
        elif self.sees("(?"):
            self.fail("a kind of group that RE2 does not have")
        else:
            self.at += 1
        found = self.alternatives()
        if not self.accept(")"):
            self.fail("a '(' without ')'")
        self.flags, self.depth = before, self.depth - 1
        return found

    def escape(self) -> Expression:
        following = self.pattern[self.at + 1 : self.at + 2]
        if following in _ASSERTIONS:
            self.at += 2
            return Assertion(_ASSERTIONS[following])
        if (found := self.set_escape()) is not None:
            return Characters(*found, fold="i" in self.flags)
        return self.literal(chr(self.character_escape()))

    def set_escape(self) -> tuple[Ranges, tuple[str, ...]] | None:
        """The ranges and categories of ``\\d``, ``\\pL`` and the like; None where there is another escape."""
        following = self.pattern[self.at + 1 : self.at + 2]
        if following and following in "dswDSW":
            self.at += 2
            ranges = _PERL[following.lower()]
            return ranges if following.islower() else _inverse(ranges), ()
        if following not in ("p", "P"):
            return None
        found = _PROPERTY.match(self.pattern, self.at)
        name = "" if found is None else found[2] or found[4]
        if found is None or not (name == "Any" or _CATEGORY.fullmatch(name)):
            self.fail("a class of characters that is no general category of Unicode (classes of scripts are not known)")
        self.at = found.end()
        if (found[1] == "P") != bool(found[3]):
            return ((), ()) if name == "Any" else ((), (f"!{name}",))
        return (((0, _LAST),), ()) if name == "Any" else ((), (name,))

    def character_escape(self) -> int:
        """The code of the character that an escape stands for."""
        if (number := self.take(_HEX)) is not None:
            code = int(number[1] or number[2], 16) if len(number[2] or "") < 9 else _LAST + 1
            if code > _LAST:
                self.fail("the code of no character")
            return code
        if (number := self.take(_OCTAL)) is not None:
            return int(number[1], 8)
        following = self.pattern[self.at + 1 : self.at + 2]
        if following in _ESCAPES:
            self.at += 2
            return _ESCAPES[following]
        if not following or following.isalnum() or ord(following) > 127 or following == "_":
            self.fail(f"the escape '\\{following}', which RE2 does not have")
        self.at += 2
        return ord(following)

    def characters(self) -> Characters:
        """A class in brackets."""
        start = self.at
        self.at += 1
        negated = self.accept("^")
        ranges: list[tuple[int, int]] = []
        categories: list[str] = []
        first = True
        while first or not self.sees("]"):
            if self.done:
                self.at = start
                self.fail("a '[' without ']'")
            first = False
            if self.sees("[:") and (named := self.take(_NAMED)) is not None:
                if named[2] not in _POSIX:
                    self.fail(f"a class of characters called {named[2]!r}")
                ranges += _inverse(_POSIX[named[2]]) if named[1] else _POSIX[named[2]]
            elif self.sees("\\") and (found := self.set_escape()) is not None:
                ranges += found[0]
                categories += found[1]
            else:
                ranges.append(self.span())
        self.at += 1
        return Characters(tuple(ranges), tuple(categories), negated, "i" in self.flags)

    def span(self) -> tuple[int, int]:
        """A character or a range of them within a class."""
        low = self.class_character()
        if not self.sees("-") or self.pattern.startswith("-]", self.at) or self.at + 1 >= len(self.pattern):
            return low, low
        self.at += 1
        high = self.class_character()
        if high < low:
            self.fail("a range of characters that ends before it begins,")
        return low, high

    def class_character(self) -> int:
        if self.sees("\\"):
            return self.character_escape()
        if self.done:
            self.fail("a '[' without ']'")
        self.at += 1
        return ord(self.pattern[self.at - 1])
