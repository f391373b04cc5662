"""Conditions that decide about ranks or element types: with which value the rest of the model makes sense.

Exporters write `if shape[-1] == 1: squeeze(x) else: x` where the program that they export has one rank in mind. No type
fits both results. But often what follows is only valid for one of them: importing the graph that the If belongs to once
with each branch then shows that the other branch ends every run in an error. The right branch takes the place of the
If, and its condition becomes a check in front of it. Where both could be right, all that follows is imported with each
of them and goes into the two branches of an If of its own (`Split`).

An attempt that fails must leave nothing behind that another one could see, so the state of the import is put back.
What an attempt would have to learn about dims (`Refinement`) is believed only once the other branch is out.
`Importer.settled` makes the attempts.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.ir.graph import Value

MOST_FORKS = 32
"""Conditions that are tried both ways in one import, each time that they are met: attempts within attempts multiply."""

MOST_SPLITS = 4
"""Splits within splits: each doubles what follows."""

Place = tuple[int, int]
"""The number of nodes imported before a decision, which is the same in every attempt at a graph, and which decision of
its node it is."""


class Undecided(Exception):  # noqa: N818 - it steers the import, nothing has gone wrong
    """The condition at `place` needs a value before the graph around it can be imported."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place


class Split(Exception):  # noqa: N818 - it steers the import, nothing has gone wrong
    """The condition at `place` may have either value: what follows is imported with both."""

    def __init__(self, place: Place, condition: Value) -> None:
        super().__init__()
        self.place, self.condition = place, condition


@dataclass(frozen=True)
class Choice:
    """The value that a condition has, and what is wrong with the other: None while that is being found out."""

    wanted: bool
    other: ModelError | None


@dataclass
class Hypotheses:
    """The choices in force; None stands for a condition that may have either value. `splits` are those around."""

    choices: dict[Place, Choice | None] = field(default_factory=dict[Place, "Choice | None"])
    forks: int = 0
    splits: int = 0

    def choice(self, place: Place, condition: Value) -> Choice | None:
        """The choice for the condition at `place`; None where there is none and no more splits are made.

        Raises Undecided when it is met for the first time, Split when it may have either value.
        """
        if place not in self.choices and self.forks < MOST_FORKS:
            raise Undecided(place)
        found = self.choices.get(place)
        if found is None and self.splits < MOST_SPLITS:
            raise Split(place, condition)
        return found

    @contextmanager
    def both(self, place: Place) -> Generator[Iterator[None]]:
        """Both values of a condition, one after the other, while a split is around."""
        known = place in self.choices

        def values() -> Iterator[None]:
            for wanted in (True, False):
                self.choices[place] = Choice(wanted, None)
                yield

        self.splits += 1
        try:
            yield values()
        finally:
            self.splits -= 1
            del self.choices[place]
            if known:
                self.choices[place] = None
