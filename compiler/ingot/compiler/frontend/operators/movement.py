"""Reshaping, transposing, joining, cutting, repeating and padding."""

from __future__ import annotations

from ingot.compiler.frontend.assumptions import spell
from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.operators.axes import padding, squeezed, unsqueezed
from ingot.compiler.frontend.operators.table import Results, Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, Expr
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Concat, Pad, Reshape, Split, Transpose
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
                raise ctx.error(f"shape {spell(wanted)} copies axis {axis}, which {x.type} does not have")
            dim = x.shape[axis]
        shape.append(dim)
    open_axes = [i for i, d in enumerate(shape) if d == -1]
    if len(open_axes) > 1 or any(isinstance(d, int) and d < -1 for d in shape):
        raise ctx.error(f"shape {spell(wanted)} is no shape: one -1 at most, nothing below")
    if open_axes:
        rest = dims.product(d for d in shape if d != -1)
        if rest == 0:
            raise ctx.error(f"shape {spell(wanted)} leaves -1 open: the other dims have no elements")
        shape[open_axes[0]] = x.type.size // rest
        if isinstance(x.type.size, int) and isinstance(rest, int) and x.type.size % rest:
            raise ctx.error(f"{x.type} does not reshape to {spell(wanted)}: {x.type.size} is no multiple of {rest}")
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
    ctx.require(ctx.build(ops.Equal, total, size), f"{x.type} does not reshape to {spell(shape)}")
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
        if not x.type.is_static:
            raise ctx.unsupported(
                f"Squeeze of all axes of extent 1 of {x.type}: its rank depends on the symbolic dims",
                "pin them with shapes, or name the axes in the model",
            )
        axes = tuple(i for i, d in enumerate(x.shape) if d == 1)
    chosen = ctx.axes(axes, x.rank)
    for axis in chosen:
        ctx.equal(x.shape[axis], 1)
        if ctx.assumptions.differ(x.shape[axis], 1):
            raise ctx.error(f"axis {axis} of {x.type} cannot be squeezed: its extent is not 1")
    return ctx.build(Reshape, x, tuple(d for i, d in enumerate(x.shape) if i not in chosen))


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


@onnx_op("DepthToSpace")
def depth_to_space(ctx: Context) -> Results:
    x = ctx.operand(0)
    size, mode = _block(ctx, x), ctx.attribute("mode", "DCR")
    n, c, h, w = x.shape
    depth = dims.divide_exact(c, size * size)
    if mode not in ("DCR", "CRD"):
        raise ctx.error(f"unknown mode {mode!r}")
    if depth is None:
        raise ctx.unsupported(f"DepthToSpace of {dims.show(c)} channels, which are no multiple of {size * size}")
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
    rows, columns = dims.divide_exact(h, size), dims.divide_exact(w, size)
    if rows is None or columns is None:
        raise ctx.unsupported(f"SpaceToDepth of {x.type}: extents are not multiples of {size}")
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
        raise ctx.error(f"{x.type} does not expand to {spell(wanted)}: a dim is negative")
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
            ctx.require(ctx.build(ops.Or, stays, same), f"{x.type} does not expand to {spell(wanted)}")
            shape[axis - x.rank + len(wanted)] = own
    return tuple(shape)


def _expanded(ctx: Context, x: Value) -> Dims:
    """The shape that an Expand by data asks for: where the operand has a fixed extent, 1 means that it stays."""
    one = ctx.constant(1, dtypes.i64)
    shape: list[Dim] = []
    extents = ctx.elements(ctx.operand(1), "the shape")
    for axis, extent in enumerate(extents, x.rank - len(extents)):
        own = x.shape[axis] if axis >= 0 else 1
        if not isinstance(own, int) or own == 1 or ctx.known(extent) is not None:
            shape.append(ctx.size(extent, "the shape"))
            continue
        stays, same = (ctx.build(ops.Equal, extent, v) for v in (one, ctx.constant(own, dtypes.i64)))
        ctx.require(ctx.build(ops.Or, stays, same), f"{x.type} does not expand: the shape must be {own} or 1")
        shape.append(own)
    return tuple(shape)


@onnx_op("Tile")
def tile_axis(ctx: Context) -> Results:
    x, (count,), (axis,) = ctx.operand(0), ctx.dims(1, "the repeats"), ctx.fixed(2, "the axis")
    axis = ctx.axis(axis, x.rank)
    return _tiled(ctx, x, tuple(count if a == axis else 1 for a in range(x.rank)))


@onnx_op("Tile", since=6)
def tile(ctx: Context) -> Results:
    return _tiled(ctx, ctx.operand(0), ctx.dims(1, "the repeats"))


def _tiled(ctx: Context, x: Value, repeats: Dims) -> Value:
    """Each repeated axis [d] is [1, d], expanded to [r, d] and merged to [r * d]."""
    if len(repeats) != x.rank or any(isinstance(r, int) and r < 0 for r in repeats):
        raise ctx.error(f"repeats {spell(repeats)} do not fit {x.type}")
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
    for part in parts[1:]:
        if part.rank == first.rank:
            for i in range(first.rank):
                if i != axis:
                    ctx.equal(first.shape[i], part.shape[i])
    return first if len(parts) == 1 else ctx.build(Concat, parts, axis)


@onnx_op("Split")
def split_old(ctx: Context) -> Results:
    """Sizes as an attribute (opset 2) or, in opset 1, also as an input."""
    if ctx.opset < 2 and ctx.optional(1) is not None:
        return split_sizes(ctx, ctx.dims(1, "the sizes"))
    return split_sizes(ctx, ctx.ints("split"))


@onnx_op("Split", since=13)
def split(ctx: Context) -> Results:
    sizes = ctx.dims(1, "the sizes") if ctx.optional(1) is not None else None
    count = ctx.maybe("num_outputs", int) if ctx.opset >= 18 else None
    if count is not None and (count < 1 or sizes is not None):
        raise ctx.error(f"num_outputs is {count}" + (" and sizes are given too" if sizes is not None else ""))
    return split_sizes(ctx, sizes, count)


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
    x, pads = ctx.operand(0), ctx.dims(1, "the pads")
    value = ctx.optional(2)
    given = ctx.optional(3) if ctx.opset >= 18 else None
    if given is not None and ctx.known(given) is None:
        pads = padding(ctx, pads, given, x.rank)
    elif given is not None:
        axes = ctx.axes(ctx.fixed(3, "the axes"), x.rank)
        if len(pads) != 2 * len(axes):
            raise ctx.error(f"pads {spell(pads)} do not fit axes {list(axes)}")
        whole: list[Dim] = [0] * (2 * x.rank)
        for i, axis in enumerate(axes):
            whole[axis], whole[x.rank + axis] = pads[i], pads[len(axes) + i]
        pads = tuple(whole)
    return pad_by(ctx, x, pads, ctx.scalar(value) if value is not None else None)


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
    return ctx.build(Pad, x, pads, mode, value if mode == "constant" else None)
