"""The names of one graph, sub-graph or function body under construction, and the symbols that it binds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from ingot.compiler.frontend.errors import DeclarationError, ModelError, StructureError
from ingot.compiler.frontend.folding import fold
from ingot.compiler.frontend.functions import Opsets
from ingot.compiler.frontend.importer import Importer
from ingot.compiler.frontend.sequences import Item, mapped, tensors_of
from ingot.compiler.frontend.signature import declared_dims
from ingot.compiler.frontend.weights import dtype_of
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Constant, Input, Origin, Value
from ingot.compiler.ir.types import show_shape
from ingot.compiler.ops.movement import DimValues
from ingot.compiler.ops.shape_arithmetic import known_dims
from ingot.runtime.dtypes import i64


@dataclass
class Sizes:
    """The symbols bound in one graph under construction. `around` are those of the graphs around it."""

    around: Sizes | None = None
    bound: dict[str, Value] = field(default_factory=dict[str, Value])

    def chain(self) -> Iterator[Sizes]:
        """These and those of the graphs around."""
        here: Sizes | None = self
        while here is not None:
            yield here
            here = here.around

    def knows(self, name: str) -> bool:
        """Whether the symbol is bound here or around."""
        return any(name in each.bound for each in self.chain())

    def symbol_of(self, value: Value) -> str | None:
        """The symbol that is bound to `value`, None when there is none."""
        return next((name for name, known in self.bound.items() if known is value), None)


@dataclass(frozen=True)
class Absent:
    """A name that exists but has no value here; using it is an error.

    An input that the call of a function leaves out may be passed on: nodes have it left out, too.
    """

    error: ModelError
    is_left_out: bool = False


@dataclass(frozen=True)
class Body:
    """An imported sub-graph before it is closed: its formal inputs, its outputs and, for each outer value that it uses,
    the input that stands for it."""

    inputs: tuple[Input, ...]
    outputs: tuple[tuple[str, Item], ...]
    captures: Mapping[Value, Input]
    bound: Mapping[str, Value] = field(default_factory=dict[str, Value])


@dataclass
class Scope(ABC):
    """The names of one graph. How a graph within it is imported is for `frontend.nodes` to say.

    `parent` is the graph around a sub-graph. With `captures` the sub-graph is closed over what it uses from outside
    (If, Loop); without, outer values are used as they are. `bindings` are the attributes of the call that a function
    body is put in for, `caller` its name, `caller_scope` where it is and `depth` how many calls are around it. In the
    body of a loop `iteration` is its number. `randomness` is kept by `frontend.streams`.
    """

    importer: Importer
    opsets: Opsets
    parent: Scope | None = None
    captures: dict[Value, Input] | None = None
    bindings: Mapping[str, onnx.AttributeProto] | None = None
    caller: Origin = ()
    depth: int = 0
    is_called_in_closed: bool = False
    caller_scope: Scope | None = None
    iteration: Value | None = None
    sizes: Sizes = field(default_factory=Sizes)
    randomness: dict[str, Value] = field(default_factory=dict[str, Value])
    values: dict[str, Item | Absent] = field(default_factory=dict[str, Item | Absent])
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict[str, onnx.TensorProto])
    sparse: dict[str, onnx.SparseTensorProto] = field(default_factory=dict[str, onnx.SparseTensorProto])
    declared: dict[str, onnx.ValueInfoProto] = field(default_factory=dict[str, onnx.ValueInfoProto])

    @property
    def is_closed(self) -> bool:
        """True inside a sub-graph that may not run, at any depth."""
        around = self.parent.is_closed if self.parent is not None else self.is_called_in_closed
        return self.captures is not None or around

    def find(self, name: str) -> Item:
        """What `name` stands for, here or in the graphs around; ModelError when there is nothing."""
        if name in self.values:
            found = self.values[name]
            if isinstance(found, Absent):
                raise found.error
            return found
        if name in self.tensors:
            value: Item = Constant(self.importer.model.array(self.tensors[name]), origin=(name,))
        elif name in self.sparse:
            value = Constant(self.importer.model.dense(self.sparse[name]), origin=(name,))
        elif self.parent is None:
            raise StructureError(
                f"the name {name!r} is used but never defined", remedy="run onnx.checker or export the model again"
            )
        else:
            found = self.parent.find(name)
            several = (f"{name}/{i}" for i in range(len(tensors_of(found))))
            labels = iter((name,)) if isinstance(found, Value) else several
            value = mapped(found, lambda outer: self.capture(name, outer, next(labels)))
        self.values[name] = value
        return value

    def is_left_out(self, name: str) -> bool:
        """True where `name` is an input of a function that its call leaves out."""
        if name in self.values or name in self.tensors or self.parent is None:
            found = self.values.get(name)
            return isinstance(found, Absent) and found.is_left_out
        return self.parent.is_left_out(name)

    def capture(self, name: str, outer: Value, label: str | None = None) -> Value:
        """What stands for `outer`, which is `name` or a part of it, in this sub-graph: constants and dims are the same
        everywhere, the rest is passed as an input called `label` (default: `name`)."""
        if self.captures is None or isinstance(outer, Constant):
            return outer
        known = known_dims(outer) if outer.dtype == i64 and outer.rank <= 1 else None
        if known is not None:
            return DimValues(known, outer.rank == 0, origin=(name,))
        if outer not in self.captures:
            array = fold(outer)
            if array is not None:
                return Constant(array, origin=(name,))
            self.captures[outer] = Input(label or name, outer.type, origin=(name,))
        return self.captures[outer]

    def check_declared(self, name: str, value: Value) -> None:
        """The model's own type for `name` must not contradict the inferred one; it may say which dims are equal."""
        declared = self.declared.get(name)
        if declared is None or declared.type.WhichOneof("value") != "tensor_type":
            return
        said = f"the model declares {name!r}"
        if declared.type.tensor_type.elem_type:
            dtype = dtype_of(declared.type.tensor_type.elem_type, repr(name))
            if dtype != value.dtype:
                raise ModelError(f"{said} as {dtype.name}, but it is {value.type}", remedy="export the model again")
        shape = declared_dims(declared)
        if shape is None:
            return
        remedy = "correct the declared shape or run onnx.shape_inference on the model"
        if len(shape) != value.rank:
            raise DeclarationError(f"{said} with {len(shape)} axes, but it is {value.type}", remedy=remedy)
        for axis, (wanted, dim) in enumerate(zip(shape, value.shape, strict=True)):
            if isinstance(wanted, int):
                if self.importer.assumptions.differ(dim, wanted):
                    raise DeclarationError(
                        f"{said} with axis {axis} = {wanted}, but its shape is {show_shape(value.shape)}", remedy=remedy
                    )
            elif wanted in self.importer.symbols.names and self.parent is None and not self.caller:
                known = self.importer.assumptions.resolve(dims.symbol(self.importer.symbols.names[wanted]))
                if not self.importer.bound.keys() & dims.symbols(dim):
                    self.importer.assumptions.suggest_equal(dim, known)

    @abstractmethod
    def body(
        self,
        graph: onnx.GraphProto,
        formal: tuple[Input, ...],
        values: Sequence[Item],
        captures: dict[Value, Input] | None = None,
        bound: Mapping[str, Value] | None = None,
    ) -> Body:
        """Import a sub-graph that will be closed: `formal` are its inputs, `values` what its ONNX inputs stand for
        and `captures` what is passed to it already; symbols may be bound already, too."""

    @abstractmethod
    def inline(
        self,
        graph: onnx.GraphProto,
        inputs: Sequence[Item | None] = (),
        instead: Mapping[str, Item] | None = None,
    ) -> tuple[Item, ...]:
        """Import a sub-graph, whose inputs are `inputs`, as a part of this graph; its outputs. `instead` are values
        that names from outside have in it."""
