"""The host's part in a run: strings in and out, and the calls that code makes on its way."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.callback import Callback
from ingot.runtime.errors import RuntimeFault
from ingot.runtime.host.calls import Call, Tensor
from ingot.runtime.host.functions import call
from ingot.runtime.host.pool import Constants, Pool

_MAX_BYTES: Final = 1 << 48


class HostLane:
    """What one lane needs of the host. The code calls `callback` with the words of a host step: the number of the call,
    then for each operand and result its address and extents."""

    def __init__(self, constants: Constants, calls: Sequence[Call]) -> None:
        self._calls = tuple(calls)
        self._pool = Pool(constants)
        self.callback = Callback(self._answer)

    def begin(self, arrays: Iterable[NDArray[Any]]) -> list[NDArray[Any]]:
        """A run begins: its inputs as code takes them, handles for strings. Raises RuntimeFault for elements of arrays
        of objects that are no strings."""
        self.callback.take()
        self._pool.forget()
        return [self._pool.intern(array) if array.dtype.hasobject else array for array in arrays]

    def strings(self, handles: NDArray[np.int64]) -> NDArray[Any]:
        """An output of strings. Raises RuntimeFault for numbers that are no handles."""
        return self._pool.strings(handles)

    def _answer(self, words: int) -> None:
        step = self._calls[ctypes.c_int64.from_address(words).value]
        table = (ctypes.c_int64 * (1 + step.words)).from_address(words)
        at = 1
        views: list[NDArray[Any]] = []
        tensors = (*step.operands, *step.results)
        for tensor in tensors:
            views.append(_view(tensor, table[at], tuple(table[at + 1 : at + 1 + tensor.rank])))
            at += 1 + tensor.rank
        count = len(step.operands)
        operands = [
            self._pool.strings(view) if tensor.dtype.kind == "string" else view
            for tensor, view in zip(step.operands, views, strict=False)
        ]
        results = [(t.dtype.to_numpy(), view.shape) for t, view in zip(step.results, views[count:], strict=True)]
        for view, made in zip(views[count:], call(step.function, operands, step.attributes, results), strict=True):
            view[...] = self._pool.intern(made) if made.dtype.hasobject else made


def _view(tensor: Tensor, address: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """The array that code has at an address. Raises RuntimeFault for extents that make no sense."""
    dtype = np.dtype(np.int64) if tensor.dtype.kind == "string" else tensor.dtype.to_numpy()
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    if min(shape, default=0) < 0 or size > _MAX_BYTES:
        raise RuntimeFault(f"a step of the host is given an array of shape {list(shape)}")
    if not size:
        return np.empty(shape, dtype)
    memory = memoryview((ctypes.c_uint8 * size).from_address(address))
    return np.frombuffer(memory, dtype).reshape(shape)
