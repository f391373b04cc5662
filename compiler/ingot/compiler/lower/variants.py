"""Programs of one model that go into one artifact: what they share, and what stands for the model among them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TypeAlias

from ingot.compiler.ir.program import Argument, Bind, Program, Storage
from ingot.compiler.lower.inplace import renamed
from ingot.runtime.dtypes import i64

_Content: TypeAlias = tuple[str, int, bytes]


class WeightPool:
    """One storage for all weights of the same type and content, whichever program they are in. The arrays of the others
    are no longer referred to, so that several programs need the memory of one."""

    def __init__(self) -> None:
        self._known: dict[_Content, Storage] = {}

    def share(self, program: Program) -> Program:
        """`program` with the pool's storages in the place of its weights, which become part of the pool."""
        names: dict[Storage, Storage] = {}
        for storage in program.of_kind("weight"):
            if storage.data is not None:
                first = self._known.setdefault(_content(storage), storage)
                if first is not storage:
                    names[storage] = first
        storages = tuple(dict.fromkeys(names.get(storage, storage) for storage in program.storages))
        return replace(program, storages=storages, steps=tuple(renamed(step, names) for step in program.steps))


def _content(storage: Storage) -> _Content:
    assert storage.data is not None
    data = storage.data.view("u1").data
    return storage.dtype.name, storage.data.size, hashlib.sha256(data).digest()


def interface_of(program: Program) -> Program:
    """`program` without its work: its inputs and outputs, and for sizes that come from data the binds that say so. It
    is what describes a model whose general program is left out; it is not to be run."""
    bound = program.bound()
    value = Storage("sizes", "temp", i64, 1)
    kept = [s for s in program.storages if s.kind in ("input", "output") or (bound and s.kind == "status")]
    steps = tuple(Bind(name, Argument(value), fault) for name, fault in bound.items())
    return replace(program, storages=(*kept, value) if bound else tuple(kept), steps=steps)
