"""Every function of `vecmath`, compiled for the host and compared with numpy in a wider format."""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest
from llvmlite import ir

from ingot.compiler.targets.cpu import vecmath
from ingot.compiler.targets.cpu.vecmath import FUNCTIONS, MathOptions
from ingot.compiler.targets.elf_object import STT_FILE, read_object

F32, F64 = ir.FloatType(), ir.DoubleType()
I16 = ir.IntType(16)
NATIVE = MathOptions()
BARE = MathOptions(fma=False, half=False, rounding=False)
BINARY = ("pow", "atan2", "fmod")
EXTENDED = np.finfo(np.longdouble).nmant >= 63

needs_extended = pytest.mark.skipif(not EXTENDED, reason="needs a long double wider than double as the reference")


# Compiling a loop over arrays


@pytest.fixture(scope="module", autouse=True)
def _targets() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    features = llvm.get_host_cpu_features()
    if platform.machine() in ("x86_64", "AMD64") and not (features.get("fma") and features.get("f16c")):
        pytest.skip("the host lacks FMA or F16C")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


class Loop:
    """``out[i] = function(*args[i])`` over flat arrays, `lanes` at a time (None: as scalars)."""

    def __init__(
        self,
        function: Callable[..., ir.Value],
        inputs: int = 1,
        element: ir.Type = F32,
        lanes: int | None = 8,
        result: ir.Type | None = None,
        **options: Any,
    ) -> None:
        result = result or element
        module = ir.Module()
        i64 = ir.IntType(64)
        pointers = [ir.PointerType(element)] * inputs + [ir.PointerType(result)]
        kernel = ir.Function(module, ir.FunctionType(ir.VoidType(), [i64, *pointers]), "kernel")
        entry, body, end = (kernel.append_basic_block(name) for name in ("entry", "body", "end"))
        ir.IRBuilder(entry).branch(body)
        b = ir.IRBuilder(body)
        i = b.phi(i64)
        i.add_incoming(i64(0), entry)

        def place(pointer: ir.Value, type_: ir.Type) -> ir.Value:
            at = b.gep(pointer, [i])
            return at if lanes is None else b.bitcast(at, ir.PointerType(ir.VectorType(type_, lanes)))

        args = [b.load(place(pointer, element), align=1) for pointer in kernel.args[1:-1]]
        b.store(function(b, *args, **options), place(kernel.args[-1], result), align=1)
        following = b.add(i, i64(lanes or 1))
        i.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, kernel.args[0]), body, end)
        ir.IRBuilder(end).ret_void()

        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=1, jit=True
        )
        self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
        self.engine.finalize_object()
        signature = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * (inputs + 1))
        self.call = signature(self.engine.get_function_address("kernel"))
        self.lanes = lanes or 1

    def __call__(self, *args: np.ndarray[Any, Any], dtype: Any = None) -> np.ndarray[Any, Any]:
        count = args[0].size
        padded = -(-count // self.lanes) * self.lanes
        arrays = [np.resize(a, padded) for a in args]
        out = np.empty(padded, dtype or args[0].dtype)
        self.call(padded, *[a.ctypes.data for a in arrays], out.ctypes.data)
        return out[:count]


# References and measures


def erf(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x.astype(np.float64)), np.float64)


def sigmoid(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    decay = np.exp(-np.abs(x))
    return np.where(x < 0, decay, 1) / (1 + decay)


def softplus(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


class Bound(NamedTuple):
    reference: Callable[..., Any]
    single: float  # ulp
    double: float


BOUNDS = {
    "exp": Bound(np.exp, 1, 1.5),
    "fast_exp": Bound(np.exp, 2.5, 1.5),
    "expm1": Bound(np.expm1, 2, 2.5),
    "log": Bound(np.log, 1, 1),
    "log1p": Bound(np.log1p, 1.5, 1.5),
    "tanh": Bound(np.tanh, 3, 3),
    "sigmoid": Bound(sigmoid, 2.5, 3),
    "softplus": Bound(softplus, 2, 3),
    "erf": Bound(erf, 1.5, 2.5),
    "sin": Bound(np.sin, 2, 2),
    "cos": Bound(np.cos, 2, 2),
    "tan": Bound(np.tan, 3.5, 3.5),
    "asin": Bound(np.arcsin, 2, 2),
    "acos": Bound(np.arccos, 1.5, 1.5),
    "atan": Bound(np.arctan, 2, 2),
    "atan2": Bound(np.arctan2, 2, 2),
    "sinh": Bound(np.sinh, 2, 2.5),
    "cosh": Bound(np.cosh, 1.5, 2),
    "asinh": Bound(np.arcsinh, 1, 2.5),
    "acosh": Bound(np.arccosh, 1, 2.5),
    "atanh": Bound(np.arctanh, 1, 2.5),
    "pow": Bound(np.power, 1, 2),
    "sqrt": Bound(np.sqrt, 0.5, 0.5),
    "reciprocal": Bound(np.reciprocal, 0.5, 0.5),
}
EXACT = {
    "round_half_even": np.rint,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
}
UNARY = [name for name in BOUNDS if name not in BINARY]


def ulps(got: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Errors in units in the last place of `got`'s format at the reference; infinite where only one is NaN or the sign
    of the two differs. What lies beyond the largest number counts as the next power of two."""
    format_ = np.finfo(got.dtype)
    wide = reference.dtype.type
    top = np.ldexp(wide(1), format_.maxexp)
    g, r = np.clip(got.astype(wide), -top, top), np.clip(reference, -top, top)
    exponent = np.clip(np.frexp(r)[1] - 1, format_.minexp, format_.maxexp - 1) - format_.nmant
    error = np.ldexp(np.abs(g - r), -exponent)
    both_nan = np.isnan(g) & np.isnan(r)
    wrong = (np.isnan(g) != np.isnan(r)) | (np.signbit(g) != np.signbit(r))
    return np.where(both_nan, 0, np.where(wrong, np.inf, error)).astype(np.float64)


def assert_close(
    got: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], bound: float, *args: np.ndarray[Any, Any]
) -> None:
    error = ulps(got, reference)
    worst = int(np.argmax(error))
    at = ", ".join(repr(a[worst]) for a in args)
    assert error[worst] <= bound, f"{error[worst]:.3f} ulp at {at}: {got[worst]!r}, not {reference[worst]!r}"


SPECIAL = [
    0.0, -0.0, math.inf, -math.inf, math.nan, 1, -1, 0.5, -0.5, 2, -2, 3, -3, 1e-40, -1e-40, 5e-324, -5e-324,
    1.17549435e-38, 2.2250738585072014e-308, 3.4028235e38, 1.7976931348623157e308, -1.7976931348623157e308,
    88.72283, 88.72284, 89.0, 104.0, -87.33655, -88.0, -103.97, -103.98, -104.0, 709.782712893384, 709.7827128933841,
    710.4758600739439, -708.4, -745.1332191019411, -745.1332191019412, 9.01, 3.92, 18.0, 0.34657359, 2.4142136,
    0.41421356, 1e22, 6381956970095103 * 2.0**797, 16777216.0, 8388607.5, 4503599627370495.5, 131072.0, 1073741824.0,
    1.5707964, 3.1415927, 6.2831855, 1e30, 2.5, -2.5, 0.70710677, 1.4142135,
]  # fmt: skip


def float32_samples(stride: int) -> np.ndarray[Any, Any]:
    """Every stride-th bit pattern and all neighbours of the special points, of either sign."""
    pattern = np.arange(0, 1 << 32, stride, dtype=np.uint64).astype(np.uint32)
    special = np.array(SPECIAL, np.float64).astype(np.float32).view(np.uint32).astype(np.int64)
    near = (special[:, None] + np.arange(-200, 201)).ravel() & 0xFFFFFFFF
    near = np.concatenate([near, near ^ 0x80000000]).astype(np.uint32)
    return np.concatenate([pattern, near]).view(np.float32)


def float64_samples(count: int) -> np.ndarray[Any, Any]:
    """Random bit patterns, the ranges where functions bend, neighbours of multiples of pi/2 and of special points."""
    rng = np.random.default_rng(20)
    sign = rng.choice([-1.0, 1.0], (4, count))
    special = np.array(SPECIAL).view(np.int64)
    near = (special[:, None] + np.arange(-20, 21)).ravel().view(np.float64)
    parts = [
        rng.integers(0, 1 << 64, count, dtype=np.uint64).view(np.float64),
        rng.uniform(-1, 1, count),
        rng.uniform(-20, 20, count),
        rng.uniform(-800, 800, count),
        np.exp(rng.uniform(-50, 50, count)) * sign[0],
        1 + np.exp(rng.uniform(-40, -1, count)) * sign[1],
        np.round(rng.uniform(0, 1e6, count)) * (np.pi / 2) * sign[2],
        np.exp(rng.uniform(-745, -600, count)) * sign[3],
        near,
        -near,
    ]
    return np.concatenate(parts)


def pairs(dtype: Any, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """All pairs of some special points, then random ones in moderate, near and extreme ranges."""
    rng = np.random.default_rng(30)
    points = np.array([*SPECIAL[:17], 7, -7, 1e30, 3e38, -3e38, 1.0000001, 0.9999999, 8388609, 16777217, 1e-310])
    first, second = (grid.ravel() for grid in np.meshgrid(points, points))
    sign = rng.choice([-1.0, 1.0], (2, count))
    near_one = 1 + rng.uniform(-1, 1, count) * np.exp(rng.uniform(-15, -1, count))
    scale = np.exp(rng.uniform(-80, 80, (2, count)))
    x = [
        first,
        scale[0] * sign[0],
        near_one,
        scale[0],
        rng.uniform(-10, 10, count),
        scale[1] * rng.uniform(-3, 3, count),
    ]
    y = [second, scale[1], rng.uniform(-1, 1, count) * np.exp(rng.uniform(0, 15, count)), rng.uniform(-1, 1, count),
         np.round(rng.uniform(-20, 20, count)), scale[1]]  # fmt: skip
    return np.concatenate(x).astype(dtype), np.concatenate(y).astype(dtype)


# Accuracy

HOT = ("exp", "fast_exp", "tanh", "sigmoid", "log")


@pytest.mark.parametrize("name", UNARY)
def test_float32_stays_within_its_bound(name: str) -> None:
    x = float32_samples(257 if name in HOT else 4099)
    if name == "fast_exp":
        x = x[~((x > 88) | (x < -87))]
    bound, loop = BOUNDS[name], Loop(FUNCTIONS[name])
    for part in np.array_split(x, x.size // 100_000 + 1):  # in cache
        assert_close(loop(part), bound.reference(part.astype(np.float64)), bound.single, part)


@needs_extended
@pytest.mark.parametrize("name", UNARY)
def test_float64_stays_within_its_bound(name: str) -> None:
    x = float64_samples(8_000)
    bound = BOUNDS[name]
    reference = np.asarray(bound.reference(x.astype(np.longdouble)), np.longdouble)
    assert_close(Loop(FUNCTIONS[name], element=F64, lanes=4)(x), reference, bound.double, x)


@needs_extended
@pytest.mark.parametrize("name", UNARY)
def test_bare_targets_lose_less_than_half_an_ulp(name: str) -> None:
    bound = BOUNDS[name]
    for element, lanes, x, wide, limit in (
        (F32, 8, float32_samples(40_009), np.float64, bound.single),
        (F64, 4, float64_samples(1_000), np.longdouble, bound.double),
    ):
        if name == "fast_exp" and element is F32:
            x = x[~((x > 88) | (x < -87))]
        reference = np.asarray(bound.reference(x.astype(wide)), wide)
        got = Loop(FUNCTIONS[name], element=element, lanes=lanes, options=BARE)(x)
        assert_close(got, reference, limit if limit == 0.5 else limit + 0.5, x)


@needs_extended
@pytest.mark.parametrize("options", [NATIVE, BARE], ids=["fma", "bare"])
@pytest.mark.parametrize("name", ["pow", "atan2"])
def test_binary_functions_stay_within_their_bounds(name: str, options: MathOptions) -> None:
    bound = BOUNDS[name]
    for dtype, element, wide, limit in (
        (np.float32, F32, np.float64, bound.single),
        (np.float64, F64, np.longdouble, bound.double),
    ):
        x, y = pairs(dtype, 20_000)
        reference = bound.reference(x.astype(wide), y.astype(wide))
        assert_close(Loop(FUNCTIONS[name], 2, element, 4, options=options)(x, y), reference, limit, x, y)


@pytest.mark.parametrize("options", [NATIVE, BARE], ids=["fma", "bare"])
@pytest.mark.parametrize(("dtype", "element"), [(np.float32, F32), (np.float64, F64)], ids=["f32", "f64"])
def test_fmod_is_exact(dtype: Any, element: ir.Type, options: MathOptions) -> None:
    word = np.uint32 if dtype is np.float32 else np.uint64
    patterns = np.random.default_rng(5).integers(0, np.iinfo(word).max, (2, 40_000), dtype=word).view(dtype)
    x, y = (np.concatenate(both) for both in zip(pairs(dtype, 20_000), patterns, strict=True))
    np.testing.assert_array_equal(Loop(FUNCTIONS["fmod"], 2, element, 4, options=options)(x, y), np.fmod(x, y))


@pytest.mark.parametrize("options", [NATIVE, BARE], ids=["native", "bare"])
@pytest.mark.parametrize("name", EXACT)
def test_rounding_is_exact(name: str, options: MathOptions) -> None:
    for element, x in ((F32, float32_samples(4099)), (F64, float64_samples(8_000))):
        got, reference = Loop(FUNCTIONS[name], element=element, lanes=4, options=options)(x), EXACT[name](x)
        np.testing.assert_array_equal(got, reference)
        np.testing.assert_array_equal(np.signbit(got)[~np.isnan(x)], np.signbit(reference)[~np.isnan(x)])


def test_fast_exp_ends_in_zero() -> None:
    x = np.array([-87.68, -87.7, -88, -100, -1e30, -math.inf, math.nan], np.float32)
    got = Loop(FUNCTIONS["fast_exp"])(x)
    assert (np.abs(got[:-1] - np.exp(x[:-1])) <= 2.0**-126).all()
    assert (got[3:6] == 0).all()
    assert np.isnan(got[6])


@pytest.mark.parametrize(("name", "units"), [("gelu", 3), ("fast_gelu", 6)])
def test_gelu_stays_within_its_bound(name: str, units: int) -> None:
    rng = np.random.default_rng(9)
    spread = np.exp(rng.uniform(-100, 88, 200_000)) * rng.choice([-1, 1], 200_000)
    x = np.concatenate([rng.uniform(-14, 14, 400_000), spread, [0.0, -0.0]]).astype(np.float32)
    wide = x.astype(np.float64)
    erfc = np.asarray(np.frompyfunc(math.erfc, 1, 1)(np.abs(wide) / np.sqrt(2)), np.float64)
    reference = np.maximum(wide, 0) - 0.5 * np.abs(wide) * erfc
    error = np.abs(Loop(FUNCTIONS[name])(x) - reference)
    assert (error <= np.maximum(units * 2.0**-24 * np.abs(wide), 2.0**-149)).all()

    got = Loop(FUNCTIONS[name])(np.array([math.inf, -math.inf, math.nan, -1e30], np.float32))
    np.testing.assert_array_equal(got, np.array([math.inf, math.nan, math.nan, 0], np.float32))

    double = Loop(FUNCTIONS[name], element=F64, lanes=4)(wide[:100_000])
    assert (np.abs(double - reference[:100_000]) <= 4 * 2.0**-53 * np.abs(wide[:100_000])).all()


@pytest.mark.parametrize("name", ["tanh", "erf", "sigmoid"])
def test_bounded_functions_keep_their_bounds(name: str) -> None:
    x = float32_samples(1021)
    got = Loop(FUNCTIONS[name])(x)
    low = 0 if name == "sigmoid" else -1
    assert ((got >= low) & (got <= 1))[~np.isnan(x)].all()


# Shapes


@pytest.mark.parametrize("element", [F32, F64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_number_of_lanes_gives_the_same_bits(name: str, element: ir.Type) -> None:
    inputs = 2 if name in BINARY else 1
    dtype, word = (np.float32, np.uint32) if element is F32 else (np.float64, np.uint64)
    x, y = (
        np.resize(np.array(values), 60).astype(dtype) for values in (SPECIAL, [2.5, -1.0, 1e30, 3.0, 0.0, 1e-30, -7.0])
    )
    x = np.minimum(x, dtype(88)) if name == "fast_exp" else x
    args = (x, y)[:inputs]
    results = [Loop(FUNCTIONS[name], inputs, element, lanes)(*args) for lanes in (4, None, 1, 3, 16)]
    for other in results[1:]:
        number = ~np.isnan(results[0])
        np.testing.assert_array_equal(other.view(word)[number], results[0].view(word)[number])
        assert np.isnan(other[~number]).all()


@pytest.mark.parametrize("type_", [ir.IntType(32), ir.HalfType(), ir.VectorType(ir.IntType(16), 4)])
def test_other_types_are_refused(type_: ir.Type) -> None:
    function = ir.Function(ir.Module(), ir.FunctionType(type_, [type_]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    with pytest.raises(TypeError, match="convert first"):
        vecmath.exp(builder, function.args[0])
    if type_ != ir.VectorType(I16, 4):
        with pytest.raises(TypeError, match="bit patterns"):
            vecmath.half_to_float(builder, function.args[0])


# Conversions


@pytest.mark.parametrize("options", [NATIVE, BARE], ids=["native", "bare"])
def test_half_conversions_agree_with_numpy(options: MathOptions) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    expected = halves.view(np.float16).astype(np.float32)
    widened = Loop(vecmath.half_to_float, element=I16, result=F32, options=options)(halves, dtype=np.float32)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(widened.view(np.uint32)[number], expected.view(np.uint32)[number])
    assert np.isnan(widened[~number]).all()

    between = ((expected[:-1].astype(np.float64) + expected[1:]) / 2).astype(np.float32)
    x = np.concatenate([float32_samples(4099), expected, between, np.nextafter(between, 1), np.nextafter(between, -1)])
    narrowed = Loop(vecmath.float_to_half, result=I16, options=options)(x, dtype=np.uint16)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(narrowed[number], x.astype(np.float16).view(np.uint16)[number])
    assert np.isnan(narrowed.view(np.float16)[~number]).all()


def test_bf16_conversions_agree_with_ml_dtypes() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    widened = Loop(vecmath.bf16_to_float, element=I16, result=F32)(patterns, dtype=np.float32)
    np.testing.assert_array_equal(widened.view(np.uint32), patterns.astype(np.uint32) << 16)

    ties = ((patterns.astype(np.uint32) << 16) + 0x8000).view(np.float32)
    x = np.concatenate([float32_samples(4099), widened, ties])
    narrowed = Loop(vecmath.float_to_bf16, result=I16)(x, dtype=np.uint16)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(narrowed[number], x.astype(ml_dtypes.bfloat16).view(np.uint16)[number])
    assert np.isnan(narrowed.view(ml_dtypes.bfloat16)[~number].astype(np.float32)).all()


# Integers


@pytest.mark.parametrize("lanes", [8, None], ids=["vector", "scalar"])
@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integer_division_never_traps(name: str, lanes: int | None) -> None:
    dtype = np.dtype(name)
    info, signed = np.iinfo(dtype), dtype.kind == "i"
    edges = {
        info.min,
        info.min + 1,
        0,
        1,
        2,
        3,
        7,
        info.max // 2,
        info.max - 1,
        info.max,
        *((-1, -2, -7) if signed else ()),
    }
    rng = np.random.default_rng(4)
    full = rng.integers(info.min, info.max, (2, 4000), dtype=dtype, endpoint=True)
    first, second = (grid.ravel() for grid in np.meshgrid(*[np.array(sorted(edges), dtype)] * 2))
    x = np.concatenate([first, full[0], full[0]])
    y = np.concatenate([second, full[1], rng.integers(-9 if signed else 0, 9, 4000).astype(dtype)])

    def wrap(value: int) -> int:
        return (value - info.min) % (1 << info.bits) + info.min

    def quotient(a: int, d: int) -> int:
        return wrap(abs(a) // abs(d) * (1 if (a < 0) == (d < 0) else -1))

    references = {
        vecmath.trunc_div: quotient,
        vecmath.trunc_mod: lambda a, d: wrap(a - quotient(a, d) * d),
        vecmath.floor_mod: lambda a, d: a % d,
    }
    for function, reference in references.items():
        expected = [reference(a, d) if d else 0 for a, d in zip(x.tolist(), y.tolist(), strict=True)]
        got = Loop(function, 2, ir.IntType(info.bits), lanes, signed=signed)(x, y)
        np.testing.assert_array_equal(got, np.array(expected, dtype))


# Closed objects


def everything(options: MathOptions) -> str:
    """A module with every function on scalars and vectors."""
    module = ir.Module()

    def define(function: Callable[..., ir.Value], label: str, result: ir.Type, *args: ir.Type, **options: Any) -> None:
        kernel = ir.Function(module, ir.FunctionType(result, args), f"{function.__name__}.{label}")
        b = ir.IRBuilder(kernel.append_basic_block())
        b.ret(function(b, *kernel.args, **options))

    for lanes in (4, None):
        for bits in (32, 64):
            element = F32 if bits == 32 else F64
            type_ = element if lanes is None else ir.VectorType(element, lanes)
            for name, function in FUNCTIONS.items():
                define(function, f"{bits}.{lanes}", type_, *[type_] * (2 if name in BINARY else 1), options=options)
        single, narrow = (t if lanes is None else ir.VectorType(t, lanes) for t in (F32, I16))
        for function in (vecmath.half_to_float, vecmath.bf16_to_float):
            define(function, f"{lanes}", single, narrow, options=options)
        for function in (vecmath.float_to_half, vecmath.float_to_bf16):
            define(function, f"{lanes}", narrow, single, options=options)
        for bits in (8, 16, 32, 64):
            integer: ir.Type = ir.IntType(bits) if lanes is None else ir.VectorType(ir.IntType(bits), lanes)
            for function in (vecmath.trunc_div, vecmath.trunc_mod, vecmath.floor_mod):
                for signed in (True, False):
                    define(function, f"{bits}.{lanes}.{signed}", integer, integer, integer, signed=signed)
    return str(module)


@pytest.mark.parametrize(
    ("triple", "cpu", "options"),
    [
        ("x86_64-unknown-linux-gnu", "x86-64-v3", NATIVE),
        ("x86_64-unknown-linux-gnu", "x86-64", BARE),
        ("aarch64-unknown-linux-gnu", "generic", NATIVE),
    ],
)
def test_objects_need_no_library(triple: str, cpu: str, options: MathOptions) -> None:
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=1, reloc="pic", codemodel="small")
    problems: list[str] = []
    content = machine.emit_object(llvm.parse_assembly(everything(options)))
    symbols = read_object("vecmath", content, problems).symbols
    assert not problems
    assert [
        symbol.name for symbol in symbols if symbol.section is None and symbol.name and symbol.type != STT_FILE
    ] == []
