"""Products, convolutions, pooling."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.fuzz.build import numpy_type
from benchmarks.grid.examples import Const, Example, Given, Table

TABLE = Table()


@TABLE.row("MatMul")
def product(g: Given) -> Iterator[Example]:
    """Vectors, matrices, batches that broadcast, none of something."""
    forms: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "matrices": ((3, 5), (5, 7)),
        "vector": ((3, 5), (5,)),
        "vectors": ((5,), (5,)),
        "row": ((5,), (5, 3)),
        "batch": ((2, 1, 3, 4), (5, 4, 2)),
        "one": ((1, 1), (1, 1)),
        "large": ((17, 33), (33, 19)),
        "no rows": ((0, 3), (3, 2)),
        "no terms": ((2, 0), (0, 3)),
    }
    for name, (a, b) in forms.items():
        yield g.case(name, g.data("T", a), g.data("T", b, seed=1))
    yield g.case("weights", g.data("T", (3, 5)), Const(g.data("T", (5, 7), seed=1)))


@TABLE.row("Gemm")
def gemm(g: Given) -> Iterator[Example]:
    """Transposed operands, factors, the shapes of C."""
    floats = g.dtype("T") in ("float16", "float32", "float64", "bfloat16")
    a, b, c = g.data("T", (3, 5)), g.data("T", (5, 4), seed=1), g.data("T", (3, 4), seed=2)
    yield g.case("plain", a, b, c)
    yield g.case("transposed", np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), c, transA=1, transB=1)
    factors = {"alpha": 0.5, "beta": 0.25} if floats else {"alpha": 2.0, "beta": 3.0}
    yield g.case("factors", a, b, c, **factors)
    broadcast = {"broadcast": 1} if g.since < 7 else {}
    for name, shape in (("row", (4,)), ("column", (3, 1)), ("one", (1,))):
        if g.since >= 7 or name == "row":
            yield g.case(name, a, Const(b), g.data("T", shape, seed=2), **broadcast)
    if g.since >= 11:
        yield g.case("no C", a, b)
        yield g.case("no rows", a[:0], b, c[:0])


def _windows(g: Given) -> dict[str, dict[str, object]]:
    forms: dict[str, dict[str, object]] = {
        "plain": {"kernel_shape": [3, 3]},
        "strides": {"kernel_shape": [3, 2], "strides": [2, 1]},
        "pads": {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2], "strides": [1, 2]},
        "same upper": {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER"},
        "same lower": {"kernel_shape": [2, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]},
        "valid": {"kernel_shape": [2, 2], "auto_pad": "VALID"},
    }
    if "dilations" in g.schema.attributes:
        forms["dilations"] = {"kernel_shape": [2, 2], "dilations": [2, 1]}
    if "ceil_mode" in g.schema.attributes:
        forms["ceil"] = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
    return forms


@TABLE.row("Conv", "ConvTranspose")
def convolution(g: Given) -> Iterator[Example]:
    """One to three axes, groups, strides, pads, dilations."""
    transposed = g.op == "ConvTranspose"
    for name, attributes in _windows(g).items():
        kernel: list[int] = attributes["kernel_shape"]  # pyright: ignore[reportAssignmentType]
        w = g.data("T", ((4, 3) if transposed else (3, 4)) + tuple(kernel), seed=1)
        yield g.case(name, g.data("T", (2, 4, 6, 7)), Const(w), g.data("T", (3,), seed=2), **attributes)
    yield g.case("computed weights", g.data("T", (1, 4, 5, 5)), g.data("T", (4, 4, 3, 3), seed=1))
    yield g.case("list", g.data("T", (1, 2, 9)), Const(g.data("T", (2, 2, 3), seed=1)))
    yield g.case("volume", g.data("T", (1, 2, 4, 3, 5)), Const(g.data("T", (2, 2, 2, 2, 2), seed=1)))
    yield g.case("groups", g.data("T", (1, 4, 5, 5)), Const(g.data("T", (4, 2, 3, 3), seed=1)), group=2)
    yield g.case("depthwise", g.data("T", (1, 4, 5, 5)), Const(g.data("T", (4, 1, 3, 3), seed=1)), group=4)
    yield g.case("points", g.data("T", (1, 4, 5, 5)), Const(g.data("T", (4, 4, 1, 1), seed=1)))
    yield g.case("no batch", g.data("T", (0, 4, 5, 5)), Const(g.data("T", (4, 4, 3, 3), seed=1)))
    if transposed:
        w = Const(g.data("T", (4, 2, 3, 3), seed=1))
        yield g.case("output padding", g.data("T", (1, 4, 3, 3)), w, strides=[2, 2], output_padding=[1, 0])
        yield g.case("output shape", g.data("T", (1, 4, 3, 3)), w, strides=[2, 2], output_shape=[6, 7])


@TABLE.row("AveragePool", "MaxPool", "LpPool")
def pooling(g: Given) -> Iterator[Example]:
    """Windows of each kind, one to three axes."""
    two = g.op == "MaxPool" and g.since >= 8
    for name, attributes in _windows(g).items():
        if g.op == "LpPool" and g.since == 1 and name == "same upper":
            continue
        yield g.case(name, g.data("T", (2, 3, 7, 6)), **attributes)
    yield g.case("list", g.data("T", (1, 2, 9)), kernel_shape=[2], strides=[2])
    yield g.case("volume", g.data("T", (1, 2, 4, 3, 5)), kernel_shape=[2, 2, 2])
    yield g.case("no batch", g.data("T", (0, 2, 5)), kernel_shape=[2])
    if two:
        distinct = g.rng().permutation(70).reshape(1, 2, 5, 7).astype(g.data("T", ()).dtype)
        yield g.case("positions", distinct, kernel_shape=[2, 2], results=2)
        yield g.case("columns", distinct, kernel_shape=[2, 2], storage_order=1, results=2)
    if g.op == "AveragePool" and g.since >= 7:
        attributes = _windows(g)["pads"]
        yield g.case("with pads", g.data("T", (2, 3, 7, 6)), count_include_pad=1, **attributes)
    if g.op == "LpPool":
        yield g.case("p", g.data("T", (1, 2, 5, 5)), kernel_shape=[2, 2], p=1 if g.since > 1 else 1.0)


@TABLE.row("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def whole(g: Given) -> Iterator[Example]:
    """Of one to three axes."""
    for name, shape in (
        ("image", (2, 3, 5, 4)),
        ("list", (1, 2, 7)),
        ("volume", (1, 2, 2, 3, 2)),
        ("one", (1, 1, 1, 1)),
        ("no batch", (0, 2, 3, 3)),
    ):
        x = g.data("T", shape)
        yield g.case(name, x, want=[_whole(g.op, x, 2)])
    if g.op == "GlobalLpPool":
        x = g.data("T", (2, 3, 5, 4))
        yield g.case("p", x, p=3 if g.since > 1 else 3.0, want=[_whole(g.op, x, 3)])


def _whole(op: str, x: np.ndarray, p: int) -> np.ndarray:
    wide, axes = np.abs(x.astype(np.float64)) if op == "GlobalLpPool" else x.astype(np.float64), tuple(range(2, x.ndim))
    if op == "GlobalLpPool":
        return (wide**p).sum(axes, keepdims=True) ** (1 / p)
    return wide.mean(axes, keepdims=True) if op == "GlobalAveragePool" else wide.max(axes, keepdims=True)


@TABLE.row("MaxUnpool", exact=True)
def unpool(g: Given) -> Iterator[Example]:
    """To the smallest shape and to a given one."""
    x = g.data("T1", (1, 1, 2, 2))
    yield g.case("plain", x, np.array([[[[0, 7], [8, 15]]]]), kernel_shape=[2, 2], strides=[2, 2])
    shape = np.array([1, 1, 4, 4])
    yield g.case("shape", x, np.array([[[[1, 6], [9, 14]]]]), Const(shape), kernel_shape=[2, 2], strides=[2, 2])


@TABLE.row("MaxRoiPool")
def roi_pool(g: Given) -> Iterator[Example]:
    """Rectangles of two images."""
    rois = np.array([[0, 0, 0, 3, 3], [1, 1, 2, 4, 5], [0, 2, 2, 2, 2]], numpy_type(g.dtype("T")))
    yield g.case("plain", g.data("T", (2, 2, 6, 6)), rois, pooled_shape=[2, 2])
    yield g.case("scale", g.data("T", (2, 2, 6, 6)), rois, pooled_shape=[1, 3], spatial_scale=0.5)


@TABLE.row("RoiAlign")
def roi_align(g: Given) -> Iterator[Example]:
    """Each mode and rule of coordinates."""
    rois = np.array([[0.0, 0.0, 3.0, 3.0], [1.0, 2.0, 4.0, 5.5], [2.0, 2.0, 2.5, 2.5]], numpy_type(g.dtype("T1")))
    batch = np.array([0, 1, 0])
    for mode in ("avg", "max"):
        common = {"mode": mode, "output_height": 2, "output_width": 3, "spatial_scale": 0.75}
        for rule in ("half_pixel", "output_half_pixel") if g.since >= 16 else (None,):
            x = g.data("T1", (2, 2, 6, 7))
            yield g.case(
                f"{mode} {rule or 'output_half_pixel'}",
                x,
                rois,
                batch,
                sampling_ratio=2,
                coordinate_transformation_mode=rule,
                **common,
            )


@TABLE.row("DeformConv")
def deformable(g: Given) -> Iterator[Example]:
    """Offsets, a mask, groups."""
    x, w = g.data("T", (1, 2, 5, 5)), g.data("T", (3, 2, 2, 2), seed=1)
    offset = g.data("T", (1, 8, 4, 4), -1, 1, seed=2)
    yield g.case("plain", x, Const(w), offset, kernel_shape=[2, 2])
    yield g.case("mask", x, w, offset, g.data("T", (3,), seed=3), g.data("T", (1, 4, 4, 4), 0, 1, seed=4))
    yield g.case("pads", x, w, g.data("T", (1, 8, 6, 6), -1, 1, seed=2), pads=[1, 1, 1, 1], kernel_shape=[2, 2])


@TABLE.row("Einsum")
def einsum(g: Given) -> Iterator[Example]:
    """Sums, products, diagonals, an ellipsis."""
    forms: dict[str, tuple[tuple[int, ...], ...]] = {
        "ij->ji": ((3, 5),),
        "ij->": ((3, 5),),
        "ii->i": ((4, 4),),
        "ij,jk->ik": ((3, 5), (5, 2)),
        "bij,bjk->bik": ((2, 3, 4), (2, 4, 5)),
        "...j,jk->...k": ((2, 3, 4), (4, 5)),
        "i,j": ((3,), (4,)),
        "ij,jk": ((0, 3), (3, 2)),
    }
    for equation, shapes in forms.items():
        yield g.case(equation, *(g.data("T", s, seed=i) for i, s in enumerate(shapes)), equation=equation)


@TABLE.row("Attention")
def attention(g: Given) -> Iterator[Example]:
    """Heads as an axis and side by side, groups, masks, causal, a cap."""
    q, k, v = g.data("T1", (1, 2, 3, 4)), g.data("T1", (1, 2, 5, 4), seed=1), g.data("T2", (1, 2, 5, 6), seed=2)
    yield g.case("plain", q, k, v)
    yield g.case("causal", q, k, v, is_causal=1)
    yield g.case("scale", q, k, v, scale=0.25, softcap=2.0)
    mask = g.data("U", (3, 5), seed=3) if g.dtype("U") != "bool" else np.tri(3, 5, 1, bool)
    yield g.case("mask", q, k, v, mask)
    yield g.case("groups", g.data("T1", (1, 4, 3, 4)), k, v)
    flat = (g.data("T1", (2, 3, 8)), g.data("T1", (2, 5, 8), seed=1), g.data("T2", (2, 5, 12), seed=2))
    yield g.case("flat", *flat, q_num_heads=2, kv_num_heads=2)
    past = g.data("T1", (1, 2, 2, 4), seed=4), g.data("T2", (1, 2, 2, 6), seed=5)
    yield g.case("past", q, k, v, None, *past, results=3)


@TABLE.row("RotaryEmbedding")
def rotary(g: Given) -> Iterator[Example]:
    """Halves and pairs; positions."""
    x = g.data("T", (2, 3, 4, 6))
    angles = g.rng().uniform(0, 3, (9, 3))
    cos, sin = (f(angles).astype(x.dtype) for f in (np.cos, np.sin))
    positions = np.array([[0, 1, 2, 3], [5, 6, 7, 8]])
    for interleaved in (0, 1):
        yield g.case(f"{interleaved}", x, cos, sin, positions, interleaved=interleaved)
    yield g.case("own", x, cos[positions], sin[positions])
    part = {"rotary_embedding_dim": 4}
    yield g.case("part", x, np.ascontiguousarray(cos[:, :2]), np.ascontiguousarray(sin[:, :2]), positions, **part)


@TABLE.row("LinearAttention")
def linear_attention(g: Given) -> Iterator[Example]:
    """Each rule of update."""
    q, k, v = (g.data("T", (1, 4, 6), seed=i) for i in range(3))
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    state = g.data("S", (1, 2, 3, 3), seed=3)
    yield g.case("linear", q, k, v, update_rule="linear", results=2, **heads)
    yield g.case("state", q, k, v, state, update_rule="linear", results=2, **heads)
    decay, beta = g.data("T", (1, 4, 2), -1, 0, seed=4), g.data("T", (1, 4, 2), 0, 1, seed=5)
    yield g.case("gated", q, k, v, state, decay, update_rule="gated", results=2, **heads)
    yield g.case("delta", q, k, v, state, None, beta, update_rule="delta", results=2, **heads)
    yield g.case("gated delta", q, k, v, state, decay, beta, update_rule="gated_delta", results=2, **heads)


@TABLE.row("CausalConvWithState")
def causal_convolution(g: Given) -> Iterator[Example]:
    """With and without a state and a bias."""
    x, w = g.data("T", (2, 3, 5)), g.data("T", (3, 1, 4), seed=1)
    yield g.case("plain", x, w, results=2)
    bias, state = g.data("T", (3,), seed=2), g.data("T", (2, 3, 3), seed=3)
    yield g.case("state", x, w, bias, state, results=2, activation="silu")
