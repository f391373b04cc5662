"""Tensor types: element type and symbolic shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim, product, show
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType

Shape = tuple[Dim, ...]


class IrError(ValueError):
    """The IR is malformed: a type, shape or structural rule is broken. The message names the node."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of a value: ``f32[batch, 3, 32, 32]``. A scalar has shape ()."""

    dtype: DType
    shape: Shape

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    @property
    def is_static(self) -> bool:
        """True when no dim is symbolic."""
        return all(isinstance(d, int) for d in self.shape)

    def static_shape(self) -> tuple[int, ...]:
        """The shape as ints; IrError when a dim is symbolic."""
        if not self.is_static:
            raise IrError(f"{self} has symbolic dims where static ones are needed")
        return tuple(d for d in self.shape if isinstance(d, int))

    def __str__(self) -> str:
        return f"{self.dtype.name}{show_shape(self.shape)}"


def type_of(array: NDArray[Any]) -> TensorType:
    """The type of an array. Raises what `dtypes.from_numpy` does for one of no type that tensors have."""
    return TensorType(dtypes.from_numpy(array.dtype), tuple(int(d) for d in array.shape))


def show_shape(shape: Iterable[Dim]) -> str:
    """A shape as text: ``[batch, 3, 2*h + 1]``."""
    return f"[{', '.join(show(d) for d in shape)}]"


def broadcast_shapes(shapes: Sequence[Shape]) -> Shape:
    """The shape that `shapes` broadcast to by ONNX's multidirectional (numpy) rule.

    A symbolic dim against a constant other than 1 takes the constant; two different symbolic dims are refused, because
    the result would depend on which of them is 1 at run time. Raises IrError.
    """
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        chosen: Dim = 1
        for shape in shapes:
            i = axis - (rank - len(shape))
            if i < 0 or shape[i] == 1 or shape[i] == chosen:
                continue
            dim = shape[i]
            if chosen == 1 or (isinstance(dim, int) and not isinstance(chosen, int)):
                chosen = dim
            elif isinstance(dim, int) and isinstance(chosen, int):
                raise IrError(f"shapes {_list(shapes)} do not broadcast: {chosen} against {dim}")
            elif not isinstance(dim, int) and isinstance(chosen, int):
                continue
            else:
                raise IrError(f"shapes {_list(shapes)} do not broadcast: {show(chosen)} against {show(dim)}")
        result.append(chosen)
    return tuple(result)


def _list(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(show_shape, shapes))
