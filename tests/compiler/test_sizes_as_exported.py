"""Sizes that come from data as detection and language models have them, in the spelling of the exporters, against ONNX
Runtime. The graphs are in sizes_as_exported.txt; here is what they are run on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from ingot.compiler import compile
from ingot.runtime import RuntimeFault

Feed = Mapping[str, np.ndarray]
CONSTANTS = """<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4},
    int64[1] last = {-1}, int64 i0 = {0}, int64 i1 = {1}, float f0 = {0},
    float half = {0.5}, float[2] off_on = {0, 1}, int64[1] far = {9223372036854775807}, bool yes = {1}>"""


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float, dtype: type = np.int64) -> np.ndarray:
    return np.array(value, dtype)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape, np.float32)


def limits(n: int, *values: float) -> list[Feed]:
    return [{"scores": noise(n), "boxes": noise(n, 4), "limit": scalar(v, np.float32)} for v in values]


FEEDS: dict[str, list[Feed]] = {
    # what is found
    "gather_nd": limits(7, 0.4, 0),
    "boolean_mask": [
        {"x": noise(2, 3, 4), "mask": np.array(m, bool).reshape(2, 3)} for m in ([1, 0, 1, 0, 0, 1], [0] * 6, [1] * 6)
    ],
    "masked_fill_of_rows": [
        {"x": noise(5, 3), "scores": noise(5), "limit": scalar(v, np.float32)} for v in (0.5, 0, 2)
    ],
    "unique_and_expand": [{"ids": i64(*v), "table": noise(10, 3)} for v in ((3, 1, 3, 9), (5,), (2, 2, 2))],
    "range_and_gather": [{"x": noise(4, 2), "mask": np.array(m, bool)} for m in ([1, 0, 1, 1], [0] * 4, [1] * 4)],
    "top_of_what_is_found": limits(9, 0.2, 0.9, 2),
    "top_of_both": [{"scores": noise(6), "most": i64(k)} for k in (2, 9, 0, 6)],
    # parts
    "split_of_the_best": [
        {"x": noise(5), "k": i64(k), "cut": i64(a, k - a)} for k, a in ((4, 1), (5, 5), (0, 0), (3, 0))
    ],
    "split_of_the_best_by_other_names": [
        {"x": noise(5), "k": i64(k), "cut": i64(a, k - a)} for k, a in ((4, 1), (5, 5), (0, 0))
    ],
    "concat_and_split_back": [
        {"x": f32(*a), "y": f32(*b)} for a, b in (((1, 0, 2), (3,)), ((0,), (1, 2)), ((), ()), ((5, 6), (0, 0)))
    ],
    "split_in_a_branch": [
        {"x": noise(5), "k": i64(k), "cut": i64(a, k - a), "c": scalar(c, np.bool_)}
        for k, a, c in ((4, 1, True), (5, 5, True), (0, 0, True), (3, 0, False))
    ],
    "split_in_a_loop": [
        {"x": noise(5), "k": i64(k), "cut": i64(a, k - a), "trips": scalar(t)}
        for k, a, t in ((4, 1, 3), (5, 5, 1), (0, 0, 2), (3, 0, 0))
    ],
    "split_by_the_iteration": [{"x": noise(5), "trips": scalar(t)} for t in (5, 0, 1)],
    "slices_by_data": [
        {"x": noise(7, 6), "start": i64(a), "end": i64(b)} for a, b in ((1, 5), (0, 0), (-3, 100), (5, 2))
    ],
    "slice_by_computed_steps": [
        {"x": noise(7), "start": i64(a), "end": i64(b), "step": i64(s)}
        for a, b, s in ((1, 5, 2), (0, 7, 1), (6, 0, -2), (5, 2, 1))
    ],
    # padding, repeating, filling
    "pad_to_the_longest": [{"x": noise(2, 3, 4), "lengths": i64(*v)} for v in ((5, 3), (3, 1), (1, 2), (0, 0))],
    "pad_to_a_multiple": [
        {"x": noise(1, 2, h, w), "by": i64(*b)} for h, w, b in ((5, 6, (4, 4)), (8, 4, (4, 4)), (3, 3, (1, 5)))
    ],
    "tile_and_expand": [{"x": noise(2, 3), "count": scalar(c)} for c in (3, 1, 0)],
    "constant_of_a_count": [{"x": f32(*a), "y": f32(*b)} for a, b in (((1, 0, 2), (3,)), ((0,), ()), ((1, 1), (7, 8)))],
    "one_hot_of_computed_depth": [{"ids": i64(*v)} for v in ((3, 0, 2), (0,), (7, 7, 1, 1))],
    "causal_masks": [{"length": i64(n), "k": scalar(k)} for n, k in ((4, 1), (3, -1), (1, 0), (0, 0), (5, 9))],
    "positions_by_running_sums": [
        {"ids": np.array(v, np.int64), "pad": scalar(1), "axis": scalar(a)}
        for v, a in (([[5, 6, 1], [7, 1, 1]], 0), ([[1, 1]], 1), ([[4, 3]], -1))
    ],
    "scatter_into_a_computed_shape": [{"places": i64(*v), "rows": noise(len(v), 3)} for v in ((3, 0, 2), (0,), (6, 1))],
    "grid_of_computed_sizes": [
        {"x": noise(1, 1, 2, 2), "rows": scalar(a), "columns": scalar(b)} for a, b in ((2, 3), (0, 4), (1, 1))
    ],
    # loops, branches, sequences
    "greedy_decoding": [
        {"prompt": i64(*p)[None], "table": noise(12, 12), "most": scalar(m), "stop": scalar(s)}
        for p, m, s in (((1, 2), 6, -1), ((3,), 0, 5), ((4, 5, 6), 9, 7))
    ],
    "rows_collected_in_a_sequence": [{"x": noise(len(c), 3), "counts": i64(*c)} for c in ((2, 0, 3), (1,), (0, 0))],
    "repeat_interleave": [{"x": noise(len(c), 2), "repeats": i64(*c)} for c in ((2, 1, 3), (1,), (0, 4))],
    "crops": [
        {"image": noise(1, 3, 9, 8), "boxes": np.array(v, np.int64).reshape(-1, 4)}
        for v in ([[0, 0, 5, 4], [2, 1, 9, 8]], [[3, 3, 4, 4]], [])
    ],
    "branches_of_other_ranks": [{"x": noise(2, 3), "k": i64(k)} for k in (1, 2, 6)],
    "nothing_found_takes_another_way": limits(6, 0.3, 2, -1),
    "a_loop_that_keeps_what_is_above_the_mean": [{"x": f32(*v)} for v in ((1, 5, 2, 8), (3,), (1, 2, 3, 4, 5, 6))],
    "a_running_sum_of_slices": [{"x": noise(5), "y": f32(-2), "trips": scalar(t)} for t in (5, 1, 0)],
    # images
    "resize_by_computed_sizes": [{"x": noise(1, 2, 4, 5), "wanted": i64(*w)} for w in ((8, 10), (3, 7), (1, 1))],
    "resize_to_fit": [
        {"x": noise(1, 3, h, w), "side": scalar(s, np.float32)} for h, w, s in ((4, 6, 9), (8, 5, 4), (3, 3, 3))
    ],
    "suppression_and_the_best": [
        {
            "boxes": np.sort(noise(1, 8, 4).reshape(1, 8, 2, 2), axis=2).reshape(1, 8, 4),
            "scores": noise(1, 2, 8),
            "limit": scalar(v, np.float32),
        }
        for v in (0.1, 0.6, 2)
    ],
    "regions_by_level": [
        {"fine": noise(1, 2, 8, 8), "coarse": noise(1, 2, 4, 4), "boxes": np.array(b, np.float32).reshape(-1, 4)}
        for b in ([[0, 0, 2, 2], [1, 1, 7, 6], [2, 0, 4, 3]], [[0, 0, 1, 1]], [[0, 0, 7, 7]])
    ],
    "overlaps_of_what_is_found": limits(7, 0.3, 0.99, -1),
    # language
    "unpadded_attention": [
        {"x": noise(2, 3, 4), "mask": np.array(m, np.int64).reshape(2, 3), "w": noise(4, 4)}
        for m in ([1, 1, 0, 1, 0, 0], [0] * 6, [1] * 6)
    ],
    "decoding_of_classes_in_time": [
        {"logits": np.eye(4, dtype=np.float32)[list(v)]} for v in ((0, 1, 1, 0, 2, 2, 3), (0, 0), (3,))
    ],
    "the_last_state_of_each": [
        {"x": noise(2, 5, 3), "lengths": i64(*v), "window": scalar(w)}
        for v, w in (((5, 2), 2), ((1, 1), 3), ((4, 3), 1))
    ],
    "pairs_of_what_is_found": [
        {"x": np.array(v, np.float32)} for v in ([[1, 0, 2], [0, 3, 4]], [[0, 0]], [[1], [1], [1]])
    ],
    "windows_of_a_computed_number": [{"x": noise(7), "width": scalar(w)} for w in (3, 7, 1)],
}


def models() -> dict[str, onnx.ModelProto]:
    """The graphs of sizes_as_exported.txt: a name after ``#``, then signature and nodes."""
    text = Path(__file__).with_name("sizes_as_exported.txt").read_text()
    return {name: parsed(graph) for name, graph in re.findall(r"^# (\w+)\n(.*?)(?=^# |\Z)", text, re.M | re.S)}


def parsed(text: str) -> onnx.ModelProto:
    """A model of a signature and nodes, which may use the constants."""
    signature, nodes = text.split("{", 1)
    header = '<ir_version: 9, opset_import: ["" : 18]> m'
    return onnx.parser.parse_model(f"{header} {signature.strip()} {CONSTANTS} {{{nodes}")


MODELS = models()


def check(model: onnx.ModelProto, feeds: Sequence[Feed]) -> None:
    """It compiles as it is, and gives in one session for every feed what ONNX Runtime gives."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    reference = ort.InferenceSession(model.SerializeToString(), options)
    names = [o.name for o in reference.get_outputs()]
    with compile(model, jobs=1).session(threads=1) as session:
        for feed in feeds:
            found = session.run(dict(feed))
            for output, want in zip(names, reference.run(None, dict(feed)), strict=True):
                expected = np.asarray(want)
                assert found[output].dtype == expected.dtype and found[output].shape == expected.shape, output
                np.testing.assert_allclose(found[output], expected, rtol=1e-5, atol=1e-5, err_msg=output)


@pytest.mark.parametrize("name", MODELS)
def test_as_onnx_runtime(name: str) -> None:
    check(MODELS[name], FEEDS[name])


@pytest.mark.parametrize("name", ["split_of_the_best", "split_in_a_branch", "split_in_a_loop"])
def test_parts_that_are_not_the_whole(name: str) -> None:
    """A run ends where parts do not make up what is cut; the next one is right."""
    feed = FEEDS[name][0]
    with compile(MODELS[name], jobs=1).session(threads=1) as session:
        for cut in ((1, 2), (4, 4), (5, -1)):
            with pytest.raises(RuntimeFault, match=r"for the model to make sense|is outside 0|is larger than"):
                session.run({**feed, "cut": i64(*cut)})
        assert session.run(dict(feed))


def test_a_branch_says_nothing_about_the_other() -> None:
    """An axis is 1 where it is squeezed, which is in one branch only."""
    model = parsed("""(float[n, 3] x) => (float[k] y) {
        count = Shape<start = 0, end = 1>(x)
        alone = Equal(count, one)
        single = Squeeze(alone)
        y = If(single) <then_branch = t () => (float[a] row) { row = Squeeze(x, zero) },
                        else_branch = e () => (float[a] all) { all = ReduceSum<keepdims = 0>(x, zero) }> }""")
    check(model, [{"x": noise(n, 3)} for n in (1, 4, 0)])


def test_an_axis_that_is_not_one_in_a_branch_taken() -> None:
    model = parsed("""(float[n, 3] x, bool c) => (float[k] y) {
        y = If(c) <then_branch = t () => (float[a] row) { row = Squeeze(x, zero) },
                   else_branch = e () => (float[a] all) { all = ReduceSum<keepdims = 0>(x, zero) }> }""")
    with compile(model, jobs=1).session(threads=1) as session:
        assert session.run({"x": noise(2, 3), "c": scalar(False, np.bool_)})["y"].shape == (3,)
        with pytest.raises(RuntimeFault, match="cannot be squeezed"):
            session.run({"x": noise(2, 3), "c": scalar(True, np.bool_)})
        np.testing.assert_array_equal(session.run({"x": noise(1, 3), "c": scalar(True, np.bool_)})["y"], noise(1, 3)[0])
