"""Sizes that come from data: dims whose values are known only when the model runs.

`bound_size` turns an i64 scalar into a dim: the dims it comes to where that is known, else a new symbol, bound to the
scalar in the graph under construction (`Graph.bound`). Where the model only makes sense when such a size has a certain
value, the import starts again with that assumption, as for other symbols; here it then becomes a check at run time.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass, replace

from ingot.compiler.frontend.building import Building
from ingot.compiler.frontend.errors import UnsupportedError
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, show
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.control import Require
from ingot.runtime import dtypes

LONGEST = 48  # characters of a symbol's name taken from that of a node
_RESERVED = frozenset((*keyword.kwlist, "max", "min"))


def bound_size(ctx: Building, value: Value, what: str, most: Dim | None = None) -> Dim:
    """The dim that the i64 scalar `value` is: as known, or a symbol bound to it.

    A run in which it is negative, or larger than `most`, fails with a message about `what`.
    """
    known = ctx.known(value)
    if known is not None:
        return known[0]
    sizes = ctx.scope.sizes
    if isinstance(most, dims.Expr):
        fits = ctx.build(ops.LessOrEqual, value, ctx.dim_values((most,), True))
        value = ctx.build(Require, (value,), fits, True, f"{what} is larger than {show(most)}").result(0)
    elif (found := sizes.symbol_of(value)) is not None:
        return dims.symbol(found)
    name = ctx.scope.importer.new_symbol(_cleaned(next((n for n in ctx.node.output if n), ctx.node.op_type)))
    return _bind(ctx, name, value, what, most if isinstance(most, int) else dims.UNBOUNDED)


def new_symbol(ctx: Building, wish: str) -> str:
    """The name of a new symbol that a graph will bind, like `wish`."""
    importer = ctx.scope.importer
    name = importer.new_symbol(_cleaned(wish))
    importer.bound[name] = None
    return name


def _cleaned(wish: str) -> str:
    text = re.sub(r"\W", "_", wish, flags=re.ASCII).strip("_")[:LONGEST] or "size"
    return text if text.isidentifier() and text not in _RESERVED else f"n_{text}"


@dataclass(frozen=True)
class Promise:
    """The extent of a result of control flow, a symbol that is bound once the operator is there. `public` are the dims
    that it stands for outside: the symbol, or what the model needs it to be equal to."""

    name: str
    public: Dim

    @property
    def dim(self) -> Dim:
        """The symbol."""
        return dims.symbol(self.name)

    @staticmethod
    def make(ctx: Building, wish: str) -> Promise:
        """A new symbol called like `wish`."""
        name = new_symbol(ctx, wish)
        public = ctx.assumptions.resolve(dims.symbol(name))
        return Promise(name if public == dims.symbol(name) else new_symbol(ctx, f"{name}_own"), public)

    def keep(self, ctx: Building, value: Value, what: str) -> None:
        """Bind the symbol to the i64 scalar `value`; the results that mention it need to be checked then."""
        ctx.scope.sizes.bound[self.name] = value
        if self.public != self.dim:
            _require_equal(ctx, self.public, value, what)


def _bind(ctx: Building, name: str, value: Value, what: str, most: int) -> Dim:
    importer, sizes = ctx.scope.importer, ctx.scope.sizes
    assumed = importer.assumptions.aliases.get(name)
    if assumed is None and not sizes.knows(name):
        low, high = importer.assumptions.ranges.get(name, (0, dims.UNBOUNDED))
        ranges = {**importer.assumptions.ranges, name: (low, min(high, most))}
        importer.assumptions = replace(importer.assumptions, ranges=ranges)
        importer.bound[name] = None
        sizes.bound[name] = value
        return dims.symbol(name)
    wanted = dims.symbol(name) if assumed is None else importer.assumptions.resolve(assumed)
    least, largest = dims.bounds(wanted, importer.assumptions.ranges)
    if least < 0 or largest > most:  # which nothing else checks
        low = ctx.build(ops.GreaterOrEqual, value, ctx.constant(0, dtypes.i64))
        high = ctx.build(ops.LessOrEqual, value, ctx.constant(most, dtypes.i64))
        within = f"0..{most}" if most < dims.UNBOUNDED else "0 and more"
        ctx.require(ctx.build(ops.And, low, high), f"{what} is outside {within}")
    _require_equal(ctx, wanted, value, what)
    return wanted


def _require_equal(ctx: Building, wanted: Dim, value: Value, what: str) -> None:
    """The i64 scalar `value` must be `wanted`, in which one symbol may have no value yet: it is bound so."""
    _bind_part(ctx, wanted, value, what)
    equal = ctx.build(ops.Equal, value, ctx.dim_values((wanted,), True))
    ctx.require(equal, f"{what} must be {show(wanted)} for the model to make sense")


def _bind_part(ctx: Building, wanted: Dim, value: Value, what: str) -> None:
    """Bind the one symbol of `wanted` that has no value yet, so that `wanted` is `value`."""
    importer = ctx.scope.importer
    unknown = sorted(s for s in dims.symbols(wanted) if not ctx.scope.sizes.knows(s) and s not in importer.told)
    if not unknown:
        return
    parts = dims.coefficient(wanted, unknown[0])
    if len(unknown) > 1 or parts is None:
        raise UnsupportedError(f"{what} depends on data and would have to be {show(wanted)}")
    stride, rest = (ctx.dim_values((part,), True) for part in parts)
    part = ctx.build(ops.Div, ctx.build(ops.Sub, value, rest), stride)
    _bind(ctx, unknown[0], part, what, dims.UNBOUNDED)
