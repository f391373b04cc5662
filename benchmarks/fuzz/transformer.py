"""What language models are made of: attention in all its forms, rotary embeddings, caches, linear attention."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzz.build import Array, Attributes, Builder, Tensor


def attention(b: Builder) -> bool:
    """softmax(q k^T * scale + mask) v as exporters write it, or one of the operators."""
    if b.chance(0.5):
        makers = (_operator, _operator, _rotary, _rms_norm, _cache, _linear, _causal, _gated)
        return bool(b.choice(makers)(b))
    return _written_out(b)


def _written_out(b: Builder) -> bool:
    q = b.pick(lambda t: t.is_float and t.rank in (3, 4) and isinstance(t.shape[-1], int) and b.elements(t.shape) > 0)
    if q is None:
        return False
    like = (q.dtype, q.shape[:-2], q.shape[-1])
    keys = b.pick(lambda t: t.rank == q.rank and (t.dtype, t.shape[:-2], t.shape[-1]) == like)
    k = keys if keys is not None and b.chance(0.5) else q
    v = k if b.chance(0.7) else b.unary("Tanh", k, visible=False)
    perm = (*range(q.rank - 2), q.rank - 1, q.rank - 2)
    turned = b.node("Transpose", [k], [(k.dtype, tuple(k.shape[p] for p in perm))], visible=False, perm=perm)[0]
    square = (*q.shape[:-1], k.shape[-2])
    scores = b.node("MatMul", [q, turned], [(q.dtype, square)], visible=False)[0]
    scale = b.constant(np.asarray(max(b.size(q.shape[-1]), 1) ** -0.5, q.dtype))
    scores = b.node("Mul", [scores, scale], [(q.dtype, square)], visible=False)[0]
    if b.chance(0.4) and isinstance(square[-1], int):
        mask = b.constant(np.where(b.rng.random(square[-1]) < 0.3, -1e4, 0).astype(q.dtype))
        scores = b.node("Add", [scores, mask], [(q.dtype, square)], visible=False)[0]
    weights = b.unary("Softmax", scores, visible=b.chance(0.2), axis=-1)
    b.node("MatMul", [weights, v], [(q.dtype, (*q.shape[:-1], v.shape[-1]))])
    return True


def _numbers(b: Builder, *shape: int) -> Tensor:
    """An input or weights of moderate size."""
    array: Array = np.asarray(b.rng.standard_normal(shape) * 0.7, b.float_type)
    return b.given(array, 0.1)


def _operator(b: Builder) -> bool:
    """Attention (opset 23): of heads or packed, grouped, causal, masked, with a cache, with a cap."""
    if b.opset < 23:
        return False
    batch, groups, width, depth = b.integer(1, 2), b.integer(1, 2), b.choice((1, 2, 4, 8)), b.choice((1, 3, 4))
    heads = groups * b.integer(1, 3)
    queries, keys = b.integer(1, 5), b.integer(1, 6)
    packed = b.chance(0.4)
    past = b.integer(1, 4) if b.chance(0.3) else 0

    def part(count: int, length: int, size: int) -> Tensor:
        return _numbers(b, batch, length, count * size) if packed else _numbers(b, batch, count, length, size)

    operands: list[Tensor | None] = [part(heads, queries, width), part(groups, keys, width), part(groups, keys, depth)]
    total = keys + past
    attributes: Attributes = {}
    if packed:
        attributes |= {"q_num_heads": heads, "kv_num_heads": groups}
    mask = None
    if b.chance(0.4):
        shape = b.choice(((queries, total), (1, 1, queries, total), (batch, 1, queries, total), (queries, total)))
        keep = b.rng.random(shape) < 0.8
        keep[..., 0] = True
        mask = b.given(keep if b.chance(0.5) else np.where(keep, 0, -2.5).astype(b.float_type), 0.3)
    operands.append(mask)
    if past:
        operands += [_numbers(b, batch, groups, past, width), _numbers(b, batch, groups, past, depth)]
    if b.chance(0.4):
        attributes["is_causal"] = 1
    if b.chance(0.2):
        attributes["softcap"] = 2.0
    if b.chance(0.3):
        attributes["scale"] = 0.4
    out = (batch, queries, heads * depth) if packed else (batch, heads, queries, depth)
    results = [(b.float_type, out)]
    if past:
        results += [(b.float_type, (batch, groups, total, width)), (b.float_type, (batch, groups, total, depth))]
    b.node("Attention", operands, results, **attributes)
    return True


def _rotary(b: Builder) -> bool:
    """RotaryEmbedding of heads or packed, of a part of the width, with positions or tables for each place."""
    if b.opset < 23:
        return False
    batch, heads, length, width = b.integer(1, 2), b.integer(1, 3), b.integer(1, 5), b.choice((4, 8))
    packed = b.chance(0.4)
    x = _numbers(b, batch, length, heads * width) if packed else _numbers(b, batch, heads, length, width)
    part = width // 2 if b.chance(0.3) else width
    attributes: Attributes = {"interleaved": b.integer(0, 1)}
    if packed or part != width:
        attributes |= {"num_heads": heads}
    if part != width:
        attributes["rotary_embedding_dim"] = part
    positions = b.chance(0.6)
    angles = b.rng.uniform(-3, 3, (7, part // 2) if positions else (batch, length, part // 2))
    tables = [b.constant(f(angles).astype(b.float_type)) for f in (np.cos, np.sin)]
    places = [b.given(b.rng.integers(0, 7, (batch, length)), 0.3)] if positions else []
    b.node("RotaryEmbedding", [x, *tables, *places], [(x.dtype, x.shape)], **attributes)
    return True


def _rms_norm(b: Builder) -> bool:
    """RMSNormalization, or its parts as exporters write them."""
    x = b.pick(lambda t: t.is_float and t.rank > 0 and isinstance(t.shape[-1], int) and b.elements(t.shape) > 0)
    if x is None:
        return False
    scale = b.weights((b.size(x.shape[-1]),), x.dtype)
    if b.opset >= 23 and b.chance(0.5):
        b.node("RMSNormalization", [x, scale], [(x.dtype, x.shape)], epsilon=1e-2)
        return True
    row = (*x.shape[:-1], 1)
    squared = b.node("Mul", [x, x], [(x.dtype, x.shape)], visible=False)[0]
    if b.opset >= 18:
        mean = b.node("ReduceMean", [squared, b.ints([-1])], [(x.dtype, row)], visible=False)[0]
    else:
        mean = b.node("ReduceMean", [squared], [(x.dtype, row)], visible=False, axes=[-1])[0]
    around = b.node("Add", [mean, b.constant(np.asarray(1e-2, x.dtype))], [(x.dtype, row)], visible=False)[0]
    root = b.unary("Reciprocal", b.unary("Sqrt", around, visible=False), visible=False)
    normal = b.node("Mul", [x, root], [(x.dtype, x.shape)], visible=False)[0]
    b.node("Mul", [scale, normal], [(x.dtype, x.shape)])
    return True


def _cache(b: Builder) -> bool:
    """TensorScatter (opset 24), also around the end."""
    if b.opset < 24:
        return False
    batch, heads, room, width = b.integer(1, 3), b.integer(1, 2), b.integer(1, 6), b.integer(1, 4)
    new = b.integer(1, room)
    circular = b.chance(0.5)
    places = b.rng.integers(0, (room if circular else room - new) + 1, batch)
    operands = [_numbers(b, batch, heads, room, width), _numbers(b, batch, heads, new, width)]
    given = [b.given(places, 0.2)] if b.chance(0.8) else []
    mode: Attributes = {"mode": "circular"} if circular else {}
    b.node("TensorScatter", [*operands, *given], [(b.float_type, (batch, heads, room, width))], **mode)
    return True


def _linear(b: Builder) -> bool:
    """LinearAttention (opset 27) by each of its rules, with a state from before."""
    if b.opset < 27:
        return False
    batch, groups, length, width, depth = b.integer(1, 2), b.integer(1, 2), b.integer(1, 5), b.integer(1, 4), 3
    heads, rule = groups * b.integer(1, 2), b.choice(("linear", "gated", "delta", "gated_delta"))
    operands: list[Tensor | None] = [
        _numbers(b, batch, length, heads * width),
        _numbers(b, batch, length, groups * width),
        _numbers(b, batch, length, groups * depth),
        _numbers(b, batch, groups, width, depth) if b.chance(0.5) else None,
    ]
    decay = -b.rng.random((batch, length, groups * width if b.chance(0.5) else groups))
    operands.append(b.given(decay.astype(b.float_type), 0.1) if "gated" in rule else None)
    rate = b.rng.random((batch, length, groups if b.chance(0.6) else 1))
    operands.append(b.given(rate.astype(b.float_type), 0.1) if "delta" in rule else None)
    results = [(b.float_type, (batch, length, heads * depth)), (b.float_type, (batch, groups, width, depth))]
    scale: Attributes = {"scale": 0.5} if b.chance(0.4) else {}
    b.node("LinearAttention", operands, results, q_num_heads=heads, kv_num_heads=groups, update_rule=rule, **scale)
    return True


def _causal(b: Builder) -> bool:
    """CausalConvWithState (opset 27)."""
    if b.opset < 27:
        return False
    batch, channels, length, kernel = b.integer(1, 2), b.integer(1, 5), b.integer(1, 6), b.integer(2, 4)
    operands: list[Tensor | None] = [
        _numbers(b, batch, channels, length),
        b.weights((channels, 1, kernel)),
        b.weights((channels,)) if b.chance(0.5) else None,
        _numbers(b, batch, channels, kernel - 1) if b.chance(0.5) else None,
    ]
    results = [(b.float_type, (batch, channels, length)), (b.float_type, (batch, channels, kernel - 1))]
    kind = {"activation": b.choice(("silu", "none"))} if b.chance(0.6) else {}
    b.node("CausalConvWithState", operands, results, **kind)
    return True


def _gated(b: Builder) -> bool:
    """SwiGLU (opset 28), or Swish and a product."""
    a = b.pick(lambda t: t.is_float)
    if a is None:
        return False
    other = b.pick(lambda t: t.dtype == a.dtype and t.shape == a.shape)
    assert other is not None
    if b.opset >= 28:
        b.node("SwiGLU", [a, other], [(a.dtype, a.shape)], alpha=b.choice((1.0, 0.7)))
        return True
    gate = b.unary("Sigmoid", a, visible=False)
    gated = b.node("Mul", [a, gate], [(a.dtype, a.shape)], visible=False)[0]
    b.node("Mul", [gated, other], [(a.dtype, a.shape)])
    return True
