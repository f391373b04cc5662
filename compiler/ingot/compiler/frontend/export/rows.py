"""All rows of the export: one an operator, by family."""

from ingot.compiler.frontend.export import (
    blocks,
    composite,
    control,
    custom,
    host,
    indexing,
    linear,
    movement,
    pointwise,
    quantised,
    random,
    recurrent,
    reduction,
    suppression,
)
from ingot.compiler.frontend.export.table import Table

FAMILIES = {
    "blocks": blocks.TABLE,
    "composite": composite.TABLE,
    "control": control.TABLE,
    "custom": custom.TABLE,
    "host": host.TABLE,
    "indexing": indexing.TABLE,
    "linear": linear.TABLE,
    "movement": movement.TABLE,
    "pointwise": pointwise.TABLE,
    "quantised": quantised.TABLE,
    "random": random.TABLE,
    "recurrent": recurrent.TABLE,
    "reduction": reduction.TABLE,
    "suppression": suppression.TABLE,
}
TABLE = Table(FAMILIES.values())
