"""A calibration: a model's compiled code with observers, run on samples, and what they told so far."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.api import compile
from ingot.compiler.array_files import Arrays
from ingot.compiler.calibration.bins import Window
from ingot.compiler.calibration.errors import CalibrationError, CalibrationWarning
from ingot.compiler.calibration.interface import interface_of
from ingot.compiler.calibration.observe import Observation, Watched, observe, require_observable
from ingot.compiler.calibration.observers import (
    Extremes,
    Histogram,
    Magnitude,
    Moments,
    NotFinite,
    Observer,
    SecondMoment,
    State,
    window_in,
    words_of,
)
from ingot.compiler.calibration.ranges import Evidence, Method, read_method
from ingot.compiler.calibration.samples import Sample, Source, read_samples
from ingot.compiler.calibration.states import model_digest, read_states, write_states
from ingot.compiler.ir.graph import Graph, Value
from ingot.compiler.passes.quantize.grid import Range
from ingot.compiler.pipeline import Pipeline
from ingot.runtime import Session
from ingot.runtime.errors import RuntimeFault
from ingot.runtime.inputs import TensorInfo

Observers = Sequence[Observer] | Mapping[str, Sequence[Observer]]

DEFAULT: Sequence[Observer] = (Extremes(), Histogram())
WILD = 16.0  # times the median of the samples' largest magnitudes: how large one may be without a warning


class Calibration:
    """What is known of the values `points` of `graph`, by name.

    `graph` is at the stage at which models are quantised: imported, simplified, composites recognised; `points` are
    values of it. `observers` is a list for all of them, or a list by name. Without `Histogram` there is little memory
    and time needed, and ranges are those of "minmax" and "average" alone. Compiled at the first `update`, for this
    machine; `threads` as sessions take them.

    Raises CalibrationError for values that are not floats of fixed channels where these are asked for.
    """

    def __init__(
        self,
        graph: Graph,
        points: Mapping[str, Value],
        observers: Observers = DEFAULT,
        *,
        threads: int | None = None,
    ) -> None:
        if not points:
            raise CalibrationError("there are no values to observe: the model has no layers that are to be quantised")
        by_name = observers if isinstance(observers, Mapping) else dict.fromkeys(points, observers)
        if unknown := by_name.keys() ^ points.keys():
            raise CalibrationError(f"points and observers have different names, such as {sorted(unknown)[0]!r}")
        for name, value in points.items():
            require_observable(graph, name, value, by_name[name])
        self._graph = graph
        self._points = dict(points)
        self._observers = {
            name: tuple(dict.fromkeys(each.located(points[name].rank) for each in by_name[name])) for name in points
        }
        self._threads = threads
        self._interface = interface_of(graph)
        self._states: dict[Watched, State] = {}
        self._samples = 0
        self._run: _Run | None = None
        self._digest: str | None = None

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What a sample has to hold."""
        return self._interface.described

    @property
    def points(self) -> Mapping[str, Value]:
        """The observed values by name."""
        return MappingProxyType(self._points)

    @property
    def samples(self) -> int:
        """How many samples have been seen."""
        return self._samples

    @property
    def digest(self) -> str:
        """SHA-256 of the model, the points and the observers, in hexadecimal: what a state belongs to."""
        if self._digest is None:
            observed = {name: [str(each) for each in found] for name, found in self._observers.items()}
            self._digest = model_digest(self._graph, self._points, observed)
        return self._digest

    def update(
        self, samples: Source, *, limit: int | None = None, progress: Callable[[str], None] | None = None
    ) -> int:
        """Run the model on `samples`, whatever `read_samples` takes, `limit` of them at most; how many there were.
        `progress` is called with a line of text.

        A sample counts as a whole or not at all. Raises CalibrationError for one that does not fit the model, and where
        an observed value is NaN or infinite; those before it have been counted then.
        """
        tell = progress or _silent
        if self._run is None:
            tell("compiling the model with its observers")
        before = self._samples
        for sample in read_samples(samples, self._graph, limit=limit):
            self._add(sample)
            tell(f"calibration: {self._samples} samples")
        return self._samples - before

    def outputs(self, sample: Mapping[str, NDArray[Any]]) -> Arrays:
        """The model's own outputs for a sample, by the code that has the observers. Nothing is counted."""
        found = self._prepared().run(sample)
        return {name: found[name] for name, _ in self._graph.outputs}

    def _prepared(self) -> _Run:
        if self._run is None:
            self._run = _Run(observe(self._graph, self._points, self._observers), self._threads)
            self._run.follow(self._states)
        return self._run

    def _add(self, sample: Sample) -> None:
        run = self._prepared()
        try:
            found = run.run(sample.arrays)
            # Where a value lies outside of what is counted, the range grows and the sample is counted again.
            while run.widen(self._states, found):  # more than once where a model draws random numbers
                found = run.run(sample.arrays)
            told = self._told(run, sample, found)
        except BaseException as error:
            run.follow(self._states)
            if isinstance(error, RuntimeFault):
                raise CalibrationError(f"{sample.name}: the model fails on it: {error}") from error
            raise
        self._merge(told)
        self._samples += 1

    def _told(self, run: _Run, sample: Sample, found: Arrays) -> dict[Watched, State]:
        """What a run on `sample` told."""
        told: dict[Watched, State] = {}
        for watched, reads in run.observation.reads.items():
            outputs = {field: found[at] if isinstance(at, str) else np.asarray(at) for field, at in reads.items()}
            if (row := run.observation.rows.get(watched)) is not None:
                outputs["window"] = words_of(run.windows[row])
            try:
                told[watched] = watched[1].read(outputs)
            except NotFinite as error:
                raise CalibrationError(
                    f"{sample.name}: {watched[0]!r} holds {error} when the model runs on it; leave the sample out, or "
                    "the layers that this value is for"
                ) from None
        return told

    def _merge(self, told: Mapping[Watched, State]) -> None:
        for watched, state in told.items():
            known = self._states.get(watched)
            self._states[watched] = state if known is None else watched[1].merge(known, state)

    # -- what is known ------------------------------------------------------------------------------------------------

    def ranges(self, method: Method | str = "minmax") -> dict[str, Range]:
        """The range of each point by `method` (see `ranges.METHODS`). Points that never had an element are left out.

        CalibrationWarning names those whose samples differ wildly. Raises CalibrationError where a point has no
        observer that the method needs, and where no sample has been seen.
        """
        chosen = read_method(method)
        self._require_samples()
        found: dict[str, Range] = {}
        wild: list[str] = []
        for name in self._points:
            evidence = self._evidence(name, chosen)
            if evidence.low.size:
                found[name] = chosen.choose(evidence)
                if _is_wild(evidence):
                    wild.append(name)
        if wild:
            shown = ", ".join(map(repr, wild[:4])) + (f" and {len(wild) - 4} more" if len(wild) > 4 else "")
            warnings.warn(
                f"some samples have values more than {WILD:g} times as large as most do, in {shown}: look whether they "
                "are such as the model is meant for, or let the percentile method cut them off",
                CalibrationWarning,
                stacklevel=2,
            )
        return found

    def channel_ranges(self, name: str, axis: int) -> tuple[Range, ...]:
        """From the smallest to the largest value of each channel along `axis`, which an `Extremes` of that axis has
        observed. Raises CalibrationError without one, and where channels had no elements."""
        state = self.state(name, Extremes(axis))
        if not state["low"].shape[0]:
            raise CalibrationError(f"{name!r} has had no elements: give samples that are not empty")
        lows, highs = state["low"].min(0).tolist(), state["high"].max(0).tolist()
        return tuple(Range(low, high) for low, high in zip(lows, highs, strict=True))

    def magnitudes(self, name: str, axis: int | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The largest and the mean magnitude of each channel, [channels] each, which a `Magnitude` has observed; zeros
        where there were no elements."""
        state = self.state(name, Magnitude(axis))
        return state["largest"].astype(np.float64), state["sum"] / max(int(state["count"]), 1)

    def moments(self, name: str, axis: int | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and variance of each channel, [channels] each, which a `Moments` has observed; zeros where there were no
        elements."""
        state = self.state(name, Moments(axis))
        count = max(int(state["count"]), 1)
        mean = state["sum"] / count
        return mean, np.maximum(state["squares"] / count - np.square(mean), 0)

    def second_moment(self, name: str, axis: int = -1) -> tuple[NDArray[np.float64], int]:
        """XᵀX [channels, channels] of all rows along `axis`, and how many rows there were, which a `SecondMoment` has
        observed."""
        state = self.state(name, SecondMoment(axis))
        return state["product"], int(state["count"])

    def histogram(self, name: str, bins: int = 2048) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Counts [bins] and edges [bins + 1], which a `Histogram` of so many bins has observed."""
        state = self.state(name, Histogram(bins))
        return state["counts"], window_in(state).edges

    def state(self, name: str, observer: Observer) -> State:
        """All that `observer` knows of a point. Raises CalibrationError where it does not observe it, or has seen
        nothing."""
        if name not in self._points:
            raise CalibrationError(f"no value {name!r} is observed; there are {', '.join(list(self._points)[:8])}")
        try:
            watched = name, observer.located(self._points[name].rank)
        except ValueError as error:
            raise CalibrationError(f"{observer} of {name!r}: {error}") from None
        if watched[1] not in self._observers[name]:
            has = ", ".join(map(str, self._observers[name])) or "none"
            raise CalibrationError(f"{name!r} has the observers {has}; {watched[1]} is needed for this")
        self._require_samples()
        return self._states[watched]

    def _evidence(self, name: str, method: Method) -> Evidence:
        has = self._observers[name]
        histogram = next((each for each in has if isinstance(each, Histogram)), None)
        if histogram is None and method.needs_histogram:
            raise CalibrationError(f"{name!r} has no histogram, which {method} needs: observe it with Histogram()")
        if Extremes() in has:
            state = self._states[name, Extremes()]
            low, high = state["low"][:, 0], state["high"][:, 0]
        elif histogram is not None and not method.needs_samples:
            state = self._states[name, histogram]
            kept = state["low"] <= state["high"]
            low, high = state["low"][kept], state["high"][kept]
        else:
            raise CalibrationError(f"{name!r} has no record of its extremes, which {method} needs: add Extremes()")
        if histogram is None:
            return Evidence(low, high)
        state = self._states[name, histogram]
        return Evidence(low, high, state["counts"], window_in(state))

    def _require_samples(self) -> None:
        if not self._samples:
            raise CalibrationError("no sample has been seen: call update() with some")

    # -- states -------------------------------------------------------------------------------------------------------

    def merge(self, other: Calibration) -> None:
        """Add what `other`, a calibration of the same model with the same observers, has seen after what this one has.
        Raises CalibrationError."""
        if other.digest != self.digest:
            raise CalibrationError("calibrations of different models, values or observers cannot be put together")
        self._merge(other._states)
        self._samples += other._samples
        if self._run is not None:
            self._run.follow(self._states)

    def save(self, path: str | Path) -> None:
        """Write what is known to `path`, an .npz without Python objects; it appears complete or not at all."""
        states = [self._states[each] for each in self._watched()] if self._samples else []
        write_states(Path(path), self.digest, self._samples, states)

    @classmethod
    def load(
        cls,
        path: str | Path,
        graph: Graph,
        points: Mapping[str, Value],
        observers: Observers = DEFAULT,
        *,
        threads: int | None = None,
    ) -> Calibration:
        """The calibration that `save` wrote, to go on with. The other arguments are those it was made with; raises
        CalibrationError where it is of another model or of other observers, and for a file that is damaged."""
        made = cls(graph, points, observers, threads=threads)
        watched = made._watched()
        wanted = [(each, _channels_of(points[name], each)) for name, each in watched]
        made._samples, states = read_states(Path(path), made.digest, wanted)
        made._states = dict(zip(watched, states, strict=True)) if made._samples else {}
        return made

    def _watched(self) -> list[Watched]:
        return [(name, each) for name, found in self._observers.items() for each in found]


class _Run:
    """The compiled model with its observers. `windows` are those in which histograms are counted in the next run."""

    def __init__(self, observation: Observation, threads: int | None) -> None:
        self.observation = observation
        artifact = compile(observation.graph, target="native", pipeline=Pipeline(()))
        self.session: Session = artifact.session(threads=threads)
        self._counted = dict(sorted((row, watched) for watched, row in observation.rows.items()))
        reads = [observation.reads[watched] for watched in self._counted.values()]
        self._lows, self._highs = ([str(each[end]) for each in reads] for end in ("low", "high"))
        self.windows: list[Window] = []
        self.follow({})

    def follow(self, states: Mapping[Watched, State]) -> None:
        """Count where these states did."""
        self._count_in(
            [
                window_in(states[watched]) if watched in states else _bins(watched).window_for(None, 0.0, 0.0)
                for watched in self._counted.values()
            ]
        )

    def _count_in(self, windows: list[Window]) -> None:
        self.windows = windows
        self._words = np.array([(2.0**-each.exponent, each.first) for each in windows], np.float32)
        self._ends = np.array([each.edges[[0, -1]] for each in windows]).reshape(-1, 2)

    def widen(self, states: Mapping[Watched, State], found: Arrays) -> bool:
        """Make the windows hold the extremes of a run too; whether one had to change."""
        if not self._counted:
            return False
        low, high = (np.concatenate([found[name] for name in names]) for names in (self._lows, self._highs))
        outside = ((low < self._ends[:, 0]) | (high >= self._ends[:, 1])) & np.isfinite(low) & np.isfinite(high)
        if not outside.any():
            return False
        windows = list(self.windows)
        for row in np.flatnonzero(outside).tolist():
            watched = self._counted[row]
            windows[row] = _bins(watched).window_for(states.get(watched), float(low[row]), float(high[row]))
        self._count_in(windows)
        return True

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
        """All outputs for a sample."""
        windows = self.observation.windows
        return self.session.run(arrays if windows is None else {**arrays, windows: self._words})


def _silent(message: str) -> None:
    """Where progress goes when nobody asked for it."""


def _channels_of(value: Value, observer: Observer) -> int:
    """How many channels of `value` an observer sees."""
    axis = observer.channel_axis()
    extent = 1 if axis is None else value.shape[axis]
    assert isinstance(extent, int)
    return extent


def _bins(watched: Watched) -> Histogram:
    assert isinstance(watched[1], Histogram)
    return watched[1]


def _is_wild(evidence: Evidence) -> bool:
    """Whether a sample has values far larger than most samples have."""
    largest = np.maximum(np.abs(evidence.low), np.abs(evidence.high)).astype(np.float64)
    middle = float(np.median(largest))
    return middle > 0 and float(largest.max()) > WILD * middle
