"""Tables that are looked things up in: alone, or in the panels of a product that multiplies by the same weights.

Language models multiply by their table of embeddings, transposed, once more at the end ("tied" weights). Where weights
lie in one form only, rows of the table are read from the panels: column `i` of the matrix is row `i` of the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Array, Constant, Graph, Value, subgraphs_of
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.contraction import Products, packed_matrix, stored_elements
from ingot.compiler.lower.views import View, dense_strides
from ingot.compiler.lower.weight_forms import LARGE
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.linear import MatMul
from ingot.runtime.dtypes import f32

_Place: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...], str]


@dataclass(frozen=True)
class Table:
    """Where the elements of a table lie: `view` as they are, or with `width` as the columns of panels that wide."""

    view: View
    width: int | None = None

    def at(self, index: Sequence[Dim]) -> Dim:
        """The offset of the element at `index`."""
        if self.width is None:
            return self.view.at(index)
        row, column = index
        depth = self.view.shape[1]
        return self.view.offset + ((row // self.width) * depth + column) * self.width + row % self.width


def find_table(context: Context, data: Value, axis: int) -> Table:
    """Where `data` lies, whose rows along `axis` are looked up."""
    if isinstance(data, Constant) and data.rank == 2 and axis == 0:
        matrix = context.matrices.get(place_of(data.data.T))
        if matrix is not None:
            (width,) = context.forms.widths(matrix, matrix.data.shape[1])
            packed = packed_matrix(context, matrix, width, Products.widening(context, matrix))
            return Table(View(packed, data.type.shape, (1, 1)), width)
    if isinstance(data, Constant) and data.dtype == f32 and data.data.size >= LARGE:
        elements, dtype = stored_elements(context, data, f32)
        if dtype != f32:
            narrow = context.weight(data, ("table",), elements, dtype)
            return Table(View(narrow, data.type.shape, dense_strides(data.type.shape)))
    return Table(context.view(data))


def place_of(data: Array) -> _Place:
    """Where an array's elements lie in memory: the same for all views of the same elements in the same order."""
    return data.ctypes.data, data.shape, data.strides, data.dtype.str


def matrices_of(graph: Graph) -> dict[_Place, Constant]:
    """The constant matrices of floats that `graph` and its sub-graphs multiply by, by their places."""
    return {place_of(b.data): b for b in _matrices(graph)}


def _matrices(graph: Graph) -> Iterator[Constant]:
    for node in graph.nodes():
        if isinstance(node, MatMul) and isinstance(node.b, Constant) and node.b.rank == 2 and node.b.dtype.is_float:
            yield node.b
        for body in (node.body,) if isinstance(node, Fused) else subgraphs_of(node):
            yield from _matrices(body)
