"""If and Loop. Sub-graphs are closed: what they use from outside becomes their captures."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.errors import ModelError, StructureError, UnsupportedError
from ingot.compiler.frontend.operators.bodies import Iteration, choice, unlike
from ingot.compiler.frontend.operators.sequence import unrolled
from ingot.compiler.frontend.scope import Body
from ingot.compiler.frontend.sequences import Item, Results, mapped, tensors_of
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir.graph import Input, Value
from ingot.compiler.ops.control import Require

TABLE = Table()
onnx_op = TABLE.onnx_op

ENDLESS = 2**63 - 1  # the trip count that exporters write for "until the condition fails"


@onnx_op("If")
def if_(ctx: Context) -> Results:
    condition = ctx.scalar(ctx.operand(0))
    branches = ctx.graph("then_branch"), ctx.graph("else_branch")
    known = ctx.decided(condition)
    if known is not None:
        return ctx.scope.inline(branches[0] if known else branches[1])
    bodies = [_fitting(ctx, graph) for graph in branches]
    match bodies:
        case [Body() as then, Body() as otherwise]:
            pass
        case [ModelError() as error, ModelError()]:
            raise error
        case [ModelError() as error, _]:
            return _certain(ctx, branches[1], bodies[1], condition, False, error)
        case [_, ModelError() as error]:
            return _certain(ctx, branches[0], bodies[0], condition, True, error)
        case _:
            raise AssertionError("two branches")
    importer = ctx.scope.importer
    if unlike(then, otherwise) and (found := importer.hypotheses.choice((importer.nodes, 0), condition)):
        which = 0 if found.wanted else 1
        return _certain(ctx, branches[which], bodies[which], condition, found.wanted, found.other)
    return choice(ctx, condition, then, otherwise)


def _fitting(ctx: Context, graph: GraphProto) -> Body | ModelError:
    """A branch, or why the shapes that the model is compiled for rule it out."""
    try:
        return ctx.scope.body(graph, (), ())
    except (UnsupportedError, StructureError):
        raise
    except ModelError as error:
        return error


def _certain(
    ctx: Context,
    graph: GraphProto,
    body: Body | ModelError,
    condition: Value,
    wanted: bool,
    other: ModelError | None,
) -> Results:
    """The branch that fits, where the other cannot be right: choosing that one is an error at run time, before anything
    of the branch is computed, as its shapes may be nonsense then."""
    problem = f"the condition must be {str(wanted).lower()}: with these shapes the other branch is wrong ({other})"
    captures: Mapping[Value, Input] = body.captures if isinstance(body, Body) else {}
    instead: dict[str, Item] = {}
    if captures:
        checked = ctx.build(Require, tuple(captures), condition, wanted, problem).results()
        known = dict(zip(captures, checked, strict=True))
        for (name,) in {i.origin for i in captures.values()}:
            instead[name] = mapped(ctx.scope.find(name), lambda v: known.get(v, v))
    found = ctx.scope.inline(graph, instead=instead)
    for name, value in zip(ctx.node.output, found, strict=False):
        try:
            if isinstance(value, Value):
                ctx.scope.check_declared(name, value)
        except ModelError as error:
            kinds = "then", "else"
            raise ctx.error(
                f"neither branch fits what the model declares: the {kinds[not wanted]}-branch, as {error.problem}, "
                f"the {kinds[wanted]}-branch, as {other}"
            ) from error
    tensors = tuple(v for item in found for v in tensors_of(item))
    renewed = dict(zip(tensors, ctx.build(Require, tensors, condition, wanted, problem).results(), strict=True))
    return tuple(mapped(item, renewed.__getitem__) for item in found)


@onnx_op("Loop")
def loop(ctx: Context) -> Results:
    trip, condition = ctx.optional(0), ctx.optional(1)
    graph = ctx.graph("body")
    trip = ctx.scalar(trip) if trip is not None else None
    if trip is not None and ctx.known(trip) == (ENDLESS,):
        trip = None
    starts = ctx.decided(condition) if condition is not None else True
    items = tuple(x for i in range(2, len(ctx.operands)) if (x := ctx.item(i)) is not None)
    if len(items) != len(ctx.operands[2:]):
        raise ctx.error("a carried value is left out", "run onnx.checker on the model")
    if len(graph.input) != 2 + len(items):
        raise ctx.error(
            f"the body {graph.name!r} has {len(graph.input)} inputs where the loop passes {2 + len(items)}: "
            f"iteration, condition and {len(items)} carried value(s)",
            "run onnx.checker on the model",
        )
    if not all(isinstance(x, Value) for x in items):
        known = ctx.known(trip) if trip is not None else None
        if trip is None or known is not None:
            found = unrolled(ctx, items, None if known is None else known[0], starts)
            if found is not None:
                return found
    return Iteration(ctx, graph, items).run(trip, None if starts else condition, starts)
