"""A random model for a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from benchmarks.fuzz import (
    analysis,
    control,
    creation,
    linear,
    movement,
    pointwise,
    quantised,
    reduction,
    sampling,
    sequences,
    sizes,
    text,
    transformer,
)
from benchmarks.fuzz.build import INTEGERS, Array, Builder, Shape, Tensor, TooLargeError

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
    (linear.matmul, 1.8),
    (linear.conv, 2),
    (linear.conv_transpose, 0.7),
    (linear.pool, 1.2),
    (linear.recurrent, 0.7),
    (transformer.attention, 1.8),
    (quantised.quantised, 1.6),
    (quantised.narrow, 0.7),
    (movement.transpose, 2),
    (movement.reshape, 2.5),
    (movement.slices, 2),
    (movement.concat, 1.5),
    (movement.pad, 1),
    (movement.gather, 1.2),
    (movement.scatter, 0.6),
    (movement.expand, 0.8),
    (movement.images, 0.8),
    (creation.create, 1.5),
    (sizes.from_data, 2.5),
    (sampling.sample, 2),
    (sequences.sequence, 0.8),
    (analysis.analyse, 2),
    (text.text, 1),
)
CHEAP = (
    pointwise.unary, pointwise.binary, pointwise.logic, pointwise.clip, reduction.reduce, reduction.softmax,
    movement.transpose, movement.reshape, movement.slices, movement.concat,
)  # fmt: skip
BODIES = (control.branch, control.loop, control.scan, control.until, control.over, control.growing, control.differing)
_CHANCES = np.array([weight for _, weight in MAKERS]) / sum(weight for _, weight in MAKERS)


NEWEST = onnx.defs.onnx_opset_version()
DRAWS = 32


@dataclass(frozen=True)
class Sample:
    """A model, inputs for it, and whether NaN, infinities and huge numbers are among them."""

    model: onnx.ModelProto
    data: dict[str, Array]
    special: bool


def generate(seed: int, largest: int = 12) -> Sample:
    """The model of `seed`, the same every time: at most about `largest` steps (a few models have many more), opset 13
    to the newest, inputs f32 mostly, some axes open. It passes onnx.checker: what is drawn with an element type that
    an operator does not take in that opset is drawn again.

    Raises onnx.checker's errors for any other fault of a model, which would be the generator's.
    """
    for draw in range(DRAWS):
        sample = _drawn(np.random.default_rng([seed, draw]), f"seed_{seed}", largest)
        try:
            onnx.checker.check_model(sample.model, full_check=True)
        except onnx.shape_inference.InferenceError as error:
            if "TypeInferenceError" not in str(error) and "unsupported type" not in str(error):
                raise
            continue
        return sample
    raise RuntimeError(f"seed {seed}: all of {DRAWS} models have element types that an operator does not take")


def _drawn(rng: np.random.Generator, name: str, largest: int) -> Sample:
    float_type = str(rng.choice(["float32", "float64", "float16"], p=[0.86, 0.07, 0.07]))
    special, large = bool(rng.random() < 0.1), bool(rng.random() < 0.02)
    b = Builder(rng, int(rng.integers(13, NEWEST + 1)), float_type, special, large)
    for _ in range(b.integer(1, 3)):
        dtype = b.float_type if b.chance(0.85) else b.choice((*INTEGERS, "bool"))
        b.add_input(dtype, _open(b, b.shape(b.choice((0, 1, 2, 2, 3, 3, 4, 4, 4)))))
    structure = rng.random() + large
    if structure < 0.02:
        grow(b, b.integer(3, 8) * largest, CHEAP)
    elif structure < 0.04:
        _branches(b, b.integer(1, 3) * largest)
    elif structure < 0.3:  # few kinds of steps, so that rare ones meet (swarm testing, Groce et al. 2012)
        kinds = [_body, *(maker for maker, _ in MAKERS)]
        chosen = tuple(kinds[int(i)] for i in rng.choice(len(kinds), 4, replace=False))
        grow(b, 1 + int((largest - 1) * rng.random() ** 2.5), (*chosen, pointwise.binary))
    else:
        grow(b, 1 + int((largest - 1) * rng.random() ** (8 if large else 2.5)))
    ends = [t for t in b.made if t.name not in b.used]
    ends += [t for t in b.made if t.name in b.used and b.chance(0.1)]
    if not ends:
        only = next(iter(b.inputs.values()))[0]
        ends = [b.node("Identity", [only], [(only.dtype, only.shape)])[0]]
    inputs = [b.value_info(t) for t, _ in b.inputs.values()]
    graph = helper.make_graph(b.nodes, name, inputs, [b.value_info(t) for t in ends], b.initializers)
    domains = sorted({node.domain for node in b.nodes if node.domain})
    opsets = [helper.make_opsetid("", b.opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return Sample(model, {name: array for name, (_, array) in b.inputs.items()}, b.special)


def _branches(b: Builder, count: int) -> None:
    """Many short chains that all begin at the inputs."""
    first, every = list(b.pool), list[Tensor]()
    for _ in range(count):
        b.pool[:] = first
        grow(b, b.integer(1, 2))
        every += b.pool[len(first) :]
    b.pool[:] = [*first, *every]


def _open(b: Builder, shape: Shape) -> Shape:
    """`shape` with the first axis, rarely another, open."""
    if not shape or not b.chance(0.35):
        return shape
    axis = 0 if b.chance(0.8) else b.integer(0, len(shape) - 1)
    name = b.choice(("batch", "seq"))
    b.sizes.setdefault(name, b.size(shape[axis]))
    return (*shape[:axis], name, *shape[axis + 1 :])


def _body(b: Builder) -> bool:
    """An operator with sub-graphs."""
    return bool(b.choice(BODIES)(b, grow))


def grow(b: Builder, count: int, makers: tuple[Maker, ...] = ()) -> None:
    """Add about `count` steps to the model, of `makers` where they are given."""
    for _ in range(count):
        if makers:
            maker: Maker = b.choice(makers)
        elif b.chance(0.06):
            maker = _body
        else:
            maker = MAKERS[int(b.rng.choice(len(MAKERS), p=_CHANCES))][0]
        nodes, pool, made = len(b.nodes), len(b.pool), len(b.made)
        try:
            maker(b)
        except TooLargeError:
            del b.nodes[nodes:], b.pool[pool:], b.made[made:]
