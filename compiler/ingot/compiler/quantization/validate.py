"""Whether what is asked of `quantize` goes together: schemes, the options that they have a use for, and layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

from ingot.compiler.ir.graph import Graph
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.passes.quantize.dynamic import Grain
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.passes.quantize.static import Activations
from ingot.compiler.quantization.plan import WEIGHTS, Plan

Scheme: TypeAlias = Literal["int8", "int8-dynamic", "int8-weights", "int4-weights", "fp16", "bf16", "lossless"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

LEAST_SNR = 25.0
"""Decibels of an output's signal over the noise that one layer in int8 may cause."""

_INTEGERS = ("int8", "int8-dynamic")
_BY_LAYER = (*_INTEGERS, *WEIGHTS, "lossless")
_USES: Mapping[str, tuple[Any, tuple[str, ...]]] = MappingProxyType(
    {
        "method": ("mse", ("int8",)),
        "only": ((), _BY_LAYER),
        "exclude": ((), _BY_LAYER),
        "ends": (None, _BY_LAYER),
        "activations": ("u8", ("int8",)),
        "symmetric": (False, _INTEGERS),
        "everywhere": (False, ("int8",)),
        "grain": ("token", ("int8-dynamic",)),
        "weight_bits": (8, _INTEGERS),
        "per_channel": (True, _INTEGERS),
        "clip_weights": (False, _INTEGERS),
        "correct_biases": (True, ("int8",)),
        "balance": (True, ("int8",)),
        "least_snr": (LEAST_SNR, ("int8",)),
        "rounding": (None, tuple(WEIGHTS)),
        "group": (None, tuple(WEIGHTS)),
        "tables": (False, tuple(WEIGHTS)),
    }
)
"""What an option is where it is not given, and the schemes that have a use for it."""
_IN_PLANS = ("only", "exclude", "ends", "rounding", "group", "tables")


def require_fitting(
    scheme: str, data: Any, *, plan: Plan | None, samples: int | None, preprocess: Any, **options: Any
) -> None:
    """Raise QuantisationError for a scheme that is not known, options that it or, where there is one, the plan has no
    use for, and samples that are needed or described but not there. `options` has all others that `quantize` takes and
    `_USES` knows."""
    if scheme not in SCHEMES:
        raise QuantisationError(f"there is no scheme {scheme!r}: take {', '.join(SCHEMES)}")
    if plan is None and scheme == "int8" and data is None:
        raise QuantisationError("int8 needs samples for its ranges: give data, or take int8-dynamic, which needs none")
    if data is None and (samples is not None or preprocess is not None):
        what = "preprocess" if samples is None else "samples"
        raise QuantisationError(f"{what} says how data is read, and there is none: give data too")
    asked, who = {scheme}, scheme
    if plan is not None:
        asked, who = {each.scheme for each in plan.layers.values()}, "the plan"
    for name, given in options.items():
        usual, schemes = _USES[name]
        if given == usual:
            continue
        if plan is not None and name in _IN_PLANS:
            raise QuantisationError(f"a plan says what is done with each layer: {name} does not go with it")
        if not asked.intersection(schemes):
            raise QuantisationError(f"{name} is for {', '.join(schemes)}: {who} has no use for it, leave it out")
    for name, known in (("activations", get_args(Activations)), ("grain", get_args(Grain))):
        if options[name] not in known:
            raise QuantisationError(f"there is no {name} {options[name]!r}: take {', '.join(known)}")


def require_layers(graph: Graph, every: Sequence[Layer], layers: Sequence[Layer], scheme: str) -> None:
    """Raise QuantisationError where no layers are left of `every`, those of `graph`."""
    if layers:
        return
    if every:
        if (scheme == "int8-dynamic" or scheme in WEIGHTS) and not any(isinstance(each.node, MatMul) for each in every):
            what = f"the model has convolutions alone, and {scheme} is for products: take int8, with samples"
        elif scheme == "int8" and all(layer.is_first or layer.is_last for layer in every):
            what = f"all {len(every)} layers are first or last ones, which stay as they are: ask for the ends too"
        else:
            what = "no layer is left to quantise: ask for others with only, or exclude fewer"
    elif any(_is_quantised(node) for node in graph.nodes()):
        what = "the model is quantised throughout: compile it as it is"
    else:
        what = (
            "the model has no convolution or product of f32 with constant weights, bodies of If, Loop and Scan aside: "
            "there is nothing to quantise"
        )
    raise QuantisationError(what)


def _is_quantised(node: object) -> bool:
    match node:
        case Quantize() | Dequantize():
            return True
        case Conv() | MatMul():
            return node.dtype.is_integer
        case _:
            return False
