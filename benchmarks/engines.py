"""The engines that benchmarks compare, each behind the same two calls and at its best settings for latency."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = dict[str, NDArray[Any]]
Run: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], Arrays]


@dataclass(frozen=True)
class Engine:
    """A way to run a model: `run` maps named inputs to named outputs; `bound` is a call on fixed buffers, if there is
    one; `close` releases everything."""

    name: str
    version: str
    run: Run
    bound: Callable[[Mapping[str, NDArray[Any]]], Callable[[], object]] | None = None
    close: Callable[[], None] = lambda: None


class MissingEngineError(RuntimeError):
    """The engine is not installed."""


def ingot(model: Path, threads: int, target: str = "native", artifact: Path | None = None) -> Engine:
    """Ingot: compiled ahead of time (to `artifact` if given, else beside a temporary file)."""
    import tempfile

    from ingot.compiler import compile
    from ingot.runtime import Session, __version__

    if artifact is None:
        artifact = Path(tempfile.mkdtemp(prefix="ingot-bench-")) / "model.ingot"
    if not artifact.exists():
        compile(model, target=target).save(artifact)
    session = Session(artifact, threads=threads)

    def bound(inputs: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
        return session.bind(dict(inputs), session.run(dict(inputs)))

    return Engine("ingot", __version__, lambda inputs: session.run(dict(inputs)), bound, session.close)


def onnxruntime(model: Path, threads: int) -> Engine:
    """ONNX Runtime: all optimisations, `threads` intra-op threads, one inter-op thread."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingEngineError("onnxruntime is not installed: pip install onnxruntime") from error
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    feeds = {i.name for i in session.get_inputs()}

    def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        outputs = session.run(None, {k: v for k, v in inputs.items() if k in feeds})
        return dict(zip(names, outputs, strict=True))

    def bound(inputs: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name)
        return lambda: session.run_with_iobinding(binding)

    return Engine("onnxruntime", ort.__version__, run, bound)


def openvino(model: Path, threads: int) -> Engine:
    """OpenVINO: latency hint, one stream, f32 arithmetic, shared input and output memory."""
    os.environ.setdefault("OPENVINO_TELEMETRY_ENABLED", "0")
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingEngineError("openvino is not installed: pip install openvino") from error
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }
    compiled = ov.Core().compile_model(str(model), "CPU", config)
    request = compiled.create_infer_request()
    names = [o.get_any_name() for o in compiled.outputs]

    def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        result = request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        return {name: result[i] for i, name in enumerate(names)}

    return Engine("openvino", ov.__version__, run)


def reference(model: Path, threads: int) -> Engine:
    """onnx.reference, a numpy evaluator: an oracle, not a peer."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(model))
    names = evaluator.output_names

    def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        values: Any = evaluator.run(None, dict(inputs))
        return {name: np.asarray(v) for name, v in zip(names, values, strict=True)}

    return Engine("onnx.reference", onnx.__version__, run)


ENGINES: dict[str, Callable[[Path, int], Engine]] = {
    "ingot": ingot,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
