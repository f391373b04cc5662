"""What the standard's text demands of attributes of the operators that are imported through their function bodies.

The bodies compute something for any value; the schemas (onnx.defs) say which make sense. Operators with a row of their
own in the table check their attributes there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import onnx

from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.ir.graph import Value

Attributes: TypeAlias = Mapping[str, Any]
Operands: TypeAlias = Sequence[Any]
Rule: TypeAlias = Callable[[Any, Attributes, Operands], "str | None"]
"""What is needed, None where it is so, of a value (None where the attribute is left out) among the attributes and
operands of a node."""


def _one_of(*allowed: int | str) -> Rule:
    def rule(value: Any, attributes: Attributes, operands: Operands) -> str | None:
        return None if value is None or value in allowed else f"one of {', '.join(map(str, allowed))}"

    return rule


def _at_least(low: int) -> Rule:
    def rule(value: Any, attributes: Attributes, operands: Operands) -> str | None:
        return None if value is None or value >= low else f"{low} or more"

    return rule


def _axis_of(operand: int) -> Rule:
    def rule(value: Any, attributes: Attributes, operands: Operands) -> str | None:
        rank = _rank(operands, operand)
        if rank is None or -rank <= value < rank:
            return None
        return f"an axis of {operands[operand].type}, between {-rank} and {rank - 1}"

    return rule


def _divides(operand: int, axis: int) -> Rule:
    """Parts of equal size of an axis."""

    def rule(value: Any, attributes: Attributes, operands: Operands) -> str | None:
        rank = _rank(operands, operand)
        if rank is None or not -rank <= axis < rank:
            return None
        extent = operands[operand].shape[axis]
        if value >= 1 and not (isinstance(extent, int) and extent % value):
            return None
        return f"a divisor of the extent of axis {axis % rank} of {operands[operand].type}"

    return rule


def _heads(operand: int) -> Rule:
    """The number of heads of an operand that has three axes, of which the last holds all heads."""
    divides = _divides(operand, -1)

    def rule(value: Any, attributes: Attributes, operands: Operands) -> str | None:
        if _rank(operands, operand) != 3:
            return None
        if value is None:
            return f"a number, because {operands[operand].type} has 3 axes"
        return divides(value, attributes, operands)

    return rule


def _without_four_axes(value: Any, attributes: Attributes, operands: Operands) -> str | None:
    return None if value is None or _rank(operands, 0) != 4 else f"left out, because {operands[0].type} has 4 axes"


def _multiple_of(other: str) -> Rule:
    def rule(value: Any, attributes: Attributes, operands: Operands) -> str | None:
        divisor = attributes.get(other)
        if value is None or divisor is None or (divisor > 0 and value % divisor == 0):
            return None
        return f"a multiple of {other}, which is {divisor}"

    return rule


def _rotated(value: Any, attributes: Attributes, operands: Operands) -> str | None:
    return None if value >= 0 and value % 2 == 0 else "an even number, 0 for the whole head"


def _rank(operands: Operands, index: int) -> int | None:
    found = operands[index] if index < len(operands) else None
    return found.rank if isinstance(found, Value) else None


_FLAG = _one_of(0, 1)
_FLOATS = _one_of(1, 10, 11, 16)
_REDUCTION = _one_of("none", "sum", "mean")
_WINDOW: Mapping[str, tuple[Rule, ...]] = {
    "periodic": (_FLAG,),
    "output_datatype": (_one_of(1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 16),),
}

RULES: Mapping[str, Mapping[str, tuple[Rule, ...]]] = {
    "Attention": {
        "is_causal": (_FLAG,),
        "kv_num_heads": (_without_four_axes, _heads(1), _heads(2)),
        "left_window_size": (_at_least(-1),),
        "q_num_heads": (_without_four_axes, _heads(0), _multiple_of("kv_num_heads")),
        "qk_matmul_output_mode": (_one_of(0, 1, 2, 3),),
        "right_window_size": (_at_least(-1),),
        "softmax_precision": (_FLOATS,),
    },
    "BlackmanWindow": _WINDOW,
    "CausalConvWithState": {"activation": (_one_of("none", "silu", "swish"),)},
    "GroupNormalization": {"num_groups": (_divides(0, 1),), "stash_type": (_FLOATS,)},
    "HammingWindow": _WINDOW,
    "HannWindow": _WINDOW,
    "LinearAttention": {
        "kv_num_heads": (_heads(1), _heads(2)),
        "q_num_heads": (_heads(0), _multiple_of("kv_num_heads")),
        "update_rule": (_one_of("linear", "gated", "delta", "gated_delta"),),
    },
    "NegativeLogLikelihoodLoss": {"reduction": (_REDUCTION,)},
    "RMSNormalization": {"axis": (_axis_of(0),), "stash_type": (_FLOATS,)},
    "RotaryEmbedding": {"interleaved": (_FLAG,), "num_heads": (_heads(0),), "rotary_embedding_dim": (_rotated,)},
    "SoftmaxCrossEntropyLoss": {"reduction": (_REDUCTION,)},
}
"""By operator of the standard's default domain and by attribute."""


def require_sensible(op_type: str, attributes: Mapping[str, onnx.AttributeProto], operands: Operands) -> None:
    """The attributes, defaults among them, are such as the standard allows. Raises ModelError."""
    values = {name: _plain(attribute) for name, attribute in attributes.items()}
    for name, rules in RULES.get(op_type, {}).items():
        for rule in rules:
            if (need := rule(values.get(name), values, operands)) is not None:
                given = f"is {values[name]!r}" if name in values else "is missing"
                raise ModelError(f"attribute {name!r} of {op_type} {given}: it must be {need}")


def _plain(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
