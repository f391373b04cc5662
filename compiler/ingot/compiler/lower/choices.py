"""The schedule of a contraction group: the one that is asked for, else that of the cost model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Constant, Input, Value
from ingot.compiler.ir.templates import Order
from ingot.compiler.lower import strassen
from ingot.compiler.lower.block_weights import form_of, is_weight
from ingot.compiler.lower.context import Context, LoweringError
from ingot.compiler.lower.contraction import Group, Inner, Products, machine_for, wide_type, widths_for
from ingot.compiler.lower.schedules import Schedule
from ingot.compiler.lower.sparsity import Sparsity
from ingot.compiler.lower.spectral import choose_spectrum
from ingot.compiler.lower.tiles import MOST_ROWS, PANEL_WIDTHS, ContractionTile
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.quantised import DequantizeBlocks
from ingot.runtime.dtypes import f32

LEAST_SMALL = 0.55  # of zeros, for their form to be no larger than the matrix


class ScheduleError(LoweringError):
    """A schedule that was asked for does not fit its kernel."""


def signature_of(context: Context, group: Group) -> str | None:
    """All that the schedule of a convolution or matrix product depends on, as text: types, shapes, attributes, how the
    weights lie in memory and the operators after it. None where an extent is not constant or 0, for other anchors, and
    where there is nothing to choose: long filters are transformed in one way."""
    if group.node not in context.signatures:
        context.signatures[group.node] = _signature(context, group)
    return context.signatures[group.node]


def _signature(context: Context, group: Group) -> str | None:
    anchor = group.anchor
    if not isinstance(anchor, Conv | MatMul):
        return None
    x, w = operands_of(group)
    if not all(isinstance(dim, int) and dim > 0 for value in (x, w, anchor) for dim in value.type.shape):
        return None
    if isinstance(anchor, Conv):
        if choose_spectrum(context, group, anchor) is not None:
            return None
        words = ["conv", _typed(anchor.x), _typed(w), "channels last" if anchor.channels_last else "channels first"]
        words += [f"strides {_list(anchor.strides)}", f"pads {_list(anchor.pads)}"]
        words += [f"dilations {_list(anchor.dilations)}", f"group {anchor.group}"]
    else:
        words = ["matmul", _typed(anchor.a), _typed(w)]
        words += [f"activations in {anchor.a_bits} bits"] if anchor.a_bits else []
    words += [] if context.reorder else ["strict"]
    if isinstance(w, Constant):
        products = products_of(context, group)
        narrow = products.dot == 1 and products.dtype != wide_type(w.dtype)
        words += [f"weights as {products.dtype.name}"] if narrow else []
        words += ["sums in 16 bits"] if products.short is not None else []
        words += [] if context.forms.may_grow else ["small"]
        sparsity = sparsity_of(context, group)
        words += [] if sparsity is None else [f"zeros {sparsity.described}"]
    elif isinstance(w, DequantizeBlocks):
        words += [f"weights as {form_of(w)}"]
    else:
        words += ["packed at run time"]
    after = [n.name for n in group.body.nodes() if n is not anchor and not isinstance(n, (Input, Constant))]
    if isinstance(anchor, Conv) and anchor.bias is not None:
        after.insert(0, "bias")
    words += [f"then {' '.join(after)}"] if after else []
    return ", ".join(words)


def _typed(value: Value) -> str:
    return f"{value.dtype.name}[{_list(value.type.shape)}]"


def _list(items: Sequence[Dim]) -> str:
    return "x".join(map(str, items))


def operands_of(group: Group) -> tuple[Value, Value]:
    """What a convolution or matrix product multiplies."""
    anchor = group.anchor
    if isinstance(anchor, Conv):
        return group.resolve(anchor.x), group.resolve(anchor.w)
    assert isinstance(anchor, MatMul)
    return group.resolve(anchor.a), group.resolve(anchor.b)


def inner_of(group: Group) -> Inner:
    """What the sums of a convolution or matrix product take at a time, at most."""
    w = operands_of(group)[1]
    return Inner.of_conv(w, group.anchor.group) if isinstance(group.anchor, Conv) else Inner.of_matrices(w)


def products_of(context: Context, group: Group) -> Products:
    """How the direct form of a group of constant extents multiplies, where the elements of x are neighbours."""
    x, w = operands_of(group)
    if isinstance(group.anchor, Conv):
        return Products.of(context, x, w, inner_of(group))
    *lead, rows, _ = group.anchor.type.static_shape()
    shared = is_weight(w) and math.prod(w.type.static_shape()[:-2]) == 1
    return Products.of(context, x, w, inner_of(group), math.prod(lead) * rows if shared else rows)


def matrix_of(group: Group, w: Constant) -> NDArray[Any]:
    """The weights of a convolution of one group, or of a product with one matrix, as a matrix: a row for each element
    of a sum, of a convolution in the order of channels and then of taps."""
    if isinstance(group.anchor, Conv):
        return w.data.reshape(w.data.shape[0], -1).T
    return w.data.reshape(w.data.shape[-2:])


def sparsity_of(context: Context, group: Group) -> Sparsity | None:
    """The pattern of the zeros of a group's constant weights; None where there is none to make use of."""
    anchor = group.anchor
    if not isinstance(anchor, Conv | MatMul) or not context.reorder or context.sparse == "off":
        return None
    x, w = operands_of(group)
    if not isinstance(w, Constant) or not x.dtype == w.dtype == f32 or w.data.size == 0:
        return None
    if isinstance(anchor, Conv):
        alone = anchor.group == 1 and anchor.channels_last and len(anchor.strides) == 2
    else:
        alone = math.prod(w.data.shape[:-2]) == 1
    if not alone:
        return None
    key = w, isinstance(anchor, Conv)
    if key not in context.patterns:
        context.patterns[key] = Sparsity.of(matrix_of(group, w))
    found = context.patterns[key]
    # An offset of four bytes comes with each element.
    fits = found is None or context.forms.may_grow or found.zeros >= LEAST_SMALL
    return found if fits else None


def wanted_schedule(context: Context, group: Group) -> Schedule | None:
    """The schedule that is asked for, None where the cost model is to choose."""
    signature = signature_of(context, group)
    return None if signature is None else context.schedules.find(signature, group.node.origin)


def choose_tile(
    context: Context,
    group: Group,
    products: Products,
    b: Value,
    *,
    rows: Dim,
    columns: Dim,
    depth: Dim,
    batch: Dim = 1,
) -> ContractionTile:
    """How the contraction of `group` is cut; the arguments are those of `Products.tile`. Raises ScheduleError.

    Where Strassen's algorithm is asked for it is the tile of the plain product with the same panels, which takes its
    place if the rows lie apart in memory.
    """
    wanted = wanted_schedule(context, group)
    if wanted is None:
        return products.tile(context, b, rows=rows, columns=columns, depth=depth, batch=batch)
    widths = widths_for(context, b, columns, products.dot, PANEL_WIDTHS)
    most = max(MOST_ROWS, machine_for(context, products.dot).rows_together)
    if not isinstance(rows, int) or not isinstance(columns, int) or wanted.width not in widths:
        raise unfit(group, wanted, f"it has {rows} rows and {columns} columns, panels of {_words(widths)}")
    if wanted.algorithm == "strassen":
        plain = is_plain(context, group, products) and batch == 1
        if not plain or not isinstance(depth, int) or not strassen.fits(context.machine, wanted, rows, columns, depth):
            raise unfit(group, wanted, f"{rows} x {depth} by {depth} x {columns} is not halved in this way")
        return products.tile(context, b, rows=rows, columns=columns, depth=depth, among=(wanted.width,))
    panels = -(-columns // wanted.width)
    fits = (
        1 <= wanted.tile_rows <= most
        and 1 <= wanted.row_block <= max(rows, 1)
        and 1 <= wanted.panel_block <= max(panels, 1)
        and wanted.order in get_args(Order)
    )
    if not fits:
        raise unfit(group, wanted, f"it has {rows} rows and {columns} columns, tiles of up to {most} rows")
    return ContractionTile(wanted.width, wanted.tile_rows, wanted.row_block, wanted.panel_block, wanted.order)


def is_plain(context: Context, group: Group, products: Products) -> bool:
    """Whether a group multiplies as Strassen's algorithm does."""
    if isinstance(operands_of(group)[1], DequantizeBlocks):
        return False
    return context.reorder and products == Products(1, f32, 0) and wide_type(group.anchor.type.dtype) == f32


def _words(widths: Sequence[int]) -> str:
    return ", ".join(map(str, widths))


def unfit(group: Group, wanted: Schedule, why: str) -> ScheduleError:
    """The error for a schedule that `group` cannot have."""
    nodes = ", ".join(group.node.origin) or group.node.name
    return ScheduleError(f"{nodes}: the schedule '{wanted}' does not fit: {why}; tune the model again")
