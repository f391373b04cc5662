"""Examples of the recurrent layers, and ONNX Runtime's answer to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tests.compiler.ops.example import Example, normal

from ingot.compiler.ir.graph import Array, Value, constant
from ingot.compiler.ops import recurrent
from ingot.runtime.dtypes import f64

Layer = type[recurrent.Recurrent]
DEFAULTS: Mapping[Layer, tuple[str, ...]] = {
    recurrent.RNN: ("Tanh",),
    recurrent.GRU: ("Sigmoid", "Tanh"),
    recurrent.LSTM: ("Sigmoid", "Tanh", "Tanh"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer of T steps, N batch rows, I inputs and H units. `given` names the optional operands; with `fixed` the
    weights are constants, else run-time values like the rest. `options` are further fields of the op."""

    layer: Layer
    direction: str = "forward"
    sizes: tuple[int, int, int, int] = (5, 3, 4, 5)
    given: tuple[str, ...] = ("b",)
    lengths: tuple[int, ...] | None = None
    activations: tuple[str, ...] = ()
    alpha: tuple[float, ...] = ()
    beta: tuple[float, ...] = ()
    clip: float | None = None
    layout: int = 0
    fixed: bool = True
    dtype: str = "float32"
    options: tuple[tuple[str, Any], ...] = ()

    def arrays(self) -> dict[str, Array]:
        """All operands by field, in order. Weights of variance 1/H keep long sums in range."""
        steps, batch, inputs, hidden = self.sizes
        directions = 2 if self.direction == "bidirectional" else 1
        wide = self.layer.gates * hidden
        state = (directions, batch, hidden)
        shapes: dict[str, tuple[int, ...]] = {
            "x": (steps, batch, inputs),
            "w": (directions, wide, inputs),
            "r": (directions, wide, hidden),
            "b": (directions, 2 * wide),
            "initial_h": state,
            "initial_c": state,
            "p": (directions, 3 * hidden),
        }
        made: dict[str, Array] = {}
        for field in dataclasses.fields(self.layer):
            name = field.name
            if name == "sequence_lens" and self.lengths is not None:
                made[name] = np.array(self.lengths, np.int32)
            elif name in ("x", "w", "r", *self.given):
                scale = 1.0 if name == "x" else 0.6 if name != "r" else 1.2 / np.sqrt(hidden)
                shape = shapes[name]
                if self.layout and name in ("x", "initial_h", "initial_c"):
                    shape = (shape[1], shape[0], *shape[2:])
                made[name] = (normal(name + self.direction, *shape) * scale).astype(self.dtype)
        return made

    def build(self, *values: Value) -> recurrent.Recurrent:
        """The node over values for the operands that are not fixed."""
        arrays = self.arrays()
        left = iter(values)
        fields = {n: constant(a) if n in self._fixed() else next(left) for n, a in arrays.items()}
        count = 2 if self.direction == "bidirectional" else 1
        names = self.activations or DEFAULTS[self.layer] * count
        functions = recurrent.resolve_activations(names, self.alpha, self.beta)
        optional = {f.name: None for f in dataclasses.fields(self.layer) if f.name != "origin"}
        switches = {n: False for n in ("input_forget", "linear_before_reset") if n in optional}
        layer: Any = self.layer
        return layer(
            **{
                **optional,
                **fields,
                **dict(zip(("activations", "activation_alpha", "activation_beta"), functions, strict=True)),
                "clip": self.clip,
                "direction": self.direction,
                "layout": self.layout,
                **switches,
                **dict(self.options),
            }
        )

    def _fixed(self) -> tuple[str, ...]:
        return ("w", "r", "b", "p") if self.fixed else ()

    def example(self, name: str) -> Example:
        """The case as an operator example."""
        return Example(name, self.build, tuple(a for n, a in self.arrays().items() if n not in self._fixed()))


def onnx_runtime(node: recurrent.Recurrent, *inputs: Array) -> tuple[Array, ...]:
    """What ONNX Runtime gives, for f64 the ONNX reference. The former knows layout 0 only and dies of empty sequences
    and batches. `inputs` are the operands that are no constants."""
    wide = np.float64 if node.x.dtype == f64 else np.float32
    left = iter(inputs)
    arrays: dict[str, Array] = {}
    for name, value in node.named_operands():
        array = np.asarray(getattr(value, "data", None) if hasattr(value, "data") else next(left))
        if node.layout and name in ("x", "initial_h", "initial_c"):
            array = np.swapaxes(array, 0, 1)
        arrays[name] = array.astype(np.int32 if name == "sequence_lens" else wide)
    if 0 in arrays["x"].shape:
        nothing = [np.zeros(t.static_shape(), np.float32) for t in node.types]
        return nothing[0], *(arrays.get(f"initial_{n}", a) for n, a in zip("hc", nothing[1:], strict=False))
    kind = type(node).__name__
    order = ["x", "w", "r", "b", "sequence_lens", "initial_h", "initial_c", "p"][: 8 if kind == "LSTM" else 6]
    names = [name if name in arrays else "" for name in order]
    attributes: dict[str, Any] = {"hidden_size": node.hidden, "direction": node.direction}
    attributes["activations"] = list(node.activations)
    parameters = [recurrent.ACTIVATIONS[name].parameters for name in node.activations]
    for number, (what, values) in enumerate(
        (("activation_alpha", node.activation_alpha), ("activation_beta", node.activation_beta))
    ):
        attributes[what] = [v for v, count in zip(values, parameters, strict=True) if count > number]
    if node.clip is not None:
        attributes["clip"] = node.clip
    for name in ("input_forget", "linear_before_reset"):
        if getattr(node, name, False):
            attributes[name] = 1
    results = ["y", "y_h", "y_c"][: 1 + node.states]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in arrays.items()
    ]
    single = helper.make_node(kind, names, results, **{k: v for k, v in attributes.items() if v != []})
    outputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(wide)), None) for n in results]
    graph = helper.make_graph([single], "one", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=10)
    if wide == np.float64:
        return tuple(np.asarray(a) for a in ReferenceEvaluator(model).run(results, arrays))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    whole, *states = (np.asarray(a) for a in session.run(results, arrays))
    if node.layout:
        whole, states = np.moveaxis(whole, 2, 0), [np.swapaxes(a, 0, 1) for a in states]
    return tuple(a.astype(node.x.dtype.to_numpy()) for a in (whole, *states))


RNN, GRU, LSTM = recurrent.RNN, recurrent.GRU, recurrent.LSTM
BOTH = "bidirectional"

CASES: dict[str, Case] = {
    "rnn": Case(RNN),
    "rnn_one": Case(RNN, sizes=(1, 1, 1, 1), given=()),
    "rnn_reverse": Case(RNN, "reverse", lengths=(5, 2, 1), given=("b", "initial_h"), fixed=False),
    "rnn_blocks": Case(RNN, sizes=(2, 19, 3, 8), clip=0.5),
    "gru": Case(GRU, sizes=(4, 1, 3, 9)),
    "gru_both": Case(GRU, BOTH, given=("b", "initial_h"), lengths=(3, 5, 2), fixed=False),
    "gru_before_reset": Case(GRU, sizes=(3, 2, 4, 17), options=(("linear_before_reset", True),), clip=0.7),
    "gru_before_reset_both": Case(
        GRU, BOTH, given=("b", "initial_h"), lengths=(1, 5, 4), options=(("linear_before_reset", True),), fixed=False
    ),
    "gru_batch_first": Case(GRU, "reverse", given=("initial_h",), layout=1, sizes=(4, 2, 3, 16)),
    "lstm": Case(LSTM),
    "lstm_step": Case(LSTM, sizes=(1, 1, 16, 32), given=("b", "initial_h", "initial_c")),
    "lstm_both": Case(LSTM, BOTH, given=("b", "initial_h", "initial_c", "p"), lengths=(2, 5, 3), fixed=False),
    "lstm_reverse": Case(LSTM, "reverse", given=(), sizes=(3, 5, 4, 7)),
    "lstm_batch_first": Case(LSTM, BOTH, given=("b", "initial_h", "initial_c"), layout=1, sizes=(4, 2, 3, 8)),
    "lstm_tied": Case(LSTM, given=("b", "p", "initial_c"), clip=0.4, options=(("input_forget", True),)),
    "lstm_f16": Case(LSTM, dtype="float16", given=("b", "initial_h", "initial_c")),
    "gru_f64": Case(GRU, dtype="float64", given=("b", "initial_h"), sizes=(3, 2, 4, 9)),
    "lstm_no_steps": Case(LSTM, sizes=(0, 2, 3, 4), given=("initial_h", "initial_c")),
    "lstm_no_rows": Case(LSTM, sizes=(3, 0, 3, 4)),
    "lstm_large": Case(LSTM, sizes=(2, 1, 3, 225)),  # enough work for a launch a step
    "gru_large": Case(GRU, BOTH, sizes=(2, 3, 3, 320), lengths=(2, 0, 1)),
    "lstm_mixed": Case(
        LSTM, BOTH, activations=("Sigmoid", "Tanh", "Tanh", "HardSigmoid", "Relu", "Softsign"), sizes=(3, 2, 4, 6)
    ),
    **{
        f"rnn_{name.lower()}": Case(RNN, activations=(name,), alpha=(0.3,), beta=beta, sizes=(2, 2, 3, 8))
        for name, beta in (("Affine", (0.2,)), ("ScaledTanh", (0.6,)), ("HardSigmoid", (0.4,)))
    },
    **{
        f"rnn_{name.lower()}": Case(RNN, activations=(name,), alpha=(0.3,), sizes=(2, 2, 3, 8))
        for name in ("LeakyRelu", "ThresholdedRelu", "Elu")
    },
    **{
        f"rnn_{name.lower()}": Case(RNN, activations=(name,), sizes=(2, 2, 3, 8))
        for name in ("Sigmoid", "Relu", "Softsign", "Softplus")
    },
}
RECURRENT: list[Example] = [case.example(name) for name, case in CASES.items()]
