"""Every operator against an independent implementation: ONNX Runtime, the ONNX reference, or plain numpy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tests.compiler.ops import recurrent_examples, suppression_examples
from tests.compiler.ops.examples import EXAMPLES, Example
from tests.compiler.ops.host_examples import HOST_ANSWERS
from tests.compiler.ops.integer_examples import INTEGERS
from tests.compiler.ops.random_examples import RANDOM_ANSWERS
from tests.compiler.ops.rescale_examples import tosa

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import OPS, Array, Constant, Graph, Input, Node, constant, operands_of, with_operands
from ingot.compiler.ir.interpret import evaluate_expansion, evaluate_graph
from ingot.compiler.ir.types import IrError, TensorType, type_of
from ingot.compiler.ops import (
    bitwise,
    composite,
    control,
    fused,
    indexing,
    linear,
    movement,
    pointwise,
    quantised,
    recurrent,
    reduction,
    resample,
    rescale,
    suppression,
    transposed,
)
from ingot.runtime import dtypes
from ingot.runtime.dtypes import boolean, f32, i64

OPSET = 22
NEWER = {"CumProd": 26}  # the opsets that brought operators which it lacks
# The name of the ONNX operator, its attributes and extra i64 inputs, from a node.
Spelling = tuple[str, dict[str, Any], Sequence[Sequence[int]]]

SIMPLE: Mapping[type[Node], str] = {
    pointwise.Not: "Not",
    pointwise.IsNaN: "IsNaN",
    pointwise.IsInf: "IsInf",
    linear.MatMul: "MatMul",
    composite.Silu: "Silu",
    composite.HardSwish: "HardSwish",
    **{c: c.__name__ for c in vars(pointwise).values() if inspect.isclass(c) and issubclass(c, pointwise.Binary)},
    **{c: c.__name__ for c in vars(pointwise).values() if inspect.isclass(c) and issubclass(c, pointwise.Unary)},
    **{c: c.__name__ for c in vars(reduction).values() if inspect.isclass(c) and issubclass(c, reduction.Reduction)},
    pointwise.Where: "Where",
    bitwise.BitAnd: "BitwiseAnd",
    bitwise.BitOr: "BitwiseOr",
    bitwise.BitXor: "BitwiseXor",
    bitwise.BitNot: "BitwiseNot",
}


def _windows(node: Any) -> dict[str, Any]:
    return {"strides": node.strides, "pads": node.pads, "dilations": node.dilations}


def spell(node: Any) -> Spelling:
    """How ONNX writes the node."""
    match node:
        case pointwise.Mod():
            return "Mod", {"fmod": 0}, ()
        case pointwise.Fmod():
            return "Mod", {"fmod": 1}, ()
        case pointwise.Cast():
            return "Cast", {"to": helper.np_dtype_to_tensor_dtype(node.to.to_numpy())}, ()
        case reduction.Reduction():
            return (
                SIMPLE[type(node)],
                {"keepdims": int(node.keepdims), "noop_with_empty_axes": 1},
                (node.axes,),
            )
        case reduction.ArgMax() | reduction.ArgMin():
            attributes = {"axis": node.axis, "keepdims": int(node.keepdims), "select_last_index": int(node.last)}
            return type(node).__name__, attributes, ()
        case reduction.Cumulative():
            return type(node).__name__, {"exclusive": int(node.exclusive), "reverse": int(node.reverse)}, (node.axis,)  # pyright: ignore[reportReturnType]
        case linear.Conv():
            return "Conv", {**_windows(node), "group": node.group, "kernel_shape": node.kernel}, ()
        case linear.MaxPool():
            return "MaxPool", {**_windows(node), "kernel_shape": node.kernel, "ceil_mode": int(node.ceil_mode)}, ()
        case linear.AveragePool():
            attributes = {"kernel_shape": node.kernel, "ceil_mode": int(node.ceil_mode)}
            return "AveragePool", {**_windows(node), **attributes, "count_include_pad": int(node.include_pad)}, ()
        case transposed.ConvTranspose():
            attributes = {"group": node.group, "output_padding": node.output_padding, "kernel_shape": node.kernel}
            return "ConvTranspose", {**_windows(node), **attributes}, ()
        case movement.Reshape():
            return "Reshape", {"allowzero": 1}, (movement.ints(node.shape),)
        case movement.Transpose():
            return "Transpose", {"perm": node.perm}, ()
        case movement.Expand():
            return "Expand", {}, (movement.ints(node.shape),)
        case movement.Slice():
            starts = movement.ints(node.starts)
            stops = [s + n * p for s, n, p in zip(starts, movement.ints(node.sizes), node.steps, strict=True)]
            stops = [-(2**40) if e < 0 else e for e in stops]
            return "Slice", {}, (starts, stops, tuple(range(len(starts))), node.steps)
        case movement.Concat():
            return "Concat", {"axis": node.axis}, ()
        case movement.Gather():
            return "Gather", {"axis": node.axis}, ()
        case movement.Split():
            return "Split", {"axis": node.axis}, (movement.ints(node.sizes),)
        case composite.Softmax() | composite.LogSoftmax():
            return type(node).__name__, {"axis": node.axis}, ()
        case composite.LayerNorm():
            return "LayerNormalization", {"axis": node.axis, "epsilon": node.epsilon}, ()
        case composite.BatchNorm():
            return "BatchNormalization", {"epsilon": node.epsilon}, ()
        case composite.Gelu():
            return "Gelu", {"approximate": "tanh" if node.tanh else "none"}, ()
        case composite.HardSigmoid():
            return "HardSigmoid", {"alpha": node.alpha, "beta": node.beta}, ()
        case composite.LeakyRelu() | composite.Elu():
            return type(node).__name__, {"alpha": node.alpha}, ()
        case _:
            return SIMPLE[type(node)], {}, ()


def run_onnx(node: Node, inputs: Sequence[Array]) -> list[Array]:
    """The node as a one-operator ONNX model, run by ONNX Runtime, or by the reference where that has no kernel."""
    operator, attributes, extra = spell(node)
    names = [f"x{i}" for i in range(len(inputs))]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in zip(names, inputs, strict=True)
    ]
    initializers = [
        helper.make_tensor(f"e{i}", TensorProto.INT64, np.shape(data), np.ravel(data).tolist())
        for i, data in enumerate(extra)
    ]
    results = [f"y{i}" for i in range(len(node.types))]
    outputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(t.dtype.to_numpy()), t.static_shape())
        for n, t in zip(results, node.types, strict=True)
    ]
    single = helper.make_node(operator, [*names, *(t.name for t in initializers)], results, **attributes)
    graph = helper.make_graph([single], "one", infos, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", NEWER.get(operator, OPSET))], ir_version=10)
    onnx.checker.check_model(model)
    feed = dict(zip(names, inputs, strict=True))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    if not any(x.dtype == ml_dtypes.bfloat16 for x in inputs):
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
            return [np.asarray(y) for y in session.run(None, feed)]
        except Exception as error:
            if "NOT_IMPLEMENTED" not in str(error) and "NotImplemented" not in type(error).__name__:
                raise
    with np.errstate(all="ignore"):
        return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, feed)]


def _channels_first(node: Any, inputs: Sequence[Array]) -> tuple[Node, list[Array]]:
    import dataclasses

    first = np.ascontiguousarray(np.moveaxis(inputs[0], -1, 1))
    x = Input("x", TensorType(dtypes.from_numpy(first.dtype), first.shape))
    return dataclasses.replace(node, x=x, channels_last=False), [first, *inputs[1:]]


def _numpy_pad(node: movement.Pad, x: Array, value: Array | None = None) -> Array:
    """ONNX Pad by index arithmetic on each axis."""
    n = x.ndim
    pads = movement.ints(node.pads)
    for axis in range(n):
        begin, end, length = pads[axis], pads[n + axis], x.shape[axis]
        index = np.arange(-begin, length + end)
        inside = (index >= 0) & (index < length)
        if node.mode == "edge":
            index = np.clip(index, 0, length - 1)
        elif node.mode == "wrap":
            index = index % length
        elif node.mode == "reflect":
            index = index % (2 * length - 2)
            index = np.where(index >= length, 2 * length - 2 - index, index)
        else:
            index = np.where(inside, index, 0)
        x = np.take(x, index, axis)
        if node.mode == "constant":
            shape = [1] * n
            shape[axis] = -1
            x = np.where(inside.reshape(shape), x, np.zeros((), x.dtype) if value is None else value)
    return x


def _numpy_attention(node: composite.Attention, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    scores = np.einsum("...sd,...td->...st", q.astype(np.float64), k.astype(np.float64)) * node.scale
    if mask is not None:
        scores = scores + mask
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
    lost = np.isnan(weights) if node.guard == "nan" else np.isneginf(scores).all(-1, keepdims=True)
    weights = weights if node.guard == "none" else np.where(lost, 0.0, weights)
    return np.einsum("...st,...te->...se", weights, v.astype(np.float64))


def _numpy_silu(node: composite.Silu, x: Array) -> Array:
    return x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))


def _numpy_clip(node: pointwise.Clip, x: Array, *bounds: Array) -> Array:
    rest = list(bounds)
    if node.low is not None:
        x = np.where(x < rest[0], rest.pop(0), x)
    if node.high is not None:
        x = np.where(x > rest[0], rest.pop(0), x)
    return x


def _numpy_if(node: control.If, c: Array, x: Array, y: Array) -> tuple[Array, ...]:
    return (x + y, x) if c else (x - y, y)


def _numpy_loop(node: control.Loop, *operands: Array) -> tuple[Array, ...]:
    rest = list(operands)
    trip = int(rest.pop(0)) if node.trip is not None else 10**6
    go = bool(rest.pop(0)) if node.condition is not None else True
    carry, step = rest
    rows: list[Array] = []
    while go and len(rows) < trip:
        carry = carry + step
        rows.append(carry * np.float32(len(rows)))
        go = bool(carry.max() < 10)
    return carry, np.array(rows, np.float32).reshape(len(rows), *carry.shape)


def _numpy_shift(node: bitwise.ShiftLeft | bitwise.ShiftRight, a: Array, b: Array) -> Array:
    """By Python integers; what leaves the width is lost."""
    bits, left = 8 * a.itemsize, isinstance(node, bitwise.ShiftLeft)

    def shift(x: int, n: int) -> int:
        if not 0 <= n < bits:
            return -1 if x < 0 and not left else 0
        return x << n if left else x >> n

    a, b = np.broadcast_arrays(a, b)
    shifted = [shift(x, n) % 2**bits for x, n in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)]
    return np.array(shifted, f"u{a.itemsize}").view(a.dtype).reshape(a.shape)


def _numpy_quantize(node: quantised.Quantize, x: Array, scale: Array, zero: Array | None = None) -> Array:
    shifted = np.vectorize(round)(np.clip(x.astype(np.float32) / scale.astype(np.float32), -1e6, 1e6))
    shifted = shifted + (0 if zero is None else zero.astype(np.int64))
    limits = np.iinfo(node.to.to_numpy())
    return np.clip(shifted, limits.min, limits.max).astype(node.to.to_numpy())


def _numpy_dequantize(node: quantised.Dequantize, x: Array, scale: Array, zero: Array | None = None) -> Array:
    difference = x.astype(np.float64) - (0.0 if zero is None else zero.astype(np.float64))
    return (difference * scale.astype(np.float64)).astype(scale.dtype)


def _numpy_dequantize_blocks(node: quantised.DequantizeBlocks, x: Array, scale: Array, zero: Array) -> Array:
    """Row by row."""
    zero = np.broadcast_to(zero, scale.shape)
    found = [(x[k] - zero[k // node.block].astype(np.float64)) * scale[k // node.block] for k in range(len(x))]
    return np.array(found, np.float32)


def _numpy_scatter(node: indexing.Scatter, data: Array, indices: Array, updates: Array) -> Array:
    """One update after the other."""
    combine = {"none": lambda a, b: b, "add": np.add, "mul": np.multiply, "max": max, "min": min}[node.reduction]
    result, indices = data.copy(), np.broadcast_to(indices, updates.shape)
    for place in np.ndindex(*updates.shape):
        target = (*place[: node.axis], int(indices[place]), *place[node.axis + 1 :])
        result[target] = combine(result[target], updates[place])
    return result


def _numpy_top_k(node: indexing.TopK, x: Array) -> tuple[Array, Array]:
    """By Python's stable sort, NaN first."""

    def choose(row: Array) -> Array:
        key = lambda i: (not np.isnan(row[i]), -row[i] if node.largest else row[i])  # noqa: E731
        return np.array(sorted(range(len(row)), key=key)[: int(node.k)], np.int64)  # pyright: ignore[reportArgumentType]

    wide = x.astype(np.float64)
    nans = np.isnan(wide)
    places = np.apply_along_axis(choose, node.axis, np.where(nans, np.nan, wide))
    return np.take_along_axis(x, places, node.axis), places


def _numpy_resample(node: resample.Resample, x: Array, indices: Array, weights: Array) -> Array:
    """By a matrix with a row for every element of the result."""
    matrix = np.zeros((len(indices), x.shape[node.axis]))
    np.add.at(matrix, (np.arange(len(indices))[:, None], indices), weights)
    moved = np.moveaxis(x.astype(np.float64), node.axis, -1) @ matrix.T
    return np.moveaxis(moved, -1, node.axis).astype(x.dtype)


REFERENCES: Mapping[type[Node], Callable[..., Any]] = {
    movement.Pad: _numpy_pad,
    movement.DimValues: lambda node: np.array(node.dims[0] if node.scalar else node.dims, np.int64),
    movement.Iota: lambda node, a, s: (a + np.arange(node.length) * s).astype(a.dtype),
    composite.Attention: _numpy_attention,
    composite.Silu: _numpy_silu,
    pointwise.Clip: _numpy_clip,
    control.If: _numpy_if,
    control.Loop: _numpy_loop,
    control.Require: lambda node, *operands: operands[:-1],
    bitwise.BitCast: lambda node, x: np.frombuffer(x.tobytes(), node.to.to_numpy()).reshape(x.shape),
    bitwise.ShiftLeft: _numpy_shift,
    bitwise.ShiftRight: _numpy_shift,
    quantised.Quantize: _numpy_quantize,
    quantised.Dequantize: _numpy_dequantize,
    quantised.DequantizeBlocks: _numpy_dequantize_blocks,
    indexing.Scatter: _numpy_scatter,
    indexing.TopK: _numpy_top_k,
    indexing.Compact: lambda node, x: np.array([i for i, found in enumerate(x.tolist()) if found], np.int64),
    resample.Resample: _numpy_resample,
    rescale.Rescale: tosa,
    suppression.NonMaxSuppression: suppression_examples.onnx_runtime,
    fused.Fused: lambda node, a, b: (np.maximum(a + b, 0), a + b),
    **dict.fromkeys((recurrent.RNN, recurrent.GRU, recurrent.LSTM), recurrent_examples.onnx_runtime),
}


def expected(node: Any, inputs: Sequence[Array]) -> list[Array]:
    """What an independent implementation gives."""
    reference = REFERENCES.get(type(node))
    if reference is not None:
        result = reference(node, *inputs)
        return list(result) if isinstance(result, tuple) else [np.asarray(result)]
    if getattr(node, "channels_last", False):
        return [np.moveaxis(y, 1, -1) for y in run_onnx(*_channels_first(node, inputs))]
    return run_onnx(node, inputs)


TOLERANCE = {"f64": 1e-12, "f32": 3e-6, "f16": 2e-3, "bf16": 1.6e-2}


def _rounded_bf16(x: Array) -> Array:
    """f32 rounded to bf16 by integer arithmetic on its bits."""
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16).view(dtypes.bf16.to_numpy())


# ONNX Runtime refuses these, or its vector kernels and scalar kernels disagree about NaN.
NUMPY: Mapping[str, Callable[..., Any]] = {
    "mod_f32": lambda a, b: a - np.floor(a.astype(np.float64) / b) * b,
    "cast_f32_bf16": _rounded_bf16,
    "reduce_max_nan": lambda x: x.max(2),
    "reduce_min_nan": lambda x: x.min(2),
    "concat_same": lambda x: np.concatenate((x, x)),
    **HOST_ANSWERS,
    **RANDOM_ANSWERS,
}


def close(actual: Array, wanted: Array, name: str) -> None:
    """Equal types and shapes; integers and bools equal, floats within the type's tolerance."""
    assert actual.shape == wanted.shape, name
    if actual.dtype.kind in "iubO":
        np.testing.assert_array_equal(actual, wanted, err_msg=name)
    else:
        bound = TOLERANCE[dtypes.from_numpy(actual.dtype).name]
        bound = 2e-5 if name.startswith(("conv", "mat_mul")) and actual.dtype == np.float32 else bound
        a, b = actual.astype(np.float64), wanted.astype(np.float64)
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound, err_msg=name)


BYTES = {example.name for example in INTEGERS}


def in_double_precision(node: Node, x: Array) -> list[Array]:
    """A product of 8-bit integers in f64, which holds its sums exactly."""
    operands = [v.data for v in operands_of(node) if isinstance(v, Constant)]
    arrays = [a.astype(np.float64) for a in (x, *operands)]
    wide = [Input(f"w{i}", type_of(a)) for i, a in enumerate(arrays)]
    same = with_operands(node, dict(zip(operands_of(node), wide, strict=True)))
    return [a.astype(np.int32) for a in expected(same, arrays)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_evaluate_agrees_with_an_independent_implementation(example: Example) -> None:
    node = example.build(*example.graph().inputs)
    actual = list(evaluate_graph(example.graph(), example.feed()).values())
    with np.errstate(all="ignore"):
        if example.name in BYTES:
            wanted = in_double_precision(node, example.inputs[0])
        elif example.name in NUMPY:
            found = NUMPY[example.name](*example.inputs)
            wanted = found if isinstance(found, list) else [found]
        else:
            wanted = expected(node, example.inputs)
    assert len(actual) == len(wanted) == len(node.types)
    for a, b, t in zip(actual, wanted, node.types, strict=True):
        assert dtypes.from_numpy(a.dtype) == t.dtype
        assert a.shape == t.shape
        close(a, b, example.name)


def test_every_operator_has_an_example() -> None:
    shown = {type(e.build(*e.graph().inputs)).name for e in EXAMPLES}
    ours = {name for name, cls in OPS.items() if cls.__module__.startswith("ingot.compiler.ops.")}
    assert shown == ours


@pytest.mark.parametrize(
    "example",
    [e for e in EXAMPLES if isinstance(e.build(*e.graph().inputs), composite.FloatComposite)],
    ids=lambda e: e.name,
)
def test_expansion_agrees_with_evaluate(example: Example) -> None:
    node = example.build(*example.graph().inputs)
    with np.errstate(all="ignore"):
        (actual,) = evaluate_expansion(node, example.inputs)
        (wanted,) = node.evaluate(*example.inputs)
    assert actual.dtype == wanted.dtype
    bound = {"f32": 1e-5, "f16": 4e-3}[node.dtype.name]
    np.testing.assert_allclose(actual.astype(np.float64), wanted.astype(np.float64), rtol=bound, atol=bound)


X = Input("x", TensorType(f32, (symbol("n"), 3, 4, 4)))
M = Input("m", TensorType(f32, (5, 4)))
I = Input("i", TensorType(i64, (2,)))  # noqa: E741
B = Input("b", TensorType(boolean, (1,)))

WRONG: Mapping[str, tuple[Callable[[], object], str]] = {
    "kinds": (lambda: pointwise.Exp(I), r"exp: an operand is i64\[2\], but float elements are needed"),
    "dtypes": (lambda: pointwise.Add(M, I), r"add: operands have different element types \(f32\[5, 4\], i64\[2\]\)"),
    "shapes": (lambda: pointwise.Add(M, Input("v", TensorType(f32, (3,)))), "do not broadcast: 4 against 3"),
    "symbols": (
        lambda: pointwise.Add(Input("a", TensorType(f32, (symbol("s"),))), Input("b", TensorType(f32, (symbol("t"),)))),
        "do not broadcast: s against t",
    ),
    "condition": (lambda: pointwise.Where(M, M, M), "where: the condition is .* not bool: cast it first"),
    "axis": (lambda: reduction.ReduceSum(M, (2,), True), r"axis 2 is outside 0..1"),
    "axis_twice": (lambda: reduction.ReduceSum(M, (1, 1), True), "name one axis twice"),
    "arg_of_nothing": (
        lambda: reduction.ArgMax(Input("e", TensorType(f32, (0, 2))), 0, True, False),
        "no elements to choose from",
    ),
    "inner": (lambda: linear.MatMul(M, M), r"inner dims of f32\[5, 4\] @ f32\[5, 4\] differ: 4 against 5"),
    "vector": (lambda: linear.MatMul(M, Input("v", TensorType(f32, (4,)))), "need rank 2 or more: reshape"),
    "channels": (
        lambda: linear.Conv(
            X, constant(np.ones((2, 2, 3, 3), np.float32)), None, (1, 1), (0, 0, 0, 0), (1, 1), 1, False
        ),
        "channels of .* differ: 3 against 2",
    ),
    "pads": (
        lambda: linear.MaxPool(X, (2, 2), (1, 1), (0, 0), (1, 1), False, False),
        r"pads \(0, 0\) has 2 entries, 4 are needed",
    ),
    "window": (
        lambda: linear.MaxPool(X, (7, 2), (1, 1), (0, 0, 0, 0), (1, 1), False, False),
        "does not fit into",
    ),
    "reshape": (lambda: movement.Reshape(M, (3, 7)), r"has 20 elements, shape \[3, 7\] another number"),
    "transpose": (lambda: movement.Transpose(M, (0, 0)), "no permutation"),
    "expand": (lambda: movement.Expand(M, (5, 1)), "does not expand"),
    "slice": (lambda: movement.Slice(M, (0, 2), (5, 3), (1, 1)), "element 4 is outside axis 1"),
    "concat": (lambda: movement.Concat((M, X), 0), "different ranks"),
    "pad_value": (lambda: movement.Pad(M, (0, 0, 1, 1), "edge", constant(1.0, f32)), "takes no value"),
    "indices": (lambda: movement.Gather(M, M, 0), "integers are needed"),
    "split": (lambda: movement.Split(M, 0, (2, 2)), "do not add up"),
    "iota": (lambda: movement.Iota(I, I, 3), "must be scalars"),
    "layer_norm": (lambda: composite.LayerNorm(M, X, None, 1, 1e-5), "does not broadcast"),
    "attention": (lambda: composite.Attention(M, M, M, X, 1.0), r"shapes \[5, 5\], \[n, 3, 4, 4\] do not broadcast"),
    "if": (
        lambda: control.If(B, (), Graph((), (("a", constant(1)),)), Graph((), (("a", constant(1.0)),))),
        r"result 0 is i64\[\] in the then-graph and f64\[\] in the else-graph",
    ),
    "endless": (lambda: control.Loop(None, None, (), (), Graph((), ()), ()), "never ends"),
    "fused": (lambda: fused.Fused((M,), Graph((X,), (("a", X),))), "is declared .* but gets"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_by_name(name: str) -> None:
    build, message = WRONG[name]
    with pytest.raises(IrError, match=message):
        build()


def test_messages_carry_the_names_of_the_user() -> None:
    with pytest.raises(IrError, match=r"^add \(/encoder/add_1\): "):
        pointwise.Add(M, I, origin=("/encoder/add_1",))


def test_types_with_symbolic_dims() -> None:
    n, h = symbol("n"), symbol("h")
    x = Input("x", TensorType(f32, (n, 3, h, 17)))
    w = constant(np.ones((8, 3, 3, 3), np.float32))
    assert linear.Conv(x, w, None, (2, 2), (1, 1, 1, 1), (1, 1), 1, False).shape == (n, 8, (h + 1) // 2, 9)
    assert movement.Reshape(x, (n, 3 * h, 17)).shape == (n, 3 * h, 17)
    assert movement.Concat((x, x), 2).shape == (n, 3, 2 * h, 17)
    assert pointwise.Add(x, constant(np.ones((3, 1, 1), np.float32))).shape == (n, 3, h, 17)
    assert movement.Gather(x, I, 1).shape == (n, 2, h, 17)


def test_gather_names_an_index_out_of_range() -> None:
    node = movement.Gather(M, I, 0)
    with pytest.raises(IrError, match=r"index 5 is outside -5..4 of axis 0"):
        node.evaluate(np.ones((5, 4), np.float32), np.array([0, 5]))
