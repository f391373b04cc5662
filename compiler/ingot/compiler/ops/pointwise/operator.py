"""What pointwise operators have in common: operands that broadcast as in numpy, and one scalar function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ingot.compiler.ir.graph import Array, Node, Value, operands_of
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import broadcast, require_kind, same_dtype
from ingot.runtime.dtypes import Kind, boolean

FLOAT: frozenset[Kind] = frozenset(("float",))
NUMBER: frozenset[Kind] = frozenset(("float", "signed", "unsigned"))
SIGNED: frozenset[Kind] = frozenset(("float", "signed"))
LOGICAL: frozenset[Kind] = frozenset(("bool",))
ANY: frozenset[Kind] = frozenset(("float", "signed", "unsigned", "bool"))
COMPARABLE: frozenset[Kind] = frozenset((*ANY, "string"))


@dataclass(frozen=True, eq=False, repr=False)
class Pointwise(Node):
    """An operator whose result has the broadcast shape of its operands.

    `scalar` is the function of `ir.loops.FUNCTIONS` that gives one element; `accepts` the element kinds allowed.
    Operands share one element type, which is the result's (or bool, where `predicate` is set).
    """

    scalar: ClassVar[str]
    accepts: ClassVar[frozenset[Kind]] = NUMBER
    predicate: ClassVar[bool] = False

    def infer(self) -> Sequence[TensorType]:
        operands = operands_of(self)
        for value in operands:
            require_kind(self, value, self.accepts, "an operand")
        dtype = same_dtype(self, *operands)
        return (TensorType(boolean if self.predicate else dtype, broadcast(self, *operands)),)

    def compute(self, *operands: Array) -> Array:
        """The result for operands that broadcast; its dtype may be wider than the result type."""
        raise NotImplementedError(type(self).__name__)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        with np.errstate(all="ignore"):
            return (np.asarray(self.compute(*operands)).astype(self.types[0].dtype.to_numpy(), copy=False),)


@dataclass(frozen=True, eq=False, repr=False)
class Unary(Pointwise):
    """A pointwise operator of one operand; `function` is applied to f64 unless `compute` says otherwise."""

    x: Value
    accepts = FLOAT
    function: ClassVar[Callable[[Any], Any]]

    def compute(self, *operands: Array) -> Array:
        return type(self).function(operands[0].astype(np.float64))


@dataclass(frozen=True, eq=False, repr=False)
class Binary(Pointwise):
    """A pointwise operator of two operands; `function` is applied to them as they are."""

    a: Value
    b: Value
    function: ClassVar[Callable[[Any, Any], Any]]

    def compute(self, *operands: Array) -> Array:
        return type(self).function(*operands)
