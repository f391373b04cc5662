"""Level 2, the loop nest: what happens inside one kernel.

    Kernel  ::= name, Buffer*, dim names, Axis* (the parallel grid), body: Stmt* | Template
    Stmt    ::= For(var, extent, Stmt*, mode) | Let(name, Expr) | Accumulate(name, fn, Expr)
              | Store(buffer, offset, Expr) | When(Expr, Stmt*, Stmt*) | Scratch(name, dtype, size)
    Expr    ::= Const(value, dtype) | Index(Dim) | Load(buffer, offset) | Local(name, dtype) | Call(fn, Expr*, dtype)

Offsets and extents are `Dim`s over loop variables, dim parameters and integer locals (a `Let` of an i64 value may be
used as a symbol). Offsets count elements. Every name is unique within its kernel. The grid's points may run in any
order and at the same time, so no point may write what another reads or writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, Protocol, TypeAlias

from ingot.compiler.ir.dims import Dim
from ingot.runtime.dtypes import DType


@dataclass(frozen=True, slots=True)
class Const:
    """A literal of the given type."""

    value: float | int | bool
    dtype: DType


@dataclass(frozen=True, slots=True)
class Index:
    """The i64 value of a dim expression over the variables in scope."""

    dim: Dim


@dataclass(frozen=True, slots=True)
class Load:
    """The element of `buffer` at `offset`."""

    buffer: str
    offset: Dim


@dataclass(frozen=True, slots=True)
class Local:
    """The current value of a `Let` name (an accumulator, an invariant, a template's "acc")."""

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Call:
    """A scalar function of `FUNCTIONS` applied to arguments; `dtype` is the result's type."""

    fn: str
    args: tuple[Expr, ...]
    dtype: DType


Expr: TypeAlias = Const | Index | Load | Local | Call

# Scalar functions: name -> number of arguments. Arguments share one dtype, the result has the Call's dtype, except:
# comparisons, isnan, isinf give bool; select is (bool, T, T) -> T; cast is (S) -> T with ONNX Cast semantics;
# bitcast is (S) -> T of the same size, bit for bit.
# Integer add/sub/mul wrap; div truncates (floats: IEEE) and mod/fmod follow ONNX; min/max propagate NaN.
FUNCTIONS: dict[str, int] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "pow", "min", "max", "mod", "fmod"), 2),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor"), 2),
    **dict.fromkeys(("bitand", "bitor", "bitxor", "shl", "shr", "copysign", "atan2"), 2),
    **dict.fromkeys(("neg", "abs", "sign", "not", "bitnot", "sqrt", "reciprocal"), 1),
    **dict.fromkeys(("cast", "bitcast", "isnan", "isinf"), 1),
    **dict.fromkeys(("exp", "expm1", "log", "log1p", "erf", "tanh", "sigmoid", "softplus", "gelu"), 1),
    **dict.fromkeys(("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"), 1),
    **dict.fromkeys(("floor", "ceil", "trunc", "round"), 1),  # round: half to even
    **dict.fromkeys(("relu",), 1),  # max(x, 0) that keeps NaN
    **dict.fromkeys(("select", "fma", "clip"), 3),  # fma(a, b, c) = a*b + c, may round once; clip(x, low, high)
}
COMPARISONS = frozenset(("eq", "ne", "lt", "le", "gt", "ge"))

Mode: TypeAlias = Literal["serial", "vector", "unroll"]
Reduction: TypeAlias = Literal["add", "mul", "max", "min", "and", "or"]


@dataclass(frozen=True, slots=True)
class For:
    """``for var in 0 .. extent``. "vector" asks the emitter for SIMD lanes along `var`: iterations are independent but
    for `Accumulate`, whose order is free. "unroll" needs a constant extent."""

    var: str
    extent: Dim
    body: tuple[Stmt, ...]
    mode: Mode = "serial"


@dataclass(frozen=True, slots=True)
class Let:
    """Define `name` for the rest of the enclosing body; the start value where an `Accumulate` follows."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Accumulate:
    """``name = fn(name, value)``"""

    name: str
    fn: Reduction
    value: Expr


@dataclass(frozen=True, slots=True)
class Store:
    """Write `value` to `buffer` at `offset`."""

    buffer: str
    offset: Dim
    value: Expr


@dataclass(frozen=True, slots=True)
class When:
    """Run `body` if `condition` (bool) holds, else `otherwise`."""

    condition: Expr
    body: tuple[Stmt, ...]
    otherwise: tuple[Stmt, ...] = ()


@dataclass(frozen=True, slots=True)
class Scratch:
    """A buffer of `size` elements private to the grid point, for the rest of the enclosing body. `size` must be an int
    (it lives on the stack; at most 64 KiB a kernel)."""

    name: str
    dtype: DType
    size: int


Stmt: TypeAlias = For | Let | Accumulate | Store | When | Scratch


@dataclass(frozen=True, slots=True)
class Buffer:
    """A buffer parameter. The launch binds it to a program buffer plus an element offset."""

    name: str
    dtype: DType
    access: Literal["read", "write", "readwrite"] = "read"


@dataclass(frozen=True, slots=True)
class Axis:
    """A named iteration axis ``0 .. extent``; on a grid, `grain` consecutive iterations make one chunk."""

    var: str
    extent: Dim
    grain: Dim = 1


class Template(Protocol):
    """A hand-scheduled kernel body (contraction, depthwise, attention). The target emits it from its own parameters."""

    def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """The equivalent plain loop nest at the same interface: its meaning, run by the interpreter as oracle."""
        ...

    @property
    def grid(self) -> tuple[Axis, ...]:
        """The parallel grid as launched (extents and grains in units the emitter understands)."""
        ...


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel. A chunk of a launch covers `grain` iterations per grid axis; the last axis varies fastest."""

    name: str
    buffers: tuple[Buffer, ...]
    dims: tuple[str, ...]  # run-time i64 parameters usable as symbols
    grid: tuple[Axis, ...]
    body: tuple[Stmt, ...] | Template
    flops: Dim = field(default=0, compare=False)  # useful work of one launch, for reports and costs


@cache
def field_names(cls: type) -> tuple[str, ...]:
    """The names of the fields of a class of level-2 IR, templates included; none for other classes, and for element
    types."""
    return tuple(f.name for f in fields(cls)) if is_dataclass(cls) and cls is not DType else ()


def parts_of(item: object) -> list[Any]:
    """The values of the fields of a piece of level-2 IR in order; none for anything else."""
    return [getattr(item, name) for name in field_names(type(item))]
