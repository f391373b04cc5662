"""The standard's own node tests: every case is evaluated right, or refused for a reason listed here.

Inputs that determine shapes (integers and single numbers) become constants where a case needs it. An operator or
reason that stops being needed makes the test of its list fail, so that the lists stay true.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case import node

from ingot.compiler.frontend import UnsupportedError, load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.interpret import evaluate_graph

UNSUPPORTED_OPERATORS: frozenset[str] = frozenset()
REASONS: tuple[str, ...] = ()

# Cases whose numbers ONNX leaves to the generator: types and shapes alone can be right.
RANDOM = re.compile(r"test_bernoulli(_\w+)?|test_training_dropout(_default)?(_mask)?")

# Cases that expect something else than ONNX Runtime gives, which is what we follow.
DEVIATIONS = {
    "test_maxunpool_export_with_output_shape",  # positions count in the default shape, not in the shape asked for
    "test_resize_downsample_scales_cubic_align_corners",  # the resized length is taken for a fraction
    "test_resize_downsample_scales_linear_align_corners",
}

SLOW = {"averagepool", "lppool", "maxpool"}  # modules of cases that take seconds to make


def cases(without: frozenset[str]) -> dict[str, Any]:
    """The cases of all modules but some; importing a module makes its cases."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(node.__path__):
            if module.name not in without:
                importlib.import_module(f"{node.__name__}.{module.name}")
    return {case.name: case for case in node._NodeTestCases}


def array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def tensors(value: Any, name: str) -> dict[str, np.ndarray]:
    """The arrays in a value by name: those of a sequence are ``name[0]``, ``name[1]``, .."""
    if value is None:
        return {}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in tensors(item, f"{name}[{i}]").items()}
    return {name: array(value)}


def dense(model: onnx.ModelProto, inputs: list[Any]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model with nodes that make its sequences and optionals from inputs that are tensors, and those."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.input[:], copy.graph.node[:]
    given: dict[str, np.ndarray] = {}
    for declared, value in zip(model.graph.input, inputs, strict=True):
        kind, name = declared.type.WhichOneof("value"), declared.name
        if kind == "tensor_type":
            copy.graph.input.append(declared)
            given[name] = array(value)
            continue
        parts = tensors(value, f"{name}_" if kind == "optional_type" else name)
        given |= parts
        for part, data in parts.items():
            code = onnx.helper.np_dtype_to_tensor_dtype(data.dtype)
            copy.graph.input.append(onnx.helper.make_tensor_value_info(part, code, data.shape))
        content = list(parts)
        if isinstance(value, list):
            sequence = f"{name}__" if kind == "optional_type" else name
            op = "SequenceConstruct" if parts else "SequenceEmpty"
            copy.graph.node.append(onnx.helper.make_node(op, content, [sequence]))
            content = [sequence]
        if kind == "optional_type":
            copy.graph.node.append(onnx.helper.make_node("Optional", content, [name]))
    copy.graph.node.extend(model.graph.node)
    return copy, given


def with_constants(model: onnx.ModelProto, given: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The model with small integer inputs, single numbers and what a Resize goes by as initialisers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name, data in given.items():
        number = data.size == 1 and data.dtype.kind in "fV"
        if (data.dtype.kind in "iub" and data.size <= 64) or number or name in ("roi", "scales"):
            copy.graph.initializer.append(numpy_helper.from_array(data, name))
    return copy


def imported(model: onnx.ModelProto, given: dict[str, np.ndarray]) -> Graph:
    """The graph of a model, with constants where they are needed. Raises UnsupportedError."""
    try:
        return load_onnx(model)
    except UnsupportedError as error:
        if error.operators:
            raise
    return load_onnx(with_constants(model, given))


def listed(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The results with sequences element by element, also those whose length depends on data, and optionals only where
    they are present."""
    known = dict(found)
    for name in [n.removesuffix("/shapes") for n in found if n.endswith("/shapes")]:
        data, start = known.pop(f"{name}/data"), 0
        for i, (rank, *extents) in enumerate(known.pop(f"{name}/shapes").tolist()):
            size = int(np.prod(extents[:rank], dtype=np.int64))
            known[f"{name}[{i}]"] = data[start : start + size].reshape(extents[:rank])
            start += size
    for name in [n.removesuffix("/present") for n in found if n.endswith("/present")]:
        if not known.pop(f"{name}/present"):
            known = {n: v for n, v in known.items() if n != name and not n.startswith((f"{name}[", f"{name}/"))}
    return known


def require_same(found: Mapping[str, np.ndarray], model: onnx.ModelProto, outputs: list[Any], random: bool) -> None:
    """The results are those that the case expects for the outputs of its model, `random` ones by type and shape."""
    found = listed(found)
    parts = [tensors(v, o.name) for o, v in zip(model.graph.output, outputs, strict=True)]
    wanted = {name: value for each in parts for name, value in each.items()}
    assert wanted.keys() == found.keys()
    for name, want in wanted.items():
        got = found[name]
        assert got.dtype == want.dtype and got.shape == want.shape
        if random:
            continue
        if want.dtype.kind in "fV":
            tolerance = (1e-3, 1e-5) if want.dtype.itemsize >= 4 else (2e-2, 2e-2)
            np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), *tolerance)
        else:
            np.testing.assert_array_equal(got, want)


def check(model: onnx.ModelProto, inputs: list[Any], outputs: list[Any], random: bool = False) -> None:
    plain, given = dense(model, inputs)
    graph = imported(plain, given)
    require_same(evaluate_graph(graph, {i.label: given[i.label] for i in graph.inputs}), model, outputs, random)


def survey(cases: dict[str, Any]) -> tuple[int, set[str]]:
    """How many cases are right and why the others are refused; fails when one is wrong or refused without reason."""
    right, refused, problems = 0, set[str](), list[str]()
    for name, case in cases.items():
        for inputs, outputs in case.data_sets:
            try:
                if name in DEVIATIONS:
                    with pytest.raises(AssertionError):
                        check(case.model, inputs, outputs)
                    continue
                check(case.model, inputs, outputs, random=RANDOM.fullmatch(name) is not None)
                right += 1
            except UnsupportedError as error:
                for o in error.operators:
                    versioned = f"{o.op_type}-{o.opset}"
                    spelled = versioned if versioned in UNSUPPORTED_OPERATORS else o.op_type
                    refused.add(spelled)
                reason = next((r for r in REASONS if r in str(error)), None)
                if not error.operators and reason is None:
                    problems.append(f"{name}: {error}")
                elif reason is not None:
                    refused.add(reason)
            except Exception as error:
                problems.append(f"{name}: {type(error).__name__}: {error}")
    assert not problems, "\n".join(problems)
    return right, refused


def test_cases_that_are_quick_to_make() -> None:
    right, refused = survey(cases(frozenset(SLOW)))
    assert refused <= UNSUPPORTED_OPERATORS | set(REASONS)
    assert right > 1700


@pytest.mark.slow
def test_all_cases() -> None:
    right, refused = survey(cases(frozenset()))
    listed = UNSUPPORTED_OPERATORS | set(REASONS)
    assert sorted(refused) == sorted(listed)
    assert right > 1800
