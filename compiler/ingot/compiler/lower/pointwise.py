"""Pointwise groups: translation of pointwise ops to level-2 expressions, and their loop nests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ingot.compiler.ir.dims import Dim, ceil_divide, minimum, product, symbol
from ingot.compiler.ir.graph import Constant, Graph, Node, Value, operands_of
from ingot.compiler.ir.loops import Axis, Call, Const, Expr, For, Let, Local, Stmt
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.context import Context, LoweringError, kernel
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, loop_names
from ingot.compiler.lower.quantised import dequantise, quantise
from ingot.compiler.lower.rescale import rescale
from ingot.compiler.lower.views import View, coalesce
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.ops.rescale import Rescale
from ingot.runtime.dtypes import DType, f32

# Scalar functions that cost about this many additions.
EXPENSIVE: Mapping[str, int] = {
    **dict.fromkeys(("exp", "expm1", "log", "log1p", "tanh", "erf", "sigmoid", "softplus", "gelu"), 12),
    **dict.fromkeys(("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"), 24),
    **dict.fromkeys(("pow", "atan2"), 40),
    **dict.fromkeys(("div", "sqrt", "reciprocal", "mod", "fmod"), 4),
}


class Translation:
    """Values of one body as level-2 expressions of one element.

    A value that is read more than once is computed once: it becomes a `Let`, which `flush` hands over to be put before
    whatever uses it. (As an expression it would be written out at every use, doubling at every level.) `leaf` gives the
    values that are not to be looked into, None for the others.
    """

    def __init__(self, build: KernelBuilder, body: Graph, leaf: Callable[[Value], Expr | None]) -> None:
        self._build, self._uses, self._leaf = build, body.uses(), leaf
        self._memo: dict[Value, Expr] = {}
        self._statements: list[Stmt] = []

    def flush(self) -> list[Stmt]:
        """The Lets made since the last call."""
        made, self._statements = self._statements, []
        return made

    def define(self, value: Value, expr: Expr) -> None:
        """Use `expr` wherever `value` is read from now on."""
        self._memo[value] = expr

    def __call__(self, value: Value) -> Expr:
        """The expression for `value`."""
        found = self._memo.get(value)
        if found is not None:
            return found
        result = self._leaf(value) or translate_node(value, self)
        if self._uses.get(value, 0) > 1 and not isinstance(result, (Const, Local)):
            name = self._build.local()
            self._statements.append(Let(name, result))
            result = Local(name, value.type.dtype)
        self._memo[value] = result
        return result


def translate_node(value: Value, operand: Callable[[Value], Expr]) -> Expr:
    """One element of a scalar constant or a pointwise op, whose operands `operand` translates."""
    if isinstance(value, Constant) and value.data.size == 1:
        return scalar_constant(value)
    if isinstance(value, ops.Pointwise):
        return scalar_call(value, [operand(x) for x in operands_of(value)])
    raise LoweringError(f"{value!r} cannot be part of a pointwise expression")


def scalar_constant(value: Constant) -> Const:
    """The literal of a constant with one element: of an opaque type, its bits."""
    if value.dtype.kind == "opaque":
        return Const(int(value.data.reshape(-1).view(np.uint8)[0]), value.dtype)
    item = value.data.reshape(-1)[0]
    return Const(item.item() if hasattr(item, "item") and value.data.dtype.kind != "V" else float(item), value.dtype)


def scalar_call(node: ops.Pointwise, args: Sequence[Expr]) -> Expr:
    """One element of `node` from one element of each operand."""
    match node:
        case ops.Identity():
            return args[0]
        case ops.Cast(x=x, to=to) if x.dtype == to:
            return args[0]
        case ops.Clip():
            return _clip(node, args)
        case Quantize():
            return quantise(node, args)
        case Dequantize():
            return dequantise(node, args)
        case Rescale():
            return rescale(node, args)
        case ops.Pow(a=a, b=b) if a.dtype != b.dtype:
            return _mixed_power(a.dtype, b.dtype, args)
        case _:
            return Call(node.scalar, tuple(args), node.type.dtype)


def _mixed_power(base: DType, exponent: DType, args: Sequence[Expr]) -> Expr:
    """A power whose operands differ in type: in the wider float type of the two, at least f32, back in the base's."""
    floats = [kind for kind in (base, exponent) if kind.is_float]
    kind = max((f32, *floats), key=lambda each: each.bits) if floats else base
    converted = [
        arg if dtype == kind else Call("cast", (arg,), kind) for arg, dtype in zip(args, (base, exponent), strict=True)
    ]
    result: Expr = Call("pow", tuple(converted), kind)
    return result if kind == base else Call("cast", (result,), base)


def _clip(node: ops.Clip, args: Sequence[Expr]) -> Expr:
    dtype = node.type.dtype
    rest = list(args[1:])
    result = args[0]
    if node.low is not None:
        result = Call("max", (result, rest.pop(0)), dtype)
    if node.high is not None:
        result = Call("min", (result, rest.pop(0)), dtype)
    return result


def cost(graph: Graph) -> int:
    """Additions' worth of work for one element of a pointwise body."""
    return 1 + sum(EXPENSIVE.get(n.scalar, 1) for n in graph.nodes() if isinstance(n, ops.Pointwise))


def chunk_elements(work: int) -> int:
    """Elements a chunk for a body of that much work an element."""
    return max(1024, CHUNK * 2 // (work + 1))


def lower_pointwise(context: Context, node: Node, body: Graph, outer: Mapping[Value, Value]) -> None:
    """One kernel for a body of pointwise ops whose results share one shape."""
    shape = body.results[0].type.shape
    if any(v.type.shape != shape for v in body.results):
        raise LoweringError(f"the results of pointwise group {node!r} have different shapes")
    sources: dict[Value, View] = {x: context.view(outer[x]).expand(shape) for x in body.inputs}
    for n in body.nodes():
        if isinstance(n, Constant) and n.data.size != 1:
            sources[n] = context.view(n).expand(shape)
    targets = [context.destination(value) for value in node.results()]
    views = [*sources.values(), *targets]
    extents, strides = coalesce(shape, [v.strides for v in views])
    nest = LoopOrder.choose(extents, strides[len(sources) :] + strides[: len(sources)])
    index = nest.index()
    build = kernel(context, node)

    def offset(position: int) -> Dim:
        total = views[position].offset
        for i, stride in zip(index, strides[position], strict=True):
            total = total + i * stride
        return total

    loads: dict[Value, Expr] = {v: build.load(view, offset(i)) for i, (v, view) in enumerate(sources.items())}
    translate = Translation(build, body, loads.get)
    statements: list[Stmt] = []
    stores: list[Stmt] = []
    for i, (value, target) in enumerate(zip(body.results, targets, strict=True)):
        expr = translate(value)
        statements.extend(translate.flush())
        stores.append(build.store(target, offset(len(sources) + i), expr))
    work = cost(body)
    grid, nested = nest.wrap((*statements, *stores), chunk_elements(work))
    context.run(build.launch(grid, nested, origin=node.origin, flops=product(shape) * work))


class LoopOrder:
    """Loops over coalesced axes: which one is the vector loop, which make the grid."""

    def __init__(self, extents: Sequence[Dim], vector: int) -> None:
        self.extents = list(extents)
        self.vector = vector
        self.names = loop_names(len(extents))

    @staticmethod
    def choose(extents: Sequence[Dim], strides: Sequence[Sequence[Dim]]) -> LoopOrder:
        """The axis with most unit strides (the first operand, the output, counts double) is the vector axis."""
        best, vector = -1, len(extents) - 1
        for axis in range(len(extents)):
            score = sum((2 if i == 0 else 1) for i, s in enumerate(strides) if s[axis] == 1)
            score -= sum(1 for s in strides if s[axis] not in (0, 1))
            extent = extents[axis]
            if isinstance(extent, int) and extent < 4:
                score -= 2 * len(strides)
            if axis == 0 or score >= best:
                best, vector = score, axis
        return LoopOrder(extents, vector)

    def index(self) -> list[Dim]:
        """The index expression per axis."""
        if len(self.extents) == 1:
            return [symbol("_block") * self._block() + symbol(self.names[0])]
        return [symbol(name) for name in self.names]

    def _block(self) -> int:
        n = self.extents[0]
        if isinstance(n, int):
            return max(1024, min(CHUNK, -(-n // 16 // 64) * 64))
        return 4096

    def wrap(self, stores: tuple[Stmt, ...], elements: int) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """Grid and body around `stores`, with some `elements` a chunk."""
        if not self.extents:
            return (Axis("_block", 1),), stores
        if len(self.extents) == 1:
            n, block = self.extents[0], self._block()
            inner = minimum(block, n - symbol("_block") * block)
            grain = max(1, elements // block)
            loop = For(self.names[0], inner, stores, "vector")
            return (Axis("_block", ceil_divide(n, block), grain),), (loop,)
        order = [a for a in range(len(self.extents)) if a != self.vector]
        inside = product(self.extents[a] for a in (*order[1:], self.vector))
        grid = [Axis(self.names[order[0]], self.extents[order[0]], grain_for(inside, elements))]
        serial = order[1:]
        if len(order) > 1 and not _at_least(self.extents[order[0]], 16):
            inside = product(self.extents[a] for a in (*order[2:], self.vector))
            grid = [
                Axis(self.names[order[0]], self.extents[order[0]]),
                Axis(self.names[order[1]], self.extents[order[1]], grain_for(inside, elements)),
            ]
            serial = order[2:]
        body: tuple[Stmt, ...] = (For(self.names[self.vector], self.extents[self.vector], stores, "vector"),)
        for axis in reversed(serial):
            body = (For(self.names[axis], self.extents[axis], body),)
        return tuple(grid), body


def _at_least(extent: Dim, n: int) -> bool:
    return isinstance(extent, int) and extent >= n


@dataclass(frozen=True)
class Moved:
    """Where a copy reads or writes that is known only when it runs: `source` and `target` are added to the offsets, in
    terms of locals that `around` defines around the loops of a point of the grid."""

    around: Callable[[KernelBuilder, tuple[Axis, ...], tuple[Stmt, ...]], tuple[Stmt, ...]]
    source: Dim = 0
    target: Dim = 0


def copy(
    context: Context,
    source: View,
    target: View,
    origin: tuple[str, ...],
    stem: str = "copy",
    moved: Moved | None = None,
) -> None:
    """A kernel that copies `source` to `target`, views of equal shape; converts where their types differ."""
    extents, strides = coalesce(target.shape, [target.strides, source.strides])
    nest = LoopOrder.choose(extents, strides)
    index = nest.index()
    build = KernelBuilder(context.unique(stem))

    def offset(view: View, steps: Sequence[Dim], total: Dim) -> Dim:
        total = view.offset + total
        for i, stride in zip(index, steps, strict=True):
            total = total + i * stride
        return total

    value: Expr = build.load(source, offset(source, strides[1], moved.source if moved else 0))
    if source.storage.dtype != target.storage.dtype:
        value = Call("cast", (value,), target.storage.dtype)
    store = build.store(target, offset(target, strides[0], moved.target if moved else 0), value)
    grid, body = nest.wrap((store,), CHUNK)
    context.run(build.launch(grid, moved.around(build, grid, body) if moved else body, origin=origin))


def fill(context: Context, target: View, value: Const, origin: tuple[str, ...], stem: str = "fill") -> None:
    """A kernel that stores `value` everywhere in `target`."""
    extents, strides = coalesce(target.shape, [target.strides])
    nest = LoopOrder.choose(extents, strides)
    build = KernelBuilder(context.unique(stem))
    total = target.offset
    for i, stride in zip(nest.index(), strides[0], strict=True):
        total = total + i * stride
    grid, body = nest.wrap((build.store(target, total, value),), CHUNK)
    context.run(build.launch(grid, body, origin=origin))


def materialise(context: Context, view: View, origin: tuple[str, ...]) -> View:
    """`view` itself when dense, else a dense copy."""
    if view.is_dense:
        return view
    target = context.temp(TensorType(view.storage.dtype, view.shape), origin=origin)
    copy(context, view, target, origin)
    return target
