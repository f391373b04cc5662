"""3x3 convolutions of stride 1 by Winograd's minimal filtering, F(m x m, 3 x 3) for m = 2 and 4.

After A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): each (m+2) x (m+2) tile of the
input is transformed (B^T d B), multiplied with the transformed filters (G g G^T, made at compile time) as (m+2)^2
matrix products over the channels, and transformed back (A^T M A). m = 2 needs 2.25 times fewer multiplications than the
direct sum, m = 4 four times fewer; both add the traffic of the transformed data.

Bytes are convolved by F(2 x 2, 3 x 3) in integers where processors multiply two of them at a time, as 16-bit numbers:
data are sums of four elements, filters are made four times as large to be whole, so that the results are four times the
sums, exactly. Products of the transformed data may wrap around: what they are added up to does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

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
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, index_value
from ingot.compiler.lower.packing import pack_panels
from ingot.compiler.lower.views import View
from ingot.compiler.ops.linear import Conv
from ingot.runtime.dtypes import DType, boolean, f32, i8, i16, i32, u8

FILTERS_AT_ONCE = 16384  # of 3x3 each, which transformed are some 5 MB
FLOPS_A_CHUNK = 800_000  # some 8 us of work
PAIRS_SHARE, SHORT_SUMS_SHARE = 0.78, 0.44  # of the time of a direct sum in f32 that one of bytes takes
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Algorithm:
    """F(m x m, 3 x 3): `size` outputs a tile side, and the three transforms of the paper."""

    size: int
    data: Matrix  # B^T, [m+2, m+2]
    filters: Matrix  # G, [m+2, 3]
    output: Matrix  # A^T, [m, m+2]
    kind: DType = f32  # of the transformed data and filters
    sums: DType = f32  # of their products
    shift: int = 0  # results are so many powers of two too large

    @property
    def reach(self) -> int:
        """Inputs a tile side."""
        return self.size + 2

    def products(self, w: Value) -> Products:
        """How transformed data and the transformed filters `w` are multiplied."""
        return Products(2, i16, 0) if self.kind == i16 else Products.single(w)

    def transformed(self, w: NDArray[Any]) -> NDArray[Any]:
        """[O, I, 3, 3] -> [(m+2)^2, I, O], computed in f64."""
        out, inner = w.shape[:2]
        transformed = np.empty((self.reach**2, inner, out), self.kind.to_numpy())
        both = np.kron(self.filters, self.filters)  # G g G^T as one matrix on the nine taps
        step = max(1, FILTERS_AT_ONCE // out)
        for first in range(0, inner, step):
            # A product for each channel: one for all would be shared out among threads, which takes ten times as long.
            part = w[:, first : first + step].reshape(out, -1).T.reshape(-1, 9, out).astype(np.float64)
            transformed[:, first : first + step] = np.matmul(both, part).transpose(1, 0, 2)
        return transformed


def toom_cook(size: int, points: Sequence[float]) -> Algorithm:
    """F(size x size, 3 x 3) from its size + 1 finite interpolation points; the last point is infinity.

    Data are the coefficients of the products of (x - q) over the other points q, which makes them integers or short
    binary fractions when the points are; the filters take the divisors, at compile time.
    """
    finite = np.array(points, np.float64)
    others = [np.delete(finite, i) for i in range(len(finite))]
    data = [[*np.poly(rest)[::-1], 0.0] for rest in others]
    data.append([*np.poly(finite)[::-1]])
    filters: list[list[float]] = [
        [1 / np.prod(p - rest) * p**k for k in range(3)] for p, rest in zip(finite, others, strict=True)
    ]
    output = [[*finite**k, float(k == size - 1)] for k in range(size)]
    return Algorithm(size, np.array(data), np.array([*filters, [0.0, 0.0, 1.0]]), np.array(output))


F2 = toom_cook(2, (0.0, 1.0, -1.0))
# The usual points 0, 1, -1, 2, -2 lose three to four times as much accuracy: of pairs p, -p and q, -q the error is
# least about q = 2p, pq = 1 (B. Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for
# Deep Neural Networks", 2020). All coefficients of these are exact.
F4 = toom_cook(4, (0.0, 0.75, -0.75, 1.5, -1.5))
SHORT = replace(F2, filters=2 * F2.filters, kind=i16, sums=i32, shift=2)
BY_NAME: Mapping[schedules.Algorithm, Algorithm] = MappingProxyType({"winograd2": F2, "winograd4": F4})


def choose_winograd(context: Context, group: Group, node: Conv) -> Algorithm | None:
    """The algorithm that is asked for or that the cost model expects to win over the direct sum, if any. Raises
    ScheduleError for one that cannot be used here."""
    expected = expected_cycles(context, group, node)
    algorithms = _algorithms(node)
    wanted = wanted_schedule(context, group)
    if wanted is not None:
        if wanted.algorithm in BY_NAME and wanted.algorithm not in expected:
            raise unfit(group, wanted, f"it can be computed by {', '.join(expected)}")
        return algorithms.get(wanted.algorithm)
    best: schedules.Algorithm = "direct"
    for name, cycles in expected.items():
        if cycles < 0.95 * expected[best]:
            best = name
    return algorithms.get(best)


def _algorithms(node: Conv) -> Mapping[schedules.Algorithm, Algorithm]:
    """Those that there are for the types of a convolution."""
    return {"winograd2": SHORT} if node.type.dtype == i32 else BY_NAME


def expected_cycles(context: Context, group: Group, node: Conv) -> dict[schedules.Algorithm, float]:
    """The direct sum and the algorithms of Winograd's that can compute a convolution, with the cycles that one image
    takes."""
    if _is_plain(context, node, group.resolve(node.w)):
        out, inner = group.resolve(node.w).type.static_shape()[:2]
        _, height, width, _ = node.type.shape
        assert isinstance(height, int) and isinstance(width, int)
        # For one image: measured, more of them change the comparison little, though they move more than caches hold.
        machine = context.machine
        direct = _direct_cycles(machine, height * width, inner, out)
        if node.type.dtype == i32:
            w = group.resolve(node.w)
            products = Products.of(context, node.x, w, Inner.of_conv(w, node.group))
            direct *= SHORT_SUMS_SHARE if products.short is not None else PAIRS_SHARE
        expected: dict[schedules.Algorithm, float] = {"direct": direct}
        for name, algorithm in _algorithms(node).items():
            tiles = -(-height // algorithm.size) * -(-width // algorithm.size)
            expected[name] = _cycles(machine, algorithm, tiles, inner, out)
        return expected
    return {"direct": 0.0}


def _is_plain(context: Context, node: Conv, w: Value) -> bool:
    """Whether a convolution can be computed by these algorithms."""
    if not context.forms.may_grow or not isinstance(w, Constant) or not node.channels_last:
        return False
    if node.type.dtype == i32:
        if context.machine.dot != 2 or not _is_short(node, w):
            return False
    elif node.type.dtype != f32 or not context.reorder:
        return False
    out, inner, *taps = w.type.static_shape()
    plain = all(x == 1 for x in (*node.strides, *node.dilations, node.group)) and taps == [3, 3]
    if not plain:
        return False
    _, height, width, _ = node.type.shape
    return isinstance(height, int) and isinstance(width, int) and min(out, inner) >= 16


def _is_short(node: Conv, w: Constant) -> bool:
    """Whether bytes are convolved, in pairs of channels, with sums that four times as large fit 32 bits."""
    if (node.x.dtype, w.dtype) != (u8, i8) or w.data.size == 0 or w.data.shape[1] % 2:
        return False
    sums = np.abs(w.data.astype(np.int64)).reshape(w.data.shape[0], -1).sum(1)
    return int(sums.max()) * 255 << SHORT.shift < 1 << 31


def _direct_cycles(machine: Machine, pixels: int, inner: int, out: int) -> float:
    cycles = pixels * inner * 9 * _padded(out) / (machine.fma_rate * machine.lanes_f32 * 0.93)
    return max(cycles, _reading(machine, 9 * inner * _padded(out)))


def _reading(machine: Machine, weights: int) -> float:
    """Cycles to read so many f32 weights, which happens while they are multiplied: the small images of a network's end
    have filters that no cache keeps from run to run."""
    return 4.0 * weights / (machine.l3_rate if 4 * weights <= machine.l3 else machine.memory_rate)


def _cycles(machine: Machine, algorithm: Algorithm, tiles: int, inner: int, out: int) -> float:
    points = algorithm.reach**2
    products = tiles * points * inner * _padded(out) / (machine.fma_rate * machine.lanes_f32 * 0.85)
    reading = _reading(machine, points * inner * _padded(out))
    # Of 16 bits twice as many at a time, which no longer hides the reading of half as many bytes.
    products = (products + reading) / 2 if algorithm.kind == i16 else max(products, reading)
    return products + transform_cycles(machine, algorithm, tiles, inner, out)


def transform_cycles(machine: Machine, algorithm: Algorithm, tiles: int, inner: int, out: int) -> float:
    """Cycles of the transforms of `tiles` tiles and of moving what lies between them and the products."""
    points = algorithm.reach**2
    # Per vector of channels: loads, stores and the sums of both passes, at a good two a cycle.
    adds = int(np.count_nonzero(algorithm.data)) * algorithm.reach * 2
    back = int(np.count_nonzero(algorithm.output)) * (algorithm.reach + algorithm.size)
    vectors_in, vectors_out = -(-inner // machine.lanes_f32), -(-out // machine.lanes_f32)
    transforms = tiles * (vectors_in * (adds + 2 * points) + vectors_out * (back + 2 * points)) / 2
    moved = 8.0 * tiles * points * (inner + out)
    far = machine.l3_rate if moved / 2 > machine.l2 else machine.l2_rate * 2
    return transforms + moved / far


def _padded(columns: int) -> int:
    return -(-columns // 16) * 16


def winograd_halo(node: Conv, algorithm: Algorithm) -> tuple[tuple[int, int], ...]:
    """The zero border (begin, end) per axis of x: the padding, and what the last tiles reach beyond it."""
    borders: list[tuple[int, int]] = [(0, 0)]
    for axis in (1, 2):
        before, extent, outputs = node.pads[axis - 1], node.x.type.shape[axis], node.type.shape[axis]
        assert isinstance(extent, int) and isinstance(outputs, int)
        covered = -(-outputs // algorithm.size) * algorithm.size + 2
        borders.append((before, max(node.pads[axis + 1], covered - before - extent)))
    return (*borders, (0, 0))


@dataclass(frozen=True)
class _Plan:
    """A convolution being lowered: the algorithm, tiles per axis, channels."""

    context: Context
    group: Group
    node: Conv
    algorithm: Algorithm
    tiles: tuple[Dim, Dim, Dim]  # images, tile rows, tile columns
    inner: int
    out: int

    @property
    def count(self) -> Dim:
        """Tiles in all."""
        return product(self.tiles)

    @property
    def tile(self) -> Dim:
        """The number of the tile at the current grid point."""
        images, rows, columns = symbol("_b"), symbol("_y"), symbol("_x")
        return (images * self.tiles[1] + rows) * self.tiles[2] + columns

    def launch(self, build: KernelBuilder, channels: int, body: tuple[Stmt, ...], work: int) -> None:
        """Run `body` for every tile, along `channels` channels ``_c``."""
        inner = For("_x", self.tiles[2], (For("_c", channels, body, "vector"),))
        row = multiply(self.tiles[2], channels * work)
        grid = (Axis("_b", self.tiles[0]), Axis("_y", self.tiles[1], grain_for(row, CHUNK)))
        flops = multiply(self.count, channels * work)
        self.context.run(build.launch(grid, (inner,), origin=self.group.node.origin, flops=flops))


def lower_winograd(context: Context, group: Group, node: Conv, view: View, algorithm: Algorithm) -> None:
    """Transform, multiply, transform back: three kernels. `view` has the border of `winograd_halo`."""
    images, height, width, out = node.type.shape
    size = algorithm.size
    tiles = (images, ceil_divide(height, size), ceil_divide(width, size))
    inner = node.x.type.shape[-1]
    assert isinstance(out, int) and isinstance(inner, int)
    plan = _Plan(context, group, node, algorithm, tiles, inner, out)
    data = _transform_data(plan, view)
    products = _multiply(plan, data)
    _transform_back(plan, products)


class _Sums:
    """Linear combinations written as Lets: those of points p and -p share what they have in common."""

    def __init__(self, statements: list[Stmt], prefix: str, kind: DType) -> None:
        self.statements, self.prefix, self.kind = statements, prefix, kind
        self.made = 0

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
        return self._let(total)

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


def _sandwich(statements: list[Stmt], matrix: Matrix, block: list[list[Expr]], kind: DType) -> list[list[Expr]]:
    """matrix @ block @ matrix^T, written as Lets."""
    sums = _Sums(statements, "s", kind)
    half = [sums.apply(matrix, column) for column in zip(*block, strict=True)]
    return [sums.apply(matrix, row) for row in zip(*half, strict=True)]


def _transform_data(plan: _Plan, view: View) -> View:
    """V[point, tile, channel] = B^T d B."""
    algorithm, context = plan.algorithm, plan.context
    shape, kind = (algorithm.reach**2, plan.count, plan.inner), algorithm.kind
    target = context.temp(TensorType(kind, shape), origin=plan.group.node.origin)
    build = KernelBuilder(context.unique("winograd_data"))
    statements: list[Stmt] = []
    top, left = plan.node.pads[:2]
    block: list[list[Expr]] = []
    for i in range(algorithm.reach):
        line: list[Expr] = []
        for j in range(algorithm.reach):
            y = symbol("_y") * algorithm.size + i - top
            x = symbol("_x") * algorithm.size + j - left
            element: Expr = build.load(view, view.at([symbol("_b"), y, x, symbol("_c")]))
            if view.storage.dtype != kind:
                element = Call("cast", (element,), kind)
            statements.append(Let(f"d{i}_{j}", element))
            line.append(Local(f"d{i}_{j}", kind))
        block.append(line)
    for point, value in enumerate(_flat(_sandwich(statements, algorithm.data, block, kind))):
        statements.append(build.store(target, target.at([point, plan.tile, symbol("_c")]), value))
    plan.launch(build, plan.inner, tuple(statements), len(statements))
    return target


def _multiply(plan: _Plan, data: View) -> View:
    """M[point, tile, out] = V[point] @ U[point]."""
    context, points, algorithm = plan.context, plan.algorithm.reach**2, plan.algorithm
    w = plan.group.resolve(plan.node.w)
    assert isinstance(w, Constant)
    products = algorithm.products(w)
    tile = choose_tile(
        context, plan.group, products, w, rows=plan.count, columns=plan.out, depth=plan.inner, batch=points
    )
    packed = _packed(plan, w, tile.width, products)
    target = context.temp(TensorType(algorithm.sums, (points, plan.count, plan.out)), origin=plan.group.node.origin)
    build = kernel(context, plan.group.node)
    point, row, k, n = symbol("_p"), symbol("_m"), symbol("_k"), symbol("_n")
    # A chunk takes several points where one is less than worth a chunk.
    a_point = maximum(1, multiply(plan.count, 2 * plan.inner * plan.out))
    grain = maximum(1, minimum(points, floor_divide(FLOPS_A_CHUNK, a_point)))
    template = contraction(
        build,
        products,
        tile,
        batch=(Axis("_p", points, grain),),
        rows=(Axis("_m", plan.count),),
        columns=Axis("_n", plan.out),
        run=Axis("_k", plan.inner),
        a=data,
        a_offset=data.at([point, row, k]),
        b=packed,
        b_offset=point * packed_size(plan.out, plan.inner, tile.width),
        accumulator=algorithm.sums,
    )
    stores = (build.store(target, target.at([point, row, n]), Local("acc", algorithm.sums)),)
    flops = multiply(product(plan.node.type.shape), 2 * 9 * plan.inner)  # of the sum that the model has
    template = replace(template, stores=stores)
    context.run(build.launch(template.grid, template, origin=plan.group.node.origin, flops=flops))
    return target


def _packed(plan: _Plan, w: Constant, width: int, products: Products) -> Storage:
    key = ("winograd", plan.algorithm.size, width)
    dtype = plan.algorithm.kind
    return plan.context.weight(
        w, key, lambda: pack_panels(plan.algorithm.transformed(w.data), width, products.dot), dtype
    )


def _transform_back(plan: _Plan, products: View) -> None:
    """out = epilogue(A^T M A + bias), cut at the image's edge."""
    algorithm, context, node = plan.algorithm, plan.context, plan.node
    epilogue = Epilogue(context, plan.group)
    build = KernelBuilder(context.unique("winograd_output"))
    statements: list[Stmt] = []
    reach, size, kind, c = algorithm.reach, algorithm.size, algorithm.sums, symbol("_c")
    block: list[list[Expr]] = []
    for i in range(reach):
        line: list[Expr] = []
        for j in range(reach):
            place = products.at([i * reach + j, plan.tile, c])
            statements.append(Let(f"m{i}_{j}", build.load(products, place)))
            line.append(Local(f"m{i}_{j}", kind))
        block.append(line)
    sums = _sandwich(statements, algorithm.output, block, kind)
    if algorithm.shift:
        by = Const(algorithm.shift, kind)
        sums = [[Call("shr", (value, by), kind) for value in line] for line in sums]
    if node.bias is not None:
        bias = context.view(plan.group.resolve(node.bias))
        statements.append(Let("bias", build.load(bias, bias.at([c]))))
        sums = [[Call("add", (value, Local("bias", kind)), kind) for value in line] for line in sums]
    _, height, width, _ = node.type.shape
    for i in range(size):
        for j in range(size):
            y, x = symbol("_y") * size + i, symbol("_x") * size + j
            stores: tuple[Stmt, ...] = epilogue.stores(build, [symbol("_b"), y, x, c], sums[i][j])
            checks = [
                Call("lt", (Index(place), index_value(extent)), boolean)
                for place, extent, offset in ((y, height, i), (x, width, j))
                if offset and extent % size != 0
            ]
            for check in checks:
                stores = (When(check, stores),)
            statements.extend(stores)
    plan.launch(build, plan.out, tuple(statements), len(statements))


def _flat(block: list[list[Expr]]) -> list[Expr]:
    return [value for line in block for value in line]
