# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""What one core of this machine can do at most: multiply-adds in registers, bytes read and copied."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ingot.compiler.targets import elf
from ingot.compiler.targets.cpu import dots, flow, microkernel, objects
from ingot.compiler.targets.cpu.features import Level
from ingot.runtime.dtypes import f32
from ingot.runtime.image import Image

_ROUNDS = 20_000
_CHAINS = 12  # independent sums: enough to hide the latency of a multiply-add
_UNROLLED = 4
_MOVED = 64 << 20  # bytes


def multiply_add_rate(level: Level, dot: int = 1) -> float:
    """Operations a second of multiply-adds (two each) on one thread, the best of several tries: of f32, or with `dot`
    above 1 of so many 8-bit products that an instruction sums for each lane. The level must run on this machine; raises
    IrError for products that it has not got."""
    lanes = level.lanes(4)
    element = ir.IntType(32) if dot > 1 else ir.FloatType()
    shift = dots.SIGN if level.signed_dot and dot > 1 else 0
    product = dots.product(level, dot, shift) or microkernel.Single(f32)
    vector = ir.VectorType(element, lanes)
    factors = ir.VectorType(ir.IntType(16), 2 * lanes) if dot == 2 else vector

    def emit(b: ir.IRBuilder, data: ir.Value, _: ir.Value) -> None:
        factor = b.load(data, typ=factors, align=4)

        def body(_: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            for _ in range(_UNROLLED):
                # Products of pairs are an instruction apart from their sums, which would leave the loop.
                sums = [product.add(b, b.bitcast(s, factors) if dot == 2 else factor, factor, s) for s in sums]
            return sums

        numbers = [ir.Constant(element, float(i) if dot == 1 else i) for i in range(_CHAINS)]
        start = [ir.Constant(vector, [number] * lanes) for number in numbers]
        sums = flow.loop(b, flow.const(0), flow.const(_ROUNDS), 1, start, body)
        for i, value in enumerate(sums):
            b.store(value, b.gep(data, [flow.const(i * lanes)], source_etype=element), align=4)

    scratch = np.zeros(_CHAINS * lanes, np.float32)
    with _native(level, emit) as image:
        best = _best(image, scratch, 0, 20)
    return _ROUNDS * _UNROLLED * _CHAINS * lanes * 2 * dot / best


def read_rate(level: Level, size: int = _MOVED) -> float:
    """Bytes read a second when one thread reads `size` bytes over and over, the best of several tries. The level must
    run on this machine."""
    lanes = level.lanes(4)
    vector, step = ir.VectorType(ir.IntType(32), lanes), 4 * lanes * _CHAINS
    data = np.ones(max(size // step, 1) * step, np.uint8)
    times = max(1, _MOVED // data.size)

    def emit(b: ir.IRBuilder, data: ir.Value, length: ir.Value) -> None:
        def chunk(at: ir.Value, seen: list[ir.Value]) -> list[ir.Value]:
            start = b.gep(data, [at], source_etype=ir.IntType(8))
            read = [b.gep(start, [flow.const(i)], source_etype=vector) for i in range(_CHAINS)]
            return [b.xor(s, b.load(place, typ=vector, align=4)) for s, place in zip(seen, read, strict=True)]

        def pass_(_: ir.Value, seen: list[ir.Value]) -> list[ir.Value]:
            return flow.loop(b, flow.const(0), length, step, seen, chunk)

        nothing = [ir.Constant(vector, [ir.Constant(ir.IntType(32), 0)] * lanes)] * _CHAINS
        for value in flow.loop(b, flow.const(0), flow.const(times), 1, nothing, pass_):
            b.store(value, data, align=4)

    with _native(level, emit) as image:
        best = _best(image, data, data.size, 5)
    return data.size * times / best


def copy_rate(size: int = 2 * _MOVED) -> float:
    """Bytes read and written a second when one thread copies the first half of `size` bytes to the second over and
    over. By default they are more than caches hold."""
    source = np.ones(max(size // 2, 1), np.uint8)
    target = np.zeros_like(source)
    times = max(1, _MOVED // source.size)

    def several() -> None:
        for _ in range(times):
            np.copyto(target, source)

    return 2 * source.size * times / min(_seconds(several) for _ in range(5))


def _native(level: Level, emit: Callable[[ir.IRBuilder, ir.Value, ir.Value], None]) -> Image:
    """A function ``peak(data, length)`` whose body `emit` writes."""
    module = objects.new_module("peak", level)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType(), flow.I64]), "peak")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    emit(b, *function.args)
    b.ret_void()
    return Image.from_bytes(elf.link([objects.object_code(module, level)], soname="peak", exports=["peak"]))


def _best(image: Image, data: NDArray[Any], length: int, tries: int) -> float:
    """Seconds of the fastest of so many calls."""
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(image.symbol("peak"))
    return min(_seconds(lambda: call(data.ctypes.data, length)) for _ in range(tries))


def _seconds(call: Callable[[], object]) -> float:
    """CPU time: that the thread had to wait says nothing of the core."""
    started = time.thread_time()
    call()
    return time.thread_time() - started
