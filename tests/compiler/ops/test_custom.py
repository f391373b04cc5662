"""Custom operators: their definition, and scalar functions as pointwise operators against the Python function."""

# pyright: reportMissingParameterType=false
# The operators are written as their authors write them.

from __future__ import annotations

import linecache
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingot.compiler import CustomOp, CustomOpError, custom_op
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import OPS, Array, Graph, Input, Value
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.text.graph import parse_graph, show_graph
from ingot.compiler.ir.types import IrError, TensorType, type_of
from ingot.compiler.ir.verify import verify_graph
from ingot.compiler.ops.custom.nodes import Custom
from ingot.compiler.ops.pointwise import Pointwise, Relu
from ingot.compiler.passes.expand import expand
from ingot.compiler.passes.simplify import simplify
from ingot.runtime.dtypes import f32, f64, i64

SPECIAL = np.array([-np.inf, -300.0, -2.5, -1.0, -1e-20, -0.0, 0.0, 1e-20, 0.5, 1.0, 2.5, 300.0, np.inf, np.nan])
SCALE = 3


def as_values(made: Any) -> tuple[Value, ...]:
    return made if isinstance(made, tuple) else (made,)


def graph_of(operator: CustomOp, *arrays: Array | None, **attributes: Any) -> tuple[Graph, dict[str, Array]]:
    """The operator on inputs of these types."""
    inputs = [None if a is None else Input(f"x{i}", type_of(a)) for i, a in enumerate(arrays)]
    results = as_values(operator(*inputs, **attributes))
    feed = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
    given = tuple(x for x in inputs if x is not None)
    return Graph(given, tuple((f"y{i}", v) for i, v in enumerate(results))), feed


def compare(operator: CustomOp, *arrays: Array | None, **attributes: Any) -> dict[str, Array]:
    """The Python function, and the operators that it becomes, give the same; what they give."""
    graph, feed = graph_of(operator, *arrays, **attributes)
    verify_graph(graph)
    want = evaluate_graph(graph, feed)
    opened = expand(graph)
    assert all(isinstance(n, Pointwise) or n.name in ("input", "constant", "expand") for n in opened.nodes())
    for candidate in (opened, simplify(graph)):
        have = evaluate_graph(candidate, feed)
        for name, expected in want.items():
            assert have[name].dtype == expected.dtype
            tolerance = {8: 1e-12, 4: 3e-6}.get(expected.dtype.itemsize, 2e-3)
            np.testing.assert_allclose(have[name], expected, rtol=tolerance, atol=tolerance * 1e-3, err_msg=name)
    return want


def helper(x: Any, limit: float = 2.0) -> Any:
    return limit if x > limit else x


@custom_op("test::Mixed")
def mixed(x, y=None, *, beta: float = 1.0, coefficients: tuple[float, ...] = (1.0, -2.0, 0.5)):
    """Everything that statements can say."""
    total = 0.0
    for c in coefficients:
        total = total * x + c
    if y is not None:
        total += helper(y)
    if x < -1:
        return -total, 1
    elif x < 1:
        scaled = total * SCALE
    else:
        scaled = max(total, beta, x)
    a, b = scaled, (x if -1 < x <= 0.5 and not x > 3 else 7)
    return a / (1 + math.exp(-beta * x)) + b, (2 if x > 100 or x != x else 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statements(dtype: Any) -> None:
    x = np.concatenate([SPECIAL, np.linspace(-4, 4, 50)]).astype(dtype)
    want = compare(mixed, x.reshape(8, 8), x[:8], beta=0.5)
    assert want["y0"].shape == (8, 8) and want["y0"].dtype == dtype
    compare(mixed, x, None, coefficients=(2.0,))
    compare(mixed, x[:1].reshape(1, 1, 1), x[:5])
    compare(mixed, x[:0], x[:1])
    compare(mixed, np.asarray(x[3]))


def _functions() -> dict[str, CustomOp]:
    names = [
        *(f"math.{n}" for n in ("acos", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp")),
        *(f"math.{n}" for n in ("expm1", "fabs", "floor", "isfinite", "isinf", "isnan", "log", "log10", "log1p")),
        *(f"math.{n}" for n in ("log2", "sin", "sinh", "sqrt", "tan", "tanh", "trunc")),
        *(f"np.{n}" for n in ("abs", "sign", "rint", "exp2", "reciprocal", "negative", "tanh", "floor", "isnan")),
    ]
    made: dict[str, CustomOp] = {}
    for name in names:
        source = f"def f(x):\n    return {name}(x)\n"
        file = f"<{name}>"
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)
        scope: dict[str, Any] = {"math": math, "np": np}
        exec(compile(source, file, "exec"), scope)
        made[name] = custom_op("test::F")(scope["f"])
    return made


@pytest.mark.parametrize(("name", "operator"), _functions().items(), ids=str)
def test_functions(name: str, operator: CustomOp) -> None:
    """Outside of what a function is defined for it gives NaN or infinity, as numpy does, and raises nothing."""
    x = np.concatenate([SPECIAL, np.linspace(-0.9, 0.9, 7)]).astype(np.float32)
    if name in ("math.sin", "math.cos", "math.tan"):
        x = x[np.isfinite(x)]
    compare(operator, x)
    have = evaluate_graph(*graph_of(operator, x))["y0"]
    known = {"math.erf": None, "math.fabs": np.abs}
    function = known.get(name, getattr(np, _NUMPY.get(name.partition(".")[2], name.partition(".")[2]), None))
    if function is not None:
        with np.errstate(all="ignore"):
            want = function(x.astype(np.float64)).astype(have.dtype)
        np.testing.assert_allclose(have, want, rtol=1e-6, atol=1e-30)


_NUMPY = {"acos": "arccos", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan", "atanh": "arctanh"}


@custom_op("test::Integers")
def integers(a, b):
    return a // b + a % b * (a & 3) - (a >> 1) + (-b) ** 2, (a > b) | (a == 3) ^ (b < 0), np.float32(a) / 4


def test_integers() -> None:
    a, b = np.meshgrid(np.arange(-7, 8), [-3, -1, 1, 2, 5])
    want = compare(integers, a.astype(np.int64), b.astype(np.int64))
    expected = a // b + a % b * (a & 3) - (a >> 1) + (-b) ** 2
    np.testing.assert_array_equal(want["y0"], expected)
    assert want["y1"].dtype == np.bool_ and want["y2"].dtype == np.float32


@custom_op("test::Constant")
def constant_result(x, y):
    return 1.5, y, x


def test_results_have_the_broadcast_shape() -> None:
    want = compare(constant_result, np.ones((3, 1), np.float32), np.arange(4, dtype=np.float32))
    assert all(array.shape == (3, 4) for array in want.values())


@custom_op("test::Half")
def half(x):
    return x * x + 1 if x > 0 else np.tanh(x)


def test_half_precision() -> None:
    compare(half, np.linspace(-3, 3, 25).astype(np.float16))


@custom_op("test::Minimum")
def python_minimum(x, y):
    return min(x, y), max(x, y, 0)


def test_min_and_max_are_pythons() -> None:
    """They take the first where the comparison fails, so NaN counts by its place."""
    nan = np.float32(np.nan)
    want = compare(python_minimum, np.array([nan, 1, 2], np.float32), np.array([1, nan, 1], np.float32))
    np.testing.assert_array_equal(want["y0"], [min(nan, 1), min(1, nan), 1])
    np.testing.assert_array_equal(want["y1"], [max(nan, 1, 0), max(1, nan, 0), 2])


def test_text_form() -> None:
    """Nodes are written like all others; the reader is told the operators."""
    graph, feed = graph_of(mixed, np.ones((2, 3), np.float32), None, beta=2.5)
    text = show_graph(graph)
    assert "custom.test.Mixed(%x0, y=none, beta=2.5, coefficients=(1.0, -2.0, 0.5))" in text
    again = parse_graph(text, ops={**OPS, mixed.spelling: mixed.node})
    np.testing.assert_array_equal(evaluate_graph(again, feed)["y0"], evaluate_graph(graph, feed)["y0"])
    with pytest.raises(IrError, match="known operators"):
        parse_graph(text)
    assert not any(issubclass(op, Custom) for op in OPS.values())


# -- composition ------------------------------------------------------------------------------------------------------


@custom_op("test::Both", form="graph")
def both(x, *, name: str = "", shape: float = 1.0):
    """Attributes called like fields of a node are no trouble."""
    return Relu(half(x)), mixed(x, beta=shape)[0]


def test_composition() -> None:
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    graph, feed = graph_of(both, x, shape=0.5)
    want = np.maximum([v * v + 1 if v > 0 else math.tanh(v) for v in x], 0)
    np.testing.assert_allclose(evaluate_graph(graph, feed)["y0"], want, rtol=1e-6)
    opened = simplify(graph)
    assert not any(isinstance(n, Custom) for n in opened.nodes())
    np.testing.assert_allclose(evaluate_graph(opened, feed)["y0"], want, rtol=1e-6)


def test_composition_of_nothing_is_refused() -> None:
    @custom_op("test::Nothing", form="graph")
    def nothing(x):
        return 3.0

    with pytest.raises(IrError, match=r"must return a Value or a tuple of them, not 3\.0"):
        nothing(Input("x", TensorType(f32, (2,))))

    @custom_op("test::Raises", form="graph")
    def raises(x):
        return x.no_such_thing

    with pytest.raises(CustomOpError, match=r"its function raises AttributeError: .*no_such_thing"):
        raises(Input("x", TensorType(f32, (2,))))


# -- refusals ---------------------------------------------------------------------------------------------------------


def while_loop(x):
    while x > 1:
        x = x / 2
    return x


def recursive(x):
    return recursive(x - 1) if x > 0 else x


def open_loop(x):
    total = x
    for part in x:
        total += part
    return total


def half_defined(x):
    if x > 0:
        y = 1
    return x + y  # pyright: ignore


def no_return(x):
    if x > 0:
        return x


def truthy(x):
    return 1 if x else 2


def unknown_function(x):
    return math.gamma(x)


def unknown_name(x):
    return x + missing  # noqa: F821 # pyright: ignore


def huge(x):
    for _ in range(10**9):
        x = x + 1
    return x


def indexing(x):
    return x[0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (while_loop, r"test_custom.py:\d+\): a 'while' statement .* form='loops'"),
        (recursive, "deep, or without end"),
        (open_loop, "a loop over anything but a constant range"),
        (half_defined, "'y' is defined on one side of an 'if' only"),
        (no_return, "returns a value and the other nothing"),
        (truthy, "a condition of type f32: compare it"),
        (unknown_function, r"a call of 'math\.gamma'"),
        (unknown_name, "the name 'missing' is not defined"),
        (huge, "more than 20000 operations"),
        (indexing, "an index"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_scalar_refusals(function: Callable[..., Any], message: str) -> None:
    """The message names operator, file and line."""
    operator = custom_op("test::Bad")(function)
    with pytest.raises(CustomOpError, match=f"test::Bad.*{message}"):
        operator(Input("x", TensorType(f32, (3,))))


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ((f32, f64), r"f32 meets f64: convert one of them"),
        ((f32, i64), r"f32 meets i64"),
        ((i64, i64), r"the number 0\.5 meets i64 data"),
    ],
)
def test_types_do_not_mix_by_themselves(types: tuple[Any, Any], message: str) -> None:
    def f(x, y):
        return (x + y) * 0.5

    with pytest.raises(CustomOpError, match=message):
        custom_op("test::Add")(f)(*(Input(f"x{i}", TensorType(t, (3,))) for i, t in enumerate(types)))


def one(x):
    return x


def any_number(*x):
    return x


def with_default(x, y=1.0):
    return x + y


def strange(x, *, a: dict[str, int]):
    return x


def wrong_default(x, *, a: int = 1.5):  # pyright: ignore
    return x


def fills(x, y):
    y[:] = x


@pytest.mark.parametrize(
    ("arguments", "function", "message"),
    [
        (("no name",), one, "write 'domain::Name'"),
        (("ai.onnx::Relu",), one, "the domain is ONNX's own"),
        (("a::B",), any_number, "any number of arguments"),
        (("a::B",), with_default, "a default other than None"),
        (("a::B",), strange, "must be annotated with int, float"),
        (("a::B",), wrong_default, r"the default 1\.5 of attribute 'a' is no"),
        (("a::B",), lambda: 1, "needs an operand"),
    ],
)
def test_definitions_refused(arguments: tuple[str], function: Any, message: str) -> None:
    with pytest.raises(CustomOpError, match=message):
        custom_op(*arguments)(function)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs infer"),
        ({"infer": lambda z: z}, "infer has the operands z, so the function must begin with them; it has x, y"),
        ({"infer": lambda x, y: x}, "no parameter for a result"),
        ({"infer": lambda x, *, k: x}, "infer has the attribute k"),
        ({"infer": lambda x: x, "parallel": ("z",)}, "there is no z to be parallel"),
        ({"infer": lambda x: x, "parallel": ("x",)}, "every result must be parallel, or none: add y"),
    ],
)
def test_loops_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CustomOpError, match=message):
        custom_op("a::B", form="loops", **options)(fills)


def test_uses_refused() -> None:
    x = Input("x", TensorType(f32, (symbol("n"), 3)))
    with pytest.raises(CustomOpError, match="takes 2 operands, not 3"):
        mixed(x, x, x)
    with pytest.raises(CustomOpError, match="needs its operand 'x'"):
        mixed()
    with pytest.raises(CustomOpError, match="has no attribute 'gamma'; it has beta, coefficients"):
        mixed(x, gamma=1.0)
    with pytest.raises(CustomOpError, match="attribute 'beta' is 'a', not"):
        mixed(x, beta="a")
    bad: list[tuple[Any, str]] = [
        (lambda x: 3, r"must give TensorType\(dtype, shape\), not 3"),
        (lambda x: (x, x), "gives 2 types, its function fills y"),
        (lambda x: TensorType(f32, (x.shape[5],)), "its infer raises IndexError: tuple index out of range"),
        (lambda x: TensorType(f32, (-1,)), "dims are ints >= 0"),
    ]
    for infer, message in bad:
        with pytest.raises((CustomOpError, IrError), match=message):
            custom_op("a::B", form="loops", infer=infer)(fills)(x)
    rows = custom_op("a::B", form="loops", infer=lambda x: TensorType(f32, (4,)), parallel=("x", "y"))(fills)
    with pytest.raises(IrError, match="one leading dim"):
        rows(x)
