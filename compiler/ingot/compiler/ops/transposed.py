"""Transposed convolution as an ordinary one: every position between the strides is a channel of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import product as cartesian

import numpy as np

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Array, Value, op, operands_of
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import equal_dims, fail, ints, require_kind, same_dtype
from ingot.compiler.ops.composite import FloatComposite
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.movement import Expand, Pad, Reshape, Slice, Transpose
from ingot.compiler.ops.pointwise import FLOAT


@op("conv_transpose")
class ConvTranspose(FloatComposite):
    """``y[stride * i + dilation * k - pad] += x[i] * w[k]``

    x [N, C, *spatial] and w [C, M/group, *kernel] give [N, M, *out]. `pads` lists what is cut off at the begins, then
    at the ends; a negative entry adds positions that only the bias reaches. The extents are
    ``stride * (n - 1) + dilation * (k - 1) + 1 + output_padding - begin - end``. With `channels_last` x is
    [N, *spatial, C] and the result [N, *out, M]; w keeps its layout. ONNX ConvTranspose.
    """

    x: Value
    w: Value
    bias: Value | None
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    output_padding: tuple[int, ...]
    group: int
    channels_last: bool

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's spatial extents."""
        return tuple(int(d) for d in self.w.shape[2:])

    @property
    def filters(self) -> int:
        """Output channels of one group."""
        return int(self.w.shape[1])

    def infer(self) -> Sequence[TensorType]:
        x, w = self.x, self.w
        dtype = same_dtype(self, *operands_of(self))
        require_kind(self, x, FLOAT, "the operand")
        rank = x.rank - 2
        if rank < 1 or w.rank != x.rank:
            fail(self, f"the weight {w.type} must have the rank of {x.type}, 3 or more")
        if not all(isinstance(d, int) for d in w.shape[1:]):
            fail(self, f"the output channels and kernel extents of {w.type} must be constants")
        for what, values, count in (
            ("strides", self.strides, rank),
            ("dilations", self.dilations, rank),
            ("output_padding", self.output_padding, rank),
            ("pads", self.pads, 2 * rank),
        ):
            if len(values) != count:
                fail(self, f"{what} {values} has {len(values)} entries, {count} are needed for {x.type}")
        if min(self.strides) < 1 or min(self.dilations) < 1 or min(self.output_padding) < 0 or self.group < 1:
            fail(self, "strides, dilations and group must be positive, output_padding not negative")
        channels = x.shape[-1] if self.channels_last else x.shape[1]
        equal_dims(self, channels, w.shape[0], f"channels of {x.type} and {w.type}")
        if isinstance(w.shape[0], int) and w.shape[0] % self.group:
            fail(self, f"{w.shape[0]} channels do not divide into {self.group} groups")
        if self.bias is not None and self.bias.shape != (self.filters * self.group,):
            fail(self, f"the bias {self.bias.type} needs {self.filters * self.group} elements")
        out = tuple(self._extent(i, d) for i, d in enumerate(x.shape[1:-1] if self.channels_last else x.shape[2:]))
        if any(isinstance(d, int) and d < 0 for d in out):
            fail(self, f"pads {self.pads} cut more off than there is")
        count = self.filters * self.group
        return (TensorType(dtype, (x.shape[0], *out, count) if self.channels_last else (x.shape[0], count, *out)),)

    def _reach(self, axis: int) -> int:
        return self.dilations[axis] * (self.kernel[axis] - 1) + 1

    def _extent(self, axis: int, extent: Dim) -> Dim:
        rank = len(self.strides)
        cut = self.pads[axis] + self.pads[rank + axis]
        return (extent - 1) * self.strides[axis] + (self._reach(axis) + self.output_padding[axis] - cut)

    def compute(self, *operands: Array) -> Array:
        x = np.moveaxis(operands[0], -1, 1) if self.channels_last else operands[0]
        rank, n, w = len(self.strides), operands[0].shape[0], operands[1]
        spatial, inner = x.shape[2:], x.shape[1] // self.group
        x = x.reshape(n, self.group, inner, *spatial)
        w = w.reshape(self.group, inner, self.filters, *self.kernel)
        out = ints([self._extent(i, d) for i, d in enumerate(spatial)])
        margin = [max(0, -p) for p in self.pads]
        whole = [o + max(0, self.pads[i]) + max(0, self.pads[rank + i]) + margin[i] for i, o in enumerate(out)]
        reach = [(d - 1) * self.strides[i] + self._reach(i) + margin[i] for i, d in enumerate(spatial)]
        total = np.zeros((n, self.group, self.filters, *map(max, whole, reach)))
        for tap in cartesian(*map(range, self.kernel)):
            seen = [
                slice(begin := margin[i] + t * self.dilations[i], begin + (d - 1) * s + 1 if d else begin, s)
                for i, (t, d, s) in enumerate(zip(tap, spatial, self.strides, strict=True))
            ]
            part = np.einsum("ngc...,gcm->ngm...", x, w[(slice(None), slice(None), slice(None), *tap)])
            total[(slice(None), slice(None), slice(None), *seen)] += part
        starts = [max(0, p) for p in self.pads[:rank]]
        kept = tuple(slice(s, s + o) for s, o in zip(starts, out, strict=True))
        result = total[(slice(None), slice(None), slice(None), *kept)].reshape(n, self.group * self.filters, *out)
        if self.bias is not None:
            result = result + operands[2].reshape(-1, *(1,) * rank)
        return np.moveaxis(result, 1, -1) if self.channels_last else result

    def expand(self) -> Value:
        """With z = y + pad = stride * q + r, ``y[q, r] = sum over j of x[q - j] * w[r + stride * j]``: a convolution
        whose output channels are (group, r, m), and a shuffle of those r between the q, channels last."""
        rank, s = len(self.strides), self.strides
        if not self.channels_last:
            x = Transpose(self.x, (0, *range(2, rank + 2), 1))
            return self._channels_first(dataclasses.replace(self, x=x, channels_last=True).expand())
        first = [p // s[i] for i, p in enumerate(self.pads[:rank])]  # the first q that is kept
        # The last one, counted from the last x.
        last = [(self.output_padding[i] + self._reach(i) - 1 - self.pads[rank + i]) // s[i] for i in range(rank)]
        taps = [self.kernel[i] if s[i] == 1 else -(-self._reach(i) // s[i]) for i in range(rank)]
        dilations = tuple(self.dilations[i] if s[i] == 1 else 1 for i in range(rank))
        begins = [dilations[i] * (taps[i] - 1) - first[i] for i in range(rank)]
        pads = (*(max(0, p) for p in begins), *(max(0, p) for p in last))
        bias = None if self.bias is None else self._spread_bias(self.bias)
        x, w = self._cut(self.x, begins, last), self._phases(taps)
        y: Value = Conv(x, w, bias, (1,) * rank, pads, dilations, self.group, True)
        if any(k > 1 for k in s):
            y = self._shuffled(y)
        if y.shape == self.type.shape:
            return y
        starts = [p - first[i] * s[i] for i, p in enumerate(self.pads[:rank])]
        return Slice(y, (0, *starts, 0), self.type.shape, (1,) * y.rank)

    @property
    def is_even(self) -> bool:
        """Whether every phase has as many taps as the others, so that `expand` adds none with zeros for weights."""
        pairs = zip(self.kernel, self.strides, self.dilations, strict=True)
        return all(stride == 1 or (dilation == 1 and extent % stride == 0) for extent, stride, dilation in pairs)

    def expand_exactly(self) -> Value:
        """A convolution of x with zeros between its elements: more work than `expand`, but no element of x meets a
        weight that is not there, which for NaN and infinities makes a difference."""
        rank, s = len(self.strides), self.strides
        if not self.channels_last:
            x = Transpose(self.x, (0, *range(2, rank + 2), 1))
            return self._channels_first(dataclasses.replace(self, x=x, channels_last=True).expand_exactly())
        x = self.x
        for axis, stride in enumerate(s, 1):
            x = _with_zeros(x, axis, stride)
        begins = [self._reach(i) - 1 - self.pads[i] for i in range(rank)]
        ends = [self._reach(i) + self.output_padding[i] - self.pads[rank + i] - s[i] for i in range(rank)]
        inner = self.w.shape[0] // self.group
        w: Value = Reshape(self.w, (self.group, inner, self.filters, *self.kernel))
        w = Transpose(w, (0, 2, 1, *range(3, 3 + rank)))
        w = Reshape(w, (self.group * self.filters, inner, *self.kernel))
        w = Slice(w, (0, 0, *(k - 1 for k in self.kernel)), w.type.shape, (1, 1, *(-1,) * rank))
        pads = (*(max(0, p) for p in begins), *(max(0, p) for p in ends))
        return Conv(self._cut(x, begins, ends), w, self.bias, (1,) * rank, pads, self.dilations, self.group, True)

    def _channels_first(self, turned: Value) -> Value:
        return Transpose(turned, (0, turned.rank - 1, *range(1, turned.rank - 1)))

    def _cut(self, x: Value, begins: Sequence[int], ends: Sequence[int]) -> Value:
        """x without the positions that negative pads take away."""
        starts = [max(0, -b) for b in begins]
        sides = [max(0, -e) for e in ends]
        if not any(starts) and not any(sides):
            return x
        shape = x.type.shape
        spatial = (d - (start + side) for d, start, side in zip(shape[1:-1], starts, sides, strict=True))
        return Slice(x, (0, *starts, 0), (shape[0], *spatial, shape[-1]), (1,) * x.rank)

    def _phases(self, taps: Sequence[int]) -> Value:
        """The filters [group * phases * M/group, C/group, *taps], taps in the order of a convolution."""
        rank, s = len(self.strides), self.strides
        w = self._stuffed()
        room = [taps[i] * s[i] - int(w.shape[2 + i]) for i in range(rank)]
        if any(room):
            w = Pad(w, (*(0,) * (2 + rank), 0, 0, *room), "constant", None)
        inner = self.w.shape[0] // self.group
        split = [d for i in range(rank) for d in (taps[i], s[i])]
        w = Reshape(w, (self.group, inner, self.filters, *split))
        phases, places = [4 + 2 * i for i in range(rank)], [3 + 2 * i for i in range(rank)]
        w = Transpose(w, (0, *phases, 2, 1, *places))
        count = self.group * self.filters * int(np.prod(s))
        w = Reshape(w, (count, inner, *taps))
        return Slice(w, (0, 0, *(t - 1 for t in taps)), w.type.shape, (1, 1, *(-1,) * rank))

    def _stuffed(self) -> Value:
        """w with zeros between the taps of a dilated and strided axis."""
        w = self.w
        for i, (dilation, stride) in enumerate(zip(self.dilations, self.strides, strict=True)):
            if dilation == 1 or stride == 1:
                continue
            axis, shape = 2 + i, w.type.shape
            sizes = (*shape[:axis], self._reach(i), *shape[axis + 1 :])
            w = Slice(_with_zeros(w, axis, dilation), (0,) * w.rank, sizes, (1,) * w.rank)
        return w

    def _spread_bias(self, bias: Value) -> Value:
        if all(s == 1 for s in self.strides):
            return bias
        ones = (1,) * len(self.strides)
        column = Reshape(bias, (self.group, *ones, self.filters))
        spread = Expand(column, (self.group, *self.strides, self.filters))
        return Reshape(spread, (self.group * self.filters * int(np.prod(self.strides)),))

    def _shuffled(self, y: Value) -> Value:
        """Channels (group, phases, m) as positions between the q."""
        rank, s, spatial = len(self.strides), self.strides, y.shape[1:-1]
        split = Reshape(y, (y.shape[0], *spatial, self.group, *s, self.filters))
        between = [a for i in range(rank) for a in (1 + i, 2 + rank + i)]
        turned = Transpose(split, (0, *between, 1 + rank, split.rank - 1))
        extents = (d * k for d, k in zip(spatial, s, strict=True))
        return Reshape(turned, (y.shape[0], *extents, self.group * self.filters))


def _with_zeros(x: Value, axis: int, step: int) -> Value:
    """x with `step` - 1 zeros after each element along `axis`."""
    if step == 1:
        return x
    shape = x.type.shape
    column = Reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    before, after = (0,) * (axis + 1), (0,) * (x.rank - axis - 1)
    stuffed = Pad(column, (*before, 0, *after, *before, step - 1, *after), "constant", None)
    return Reshape(stuffed, (*shape[:axis], shape[axis] * step, *shape[axis + 1 :]))
