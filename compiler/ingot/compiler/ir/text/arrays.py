"""Array literals: ``f32[2, 2]{1.0, -0.5, inf, nan}`` for small ones, ``f32[64, 3]@0123456789abcdef`` for big ones.

Every literal reads back to the same bits. The hexadecimal number is the start of the SHA-256 of type and content.
Strings are always written out, in quotes and escaped as in JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.text.scanner import Scanner
from ingot.compiler.ir.types import TensorType, type_of
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType

Array = NDArray[Any]
_HASH = re.compile(r"[0-9a-f]{16}(?!\w)")
INLINE = 16  # elements up to which a literal is written out


def content_hash(array: Array) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of type and elements."""
    digest = hashlib.sha256(str(type_of(array)).encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def show_array(array: Array, resources: MutableMapping[str, Array] | None, cache: dict[str, Any]) -> str:
    """The literal of `array`; a big one is also put into `resources`. `cache` keeps its hash from call to call (the
    ``__dict__`` of the node that holds the array)."""
    head = str(type_of(array))
    if array.size <= INLINE or array.dtype.hasobject:
        return head + "{" + ", ".join(show_elements(array)) + "}"
    key = cache.get("_content_hash")
    if key is None and _is_splat(array):
        return head + "{splat " + show_elements(array.reshape(-1)[:1])[0] + "}"
    if key is None:
        key = cache["_content_hash"] = content_hash(array)
    if resources is not None and key not in resources:
        resources[key] = array
    return f"{head}@{key}"


def _is_splat(array: Array) -> bool:
    """True when all elements have the same bits."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, -1)
    return bool((flat[0] == flat[-1]).all() and (flat[0] == flat).all())


def show_elements(array: Array) -> list[str]:
    """Each element as the shortest text that reads back to the same bits."""
    if array.dtype.hasobject:
        return [json.dumps(x) for x in array.reshape(-1).tolist()]
    if array.dtype == np.bool_:
        return ["true" if x else "false" for x in array.reshape(-1)]
    if np.issubdtype(array.dtype, np.integer):
        return [str(int(x)) for x in array.reshape(-1)]
    return [_show_float(x) for x in array.reshape(-1)]


def _show_float(x: Any) -> str:
    dtype: np.dtype[Any] = x.dtype
    bits = np.asarray(x).view(f"u{dtype.itemsize}")
    value = float(x)
    if value != value:
        plain = np.asarray(float("nan")).astype(dtype).view(f"u{dtype.itemsize}")
        return "nan" if bits == plain else f"nan({int(bits):#x})"
    text = repr(value) if dtype == np.float64 or value in (float("inf"), float("-inf")) else str(x)
    if np.asarray(float(text)).astype(dtype).view(f"u{dtype.itemsize}") != bits:
        text = repr(value)
    return text


def parse_element(text: str, dtype: DType) -> Any:
    """The element of type `dtype` (a float dtype) that a number's text stands for, as a numpy scalar."""
    numpy_dtype = dtype.to_numpy()
    if text.startswith("nan("):
        return np.asarray(int(text[4:-1], 16), f"u{numpy_dtype.itemsize}").view(numpy_dtype)[()]
    return np.asarray(float(text)).astype(numpy_dtype)[()]


def parse_array(scanner: Scanner, resources: Mapping[str, Array]) -> Array:
    """Read a literal; a big one comes from `resources`. The array is read-only."""
    start = scanner.at
    declared = scanner.tensor_type()
    if not declared.is_static:
        scanner.fail("a type without symbolic dims", start)
    shape = declared.static_shape()
    if scanner.accept("@"):
        return _resource(scanner, declared, resources)
    size = int(np.prod(shape, dtype=np.int64))
    scanner.expect("{")
    splat = scanner.accept("splat")
    elements: list[Any] = []
    while not scanner.sees("}"):
        if elements:
            scanner.expect(",")
        elements.append(_element(scanner, declared.dtype))
    if len(elements) != (1 if splat else size):
        scanner.fail(f"{1 if splat else size} elements, got {len(elements)}, then '}}'")
    scanner.expect("}")
    array = np.empty(size, declared.dtype.to_numpy())
    if splat:
        array[:] = elements[0]
    else:
        for i, element in enumerate(elements):
            array[i] = element
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def _element(scanner: Scanner, dtype: DType) -> Any:
    if dtype.kind == "bool":
        return scanner.boolean()
    if dtype == dtypes.string:
        return scanner.string()
    if dtype.is_float or dtype.kind == "opaque":
        return parse_element(scanner.number(), dtype)
    start = scanner.at
    value = scanner.integer()
    limits = np.iinfo(dtype.to_numpy())
    if not limits.min <= value <= limits.max:
        scanner.fail(f"an element of {dtype.name}", start)
    return value


def _resource(scanner: Scanner, declared: TensorType, resources: Mapping[str, Array]) -> Array:
    start = scanner.at
    key = scanner.match(_HASH, "16 hexadecimal digits")
    if key not in resources:
        scanner.fail("the hash of an array among the resources", start)
    array = resources[key]
    want = declared.dtype.to_numpy()
    if array.dtype != want and array.dtype.itemsize == want.itemsize and array.dtype.kind == "V":
        array = array.view(want)  # .npy files know no bfloat16
    if array.dtype != want or array.shape != declared.shape:
        scanner.fail(f"an array of type {declared} (the stored one is {array.dtype}{list(array.shape)})", start)
    return array
