"""Resizing, scattering, choosing, quantisation and transposed convolution against ONNX Runtime, over their attributes.

Each case is imported with constant and with symbolic extents.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from tests.compiler.frontend.test_operators import IMAGE, Case, check, normal

I64 = np.int64
NONE = np.array([], np.float32)
COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


def integers(*shape: int, dtype: str = "int64", low: int = 0, high: int = 10) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape) + high).integers(low, high, shape).astype(dtype)


def scales(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def sizes(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, I64)


def _resizes() -> list[Case]:
    made = [
        Case(
            "Resize",
            13,
            [IMAGE, None, scales(1, 1, *factors)],
            {"mode": mode, "coordinate_transformation_mode": coordinates},
            fixed=(2,),
        )
        for mode, coordinates, factors in product(
            ("nearest", "linear", "cubic"), COORDINATES, ((2, 3), (0.5, 1.5), (1, 0.5))
        )
    ]
    made += [
        Case(
            "Resize",
            19,
            [IMAGE, None, None, sizes(2, 3, *wanted)],
            {"mode": mode, "coordinate_transformation_mode": "half_pixel", **more},
            fixed=(3,),
        )
        for wanted, mode, more in (
            ((18, 4), "linear", {}),
            ((5, 16), "cubic", {"cubic_coeff_a": -0.5}),
            ((5, 16), "cubic", {"exclude_outside": 1}),
            ((4, 3), "linear", {"antialias": 1}),
            ((4, 11), "cubic", {"antialias": 1}),
            ((1, 1), "linear", {}),
            ((3, 20), "nearest", {"nearest_mode": "ceil"}),
            ((3, 20), "nearest", {"nearest_mode": "floor"}),
            ((3, 20), "nearest", {"nearest_mode": "round_prefer_ceil"}),
        )
    ]
    made += [
        Case(
            "Resize",
            18,
            [IMAGE, None, None, sizes(20, 12)],
            {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": policy},
            fixed=(3,),
        )
        for policy in ("not_larger", "not_smaller", "stretch")
    ]
    made += [
        Case(
            "Resize",
            13,
            [IMAGE, scales(0, 0, 0.25, -0.1, 1, 1, 0.75, 1.2), None, sizes(2, 3, 5, 6)],
            {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0},
            fixed=(1, 3),
        )
        for mode in ("nearest", "linear")
    ]
    made += [
        Case("Resize", 10, [IMAGE, scales(1, 1, 2, 0.5)], {"mode": "linear"}, fixed=(1,)),
        Case("Resize", 10, [IMAGE, scales(1, 1, 2, 2)], fixed=(1,)),
        Case("Resize", 11, [IMAGE, NONE, scales(1, 1, 2, 2)], {"coordinate_transformation_mode": "asymmetric"}, (1, 2)),
        Case("Resize", 13, [normal(5, 7), None, scales(1.5, 2)], {"mode": "linear"}, fixed=(2,)),
        Case("Upsample", 9, [IMAGE, scales(1, 1, 2, 3)], fixed=(1,)),
        Case("Upsample", 9, [IMAGE, scales(1, 1, 2, 3)], {"mode": "linear"}, fixed=(1,)),
        Case("Upsample", 7, [IMAGE], {"scales": [1.0, 1.0, 2.0, 2.0]}),
    ]
    return made


def _quantised() -> list[Case]:
    one, zero = np.array(0.05, np.float32), np.array(-3, np.int8)
    matrix = integers(4, 6, dtype="uint8", high=255)
    weight = integers(5, 3, 3, 2, dtype="int8", low=-30, high=30)
    pixels = integers(2, 3, 9, 8, dtype="uint8", high=60)
    return [
        Case("QuantizeLinear", 10, [IMAGE, one, zero]),
        Case("QuantizeLinear", 13, [IMAGE, scales(0.1, 0.2, 0.3), np.array([0, 3, -7], np.int8)], {"axis": 1}),
        Case("QuantizeLinear", 13, [IMAGE, scales(*[0.1] * 8), integers(8, dtype="uint8")], {"axis": -1}),
        Case("QuantizeLinear", 21, [IMAGE, one, np.array(500, np.uint16)]),
        Case("QuantizeLinear", 21, [IMAGE, one], {"output_dtype": 5}),  # int16
        Case("QuantizeLinear", 19, [IMAGE, one, zero], {"saturate": 0}),  # which says something of f8 alone
        Case("DequantizeLinear", 10, [pixels, one, np.array(7, np.uint8)]),
        Case("DequantizeLinear", 13, [weight, scales(1, 2, 3, 4, 5), integers(5, dtype="int8")], {"axis": 0}),
        Case("DequantizeLinear", 19, [integers(9, dtype="int32", low=-(2**30), high=2**30), one]),
        Case(
            "DequantizeLinear", 21, [integers(4, 7, dtype="int8"), np.abs(normal(4, 3))], {"axis": 1, "block_size": 3}
        ),
        Case("DynamicQuantizeLinear", 11, [IMAGE], outputs=3),
        Case("MatMulInteger", 10, [matrix, integers(6, 5, dtype="int8"), np.array(9, np.uint8), np.array(2, np.int8)]),
        Case(
            "MatMulInteger", 10, [matrix, integers(6, 5, dtype="uint8"), None, integers(5, dtype="uint8")], fixed=(3,)
        ),
        Case(
            "ConvInteger",
            10,
            [pixels, integers(4, 3, 3, 2, dtype="uint8"), np.array(5, np.uint8)],
            {"pads": [1, 0, 2, 1]},
        ),
        Case(
            "QLinearConv",
            10,
            [
                *(pixels, np.array(0.1, "f"), np.array(5, np.uint8), weight, scales(0.1, 0.2, 0.3, 0.1, 0.5)),
                *(np.zeros(5, np.int8), np.array(3.0, "f"), np.array(100, np.uint8)),
                integers(5, dtype="int32", low=-900, high=900),
            ],
            {"strides": [2, 1], "pads": [1, 1, 1, 1]},
            fixed=(1, 2, 3, 4, 5, 6, 7, 8),
        ),
        Case(
            "QLinearMatMul",
            10,
            [
                *(matrix, np.array(0.1, "f"), np.array(5, np.uint8), integers(6, 5, dtype="uint8")),
                *(np.array(0.2, "f"), np.array(4, np.uint8), np.array(2.0, "f"), np.array(100, np.uint8)),
            ],
        ),
    ]


def _indexed() -> list[Case]:
    data, updates = normal(4, 5), normal(3, 5)
    places = integers(3, 5, low=-4, high=4)
    ties = integers(3, 11, high=4).astype(np.float32)
    pairs = np.array([[0, 1], [3, -1], [0, 1]], I64)
    return [
        Case("Scatter", 9, [data, places, updates]),
        Case("ScatterElements", 11, [data, integers(4, 2, high=5), normal(4, 2)], {"axis": 1}),
        *(Case("ScatterElements", 18, [data, places, updates], {"reduction": r}) for r in ("add", "mul", "max", "min")),
        Case("ScatterND", 11, [data, np.array([[3], [-4]], I64), normal(2, 5)]),
        *(
            Case("ScatterND", 18, [data, pairs, normal(3)], {"reduction": r})
            for r in ("none", "add", "mul", "max", "min")
        ),
        Case("ScatterND", 16, [normal(2, 3, 4), np.array([[[0, 2], [1, 1]]], I64), normal(1, 2, 4)]),
        Case("TopK", 1, [ties], {"k": 4}, outputs=2),
        Case("TopK", 10, [ties, sizes(2)], {"axis": 0}, fixed=(1,), outputs=2),
        Case("TopK", 11, [ties, sizes(11)], {"largest": 0}, fixed=(1,), outputs=2),
        Case("TopK", 11, [integers(7, 3, high=3), sizes(5)], {"axis": 0, "sorted": 1}, fixed=(1,), outputs=2),
        Case("ReverseSequence", 10, [normal(5, 3, 2), np.array([5, 1, 3], I64)]),
        Case("ReverseSequence", 10, [normal(3, 5), np.array([5, 1, 3], I64)], {"time_axis": 1, "batch_axis": 0}),
    ]


def _windows() -> list[Case]:
    pool = {"kernel_shape": [3, 2], "strides": [2, 1]}
    weight = normal(3, 4, 3, 2)
    return [
        Case("MaxPool", 12, [IMAGE], {**pool, "pads": [1, 0, 1, 1]}, outputs=2),
        Case("MaxPool", 12, [IMAGE], {**pool, "ceil_mode": 1, "storage_order": 1}, outputs=2),
        Case("MaxPool", 12, [normal(1, 2, 9)], {"kernel_shape": [3], "dilations": [2]}, outputs=2),
        *(Case("LpPool", 18, [IMAGE], {**pool, "p": p, "pads": [1, 0, 1, 1]}) for p in (1, 2, 3)),
        Case("LpPool", 18, [IMAGE], {**pool, "ceil_mode": 1}),
        Case("GlobalLpPool", 2, [IMAGE], {"p": 3}),
        Case("ConvTranspose", 11, [IMAGE, weight, normal(4)], {"strides": [2, 3], "pads": [1, 0, 2, 1]}),
        Case("ConvTranspose", 11, [IMAGE, weight], {"strides": [2, 3], "output_padding": [1, 2], "dilations": [2, 1]}),
        Case("ConvTranspose", 11, [IMAGE, weight], {"strides": [2, 3], "output_shape": [20, 22]}),
        *(
            Case("ConvTranspose", 11, [IMAGE, weight], {"strides": [2, 1], "auto_pad": mode})
            for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
        ),
        Case("ConvTranspose", 1, [normal(2, 4, 5), normal(4, 3, 3)], {"group": 2, "strides": [3]}),
        *(
            Case(
                "GridSample",
                16,
                [IMAGE, (normal(2, 4, 5, 2) * 0.8).astype(np.float32)],
                {"mode": mode, "padding_mode": padding, "align_corners": corners},
            )
            for mode, padding, corners in product(
                ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (0, 1)
            )
        ),
        Case(
            "RoiAlign",
            16,
            [IMAGE, np.array([[0, 0, 7, 8], [2, 1, 5, 3]], "f"), np.array([0, 1], I64)],
            {"output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.9},
        ),
    ]


def _spectra() -> list[Case]:
    signal = normal(2, 20, 1)
    return [
        Case("DFT", 17, [signal], {"onesided": 1}),
        Case("DFT", 17, [normal(2, 20, 2), np.array(16, I64)], {"inverse": 1}, fixed=(1,)),
        Case("STFT", 17, [signal, np.array(3, I64), normal(8)], fixed=(1, 2)),
        Case("STFT", 17, [signal, np.array(4, I64), None, np.array(5, I64)], {"onesided": 0}, fixed=(1, 3)),
        Case("Einsum", 12, [normal(2, 3, 4), normal(2, 4, 5)], {"equation": "...ij,...jk->...ik"}),
        Case("Einsum", 12, [normal(3, 4, 4)], {"equation": "bii->bi"}),
        Case("BitShift", 11, [integers(5, dtype="uint8"), integers(5, dtype="uint8", high=9)], {"direction": "LEFT"}),
    ]


CASES = [*_resizes(), *_quantised(), *_indexed(), *_windows(), *_spectra()]


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case, symbolic: bool) -> None:
    check(case, symbolic)
