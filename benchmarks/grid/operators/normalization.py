"""Normalisation, losses, recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.grid.examples import Const, Example, Given, Table

TABLE = Table()


@TABLE.row("BatchNormalization")
def batch_norm(g: Given) -> Iterator[Example]:
    """Of images and of rows; an epsilon."""
    names = [i.type_str for i in g.schema.inputs]
    old: dict[str, object] = {"consumed_inputs": [0, 0, 0, 1, 1]} if g.since == 1 else {}
    old |= {"is_test": 1} if g.since < 7 else {}
    for name, shape in (("image", (2, 3, 4, 5)), ("list", (1, 3, 7)), ("rows", (4, 3)), ("no batch", (0, 3, 2))):
        statistics = [g.data(names[i], (3,), 0.5, 2, seed=i) for i in range(1, 5)]
        yield g.case(name, g.data(names[0], shape), *statistics, **old)
        yield g.case(f"{name} weights", g.data(names[0], shape), *map(Const, statistics), epsilon=0.01, **old)


@TABLE.row("InstanceNormalization")
def instance_norm(g: Given) -> Iterator[Example]:
    """Of images and lists."""
    old = {"consumed_inputs": [0]} if g.since == 1 else {}
    for name, shape in (("image", (2, 3, 4, 5)), ("list", (1, 3, 7)), ("one", (1, 3, 1))):
        yield g.case(
            name, g.data("T", shape), g.data("T", (3,), seed=1), g.data("T", (3,), seed=2), epsilon=0.01, **old
        )


@TABLE.row("LayerNormalization", "RMSNormalization")
def layer_norm(g: Given) -> Iterator[Example]:
    """From each axis."""
    scale = g.schema.inputs[1].type_str
    bias = [None] if g.op != "LayerNormalization" else [None, g.data(scale, (5,), seed=2)]
    for i, b in enumerate(bias):
        yield g.case(f"last {i}", g.data("T", (2, 3, 5)), g.data(scale, (5,), seed=1), b)
    yield g.case("two", g.data("T", (2, 3, 5)), g.data(scale, (3, 5), seed=1), axis=-2, epsilon=0.01)
    yield g.case("long", g.data("T", (3, 67)), Const(g.data(scale, (67,), seed=1)))
    yield g.case("empty", g.data("T", (0, 5)), g.data(scale, (5,), seed=1))
    if g.op == "LayerNormalization":
        yield g.case("results", g.data("T", (2, 3, 5)), g.data(scale, (5,), seed=1), results=3)


@TABLE.row("GroupNormalization")
def group_norm(g: Given) -> Iterator[Example]:
    """One group, some, as many as channels."""
    for groups in (1, 2, 4):
        operands = g.data("T", (2, 4, 3, 3)), g.data("T", (4,), seed=1), g.data("T", (4,), seed=2)
        yield g.case(f"{groups}", *operands, num_groups=groups)


@TABLE.row("MeanVarianceNormalization")
def standardisation(g: Given) -> Iterator[Example]:
    """Default axes and given ones."""
    yield g.case("default", g.data("X" if "X" in g.types else "T", (2, 3, 4, 5)))
    yield g.case("axes", g.data("T", (2, 3, 5)), axes=[0, 2])


@TABLE.row("LRN")
def local_response(g: Given) -> Iterator[Example]:
    """Odd and even sizes."""
    for name, shape, size, factors in (
        ("1", (2, 5, 3, 4), 1, {}),
        ("3", (2, 5, 3, 4), 3, {}),
        ("4", (2, 5, 3, 4), 4, {}),
        ("factors", (2, 5, 3), 3, {"alpha": 0.5, "beta": 0.5, "bias": 2.0}),
    ):
        x = g.data("T", shape)
        wide, sums = x.astype(np.float64), np.zeros(shape)
        for c in range(shape[1]):
            sums[:, c] = (wide[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1] ** 2).sum(1)
        scale = factors.get("bias", 1.0) + factors.get("alpha", 1e-4) / size * sums
        yield g.case(name, x, size=size, want=[wide / scale ** factors.get("beta", 0.75)], **factors)


@TABLE.row("LpNormalization")
def lp_norm(g: Given) -> Iterator[Example]:
    """Orders and axes."""
    for p in (1, 2):
        for axis in (0, 1, -1):
            x = g.data("T", (3, 5))
            wide = x.astype(np.float64)
            length = (np.abs(wide) ** p).sum(axis, keepdims=True) ** (1 / p)
            yield g.case(f"{p} {axis}", x, p=p, axis=axis, want=[wide / length])


@TABLE.row("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def losses(g: Given) -> Iterator[Example]:
    """Each reduction, weights, a class that is ignored."""
    for reduction in ("none", "sum", "mean"):
        for name, shape in (("rows", (4, 5)), ("image", (2, 5, 3, 2))):
            target = g.rng(name).integers(0, 5, (shape[0], *shape[2:])).astype(g.dtype("Tind"))
            weight = g.data("T", (5,), 0.5, 2, seed=1)
            yield g.case(f"{reduction} {name}", g.data("T", shape), target, reduction=reduction)
            ignored = {"reduction": reduction, "ignore_index": 2}
            yield g.case(f"{reduction} {name} weights", g.data("T", shape), target, weight, **ignored)


@TABLE.row("RNN", "GRU", "LSTM")
def recurrent(g: Given) -> Iterator[Example]:
    """Directions, biases, states, lengths, the order of axes."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[g.op]
    results = 3 if g.op == "LSTM" else 2
    hidden, size, steps, batch = 3, 2, 4, 2

    def operands(directions: int, seed: int = 0) -> list[np.ndarray]:
        shapes = ((gates * hidden, size), (gates * hidden, hidden))
        return [g.data("T", (directions, *s), -1, 1, seed=seed + i) for i, s in enumerate(shapes)]

    x = g.data("T", (steps, batch, size), seed=9)
    names = {i.name: place for place, i in enumerate(g.schema.inputs)}
    for direction in ("forward", "reverse", "bidirectional"):
        many = 2 if direction == "bidirectional" else 1
        yield g.case(direction, x, *operands(many), hidden_size=hidden, direction=direction, results=results)
        bias = g.data("T", (many, 2 * gates * hidden), -1, 1, seed=5)
        states = [g.data("T", (many, batch, hidden), -1, 1, seed=6 + i) for i in range(results - 1)]
        weights = map(Const, operands(many))
        chosen = {"hidden_size": hidden, "direction": direction}
        yield g.case(f"{direction} states", x, *weights, bias, None, *states, results=results, **chosen)
    if g.op == "LSTM" and "P" in names:
        peepholes = g.data("T", (1, 3 * hidden), -1, 1, seed=8)
        given = [x, *operands(1), *[None] * 4, peepholes]
        yield g.case("peepholes", *given, hidden_size=hidden, results=results)
    if g.op == "GRU" and g.since >= 3:
        bias = g.data("T", (1, 2 * gates * hidden), -1, 1, seed=5)
        chosen = {"hidden_size": hidden, "linear_before_reset": 1}
        yield g.case("linear before reset", x, *operands(1), bias, results=results, **chosen)
    if g.since >= 7:
        yield g.case("one step", x[:1], *operands(1), hidden_size=hidden, results=results)
    if g.since >= 14:
        swapped = np.ascontiguousarray(x.swapaxes(0, 1))
        yield g.case("batch first", swapped, *operands(1), hidden_size=hidden, layout=1, results=1)


@TABLE.row("DFT")
def fourier(g: Given) -> Iterator[Example]:
    """Real and complex signals, inverse, one half, cut and padded."""
    kind = g.dtype("T2")
    for name, shape, flags, length in (
        ("real", (2, 6, 1), {}, None),
        ("complex", (1, 5, 2), {}, None),
        ("inverse", (1, 8, 2), {"inverse": 1}, None),
        ("half", (2, 7, 1), {"onesided": 1}, None),
        ("cut", (1, 9, 1), {}, 4),
        ("padded", (1, 3, 2), {}, 5),
        ("list", (1, 1, 1), {}, None),
    ):
        operand = None if length is None else Const(np.array(length, kind))
        axis = Const(np.array(1)) if g.since >= 20 else None
        attributes = {"axis": 1} if g.since < 20 else {}
        yield g.case(name, g.data("T1", shape), operand, axis, **flags, **attributes)


@TABLE.row("STFT")
def short_time(g: Given) -> Iterator[Example]:
    """With a window, with a length."""
    step, length = (Const(np.array(n, g.dtype("T2"))) for n in (3, 8))
    window = g.data("T1", (8,), 0.1, 1, seed=1)
    for one_sided in (0, 1):
        yield g.case(f"window {one_sided}", g.data("T1", (2, 20, 1)), step, window, onesided=one_sided)
        yield g.case(f"length {one_sided}", g.data("T1", (1, 17, 1)), step, None, length, onesided=one_sided)


@TABLE.row("MelWeightMatrix")
def mel(g: Given) -> Iterator[Example]:
    """Eight bands."""
    from benchmarks.fuzz.build import dtype_code

    counts = [Const(np.array(n, g.dtype("T1"))) for n in (8, 16, 8000)]
    edges = [Const(np.array(n).astype(g.data("T2", ()).dtype)) for n in (0.0, 4000.0)]
    yield g.case("plain", *counts, *edges, output_datatype=dtype_code(g.dtype("T3")))


@TABLE.row("BlackmanWindow", "HammingWindow", "HannWindow")
def windows(g: Given) -> Iterator[Example]:
    """Periodic and symmetric."""
    from benchmarks.fuzz.build import dtype_code

    for periodic in (0, 1):
        for size in (2, 9):
            operand = Const(np.array(size, g.dtype("T1")))
            yield g.case(f"{size} {periodic}", operand, periodic=periodic, output_datatype=dtype_code(g.dtype("T2")))
    yield g.case("computed", np.array(7, g.dtype("T1")), output_datatype=dtype_code(g.dtype("T2")))
