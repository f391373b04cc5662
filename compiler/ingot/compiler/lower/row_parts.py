"""Launches cut into parts: which elements of a storage each row of a launch touches, and a launch of some rows alone.

The rows of a launch are the points of its outermost axis: lines of an image, pixels where lines lie one after the
other, blocks of elements. Where the offsets of all accesses are affine in the row, those of a row lie in an interval
that moves by a constant number of elements from row to row, and a launch of some rows is the same kernel with a smaller
extent, bound to other places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from ingot.compiler.ir.dims import UNBOUNDED, Dim, add, bounds, ceil_divide, coefficient, substitute, symbol, symbols
from ingot.compiler.ir.dims import Expr as DimExpr
from ingot.compiler.ir.loops import Axis, Kernel, Load, Store, field_names
from ingot.compiler.ir.program import Argument, Launch, Storage
from ingot.compiler.ir.templates import Contraction, Depthwise
from ingot.compiler.ir.verify.program import accesses
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.nest import free_symbols
from ingot.compiler.lower.tiles import choose_depthwise

FIRST = "_first"  # the first row of a part, where a kernel needs its number
USEFUL = 0.85  # of the multiply-adds that a core has time for, in a contraction
CHUNK_MICROSECONDS = 2.5  # of work, at least: a part has little of it, which two threads are to share


@dataclass(frozen=True, slots=True)
class Touch:
    """Row `y` of a launch touches elements of `storage` from ``stride * y + low`` to ``stride * y + high``, at most."""

    storage: Storage
    stride: int
    low: int
    high: int
    writes: bool


@dataclass(frozen=True)
class Rows:
    """A launch that can be cut: its rows, what each of them touches, and elements from row to row for each buffer."""

    launch: Launch
    var: str
    extent: int
    touches: tuple[Touch, ...]
    strides: Mapping[str, int]

    @staticmethod
    def of(launch: Launch) -> Rows | None:
        """The rows of a launch; None where it cannot be cut."""
        kernel = launch.kernel
        axis = _row_axis(kernel)
        if kernel.dims or axis is None or any(b.access == "readwrite" for b in kernel.buffers):
            return None
        found = _touches(launch, axis.var)
        if found is None or not isinstance(axis.extent, int):
            return None
        touches, strides = found
        return Rows(launch, axis.var, axis.extent, touches, strides)

    def bytes_of(self, touch: Touch) -> int:
        """Bytes between the first and the last element that the launch touches so."""
        return (touch.stride * (self.extent - 1) + touch.high - touch.low + 1) * touch.storage.dtype.bytes

    def part(self, kernel: Kernel, first: int, moved: Mapping[Storage, Argument]) -> Launch:
        """The launch of `kernel`, one of this launch's parts, from row `first` on. A storage of `moved` is replaced by
        another, where its first element lies at the offset given (before which there may be none)."""
        arguments: list[Argument] = []
        for buffer, argument in zip(self.launch.kernel.buffers, self.launch.buffers, strict=True):
            place = add(argument.offset, first * self.strides.get(buffer.name, 0))
            other = moved.get(argument.storage)
            if other is None:
                arguments.append(Argument(argument.storage, place))
            else:
                arguments.append(Argument(other.storage, add(place, other.offset)))
        return Launch(kernel, tuple(arguments), (first,) if kernel.dims else (), self.launch.origin)

    def kernel(self, count: int, machine: Machine) -> Kernel:
        """The kernel of `count` rows, cut into chunks that are worth it on `machine`."""
        kernel = self.launch.kernel
        name = f"{kernel.name}_rows{count}"
        flops = kernel.flops * count // self.extent
        body = kernel.body
        if isinstance(body, tuple):
            grid, body = self._cut(kernel.grid, count), _numbered(body, self.var)
            dims = tuple(sorted(free_symbols((grid, body))))
            return Kernel(name, kernel.buffers, dims, grid, body, flops)
        assert isinstance(body, Contraction | Depthwise)
        rows = self._cut(body.rows, count)
        if isinstance(body, Contraction):
            template = _contraction(replace(body, batch=self._cut(body.batch, count), rows=rows), flops, machine)
        else:
            template = _depthwise(replace(body, rows=rows), machine)
        return Kernel(name, kernel.buffers, (), template.grid, template, flops)

    def _cut(self, axes: tuple[Axis, ...], count: int) -> tuple[Axis, ...]:
        return tuple(_shared_out(axis, count) if axis.var == self.var else axis for axis in axes)


def _row_axis(kernel: Kernel) -> Axis | None:
    """The axis of more than one point along which results move on most; None where there is none, or the kernel is not
    one of those known."""
    match kernel.body:
        case tuple():
            axes = kernel.grid
        case Contraction(listed=0, blocks=None, batch=batch, rows=rows):
            axes = (*batch, *rows)
        case Depthwise(rows=axes):
            pass
        case _:
            return None
    stores = [access.offset for access in accesses(kernel) if access.writes]
    best: tuple[int, Axis] | None = None
    for axis in axes:
        if axis.extent == 1:
            continue
        affine = [coefficient(offset, axis.var) for offset in stores]
        steps = [each[0] for each in affine if each is not None]
        if len(steps) < len(stores) or not steps or not all(isinstance(step, int) for step in steps):
            return None
        step = max(step for step in steps if isinstance(step, int))
        if best is None or step > best[0]:
            best = step, axis
    return None if best is None else best[1]


def _touches(launch: Launch, var: str) -> tuple[tuple[Touch, ...], Mapping[str, int]] | None:
    """What each row touches of storages that are no weights, and the elements from row to row of each buffer."""
    bound = {b.name: a for b, a in zip(launch.kernel.buffers, launch.buffers, strict=True)}
    strides: dict[str, int] = {}
    found: dict[tuple[Storage, int, bool], tuple[int, int]] = {}
    for access in accesses(launch.kernel):
        argument = bound.get(access.buffer)
        affine = coefficient(access.offset, var)
        if argument is None or affine is None:
            return None
        stride, rest = affine
        if not isinstance(stride, int) or strides.setdefault(access.buffer, stride) != stride or stride < 0:
            return None
        if argument.storage.kind == "weight":
            continue
        limits: dict[str, tuple[int, int]] = {}
        for axis in (*access.grid, *access.loops):
            limits[axis.var] = 0, bounds(axis.extent, limits)[1] - 1
        if not symbols(rest) <= limits.keys() or not isinstance(argument.offset, int):
            return None
        low, high = bounds(rest, limits)
        if low <= -UNBOUNDED or high >= UNBOUNDED or argument.storage.kind in ("status", "entropy"):
            return None
        key = argument.storage, stride, access.writes
        before = found.get(key, (low + argument.offset, high + argument.offset))
        found[key] = min(before[0], low + argument.offset), max(before[1], high + argument.offset)
    touches = tuple(Touch(s, stride, *interval, writes) for (s, stride, writes), interval in found.items())
    return touches, strides


def _shared_out(axis: Axis, count: int) -> Axis:
    """`count` points of an axis, in chunks of nearly the same size."""
    if not isinstance(axis.grain, int):
        return Axis(axis.var, count, axis.grain)
    return Axis(axis.var, count, -(-count // _even(min(count, 2 * count // axis.grain))))


def _even(chunks: int) -> int:
    """About so many chunks, of which two threads have equally many."""
    return max(1, chunks - chunks % 2 if chunks > 1 else chunks)


def _numbered(body: Any, var: str) -> Any:
    """`body` with the number of the row, but in offsets, counted from `FIRST`."""
    shifted: Mapping[str, Dim] = {var: symbol(var) + symbol(FIRST)}

    def visit(item: Any) -> Any:
        if isinstance(item, DimExpr):
            return substitute(item, shifted)
        if isinstance(item, Load):
            return item
        if isinstance(item, Store):
            return replace(item, value=visit(item.value))
        if isinstance(item, tuple):
            return tuple(visit(x) for x in cast(tuple[Any, ...], item))
        if names := field_names(type(cast("object", item))):
            return replace(item, **{name: visit(getattr(item, name)) for name in names})
        return item

    return visit(body)


def _contraction(template: Contraction, flops: Dim, machine: Machine) -> Contraction:
    """`template` with its rows shared out among chunks; those of the panels stay."""
    rows, panels = template.row_count, ceil_divide(template.panels, template.panel_block)
    if not isinstance(rows, int) or not isinstance(flops, int) or not isinstance(panels, int):
        return template
    rate = 2 * machine.fma_rate * machine.lanes_f32 * USEFUL * machine.cycles_per_microsecond
    chunks = int(flops / rate / CHUNK_MICROSECONDS)
    for axis in template.batch:
        points = ceil_divide(axis.extent, axis.grain)
        panels *= points if isinstance(points, int) else 1
    tiles = -(-rows // template.tile_rows)
    parts = _even(min(chunks // panels, tiles))
    return replace(template, row_block=min(rows, -(-tiles // parts) * template.tile_rows))


def _depthwise(template: Depthwise, machine: Machine) -> Depthwise:
    rows: Dim = 1
    taps = 1
    for axis in template.rows:
        rows = rows * axis.extent
    for axis in template.taps:
        assert isinstance(axis.extent, int)
        taps *= axis.extent
    block = choose_depthwise(
        machine,
        rows=rows,
        columns=template.x.extent,
        channels=template.channels.extent,
        taps=taps,
        chunk=CHUNK_MICROSECONDS,
    )
    return replace(template, row_block=block)
