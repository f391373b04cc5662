"""Sequences whose length or positions depend on data, and optionals whose presence does: native code against ONNX
Runtime, and what ends a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.testing import assert_array_equal

from ingot.compiler import compile
from ingot.compiler.frontend import UnsupportedError, load_onnx
from ingot.compiler.onnx_backend import Prepared, prepare
from ingot.runtime import RuntimeFault

onnxruntime = pytest.importorskip("onnxruntime")

HEAD = '<ir_version: 9, opset_import: ["": 18]> main '
X = np.random.default_rng(6).standard_normal((4, 3)).astype(np.float32)
ROWS = "first = Constant<value_ints = [0, 1]>() a = Gather<axis = 0>(x, first)"


def whole(*values: int) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.int64)


def assert_same(got: Any, want: Any) -> None:
    """Tensors and lists of tensors are the same."""
    if isinstance(want, list | tuple):
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            assert_same(a, b)
    else:
        assert_array_equal(got, want)
        assert got.dtype == want.dtype


def check(text: str, *runs: tuple[np.ndarray, ...]) -> Prepared:
    """For each run the outputs are those of ONNX Runtime, or both end in an error."""
    model = onnx.parser.parse_model(HEAD + text)
    names = [i.name for i in model.graph.input]
    peer = onnxruntime.InferenceSession(model.SerializeToString())
    ready = prepare(model)
    for inputs in runs:
        given = dict(zip(names, inputs, strict=True))
        try:
            want = peer.run(None, given)
        except Exception:  # ONNX Runtime's errors have no class in common
            with pytest.raises(RuntimeFault):
                ready.run(given)
            continue
        assert_same(ready.run(given), want)
    return ready


# -- positions --------------------------------------------------------------------------------------------------------

PLACES = [(X, whole(p)) for p in (-4, -3, -2, -1, 0, 1, 2, 3)]


def test_an_element_at_a_computed_position() -> None:
    check(
        """(float[4, 3] x, int64 p) => (float[4, 3] y) {
            a = Neg(x) b = Abs(x) s = SequenceConstruct(x, a, b) y = SequenceAt(s, p)
        }""",
        *PLACES,
    )
    check(
        f"""(float[4, 3] x, int64 p) => (float[k, 3] y) {{
            {ROWS} b = Abs(x) s = SequenceConstruct(x, a, b) y = SequenceAt(s, p)
        }}""",
        *PLACES,
    )


def test_insertion_and_removal_at_computed_positions() -> None:
    check(
        f"""(float[4, 3] x, int64 p) => (seq(float) y, float[k, 3] z, int64 n) {{
            {ROWS} s = SequenceConstruct(x, a) b = Neg(a) y = SequenceInsert(s, b, p)
            z = SequenceAt(y, p) n = SequenceLength(y)
        }}""",
        *PLACES[1:-1],
    )
    check(
        f"""(float[4, 3] x, int64 p) => (seq(float) y) {{
            {ROWS} s = SequenceConstruct(x, a, a, x) t = SequenceErase(s, p) u = SequenceErase(t)
            y = SequenceErase(u, p)
        }}""",
        *PLACES,
    )


@pytest.mark.parametrize("place", [0, 2, -1])
def test_constant_positions_in_a_sequence_of_any_length(place: int) -> None:
    """What would be computed for a place that is not there does not even have a size."""
    check(
        f"""(float[n, 3] x) => (seq(float) y, seq(float) z, float[1, 3] e) {{
            s = SplitToSequence(x) p = Constant<value_int = {place}>()
            e = SequenceAt(s, p) y = SequenceInsert(s, x, p) z = SequenceErase(s, p)
        }}""",
        (X,),
        (X[:1],),
        (X[:0],),
    )


def test_positions_of_other_integers_and_of_shape_one() -> None:
    text = """(float[2, 3] x, int32[1] p) => (float[2, 3] y) {
        a = Neg(x) s = SequenceConstruct(x, a) y = SequenceAt(s, p)
    }"""
    ready = prepare(onnx.parser.parse_model(HEAD + text))
    assert_array_equal(ready.run([X[:2], np.array([1], np.int32)])[0], -X[:2])


# -- splitting and joining --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_split_by_a_computed_size(axis: int) -> None:
    parts = [(X, whole(n)) for n in (-1, 0, 1, 2, 3, 4, 7)]
    check(
        f"""(float[n, m] x, int64 size) => (seq(float) y, int64 count) {{
            y = SplitToSequence<axis = {axis}>(x, size) count = SequenceLength(y)
        }}""",
        *parts,
        (X[:0], whole(2)),
        (X[:, :0], whole(2)),
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_split_by_a_list_of_any_length_and_back(axis: int) -> None:
    total = X.shape[axis]
    lists = (whole(1, 0, total - 1), whole(1, total), np.array([total]), whole(total + 1, -1), whole(2, 0, total - 2))
    check(
        f"""(float[n, m] x, int64[k] sizes) => (seq(float[r, t]) y, float[p, q] z) {{
            y = SplitToSequence<axis = {axis}>(x, sizes) z = ConcatFromSequence<axis = {axis}>(y)
        }}""",
        *((X, sizes) for sizes in lists),
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_split_into_elements_and_stacked_again(axis: int) -> None:
    check(
        f"""(float[n, m] x) => (float[p, q] z, float[r, 3] u) {{
            y = SplitToSequence<axis = {axis}, keepdims = 0>(x)
            z = ConcatFromSequence<axis = {axis}, new_axis = 1>(y)
            k = SplitToSequence<axis = 0, keepdims = 1>(x) u = ConcatFromSequence<axis = 0>(k)
        }}""",
        (X,),
        (X[:1],),
        (X[:0],),
    )


# -- loops ------------------------------------------------------------------------------------------------------------

PREFIX = """one = Constant<value_int = 1>() z = Constant<value_ints = [0]>() after = Add(i, one)
            end = Unsqueeze(after, z) part = Slice(x, z, end, z)"""
TRIPS = [(whole(n), X) for n in (0, 1, 2, 4, 6)]


def test_elements_of_different_shapes() -> None:
    check(
        f"""(int64 n, bool go, float[4, 3] x) => (seq(float) r, int64 k) {{
            none = SequenceEmpty()
            r = Loop(n, go, none)<body = b (int64 i, bool c, seq(float) s) => (bool on, seq(float) t) {{
                on = Identity(c) {PREFIX} t = SequenceInsert(s, part)
            }}> k = SequenceLength(r)
        }}""",
        *((n, np.array(True), x) for n, x in TRIPS),
        (whole(3), np.array(False), X),
    )


@pytest.mark.parametrize(("axis", "stacked"), [(0, 0), (1, 0), (-1, 0), (0, 1), (1, 1), (2, 1)])
def test_what_a_loop_collected_is_joined(axis: int, stacked: int) -> None:
    part = "v" if stacked or axis == 0 else "w"
    check(
        f"""(int64 n, float[4, 3] x) => (float[] r, int64[k] shape) {{
            none = SequenceEmpty()
            last, all = Loop(n, , x, none)<body = b (int64 i, bool c, float[4, 3] v, seq(float) s)
                => (bool on, float[4, 3] u, seq(float) t) {{
                on = Identity(c) u = Add(v, x) z = Constant<value_ints = [0]>() one = Constant<value_ints = [1]>()
                end = Unsqueeze(i, z) w = Slice(v, z, end, one) t = SequenceInsert(s, {part})
            }}> joined = ConcatFromSequence<axis = {axis}, new_axis = {stacked}>(all)
            r = ReduceSum<keepdims = 0>(joined) shape = Shape(joined)
        }}""",
        *((n, np.ones((4, 3), np.float32)) for n, _ in TRIPS),
    )


def test_elements_are_read_by_the_number_of_the_iteration() -> None:
    check(
        """(float[n, m] x) => (float[m] y) {
            s = SplitToSequence<axis = 0, keepdims = 0>(x) k = SequenceLength(s) d = Shape<start = 1>(x)
            zero = ConstantOfShape(d)
            y = Loop(k, , zero)<body = b (int64 i, bool c, float[m] sum) => (bool on, float[m] more) {
                on = Identity(c) e = SequenceAt(s, i) more = Add(sum, e)
            }>
        }""",
        (X.round(),),
        (X[:1],),
        (X[:0],),
    )


@pytest.mark.parametrize("extent", [3, 0])
def test_a_loop_reads_a_sequence_that_it_carries_unchanged(extent: int) -> None:
    x = np.arange(4 * extent, dtype=np.float32).reshape(4, extent)
    check(
        f"""(int64 n, int64 k, int64 at, float[4, {extent}] x)
            => (float[r, {extent}] y, int64 l, float[{extent}] sum) {{
            first = SequenceConstruct(x)
            s = Loop(k, , first)<body = b (int64 i, bool c, seq(float[]) v) => (bool on, seq(float[]) w) {{
                on = Identity(c) {PREFIX} w = SequenceInsert(v, part)
            }}>
            d = Shape<start = 1>(x) zero = ConstantOfShape(d)
            all, sum = Loop(n, , s, zero)<body = reader (int64 i, bool c, seq(float[]) v, float[{extent}] u)
                => (bool on, seq(float[]) w, float[{extent}] more) {{
                on = Identity(c) w = Identity(v) e = SequenceAt(v, i) axis = Constant<value_ints = [0]>()
                row = ReduceSum<keepdims = 0>(e, axis) more = Add(u, row)
            }}>
            y = SequenceAt(all, at) l = SequenceLength(all)
        }}""",
        *((whole(n), whole(k), whole(c), x) for n, k, c in ((2, 3, 1), (0, 2, 0), (3, 2, 2), (1, 0, 0), (4, 5, -1))),
    )


def test_a_queue() -> None:
    """In at the front, out at the end; the last iteration finds it empty."""
    check(
        """(int64 n, float[4, 3] x) => (seq(float) r) {
            q = SequenceConstruct(x, x, x)
            r = Loop(n, , q)<body = b (int64 i, bool c, seq(float) s) => (bool on, seq(float) t) {
                on = Identity(c) first = Constant<value_int = 0>() t = SequenceErase(s, first)
            }>
        }""",
        *TRIPS[:-1],
    )
    check(
        f"""(int64 n, float[4, 3] x) => (seq(float) r) {{
            q = SequenceConstruct(x)
            r = Loop(n, , q)<body = b (int64 i, bool c, seq(float) s) => (bool on, seq(float) t) {{
                on = Identity(c) {PREFIX} first = Constant<value_int = 0>() t = SequenceInsert(s, part, first)
            }}>
        }}""",
        *TRIPS,
    )


def test_a_condition_a_branch_and_a_scan_output() -> None:
    check(
        """(float limit, float[4, 3] x) => (float[] sum, seq(float) r, int64[k] lengths) {
            none = SequenceEmpty() zero = Constant<value_float = 0.0>() go = Constant<value = bool {1}>()
            sum, r, lengths = Loop(, go, zero, none)<body = b (int64 i, bool c, float v, seq(float) s)
                => (bool on, float u, seq(float) t, int64 l) {
                step = Constant<value_float = 1.5>() u = Add(v, step) on = Less(u, limit)
                two = Constant<value_int = 2>() rest = Mod(i, two) odd = Cast<to = 9>(rest)
                t = If(odd)<then_branch = yes () => (seq(float) p) { p = SequenceInsert(s, x) },
                            else_branch = no () => (seq(float) q) { q = Identity(s) }>
                l = SequenceLength(t)
            }>
        }""",
        *((np.array(limit, np.float32), X) for limit in (0.0, 1.0, 2.0, 8.0)),
    )


def test_two_sequences_of_different_types() -> None:
    check(
        """(int64 n, float[4, 3] x) => (seq(int64) p, seq(float) q) {
            e = SequenceEmpty<dtype = 7>() f = SequenceEmpty()
            p, q = Loop(n, , e, f)<body = b (int64 i, bool c, seq(int64) s, seq(float) t)
                => (bool on, seq(int64) u, seq(float) v) {
                on = Identity(c) u = SequenceInsert(s, i) v = SequenceInsert(t, x)
            }>
        }""",
        *TRIPS[:3],
    )


def test_a_body_for_each_element() -> None:
    text = """(float[n, m] x) => (seq(float) y) {
        s = SplitToSequence(x)
        y = SequenceMap(s, x)<body = b (float[1, m] e, float[n, m] w) => (float[k, m] o) { o = Concat<axis = 0>(e, w) }>
    }"""
    ready = prepare(onnx.parser.parse_model(HEAD + text))
    for x in (X, X[:1], X[:0]):
        assert_same(ready.run([x]), [[np.concatenate((row[None], x)) for row in x]])


# -- branches ---------------------------------------------------------------------------------------------------------

SIDES = [(np.array(c), X) for c in (True, False)]


@pytest.mark.parametrize("other", ["SequenceConstruct(row)", "SequenceConstruct(row, x)", "SequenceEmpty()"])
def test_branches_give_sequences(other: str) -> None:
    check(
        f"""(bool c, float[4, 3] x) => (seq(float) y, int64 n) {{
            y = If(c)<then_branch = yes () => (seq(float) p) {{ p = SequenceConstruct(x, x) }},
                      else_branch = no () => (seq(float) q) {{
                          z = Constant<value_ints = [0]>() row = Gather(x, z) q = {other}
                      }}>
            n = SequenceLength(y)
        }}""",
        *SIDES,
    )


def test_branches_change_a_sequence_from_outside() -> None:
    check(
        """(bool c, float[n, 3] x) => (seq(float) y, int64 k) {
            s = SplitToSequence(x)
            y = If(c)<then_branch = yes () => (seq(float) p) { z = Constant<value_int = 0>() p = SequenceErase(s, z) },
                      else_branch = no () => (seq(float) q) { q = SequenceInsert(s, x) }>
            k = SequenceLength(y)
        }""",
        *SIDES,
        (np.array(True), X[:0]),
        (np.array(False), X[:0]),
    )


OPTIONAL = """o = If(c)<then_branch = yes () => (optional(float) p) { p = Optional(x) },
                      else_branch = no () => (optional(float) q) { q = Optional<type = float[4, 3]>() }>"""


def test_presence_depends_on_data() -> None:
    check(
        f"""(bool c, float[4, 3] x) => (bool h, float[4, 3] y) {{
            {OPTIONAL} h = OptionalHasElement(o)
            y = If(h)<then_branch = a () => (float[4, 3] u) {{ u = OptionalGetElement(o) }},
                      else_branch = b () => (float[4, 3] v) {{ v = Neg(x) }}>
        }}""",
        *SIDES,
    )


def test_the_content_of_what_is_empty_ends_the_run() -> None:
    ready = check(f"(bool c, float[4, 3] x) => (float[4, 3] y) {{ {OPTIONAL} y = OptionalGetElement(o) }}", SIDES[0])
    with pytest.raises(RuntimeFault, match="empty optional"):
        ready.run([np.array(False), X])


def test_an_optional_result() -> None:
    text = f"(bool c, float[4, 3] x) => (optional(float[4, 3]) o) {{ {OPTIONAL} }}"
    ready = prepare(onnx.parser.parse_model(HEAD + text))
    assert_array_equal(ready.run([np.array(True), X])[0], X)
    assert ready.run([np.array(False), X])[0] is None


# -- what a session gives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["native", "interpreter"])
def test_results_are_data_and_shapes(target: str) -> None:
    text = """(bool c, float[4, 3] x) => (seq(float) y) {
        y = If(c)<then_branch = yes () => (seq(float) p) { p = SequenceConstruct(x) },
                  else_branch = no () => (seq(float) q) { s = ReduceSum<keepdims = 0>(x) q = SequenceConstruct(s, x) }>
    }"""
    with compile(onnx.parser.parse_model(HEAD + text), target=target, jobs=1).session(threads=1) as session:
        got = session.run({"c": np.array(False), "x": X})
    assert_array_equal(got["y/shapes"], [[0, 1, 1], [2, 4, 3]])
    np.testing.assert_allclose(got["y/data"], np.concatenate(([X.sum()], X.ravel())), rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("y = SequenceAt(s, p)", "different numbers of axes"),
        ("t = SequenceErase(s, p) y = ConcatFromSequence<axis = 0>(t)", "different numbers of axes"),
    ],
)
def test_elements_of_different_ranks(text: str, problem: str) -> None:
    head = "(float[3] x, int64 p) => (float[k] y) { r = ReduceSum<keepdims = 0>(x) s = SequenceConstruct(x, r) "
    with pytest.raises(UnsupportedError, match=problem):
        load_onnx(onnx.parser.parse_model(HEAD + head + text + "}"))
