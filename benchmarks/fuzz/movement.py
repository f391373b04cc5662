"""What moves elements: transposes, reshapes, slices, concatenation, padding, gathering, scattering, resizing."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzz.build import Attributes, Builder, Extent, Tensor, broadcast
from benchmarks.fuzz.sizes import taken


def _fixed(t: Tensor) -> bool:
    """True where all extents are numbers."""
    return all(isinstance(e, int) for e in t.shape)


def transpose(b: Builder) -> bool:
    """Any permutation; the default reverses."""
    x = b.pick(lambda t: t.rank >= 2, text=True)
    if x is None:
        return False
    if b.chance(0.15):
        b.node("Transpose", [x], [(x.dtype, x.shape[::-1])])
        return True
    perm = [int(i) for i in b.rng.permutation(x.rank)]
    b.node("Transpose", [x], [(x.dtype, tuple(x.shape[i] for i in perm))], perm=perm)
    return True


def reshape(b: Builder) -> bool:
    """Reshape by constants with 0 and -1, Flatten, Squeeze, Unsqueeze; by a computed shape too."""
    x = b.pick(lambda t: b.elements(t.shape) > 0, text=True)
    if x is None:
        return False
    kind = b.integer(0, 4)
    ones = [i for i, e in enumerate(x.shape) if e == 1]
    if kind == 0 and x.rank < 5:
        axis = b.integer(0, x.rank)
        spelled = axis - x.rank - 1 if b.chance(0.4) else axis
        b.node("Unsqueeze", [x, b.ints([spelled])], [(x.dtype, (*x.shape[:axis], 1, *x.shape[axis:]))])
        return True
    if kind == 1 and ones:
        axis = b.choice(ones)
        b.node("Squeeze", [x, b.ints([axis])], [(x.dtype, (*x.shape[:axis], *x.shape[axis + 1 :]))])
        return True
    if kind == 2 and x.rank:
        axis = b.integer(0, x.rank)
        left, right = x.shape[:axis], x.shape[axis:]
        shape = (_product(b, left), _product(b, right))
        b.node("Flatten", [x], [(x.dtype, shape)], axis=axis)
        return True
    if kind == 3 and x.rank >= 2:  # [a, b, ...] by its own shape: the usual detour of exporters
        shape = b.node("Shape", [x], [("int64", (x.rank,))], visible=False)[0]
        first = b.node("Gather", [shape, b.ints([0])], [("int64", (1,))], visible=False, axis=0)[0]
        wanted = b.node("Concat", [first, b.ints([-1])], [("int64", (2,))], visible=False, axis=0)[0]
        b.node("Reshape", [x, wanted], [(x.dtype, (x.shape[0], _product(b, x.shape[1:])))])
        return True
    return _regroup(b, x)


def _regroup(b: Builder, x: Tensor) -> bool:
    """Leading axes as they are (0), the others in new groups; one of them -1."""
    kept = 0
    while kept < x.rank and (isinstance(x.shape[kept], str) or b.chance(0.3)):
        kept += 1
    if any(isinstance(e, str) for e in x.shape[kept:]):
        return False
    rest = int(np.prod(b.concrete(x.shape[kept:]), dtype=np.int64))
    extents: list[int] = []
    left = rest
    for _ in range(b.integer(0, 2)):
        divisor = b.choice([d for d in range(1, left + 1) if left % d == 0][:12])
        extents.append(divisor)
        left //= divisor
    extents.append(left)
    spelled = list(extents)
    if b.chance(0.5):
        spelled[b.integer(0, len(spelled) - 1)] = -1
    target = [0 if isinstance(e, str) or b.chance(0.5) else e for e in x.shape[:kept]] + spelled
    b.node("Reshape", [x, b.ints(target)], [(x.dtype, (*x.shape[:kept], *extents))])
    return True


def _product(b: Builder, shape: tuple[Extent, ...]) -> Extent:
    others = [e for e in shape if e != 1]
    if len(others) == 1:
        return others[0]
    return b.derived(b.elements(shape), *shape)


def slices(b: Builder) -> bool:
    """Slice with negative and huge bounds and steps; Split."""
    x = b.pick(lambda t: t.rank > 0, text=True)
    if x is None:
        return False
    axis = b.integer(0, x.rank - 1)
    size = b.size(x.shape[axis])
    if b.chance(0.3) and isinstance(x.shape[axis], int) and size >= 2:
        cut = b.integer(1, size - 1)
        parts = [(x.dtype, (*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in (cut, size - cut)]
        b.node("Split", [x, b.ints([cut, size - cut])], parts, axis=axis)
        return True
    step = b.choice((1, 1, 1, 2, 3, -1, -2))
    if isinstance(x.shape[axis], str):  # what is taken of an open axis depends on it
        start, end = b.choice(((0, 1), (-1, 2**62), (1, 2**62), (0, -1)))
        step = 1
    else:
        start, end = b.integer(-size - 2, size + 2), b.integer(-size - 2, size + 2)
        if step < 0 and b.chance(0.5):
            start, end = -1, -(2**62)
    extent = b.derived(taken(size, start, end, step), x.shape[axis])
    shape = (*x.shape[:axis], extent, *x.shape[axis + 1 :])
    operands = [x, b.ints([start]), b.ints([end]), b.ints([axis - x.rank if b.chance(0.3) else axis])]
    b.node("Slice", [*operands, b.ints([step])] if step != 1 or b.chance(0.5) else operands, [(x.dtype, shape)])
    return True


def concat(b: Builder) -> bool:
    """Two or three tensors that differ in one axis, or the same one again."""
    x = b.pick(lambda t: t.rank > 0, text=True)
    if x is None:
        return False
    axis = b.integer(0, x.rank - 1)

    def fits(t: Tensor) -> bool:
        return (
            t.dtype == x.dtype
            and t.rank == x.rank
            and all(e == f for i, (e, f) in enumerate(zip(t.shape, x.shape, strict=True)) if i != axis)
        )

    parts = [x]
    for _ in range(b.integer(1, 2)):
        other = b.pick(fits, text=True)
        if all(isinstance(e, int) for i, e in enumerate(x.shape) if i != axis) and b.chance(0.4):
            shape = [b.integer(1, 3) if i == axis else b.size(e) for i, e in enumerate(x.shape)]
            other = b.constant(b.values(x.dtype, shape))
        if other is not None:
            parts.append(other)
    extents = [t.shape[axis] for t in parts]
    total = b.derived(sum(map(b.size, extents)), *extents)
    shape = (*x.shape[:axis], total, *x.shape[axis + 1 :])
    b.node("Concat", parts, [(x.dtype, shape)], axis=axis - x.rank if b.chance(0.3) else axis)
    return True


def pad(b: Builder) -> bool:
    """Constant, edge and reflect padding."""
    x = b.pick(lambda t: t.rank > 0 and (t.is_float or t.dtype in ("int32", "int64")) and b.elements(t.shape) > 0)
    if x is None:
        return False
    mode = b.choice(("constant", "constant", "edge", "reflect"))
    before, after = [], []
    for extent in x.shape:
        most = min(3, b.size(extent) - 1) if mode == "reflect" else 3
        if isinstance(extent, str):
            most = 0
        before.append(b.integer(0, most))
        after.append(b.integer(0, most))
    if mode == "constant" and b.chance(0.2):
        axis = b.integer(0, x.rank - 1)
        if isinstance(x.shape[axis], int) and b.size(x.shape[axis]) > 1:
            before[axis] = -1
    shape = tuple(
        e if isinstance(e, str) else e + low + high for e, low, high in zip(x.shape, before, after, strict=True)
    )
    value = [b.constant(np.asarray(2, x.dtype))] if mode == "constant" and b.chance(0.5) else []
    b.node("Pad", [x, b.ints([*before, *after]), *value], [(x.dtype, shape)], mode=mode)
    return True


def gather(b: Builder) -> bool:
    """Gather, GatherElements, GatherND by constants, negative indices too."""
    x = b.pick(lambda t: t.rank > 0 and b.elements(t.shape) > 0, text=True)
    if x is None:
        return False
    axis = b.integer(0, x.rank - 1)
    extent = x.shape[axis]
    if not isinstance(extent, int):
        return False
    spelled = axis - x.rank if b.chance(0.3) else axis
    kind = b.integer(0, 2)
    if kind == 0 and all(isinstance(e, int) for e in x.shape):
        shape = tuple(b.integer(1, e) if i != axis else b.integer(1, 5) for i, e in enumerate(b.concrete(x.shape)))
        indices = b.constant(b.rng.integers(-extent, extent, shape))
        b.node("GatherElements", [x, indices], [(x.dtype, shape)], axis=spelled)
        return True
    if kind == 1 and isinstance(x.shape[0], int):
        depth = b.integer(1, min(2, x.rank))
        if all(isinstance(e, int) for e in x.shape[:depth]):
            count = b.integer(1, 4)
            columns = [b.rng.integers(-e, e, count) for e in b.concrete(x.shape[:depth])]
            indices = b.constant(np.stack(columns, -1).astype(np.int64))
            b.node("GatherND", [x, indices], [(x.dtype, (count, *x.shape[depth:]))])
            return True
    index_shape = b.choice(((), (1,), (3,), (2, 2)))
    array = np.asarray(b.rng.integers(-extent, extent, index_shape), b.choice((np.int64, np.int32)))
    indices = b.given(array, 0.6)
    b.node("Gather", [x, indices], [(x.dtype, (*x.shape[:axis], *index_shape, *x.shape[axis + 1 :]))], axis=spelled)
    return True


def scatter(b: Builder) -> bool:
    """ScatterElements and ScatterND with reductions."""
    x = b.pick(lambda t: t.rank > 0 and t.is_float and _fixed(t) and b.elements(t.shape) > 0)
    if x is None:
        return False
    sizes = b.concrete(x.shape)
    reductions = ("none", "add", "mul", *(("max", "min") if b.opset >= 18 else ())) if b.opset >= 16 else ("none",)
    reduction = b.choice(reductions)
    attributes = {"reduction": reduction} if reduction != "none" else {}
    if b.chance(0.5):
        axis = b.integer(0, x.rank - 1)
        shape = tuple(b.integer(1, e) for e in sizes)
        count = shape[axis]
        if reduction == "none":  # which of equal indices wins is not defined
            rows = np.broadcast_to(np.arange(sizes[axis]), (*shape[:axis], *shape[axis + 1 :], sizes[axis]))
            order = b.rng.permuted(rows, axis=-1)
            array = np.moveaxis(order[..., :count], -1, axis)
        else:
            array = b.rng.integers(-sizes[axis], sizes[axis], shape)
        updates = b.weights(shape, x.dtype)
        operands = [x, b.constant(np.ascontiguousarray(array, np.int64)), updates]
        b.node("ScatterElements", operands, [(x.dtype, x.shape)], axis=axis, **attributes)
        return True
    count = b.integer(1, sizes[0])
    rows = b.rng.permutation(sizes[0])[:count] if reduction == "none" else b.rng.integers(0, sizes[0], count)
    updates = b.weights((count, *sizes[1:]), x.dtype)
    operands = [x, b.constant(np.asarray(rows, np.int64).reshape(count, 1)), updates]
    b.node("ScatterND", operands, [(x.dtype, x.shape)], **attributes)
    return True


def expand(b: Builder) -> bool:
    """Expand and Tile."""
    x = b.pick(_fixed, text=True)
    if x is None:
        return False
    if b.chance(0.5) and x.rank:
        counts = [b.integer(1, 3) if b.chance(0.4) else 1 for _ in x.shape]
        shape = tuple(e * n for e, n in zip(b.concrete(x.shape), counts, strict=True))
        b.node("Tile", [x, b.ints(counts)], [(x.dtype, shape)])
        return True
    target = [b.integer(1, 4) if e == 1 else b.choice((1, e)) for e in b.concrete(x.shape)]
    if b.chance(0.3) and x.rank < 4:
        target = [b.integer(1, 3), *target]
    shape = broadcast(b, x.shape, tuple(target))
    if shape is None or b.elements(shape) > b.limit:
        return False
    b.node("Expand", [x, b.ints(target)], [(x.dtype, shape)])
    return True


def images(b: Builder) -> bool:
    """DepthToSpace, SpaceToDepth, Resize, Trilu."""
    x = b.pick(lambda t: t.rank == 4 and t.dtype == "float32" and _fixed(t) and b.elements(t.shape) > 0)
    kind = b.integer(0, 3)
    if kind == 3:
        x = b.pick(lambda t: t.rank >= 2 and t.is_float)
        if x is None or b.opset < 14:
            return False
        b.node("Trilu", [x, b.ints([b.integer(-2, 2)], scalar=True)], [(x.dtype, x.shape)], upper=b.integer(0, 1))
        return True
    if x is None:
        return False
    n, c, h, w = b.concrete(x.shape)
    if kind == 0 and c % 4:  # as many channels as it takes
        grown = (n, 4 * c, h, w)
        x = b.node("Tile", [x, b.ints([1, 4, 1, 1])], [(x.dtype, grown)], visible=False)[0]
        c *= 4
    if kind == 0:
        b.node("DepthToSpace", [x], [(x.dtype, (n, c // 4, 2 * h, 2 * w))], blocksize=2, mode=b.choice(("DCR", "CRD")))
        return True
    if kind == 1 and h % 2 == 0 and w % 2 == 0:
        b.node("SpaceToDepth", [x], [(x.dtype, (n, 4 * c, h // 2, w // 2))], blocksize=2)
        return True
    factor = b.choice((2.0, 3.0, 0.5))
    if int(h * factor) < 1 or int(w * factor) < 1 or (factor < 1 and (h % 2 or w % 2)):
        return False  # whether a length that is no whole number is rounded first is not told
    scales = b.constant(np.array([1, 1, factor, factor], np.float32))
    mode = b.choice(("nearest", "linear", "cubic"))
    where = b.choice(("half_pixel", "asymmetric", "align_corners") if mode != "nearest" else ("asymmetric",))
    nearest: Attributes = {"nearest_mode": "floor"} if mode == "nearest" else {}
    b.node("Resize", [x, None, scales], [(x.dtype, (n, c, int(h * factor), int(w * factor)))], mode=mode,
           coordinate_transformation_mode=where, **nearest)  # fmt: skip
    return True
