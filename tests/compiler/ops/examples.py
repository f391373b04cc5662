"""One table of operator examples, run by every executor: the numpy evaluation, the interpreters, compiled code.

An example is a name, a function that builds a node from one `Input` an array, and the arrays. What the node should
come to is given by `Node.evaluate`, which `test_ops.py` holds against independent implementations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tests.compiler.ops.example import Example, flags, normal, whole
from tests.compiler.ops.host_examples import HOST
from tests.compiler.ops.integer_examples import INTEGERS
from tests.compiler.ops.random_examples import RANDOM
from tests.compiler.ops.recurrent_examples import RECURRENT
from tests.compiler.ops.rescale_examples import RESCALES
from tests.compiler.ops.sampling_examples import SAMPLING
from tests.compiler.ops.suppression_examples import SUPPRESSION

from ingot.compiler.ir.graph import Graph, Input, Node, Value, constant
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops import composite, control, fused, indexing, linear, movement, pointwise, reduction
from ingot.runtime import dtypes

SPECIAL = np.array(
    [
        *(0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.25, 1e-3, -1e-30, 1e-40, 80.0, -80.0, 88.9, -104.0, 1e4),
        *(-1e30, np.inf, -np.inf, np.nan, 0.25, 0.999, -0.999, 7.0, -9.5),
    ],
    np.float32,
)

FLOAT_UNARY: Sequence[type[pointwise.Unary]] = (
    pointwise.Abs,
    pointwise.Neg,
    pointwise.Sign,
    pointwise.Reciprocal,
    pointwise.Sqrt,
    pointwise.Exp,
    pointwise.Log,
    pointwise.Erf,
    pointwise.Tanh,
    pointwise.Sigmoid,
    pointwise.Softplus,
    pointwise.Relu,
    pointwise.Sin,
    pointwise.Cos,
    pointwise.Tan,
    pointwise.Asin,
    pointwise.Acos,
    pointwise.Atan,
    pointwise.Sinh,
    pointwise.Cosh,
    pointwise.Asinh,
    pointwise.Acosh,
    pointwise.Atanh,
    pointwise.Floor,
    pointwise.Ceil,
    pointwise.Round,
    pointwise.IsNaN,
    pointwise.IsInf,
    pointwise.Identity,
)
TRIGONOMETRIC = frozenset((pointwise.Sin, pointwise.Cos, pointwise.Tan))


def _unary() -> list[Example]:
    made: list[Example] = []
    for cls in FLOAT_UNARY:
        special = SPECIAL[np.abs(SPECIAL) < 1e5] if cls in TRIGONOMETRIC else SPECIAL
        made.append(Example(f"{cls.name}_special", cls, (special,)))
        made.append(Example(f"{cls.name}_normal", cls, (normal(cls.name, 2, 3, 7),)))
    for cls in (pointwise.Abs, pointwise.Neg, pointwise.Sign, pointwise.Relu):
        made.append(Example(f"{cls.name}_i32", cls, (whole(cls.name, 3, 5, dtype="int32"),)))
    for cls in (pointwise.Exp, pointwise.Sigmoid, pointwise.Sqrt, pointwise.Round, pointwise.Relu):
        made.append(Example(f"{cls.name}_f16", cls, (normal(cls.name, 33, dtype="float16"),)))
        made.append(Example(f"{cls.name}_bf16", cls, (normal(cls.name, 33, dtype="bf16"),)))
        made.append(Example(f"{cls.name}_f64", cls, (normal(cls.name, 33, dtype="float64"),)))
    made += [
        Example("exp_empty", pointwise.Exp, (normal("e", 0, 3),)),
        Example("exp_scalar", pointwise.Exp, (normal("e"),)),
        Example("abs_u8", pointwise.Abs, (whole("u", 7, dtype="uint8", low=0, high=255),)),
        Example("not", pointwise.Not, (flags("n", 3, 4),)),
    ]
    return made


def _binary() -> list[Example]:
    p = pointwise
    a, b = normal("a", 3, 1, 5), normal("b", 4, 1)
    left, right = (x.ravel().copy() for x in np.meshgrid(SPECIAL[:22], SPECIAL[:22]))
    made: list[Example] = []
    for cls in (p.Add, p.Sub, p.Mul, p.Div, p.Min, p.Max, p.Fmod):
        made.append(Example(f"{cls.name}_broadcast", cls, (a, b)))
        made.append(Example(f"{cls.name}_special", cls, (left, right)))
    for cls in (p.Equal, p.Less, p.LessOrEqual, p.Greater, p.GreaterOrEqual):
        made.append(Example(f"{cls.name}_special", cls, (left, right)))
        made.append(Example(f"{cls.name}_i64", cls, (whole("l", 40, high=-5), whole("r", 40, high=-5))))
    for cls in (p.Add, p.Sub, p.Mul, p.Min, p.Max):
        for dtype in ("int32", "int64", "uint8"):
            x = whole("x", 5, 7, dtype=dtype, low=0, high=200)
            made.append(
                Example(f"{cls.name}_{dtypes.from_numpy(x.dtype)}", cls, (x, whole("y", 7, dtype=dtype, low=0)))
            )
    divisor = np.array([1, -1, 2, -2, 3, -3, 7, -7], np.int64)
    for cls in (p.Div, p.Mod, p.Fmod):
        for dtype in ("int32", "int64"):
            x = whole("d", 9, 8, dtype=dtype, low=-40, high=40)
            made.append(Example(f"{cls.name}_{dtypes.from_numpy(x.dtype)}", cls, (x, divisor.astype(dtype))))
    for cls in (p.And, p.Or, p.Xor):
        made.append(Example(cls.name, cls, (flags("f", 5, 4), flags("g", 4))))
    positive = np.abs(normal("p", 4, 5)) + np.float32(0.1)
    made += [
        Example("add_bf16", p.Add, (normal("a", 4, 5, dtype="bf16"), normal("b", 5, dtype="bf16"))),
        Example("mul_f16", p.Mul, (normal("a", 4, 5, dtype="float16"), normal("b", 5, dtype="float16"))),
        Example("div_f64", p.Div, (normal("a", 4, 5, dtype="float64"), normal("b", 5, dtype="float64"))),
        Example("add_empty", p.Add, (normal("a", 3, 0), normal("b", 3, 1))),
        Example("add_scalars", p.Add, (normal("a"), normal("b"))),
        Example("add_outer", p.Add, (normal("a", 7, 1), normal("b", 1, 9))),
        Example("equal_bool", p.Equal, (flags("f", 9), flags("g", 9))),
        Example("mod_f32", p.Mod, (normal("m", 30), positive.ravel()[:5].repeat(6))),
        Example("pow_f32", p.Pow, (positive, normal("q", 5))),
        Example("pow_integer_exponent", p.Pow, (normal("p", 4, 5), np.array([0, 1, 2, 3, -2], np.int64))),
        Example("pow_i64", p.Pow, (whole("i", 4, 5), np.array([0, 1, 2, 3, 4], np.int64))),
        Example("pow_i32_f32", p.Pow, (whole("i", 5, dtype="int32", low=1), np.array([0.5, 1.5, 2, 3, 0], np.float32))),
        Example("where", p.Where, (flags("c", 3, 1, 5), a, b)),
        Example("where_i64", p.Where, (flags("c", 6), whole("a", 6), whole("b", 1))),
        Example("clip", p.Clip, (normal("c", 5, 7), np.array(-0.5, np.float32), np.array(0.75, np.float32))),
        Example("clip_crossed", p.Clip, (SPECIAL, np.array(2, np.float32), np.array(-1, np.float32))),
        Example("clip_low", lambda x, low: p.Clip(x, low, None), (SPECIAL, np.array(-1, np.float32))),
        Example("clip_high", lambda x, high: p.Clip(x, None, high), (SPECIAL, np.array(6, np.float32))),
        Example("clip_i32", p.Clip, (whole("c", 9, dtype="int32"), np.array(-2, np.int32), np.array(3, np.int32))),
    ]
    return made


def _cast() -> list[Example]:
    finite = SPECIAL[np.abs(SPECIAL) < 120]
    pairs = {
        ("f32", "i32"): finite,
        ("f32", "i64"): finite,
        ("f32", "i8"): finite,
        ("f32", "bool"): SPECIAL,
        ("f32", "f16"): SPECIAL,
        ("f32", "bf16"): SPECIAL,
        ("f32", "f64"): SPECIAL,
        ("f64", "f32"): SPECIAL.astype(np.float64) * 1.0000001,
        ("f16", "f32"): normal("h", 17, dtype="float16"),
        ("bf16", "f32"): normal("h", 17, dtype="bf16"),
        ("bf16", "i32"): normal("h", 17, dtype="bf16") * np.array(9, dtypes.bf16.to_numpy()),
        ("bool", "f32"): flags("b", 9),
        ("bool", "i64"): flags("b", 9),
        ("i64", "i8"): whole("i", 19, low=-600, high=600),
        ("i64", "f32"): whole("i", 19, low=-(2**40), high=2**40),
        ("i64", "bool"): whole("i", 19, low=-1, high=2),
        ("i32", "u8"): whole("i", 19, dtype="int32", low=-300, high=300),
        ("u8", "f32"): whole("i", 19, dtype="uint8", low=0, high=255),
    }
    return [
        Example(f"cast_{a}_{b}", lambda x, to=dtypes.BY_NAME[b]: pointwise.Cast(x, to), (data,))
        for (a, b), data in pairs.items()
    ]


def _reductions() -> list[Example]:
    made: list[Example] = []
    x = normal("r", 3, 4, 5)
    nan = x.copy()
    nan[1, 2, 3] = np.nan
    for cls in (
        reduction.ReduceSum,
        reduction.ReduceMean,
        reduction.ReduceMax,
        reduction.ReduceMin,
        reduction.ReduceProd,
    ):
        for tag, axes, keepdims, data in (
            ("last", (2,), True, x),
            ("first", (0,), False, x),
            ("middle", (1,), True, x),
            ("two", (0, 2), False, x),
            ("all", (0, 1, 2), False, x),
            ("none", (), False, x),
            ("nan", (2,), False, nan),
            ("one", (1,), False, normal("o", 7, 1)),
            ("long", (1,), True, normal("l", 3, 131) * np.float32(0.1)),
            ("f16", (1,), False, normal("h", 3, 9, dtype="float16")),
            ("i64", (0,), True, whole("i", 3, 7)),
            ("i32", (1,), False, whole("i", 4, 3, dtype="int32")),
        ):
            build = lambda v, c=cls, a=axes, k=keepdims: c(v, a, k)  # noqa: E731
            made.append(Example(f"{cls.name}_{tag}", build, (data,)))
    for cls in (reduction.ReduceSum, reduction.ReduceProd, reduction.ReduceMax, reduction.ReduceMin):
        build = lambda v, c=cls: c(v, (0,), False)  # noqa: E731
        made.append(Example(f"{cls.name}_empty", build, (normal("e", 0, 3),)))
    ties = whole("t", 5, 6, low=0, high=3)
    for cls in (reduction.ArgMax, reduction.ArgMin):
        for axis, keepdims, last in ((0, True, False), (1, False, False), (1, False, True), (0, False, True)):
            build = lambda v, c=cls, a=axis, k=keepdims, t=last: c(v, a, k, t)  # noqa: E731
            made.append(Example(f"{cls.name}_{axis}_{keepdims}_{last}", build, (ties,)))
        made.append(Example(f"{cls.name}_f32", lambda v, c=cls: c(v, 1, False, False), (x,)))
    for exclusive in (False, True):
        for reverse in (False, True):
            build = lambda v, e=exclusive, r=reverse: reduction.CumSum(v, 1, e, r)  # noqa: E731
            made.append(Example(f"cum_sum_{exclusive}_{reverse}", build, (x,)))
    made.append(Example("cum_sum_i64", lambda v: reduction.CumSum(v, 0, False, False), (ties,)))
    for exclusive, reverse in ((False, False), (True, True)):
        build = lambda v, e=exclusive, r=reverse: reduction.CumProd(v, 0, e, r)  # noqa: E731
        made.append(Example(f"cum_prod_{exclusive}_{reverse}", build, (x,)))
    made.append(Example("cum_prod_i64", lambda v: reduction.CumProd(v, 1, False, True), (ties,)))
    return made


def _with_attributes(cls: Callable[..., Node], attributes: tuple[Any, ...], x: Value) -> Node:
    return cls(x, *attributes)


def _conv(attributes: tuple[Any, ...], x: Value, w: Value, bias: Value | None = None) -> Node:
    make: Callable[..., Node] = linear.Conv
    return make(x, w, bias, *attributes)


def _linear() -> list[Example]:
    made: list[Example] = []
    for tag, a, b in (
        ("plain", (3, 4), (4, 5)),
        ("odd", (17, 33), (33, 19)),
        ("row", (1, 64), (64, 48)),
        ("column", (13, 7), (7, 1)),
        ("one", (1, 1), (1, 1)),
        ("batched", (2, 3, 5, 7), (2, 3, 7, 4)),
        ("shared", (4, 5, 7), (7, 3)),
        ("broadcast", (2, 1, 5, 7), (3, 7, 4)),
        ("empty_rows", (0, 4), (4, 3)),
        ("empty_depth", (3, 0), (0, 4)),
    ):
        made.append(Example(f"mat_mul_{tag}", linear.MatMul, (normal(tag, *a), normal("b" + tag, *b))))
    made.append(
        Example("mat_mul_i32", linear.MatMul, (whole("a", 5, 7, dtype="int32"), whole("b", 7, 3, dtype="int32")))
    )
    made.append(
        Example("mat_mul_f16", linear.MatMul, (normal("a", 5, 7, dtype="float16"), normal("b", 7, 3, dtype="float16")))
    )
    for tag, x, w, bias, strides, pads, dilations, group in (
        ("1x1", (2, 5, 6, 7), (8, 5, 1, 1), True, (1, 1), (0, 0, 0, 0), (1, 1), 1),
        ("3x3", (1, 3, 9, 11), (8, 3, 3, 3), True, (1, 1), (1, 1, 1, 1), (1, 1), 1),
        ("3x3_wide", (1, 16, 14, 14), (24, 16, 3, 3), False, (1, 1), (1, 1, 1, 1), (1, 1), 1),
        ("stride", (2, 4, 9, 8), (6, 4, 3, 3), True, (2, 2), (0, 1, 1, 0), (1, 1), 1),
        ("dilated", (1, 3, 11, 11), (4, 3, 3, 3), False, (1, 1), (2, 2, 2, 2), (2, 2), 1),
        ("grouped", (1, 6, 7, 7), (9, 2, 3, 3), True, (1, 1), (1, 1, 1, 1), (1, 1), 3),
        ("depthwise", (2, 7, 8, 9), (7, 1, 3, 3), True, (1, 1), (1, 1, 1, 1), (1, 1), 7),
        ("depthwise_stride", (1, 16, 13, 13), (16, 1, 5, 5), False, (2, 2), (2, 2, 2, 2), (1, 1), 16),
        ("multiplier", (1, 3, 6, 6), (6, 1, 3, 3), False, (1, 1), (0, 0, 0, 0), (1, 1), 3),
        ("7x7", (1, 3, 17, 19), (10, 3, 7, 7), True, (2, 2), (3, 3, 3, 3), (1, 1), 1),
        ("1d", (2, 5, 19), (4, 5, 4), True, (1,), (1, 2), (1,), 1),
        ("1d_stride", (1, 3, 20), (8, 3, 5), False, (3,), (0, 0), (1,), 1),
        ("3d", (1, 2, 5, 6, 7), (3, 2, 2, 3, 3), True, (1, 2, 1), (0, 1, 1, 1, 1, 0), (1, 1, 1), 1),
        ("no_images", (0, 3, 5, 5), (4, 3, 3, 3), True, (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ):
        inputs = [normal(tag, *x), normal("w" + tag, *w)] + ([normal("b" + tag, w[0])] if bias else [])
        attributes: tuple[Any, ...] = (strides, pads, dilations, group)
        made.append(Example(f"conv_{tag}", partial(_conv, (*attributes, False)), tuple(inputs)))
        inputs[0] = np.ascontiguousarray(np.moveaxis(inputs[0], 1, -1))
        made.append(Example(f"conv_{tag}_last", partial(_conv, (*attributes, True)), tuple(inputs)))
    return made


def _pools() -> list[Example]:
    made: list[Example] = []
    for tag, x, kernel, strides, pads, dilations, ceil_mode in (
        ("2x2", (2, 3, 8, 8), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False),
        ("3x3_padded", (1, 5, 9, 7), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False),
        ("ceil", (1, 2, 10, 8), (3, 3), (2, 2), (0, 0, 0, 0), (1, 1), True),
        ("ceil_padded", (1, 2, 9, 10), (3, 3), (2, 2), (1, 0, 1, 0), (1, 1), True),
        ("ceil_beyond", (1, 1, 4, 4), (1, 1), (3, 3), (0, 0, 0, 0), (1, 1), True),
        ("dilated", (1, 2, 11, 11), (3, 3), (1, 1), (1, 1, 1, 1), (2, 2), False),
        ("whole", (2, 4, 7, 5), (7, 5), (1, 1), (0, 0, 0, 0), (1, 1), False),
        ("1d", (2, 3, 17), (4,), (3,), (1, 2), (1,), False),
        ("3d", (1, 2, 5, 6, 7), (2, 3, 2), (2, 2, 1), (0, 1, 0, 0, 1, 1), (1, 1, 1), False),
    ):
        args: tuple[Any, ...] = (kernel, strides, pads, dilations, ceil_mode)
        for channels_last in (False, True):
            data = normal(tag, *x)
            if channels_last:
                data = np.ascontiguousarray(np.moveaxis(data, 1, -1))
            suffix = "_last" if channels_last else ""
            build = partial(_with_attributes, linear.MaxPool, (*args, channels_last))
            made.append(Example(f"max_pool_{tag}{suffix}", build, (data,)))
            for include in (False, True):
                build = partial(_with_attributes, linear.AveragePool, (*args, include, channels_last))
                counted = "_include" if include else ""
                made.append(Example(f"average_pool_{tag}{counted}{suffix}", build, (data,)))
    negative = -np.abs(normal("n", 1, 2, 5, 5)) - np.float32(1)
    pool = lambda v: linear.MaxPool(v, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), False, False)  # noqa: E731
    made.append(Example("max_pool_negative", pool, (negative,)))
    made.append(Example("max_pool_u8", pool, (whole("u", 1, 2, 5, 5, dtype="uint8", low=0, high=255),)))
    return made


def _movement() -> list[Example]:
    m = movement
    x = normal("m", 3, 4, 5)
    made = [
        Example("reshape", lambda v: m.Reshape(v, (4, 15)), (x,)),
        Example("reshape_scalar", lambda v: m.Reshape(v, ()), (normal("s", 1, 1),)),
        Example("reshape_empty", lambda v: m.Reshape(v, (0, 7)), (normal("s", 3, 0),)),
        Example("transpose", lambda v: m.Transpose(v, (2, 0, 1)), (x,)),
        Example("transpose_matrix", lambda v: m.Transpose(v, (1, 0)), (normal("t", 33, 17),)),
        Example("transpose_i64", lambda v: m.Transpose(v, (1, 0, 2)), (whole("t", 2, 3, 4),)),
        Example("transpose_heads", lambda v: m.Transpose(v, (0, 2, 1, 3)), (normal("t", 2, 5, 3, 8),)),
        Example("expand", lambda v: m.Expand(v, (2, 3, 4, 5)), (normal("e", 3, 1, 5),)),
        Example("expand_scalar", lambda v: m.Expand(v, (3, 2)), (normal("e"),)),
        Example("expand_empty", lambda v: m.Expand(v, (0, 3)), (normal("e", 1, 3),)),
        Example("slice", lambda v: m.Slice(v, (1, 0, 2), (2, 4, 3), (1, 1, 1)), (x,)),
        Example("slice_steps", lambda v: m.Slice(v, (0, 1, 0), (2, 2, 3), (2, 2, 2)), (x,)),
        Example("slice_reversed", lambda v: m.Slice(v, (2, 3, 4), (3, 2, 5), (-1, -3, -1)), (x,)),
        Example("slice_empty", lambda v: m.Slice(v, (0, 4, 0), (3, 0, 5), (1, 1, 1)), (x,)),
        Example("concat", lambda *v: m.Concat(v, 1), (x, normal("c", 3, 1, 5), normal("d", 3, 2, 5))),
        Example("concat_last", lambda *v: m.Concat(v, 2), (x, normal("c", 3, 4, 2))),
        Example("concat_empty", lambda *v: m.Concat(v, 0), (x, normal("c", 0, 4, 5))),
        Example("concat_same", lambda v: m.Concat((v, v), 0), (x,)),
        Example("concat_i64", lambda *v: m.Concat(v, 0), (whole("a", 2), whole("b", 3), whole("c", 1))),
        Example("pad", lambda v: m.Pad(v, (1, 0, 2, 0, 3, 1), "constant", None), (x,)),
        Example("pad_value", lambda v, c: m.Pad(v, (1, 0, 2, 0, 3, 1), "constant", c), (x, np.array(2.5, np.float32))),
        Example("pad_negative", lambda v: m.Pad(v, (-1, 2, 0, 0, -2, -3), "constant", None), (x,)),
        Example("pad_reflect", lambda v: m.Pad(v, (0, 2, 4, 1, 3, 2), "reflect", None), (x,)),
        Example("pad_edge", lambda v: m.Pad(v, (2, 0, 1, 0, 3, 7), "edge", None), (x,)),
        Example("pad_wrap", lambda v: m.Pad(v, (1, 0, 3, 0, 2, 9), "wrap", None), (x,)),
        Example("pad_bool", lambda v: m.Pad(v, (1, 1), "constant", None), (flags("p", 4),)),
        Example("gather", lambda v, i: m.Gather(v, i, 1), (x, np.array([[0, 3], [-1, -4], [2, 2]], np.int64))),
        Example("gather_scalar", lambda v, i: m.Gather(v, i, 0), (x, np.array(-1, np.int64))),
        Example("gather_rows", lambda v, i: m.Gather(v, i, 0), (normal("g", 50, 7), whole("i", 2, 9, low=0, high=50))),
        Example("gather_i32", lambda v, i: m.Gather(v, i, 2), (x, whole("i", 3, dtype="int32", low=0, high=5))),
        Example("gather_nothing", lambda v, i: m.Gather(v, i, 0), (x, np.zeros((0,), np.int64))),
        Example("split", lambda v: m.Split(v, 2, (2, 0, 3)), (x,)),
        Example("split_equal", lambda v: m.Split(v, 1, (2, 2)), (x,)),
        Example("dim_values", lambda: m.DimValues((3, 4), False), ()),
        Example("dim_values_scalar", lambda: m.DimValues((7,), True), ()),
        Example("iota_i64", lambda a, s: m.Iota(a, s, 7), (np.array(3, np.int64), np.array(-2, np.int64))),
        Example("iota_f32", lambda a, s: m.Iota(a, s, 9), (np.array(0.5, np.float32), np.array(0.1, np.float32))),
        Example("iota_empty", lambda a, s: m.Iota(a, s, 0), (np.array(0, np.int32), np.array(1, np.int32))),
    ]
    return made


def _body(*types: TensorType) -> tuple[Input, ...]:
    return tuple(Input(f"i{i}", t) for i, t in enumerate(types))


def _if(condition: Value, x: Value, y: Value) -> Node:
    a = _body(x.type, y.type)
    b = _body(x.type, y.type)
    return control.If(
        condition,
        (x, y),
        Graph(a, (("sum", pointwise.Add(a[0], a[1])), ("left", a[0]))),
        Graph(b, (("difference", pointwise.Sub(b[0], b[1])), ("right", b[1]))),
    )


def _loop(trip: Value | None, condition: Value | None, start: Value, step: Value, scans: int) -> Node:
    """carry += step until it exceeds 10; scans 2 * carry."""
    scalar = TensorType(dtypes.i64, ())
    i, running, carry, captured = _body(scalar, TensorType(dtypes.boolean, ()), start.type, step.type)
    new = pointwise.Add(carry, captured)
    goes_on = pointwise.Less(movement.Reshape(reduction.ReduceMax(new, (0,), False), ()), constant(10.0, dtypes.f32))
    scan = pointwise.Mul(new, pointwise.Cast(i, dtypes.f32))
    body = Graph((i, running, carry, captured), (("go", goes_on), ("carry", new), ("scan", scan)), "body")
    return control.Loop(trip, condition, (start,), (step,), body, (scans,))


def _fused(x: Value, y: Value) -> Node:
    a, b = _body(x.type, y.type)
    total = pointwise.Add(a, b)
    return fused.Fused((x, y), Graph((a, b), (("relu", pointwise.Relu(total)), ("sum", total)), "body"))


def _control() -> list[Example]:
    x, y = normal("x", 3, 4), normal("y", 4)
    start, step = np.zeros(3, np.float32), np.array([1, 2, 3], np.float32)
    made = [Example(f"if_{c}", _if, (np.array(c), x, normal("z", 3, 4))) for c in (True, False)]
    made += [
        Example(
            f"loop_{trip}",
            lambda t, s, d, n=count: _loop(t, None, s, d, n),
            (np.array(trip, np.int64), start, step),
        )
        for trip, count in ((0, 0), (1, 1), (3, 3), (9, 4))
    ]
    made.append(Example("loop_while", lambda c, s, d: _loop(None, c, s, d, 4), (np.array(True), start, step)))
    made.append(
        Example(
            "loop_not_started",
            lambda t, c, s, d: _loop(t, c, s, d, 0),
            (np.array(5, np.int64), np.array(False), start, step),
        )
    )
    made.append(Example("require", lambda *v: control.Require(v[:2], v[2], False, "never"), (x, y, np.array(False))))
    made.append(Example("fused", _fused, (x, y)))
    mask = np.array([0, 1, 1, 0, 0, 1, 0], bool)
    made += [
        Example("compact", partial(indexing.Compact, count=3), (mask,)),
        Example("compact_none", partial(indexing.Compact, count=0), (np.zeros(5, bool),)),
        Example("compact_empty", partial(indexing.Compact, count=0), (mask[:0],)),
    ]
    return made


def _composites() -> list[Example]:
    c = composite
    x = normal("x", 3, 4, 5)
    row = np.array([[0, 1, np.inf], [np.nan, 0, 1], [-np.inf] * 3, [1e4, 0, -1e4]], np.float32)
    made = [
        Example("softmax", lambda v: c.Softmax(v, 2), (x,)),
        Example("softmax_middle", lambda v: c.Softmax(v, 1), (x,)),
        Example("softmax_special", lambda v: c.Softmax(v, 1), (row,)),
        Example("softmax_long", lambda v: c.Softmax(v, 1), (normal("l", 5, 131),)),
        Example("softmax_one", lambda v: c.Softmax(v, 1), (normal("o", 5, 1),)),
        Example("softmax_f16", lambda v: c.Softmax(v, 1), (normal("h", 5, 9, dtype="float16"),)),
        Example("log_softmax", lambda v: c.LogSoftmax(v, 1), (normal("l", 5, 9),)),
        Example("layer_norm", lambda v, s, b: c.LayerNorm(v, s, b, 2, 1e-5), (x, normal("s", 5), normal("b", 5))),
        Example("layer_norm_no_bias", lambda v, s: c.LayerNorm(v, s, None, 2, 1e-12), (x, normal("s", 5))),
        Example("layer_norm_two_axes", lambda v, s: c.LayerNorm(v, s, None, 1, 1e-5), (x, normal("s", 4, 5))),
        Example(
            "layer_norm_odd",
            lambda v, s, b: c.LayerNorm(v, s, b, 1, 1e-5),
            (normal("v", 7, 67), normal("s", 67), normal("b", 67)),
        ),
        Example(
            "layer_norm_f16",
            lambda v, s: c.LayerNorm(v, s, None, 1, 1e-5),
            (normal("v", 3, 16, dtype="float16"), normal("s", 16, dtype="float16")),
        ),
        Example(
            "batch_norm",
            lambda v, s, b, mean, var: c.BatchNorm(v, s, b, mean, var, 1e-5),
            (normal("v", 2, 5, 3, 4), normal("s", 5), normal("b", 5), normal("m", 5), np.abs(normal("w", 5))),
        ),
        Example("gelu", lambda v: c.Gelu(v, False), (SPECIAL[np.isfinite(SPECIAL)],)),
        Example("gelu_tanh", lambda v: c.Gelu(v, True), (normal("g", 41) * np.float32(3),)),
        Example("silu", c.Silu, (normal("s", 41) * np.float32(9),)),
        Example("hard_sigmoid", lambda v: c.HardSigmoid(v, 0.2, 0.5), (normal("s", 41) * np.float32(9),)),
        Example("hard_swish", c.HardSwish, (normal("s", 41) * np.float32(9),)),
        Example("leaky_relu", lambda v: c.LeakyRelu(v, 0.01), (SPECIAL,)),
        Example("elu", lambda v: c.Elu(v, 1.5), (normal("s", 41) * np.float32(9),)),
    ]
    q, k, v = normal("q", 2, 3, 5, 8), normal("k", 2, 3, 7, 8), normal("v", 2, 3, 7, 4)
    mask = np.where(flags("m", 2, 1, 1, 7), np.float32(0), np.float32(-1e9))
    nothing = np.where(flags("n", 5, 7), np.float32(0), np.float32(-np.inf))
    nothing[1] = nothing[3, 2:] = -np.inf  # the first is a row without any key
    nan = nothing.copy()
    nan[2, 3] = np.nan
    made += [
        Example("attention", lambda a, b, d: c.Attention(a, b, d, None, 8**-0.5), (q, k, v)),
        Example("attention_mask", lambda a, b, d, e: c.Attention(a, b, d, e, 0.25), (q, k, v, mask)),
        Example("attention_nothing", lambda a, b, d, e: c.Attention(a, b, d, e, 0.25, "masked"), (q, k, v, nothing)),
        Example("attention_not_a_number", lambda a, b, d, e: c.Attention(a, b, d, e, 0.25, "nan"), (q, k, v, nan)),
        Example("attention_shared", lambda a, b, d: c.Attention(a, b, d, None, 1.0), (q, k[:, :1], v[:, :1])),
        Example("attention_matrix", lambda a, b, d: c.Attention(a, b, d, None, 0.5), (q[0, 0], k[0, 0], v[0, 0])),
        Example("attention_one_key", lambda a, b, d: c.Attention(a, b, d, None, 0.5), (q, k[:, :, :1], v[:, :, :1])),
    ]
    return made


EXAMPLES: list[Example] = [
    *_unary(),
    *_binary(),
    *_cast(),
    *_reductions(),
    *_linear(),
    *_pools(),
    *_movement(),
    *_control(),
    *_composites(),
    *HOST,
    *INTEGERS,
    *RANDOM,
    *RECURRENT,
    *RESCALES,
    *SAMPLING,
    *SUPPRESSION,
]
