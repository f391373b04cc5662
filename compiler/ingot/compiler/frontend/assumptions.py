"""What is known about symbolic dims while a model is imported, and how more is learnt.

A model may only make sense when dims are related: two unnamed dims that are concatenated must be equal, a sequence that
indexes a table of 512 positions is at most 512 long, an image that is halved and doubled again before it is joined with
itself has an even height. Nodes are typed when they are built, so such a relation cannot be put in afterwards: it is
raised as a `Refinement`, and the import starts again with the assumptions it carries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Atom, Dim, Expr, Opaque, Symbol, show, substitute, symbols

Ranges = Mapping[str, tuple[int, int]]

LARGEST_FACTOR = 1024  # of which a dim may be found to be a multiple
MOST_FACTORS = 16  # that are tried, the smallest first


@dataclass(frozen=True)
class Assumptions:
    """Bounds of symbols (both ends included), symbols that stand for other dims, and the symbols that the model left
    unnamed (they may be identified with others freely). `taken` are names that a new symbol must not have."""

    ranges: Ranges = field(default_factory=dict[str, tuple[int, int]])
    aliases: Mapping[str, Dim] = field(default_factory=dict[str, Dim])
    unnamed: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()

    def resolve(self, dim: Dim) -> Dim:
        """`dim` with all aliases replaced."""
        for _ in range(len(self.aliases) + 1):
            if not symbols(dim) & self.aliases.keys():
                break
            dim = substitute(dim, self.aliases)
        return dim

    def simplified(self, dim: Dim) -> Dim:
        """`dim` with each min and max in it replaced by the operand that it is, where that is certain."""
        if isinstance(dim, int):
            return dim
        total: Dim = 0
        for monomial, factor in dim.terms:
            term: Dim = factor
            for atom in monomial:
                term = term * self._simplified_atom(atom)
            total = total + term
        return total

    def _simplified_atom(self, atom: Atom) -> Dim:
        if isinstance(atom, Symbol):
            return dims.symbol(atom.name)
        left, right = self.simplified(atom.left), self.simplified(atom.right)
        match atom.op:
            case "min":
                return self.smallest(left, right)
            case "max":
                return self.largest(left, right)
            case _:
                return dims.apply(atom.op, left, right)

    def at_least(self, a: Dim, b: Dim) -> bool:
        """True when a >= b is certain. a >= min(b, c) also follows from a >= b, and max(a, c) >= b from a >= b."""
        if a == b or dims.bounds(a - b, self.ranges)[0] >= 0:
            return True
        match single_atom(b):
            case Opaque("min", left, right) if self.at_least(a, left) or self.at_least(a, right):
                return True
            case Opaque("max", left, right) if self.at_least(a, left) and self.at_least(a, right):
                return True
            case _:
                pass
        match single_atom(a):
            case Opaque("max", left, right):
                return self.at_least(left, b) or self.at_least(right, b)
            case Opaque("min", left, right):
                return self.at_least(left, b) and self.at_least(right, b)
            case _:
                return False

    def differ(self, a: Dim, b: Dim) -> bool:
        """True when a != b is certain."""
        low, high = dims.bounds(a - b, self.ranges)
        return low > 0 or high < 0

    def largest(self, a: Dim, b: Dim) -> Dim:
        """max(a, b), as one of the two where that is certain."""
        if self.at_least(a, b):
            return a
        return b if self.at_least(b, a) else dims.maximum(a, b)

    def smallest(self, a: Dim, b: Dim) -> Dim:
        """min(a, b), as one of the two where that is certain."""
        if self.at_least(b, a):
            return a
        return b if self.at_least(a, b) else dims.minimum(a, b)

    def demand_equal(self, a: Dim, b: Dim, among: Sequence[str] | None = None) -> None:
        """Raise the Refinement that makes two dims equal, if there is one: the model is only valid when they are.

        `among` are the symbols that may be replaced, the last rather than the others; all by default.

        ModelError where that would force a symbol to 0: then the model does not mean what it says.
        """
        if among is not None:
            self._refine(a, b, reversed(among))
            return
        names = symbols(a) | symbols(b)
        self._refine(a, b, self._by_preference(names))
        self._divide(a, b, names)

    def suggest_equal(self, a: Dim, b: Dim) -> None:
        """As `demand_equal` where one of them could also be 1 (broadcasting): only unnamed symbols are identified.

        The compiled model checks at run time that dims of one name are equal, so nothing is computed wrongly.
        """
        names = symbols(a) | symbols(b)
        self._refine(a, b, self._by_preference(names & self.unnamed))
        if len(names) == 1:  # one dim and what it is rounded to
            self._divide(a, b, names)

    def _by_preference(self, names: Iterable[str]) -> list[str]:
        """Unnamed symbols, then those named last: messages keep the model's own and first names."""
        return sorted(names, key=lambda s: (s in self.unnamed, s), reverse=True)

    def _refine(self, a: Dim, b: Dim, candidates: Iterable[str]) -> None:
        if a == b or self.differ(a, b):
            return
        self._bound(a - b)
        self._cap(a, b)
        for name in candidates:
            parts = dims.coefficient(a - b, name)
            if parts is None or not isinstance(parts[0], int) or parts[0] == 0:
                continue
            solution = dims.divide_exact(-parts[1], parts[0])
            if solution is None:
                continue
            low, high = self.ranges.get(name, (0, dims.UNBOUNDED))
            least, most = dims.bounds(solution, self.ranges)
            if low <= most <= 0 and 0 not in (a, b):  # a literal 0 says what the model means
                raise ModelError(
                    f"dims {show(a)} and {show(b)} must be equal here, which leaves {name} nothing but 0",
                    remedy="a shape must not grow where it is fed back; if 0 is meant, pin the dim to 0 with shapes",
                )
            if least <= high and low <= most:
                aliases = {**self.aliases, name: solution}
                raise Refinement(replace(self, aliases=aliases, ranges=self._within(solution, low, high)))

    def _divide(self, a: Dim, b: Dim, candidates: Iterable[str]) -> None:
        """h = 2 * (h // 2) needs an even h: raise the Refinement that puts 2 * h_over_2 in place of h.

        The smallest factor is taken of which every remainder says whether the dims are the same, and of its remainders
        the smallest with which they are: others with which they are too are given up.
        """
        if self.simplified(a) == self.simplified(b) or self.differ(a, b):
            return
        for name in sorted(candidates, key=lambda s: (s in self.unnamed, s), reverse=True):
            for factor in _factors({*_divisors(a, name), *_divisors(b, name)}):
                part = self._free(f"{name}_over_{factor}")
                low, high = self.ranges.get(name, (0, dims.UNBOUNDED))
                same: list[Assumptions] = []
                for rest in range(factor):
                    within = max(-((rest - low) // factor), 0), (high - rest) // factor
                    if within[0] > within[1]:
                        continue
                    multiple = dims.symbol(part) * factor + rest
                    difference = self._difference(a, b, name, multiple)
                    if difference == 0:
                        same.append(self._divided(name, part, multiple, within))
                    elif not self.differ(difference, 0):
                        break
                else:
                    if same:
                        raise Refinement(same[0])

    def _difference(self, a: Dim, b: Dim, name: str, value: Dim) -> Dim:
        """a - b when the symbol `name` is `value`."""
        left, right = (self.simplified(substitute(d, {name: value})) for d in (a, b))
        return left - right

    def _divided(self, name: str, part: str, multiple: Dim, within: tuple[int, int]) -> Assumptions:
        ranges = {symbol: bounds for symbol, bounds in self.ranges.items() if symbol != name}
        if name in self.ranges:
            ranges[part] = within
        unnamed = (self.unnamed | {part}) if name in self.unnamed else self.unnamed
        aliases = {**self.aliases, name: multiple}
        return replace(self, ranges=ranges, aliases=aliases, unnamed=unnamed, taken=self.taken | {part})

    def _free(self, wish: str) -> str:
        name, number = wish, 2
        while name in self.taken:
            name, number = f"{wish}_{number}", number + 1
        return name

    def demand_at_least(self, dim: Dim, low: int) -> Ranges:
        """The ranges under which dim >= low, as far as `dim` grows with a single symbol: linearly, or through floor
        divisions by constants. The ranges as they are where it does not."""
        match self._quotient(dim):
            case (int(factor), Opaque("//", left, int(divisor)), int(rest)) if factor > 0 and divisor > 0:
                # factor * (left // divisor) + rest >= low
                return self.demand_at_least(left, -((rest - low) // factor) * divisor)
            case _:
                return self._within(dim, low, dims.UNBOUNDED**2)  # beyond what any dim can be

    def _quotient(self, dim: Dim) -> tuple[int, object, Dim] | None:
        """`dim` as factor * atom + rest with a constant rest, where it has that form."""
        if not isinstance(dim, Expr):
            return None
        constant = sum(c for monomial, c in dim.terms if not monomial)
        rest = [(monomial, c) for monomial, c in dim.terms if monomial]
        if len(rest) != 1 or len(rest[0][0]) != 1:
            return None
        return rest[0][1], rest[0][0][0], constant

    def _bound(self, difference: Dim) -> None:
        """max(x, c) = x needs x >= c; min(x, c) = x needs x <= c: raise the Refinement that says so, where `difference`
        is one of these less x, or the other way around."""
        for monomial, factor in difference.terms if isinstance(difference, Expr) else ():
            match monomial:
                case (Opaque("min" | "max" as op, left, right),) if abs(factor) == 1:
                    clamped = dims.apply(op, left, right)
                case _:
                    continue
            rest = clamped - difference if factor == 1 else clamped + difference
            for value, limit in ((left, right), (right, left)):
                if value == rest and isinstance(limit, int):
                    if op == "min":
                        ranges = self._within(value, -dims.UNBOUNDED, limit)
                    else:
                        ranges = self.demand_at_least(value, limit)
                    if ranges != self.ranges:
                        raise Refinement(replace(self, ranges=ranges))

    def _cap(self, a: Dim, b: Dim) -> None:
        """max(min(n, c) - 1, 0) = max(n - 1, 0) needs n <= c: raise the Refinement that says so of a min inside of a
        dim, where the dims are the same up to its limit, and beyond it they differ and neither is 1."""
        for value, limit in _capped(a - b):
            within = replace(self, ranges=self._within(value, -dims.UNBOUNDED, limit))
            beyond = replace(self, ranges=self._within(value, limit + 1, dims.UNBOUNDED))
            if self.ranges in (within.ranges, beyond.ranges) or within.simplified(a) != within.simplified(b):
                continue
            if beyond.differ(a, b) and beyond.differ(a, 1) and beyond.differ(b, 1):
                raise Refinement(within)

    def _within(self, dim: Dim, low: int, high: int) -> Ranges:
        """The ranges under which low <= dim <= high, where `dim` grows linearly with a single symbol; else the ranges
        as they are (the compiled model then checks no more than that dims of one name are equal)."""
        names = symbols(dim)
        parts = dims.coefficient(dim, next(iter(names))) if len(names) == 1 else None
        if parts is None:
            return self.ranges
        (name,), (stride, rest) = names, parts
        if not isinstance(stride, int) or not isinstance(rest, int) or stride <= 0:
            return self.ranges
        first, last = self.ranges.get(name, (0, dims.UNBOUNDED))
        narrowed = max(first, -((rest - low) // stride)), min(last, (high - rest) // stride)
        if narrowed[0] > narrowed[1] or narrowed == (first, last):
            return self.ranges
        return {**self.ranges, name: narrowed}


class Refinement(Exception):  # noqa: N818 - it steers the import, nothing has gone wrong
    """More is known than when the import began: start again with these assumptions."""

    def __init__(self, assumptions: Assumptions) -> None:
        super().__init__()
        self.assumptions = assumptions


def _divisors(dim: Dim, name: str) -> Iterator[int]:
    """The constants by which something made of the symbol `name` is divided anywhere in `dim`, and what is left of them
    without the factors that it always has."""
    for monomial, _ in dim.terms if isinstance(dim, Expr) else ():
        for atom in monomial:
            if isinstance(atom, Symbol):
                continue
            if atom.op in ("//", "%") and isinstance(atom.right, int) and atom.right > 1 and name in symbols(atom.left):
                parts = dims.coefficient(atom.left, name)
                stride = parts[0] if parts is not None and isinstance(parts[0], int) else 1
                # 33 * n is a multiple of 22 as soon as n is one of 2.
                yield from {atom.right, atom.right // math.gcd(atom.right, stride)} - {1}
            yield from _divisors(atom.left, name)
            yield from _divisors(atom.right, name)


def _capped(dim: Dim) -> Iterator[tuple[Dim, int]]:
    """What is kept below a constant anywhere in `dim`, and that constant."""
    for monomial, _ in dim.terms if isinstance(dim, Expr) else ():
        for atom in monomial:
            match atom:
                case Symbol():
                    continue
                case Opaque("min", value, int(limit)) | Opaque("min", int(limit), value):
                    yield value, limit
                case _:
                    pass
            yield from _capped(atom.left)
            yield from _capped(atom.right)


def _factors(divisors: Iterable[int]) -> list[int]:
    """The smallest products of the divisors up to LARGEST_FACTOR, in order: divisions may lie within each other."""
    found: set[int] = set()
    fresh = {d for d in divisors if d <= LARGEST_FACTOR}
    while fresh:
        found |= fresh
        fresh = {f * d for f in fresh for d in found if f * d <= LARGEST_FACTOR} - found
    return sorted(found)[:MOST_FACTORS]


def single_atom(dim: Dim) -> object:
    """The one atom that `dim` is, None when it is anything else."""
    if isinstance(dim, Expr) and len(dim.terms) == 1:
        monomial, coefficient = dim.terms[0]
        if coefficient == 1 and len(monomial) == 1:
            return monomial[0]
    return None
