"""Control flow, sequences, optionals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.fuzz.build import dtype_code
from benchmarks.grid.examples import Array, Const, Example, Given, Table

TABLE = Table()


def _code(array: Array) -> int:
    return TensorProto.STRING if array.dtype.hasobject else dtype_code(array.dtype.name)


def _info(name: str, array: Array, shape: tuple[int, ...] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _code(array), array.shape if shape is None else shape)


def _copy(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [source], [target])


@TABLE.row("If", exact=True)
def branches(g: Given) -> Iterator[Example]:
    """Branches that read what is outside, by a condition that is known and one that is computed."""
    for name, shape in (("odd", (3, 5)), ("scalar", ()), ("empty", (0, 3))):
        for value in (True, False):
            a, b = g.data("V", shape), g.data("V", shape, seed=1)
            for known in (True, False) if name == "odd" else (value,):
                example = Example(f"{name} {value} {known}", {"a": a, "b": b}, want=(a if value else b,))
                bodies = [helper.make_graph([_copy(n, "out")], f"branch_{n}", [], [_info("out", a)]) for n in "ab"]
                condition = np.array(value)
                chosen: dict[str, Any] = {"then_branch": bodies[0], "else_branch": bodies[1]}
                example.outputs = example.add("If", [Const(condition) if known else condition], ["y"], **chosen)
                yield example


@TABLE.row("Loop", exact=True)
def loops(g: Given) -> Iterator[Example]:
    """A value carried along and one collected, by a known number and by one that is data."""
    for name, shape in (("odd", (3, 5)), ("scalar", ())):
        for known in (True, False):
            for trips in (3, 0) if name == "odd" else (2,):
                x = g.data("V", shape)
                wanted = [x, np.stack([x] * trips) if trips else np.zeros((0, *shape), x.dtype)]
                example = Example(f"{name} {trips} {known}", {"x": x}, want=tuple(wanted))
                inputs = [
                    helper.make_tensor_value_info("i", TensorProto.INT64, ()),
                    helper.make_tensor_value_info("c", TensorProto.BOOL, ()),
                    _info("s", x),
                ]
                outputs = [helper.make_tensor_value_info("d", TensorProto.BOOL, ()), _info("t", x), _info("u", x)]
                body = helper.make_graph([_copy("c", "d"), _copy("s", "t"), _copy("s", "u")], "body", inputs, outputs)
                count, go = np.array(trips), np.array(True)
                operands = [Const(count) if known else count, Const(go), "x"]
                example.outputs = example.add("Loop", operands, ["last", "all"], body=body)
                yield example


@TABLE.row("Scan", exact=True)
def scans(g: Given) -> Iterator[Example]:
    """A state and the elements along the first axis."""
    for length in (1, 4):
        x, state = g.data("V", (length, 3)), g.data("V", (3,), seed=1)
        before = np.concatenate([state[None], x[:-1]])
        inputs = [_info("s", state), _info("e", state)]
        outputs = [_info("t", state), _info("u", state)]
        body = helper.make_graph([_copy("e", "t"), _copy("s", "u")], "body", inputs, outputs)
        example = Example(f"{length}", {"s0": state, "x": x}, want=(x[-1], before))
        operands: list[Any] = ["s0", "x"]
        if g.since == 8:
            example.inputs = {"s0": state[None], "x": x[None]}
            example.want = (x[-1:], before[None])
            operands = [None, *operands]
        example.add("Scan", operands, ["last", "all"], body=body, num_scan_inputs=1)
        example.outputs = ["last", "all"]
        yield example


def _sequence(g: Given, variant: str, count: int = 3) -> tuple[Example, list[Array]]:
    parts = [g.data(_parameter(g), (2, i + 1), seed=i) for i in range(count)]
    example = Example(variant)
    example.add("SequenceConstruct", parts, ["sequence"])
    return example, parts


def _parameter(g: Given) -> str:
    return next(name for name in ("S", "T", "V", "O") if name in g.types)


@TABLE.row("SequenceConstruct", "SequenceAt", exact=True)
def elements(g: Given) -> Iterator[Example]:
    """Each element by a constant position, and by one that is data."""
    kind = g.dtype("I") if "I" in g.types else "int64"
    for place in (0, 2, -1):
        for known in (True, False) if g.op == "SequenceAt" else (True,):
            example, parts = _sequence(g, f"{place} {known}")
            index = np.array(place, kind)
            example.outputs = example.add("SequenceAt", ["sequence", Const(index) if known else index], ["y"])
            example.want = (parts[place],)
            yield example


@TABLE.row("SequenceLength", exact=True)
def length(g: Given) -> Iterator[Example]:
    """How many there are."""
    example, parts = _sequence(g, "three")
    example.outputs = example.add("SequenceLength", ["sequence"], ["y"])
    example.want = (np.array(len(parts)),)
    yield example


@TABLE.row("SequenceErase", "SequenceInsert", exact=True)
def changes(g: Given) -> Iterator[Example]:
    """At the end and at a position."""
    kind = g.dtype("I")
    for place in (None, 0, 1, -1):
        example, parts = _sequence(g, f"{place}")
        position = None if place is None else Const(np.array(place, kind))
        if g.op == "SequenceErase":
            example.add("SequenceErase", ["sequence", position], ["changed"])
            del parts[-1 if place is None else place]
        else:
            new = g.data(_parameter(g), (2, 7), seed=9)
            example.add("SequenceInsert", ["sequence", new, position], ["changed"])
            parts.insert(len(parts) if place is None else place, new)
        joined = np.concatenate(parts, axis=1)
        example.outputs = example.add("ConcatFromSequence", ["changed"], ["y"], axis=1)
        example.want = (joined,)
        yield example


@TABLE.row("SequenceEmpty", exact=True)
def empty(g: Given) -> Iterator[Example]:
    """One element put in."""
    x = g.data(_parameter(g), (2, 3))
    example = Example("one")
    example.add("SequenceEmpty", [], ["none"], dtype=_code(x))
    example.add("SequenceInsert", ["none", x], ["sequence"])
    example.outputs = example.add("SequenceAt", ["sequence", Const(np.array(0))], ["y"])
    example.want = (x,)
    yield example


@TABLE.row("ConcatFromSequence", exact=True)
def joined(g: Given) -> Iterator[Example]:
    """Joined and stacked."""
    example, parts = _sequence(g, "joined")
    example.outputs = example.add("ConcatFromSequence", ["sequence"], ["y"], axis=-1)
    example.want = (np.concatenate(parts, axis=-1),)
    yield example
    same = [g.data(_parameter(g), (2, 3), seed=i) for i in range(2)]
    example = Example("stacked", want=(np.stack(same, 1),))
    example.add("SequenceConstruct", same, ["sequence"])
    example.outputs = example.add("ConcatFromSequence", ["sequence"], ["y"], axis=1, new_axis=1)
    yield example


@TABLE.row("SplitToSequence", exact=True)
def apart(g: Given) -> Iterator[Example]:
    """Single ones, equal parts, given ones."""
    kind = g.dtype("I")
    x = g.data("T", (5, 3))
    for name, sizes, begin, end in (("equal", np.array(2, kind), 2, 4), ("given", np.array([1, 3, 1], kind), 1, 4)):
        example = Example(name, {"x": x}, want=(x[begin:end],))
        example.add("SplitToSequence", ["x", Const(sizes)], ["sequence"], axis=0)
        example.outputs = example.add("SequenceAt", ["sequence", Const(np.array(1))], ["y"])
        yield example
    example = Example("single", {"x": x}, want=(x[:, 1],))
    example.add("SplitToSequence", ["x"], ["sequence"], axis=1, keepdims=0)
    example.outputs = example.add("SequenceAt", ["sequence", Const(np.array(1))], ["y"])
    yield example


@TABLE.row("SequenceMap", exact=True)
def mapped(g: Given) -> Iterator[Example]:
    """A body that gives its element."""
    example, parts = _sequence(g, "copy")
    loose = helper.make_tensor_value_info("e", _code(parts[0]), None)
    body = helper.make_graph(
        [_copy("e", "f")], "body", [loose], [helper.make_tensor_value_info("f", _code(parts[0]), None)]
    )
    example.add("SequenceMap", ["sequence"], ["others"], body=body)
    example.outputs = example.add("SequenceAt", ["others", Const(np.array(1))], ["y"])
    example.want = (parts[1],)
    yield example


@TABLE.row("Optional", "OptionalHasElement", "OptionalGetElement", exact=True)
def optionals(g: Given) -> Iterator[Example]:
    """One that is there; since version 18 tensors too."""
    x = g.data(_parameter(g), (2, 3))
    example = Example("there", {"x": x})
    example.add("Optional", ["x"], ["optional"])
    has = g.op == "OptionalHasElement"
    op = "OptionalHasElement" if has else "OptionalGetElement"
    example.outputs = example.add(op, ["optional"], ["y"])
    example.want = (np.array(True) if has else x,)
    yield example
    if g.since >= 18 and g.op != "Optional":
        yield g.case("tensor", x, want=example.want)
