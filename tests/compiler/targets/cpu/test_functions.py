"""Every scalar function on every dtype it is defined on, as vectors with tails, against the interpreter's numpy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.loops import COMPARISONS, FUNCTIONS, Axis, Buffer, Call, Const, For, Kernel, Load, Store
from ingot.compiler.ir.types import IrError
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType, boolean, f32

Array = NDArray[Any]
i = symbol("i")
COUNT = 77  # two groups of four AVX2 registers, single registers and a tail

FLOATS = (dtypes.f64, dtypes.f32, dtypes.f16, dtypes.bf16)
INTEGERS = (dtypes.i64, dtypes.i32, dtypes.i16, dtypes.i8, dtypes.u64, dtypes.u32, dtypes.u16, dtypes.u8)
ANALYTIC = frozenset(
    ("exp", "expm1", "log", "log1p", "erf", "tanh", "sigmoid", "softplus", "sin", "cos", "tan", "asin", "acos", "atan")
).union(("sinh", "cosh", "asinh", "acosh", "atanh", "atan2", "sqrt", "copysign"))
BITWISE = frozenset(("bitand", "bitor", "bitxor", "bitnot", "shl", "shr"))
LOGIC = frozenset(("and", "or", "xor", "not"))
EVERYWHERE = [fn for fn in FUNCTIONS if fn not in ANALYTIC | BITWISE | LOGIC | {"cast", "select", "gelu"}]


def values(dtype: DType, seed: int) -> Array:
    """Values of all signs and sizes with the special ones among them."""
    rng = np.random.default_rng(seed)
    if dtype.kind == "bool":
        return rng.integers(0, 2, COUNT).astype(bool)
    kind = dtype.to_numpy()
    if dtype.is_float:
        x = rng.standard_normal(COUNT) * np.exp(rng.uniform(-4, 2.2, COUNT))
        x[rng.permutation(COUNT)[:8]] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 2.5]
        return x.astype(kind)
    limits = np.iinfo(kind)
    x = rng.integers(max(limits.min, -100), min(limits.max, 100), COUNT).astype(kind)
    x[rng.permutation(COUNT)[:5]] = [0, 1, limits.min, limits.max, 2]
    return x


def kernel_of(fn: str, sources: list[DType], target: DType) -> Kernel:
    buffers = [Buffer(f"x{k}", dtype) for k, dtype in enumerate(sources)]
    call = Call(fn, tuple(Load(b.name, i) for b in buffers), target)
    loop = For("i", COUNT, (Store("y", i, call),), "vector")
    return Kernel(f"{fn}_{target.name}", (*buffers, Buffer("y", target, "write")), (), (Axis("p", 1),), (loop,))


def tolerance(dtype: DType) -> float:
    return {"f64": 1e-14, "f32": 4e-7, "f16": 2e-3, "bf16": 1.6e-2}.get(dtype.name, 0.0)


def check(checker: Any, fn: str, sources: list[DType], target: DType, data: list[Array] | None = None) -> None:
    data = data or [values(dtype, 10 + k) for k, dtype in enumerate(sources)]
    buffers = {f"x{k}": x for k, x in enumerate(data)} | {"y": np.zeros(COUNT, target.to_numpy())}
    limit = tolerance(target)
    # The interpreter rounds the product of an fma in narrow types; the kernel does not.
    with np.errstate(all="ignore"):
        checker(kernel_of(fn, sources, target), buffers, rtol=limit, atol=limit * (10 if fn == "fma" else 1e-3))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("fn", EVERYWHERE)
def test_float_functions(fn: str, dtype: DType, checker: Any) -> None:
    target = boolean if fn in COMPARISONS | {"isnan", "isinf"} else dtype
    check(checker, fn, [dtype] * FUNCTIONS[fn], target)


@pytest.mark.parametrize("fn", sorted(ANALYTIC))
def test_analytic_functions(fn: str, checker: Any) -> None:
    check(checker, fn, [f32] * FUNCTIONS[fn], f32)


@pytest.mark.parametrize(
    ("fn", "dtype"),
    [(fn, dtypes.f64) for fn in sorted(ANALYTIC)]
    + [(fn, dtype) for fn in ("exp", "log1p", "sin", "atan2", "sqrt") for dtype in (dtypes.f16, dtypes.bf16)],
    ids=str,
)
def test_analytic_functions_of_other_types(fn: str, dtype: DType, native: Any, first_level: Any) -> None:
    def checker(*arguments: Any, **options: Any) -> None:
        native.check(arguments[0], first_level, *arguments[1:], **options)

    check(checker, fn, [dtype] * FUNCTIONS[fn], dtype)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_functions(dtype: DType, native: Any, level: Any) -> None:
    """All functions of one dtype as the stores of one loop."""
    names = [fn for fn in EVERYWHERE if fn not in ("isnan", "isinf", "reciprocal", "mod", "fmod", "pow", "clip")]
    names += ["bitand", "bitor", "bitxor", "bitnot"]
    if dtype.bits == 64:
        names.remove("round")  # numpy rounds 64-bit integers through f64
    stores: list[Store] = []
    buffers = [Buffer(f"x{k}", dtype) for k in range(3)]
    data = {f"x{k}": values(dtype, 20 + k) for k in range(3)}
    for fn in names:
        target = boolean if fn in COMPARISONS else dtype
        buffers.append(Buffer(f"y_{fn}", target, "write"))
        data[f"y_{fn}"] = np.zeros(COUNT, target.to_numpy())
        stores.append(Store(f"y_{fn}", i, Call(fn, tuple(Load(f"x{k}", i) for k in range(FUNCTIONS[fn])), target)))
    with np.errstate(all="ignore"):
        kernel = Kernel("integers", tuple(buffers), (), (Axis("p", 1),), (For("i", COUNT, tuple(stores), "vector"),))
        native.check(kernel, level, data)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("fn", ["div", "mod", "fmod", "shl", "shr", "pow", "clip", "reciprocal"])
def test_integer_functions_with_special_operands(fn: str, dtype: DType, native: Any, level: Any) -> None:
    """Division by zero gives 0, MIN / -1 wraps, shifts beyond the width give 0 (or the sign): nothing traps."""
    kind, x, y = dtype.to_numpy(), values(dtype, 1), values(dtype, 2)
    wide = [int(v) for v in x], [int(v) for v in y]
    if fn in ("shl", "shr"):
        y = (y & kind.type(0x7F)) % kind.type(dtype.bits + 3)
        wide = wide[0], [int(v) for v in y]
    if fn == "pow":
        x, y = x % kind.type(5), values(dtype, 3) % kind.type(9)
        if dtype.kind == "signed":
            y[::7] = -2
            x[::5] = -1
        wide = [int(v) for v in x], [int(v) for v in y]
    data = [x] if fn == "reciprocal" else [x, y]
    if fn == "clip":
        data = [x, np.full(COUNT, 3, kind), np.full(COUNT, 50, kind)]
    kernel = kernel_of(fn, [dtype] * len(data), dtype)
    out = np.zeros(COUNT, kind)
    native.run(kernel, level, {f"x{k}": d for k, d in enumerate(data)} | {"y": out})

    def exact(a: int, b: int) -> int:
        quotient = 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        match fn:
            case "div":
                return quotient
            case "fmod":
                return 0 if b == 0 else a - quotient * b
            case "mod":
                return 0 if b == 0 else a % b
            case "shl":
                return a << b if b < dtype.bits else 0
            case "shr":
                return a >> b if b < dtype.bits or dtype.kind == "signed" else 0
            case "reciprocal":
                return {1: 1, -1: -1}.get(a, 0)
            case "clip":
                return min(max(a, 3), 50)
            case _:
                return a**b if b >= 0 else {1: 1, -1: 1 if b % 2 == 0 else -1}.get(a, 0)

    mask = (1 << dtype.bits) - 1
    expected = [exact(a, b) & mask for a, b in zip(*wide, strict=True)]
    assert [int(v) & mask for v in out] == expected


@pytest.mark.parametrize("fn", sorted(LOGIC | {"eq", "ne", "min", "max", "bitand", "bitor", "bitxor", "bitnot"}))
def test_bool_functions(fn: str, checker: Any) -> None:
    check(checker, fn, [boolean] * FUNCTIONS[fn], boolean)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, boolean], ids=str)
def test_select(dtype: DType, checker: Any) -> None:
    check(checker, "select", [boolean, dtype, dtype], dtype)


def representable(source: DType, target: DType, x: Array) -> Array:
    """`x` with what the target cannot hold (undefined by ONNX) replaced."""
    if not source.is_float or not target.is_integer:
        return x
    limits = np.iinfo(target.to_numpy())
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        bad = ~(np.isfinite(wide) & (np.trunc(wide) >= float(limits.min)) & (np.trunc(wide) <= float(limits.max)))
    return np.where(bad, np.ones_like(x), x)


@pytest.mark.parametrize("source", [*FLOATS, *INTEGERS, boolean], ids=str)
def test_casts(source: DType, native: Any, level: Any) -> None:
    """Every target of one source as the stores of one loop; exact."""
    x = values(source, 5)
    targets = [*FLOATS, *INTEGERS, boolean]
    buffers: list[Buffer] = []
    data: dict[str, Array] = {}
    stores: list[Store] = []
    for t in targets:
        buffers += [Buffer(f"x_{t.name}", source), Buffer(f"y_{t.name}", t, "write")]
        data[f"x_{t.name}"] = representable(source, t, x)
        data[f"y_{t.name}"] = np.zeros(COUNT, t.to_numpy())
        stores.append(Store(f"y_{t.name}", i, Call("cast", (Load(f"x_{t.name}", i),), t)))
    kernel = Kernel("casts", tuple(buffers), (), (Axis("p", 1),), (For("i", COUNT, tuple(stores), "vector"),))
    with np.errstate(all="ignore"):
        native.check(kernel, level, data, rtol=0, atol=0)


def test_cast_out_of_range_saturates(native: Any, level: Any) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e9, -3e9, 1e20, -1e20, 300.7] * 10, np.float32)[:COUNT]
    for target in INTEGERS:
        out = np.zeros(COUNT, target.to_numpy())
        native.run(kernel_of("cast", [f32], target), level, {"x0": x, "y": out})
        limits = np.iinfo(target.to_numpy())
        wide = np.where(np.isnan(x), 0, x).astype(np.float64)
        want = [int(min(max(np.trunc(v), limits.min), limits.max)) if np.isfinite(v) else 0 for v in wide]
        want = [
            limits.max if v == np.inf else limits.min if v == -np.inf else w for v, w in zip(wide, want, strict=True)
        ]
        assert out.tolist() == want


def test_narrow_floats_round_once(native: Any, level: Any) -> None:
    """f64 to f16 and bf16 next to ties, where rounding through f32 would go wrong."""
    rng = np.random.default_rng(3)
    for target in (dtypes.f16, dtypes.bf16):
        kind = target.to_numpy()
        exact = rng.standard_normal(COUNT).astype(kind).astype(np.float64)
        step = np.spacing(exact.astype(np.float32)).astype(np.float64) * (2.0**12 if target is dtypes.f16 else 2.0**15)
        x = exact + step * np.where(rng.integers(0, 2, COUNT), 1 + 1e-12, 1 - 1e-12)
        out = np.zeros(COUNT, kind)
        native.run(kernel_of("cast", [dtypes.f64], target), level, {"x0": x, "y": out})
        low, high = x.astype(np.float32).astype(kind), out
        errors = [np.abs(candidate.astype(np.float64) - x) for candidate in (high, low)]
        assert (errors[0] <= errors[1]).all()
    assert ml_dtypes.bfloat16 is not None


def test_float_mod_takes_the_sign_of_the_divisor(checker: Any) -> None:
    x = np.array([5.5, -5.5, 5.5, -5.5, 1e30, 7.0, -0.0, 3.0] * 10, np.float32)[:COUNT]
    y = np.array([2.0, 2.0, -2.0, -2.0, 3.0, np.inf, 4.0, -3.0] * 10, np.float32)[:COUNT]
    y[np.isinf(y)] = 8.0
    check(checker, "mod", [f32, f32], f32, [x, y])
    check(checker, "fmod", [f32, f32], f32, [x, y])


def test_meaningless_functions_are_refused(native: Any, level: Any) -> None:
    with pytest.raises(IrError, match="exp has no meaning for i32"):
        native.compile(kernel_of("exp", [dtypes.i32], dtypes.i32), level)
    with pytest.raises(IrError, match="cast the value"):
        store = Store("y", i, Const(1.0, f32))
        loop = For("i", 4, (store,))
        native.compile(Kernel("k", (Buffer("y", dtypes.i8, "write"),), (), (Axis("p", 1),), (loop,)), level)
