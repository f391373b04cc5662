"""The graph operators that custom operators are: one class of node for each, its operands and attributes as fields.

They are not among `ir.graph.OPS`: ``parse_graph(text, ops={**OPS, op.spelling: op.node})`` reads a graph in text form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from ingot.compiler.ir.dims import Expr
from ingot.compiler.ir.graph import Array, Node, Value, describe, operands_of
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.ops.checks import broadcast, fail
from ingot.compiler.ops.custom.errors import CustomOpError
from ingot.compiler.ops.custom.reference import reference
from ingot.compiler.ops.custom.signature import Signature
from ingot.compiler.ops.custom.translate import translate
from ingot.compiler.ops.movement import Expand
from ingot.runtime.dtypes import DType

Infer = Callable[..., "TensorType | Sequence[TensorType]"]


@dataclass(frozen=True)
class Rule:
    """The types of the results from those of the operands and from some attributes."""

    infer: Infer
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class Definition:
    """What the nodes of one custom operator share. `operands` and `attributes` are the names of their fields, `since`
    the version of the domain from which on nodes mean it; what lies between belongs to the form "loops"."""

    name: str
    function: Callable[..., Any]
    signature: Signature
    operands: tuple[str, ...]
    attributes: tuple[str, ...]
    rule: Rule | None = None
    results: tuple[str, ...] = ()
    parallel: tuple[str, ...] = ()
    checked: bool = False
    since: int = 1

    def domain_and_type(self) -> tuple[str, str]:
        """The two parts of the name; "" is the domain of ONNX itself."""
        domain, _, op_type = self.name.rpartition("::")
        return "" if domain == "ai.onnx" else domain, op_type


@dataclass(frozen=True, eq=False, repr=False)
class Custom(Node):
    """A custom operator. Subclasses are made by `node_class`, one for each."""

    definition: ClassVar[Definition]

    def operand_values(self) -> tuple[Value | None, ...]:
        """The operands in order, None where one is left out."""
        return tuple(getattr(self, field) for field in self.definition.operands)

    def attribute_values(self) -> dict[str, Any]:
        """The attributes by the names of the function's parameters."""
        names = (a.name for a in self.definition.signature.attributes)
        return {name: getattr(self, f) for name, f in zip(names, self.definition.attributes, strict=True)}

    def arguments(self, operands: Sequence[Array]) -> list[Array | None]:
        """Arrays in the order of the function's operands; `operands` has none for those that are left out."""
        left = iter(operands)
        return [None if value is None else next(left) for value in self.operand_values()]


@dataclass(frozen=True, eq=False, repr=False)
class Scalar(Custom):
    """A function of one element of each operand; operands broadcast."""

    def infer(self) -> Sequence[TensorType]:
        shape = broadcast(self, *operands_of(self))
        return tuple(TensorType(value.dtype, shape) for value in self._translated())

    def expand(self) -> Sequence[Value]:
        return tuple(
            value if value.type == wanted else Expand(value, wanted.shape)
            for value, wanted in zip(self._translated(), self.types, strict=True)
        )

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        """The Python function on one element after the other."""
        function = reference(self.definition.function)
        attributes = self.attribute_values()
        shape = self.types[0].static_shape()
        flat = [None if a is None else np.broadcast_to(a, shape).reshape(-1) for a in self.arguments(operands)]
        results = [np.zeros(int(np.prod(shape, dtype=np.int64)), t.dtype.to_numpy()) for t in self.types]
        with np.errstate(all="ignore"), _errors_of(self, "its function"):
            for i in range(results[0].size):
                found = function(*(None if a is None else a[i] for a in flat), **attributes)
                items = cast("tuple[Any, ...]", found) if isinstance(found, tuple) else (found,)
                for result, item in zip(results, items, strict=True):
                    result[i] = item
        return tuple(result.reshape(shape) for result in results)

    def _translated(self) -> tuple[Value, ...]:
        return translate(self.definition.name, self.definition.function, self.operand_values(), self.attribute_values())


@dataclass(frozen=True, eq=False, repr=False)
class Composed(Custom):
    """A function of Values that gives Values: other operators put together."""

    def infer(self) -> Sequence[TensorType]:
        return tuple(value.type for value in self.expand())

    def expand(self) -> Sequence[Value]:
        with _errors_of(self, "its function"):
            made = self.definition.function(*self.operand_values(), **self.attribute_values())
        several = isinstance(made, (tuple, list))
        results = tuple(cast("Sequence[object]", made)) if several else (cast("object", made),)
        if not results or not all(isinstance(value, Value) for value in results):
            fail(self, f"its function must return a Value or a tuple of them, not {made!r}")
        return tuple(value for value in results if isinstance(value, Value))


@dataclass(frozen=True, eq=False, repr=False)
class Loops(Custom):
    """A function that fills arrays: it gets the operands and then one dense array for each result."""

    def infer(self) -> Sequence[TensorType]:
        definition = self.definition
        rule, attributes = definition.rule, self.attribute_values()
        assert rule is not None
        types = [None if v is None else v.type for v in self.operand_values()]
        with _errors_of(self, "its infer"):
            made = rule.infer(*types, **{name: attributes[name] for name in rule.attributes})
        results = cast("tuple[TensorType, ...]", tuple(made) if isinstance(made, (tuple, list)) else (made,))
        if len(results) != len(definition.results):
            fail(self, f"its infer gives {len(results)} types, its function fills {', '.join(definition.results)}")
        for result in results:
            if not isinstance(result, TensorType) or not isinstance(result.dtype, DType):  # pyright: ignore[reportUnnecessaryIsInstance]
                fail(self, f"its infer must give TensorType(dtype, shape), not {result!r}")
            if not all(_is_dim(d) for d in result.shape):
                fail(self, f"its infer gives the shape {result.shape}: dims are ints >= 0, or made of operands' dims")
        self._check_parallel(results)
        return results

    def _check_parallel(self, results: Sequence[TensorType]) -> None:
        leading = {t.shape[0] if t.rank else None for _, t in self._cut(results)}
        if len(leading) > 1 or None in leading:
            shown = ", ".join(f"{name}: {t}" for name, t in self._cut(results))
            fail(self, f"what is parallel must have one leading dim, but has {shown}")

    def _cut(self, results: Sequence[TensorType]) -> list[tuple[str, TensorType]]:
        """What is cut along its first axis, by name."""
        definition = self.definition
        named = zip((o.name for o in definition.signature.operands), self.operand_values(), strict=True)
        types = [(name, value.type) for name, value in named if value is not None]
        types += zip(definition.results, results, strict=True)
        return [(name, type_) for name, type_ in types if name in definition.parallel]

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        """The Python function on arrays; what it does not fill stays NaN, or 0."""
        results = [
            np.full(t.static_shape(), np.nan if t.dtype.is_float else 0, t.dtype.to_numpy()) for t in self.types
        ]
        function = reference(self.definition.function)
        given = [None if a is None else _dense(a) for a in self.arguments(operands)]
        with np.errstate(all="ignore"), _errors_of(self, "its function"):
            function(*given, *results, **self.attribute_values())
        return tuple(results)


def _is_dim(item: object) -> bool:
    return isinstance(item, Expr) or (isinstance(item, int) and item >= 0)


def _dense(operand: Array) -> Array:
    """Row-major and read-only."""
    dense = np.ascontiguousarray(operand).reshape(operand.shape).view()
    dense.flags.writeable = False
    return dense


@contextmanager
def _errors_of(node: Custom, what: str) -> Generator[None]:
    """Whatever a function of the user's raises is an error of the operator."""
    try:
        yield
    except (CustomOpError, IrError):
        raise
    except Exception as error:
        raise CustomOpError(f"{describe(node)}: {what} raises {type(error).__name__}: {error}") from error


def node_class(form: type[Custom], spelling: str, definition: Definition) -> type[Custom]:
    """The class of an operator's nodes, spelt `spelling` in IR text."""
    signature = definition.signature
    fields: list[tuple[str, Any]] = [
        (field, Value | None if operand.optional else Value)
        for field, operand in zip(definition.operands, signature.operands, strict=True)
    ]
    fields += [(field, a.annotation) for field, a in zip(definition.attributes, signature.attributes, strict=True)]
    made = dataclasses.make_dataclass(
        f"{form.__name__}_{spelling.replace('.', '_')}",
        fields,
        bases=(form,),
        frozen=True,
        eq=False,
        repr=False,
        namespace={"definition": definition, "name": spelling, "__doc__": definition.function.__doc__},
    )
    return cast("type[Custom]", made)


def field_name(name: str) -> str:
    """The field of a parameter called `name`: with an underscore where a node has something of that name."""
    return name + "_" if hasattr(Custom, name) or name in ("definition", "origin", "self") else name
