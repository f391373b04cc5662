# The peers are optional and come without types.
# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""The engines that are compared, each behind the same two calls and at its best settings for latency."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = dict[str, NDArray[Any]]
Inputs: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Engine:
    """A model made ready by an engine: `run` maps named inputs to named outputs, in the model's order; `bound` makes a
    call on fixed buffers, where the engine has such a thing; `close` releases everything."""

    name: str
    version: str
    run: Callable[[Inputs], Arrays]
    bound: Callable[[Inputs], Callable[[], object]] | None = None
    close: Callable[[], None] = lambda: None


class MissingEngineError(RuntimeError):
    """The engine is not installed; the message has the pip line."""


def ingot(artifact: Path, threads: int) -> Engine:
    """Ingot on a compiled artifact."""
    from ingot.runtime import Session, __version__

    session = Session(artifact, threads=threads)

    def bound(inputs: Inputs) -> Callable[[], object]:
        return session.bind(dict(inputs), session.run(dict(inputs)))

    return Engine("ingot", __version__, session.run, bound, session.close)


def onnxruntime(model: Path, threads: int, *, optimise: bool = True) -> Engine:
    """ONNX Runtime: all optimisations (or none), `threads` intra-op threads, one inter-op thread."""
    require("onnxruntime")
    import onnxruntime as ort

    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    feeds = {i.name for i in session.get_inputs()}

    def run(inputs: Inputs) -> Arrays:
        outputs: Any = session.run(None, {k: v for k, v in inputs.items() if k in feeds})
        return dict(zip(names, outputs, strict=True))

    def bound(inputs: Inputs) -> Callable[[], object]:
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name)
        return lambda: session.run_with_iobinding(binding)

    return Engine("onnxruntime", ort.__version__, run, bound)


def openvino(model: Path, threads: int) -> Engine:
    """OpenVINO: latency hint, one stream, f32 arithmetic, shared input and output memory."""
    require("openvino")
    os.environ.setdefault("OPENVINO_TELEMETRY_ENABLED", "0")
    import openvino as ov

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }
    compiled = ov.Core().compile_model(str(model), "CPU", config)
    request = compiled.create_infer_request()
    names = [o.get_any_name() for o in compiled.outputs]

    def run(inputs: Inputs) -> Arrays:
        result: Any = request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        return {name: result[i] for i, name in enumerate(names)}

    return Engine("openvino", str(ov.__version__).partition("-")[0], run)


def reference(model: Path, threads: int) -> Engine:
    """onnx.reference, an evaluator on numpy: an oracle, not a peer. It chooses its threads itself."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(model))
    names = [str(name) for name in evaluator.output_names]

    def run(inputs: Inputs) -> Arrays:
        values: Any = evaluator.run(None, dict(inputs))
        return {name: np.asarray(v) for name, v in zip(names, values, strict=True)}

    return Engine("onnx.reference", onnx.__version__, run)


PEERS: Mapping[str, Callable[[Path, int], Engine]] = MappingProxyType(
    {"onnxruntime": onnxruntime, "openvino": openvino}
)
"""Other runtimes of ONNX models by name, each also the name of its package."""


def require(name: str) -> None:
    """Raise MissingEngineError unless the package of peer `name` can be imported."""
    if importlib.util.find_spec(name) is None:
        raise MissingEngineError(f"{name} is not installed: pip install 'ingot[bench]'")
