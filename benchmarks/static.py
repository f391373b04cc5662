"""A model for one set of inputs without the parts that only compute shapes, for engines that stumble over these."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort

from benchmarks.models import Case
from benchmarks.peers.engines.pinned import pin
from benchmarks.peers.jobs import Job


def static(case: Case, folder: Path) -> Path:
    """The model with the shapes of the case's inputs, folded by ONNX Runtime's basic optimisations, which keep to the
    operators of the standard; written to `folder`."""
    path = folder / "static.onnx"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "static.partial.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(unfinished)
    options.log_severity_level = 3
    pinned = pin(Job(case.path, case.inputs(), 1, folder))
    ort.InferenceSession(str(pinned), options, providers=["CPUExecutionProvider"])
    model = onnx.load(unfinished)
    # It imports every domain that ONNX Runtime knows.
    used = {node.domain for node in model.graph.node}
    imports = [each for each in model.opset_import if each.domain in used or not each.domain]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    onnx.save(model, unfinished)
    unfinished.replace(path)
    return path
