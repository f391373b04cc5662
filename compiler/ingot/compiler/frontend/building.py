"""Values built for a node: constants, conversions, and checks in front of its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from ingot.compiler.frontend.assumptions import Assumptions
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.frontend.folding import fold
from ingot.compiler.frontend.reading import Reading
from ingot.compiler.frontend.sequences import (
    ITEMS,
    Item,
    Optional,
    RaggedSequence,
    Results,
    TensorSequence,
    mapped,
    tensors_of,
)
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Array, Constant, Node, Value, constant
from ingot.compiler.ops.control import Require
from ingot.compiler.ops.movement import DimValues
from ingot.compiler.ops.pointwise import Cast
from ingot.compiler.ops.shape_arithmetic import contents, known_dims
from ingot.runtime.dtypes import DType

Dims = tuple[Dim, ...]
N = TypeVar("N", bound=Node)


@dataclass(frozen=True)
class Building(Reading):
    """A node for which values are built; what they require is checked in front of its results."""

    _required: list[tuple[Value, str]] = field(default_factory=list[tuple[Value, str]], repr=False)

    @property
    def assumptions(self) -> Assumptions:
        """What is known about symbolic dims."""
        return self.scope.importer.assumptions

    def known(self, value: Value) -> Dims | None:
        """The elements of an integer value in row-major order as dims, None when they depend on data."""
        found = known_dims(value)
        return None if found is None else tuple(self.assumptions.simplified(d) for d in found)

    def bound(self, *found: Dim) -> tuple[str, ...]:
        """The symbols of dims that come from data, in the order of their values."""
        symbols = frozenset(s for d in found for s in dims.symbols(d))
        return tuple(s for s in self.scope.importer.bound if s in symbols)

    def decided(self, condition: Value) -> bool | None:
        """The value of a condition that follows from constants and shapes, None when it depends on data."""
        found = contents(condition)
        if found is not None and found.size == 1 and isinstance(found.item(), bool):
            return found.item()
        array = self.array(condition)
        return None if array is None or array.size != 1 else bool(array.item())

    def array(self, value: Value) -> Array | None:
        """The contents of a small value as an array, None when they depend on data or on symbolic dims."""
        return fold(value)

    def build(self, op: Callable[..., N], *fields: object) -> N:
        """A node with this node's origin."""
        return op(*fields, origin=self.origin)

    def constant(self, data: Array | float | int | bool | Sequence[int], dtype: DType | None = None) -> Constant:
        """A constant with this node's origin."""
        return constant(data if isinstance(data, int) else np.asarray(data), dtype, self.origin)

    def dim_values(self, values: Dims, scalar: bool) -> Value:
        """i64 data made of dims: a constant where all are ints."""
        if all(isinstance(d, int) for d in values):
            array = np.array(values, np.int64)
            return self.constant(array.reshape(()) if scalar else array)
        return self.build(DimValues, values, scalar)

    def cast(self, value: Value, to: DType) -> Value:
        """`value` with elements of the type `to`, by a Cast where it has others."""
        return value if value.dtype == to else self.build(Cast, value, to)

    def require(self, condition: Value, message: str) -> None:
        """This node is only right where `condition` (bool []) holds: its results are checked, see also `checked`."""
        if self.decided(condition) is not True:
            self._required.append((condition, message))

    def checked(self, *values: Value) -> tuple[Value, ...]:
        """`values` as they are where all that was required so far holds; otherwise the run ends."""
        for condition, message in self._required:
            values = self.build(Require, values, condition, True, message).results()
        self._required.clear()
        return values

    def guarded(self, results: Results) -> Results:
        """The results of the node, checked."""
        if not self._required:
            return results
        values = (results,) if isinstance(results, ITEMS) else tuple(results)
        present = [v for item in values if item is not None for v in tensors_of(item)]
        renewed = dict(zip(present, self.checked(*present), strict=True))
        return [None if item is None else mapped(item, renewed.__getitem__) for item in values]

    def held(self, optional: Optional) -> Item:
        """What an optional holds. Where its presence depends on data, a run in which it holds nothing ends."""
        if optional.content is None:
            raise self.error("OptionalGetElement of an empty optional value")
        if optional.present is None:
            return optional.content
        self.require(optional.present, "the content of an empty optional value is needed")
        tensors = tensors_of(optional.content)
        renewed = dict(zip(tensors, self.checked(*tensors), strict=True))
        return mapped(optional.content, renewed.__getitem__)

    def sequence(self, index: int) -> TensorSequence | RaggedSequence:
        """Input `index`, which must be a sequence, or an optional that holds one."""
        found = self.item(index)
        if isinstance(found, Optional) and found.content is not None:
            found = self.held(found)
        if not isinstance(found, TensorSequence | RaggedSequence):
            raise ModelError(f"input {index} is no sequence", remedy="run onnx.checker on the model")
        return found
