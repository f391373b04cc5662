"""Images read between pixels or in windows: grids, regions, deformed filters, pooling with all its options."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzz.build import Attributes, Builder, Extent, Tensor


def sample(b: Builder) -> bool:
    """One of the operators below."""
    makers = (_grid, _affine, _regions, _region_maximum, _deformed, _unpooled, _columns, _resized, _pooled, _pooled,
              _norm, _squares)  # fmt: skip
    return bool(b.choice(makers)(b))


def _image(b: Builder, rank: int = 4, dtypes: tuple[str, ...] = ("float32",)) -> Tensor | None:
    return b.pick(
        lambda t: (
            t.dtype in dtypes
            and t.rank == rank
            and all(isinstance(e, int) for e in t.shape[1:])
            and b.elements(t.shape) > 0
        )
    )


def _grid(b: Builder) -> bool:
    """GridSample at places inside and outside, away from where rounding decides."""
    x = _image(b)
    if x is None or b.opset < 16 or b.special or not isinstance(x.shape[0], int):
        return False
    out = (b.integer(1, 4), b.integer(1, 4))
    grid = b.rng.uniform(-1.3, 1.3, (x.shape[0], *out, 2)).astype(np.float32)
    modes = ("bilinear", "nearest", "bicubic") if b.opset < 20 else ("linear", "nearest", "cubic")
    mode, padding = b.choice(modes), b.choice(("zeros", "border", "reflection"))
    b.node("GridSample", [x, b.given(grid, 0.3)], [(x.dtype, (*x.shape[:2], *out))], mode=mode, padding_mode=padding,
           align_corners=b.integer(0, 1))  # fmt: skip
    return True


def _affine(b: Builder) -> bool:
    if b.opset < 20:
        return False
    batch, height, width = b.integer(2, 3), b.integer(2, 4), b.integer(2, 4)
    theta = b.given(b.rng.standard_normal((batch, 2, 3)).astype(np.float32))
    size = b.ints([batch, 2, height, width])
    b.node("AffineGrid", [theta, size], [("float32", (batch, height, width, 2))], align_corners=b.integer(0, 1))
    return True


def _rectangles(b: Builder, count: int, height: int, width: int) -> np.ndarray:
    low = b.rng.uniform(0, 0.5, (count, 2)) * (width, height)
    high = low + b.rng.uniform(0.2, 0.5, (count, 2)) * (width, height)
    return np.concatenate([low, high], 1).astype(np.float32)


def _regions(b: Builder) -> bool:
    x = _image(b)
    if x is None or not isinstance(x.shape[0], int) or b.special:
        return False
    n, c, h, w = b.concrete(x.shape)
    count, out = b.integer(1, 4), (b.integer(1, 3), b.integer(1, 3))
    regions = b.given(_rectangles(b, count, h, w))
    batch = b.given(b.rng.integers(0, n, count))
    attributes: Attributes = {"mode": "max"} if b.chance(0.2) else {}
    if b.opset >= 16 and b.chance(0.5):
        attributes["coordinate_transformation_mode"] = b.choice(("half_pixel", "output_half_pixel"))
    b.node("RoiAlign", [x, regions, batch], [(x.dtype, (count, c, *out))], output_height=out[0], output_width=out[1],
           sampling_ratio=b.integer(1, 3), spatial_scale=b.choice((1.0, 0.5)), **attributes)  # fmt: skip
    return True


def _region_maximum(b: Builder) -> bool:
    x = _image(b)
    if x is None or not isinstance(x.shape[0], int) or b.special:
        return False
    n, c, h, w = b.concrete(x.shape)
    count, out = b.integer(1, 3), (b.integer(1, 3), b.integer(1, 3))
    whole = np.floor(_rectangles(b, count, h, w))
    regions = b.given(np.concatenate([b.rng.integers(0, n, (count, 1)), whole], 1).astype(np.float32))
    b.node("MaxRoiPool", [x, regions], [(x.dtype, (count, c, *out))], pooled_shape=list(out), spatial_scale=1.0)
    return True


def _deformed(b: Builder) -> bool:
    x = _image(b)
    if x is None or b.opset < 19 or b.special or not isinstance(x.shape[0], int):
        return False
    n, c, h, w = b.concrete(x.shape)
    kernel, pad = b.integer(1, 3), b.integer(0, 1)
    out = tuple(e + 2 * pad - kernel + 1 for e in (h, w))
    if min(out) < 1 or np.prod(out) * kernel**2 * c > 2000:
        return False
    parts = b.choice([g for g in (1, 2) if c % g == 0])
    filters = b.integer(1, 4)
    offset = b.given(b.rng.uniform(-1.5, 1.5, (n, 2 * parts * kernel**2, *out)).astype(np.float32), 0.2)
    weights = b.weights((filters, c, kernel, kernel), "float32", (c * kernel**2) ** -0.5)
    bias = b.weights((filters,), "float32") if b.chance(0.5) else None
    mask = b.given(b.rng.random((n, parts * kernel**2, *out)).astype(np.float32), 0.2) if b.chance(0.5) else None
    b.node("DeformConv", [x, weights, offset, bias, mask], [("float32", (n, filters, *out))],
           kernel_shape=[kernel] * 2, pads=[pad] * 4, offset_group=parts)  # fmt: skip
    return True


def _unpooled(b: Builder) -> bool:
    """MaxPool with places, and MaxUnpool by them."""
    x = _image(b)
    if x is None or b.special or not isinstance(x.shape[0], int):
        return False
    n, c, h, w = b.concrete(x.shape)
    if h < 2 or w < 2:
        return False
    shape = (n, c, h // 2, w // 2)
    window: Attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    values, places = b.node("MaxPool", [x], [(x.dtype, shape), ("int64", shape)], **window)
    size = [b.ints([n, c, h, w])] if h % 2 or w % 2 or b.chance(0.3) else []
    b.node("MaxUnpool", [values, places, *size], [(x.dtype, (n, c, h, w))], **window)
    return True


def _columns(b: Builder) -> bool:
    if b.opset < 18:
        return False
    n, c, height, width = b.integer(1, 2), b.integer(1, 3), b.integer(2, 6), b.integer(2, 6)
    kernel, stride, pad = (b.integer(1, 2), b.integer(1, 2)), b.integer(1, 2), b.integer(0, 1)
    places = [(e + 2 * pad - k) // stride + 1 for e, k in zip((height, width), kernel, strict=True)]
    x = b.given(b.values("float32", (n, c * kernel[0] * kernel[1], places[0] * places[1])), 0.2)
    b.node("Col2Im", [x, b.ints([height, width]), b.ints(kernel)], [("float32", (n, c, height, width))],
           pads=[pad] * 4, strides=[stride] * 2)  # fmt: skip
    return True


def _resized(b: Builder) -> bool:
    """Resize to sizes, with borders, axes, cubic coefficients and policies."""
    x = _image(b)
    if x is None or not isinstance(x.shape[0], int) or b.special:
        return False
    height, width = b.size(x.shape[2]), b.size(x.shape[3])
    target = (b.integer(1, 2 * height), b.integer(1, 2 * width))
    attributes: Attributes = {"mode": b.choice(("nearest", "linear", "cubic"))}
    attributes["coordinate_transformation_mode"] = b.choice(
        ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    )
    if attributes["mode"] == "nearest":
        attributes["nearest_mode"] = b.choice(("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"))
    elif attributes["mode"] == "cubic" and b.chance(0.5):
        attributes |= {"cubic_coeff_a": -0.5, "exclude_outside": b.integer(0, 1)}
    if b.opset >= 18 and b.chance(0.3) and attributes["mode"] != "nearest":
        attributes["antialias"] = 1
    shape = (*x.shape[:2], *target)
    if b.opset >= 18 and b.chance(0.5):
        sizes, attributes["axes"] = b.ints(target), [2, 3]
    else:
        sizes = b.ints([b.size(x.shape[0]), b.size(x.shape[1]), *target])
    b.node("Resize", [x, None, None, sizes], [(x.dtype, shape)], **attributes)
    return True


def _pooled(b: Builder) -> bool:
    """MaxPool, AveragePool, LpPool with dilations, rounding up, automatic padding; images of bytes too."""
    rank = b.choice((3, 4, 4, 5))
    x = _image(b, rank, ("float32", "float64"))
    if x is None or b.special:
        return False
    count = rank - 2
    op = b.choice(("MaxPool", "AveragePool", "LpPool"))
    kernel, strides = [b.integer(1, 3) for _ in range(count)], [b.integer(1, 3) for _ in range(count)]
    dilated = op == "MaxPool" or b.opset >= (19 if op == "AveragePool" else 18)
    dilations = [b.integer(1, 2) for _ in range(count)] if dilated and b.chance(0.4) else [1] * count
    rounding = (op != "LpPool" or b.opset >= 18) and b.chance(0.4)
    attributes: Attributes = {"kernel_shape": kernel, "strides": strides}
    if dilations != [1] * count:
        attributes["dilations"] = dilations
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    sizes, spatial = b.concrete(x.shape[2:]), [0] * count
    apart = any(stride > span for stride, span in zip(strides, spans, strict=True))  # pads by the formula: negative
    if b.chance(0.3) and not apart and (op != "LpPool" or "dilations" not in attributes):
        automatic = b.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
        attributes["auto_pad"] = automatic
        for i in range(count):
            spatial[i] = -(-(sizes[i] if automatic != "VALID" else sizes[i] - spans[i] + 1) // strides[i])
    else:
        pads = [b.integer(0, k // 2) for k in kernel] * 2
        attributes["pads"] = pads
        for i in range(count):
            room = sizes[i] + pads[i] + pads[count + i] - spans[i]
            if room < 0:
                return False
            spatial[i] = (-(-room // strides[i]) if rounding else room // strides[i]) + 1
            if rounding and (spatial[i] - 1) * strides[i] >= sizes[i] + pads[i]:
                return False  # a window that begins behind the image: versions of the operator differ
        attributes |= {"ceil_mode": 1} if rounding else {}
    if min(spatial) < 1:
        return False
    if op == "AveragePool":
        attributes["count_include_pad"] = b.integer(0, 1)
    elif op == "LpPool":
        attributes["p"] = b.integer(1, 3)
    extents: list[Extent] = list(spatial)
    shape = (*x.shape[:2], *extents)
    places = [("int64", shape)] if op == "MaxPool" and b.chance(0.2) else []
    b.node(op, [x], [(x.dtype, shape), *places], **attributes)
    return True


def _norm(b: Builder) -> bool:
    """LRN over channels, GlobalLpPool."""
    x = _image(b)
    if x is None or b.special:
        return False
    if b.chance(0.4):
        b.node("GlobalLpPool", [x], [(x.dtype, (*x.shape[:2], 1, 1))], p=b.integer(1, 3))
    else:
        b.node("LRN", [x], [(x.dtype, x.shape)], size=b.choice((1, 3, 5)), alpha=0.01, beta=0.6, bias=1.5)
    return True


def _squares(b: Builder) -> bool:
    """Det of matrices; ReverseSequence of columns."""
    x = b.pick(lambda t: t.dtype == "float32" and t.rank >= 2 and b.elements(t.shape) > 0 and not b.special)
    if x is None:
        return False
    rows, columns = x.shape[-2:]
    if rows == columns and isinstance(rows, int) and rows <= 5:
        b.node("Det", [x], [(x.dtype, x.shape[:-2])])
        return True
    if not all(isinstance(e, int) for e in x.shape[:2]):
        return False
    time = b.integer(0, 1)
    lengths = b.given(b.rng.integers(1, b.size(x.shape[time]) + 1, b.size(x.shape[1 - time])))
    b.node("ReverseSequence", [x, lengths], [(x.dtype, x.shape)], time_axis=time, batch_axis=1 - time)
    return True
