"""Quantisation of whole models: `quantize` takes an ONNX model and data, and gives a graph with a report."""

from __future__ import annotations

from ingot.compiler.quantization.choice import Bound, Choice, choose, top1
from ingot.compiler.quantization.plan import LayerPlan, Plan, PlanError
from ingot.compiler.quantization.report import LayerReport, Report
from ingot.compiler.quantization.result import Quantized
from ingot.compiler.quantization.schemes import quantize
from ingot.compiler.quantization.validate import SCHEMES, Scheme

__all__ = [
    "SCHEMES",
    "Bound",
    "Choice",
    "LayerPlan",
    "LayerReport",
    "Plan",
    "PlanError",
    "Quantized",
    "Report",
    "Scheme",
    "choose",
    "quantize",
    "top1",
]
