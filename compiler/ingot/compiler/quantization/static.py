"""The scheme int8: ranges from samples, and where 8 bits prove to be too few, what helps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.layers import Layer, Selection, layers_of
from ingot.compiler.passes.quantize.tables import Part
from ingot.compiler.quantization.balanced import balanced
from ingot.compiler.quantization.emulation import Emulation
from ingot.compiler.quantization.made import Made
from ingot.compiler.quantization.mixture import Mixture, Seen, seen_ranges
from ingot.compiler.quantization.plan import LayerPlan
from ingot.compiler.quantization.sensitivity import Judge

if TYPE_CHECKING:
    from ingot.compiler.calibration import Sample

Arrays = Mapping[str, NDArray[Any]]
JUDGED = 4  # samples that noise is measured on
BALANCED = 16  # samples that show which channels are much larger than others
NAMED = 4  # layers that a note names
INT8 = LayerPlan("int8")


class Samples(Protocol):
    """Samples of which the first may be asked for before all are read."""

    def head(self, count: int) -> list[Sample]:
        """The first ones."""
        ...

    def read(self) -> Iterable[Sample]:
        """All."""
        ...


@dataclass(frozen=True)
class Care:
    """Where all layers in int8 take an output below `least_snr` decibels of signal over noise on samples, channels of
    very different sizes are divided (with `balance`), and then the layers that do so by themselves stay in floats.
    Without a bound nothing is measured."""

    least_snr: float | None
    balance: bool


def static(
    graph: Graph,
    selection: Selection,
    mixture: Mixture,
    samples: Samples,
    method: str,
    care: Care,
    correct_biases: bool,
    tell: Callable[[str], None],
) -> tuple[Made, bool]:
    """`graph` with the selected layers in int8, and whether channels were divided. Raises QuantisationError where no
    layer is left, and what calibration raises."""

    tried = _Attempt.of(graph, selection, mixture, samples, method, correct_biases, tell)
    if care.least_snr is None:
        return tried.made({}), False
    notes: list[str] = []
    tell("measuring the noise of 8 bits")
    arrays = [sample.arrays for sample in samples.head(JUDGED)]
    judge = tried.judge(arrays)
    before = judge.emulated(tried.plans)
    if before.snr < care.least_snr and care.balance:
        weights = mixture.static.weights
        changed, scaled = balanced(graph, tried.layers, samples.head(BALANCED), weights, tell)
        if scaled:
            other = _Attempt.of(changed, selection, mixture, samples, method, correct_biases, tell)
            tell("measuring the noise of 8 bits again")
            better = other.judge(arrays)
            after = better.emulated(other.plans)
            if after.snr > before.snr:
                judge, better, tried, before = better, judge, other, after
                notes.append(_of_channels(scaled))
            better.emulation.close()
    noisy: dict[Layer, float] = {}
    if before.snr < care.least_snr:
        for number, layer in enumerate(tried.layers, 1):
            tell(f"noise of layer {number} of {len(tried.layers)}: {layer.name}")
            snr = judge.emulated({layer: INT8}).snr
            if snr < care.least_snr:
                noisy[layer] = snr
        if noisy:
            notes.append(_of_noise(noisy, care.least_snr, len(tried.layers)))
    judge.emulation.close()
    made = tried.made(noisy)
    return dataclasses.replace(made, notes=(*made.notes, *notes)), tried.graph is not graph


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A graph with all its layers, those that are to be in int8, and what samples tell of it."""

    graph: Graph
    every: tuple[Layer, ...]
    layers: tuple[Layer, ...]
    mixture: Mixture
    seen: Seen

    @staticmethod
    def of(
        graph: Graph,
        selection: Selection,
        mixture: Mixture,
        samples: Samples,
        method: str,
        correct_biases: bool,
        tell: Callable[[str], None],
    ) -> _Attempt:
        """That of a graph whose ranges are not known yet."""
        every = layers_of(graph)
        layers = selection.among(every)
        placement = mixture.placement(graph, dict.fromkeys(layers, INT8))
        seen = seen_ranges(graph, placement, samples.read, method, correct_biases=correct_biases, progress=tell)
        return _Attempt(graph, every, layers, mixture, seen)

    @property
    def plans(self) -> dict[Part, LayerPlan]:
        """All layers in int8."""
        return dict.fromkeys(self.layers, INT8)

    def judge(self, samples: Sequence[Arrays]) -> Judge:
        """Measures the noise of layers."""
        return Judge(Emulation(self.graph, self.layers, self.mixture, self.seen, threads=1), samples)

    def made(self, without: Collection[Part]) -> Made:
        """The graph in int8, but for some layers."""
        plans = {layer: plan for layer, plan in self.plans.items() if layer not in without}
        return self.mixture.made(self.graph, self.every, plans, self.seen)


def _of_channels(scaled: Mapping[str, float]) -> str:
    """What is said of operands whose channels were divided."""
    count = f"channels of the operands of {len(scaled)} layers were divided, as their sizes differ too much"
    return f"{count}: {_worst({name: -gain for name, gain in scaled.items()})}"


def _of_noise(noisy: Mapping[Layer, float], least: float, count: int) -> str:
    """What is said of layers that are left in floats. Raises QuantisationError where these are all."""
    shown = _worst({layer.name: snr for layer, snr in noisy.items()})
    what = f"each by itself takes an output below {least:g} dB: {shown}"
    if len(noisy) == count:
        raise QuantisationError(f"no layer is left for 8 bits, as {what}: take a lower least_snr, or another scheme")
    return f"{len(noisy)} layers stay in floats, as {what}"


def _worst(decibels: Mapping[str, float]) -> str:
    """The names with the lowest ratios, which are told without their signs."""
    most = sorted(decibels, key=lambda name: decibels[name])
    shown = ", ".join(f"{name} ({abs(decibels[name]):.0f} dB)" for name in most[:NAMED])
    return shown + (", ..." if len(most) > NAMED else "")
