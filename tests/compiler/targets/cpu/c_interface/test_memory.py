"""Memory of libraries: temporaries that are live together never overlap, and little is wasted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.compiler.ir.dims import Dim, evaluate, maximum, symbol
from ingot.compiler.ir.lifetimes import lifetimes
from ingot.compiler.ir.loops import Axis, Buffer, Kernel
from ingot.compiler.ir.program import Argument, Launch, Program, Storage
from ingot.compiler.targets.cpu.c_interface.memory import plan_memory
from ingot.runtime.dtypes import f32
from ingot.runtime.memory import Placer

n, m = symbol("n"), symbol("m")
SIZES: list[Dim] = [0, 5, 100, n, m, 3 * n, n * m, n * n, maximum(n - 40, 0), maximum(n, m) * 7, (n + 3) // 4 * m]


def program_of(spans: list[tuple[int, int]], sizes: list[Dim]) -> Program:
    """A launch a step; each reads the temporaries whose last step it is and writes those whose first it is."""
    storages = [Storage(f"t{i}", "temp", f32, size) for i, size in enumerate(sizes)]
    steps: list[Launch] = []
    for step in range(max((last for _, last in spans), default=0) + 1):
        written = [s for s, (first, _) in zip(storages, spans, strict=True) if first == step]
        read = [s for s, (first, last) in zip(storages, spans, strict=True) if last == step > first]
        used = written + read
        buffers = tuple(Buffer(f"b{i}", f32, "write" if i < len(written) else "read") for i in range(len(used)))
        kernel = Kernel(f"k{step}", buffers, (), (Axis("p", 1),), ())
        steps.append(Launch(kernel, tuple(Argument(storage) for storage in used), ()))
    return Program("p", tuple(storages), tuple(steps))


spans = st.tuples(st.integers(0, 12), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(spans, st.sampled_from(SIZES)), max_size=24), st.integers(0, 300), st.integers(0, 300))
def test_what_is_live_together_lies_apart(temps: list[tuple[tuple[int, int], Dim]], rows: int, columns: int) -> None:
    program = program_of([span for span, _ in temps], [size for _, size in temps])
    live, values = lifetimes(program), {"n": rows, "m": columns}
    plan = plan_memory(program)
    assert {place.storage for place in plan.places} == set(live)
    ends = plan.ends(values)
    places = [
        (live[place.storage], end - evaluate(place.size, values), end)
        for place, end in zip(plan.places, ends, strict=True)
    ]
    assert all(start >= 0 and start % 64 == 0 for _, start, _ in places)
    assert all(4 * evaluate(p.storage.size, values) <= evaluate(p.size, values) for p in plan.places)
    for (one, start, end), (other, begin, stop) in itertools.combinations(places, 2):
        assert one[1] < other[0] or other[1] < one[0] or end <= begin or stop <= start
    assert plan.arena_bytes(values) == max(ends, default=0)


@pytest.mark.parametrize("sizes", [[64, 1000, 3, 500, 64, 2000], [16 * n, 48 * n, 16 * n, 100 * n, 20 * n, 16 * n]])
def test_as_the_runtime_places_them(sizes: list[Dim]) -> None:
    """Where all sizes grow alike, the arena is as large as the runtime's for every value."""
    spans = [(0, 1), (1, 2), (1, 4), (2, 3), (3, 5), (4, 5)]
    plan = plan_memory(program_of(spans, sizes))
    for rows in (1, 7, 128, 1000):
        wanted = [4 * evaluate(size, {"n": rows}) for size in sizes]
        assert plan.arena_bytes({"n": rows}) == Placer(spans).place(wanted, limit=2**40).total


def test_nothing_to_place() -> None:
    assert plan_memory(Program("empty", (), ())).arena_bytes({}) == 0
    weight = Storage("w", "weight", f32, 2, data=np.zeros(2, np.float32))
    assert plan_memory(Program("weights", (weight,), ())).places == ()
