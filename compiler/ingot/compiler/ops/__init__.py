"""The operators, one family a file. Importing this package makes every op known to the text form."""

from ingot.compiler.ops import (
    bitwise,
    composite,
    control,
    fused,
    host,
    indexing,
    linear,
    movement,
    pointwise,
    quantised,
    random,
    recurrent,
    reduction,
    resample,
    suppression,
    transposed,
)

__all__ = [
    "bitwise",
    "composite",
    "control",
    "fused",
    "host",
    "indexing",
    "linear",
    "movement",
    "pointwise",
    "quantised",
    "random",
    "recurrent",
    "reduction",
    "resample",
    "suppression",
    "transposed",
]
