"""Custom operators that are made of others, opened."""

from __future__ import annotations

from ingot.compiler.ir.graph import Graph
from ingot.compiler.ops.custom.nodes import Composed, Scalar
from ingot.compiler.rewrite import Patch, Rule


def open_custom(node: Scalar | Composed, graph: Graph) -> Patch:
    """custom operator -> what its author says it is, first of all, so that all other rules see it"""
    return dict(zip(node.results(), node.expand(), strict=True))


RULES: tuple[Rule, ...] = (open_custom,)
