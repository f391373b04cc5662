"""Sequences and optionals, taken apart again in the same step, so that the pool holds tensors alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto, TypeProto, ValueInfoProto, helper

from benchmarks.fuzz.build import Builder, Extent, Shape, Tensor, dtype_code, replaced


def sequence(b: Builder) -> bool:
    """One of the ways to make and read a sequence, or an optional value."""
    return bool(b.choice((_edited, _edited, _split, _mapped, _optional, _collected, _collected, _chosen))(b))


def _append(b: Builder, op: str, operands: list[str], **attributes: Any) -> str:
    """A node whose result is a sequence or optional."""
    name = f"{op.lower()}{next(b.numbers)}"
    b.used.update(operands)
    b.nodes.append(helper.make_node(op, operands, [name], name=f"n_{name}", **attributes))
    return name


def _read(b: Builder, op: str, operands: list[str], dtype: str, shape: Shape, **attributes: Any) -> None:
    """A node that makes a tensor of a sequence or optional."""
    b.node(op, [Tensor(name, "", ()) for name in operands], [(dtype, shape)], **attributes)


def _edited(b: Builder) -> bool:
    """SequenceConstruct or SequenceEmpty, insertions and removals, then its length, elements, all of them joined."""
    x = b.pick(lambda t: t.rank <= 4, text=True)
    if x is None:
        return False
    parts: list[Tensor] = []
    if b.chance(0.3):
        name = _append(b, "SequenceEmpty", [], dtype=dtype_code(x.dtype))
    else:
        parts = [x]
        for _ in range(b.integer(0, 2)):
            other = b.pick(lambda t: t.dtype == x.dtype and t.shape == x.shape, text=True)
            assert other is not None
            parts.append(other)
        name = _append(b, "SequenceConstruct", [t.name for t in parts])
    for _ in range(b.integer(0, 3)):
        place = b.integer(-len(parts), max(len(parts) - 1, 0))
        spelled = [b.ints([place], scalar=True).name] if b.chance(0.7) and parts else []
        if parts and b.chance(0.4):
            name = _append(b, "SequenceErase", [name, *spelled])
            del parts[place if spelled else -1]
        else:
            name = _append(b, "SequenceInsert", [name, x.name, *spelled])
            parts.insert(place if spelled else len(parts), x)
    if not parts or b.chance(0.2):
        _read(b, "SequenceLength", [name], "int64", ())
        return True
    if b.chance(0.4):
        place = b.integer(-len(parts), len(parts) - 1)
        _read(b, "SequenceAt", [name, b.ints([place], scalar=True).name], x.dtype, x.shape)
        return True
    _joined(b, name, parts)
    return True


def _joined(b: Builder, name: str, parts: list[Tensor]) -> None:
    x = parts[0]
    if b.chance(0.5) or not x.rank:
        axis = b.integer(0, x.rank)
        shape = (*x.shape[:axis], len(parts), *x.shape[axis:])
        spelled = axis - x.rank - 1 if b.chance(0.3) else axis
        _read(b, "ConcatFromSequence", [name], x.dtype, shape, axis=spelled, new_axis=1)
        return
    axis = b.integer(0, x.rank - 1)
    extents = [t.shape[axis] for t in parts]
    total = b.derived(sum(map(b.size, extents)), *extents)
    _read(b, "ConcatFromSequence", [name], x.dtype, replaced(x.shape, axis, total), axis=axis)


def _split(b: Builder) -> bool:
    """SplitToSequence by a size, sizes or single places, and parts of it joined or read."""
    x = b.pick(lambda t: 0 < t.rank <= 4 and t.dtype != "bool")
    if x is None:
        return False
    axis = b.integer(0, x.rank - 1)
    extent = x.shape[axis]
    if not isinstance(extent, int) or extent == 0:
        return False
    kind = b.integer(0, 2)
    keep = b.chance(0.5)
    if kind == 0:
        size = b.integer(1, extent)
        sizes = [size] * (extent // size) + ([extent % size] if extent % size else [])
        given = [b.ints([size], scalar=True).name]
    elif kind == 1:
        cut = b.integer(0, extent)
        sizes, given = [cut, extent - cut], [b.ints([cut, extent - cut]).name]
    else:
        sizes, given = [1] * extent, []
    keepdims = {} if kind < 2 else {"keepdims": int(keep)}
    name = _append(b, "SplitToSequence", [x.name, *given], axis=axis, **keepdims)
    if kind == 2 and not keep:
        shape: tuple[Extent, ...] = (*x.shape[:axis], *x.shape[axis + 1 :])
        place = b.integer(0, extent - 1)
        _read(b, "SequenceAt", [name, b.ints([place], scalar=True).name], x.dtype, shape)
        return True
    place = b.integer(0, len(sizes) - 1)
    if b.chance(0.5):
        shape = replaced(x.shape, axis, sizes[place])
        _read(b, "SequenceAt", [name, b.ints([place], scalar=True).name], x.dtype, shape)
    else:
        _read(b, "ConcatFromSequence", [name], x.dtype, x.shape, axis=axis)
    return True


def _mapped(b: Builder) -> bool:
    """SequenceMap with a body of one or two nodes."""
    x = b.pick(lambda t: t.is_float and t.rank <= 3 and not any(isinstance(e, str) for e in t.shape))
    if x is None or b.opset < 17:
        return False
    parts = [x, x][: b.integer(1, 2)]
    name = _append(b, "SequenceConstruct", [t.name for t in parts])
    element, out = Tensor(f"e{next(b.numbers)}", x.dtype, x.shape), f"m{next(b.numbers)}"
    inner = b.child()
    middle = inner.unary(b.choice(("Relu", "Neg", "Tanh")), element, visible=False)
    inner.nodes.append(helper.make_node("Add", [middle.name, x.name], [out]))
    b.used.add(x.name)
    body = helper.make_graph(
        inner.nodes, f"map_{out}", [b.value_info(element)], [b.value_info(Tensor(out, x.dtype, x.shape))],
        inner.initializers,
    )  # fmt: skip
    _joined(b, _append(b, "SequenceMap", [name], body=body), parts)
    return True


def _optional(b: Builder) -> bool:
    """Optional of a tensor or of nothing, asked and opened."""
    x = b.pick()
    assert x is not None
    if b.opset < 15:
        return False
    if b.chance(0.3):
        kind: TypeProto = helper.make_tensor_type_proto(dtype_code(x.dtype), None)
        name = _append(b, "Optional", [], type=kind)
        _read(b, "OptionalHasElement", [name], "bool", ())
        return True
    name = _append(b, "Optional", [x.name])
    if b.chance(0.4):
        _read(b, "OptionalHasElement", [name], "bool", ())
    _read(b, "OptionalGetElement", [name], x.dtype, x.shape)
    return True


def _info(name: str, dtype: str) -> ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, dtype_code(dtype), None)


def _collected(b: Builder) -> bool:
    """A Loop that appends to a sequence, or inserts in front, elements of one length or of growing ones."""
    x = b.pick(lambda t: t.is_float and 1 <= t.rank <= 3 and all(isinstance(e, int) for e in t.shape))
    if x is None or b.depth:
        return False
    trips, before, ragged = b.integer(0, 4), b.integer(0, 2), b.chance(0.4)
    first = _append(b, "SequenceConstruct", [x.name] * before) if before else ""
    first = first or _append(b, "SequenceEmpty", [], dtype=dtype_code(x.dtype))
    inner = b.child()
    count, condition = Tensor(f"i{next(b.numbers)}", "int64", ()), Tensor(f"k{next(b.numbers)}", "bool", ())
    carried, longer = f"v{next(b.numbers)}", f"w{next(b.numbers)}"
    part = inner.unary(b.choice(("Tanh", "Neg")), x, visible=False)
    sizes = [b.size(x.shape[0])] * (before + trips)
    front = b.chance(0.3)
    if ragged:  # the first i + 1 rows in iteration i
        after = inner.node("Add", [count, b.ints([1], scalar=True)], [("int64", ())], visible=False)[0]
        end = inner.node("Unsqueeze", [after, inner.ints([0])], [("int64", (1,))], visible=False)[0]
        operands = [part, inner.ints([0]), end, inner.ints([0])]
        part = inner.node("Slice", operands, [(x.dtype, (b.found(0), *x.shape[1:]))], visible=False)[0]
        made = [min(i + 1, b.size(x.shape[0])) for i in range(trips)]
        sizes = [*made[::-1], *sizes[:before]] if front else [*sizes[:before], *made]
    place = [inner.ints([0], scalar=True).name] if front else []
    inner.nodes.append(helper.make_node("SequenceInsert", [carried, part.name, *place], [longer]))
    going = inner.unary("Identity", condition, visible=False)
    body = helper.make_graph(
        inner.nodes, f"collect_{count.name}", [b.value_info(count), b.value_info(condition), _info(carried, x.dtype)],
        [b.value_info(going), _info(longer, x.dtype)], inner.initializers,
    )  # fmt: skip
    b.used.add(x.name)
    trip = b.given(np.asarray(trips, np.int64), 0.4).name
    name = _append(b, "Loop", [trip, "", first], body=body)
    kind = b.integer(0, 2)
    if kind == 0 or not sizes:
        _read(b, "SequenceLength", [name], "int64", ())
    elif kind == 1:
        chosen = b.integer(-len(sizes), len(sizes) - 1)
        shape = (b.found(sizes[chosen]), *x.shape[1:])
        _read(b, "SequenceAt", [name, b.ints([chosen], scalar=True).name], x.dtype, shape)
    else:
        _read(b, "ConcatFromSequence", [name], x.dtype, (b.found(sum(sizes)), *x.shape[1:]), axis=0)
    return True


def _chosen(b: Builder) -> bool:
    """An If whose branches give sequences of different lengths."""
    x = b.pick(lambda t: t.is_float and 1 <= t.rank <= 3 and all(isinstance(e, int) for e in t.shape))
    if x is None or b.depth:
        return False
    taken = b.chance(0.5)
    counts, branches = (b.integer(1, 3), b.integer(1, 3)), dict[str, GraphProto]()
    for name, count in zip(("then_branch", "else_branch"), counts, strict=True):
        inner, out = b.child(), f"s{next(b.numbers)}"
        part = inner.unary(b.choice(("Relu", "Neg", "Identity")), x, visible=False)
        inner.nodes.append(helper.make_node("SequenceConstruct", [part.name] * count, [out]))
        branches[name] = helper.make_graph(inner.nodes, f"{name}_{out}", [], [_info(out, x.dtype)], inner.initializers)
    b.used.add(x.name)
    name = _append(b, "If", [b.given(np.asarray(taken), 0.15).name], **branches)
    count = counts[0] if taken else counts[1]
    if b.chance(0.3):
        _read(b, "SequenceLength", [name], "int64", ())
    elif b.chance(0.4):
        _read(b, "SequenceAt", [name, b.ints([-1], scalar=True).name], x.dtype, x.shape)
    else:
        shape = (b.found(count * b.size(x.shape[0])), *x.shape[1:])
        _read(b, "ConcatFromSequence", [name], x.dtype, shape, axis=0)
    return True
