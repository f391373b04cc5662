"""The table of examples, by family of operators."""

from benchmarks.grid.examples import Table
from benchmarks.grid.operators import (
    indexing,
    linear,
    movement,
    normalization,
    pointwise,
    quantised,
    reduction,
    structure,
)

TABLE = Table(
    module.TABLE for module in (indexing, linear, movement, normalization, pointwise, quantised, reduction, structure)
)

__all__ = ["TABLE"]
