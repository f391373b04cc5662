"""Operators in forms that the standard's node tests do not show: older opsets, symbolic shapes, auto_pad, control flow.

Expected values come from onnxruntime where it runs the opset, else they are written out in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler.frontend import UnsupportedError, load_onnx
from ingot.compiler.frontend.assumptions import Assumptions
from ingot.compiler.frontend.operators import FAMILIES, TABLE
from ingot.compiler.frontend.operators.slicing import clamp
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.interpret import evaluate_graph

onnxruntime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(7)


def normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


@dataclass
class Case:
    """One node: its operator, opset, inputs (arrays: run-time values; in `fixed`, initialisers) and attributes."""

    op: str
    opset: int
    inputs: Sequence[np.ndarray | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    fixed: Sequence[int] = ()
    outputs: int = 1
    expected: Callable[..., Any] | None = None

    def __str__(self) -> str:
        shapes = "x".join(str(None if a is None else list(a.shape)) for a in self.inputs)
        return f"{self.op}-{self.opset} {shapes} {self.attributes}".replace("'", "")


def value_info(name: str, array: np.ndarray, symbolic: bool) -> onnx.ValueInfoProto:
    shape = [f"{name}{i}" for i in range(array.ndim)] if symbolic else list(array.shape)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def single_node(case: Case, symbolic: bool) -> onnx.ModelProto:
    names = ["" if a is None else f"x{i}" for i, a in enumerate(case.inputs)]
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(case.op, names, outputs, **case.attributes)
    run_time = [(f"x{i}", a) for i, a in enumerate(case.inputs) if a is not None and i not in case.fixed]
    graph = helper.make_graph(
        [node],
        "case",
        [value_info(n, a, symbolic and n == "x0") for n, a in run_time],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(a, names[i]) for i in case.fixed if (a := case.inputs[i]) is not None],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=8)


def run_onnxruntime(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def agree(graph: Graph, inputs: dict[str, np.ndarray], expected: Sequence[np.ndarray]) -> None:
    found = evaluate_graph(graph, {i.label: inputs[i.label] for i in graph.inputs})
    for (name, _), want in zip(graph.outputs, expected, strict=True):
        got = found[name]
        want = np.asarray(want)
        assert (got.dtype, got.shape) == (want.dtype, want.shape), name
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=1e-4, atol=1e-5, err_msg=name)


IMAGE = normal(2, 3, 9, 8)
KERNEL = normal(4, 3, 3, 2)
SPECIAL = np.array([[-np.inf, -2.5, -0.0, 0.0], [1e-30, 2.5, np.inf, np.nan]], np.float32)
FINITE = SPECIAL[:, 1:3].copy()
I64 = np.int64


def batch_norm(x: np.ndarray, s: np.ndarray, b: np.ndarray, m: np.ndarray, v: np.ndarray) -> np.ndarray:
    s, b, m, v = (p.reshape(-1, 1, 1) for p in (s, b, m, v))
    return ((x - m) / np.sqrt(v + 1e-5) * s + b).astype(np.float32)


STATISTICS = [normal(3), normal(3), normal(3), np.abs(normal(3))]

CASES = [
    # before opset 7 the second operand is matched by attribute
    Case("Add", 6, [IMAGE, normal(3)], {"broadcast": 1, "axis": 1}, expected=lambda a, b: a + b[:, None, None]),
    Case("Mul", 6, [IMAGE, normal(9, 8)], {"broadcast": 1}, expected=lambda a, b: a * b),
    Case("Sub", 1, [IMAGE, IMAGE[::-1].copy()], {"consumed_inputs": [0, 0]}, expected=lambda a, b: a - b),
    Case("Relu", 1, [SPECIAL], {"consumed_inputs": [0]}, expected=lambda x: np.maximum(x, 0)),
    Case("Clip", 6, [SPECIAL], {"min": -1.0, "max": 2.0}),
    Case("Clip", 6, [SPECIAL], {"max": 2.0}),
    Case("Clip", 6, [SPECIAL]),
    Case("Clip", 13, [FINITE, None, np.array(0.5, "f")], fixed=(2,)),
    Case("Clip", 13, [SPECIAL, np.array(-1, "f"), np.array(2, "f")]),
    Case("Cast", 1, [IMAGE], {"to": "INT32"}, expected=lambda x: x.astype(np.int32)),
    Case("Cast", 9, [IMAGE], {"to": TensorProto.FLOAT16}),
    Case("PRelu", 6, [IMAGE, normal(3)], expected=lambda x, s: np.where(x < 0, x * s[:, None, None], x)),
    Case("PRelu", 9, [IMAGE, normal(3, 1, 1)]),
    Case("PRelu", 16, [SPECIAL, np.array([0.5], "f")]),
    Case("LeakyRelu", 6, [SPECIAL], {"alpha": 0.25}),
    Case("Elu", 6, [SPECIAL], {"alpha": 0.5}),
    Case("HardSigmoid", 6, [SPECIAL]),
    Case("Selu", 6, [SPECIAL]),
    Case("Celu", 12, [SPECIAL], {"alpha": 0.5}),
    Case("ThresholdedRelu", 10, [SPECIAL], {"alpha": 0.5}),
    Case("Softsign", 1, [normal(5)]),
    Case("Mish", 18, [normal(5)]),
    Case("Shrink", 9, [SPECIAL], {"bias": 0.5, "lambd": 1.0}),
    Case("Softplus", 1, [SPECIAL[:, :3].copy()]),
    Case("Mean", 8, [normal(3, 1), normal(4), normal(3, 4)]),
    Case("Sum", 8, [normal(3)]),
    Case("Max", 8, [SPECIAL, np.array([[0.5], [1.5]], "f")]),
    Case("Mod", 10, [np.array([-7, 7, -7, 7], I64), np.array([3, 3, -3, -3], I64)]),
    Case("Mod", 10, [np.array([-7.5, 7.5], "f"), np.array([2.0, -2.0], "f")], {"fmod": 1}),
    Case("Div", 13, [np.array([-7, 7, -7, 7], I64), np.array([3, 3, -3, -3], I64)]),
    Case("Pow", 12, [np.abs(normal(4)), np.array([2, 0, -1, 3], I64)]),
    Case("Not", 1, [np.array([True, False])]),
    # normalisation: softmax over all trailing axes before opset 13
    Case("Softmax", 11, [normal(2, 3, 4)]),
    Case("Softmax", 11, [normal(2, 3, 4)], {"axis": 2}),
    Case("Softmax", 11, [normal(2, 3, 4)], {"axis": 0}),
    Case("Softmax", 13, [normal(2, 3, 4)], {"axis": 1}),
    Case("LogSoftmax", 11, [normal(2, 3, 4)], {"axis": 1}),
    Case("Hardmax", 11, [normal(2, 3, 4)], {"axis": 1}),
    Case("Hardmax", 13, [normal(2, 3, 4)], {"axis": 1}),
    Case("BatchNormalization", 1, [IMAGE, *STATISTICS], {"is_test": 1, "consumed_inputs": [0]}, expected=batch_norm),
    Case("BatchNormalization", 7, [IMAGE, *STATISTICS]),
    Case("BatchNormalization", 15, [IMAGE, *STATISTICS], {"epsilon": 0.1}),
    Case("LayerNormalization", 17, [normal(2, 3, 4), normal(4), normal(4)], outputs=3),
    Case("LayerNormalization", 17, [normal(2, 3, 4), normal(3, 4)], {"axis": 1}),
    Case("LayerNormalization", 17, [np.linspace(-2, 3, 10).reshape(2, 5), np.linspace(0.5, 2, 5)], {"stash_type": 11}),
    Case("InstanceNormalization", 6, [IMAGE, normal(3), normal(3)]),
    Case("LRN", 1, [IMAGE], {"size": 3, "alpha": 0.5, "bias": 2.0}),
    Case("LpNormalization", 1, [IMAGE], {"axis": 1, "p": 1}),
    Case("Dropout", 7, [IMAGE]),
    Case("Dropout", 13, [IMAGE, np.array(0.5, "f"), np.array(False)], fixed=(1, 2), outputs=2),
    # reductions, axes as attribute and as input
    *(
        Case(op, 11, [np.abs(normal(2, 3, 4))], attributes)
        for op in ("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd")
        for attributes in ({"axes": [0, -1]}, {"keepdims": 0}, {"axes": [1], "keepdims": 0})
    ),
    Case("ReduceSum", 13, [normal(2, 3, 4), np.array([-1], I64)], {"keepdims": 0}, fixed=(1,)),
    Case("ReduceSum", 13, [normal(2, 3, 4), np.array([], I64)], {"noop_with_empty_axes": 1}, fixed=(1,)),
    Case("ReduceMax", 18, [normal(2, 3, 4), np.array([1, 2], I64)], fixed=(1,)),
    Case("ReduceLogSumExp", 13, [SPECIAL[:1].copy()], {"axes": [1]}),
    Case("ArgMax", 12, [np.array([[1, 3, 3], [2, 2, 0]], "f")], {"axis": 1, "select_last_index": 1, "keepdims": 0}),
    Case("ArgMin", 11, [normal(3, 4)], {"axis": -1}),
    Case("CumSum", 14, [normal(3, 4), np.array(-1, I64)], {"reverse": 1, "exclusive": 1}, fixed=(1,)),
    # windows
    *(
        Case("Conv", 11, [IMAGE, KERNEL], {"auto_pad": mode, "strides": strides})
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for strides in ([1, 1], [2, 3])
    ),
    Case("Conv", 11, [IMAGE, KERNEL, normal(4)], {"pads": [1, 0, 2, 1], "dilations": [2, 3]}),
    Case("Conv", 11, [normal(1, 4, 7), normal(6, 2, 3)], {"group": 2, "pads": [1, 1]}),
    Case("Conv", 11, [normal(1, 2, 4, 5, 3), normal(3, 2, 2, 3, 1)], {"strides": [2, 1, 1]}),
    *(
        Case(op, 12, [IMAGE], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": ceil, **pads})
        for op in ("MaxPool", "AveragePool")
        for ceil in (0, 1)
        for pads in ({}, {"pads": [1, 0, 1, 1]}, *([{"auto_pad": "SAME_UPPER"}] if not ceil else []))
    ),
    Case("AveragePool", 11, [IMAGE], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("MaxPool", 12, [normal(1, 2, 9)], {"kernel_shape": [3], "dilations": [2]}),
    Case("GlobalAveragePool", 1, [IMAGE]),
    Case("GlobalMaxPool", 1, [normal(2, 3, 5)]),
    # products
    *(
        Case("MatMul", 13, [normal(*a), normal(*b)])
        for a, b in (((3,), (3,)), ((3,), (2, 3, 4)), ((2, 4, 3), (3,)), ((5, 1, 2, 3), (4, 3, 2)), ((2, 0), (0, 3)))
    ),
    Case("Gemm", 13, [normal(3, 2), normal(4, 3), normal(4)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", 9, [normal(2, 3), normal(3, 4), normal(2, 1)], {"beta": 0.0}),
    Case("Gemm", 11, [normal(2, 3), normal(3, 4)]),
    *(
        Case("Einsum", 12, [normal(*shape) for shape in shapes], {"equation": equation})
        for equation, shapes in (
            ("bhid,bhjd->bhij", ((2, 3, 4, 5), (2, 3, 6, 5))),
            ("ij,jk", ((2, 3), (3, 4))),
            ("ij->j", ((2, 3),)),
            ("i,j->ji", ((2,), (3,))),
            ("ab,bc,cd->da", ((2, 3), (3, 4), (4, 5))),
            ("abc,c->ba", ((2, 3, 4), (4,))),
        )
    ),
    # movement
    Case("Reshape", 5, [normal(2, 3, 4), np.array([0, -1], I64)], fixed=(1,)),
    Case("Reshape", 14, [normal(0, 3), np.array([3, 0], I64)], {"allowzero": 1}, fixed=(1,)),
    Case("Flatten", 11, [normal(2, 3, 4)], {"axis": -1}),
    Case("Flatten", 11, [normal(2, 3, 4)], {"axis": 0}),
    Case("Squeeze", 11, [normal(1, 3, 1)], {"axes": [0, -1]}),
    Case("Squeeze", 13, [normal(1, 3, 1), np.array([2], I64)], fixed=(1,)),
    Case("Unsqueeze", 11, [normal(3)], {"axes": [0, -1]}),
    Case("Unsqueeze", 13, [normal(3), np.array([-1, 0], I64)], fixed=(1,)),
    Case("Transpose", 13, [normal(2, 3, 4)]),
    Case("Concat", 13, [normal(2, 3), normal(2, 0), normal(2, 1)], {"axis": -1}),
    Case("Split", 11, [normal(2, 7)], {"axis": 1, "split": [3, 4]}, outputs=2),
    Case("Split", 11, [normal(2, 6)], {"axis": -1}, outputs=3),
    Case("Split", 13, [normal(2, 7), np.array([0, 7], I64)], {"axis": 1}, fixed=(1,), outputs=2),
    Case("Split", 18, [normal(2, 7)], {"axis": 1, "num_outputs": 3}, outputs=3),
    Case("Slice", 9, [normal(5, 6)], {"starts": [1, -3], "ends": [100, -1], "axes": [0, 1]}),
    Case("Slice", 9, [normal(5, 6)], {"starts": [3], "ends": [-9]}),
    Case("Slice", 13, [normal(5, 6), *(np.array(v, I64) for v in ([4], [-100], [1], [-2]))], fixed=(1, 2, 3, 4)),
    Case("Pad", 2, [normal(2, 3)], {"pads": [0, 1, 2, 0], "value": 1.5}),
    Case("Pad", 11, [normal(3, 4), np.array([1, 2, 0, 1], I64)], {"mode": "reflect"}, fixed=(1,)),
    Case("Pad", 13, [normal(3, 4), np.array([-1, 2, 0, -1], I64), np.array(7, "f")], fixed=(1, 2)),
    Case("Pad", 18, [normal(3, 4), np.array([1, 1], I64), None, np.array([-1], I64)], {"mode": "edge"}, fixed=(1, 3)),
    Case("Tile", 13, [normal(2, 3), np.array([2, 3], I64)], fixed=(1,)),
    Case("Tile", 13, [normal(2, 3), np.array([1, 0], I64)], fixed=(1,)),
    Case("Expand", 13, [normal(3, 1), np.array([2, 1, 4], I64)], fixed=(1,)),
    Case("Gather", 13, [normal(3, 4), np.array([[0, -1], [2, 1]], I64)], {"axis": 1}),
    Case("GatherElements", 13, [normal(3, 4), np.array([[0, -1], [2, 1]], np.int32)], {"axis": 1}),
    Case("GatherND", 13, [normal(2, 3, 4), np.array([[[1], [-1]], [[0], [2]]], I64)], {"batch_dims": 1}),
    Case("DepthToSpace", 11, [normal(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", 13, [normal(1, 2, 4, 6)], {"blocksize": 2}),
    # values from shapes
    Case("Shape", 15, [normal(2, 3, 4)], {"start": -2}),
    Case("Size", 13, [normal(2, 3, 4)]),
    Case("ConstantOfShape", 9, [np.array([2, 3], I64)], fixed=(0,)),
    Case("Range", 11, [np.array(v, I64) for v in (10, 1, -4)], fixed=(0, 1, 2)),
    Case("Range", 11, [np.array(v, np.float32) for v in (0, 1, 0.3)], fixed=(0, 1, 2)),
    Case("EyeLike", 9, [normal(3, 5)], {"k": -1, "dtype": TensorProto.INT64}),
    Case("Trilu", 14, [normal(2, 3, 4), np.array(1, I64)], {"upper": 0}, fixed=(1,)),
    Case(
        "OneHot",
        11,
        [np.array([[0, -1], [2, 5]], I64), np.array(3, I64), np.array([2, 5], "f")],
        {"axis": 1},
        fixed=(1,),
    ),
]


def check(case: Case, symbolic: bool) -> None:
    """The imported node gives what is expected, by default what ONNX Runtime gives, and nodes are named after it."""
    model = single_node(case, symbolic)
    inputs = {f"x{i}": a for i, a in enumerate(case.inputs) if a is not None and i not in case.fixed}
    try:
        graph = load_onnx(model)
    except UnsupportedError as error:  # the parameters depend on dims that are not known
        assert symbolic and not error.operators
        pytest.skip(str(error))
    if case.expected is not None:
        expected: Sequence[np.ndarray] = [case.expected(*(a for a in case.inputs if a is not None))]
    else:
        expected = run_onnxruntime(model, inputs)
    agree(graph, inputs, expected)
    assert {node.origin for node in graph.nodes() if not node.origin[0].startswith("x")} <= {(f"{case.op}:y0",)}


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case, symbolic: bool) -> None:
    check(case, symbolic)


@settings(max_examples=150, deadline=None)
@given(
    start=st.one_of(st.integers(-12, 12), st.sampled_from([2**63 - 1, -(2**63)])),
    end=st.one_of(st.integers(-12, 12), st.sampled_from([2**63 - 1, -(2**63)])),
    step=st.integers(-4, 4).filter(bool),
    extent=st.integers(0, 9),
)
def test_slices_of_symbolic_axes_are_those_of_the_standard(start: int, end: int, step: int, extent: int) -> None:
    # numpy, but that a backward slice starts at the first element where its start lies before that (Slice, opset 13)
    expected = np.arange(extent)[0 if step < 0 and start < -extent else start : end : step]
    n, s, e = dims.symbol("n"), dims.symbol("s"), dims.symbol("e")
    known = Assumptions(ranges={"s": (-(2**63), 2**63), "e": (-(2**63), 2**63)})
    values = {"n": extent, "s": start, "e": end}
    for first, last in ((start, end), (s, end), (start, e), (s, e)):
        begin, size = clamp(known, first, last, step, n)
        count = dims.evaluate(size, values)
        assert count == len(expected)
        if count:
            assert dims.evaluate(begin, values) == expected[0]
    assert clamp(known, start, end, step, extent)[1] == len(expected)


def test_families_do_not_overlap_and_every_row_is_an_onnx_operator() -> None:
    names = [name for family in FAMILIES.values() for name in family.names()]
    assert sorted(names) == list(TABLE.names())
    assert len(set(names)) == len(names)
    theirs: list[Any] = onnxruntime.capi.onnxruntime_pybind11_state.get_all_operator_schema()  # com.microsoft
    schemas = [*onnx.defs.get_all_schemas_with_history(), *theirs]
    assert set(names) <= {f"{s.domain}.{s.name}" if s.domain else s.name for s in schemas}


def test_table_chooses_the_newest_row_that_is_not_too_new() -> None:
    assert TABLE.find("", "Clip", 10) is not TABLE.find("", "Clip", 11)
    assert TABLE.find("", "Clip", 11) is TABLE.find("", "Clip", 21)
    assert TABLE.find("", "Gelu", 19) is None
    assert TABLE.find("elsewhere", "Clip", 11) is None
