"""Operators of ai.onnx.ml, compiled and held against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from ingot.compiler import ModelError, compile, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.runtime.errors import RuntimeFault

Arrays = Mapping[str, Any]
RANDOM = np.random.default_rng(3)
NAN = float("nan")
F32, I64 = np.float32, np.int64


def floats(*shape: int) -> NDArray[Any]:
    return RANDOM.standard_normal(shape).astype(F32)


def ml_model(op_type: str, inputs: Arrays, results: Sequence[Any], version: int, **attributes: Any) -> onnx.ModelProto:
    """A single node; the first extent of each input is symbolic."""
    declared = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(x.dtype), ["rows", *x.shape[1:]] if x.ndim > 1 else x.shape
        )
        for name, x in inputs.items()
    ]  # fmt: skip
    names = [f"y{i}" for i in range(len(results))]
    made = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)
        for name, kind in zip(names, results, strict=True)
    ]
    node = helper.make_node(op_type, list(inputs), names, domain="ai.onnx.ml", **attributes)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(helper.make_graph([node], "g", declared, made), opset_imports=opsets, ir_version=8)


def meaning(model: onnx.ModelProto, inputs: Arrays) -> list[NDArray[Any]]:
    return list(evaluate_graph(load_onnx(model), inputs).values())


def run(model: onnx.ModelProto, inputs: Arrays) -> list[NDArray[Any]]:
    with compile(model, cache=False).session() as session:
        return list(session.run(inputs).values())


def check(
    op_type: str, inputs: Arrays, results: Sequence[Any] = (F32,), *, version: int = 3, native: bool = False,
    **attributes: Any,
) -> None:  # fmt: skip
    """Hold the meaning of the node, and with `native` what is compiled, against ONNX Runtime."""
    model = ml_model(op_type, inputs, results, version, **attributes)
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected: Any = session.run(None, dict(inputs))
    for found in [meaning(model, inputs), *([run(model, inputs)] if native else [])]:
        for want, got in zip(expected, found, strict=True):
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_columns() -> None:
    x = floats(5, 4)
    check("ArrayFeatureExtractor", {"x": x, "places": np.array([3, 0, 3])}, version=1)
    check("ArrayFeatureExtractor", {"x": x[0], "places": np.array([2, 1])}, version=1)
    check("Binarizer", {"x": x}, version=1, threshold=0.25)
    check("Scaler", {"x": x}, version=1, offset=[0.5, 1.0, -1.0, 0.0], scale=[2.0, 1.0, 0.5, 3.0], native=True)
    check("Scaler", {"x": x.astype(I64)}, version=1, offset=[0.5], scale=[2.0])
    check("FeatureVectorizer", {"a": x, "b": floats(5, 2)}, version=1, inputdimensions=[4, 2])


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_normalizer(norm: str) -> None:
    x = floats(4, 3)
    x[1] = 0
    check("Normalizer", {"x": x}, version=1, norm=norm)


def test_largest_is_a_norm_too() -> None:
    """Rows without negative elements, of which nobody doubts what their largest is."""
    check("Normalizer", {"x": np.abs(floats(4, 3))}, version=1, norm="MAX")


def test_binarizer_of_integers() -> None:
    """A threshold between two integers."""
    model = ml_model("Binarizer", {"x": np.zeros((2, 3), I64)}, (I64,), 1, threshold=-1.5)
    assert meaning(model, {"x": np.array([[-3, -2, -1], [0, 1, 2]])})[0].tolist() == [[0, 0, 1], [1, 1, 1]]


def test_imputer() -> None:
    x = np.array([[1, NAN, 3], [NAN, 5, 6], [0, 8, 9]], F32)
    check("Imputer", {"x": x}, version=1, imputed_value_floats=[1.5, 2.5, 3.5], replaced_value_float=NAN, native=True)
    check("Imputer", {"x": x}, version=1, imputed_value_floats=[7.0], replaced_value_float=0.0)
    whole = np.array([[1, -1], [-1, 4]])
    check("Imputer", {"x": whole}, (I64,), version=1, imputed_value_int64s=[10, 20], replaced_value_int64=-1)


def test_one_hot() -> None:
    check("OneHotEncoder", {"x": np.array([[5, 7], [9, 1]])}, version=1, cats_int64s=[5, 7, 9])
    model = ml_model("OneHotEncoder", {"x": np.zeros((1, 2), I64)}, (F32,), 1, cats_int64s=[5, 7, 9], zeros=0)
    assert run(model, {"x": np.array([[5, 9]])})[0].tolist() == [[[1, 0, 0], [0, 0, 1]]]
    with pytest.raises(RuntimeFault, match="unknown"):
        run(model, {"x": np.array([[5, 8]])})


def test_label_encoder() -> None:
    x = np.array([[3, 1], [4, 1]])
    check("LabelEncoder", {"x": x}, (F32,), version=2, keys_int64s=[1, 3], values_floats=[0.5, 1.5], default_float=9.0)
    check("LabelEncoder", {"x": x}, (I64,), version=2, keys_int64s=[1, 3], values_int64s=[11, 13])
    real = np.array([0.5, NAN, 2.0, 7.0], F32)
    check(
        "LabelEncoder", {"x": real}, (I64,), version=4, keys_floats=[2.0, NAN, 0.5], values_int64s=[1, 2, 3],
        default_int64=42, native=True,
    )  # fmt: skip
    tensors: dict[str, Any] = {
        "keys_tensor": helper.make_tensor("k", onnx.TensorProto.INT64, [2], [1, 3]),
        "values_tensor": helper.make_tensor("v", onnx.TensorProto.INT64, [2], [-5, 6]),
        "default_tensor": helper.make_tensor("d", onnx.TensorProto.INT64, [1], [8]),
    }
    check("LabelEncoder", {"x": x}, (I64,), version=4, **tensors)
    twice = ml_model("LabelEncoder", {"x": x}, (I64,), 4, keys_int64s=[1, 3, 1], values_int64s=[5, 6, 7])
    assert meaning(twice, {"x": x})[0].tolist() == [[6, 7], [-1, 7]], "the last key counts"


@pytest.mark.parametrize("keys", [1, 2])
def test_label_encoder_is_checked(keys: int) -> None:
    values: dict[str, Any] = {"values_int64s": [1, 2, 3]} if keys == 1 else {}
    model = ml_model("LabelEncoder", {"x": np.array([1])}, (I64,), 2, keys_int64s=[1], **values)
    with pytest.raises(ModelError, match="table" if keys == 1 else "lists of values"):
        load_onnx(model)


@pytest.mark.parametrize("post", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_linear_models(post: str) -> None:
    x, weights = floats(6, 4), floats(12).tolist()
    check("LinearRegressor", {"x": x}, version=1, coefficients=weights, intercepts=[0.1, 0.2, 0.3], targets=3)
    three: dict[str, Any] = {"coefficients": weights, "intercepts": [0.1, 0.2, 0.3], "classlabels_ints": [4, 5, 7]}
    check("LinearClassifier", {"x": x}, (I64, F32), version=1, post_transform=post, native=post == "SOFTMAX", **three)
    two: dict[str, Any] = {"coefficients": weights[:8], "intercepts": [0.1, 0.2], "classlabels_ints": [4, 5]}
    check("LinearClassifier", {"x": x}, (I64, F32), version=1, post_transform=post, **two)
    if post != "SOFTMAX":  # ONNX Runtime leaves it out
        one: dict[str, Any] = {"coefficients": weights[:4], "intercepts": [0.1], "classlabels_ints": [4, 5]}
        check("LinearClassifier", {"x": x}, (I64, F32), version=1, post_transform=post, **one)


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
def test_support_vectors(kernel: str) -> None:
    supports = floats(5, 3)
    attributes: dict[str, Any] = {
        "kernel_type": kernel, "kernel_params": [0.3, 0.2, 3.0], "n_supports": 5, "rho": [0.25],
        "support_vectors": supports.ravel().tolist(), "coefficients": floats(5).tolist(),
    }  # fmt: skip
    check("SVMRegressor", {"x": floats(4, 3)}, version=1, native=kernel == "RBF", **attributes)


def test_one_class() -> None:
    """What has no support vectors is linear."""
    support: dict[str, Any] = {"kernel_type": "LINEAR", "kernel_params": [0.0] * 3}
    support |= {"coefficients": [1.0, -2.0, 0.5], "rho": [0.1]}
    check("SVMRegressor", {"x": floats(6, 3)}, version=1, **support, one_class=1)


def test_labels_that_are_strings() -> None:
    x = np.array(["b", "z", "a"], object)
    model = ml_model("LabelEncoder", {"x": x}, (I64,), 2, keys_strings=["a", "b"], values_int64s=[1, 2])
    assert run(model, {"x": x})[0].tolist() == [2, -1, 1]
    model = ml_model("LabelEncoder", {"x": np.array([3])}, (object,), 2, keys_int64s=[3], values_strings=["three"])
    assert run(model, {"x": np.array([3, 4])[:1]})[0].tolist() == ["three"]
    names: dict[str, Any] = {"coefficients": [1.0, -1.0], "intercepts": [0.0] * 2}
    names["classlabels_strings"] = ["up", "down"]
    model = ml_model("LinearClassifier", {"x": floats(2, 1)}, (object, F32), 1, **names)
    assert run(model, {"x": np.array([[0.5], [-2]], F32)})[0].tolist() == ["up", "down"]


# -- trees ------------------------------------------------------------------------------------------------------------


def random_trees(count: int, depth: int, features: int, modes: Sequence[str]) -> dict[str, Any]:
    """Trees that end early here and there, in the lists of versions 1 and 3."""
    lists: dict[str, Any] = {
        name: []
        for name in (
            "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes", "nodes_truenodeids",
            "nodes_falsenodeids", "nodes_missing_value_tracks_true",
        )
    }  # fmt: skip

    def add(tree: int, level: int) -> int:
        number = sum(t == tree for t in lists["nodes_treeids"])
        inner = level < depth and (level < 2 or RANDOM.random() < 0.7)
        place = len(lists["nodes_treeids"])
        row = {
            "nodes_treeids": tree, "nodes_nodeids": number, "nodes_featureids": int(RANDOM.integers(features)),
            "nodes_values": float(np.round(RANDOM.standard_normal(), 1)),
            "nodes_modes": str(RANDOM.choice(modes)) if inner else "LEAF", "nodes_truenodeids": 0,
            "nodes_falsenodeids": 0, "nodes_missing_value_tracks_true": int(inner and RANDOM.random() < 0.5),
        }  # fmt: skip
        for name, value in row.items():
            lists[name].append(value)
        if inner:
            for side in ("true", "false"):
                lists[f"nodes_{side}nodeids"][place] = add(tree, level + 1)
        return number

    for tree in range(count):
        add(tree, 0)
    return lists


def leaves_of(
    lists: Mapping[str, Any], kind: str, targets: int, sign: bool = True, every: bool = False
) -> dict[str, Any]:
    """A weight for one target of each leaf, or for every one."""
    places = [i for i, mode in enumerate(lists["nodes_modes"]) if mode == "LEAF"] * (targets if every else 1)
    weights = RANDOM.standard_normal(len(places)) if sign else RANDOM.random(len(places)) * 0.2
    return {
        f"{kind}_treeids": [lists["nodes_treeids"][i] for i in places],
        f"{kind}_nodeids": [lists["nodes_nodeids"][i] for i in places],
        f"{kind}_ids": np.sort(np.arange(len(places)) % targets).tolist() if every else
        RANDOM.integers(0, targets, len(places)).tolist(),
        f"{kind}_weights": weights.astype(F32).tolist(),
    }


def samples(rows: int, features: int, missing: bool) -> dict[str, NDArray[Any]]:
    """Values that hit splits exactly now and then."""
    x = np.round(RANDOM.standard_normal((rows, features)), 1).astype(F32)
    if missing:
        x[RANDOM.random(x.shape) < 0.1] = NAN
    return {"x": x}


@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_tree_regressor(how: str) -> None:
    modes = ["BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
    trees = random_trees(4, 6, 5, ["BRANCH_LEQ"] if how in ("SUM", "MAX") else modes)
    if how in ("MIN", "MAX"):
        trees.pop("nodes_missing_value_tracks_true")
    check(
        "TreeEnsembleRegressor", samples(40, 5, how in ("SUM", "AVERAGE")), n_targets=2, aggregate_function=how,
        native=how in ("MIN", "SUM"), **trees, **leaves_of(trees, "target", 2),
    )  # fmt: skip


def test_base_values() -> None:
    trees = random_trees(2, 3, 5, ["BRANCH_LEQ"])
    check(
        "TreeEnsembleRegressor", samples(40, 5, False), n_targets=2, base_values=[0.5, -0.25],
        **trees, **leaves_of(trees, "target", 2, every=True),
    )  # fmt: skip


@pytest.mark.parametrize("post", ["NONE", "SOFTMAX_ZERO"])
def test_tree_classifier(post: str) -> None:
    trees = random_trees(6, 4, 3, ["BRANCH_LEQ"])
    check(
        "TreeEnsembleClassifier", samples(40, 3, True), (I64, F32), classlabels_int64s=[7, 8, 9], post_transform=post,
        **trees, **leaves_of(trees, "class", 3, every=True),
    )  # fmt: skip


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("post", ["NONE", "LOGISTIC"])
def test_tree_classifier_of_two(sign: bool, post: str) -> None:
    trees = random_trees(4, 4, 3, ["BRANCH_LEQ"])
    leaves = leaves_of(trees, "class", 1, sign)
    check(
        "TreeEnsembleClassifier", samples(40, 3, False), (I64, F32), classlabels_int64s=[4, 6], post_transform=post,
        native=sign and post == "LOGISTIC", **trees, **leaves,
    )  # fmt: skip


def ensemble(**changes: Any) -> dict[str, Any]:
    """A TreeEnsemble of version 5 of one tree with a node in the middle."""
    tensor = helper.make_tensor
    found: dict[str, Any] = {
        "tree_roots": [0], "n_targets": 1, "nodes_featureids": [0, 1], "nodes_truenodeids": [1, 0],
        "nodes_falsenodeids": [2, 1], "nodes_trueleafs": [0, 1], "nodes_falseleafs": [1, 1],
        "nodes_modes": tensor("m", onnx.TensorProto.UINT8, [2], [0, 3]),
        "nodes_splits": tensor("s", onnx.TensorProto.FLOAT, [2], [0.5, -0.5]),
        "leaf_targetids": [0, 0, 0], "leaf_weights": tensor("w", onnx.TensorProto.FLOAT, [3], [1.0, 2.0, 4.0]),
    }  # fmt: skip
    return found | changes


def test_tree_ensemble() -> None:
    check("TreeEnsemble", samples(20, 2, True), version=5, native=True, **ensemble())
    x = samples(20, 2, False)
    plain, changed = (ml_model("TreeEnsemble", x, (F32,), 5, **ensemble(**c)) for c in ({}, {"post_transform": 2}))
    np.testing.assert_allclose(meaning(changed, x)[0], 1 / (1 + np.exp(-meaning(plain, x)[0])), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes_truenodeids": [0, 0]}, "lead back"),
        ({"nodes_truenodeids": [5, 0]}, "does not exist"),
        ({"tree_roots": [9]}, "does not exist"),
        ({"leaf_targetids": [0, 0, 1]}, "target"),
        ({"nodes_featureids": [0, 7]}, "features"),
        ({"aggregate_function": 9}, "aggregate_function"),
        ({"n_targets": 2**62}, "targets"),
        ({"nodes_modes": helper.make_tensor("m", onnx.TensorProto.UINT8, [2], [0, 255])}, "nodes_modes"),
    ],
)
def test_trees_are_checked(changes: dict[str, Any], message: str) -> None:
    model = ml_model("TreeEnsemble", {"x": floats(3, 2)}, (F32,), 5, **ensemble(**changes))
    with pytest.raises(ModelError, match=message):
        load_onnx(model)
