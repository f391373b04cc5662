"""Loop nests as native code against the interpreter: layouts, tails, reductions, outer vectors, branches, scratch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from llvmlite import binding as llvm

from ingot.compiler.ir.dims import Dim, ceil_divide, maximum, minimum, symbol
from ingot.compiler.ir.loops import (
    Accumulate,
    Axis,
    Buffer,
    Call,
    Const,
    Expr,
    For,
    Index,
    Kernel,
    Let,
    Load,
    Local,
    Scratch,
    Stmt,
    Store,
    When,
)
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import emit, features, objects
from ingot.compiler.targets.cpu.expressions import Scope
from ingot.compiler.targets.cpu.vectorise import Plan, plan
from ingot.runtime.dtypes import BY_NAME, boolean, f16, f32, f64, i8, i32, i64, u8

i, j, n, m, r = (symbol(name) for name in "ijnmr")
POINT = (Axis("p", 1),)


def f(fn: str, *args: Expr) -> Call:
    return Call(fn, args, f32)


def number(value: float) -> Const:
    return Const(value, f32)


def floats(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(math.prod(shape)).astype(np.float32)


# -- pointwise loops and their tails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 7, 8, 9, 16, 31, 32, 33, 64, 100, 131])
@pytest.mark.parametrize("constant", [True, False])
def test_every_count(count: int, constant: bool, checker: Any) -> None:
    extent: Dim = count if constant else n
    cheap = Store("y", i, f("add", Load("x", i), number(1.0)))
    costly = Store("z", j, f("exp", Load("x", j)))
    loops = (For("i", extent, (cheap,), "vector"), For("j", extent, (costly,), "vector"))
    buffers = (Buffer("x", f32), Buffer("y", f32, "write"), Buffer("z", f32, "write"))
    data = {"x": floats(count + 5), "y": np.full(count + 5, 9, np.float32), "z": np.full(count + 5, 9, np.float32)}
    values = {} if constant else {"n": count}
    checker(Kernel("tails", buffers, () if constant else ("n",), POINT, loops), data, **values)


@pytest.mark.parametrize("name", ["f16", "bf16", "i8", "u8", "i16", "f64", "bool"])
@pytest.mark.parametrize("count", [1, 5, 16, 37, 100])
def test_narrow_elements(name: str, count: int, checker: Any) -> None:
    dtype = BY_NAME[name]
    rng = np.random.default_rng(count)
    data = rng.integers(0, 2 if name == "bool" else 50, count).astype(dtype.to_numpy())
    value = Call("xor" if name == "bool" else "add", (Load("x", i), Load("x", i)), dtype)
    loop = For("i", n, (Store("y", i, value),), "vector")
    kernel = Kernel("narrow", (Buffer("x", dtype), Buffer("y", dtype, "write")), ("n",), POINT, (loop,))
    checker(kernel, {"x": data, "y": np.zeros(count, dtype.to_numpy())}, n=count)


def test_mixed_widths(checker: Any) -> None:
    """u8 to f32 and back through saturating casts, with an i64 index beside."""
    scaled = f("mul", Call("cast", (Load("q", i),), f32), number(0.5))
    stores = (
        Store("x", i, scaled),
        Store("z", i, Call("cast", (f("add", scaled, Call("cast", (Index(i),), f32)),), u8)),
        Store("k", i, Index(3 * i + 7)),
    )
    buffers = (Buffer("q", u8), Buffer("x", f32, "write"), Buffer("z", u8, "write"), Buffer("k", i64, "write"))
    for count in (1, 13, 64, 70):
        data = {"q": np.arange(count).astype(np.uint8), "x": np.zeros(count, np.float32)}
        data |= {"z": np.zeros(count, np.uint8), "k": np.zeros(count, np.int64)}
        checker(Kernel("mixed", buffers, ("n",), POINT, (For("i", n, stores, "vector"),)), data, n=count)


@pytest.mark.parametrize("stride", [-2, -1, 0, 1, 2, 3, 4, 5])
def test_strided_loads_stay_inside(stride: int, checker: Any) -> None:
    """The last element read is the buffer's last: the interpreter checks the offsets, a guard page none needs."""
    for count in (1, 8, 21, 64):
        offset = stride * i - (stride * (n - 1) if stride < 0 else 0)
        loop = For("i", n, (Store("y", i, f("neg", Load("x", offset))),), "vector")
        kernel = Kernel("strided", (Buffer("x", f32), Buffer("y", f32, "write")), ("n",), POINT, (loop,))
        checker(kernel, {"x": floats(abs(stride) * (count - 1) + 1), "y": np.zeros(count, np.float32)}, n=count)


@pytest.mark.parametrize("count", [1, 5, 19])
def test_scattered_stores(count: int, checker: Any) -> None:
    loop = For("i", n, (Store("y", i * m + r, Load("x", r * n + i)),), "vector")
    kernel = Kernel("transpose", (Buffer("x", f32), Buffer("y", f32, "write")), ("n", "m"), (Axis("r", m, 4),), (loop,))
    checker(kernel, {"x": floats(count, 6), "y": np.zeros(count * 6, np.float32)}, n=count, m=6)


def test_in_place(native: Any, level: Any) -> None:
    """One array bound to a read and a write parameter."""
    loop = For("i", n, (Store("y", i, f("mul", Load("x", i), number(2.0))),), "vector")
    kernel = Kernel("double", (Buffer("x", f32), Buffer("y", f32, "write")), ("n",), POINT, (loop,))
    x = floats(101)
    expected = x * 2
    native.run(kernel, level, {"x": x, "y": x}, n=101)
    np.testing.assert_array_equal(x, expected)


# -- grids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extents", [(1, 1), (3, 5), (4, 7), (7, 2)])
@pytest.mark.parametrize("grains", [(1, 1), (2, 3), (1, 100), (3, 1)])
def test_chunks_cover_the_grid(extents: tuple[int, int], grains: tuple[int, int], checker: Any) -> None:
    a, c = symbol("a"), symbol("c")
    body: tuple[Stmt, ...] = (
        For("i", 5, (Store("y", (a * m + c) * 5 + i, f("neg", Load("x", c * 5 + i))),), "vector"),
    )
    buffers = (Buffer("x", f32), Buffer("y", f32, "write"))
    rows, columns = extents
    data = {"x": floats(columns, 5), "y": np.zeros(rows * columns * 5, np.float32)}
    dynamic = Kernel("dynamic", buffers, ("n", "m"), (Axis("a", n, grains[0]), Axis("c", m, grains[1])), body)
    checker(dynamic, data, n=rows, m=columns)
    grid = (Axis("a", rows, grains[0]), Axis("c", columns, maximum(1, minimum(m, grains[1]))))
    checker(Kernel("static", buffers, ("m",), grid, body), data, m=columns)


def test_three_axes(checker: Any) -> None:
    grid = (Axis("a", 3, 2), Axis("b", n), Axis("c", 5, 2))
    place = (symbol("a") * n + symbol("b")) * 5 + symbol("c")
    kernel = Kernel("cube", (Buffer("y", i64, "write"),), ("n",), grid, (Store("y", place, Index(place * 2 + 1)),))
    checker(kernel, {"y": np.zeros(60, np.int64)}, n=4)


# -- dims -------------------------------------------------------------------------------------------------------------


def test_floor_division_and_modulo(checker: Any) -> None:
    """Negative numerators, powers of two, other constants, run-time divisors of both signs."""
    d = symbol("d")
    dims: list[Dim] = [(i - 50) // 7, (i - 50) % 7, (i - 50) // 8, (i - 50) % 8, (i - 50) // d, (i - 50) % d]
    dims += [i // 7, i % 7, maximum(i - 50, d), minimum(3 * i, 40) - i * i, ((i - 50) // 7 + 3 * d) // 2]
    body = tuple(Store("y", i * len(dims) + k, Index(dim)) for k, dim in enumerate(dims))
    kernel = Kernel("dims", (Buffer("y", i64, "write"),), ("d",), POINT, (For("i", 100, body, "vector"),))
    for divisor in (1, 7, -7, -1, 64):
        checker(kernel, {"y": np.zeros(100 * len(dims), np.int64)}, d=divisor)


def test_division_by_zero_in_a_dim_does_not_trap(native: Any, level: Any) -> None:
    kernel = Kernel("zero", (Buffer("y", i64, "write"),), ("d",), POINT, (Store("y", 0, Index(5 // symbol("d"))),))
    y = np.full(1, 9, np.int64)
    native.run(kernel, level, {"y": y}, d=0)
    assert y[0] == 0


# -- reductions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 6, 8, 30, 33, 100])
@pytest.mark.parametrize("fn", ["add", "mul", "max", "min"])
def test_reductions(fn: Any, count: int, checker: Any) -> None:
    start = {"add": 3.0, "mul": 2.0, "max": -math.inf, "min": math.inf}[fn]
    for dtype in (f32, f64, i32, i8):
        x = np.random.default_rng(count).integers(1, 3, count).astype(dtype.to_numpy())
        initial = Const(start if dtype.is_float else 1, dtype)
        body = (
            Let("a", initial),
            For("i", n, (Accumulate("a", fn, Load("x", i)),), "vector"),
            Store("y", 0, Local("a", dtype)),
        )
        kernel = Kernel("reduce", (Buffer("x", dtype), Buffer("y", dtype, "write")), ("n",), POINT, body)
        checker(kernel, {"x": x, "y": np.zeros(1, dtype.to_numpy())}, n=count)


@pytest.mark.parametrize("place", [0, 5, 40, 44])
def test_max_propagates_nan(place: int, native: Any, level: Any) -> None:
    loop = For("i", 45, (Accumulate("a", "max", Load("x", i)),), "vector")
    body = (Let("a", number(-math.inf)), loop, Store("y", 0, Local("a", f32)))
    x, y = floats(45), np.zeros(1, np.float32)
    x[place] = np.nan
    native.run(Kernel("max", (Buffer("x", f32), Buffer("y", f32, "write")), (), POINT, body), level, {"x": x, "y": y})
    assert np.isnan(y[0])


@pytest.mark.parametrize("fn", ["and", "or"])
def test_bool_reductions(fn: Any, checker: Any) -> None:
    for count in (1, 31, 70):
        for x in (np.ones(count, bool), np.zeros(count, bool), np.arange(count) == count - 1):
            body = (
                Let("a", Const(fn == "and", boolean)),
                For("i", n, (Accumulate("a", fn, Load("x", i)),), "vector"),
                Store("y", 0, Local("a", boolean)),
            )
            kernel = Kernel("logic", (Buffer("x", boolean), Buffer("y", boolean, "write")), ("n",), POINT, body)
            checker(kernel, {"x": x, "y": np.zeros(1, bool)}, n=count)


def test_several_accumulators_of_several_types(checker: Any) -> None:
    body = (
        Let("s", number(0.0)),
        Let("t", Const(0, i64)),
        Let("u", Const(0.0, f16)),
        For(
            "i",
            n,
            (
                Accumulate("s", "add", f("mul", Load("x", i), Load("x", i))),
                Accumulate("t", "add", Index(i)),
                Accumulate("u", "max", Call("cast", (Load("x", i),), f16)),
            ),
            "vector",
        ),
        Store("y", 0, Local("s", f32)),
        Store("k", 0, Local("t", i64)),
        Store("h", 0, Local("u", f16)),
    )
    buffers = (Buffer("x", f32), Buffer("y", f32, "write"), Buffer("k", i64, "write"), Buffer("h", f16, "write"))
    for count in (3, 50, 129):
        data = {
            "x": floats(count),
            "y": np.zeros(1, np.float32),
            "k": np.zeros(1, np.int64),
            "h": np.zeros(1, np.float16),
        }
        checker(Kernel("sums", buffers, ("n",), POINT, body), data, n=count, rtol=1e-5)


def test_summation_order_is_fixed(native: Any, level: Any) -> None:
    """The same bits on every run and for every chunking: the order follows from the kernel alone."""
    loop = For("i", n, (Accumulate("a", "add", Load("x", i + r * n)),), "vector")
    body = (Let("a", number(0.0)), loop, Store("y", r, Local("a", f32)))
    x = np.tile(floats(1000), 6)
    results: list[float] = []
    for grain in (1, 2, 6):
        kernel = Kernel("sum", (Buffer("x", f32), Buffer("y", f32, "write")), ("n",), (Axis("r", 6, grain),), body)
        y = np.zeros(6, np.float32)
        native.run(kernel, level, {"x": x, "y": y}, n=1000)
        results += y.tolist()
    assert len(set(results)) == 1


# -- nests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 8, 11, 16, 40])
def test_outer_vectorisation(channels: int, checker: Any) -> None:
    """Pooling over channels-last data: lanes along channels, the window's loops inside."""
    oy, ox, ky, kx, c = (symbol(name) for name in ("oy", "ox", "ky", "kx", "c"))
    load = Load("x", ((oy + ky) * 7 + ox + kx) * channels + c)
    window = For("ky", 3, (For("kx", n, (Accumulate("a", "max", load),)),))
    store = Store("y", (oy * 5 + ox) * channels + c, Local("a", f32))
    body = (For("ox", 5, (For("c", channels, (Let("a", number(-math.inf)), window, store), "vector"),)),)
    kernel = Kernel("pool", (Buffer("x", f32), Buffer("y", f32, "write")), ("n",), (Axis("oy", 4, 3),), body)
    checker(kernel, {"x": floats(6, 7, channels), "y": np.zeros(20 * channels, np.float32)}, n=3)


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 7])
def test_softmax_with_scratch(rows: int, checker: Any) -> None:
    width = 37
    x = Load("x", r * width + i)
    body = (
        Let("top", number(-math.inf)),
        For("i", width, (Accumulate("top", "max", x),), "vector"),
        Scratch("s", f32, width),
        Let("total", number(0.0)),
        For(
            "i",
            width,
            (
                Let("e", f("exp", f("sub", x, Local("top", f32)))),
                Store("s", i, Local("e", f32)),
                Accumulate("total", "add", Local("e", f32)),
            ),
            "vector",
        ),
        For("i", width, (Store("y", r * width + i, f("div", Load("s", i), Local("total", f32))),), "vector"),
    )
    kernel = Kernel("softmax", (Buffer("x", f32), Buffer("y", f32, "write")), ("n",), (Axis("r", n, 3),), body)
    checker(kernel, {"x": floats(rows, width), "y": np.zeros(rows * width, np.float32)}, n=rows)


def test_unrolled_and_nested_serial_loops(checker: Any) -> None:
    c = symbol("c")
    body = (
        Let("a", number(0.0)),
        For("i", 3, (For("j", n, (Accumulate("a", "add", Load("x", i * n + j)),)),), "unroll"),
        For("c", 0, (Store("y", 5, number(1.0)),)),
        For("c", 1, (Store("y", c, Local("a", f32)),)),
    )
    kernel = Kernel("nest", (Buffer("x", f32), Buffer("y", f32, "write")), ("n",), POINT, body)
    checker(kernel, {"x": floats(12), "y": np.zeros(1, np.float32)}, n=4)


def test_vector_loop_inside_a_vector_loop(checker: Any) -> None:
    inner = For("j", m, (Accumulate("a", "add", Load("x", j * n + i)),), "vector")
    loop = For("i", n, (Let("a", number(0.0)), inner, Store("y", i, Local("a", f32))), "vector")
    kernel = Kernel("columns", (Buffer("x", f32), Buffer("y", f32, "write")), ("n", "m"), POINT, (loop,))
    checker(kernel, {"x": floats(50, 6), "y": np.zeros(50, np.float32)}, n=50, m=6)


# -- gathers and branches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7, 8, 20])
def test_gather_through_a_let(count: int, checker: Any) -> None:
    rng = np.random.default_rng(count)
    q = symbol("q")
    body = (Let("q", Load("k", i)), Store("y", i, Load("x", q * 2 + 1)), Store("z", i, Index(q - 2)))
    buffers = (Buffer("x", f32), Buffer("k", i64), Buffer("y", f32, "write"), Buffer("z", i64, "write"))
    data = {"x": floats(100), "k": rng.integers(0, 40, count)}
    data |= {"y": np.zeros(count, np.float32), "z": np.zeros(count, np.int64)}
    checker(Kernel("gather", buffers, ("n",), POINT, (For("i", n, body, "vector"),)), data, n=count)


def test_gather_of_rows(checker: Any) -> None:
    """A uniform index in front of a vector loop; negative indices count from the end."""
    q = symbol("q")
    index = Load("k", r)
    wrapped = Call(
        "select", (Call("lt", (index, Const(0, i64)), boolean), Call("add", (index, Const(9, i64)), i64), index), i64
    )
    body = (Let("q", wrapped), For("i", n, (Store("y", r * n + i, Load("x", q * n + i)),), "vector"))
    buffers = (Buffer("x", f32), Buffer("k", i64), Buffer("y", f32, "write"))
    data = {"x": floats(9, 21), "k": np.array([3, -1, 8, 0]), "y": np.zeros(84, np.float32)}
    checker(Kernel("rows", buffers, ("n",), (Axis("r", 4),), body), data, n=21)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 31, 32, 40, 77])
@pytest.mark.parametrize("stride", [1, 2, 5])
def test_lanes_that_branch(count: int, stride: int, checker: Any) -> None:
    """Stores, accumulation and loads under a condition that differs from lane to lane."""
    x = Load("x", i * stride)
    positive = Call("gt", (Local("v", f32), number(0.0)), boolean)
    large = Call("gt", (Local("v", f32), number(0.8)), boolean)
    inner = When(large, (Accumulate("s", "add", Local("v", f32)), Store("z", i, Load("w", i * stride))))
    then = (Store("y", i, f("sqrt", Local("v", f32))), inner)
    loop = For("i", n, (Let("v", x), When(positive, then, (Store("y", i, f("neg", x)),))), "vector")
    body = (Let("s", number(1.0)), loop, Store("y", n, Local("s", f32)))
    buffers = (Buffer("x", f32), Buffer("w", f32), Buffer("y", f32, "write"), Buffer("z", f32, "write"))
    data = {"x": floats(count, stride), "w": floats(count, stride, seed=1), "y": np.zeros(count + 1, np.float32)}
    data["z"] = np.zeros(count, np.float32)
    checker(Kernel("branch", buffers, ("n",), POINT, (body)), data, n=count, rtol=1e-5)


def test_condition_guards_loads(native: Any, level: Any) -> None:
    """Lanes outside the condition read nothing: their addresses lie beyond every mapping."""
    far = 1 << 40
    inside = Call("lt", (Index(i), Const(5, i64)), boolean)
    body = (When(inside, (Store("y", i, Load("x", i + far * (i // 5))),), (Store("y", i, number(7.0)),)),)
    kernel = Kernel(
        "guard", (Buffer("x", f32), Buffer("y", f32, "write")), ("n",), POINT, (For("i", n, body, "vector"),)
    )
    x, y = floats(5), np.zeros(20, np.float32)
    native.run(kernel, level, {"x": x, "y": y}, n=20)
    np.testing.assert_array_equal(y, np.concatenate([x, np.full(15, 7, np.float32)]))


def test_uniform_branches_carry_accumulators(checker: Any) -> None:
    odd = Call("eq", (Index(r % 2), Const(1, i64)), boolean)
    body = (
        Let("a", number(1.0)),
        When(
            odd,
            (For("i", n, (Accumulate("a", "add", Load("x", i)),), "vector"),),
            (Accumulate("a", "mul", number(5.0)),),
        ),
        When(odd, (Accumulate("a", "max", number(2.0)),)),
        When(odd, (), (Accumulate("a", "add", number(0.5)),)),
        When(odd, ()),
        Store("y", r, Local("a", f32)),
    )
    kernel = Kernel("branches", (Buffer("x", f32), Buffer("y", f32, "write")), ("n",), (Axis("r", 5, 2),), body)
    checker(kernel, {"x": floats(13), "y": np.zeros(5, np.float32)}, n=13, rtol=1e-5)


def test_compaction(checker: Any) -> None:
    """An accumulator used as an offset: the loop has to run in order, even where it is marked "vector"."""
    k = symbol("k")
    found = (Store("y", k + 1, Index(i)), Accumulate("k", "add", Const(1, i64)))
    loop = For("i", n, (When(Call("ne", (Load("x", i), number(0.0)), boolean), found),))
    body = (Let("k", Const(0, i64)), loop, Store("y", 0, Local("k", i64)))
    x = floats(50)
    x[x < 0] = 0
    checker(
        Kernel("nonzero", (Buffer("x", f32), Buffer("y", i64, "write")), ("n",), POINT, body),
        {"x": x, "y": np.zeros(51, np.int64)},
        n=50,
    )


# -- plans and errors -------------------------------------------------------------------------------------------------


def scope_of(*buffers: Buffer) -> Scope:
    scope = Scope(features.level("x86-64-v3"))
    for buffer in buffers:
        scope.buffers[buffer.name] = (None, buffer.dtype)
    return scope


def test_plans() -> None:
    level = features.level("x86-64-v3")
    scope = scope_of(Buffer("x", f32), Buffer("q", i8), Buffer("d", f64), Buffer("k", i64))
    cheap = For("i", n, (Store("x", i, Load("x", i)),), "vector")
    assert plan(cheap, scope, level) == Plan(8, 4, True, ())
    costly = For("i", n, (Store("x", i, f("exp", Load("x", i))),), "vector")
    assert plan(costly, scope, level) == Plan(8, 2, True, ())
    assert plan(For("i", n, (Store("q", i, Load("q", i)),), "vector"), scope, level) == Plan(32, 4, False, ())
    assert plan(For("i", n, (Store("d", i, Load("d", i)),), "vector"), scope, level) == Plan(4, 4, True, ())
    gather = For("i", n, (Let("q1", Load("k", i)), Store("x", i, Load("x", symbol("q1")))), "vector")
    assert plan(gather, scope, level) == Plan(8, 1, False, ())
    same_place = For("i", n, (Store("x", 0, Load("x", i)),), "vector")
    prefix_sum = For("i", n, (Accumulate("a", "add", Load("x", i)), Store("x", i, Local("a", f32))), "vector")
    triangle = For("i", n, (For("j", i, (Store("x", i, Load("x", j)),)),), "vector")
    for loop in (same_place, prefix_sum, triangle):
        assert plan(loop, scope, level) is None


def test_prefix_sum_runs_in_order(native: Any, level: Any) -> None:
    loop = For("i", n, (Accumulate("a", "add", Load("x", i)), Store("y", i, Local("a", f32))), "vector")
    kernel = Kernel("scan", (Buffer("x", f32), Buffer("y", f32, "write")), ("n",), POINT, (Let("a", number(0.0)), loop))
    x, y = np.arange(40, dtype=np.float32), np.zeros(40, np.float32)
    native.run(kernel, level, {"x": x, "y": y}, n=40)
    np.testing.assert_array_equal(y, np.cumsum(x))


def test_malformed_kernels_are_refused(native: Any, level: Any) -> None:
    x = Buffer("x", f32, "readwrite")
    with pytest.raises(IrError, match="'nowhere' is not defined"):
        native.compile(Kernel("k", (x,), (), POINT, (Store("x", symbol("nowhere"), number(1.0)),)), level)
    with pytest.raises(IrError, match="buffer 'z'"):
        native.compile(Kernel("k", (x,), (), POINT, (Store("x", 0, Load("z", 0)),)), level)
    with pytest.raises(IrError, match="not constant"):
        native.compile(Kernel("k", (x,), ("n",), POINT, (For("i", n, (Store("x", i, number(1.0)),), "unroll"),)), level)
    with pytest.raises(IrError, match="bytes of stack"):
        native.compile(Kernel("k", (x,), (), POINT, (Scratch("s", f32, 1 << 20),)), level)
    with pytest.raises(IrError, match="no instruction set level 'z80'"):
        features.level("z80")


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4", "aarch64", "native"])
def test_every_level_compiles_to_a_closed_object(name: str) -> None:
    """A kernel with most kinds of code for every level, whatever machine this is; nothing is imported."""
    level = features.level(name)
    q = symbol("q")
    loop = For(
        "i",
        n,
        (
            Let("q", Load("k", i)),
            Let("v", f("tanh", f("add", Load("x", q), Call("cast", (Load("h", i * 2),), f32)))),
            When(Call("gt", (Local("v", f32), number(0.5)), boolean), (Accumulate("a", "max", Local("v", f32)),)),
            Store("h", i, Call("cast", (Local("v", f32),), f16)),
        ),
        "vector",
    )
    buffers = (Buffer("x", f32), Buffer("k", i64), Buffer("h", f16, "readwrite"))
    body = (Let("a", number(0.0)), loop, Store("h", n, Call("cast", (Local("a", f32),), f16)))
    kernel = Kernel("all", buffers, ("n",), (Axis("b", ceil_divide(n, 8), 2),), body)
    module = objects.new_module("all", level)
    emit.emit_kernel(module, kernel, level)
    parsed = llvm.parse_assembly(str(module))
    assert all(function.name.startswith("llvm.") for function in parsed.functions if function.is_declaration)
    assert objects.compile_kernel(kernel, level) == objects.compile_kernel(kernel, level)
