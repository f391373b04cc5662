"""Row groups: reductions over one set of axes and the pointwise ops around them, as one kernel.

Every value of a group is *full* (it varies along the reduced axes) or a *row* value (it does not). Reductions are
computed level by level; full values are recomputed from the group's inputs in every pass over the reduced axes, except
expensive ones (exp ...) that a later pass reads again: these are spilt to scratch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingot.compiler.ir.dims import Dim, ceil_divide, minimum, product, substitute, symbol
from ingot.compiler.ir.graph import Constant, Graph, Node, Value, operands_of
from ingot.compiler.ir.loops import (
    Accumulate,
    Axis,
    Call,
    Const,
    Expr,
    For,
    Let,
    Load,
    Local,
    Scratch,
    Stmt,
    Store,
)
from ingot.compiler.ir.loops import (
    Reduction as Fold,
)
from ingot.compiler.lower.context import Context, LoweringError, kernel
from ingot.compiler.lower.contraction import wide_type
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, index_value, loop_names, map_dims
from ingot.compiler.lower.pointwise import EXPENSIVE, Translation, cost, scalar_constant
from ingot.compiler.lower.views import View
from ingot.compiler.ops import pointwise
from ingot.compiler.ops import reduction as ops
from ingot.runtime.dtypes import DType

SCRATCH_LIMIT = 8192  # bytes of stack a spilt value may take
COLUMN_BLOCK = 64  # kept columns a chunk where the reduction runs over outer axes


@dataclass(frozen=True)
class Domain:
    """The iteration space of a group: the full shape and which of its axes are reduced."""

    shape: tuple[Dim, ...]
    axes: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """The axes that are not reduced."""
        return tuple(a for a in range(len(self.shape)) if a not in self.axes)


def domain_of(body: Graph) -> Domain:
    """The domain that the reductions of a group share."""
    first = next(n for n in body.nodes() if isinstance(n, ops.Reduction))
    return Domain(first.x.type.shape, first.axes)


def lower_reduction(context: Context, node: Node, body: Graph, outer: Mapping[Value, Value]) -> None:
    """One kernel for a row group."""
    RowKernel(context, node, body, outer).build()


class RowKernel:
    """The construction of one row kernel."""

    def __init__(self, context: Context, node: Node, body: Graph, outer: Mapping[Value, Value]) -> None:
        self.context, self.node, self.body, self.outer = context, node, body, outer
        self.domain = domain_of(body)
        self.names = loop_names(len(self.domain.shape))
        # Along a reduced axis of extent 1 nothing varies: row values may be read there outside of the loop over it.
        self.index: list[Dim] = [
            0 if axis in self.domain.axes and extent == 1 else symbol(name)
            for axis, (name, extent) in enumerate(zip(self.names, self.domain.shape, strict=True))
        ]
        self.builder: KernelBuilder = kernel(context, node)
        self.sources: dict[Value, View] = {x: context.view(outer[x]) for x in body.inputs}
        for n in body.nodes():
            if isinstance(n, Constant) and n.data.size != 1:
                self.sources[n] = context.view(n)
        self.targets = [context.destination(v) for v in node.results()]
        last = len(self.domain.shape) - 1
        self.inner_vector = last in self.domain.axes  # else lanes run along the last kept axis
        self.full = self._classify()
        self.levels = self._levels()
        self.rows: dict[Value, Expr] = {}
        self.spilt: dict[Value, tuple[str, Dim]] = {}
        self.passes = 0

    def _classify(self) -> dict[Value, bool]:
        full: dict[Value, bool] = {}
        for node in self.body.nodes():
            if isinstance(node, ops.Reduction):
                if node.axes != self.domain.axes or node.x.type.shape != self.domain.shape:
                    raise LoweringError(f"{self.node!r}: the reductions of a group must share their axes and shape")
                full[node] = False
            elif isinstance(node, pointwise.Pointwise):
                full[node] = any(full[x] for x in operands_of(node))
            else:
                full[node] = self._varies(node.type.shape)
        return full

    def _varies(self, shape: tuple[Dim, ...]) -> bool:
        """Whether a leaf of this shape varies along a reduced axis."""
        skip = len(self.domain.shape) - len(shape)
        return any(a - skip >= 0 and shape[a - skip] != 1 for a in self.domain.axes)

    def _levels(self) -> dict[Value, int]:
        """How many reductions must have been finished before a value can be computed."""
        level: dict[Value, int] = {}
        for node in self.body.nodes():
            below = max((level[x] for x in operands_of(node)), default=0)
            level[node] = below + 1 if isinstance(node, ops.Reduction) else below
        return level

    def _leaf(self, value: Value) -> Expr | None:
        if value in self.rows:
            return self.rows[value]
        if value in self.spilt:
            name, offset = self.spilt[value]
            return Load(name, offset)
        view = self.sources.get(value)
        if view is None:
            return scalar_constant(value) if isinstance(value, Constant) else None
        return self.builder.load(view, view.broadcast_at(self.index, self.domain.shape))

    def _over_reduced(self, statements: Sequence[Stmt]) -> tuple[Stmt, ...]:
        """Loops over the reduced axes around `statements`, with variables of their own for every pass."""
        self.passes += 1
        names = {self.names[axis]: f"{self.names[axis]}p{self.passes}" for axis in self.domain.axes}
        renamed = {old: symbol(new) for old, new in names.items()}
        body: tuple[Stmt, ...] = map_dims(tuple(statements), lambda d: substitute(d, renamed))
        for position, axis in enumerate(reversed(self.domain.axes)):
            mode = "vector" if position == 0 and self.inner_vector else "serial"
            body = (For(names[self.names[axis]], self.domain.shape[axis], body, mode),)
        return body

    def build(self) -> None:
        """Write the kernel."""
        nodes = self.body.nodes()
        reductions = [n for n in nodes if isinstance(n, ops.Reduction)]
        statements: list[Stmt] = []
        spills = self._choose_spills(reductions)
        for level in range(1, max(self.levels[n] for n in reductions) + 1):
            here = [n for n in reductions if self.levels[n] == level]
            self._row_values(statements, level - 1)
            statements.extend(self._reduce(here, [v for v in spills if self.levels[v] == level - 1]))
        self._row_values(statements, max(self.levels[n] for n in reductions))
        self._outputs(statements)
        self._launch(statements)

    def _choose_spills(self, reductions: Sequence[ops.Reduction]) -> list[Value]:
        """Expensive full values that are read at more than one level."""
        if not self.inner_vector or not all(isinstance(self.domain.shape[a], int) for a in self.domain.axes):
            return []
        chosen: list[Value] = []
        for value in self.body.nodes():
            if not isinstance(value, pointwise.Pointwise) or not self.full[value] or value.scalar not in EXPENSIVE:
                continue
            read_at = {self.levels[r] for r in reductions if _reaches(r.x, value)}
            if any(self.full[v] and _reaches(v, value) for v in self.body.results):
                read_at.add(len(reductions) + 1)
            size = product(self.domain.shape[a] for a in self.domain.axes)
            if len(read_at) > 1 and isinstance(size, int) and 0 < size * value.type.dtype.bytes <= SCRATCH_LIMIT:
                chosen.append(value)
        return chosen

    def _reduced_offset(self) -> tuple[int, Dim]:
        size, offset = 1, 0
        for axis in reversed(self.domain.axes):
            extent = self.domain.shape[axis]
            assert isinstance(extent, int)
            offset = offset + self.index[axis] * size
            size *= extent
        return size, offset

    def _row_values(self, statements: list[Stmt], level: int) -> None:
        """Define the row values that depend on `level` reductions."""
        for node in self.body.nodes():
            if isinstance(node, pointwise.Pointwise) and not self.full[node] and self.levels[node] == level:
                name = f"r{len(self.rows)}"
                translate = Translation(self.builder, self.body, self._leaf)
                value = translate(node)
                statements.extend(translate.flush())
                statements.append(Let(name, value))
                self.rows[node] = Local(name, node.type.dtype)

    def _reduce(self, here: Sequence[ops.Reduction], spills: Sequence[Value]) -> list[Stmt]:
        before: list[Stmt] = []
        inside: list[Stmt] = []
        after: list[Stmt] = []
        translate = Translation(self.builder, self.body, self._leaf)
        for value in spills:
            if not any(_reaches(r.x, value) for r in here):
                continue
            size, offset = self._reduced_offset()
            name = f"s{len(self.spilt)}"
            before.append(Scratch(name, value.type.dtype, size))
            local = self.builder.local()
            expr = translate(value)
            inside.extend((*translate.flush(), Let(local, expr)))
            translate.define(value, Local(local, value.type.dtype))
            inside.append(Store(name, offset, Local(local, value.type.dtype)))
            self.spilt[value] = (name, offset)
        for node in here:
            name = f"a{len(self.rows)}"
            kind = wide_type(node.x.type.dtype)
            fold, start = fold_of(node, kind)
            value = translate(node.x)
            inside.extend(translate.flush())
            if kind != node.x.type.dtype:
                value = Call("cast", (value,), kind)
            before.append(Let(name, Const(start, kind)))
            inside.append(Accumulate(name, fold, value))
            total: Expr = Local(name, kind)
            if isinstance(node, ops.ReduceMean):
                count = product(self.domain.shape[a] for a in self.domain.axes)
                divisor: Expr = (
                    Const(float(count) if kind.is_float else count, kind)
                    if isinstance(count, int)
                    else Call("cast", (index_value(count),), kind)
                )
                total = Call("div", (total, divisor), kind)
            if kind != node.type.dtype:
                total = Call("cast", (total,), node.type.dtype)
            result = f"r{len(self.rows)}"
            after.append(Let(result, total))
            self.rows[node] = Local(result, node.type.dtype)
        return [*before, *self._over_reduced(inside), *after]

    def _outputs(self, statements: list[Stmt]) -> None:
        inside: list[Stmt] = []
        translate = Translation(self.builder, self.body, self._leaf)
        for value, target in zip(self.body.results, self.targets, strict=True):
            expr = translate(value)
            (inside if self.full[value] else statements).extend(translate.flush())
            if self.full[value]:
                inside.append(self.builder.store(target, target.at(self.index), expr))
            else:
                rank = len(value.type.shape)
                index = (
                    [0 if a in self.domain.axes else i for a, i in enumerate(self.index)]
                    if rank == len(self.domain.shape)
                    else [self.index[a] for a in self.domain.kept]
                )
                statements.append(self.builder.store(target, target.at(index), expr))
        if inside:
            statements.extend(self._over_reduced(inside))

    def _launch(self, statements: Sequence[Stmt]) -> None:
        domain = self.domain
        reduced = product(domain.shape[a] for a in domain.axes)
        work = cost(self.body)
        elements = max(1024, CHUNK * 2 // (work + 1))
        kept = list(domain.kept)
        body: tuple[Stmt, ...] = tuple(statements)
        if not self.inner_vector and kept:
            column = kept.pop()
            extent = domain.shape[column]
            block, name = "_column", self.names[column]
            inner = minimum(COLUMN_BLOCK, extent - symbol(block) * COLUMN_BLOCK)
            shifted = {name: symbol(block) * COLUMN_BLOCK + symbol("_lane")}
            body = map_dims(body, lambda d: substitute(d, shifted))
            body = (For("_lane", inner, body, "vector"),)
            grid = [Axis(self.names[a], domain.shape[a]) for a in kept]
            grid.append(Axis(block, ceil_divide(extent, COLUMN_BLOCK)))
        else:
            grid = [Axis(self.names[a], domain.shape[a]) for a in kept if domain.shape[a] != 1]
            ones = {self.names[a]: 0 for a in kept if domain.shape[a] == 1}
            if ones:
                body = map_dims(body, lambda d: substitute(d, ones))
            if grid:
                grid[-1] = Axis(grid[-1].var, grid[-1].extent, grain_for(reduced, elements))
            else:
                grid = [Axis("_point", 1)]
        flops = product(domain.shape) * work
        self.context.run(self.builder.launch(grid, body, origin=self.node.origin, flops=flops))


def _reaches(value: Value, target: Value) -> bool:
    """Whether `target` is `value` or lies below it without a reduction between."""
    stack = [value]
    while stack:
        v = stack.pop()
        if v is target:
            return True
        if isinstance(v, pointwise.Pointwise):
            stack.extend(operands_of(v))
    return False


def fold_of(node: ops.Reduction, dtype: DType) -> tuple[Fold, float | int | bool]:
    """The folding function and its start value."""
    match node:
        case ops.ReduceSum() | ops.ReduceMean():
            return "add", 0.0 if dtype.is_float else 0
        case ops.ReduceProd():
            return "mul", 1.0 if dtype.is_float else 1
        case ops.ReduceMax():
            return "or" if dtype.kind == "bool" else "max", lowest(dtype)
        case ops.ReduceMin():
            return "and" if dtype.kind == "bool" else "min", highest(dtype)
        case _:
            raise LoweringError(f"no fold for {node!r}")


def lowest(dtype: DType) -> float | int | bool:
    """The neutral element of max."""
    if dtype.is_float:
        return float("-inf")
    if dtype.kind == "bool":
        return False
    return -(2 ** (dtype.bits - 1)) if dtype.kind == "signed" else 0


def highest(dtype: DType) -> float | int | bool:
    """The neutral element of min."""
    if dtype.is_float:
        return float("inf")
    if dtype.kind == "bool":
        return True
    return 2 ** (dtype.bits - 1) - 1 if dtype.kind == "signed" else 2**dtype.bits - 1
