"""Attention groups."""

from __future__ import annotations

from ingot.compiler.ir.dims import Dim, product, symbol
from ingot.compiler.ir.graph import Constant, Value, describe
from ingot.compiler.ir.loops import Axis, Const, Expr, Load, Local
from ingot.compiler.ir.templates import Attention
from ingot.compiler.ir.types import Shape
from ingot.compiler.lower.context import Context, LoweringError, kernel
from ingot.compiler.lower.contraction import Epilogue, Group, in_wide_type
from ingot.compiler.lower.pointwise import materialise, scalar_constant
from ingot.compiler.lower.tiles import choose_attention
from ingot.compiler.lower.views import View
from ingot.compiler.ops import composite
from ingot.runtime.dtypes import f32


def lower_attention(context: Context, group: Group, node: composite.Attention) -> None:
    def dense_last(value: Value) -> View:
        view = in_wide_type(context, context.view(group.resolve(value)), group.node)
        return view if view.strides[-1] == 1 or view.shape[-1] == 1 else materialise(context, view, node.origin)

    q, k, v = dense_last(node.q), dense_last(node.k), dense_last(node.v)
    shape = node.type.shape
    *lead, queries, value_depth = shape
    keys, depth = node.k.type.shape[-2], node.q.type.shape[-1]
    batch = [Axis(f"_b{i}", d) for i, d in enumerate(lead)]
    where: list[Dim] = [symbol(axis.var) for axis in batch]
    i, j, d, e = symbol("_i"), symbol("_j"), symbol("_d"), symbol("_e")
    build = kernel(context, group.node)

    def load(view: View, first: Dim, second: Dim, extents: Shape) -> Load:
        return build.load(view, view.broadcast_at([*where, first, second], (*lead, *extents)))

    mask: Expr | None = None
    if node.mask is not None:
        mask_value = group.resolve(node.mask)
        mask = (
            Const(float(scalar_constant(mask_value).value), f32)
            if isinstance(mask_value, Constant) and mask_value.data.size == 1
            else load(in_wide_type(context, context.view(mask_value), group.node), i, j, (queries, keys))
        )
    block = choose_attention(
        context.machine,
        batch=product(lead),
        queries=queries,
        keys=keys,
        depth=depth,
        value=value_depth,
        ranges=context.ranges,
    )
    stores = Epilogue(context, group).stores(build, [*where, i, e], Local("acc", f32))
    if len(stores) != 1:
        raise LoweringError(f"{describe(group.node)}: an attention group has one result")
    template = Attention(
        batch=tuple(batch),
        queries=Axis("_i", queries),
        keys=Axis("_j", keys),
        depth=Axis("_d", depth),
        value=Axis("_e", value_depth),
        q=load(q, i, d, (queries, depth)),
        k=load(k, j, d, (keys, depth)),
        v=load(v, j, e, (keys, value_depth)),
        mask=mask,
        scale=node.scale,
        out=stores[0],
        query_block=block,
        guard=node.guard,
    )
    flops = product((*lead, queries, keys)) * (2 * (depth + value_depth))
    context.run(build.launch(template.grid, template, origin=group.node.origin, flops=flops))
