"""`load_onnx`: from an ONNX model to a typed graph with symbolic shapes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import onnx

from ingot.compiler.frontend.assumptions import Assumptions, Refinement
from ingot.compiler.frontend.dispatch import Dispatch, Functions
from ingot.compiler.frontend.errors import ModelError, ModelWarning, UnsupportedError
from ingot.compiler.frontend.functions import domain_of, opsets_of
from ingot.compiler.frontend.importer import Importer
from ingot.compiler.frontend.mapping import map_file
from ingot.compiler.frontend.nodes import GraphImport
from ingot.compiler.frontend.operators import TABLE
from ingot.compiler.frontend.operators.custom import with_custom
from ingot.compiler.frontend.refusals import Refusals
from ingot.compiler.frontend.signature import Ranges, Shapes, Signature, read_signature
from ingot.compiler.frontend.support import Survey, require_small_calls
from ingot.compiler.frontend.table import Table
from ingot.compiler.frontend.topology import own_names, require_text
from ingot.compiler.frontend.weights import ModelData, open_model
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Graph, Input, Value, topological
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.ops.custom import CustomOp
from ingot.runtime.manifest import MAX_NAME, MAX_RANK, MAX_SYMBOL

Source: TypeAlias = "str | Path | bytes | onnx.ModelProto | Any"

MAX_BYTES = 2**62  # of one tensor
REFINEMENTS_BEHIND = 4  # attempts to find more that is not supported
REFINEMENTS = 256  # each one relates two dims or bounds one; a model has only so many


def load_onnx(
    model: Source,
    *,
    shapes: Shapes | None = None,
    ranges: Ranges | None = None,
    custom: Iterable[CustomOp] = (),
    watch: bool = False,
) -> Graph:
    """Import a model: a path, serialised bytes, an `onnx.ModelProto` or an `onnx_graphsurgeon.Graph`.

    Weights of a model given as a path are memory-mapped, never copied, so models beyond 2 GB work. Dims that the model
    leaves open are symbols: its dim_params as identifiers, unnamed ones as ``<input>_d<axis>``. `shapes` pins or
    renames dims by input, ``{"x": (1, 3, "height", "width")}``; `ranges` bounds symbols, both ends included,
    ``{"batch": (1, 64)}``. Where the model only makes sense if dims are equal or bounded (an unnamed dim concatenated
    with another, a sequence that indexes a table of positions), the result's types and `ranges` say so.

    Outputs that are sequences are given element by element, ``name[0]``, ``name[1]``; where their length depends on
    data as ``name/data`` (the elements' data in a list) and ``name/shapes`` (i64, a row of rank and extents for each).
    ``name/present`` says whether an optional is there, where that depends on data. Initialisers that are also inputs
    are constants. Nodes that no output needs are left out. Every node's `origin` is the name of the ONNX node, or
    ``<operator>:<first output>`` where it has none.

    `custom` are operators of the user's own, found by domain and name; the model's own functions come before them.

    With `watch` the result's `watched` has the value of every tensor of the main graph by name.

    Raises `UnsupportedError` listing all operators that are not supported, `ModelError` when the model is malformed,
    contradicts itself or contradicts `shapes` and `ranges`, and `CustomOpError` for custom operators that clash.
    """
    table = with_custom(TABLE, custom)
    opened = _open(model)
    try:
        graph = _import(opened, table, shapes or {}, ranges or {})
        return graph if watch else replace(graph, watched={})
    except ModelError as error:
        raise error.at(file=opened.name) from error.__cause__
    except IrError as error:
        raise ModelError(str(error), file=opened.name) from error


def _open(model: Source) -> ModelData:
    if isinstance(model, str | Path):
        path = Path(model)
        if not path.is_file():
            raise ModelError(f"there is no file {str(path)!r}", remedy="check the path of the model")
        return open_model(map_file(path), str(path), path.parent)
    if isinstance(model, bytes):
        return open_model(memoryview(model), None, None)
    if isinstance(model, onnx.ModelProto):
        return ModelData(model)
    if type(model).__module__.startswith("onnx_graphsurgeon."):
        import onnx_graphsurgeon

        return ModelData(onnx_graphsurgeon.export_onnx(model))
    raise TypeError(
        f"load_onnx takes a path, bytes, onnx.ModelProto or onnx_graphsurgeon.Graph, not {type(model).__name__}"
    )


def _import(model: ModelData, table: Table, shapes: Shapes, ranges: Ranges) -> Graph:
    proto = model.proto
    require_text(proto)
    opsets = _opsets(proto)
    graph = proto.graph
    if not graph.output:
        raise ModelError("the graph has no outputs", remedy="this is not an ONNX model, or its outputs were removed")
    outputs = [o.name for o in graph.output]
    if len(set(outputs)) != len(outputs):
        twice = next(n for n in outputs if outputs.count(n) > 1)
        raise ModelError(f"two outputs are named {twice!r}", remedy="names must be unique: run onnx.checker")
    functions = _functions(proto)
    require_small_calls(graph.node, functions)
    signature = read_signature(graph, shapes, ranges)
    dispatch = Dispatch(table, functions)
    refusals = Refusals(Survey(dispatch).unknown(graph.node, outputs, own_names(graph), opsets))
    assumptions, behind = signature.assumptions, 0
    for _ in range(REFINEMENTS):
        try:
            found = _attempt(model, dispatch, opsets, signature, assumptions, refusals)
        except Refinement as refinement:
            assumptions = refinement.assumptions
            behind += bool(refusals)
            if behind > REFINEMENTS_BEHIND:
                break
            continue
        except ModelError:
            if refusals:
                break
            raise
        if refusals:
            break
        return found
    if refusals:
        raise refusals.error(table.domains(), opsets)
    raise ModelError(f"the dims of the model are still unrelated after {REFINEMENTS} attempts", remedy="pass shapes")


def _attempt(
    model: ModelData,
    dispatch: Dispatch,
    opsets: Mapping[str, int],
    signature: Signature,
    assumptions: Assumptions,
    refusals: Refusals,
) -> Graph:
    """One import under fixed assumptions; Refinement when they do not suffice. What it returns is nonsense where it
    adds to `refusals`."""
    graph = model.proto.graph
    importer = Importer(model, signature.symbols, assumptions, refusals)
    inputs: list[Input] = []
    for name, declared in signature.inputs:
        shape = tuple(assumptions.resolve(d) for d in declared.shape)
        inputs.append(Input(name, TensorType(declared.dtype, shape), origin=(name,)))
    importer.told = frozenset(s for i in inputs for d in i.shape for s in dims.symbols(d))

    def whole() -> tuple[GraphImport, tuple[tuple[str, Value], ...]]:
        scope = GraphImport(importer, opsets, dispatch=dispatch)
        return scope, scope.run(graph, {i.label: i for i in inputs})

    scope, outputs = importer.settled(whole)
    if not outputs:
        raise UnsupportedError("all outputs of the model are empty", remedy="it computes nothing")
    if importer.narrowed:
        raise Refinement(replace(assumptions, ranges={**assumptions.ranges, **importer.narrowed}))
    bound = scope.sizes.bound
    assumptions = importer.assumptions
    _require_storable(inputs, outputs)
    present = importer.told | bound.keys()
    ranges = {name: bounds for name, bounds in assumptions.ranges.items() if name in present}
    _require_addressable((*(v for _, v in outputs), *bound.values()), bound, ranges)
    watched = {name: value for name, value in scope.values.items() if isinstance(value, Value)}
    if not refusals:
        for message in importer.ignored:
            warnings.warn(message, ModelWarning, stacklevel=2)
    return Graph(tuple(inputs), outputs, graph.name or "main", ranges, bound, watched)


def _require_storable(inputs: Sequence[Input], outputs: Sequence[tuple[str, Value]]) -> None:
    """What an artifact has no room for is refused now, not when all work is done."""
    for name, value in (*((i.label, i) for i in inputs), *outputs):
        short = f"{name[:40]}..." if len(name) > 40 else name
        if len(name) > MAX_NAME:
            raise ModelError(
                f"the name {short!r} of an input or output has {len(name)} characters", remedy=f"at most {MAX_NAME}"
            )
        if value.rank > MAX_RANK:
            raise ModelError(f"{short!r} has {value.rank} axes", remedy=f"an input or output has at most {MAX_RANK}")
    for symbol in sorted({s for i in inputs for d in i.shape for s in dims.symbols(d)}):
        if len(symbol) > MAX_SYMBOL:
            raise ModelError(
                f"the symbolic dim {symbol[:40] + '...'!r} has a name of {len(symbol)} characters",
                remedy=f"at most {MAX_SYMBOL}; rename it with shapes",
            )


def _require_addressable(roots: Iterable[Value], bound: Mapping[str, Value], ranges: Ranges) -> None:
    """Sizes beyond 64 bits have no meaning later on: symbols at their least, but at least 1, must give others."""
    known: dict[str, int] = {}
    for node in topological(roots, bound):
        for kind in node.types:
            for symbol in {s for d in kind.shape for s in dims.symbols(d)} - known.keys():
                low, high = ranges.get(symbol, (0, dims.UNBOUNDED))
                known[symbol] = min(max(low, 1), high)
            largest = max((dims.largest_constant(d) for d in kind.shape), default=0)
            try:
                extents = [abs(dims.evaluate(d, known)) for d in kind.shape]
            except ZeroDivisionError:
                extents = []
            if max((math.prod(extents) * kind.dtype.bits // 8, *extents, largest)) > MAX_BYTES:
                names = ", ".join(map(repr, node.origin)) or "the model"
                raise ModelError(
                    f"{names} makes {kind}, which no memory holds",
                    remedy="correct the sizes, or give others with shapes",
                )


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    if proto.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"the model has IR version {proto.ir_version}, the newest known is {onnx.IR_VERSION}",
            remedy="upgrade the onnx package or export the model for an older version",
        )
    if not proto.HasField("graph"):
        raise ModelError("there is no graph in the model", remedy="this is not an ONNX model")
    opsets = opsets_of(proto.opset_import)
    if "" not in opsets:
        if any(domain_of(node.domain) == "" for node in proto.graph.node) and proto.ir_version >= 3:
            raise ModelError("the model does not say which opset its operators have", remedy="add an opset import")
        opsets[""] = 1
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opsets[""] <= newest:
        raise ModelError(
            f"the model has opset {opsets['']}, opsets 1 to {newest} are known",
            remedy="upgrade the onnx package or convert the model with onnx.version_converter",
        )
    return opsets


def _functions(proto: onnx.ModelProto) -> Functions:
    found: dict[tuple[str, str, str], onnx.FunctionProto] = {}
    for function in proto.functions:
        key = (domain_of(function.domain), function.name, function.overload)
        if key in found:
            raise ModelError(f"two functions are named {function.domain}.{function.name}")
        found[key] = function
    return found
