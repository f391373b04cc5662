"""Types and scopes of loop-level expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.loops import COMPARISONS, FUNCTIONS, Buffer, Call, Const, Expr, Index, Load, Local
from ingot.compiler.ir.types import IrError
from ingot.runtime.dtypes import DType, boolean, i64

_LOGIC = frozenset(("and", "or", "xor", "not"))
_BITS = frozenset(("bitand", "bitor", "bitxor", "bitnot", "shl", "shr"))
_FLOAT_ONLY = frozenset(
    (
        *("copysign", "atan2", "sqrt", "reciprocal", "exp", "expm1", "log", "log1p", "erf", "tanh", "sigmoid"),
        *("softplus", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"),
        *("floor", "ceil", "trunc", "round", "isnan", "isinf"),
    )
)


@dataclass(eq=False)
class Scope:
    """What is visible at one place of a kernel: integer symbols, typed locals, buffers."""

    kernel: str
    symbols: set[str] = field(default_factory=set[str])
    locals: dict[str, DType] = field(default_factory=dict[str, DType])
    buffers: dict[str, Buffer] = field(default_factory=dict[str, Buffer])

    def inner(self) -> Scope:
        """A copy that a nested body may add to."""
        return Scope(self.kernel, set(self.symbols), dict(self.locals), dict(self.buffers))

    def fail(self, message: str) -> NoReturn:
        """Raise IrError naming the kernel."""
        raise IrError(f"kernel {self.kernel}: {message}")

    def check_dim(self, dim: Dim, what: str) -> None:
        """All symbols of `dim` are visible."""
        unknown = sorted(dims.symbols(dim) - self.symbols)
        if unknown:
            self.fail(f"{what} {dims.show(dim)} uses {', '.join(unknown)}, not in scope here")

    def dtype(self, expression: Expr) -> DType:
        """The type of an expression, checked all the way down."""
        match expression:
            case Const(value=value, dtype=dtype):
                if (dtype.kind == "bool") != isinstance(value, bool):
                    self.fail(f"literal {value!r} is not a {dtype.name}")
                if dtype.is_integer and not isinstance(value, int):
                    self.fail(f"literal {value!r} is not a {dtype.name}")
                return dtype
            case Index(dim=dim):
                self.check_dim(dim, "index")
                return i64
            case Load(buffer=name, offset=offset):
                if name not in self.buffers:
                    self.fail(f"load from unknown buffer {name!r}")
                if self.buffers[name].access == "write":
                    self.fail(f"load from {name!r}, which may only be written")
                self.check_dim(offset, f"the offset into {name}")
                return self.buffers[name].dtype
            case Local(name=name, dtype=dtype):
                if name not in self.locals:
                    self.fail(f"local {name!r} is not defined here")
                if self.locals[name] != dtype:
                    self.fail(f"local {name!r} is {self.locals[name].name}, not {dtype.name}")
                return dtype
            case Call():
                return self._call(expression)

    def _call(self, call: Call) -> DType:
        fn, result = call.fn, call.dtype
        if fn not in FUNCTIONS:
            self.fail(f"unknown function {fn!r}")
        if len(call.args) != FUNCTIONS[fn]:
            self.fail(f"{fn} takes {FUNCTIONS[fn]} arguments, not {len(call.args)}")
        types = [self.dtype(argument) for argument in call.args]
        shown = f"{fn}({', '.join(t.name for t in types)}) -> {result.name}"
        if fn == "cast":
            return result
        if fn == "bitcast":
            if types[0].bits != result.bits:
                self.fail(f"{shown}: both types must have one size")
            return result
        if fn == "select":
            if types[0] != boolean or types[1] != result or types[2] != result:
                self.fail(f"{shown}: select is (bool, T, T) -> T")
            return result
        if len(set(types)) != 1:
            self.fail(f"{shown}: the arguments must share one type")
        argument = types[0]
        if fn in _LOGIC and argument != boolean:
            self.fail(f"{shown}: {fn} works on bool")
        if fn in _BITS and not argument.is_integer:
            self.fail(f"{shown}: {fn} works on integers")
        if fn in _FLOAT_ONLY and not argument.is_float:
            self.fail(f"{shown}: {fn} works on floats")
        if fn in COMPARISONS or fn in ("isnan", "isinf"):
            if result != boolean:
                self.fail(f"{shown}: the result is bool")
        elif argument != result and not (argument.kind == result.kind and argument.bits < result.bits):
            self.fail(f"{shown}: the result has the arguments' type or a wider one of its kind")
        return result


def walk(expression: Expr, visit: Callable[[Expr], None]) -> None:
    """Call `visit` for `expression` and everything in it."""
    stack = [expression]
    while stack:
        item = stack.pop()
        visit(item)
        if isinstance(item, Call):
            stack.extend(item.args)


def stride_of(dim: Dim, var: str) -> Dim | None:
    """The factor of `var` in `dim`; 0 where it does not occur, None where it occurs but not linearly."""
    parts = dims.coefficient(dim, var)
    return None if parts is None else parts[0]


def interval(dim: Dim, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int] | None:
    """The least and largest value of `dim`, None where nothing useful is known."""
    if dims.symbols(dim) - ranges.keys():
        return None
    low, high = dims.bounds(dim, ranges)
    return None if low <= -dims.UNBOUNDED or high >= dims.UNBOUNDED else (low, high)
