"""Honest timing of several engines: warm-up for all, interleaved rounds, medians, ratios round by round.

The rounds of all engines are mixed so that a change of the machine's speed hits all of them; what is quoted is the
median over rounds, and the ratio is the median of the rounds' ratios, not the ratio of medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


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


def interleave(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 15, seconds: float = 0.1, warm_up: float = 0.3
) -> dict[str, Timing]:
    """Time `calls`: each is warmed up for `warm_up` seconds, then in every round each runs for about `seconds` (at
    least three times) and the round's median is kept. The order alternates from round to round."""
    counts: dict[str, int] = {}
    for name, call in calls.items():
        started, done = time.perf_counter(), 0
        while done < 3 or time.perf_counter() - started < warm_up:
            call()
            done += 1
        counts[name] = max(3, int(seconds * done / (time.perf_counter() - started)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        order = list(calls.items())
        for name, call in order if index % 2 == 0 else reversed(order):
            times: list[float] = []
            for _ in range(counts[name]):
                started = time.perf_counter()
                call()
                times.append(time.perf_counter() - started)
            samples[name].append(statistics.median(times))
    return {name: Timing(tuple(times)) for name, times in samples.items()}
