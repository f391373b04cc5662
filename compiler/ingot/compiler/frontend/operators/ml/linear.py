"""Linear models and support vector regression, and what turns scores into results."""

from __future__ import annotations

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.ml.labels import strings
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import ML, Table
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.composite import Softmax
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Concat, Gather, Reshape, Slice, Transpose
from ingot.compiler.ops.reduction import ArgMax, ReduceSum
from ingot.runtime.dtypes import f32, i64

TABLE = Table(domain=ML)
onnx_op = TABLE.onnx_op


def transformed(ctx: Context, scores: Value, how: str) -> Value:
    """Scores [rows, classes] after the function that `post_transform` names."""
    match how:
        case "NONE":
            return scores
        case "SOFTMAX":
            return ctx.build(Softmax, scores, scores.rank - 1)
        case "LOGISTIC":
            return ctx.build(ops.Sigmoid, scores)
        case "SOFTMAX_ZERO":  # zeros stay zeros
            zero = ctx.constant(0, scores.dtype)
            empty = ctx.build(ops.Equal, scores, zero)
            lowest = ctx.constant(-np.inf, scores.dtype)
            shares = ctx.build(Softmax, ctx.build(ops.Where, empty, lowest, scores), scores.rank - 1)
            return ctx.build(ops.Where, empty, zero, shares)
        case "PROBIT":
            return _probit(ctx, scores)
        case _:
            raise ctx.error(f"unknown post_transform {how!r}")


def _probit(ctx: Context, x: Value) -> Value:
    """sqrt(2) times the inverse of the error function at 2x - 1, as S. Winitzki approximates it ("A handy approximation
    for the error function and its inverse", 2008), the form that ONNX Runtime has."""

    def number(value: float) -> Value:
        return ctx.constant(value, x.dtype)

    centred = ctx.build(ops.Sub, ctx.build(ops.Mul, x, number(2.0)), number(1.0))
    square = ctx.build(ops.Mul, centred, centred)
    logarithm = ctx.build(ops.Log, ctx.build(ops.Sub, number(1.0), square))
    first = ctx.build(ops.Add, number(2 / (np.pi * 0.147)), ctx.build(ops.Mul, logarithm, number(0.5)))
    second = ctx.build(ops.Div, logarithm, number(0.147))
    inner = ctx.build(ops.Sqrt, ctx.build(ops.Sub, ctx.build(ops.Mul, first, first), second))
    size = ctx.build(ops.Sqrt, ctx.build(ops.Sub, inner, first))
    signed = ctx.build(ops.Mul, ctx.build(ops.Sign, centred), size)
    return ctx.build(ops.Mul, signed, number(np.sqrt(2.0)))


def class_labels(ctx: Context, numbers: str, names: str = "classlabels_strings") -> Value:
    """The labels of a classifier, numbers or strings, as a list."""
    whole, text = ctx.ints(numbers), ctx.strings(names)
    if bool(whole) == bool(text):
        raise ctx.error(f"either {numbers} or {names} must have labels")
    return ctx.constant(np.array(whole, np.int64) if whole else strings(text or ()))


def rows_of(ctx: Context, x: Value) -> Value:
    """x as a matrix; a list is one row."""
    if x.rank not in (1, 2):
        raise ctx.error(f"{x.type} is no matrix")
    return x if x.rank == 2 else ctx.build(Reshape, x, (1, x.shape[0]))


def _scores(ctx: Context, x: Value, count: int) -> Value:
    """``x @ coefficients.T + intercepts`` for `count` rows of coefficients."""
    given, added = ctx.floats("coefficients") or (), ctx.floats("intercepts") or ()
    if count < 1 or len(given) % count or not given or len(added) not in (0, count):
        raise ctx.error(f"{len(given)} coefficients and {len(added)} intercepts for {count} targets")
    ctx.equal(x.shape[1], len(given) // count)
    weight = ctx.constant(np.array(given, np.float32).reshape(count, -1).T.copy())
    scores = ctx.build(MatMul, ctx.cast(x, f32), weight)
    return ctx.build(ops.Add, scores, ctx.constant(np.array(added, np.float32))) if added else scores


@onnx_op("LinearRegressor")
def linear_regressor(ctx: Context) -> Results:
    scores = _scores(ctx, rows_of(ctx, ctx.operand(0)), ctx.attribute("targets", 1))
    return transformed(ctx, scores, ctx.attribute("post_transform", "NONE"))


@onnx_op("LinearClassifier")
def linear_classifier(ctx: Context) -> Results:
    """The labels of the largest scores, and the scores. One row of coefficients for two labels is for the second, which
    is chosen above 0."""
    ctx.ignore("multi_class")
    x, labels = rows_of(ctx, ctx.operand(0)), class_labels(ctx, "classlabels_ints")
    classes, how = int(labels.shape[0]), ctx.attribute("post_transform", "NONE")
    rows = max(1, len(ctx.floats("intercepts") or ())) if classes == 2 else classes
    scores = _scores(ctx, x, rows)
    if rows == 1 and classes == 2:
        beyond = ctx.build(ops.Cast, ctx.build(ops.Greater, scores, ctx.constant(0, f32)), i64)
        label = ctx.build(Gather, labels, ctx.build(Reshape, beyond, (x.shape[0],)), 0)
        if how in ("NONE", "LOGISTIC"):
            share = transformed(ctx, scores, how)
            rest = ctx.build(ops.Sub, ctx.constant(1, f32), share)
            return label, ctx.build(Concat, (rest, share), 1)
        return label, transformed(ctx, ctx.build(Concat, (ctx.build(ops.Neg, scores), scores), 1), how)
    place = ctx.build(ArgMax, scores, 1, False, False)
    return ctx.build(Gather, labels, place, 0), transformed(ctx, scores, how)


def _kernel(ctx: Context, x: Value, vectors: Value) -> Value:
    """[rows, vectors]: how alike each row and each support vector are."""
    kind, given = ctx.attribute("kernel_type", "LINEAR"), ctx.floats("kernel_params") or (0.0, 0.0, 0.0)
    if len(given) != 3:
        raise ctx.error(f"kernel_params has {len(given)} entries, gamma, coef0 and degree are needed")
    gamma, offset, degree = (ctx.constant(v, f32) for v in given)
    product = ctx.build(MatMul, x, ctx.build(Transpose, vectors, (1, 0)))
    if kind == "LINEAR":
        return product
    if kind == "RBF":  # |x - v| ** 2 by differences: the sum of squares less twice the product loses digits
        rows = ctx.build(Reshape, x, (x.shape[0], 1, x.shape[1]))
        apart = ctx.build(ops.Sub, rows, vectors)
        square = ctx.build(ReduceSum, ctx.build(ops.Mul, apart, apart), (2,), False)
        return ctx.build(ops.Exp, ctx.build(ops.Neg, ctx.build(ops.Mul, square, gamma)))
    inner = ctx.build(ops.Add, ctx.build(ops.Mul, product, gamma), offset)
    if kind == "POLY":
        return ctx.build(ops.Pow, inner, degree)
    if kind == "SIGMOID":
        return ctx.build(ops.Tanh, inner)
    raise ctx.error(f"unknown kernel_type {kind!r}")


@onnx_op("SVMRegressor")
def svm_regressor(ctx: Context) -> Results:
    """The weighted sum of kernels of the support vectors, or, with none, a linear model; with `one_class` its sign."""
    x = ctx.cast(rows_of(ctx, ctx.operand(0)), f32)
    count, given = ctx.attribute("n_supports", 0), ctx.floats("coefficients") or ()
    rho, vectors = ctx.floats("rho") or (0.0,), ctx.floats("support_vectors") or ()
    ctx.ignore("kernel_type", "kernel_params")
    weights = ctx.constant(np.array(given, np.float32).reshape(-1, 1))
    if count > 0:
        if len(given) != count or len(vectors) % count or not vectors:
            raise ctx.error(f"{len(given)} coefficients and {len(vectors)} numbers for {count} support vectors")
        ctx.equal(x.shape[1], len(vectors) // count)
        supports = ctx.constant(np.array(vectors, np.float32).reshape(count, -1))
        scores = ctx.build(MatMul, _kernel(ctx, x, supports), weights)
    else:
        ctx.equal(x.shape[1], len(given))
        scores = ctx.build(MatMul, x, weights)
    scores = ctx.build(ops.Add, scores, ctx.constant(rho[0], f32))
    if ctx.attribute("one_class", 0):
        inside = ctx.build(ops.Greater, scores, ctx.constant(0, f32))
        return ctx.build(ops.Where, inside, ctx.constant(1, f32), ctx.constant(-1, f32))
    return transformed(ctx, scores, ctx.attribute("post_transform", "NONE"))


def column(ctx: Context, scores: Value, index: int) -> Value:
    """One column of a matrix, as a matrix."""
    return ctx.build(Slice, scores, (0, index), (scores.shape[0], 1), (1, 1))
