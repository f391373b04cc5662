"""The model that comes with Ingot: handwritten digits, small enough to compile while one watches.

`digits.onnx` (opset 17) maps `image` f32[batch, 1, 8, 8] with values in 0..1 to `logits` f32[batch, 10]: two 3x3
convolutions with ReLU, a 2x2 max pooling and a dense layer. `digits_heldout.npz` holds the fifth of scikit-learn's
digits that it was not trained on. `train_digits.py` wrote both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["held_out", "model_path"]

FOLDER = Path(__file__).parent


def model_path() -> Path:
    """The path of `digits.onnx`."""
    return FOLDER / "digits.onnx"


def held_out() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images f32[359, 1, 8, 8] in 0..1 and labels i64[359] in 0..9, none of them seen in training."""
    with np.load(FOLDER / "digits_heldout.npz", allow_pickle=False) as members:
        return members["x"], members["y"]
