"""Which variants of a model are asked for: programs for some of its shapes, in one artifact with the general one.

A case gives symbolic dims a value or a range, ``{"batch": 1, "seq": (1, 128)}``; the dims that it does not name keep
their ranges. A run takes the first variant that its shapes fit, so they are tried in the order of how few shapes they
stand for: all dims given before some, narrow ranges before wide ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.ir.dims import UNBOUNDED
from ingot.runtime.manifest import MAX_VARIANTS

if TYPE_CHECKING:
    from ingot.compiler.ir.graph import Graph

Ranges: TypeAlias = Mapping[str, tuple[int, int]]
Case: TypeAlias = Mapping[str, int | tuple[int, int]]


@dataclass(frozen=True)
class Variant:
    """The `ranges` of symbolic dims, both ends included, that one variant is made for."""

    ranges: Ranges

    @property
    def name(self) -> str:
        """The case as text: ``batch=1, seq=1..128``."""
        return ", ".join(f"{dim}={low}" if low == high else f"{dim}={low}..{high}" for dim, (low, high) in self.items())

    def items(self) -> Iterable[tuple[str, tuple[int, int]]]:
        """The dims and their ranges in the order given."""
        return self.ranges.items()


def read_variants(cases: Iterable[Case], ranges: Ranges) -> tuple[Variant, ...]:
    """The variants that the cases stand for, in the order in which they are tried; `ranges` are those of the general
    program. Raises ModelError for cases that are no dims, lie outside of `ranges`, or are too many or the same."""
    variants = [Variant(_read(case, ranges)) for case in cases]
    if len(variants) > MAX_VARIANTS:
        raise ModelError(f"{len(variants)} variants are asked for; {MAX_VARIANTS} are the most")
    names = [variant.name for variant in variants]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ModelError(f"the variant {twice[0]} is asked for twice")
    dims = {dim for variant in variants for dim in variant.ranges}
    return tuple(sorted(variants, key=lambda variant: _shapes(variant, dims, ranges)))


def _shapes(variant: Variant, dims: Iterable[str], ranges: Ranges) -> int:
    """How many shapes a variant is for, as far as they differ in `dims`."""
    bounds = (variant.ranges.get(dim) or ranges.get(dim) or (0, UNBOUNDED) for dim in dims)
    return math.prod(high - low + 1 for low, high in bounds)


def _read(case: object, ranges: Ranges) -> Ranges:
    if not isinstance(case, Mapping) or not case:
        raise ModelError(f"the variant {case!r} is no dict of dims", remedy='write {"batch": 1, "seq": (1, 128)}')
    found: dict[str, tuple[int, int]] = {}
    for name, value in cast("Mapping[object, object]", case).items():
        match value:
            case bool():
                bounds = None
            case int():
                bounds = (value, value)
            case (int(low), int(high)):
                bounds = (low, high)
            case _:
                bounds = None
        if not isinstance(name, str) or bounds is None or not 0 <= bounds[0] <= bounds[1]:
            raise ModelError(
                f"a variant gives the dim {name!r} the value {value!r}",
                remedy="give a number that is not negative, or (lowest, highest)",
            )
        low, high = ranges.get(name, (0, UNBOUNDED))
        if not low <= bounds[0] <= bounds[1] <= high:
            raise ModelError(
                f"the variant {Variant({name: bounds}).name} lies outside of the range of {name}, {low}..{high}",
                remedy="widen the range, or leave the variant out",
            )
        found[name] = bounds
    return found


def require_same_interface(general: Graph, variant: Graph, name: str) -> None:
    """Raise ModelError where a variant has other inputs or outputs than the model, or some of other types or ranks: the
    operators of ONNX that leave out axes of extent 1 do so."""
    for kind, wanted, have in (
        ("input", [(x.label, x) for x in general.inputs], [(x.label, x) for x in variant.inputs]),
        ("output", general.outputs, variant.outputs),
    ):
        if [label for label, _ in wanted] != [label for label, _ in have]:
            raise ModelError(f"with {name} the model has other {kind}s", remedy="compile it for these shapes alone")
        for (label, one), (_, other) in zip(wanted, have, strict=True):
            if (one.dtype, one.rank) != (other.dtype, other.rank):
                raise ModelError(
                    f"{kind} {label!r} is {other.type} with {name}, and {one.type} otherwise",
                    remedy="compile the model for these shapes alone, with ranges or --shape",
                )
