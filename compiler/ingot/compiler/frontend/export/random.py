"""What random numbers begin with: ONNX has random numbers themselves alone, of which the words are made."""

from __future__ import annotations

from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.frontend.weights import CODES
from ingot.compiler.ops import random as ops
from ingot.runtime.dtypes import f32, i64, u64

TABLE = Table()

WORD = 2**16  # numbers that a f32 between 0 and 1 tells apart with bits to spare
WORDS = 3  # of them in an i64 that is not negative


@TABLE.exports(ops.Entropy)
def entropy(scope: Scope, node: ops.Entropy) -> Written:
    """Another u64 [2] in every run, by the generator of the runtime."""
    drawn = scope.add("RandomUniform", dtype=CODES[f32], low=0.0, high=float(WORD), shape=[2, WORDS])
    words = scope.cast(scope.add("Floor", drawn), f32, i64)
    placed = scope.add("Mul", words, scope.constant([WORD**i for i in range(WORDS)], "places"))
    return scope.cast(scope.add("ReduceSum", placed, scope.constant([1], "axes"), keepdims=0), i64, u64)
