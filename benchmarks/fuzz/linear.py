"""Products, convolutions, pooling and recurrent layers."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzz.build import Attributes, Builder, Extent, Tensor


def matmul(b: Builder) -> bool:
    """MatMul with weights or another tensor, Gemm, Einsum."""
    x = b.pick(lambda t: t.is_float and t.rank >= 1 and isinstance(t.shape[-1], int))
    if x is None:
        return False
    K, N = b.size(x.shape[-1]), b.extent()
    kind = b.integer(0, 4)
    if kind == 0 and x.rank == 2:
        return _gemm(b, x, K, N)
    if kind == 1:
        other = b.pick(lambda t: t.dtype == x.dtype and t.rank == x.rank >= 2 and t.shape[:-1] == x.shape[:-1])
        if other is not None:  # x^T @ other
            perm = (*range(x.rank - 2), x.rank - 1, x.rank - 2)
            turned = b.node("Transpose", [x], [(x.dtype, tuple(x.shape[p] for p in perm))], visible=False, perm=perm)[0]
            b.node("MatMul", [turned, other], [(x.dtype, (*turned.shape[:-1], other.shape[-1]))])
            return True
    if kind == 2 and x.rank == 3 and x.dtype != "float16":
        w = b.weights((K, N), x.dtype, K**-0.5 if K else 1)
        b.node("Einsum", [x, w], [(x.dtype, (*x.shape[:-1], N))], equation="bik,kj->bij")
        return True
    scale = K**-0.5 if K else 1.0
    if x.rank >= 3 and isinstance(x.shape[0], int) and b.chance(0.3):
        w = b.weights((b.size(x.shape[0]), *([1] * (x.rank - 3)), K, N), x.dtype, scale)
    elif b.chance(0.1):
        w = b.weights((K,), x.dtype, scale)
        b.node("MatMul", [x, w], [(x.dtype, x.shape[:-1])])
        return True
    else:
        w = b.weights((K, N), x.dtype, scale)
    b.node("MatMul", [x, w], [(x.dtype, (*x.shape[:-1], N))])
    return True


def _gemm(b: Builder, x: Tensor, K: int, N: int) -> bool:
    turned = b.chance(0.5)
    w = b.weights((N, K) if turned else (K, N), x.dtype, K**-0.5 if K else 1)
    c = b.weights(b.choice(((N,), (1, N), (1,), ())), x.dtype) if b.chance(0.7) else None
    attributes: Attributes = {"transB": 1} if turned else {}
    if b.chance(0.4):
        attributes |= {"alpha": 0.75, "beta": 1.5}
    b.node("Gemm", [x, w, c], [(x.dtype, (x.shape[0], N))], **attributes)
    return True


def _window(
    b: Builder, extent: Extent, kernel: int, stride: int, dilation: int, pads: tuple[int, int]
) -> Extent | None:
    """The extent after a sliding window, None where none fits."""
    size = b.size(extent) + sum(pads) - dilation * (kernel - 1) - 1
    return b.derived(size // stride + 1, extent) if size >= 0 else None


def _spatial(b: Builder, most: int = 2) -> Tensor | None:
    return b.pick(
        lambda t: t.is_float and 3 <= t.rank <= 2 + most and isinstance(t.shape[1], int) and b.elements(t.shape) > 0
    )


def conv(b: Builder) -> bool:
    """Conv with groups, strides, dilations and pads, maybe followed by what is fused with it."""
    x = _spatial(b)
    if x is None or b.special:  # Winograd's transforms spread infinities over tiles
        return False
    count = x.rank - 2
    kernel = [b.integer(1, 3) for _ in range(count)]
    strides = [b.choice((1, 1, 2)) for _ in range(count)]
    dilations = [b.choice((1, 1, 1, 2)) for _ in range(count)]
    pads = [b.integer(0, 2) for _ in range(2 * count)]
    spatial: list[Extent] = []
    for i in range(count):
        extent = _window(b, x.shape[2 + i], kernel[i], strides[i], dilations[i], (pads[i], pads[count + i]))
        if extent is None:
            return False
        spatial.append(extent)
    channels = b.size(x.shape[1])
    group = b.choice([g for g in range(1, channels + 1) if channels % g == 0]) if b.chance(0.4) else 1
    out = group * b.integer(1, 4 if group > 1 else 17)
    fan_in = channels // group * int(np.prod(kernel))
    w = b.weights((out, channels // group, *kernel), x.dtype, fan_in**-0.5)
    bias = b.weights((out,), x.dtype) if b.chance(0.6) else None
    y = b.node(
        "Conv", [x, w, bias], [(x.dtype, (x.shape[0], out, *spatial))],
        strides=strides, dilations=dilations, pads=pads, group=group,
    )[0]  # fmt: skip
    if b.chance(0.4):
        b.unary(b.choice(("Relu", "Sigmoid", "HardSwish" if b.opset >= 14 else "Tanh", "LeakyRelu")), y)
    return True


def conv_transpose(b: Builder) -> bool:
    """ConvTranspose with strides and pads."""
    x = _spatial(b)
    if x is None or x.dtype == "float16" or b.special:  # the zeros between the elements meet infinities
        return False
    count = x.rank - 2
    kernel = [b.integer(1, 3) for _ in range(count)]
    strides = [b.choice((1, 2)) for _ in range(count)]
    pads = [b.integer(0, (k - 1) // 2) for k in kernel] * 2
    channels, out = b.size(x.shape[1]), b.integer(1, 5)
    spatial = [
        b.derived((b.size(x.shape[2 + i]) - 1) * strides[i] + kernel[i] - pads[i] - pads[count + i], x.shape[2 + i])
        for i in range(count)
    ]
    if any(b.size(e) < 1 for e in spatial):
        return False
    w = b.weights((channels, out, *kernel), x.dtype, (channels * int(np.prod(kernel))) ** -0.5)
    b.node("ConvTranspose", [x, w], [(x.dtype, (x.shape[0], out, *spatial))], strides=strides, pads=pads)
    return True


def pool(b: Builder) -> bool:
    """Max and average pooling, global too."""
    x = _spatial(b)
    if x is None or (b.special and x.dtype == "float16"):
        return False
    count = x.rank - 2
    if b.chance(0.2):
        b.node(b.choice(("GlobalAveragePool", "GlobalMaxPool")), [x], [(x.dtype, (*x.shape[:2], *([1] * count)))])
        return True
    kernel = [b.integer(1, 3) for _ in range(count)]
    strides = [b.choice((1, 2)) for _ in range(count)]
    pads = [b.integer(0, k // 2) for k in kernel] * 2
    spatial: list[Extent] = []
    for i in range(count):
        extent = _window(b, x.shape[2 + i], kernel[i], strides[i], 1, (pads[i], pads[count + i]))
        if extent is None:
            return False
        spatial.append(extent)
    op = b.choice(("MaxPool", "AveragePool"))
    include: Attributes = {"count_include_pad": b.integer(0, 1)} if op == "AveragePool" else {}
    shape = (*x.shape[:2], *spatial)
    b.node(op, [x], [(x.dtype, shape)], kernel_shape=kernel, strides=strides, pads=pads, **include)
    return True


ACTIVATIONS = ("Tanh", "Sigmoid", "Relu", "Softsign", "Softplus", "HardSigmoid", "Elu", "LeakyRelu")
LAYERS = {"LSTM": (4, 3), "GRU": (3, 2), "RNN": (1, 1)}
"""Gates, and activations of one direction."""


def recurrent(b: Builder) -> bool:
    """LSTM, GRU and RNN in all directions; with lengths, states from before, other activations, limits, peepholes."""
    x = b.pick(lambda t: t.dtype in ("float32", "float64") and t.rank == 3 and b.elements(t.shape) > 0)
    if x is None or isinstance(x.shape[2], str) or b.special or b.depth:
        return False
    op = b.choice(tuple(LAYERS))
    gates, functions = LAYERS[op]
    hidden = b.choice((1, 3, 4, 8, 17))
    direction, count = b.choice((("forward", 1), ("reverse", 1), ("bidirectional", 2)))
    size = b.size(x.shape[2])
    batch_first = b.opset >= 14 and b.chance(0.15)
    length, batch = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    operands: list[Tensor | None] = [
        x,
        b.weights((count, gates * hidden, size), x.dtype, size**-0.5),
        b.weights((count, gates * hidden, hidden), x.dtype, hidden**-0.5),
        b.weights((count, 2 * gates * hidden), x.dtype) if b.chance(0.6) else None,
    ]
    attributes: Attributes = {"hidden_size": hidden, "direction": direction}
    states = (batch, count, hidden) if batch_first else (count, batch, hidden)
    if isinstance(batch, int) and b.chance(0.5):
        lengths = b.rng.integers(1, b.size(length) + 1, batch).astype(np.int32) if b.chance(0.5) else None
        operands.append(None if lengths is None or isinstance(length, str) else b.given(lengths))
        for _ in range(2 if op == "LSTM" else 1):
            given = np.asarray(b.rng.standard_normal(b.concrete(states)) * 0.5, x.dtype)
            operands.append(b.given(given) if b.chance(0.6) else None)
        if op == "LSTM" and b.chance(0.4):
            operands.append(b.weights((count, 3 * hidden), x.dtype))
    if op == "GRU" and b.chance(0.5):
        attributes["linear_before_reset"] = 1
    if b.chance(0.25):
        attributes["activations"] = [b.choice(ACTIVATIONS) for _ in range(functions * count)]
    if b.chance(0.15):
        attributes["clip"] = 0.75
    if batch_first:
        attributes["layout"] = 1
    every = (batch, length, count, hidden) if batch_first else (length, count, batch, hidden)
    results = [(x.dtype, every), (x.dtype, states), *([(x.dtype, states)] if op == "LSTM" else [])]
    unused = b.integer(0, 1) if b.chance(0.3) else 0
    b.node(op, operands, results[unused:], unused=unused, **attributes)
    return True
