"""Ranges from what was observed: which values are to be representable, and which may be cut off.

All methods stay within the values that were seen. The names by which they are known: minmax, average, percentile,
entropy, mse; options follow in braces, ``percentile{percent=99.9}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.calibration.bins import Counts, Window
from ingot.compiler.calibration.errors import CalibrationError
from ingot.compiler.options import OptionError, coerce_options, parse_spec
from ingot.compiler.passes.quantize.grid import Grid, Range
from ingot.runtime.dtypes import i8, i16, u8, u16

Floats = NDArray[np.float64]

CANDIDATES = 256  # ranges that the entropy method tries
FARTHEST_BIN = 4096  # bins that lie on one side of 0 when it does
ENDS = 64  # places that the mse method tries for one end of a range
ROUNDS = 4  # in which it looks for a better upper and a better lower end
POINTS = 4  # places inside a bin at which the error of quantisation is taken
MOST_ERRORS = 1 << 19  # errors computed at a time
SMOOTHED = 1e-4  # what a bin without values counts as where a divergence would be infinite


@dataclass(frozen=True)
class Evidence:
    """What is known of a value: the extremes of each sample, f32 [samples], and where needed a histogram."""

    low: NDArray[Any]
    high: NDArray[Any]
    counts: Counts | None = None
    window: Window | None = None

    @property
    def least(self) -> float:
        """The smallest value."""
        return float(self.low.min())

    @property
    def most(self) -> float:
        """The largest value."""
        return float(self.high.max())

    def histogram(self) -> tuple[Counts, Floats]:
        """Counts and the edges of their bins, without empty bins at the ends."""
        assert self.counts is not None and self.window is not None
        held = np.flatnonzero(self.counts)
        first, last = int(held[0]), int(held[-1])
        return self.counts[first : last + 1], self.window.edges[first : last + 2]


@dataclass(frozen=True)
class Method:
    """A way to choose a range."""

    @property
    def needs_histogram(self) -> bool:
        """Whether the extremes are not enough."""
        return False

    @property
    def needs_samples(self) -> bool:
        """Whether the extremes of each sample are needed, and not only those of all."""
        return False

    def choose(self, evidence: Evidence) -> Range:
        """The range. There is at least one value."""
        raise NotImplementedError(type(self).__name__)


@dataclass(frozen=True)
class MinMax(Method):
    """From the smallest value that was seen to the largest."""

    def choose(self, evidence: Evidence) -> Range:
        return Range(evidence.least, evidence.most)


@dataclass(frozen=True)
class MovingAverage(Method):
    """The ends of each sample's range move the ends by `weight` of the distance: exponential moving averages that begin
    with the first sample (Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018, section 3.1)."""

    weight: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"a weight of {self.weight}; give one above 0, up to 1")

    @property
    def needs_samples(self) -> bool:
        return True

    def choose(self, evidence: Evidence) -> Range:
        ends: list[float] = []
        for samples in (evidence.low, evidence.high):
            end, *later = samples.astype(np.float64).tolist()
            for sample in later:
                end += self.weight * (sample - end)
            ends.append(end)
        return Range(*ends)


@dataclass(frozen=True)
class Percentile(Method):
    """The middle `percent` of all values; what lies outside is half below and half above. Inside a bin values count as
    evenly spread."""

    percent: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise ValueError(f"{self.percent} per cent of the values; give more than 0, up to 100")

    @property
    def needs_histogram(self) -> bool:
        return True

    def choose(self, evidence: Evidence) -> Range:
        counts, edges = evidence.histogram()
        below: Floats = np.concatenate([[0], np.cumsum(counts)]).astype(np.float64)
        outside = float(below[-1]) * (100 - self.percent) / 200
        # Of several edges with as many values below them the one next to the values.
        inside = float(below[-1]) - outside
        first = min(int(np.searchsorted(below, outside, side="right")) - 1, counts.size - 1)
        last = max(int(np.searchsorted(below, inside, side="left")), 1)
        low = float(np.interp(outside, below[first : first + 2], edges[first : first + 2]))
        high = float(np.interp(inside, below[last - 1 : last + 1], edges[last - 1 : last + 1]))
        low, high = (min(max(end, evidence.least), evidence.most) for end in (min(low, high), max(low, high)))
        return Range(low, high)


@dataclass(frozen=True)
class _Fitted(Method):
    """A method that looks for the range that suits a grid of `bits` bits best."""

    bits: int = 8
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ValueError(f"a grid of {self.bits} bits; give 2 to 16")

    @property
    def needs_histogram(self) -> bool:
        return True


@dataclass(frozen=True)
class Entropy(_Fitted):
    """The range, as far below zero as above where values are, that keeps most information: the Kullback-Leibler
    divergence of the distribution on the grid from the one that was seen, cut off, is least (Migacz, "8-bit Inference
    with TensorRT", GTC 2017; so ONNX Runtime's calibrator, which tries other ranges)."""

    def choose(self, evidence: Evidence) -> Range:
        counts, first, width = _with_zero(evidence)
        counts = _without_zeros(counts, first)
        reach = max(-first, first + counts.size)
        levels = 2**self.bits - (1 if self.symmetric else 0)
        best, chosen = np.inf, reach
        for limit in self._limits(first, counts.size, levels):
            divergence = _divergence(*self._cut(counts, first, limit), levels)
            if divergence <= best:  # of equal ones the widest range
                best, chosen = divergence, limit
        limit = chosen * width
        return Range(min(max(evidence.least, -limit), evidence.most), max(min(evidence.most, limit), evidence.least))

    def _limits(self, first: int, size: int, levels: int) -> list[int]:
        """The magnitudes, in bins, up to which values are kept, in order: those that keep at least as many bins as
        there are levels, and the largest."""

        def kept(limit: int) -> int:
            return 2 * limit if self.symmetric else min(first + size, limit) - max(first, -limit)

        reach = max(-first, first + size)
        least = next((limit for limit in range(1, reach) if kept(limit) >= levels), reach)
        places = np.linspace(least, reach, min(CANDIDATES, reach - least + 1)).round().astype(int)
        return sorted({int(place) for place in places})

    def _cut(self, counts: Counts, first: int, limit: int) -> tuple[Floats, Floats]:
        """The counts of the bins that are kept, and the same with what is cut off at the ends."""
        low, high = (-limit, limit) if self.symmetric else (max(first, -limit), min(first + counts.size, limit))
        places = np.clip(np.arange(first, first + counts.size), low, high - 1) - low
        whole = np.bincount(places, counts, high - low).astype(np.float64)
        inside = slice(max(low - first, 0), max(high - first, 0))
        kept = np.zeros(high - low)
        kept[places[inside]] = counts[inside]
        return kept, whole


def _with_zero(evidence: Evidence) -> tuple[Counts, int, float]:
    """Counts of bins that reach to 0, as it is on every grid, the place of the first and their width. They are made
    wider where they lie too far from 0."""
    counts, edges = evidence.histogram()
    width = float(edges[1] - edges[0])
    first = round(float(edges[0]) / width)  # bins have places: bin k begins at k * width
    places = first + np.arange(counts.size)
    while places[0] < -FARTHEST_BIN or places[-1] >= FARTHEST_BIN:
        places, width = places >> 1, width * 2
    first, last = min(int(places[0]), 0), max(int(places[-1]) + 1, 0)
    return np.bincount(places - first, counts, last - first).astype(np.int64), first, width


def _without_zeros(counts: Counts, first: int) -> Counts:
    """The counts, of which the bin that begins at 0 has no more than its neighbours: zeros, of which a Relu makes as
    many as it likes, are on every grid and tell nothing about where to cut off (TensorRT leaves them out so)."""
    if not 0 <= -first < counts.size:
        return counts
    around = counts[max(-first - 1, 0) : -first + 2]
    beside = np.delete(around, min(-first, 1))
    changed = counts.copy()
    changed[-first] = min(counts[-first], beside.max(initial=0))
    return changed


def _divergence(kept: Floats, whole: Floats, levels: int) -> float:
    """The divergence from `whole` of `kept` on `levels` levels, each of which stands evenly for its bins that hold
    values."""
    starts = np.unique(np.arange(levels) * kept.size // levels)
    level = np.searchsorted(starts, np.arange(kept.size), side="right") - 1
    held = whole > 0
    share = np.add.reduceat(kept, starts) / np.maximum(np.add.reduceat(held.astype(np.float64), starts), 1)
    coarse = np.where(held, share[level], 0.0)
    p, q = _smoothed(whole), _smoothed(coarse)
    return float(np.sum(p * np.log(p / q)))


def _smoothed(counts: Floats) -> Floats:
    """Shares, of which none is 0."""
    empty = counts <= 0
    if empty.all():
        return np.full(counts.size, 1 / counts.size)
    spread = np.where(empty, SMOOTHED, counts)
    return spread / spread.sum()


@dataclass(frozen=True)
class SquaredError(_Fitted):
    """The range whose grid has the least mean squared error, found by moving one end after the other; with `symmetric`
    both at once."""

    def choose(self, evidence: Evidence) -> Range:
        counts, edges = evidence.histogram()
        held = np.flatnonzero(counts)
        inside = (np.arange(POINTS) + 0.5) / POINTS
        x = edges[held, None] + np.diff(edges)[held, None] * inside
        x = np.clip(x, evidence.least, evidence.most).astype(np.float32).reshape(-1)
        weights = np.repeat(counts[held] / POINTS, POINTS)
        least, most = evidence.least, evidence.most
        shares = np.arange(1, ENDS + 1) / ENDS
        if self.symmetric:
            limits = max(abs(least), abs(most)) * shares
            limit = float(limits[self._best(-limits, limits, x, weights)])
            return Range(min(max(least, -limit), most), max(min(most, limit), least))
        low, high = least, most
        for _ in range(ROUNDS):
            before = low, high
            if most > 0:
                ends = most * shares
                high = float(ends[self._best(np.full(ENDS, low), np.maximum(ends, low), x, weights)])
            if least < 0:
                ends = least * shares
                low = float(ends[self._best(np.minimum(ends, high), np.full(ENDS, high), x, weights)])
            if (low, high) == before:
                break
        return Range(min(low, high), max(low, high))

    def _best(self, low: Floats, high: Floats, x: NDArray[np.float32], weights: Floats) -> int:
        """Which of these ranges has the least error, the last of equal ones."""
        narrow, wide = (i8, i16) if self.symmetric else (u8, u16)
        dtype = narrow if self.bits <= 8 else wide
        errors: list[Floats] = []
        step = max(1, MOST_ERRORS // max(x.size, 1))
        for start in range(0, low.size, step):
            part = slice(start, start + step)
            grid = Grid.spanning(low[part, None], high[part, None], dtype, symmetric=self.symmetric, bits=self.bits)
            lost = grid.dequantised(grid.quantised(x)) - x
            errors.append(np.square(lost, dtype=np.float64) @ weights)  # f32 has no room for squares of large values
        every = np.concatenate(errors)
        return int(every.size - 1 - every[::-1].argmin())


METHODS: Mapping[str, type[Method]] = MappingProxyType(
    {
        "minmax": MinMax,
        "average": MovingAverage,
        "percentile": Percentile,
        "entropy": Entropy,
        "mse": SquaredError,
    }
)


def read_method(given: Method | str) -> Method:
    """The method that a text spells. Raises CalibrationError."""
    if isinstance(given, Method):
        return given
    try:
        name, options = parse_spec(given)
        if name not in METHODS:
            raise CalibrationError(f"there is no calibration method {name!r}; there are {', '.join(METHODS)}")
        return METHODS[name](**coerce_options(METHODS[name], name, options))
    except CalibrationError:
        raise
    except (OptionError, ValueError) as error:
        raise CalibrationError(f"calibration method {given!r}: {str(error).replace('pass ', '', 1)}") from None
