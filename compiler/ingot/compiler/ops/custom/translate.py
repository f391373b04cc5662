"""A Python function of scalars as a graph of pointwise operators.

Numbers written in the function take the type of what they are combined with. Both sides of an `if` are computed and one
is chosen, element by element; loops over what is constant are written out; functions of the user's that are called are
put in place. What has no such form is refused with its line.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import operator
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, NoReturn, cast

import numpy as np

from ingot.compiler.ir.graph import Value, constant
from ingot.compiler.ops import bitwise
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.custom.errors import CustomOpError
from ingot.compiler.ops.custom.functions import find_function
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType, boolean

DEEPEST = 32  # functions that call functions
LARGEST = 20_000  # expressions, loops written out

Environment = dict[str, Any]
"""Names of one function: a Value, or anything of Python's that is known now."""

_ARITHMETIC: Mapping[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: ops.Add,
    ast.Sub: ops.Sub,
    ast.Mult: ops.Mul,
    ast.Div: ops.Div,
    ast.FloorDiv: lambda a, b: ops.Div(ops.Sub(a, ops.Mod(a, b)), b),
    ast.Mod: ops.Mod,
    ast.Pow: ops.Pow,
    ast.BitAnd: bitwise.BitAnd,
    ast.BitOr: bitwise.BitOr,
    ast.BitXor: bitwise.BitXor,
    ast.LShift: bitwise.ShiftLeft,
    ast.RShift: bitwise.ShiftRight,
}
_KNOWN: Mapping[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_LOGICAL: Mapping[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.BitAnd: ops.And,
    ast.BitOr: ops.Or,
    ast.BitXor: ops.Xor,
}
_COMPARISONS: Mapping[type[ast.cmpop], tuple[Callable[[Value, Value], Value], Callable[[Any, Any], Any]]] = {
    ast.Eq: (ops.Equal, operator.eq),
    ast.NotEq: (lambda a, b: ops.Not(ops.Equal(a, b)), operator.ne),
    ast.Lt: (ops.Less, operator.lt),
    ast.LtE: (ops.LessOrEqual, operator.le),
    ast.Gt: (ops.Greater, operator.gt),
    ast.GtE: (ops.GreaterOrEqual, operator.ge),
}


@dataclass(frozen=True)
class _Undefined:
    """A name that only one side of an `if` defines."""


_MISSING = _Undefined()


def translate(
    name: str, function: Callable[..., Any], operands: Sequence[Value | None], attributes: Mapping[str, Any]
) -> tuple[Value, ...]:
    """The results of `function` for one element of each operand (None: left out), as pointwise operators on them.

    Raises CustomOpError, which names the operator and the line, for what cannot be said with them.
    """
    first = next((v.dtype for v in operands if v is not None), None)
    if first is None:
        raise CustomOpError(f"{name}: a scalar operator needs an operand")
    translation = _Translation(name, first)
    result = translation.call(function, [*operands], dict(attributes), 0)
    items = cast("tuple[Any, ...]", result) if isinstance(result, tuple) else (result,)
    if not items:
        raise CustomOpError(f"{name}: it returns nothing")
    return tuple(translation.value(item) for item in items)


class _Translation:
    """What all functions of one translation share. `dtype` is the type of numbers that meet nothing else."""

    def __init__(self, name: str, dtype: DType) -> None:
        self.name = name
        self.dtype = dtype
        self.count = 0

    def call(self, function: object, arguments: Sequence[Any], keywords: Mapping[str, Any], depth: int) -> Any:
        """The value of a call of a function of the user's."""
        if not isinstance(function, FunctionType):
            raise CustomOpError(f"{self.name}: {function!r} is no Python function")
        if depth > DEEPEST:
            raise CustomOpError(f"{self.name}: functions call each other more than {DEEPEST} deep, or without end")
        try:
            bound = inspect.signature(function).bind(*arguments, **keywords)
        except TypeError as error:
            raise CustomOpError(f"{self.name}: {function.__name__}: {error}") from error
        bound.apply_defaults()
        return _Body(self, function, depth).run(dict(bound.arguments))

    def value(self, item: Any, like: DType | None = None) -> Value:
        """`item` as a Value; a number gets the type `like`."""
        if isinstance(item, Value):
            return item
        dtype = like or self.dtype
        if isinstance(item, bool):
            return constant(item, boolean)
        if isinstance(item, np.generic):
            return constant(cast("Any", item))
        if isinstance(item, int) and dtype.kind != "bool":
            return constant(item, dtype)
        if isinstance(item, float) and dtype.is_float:
            return constant(item, dtype)
        if isinstance(item, (int, float)):
            raise TypeError(f"the number {item} meets {dtype.name} data: convert one of them, as in numpy.float32(x)")
        raise TypeError(f"{item!r} is no number")

    def pair(self, a: Any, b: Any) -> tuple[Value, Value]:
        """Both as Values of one type."""
        like = a.dtype if isinstance(a, Value) else b.dtype if isinstance(b, Value) else None
        left, right = self.value(a, like), self.value(b, like)
        if left.dtype != right.dtype:
            as_in = f"numpy.{left.dtype.to_numpy()}(x)"
            raise TypeError(f"{left.dtype.name} meets {right.dtype.name}: convert one of them, as in {as_in}")
        return left, right

    def choose(self, condition: Value, a: Any, b: Any) -> Any:
        """``a if condition else b``"""
        if a is b or (type(a) is type(b) and isinstance(a, (int, float, bool)) and a == b and repr(a) == repr(b)):
            return a
        if isinstance(a, tuple) and isinstance(b, tuple):
            left, right = cast("tuple[Any, ...]", a), cast("tuple[Any, ...]", b)
            if len(left) == len(right):
                return tuple(self.choose(condition, x, y) for x, y in zip(left, right, strict=True))
        return ops.Where(condition, *self.pair(a, b))


class _Body:
    """The translation of one function's body."""

    def __init__(self, translation: _Translation, function: FunctionType, depth: int) -> None:
        self.all, self.function, self.depth = translation, function, depth
        self.file = function.__code__.co_filename.rpartition("/")[2]
        self.tree, self.first = _source(translation.name, function)
        nonlocals = inspect.getclosurevars(function)
        self.outer: Mapping[str, Any] = {**nonlocals.builtins, **nonlocals.globals, **nonlocals.nonlocals}
        self.line: ast.AST = self.tree

    def run(self, arguments: Environment) -> Any:
        try:
            result = self.block(self.tree.body, arguments)
        except CustomOpError:
            raise
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            self.fail(str(error) or type(error).__name__)
        if result is _MISSING:
            self.fail("a path through the function returns nothing")
        return result

    def fail(self, problem: str) -> NoReturn:
        line = self.first + getattr(self.line, "lineno", 1) - 1
        raise CustomOpError(f"{self.all.name} ({self.file}:{line}): {problem}")

    def refuse(self, what: str) -> NoReturn:
        self.fail(f"{what} cannot be part of a scalar operator: write it over arrays with form='loops'")

    # -- statements ---------------------------------------------------------------------------------------------------

    def block(self, statements: Sequence[ast.stmt], names: Environment) -> Any:
        """What the statements return, `_MISSING` where they run to the end; `names` changes."""
        for position, statement in enumerate(statements):
            self.line = statement
            match statement:
                case ast.Return(value=value):
                    if value is None:
                        self.fail("it must return a value")
                    return self.expression(value, names)
                case ast.Assign(targets=targets, value=value):
                    item = self.expression(value, names)
                    for target in targets:
                        self.assign(target, item, names)
                case ast.AnnAssign(target=target, value=value):
                    if value is not None:
                        self.assign(target, self.expression(value, names), names)
                case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                    names[name] = self.binary(op, self.look_up(name, names), self.expression(value, names))
                case ast.If():
                    done, result = self.branch(statement, statements[position + 1 :], names)
                    if done:
                        return result
                case ast.For():
                    result = self.loop(statement, names)
                    if result is not _MISSING:
                        return result
                case ast.Expr(value=ast.Constant()) | ast.Pass():
                    pass
                case _:
                    self.refuse(f"a '{type(statement).__name__.lower()}' statement")
        return _MISSING

    def assign(self, target: ast.expr, item: Any, names: Environment) -> None:
        match target:
            case ast.Name(id=name):
                names[name] = item
            case ast.Tuple(elts=targets) if isinstance(item, tuple):
                items = cast("tuple[Any, ...]", item)
                if len(items) != len(targets):
                    self.fail(f"{len(items)} values are assigned to {len(targets)} names")
                for each, part in zip(targets, items, strict=True):
                    self.assign(each, part, names)
            case _:
                self.refuse(f"an assignment to '{ast.unparse(target)}'")

    def branch(self, statement: ast.If, rest: Sequence[ast.stmt], names: Environment) -> tuple[bool, Any]:
        """An `if`: whether the function is done, and with what. Where a side returns, the rest belongs to the other."""
        condition = self.condition(self.expression(statement.test, names))
        if not isinstance(condition, Value):
            result = self.block(statement.body if condition else statement.orelse, names)
            return result is not _MISSING, result
        sides = (dict(names), dict(names))
        results = [self.block(b, n) for b, n in zip((statement.body, statement.orelse), sides, strict=True)]
        if results[0] is _MISSING and results[1] is _MISSING:
            self.line = statement
            for name in sides[0].keys() | sides[1].keys():
                a, b = (side.get(name, _MISSING) for side in sides)
                names[name] = _MISSING if _MISSING in (a, b) else self.merge(condition, a, b)
            return False, _MISSING
        for i, side in enumerate(sides):
            if results[i] is _MISSING:
                results[i] = self.block(rest, side)
        self.line = statement
        if _MISSING in results:
            self.fail("one side of the 'if' returns a value and the other nothing")
        return True, self.all.choose(condition, *results)

    def merge(self, condition: Value, a: Any, b: Any) -> Any:
        return a if a is b else self.all.choose(condition, a, b)

    def loop(self, statement: ast.For, names: Environment) -> Any:
        """A loop over what is known now, written out."""
        items = self.expression(statement.iter, names)
        if isinstance(items, Value) or not isinstance(items, (tuple, list, range)):
            self.refuse("a loop over anything but a constant range or tuple")
        if statement.orelse:
            self.refuse("the 'else' of a loop")
        for item in cast("Sequence[Any]", items):
            self.assign(statement.target, item, names)
            result = self.block(statement.body, names)
            if result is not _MISSING:
                return result
        return _MISSING

    # -- expressions --------------------------------------------------------------------------------------------------

    def expression(self, node: ast.expr, names: Environment) -> Any:
        self.all.count += 1
        if self.all.count > LARGEST:
            self.fail(f"written out it has more than {LARGEST} operations: use form='loops'")
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self.look_up(name, names)
            case ast.BinOp(left=left, op=op, right=right):
                return self.binary(op, self.expression(left, names), self.expression(right, names))
            case ast.UnaryOp(op=op, operand=operand):
                return self.unary(op, self.expression(operand, names))
            case ast.Compare(left=left, ops=comparisons, comparators=others):
                return self.compare(left, comparisons, others, names)
            case ast.BoolOp(op=op, values=values):
                return self.connect(isinstance(op, ast.And), values, names)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition = self.condition(self.expression(test, names))
                if not isinstance(condition, Value):
                    return self.expression(body if condition else orelse, names)
                return self.all.choose(condition, self.expression(body, names), self.expression(orelse, names))
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return tuple(self.expression(item, names) for item in items)
            case ast.Subscript(value=value, slice=index):
                items, at = self.expression(value, names), self.expression(index, names)
                if isinstance(items, Value) or isinstance(at, Value):
                    self.refuse("an index")
                return items[at]
            case ast.Attribute(value=value, attr=name):
                item = self.expression(value, names)
                if not isinstance(item, ModuleType):
                    self.refuse(f"'.{name}' of anything but a module")
                return getattr(item, name)
            case ast.Call():
                return self.called(node, names)
            case _:
                self.refuse(f"'{ast.unparse(node)}'")

    def look_up(self, name: str, names: Environment) -> Any:
        if name not in names:
            if name not in self.outer and not hasattr(builtins, name):
                self.fail(f"the name {name!r} is not defined")
            return self.outer[name] if name in self.outer else getattr(builtins, name)
        item = names[name]
        if item is _MISSING:
            self.fail(f"{name!r} is defined on one side of an 'if' only")
        return item

    def condition(self, item: Any) -> Any:
        """A condition: a bool Value, or what Python knows now."""
        if not isinstance(item, Value):
            return bool(item)
        if item.dtype != boolean:
            self.fail(f"a condition of type {item.dtype.name}: compare it with a number")
        return item

    def binary(self, op: ast.operator, a: Any, b: Any) -> Any:
        if type(op) not in _ARITHMETIC:
            self.refuse("this operator")
        if not isinstance(a, Value) and not isinstance(b, Value):
            return _KNOWN[type(op)](a, b)
        left, right = self.all.pair(a, b)
        if left.dtype == boolean:
            if type(op) not in _LOGICAL:
                self.fail("arithmetic on bools: convert them, as in numpy.float32(x)")
            return _LOGICAL[type(op)](left, right)
        if isinstance(op, ast.Div) and not left.dtype.is_float:
            self.fail("'/' on integers: use '//', or convert them, as in numpy.float32(x)")
        if isinstance(op, ast.FloorDiv) and left.dtype.is_float:
            self.fail("'//' on floats: use math.floor(a / b)")
        return _ARITHMETIC[type(op)](left, right)

    def unary(self, op: ast.unaryop, item: Any) -> Any:
        if not isinstance(item, Value):
            table: dict[type[ast.unaryop], Callable[[Any], Any]] = {
                ast.USub: operator.neg,
                ast.UAdd: operator.pos,
                ast.Not: operator.not_,
                ast.Invert: operator.invert,
            }
            return table[type(op)](item)
        match op:
            case ast.USub():
                return ops.Neg(item)
            case ast.UAdd():
                return item
            case ast.Not():
                return ops.Not(self.condition(item))
            case _:
                return ops.Not(item) if item.dtype == boolean else bitwise.BitNot(item)

    def compare(
        self, left: ast.expr, comparisons: Sequence[ast.cmpop], others: Sequence[ast.expr], names: Environment
    ) -> Any:
        result: Any = True
        a = self.expression(left, names)
        for op, other in zip(comparisons, others, strict=True):
            b = self.expression(other, names)
            if isinstance(op, (ast.Is, ast.IsNot)):
                holds: Any = (a is b) == isinstance(op, ast.Is)
            elif type(op) not in _COMPARISONS:
                self.refuse("this comparison")
            elif isinstance(a, Value) or isinstance(b, Value):
                holds = _COMPARISONS[type(op)][0](*self.all.pair(a, b))
            else:
                holds = _COMPARISONS[type(op)][1](a, b)
            result = self.both(True, result, holds)
            a = b
        return result

    def connect(self, conjunction: bool, values: Sequence[ast.expr], names: Environment) -> Any:
        result: Any = conjunction
        for value in values:
            if not isinstance(result, Value) and bool(result) != conjunction:
                return result
            result = self.both(conjunction, result, self.condition(self.expression(value, names)))
        return result

    def both(self, conjunction: bool, a: Any, b: Any) -> Any:
        """``a and b``, or ``a or b``."""
        if isinstance(a, Value) and isinstance(b, Value):
            return ops.And(a, b) if conjunction else ops.Or(a, b)
        value, known = (a, b) if isinstance(a, Value) else (b, a)
        return value if bool(known) == conjunction else known

    def called(self, node: ast.Call, names: Environment) -> Any:
        function = self.expression(node.func, names)
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            self.refuse("a call with '*'")
        arguments = [self.expression(a, names) for a in node.args]
        keywords = {k.arg: self.expression(k.value, names) for k in node.keywords if k.arg is not None}
        if not any(isinstance(x, Value) for x in (*arguments, *keywords.values())) and callable(function):
            if isinstance(function, FunctionType):
                return self.all.call(function, arguments, keywords, self.depth + 1)
            return function(*arguments, **keywords)
        if function is np.where and len(arguments) == 3 and not keywords:
            condition = self.condition(arguments[0])
            if not isinstance(condition, Value):
                return arguments[1 if condition else 2]
            return self.all.choose(condition, *arguments[1:])
        to = _conversion(function)
        if to is not None and len(arguments) == 1 and not keywords:
            return ops.Cast(arguments[0], to)
        known = find_function(function)
        if known is not None and not keywords:
            return self.known(function, known.arity, known.build, arguments)
        if isinstance(function, FunctionType):
            return self.all.call(function, arguments, keywords, self.depth + 1)
        if function in (float, int, bool):
            self.fail(f"'{ast.unparse(node)}': say which type, as in numpy.float32(x)")
        self.refuse(f"a call of '{ast.unparse(node.func)}'")

    def known(self, function: Any, arity: int, build: Callable[..., Value], arguments: Sequence[Any]) -> Value:
        """A call of a function of the table; min and max take any number of arguments."""
        if function in (max, min) and len(arguments) > arity:
            result = arguments[0]
            for each in arguments[1:]:
                result = build(*self.all.pair(result, each))
            return result
        if len(arguments) != arity:
            self.fail(f"{function.__name__} takes {arity} arguments here, not {len(arguments)}")
        values = self.all.pair(*arguments) if arity == 2 else (self.all.value(arguments[0]),)
        return build(*values)


def _conversion(function: Any) -> DType | None:
    """The type that a scalar type of numpy's converts to, None for anything else."""
    scalar = isinstance(function, type) and issubclass(function, np.generic)
    return dtypes.from_numpy(np.dtype(cast("Any", function))) if scalar else None


def _source(name: str, function: FunctionType) -> tuple[ast.FunctionDef, int]:
    """The definition of a function and the number of its first line."""
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError) as error:
        raise CustomOpError(f"{name}: the source of {function.__name__!r} is not there: define it in a file") from error
    try:
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except SyntaxError as error:
        raise CustomOpError(f"{name}: the source of {function.__name__!r} cannot be read: use a plain def") from error
    found = tree.body[0] if tree.body else None
    if not isinstance(found, ast.FunctionDef):
        raise CustomOpError(f"{name}: {function.__name__!r} must be a plain function, written with def")
    return found, first
