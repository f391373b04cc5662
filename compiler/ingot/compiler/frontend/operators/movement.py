"""Reshaping, transposing, joining, cutting, repeating and padding."""

from __future__ import annotations

from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.operators.axes import axes_from_data, padding, squeezed, unsqueezed
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, Expr
from ingot.compiler.ir.graph import Value
from ingot.compiler.ir.types import show_shape
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Pad, Reshape, Slice, Split, Transpose
from ingot.runtime import dtypes

TABLE = Table()
onnx_op = TABLE.onnx_op


# -- shape changes ----------------------------------------------------------------------------------------------------


@onnx_op("Reshape")
def reshape_attribute(ctx: Context) -> Results:
    ctx.ignore("consumed_inputs")
    return reshape_to(ctx, ctx.operand(0), ctx.required_ints("shape"), False)


@onnx_op("Reshape", since=5)
def reshape(ctx: Context) -> Results:
    x, wanted, allow_zero = ctx.operand(0), ctx.operand(1), bool(ctx.attribute("allowzero", 0))
    known = ctx.known(wanted)
    return reshape_to(ctx, x, known, allow_zero) if known is not None else _reshape_by(ctx, x, wanted, allow_zero)


def reshape_to(ctx: Context, x: Value, wanted: Dims, allow_zero: bool) -> Value:
    """x with the shape `wanted`, in which 0 copies x's dim (unless `allow_zero`) and one -1 takes what is left."""
    shape: list[Dim] = []
    for axis, dim in enumerate(wanted):
        if dim == 0 and not allow_zero:
            if axis >= x.rank:
                raise ctx.error(f"shape {show_shape(wanted)} copies axis {axis}, which {x.type} does not have")
            dim = x.shape[axis]
        shape.append(dim)
    open_axes = [i for i, d in enumerate(shape) if d == -1]
    if len(open_axes) > 1 or any(isinstance(d, int) and d < -1 for d in shape):
        raise ctx.error(f"shape {show_shape(wanted)} is no shape: one -1 at most, nothing below")
    if open_axes:
        rest = dims.product(d for d in shape if d != -1)
        if rest == 0:
            raise ctx.error(f"shape {show_shape(wanted)} leaves -1 open: the other dims have no elements")
        shape[open_axes[0]] = x.type.size // rest
        if isinstance(x.type.size, int) and isinstance(rest, int) and x.type.size % rest:
            said = show_shape(wanted)
            raise ctx.error(f"{x.type} does not reshape to {said}: {x.type.size} is no multiple of {rest}")
    else:
        ctx.equal(x.type.size, dims.product(shape))
    return x if tuple(shape) == x.shape else ctx.build(Reshape, x, tuple(shape))


def _reshape_by(ctx: Context, x: Value, wanted: Value, allow_zero: bool) -> Value:
    """As `reshape_to`, for a shape that depends on data: 0 and -1 are told apart when the model runs."""
    zero, one, open_ = (ctx.constant(n, dtypes.i64) for n in (0, 1, -1))
    size = ctx.dim_values((x.type.size,), True)
    extents = list(ctx.elements(wanted, "the shape"))
    if not allow_zero:
        for axis, extent in enumerate(extents):
            if ctx.known(extent) is None and axis < x.rank:
                own = ctx.dim_values((x.shape[axis],), True)
                extents[axis] = ctx.build(ops.Where, ctx.build(ops.Equal, extent, zero), own, extent)
            elif ctx.known(extent) == (0,):
                if axis >= x.rank:
                    raise ctx.error(f"the shape copies axis {axis}, which {x.type} does not have")
                extents[axis] = ctx.dim_values((x.shape[axis],), True)
    given: Value = one
    for extent in extents:
        part = ctx.build(ops.Where, ctx.build(ops.Equal, extent, open_), one, extent)
        given = ctx.build(ops.Mul, given, part)
    rest = ctx.build(ops.Div, size, ctx.build(ops.Max, given, one))
    shape: list[Dim] = []
    total: Value = one
    for extent in extents:
        known = ctx.known(extent)
        if known is None or known == (-1,):
            extent = ctx.build(ops.Where, ctx.build(ops.Equal, extent, open_), rest, extent)
        total = ctx.build(ops.Mul, total, extent)
        shape.append(ctx.size(extent, "an extent of the shape"))
    ctx.require(ctx.build(ops.Equal, total, size), f"{x.type} does not reshape to {show_shape(shape)}")
    return ctx.build(Reshape, ctx.checked(x)[0], tuple(shape))


@onnx_op("Flatten")
def flatten(ctx: Context) -> Results:
    x = ctx.operand(0)
    axis = ctx.attribute("axis", 1)
    if not -x.rank <= axis <= x.rank:
        raise ctx.error(f"axis {axis} is outside {-x.rank}..{x.rank}")
    axis = axis + x.rank if axis < 0 else axis
    return ctx.build(Reshape, x, (dims.product(x.shape[:axis]), dims.product(x.shape[axis:])))


@onnx_op("Squeeze")
def squeeze_attribute(ctx: Context) -> Results:
    return squeeze_axes(ctx, ctx.operand(0), ctx.ints("axes"))


@onnx_op("Squeeze", since=13)
def squeeze(ctx: Context) -> Results:
    given = ctx.optional(1)
    if given is not None and ctx.known(given) is None:
        return squeezed(ctx, ctx.operand(0), given)
    return squeeze_axes(ctx, ctx.operand(0), None if given is None else ctx.fixed(1, "the axes"))


def squeeze_axes(ctx: Context, x: Value, axes: tuple[int, ...] | None) -> Value:
    """x without the axes given, which have extent 1; None removes all that have."""
    if axes is None:
        kept = tuple(d for i, d in enumerate(x.shape) if d != 1 and not (isinstance(d, Expr) and _is_one(ctx, x, i)))
        return ctx.build(Reshape, ctx.checked(x)[0], kept)
    chosen = ctx.axes(axes, x.rank)
    sizes = list(x.shape)
    for axis in chosen:
        extent = x.shape[axis]
        if ctx.assumptions.differ(extent, 1):
            raise ctx.error(f"axis {axis} of {x.type} cannot be squeezed: its extent is not 1")
        if extent != 1 and ctx.scope.is_closed:  # which says nothing about runs that do not come here
            is_one = ctx.build(ops.Equal, ctx.dim_values((extent,), True), ctx.constant(1, dtypes.i64))
            ctx.require(is_one, f"axis {axis} of {x.type} cannot be squeezed: its extent is not 1")
            sizes[axis] = 1
        else:
            ctx.equal(extent, 1)
    if tuple(sizes) != x.shape:
        x = ctx.build(Slice, ctx.checked(x)[0], (0,) * x.rank, tuple(sizes), (1,) * x.rank)
    return ctx.build(Reshape, x, tuple(d for i, d in enumerate(x.shape) if i not in chosen))


def _is_one(ctx: Context, x: Value, axis: int) -> bool:
    """Whether a symbolic dim is taken for 1; a run in which that is wrong ends."""
    extent = x.shape[axis]
    if ctx.assumptions.differ(extent, 1):
        return False
    condition = ctx.build(ops.Equal, ctx.dim_values((extent,), True), ctx.constant(1, dtypes.i64))
    importer = ctx.scope.importer
    found = importer.hypotheses.choice((importer.nodes, axis), condition)
    if found is None:
        raise ctx.unsupported(
            f"Squeeze of all axes of extent 1 of {x.type}: its rank depends on the symbolic dims",
            "pin them with shapes, or name the axes in the model",
        )
    problem = f"axis {axis} of {x.type} must {'' if found.wanted else 'not '}be 1 (else: {found.other})"
    ctx.require(condition if found.wanted else ctx.build(ops.Not, condition), problem)
    return found.wanted


@onnx_op("Unsqueeze")
def unsqueeze_attribute(ctx: Context) -> Results:
    return unsqueeze_axes(ctx, ctx.operand(0), ctx.required_ints("axes"))


@onnx_op("Unsqueeze", since=13)
def unsqueeze(ctx: Context) -> Results:
    given = ctx.operand(1)
    if ctx.known(given) is None:
        return unsqueezed(ctx, ctx.operand(0), given)
    return unsqueeze_axes(ctx, ctx.operand(0), ctx.fixed(1, "the axes"))


def unsqueeze_axes(ctx: Context, x: Value, axes: tuple[int, ...]) -> Value:
    """x with axes of extent 1 at the places given, counted in the result."""
    rank = x.rank + len(axes)
    chosen = ctx.axes(axes, rank)
    rest = iter(x.shape)
    return ctx.build(Reshape, x, tuple(1 if i in chosen else next(rest) for i in range(rank)))


@onnx_op("Transpose")
def transpose(ctx: Context) -> Results:
    x = ctx.operand(0)
    perm = ctx.ints("perm")
    order = tuple(reversed(range(x.rank))) if perm is None else ctx.axes(perm, x.rank)
    return ctx.build(Transpose, x, order)


def _block(ctx: Context, x: Value) -> int:
    size = ctx.attribute("blocksize", 0)
    if x.rank != 4 or size < 1:
        raise ctx.error(f"blocksize {size} of {x.type}: a block of 1 or more and rank 4 are needed")
    return size


def _part(ctx: Context, extent: Dim, size: int) -> Dim:
    """The extent divided by `size`, of which it must be a multiple."""
    part = dims.divide_exact(extent, size)
    if part is None:
        part = extent // size
        if isinstance(extent, int):
            raise ctx.error(f"an extent of {extent} is no multiple of {size}")
        ctx.equal(extent, part * size)
    return part


@onnx_op("DepthToSpace")
def depth_to_space(ctx: Context) -> Results:
    x = ctx.operand(0)
    size, mode = _block(ctx, x), ctx.attribute("mode", "DCR")
    n, c, h, w = x.shape
    if mode not in ("DCR", "CRD"):
        raise ctx.error(f"unknown mode {mode!r}")
    depth = _part(ctx, c, size * size)
    (x,) = ctx.checked(x)
    if mode == "DCR":
        split, perm = (n, size, size, depth, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (n, depth, size, size, h, w), (0, 1, 4, 2, 5, 3)
    blocks = ctx.build(Transpose, ctx.build(Reshape, x, split), perm)
    return ctx.build(Reshape, blocks, (n, depth, h * size, w * size))


@onnx_op("SpaceToDepth")
def space_to_depth(ctx: Context) -> Results:
    x = ctx.operand(0)
    size = _block(ctx, x)
    n, c, h, w = x.shape
    rows, columns = _part(ctx, h, size), _part(ctx, w, size)
    (x,) = ctx.checked(x)
    mode = ctx.attribute("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise ctx.error(f"unknown mode {mode!r}")
    blocks = ctx.build(Reshape, x, (n, c, rows, size, columns, size))
    moved = ctx.build(Transpose, blocks, (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4))
    return ctx.build(Reshape, moved, (n, c * size * size, rows, columns))


# -- repetition -------------------------------------------------------------------------------------------------------


@onnx_op("Expand", since=8)
def expand(ctx: Context) -> Results:
    x = ctx.operand(0)
    found = ctx.known(ctx.operand(1))
    wanted = _kept(ctx, x, found) if found is not None else _expanded(ctx, x)
    if any(isinstance(d, int) and d < 0 for d in wanted):
        raise ctx.error(f"{x.type} does not expand to {show_shape(wanted)}: a dim is negative")
    shape = ctx.common_shape(x.shape, wanted)
    return ctx.expand(ctx.checked(x)[0], shape)


def _kept(ctx: Context, x: Value, wanted: Dims) -> Dims:
    """`wanted` with the operand's extents where no more than 1 is asked for: the first row of something, say, which has
    none when that is empty."""
    shape = list(wanted)
    for axis, dim in enumerate(wanted, x.rank - len(wanted)):
        own = x.shape[axis] if axis >= 0 else 1
        if isinstance(dim, Expr) and own not in (1, dim) and dims.bounds(dim, ctx.assumptions.ranges)[1] <= 1:
            asked = ctx.dim_values((dim,), True)
            stays = ctx.build(ops.Equal, asked, ctx.constant(1, dtypes.i64))
            same = ctx.build(ops.Equal, asked, ctx.dim_values((own,), True))
            ctx.require(ctx.build(ops.Or, stays, same), f"{x.type} does not expand to {show_shape(wanted)}")
            shape[axis - x.rank + len(wanted)] = own
    return tuple(shape)


def _expanded(ctx: Context, x: Value) -> Dims:
    """The shape that an Expand by data asks for: 1 means that the operand's extent stays. An open one is not stretched
    where it happens to be 1."""
    one = ctx.constant(1, dtypes.i64)
    shape: list[Dim] = []
    extents = ctx.elements(ctx.operand(1), "the shape")
    for axis, extent in enumerate(extents, x.rank - len(extents)):
        own = x.shape[axis] if axis >= 0 else 1
        if own == 1 or ctx.known(extent) is not None:
            shape.append(ctx.size(extent, "the shape"))
            continue
        stays, same = (ctx.build(ops.Equal, extent, v) for v in (one, ctx.dim_values((own,), True)))
        problem = f"{x.type} does not expand: the shape must be {dims.show(own)} or 1"
        ctx.require(ctx.build(ops.Or, stays, same), problem)
        shape.append(own)
    return tuple(shape)


@onnx_op("Tile")
def tile_axis(ctx: Context) -> Results:
    """Repeats along one axis; both numbers may be floats."""
    x = ctx.operand(0)
    count, axis = (_integer(ctx, ctx.operand(i)) for i in (1, 2))
    if (known := ctx.array(axis)) is not None:
        number = ctx.axis(int(known.item()), x.rank)
        times = ctx.size(count, "the repeats")
        return _tiled(ctx, x, tuple(times if a == number else 1 for a in range(x.rank)))
    chosen = axes_from_data(ctx, axis, x.rank)
    once = ctx.expand(ctx.constant(1, dtypes.i64), (x.rank,))
    repeats = chosen.spread(ctx, ctx.build(Reshape, count, (1,)), once)
    return _tiled(ctx, x, tuple(ctx.size(r, "the repeats") for r in ctx.elements(repeats, "the repeats")))


def _integer(ctx: Context, value: Value) -> Value:
    """A number as an i64 scalar, of constants as such."""
    array = ctx.array(value)
    if array is not None and array.size == 1:
        return ctx.constant(int(array.item()), dtypes.i64)
    single = ctx.scalar(value)
    return ctx.cast(single, dtypes.i64)


@onnx_op("Tile", since=6)
def tile(ctx: Context) -> Results:
    x = ctx.operand(0)
    return _tiled(ctx, x, ctx.dims(1, "the repeats", x.rank))


def _tiled(ctx: Context, x: Value, repeats: Dims) -> Value:
    """Each repeated axis [d] is [1, d], expanded to [r, d] and merged to [r * d]."""
    if len(repeats) != x.rank or any(isinstance(r, int) and r < 0 for r in repeats):
        raise ctx.error(f"repeats {show_shape(repeats)} do not fit {x.type}")
    split: list[Dim] = []
    spread: list[Dim] = []
    for d, r in zip(x.shape, repeats, strict=True):
        split += [d] if r == 1 else [1, d]
        spread += [d] if r == 1 else [r, d]
    if len(split) == x.rank:
        return x
    repeated = ctx.expand(ctx.build(Reshape, x, tuple(split)), tuple(spread))
    return ctx.build(Reshape, repeated, tuple(d * r for d, r in zip(x.shape, repeats, strict=True)))


# -- joining and cutting ----------------------------------------------------------------------------------------------


@onnx_op("Concat")
def concat(ctx: Context) -> Results:
    parts = ctx.variadic()
    first = parts[0]
    axis = ctx.maybe("axis", int)
    if axis is None:
        if ctx.opset >= 4:
            raise ctx.error("attribute 'axis' is missing", "run onnx.checker on the model")
        axis = 1
    axis = ctx.axis(axis, first.rank)
    return ctx.concat(parts, axis)


@onnx_op("Split")
def split_old(ctx: Context) -> Results:
    """Sizes as an attribute (opset 2) or, in opset 1, also as an input."""
    if ctx.opset < 2 and ctx.optional(1) is not None:
        return split_sizes(ctx, _sizes(ctx))
    return split_sizes(ctx, ctx.ints("split"))


@onnx_op("Split", since=13)
def split(ctx: Context) -> Results:
    sizes = _sizes(ctx) if ctx.optional(1) is not None else None
    count = ctx.maybe("num_outputs", int) if ctx.opset >= 18 else None
    if count is not None and (count < 1 or sizes is not None):
        raise ctx.error(f"num_outputs is {count}" + (" and sizes are given too" if sizes is not None else ""))
    return split_sizes(ctx, sizes, count)


def _sizes(ctx: Context) -> Dims:
    x = ctx.operand(0)
    return ctx.dims(1, "the size of a part", most=x.shape[ctx.axis(ctx.attribute("axis", 0), x.rank)])


def split_sizes(ctx: Context, sizes: Dims | None, count: int | None = None) -> Results:
    """x cut into parts of `sizes`, or into `count` parts (default: one an output) that are equal but for the last."""
    x = ctx.operand(0)
    axis = ctx.axis(ctx.attribute("axis", 0), x.rank)
    extent = x.shape[axis]
    if not sizes:
        parts = count or len(ctx.node.output)
        chunk = dims.ceil_divide(extent, parts)
        last = extent - chunk * (parts - 1)
        uneven = isinstance(last, int) and last != chunk
        if uneven and (count is None or last < 0):
            raise ctx.error(f"axis {axis} of {x.type} does not split into {parts} parts")
        sizes = (*(chunk,) * (parts - 1), last)
        if not isinstance(last, int) and count is None:  # parts must be equal: only then does the model make sense
            chunk = extent // parts
            sizes = (chunk,) * parts
        elif ctx.bound(last):
            fits = ctx.build(ops.LessOrEqual, ctx.constant(0, dtypes.i64), ctx.dim_values((last,), True))
            ctx.require(fits, f"{dims.show(extent)} elements must be enough for {parts} parts")
            return _slices(ctx, axis, (*(chunk,) * (parts - 1), ctx.assumptions.largest(last, 0)))
    else:
        total: Dim = 0
        for size in sizes:
            total = total + size
        ctx.equal(total, extent)
    if len(sizes) < len(ctx.node.output):
        raise ctx.error(f"{len(sizes)} sizes for {len(ctx.node.output)} outputs")
    if len(sizes) == 1 and sizes[0] == extent:
        return x
    return ctx.build(Split, ctx.checked(x)[0], axis, sizes).results()


def _slices(ctx: Context, axis: int, sizes: Dims) -> Results:
    """Parts of x of `sizes` one behind the other, of which nobody says that they are all of it."""
    (x,) = ctx.checked(ctx.operand(0))
    parts: list[Value] = []
    start: Dim = 0
    for size in sizes:
        starts = (*(0,) * axis, start, *(0,) * (x.rank - axis - 1))
        parts.append(ctx.build(Slice, x, starts, (*x.shape[:axis], size, *x.shape[axis + 1 :]), (1,) * x.rank))
        start = start + size
    return tuple(parts)


# -- padding ----------------------------------------------------------------------------------------------------------


@onnx_op("Pad")
def pad_attributes(ctx: Context) -> Results:
    """Opset 1 spells the attribute `paddings`."""
    pads = ctx.ints("paddings") if ctx.opset < 2 else ctx.ints("pads")
    if pads is None:
        raise ctx.error("attribute 'pads' is missing", "run onnx.checker on the model")
    x = ctx.operand(0)
    value = ctx.attribute("value", 0.0)
    return pad_by(ctx, x, pads, ctx.constant(value, x.dtype) if value else None)


@onnx_op("Pad", since=11)
def pad(ctx: Context) -> Results:
    x, listed, value = ctx.operand(0), ctx.operand(1), ctx.optional(2)
    axes = ctx.optional(3) if ctx.opset >= 18 else None
    if axes is None and listed.rank == 1:
        ctx.equal(listed.shape[0], 2 * x.rank)
    found = ctx.elements(listed, "the pads")
    if axes is not None and ctx.known(axes) is None:
        found = padding(ctx, found, axes, x.rank)
    elif axes is not None:
        chosen = ctx.axes(ctx.fixed(3, "the axes"), x.rank)
        if len(found) != 2 * len(chosen):
            raise ctx.error(f"{len(found)} pads do not fit axes {list(chosen)}")
        whole: list[Value] = [ctx.constant(0, dtypes.i64)] * (2 * x.rank)
        for i, axis in enumerate(chosen):
            whole[axis], whole[x.rank + axis] = found[i], found[len(chosen) + i]
        found = tuple(whole)
    if len(found) != 2 * x.rank:
        raise ctx.error(f"{len(found)} pads do not fit {x.type}")
    x, pads = _cut_first(ctx, x, found)
    return pad_by(ctx, x, pads, ctx.scalar(value) if value is not None else None)


def _cut_first(ctx: Context, x: Value, pads: tuple[Value, ...]) -> tuple[Value, Dims]:
    """x without what negative pads that are computed remove, and the pads (i64 scalars) as dims."""
    zero = ctx.constant(0, dtypes.i64)
    added: list[Dim] = []
    removed: list[Dim] = []
    for value in pads:
        if (known := ctx.known(value)) is not None:
            added.append(known[0])
            removed.append(0)
            continue
        more, less = (ctx.build(ops.Max, v, zero) for v in (value, ctx.build(ops.Neg, value)))
        added.append(ctx.size(more, "the pads"))
        removed.append(ctx.size(less, "the pads"))
    if not any(removed):
        return x, tuple(added)
    sizes: list[Dim] = []
    for axis, extent in enumerate(x.shape):
        less = removed[axis] + removed[x.rank + axis]
        if less != 0:
            fits = ctx.build(ops.LessOrEqual, ctx.dim_values((less,), True), ctx.dim_values((extent,), True))
            ctx.require(fits, f"Pad removes more than there is of axis {axis} of {x.type}")
        sizes.append(ctx.assumptions.largest(extent - less, 0))
    cut = ctx.build(Slice, ctx.checked(x)[0], tuple(removed[: x.rank]), tuple(sizes), (1,) * x.rank)
    return cut, tuple(added)


def pad_by(ctx: Context, x: Value, pads: Dims, value: Value | None) -> Value:
    """x padded by `pads` (begins, then ends); `value` counts in the mode "constant" only."""
    mode = ctx.attribute("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise ctx.error(f"unknown padding mode {mode!r}")
    if len(pads) == 2 * x.rank and all(p == 0 for p in pads):
        return x
    if mode != "constant" and len(pads) == 2 * x.rank:
        for extent, begin, end in zip(x.shape, pads[: x.rank], pads[x.rank :], strict=True):
            if (begin, end) != (0, 0):
                left = extent + dims.minimum(begin, 0) + dims.minimum(end, 0)
                need = f"mode {mode} of Pad repeats what is there"
                ctx.at_least(left, 1, need)
                demanded = ctx.assumptions.ranges if ctx.scope.is_closed else ctx.assumptions.demand_at_least(left, 1)
                if dims.bounds(left, demanded)[0] < 1:
                    some = ctx.build(ops.Less, ctx.constant(0, dtypes.i64), ctx.dim_values((left,), True))
                    ctx.require(some, f"{need}, and there is nothing")
    if value is None and x.dtype == dtypes.string:
        value = ctx.constant(0, x.dtype)
    return ctx.build(Pad, x, pads, mode, value if mode == "constant" else None)


@onnx_op("CenterCropPad", since=18)
def center_crop_pad(ctx: Context) -> Results:
    """Cut or padded with zeros on both sides alike, the odd element at the end; the standard's own function fits a
    shape of i64 alone."""
    x = ctx.operand(0)
    axes = ctx.axes(ctx.ints("axes") or tuple(range(x.rank)), x.rank)
    wanted = ctx.dims(1, "the shape", len(axes))
    if len(wanted) != len(axes):
        raise ctx.error(f"the shape has {len(wanted)} extents, {len(axes)} are needed")
    begin: list[Dim] = [0] * x.rank
    end: list[Dim] = [0] * x.rank
    for axis, extent in zip(axes, wanted, strict=True):
        more = extent - x.shape[axis]
        begin[axis] = dims.maximum(more, 0) // 2 - dims.maximum(-more, 0) // 2
        end[axis] = more - begin[axis]
    return pad_by(ctx, x, (*begin, *end), None)
