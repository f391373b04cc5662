"""Conditions that decide about ranks: the value that the rest of the model can live with is taken, after a check; where
that may be either, the rest is there twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, parser

from ingot.compiler import compile
from ingot.compiler.frontend import ModelError, UnsupportedError, load_onnx
from ingot.runtime import RuntimeFault


def value(name: str, shape: list[Any] | None, dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name: str, data: Any) -> NodeProto:
    array = np.asarray(data)
    kind = TensorProto.FLOAT if array.dtype.kind == "f" else TensorProto.INT64
    tensor = helper.make_tensor(name, kind, array.shape, array.reshape(-1))
    return helper.make_node("Constant", [], [name], value=tensor)


def squeezed(source: str, out: str, *, swap: bool = False) -> list[NodeProto]:
    """out = squeeze(source, -1) if source.shape[-1] == 1 else source."""
    drop = helper.make_graph(
        [helper.make_node("Squeeze", [source, "last"], ["dropped"])], "drop", [], [value("dropped", None)]
    )
    keep = helper.make_graph([helper.make_node("Identity", [source], ["kept"])], "keep", [], [value("kept", None)])
    nodes = [
        constant("last", [-1]),
        constant("one", [1]),
        helper.make_node("Shape", [source], ["shape"]),
        helper.make_node("Gather", ["shape", "last"], ["extent"]),
        helper.make_node("Equal", ["extent", "one"], ["is_one"]),
    ]
    condition = "is_one"
    if swap:
        nodes.append(helper.make_node("Not", ["is_one"], ["is_more"]))
        drop, keep, condition = keep, drop, "is_more"
    return [*nodes, helper.make_node("If", [condition], [out], then_branch=drop, else_branch=keep)]


def model(nodes: list[NodeProto], inputs: list[Any], out: list[Any] | None) -> ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, [value("y", out)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def projected(swap: bool = False) -> ModelProto:
    """y = squeezed @ w, transposed by a permutation of two axes: three are an error."""
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    nodes = [
        *squeezed("x", "flat", swap=swap),
        helper.make_node("Transpose", ["flat"], ["turned"], perm=[1, 0]),
        helper.make_node("Transpose", ["turned"], ["back"], perm=[1, 0]),
        constant("w", weights),
        helper.make_node("MatMul", ["back", "w"], ["y"]),
    ]
    return model(nodes, [value("x", ["n", 4, "t"])], ["n", 3])


@pytest.mark.parametrize("swap", [False, True])
def test_the_branch_that_fits_is_taken(swap: bool) -> None:
    proto = projected(swap)
    reference = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    artifact = compile(proto)
    with artifact.session(threads=1) as session:
        assert session.outputs[0].shape == ("n", 3)
        for n in (1, 2, 5, 33):
            x = np.random.default_rng(n).standard_normal((n, 4, 1)).astype(np.float32)
            want = np.asarray(reference.run(None, {"x": x})[0])
            np.testing.assert_allclose(session.run({"x": x})["y"], want, rtol=1e-5)


def computed(nodes: list[NodeProto], out: list[Any] | None) -> ModelProto:
    """The nodes over x [n, 4, t // 2], which no relation makes a symbol of its own."""
    halve = [
        constant("zero", [0]), constant("most", [2**62]), constant("axis", [2]), constant("two", [2]),
        helper.make_node("Slice", ["wide", "zero", "most", "axis", "two"], ["x"]),
    ]  # fmt: skip
    return model([*halve, *nodes], [value("wide", ["n", 4, "t"])], out)


def test_the_other_branch_is_a_fault_and_touches_nothing() -> None:
    nodes = [
        *squeezed("x", "flat"),
        helper.make_node("Transpose", ["flat"], ["turned"], perm=[1, 0]),
        helper.make_node("Softmax", ["turned"], ["y"], axis=0),
    ]
    proto = computed(nodes, [4, "n"])
    with compile(proto).session(threads=1) as session:
        for n in (1, 3, 40):
            wide = np.random.default_rng(n).standard_normal((n, 4, 2)).astype(np.float32)
            want = np.exp(wide[:, :, 0].T.astype(np.float64))
            np.testing.assert_allclose(session.run({"wide": wide})["y"], want / want.sum(0), rtol=1e-5)
            for t in (3, 4, 9):
                with pytest.raises(RuntimeFault, match="the condition must be true: with these shapes"):
                    session.run({"wide": np.zeros((n, 4, t), np.float32)})


def test_both_could_be_right() -> None:
    nodes = [*squeezed("x", "either"), helper.make_node("Relu", ["either"], ["y"])]
    with pytest.raises(UnsupportedError, match=r"in one place and .* in another"):
        load_onnx(computed(nodes, None))


def test_neither_can_be_right() -> None:
    nodes = [*squeezed("x", "flat"), helper.make_node("Transpose", ["flat"], ["y"], perm=[3, 2, 1, 0])]
    with pytest.raises(ModelError, match=r"axis 3 is outside -2\.\.1"):
        load_onnx(computed(nodes, None))


def test_one_behind_the_other() -> None:
    nodes = squeezed("x", "flat")
    for node in squeezed("z", "flat_z"):
        renamed = NodeProto()
        renamed.CopyFrom(node)
        if node.op_type != "If":
            renamed.output[0] += "_z"
        for i, name in enumerate(node.input):
            renamed.input[i] = name if name == "z" else f"{name}_z"
        for attribute in renamed.attribute:
            for inner in attribute.g.node:
                inner.input[:] = [name if name == "z" else f"{name}_z" for name in inner.input]
        nodes.append(renamed)
    nodes += [
        helper.make_node("Identity", ["x"], ["z"]),
        helper.make_node("Add", ["flat", "flat_z"], ["sum"]),
        helper.make_node("Transpose", ["sum"], ["y"], perm=[1, 0]),
    ]
    nodes.insert(0, nodes.pop(-3))
    proto = computed(nodes, [4, "n"])
    graph = load_onnx(proto)
    assert [v.rank for _, v in graph.outputs] == [2]
    wide = np.random.default_rng(0).standard_normal((3, 4, 2)).astype(np.float32)
    with compile(proto).session(threads=1) as session:
        np.testing.assert_allclose(session.run({"wide": wide})["y"], 2 * wide[:, :, 0].T, rtol=1e-6)


# -- both values ------------------------------------------------------------------------------------------------------

HEAD = '<ir_version: 9, opset_import: ["": 18]> main '
X = np.random.default_rng(8).standard_normal((4, 3)).astype(np.float32)


def either(condition: str, result: str) -> str:
    """An If that gives a scalar or a row."""
    return f"""{result} = If({condition})<
        then_branch = yes () => (float scalar_{result}) {{ scalar_{result} = ReduceSum<keepdims = 0>(x) }},
        else_branch = no () => (float[k] row_{result}) {{ row_{result} = ReduceMax<keepdims = 0>(x, axis) }}>"""


AXIS = "axis = Constant<value_ints = [0]>()"


@pytest.mark.parametrize(
    "text",
    [
        f"""(float[4, 3] x, bool a) => (float[n, m] y, float[4, 3] z) {{
            {AXIS} {either("a", "s")} y = Mul(x, s) z = Neg(x)
        }}""",
        f"(float[4, 3] x, bool a) => (int64[2, n] y) {{ {AXIS} {either('a', 's')} z = Mul(x, s) y = NonZero(z) }}",
        f"""(float[4, 3] x, bool a) => (float[n] y) {{
            {AXIS} {either("a", "s")} open = Constant<value_ints = [-1]>() y = Reshape(s, open)
        }}""",
        f"""(float[4, 3] x, bool a) => (float[n, m] y) {{
            {AXIS} {either("a", "s")} top = ReduceMax<keepdims = 0>(x) one = Constant<value_float = 1.0>()
            b = Less(top, one) {either("b", "t")} z = Mul(x, s) y = Add(z, t)
        }}""",
        f"""(float[4, 3] x, bool a) => (float[n, m] y) {{
            {AXIS} three = Constant<value_int = 3>()
            y = Loop(three, , x)<body = step (int64 i, bool c, float[4, 3] v) => (bool on, float[4, 3] w) {{
                on = Identity(c) {either("a", "s")} w = Add(v, s)
            }}>
        }}""",
    ],
)
def test_both_ranks_go_on(text: str) -> None:
    """What follows is there for each of them."""
    proto = parser.parse_model(HEAD + text)
    peer = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with compile(proto, jobs=1).session(threads=1) as session:
        for condition in (True, False):
            given = {"x": X, "a": np.array(condition)}
            found = session.run(given)
            for output, want in zip(proto.graph.output, peer.run(None, given), strict=True):
                np.testing.assert_allclose(found[output.name], np.asarray(want), rtol=1e-5)


def test_axes_that_may_be_one() -> None:
    text = "(float[n, m] x) => (float[] y) { s = Squeeze(x) y = ReduceMax<keepdims = 0>(s) }"
    proto = parser.parse_model(HEAD + text)
    with compile(proto, jobs=1).session(threads=1) as session:
        for x in (X, X[:1], X[:, :1], X[:1, :1]):
            assert session.run({"x": x})["y"] == x.max()


def test_many_conditions_are_refused() -> None:
    """Each doubles what follows: there is an end to it."""
    names = [f"c{i}" for i in range(7)]
    inputs = ", ".join(f"bool {name}" for name in names)
    steps = " ".join(f"{either(name, f's{i}')} y{i + 1} = Add(y{i}, s{i})" for i, name in enumerate(names))
    text = f"(float[4, 3] x, {inputs}) => (float[4, 3] y7) {{ {AXIS} y0 = Neg(x) {steps} }}"
    with pytest.raises(UnsupportedError, match=r"in one place and .* in another"):
        load_onnx(parser.parse_model(HEAD + text))
