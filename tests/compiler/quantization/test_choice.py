"""Mixed precision: bounds that hold for the whole, the cheapest layers first, and bounds that cannot be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.compiler.quantization.test_plan import ids, matrices, rows, words
from tests.compiler.quantization.test_schemes import network, samples_of

from ingot.compiler import Artifact, QuantisationError, load_onnx, quantize
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.quantization import Bound, Choice, choose, top1
from ingot.compiler.quantization.plan import LayerPlan


def chosen(model: Any, data: Any, **options: Any) -> Choice:
    """A choice whose report is not measured."""
    return choose(model, data, measure=False, **options)


class Times:
    """Given times of layers in each scheme, in microseconds (those of f32 are 10), and of the whole."""

    def __init__(self, times: Mapping[str, float], whole: Sequence[float] = (2.0, 1.0)) -> None:
        self.times, self.whole = times, whole

    def layers(self, layer: Layer, plans: Sequence[LayerPlan]) -> Sequence[float]:
        own = {**self.times, "f32": 10.0}
        return [1e-6 * own.get(f"{layer.names[-1]} {plan.scheme}", own.get(plan.scheme, 20.0)) for plan in plans]

    def models(self, artifacts: Sequence[Artifact]) -> Sequence[float]:
        return [*self.whole, *[self.whole[-1]] * len(artifacts)][: len(artifacts)]


def delicate() -> onnx.ModelProto:
    """The products `m2` and `m3` have weights of which one in each column is as large as a thousand others."""
    proto = matrices()
    for each in proto.graph.initializer:
        if each.name in ("w2", "w3"):
            data = numpy_helper.to_array(each).copy()
            data[0] *= 1000
            data[:, 0] = 0
            each.CopyFrom(numpy_helper.from_array(data, each.name))
    return proto


def error_of(graph: Graph, proto: onnx.ModelProto, samples: Sequence[Mapping[str, Any]]) -> float:
    want, have = (np.stack([evaluate_graph(g, s)["y"] for s in samples]) for g in (load_onnx(proto), graph))
    return float(np.sqrt(np.square(have - want).sum() / np.square(want).sum()))


@pytest.mark.parametrize(("bound", "count"), [(0.01, 1), (0.02, 3)])
def test_the_whole_keeps_the_bound(bound: float, count: int) -> None:
    """As many layers are in int8, which is faster than fp16, as the bound allows."""
    proto, judged = matrices(), rows(5)[3:]
    found = chosen(proto, rows(3), held_out=judged, bound=Bound(error=bound), timer=Times({"int8": 5, "fp16": 8}),
                   schemes=("int8", "fp16"))  # fmt: skip
    assert found.is_met and found.quantized is not None and found.seconds == (2.0, 1.0)
    error = error_of(found.quantized.graph, proto, judged)
    assert error <= bound and found.score.error == pytest.approx(error, rel=0.05)
    schemes = [each.scheme for each in found.plan.layers.values()]
    assert schemes.count("int8") == count and schemes.count("fp16") == 4 - count
    worst = max((row for row in found.table.rows), key=lambda row: row.error)
    assert found.plan.layers[worst.layer].scheme == "fp16"
    again = quantize(proto, rows(3), plan=found.plan, measure=False)
    np.testing.assert_array_equal(
        evaluate_graph(again.graph, judged[0])["y"], evaluate_graph(found.quantized.graph, judged[0])["y"]
    )


def test_layers_that_are_not_faster_stay() -> None:
    timer = Times({"int8": 5, "m2 int8": 9.9, "m3 int8": 12})
    found = chosen(matrices(), rows(6), bound=Bound(error=0.5), timer=timer, schemes=("int8",))
    schemes = {name: each.scheme for name, each in found.plan.layers.items()}
    assert schemes == {"MatMul:m1": "int8", "MatMul:m2": "f32", "MatMul:m3": "f32", "MatMul:y": "int8"}
    assert found.plan.layers["MatMul:m3"].reason == "no scheme is faster: int8 takes 12.0 µs, f32 10.0 µs"
    assert "int8 takes 5.0 µs, f32 10.0 µs" in found.plan.layers["MatMul:m1"].reason
    assert len(found.table.rows) == 4 and found.text().endswith("f32\n")


def test_of_several_mixtures_the_fastest_is_taken() -> None:
    """Those with layers in integers that are no faster by themselves, and without those that are hardly faster."""
    options: dict[str, Any] = {"bound": Bound(error=0.5), "schemes": ("int8",)}
    times = {"int8": 5, "m1 int8": 9, "m2 int8": 12}
    full = chosen(matrices(), rows(6), timer=Times(times, (2.0, 1.5, 1.2, 1.4)), **options)
    assert full.seconds == (2.0, 1.2) and {each.scheme for each in full.plan.layers.values()} == {"int8"}
    assert "f32 10.0 µs, yet the whole is faster with it" in full.plan.layers["MatMul:m2"].reason
    clear = chosen(matrices(), rows(6), timer=Times(times, (2.0, 1.5, 1.6, 1.4)), **options)
    assert [each.scheme for each in clear.plan.layers.values()] == ["f32", "f32", "int8", "int8"]
    assert clear.plan.layers["MatMul:m1"].reason == "the whole is faster without: int8 takes 9.0 µs, f32 10.0 µs"
    options["bound"] = bound = Bound(error=0.99 * full.score.error)
    tight = chosen(matrices(), rows(6), timer=Times(times, (2.0, 1.5, 1.2, 1.4)), **options)
    assert bound.error is not None and tight.score.error <= bound.error


def test_a_whole_that_is_slower_is_not_taken() -> None:
    found = chosen(matrices(), rows(6), bound=Bound(error=0.5), timer=Times({"int8": 5}, (1.0, 1.1)), schemes=("int8",))
    assert not found.is_met and "the whole is not faster" in found.notes[-1]
    slow = chosen(matrices(), rows(6), bound=Bound(error=0.5), timer=Times({}), schemes=("int8",))
    assert not slow.is_met and slow.quantized is None and slow.notes[0].startswith("no layer is faster")
    assert {each.scheme for each in slow.plan.layers.values()} == {"f32"}


def test_size() -> None:
    """Few bits where they do not hurt; nothing is timed."""
    found = chosen(delicate(), rows(6), bound=Bound(error=0.05), objective="size", method="minmax")
    assert found.is_met and found.seconds is None and found.quantized is not None
    assert found.score.error <= 0.05 and all(row.seconds is None for row in found.table.rows)
    sizes = [layer.bytes_after for layer in found.quantized.report.layers]
    assert sum(sizes) < 0.5 * 4 * 64 * 64 * 4
    loose = chosen(delicate(), rows(6), bound=Bound(error=0.5), objective="size", method="minmax")
    assert loose.quantized is not None
    assert sum(layer.bytes_after for layer in loose.quantized.report.layers) < sum(sizes)


def test_size_of_tables() -> None:
    found = chosen(words(), ids(6), bound=Bound(error=0.02), objective="size")
    assert found.is_met and found.plan.layers["Gather:e"].scheme == "int8-weights"
    loose = chosen(words(), ids(6), bound=Bound(error=0.3), objective="size", schemes=("int4-weights",))
    assert loose.quantized is not None
    assert {each.scheme for each in loose.plan.layers.values()} == {"int4-weights"}
    assert loose.quantized.report.bytes_after < 0.16 * loose.quantized.report.bytes_before
    fast = chosen(words(), ids(6), bound=Bound(error=0.3), timer=Times({"int8": 5}))
    assert list(fast.plan.layers) == ["MatMul:y"]


def test_a_bound_that_cannot_be_kept() -> None:
    found = chosen(matrices(), rows(6), bound=Bound(error=1e-9), timer=Times({"int8": 5}), schemes=("int8",))
    assert not found.is_met and found.quantized is None and found.seconds is None
    assert "the bound cannot be kept: the best is MatMul:" in found.notes[0]
    assert all(each.reason.startswith("loses too much") for each in found.plan.layers.values())


def test_a_metric() -> None:
    samples = samples_of(9)
    held = samples[6:]
    want = [evaluate_graph(load_onnx(network()), sample)["y"] for sample in held]
    labels = np.concatenate([each.reshape(-1, 6).argmax(-1) for each in want])
    found = chosen(network(), samples[:6], held_out=held, bound=Bound(drop=0.2), metric=top1(labels),
                   timer=Times({"int8": 5}))  # fmt: skip
    assert found.before.metric == 1.0 and found.score.metric is not None and found.score.metric >= 0.8
    assert found.is_met and "a drop of 20.00% allowed" in found.notes[0]
    with pytest.raises(QuantisationError, match="there are 3 labels for 72 rows"):
        chosen(network(), samples, held_out=held, bound=Bound(drop=0.2), metric=top1([1, 2, 3]), timer=Times({}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": Bound(drop=0.01)}, "a drop is one of a metric"),
        ({"objective": "speed"}, "no objective 'speed': take latency or size"),
        ({"schemes": ("int9",)}, "'int9' is no scheme to choose from: take int8"),
        ({"samples": 2}, "three samples are needed"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"bound": Bound(error=0.1), "timer": Times({}), **options}
    with pytest.raises(QuantisationError, match=message):
        chosen(network(), samples_of(4), **given)


@pytest.mark.parametrize("values", [(None, None), (0.1, 0.1), (0.0, None), (float("nan"), None)])
def test_bounds(values: tuple[float | None, float | None]) -> None:
    with pytest.raises(QuantisationError, match="bound"):
        Bound(*values)
