"""Graphs as short lists of what will run: one entry a kernel, pointwise chains as expressions, no names, no weights.

    k1 = gelu(matmul(x, c[16, 24]) + c[24])                          : f32[batch, tokens, 24]
    v2 = transpose(reshape(k1), 0 2 1 3)                             : f32[batch, 2, tokens, 12]

``k`` entries are computed, ``v`` entries only look at other values' elements in another order. ``c`` are constants;
those of one element stand as their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ingot.compiler.ir.dims import show
from ingot.compiler.ir.graph import OPS, Constant, Graph, Input, Node, Value, fields_of, operands_of
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Program
from ingot.compiler.ops import movement
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.pointwise import Add, Cast, Div, Mul, Pointwise, Sub
from ingot.compiler.ops.reduction import Reduction

VIEWS = (movement.Reshape, movement.Transpose, movement.Expand, movement.Slice, movement.Split)
SIGNS: Mapping[type[Node], str] = {Add: "+", Sub: "-", Mul: "*", Div: "/"}
WIDTH = 100


def listing(graph: Graph) -> str:
    """`graph` after fusion as text."""
    names: dict[Value, str] = {x: x.label for x in graph.inputs}
    lines = [f"{x.label} : {x.type}" for x in graph.inputs]
    count = 0
    for node in graph.nodes():
        if isinstance(node, Input | Constant):
            continue
        count += 1
        stem = f"{'v' if isinstance(node, VIEWS) else 'k'}{count}"
        several = len(node.types) > 1
        for i, value in enumerate(node.results()):
            names[value] = f"{stem}.{i}" if several else stem
        body = _group(node, names) if isinstance(node, Fused) else [(stem, _call(node, names.__getitem__))]
        for i, (name, text) in enumerate(body):
            last = i == len(body) - 1
            head = f"{stem if last and not several else name} = {text}"
            lines.append(f"{head} : {', '.join(map(str, node.types))}" if last else f"  {head}")
    results = ", ".join(names.get(v) or _operand(v, names.__getitem__) for v in graph.results)
    return "\n".join([*lines, f"-> {results}"]) + "\n"


def _group(node: Fused, names: Mapping[Value, str]) -> list[tuple[str, str]]:
    """The assignments of a group: values that are read once stand within the expression that reads them."""
    uses = node.body.uses()
    texts: dict[Value, str] = {
        x: names.get(o) or _operand(o, names.__getitem__) for x, o in zip(node.body.inputs, node.operands, strict=True)
    }
    result = {v: i for i, v in enumerate(node.body.results)}
    found: list[tuple[str, str]] = []
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    for inner in node.body.nodes():
        if isinstance(inner, Input | Constant):
            continue
        text = _call(inner, texts.__getitem__)
        if inner in result:
            own = names[node.result(result[inner])]
            texts[inner] = own
            found.append((own, text))
        elif uses.get(inner, 0) == 1:
            texts[inner] = f"({text})" if type(inner) in SIGNS else text
        else:
            texts[inner] = next(letters)
            found.append((texts[inner], text))
    return found


def _operand(value: Value, name: Callable[[Value], str]) -> str:
    if not isinstance(value, Constant):
        return name(value)
    if value.data.size == 1 and value.rank == 0:
        number: Any = value.data.item() if value.data.dtype.kind in "fiub" else float(value.data)
        return f"{number:.7g}" if isinstance(number, float) else str(number)
    return f"c{list(value.data.shape)}"


def _call(node: Node, name: Callable[[Value], str]) -> str:
    operands = [_operand(v, name) for v in operands_of(node)]
    sign = SIGNS.get(type(node))
    if sign is not None:
        return f"{operands[0]} {sign} {operands[1]}"
    return f"{node.name}({', '.join([*operands, *_attributes(node)])})"


def _attributes(node: Node) -> list[str]:
    match node:
        case movement.Reshape() | movement.Expand():
            return []
        case movement.Transpose(perm=perm):
            return [" ".join(map(str, perm))]
        case movement.Slice(x=x, starts=starts, sizes=sizes, steps=steps):
            cut = [a for a in range(x.rank) if (starts[a], sizes[a], steps[a]) != (0, x.shape[a], 1)]
            return [f"axis {a} from {show(starts[a])} by {steps[a]}" for a in cut]
        case Cast(to=to):
            return [str(to)]
        case _:
            pass
    found: list[str] = []
    for f in fields_of(node):
        item = getattr(node, f.name)
        if (
            isinstance(item, Value | Graph)
            or item is None
            or (isinstance(item, tuple) and any(isinstance(x, Value) for x in item))
        ):
            continue
        if item is False or item in ((), "none") or f.name == "keepdims":
            continue
        found.append(f.name if item is True else f"{f.name}={_shown(item)}")
    return found


def _shown(item: Any) -> str:
    if isinstance(item, tuple):
        return " ".join(_shown(x) for x in item)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(item, float):
        return f"{item:.7g}"
    return str(item)


def launches(program: Program) -> str:
    """How many kernels of what kind a program launches, as ``attention, contraction x3, copy``."""
    names = [_kind(launch.kernel) for launch in program.launches()]
    counts = sorted((name, names.count(name)) for name in set(names))
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in counts) or "none"


def _kind(kernel: Kernel) -> str:
    if not isinstance(kernel.body, tuple):
        return type(kernel.body).__name__.lower()
    stem = kernel.name.rstrip("0123456789").rstrip("_")
    return "fused" if stem in OPS and issubclass(OPS[stem], Pointwise | Reduction) else stem
