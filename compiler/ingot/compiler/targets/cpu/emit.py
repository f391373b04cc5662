# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""Level-2 kernels as LLVM IR functions ``void k(i64 *args, i64 chunk)``.

The code is emitted the way LLVM's mid-level passes would leave it, because those are skipped: SSA values carried by
phis, explicit vectors, addresses hoisted by `expressions.Scope`. A loop marked "vector" runs several registers of lanes
at a time, kept as one wide LLVM vector that code generation splits; an accumulator from outside the loop becomes a
vector whose lanes are folded by halves after it, so its order of summation is fixed by the kernel alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llvmlite import ir

from ingot.compiler.ir.dims import UNBOUNDED, Dim, bounds, ceil_divide
from ingot.compiler.ir.loops import (
    Accumulate,
    Axis,
    Call,
    Expr,
    For,
    Kernel,
    Let,
    Local,
    Reduction,
    Scratch,
    Stmt,
    Store,
    When,
)
from ingot.compiler.ir.routines import RoutineCall
from ingot.compiler.ir.sparse import BlockTranspose, SparseProduct, SparseVector
from ingot.compiler.ir.templates import Attention, Contraction, Depthwise, Lookup, Strassen
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import (
    access_checks,
    attention,
    block_transpose,
    contraction,
    declarations,
    depthwise,
    flow,
    functions,
    lookup,
    routine,
    sparse,
    sparse_vector,
    strassen,
)
from ingot.compiler.targets.cpu.expressions import Scope, dtype_of, emit_dim, emit_expr, emit_store, emit_uniform
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.functions import I32, I64, PTR, any_lane, constant, lanes_of, register_type, splat
from ingot.compiler.targets.cpu.interleave import emit_interleaved, interleaved
from ingot.compiler.targets.cpu.vecmath.lanes import lane_numbers
from ingot.compiler.targets.cpu.vectorise import Plan, accumulated, assigned, contains_vector_loop, expansion, plan
from ingot.runtime.dtypes import DType, i64

Range = tuple[ir.Value, ir.Value]  # begin and end of a grid axis within one chunk

# Emitters of template bodies: (builder, template, scope, ranges by axis variable, level).
TEMPLATES: dict[type, Callable[..., None]] = {
    Attention: attention.emit_body,
    BlockTranspose: block_transpose.emit_body,
    Contraction: contraction.emit_body,
    Depthwise: depthwise.emit_body,
    Lookup: lookup.emit_body,
    RoutineCall: routine.emit_body,
    SparseProduct: sparse.emit_body,
    SparseVector: sparse_vector.emit_body,
    Strassen: strassen.emit_body,
}

UNROLLED = 16  # statements that a constant loop without a vector loop may be written out to
MAX_SCRATCH = 64 << 10  # bytes of stack a kernel may use


@dataclass(frozen=True)
class Lanes:
    """The iterations of a vector loop in flight: `count` of them from the value of `var` on, those in `mask` only."""

    var: str
    count: int
    mask: ir.Value | None = None


def emit_kernel(module: ir.Module, kernel: Kernel, level: Level, name: str | None = None) -> ir.Function:
    """Define `kernel` in `module` as ``void name(i64 *args, i64 chunk)``.

    args points at one word per buffer (an address) and then one per dim. Raises IrError when the kernel is malformed.
    """
    function = declare_kernel(module, name or kernel.name)
    forbid_libraries(function)
    declarations.number_values(function)
    _describe_processor(function, level)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    scope = Scope(level)
    arguments, chunk = function.args
    for position, buffer in enumerate(kernel.buffers):
        pointer = b.load(b.gep(arguments, [I64(position)], source_etype=PTR), typ=PTR, align=8)
        scope.buffers[buffer.name] = (pointer, buffer.dtype)
    for position, dim in enumerate(kernel.dims, len(kernel.buffers)):
        scope.symbols[dim] = b.load(b.gep(arguments, [I64(position)], source_etype=I64), typ=I64, align=8)
    parameters = dict(scope.buffers), dict(scope.symbols)
    body = kernel.body
    if isinstance(body, tuple):
        ranges = decode_chunk(b, kernel.grid, chunk, scope)
        _Statements(b, level).grid(kernel.grid, ranges, body, scope)
    else:
        ranges = decode_chunk(b, body.grid, chunk, scope)
        if type(body) not in TEMPLATES:
            raise IrError(f"no emitter for template {type(body).__name__}")
        TEMPLATES[type(body)](b, body, scope, ranges, level)
    b.ret_void()
    if level.checked:
        access_checks.check_accesses(function, kernel, *parameters)
    return function


def declare_kernel(module: ir.Module, name: str) -> ir.Function:
    """The hidden function `name` with a kernel's signature, declared on first use."""
    function = declarations.declared(module, name, ir.VoidType(), [PTR, I64])
    function.linkage = "hidden"
    return function


def forbid_libraries(function: ir.Function) -> None:
    """Keep LLVM from turning loops into calls of memcpy and the like; nothing here unwinds either."""
    attributes = function.attributes
    attributes._known = attributes._known | {'"no-builtins"'}
    attributes.add('"no-builtins"')
    attributes.add("nounwind")


def _describe_processor(function: ir.Function, level: Level) -> None:
    """Whose pipelines instructions are scheduled for, and that registers are as long as the level's vectors."""
    known = [f'"tune-cpu"="{level.tune}"'] if level.tune else []
    if level.is_scalable:
        known.append(f"vscale_range({level.vector_bytes // 16},16)")  # in units of 16 bytes
    function.attributes._known = function.attributes._known | {*known}
    for attribute in known:
        function.attributes.add(attribute)


def decode_chunk(b: ir.IRBuilder, grid: Sequence[Axis], chunk: ir.Value, scope: Scope) -> dict[str, Range]:
    """The block of every grid axis, by its variable, that chunk number `chunk` covers; the last axis varies fastest."""
    ranges: dict[str, Range] = {}
    left = chunk
    for position in range(len(grid) - 1, -1, -1):
        axis = grid[position]
        blocks = ceil_divide(axis.extent, axis.grain)
        if blocks == 1:
            ranges[axis.var] = I64(0), emit_dim(b, axis.extent, scope)
            continue
        block = left
        if any(ceil_divide(a.extent, a.grain) != 1 for a in grid[:position]):
            count = emit_dim(b, blocks, scope)
            block, left = b.urem(left, count), b.udiv(left, count)
        if axis.grain == 1:
            ranges[axis.var] = block, flow.add(b, block, 1)
            continue
        grain = emit_dim(b, axis.grain, scope)
        begin = flow.multiply(b, block, grain)
        end = b.add(begin, grain, flags=("nsw",))
        if not _divides(axis):
            end = flow.minimum(b, end, emit_dim(b, axis.extent, scope))
        ranges[axis.var] = begin, end
    return ranges


def _divides(axis: Axis) -> bool:
    return isinstance(axis.extent, int) and isinstance(axis.grain, int) and axis.extent % axis.grain == 0


def fold(b: ir.IRBuilder, level: Level, fn: Reduction, dtype: DType, x: ir.Value, y: ir.Value) -> ir.Value:
    """``fn(x, y)`` of two values of one width."""
    return functions.call(b, level, fn, [x, y], dtype, dtype)


def fold_lanes(
    b: ir.IRBuilder, level: Level, fn: Reduction, dtype: DType, vector: ir.Value, lanes: int | None
) -> ir.Value:
    """A vector folded by halves to `lanes` lanes, or with None to a scalar."""
    count = vector.type.count
    rest: list[ir.Value] = []
    while count > (lanes or 1):
        if count % 2:
            rest.append(b.extract_element(vector, I32(count - 1)))
        half = count // 2
        parts = [
            b.shuffle_vector(vector, vector, lane_numbers(tuple(range(start, start + half)))) for start in (0, half)
        ]
        vector, count = fold(b, level, fn, dtype, *parts), half
    if lanes is not None:
        return vector
    result = b.extract_element(vector, I32(0))
    for value in reversed(rest):
        result = fold(b, level, fn, dtype, result, value)
    return result


def identity(fn: Reduction, dtype: DType) -> float | int:
    """The value that `fn` leaves everything else as it is with."""
    if fn in ("add", "or"):
        return -0.0 if dtype.is_float else 0
    if fn in ("mul", "and"):
        return 1
    if dtype.is_float:
        return float("-inf") if fn == "max" else float("inf")
    if dtype.kind == "bool":
        return 0 if fn == "max" else 1
    low = 0 if dtype.kind == "unsigned" else -(2 ** (dtype.bits - 1))
    return low if fn == "max" else low + 2**dtype.bits - 1


class _Statements:
    """Emission of statements where the builder stands."""

    def __init__(self, b: ir.IRBuilder, level: Level) -> None:
        self.b = b
        self.level = level
        self.scratch = 0

    def grid(self, axes: Sequence[Axis], ranges: dict[str, Range], body: Sequence[Stmt], scope: Scope) -> None:
        """Loops over the grid points of a chunk around `body`."""
        if not axes:
            self.body(body, scope, None)
            return
        axis = axes[0]
        begin, end = ranges[axis.var]
        if axis.grain == 1 or axis.extent == 1:
            scope.symbols[axis.var] = begin
            self.grid(axes[1:], ranges, body, scope)
            return

        def point(index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            inner = self._inner(scope, axis.var, index, entry)
            self.grid(axes[1:], ranges, body, inner)
            return carried

        entry = self.b.block
        flow.loop(self.b, begin, end, 1, [], point, nonempty=True)

    def body(self, statements: Sequence[Stmt], scope: Scope, lanes: Lanes | None) -> None:
        """Statements in order; `scope` is theirs alone."""
        done = 0
        for position, statement in enumerate(statements):
            if position < done:
                continue
            if lanes is not None and lanes.mask is None and lanes.count % 2 == 0:
                stores = interleaved(statements[position:], lanes.var)
                if stores:
                    emit_interleaved(self.b, stores, scope, lanes.count, lanes.var)
                    done = position + len(stores)
                    continue
            match statement:
                case Let(name=name, value=value):
                    self._let(name, value, scope, lanes, statements[position + 1 :])
                case Accumulate():
                    self._accumulate(statement, scope, lanes)
                case Store():
                    if lanes is None:
                        emit_store(self.b, statement, scope)
                    else:
                        emit_store(self.b, statement, scope, lanes.count, lanes.var, lanes.mask)
                case For():
                    self._for(statement, scope, lanes)
                case When():
                    self._when(statement, scope, lanes)
                case Scratch(name=name, dtype=dtype, size=size):
                    self._scratch(name, dtype, size, scope)

    def _value(self, expr: Expr, scope: Scope, lanes: Lanes | None) -> ir.Value:
        """A scalar where the value is the same in all lanes."""
        if lanes is None:
            return emit_expr(self.b, expr, scope)
        return emit_uniform(self.b, expr, scope, lanes.count, lanes.var, lanes.mask)

    def _let(self, name: str, expr: Expr, scope: Scope, lanes: Lanes | None, rest: Sequence[Stmt]) -> None:
        value = self._value(expr, scope, lanes)
        if lanes is not None and name in accumulated(rest):
            value = splat(self.b, value, lanes.count)
        scope.bind(name, value, dtype_of(expr, scope))

    def _accumulate(self, statement: Accumulate, scope: Scope, lanes: Lanes | None) -> None:
        name, value = statement.name, statement.value
        dtype = dtype_of(value, scope)
        before = scope.local(name)
        if _element(before.type) != register_type(dtype):
            raise IrError(f"{dtype} is accumulated into {name!r} of another type: cast the value")
        combined = Call(statement.fn, (Local(name, dtype), value), dtype)
        match value:
            case Call(fn="mul", args=(x, y)) if statement.fn == "add" and dtype.name in ("f32", "f64"):
                if dtype_of(x, scope) == dtype == dtype_of(y, scope):
                    combined = Call("fma", (x, y, Local(name, dtype)), dtype)
            case _:
                pass
        after = self._value(combined, scope, lanes)
        if lanes_of(after) != lanes_of(before):
            raise IrError(f"accumulator {name!r} is the same for all lanes, what is added to it is not")
        if lanes is not None and lanes.mask is not None and lanes_of(before) is not None:
            after = self.b.select(lanes.mask, after, before)
        scope.bind(name, after, dtype)

    def _scratch(self, name: str, dtype: DType, size: int, scope: Scope) -> None:
        self.scratch += size * dtype.bytes
        if self.scratch > MAX_SCRATCH:
            raise IrError(f"scratch {name!r} takes the kernel over {MAX_SCRATCH} bytes of stack")
        scope.buffers[name] = (flow.stack(self.b, functions.memory_type(dtype), size), dtype)

    # -- branches -----------------------------------------------------------------------------------------------------

    def _when(self, statement: When, scope: Scope, lanes: Lanes | None) -> None:
        condition = self._value(statement.condition, scope, lanes)
        if not statement.body and not statement.otherwise:
            return
        if lanes is None or lanes_of(condition) is None:
            self._branch(condition, (statement.body, statement.otherwise), (lanes, lanes), scope)
            return
        b = self.b
        for chosen, body in ((condition, statement.body), (b.not_(condition), statement.otherwise)):
            if not body:
                continue
            mask = chosen if lanes.mask is None else b.and_(lanes.mask, chosen)
            inside = replace(lanes, mask=mask)
            self._branch(any_lane(b, mask), (body, ()), (inside, inside), scope)

    def _branch(self, condition: ir.Value, bodies, lanes, scope: Scope) -> None:
        """Run one of two bodies, each with its lanes, at most one of them empty."""
        b = self.b
        carried = assigned((*bodies[0], *bodies[1]))
        values = {name: scope.local(name) for name in carried}
        entry = b.block
        after = b.append_basic_block("when.done")
        targets = [b.append_basic_block("when") if body else after for body in bodies]
        b.cbranch(condition, *targets)
        arrivals: list[tuple[ir.Block, dict[str, ir.Value]]] = []
        for block, body, inside in zip(targets, bodies, lanes, strict=True):
            if not body:
                arrivals.append((entry, values))
                continue
            b.position_at_end(block)
            inner = Scope(self.level, scope, entry)
            self.body(body, inner, inside)
            arrivals.append((b.block, {name: inner.local(name) for name in carried}))
            b.branch(after)
        b.position_at_end(after)
        for name in carried:
            phi = b.phi(values[name].type)
            for block, arrived in arrivals:
                phi.add_incoming(arrived[name], block)
            _rebind(scope, name, phi)

    # -- loops --------------------------------------------------------------------------------------------------------

    def _for(self, loop: For, scope: Scope, lanes: Lanes | None) -> None:
        if loop.mode == "vector" and lanes is None:
            layout = plan(loop, scope, self.level)
            if layout is not None:
                _VectorLoop(self, loop, layout, scope).emit()
                return
        extent = scope.folded(loop.extent)
        if isinstance(extent, int):
            inside = expansion(loop.body)
            small = inside is not None and extent * inside <= UNROLLED and not contains_vector_loop(loop.body)
            if extent <= 1 or loop.mode == "unroll" or small:
                for index in range(extent):
                    carried = assigned(loop.body)
                    inner = self._inner(scope, loop.var, I64(index), self.b.block)
                    self.body(loop.body, inner, lanes)
                    for name in carried:
                        _rebind(scope, name, inner.local(name))
                return
        elif loop.mode == "unroll":
            raise IrError(f"loop {loop.var} is to be unrolled, but its extent {loop.extent} is not constant")
        self._serial(loop, I64(0), emit_dim(self.b, extent, scope), scope, lanes)

    def _inner(self, scope: Scope, var: str, index: ir.Value, entry: ir.Block) -> Scope:
        """The scope of a loop's body, entered from block `entry`."""
        inner = Scope(self.level, scope, entry)
        inner.symbols[var] = index
        return inner

    def _serial(self, loop: For, begin: ir.Value, end: ir.Value, scope: Scope, lanes: Lanes | None) -> None:
        carried = assigned(loop.body)
        entry = self.b.block

        def round_(index: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
            inner = self._inner(scope, loop.var, index, entry)
            for name, value in zip(carried, values, strict=True):
                _rebind(inner, name, value)
            self.body(loop.body, inner, lanes)
            return [inner.local(name) for name in carried]

        results = flow.loop(self.b, begin, end, 1, [scope.local(name) for name in carried], round_)
        for name, value in zip(carried, results, strict=True):
            _rebind(scope, name, value)


class _VectorLoop:
    """One loop run on vectors: whole groups of registers, then single registers, then the remaining iterations."""

    def __init__(self, statements: _Statements, loop: For, layout: Plan, scope: Scope) -> None:
        self.statements, self.loop, self.layout, self.scope = statements, loop, layout, scope
        self.b, self.level = statements.b, statements.level
        self.totals = [scope.local(a.name) for a in layout.accumulators]
        self.vectors: list[ir.Value] | None = None

    def emit(self) -> None:
        """Emit the loop and bind its accumulators to their results."""
        extent = self.scope.folded(self.loop.extent)
        if isinstance(extent, int):
            self._constant(extent)
        else:
            self._dynamic(extent)
        self._flush()
        for accumulator, total in zip(self.layout.accumulators, self.totals, strict=True):
            _rebind(self.scope, accumulator.name, total)

    def _constant(self, extent: int) -> None:
        lanes, unroll = self.layout.lanes, self.layout.unroll
        while unroll > 1 and (extent < lanes * unroll or (extent % (lanes * unroll) and extent < 4 * lanes * unroll)):
            unroll //= 2
        position = 0
        for width in dict.fromkeys((lanes * unroll, lanes)):
            end = position + (extent - position) // width * width
            self._span(I64(position), I64(end), width)
            position = end
        rest = extent - position
        if rest == 0:
            return
        if rest & (rest - 1) == 0 or not self.layout.masked:  # fewer lanes, odd numbers too, need no mask
            self._span(I64(position), I64(extent), rest)
        else:
            self._span(I64(position), I64(extent), lanes, masked=True)

    def _dynamic(self, extent: Dim) -> None:
        b, lanes, wide = self.b, self.layout.lanes, self.layout.lanes * self.layout.unroll
        end = emit_dim(b, extent, self.scope)
        signed = dict.fromkeys(self.scope.signed, (-UNBOUNDED, UNBOUNDED))
        if bounds(extent, signed)[0] < 0:
            end = flow.maximum(b, end, I64(0))
        position: ir.Value = I64(0)
        for width in dict.fromkeys((wide, lanes)):
            stop = b.and_(end, I64(-width))
            self._span(position, stop, width)
            position = stop
        if self.layout.masked:
            self._span(position, end, lanes, masked=True)
        else:
            self._span(position, end, 1)

    def _span(self, begin: ir.Value, end: ir.Value, width: int, masked: bool = False) -> None:
        """Iterations begin .. end, `width` at a time."""
        entry = self.b.block
        start = self._start(width)

        def round_(index: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
            inner = Scope(self.level, self.scope, entry)
            inner.symbols[self.loop.var] = index
            for accumulator, value in zip(self.layout.accumulators, values, strict=True):
                inner.locals[accumulator.name] = value
            mask = self._mask(index, end, width) if masked else None
            self.statements.body(self.loop.body, inner, Lanes(self.loop.var, width, mask) if width > 1 else None)
            return [inner.local(a.name) for a in self.layout.accumulators]

        first, last = flow.as_constant(begin), flow.as_constant(end)
        if first is not None and last is not None and 0 < last - first <= width:
            result = round_(begin, start)
        else:
            result = flow.loop(self.b, begin, end, width, start, round_)
        if width == 1:
            self.totals = result
        else:
            self.vectors = result

    def _mask(self, index: ir.Value, end: ir.Value, width: int) -> ir.Value:
        b = self.b
        element = ir.IntType(max(8, min(64, self.level.vector_bytes * 8 // width)))
        iota = ir.Constant(ir.VectorType(element, width), [element(lane) for lane in range(width)])
        first, last = flow.as_constant(index), flow.as_constant(end)
        if first is not None and last is not None:
            return ir.Constant(ir.VectorType(functions.I1, width), [int(first + i < last) for i in range(width)])
        left = b.sub(end, index)
        if element.width < 64:
            left = b.trunc(left, element)
        return b.icmp_signed("<", iota, splat(b, left, width))

    def _start(self, width: int) -> list[ir.Value]:
        """The accumulators as values of `width` lanes."""
        if not self.layout.accumulators:
            return []
        if width == 1:
            self._flush()
            return self.totals
        have = self.vectors[0].type.count if self.vectors else 0
        if self.vectors and have % width == 0 and (have // width) & (have // width - 1) == 0:
            return [
                fold_lanes(self.b, self.level, a.fn, a.dtype, vector, width)
                for a, vector in zip(self.layout.accumulators, self.vectors, strict=True)
            ]
        self._flush()
        return [
            constant(identity(a.fn, a.dtype), ir.VectorType(register_type(a.dtype), width))
            for a in self.layout.accumulators
        ]

    def _flush(self) -> None:
        if not self.vectors:
            return
        self.totals = [
            fold(self.b, self.level, a.fn, a.dtype, total, fold_lanes(self.b, self.level, a.fn, a.dtype, vector, None))
            for a, total, vector in zip(self.layout.accumulators, self.totals, self.vectors, strict=True)
        ]
        self.vectors = None


def _element(type_: ir.Type) -> ir.Type:
    return type_.element if isinstance(type_, ir.VectorType) else type_


def _rebind(scope: Scope, name: str, value: ir.Value) -> None:
    """Give an accumulator its new value in `scope`."""
    if name in scope.signed:
        scope.bind(name, value, i64)
    else:
        scope.locals[name] = value
