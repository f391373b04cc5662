"""Reductions, arg, cumulative sums, softmax and normalisations."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzz.build import Attributes, Builder, Extent, Tensor

OPS = (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSumExp",
)  # fmt: skip


def reduced(b: Builder, x: Tensor, axes: set[int], keep: bool) -> tuple[Extent, ...]:
    """The shape after a reduction."""
    return tuple(1 if i in axes else e for i, e in enumerate(x.shape) if keep or i not in axes)


def reduce(b: Builder) -> bool:
    """Over some axes, negative ones too, or all."""
    x = b.pick(lambda t: (t.is_float or t.dtype in ("int32", "int64")) and b.elements(t.shape) > 0)
    if x is None:
        return False
    op = b.choice(OPS if x.is_float else ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"))
    if op == "ReduceProd" and not b.special and x.is_float:
        x = b.unary("Tanh", x, visible=False)
    keep = b.chance(0.5)
    every = b.chance(0.2) or x.rank == 0
    axes = set(range(x.rank)) if every else {i for i in range(x.rank) if b.chance(0.45)} or {x.rank - 1}
    listed = [a - x.rank if b.chance(0.3) else a for a in sorted(axes)]
    as_input = b.opset >= 18 or op == "ReduceSum"
    operands: list[Tensor | None] = [x]
    attributes: Attributes = {"keepdims": int(keep)} if not keep or b.chance(0.5) else {}
    if not every:
        if as_input:
            operands.append(b.ints(listed))
        else:
            attributes["axes"] = listed
    b.node(op, operands, [(x.dtype, reduced(b, x, axes, keep))], **attributes)
    return True


def arg(b: Builder) -> bool:
    """ArgMax, ArgMin, TopK, CumSum along an axis."""
    x = b.pick(lambda t: t.rank > 0 and (t.is_float or t.dtype in ("int32", "int64")) and b.elements(t.shape) > 0)
    if x is None or (b.special and x.is_float):
        return False
    axis = b.integer(0, x.rank - 1)
    spelled = axis - x.rank if b.chance(0.3) else axis
    op = b.choice(("ArgMax", "ArgMin", "TopK", "CumSum"))
    if op == "CumSum":
        flags: Attributes = {"exclusive": b.integer(0, 1), "reverse": b.integer(0, 1)}
        b.node(op, [x, b.ints([spelled], scalar=True)], [(x.dtype, x.shape)], **flags)
        return True
    if op == "TopK":
        extent = x.shape[axis]
        if not isinstance(extent, int):
            return False
        k = b.integer(1, extent)
        shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
        b.node(op, [x, b.ints([k])], [(x.dtype, shape), ("int64", shape)], axis=spelled, largest=b.integer(0, 1))
        return True
    keep = b.chance(0.5)
    last: Attributes = {"select_last_index": 1} if b.chance(0.3) else {}
    b.node(op, [x], [("int64", reduced(b, x, {axis}, keep))], axis=spelled, keepdims=int(keep), **last)
    return True


def softmax(b: Builder) -> bool:
    """Softmax and its relatives along any axis."""
    x = b.pick(lambda t: t.is_float and t.rank > 0 and b.elements(t.shape) > 0)
    if x is None:
        return False
    axis: Attributes = {"axis": b.integer(-x.rank, x.rank - 1)} if b.chance(0.8) else {}
    if b.chance(0.15) and x.dtype != "float16":
        # onnx.reference takes the sum of the numbers for the norm of order 1, not of their magnitudes.
        b.unary("LpNormalization", x, **axis)
    else:
        b.unary(b.choice(("Softmax", "Softmax", "LogSoftmax")), x, **axis)
    return True


def layer_norm(b: Builder) -> bool:
    """LayerNormalization, or its parts as exporters spell them."""
    x = b.pick(lambda t: t.is_float and t.rank > 0 and isinstance(t.shape[-1], int) and b.elements(t.shape) > 0)
    if x is None or not isinstance(extent := x.shape[-1], int) or extent < 2:
        return False
    scale = b.weights((extent,), x.dtype)
    bias = b.weights((extent,), x.dtype)
    if b.opset >= 17 and b.chance(0.5):
        b.node("LayerNormalization", [x, scale, bias if b.chance(0.7) else None], [(x.dtype, x.shape)], axis=-1)
        return True
    row = (*x.shape[:-1], 1)

    def mean(t: Tensor) -> Tensor:
        if b.opset >= 18:
            return b.node("ReduceMean", [t, b.ints([-1])], [(x.dtype, row)], visible=False)[0]
        return b.node("ReduceMean", [t], [(x.dtype, row)], visible=False, axes=[-1])[0]

    def apply(op: str, *operands: Tensor, shape: tuple[Extent, ...] = x.shape) -> Tensor:
        return b.node(op, operands, [(x.dtype, shape)], visible=False)[0]

    centred = apply("Sub", x, mean(x))
    two = b.constant(np.asarray(2, x.dtype))
    squared = apply("Mul", centred, centred) if b.chance(0.5) else apply("Pow", centred, two)
    root = apply("Sqrt", apply("Add", mean(squared), b.constant(np.asarray(1e-2, x.dtype)), shape=row), shape=row)
    normal = apply("Div", centred, root)
    b.node("Add", [apply("Mul", normal, scale), bias], [(x.dtype, x.shape)])
    return True


def channel_norm(b: Builder) -> bool:
    """BatchNormalization, InstanceNormalization, GroupNormalization over axis 1."""
    x = b.pick(lambda t: t.is_float and t.rank >= 3 and isinstance(t.shape[1], int) and b.elements(t.shape) > 0)
    if x is None:
        return False
    channels = b.size(x.shape[1])
    scale, bias = b.weights((channels,), x.dtype), b.weights((channels,), x.dtype)
    if int(np.prod(b.concrete(x.shape[2:]))) > 2 and b.chance(0.4):
        if b.opset >= 21 and b.chance(0.5):
            groups = b.choice([g for g in range(1, channels + 1) if channels % g == 0])
            b.node("GroupNormalization", [x, scale, bias], [(x.dtype, x.shape)], num_groups=groups, epsilon=1e-2)
        else:
            b.node("InstanceNormalization", [x, scale, bias], [(x.dtype, x.shape)], epsilon=1e-2)
        return True
    mean = b.weights((channels,), x.dtype)
    var = b.constant(np.abs(b.rng.standard_normal(channels)).astype(x.dtype) + np.asarray(0.5, x.dtype))
    b.node("BatchNormalization", [x, scale, bias, mean, var], [(x.dtype, x.shape)])
    return True
