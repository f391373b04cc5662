"""Sequences and optionals, taken apart again in the same step, so that the pool holds tensors alone."""

from __future__ import annotations

from typing import Any

from onnx import TypeProto, helper

from benchmarks.fuzz.build import Builder, Extent, Shape, Tensor, dtype_code, replaced


def sequence(b: Builder) -> bool:
    """One of the ways to make and read a sequence, or an optional value."""
    return bool(b.choice((_edited, _edited, _split, _mapped, _optional))(b))


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
    x = b.pick(lambda t: t.rank <= 4)
    if x is None:
        return False
    parts: list[Tensor] = []
    if b.chance(0.3):
        name = _append(b, "SequenceEmpty", [], dtype=dtype_code(x.dtype))
    else:
        parts = [x]
        for _ in range(b.integer(0, 2)):
            other = b.pick(lambda t: t.dtype == x.dtype and t.shape == x.shape)
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
