"""Signals, statistics, losses, n-grams, and the rules of optimisers."""

from __future__ import annotations

import numpy as np

from benchmarks.fuzz.build import Attributes, Builder, Extent, Tensor, dtype_code

TRAINING = "ai.onnx.preview.training"


def analyse(b: Builder) -> bool:
    """One of the operators below."""
    makers = (_running, _running, _fourier, _short_time, _standardised, _loss, _rows, _n_grams, _einsum, _updated,
              _variadic, _unary)  # fmt: skip
    return bool(b.choice(makers)(b))


def _running(b: Builder) -> bool:
    """CumSum of integers and floats, CumProd (opset 26)."""
    x = b.pick(lambda t: t.rank > 0 and (t.is_float or t.dtype in ("int32", "int64")) and b.elements(t.shape) > 0)
    if x is None or (b.special and x.is_float):
        return False
    axis = b.integer(-x.rank, x.rank - 1)
    op = "CumProd" if b.opset >= 26 and b.chance(0.6) else "CumSum"
    if op == "CumProd" and x.is_float:
        x = b.unary("Tanh", x, visible=False)
    attributes: Attributes = {"exclusive": b.integer(0, 1), "reverse": b.integer(0, 1)}
    b.node(op, [x, b.given(np.asarray(axis, np.int64), 0.9)], [(x.dtype, x.shape)], **attributes)
    return True


def _fourier(b: Builder) -> bool:
    """DFT of real and complex signals, along any axis, cut or padded, inverse, one-sided."""
    if b.opset < 17:
        return False
    x = b.pick(lambda t: t.dtype == "float32" and 2 <= t.rank <= 3 and _whole(b, t) and b.size(t.shape[0]) <= 33)
    if x is None or b.special:
        return False
    complex_input = x.shape[-1] == 2
    if not complex_input and x.shape[-1] != 1:
        x = b.node("Unsqueeze", [x, b.ints([-1])], [(x.dtype, (*x.shape, 1))], visible=False)[0]
    axis = b.integer(0, x.rank - 2)
    size = b.size(x.shape[axis])
    inverse, one_sided = (b.integer(0, 1), 0) if complex_input else (0, b.integer(0, 1))
    length = b.integer(2, size + 2) if b.chance(0.4) else size
    taken = length // 2 + 1 if one_sided else length
    shape: list[Extent] = [*x.shape[:-1], 2]
    shape[axis] = taken
    operands: list[Tensor | None] = [x, b.ints([length], scalar=True) if length != size else None]
    attributes: Attributes = {"inverse": inverse, "onesided": one_sided}
    if b.opset < 20:
        attributes["axis"] = axis
    else:
        operands.append(b.ints([axis], scalar=True))
    b.node("DFT", operands, [(x.dtype, tuple(shape))], **attributes)
    return True


def _short_time(b: Builder) -> bool:
    """STFT with a window or a length of the frames."""
    if b.opset < 17:
        return False
    batch, frame, step = b.integer(1, 2), b.choice((4, 8, 9)), b.integer(1, 4)
    length = frame + step * b.integer(0, 4) + b.integer(0, step - 1)
    signal = b.given(b.rng.standard_normal((batch, length, 1)).astype(np.float32), 0.1)
    window = b.constant(np.abs(b.rng.standard_normal(frame)).astype(np.float32)) if b.chance(0.5) else None
    size = b.ints([frame], scalar=True) if window is None or b.chance(0.5) else None
    one_sided = b.integer(0, 1)
    shape = (batch, (length - frame) // step + 1, frame // 2 + 1 if one_sided else frame, 2)
    operands = [signal, b.ints([step], scalar=True), window, size]
    b.node("STFT", operands, [("float32", shape)], onesided=one_sided)
    return True


def _whole(b: Builder, t: Tensor) -> bool:
    return all(isinstance(e, int) for e in t.shape) and b.elements(t.shape) > 0


def _standardised(b: Builder) -> bool:
    """MeanVarianceNormalization over some axes, of what varies there."""
    x = b.pick(lambda t: t.dtype == "float32" and t.rank >= 2 and _whole(b, t))
    if x is None or b.special:
        return False
    axes = [i for i in range(x.rank) if b.chance(0.5) and b.size(x.shape[i]) > 2] or [x.rank - 1]
    if int(np.prod([b.size(x.shape[a]) for a in axes])) < 3:
        return False
    noise = b.constant(b.rng.standard_normal(b.concrete(x.shape)).astype(np.float32))
    varied = b.node("Add", [x, noise], [(x.dtype, x.shape)], visible=False)[0]
    b.node("MeanVarianceNormalization", [varied], [(x.dtype, x.shape)], axes=axes)
    return True


def _loss(b: Builder) -> bool:
    """NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss with weights, a class that is ignored, each reduction."""
    x = b.pick(lambda t: t.dtype == "float32" and 2 <= t.rank <= 4 and _whole(b, t))
    if x is None or b.special:
        return False
    classes = b.size(x.shape[1])
    targets = (x.shape[0], *x.shape[2:])
    labels = b.rng.integers(0, classes, b.concrete(targets))
    reduction = b.choice(("none", "sum", "mean"))
    attributes: Attributes = {"reduction": reduction}
    if b.chance(0.3) and classes > 1:
        labels.flat[0] = 0
        ignored = b.choice((-1, 1)) if reduction == "mean" else b.choice((-1, 0))
        if ignored == -1 and labels.size > 1:
            labels.flat[-1] = -1
        attributes["ignore_index"] = ignored
    weight = b.constant(b.rng.uniform(0.5, 1.5, classes).astype(np.float32)) if b.chance(0.4) else None
    shape = targets if reduction == "none" else ()
    operands = [x, b.given(labels, 0.2), weight]
    if b.chance(0.5):
        b.node("NegativeLogLikelihoodLoss", operands, [(x.dtype, shape)], **attributes)
    else:
        logs = [(x.dtype, x.shape)] if b.chance(0.4) else []
        b.node("SoftmaxCrossEntropyLoss", operands, [(x.dtype, shape), *logs], **attributes)
    return True


def _rows(b: Builder) -> bool:
    """Hardmax, ReduceLogSum."""
    x = b.pick(lambda t: t.is_float and t.rank > 0 and b.elements(t.shape) > 0)
    if x is None or b.special:
        return False
    axis = b.integer(0, x.rank - 1)
    if b.chance(0.5):
        b.unary("Hardmax", x, axis=axis - x.rank if b.chance(0.3) else axis)
        return True
    positive = b.unary("Abs", x, visible=False)
    positive = b.node("Add", [positive, b.constant(np.asarray(0.5, x.dtype))], [(x.dtype, x.shape)], visible=False)[0]
    shape = tuple(1 if i == axis else e for i, e in enumerate(x.shape))
    if b.opset >= 18:
        b.node("ReduceLogSum", [positive, b.ints([axis])], [(x.dtype, shape)])
    else:
        b.node("ReduceLogSum", [positive], [(x.dtype, shape)], axes=[axis])
    return True


def _n_grams(b: Builder) -> bool:
    """TfIdfVectorizer: pairs and single numbers, with gaps."""
    rows, columns = b.integer(1, 3), b.integer(1, 8)
    shape = (rows, columns) if b.chance(0.6) else (columns,)
    x = b.given(b.rng.integers(0, 5, shape), 0.1)
    single = b.integer(1, 4)
    pairs = [(int(p), int(q)) for p, q in b.rng.integers(0, 5, (b.integer(1, 4), 2))]
    unique = sorted(set(pairs))
    pool = [*range(single), *(n for pair in unique for n in pair)]
    count = single + len(unique)
    attributes: Attributes = {
        "mode": b.choice(("TF", "IDF", "TFIDF")),
        "min_gram_length": b.integer(1, 2),
        "max_gram_length": 2,
        "max_skip_count": b.integer(0, 2),
        "ngram_counts": [0, single],
        "ngram_indexes": [int(i) for i in b.rng.permutation(count)],
        "pool_int64s": pool,
    }
    if b.chance(0.5):
        attributes["weights"] = [float(w) for w in b.rng.uniform(0.5, 2, count)]
    b.node("TfIdfVectorizer", [x], [("float32", (*shape[:-1], count))], **attributes)
    return True


def _einsum(b: Builder) -> bool:
    """Einsum: sums, diagonals of products, outer products, ellipses."""
    x = b.pick(lambda t: t.dtype in ("float32", "float64") and t.rank == 2 and _whole(b, t))
    if x is None or b.special:
        return False
    rows, columns = b.concrete(x.shape)
    n = b.integer(1, 5)
    cases = {
        "ij->ji": ((), (columns, rows)),
        "ij->i": ((), (rows,)),
        "ij,ij->": (((rows, columns),), ()),
        "ij,ij->ij": (((rows, columns),), (rows, columns)),
        "ij,kj->ik": (((n, columns),), (rows, n)),
        "ij,jk,k->i": (((columns, n), (n,)), (rows,)),
        "ij,k->ijk": (((n,),), (rows, columns, n)),
        "...j,jk->...k": (((columns, n),), (rows, n)),
        "ij,i": (((rows,),), (columns,)),
    }
    equation = b.choice(tuple(cases))
    shapes, out = cases[equation]
    others = [b.weights(shape, x.dtype, columns**-0.5) for shape in shapes]
    b.node("Einsum", [x, *others], [(x.dtype, out)], equation=equation)
    return True


def _updated(b: Builder) -> bool:
    """One step of Momentum, Adagrad or Adam; the model then imports their domain."""
    x = b.pick(lambda t: t.dtype == "float32" and _whole(b, t))
    if x is None or b.special or b.depth:
        return False
    op = b.choice(("Momentum", "Adagrad", "Adam"))
    shape = b.concrete(x.shape)
    rate = b.given(np.asarray(0.1, np.float32), 0.6)
    step = b.given(np.asarray(b.integer(0, 3), np.int64), 0.6)
    state = [b.weights(shape, "float32"), b.constant(np.abs(b.rng.standard_normal(shape)).astype(np.float32))]
    states = [state[1]] if op == "Adagrad" else state if op == "Adam" else state[:1]
    attributes: Attributes = {"norm_coefficient": 0.01}
    if op == "Momentum":
        attributes |= {"alpha": 0.9, "beta": 0.7, "mode": b.choice(("standard", "nesterov"))}
    else:
        attributes["epsilon"] = 0.1
    gradient = b.weights(shape, "float32")
    results = [("float32", x.shape)] * (1 + len(states))
    b.node(op, [rate, step, x, gradient, *states], results, domain=TRAINING, **attributes)
    return True


def _variadic(b: Builder) -> bool:
    """Sum, Mean, Max, Min of one or three operands; Where of broadcast conditions; CastLike; Dropout."""
    x = b.pick(lambda t: t.is_float)
    if x is None:
        return False
    kind = b.integer(0, 2)
    if kind == 0:
        kept = x.dtype, x.shape
        others = [b.pick(lambda t: (t.dtype, t.shape) == kept) for _ in range(b.choice((0, 2)))]
        b.node(b.choice(("Sum", "Mean", "Max", "Min")), [x, *others], [(x.dtype, x.shape)])
    elif kind == 1:
        if b.opset < 15:
            return False
        like = b.pick(lambda t: t.dtype in ("float32", "float64", "float16", "bool"))
        if like is None:
            return False
        b.node("CastLike", [x, like], [(like.dtype, x.shape)])
    else:
        mask = [("bool", x.shape)] if b.chance(0.4) else []
        b.node("Dropout", [x], [(x.dtype, x.shape), *mask])
    return True


def _unary(b: Builder) -> bool:
    """Atanh, Shrink, BitwiseNot."""
    x = b.pick()
    assert x is not None
    if x.is_float:
        if b.chance(0.5):
            b.unary("Shrink", x, lambd=0.4, bias=b.choice((0.0, 0.2)))
            return True
        half = b.constant(np.asarray(0.9, x.dtype))
        bounded = b.node("Mul", [b.unary("Tanh", x, visible=False), half], [(x.dtype, x.shape)], visible=False)[0]
        b.unary("Atanh", bounded)
        return True
    if x.dtype == "bool" or b.opset < 18:
        b.node("Cast", [x], [("float32", x.shape)], to=dtype_code("float32"))
        return True
    b.unary("BitwiseNot", x)
    return True
