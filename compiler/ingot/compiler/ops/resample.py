"""Resampling along one axis: every result element is a weighted sum of a few elements at indices of its own.

Interpolation of any kind and any number of axes is a chain of these: the filters are separable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Array, Node, Value, op
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import equal_dims, fail, require_axis, require_kind
from ingot.compiler.ops.numeric import cast
from ingot.compiler.ops.pointwise import FLOAT
from ingot.compiler.ops.quantised import working_type
from ingot.runtime.dtypes import i64


@op("resample")
class Resample(Node):
    """``result[.., o, ..] = sum over t of weights[o, t] * x[.., indices[o, t], ..]`` along `axis`.

    indices (i64) and weights are [out, taps]; every index lies inside the axis. Weights are f32 (f64 for f64), which
    the sum is computed in.
    """

    x: Value
    indices: Value
    weights: Value
    axis: int

    @property
    def taps(self) -> Dim:
        """Elements that each result element is made of."""
        return self.indices.shape[1]

    def infer(self) -> Sequence[TensorType]:
        x, indices, weights = self.x, self.indices, self.weights
        require_kind(self, x, FLOAT, "the operand")
        require_axis(self, self.axis, x.rank)
        if indices.dtype != i64 or indices.rank != 2:
            fail(self, f"indices are {indices.type}: i64 of rank 2 is needed")
        if weights.dtype != working_type(x.dtype) or weights.rank != 2:
            fail(self, f"weights are {weights.type}: {working_type(x.dtype)} of rank 2 is needed")
        count = equal_dims(self, indices.shape[0], weights.shape[0], "rows of indices and weights")
        equal_dims(self, indices.shape[1], weights.shape[1], "taps of indices and weights")
        return (TensorType(x.dtype, (*x.shape[: self.axis], count, *x.shape[self.axis + 1 :])),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        x, indices, weights = operands
        extent = x.shape[self.axis]
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < extent:
            fail(self, f"an index is outside 0..{extent - 1} of axis {self.axis}")
        column = (-1, *(1,) * (x.ndim - 1 - self.axis))
        total = np.zeros((*x.shape[: self.axis], indices.shape[0], *x.shape[self.axis + 1 :]), np.float64)
        with np.errstate(all="ignore"):
            for tap in range(indices.shape[1]):
                total += np.take(x, indices[:, tap], self.axis) * weights[:, tap].astype(np.float64).reshape(column)
            return (cast(total, self.x.dtype),)
