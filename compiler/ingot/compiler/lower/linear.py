"""Contraction groups: matmul, convolution and attention with their pointwise epilogues, as templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim, ceil_divide, multiply, product, symbol
from ingot.compiler.ir.graph import Constant, Graph, Node, Value, describe
from ingot.compiler.ir.loops import Axis, Call, Expr, Load, Local, Store
from ingot.compiler.ir.program import Storage
from ingot.compiler.ir.templates import Attention, Contraction, Depthwise
from ingot.compiler.ir.types import Shape, TensorType
from ingot.compiler.lower.context import Context, LoweringError, kernel
from ingot.compiler.lower.nest import KernelBuilder, merge_axes
from ingot.compiler.lower.packing import pack_conv, pack_depthwise, pack_panels
from ingot.compiler.lower.pointwise import copy, materialise, scalar_constant, translate
from ingot.compiler.lower.tiles import choose_attention, choose_contraction, choose_depthwise
from ingot.compiler.lower.views import View
from ingot.compiler.ops import composite, linear
from ingot.runtime.dtypes import DType, f32, f64


@dataclass(frozen=True)
class Group:
    """A contraction group being lowered: its anchor, and the outer values that its body's inputs stand for."""

    node: Node
    body: Graph
    outer: Mapping[Value, Value]
    anchor: Node

    def resolve(self, value: Value) -> Value:
        """The outer value (or constant) that a value of the body stands for."""
        return self.outer.get(value, value)


def lower_contraction(context: Context, node: Node, body: Graph, outer: Mapping[Value, Value]) -> None:
    """One kernel for a group anchored in a Conv, MatMul or Attention."""
    anchor = next(n for n in body.nodes() if isinstance(n, (linear.Conv, linear.MatMul, composite.Attention)))
    group = Group(node, body, outer, anchor)
    match anchor:
        case linear.Conv():
            _conv(context, group, anchor)
        case linear.MatMul():
            _matmul(context, group, anchor)
        case _:
            assert isinstance(anchor, composite.Attention)
            _attention(context, group, anchor)


def _epilogue(
    context: Context, group: Group, build: KernelBuilder, index: Sequence[Dim], acc: Expr
) -> tuple[Store, ...]:
    """The stores of a group's results: `acc` is the anchor's element at `index`."""
    reference = group.anchor.type.shape
    memo: dict[Value, Expr] = {}
    dtype = group.anchor.type.dtype
    if _wide_type(dtype) != dtype:
        acc = Call("cast", (acc,), dtype)

    def leaf(value: Value) -> Expr | None:
        if value is group.anchor:
            return acc
        if isinstance(value, Constant) and value.data.size == 1:
            return scalar_constant(value)
        if value in group.outer or isinstance(value, Constant):
            view = context.view(group.resolve(value))
            return build.load(view, view.broadcast_at(index, reference))
        return None

    stores: list[Store] = []
    targets = [context.destination(v) for v in group.node.results()]
    for value, target in zip(group.body.results, targets, strict=True):
        if value.type.shape != reference:
            raise LoweringError(f"{describe(group.node)}: a contraction's epilogue changes its shape")
        stores.append(build.store(target, target.at(index), translate(value, leaf, memo)))
    return tuple(stores)


def _launch(context: Context, group: Group, build: KernelBuilder, template: Contraction) -> None:
    rows, (a, stores, batch) = merge_axes(template.rows, (template.a, template.stores, template.batch))
    merged = replace(template, rows=rows, a=a, stores=stores, batch=batch)
    flops = multiply(2, product((merged.row_count, merged.depth, merged.columns.extent, *(b.extent for b in batch))))
    context.run(build.launch(merged.grid, merged, origin=group.node.origin, flops=flops))


def _matmul(context: Context, group: Group, node: linear.MatMul) -> None:
    a_value, b_value = group.resolve(node.a), group.resolve(node.b)
    a, out = _single(context, context.view(a_value), group.node), node.type.shape
    *lead, m, n = out
    depth = node.a.type.shape[-1]
    shared = isinstance(b_value, Constant) and len([d for d in b_value.type.shape[:-2] if d != 1]) == 0
    rows_total = product((*lead, m)) if shared else m
    tile = choose_contraction(
        context.machine,
        rows=rows_total,
        columns=n,
        depth=depth,
        batch=1 if shared else product(lead),
        ranges=context.ranges,
    )
    axes = [Axis(f"_m{i}", d) for i, d in enumerate((*lead, m))]
    index: list[Dim] = [symbol(axis.var) for axis in axes]
    build = kernel(context, group.node)
    column, run = Axis("_n", n), Axis("_k", depth)
    a_offset = a.broadcast_at([*index, symbol("_k")], (*out[:-1], depth))
    if isinstance(b_value, Constant):
        matrices = pack_panels(_wide(b_value), tile.width)
        packed = context.weight(b_value, ("panels", tile.width), matrices, _wide_type(b_value.dtype))
    else:
        packed = _pack_panels(context, _single(context, context.view(b_value), group.node), tile.width, group.node)
    panels = ceil_divide(n, tile.width)
    b_view = View(packed, (packed.size,), (1,))
    b_offset: Dim = 0
    step = multiply(multiply(panels, depth), tile.width)
    skip = len(lead) - (len(b_value.type.shape) - 2)
    for axis in range(len(b_value.type.shape) - 3, -1, -1):
        extent = b_value.type.shape[axis]
        if extent != 1:
            b_offset = b_offset + index[axis + skip] * step
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
        accumulator=_wide_type(node.type.dtype),
    )
    stores = _epilogue(context, group, build, [*index, symbol("_n")], Local("acc", template.accumulator))
    _launch(context, group, build, replace(template, stores=stores))


def _wide_type(dtype: DType) -> DType:
    """The type that a contraction of `dtype` operands computes in."""
    return f32 if dtype.is_float and dtype != f64 else dtype


def _wide(value: Constant) -> NDArray[Any]:
    """The data of weights in the type that they are computed in."""
    return value.data.astype(_wide_type(value.dtype).to_numpy(), copy=False)


def _single(context: Context, view: View, node: Node) -> View:
    """`view` in the type that contractions compute in: half precision is widened by a copy."""
    kind = _wide_type(view.storage.dtype)
    if view.storage.dtype == kind:
        return view
    target = context.temp(TensorType(kind, view.shape), origin=node.origin)
    copy(context, view, target, node.origin, "widen")
    return target


def _packed_filters(context: Context, group: Group, w: Value, count: int, width: int) -> Storage:
    """The filters [O, I/g, *kernel] of `count` groups in panels."""
    if isinstance(w, Constant):
        return context.weight(w, ("conv", count, width), pack_conv(_wide(w), count, width), _wide_type(w.dtype))
    out, inner, *taps = w.type.static_shape()
    view = _single(context, context.view(w), group.node)
    split = materialise(context, view, group.node.origin).reshape((count, out // count, inner, *taps))
    assert split is not None
    turned = split.transpose((0, *range(3, 3 + len(taps)), 2, 1))
    dense = materialise(context, turned, group.node.origin)
    matrices = dense.reshape((count, int(np.prod(taps)) * inner, out // count))
    assert matrices is not None
    return _pack_panels(context, matrices, width, group.node)


def _pack_panels(context: Context, b: View, width: int, node: Node) -> Storage:
    """A kernel that packs run-time matrices [..., K, N] in panels, as `templates` describes."""
    *lead, depth, n = b.shape
    panels = ceil_divide(n, width)
    target = context.temp(TensorType(b.storage.dtype, (*lead, panels, depth, width)), origin=node.origin)
    whole = isinstance(n, int) and n % width == 0
    if whole:
        split = b.reshape((*lead, depth, panels, width))
        assert split is not None
        order = (*range(len(lead)), len(lead) + 1, len(lead), len(lead) + 2)
        copy(context, split.transpose(order), target, node.origin, "pack")
        return target.storage
    from ingot.compiler.lower.movement import copy_where_inside

    copy_where_inside(context, b, target, width, node.origin)
    return target.storage


def _padded_input(context: Context, group: Group, node: linear.Conv, value: Value) -> View:
    """The view of a convolution's input with at least its padding as a zeroed border."""
    view = context.view(value)
    need = conv_halo(node)
    wide = _wide_type(value.type.dtype)
    have = context.halos.get(value, ()) if value not in context.placements else ()
    if isinstance(value, Constant):
        have = ()
    if all(low == high == 0 for low, high in need):
        return _single(context, view, group.node)
    if (
        wide == value.type.dtype
        and have
        and all(h[0] >= n[0] and h[1] >= n[1] for h, n in zip(have, need, strict=True))
    ):
        return view
    from ingot.compiler.lower.movement import zero_border

    padded = context.temp(TensorType(wide, value.type.shape), need, group.node.origin)
    zero_border(context, padded, need, group.node.origin)
    copy(context, view, padded, group.node.origin, "pad")
    return padded


def conv_halo(node: linear.Conv) -> tuple[tuple[int, int], ...]:
    """The zero border (begin, end) per axis of x that a convolution reads."""
    rank = len(node.strides)
    spatial = [(node.pads[i], node.pads[rank + i]) for i in range(rank)]
    return ((0, 0), *spatial, (0, 0)) if node.channels_last else ((0, 0), (0, 0), *spatial)


def _conv(context: Context, group: Group, node: linear.Conv) -> None:
    x_value, w = group.resolve(node.x), group.resolve(node.w)
    view = _padded_input(context, group, node, x_value)
    rank, shape = len(node.strides), node.type.shape
    if node.channels_last:
        spatial_out, channels = shape[1:-1], shape[-1]
    else:
        spatial_out, channels = shape[2:], shape[1]
        view = view.transpose((0, *range(2, rank + 2), 1))
    _, inner, *kernel_shape = w.type.static_shape()
    rows = [Axis("_b", shape[0]), *(Axis(f"_o{i}", d) for i, d in enumerate(spatial_out))]
    taps = [Axis(f"_t{i}", d) for i, d in enumerate(kernel_shape)]
    where: list[Dim] = [symbol("_b")]
    for i in range(rank):
        position = symbol(f"_o{i}") * node.strides[i] - node.pads[i]
        where.append(position + (symbol(f"_t{i}") * node.dilations[i] if kernel_shape[i] > 1 else 0))

    def out_index(channel: Dim) -> list[Dim]:
        spatial = [symbol(axis.var) for axis in rows[1:]]
        return [symbol("_b"), *spatial, channel] if node.channels_last else [symbol("_b"), channel, *spatial]

    build = kernel(context, group.node)
    if inner == 1 and node.group == channels and node.channels_last and rank == 2:
        _depthwise(context, group, node, w, view, rows, taps, where, build)
        return
    columns = channels // node.group
    depth = int(np.prod(kernel_shape)) * inner
    tile = choose_contraction(
        context.machine,
        rows=product(axis.extent for axis in rows),
        columns=columns,
        depth=depth,
        batch=node.group,
        ranges=context.ranges,
    )
    packed = _packed_filters(context, group, w, node.group, tile.width)
    batch = (Axis("_g", node.group),) if node.group > 1 else ()
    group_index: Dim = symbol("_g") if batch else 0
    channel = group_index * inner + symbol("_k")
    segments = [axis for axis in taps if axis.extent != 1]
    run = Axis("_k", inner)
    offset = view.at([*where, channel])
    last = taps[-1]
    joined = (
        last.extent != 1
        and node.group == 1
        and node.dilations[-1] == 1
        and view.strides[-2] == inner * view.strides[-1]
        and (view.strides[-1] == 1 or inner == 1)
    )
    if joined:  # the taps of one kernel row lie one after the other: one long run
        where[-1] = symbol(f"_o{rank - 1}") * node.strides[-1] - node.pads[rank - 1]
        offset = view.at([*where, 0]) + symbol("_k") * (view.strides[-2] if inner == 1 else view.strides[-1])
        segments, run = segments[:-1], Axis("_k", multiply(last.extent, inner))
    b_view = View(packed, (packed.size,), (1,))
    step = multiply(multiply(ceil_divide(columns, tile.width), depth), tile.width)
    template = Contraction(
        batch=batch,
        rows=tuple(rows),
        columns=Axis("_n", columns),
        segments=tuple(segments),
        run=run,
        a=build.load(view, offset),
        b=build.parameter(b_view, "read"),
        b_offset=group_index * step,
        width=tile.width,
        tile_rows=tile.tile_rows,
        row_block=tile.row_block,
        panel_block=tile.panel_block,
        stores=(),
        accumulator=_wide_type(node.type.dtype),
    )
    n = group_index * columns + symbol("_n")
    acc = _with_bias(context, group, node, build, n, Local("acc", template.accumulator))
    stores = _epilogue(context, group, build, out_index(n), acc)
    _launch(context, group, build, replace(template, stores=stores))


def _with_bias(
    context: Context, group: Group, node: linear.Conv, build: KernelBuilder, channel: Dim, acc: Expr
) -> Expr:
    if node.bias is None:
        return acc
    view = context.view(group.resolve(node.bias))
    kind = _wide_type(node.type.dtype)
    bias: Expr = build.load(view, view.at([channel]))
    if kind != node.type.dtype:
        bias = Call("cast", (bias,), kind)
    return Call("add", (acc, bias), kind)


def _depthwise(
    context: Context,
    group: Group,
    node: linear.Conv,
    w: Value,
    view: View,
    rows: Sequence[Axis],
    taps: Sequence[Axis],
    where: Sequence[Dim],
    build: KernelBuilder,
) -> None:
    channels = node.type.shape[-1]
    if isinstance(w, Constant):
        packed = context.weight(w, ("depthwise",), pack_depthwise(_wide(w)), _wide_type(w.dtype))
    else:
        filters = _single(context, context.view(w), group.node)
        order = (*range(2, len(filters.shape)), 0, 1)
        packed = materialise(context, filters.transpose(order), group.node.origin).storage
    c = symbol("_c")
    tap: Dim = 0
    for axis in taps:
        tap = tap * axis.extent + symbol(axis.var)
    weights = View(packed, (packed.size,), (1,))
    index = [symbol("_b"), *(symbol(axis.var) for axis in rows[1:]), c]
    block = choose_depthwise(
        context.machine,
        rows=product(axis.extent for axis in rows[:-1]),
        columns=rows[-1].extent,
        channels=channels,
        taps=int(np.prod(w.type.static_shape()[2:])),
        ranges=context.ranges,
    )
    acc = _with_bias(context, group, node, build, c, Local("acc", _wide_type(node.type.dtype)))
    template = Depthwise(
        rows=tuple(rows[:-1]),
        x=rows[-1],
        channels=Axis("_c", channels),
        taps=tuple(taps),
        a=build.load(view, view.at([*where, c])),
        w=build.load(weights, tap * channels + c),
        row_block=block,
        stores=_epilogue(context, group, build, index, acc),
        accumulator=_wide_type(node.type.dtype),
    )
    flops = multiply(2, multiply(product(node.type.shape), product(axis.extent for axis in taps)))
    context.run(build.launch(template.grid, template, origin=group.node.origin, flops=flops))


def _attention(context: Context, group: Group, node: composite.Attention) -> None:
    def dense_last(value: Value) -> View:
        view = _single(context, context.view(group.resolve(value)), group.node)
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
            scalar_constant(mask_value)
            if isinstance(mask_value, Constant) and mask_value.data.size == 1
            else load(context.view(mask_value), i, j, (queries, keys))
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
    stores = _epilogue(context, group, build, [*where, i, e], Local("acc", f32))
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
    )
    flops = product((*lead, queries, keys)) * (2 * (depth + value_depth))
    context.run(build.launch(template.grid, template, origin=group.node.origin, flops=flops))
