"""Types and data as the messages of ONNX."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from ingot.compiler.frontend.weights import CODES, PACKED
from ingot.compiler.ir.dims import show
from ingot.compiler.ir.graph import Array
from ingot.compiler.ir.types import TensorType
from ingot.runtime.dtypes import from_numpy


def value_info(name: str, type_: TensorType) -> onnx.ValueInfoProto:
    """A name with its type; symbolic dims as dim_params."""
    shape = [d if isinstance(d, int) else show(d) for d in type_.shape]
    return helper.make_tensor_value_info(name, CODES[type_.dtype], shape)


def tensor(data: Array, name: str = "") -> onnx.TensorProto:
    """`data` as a TensorProto with raw_data, or with string_data where it holds strings."""
    proto = tensor_header(data, name)
    if data.dtype.hasobject:
        proto.string_data.extend(text.encode() for text in data.reshape(-1).tolist())
        return proto
    proto.raw_data = little_endian(packed(data)).tobytes()
    return proto


def tensor_header(data: Array, name: str) -> onnx.TensorProto:
    """A TensorProto with everything but the data."""
    return onnx.TensorProto(name=name, data_type=CODES[from_numpy(data.dtype)], dims=data.shape)


def packed(data: Array) -> Array:
    """`data` as it lies in a file: of elements of less than a byte several to each, the first in the lowest bits, u8 in
    one row."""
    bits = PACKED.get(from_numpy(data.dtype))
    if bits is None:
        return data
    each = 8 // bits
    codes = np.zeros(-(-data.size // each) * each, np.uint8)
    codes[: data.size] = np.ascontiguousarray(data).reshape(-1).view(np.uint8) & np.uint8((1 << bits) - 1)
    whole = np.zeros(codes.size // each, np.uint8)
    for i in range(each):
        whole |= codes[i::each] << np.uint8(i * bits)
    return whole


def little_endian(data: Array) -> Array:
    """`data` in the byte order of raw_data, without a copy where it has it already."""
    return data.astype(data.dtype.newbyteorder("<"), copy=False) if data.dtype.byteorder == ">" else data
