"""In-place results: a launch that writes where one of its operands dies may use that operand's storage.

Two storages become one when the launch reads the first for the last time, writes the second for the first time, and
every element is read by the very point that overwrites it and not again afterwards: all loads and stores of the two
have one offset, equal at launch and inside the kernel, and no load of the first comes after the store to the second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.lifetimes import lifetimes
from ingot.compiler.ir.loops import Kernel, Load, Store, parts_of
from ingot.compiler.ir.program import Argument, Bind, Branch, Host, Launch, Program, Repeat, Step, Stop, Storage


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
            for result, operand in pairs(step):
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
        steps=tuple(renamed(step, names) for step in program.steps),
    )


def _length(step: Step) -> int:
    """How many positions `lifetimes` gives a step."""
    match step:
        case Launch() | Bind() | Host() | Stop():
            return 1
        case Branch(then=then, otherwise=otherwise):
            return 1 + sum(map(_length, then)) + sum(map(_length, otherwise))
        case Repeat(body=body):
            return 2 + sum(map(_length, body))


def pairs(launch: Launch) -> list[tuple[Storage, Storage]]:
    """(result, operand) storages of a launch whose elements are walked alike."""
    offsets, order = _accesses(launch.kernel)
    arguments = dict(zip((b.name for b in launch.kernel.buffers), launch.buffers, strict=True))
    access = {b.name: b.access for b in launch.kernel.buffers}
    found: list[tuple[Storage, Storage]] = []
    for w, target in arguments.items():
        if access[w] != "write" or _aliases(launch, target.storage) > 1:
            continue
        for r, source in arguments.items():
            same = access[r] == "read" and source.offset == target.offset and _aliases(launch, source.storage) == 1
            alike = len(offsets[w]) == 1 and offsets[w] == offsets[r]
            if same and alike and r not in order[order.index(w) :]:
                found.append((target.storage, source.storage))
    return found


def _aliases(launch: Launch, storage: Storage) -> int:
    return sum(argument.storage is storage for argument in launch.buffers)


def _accesses(kernel: Kernel) -> tuple[Mapping[str, set[Dim]], list[str]]:
    """The offsets at which a kernel touches each of its buffers, and the buffers in the order they are touched."""
    found: dict[str, set[Dim]] = {b.name: set() for b in kernel.buffers}
    order: list[str] = []

    def walk(item: Any) -> None:
        if isinstance(item, (Load, Store)):
            if isinstance(item, Store):
                walk(item.value)
            if item.buffer in found:
                found[item.buffer].add(item.offset)
                order.append(item.buffer)
        elif isinstance(item, str) and item in found:
            found[item].add(-1)  # a template's packed operand: read in an order of its own
            order.append(item)
        elif isinstance(item, tuple):
            for part in cast(tuple[Any, ...], item):
                walk(part)
        else:
            for part in parts_of(item):
                walk(part)

    walk(kernel.body)
    return found, order


def renamed(step: Step, names: Mapping[Storage, Storage]) -> Step:
    """`step` with other storages in the place of some."""
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
                then=tuple(renamed(s, names) for s in step.then),
                otherwise=tuple(renamed(s, names) for s in step.otherwise),
            )
        case Repeat():
            return dataclasses.replace(
                step,
                counter=certain(step.counter),
                trip=argument(step.trip),
                condition=argument(step.condition),
                body=tuple(renamed(s, names) for s in step.body),
            )
        case Bind():
            return dataclasses.replace(step, value=certain(step.value))
        case Host():
            operands, results = (
                tuple(dataclasses.replace(t, storage=names.get(t.storage, t.storage)) for t in side)
                for side in (step.operands, step.results)
            )
            return dataclasses.replace(step, operands=operands, results=results)
        case Stop():
            return step
