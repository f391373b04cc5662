"""What schedules need to know of a processor core: vectors, registers, caches and issue rates."""

from __future__ import annotations

from dataclasses import dataclass

SHARE = 0.75  # of a cache that what is used again and again may take


@dataclass(frozen=True)
class Machine:
    """A processor core: f32 lanes of a vector register, vector registers, cache sizes in bytes (l3: one core's share).

    The rates are sustained ones, in vector instructions a cycle, bytes a cycle from the outer caches and memory.
    """

    lanes_f32: int = 8
    vector_registers: int = 16
    l1: int = 32 << 10
    l2: int = 1 << 20
    l3: int = 8 << 20
    fma_rate: float = 2.0
    fma_latency: int = 4
    load_rate: float = 1.35  # broadcasts from rows a multiple of a cache line apart meet in one bank
    l2_rate: float = 24.0
    l3_rate: float = 16.0
    memory_rate: float = 6.0
    cycles_per_microsecond: int = 3000
    dot: int = 1  # 8-bit products that one instruction sums for each lane
    signed_dot: bool = False  # whether it multiplies signed bytes only
    matrices: bool = False  # whether it multiplies 2 x 8 by 8 x 2 bytes as well, twice as many at a time
    tiles: bool = False  # whether it multiplies 16 x 64 by 64 x 16 bytes as well
    lookups: bool = False  # whether elements of two registers are looked up by numbers in another
    rows_together: int = 1  # rows that one multiplication takes: fewer cost as much

    def lanes(self, element_bytes: int) -> int:
        """Elements of a vector register."""
        return max(1, 4 * self.lanes_f32 // element_bytes)

    def rate(self, size: float) -> float:
        """Bytes a cycle from the nearest cache that holds `size` bytes; the second level is the nearest of all."""
        if size <= self.l2:
            return self.l2_rate
        return self.l3_rate if size <= self.l3 else self.memory_rate

    def cycles_a_byte(self, size: float) -> float:
        """Cycles for each of `size` bytes that are read again and again, which the caches share."""
        near, far = (min(1.0, SHARE * cache / max(size, 1.0)) for cache in (self.l2, self.l3))
        return near / self.l2_rate + max(0.0, far - near) / self.l3_rate + (1.0 - far) / self.memory_rate


AVX2 = Machine(lookups=True)
AVX512 = Machine(lanes_f32=16, vector_registers=32, lookups=True)
NEON = Machine(lanes_f32=4, vector_registers=32, l1=64 << 10, l2=512 << 10, load_rate=2.0)
