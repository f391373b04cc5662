"""Matmul groups: a GEMM over packed panels, batched where the second operand is."""

from __future__ import annotations

from dataclasses import replace

from ingot.compiler.ir.dims import Dim, bounds, multiply, product, symbol
from ingot.compiler.ir.graph import Constant, Node
from ingot.compiler.ir.loops import Axis, Expr, Local
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.block_weights import block_parameters, is_weight, packed_words
from ingot.compiler.lower.border import zero_border
from ingot.compiler.lower.choices import choose_tile, wanted_schedule
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.contraction import (
    Group,
    Inner,
    Products,
    contraction,
    in_wide_type,
    launch_contraction,
    listed_steps,
    pack_at_run_time,
    packed_matrix,
    packed_size,
    unshifted,
    wide_type,
)
from ingot.compiler.lower.pointwise import copy
from ingot.compiler.lower.sparse import launch_product
from ingot.compiler.lower.sparse_plans import choose_sparse
from ingot.compiler.lower.views import View, step_of
from ingot.compiler.ops import linear
from ingot.compiler.ops.quantised import DequantizeBlocks
from ingot.runtime.dtypes import f32


def lower_matmul(context: Context, group: Group, node: linear.MatMul) -> None:
    a_value, b_value = group.resolve(node.a), group.resolve(node.b)
    a, out = in_wide_type(context, context.view(a_value), group.node), node.type.shape
    *lead, m, n = out
    depth = node.a.type.shape[-1]
    shared = is_weight(b_value) and len([d for d in b_value.type.shape[:-2] if d != 1]) == 0
    rows = product((*lead, m)) if shared else m
    axes = [Axis(f"_m{i}", d) for i, d in enumerate((*lead, m))]
    index: list[Dim] = [symbol(axis.var) for axis in axes]
    plan = choose_sparse(context, group, rows)
    if plan is not None:
        where, acc = [*index, symbol("_n")], Local("acc", f32)
        launch_product(context, group, kernel(context, group.node, "_sparse"), plan, a, tuple(axes), where, acc)
        return
    products = Products.of(context, a_value, b_value, Inner.of_matrices(b_value), bounds(rows, context.ranges)[1])
    if products.dot > 1 and isinstance(b_value, Constant):
        depth = products.filled(b_value.data.shape[-2])
        a = _filled(context, a, depth, group.node)
    batch = 1 if shared else product(lead)
    tile = choose_tile(context, group, products, b_value, rows=rows, columns=n, depth=depth, batch=batch)
    build = kernel(context, group.node, f"_u{b_value.bits}" if isinstance(b_value, DequantizeBlocks) else "")
    if isinstance(b_value, DequantizeBlocks):
        packed = packed_words(context, b_value, tile.width)
    elif isinstance(b_value, Constant):
        packed = packed_matrix(context, b_value, tile.width, products)
    else:
        packed = pack_at_run_time(
            context, in_wide_type(context, context.view(b_value), group.node), tile.width, group.node
        )
    b_offset: Dim = 0
    step = packed_size(n, depth, tile.width)
    skip = len(lead) - (len(b_value.type.shape) - 2)
    for axis in range(len(b_value.type.shape) - 3, -1, -1):
        extent = b_value.type.shape[axis]
        if extent != 1:
            b_offset = b_offset + multiply(index[axis + skip], multiply(step, step_of(extent, lead[axis + skip])))
        step = multiply(step, extent)
    run = Axis("_k", depth)
    template = contraction(
        build,
        products,
        tile,
        batch=() if shared else tuple(axes[:-1]),
        rows=tuple(axes) if shared else (axes[-1],),
        columns=Axis("_n", n),
        run=run,
        a=a,
        a_offset=a.broadcast_at([*index, symbol("_k")], (*out[:-1], depth)),
        b=packed,
        b_offset=b_offset,
        accumulator=wide_type(node.type.dtype),
        listed=listed_steps(context, b_value, products, (run,)),
    )
    if isinstance(b_value, DequantizeBlocks):
        blocks = block_parameters(context, build, b_value, tile.width, coarse=node.a_bits == 8)
        template = replace(template, blocks=blocks)
    where = [*index, symbol("_n")]
    acc: Expr = Local("acc", template.accumulator)
    acc = unshifted(
        context, build, products, b_value, (b_value.rank - 2,), acc, lambda view: view.broadcast_at(where, out)
    )
    launch_contraction(context, group, build, template, where, acc, wanted_schedule(context, group))


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
