"""Smaller graphs: fewer outputs, nodes cut into inputs, nodes bypassed, branches put in the place of an If."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import onnx

from ingot.compiler.debug.reduction.case import Case, chunked, copied, infer, part
from ingot.compiler.frontend.topology import graphs_of, names_read, subgraphs


def fewer_outputs(case: Case) -> Generator[Case, bool, None]:
    """Without some of the outputs and what only they need."""

    def without(case: Case, names: Sequence[str]) -> Case | None:
        left = [name for name in _outputs(case) if name not in names]
        return part(case, left) if left else None

    yield from chunked(case, _outputs, without)


def earlier_output(case: Case) -> Generator[Case, bool, None]:
    """With one tensor inside as the only output, found by bisection over the nodes in their order."""
    low, high = 0, len(case.model.graph.node) - 1  # the tensor at `high` fails, the one at `low` may not
    while high - low > 1:
        middle = _narrow_place(case.model.graph.node, low + 1, high - 1)
        name = next((o for o in case.model.graph.node[middle].output if o), "")
        candidate = part(case, [name]) if name else None
        if candidate is not None and (yield candidate):
            case = candidate
            low, high = min(low, len(case.model.graph.node) - 1), len(case.model.graph.node) - 1
        else:
            low = middle


def later_inputs(case: Case) -> Generator[Case, bool, None]:
    """With all that the first nodes make as inputs, and so without these nodes, found by bisection over how many."""
    low, high = 0, len(case.model.graph.node)  # none can go, all cannot
    while high - low > 1:
        nodes = case.model.graph.node
        count = _narrow_place(nodes, low, high - 2) + 1
        candidate = part(case, cut=_crossing(nodes, count))
        if candidate is not None and len(candidate.model.graph.node) < len(nodes) and (yield candidate):
            case = candidate
            low, high = 0, high - (len(nodes) - len(case.model.graph.node))
        else:
            high = count


def _narrow_place(nodes: Sequence[onnx.NodeProto], low: int, high: int) -> int:
    """A node of low..high near the middle after which few tensors are still to be read: in a chain of layers the end of
    one, not a constant inside of it."""
    last_read = {name: index for index, node in enumerate(nodes) for name in names_read(node)}
    begins, ends = [0] * (len(nodes) + 1), [0] * (len(nodes) + 1)
    for index, node in enumerate(nodes):
        for name in node.output:
            if name and last_read.get(name, index) > index and node.op_type != "Constant":
                begins[index] += 1
                ends[last_read[name]] += 1
    middle, reach = (low + high) // 2, (high - low) // 4
    open_now, best = 0, (len(nodes) + 1, 0, middle)
    for index, node in enumerate(nodes):
        open_now += begins[index] - ends[index]
        inside = low <= index <= high and abs(index - middle) <= reach
        if inside and node.op_type not in ("Constant", "Shape"):
            best = min(best, (open_now, abs(index - middle), index))
    return best[2]


def fewer_nodes(case: Case) -> Generator[Case, bool, None]:
    """Without some nodes: what others read of them becomes inputs."""

    def without(case: Case, names: Sequence[str]) -> Case | None:
        gone = set(names)
        nodes = [n for n in case.model.graph.node if gone & set(n.output)]
        made = {o for n in nodes for o in n.output if o}
        read = {name for n in case.model.graph.node if not gone & set(n.output) for name in names_read(n)}
        outputs = [name for name in _outputs(case) if name not in made]
        return part(case, outputs, made & read) if outputs and made & read else None

    yield from chunked(case, _made, without)


def bypassed(case: Case) -> Generator[Case, bool, None]:
    """With an input of a node, of the type of its result, in the result's place; in sub-graphs too."""
    position = 0
    while position < sum(len(g.node) for g in graphs_of(case.model.graph)):
        for candidate in _bypasses(case, position):
            if (yield candidate):
                case = candidate
                break
        else:
            position += 1


def inlined(case: Case) -> Generator[Case, bool, None]:
    """With the nodes of a branch in the place of an If of the main graph."""
    position = 0
    while position < len(case.model.graph.node):
        for branch in subgraphs(case.model.graph.node[position]):
            candidate = _inline(case, position, branch)
            if candidate is not None and (yield candidate):
                case = candidate
                break
        else:
            position += 1


def _outputs(case: Case) -> list[str]:
    return [o.name for o in case.model.graph.output]


def _made(case: Case) -> list[str]:
    """The first output of each node of the main graph."""
    return [name for node in case.model.graph.node if (name := next((o for o in node.output if o), ""))]


def _crossing(nodes: Sequence[onnx.NodeProto], count: int) -> set[str]:
    """What the first `count` nodes make and others read."""
    made = {name for node in nodes[:count] for name in node.output if name}
    return made & {name for node in nodes[count:] for name in names_read(node)}


def _bypasses(case: Case, position: int) -> Generator[Case]:
    """The models in which node `position`, counted through all graphs, is bypassed."""
    types = dict(infer(case.model))
    for graph in graphs_of(case.model.graph):
        types |= {v.name: v for v in (*graph.input, *graph.value_info)}
    for tensor in (t for g in graphs_of(case.model.graph) for t in g.initializer):
        types[tensor.name] = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
    count = 0
    for number, graph in enumerate(graphs_of(case.model.graph)):
        if position >= count + len(graph.node):
            count += len(graph.node)
            continue
        node = graph.node[position - count]
        for target in dict.fromkeys(name for name in node.input if name):
            if len(node.output) != 1 or target not in types:
                return
            result = types.get(node.output[0])
            if result is not None and result.type != types[target].type:
                continue
            candidate = _bypass(case, number, position - count, target)
            if candidate is not None:
                yield candidate
        return


def _bypass(case: Case, number: int, index: int, target: str) -> Case | None:
    """`case` with node `index` of graph `number` gone and `target` read in its place."""
    model = copied(case.model)
    graph = list(graphs_of(model.graph))[number]
    gone = graph.node[index].output[0]
    if target in {o.name for o in graph.output} and gone in {o.name for o in graph.output}:
        return None
    del graph.node[index]
    if gone in {o.name for o in graph.output}:
        made_here = any(target in node.output for node in graph.node)
        if not made_here:  # an output must be made by a node
            return None
        _rename(graph, target, gone)
    else:
        _rename(graph, gone, target)
    return part(Case(model, case.data))


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """`new` for `old` wherever a node reads or makes it, and among the outputs."""
    for inner in graphs_of(graph):
        for node in inner.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new
        for output in inner.output:
            if output.name == old:
                output.name = new
    kept = [v for v in graph.value_info if v.name not in (old, new)]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _inline(case: Case, position: int, branch: onnx.GraphProto) -> Case | None:
    node = case.model.graph.node[position]
    if node.op_type != "If" or len(branch.output) != len(node.output):
        return None
    model = copied(case.model)
    graph = model.graph
    body = onnx.GraphProto()
    body.CopyFrom(branch)
    taken = {o for n in graph.node for o in n.output} | {i.name for i in graph.input}
    made = {o for n in body.node for o in n.output if o}
    if (made | {t.name for t in body.initializer}) & taken:
        return None
    for old, new in zip([o.name for o in body.output], node.output, strict=True):
        if new and old not in made:
            return None
        if new:
            _rename(body, old, new)
    others = [n for i, n in enumerate(graph.node) if i != position]
    del graph.node[:]
    graph.node.extend((*others[:position], *body.node, *others[position:]))
    graph.initializer.extend(body.initializer)
    return part(Case(model, case.data))
