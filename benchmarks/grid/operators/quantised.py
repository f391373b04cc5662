"""Quantised values, sampling of images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.fuzz.build import dtype_code, numpy_type
from benchmarks.grid.examples import Const, Example, Given, Table

TABLE = Table()


def _scales(g: Given, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Powers of two, so that quotients are exact."""
    if dtype.startswith("int"):
        return np.full(shape, 2, dtype)
    return (2.0 ** g.rng(shape, "scale").integers(-2, 1, shape)).astype(numpy_type(dtype))


@TABLE.row("QuantizeLinear", exact=True)
def quantize(g: Given) -> Iterator[Example]:
    """One scale, one a channel, one a block; zero points and none."""
    names = {i.name: i.type_str for i in g.schema.inputs}
    scale, zero = g.dtype(names["y_scale"]), g.dtype(names["y_zero_point"])
    source = g.dtype(names["x"])
    floats = "float" in zero

    def point(shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, numpy_type(zero)) if floats else g.data(zero, shape, 0, 1, seed=1)

    numbers = g.data(source, (3, 6), -3, 3)
    yield g.case("tensor", numbers, _scales(g, scale, ()), point(()))
    yield g.case("constants", numbers, Const(_scales(g, scale, ())), Const(point(())))
    if zero == "uint8":
        yield g.case("no zero point", numbers, _scales(g, scale, ()))
    if g.since >= 13:
        yield g.case("channels", numbers, _scales(g, scale, (3,)), point((3,)), axis=0)
    if g.since >= 21:
        yield g.case("blocks", numbers, Const(_scales(g, scale, (3, 2))), Const(point((3, 2))), axis=1, block_size=3)
        yield g.case("dtype", numbers, _scales(g, scale, ()), output_dtype=dtype_code(zero))
    yield g.case("empty", numbers[:0], _scales(g, scale, ()), point(()))
    if source.startswith("float") and source != "float16":
        huge = np.array([300.0, -300.0, 1e5, -1e5, 0.0, -0.0], numpy_type(source))
        yield g.case("beyond", huge, _scales(g, scale, ()), point(()))


@TABLE.row("DequantizeLinear")
def dequantize(g: Given) -> Iterator[Example]:
    """One scale, one a channel, one a block."""
    names = {i.name: i.type_str for i in g.schema.inputs}
    source, scale = g.dtype(names["x"]), g.dtype(names["x_scale"])
    to = {"output_dtype": dtype_code(g.dtype("T3"))} if "T3" in g.types else {}

    def point(shape: tuple[int, ...]) -> np.ndarray | None:
        if "float" in source or source == "int32":
            return None
        return g.data(source, shape, 0, 1, seed=1)

    codes = g.data(source, (3, 6), -9, 9)
    yield g.case("tensor", codes, _scales(g, scale, ()), point(()), **to)
    yield g.case("constants", codes, Const(_scales(g, scale, ())), point(()), **to)
    if g.since >= 13:
        yield g.case("channels", codes, _scales(g, scale, (3,)), point((3,)), axis=0, **to)
    if g.since >= 21:
        chosen = {"axis": 1, "block_size": 3, **to}
        yield g.case("blocks", codes, Const(_scales(g, scale, (3, 2))), point((3, 2)), **chosen)
        yield g.case("weights", Const(codes), Const(_scales(g, scale, (3, 2))), point((3, 2)), **chosen)
    yield g.case("empty", codes[:0], _scales(g, scale, ()), **to)


@TABLE.row("DynamicQuantizeLinear", exact=True)
def dynamic(g: Given) -> Iterator[Example]:
    """Numbers of both signs, of one."""
    for name, low, high in (("both", -2, 3), ("positive", 1, 3), ("negative", -3, -1)):
        yield g.case(name, g.data("T1", (3, 5), low, high), results=3)


@TABLE.row("MatMulInteger", exact=True)
def integer_product(g: Given) -> Iterator[Example]:
    """Zero points of each kind."""
    a, b = g.data("T1", (3, 5), -9, 9), g.data("T2", (5, 4), -9, 9, seed=1)
    yield g.case("plain", a, b)
    yield g.case("weights", a, Const(b), g.data("T1", (), 0, 3, seed=2), Const(g.data("T2", (), 0, 3, seed=3)))
    yield g.case("columns", a, b, None, g.data("T2", (4,), 0, 3, seed=3))
    yield g.case("batch", g.data("T1", (2, 3, 5), -9, 9), b)


@TABLE.row("QLinearMatMul", exact=True)
def quantised_product(g: Given) -> Iterator[Example]:
    """Of a tensor and of columns."""
    kinds = [i.type_str for i in g.schema.inputs]

    def one(place: int, value: float) -> np.ndarray:
        return np.array(value).astype(g.data(kinds[place], ()).dtype)

    a, b = g.data(kinds[0], (3, 5), -9, 9), g.data(kinds[3], (5, 4), -9, 9, seed=1)
    zeros = [one(2, 1), one(5, 1), one(7, 1)]
    want = None
    if all("int" in g.dtype(kinds[place]) for place in (0, 3, 7)):
        total = (a.astype(np.int64) - 1) @ (b.astype(np.int64) - 1)
        ends = np.iinfo(zeros[2].dtype)
        want = [np.clip(np.rint(total * 0.125) + 1, ends.min, ends.max).astype(zeros[2].dtype)]
    operands = a, one(1, 0.5), zeros[0], b, one(4, 0.25), zeros[1], one(6, 1.0), zeros[2]
    yield g.case("plain", *operands, want=want)
    yield g.case("weights", a, *map(Const, operands[1:]), want=want)


@TABLE.row("ConvInteger", "QLinearConv", exact=True)
def quantised_convolution(g: Given) -> Iterator[Example]:
    """Plain and with pads, strides and groups."""
    quantised = g.op == "QLinearConv"
    w_type, y_type = ("T2", "T3")
    one = np.float32
    for name, attributes in (
        ("plain", {}),
        ("pads", {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("groups", {"group": 2}),
    ):
        x = g.data("T1", (1, 4, 6, 5), -9, 9)
        w = g.data(w_type, (4, 4 // (2 if attributes.get("group") else 1), 3, 3), -9, 9, seed=1)
        zeros = [g.data(k, (), 0, 3, seed=2) for k in ("T1", w_type, y_type if quantised else w_type)]
        if not quantised:
            yield g.case(name, x, Const(w), zeros[0], Const(zeros[1]), **attributes)
            continue
        operands = x, one(0.5), zeros[0], w, one(0.25), zeros[1], one(2), zeros[2]
        scaled = [operands[0], *(Const(np.asarray(v)) for v in operands[1:])]
        yield g.case(name, *scaled, **attributes)
        yield g.case(f"{name} bias", *scaled, Const(np.arange(-2, 2, dtype=np.int32) * 9), **attributes)


@TABLE.row("Resize")
def resize(g: Given) -> Iterator[Example]:
    """Modes, rules of coordinates, scales and sizes."""
    kind = g.schema.inputs[0].type_str
    x = g.data(kind, (1, 2, 4, 5))
    scales = np.array([1, 1, 2, 1.5], np.float32)
    smaller = np.array([1, 1, 0.5, 0.6], np.float32)
    integer = "float" not in g.dtype(kind)
    if g.since == 10:
        for name, given in (("larger", scales), ("smaller", smaller)):
            for mode in ("nearest",) if integer else ("nearest", "linear"):
                yield g.case(f"{mode} {name}", x, Const(given), mode=mode)
        return
    for name, given in (("larger", scales), ("smaller", smaller)):  # version 10 has these alone
        for mode in ("nearest",) if integer else ("nearest", "linear"):
            chosen = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            yield g.case(f"{mode} {name}", x, Const(np.zeros(0, np.float32)), Const(given), **chosen)
    rules = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    for rule in rules:
        for mode in ("nearest", "linear", "cubic"):
            if integer and mode != "nearest":
                continue
            chosen = {"mode": mode, "coordinate_transformation_mode": rule}
            roi = Const(np.zeros(0, np.float32)) if g.since < 13 else None
            larger = np.array([1, 1, 2, 2], np.float32) if rule == "align_corners" else scales
            yield g.case(f"{mode} {rule}", x, roi, Const(larger), **chosen)
    roi = Const(np.zeros(0, np.float32))
    none = Const(np.zeros(0, np.float32)) if g.since < 13 else None
    for mode in ("nearest",) if integer else ("nearest", "linear"):
        yield g.case(f"sizes {mode}", x, roi, none, Const(np.array([1, 2, 3, 7])), mode=mode)
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        chosen = {"mode": "nearest", "nearest_mode": rounding, "coordinate_transformation_mode": "asymmetric"}
        yield g.case(rounding, x, roi, Const(smaller), **chosen)
    if g.since >= 18:
        for mode in () if integer else ("linear", "cubic"):
            yield g.case(f"antialias {mode}", x, roi, Const(smaller), mode=mode, antialias=1)
        yield g.case("axes", x, roi, Const(scales[2:]), axes=[2, 3], mode="nearest")


@TABLE.row("GridSample")
def grid_sample(g: Given) -> Iterator[Example]:
    """Modes, rules of what lies outside."""
    modes = ("bilinear", "nearest", "bicubic") if g.since < 20 else ("linear", "nearest", "cubic")
    grid = g.data("T2", (2, 3, 4, 2), -1.2, 1.2, seed=1)
    for mode, alias in zip(modes, ("linear", "nearest", "cubic"), strict=True):
        for padding in ("zeros", "border", "reflection"):
            for corners in (0, 1):
                chosen = {"mode": mode, "padding_mode": padding, "align_corners": corners}
                yield g.case(f"{alias} {padding} {corners}", g.data("T1", (2, 1, 5, 4)), grid, **chosen)


@TABLE.row("AffineGrid")
def affine(g: Given) -> Iterator[Example]:
    """Two and three axes."""
    for corners in (0, 1):
        sizes = {"image": (g.data("T1", (2, 2, 3)), [2, 3, 4, 5]), "volume": (g.data("T1", (1, 3, 4)), [1, 2, 2, 3, 4])}
        for name, (theta, size) in sizes.items():
            yield g.case(f"{name} {corners}", theta, Const(np.array(size)), align_corners=corners)
