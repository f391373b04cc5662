"""All rows of the export: one an operator, by family."""

from ingot.compiler.frontend.export import (
    composite,
    control,
    indexing,
    linear,
    movement,
    pointwise,
    quantised,
    recurrent,
    reduction,
    suppression,
)
from ingot.compiler.frontend.export.table import Table

FAMILIES = {
    "composite": composite.TABLE,
    "control": control.TABLE,
    "indexing": indexing.TABLE,
    "linear": linear.TABLE,
    "movement": movement.TABLE,
    "pointwise": pointwise.TABLE,
    "quantised": quantised.TABLE,
    "recurrent": recurrent.TABLE,
    "reduction": reduction.TABLE,
    "suppression": suppression.TABLE,
}
TABLE = Table(FAMILIES.values())
