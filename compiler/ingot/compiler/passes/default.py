"""The default pipeline and the names by which passes are known."""

from __future__ import annotations

from ingot.compiler.ir.graph import Node
from ingot.compiler.ops.composite import Attention
from ingot.compiler.passes.expand import expand
from ingot.compiler.passes.fold_norm import FOLD_NORM
from ingot.compiler.passes.fuse import fuse
from ingot.compiler.passes.layout import LAYOUT
from ingot.compiler.passes.recognise import recognise
from ingot.compiler.passes.simplify import simplify
from ingot.compiler.pipeline import Named, Pass, Pipeline, Registry, rules

# Composites that have kernels of their own; the others become core ops.
KERNELS: frozenset[type[Node]] = frozenset((Attention,))

fold_norm: Pass = rules(*FOLD_NORM, name="fold_norm")
layout: Pass = rules(*LAYOUT, name="layout")
expand_composites: Pass = Named("expand", lambda graph: expand(graph, KERNELS))

REGISTRY: Registry = {
    "simplify": simplify,
    "recognise": recognise,
    "fold_norm": fold_norm,
    "layout": layout,
    "expand": expand_composites,
    "fuse": fuse,
}


def default_pipeline(numerics: str = "default") -> Pipeline:
    """simplify, recognise, fold_norm, layout, expand, cleanup (simplify again), fuse.

    With "strict" numerics attention is not recognised: its kernel computes softmax block by block.
    """
    passes = Pipeline((simplify, recognise, fold_norm, layout, expand_composites, Named("cleanup", simplify), fuse))
    return passes.without("recognise") if numerics == "strict" else passes
