"""Attention kernels as native code against float64 softmax and against the template's own loop nest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.loops import Axis, Buffer, Call, Const, Expr, Index, Kernel, Load, Local, Store
from ingot.compiler.ir.templates import Attention
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import features
from ingot.runtime.dtypes import DType, boolean, f16, f32, f64

Array = NDArray[Any]


@dataclass(frozen=True)
class Heads:
    """Attention over [batch, sequence, heads, depth] operands."""

    queries: int
    keys: int
    depth: int = 16
    value: int = 16
    batch: int = 1
    heads: int = 2
    mask: Literal["none", "keys", "pairs", "causal"] = "none"
    block: Dim = 16
    dtype: DType = f32

    def build(self, *, run_time: bool = False) -> Kernel:
        """`run_time` makes both sequence lengths parameters."""
        b, h, i, j, d, e = (symbol(name) for name in "bhijde")
        queries: Dim = symbol("S") if run_time else self.queries
        keys: Dim = symbol("T") if run_time else self.keys
        buffers = [Buffer(name, self.dtype) for name in "qkv"]
        mask: Expr | None = None
        if self.mask == "causal":
            visible = Call("le", (Index(j), Index(i)), boolean)
            mask = Call("select", (visible, Const(0.0, f32), Const(float("-inf"), f32)), f32)
        elif self.mask != "none":
            mask = Load("m", b * keys + j if self.mask == "keys" else (b * queries + i) * keys + j)
            buffers.append(Buffer("m", f32))
        buffers.append(Buffer("o", f32, "write"))
        out = Store("o", ((b * queries + i) * self.heads + h) * self.value + e, Local("acc", f32))
        template = Attention(
            batch=(Axis("b", self.batch), Axis("h", self.heads)),
            queries=Axis("i", queries),
            keys=Axis("j", keys),
            depth=Axis("d", self.depth),
            value=Axis("e", self.value),
            q=Load("q", ((b * queries + i) * self.heads + h) * self.depth + d),
            k=Load("k", ((b * keys + j) * self.heads + h) * self.depth + d),
            v=Load("v", ((b * keys + j) * self.heads + h) * self.value + e),
            mask=mask,
            scale=self.depth**-0.5,
            out=out,
            query_block=self.block,
        )
        return Kernel("kernel", tuple(buffers), ("S", "T") if run_time else (), template.grid, template)

    def data(self) -> dict[str, Array]:
        rng = np.random.default_rng(self.queries * 1000 + self.keys)

        def random(length: int, size: int) -> Array:
            shape = (self.batch, length, self.heads, size)
            return rng.standard_normal(shape).astype(self.dtype.to_numpy())

        q, k = random(self.queries, self.depth), random(self.keys, self.depth)
        buffers = {"q": q, "k": k, "v": random(self.keys, self.value)}
        lengths = (self.batch, self.keys) if self.mask == "keys" else (self.batch, self.queries, self.keys)
        if self.mask in ("keys", "pairs"):
            mask = rng.standard_normal(lengths).astype(np.float32)
            mask[rng.random(lengths) < 0.3] = -np.inf
            mask[..., :1] = 0.5
            buffers["m"] = mask
        buffers["o"] = np.full((self.batch, self.queries, self.heads, self.value), 77, np.float32)
        return buffers

    def reference(self, buffers: dict[str, Array]) -> Array:
        q, k, v = (buffers[name].astype(np.float64) for name in "qkv")
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            scores = np.einsum("bihd,bjhd->bhij", q, k) * self.depth**-0.5
            if self.mask == "causal":
                scores += np.where(np.tri(self.queries, self.keys) > 0, 0.0, -np.inf)
            elif self.mask != "none":
                m = buffers["m"].astype(np.float64)
                scores += m[:, None, None] if self.mask == "keys" else m[:, None]
            weights = np.exp(scores - scores.max(-1, keepdims=True, initial=-np.inf))
            weights /= weights.sum(-1, keepdims=True)
            return np.einsum("bhij,bjhe->bihe", weights, v)

    def compare(self, native: Any, kernel: Kernel, function: Any) -> None:
        buffers = self.data()
        flat = {b.name: buffers[b.name].ravel() for b in kernel.buffers}
        values = {"S": self.queries, "T": self.keys} if kernel.dims else {}
        native.launch(kernel, function, flat, **values)
        want = self.reference(buffers)
        np.testing.assert_allclose(flat["o"].reshape(want.shape), want, rtol=2e-5, atol=2e-6)


CASES = {
    "one of each": Heads(1, 1),
    "whole panels": Heads(32, 24, batch=2),
    "odd everything": Heads(19, 13, depth=7, value=5, heads=3),
    "key mask": Heads(17, 30, mask="keys", batch=2, depth=8, value=24),
    "pair mask": Heads(21, 19, mask="pairs"),
    "causal": Heads(37, 37, mask="causal", depth=12, value=20),
    "few queries": Heads(5, 40, mask="pairs", depth=32, value=1),
    "several key blocks": Heads(20, 530, mask="keys", depth=8, value=8),
    "values that evict each other": Heads(70, 50, depth=16, value=64, heads=8, block=70, mask="pairs"),
    "f16": Heads(18, 26, dtype=f16),
    "f16 values that evict each other": Heads(18, 26, depth=8, value=36, heads=128, dtype=f16, block=18),
}


@pytest.mark.parametrize("name", CASES)
def test_against_float64(native: Any, level: features.Level, name: str) -> None:
    case = CASES[name]
    kernel = case.build()
    case.compare(native, kernel, native.compile(kernel, level))


@pytest.mark.parametrize("name", ["odd everything", "causal"])
def test_against_the_nest(native: Any, level: features.Level, name: str) -> None:
    case = CASES[name]
    buffers = {key: array.ravel() for key, array in case.data().items()}
    native.check(case.build(), level, buffers, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("mask", ["none", "pairs"])
def test_run_time_lengths(native: Any, level: features.Level, mask: Literal["none", "pairs"]) -> None:
    first = Heads(1, 1, mask=mask, block=32)
    kernel = first.build(run_time=True)
    function = native.compile(kernel, level)
    for queries, keys in ((1, 1), (1, 300), (16, 16), (33, 7), (50, 481), (0, 3)):
        replace(first, queries=queries, keys=keys).compare(native, kernel, function)


def test_rows_without_a_finite_score_are_nan(native: Any, level: features.Level) -> None:
    """As softmax; a block of keys that is masked as a whole must not spoil rows that see other blocks."""
    case = Heads(4, 300, mask="pairs", depth=8, value=8)
    kernel = case.build()
    buffers = case.data()
    buffers["m"][:, 1] = -np.inf
    buffers["m"][:, 2, :280] = -np.inf
    buffers["m"][:, 2, 290] = 0.0
    buffers["q"][0, 3, 0, 0] = np.nan
    flat = {name: array.ravel() for name, array in buffers.items()}
    native.run(kernel, level, flat)
    result, want = flat["o"].reshape(buffers["o"].shape), case.reference(buffers)
    assert np.isnan(want[0, 1]).all() and np.isnan(want[0, 3, 0]).all() and not np.isnan(want[0, 2]).any()
    np.testing.assert_allclose(result, want, rtol=2e-5, atol=2e-6)


def test_no_keys_give_zero(native: Any, level: features.Level) -> None:
    case = Heads(3, 0, block=16)
    kernel = case.build(run_time=True)
    flat = {name: array.ravel() for name, array in case.data().items()}
    native.run(kernel, level, flat, S=3, T=0)
    np.testing.assert_array_equal(flat["o"], 0)  # a sum over nothing


def test_large_scores_do_not_overflow(native: Any, level: features.Level) -> None:
    case = Heads(9, 260, depth=8, value=8)
    kernel = case.build()
    buffers = case.data()
    buffers["q"] *= 300
    flat = {name: array.ravel() for name, array in buffers.items()}
    native.run(kernel, level, flat)
    want = case.reference(buffers)
    np.testing.assert_allclose(flat["o"].reshape(want.shape), want, rtol=2e-3, atol=2e-4)


def test_f64_is_refused(native: Any, level: features.Level) -> None:
    with pytest.raises(IrError, match="accumulates in f32"):
        native.compile(Heads(4, 4, dtype=f64).build(), level)
