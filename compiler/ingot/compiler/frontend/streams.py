"""Which random numbers a node gets.

Every node draws from a stream of its own: its key is made of the session's and of the number of the node in the import,
or of its attribute `seed`, which gives the same numbers in every session. Each run goes on where the one before ended.
The iteration of a loop around the node counts like a run.
"""

from __future__ import annotations

import numpy as np

from ingot.compiler.frontend.scope import Scope
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value, constant
from ingot.compiler.ops.bitwise import BitOr, ShiftLeft
from ingot.compiler.ops.movement import Reshape, Slice
from ingot.compiler.ops.pointwise import Add, Cast
from ingot.compiler.ops.random import Entropy, RandomBits
from ingot.runtime.dtypes import u64

SESSION, RUN = "key", "run"
STREAM = 0x9E3779B97F4A7C15  # the golden ratio's fraction: multiples lie far apart
SEEDED = 0x5EED_0000_0000_0000
ITERATION = 0x17E4_0000_0000_0000


def bits(scope: Scope, seed: int | float | None, blocks: Dim) -> tuple[Value, ...]:
    """Four words, u32 [blocks] each, for the node that is being imported in `scope`."""
    run = _found(scope, RUN)
    if seed is not None:
        number = seed if isinstance(seed, int) else SEEDED + int(np.float32(seed).view(np.uint32))
        key: Value = constant(number % 2**64, u64)
    else:
        number = scope.importer.nodes * STREAM % 2**64
        key = Add(_found(scope, SESSION), constant(number, u64))
    return RandomBits(key, run, blocks).results()


def _found(scope: Scope, name: str) -> Value:
    """The key or the run as it is known in `scope`; made in the outermost one, and captured."""
    found = scope.randomness.get(name)
    if found is None:
        around = scope.parent or scope.caller_scope
        if around is None:
            found = _element(0 if name == SESSION else 1)
        else:
            found = _found(around, name)
            if scope.parent is not None:
                found = scope.capture(name, found)
            if name == RUN and scope.iteration is not None:
                found = _within(found, scope.iteration, scope.importer.nodes)
        scope.randomness[name] = found
    return found


def _element(index: int) -> Value:
    return Reshape(Slice(Entropy(), (index,), (1,), (1,)), ())


def _within(run: Value, iteration: Value, loop: int) -> Value:
    """What stands for the number of the run in an iteration of a loop."""
    key = Add(Cast(iteration, u64), constant((ITERATION + loop * STREAM) % 2**64, u64))
    low, high = (Cast(Reshape(word, ()), u64) for word in RandomBits(key, run, 1).results()[:2])
    return BitOr(ShiftLeft(high, constant(32, u64)), low)
