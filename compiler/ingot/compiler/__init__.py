"""Ingot's compiler: ONNX models to native artifacts.

    from ingot.compiler import compile
    compile("model.onnx").save("model.ingot")

Everything public is here: `compile`, `Artifact`, the front end, pipelines and passes, and the errors. Names are
imported when they are first used, so that a tool that needs one part does not pay for all.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as type checkers see it; `typing` itself takes as long as Python's start
if TYPE_CHECKING:
    from typing import Any

    from ingot.compiler.api import compile as compile
    from ingot.compiler.api import compile_library as compile_library
    from ingot.compiler.artifact import Artifact as Artifact
    from ingot.compiler.frontend import load_onnx as load_onnx
    from ingot.compiler.frontend.errors import ModelError as ModelError
    from ingot.compiler.frontend.errors import UnsupportedError as UnsupportedError
    from ingot.compiler.frontend.export import ExportError as ExportError
    from ingot.compiler.frontend.export import export_onnx as export_onnx
    from ingot.compiler.frontend.export import save_onnx as save_onnx
    from ingot.compiler.ir.graph import Graph as Graph
    from ingot.compiler.lower.context import LoweringError as LoweringError
    from ingot.compiler.ops.custom import CustomOp as CustomOp
    from ingot.compiler.ops.custom import CustomOpError as CustomOpError
    from ingot.compiler.ops.custom import custom_op as custom_op
    from ingot.compiler.passes.default import default_pipeline as default_pipeline
    from ingot.compiler.passes.prune.errors import PruningError as PruningError
    from ingot.compiler.passes.quantize.errors import QuantisationError as QuantisationError
    from ingot.compiler.pipeline import Pipeline as Pipeline
    from ingot.compiler.pruning.prune import prune as prune
    from ingot.compiler.pruning.result import Pruned as Pruned
    from ingot.compiler.quantization.result import Quantized as Quantized
    from ingot.compiler.quantization.schemes import quantize as quantize
    from ingot.compiler.rewrite import Patch as Patch
    from ingot.compiler.single_pass import PassError as PassError
    from ingot.compiler.single_pass import rules as rules
    from ingot.compiler.tuning.record import TuningError as TuningError
    from ingot.compiler.tuning.record import TuningWarning as TuningWarning

_HOME = {
    "Artifact": "artifact",
    "CustomOp": "ops.custom",
    "CustomOpError": "ops.custom",
    "ExportError": "frontend.export",
    "Graph": "ir.graph",
    "LoweringError": "lower.context",
    "ModelError": "frontend.errors",
    "PassError": "single_pass",
    "Patch": "rewrite",
    "Pipeline": "pipeline",
    "Pruned": "pruning.result",
    "PruningError": "passes.prune.errors",
    "QuantisationError": "passes.quantize.errors",
    "Quantized": "quantization.result",
    "TuningError": "tuning.record",
    "TuningWarning": "tuning.record",
    "UnsupportedError": "frontend.errors",
    "compile": "api",
    "compile_library": "api",
    "custom_op": "ops.custom",
    "default_pipeline": "passes.default",
    "export_onnx": "frontend.export",
    "load_onnx": "frontend",
    "prune": "pruning.prune",
    "quantize": "quantization.schemes",
    "rules": "single_pass",
    "save_onnx": "frontend.export",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
