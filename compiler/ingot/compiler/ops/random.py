"""Random bits by a counter-based generator: Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers:
as easy as 1, 2, 3", SC 2011.

The bits are a function of a key and a counter, so they depend neither on the number of threads nor on how work is cut,
and a kernel computes them lane by lane. What changes from run to run is `Entropy` alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Array, Graph, Node, Value, constant, dependencies_of, node_of, op, topological
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.bitwise import BitAnd, BitXor, ShiftRight
from ingot.compiler.ops.checks import fail, ints
from ingot.compiler.ops.movement import Iota
from ingot.compiler.ops.pointwise import Add, Cast, Mul
from ingot.runtime.dtypes import u32, u64

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF
WORDS = 4  # that a block has


@op("entropy")
class Entropy(Node):
    """u64 [2]: the key of the session's random numbers and the number of the run, which goes up from run to run.

    All nodes of a graph give the same. Evaluated, it is what the first run of a session with seed 0 has: zeros.
    """

    def infer(self) -> Sequence[TensorType]:
        return (TensorType(u64, (2,)),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        return (np.zeros(2, np.uint64),)


@op("random_bits")
class RandomBits(Node):
    """Four results, u32 [blocks]: the words of Philox4x32-10 for the counters (i, run), i below `blocks`, under `key`;
    key and run are u64 scalars, their low words first."""

    key: Value
    run: Value
    blocks: Dim

    def infer(self) -> Sequence[TensorType]:
        for value in (self.key, self.run):
            if value.type != TensorType(u64, ()):
                fail(self, f"key and run must be u64[], not {value.type}")
        if isinstance(self.blocks, int) and self.blocks < 0:
            fail(self, f"{self.blocks} blocks")
        return (TensorType(u32, (self.blocks,)),) * WORDS

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        key, run = (int(x) for x in operands)
        (count,) = ints((self.blocks,))
        return philox(np.arange(count, dtype=np.uint64), run, key)

    def expand(self) -> Sequence[Value]:
        mask, half = constant(WORD, u64), constant(32, u64)
        places = Iota(constant(0, u64), constant(1, u64), self.blocks)
        c0, c1, c2, c3 = (part for x in (places, self.run) for part in (BitAnd(x, mask), ShiftRight(x, half)))
        low, high = BitAnd(self.key, mask), ShiftRight(self.key, half)
        for number in range(ROUNDS):
            k0, k1 = (
                BitAnd(Add(key, constant(number * step, u64)), mask)
                for key, step in zip((low, high), WEYL, strict=True)
            )
            p0, p1 = (Mul(c, constant(m, u64)) for c, m in zip((c0, c2), MULTIPLIERS, strict=True))
            c0, c1 = BitXor(BitXor(ShiftRight(p1, half), k0), c1), BitAnd(p1, mask)
            c2, c3 = BitXor(BitXor(ShiftRight(p0, half), k1), c3), BitAnd(p0, mask)
        return tuple(Cast(c, u32) for c in (c0, c1, c2, c3))


def touched_by_chance(graph: Graph) -> frozenset[str]:
    """The names of the outputs and watched values of `graph` that change from run to run for the same inputs."""
    named = {**graph.watched, **dict(graph.outputs)}
    touched: set[Node] = set()
    for node in topological(named.values(), graph.bound):
        if isinstance(node, Entropy) or any(node_of(v) in touched for v in dependencies_of(node, graph.bound)):
            touched.add(node)
    return frozenset(name for name, value in named.items() if node_of(value) in touched)


def philox(counters: Array, run: int, key: int) -> tuple[Array, Array, Array, Array]:
    """The four u32 words for each of the u64 `counters` (low half of the 128-bit counter; `run` is the other)."""
    mask, half = np.uint64(WORD), np.uint64(32)
    c0, c1 = counters & mask, counters >> half
    c2, c3 = np.full_like(counters, run & WORD), np.full_like(counters, run >> 32)
    k0, k1 = key & WORD, key >> 32
    for _ in range(ROUNDS):
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & mask
        c2, c3 = (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & mask
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    first, second, third, fourth = (c.astype(np.uint32) for c in (c0, c1, c2, c3))
    return first, second, third, fourth
