"""Sequences and optionals, resolved while the model is imported: see `frontend/sequences.py`."""

from __future__ import annotations

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.table import Results, Table
from ingot.compiler.frontend.sequences import Item, Optional, TensorSequence
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops.movement import Concat, Reshape, Split

TABLE = Table()
onnx_op = TABLE.onnx_op

LONGEST = 4096  # elements of a sequence

REMEDY = "make positions and lengths depend on constants and fixed shapes only"


# -- sequences --------------------------------------------------------------------------------------------------------


@onnx_op("SequenceEmpty", since=11)
def sequence_empty(ctx: Context) -> Results:
    ctx.ignore("dtype")
    return TensorSequence()


@onnx_op("SequenceConstruct", since=11)
def sequence_construct(ctx: Context) -> Results:
    return _sequence(ctx, ctx.variadic())


@onnx_op("SequenceLength", since=11)
def sequence_length(ctx: Context) -> Results:
    return ctx.dim_values((len(ctx.sequence(0)),), True)


@onnx_op("SequenceAt", since=11)
def sequence_at(ctx: Context) -> Results:
    elements = ctx.sequence(0)
    return elements[_position(ctx, 1, len(elements))]


@onnx_op("SequenceErase", since=11)
def sequence_erase(ctx: Context) -> Results:
    elements = ctx.sequence(0)
    place = _position(ctx, 1, len(elements)) if _given(ctx, 1) else len(elements) - 1
    if not elements:
        raise ctx.error("SequenceErase of an empty sequence")
    return TensorSequence((*elements[:place], *elements[place + 1 :]))


@onnx_op("SequenceInsert", since=11)
def sequence_insert(ctx: Context) -> Results:
    elements, new = ctx.sequence(0), ctx.operand(1)
    place = _position(ctx, 2, len(elements), inserting=True) if _given(ctx, 2) else len(elements)
    return _sequence(ctx, (*elements[:place], new, *elements[place:]))


@onnx_op("ConcatFromSequence", since=11)
def concat_from_sequence(ctx: Context) -> Results:
    parts, stacked = ctx.tensors(0), bool(ctx.attribute("new_axis", 0))
    if not parts:
        raise ctx.error("ConcatFromSequence of an empty sequence")
    given = ctx.maybe("axis", int)
    if given is None:
        raise ctx.error("attribute 'axis' is missing", "run onnx.checker on the model")
    axis = ctx.axis(given, parts[0].rank + stacked)
    for part in parts[1:]:
        for i, (a, b) in enumerate(zip(parts[0].shape, part.shape, strict=False)):
            if stacked or i != axis:
                ctx.equal(a, b)
    if stacked:
        parts = tuple(ctx.build(Reshape, p, (*p.shape[:axis], 1, *p.shape[axis:])) for p in parts)
    return parts[0] if len(parts) == 1 else ctx.build(Concat, parts, axis)


@onnx_op("SplitToSequence", since=11)
def split_to_sequence(ctx: Context) -> Results:
    """Parts of one extent each (without their axis unless `keepdims`), of one size, or of the sizes listed."""
    x = ctx.operand(0)
    axis = ctx.axis(ctx.attribute("axis", 0), x.rank)
    extent, sizes = x.shape[axis], ctx.optional(1)
    keepdims = bool(ctx.attribute("keepdims", 1)) or sizes is not None
    if sizes is not None and sizes.rank == 1:
        listed: tuple[Dim, ...] = ctx.dims(1, "the sizes")
        ctx.equal(dims.total(listed), extent)
    else:
        size = ctx.fixed(1, "the size")[0] if sizes is not None else 1
        if size < 1:
            raise ctx.error(f"parts of {size} elements")
        if not isinstance(extent, int):
            raise ctx.unsupported(
                f"SplitToSequence of {x.type} along axis {axis}: the number of parts depends on a symbolic dim",
                "pin it with shapes",
            )
        if -(-extent // size) > LONGEST:
            raise ctx.unsupported(f"SplitToSequence of {x.type} into {-(-extent // size)} parts", f"{LONGEST} at most")
        listed = (*(size,) * (extent // size), *((extent % size,) if extent % size else ()))
    if not listed:
        return TensorSequence()
    parts: tuple[Value, ...] = (x,) if len(listed) == 1 else tuple(ctx.build(Split, x, axis, listed).results())
    if not keepdims:
        parts = tuple(ctx.build(Reshape, p, (*p.shape[:axis], *p.shape[axis + 1 :])) for p in parts)
    return TensorSequence(parts)


@onnx_op("SequenceMap", since=17)
def sequence_map(ctx: Context) -> Results:
    """The body once for each element; further sequences go along, tensors are the same for all."""
    first, graph = ctx.sequence(0), ctx.graph("body")
    others = [ctx.item(i) for i in range(1, len(ctx.operands))]
    for other in others:
        if isinstance(other, TensorSequence) and len(other.elements) != len(first):
            raise ctx.error(f"the sequences have {len(first)} and {len(other.elements)} elements")
    columns: list[list[Item]] = [[] for _ in graph.output]
    for place, element in enumerate(first):
        rest = (o.elements[place] if isinstance(o, TensorSequence) else o for o in others)
        for column, value in zip(columns, ctx.scope.inline(graph, (element, *rest)), strict=True):
            column.append(value)
    return tuple(TensorSequence(tuple(column)) for column in columns)


def unrolled(ctx: Context, carried: tuple[Item, ...], trip: int | None, going: bool | None) -> Results:
    """A Loop that carries sequences or optionals, iteration by iteration: its trip count and conditions are known."""
    graph, limit = ctx.graph("body"), LONGEST if trip is None else trip
    if going is None or limit > LONGEST:
        raise ctx.unsupported(f"a loop over sequences with {limit} iterations or a condition made of data", REMEDY)
    scans: list[list[Value]] = [[] for _ in graph.output[1 + len(carried) :]]
    count = 0
    while going and count < limit:
        number, condition = ctx.dim_values((count,), True), ctx.constant(True)
        after, *values = ctx.scope.inline(graph, (number, condition, *carried))
        going = ctx.decided(after) if isinstance(after, Value) else None
        if going is None or len(values) != len(carried) + len(scans):
            raise ctx.unsupported("a loop over sequences whose condition depends on data", REMEDY)
        carried, count = tuple(values[: len(carried)]), count + 1
        for scan, value in zip(scans, values[len(carried) :], strict=True):
            if not isinstance(value, Value):
                raise ctx.error(f"a scan output is {value}: a tensor is needed")
            scan.append(ctx.build(Reshape, value, (1, *value.shape)))
    if going and trip is None:
        raise ctx.unsupported(f"a loop over sequences with more than {LONGEST} iterations", REMEDY)
    if scans and not count:
        raise ctx.unsupported("scan outputs of a loop over sequences that has no iterations")
    return (*carried, *(s[0] if count == 1 else ctx.build(Concat, tuple(s), 0) for s in scans))


def _sequence(ctx: Context, elements: tuple[Item, ...]) -> TensorSequence:
    tensors = [e for e in elements if isinstance(e, Value)]
    if len(elements) > LONGEST:
        raise ctx.unsupported(f"a sequence of {len(elements)} elements", f"{LONGEST} are the most")
    if any(t.dtype != tensors[0].dtype for t in tensors):
        raise ctx.error("the elements of a sequence have different types")
    return TensorSequence(elements)


def _given(ctx: Context, index: int) -> bool:
    return ctx.optional(index) is not None


def _position(ctx: Context, index: int, count: int, *, inserting: bool = False) -> int:
    """The place in a sequence of `count` elements that input `index` names, from the front.

    An insertion may also be at the end; negative places are counted by the length before it.
    """
    found = ctx.fixed(index, "the position in the sequence")
    last = count if inserting else count - 1
    if len(found) != 1 or not -count <= found[0] <= last:
        raise ctx.error(f"position {list(found)} is outside {-count}..{last} of a sequence of {count}")
    return found[0] if found[0] >= 0 else found[0] + count


# -- optionals --------------------------------------------------------------------------------------------------------


@onnx_op("Optional", since=15)
def optional(ctx: Context) -> Results:
    ctx.ignore("type")
    return Optional(ctx.item(0) if ctx.operands else None)


@onnx_op("OptionalHasElement", since=15)
def optional_has_element(ctx: Context) -> Results:
    item = ctx.item(0) if ctx.operands else None
    return ctx.constant(item.content is not None if isinstance(item, Optional) else item is not None)


@onnx_op("OptionalGetElement", since=15)
def optional_get_element(ctx: Context) -> Results:
    item = ctx.item(0)
    content = item.content if isinstance(item, Optional) else item
    if content is None:
        raise ctx.error("OptionalGetElement of an empty optional value")
    return content
