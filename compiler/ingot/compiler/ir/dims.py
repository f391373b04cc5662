"""Symbolic integer expressions: the one algebra for shapes, extents, offsets and buffer sizes.

A `Dim` is a Python int or an `Expr`: a polynomial with integer coefficients whose atoms are symbols (``batch``, a
loop variable) or the opaque operations floor division, floor modulo, maximum and minimum. Expressions are kept in
one normal form, so structural equality decides polynomial equality, and they are immutable and hashable.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd
from typing import Literal, TypeAlias, Union

from ingot.runtime.dims import UNBOUNDED as UNBOUNDED

Operation: TypeAlias = Literal["//", "%", "max", "min"]

_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named integer unknown."""

    name: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """An operation that the polynomial normal form does not look into: ``left op right``."""

    op: Operation
    left: Dim
    right: Dim


Atom: TypeAlias = Symbol | Opaque
Monomial: TypeAlias = tuple[Atom, ...]  # sorted by text; a repeated atom is a power


def _order(atom: Atom) -> str:
    return atom.name if isinstance(atom, Symbol) else "~" + _show_atom(atom)


@dataclass(frozen=True, slots=True)
class Expr:
    """A non-constant polynomial: (monomial, coefficient) pairs, sorted, no zero coefficients."""

    terms: tuple[tuple[Monomial, int], ...]
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Taken once: expressions are nested, and keys of many tables.
        object.__setattr__(self, "_hash", hash(self.terms))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[Expr], tuple[tuple[tuple[Monomial, int], ...]]]:
        return Expr, (self.terms,)  # another process hashes text otherwise

    def __add__(self, other: Dim) -> Dim:
        return add(self, other)

    def __radd__(self, other: int) -> Dim:
        return add(other, self)

    def __sub__(self, other: Dim) -> Dim:
        return add(self, multiply(other, -1))

    def __rsub__(self, other: int) -> Dim:
        return add(other, multiply(self, -1))

    def __mul__(self, other: Dim) -> Dim:
        return multiply(self, other)

    def __rmul__(self, other: int) -> Dim:
        return multiply(self, other)

    def __neg__(self) -> Dim:
        return multiply(self, -1)

    def __floordiv__(self, other: Dim) -> Dim:
        return floor_divide(self, other)

    def __rfloordiv__(self, other: int) -> Dim:
        return floor_divide(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return modulo(self, other)

    def __rmod__(self, other: int) -> Dim:
        return modulo(other, self)

    def __repr__(self) -> str:
        return show(self)


Dim: TypeAlias = Union[int, Expr]  # noqa: UP007 - evaluated before Expr exists in annotations of Opaque


def symbol(name: str) -> Expr:
    """The expression that is just the symbol `name`."""
    return Expr((((Symbol(name),), 1),))


def _terms(dim: Dim) -> dict[Monomial, int]:
    if isinstance(dim, Expr):
        return dict(dim.terms)
    return {(): int(dim)} if dim else {}


def _from_sorted(terms: Sequence[tuple[Monomial, int]]) -> Dim:
    """The dim of terms in their order, no coefficient zero; a constant is the last."""
    if not terms:
        return 0
    return Expr(tuple(terms)) if terms[0][0] else terms[0][1]


def _from_terms(terms: Mapping[Monomial, int]) -> Dim:
    kept = {monomial: c for monomial, c in terms.items() if c}
    if not kept:
        return 0
    if len(kept) == 1:
        return kept[()] if () in kept else Expr(tuple(kept.items()))
    return Expr(tuple(sorted(kept.items(), key=lambda item: (-len(item[0]), [_order(a) for a in item[0]]))))


def add(a: Dim, b: Dim) -> Dim:
    """a + b"""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if isinstance(a, Expr) and isinstance(b, int):
        return _add_constant(a, b)
    if isinstance(b, Expr) and isinstance(a, int):
        return _add_constant(b, a)
    terms = _terms(a)
    for monomial, c in _terms(b).items():
        terms[monomial] = terms.get(monomial, 0) + c
    return _from_terms(terms)


def _add_constant(a: Expr, b: int) -> Expr:
    if not b:
        return a
    moving, constant = (a.terms, 0) if a.terms[-1][0] else (a.terms[:-1], a.terms[-1][1])
    return Expr((*moving, ((), constant + b)) if constant + b else moving)


def multiply(a: Dim, b: Dim) -> Dim:
    """a * b"""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if isinstance(a, Expr) and isinstance(b, int):
        return _scale(a, b)
    if isinstance(b, Expr) and isinstance(a, int):
        return _scale(b, a)
    product: dict[Monomial, int] = {}
    right = _terms(b)
    for m1, c1 in _terms(a).items():
        for m2, c2 in right.items():
            monomial = tuple(sorted(m1 + m2, key=_order)) if m1 and m2 else m1 or m2
            product[monomial] = product.get(monomial, 0) + c1 * c2
    return _from_terms(product)


def _scale(a: Expr, b: int) -> Dim:
    if b == 1:
        return a
    return Expr(tuple([(monomial, c * b) for monomial, c in a.terms])) if b else 0


def divide_exact(a: Dim, b: Dim) -> Dim | None:
    """The polynomial q with a = q * b, None where there is none. b is not 0 wherever it is a divisor.

    Long division by the leading terms in graded lexicographic order.
    """
    if isinstance(b, int):
        if b == 0:
            return None
        terms = _terms(a)
        return None if any(c % b for c in terms.values()) else _from_terms({m: c // b for m, c in terms.items()})
    if a == b:
        return 1
    divisor, factor = _leading(b)
    quotient: dict[Monomial, int] = {}
    rest = a
    while rest != 0:
        monomial, c = _leading(rest)
        left = list(monomial)
        for atom in divisor:
            if atom not in left:
                return None
            left.remove(atom)
        if c % factor:
            return None
        term = _from_terms({tuple(left): c // factor})
        quotient[tuple(left)] = c // factor
        rest = add(rest, multiply(term, multiply(b, -1)))
    return _from_terms(quotient)


def _leading(dim: Dim) -> tuple[Monomial, int]:
    """The term of highest degree, of these the one with most of the first atoms."""
    return min(_terms(dim).items(), key=lambda term: (-len(term[0]), [_order(atom) for atom in term[0]]))


def floor_divide(a: Dim, b: Dim) -> Dim:
    """floor(a / b). Division by zero of constants raises ZeroDivisionError."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1:
        return a
    if a == 0:
        return 0
    exact = divide_exact(a, b)
    if exact is not None:
        return exact
    if isinstance(b, int) and b > 0:  # (q*b + r) // b -> q + r // b
        whole = _from_terms({m: c // b for m, c in _terms(a).items() if c % b == 0})
        rest = _from_terms({m: c for m, c in _terms(a).items() if c % b})
        if isinstance(rest, int):
            return add(whole, rest // b)
        constant = _terms(rest).get((), 0)
        if constant >= b or constant < 0:  # keep one normal form of the constant inside
            whole, rest = add(whole, constant // b), add(rest, -(constant // b) * b)
        return add(whole, _opaque("//", rest, b))
    return _opaque("//", a, b)


def modulo(a: Dim, b: Dim) -> Dim:
    """a - floor(a / b) * b"""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if divide_exact(a, b) is not None:
        return 0
    if isinstance(b, int) and b > 0:
        reduced = _from_terms({m: c % b for m, c in _terms(a).items()})
        return reduced % b if isinstance(reduced, int) else _opaque("%", reduced, b)
    return _opaque("%", a, b)


def maximum(*dims: Dim) -> Dim:
    """The largest of the arguments."""
    return _fold("max", dims)


def minimum(*dims: Dim) -> Dim:
    """The smallest of the arguments."""
    return _fold("min", dims)


def _fold(op: Literal["max", "min"], dims: Iterable[Dim]) -> Dim:
    choose = max if op == "max" else min
    constants = [d for d in dims if isinstance(d, int)]
    rest: list[Expr] = []
    for d in dims:
        if isinstance(d, Expr) and d not in rest:
            rest.append(d)
    if not rest:
        return choose(constants)
    rest.sort(key=show)
    result: Dim = rest[0]
    for d in rest[1:]:
        result = _opaque(op, result, d)
    return _opaque(op, result, choose(constants)) if constants else result


def ceil_divide(a: Dim, b: Dim) -> Dim:
    """ceil(a / b)"""
    return floor_divide(add(a, add(b, -1)), b)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all dims; 1 when there is none."""
    result: Dim = 1
    for d in dims:
        result = multiply(result, d)
    return result


def equal_products(left: Sequence[Dim], right: Sequence[Dim]) -> tuple[int, int] | None:
    """The smallest (a, b), both positive, with product(left[:a]) == product(right[:b]); None when there are none."""
    for length in range(2, len(left) + len(right) + 1):
        for a in range(max(1, length - len(right)), min(len(left), length - 1) + 1):
            if product(left[:a]) == product(right[: length - a]):
                return a, length - a
    return None


def total(dims: Iterable[Dim]) -> Dim:
    """The sum of all dims; 0 when there is none."""
    result: Dim = 0
    for d in dims:
        result = add(result, d)
    return result


def _opaque(op: Operation, left: Dim, right: Dim) -> Expr:
    return Expr((((Opaque(op, left, right),), 1),))


def symbols(dim: Dim) -> frozenset[str]:
    """The names of all symbols that occur in `dim`."""
    return _NONE if isinstance(dim, int) else _symbols(dim)


@lru_cache(maxsize=65536)
def _symbols(dim: Expr) -> frozenset[str]:
    found: set[str] = set()
    for monomial, _ in dim.terms:
        for atom in monomial:
            if isinstance(atom, Symbol):
                found.add(atom.name)
            else:
                found |= symbols(atom.left) | symbols(atom.right)
    return frozenset(found)


def largest_constant(dim: Dim) -> int:
    """The largest magnitude of a number that occurs in `dim`: of constants, coefficients, divisors."""
    if isinstance(dim, int):
        return abs(dim)
    inner = (side for monomial, _ in dim.terms for a in monomial if isinstance(a, Opaque) for side in (a.left, a.right))
    return max(*(abs(factor) for _, factor in dim.terms), 0, *map(largest_constant, inner))


def divisor(dim: Dim) -> int:
    """A number that divides `dim` whatever its symbols are: the greatest that divides all coefficients, 0 for 0."""
    return gcd(*_terms(dim).values())


def symbol_name(dim: Dim) -> str | None:
    """The name of the symbol that `dim` is; None when it is anything else."""
    match dim:
        case Expr(terms=(((Symbol(name=name),), 1),)):
            return name
        case _:
            return None


def apply(op: str, a: Dim, b: Dim) -> Dim:
    """The binary operation named `op` (one of + * // % max min)."""
    match op:
        case "+":
            return add(a, b)
        case "*":
            return multiply(a, b)
        case "//":
            return floor_divide(a, b)
        case "%":
            return modulo(a, b)
        case "max":
            return maximum(a, b)
        case "min":
            return minimum(a, b)
        case _:
            raise ValueError(f"unknown operation {op!r} on dims")


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """`dim` with each symbol named in `values` replaced."""
    if isinstance(dim, int) or values.keys().isdisjoint(symbols(dim)):
        return dim
    total: Dim = 0
    for monomial, c in dim.terms:
        term: Dim = c
        for atom in monomial:
            if isinstance(atom, Symbol):
                term = multiply(term, values.get(atom.name, Expr((((atom,), 1),))))
            else:
                left, right = substitute(atom.left, values), substitute(atom.right, values)
                term = multiply(term, apply(atom.op, left, right))
        total = add(total, term)
    return total


def evaluate(dim: Dim, values: Mapping[str, int]) -> int:
    """The value of `dim` where every symbol has the value given; KeyError names a symbol without one."""
    if isinstance(dim, int):
        return dim
    missing = symbols(dim) - values.keys()
    if missing:
        raise KeyError(f"no value for dim {', '.join(sorted(missing))}")
    result = substitute(dim, values)
    assert isinstance(result, int)
    return result


def coefficient(dim: Dim, name: str) -> tuple[Dim, Dim] | None:
    """(stride, rest) with dim = stride * name + rest, None where `name` is not linear or inside an opaque atom."""
    if name not in symbols(dim):
        return 0, dim
    assert isinstance(dim, Expr)
    stride: dict[Monomial, int] = {}
    rest: list[tuple[Monomial, int]] = []
    atom = Symbol(name)
    for monomial, c in dim.terms:
        if any(isinstance(a, Opaque) and (name in symbols(a.left) or name in symbols(a.right)) for a in monomial):
            return None
        count = monomial.count(atom)
        if count > 1:
            return None
        if count:
            left = list(monomial)
            left.remove(atom)
            stride[tuple(left)] = c
        else:
            rest.append((monomial, c))
    return _from_terms(stride), _from_sorted(rest)


def bounds(dim: Dim, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """An interval (both ends included) that contains `dim` for all symbols within `ranges`; default range 0..2**62."""
    if isinstance(dim, int):
        return dim, dim
    low = high = 0
    for monomial, c in dim.terms:
        a, b = c, c
        for atom in monomial:
            x, y = _atom_bounds(atom, ranges)
            corners = (a * x, a * y, b * x, b * y)
            a, b = min(corners), max(corners)
        low, high = low + a, high + b
    return max(low, -UNBOUNDED), min(high, UNBOUNDED)


def _atom_bounds(atom: Atom, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    if isinstance(atom, Symbol):
        return ranges.get(atom.name, (0, UNBOUNDED))
    (a, b), (c, d) = bounds(atom.left, ranges), bounds(atom.right, ranges)
    match atom.op:
        case "max":
            return max(a, c), max(b, d)
        case "min":
            return min(a, c), min(b, d)
        case "%":
            return (0, max(d - 1, 0)) if c > 0 else (-UNBOUNDED, UNBOUNDED)
        case "//":
            if c <= 0:
                return -UNBOUNDED, UNBOUNDED
            corners = (a // c, a // d, b // c, b // d)
            return min(corners), max(corners)


@lru_cache(maxsize=65536)
def show(dim: Dim) -> str:
    """Text that `parse` reads back: ``2*batch*seq + 3``."""
    if isinstance(dim, int):
        return str(dim)
    text = ""
    for monomial, c in dim.terms:
        sign, size = ("-" if c < 0 else "+"), abs(c)
        factors = ([str(size)] if size != 1 or not monomial else []) + [_show_atom(a) for a in monomial]
        body = "*".join(factors)
        if text:
            text += f" {sign} {body}"
        else:
            text = f"-{body}" if c < 0 else body
    return text


def _show_atom(atom: Atom) -> str:
    if isinstance(atom, Symbol):
        return atom.name
    if atom.op in ("max", "min"):
        return f"{atom.op}({show(atom.left)}, {show(atom.right)})"
    return f"({_parenthesise(atom.left)} {atom.op} {_parenthesise(atom.right)})"


def _parenthesise(dim: Dim) -> str:
    text = show(dim)
    return text if (isinstance(dim, int) and dim >= 0) or text.isidentifier() else f"({text})"


class DimSyntaxError(ValueError):
    """The text is not a dim expression."""


def parse(text: str) -> Dim:
    """The dim that `show` writes as `text`; raises DimSyntaxError."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DimSyntaxError(f"not a dim expression: {text!r}") from error
    return _from_tree(tree, text)


_BINARY: dict[type[ast.operator], str] = {ast.Add: "+", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%"}


def _from_tree(tree: ast.expr, text: str) -> Dim:
    match tree:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return multiply(_from_tree(operand, text), -1)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return add(_from_tree(left, text), multiply(_from_tree(right, text), -1))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return apply(_BINARY[type(op)], _from_tree(left, text), _from_tree(right, text))
        case ast.Call(func=ast.Name(id="max" | "min" as name), args=[left, right], keywords=[]):
            return apply(name, _from_tree(left, text), _from_tree(right, text))
        case _:
            raise DimSyntaxError(f"not a dim expression: {text!r}")


Serial: TypeAlias = "int | str | list[Serial]"


def serialise(dim: Dim) -> Serial:
    """JSON form, read by the runtime: an int, a symbol's name, or ``[op, left, right]`` with op + * // % max min."""
    if isinstance(dim, int):
        return dim
    total: Serial | None = None
    for monomial, c in dim.terms:
        term: Serial | None = c if c != 1 or not monomial else None
        for atom in monomial:
            factor: Serial = (
                atom.name if isinstance(atom, Symbol) else [atom.op, serialise(atom.left), serialise(atom.right)]
            )
            term = factor if term is None else ["*", term, factor]
        assert term is not None
        total = term if total is None else ["+", total, term]
    assert total is not None
    return total


def deserialise(serial: Serial | Sequence[Serial]) -> Dim:
    """The dim that `serialise` wrote. Raises DimSyntaxError for anything else."""
    match serial:
        case int():
            return serial
        case str():
            return symbol(serial)
        case [str() as op, left, right]:
            return apply(op, deserialise(left), deserialise(right))
        case _:
            raise DimSyntaxError(f"not a serialised dim: {serial!r}")
