"""How far the values of a quantised model are from those of the model, measured on samples with compiled code."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.api import compile
from ingot.compiler.ir.graph import Graph, Value
from ingot.compiler.passes.quantize.grid import Range

Arrays = Mapping[str, NDArray[Any]]
_TAP = "compared {}"


class _Ratio:
    """Sums of squares of a signal and of its noise."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """One more sample."""
        wide = before.astype(np.float64)
        self.signal += float(np.square(wide).sum())
        self.noise += float(np.square(after.astype(np.float64) - wide).sum())

    @property
    def decibels(self) -> float:
        """Infinite without noise, NaN where values are not finite."""
        if self.noise == 0:
            return math.inf
        if not (math.isfinite(self.noise) and math.isfinite(self.signal)):
            return math.nan
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


def compared(
    before: Graph,
    after: Graph,
    pairs: Mapping[str, tuple[Value, Value]],
    ranges: Mapping[str, tuple[Value, Range]],
    samples: Sequence[Arrays],
    progress: Callable[[str], None],
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Ratios of signal to noise in decibels of the model's float outputs, and of `pairs`, values of `before` and of
    `after`, by name; and the shares of `ranges`' values of `before` that lie outside, by name."""
    mine = {name: value for name, (value, _) in pairs.items()} | {f"range {n}": v for n, (v, _) in ranges.items()}
    theirs = {name: value for name, (_, value) in pairs.items()}
    progress("compiling the model with its layers as outputs")
    first, first_names = _tapped(before, mine)
    second, second_names = _tapped(after, theirs)
    floats = [name for name, value in before.outputs if value.dtype.is_float]
    outputs = {name: _Ratio() for name in floats}
    layers = {name: _Ratio() for name in pairs}
    outside, total = dict.fromkeys(ranges, 0), dict.fromkeys(ranges, 0)
    with compile(first, target="native").session() as one, compile(second, target="native").session() as other:
        for number, sample in enumerate(samples, 1):
            progress(f"comparing sample {number} of {len(samples)}")
            have, new = one.run(sample), other.run(sample)
            for name in floats:
                outputs[name].add(have[name], new[name])
            for name in pairs:
                layers[name].add(have[first_names[mine[name]]], new[second_names[theirs[name]]])
            for name, (value, bounds) in ranges.items():
                data = have[first_names[value]]
                total[name] += data.size
                outside[name] += int(np.count_nonzero((data < bounds.low) | (data > bounds.high)))
    shares = {name: outside[name] / total[name] for name in ranges if total[name]}
    return (
        {name: ratio.decibels for name, ratio in outputs.items()},
        {name: ratio.decibels for name, ratio in layers.items()},
        shares,
    )


def _tapped(graph: Graph, values: Mapping[str, Value]) -> tuple[Graph, dict[Value, str]]:
    """`graph` with the values as outputs more, and the outputs' names."""
    taken = {name for name, _ in graph.outputs}
    names: dict[Value, str] = {}
    for value in dict.fromkeys(values.values()):
        name = _TAP.format(len(names))
        while name in taken:
            name += "'"
        names[value] = name
    taps = ((name, value) for value, name in names.items())
    return dataclasses.replace(graph, outputs=(*graph.outputs, *taps), watched={}), names
