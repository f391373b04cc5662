"""LRN over more channels than there are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from ingot.compiler import compile


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 20, 10**12, 2**63 - 1])
def test_windows_beyond_the_channels(size: int) -> None:
    text = f"m (float[2, 3, 2, 2] x) => (float[2, 3, 2, 2] y) {{ y = LRN <size = {size}, alpha = 20.0> (x) }}"
    model = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 18]> ' + text)
    x = np.random.default_rng(size % 1000).standard_normal((2, 3, 2, 2)).astype(np.float32)
    sums = np.zeros((2, 3, 2, 2))
    for c in range(3):
        low, high = max(0, c - (size - 1) // 2), min(3, c + size // 2 + 1)
        sums[:, c] = (x[:, low:high].astype(np.float64) ** 2).sum(1)
    with compile(model, jobs=1).session(threads=1) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], x / (1 + 20.0 / size * sums) ** 0.75, rtol=1e-5)
