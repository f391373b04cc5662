"""Through which operators values flow to where they are multiplied, and which of these keep them on their grid."""

from __future__ import annotations

from ingot.compiler.ir.graph import Constant, Node, Value, operands_of
from ingot.compiler.ops.composite import BatchNorm, Elu, HardSigmoid, HardSwish, LeakyRelu, LogSoftmax, Silu, Softmax
from ingot.compiler.ops.linear import AveragePool, MaxPool
from ingot.compiler.ops.movement import Concat, Expand, Gather, Pad, Reshape, Slice, Split, Transpose
from ingot.compiler.ops.pointwise import Pointwise
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean, ReduceMin, ReduceSum
from ingot.compiler.ops.resample import Resample
from ingot.compiler.passes.constants import is_splat
from ingot.runtime.dtypes import f32

ELEMENTWISE = (BatchNorm, Elu, HardSigmoid, HardSwish, LeakyRelu, Silu)  # composites, on their first operand


def moved(node: Node) -> tuple[Value, ...]:
    """The f32 operands whose elements are those of the results, so that what lies on a grid stays on it; none for other
    operators. Padding may add zeros, which every grid has, and a maximum is one of the elements."""
    match node:
        case Reshape(x=x) | Transpose(x=x) | Slice(x=x) | Expand(x=x) | Split(x=x) | Gather(data=x):
            found = (x,)
        case Pad(x=x, mode=mode, value=value) if mode != "constant" or value is None or is_splat(value, 0):
            found = (x,)
        case MaxPool(x=x) if not _sees_padding_alone(node):
            found = (x,)
        case Concat(parts=parts):
            found = parts
        case _:
            return ()
    flowing = tuple(v for v in found if v.dtype == f32)
    return flowing if any(not isinstance(v, Constant) for v in flowing) else ()


def pointwise(node: Node) -> tuple[Value, ...]:
    """The f32 operands that an elementwise operator computes f32 elements of; none for other operators."""
    match node:
        case Quantize() | Dequantize():
            return ()
        case Pointwise():
            found = operands_of(node)
        case _ if isinstance(node, ELEMENTWISE):
            found = operands_of(node)[:1]
        case _:
            return ()
    return tuple(v for v in found if v.dtype == f32 and not isinstance(v, Constant)) if node.dtype == f32 else ()


def averaged(node: Node) -> tuple[Value, ...]:
    """The f32 operand whose elements an operator averages or sums over places; none for other operators."""
    match node:
        case AveragePool(x=x) | ReduceMean(x=x) | ReduceSum(x=x) | ReduceMax(x=x) | ReduceMin(x=x) | Resample(x=x):
            return (x,) if x.dtype == f32 and not isinstance(x, Constant) else ()
        case _:
            return ()


def scored(node: Node) -> tuple[Value, ...]:
    """The operand of which an operator makes probabilities; none for other operators."""
    return (node.x,) if isinstance(node, Softmax | LogSoftmax) else ()


def _sees_padding_alone(node: MaxPool) -> bool:
    half = len(node.kernel)
    reach = [d * (int(k) - 1) for d, k in zip(node.dilations, node.kernel, strict=True)]
    return any(pad > reach[i % half] for i, pad in enumerate(node.pads))
