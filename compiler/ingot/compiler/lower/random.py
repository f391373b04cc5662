"""What the session gives for random numbers, taken once a run."""

from __future__ import annotations

from ingot.compiler.ir.graph import Node
from ingot.compiler.ir.loops import Axis, Call, Const
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.views import View
from ingot.compiler.ops.random import Entropy
from ingot.runtime.dtypes import u64


def lower_random(context: Context, node: Node) -> bool:
    """Lower an Entropy to a copy of the entropy storage, whose count goes up; False when `node` is none."""
    if not isinstance(node, Entropy):
        return False
    storage = next((s for s in context.storages if s.kind == "entropy"), None)
    if storage is None:
        storage = context.storage("entropy", u64, 2, stem="entropy")
    state, target, build = View(storage, (2,), (1,)), context.destination(node), kernel(context, node)
    key, run = (build.load(state, i) for i in range(2))
    body = (
        build.store(target, target.at([0]), key),
        build.store(target, target.at([1]), run),
        build.store(state, 1, Call("add", (run, Const(1, u64)), u64)),
    )
    context.run(build.launch((Axis("_point", 1),), body, origin=node.origin))
    return True
