"""What docs/disagreements.md says of Ingot where engines differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from ingot.compiler import compile

F = np.float32

# name -> (opset, model, inputs, outputs by the standard)
CASES: dict[str, tuple[int, str, dict[str, Any], list[Any]]] = {
    "the scale of zeros": (
        18, "m (float[3] x) => (uint8[3] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear (x) }",
        {"x": np.zeros(3, F)}, [np.zeros(3, np.uint8), 0.0, 0],
    ),
    "an empty optional": (
        18, "m () => (bool y) { o = Optional <type = float[2]> ()  y = OptionalHasElement (o) }", {}, [False],
    ),
    "one maximum for each channel": (
        18, "m (float[2, 3, 4] x) => (float[2, 3, 1] y) { y = GlobalMaxPool (x) }",
        {"x": np.arange(24, dtype=F).reshape(2, 3, 4)}, [np.arange(3, 24, 4, dtype=F).reshape(2, 3, 1)],
    ),
    "pads of one axis": (
        18, ("m (float[1, 1, 2, 1] x) => (float[1, 1, 1, 2] y)"
        " { y = MaxPool <kernel_shape = [2, 2], pads = [0, 1, 0, 1]> (x) }"),
        {"x": np.array([1, 2], F).reshape(1, 1, 2, 1)}, [np.full((1, 1, 1, 2), 2, F)],
    ),
    "strides beyond the window": (
        18, ("m (float[1, 1, 3] x) => (float[1, 1, 1] y)"
        ' { y = AveragePool <kernel_shape = [1], strides = [3], auto_pad = "SAME_UPPER"> (x) }'),
        {"x": np.array([3, 5, 4], F).reshape(1, 1, 3)}, [np.full((1, 1, 1), 3, F)],
    ),
    "a dilated window of automatic pads": (
        18, ("m (float[1, 1, 3] x) => (float[1, 1, 3] y)"
        ' { y = LpPool <kernel_shape = [3], dilations = [2], auto_pad = "SAME_LOWER"> (x) }'),
        {"x": np.array([3, 5, 4], F).reshape(1, 1, 3)}, [np.full((1, 1, 3), 5, F)],
    ),
    "neighbours of a channel": (
        18, ("m (float[1, 3, 1, 1] x) => (float[1, 3, 1, 1] y)"
        " { y = LRN <size = 3, alpha = 3.0, beta = 1.0, bias = 0.0> (x) }"),
        {"x": np.array([1, 2, 3], F).reshape(1, 3, 1, 1)},
        [np.array([1 / 5, 2 / 14, 3 / 13], F).reshape(1, 3, 1, 1)],
    ),
    "batch normalisation of old": (
        13, ("m (float[1, 1, 1, 1] x, float[1] s, float[1] z) => (float[1, 1, 1, 1] y)"
        " { y = BatchNormalization <epsilon = 0.0> (x, s, z, z, s) }"),
        {"x": np.full((1, 1, 1, 1), 2, F), "s": np.ones(1, F), "z": np.zeros(1, F)}, [np.full((1, 1, 1, 1), 2, F)],
    ),
    "the norm of order 1": (
        18, "m (float[3] x) => (float[3] y) { y = LpNormalization <p = 1, axis = 0> (x) }",
        {"x": np.array([-1, 2, -4], F)}, [np.array([-1 / 7, 2 / 7, -4 / 7], F)],
    ),
    "a window with a NaN": (
        18, "m (float[1, 1, 4] x) => (float[1, 1, 3] y) { y = AveragePool <kernel_shape = [2]> (x) }",
        {"x": np.array([1, np.nan, 3, 4], F).reshape(1, 1, 4)}, [np.array([[[np.nan, np.nan, 3.5]]], F)],
    ),
    "another activation": (
        18, ("m (float[1, 1, 1] x, float[1, 1, 1] w) => (float[1, 1, 1, 1] y)"
        ' { y = RNN <hidden_size = 1, activations = ["Relu"]> (x, w, w) }'),
        {"x": np.full((1, 1, 1), 3, F), "w": np.full((1, 1, 1), 2, F)}, [np.full((1, 1, 1, 1), 6, F)],
    ),
    "no condition": (
        18, ("m (float[1] x, int64 n) => (float[1] y, float[?, 1] z) { y, z = Loop (n, , x) <body = b"
        " (int64 i, bool c, float[1] v) => (bool d, float[1] w, float[1] u)"
        " { d = Identity (c)  w = Add (v, v)  u = Identity (v) }> }"),
        {"x": np.ones(1, F), "n": np.array(3)}, [np.array([8], F), np.array([[1], [2], [4]], F)],
    ),
    "a length that is no whole number": (
        18, ("m (float[1, 1, 1, 5] x) => (float[1, 1, 1, 2] y) <float[4] s = {1, 1, 1, 0.5}>"
        ' { y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , s) }'),
        {"x": np.arange(5, dtype=F).reshape(1, 1, 1, 5)}, [np.array([0, 4], F).reshape(1, 1, 1, 2)],
    ),
    "a product beyond its range": (
        18, "m (int32[3] x) => (int32 y) { y = ReduceProd <keepdims = 0> (x) }",
        {"x": np.array([65536, 65536, 3], np.int32)}, [0],
    ),
    "celu near zero": (
        18, "m (float[1] x) => (float[1] y) { y = Celu (x) }",
        {"x": np.array([-3e-8], F)}, [np.array([-3e-8], F)],
    ),
    "parts of the empty string": (
        20, 'm (string[1] x) => (string[1, 1] y, int64[1] z) { y, z = StringSplit <delimiter = ","> (x) }',
        {"x": np.array([""], object)}, [np.array([[""]], object), np.ones(1, np.int64)],
    ),
    "white space behind the last part": (
        20, "m (string[1] x) => (string[1, 2] y, int64[1] z) { y, z = StringSplit <maxsplit = 1> (x) }",
        {"x": np.array(["a b "], object)}, [np.array([["a", "b"]], object), np.full(1, 2)],
    ),
    "rows of strings": (
        18, "m (string[2, 2] x, int64[2] i) => (string[2, 2] y) { y = Gather (x, i) }",
        {"x": np.array([["a", "b"], ["c", "d"]], object), "i": np.array([1, 0])},
        [np.array([["c", "d"], ["a", "b"]], object)],
    ),
    "a large number as a string": (
        18, "m (float[1] x) => (string[1] y) { y = Cast <to = 8> (x) }",
        {"x": np.array([1e30], F)}, [np.array([f"1{'0' * 30}"], object)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_by_the_standard(name: str) -> None:
    opset, text, data, wanted = CASES[name]
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]> {text}')
    with compile(model, jobs=1).session(threads=1) as session:
        results = session.run(data)
    for output, want in zip(model.graph.output, wanted, strict=True):
        if results[output.name].dtype.hasobject:
            assert results[output.name].tolist() == want.tolist()
            continue
        np.testing.assert_allclose(results[output.name], want, rtol=1e-6, strict=isinstance(want, np.ndarray))
