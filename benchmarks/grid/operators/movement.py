"""Movement: shapes, slices, joins, padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.fuzz.build import numpy_type
from benchmarks.grid.examples import FLOATS, Const, Example, Given, Table

TABLE = Table()


def _ints(*values: int) -> Const:
    return Const(np.array(values, np.int64))


@TABLE.row("Reshape", exact=True)
def reshape(g: Given) -> Iterator[Example]:
    """0 and -1, scalars, no elements."""
    forms: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "flat": ((3, 5), (15,)),
        "zero": ((3, 5), (0, 5, 1)),
        "rest": ((2, 3, 4), (-1, 2)),
        "scalar": ((1, 1), ()),
        "from scalar": ((), (1, 1)),
        "empty": ((0, 3), (3, 0)) if g.since >= 14 else ((0, 3), (0, 3)),
    }
    for name, (shape, to) in forms.items():
        zero = {"allowzero": 1} if name == "empty" and g.since >= 14 else {}
        if g.since < 5 and not to:
            continue
        yield g.case(name, g.data("T", shape), g.by_operand(5, to), **g.by_attribute(5, shape=list(to)), **zero)
    if g.since >= 5:
        yield g.case("computed", g.data("T", (2, 6)), np.array([3, -1]))


@TABLE.row("Flatten", exact=True)
def flatten(g: Given) -> Iterator[Example]:
    """Every axis."""
    for axis in (0, 1, 2, 3, *((-1, -3) if g.since >= 11 else ())):
        yield g.case(f"{axis}", g.data("T", (2, 3, 4)), axis=axis)
    yield g.case("empty", g.data("T", (0, 3)))


@TABLE.row("Transpose", exact=True)
def transpose(g: Given) -> Iterator[Example]:
    """Of two to four axes, reversed and permuted."""
    yield g.case("default", g.data("T", (2, 3, 5)))
    yield g.case("list", g.data("T", (7,)))
    yield g.case("scalar", g.data("T", ()))
    yield g.case("empty", g.data("T", (0, 3)), perm=[1, 0])
    for perm in ([0, 2, 1], [1, 2, 0], [3, 0, 2, 1], [0, 2, 3, 1]):
        yield g.case(f"{perm}", g.data("T", (2, 3, 4, 5)[: len(perm)]), perm=perm)
    yield g.case("large", g.data("T", (17, 35)), perm=[1, 0])


@TABLE.row("Squeeze", "Unsqueeze", exact=True)
def squeeze(g: Given) -> Iterator[Example]:
    """Axes as an attribute and as an operand."""
    shape = (1, 3, 1, 5) if g.op == "Squeeze" else (3, 5)
    for name, axes in (("first", [0]), ("two", [0, 2]), ("negative", [-2])):
        if g.since >= 11 or min(axes) >= 0:
            x = g.data("T", shape)
            yield g.case(name, x, g.by_operand(13, axes), **g.by_attribute(13, axes=axes))
    if g.op == "Squeeze":
        yield g.case("all", g.data("T", (1, 3, 1)))
    yield g.case("empty", g.data("T", (1, 0)), g.by_operand(13, [0]), **g.by_attribute(13, axes=[0]))


@TABLE.row("Concat", exact=True)
def concat(g: Given) -> Iterator[Example]:
    """One to three parts, some without elements."""
    yield g.case("first", g.data("T", (2, 3)), g.data("T", (1, 3), seed=1), axis=0)
    yield g.case("last", *(g.data("T", (2, n), seed=n) for n in (3, 1, 2)), axis=1)
    yield g.case("single", g.data("T", (2, 3)), axis=1)
    yield g.case("empty", g.data("T", (2, 0)), g.data("T", (2, 3), seed=1), axis=1)
    if g.since >= 11:
        yield g.case("negative", g.data("T", (2, 3)), g.data("T", (2, 1), seed=1), axis=-1)
    if g.since < 4:
        x, y = g.data("T", (2, 3)), g.data("T", (2, 1), seed=1)
        yield g.case("default", x, y, want=[np.concatenate([x, y], 1)])


@TABLE.row("Split", exact=True)
def split(g: Given) -> Iterator[Example]:
    """Equal parts and given ones."""
    number = {"num_outputs": 2} if g.since >= 18 else {}
    yield g.case("equal", g.data("T", (4, 3)), axis=0, results=2, **number)
    if g.since >= 18:
        yield g.case("uneven", g.data("T", (2, 5)), axis=1, results=3, num_outputs=3)
    for name, axis, sizes in (("given", 1, [1, 4]), ("three", 0, [1, 1, 2]), ("none", 0, [0, 4])):
        chosen = g.by_attribute(13, split=sizes)
        yield g.case(name, g.data("T", (4, 5)), g.by_operand(13, sizes), axis=axis, results=len(sizes), **chosen)
    if g.since >= 11:
        yield g.case("negative", g.data("T", (3, 4)), axis=-1, results=2, **number)


@TABLE.row("Slice", exact=True)
def slices(g: Given) -> Iterator[Example]:
    """Bounds beyond the ends, negative ones, steps of both signs."""
    big = 2**31 - 1
    forms: dict[str, tuple[list[int], list[int], list[int] | None, list[int] | None]] = {
        "all axes": ([1, 0], [3, 4], None, None),
        "one": ([2], [5], [1], None),
        "negative": ([-3], [-1], [1], None),
        "beyond": ([1], [big], [0], None),
        "none": ([3], [1], [1], None),
        "steps": ([0, 1], [4, 7], [0, 1], [2, 3]),
        "back": ([-1], [-big], [1], [-1]),
        "back steps": ([6], [0], [-1], [-2]),
    }
    kind = g.dtype("Tind")
    for name, (starts, ends, axes, steps) in forms.items():
        if g.since < 10 and steps is not None:
            continue
        operands = [g.by_operand(10, v, kind) for v in (starts, ends, axes, steps)]
        attributes = g.by_attribute(10, starts=starts, ends=ends, axes=axes)
        yield g.case(name, g.data("T", (5, 7)), *operands, **attributes)
    if g.since >= 10:
        yield g.case(
            "computed", g.data("T", (5, 7)), np.array([1], kind), np.array([4], kind), Const(np.array([0], kind))
        )
        yield g.case("empty", g.data("T", (0, 7)), Const(np.array([1], kind)), Const(np.array([4], kind)))


@TABLE.row("Pad", exact=True)
def pad(g: Given) -> Iterator[Example]:
    """Each mode; negative pads crop."""
    modes = ["constant", "reflect", "edge", *(["wrap"] if g.since >= 19 else [])]
    value = 1.5 if g.dtype("T") in FLOATS else 1
    for mode in modes:
        for name, pads in (("both", [1, 2, 1, 0]), ("none", [0, 0, 0, 0]), ("crop", [-1, 1, 0, -2])):
            if mode == "wrap" and name == "crop":
                continue
            constant = g.by_attribute(11, value=float(value)) if mode == "constant" else {}
            given = _scalar(g, value) if mode == "constant" and g.since >= 11 else None
            spelled = {"paddings" if g.since < 2 else "pads": pads} if g.since < 11 else {}
            yield g.case(
                f"{mode} {name}", g.data("T", (3, 5)), g.by_operand(11, pads), given, mode=mode, **spelled, **constant
            )
    if g.dtype("T") == "float8_e8m0fnu":  # has no zero to pad with
        return
    if g.since >= 11:
        yield g.case("default", g.data("T", (3, 5)), _ints(0, 1, 1, 0))
        yield g.case("empty", g.data("T", (0, 3)), _ints(1, 0, 1, 1))
        yield g.case("computed", g.data("T", (2, 3)), np.array([0, 1, 1, 0]))
    if g.since >= 18:
        axes = Const(np.array([-1], g.dtype("Tind")))
        yield g.case("axes", g.data("T", (3, 5)), _ints(1, 2), None, axes)


def _scalar(g: Given, value: float) -> Const:
    array = np.array("a", object) if g.dtype("T") == "string" else np.array(value).astype(g.data("T", ()).dtype)
    return Const(array)


@TABLE.row("Expand", exact=True)
def expand(g: Given) -> Iterator[Example]:
    """More axes, wider ones, none."""
    for name, shape, to in (
        ("wider", (3, 1), [3, 5]),
        ("more", (5,), [2, 3, 5]),
        ("less", (3, 5), [1]),
        ("scalar", (), [2, 2]),
        ("empty", (1, 3), [0, 3]),
    ):
        yield g.case(name, g.data("T", shape), _ints(*to))
    yield g.case("computed", g.data("T", (1, 3)), np.array([4, 1]))


@TABLE.row("Tile", exact=True)
def tile(g: Given) -> Iterator[Example]:
    """Repeats of each axis, of none, 0 times."""
    if g.since < 6:
        x = g.data("T", (2, 3))
        kind = x.dtype
        yield g.case("columns", x, np.array(3, kind), np.array(1, kind), want=[np.tile(x, (1, 3))])
        return
    for name, repeats in (("both", [2, 3]), ("once", [1, 1]), ("never", [0, 2])):
        yield g.case(name, g.data("T", (2, 3)), _ints(*repeats))
    yield g.case("empty", g.data("T", (0, 3)), _ints(2, 2))
    yield g.case("computed", g.data("T", (2, 3)), np.array([2, 1]))


@TABLE.row("Shape", "Size", exact=True)
def shape_of(g: Given) -> Iterator[Example]:
    """Of tensors of 0 to 3 axes."""
    for shape in ((), (1,), (0, 3), (2, 3, 5)):
        yield g.case(f"{shape}", g.data("T", shape))
    if g.op == "Shape" and g.since >= 15:
        yield g.case("part", g.data("T", (2, 3, 5)), start=-2, end=2)
        yield g.case("nothing", g.data("T", (2, 3, 5)), start=2, end=1)


@TABLE.row("DepthToSpace", "SpaceToDepth", exact=True)
def blocks(g: Given) -> Iterator[Example]:
    """Both orders."""
    shape = (2, 8, 3, 2) if g.op == "DepthToSpace" else (2, 2, 4, 6)
    modes = {11: ("DCR", "CRD"), 28: ("DCR", "CRD")}
    chosen = modes[11] if "mode" in g.schema.attributes else (None,)
    for mode in chosen:
        yield g.case(f"{mode or 'DCR'}", g.data(g.schema.inputs[0].type_str, shape), blocksize=2, mode=mode)
        yield g.case(
            f"empty {mode or 'DCR'}", g.data(g.schema.inputs[0].type_str, (0, *shape[1:])), blocksize=2, mode=mode
        )


@TABLE.row("Trilu", exact=True)
def triangles(g: Given) -> Iterator[Example]:
    """Upper and lower ones, shifted."""
    for upper in (0, 1):
        for k in (None, 0, 1, -2, 9):
            yield g.case(f"{upper} {k}", g.data("T", (3, 5)), None if k is None else Const(np.array(k)), upper=upper)
        yield g.case(f"{upper} batch", g.data("T", (2, 3, 3)), np.array(1), upper=upper)
        yield g.case(f"{upper} empty", g.data("T", (0, 3)), upper=upper)


@TABLE.row("CenterCropPad", exact=True)
def centre(g: Given) -> Iterator[Example]:
    """Cropped and padded."""
    for name, axes, to in (("both", None, [4, 4]), ("one", [1], [2]), ("negative", [-1], [9])):
        yield g.case(name, g.data("T", (3, 6)), Const(np.array(to, g.dtype("Tind"))), axes=axes)


@TABLE.row("ReverseSequence", exact=True)
def reverse(g: Given) -> Iterator[Example]:
    """The beginning of each sequence."""
    lengths = np.array([1, 3, 0, 2])
    yield g.case("time first", g.data("T", (3, 4, 2)), np.maximum(lengths, 1))
    yield g.case("batch first", g.data("T", (4, 3)), np.maximum(lengths, 1), batch_axis=0, time_axis=1)


@TABLE.row("EyeLike", exact=True)
def eye(g: Given) -> Iterator[Example]:
    """Diagonals of each kind."""
    for k in (0, 1, -2, 7):
        yield g.case(f"{k}", g.data("T1", (3, 5)), k=k, dtype=_code(g.dtype("T2")))
    if g.dtype("T1") == g.dtype("T2"):
        yield g.case("same", g.data("T1", (4, 4)))


def _code(dtype: str) -> int:
    from benchmarks.fuzz.build import dtype_code

    return dtype_code(dtype)


@TABLE.row("ConstantOfShape", exact=True)
def constant_of_shape(g: Given) -> Iterator[Example]:
    """Of a constant shape and of a computed one."""
    from onnx import numpy_helper

    value = numpy_helper.from_array(g.data("T2", (1,), 1, 3))
    for name, shape in (
        ("constant", _ints(2, 3)),
        ("computed", np.array([3, 1])),
        ("scalar", _ints()),
        ("empty", _ints(0, 3)),
    ):
        yield g.case(name, shape, value=value)
    if g.dtype("T2") == "float32":
        yield g.case("zeros", _ints(2, 3))


@TABLE.row("Range")
def ranges(g: Given) -> Iterator[Example]:
    """Upwards, downwards, nowhere; of constants and of data."""
    kind = numpy_type(g.dtype("T"))
    for name, numbers in (("up", (1, 9, 2)), ("down", (9, 0, -3)), ("none", (3, 1, 1)), ("one", (0, 1, 5))):
        given = [np.array(n, kind) for n in numbers]
        yield g.case(name, *map(Const, given))
        if name == "up":
            yield g.case(f"computed {name}", *given)
    if g.dtype("T") in FLOATS:
        yield g.case("fractions", *(Const(np.array(n, kind)) for n in (0.5, 4.0, 0.75)))


@TABLE.row("Upsample")
def upsample(g: Given) -> Iterator[Example]:
    """To the next and between."""
    for mode in ("nearest", "linear"):
        scales = np.array([1, 1, 2, 4], np.float32)  # weights are exact: integers are truncated
        given = Const(scales) if g.since >= 9 else None
        attributes: dict[str, object] = {} if g.since >= 9 else {"scales": [1.0, 1.0, 2.0, 4.0]}
        if g.since < 7:
            attributes = {"height_scale": 2.0, "width_scale": 4.0, "mode": "bilinear" if mode == "linear" else mode}
        yield g.case(mode, g.data("T", (1, 2, 3, 2)), given, **{"mode": mode, **attributes})
