"""Convolution groups: implicit GEMM over zero-bordered channels-last data, depthwise by a template of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ingot.compiler.ir.dims import Dim, multiply, product, substitute, symbol
from ingot.compiler.ir.graph import Constant, Value
from ingot.compiler.ir.loops import Axis, Call, Expr, For, Load, Local
from ingot.compiler.ir.program import Storage
from ingot.compiler.ir.templates import Depthwise
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.border import zero_border
from ingot.compiler.lower.choices import choose_tile, wanted_schedule
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.contraction import (
    Epilogue,
    Group,
    Inner,
    Products,
    contraction,
    in_wide_type,
    launch_contraction,
    listed_steps,
    pack_at_run_time,
    packed_filters,
    packed_size,
    stored_elements,
    unshifted,
    wide_type,
)
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, loop_names, map_dims, zero
from ingot.compiler.lower.packing import pack_depthwise
from ingot.compiler.lower.pointwise import copy, materialise
from ingot.compiler.lower.sparse import launch_product, launch_window
from ingot.compiler.lower.sparse_plans import Plan, choose_sparse, has_window
from ingot.compiler.lower.spectral import choose_spectrum, lower_spectral, spectral_halo
from ingot.compiler.lower.tiles import BYTES_DEPTHWISE_MICROSECONDS, CHUNK_MICROSECONDS, MOST_CHUNKS, choose_depthwise
from ingot.compiler.lower.views import View
from ingot.compiler.lower.winograd import choose_winograd, lower_winograd, winograd_halo
from ingot.compiler.ops import linear
from ingot.runtime.dtypes import f32, i8, u8

LEAST_PART = 28
DENSE_COLUMNS = 256  # from so many on a copy of the rows takes less than some two per cent of their product


def _packed_filters(context: Context, group: Group, w: Value, count: int, width: int, products: Products) -> Storage:
    """The filters [O, I/g, *kernel] of `count` groups in panels."""
    if isinstance(w, Constant):
        return packed_filters(context, w, count, width, products)
    out, inner, *taps = w.shape
    view = in_wide_type(context, context.view(w), group.node)
    split = materialise(context, view, group.node.origin).reshape((count, out // count, inner, *taps))
    assert split is not None
    turned = split.transpose((0, *range(3, 3 + len(taps)), 2, 1))
    dense = materialise(context, turned, group.node.origin)
    matrices = dense.reshape((count, product((*taps, inner)), out // count))
    assert matrices is not None
    return pack_at_run_time(context, matrices, width, group.node)


def is_depthwise(node: linear.Conv, w: Value) -> bool:
    """Whether the depthwise template takes the convolution."""
    plain = node.channels_last and len(node.strides) <= 2 and w.shape[1] == 1
    return plain and node.group == node.type.shape[-1]


def padded_input(context: Context, group: Group, node: linear.Conv, value: Value) -> View:
    """The view of a convolution's input with at least its padding as a zeroed border."""
    view = context.view(value)
    need = conv_halo(context, group, node)
    wide = wide_type(value.type.dtype)
    have = context.halos.get(value, ()) if value not in context.placements else ()
    if isinstance(value, Constant):
        have = ()
    if all(low == high == 0 for low, high in need):
        return in_wide_type(context, view, group.node)
    if (
        wide == value.type.dtype
        and have
        and all(h[0] >= n[0] and h[1] >= n[1] for h, n in zip(have, need, strict=True))
    ):
        return view
    if wide == value.type.dtype and (filled := _filled_channels(context, view, need, group)) is not None:
        return filled
    padded = context.temp(TensorType(wide, value.type.shape), need, group.node.origin)
    context.run(zero_border(context.unique("border"), padded, need, group.node.origin))
    copy(context, view, padded, group.node.origin, "pad")
    return padded


def _filled_channels(context: Context, view: View, need: tuple[tuple[int, int], ...], group: Group) -> View | None:
    """A copy of `view`, channels last of planes, whose channels lie together and are filled up with zeros; None where
    it is something else. All channels of a pixel are written at once."""
    more, channels = need[-1][1], view.shape[-1]
    if not more or len(view.shape) < 3 or not isinstance(channels, int) or channels + more not in (2, 4):
        return None
    if view.strides[-2] != 1 or view.strides[-1] == 1:
        return None
    shape, dtype, origin = (*view.shape[:-1], channels + more), view.storage.dtype, group.node.origin
    halo = (*need[:-1], (0, 0))
    target = context.temp(TensorType(dtype, shape), halo, origin)
    if any(low or high for low, high in halo):
        context.run(zero_border(context.unique("border"), target, halo, origin))
    *outer, x = names = loop_names(len(shape) - 1)
    place = [symbol(name) for name in names]
    build = KernelBuilder(context.unique("fill"))
    values = [build.load(view, view.at([*place, c])) if c < channels else zero(dtype) for c in range(channels + more)]
    stores = tuple(build.store(target, target.at([*place, c]), value) for c, value in enumerate(values))
    grid = [Axis(name, extent) for name, extent in zip(outer, shape, strict=False)]
    grid[-1] = Axis(outer[-1], grid[-1].extent, grain_for(multiply(*shape[-2:]), CHUNK))
    context.run(build.launch(grid, (For(x, shape[-2], stores, "vector"),), origin=origin))
    return replace(target, shape=view.shape)


def conv_halo(context: Context, group: Group, node: linear.Conv) -> tuple[tuple[int, int], ...]:
    """The zero border (begin, end) per axis of x that the convolution of `group` reads."""
    w = group.resolve(node.w)
    algorithm = choose_winograd(context, group, node)
    if algorithm is not None and _sparse_plan(context, group, node) is None:
        return winograd_halo(node, algorithm)
    spectrum = choose_spectrum(context, group, node)
    if spectrum is not None:
        return spectral_halo(node, spectrum)
    rank = len(node.strides)
    spatial = [(node.pads[i], node.pads[rank + i]) for i in range(rank)]
    products = Products.of(context, node.x, w, Inner.of_conv(w, node.group))
    whole = products.dot == 1 or node.group > 1
    more = 0 if whole else products.filled(w.shape[1]) - w.shape[1]  # to whole products at a time
    return ((0, 0), *spatial, (0, more)) if node.channels_last else ((0, 0), (0, more), *spatial)


@dataclass(frozen=True)
class _Window:
    """What a convolution reads: for an element of the result, whose place is a point of `rows` and a channel, the
    elements of `view`, channels last, at `where` over the points of `taps`."""

    view: View
    rows: tuple[Axis, ...]
    taps: tuple[Axis, ...]
    where: tuple[Dim, ...]

    @staticmethod
    def of(node: linear.Conv, w: Value, view: View) -> _Window:
        """The window of filters `w`; `view` is the input with its border, in the node's order of axes."""
        rank, shape = len(node.strides), node.type.shape
        if not node.channels_last:
            view = view.transpose((0, *range(2, rank + 2), 1))
        spatial = shape[1:-1] if node.channels_last else shape[2:]
        rows = (Axis("_b", shape[0]), *(Axis(f"_o{i}", d) for i, d in enumerate(spatial)))
        taps = tuple(Axis(f"_t{i}", d) for i, d in enumerate(TensorType(w.dtype, w.shape[2:]).static_shape()))
        where: list[Dim] = [symbol("_b")]
        for i, tap in enumerate(taps):
            position = symbol(f"_o{i}") * node.strides[i] - node.pads[i]
            where.append(position + (symbol(tap.var) * node.dilations[i] if tap.extent != 1 else 0))
        return _Window(view, rows, taps, tuple(where))

    def result(self, node: linear.Conv, channel: Dim) -> list[Dim]:
        """The place of a channel in the result."""
        batch, *spatial = (symbol(axis.var) for axis in self.rows)
        return [batch, *spatial, channel] if node.channels_last else [batch, channel, *spatial]

    def terms(self, node: linear.Conv, channels: int, channel: Dim) -> tuple[tuple[Axis, ...], Axis, Dim]:
        """The sum over the taps and `channels` input channels from `channel` on: the outer axes, the innermost, ``_k``,
        and the offset in the view."""
        view, last = self.view, self.taps[-1]
        joined = (
            last.extent != 1
            and node.group == 1
            and node.dilations[-1] == 1
            and view.strides[-2] == channels * view.strides[-1]
            and (view.strides[-1] == 1 or channels == 1)
        )
        outer = tuple(axis for axis in self.taps if axis.extent != 1)
        if not joined:
            return outer, Axis("_k", channels), view.at([*self.where, channel + symbol("_k")])
        # The taps of one kernel row lie one after the other: one long run.
        first = symbol(self.rows[-1].var) * node.strides[-1] - node.pads[len(self.taps) - 1]
        step = view.strides[-2] if channels == 1 else view.strides[-1]
        offset = view.at([*self.where[:-1], first, 0]) + symbol("_k") * step
        return outer[:-1], Axis("_k", multiply(last.extent, channels)), offset


def lower_conv(context: Context, group: Group, node: linear.Conv) -> None:
    """Kernels for a convolution group: Winograd or Fourier where they pay, depthwise, else an implicit GEMM."""
    w = group.resolve(node.w)
    view = padded_input(context, group, node, group.resolve(node.x))
    algorithm = choose_winograd(context, group, node)
    plan = _sparse_plan(context, group, node)
    if plan is not None:
        _sparse(context, group, node, plan, _Window.of(node, w, view))
    elif algorithm is not None:
        lower_winograd(context, group, node, view, algorithm)
    elif (spectrum := choose_spectrum(context, group, node)) is not None:
        lower_spectral(context, group, node, view, spectrum)
    elif is_depthwise(node, w):
        _depthwise(context, group, node, w, _Window.of(node, w, view))
    else:
        _implicit_gemm(context, group, node, w, _Window.of(node, w, view))


def _sparse_plan(context: Context, group: Group, node: linear.Conv) -> Plan | None:
    """How the convolution is computed without the zeros of its weights, if it is."""
    shape = node.type.shape
    return choose_sparse(context, group, product(shape[:-1])) if node.channels_last else None


def _sparse(context: Context, group: Group, node: linear.Conv, plan: Plan, window: _Window) -> None:
    build, n = kernel(context, group.node, "_sparse"), symbol("_n")
    acc, where = _with_bias(context, group, node, build, n, Local("acc", f32)), window.result(node, n)
    if has_window(node, group.resolve(node.w).type.static_shape()):
        launch_window(context, group, node, build, plan, window.view, window.rows, where, acc)
    else:
        launch_product(context, group, build, plan, _pixels(node, window), window.rows, where, acc)


def _implicit_gemm(context: Context, group: Group, node: linear.Conv, w: Value, window: _Window) -> None:
    channels = node.type.shape[-1 if node.channels_last else 1]
    columns, inner = channels // node.group, w.shape[1]
    products = _products(context, node, w, window.view)
    if products.dot > 1 and node.group == 1:
        inner = products.filled(inner)
        view = window.view
        window = replace(window, view=replace(view, shape=(*view.shape[:-1], inner)))
    else:
        window = _dense(context, node, window, columns)
    build = kernel(context, group.node)
    depth = multiply(product(axis.extent for axis in window.taps), inner)
    tile = choose_tile(
        context,
        group,
        products,
        w,
        rows=product(axis.extent for axis in window.rows),
        columns=columns,
        depth=depth,
        batch=node.group,
    )
    batch = (Axis("_g", node.group),) if node.group > 1 else ()
    group_index: Dim = symbol("_g") if batch else 0
    packed = _packed_filters(context, group, w, node.group, tile.width, products)
    segments, run, offset = window.terms(node, inner, group_index * inner)
    template = contraction(
        build,
        products,
        tile,
        batch=batch,
        rows=window.rows,
        columns=Axis("_n", columns),
        segments=segments,
        run=run,
        a=window.view,
        a_offset=offset,
        b=packed,
        b_offset=group_index * packed_size(columns, depth, tile.width),
        accumulator=wide_type(node.type.dtype),
        listed=listed_steps(context, w, products, (*segments, run)),
    )
    n = group_index * columns + symbol("_n")
    summed = tuple(range(1, w.rank))
    acc: Expr = Local("acc", template.accumulator)
    acc = unshifted(context, build, products, w, summed, acc, lambda view: view.at([n, *(0 for _ in summed)]))
    acc = _with_bias(context, group, node, build, n, acc)
    where = window.result(node, n)
    launch_contraction(context, group, build, template, where, acc, wanted_schedule(context, group))


def _dense(context: Context, node: linear.Conv, window: _Window, columns: Dim) -> _Window:
    """`window` over a copy of the pixels that a strided convolution of one tap reads, where its many columns pay for
    that: pixels that lie apart, most often by a power of two, get in each other's way in the caches."""
    taps, strided = all(axis.extent == 1 for axis in window.taps), any(stride > 1 for stride in node.strides)
    if not taps or not strided or any(node.pads) or not isinstance(columns, int) or columns < DENSE_COLUMNS:
        return window
    if window.view.strides[-1] != 1:
        return window
    copied = materialise(context, _pixels(node, window), node.origin)
    return replace(window, view=copied, where=tuple(symbol(axis.var) for axis in window.rows))


def _pixels(node: linear.Conv, window: _Window) -> View:
    """The pixels [rows ..., channels] that a convolution of one tap without padding reads."""
    view = window.view
    steps = (multiply(view.strides[1 + i], stride) for i, stride in enumerate(node.strides))
    shape, strides = (*(axis.extent for axis in window.rows), view.shape[-1]), (view.strides[0], *steps)
    return replace(view, shape=shape, strides=(*strides, view.strides[-1]))


def _products(context: Context, node: linear.Conv, w: Value, view: View) -> Products:
    """How elements are multiplied: several 8-bit products at a time where the channels are neighbours."""
    products = Products.of(context, node.x, w, Inner.of_conv(w, node.group))
    apart = view.strides[-1] != 1 or (node.group > 1 and w.shape[1] % products.dot)
    return Products.widening(context, w) if apart else products


def _with_bias(
    context: Context, group: Group, node: linear.Conv, build: KernelBuilder, channel: Dim, acc: Expr
) -> Expr:
    if node.bias is None:
        return acc
    view = context.view(group.resolve(node.bias))
    kind = wide_type(node.type.dtype)
    bias: Expr = build.load(view, view.at([channel]))
    if kind != node.type.dtype:
        bias = Call("cast", (bias,), kind)
    return Call("add", (acc, bias), kind)


def _is_exact_in_f32(w: Constant, bias: Value | None) -> bool:
    """Whether all sums of u8 elements times i8 weights [C, 1, *kernel] and the bias are whole numbers that f32 holds.
    It multiplies and adds faster than 32-bit integers do."""
    if w.dtype != i8 or not (bias is None or isinstance(bias, Constant)):
        return False
    most = 255 * np.abs(w.data.astype(np.int64)).reshape(w.data.shape[0], -1).sum(1)
    if isinstance(bias, Constant):
        most = most + np.abs(bias.data.astype(np.int64))
    return bool(most.max(initial=0) < 2**24)


def _taps_together(context: Context, node: linear.Conv, w: Value) -> int:
    """How many taps of a column are summed at once: four where the machine sums four products of bytes, and the weights
    may grow if the columns must be filled up."""
    if len(node.strides) == 1:
        return 1
    machine, height = context.machine, int(w.type.static_shape()[2])
    if machine.dot != 4 or machine.signed_dot or (node.x.dtype, w.dtype) != (u8, i8) or not isinstance(w, Constant):
        return 1
    fits = height % machine.dot == 0 or (height > 1 and context.forms.may_grow)
    return machine.dot if fits else 1


def _parts(extent: int) -> int:
    """Equal parts of a line that is all there is to share out among threads, each of `LEAST_PART` positions or more."""
    return next((parts for parts in range(min(extent // LEAST_PART, MOST_CHUNKS), 1, -1) if extent % parts == 0), 1)


def _depthwise(context: Context, group: Group, node: linear.Conv, w: Value, window: _Window) -> None:
    build = kernel(context, group.node)
    *rows, x = window.rows
    channels, whole = node.type.shape[-1], symbol(x.var)
    if len(rows) == 1 and isinstance(x.extent, int) and (parts := _parts(x.extent)) > 1:
        rows.append(Axis("_part", parts))
        x = Axis(x.var, x.extent // parts)
        whole = symbol("_part") * x.extent + symbol(x.var)
    bias = None if node.bias is None else group.resolve(node.bias)
    dot = _taps_together(context, node, w)
    narrow = dot == 1 and isinstance(w, Constant) and _is_exact_in_f32(w, bias)
    kind = f32 if narrow else wide_type(node.type.dtype)
    if isinstance(w, Constant) and dot > 1:
        packed = context.weight(w, ("depthwise", dot), lambda: pack_depthwise(w.data, dot))
    elif isinstance(w, Constant):
        elements, dtype = stored_elements(context, w, kind)
        packed = context.weight(w, ("depthwise", dtype.name), pack_depthwise(elements), dtype)
    else:
        filters = in_wide_type(context, context.view(w), group.node)
        order = (*range(2, len(filters.shape)), 0, 1)
        packed = materialise(context, filters.transpose(order), group.node.origin).storage
    c = symbol("_c")
    tap: Dim = 0
    for axis in window.taps:
        here: Dim = symbol(axis.var)
        tap = tap * axis.extent + (here if dot == 1 or axis is not window.taps[0] else here // dot)
    place = tap * channels + c
    if dot > 1:
        place = place * dot + symbol(window.taps[0].var) % dot
    weights = View(packed, (packed.size,), (1,))
    block = choose_depthwise(
        context.machine,
        rows=product(axis.extent for axis in rows),
        columns=x.extent,
        channels=channels,
        taps=int(np.prod(w.type.static_shape()[2:])),
        ranges=context.ranges,
        chunk=CHUNK_MICROSECONDS if dot == 1 else BYTES_DEPTHWISE_MICROSECONDS,
    )
    real: Expr | None = None
    if narrow:
        real = Local("acc", f32)
        if isinstance(bias, Constant):
            shifts = View(context.weight(bias, ("f32",), bias.data.astype(np.float32), f32), bias.shape, (1,))
            real = Call("add", (real, build.load(shifts, c)), f32)
        acc: Expr = Call("cast", (real,), node.type.dtype)
    else:
        acc = _with_bias(context, group, node, build, c, Local("acc", kind))
    a: Load = build.load(window.view, window.view.at([*window.where, c]))
    stores = Epilogue(context, group).stores(build, window.result(node, c), acc, real)
    a, stores = map_dims((a, stores), lambda dim: substitute(dim, {x.var: whole}))
    template = Depthwise(
        rows=tuple(rows),
        x=x,
        channels=Axis("_c", channels),
        taps=window.taps,
        a=a,
        w=build.load(weights, place),
        row_block=block,
        stores=stores,
        accumulator=kind,
        narrow=window.view.storage.dtype != kind or packed.dtype != kind,
        dot=dot,
    )
    flops = multiply(2, multiply(product(node.type.shape), product(axis.extent for axis in window.taps)))
    context.run(build.launch(template.grid, template, origin=group.node.origin, flops=flops))
