"""The same model by another way: each must give what the model itself gives, by the interpreter's word.

A model that goes through a detour shows faults in what the oracles never see: the exporter, the text form, functions,
the forms that operators had in older opsets, and the operators of ONNX Runtime's own domain, which its optimiser makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from benchmarks.fuzz.build import Array
from ingot.compiler import load_onnx
from ingot.compiler.frontend.export import ExportError, export_onnx
from ingot.compiler.frontend.topology import graphs_of, names_read
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.text.graph import parse_graph, show_graph
from ingot.compiler.passes.default import default_pipeline

NEWEST_OF_RUNTIME = 26
"""The newest opset that ONNX Runtime takes; models of later ones are shown to it as if they were of this."""

OLDER: Mapping[int, Mapping[str, Mapping[str, type]]] = {
    12: {
        **{name: {"axes": list} for name in ("Squeeze", "Unsqueeze", "ReduceSum")},
        "Split": {"split": list},
    },
    10: {"Pad": {"pads": list, "value": float}, "Clip": {"min": float, "max": float}},
    9: {"Slice": {"starts": list, "ends": list, "axes": list, "steps": list}, "TopK": {"k": int}},
}
"""Attributes in the place of operands behind the first, and the newest opset that has them."""

NEWEST_WITH_OLDER = 17
"""The newest opset whose other operators mean the same in old ones, where those have them."""

CHANGED = ("Softmax", "LogSoftmax", "Hardmax", "Resize", "BatchNormalization")
"""Operators that meant something else before opset 13, or have operands in another order."""

DOMAIN = "fuzz.functions"

Detour = Callable[[Path, Graph, np.random.Generator], Graph | None]


def exported(path: Path, graph: Graph, rng: np.random.Generator) -> Graph | None:
    """Written as ONNX in a newer opset or the model's own, before the passes or after them, and read again."""
    have = onnx.load(path, load_external_data=False).opset_import[0].version
    opset = int(rng.choice([have, onnx.defs.onnx_opset_version()]))
    graph = default_pipeline().run(graph) if rng.random() < 0.5 else graph
    try:
        model = export_onnx(graph, opset=opset, functions=bool(rng.random() < 0.5))
    except ExportError:  # the opset lacks an operator
        return None
    onnx.checker.check_model(model, full_check=True)
    return load_onnx(model)


def printed(path: Path, graph: Graph, rng: np.random.Generator) -> Graph | None:
    """As text, before the passes or after them, and read again."""
    graph = default_pipeline().run(graph) if rng.random() < 0.5 else graph
    resources: dict[str, Array] = {}
    text = show_graph(graph, resources)
    read = parse_graph(text, resources)
    again = show_graph(read, {})
    assert again == text, f"the text changes:\n{text}\n{again}"
    return read


def optimised(path: Path, graph: Graph, rng: np.random.Generator) -> Graph | None:
    """As ONNX Runtime's optimiser leaves it, without what depends on the processor."""
    model, written = onnx.load(path), path.with_suffix(".optimised.onnx")
    if any(a.type == a.SPARSE_TENSOR for g in graphs_of(model.graph) for node in g.node for a in node.attribute):
        return None  # whose positions it writes as i8, against the standard
    if gathers_strings(model) or steps_follow(model):
        return None
    for opset in model.opset_import:
        opset.version = min(opset.version, NEWEST_OF_RUNTIME)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(written)
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return None
    return load_onnx(written)


def gathers_strings(model: onnx.ModelProto) -> bool:
    """Whether there is a Gather of strings, which ONNX Runtime has wrong: of each row it gives the first alone."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {info.name: info.type.tensor_type.elem_type for info in (*inferred.value_info, *inferred.output)}
    kinds |= {tensor.name: tensor.data_type for graph in graphs_of(model.graph) for tensor in graph.initializer}
    nodes = (node for graph in graphs_of(model.graph) for node in graph.node if node.op_type == "Gather")
    return any(kinds.get(node.input[0]) == onnx.TensorProto.STRING for node in nodes)


def steps_follow(model: onnx.ModelProto) -> bool:
    """Whether what was quantised is quantised again: ONNX Runtime makes one rounding of the two, with other results."""
    made = {name: node for g in graphs_of(model.graph) for node in g.node for name in node.output}
    again = (made.get(node.input[0]) for node in made.values() if node.op_type == "QuantizeLinear")
    return any(node is not None and node.op_type == "DequantizeLinear" for node in again)


def older(path: Path, graph: Graph, rng: np.random.Generator) -> Graph | None:
    """In the form that the model had in an opset before 13, where that has the same operators."""
    model, opset = onnx.load(path), int(rng.choice([9, 10, 11, 12]))
    if model.opset_import[0].version > NEWEST_WITH_OLDER:
        return None
    forms = {op: names for newest, table in OLDER.items() if opset <= newest for op, names in table.items()}
    constants = {t.name: numpy_helper.to_array(t) for g in graphs_of(model.graph) for t in g.initializer}
    nodes = [node for g in graphs_of(model.graph) for node in g.node]
    for node in nodes:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for node in nodes:
        if node.op_type in CHANGED:
            return None
        if node.op_type in forms and not _with_attributes(node, forms[node.op_type], constants):
            return None
    model.opset_import[0].version = opset
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:  # an operator or an element type that the opset has not yet
        return None
    return load_onnx(model)


def _with_attributes(node: onnx.NodeProto, names: Mapping[str, type], constants: Mapping[str, Array]) -> bool:
    """Give `node` attributes for its operands, if those are constants that attributes can hold."""
    given = [*node.input[1:]]
    for name, (attribute, kind) in zip(given, names.items(), strict=False):
        if not name:
            continue
        array = constants.get(name)
        if array is None or not array.size or (attribute == "steps" and (array != 1).any()):
            return False
        if kind is float and array.dtype != np.float32:
            return False
        if attribute != "steps":
            value = [int(n) for n in array] if kind is list else kind(array.item())
            node.attribute.append(helper.make_attribute(attribute, value))
    del node.input[1:]
    return True


def enclosed(path: Path, graph: Graph, rng: np.random.Generator) -> Graph | None:
    """With some of its nodes in functions of the model, which call each other."""
    model = onnx.load(path)
    for number in range(int(rng.integers(1, 4))):
        if model.graph.node:
            _enclose(model, rng, f"f{number}")
    onnx.checker.check_model(model)
    return load_onnx(model)


def _enclose(model: onnx.ModelProto, rng: np.random.Generator, name: str) -> None:
    """Nodes that follow each other become a function, an attribute of one of them its attribute."""
    nodes = list(model.graph.node)
    first = int(rng.integers(len(nodes)))
    body = nodes[first : first + int(rng.integers(1, 6))]
    rest = nodes[first + len(body) :]
    made = [output for node in body for output in node.output if output]
    after = {n for node in rest for n in names_read(node)} | {o.name for o in model.graph.output}
    results = [output for output in made if output in after]
    operands = sorted({n for node in body for n in names_read(node)} - set(made))
    if not results:
        return
    call = helper.make_node(name, operands, results, domain=DOMAIN, name=f"call_{name}")
    parameters: list[str] = []
    for node in body:
        simple = [a for a in node.attribute if a.type in (a.INT, a.FLOAT, a.INTS, a.STRING) and not a.ref_attr_name]
        if simple and rng.random() < 0.5:
            attribute = simple[int(rng.integers(len(simple)))]
            parameter = f"p{len(parameters)}"
            given = onnx.AttributeProto()
            given.CopyFrom(attribute)
            given.name = parameter
            call.attribute.append(given)
            reference = onnx.AttributeProto(name=attribute.name, type=attribute.type, ref_attr_name=parameter)
            attribute.CopyFrom(reference)
            parameters.append(parameter)
    if DOMAIN not in {o.domain for o in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.functions.append(
        helper.make_function(DOMAIN, name, operands, results, body, list(model.opset_import), parameters)
    )
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:first], call, *rest])


DETOURS: tuple[Detour, ...] = (exported, printed, optimised, older, enclosed)
FOREIGN_DETOURS = (optimised,)
"""Those on which other engines have a hand in what the model gives."""
