"""Element by element: unary, binary with broadcasting, comparisons, Where, Clip, Cast, bits."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzz.build import FLOATS, INTEGERS, Attributes, Builder, Tensor, broadcast, dtype_code, partner_shape

# name -> oldest opset
SMOOTH: dict[str, int] = {
    "Abs": 13, "Neg": 13, "Erf": 13, "Tanh": 13, "Sigmoid": 13, "Softplus": 1, "Relu": 14, "Sin": 7, "Cos": 7,
    "Atan": 7, "Asinh": 9, "Softsign": 1, "Elu": 6, "Selu": 6, "LeakyRelu": 6, "HardSigmoid": 6, "HardSwish": 14,
    "ThresholdedRelu": 10, "Celu": 12, "Mish": 18, "Gelu": 20, "Identity": 14, "Sinh": 9, "Swish": 24,
}  # fmt: skip
ONLY_F32 = ("Celu",)
STEPS = ("Floor", "Ceil", "Round", "Sign")


def unary(b: Builder) -> bool:
    """A function of one float tensor, kept in its domain by another where it has one."""
    x = b.pick(lambda t: t.is_float)
    if x is None:
        return False
    kind = b.integer(0, 9)
    if kind == 0:
        b.unary(b.choice(STEPS), x)
        return True
    if kind == 1:
        positive = b.unary("Abs", x, visible=False)
        op = b.choice(("Sqrt", "Log", "Reciprocal", "Acosh"))
        if op != "Sqrt":
            offset = b.constant(np.asarray(1.25, x.dtype))
            positive = b.node("Add", [positive, offset], [(x.dtype, x.shape)], visible=False)[0]
        b.unary(op, positive)
        return True
    if kind == 2:
        bounded = b.unary("Tanh", x, visible=False)
        op = b.choice(("Exp", "Asin", "Acos", "Tan", "Cosh"))
        if op in ("Asin", "Acos"):
            bounded = _scaled(b, bounded, 0.9)
        b.unary(op, bounded)
        return True
    names = [n for n, opset in SMOOTH.items() if opset <= b.opset and (x.dtype == "float32" or n not in ONLY_F32)]
    op = b.choice(names)
    attributes: Attributes = {}
    if op in ("Elu", "LeakyRelu", "Celu", "ThresholdedRelu") and b.chance(0.7):
        attributes["alpha"] = float(b.rng.uniform(0.1, 1.5))
    if op == "HardSigmoid" and b.chance(0.5):
        attributes |= {"alpha": 0.3, "beta": 0.4}
    if op == "Gelu" and b.chance(0.5):
        attributes["approximate"] = "tanh"
    b.unary(op, x, **attributes)
    return True


def _scaled(b: Builder, x: Tensor, factor: float) -> Tensor:
    return b.node("Mul", [x, b.constant(np.asarray(factor, x.dtype))], [(x.dtype, x.shape)], visible=False)[0]


def partner(b: Builder, x: Tensor) -> Tensor:
    """Another operand that broadcasts with `x`."""
    found = b.pick(lambda t: t.dtype == x.dtype and broadcast(b, t.shape, x.shape) is not None)
    if found is not None and b.chance(0.55):
        return found
    shape = partner_shape(b, x.shape)
    if b.chance(0.1):
        shape = (*(b.integer(1, 3) for _ in range(x.rank + 1 - len(shape))), *shape) if x.rank < 4 else shape
    array = b.values(x.dtype, b.concrete(shape))
    if b.depth or b.chance(0.7):
        return b.constant(array)
    return b.add_input(x.dtype, shape)


def binary(b: Builder) -> bool:
    """Arithmetic on floats."""
    x = b.pick(lambda t: t.is_float)
    if x is None:
        return False
    y = partner(b, x)
    if b.chance(0.5):
        x, y = y, x
    shape = broadcast(b, x.shape, y.shape)
    if shape is None:
        return False
    op = b.choice(("Add", "Sub", "Mul", "Mul", "Add", "Min", "Max", "Div", "Pow", "PRelu", "Mod", "Sum", "Mean"))
    if op in ("Div", "Mod", "Pow"):
        base = y if op != "Pow" else x
        away = b.unary("Abs", base, visible=False)
        half = b.constant(np.asarray(0.5, x.dtype))
        away = b.node("Add", [away, half], [(x.dtype, base.shape)], visible=False)[0]
        if op == "Pow":
            x = away
            power = b.constant(np.asarray(b.choice((0.5, 2, 3, -1)), x.dtype))
            y = b.unary("Tanh", y, visible=False) if b.chance(0.5) else power
            shape = broadcast(b, x.shape, y.shape)
            assert shape is not None
        else:
            y = away
    if op == "PRelu" and (broadcast(b, x.shape, y.shape) != x.shape):
        return False
    fmod: Attributes = {"fmod": 1} if op == "Mod" else {}
    b.node(op, [x, y], [(x.dtype, shape)], **fmod)
    return True


def integer(b: Builder) -> bool:
    """Arithmetic and bits on integers."""
    x = b.pick(lambda t: t.dtype in INTEGERS)
    if x is None:
        x = b.pick(lambda t: t.is_float and not b.special)
        if x is None:
            return False
        b.node("Cast", [b.unary("Tanh", x, visible=False)], [("int32", x.shape)], to=dtype_code("int32"))
        return True
    kind = b.integer(0, 4)
    if kind == 0 and not x.dtype.startswith("u"):
        b.unary(b.choice(("Abs", "Neg", "Sign")), x)
        return True
    if kind == 1:
        divisor = b.constant(np.asarray(b.integer(1, 7), x.dtype))
        op = b.choice(("Div", "Mod"))
        fmod: Attributes = {"fmod": 1} if op == "Mod" and b.chance(0.3) else {}
        b.node(op, [x, divisor], [(x.dtype, x.shape)], **fmod)
        return True
    y = partner(b, x)
    shape = broadcast(b, x.shape, y.shape)
    if shape is None:
        return False
    if kind in (2, 4) and b.opset >= 18:
        b.node(b.choice(("BitwiseAnd", "BitwiseOr", "BitwiseXor")), [x, y], [(x.dtype, shape)])
        return True
    if kind == 3 and x.dtype == "uint8":
        count = b.constant(np.asarray(b.integer(0, 7), x.dtype))
        b.node("BitShift", [x, count], [(x.dtype, x.shape)], direction=b.choice(("LEFT", "RIGHT")))
        return True
    b.node(b.choice(("Add", "Sub", "Mul", "Min", "Max")), [x, y], [(x.dtype, shape)])
    return True


def logic(b: Builder) -> bool:
    """Comparisons, logic on bools, Where, IsNaN."""
    x = b.pick()
    assert x is not None
    kind = b.integer(0, 3)
    flag = b.pick(lambda t: t.dtype == "bool")
    if flag is not None and kind == 0:
        other = partner(b, flag)
        shape = broadcast(b, flag.shape, other.shape)
        if shape is None:
            return False
        b.node(b.choice(("And", "Or", "Xor", "Equal")), [flag, other], [("bool", shape)])
        return True
    if flag is not None and kind == 1:
        values = b.pick(lambda t: broadcast(b, t.shape, flag.shape) is not None and t.dtype != "bool")
        if values is None:
            return False
        other = partner(b, values)
        shape = broadcast(b, values.shape, other.shape, flag.shape)
        if shape is None:
            return False
        order = [values, other] if b.chance(0.5) else [other, values]
        b.node("Where", [flag, *order], [(values.dtype, shape)])
        return True
    if x.dtype == "bool":
        b.unary("Not", x)
        return True
    if x.is_float and kind == 2:
        b.node(b.choice(("IsNaN", "IsInf")) if x.dtype != "float16" else "IsNaN", [x], [("bool", x.shape)])
        return True
    other = partner(b, x)
    shape = broadcast(b, x.shape, other.shape)
    if shape is None:
        return False
    b.node(b.choice(("Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal")), [x, other], [("bool", shape)])
    return True


def clip(b: Builder) -> bool:
    """Clip with both bounds, one or none."""
    x = b.pick(lambda t: t.is_float or t.dtype in ("int32", "int64", "int8"))
    if x is None:
        return False
    low = b.constant(np.asarray(-1, x.dtype)) if b.chance(0.7) else None
    high = b.constant(np.asarray(2, x.dtype)) if b.chance(0.7) else None
    b.node("Clip", [x, low, high], [(x.dtype, x.shape)])
    return True


def cast(b: Builder) -> bool:
    """Between element types, floats to integers within their range."""
    x = b.pick()
    assert x is not None
    every = FLOATS if x.dtype == "bfloat16" else (*FLOATS, *INTEGERS, "bool", b.float_type)
    to = b.choice([t for t in every if t != x.dtype])
    if x.is_float and to not in (*FLOATS, "bool"):
        if b.special:
            return False
        x = _scaled(b, b.unary("Tanh", x, visible=False), 5)
        if to.startswith("u"):
            x = b.unary("Abs", x, visible=False)
    b.node("Cast", [x], [(to, x.shape)], to=dtype_code(to))
    return True
