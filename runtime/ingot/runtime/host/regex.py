"""Host function on text: ONNX RegexFullMatch, in the syntax of RE2 (https://github.com/google/re2/wiki/Syntax).

A pattern becomes a nondeterministic automaton (Thompson, "Regular expression search algorithm", 1968), which is
followed in all its states at once; sets of states that have been met become states of a deterministic one. Time is
linear in the length of the text whatever the pattern, so that neither models nor texts can make a match take forever.
`regex_syntax` reads patterns.

Characters are Unicode code points. Not known are classes of scripts (``\\p{Greek}``), the folding of case beyond pairs
of single characters, and ``\\C``, a single byte.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.errors import HostError
from ingot.runtime.host.regex_syntax import (
    Alternative,
    Assertion,
    Characters,
    Empty,
    Expression,
    Repeat,
    Sequence,
    is_word,
    parse,
)

MAX_STATES: Final = 20_000
"""States of the automaton of one pattern; counted repetitions multiply them."""
_MAX_KNOWN: Final = 1024  # states of the deterministic automaton that are remembered, and moves of each

_ACCEPT: Final = 0  # the number of the last state
_DEAD, _START = 0, 1  # numbers of states of the deterministic automaton


@dataclass
class _State:
    """A state: with `characters` it goes on to `following` over one of them; with `assertion` it does so over nothing,
    where that holds; else over nothing to all of `following`."""

    following: tuple[int, ...]
    characters: Characters | None = None
    assertion: str | None = None


class _Table:
    """States of the deterministic automaton that have been met: each is a set of states and what assertions see of the
    character before (`_kind`). `moves` has for each the following one by character; state `_DEAD` is the empty set."""

    def __init__(self, start: int) -> None:
        self.sets: list[tuple[frozenset[int], str]] = [(frozenset(), ""), (frozenset((start,)), "")]
        self.moves: list[dict[str, int]] = [{}, {}]
        self.numbers = {each: number for number, each in enumerate(self.sets)}
        self.accepts: dict[int, bool] = {_DEAD: False}


class Pattern:
    """A compiled pattern. Threads may share it."""

    def __init__(self, states: list[_State], start: int) -> None:
        self._states = states
        self._start = start
        self._table = _Table(start)
        self._lock = threading.Lock()

    def matches(self, text: str) -> bool:
        """Whether all of `text` matches."""
        table, state = self._table, _START
        moves = table.moves
        for place, character in enumerate(text):
            following = moves[state].get(character)
            if following is None:
                following = self._learn(table, state, character)
                if following is None:
                    return self._follow(*table.sets[state], text[place:])
            state = following
            if state == _DEAD:
                return False
        accepts = table.accepts.get(state)
        if accepts is None:
            accepts = table.accepts[state] = self._follow(*table.sets[state], "")
        return accepts

    def _learn(self, table: _Table, state: int, character: str) -> int | None:
        """The state after `state`, from now on in the table; None where that is full, which ends its use."""
        current, before = table.sets[state]
        following = self._step(current, before, character)
        key = (following, _kind(character)) if following else table.sets[_DEAD]
        with self._lock:
            number = table.numbers.get(key)
            if number is None:
                if len(table.sets) >= _MAX_KNOWN:
                    if self._table is table:
                        self._table = _Table(self._start)
                    return None
                number = table.numbers[key] = len(table.sets)
                table.moves.append({})
                table.sets.append(key)
            if len(table.moves[state]) < _MAX_KNOWN:
                table.moves[state][character] = number
        return number

    def _follow(self, current: frozenset[int], before: str, rest: str) -> bool:
        """Whether `rest` leads from these states to the last one."""
        for character in rest:
            current = self._step(current, before, character)
            if not current:
                return False
            before = _kind(character)
        return _ACCEPT in self._closure(current, before, "")

    def _step(self, current: frozenset[int], before: str, character: str) -> frozenset[int]:
        found: set[int] = set()
        for number in self._closure(current, before, character):
            state = self._states[number]
            if state.characters is not None and state.characters.contains(character):
                found.update(state.following)
        return frozenset(found)

    def _closure(self, current: frozenset[int], before: str, after: str) -> set[int]:
        """All states that are reached over nothing, between a character of the kind `before` and `after` ("" at the
        ends of the text)."""
        found = set(current)
        stack = list(current)
        while stack:
            state = self._states[stack.pop()]
            if state.characters is None and (state.assertion is None or _holds(state.assertion, before, after)):
                new = [number for number in state.following if number not in found]
                found.update(new)
                stack += new
        return found


def _kind(character: str) -> str:
    """What assertions see of the character before: nothing, a line's end, part of a word, another."""
    return character if character in ("", "\n") else "w" if is_word(character) else "."


def _holds(assertion: str, before: str, after: str) -> bool:
    match assertion:
        case "begin":
            return not before
        case "end":
            return not after
        case "begin line":
            return before in ("", "\n")
        case "end line":
            return after in ("", "\n")
        case _:
            boundary = is_word(before) != is_word(after)
            return boundary if assertion == "boundary" else not boundary


class _Builder:
    """Makes states from the end of an expression to its beginning."""

    def __init__(self) -> None:
        self.states: list[_State] = [_State(())]  # the last one, at _ACCEPT

    def add(self, state: _State) -> int:
        if len(self.states) >= MAX_STATES:
            raise HostError(f"a regular expression needs more than {MAX_STATES} states: its repetitions are too large")
        self.states.append(state)
        return len(self.states) - 1

    def build(self, expression: Expression, following: int) -> int:
        """The state from which `expression` leads to `following`."""
        match expression:
            case Empty():
                return following
            case Characters():
                return self.add(_State((following,), characters=expression))
            case Assertion(kind):
                return self.add(_State((following,), assertion=kind))
            case Sequence(parts):
                for part in reversed(parts):
                    following = self.build(part, following)
                return following
            case Alternative(parts):
                return self.add(_State(tuple([self.build(part, following) for part in parts])))
            case Repeat(body, least, most):
                if most is None:
                    loop = self.add(_State(()))
                    self.states[loop].following = (self.build(body, loop), following)
                    following = loop
                for _ in range((most or least) - least):
                    following = self.add(_State((self.build(body, following), following)))
                for _ in range(least):
                    following = self.build(body, following)
                return following


@functools.lru_cache(maxsize=64)
def compile_pattern(pattern: str) -> Pattern:
    """The automaton of a pattern. Raises HostError for what is no RE2 syntax, is not known here or is too large."""
    builder = _Builder()
    start = builder.build(parse(pattern), _ACCEPT)
    return Pattern(builder.states, start)


def full_match(x: NDArray[Any], pattern: str) -> NDArray[Any]:
    """Whether each string as a whole matches, bool. Raises what `compile_pattern` raises."""
    automaton = compile_pattern(pattern)
    texts: list[str] = x.reshape(-1).tolist()
    found = {text: automaton.matches(text) for text in set(texts)}
    return np.array([found[text] for text in texts], np.bool_).reshape(x.shape)
