"""Examples of quantisation, bits, scattering, choosing, resampling and transposed convolution."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from tests.compiler.ops.example import Example, normal, whole

from ingot.compiler.ir.graph import Node, Value
from ingot.compiler.ops import bitwise, indexing, quantised, resample, transposed
from ingot.runtime.dtypes import i8, i16, u8, u16, u32, u64

HALVES = np.array(
    [-300, -129, -128.5, -128, -2.5, -1.5, -0.5, -0.0, 0.5, 1.5, 2.5, 126.5, 127.4, 127.5, 254.5, 256, 1e9, -np.inf],
    np.float32,
)


def _quantisation() -> list[Example]:
    q = quantised
    one = np.array(1, np.float32)
    x, scales = normal("q", 2, 3, 5) * np.float32(20), np.array([[0.25], [0.5], [3]], np.float32)
    made = [
        Example(
            f"quantize_{to}",
            lambda v, s, z, to=to: q.Quantize(v, s, z, to),
            (HALVES, one, np.array(zero, to.to_numpy())),
        )
        for to, zero in ((u8, 3), (i8, -5), (u16, 7), (i16, 0))
    ]
    made += [
        Example("quantize_no_zero_point", lambda v, s: q.Quantize(v, s, None, i8), (x, np.array(0.3, np.float32))),
        Example(
            "quantize_channels",
            lambda v, s, z: q.Quantize(v, s, z, u8),
            (x, scales, whole("z", 3, 1, dtype="uint8", low=0, high=255)),
        ),
        Example(
            "quantize_f16",
            lambda v, s: q.Quantize(v, s, None, i8),
            (normal("h", 33, dtype="float16"), np.array(0.01, np.float16)),
        ),
        Example(
            "dequantize_channels",
            q.Dequantize,
            (whole("x", 2, 3, 5, dtype="int8", low=-128, high=128), scales, whole("z", 3, 1, dtype="int8")),
        ),
        Example(
            "dequantize_i32",
            lambda v, s: q.Dequantize(v, s, None),
            (whole("x", 17, dtype="int32", low=-(2**31), high=2**31), np.array(0.01, np.float32)),
        ),
        Example(
            "dequantize_i32_shifted",
            q.Dequantize,
            (whole("x", 17, dtype="int32"), np.array(0.01, np.float32), np.array(-7, np.int32)),
        ),
        Example(
            "dequantize_blocks",
            lambda x, s, z: q.DequantizeBlocks(x, s, z, 4, 8),
            (
                whole("x", 19, 5, dtype="uint8", low=0, high=16),
                np.linspace(0.1, 2, 15, dtype=np.float32).reshape(3, 5),
                whole("z", 3, 5, dtype="uint8", low=0, high=16),
            ),
        ),
        Example(
            "dequantize_columns",
            lambda x, s, z: q.DequantizeBlocks(x, s, z, 8, 100),
            (
                whole("x", 7, 3, dtype="uint8", low=0, high=256),
                np.ones((1, 3), np.float32),
                np.full((1, 1), 128, np.uint8),
            ),
        ),
        Example(
            "dequantize_u16_f16",
            lambda v, s, z: q.Dequantize(v, s, z),
            (whole("x", 9, dtype="uint16", low=0, high=999), np.array(0.01, np.float16), np.array(500, np.uint16)),
        ),
    ]
    return made


def _bits() -> list[Example]:
    b = bitwise
    made: list[Example] = []
    for dtype in ("int32", "uint8", "int64"):
        pair = (whole("p", 4, 5, dtype=dtype, low=0, high=120), whole("q", 5, dtype=dtype, low=0, high=120))
        made += [Example(f"{cls.name}_{dtype}", cls, pair) for cls in (b.BitAnd, b.BitOr, b.BitXor)]
        made.append(Example(f"bit_not_{dtype}", b.BitNot, pair[:1]))
    for dtype, to in (("int32", u32), ("uint8", i8), ("int64", u64)):
        negative = whole("n", 3, 7, dtype=dtype, low=0 if dtype[0] == "u" else -120, high=250)
        made.append(Example(f"bit_cast_{dtype}", lambda x, to=to: b.BitCast(x, to), (negative,)))
    distances = np.array([0, 1, 5, 7, 8, 31, 32, 64, 200], np.uint8)
    signed = np.array([0, 1, 7, 31, 32, 40, -1], np.int32)
    for cls in (b.ShiftLeft, b.ShiftRight):
        for dtype in ("uint8", "uint32", "uint64"):
            x = whole("s", 4, 9, dtype=dtype, low=0, high=250)
            made.append(Example(f"{cls.name}_{dtype}", cls, (x, distances.astype(dtype))))
        made.append(Example(f"{cls.name}_signed", cls, (whole("s", 4, 7, dtype="int32", low=-99, high=99), signed)))
    return made


def _scatter(axis: int, reduction: Any, data: Value, indices: Value, updates: Value) -> Node:
    return indexing.Scatter(data, indices, updates, axis, reduction)


def _indexing() -> list[Example]:
    data, updates = normal("d", 4, 5, 6), normal("u", 3, 5, 4)
    places = whole("p", 3, 5, 4, low=-6, high=6)
    rows, row_updates = whole("r", 7, 1, low=0, high=4), normal("v", 7, 600)
    made: list[Example] = []
    for reduction in ("none", "add", "mul", "max", "min"):
        made.append(Example(f"scatter_{reduction}", partial(_scatter, 2, reduction), (data, places, updates)))
        made.append(
            Example(
                f"scatter_rows_{reduction}", partial(_scatter, 0, reduction), (normal("w", 4, 601), rows, row_updates)
            )
        )
    made += [
        Example("scatter_first", partial(_scatter, 0, "none"), (data, places % 4, updates)),
        Example("scatter_vector", partial(_scatter, 0, "add"), (normal("d", 5), rows[:, 0] % 5, normal("u", 7))),
        Example("scatter_nothing", partial(_scatter, 0, "add"), (normal("d", 5), rows[:0, 0], normal("u", 0))),
        Example(
            "scatter_i32_bool",
            partial(_scatter, 0, "none"),
            (np.zeros(9, bool), np.array([1, -1], np.int32), np.array([True, True])),
        ),
        Example("scatter_f16", partial(_scatter, 0, "add"), (normal("d", 5, dtype="float16"), rows[:, 0], _f16(7))),
    ]
    ties = np.array([[3, 1, 3, 2, 3, 1], [0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]], np.float32)
    odd = np.array([[np.nan, 1, -np.inf, np.inf, np.nan, -np.inf, 1], [-np.inf] * 7], np.float32)
    for largest in (True, False):
        side = "largest" if largest else "smallest"
        top = lambda v, k, axis, largest=largest: indexing.TopK(v, k, axis, largest)  # noqa: E731
        made += [
            Example(f"top_k_{side}", partial(top, k=4, axis=1), (ties,)),
            Example(f"top_k_{side}_all", partial(top, k=6, axis=1), (ties,)),
            Example(f"top_k_{side}_special", partial(top, k=7, axis=1), (odd,)),
            Example(f"top_k_{side}_first_axis", partial(top, k=2, axis=0), (normal("t", 5, 3, 2),)),
            Example(f"top_k_{side}_i64", partial(top, k=3, axis=0), (whole("t", 21, low=-4, high=4),)),
            Example(f"top_k_{side}_long", partial(top, k=90, axis=0), (np.round(normal("t", 1003) * np.float32(9)),)),
            Example(f"top_k_{side}_u8", partial(top, k=5, axis=0), (whole("t", 9, dtype="uint8", low=0, high=9),)),
            Example(f"top_k_{side}_none", partial(top, k=0, axis=0), (normal("t", 9),)),
        ]
    return made


def _f16(*shape: int) -> np.ndarray[Any, Any]:
    return normal("h", *shape, dtype="float16")


def _resampling() -> list[Example]:
    made: list[Example] = []
    x = normal("r", 3, 7, 5)
    for axis, taps in ((0, 1), (1, 2), (2, 4), (1, 9), (2, 9)):
        indices = whole("i", 6, taps, low=0, high=x.shape[axis])
        build = partial(_resample, axis)
        made.append(Example(f"resample_{axis}_{taps}", build, (x, indices, normal("w", 6, taps))))
    indices = whole("i", 6, 3, low=0, high=5)
    made += [
        Example("resample_f16", partial(_resample, 0), (_f16(5, 9), indices, normal("w", 6, 3))),
        Example(
            "resample_f64",
            partial(_resample, 1),
            (normal("d", 4, 5, dtype="float64"), indices, normal("w", 6, 3, dtype="float64")),
        ),
        Example("resample_nothing", partial(_resample, 0), (normal("d", 5, 2), indices[:0], normal("w", 0, 3))),
    ]
    return made


def _resample(axis: int, x: Value, indices: Value, weights: Value) -> Node:
    return resample.Resample(x, indices, weights, axis)


def _transposed_convolution() -> list[Example]:
    made: list[Example] = []
    for tag, x, w, strides, pads, dilations, beyond, group in (
        ("upscale", (2, 3, 5, 4), (3, 4, 2, 2), (2, 2), (0, 0, 0, 0), (1, 1), (0, 0), 1),
        ("k4s2", (1, 4, 5, 6), (4, 3, 4, 4), (2, 2), (1, 1, 1, 1), (1, 1), (0, 0), 1),
        ("k3s2", (1, 4, 5, 6), (4, 5, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (1, 1), 1),
        ("k3s1", (1, 4, 5, 6), (4, 5, 3, 3), (1, 1), (1, 2, 1, 0), (1, 1), (0, 0), 1),
        ("sparse", (1, 2, 4, 3), (2, 3, 1, 2), (3, 3), (0, 0, 0, 0), (1, 1), (2, 0), 1),
        ("grouped", (2, 6, 4, 3), (6, 2, 3, 2), (2, 1), (0, 1, 1, 0), (1, 1), (0, 0), 3),
        ("depthwise", (2, 6, 4, 3), (6, 1, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (1, 1), 6),
        ("dilated", (1, 2, 4, 5), (2, 3, 3, 2), (2, 1), (1, 0, 0, 1), (2, 3), (0, 0), 1),
        ("cropped", (1, 2, 6, 6), (2, 3, 2, 2), (2, 2), (3, 5, 4, 3), (1, 1), (0, 0), 1),
        ("1d", (2, 3, 9), (3, 2, 5), (3,), (2, 1), (1,), (2,), 1),
        ("3d", (1, 2, 3, 4, 2), (2, 3, 2, 3, 3), (2, 2, 1), (0, 1, 1, 0, 1, 1), (1, 1, 1), (0, 1, 0), 1),
    ):
        args = (strides, pads, dilations, beyond, group)
        data, weight, bias = normal(tag, *x), normal(tag + "w", *w), normal(tag + "b", w[1] * group)
        for last in (False, True):
            shown = np.ascontiguousarray(np.moveaxis(data, 1, -1)) if last else data
            build = partial(_conv_transpose, (*args, last))
            made.append(Example(f"conv_transpose_{tag}{'_last' if last else ''}", build, (shown, weight, bias)))
    plain = partial(_conv_transpose, ((2, 2), (0, 0, 0, 0), (1, 1), (0, 0), 1, False))
    made.append(Example("conv_transpose_no_bias", plain, (normal("n", 1, 2, 3, 3), normal("m", 2, 2, 3, 3))))
    return made


def _conv_transpose(args: tuple[Any, ...], x: Value, w: Value, bias: Value | None = None) -> Node:
    return transposed.ConvTranspose(x, w, bias, *args)


SAMPLING: list[Example] = [
    *_quantisation(),
    *_bits(),
    *_indexing(),
    *_resampling(),
    *_transposed_convolution(),
]
