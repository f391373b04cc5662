"""What a value of control flow is made of, whichever branch or iteration gives it.

A graph's results are tensors. A sequence or optional that leaves a branch or is carried by a loop is taken apart into
tensors inside and put together again outside; both branches, all iterations must do that in one way, the *form*. The
form of two items is the least that both can be brought to: sequences of one length stay lists of tensors, others become
ragged; an optional that is there in one and not in the other gets a bool.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.ragged import Known, common, ragged, widened
from ingot.compiler.frontend.sequences import Item, Optional, RaggedSequence, TensorSequence
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Value
from ingot.runtime.dtypes import DType, boolean


@dataclass(frozen=True)
class TensorForm:
    """A tensor. Its extents need not be the same everywhere; `shape` are those of the first one, None where they mean
    nothing outside of its graph."""

    dtype: DType
    shape: Known


@dataclass(frozen=True)
class ListForm:
    """A sequence of a known length."""

    elements: tuple[Form, ...] = ()


@dataclass(frozen=True)
class RaggedForm:
    """A sequence of any length; the fields are those of `RaggedSequence`."""

    dtype: DType
    rank: int | None
    width: int
    known: Known


@dataclass(frozen=True)
class OptionalForm:
    """An optional; `present` None: that depends on data. `content` None: it is always empty."""

    content: Form | None
    present: bool | None


Form: TypeAlias = TensorForm | ListForm | RaggedForm | OptionalForm


@dataclass(frozen=True)
class Part:
    """One tensor of a form: what its name ends in, and the axes whose extents change with the number of elements."""

    suffix: str
    free: tuple[int, ...] = ()


def form_of(item: Item, inner: Collection[str] = ()) -> Form:
    """The form of one item; `inner` are symbols that mean nothing outside."""
    match item:
        case TensorSequence(elements):
            return ListForm(tuple(form_of(e, inner) for e in elements))
        case RaggedSequence():
            return RaggedForm(item.dtype, item.rank, item.width, _outside(item.known, inner))
        case Optional(content, present):
            is_there = None if present is not None else content is not None
            return OptionalForm(None if content is None else form_of(content, inner), is_there)
        case _:
            return TensorForm(item.dtype, _outside(item.shape, inner))


def _outside(extents: Known, inner: Collection[str]) -> Known:
    return tuple(None if d is None or dims.symbols(d) & set(inner) else d for d in extents)


def joined(a: Form, b: Form) -> Form | None:
    """The form that items of both forms can be brought to; None where there is none."""
    match a, b:
        case TensorForm(), TensorForm():
            return a if a.dtype == b.dtype and len(a.shape) == len(b.shape) else None
        case ListForm(left), ListForm(right) if len(left) == len(right):
            pairs = [joined(x, y) for x, y in zip(left, right, strict=True)]
            found = tuple(p for p in pairs if p is not None)
            return ListForm(found) if len(found) == len(pairs) else _ragged(a, b)
        case (ListForm() | RaggedForm()), (ListForm() | RaggedForm()):
            return _ragged(a, b)
        case OptionalForm(), OptionalForm():
            present = a.present if a.present == b.present else None
            if a.content is None or b.content is None:
                return OptionalForm(a.content or b.content, present)
            content = joined(a.content, b.content)
            return None if content is None else OptionalForm(content, present)
        case OptionalForm(), _:
            return joined(a, OptionalForm(b, True))
        case _, OptionalForm():
            return joined(OptionalForm(a, True), b)
        case _:
            return None


def _ragged(a: ListForm | RaggedForm, b: ListForm | RaggedForm) -> RaggedForm | None:
    if isinstance(a, ListForm) and not a.elements:
        a, b = b, a
    first = _as_ragged(a)
    if first is None or (isinstance(b, ListForm) and not b.elements):
        return first
    second = _as_ragged(b)
    if second is None or first.dtype != second.dtype:
        return None
    rank = first.rank if first.rank == second.rank else None
    known = common(first.known, second.known) if rank is not None else ()
    return RaggedForm(first.dtype, rank, max(first.width, second.width), known)


def _as_ragged(form: ListForm | RaggedForm) -> RaggedForm | None:
    """The form of a sequence that is not empty when its length is not known."""
    if isinstance(form, RaggedForm):
        return form
    tensors = [e for e in form.elements if isinstance(e, TensorForm)]
    if len(tensors) != len(form.elements) or len({t.dtype for t in tensors}) != 1:
        return None
    ranks = {len(t.shape) for t in tensors}
    known: Known = tensors[0].shape if len(ranks) == 1 else ()
    for tensor in tensors if len(ranks) == 1 else ():
        known = common(known, tensor.shape)
    width = max(ranks)
    return RaggedForm(tensors[0].dtype, ranks.pop() if len(ranks) == 1 else None, width, known)


def parts_of(form: Form) -> tuple[Part, ...]:
    """The tensors that an item of the form is made of, in order."""
    match form:
        case TensorForm():
            return (Part(""),)
        case ListForm(elements):
            return tuple(Part(f"[{i}]{p.suffix}", p.free) for i, e in enumerate(elements) for p in parts_of(e))
        case RaggedForm():
            return Part("/data", (0,)), Part("/shapes", (0,))
        case OptionalForm(content, present):
            inside = () if content is None else parts_of(content)
            return inside if present is not None else (Part("/present"), *inside)


def spread(ctx: Context, item: Item | None, form: Form) -> tuple[Value, ...]:
    """The tensors of an item brought to a form that `joined` gave for it; of None what stands in for an item that is
    not there. No node of them reads what is not in the graph of the item."""
    match form:
        case TensorForm(dtype, shape):
            if isinstance(item, Value):
                return (item,)
            return (ctx.expand(ctx.constant(0, dtype), tuple(0 if d is None else d for d in shape)),)
        case ListForm(elements):
            given = item.elements if isinstance(item, TensorSequence) else (None,) * len(elements)
            return tuple(v for e, f in zip(given, elements, strict=True) for v in spread(ctx, e, f))
        case RaggedForm(dtype, _, width):
            if not isinstance(item, RaggedSequence | TensorSequence) or item == TensorSequence():
                table = ctx.constant(np.zeros((0, 1 + width), np.int64))
                return ctx.expand(ctx.constant(0, dtype), (0,)), table
            found = ragged(ctx, item)
            return found.data, widened(ctx, found.shapes, width)
        case OptionalForm(content, present):
            holder = item if isinstance(item, Optional) else Optional(item)
            inside = () if content is None else spread(ctx, holder.content, content)
            if present is not None:
                return inside
            return (holder.present or ctx.constant(holder.content is not None, boolean), *inside)


def gathered(form: Form, values: Iterator[Value]) -> Item:
    """The item that is made of the tensors that `values` has next."""
    match form:
        case TensorForm():
            return next(values)
        case ListForm(elements):
            return TensorSequence(tuple(gathered(e, values) for e in elements))
        case RaggedForm():
            return RaggedSequence(next(values), next(values), form.rank, form.known)
        case OptionalForm(content, present):
            bit = next(values) if present is None else None
            if content is None or present is False:
                return Optional(None, bit)
            return Optional(gathered(content, values), bit)
