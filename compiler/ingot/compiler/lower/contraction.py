"""What all contraction groups share: the group, its epilogue, how it multiplies, its kernel and run-time packing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim, ceil_divide, multiply
from ingot.compiler.ir.graph import Constant, Graph, Node, Value, describe
from ingot.compiler.ir.loops import Axis, Call, Expr, Store
from ingot.compiler.ir.program import Storage
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.context import Context, LoweringError
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.movement import pack_where_inside
from ingot.compiler.lower.nest import KernelBuilder, merge_axes
from ingot.compiler.lower.packing import pack_conv, pack_panels
from ingot.compiler.lower.pointwise import copy, translate_node
from ingot.compiler.lower.schedules import Schedule
from ingot.compiler.lower.short_sums import STEP, TOGETHER, WIDTH, ShortSums
from ingot.compiler.lower.strassen import choose_strassen, gated, launch_strassen
from ingot.compiler.lower.tiles import (
    BLOCKS_CHUNK_MICROSECONDS,
    BYTES_CHUNK_MICROSECONDS,
    CHUNK_MICROSECONDS,
    WIDTHS,
    ContractionTile,
    choose_contraction,
)
from ingot.compiler.lower.views import View
from ingot.compiler.ops.pointwise import Cast
from ingot.compiler.ops.quantised import DequantizeBlocks
from ingot.runtime.dtypes import DType, f32, f64, i8, i16, i32, i64, u8

TILE_WIDTH = 16  # columns of a panel that a machine with tiles multiplies in them


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


class Epilogue:
    """The stores of a group's results in terms of its anchor's elements.

    Made once a group (it settles where the results lie); `stores` may be asked for several places.
    """

    def __init__(self, context: Context, group: Group) -> None:
        self.context, self.group = context, group
        for value in group.body.results:
            if value.type.shape != group.anchor.type.shape:
                raise LoweringError(f"{describe(group.node)}: a contraction's epilogue changes its shape")
        self.targets = [context.destination(v) for v in group.node.results()]

    def stores(
        self, build: KernelBuilder, index: Sequence[Dim], acc: Expr, real: Expr | None = None
    ) -> tuple[Store, ...]:
        """The stores for the place `index` of the anchor, whose element there is `acc` (of the wide type); `real` is
        the same number in f32 where that is at hand."""
        group = self.group
        reference, dtype = group.anchor.type.shape, group.anchor.type.dtype
        element = acc if wide_type(dtype) == dtype else Call("cast", (acc,), dtype)

        memo: dict[Value, Expr] = {}

        def translate(value: Value) -> Expr:
            found = memo.get(value)
            if found is not None:
                return found
            if value is group.anchor:
                result = element
            elif real is not None and isinstance(value, Cast) and value.x is group.anchor and value.to == f32:
                result = real
            elif value in group.outer or (isinstance(value, Constant) and value.data.size != 1):
                view = self.context.view(group.resolve(value))
                result = build.load(view, view.broadcast_at(index, reference))
            else:
                result = translate_node(value, translate)
            memo[value] = result
            return result

        return tuple(
            build.store(target, target.at(index), translate(value))
            for value, target in zip(group.body.results, self.targets, strict=True)
        )


def wide_type(dtype: DType) -> DType:
    """The type that sums and products of `dtype` elements are computed in."""
    return f32 if dtype.is_float and dtype != f64 else dtype


def stored_elements(context: Context, w: Constant, wide: DType) -> tuple[NDArray[Any], DType]:
    """The data of weights that are computed in `wide` as they lie in memory, and the type of that."""
    dtype = context.forms.element_type(w, wide)
    return w.data.astype(dtype.to_numpy(), copy=False), dtype


def packed_matrix(context: Context, b: Constant, width: int, products: Products) -> Storage:
    """The weight storage of constant matrices [..., K, N] in panels."""
    if products.short is not None:
        return _packed_short(context, b, products.short)
    key = ("panels", width, products.dot, products.dtype.name)
    return context.weight(
        b, key, lambda: pack_panels(products.weights(b, -2), width, products.dot), products.dtype
    )


def _packed_short(context: Context, w: Constant, short: ShortSums) -> Storage:
    return context.weight(w, ("short sums",), lambda: pack_panels(short.main, WIDTH, STEP))


def packed_filters(context: Context, w: Constant, count: int, width: int, products: Products) -> Storage:
    """The weight storage of constant filters [O, I/g, *kernel] of `count` groups in panels."""
    if products.short is not None:
        return _packed_short(context, w, products.short)
    key = ("conv", count, width, products.dot)
    return context.weight(
        w, key, lambda: pack_conv(products.weights(w, 1), count, width, products.dot), products.dtype
    )


def in_wide_type(context: Context, view: View, node: Node) -> View:
    """`view` in the type that contractions compute in: half precision is widened by a copy."""
    kind = wide_type(view.storage.dtype)
    if view.storage.dtype == kind:
        return view
    target = context.temp(TensorType(kind, view.shape), origin=node.origin)
    copy(context, view, target, node.origin, "widen")
    return target


@dataclass(frozen=True)
class Inner:
    """How many elements of a sum are neighbours; `is_whole` where none can be filled up to more, `is_conv` where the
    weights are filters."""

    elements: int
    is_whole: bool = False
    is_conv: bool = False

    @staticmethod
    def of_conv(w: Value, group: int) -> Inner:
        """Of a convolution, channels last, with the filters `w` in `group` groups."""
        channels = w.type.shape[1]
        return Inner(channels if isinstance(channels, int) else 0, group > 1, True)

    @staticmethod
    def of_matrices(b: Value) -> Inner:
        """Of a product with the matrices `b`."""
        depth = b.type.shape[-2]
        return Inner(depth if isinstance(depth, int) else 0)


@dataclass(frozen=True)
class Products:
    """How elements are multiplied: `dot` products at a time, weights as `dtype` in memory, `shift` taken off each
    element of the other operand first. `short`: the weights, where four products are summed in 16 bits."""

    dot: int
    dtype: DType
    shift: int
    short: ShortSums | None = None

    @staticmethod
    def single(w: Value) -> Products:
        """One by one with the weights `w`, in the type that they are computed in."""
        return Products(1, wide_type(w.dtype), 0)

    @staticmethod
    def widening(context: Context, w: Value, most_rows: int | None = None) -> Products:
        """One by one with the weights `w`, in the type that they are stored in: see `WeightForms.element_type`."""
        if not isinstance(w, Constant):
            return Products.single(w)
        return Products(1, context.forms.element_type(w, wide_type(w.dtype), most_rows), 0)

    @staticmethod
    def of(context: Context, x: Value, w: Value, inner: Inner, most_rows: int | None = None) -> Products:
        """How elements of `x` are multiplied by the weights `w`: u8 by constant i8 several at a time."""
        if not _is_narrow(x, w):
            return Products.widening(context, w, most_rows)
        short = _short_sums(context, w, inner)
        return Products.narrow(context, inner) if short is None else Products(STEP, i8, 0, short)

    @staticmethod
    def narrow(context: Context, inner: Inner) -> Products:
        """How the machine multiplies u8 by i8: pairs of weights lie as they are multiplied where they may."""
        machine = context.machine
        dtype = i16 if machine.dot == 2 and context.forms.may_grow else i8
        return Products(_narrow_dot(context, inner), dtype, 128 if machine.signed_dot else 0)

    def tile(
        self,
        context: Context,
        b: Value,
        *,
        rows: Dim,
        columns: Dim,
        depth: Dim,
        batch: Dim = 1,
        among: tuple[int, ...] = WIDTHS,
    ) -> ContractionTile:
        """The schedule of a contraction with the second operand `b` in panels of one of the widths `among`."""
        chunk = CHUNK_MICROSECONDS if self.dot == 1 else BYTES_CHUNK_MICROSECONDS
        if isinstance(b, DequantizeBlocks):
            chunk = BLOCKS_CHUNK_MICROSECONDS
        return choose_contraction(
            machine_for(context, self.dot),
            rows=rows,
            columns=columns,
            depth=depth // self.dot,
            batch=batch,
            ranges=context.ranges,
            widths=widths_for(context, b, columns, self.dot, among),
            chunk=chunk,
        )

    def filled(self, depth: int) -> int:
        """`depth` filled up to a whole number of products at a time."""
        return -(-depth // self.dot) * self.dot

    def weights(self, w: Constant, axis: int) -> NDArray[Any]:
        """The data of weights as they lie in memory, the summed `axis` filled up with zeros."""
        data = w.data.astype(self.dtype.to_numpy(), copy=False)
        if not (more := self.filled(data.shape[axis]) - data.shape[axis]):
            return data
        return np.pad(data, [(0, more if i == axis % data.ndim else 0) for i in range(data.ndim)])


def dot_of(context: Context, x: Value, w: Value, inner: Inner) -> int:
    """`Products.of(...).dot`, without a look at weights that are floats."""
    return Products.of(context, x, w, inner).dot if _is_narrow(x, w) else 1


def machine_for(context: Context, dot: int) -> Machine:
    """The machine as products of `dot` elements find it: pairs leave two registers less, one for a product, one for
    zeros; sums in 16 bits take two steps at a time, and three instructions for them; small matrices take two rows at a
    time, tiles 16, of which 16 columns and four bytes of the depth are a step of one cycle."""
    machine = context.machine
    if machine.tiles and dot == machine.dot:
        return replace(machine, rows_together=16, fma_rate=16.0, fma_latency=0, load_rate=math.inf)
    if dot == 2:
        return replace(machine, vector_registers=machine.vector_registers - 2)
    if _is_short(machine, dot):
        rate = machine.fma_rate * TOGETHER / (TOGETHER + 1)
        return replace(machine, vector_registers=machine.vector_registers - 5, fma_rate=rate)
    return replace(machine, rows_together=2) if dot > machine.dot else machine


def widths_for(context: Context, b: Value, columns: Dim, dot: int, among: tuple[int, ...]) -> tuple[int, ...]:
    """The panel widths of `among` that products of `dot` elements by `b`, of `columns` columns, may have: tiles have
    one."""
    if context.machine.tiles and dot == context.machine.dot:
        among = (TILE_WIDTH,)
    if _is_short(context.machine, dot):
        among = (WIDTH,)
    return context.forms.widths(b, columns, dot, among)


def _narrow_dot(context: Context, inner: Inner) -> int:
    """Bytes that are multiplied at a time: those of small matrices where that is fewer steps, what is filled up
    included."""
    machine = context.machine
    few, many = machine.dot, 2 * machine.dot
    if not machine.matrices or inner.elements <= few:
        return few
    is_filled = inner.elements % many != 0
    return few if is_filled and (inner.is_whole or not context.forms.may_grow) else many


def _is_short(machine: Machine, dot: int) -> bool:
    """Whether products of `dot` bytes are summed in 16 bits."""
    return machine.dot == 2 and dot == STEP


def _short_sums(context: Context, w: Value, inner: Inner) -> ShortSums | None:
    """Constant i8 weights for sums in 16 bits, where the machine has nothing better and they are few steps too many."""
    assert isinstance(w, Constant)
    if w not in context.short_sums:
        depth, columns = (w.data.shape[1], w.data.shape[0]) if inner.is_conv else w.data.shape[-2:]
        fits = depth % (STEP * TOGETHER) == 0 and columns and depth and not inner.is_whole
        alone = inner.is_conv or math.prod(w.data.shape[:-2]) == 1
        found = None
        if context.machine.dot == 2 and context.forms.may_grow and fits and alone:
            if inner.is_conv:
                matrix = w.data.reshape(columns, depth, -1).transpose(2, 1, 0).reshape(-1, columns)
            else:
                matrix = w.data.reshape(depth, columns)
            found = ShortSums.of(matrix)
        context.short_sums[w] = found
    return context.short_sums[w]


def listed_steps(
    context: Context, w: Value, products: Products, axes: Sequence[Axis]
) -> tuple[int, Storage, Storage] | None:
    """How many further steps a panel of the weights `w` has, where they begin along `axes`, those of the sum, and their
    weights; None without any."""
    if products.short is None or not products.short.count:
        return None
    assert isinstance(w, Constant)
    extents = tuple(axis.extent for axis in axes if isinstance(axis.extent, int))
    assert len(extents) == len(axes)
    count, places = products.short.count, np.stack(np.unravel_index(products.short.places, extents), -1)
    starts = context.weight(w, ("short places", extents), places.astype(np.int64), i64)
    return count, starts, context.weight(w, ("short rest",), products.short.rest, i8)


def _is_narrow(x: Value, w: Value) -> bool:
    return (x.dtype, w.dtype) == (u8, i8) and isinstance(w, Constant)


def unshifted(
    context: Context,
    build: KernelBuilder,
    products: Products,
    w: Value,
    axes: tuple[int, ...],
    acc: Expr,
    at: Callable[[View], Dim],
) -> Expr:
    """The sums `acc` without `products.shift`: the shift times the sums of the weights is added. `at` says where a view
    of the weights, with the summed `axes` of extent 1, is read."""
    if not products.shift:
        return acc
    assert isinstance(w, Constant)
    data = products.shift * w.data.astype(np.int64).sum(axes, keepdims=True)
    wrapped = data.astype(np.int32)
    storage = context.weight(w, ("sums", products.shift, axes), wrapped, i32)
    strides = tuple(step // wrapped.itemsize for step in np.ascontiguousarray(wrapped).strides)
    view = View(storage, wrapped.shape, strides)
    return Call("add", (acc, build.load(view, at(view))), i32)


def packed_size(columns: Dim, depth: Dim, width: int) -> Dim:
    """Elements of a matrix [depth, columns] in panels of `width` columns."""
    return multiply(multiply(ceil_divide(columns, width), depth), width)


def contraction(
    build: KernelBuilder,
    products: Products,
    tile: ContractionTile,
    *,
    batch: tuple[Axis, ...],
    rows: tuple[Axis, ...],
    columns: Axis,
    run: Axis,
    a: View,
    a_offset: Dim,
    b: Storage,
    b_offset: Dim,
    accumulator: DType,
    segments: tuple[Axis, ...] = (),
    listed: tuple[int, Storage, Storage] | None = None,
) -> Contraction:
    """The template of a kernel that multiplies the elements of `a` by the panels `b`; what it stores is still missing.

    The axes and offsets are those of `Contraction`, `listed` is what `listed_steps` says.
    """
    made = Contraction(
        batch=batch,
        rows=rows,
        columns=columns,
        segments=segments,
        run=run,
        a=build.load(a, a_offset),
        b=build.parameter(View(b, (b.size,), (1,)), "read"),
        b_offset=b_offset,
        width=tile.width,
        tile_rows=tile.tile_rows,
        row_block=tile.row_block,
        panel_block=tile.panel_block,
        stores=(),
        accumulator=accumulator,
        dot=products.dot,
        narrow=a.storage.dtype != accumulator or b.dtype != accumulator,
        shift=products.shift,
        order=tile.order,
    )
    if listed is None:
        return made
    count, *storages = listed
    places, rest = (build.parameter(View(each, (each.size,), (1,)), "read") for each in storages)
    return replace(made, listed=count, places=places, rest=rest)


def launch_contraction(
    context: Context,
    group: Group,
    build: KernelBuilder,
    template: Contraction,
    index: Sequence[Dim],
    acc: Expr,
    wanted: Schedule | None,
) -> None:
    """Run `template` with the stores of the group's epilogue, where `acc` is the element of the anchor at `index`.
    `wanted` is the schedule that is asked for, if any."""
    stores = Epilogue(context, group).stores(build, index, acc)
    rows, (a, stores, batch) = merge_axes(template.rows, (template.a, stores, template.batch))
    merged = replace(template, rows=rows, a=a, stores=stores, batch=batch)
    plan = choose_strassen(context, merged, wanted)
    if plan is not None:
        launch_strassen(context, build, merged, plan, group.node.origin)
        merged = gated(merged, plan)
    if merged is not None:
        context.run(build.launch(merged.grid, merged, origin=group.node.origin, flops=merged.flops))


def pack_at_run_time(context: Context, b: View, width: int, node: Node) -> Storage:
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
    pack_where_inside(context, b, target, width, node.origin)
    return target.storage
