"""The models that are damaged."""

from __future__ import annotations

from pathlib import Path

import onnx

from ingot.compiler import demo

LARGEST_FILE = 120_000  # bytes
SHARED = Path(__file__).parents[3] / "shared" / "models"

WRITTEN = {
    "branches": """m (float[n, 4] x, bool c) => (float[n, 4] y, int64 k) <float[4] w = {1, 2, 3, 4}> {
        y = If (c) <then_branch = t () => (float[n, 4] a) { a = Mul (x, w) },
                    else_branch = e () => (float[n, 4] b) { z = Add (x, w)  b = Tanh (z) }>
        s = Shape (x)  i = Constant <value_int = 0> ()  k = Gather (s, i) }""",
    "loop": """m (float[3] x, int64 trip) => (float[3] y, float[k, 3] rows) <bool go = {1}> {
        y, rows = Loop (trip, go, x) <body = b (int64 i, bool c, float[3] v) => (bool d, float[3] u, float[3] r) {
            d = Identity (c)  u = Add (v, x)  r = Mul (u, v) }> }""",
    "sizes": """m (float[n, m] x, int64[k] i) => (int64[2, t] places, float[k, m] rows, float[p, q] tile, float[a] flat)
        <int64[2] r = {2, 1}, int64[1] all = {-1}> {
        places = NonZero (x)  rows = Gather <axis = 0> (x, i)  tile = Tile (x, r)  flat = Reshape (x, all) }""",
    "attention": """m (float[1, s, 2] x, float[1, h, 2] past) => (float[1, s, 2] y)
        <float[2, 2] w = {1, 2, 3, 4}, float scale = {0.25}> {
        k = Concat <axis = 1> (past, x)  q = MatMul (x, w)  t = Transpose <perm = [0, 2, 1]> (k)
        a = MatMul (q, t)  b = Mul (a, scale)  p = Softmax <axis = -1> (b)  y = MatMul (p, k) }""",
    "image": """m (float[1, 2, 8, w] x) => (float[1, 3, r, c] y, float[1, 2, d, e] z)
        <float[3, 2, 1, 1] k = {1, 2, 3, 4, 5, 6}, float[3] b = {1, 2, 3}, float[4] scales = {1, 1, 2, 2},
         int64[4] starts = {0, 0, 1, 1}, int64[4] ends = {1, 2, 7, 9}> {
        v = Conv <pads = [1, 0, 0, 1], strides = [2, 1]> (x, k, b)  p = MaxPool <kernel_shape = [2, 2]> (v)
        y = Relu (p)  u = Resize <mode = "linear"> (x, , scales)  z = Slice (u, starts, ends) }""",
    "quantised": """m (float[n, 4] x) => (float[n, 2] y)
        <float s = {0.1}, uint8 z = {128}, int8[4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}, float[2] t = {0.5, 0.25}> {
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  e = DequantizeLinear <axis = 1> (w, t)
        y = MatMul (d, e) }""",
}
"""Models that need no file: sub-graphs, sizes from data, windows, quantisation."""


def sources() -> dict[str, bytes]:
    """The models that are damaged, by name."""
    found: dict[str, bytes] = {}
    for name, body in WRITTEN.items():
        model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {body}')
        found[name] = model.SerializeToString()
    found["demo"] = Path(demo.__file__).with_name("digits.onnx").read_bytes()
    for path in sorted(SHARED.glob("*/model.onnx")):
        if path.stat().st_size <= LARGEST_FILE:
            found[path.parent.name] = path.read_bytes()
    return found
