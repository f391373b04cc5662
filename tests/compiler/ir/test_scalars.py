"""The scalar functions against Python's math and ONNX's rules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.ir import scalars
from ingot.compiler.ir.loops import FUNCTIONS
from ingot.runtime.dtypes import DType, boolean, f16, f32, f64, i8, i32, i64, u8

Array = NDArray[Any]

SPECIAL = np.array([0.0, -0.0, 1, -1, 0.5, -0.5, 2.5, 3.5, 1e-30, 1e30, np.inf, -np.inf, np.nan])


def scalar(fn: str, dtype: DType, *args: Any, given: DType | None = None) -> Array:
    arrays = tuple(np.asarray(a).astype((given or dtype).to_numpy()) for a in args)
    return scalars.apply(fn, arrays, dtype)


class TestScalars:
    def test_table_is_complete(self) -> None:
        for fn, count in FUNCTIONS.items():
            logic = fn in ("and", "or", "xor", "not")
            whole = fn.startswith("bit") or fn in ("shl", "shr")
            dtype = boolean if logic else i32 if whole else f32
            result = boolean if fn in ("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf") else dtype
            args = (np.zeros(2, dtype.to_numpy()),) * count
            if fn == "select":
                args = (np.zeros(2, np.bool_), *args[1:])
            assert scalars.apply(fn, args, result).dtype == result.to_numpy(), fn

    @pytest.mark.parametrize(
        "fn",
        [
            *("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh"),
            *("acosh", "atanh", "tanh", "erf"),
        ],
    )
    @pytest.mark.parametrize("dtype", [f64, f32, f16])
    def test_transcendental(self, fn: str, dtype: DType) -> None:
        def exact(x: float) -> float:
            try:
                return getattr(math, fn)(x)
            except OverflowError:
                return math.copysign(math.inf, x) if fn == "sinh" else math.inf
            except ValueError:
                poles = {("log", 0.0): -math.inf, ("log1p", -1.0): -math.inf}
                poles |= {("atanh", 1.0): math.inf, ("atanh", -1.0): -math.inf}
                return poles.get((fn, x), math.nan)

        with np.errstate(over="ignore"):
            x = np.concatenate([SPECIAL, np.linspace(-3, 3, 50)]).astype(dtype.to_numpy())
            want = np.array([exact(float(v)) for v in x]).astype(dtype.to_numpy())
        got = scalar(fn, dtype, x)
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=np.finfo(got.dtype).eps * 2)

    def test_min_max_relu_clip_keep_nan(self) -> None:
        nan = np.nan
        for fn in ("min", "max"):
            assert np.isnan(scalar(fn, f32, [nan, 1, nan], [1, nan, nan])).all()
        np.testing.assert_array_equal(scalar("relu", f32, [nan, -1, 2, -np.inf]), [nan, 0, 2, 0])
        np.testing.assert_array_equal(scalar("clip", f32, [nan, -5, 0.5, 9], [0] * 4, [1] * 4), [nan, 0, 0.5, 1])
        np.testing.assert_array_equal(scalar("sign", f32, [nan, -3, 0, 2]), [nan, -1, 0, 1])

    def test_integer_division_and_remainders(self) -> None:
        a, b = [7, -7, 7, -7, 6, -6, 0], [2, 2, -2, -2, 3, 3, 5]
        np.testing.assert_array_equal(scalar("div", i32, a, b), [3, -3, -3, 3, 2, -2, 0])
        np.testing.assert_array_equal(scalar("mod", i32, a, b), [1, 1, -1, -1, 0, 0, 0])
        np.testing.assert_array_equal(scalar("fmod", i32, a, b), [1, -1, 1, -1, 0, 0, 0])
        np.testing.assert_array_equal(scalar("fmod", f32, [5.5, -5.5], [2, 2]), [1.5, -1.5])
        np.testing.assert_array_equal(scalar("mod", f32, [5.5, -5.5], [2, 2]), [1.5, 0.5])

    def test_integers_wrap(self) -> None:
        assert scalar("add", u8, [250], [10])[0] == 4
        assert scalar("mul", i8, [100], [2])[0] == -56
        assert scalar("neg", i8, [-128])[0] == -128
        assert scalar("div", i8, [-128], [-1])[0] == -128
        assert scalar("mul", i32, [100], [100], given=i8)[0] == 10000  # widened before it is multiplied

    def test_integer_power(self) -> None:
        np.testing.assert_array_equal(
            scalar("pow", i64, [2, -2, 3, 1, -1, -1, 5, 0], [10, 3, 0, -4, -3, -2, -1, 0]),
            [1024, -8, 1, 1, -1, 1, 0, 1],
        )
        np.testing.assert_array_equal(scalar("pow", f32, [-8, 2, 0, np.nan], [1 / 3, -1, 0, 0]), [np.nan, 0.5, 1, 1])

    def test_rounding(self) -> None:
        x = [0.5, 1.5, 2.5, -0.5, -1.5, 2.4, np.nan, np.inf]
        np.testing.assert_array_equal(scalar("round", f32, x), [0, 2, 2, -0.0, -2, 2, np.nan, np.inf])
        np.testing.assert_array_equal(scalar("trunc", f32, [1.7, -1.7]), [1, -1])

    def test_cast(self) -> None:
        np.testing.assert_array_equal(scalar("cast", i32, [1.9, -1.9, 3.0], given=f32), [1, -1, 3])
        np.testing.assert_array_equal(scalar("cast", boolean, [0.0, -0.0, 0.1, np.nan], given=f32), [0, 0, 1, 1])
        np.testing.assert_array_equal(scalar("cast", f32, [True, False], given=boolean), [1, 0])
        np.testing.assert_array_equal(scalar("cast", i8, [300, -1], given=i32), [44, -1])

    def test_fma_rounds_once(self) -> None:
        a = np.float32(1 + 2**-12)
        got = scalar("fma", f32, [a], [a], [-1.0])
        assert got[0] == np.float32(float(a) * float(a) - 1.0)
        assert scalar("fma", i32, [3], [4], [5])[0] == 17

    def test_stable_sigmoid_and_softplus(self) -> None:
        x = np.array([-1000, -20, 0, 20, 1000, np.nan])
        np.testing.assert_allclose(
            scalar("sigmoid", f64, x), [0, 1 / (1 + math.exp(20)), 0.5, 1 / (1 + math.exp(-20)), 1, np.nan]
        )
        np.testing.assert_allclose(
            scalar("softplus", f64, x),
            [0, math.log1p(math.exp(-20)), math.log(2), 20 + math.log1p(math.exp(-20)), 1000, np.nan],
        )
