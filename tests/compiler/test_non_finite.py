"""NaN and infinities in single elements of an input reach what they must reach: exactly that with strict numerics, and
by default too, but for what is told in docs/levels.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product as cartesian
from typing import Any, Literal

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from ingot.compiler import compile

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Reference = Callable[[Arrays], list[Array]]
SPECIAL = (np.nan, np.inf, -np.inf)
rng = np.random.default_rng(0)


def r(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def w(*shape: int) -> Array:
    """Weights, some of which are zero: with an infinity they make NaN."""
    made = r(*shape)
    made[np.abs(made) < 0.1] = 0
    return made


@dataclass(frozen=True)
class Case:
    """A model as text, what it is given and constants. The reference is ONNX's evaluator, ONNX Runtime, or a function
    of all arrays. `spread`: by default more elements may be NaN than must be."""

    text: str
    inputs: Arrays
    weights: Arrays = field(default_factory=dict[str, Array])
    reference: Literal["onnx", "runtime"] | Reference = "onnx"
    opset: int = 20
    spread: bool = False

    def model(self) -> onnx.ModelProto:
        made = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {self.opset}]> m {self.text}')
        made.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in self.weights.items())
        return made


def windows(x: Array, kernel: Sequence[int], strides: Sequence[int], pads: int, dilation: int = 1) -> list[Any]:
    """For each place of the output: its index, and (tap, place) of what it reads inside x [N, C, H, W]."""
    sides = zip(x.shape[2:], kernel, strides, strict=True)
    extents = [(n + 2 * pads - dilation * (k - 1) - 1) // s + 1 for n, k, s in sides]
    found: list[Any] = []
    for place in np.ndindex(*extents):
        inside = []
        for tap in np.ndindex(*kernel):
            at = tuple(p * s + t * dilation - pads for p, s, t in zip(place, strides, tap, strict=True))
            if all(0 <= a < n for a, n in zip(at, x.shape[2:], strict=True)):
                inside.append((tap, at))
        found.append((place, inside))
    return found


def conv(strides: int = 1, pads: int = 0, dilation: int = 1, group: int = 1) -> Reference:
    def compute(arrays: Arrays) -> list[Array]:
        x, filters = arrays["x"], arrays["w"]
        steps = [strides] * (x.ndim - 2)
        places = windows(x, filters.shape[2:], steps, pads, dilation)
        shape = [place + 1 for place in places[-1][0]]
        y = np.zeros((x.shape[0], filters.shape[0], *shape))
        of_group, channels = filters.shape[0] // group, filters.shape[1]
        for place, inside in places:
            for g in range(group):
                own = slice(g * of_group, (g + 1) * of_group)
                for tap, at in inside:
                    seen = x[(slice(None), slice(g * channels, (g + 1) * channels), *at)].astype(np.float64)
                    y[(slice(None), own, *place)] += (seen[:, None] * filters[(own, slice(None), *tap)]).sum(-1)
        return [y]

    return compute


def transposed(arrays: Arrays) -> list[Array]:
    """Stride 2, no pads."""
    x, filters = arrays["x"].astype(np.float64), arrays["w"]
    y = np.zeros((x.shape[0], filters.shape[1], *(2 * (n - 1) + filters.shape[2] for n in x.shape[2:])))
    for i, j, k, m in cartesian(*map(range, x.shape[2:]), *map(range, filters.shape[2:])):
        y[:, :, 2 * i + k, 2 * j + m] += (x[:, :, i, j, None] * filters[:, :, k, m]).sum(1)
    return [y]


def pool(reduce: Callable[..., Any], size: int, stride: int, pads: int) -> Reference:
    def compute(arrays: Arrays) -> list[Array]:
        x = arrays["x"]
        places = windows(x, (size, size), (stride, stride), pads)
        y = np.zeros((*x.shape[:2], *(place + 1 for place in places[-1][0])))
        for place, inside in places:
            y[(..., *place)] = reduce(np.stack([x[(..., *at)] for _, at in inside]), 0)
        return [y]

    return compute


def attention(arrays: Arrays) -> list[Array]:
    q, k, v = (arrays[name].astype(np.float64) for name in "qkv")
    scores = q @ np.swapaxes(k, -1, -2) * 0.25
    scores = scores + arrays["m"] if "m" in arrays else scores
    with np.errstate(all="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return [(weights / weights.sum(-1, keepdims=True)) @ v]


def scores_model(mask: bool) -> str:
    given = ", float[40, 70] m" if mask else ""
    last = "a = Add (c, m)" if mask else "a = Identity (c)"
    return f"""(float[2, 40, 16] q, float[2, 70, 16] k, float[2, 70, 16] v{given}) => (float[2, 40, 16] y) {{
        t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)  c = Mul (s, quarter)  {last}
        p = Softmax <axis = -1> (a)  y = MatMul (p, v) }}"""


def blocked() -> Array:
    """A causal mask with one row that sees nothing."""
    mask = np.where(np.tril(np.ones((40, 70), bool), 20), 0, -np.inf).astype(np.float32)
    mask[3] = -np.inf
    return mask


QUARTER = {"quarter": np.array(0.25, np.float32)}
HEADS = {"q": r(2, 40, 16), "k": r(2, 70, 16), "v": r(2, 70, 16)}
IMAGE = {"x": r(1, 8, 9, 9)}
ROWS = {"x": r(3, 5, 37)}
FUNCTIONS = (
    "Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Erf", "Gelu", "Softplus", "HardSwish", "Elu", "Abs", "LeakyRelu",
    "Floor", "Round", "Sign", "Sin", "Atan", "Cosh", "Reciprocal", "Softsign", "Mish", "Neg",
)  # fmt: skip
REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare")
PAIRS = ("Min", "Max", "Add", "Sub", "Mul", "Div", "Pow")


def outputs(count: int, shape: str) -> str:
    return ", ".join(f"float{shape} y{i}" for i in range(count))


def reductions(axis: int, shape: str) -> Case:
    steps = " ".join(f"y{i} = Reduce{name} <keepdims = 0> (x, axis)" for i, name in enumerate(REDUCTIONS))
    text = f"(float[3, 5, 37] x) => ({outputs(len(REDUCTIONS), shape)}) {{ {steps} }}"
    return Case(text, ROWS, {"axis": np.array([axis])})


def recurrent(name: str, gates: int) -> Case:
    more = ", float[1, 2, 6] c" if name == "LSTM" else ""
    results = "y, h, c" if name == "LSTM" else "y, h"
    text = f"""(float[5, 2, 4] x, float[1, 2, 6] h0) => (float[5, 1, 2, 6] y, float[1, 2, 6] h{more}) {{
        {results} = {name} <hidden_size = 6> (x, w, r, b, , h0) }}"""
    weights = {"w": w(1, 6 * gates, 4), "r": w(1, 6 * gates, 6), "b": r(1, 12 * gates)}
    return Case(text, {"x": r(5, 2, 4), "h0": r(1, 2, 6)}, weights)


def conv_case(text: str, filters: Array, reference: Reference, image: Array, spread: bool = False) -> Case:
    n, c, *extents = image.shape
    made = reference({"x": image, "w": filters})[0]
    return Case(
        f"(float{[n, c, *extents]} x) => (float{list(made.shape)} y) {{ y = {text} (x, w) }}",
        {"x": image},
        {"w": filters},
        reference,
        spread=spread,
    )


CASES: dict[str, Case] = {
    "conv": conv_case("Conv <pads = [1,1,1,1], strides = [2,2]>", w(9, 5, 3, 3), conv(2, 1), r(1, 5, 9, 9)),
    "conv 5x5": conv_case("Conv", w(7, 3, 5, 5), conv(), r(1, 3, 11, 11)),
    "conv 1x1": conv_case("Conv", w(9, 5, 1, 1), conv(), r(2, 5, 6, 7)),
    "conv dilated": conv_case("Conv <dilations = [2,2]>", w(6, 4, 3, 3), conv(dilation=2), r(1, 4, 9, 9)),
    "conv grouped": conv_case("Conv <group = 4>", w(12, 2, 3, 3), conv(group=4), r(1, 8, 7, 7)),
    "depthwise": conv_case(
        "Conv <group = 19, pads = [1,1,1,1]>", w(19, 1, 3, 3), conv(pads=1, group=19), r(1, 19, 7, 7)
    ),
    "winograd": conv_case("Conv <pads = [1,1,1,1]>", w(64, 64, 3, 3), conv(pads=1), r(1, 64, 14, 14), spread=True),
    "transposed": Case(
        "(float[1, 5, 6, 6] x) => (float[1, 7, 13, 13] y) { y = ConvTranspose <strides = [2,2]> (x, w) }",
        {"x": r(1, 5, 6, 6)},
        {"w": w(5, 7, 3, 3)},
        transposed,
        spread=True,
    ),
    "transposed evenly": Case(
        "(float[1, 5, 6, 6] x) => (float[1, 7, 12, 12] y) { y = ConvTranspose <strides = [2,2]> (x, w) }",
        {"x": r(1, 5, 6, 6)},
        {"w": w(5, 7, 2, 2)},
        transposed,
    ),
    "matmul": Case(
        "(float[5, 37] a, float[37, 29] b) => (float[5, 29] y) { y = MatMul (a, b) }", {"a": w(5, 37), "b": w(37, 29)}
    ),
    "matmul of a row": Case(
        "(float[1, 300] a) => (float[1, 29] y) { y = MatMul (a, b) }", {"a": r(1, 300)}, {"b": w(300, 29)}
    ),
    "matmul of batches": Case(
        "(float[3, 2, 5, 7] a, float[2, 7, 17] b) => (float[3, 2, 5, 17] y) { y = MatMul (a, b) }",
        {"a": w(3, 2, 5, 7), "b": w(2, 7, 17)},
    ),
    "matrix and vector": Case(
        "(float[64, 33] a, float[33] b) => (float[64] y) { y = MatMul (a, b) }", {"a": w(64, 33), "b": w(33)}
    ),
    "max pool": Case(
        "(float[1, 8, 9, 9] x) => (float[1, 8, 9, 9] y) { y = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (x) }",
        IMAGE, {}, pool(np.max, 3, 1, 1),
    ),
    "max pool halves": Case(
        "(float[1, 8, 9, 9] x) => (float[1, 8, 4, 4] y) { y = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x) }",
        IMAGE, {}, pool(np.max, 2, 2, 0),
    ),
    "average pool": Case(
        """(float[1, 8, 9, 9] x) => (float[1, 8, 9, 9] y) {
            y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (x) }""",
        IMAGE, {}, pool(np.mean, 3, 1, 1),
    ),
    "global pools": Case(
        """(float[1, 8, 9, 9] x) => (float[1, 8, 1, 1] a, float[1, 8, 1, 1] b) {
            a = GlobalAveragePool (x)  b = GlobalMaxPool (x) }""",
        IMAGE,
    ),
    "softmax": Case(
        """(float[3, 5, 37] x) => (float[3, 5, 37] a, float[3, 5, 37] b, float[3, 5, 37] c) {
            a = Softmax <axis = 2> (x)  b = Softmax <axis = 1> (x)  c = LogSoftmax <axis = 0> (x) }""",
        ROWS,
    ),
    "layer norm": Case(
        "(float[3, 5, 37] x) => (float[3, 5, 37] y) { y = LayerNormalization <axis = -1> (x, s, b) }",
        ROWS, {"s": r(37), "b": r(37)},
    ),
    "instance norm": Case(
        "(float[1, 8, 9, 9] x) => (float[1, 8, 9, 9] y) { y = InstanceNormalization (x, s, b) }",
        IMAGE, {"s": r(8), "b": r(8)},
    ),
    "resize": Case(
        """(float[1, 8, 9, 9] x) => (float[1, 8, 18, 18] a, float[1, 8, 18, 18] b, float[1, 8, 18, 18] c) {
            a = Resize <mode = "nearest"> (x, , s)  b = Resize <mode = "linear"> (x, , s)
            c = Resize <mode = "cubic"> (x, , s) }""",
        IMAGE, {"s": np.array([1, 1, 2, 2], np.float32)}, "runtime",
    ),
    "grid sample": Case(
        "(float[1, 2, 5, 5] x) => (float[1, 2, 4, 4] y) { y = GridSample (x, g) }",
        {"x": r(1, 2, 5, 5)}, {"g": (rng.random((1, 4, 4, 2)) * 2.4 - 1.2).astype(np.float32)}, "runtime", opset=16,
    ),
    "attention": Case(scores_model(False), HEADS, QUARTER, attention),
    "attention with a mask": Case(scores_model(True), {**HEADS, "m": blocked()}, QUARTER, attention),
    "reductions, last axis": reductions(2, "[3, 5]"),
    "reductions, inner axis": reductions(1, "[3, 37]"),
    "sum of everything": Case("(float[3, 5, 37] x) => (float y) { y = ReduceSum <keepdims = 0> (x) }", ROWS),
    "positions": Case(
        "(float[3, 5, 37] x) => (int64[3, 5] a, int64[3, 37] b, float[3, 5, 37] c) "
        "{ a = ArgMax <axis = 2, keepdims = 0> (x)  b = ArgMin <axis = 1, keepdims = 0> (x)  c = CumSum (x, two) }",
        ROWS, {"two": np.array(2)},
    ),
    "gather": Case(
        "(float[5, 7] x) => (float[3, 7] y) { y = Gather (x, i) }", {"x": r(5, 7)}, {"i": np.array([4, 0, 4])}
    ),
    "where": Case(
        "(float[5, 7] x, float[5, 7] z) => (float[5, 7] y) { y = Where (c, x, z) }",
        {"x": r(5, 7), "z": r(5, 7)}, {"c": rng.random((5, 7)) > 0.5},
    ),
    "clip": Case(
        "(float[37] x, float low, float high) => (float[37] y) { y = Clip (x, low, high) }",
        {"x": r(37), "low": np.array(-1, np.float32), "high": np.array(1, np.float32)},
    ),
    "functions": Case(
        f"(float[37] x) => ({outputs(len(FUNCTIONS), '[37]')}) "
        f"{{ {' '.join(f'y{i} = {name} (x)' for i, name in enumerate(FUNCTIONS))} }}",
        {"x": np.abs(r(37)) + 0.01},
    ),
    "pairs": Case(
        f"(float[5, 7] x, float[5, 7] z) => ({outputs(len(PAIRS), '[5, 7]')}) "
        f"{{ {' '.join(f'y{i} = {name} (x, z)' for i, name in enumerate(PAIRS))} }}",
        {"x": np.abs(r(5, 7)), "z": r(5, 7)},
    ),
    "comparisons": Case(
        """(float[9] x, float[9] z) => (bool[9] a, bool[9] b, bool[9] c, bool[9] d, bool[9] e) {
            a = Less (x, z)  b = GreaterOrEqual (x, z)  c = Equal (x, x)  d = IsNaN (x)  e = IsInf (z) }""",
        {"x": r(9), "z": r(9)},
    ),
    "LSTM": recurrent("LSTM", 4),
    "GRU": recurrent("GRU", 3),
    "RNN": recurrent("RNN", 1),
}  # fmt: skip


def pattern(x: Array) -> Array:
    """0 for finite numbers, 1 for NaN, 2 and 3 for the infinities; what is no float as it is."""
    if x.dtype.kind != "f":
        return x
    return np.where(np.isnan(x), 1, np.where(x == np.inf, 2, np.where(x == -np.inf, 3, 0)))


def feeds(case: Case) -> list[dict[str, Array]]:
    """The inputs, as they are and with one element replaced: the first, the last and some between."""
    made: list[dict[str, Array]] = [dict(case.inputs)]
    for name, array in case.inputs.items():
        for place, value in cartesian(sorted({0, array.size // 3, array.size // 2, array.size - 1}), SPECIAL):
            changed = array.copy()
            changed.flat[place] = value
            made.append({**case.inputs, name: changed})
    return made


def reference_of(case: Case, model: onnx.ModelProto) -> Reference:
    if case.reference == "onnx":
        evaluator = ReferenceEvaluator(model)
        return lambda inputs: [np.asarray(y) for y in evaluator.run(None, dict(inputs))]  # type: ignore[union-attr]
    if case.reference == "runtime":
        runtime = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda inputs: [np.asarray(y) for y in runtime.run(None, dict(inputs))]
    by_hand = case.reference
    return lambda inputs: by_hand({**inputs, **case.weights})


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_single_elements_reach(name: str) -> None:
    case = CASES[name]
    model = case.model()
    reference = reference_of(case, model)
    given = feeds(case)
    wanted = [[pattern(np.asarray(y)) for y in reference(inputs)] for inputs in given]
    assert any((y != 0).any() for outputs_ in wanted for y in outputs_)
    for numerics in ("strict", "default"):
        exact = numerics == "strict" or not case.spread
        with compile(model, numerics=numerics, jobs=1).session(threads=1) as session:
            for inputs, want in zip(given, wanted, strict=True):
                for have, expected in zip(map(pattern, session.run(inputs).values()), want, strict=True):
                    if exact:
                        np.testing.assert_array_equal(have, expected, err_msg=f"{name}, {numerics}")
                    else:  # nothing that must be reached is left out
                        assert (have[expected != 0] != 0).all(), (name, numerics)


def guarded() -> Case:
    """ONNX's Attention, where a row of the mask that blocks all keys gives weights of 0."""
    text = """(float[1, 2, 6, 8] q, float[1, 2, 7, 8] k, float[1, 2, 7, 5] v, float[6, 7] m) => (float[1, 2, 6, 5] y) {
        y = Attention (q, k, v, m) }"""
    mask = np.where(np.tril(np.ones((6, 7), bool), 1), 0, -np.inf).astype(np.float32)
    mask[2] = -np.inf
    return Case(text, {"q": r(1, 2, 6, 8), "k": r(1, 2, 7, 8), "v": r(1, 2, 7, 5), "m": mask}, opset=23)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_that_a_mask_blocks_altogether() -> None:
    """Strictly, zero times what V holds; by default the other rows are the same."""
    case = guarded()
    model = case.model()
    reference = reference_of(case, model)
    for numerics in ("strict", "default"):
        with compile(model, numerics=numerics, jobs=1).session(threads=1) as session:
            for inputs in feeds(case):
                (want,), have = reference(inputs), session.run(inputs)["y"]
                rows = [row for row in range(6) if numerics == "strict" or (inputs["m"][row] != -np.inf).any()]
                np.testing.assert_array_equal(pattern(have)[:, :, rows], pattern(want)[:, :, rows], err_msg=numerics)
