"""Quantised layers, and element types narrower than what is computed with."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzz.build import Array, Attributes, Builder, Extent, Tensor, dtype_code, numpy_type

BYTES = ("int8", "uint8")
FOUR_BITS = ("int4", "uint4")
EIGHT_BIT_FLOATS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
BF16_UNARY = ("Relu", "Abs", "Neg", "Sqrt", "Tanh", "Sigmoid", "Identity", "Exp")
BF16_BINARY = ("Add", "Sub", "Mul", "Max", "Min", "Div")


def quantised(b: Builder) -> bool:
    """QuantizeLinear and DequantizeLinear, a tensor or a channel, around products and convolutions."""
    if b.chance(0.4):
        return bool(b.choice((_linear_matmul, _linear_conv, _conv_integer, _product, _blocks, _weights_only))(b))
    x = _source(b, 2)
    if x is None:
        return False
    dtype = b.choice(BYTES)
    zero = b.constant(np.asarray(b.integer(-3, 3) if dtype == "int8" else b.integer(100, 150), dtype))
    scale = b.constant(np.asarray(b.rng.uniform(0.01, 0.1), np.float32))
    codes = b.node("QuantizeLinear", [x, scale, zero], [(dtype, x.shape)], visible=b.chance(0.2))[0]
    back = b.node("DequantizeLinear", [codes, scale, zero], [("float32", x.shape)])[0]
    kind = b.integer(0, 4)
    if kind == 0 and isinstance(x.shape[-1], int):
        columns = b.integer(1, 9)
        w = b.constant(np.asarray(b.rng.integers(-127, 128, (b.size(x.shape[-1]), columns)), np.int8))
        scales = b.constant(b.rng.uniform(0.001, 0.01, columns).astype(np.float32))
        zeros = b.constant(np.zeros(columns, np.int8))
        real = b.node(
            "DequantizeLinear", [w, scales, zeros], [("float32", (x.shape[-1], columns))], visible=False, axis=1
        )[0]
        y = b.node("MatMul", [back, real], [("float32", (*x.shape[:-1], columns))])[0]
        _requantised(b, y, zero, dtype)
    elif kind == 1 and x.rank == 4 and isinstance(x.shape[1], int):
        _convolved(b, x, back, zero, dtype)
    elif kind == 2:
        if x.name not in b.inputs or not b.inputs[x.name][1].any():  # all zeros: no two engines have the same scale
            op, edge = b.choice((("Max", 0.25), ("Min", -0.25)))
            x = b.node(op, [x, b.constant(np.asarray(edge, np.float32))], [("float32", x.shape)])[0]
        b.node("DynamicQuantizeLinear", [x], [("uint8", x.shape), ("float32", ()), ("uint8", ())])
    elif kind == 3:
        _channels(b, x)
    return True


def _source(b: Builder, rank: int) -> Tensor | None:
    if b.special:
        return None
    return b.pick(lambda t: t.dtype == "float32" and t.rank >= rank and b.elements(t.shape) > 0)


def _requantised(b: Builder, y: Tensor, zero: Tensor, dtype: str) -> None:
    """Maybe an activation, then back to bytes and to numbers again."""
    if b.chance(0.4):
        y = b.unary(b.choice(("Relu", "Sigmoid", "HardSwish" if b.opset >= 14 else "Tanh")), y)
    if b.chance(0.5):
        after = b.constant(np.asarray(0.05, np.float32))
        out = b.node("QuantizeLinear", [y, after, zero], [(dtype, y.shape)], visible=False)[0]
        b.node("DequantizeLinear", [out, after, zero], [("float32", y.shape)])


def _convolved(b: Builder, x: Tensor, back: Tensor, zero: Tensor, dtype: str) -> None:
    channels = b.size(x.shape[1])
    group = channels if b.chance(0.3) else 1
    filters = group * b.integer(1, 4)
    w = b.constant(np.asarray(b.rng.integers(-127, 128, (filters, channels // group, 3, 3)), np.int8))
    scales = b.constant(b.rng.uniform(0.001, 0.01, filters).astype(np.float32))
    real = b.node(
        "DequantizeLinear", [w, scales, b.constant(np.zeros(filters, np.int8))],
        [("float32", (filters, channels // group, 3, 3))], visible=False, axis=0,
    )[0]  # fmt: skip
    shape = (x.shape[0], filters, *x.shape[2:])
    bias = b.weights((filters,), "float32") if b.chance(0.5) else None
    y = b.node("Conv", [back, real, bias], [("float32", shape)], pads=[1] * 4, kernel_shape=[3, 3], group=group)[0]
    _requantised(b, y, zero, dtype)


def _channels(b: Builder, x: Tensor) -> None:
    """A scale for each place of an axis, to types that opset 21 added too."""
    axis = b.integer(0, x.rank - 1)
    if not isinstance(x.shape[axis], int):
        return
    size = b.size(x.shape[axis])
    kinds = [*BYTES, *(("int16", "uint16") if b.opset >= 21 else ())]
    dtype = b.choice(kinds)
    low = 0 if dtype.startswith("u") else -4
    scale = b.constant(b.rng.uniform(0.02, 0.1, size).astype(np.float32))
    zero = b.constant(np.asarray(b.rng.integers(low, 9, size), dtype)) if dtype != "uint8" or b.chance(0.5) else None
    codes = b.node("QuantizeLinear", [x, scale, zero], [(dtype, x.shape)], axis=axis)[0]
    b.node("DequantizeLinear", [codes, scale, zero], [("float32", x.shape)], axis=axis)


def _codes(b: Builder, x: Tensor, dtype: str) -> tuple[Tensor, Tensor, Tensor]:
    """x as bytes, with their scale and zero point."""
    scale = b.constant(np.asarray(b.rng.uniform(0.01, 0.1), np.float32))
    zero = b.constant(np.asarray(b.integer(-3, 3) if dtype == "int8" else b.integer(100, 150), dtype))
    return b.node("QuantizeLinear", [x, scale, zero], [(dtype, x.shape)], visible=False)[0], scale, zero


def _filters(b: Builder, shape: tuple[int, ...], count: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of bytes with scale and zero point, `count` of them or one."""
    dtype = b.choice(BYTES)
    low, high = (-127, 127) if dtype == "int8" else (0, 255)
    w = b.constant(np.asarray(b.rng.integers(low, high + 1, shape), dtype))
    size = () if count is None else (count,)
    middle = 0 if dtype == "int8" else 128
    zeros = np.full(size, middle) if count is not None else np.asarray(middle + b.integer(-2, 2))
    return w, b.constant(b.rng.uniform(0.001, 0.01, size).astype(np.float32)), b.constant(zeros.astype(dtype))


def _linear_matmul(b: Builder) -> bool:
    x = _source(b, 2)
    if x is None or not isinstance(x.shape[-1], int):
        return False
    dtype = b.choice(BYTES)
    codes, scale, zero = _codes(b, x, dtype)
    columns = b.integer(1, 9)
    w, w_scale, w_zero = _filters(b, (b.size(x.shape[-1]), columns), None)
    after = b.constant(np.asarray(0.05, np.float32))
    y_zero = b.constant(np.asarray(b.integer(0, 20), dtype))
    operands = [codes, scale, zero, w, w_scale, w_zero, after, y_zero]
    y = b.node("QLinearMatMul", operands, [(dtype, (*x.shape[:-1], columns))])[0]
    b.node("DequantizeLinear", [y, after, y_zero], [("float32", y.shape)])
    return True


def _image(b: Builder) -> Tensor | None:
    x = _source(b, 4)
    fits = x is not None and x.rank == 4 and isinstance(x.shape[1], int)
    return x if fits else None


def _linear_conv(b: Builder) -> bool:
    x = _image(b)
    if x is None:
        return False
    dtype = b.choice(BYTES)
    codes, scale, zero = _codes(b, x, dtype)
    channels, filters = b.size(x.shape[1]), b.integer(1, 6)
    w, w_scale, w_zero = _filters(b, (filters, channels, 3, 3), b.choice((None, filters)))
    after = b.constant(np.asarray(0.05, np.float32))
    y_zero = b.constant(np.asarray(b.integer(0, 20), dtype))
    bias = b.constant(b.rng.integers(-500, 500, filters).astype(np.int32)) if b.chance(0.5) else None
    operands = [codes, scale, zero, w, w_scale, w_zero, after, y_zero, bias]
    shape = (x.shape[0], filters, *x.shape[2:])
    y = b.node("QLinearConv", operands, [(dtype, shape)], pads=[1] * 4, kernel_shape=[3, 3])[0]
    b.node("DequantizeLinear", [y, after, y_zero], [("float32", shape)])
    return True


def _conv_integer(b: Builder) -> bool:
    x = _image(b)
    if x is None:
        return False
    codes, _, zero = _codes(b, x, b.choice(BYTES))
    channels, filters = b.size(x.shape[1]), b.integer(1, 6)
    w, _, w_zero = _filters(b, (filters, channels, 3, 3), None)
    zeros = [zero, w_zero] if b.chance(0.7) else []
    b.node("ConvInteger", [codes, w, *zeros], [("int32", (x.shape[0], filters, *x.shape[2:]))], pads=[1] * 4,
           kernel_shape=[3, 3])  # fmt: skip
    return True


def _product(b: Builder) -> bool:
    """MatMulInteger, with zero points of the rows and columns too."""
    x = _source(b, 2)
    if x is None or not isinstance(x.shape[-1], int):
        return False
    codes, _, zero = _codes(b, x, b.choice(BYTES))
    columns = b.integer(1, 9)
    w, _, w_zero = _filters(b, (b.size(x.shape[-1]), columns), b.choice((None, columns)))
    zeros = b.choice(([], [zero], [zero, w_zero], [None, w_zero]))
    b.node("MatMulInteger", [codes, w, *zeros], [("int32", (*x.shape[:-1], columns))])
    return True


def _blocks(b: Builder) -> bool:
    """Scales for blocks along an axis (opset 21)."""
    x = b.pick(lambda t: t.dtype == "float32" and t.rank >= 1 and b.elements(t.shape) > 0)
    if x is None or b.special or b.opset < 21:
        return False
    axis = b.integer(0, x.rank - 1)
    if not all(isinstance(e, int) for e in x.shape):
        return False
    sizes = b.concrete(x.shape)
    block = b.choice([d for d in range(1, sizes[axis] + 1) if sizes[axis] % d == 0])
    shape = tuple(e // block if i == axis else e for i, e in enumerate(sizes))
    scale = b.constant(b.rng.uniform(0.1, 0.5, shape).astype(np.float32))
    dtype = b.choice((*BYTES, *FOUR_BITS))
    low = 0 if dtype.startswith("u") else -2
    zero = b.constant(b.rng.integers(low, 3, shape).astype(numpy_type(dtype)))
    attributes: Attributes = {"axis": axis, "block_size": block}
    codes = b.node("QuantizeLinear", [x, scale, zero], [(dtype, x.shape)], visible=False, **attributes)[0]
    b.node("DequantizeLinear", [codes, scale, zero], [("float32", x.shape)], **attributes)
    return True


def _weights_only(b: Builder) -> bool:
    """A product with weights of four bits or floats of eight."""
    x = _source(b, 2)
    if x is None or not isinstance(x.shape[-1], int):
        return False
    depth, columns = b.size(x.shape[-1]), b.integer(1, 9)
    if b.opset >= 21 and b.chance(0.6):
        dtype = b.choice(FOUR_BITS)
        low, high = (-8, 8) if dtype == "int4" else (0, 16)
        w = b.constant(b.rng.integers(low, high, (depth, columns)).astype(numpy_type(dtype)))
    elif b.opset >= 19:
        dtype = b.choice(EIGHT_BIT_FLOATS)
        w = b.constant(b.rng.standard_normal((depth, columns)).astype(numpy_type(dtype)))
    else:
        return False
    scale = b.constant(b.rng.uniform(0.1, 0.5, columns).astype(np.float32))
    real = b.node("DequantizeLinear", [w, scale], [("float32", (x.shape[-1], columns))], visible=False, axis=1)[0]
    b.node("MatMul", [x, real], [("float32", (*x.shape[:-1], columns))])
    return True


# -- narrow types ------------------------------------------------------------------------------------------------------


def narrow(b: Builder) -> bool:
    """Through bfloat16, floats of 8 bits, integers of 4, and back."""
    return bool(b.choice((_brain_floats, _brain_floats, _eight_bits, _four_bits, _bits))(b))


def _brain_floats(b: Builder) -> bool:
    """bfloat16: what moves it, and some arithmetic."""
    x = b.pick(lambda t: t.dtype == "float32")
    if x is None:
        return False
    y = b.node("Cast", [x], [("bfloat16", x.shape)], to=dtype_code("bfloat16"))[0]
    for _ in range(b.integer(0, 3)):
        if b.chance(0.5):
            if (op := b.choice(BF16_UNARY)) == "Sqrt":
                y = b.unary("Abs", y, visible=False)
            y = b.unary(op, y)
        else:
            shape: tuple[Extent, ...] = tuple(1 if isinstance(e, str) else e for e in y.shape)
            array = np.abs(b.rng.standard_normal(b.concrete(shape))) + 0.5
            y = b.node(b.choice(BF16_BINARY), [y, _stored(b, array, "bfloat16")], [("bfloat16", y.shape)])[0]
    b.node("Cast", [y], [("float32", y.shape)], to=dtype_code("float32"))
    return True


def _stored(b: Builder, array: Array, dtype: str) -> Tensor:
    return b.constant(array.astype(numpy_type(dtype)))


def _eight_bits(b: Builder) -> bool:
    x = b.pick(lambda t: t.dtype in ("float32", "float16"))
    if x is None or b.opset < 19:
        return False
    dtype = b.choice(EIGHT_BIT_FLOATS)
    saturate = {} if b.chance(0.5) else {"saturate": 0}
    y = b.node("Cast", [x], [(dtype, x.shape)], to=dtype_code(dtype), visible=False, **saturate)[0]
    if b.chance(0.3):
        y = b.node("Reshape", [y, b.ints([-1])], [(dtype, (b.derived(b.elements(x.shape), *x.shape),))],
                   visible=False)[0] if b.elements(x.shape) else y  # fmt: skip
    b.node("Cast", [y], [("float32", y.shape)], to=dtype_code("float32"))
    return True


def _four_bits(b: Builder) -> bool:
    x = b.pick(lambda t: t.dtype in ("int32", "int8", "uint8"))
    if x is None or b.opset < 21:
        return False
    bound = b.constant(np.asarray(7, x.dtype))
    small = b.node("Mod", [x, bound], [(x.dtype, x.shape)], visible=False)[0]
    dtype = b.choice(FOUR_BITS)
    y = b.node("Cast", [small], [(dtype, x.shape)], to=dtype_code(dtype), visible=False)[0]
    b.node("Cast", [y], [("int32", x.shape)], to=dtype_code("int32"))
    return True


def _bits(b: Builder) -> bool:
    """BitCast between types of one size (opset 26)."""
    x = b.pick(lambda t: t.dtype in ("int32", "float32", "uint8", "int8", "int16"))
    if x is None or b.opset < 26 or b.special:
        return False
    same = {"int32": "uint32", "float32": "int32", "uint8": "int8", "int8": "uint8", "int16": "uint16"}[x.dtype]
    y = b.node("BitCast", [x], [(same, x.shape)], to=dtype_code(same), visible=x.dtype != "float32")[0]
    if x.dtype == "float32":  # the last bits differ between engines: back to the number at once
        b.node("BitCast", [y], [("float32", x.shape)], to=dtype_code("float32"))
    return True
