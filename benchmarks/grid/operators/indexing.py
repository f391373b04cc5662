"""Indices: gathering, scattering, choosing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.fuzz.build import numpy_type
from benchmarks.grid.examples import WORDS, Const, Example, Given, Operand, Table

TABLE = Table()


@TABLE.row("Gather", exact=True)
def gather(g: Given) -> Iterator[Example]:
    """Scalars, lists and tensors of indices, negative ones."""
    kind = g.dtype("Tind")
    for axis in (0, 1, -1):
        for name, shape in (("scalar", ()), ("list", (3,)), ("table", (2, 3)), ("empty", (0,))):
            indices = g.rng(axis, name).integers(0, 5, shape).astype(kind)
            yield g.case(f"{axis} {name}", g.data("T", (5, 5)), indices, axis=axis)
    if g.since >= 11:
        yield g.case("negative", g.data("T", (5, 3)), np.array([[-1, 0], [-5, 4]], kind))
    yield g.case("constant", g.data("T", (5, 3)), Const(np.array([4, 0, 2], kind)))
    yield g.case("no data", g.data("T", (3, 0)), Const(np.array([1], kind)))


@TABLE.row("GatherElements", exact=True)
def gather_elements(g: Given) -> Iterator[Example]:
    """As many indices as results."""
    for axis in (0, 1, -1):
        for name, shape in (
            ("same", (3, 4)),
            ("fewer", (2, 4) if axis == 0 else (3, 2)),
            ("empty", (0, 4) if axis == 0 else (3, 0)),
        ):
            indices = g.rng(axis, name).integers(-3, 3, shape).astype(g.dtype("Tind"))
            yield g.case(f"{axis} {name}", g.data("T", (3, 4)), indices, axis=axis)


@TABLE.row("GatherND", exact=True)
def gather_nd(g: Given) -> Iterator[Example]:
    """Indices of elements, of rows, of each of a batch."""
    data = g.data("T", (2, 3, 4))
    yield g.case("elements", data, np.array([[0, 1, 2], [1, 2, -1]]))
    yield g.case("rows", data, np.array([[[0, 1]], [[1, -3]]]))
    yield g.case("slices", data, np.array([[1], [0], [-1]]))
    yield g.case("empty", data, np.zeros((0, 2), np.int64))
    if g.since >= 12:
        yield g.case("batch", data, np.array([[1], [2]]), batch_dims=1)
        yield g.case("batches", data, np.zeros((2, 3, 1), np.int64), batch_dims=2)


@TABLE.row("Scatter", "ScatterElements")
def scatter_elements(g: Given) -> Iterator[Example]:
    """Each reduction."""
    reductions = ["none", *(["add", "mul"] if g.since >= 16 else []), *(["max", "min"] if g.since >= 18 else [])]
    for reduction in reductions:
        for axis in (0, 1, *((-1,) if g.since >= 11 else ())):
            indices = np.array([[0, 2, 1, 0], [1, 0, 2, 2]] if axis == 0 else [[0, 3], [1, 0], [3, 2]])
            if reduction != "none":
                indices[:] = indices % 2
            given = {} if g.since < 16 else {"reduction": reduction}
            updates = g.data("T", indices.shape, seed=1)
            yield g.case(
                f"{reduction} {axis}", g.data("T", (3, 4)), indices.astype(g.dtype("Tind")), updates, axis=axis, **given
            )
    empty = np.zeros((0, 4), g.dtype("Tind"))
    yield g.case("empty", g.data("T", (3, 4)), empty, g.data("T", (0, 4), seed=1), axis=0)


@TABLE.row("ScatterND")
def scatter_nd(g: Given) -> Iterator[Example]:
    """Elements and rows; each reduction."""
    reductions = ["none", *(["add", "mul"] if g.since >= 16 else []), *(["max", "min"] if g.since >= 18 else [])]
    for reduction in reductions:
        given = {} if g.since < 16 else {"reduction": reduction}
        elements = np.array([[0, 1], [2, 3], [1, 0]] if reduction == "none" else [[0, 1], [2, 3], [0, 1]])
        yield g.case(f"{reduction} elements", g.data("T", (3, 4)), elements, g.data("T", (3,), seed=1), **given)
        rows = np.array([[2], [-3]] if g.since >= 11 else [[2], [0]])
        yield g.case(f"{reduction} rows", g.data("T", (3, 4)), rows, g.data("T", (2, 4), seed=1), **given)
    yield g.case("empty", g.data("T", (3, 4)), np.zeros((0, 1), np.int64), g.data("T", (0, 4), seed=1))


@TABLE.row("TensorScatter", exact=True)
def tensor_scatter(g: Given) -> Iterator[Example]:
    """A cache, in a line and in a circle."""
    cache, update = g.data("T", (2, 5, 3)), g.data("T", (2, 2, 3), seed=1)
    yield g.case("linear", cache, update, np.array([1, 3]))
    yield g.case("circular", cache, update, np.array([1, 4]), mode="circular")
    yield g.case("no indices", cache, update)
    yield g.case("axis", g.data("T", (2, 3, 5)), g.data("T", (2, 3, 2), seed=1), np.array([0, 3]), axis=2)


@TABLE.row("OneHot", exact=True)
def one_hot(g: Given) -> Iterator[Example]:
    """Axes, negative indices, those out of range."""
    depth = np.array(4, g.dtype("T2")) if g.since >= 11 else np.array([4], g.dtype("T2"))
    values = WORDS[:2] if g.dtype("T3") == "string" else g.data("T3", (2,), 0, 5)

    def case(name: str, indices: np.ndarray, depth: Operand, axis: int = -1) -> Example:
        wrapped = np.where(indices < 0, indices + 4, indices)
        hit = np.expand_dims(wrapped, axis) == np.arange(4).reshape([-1 if i == axis % 3 else 1 for i in range(3)])
        return g.case(name, indices.astype(g.dtype("T1")), depth, values, axis=axis, want=[values[hit.astype(int)]])

    for axis in (-1, 0, 1):
        yield case(f"axis {axis}", g.rng(axis).integers(0, 6, (2, 3)), Const(depth), axis)
    yield case("computed", np.array([[1, 3]]), depth)
    yield case("empty", np.zeros((0, 2), np.int64), Const(depth))
    if g.since >= 11 and not g.dtype("T1").startswith("u"):
        yield case("negative", np.array([[-1, -4, 3]]), Const(depth))


@TABLE.row("Compress", exact=True)
def compress(g: Given) -> Iterator[Example]:
    """Of all elements and along an axis."""
    x = g.data("T", (3, 5))
    yield g.case("flat", x, np.array([True, False, True, True]))
    yield g.case("rows", x, np.array([False, True, True]), axis=0)
    yield g.case("columns", x, np.array([True, False, True]), axis=1)
    yield g.case("none", x, np.zeros(3, bool), axis=0)
    if g.since >= 11:
        yield g.case("negative", x, np.array([True, False, True, False, True]), axis=-1)


@TABLE.row("NonMaxSuppression", exact=True)
def suppression(g: Given) -> Iterator[Example]:
    """Corners and centres; limits."""
    rng = g.rng()
    corners = rng.uniform(0, 1, (2, 7, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.2, 1, (2, 7, 2))], 2).astype(np.float32)
    scores = rng.permutation(2 * 3 * 7).reshape(2, 3, 7).astype(np.float32)
    most, overlap, least = (np.array([v], t) for v, t in ((3, np.int64), (0.3, np.float32), (9.5, np.float32)))
    yield g.case("all", boxes, scores, Const(most), Const(overlap), Const(least))
    yield g.case("computed", boxes, scores, most, overlap, least)
    yield g.case("no limit", boxes, scores, Const(most), Const(overlap))
    yield g.case("none", boxes, scores)
    yield g.case("centres", boxes, scores, Const(most), Const(overlap), center_point_box=1)
    yield g.case("no boxes", boxes[:, :0], scores[:, :, :0], Const(most))


@TABLE.row("TfIdfVectorizer")
def n_grams(g: Given) -> Iterator[Example]:
    """Pairs and single ones."""
    words = g.dtype("T") == "string"
    x = np.array([[1, 2, 3, 2], [2, 2, 3, 1]])
    given = np.array(["", "a", "b", "c"], object)[x] if words else x.astype(g.dtype("T"))
    pool = [1, 2, 1, 2, 2, 3]
    for mode in ("TF", "IDF", "TFIDF"):
        common = {"mode": mode, "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0}
        common |= {"ngram_counts": [0, 2], "ngram_indexes": [0, 1, 2, 3]}
        named = {"pool_strings": ["_abc"[i] for i in pool]} if words else {"pool_int64s": pool}
        yield g.case(f"{mode}", given, **common, **named)
        yield g.case(f"{mode} weights", given[0], weights=[0.5, 1.0, 2.0, 3.0], **common, **named)


@TABLE.row("Col2Im")
def columns_to_image(g: Given) -> Iterator[Example]:
    """Blocks that overlap and that do not."""
    image, block = Const(np.array([5, 5])), Const(np.array([2, 2]))
    yield g.case("plain", g.data("T", (1, 8, 16)), image, block)
    yield g.case("strides", g.data("T", (2, 4, 4)), image, block, strides=[2, 2])
    yield g.case("pads", g.data("T", (1, 4, 36)), image, block, pads=[1, 1, 1, 1])
    yield g.case("dilations", g.data("T", (1, 4, 9)), image, block, dilations=[2, 2])


@TABLE.row("StringConcat", exact=True)
def string_concat(g: Given) -> Iterator[Example]:
    """Strings that broadcast."""
    for name, a, b in (("same", (3,), (3,)), ("broadcast", (3, 1), (2,)), ("scalar", (), (2,)), ("empty", (0,), (1,))):
        yield g.case(name, g.data("T", a), g.data("T", b, seed=1))


@TABLE.row("StringNormalizer", exact=True)
def string_normalizer(g: Given) -> Iterator[Example]:
    """Cases and words left out."""
    words = np.array(["Monday", "tuesday", "Wed"], object)
    for action in ("NONE", "LOWER", "UPPER"):
        yield g.case(action, words, case_change_action=action, locale="en_US.UTF-8")
    yield g.case("stop", words, case_change_action="LOWER", is_case_sensitive=1, stopwords=["Monday"])


@TABLE.row("StringSplit", exact=True)
def string_split(g: Given) -> Iterator[Example]:
    """At spaces and at given texts."""
    words = np.array(["a b  c", " d", ""], object)
    yield g.case("spaces", words, results=2)
    yield g.case("given", np.array(["a,b,,c", "d"], object), delimiter=",", results=2)
    yield g.case("most", words, maxsplit=1, results=2)


@TABLE.row("RegexFullMatch", exact=True)
def matches(g: Given) -> Iterator[Example]:
    """A class and a repeat."""
    for name, pattern in (("letters", "[a-z]+"), ("any", ".*"), ("number", r"-?\d+(\.\d+)?")):
        yield g.case(name, WORDS, pattern=pattern)


@TABLE.row("Bernoulli", "Multinomial", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike")
def random(g: Given) -> Iterator[Example]:
    """Shapes and types alone can be compared."""
    from benchmarks.fuzz.build import dtype_code

    names = {c.type_param_str for c in g.schema.type_constraints}
    to = g.dtype("T2" if "T2" in names else "T")
    dtype, kind = dtype_code(to), numpy_type(to)
    if not g.schema.inputs:
        yield g.case("shape", shape=[3, 5], dtype=dtype, want=[np.zeros((3, 5), kind)])
        yield g.case("empty", shape=[0, 5], dtype=dtype, want=[np.zeros((0, 5), kind)])
        return
    if g.op == "Multinomial":
        yield g.case("samples", g.data("T1", (2, 5), 0, 1), sample_size=4, dtype=dtype, want=[np.zeros((2, 4), kind)])
        return
    for name, shape in (("odd", (3, 5)), ("empty", (0, 3)), ("scalar", ())):
        yield g.case(name, g.data("T1", shape, 0, 1), dtype=dtype, want=[np.zeros(shape, kind)])
