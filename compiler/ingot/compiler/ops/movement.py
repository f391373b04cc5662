"""Data movement: operators that copy elements without computing. Any element type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from ingot.compiler.ir.dims import Dim, product, show
from ingot.compiler.ir.graph import Array, Node, Value, op
from ingot.compiler.ir.types import IrError, TensorType, broadcast_shapes, show_shape
from ingot.compiler.ops.checks import equal_dims, fail, ints, provably_different, require_axis, require_kind, same_dtype
from ingot.compiler.ops.pointwise import NUMBER
from ingot.runtime.dtypes import i64, string

Dims: TypeAlias = tuple[Dim, ...]
PadMode: TypeAlias = Literal["constant", "reflect", "edge", "wrap"]


def _check_extents(node: Node, dims: Sequence[Dim], what: str) -> None:
    if any(isinstance(d, int) and d < 0 for d in dims):
        fail(node, f"{what} {show_shape(dims)} has a negative entry")


@op("reshape")
class Reshape(Node):
    """The elements of x in row-major order with another shape of the same size (-1 and 0 have been resolved)."""

    x: Value
    shape: Dims = ()  # pyright: ignore[reportIncompatibleMethodOverride] - the result's shape; the default hides the property

    def infer(self) -> Sequence[TensorType]:
        _check_extents(self, self.shape, "shape")
        if provably_different(self.x.type.size, product(self.shape)):
            said = show_shape(self.shape)
            fail(self, f"{self.x.type} has {show(self.x.type.size)} elements, shape {said} another number")
        return (TensorType(self.x.dtype, self.shape),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        return (operands[0].reshape(ints(self.shape)),)


@op("transpose")
class Transpose(Node):
    """Result axis i is axis ``perm[i]`` of x."""

    x: Value
    perm: tuple[int, ...]

    def infer(self) -> Sequence[TensorType]:
        if sorted(self.perm) != list(range(self.x.rank)):
            fail(self, f"perm {self.perm} is no permutation of the axes of {self.x.type}")
        return (TensorType(self.x.dtype, tuple(self.x.shape[p] for p in self.perm)),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        return (np.transpose(operands[0], self.perm),)


@op("expand")
class Expand(Node):
    """x repeated along axes of extent 1 and along new leading axes; `shape` is the result's."""

    x: Value
    shape: Dims = ()  # pyright: ignore[reportIncompatibleMethodOverride] - the result's shape; the default hides the property

    def infer(self) -> Sequence[TensorType]:
        _check_extents(self, self.shape, "shape")
        try:
            common = broadcast_shapes((self.x.type.shape, self.shape))
        except IrError as error:
            fail(self, f"{self.x.type} does not expand to {show_shape(self.shape)}: {error}")
        if common != self.shape:
            said = show_shape(self.shape)
            fail(self, f"{self.x.type} does not expand to {said}: together they are {show_shape(common)}")
        return (TensorType(self.x.dtype, self.shape),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        return (np.broadcast_to(operands[0], ints(self.shape)),)


@op("slice")
class Slice(Node):
    """Elements ``starts + i * steps`` for i below `sizes`, per axis; already clamped. Steps may be negative, not 0."""

    x: Value
    starts: Dims
    sizes: Dims
    steps: tuple[int, ...]

    def infer(self) -> Sequence[TensorType]:
        x = self.x
        if not len(self.starts) == len(self.sizes) == len(self.steps) == x.rank:
            fail(self, f"starts, sizes and steps need {x.rank} entries each, one an axis of {x.type}")
        _check_extents(self, self.sizes, "sizes")
        if 0 in self.steps:
            fail(self, f"steps {self.steps} has a 0")
        for axis, (start, size, step, extent) in enumerate(
            zip(self.starts, self.sizes, self.steps, x.shape, strict=True)
        ):
            if size == 0:
                continue
            for place in (start, start + (size - 1) * step):
                below = isinstance(place, int) and place < 0
                beyond = isinstance(above := place - extent, int) and above >= 0
                if isinstance(size, int) and (below or beyond):
                    fail(self, f"element {show(place)} is outside axis {axis} of {x.type}")
        return (TensorType(x.dtype, self.sizes),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        index: list[slice] = []
        for start, size, step in zip(ints(self.starts), ints(self.sizes), self.steps, strict=True):
            stop = start + size * step
            index.append(slice(start, None if stop < 0 else stop, step) if size else slice(0, 0))
        return (operands[0][tuple(index)],)


@op("concat")
class Concat(Node):
    """The parts one after another along `axis`; their other dims agree."""

    parts: tuple[Value, ...]
    axis: int

    def infer(self) -> Sequence[TensorType]:
        if not self.parts:
            fail(self, "at least one part is needed")
        dtype = same_dtype(self, *self.parts)
        first = self.parts[0]
        require_axis(self, self.axis, first.rank)
        dims: list[Dim] = list(first.shape)
        for part in self.parts[1:]:
            if part.rank != first.rank:
                fail(self, f"parts {first.type} and {part.type} have different ranks")
            for i, d in enumerate(part.shape):
                if i == self.axis:
                    dims[i] = dims[i] + d
                else:
                    dims[i] = equal_dims(self, dims[i], d, f"dims of axis {i} of {first.type} and {part.type}")
        return (TensorType(dtype, tuple(dims)),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        return (np.concatenate(operands, self.axis),)


@op("pad")
class Pad(Node):
    """x with `pads` (begins, then ends) elements added per axis; negative pads remove.

    mode "constant" writes `value` (rank 0, x's dtype; None is 0), "edge" repeats the border, "reflect" mirrors without
    repeating it, "wrap" continues periodically. Elements are removed first. ONNX Pad.
    """

    x: Value
    pads: Dims
    mode: PadMode
    value: Value | None

    def infer(self) -> Sequence[TensorType]:
        x = self.x
        if len(self.pads) != 2 * x.rank:
            fail(self, f"pads {show_shape(self.pads)} needs {2 * x.rank} entries for {x.type}")
        if self.mode not in ("constant", "reflect", "edge", "wrap"):
            fail(self, f"unknown mode {self.mode!r}: use constant, reflect, edge or wrap")
        if self.value is None and self.mode == "constant" and x.dtype == string:
            fail(self, "strings are padded with a value, there is none")
        if self.value is not None:
            if self.mode != "constant":
                fail(self, f"mode {self.mode} takes no value")
            if self.value.dtype != x.dtype or self.value.rank != 0:
                fail(self, f"the value is {self.value.type}, {x.dtype}[] is needed")
        shape = tuple(d + self.pads[i] + self.pads[x.rank + i] for i, d in enumerate(x.shape))
        _check_extents(self, shape, "the result's shape")
        return (TensorType(x.dtype, shape),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        x = operands[0]
        pads = ints(self.pads)
        n = x.ndim
        for axis in range(n):  # an end may cut into what the other end pads: pad what is positive after cutting
            begin, end = pads[axis], pads[n + axis]
            length = x.shape[axis]
            x = np.take(x, range(max(-begin, 0), length - max(-end, 0)), axis) if min(begin, end) < 0 else x
        widths = [(max(pads[i], 0), max(pads[n + i], 0)) for i in range(n)]
        if self.mode == "constant":
            value = operands[1] if self.value is not None else np.zeros((), x.dtype)
            return (np.pad(x, widths, constant_values=value[()]),)
        if any(x.shape[i] == 0 and sum(w) for i, w in enumerate(widths)):
            fail(self, f"mode {self.mode} has nothing to repeat along an axis without elements")
        return (np.pad(x, widths, mode=self.mode),)


@op("gather")
class Gather(Node):
    """``data`` at `indices` along `axis`: [*before, *indices.shape, *after]. Negative indices count from the end."""

    data: Value
    indices: Value
    axis: int

    def infer(self) -> Sequence[TensorType]:
        if not self.indices.dtype.is_integer:
            fail(self, f"indices are {self.indices.type}: integers are needed")
        require_axis(self, self.axis, self.data.rank)
        before, after = self.data.shape[: self.axis], self.data.shape[self.axis + 1 :]
        return (TensorType(self.data.dtype, (*before, *self.indices.shape, *after)),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        data, indices = operands
        extent = data.shape[self.axis]
        wide = indices.astype(np.int64)
        outside = (wide < -extent) | (wide >= extent)
        if outside.any():
            fail(self, f"index {int(wide[outside].ravel()[0])} is outside -{extent}..{extent - 1} of axis {self.axis}")
        taken = np.take(data, np.where(wide < 0, wide + extent, wide), self.axis)
        return (np.asarray(taken, data.dtype),)  # one string is no array


@op("split")
class Split(Node):
    """x cut along `axis` into parts of the given sizes: one result a part."""

    x: Value
    axis: int
    sizes: Dims

    def infer(self) -> Sequence[TensorType]:
        x = self.x
        require_axis(self, self.axis, x.rank)
        if not self.sizes:
            fail(self, "at least one size is needed")
        _check_extents(self, self.sizes, "sizes")
        total: Dim = 0
        for size in self.sizes:
            total = total + size
        if provably_different(total, x.shape[self.axis]):
            fail(self, f"sizes {show_shape(self.sizes)} do not add up to axis {self.axis} of {x.type}")
        before, after = x.shape[: self.axis], x.shape[self.axis + 1 :]
        return tuple(TensorType(x.dtype, (*before, size, *after)) for size in self.sizes)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        cuts = np.cumsum(ints(self.sizes))[:-1]
        return tuple(np.split(operands[0], cuts.tolist(), self.axis))


@op("dim_values")
class DimValues(Node):
    """i64 data made of dims: [n], or [] with `scalar` (exactly one dim)."""

    dims: Dims
    scalar: bool

    def infer(self) -> Sequence[TensorType]:
        if self.scalar and len(self.dims) != 1:
            fail(self, f"a scalar holds one dim, not {len(self.dims)}")
        return (TensorType(i64, () if self.scalar else (len(self.dims),)),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        data = np.asarray(ints(self.dims), np.int64)
        return (data.reshape(()) if self.scalar else data,)


@op("iota")
class Iota(Node):
    """``start + i * step`` for i below `length`; start and step are scalars of one element type. ONNX Range."""

    start: Value
    step: Value
    length: Dim

    def infer(self) -> Sequence[TensorType]:
        dtype = same_dtype(self, self.start, self.step)
        require_kind(self, self.start, NUMBER, "start")
        if self.start.rank or self.step.rank:
            fail(self, f"start {self.start.type} and step {self.step.type} must be scalars: reshape them to []")
        _check_extents(self, (self.length,), "length")
        return (TensorType(dtype, (self.length,)),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        start, step = operands
        count = np.arange(ints((self.length,))[0])
        dtype = self.start.dtype.to_numpy()
        with np.errstate(all="ignore"):
            if self.start.dtype.is_integer:
                return (start + count.astype(dtype) * step,)
            return ((start.astype(np.float64) + count * step.astype(np.float64)).astype(dtype),)
