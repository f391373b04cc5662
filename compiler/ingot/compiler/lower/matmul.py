"""Matmul groups: a GEMM over packed panels, batched where the second operand is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ingot.compiler.ir.dims import Dim, ceil_divide, multiply, product, symbol
from ingot.compiler.ir.graph import Constant, Node
from ingot.compiler.ir.loops import Axis, Expr, Local
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.border import zero_border
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.contraction import (
    Epilogue,
    Group,
    in_wide_type,
    launch_contraction,
    narrow_product,
    pack_at_run_time,
    unshifted,
    wide_type,
    widened,
)
from ingot.compiler.lower.packing import pack_panels
from ingot.compiler.lower.pointwise import copy
from ingot.compiler.lower.tiles import choose_contraction
from ingot.compiler.lower.views import View, step_of
from ingot.compiler.ops import linear


def lower_matmul(context: Context, group: Group, node: linear.MatMul) -> None:
    a_value, b_value = group.resolve(node.a), group.resolve(node.b)
    a, out = in_wide_type(context, context.view(a_value), group.node), node.type.shape
    *lead, m, n = out
    depth = node.a.type.shape[-1]
    narrow = narrow_product(context, a_value, b_value)
    if narrow is not None and isinstance(b_value, Constant):
        packed_depth = narrow.filled(b_value.data.shape[-2])
        a, depth = _filled(context, a, packed_depth, group.node), packed_depth
    shared = isinstance(b_value, Constant) and len([d for d in b_value.type.shape[:-2] if d != 1]) == 0
    rows_total = product((*lead, m)) if shared else m
    tile = choose_contraction(
        narrow.room(context.machine) if narrow else context.machine,
        rows=rows_total,
        columns=n,
        depth=depth // narrow.dot if narrow else depth,
        batch=1 if shared else product(lead),
        ranges=context.ranges,
    )
    axes = [Axis(f"_m{i}", d) for i, d in enumerate((*lead, m))]
    index: list[Dim] = [symbol(axis.var) for axis in axes]
    build = kernel(context, group.node)
    column, run = Axis("_n", n), Axis("_k", depth)
    a_offset = a.broadcast_at([*index, symbol("_k")], (*out[:-1], depth))
    if narrow is not None and isinstance(b_value, Constant):
        whole = (*b_value.data.shape[:-2], narrow.filled(b_value.data.shape[-2]), b_value.data.shape[-1])
        matrices = np.zeros(whole, narrow.dtype.to_numpy())
        matrices[..., : b_value.data.shape[-2], :] = b_value.data
        key = ("panels", tile.width, narrow.dot)
        packed = context.weight(b_value, key, pack_panels(matrices, tile.width, narrow.dot), narrow.dtype)
    elif isinstance(b_value, Constant):
        matrices = pack_panels(widened(b_value), tile.width)
        packed = context.weight(b_value, ("panels", tile.width), matrices, wide_type(b_value.dtype))
    else:
        packed = pack_at_run_time(
            context, in_wide_type(context, context.view(b_value), group.node), tile.width, group.node
        )
    panels = ceil_divide(n, tile.width)
    b_view = View(packed, (packed.size,), (1,))
    b_offset: Dim = 0
    step = multiply(multiply(panels, depth), tile.width)
    skip = len(lead) - (len(b_value.type.shape) - 2)
    for axis in range(len(b_value.type.shape) - 3, -1, -1):
        extent = b_value.type.shape[axis]
        if extent != 1:
            b_offset = b_offset + multiply(index[axis + skip], multiply(step, step_of(extent, lead[axis + skip])))
        step = multiply(step, extent)
    template = Contraction(
        batch=() if shared else tuple(axes[:-1]),
        rows=tuple(axes) if shared else (axes[-1],),
        columns=column,
        segments=(),
        run=run,
        a=build.load(a, a_offset),
        b=build.parameter(b_view, "read"),
        b_offset=b_offset,
        width=tile.width,
        tile_rows=tile.tile_rows,
        row_block=tile.row_block,
        panel_block=tile.panel_block,
        stores=(),
        accumulator=wide_type(node.type.dtype),
        dot=narrow.dot if narrow else 1,
        narrow=narrow is not None,
        shift=narrow.shift if narrow else 0,
    )
    acc: Expr = Local("acc", template.accumulator)
    where = [*index, symbol("_n")]
    if narrow is not None and isinstance(b_value, Constant):
        axis = b_value.data.ndim - 2
        acc = unshifted(context, build, narrow, b_value, (axis,))(acc, lambda view: view.broadcast_at(where, out))
    stores = Epilogue(context, group).stores(build, where, acc)
    launch_contraction(context, group, build, replace(template, stores=stores))


def _filled(context: Context, a: View, depth: int, node: Node) -> View:
    """`a` with a last axis of `depth` elements next to each other, those past its own zero."""
    *lead, own = a.shape
    if own == depth and a.strides[-1] == 1:
        return a
    halo = (*((0, 0) for _ in lead), (0, depth - own if isinstance(own, int) else 0))
    whole = context.temp(TensorType(a.storage.dtype, a.shape), halo, node.origin)
    if own != depth:
        context.run(zero_border(context.unique("border"), whole, halo, node.origin))
    copy(context, a, whole, node.origin, "fill")
    return replace(whole, shape=(*lead, depth))
