"""A plan from a comparison of a model with its quantised form: what adds most to the error stays in floats."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Constant, Graph, Node, Value, node_of, operands_of, topological
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.compiler.passes.constants import users
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.flow import pointwise
from ingot.compiler.passes.quantize.layers import Layer, layers_of
from ingot.compiler.passes.quantize.products import known
from ingot.compiler.passes.quantize.spelling import BITS
from ingot.compiler.quantization.plan import LayerPlan, Plan, is_possible
from ingot.compiler.quantization.schemes import core
from ingot.runtime.dtypes import bf16, f16

Arrays = Mapping[str, NDArray[Any]]
NEAR = 8  # operators between a product and a tensor that stands for its result


def plan_from(model: Path, other: Path, want: Arrays, have: Arrays, bound: float) -> Plan:
    """The plan for `model` of the quantised model `other` (both ONNX files), in which layers stay in f32 that add more
    than `bound` to the error of what they compute.

    `want` and `have`: tensors of both by name, for the same inputs. An error is the root of the share of a tensor's
    energy; what a layer's operand has is none of the layer's own. Raises QuantisationError where the tensors tell of no
    layer, and what `load_onnx` raises.
    """
    graph = core(load_onnx(model, watch=True))
    made = load_onnx(other, watch=True)
    values = dict(made.outputs) | dict(made.watched)
    names, theirs = _names(graph), _names(made)

    def share(one: str, another: str) -> float | None:
        """The part of the energy of a tensor that is error; None where these are none that can be compared."""
        return _share(want[one], have[another]) if one in want and another in have else None

    plans: dict[str, LayerPlan] = {}
    told = False
    for layer in layers_of(graph):
        name = _result(graph, layer, names, values)
        whole = None if name is None else share(name, name)
        if name is None or whole is None:
            plans[layer.name] = LayerPlan("f32", reason="no tensor that both models have tells of it")
            continue
        told = True
        found, x = _plan_of(values[name])
        pairs = product(names.get(layer.x, ()), () if x is None else theirs.get(x, ()))
        before = next((each for pair in pairs if (each := share(*pair)) is not None), 0.0)
        own = math.sqrt(max(whole - before, 0.0)) if math.isfinite(whole) else math.inf
        reason = f"adds an error of {own:.1e} to {name}"
        if found.scheme == "f32" or not is_possible(layer, found.scheme):
            plans[layer.name] = LayerPlan("f32", reason=f"as in {other.name}")
        elif own > bound:
            plans[layer.name] = LayerPlan("f32", reason=f"{reason} in {found.scheme}")
        else:
            plans[layer.name] = LayerPlan(found.scheme, found.bits, reason=reason)
    if not told:
        raise QuantisationError(
            f"{other.name} has no tensor of a layer of {model.name} under its name: take one that ingot quantize wrote"
        )
    return Plan(plans)


def _names(graph: Graph) -> dict[Value, list[str]]:
    found: dict[Value, list[str]] = {}
    for name, value in (*graph.watched.items(), *graph.outputs):
        found.setdefault(value, []).append(name)
    return found


def _share(want: NDArray[Any], have: NDArray[Any]) -> float | None:
    """The part of the energy of `want` that is error, NaN where values are not finite; None for what are not floats of
    one shape, as where one is the integers of a quantised tensor."""
    if want.shape != have.shape or not want.dtype.kind == have.dtype.kind == "f":
        return None
    wide = want.astype(np.float64)
    with np.errstate(all="ignore"):
        signal, noise = float(np.square(wide).sum()), float(np.square(have.astype(np.float64) - wide).sum())
    return noise / signal if signal else math.inf if noise else 0.0


def _result(graph: Graph, layer: Layer, names: Mapping[Value, list[str]], known: Collection[str]) -> str | None:
    """One of the `known` tensors that is the layer's result, after the bias and such where these are its."""
    value: Value = layer.node
    for _ in range(NEAR):
        for name in names.get(value, ()):
            if name in known:
                return name
        readers = users(graph).get(value, ())
        if len(readers) != 1 or not pointwise(readers[0]):
            return None
        value = readers[0].results()[0]
    return None


def _plan_of(value: Value) -> tuple[LayerPlan, Value | None]:
    """How a model computes the product that `value` is the result of, and the operand of that as far as it is known."""
    found = _behind(value, (Conv, ConvTranspose, MatMul))
    if found is None:
        return LayerPlan("f32"), None
    assert isinstance(found, Conv | ConvTranspose | MatMul)
    x, w = (found.a, found.b) if isinstance(found, MatMul) else (found.x, found.w)
    parts = topological([w])
    if found.dtype.is_integer or (isinstance(x, Dequantize) and any(isinstance(each, Dequantize) for each in parts)):
        rounded = _behind(x, (Quantize,))
        is_static = rounded is None or (isinstance(rounded, Quantize) and known(rounded.scale) is not None)
        return LayerPlan("int8" if is_static else "int8-dynamic"), x
    if any(isinstance(each, Dequantize) for each in parts):
        bits = min(BITS.get(each.dtype, 8) for each in parts if isinstance(each, Constant) and not each.dtype.is_float)
        return LayerPlan("int8-weights") if bits == 8 else LayerPlan("int4-weights", None if bits == 4 else bits), x
    halves = {each.dtype for each in parts if isinstance(each, Constant)} & {f16, bf16}
    return LayerPlan("f32") if not halves else LayerPlan("fp16" if f16 in halves else "bf16"), x


def _behind(value: Value, kinds: tuple[type[Node], ...]) -> Node | None:
    """The first node of these kinds on the way back from `value` along first operands."""
    for _ in range(NEAR):
        node = node_of(value)
        if isinstance(node, kinds):
            return node
        if not (operands := operands_of(node)):
            return None
        value = operands[0]
    return None
