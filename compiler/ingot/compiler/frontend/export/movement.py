"""Reshaping, transposing, joining, cutting, repeating, padding, gathering and counting.

Shapes that are constant, or can be said with ONNX's 0 (copy this extent) and -1 (what is left), stay constants; the
others are computed from the extents of the graph's inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.frontend.export.errors import ExportError
from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.frontend.export.tensors import tensor
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Constant, Value, constant, describe
from ingot.compiler.ops import movement as ops
from ingot.compiler.ops.pointwise import Add, Cast, Mul
from ingot.compiler.ops.shape_arithmetic import larger
from ingot.runtime.dtypes import f64, i32, i64

TABLE = Table()

FAR = 2**63 - 1  # beyond the end of any axis


# -- shape changes ----------------------------------------------------------------------------------------------------


@TABLE.exports(ops.Reshape)
def reshape(scope: Scope, node: ops.Reshape) -> Written:
    have, want = node.x.shape, node.shape
    if have == want:
        return scope.name(node.x)
    x = scope.name(node.x)
    if not all(isinstance(d, int) for d in want):
        if (axes := _inserted(have, want)) is not None:
            return scope.add("Unsqueeze", x, scope.constant(axes, "axes"))
        if (axes := _inserted(want, have)) is not None:
            return scope.add("Squeeze", x, scope.constant(axes, "axes"))
    spelled = _spelled(scope, node)
    if spelled is not None:
        return scope.add("Reshape", x, scope.constant(spelled, "shape") if spelled else scope.shape((), "shape"))
    if scope.opset >= 14:
        return scope.add("Reshape", x, scope.shape(want), allowzero=1)
    if 0 in want:  # nothing to reshape: elements need no source
        zero = tensor(np.zeros(1, node.x.dtype.to_numpy()))
        return scope.add("ConstantOfShape", scope.shape(want), value=zero)
    return _never_copied(node) if _copies(scope, node) else scope.add("Reshape", x, scope.shape(want))


def _copies(scope: Scope, node: ops.Reshape) -> bool:
    """Whether an extent that turns out to be 0 would be taken for ONNX's "copy this extent", of one that is not 0."""
    for axis, dim in enumerate(node.shape):
        own = node.x.shape[axis] if axis < node.x.rank else 1
        if own != 0 and dims.bounds(dim, scope.export.ranges)[0] < 1:
            times = dims.divide_exact(dim, own)
            if times is None or dims.bounds(times, scope.export.ranges)[0] < 1:
                return True
    return False


def _never_copied(node: ops.Reshape) -> Value:
    """A reshape without an extent of 0: where there is one the elements are none, and as many are added as a shape of 1
    in its place needs, which are cut off again."""
    want = node.shape
    filled = tuple(dims.maximum(d, 1) for d in want)
    flat = ops.Reshape(node.x, (node.x.type.size,))
    missing = ops.Expand(constant(0, node.x.dtype), (dims.product(filled) - node.x.type.size,))
    whole = ops.Reshape(ops.Concat((flat, missing), 0), filled)
    return ops.Slice(whole, (0,) * len(want), want, (1,) * len(want))


def _inserted(short: Sequence[Dim], long: Sequence[Dim]) -> list[int] | None:
    """The axes of `long` that are 1 and without which it is `short`."""
    axes: list[int] = []
    rest = list(short)
    for axis, dim in enumerate(long):
        if rest and rest[0] == dim:
            rest.pop(0)
        elif dim == 1:
            axes.append(axis)
        else:
            return None
    return axes if axes and not rest else None


def _spelled(scope: Scope, node: ops.Reshape) -> list[int] | None:
    """The shape as constants, with 0 for an extent that stays in its place and -1 for one that follows from the others;
    None where that would not be exact for every value of the symbols, 0 included."""
    have, want = node.x.shape, node.shape
    if 0 in want:
        return None
    copied = [i < len(have) and not isinstance(d, int) and have[i] == d for i, d in enumerate(want)]
    open_axes = [i for i, d in enumerate(want) if not isinstance(d, int) and not copied[i]]
    if len(open_axes) > 1:
        return None
    if open_axes:
        others = [d for i, d in enumerate(want) if i not in open_axes]
        if any(dims.bounds(d, scope.export.ranges)[0] < 1 for d in others):
            return None
        if dims.divide_exact(node.x.type.size, dims.product(others)) != want[open_axes[0]]:
            return None
    return [-1 if i in open_axes else 0 if copied[i] else d if isinstance(d, int) else -1 for i, d in enumerate(want)]


@TABLE.exports(ops.Transpose)
def transpose(scope: Scope, node: ops.Transpose) -> Written:
    if node.perm == tuple(range(node.x.rank)):
        return scope.name(node.x)
    return scope.add("Transpose", scope.name(node.x), perm=list(node.perm))


@TABLE.exports(ops.Expand)
def expand(scope: Scope, node: ops.Expand) -> Written:
    x, want = node.x.shape, node.shape
    if x == want:
        return scope.name(node.x)
    new = len(want) - len(x)
    spelled = [1 if i >= new and x[i - new] == d else d for i, d in enumerate(want)]
    compute = scope.compute_type("Expand", node.x.dtype, node)
    operand = scope.cast(scope.name(node.x), node.x.dtype, compute)
    return scope.cast(scope.add("Expand", operand, scope.shape(spelled)), compute, node.x.dtype)


# -- joining and cutting ----------------------------------------------------------------------------------------------


@TABLE.exports(ops.Concat)
def concat(scope: Scope, node: ops.Concat) -> Written:
    if len(node.parts) == 1:
        return scope.name(node.parts[0])
    return scope.add("Concat", *(scope.name(v) for v in node.parts), axis=node.axis)


@TABLE.exports(ops.Split)
def split(scope: Scope, node: ops.Split) -> Written:
    return scope.add_many(
        "Split", (scope.name(node.x), scope.shape(node.sizes, "sizes")), len(node.sizes), axis=node.axis
    )


@TABLE.exports(ops.Slice)
def slice_(scope: Scope, node: ops.Slice) -> Written:
    x = scope.name(node.x)
    axes: list[int] = []
    first: list[Dim] = []
    last: list[Dim] = []
    for axis, (start, size, step, extent) in enumerate(
        zip(node.starts, node.sizes, node.steps, node.x.shape, strict=True)
    ):
        if start == 0 and step == 1 and size == extent:
            continue
        bounds = _forwards(start, size, step, extent) if step > 0 else _backwards(scope, start, size, step, extent)
        if bounds is None:
            x = _undecided(scope, x, axis, start, size, step)
            continue
        axes.append(axis)
        first.append(bounds[0])
        last.append(bounds[1])
    if not axes:
        return x
    strides = [node.steps[axis] for axis in axes]
    steps = scope.constant(strides, "steps") if any(s != 1 for s in strides) else None
    starts, ends = scope.shape(first, "starts"), scope.shape(last, "ends")
    return scope.add("Slice", x, starts, ends, scope.constant(axes, "axes"), steps)


def _forwards(start: Dim, size: Dim, step: int, extent: Dim) -> tuple[Dim, Dim]:
    """ONNX's start and end of elements in rising order."""
    if size == 0:
        return 0, 0
    if size in (dims.ceil_divide(extent - start, step), dims.ceil_divide(larger(extent - start, 0), step)):
        return start, FAR
    return start, start + (size - 1) * step + 1 if isinstance(size, int) else start + size * step


def _backwards(scope: Scope, start: Dim, size: Dim, step: int, extent: Dim) -> tuple[Dim, Dim] | None:
    """ONNX's start and end of elements in falling order, where an end before the first element is -FAR; None where it
    depends on the symbols whether the end lies there."""
    if size == 0:
        return 0, 0
    low, high = dims.bounds(start + size * step, scope.export.ranges)
    begins = FAR if start == extent - 1 else start
    never_empty = dims.bounds(size, scope.export.ranges)[0] > 0 or begins == FAR
    if never_empty and (high < 0 or size == dims.floor_divide(start, -step) + 1):
        return begins, -FAR
    return (begins, start + size * step) if low >= 0 and dims.bounds(start, scope.export.ranges)[0] >= 0 else None


def _undecided(scope: Scope, x: str, axis: int, start: Dim, size: Dim, step: int) -> str:
    """A slice in falling order whose end may lie before the first element, and which may be empty."""
    zero = scope.dim(0)
    starts, end = scope.dim(dims.maximum(start, 0)), scope.dim(start + size * step)
    ends = scope.add("Where", scope.add("Less", end, zero), scope.dim(-FAR), end)
    ends = scope.add("Where", scope.add("Greater", scope.dim(size), zero), ends, starts)
    return scope.add("Slice", x, starts, ends, scope.dim(axis), scope.dim(step))


@TABLE.exports(ops.Pad)
def pad(scope: Scope, node: ops.Pad) -> Written:
    if node.mode == "wrap" and scope.opset < 19:
        raise ExportError(f"{describe(node)}: Pad of opset {scope.opset} does not wrap: export to opset 19 or later")
    if any(isinstance(p, int) and p < 0 for p in node.pads):
        return _cut_and_padded(node)
    dtype = node.x.dtype
    compute = scope.compute_type("Pad", dtype, node)
    x = scope.cast(scope.name(node.x), dtype, compute)
    value = scope.cast(scope.name(node.value), dtype, compute) if node.value is not None else None
    mode = node.mode if node.mode != "constant" else None
    return scope.cast(scope.add("Pad", x, scope.shape(node.pads, "pads"), value, mode=mode), compute, dtype)


def _cut_and_padded(node: ops.Pad) -> Value:
    """What is removed is removed first."""
    n = node.x.rank
    removed = [-p if isinstance(p, int) and p < 0 else 0 for p in node.pads]
    sizes = tuple(d - removed[i] - removed[n + i] for i, d in enumerate(node.x.shape))
    rest = ops.Slice(node.x, tuple(removed[:n]), sizes, (1,) * n)
    pads = tuple(0 if r else p for p, r in zip(node.pads, removed, strict=True))
    return ops.Pad(rest, pads, node.mode, node.value) if any(p != 0 for p in pads) else rest


@TABLE.exports(ops.Gather)
def gather(scope: Scope, node: ops.Gather) -> Written:
    have = node.indices.dtype
    indices = scope.cast(scope.name(node.indices), have, have if have in (i32, i64) else i64)
    return scope.add("Gather", scope.name(node.data), indices, axis=node.axis)


# -- values made of dims and counters ---------------------------------------------------------------------------------


@TABLE.exports(ops.DimValues)
def dim_values(scope: Scope, node: ops.DimValues) -> Written:
    return scope.scalar(node.dims[0]) if node.scalar else scope.shape(node.dims, "dims")


@TABLE.exports(ops.Iota)
def iota(scope: Scope, node: ops.Iota) -> Written:
    """Range counts in i64; other sequences are made of 0, 1, 2 ..: rounding cannot change how many there are."""
    start, step = node.start, node.step
    dtype = start.dtype
    if dtype == i64 and isinstance(start, Constant) and isinstance(step, Constant) and step.data:
        limit = int(start.data) + node.length * int(step.data)
        return scope.add("Range", scope.name(start), scope.scalar(limit), scope.name(step))
    count = ops.Iota(constant(0, i64), constant(1, i64), node.length)
    wide = f64 if dtype.is_float else dtype
    return Cast(Add(Cast(start, wide), Mul(Cast(count, wide), Cast(step, wide))), dtype)
