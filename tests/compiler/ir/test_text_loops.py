"""The kernels' text form: goldens, exact round trips, errors with positions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.compiler.ir import loops
from ingot.compiler.ir.dims import Dim, maximum, symbol
from ingot.compiler.ir.loops import (
    FUNCTIONS,
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
from ingot.compiler.ir.templates import Attention, Contraction, Depthwise
from ingot.compiler.ir.text.loops import TEMPLATES, parse_kernel, show_expression, show_kernel
from ingot.compiler.ir.text.scanner import TextError
from ingot.runtime.dtypes import ALL, boolean, f16, f32, i64

ROW, COL, N = symbol("i"), symbol("j"), symbol("n")
T = Local("t", f32)

PLAIN = Kernel(
    "scale",
    (Buffer("x", f32), Buffer("y", f32, "write"), Buffer("for", i64, "readwrite")),
    ("n", "m"),
    (Axis("i", N, 1024), Axis("j", 16)),
    (
        Let("t", Load("x", 16 * ROW + COL)),
        For("k", 4, (Accumulate("t", "add", Call("mul", (T, Const(2.0, f32)), f32)),), "unroll"),
        For("l", maximum(N // 3, 1), (Scratch("s", f16, 8), Store("s", 0, Const(0.5, f16))), "vector"),
        When(
            Call("lt", (T, Const(-math.inf, f32)), boolean),
            (Store("y", 16 * ROW + COL, Const(math.nan, f32)),),
            (When(Const(True, boolean), (Store("y", 16 * ROW + COL, T),)),),
        ),
        Store("for", 0, Index(N - 1)),
    ),
    16 * N,
)
PLAIN_TEXT = """kernel scale(x: f32 read, y: f32 write, "for": i64 readwrite; n, m) {
  grid i in n by 1024, j in 16
  flops 16*n
  let t = x[16*i + j]
  for k in 4 unroll {
    t add= mul(%t:f32, 2.0:f32):f32
  }
  for l in max((n // 3), 1) vector {
    scratch s: f16[8]
    s[0] = 0.5:f16
  }
  when lt(%t:f32, -inf:f32):bool {
    y[16*i + j] = nan:f32
  } else {
    when true:bool {
      y[16*i + j] = %t:f32
    }
  }
  "for"[0] = index(n - 1)
}"""

GEMM = Contraction(
    batch=(),
    rows=(Axis("r", N),),
    columns=Axis("c", 10),
    segments=(),
    run=Axis("k", 6),
    a=Load("x", symbol("r") * 6 + symbol("k")),
    b="w",
    b_offset=0,
    width=8,
    tile_rows=2,
    row_block=4,
    panel_block=1,
    stores=(
        Store("y", symbol("r") * 10 + symbol("c"), Call("relu", (Local("acc", f32),), f32)),
        Store("z", symbol("c"), Local("acc", f32)),
    ),
)
GEMM_KERNEL = Kernel(
    "gemm", (Buffer("x", f32), Buffer("w", f32), Buffer("y", f32, "write")), ("n",), GEMM.grid, GEMM, 120 * N
)
GEMM_TEXT = """kernel gemm(x: f32 read, w: f32 read, y: f32 write; n) {
  grid row in n by 4, panel in 2
  flops 120*n
  template contraction(
    batch=(),
    rows=(r in n),
    columns=c in 10,
    segments=(),
    run=k in 6,
    a=x[k + 6*r],
    b="w",
    b_offset=0,
    width=8,
    tile_rows=2,
    row_block=4,
    panel_block=1,
    stores=(y[c + 10*r] = relu(%acc:f32):f32, z[c] = %acc:f32),
    accumulator=f32,
    dot=1,
    narrow=false,
    shift=0,
    order="auto",
    blocks=none,
    listed=0,
    places="",
    rest=""
  )
}"""


@pytest.mark.parametrize(("kernel", "text"), [(PLAIN, PLAIN_TEXT), (GEMM_KERNEL, GEMM_TEXT)], ids=["plain", "gemm"])
def test_golden(kernel: Kernel, text: str) -> None:
    assert show_kernel(kernel) == text
    made = parse_kernel(text)
    assert show_kernel(made) == text
    assert made.flops == kernel.flops


def test_parsed_kernels_are_equal() -> None:
    assert parse_kernel(show_kernel(GEMM_KERNEL)) == GEMM_KERNEL
    without_nan = replace(PLAIN, body=PLAIN.body[:3] + PLAIN.body[4:])  # type: ignore[index]
    assert parse_kernel(show_kernel(without_nan)) == without_nan


@pytest.mark.parametrize("mask", [None, Call("add", (Load("m", symbol("j")), Const(1.0, f32)), f32)])
def test_attention_and_depthwise(mask: Expr | None) -> None:
    queries, keys, depth, value = (Axis(name, extent) for name, extent in (("q", N), ("j", 7), ("d", 4), ("e", 3)))
    load = Load("x", symbol("q"))
    attention = Attention(
        (), queries, keys, depth, value, load, load, load, mask, 0.125, Store("y", symbol("e"), Local("acc", f32)), 2
    )
    tap = (Axis("ky", 3), Axis("kx", 3))
    depthwise = Depthwise((queries,), keys, depth, tap, load, load, 1, (Store("y", 0, Local("acc", f32)),))
    for template in (attention, depthwise):
        kernel = Kernel("k", (Buffer("x", f32),), ("n",), template.grid, template)
        assert parse_kernel(show_kernel(kernel)) == kernel


def test_every_template_is_known() -> None:
    assert set(TEMPLATES.values()) >= {Contraction, Depthwise, Attention}


def test_own_template() -> None:
    @dataclass(frozen=True)
    class Sort:
        buffer: str
        offset: Dim
        descending: bool

        @property
        def grid(self) -> tuple[Axis, ...]:
            return ()

        def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
            return (), ()

    kernel = Kernel("k", (Buffer("x", f32),), (), (), Sort("x", N + 1, True))
    text = show_kernel(kernel)
    assert 'template sort(\n    buffer="x",\n    offset=n + 1,\n    descending=true\n  )' in text
    assert parse_kernel(text, templates={"sort": Sort}) == kernel
    with pytest.raises(TextError, match=r"expected a template .*contraction.*, found sort"):
        parse_kernel(text)


def test_smallest_kernel() -> None:
    kernel = Kernel("k", (), (), (), ())
    assert show_kernel(kernel) == "kernel k() {\n}"
    assert parse_kernel(show_kernel(kernel)) == kernel


NAMES = st.sampled_from(["x", "acc", "for", "inf", "nan", "true", "index", "a b", "with.dot", 'q"uote', "1st", ""])
OFFSETS = st.sampled_from([0, ROW, 3 * ROW - COL + 7, (ROW // 2) % 5, maximum(ROW, N)])
DTYPES = st.sampled_from(ALL)


def _consts() -> st.SearchStrategy[Expr]:
    floats = st.builds(Const, st.floats(allow_nan=False), st.sampled_from([d for d in ALL if d.is_float]))
    whole = st.builds(Const, st.integers(-(2**63), 2**64), st.sampled_from([d for d in ALL if d.is_integer]))
    return st.one_of(floats, whole, st.builds(Const, st.booleans(), st.just(boolean)))


def _calls(children: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    args = st.lists(children, min_size=1, max_size=3).map(tuple)
    return st.builds(Call, st.sampled_from(sorted(FUNCTIONS)), args, DTYPES)


LEAVES = st.one_of(
    _consts(), st.builds(Index, OFFSETS), st.builds(Load, NAMES, OFFSETS), st.builds(Local, NAMES, DTYPES)
)
EXPRESSIONS = st.recursive(LEAVES, _calls, max_leaves=6)
MODES = st.sampled_from(get_args(loops.Mode))


def _bodies(children: st.SearchStrategy[Stmt]) -> st.SearchStrategy[Stmt]:
    body = st.lists(children, max_size=3).map(tuple)
    return st.one_of(st.builds(For, NAMES, OFFSETS, body, MODES), st.builds(When, EXPRESSIONS, body, body))


STATEMENTS = st.recursive(
    st.one_of(
        st.builds(Let, NAMES, EXPRESSIONS),
        st.builds(Accumulate, NAMES, st.sampled_from(get_args(loops.Reduction)), EXPRESSIONS),
        st.builds(Store, NAMES, OFFSETS, EXPRESSIONS),
        st.builds(Scratch, NAMES, DTYPES, st.integers(1, 99)),
    ),
    _bodies,
    max_leaves=6,
)


@given(st.lists(STATEMENTS, max_size=4).map(tuple), NAMES, OFFSETS)
@settings(max_examples=150, deadline=None)
def test_any_kernel_round_trips(body: tuple[Stmt, ...], name: str, extent: Dim) -> None:
    buffers = (Buffer(name, f32), Buffer("other", f16, "readwrite"))
    kernel = Kernel(name, buffers, ("n", name), (Axis(name, extent, extent),), body)
    assert parse_kernel(show_kernel(kernel)) == kernel


def test_expression() -> None:
    assert (
        show_expression(Call("fma", (Load("x", 0), Const(1, i64), Index(ROW)), i64)) == "fma(x[0], 1:i64, index(i)):i64"
    )


@pytest.mark.parametrize(
    ("line", "column", "expected"),
    [
        ("y[0] = sinus(%t:f32):f32", 8, "a scalar function, found sinus"),
        ("y[0] = %t", 10, "':', found }"),
        ("y[0] 1.0:f32", 6, "'=', found 1"),
        ("y[0 = 1.0:f32", 5, r"'\]', found ="),
        ("t plus= 1.0:f32", 3, "add or mul or max or min or and or or, found plus"),
        ("for k in 4 fast {", 12, "serial or vector or unroll, found fast"),
        ("let t 1.0:f32", 7, "'=', found 1"),
        ("scratch s: f32[n]", 16, "an integer, found n"),
        ("y[0] = 1.5:i64", 8, "an integer before :i64"),
        ("y[0] = x", 1, r"'\[' or '\(' after x, found }"),
        ("when 1:bool {", 6, "true or false before :bool, found 1"),
        ("template gemm()", 10, r"a template \(contraction, "),
        ("template depthwise(rows=())", 28, ".* among the fields of Depthwise"),
        ("?", 1, r"a statement or '}', found \?"),
    ],
)
def test_errors_have_positions(line: str, column: int, expected: str) -> None:
    with pytest.raises(TextError, match=expected) as error:
        parse_kernel(f"kernel k(y: f32 write) {{\n{line}\n}}\n", source="k.ir")
    found: Any = error.value
    assert found.line in (2, 3)
    if found.line == 2:
        assert found.column == column
