"""What the row of an operator sees of its node: operands, attributes, shapes as dims, and the means to build values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ingot.compiler.frontend.building import Building, Dims, N
from ingot.compiler.frontend.errors import ModelError, UnsupportedError
from ingot.compiler.frontend.sizes import bound_size
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, show
from ingot.compiler.ir.graph import Value
from ingot.compiler.ir.types import broadcast_shapes, show_shape
from ingot.compiler.ops.movement import Concat, Expand, Pad, Reshape, Slice
from ingot.compiler.ops.pointwise import Equal, Or
from ingot.runtime.dtypes import i64


@dataclass(frozen=True)
class Context(Building):
    """One node as its row sees it: dims from its inputs, shapes that fit each other, values built for it."""

    def dims(self, index: int, what: str, count: int | None = None, most: Dim | None = None) -> Dims:
        """The elements of input `index`, none of them negative, as dims; symbols stand for what depends on data, which
        is at most `most`. The model makes sense with `count` of them alone, where that is not None."""
        value = self.operand(index)
        if count is not None and value.rank == 1 and not isinstance(value.shape[0], int):
            self.equal(value.shape[0], count)
        found = self.known(value)
        return found if found is not None else tuple(self.size(v, what, most) for v in self.elements(value, what))

    def elements(self, value: Value, what: str) -> tuple[Value, ...]:
        """The elements of an integer value of rank 0 or 1 whose extent is known, each an i64 scalar."""
        if not value.dtype.is_integer or value.rank > 1 or not value.type.is_static:
            raise UnsupportedError(f"{what} is {value.type}: a list of integers of fixed length is needed")
        wide = self.cast(value, i64)
        parts = [wide] if value.rank == 0 else [self.element(wide, i) for i in range(int(value.shape[0]))]
        return tuple(part if (d := self.known(part)) is None else self.dim_values(d, True) for part in parts)

    def size(self, value: Value, what: str, most: Dim | None = None) -> Dim:
        """The i64 scalar `value` as a dim: what it is known to be, or a new symbol bound to it (see `bound_size`)."""
        return bound_size(self, value, what, most)

    def fixed(self, index: int, what: str) -> tuple[int, ...]:
        """As `dims`, but all must be plain ints."""
        found = self.dims(index, what)
        if not all(isinstance(d, int) for d in found):
            reason = "computed from data" if self.bound(*found) else show_shape(found)
            raise UnsupportedError(f"{what} (input {index}) is {reason}, but must be constant")
        return tuple(d for d in found if isinstance(d, int))

    def axis(self, axis: int, rank: int) -> int:
        """`axis` counted from the front; ModelError when it is out of range."""
        if not -rank <= axis < rank:
            raise ModelError(f"axis {axis} is outside {-rank}..{rank - 1}", remedy="run onnx.checker on the model")
        return axis % rank

    def axes(self, axes: Iterable[int], rank: int) -> tuple[int, ...]:
        """Distinct axes counted from the front, in the order given."""
        found = tuple(self.axis(a, rank) for a in axes)
        if len(set(found)) != len(found):
            raise ModelError(f"axes {list(found)} name one axis twice")
        return found

    def scalar(self, value: Value) -> Value:
        """A value of one element with shape []."""
        if value.rank == 0:
            return value
        for d in value.shape:
            self.equal(d, 1)
        return self.build(Reshape, value, ())

    def element(self, value: Value, index: int) -> Value:
        """Element `index` of a value of rank 1, with shape []."""
        if value.rank != 1:
            raise self.error(f"a list is needed, not {value.type}")
        return self.build(Reshape, self.build(Slice, value, (index,), (1,), (1,)), ())

    def expand(self, value: Value, shape: Dims) -> Value:
        """`value` broadcast to exactly `shape`."""
        return value if value.shape == shape else self.build(Expand, value, shape)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """The parts, at least one, one after another along an axis; learns that their other dims are equal."""
        first = parts[0]
        for part in parts[1:]:
            for i, (a, b) in enumerate(zip(first.shape, part.shape, strict=True) if part.rank == first.rank else ()):
                if i != axis:
                    self.equal(a, b)
        return first if len(parts) == 1 else self.build(Concat, tuple(parts), axis)

    def common_shape(self, *shapes: Dims) -> Dims:
        """What the shapes broadcast to, after `broadcast`."""
        self.broadcast(*shapes)
        return broadcast_shapes(shapes)

    def equal(self, a: Dim, b: Dim) -> None:
        """The model is only valid when a == b: learn it where it can be learnt (see `Assumptions.demand_equal`)."""
        bound = self.bound(a, b)
        self.assumptions.demand_equal(a, b, bound or None)
        if bound and a != b:
            equal = self.build(Equal, self.dim_values((a,), True), self.dim_values((b,), True))
            self.require(equal, f"{show(a)} and {show(b)} must be equal for the model to make sense")

    def at_least(self, dim: Dim, low: int, need: str) -> None:
        """The model is only valid when dim >= low, for the reason `need`: bound the symbol where that can be done.

        ModelError when it is impossible. In a sub-graph that may not run nothing is concluded.
        """
        assumptions = self.assumptions
        most = dims.bounds(dim, assumptions.ranges)[1]
        if most < low:
            have = f"{show(dim)} is at most {most}" if not isinstance(dim, int) else f"there are only {dim}"
            raise self.error(f"{need}, but {have}", "correct the model or the shapes given")
        if not self.scope.is_closed:
            self.scope.importer.narrow(assumptions.demand_at_least(dim, low))

    def broadcast(self, *shapes: Sequence[Dim]) -> None:
        """The shapes are about to be broadcast: learn what makes different symbolic dims equal."""
        rank = max((len(s) for s in shapes), default=0)
        for axis in range(1, rank + 1):
            column: list[Dim] = []
            for shape in shapes:
                if len(shape) >= axis and shape[-axis] != 1 and shape[-axis] not in column:
                    column.append(shape[-axis])
            constants = [d for d in column if isinstance(d, int)]
            for other in column if constants else ():
                if not isinstance(other, int):
                    self._one_or(other, constants[0])
            for other in column[1:] if not constants else ():
                if self._is_row(column[0]) or self._is_row(other):
                    raise self._unrelated(column[0], other)
                if bound := self.bound(column[0], other):
                    self.assumptions.demand_equal(column[0], other, bound)
                self.assumptions.suggest_equal(column[0], other)
                raise self._unrelated(column[0], other)

    def _one_or(self, dim: Dim, extent: int) -> None:
        """A symbolic dim is broadcast with a constant: it is the same, or else 1."""
        if self.bound(dim):
            self.equal(dim, extent)
            return
        self.assumptions.suggest_equal(dim, extent)
        value = self.dim_values((dim,), True)
        fits = [self.build(Equal, value, self.dim_values((d,), True)) for d in (1, extent)]
        self.require(self.build(Or, *fits), f"{show(dim)} is broadcast with {extent}: it must be 1 or {extent}")

    def _unrelated(self, a: Dim, b: Dim) -> UnsupportedError:
        return UnsupportedError(
            f"dims {show(a)} and {show(b)} are broadcast, but nothing says that they are equal",
            remedy="if they are, give both one name with shapes; otherwise pin one of them",
        )

    def broadcast_to(self, target: Sequence[Dim], *shapes: Sequence[Dim]) -> None:
        """The shapes are about to be broadcast to `target` itself: their dims are 1 or equal to its own."""
        for shape in shapes:
            for have, want in zip(reversed(shape), reversed(target), strict=False):
                if have != 1 and want != 1:
                    self.equal(have, want)
                    self.broadcast((have,), (want,))

    def pointwise(self, op: Callable[..., N], *operands: Value) -> N:
        """A pointwise node, after `broadcast`."""
        found = self.whole_rows(*operands)
        self.broadcast(*(v.shape for v in found))
        return self.build(op, *found)

    def _is_row(self, dim: Dim) -> bool:
        """Whether a symbolic dim is 0 or 1, as that of the first row of something is."""
        return not isinstance(dim, int) and dims.bounds(dim, self.assumptions.ranges)[1] <= 1

    def whole_rows(self, *operands: Value, behind: int = 0) -> list[Value]:
        """`operands` that are about to be broadcast but for `behind` axes. An extent that is 0 or 1 becomes 1, by an
        element that is added where there is none: then there may be none of the others either, which is checked."""
        found = list(operands)
        for axis in range(1 + behind, max(v.rank for v in operands) + 1):
            column = dict.fromkeys(v.shape[-axis] for v in operands if v.rank >= axis and v.shape[-axis] != 1)
            for dim in [d for d in column if self._is_row(d)] if len(column) > 1 else ():
                for other in column:
                    if other != dim and dim != dims.minimum(other, 1):
                        fits = [self.build(Equal, *self._scalars(*pair)) for pair in ((dim, 1), (other, 0))]
                        problem = f"{show(dim)} is broadcast with {show(other)}: it must be 1"
                        self.require(self.build(Or, *fits), problem)
                for i, value in enumerate(operands):
                    if value.rank >= axis and value.shape[-axis] == dim:
                        ends = (1 - dim if a == value.rank - axis else 0 for a in range(value.rank))
                        pads = (*(0,) * value.rank, *ends)
                        found[i] = self.build(Pad, found[i], pads, "constant", self.constant(0, value.dtype))
        return found

    def _scalars(self, *values: Dim) -> list[Value]:
        return [self.dim_values((d,), True) for d in values]
