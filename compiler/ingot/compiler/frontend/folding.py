"""Values that can be computed while the model is imported: small ones that depend on constants only."""

from __future__ import annotations

import math

import numpy as np

from ingot.compiler.ir.graph import Array, Constant, Result, Value, node_of, operands_of, subgraphs_of
from ingot.compiler.ir.types import IrError
from ingot.compiler.ops.shape_arithmetic import known_dims

LARGEST = 4096  # elements: more is data, not a parameter
DEEPEST = 64  # nodes between the value and its constants


def fold(value: Value) -> Array | None:
    """The contents of `value`, None when it is large or depends on inputs or symbolic dims."""
    return _fold(value, 0, {})


def _fold(value: Value, depth: int, done: dict[Value, Array | None]) -> Array | None:
    if isinstance(value, Constant):
        return value.data
    if value not in done:
        done[value] = _compute(value, depth, done)
    return done[value]


def _compute(value: Value, depth: int, done: dict[Value, Array | None]) -> Array | None:
    if depth > DEEPEST or not value.type.is_static or math.prod(value.type.static_shape()) > LARGEST:
        return None
    if value.dtype.is_integer:
        dims = known_dims(value)
        if dims is not None:
            if not all(isinstance(d, int) for d in dims):
                return None
            return np.array(dims, value.dtype.to_numpy()).reshape(value.type.static_shape())
    node = node_of(value)
    operands = operands_of(node)
    if not operands or subgraphs_of(node):
        return None
    arrays: list[Array] = []
    for operand in operands:
        array = _fold(operand, depth + 1, done)
        if array is None or array.size > LARGEST:
            return None
        arrays.append(array)
    try:
        results = node.evaluate(*arrays)
    except IrError:  # a symbolic dim in an attribute
        return None
    return results[value.index] if isinstance(value, Result) else results[0]
