"""How a loop marked "vector" is laid out on vector registers: what varies with the lane, how many lanes, which tail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ingot.compiler.ir.dims import Dim, coefficient, symbols
from ingot.compiler.ir.loops import (
    Accumulate,
    Call,
    Const,
    Expr,
    For,
    Index,
    Let,
    Load,
    Local,
    Reduction,
    Scratch,
    Stmt,
    Store,
    When,
)
from ingot.compiler.targets.cpu.expressions import Scope, dtype_of
from ingot.compiler.targets.cpu.features import Level
from ingot.runtime.dtypes import DType

# Additions' worth of work in a body that runs four, two registers at a time. Longer ones fill the processor by
# themselves: iterations are independent.
CHEAP, MODERATE = 4, 20
COST = {
    **dict.fromkeys(("div", "sqrt", "reciprocal", "mod", "fmod"), 4),
    **dict.fromkeys(("exp", "expm1", "log", "log1p", "erf", "tanh", "sigmoid", "softplus", "gelu"), 12),
    **dict.fromkeys(("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"), 24),
    **dict.fromkeys(("pow", "atan2"), 40),
}
"""Scalar functions that take longer than an addition, in additions."""


@dataclass(frozen=True)
class Accumulator:
    """A local defined outside the loop that the loop accumulates into."""

    name: str
    fn: Reduction
    dtype: DType


@dataclass(frozen=True)
class Plan:
    """`lanes` iterations fill a vector register, `unroll` registers are handled at a time. `masked`: the last
    iterations may be done by a masked vector. The accumulators are kept per lane and folded after the loop."""

    lanes: int
    unroll: int
    masked: bool
    accumulators: tuple[Accumulator, ...]


@dataclass
class _Survey:
    """What one walk over a loop's body finds."""

    scope: Scope
    varying: set[str]
    defined: set[str] = field(default_factory=set[str])
    read: set[str] = field(default_factory=set[str])
    folds: dict[str, set[Reduction]] = field(default_factory=dict[str, set[Reduction]])
    fold_types: dict[str, DType] = field(default_factory=dict[str, DType])
    dtypes: dict[str, DType] = field(default_factory=dict[str, DType])
    narrowest: int = 8  # bytes of the narrowest element loaded or stored per lane
    cost: int = 0
    scattered: bool = False  # some lanes' elements are not neighbours
    possible: bool = True


def children(expr: Expr) -> Iterator[Expr]:
    """Every node of an expression once."""
    stack, seen = [expr], set[int]()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, Call):
            stack.extend(node.args)


def assigned(statements: Sequence[Stmt]) -> list[str]:
    """The names that `statements` accumulate into and do not define, in order of first use."""
    found: dict[str, None] = {}
    defined: set[str] = set()
    for statement in statements:
        match statement:
            case Let(name=name):
                defined.add(name)
            case Accumulate(name=name) if name not in defined:
                found[name] = None
            case For(body=body):
                found.update((name, None) for name in assigned(body) if name not in defined)
            case When(body=body, otherwise=otherwise):
                inside = (*assigned(body), *assigned(otherwise))
                found.update((name, None) for name in inside if name not in defined)
            case _:
                pass
    return list(found)


def accumulated(statements: Sequence[Stmt]) -> set[str]:
    """Every name that `statements` accumulate into."""
    found: set[str] = set()
    for statement in statements:
        match statement:
            case Accumulate(name=name):
                found.add(name)
            case For(body=body):
                found |= accumulated(body)
            case When(body=body, otherwise=otherwise):
                found |= accumulated(body) | accumulated(otherwise)
            case _:
                pass
    return found


def contains_vector_loop(statements: Sequence[Stmt]) -> bool:
    """Whether a loop marked "vector" occurs anywhere in `statements`."""
    for statement in statements:
        match statement:
            case For(body=body, mode=mode):
                if mode == "vector" or contains_vector_loop(body):
                    return True
            case When(body=body, otherwise=otherwise):
                if contains_vector_loop(body) or contains_vector_loop(otherwise):
                    return True
            case _:
                pass
    return False


def expansion(statements: Sequence[Stmt]) -> int | None:
    """Number of statements after all loops are written out; None when an extent is not constant."""
    total = 0
    for statement in statements:
        match statement:
            case For(extent=extent, body=body):
                inside = expansion(body)
                if inside is None or not isinstance(extent, int):
                    return None
                total += inside * extent
            case When(body=body, otherwise=otherwise):
                yes, no = expansion(body), expansion(otherwise)
                if yes is None or no is None:
                    return None
                total += yes + no
            case _:
                total += 1
    return total


def plan(loop: For, scope: Scope, level: Level) -> Plan | None:
    """How to run `loop` on vectors, None when it has to run one iteration at a time.

    That is so when an inner extent or a place stored to does not depend on the lane as needed, a scratch buffer is made
    inside, or an accumulator is read before the loop ends.
    """
    survey = _Survey(scope, {loop.var})
    for _ in range(2):  # the second round sees what accumulations made vary
        survey.cost = 0
        _survey(survey, loop.body)
    outer = {name: fns for name, fns in survey.folds.items() if name not in survey.defined}
    if not survey.possible or any(len(fns) > 1 for fns in outer.values()) or survey.read & outer.keys():
        return None
    lanes = level.lanes(_element_bytes(survey.dtypes.values()))
    unroll = 1 if survey.scattered else 4 if survey.cost <= CHEAP else 2 if survey.cost <= MODERATE else 1
    masked = bool(level.masked_bytes) and survey.narrowest >= level.masked_bytes and not survey.scattered
    accumulators = tuple(Accumulator(name, next(iter(fns)), survey.fold_types[name]) for name, fns in outer.items())
    return Plan(lanes, unroll, masked, accumulators) if lanes > 1 else None


def _element_bytes(dtypes: Iterable[DType]) -> int:
    """Bytes of the element that decides the number of lanes. 64-bit integers are mostly indices: they do not count
    beside 32-bit data; half precision is computed in f32."""
    sizes: set[int] = set()
    integers = False
    for dtype in dtypes:
        if dtype.is_integer and dtype.bits == 64:
            integers = True
        else:
            sizes.add(4 if dtype.is_float and dtype.bits == 16 else dtype.bytes)
    widest = max(sizes, default=1)
    return 8 if integers and widest < 4 else widest


def _survey(s: _Survey, statements: Sequence[Stmt]) -> None:
    for statement in statements:
        match statement:
            case Let(name=name, value=value):
                s.defined.add(name)
                if _expression(s, value):
                    s.varying.add(name)
                dtype = dtype_of(value, s.scope)
                s.dtypes[dtype.name] = dtype
            case Accumulate(name=name, fn=fn, value=value):
                s.folds.setdefault(name, set()).add(fn)
                s.fold_types[name] = dtype_of(value, s.scope)
                s.cost += 1
                if _expression(s, value) or name not in s.defined:
                    s.varying.add(name)
            case Store(buffer=buffer, offset=offset, value=value):
                _expression(s, value)
                if not _access(s, buffer, offset):
                    s.possible = False
            case For(var=var, extent=extent, body=body):
                if symbols(extent) & s.varying:
                    s.possible = False
                s.read |= symbols(extent)
                s.varying.discard(var)
                _survey(s, body)
            case When(condition=condition, body=body, otherwise=otherwise):
                if _expression(s, condition):
                    s.varying |= accumulated((*body, *otherwise))
                _survey(s, body)
                _survey(s, otherwise)
            case Scratch():
                s.possible = False
                return


def _expression(s: _Survey, expr: Expr) -> bool:
    """Note what `expr` uses; whether it varies from lane to lane."""
    varies = False
    for node in children(expr):
        match node:
            case Load(buffer=buffer, offset=offset):
                varies |= _access(s, buffer, offset)
            case Index(dim=dim):
                s.read |= symbols(dim)
                varies |= bool(symbols(dim) & s.varying)
            case Local(name=name, dtype=dtype):
                s.read.add(name)
                s.dtypes[dtype.name] = dtype
                varies |= name in s.varying
            case Call(fn=fn, dtype=dtype):
                s.dtypes[dtype.name] = dtype
                s.cost += COST.get(fn, 1)
            case Const():
                pass
    return varies


def _access(s: _Survey, buffer: str, offset: Dim) -> bool:
    used = symbols(offset)
    s.read |= used
    dtype = s.scope.buffer(buffer)[1]
    s.dtypes[dtype.name] = dtype
    if not used & s.varying:
        return False
    s.narrowest = min(s.narrowest, dtype.bytes)
    lane_names = used & s.varying
    affine = coefficient(offset, next(iter(lane_names))) if len(lane_names) == 1 else None
    if affine is None or affine[0] != 1 or lane_names & s.defined:
        s.scattered = True
    return True
