"""What all of lowering shares: storages made, steps written, and where each value's elements lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.dims import UNBOUNDED, Dim, product, symbols
from ingot.compiler.ir.graph import (
    Constant,
    Graph,
    Node,
    Origin,
    Value,
    constant,
    describe,
    node_of,
    operands_of,
    symbols_of,
)
from ingot.compiler.ir.program import Argument, Bind, Kind, Launch, Step, Storage
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.border import zero_border
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.nest import KernelBuilder
from ingot.compiler.lower.schedules import ANALYTICAL, Option, Schedules
from ingot.compiler.lower.short_sums import ShortSums
from ingot.compiler.lower.sparsity import Sparse, Sparsity
from ingot.compiler.lower.views import View, dense_strides
from ingot.compiler.lower.weight_forms import FAST, WeightForms
from ingot.compiler.ops.quantised import DequantizeBlocks
from ingot.runtime.dtypes import DType, f32, i64, stored_dtype


class LoweringError(ValueError):
    """A graph that lowering has no kernel for. The message names the node and says what to do."""


@dataclass
class Context:
    """The state of one lowering."""

    machine: Machine
    late: frozenset[str] = frozenset()  # the symbols whose values come from data, of all graphs
    reorder: bool = True  # whether algorithms that reorder the arithmetic (Winograd, Strassen) may be chosen
    forms: WeightForms = FAST
    sparse: Sparse = "auto"  # where products with sparse weights have kernels of their own
    # The matrices that products multiply by, where tables are read from the same storage (see `tables`).
    matrices: Mapping[Any, Constant] = field(default_factory=dict[Any, Constant])
    schedules: Schedules = ANALYTICAL
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    storages: list[Storage] = field(default_factory=list[Storage])
    steps: list[Step] = field(default_factory=list[Step])
    views: dict[Value, View] = field(default_factory=dict[Value, View])
    # Where a value must be written (a graph output, a part of a concatenation) instead of a storage of its own.
    placements: dict[Value, View] = field(default_factory=dict[Value, View])
    # Zero borders (begin, end) per axis that the consumers of a value would like around it.
    halos: dict[Value, tuple[tuple[int, int], ...]] = field(default_factory=dict[Value, tuple[tuple[int, int], ...]])
    faults: list[str] = field(default_factory=list[str])
    # The symbols that steps bind, with the number of the fault that a value out of range is.
    bound: dict[str, int] = field(default_factory=dict[str, int])
    # The signatures of contraction groups (see `choices`), by their nodes.
    signatures: dict[Node, str | None] = field(default_factory=dict[Node, str | None])
    # What there is to say of the schedules of groups, by their signatures.
    explained: dict[str, tuple[Option, ...]] = field(default_factory=dict[str, tuple[Option, ...]])
    # Weights whose products are summed in 16 bits where they may be; None where they may not.
    short_sums: dict[Constant, ShortSums | None] = field(default_factory=dict[Constant, "ShortSums | None"])
    # The patterns of weights that are sparse, None for others: as matrices, and as filters.
    patterns: dict[tuple[Constant, bool], Sparsity | None] = field(
        default_factory=dict[tuple[Constant, bool], "Sparsity | None"]
    )
    _names: dict[str, int] = field(default_factory=dict[str, int])
    _widened: dict[Value, Constant] = field(default_factory=dict[Value, Constant])
    _weights: dict[tuple[Any, ...], Storage] = field(default_factory=dict[tuple[Any, ...], Storage])
    _kept: list[Constant] = field(default_factory=list[Constant])  # keeps ids used as keys alive

    def unique(self, stem: str) -> str:
        """`stem` with a number that makes it unique in this program."""
        taken = {s.name for s in self.storages if s.kind in ("input", "output")}
        while True:
            count = self._names.get(stem, 0)
            self._names[stem] = count + 1
            if f"{stem}_{count}" not in taken:
                return f"{stem}_{count}"

    def storage(
        self,
        kind: Kind,
        dtype: DType,
        size: Dim,
        *,
        stem: str = "t",
        name: str | None = None,
        type: TensorType | None = None,
        data: NDArray[Any] | None = None,
        origin: Origin = (),
    ) -> Storage:
        """A new storage of `size` elements, called `name` or after `stem` and a number; of handles, for strings."""
        made = Storage(name or self.unique(stem), kind, stored_dtype(dtype), size, type, data, origin)
        self.storages.append(made)
        return made

    def temp(self, type: TensorType, halo: tuple[tuple[int, int], ...] = (), origin: Origin = ()) -> View:
        """A new dense temp for a value of `type`, with a border of `halo` elements per axis (not yet zeroed)."""
        borders = halo or ((0, 0),) * type.rank
        padded = tuple(d + low + high for d, (low, high) in zip(type.shape, borders, strict=True))
        strides = dense_strides(padded)
        storage = self.storage("temp", type.dtype, product(padded), origin=origin)
        offset: Dim = 0
        for stride, (low, _) in zip(strides, borders, strict=True):
            offset = offset + stride * low
        return View(storage, type.shape, strides, offset)

    def destination(self, value: Value) -> View:
        """Where the kernel that produces `value` is to write it; recorded as the value's view."""
        view = self.placements.get(value)
        if view is None:
            halo = self.halos.get(value, ())
            view = self.temp(value.type, halo, node_of(value).origin)
            if any(low or high for low, high in halo):
                self.run(zero_border(self.unique("border"), view, halo, node_of(value).origin))
        self.views[value] = view
        return view

    def widened(self, value: DequantizeBlocks) -> Constant:
        """Weights of a few bits as f32, dequantised at compile time."""
        if value not in self._widened:
            operands = [x.data for x in operands_of(value) if isinstance(x, Constant)]
            self._widened[value] = constant(value.evaluate(*operands)[0], f32, value.origin)
        return self._widened[value]

    def view(self, value: Value) -> View:
        """Where `value` lies. Constants become weights on first use."""
        found = self.views.get(value)
        if found is None and isinstance(value, DequantizeBlocks):
            found = self.views[value] = self.view(self.widened(value))
        if found is None:
            if not isinstance(value, Constant):
                raise LoweringError(f"{describe(node_of(value))} has not been lowered before its use")
            found = self.views[value] = View(
                self.weight(value, ("plain",), value.data), value.type.shape, dense_strides(value.type.shape)
            )
        return found

    def weight(
        self,
        source: Constant,
        key: tuple[Any, ...],
        data: NDArray[Any] | Callable[[], NDArray[Any]],
        dtype: DType | None = None,
    ) -> Storage:
        """The weight storage for `data` (what makes it, where that takes long) derived from `source` by what `key`
        describes; made once."""
        full = (id(source), *key)
        if full not in self._weights:
            self._kept.append(source)
            flat = np.ascontiguousarray(data() if callable(data) else data).reshape(-1)
            self._weights[full] = self.storage(
                "weight", dtype or source.type.dtype, int(flat.size), stem="w", data=flat, origin=source.origin
            )
        return self._weights[full]

    def run(self, launch: Launch) -> None:
        """Append a launch."""
        self.steps.append(launch)

    def fault(self, message: str) -> tuple[View, int]:
        """The status view and the number that a kernel stores there to report `message`."""
        status = next((s for s in self.storages if s.kind == "status"), None)
        if status is None:
            status = self.storage("status", i64, 1, stem="status")
        self.faults.append(message)
        return View(status, (1,), (1,)), len(self.faults)

    def size_fault(self, name: str, limits: tuple[int, int], node: Node) -> tuple[View, int]:
        """As `fault`, for a size that `node` gives and that is not within `limits`."""
        low, high = limits
        within = f"{low}..{high}" if high < UNBOUNDED else f"{low} and more"
        return self.fault(f"{describe(node)}: the size {name} is outside {within}")

    def bind(self, name: str, view: View, node: Node) -> None:
        """From here on the symbol `name` is what the i64 scalar `view` holds."""
        if name not in self.bound:
            _, self.bound[name] = self.size_fault(name, self.ranges.get(name, (0, UNBOUNDED)), node)
        self.steps.append(Bind(name, Argument(view.storage, view.offset), self.bound[name], node.origin))

    def may_hold(self, size: Dim, value: Value) -> bool:
        """Whether a storage of `size` elements has its memory when the node that produces `value` runs."""
        return symbols(size) & self.late <= symbols_of(node_of(value))

    def nested(self) -> Context:
        """A context for a sub-graph's steps: shares everything but the list of steps, placements and halos."""
        return replace(self, steps=[], placements={}, halos={}, views=dict(self.views))


def kernel(context: Context, node: Node, form: str = "") -> KernelBuilder:
    """A kernel builder named after `node`, and after the `form` of its weights where there is something to say."""
    return KernelBuilder(context.unique(node.name + form))


def body_of(node: Node) -> tuple[Graph, tuple[Value, ...]]:
    """A group's body and the outer values its inputs stand for; a lone node is a group of itself."""
    import dataclasses

    from ingot.compiler.ir.graph import Input, operands_of, with_operands
    from ingot.compiler.ops.fused import Fused

    if isinstance(node, Fused):
        return node.body, node.operands
    outer: list[Value] = []
    inner: dict[Value, Value] = {}
    inputs: list[Input] = []
    for operand in operands_of(node):
        if operand not in inner and not isinstance(operand, Constant):
            stand_in = Input(f"x{len(inputs)}", operand.type)
            inner[operand] = stand_in
            inputs.append(stand_in)
            outer.append(operand)
    copy = with_operands(node, inner)
    if copy is node:
        copy = dataclasses.replace(node)
    return Graph(tuple(inputs), tuple((f"y{i}", v) for i, v in enumerate(copy.results()))), tuple(outer)
