"""Products and convolutions without the zeros of their weights (`ir.sparse`), where `sparse_plans` wants them.

X is transposed first, in a kernel of its own: rows are read by vectors. Those of a product come in blocks of as many as
a chunk has. A convolution has the lines of its image, bordered, each channel by channel: a tap is an offset, and every
strides-th pixel lies together. Zeros are left out, so what is not finite reaches only the columns that have an element
for it; strict numerics do without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ingot.compiler.ir.dims import Dim, ceil_divide, multiply, product, symbol
from ingot.compiler.ir.graph import Constant
from ingot.compiler.ir.loops import Axis, Expr
from ingot.compiler.ir.program import Storage
from ingot.compiler.ir.sparse import BlockTranspose, SparseProduct, SparseVector
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.choices import matrix_of, operands_of, sparsity_of
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.contraction import Epilogue, Group, pack_at_run_time
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, merge_axes
from ingot.compiler.lower.pointwise import materialise
from ingot.compiler.lower.schedules import Schedule
from ingot.compiler.lower.sparse_plans import VISIT, Plan, pitch_of
from ingot.compiler.lower.sparsity import Pattern, VectorPattern, balanced
from ingot.compiler.lower.views import View
from ingot.compiler.ops.linear import Conv
from ingot.runtime.dtypes import f32, from_numpy


def schedule_of(template: SparseProduct | SparseVector) -> Schedule:
    """What stands in records for the plan that a template came of."""
    if isinstance(template, SparseVector):
        return Schedule("sparse", 1, 1, template.table, -(-template.panels // template.grain))
    block = -(-template.depth // template.depths)
    return Schedule("sparse", template.run * template.lines, template.together, block, template.panels)


def launch_product(
    context: Context,
    group: Group,
    build: KernelBuilder,
    plan: Plan,
    x: View,
    rows: tuple[Axis, ...],
    where: Sequence[Dim],
    acc: Expr,
) -> None:
    """Run the product of the rows of `x` [rows ..., depth] with the weights of `group`. The element of the anchor at
    `where`, over the variables of `rows` and ``_n``, is `acc`, of ``Local("acc")``."""
    if plan.cut.rows == 1:
        _launch_vector(context, group, build, plan, x, rows, where, acc)
        return
    size, depth, count = plan.cut.rows, x.shape[-1], product(axis.extent for axis in rows)
    assert isinstance(depth, int)
    flat = x.reshape((count, depth)) or materialise(context, x, group.node.origin).reshape((count, depth))
    assert flat is not None
    block = size * depth
    if flat.strides[1] != 1:
        turned = pack_at_run_time(context, flat.transpose((1, 0)), size, group.node)
    else:
        at = [symbol("_block") * size + symbol("_row"), symbol("_k")]
        blocks = (Axis("_block", ceil_divide(count, size)),)
        left = Axis("_row", count - symbol("_block") * size)
        turned = _transposed(context, group, flat, at, blocks, left, size, multiply(blocks[0].extent, block))
    offsets = range(0, block, size)

    def place(row: Dim) -> Dim:
        return row // size * block + row % size

    _launch(context, group, build, plan, turned, offsets, 0, rows, where, acc, place)


def _launch_vector(
    context: Context,
    group: Group,
    build: KernelBuilder,
    plan: Plan,
    x: View,
    rows: tuple[Axis, ...],
    where: Sequence[Dim],
    acc: Expr,
) -> None:
    """Run the product of one row."""
    sparsity, w, lanes = sparsity_of(context, group), operands_of(group)[1], context.machine.lanes_f32
    assert sparsity is not None and isinstance(w, Constant)
    depth, columns = sparsity.shape
    if x.strides[-1] != 1:
        x = materialise(context, x, group.node.origin)
    stores = Epilogue(context, group).stores(build, where, acc)
    rows, (stores,) = merge_axes(rows, (stores,))
    pattern = VectorPattern.of(matrix_of(group, w), sparsity, 2 * lanes, lanes)
    names = ("bounds", "bases", "ends", "indices", "values")
    bounds, bases, ends, indices, values = _parameters(context, build, w, pattern, names, (lanes,))
    panels = -(-columns // lanes)
    template = SparseVector(
        rows=rows,
        columns=Axis("_n", columns),
        depth=depth,
        x=build.load(x, x.at([0] * len(x.shape))),
        bounds=bounds,
        bases=bases,
        ends=ends,
        indices=indices,
        values=values,
        panels=panels,
        grain=-(-panels // plan.panels),
        table=2 * lanes,
        width=lanes,
        stores=stores,
    )
    flops = 2 * int(np.count_nonzero(pattern.values))
    context.run(build.launch(template.grid, template, origin=group.node.origin, flops=flops))


def launch_window(
    context: Context,
    group: Group,
    node: Conv,
    build: KernelBuilder,
    plan: Plan,
    x: View,
    rows: tuple[Axis, ...],
    where: Sequence[Dim],
    acc: Expr,
) -> None:
    """Run the convolution `node` of `x`, channels last with its padding as a border. `rows` are images, lines and
    pixels; `where` and `acc` are those of `launch_product`."""
    if x.strides[-1] != 1:
        x = materialise(context, x, group.node.origin)
    _, channels, *taps = filters = group.resolve(node.w).type.static_shape()
    (down, along), (above, before), (dy, dx) = node.strides, node.pads[:2], node.dilations
    images, height, width = (axis.extent for axis in rows)
    assert isinstance(height, int) and isinstance(width, int)
    pitch = pitch_of(node, filters, context.machine.lanes_f32)
    line = along * channels * pitch  # elements of X
    lines = (height - 1) * down + (taps[0] - 1) * dy + 1
    pixels = (width - 1) * along + (taps[1] - 1) * dx + 1
    phase = symbol("_phase")
    blocks = (Axis("_b", images), Axis("_y", lines, grain_for(line, CHUNK)), Axis("_phase", along))
    at = [symbol("_b"), symbol("_y") - above, symbol("_row") * along + phase - before, symbol("_k")]
    left = Axis("_row", ceil_divide(pixels - phase, along))
    size = multiply(images, lines * line) + pitch + context.machine.lanes_f32  # vectors reach past the end
    turned = _transposed(context, group, x, at, blocks, left, pitch, size)
    offsets = [
        ky * dy * line + (kx * dx % along * channels + c) * pitch + kx * dx // along
        for c in range(channels)
        for ky in range(taps[0])
        for kx in range(taps[1])
    ]

    def place(row: Dim) -> Dim:
        image, y = row // (height * width), row // width % height
        return (image * lines + y * down) * line + row % width

    _launch(context, group, build, plan, turned, offsets, down * line, rows, where, acc, place)


def _transposed(
    context: Context,
    group: Group,
    x: View,
    at: Sequence[Dim],
    blocks: tuple[Axis, ...],
    rows: Axis,
    pitch: int,
    size: Dim,
) -> Storage:
    """`size` elements, most of them the `rows` of the `blocks` of `x`, whose steps of the depth ``_k`` lie `pitch`
    elements apart; `at` is the place of an element."""
    depth, origin = x.shape[-1], group.node.origin
    target = context.temp(TensorType(f32, (size,)), origin=origin)
    build = KernelBuilder(context.unique("transpose"))
    load, y = build.load(x, x.at(at)), build.parameter(target, "write")
    template = BlockTranspose(blocks, rows, Axis("_k", depth), load, y, pitch)
    context.run(build.launch(template.grid, template, origin=origin))
    return target.storage


def _launch(
    context: Context,
    group: Group,
    build: KernelBuilder,
    plan: Plan,
    x: Storage,
    offsets: Sequence[int],
    line_stride: int,
    rows: tuple[Axis, ...],
    where: Sequence[Dim],
    acc: Expr,
    place: Callable[[Dim], Dim],
) -> None:
    """The product itself; `place` gives where in `x` the elements of a row begin, by its number, and `offsets` where
    those of a step of the depth are from there."""
    sparsity = sparsity_of(context, group)
    assert sparsity is not None
    depth, columns = sparsity.shape
    count = product(axis.extent for axis in rows)
    stores = Epilogue(context, group).stores(build, where, acc)
    rows, (stores,) = merge_axes(rows, (stores,))
    row: Dim = 0
    for axis in rows:
        row = row * axis.extent + symbol(axis.var)
    pattern = _pattern(context, plan, group, offsets)
    w, key = operands_of(group)[1], (plan.together, plan.cut.rows, plan.depth, len(pattern.starts), pattern.columns)
    assert isinstance(w, Constant)
    names = ("starts", "bounds", "slots", "ends", "offsets", "values")
    starts, bounds, slots, ends, steps, values = _parameters(context, build, w, pattern, names, key)
    template = SparseProduct(
        rows=rows,
        columns=Axis("_n", columns),
        depth=depth,
        x=build.load(View(x, (x.size,), (1,)), place(row)),
        run=plan.cut.run,
        lines=plan.cut.lines,
        line_stride=line_stride,
        starts=starts,
        bounds=bounds,
        slots=slots,
        ends=ends,
        offsets=steps,
        values=values,
        panels=len(pattern.starts) - 1,
        depths=pattern.depths,
        together=plan.together,
        most_columns=pattern.columns,
        width=max(context.machine.lanes_f32, plan.together),
        stores=stores,
    )
    flops = multiply(2 * int(np.count_nonzero(pattern.values)), count)
    context.run(build.launch(template.grid, template, origin=group.node.origin, flops=flops))


def _pattern(context: Context, plan: Plan, group: Group, offsets: Sequence[int]) -> Pattern:
    """The buffers of the pattern of a group's weights, in panels that take about the same time."""
    sparsity, w = sparsity_of(context, group), operands_of(group)[1]
    assert sparsity is not None and isinstance(w, Constant)
    machine, together = context.machine, plan.together
    width = max(machine.lanes_f32, together)
    own = sparsity.masks[together].sum(1, dtype=np.float64) * together + VISIT
    filled = np.pad(own, (0, -len(own) % (width // together))).reshape(-1, width // together)
    starts = balanced(filled.sum(1), width, plan.panels, plan.cut.columns(machine) // width)
    return Pattern.of(matrix_of(group, w), sparsity, together, plan.depth, starts, offsets)


def _parameters(
    context: Context,
    build: KernelBuilder,
    w: Constant,
    pattern: Pattern | VectorPattern,
    names: Sequence[str],
    key: tuple[int, ...],
) -> list[str]:
    """The parameters of the kernel that hold the arrays of the weights' pattern with these names."""

    def parameter(name: str) -> str:
        data = getattr(pattern, name)
        held = data if data.size else np.zeros(1, data.dtype)
        storage = context.weight(w, ("sparse", name, *key), held, from_numpy(data.dtype))
        return build.parameter(View(storage, (storage.size,), (1,)), "read")

    return [parameter(name) for name in names]
