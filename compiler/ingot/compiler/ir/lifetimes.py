"""When storages are in use: the input of memory planning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ingot.compiler.ir.program import Argument, Bind, Branch, Host, Launch, Program, Repeat, Step, Stop, Storage


def lifetimes(program: Program) -> dict[Storage, tuple[int, int]]:
    """First and last step (both included) at which each storage that is touched holds data that matters.

    Steps are numbered in program order, nested ones numbered through: a launch, bind, host step or stop takes one
    number, a branch one for its condition before its arms, a loop one at its start (trip, first condition) and one at
    its end (the counter's last use and the condition for the next iteration). A storage that is touched inside a loop
    and is live outside of it, or that the body may read before it has written it, spans the whole loop.
    """
    walk = _Walk()
    walk.steps(program.steps)
    live = dict(walk.touched)
    changed = True
    while changed:
        changed = False
        for span in walk.loops:
            for storage in span.touched:
                first, last = live[storage]
                crosses = first < span.first or last > span.last or storage in span.carried
                wider = min(first, span.first), max(last, span.last)
                if crosses and wider != (first, last):
                    live[storage] = wider
                    changed = True
    return live


@dataclass(eq=False)
class _Loop:
    first: int
    last: int = 0
    touched: set[Storage] = field(default_factory=set[Storage])
    carried: set[Storage] = field(default_factory=set[Storage])


class _Walk:
    def __init__(self) -> None:
        self.position = 0
        self.touched: dict[Storage, tuple[int, int]] = {}
        self.loops: list[_Loop] = []
        self.open: list[tuple[_Loop, set[Storage]]] = []  # enclosing loops, with what each body surely wrote so far

    def touch(self, argument: Argument | None) -> None:
        if argument is not None:
            first, _ = self.touched.get(argument.storage, (self.position, 0))
            self.touched[argument.storage] = first, self.position
            for loop, _ in self.open:
                loop.touched.add(argument.storage)

    def read(self, argument: Argument | None) -> None:
        self.touch(argument)
        if argument is not None:
            for loop, written in self.open:
                if argument.storage not in written:
                    loop.carried.add(argument.storage)

    def wrote(self, storages: set[Storage]) -> None:
        for _, written in self.open:
            written |= storages

    def steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Launch():
                    self.launch(step)
                    self.position += 1
                case Branch(condition=condition, then=then, otherwise=otherwise):
                    self.read(condition)
                    self.position += 1
                    self.branch(then, otherwise)
                case Repeat():
                    self.repeat(step)
                case Bind(value=value):
                    self.read(value)
                    self.position += 1
                case Host(operands=operands, results=results):
                    for tensor in operands:
                        self.read(tensor.argument)
                    for tensor in results:
                        self.touch(tensor.argument)
                    self.wrote({tensor.storage for tensor in results})
                    self.position += 1
                case Stop():
                    self.position += 1

    def launch(self, step: Launch) -> None:
        pairs = list(zip(step.kernel.buffers, step.buffers, strict=True))
        for parameter, argument in pairs:
            if parameter.access != "write":
                self.read(argument)
        stored: set[Storage] = set()
        for parameter, argument in pairs:
            if parameter.access != "read":
                self.touch(argument)
                stored.add(argument.storage)
        self.wrote(stored)

    def branch(self, then: Sequence[Step], otherwise: Sequence[Step]) -> None:
        before = [set(written) for _, written in self.open]
        self.steps(then)
        after_then = [set(written) for _, written in self.open]
        for (_, written), saved in zip(self.open, before, strict=True):
            written.clear()
            written |= saved
        self.steps(otherwise)
        for (_, written), other in zip(self.open, after_then, strict=True):
            written &= other

    def repeat(self, step: Repeat) -> None:
        loop = _Loop(self.position)
        self.loops.append(loop)
        before = [set(written) for _, written in self.open]
        self.read(step.trip)
        self.read(step.condition)
        self.open.append((loop, set()))
        self.touch(step.counter)
        self.wrote({step.counter.storage})
        self.position += 1
        self.steps(step.body)
        self.read(step.condition)  # for the next iteration
        self.touch(step.counter)
        self.open.pop()
        loop.carried.add(step.counter.storage)
        if step.condition is not None:
            loop.carried.add(step.condition.storage)
        loop.last = self.position
        self.position += 1
        for (_, written), saved in zip(self.open, before, strict=True):  # the body may not have run at all
            written &= saved
