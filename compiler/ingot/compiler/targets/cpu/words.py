"""The words of the argument table of a program: what `ingot_run` is called with, and in which order.

Every step has its words, in program order (`program.py`). Where symbols are bound during the run, more follow: what the
code needs to compute the words that depend on them (`Sizes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ingot.compiler.ir.dims import Dim, symbol, symbols
from ingot.compiler.ir.program import Argument, Bind, Branch, Host, Launch, Program, Repeat, Step, Stop, Storage


@dataclass(frozen=True, slots=True)
class Word:
    """The value of `dim`, or the address of that element of `storage`."""

    dim: Dim
    storage: Storage | None = None


def step_words(steps: Sequence[Step], calls: Mapping[Host, int]) -> Iterator[Word]:
    """The words of `steps`, nested ones included, in program order; `calls` numbers the host steps."""

    def address(argument: Argument) -> Word:
        return Word(argument.offset, argument.storage)

    for step in steps:
        match step:
            case Launch():
                yield Word(step.chunks)
                yield from map(address, step.buffers)
                yield from map(Word, step.dims)
            case Branch(condition=condition, then=then, otherwise=otherwise):
                yield address(condition)
                yield from step_words(then, calls)
                yield from step_words(otherwise, calls)
            case Repeat(counter=counter, trip=trip, condition=condition, body=body):
                yield from (address(argument) for argument in (counter, trip, condition) if argument is not None)
                yield from step_words(body, calls)
            case Bind(value=value):
                yield address(value)
            case Host(operands=operands, results=results):
                yield Word(calls[step])
                for tensor in (*operands, *results):
                    yield address(tensor.argument)
                    yield from map(Word, tensor.type.shape)
            case Stop():
                pass


def _stops(steps: Sequence[Step]) -> bool:
    """Whether a run may end early."""
    for step in steps:
        match step:
            case Stop() | Host():
                return True
            case Branch(then=then, otherwise=otherwise):
                if _stops(then) or _stops(otherwise):
                    return True
            case Repeat(body=body):
                if _stops(body):
                    return True
            case Launch() | Bind():
                pass
    return False


class Sizes:
    """The words of a program, whose symbols may be bound during the run.

    `words` are those of the steps, then, at `status`, the address of the status where the run may end early. Where
    symbols are bound, what follows are the values of the other symbols that are needed, and
    the addresses of the first elements of storages that are pointed into at places known only then. Behind them, at
    `block`, is the address of the block of words that `ingot.runtime.late` lays out. Where there are host steps or
    loops, the last word of the table, at `host`, is the address of the function that they call; `has_host_steps` tells
    which.
    """

    def __init__(self, program: Program) -> None:
        self.bound = program.bound()
        self.late = program.late_storages()
        words = list(step_words(program.steps, {step: n for n, step in enumerate(program.host_steps())}))
        self.values: dict[str, int] = {}
        self.bases: dict[Storage, int] = {}
        self.status: int | None = None
        self.block = 0
        if self.bound or _stops(program.steps):
            (status,) = program.of_kind("status")
            self.status = len(words)
            words.append(Word(0, status))
        if self.bound:
            extra: list[Word] = []
            depending = [word for word in words if self.needs(word)]
            sized = [word.dim for word in depending] + [storage.size for storage in self.late]
            names = {name for dim in sized for name in symbols(dim)}
            for name in sorted(names - self.bound.keys()):
                self.values[name] = len(words) + len(extra)
                extra.append(Word(symbol(name)))
            for word in depending:
                if word.storage is not None and word.storage not in self.late and word.storage not in self.bases:
                    self.bases[word.storage] = len(words) + len(extra)
                    extra.append(Word(0, word.storage))
            words += extra
            self.block = len(words)
        self.has_host_steps = any(isinstance(step, Host) for step in program.all_steps())
        has_loops = any(isinstance(step, Repeat) for step in program.all_steps())
        self.host = len(words) + bool(self.bound) if self.has_host_steps or has_loops else None
        self.words = words
        self.depending = [(i, word, needs) for i, word in enumerate(words) if (needs := self.needs(word))]
        """The words that depend on bound symbols: number, word and those symbols."""

    def needs(self, word: Word) -> frozenset[str]:
        """The bound symbols that a word depends on: those of its dim and of the size of a late storage."""
        names = symbols(word.dim)
        if word.storage is not None and word.storage in self.late:
            names |= symbols(word.storage.size)
        return names & self.bound.keys()
