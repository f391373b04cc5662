"""What each algorithm of the CPU target is for: ``python -m benchmarks.algorithms [--only winograd,lstm]``.

For each there is a layer on which it should win, computed with it and in the other ways that there are: other schedules
of the same contraction, another pipeline, other options, or lowering without it. One thread, its CPU time; calls on
fixed buffers take turns, medians over rounds are shown. Weights are as near as the caches keep them between calls,
which in a model they are not always.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

from ingot.compiler import compile, default_pipeline, driver
from ingot.compiler.artifact import Artifact
from ingot.compiler.bench.interleave import Sampler, interleave_samplers
from ingot.compiler.driver import explain
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower import convolution, lowering, short_sums, spectral, winograd
from ingot.compiler.lower.schedules import Algorithm
from ingot.compiler.ops.composite import Softmax
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Transpose
from ingot.compiler.ops.pointwise import Add, Mul, Relu, Sigmoid
from ingot.compiler.ops.quantised import Dequantize, DequantizeBlocks, Quantize
from ingot.compiler.request import Request
from ingot.compiler.targets.registry import find_level, find_target
from ingot.compiler.tuning.record import Machine, Record
from ingot.runtime.cpu import processor_name
from ingot.runtime.dtypes import DType, f32, i8, u8

AVX2 = "x86-64-v3"
Array = NDArray[Any]
Ways = Mapping[str, Artifact]


@dataclass(frozen=True)
class Trial:
    """An algorithm, the layer that it is tried on, and what compiles that in all ways, the algorithm's own first."""

    algorithm: str
    layer: str
    ways: Callable[[], Ways]


@dataclass(frozen=True)
class Result:
    """Seconds of a call in each way, and how many times faster than the best of the others the algorithm is."""

    trial: Trial
    seconds: Mapping[str, float]
    gain: float


def random(*shape: int) -> Array:
    """Numbers of which sums along a row stay about 1."""
    made = np.random.default_rng(0).standard_normal(shape, np.float32)
    return made / np.float32(math.sqrt(math.prod(shape[1:])))


def conv(
    size: int | tuple[int, ...],
    inner: int,
    out: int,
    taps: int | tuple[int, ...] = 3,
    stride: int = 1,
    *,
    group: int = 1,
) -> Graph:
    """relu(conv + bias) of one image, channels last; a single size or number of taps is that of two axes."""
    spatial, window = (each if isinstance(each, tuple) else (each, each) for each in (size, taps))
    x, pads = Input("x", TensorType(f32, (1, *spatial, inner))), tuple(extent // 2 for extent in window)
    weights, bias = constant(random(out, inner // group, *window)), constant(random(out))
    ones = (1,) * len(window)
    made = Conv(x, weights, bias, tuple(stride * i for i in ones), pads * 2, ones, group, True, origin=("conv",))
    return Graph((x,), (("y", Relu(made)),), "conv")


def matmul(rows: Dim, depth: int, columns: int, dtypes: tuple[DType, DType] = (f32, f32)) -> Graph:
    """x @ w."""
    x, w = Input("x", TensorType(dtypes[0], (rows, depth))), random(depth, columns)
    if dtypes[1] == i8:
        w = np.random.default_rng(0).integers(-128, 128, w.shape, np.int8)
    return Graph((x,), (("y", MatMul(x, constant(w), origin=("matmul",))),), "matmul")


def pruned(rows: int, depth: int, columns: int, rate: float) -> Graph:
    """x @ w with zeros at random places."""
    x, w = Input("x", TensorType(f32, (rows, depth))), random(depth, columns)
    w = np.where(np.random.default_rng(1).random(w.shape) < rate, np.float32(0), w)
    return Graph((x,), (("y", MatMul(x, constant(w), origin=("matmul",))),), "pruned")


def narrow(rows: int, depth: int, columns: int) -> Graph:
    """x @ w with weights of 4 bits, 32 rows a block."""
    x, rng = Input("x", TensorType(f32, (rows, depth))), np.random.default_rng(0)
    scales = constant(random(depth // 32, columns))
    numbers = constant(rng.integers(0, 16, (depth, columns), np.uint8))
    w = DequantizeBlocks(numbers, scales, constant(np.full((1, 1), 8, np.uint8)), 4, 32)
    return Graph((x,), (("y", MatMul(x, w, origin=("matmul",))),), "matmul")


def seven_bits(*shape: int) -> Array:
    """Normal weights as they are quantised to seven bits."""
    return np.clip(np.rint(np.random.default_rng(0).standard_normal(shape) * 17), -64, 64).astype(np.int8)


def product_of_bytes(rows: int, depth: int, columns: int) -> Graph:
    """x @ w of u8 by i8 of seven bits."""
    x = Input("x", TensorType(u8, (rows, depth)))
    return Graph((x,), (("y", MatMul(x, constant(seven_bits(depth, columns)), origin=("matmul",))),), "bytes")


def conv_of_bytes(size: int, channels: int) -> Graph:
    """3x3 convolution of u8 by i8 of seven bits, channels last."""
    x, w = Input("x", TensorType(u8, (1, size, size, channels))), constant(seven_bits(channels, channels, 3, 3))
    return Graph((x,), (("y", Conv(x, w, None, (1, 1), (1,) * 4, (1, 1), 1, True, origin=("conv",))),), "bytes")


def silu_of_bytes(size: int, channels: int) -> Graph:
    """quantize(dequantize(x) * sigmoid(dequantize(x)))."""
    x = Input("x", TensorType(u8, (1, size, size, channels)))
    real = Dequantize(x, constant(np.float32(0.05)), constant(100, u8))
    return Graph((x,), (("y", Quantize(Mul(real, Sigmoid(real)), constant(np.float32(0.03)), None, u8)),), "silu")


def residual(size: int, channels: int) -> Graph:
    """relu(conv + bias + x) of one tap."""
    x = Input("x", TensorType(f32, (1, size, size, channels)))
    weights, bias = constant(random(channels, channels, 1, 1)), constant(random(channels))
    made = Conv(x, weights, bias, (1, 1), (0,) * 4, (1, 1), 1, True, origin=("conv",))
    return Graph((x,), (("y", Relu(Add(made, x))),), "residual")


def inverted(images: int, size: int, narrow: int, wide: int, count: int) -> Graph:
    """`count` times x + conv 1x1(relu(depthwise 3x3(relu(conv 1x1(x))))), channels last."""
    x = Input("x", TensorType(f32, (images, size, size, narrow)))

    def layer(value: Value, out: int, taps: int, group: int = 1) -> Conv:
        weights, bias = constant(random(out, int(value.shape[-1]) // group, taps, taps)), constant(random(out))
        return Conv(value, weights, bias, (1, 1), (taps // 2,) * 4, (1, 1), group, True, origin=("conv",))

    y: Value = x
    for _ in range(count):
        y = Add(layer(Relu(layer(Relu(layer(y, wide, 1)), wide, 3, wide)), narrow, 1), y)
    return Graph((x,), (("y", y),), "inverted")


def attention(heads: int, length: int, depth: int) -> Graph:
    """softmax(q k^T / sqrt(depth)) v for [heads, length, depth]."""
    q, k, v = (Input(name, TensorType(f32, (heads, length, depth))) for name in "qkv")
    scores = Mul(MatMul(q, Transpose(k, (0, 2, 1))), constant(np.float32(depth**-0.5)))
    return Graph((q, k, v), (("y", MatMul(Softmax(scores, 2), v)),), "attention")


_LAYER = """
<ir_version: 8, opset_import: ["" : 17]>
lstm (float[{steps}, 1, {width}] x) => (float[{steps}, 1, 1, {width}] y) {{
  y = LSTM <hidden_size = {width}> (x, w, r)
}}
"""
_STEPS = """
<ir_version: 8, opset_import: ["" : 17]>
lstm (float[{steps}, 1, {width}] x) => (float[{steps}, 1, {width}] y) {{
  h, c, y = Scan <num_scan_inputs = 1, body = step (float[1, {width}] h0, float[1, {width}] c0, float[1, {width}] xt)
      => (float[1, {width}] h1, float[1, {width}] c1, float[1, {width}] out) {{
    xw = MatMul(xt, w)
    hr = MatMul(h0, r)
    sums = Add(xw, hr)
    i, o, f, g = Split <axis = 1> (sums)
    opened = Sigmoid(i)
    kept = Sigmoid(f)
    shown = Sigmoid(o)
    news = Tanh(g)
    taken = Mul(opened, news)
    held = Mul(kept, c0)
    c1 = Add(taken, held)
    state = Tanh(c1)
    h1 = Mul(shown, state)
    out = Identity(h1)
  }}> (zeros, zeros, x)
}}
"""


def lstm(steps: int, width: int, *, as_operator: bool) -> onnx.ModelProto:
    """An LSTM of one sequence, as the operator or as a Scan over its steps."""
    model = onnx.parser.parse_model((_LAYER if as_operator else _STEPS).format(steps=steps, width=width))
    w, r = random(4 * width, width), random(4 * width, width)
    arrays = {"w": w[None], "r": r[None]}
    if not as_operator:
        arrays = {"w": w.T.copy(), "r": r.T.copy(), "zeros": np.zeros((1, width), np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(data, name) for name, data in arrays.items())
    return model


def scheduled(graph: Graph, algorithm: Algorithm) -> Ways:
    """One artifact for each algorithm that can compute the contraction of `graph`, in the form that the cost model
    thinks most of, `algorithm` first."""
    level = find_level("native")
    assert level is not None
    (explained,), _ = explain(Request(graph, "native"), find_target("native").machine)
    machine = Machine(processor_name(), "native", tuple(sorted(level.required)))
    best = {o.schedule.algorithm: o for o in sorted(explained.options, key=lambda o: -o.predicted)}
    found: dict[str, Artifact] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(best, key=lambda name: name != algorithm):
            path = Path(folder) / f"{name}.json"
            Record({machine: {explained.signature: (best[name],)}}).save(path)
            found[name] = compile(graph, target="native", tuning=path, cache=False)
    return found


def lowered_without(graph: Graph, owner: Any, name: str, value: object, target: str = "native") -> Artifact:
    """`graph` compiled with `value` in the place of what lowering calls `name`: there is no option to do without."""
    with patch.object(owner, name, value):
        return compile(graph, target=target, cache=False)


def _without_pass(graph: Graph, name: str) -> Artifact:
    return compile(graph, target="native", pipeline=default_pipeline().without(name))


def _native(model: Graph | onnx.ModelProto, **options: Any) -> Artifact:
    return compile(model, target="native", **options)


def _pixels(graph: Graph) -> Ways:
    apart = lowered_without(graph, convolution, "DENSE_COLUMNS", 1 << 62)
    return {"gathered pixels": _native(graph), "pixels where they lie": apart}


def _depthwise(graph: Graph) -> Ways:
    grouped = lowered_without(graph, convolution, "is_depthwise", lambda node, w: False)
    return {"depthwise": _native(graph), "a product for each channel": grouped}


def _whole_batch(graph: Graph) -> Artifact:
    return lowered_without(graph, driver, "by_samples", lambda graph, machine: graph)


def _whole_launches(graph: Graph) -> Artifact:
    return lowered_without(graph, lowering, "in_bands", lambda program, machine: program)


def _as_sums(graph: Graph) -> Artifact:
    return lowered_without(graph, spectral, "LEAST_GAIN", 0.0)


def _scheduled(algorithm: Algorithm, layer: str, graph: Callable[[], Graph], what: str = "") -> Trial:
    return Trial(algorithm + what, layer, lambda: scheduled(graph(), algorithm))


TRIALS: tuple[Trial, ...] = (
    _scheduled("direct", "conv 3x3, 256-256 @2", lambda: conv(2, 256, 256)),
    _scheduled("winograd2", "conv 3x3, 256-256 @4", lambda: conv(4, 256, 256)),
    _scheduled("winograd4", "conv 3x3, 128-128 @28", lambda: conv(28, 128, 128)),
    _scheduled("winograd6", "conv 3, 384-384 @1500", lambda: conv((1500,), 384, 384, (3,))),
    _scheduled("winograd4", "conv 1x7, 192-192 @17", lambda: conv(17, 192, 192, (1, 7)), " along one axis"),
    _scheduled("winograd4", "conv 5x5, 32-96 @28", lambda: conv(28, 32, 96, 5), " of 5x5"),
    _scheduled("winograd2", "conv 7x7, 64-64 @14", lambda: conv(14, 64, 64, 7), " of 7x7"),
    _scheduled("winograd2", "conv 3x3x3, 64-64 @8x28x28", lambda: conv((8, 28, 28), 64, 64, (3, 3, 3)), " of 3x3x3"),
    _scheduled("winograd2", "conv 3x3 stride 2, 64-64 @56", lambda: conv(56, 64, 64, 3, 2), " of stride 2"),
    Trial(
        "spectral",
        "conv 128, 768-768 in 16 groups @500",
        lambda: {"spectral": _native(g := conv((500,), 768, 768, (128,), group=16)), "direct": _as_sums(g)},
    ),
    _scheduled("strassen", "matmul 512 x 1024 x 1024", lambda: matmul(512, 1024, 1024)),
    Trial("gathered pixels", "conv 1x1 stride 2, 512-1024 @28", lambda: _pixels(conv(28, 512, 1024, 1, 2))),
    Trial("depthwise", "conv 3x3 depthwise, 144 @56", lambda: _depthwise(conv(56, 144, 144, group=144))),
    Trial(
        "depthwise along one axis",
        "conv 31 depthwise, 384 @1500",
        lambda: _depthwise(conv((1500,), 384, 384, (31,), group=384)),
    ),
    Trial(
        "fused epilogue",
        "relu(conv 1x1 + bias + x), 64-64 @56",
        lambda: {"fused": _native(g := residual(56, 64)), "each operator a kernel": _without_pass(g, "fuse")},
    ),
    Trial(
        "sample by sample",
        "8 images, twice 1x1, depthwise 3x3, 1x1, 24-144-24 @56",
        lambda: {"a loop": _native(g := inverted(8, 56, 24, 144, 2)), "layer by layer": _whole_batch(g)},
    ),
    Trial(
        "band by band",
        "1x1, depthwise 3x3, 1x1, 16-96-16 @112",
        lambda: {"bands": _native(g := inverted(1, 112, 16, 96, 1)), "launch by launch": _whole_launches(g)},
    ),
    Trial(
        "winograd4 in stripes",
        "conv 3x3, 64-64 @224",
        lambda: {"bands": _native(g := conv(224, 64, 64)), "launch by launch": _whole_launches(g)},
    ),
    Trial(
        "attention",
        "12 heads, 512 x 512, depth 64",
        lambda: {"attention": _native(g := attention(12, 512, 64)), "two products": _without_pass(g, "recognise")},
    ),
    Trial(
        "f16 weights",
        "matmul 1 x 2048 x 8192",
        lambda: {"f16": _native(g := matmul(1, 2048, 8192), weights="f16"), "f32": _native(g, weights="f32")},
    ),
    Trial(
        "weights of 4 bits",
        "matmul 1 x 2048 x 8192",
        lambda: {"u4": _native(g := narrow(1, 2048, 8192)), "f32": _native(g, weights="f32")},
    ),
    Trial(
        "products of bytes",
        "matmul 128 x 768 x 768",
        lambda: {"u8 by i8": _native(matmul(128, 768, 768, (u8, i8))), "f32": _native(matmul(128, 768, 768))},
    ),
    Trial(
        "sums in 16 bits",
        "matmul 128 x 768 x 768, u8 by i8 of 7 bits, AVX2",
        lambda: {
            "in 16 bits": compile(g := product_of_bytes(128, 768, 768), target=AVX2),
            "pairs": lowered_without(g, short_sums, "SHARE", -1.0, AVX2),
        },
    ),
    Trial(
        "winograd2 of bytes",
        "conv 3x3, 128-128 @28, u8 by i8 of 7 bits, AVX2",
        lambda: {
            "winograd2": compile(g := conv_of_bytes(28, 128), target=AVX2),
            "direct": lowered_without(g, winograd, "SHORT_SUMS_SHARE", 0.0, AVX2),
        },
    ),
    Trial(
        "sparse",
        "matmul 128 x 768 x 3072, 80 % zeros",
        lambda: {"without zeros": _native(g := pruned(128, 768, 3072, 0.8)), "dense": _native(g, sparse="off")},
    ),
    Trial(
        "tables of bytes",
        "x * sigmoid(x), 144 @56, quantised",
        lambda: {"table": _native(g := silu_of_bytes(56, 144)), "function": _without_pass(g, "bytewise")},
    ),
    Trial(
        "recurrent",
        "LSTM, 256 units, 64 steps",
        lambda: {
            "a kernel for all steps": _native(lstm(64, 256, as_operator=True)),
            "a loop over operators": _native(lstm(64, 256, as_operator=False)),
        },
    ),
)


def measured(trial: Trial, rounds: int = 15) -> Result:
    """Compile and time one layer in all ways."""
    with contextlib.ExitStack() as sessions:
        samplers: dict[str, Sampler] = {}
        for name, artifact in trial.ways().items():
            session = sessions.enter_context(artifact.session(threads=1))
            inputs = {info.name: _values(info.dtype, info.shape) for info in session.inputs}
            samplers[name] = _timed(session.bind(inputs, session.run(inputs)))
        times = interleave_samplers(samplers, rounds=rounds)
    first, *others = times
    gain = min((times[other].over(times[first]) for other in others), default=math.inf)
    return Result(trial, {name: timing.median for name, timing in times.items()}, gain)


def _timed(call: Callable[[], object]) -> Sampler:
    """A sampler of the thread's CPU time: that it had to wait says nothing of an algorithm."""

    def sample(count: int) -> list[float]:
        times: list[float] = []
        for _ in range(count):
            started = time.thread_time()
            call()
            times.append(time.thread_time() - started)
        return times

    return sample


def _values(dtype: Any, shape: Sequence[Any]) -> Array:
    if np.dtype(dtype) == np.uint8:
        return np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    return random(*shape).astype(dtype)


def table(results: Iterable[Result]) -> str:
    """A line a trial, as a Markdown table."""
    lines = ["| algorithm | layer | µs | otherwise µs | times faster |", "|---|---|---|---|---|"]
    for each in results:
        (_, own), *others = each.seconds.items()
        listed = ", ".join(f"{name} {seconds * 1e6:.1f}" for name, seconds in others)
        cells = (each.trial.algorithm, each.trial.layer, f"{own * 1e6:.1f}", listed, f"{each.gain:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names (substrings) of algorithms, comma separated; default all")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    wanted = [name for name in options.only.split(",") if name]
    for trial in TRIALS:
        if not wanted or any(name in trial.algorithm for name in wanted):
            print(table([measured(trial, options.rounds)]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
