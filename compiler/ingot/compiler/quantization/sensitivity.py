"""What each scheme costs and brings at each layer, the others as they are: error, bytes and time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.tables import LookupTable, Part
from ingot.compiler.quantization.emulation import Emulation
from ingot.compiler.quantization.plan import LayerPlan
from ingot.compiler.quantization.timing import Timer
from ingot.runtime.replacement import replaced

Arrays = Mapping[str, NDArray[Any]]
FEW = 8  # samples that single layers are judged on
Metric: TypeAlias = Callable[[Sequence[Arrays]], float]
"""A task's metric, the larger the better, of the outputs of a model for all held-out samples in order."""


@dataclass(frozen=True)
class Score:
    """How good a model is on held-out samples. `error` is the root of the share of the outputs' energy that is error,
    the worst of all float outputs; NaN where values are not finite. `metric` is the task's."""

    error: float
    metric: float | None = None

    @property
    def snr(self) -> float:
        """The ratio of signal to noise in decibels, infinite without noise."""
        return math.inf if self.error == 0 else -20 * math.log10(self.error) if self.error > 0 else math.nan


class Judge:
    """Measures models on held-out samples against what the model as it was gives for them."""

    def __init__(self, emulation: Emulation, samples: Sequence[Arrays], metric: Metric | None = None) -> None:
        self.emulation, self.samples, self.metric = emulation, samples, metric
        feeds = emulation.feeds({})
        self._want = [self._outputs(sample, feeds) for sample in samples]
        self.floats = [name for name, value in emulation.graph.outputs if value.dtype.is_float]
        self.before = self.score(self._want)

    def emulated(self, plans: Mapping[Part, LayerPlan], *, few: bool = False) -> Score:
        """That of the model with these plans for its layers; with `few` of the first samples alone, without the metric
        where there are more."""
        feeds = self.emulation.feeds(plans)
        return self.score([self._outputs(sample, feeds) for sample in self.samples[: FEW if few else None]])

    def score(self, have: Sequence[Arrays]) -> Score:
        """That of other outputs for the same samples, or for the first of them; the metric is one of all."""
        error = 0.0
        for name in self.floats:
            signal = noise = 0.0
            for one, other in zip(self._want, have, strict=False):
                wide = one[name].astype(np.float64)
                signal += float(np.square(wide).sum())
                noise += float(np.square(other[name].astype(np.float64) - wide).sum())
            if not (math.isfinite(signal) and math.isfinite(noise)):
                return Score(math.nan, self._metric(have))
            error = max(error, math.sqrt(noise / signal) if signal else math.inf if noise else 0.0)
        return Score(error, self._metric(have))

    def _metric(self, have: Sequence[Arrays]) -> float | None:
        return None if self.metric is None or len(have) < len(self._want) else float(self.metric(have))

    def _outputs(self, sample: Arrays, feeds: Arrays) -> Arrays:
        return {name: np.array(data) for name, data in self.emulation.run(sample, feeds).items()}


@dataclass(frozen=True)
class Sensitivity:
    """One layer under one plan, all others as they are: the bytes of its weights, and the seconds that the layer takes
    (see `timing.Native`; None where they are not measured), beside those of f32."""

    layer: str
    plan: LayerPlan
    error: float
    snr: float
    metric: float | None
    bytes_before: int
    bytes: int
    seconds_before: float | None
    seconds: float | None


@dataclass(frozen=True)
class Table:
    """The sensitivities of all layers, in order."""

    rows: tuple[Sensitivity, ...]

    def text(self) -> str:
        """A line for each layer and scheme."""
        head = ("layer", "scheme", "SNR dB", "error", "metric", "bytes", "now", "f32 µs", "µs")
        cells = [head, *map(_cells, self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        lines = (
            "  ".join(cell.ljust(widths[i]) if i < 2 else cell.rjust(widths[i]) for i, cell in enumerate(row))
            for row in cells
        )
        return "\n".join(map(str.rstrip, lines)) + "\n"

    def record(self) -> list[dict[str, Any]]:
        """The rows as JSON can hold them; what is infinite or unknown is null."""
        found: list[dict[str, Any]] = []
        for row in self.rows:
            values: dict[str, Any] = asdict(row) | {"plan": row.plan.scheme}
            found.append({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()})
        return found

    def save(self, path: str | Path) -> None:
        """Write the text, or where the name ends in ``.json`` that. Raises OSError."""
        is_json = Path(path).suffix == ".json"
        text = json.dumps(self.record(), indent=1, allow_nan=False) + "\n" if is_json else self.text()
        with replaced(Path(path)) as partial:
            partial.write_text(text, encoding="utf-8")


def sensitivities(
    judge: Judge,
    candidates: Mapping[Part, Sequence[LayerPlan]],
    *,
    timer: Timer | None,
    progress: Callable[[str], None],
    is_over: Callable[[], bool] = lambda: False,
) -> Table:
    """The table for the candidates of each layer; times where there is a timer. Layers that are still to come when
    `is_over` says so are left out, and so are plans that a layer's weights do not allow."""
    rows: list[Sensitivity] = []
    for number, (layer, plans) in enumerate(candidates.items(), 1):
        if is_over():
            break
        progress(f"layer {number} of {len(candidates)}: {layer.name}")
        possible = [plan for plan in plans if _is_possible(judge.emulation, layer, plan)]
        if not possible:
            continue
        times = None
        if timer is not None and not isinstance(layer, LookupTable):
            times = timer.layers(layer, [LayerPlan("f32"), *possible])
        before = judge.emulation.variant(layer, LayerPlan("f32")).weights.nbytes
        for place, plan in enumerate(possible, 1):
            stored = judge.emulation.variant(layer, plan).stored
            score = judge.emulated({layer: plan}, few=True)
            rows.append(
                Sensitivity(
                    layer.name,
                    plan,
                    score.error,
                    score.snr,
                    score.metric,
                    before,
                    before if stored is None else stored.bytes,
                    None if times is None else times[0],
                    None if times is None else times[place],
                )
            )
    return Table(tuple(rows))


def _is_possible(emulation: Emulation, layer: Part, plan: LayerPlan) -> bool:
    try:
        emulation.variant(layer, plan)
    except QuantisationError:
        return False
    return True


def _cells(row: Sensitivity) -> tuple[str, ...]:
    metric = "" if row.metric is None else f"{row.metric:.4f}"
    times = ("" if t is None else f"{t * 1e6:.1f}" for t in (row.seconds_before, row.seconds))
    snr = "exact" if row.snr == math.inf else f"{row.snr:.1f}"
    return (
        row.layer,
        row.plan.scheme,
        snr,
        f"{row.error:.2e}",
        metric,
        str(row.bytes_before),
        str(row.bytes),
        *times,
    )
