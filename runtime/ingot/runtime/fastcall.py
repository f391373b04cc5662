"""The call of a small model as one function of CPython: a dict of arrays in, a dict of new arrays out.

An artifact may hold ``PyObject *ingot_call(PyObject *self, PyObject *inputs)``, compiled code that does what
`Session.run` does for arrays that fit as they are, and declines all others. It is the same for every model: `self` is
an array whose words say what to expect, where to copy it and how to reach Python's functions. Here is the layout of
those words and of the objects that the code looks into; the code is made by the compiler's ``targets/cpu/fastcall.py``.

What is relied on is the C API, whose functions are called through addresses, and the layouts that numpy and CPython
compile into every extension (``PyArrayObject_fields``, ``PyObject``, ``PyMethodDef``). They are compared with live
objects before the first use. Where they differ, as in free-threaded builds, nothing is installed.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.plan import Call, Frame, decline

FUNCTIONS: Final = (
    "PyDict_GetItemWithError", "PyDict_New", "PyDict_SetItem", "PyDict_Size", "PyErr_Clear", "PyEval_RestoreThread",
    "PyEval_SaveThread", "PyObject_CallNoArgs", "Py_DecRef", "Py_IncRef", "memmove",
)  # fmt: skip
"""The functions that the code calls: all in the stable ABI, but for libc's last."""
METHOD: Final = ("name", "function", "flags", "doc")
"""``PyMethodDef``"""
HEADER: Final = (
    *METHOD, *FUNCTIONS, "dict type", "array type", "None", "releases", "table", "status", "inputs", "outputs",
)  # fmt: skip
"""Words of the context. `releases` says whether the interpreter's lock is given up during the run, `table` is the first
argument of ingot_run, `status` the address of the status word, then the numbers of inputs and outputs."""
INPUT: Final = ("name", "dtype", "rank", "extents", "size", "place")
"""Words that follow the header for each input; `extents` and `place` are addresses, `size` is in bytes."""
OUTPUT: Final = ("name", "copy")
"""Words that follow those for each output; `copy` is called without arguments for a new array."""

# Offsets in bytes.
OBJECT_TYPE: Final = 8
ARRAY_DATA: Final = 16
ARRAY_RANK: Final = 24  # an int
ARRAY_EXTENTS: Final = 32
ARRAY_DTYPE: Final = 56
ARRAY_FLAGS: Final = 64  # an int
CONTIGUOUS: Final = 1

WORTH_NS: Final = 200_000
"""A run that takes longer gains nothing that could be noticed, and is not done twice more to find out.
Three must do so, as one may have met an interruption."""
SLOW_RUNS: Final = 3
RELEASE_NS: Final = 5000
"""A run that takes longer lets other Python threads go on. For shorter ones the wait to get the lock back, up to a
switch interval of 5 ms, costs everybody more."""
ALONE_NS: Final = 10_000
"""A run that takes less is not worth waking other threads, which takes 15 to 45 us."""
MEASURING_NS: Final = 200_000
_METH_O: Final = 0x8
_NAME: Final = ctypes.create_string_buffer(b"ingot_call")


class _Context(np.ndarray[Any, np.dtype[np.int64]]):
    """The words of one function, kept by it as its `self`; `objects` are those that words point to."""

    objects: tuple[Any, ...]


def make_call(frame: Frame, address: int, native: Callable[..., int], *, alone: bool, took: int) -> Call | None:
    """A function that does runs of the staged `frame` from then on, one at a time, on the thread that calls it;
    `address` is that of ingot_call, `native` is ingot_run. The code must stay mapped while it is called.

    The staged inputs, those of the run before, are run again to see how long that takes and whether the function gives
    the same results. It is `decline` when it does not, where Python or numpy are not as expected, when the run before
    `took` so many nanoseconds that it does not matter, and when other threads should take part: that is, unless the run
    is `alone` anyway, when it is not a very short one. None says that only another run can tell."""
    if took > WORTH_NS:
        frame.slow_runs += 1
        return decline if frame.slow_runs >= SLOW_RUNS else None
    functions = _functions()
    if functions is None:
        return decline
    expected = [copy().tobytes() for _, copy in frame.copies]
    duration = _measure(lambda: native(frame.pointer, None))
    if frame.plan.is_parallel and not alone and duration > ALONE_NS:
        return decline
    call = _bind(_context(frame, address, functions, releases=duration > RELEASE_NS))
    results = call({name: buffer for name, _, _, buffer in frame.takes})
    if results is None or tuple(results) != frame.names:
        return decline
    same = all(array.tobytes() == wanted for array, wanted in zip(results.values(), expected, strict=True))
    return call if same else decline


def _measure(run: Callable[[], object]) -> int:
    """Nanoseconds of the fastest of ten runs, or of as many as fit in MEASURING_NS; one at least."""
    clock = time.perf_counter_ns
    best, begin = sys.maxsize, clock()
    for _ in range(10):
        started = clock()
        run()
        now = clock()
        best = min(best, now - started)
        if now - begin > MEASURING_NS:
            break
    return best


def _context(frame: Frame, address: int, functions: tuple[int, ...], *, releases: bool) -> _Context:
    words = [ctypes.addressof(_NAME), address, _METH_O, 0, *functions, id(dict), id(np.ndarray), id(None), releases]
    words += [frame.pointer.value or 0, ctypes.addressof(frame.status), len(frame.takes), len(frame.copies)]
    size = len(words) + len(INPUT) * len(frame.takes) + len(OUTPUT) * len(frame.copies)
    extents: list[int] = []
    count = size + sum(len(shape) for _, _, shape, _ in frame.takes)
    context = np.zeros(count, np.int64).view(_Context)
    start = context.ctypes.data
    for name, dtype, shape, buffer in frame.takes:
        assert buffer is not None  # the frame is staged
        place = start + 8 * (size + len(extents))
        words += [id(name), id(dtype), len(shape), place, buffer.nbytes, buffer.ctypes.data]
        extents += shape
    for name, copy in frame.copies:
        words += [id(name), id(copy)]
    context[:] = [*words, *extents]
    context.objects = (frame.takes, frame.copies, frame.status, _NAME)
    return context


def _bind(context: _Context) -> Call:
    # CPython lets a PyMethodDef lie in what the function has as its self.
    create = ctypes.PyDLL(None).PyCFunction_NewEx
    create.restype = ctypes.py_object
    create.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return create(context.ctypes.data, context, None)


@functools.cache
def _functions() -> tuple[int, ...] | None:
    """Addresses of FUNCTIONS; None where the code cannot be used."""
    if sys.implementation.name != "cpython" or object.__basicsize__ != 16 or not _is_layout_as_expected():
        return None
    library = ctypes.PyDLL(None)
    try:
        addresses = [
            ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in (*FUNCTIONS, "PyCFunction_NewEx")
        ]
    except AttributeError:
        return None
    return tuple(address or 0 for address in addresses[:-1])


def _is_layout_as_expected() -> bool:
    grid = np.zeros((3, 5, 7), np.float32)
    arrays: list[NDArray[Any]] = [
        grid, grid[1:], grid[:, ::2], grid.T, grid.astype(">f4"), np.zeros((), np.int64), np.zeros((0, 4), np.uint8),
        np.zeros(3, np.int64).view(_Context),
    ]  # fmt: skip
    others: list[object] = [{}, None, "", *arrays]
    return all(map(_is_laid_out, arrays)) and all(_word(id(each) + OBJECT_TYPE) == id(type(each)) for each in others)


def _is_laid_out(array: NDArray[Any]) -> bool:
    at = id(array)
    extents = _word(at + ARRAY_EXTENTS)
    return (
        type(array).__basicsize__ >= ARRAY_FLAGS + 4
        and _word(at + ARRAY_DATA) == array.ctypes.data
        and ctypes.c_int.from_address(at + ARRAY_RANK).value == array.ndim
        and tuple(_word(extents + 8 * axis) for axis in range(array.ndim)) == array.shape
        and _word(at + ARRAY_DTYPE) == id(array.dtype)
        and bool(ctypes.c_int.from_address(at + ARRAY_FLAGS).value & CONTIGUOUS) == array.flags.c_contiguous
    )


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value
