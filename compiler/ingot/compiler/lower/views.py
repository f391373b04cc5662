"""Strided views of storages: how lowering says where a value's elements lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ingot.compiler.ir.dims import Dim, equal_products, maximum, multiply
from ingot.compiler.ir.program import Storage
from ingot.compiler.ir.types import Shape


def dense_strides(shape: Shape) -> Shape:
    """Row-major strides in elements; never 0, even where an extent is."""
    strides: list[Dim] = []
    step: Dim = 1
    for extent in reversed(shape):
        strides.append(step)
        step = step if extent == 0 else multiply(step, extent)
    return tuple(reversed(strides))


@dataclass(frozen=True)
class View:
    """Element [i...] of the value lies at ``offset + sum(i * stride)`` elements of `storage`."""

    storage: Storage
    shape: Shape
    strides: Shape
    offset: Dim = 0

    @property
    def is_dense(self) -> bool:
        """True when the elements lie row-major without gaps (the start may be anywhere)."""
        step: Dim = 1
        if 0 in self.shape:
            return True
        for extent, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if extent != 1 and stride != step:
                return False
            step = multiply(step, extent)
        return True

    def at(self, index: Sequence[Dim]) -> Dim:
        """The element offset of `index`, one entry an axis."""
        result = self.offset
        for i, stride in zip(index, self.strides, strict=True):
            result = result + multiply(i, stride)
        return result

    def broadcast_at(self, index: Sequence[Dim], reference: Shape) -> Dim:
        """The offset that the view, broadcast to the shape `reference`, reads for `index`."""
        result = self.offset
        skip = len(reference) - len(self.shape)
        for axis, (extent, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            wanted = reference[axis + skip]
            step = 1 if wanted == 1 else step_of(extent, wanted)
            result = result + multiply(index[axis + skip], multiply(stride, step))
        return result

    def transpose(self, perm: Sequence[int]) -> View:
        """Axis i of the result is axis perm[i]."""
        return replace(self, shape=tuple(self.shape[p] for p in perm), strides=tuple(self.strides[p] for p in perm))

    def slice(self, starts: Shape, sizes: Shape, steps: Sequence[int]) -> View:
        """Elements starts + i * steps for i < sizes, per axis."""
        return replace(
            self,
            shape=sizes,
            offset=self.at(starts),
            strides=tuple(multiply(s, step) for s, step in zip(self.strides, steps, strict=True)),
        )

    def expand(self, shape: Shape) -> View:
        """Broadcast to `shape`: new and stretched axes get stride 0."""
        skip = len(shape) - len(self.shape)
        strides: list[Dim] = [0] * skip
        for axis, (extent, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            strides.append(multiply(stride, step_of(extent, shape[axis + skip])) if extent != 1 else 0)
        return replace(self, shape=shape, strides=tuple(strides))

    def reshape(self, shape: Shape) -> View | None:
        """The view as `shape` if strides can say it, else None."""
        if self.is_dense:
            return replace(self, shape=shape, strides=dense_strides(shape))
        strides = _reshape_strides(self.shape, self.strides, shape)
        return None if strides is None else replace(self, shape=shape, strides=strides)


def step_of(extent: Dim, wanted: Dim) -> Dim:
    """How many elements an axis of `extent`, broadcast to `wanted`, goes on from one index to the next: 1 or 0.

    Whether a symbolic extent is stretched to a constant is known when the model runs: the step is 0 unless the two are
    equal then, so that nothing beyond the storage is read whatever they are.
    """
    if extent == wanted:
        return 1
    if extent == 1 or (isinstance(extent, int) and isinstance(wanted, int)):
        return 0
    return maximum(1 - maximum(extent - wanted, wanted - extent), 0)


def _reshape_strides(old: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Strides of `new` over elements laid out as (old, strides): matches groups of axes with equal products."""
    kept = [(d, s) for d, s in zip(old, strides, strict=True) if d != 1]
    result: list[Dim] = []
    i = j = 0
    while i < len(kept) or j < len(new):
        if j < len(new) and new[j] == 1:
            result.append(1)  # not 0: kernels that write vectors along such an axis need places for their lanes
            j += 1
            continue
        match = equal_products([d for d, _ in kept[i:]], new[j:])
        if match is None:
            return None
        a, b = match
        group = kept[i : i + a]
        for (_, outer), (extent, inner) in pairwise(group):
            if outer != multiply(extent, inner):
                return None
        step = group[-1][1]
        inside: list[Dim] = []
        for extent in reversed(new[j : j + b]):
            inside.append(step)
            step = multiply(step, extent)
        result.extend(reversed(inside))
        i, j = i + a, j + b
    return tuple(result)


def coalesce(extents: Sequence[Dim], strides: Sequence[Sequence[Dim]]) -> tuple[list[Dim], list[list[Dim]]]:
    """Merge neighbouring axes that every operand walks as one, and drop axes of extent 1.

    `strides` holds one sequence of strides per operand. Returns the new extents and strides, outermost first.
    """
    new_extents: list[Dim] = []
    new_strides: list[list[Dim]] = [[] for _ in strides]
    for axis, extent in enumerate(extents):
        if extent == 1:
            continue
        if new_extents and all(
            mine[-1] == multiply(s[axis], extent) for mine, s in zip(new_strides, strides, strict=True)
        ):
            new_extents[-1] = multiply(new_extents[-1], extent)
            for mine, s in zip(new_strides, strides, strict=True):
                mine[-1] = s[axis]
        else:
            new_extents.append(extent)
            for mine, s in zip(new_strides, strides, strict=True):
                mine.append(s[axis])
    return new_extents, new_strides
