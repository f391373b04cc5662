"""The default pipeline and the names by which passes are known."""

from __future__ import annotations

from collections.abc import Mapping

from ingot.compiler.ir.graph import Constant, Graph, Node, operands_of
from ingot.compiler.ops.composite import Attention
from ingot.compiler.ops.quantised import DequantizeBlocks
from ingot.compiler.ops.rescale import Rescale
from ingot.compiler.passes.bytewise import BYTEWISE
from ingot.compiler.passes.exact import spread_transposed
from ingot.compiler.passes.exact_products import EXACT_PRODUCTS
from ingot.compiler.passes.expand import expand
from ingot.compiler.passes.fold_norm import FOLD_NORM
from ingot.compiler.passes.fuse import fuse
from ingot.compiler.passes.integers import INTEGERS
from ingot.compiler.passes.layout import LAYOUT
from ingot.compiler.passes.narrow_weights import NARROW_WEIGHTS
from ingot.compiler.passes.recognise import recognise
from ingot.compiler.passes.rescale import Rescaling
from ingot.compiler.passes.simplify import simplify
from ingot.compiler.passes.transposed_integers import TRANSPOSED_INTEGERS
from ingot.compiler.passes.wide_integers import WIDE_INTEGERS
from ingot.compiler.pipeline import Pipeline, Registry
from ingot.compiler.rewrite import Trace
from ingot.compiler.single_pass import Named, Pass, as_pass, rules

MOST_DEPTH = 4096  # of a query and a row of values together: the attention kernel keeps several of each on the stack


def has_kernel(node: Node) -> bool:
    """Whether a composite has a kernel of its own; the others become core ops."""
    if isinstance(node, Rescale):
        return True
    if isinstance(node, DequantizeBlocks):
        return all(isinstance(operand, Constant) for operand in operands_of(node))
    if not isinstance(node, Attention):
        return False
    match node.q.shape[-1], node.v.shape[-1]:
        case int() as depth, int() as value:
            return depth + value <= MOST_DEPTH
        case _:
            return False


def expand_composites(graph: Graph, *, trace: Trace | None = None) -> Graph:
    """Composites without a kernel of their own as core ops."""
    return expand(graph, has_kernel, trace=trace)


PASSES: tuple[Pass, ...] = (
    rules(
        *(*INTEGERS, *WIDE_INTEGERS, *TRANSPOSED_INTEGERS, *EXACT_PRODUCTS, *NARROW_WEIGHTS), name="integers"
    ),
    as_pass(simplify),
    as_pass(recognise),
    rules(*FOLD_NORM, name="fold_norm"),
    Named(expand_composites, "expand"),
    rules(*LAYOUT, name="layout"),
    Named(simplify, "cleanup"),
    rules(*BYTEWISE, name="bytewise"),
    as_pass(fuse),
)
EXACT: Pass = rules(spread_transposed, name="exact")
RESCALE: Mapping[str, Pass] = {"tosa": Rescaling(), "tosa-double": Rescaling("double")}
REGISTRY: Registry = {**{item.name: item for item in (*PASSES, EXACT)}, "rescale": Rescaling}


def default_pipeline(numerics: str = "default", requantise: str = "onnx") -> Pipeline:
    """integers, simplify, recognise, fold_norm, expand, layout, cleanup (simplify again), bytewise, fuse.

    With "strict" numerics attention is not recognised, because its kernel computes softmax block by block, and `exact`
    comes before expand. With `requantise` "tosa" or "tosa-double" `rescale` comes before bytewise.
    """
    passes = Pipeline(PASSES)
    if requantise != "onnx":
        passes = passes.before("bytewise", RESCALE[requantise])
    return passes.without("recognise").before("expand", EXACT) if numerics == "strict" else passes
