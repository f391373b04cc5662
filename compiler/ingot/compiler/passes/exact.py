"""What strict numerics expand otherwise, so that NaN and infinities reach what they must reach and nothing else."""

from __future__ import annotations

from ingot.compiler.ir.graph import Graph, Node
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.compiler.rewrite import Patch


def spread_transposed(node: Node, graph: Graph) -> Patch | None:
    """conv_transpose with phases of fewer taps than others -> conv of the operand with zeros between its elements"""
    if not isinstance(node, ConvTranspose) or node.is_even:
        return None
    return {node: node.expand_exactly()}
