"""Composites: the standard's operator where the opset has one that runs, else a function of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingot.compiler.frontend.export.kernels import runs
from ingot.compiler.frontend.export.scope import Row, Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.ir.graph import Node, Value, operands_of
from ingot.compiler.ops import composite as ops
from ingot.compiler.ops.pointwise import Gelu

TABLE = Table()

# Functions of one operand: the standard's operator, and which fields are attributes of it, by the same name.
UNARY: Mapping[type[Node], tuple[str, tuple[str, ...]]] = {
    ops.Softmax: ("Softmax", ("axis",)),
    ops.LogSoftmax: ("LogSoftmax", ("axis",)),
    ops.Silu: ("Swish", ()),
    ops.HardSigmoid: ("HardSigmoid", ("alpha", "beta")),
    ops.HardSwish: ("HardSwish", ()),
    ops.LeakyRelu: ("LeakyRelu", ("alpha",)),
    ops.Elu: ("Elu", ("alpha",)),
}


def _standard(scope: Scope, op_type: str, node: Node, *operands: Value | None, **attributes: Any) -> str | None:
    """The standard's operator, None where the opset has none or none runs with these element types."""
    if not runs(op_type, operands_of(node)[0].dtype, scope.opset):
        return None
    return scope.apply(op_type, node, *operands, **attributes)


def _unary(op_type: str, fields: tuple[str, ...]) -> Row:
    def row(scope: Scope, node: Node) -> Written:
        attributes = {name: getattr(node, name) for name in fields}
        return _standard(scope, op_type, node, *operands_of(node), **attributes)

    return row


for _op, (_name, _fields) in UNARY.items():
    TABLE.add(_op, _unary(_name, _fields))


@TABLE.exports(ops.LayerNorm)
def layer_norm(scope: Scope, node: ops.LayerNorm) -> Written:
    """The standard's scale and bias have the shape of the normalised axes here: what broadcasts in other ways is left
    open by some runtimes."""
    inner = node.x.shape[node.axis :]
    if node.scale.shape != inner or (node.bias is not None and node.bias.shape != inner):
        return None
    operands = (node.x, node.scale, node.bias)
    return _standard(scope, "LayerNormalization", node, *operands, axis=node.axis, epsilon=node.epsilon)


@TABLE.exports(ops.BatchNorm)
def batch_norm(scope: Scope, node: ops.BatchNorm) -> Written:
    operands = (node.x, node.scale, node.bias, node.mean, node.var)
    return _standard(scope, "BatchNormalization", node, *operands, epsilon=node.epsilon)


@TABLE.exports(Gelu)
def gelu(scope: Scope, node: Gelu) -> Written:
    return _standard(scope, "Gelu", node, node.x, approximate="tanh" if node.tanh else None)


@TABLE.exports(ops.Attention)
def attention(scope: Scope, node: ops.Attention) -> Written:
    """The standard's operator takes [batch, heads, length, depth] with the same batch axes everywhere; ONNX Runtime's
    does not broadcast the last two axes of the mask."""
    q, k, v, mask = node.q, node.k, node.v, node.mask
    if node.guard == "nan":
        return None
    if not (q.rank == k.rank == v.rank == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2]):
        return None
    if mask is not None and mask.shape[-2:] != (q.shape[-2], k.shape[-2]):
        return None
    return _standard(scope, "Attention", node, q, k, v, mask, scale=node.scale)
