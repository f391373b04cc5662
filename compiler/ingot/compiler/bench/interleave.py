"""Honest timing of several engines: warm-up for all, interleaved rounds, medians, ratios round by round.

The rounds of all engines are mixed so that a change of the machine's speed hits all of them; what is quoted is the
median over rounds, and the ratio is the median of the rounds' ratios, not the ratio of medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Sampler: TypeAlias = Callable[[int], Sequence[float]]
"""Makes so many runs, one after the other, and says how many seconds each took."""


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one engine: the median per round, in order."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over rounds, in seconds."""
        return statistics.median(self.rounds)

    @property
    def best(self) -> float:
        """The fastest round, in seconds."""
        return min(self.rounds)

    def over(self, other: Timing) -> float:
        """Median over rounds of this engine's time divided by the other's."""
        return statistics.median(a / b for a, b in zip(self.rounds, other.rounds, strict=True))


def timed(call: Callable[[], object]) -> Sampler:
    """A sampler of calls in this process."""

    def sample(count: int) -> list[float]:
        times: list[float] = []
        for _ in range(count):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return times

    return sample


def interleave(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 15, seconds: float = 0.1, warm_up: float = 0.3
) -> dict[str, Timing]:
    """Time `calls`, as `interleave_samplers` does."""
    samplers = {name: timed(call) for name, call in calls.items()}
    return interleave_samplers(samplers, rounds=rounds, seconds=seconds, warm_up=warm_up)


def interleave_samplers(
    samplers: Mapping[str, Sampler], *, rounds: int = 15, seconds: float = 0.1, warm_up: float = 0.3
) -> dict[str, Timing]:
    """Time what the samplers run, here or in other processes: each is warmed up for `warm_up` seconds, then in every
    round each runs for about `seconds` (at least three times) and the round's median is kept. The order alternates from
    round to round."""
    counts: dict[str, int] = {}
    for name, sample in samplers.items():
        count, times = 3, sample(3)
        started = time.perf_counter() - sum(times)
        while time.perf_counter() - started < warm_up:
            count *= 2
            times = sample(count)
        counts[name] = max(3, int(seconds / max(statistics.median(times), 1e-9)))
    kept: dict[str, list[float]] = {name: [] for name in samplers}
    for index in range(rounds):
        order = list(samplers.items())
        for name, sample in order if index % 2 == 0 else reversed(order):
            kept[name].append(statistics.median(sample(counts[name])))
    return {name: Timing(tuple(times)) for name, times in kept.items()}
