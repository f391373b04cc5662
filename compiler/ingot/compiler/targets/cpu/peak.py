# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""What one core of this machine can do at most: multiply-adds in registers, bytes copied through memory."""

from __future__ import annotations

import ctypes
import time

import numpy as np
from llvmlite import ir

from ingot.compiler.targets import elf
from ingot.compiler.targets.cpu import flow, microkernel, objects
from ingot.compiler.targets.cpu.features import Level
from ingot.runtime.dtypes import f32
from ingot.runtime.image import Image

_ROUNDS = 20_000
_CHAINS = 12  # independent sums: enough to hide the latency of a multiply-add
_UNROLLED = 4
_COPIED = 64 << 20


def multiply_add_rate(level: Level) -> float:
    """Operations a second of f32 multiply-adds (two each) on one thread, the best of several tries. The level must run
    on this machine."""
    lanes = level.lanes(4)
    module = objects.new_module("peak", level)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType()]), "peak")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    vector = ir.VectorType(ir.FloatType(), lanes)
    factor = b.load(function.args[0], typ=vector, align=4)

    def body(_: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        for _ in range(_UNROLLED):
            sums = [microkernel.multiply_add(b, factor, factor, s, f32) for s in sums]
        return sums

    start = [ir.Constant(vector, [ir.Constant(ir.FloatType(), float(i))] * lanes) for i in range(_CHAINS)]
    sums = flow.loop(b, flow.const(0), flow.const(_ROUNDS), 1, start, body)
    for i, value in enumerate(sums):
        b.store(value, b.gep(function.args[0], [flow.const(i * lanes)], source_etype=ir.FloatType()), align=4)
    b.ret_void()
    with Image.from_bytes(elf.link([objects.object_code(module, level)], soname="peak", exports=["peak"])) as image:
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(image.symbol("peak"))
        scratch = np.zeros(_CHAINS * lanes, np.float32)
        best = min(_seconds(lambda: call(scratch.ctypes.data)) for _ in range(20))
    return _ROUNDS * _UNROLLED * _CHAINS * lanes * 2 / best


def copy_rate() -> float:
    """Bytes read and written a second when one thread copies more than the caches hold."""
    source = np.ones(_COPIED, np.uint8)
    target = np.zeros_like(source)
    return 2 * _COPIED / min(_seconds(lambda: np.copyto(target, source)) for _ in range(5))


def _seconds(call) -> float:
    """CPU time: that the thread had to wait says nothing of the core."""
    started = time.thread_time()
    call()
    return time.thread_time() - started
