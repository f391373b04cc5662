"""Products and convolutions with sparse weights: ``python -m benchmarks.sparse [--only 768x3072] [--tokens 128]
[--conv] [--models bert_base resnet50] [--together 4] [--threads 2] [--target native]``.

One layer with random weights of which a share is zero, at random places, or in blocks of `--together` neighbouring
columns, beside the same layer with dense weights: here, in ONNX Runtime and in OpenVINO, which do not look at zeros.
Calls take turns; what is shown is microseconds of the dense layer (medians of a thread's processor time) and how many
times as fast the sparse ones are. With ``--sparse auto`` layers are left dense where the cost model thinks so.
``--models`` are those of `benchmarks.zoo` with constant matrices and filters in which elements at random places are
zero: what they compute is of no use, how long it takes is that of pruned ones.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import zoo
from ingot.compiler import compile
from ingot.compiler.bench.engines import PEERS
from ingot.compiler.bench.interleave import Sampler, interleave_samplers

Array = NDArray[Any]
LARGE = 4096  # elements of a weight of a model that is made sparse
SHAPES = ((384, 384), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768))
TOKENS = (1, 8, 128, 512)
RATES = (50, 60, 70, 80, 90, 95)
# height and width, channels, filters, taps of a side
CONVS = (
    (56, 64, 256, 1),
    (28, 128, 512, 1),
    (28, 512, 128, 1),
    (14, 256, 1024, 1),
    (14, 1024, 256, 1),
    (7, 512, 2048, 1),
    (14, 96, 576, 1),
    (14, 576, 96, 1),
    (56, 64, 64, 3),
    (28, 128, 128, 3),
    (14, 256, 256, 3),
    (7, 512, 512, 3),
)


@dataclass(frozen=True)
class Layer:
    """A product [rows, depth] by [depth, columns] and a bias, or with `taps` a convolution of a square of `rows`, and a
    Relu."""

    rows: int
    depth: int
    columns: int
    taps: int = 0

    def __str__(self) -> str:
        if self.taps:
            return f"{self.taps}x{self.taps}, {self.depth}-{self.columns} @{self.rows}"
        return f"{self.rows} x {self.depth} x {self.columns}"

    @property
    def input_shape(self) -> list[int]:
        """The shape of x."""
        return [1, self.depth, self.rows, self.rows] if self.taps else [self.rows, self.depth]

    def model(self, rate: float, together: int) -> onnx.ModelProto:
        """The layer with weights of which the share `rate` is zero."""
        rng = np.random.default_rng(0)
        inner = self.depth * max(self.taps, 1) ** 2
        w = rng.standard_normal((inner, self.columns), np.float32) / np.float32(math.sqrt(inner))
        kept = np.repeat(rng.random((inner, -(-self.columns // together))) >= rate, together, 1)
        w *= kept[:, : self.columns]
        pads: dict[str, Any] = {"pads": [self.taps // 2] * 4} if self.taps else {}
        if self.taps:
            w = np.ascontiguousarray(w.T).reshape(self.columns, self.depth, self.taps, self.taps)
        out = [1, self.columns, self.rows, self.rows] if self.taps else [self.rows, self.columns]
        bias = rng.standard_normal(self.columns).astype(np.float32)
        nodes = [
            helper.make_node("Conv" if self.taps else "Gemm", ["x", "w", "b"], ["s"], **pads),
            helper.make_node("Relu", ["s"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.input_shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
            [numpy_helper.from_array(w, "w"), numpy_helper.from_array(bias, "b")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


    @property
    def inputs(self) -> dict[str, Array]:
        """Random numbers."""
        return {"x": np.random.default_rng(1).standard_normal(self.input_shape).astype(np.float32)}


@dataclass(frozen=True)
class Whole:
    """A model of `benchmarks.zoo`."""

    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def inputs(self) -> dict[str, Array]:
        """Those of its row in the tables."""
        return zoo.inputs(self.name, "full")

    def model(self, rate: float, together: int) -> onnx.ModelProto:
        """The model with constant matrices and filters of which the share `rate` is zero."""
        model = onnx.load(str(zoo.place(self.name, "full", "torchscript-17")))
        rng = np.random.default_rng(0)
        read = {node.input[1] for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")}
        for tensor in model.graph.initializer:
            if tensor.name in read and len(tensor.dims) > 1 and math.prod(tensor.dims) >= LARGE:
                w = numpy_helper.to_array(tensor).copy()
                w[rng.random(w.shape) < rate] = 0
                tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
        return model


def own(
    model: onnx.ModelProto, inputs: Mapping[str, Array], target: str, threads: int, sparse: Any
) -> Callable[[], object]:
    """A call of `model` here."""
    shapes = {name: list(array.shape) for name, array in inputs.items()}
    session = compile(model, target=target, sparse=sparse, shapes=shapes).session(threads=threads)
    return session.bind(dict(inputs), session.run(dict(inputs)))


def peer(name: str, model: onnx.ModelProto, inputs: Mapping[str, Array], threads: int) -> Callable[[], object]:
    """A call of `model` in another engine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, str(path))
        engine = PEERS[name](path, threads)
        return engine.bound(inputs) if engine.bound else lambda: engine.run(inputs)


def _sampler(call: Callable[[], object], threads: int) -> Sampler:
    # Peers compute in threads of their own: the time of the process is that of all.
    clock = time.process_time if threads == 1 else time.perf_counter

    def sample(count: int) -> list[float]:
        times: list[float] = []
        for _ in range(count):
            started = clock()
            call()
            times.append(clock() - started)
        return times

    return sample


def measured(layer: Layer | Whole, options: argparse.Namespace) -> tuple[dict[str, float], dict[int, float]]:
    """Median seconds of the dense layer by engine, and of the sparse ones by their rate in per cent."""
    inputs, dense, threads = layer.inputs, layer.model(0.0, 1), options.threads
    samplers = {"ingot": _sampler(own(dense, inputs, options.target, threads, "off"), threads)}
    for name in options.peers:
        samplers[name] = _sampler(peer(name, dense, inputs, threads), threads)
    for rate in options.rates:
        model = layer.model(rate / 100, options.together)
        samplers[str(rate)] = _sampler(own(model, inputs, options.target, threads, options.sparse), threads)
    times = interleave_samplers(samplers, rounds=options.rounds, seconds=0.02, warm_up=0.05)
    medians = {name: timing.median for name, timing in times.items()}
    rates = {rate: medians.pop(str(rate)) for rate in options.rates}
    return medians, rates


Row = tuple[Layer | Whole, Mapping[str, float], Mapping[int, float]]


def report(rows: Iterator[Row], rates: Sequence[int]) -> Iterator[str]:
    """The lines of a table: microseconds of the dense layer by engine, and at each rate how many times as fast the
    sparse one is as it, and as the faster peer."""
    head = True
    for layer, dense, sparse in rows:
        if head:
            yield "| | " + " | ".join([*dense, *(f"{rate} %" for rate in rates)]) + " |"
            yield "|---" * (1 + len(dense) + len(rates)) + "|"
            head = False
        peers = [seconds for name, seconds in dense.items() if name != "ingot"]
        cells = [f"{seconds * 1e6:.0f}" for seconds in dense.values()]
        for rate in rates:
            gain = f"{dense['ingot'] / sparse[rate]:.2f}"
            cells.append(gain + (f" ({min(peers) / sparse[rate]:.1f})" if peers else ""))
        yield f"| {layer} | " + " | ".join(cells) + " |"


def layers(options: argparse.Namespace) -> Sequence[Layer | Whole]:
    """What is to be measured."""
    if options.models:
        return [Whole(name) for name in options.models]
    if options.conv:
        found = [Layer(size, inner, out, taps) for size, inner, out, taps in CONVS]
    else:
        found = [Layer(tokens, k, n) for k, n in SHAPES for tokens in options.tokens]
    return [layer for layer in found if not options.only or options.only.replace("x", " x ") in str(layer)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of the layer's name: 768x3072")
    parser.add_argument("--conv", action="store_true", help="convolutions")
    parser.add_argument("--models", nargs="+", default=[], help="models of benchmarks.zoo instead of layers")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--rates", type=int, nargs="+", default=list(RATES), help="zeros, in per cent")
    parser.add_argument("--together", type=int, default=1, help="neighbouring columns that are zero together")
    parser.add_argument("--sparse", choices=("auto", "on"), default="on")
    parser.add_argument("--target", default="native")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=list(PEERS))
    options = parser.parse_args(arguments)
    for line in report(((layer, *measured(layer, options)) for layer in layers(options)), options.rates):
        print(line, flush=True)


if __name__ == "__main__":
    main()
