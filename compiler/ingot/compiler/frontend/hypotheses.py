"""Ifs whose branches give values of different ranks or element types: which branch the rest of the model can live with.

Exporters write `if shape[-1] == 1: squeeze(x) else: x` where the program that they export has one rank in mind. No type
fits both results. But often what follows is only valid for one of them: importing the graph that the If belongs to once
with each branch then shows that the other branch ends every run in an error. The right branch takes the place of the
If, and its condition becomes a check in front of it. Where both branches could be right, the If stays unsupported.

An attempt that fails must leave nothing behind that another one could see, so the state of the import is put back.
What an attempt would have to learn about dims (`Refinement`) is believed only once the other branch is out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ingot.compiler.frontend.assumptions import Refinement
from ingot.compiler.frontend.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    from ingot.compiler.frontend.scope import Importer

MOST_FORKS = 32
"""Ifs that are tried both ways in one import, each time that they are met: attempts within attempts multiply."""

_T = TypeVar("_T")


class Undecided(Exception):  # noqa: N818 - it steers the import, nothing has gone wrong
    """The If at `place` needs a choice before the graph around it can be imported."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place


@dataclass(frozen=True)
class Choice:
    """The branch that an If takes, and what is wrong with the other: None while that is being found out."""

    wanted: bool
    other: ModelError | None


@dataclass
class Hypotheses:
    """The choices in force. A place is the number of nodes imported before the If, which is the same in every attempt
    at a graph; None stands for an If that cannot be decided."""

    choices: dict[int, Choice | None] = field(default_factory=dict[int, "Choice | None"])
    forks: int = 0

    def choice(self, place: int) -> Choice | None:
        """The choice for the If at `place`. Raises Undecided when it is met for the first time."""
        if place not in self.choices and self.forks < MOST_FORKS:
            raise Undecided(place)
        return self.choices.get(place)


def settled(importer: Importer, attempt: Callable[[], _T]) -> _T:
    """What `attempt`, the import of one graph, gives once every If in it that needs a choice has one."""
    saved, choices = importer.state(), importer.hypotheses.choices
    try:
        return attempt()
    except Undecided as undecided:
        place = undecided.place
    importer.hypotheses.forks += 1
    refusals, errors = importer.refusals, dict[bool, ModelError]()
    for wanted in () if refusals else (True, False):  # behind what is refused errors mean nothing
        importer.restore(saved)
        importer.forget_refusals()
        choices[place] = Choice(wanted, None)
        try:
            with suppress(Refinement, UnsupportedError):
                settled(importer, attempt)
        except ModelError as error:
            if not importer.refusals:
                errors[wanted] = error
        finally:
            importer.refusals = refusals
            del choices[place]
    importer.restore(saved)
    if len(errors) == 2:
        raise errors[True]
    choices[place] = Choice(False in errors, next(iter(errors.values()))) if errors else None
    try:
        return settled(importer, attempt)
    finally:
        del choices[place]
