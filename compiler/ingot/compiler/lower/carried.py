"""Carried values of loops that are computed where they lie.

At its end the body of a loop copies what it has computed for the next iteration. The copy goes, and the result is
written where it has to be in the first place, when the launch that makes it walks the old value as it walks the new
one, or does not read it, and when nothing reads the old value afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ingot.compiler.ir.dims import Dim, ceil_divide, coefficient, minimum, substitute, symbol
from ingot.compiler.ir.loops import For, Load, Store
from ingot.compiler.ir.program import Argument, Bind, Branch, Host, Launch, Program, Repeat, Step, Stop, Storage
from ingot.compiler.lower.inplace import pairs, renamed


def carry_in_place(program: Program) -> Program:
    """`program` without copies at the end of loops that are not needed."""
    touched = _count(program.steps)
    gone: set[Storage] = set()
    steps = tuple(_mended(step, touched, gone) for step in program.steps)
    if not gone:
        return program
    storages = tuple(s for s in program.storages if s not in gone)
    return dataclasses.replace(program, steps=steps, storages=storages)


def _mended(step: Step, touched: dict[Storage, int], gone: set[Storage]) -> Step:
    match step:
        case Branch():
            then, otherwise = (tuple(_mended(s, touched, gone) for s in part) for part in (step.then, step.otherwise))
            return dataclasses.replace(step, then=then, otherwise=otherwise)
        case Repeat():
            body = [_mended(s, touched, gone) for s in step.body]
            for place in reversed(range(1, len(body))):  # the first step has nothing to copy
                last = body[place]
                found = _copied(last) if isinstance(last, Launch) else None
                if found is not None and _replaceable(body, place, *found, touched):
                    source, target = found
                    body = [renamed(s, {source: target}) for i, s in enumerate(body) if i != place]
                    gone.add(source)
                    touched[target] += touched[source] - 2
            return dataclasses.replace(step, body=tuple(body))
        case _:
            return step


def _copied(launch: Launch) -> tuple[Storage, Storage] | None:
    """(source, target) of a launch that copies a whole storage, element by element in one order."""
    kernel = launch.kernel
    if len(launch.buffers) != 2 or not isinstance(kernel.body, tuple):
        return None
    extents = {axis.var: axis.extent for axis in kernel.grid}
    body = kernel.body
    while len(body) == 1 and isinstance(loop := body[0], For):
        extents[loop.var] = loop.extent
        body = loop.body
    store = body[0]
    if len(body) != 1 or not isinstance(store, Store) or not isinstance(store.value, Load):
        return None
    arguments = dict(zip((b.name for b in kernel.buffers), launch.buffers, strict=True))
    source, target = arguments[store.value.buffer], arguments[store.buffer]
    alike = source.storage.size == target.storage.size and source.storage.dtype == target.storage.dtype
    if source.storage is target.storage or not alike or not source.offset == target.offset == 0:
        return None
    whole = store.offset == store.value.offset and _walks(store.offset, extents, source.storage.size)
    return (source.storage, target.storage) if whole else None


def _walks(offset: Dim, extents: Mapping[str, Dim], size: Dim) -> bool:
    """Whether an offset takes all values below `size` while its variables run through their extents."""
    still = {var: 0 for var, extent in extents.items() if extent == 1}
    offset = substitute(offset, still)
    extents = {var: substitute(extent, still) for var, extent in extents.items() if var not in still}
    free = [var for var, extent in extents.items() if extent != 1]
    if len(free) < 2:
        whole = extents[free[0]] == size and offset == symbol(free[0]) if free else size == 1
        return len(free) == len(extents) and whole
    block, place = free[0], free[-1]
    width = coefficient(offset, block)
    if len(free) > 2 or width is None or not isinstance(width[0], int) or width[1] != symbol(place):
        return False
    within = minimum(size - symbol(block) * width[0], width[0])
    return extents[block] == ceil_divide(size, width[0]) and extents[place] == within


def _replaceable(
    body: Sequence[Step], place: int, source: Storage, target: Storage, touched: dict[Storage, int]
) -> bool:
    """Whether `source`, which step `place` copies, may be `target` from the start."""
    if source.kind != "temp" or target.kind not in ("temp", "output"):
        return False
    inside = _count(body)
    if inside.get(source) != touched[source]:
        return False  # it is used outside of the loop, too
    makers = [i for i, step in enumerate(body) if source in _written(step)]
    if len(makers) != 1 or makers[0] >= place:
        return False
    first = body[makers[0]]
    if not isinstance(first, Launch) or any(source in _count([s]) for s in body[: makers[0]]):
        return False
    if any(target in _count([s]) for i, s in enumerate(body) if i > makers[0] and i != place):
        return False
    return target not in _count([first]) or (source, target) in pairs(first)


def _written(step: Step) -> set[Storage]:
    """What a step may write."""
    match step:
        case Launch():
            access = zip(step.kernel.buffers, step.buffers, strict=True)
            return {argument.storage for buffer, argument in access if buffer.access != "read"}
        case Branch():
            return set[Storage]().union(*(_written(s) for s in (*step.then, *step.otherwise)))
        case Repeat():
            return {step.counter.storage}.union(*(_written(s) for s in step.body))
        case Host(results=results):
            return {tensor.storage for tensor in results}
        case Bind() | Stop():
            return set()


def _count(steps: Sequence[Step]) -> dict[Storage, int]:
    """How often each storage is named in some steps."""
    found: dict[Storage, int] = {}
    for argument in _arguments(steps):
        found[argument.storage] = found.get(argument.storage, 0) + 1
    return found


def _arguments(steps: Sequence[Step]) -> Iterator[Argument]:
    for step in steps:
        match step:
            case Launch():
                yield from step.buffers
            case Branch():
                yield step.condition
                yield from _arguments((*step.then, *step.otherwise))
            case Repeat():
                yield from (a for a in (step.counter, step.trip, step.condition) if a is not None)
                yield from _arguments(step.body)
            case Bind():
                yield step.value
            case Host(operands=operands, results=results):
                yield from (tensor.argument for tensor in (*operands, *results))
            case Stop():
                pass
