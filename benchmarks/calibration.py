# The peer is optional and comes without types.
# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
"""How fast a model is calibrated, beside the model's own run time and ONNX Runtime's calibrators.

    python -m benchmarks.calibration [--model mobilenet_v2_224_fp32] [--samples 16] [--rounds 3]

MobileNetV2 on the pictures that lie with it. One core, process CPU time, interleaved rounds; what stands there is the
median over rounds and the fastest. Ours observe every value whose range static quantisation needs, the peer's every
output of a Conv, MatMul, Gemm and Add as its quantiser asks for. Compiling and loading are left out, and so is choosing
ranges from what was collected but for the peer's, which computes histograms of the entropy method only then.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmarks.models import models_folder
from ingot.compiler import Pipeline, compile, default_pipeline, load_onnx
from ingot.compiler.calibration import Calibration, Extremes, Histogram, read_samples
from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes.quantize.points import points

Sample = Mapping[str, NDArray[Any]]
CORE = ("simplify", "recognise", "fold_norm")


def pictures(graph: Graph, count: int) -> list[Sample]:
    """Samples of MobileNetV2."""
    folder = models_folder() / "_data" / "dev" / "imagenet"
    (label,) = (x.label for x in graph.inputs)
    found = read_samples(folder, graph, preprocess={label: "image:signed"}, limit=count)
    return [sample.arrays for sample in found]


def ours(graph: Graph, observers: Sequence[Any], samples: Sequence[Sample]) -> Callable[[], object]:
    """Something that calibrates on all samples, ready to go; what is known grows from call to call."""
    calibration = Calibration(graph, points(graph), observers, threads=1)
    calibration.update(samples[:1])
    return lambda: calibration.update(samples)


def theirs(model: Path, method: str, samples: Sequence[Sample], folder: Path) -> Callable[[], object]:
    """The same with ONNX Runtime's calibrator of that name."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> Any:
            return next(self.left, None)

    calibrator = create_calibrator(
        model,
        op_types_to_calibrate=["Conv", "MatMul", "Gemm", "Add"],
        augmented_model_path=str(folder / f"{method}.onnx"),
        calibrate_method=CalibrationMethod[method],
    )

    def calibrate() -> None:
        calibrator.collect_data(Reader())
        calibrator.compute_data()
        calibrator.clear_collected_data()

    return calibrate


def measured(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of CPU time of each call in each round, the rounds interleaved after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):
        for name, call in calls.items():
            started = time.process_time()
            call()
            if index:
                times[name].append(time.process_time() - started)
    return times


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2_224_fp32")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    path = models_folder() / options.model / "model.onnx"
    graph = Pipeline([item for item in default_pipeline() if item.name in CORE]).run(load_onnx(path, watch=True))
    samples = pictures(graph, options.samples)
    session = compile(graph, target="native").session(threads=1)
    calls: dict[str, Callable[[], object]] = {"the model alone": lambda: [session.run(sample) for sample in samples]}
    calls["minmax"] = ours(graph, [Extremes()], samples)
    calls["minmax, histograms"] = ours(graph, [Extremes(), Histogram()], samples)
    with tempfile.TemporaryDirectory() as folder:
        for method in ("MinMax", "Entropy"):
            calls[f"ONNX Runtime, {method}"] = theirs(path, method, samples, Path(folder))
        times = measured(calls, options.rounds)
    alone = statistics.median(times["the model alone"])
    print(f"{options.model}: {len(samples)} samples, {len(points(graph))} values observed")
    print("| | samples/s | fastest | time over the model's |\n|---|---|---|---|")
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"| {name} | {len(samples) / middle:.1f} | {len(samples) / min(found):.1f} | {middle / alone:.2f} |")


if __name__ == "__main__":
    main()
