"""Speed of the contraction, depthwise and attention kernels beside the machine's measured multiply-add peak.

    python -m benchmarks.kernels [--level x86-64-v3] [--only matmul,bytes,conv,depthwise,attention] [--onnxruntime]

One thread, process CPU time, the minimum over rounds (CPU time hides preemption, the minimum hides the rest). Kernels
run whole launches from one native loop over their chunks, with the schedules that lowering would choose. Weights and
data are random. With --onnxruntime, matmul rows are raced against it in the same rounds (MatMul and Add, one thread).
Rows of bytes are products of u8 by i8 with i32 sums, requantised to u8, raced against the same product in f32.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ingot.compiler.ir.dims import ceil_divide, evaluate, product, symbol
from ingot.compiler.ir.graph import constant
from ingot.compiler.ir.loops import Axis, Buffer, Call, Const, Expr, Kernel, Load, Local, Store
from ingot.compiler.ir.templates import Attention, Contraction, Depthwise
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.contraction import Inner, Products
from ingot.compiler.lower.packing import pack_panels
from ingot.compiler.lower.tiles import ContractionTile, choose_attention, choose_contraction, choose_depthwise
from ingot.compiler.targets import elf
from ingot.compiler.targets.cpu import features, flow, objects
from ingot.compiler.targets.cpu.emit import emit_kernel
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.peak import multiply_add_rate
from ingot.runtime.dtypes import f32, from_numpy, i32, u8
from ingot.runtime.image import Image

Array = NDArray[Any]

# rows, depth, columns
MATMULS = [
    (m, k, n)
    for k, n in ((384, 384), (384, 1536), (768, 768), (768, 3072), (3072, 768), (2048, 1000))
    for m in (1, 8, 32, 128, 512)
]
# name, height and width, channels, filters, kernel, stride, residual
CONVS = [
    ("3x3", 56, 64, 64, 3, 1, False),
    ("3x3", 28, 128, 128, 3, 1, False),
    ("3x3", 14, 256, 256, 3, 1, False),
    ("3x3", 7, 512, 512, 3, 1, False),
    ("1x1", 56, 256, 64, 1, 1, False),
    ("1x1", 56, 64, 256, 1, 1, True),
    ("1x1", 28, 512, 128, 1, 1, False),
    ("1x1", 28, 128, 512, 1, 1, True),
    ("1x1", 14, 1024, 256, 1, 1, False),
    ("1x1", 14, 256, 1024, 1, 1, True),
    ("1x1", 7, 2048, 512, 1, 1, False),
    ("1x1", 7, 512, 2048, 1, 1, True),
    ("1x1 stride 2", 56, 256, 512, 1, 2, False),
    ("3x3 stride 2", 56, 128, 128, 3, 2, False),
    ("stem 7x7 stride 2", 224, 3, 64, 7, 2, False),
    ("stem 3x3 stride 2", 224, 3, 32, 3, 2, False),
    ("1x1", 112, 32, 16, 1, 1, False),
    ("1x1", 112, 16, 96, 1, 1, False),
    ("1x1", 56, 96, 24, 1, 1, True),
    ("1x1", 56, 24, 144, 1, 1, False),
    ("1x1", 14, 576, 96, 1, 1, True),
    ("1x1", 14, 96, 576, 1, 1, False),
    ("1x1", 7, 960, 160, 1, 1, True),
    ("1x1", 7, 320, 1280, 1, 1, False),
]
# height and width, channels, kernel, stride
DEPTHWISES = [(56, 144, 3, 1), (28, 192, 3, 1), (14, 576, 3, 1), (7, 960, 3, 1), (112, 96, 3, 2), (14, 480, 5, 1)]
# heads, queries, keys, depth
ATTENTIONS = [(12, 128, 128, 32), (12, 128, 128, 64), (16, 128, 128, 64), (12, 512, 512, 64)]


@dataclass(frozen=True)
class Problem:
    """A kernel, its buffers, and how many floating-point operations are useful."""

    name: str
    kernel: Kernel
    buffers: Mapping[str, Array]
    flops: int
    beside: Problem | None = None  # what it is raced against


def matmul(m: int, k: int, n: int, level: Level) -> Problem:
    """bias + a @ b"""
    tile = choose_contraction(features.machine(level), rows=m, columns=n, depth=k)
    rng = np.random.default_rng(0)
    value = Call("add", (Local("acc", f32), Load("bias", symbol("j"))), f32)
    template = gemm(m, n, k, tile, value)
    buffers = {
        "a": rng.standard_normal((m, k)).astype(np.float32),
        "b": aligned(pack_panels(rng.standard_normal((k, n)).astype(np.float32), tile.width)),
        "bias": rng.standard_normal(n).astype(np.float32),
        "c": np.zeros((m, n), np.float32),
    }
    return Problem(f"{m}x{k}x{n}", kernel(template, buffers, "c"), buffers, 2 * m * k * n)


def bytes_matmul(m: int, k: int, n: int, level: Level) -> Problem:
    """``clip(round((a @ b) * scale), 0, 255)`` for a of u8 and b of i8, beside `matmul`."""
    context = Context(features.machine(level))
    products = Products.narrow(context, Inner(k))
    depth = products.filled(k)
    rng = np.random.default_rng(0)
    weights = np.zeros((depth, n), products.dtype.to_numpy())
    weights[:k] = rng.integers(-128, 128, (k, n))
    tile = products.tile(context, constant(weights), rows=m, columns=n, depth=depth)
    column = symbol("j")
    total = Call("add", (Local("acc", i32), Load("bias", column)), i32)
    real = Call("mul", (Call("cast", (total,), f32), Load("scale", column)), f32)
    kept = Call("clip", (Call("round", (real,), f32), Const(0.0, f32), Const(255.0, f32)), f32)
    template = gemm(m, n, depth, tile, Call("cast", (kept,), u8))
    template = replace(template, accumulator=i32, dot=products.dot, narrow=True, shift=products.shift)
    buffers = {
        "a": rng.integers(0, 256, (m, depth), np.uint8),
        "b": aligned(pack_panels(weights, tile.width, products.dot)),
        "bias": np.ones(n, np.int32),
        "scale": np.full(n, 1e-3, np.float32),
        "c": np.zeros((m, n), np.uint8),
    }
    return Problem(f"bytes {m}x{k}x{n}", kernel(template, buffers, "c"), buffers, 2 * m * k * n, matmul(m, k, n, level))


def conv(
    name: str, size: int, channels: int, filters: int, taps: int, stride: int, residual: bool, level: Level
) -> Problem:
    """relu(conv + bias [+ residual]) of one image, channels last, zero-bordered input."""
    pad = taps // 2
    padded, out = size + 2 * pad, (size + 2 * pad - taps) // stride + 1
    depth = taps * taps * channels
    tile = choose_contraction(features.machine(level), rows=out * out, columns=filters, depth=depth)
    y, x, ky, c, column = (symbol(s) for s in ("y", "x", "ky", "c", "j"))
    where = (y * out + x) * filters + column
    value = Call("add", (Local("acc", f32), Load("bias", column)), f32)
    if residual:
        value = Call("add", (value, Load("residual", where)), f32)
    line = y * stride + ky if taps > 1 else y * stride
    template = replace(
        gemm(out * out, filters, depth, tile, value),
        rows=(Axis("y", out), Axis("x", out)),
        segments=(Axis("ky", taps),) if taps > 1 else (),
        run=Axis("c", taps * channels),
        a=Load("a", (line * padded + x * stride) * channels + c),
        stores=(Store("o", where, Call("relu", (value,), f32)),),
    )
    rng = np.random.default_rng(0)
    image = np.zeros((padded, padded, channels), np.float32)
    image[pad : pad + size, pad : pad + size] = rng.standard_normal((size, size, channels))
    weights = (rng.standard_normal((depth, filters)) / np.sqrt(depth)).astype(np.float32)
    buffers = {"a": image, "b": aligned(pack_panels(weights, tile.width)), "bias": np.ones(filters, np.float32)}
    if residual:
        buffers["residual"] = rng.standard_normal((out, out, filters)).astype(np.float32)
    buffers["o"] = np.zeros((out, out, filters), np.float32)
    label = f"{name} {channels}-{filters} @{size}{' + residual' if residual else ''}"
    return Problem(label, kernel(template, buffers, "o"), buffers, 2 * out * out * filters * depth)


def depthwise(size: int, channels: int, taps: int, stride: int, level: Level) -> Problem:
    """clip(depthwise conv + bias, 0, 6) of one image, channels last, zero-bordered input."""
    pad = taps // 2
    padded, out = size + 2 * pad, (size + 2 * pad - taps) // stride + 1
    y, x, c, ky, kx = (symbol(s) for s in ("y", "x", "c", "ky", "kx"))
    value = Call("add", (Local("acc", f32), Load("bias", c)), f32)
    template = Depthwise(
        rows=(Axis("y", out),),
        x=Axis("x", out),
        channels=Axis("c", channels),
        taps=(Axis("ky", taps), Axis("kx", taps)),
        a=Load("a", ((y * stride + ky) * padded + x * stride + kx) * channels + c),
        w=Load("w", (ky * taps + kx) * channels + c),
        row_block=choose_depthwise(features.machine(level), rows=out, columns=out, channels=channels, taps=taps * taps),
        stores=(
            Store("o", (y * out + x) * channels + c, Call("clip", (value, Const(0.0, f32), Const(6.0, f32)), f32)),
        ),
    )
    rng = np.random.default_rng(0)
    buffers = {
        "a": rng.standard_normal((padded, padded, channels)).astype(np.float32),
        "w": rng.standard_normal((taps, taps, channels)).astype(np.float32),
        "bias": np.ones(channels, np.float32),
        "o": np.zeros((out, out, channels), np.float32),
    }
    label = f"depthwise {taps}x{taps} {channels} @{size}{' stride 2' if stride == 2 else ''}"
    return Problem(label, kernel(template, buffers, "o"), buffers, 2 * out * out * channels * taps * taps)


def attention(heads: int, queries: int, keys: int, depth: int, level: Level) -> Problem:
    """softmax(q k^T / sqrt(depth)) v over [sequence, heads, depth] operands."""
    h, i, j, d, e = (symbol(s) for s in "hijde")
    block = choose_attention(features.machine(level), batch=heads, queries=queries, keys=keys, depth=depth, value=depth)
    template = Attention(
        batch=(Axis("h", heads),),
        queries=Axis("i", queries),
        keys=Axis("j", keys),
        depth=Axis("d", depth),
        value=Axis("e", depth),
        q=Load("q", (i * heads + h) * depth + d),
        k=Load("k", (j * heads + h) * depth + d),
        v=Load("v", (j * heads + h) * depth + e),
        mask=None,
        scale=depth**-0.5,
        out=Store("o", (i * heads + h) * depth + e, Local("acc", f32)),
        query_block=block,
    )
    rng = np.random.default_rng(0)
    lengths = {"q": queries, "k": keys, "v": keys}
    buffers = {s: rng.standard_normal((n, heads, depth)).astype(np.float32) for s, n in lengths.items()}
    buffers["o"] = np.zeros((queries, heads, depth), np.float32)
    label = f"attention {heads} heads, {queries} x {keys}, depth {depth}"
    return Problem(label, kernel(template, buffers, "o"), buffers, 4 * heads * queries * keys * depth)


def gemm(m: int, n: int, k: int, tile: ContractionTile, value: Expr) -> Contraction:
    """The product of matrices in the schedule `tile`; what it stores is `value`, of ``Local("acc")``."""
    template = Contraction.matmul(
        m, n, k, width=tile.width, tile_rows=tile.tile_rows, row_block=tile.row_block, panel_block=tile.panel_block
    )
    (store,) = template.stores
    return replace(template, stores=(replace(store, value=value),), order=tile.order)


def kernel(template: Contraction | Depthwise | Attention, buffers: Mapping[str, Array], out: str) -> Kernel:
    """The template as a kernel over `buffers`, of which `out` is written."""
    parameters = tuple(
        Buffer(name, from_numpy(data.dtype), "write" if name == out else "read") for name, data in buffers.items()
    )
    return Kernel("kernel", parameters, (), template.grid, template)


def aligned(array: Array) -> Array:
    """A copy that starts at a multiple of 64 bytes."""
    raw = np.empty(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy = raw[start : start + array.nbytes].view(array.dtype)
    copy[:] = array
    return copy


def launch(problem: Problem, level: Level) -> tuple[Callable[[], None], Image]:
    """A call that runs all chunks of the kernel, and the image that must outlive it."""
    module = objects.new_module("kernel", level)
    body = emit_kernel(module, problem.kernel, level)
    pointer = ir.PointerType()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, flow.I64]), "run")
    b = ir.IRBuilder(function.append_basic_block("entry"))

    def chunk(number: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        b.call(body, [function.args[0], number])
        return []

    flow.loop(b, flow.const(0), function.args[1], 1, [], chunk)
    b.ret_void()
    image = Image.from_bytes(elf.link([objects.object_code(module, level)], soname="kernel", exports=["run"]))
    native = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(image.symbol("run"))
    arguments = np.array([problem.buffers[b.name].ctypes.data for b in problem.kernel.buffers], np.int64)
    chunks = evaluate(product(ceil_divide(axis.extent, axis.grain) for axis in problem.kernel.grid), {})
    return lambda: native(arguments.ctypes.data, chunks), image


def seconds(call: Callable[[], object], times: int) -> float:
    """Process CPU seconds of one call, over `times` in a row."""
    started = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - started) / times


def race(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """The best seconds of each call, rounds interleaved."""
    repeats = [max(1, int(2e-3 / max(seconds(call, 2), 1e-7))) for call in calls]
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for index, call in enumerate(calls):
            best[index] = min(best[index], seconds(call, repeats[index]))
    return best


def peer_matmul(m: int, k: int, n: int) -> Callable[[], object]:
    """The same product and bias in ONNX Runtime on one thread."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    a = rng.standard_normal((m, k)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["p"]), helper.make_node("Add", ["p", "bias"], ["c"])],
        "matmul",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [m, k])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [m, n])],
        [
            numpy_helper.from_array(rng.standard_normal((k, n)).astype(np.float32), "b"),
            numpy_helper.from_array(np.ones(n, np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    model.ir_version = 8
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("a", a)
    binding.bind_output("c")
    return lambda: session.run_with_iobinding(binding)


def problems(kinds: set[str], level: Level) -> Iterator[tuple[Problem, tuple[int, int, int] | None]]:
    """The problems of the chosen kinds; matmuls with their extents."""
    if "matmul" in kinds:
        for extents in MATMULS:
            yield matmul(*extents, level), extents
    if "bytes" in kinds:
        for m, k, n in MATMULS:
            yield bytes_matmul(m, k, n, level), None
    if "conv" in kinds:
        for row in CONVS:
            yield conv(*row, level), None
    if "depthwise" in kinds:
        for row in DEPTHWISES:
            yield depthwise(*row, level), None
    if "attention" in kinds:
        for row in ATTENTIONS:
            yield attention(*row, level), None


def main() -> None:
    """Print one line per problem."""
    kinds = ("matmul", "bytes", "conv", "depthwise", "attention")
    parser = argparse.ArgumentParser(description="Speed of contraction kernels against the multiply-add peak.")
    parser.add_argument("--level", default="x86-64-v3" if features.host_arch() == "x86-64" else "aarch64")
    parser.add_argument("--only", default=",".join(kinds), help="comma-separated: " + ", ".join(kinds))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--onnxruntime", action="store_true", help="race matmuls against ONNX Runtime")
    options = parser.parse_args()
    level = features.level(options.level)
    top = multiply_add_rate(level) / 1e9
    print(f"{level.name}: {top:.1f} GFLOP/s peak")
    for problem, extents in problems(set(options.only.split(",")), level):
        with contextlib.ExitStack() as images:
            peers: dict[str, Callable[[], object]] = {}
            for name, own in (("", problem), ("f32", problem.beside)):
                if own is not None:
                    peers[name], image = launch(own, level)
                    images.enter_context(image)
            if options.onnxruntime and extents:
                peers["onnxruntime"] = peer_matmul(*extents)
            times = race(list(peers.values()), options.rounds)
            rate, beside = problem.flops / times[0] / 1e9, ""
            for name, other in list(zip(peers, times, strict=True))[1:]:
                beside += f"  {name} {problem.flops / other / 1e9:6.1f}  x{other / times[0]:.2f}"
            line = f"{problem.name:44s} {times[0] * 1e6:9.1f} us {rate:7.1f} GFLOP/s {100 * rate / top:5.1f} %"
            print(line + beside, flush=True)
    print(f"{multiply_add_rate(level) / 1e9:.1f} GFLOP/s peak after")


if __name__ == "__main__":
    main()
