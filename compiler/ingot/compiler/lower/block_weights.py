"""Weights of a few bits with a scale a block, as products read them: packed words, and scales and zero points in panels
of the same columns (see `ir.templates.Blocks`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.graph import Constant, Value
from ingot.compiler.ir.program import Storage
from ingot.compiler.ir.templates import Blocks
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.nest import KernelBuilder
from ingot.compiler.lower.packing import pack_panels
from ingot.compiler.lower.views import View
from ingot.compiler.ops.quantised import DequantizeBlocks
from ingot.runtime.dtypes import u32


def is_weight(value: Value) -> bool:
    """Whether `value` is packed at compile time."""
    return isinstance(value, Constant | DequantizeBlocks)


def form_of(weights: DequantizeBlocks) -> str:
    """How the weights lie in memory, in words."""
    depth = weights.x.type.static_shape()[0]
    blocks = f"in blocks of {weights.block}" if weights.block < depth else "by column"
    zeros = "" if weights.zero_point.type.size == 1 else " with zero points"
    return f"u{weights.bits} {blocks}{zeros}"


def packed_words(context: Context, weights: DequantizeBlocks, width: int) -> Storage:
    """The weight storage of the words."""
    x, bits = _constant(weights.x), weights.bits
    return context.weight(x, ("words", width, bits), lambda: pack_words(x.data, bits, width), u32)


def pack_words(data: NDArray[np.uint8], bits: int, width: int) -> NDArray[np.uint32]:
    """[K, N] numbers of `bits` bits -> flat [ceil(N / width), ceil(K / per), width] words of `per` of them, zero past
    the last column and the last row, as `ir.templates` describes."""
    depth, columns = data.shape
    per = 32 // bits
    count = -(-depth // per)
    words = np.zeros((count, columns), np.uint32)
    for field in range(per):
        rows = data[field::per]
        words[: len(rows)] |= rows.astype(np.uint32) << np.uint32(field % 4 * 8 + field // 4 * bits)
    return pack_panels(words, width)


def block_parameters(
    context: Context, build: KernelBuilder, weights: DequantizeBlocks, width: int, *, coarse: bool
) -> Blocks:
    """The template's part for weights in panels of `width` columns; their scales and zero points become parameters.
    `coarse` says whether what they are multiplied by may be rounded to 8 bits."""
    scale, zero = _constant(weights.scale), _constant(weights.zero_point)

    def parameter(source: Constant) -> str:
        storage = context.weight(source, ("panels", width), lambda: pack_panels(source.data, width))
        return build.parameter(View(storage, (storage.size,), (1,)), "read")

    uniform = zero.data.size == 1
    return Blocks(
        weights.bits,
        max(1, min(weights.block, weights.x.type.static_shape()[0])),
        parameter(scale),
        None if uniform else parameter(zero),
        int(zero.data.item()) if uniform else 0,
        factored=context.reorder,
        coarse=coarse and context.reorder,
    )


def _constant(value: Value) -> Constant:
    assert isinstance(value, Constant)
    return value
