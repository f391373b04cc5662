"""What an example is, and the table of functions that make the examples of each operator.

A row of the table is a function that is given one version of an operator and the element types of its operands
(`Given`) and yields examples by name. Data depend on the operator and the name alone, so that the same example in the
spelling of another version has the same numbers: the newest spelling is what the oracle evaluates.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.fuzz.build import dtype_code, numpy_type

Array: TypeAlias = NDArray[Any]

FLOATS = ("float16", "float32", "float64", "bfloat16")
COMPLEX = ("complex64", "complex128")
NARROW_FLOATS = (
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn",
    "float6_e2m3fn", "float6_e3m2fn",
)  # fmt: skip
NARROW_INTEGERS = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}
SPELLINGS = {
    "float": "float32", "double": "float64", "float8e4m3fn": "float8_e4m3fn", "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2", "float8e5m2fnuz": "float8_e5m2fnuz", "float8e8m0": "float8_e8m0fnu",
    "float4e2m1": "float4_e2m1fn", "float6e2m3": "float6_e2m3fn", "float6e3m2": "float6_e3m2fn",
}  # fmt: skip
WORDS = np.array(["", "a", "b", "ab", "Zoë", "word", "-1.5", "7"], object)


@dataclass(frozen=True, eq=False)
class Const:
    """An operand that is an initialiser of the model."""

    array: Array


Operand: TypeAlias = "Array | Const | str | None"
"""Data of an input, a constant, the name of a result of an earlier node, or nothing."""


@dataclass(eq=False)
class Example:
    """A model in pieces: inputs and constants with their data, nodes, the names of the results that are outputs.

    `want`: what they must come to, where no oracle knows it.
    """

    variant: str
    inputs: dict[str, Array] = field(default_factory=dict[str, Array])
    constants: dict[str, Array] = field(default_factory=dict[str, Array])
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    outputs: list[str] = field(default_factory=list[str])
    want: tuple[Array, ...] | None = None

    def add(self, op: str, operands: Sequence[Operand], results: Sequence[str], **attributes: Any) -> list[str]:
        """Append a node; empty names in `results` are results left out."""
        names: list[str] = []
        for operand in operands:
            if isinstance(operand, str):
                names.append(operand)
                continue
            name = "" if operand is None else f"x{len(self.inputs) + len(self.constants)}"
            if isinstance(operand, Const):
                self.constants[name] = operand.array
            elif operand is not None:
                self.inputs[name] = np.asarray(operand)
            names.append(name)
        while names and not names[-1]:
            names.pop()
        self.nodes.append(helper.make_node(op, names, list(results), **attributes))
        return list(results)

    def prefixed(self, prefix: str) -> Example:
        """The same with names that begin with `prefix`."""

        def named(arrays: Mapping[str, Array]) -> dict[str, Array]:
            return {prefix + name: array for name, array in arrays.items()}

        nodes = [_prefixed(node, prefix) for node in self.nodes]
        outputs = [prefix + name for name in self.outputs]
        return Example(self.variant, named(self.inputs), named(self.constants), nodes, outputs, self.want)


def _prefixed(node: onnx.NodeProto, prefix: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for names in (copy.input, copy.output):
        names[:] = [name and prefix + name for name in names]
    for attribute in copy.attribute:
        if attribute.HasField("g"):
            graph = attribute.g
            bodies = [_prefixed(inner, prefix) for inner in graph.node]
            del graph.node[:]
            graph.node.extend(bodies)
            for info in (*graph.input, *graph.output):
                info.name = prefix + info.name
    return copy


@dataclass(frozen=True)
class Given:
    """One version of an operator, and element types by the schema's type parameters (numpy's and ml_dtypes' names)."""

    schema: onnx.defs.OpSchema
    types: Mapping[str, str]

    @property
    def op(self) -> str:
        """The operator's name."""
        return self.schema.name

    @property
    def since(self) -> int:
        """The version's first opset."""
        return self.schema.since_version

    def dtype(self, parameter: str) -> str:
        """The element type of a type parameter, or of a type as schemas spell it."""
        return self.types.get(parameter) or scalar_type(parameter) or parameter

    def rng(self, *key: object) -> np.random.Generator:
        """A generator of its own for the operator and `key`."""
        return np.random.default_rng(zlib.crc32(repr((self.op, *key)).encode()))

    def data(self, parameter: str, shape: Sequence[int], low: float = -2, high: float = 2, *, seed: int = 0) -> Array:
        """Numbers between `low` and `high` of any element type; words of strings."""
        return sample(self.dtype(parameter), shape, self.rng(tuple(shape), seed), low, high)

    def case(
        self,
        variant: str,
        *operands: Operand,
        results: Any = 1,
        want: Any = None,
        **attributes: Any,
    ) -> Example:
        """An example of one node. `results`: their number, or their names; `want`: a list of what they must be."""
        example = Example(variant, want=None if want is None else tuple(want))
        names: list[str] = [f"y{i}" for i in range(results)] if isinstance(results, int) else list(results)
        kept = {name: value for name, value in attributes.items() if value is not None}
        example.outputs = [name for name in example.add(self.op, operands, names, **kept) if name]
        return example

    def by_attribute(self, since: int, **values: Any) -> dict[str, Any]:
        """Attributes that became operands in version `since`: none from then on."""
        return {} if self.since >= since else values

    def by_operand(self, since: int, values: Any, dtype: str = "int64") -> Operand:
        """An operand that was an attribute before version `since`: nothing until then."""
        return Const(np.asarray(values, numpy_type(dtype))) if self.since >= since and values is not None else None


def scalar_type(text: str) -> str:
    """The element type in a type as schemas spell it, such as ``seq(tensor(float))``, by the name that numpy or
    ml_dtypes has for it; the empty string for types without one tensor."""
    inner = text.rpartition("tensor(")[2].rstrip(")")
    if "tensor(" not in text:
        return ""
    return SPELLINGS.get(inner, inner)


def sample(dtype: str, shape: Sequence[int], rng: np.random.Generator, low: float, high: float) -> Array:
    """Random elements of the type `dtype` between `low` and `high`, as far as it has such."""
    kind = numpy_type(dtype) if dtype != "string" else np.dtype(object)
    if dtype == "string":
        return np.asarray(rng.choice(WORDS, tuple(shape)), object)
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if dtype in COMPLEX:
        return np.asarray(rng.uniform(low, high, shape) + 1j * rng.uniform(low, high, shape)).astype(kind)
    if dtype in FLOATS or dtype in NARROW_FLOATS:
        return np.asarray(rng.uniform(low, high, shape)).astype(np.float32 if dtype != "float64" else kind).astype(kind)
    least, most = NARROW_INTEGERS[dtype] if dtype in NARROW_INTEGERS else limits(dtype)
    low, high = (low if low > 0 else -5, high if high not in (1, 2) else 5) if (low, high) == (-2, 2) else (low, high)
    bottom, top = int(max(np.ceil(low), least)), int(min(np.floor(high), most))
    return np.asarray(rng.integers(bottom, max(top, bottom), shape, endpoint=True)).astype(kind)


def bits(dtype: str) -> int:
    """The size of an element."""
    if dtype in NARROW_INTEGERS:
        return int(dtype[-1])
    return int(dtype[5]) if dtype in NARROW_FLOATS else 8 * numpy_type(dtype).itemsize


def limits(dtype: str) -> tuple[int, int]:
    """The least and the largest integer of a type."""
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def specials(dtype: str) -> Array:
    """The numbers of a type that are most often got wrong."""
    if dtype in FLOATS:
        numbers = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-3, 30.0, -30.0, 88.9, np.inf, -np.inf, np.nan]
        kind = numpy_type(dtype)
        info = {"float16": (65504.0, 6.1e-5), "float64": (1.79e308, 2.3e-308)}.get(dtype, (3.38e38, 1.2e-38))
        return np.array([*numbers, info[0], -info[0], info[1], -info[1]]).astype(kind)
    if dtype == "bool":
        return np.array([False, True])
    if dtype in NARROW_INTEGERS:
        low, high = NARROW_INTEGERS[dtype]
        return np.array([low, 0, 1, high]).astype(numpy_type(dtype))
    if dtype in NARROW_FLOATS:
        codes = np.arange(2 ** int(dtype[5]), dtype=np.uint8)
        return codes.view(numpy_type(dtype))
    if dtype == "string":
        return WORDS
    if dtype in COMPLEX:
        return np.array([0, 1j, -1, np.nan, np.inf]).astype(dtype)
    low, high = limits(dtype)
    return np.array([low, low + 1, 0, 1, 2, high - 1, high], dtype)


Row: TypeAlias = Callable[[Given], Iterator[Example]]
R = TypeVar("R", bound=Callable[..., Iterator[Example]])


@dataclass(frozen=True)
class Maker:
    """A row: `exact` results are compared bit by bit with what the oracle gives for the very types (movement, casts);
    others with what it gives in double precision. `product`: all pairs of types in the newest version."""

    make: Row
    exact: bool = False
    product: bool = False


class Table:
    """Rows by operator."""

    def __init__(self, tables: Iterable[Table] = ()) -> None:
        self.rows: dict[str, Maker] = {name: maker for table in tables for name, maker in table.rows.items()}

    def row(self, *names: str, exact: bool = False, product: bool = False) -> Callable[[R], R]:
        """Enter a function for these operators."""

        def enter(make: R) -> R:
            for name in names:
                self.rows[name] = Maker(make, exact, product)
            return make

        return enter


def value_infos(example: Example, opset: int) -> dict[str, onnx.ValueInfoProto]:
    """The types of inputs and outputs, the latter as ONNX infers them; without a type where it does not, or where that
    is not what the operator's schema says (for RMSNormalization the type of X, in the schema that of the scale)."""
    infos = {name: tensor_info(name, array) for name, array in example.inputs.items()}
    outputs = [onnx.ValueInfoProto(name=name) for name in example.outputs]
    graph = helper.make_graph(example.nodes, "case", list(infos.values()), outputs, initializers(example.constants))
    try:
        inferred = onnx.shape_inference.infer_shapes(as_model(graph, opset))
    except Exception:  # old versions and types that it does not know: the output stays open
        return infos | {o.name: o for o in outputs}
    found = infos | {o.name: o for o in inferred.graph.output}
    constants = {name: tensor_info(name, array) for name, array in example.constants.items()}
    codes = {name: info.type.tensor_type.elem_type for name, info in (found | constants).items()}
    for node in example.nodes:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        formals = zip(schema.inputs, node.input, strict=False)
        said = {each.type_str: codes[name] for each, name in formals if name in codes}
        for each, name in zip(schema.outputs, node.output, strict=False):
            if name in found and said.get(each.type_str, codes[name]) != codes[name]:
                found[name] = onnx.ValueInfoProto(name=name)
    return found


def tensor_info(name: str, array: Array) -> onnx.ValueInfoProto:
    """The type of an array."""
    code = onnx.TensorProto.STRING if array.dtype.hasobject else dtype_code(array.dtype.name)
    return helper.make_tensor_value_info(name, code, array.shape)


def initializers(arrays: Mapping[str, Array]) -> list[onnx.TensorProto]:
    """Constants of a model."""
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def as_model(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    """A model of one domain."""
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
