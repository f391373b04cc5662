"""In-place results: a launch that writes where one of its operands dies may use that operand's storage.

Two storages become one when the launch reads the first for the last time, writes the second for the first time, and
every element is read by the very point that overwrites it: all loads and stores of the two have one offset, equal at
launch and inside the kernel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.lifetimes import lifetimes
from ingot.compiler.ir.loops import Kernel, Load, Store
from ingot.compiler.ir.program import Argument, Branch, Launch, Program, Repeat, Step, Storage


def share_storages(program: Program) -> Program:
    """`program` with results written over operands that die, outside branches and loops."""
    live = lifetimes(program)
    position = 0
    merged: dict[Storage, Storage] = {}

    def owner(storage: Storage) -> Storage:
        while storage in merged:
            storage = merged[storage]
        return storage

    last = {storage: end for storage, (_, end) in live.items()}
    for step in program.steps:
        if isinstance(step, Launch):
            for result, operand in _pairs(step):
                have, wanted = owner(operand), owner(result)
                if have is wanted or have.kind != "temp" or wanted.kind != "temp":
                    continue
                fits = have.size == wanted.size and have.dtype == wanted.dtype
                if fits and last[have] == position and live[wanted][0] == position:
                    merged[wanted] = have
                    last[have] = live[wanted][1]
        position += _length(step)
    if not merged:
        return program
    names = {storage: owner(storage) for storage in merged}
    return dataclasses.replace(
        program,
        storages=tuple(s for s in program.storages if s not in merged),
        steps=tuple(_renamed(step, names) for step in program.steps),
    )


def _length(step: Step) -> int:
    """How many positions `lifetimes` gives a step."""
    match step:
        case Launch():
            return 1
        case Branch(then=then, otherwise=otherwise):
            return 1 + sum(map(_length, then)) + sum(map(_length, otherwise))
        case Repeat(body=body):
            return 2 + sum(map(_length, body))


def _pairs(launch: Launch) -> list[tuple[Storage, Storage]]:
    """(result, operand) storages of a launch whose elements are walked alike."""
    offsets = _offsets(launch.kernel)
    arguments = dict(zip((b.name for b in launch.kernel.buffers), launch.buffers, strict=True))
    access = {b.name: b.access for b in launch.kernel.buffers}
    found: list[tuple[Storage, Storage]] = []
    for w, target in arguments.items():
        if access[w] != "write" or _aliases(launch, target.storage) > 1:
            continue
        for r, source in arguments.items():
            same = access[r] == "read" and source.offset == target.offset and _aliases(launch, source.storage) == 1
            if same and len(offsets[w]) == 1 and offsets[w] == offsets[r]:
                found.append((target.storage, source.storage))
    return found


def _aliases(launch: Launch, storage: Storage) -> int:
    return sum(argument.storage is storage for argument in launch.buffers)


def _offsets(kernel: Kernel) -> Mapping[str, set[Dim]]:
    """The offsets at which a kernel touches each of its buffers."""
    found: dict[str, set[Dim]] = {b.name: set() for b in kernel.buffers}
    stack: list[Any] = [kernel.body]
    while stack:
        item = stack.pop()
        if isinstance(item, (Load, Store)) and item.buffer in found:
            found[item.buffer].add(item.offset)
        if isinstance(item, str) and item in found:
            found[item].add(-1)  # a template's packed operand: read in an order of its own
        elif isinstance(item, tuple):
            stack.extend(cast(tuple[Any, ...], item))
        elif dataclasses.is_dataclass(item) and not isinstance(item, type):
            names = [f.name for f in dataclasses.fields(item)]
            skip = {"buffer"} if isinstance(item, (Load, Store)) else set[str]()
            stack.extend(getattr(item, name) for name in names if name not in skip)
    return found


def _renamed(step: Step, names: Mapping[Storage, Storage]) -> Step:
    def argument(item: Argument | None) -> Argument | None:
        return item if item is None else Argument(names.get(item.storage, item.storage), item.offset)

    def certain(item: Argument) -> Argument:
        return Argument(names.get(item.storage, item.storage), item.offset)

    match step:
        case Launch():
            return dataclasses.replace(step, buffers=tuple(certain(a) for a in step.buffers))
        case Branch():
            return dataclasses.replace(
                step,
                condition=certain(step.condition),
                then=tuple(_renamed(s, names) for s in step.then),
                otherwise=tuple(_renamed(s, names) for s in step.otherwise),
            )
        case Repeat():
            return dataclasses.replace(
                step,
                counter=certain(step.counter),
                trip=argument(step.trip),
                condition=argument(step.condition),
                body=tuple(_renamed(s, names) for s in step.body),
            )
