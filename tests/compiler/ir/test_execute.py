"""The loop and program interpreter against plain numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim, minimum, symbol
from ingot.compiler.ir.execute import ExecutionError, FaultError, run_kernel, run_program
from ingot.compiler.ir.interpret import BindingError
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
    Mode,
    Scratch,
    Stmt,
    Store,
    When,
)
from ingot.compiler.ir.program import Argument, Branch, Launch, Program, Repeat, Storage
from ingot.compiler.ir.templates import Attention, Contraction, Depthwise
from ingot.compiler.ir.types import TensorType
from ingot.runtime.dtypes import DType, boolean, f16, f32, i32, i64

Array = NDArray[Any]
P, J, N = symbol("i"), symbol("j"), symbol("n")


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def kernel(body: tuple[Stmt, ...], grid: tuple[Axis, ...], **buffers: Any) -> Kernel:
    made = tuple(Buffer(name, *(b if isinstance(b, tuple) else (b,))) for name, b in buffers.items())
    return Kernel("k", made, ("n",), grid, body)


def unfilled(size: int, dtype: type[Any] = np.float32) -> Array:
    return np.full(size, 99, dtype)


class TestNests:
    @pytest.mark.parametrize("n", [0, 1, 7, 1000])
    @pytest.mark.parametrize("grain", [1, 3, 4096])
    def test_pointwise_over_a_grid(self, n: int, grain: int) -> None:
        body = (Store("y", P, Call("relu", (Call("add", (Load("x", P), Const(1.5, f32)), f32),), f32)),)
        x, y = random(n), unfilled(n)
        if n > 2:
            x[:3] = np.nan, np.inf, -np.inf
        run_kernel(kernel(body, (Axis("i", N, grain),), x=f32, y=(f32, "write")), {"x": x, "y": y}, {"n": n})
        np.testing.assert_array_equal(y, np.maximum(x + np.float32(1.5), 0))

    @pytest.mark.parametrize("mode", ["serial", "vector", "unroll"])
    @pytest.mark.parametrize("extent", [0, 1, 5])
    @pytest.mark.parametrize("rows", [1, 3])
    def test_row_reduction(self, mode: Mode, extent: int, rows: int) -> None:
        """Each row minus its maximum, times the row's sum: two loops, two accumulators."""
        at = P * extent + J
        body: tuple[Stmt, ...] = (
            Let("top", Const(-math.inf, f32)),
            Let("sum", Const(0.0, f32)),
            For(
                "j",
                extent,
                (
                    Let("v", Load("x", at)),
                    Accumulate("top", "max", Local("v", f32)),
                    Accumulate("sum", "add", Local("v", f32)),
                ),
                mode,
            ),
            For(
                "j",
                extent,
                (
                    Let("d", Call("sub", (Load("x", at), Local("top", f32)), f32)),
                    Store("y", at, Call("mul", (Local("d", f32), Local("sum", f32)), f32)),
                ),
                mode,
            ),
        )
        x, y = random(rows, extent), unfilled(rows * extent)
        k = kernel(body, (Axis("i", rows),), x=f32, y=(f32, "write"))
        run_kernel(k, {"x": x.ravel(), "y": y}, {"n": 0})
        want = (x - x.max(1, keepdims=True, initial=-np.inf)) * x.sum(1, keepdims=True)
        np.testing.assert_allclose(y.reshape(x.shape), want, rtol=1e-5, atol=1e-5)

    def test_order_matters_in_a_serial_loop(self) -> None:
        """A running sum through memory: iterations depend on each other."""
        body = (
            For(
                "j",
                N,
                (
                    Store(
                        "y",
                        J,
                        Call("add", (Load("x", J), Load("y", symbol("j") - 1)), f32),
                    ),
                ),
            ),
        )
        x, y = random(20), np.zeros(21, np.float32)
        run_kernel(kernel(body, (), x=f32, y=(f32, "readwrite")), {"x": x, "y": (y, 1)}, {"n": 20})
        np.testing.assert_allclose(y[1:], np.cumsum(x, dtype=np.float32), rtol=1e-6)

    def test_reader_of_its_accumulator_stays_serial(self) -> None:
        body = (
            Let("s", Const(0.0, f32)),
            For("j", N, (Accumulate("s", "add", Load("x", J)), Store("y", J, Local("s", f32)))),
        )
        x, y = random(20), unfilled(20)
        run_kernel(kernel(body, (), x=f32, y=(f32, "write")), {"x": x, "y": y}, {"n": 20})
        np.testing.assert_array_equal(y, np.cumsum(x, dtype=np.float32))

    @pytest.mark.parametrize("mode", ["serial", "vector"])
    def test_triangle(self, mode: Mode) -> None:
        """The inner extent depends on the grid point."""
        body = (
            Let("s", Const(0.0, f32)),
            For("j", P + 1, (Accumulate("s", "add", Load("x", P * N + J)),), mode),
            Store("y", P, Local("s", f32)),
        )
        x, y = random(9, 9), unfilled(9)
        run_kernel(kernel(body, (Axis("i", N),), x=f32, y=(f32, "write")), {"x": x.ravel(), "y": y}, {"n": 9})
        np.testing.assert_allclose(y, np.tril(x).sum(1), rtol=1e-5)

    def test_branches_change_outer_locals(self) -> None:
        """When inside When, with accumulators of different depth and both arms taken by some point."""
        v = Local("v", f32)
        body: tuple[Stmt, ...] = (
            Let("v", Load("x", P)),
            Let("count", Const(0, i64)),
            When(
                Call("lt", (v, Const(0.0, f32)), boolean),
                (
                    Accumulate("count", "add", Const(1, i64)),
                    When(Call("lt", (v, Const(-1.0, f32)), boolean), (Accumulate("count", "mul", Const(10, i64)),)),
                ),
                (Accumulate("v", "mul", Const(2.0, f32)), Accumulate("count", "add", Index(P + 100))),
            ),
            Store("y", P, v),
            Store("c", P, Local("count", i64)),
        )
        x = np.array([-2, -0.5, 3, np.nan, 0, -np.inf], np.float32)
        y, c = unfilled(6), unfilled(6, np.int64)
        k = kernel(body, (Axis("i", N),), x=f32, y=(f32, "write"), c=(i64, "write"))
        run_kernel(k, {"x": x, "y": y, "c": c}, {"n": 6})
        np.testing.assert_array_equal(y, [-2, -0.5, 6, np.nan, 0, -np.inf])
        np.testing.assert_array_equal(c, [10, 1, 102, 103, 104, 10])

    def test_guard_keeps_loads_in_bounds(self) -> None:
        inside = Call("lt", (Index(P + 1), Index(N)), boolean)
        body = (When(inside, (Store("y", P, Load("x", P + 1)),), (Store("y", P, Const(0.0, f32)),)),)
        x, y = random(5), unfilled(5)
        run_kernel(kernel(body, (Axis("i", N),), x=f32, y=(f32, "write")), {"x": x, "y": y}, {"n": 5})
        np.testing.assert_array_equal(y, [*x[1:], 0])

    def test_integer_local_as_symbol(self) -> None:
        body = (
            Let("at", Call("cast", (Load("index", P),), i64)),
            Store("y", P, Load("x", symbol("at") * 2 + 1)),
        )
        x, index, y = random(10), np.array([4, 0, 2, 2], np.int32), unfilled(4)
        k = kernel(body, (Axis("i", 4),), x=f32, index=i32, y=(f32, "write"))
        run_kernel(k, {"x": x, "index": index, "y": y}, {"n": 0})
        np.testing.assert_array_equal(y, x[index * 2 + 1])

    def test_scratch_is_private(self) -> None:
        """Reverse each row through scratch memory."""
        body: tuple[Stmt, ...] = (
            Scratch("s", f32, 4),
            For("j", 4, (Store("s", 3 - J, Load("x", P * 4 + J)),)),
            For("m", 4, (Store("y", P * 4 + symbol("m"), Load("s", symbol("m"))),), "vector"),
        )
        x, y = random(6, 4), unfilled(24)
        run_kernel(kernel(body, (Axis("i", 6, 2),), x=f32, y=(f32, "write")), {"x": x.ravel(), "y": y}, {"n": 0})
        np.testing.assert_array_equal(y.reshape(6, 4), x[:, ::-1])

    def test_many_points_and_opaque_offsets(self) -> None:
        """More points than one block holds; division, modulo and minimum in offsets; parameters with offsets."""
        offset: Dim = minimum((P // 7) * 7 + P % 7, N - 1)
        x, y = random(200_000), unfilled(200_005)
        k = kernel((Store("y", P, Load("x", offset)),), (Axis("i", N, 1024),), x=f32, y=(f32, "write"))
        run_kernel(k, {"x": x, "y": (y, 5)}, {"n": 200_000})
        np.testing.assert_array_equal(y[5:], x)
        np.testing.assert_array_equal(y[:5], 99)

    def test_vector_loop_over_a_nest(self) -> None:
        """A vector loop around a serial reduction."""
        body = (
            For(
                "j",
                5,
                (
                    Let("s", Const(0.0, f32)),
                    For("m", 3, (Accumulate("s", "add", Load("x", (P * 3 + symbol("m")) * 5 + J)),)),
                    Store("y", P * 5 + J, Local("s", f32)),
                ),
                "vector",
            ),
        )
        x, y = random(4, 3, 5), unfilled(20)
        run_kernel(kernel(body, (Axis("i", 4),), x=f32, y=(f32, "write")), {"x": x.ravel(), "y": y}, {"n": 0})
        np.testing.assert_allclose(y.reshape(4, 5), x.sum(1), rtol=1e-6)

    def test_masks_and_lanes_over_several_axes(self) -> None:
        """A matmul that skips zeros and counts them, on a grid of three axes, one of them of extent 1."""
        a = Load("a", P * 6 + symbol("m"))
        body: tuple[Stmt, ...] = (
            Let("sum", Const(0.0, f32)),
            Let("zeros", Const(0, i64)),
            For(
                "m",
                6,
                (
                    When(
                        Call("eq", (a, Const(0.0, f32)), boolean),
                        (Accumulate("zeros", "add", Const(1, i64)),),
                        (Accumulate("sum", "add", Call("mul", (a, Load("b", symbol("m") * 5 + J)), f32)),),
                    ),
                ),
                "vector",
            ),
            Store("y", P * 5 + J, Local("sum", f32)),
            Store("c", J * 4 + P, Local("zeros", i64)),
        )
        a_in, b_in = random(4, 6), random(6, 5, seed=1)
        a_in[np.abs(a_in) < 0.7] = 0
        y, c = unfilled(20), unfilled(20, np.int64)
        grid = (Axis("i", 4, 3), Axis("one", 1), Axis("j", N, 2))
        k = kernel(body, grid, a=f32, b=f32, y=(f32, "write"), c=(i64, "write"))
        run_kernel(k, {"a": a_in.ravel(), "b": b_in.ravel(), "y": y, "c": c}, {"n": 5})
        np.testing.assert_allclose(y.reshape(4, 5), a_in @ b_in, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(c.reshape(5, 4), np.broadcast_to((a_in == 0).sum(1), (5, 4)))

    @pytest.mark.parametrize("mode", ["serial", "vector"])
    def test_accumulation_of_a_loop_invariant(self, mode: Mode) -> None:
        """Every iteration counts, even where the value does not depend on it."""
        body = (
            Let("s", Const(0.0, f32)),
            For("j", 7, (Accumulate("s", "add", Load("x", P)), Accumulate("s", "add", Const(1.0, f32))), mode),
            Store("y", P, Local("s", f32)),
        )
        x, y = random(3), unfilled(3)
        run_kernel(kernel(body, (Axis("i", 3),), x=f32, y=(f32, "write")), {"x": x, "y": y}, {"n": 0})
        np.testing.assert_allclose(y, 7 * x + 7, rtol=1e-6)

    def test_f16_sums_round_after_every_step(self) -> None:
        body = (
            Let("s", Const(0.0, f16)),
            For("j", N, (Accumulate("s", "add", Load("x", J)), Store("y", 0, Local("s", f16)))),
        )
        x, y = np.full(4096, 1, np.float16), unfilled(1, np.float16)
        run_kernel(kernel(body, (), x=f16, y=(f16, "write")), {"x": x, "y": y}, {"n": 4096})
        assert y[0] == 2048  # 2048 + 1 rounds to even in f16


class TestRefused:
    def test_out_of_bounds(self) -> None:
        k = kernel((Store("y", P, Load("x", P + 2)),), (Axis("i", N),), x=f32, y=(f32, "write"))
        with pytest.raises(ExecutionError, match=r"kernel k: offset 5 of buffer x is outside its 5 elements.*i \+ 2"):
            run_kernel(k, {"x": random(5), "y": unfilled(5)}, {"n": 4})
        with pytest.raises(
            ExecutionError, match=r"offset \+ 3 \(the buffer starts at 4\) of buffer x is outside its 6"
        ):
            run_kernel(k, {"x": (random(6), 4), "y": unfilled(5)}, {"n": 2})
        below = kernel((Store("y", P - 1, Const(0.0, f32)),), (Axis("i", N),), y=(f32, "write"))
        with pytest.raises(ExecutionError, match="offset -1 of buffer y"):
            run_kernel(below, {"y": unfilled(5)}, {"n": 3})

    def test_scratch_out_of_bounds(self) -> None:
        body = (Scratch("s", f32, 4), Store("s", P, Const(0.0, f32)))
        with pytest.raises(ExecutionError, match="offset 4 of buffer s is outside its 4 elements"):
            run_kernel(kernel(body, (Axis("i", N),)), {}, {"n": 5})

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ((Store("y", P // 2, Const(0.0, f32)),), "writes what another writes"),
            ((Store("y", 0, Const(0.0, f32)),), "writes what another writes, element 0"),
            ((Store("y", P, Load("y", (P + 1) % N)),), "writes what another reads"),
            ((Store("y", P, Const(0.0, f32)), Let("v", Load("y", N - 1 - P))), "reads what another writes"),
            ((Let("v", Load("y", 2)), Store("y", P, Const(0.0, f32))), "writes what another reads"),
        ],
    )
    def test_races(self, body: tuple[Stmt, ...], message: str) -> None:
        k = kernel(body, (Axis("i", N),), y=(f32, "readwrite"))
        with pytest.raises(ExecutionError, match=f"kernel k: a race on buffer y: one grid point {message}"):
            run_kernel(k, {"y": unfilled(8)}, {"n": 8})
        run_kernel(k, {"y": unfilled(8)}, {"n": 8}, check_races=False)

    def test_race_through_two_parameters(self) -> None:
        k = kernel((Store("y", P, Load("x", P)),), (Axis("i", N),), x=f32, y=(f32, "write"))
        shared = random(9)
        run_kernel(k, {"x": shared, "y": shared}, {"n": 8})  # in place
        with pytest.raises(ExecutionError, match="a race on buffer"):
            run_kernel(k, {"x": shared, "y": (shared, 1)}, {"n": 8})

    def test_bindings(self) -> None:
        k = kernel((Store("y", P, Load("x", P)),), (Axis("i", N),), x=f32, y=(f32, "write"))
        with pytest.raises(ExecutionError, match="nothing given for n, y"):
            run_kernel(k, {"x": random(2)}, {})
        with pytest.raises(ExecutionError, match=r"buffer x is a flat f32 array, not float64\[2\]"):
            run_kernel(k, {"x": np.zeros(2), "y": unfilled(2)}, {"n": 2})
        with pytest.raises(ExecutionError, match=r"not float32\[1, 2\]"):
            run_kernel(k, {"x": random(1, 2), "y": unfilled(2)}, {"n": 2})
        wide = kernel((Store("y", P, Index(P)),), (Axis("i", N),), y=(f32, "write"))
        with pytest.raises(ExecutionError, match="int64 stored to y, which holds float32"):
            run_kernel(wide, {"y": unfilled(2)}, {"n": 2})


def pack(matrix: Array, width: int) -> Array:
    """[K, N] in panels of `width` columns, as ir.templates says."""
    depth, columns = matrix.shape
    panels = -(-columns // width)
    packed = np.zeros((panels, depth, width), np.float32)
    for p in range(panels):
        part = matrix[:, p * width : (p + 1) * width]
        packed[p, :, : part.shape[1]] = part
    return packed.ravel()


class TestTemplates:
    def test_batched_matmul(self) -> None:
        b, m, k, n, width = 3, 5, 7, 18, 8
        x, w = random(b, m, k), random(b, k, n, seed=1)
        packed = np.concatenate([pack(part, width) for part in w])
        at = symbol("b") * m * n + symbol("r") * n + symbol("c")
        template = Contraction(
            batch=(Axis("b", b),),
            rows=(Axis("r", N),),
            columns=Axis("c", n),
            segments=(),
            run=Axis("k", k),
            a=Load("x", (symbol("b") * m + symbol("r")) * k + symbol("k")),
            b="w",
            b_offset=symbol("b") * (packed.size // b),
            width=width,
            tile_rows=4,
            row_block=4,
            panel_block=1,
            stores=(Store("y", at, Call("mul", (Local("acc", f32), Load("s", symbol("c"))), f32)),),
        )
        s = random(n, seed=2)
        buffers = (Buffer("x", f32), Buffer("w", f32), Buffer("s", f32), Buffer("y", f32, "write"))
        y = unfilled(b * m * n)
        launch = Kernel("gemm", buffers, ("n",), template.grid, template)
        run_kernel(launch, {"x": x.ravel(), "w": packed, "s": s, "y": y}, {"n": m})
        want = (x.astype(np.float64) @ w) * s
        np.testing.assert_allclose(y.reshape(b, m, n), want, rtol=1e-5, atol=1e-5)

    def test_depthwise(self) -> None:
        n, h, w, c = 2, 5, 6, 3
        x, taps = random(n, h + 2, w + 2, c), random(3, 3, c, seed=1)
        v = {name: symbol(name) for name in ("n", "oy", "ox", "c", "ky", "kx")}
        row = (v["n"] * (h + 2) + v["oy"] + v["ky"]) * (w + 2) + v["ox"] + v["kx"]
        template = Depthwise(
            rows=(Axis("n", n), Axis("oy", h)),
            x=Axis("ox", w),
            channels=Axis("c", c),
            taps=(Axis("ky", 3), Axis("kx", 3)),
            a=Load("x", row * c + v["c"]),
            w=Load("w", (v["ky"] * 3 + v["kx"]) * c + v["c"]),
            row_block=2,
            stores=(Store("y", ((v["n"] * h + v["oy"]) * w + v["ox"]) * c + v["c"], Local("acc", f32)),),
        )
        y = unfilled(n * h * w * c)
        launch = Kernel(
            "dw", (Buffer("x", f32), Buffer("w", f32), Buffer("y", f32, "write")), (), template.grid, template
        )
        run_kernel(launch, {"x": x.ravel(), "w": taps.ravel(), "y": y}, {})
        want = sum(x[:, i : i + h, j : j + w].astype(np.float64) * taps[i, j] for i in range(3) for j in range(3))
        np.testing.assert_allclose(y.reshape(n, h, w, c), want, rtol=1e-5, atol=1e-5)

    def test_attention_with_mask(self) -> None:
        """The last query sees no key: its row is NaN, as softmax of -inf is."""
        b, s, t, d, e = 2, 4, 6, 5, 3
        q, k, v = random(b, s, d), random(b, t, d, seed=1), random(b, t, e, seed=2)
        mask = np.where(np.arange(t)[None, :] > np.arange(s)[:, None] + 1, -np.inf, 0).astype(np.float32)
        mask[-1] = -np.inf
        p = {name: symbol(name) for name in ("b", "q", "t", "d", "e")}
        template = Attention(
            batch=(Axis("b", b),),
            queries=Axis("q", s),
            keys=Axis("t", t),
            depth=Axis("d", d),
            value=Axis("e", e),
            q=Load("q_in", (p["b"] * s + p["q"]) * d + p["d"]),
            k=Load("k_in", (p["b"] * t + p["t"]) * d + p["d"]),
            v=Load("v_in", (p["b"] * t + p["t"]) * e + p["e"]),
            mask=Load("m_in", p["q"] * t + p["t"]),
            scale=0.5,
            out=Store("y", (p["b"] * s + p["q"]) * e + p["e"], Local("acc", f32)),
            query_block=2,
        )
        names = ("q_in", "k_in", "v_in", "m_in")
        buffers = (*(Buffer(name, f32) for name in names), Buffer("y", f32, "write"))
        y = unfilled(b * s * e)
        given = dict(zip(names, (q.ravel(), k.ravel(), v.ravel(), mask.ravel()), strict=True))
        run_kernel(Kernel("attention", buffers, (), template.grid, template), {**given, "y": y}, {})
        scores = 0.5 * q.astype(np.float64) @ k.transpose(0, 2, 1) + mask
        with np.errstate(invalid="ignore"):
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            want = weights / weights.sum(-1, keepdims=True) @ v
        np.testing.assert_allclose(y.reshape(b, s, e), want, rtol=1e-5, atol=1e-5)
        assert np.isnan(y.reshape(b, s, e)[:, -1]).all()


B = symbol("batch")


def storage(name: str, kind: Any, size: Dim = 4, dtype: DType = f32, shape: tuple[Dim, ...] | None = None) -> Storage:
    needs = kind in ("input", "output")
    return Storage(name, kind, dtype, size, TensorType(dtype, shape or (size,)) if needs else None)


def pointwise(name: str, value: Expr, dtype: DType = f32, given: DType = f32) -> Kernel:
    buffers = (Buffer("x", given), Buffer("y", dtype, "write"))
    return Kernel(name, buffers, ("n",), (Axis("i", N, 64),), (Store("y", P, value),))


X = Load("x", P)


class TestPrograms:
    def test_symbols_offsets_and_shapes(self) -> None:
        x = storage("x", "input", 3 * B, shape=(B, 3))
        t = storage("t", "temp", 3 * B + 2)
        y = storage("y", "output", 3 * B, shape=(3, B))
        weight = Storage("w", "weight", f32, 3, data=np.array([5, 6, 7], np.float32))
        double = pointwise("double", Call("add", (X, X), f32))
        last = Kernel(
            "last",
            (Buffer("t", f32), Buffer("w", f32), Buffer("y", f32, "write")),
            ("n",),
            (Axis("i", N),),
            (Store("y", P, Call("add", (Load("t", P), Load("w", P % 3)), f32)),),
        )
        steps = (
            Launch(double, (Argument(x), Argument(t, 2)), (3 * B,)),
            Launch(last, (Argument(t, 2), Argument(weight), Argument(y)), (3 * B,)),
        )
        program = Program("p", (x, weight, t, y), steps, {"batch": (1, 8)})
        for batch in (1, 5):
            data = random(batch, 3)
            got = run_program(program, {"x": data})["y"]
            want = (2 * data + np.array([5, 6, 7], np.float32)).reshape(3, batch)
            np.testing.assert_array_equal(got, want)
            assert weight.data is not None and weight.data.tolist() == [5, 6, 7]
        with pytest.raises(BindingError, match=r"outside its range 1\.\.8"):
            run_program(program, {"x": random(9, 3)})
        with pytest.raises(BindingError, match="expected 3"):
            run_program(program, {"x": random(2, 4)})

    def test_unwritten_memory_shows(self) -> None:
        x, t, y = storage("x", "input"), storage("t", "temp"), storage("y", "output")
        copy = pointwise("copy", X)
        program = Program("p", (x, t, y), (Launch(copy, (Argument(t), Argument(y)), (4,)),))
        assert np.isnan(run_program(program, {"x": random(4)})["y"]).all()

    def test_branch(self) -> None:
        x, y, c = storage("x", "input", 1), storage("y", "output", 1), storage("c", "temp", 1, boolean)
        test = pointwise("positive", Call("gt", (X, Const(0.0, f32)), boolean), boolean)
        steps = (
            Launch(test, (Argument(x), Argument(c)), (1,)),
            Branch(
                Argument(c),
                (Launch(pointwise("up", Call("add", (X, Const(1.0, f32)), f32)), (Argument(x), Argument(y)), (1,)),),
                (Launch(pointwise("negate", Call("neg", (X,), f32)), (Argument(x), Argument(y)), (1,)),),
            ),
        )
        program = Program("p", (x, y, c), steps)
        for value, want in ((2, 3), (-2, 2), (0, 0), (np.nan, np.nan)):
            got = run_program(program, {"x": np.array([value], np.float32)})["y"]
            np.testing.assert_array_equal(got, [want])

    @pytest.mark.parametrize(("trip", "limit", "want"), [(0, 100, 1), (3, 100, 8), (10, 50, 64), (None, 50, 64)])
    def test_repeat(self, trip: int | None, limit: float, want: float) -> None:
        """y = 1; while y < limit (at most trip times): y = 2 y; the counter is seen by the body."""
        x, y = storage("x", "input", 1), storage("y", "output", 1)
        c, i, seen = storage("c", "temp", 1, boolean), storage("i", "temp", 1, i64), storage("seen", "output", 1, i64)
        t = Storage("t", "weight", i64, 1, data=np.array([trip or 0], np.int64))
        below = pointwise("below", Call("lt", (X, Const(limit, f32)), boolean), boolean)
        grow = Kernel(
            "grow", (Buffer("y", f32, "readwrite"),), (), (), (Store("y", 0, Call("add", (Load("y", 0),) * 2, f32)),)
        )
        look = pointwise("look", X, i64, i64)
        start = pointwise("start", X)
        zero = Kernel("zero", (Buffer("y", i64, "write"),), (), (), (Store("y", 0, Const(-1, i64)),))
        steps = (
            Launch(start, (Argument(x), Argument(y)), (1,)),
            Launch(zero, (Argument(seen),), ()),
            Launch(below, (Argument(y), Argument(c)), (1,)),
            Repeat(
                Argument(i),
                None if trip is None else Argument(t),
                Argument(c),
                (
                    Launch(grow, (Argument(y),), ()),
                    Launch(look, (Argument(i), Argument(seen)), (1,)),
                    Launch(below, (Argument(y), Argument(c)), (1,)),
                ),
            ),
        )
        program = Program("p", (x, y, c, i, seen, t), steps)
        got = run_program(program, {"x": np.ones(1, np.float32)})
        assert got["y"][0] == want and got["seen"][0] == math.log2(want) - 1

    def test_fault(self) -> None:
        x, y, status = storage("x", "input", 2, i64), storage("y", "output", 2), storage("s", "status", 1, i64)
        bad = Call("ge", (Load("x", P), Const(3, i64)), boolean)
        body = (
            When(bad, (Store("s", 0, Const(2, i64)),)),
            Store("y", P, Const(0.0, f32)),
        )
        k = Kernel(
            "gather",
            (Buffer("x", i64), Buffer("y", f32, "write"), Buffer("s", i64, "write")),
            (),
            (Axis("i", 2),),
            body,
        )
        steps = (Launch(k, (Argument(x), Argument(y), Argument(status)), ()),)
        program = Program("p", (x, y, status), steps, faults=("first", "index out of range"))
        assert run_program(program, {"x": np.array([0, 2])})["y"].tolist() == [0, 0]
        with pytest.raises(FaultError, match=r"index out of range \(kernel gather\)"):
            run_program(program, {"x": np.array([0, 3])})

    def test_errors_name_the_model(self) -> None:
        x, y = storage("x", "input"), storage("y", "output")
        steps = (Launch(pointwise("copy", X), (Argument(x), Argument(y)), (5,), ("Relu_3",)),)
        with pytest.raises(ExecutionError, match=r"kernel copy: offset 4 of buffer x.*\(from Relu_3\)"):
            run_program(Program("p", (x, y), steps), {"x": random(4)})
