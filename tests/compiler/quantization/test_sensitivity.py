"""Sensitivities: what one artifact with switches gives is what each quantised model by itself computes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.compiler.networks import image_network
from tests.compiler.quantization.test_plan import matrices, rows

from ingot.compiler import Artifact, compile, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.passes.quantize.layers import Layer, layers_of
from ingot.compiler.passes.quantize.tables import Part
from ingot.compiler.quantization.emulation import Emulation
from ingot.compiler.quantization.mixture import Mixture, Seen, seen_ranges, seen_statistics
from ingot.compiler.quantization.plan import LayerPlan, is_possible
from ingot.compiler.quantization.schemes import core
from ingot.compiler.quantization.sensitivity import Judge, sensitivities
from ingot.compiler.quantization.timing import Native

SCHEMES = ("int8", "int8-dynamic", "int8-weights", "int4-weights", "fp16")


class Times:
    """Given times: each layer takes one microsecond in f32 and a tenth of it less with every scheme further on."""

    def layers(self, layer: Layer, plans: Sequence[LayerPlan]) -> Sequence[float]:
        return [1e-6 * (1 - i / 10) for i in range(len(plans))]

    def models(self, artifacts: Sequence[Artifact]) -> Sequence[float]:
        return [float(len(artifacts) - i) for i in range(len(artifacts))]


def emulation(proto: Any, samples: list[dict[str, Any]], mixture: Mixture) -> Emulation:
    from ingot.compiler.calibration import read_samples

    graph = core(load_onnx(proto, watch=True))
    layers = layers_of(graph)
    placement = mixture.placement(graph, {layer: LayerPlan("int8") for layer in layers})

    def read() -> Any:
        return read_samples(samples, graph)

    def silent(_: str) -> None: ...

    seen = seen_ranges(graph, placement, read, "minmax", correct_biases=True, progress=silent)
    statistics = seen_statistics(graph, layers, read, silent)
    return Emulation(graph, layers, mixture, Seen(seen.ranges, seen.means, statistics), threads=1)


def images(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(4)
    return [{"x": random.standard_normal((2, 3, 12, 12)).astype(np.float32)} for _ in range(count)]


def close(emulated: Emulation, plans: Mapping[Part, LayerPlan], sample: Mapping[str, Any]) -> None:
    """What is emulated is what the interpreter makes of the quantised graph; where there is more than one grid, single
    values may fall a step further, which need not be so in all rows."""
    made = emulated.mixture.made(emulated.graph, emulated.layers, plans, emulated.seen)
    want = evaluate_graph(made.after, sample)["y"]
    have = emulated.run(sample, emulated.feeds(plans))["y"]
    plain = evaluate_graph(emulated.graph, sample)["y"]
    off, changed = (np.square(each).reshape(len(want), -1).sum(1) for each in (have - want, want - plain))
    assert (off < 1e-4 * changed).all() if len(plans) == 1 else (off < 0.2 * changed).any(), (off, changed)


@pytest.mark.parametrize("everywhere", [False, True])
def test_images(everywhere: bool) -> None:
    emulated = emulation(image_network(np.random.default_rng(0))[0], images(3), Mixture(everywhere=everywhere))
    sample, layers = images(4)[-1], emulated.layers
    close(emulated, dict.fromkeys(layers, LayerPlan("int8")), sample)
    for layer in layers:
        close(emulated, {layer: LayerPlan("int8")}, sample)
    close(emulated, dict.fromkeys(layers[::2], LayerPlan("int8", bits=4)), sample)
    close(emulated, {layers[1]: LayerPlan("int8"), layers[2]: LayerPlan("fp16"), layers[3]: LayerPlan("int8")}, sample)
    emulated.close()


def test_matrices() -> None:
    emulated = emulation(matrices(), rows(3), Mixture())
    for scheme in SCHEMES:
        close(emulated, {layer: LayerPlan(scheme) for layer in emulated.layers}, rows(4)[-1])
    close(emulated, dict(zip(emulated.layers, map(LayerPlan, SCHEMES), strict=False)), rows(4)[-1])
    emulated.close()


def test_table(tmp_path: Path) -> None:
    emulated = emulation(matrices(), rows(3), Mixture())
    judge = Judge(emulated, rows(6)[3:], metric=lambda outputs: -float(np.mean([o["y"].std() for o in outputs])))
    assert judge.before.error == 0 and judge.before.snr == math.inf
    candidates = {
        layer: [LayerPlan(scheme) for scheme in SCHEMES if is_possible(layer, scheme)] for layer in emulated.layers
    }
    table = sensitivities(judge, candidates, timer=Times(), progress=lambda _: None)
    assert len(table.rows) == 4 * 5
    by_scheme = {row.plan.scheme: row for row in table.rows[:5]}
    assert by_scheme["fp16"].error < by_scheme["int8"].error < by_scheme["int4-weights"].error < 0.3
    assert by_scheme["int8"].bytes == 64 * 64 + 64 * 5 and by_scheme["fp16"].bytes == 64 * 64 * 2
    assert by_scheme["int8"].seconds_before == 1e-6 and by_scheme["int8"].seconds == pytest.approx(0.9e-6)
    assert by_scheme["int8"].metric is not None
    many = Judge(emulated, rows(12), metric=lambda outputs: float(len(outputs)))
    some = many.emulated({emulated.layers[0]: LayerPlan("int8")}, few=True)
    assert some.metric is None and 0 < some.error < 0.1
    assert many.emulated({emulated.layers[0]: LayerPlan("int8")}).metric == 12
    table.save(tmp_path / "t.json")
    table.save(tmp_path / "t.txt")
    record = json.loads((tmp_path / "t.json").read_text())
    assert record[0]["layer"] == "MatMul:m1" and record[0]["plan"] == "int8"
    assert len((tmp_path / "t.txt").read_text().splitlines()) == 21
    assert not sensitivities(judge, candidates, timer=None, progress=lambda _: None, is_over=lambda: True).rows
    emulated.close()


def test_times_of_this_machine() -> None:
    """The kernels of a layer are found in every scheme."""
    emulated = emulation(matrices(), rows(2), Mixture())
    graph, layers = emulated.graph, emulated.layers
    timer = Native(graph, [each for each in layers if isinstance(each, Layer)], rows(1)[0], Mixture(), emulated.seen,
                   seconds=0.01)  # fmt: skip
    plans = [LayerPlan("f32"), *map(LayerPlan, SCHEMES)]
    for layer in layers:
        assert isinstance(layer, Layer)
        assert all(time > 0 for time in timer.layers(layer, plans)), layer.name
    emulated.close()
    assert all(time > 0 for time in timer.models([compile(graph, target="native")] * 2))
