"""What one attempt to import a model has learnt so far, whichever of its graphs a node is in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from ingot.compiler.frontend.assumptions import Assumptions, Ranges, Refinement
from ingot.compiler.frontend.errors import ModelError, UnsupportedError
from ingot.compiler.frontend.hypotheses import Choice, Hypotheses, Undecided
from ingot.compiler.frontend.refusals import Refusals
from ingot.compiler.frontend.signature import Symbols
from ingot.compiler.frontend.weights import ModelData
from ingot.compiler.ir import dims

State = tuple[int, Assumptions, dict[str, tuple[int, int]], dict[str, None], set[str], tuple[str, ...]]
_T = TypeVar("_T")


@dataclass
class Importer:
    """What all scopes of one import share."""

    model: ModelData
    symbols: Symbols
    assumptions: Assumptions
    refusals: Refusals
    nodes: int = 0
    narrowed: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Ranges that the nodes need and that the assumptions do not have yet; they change no type."""
    told: frozenset[str] = frozenset()
    """Symbols that the shapes of the inputs tell."""
    bound: dict[str, None] = field(default_factory=dict[str, None])
    """Symbols that are bound to values in any graph of the model, in this order."""
    ignored: tuple[str, ...] = ()
    """What the model says that is wrong and does no harm, to be told when the import has succeeded."""
    hypotheses: Hypotheses = field(default_factory=Hypotheses)
    _names: set[str] = field(default_factory=set[str])

    def state(self) -> State:
        """What nodes change, to be put back by `restore`."""
        return self.nodes, self.assumptions, dict(self.narrowed), dict(self.bound), set(self._names), self.ignored

    def restore(self, state: State) -> None:
        """Forget what happened since `state` was asked for."""
        self.nodes, self.assumptions = state[:2]
        self.narrowed, self.bound, self._names = dict(state[2]), dict(state[3]), set(state[4])
        self.ignored = state[5]

    def new_symbol(self, wish: str) -> str:
        """A name for a symbol, the same in every attempt to import the model."""
        name, number = wish, 2
        while name in self._names or name in self.told:
            name, number = f"{wish}_{number}", number + 1
        self._names.add(name)
        return name

    def forget_refusals(self) -> None:
        """Begin a list of refusals of its own, which is that of an attempt."""
        self.refusals = Refusals()

    def narrow(self, ranges: Ranges) -> None:
        """Note where `ranges` are narrower than those assumed."""
        for name, (low, high) in ranges.items():
            first, last = self.narrowed.get(name) or self.assumptions.ranges.get(name, (0, dims.UNBOUNDED))
            if first < low or high < last:
                self.narrowed[name] = max(first, low), min(last, high)

    def settled(self, attempt: Callable[[], _T]) -> _T:
        """What `attempt`, the import of one graph, gives once every condition in it that needs a choice has one."""
        saved, choices = self.state(), self.hypotheses.choices
        try:
            return attempt()
        except Undecided as undecided:
            place = undecided.place
        self.hypotheses.forks += 1
        refusals, errors = self.refusals, dict[bool, ModelError]()
        for wanted in () if refusals else (True, False):  # behind what is refused errors mean nothing
            self.restore(saved)
            self.forget_refusals()
            choices[place] = Choice(wanted, None)
            try:
                with suppress(Refinement, UnsupportedError):
                    self.settled(attempt)
            except ModelError as error:
                if not self.refusals:
                    errors[wanted] = error
            finally:
                self.refusals = refusals
                del choices[place]
        self.restore(saved)
        if len(errors) == 2:
            raise errors[True]
        choices[place] = Choice(False in errors, next(iter(errors.values()))) if errors else None
        try:
            return self.settled(attempt)
        finally:
            del choices[place]
