"""The further steps of a contraction's panels, `ir.templates.Contraction.listed`: where elements and weights lie."""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.targets.cpu import flow
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim
from ingot.compiler.targets.cpu.flow import I64, Value, const
from ingot.compiler.targets.cpu.functions import I8
from ingot.compiler.targets.cpu.microkernel import Listed, Operand


def listed(b: ir.IRBuilder, template: Contraction, scope: Scope, panel: Value, group: int) -> Listed | None:
    """Those of `group` panels from the number `panel` on; None where there are none."""
    count, axes = template.listed, (*template.segments, template.run)
    if not count:
        return None
    strides = [dims.coefficient(template.a.offset, axis.var) for axis in axes]
    factors = [emit_dim(b, affine[0], scope) for affine in strides if affine is not None]
    places, rest = scope.buffer(template.places)[0], scope.buffer(template.rest)[0]
    first, size = flow.multiply(b, panel, count), template.width * template.dot
    weights = b.gep(rest, [flow.multiply(b, first, size)], source_etype=I8)

    def place(number: int, step: Value) -> Value:
        at = flow.multiply(b, flow.add(b, flow.add(b, first, number * count), step), len(axes))
        total: Value = const(0)
        for i, factor in enumerate(factors):
            entry = b.gep(places, [flow.add(b, at, i)], source_etype=I64)
            total = flow.add(b, total, flow.multiply(b, b.load(entry, align=8, typ=I64), factor))
        return total

    return Listed(count, place, [Operand(weights, i * count * size) for i in range(group)])
