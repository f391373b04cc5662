"""All that is not supported in a model, found in one import.

Where a node cannot be imported the import goes on behind it with *stand-ins*: inputs of the types that its results
have, as the model declares them or ONNX infers them. What they lead to is never returned. Nodes whose operands have no
stand-in are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from ingot.compiler.frontend.errors import UnsupportedError, UnsupportedOperator, UnsupportedUse
from ingot.compiler.frontend.functions import Opsets, domain_of, inferred_types
from ingot.compiler.frontend.sequences import Item
from ingot.compiler.frontend.topology import label
from ingot.compiler.ir.graph import Origin, Value

NAMED = 3  # how many nodes of each operator are named in a message
LARGEST_LIST = 1000  # uses that are kept; a model may have any number of them


class BlockedError(UnsupportedError):
    """A value whose type nobody knows, because something before it is not supported. Never leaves the import."""


@dataclass
class Refusals:
    """What is not supported so far; `unknown` are operators without a meaning, by (domain, name, opset), with the
    names of their nodes."""

    unknown: dict[tuple[str, str, int], list[str]] = field(default_factory=dict[tuple[str, str, int], list[str]])
    uses: dict[tuple[Origin, str, str], tuple[UnsupportedUse, UnsupportedError]] = field(
        default_factory=dict[tuple[Origin, str, str], tuple[UnsupportedUse, UnsupportedError]]
    )
    unexamined: dict[tuple[Origin, str, str], str] = field(default_factory=dict[tuple[Origin, str, str], str])
    """Operators of nodes behind others, whose operands nobody knows."""

    def __bool__(self) -> bool:
        return bool(self.unknown or self.uses)

    def is_unknown(self, node: onnx.NodeProto, opset: int) -> bool:
        """Whether the operator of `node` has been found to have no meaning."""
        return (domain_of(node.domain), node.op_type, opset) in self.unknown

    def add(
        self, error: UnsupportedError, node: onnx.NodeProto, caller: Origin, operands: Sequence[Item | None]
    ) -> None:
        """Note why `node`, within the call `caller`, cannot be imported; the first reason is kept."""
        if error.operators:  # a body that ONNX gives the operator has them
            for each in error.operators:
                self.unknown.setdefault((each.domain, each.op_type, each.opset), list(each.nodes))
            self.leave_out(node, caller)
            return
        key = caller, label(node), node.op_type
        if key not in self.uses and len(self.uses) < LARGEST_LIST:
            types = tuple(str(v.type) if isinstance(v, Value) else "-" if v is None else str(v) for v in operands)
            reason = error.problem.rstrip("\n") + (f"; {error.remedy}" if error.remedy else "")
            use = UnsupportedUse(key[1], domain_of(node.domain), node.op_type, error.opset or 0, types, reason)
            self.uses[key] = use, error

    def leave_out(self, node: onnx.NodeProto, caller: Origin) -> None:
        """Note that `node` was not looked at."""
        domain = domain_of(node.domain)
        spelled = f"{domain}.{node.op_type}" if domain else node.op_type
        self.unexamined[caller, label(node), node.op_type] = spelled

    def error(self, domains: Collection[str], opsets: Opsets) -> UnsupportedError:
        """All of it. A single use is the error that it was; else the message lists everything. `domains` are those of
        which some operator is known."""
        uses = tuple(use for use, _ in self.uses.values())
        left = dict(sorted(Counter(self.unexamined.values()).items()))
        if len(uses) == 1 and not self.unknown:
            single = next(error for _, error in self.uses.values())
            single.uses, single.unexamined = uses, left
            return single
        operators = [
            UnsupportedOperator(domain, op_type, opset, len(names), tuple(names[:NAMED]), domain in domains)
            for (domain, op_type, opset), names in sorted(self.unknown.items())
        ]
        listing = ""
        if operators:
            lines = "\n".join(f"  {each}" for each in operators)
            listing += f"{len(operators)} operator(s) of the model are not supported:\n{lines}\n"
        if uses:
            lines = "\n".join(f"  {each}" for each in uses)
            listing += f"{len(uses)} node(s) use operators in ways that are not supported:\n{lines}\n"
        if left:
            listing += f"{sum(left.values())} node(s) behind them could not be looked at: their types are not known\n"
        remedy = "export the model without them, or replace them with supported operators"
        foreign = sorted({each.domain for each in operators if not each.is_known_domain})
        if foreign:
            named = ", ".join(repr(domain) for domain in foreign)
            remedy += (
                f"; Ingot knows no domain {named}: operators of your own are given with custom=[...] or --custom FILE "
                "(docs/write-an-operator.md)"
            )
            if missing := [domain for domain in foreign if domain not in opsets]:
                remedy += f"; the model has no opset import for {', '.join(repr(domain) for domain in missing)}"
        return UnsupportedError(listing, operators=operators, uses=uses, unexamined=left, remedy=remedy)


def stand_in_types(
    node: onnx.NodeProto,
    opset: int,
    operands: Sequence[Item | None],
    declared: Mapping[str, onnx.ValueInfoProto],
) -> dict[str, onnx.ValueInfoProto]:
    """The types of a node's results as far as the model or ONNX tells them."""
    found = {name: declared[name] for name in node.output if name in declared}
    if all(name in found for name in node.output if name):
        return found
    values = [x if isinstance(x, Value) else None for x in operands]
    inferred = inferred_types(domain_of(node.domain), node, opset, values)
    return {**{name: onnx.ValueInfoProto(name=name, type=kind) for name, kind in inferred.items()}, **found}
