"""Contraction kernels as native code against float64 arithmetic and against the template's own loop nest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.ir import dims, execute
from ingot.compiler.ir.dims import Dim, ceil_divide, symbol
from ingot.compiler.ir.loops import Axis, Buffer, Call, Const, Expr, Kernel, Load, Local, Store
from ingot.compiler.ir.templates import Contraction, Order
from ingot.compiler.ir.types import IrError
from ingot.compiler.lower.packing import pack_conv, pack_panels
from ingot.compiler.targets.cpu import features, rows
from ingot.compiler.targets.cpu.blocking import Blocking
from ingot.runtime.dtypes import DType, f16, f32, f64, i32

Array = NDArray[Any]
ROW, COLUMN, STEP, BATCH = (symbol(name) for name in "ijkb")


def epilogue(kind: str, dtype: DType, out: Dim, column: Dim) -> tuple[tuple[Store, ...], tuple[str, ...]]:
    """The stores of a named epilogue and the buffers they read."""
    acc: Expr = Local("acc", dtype)

    def call(fn: str, *args: Expr) -> Expr:
        return Call(fn, args, dtype)

    biased = call("add", acc, Load("bias", column))
    match kind:
        case "plain":
            return (Store("c", out, acc),), ()
        case "bias":
            return (Store("c", out, biased),), ("bias",)
        case "residual":
            return (Store("c", out, call("relu", call("add", biased, Load("res", out)))),), ("bias", "res")
        case "clip":
            clipped = call("clip", biased, Const(-1.0, dtype), Const(1.5, dtype))
            return (Store("c", out, clipped),), ("bias",)
        case "two":
            sigmoid = call("sigmoid", biased)
            return (Store("c", out, biased), Store("d", out, call("mul", biased, sigmoid))), ("bias",)
        case _:
            raise ValueError(kind)


def expected(kind: str, total: Array, bias: Array, residual: Array) -> dict[str, Array]:
    """What the epilogue's results are, in float64."""
    match kind:
        case "plain":
            return {"c": total}
        case "bias":
            return {"c": total + bias}
        case "residual":
            return {"c": np.maximum(total + bias + residual, 0)}
        case "clip":
            return {"c": np.clip(total + bias, -1.0, 1.5)}
        case _:
            y = total + bias
            return {"c": y, "d": y / (1 + np.exp(-y))}


def make_kernel(template: Contraction, reads: tuple[str, ...], dtypes: dict[str, DType], names: tuple[str, ...] = ()):
    written = tuple(dict.fromkeys(store.buffer for store in template.stores))
    buffers = [Buffer(name, dtypes.get(name, template.accumulator)) for name in ("a", "b", *reads)]
    buffers += [Buffer(name, template.accumulator, "write") for name in written]
    return Kernel("kernel", tuple(buffers), names, template.grid, template)


def tolerance(dtype: DType, depth: int) -> float:
    return {"f32": 2e-6, "f64": 1e-13}.get(dtype.name, 0.0) * (depth + 8)


def matmul(
    m: Dim,
    n: Dim,
    k: Dim,
    kind: str = "plain",
    *,
    width: int = 16,
    tile_rows: int = 6,
    row_block: Dim | None = None,
    panel_block: Dim | None = None,
    dtype: DType = f32,
    a_dtype: DType | None = None,
    names: tuple[str, ...] = (),
    order: Order = "auto",
) -> Kernel:
    """c[m, n] = epilogue(a[m, k] @ b[k, n])"""
    stores, reads = epilogue(kind, dtype, ROW * n + COLUMN, COLUMN)
    template = Contraction.matmul(
        m,
        n,
        k,
        width=width,
        tile_rows=tile_rows,
        row_block=m if row_block is None else row_block,
        panel_block=ceil_divide(n, width) if panel_block is None else panel_block,
    )
    template = replace(template, stores=stores, accumulator=dtype, order=order)
    return make_kernel(template, reads, {"a": a_dtype or dtype}, names)


def operands(rng: np.random.Generator, dtype: DType, *shapes: tuple[int, ...]) -> list[Array]:
    if dtype.is_integer:
        return [rng.integers(-9, 9, shape).astype(dtype.to_numpy()) for shape in shapes]
    return [rng.standard_normal(shape).astype(dtype.to_numpy()) for shape in shapes]


def check_matmul(native: Any, kernel: Kernel, function: Any, kind: str, m: int, n: int, k: int, **values: int) -> None:
    """Run natively, against float64 and against the nest; rows past the last one must be left alone."""
    body = kernel.body
    assert isinstance(body, Contraction)
    dtype = body.accumulator
    rng = np.random.default_rng(m * 10007 + n * 101 + k)
    a, w, bias, residual = operands(rng, dtype, (m, k), (k, n), (n,), (m, n))
    a = a.astype({b.name: b.dtype for b in kernel.buffers}["a"].to_numpy())
    guard = np.full((m + 1, n), 77, dtype.to_numpy())
    buffers = {"a": a.ravel(), "b": pack_panels(w, body.width), "bias": bias, "res": residual.ravel()}
    buffers |= {"c": guard.ravel().copy(), "d": guard.ravel().copy()}
    buffers = {b.name: buffers[b.name] for b in kernel.buffers}
    wide = np.float64 if dtype.is_float else np.int64
    want = expected(kind, a.astype(wide) @ w.astype(wide), bias.astype(wide), residual.astype(wide))
    native.launch(kernel, function, buffers, **values)
    for name, reference in want.items():
        result = buffers[name].reshape(m + 1, n)
        close = tolerance(dtype, k)
        np.testing.assert_allclose(result[:m], reference, rtol=close, atol=close, err_msg=f"{name} {(m, n, k)}")
        assert (result[m] == 77).all()
    if m * n * k and m * n <= 4096 and k <= 100:
        again = {name: (guard.ravel().copy() if name in want else array) for name, array in buffers.items()}
        execute.run_kernel(kernel, again, values)
        for name in want:
            np.testing.assert_allclose(
                again[name], buffers[name], rtol=tolerance(dtype, k), atol=tolerance(dtype, k), err_msg=f"nest {name}"
            )


STATIC = [
    # rows, columns, depth, epilogue
    (1, 1, 1, "plain"),
    (1, 40, 27, "residual"),
    (1, 1001, 64, "bias"),
    (2, 16, 3, "plain"),
    (2, 90, 13, "bias"),
    (3, 100, 65, "two"),
    (5, 24, 64, "clip"),
    (6, 16, 16, "bias"),
    (7, 10, 20, "residual"),
    (13, 33, 5, "two"),
    (13, 40, 2100, "bias"),
    (49, 40, 27, "residual"),
    (49, 64, 130, "plain"),
    (196, 8, 64, "bias"),
]


@pytest.mark.parametrize(("m", "n", "k", "kind"), STATIC)
def test_static_matmul(native: Any, level: features.Level, m: int, n: int, k: int, kind: str) -> None:
    kernel = matmul(m, n, k, kind)
    check_matmul(native, kernel, native.compile(kernel, level), kind, m, n, k)


@pytest.mark.parametrize(
    ("width", "tile_rows", "m", "n", "row_block", "panel_block"),
    [(8, 12, 29, 20, 7, 2), (24, 4, 30, 72, 11, 1), (32, 3, 7, 40, 7, 2), (16, 6, 600, 17, 600, 1), (4, 6, 9, 3, 9, 1)],
)
def test_tiles_and_blocks(
    native: Any, level: features.Level, width: int, tile_rows: int, m: int, n: int, row_block: int, panel_block: int
) -> None:
    kernel = matmul(m, n, 18, "bias", width=width, tile_rows=tile_rows, row_block=row_block, panel_block=panel_block)
    check_matmul(native, kernel, native.compile(kernel, level), "bias", m, n, 18)


@pytest.mark.parametrize("order", ["tiles", "panels", "ahead"])
@pytest.mark.parametrize(("m", "n", "k"), [(40, 50, 260), (1, 40, 27), (13, 16, 18)])
def test_orders_of_loops(native: Any, level: features.Level, order: Order, m: int, n: int, k: int) -> None:
    kernel = matmul(m, n, k, "residual", row_block=25, panel_block=2, order=order)
    assert isinstance(kernel.body, Contraction) and Blocking(kernel.body, level).order == order
    check_matmul(native, kernel, native.compile(kernel, level), "residual", m, n, k)


def test_the_order_left_open_is_that_of_the_level() -> None:
    level = features.level("x86-64-v3")
    cases = {"tiles": (600, 64, 64), "ahead": (49, 64, 1024), "panels": (49, 64, 32)}
    for order, (m, n, k) in cases.items():
        body = matmul(m, n, k).body
        assert isinstance(body, Contraction) and Blocking(body, level).order == order


@pytest.mark.parametrize("kind", ["residual", "two"])
def test_run_time_extents(native: Any, level: features.Level, kind: str) -> None:
    kernel = matmul(symbol("R"), symbol("C"), symbol("D"), kind, row_block=24, panel_block=2, names=("R", "C", "D"))
    function = native.compile(kernel, level)
    for m in (0, 1, 2, 6, 7, 23, 24, 25, 61):
        for n, k in ((1, 4), (16, 1), (17, 30), (64, 0), (0, 5), (40, 13)):
            check_matmul(native, kernel, function, kind, m, n, k, R=m, C=n, D=k)


def test_run_time_rows_beyond_one_block(native: Any, level: features.Level) -> None:
    kernel = matmul(symbol("R"), 20, 48, "bias", row_block=symbol("R"), names=("R",))
    function = native.compile(kernel, level)
    for m in (1, 511, 512, 513, 1100):
        check_matmul(native, kernel, function, "bias", m, 20, 48, R=m)


@pytest.mark.parametrize(
    ("dtype", "a_dtype"), [(f64, f64), (f32, f16), (i32, i32)], ids=["f64", "f16 left operand", "i32"]
)
def test_other_element_types(native: Any, level: features.Level, dtype: DType, a_dtype: DType) -> None:
    kind = "plain" if dtype is i32 else "residual"
    kernel = matmul(11, 27, 19, kind, dtype=dtype, a_dtype=a_dtype)
    check_matmul(native, kernel, native.compile(kernel, level), kind, 11, 27, 19)


def test_nonfinite_values_stay_in_their_rows_and_columns(native: Any, level: features.Level) -> None:
    kernel = matmul(7, 18, 9, "residual")
    rng = np.random.default_rng(5)
    a, w, bias, residual = operands(rng, f32, (7, 9), (9, 18), (18,), (7, 18))
    a[2, 4], a[5, 0], w[3, 17] = np.nan, np.inf, -np.inf
    buffers = {"a": a.ravel(), "b": pack_panels(w, 16), "bias": bias, "res": residual.ravel()}
    buffers["c"] = np.zeros(7 * 18, np.float32)
    native.run(kernel, level, buffers)
    with np.errstate(invalid="ignore"):
        want = expected("residual", a.astype(np.float64) @ w.astype(np.float64), bias, residual)["c"]
    np.testing.assert_allclose(buffers["c"].reshape(7, 18), want, rtol=1e-5, atol=1e-5)


# -- convolution ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conv:
    """A convolution over channels-last data with a zero border of `pad`; the result lies inside a border of `halo`."""

    images: int
    size: tuple[int, int]
    channels: int
    filters: int
    kernel: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    group: int = 1
    halo: int = 0
    kind: str = "residual"
    row_block: int | None = None

    @property
    def out(self) -> tuple[int, int]:
        reach = self.dilation * (self.kernel - 1) + 1
        height, width = ((s + 2 * self.pad - reach) // self.stride + 1 for s in self.size)
        return height, width

    def build(self, images: Dim | None = None) -> Kernel:
        """`images` symbolic makes the batch a run-time extent."""
        names = "i y x ky kx c g n"
        i, y, x, ky, kx, c, g, n = (symbol(name) for name in names.split())
        count = self.images if images is None else images
        (height, width), (oh, ow) = self.size, self.out
        rows, columns = height + 2 * self.pad, width + 2 * self.pad
        inner, outer = self.channels // self.group, self.filters // self.group
        joined = self.dilation == 1 and self.group == 1
        at_y = y * self.stride + ky * self.dilation if self.kernel > 1 else y * self.stride
        start = (i * rows + at_y) * columns + x * self.stride
        if joined or self.kernel == 1:
            run = Axis("c", self.kernel * self.channels if joined else inner)
            segments = (Axis("ky", self.kernel),) if self.kernel > 1 else ()
            a = start * self.channels + (g * inner if self.group > 1 else 0) + c
        else:
            run = Axis("c", inner)
            segments = (Axis("ky", self.kernel), Axis("kx", self.kernel))
            a = (start + kx * self.dilation) * self.channels + (g * inner if self.group > 1 else 0) + c
        column = (g * outer if self.group > 1 else 0) + n
        out = ((i * (oh + 2 * self.halo) + y + self.halo) * (ow + 2 * self.halo) + x + self.halo) * self.filters
        stores, reads = epilogue(self.kind, f32, out + column, column)
        panels = ceil_divide(outer, 16)
        depth = self.kernel**2 * inner
        template = Contraction(
            batch=(Axis("g", self.group),) if self.group > 1 else (),
            rows=(Axis("i", count), Axis("y", oh), Axis("x", ow)),
            columns=Axis("n", outer),
            segments=segments,
            run=run,
            a=Load("a", a),
            b="b",
            b_offset=g * (panels * depth * 16) if self.group > 1 else 0,
            width=16,
            tile_rows=6,
            row_block=self.row_block or count * (oh * ow),
            panel_block=panels,
            stores=stores,
        )
        return make_kernel(template, reads, {}, () if images is None else ("I",))

    def data(self, images: int) -> tuple[dict[str, Array], dict[str, Array]]:
        """Buffers, and the results inside their border in float64."""
        rng = np.random.default_rng(self.channels * 100 + self.filters)
        (height, width), (oh, ow) = self.size, self.out
        p, h = self.pad, self.halo
        a = np.zeros((images, height + 2 * p, width + 2 * p, self.channels), np.float32)
        a[:, p : p + height, p : p + width] = rng.standard_normal((images, height, width, self.channels))
        inner, outer = self.channels // self.group, self.filters // self.group
        w = rng.standard_normal((self.filters, inner, self.kernel, self.kernel)).astype(np.float32)
        bias = rng.standard_normal(self.filters).astype(np.float32)
        shape = (images, oh + 2 * h, ow + 2 * h, self.filters)
        residual = rng.standard_normal(shape).astype(np.float32)
        total = np.zeros((images, oh, ow, self.filters))
        for ky in range(self.kernel):
            for kx in range(self.kernel):
                y, x = ky * self.dilation, kx * self.dilation
                ends = y + (oh - 1) * self.stride + 1, x + (ow - 1) * self.stride + 1
                seen = a[:, y : ends[0] : self.stride, x : ends[1] : self.stride].astype(np.float64)
                for g in range(self.group):
                    total[..., g * outer : (g + 1) * outer] += (
                        seen[..., g * inner : (g + 1) * inner] @ w[g * outer : (g + 1) * outer, :, ky, kx].T
                    )
        buffers = {"a": a.ravel(), "b": pack_conv(w, self.group, 16), "bias": bias, "res": residual.ravel()}
        buffers |= {name: np.full(shape, 77, np.float32).ravel() for name in ("c", "d")}
        inside = residual[:, h : h + oh, h : h + ow]
        return buffers, expected(self.kind, total, bias.astype(np.float64), inside.astype(np.float64))

    def compare(self, native: Any, kernel: Kernel, function: Any, images: int, **values: int) -> None:
        everything, want = self.data(images)
        buffers = {b.name: everything[b.name] for b in kernel.buffers}
        native.launch(kernel, function, buffers, **values)
        (oh, ow), h = self.out, self.halo
        for name, reference in want.items():
            result = buffers[name].reshape(images, oh + 2 * h, ow + 2 * h, self.filters)
            np.testing.assert_allclose(result[:, h : h + oh, h : h + ow], reference, rtol=1e-4, atol=1e-4)
            border = result.copy()
            border[:, h : h + oh, h : h + ow] = 77
            assert (border == 77).all()


CONVS = {
    "1x1": Conv(1, (7, 9), 16, 24, 1),
    "1x1 into a border": Conv(2, (5, 4), 12, 20, 1, halo=1),
    "1x1 stride 2": Conv(1, (9, 9), 10, 16, 1, stride=2, kind="bias"),
    "3x3": Conv(2, (8, 7), 6, 16, 3, pad=1, kind="clip"),
    "3x3 into a border, blocks": Conv(2, (6, 5), 4, 18, 3, pad=1, halo=2, row_block=7),
    "3x3 stride 2 stem": Conv(1, (13, 12), 3, 8, 3, stride=2, pad=1, kind="two"),
    "3x3 dilated": Conv(1, (9, 8), 5, 16, 3, pad=2, dilation=2),
    "3x3 grouped": Conv(2, (6, 6), 12, 40, 3, pad=1, group=2),
    "1x1 grouped": Conv(1, (6, 6), 12, 9, 1, group=3, kind="bias"),
    "5x5": Conv(1, (10, 6), 7, 33, 5, pad=2, kind="plain"),
    "7x7 stride 2 stem": Conv(1, (15, 16), 3, 16, 7, stride=2, pad=3, halo=1),
}


@pytest.mark.parametrize("name", CONVS)
def test_convolution(native: Any, level: features.Level, name: str) -> None:
    conv = CONVS[name]
    kernel = conv.build()
    conv.compare(native, kernel, native.compile(kernel, level), conv.images)


@pytest.mark.parametrize("name", ["1x1 into a border", "3x3", "1x1 grouped"])
def test_convolution_nest(native: Any, level: features.Level, name: str) -> None:
    conv = CONVS[name]
    kernel = conv.build()
    everything, _ = conv.data(conv.images)
    native.check(kernel, level, {b.name: everything[b.name] for b in kernel.buffers}, rtol=1e-4, atol=1e-4)


def test_convolution_with_run_time_batch(native: Any, level: features.Level) -> None:
    conv = replace(CONVS["3x3 into a border, blocks"], row_block=20)
    kernel = conv.build(symbol("I"))
    function = native.compile(kernel, level)
    for images in (1, 3):
        conv.compare(native, kernel, function, images, I=images)


# -- batches and offsets ----------------------------------------------------------------------------------------------


def test_batched_matmul_with_transposed_operand_and_result(native: Any, level: features.Level) -> None:
    """c[b, n, m] = sum_k a[b, k, m] w[b, k, n]: A's run is strided and neighbouring columns lie apart."""
    batch, m, n, k = 3, 10, 21, 12
    panels = -(-n // 16)
    template = replace(
        Contraction.matmul(m, n, k),
        batch=(Axis("b", batch),),
        a=Load("a", (BATCH * k + STEP) * m + ROW),
        b_offset=BATCH * (panels * k * 16),
        stores=(Store("c", (BATCH * n + COLUMN) * m + ROW, Local("acc", f32)),),
    )
    kernel = make_kernel(template, (), {})
    rng = np.random.default_rng(9)
    a, w = operands(rng, f32, (batch, k, m), (batch, k, n))
    buffers = {"a": a.ravel(), "b": pack_panels(w, 16), "c": np.zeros(batch * n * m, np.float32)}
    native.check(kernel, level, buffers, rtol=1e-5, atol=1e-5)
    native.run(kernel, level, buffers)
    want = np.einsum("bkm,bkn->bnm", a.astype(np.float64), w.astype(np.float64))
    np.testing.assert_allclose(buffers["c"].reshape(want.shape), want, rtol=1e-5, atol=1e-5)


def test_row_variables_under_floor_division(native: Any, level: features.Level) -> None:
    """Rows whose offsets are no affine function of the row go through tables evaluated row by row."""
    m, n, k = 23, 16, 8
    shuffled = (ROW % 4) * 6 + ROW // 4
    template = replace(
        Contraction.matmul(m, n, k, row_block=m),
        a=Load("a", shuffled * k + STEP),
        stores=(Store("c", shuffled * n + COLUMN, Local("acc", f32)),),
    )
    kernel = make_kernel(template, (), {})
    a, w = operands(np.random.default_rng(3), f32, (24, k), (k, n))
    buffers = {"a": a.ravel(), "b": pack_panels(w, 16), "c": np.zeros(24 * n, np.float32)}
    native.run(kernel, level, buffers)
    want = a.astype(np.float64) @ w.astype(np.float64)
    reached = [(row % 4) * 6 + row // 4 for row in range(m)]
    np.testing.assert_allclose(buffers["c"].reshape(24, n)[reached], want[reached], rtol=1e-5, atol=1e-5)
    missed = sorted(set(range(24)) - set(reached))
    assert (buffers["c"].reshape(24, n)[missed] == 0).all()


def test_offset_that_mixes_rows_and_columns_is_refused(native: Any, level: features.Level) -> None:
    kernel = matmul(4, 16, 8)
    body = kernel.body
    assert isinstance(body, Contraction)
    mixed = replace(body, stores=(Store("c", ROW * COLUMN, Local("acc", f32)),))
    with pytest.raises(IrError, match="multiplies a row variable"):
        native.compile(replace(kernel, body=mixed), level)


def test_tile_rows_follow_the_level() -> None:
    kernel = matmul(100, 64, 64)
    body = kernel.body
    assert isinstance(body, Contraction)
    assert Blocking(body, features.level("x86-64-v3")).most == 6
    assert Blocking(body, features.level("x86-64-v4")).most == 12
    assert Blocking(body, features.level("aarch64")).most == 6
    far_rows = replace(body, a=Load("a", ROW * 1024 + STEP))  # 4096 bytes: one set of the first-level cache
    assert Blocking(far_rows, features.level("x86-64-v4")).most == 8


def test_uniform_stride() -> None:
    axes = (Axis("i", 2), Axis("y", 5), Axis("x", 7))
    i, y, x = (symbol(name) for name in "iyx")
    assert rows.uniform_stride((i * 35 + y * 7 + x) * 3, axes) == 3
    assert rows.uniform_stride(i * 40 + y * 7 + x, axes) is None
    assert rows.uniform_stride(x // 2, axes) is None
    width = symbol("W")
    assert dims.show(rows.uniform_stride((y * width + x) * 4, (Axis("y", 5), Axis("x", width))) or 0) == "4"


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4", "aarch64"])
def test_micro_kernels_compile_without_spills(native: Any, name: str) -> None:
    """No level keeps an accumulator in memory: between a k loop's label and its branch nothing touches the stack."""
    level = features.level(name)
    for n in (64, 1000):
        for line in hot_loops(matmul(48, n, 256, "clip"), level):
            assert "rsp" not in line and "[sp" not in line, line


def hot_loops(kernel: Kernel, level: features.Level) -> list[str]:
    """The vector instructions of loops that multiply and add more than sixteen times a round."""
    from llvmlite import binding as llvm

    from ingot.compiler.targets.cpu import objects
    from ingot.compiler.targets.cpu.emit import emit_kernel

    module = objects.new_module("kernel", level)
    emit_kernel(module, kernel, level)
    assembly = objects.target_machine(level).emit_assembly(llvm.parse_assembly(str(module)))
    found: list[str] = []
    block: list[str] = []
    for line in assembly.splitlines():
        block.append(line)
        if line.startswith(".LBB"):
            block = []
        elif line.startswith(("\tj", "\tb.", "\tcb")):
            if sum("fmadd" in each or "fmla" in each for each in block) > 16:
                found += block
            block = []
    assert found
    return found
