"""Sequences and optionals, resolved while the model is imported as far as that can be: see `frontend/sequences.py`."""

from __future__ import annotations

from onnx import GraphProto
from onnx.helper import make_empty_tensor_value_info, make_node

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.bodies import Iteration
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.operators.ragged import at, concatenated, divided, erased, inserted, located, ragged
from ingot.compiler.frontend.sequences import Item, Optional, RaggedSequence, Results, TensorSequence
from ingot.compiler.frontend.table import Table
from ingot.compiler.frontend.topology import unused_names
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Reshape, Split
from ingot.compiler.ops.reduction import ReduceMin, ReduceSum
from ingot.runtime.dtypes import i64

TABLE = Table()
onnx_op = TABLE.onnx_op

LONGEST = 4096  # elements of a sequence that is a list of values, and iterations that are unrolled


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
    return ctx.dim_values((_count(ctx.sequence(0)),), True)


@onnx_op("SequenceAt", since=11)
def sequence_at(ctx: Context) -> Results:
    sequence = ctx.sequence(0)
    place = _position(ctx, 1, sequence)
    if isinstance(place, int) and isinstance(sequence, TensorSequence):
        return sequence.elements[place]
    return at(ctx, *located(ctx, ragged(ctx, sequence), ctx.operand(1)))


@onnx_op("SequenceErase", since=11)
def sequence_erase(ctx: Context) -> Results:
    sequence = ctx.sequence(0)
    given = ctx.optional(1) is not None
    if isinstance(sequence, TensorSequence) and not sequence.elements:
        raise ctx.error("SequenceErase of an empty sequence")
    place = _position(ctx, 1, sequence) if given else -1
    if isinstance(place, int) and isinstance(sequence, TensorSequence):
        elements = list(sequence.elements)
        del elements[place]
        return TensorSequence(tuple(elements))
    which = ctx.operand(1) if given else ctx.constant(-1, i64)
    return erased(ctx, *located(ctx, ragged(ctx, sequence), which))


@onnx_op("SequenceInsert", since=11)
def sequence_insert(ctx: Context) -> Results:
    sequence, new = ctx.sequence(0), ctx.operand(1)
    given = ctx.optional(2) is not None
    if isinstance(sequence, TensorSequence):
        elements = sequence.elements
        place = _position(ctx, 2, sequence, inserting=True) if given else len(elements)
        if isinstance(place, int):
            return _sequence(ctx, (*elements[:place], new, *elements[place:]))
    found = ragged(ctx, sequence, new.dtype)
    if not given:
        return inserted(ctx, found, new, None)
    found, before = located(ctx, found, ctx.operand(2), inserting=True)
    return inserted(ctx, found, new, before)


@onnx_op("ConcatFromSequence", since=11)
def concat_from_sequence(ctx: Context) -> Results:
    sequence, stacked = ctx.sequence(0), bool(ctx.attribute("new_axis", 0))
    given = ctx.maybe("axis", int)
    if given is None:
        raise ctx.error("attribute 'axis' is missing", "run onnx.checker on the model")
    if isinstance(sequence, RaggedSequence):
        return concatenated(ctx, sequence, given, stacked)
    parts = tuple(e for e in sequence.elements if isinstance(e, Value))
    if len(parts) != len(sequence.elements):
        raise ctx.error("input 0 is no sequence of tensors", "run onnx.checker on the model")
    if not parts:
        raise ctx.error("ConcatFromSequence of an empty sequence")
    axis = ctx.axis(given, parts[0].rank + stacked)
    if stacked:
        parts = tuple(ctx.build(Reshape, p, (*p.shape[:axis], 1, *p.shape[axis:])) for p in parts)
    return ctx.concat(parts, axis)


@onnx_op("SplitToSequence", since=11)
def split_to_sequence(ctx: Context) -> Results:
    """Parts of one extent each (without their axis unless `keepdims`), of one size, or of the sizes listed."""
    x = ctx.operand(0)
    axis = ctx.axis(ctx.attribute("axis", 0), x.rank)
    extent, sizes = x.shape[axis], ctx.optional(1)
    keepdims = bool(ctx.attribute("keepdims", 1)) or sizes is not None
    if sizes is not None and sizes.rank == 1:
        if not sizes.type.is_static:
            return divided(ctx, x, axis, _listed_sizes(ctx, sizes, extent), None, True)
        listed: tuple[Dim, ...] = ctx.dims(1, "the sizes")
        ctx.equal(dims.total(listed), extent)
    else:
        size = _size(ctx, sizes)
        if not isinstance(size, int) or not isinstance(extent, int) or -(-extent // size) > LONGEST:
            return _divided_evenly(ctx, x, axis, size, keepdims)
        listed = (*(size,) * (extent // size), *((extent % size,) if extent % size else ()))
    if not listed:
        return TensorSequence()
    x = ctx.checked(x)[0]
    parts: tuple[Value, ...] = (x,) if len(listed) == 1 else tuple(ctx.build(Split, x, axis, listed).results())
    if not keepdims:
        parts = tuple(ctx.build(Reshape, p, (*p.shape[:axis], *p.shape[axis + 1 :])) for p in parts)
    return TensorSequence(parts)


def _size(ctx: Context, sizes: Value | None) -> int | Value:
    """The extent of the parts: an int where it is known, else an i64 scalar that is checked."""
    if sizes is None:
        return 1
    size = ctx.cast(ctx.scalar(sizes), i64)
    known = ctx.known(size)
    if known is not None and isinstance(known[0], int):
        if known[0] < 1:
            raise ctx.error(f"parts of {known[0]} elements")
        return known[0]
    ctx.require(ctx.build(ops.Greater, size, ctx.constant(0, i64)), "parts of less than one element")
    return ctx.checked(size)[0]


def _listed_sizes(ctx: Context, sizes: Value, extent: Dim) -> Value:
    """Sizes whose number is not known, none of them negative, that add up to `extent`."""
    wide, zero = ctx.cast(sizes, i64), ctx.constant(0, i64)
    total = ctx.build(ReduceSum, wide, (0,), False)
    ctx.require(
        ctx.build(ops.Equal, total, ctx.dim_values((extent,), True)), "the sizes of the parts do not add up to the axis"
    )
    low = ctx.build(ReduceMin, wide, (0,), False)
    ctx.require(ctx.build(ops.GreaterOrEqual, low, zero), "the size of a part is negative")
    return ctx.checked(wide)[0]


def _divided_evenly(ctx: Context, x: Value, axis: int, size: int | Value, keepdims: bool) -> RaggedSequence:
    """Parts of one size, the last of them with what is left."""
    extent = x.shape[axis]
    if isinstance(size, int):
        count, chunk = dims.ceil_divide(extent, size), ctx.constant(size, i64)
    else:
        chunk, one = size, ctx.constant(1, i64)
        last = ctx.build(ops.Sub, ctx.dim_values((extent,), True), one)
        further = ctx.build(ops.Div, ctx.build(ops.Max, last, ctx.constant(0, i64)), size)
        some = ctx.build(ops.Cast, ctx.build(ops.GreaterOrEqual, last, ctx.constant(0, i64)), i64)
        count = ctx.size(ctx.build(ops.Add, ctx.build(ops.Mul, further, some), some), "the number of parts")
    begins = ctx.build(ops.Mul, counted(ctx, count, i64), chunk)
    lengths = ctx.build(ops.Min, chunk, ctx.build(ops.Sub, ctx.dim_values((extent,), True), begins))
    return divided(ctx, x, axis, lengths, 1 if size == 1 else None, keepdims)


@onnx_op("SequenceMap", since=17)
def sequence_map(ctx: Context) -> Results:
    """The body once for each element; further sequences go along, tensors are the same for all."""
    first, graph = ctx.sequence(0), ctx.graph("body")
    others = [ctx.item(i) for i in range(1, len(ctx.operands))]
    if any(isinstance(item, RaggedSequence) for item in (first, *others)):
        return _mapped_by_loop(ctx, graph, [first, *others])
    assert isinstance(first, TensorSequence)
    for other in others:
        if isinstance(other, TensorSequence) and len(other.elements) != len(first.elements):
            raise ctx.error(f"the sequences have {len(first.elements)} and {len(other.elements)} elements")
    columns: list[list[Item]] = [[] for _ in graph.output]
    for place, element in enumerate(first.elements):
        rest = (o.elements[place] if isinstance(o, TensorSequence) else o for o in others)
        for column, value in zip(columns, ctx.scope.inline(graph, (element, *rest)), strict=True):
            column.append(value)
    return tuple(TensorSequence(tuple(column)) for column in columns)


def _mapped_by_loop(ctx: Context, graph: GraphProto, items: list[Item | None]) -> Results:
    """SequenceMap as the Loop that the standard defines it by."""
    if len(items) != len(graph.input):
        raise ctx.error(f"the body has {len(graph.input)} inputs for {len(items)} of the operator")
    counts = [_count(item) for item in items if isinstance(item, TensorSequence | RaggedSequence)]
    for other in counts[1:]:
        ctx.equal(counts[0], other)
    taken = {*ctx.node.input, *(name for node in graph.node for name in (*node.input, *node.output))}
    number, going, after, *lists = unused_names(taken, "map", 3 + 2 * len(graph.output))
    body = GraphProto(name=graph.name)
    body.CopyFrom(graph)
    del body.input[:], body.output[:], body.node[:]
    before, behind = lists[: len(graph.output)], lists[len(graph.output) :]
    body.input.extend(make_empty_tensor_value_info(name) for name in (number, going, *before))
    body.output.extend(make_empty_tensor_value_info(name) for name in (after, *behind))
    for formal, item, outer in zip(graph.input, items, ctx.node.input, strict=True):
        is_list = isinstance(item, TensorSequence | RaggedSequence)
        given = ("SequenceAt", [outer, number]) if is_list else ("Identity", [outer])
        body.node.append(make_node(*given, [formal.name]))
    body.node.extend(graph.node)
    body.node.append(make_node("Identity", [going], [after]))
    for output, start, end in zip(graph.output, before, behind, strict=True):
        body.node.append(make_node("SequenceInsert", [start, output.name], [end]))
    empty = (TensorSequence(),) * len(graph.output)
    (trip,) = ctx.checked(ctx.dim_values((counts[0],), True))
    return tuple(Iteration(ctx, body, empty).run(trip, None, True))


def unrolled(ctx: Context, carried: tuple[Item, ...], trip: Dim | None, going: bool | None) -> Results | None:
    """A Loop that carries sequences or optionals, iteration by iteration; None where its trip count or a condition
    depends on data or on symbolic dims, or is too large for that."""
    graph, limit = ctx.graph("body"), LONGEST if trip is None else trip
    if going is None or not isinstance(limit, int) or limit > LONGEST:
        return None
    importer, sizes = ctx.scope.importer, ctx.scope.sizes
    saved, bound = importer.state(), dict(sizes.bound)
    scans: list[list[Value]] = [[] for _ in graph.output[1 + len(carried) :]]
    count = 0
    while going and count < limit:
        number, condition = ctx.dim_values((count,), True), ctx.constant(True)
        after, *values = ctx.scope.inline(graph, (number, condition, *carried))
        going = ctx.decided(after) if isinstance(after, Value) else None
        if going is None:
            importer.restore(saved)
            sizes.bound = bound
            return None
        if len(values) != len(carried) + len(scans):
            raise ctx.error(f"the body has {1 + len(values)} outputs for {len(carried)} carried values")
        carried, count = tuple(values[: len(carried)]), count + 1
        for scan, value in zip(scans, values[len(carried) :], strict=True):
            if not isinstance(value, Value):
                raise ctx.error(f"a scan output is {value}: a tensor is needed")
            scan.append(ctx.build(Reshape, value, (1, *value.shape)))
    if (going and trip is None) or (scans and not count):
        importer.restore(saved)
        sizes.bound = bound
        return None
    return (*carried, *(ctx.concat(s, 0) for s in scans))


def _sequence(ctx: Context, elements: tuple[Item, ...]) -> TensorSequence:
    tensors = [e for e in elements if isinstance(e, Value)]
    if len(elements) > LONGEST:
        raise ctx.unsupported(f"a sequence of {len(elements)} elements that are listed", f"{LONGEST} are the most")
    if any(t.dtype != tensors[0].dtype for t in tensors):
        raise ctx.error("the elements of a sequence have different types")
    return TensorSequence(elements)


def _count(sequence: TensorSequence | RaggedSequence) -> Dim:
    return len(sequence.elements) if isinstance(sequence, TensorSequence) else sequence.length


def _position(
    ctx: Context, index: int, sequence: TensorSequence | RaggedSequence, *, inserting: bool = False
) -> int | None:
    """The place in a sequence of known length that input `index` names, from the front, where that is known.

    An insertion may also be at the end; negative places are counted by the length before it.
    """
    value = ctx.operand(index)
    found = ctx.known(value)
    if not isinstance(sequence, TensorSequence) or found is None or not all(isinstance(d, int) for d in found):
        return None
    count = len(sequence.elements)
    last = count if inserting else count - 1
    place = found[0] if len(found) == 1 else None
    if not isinstance(place, int) or not -count <= place <= last:
        raise ctx.error(f"position {list(found)} is outside {-count}..{last} of a sequence of {count}")
    return place if place >= 0 else place + count


# -- optionals --------------------------------------------------------------------------------------------------------


@onnx_op("Optional", since=15)
def optional(ctx: Context) -> Results:
    ctx.ignore("type")
    return Optional(ctx.item(0) if ctx.operands else None)


@onnx_op("OptionalHasElement", since=15)
def optional_has_element(ctx: Context) -> Results:
    item = ctx.item(0) if ctx.operands else None
    if isinstance(item, Optional) and item.present is not None:
        return item.present
    return ctx.constant(item.content is not None if isinstance(item, Optional) else item is not None)


@onnx_op("OptionalGetElement", since=15)
def optional_get_element(ctx: Context) -> Results:
    item = ctx.item(0)
    if item is None:
        raise ctx.error("OptionalGetElement of an empty optional value")
    return ctx.held(item) if isinstance(item, Optional) else item
