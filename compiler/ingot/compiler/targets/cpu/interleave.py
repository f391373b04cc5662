"""Stores of a vector loop that lie between each other: ``x[4 i] = a[i]; x[4 i + 1] = b[i]; ...`` as whole vectors."""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.loops import Load, Stmt, Store
from ingot.compiler.targets.cpu.expressions import Scope, element_pointer, emit_dim, emit_expr, store_vector
from ingot.compiler.targets.cpu.flow import Value
from ingot.compiler.targets.cpu.functions import I32, to_memory
from ingot.compiler.targets.cpu.vectorise import children

COUNTS = (4, 2)


def interleaved(statements: Sequence[Stmt], var: str) -> tuple[Store, ...]:
    """The first statements, where they are stores that fill every element between them as `var` counts; else none."""
    for count in COUNTS:
        stores = tuple(statement for statement in statements[:count] if isinstance(statement, Store))
        if len(stores) == count and _fill(stores, var):
            return stores
    return ()


def _fill(stores: Sequence[Store], var: str) -> bool:
    first = stores[0]
    affine = dims.coefficient(first.offset, var)
    if affine is None or affine[0] != len(stores):
        return False
    neighbours = all(
        store.buffer == first.buffer and store.offset == first.offset + i for i, store in enumerate(stores)
    )
    read = {part.buffer for store in stores for part in children(store.value) if isinstance(part, Load)}
    return neighbours and first.buffer not in read


def emit_interleaved(b: ir.IRBuilder, stores: Sequence[Store], scope: Scope, lanes: int, var: str) -> None:
    """`lanes` iterations, an even number, of what `interleaved` found."""
    pointer, dtype = scope.buffer(stores[0].buffer)
    vectors = [to_memory(b, emit_expr(b, store.value, scope, lanes, var), dtype) for store in stores]
    start = emit_dim(b, stores[0].offset, scope)
    for number, vector in enumerate(_between(b, vectors)):
        at = b.add(start, ir.Constant(start.type, number * lanes))
        store_vector(b, vector, element_pointer(b, pointer, dtype, at), dtype, None)


def _between(b: ir.IRBuilder, vectors: Sequence[Value]) -> list[Value]:
    """The first elements of all vectors, then the second ones, and so on, in vectors of the same length."""
    if len(vectors) == 1:
        return list(vectors)
    count = vectors[0].type.count
    made: list[Value] = []
    for even, odd in zip(_between(b, vectors[::2]), _between(b, vectors[1::2]), strict=True):
        for half in (0, count // 2):
            picks = [half + lane // 2 + (count if lane % 2 else 0) for lane in range(count)]
            made.append(b.shuffle_vector(even, odd, ir.Constant(ir.VectorType(I32, count), picks)))
    return made
