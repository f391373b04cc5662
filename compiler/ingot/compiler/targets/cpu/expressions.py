# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""Dims, expressions and stores of level 2 as LLVM IR, one scalar or one vector of lanes at a time.

A kernel's code skips LLVM's mid-level passes, so what loop-invariant code motion and common subexpression elimination
would do for addresses is done here: a `Scope` mirrors the nesting of control flow, and every part of a dim is computed
in the outermost scope that knows its symbols, once.

Vector emission: `lanes` consecutive iterations of the loop variable `lane_var`, whose symbol is bound to the first. An
expression that does not depend on the lane stays a scalar as long as it can. A symbol or local may be bound to a vector
(a `Let` that depends on the lane); all vectors in use at a time have the same number of lanes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from llvmlite import ir

from ingot.compiler.ir.dims import (
    UNBOUNDED,
    Atom,
    Dim,
    Symbol,
    add,
    bounds,
    coefficient,
    substitute,
    symbols,
)
from ingot.compiler.ir.dims import (
    Expr as DimExpr,
)
from ingot.compiler.ir.loops import Call, Const, Expr, Index, Load, Local, Store
from ingot.compiler.ir.types import IrError
from ingot.compiler.ops.quantised import integer_range
from ingot.compiler.targets.cpu import declarations, flow, functions
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.functions import (
    I32,
    I64,
    constant,
    from_memory,
    lanes_of,
    memory_type,
    register_type,
    splat,
    to_memory,
)
from ingot.compiler.targets.cpu.vecmath.lanes import Unset, lane_numbers
from ingot.runtime.dtypes import DType, f32, i64

_INTERLEAVED = (-1, 2, 3, 4)  # strides read by whole vectors and a shuffle


class Scope:
    """The names known at one place of the control flow.

    `symbols` binds dim symbols to i64 values, `locals` names to values, `buffers` names to (pointer, dtype). Whoever
    opens a region that may run more or less often than its surroundings (a loop body, a branch), or binds a name anew,
    works in a `child`: made where the region is entered, used inside only. Values that a child needs and that depend
    on outer names alone are put at the end of the block in which the child was made.
    """

    def __init__(self, level: Level, parent: Scope | None = None, entry: ir.Block | None = None) -> None:
        self.level = level
        self.parent = parent
        self.entry = entry
        self.symbols: dict[str, ir.Value] = {}
        self.locals: dict[str, ir.Value] = {}
        self.buffers: dict[str, tuple[ir.Value, DType]] = {}
        self.signed: set[str] = set() if parent is None else parent.signed
        self._dims: dict[Dim, ir.Value] = {}
        self._lanes: dict[tuple[str | None, int], Scope] = {}

    def child(self, b: ir.IRBuilder) -> Scope:
        """A scope for the region entered from where `b` stands."""
        return Scope(self.level, self, b.block)

    def bind(self, name: str, value: ir.Value, dtype: DType) -> None:
        """Define a local, or give it a new value; an i64 is a symbol as well, one that may be negative."""
        self.locals[name] = value
        if dtype.name == "i64":
            if name in self.symbols:
                self._dims = {dim: known for dim, known in self._dims.items() if name not in symbols(dim)}
                self._lanes.clear()
            self.symbols[name] = value
            self.signed.add(name)

    def symbol(self, name: str) -> ir.Value:
        """The value of a symbol; IrError when it is unknown."""
        return self._owner(name).symbols[name]

    def local(self, name: str) -> ir.Value:
        """The value of a local; IrError when it is unknown."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.locals:
                return scope.locals[name]
            scope = scope.parent
        raise IrError(f"local {name!r} is not defined here")

    def buffer(self, name: str) -> tuple[ir.Value, DType]:
        """(pointer, dtype) of a buffer; IrError when it is unknown."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.buffers:
                return scope.buffers[name]
            scope = scope.parent
        raise IrError(f"buffer {name!r} is not defined here")

    def folded(self, dim: Dim) -> Dim:
        """`dim` with the symbols that are bound to constants replaced."""
        if isinstance(dim, int):
            return dim
        known: dict[str, Dim] = {}
        for name in symbols(dim):
            value = self.symbol(name)
            if isinstance(value, ir.Constant) and isinstance(value.constant, int):
                known[name] = value.constant
        return substitute(dim, known)

    def varies(self, dim: Dim, lane_var: str | None) -> bool:
        """Whether `dim` differs from lane to lane."""
        return any(name == lane_var or lanes_of(self.symbol(name)) is not None for name in symbols(dim))

    def _owner(self, name: str) -> Scope:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.symbols:
                return scope
            scope = scope.parent
        raise IrError(f"symbol {name!r} is not defined here")

    def _home(self, dim: Dim) -> Scope:
        """The innermost scope that binds a symbol of `dim`, the outermost scope when there is none."""
        names = symbols(dim)
        scope = self
        while scope.parent is not None and not names & scope.symbols.keys():
            scope = scope.parent
        return scope

    @contextmanager
    def _end(self, b: ir.IRBuilder, home: Scope) -> Iterator[None]:
        """A context in which `b` stands where values of `home` that this scope needs belong."""
        scope = self
        while scope.parent is not home:
            assert scope.parent is not None
            scope = scope.parent
        assert scope.entry is not None
        before = b.block
        with b.goto_block(scope.entry):
            yield
        if before.terminator is not None:  # one context inside another: llvmlite returns behind the terminator
            b.position_before(before.terminator)


@dataclass
class _Emission:
    """One `emit_expr`: where it stands, and the values it has made already."""

    b: ir.IRBuilder
    scope: Scope
    lanes: int | None
    lane_var: str | None
    mask: ir.Value | None
    made: dict[int, ir.Value] = field(default_factory=dict)
    loads: dict[Expr, ir.Value] = field(default_factory=dict)


# -- dims -------------------------------------------------------------------------------------------------------------


def emit_dim(b: ir.IRBuilder, dim: Dim, scope: Scope) -> ir.Value:
    """The i64 value of `dim`; its symbols must be bound to scalars. Never traps: division by zero gives 0."""
    dim = scope.folded(dim)
    if isinstance(dim, int):
        return I64(dim)
    fixed = dict(dim.terms).get((), 0)
    moving = add(dim, -fixed)
    home = scope._home(moving)
    value = home._dims.get(moving)
    if value is None:
        if home is scope:
            value = _polynomial(b, moving, home)
        else:
            with scope._end(b, home):
                value = _polynomial(b, moving, home)
        home._dims[moving] = value
    return b.add(value, I64(fixed), flags=("nsw",)) if fixed else value


def _polynomial(b: ir.IRBuilder, dim: Dim, home: Scope) -> ir.Value:
    assert isinstance(dim, DimExpr)
    inner = {m: c for m, c in dim.terms if home.parent is None or home._home(DimExpr(((m, 1),))) is home}
    outer = tuple((m, c) for m, c in dim.terms if m not in inner)
    total: ir.Value | None = emit_dim(b, DimExpr(outer), home) if outer else None
    for monomial, c in inner.items():
        term = _monomial(b, monomial, c, home)
        total = term if total is None else b.add(total, term, flags=("nsw",))
    assert total is not None
    return total


def _monomial(b: ir.IRBuilder, monomial: tuple[Atom, ...], c: int, home: Scope) -> ir.Value:
    near = [atom for atom in monomial if home._home(DimExpr((((atom,), 1),))) is home]
    far = tuple(atom for atom in monomial if atom not in near)
    if home.parent is not None and far and near:  # the part known outside is one factor
        value: ir.Value | None = emit_dim(b, DimExpr(((far, c),)), home)
        c = 1
    else:
        near, value = list(monomial), None
    for atom in near:
        factor = _atom(b, atom, home)
        value = factor if value is None else b.mul(value, factor, flags=("nsw",))
    assert value is not None
    return value if c == 1 else b.mul(value, I64(c), flags=("nsw",))


def _atom(b: ir.IRBuilder, atom: Atom, scope: Scope) -> ir.Value:
    if isinstance(atom, Symbol):
        value = scope.symbol(atom.name)
        if lanes_of(value) is not None:
            raise IrError(f"symbol {atom.name!r} differs from lane to lane where one value is needed")
        return value
    left = emit_dim(b, atom.left, scope)
    if atom.op in ("max", "min"):
        right = emit_dim(b, atom.right, scope)
        return b.select(b.icmp_signed(">" if atom.op == "max" else "<", left, right), left, right)
    low, _ = bounds(atom.left, dict.fromkeys(scope.signed, (-UNBOUNDED, UNBOUNDED)))
    divide = _floor_divide if atom.op == "//" else _floor_modulo
    return divide(b, left, atom.right, low >= 0, scope)


def _floor_divide(b: ir.IRBuilder, x: ir.Value, divisor: Dim, natural: bool, scope: Scope) -> ir.Value:
    if isinstance(divisor, int) and divisor > 0:
        if divisor & (divisor - 1) == 0:
            return b.ashr(x, I64(divisor.bit_length() - 1))
        if natural:
            return b.udiv(x, I64(divisor))
        sign = b.ashr(x, I64(63))  # floor(x / d) = ~(~x / d) for negative x
        return b.xor(b.udiv(b.xor(x, sign), I64(divisor)), sign)
    y, safe = _guarded(b, emit_dim(b, divisor, scope))
    quotient, rest = b.sdiv(x, safe), b.srem(x, safe)
    wrong = b.and_(b.icmp_signed("!=", rest, I64(0)), b.icmp_signed("<", b.xor(rest, safe), I64(0)))
    quotient = b.select(wrong, b.sub(quotient, I64(1)), quotient)
    quotient = b.select(b.icmp_signed("==", y, I64(-1)), b.neg(x), quotient)
    return b.select(b.icmp_signed("==", y, I64(0)), I64(0), quotient)


def _floor_modulo(b: ir.IRBuilder, x: ir.Value, divisor: Dim, natural: bool, scope: Scope) -> ir.Value:
    if isinstance(divisor, int) and divisor > 0:
        if divisor & (divisor - 1) == 0:
            return b.and_(x, I64(divisor - 1))
        if natural:
            return b.urem(x, I64(divisor))
        rest = b.srem(x, I64(divisor))
        return b.add(rest, b.and_(b.ashr(rest, I64(63)), I64(divisor)))
    y, safe = _guarded(b, emit_dim(b, divisor, scope))
    rest = b.srem(x, safe)  # 0 for the divisors 0 and -1
    wrong = b.and_(b.icmp_signed("!=", rest, I64(0)), b.icmp_signed("<", b.xor(rest, y), I64(0)))
    return b.select(wrong, b.add(rest, y), rest)


def _guarded(b: ir.IRBuilder, y: ir.Value) -> tuple[ir.Value, ir.Value]:
    """A divisor, and itself with 0 and -1 replaced by 1, so that no quotient traps."""
    unsafe = b.icmp_unsigned("<", b.add(y, I64(1)), I64(2))
    return y, b.select(unsafe, I64(1), y)


def _affine(dim: Dim, scope: Scope, lane_var: str | None) -> tuple[Dim, Dim] | None:
    """(stride, first) of a dim that is the same or affine from lane to lane, else None."""
    if any(lanes_of(scope.symbol(name)) is not None for name in symbols(dim) if name != lane_var):
        return None
    return (0, dim) if lane_var is None else coefficient(dim, lane_var)


def _lane_dim(b: ir.IRBuilder, dim: Dim, scope: Scope, lane_var: str | None, lane: int) -> ir.Value:
    """The value of `dim` in one lane."""
    inner = scope._lanes.get((lane_var, lane))
    if inner is None:
        inner = scope._lanes[lane_var, lane] = scope.child(b)
        if lane_var is not None:
            inner.symbols[lane_var] = flow.add(b, scope.symbol(lane_var), lane)
    inner.entry = b.block
    for name in symbols(dim):
        value = scope.symbol(name)
        if name != lane_var and name not in inner.symbols and lanes_of(value) is not None:
            inner.symbols[name] = b.extract_element(value, I32(lane))
    return emit_dim(b, dim, inner)


def _emit_index(e: _Emission, dim: Dim) -> ir.Value:
    b, scope = e.b, e.scope
    if e.lanes is None or not scope.varies(dim, e.lane_var):
        return emit_dim(b, dim, scope)
    if isinstance(dim, DimExpr) and len(dim.terms) == 1 and dim.terms[0][1] == 1 and len(dim.terms[0][0]) == 1:
        atom = dim.terms[0][0][0]
        if isinstance(atom, Symbol) and atom.name != e.lane_var:
            return scope.symbol(atom.name)
    affine = _affine(dim, scope, e.lane_var)
    if affine is not None:
        first = splat(b, emit_dim(b, dim, scope), e.lanes)
        iota = ir.Constant(first.type, [I64(lane) for lane in range(e.lanes)])
        return b.add(first, b.mul(iota, splat(b, emit_dim(b, affine[0], scope), e.lanes)))
    vector = Unset(ir.VectorType(I64, e.lanes))
    for lane in range(e.lanes):
        vector = b.insert_element(vector, _lane_dim(b, dim, scope, e.lane_var, lane), I32(lane))
    return vector


# -- expressions ------------------------------------------------------------------------------------------------------


def dtype_of(expr: Expr, scope: Scope) -> DType:
    """The element type of an expression."""
    match expr:
        case Const(dtype=dtype) | Local(dtype=dtype) | Call(dtype=dtype):
            return dtype
        case Index():
            return i64
        case Load(buffer=buffer):
            return scope.buffer(buffer)[1]


def emit_expr(
    b: ir.IRBuilder,
    expr: Expr,
    scope: Scope,
    lanes: int | None = None,
    lane_var: str | None = None,
    mask: ir.Value | None = None,
) -> ir.Value:
    """The value of `expr`: a scalar, or with `lanes` the vector of its values for ``lane_var .. lane_var + lanes``.

    The type is `functions.register_type`. `mask` (a vector of i1) names the lanes whose loads may be performed, at
    least one. May end in another block than it began.
    """
    e = _Emission(b, scope, lanes, lane_var, mask)
    return splat(b, _emit(e, expr), lanes)


def emit_uniform(b: ir.IRBuilder, expr: Expr, scope: Scope, lanes: int, lane_var: str | None, mask=None) -> ir.Value:
    """Like `emit_expr`, but a value that is the same in all lanes stays a scalar."""
    return _emit(_Emission(b, scope, lanes, lane_var, mask), expr)


def _emit(e: _Emission, expr: Expr) -> ir.Value:
    value = e.made.get(id(expr))
    if value is None:
        value = e.made[id(expr)] = _emit_new(e, expr)
    return value


def _emit_new(e: _Emission, expr: Expr) -> ir.Value:
    match expr:
        case Const(value=value, dtype=dtype):
            exact = functions.nearest(value, dtype)
            return constant(exact, register_type(dtype))
        case Index(dim=dim):
            return _emit_index(e, dim)
        case Local(name=name):
            return e.scope.local(name)
        case Load():
            value = e.loads.get(expr)
            if value is None:
                value = e.loads[expr] = _emit_load(e, expr)
            return value
        case Call(fn=fn, args=args, dtype=dtype):
            if fn == "cast" and (steps := _clamped_steps(args[0], dtype)) is not None:
                x, zero, low, high = steps
                real = splat(e.b, _emit(e, x), e.lanes)
                if (whole := functions.rounded_within(e.b, e.scope.level, real, zero, low, high)) is not None:
                    return e.b.trunc(whole, functions.widened(register_type(dtype), e.lanes))
            values = [_emit(e, a) for a in args]
            if any(lanes_of(v) is not None for v in values):
                values = [splat(e.b, v, e.lanes) for v in values]
            source = dtype_of(args[-1], e.scope)
            if fn == "cast" and source == f32 and _stays_within(args[0], dtype):
                return functions.cast_within(e.b, e.scope.level, values[0], dtype)
            return functions.call(e.b, e.scope.level, fn, values, source, dtype)


def _clamped_steps(value: Expr, target: DType) -> tuple[Expr, int, int, int] | None:
    """(x, zero, low, high) of an f32 ``min(max(round(x) + zero, low), high)`` that `target` holds."""
    if not _stays_within(value, target):
        return None
    match value:
        case Call("min", (Call("max", (steps, Const(value=low))), Const(value=high)), dtype) if dtype == f32:
            pass
        case _:
            return None
    match steps:
        case Call("round", (x,)):
            return x, 0, int(low), int(high)
        case Call("add", (Call("round", (x,)), Const(value=zero))) if abs(zero) < 1 << 16 and zero == int(zero):
            return x, int(zero), int(low), int(high)
        case _:
            return None


def _stays_within(value: Expr, target: DType) -> bool:
    """Whether `value` is clamped to what the integer type `target`, of at most 16 bits, holds."""
    if not target.is_integer or target.bits > 16:
        return False
    match value:
        case Call("min", (Call("max", (_, Const(value=low))), Const(value=high))):
            least, most = integer_range(target)
            return least <= low <= high <= most
        case _:
            return False


def element_pointer(b: ir.IRBuilder, pointer: ir.Value, dtype: DType, offset: ir.Value) -> ir.Value:
    """The address of an element."""
    if flow.as_constant(offset) == 0:
        return pointer
    return b.gep(pointer, [offset], source_etype=memory_type(dtype))


def _emit_load(e: _Emission, load: Load) -> ir.Value:
    b, scope = e.b, e.scope
    pointer, dtype = scope.buffer(load.buffer)
    if e.lanes is None or not scope.varies(load.offset, e.lane_var):
        address = element_pointer(b, pointer, dtype, emit_dim(b, load.offset, scope))
        return from_memory(b, b.load(address, typ=memory_type(dtype), align=dtype.bytes), dtype)
    affine = _affine(load.offset, scope, e.lane_var)
    if affine is not None and affine[0] == 1:
        address = element_pointer(b, pointer, dtype, emit_dim(b, load.offset, scope))
        return from_memory(b, load_vector(b, address, dtype, e.lanes, e.mask), dtype)
    if affine is not None and affine[0] in _INTERLEAVED and e.mask is None:
        return from_memory(b, _strided_vector(e, load, pointer, dtype, affine[0]), dtype)
    vector = Unset(ir.VectorType(memory_type(dtype), e.lanes))
    for lane in range(e.lanes):
        vector = _gather_lane(e, load, pointer, dtype, lane, vector)
    return from_memory(b, vector, dtype)


def _gather_lane(e: _Emission, load: Load, pointer, dtype: DType, lane: int, vector: ir.Value) -> ir.Value:
    b = e.b
    offset = _lane_dim(b, load.offset, e.scope, e.lane_var, lane)

    def insert() -> ir.Value:
        element = b.load(element_pointer(b, pointer, dtype, offset), typ=memory_type(dtype), align=dtype.bytes)
        return b.insert_element(vector, element, I32(lane))

    if e.mask is None:
        return insert()
    if lane == 0:
        vector = constant(0, vector.type)
    before = b.block
    active = b.extract_element(e.mask, I32(lane))
    with b.if_then(active):
        inserted, inside = insert(), b.block
    merged = b.phi(vector.type)
    merged.add_incoming(vector, before)
    merged.add_incoming(inserted, inside)
    return merged


def _strided_vector(e: _Emission, load: Load, pointer: ir.Value, dtype: DType, stride: Dim) -> ir.Value:
    """`lanes` elements with a small constant stride: whole vectors that end at the last element used, and a shuffle."""
    b, lanes = e.b, e.lanes
    assert isinstance(stride, int) and lanes is not None
    span = abs(stride) * (lanes - 1)
    low = emit_dim(b, add(load.offset, -span if stride < 0 else 0), e.scope)
    size = abs(stride)
    starts = [min(part * lanes, span + 1 - lanes) for part in range(size)]
    parts = [load_vector(b, element_pointer(b, pointer, dtype, b.add(low, I64(s))), dtype, lanes) for s in starts]
    wanted = [size * lane for lane in range(lanes)]
    if stride < 0:
        wanted.reverse()
    owner = [min(w // lanes, size - 1) for w in wanted]
    place = [w - starts[part] for w, part in zip(wanted, owner, strict=True)]
    result = parts[0]
    for number in range(1, size):  # after each shuffle, the lanes owned by parts up to `number` are in place
        kept = place if number == 1 else range(lanes)
        chosen = [lanes + place[i] if owner[i] == number else kept[i] % lanes for i in range(lanes)]
        result = b.shuffle_vector(result, parts[number], lane_numbers(tuple(chosen)))
    if size == 1:
        result = b.shuffle_vector(result, result, lane_numbers(tuple(wanted)))
    return result


def load_vector(b: ir.IRBuilder, address: ir.Value, dtype: DType, lanes: int, mask: ir.Value | None = None) -> ir.Value:
    """`lanes` consecutive elements in their memory form; lanes outside `mask` are not read and are 0."""
    type_ = ir.VectorType(memory_type(dtype), lanes)
    if mask is None:
        return b.load(address, typ=type_, align=dtype.bytes)
    name = f"llvm.masked.load.{functions.suffix(type_)}.p0"
    return declarations.call(b, name, type_, [address, I32(dtype.bytes), mask, constant(0, type_)])


def store_vector(b: ir.IRBuilder, value: ir.Value, address: ir.Value, dtype: DType, mask: ir.Value | None) -> None:
    """Write a vector in its memory form to consecutive elements; lanes outside `mask` are left alone."""
    if mask is None:
        b.store(value, address, align=dtype.bytes)
        return
    lane = _only_lane(mask)
    if lane is not None:  # LLVM 22 stores four bytes for one that is cut from 32 bits
        at = b.gep(address, [I64(lane)], source_etype=value.type.element)
        b.store(b.extract_element(value, I32(lane)), at, align=dtype.bytes)
        return
    name = f"llvm.masked.store.{functions.suffix(value.type)}.p0"
    declarations.call(b, name, ir.VoidType(), [value, address, I32(dtype.bytes), mask])


def _only_lane(mask: ir.Value) -> int | None:
    """The lane that a constant mask has, where it has one."""
    if not isinstance(mask, ir.Constant) or not isinstance(mask.constant, list):
        return None
    lanes = [lane for lane, bit in enumerate(mask.constant) if getattr(bit, "constant", bit)]
    return lanes[0] if len(lanes) == 1 else None


# -- stores -----------------------------------------------------------------------------------------------------------


def emit_store(
    b: ir.IRBuilder,
    store: Store,
    scope: Scope,
    lanes: int | None = None,
    lane_var: str | None = None,
    mask: ir.Value | None = None,
) -> None:
    """Write ``store.value`` for one iteration, or for `lanes` of them; lanes outside `mask` write nothing.

    Raises IrError when the value has not the buffer's dtype, or when several lanes write different values to one place.
    """
    pointer, dtype = scope.buffer(store.buffer)
    have = dtype_of(store.value, scope)
    if have.name != dtype.name:
        raise IrError(f"a store of {have} into buffer {store.buffer!r} of {dtype}: cast the value")
    e = _Emission(b, scope, lanes, lane_var, mask)
    value = _emit(e, store.value)
    if lanes is None or not scope.varies(store.offset, lane_var):
        if lanes_of(value) is not None:
            raise IrError(f"lanes of {lane_var} store different values to one element of {store.buffer!r}")
        address = element_pointer(b, pointer, dtype, emit_dim(b, store.offset, scope))
        b.store(to_memory(b, value, dtype), address, align=dtype.bytes)
        return
    stored = to_memory(b, splat(b, value, lanes), dtype)
    affine = _affine(store.offset, scope, lane_var)
    if affine is not None and affine[0] == 1:
        store_vector(b, stored, element_pointer(b, pointer, dtype, emit_dim(b, store.offset, scope)), dtype, mask)
        return
    for lane in range(lanes):
        address = element_pointer(b, pointer, dtype, _lane_dim(b, store.offset, scope, lane_var, lane))
        element = b.extract_element(stored, I32(lane))
        if mask is None:
            b.store(element, address, align=dtype.bytes)
        else:
            with b.if_then(b.extract_element(mask, I32(lane))):
                b.store(element, address, align=dtype.bytes)
