"""What callers hand in: arrays checked against the model's signature, symbolic dims solved from their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ingot.runtime.dims import UNBOUNDED, compile_dims, linear, show
from ingot.runtime.errors import InputError
from ingot.runtime.manifest import Manifest, Signature


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, element type and shape of an input or output; a symbolic extent is its expression as text (``"batch"``)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


def describe(signatures: Sequence[Signature]) -> tuple[TensorInfo, ...]:
    """The signatures as callers see them. Element types that numpy lacks are those of ml_dtypes, or, where it is not
    installed, unsigned integers of that size with the raw bits: a `uint16` for bf16, a `uint8` for what is smaller."""
    return tuple(
        [
            TensorInfo(s.name, s.dtype.to_array(), tuple([d if isinstance(d, int) else show(d) for d in s.shape]))
            for s in signatures
        ]
    )


def collect(inputs: Mapping[str, ArrayLike], expected: Sequence[TensorInfo]) -> list[NDArray[Any]]:
    """One array per expected input, in that order, each of the exact dtype in native byte order.

    Raises InputError for names that are missing or unknown and for values of another dtype.
    """
    if inputs.__class__ is not dict and not isinstance(inputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"inputs are given by name, as {{name: array}}; this is of type {type(inputs).__name__}")
    if len(inputs) != len(expected) or any(info.name not in inputs for info in expected):
        _refuse_names(inputs, expected)
    return [_as_array(info, inputs[info.name]) for info in expected]


def _refuse_names(inputs: Mapping[str, ArrayLike], expected: Sequence[TensorInfo]) -> None:
    names = [info.name for info in expected]
    missing = [repr(name) for name in names if name not in inputs]
    unknown = [repr(name) for name in inputs if name not in names]
    problems = ["there is no input " + ", ".join(unknown)] if unknown else []
    problems += ["no value is given for " + ", ".join(missing)] if missing else []
    raise InputError(f"{'; '.join(problems)}; the model's inputs are {', '.join(map(repr, names)) or 'none'}")


def _as_array(info: TensorInfo, value: Any) -> NDArray[Any]:
    """`value` as an array of the input's dtype. Only Python numbers and lists, which have no dtype of their own, are
    converted, and only where no value changes its kind. Strings are taken as lists and as arrays of objects or of any
    of numpy's types of text."""
    if info.dtype.hasobject:
        return _as_strings(info, value)
    if isinstance(value, bool | int | float | list | tuple):
        try:
            array = np.asarray(value)
            if array.size and not np.can_cast(array.dtype, info.dtype, "same_kind"):
                raise InputError(f"input {info.name!r} is a list of {array.dtype}, the model needs {info.dtype}")
            return np.array(value, info.dtype)
        except (ValueError, TypeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"input {info.name!r} does not fit an array of {info.dtype}: {error}") from error
    array = np.asarray(value)
    if array.dtype == info.dtype:
        return array
    if array.dtype.newbyteorder("=") == info.dtype:
        return array.astype(info.dtype)
    raise InputError(
        f"input {info.name!r} has dtype {array.dtype}, the model needs {info.dtype}; "
        f"convert it with numpy.asarray(x, {str(info.dtype)!r}) if that is meant"
    )


def _as_strings(info: TensorInfo, value: Any) -> NDArray[Any]:
    """`value` as an array of str objects."""
    given = np.asarray(value) if hasattr(value, "dtype") or isinstance(value, str) else np.array(value, object)
    if given.size and given.dtype.kind not in "OUT":
        raise InputError(f"input {info.name!r} has dtype {given.dtype}, the model needs strings: an array of str")
    array = given if given.dtype.kind == "O" else given.astype(object)
    items: list[object] = array.reshape(-1).tolist()
    for index, item in enumerate(items if set(map(type, items)) - {str} else ()):
        if not isinstance(item, str):
            raise InputError(f"input {info.name!r}: element {index} is of type {type(item).__name__}, str is needed")
    return array


def _span(low: int, high: int) -> str:
    return f"in {low} to {high}" if high < UNBOUNDED else f"{low} or more"


def solve(manifest: Manifest, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """The symbols' values that give the inputs these shapes, in the order of ``manifest.inputs``.

    Raises InputError for a wrong rank or extent, for a symbol that would need two values or is out of range.
    """
    values: dict[str, int] = {}
    sources: dict[str, str] = {}
    for signature, shape in zip(manifest.inputs, shapes, strict=True):
        if len(shape) != len(signature.shape):
            raise InputError(f"{_input(signature, shape)} has {len(shape)} axes, {len(signature.shape)} are needed")
        for axis, (dim, extent) in enumerate(zip(signature.shape, shape, strict=True)):
            if not isinstance(dim, str):
                continue
            low, high = manifest.symbols[dim]
            if not low <= extent <= high:
                raise InputError(f"{_axis(signature, shape, axis)}, but {dim} must be {_span(low, high)}")
            if values.setdefault(dim, extent) != extent:
                raise InputError(f"{_axis(signature, shape, axis)}, but {sources[dim]} has {dim} = {values[dim]}")
            sources.setdefault(dim, f"axis {axis} of input {signature.name!r}")
    for signature, shape in zip(manifest.inputs, shapes, strict=True):
        for axis, (dim, extent) in enumerate(zip(signature.shape, shape, strict=True)):
            form = linear(dim) if isinstance(dim, tuple) else None
            if form is None or form[1] in values:
                continue
            stride, name, rest = form
            low, high = manifest.symbols[name]
            if (extent - rest) % stride or not low <= (extent - rest) // stride <= high:
                need = f"a multiple of {stride}" + (f" and {rest} more" if rest else "")
                raise InputError(
                    f"{_axis(signature, shape, axis)}, but {show(dim)} is needed: {need}, "
                    f"{_span(low * stride + rest, high * stride + rest)}"
                )
            values[name] = (extent - rest) // stride
    derived: list[tuple[Signature, tuple[int, ...], int]] = []
    for signature, shape in zip(manifest.inputs, shapes, strict=True):
        for axis, (dim, extent) in enumerate(zip(signature.shape, shape, strict=True)):
            if isinstance(dim, tuple):
                derived.append((signature, shape, axis))
            elif isinstance(dim, int) and dim != extent:
                raise InputError(f"{_axis(signature, shape, axis)}, but {dim} is needed")
    if derived:
        wanted = compile_dims(signature.shape[axis] for signature, _, axis in derived).evaluate(values)
        for (signature, shape, axis), expected in zip(derived, wanted, strict=True):
            if shape[axis] != expected:
                meaning = f"{show(signature.shape[axis])} = {expected}"
                raise InputError(f"{_axis(signature, shape, axis)}, but {meaning} is needed")
    return values


def _input(signature: Signature, shape: tuple[int, ...]) -> str:
    wanted = ", ".join(show(d) for d in signature.shape)
    return f"input {signature.name!r} of shape {list(shape)} (the model needs [{wanted}])"


def _axis(signature: Signature, shape: tuple[int, ...], axis: int) -> str:
    return f"{_input(signature, shape)} has {shape[axis]} on axis {axis}"
