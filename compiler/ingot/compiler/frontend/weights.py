"""Constant data of a model as numpy arrays that share the bytes of the file: nothing is copied, files may exceed 2 GB.

`ModelData` holds the parsed model without its large payloads and knows where they lie: in the model file itself
(`wire.py`) or in external data files next to it, which are memory-mapped when first used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from ingot.compiler.frontend.errors import ModelError, UnsupportedError
from ingot.compiler.frontend.mapping import map_file
from ingot.compiler.frontend.wire import PAYLOAD_KEY, SMALLEST_PAYLOAD, cut_payloads
from ingot.compiler.ir.graph import Array
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType

_CODES = onnx.TensorProto.DataType
DTYPES: dict[int, DType] = {
    _CODES.FLOAT: dtypes.f32,
    _CODES.DOUBLE: dtypes.f64,
    _CODES.FLOAT16: dtypes.f16,
    _CODES.BFLOAT16: dtypes.bf16,
    _CODES.INT64: dtypes.i64,
    _CODES.INT32: dtypes.i32,
    _CODES.INT16: dtypes.i16,
    _CODES.INT8: dtypes.i8,
    _CODES.UINT64: dtypes.u64,
    _CODES.UINT32: dtypes.u32,
    _CODES.UINT16: dtypes.u16,
    _CODES.UINT8: dtypes.u8,
    _CODES.BOOL: dtypes.boolean,
    _CODES.FLOAT8E4M3FN: dtypes.f8e4m3fn,
    _CODES.FLOAT8E4M3FNUZ: dtypes.f8e4m3fnuz,
    _CODES.FLOAT8E5M2: dtypes.f8e5m2,
    _CODES.FLOAT8E5M2FNUZ: dtypes.f8e5m2fnuz,
    _CODES.FLOAT8E8M0: dtypes.f8e8m0,
    _CODES.FLOAT4E2M1: dtypes.f4e2m1,
    _CODES.INT4: dtypes.i4,
    _CODES.UINT4: dtypes.u4,
    _CODES.INT2: dtypes.i2,
    _CODES.UINT2: dtypes.u2,
    _CODES.STRING: dtypes.string,
}
PACKED: dict[DType, int] = {dtypes.f4e2m1: 4, dtypes.i4: 4, dtypes.u4: 4, dtypes.i2: 2, dtypes.u2: 2}
"""Bits of an element in a file, where several share a byte, the first in the lowest bits."""
LARGEST_DENSE = 2**26  # elements of a sparse tensor once its zeros are there
CODES: dict[DType, int] = {dtype: code for code, dtype in DTYPES.items()}


def dtype_of(code: int, what: str) -> DType:
    """The element type of an ONNX type code; UnsupportedError, naming `what`, when there is none."""
    if code in DTYPES:
        return DTYPES[code]
    if code == _CODES.UNDEFINED:
        raise ModelError(f"{what} has no element type", remedy="export the model again with types")
    spelling = _CODES.Name(code).lower() if code in _CODES.values() else f"number {code}"
    raise UnsupportedError(
        f"{what} has element type {spelling}",
        remedy=f"element types supported: {', '.join(dtypes.BY_NAME)}",
    )


@dataclass
class ModelData:
    """A parsed model, the bytes its payload numbers refer to, and the folder external data is looked up in.

    Arrays are read-only views; `array` gives the same array object for the same tensor.
    """

    proto: onnx.ModelProto
    name: str | None = None
    folder: Path | None = None
    data: memoryview | None = None
    payloads: tuple[tuple[int, int], ...] = ()
    _files: dict[str, memoryview] = field(default_factory=dict[str, memoryview], repr=False)

    def array(self, tensor: onnx.TensorProto) -> Array:
        """The contents of `tensor`: read-only, memory-mapped where the model is a file.

        Raises ModelError when the bytes do not fit its shape.
        """
        what = f"tensor {tensor.name!r}" if tensor.name else "a tensor attribute"
        dtype = dtype_of(tensor.data_type, what)
        if any(d < 0 for d in tensor.dims):
            raise ModelError(f"{what} has a negative dim in its shape {list(tensor.dims)}")
        if tensor.HasField("segment"):
            raise UnsupportedError(f"{what} is stored in segments", remedy="save the model again with onnx.save")
        shape = tuple(int(d) for d in tensor.dims)
        raw = self.raw(tensor)
        if dtype == dtypes.string:
            array = _strings(tensor, raw, what)
        elif dtype in PACKED:
            packed = np.frombuffer(raw, np.uint8) if raw is not None else _from_fields(tensor, dtypes.u8, what)
            array = _unpacked(packed, dtype, shape, what)
        elif raw is None:
            array = _from_fields(tensor, dtype, what)
        else:
            array = _from_bytes(raw, dtype, shape, what)
        if array.size != math.prod(shape):
            raise ModelError(f"{what} of shape {list(shape)} has {array.size} elements, not {math.prod(shape)}")
        array = array.reshape(shape)
        array.flags.writeable = False
        return array

    def dense(self, sparse: onnx.SparseTensorProto) -> Array:
        """The contents of a sparse tensor with its zeros: read-only, a copy.

        Its indices are positions in the flattened tensor [n] or one row of coordinates for each element [n, rank].
        Raises ModelError when they do not fit, UnsupportedError beyond LARGEST_DENSE elements.
        """
        what = f"sparse tensor {sparse.values.name!r}"
        shape = tuple(int(d) for d in sparse.dims)
        values, places = self.array(sparse.values), self.array(sparse.indices)
        if any(d < 0 for d in shape):
            raise ModelError(f"{what} has a negative dim in its shape {list(shape)}")
        if math.prod(shape) > LARGEST_DENSE:
            raise UnsupportedError(
                f"{what} has {math.prod(shape)} elements with its zeros, at most {LARGEST_DENSE} are supported",
                remedy="export the model with dense weights",
            )
        rows = (values.size,) if places.ndim == 1 else (values.size, len(shape))
        if values.ndim != 1 or places.dtype != np.int64 or places.shape != rows:
            raise ModelError(
                f"{what} has {list(values.shape)} values and indices {places.dtype}{list(places.shape)}",
                remedy="one i64 position, or one row of coordinates, is needed for each value",
            )
        limits = np.array(shape if places.ndim == 2 else math.prod(shape), np.int64)
        if ((places < 0) | (places >= limits)).any():
            raise ModelError(f"{what} has an index outside its shape {list(shape)}")
        array = np.full(shape, "" if values.dtype.hasobject else 0, values.dtype)
        if places.ndim == 2:
            array[tuple(places.T)] = values
        else:
            array.reshape(-1)[places] = values
        array.flags.writeable = False
        return array

    def raw(self, tensor: onnx.TensorProto) -> memoryview | None:
        """The bytes of `tensor` where they lie, None when they are in its typed fields. Raises ModelError."""
        what = f"tensor {tensor.name!r}" if tensor.name else "a tensor attribute"
        for entry in reversed(tensor.external_data):
            if entry.key == PAYLOAD_KEY and self.data is not None:
                number = int(entry.value) if entry.value.isdecimal() else -1
                if not 0 <= number < len(self.payloads):
                    raise ModelError(f"{what} names payload {entry.value!r}, which the file does not have")
                offset, length = self.payloads[number]
                return self.data[offset : offset + length]
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._external(tensor, what)
        return memoryview(tensor.raw_data) if tensor.HasField("raw_data") else None

    def _external(self, tensor: onnx.TensorProto, what: str) -> memoryview:
        """The bytes of external data: the file `location` from `offset`, `length` bytes (else to its end)."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if not location:
            raise ModelError(f"{what} is stored outside the model, but no file is named")
        if self.folder is None:
            raise ModelError(
                f"{what} is stored in the file {location!r}, but the model was not given as a path",
                remedy="pass the path of the model file, or load its external data first",
            )
        data = self._map(location, what)
        offset, length = _number(entries, "offset", what), _number(entries, "length", what)
        start = offset or 0
        end = start + length if length is not None else len(data)
        if start > len(data) or end > len(data):
            raise ModelError(
                f"{what} lies at bytes {start}..{end} of {location!r}, which has {len(data)}",
                remedy="the file is truncated or belongs to another model",
            )
        return data[start:end]

    def _map(self, location: str, what: str) -> memoryview:
        if location in self._files:
            return self._files[location]
        assert self.folder is not None
        folder = self.folder.resolve()
        try:
            path = (folder / location).resolve()
            plain = not Path(location).is_absolute() and ".." not in Path(location).parts
        except (ValueError, OSError, RuntimeError) as error:  # a null byte, a loop of links
            raise ModelError(f"{what} names the file {location!r}, which is not a usable path: {error}") from error
        if not (plain and path.is_relative_to(folder)):
            raise ModelError(
                f"{what} names the file {location!r}, which is outside the model's folder {str(self.folder)!r}",
                remedy="external data must lie beside the model or below it",
            )
        if not path.is_file():
            raise ModelError(
                f"{what} is stored in {str(self.folder / location)!r}, which does not exist",
                remedy="put the external data file beside the model",
            )
        self._files[location] = map_file(path)
        return self._files[location]


def _number(entries: dict[str, str], key: str, what: str) -> int | None:
    text = entries.get(key, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ModelError(f"{what} has the external data {key} {text!r}, which is not a byte count")
    return int(text)


def open_model(data: memoryview, name: str | None, folder: Path | None) -> ModelData:
    """Parse a serialised model, leaving its large payloads where they are; ModelError when it is malformed."""
    if len(data) == 0:
        raise ModelError("the file is empty", file=name)
    try:
        skeleton = cut_payloads(data)
        proto = onnx.ModelProto.FromString(skeleton.data)
    except ModelError as error:
        raise error.at(file=name) from None
    except DecodeError as error:
        raise ModelError(
            f"not a well-formed ONNX model: {error}",
            remedy="the file is truncated, damaged or not an ONNX model: export or download it again",
            file=name,
        ) from error
    return ModelData(proto, name, folder, data, skeleton.payloads)


def _strings(tensor: onnx.TensorProto, raw: memoryview | None, what: str) -> Array:
    """The elements of a tensor of strings, which are UTF-8."""
    if raw is not None:
        raise ModelError(f"{what} holds strings as raw bytes", remedy="strings are stored in string_data")
    array = np.empty(len(tensor.string_data), object)
    for i, data in enumerate(tensor.string_data):
        try:
            array[i] = data.decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{what}: element {i} is no UTF-8 text: {error}") from None
    return array


def _unpacked(data: Array, dtype: DType, shape: tuple[int, ...], what: str) -> Array:
    """One element a byte from a file's several."""
    bits, count = PACKED[dtype], math.prod(shape)
    needed = -(-count * bits // 8)
    if data.size != needed:
        raise ModelError(f"{what} of type {dtype.name}{list(shape)} has {data.size} bytes of data, not {needed}")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    elements = (data.reshape(-1, 1) >> shifts) & np.uint8((1 << bits) - 1)
    return elements.reshape(-1)[:count].view(dtype.to_numpy())


def _from_bytes(raw: memoryview, dtype: DType, shape: tuple[int, ...], what: str) -> Array:
    numpy_dtype = dtype.to_numpy()
    needed = math.prod(shape) * numpy_dtype.itemsize
    if len(raw) != needed:
        raise ModelError(f"{what} of type {dtype.name}{list(shape)} has {len(raw)} bytes of data, not {needed}")
    stored = numpy_dtype.newbyteorder("<") if dtype.numpy is not None else numpy_dtype
    if dtype == dtypes.boolean and len(raw) < SMALLEST_PAYLOAD:  # any byte but 0 is true
        return np.frombuffer(raw, np.uint8) != 0
    return np.frombuffer(raw, stored)


def _from_fields(tensor: onnx.TensorProto, dtype: DType, what: str) -> Array:
    """The typed data fields of a TensorProto; 16-bit floats lie as bit patterns in int32_data."""
    numpy_dtype = dtype.to_numpy()
    try:
        if dtype == dtypes.f32:
            return np.array(tensor.float_data, np.float32)
        if dtype == dtypes.f64:
            return np.array(tensor.double_data, np.float64)
        if dtype == dtypes.i64:
            return np.array(tensor.int64_data, np.int64)
        if dtype in (dtypes.u64, dtypes.u32):
            return _narrow(np.array(tensor.uint64_data, np.uint64), numpy_dtype)
        values = np.array(tensor.int32_data, np.int32)
        if dtype.kind == "opaque":
            return _narrow(values, np.dtype(np.uint8)).view(numpy_dtype)
        if dtype in (dtypes.f16, dtypes.bf16):
            return _narrow(values, np.dtype(np.uint16)).view(numpy_dtype)
        return values != 0 if dtype == dtypes.boolean else _narrow(values, numpy_dtype)
    except OverflowError as error:
        raise ModelError(f"{what} has values outside the range of {dtype.name}") from error


def _narrow(values: Array, dtype: np.dtype[Any]) -> Array:
    info = np.iinfo(dtype)
    if values.size and (int(values.min()) < info.min or int(values.max()) > info.max):
        raise OverflowError
    return values.astype(dtype)
