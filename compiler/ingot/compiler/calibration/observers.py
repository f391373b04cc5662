"""Observers: what is to be known of a value.

An observer says which operators read a value (`outputs`), what one run tells (`read`), and how that is put together
with what is known already (`merge`). What it knows is a state, arrays by name, so that states are saved and merged
without more ado.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.calibration.bins import FARTHEST, NARROWEST, WIDEST, Window, moved, window_of
from ingot.compiler.calibration.taps import Tap
from ingot.compiler.ir.graph import Value
from ingot.compiler.options import show_options

Array = NDArray[Any]
State = dict[str, Array]
Form = tuple[type[np.generic], tuple[int | None, ...]]

MOST_BINS = 1 << 16


class NotFinite(Exception):  # noqa: N818  (told apart from errors: the caller knows which value and which sample)
    """A value holds NaN or an infinity."""


@dataclass(frozen=True)
class Observer:
    """What all observers have. `axis`, counted from the front or from the end, makes one of each channel along it."""

    def __str__(self) -> str:
        return type(self).__name__ + show_options(self)

    def located(self, rank: int) -> Observer:
        """The same with the axis of a value of `rank` counted from the front. Raises ValueError where there is none."""
        return self

    def channel_axis(self) -> int | None:
        """The axis whose extent must be known, if there is one."""
        return None

    def outputs(self, tap: Tap) -> Mapping[str, Value | int]:
        """What a run is to give, by name; an int is what is known without a run."""
        raise NotImplementedError(type(self).__name__)

    def read(self, outputs: Mapping[str, Array]) -> State:
        """What a run told. Raises NotFinite."""
        raise NotImplementedError(type(self).__name__)

    def merge(self, one: State, other: State) -> State:
        """What both tell, the first coming first."""
        raise NotImplementedError(type(self).__name__)

    def forms(self, channels: int) -> Mapping[str, Form]:
        """Element type and shape of what a state holds, of a value with so many channels; None for any extent."""
        raise NotImplementedError(type(self).__name__)

    def is_possible(self, state: State) -> bool:
        """Whether values can have led to a state of the right forms, as far as anything depends on it."""
        return all(bool(np.isfinite(array).all()) for array in state.values())


@dataclass(frozen=True)
class _OfChannels(Observer):
    axis: int | None = None

    def located(self, rank: int) -> Observer:
        if self.axis is None:
            return self
        return type(self)(_from_front(self.axis, rank))

    def channel_axis(self) -> int | None:
        return self.axis


@dataclass(frozen=True)
class Extremes(_OfChannels):
    """The smallest and the largest value of each sample, `low` and `high` [samples, channels]. Samples without elements
    leave no row."""

    def outputs(self, tap: Tap) -> Mapping[str, Value | int]:
        return {"low": tap.lowest(self.axis), "high": tap.highest(self.axis)}

    def read(self, outputs: Mapping[str, Array]) -> State:
        low, high = outputs["low"], outputs["high"]
        if _is_empty(low, high):
            return {"low": low[:0].reshape(0, low.size), "high": high[:0].reshape(0, high.size)}
        _require_finite(low, high)
        return {"low": low[None], "high": high[None]}

    def merge(self, one: State, other: State) -> State:
        return {key: np.concatenate([one[key], other[key]]) for key in ("low", "high")}

    def forms(self, channels: int) -> Mapping[str, Form]:
        return {"low": (np.float32, (None, channels)), "high": (np.float32, (None, channels))}

    def is_possible(self, state: State) -> bool:
        same = state["low"].shape == state["high"].shape
        return same and super().is_possible(state) and bool((state["low"] <= state["high"]).all())


@dataclass(frozen=True)
class Magnitude(_OfChannels):
    """`largest` magnitude f32, `sum` of magnitudes f64, both [channels], and how many elements a channel has had,
    `count` i64 []."""

    def outputs(self, tap: Tap) -> Mapping[str, Value | int]:
        count = tap.elements(self.axis)
        return {"largest": tap.largest(self.axis), "sum": tap.magnitudes(self.axis), "count": count}

    def read(self, outputs: Mapping[str, Array]) -> State:
        count = np.int64(outputs["count"])
        largest = outputs["largest"] if count else np.zeros_like(outputs["largest"])
        _require_finite(largest, outputs["sum"])
        return {"largest": largest, "sum": outputs["sum"].astype(np.float64), "count": np.asarray(count)}

    def merge(self, one: State, other: State) -> State:
        sums = {key: np.asarray(one[key] + other[key]) for key in ("sum", "count")}
        return {"largest": np.maximum(one["largest"], other["largest"]), **sums}

    def forms(self, channels: int) -> Mapping[str, Form]:
        return {
            "largest": (np.float32, (channels,)),
            "sum": (np.float64, (channels,)),
            "count": (np.int64, ()),
        }


@dataclass(frozen=True)
class Moments(_OfChannels):
    """`sum` and sum of `squares`, f64 [channels], and how many elements a channel has had, `count` i64 []."""

    def outputs(self, tap: Tap) -> Mapping[str, Value | int]:
        return {"sum": tap.total(self.axis), "squares": tap.squares(self.axis), "count": tap.elements(self.axis)}

    def read(self, outputs: Mapping[str, Array]) -> State:
        _require_finite(outputs["sum"], outputs["squares"])
        sums = {key: outputs[key].astype(np.float64) for key in ("sum", "squares")}
        return {**sums, "count": np.asarray(np.int64(outputs["count"]))}

    def merge(self, one: State, other: State) -> State:
        return {key: np.asarray(one[key] + other[key]) for key in ("sum", "squares", "count")}

    def forms(self, channels: int) -> Mapping[str, Form]:
        return {
            "sum": (np.float64, (channels,)),
            "squares": (np.float64, (channels,)),
            "count": (np.int64, ()),
        }


@dataclass(frozen=True)
class SecondMoment(Observer):
    """`product`, XᵀX f64 [channels, channels], where the rows of X are what lies along `axis`, and how many rows there
    have been, `count` i64 []. The product of one sample is computed in f32."""

    axis: int = -1

    def located(self, rank: int) -> Observer:
        return SecondMoment(_from_front(self.axis, rank))

    def channel_axis(self) -> int | None:
        return self.axis

    def outputs(self, tap: Tap) -> Mapping[str, Value | int]:
        return {"product": tap.second_moment(self.axis), "count": tap.elements(self.axis)}

    def read(self, outputs: Mapping[str, Array]) -> State:
        _require_finite(outputs["product"])
        return {"product": outputs["product"].astype(np.float64), "count": np.asarray(np.int64(outputs["count"]))}

    def merge(self, one: State, other: State) -> State:
        return {key: np.asarray(one[key] + other[key]) for key in ("product", "count")}

    def forms(self, channels: int) -> Mapping[str, Form]:
        return {"product": (np.float64, (channels, channels)), "count": (np.int64, ())}


@dataclass(frozen=True)
class Histogram(Observer):
    """`counts` i64 [bins] over bins of a width that is a power of two (see `bins`), with `low` and `high` f32 [1], the
    extremes, and `window` i64 [2], exponent of the width and place of the first bin. More than half of the bins are in
    use where values differ enough."""

    bins: int = 2048

    def __post_init__(self) -> None:
        if not 64 <= self.bins <= MOST_BINS:
            raise ValueError(f"a histogram of {self.bins} bins; give 64 to {MOST_BINS}")

    def outputs(self, tap: Tap) -> Mapping[str, Value | int]:
        return {"low": tap.lowest(None), "high": tap.highest(None), "counts": tap.counts(self.bins)}

    def read(self, outputs: Mapping[str, Array]) -> State:
        low, high = outputs["low"], outputs["high"]
        if not _is_empty(low, high):
            _require_finite(low, high)
        return {"low": low, "high": high, "counts": outputs["counts"].astype(np.int64), "window": outputs["window"]}

    def merge(self, one: State, other: State) -> State:
        low, high = np.minimum(one["low"], other["low"]), np.maximum(one["high"], other["high"])
        if np.array_equal(one["window"], other["window"]):
            return {"low": low, "high": high, "counts": one["counts"] + other["counts"], "window": one["window"]}
        if _is_empty(one["low"], one["high"]) or _is_empty(other["low"], other["high"]):
            return other if _is_empty(one["low"], one["high"]) else one
        window = self.window_for(one, float(low[0]), float(high[0]))
        counts = sum(moved(each["counts"], window_in(each), window) for each in (one, other))
        return {"low": low, "high": high, "counts": np.asarray(counts), "window": words_of(window)}

    def window_for(self, known: State | None, low: float, high: float) -> Window:
        """The window for values from `low` to `high` after what is known."""
        if known is None or _is_empty(known["low"], known["high"]):
            return window_of(low, high, self.bins)
        window = window_in(known)
        low, high = min(low, float(known["low"][0])), max(high, float(known["high"][0]))
        return window if window.covers(low, high) else window_of(low, high, self.bins)

    def forms(self, channels: int) -> Mapping[str, Form]:
        return {
            "low": (np.float32, (1,)),
            "high": (np.float32, (1,)),
            "counts": (np.int64, (self.bins,)),
            "window": (np.int64, (2,)),
        }

    def is_possible(self, state: State) -> bool:
        low, high, counts = state["low"], state["high"], state["counts"]
        exponent, first = state["window"].tolist()
        if (counts < 0).any() or not (NARROWEST <= exponent <= WIDEST and abs(first) <= FARTHEST):
            return False
        if _is_empty(low, high):
            return not counts.any()
        ends = bool(np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all())
        return ends and bool(counts.any()) and window_in(state).covers(float(low[0]), float(high[0]))


def window_in(state: State) -> Window:
    """The window of a histogram's counts."""
    exponent, first = state["window"].tolist()
    return Window(exponent, first, state["counts"].size)


def words_of(window: Window) -> NDArray[np.int64]:
    """A window as a state has it."""
    return np.array([window.exponent, window.first], np.int64)


def _from_front(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"there is no axis {axis}")
    return axis % rank


def _is_empty(low: Array, high: Array) -> bool:
    """Whether these are the extremes of no elements."""
    return bool(low.size) and bool((low == np.inf).all() and (high == -np.inf).all())


def _require_finite(*arrays: Array) -> None:
    for array in arrays:
        if not np.isfinite(array).all():
            raise NotFinite("NaN" if np.isnan(array).any() else "an infinity")
