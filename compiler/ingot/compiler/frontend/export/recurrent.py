"""RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import recurrent as ops
from ingot.runtime.dtypes import i32

TABLE = Table()


def _recurrent(
    scope: Scope, node: ops.Recurrent, cell: Value | None = None, peepholes: Value | None = None, **attributes: Any
) -> list[str]:
    """The layer with time first: runtimes do without `layout`."""
    op_type, dtype = node.name.upper(), node.x.dtype
    compute = scope.compute_type(op_type, dtype, node)
    batch_first = node.layout == 1

    def operand(value: Value | None, turned: bool = False) -> str | None:
        if value is None:
            return None
        name = scope.cast(scope.name(value), dtype, compute)
        return scope.add("Transpose", name, perm=[1, 0, 2]) if turned else name

    lengths = node.sequence_lens
    results = scope.add_many(
        op_type,
        (
            operand(node.x, batch_first),
            *(operand(v) for v in (node.w, node.r, node.b)),
            scope.cast(scope.name(lengths), lengths.dtype, i32) if lengths is not None else None,
            operand(node.initial_h, batch_first),
            operand(cell, batch_first),
            operand(peepholes),
        ),
        1 + node.states,
        hidden_size=node.hidden,
        direction=node.direction,
        activations=list(node.activations),
        activation_alpha=_parameters(node, node.activation_alpha, 1),
        activation_beta=_parameters(node, node.activation_beta, 2),
        clip=node.clip,
        **attributes,
    )
    if batch_first:  # y [T, D, N, H] -> [N, T, D, H], states [D, N, H] -> [N, D, H]
        perms = [[2, 0, 1, 3], *[[1, 0, 2]] * node.states]
        results = [scope.add("Transpose", name, perm=perm) for name, perm in zip(results, perms, strict=True)]
    return [scope.cast(name, compute, dtype) for name in results]


def _parameters(node: ops.Recurrent, values: Sequence[float], number: int) -> list[float] | None:
    """The entries of those functions that have a parameter of this number."""
    functions = zip(node.activations, values, strict=True)
    return [value for name, value in functions if ops.ACTIVATIONS[name].parameters >= number] or None


@TABLE.exports(ops.RNN)
def rnn(scope: Scope, node: ops.RNN) -> Written:
    return _recurrent(scope, node)


@TABLE.exports(ops.GRU)
def gru(scope: Scope, node: ops.GRU) -> Written:
    return _recurrent(scope, node, linear_before_reset=1 if node.linear_before_reset else None)


@TABLE.exports(ops.LSTM)
def lstm(scope: Scope, node: ops.LSTM) -> Written:
    return _recurrent(scope, node, node.initial_c, node.p, input_forget=1 if node.input_forget else None)
