"""What a node says: its operands and attributes, each of which must be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import onnx

from ingot.compiler.frontend.errors import ModelError, UnsupportedError
from ingot.compiler.frontend.scope import Scope
from ingot.compiler.frontend.sequences import Item
from ingot.compiler.ir.graph import Array, Origin, Value

T = TypeVar("T", int, float, str)
L = TypeVar("L", int, float, str)

_KINDS = onnx.AttributeProto
_READERS: dict[int, Callable[[onnx.AttributeProto], Any]] = {
    _KINDS.INT: lambda a: int(a.i),
    _KINDS.FLOAT: lambda a: float(a.f),
    _KINDS.STRING: lambda a: a.s.decode("utf-8"),
    _KINDS.INTS: lambda a: tuple(int(i) for i in a.ints),
    _KINDS.FLOATS: lambda a: tuple(float(x) for x in a.floats),
    _KINDS.STRINGS: lambda a: tuple(x.decode("utf-8") for x in a.strings),
    _KINDS.TENSOR: lambda a: a.t,
    _KINDS.GRAPH: lambda a: a.g,
    _KINDS.SPARSE_TENSOR: lambda a: a.sparse_tensor,
}


@dataclass(frozen=True)
class Reading:
    """A node whose inputs and attributes are read.

    What the row reads is noted: an input or attribute that is present and never read means that the row would give the
    node another meaning than the model does, so `unread` makes it an error.
    """

    node: onnx.NodeProto
    opset: int
    origin: Origin
    scope: Scope
    attributes: Mapping[str, onnx.AttributeProto]
    operands: tuple[Item | None, ...]
    _read: set[str | int] = field(default_factory=set[str | int], repr=False)

    def operand(self, index: int) -> Value:
        """Input `index`, which must be there."""
        value = self.optional(index)
        if value is None:
            raise ModelError(f"input {index} is missing", remedy="run onnx.checker on the model")
        return value

    def optional(self, index: int) -> Value | None:
        """Input `index`, None when it is left out; ModelError when it is a sequence or an optional."""
        self._read.add(index)
        found = self.operands[index] if index < len(self.operands) else None
        if found is not None and not isinstance(found, Value):
            raise ModelError(f"input {index} is {found}: a tensor is needed", remedy="run onnx.checker on the model")
        return found

    def item(self, index: int) -> Item | None:
        """Input `index` whatever it is, None when it is left out."""
        self._read.add(index)
        return self.operands[index] if index < len(self.operands) else None

    def variadic(self, first: int = 0) -> tuple[Value, ...]:
        """All inputs from `first` on; at least one."""
        return tuple(self.operand(i) for i in range(first, max(len(self.operands), first + 1)))

    def attribute(self, name: str, default: T) -> T:
        """The attribute `name`, or `default`; ModelError when it is of another kind than the default."""
        value = self.maybe(name, type(default))
        return default if value is None else value

    def maybe(self, name: str, kind: type[T]) -> T | None:
        """The attribute `name`, None when it is left out."""
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, kind):
            raise ModelError(f"attribute {name!r} is a {type(value).__name__}, not a {kind.__name__}")
        return value

    def ints(self, name: str) -> tuple[int, ...] | None:
        """The attribute `name` of integers, None when it is left out."""
        return self._list(name, int, "integers")

    def floats(self, name: str) -> tuple[float, ...] | None:
        """The attribute `name` of floats, None when it is left out."""
        return self._list(name, float, "floats")

    def strings(self, name: str) -> tuple[str, ...] | None:
        """The attribute `name` of strings, None when it is left out."""
        return self._list(name, str, "strings")

    def _list(self, name: str, kind: type[L], what: str) -> tuple[L, ...] | None:
        value: object = self._value(name)
        if value is None:
            return None
        items = cast(tuple[object, ...], value) if isinstance(value, tuple) else None
        if items is None or not all(isinstance(x, kind) for x in items):
            raise ModelError(f"attribute {name!r} is not a list of {what}")
        return tuple(x for x in items if isinstance(x, kind))

    def required_ints(self, name: str) -> tuple[int, ...]:
        """The attribute `name` of integers, which must be there."""
        value = self.ints(name)
        if value is None:
            raise ModelError(f"attribute {name!r} is missing", remedy="run onnx.checker on the model")
        return value

    def graph(self, name: str) -> onnx.GraphProto:
        """The graph attribute `name`, which must be there."""
        value = self._value(name)
        if not isinstance(value, onnx.GraphProto):
            raise ModelError(f"attribute {name!r} must be a graph", remedy="run onnx.checker on the model")
        return value

    def tensor(self, name: str) -> Array | None:
        """The contents of the tensor attribute `name`, None when it is left out."""
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, onnx.TensorProto):
            raise ModelError(f"attribute {name!r} must be a tensor", remedy="run onnx.checker on the model")
        return self.scope.importer.model.array(value)

    def sparse_tensor(self, name: str) -> Array | None:
        """The contents, with their zeros, of the sparse tensor attribute `name`, None when it is left out."""
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, onnx.SparseTensorProto):
            raise ModelError(f"attribute {name!r} must be a sparse tensor", remedy="run onnx.checker on the model")
        return self.scope.importer.model.dense(value)

    def _value(self, name: str) -> Any:
        self._read.add(name)
        attribute = self.attributes.get(name)
        if attribute is None:
            return None
        if attribute.type not in _READERS:
            kind = _KINDS.AttributeType.Name(attribute.type) if attribute.type in _KINDS.AttributeType.values() else "?"
            raise UnsupportedError(f"attribute {name!r} has the kind {kind}")
        return _READERS[attribute.type](attribute)

    def ignore(self, *names: str) -> None:
        """Attributes that change nothing in inference."""
        self._read.update(names)

    def unread(self) -> list[str]:
        """Inputs and attributes that are present and that the row did not read."""
        inputs = [f"input {i}" for i, v in enumerate(self.operands) if v is not None and i not in self._read]
        return inputs + [f"attribute {n!r}" for n in self.attributes if n not in self._read]

    def error(self, problem: str, remedy: str | None = None) -> ModelError:
        """An error about this node, to be raised."""
        return ModelError(problem, remedy=remedy)

    def unsupported(self, problem: str, remedy: str | None = None) -> UnsupportedError:
        """An error about a use of this operator that is not supported, to be raised."""
        return UnsupportedError(problem, remedy=remedy)
