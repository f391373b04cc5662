"""Sizes that come from data: what is found, what an input asks for, shapes that are computed."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzz.build import Array, Attributes, Builder, Extent, Shape, Tensor, broadcast, replaced


def from_data(b: Builder) -> bool:
    """One of the operators below."""
    makers = (_non_zero, _compress, _unique, _suppressed, _top, _sliced, _reshaped, _tiled, _expanded, _padded, _split)
    return bool(b.choice((*makers, _masked, _centred))(b))


def _mask(b: Builder, shape: tuple[int, ...]) -> tuple[Tensor, Array]:
    """Bools whose values are known: given, or compared or negated in the model."""
    kind = b.integer(0, 2)
    if kind == 0:
        array = b.rng.random(shape) < b.choice((0.0, 0.3, 0.7, 1.0))
        mask = b.given(array, 0.2)
        if b.chance(0.5):
            return b.node("Not", [mask], [("bool", shape)])[0], ~array
        return mask, array
    numbers = np.asarray(b.rng.integers(-3, 4, shape), b.choice((np.float32, np.int64, np.int32)))
    given = b.given(numbers, 0.2)
    if kind == 1:
        bound = b.integer(-4, 4)
        right = b.constant(np.asarray(bound, numbers.dtype))
        return b.node("Greater", [given, right], [("bool", shape)])[0], numbers > bound
    return b.node("Cast", [given], [("bool", shape)], to=9)[0], numbers != 0


def _non_zero(b: Builder) -> bool:
    """NonZero, maybe followed by a gather of what it found."""
    shape = b.shape(b.integer(1, 3))
    mask, array = _mask(b, shape)
    places = np.stack(np.nonzero(array))
    count = b.found(places.shape[1])
    found = b.node("NonZero", [mask], [("int64", (len(shape), count))])[0]
    if b.chance(0.5):
        turned = b.node("Transpose", [found], [("int64", (count, len(shape)))], visible=False, perm=[1, 0])[0]
        x = b.pick(lambda t: t.rank >= len(shape) and t.shape[: len(shape)] == shape)
        x = x or b.weights(shape)
        b.node("GatherND", [x, turned], [(x.dtype, (count, *x.shape[len(shape) :]))])
    return True


def _masked(b: Builder) -> bool:
    """A value for the chosen places alone: NonZero and ScatterND."""
    x = b.pick(lambda t: t.is_float and t.rank >= 1 and _fixed(t.shape) and b.elements(t.shape) > 0)
    if x is None:
        return False
    shape = b.concrete(x.shape)
    mask, array = _mask(b, shape)
    count = b.found(int(array.sum()))
    found = b.node("NonZero", [mask], [("int64", (x.rank, count))], visible=False)[0]
    turned = b.node("Transpose", [found], [("int64", (count, x.rank))], visible=False, perm=[1, 0])[0]
    taken = b.node("GatherND", [x, turned], [(x.dtype, (count,))])[0]
    changed = b.unary(b.choice(("Neg", "Tanh", "Abs")), taken)
    b.node("ScatterND", [x, turned, changed], [(x.dtype, x.shape)])
    return True


def _compress(b: Builder) -> bool:
    """Compress along an axis or of all elements; a condition that is too short."""
    x = b.pick(lambda t: t.rank > 0 and b.elements(t.shape) > 0, text=True)
    if x is None:
        return False
    if b.chance(0.3):
        size = b.elements(x.shape)
        mask, array = _mask(b, (b.integer(1, size),))
        b.node("Compress", [x, mask], [(x.dtype, (b.found(int(array.sum())),))])
        return True
    axis = b.integer(0, x.rank - 1)
    mask, array = _mask(b, (b.integer(1, b.size(x.shape[axis])),))
    shape = replaced(x.shape, axis, b.found(int(array.sum())))
    b.node("Compress", [x, mask], [(x.dtype, shape)], axis=axis - x.rank if b.chance(0.3) else axis)
    return True


def _unique(b: Builder) -> bool:
    """Unique elements or slices of small numbers, all four results or some."""
    shape = b.shape(b.integer(1, 2))
    axis = b.integer(0, len(shape) - 1) if b.chance(0.4) else None
    if 0 in shape or (axis is not None and np.prod(shape) > 24):
        return False
    array = np.asarray(b.rng.integers(-2, 3, shape), b.choice((np.float32, np.int64, np.int8)))
    _, first, inverse, counts = np.unique(array, True, True, True, axis=axis)
    count = b.found(len(counts))
    values = ("int64", (count,)), ("int64", (inverse.size,)), ("int64", (count,))
    result: Shape = (count,) if axis is None else replaced(shape, axis, count)
    attributes: Attributes = {} if axis is None else {"axis": axis - len(shape) if b.chance(0.3) else axis}
    if b.chance(0.4):
        attributes["sorted"] = 0
    kept = b.integer(1, 4)
    b.node("Unique", [b.given(array, 0.2)], [(str(array.dtype), result), *values][:kept], **attributes)
    assert len(first) == len(counts)
    return True


def suppression(
    boxes: Array, scores: Array, most: int, overlap: float, threshold: float | None, center: bool
) -> int:
    """How many boxes greedy suppression keeps (ONNX NonMaxSuppression)."""
    if center:
        middle, extent = boxes[..., :2], boxes[..., 2:]
        low, high = middle - extent / 2, middle + extent / 2
    else:
        low, high = np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])
    total = 0
    for n, c in np.ndindex(scores.shape[:2]):
        order = np.argsort(-scores[n, c], kind="stable")
        kept: list[int] = []
        for i in order:
            if len(kept) == most or (threshold is not None and scores[n, c, i] <= threshold):
                break
            shares: list[float] = []
            for j in kept:
                side = np.maximum(np.minimum(high[n, i], high[n, j]) - np.maximum(low[n, i], low[n, j]), 0)
                common = float(side.prod())
                both = float((high[n, i] - low[n, i]).prod() + (high[n, j] - low[n, j]).prod()) - common
                shares.append(common / both if both > 0 else 0.0)
            if all(share <= overlap for share in shares):
                kept.append(int(i))
        total += len(kept)
    return total


def _suppressed(b: Builder) -> bool:
    batches, classes, count = b.integer(1, 2), b.integer(1, 3), b.integer(1, 9)
    center = b.chance(0.4)
    corner = b.rng.random((batches, count, 2))
    extent = b.rng.uniform(0.1, 0.6, (batches, count, 2))
    boxes = np.concatenate([corner, extent if center else corner + extent], -1).astype(np.float32)
    scores = b.rng.permuted(np.linspace(0.05, 0.95, batches * classes * count)).astype(np.float32)
    scores = scores.reshape(batches, classes, count)
    most, overlap = b.integer(1, count), float(np.float32(b.choice((0.15, 0.35, 0.6))))
    threshold = float(np.float32(b.choice((0.2, 0.5)))) if b.chance(0.5) else None
    found = suppression(boxes.astype(np.float64), scores, most, overlap, threshold, center)
    operands: list[Tensor | None] = [b.given(boxes, 0.1), b.given(scores, 0.1), b.given(np.array([most], np.int64))]
    operands.append(b.constant(np.array([overlap], np.float32)))
    operands.append(None if threshold is None else b.constant(np.array([threshold], np.float32)))
    attributes: Attributes = {"center_point_box": 1} if center else {}
    b.node("NonMaxSuppression", operands, [("int64", (b.found(found), 3))], **attributes)
    return True


def _top(b: Builder) -> bool:
    """TopK of as many as an input says, along any axis."""
    x = b.pick(lambda t: t.rank > 0 and (t.is_float or t.dtype in ("int32", "int64")) and b.elements(t.shape) > 0)
    if x is None or (b.special and x.is_float):
        return False
    axis = b.integer(0, x.rank - 1)
    k = b.integer(0, b.size(x.shape[axis]))
    shape = replaced(x.shape, axis, b.found(k))
    b.node("TopK", [x, b.given(np.array([k], np.int64))], [(x.dtype, shape), ("int64", shape)], axis=axis,
           largest=b.integer(0, 1))  # fmt: skip
    return True


def _sliced(b: Builder) -> bool:
    """Slice by bounds that are inputs."""
    x = b.pick(lambda t: t.rank > 0, text=True)
    if x is None:
        return False
    axis, step = b.integer(0, x.rank - 1), b.choice((1, 1, 1, 2, -1, -2))
    size = b.size(x.shape[axis])
    start, end = b.integer(-size - 2, size + 2), b.integer(-size - 2, size + 2)
    shape = replaced(x.shape, axis, b.found(taken(size, start, end, step)))
    dtype = b.choice((np.int64, np.int32))
    operands = [x, b.given(np.array([start], dtype)), b.given(np.array([end], dtype))]
    b.node("Slice", [*operands, b.constant(np.array([axis], dtype)), b.constant(np.array([step], dtype))],
           [(x.dtype, shape)])  # fmt: skip
    return True


def taken(size: int, start: int, end: int, step: int) -> int:
    """How many elements Slice takes: bounds are clamped as the standard says, not as Python does."""
    first, last = (0, size) if step > 0 else (0, size - 1)
    start = min(max(start + size if start < 0 else start, first), last)
    end = min(max(end + size if end < 0 else end, first if step > 0 else -1), last)
    return max(-((start - end) // step), 0) if size else 0


def _reshaped(b: Builder) -> bool:
    """Reshape to a shape that is an input, or made of another shape by arithmetic."""
    x = b.pick(lambda t: b.elements(t.shape) > 0, text=True)
    if x is None:
        return False
    total = b.elements(x.shape)
    divisor = b.choice([d for d in range(1, total + 1) if total % d == 0][:10])
    if b.chance(0.5):
        rows, columns = b.found(divisor), b.found(total // divisor)
        target = b.given(np.array([divisor, -1 if b.chance(0.5) else total // divisor], np.int64), 0.2)
        b.node("Reshape", [x, target], [(x.dtype, (rows, columns))])
        return True
    size = b.node("Size", [x], [("int64", ())], visible=False)[0]
    count = b.constant(np.asarray(divisor, np.int64))
    rest = b.node("Div", [size, count], [("int64", ())], visible=False)[0]
    parts = [b.node("Unsqueeze", [t, b.ints([0])], [("int64", (1,))], visible=False)[0] for t in (count, rest)]
    target = b.node("Concat", parts, [("int64", (2,))], visible=False, axis=0)[0]
    b.node("Reshape", [x, target], [(x.dtype, (divisor, b.derived(total // divisor, *x.shape)))])
    return True


def _tiled(b: Builder) -> bool:
    x = b.pick(lambda t: 0 < t.rank <= 4, text=True)
    if x is None:
        return False
    counts = [b.integer(0, 3) if b.chance(0.4) else 1 for _ in x.shape]
    shape = tuple(b.found(e * n) for e, n in zip(b.concrete(x.shape), counts, strict=True))
    b.node("Tile", [x, b.given(np.array(counts, np.int64))], [(x.dtype, shape)])
    return True


def _expanded(b: Builder) -> bool:
    """Expand to an input's numbers or another tensor's shape."""
    x = b.pick(lambda t: t.rank <= 4, text=True)
    if x is None:
        return False
    other = b.pick(lambda t: broadcast(b, t.shape, x.shape) is not None, text=True)
    if other is not None and b.chance(0.5):
        shape = broadcast(b, other.shape, x.shape)
        assert shape is not None
        asked = b.node("Shape", [other], [("int64", (other.rank,))], visible=False)[0]
        b.node("Expand", [x, asked], [(x.dtype, shape)])
        return True
    sizes = b.concrete(x.shape)
    # An open axis is not stretched where it happens to be 1: a compiled model refuses that.
    target = [b.integer(1, 3) if e == 1 else b.choice((1, n)) for e, n in zip(x.shape, sizes, strict=True)]
    if b.chance(0.3):
        target = [b.integer(1, 3), *target]
    result = np.broadcast_shapes(sizes, tuple(target))
    if np.prod(result, dtype=np.int64) > b.limit:
        return False
    extents: tuple[Extent, ...] = tuple(b.found(e) for e in result)
    b.node("Expand", [x, b.given(np.array(target, np.int64), 0.2)], [(x.dtype, extents)])
    return True


def _padded(b: Builder) -> bool:
    """Pad by an input."""
    x = b.pick(lambda t: 0 < t.rank <= 4 and t.is_float and b.elements(t.shape) > 0)
    if x is None:
        return False
    pads = [b.integer(0, 2) for _ in range(2 * x.rank)]
    sizes = b.concrete(x.shape)
    shape = tuple(b.found(e + pads[i] + pads[x.rank + i]) for i, e in enumerate(sizes))
    b.node("Pad", [x, b.given(np.array(pads, np.int64), 0.2)], [(x.dtype, shape)], mode=b.choice(("constant", "edge")))
    return True


def _split(b: Builder) -> bool:
    """Split in two by an input, or in equal parts by their number."""
    x = b.pick(lambda t: t.rank > 0, text=True)
    if x is None:
        return False
    axis = b.integer(0, x.rank - 1)
    size = b.size(x.shape[axis])
    if b.opset >= 18 and size >= 2 and b.chance(0.5):
        count = b.integer(1, min(size, 4))
        part = -(-size // count)
        if part * (count - 1) >= size:
            return False
        sizes = [part] * (count - 1) + [size - part * (count - 1)]
        extents = [b.derived(n, x.shape[axis]) for n in sizes]
        b.node("Split", [x], [(x.dtype, replaced(x.shape, axis, e)) for e in extents], axis=axis, num_outputs=count)
        return True
    cut = b.integer(0, size)
    parts = [(x.dtype, replaced(x.shape, axis, b.found(n))) for n in (cut, size - cut)]
    b.node("Split", [x, b.given(np.array([cut, size - cut], np.int64), 0.2)], parts, axis=axis)
    return True


def _centred(b: Builder) -> bool:
    """CenterCropPad of some axes."""
    x = b.pick(lambda t: 0 < t.rank <= 4 and _fixed(t.shape) and b.elements(t.shape) > 0 and t.dtype != "bool")
    if x is None or b.opset < 18:
        return False
    axes = [i for i in range(x.rank) if b.chance(0.6)] or [0]
    target = [b.integer(1, 6) for _ in axes]
    shape = tuple(target[axes.index(i)] if i in axes else e for i, e in enumerate(x.shape))
    given: Attributes = {"axes": axes} if len(axes) < x.rank or b.chance(0.5) else {}
    b.node("CenterCropPad", [x, b.ints(target)], [(x.dtype, shape)], **given)
    return True


def _fixed(shape: Shape) -> bool:
    return all(isinstance(e, int) for e in shape)
