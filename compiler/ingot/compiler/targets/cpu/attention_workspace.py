"""What one attention kernel works in: the sizes of its blocks and panels, and its arrays on the stack."""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.loops import Axis, Load
from ingot.compiler.ir.templates import Attention
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import flow
from ingot.compiler.targets.cpu.expressions import Scope
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import Value, const
from ingot.compiler.targets.cpu.functions import F32, constant

WIDTH = 16  # queries a panel
KEY_BLOCK = 240  # keys whose scores are in scratch at once
ALIASING = 2048  # rows of V a multiple of so many bytes apart evict each other: they are copied first
COPY_PANELS = 4  # panels of queries that share a copy
MAX_STACK = 192 << 10  # bytes


class Workspace:
    """The sizes of the kernel that `template` is emitted as, and its arrays, which are made where `b` stands.

    A block of queries is `block` long and made of panels of `width`; a panel's scores are `vectors` vectors of `lanes`
    for each of `key_block` keys. `copied` says that the rows of V of a block of keys are copied. Raises IrError as
    `attention.emit_body` says.
    """

    def __init__(self, b: ir.IRBuilder, template: Attention, scope: Scope, level: Level) -> None:
        self.b, self.template, self.level = b, template, level
        self.depth = self._extent(template.depth)
        self.value = self._extent(template.value)
        self._check_operands(scope)
        queries = template.queries.extent
        keys = template.keys.extent
        self.key_block = min(KEY_BLOCK, keys) if isinstance(keys, int) and keys > 0 else KEY_BLOCK
        self.key_dtype = scope.buffer(template.k.buffer)[1]
        self.value_dtype = scope.buffer(template.v.buffer)[1]
        stride = coefficient(template.v, template.keys)
        aliases = isinstance(stride, int) and stride * self.value_dtype.bytes % ALIASING == 0
        width = 8 if isinstance(queries, int) and queries <= 8 else WIDTH
        # Long rows of V are read where they are, and by fewer queries at a time.
        for self.copied, self.width in ((aliases, width), (False, width), (False, 8)):
            self.block = self.width * (COPY_PANELS if self.copied else 1)
            size = self._stack_bytes()
            if size <= MAX_STACK:
                break
        else:
            raise IrError(f"attention over depth {self.depth} and value {self.value} takes {size} bytes of stack")
        self.whole_panels = isinstance(queries, int) and queries % self.width == 0
        self.lanes = min(level.lanes(4), self.width)
        self.vectors = self.width // self.lanes
        block, scores = self.block, self.key_block * self.width
        self.vector = ir.VectorType(F32, self.lanes)
        self.panels = flow.stack(b, F32, self.depth * block)  # [panel][depth][query]
        self.scores = flow.stack(b, F32, scores)  # [key][query]
        self.sums = flow.stack(b, F32, block * self.value)  # [query][value]
        self.top = flow.stack(b, F32, block)  # largest score so far
        self.norm = flow.stack(b, F32, block)  # sum of exponentials so far
        self.block_top = flow.stack(b, F32, self.width)
        self.decay = flow.stack(b, F32, self.width)  # what a new maximum scales older sums by
        self.values = flow.stack(b, F32, self.key_block * self.value) if self.copied else None  # [key][value]

    def _stack_bytes(self) -> int:
        scratch = self.key_block * (self.width + self.copied * self.value)
        return 4 * (self.block * (self.depth + self.value + 2) + 2 * self.width + scratch)

    def _extent(self, axis: Axis) -> int:
        if not isinstance(axis.extent, int):
            raise IrError(f"attention needs a constant extent of {axis.var!r}, not {dims.show(axis.extent)}")
        return axis.extent

    def _check_operands(self, scope: Scope) -> None:
        template = self.template
        along = ((template.q, template.depth, template.queries), (template.k, template.depth, template.keys))
        for load, inner, outer in (*along, (template.v, template.value, template.keys)):
            inside = dims.coefficient(load.offset, inner.var)
            if inside is None or (inside[0] != 1 and inner.extent != 1):
                raise IrError(f"attention reads {load.buffer!r} with a stride other than 1 along {inner.var!r}")
            if dims.coefficient(load.offset, outer.var) is None:
                raise IrError(f"the offset of {load.buffer!r} is not affine in {outer.var!r}")
            dtype = scope.buffer(load.buffer)[1]
            if not dtype.is_float or dtype.bits > 32:
                raise IrError(f"attention accumulates in f32; {load.buffer!r} is {dtype}")

    def at(self, base: Value, index: Value | int) -> Value:
        """The address of f32 element `index` of a scratch array."""
        index = const(index) if isinstance(index, int) else index
        return self.b.gep(base, [index], source_etype=F32)

    def read(self, base: Value, index: Value | int) -> Value:
        """The vector of lanes from element `index` of a scratch array on."""
        return self.b.load(self.at(base, index), align=4, typ=self.vector)

    def write(self, value: Value, base: Value, index: Value | int) -> None:
        """Store a vector of lanes from element `index` of a scratch array on."""
        self.b.store(value, self.at(base, index), align=4)

    def splat(self, number: float) -> Value:
        """`number` in all lanes."""
        return constant(number, self.vector)


def coefficient(load: Load, axis: Axis) -> Dim:
    """How far neighbours along `axis` lie apart in an operand, in elements."""
    found = dims.coefficient(load.offset, axis.var)
    assert found is not None
    return found[0]
