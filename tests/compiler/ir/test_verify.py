"""The verifiers accept what is right and name what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.graph import OPS, Graph, Input, Node, Value, constant, op
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
from ingot.compiler.ir.program import Argument, Branch, Launch, Program, Repeat, Step, Storage
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.ir.verify import verify_graph, verify_kernel, verify_program
from ingot.compiler.ops.control import If
from ingot.compiler.ops.indexing import Compact
from ingot.compiler.ops.movement import Reshape
from ingot.compiler.ops.pointwise import Add, Cast, Neg, Relu
from ingot.compiler.ops.reduction import ReduceSum
from ingot.runtime.dtypes import DType, boolean, f16, f32, f64, i32, i64

BATCH, P, J, N = symbol("batch"), symbol("i"), symbol("j"), symbol("n")
X = Input("x", TensorType(f32, (BATCH, 4)))


class TestGraphs:
    def test_accepts(self) -> None:
        inner = Input("inner", TensorType(f32, (BATCH, 4)))
        body = Graph((inner,), (("o", Reshape(inner, (4 * BATCH,))),), "body")
        branch = If(constant(np.array(True)), (Relu(X),), body, body)
        verify_graph(Graph((X,), (("y", branch), ("x", X)), ranges={"batch": (0, 5)}))
        verify_graph(Graph((), ()))

    def test_cycle(self) -> None:
        a = Relu(X)
        b = Neg(a)
        object.__setattr__(a, "x", b)
        a.__dict__.pop("_operands", None)
        with pytest.raises(IrError, match=r"graph 'main': (relu|neg) depends on itself"):
            verify_graph(Graph((X,), (("y", b),)))

    def test_very_deep(self) -> None:
        value: Value = X
        for _ in range(20_000):
            value = Neg(value)
        verify_graph(Graph((X,), (("y", value),)))

    def test_names(self) -> None:
        with pytest.raises(IrError, match="two inputs named 'x'"):
            verify_graph(Graph((X, Input("x", X.declared)), ()))
        with pytest.raises(IrError, match="two outputs named 'y'"):
            verify_graph(Graph((X,), (("y", X), ("y", Relu(X)))))

    def test_stray_input(self) -> None:
        with pytest.raises(IrError, match="graph 'inside' uses input 'x', which is not one of its inputs"):
            body = Graph((), (("o", Relu(X)),), "inside")
            verify_graph(Graph((X,), (("y", If(constant(np.array(True)), (), body, body)),)))

    def test_stale_types(self) -> None:
        node = Add(X, X, origin=("Add_1",))
        object.__setattr__(node, "_types", (TensorType(f64, (1,)),))
        with pytest.raises(IrError, match=r"add \(Add_1\) carries f64\[1\] but infers f32\[batch, 4\]"):
            verify_graph(Graph((X,), (("y", node),)))

    def test_symbols(self) -> None:
        @op("verify_test_unknown")
        class Unknown(Node):
            shape_of: tuple[Dim, ...]

            def infer(self) -> Sequence[TensorType]:
                return (TensorType(f32, self.shape_of),)

        try:
            fresh = Unknown((symbol("count"), symbol("count") + 1))
            verify_graph(Graph((), (("y", fresh),)))
            verify_graph(Graph((), (("y", fresh), ("z", Unknown((2 * symbol("count"),))))))
            with pytest.raises(IrError, match=r"count in the type f32\[2\*count\] of verify_test_unknown occurs in no"):
                verify_graph(Graph((X,), (("y", Unknown((2 * symbol("count"),))),)))
        finally:
            del OPS["verify_test_unknown"]

    def test_bound_symbols(self) -> None:
        mask = Input("mask", TensorType(boolean, (8,)))
        count = ReduceSum(Cast(mask, i64), (0,), False)
        found = Compact(mask, N)
        ranges = {"n": (0, 8)}
        graph = Graph((mask,), (("y", Neg(found)),), ranges=ranges, bound={"n": count})
        verify_graph(graph)
        assert graph.uses()[count] == 1 and list(graph.sizes()) == ["n"]
        assert graph.nodes().index(count) < graph.nodes().index(found)
        assert not Graph((mask,), (("y", mask),), bound={"n": count}).sizes()
        with pytest.raises(IrError, match=r"n is bound to i64\[8\], one i64 is needed"):
            verify_graph(Graph((mask,), (("y", found),), bound={"n": Cast(mask, i64)}))
        with pytest.raises(IrError, match="batch is bound, but already has a value where this graph begins"):
            verify_graph(Graph((X, mask), (("x", X), ("y", found)), bound={"n": count, "batch": count}))
        for value in (ReduceSum(found, (0,), False), ReduceSum(Neg(found), (0,), False)):
            itself = Graph((mask,), (("y", found),), bound={"n": value})
            with pytest.raises(IrError, match="depends on itself"):
                verify_graph(itself)
            with pytest.raises(IrError, match="depends on itself"):
                itself.nodes()

    def test_empty_range(self) -> None:
        with pytest.raises(IrError, match=r"the range 5\.\.4 of batch is empty"):
            verify_graph(Graph((X,), (), ranges={"batch": (5, 4)}))


def make(*body: Stmt, grid: tuple[Axis, ...] = (Axis("i", N),), **changes: Any) -> Kernel:
    buffers = (Buffer("x", f32), Buffer("y", f32, "write"), Buffer("c", boolean), Buffer("k", i64, "readwrite"))
    return replace(Kernel("kern", buffers, ("n",), grid, tuple(body)), **changes)


def store(value: Expr, offset: Dim = P) -> Store:
    return Store("y", offset, value)


ONE = Const(1.0, f32)
GOOD: list[Kernel] = [
    make(store(Load("x", P))),
    make(store(ONE, 0), grid=()),
    make(store(ONE, 0), grid=(Axis("i", 1),)),
    make(Let("t", Load("x", P)), For("j", 4, (Accumulate("t", "add", Load("x", P * 4 + J)),)), store(Local("t", f32))),
    make(When(Load("c", P), (Let("t", ONE), store(Local("t", f32))), (Let("u", ONE), store(Local("u", f32))))),
    make(Let("at", Load("k", P)), store(Load("x", symbol("at") + 1), symbol("at"))),
    make(For("j", N, (Store("y", P * N + J, ONE),), "vector")),
    make(For("j", N, (Store("k", P * N + J, Call("add", (Load("k", P * N + J), Index(J)), i64)),), "vector")),
    make(For("j", 4, (Store("k", P * 8 + J, Load("k", P * 8 + J + 4)),), "vector")),
    make(Scratch("s", f32, 16), For("j", 16, (Store("s", J, ONE),)), store(Load("s", 3))),
    make(store(Call("select", (Load("c", 0), ONE, Call("cast", (Load("k", 0),), f32)), f32))),
    make(store(Call("mul", (Const(1.0, f16), Const(2.0, f16)), f32))),
    make(When(Call("eq", (Index(P), Index(0)), boolean), (store(ONE, 0),))),
]
BAD: list[tuple[Kernel, str]] = [
    (make(store(Load("z", P))), "load from unknown buffer 'z'"),
    (make(Store("z", P, ONE)), "store to unknown buffer 'z'"),
    (make(store(Load("y", P))), "load from 'y', which may only be written"),
    (make(Store("x", P, ONE)), "store to 'x', which may only be read"),
    (make(store(Load("x", J))), "the offset into x j uses j, not in scope"),
    (make(store(ONE, J)), "the offset into y j uses j"),
    (make(store(Local("t", f32))), "local 't' is not defined here"),
    (make(Let("t", ONE), store(Local("t", f64))), "local 't' is f32, not f64"),
    (make(When(Load("c", P), (Let("t", ONE),)), store(Local("t", f32))), "local 't' is not defined"),
    (make(For("j", 2, (Let("t", ONE),)), store(ONE, P + J)), "uses j, not in scope"),
    (make(Let("t", ONE), Let("t", ONE)), "the name 't' is defined twice"),
    (make(For("j", 2, ()), For("j", 2, ())), "the name 'j' is defined twice"),
    (make(Let("x", ONE)), "the name 'x' is defined twice"),
    (make(For("n", 2, ())), "the name 'n' is defined twice"),
    (make(buffers=(Buffer("x", f32), Buffer("n", f32))), "names are not unique: n"),
    (make(buffers=(Buffer("x", f32, "append"),)), "buffer x has access 'append'"),  # pyright: ignore[reportArgumentType]
    (make(Accumulate("t", "add", ONE)), "accumulation into 't', which no Let defines"),
    (make(Let("t", ONE), Accumulate("t", "add", Const(1, i64))), "accumulation of i64 into 't', which is f32"),
    (make(Let("t", ONE), Accumulate("t", "and", ONE)), "reduction and of f32"),
    (make(Let("t", ONE), Accumulate("t", "sub", ONE)), "unknown reduction 'sub'"),  # pyright: ignore[reportArgumentType]
    (make(store(Const(1, i64))), "store of i64 to 'y', which holds f32"),
    (make(store(Call("sinus", (ONE,), f32))), "unknown function 'sinus'"),
    (make(store(Call("add", (ONE,), f32))), "add takes 2 arguments, not 1"),
    (make(store(Call("add", (ONE, Const(1, i64)), f32))), r"add\(f32, i64\) -> f32: the arguments must share"),
    (make(store(Call("add", (Const(1, i32),) * 2, f32))), "the arguments' type or a wider one"),
    (make(store(Call("select", (ONE, ONE, ONE), f32))), r"select is \(bool, T, T\) -> T"),
    (make(Let("t", Call("lt", (ONE, ONE), f32))), "the result is bool"),
    (make(Let("t", Call("and", (ONE, ONE), f32))), "and works on bool"),
    (make(Let("t", Call("shl", (ONE, ONE), f32))), "shl works on integers"),
    (make(Let("t", Call("exp", (Const(1, i64),), i64))), "exp works on floats"),
    (make(Let("t", Const(1.5, i64))), "literal 1.5 is not a i64"),
    (make(Let("t", Const(True, f32))), "literal True is not a f32"),
    (make(When(ONE, ())), "the condition of a When is not bool"),
    (make(For("j", N, (), "unroll")), "loop j is to be unrolled but its extent is n"),
    (make(For("j", N, (), "simd")), "unknown mode 'simd'"),  # pyright: ignore[reportArgumentType]
    (make(Scratch("s", f32, 0)), "scratch s has size 0"),
    (make(Scratch("s", f64, 5000), Scratch("t", f64, 5000)), "80000 bytes of scratch memory"),
    (make(grid=(Axis("i", symbol("m")),)), "the extent of grid axis i m uses m"),
    (make(grid=(Axis("i", N, 0),)), "the grain of grid axis i is 0"),
    (make(flops=symbol("m")), "the work m uses m"),
    (make(store(ONE, 0)), "all points of grid axis i store to the same element of y"),
    (make(For("j", N, (Store("y", P, ONE),), "vector")), "all iterations of vector loop j store to the same element"),
    (make(For("j", N, (Store("k", P * N + J, Load("k", P * N + J - 1)),), "vector")), r"not independent: k\["),
    (
        make(
            Let("t", ONE), For("j", N, (Accumulate("t", "add", ONE), Store("y", P * N + J, Local("t", f32))), "vector")
        ),
        "vector loop j reads t while it accumulates",
    ),
]


class TestKernels:
    @pytest.mark.parametrize("kernel", GOOD, ids=range(len(GOOD)))
    def test_accepts(self, kernel: Kernel) -> None:
        verify_kernel(kernel)

    @pytest.mark.parametrize(("kernel", "message"), BAD, ids=[m for _, m in BAD])
    def test_refuses(self, kernel: Kernel, message: str) -> None:
        with pytest.raises(IrError, match=rf"kernel kern: .*{message}"):
            verify_kernel(kernel)

    def test_template(self) -> None:
        template = Contraction.matmul(N, 10, 6, width=8, tile_rows=2, row_block=4)
        buffers = (Buffer("a", f32), Buffer("b", f32), Buffer("c", f32, "write"))
        verify_kernel(Kernel("gemm", buffers, ("n",), template.grid, template))
        with pytest.raises(IrError, match="its grid is not that of its Contraction template"):
            verify_kernel(Kernel("gemm", buffers, ("n",), (Axis("i", N),), template))
        with pytest.raises(IrError, match="kernel gemm: load from unknown buffer 'b'"):
            verify_kernel(Kernel("gemm", (buffers[0], buffers[2]), ("n",), template.grid, template))
        bad = replace(template, stores=(Store("c", P, Local("acc", f32)),))
        with pytest.raises(IrError, match="all points of grid axis j store to the same element of c"):
            verify_kernel(Kernel("gemm", buffers, ("n",), template.grid, bad))


def storage(name: str, kind: Any, size: Dim = 8, dtype: DType = f32) -> Storage:
    data = np.zeros(size, dtype.to_numpy()) if kind == "weight" and isinstance(size, int) else None
    return Storage(name, kind, dtype, size, TensorType(dtype, (size,)) if kind in ("input", "output") else None, data)


def copy_kernel(name: str = "copy", out: str = "write") -> Kernel:
    buffers = (Buffer("x", f32), Buffer("y", f32, out))  # pyright: ignore[reportArgumentType]
    return Kernel(name, buffers, ("n",), (Axis("i", N),), (store(Load("x", P)),))


COPY = copy_kernel()


def copy(source: Storage, target: Storage, offset: Dim = 0, size: Dim = 8, start: Dim = 0) -> Launch:
    return Launch(COPY, (Argument(source, start), Argument(target, offset)), (size,))


IN, OUT, T, U = storage("in", "input"), storage("out", "output"), storage("t", "temp"), storage("u", "temp")
W, C, CTR = storage("w", "weight"), storage("c", "temp", 1, boolean), storage("ctr", "temp", 1, i64)
TRIP = storage("trip", "weight", 1, i64)
SET = Kernel("set", (Buffer("c", boolean, "write"),), (), (), (Store("c", 0, Const(True, boolean)),))
SET_C = Launch(SET, (Argument(C),), ())
ALL = (IN, OUT, T, U, W, C, CTR, TRIP)


def program(*steps: Step, storages: tuple[Storage, ...] = ALL) -> Program:
    return Program("prog", storages, steps)


class TestPrograms:
    def test_accepts(self) -> None:
        batch = storage("b", "input", 3 * BATCH)
        loop = Repeat(Argument(CTR), Argument(TRIP), Argument(C), (copy(T, U), copy(U, T), SET_C))
        branch = Branch(Argument(C), (copy(T, OUT),), (copy(W, OUT), copy(OUT, T)))
        verify_program(program(copy(IN, T), SET_C, loop, branch))
        verify_program(
            program(copy(IN, OUT), Launch(COPY, (Argument(batch), Argument(T)), (BATCH,)), storages=(*ALL, batch))
        )

    @pytest.mark.parametrize(
        ("made", "message"),
        [
            (program(copy(T, OUT)), "kernel copy reads temp t, which is not written before on every path"),
            (program(copy(IN, T)), "output out is not written on every path"),
            (program(copy(IN, W), copy(IN, OUT)), "kernel copy writes weight w"),
            (program(copy(W, IN), copy(IN, OUT)), "kernel copy writes input in"),
            (program(SET_C, Branch(Argument(C), (copy(IN, OUT),), ())), "output out is not written on every path"),
            (program(SET_C, Branch(Argument(C), (copy(IN, T),), (copy(IN, U),)), copy(T, OUT)), "reads temp t"),
            (program(Branch(Argument(C), (), ()), copy(IN, OUT)), "a branch's condition reads temp c"),
            (program(Branch(Argument(T), (), ()), copy(IN, OUT)), "a branch's condition t is f32, not bool"),
            (program(Repeat(Argument(CTR), Argument(TRIP), None, (copy(IN, OUT),))), "output out is not written"),
            (program(Repeat(Argument(CTR), Argument(TRIP), None, (copy(T, U), copy(U, T)))), "reads temp t"),
            (program(Repeat(Argument(CTR), None, Argument(C), (SET_C,))), "a loop's condition reads temp c"),
            (program(Repeat(Argument(CTR), None, None, ())), "a loop without trip count and condition never ends"),
            (program(Repeat(Argument(TRIP), Argument(TRIP), None, ())), "a loop's counter writes weight trip"),
            (program(Repeat(Argument(CTR), Argument(CTR), None, ())), "a loop's trip count reads temp ctr"),
            (program(storages=(IN, OUT, storage("in", "temp"))), "two storages are named 'in'"),
            (
                program(storages=(storage("s", "status", 1, i64), storage("r", "status", 1, i64))),
                "more than one status",
            ),
            (program(storages=(storage("s", "status", 2, i64),)), "status s must be one i64"),
            (program(storages=(Storage("y", "output", f32, 4),)), "output y has no type"),
            (
                program(storages=(Storage("y", "output", f32, 4, TensorType(f32, (5,))),)),
                r"output y holds 4 elements of f32, its type is f32\[5\]",
            ),
            (program(storages=(Storage("w", "weight", f32, 4),)), "weight w has no data"),
            (
                program(storages=(Storage("w", "weight", f32, 4, data=np.zeros((2, 2), np.float32)),)),
                r"weight w is declared 4 elements of f32, its data is float32\[2, 2\]",
            ),
            (program(storages=(Storage("t", "temp", f32, 4, data=np.zeros(4, np.float32)),)), "temp t has data"),
            (program(storages=(storage("t", "temp", symbol("q")),)), "the size of temp t, q, uses q"),
            (program(copy(IN, OUT, offset=symbol("q"))), "the offset into out, q, uses q"),
            (program(copy(IN, OUT, size=symbol("q"))), "kernel copy: dim n, q, uses q"),
            (program(copy(storage("alien", "input"), OUT)), "uses alien, which is not among the program's storages"),
            (program(Launch(COPY, (Argument(IN),), (8,))), "takes 2 buffers and 1 dims, 1 and 1 are given"),
            (program(Launch(COPY, (Argument(IN), Argument(C)), (8,))), "buffer y is f32, c is bool"),
            (
                program(copy(IN, OUT), Launch(replace(COPY, body=()), (Argument(IN), Argument(OUT)), (8,))),
                "two different kernels are named 'copy'",
            ),
            (
                program(Launch(replace(COPY, body=(store(Load("z", P)),)), (Argument(IN), Argument(OUT)), (8,))),
                "kernel copy: load from unknown buffer 'z'",
            ),
        ],
    )
    def test_refuses(self, made: Program, message: str) -> None:
        with pytest.raises(IrError, match=message):
            verify_program(made)

    def test_origin_is_named(self) -> None:
        launch = Launch(COPY, (Argument(T), Argument(OUT)), (8,), ("Relu_1", "Add_2"))
        with pytest.raises(IrError, match=r"program prog: kernel copy \(from Relu_1, Add_2\) reads temp t"):
            verify_program(program(launch))

    def test_two_equal_kernels_share_a_name(self) -> None:
        other = Launch(copy_kernel(), (Argument(IN), Argument(T)), (8,))
        verify_program(program(copy(IN, OUT), other))


class TestRaces:
    def big(self) -> Storage:
        return storage("big", "temp", 64)

    def check(self, launch: Launch, big: Storage) -> None:
        fill = Launch(COPY, (Argument(IN), Argument(big)), (8,))
        verify_program(program(fill, launch, copy(IN, OUT), storages=(*ALL, big)))

    def test_in_place_and_apart(self) -> None:
        big = self.big()
        self.check(copy(big, big), big)
        self.check(copy(big, big, offset=8), big)
        self.check(copy(big, big, start=32, offset=16), big)

    @pytest.mark.parametrize("offset", [1, 7, -1])
    def test_overlap(self, offset: int) -> None:
        big = self.big()
        with pytest.raises(
            IrError, match=r"kernel copy races on big: element i [+-] \d through y and element i through x"
        ):
            self.check(copy(big, big, offset=offset), big)

    def test_symbolic_extent_is_not_provably_apart(self) -> None:
        big, given = self.big(), storage("given", "input", BATCH)
        fill = Launch(COPY, (Argument(IN), Argument(big)), (8,))
        move = copy(big, big, offset=32, size=BATCH)
        made = program(fill, move, copy(IN, OUT), storages=(*ALL, big, given))
        with pytest.raises(IrError, match="races on big"):
            verify_program(made)
        verify_program(replace(made, ranges={"batch": (1, 32)}))

    def test_rows_in_place(self) -> None:
        """A row reduction in place: loads and stores of one point stay within its own row."""
        at, again = P * 8 + J, P * 8 + symbol("m")
        body = (
            Let("s", Const(0.0, f32)),
            For("j", 8, (Accumulate("s", "add", Load("x", at)),)),
            For("m", 8, (Store("y", again, Call("sub", (Load("x", again), Local("s", f32)), f32)),)),
        )
        kernel = replace(COPY, name="rows", body=body)
        big = self.big()
        self.check(Launch(kernel, (Argument(big), Argument(big)), (4,)), big)
        with pytest.raises(IrError, match="races on big"):
            self.check(Launch(kernel, (Argument(big), Argument(big, 4)), (4,)), big)

    def test_template_over_its_own_operand(self) -> None:
        template = Contraction.matmul(4, 8, 8, width=8, tile_rows=2, row_block=4)
        buffers = (Buffer("a", f32), Buffer("b", f32), Buffer("c", f32, "write"))
        kernel = Kernel("gemm", buffers, (), template.grid, template)
        big, panel = self.big(), storage("panel", "weight", 64)
        launch = Launch(kernel, (Argument(big), Argument(panel), Argument(big)), ())
        fill = Launch(COPY, (Argument(IN), Argument(big)), (8,))
        with pytest.raises(IrError, match="kernel gemm races on big"):
            verify_program(program(fill, launch, copy(IN, OUT), storages=(*ALL, big, panel)))
        apart = Launch(kernel, (Argument(big), Argument(panel), Argument(big, 32)), ())
        verify_program(program(fill, apart, copy(IN, OUT), storages=(*ALL, big, panel)))
