"""The ONNX operators that the importer knows: one row each, by family; `TABLE` is all of them."""

from ingot.compiler.frontend.operators import (
    activation,
    contraction,
    control,
    creation,
    einsum,
    indexing,
    movement,
    normalization,
    pointwise,
    pooling,
    quantised,
    recurrent,
    reduction,
    resize,
    sampling,
    scan,
    sequence,
    signal,
    slicing,
    suppression,
    text,
    training,
    unique,
)
from ingot.compiler.frontend.operators.table import Table

FAMILIES = {
    "activation": activation.TABLE,
    "contraction": contraction.TABLE,
    "control": control.TABLE,
    "creation": creation.TABLE,
    "einsum": einsum.TABLE,
    "indexing": indexing.TABLE,
    "movement": movement.TABLE,
    "normalization": normalization.TABLE,
    "pointwise": pointwise.TABLE,
    "pooling": pooling.TABLE,
    "quantised": quantised.TABLE,
    "recurrent": recurrent.TABLE,
    "reduction": reduction.TABLE,
    "resize": resize.TABLE,
    "sampling": sampling.TABLE,
    "scan": scan.TABLE,
    "sequence": sequence.TABLE,
    "signal": signal.TABLE,
    "slicing": slicing.TABLE,
    "suppression": suppression.TABLE,
    "text": text.TABLE,
    "training": training.TABLE,
    "unique": unique.TABLE,
}
TABLE = Table(FAMILIES.values())

__all__ = ["FAMILIES", "TABLE"]
