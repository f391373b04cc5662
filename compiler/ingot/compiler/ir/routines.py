"""A kernel that calls a routine written elsewhere: the Python function of a custom operator over whole arrays.

What the routine does is its own business; the kernel says which elements it may touch, and how its launch is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ingot.compiler.ir.dims import Dim, evaluate, product, symbol
from ingot.compiler.ir.graph import Array
from ingot.compiler.ir.loops import Axis, Const, For, Let, Load, Stmt, Store, When
from ingot.compiler.ir.types import IrError
from ingot.runtime.dtypes import DType, boolean

REFERENCE = "_reference"


@dataclass(frozen=True)
class Parameter:
    """A dense row-major array that a routine gets; it fills those that are `written`, completely."""

    dtype: DType
    rank: int
    written: bool


@dataclass(frozen=True)
class Source:
    """Where a routine comes from: a Python function of the arrays (None for an operand that is left out) and the
    attributes. `reference` is the same without exceptions of the math library."""

    function: Callable[..., Any]
    reference: Callable[..., Any]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Routine:
    """A function of arrays: those of the operands, None where one is left out, then those of the results. With
    `checked` an index outside of an array is an error. Name, parameters and `attributes`, spelt out, tell the routines
    of one program apart; the text form holds no more."""

    name: str
    parameters: tuple[Parameter | None, ...]
    attributes: str = ""
    checked: bool = False

    def bound(self, source: Source) -> Routine:
        """This routine with the function behind it."""
        object.__setattr__(self, REFERENCE, source)
        return self

    @property
    def source(self) -> Source:
        """The function. Raises IrError for a routine read from text or sent to another process."""
        found = self.__dict__.get(REFERENCE)
        if found is None:
            raise IrError(f"{self.name} is a Python function, which is not part of a program's text")
        return cast(Source, found)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != REFERENCE}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array argument: all of `buffer` from its first element on, as `shape`. One that is `cut` gives each chunk its
    rows only."""

    buffer: str
    shape: tuple[Dim, ...]
    cut: bool


@dataclass(frozen=True, slots=True)
class RoutineCall:
    """Call `routine` once a chunk of `rows`, the leading axis of what is cut; of extent 1 where nothing is.

    The results stand before the operands because they may be written first: none may take an operand's place. `fault`
    is stored when the routine reports an error.
    """

    routine: Routine
    rows: Axis
    results: tuple[Tensor, ...]
    operands: tuple[Tensor | None, ...]
    fault: Store

    @property
    def grid(self) -> tuple[Axis, ...]:
        """The rows."""
        return (self.rows,)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The arguments in the order of the routine's parameters."""
        return (*self.operands, *self.results)

    def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """All elements that a chunk may touch: every operand is read, every result written. Not the meaning: that is
        `run`."""
        body: list[Stmt] = []
        for position, (tensor, parameter) in enumerate(zip(self.tensors, self.routine.parameters, strict=True)):
            if tensor is None or parameter is None:
                continue
            var = f"_e{position}"
            inside = product(tensor.shape[1:]) if tensor.cut else product(tensor.shape)
            at = symbol(var) + (symbol(self.rows.var) * inside if tensor.cut else 0)
            dtype = parameter.dtype
            touch: Stmt = Let(f"_v{position}", Load(tensor.buffer, at))
            if parameter.written:
                zero = 0.0 if dtype.is_float else False if dtype.kind == "bool" else 0
                touch = Store(tensor.buffer, at, Const(zero, dtype))
            body.append(For(var, inside, (touch,)))
        body.append(When(Const(False, boolean), (self.fault,)))
        return (Axis(self.rows.var, self.rows.extent),), tuple(body)

    def run(self, buffers: Mapping[str, tuple[Array, int]], values: Mapping[str, int]) -> None:
        """Call the Python function chunk by chunk on flat arrays, each with the offset of its first element. Raises
        IrError for an array that is too small and for a routine without a function."""
        source = self.routine.source
        extent, grain = (evaluate(d, values) for d in (self.rows.extent, self.rows.grain))
        arrays = [None if t is None else self._array(t, buffers, values) for t in self.tensors]
        for start in range(0, extent, grain):
            parts = [
                a[start : start + grain] if t is not None and a is not None and t.cut else a
                for t, a in zip(self.tensors, arrays, strict=True)
            ]
            try:
                with np.errstate(all="ignore"):
                    source.reference(*parts, **source.attributes)
            except Exception:  # whatever the user's function raises
                array, base = buffers[self.fault.buffer]
                array[base] = cast(Const, self.fault.value).value

    def _array(self, tensor: Tensor, buffers: Mapping[str, tuple[Array, int]], values: Mapping[str, int]) -> Array:
        shape = [evaluate(d, values) for d in tensor.shape]
        flat, base = buffers[tensor.buffer]
        size = int(np.prod(shape, dtype=np.int64))
        if base < 0 or base + size > flat.size:
            raise IrError(f"{self.routine.name}: {size} elements from {base} on exceed {flat.size} of {tensor.buffer}")
        array = flat[base : base + size].reshape(shape)
        if tensor in self.operands:
            array = array.view()
            array.flags.writeable = False
        return array
