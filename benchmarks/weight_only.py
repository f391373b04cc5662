"""Products by weights of 4 and 8 bits: ``python -m benchmarks.weight_only [--only 768x3072] [--threads 2] [--decode]``.

For each (K, N) a chain of products, K by N and back, each with weights of its own, so that all of them come from memory
(*cold*), and one product again and again (*warm*): with weights as f32, in 8 and in 4 bits (rounded to nearest, 32 rows
a block), beside ONNX Runtime's MatMul and MatMulNBits, the latter with `accuracy_level` 0 and 4 (which lets activations
be rounded to 8 bits). Both engines get the same model, and are compared at the same level. Calls take turns; medians of
a product's time are shown, and the bytes of weights that are read in it. ``--decode`` is a step of GPT-2 instead
(`benchmarks.zoo`).
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

from ingot.compiler import compile
from ingot.compiler.bench.engines import onnxruntime
from ingot.compiler.bench.interleave import Sampler, interleave_samplers

Array = NDArray[Any]
SHAPES = ((768, 768), (768, 3072), (3072, 768), (4096, 4096), (4096, 11008))
BLOCK = 32
COLD = 80 << 20  # bytes of weights that no cache holds
MICROSOFT = "com.microsoft"


def rounded(w: Array, bits: int, block: int = BLOCK) -> tuple[Array, Array]:
    """Weights [K, N] rounded to nearest in blocks along K, without zero points, as MatMulNBits takes them: packed
    [N, blocks, bytes] and scales [N, blocks]. K is a multiple of the block."""
    depth, columns = w.shape
    blocks = w.T.reshape(columns, depth // block, block)
    half = 2 ** (bits - 1)
    scale = np.abs(blocks).max(2) / (half - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        numbers = np.rint(blocks / scale[..., None])
    numbers = (np.nan_to_num(numbers) + half).astype(np.uint8)
    per = 8 // bits
    fields = numbers.reshape(columns, depth // block, block // per, per)
    packed = np.zeros(fields.shape[:-1], np.uint8)
    for i in range(per):
        packed |= fields[..., i] << np.uint8(i * bits)
    return packed, scale.astype(np.float32)


def narrow_product(name: str, x: str, w: Array, y: str, bits: int, accuracy: int) -> tuple[onnx.NodeProto, list[Any]]:
    """``y = x @ w`` with weights of `bits` bits, and its initialisers."""
    packed, scale = rounded(w, bits)
    arrays = {f"{name}_q": packed, f"{name}_s": scale.reshape(-1)}
    node = helper.make_node(
        "MatMulNBits", [x, *arrays], [y], name, domain=MICROSOFT, K=w.shape[0], N=w.shape[1], bits=bits,
        block_size=BLOCK, accuracy_level=accuracy,
    )  # fmt: skip
    return node, [numpy_helper.from_array(data, key) for key, data in arrays.items()]


def chain(depth: int, columns: int, products: int, rows: int, bits: int, accuracy: int) -> onnx.ModelProto:
    """`products` products, of [K, N] and [N, K] in turn; 32 bits are f32."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    initialisers: list[Any] = []
    shape, value = (depth, columns), "x"
    for number in range(products):
        w = rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(shape[0]))
        result = "y" if number == products - 1 else f"h{number}"
        if bits == 32:
            nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [result]))
            initialisers.append(numpy_helper.from_array(w, f"w{number}"))
        else:
            node, data = narrow_product(f"w{number}", value, w, result, bits, accuracy)
            nodes.append(node)
            initialisers += data
        value, shape = result, shape[::-1]
    out = depth if products % 2 == 0 else columns
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, out])],
        initialisers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def weight_bytes(depth: int, columns: int, bits: int) -> float:
    """Bytes of the weights of a product, scales included."""
    return depth * columns * (4 if bits == 32 else bits / 8 + 4 / BLOCK)


def quantised(model: onnx.ModelProto, bits: int, accuracy: int) -> onnx.ModelProto:
    """`model` with narrow products in the place of MatMul and Gemm by large constant matrices."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    added: list[Any] = []
    for number, node in enumerate(made.graph.node):
        tensor = weights.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        if tensor is None or len(tensor.dims) != 2 or math.prod(tensor.dims) < 1 << 16:
            nodes.append(node)
            continue
        w = numpy_helper.to_array(tensor)
        w = w.T if any(a.name == "transB" and a.i for a in node.attribute) else w
        has_bias = len(node.input) > 2 and bool(node.input[2])
        product = f"product{number}" if has_bias else node.output[0]
        narrow, data = narrow_product(f"narrow{number}", node.input[0], w, product, bits, accuracy)
        nodes.append(narrow)
        added += data
        if has_bias:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]]))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in made.graph.initializer if tensor.name in read]
    del made.graph.initializer[:]
    made.graph.initializer.extend([*kept, *added])
    made.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return made


# -- measuring --------------------------------------------------------------------------------------------------------


def _clock(threads: int) -> Callable[[], float]:
    """The CPU time of a thread where there is one: that it had to wait says nothing of a kernel."""
    return time.thread_time if threads == 1 else time.perf_counter


def _sampler(call: Callable[[], object], threads: int) -> Sampler:
    clock = _clock(threads)

    def sample(count: int) -> list[float]:
        times: list[float] = []
        for _ in range(count):
            started = clock()
            call()
            times.append(clock() - started)
        return times

    return sample


@dataclass(frozen=True)
class Way:
    """An engine and the form of the weights that it multiplies by."""

    name: str
    bits: int
    accuracy: int = 0
    is_peer: bool = False

    def call(self, model: onnx.ModelProto, inputs: Mapping[str, Array], threads: int) -> Callable[[], object]:
        """A call of `model` on fixed buffers."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            if self.is_peer:
                onnx.save(model, str(path), save_as_external_data=model.ByteSize() > 1 << 30)
                engine = onnxruntime(path, threads)
                assert engine.bound is not None
                return engine.bound(inputs)
            session = compile(model, target="native").session(threads=threads)
            return session.bind(dict(inputs), session.run(dict(inputs)))


WAYS = (
    Way("Ingot f32", 32),
    *(Way(f"Ingot u{bits}, level {level}", bits, level) for bits in (8, 4) for level in (0, 4)),
    Way("ONNX Runtime f32", 32, 0, True),
    *(Way(f"ONNX Runtime u{bits}, level {level}", bits, level, True) for bits in (8, 4) for level in (0, 4)),
)


def measured(
    make: Callable[[Way], tuple[onnx.ModelProto, int]],
    inputs: Mapping[str, Array],
    threads: int,
    chosen: Sequence[Way] = WAYS,
    rounds: int = 11,
) -> dict[str, float]:
    """Median seconds of a product in each way; `make` gives a model and the number of its products."""
    samplers: dict[str, Sampler] = {}
    counts: dict[str, int] = {}
    for way in chosen:
        model, counts[way.name] = make(way)
        samplers[way.name] = _sampler(way.call(model, inputs, threads), threads)
    times = interleave_samplers(samplers, rounds=rounds, seconds=0.05, warm_up=0.1)
    return {name: timing.median / counts[name] for name, timing in times.items()}


def products(depth: int, columns: int, threads: int, rows: int, cold: bool) -> dict[str, float]:
    """Seconds of one product of `rows` rows."""

    def make(way: Way) -> tuple[onnx.ModelProto, int]:
        count = 1
        if cold:
            count = max(2, math.ceil(COLD / weight_bytes(depth, columns, way.bits)))
        return chain(depth, columns, count, rows, way.bits, way.accuracy), count

    x = np.random.default_rng(1).standard_normal((rows, depth)).astype(np.float32)
    return measured(make, {"x": x}, threads)


def decode(threads: int) -> dict[str, float]:
    """Seconds of one step of GPT-2 with 64 tokens behind it."""
    from benchmarks import zoo

    path = zoo.place("gpt2_decode", "full", "torchscript-17")
    model = onnx.load(str(path))

    def make(way: Way) -> tuple[onnx.ModelProto, int]:
        return (model if way.bits == 32 else quantised(model, way.bits, way.accuracy)), 1

    return measured(make, zoo.inputs("gpt2_decode", "full"), threads)


def lines(what: str, seconds: Mapping[str, float], bytes_of: Callable[[int], float]) -> Iterator[str]:
    """A Markdown row a way."""
    own = {(way.bits, way.accuracy): seconds[way.name] for way in WAYS if not way.is_peer}
    for way in WAYS:
        time_ = seconds[way.name]
        ratio = f"{time_ / own[way.bits, way.accuracy]:.2f}" if way.is_peer else f"{own[32, 0] / time_:.2f}"
        rate = bytes_of(way.bits) / time_ / 1e9
        yield f"| {what} | {way.name} | {time_ * 1e6:.1f} | {ratio} | {rate:.1f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="shapes such as 768x3072, comma separated; default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--decode", action="store_true", help="a step of GPT-2 with 64 tokens behind it")
    options = parser.parse_args(arguments)
    print("| weights | way | µs | f32 over it, or it over Ingot | GB/s |\n|---|---|---|---|---|")
    if options.decode:
        for line in lines("GPT-2 decode", decode(options.threads), lambda bits: 124e6 * bits / 8):
            print(line, flush=True)
        return
    wanted = [name for name in options.only.split(",") if name]
    for depth, columns in SHAPES:
        if wanted and f"{depth}x{columns}" not in wanted:
            continue
        for cold in (True, False):
            what = f"{depth} x {columns}, {'cold' if cold else 'warm'}"
            found = products(depth, columns, options.threads, options.rows, cold)
            for line in lines(what, found, lambda bits, d=depth, c=columns: weight_bytes(d, c, bits)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
