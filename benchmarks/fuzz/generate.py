"""A random model for a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from benchmarks.fuzz import control, linear, movement, pointwise, reduction
from benchmarks.fuzz.build import Array, Builder, Shape, TooLargeError

Maker = Callable[[Builder], bool]

MAKERS: tuple[tuple[Maker, float], ...] = (
    (pointwise.unary, 4),
    (pointwise.binary, 5),
    (pointwise.integer, 1.5),
    (pointwise.logic, 1.5),
    (pointwise.clip, 0.7),
    (pointwise.cast, 0.7),
    (reduction.reduce, 2),
    (reduction.arg, 1),
    (reduction.softmax, 1),
    (reduction.layer_norm, 1),
    (reduction.channel_norm, 1),
    (linear.matmul, 2.5),
    (linear.conv, 3),
    (linear.conv_transpose, 0.7),
    (linear.pool, 1.2),
    (linear.attention, 1),
    (linear.quantised, 1.2),
    (linear.recurrent, 0.7),
    (movement.transpose, 2),
    (movement.reshape, 2.5),
    (movement.slices, 2),
    (movement.concat, 1.5),
    (movement.pad, 1),
    (movement.gather, 1.2),
    (movement.scatter, 0.6),
    (movement.expand, 0.8),
    (movement.images, 0.8),
)
_CHANCES = np.array([weight for _, weight in MAKERS]) / sum(weight for _, weight in MAKERS)


@dataclass(frozen=True)
class Sample:
    """A model, inputs for it, and whether NaN, infinities and huge numbers are among them."""

    model: onnx.ModelProto
    data: dict[str, Array]
    special: bool


def generate(seed: int, largest: int = 12) -> Sample:
    """The model of `seed`, the same every time: at most about `largest` nodes, opset 15 to 21, inputs f32 mostly, some
    axes open. It passes onnx.checker."""
    rng = np.random.default_rng(seed)
    float_type = str(rng.choice(["float32", "float64", "float16"], p=[0.86, 0.07, 0.07]))
    b = Builder(rng, int(rng.integers(15, 22)), float_type, special=bool(rng.random() < 0.1))
    for _ in range(b.integer(1, 3)):
        dtype = b.float_type if b.chance(0.85) else b.choice(("int64", "int32", "uint8", "int8", "bool"))
        b.add_input(dtype, _open(b, b.shape(b.choice((0, 1, 2, 2, 3, 3, 4, 4, 4)))))
    grow(b, b.integer(1, largest))
    ends = [t for t in b.made if t.name not in b.used]
    ends += [t for t in b.made if t.name in b.used and b.chance(0.1)]
    if not ends:
        only = next(iter(b.inputs.values()))[0]
        ends = [b.node("Identity", [only], [(only.dtype, only.shape)])[0]]
    graph = helper.make_graph(
        b.nodes,
        f"seed_{seed}",
        [b.value_info(t) for t, _ in b.inputs.values()],
        [b.value_info(t) for t in ends],
        b.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return Sample(model, {name: array for name, (_, array) in b.inputs.items()}, b.special)


def _open(b: Builder, shape: Shape) -> Shape:
    """`shape` with the first axis, rarely another, open."""
    if not shape or not b.chance(0.35):
        return shape
    axis = 0 if b.chance(0.8) else b.integer(0, len(shape) - 1)
    name = b.choice(("batch", "seq"))
    b.sizes.setdefault(name, b.size(shape[axis]))
    return (*shape[:axis], name, *shape[axis + 1 :])


def grow(b: Builder, count: int) -> None:
    """Add about `count` steps to the model."""
    for _ in range(count):
        if b.chance(0.04):
            maker: Maker = lambda b: b.choice((control.branch, control.loop))(b, grow)  # noqa: E731
        else:
            maker = MAKERS[int(b.rng.choice(len(MAKERS), p=_CHANCES))][0]
        nodes, pool, made = len(b.nodes), len(b.pool), len(b.made)
        try:
            maker(b)
        except TooLargeError:
            del b.nodes[nodes:], b.pool[pool:], b.made[made:]
