"""Which kernels are worth LLVM's optimising code generator.

It takes several times as long as the fast one, whose code is a few times slower. A kernel that never has more than a
few hundred operations to do, such as those that compute shapes or work on rows of a few hundred elements, costs a run
about as much as its launch either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ingot.compiler.ir.dims import UNBOUNDED, Dim, bounds, product
from ingot.compiler.ir.loops import Accumulate, Axis, Call, Expr, For, Let, Stmt, Store, When
from ingot.compiler.ir.program import Launch
from ingot.compiler.ir.templates import Attention, Contraction
from ingot.compiler.targets.cpu.vectorise import COST

BRIEF = 512
"""The most operations, in additions of scalars or of registers, of one launch of a kernel whose code may be slow."""

LANES = 8
"""Iterations of a loop marked "vector" that are as much as one."""

_ATTENTION = 8  # multiplications and additions of attention, all in vectors, that are as much as one operation
_STEP = 3  # operations for each step of a sum and register of a contraction: load, spread, multiply-add

Ranges = dict[str, tuple[int, int]]


def is_brief(launch: Launch, ranges: Mapping[str, tuple[int, int]], most: int = BRIEF) -> bool:
    """Whether a launch surely has at most `most` operations (loads, stores, calls, constants) where the program's
    symbols are within `ranges`. Of templates only contractions and attention may have."""
    kernel = launch.kernel
    inside = {name: bounds(dim, ranges) for name, dim in zip(kernel.dims, launch.dims, strict=True)}
    body = kernel.body
    if isinstance(body, Contraction):
        return _steps(body, inside) * _STEP <= most
    if not isinstance(body, tuple):
        return isinstance(body, Attention) and bounds(kernel.flops, inside)[1] <= most * _ATTENTION
    points = _points(kernel.grid, inside)
    return points <= most and points * _operations(body, inside, most) <= most


def _steps(body: Contraction, ranges: Ranges) -> int:
    """The most multiply-adds of registers of a contraction, whose panels are computed whole."""
    extents = (*(axis.extent for axis in body.batch), body.row_count, body.panels, body.depth)
    return max(bounds(product(extents), ranges)[1], 0) * -(-body.width // LANES)


def _points(axes: Iterable[Axis], ranges: Ranges) -> int:
    """The most points of a grid, whose variables come into `ranges`."""
    points = 1
    for axis in axes:
        points = min(points * _most(axis.extent, ranges), UNBOUNDED)
        ranges[axis.var] = 0, max(_most(axis.extent, ranges) - 1, 0)
    return points


def _most(extent: Dim, ranges: Ranges) -> int:
    return max(bounds(extent, ranges)[1], 0)


def _operations(body: Sequence[Stmt], ranges: Ranges, most: int, lanes: int = LANES) -> int:
    """The most operations of one pass through `body`, exactly if they are at most `most`; vector loops do `lanes`
    iterations at a time."""
    total = 0
    for item in body:
        total += 1
        match item:
            case For():
                extent = _most(item.extent, ranges)
                ranges[item.var] = 0, max(extent - 1, 0)
                inner = 1 if item.mode == "vector" else lanes  # of vector loops in each other the outermost runs so
                rounds = -(-extent // (lanes if item.mode == "vector" else 1))
                if rounds:
                    total += rounds * _operations(item.body, ranges, most, inner) if rounds <= most else rounds
            case When():
                total += _size(item.condition)
                total += _operations(item.body, ranges, most, lanes) + _operations(item.otherwise, ranges, most, lanes)
            case Let() | Accumulate() | Store():
                total += _size(item.value)
            case _:
                pass
        if total > most:
            break
    return total


def _size(expr: Expr) -> int:
    """The number of operations in an expression, in additions."""
    return COST.get(expr.fn, 1) + sum(map(_size, expr.args)) if isinstance(expr, Call) else 1
