"""Long filters along one axis by the discrete Fourier transform of stretches of the input that overlap.

The method is overlap-save (A. Oppenheim and R. Schafer, "Discrete-Time Signal Processing", 2010, 8.7.3): a stretch of n
inputs gives n - r + 1 results of a filter of r taps, by one product of complex numbers for each frequency, where the
sum has r products for each result. A stretch of real numbers has n / 2 + 1 frequencies, of which the first and the last
are real and stand together for one. With channels each frequency is a real matrix product: [re, im] times

    [[ re w, im w],
     [-im w, re w]].

The transforms are products with matrices of cosines and sines. Stretches of some hundred inputs are so short that this
is faster than butterflies, which add at half the rate and move data from step to step, and its errors are smaller than
those of the sums that it is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim, ceil_divide, multiply, product, symbol
from ingot.compiler.ir.graph import Constant, Value
from ingot.compiler.ir.loops import Axis, Call, Expr, For, Local
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.contraction import (
    Epilogue,
    Group,
    Products,
    contraction,
    pack_at_run_time,
    packed_size,
)
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for
from ingot.compiler.lower.packing import pack_panels
from ingot.compiler.lower.tiles import typical
from ingot.compiler.lower.views import View
from ingot.compiler.ops.linear import Conv
from ingot.runtime.dtypes import f32

LEAST_TAPS = 8  # of a filter; for fewer there is Winograd's algorithm
LEAST_GAIN = 0.85  # of the time of the sum: what is expected to take more is left a sum
MOST_INPUTS = 2048  # of a stretch, whose transform is a matrix of so many rows and columns
RATE = 0.7  # of the peak, of products with packing and all
FEW_ROWS = 8  # so many more are what products of few rows come to
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """The transforms of stretches of `inputs`, an even number, that give `size` results each of `taps` taps."""

    inputs: int
    size: int
    taps: int

    @property
    def frequencies(self) -> int:
        """Complex numbers that a stretch becomes."""
        return self.inputs // 2

    @property
    def data(self) -> Matrix:
        """[inputs, inputs]: a stretch to the real and the imaginary part of each frequency."""
        angles = self._angles(self.inputs)
        parts = np.stack([np.cos(angles), -np.sin(angles)], 1)
        parts[0, 1] = np.cos(np.pi * np.arange(self.inputs))  # the last frequency, whose imaginary part is 0
        return parts.reshape(self.inputs, self.inputs)

    @property
    def output(self) -> Matrix:
        """[size, inputs]: the frequencies to the results."""
        angles = self._angles(self.size)
        parts = np.stack([2 * np.cos(angles), -2 * np.sin(angles)], 1)
        parts[0, 0], parts[0, 1] = 1.0, np.cos(np.pi * np.arange(self.size))
        return parts.reshape(self.inputs, self.size).T / self.inputs

    def _angles(self, count: int) -> Matrix:
        turns = np.outer(np.arange(self.frequencies), np.arange(count)) % self.inputs
        return 2 * np.pi * turns / self.inputs

    def filters(self, w: NDArray[Any], group: int) -> NDArray[np.float32]:
        """[O, I / group, taps] -> [frequencies, group, 2 I / group, 2 O / group], computed in f64."""
        out, inner, _ = w.shape
        made = np.empty((self.frequencies, group, 2, inner, 2, out // group), np.float32)
        for number, part in enumerate(w.reshape(group, out // group, inner, -1)):
            found = np.fft.rfft(part.astype(np.float64), self.inputs).conj().transpose(2, 1, 0)  # a correlation
            here = made[:, number]
            here[:, 0, :, 0] = here[:, 1, :, 1] = found[:-1].real
            here[:, 0, :, 1], here[:, 1, :, 0] = found[:-1].imag, -found[:-1].imag
            here[0, 0, :, 1] = here[0, 1, :, 0] = 0
            here[0, 1, :, 1] = found[-1].real
        return made.reshape(self.frequencies, group, 2 * inner, -1)


def choose_spectrum(context: Context, group: Group, node: Conv) -> Spectrum | None:
    """The stretches that the cost model expects to win over the sum, if any."""
    w = group.resolve(node.w)
    if not _is_plain(context, node, w):
        return None
    out, inner, taps = w.type.static_shape()
    machine, results = context.machine, typical(node.type.shape[1], context.ranges)
    columns = node.group * _padded(out // node.group)
    direct = results * taps * inner * columns / (machine.fma_rate * machine.lanes_f32 * 0.93)
    best, expected = None, LEAST_GAIN * direct
    for spectrum in _spectra(taps, results):
        cycles = _cycles(machine, spectrum, results, node.group, inner, out // node.group)
        if cycles < expected:
            best, expected = spectrum, cycles
    return best


def _is_plain(context: Context, node: Conv, w: Value) -> bool:
    """Whether a convolution can be computed so."""
    if not context.reorder or not context.forms.may_grow or not isinstance(w, Constant) or w.data.size == 0:
        return False
    plain = node.channels_last and node.type.dtype == f32 and node.strides == node.dilations == (1,)
    return plain and w.data.shape[2] >= LEAST_TAPS and min(w.data.shape[1], w.data.shape[0] // node.group) >= 8


def _spectra(taps: int, results: int) -> Iterator[Spectrum]:
    """Stretches of as many results as there are taps, half and twice as many, and as there are results."""
    for wanted in {taps // 2, taps, 2 * taps, min(results, 2 * taps)}:
        inputs = -(-(wanted + taps - 1) // 16) * 16
        if inputs <= MOST_INPUTS:
            yield Spectrum(inputs, inputs - taps + 1, taps)


def _cycles(machine: Machine, spectrum: Spectrum, results: int, group: int, inner: int, out: int) -> float:
    """Cycles of `group` convolutions of `inner` to `out` channels."""
    stretches, n = -(-results // spectrum.size), spectrum.inputs
    transforms = stretches * n * group * (n * _padded(inner) + spectrum.size * _padded(out))
    weights = n * group * inner * _padded(2 * out)
    rate = machine.fma_rate * machine.lanes_f32 * RATE
    reading = 4.0 * weights / (machine.l3_rate if 4 * weights <= machine.l3 else machine.memory_rate)
    moved = 12.0 * stretches * n * group * (inner + out) / machine.l3_rate
    return (transforms + (stretches + FEW_ROWS) * weights) / rate + reading + moved


def _padded(columns: int) -> int:
    return -(-columns // 16) * 16


def spectral_halo(node: Conv, spectrum: Spectrum) -> tuple[tuple[int, int], ...]:
    """The zero border (begin, end) per axis of x: the padding, and what the last stretch reaches beyond it."""
    (before, after), extent, results = node.pads, node.x.type.shape[1], node.type.shape[1]
    more = spectrum.inputs - spectrum.taps  # at most
    if isinstance(extent, int) and isinstance(results, int):
        stretches = -(-results // spectrum.size)
        more = (stretches - 1) * spectrum.size + spectrum.inputs - before - extent - after
    return (0, 0), (before, after + max(more, 0)), (0, 0)


@dataclass(frozen=True)
class _Plan:
    """A convolution being lowered: stretches, each of which is transformed group by group."""

    context: Context
    group: Group
    node: Conv
    w: Constant
    spectrum: Spectrum
    per_image: Dim  # stretches
    inner: int  # channels of a group
    out: int

    @property
    def stretches(self) -> Dim:
        """In all."""
        return multiply(self.node.type.shape[0], self.per_image)

    def transformed(
        self, name: str, panels: tuple[View, int], matrix: tuple[str, Matrix], rows: tuple[Axis, ...], target: View
    ) -> None:
        """target[stretch, group, *rows, n] = matrix @ what lies in `panels` of a width for each stretch and group."""
        context, (label, data), (source, columns) = self.context, matrix, panels
        products = Products.single(self.w)
        count, depth = data.shape
        batch: Dim = multiply(self.stretches, self.node.group)
        tile = products.tile(context, self.w, rows=count, columns=columns, depth=depth, batch=batch)
        packed = pack_at_run_time(context, source, tile.width, self.group.node)
        key = ("spectral", label, self.spectrum.inputs, self.spectrum.size)
        storage = context.weight(self.w, key, lambda: data.astype(np.float32), f32)
        factors = View(storage, data.shape, (depth, 1))
        build = KernelBuilder(context.unique(name))
        point, k, n = symbol("_p"), symbol("_k"), symbol("_n")
        row: Dim = 0
        for axis in rows:
            row = row * axis.extent + symbol(axis.var)
        template = contraction(
            build,
            products,
            tile,
            batch=(Axis("_p", batch),),
            rows=rows,
            columns=Axis("_n", columns),
            run=Axis("_k", depth),
            a=factors,
            a_offset=factors.at([row, k]),
            b=packed,
            b_offset=point * packed_size(columns, depth, tile.width),
            accumulator=f32,
        )
        where = [point // self.node.group, point % self.node.group, *(symbol(axis.var) for axis in rows), n]
        store = build.store(target, target.at(where), Local("acc", f32))
        template = replace(template, stores=(store,))
        context.run(build.launch(template.grid, template, origin=self.group.node.origin, flops=template.flops))


def lower_spectral(context: Context, group: Group, node: Conv, view: View, spectrum: Spectrum) -> None:
    """Transform, multiply, transform back, and the epilogue. `view` has the border of `spectral_halo`."""
    w = group.resolve(node.w)
    assert isinstance(w, Constant)
    out, inner, _ = w.data.shape
    images, results, _ = node.type.shape
    per_image = ceil_divide(results, spectrum.size)
    plan = _Plan(context, group, node, w, spectrum, per_image, inner, out // node.group)
    data = _transform_data(plan, view)
    products = _multiply(plan, data)
    stretches = _transform_back(plan, products)
    line = multiply(per_image, spectrum.size)
    _finish(plan, View(stretches.storage, (images, line, out), (multiply(line, out), out, 1)))


def _transform_data(plan: _Plan, view: View) -> View:
    """V[frequency, group, stretch, re and im, channel]."""
    spectrum, node, groups, origin = plan.spectrum, plan.node, plan.node.group, plan.group.node.origin
    image, step, channel = view.strides
    stretches = View(
        view.storage,
        (node.type.shape[0], plan.per_image, groups, spectrum.inputs, plan.inner),
        (image, multiply(step, spectrum.size), multiply(channel, plan.inner), step, channel),
        view.at([0, -node.pads[0], 0]),
    )
    count = spectrum.frequencies
    target = plan.context.temp(TensorType(f32, (count, groups, plan.stretches, 2, plan.inner)), origin=origin)
    rows = (Axis("_f", count), Axis("_r", 2))
    turned = target.transpose((2, 1, 0, 3, 4))
    plan.transformed("spectral_data", (stretches, plan.inner), ("data", spectrum.data), rows, turned)
    return target


def _multiply(plan: _Plan, data: View) -> View:
    """M[stretch, group, frequency, re and im, out]."""
    context, node, count = plan.context, plan.node, plan.spectrum.frequencies
    depth, columns, points = 2 * plan.inner, 2 * plan.out, count * node.group
    products = Products.single(plan.w)
    tile = products.tile(context, plan.w, rows=plan.stretches, columns=columns, depth=depth, batch=points)
    key = ("spectral", plan.spectrum.inputs, tile.width)
    packed = context.weight(
        plan.w, key, lambda: pack_panels(plan.spectrum.filters(plan.w.data, node.group), tile.width), f32
    )
    shape = (plan.stretches, node.group, count, columns)
    target = context.temp(TensorType(f32, shape), origin=plan.group.node.origin)
    build = KernelBuilder(context.unique("spectral"))
    point, row, k, n = symbol("_p"), symbol("_m"), symbol("_k"), symbol("_n")
    template = contraction(
        build,
        products,
        tile,
        batch=(Axis("_p", points),),
        rows=(Axis("_m", plan.stretches),),
        columns=Axis("_n", columns),
        run=Axis("_k", depth),
        a=data,
        a_offset=point * multiply(plan.stretches, depth) + row * depth + k,
        b=packed,
        b_offset=point * packed_size(columns, depth, tile.width),
        accumulator=f32,
    )
    where = [row, point % node.group, point // node.group, n]
    template = replace(template, stores=(build.store(target, target.at(where), Local("acc", f32)),))
    flops = multiply(product(node.type.shape), 2 * plan.w.data[0].size)  # of the sum that the model has
    context.run(build.launch(template.grid, template, origin=plan.group.node.origin, flops=flops))
    return target


def _transform_back(plan: _Plan, products: View) -> View:
    """Y[stretch, result, group, out]."""
    spectrum, groups = plan.spectrum, plan.node.group
    source = products.reshape((plan.stretches, groups, spectrum.inputs, plan.out))
    assert source is not None
    shape = (plan.stretches, spectrum.size, groups, plan.out)
    target = plan.context.temp(TensorType(f32, shape), origin=plan.group.node.origin)
    rows = (Axis("_m", spectrum.size),)
    turned = target.transpose((0, 2, 1, 3))
    plan.transformed("spectral_output", (source, plan.out), ("output", spectrum.output), rows, turned)
    return target


def _finish(plan: _Plan, sums: View) -> None:
    """The epilogue of the results, without those that the last stretch of an image has too many."""
    context, node = plan.context, plan.node
    images, results, channels = node.type.shape
    epilogue = Epilogue(context, plan.group)
    build = KernelBuilder(context.unique("spectral_results"))
    place = [symbol("_b"), symbol("_x"), symbol("_c")]
    value: Expr = build.load(sums, sums.at(place))
    if node.bias is not None:
        bias = context.view(plan.group.resolve(node.bias))
        value = Call("add", (value, build.load(bias, bias.at(place[2:]))), f32)
    loop = For("_c", channels, epilogue.stores(build, place, value), "vector")
    grid = (Axis("_b", images), Axis("_x", results, grain_for(channels, CHUNK)))
    context.run(build.launch(grid, (loop,), origin=plan.group.node.origin))
