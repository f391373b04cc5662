"""Calibration: what values a model computes on data, observed while its compiled code runs.

    calibration = Calibration(graph, points, [Extremes(), Histogram()])
    calibration.update(read_samples("images/", calibration.inputs, preprocess={"input": "image:imagenet"}))
    calibration.ranges("entropy")

Observers are further outputs of one compiled artifact, made of the graph's own operators; see docs/calibration.md.
"""

from __future__ import annotations

from ingot.compiler.calibration.calibration import Calibration
from ingot.compiler.calibration.errors import CalibrationError, CalibrationWarning
from ingot.compiler.calibration.observers import (
    Extremes,
    Histogram,
    Magnitude,
    Moments,
    Observer,
    SecondMoment,
)
from ingot.compiler.calibration.ranges import Entropy, Method, MinMax, MovingAverage, Percentile, SquaredError
from ingot.compiler.calibration.samples import Sample, read_samples

__all__ = [
    "Calibration",
    "CalibrationError",
    "CalibrationWarning",
    "Entropy",
    "Extremes",
    "Histogram",
    "Magnitude",
    "Method",
    "MinMax",
    "Moments",
    "MovingAverage",
    "Observer",
    "Percentile",
    "Sample",
    "SecondMoment",
    "SquaredError",
    "read_samples",
]
