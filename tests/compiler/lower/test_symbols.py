"""Dims may be called what kernels call their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from ingot.compiler import compile, default_pipeline, load_onnx
from ingot.compiler.ir.dims import symbols
from ingot.compiler.ir.loops import Axis, For, Let, Scratch
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.symbols import OWN, set_apart
from ingot.compiler.targets.registry import find_target
from ingot.runtime import RuntimeFault

TEXT = """<ir_version: 8, opset_import: ["": 17]> m
    (float[ONE, TWO, 5] x, float[5, 7] w, float[1, 4, ONE, TWO] image, float[4, 1, 3, 3] taps, float[8, 4, 3, 3] more)
    => (float[] product, int64[] most, float[] soft, float[] pooled, float[] sums, float[] power, float[] deep,
        float[] mixed, float[] mean, float[] mass, float[] best, int64[] places, float[] root, float[] line)
    <int64 axis = {1}, int64[1] two = {2}> {
    product = MatMul (x, w)
    most = ArgMax <axis = 1> (x)
    soft = Softmax <axis = 1> (x)
    pooled = MaxPool <kernel_shape = [2, 2], pads = [1, 1, 1, 1]> (image)
    sums = CumSum (x, axis)
    power = ReduceProd <axes = [1]> (x)
    deep = Conv <group = 4, pads = [1, 1, 1, 1]> (image, taps)
    mixed = Conv <pads = [1, 1, 1, 1]> (image, more)
    mean = GlobalAveragePool (image)
    turned = Transpose <perm = [0, 2, 1]> (x)
    square = MatMul (x, turned)
    weights = Softmax <axis = -1> (square)
    mass = MatMul (weights, x)
    best, places = TopK <axis = 2> (x, two)
    squares = Mul (x, x)
    root = ReduceL2 <axes = [2]> (x)
    line = ReduceLogSumExp <axes = [0, 1]> (squares) }"""


SHAPES = {"x": (3, 6, 5), "w": (5, 7), "image": (1, 4, 3, 6), "taps": (4, 1, 3, 3), "more": (8, 4, 3, 3)}


def model(first: str, second: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT.replace("ONE", first).replace("TWO", second))


def program(proto: onnx.ModelProto) -> Program:
    made = lower(default_pipeline().run(load_onnx(proto)), find_target("cpu").machine)
    verify_program(made)
    return made


def own_names(item: Any) -> Iterator[str]:
    """What a piece of a kernel defines."""
    if isinstance(item, tuple | list):
        for part in item:
            yield from own_names(part)
    elif dataclasses.is_dataclass(item) and not isinstance(item, type):
        if isinstance(item, For | Axis):
            yield item.var
        elif isinstance(item, Let | Scratch):
            yield item.name
        for f in dataclasses.fields(item):
            yield from own_names(getattr(item, f.name))


def test_what_kernels_define_is_their_own() -> None:
    for launch in program(model("n", "m")).launches():
        kernel = launch.kernel
        body = kernel.body if isinstance(kernel.body, tuple) else kernel.body.nest()
        for name in {*own_names((kernel.grid, body)), *(b.name for b in kernel.buffers)}:
            assert OWN.fullmatch(name), (kernel.name, name)


@pytest.mark.parametrize(("first", "second"), [("b0", "_i0"), ("found", "acc"), ("total", "dim_row"), ("s0", "norm")])
def test_dims_with_names_of_kernels(first: str, second: str) -> None:
    """The program is that of dims with other names; outside of kernels they are the model's."""
    made, plain = program(model(first, second)), program(model("n", "m"))
    assert [len(s.kernel.dims) for s in made.launches()] == [len(s.kernel.dims) for s in plain.launches()]
    assert {s for launch in made.launches() for d in launch.dims for s in symbols(d)} == {first, second}
    assert {s for storage in made.storages for s in symbols(storage.size)} == {first, second}


def test_they_compile() -> None:
    proto = model("row", "panel")
    random = np.random.default_rng(1)
    feed = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    wanted = [np.asarray(array) for array in ReferenceEvaluator(proto).run(None, feed)]
    with compile(proto, jobs=1).session(threads=1) as session:
        assert session.inputs[0].shape == ("row", "panel", 5)
        found = session.run(feed)
        for output, want in zip(session.outputs, wanted, strict=True):
            np.testing.assert_allclose(found[output.name], want, rtol=1e-4, atol=1e-4, err_msg=output.name)


def test_sizes_from_data_and_sub_graphs() -> None:
    """Bound symbols, those of a loop, and the message of one that is out of range."""
    text = """<ir_version: 9, opset_import: ["": 18]> m (float[row] x, int64[1] k, int64 trips)
        => (float[a] y, int64 at) <bool yes = {1}> {
        best, acc = TopK <axis = 0> (x, k)
        y = Loop (trips, yes, best) <body = b (int64 i, bool c, float[p] found) => (bool d, float[q] total)
            { d = Identity (c)  total = Concat <axis = 0> (found, best) }>
        at = ArgMax <axis = 0, keepdims = 0> (y) }"""
    proto = onnx.parser.parse_model(text)
    graph = load_onnx(proto)
    apart, names = set_apart(graph)
    assert {"row", "best"} <= set(names.values()) and not any(OWN.fullmatch(s) for s in apart.bound)
    x = np.array([2, 5, 3], np.float32)
    with compile(proto, jobs=1).session(threads=1) as session:
        found = session.run({"x": x, "k": np.array([2]), "trips": np.array(2)})
        np.testing.assert_array_equal(found["y"], [5, 3, 5, 3, 5, 3])
        with pytest.raises(RuntimeFault, match="the size best is outside 0"):
            session.run({"x": x, "k": np.array([-1]), "trips": np.array(2)})
