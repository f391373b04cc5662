"""Operators that the host computes, as steps of the program."""

from __future__ import annotations

from ingot.compiler.ir.graph import Node, Value, describe, operands_of
from ingot.compiler.ir.program import Host, HostTensor
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.pointwise import copy, materialise
from ingot.compiler.lower.strings import Handles, Strings
from ingot.compiler.lower.views import View
from ingot.compiler.ops.host import HostOp


def lower_host(context: Context, node: Node) -> bool:
    """Lower an operator that the host computes, or what tells strings from their handles, which are the same memory;
    False for any other node."""
    match node:
        case HostOp():
            _call(context, node)
        case Handles(x=x) | Strings(x=x):
            view = context.view(x)
            if node in context.placements:
                copy(context, view, context.destination(node), node.origin)
            else:
                context.views[node] = view
        case _:
            return False
    return True


def _call(context: Context, node: HostOp) -> None:
    operands = tuple(_tensor(v, materialise(context, context.view(v), node.origin)) for v in operands_of(node))
    targets = [context.destination(value) for value in node.results()]
    dense = [
        target if target.is_dense else context.temp(type_, origin=node.origin)
        for target, type_ in zip(targets, node.types, strict=True)
    ]
    results = tuple(_tensor(value, view) for value, view in zip(node.results(), dense, strict=True))
    _, fault = context.fault(f"{describe(node)} failed")
    context.steps.append(Host(node.function, operands, results, node.attributes(), fault, node.origin))
    for view, target in zip(dense, targets, strict=True):
        if view is not target:
            copy(context, view, target, node.origin)


def _tensor(value: Value, view: View) -> HostTensor:
    return HostTensor(view.storage, view.offset, value.type)
