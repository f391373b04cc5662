"""ONNX's backend interface (``onnx.backend.base``): models compiled to native code for this machine.

    import ingot.compiler.onnx_backend as backend
    backend.prepare(model).run([x])
    onnx.backend.test.BackendTest(backend.IngotBackend, __name__)

A compiled model takes and gives tensors. Sequences and optionals at its border are taken apart here: a model with such
inputs is compiled again for each number of elements that it is called with, one whose inputs have no declared rank for
each set of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.backend.base import Backend, BackendRep

from ingot.compiler.api import compile
from ingot.compiler.frontend.errors import UnsupportedError
from ingot.runtime import Session

Array: TypeAlias = NDArray[Any]
Item: TypeAlias = "Array | list[Item] | None"
"""What a model takes or gives: a tensor, a sequence, an optional's content or its absence."""


def elements_of(item: Any) -> list[Any] | None:
    """The elements of an ONNX sequence; None of anything else."""
    return list(cast("Sequence[Any]", item)) if isinstance(item, list | tuple) else None


def flat(item: Any, name: str) -> dict[str, Array]:
    """The tensors in `item` by name: ``name`` itself, or ``name[0]``, ``name[1]``, ... of a sequence; none of an empty
    optional."""
    if item is None:
        return {}
    if (parts := elements_of(item)) is not None:
        return {key: array for i, part in enumerate(parts) for key, array in flat(part, f"{name}[{i}]").items()}
    return {name: np.asarray(item)}


def restored(kind: onnx.TypeProto, arrays: Mapping[str, Array], name: str) -> Item:
    """The item of type `kind` whose tensors `flat` would have named so, or which the importer lists as a sequence or
    optional that depends on data (see `load_onnx`). An optional that holds an empty sequence is taken for an empty one.
    """
    match kind.WhichOneof("value"):
        case "sequence_type" if f"{name}/shapes" in arrays:
            return ragged(arrays[f"{name}/data"], arrays[f"{name}/shapes"])
        case "sequence_type":
            items: list[Item] = []
            while any(key.startswith(f"{name}[{len(items)}]") for key in arrays):
                items.append(restored(kind.sequence_type.elem_type, arrays, f"{name}[{len(items)}]"))
            return items
        case "optional_type":
            inner = kind.optional_type.elem_type
            present = any(key == name or key.startswith((f"{name}[", f"{name}/")) for key in arrays)
            counts = bool(arrays[f"{name}/present"]) if f"{name}/present" in arrays else present
            return restored(inner, arrays, name) if counts else None
        case _:
            return arrays[name]


def ragged(data: Array, shapes: Array) -> list[Item]:
    """The elements of a sequence whose length depended on data: their elements in a list, and for each of them its rank
    and its extents."""
    found: list[Item] = []
    start = 0
    for rank, *extents in shapes.tolist():
        size = math.prod(extents[:rank])
        found.append(data[start : start + size].reshape(extents[:rank]))
        start += size
    return found


def content(name: str) -> str:
    """What the tensors of the input `name` are called after, where it is a sequence or an optional."""
    return f"{name}/content"


def with_tensor_inputs(model: onnx.ModelProto, inputs: Mapping[str, Any]) -> onnx.ModelProto:
    """The model with nodes that make its sequences and optionals from inputs that are tensors, as many and of the types
    as `inputs` has, named as `flat` does for the name ``NAME/content``."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.input[:], changed.graph.node[:]
    for declared in model.graph.input:
        if declared.type.WhichOneof("value") in (None, "tensor_type") or declared.name not in inputs:
            changed.graph.input.append(declared)
            continue
        _construct(changed.graph, declared.type, inputs[declared.name], content(declared.name), declared.name)
    changed.graph.node.extend(model.graph.node)
    return changed


def _construct(graph: onnx.GraphProto, kind: onnx.TypeProto, item: Any, label: str, wish: str | None) -> str:
    """Append to `graph` what makes `item`, whose tensors are called after `label`; the name of the result, `wish` if
    there is one."""
    match kind.WhichOneof("value"):
        case "sequence_type":
            inner = kind.sequence_type.elem_type
            parts = [_construct(graph, inner, part, f"{label}[{i}]", None) for i, part in enumerate(item)]
            if parts:
                made = helper.make_node("SequenceConstruct", parts, [wish or f"{label}/sequence"])
            else:
                dtype = inner.tensor_type.elem_type
                made = helper.make_node("SequenceEmpty", [], [wish or f"{label}/sequence"], dtype=dtype)
        case "optional_type":
            inner = kind.optional_type.elem_type
            parts = [] if item is None else [_construct(graph, inner, item, label, None)]
            made = helper.make_node("Optional", parts, [wish or f"{label}/optional"])
            if not parts:
                made.attribute.append(helper.make_attribute("type", inner))
        case _:
            array = np.asarray(item)
            code = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(helper.make_tensor_value_info(label, code, array.shape))
            return label
    graph.node.append(made)
    return made.output[0]


def named(inputs: Any, names: Sequence[str]) -> dict[str, Any]:
    """`inputs` by name: a mapping, a sequence in the order of `names`, or the only one; ValueError when their number is
    another."""
    if isinstance(inputs, Mapping):
        return dict(cast("Mapping[str, Any]", inputs))
    listed = elements_of(inputs)
    if listed is None:
        listed = [inputs]
    if len(listed) != len(names):
        raise ValueError(f"{len(listed)} inputs are given, {len(names)} are needed: {', '.join(names) or 'none'}")
    return dict(zip(names, listed, strict=True))


def structure(item: Any) -> Any:
    """What distinguishes the items that need code of their own: presence, number, element type and shape."""
    if item is None:
        return None
    if (parts := elements_of(item)) is not None:
        return tuple(structure(part) for part in parts)
    array = np.asarray(item)
    return array.dtype.name, array.shape


def type_of(item: Any) -> onnx.TypeProto:
    """The ONNX type of a tensor or of a sequence of them; ValueError for what has none."""
    if (parts := elements_of(item)) is not None:
        if not parts:
            raise ValueError("an empty sequence has no type; make a model that declares it")
        code = type_of(parts[0]).tensor_type.elem_type
        return helper.make_sequence_type_proto(helper.make_tensor_type_proto(code, None))
    if item is None:
        raise ValueError("an empty optional has no type; make a model that declares it")
    array = np.asarray(item)
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


@dataclass
class Prepared(BackendRep):
    """A model that can be run. What it takes and gives is in the order of the ONNX graph, initialisers left out.

    Raises ModelError when the model is not supported.
    """

    model: onnx.ModelProto
    target: str = "native"
    threads: int | None = 1
    cache: bool = True
    _sessions: dict[Any, Session] = field(default_factory=dict[Any, Session], init=False, repr=False)

    def __post_init__(self) -> None:
        initialised = {t.name for t in self.model.graph.initializer}
        initialised |= {t.values.name for t in self.model.graph.sparse_initializer}
        self._inputs = {i.name: i.type for i in self.model.graph.input if i.name not in initialised}
        tensors = {n: kind for n, kind in self._inputs.items() if kind.WhichOneof("value") in (None, "tensor_type")}
        self._unranked = {name for name, kind in tensors.items() if not kind.tensor_type.HasField("shape")}
        self._tensors = frozenset(tensors)
        self._fixed = self._tensors - self._unranked
        self._is_structured = len(tensors) < len(self._inputs)
        if len(self._fixed) == len(self._inputs):
            self._session({})

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for `inputs`: a sequence in order, a mapping by name, or the only one. No option is known;
        `kwargs` are those of the interface.

        Raises what `Session.run` raises; ValueError when there are too many or too few inputs.
        """
        given = self._by_name(inputs)
        arrays: dict[str, Array] = {}
        for name, item in given.items():
            arrays |= flat(item, name if name in self._tensors else content(name))
        session = self._session(given)
        found = session.run({info.name: arrays[info.name] for info in session.inputs})
        return tuple(restored(output.type, found, output.name) for output in self.model.graph.output)

    def close(self) -> None:
        """Let the compiled code go."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _by_name(self, inputs: Any) -> dict[str, Any]:
        given = named(inputs, list(self._inputs))
        if given.keys() != self._inputs.keys():
            raise ValueError(f"the inputs given are {sorted(given)}, the model takes {sorted(self._inputs)}")
        return given

    def _session(self, given: Mapping[str, Any]) -> Session:
        """The code for inputs that are made like `given`."""
        key = tuple((name, structure(item)) for name, item in given.items() if name not in self._fixed)
        if key not in self._sessions:
            model = with_tensor_inputs(self.model, given) if self._is_structured else self.model
            shapes = {name: np.shape(given[name]) for name in self._unranked}
            artifact = compile(model, target=self.target, shapes=shapes, jobs=1, cache=self.cache)
            self._sessions[key] = artifact.session(threads=self.threads)
        return self._sessions[key]


class IngotBackend(Backend):
    """The interface as ONNX's test runner takes it."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether all operators and types of the model are supported."""
        try:
            cls.prepare(model, device).close()
        except UnsupportedError:
            return False
        return True

    @classmethod
    def prepare(
        cls,
        model: onnx.ModelProto,
        device: str = "CPU",
        *,
        target: str = "native",
        threads: int | None = 1,
        cache: bool = True,
        **kwargs: Any,
    ) -> Prepared:
        """Compile `model` for `target`, to be run by at most `threads` threads; `cache` as in `compile`. Other `kwargs`
        are the test runner's.

        Raises ModelError for a model that is malformed or not supported, ValueError for a device other than the CPU.
        """
        if not cls.supports_device(device):
            raise ValueError(f"device {device!r} is unknown; Ingot runs on 'CPU'")
        return Prepared(model, target, threads, cache)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Run one node on `inputs`, those that it does not leave out; `opset_version` says in which opset of its domain
        (default: the newest known). The types of the results are inferred, `outputs_info` is not needed.

        Raises what `prepare` and `Prepared.run` raise, ValueError for inputs that cannot be typed.
        """
        names = list(dict.fromkeys(name for name in node.input if name))
        given = named(inputs, names)
        declared = [helper.make_value_info(name, type_of(given[name])) for name in names]
        results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        newest = onnx.defs.onnx_opset_version() if node.domain in ("", "ai.onnx") else 1
        opset = helper.make_opsetid(node.domain, kwargs.pop("opset_version", newest))
        graph = helper.make_graph([node], node.op_type or "node", declared, results)
        model = helper.make_model(graph, opset_imports=[opset])
        return cls.prepare(onnx.shape_inference.infer_shapes(model), device, **kwargs).run(given)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True for the CPU alone."""
        return device.partition(":")[0] == "CPU"


is_compatible = IngotBackend.is_compatible
prepare = IngotBackend.prepare
run_model = IngotBackend.run_model
run_node = IngotBackend.run_node
supports_device = IngotBackend.supports_device
