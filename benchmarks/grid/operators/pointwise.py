"""Element by element: arithmetic, functions, comparisons, bits, choices, conversions."""

from __future__ import annotations

from collections.abc import Iterator
from math import erf

import numpy as np
from onnx import TensorProto, numpy_helper

from benchmarks.fuzz.build import dtype_code, numpy_type
from benchmarks.grid.examples import FLOATS, NARROW_FLOATS, WORDS, Example, Given, Table, bits, specials

TABLE = Table()

SHAPES: dict[str, tuple[int, ...]] = {"scalar": (), "one": (1,), "empty": (0, 3), "odd": (3, 5, 7), "long": (67,)}
PAIRS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "same": ((3, 5), (3, 5)),
    "row": ((3, 5), (5,)),
    "column": ((2, 1, 5), (3, 1)),
    "scalar": ((), (3,)),
    "scalars": ((), ()),
    "empty": ((0, 3), (1, 3)),
    "deep": ((2, 3, 2, 5), (3, 1, 5)),
}
FUNCTIONS = (
    "Abs",
    "Neg",
    "Sign",
    "Reciprocal",
    "Sqrt",
    "Exp",
    "Log",
    "Erf",
    "Tanh",
    "Sigmoid",
    "Softplus",
    "Relu",
    "Sin",
    "Cos",
    "Tan",
    "Asin",
    "Acos",
    "Atan",
    "Sinh",
    "Cosh",
    "Asinh",
    "Acosh",
    "Atanh",
    "Floor",
    "Ceil",
    "Round",
    "IsNaN",
    "Not",
    "HardSwish",
    "Mish",
    "BitwiseNot",
)
DOMAIN: dict[str, tuple[float, float]] = {
    "Sqrt": (0, 9),
    "Log": (0.01, 9),
    "Asin": (-1, 1),
    "Acos": (-1, 1),
    "Acosh": (1, 9),
    "Atanh": (-0.9, 0.9),
    "Reciprocal": (0.5, 4),
}


@TABLE.row(*FUNCTIONS)
def functions(g: Given) -> Iterator[Example]:
    """Functions of one tensor without attributes."""
    old = {"consumed_inputs": [0]} if g.since == 1 and "consumed_inputs" in g.schema.attributes else {}
    (parameter,) = (
        c.type_param_str for c in g.schema.type_constraints if g.schema.inputs[0].type_str == c.type_param_str
    )
    operands = {name: g.data(parameter, shape, *DOMAIN.get(g.op, (-2, 2))) for name, shape in SHAPES.items()}
    for name, x in (operands | {"special": specials(g.dtype(parameter))}).items():
        want = [np.vectorize(erf, otypes=[np.float64])(x.astype(np.float64)).astype(x.dtype)] if g.op == "Erf" else None
        yield g.case(name, x, want=want, **old)


@TABLE.row("Softsign")
def softsign(g: Given) -> Iterator[Example]:
    """x / (1 + |x|)."""
    for name, shape in SHAPES.items():
        x = g.data("T" if "T" in g.types else "input", shape)
        wide = x.astype(np.float64)
        yield g.case(name, x, want=[wide / (1 + np.abs(wide))])


@TABLE.row("Elu", "LeakyRelu", "ThresholdedRelu", "Celu", "Selu", "HardSigmoid", "Shrink", "Gelu", "Swish", "IsInf")
def parametric(g: Given) -> Iterator[Example]:
    """Functions of one tensor with attributes, each left out or given."""
    forms: dict[str, dict[str, object]] = {
        "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
        "Selu": {"alpha": 1.5, "gamma": 0.75},
        "Shrink": {"lambd": 1.5, "bias": 0.5},
        "Gelu": {"approximate": "tanh"},
        "IsInf": {"detect_negative": 0},
    }
    parameter = g.schema.inputs[0].type_str
    given = forms.get(g.op, {"alpha": 0.75})
    if g.op == "Shrink" and g.dtype(parameter) not in FLOATS:
        given = {"lambd": 2.0, "bias": 1.0}
    for name, shape in SHAPES.items():
        yield g.case(name, g.data(parameter, shape))
    yield g.case("attributes", g.data(parameter, (5, 7)), **given)
    numbers = specials(g.dtype(parameter))
    if g.op in ("Gelu", "Swish"):  # the formula has no value at -inf
        numbers = numbers[numbers.astype(np.float64) != -np.inf]
    if g.op != "Shrink" or g.dtype(parameter) in FLOATS:
        yield g.case("special", numbers)
        yield g.case("special attributes", numbers, **given)


def _aligned(g: Given, b: np.ndarray, rank: int, axis: int) -> tuple[np.ndarray, dict[str, int]]:
    """The second operand of old broadcasting, which lies along the axes from `axis`; since version 7 it is reshaped."""
    if g.since >= 7:
        return b.reshape(*b.shape, *[1] * (rank - axis - b.ndim)), {}
    return b, {"broadcast": 1, "axis": axis}


ARITHMETIC = ("Add", "Sub", "Mul", "Div", "And", "Or", "Xor", "Equal", "Greater", "Less", "Pow")


@TABLE.row(*ARITHMETIC, "GreaterOrEqual", "LessOrEqual", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
def binary(g: Given) -> Iterator[Example]:
    """Functions of two tensors."""
    first, second = (i.type_str for i in g.schema.inputs)
    old = g.since < 7 and g.op in ARITHMETIC
    low = (1, 4) if g.op in ("Div", "Pow") else (-2, 2)
    bottom = (0.2, 3) if g.op == "Pow" else (-2, 2)
    for name, (a, b) in PAIRS.items():
        if not old or a == b:
            yield g.case(name, g.data(first, a, *bottom), g.data(second, b, *low, seed=1))
    if g.op in ARITHMETIC:
        b, attributes = _aligned(g, g.data(second, (3, 2), *low, seed=1), 4, 1)
        yield g.case("axis", g.data(first, (2, 3, 2, 5), *bottom), b, **attributes)
    if g.dtype(first) in FLOATS or g.op in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Add", "Mul"):
        a, b = specials(g.dtype(first)), specials(g.dtype(second))
        if g.op == "Pow" and g.dtype(second) not in FLOATS:
            b = b[np.abs(b.astype(np.float64)) < 9]
        if not old:
            yield g.case("special", a[:, None], b)


@TABLE.row("BitShift")
def shifts(g: Given) -> Iterator[Example]:
    """To the left and right."""
    for direction in ("LEFT", "RIGHT"):
        for name, (a, b) in PAIRS.items():
            yield g.case(f"{name} {direction}", g.data("T", a), g.data("T", b, 0, 7, seed=1), direction=direction)


@TABLE.row("Mod")
def modulo(g: Given) -> Iterator[Example]:
    """Python's and C's remainder; floats have the second alone."""
    for fmod in (0, 1):
        if g.dtype("T") in FLOATS and not fmod:
            continue
        for name, (a, b) in PAIRS.items():
            divisor = g.data("T", b, 1, 4, seed=1)
            if not np.dtype(numpy_type(g.dtype("T"))).name.startswith("u"):
                divisor = np.where(np.arange(divisor.size).reshape(b) % 2, divisor, -divisor).astype(divisor.dtype)
            yield g.case(f"{name} fmod={fmod}", g.data("T", a, -9, 9), divisor, fmod=fmod)


@TABLE.row("Max", "Min", "Sum", "Mean")
def variadic(g: Given) -> Iterator[Example]:
    """Of one, two and three tensors."""
    yield g.case("single", g.data("T", (3, 5)))
    yield g.case("pair", g.data("T", (3, 5)), g.data("T", (3, 5), seed=1))
    yield g.case("empty", g.data("T", (0, 3)), g.data("T", (0, 3), seed=1))
    yield g.case("three", *(g.data("T", (3, 5), seed=i) for i in range(3)))
    if g.since >= 8:
        yield g.case("broadcast", g.data("T", (2, 1, 5)), g.data("T", (3, 1), seed=1), g.data("T", (), seed=2))
        if g.op in ("Max", "Min"):
            numbers = specials(g.dtype("T"))
            yield g.case("special", numbers[:, None], numbers)


@TABLE.row("PRelu")
def prelu(g: Given) -> Iterator[Example]:
    """Slopes for all, for channels, for elements."""
    x = g.data("T", (2, 3, 2, 5))
    yield g.case("one", x, g.data("T", (1,), 0, 3, seed=1))
    slopes = g.data("T", (3,), 0, 3, seed=1)
    yield g.case("channels", x, slopes if g.since < 7 else slopes.reshape(3, 1, 1))
    if g.since >= 7:
        yield g.case("elements", x, g.data("T", (2, 3, 2, 5), 0, 3, seed=1))
        yield g.case("empty", g.data("T", (0, 3)), g.data("T", (3,), 0, 3, seed=1))


@TABLE.row("Clip")
def clip(g: Given) -> Iterator[Example]:
    """Both bounds, one, none, crossed."""
    bounds = {"both": (-1, 1), "low": (0, None), "high": (None, 1), "none": (None, None)}
    if g.dtype("T").startswith("u"):
        bounds["both"] = (1, 3)
    for name, (low, high) in bounds.items():
        operands = [g.by_operand(11, v, g.dtype("T")) for v in (low, high)]
        attributes = g.by_attribute(11, min=low, max=high)
        for shape in ("scalar", "empty", "odd"):
            x = g.data("T", SHAPES[shape], -3, 5)
            yield g.case(
                f"{name} {shape}", x, *operands, **{k: None if v is None else float(v) for k, v in attributes.items()}
            )
    if g.since >= 12:
        kind = numpy_type(g.dtype("T"))
        yield g.case("crossed", g.data("T", (3, 5), -3, 5), np.array(3, kind), np.array(1, kind))
        yield g.case("special", specials(g.dtype("T")), np.array(1, kind), np.array(2, kind))


@TABLE.row("Where", exact=True)
def where(g: Given) -> Iterator[Example]:
    """Three tensors that broadcast."""
    for name, (a, b) in PAIRS.items():
        condition = g.data("bool", np.broadcast_shapes(a, b), seed=2)
        yield g.case(name, condition, g.data("T", a), g.data("T", b, seed=1))
    yield g.case("condition", g.data("bool", (3, 1), seed=2), g.data("T", (5,)), g.data("T", (1,), seed=1))


@TABLE.row("Cast", exact=True, product=True)
def cast(g: Given) -> Iterator[Example]:
    """From every type to every other."""
    to = g.dtype("T2")
    code = TensorProto.STRING if to == "string" else dtype_code(to)
    target: int | str = TensorProto.DataType.Name(code) if g.since < 6 else code
    for name, x in _castable(g, to).items():
        whole = to == "string" and "int" in g.dtype("T1")
        want = [np.array([str(int(v)) for v in x.flat], object).reshape(x.shape)] if whole else None
        want = [x] if to == g.dtype("T1") else want
        if g.dtype("T1") == "string" and to == "float8_e4m3fn":  # which ONNX Runtime gives as bytes
            want = [x.astype(np.float32).astype(numpy_type(to))]
        if to == "float8_e8m0fnu" and g.dtype("T1") == "float64":  # onnx.reference takes what no f32 holds for infinite
            finite = np.where(np.isfinite(x), np.clip(x, *np.finfo(np.float32).max * np.array([-1, 1])), x)
            powers = numpy_helper.to_float8e8m0(finite.astype(np.float32).reshape(-1), True, "up")
            want = [powers.reshape(x.shape)]
        if to == "string" and g.dtype("T1") in NARROW_FLOATS and name == "scalar":  # of which it makes a list of one
            want = [np.array(f"{float(x):g}", object)]
        yield g.case(name, x, to=target, want=want)
    if g.since >= 19 and to.startswith("float8") and g.dtype("T1") in FLOATS:
        beyond = np.array([1.0, 1e3, 1e5, -1e5, np.inf]).astype(numpy_type(g.dtype("T1")))
        yield g.case("beyond", beyond, to=target, saturate=0)


def _castable(g: Given, to: str) -> dict[str, np.ndarray]:
    source = g.dtype("T1")
    if source == "string":
        numbers = np.array(["1", "0", "3", "1", "0", "1"], object) if to != "string" else WORDS[:6]
        return {"odd": numbers.reshape(3, 2), "empty": WORDS[:0]}
    low = 0 if to.startswith("u") or to == "float8_e8m0fnu" else -2
    found = {"odd": g.data("T1", (3, 5), low), "empty": g.data("T1", (0, 3)), "scalar": g.data("T1", (), low)}
    if to != "string":
        found["special"] = _defined(specials(source), to)
    return found


def _defined(x: np.ndarray, to: str) -> np.ndarray:
    """The elements whose conversion the standard defines: floats that an integer can hold, numbers for f4e2m1."""
    if "float" in x.dtype.name and to.startswith("float4"):
        return x[~np.isnan(x.astype(np.float64))]
    if "float" in x.dtype.name and to != "bool" and "float" not in to:
        wide = x.astype(np.float64)
        return x[np.isfinite(wide) & (np.abs(wide) < 2) & ((wide >= 0) | (not to.startswith("u")))]
    return x


@TABLE.row("CastLike", exact=True)
def cast_like(g: Given) -> Iterator[Example]:
    """As Cast."""
    like = g.data("T2", (2,), seed=1)
    for name, x in _castable(g, g.dtype("T2")).items():
        yield g.case(name, x, like, want=[x] if g.dtype("T1") == g.dtype("T2") else None)


@TABLE.row("BitCast", exact=True, product=True)
def bit_cast(g: Given) -> Iterator[Example]:
    """Types of one size."""
    source, to = g.dtype("T1"), g.dtype("T2")
    if "bool" in (source, to) or bits(source) != bits(to):
        return
    for name, shape in SHAPES.items():
        yield g.case(name, g.data("T1", shape), to=dtype_code(to))


@TABLE.row("SwiGLU")
def swiglu(g: Given) -> Iterator[Example]:
    """A gate and what it lets through."""
    for name in ("odd", "empty", "scalar"):
        yield g.case(name, g.data("T", SHAPES[name]), g.data("T", SHAPES[name], seed=1))
    yield g.case("alpha", g.data("T", (3, 5)), g.data("T", (3, 5), seed=1), alpha=1.5)


@TABLE.row("Dropout", "Identity", exact=True)
def identity(g: Given) -> Iterator[Example]:
    """What changes nothing."""
    parameter = g.schema.inputs[0].type_str
    attributes = {"is_test": 1} if g.op == "Dropout" and g.since < 7 else {}
    operands = {name: g.data(parameter, shape) for name, shape in SHAPES.items()}
    for name, x in (operands | {"special": specials(g.dtype(parameter))}).items():
        yield g.case(name, x, want=[x], **attributes)


@TABLE.row("Constant", exact=True)
def constants(g: Given) -> Iterator[Example]:
    """Tensors, numbers and lists."""
    from onnx import numpy_helper

    for name, shape in SHAPES.items():
        array = g.data("T", shape)
        yield g.case(name, value=numpy_helper.from_array(array), want=[array])
    if g.since >= 12 and g.dtype("T") == "float32":
        yield g.case("float", value_float=1.5, want=[np.array(1.5, np.float32)])
        yield g.case("floats", value_floats=[1.5, -2.0], want=[np.array([1.5, -2.0], np.float32)])
        yield g.case("int", value_int=-7, want=[np.array(-7)])
        yield g.case("ints", value_ints=[1, 2, 3], want=[np.array([1, 2, 3])])
        yield g.case("string", value_string="word", want=[np.array("word", object)])
        yield g.case("strings", value_strings=["a", ""], want=[np.array(["a", ""], object)])
