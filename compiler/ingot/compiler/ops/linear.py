"""Contractions and pooling. Float products are accumulated in f64 and rounded once; integers wrap.

Products of u8 by i8 are summed in i32, which is their result: the one mixture of element types.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product as cartesian
from typing import Any, TypeAlias

import numpy as np

from ingot.compiler.ir.dims import Dim, ceil_divide, minimum, show
from ingot.compiler.ir.graph import Array, Node, Value, op
from ingot.compiler.ir.types import IrError, TensorType, broadcast_shapes
from ingot.compiler.ops.checks import equal_dims, fail, ints, require_kind, same_dtype
from ingot.compiler.ops.numeric import cast
from ingot.compiler.ops.pointwise import NUMBER
from ingot.compiler.ops.reduction import lowest
from ingot.runtime.dtypes import DType, f32, i8, i32, u8

Window: TypeAlias = tuple[slice, ...]


def accumulate_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that products of `dtype` are summed in."""
    return dtype if dtype.kind in "iu" else np.dtype(np.float64)


def product_dtype(node: Node, x: Value, w: Value) -> DType:
    """The element type of sums of products of `x` by `w`."""
    return i32 if (x.dtype, w.dtype) == (u8, i8) else same_dtype(node, x, w)


@op("mat_mul")
class MatMul(Node):
    """``a @ b`` with numpy's rule: a [..., M, K], b [..., K, N] -> [..., M, N]; batch axes broadcast, ranks >= 2.

    With `a_bits` of 8, f32 elements of a may be rounded to that many bits, with a scale for each block of a row that
    has one in b: a permission, of which the reference makes no use. 0 is none.
    """

    a: Value
    b: Value
    a_bits: int = 0

    def infer(self) -> Sequence[TensorType]:
        a, b = self.a, self.b
        dtype = product_dtype(self, a, b)
        require_kind(self, a, NUMBER, "an operand")
        if self.a_bits not in (0, 8) or (self.a_bits and dtype != f32):
            fail(self, f"elements {dtype} are not rounded to {self.a_bits} bits: those of f32 are, to 8")
        if a.rank < 2 or b.rank < 2:
            fail(self, f"operands {a.type} and {b.type} need rank 2 or more: reshape vectors to matrices")
        equal_dims(self, a.shape[-1], b.shape[-2], f"inner dims of {a.type} @ {b.type}")
        try:
            batch = broadcast_shapes((a.shape[:-2], b.shape[:-2]))
        except IrError as error:
            fail(self, f"batch axes of {a.type} @ {b.type}: {error}")
        return (TensorType(dtype, (*batch, a.shape[-2], b.shape[-1])),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        a, b = operands
        kind = self.type.dtype.to_numpy()
        wide = accumulate_dtype(kind)
        with np.errstate(all="ignore"):
            return (np.matmul(a.astype(wide, copy=False), b.astype(wide, copy=False)).astype(kind, copy=False),)


@dataclass(frozen=True, eq=False, repr=False)
class Windowed(Node):
    """A sliding window over the spatial axes of one operand: the shape arithmetic that convolution and pooling share.

    Tensors are [N, C, *spatial], or [N, *spatial, C] with `channels_last`. `pads` lists the begins, then the ends.
    """

    def spatial(self, x: Value, channels_last: bool) -> tuple[Dim, ...]:
        """The spatial dims of `x`."""
        return tuple(x.shape[1:-1] if channels_last else x.shape[2:])

    def check_window(
        self,
        x: Value,
        kernel: tuple[int, ...],
        strides: tuple[int, ...],
        pads: tuple[int, ...],
        dilations: tuple[int, ...],
    ) -> None:
        """Every attribute has one entry (pads: two) a spatial axis and a sensible value."""
        n = x.rank - 2
        if n < 1:
            fail(self, f"the operand {x.type} has no spatial axes: rank 3 or more is needed")
        for what, values, count, least in (
            ("kernel", kernel, n, 1),
            ("strides", strides, n, 1),
            ("dilations", dilations, n, 1),
            ("pads", pads, 2 * n, 0),
        ):
            if len(values) != count:
                fail(self, f"{what} {values} has {len(values)} entries, {count} are needed for {x.type}")
            if any(v < least for v in values):
                fail(self, f"{what} {values} has an entry below {least}")


def window_count(extent: Dim, kernel: int, stride: int, begin: int, end: int, dilation: int, ceil_mode: bool) -> Dim:
    """How many windows fit: ``floor((extent + begin + end - dilation*(kernel-1) - 1) / stride) + 1``.

    With `ceil_mode` the quotient rounds up, but no window starts in the end padding (ONNX MaxPool, AveragePool).
    """
    room = extent + (begin + end - dilation * (kernel - 1) - 1)
    if not ceil_mode:
        return room // stride + 1
    return minimum(ceil_divide(room, stride), (extent + (begin - 1)) // stride) + 1


def _window_shape(
    node: Node,
    spatial: tuple[Dim, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    ceil_mode: bool,
) -> tuple[Dim, ...]:
    n = len(spatial)
    shape = tuple(
        window_count(spatial[i], kernel[i], strides[i], pads[i], pads[n + i], dilations[i], ceil_mode) for i in range(n)
    )
    if any(isinstance(d, int) and d < 0 for d in shape):
        dims = ", ".join(show(d) for d in spatial)
        fail(node, f"a window of {kernel} dilated by {dilations} does not fit into [{dims}] padded by {pads}")
    return shape


def _taps(
    kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...], out: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], Window]]:
    """Each kernel position with the slices of the padded input that it sees, one element a window."""
    for tap in cartesian(*(range(k) for k in kernel)):
        yield (
            tap,
            tuple(
                slice(t * d, t * d + (o - 1) * s + 1 if o else t * d, s)
                for t, d, o, s in zip(tap, dilations, out, strides, strict=True)
            ),
        )


def _padded(
    x: Array,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    out: tuple[int, ...],
    fill: object,
) -> Array:
    """x [N, C, *spatial] with its padding, grown at the end as far as the last window reaches."""
    n = len(kernel)
    widths = [(0, 0), (0, 0)]
    for i in range(n):
        reach = (out[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1
        widths.append((pads[i], max(pads[n + i], reach - x.shape[2 + i] - pads[i])))
    return np.pad(x, widths, constant_values=np.asarray(fill, x.dtype)[()])


@op("conv")
class Conv(Windowed):
    """Convolution (cross-correlation) of x [N, C, *spatial] with w [M, C/group, *kernel] plus bias [M] -> [N, M, *out].

    With `channels_last` x is [N, *spatial, C] and the result [N, *out, M]; w keeps its layout. ONNX Conv.
    """

    x: Value
    w: Value
    bias: Value | None
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int
    channels_last: bool

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's spatial extents."""
        return self.w.type.static_shape()[2:] if self.w.type.is_static else tuple(self.w.shape[2:])

    def infer(self) -> Sequence[TensorType]:
        x, w = self.x, self.w
        dtype = product_dtype(self, x, w)
        require_kind(self, x, NUMBER, "the operand")
        if self.bias is not None and self.bias.dtype != dtype:
            fail(self, f"the bias {self.bias.type} must be {dtype}, as the sums of products of {x.type} are")
        if w.rank != x.rank:
            fail(self, f"the weight {w.type} must have the rank of {x.type}")
        if not all(isinstance(d, int) for d in w.shape[2:]):
            fail(self, f"the kernel extents of {w.type} must be constants")
        self.check_window(x, self.kernel, self.strides, self.pads, self.dilations)
        if self.group < 1:
            fail(self, f"group {self.group} is below 1")
        channels = x.shape[-1] if self.channels_last else x.shape[1]
        equal_dims(self, channels, w.shape[1] * self.group, f"channels of {x.type} and {w.type} in {self.group} groups")
        if isinstance(w.shape[0], int) and w.shape[0] % self.group:
            fail(self, f"{w.shape[0]} output channels do not divide into {self.group} groups")
        if self.bias is not None:
            if self.bias.rank != 1:
                fail(self, f"the bias {self.bias.type} must have rank 1")
            equal_dims(self, self.bias.shape[0], w.shape[0], "bias length and output channels")
        spatial = self.spatial(x, self.channels_last)
        out = _window_shape(self, spatial, self.kernel, self.strides, self.pads, self.dilations, False)
        shape = (x.shape[0], *out, w.shape[0]) if self.channels_last else (x.shape[0], w.shape[0], *out)
        return (TensorType(dtype, shape),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        x, w = operands[:2]
        if self.channels_last:
            x = np.moveaxis(x, -1, 1)
        wide = accumulate_dtype(self.type.dtype.to_numpy())
        x, w = x.astype(wide, copy=False), w.astype(wide, copy=False)
        n, m, group = x.shape[0], w.shape[0], self.group
        spatial = x.shape[2:]
        out = ints(_window_shape(self, spatial, self.kernel, self.strides, self.pads, self.dilations, False))
        padded = _padded(x, self.kernel, self.strides, self.pads, self.dilations, out, 0)
        padded = padded.reshape(n, group, x.shape[1] // group, *padded.shape[2:])
        weights = w.reshape(group, m // group, w.shape[1], *w.shape[2:])
        total = np.zeros((n, group, m // group, math.prod(out)), wide)
        with np.errstate(all="ignore"):
            for tap, window in _taps(self.kernel, self.strides, self.dilations, out):
                seen = padded[(slice(None),) * 3 + window].reshape(n, group, w.shape[1], math.prod(out))
                factor = weights[(slice(None),) * 3 + tap]
                total += factor * seen if w.shape[1] == 1 else np.matmul(factor, seen)
            result = total.reshape(n, m, *out)
            if self.bias is not None:
                result = result + operands[2].astype(wide).reshape(m, *(1,) * len(out))
        if self.channels_last:
            result = np.ascontiguousarray(np.moveaxis(result, 1, -1))
        return (result.astype(self.type.dtype.to_numpy(), copy=False),)


@dataclass(frozen=True, eq=False, repr=False)
class Pool(Windowed):
    """Pooling of x over windows of `kernel`: each channel by itself."""

    x: Value
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil_mode: bool

    def pool_type(self, channels_last: bool) -> TensorType:
        """The result's type."""
        x = self.x
        self.check_window(x, self.kernel, self.strides, self.pads, self.dilations)
        spatial = self.spatial(x, channels_last)
        out = _window_shape(self, spatial, self.kernel, self.strides, self.pads, self.dilations, self.ceil_mode)
        shape = (x.shape[0], *out, x.shape[-1]) if channels_last else (x.shape[0], x.shape[1], *out)
        return TensorType(x.dtype, shape)

    def windows(self, x: Array, fill: object) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Each tap with the input [N, C, *out] that it sees."""
        spatial = x.shape[2:]
        shape = _window_shape(self, spatial, self.kernel, self.strides, self.pads, self.dilations, self.ceil_mode)
        out = ints(shape)
        padded = _padded(x, self.kernel, self.strides, self.pads, self.dilations, out, fill)
        for tap, window in _taps(self.kernel, self.strides, self.dilations, out):
            yield tap, padded[(slice(None),) * 2 + window]


@op("max_pool")
class MaxPool(Pool):
    """The maximum over each window; padding never wins, NaN does. ONNX MaxPool without indices."""

    channels_last: bool

    def infer(self) -> Sequence[TensorType]:
        require_kind(self, self.x, NUMBER, "the operand")
        return (self.pool_type(self.channels_last),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        x = np.moveaxis(operands[0], -1, 1) if self.channels_last else operands[0]
        result: Array | None = None
        for _, seen in self.windows(x, lowest(x.dtype)):
            result = seen.copy() if result is None else np.maximum(result, seen)
        assert result is not None
        return (np.ascontiguousarray(np.moveaxis(result, 1, -1)) if self.channels_last else result,)


@op("average_pool")
class AveragePool(Pool):
    """The mean over each window. ONNX AveragePool.

    The divisor counts the window's elements inside the input, with `include_pad` those inside the padding too; what
    `ceil_mode` adds beyond the padding never counts.
    """

    include_pad: bool
    channels_last: bool

    def infer(self) -> Sequence[TensorType]:
        require_kind(self, self.x, frozenset(("float",)), "the operand")
        return (self.pool_type(self.channels_last),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        x = np.moveaxis(operands[0], -1, 1) if self.channels_last else operands[0]
        n = len(self.kernel)
        inside = np.ones((1, 1, *x.shape[2:]))
        if self.include_pad:
            inside = np.pad(
                inside, [(0, 0), (0, 0), *((self.pads[i], self.pads[n + i]) for i in range(n))], constant_values=1.0
            )
            begin = (0,) * n
        else:
            begin = self.pads[:n]
        total: Array | float = 0.0
        count: Array | float = 0.0
        out: tuple[int, ...] = ()
        with np.errstate(all="ignore"):
            for _, seen in self.windows(x.astype(np.float64), 0.0):
                total, out = total + seen, seen.shape[2:]
            pads = (*begin, *(0,) * n)
            ones = _padded(inside, self.kernel, self.strides, pads, self.dilations, out, 0.0)
            for _, window in _taps(self.kernel, self.strides, self.dilations, out):
                count = count + ones[(slice(None),) * 2 + window]
            result = cast(np.asarray(total / count), self.x.dtype)
        return (np.ascontiguousarray(np.moveaxis(result, 1, -1)) if self.channels_last else result,)
