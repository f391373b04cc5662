"""Control flow: operators that hold sub-graphs. Sub-graphs are closed; what they read from outside is a capture."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ingot.compiler.ir.dims import Dim, Expr, substitute, symbols
from ingot.compiler.ir.graph import Array, Graph, Node, Value, op
from ingot.compiler.ir.interpret import evaluate_results
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import fail
from ingot.runtime.dtypes import boolean, i64, string

Dims = tuple[Dim, ...]


def fits(given: TensorType, wanted: TensorType) -> bool:
    """True when a value of type `given` may stand where `wanted` is declared; a symbolic dim fits a constant."""
    return (
        given.dtype == wanted.dtype
        and given.rank == wanted.rank
        and all(
            a == b or isinstance(a, int) != isinstance(b, int) for a, b in zip(given.shape, wanted.shape, strict=True)
        )
    )


def _with_dim(given: TensorType, axis: int, dim: Dim) -> TensorType:
    return TensorType(given.dtype, (*given.shape[:axis], dim, *given.shape[axis + 1 :]))


def _with_open(given: TensorType, declared: TensorType, inner: Collection[str]) -> TensorType:
    """`given` with the dims of `declared` that mention symbols of `inner`."""
    if given.rank != declared.rank or not inner:
        return given
    pairs = zip(given.shape, declared.shape, strict=True)
    return TensorType(given.dtype, tuple(want if symbols(want) & set(inner) else have for have, want in pairs))


def check_inputs(node: Node, graph: Graph, given: Sequence[TensorType], what: str) -> None:
    """The inputs of `graph` have the types given, in order."""
    wanted = [i.declared for i in graph.inputs]
    if len(given) != len(wanted):
        fail(node, f"{what} has {len(wanted)} inputs, {len(given)} values are handed to it")
    for i, (have, want) in enumerate(zip(given, wanted, strict=True)):
        if not fits(have, want):
            fail(node, f"input {i} ({graph.inputs[i].label}) of {what} is declared {want} but gets {have}")


@dataclass(frozen=True, slots=True)
class Extent:
    """Axis `axis` of result `result` of an If has the extent `dim`, which need not be the same in both branches: the
    i64 scalar that is result `source` tells it. `dim` is a symbol that the graph around binds to that."""

    dim: Dim
    result: int
    axis: int
    source: int


@dataclass(frozen=True, slots=True)
class Growth:
    """An extent of carried values that changes from iteration to iteration: the i64 scalar that is carried value number
    `source`. In the body it is `inner`, a symbol that the body binds to that carried value; in the types of the results
    `outer`, a symbol that the graph around binds to that result."""

    inner: Dim
    outer: Dim
    source: int


@op("if")
class If(Node):
    """The results of `then_graph` where `condition` (bool, one element) holds, else of `else_graph`.

    Both graphs take the captures as inputs and give results of the same types, but for `extents`.
    """

    condition: Value
    captures: tuple[Value, ...]
    then_graph: Graph
    else_graph: Graph
    extents: tuple[Extent, ...] = ()

    def infer(self) -> Sequence[TensorType]:
        if self.condition.dtype != boolean or any(d != 1 for d in self.condition.shape):
            fail(self, f"the condition is {self.condition.type}: one bool is needed")
        given = [v.type for v in self.captures]
        check_inputs(self, self.then_graph, given, "the then-graph")
        check_inputs(self, self.else_graph, given, "the else-graph")
        left = [v.type for v in self.then_graph.results]
        right = [v.type for v in self.else_graph.results]
        if len(left) != len(right):
            fail(self, f"the then-graph gives {len(left)} results, the else-graph {len(right)}")
        for each in self.extents:
            if not (0 <= each.result < len(left) and 0 <= each.source < len(left)):
                fail(self, f"{each} speaks of a result that there is not")
            if any(t[each.source] != TensorType(i64, ()) or each.axis >= t[each.result].rank for t in (left, right)):
                fail(self, f"{each} does not fit: an axis and an i64 scalar are needed")
            for types in (left, right):
                types[each.result] = _with_dim(types[each.result], each.axis, each.dim)
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            if a != b:
                fail(self, f"result {i} is {a} in the then-graph and {b} in the else-graph: both must agree")
        return left

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        graph = self.then_graph if bool(operands[0].reshape(())) else self.else_graph
        return evaluate_results(graph, operands[1:])


@op("require")
class Require(Node):
    """The values as they are, where `condition` (bool, one element) is `wanted`; else the run fails with `message`.

    What the values alone need is not computed before the condition is known to hold: it may make no sense otherwise.
    """

    values: tuple[Value, ...]
    condition: Value
    wanted: bool
    message: str

    def infer(self) -> Sequence[TensorType]:
        if self.condition.dtype != boolean or any(d != 1 for d in self.condition.shape):
            fail(self, f"the condition is {self.condition.type}: one bool is needed")
        return [v.type for v in self.values]

    def schedule(self) -> tuple[Value, ...]:
        return (self.condition, *self.values)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        if bool(operands[-1].reshape(())) != self.wanted:
            fail(self, self.message)
        return operands[:-1]


@op("loop")
class Loop(Node):
    """ONNX Loop: run `body` while its condition holds, at most `trip` times.

    Body inputs are (iteration i64 [], condition bool [], *carried, *captures), its outputs (condition bool [],
    *carried, *scan elements). Results are the final carried values and each scan's elements stacked on a new axis 0,
    whose extent is ``scans[i]``, at least the number of iterations; rows that no iteration gives are 0. Dims in the
    carried inputs of the body that mention an `inner` of `growth` change from iteration to iteration. `trip` (i64, one
    element) None is unbounded, `condition` None is true at the start.
    """

    trip: Value | None
    condition: Value | None
    carried: tuple[Value, ...]
    captures: tuple[Value, ...]
    body: Graph
    scans: Dims
    growth: tuple[Growth, ...] = ()

    def infer(self) -> Sequence[TensorType]:
        if self.trip is None and self.condition is None:
            fail(self, "a loop without trip count and condition never ends")
        for what, value, dtype in (("trip", self.trip, i64), ("condition", self.condition, boolean)):
            if value is not None and (value.dtype != dtype or any(d != 1 for d in value.shape)):
                fail(self, f"the {what} is {value.type}: one {dtype} is needed")
        carried = [v.type for v in self.carried]
        n = len(carried)
        declared = [i.declared for i in self.body.inputs[2 : 2 + n]]
        inner = frozenset(s for each in self.growth for s in symbols(each.inner))
        outer = {s: each.outer for each in self.growth for s in symbols(each.inner)}
        for each in self.growth:
            if not 0 <= each.source < n or carried[each.source] != TensorType(i64, ()):
                fail(self, f"{each} does not fit: its source is no carried i64 scalar")
        for i, want in enumerate(declared[: len(carried)]):
            carried[i] = _with_open(carried[i], want, inner)
        given = [TensorType(i64, ()), TensorType(boolean, ()), *carried, *(v.type for v in self.captures)]
        check_inputs(self, self.body, given, "the body")
        results = [v.type for v in self.body.results]
        if len(results) != 1 + n + len(self.scans):
            fail(self, f"the body gives {len(results)} results, {1 + n + len(self.scans)} are needed")
        if results[0].dtype != boolean or any(d != 1 for d in results[0].shape):
            fail(self, f"the body's condition is {results[0]}: one bool is needed")
        for i, (have, want) in enumerate(zip(results[1 : 1 + n], carried, strict=True)):
            if not fits(_with_open(have, declared[i], inner), want):
                fail(self, f"carried value {i} starts as {want} but the body gives {have}")
        scanned = [TensorType(t.dtype, (d, *t.shape)) for t, d in zip(results[1 + n :], self.scans, strict=True)]
        carried = [TensorType(t.dtype, tuple(substitute(d, outer) for d in t.shape)) for t in carried]
        return [*carried, *scanned]

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        given = list(operands)
        trip = int(given.pop(0).reshape(())) if self.trip is not None else None
        running = bool(given.pop(0).reshape(())) if self.condition is not None else True
        n = len(self.carried)
        carried, captures = given[:n], given[n:]
        scanned: list[list[Array]] = [[] for _ in self.scans]
        iteration = 0
        while running and (trip is None or iteration < trip):
            results = evaluate_results(
                self.body, (np.asarray(iteration, np.int64), np.asarray(running), *carried, *captures)
            )
            running = bool(results[0].reshape(()))
            carried = list(results[1 : 1 + n])
            for rows, row in zip(scanned, results[1 + n :], strict=True):
                rows.append(row)
            iteration += 1
        stacked: list[Array] = []
        for rows, declared in zip(scanned, self.types[n:], strict=True):
            # A dim that only the body would have told is 0 as well.
            shape = rows[0].shape if rows else tuple(0 if isinstance(d, Expr) else d for d in declared.shape[1:])
            length = declared.shape[0] if isinstance(declared.shape[0], int) else len(rows)
            empty = "" if declared.dtype == string else 0
            whole = np.full((length, *shape), empty, declared.dtype.to_numpy())
            if len(rows) > length:
                fail(self, f"there are {len(rows)} iterations, but room for the elements of {length}")
            for i, row in enumerate(rows):
                whole[i] = row
            stacked.append(whole)
        return (*carried, *stacked)
