"""The shipped digits model is what its description says, and the script that wrote it computes right gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from ingot.compiler.demo import held_out, model_path, train_digits


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model_path(), providers=["CPUExecutionProvider"])


def test_signature_and_size() -> None:
    model = onnx.load(model_path())
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 17}

    def shape(value: onnx.ValueInfoProto) -> list[str | int]:
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    assert [(value.name, shape(value)) for value in model.graph.input] == [("image", ["batch", 1, 8, 8])]
    assert [(value.name, shape(value)) for value in model.graph.output] == [("logits", ["batch", 10])]
    assert model_path().stat().st_size < 200_000


def test_held_out_part_is_a_stratified_fifth() -> None:
    x, y = held_out()
    images, labels = train_digits.load_digits()
    assert x.shape == (359, 1, 8, 8) and x.dtype == np.float32
    assert y.shape == (359,) and y.dtype == np.int64
    assert x.min() >= 0 and x.max() <= 1
    assert np.bincount(y).tolist() == [round(count / 5) for count in np.bincount(labels)]

    train, held = train_digits.split(labels, np.random.default_rng(0))
    assert sorted([*train, *held]) == list(range(len(labels)))
    assert np.array_equal(images[held], x) and np.array_equal(labels[held], y)


def test_accuracy(session: onnxruntime.InferenceSession) -> None:
    x, y = held_out()
    logits = np.asarray(session.run(["logits"], {"image": x})[0])
    assert (logits.argmax(1) == y).mean() >= 0.98


@pytest.mark.parametrize("batch", [1, 7])
def test_two_executors_agree(session: onnxruntime.InferenceSession, batch: int) -> None:
    x = held_out()[0][:batch]
    (expected,) = map(np.asarray, ReferenceEvaluator(str(model_path())).run(["logits"], {"image": x}))
    got = np.asarray(session.run(["logits"], {"image": x})[0])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


def test_gradients_agree_with_finite_differences() -> None:
    # ReLU and max pooling have kinks: a float64 network and a small step keep clear of them.
    rng = np.random.default_rng(1)
    network = train_digits.Network(rng, (2, 3))
    for parameter in network.parameters():
        parameter.value = parameter.value.astype(np.float64)
    x = rng.random((3, 1, 8, 8))
    labels = rng.integers(0, 10, 3)
    _, gradient = train_digits.cross_entropy(network.forward(x), labels)
    network.backward(gradient)

    step = 1e-6
    for parameter in network.parameters():
        flat, gradients = parameter.value.reshape(-1), parameter.gradient.reshape(-1)
        for index in rng.choice(flat.size, min(flat.size, 8), replace=False):
            kept = flat[index]
            flat[index] = kept + step
            above, _ = train_digits.cross_entropy(network.forward(x), labels)
            flat[index] = kept - step
            below, _ = train_digits.cross_entropy(network.forward(x), labels)
            flat[index] = kept
            assert gradients[index] == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-8)


@pytest.mark.slow
def test_training_is_deterministic_and_exports_what_it_trained(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        train_digits.main(["--output", str(tmp_path / folder), "--epochs", "1", "--seed", "3"])
    written = (tmp_path / "a" / "digits.onnx").read_bytes()
    assert written == (tmp_path / "b" / "digits.onnx").read_bytes()

    images, labels = train_digits.load_digits()
    rows, held = train_digits.split(labels, np.random.default_rng(3))
    network = train_digits.train(images[rows], labels[rows], train_digits.Options(seed=3, epochs=1))
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    logits = np.asarray(session.run(["logits"], {"image": images[held]})[0])
    np.testing.assert_allclose(network.forward(images[held]), logits, rtol=1e-4, atol=1e-4)
