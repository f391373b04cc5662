"""What an operator means: the model's own functions come first, then the rows of the table, then the bodies that the
ONNX standard gives operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import onnx

from ingot.compiler.frontend.functions import Opsets, domain_of, has_typed_body, opsets_of, static_body
from ingot.compiler.frontend.table import Row, Table

Key: TypeAlias = tuple[str, str, str]  # domain, operator or function name, overload
Functions: TypeAlias = Mapping[Key, onnx.FunctionProto]


@dataclass(frozen=True)
class Inlined:
    """A body that is put in for a node, and the opsets of its nodes: a function of the model's own where `is_local`,
    else a body of the standard's."""

    function: onnx.FunctionProto
    opsets: Opsets
    is_local: bool

    @staticmethod
    def standard(function: onnx.FunctionProto, opsets: Opsets) -> Inlined:
        """A body of the standard's for a node among others of `opsets`."""
        return Inlined(function, {**opsets, **opsets_of(function.opset_import)}, is_local=False)


@dataclass(frozen=True)
class TypedBody:
    """The standard makes a body for the types and attributes of each node."""


Meaning: TypeAlias = Inlined | Row | TypedBody | None


@dataclass(frozen=True)
class Dispatch:
    """The operators of one model: the rows of the table and the functions of its own."""

    table: Table
    functions: Functions

    def meaning(self, node: onnx.NodeProto, opsets: Opsets) -> Meaning:
        """What `node` means among nodes of `opsets`, None where it means nothing."""
        domain, op_type = domain_of(node.domain), node.op_type
        opset = opsets.get(domain, 0)
        own = self.functions.get((domain, op_type, node.overload))
        if own is not None:
            return Inlined(own, opsets_of(own.opset_import), is_local=True)
        row = self.table.find(domain, op_type, opset)
        if row is not None:
            return row
        body = static_body(domain, op_type, opset)
        if body is not None:
            return Inlined.standard(body, opsets)
        return TypedBody() if has_typed_body(domain, op_type, opset) else None
