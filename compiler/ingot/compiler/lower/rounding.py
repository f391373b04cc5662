"""Weights rounded to half precision before lowering, which then stores them narrow without any further loss.

What is rounded are the large operands that kernels read as weights: second operands of products, filters, recurrent
weights and tables. All arithmetic, biases and scales stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.ir.graph import Constant, Graph, Node, Value, constant, describe, subgraphs_of
from ingot.compiler.lower.weight_forms import CHUNK, LARGE
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Gather
from ingot.compiler.ops.recurrent import Recurrent
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import BY_NAME, DType, f32


def round_weights(graph: Graph, name: str) -> tuple[Graph, float]:
    """`graph` with its f32 weights rounded to the type called `name` (f16 or bf16, to nearest even), and the largest
    error of an element, relative to the largest finite element of its weight. Infinities and NaNs stay.

    Raises ModelError for a weight with a finite element that the type has none near to.
    """
    rounding = _Rounding(BY_NAME[name])
    return rounding.graph(graph), rounding.error


class _Rounding:
    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.error = 0.0
        self.made: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}  # by address: a weight and its transpose stay one

    def graph(self, graph: Graph) -> Graph:
        """`graph` and its sub-graphs with their weights rounded."""
        weights = dict.fromkeys(w for node in graph.nodes() for w in _weights_of(node))
        mapping: dict[Value, Value] = {w: self.constant(w) for w in weights}
        for node in graph.nodes():
            bodies = {id(body): self.graph(body) for body in subgraphs_of(node)}
            changes = {
                f.name: bodies[id(item)]
                for f in dataclasses.fields(node)
                if isinstance(item := getattr(node, f.name), Graph) and bodies[id(item)] is not item
            }
            if changes:
                renewed = dataclasses.replace(node, **changes)
                mapping |= dict(zip(node.results(), renewed.results(), strict=True))
        return rebuild(graph, mapping) if mapping else graph

    def constant(self, w: Constant) -> Constant:
        """The rounded weight."""
        key = w.data.ctypes.data
        if key in self.made:
            source, rounded = self.made[key]
            for mine, theirs in ((source, rounded), (source.T, rounded.T)):
                if (mine.shape, mine.strides) == (w.data.shape, w.data.strides):
                    return constant(theirs, origin=w.origin)
        self.made[key] = w.data, self.rounded(w)
        return constant(self.made[key][1], origin=w.origin)

    def rounded(self, w: Constant) -> NDArray[Any]:
        """The elements of `w`, rounded, as f32."""
        order = "F" if w.data.flags.f_contiguous else "C"
        source = w.data.ravel(order)
        rounded = np.empty_like(source)
        largest = error = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, source.size, CHUNK):
                part = source[start : start + CHUNK]
                made = rounded[start : start + CHUNK]
                made[:] = part.astype(self.dtype.to_numpy())
                change = made - part
                most = _largest(part)
                if not np.isfinite(most):  # an infinity less itself is a NaN
                    finite = np.isfinite(part)
                    most, change = _largest(np.where(finite, part, 0)), np.where(finite, change, 0)
                largest, error = max(largest, most), max(error, _largest(change))
        if not np.isfinite(error):
            raise ModelError(
                f"the weights of {describe(w)} reach {largest:.6g}, which {self.dtype} cannot hold",
                remedy="store weights as bf16, or as the model has them",
            )
        if largest:
            self.error = max(self.error, error / largest)
        return rounded.reshape(w.data.shape, order=order)


def _largest(data: NDArray[Any]) -> float:
    """The largest magnitude; NaN or infinite where an element is."""
    return float(np.maximum(data.max(), -data.min()))


def _weights_of(node: Node) -> Iterator[Constant]:
    match node:
        case MatMul(b=w) | Conv(w=w) | Gather(data=w):
            found: tuple[Value, ...] = (w,)
        case Recurrent():
            found = (node.w, node.r)
        case _:
            return
    yield from (w for w in found if isinstance(w, Constant) and w.dtype == f32 and w.data.size >= LARGE)
