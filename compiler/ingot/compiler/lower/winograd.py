"""Convolutions by Winograd's minimal filtering, F(m x n, r x s): tiles of the result from tiles of the input.

After A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): each tile of the input is
transformed along each axis (B^T d B), multiplied with the transformed filters (G g G^T, made at compile time) as a
matrix product over the channels for each point, and transformed back (A^T M A). Tiles of 2 x 2 results of 3 x 3 filters
need 2.25 times fewer multiplications than the direct sum, of 4 x 4 four times fewer, 4 results of 7 taps along one axis
2.8 times fewer; all add the traffic of the transformed data. `filtering` has the transforms of an axis.

Bytes are convolved by F(2 x 2, 3 x 3) in integers where processors multiply two of them at a time, as 16-bit numbers:
data are sums of four elements, filters are made four times as large to be whole, so that the results are four times the
sums, exactly. Products of the transformed data may wrap around: what they are added up to does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim, ceil_divide, floor_divide, maximum, minimum, multiply, product, symbol
from ingot.compiler.ir.graph import Constant, Value
from ingot.compiler.ir.loops import Axis, Call, Const, Expr, For, Index, Let, Local, Stmt, When
from ingot.compiler.ir.program import Storage
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower import schedules
from ingot.compiler.lower.choices import choose_tile, unfit, wanted_schedule
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.contraction import Epilogue, Group, Inner, Products, contraction, packed_size
from ingot.compiler.lower.filtering import Filtering, Matrix, filtering
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, index_value, loop_names
from ingot.compiler.lower.packing import pack_panels
from ingot.compiler.lower.tiles import typical
from ingot.compiler.lower.views import View
from ingot.compiler.ops.linear import Conv
from ingot.runtime.dtypes import DType, boolean, f32, i8, i16, i32, u8

AT_ONCE = 600_000  # elements of filters that are transformed together, in f64: some 5 MB
FLOPS_A_CHUNK = 800_000  # some 8 us of work
DIRECT_RATE, PRODUCTS_RATE = 0.93, 0.85  # of the peak, of direct sums and of products of transformed data
LEAST_TILES = 12  # of a stripe: fewer are multiplied less well
PAIRS_SHARE, SHORT_SUMS_SHARE = 0.78, 0.44  # of the time of a direct sum in f32 that one of bytes takes
MOST_POINTS = 64  # of a tile, each of which is a value in registers while a tile is transformed


@dataclass(frozen=True)
class Algorithm:
    """Minimal filtering along each spatial axis."""

    name: schedules.Algorithm
    axes: tuple[Filtering, ...]
    kind: DType = f32  # of the transformed data and filters
    sums: DType = f32  # of their products
    shift: int = 0  # results are so many powers of two too large

    @property
    def points(self) -> int:
        """Products a tile."""
        return math.prod(axis.points for axis in self.axes)

    def tiles(self, results: Sequence[int]) -> int:
        """Tiles that results of these spatial extents take."""
        return math.prod(axis.tiles(extent) for axis, extent in zip(self.axes, results, strict=True))

    def products(self, w: Value) -> Products:
        """How transformed data and the transformed filters `w` are multiplied."""
        return Products(2, i16, 0) if self.kind == i16 else Products.single(w)

    def transformed(self, w: NDArray[Any]) -> NDArray[Any]:
        """[O, I, *taps] -> [points, I, O], computed in f64."""
        out, inner = w.shape[:2]
        transformed = np.empty((self.points, inner, out), self.kind.to_numpy())
        whole = reduce(np.kron, (axis.filters for axis in self.axes)) * 2**self.shift  # one matrix on all taps
        step = max(1, AT_ONCE // max(out * self.points, 1))
        for first in range(0, inner, step):
            # A product for each channel: one for all would be shared out among threads, which takes ten times as long.
            part = w[:, first : first + step].reshape(out, -1).T.reshape(-1, whole.shape[1], out).astype(np.float64)
            transformed[:, first : first + step] = np.matmul(whole, part).transpose(1, 0, 2)
        return transformed


SIZES: Mapping[schedules.Algorithm, int] = MappingProxyType({"winograd2": 2, "winograd4": 4, "winograd6": 6})
"""Results a tile along each axis on which filters have more than one tap."""
LARGE = 6  # tiles of so many results win along one axis alone, and lose more accuracy along several


def algorithms_of(node: Conv) -> Mapping[schedules.Algorithm, Algorithm]:
    """Those that there are for the taps, strides and types of a convolution."""
    found: dict[schedules.Algorithm, Algorithm] = {}
    taps = [extent for extent in node.w.shape[2:] if isinstance(extent, int)]
    plain = node.group == 1 and all(dilation == 1 for dilation in node.dilations)
    if not plain or len(taps) < len(node.strides) or math.prod(taps) <= 1:
        return found
    for name, size in SIZES.items():
        if size >= LARGE and max(taps) < math.prod(taps):
            continue
        axes = [filtering(size, *each) for each in zip(taps, node.strides, strict=True)]
        algorithm = Algorithm(name, tuple(axis for axis in axes if axis is not None))
        if len(algorithm.axes) == len(axes) and algorithm.points <= MOST_POINTS:
            found[name] = algorithm
    if node.type.dtype != i32:
        return found
    plain = taps == [3, 3] and set(node.strides) == {1}
    return {"winograd2": replace(found["winograd2"], kind=i16, sums=i32, shift=2)} if plain else {}


def choose_winograd(context: Context, group: Group, node: Conv) -> Algorithm | None:
    """The algorithm that is asked for or that the cost model expects to win over the direct sum, if any. Raises
    ScheduleError for one that cannot be used here."""
    expected = expected_cycles(context, group, node)
    wanted = wanted_schedule(context, group)
    best: schedules.Algorithm = "direct"
    if wanted is not None:
        best = wanted.algorithm if wanted.algorithm in SIZES else "direct"
        if best not in expected:
            raise unfit(group, wanted, f"it can be computed by {', '.join(expected)}")
    else:
        for name, cycles in expected.items():
            if cycles < 0.95 * expected[best]:
                best = name
    return None if best == "direct" else algorithms_of(node)[best]


def expected_cycles(context: Context, group: Group, node: Conv) -> dict[schedules.Algorithm, float]:
    """The direct sum and the algorithms of Winograd's that can compute a convolution, with the cycles that one image
    takes."""
    w = group.resolve(node.w)
    if not _is_plain(context, node, w) or not (algorithms := algorithms_of(node)):
        return {"direct": 0.0}
    out, inner, *taps = w.type.static_shape()
    results = [typical(extent, context.ranges) for extent in node.type.shape[1:-1]]
    # For one image: measured, more of them change the comparison little, though they move more than caches hold.
    machine = context.machine
    direct = _direct_cycles(machine, math.prod(results), inner * math.prod(taps), out)
    if node.type.dtype == i32:
        products = Products.of(context, node.x, w, Inner.of_conv(w, node.group))
        direct *= SHORT_SUMS_SHARE if products.short is not None else PAIRS_SHARE
    expected: dict[schedules.Algorithm, float] = {"direct": direct}
    for name, algorithm in algorithms.items():
        expected[name] = _cycles(machine, algorithm, algorithm.tiles(results), inner, out)
    return expected


def _is_plain(context: Context, node: Conv, w: Value) -> bool:
    """Whether a convolution can be computed by these algorithms."""
    if not context.forms.may_grow or not isinstance(w, Constant) or not node.channels_last:
        return False
    if min(w.type.static_shape()[:2]) < 16:
        return False
    if node.type.dtype == i32:
        return context.machine.dot == 2 and _is_short(node, w)
    return node.type.dtype == f32 and context.reorder


def _is_short(node: Conv, w: Constant) -> bool:
    """Whether bytes are convolved, in pairs of channels, with sums that four times as large fit 32 bits."""
    if (node.x.dtype, w.dtype) != (u8, i8) or w.data.size == 0 or w.data.shape[1] % 2:
        return False
    sums = np.abs(w.data.astype(np.int64)).reshape(w.data.shape[0], -1).sum(1)
    return int(sums.max()) * 255 << 2 < 1 << 31


def _direct_cycles(machine: Machine, pixels: int, depth: int, out: int) -> float:
    cycles = pixels * depth * _padded(out) / (machine.fma_rate * machine.lanes_f32 * DIRECT_RATE)
    return max(cycles, _reading(machine, depth * _padded(out)))


def _reading(machine: Machine, weights: int) -> float:
    """Cycles to read so many f32 weights, which happens while they are multiplied: the small images of a network's end
    have filters that no cache keeps from run to run."""
    return 4.0 * weights / (machine.l3_rate if 4 * weights <= machine.l3 else machine.memory_rate)


def _cycles(machine: Machine, algorithm: Algorithm, tiles: int, inner: int, out: int) -> float:
    points = algorithm.points
    products = tiles * points * inner * _padded(out) / (machine.fma_rate * machine.lanes_f32 * PRODUCTS_RATE)
    reading = _reading(machine, points * inner * _padded(out))
    # Of 16 bits twice as many at a time, which no longer hides the reading of half as many bytes.
    products = (products + reading) / 2 if algorithm.kind == i16 else max(products, reading)
    return products + transform_cycles(machine, algorithm, tiles, inner, out)


def transform_cycles(machine: Machine, algorithm: Algorithm, tiles: int, inner: int, out: int) -> float:
    """Cycles of the transforms of `tiles` tiles and of moving what lies between them and the products."""
    points, axes = algorithm.points, algorithm.axes
    # Per vector of channels: loads, stores and the sums along each axis, at a good two a cycle.
    before, after = [axis.reach for axis in axes], [axis.points for axis in axes]
    read, adds, back = math.prod(before), 0, 0
    for place, axis in enumerate(axes):
        lines = math.prod(after[:place]) * math.prod(before[place + 1 :])
        adds += lines * sum(int(np.count_nonzero(phase.data)) for phase in axis.phases)
    before, after = after, [axis.size for axis in axes]
    for place, axis in enumerate(axes):
        lines = math.prod(after[:place]) * math.prod(before[place + 1 :])
        back += lines * sum(int(np.count_nonzero(phase.output)) for phase in axis.phases)
    vectors_in, vectors_out = -(-inner // machine.lanes_f32), -(-out // machine.lanes_f32)
    transforms = tiles * (vectors_in * (adds + points + read) + vectors_out * (back + 2 * points)) / 2
    moved = 8.0 * tiles * points * (inner + out)
    far = machine.l3_rate if moved / 2 > machine.l2 else machine.l2_rate * 2
    return transforms + moved / far


def _padded(columns: int) -> int:
    return -(-columns // 16) * 16


def winograd_halo(node: Conv, algorithm: Algorithm) -> tuple[tuple[int, int], ...]:
    """The zero border (begin, end) per axis of x: the padding, and what the last tiles reach beyond it."""
    borders: list[tuple[int, int]] = [(0, 0)]
    rank = len(algorithm.axes)
    for place, axis in enumerate(algorithm.axes):
        before, extent, results = node.pads[place], node.x.type.shape[1 + place], node.type.shape[1 + place]
        after = node.pads[rank + place]
        more = (axis.size - 1) * axis.stride  # at most, by which the last tile reaches further
        if isinstance(extent, int) and isinstance(results, int):
            more = (axis.tiles(results) - 1) * axis.step + axis.reach - before - extent - after
        borders.append((before, after + max(more, 0)))
    return (*borders, (0, 0))


@dataclass(frozen=True)
class _Plan:
    """A convolution being lowered: the algorithm, tiles per axis, channels; stripes of tile rows, whose transformed
    data lie together."""

    context: Context
    group: Group
    node: Conv
    algorithm: Algorithm
    tiles: tuple[Dim, ...]  # images, tiles along each axis
    inner: int
    out: int
    stripes: int

    @property
    def count(self) -> Dim:
        """Tiles of a stripe."""
        return floor_divide(product(self.tiles), self.stripes)

    @property
    def stripe(self) -> tuple[Axis, ...]:
        """The grid's axis of stripes, where there are several."""
        return (Axis("_s", self.stripes),) if self.stripes > 1 else ()

    @property
    def number(self) -> Dim:
        """The number of the stripe at the current grid point."""
        return symbol("_s") if self.stripes > 1 else 0

    @property
    def rows(self) -> Dim:
        """Tile rows of a stripe."""
        return floor_divide(self.tiles[1], self.stripes)

    @property
    def extents(self) -> tuple[Dim, ...]:
        """Those of `names`: images, and the tiles of a stripe along each axis."""
        return (self.tiles[0], self.rows, *self.tiles[2:])

    @property
    def names(self) -> tuple[str, ...]:
        """The variables of the tiles."""
        return ("_b", *loop_names(len(self.algorithm.axes), "t"))

    @property
    def places(self) -> tuple[Dim, ...]:
        """The numbers of the tile along the axes at the current grid point."""
        row, *others = (symbol(name) for name in self.names[1:])
        return (self.number * self.rows + row, *others)

    @property
    def tile(self) -> Dim:
        """The number of the tile, within its stripe, at the current grid point."""
        number: Dim = 0
        for name, extent in zip(self.names, self.extents, strict=True):
            number = number * extent + symbol(name)
        return number

    def launch(self, build: KernelBuilder, channels: int, body: tuple[Stmt, ...], work: int) -> None:
        """Run `body` for every tile, along `channels` channels ``_c``."""
        *grid, last = (Axis(name, extent) for name, extent in zip(self.names, self.extents, strict=True))
        loop = For("_c", channels, body, "vector")
        inside: Dim = channels * work
        if len(grid) > 1 and product(axis.extent for axis in grid[1:]) != 1:
            loop, inside = For(last.var, last.extent, (loop,)), multiply(last.extent, inside)
        else:
            grid.append(last)
        grid[-1] = replace(grid[-1], grain=grain_for(inside, CHUNK))
        flops = multiply(product(self.tiles), channels * work)
        self.context.run(build.launch((*self.stripe, *grid), (loop,), origin=self.group.node.origin, flops=flops))


def lower_winograd(context: Context, group: Group, node: Conv, view: View, algorithm: Algorithm) -> None:
    """Transform, multiply, transform back: three kernels. `view` has the border of `winograd_halo`."""
    images, *results, out = node.type.shape
    sizes = (axis.size for axis in algorithm.axes)
    tiles = (images, *(ceil_divide(extent, size) for extent, size in zip(results, sizes, strict=True)))
    inner = node.x.type.shape[-1]
    assert isinstance(out, int) and isinstance(inner, int)
    plan = _Plan(context, group, node, algorithm, tiles, inner, out, _stripes(context, algorithm, tiles, inner, out))
    data = _transform_data(plan, view)
    products = _multiply(plan, data)
    _transform_back(plan, products)


def _stripes(context: Context, algorithm: Algorithm, tiles: tuple[Dim, ...], inner: int, out: int) -> int:
    """Into how many stripes along the first axis what lies between the kernels is cut, so that a cache may hold one."""
    images, rows, *others = tiles
    columns = product(others)
    if images != 1 or not isinstance(rows, int) or not isinstance(columns, int):
        return 1
    machine = context.machine
    moved = algorithm.points * rows * columns * (inner * algorithm.kind.bytes + out * algorithm.sums.bytes)
    filters = algorithm.points * inner * _padded(out) * algorithm.kind.bytes
    again = filters / machine.l3_rate if filters > machine.l2 else 0.0
    best, most = 1, 0.0
    for stripes in range(2, rows + 1):
        if rows % stripes or rows // stripes * columns < LEAST_TILES:
            continue
        near, far = machine.cycles_a_byte(moved / stripes), machine.cycles_a_byte(moved)
        gain = 3 * moved * (far - near) - stripes * again  # what is stored is read first
        if gain > most:
            best, most = stripes, gain
    return best


class _Sums:
    """Linear combinations written as Lets: those of points p and -p share what they have in common."""

    def __init__(self, statements: list[Stmt], prefix: str, kind: DType) -> None:
        self.statements, self.prefix, self.kind = statements, prefix, kind
        self.made = 0

    def data(self, axis: Filtering, terms: Sequence[Expr]) -> list[Expr]:
        """The inputs of a tile along an axis, transformed."""
        made: list[Expr] = []
        for number, phase in enumerate(axis.phases):
            made += self.apply(phase.data, terms[number :: axis.stride][: len(phase.data)])
        return made

    def output(self, axis: Filtering, terms: Sequence[Expr]) -> list[Expr]:
        """The products of a tile along an axis, transformed back."""
        made: list[Expr] = []
        for phase in axis.phases:
            count = len(phase.data)
            more, terms = self.apply(phase.output, terms[:count]), terms[count:]
            made = [self._let(Call("add", pair, self.kind)) for pair in zip(made, more, strict=True)] if made else more
        return made

    def apply(self, matrix: Matrix, terms: Sequence[Expr]) -> list[Expr]:
        """matrix @ terms."""
        columns = _mirrored(matrix.T)
        if not columns:
            return self._rows(matrix, terms)
        # x and y, which enter even rows alike and odd ones with opposite signs, become x + y and x - y.
        places, even, odd = list(range(len(terms))), list(terms), list(terms)
        for i, j in columns:
            places.remove(j)
            even[i] = self._let(Call("add", (terms[i], terms[j]), self.kind))
            odd[i] = self._let(Call("sub", (terms[i], terms[j]), self.kind))
        return [
            self._sum(row[places].tolist(), [(odd if k % 2 else even)[i] for i in places])
            for k, row in enumerate(matrix)
        ]

    def _rows(self, matrix: Matrix, terms: Sequence[Expr]) -> list[Expr]:
        """Rows that differ in the sign of their odd columns alone are even + c * odd and even - c * odd."""
        found: dict[int, Expr] = {}
        for i, j in _mirrored(matrix):
            row = matrix[i]
            scale = float(row[1::2][np.flatnonzero(row[1::2])[-1]])
            even = self._sum(row[0::2].tolist(), terms[0::2])
            odd = self._sum((row[1::2] / scale).tolist(), terms[1::2])
            for place, factor in ((i, scale), (j, -scale)):
                found[place] = self._sum([1.0, factor], [even, odd])
        return [
            found[i] if i in found else self._sum(row.tolist(), terms) for i, row in enumerate(matrix)
        ]

    def _sum(self, factors: Sequence[float], terms: Sequence[Expr]) -> Expr:
        """sum(factors * terms), without those that are 0; one with the factor 1 first, which costs nothing."""
        total: Expr | None = None
        pairs = [(factor, term) for factor, term in zip(factors, terms, strict=True) if factor != 0]
        for factor, term in sorted(pairs, key=lambda pair: pair[0] != 1):
            if total is None:
                total = term if factor == 1 else Call("mul", (term, Const(factor, self.kind)), self.kind)
            elif abs(factor) == 1:
                total = Call("add" if factor > 0 else "sub", (total, term), self.kind)
            else:
                total = Call("fma", (term, Const(factor, self.kind), total), self.kind)
        assert total is not None
        return total if isinstance(total, Local) else self._let(total)

    def _let(self, value: Expr) -> Expr:
        name = f"{self.prefix}{self.made}"
        self.made += 1
        self.statements.append(Let(name, value))
        return Local(name, self.kind)


def _mirrored(rows: Matrix) -> list[tuple[int, int]]:
    """The pairs of rows that differ in the sign of their odd columns, and only there."""
    signs = np.array([-1.0 if column % 2 else 1.0 for column in range(rows.shape[1])])
    count = len(rows)
    return [
        (i, j)
        for i in range(count)
        for j in range(i + 1, count)
        if np.array_equal(rows[i] * signs, rows[j]) and not np.array_equal(rows[i], rows[j])
    ]


def _transformed(
    block: NDArray[Any], axes: Sequence[Filtering], change: Callable[[Filtering, list[Expr]], list[Expr]]
) -> NDArray[Any]:
    """An array of expressions with its lines along each axis changed."""
    for place, axis in enumerate(axes):
        if axis.taps == 1:
            continue
        lines = np.moveaxis(block, place, -1)
        made = [change(axis, cast(list[Expr], lines[where].tolist())) for where in np.ndindex(*lines.shape[:-1])]
        changed = np.empty((len(made), len(made[0])), object)
        for row, line in enumerate(made):
            for column, value in enumerate(line):
                changed[row, column] = value
        block = np.moveaxis(changed.reshape(*lines.shape[:-1], -1), -1, place)
    return block


def _transform_data(plan: _Plan, view: View) -> View:
    """V[stripe, point, tile, channel] = B^T d B."""
    algorithm, context, axes = plan.algorithm, plan.context, plan.algorithm.axes
    shape, kind = (plan.stripes, algorithm.points, plan.count, plan.inner), algorithm.kind
    target = context.temp(TensorType(kind, shape), origin=plan.group.node.origin)
    build = KernelBuilder(context.unique("winograd_data"))
    statements: list[Stmt] = []
    block = np.empty([axis.reach for axis in axes], object)
    for place in np.ndindex(*block.shape):
        starts = (at * axis.step for at, axis in zip(plan.places, axes, strict=True))
        where = [start + i - pad for start, i, pad in zip(starts, place, plan.node.pads, strict=False)]
        element: Expr = build.load(view, view.at([symbol("_b"), *where, symbol("_c")]))
        if view.storage.dtype != kind:
            element = Call("cast", (element,), kind)
        name = "d" + "_".join(map(str, place))
        statements.append(Let(name, element))
        block[place] = Local(name, kind)
    block = _transformed(block, axes, _Sums(statements, "s", kind).data)
    for point, value in enumerate(block.ravel()):
        statements.append(build.store(target, target.at([plan.number, point, plan.tile, symbol("_c")]), value))
    plan.launch(build, plan.inner, tuple(statements), len(statements))
    return target


def _multiply(plan: _Plan, data: View) -> View:
    """M[stripe, point, tile, out] = V[stripe, point] @ U[point]."""
    context, points, algorithm = plan.context, plan.algorithm.points, plan.algorithm
    w = plan.group.resolve(plan.node.w)
    assert isinstance(w, Constant)
    products = algorithm.products(w)
    tile = choose_tile(
        context,
        plan.group,
        products,
        w,
        rows=plan.count,
        columns=plan.out,
        depth=plan.inner,
        batch=plan.stripes * points,
    )
    packed = _packed(plan, w, tile.width, products)
    shape = (plan.stripes, points, plan.count, plan.out)
    target = context.temp(TensorType(algorithm.sums, shape), origin=plan.group.node.origin)
    build = kernel(context, plan.group.node)
    point, row, k, n = symbol("_p"), symbol("_m"), symbol("_k"), symbol("_n")
    # A chunk takes several points where one is less than worth a chunk.
    a_point = maximum(1, multiply(plan.count, 2 * plan.inner * plan.out))
    grain = maximum(1, minimum(points, floor_divide(FLOPS_A_CHUNK, a_point)))
    template = contraction(
        build,
        products,
        tile,
        batch=(*plan.stripe, Axis("_p", points, grain)),
        rows=(Axis("_m", plan.count),),
        columns=Axis("_n", plan.out),
        run=Axis("_k", plan.inner),
        a=data,
        a_offset=data.at([plan.number, point, row, k]),
        b=packed,
        b_offset=point * packed_size(plan.out, plan.inner, tile.width),
        accumulator=algorithm.sums,
    )
    stores = (build.store(target, target.at([plan.number, point, row, n]), Local("acc", algorithm.sums)),)
    flops = multiply(product(plan.node.type.shape), 2 * w.data[0].size)  # of the sum that the model has
    template = replace(template, stores=stores)
    context.run(build.launch(template.grid, template, origin=plan.group.node.origin, flops=flops))
    return target


def _packed(plan: _Plan, w: Constant, width: int, products: Products) -> Storage:
    key = (plan.algorithm.name, plan.node.strides, width)
    dtype = plan.algorithm.kind
    return plan.context.weight(
        w, key, lambda: pack_panels(plan.algorithm.transformed(w.data), width, products.dot), dtype
    )


def _transform_back(plan: _Plan, products: View) -> None:
    """out = epilogue(A^T M A + bias), cut at the image's edge."""
    algorithm, context, node, axes = plan.algorithm, plan.context, plan.node, plan.algorithm.axes
    epilogue = Epilogue(context, plan.group)
    build = KernelBuilder(context.unique("winograd_output"))
    statements: list[Stmt] = []
    kind, c = algorithm.sums, symbol("_c")
    block = np.empty([axis.points for axis in axes], object)
    for point, place in enumerate(np.ndindex(*block.shape)):
        name = "m" + "_".join(map(str, place))
        statements.append(Let(name, build.load(products, products.at([plan.number, point, plan.tile, c]))))
        block[place] = Local(name, kind)
    block = _transformed(block, axes, _Sums(statements, "s", kind).output)
    bias: Local | None = None
    if node.bias is not None:
        view = context.view(plan.group.resolve(node.bias))
        statements.append(Let("bias", build.load(view, view.at([c]))))
        bias = Local("bias", kind)
    results = node.type.shape[1:-1]
    for place in np.ndindex(*block.shape):
        value = cast(Expr, block[place])
        if algorithm.shift:
            value = Call("shr", (value, Const(algorithm.shift, kind)), kind)
        if bias is not None:
            value = Call("add", (value, bias), kind)
        where = [at * axis.size + i for at, axis, i in zip(plan.places, axes, place, strict=True)]
        stores: tuple[Stmt, ...] = epilogue.stores(build, [symbol("_b"), *where, c], value)
        for position, extent, axis, i in zip(where, results, axes, place, strict=True):
            if i and extent % axis.size != 0:
                stores = (When(Call("lt", (Index(position), index_value(extent)), boolean), stores),)
        statements.extend(stores)
    plan.launch(build, plan.out, tuple(statements), len(statements))
