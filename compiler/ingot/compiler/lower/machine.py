"""What schedules need to know of a processor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A processor core: f32 lanes of a vector register, vector registers, cache sizes in bytes (l3: one core's share)."""

    lanes_f32: int = 8
    vector_registers: int = 16
    l1: int = 32 << 10
    l2: int = 1 << 20
    l3: int = 8 << 20
