"""Structured control flow over llvmlite's builder: counted loops that carry SSA values, and two-way branches.

Loops are emitted rotated (guard, body, test at the bottom), the form that code generation wants, because kernels skip
LLVM's mid-level passes.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

I64 = ir.IntType(64)
Value = ir.Value
Carried = Sequence[ir.Value]


def const(value: int) -> ir.Constant:
    """An i64 constant."""
    return ir.Constant(I64, value)


def as_constant(value: Value) -> int | None:
    """The int behind an i64 constant, None for anything known only at run time."""
    if isinstance(value, ir.Constant) and isinstance(value.constant, int):
        return value.constant
    return None


def add(b: ir.IRBuilder, x: Value, y: Value | int) -> Value:
    """x + y on i64, folded where both are constants or one is 0."""
    y = const(y) if isinstance(y, int) else y
    cx, cy = as_constant(x), as_constant(y)
    if cx is not None and cy is not None:
        return const(cx + cy)
    if cx == 0:
        return y
    if cy == 0:
        return x
    return b.add(x, y, flags=("nsw",))


def subtract(b: ir.IRBuilder, x: Value, y: Value | int) -> Value:
    """x - y on i64, folded where both are constants or y is 0."""
    y = const(y) if isinstance(y, int) else y
    cx, cy = as_constant(x), as_constant(y)
    if cx is not None and cy is not None:
        return const(cx - cy)
    return x if cy == 0 else b.sub(x, y, flags=("nsw",))


def multiply(b: ir.IRBuilder, x: Value, y: Value | int) -> Value:
    """x * y on i64, folded where both are constants or one is 0 or 1."""
    y = const(y) if isinstance(y, int) else y
    cx, cy = as_constant(x), as_constant(y)
    if cx is not None and cy is not None:
        return const(cx * cy)
    if cx == 0 or cy == 0:
        return const(0)
    if cx == 1:
        return y
    return x if cy == 1 else b.mul(x, y, flags=("nsw",))


def minimum(b: ir.IRBuilder, x: Value, y: Value) -> Value:
    """The smaller of two i64 values."""
    cx, cy = as_constant(x), as_constant(y)
    if cx is not None and cy is not None:
        return const(min(cx, cy))
    return b.select(b.icmp_signed("<", x, y), x, y)


def maximum(b: ir.IRBuilder, x: Value, y: Value) -> Value:
    """The larger of two i64 values."""
    cx, cy = as_constant(x), as_constant(y)
    if cx is not None and cy is not None:
        return const(max(cx, cy))
    return b.select(b.icmp_signed(">", x, y), x, y)


def stack(b: ir.IRBuilder, element: ir.Type, count: int, align: int = 64) -> Value:
    """An uninitialised array of `count` elements in the function's frame, whatever block `b` is in."""
    with b.goto_entry_block():
        array = b.alloca(element, count)
        array.align = align
    array.type = ir.PointerType()  # llvmlite still gives allocas a typed pointer
    return array


def loop(
    b: ir.IRBuilder,
    begin: Value,
    end: Value,
    step: Value | int,
    initial: Carried,
    body: Callable[[Value, list[Value]], Carried],
    *,
    nonempty: bool = False,
    rounds: int | None = None,
) -> list[Value]:
    """``for i in begin .. end by step``: `body(i, carried)` returns the carried values of the next round.

    Returns the carried values after the loop. `nonempty` promises ``begin < end`` and saves the guard. `rounds` says
    how often the loop is expected to run, where bounds and step are not constant: register allocation keeps the values
    of the hottest loop in registers.
    """
    first, last = as_constant(begin), as_constant(end)
    if first is not None and last is not None:
        if first >= last:
            return list(initial)
        nonempty = True
        if (stride := step if isinstance(step, int) else as_constant(step)) is not None:
            rounds = -(-(last - first) // stride)
    before = b.block
    head, done = b.append_basic_block("loop"), b.append_basic_block("done")
    if nonempty:
        b.branch(head)
    else:
        b.cbranch(b.icmp_signed("<", begin, end), head, done)
    b.position_at_end(head)
    index = b.phi(I64)
    index.add_incoming(begin, before)
    values: list[Value] = []
    for start in initial:
        phi = b.phi(start.type)
        phi.add_incoming(start, before)
        values.append(phi)
    after = list(body(index, values))
    following = b.add(index, const(step) if isinstance(step, int) else step, flags=("nsw",))
    latch = b.block
    index.add_incoming(following, latch)
    for phi, value in zip(values, after, strict=True):
        phi.add_incoming(value, latch)
    again = b.cbranch(b.icmp_signed("<", following, end), head, done)
    if rounds is not None:
        again.set_weights([max(1, rounds - 1), 1])
    b.position_at_end(done)
    if nonempty:
        return after
    results: list[Value] = []
    for start, value in zip(initial, after, strict=True):
        phi = b.phi(start.type)
        phi.add_incoming(start, before)
        phi.add_incoming(value, latch)
        results.append(phi)
    return results


def branch(
    b: ir.IRBuilder,
    condition: Value,
    then: Callable[[], None],
    otherwise: Callable[[], None] | None,
    odds: tuple[int, int] | None = None,
) -> None:
    """Run `then` if the i1 `condition` holds, else `otherwise`; nothing is carried out. `odds` weighs the two."""
    yes, after = b.append_basic_block("then"), b.append_basic_block("after")
    no = b.append_basic_block("else") if otherwise else after
    choice = b.cbranch(condition, yes, no)
    if odds is not None:
        choice.set_weights(odds)
    b.position_at_end(yes)
    then()
    b.branch(after)
    if otherwise:
        b.position_at_end(no)
        otherwise()
        b.branch(after)
    b.position_at_end(after)
