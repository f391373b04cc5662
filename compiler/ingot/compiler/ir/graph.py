"""Level 1, the graph: operators over tensors, in SSA form.

A node is a frozen dataclass whose fields are operands (`Value`), attributes and sub-graphs; it is compared by identity
and matched with Python's ``match``. Types are inferred when a node is built, so a node that exists is well typed.
Sub-graphs are closed: what they use from outside is passed to them as captures, which become their inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, cast, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir import dims
from ingot.compiler.ir.types import IrError, TensorType
from ingot.runtime import dtypes

Array: TypeAlias = NDArray[Any]
Origin: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Value:
    """Something with one tensor type: a node with a single result, or one `Result` of a node with several."""

    @property
    def type(self) -> TensorType:
        """The tensor type of this value."""
        raise NotImplementedError

    @property
    def dtype(self) -> dtypes.DType:
        """Element type, short for ``type.dtype``."""
        return self.type.dtype

    @property
    def shape(self) -> tuple[Any, ...]:
        """Shape (ints and symbolic dims), short for ``type.shape``."""
        return self.type.shape

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.type.shape)


@dataclass(frozen=True, eq=False)
class Node(Value):
    """An operation. Subclasses declare fields and define `infer` and `evaluate` (or `expand`).

    `origin` holds the names the user knows the node by (ONNX node or tensor names); rewrites merge it.
    """

    origin: Origin = field(default=(), kw_only=True, repr=False)
    name: ClassVar[str] = "node"  # the spelling in IR text; set by @op

    def __post_init__(self) -> None:
        object.__setattr__(self, "_types", tuple(self.infer()))

    def __repr__(self) -> str:  # of operands it would be exponential: graphs share nodes
        types = ", ".join(map(str, self.__dict__.get("_types", ())))
        return f"<{describe(self)}: {types}>"

    @property
    def types(self) -> tuple[TensorType, ...]:
        """The types of all results."""
        return self.__dict__["_types"]

    @property
    def type(self) -> TensorType:
        types: tuple[TensorType, ...] = self.__dict__["_types"]  # asked for all the time
        if len(types) != 1:
            raise IrError(f"{describe(self)} has {len(types)} results: use Result(node, i)")
        return types[0]

    def infer(self) -> Sequence[TensorType]:
        """Types of the results from the fields; raises IrError when they do not fit."""
        raise NotImplementedError(f"{type(self).__name__}.infer")

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        """Reference semantics on numpy arrays, one per operand in `operands_of` order. Symbolic dims in attributes
        have been replaced by ints before the call. The default evaluates `expand`."""
        from ingot.compiler.ir.interpret import evaluate_expansion

        return evaluate_expansion(self, operands)

    def schedule(self) -> tuple[Value, ...]:
        """The operands in the order in which they are to be computed where nothing else decides it."""
        return operands_of(self)

    def expand(self) -> Value | Sequence[Value] | None:
        """An equivalent value made of simpler ops (composites), or None where this op is itself a definition."""
        return None

    def result(self, index: int) -> Value:
        """Result `index`: the node itself when it has just one."""
        return self if len(self.types) == 1 and index == 0 else Result(self, index)

    def results(self) -> tuple[Value, ...]:
        """All results."""
        return tuple(self.result(i) for i in range(len(self.types)))


class Result(Value):
    """Result `index` of a node with several. Interned: the same node and index give the same object."""

    __match_args__ = ("node", "index")  # pyright: ignore[reportAssignmentType] - the base class has no fields
    node: Node
    index: int

    def __new__(cls, node: Node, index: int) -> Result:
        cache: dict[int, Result] = node.__dict__.setdefault("_results", {})
        if index in cache:
            return cache[index]
        if not 0 <= index < len(node.types):
            raise IrError(f"{describe(node)} has {len(node.types)} results, no result {index}")
        self = super().__new__(cls)
        object.__setattr__(self, "node", node)
        object.__setattr__(self, "index", index)
        cache[index] = self
        return self

    def __init__(self, node: Node, index: int) -> None:  # fields are set in __new__
        pass

    @property
    def type(self) -> TensorType:
        return self.node.types[self.index]

    def __repr__(self) -> str:
        return f"Result({describe(self.node)}, {self.index})"


OPS: dict[str, type[Node]] = {}


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(dataclasses.field,))
def op(spelling: str) -> Callable[[type[Any]], Any]:
    """Class decorator: a Node subclass becomes a frozen dataclass compared by identity, spelt `spelling` in IR text."""

    def decorate(cls: type[Any]) -> Any:
        made = dataclass(frozen=True, eq=False, repr=False)(cls)
        made.name = spelling
        if spelling in OPS:
            raise IrError(f"two ops are spelt {spelling!r}")
        OPS[spelling] = made
        return made

    return decorate


@op("input")
class Input(Node):
    """A graph input (or a capture or carried value of a sub-graph)."""

    label: str
    declared: TensorType

    def infer(self) -> Sequence[TensorType]:
        return (self.declared,)


@op("constant")
class Constant(Node):
    """Data known at compile time: a read-only, possibly memory-mapped array (bf16 as ml_dtypes.bfloat16)."""

    data: Array

    def infer(self) -> Sequence[TensorType]:
        return (TensorType(dtypes.from_numpy(self.data.dtype), tuple(int(d) for d in self.data.shape)),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        return (self.data,)


@dataclass(frozen=True, eq=False)
class Graph:
    """Inputs, outputs and all nodes that the outputs reach.

    `outputs` pairs each output's name with its value. `ranges` bounds symbolic dims (both ends included); a dim
    without an entry lies in 0..2**62. `bound` gives the symbols whose values come from data: each is what the i64
    scalar that it is bound to holds at run time. A node whose types, attributes or sub-graphs mention such a symbol
    depends on that value as on an operand. `watched` follows values under the names that the user knows them by through
    rewrites; it keeps none alive, so what it leads to may be no part of the graph any more.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[tuple[str, Value], ...]
    name: str = "main"
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    bound: Mapping[str, Value] = field(default_factory=dict[str, Value])
    watched: Mapping[str, Value] = field(default_factory=dict[str, Value])

    @property
    def results(self) -> tuple[Value, ...]:
        """The output values."""
        return tuple(value for _, value in self.outputs)

    def nodes(self) -> tuple[Node, ...]:
        """All nodes (inputs included, sub-graphs' nodes not) in a deterministic topological order; cached."""
        cached: tuple[Node, ...] | None = self.__dict__.get("_nodes")
        if cached is None:
            cached = tuple(topological((*self.inputs, *self.results), self.bound))
            object.__setattr__(self, "_nodes", cached)
        return cached

    def sizes(self) -> Mapping[str, Value]:
        """The entries of `bound` whose symbols nodes of this graph mention; cached."""
        cached: dict[str, Value] | None = self.__dict__.get("_sizes")
        if cached is None:
            mentioned = set[str]().union(*map(symbols_of, self.nodes())) if self.bound else set[str]()
            cached = {name: value for name, value in self.bound.items() if name in mentioned}
            object.__setattr__(self, "_sizes", cached)
        return cached

    def symbols(self) -> frozenset[str]:
        """The symbols that nodes of this graph mention and that it does not bind itself; cached."""
        cached: frozenset[str] | None = self.__dict__.get("_symbols")
        if cached is None:
            cached = frozenset[str]().union(*map(symbols_of, self.nodes())) - self.bound.keys()
            object.__setattr__(self, "_symbols", cached)
        return cached

    def uses(self) -> Mapping[Value, int]:
        """How often each value is read by nodes of this graph, returned by it or the size of something; cached."""
        cached: dict[Value, int] | None = self.__dict__.get("_uses")
        if cached is None:
            cached = {}
            for node in self.nodes():
                for operand in operands_of(node):
                    cached[operand] = cached.get(operand, 0) + 1
            for value in (*self.results, *self.sizes().values()):
                cached[value] = cached.get(value, 0) + 1
            object.__setattr__(self, "_uses", cached)
        return cached


def node_of(value: Value) -> Node:
    """The node that produces `value`."""
    if isinstance(value, Node):
        return value
    assert isinstance(value, Result)
    return value.node


def fields_of(node: Node) -> tuple[dataclasses.Field[Any], ...]:
    """The dataclass fields of a node's class except `origin`, in order; cached by class."""
    cls = type(node)
    cached = cls.__dict__.get("_field_list")
    if cached is None:
        cached = tuple(f for f in dataclasses.fields(cls) if f.name != "origin")
        setattr(cls, "_field_list", cached)  # noqa: B010
    return cached


def operands_of(node: Node) -> tuple[Value, ...]:
    """The operand values in field order: fields holding a Value, or a tuple of them. None (absent) is skipped."""
    cached: tuple[Value, ...] | None = node.__dict__.get("_operands")
    if cached is None:
        found: list[Value] = []
        for f in fields_of(node):
            item = getattr(node, f.name)
            if isinstance(item, Value):
                found.append(item)
            elif isinstance(item, tuple):
                found.extend(x for x in item if isinstance(x, Value))  # pyright: ignore[reportUnknownVariableType]
        cached = tuple(found)
        object.__setattr__(node, "_operands", cached)
    return cached


def with_operands(node: Node, mapping: Mapping[Value, Value]) -> Node:
    """`node` with each operand replaced by `mapping.get(operand, operand)`; the same object when nothing changes."""
    changes: dict[str, Any] = {}
    for f in fields_of(node):
        item = getattr(node, f.name)
        if isinstance(item, Value):
            if mapping.get(item, item) is not item:
                changes[f.name] = mapping[item]
        elif isinstance(item, tuple):
            members = cast(tuple[Any, ...], item)
            if any(isinstance(x, Value) and mapping.get(x, x) is not x for x in members):
                changes[f.name] = tuple(mapping.get(x, x) if isinstance(x, Value) else x for x in members)
    return dataclasses.replace(node, **changes) if changes else node


def subgraphs_of(node: Node) -> tuple[Graph, ...]:
    """The sub-graphs held in the node's fields; cached."""
    cached: tuple[Graph, ...] | None = node.__dict__.get("_subgraphs")
    if cached is None:
        cached = tuple(g for f in fields_of(node) if isinstance(g := getattr(node, f.name), Graph))
        object.__setattr__(node, "_subgraphs", cached)
    return cached


def symbols_of(node: Node) -> frozenset[str]:
    """The symbols in the types, attributes and sub-graphs of `node`; cached."""
    cached: frozenset[str] | None = node.__dict__.get("_mentioned")
    if cached is None:
        found: set[str] = set()
        stack: list[Any] = [*node.types, *(getattr(node, f.name) for f in fields_of(node))]
        while stack:
            match item := stack.pop():
                case dims.Expr() as dim:
                    found |= dims.symbols(dim)
                case TensorType(shape=shape):
                    stack.extend(shape)
                case Graph() as graph:
                    found |= graph.symbols()
                case tuple():
                    stack.extend(cast(tuple[Any, ...], item))
                case _:
                    pass
        cached = frozenset(found)
        object.__setattr__(node, "_mentioned", cached)
    return cached


def sizes_of(node: Node, bound: Mapping[str, Value]) -> tuple[Value, ...]:
    """The values in `bound` of the symbols that `node` mentions, but for its own results."""
    if not bound or isinstance(node, Input):
        return ()
    names = sorted(symbols_of(node) & bound.keys())
    return tuple(bound[name] for name in names if node_of(bound[name]) is not node)


def dependencies_of(node: Node, bound: Mapping[str, Value]) -> tuple[Value, ...]:
    """What must be computed before `node`: its operands and the sizes that it mentions."""
    return (*node.schedule(), *sizes_of(node, bound)) if bound else node.schedule()


def topological(roots: Iterable[Value], bound: Mapping[str, Value] | None = None) -> Iterator[Node]:
    """All nodes reachable from `roots`, what they depend on first, iteratively (graphs may be very deep).

    Raises IrError where a size depends on itself.
    """
    bound = bound or {}
    done: set[Node] = set()
    waiting: set[Node] = set()  # on the stack; without bound symbols there can be no cycle
    for root in map(node_of, roots):
        stack = [] if root in done else [(root, iter(dependencies_of(root, bound)))]
        while stack:
            node, operands = stack[-1]
            for operand in operands:
                below = node_of(operand)
                if below in done:
                    continue
                if bound:
                    waiting.add(node)
                    if below in waiting:
                        raise IrError(f"{describe(below)} depends on itself: a size is bound to what needs it")
                stack.append((below, iter(dependencies_of(below, bound))))
                break
            else:
                stack.pop()
                done.add(node)
                waiting.discard(node)
                yield node


def describe(node: Node) -> str:
    """A short name for messages: the op and the user's names for it."""
    return f"{node.name} ({', '.join(node.origin)})" if node.origin else node.name


def constant(
    data: Array | np.generic | float | int | bool, dtype: dtypes.DType | None = None, origin: Origin = ()
) -> Constant:
    """A Constant from anything numpy takes, cast to `dtype` when given; 0 as a string is the empty one."""
    if dtype == dtypes.string and isinstance(data, int):
        data = np.full((), "", object)
    array = np.asarray(data, dtype=dtype.to_numpy() if dtype is not None else None)
    array = array.view()
    array.flags.writeable = False
    return Constant(array, origin=origin)
