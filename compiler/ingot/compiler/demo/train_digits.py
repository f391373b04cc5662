"""Train the digits network with numpy and write `digits.onnx` and `digits_heldout.npz`.

    python -m ingot.compiler.demo.train_digits [--output FOLDER] [--seed N] [--epochs N]

Convolutions are matrix products over im2col columns, the gradients are written out by hand, the optimiser is Adam
(Kingma and Ba, 2015) under a cosine learning rate, and each batch is shifted by up to a pixel. The same seed gives the
same files on the same machine; another BLAS may round differently.
"""

# scikit-learn has no types: what load_digits returns is unknown until it is an array.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.floating[Any]]  # f32; nothing in the layers depends on it
I64 = NDArray[np.int64]

CLASSES = 10
OPSET = 17


@dataclass(frozen=True)
class Options:
    """How long and how fast to train. `learning_rate` is the peak of the cosine, `decay` the decoupled weight decay."""

    seed: int = 0
    epochs: int = 60
    batch: int = 32
    learning_rate: float = 3e-3
    decay: float = 1e-3
    channels: tuple[int, int] = (16, 32)


@dataclass(eq=False)
class Parameter:
    """A trained array with its gradient and Adam's two moments, all of one shape."""

    value: Floats
    gradient: Floats = field(init=False)
    mean: Floats = field(init=False)
    square: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.gradient = np.zeros_like(self.value)
        self.mean = np.zeros_like(self.value)
        self.square = np.zeros_like(self.value)


class Layer(Protocol):
    """`forward` keeps what `backward` needs; `backward` takes the gradient of the output to that of the input."""

    def forward(self, x: Floats) -> Floats: ...
    def backward(self, gradient: Floats) -> Floats: ...
    def parameters(self) -> list[Parameter]: ...


class Conv:
    """3x3 cross-correlation, padding 1: f32[n, c, h, w] -> f32[n, m, h, w]."""

    def __init__(self, rng: np.random.Generator, channels_in: int, channels_out: int) -> None:
        deviation = math.sqrt(2 / (9 * channels_in))  # He et al., 2015: keeps the variance through ReLU
        weight = rng.normal(0, deviation, (channels_out, channels_in, 3, 3))
        self.weight = Parameter(weight.astype(np.float32))
        self.bias = Parameter(np.zeros(channels_out, np.float32))

    def forward(self, x: Floats) -> Floats:
        n, _, h, w = x.shape
        self.columns = im2col(x)
        y = self.columns @ self.weight.value.reshape(len(self.bias.value), -1).T + self.bias.value
        return y.reshape(n, h, w, -1).transpose(0, 3, 1, 2)

    def backward(self, gradient: Floats) -> Floats:
        rows = gradient.transpose(0, 2, 3, 1).reshape(-1, gradient.shape[1])
        self.weight.gradient = (rows.T @ self.columns).reshape(self.weight.value.shape)
        self.bias.gradient = rows.sum(0)
        # The input's gradient is the correlation of the output's with the flipped, transposed kernel.
        flipped = self.weight.value[:, :, ::-1, ::-1].transpose(1, 0, 2, 3).reshape(self.weight.value.shape[1], -1)
        n, _, h, w = gradient.shape
        return (im2col(gradient) @ flipped.T).reshape(n, h, w, -1).transpose(0, 3, 1, 2)

    def parameters(self) -> list[Parameter]:
        return [self.weight, self.bias]


class Relu:
    """max(x, 0), any shape."""

    def forward(self, x: Floats) -> Floats:
        self.positive = x > 0
        return x * self.positive

    def backward(self, gradient: Floats) -> Floats:
        return gradient * self.positive

    def parameters(self) -> list[Parameter]:
        return []


class MaxPool:
    """2x2 windows, stride 2: f32[n, c, 2h, 2w] -> f32[n, c, h, w]. The first maximum of a window gets its gradient."""

    def forward(self, x: Floats) -> Floats:
        n, c, h, w = x.shape
        windows = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
        self.chosen = windows.argmax(-1)[..., None]
        return np.take_along_axis(windows, self.chosen, -1)[..., 0]

    def backward(self, gradient: Floats) -> Floats:
        n, c, h, w = gradient.shape
        windows = np.zeros((n, c, h, w, 4), np.float32)
        np.put_along_axis(windows, self.chosen, gradient[..., None], -1)
        return windows.reshape(n, c, h, w, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, 2 * h, 2 * w)

    def parameters(self) -> list[Parameter]:
        return []


class Dense:
    """Flatten and multiply: f32[n, ...] -> f32[n, m]; the weight lies [m, k] as ONNX's Gemm with transB wants it."""

    def __init__(self, rng: np.random.Generator, features_in: int, features_out: int) -> None:
        weight = rng.normal(0, math.sqrt(1 / features_in), (features_out, features_in))
        self.weight = Parameter(weight.astype(np.float32))
        self.bias = Parameter(np.zeros(features_out, np.float32))

    def forward(self, x: Floats) -> Floats:
        self.shape = x.shape
        self.rows = x.reshape(len(x), -1)
        return self.rows @ self.weight.value.T + self.bias.value

    def backward(self, gradient: Floats) -> Floats:
        self.weight.gradient = gradient.T @ self.rows
        self.bias.gradient = gradient.sum(0)
        return (gradient @ self.weight.value).reshape(self.shape)

    def parameters(self) -> list[Parameter]:
        return [self.weight, self.bias]


class Network:
    """conv, relu, conv, relu, max pool, dense: f32[n, 1, 8, 8] -> f32[n, 10]."""

    def __init__(self, rng: np.random.Generator, channels: tuple[int, int]) -> None:
        first, second = channels
        self.conv1 = Conv(rng, 1, first)
        self.conv2 = Conv(rng, first, second)
        self.dense = Dense(rng, second * 4 * 4, CLASSES)
        self.layers: list[Layer] = [self.conv1, Relu(), self.conv2, Relu(), MaxPool(), self.dense]

    def forward(self, x: Floats) -> Floats:
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, gradient: Floats) -> Floats:
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)
        return gradient

    def parameters(self) -> list[Parameter]:
        return [parameter for layer in self.layers for parameter in layer.parameters()]


def im2col(x: Floats) -> Floats:
    """The 3x3 neighbourhoods of f32[n, c, h, w], padded with zeros, as rows: f32[n*h*w, c*9]."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 9)


def cross_entropy(logits: Floats, labels: I64) -> tuple[float, Floats]:
    """The mean negative log likelihood of the labels and its gradient by the logits f32[n, 10]."""
    shifted = logits - logits.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.arange(len(labels))
    gradient = np.exp(log_probability)
    gradient[rows, labels] -= 1
    return float(-log_probability[rows, labels].mean()), gradient / np.float32(len(labels))


def adam(parameters: list[Parameter], step: int, learning_rate: float, decay: float) -> None:
    """One step of Adam with decoupled weight decay (Loshchilov and Hutter, 2019); steps count from 1."""
    for p in parameters:
        p.mean += np.float32(0.1) * (p.gradient - p.mean)
        p.square += np.float32(0.001) * (p.gradient**2 - p.square)
        mean = p.mean / np.float32(1 - 0.9**step)
        square = p.square / np.float32(1 - 0.999**step)
        change = mean / (np.sqrt(square) + np.float32(1e-8)) + np.float32(decay) * p.value
        p.value -= np.float32(learning_rate) * change


def shift(x: Floats, rng: np.random.Generator) -> Floats:
    """The batch moved by -1, 0 or 1 pixel each way, zeros coming in."""
    h, w = x.shape[2:]
    top, left = rng.integers(0, 3, 2)
    return np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))[:, :, top : top + h, left : left + w]


def load_digits() -> tuple[Floats, I64]:
    """scikit-learn's digits: f32[1797, 1, 8, 8] in 0..1 and i64[1797]."""
    from sklearn import datasets

    rows, labels = datasets.load_digits(return_X_y=True)
    images = np.asarray(rows, np.float32).reshape(-1, 1, 8, 8) / np.float32(16)
    return images, np.asarray(labels, np.int64)


def split(labels: I64, rng: np.random.Generator) -> tuple[I64, I64]:
    """Row numbers of the training and the held-out part: of each class a random fifth is held out."""
    train: list[I64] = []
    held: list[I64] = []
    for label in range(CLASSES):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cut = round(len(rows) / 5)
        held.append(rows[:cut])
        train.append(rows[cut:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(held))


def train(images: Floats, labels: I64, options: Options) -> Network:
    """Fit a network to f32[n, 1, 8, 8] and i64[n]; prints the loss every ten epochs."""
    rng = np.random.default_rng(options.seed)
    network = Network(rng, options.channels)
    parameters = network.parameters()
    steps = options.epochs * math.ceil(len(images) / options.batch)
    step = 0
    for epoch in range(1, options.epochs + 1):
        order = rng.permutation(len(images))
        losses: list[float] = []
        for start in range(0, len(order), options.batch):
            rows = order[start : start + options.batch]
            step += 1
            loss, gradient = cross_entropy(network.forward(shift(images[rows], rng)), labels[rows])
            network.backward(gradient)
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            adam(parameters, step, options.learning_rate * cosine, options.decay)
            losses.append(loss)
        if epoch % 10 == 0:
            print(f"epoch {epoch:3}: mean loss {np.mean(losses):.4f}")
    return network


def to_onnx(network: Network) -> onnx.ModelProto:
    """The network as ONNX, opset 17, with a symbolic `batch`; its weights are initialisers, nothing is folded."""
    weights = {
        "conv1.weight": network.conv1.weight,
        "conv1.bias": network.conv1.bias,
        "conv2.weight": network.conv2.weight,
        "conv2.bias": network.conv2.bias,
        "dense.weight": network.dense.weight,
        "dense.bias": network.dense.bias,
    }
    pads = [1, 1, 1, 1]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "conv1.weight", "conv1.bias"], ["conv1"], "conv1", pads=pads),
            helper.make_node("Relu", ["conv1"], ["relu1"], "relu1"),
            helper.make_node("Conv", ["relu1", "conv2.weight", "conv2.bias"], ["conv2"], "conv2", pads=pads),
            helper.make_node("Relu", ["conv2"], ["relu2"], "relu2"),
            helper.make_node("MaxPool", ["relu2"], ["pool"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Flatten", ["pool"], ["features"], "flatten", axis=1),
            helper.make_node("Gemm", ["features", "dense.weight", "dense.bias"], ["logits"], "dense", transB=1),
        ],
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(parameter.value, name) for name, parameter in weights.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="ingot.compiler.demo"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main(arguments: list[str] | None = None) -> None:
    """Train and write both files; prints the held-out accuracy."""
    defaults = Options()
    parser = argparse.ArgumentParser(description="Train the digits network and write it as ONNX.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder for the two files")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    given = parser.parse_args(arguments)
    options = Options(seed=given.seed, epochs=given.epochs)

    images, labels = load_digits()
    train_rows, held_rows = split(labels, np.random.default_rng(options.seed))
    network = train(images[train_rows], labels[train_rows], options)
    correct = int((network.forward(images[held_rows]).argmax(1) == labels[held_rows]).sum())
    print(f"held out: {correct} of {len(held_rows)} right ({correct / len(held_rows):.2%})")

    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "digits.onnx").write_bytes(to_onnx(network).SerializeToString(deterministic=True))
    np.savez_compressed(given.output / "digits_heldout.npz", x=images[held_rows], y=labels[held_rows])


if __name__ == "__main__":
    main()
