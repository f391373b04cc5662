"""Recurrent layers: the input's part of all steps as one contraction, then a kernel that walks the steps.

The hidden state has two copies that take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ingot.compiler.ir.dims import Dim, bounds, ceil_divide, minimum, multiply, product, symbol
from ingot.compiler.ir.graph import Constant, Graph, Input, Node, Value, constant, describe
from ingot.compiler.ir.loops import Axis, Call, Const, For, Let, Local, Stmt, When
from ingot.compiler.ir.program import Argument, Launch, Repeat
from ingot.compiler.ir.types import Shape, TensorType
from ingot.compiler.lower.cells import Arithmetic
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.contraction import Group, stored_elements
from ingot.compiler.lower.matmul import lower_matmul
from ingot.compiler.lower.nest import KernelBuilder, index_value, zero
from ingot.compiler.lower.panels import Panels
from ingot.compiler.lower.pointwise import copy, fill, materialise
from ingot.compiler.lower.tiles import MOST_CHUNKS
from ingot.compiler.lower.timesteps import Cell, Phase, StepWriter, Storages
from ingot.compiler.lower.views import View, dense_strides
from ingot.compiler.ops import recurrent as ops
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.pointwise import Add
from ingot.runtime.dtypes import boolean, f32, f64, i64

ROW_BLOCK = 8  # batch rows of a grid point whose weights do not stay close: they share what a step reads of them
ROW_TILE = 4  # of them at a time in registers
OTHERS = 4  # vector registers that do not hold sums: three weights and an element of the state
STEP_MICROSECONDS = 4  # of work, at least, before a step is cut: threads meet after every one
LEAST_CHUNKS = 4  # that a step must be worth, for each grid point of the kernel that does all of them

_GATES: Mapping[type[Node], str] = {ops.RNN: "h", ops.GRU: "zrh", ops.LSTM: "iofc"}


def lower_recurrent(context: Context, node: Node) -> bool:
    """Lower an RNN, GRU or LSTM; False when `node` is none of them."""
    if not isinstance(node, ops.Recurrent):
        return False
    if node.batch == 0:
        for value in node.results():
            fill(context, context.destination(value), zero(value.dtype), node.origin, "result")
    else:
        _Layer(context, node).lower()
    return True


class _Layer:
    """The storages of one layer, and its launches."""

    def __init__(self, context: Context, node: ops.Recurrent) -> None:
        self.context, self.node = context, node
        self.kind = f64 if node.x.dtype == f64 else f32
        self.m = Arithmetic(self.kind, node.clip)
        self.width = context.machine.lanes(self.kind.bytes)
        self.hidden, self.gates = node.hidden, _GATES[type(node)]
        self.directions, self.steps, self.batch = node.directions, node.steps, node.batch
        self.dense_weights: View | None = None
        self.state_shape: Shape = (self.directions, self.batch, self.hidden)

    def lower(self) -> None:
        """Emit everything."""
        node, context = self.node, self.context
        lengths = self._lengths()
        x = self._projection()
        y, *finals = [context.destination(value) for value in node.results()]
        if node.layout:
            y = y.transpose((1, 2, 0, 3))
            finals = [view.transpose((1, 0, 2)) for view in finals]
        h = self._temp((2, *self.state_shape))
        first = View(h.storage, self.state_shape, dense_strides(self.state_shape))
        self._start(node.initial_h, first)
        c = peepholes = None
        if isinstance(node, ops.LSTM):
            c = finals[1] if finals[1].storage.dtype == self.kind else self._temp(self.state_shape)
            self._start(node.initial_c, c)
            peepholes = self._operand(node.p) if node.p is not None else None
        two_phases = isinstance(node, ops.GRU) and not self._resets_sum
        z, reset = (self._filled() if two_phases else None for _ in range(2))
        at = Storages(x, y, h, c, z, reset, self.step_bias, self.biased_gates, peepholes, lengths)
        phases = self._phases()
        lowest = max(1, bounds(self.batch, context.ranges)[0])
        chunks = [self._chunks(phase, lowest) for phase in phases]
        step_by_step = max(chunks) >= LEAST_CHUNKS * -(-lowest // self._block)
        if step_by_step:  # a loop of the program may run no step
            fill(context, y, zero(y.storage.dtype), node.origin, "result")
        alike = self.directions == 1 or node.functions(0) == node.functions(1)
        for start, count in ((0, self.directions),) if alike else ((0, 1), (1, 1)):
            self._walk(at, phases, chunks if step_by_step else (), start, count)
        last = View(h.storage, first.shape, first.strides, (self.steps % 2) * product(self.state_shape))
        copy(context, last, finals[0], node.origin, "state")
        if c is not None and c is not finals[1]:
            copy(context, c, finals[1], node.origin, "state")

    # -- operands -----------------------------------------------------------------------------------------------------

    def _temp(self, shape: Shape) -> View:
        return self.context.temp(TensorType(self.kind, shape), origin=self.node.origin)

    def _filled(self) -> View:
        """A temp [D, N, H] of zeros, for what a kernel hands from one phase to the next."""
        view = self._temp(self.state_shape)
        fill(self.context, view, zero(self.kind), self.node.origin, "state")
        return view

    def _operand(self, value: Value) -> View:
        """The view of an operand in the type that the layer computes in."""
        if isinstance(value, Constant) and value.dtype != self.kind:
            data = value.data.astype(self.kind.to_numpy())
            storage = self.context.weight(value, ("wide",), data, self.kind)
            return View(storage, value.type.shape, dense_strides(value.type.shape))
        view = self.context.view(value)
        if view.storage.dtype == self.kind:
            return view
        target = self._temp(view.shape)
        copy(self.context, view, target, self.node.origin, "widen")
        return target

    def _start(self, initial: Value | None, state: View) -> None:
        """Give a state its first contents."""
        if initial is None:
            fill(self.context, state, zero(self.kind), self.node.origin, "state")
            return
        view = self.context.view(initial)
        copy(self.context, view.transpose((1, 0, 2)) if self.node.layout else view, state, self.node.origin, "state")

    def _lengths(self) -> View | None:
        """The view of sequence_lens, after a kernel that reports lengths outside 0..T."""
        value = self.node.sequence_lens
        if value is None:
            return None
        view = self.context.view(value)
        build = KernelBuilder(self.context.unique("lengths"))
        status, number = self.context.fault(
            f"{describe(self.node)}: a sequence length is negative or larger than the number of steps"
        )
        length = Call("cast", (build.load(view, view.at([symbol("_n")])),), i64)
        bad = Call(
            "or",
            (
                Call("lt", (Local("_length", i64), Const(0, i64)), boolean),
                Call("gt", (Local("_length", i64), index_value(self.steps)), boolean),
            ),
            boolean,
        )
        body = (Let("_length", length), When(bad, (build.store(status, 0, Const(number, i64)),)))
        loop = For("_n", self.batch, body)
        self.context.run(build.launch((Axis("_point", 1),), (loop,), origin=self.node.origin))
        return view

    def _projection(self) -> View:
        """``x w' + b`` for all steps: [T, N, D, G, H]. Sets what biases are left for the steps to add."""
        view = self._operand(self.node.x)
        view = view.transpose((1, 0, 2)) if self.node.layout else view
        if not isinstance(self.node.w, Constant):  # a packing at run time serves one matrix of rows
            flat = materialise(self.context, view, self.node.origin)
            view = View(flat.storage, (self.steps * self.batch, view.shape[2]), (view.shape[2], 1), flat.offset)
        outer: dict[Value, Value] = {}
        x = self._input("x", view, outer)
        anchor = MatMul(x, self._input_weights(outer))
        total: Value = anchor
        bias = self._bias(outer)
        if bias is not None:
            total = Add(total, bias)
        inputs = tuple(value for value in outer if isinstance(value, Input))
        body = Graph(inputs, (("y", total),), "projection")
        group = Fused(tuple(outer.values()), body, origin=self.node.origin)
        lower_matmul(self.context, Group(group, body, outer, anchor), anchor)
        shape = (self.steps, self.batch, self.directions, len(self.gates), self.hidden)
        result = self.context.view(group).reshape(shape)
        assert result is not None
        return result

    def _input(self, label: str, view: View, outer: dict[Value, Value]) -> Value:
        """An input of the projection that stands for a view."""
        inside, outside = (Input(label, TensorType(self.kind, view.shape)) for _ in range(2))
        outer[inside] = outside
        self.context.views[outside] = view
        return inside

    def _input_weights(self, outer: dict[Value, Value]) -> Value:
        """w as a matrix [I, D*G*H]."""
        w = self.node.w
        columns = self.directions * len(self.gates) * self.hidden
        if isinstance(w, Constant):
            data = w.data.astype(self.kind.to_numpy(), copy=False)
            return constant(data.transpose(2, 0, 1).reshape(data.shape[2], columns), origin=w.origin)
        dense = materialise(self.context, self._operand(w), self.node.origin)
        rows = dense.reshape((columns, dense.shape[2]))
        assert rows is not None
        return self._input("w", rows.transpose((1, 0)), outer)

    def _bias(self, outer: dict[Value, Value]) -> Value | None:
        """The bias [D*G*H] that the projection adds; sets `step_bias` [D, G, H] and the gates that have one."""
        b = self.node.b
        self.step_bias: View | None = None
        self.biased_gates = ""
        if b is None:
            return None
        shape = (self.directions, 2, len(self.gates), self.hidden)
        part = (self.directions, len(self.gates), self.hidden)
        size = product(part)
        if isinstance(b, Constant):
            own, recurrent = np.moveaxis(b.data.astype(self.kind.to_numpy()).reshape(shape), 1, 0)
            if self._resets_sum:  # the candidate's recurrent bias is multiplied by the reset gate
                self.biased_gates = "h"
                storage = self.context.weight(b, ("recurrent bias",), recurrent, self.kind)
                self.step_bias = View(storage, part, dense_strides(part))
                recurrent = recurrent * np.array([[[1], [1], [0]]], recurrent.dtype)
            return constant((own + recurrent).reshape(-1), origin=b.origin)
        dense = materialise(self.context, self._operand(b), self.node.origin).reshape(shape)
        assert dense is not None
        halves = [
            dense.slice((0, i, 0, 0), (self.directions, 1, *part[1:]), (1, 1, 1, 1)).reshape(part) for i in range(2)
        ]
        own_bias, self.step_bias = halves
        self.biased_gates = self.gates
        assert own_bias is not None
        flat = materialise(self.context, own_bias, self.node.origin).reshape((size,))
        assert flat is not None
        return self._input("b", flat, outer)

    @property
    def _resets_sum(self) -> bool:
        """Whether this is a GRU that applies the reset gate to the candidate's sum, not to the state before it."""
        return isinstance(self.node, ops.GRU) and self.node.linear_before_reset

    def _packed(self, panels: Panels) -> View:
        """The recurrent weights of some gates, packed: [D, size]."""
        r, h, w = self.node.r, self.hidden, self.width
        shape = (self.directions, panels.size)
        rows = [self.gates.index(gate) for gate in panels.gates]
        if isinstance(r, Constant):
            elements, dtype = stored_elements(self.context, r, self.kind)
            every = elements.reshape(self.directions, len(self.gates), h, h)
            storage = self.context.weight(r, ("recurrent", panels), panels.pack(every[:, rows]), dtype)
            return View(storage, shape, dense_strides(shape))
        split = self._dense_weights()
        target = self._temp(shape)
        if h % w:
            fill(self.context, target, zero(self.kind), self.node.origin, "packed")
        build = KernelBuilder(self.context.unique("pack"))
        d, g, k, v = (symbol(name) for name in ("_d", "_g", "_k", "_v"))

        def stores(first: Dim, count: int, k: Dim, v: Dim) -> tuple[Stmt, ...]:
            made: list[Stmt] = []
            for block in panels.blocks(count):
                for column, (gate, panel) in enumerate(block.members):
                    unit = (first + panel) * w + v
                    value = build.load(split, split.at([d, self.gates.index(gate), unit, k]))
                    made.append(build.store(target, target.at([d, panels.offset(first, block, column, k, v)]), value))
            return tuple(made)

        body: list[Stmt] = []
        if panels.whole:
            loop = For("_k", h, (For("_v", w, stores(g * panels.together, panels.together, k, v)),))
            body.append(For("_g", panels.whole, (loop,)))
        for n, (first, count, lanes) in enumerate(panels.rest()):
            names = f"_k{n}", f"_v{n}"
            inside = stores(first, count, symbol(names[0]), symbol(names[1]))
            body.append(For(names[0], h, (For(names[1], lanes, inside),)))
        self.context.run(build.launch((Axis("_d", self.directions),), tuple(body), origin=self.node.origin))
        return target

    def _dense_weights(self) -> View:
        """Recurrent weights that are known at run time, dense: [D, G, H, H]."""
        if self.dense_weights is None:
            dense = materialise(self.context, self._operand(self.node.r), self.node.origin)
            self.dense_weights = dense.reshape((self.directions, len(self.gates), self.hidden, self.hidden))
            assert self.dense_weights is not None
        return self.dense_weights

    # -- steps --------------------------------------------------------------------------------------------------------

    def _phases(self) -> tuple[Phase, ...]:
        match self.node:
            case ops.LSTM(input_forget=True):
                return (self._phase("lstm", "ioc"),)
            case ops.LSTM():
                return (self._phase("lstm", "iofc"),)
            case ops.GRU(linear_before_reset=True):
                return (self._phase("gru", "zrh"),)
            case ops.GRU():
                return self._phase("reset", "zr"), self._phase("candidate", "h")
            case _:
                return (self._phase("rnn", "h"),)

    def _phase(self, cell: Cell, gates: str) -> Phase:
        accumulators = self.context.machine.vector_registers - OTHERS
        panels = Panels.choose(gates, self.hidden, self.width, rows=self._rows, accumulators=accumulators)
        return Phase(cell, panels, self._packed(panels))

    @property
    def _block(self) -> int:
        """Batch rows of a grid point: as few as make a tile where the weights stay in the cache."""
        weights = len(self.gates) * self.hidden * self.hidden * self.kind.bytes
        return ROW_TILE if weights <= self.context.machine.l2 // 2 else ROW_BLOCK

    @property
    def _rows(self) -> int:
        """Batch rows of a tile."""
        return min(ROW_TILE, self.batch) if isinstance(self.batch, int) else ROW_TILE

    def _walk(self, at: Storages, phases: Sequence[Phase], chunks: Sequence[int], start: int, count: int) -> None:
        """All steps of `count` directions from `start` on: one kernel for all of them, or where a step is so much work
        that several threads gain from it (`chunks` for each phase), a loop of the program with a kernel a phase."""
        direction: Dim = symbol("_d") if count > 1 else start
        flip = direction if self.node.direction == "bidirectional" else int(self.node.direction == "reverse")
        grid = (Axis("_d", count),) if count > 1 else ()

        def writer(build: KernelBuilder) -> StepWriter:
            functions = self.node.functions(start)
            return StepWriter(build, at, self.m, self.gates, functions, direction, flip, symbol("_t"), self._rows)

        if chunks:
            self._step_by_step(phases, chunks, grid, writer)
        else:
            self._in_one_kernel(phases, grid, writer)

    def _in_one_kernel(
        self, phases: Sequence[Phase], grid: tuple[Axis, ...], writer: Callable[[KernelBuilder], StepWriter]
    ) -> None:
        """A grid point is a direction and some batch rows: they walk through time by themselves."""
        batch = self.batch
        build = kernel(self.context, self.node)
        first: Dim = 0
        rows = batch
        block = self._block
        if not isinstance(batch, int) or batch > block:
            grid = (*grid, Axis("_b", ceil_divide(batch, block)))
            first = symbol("_b") * block
            even = isinstance(batch, int) and batch % block == 0
            rows = block if even else minimum(block, batch - first)
        write = writer(build)
        body = tuple(s for phase in phases for s in write.phase(phase, first, rows))
        loop = For("_t", self.steps, body)
        work = multiply(self.steps, self._work(phases))
        self.context.run(build.launch(grid or (Axis("_point", 1),), (loop,), origin=self.node.origin, flops=work))

    def _step_by_step(
        self,
        phases: Sequence[Phase],
        chunks: Sequence[int],
        grid: tuple[Axis, ...],
        writer: Callable[[KernelBuilder], StepWriter],
    ) -> None:
        """A grid point is a direction and a group of panels."""
        context, origin = self.context, self.node.origin
        trip, counter = (context.temp(TensorType(i64, ()), origin=origin) for _ in range(2))
        build = KernelBuilder(context.unique("steps"))
        store = build.store(trip, 0, index_value(self.steps))
        context.run(build.launch((Axis("_point", 1),), (store,), origin=origin))
        launches: list[Launch] = []
        for phase, parts in zip(phases, chunks, strict=True):
            build = kernel(context, self.node)
            write = writer(build)
            body = (Let("_t", build.load(counter, 0)), *write.any_group(phase, "_p", self.batch))
            groups = phase.panels.groups
            axis = Axis("_p", groups, -(-groups // max(1, parts)))
            launches.append(build.launch((*grid, axis), body, origin=origin, flops=self._work((phase,))))
        context.steps.append(Repeat(Argument(counter.storage), Argument(trip.storage), None, tuple(launches), origin))

    def _work(self, phases: Sequence[Phase]) -> Dim:
        """Floating-point operations of a step of all directions."""
        gates = sum(len(phase.panels.gates) for phase in phases)
        return product((2, self.batch, self.directions, gates, self.hidden, self.hidden))

    def _chunks(self, phase: Phase, batch: int) -> int:
        """Chunks that a phase of one direction and step is worth."""
        machine = self.context.machine
        weights = len(phase.panels.gates) * self.hidden * self.hidden
        size = weights * self.kind.bytes
        reading = size / (machine.l2_rate if size <= machine.l2 // 2 else machine.l3_rate)
        cycles = max(reading, weights * batch / (machine.fma_rate * self.width))
        return min(MOST_CHUNKS, int(cycles / (STEP_MICROSECONDS * machine.cycles_per_microsecond)))
