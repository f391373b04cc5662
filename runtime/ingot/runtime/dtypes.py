"""Element types: names, storage sizes and numpy equivalents, defined once for the compiler and the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

Kind: TypeAlias = Literal["float", "signed", "unsigned", "bool", "opaque", "string"]


@dataclass(frozen=True, slots=True)
class DType:
    """An element type. `bits` is the storage size; `numpy` the equivalent numpy dtype, None where numpy has none.

    Elements of an "opaque" type are moved and reinterpreted, never computed with: 8-bit and smaller floats, integers of
    4 and 2 bits. Each takes a byte, as in ml_dtypes' arrays; the upper bits of small ones mean nothing.

    A "string" is a Python str in arrays of objects. In memory that code works on it is a handle, an i64 that a pool of
    strings knows (`ingot.runtime.host.pool`); equal strings have equal handles.
    """

    name: str
    kind: Kind
    bits: int
    numpy: str | None

    @property
    def bytes(self) -> int:
        """Bytes of one element; ValueError for sub-byte types."""
        if self.bits % 8:
            raise ValueError(f"{self.name} elements are {self.bits} bits, not whole bytes")
        return self.bits // 8

    @property
    def is_float(self) -> bool:
        """True for floating-point types."""
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers (not bool)."""
        return self.kind in ("signed", "unsigned")

    def to_numpy(self) -> np.dtype[Any]:
        """The numpy dtype; what numpy lacks through ml_dtypes when it is installed, else TypeError."""
        if self.numpy is not None:
            return np.dtype(self.numpy)
        try:
            import ml_dtypes
        except ImportError as error:
            raise TypeError(f"numpy has no {self.name}: pip install ml_dtypes") from error
        return np.dtype(getattr(ml_dtypes, _ML_DTYPES[self.name]))

    def to_array(self) -> np.dtype[Any]:
        """The dtype of arrays that go into a model and come out: `to_numpy`, and where numpy lacks the type and
        ml_dtypes is not installed the unsigned integer of that size, which holds the raw bits."""
        try:
            return self.to_numpy()
        except TypeError:
            return np.dtype(f"uint{self.bits}")

    def __repr__(self) -> str:
        return self.name


f64 = DType("f64", "float", 64, "float64")
f32 = DType("f32", "float", 32, "float32")
f16 = DType("f16", "float", 16, "float16")
bf16 = DType("bf16", "float", 16, None)
i64 = DType("i64", "signed", 64, "int64")
i32 = DType("i32", "signed", 32, "int32")
i16 = DType("i16", "signed", 16, "int16")
i8 = DType("i8", "signed", 8, "int8")
u64 = DType("u64", "unsigned", 64, "uint64")
u32 = DType("u32", "unsigned", 32, "uint32")
u16 = DType("u16", "unsigned", 16, "uint16")
u8 = DType("u8", "unsigned", 8, "uint8")
boolean = DType("bool", "bool", 8, "bool")

f8e4m3fn = DType("f8e4m3fn", "opaque", 8, None)
f8e4m3fnuz = DType("f8e4m3fnuz", "opaque", 8, None)
f8e5m2 = DType("f8e5m2", "opaque", 8, None)
f8e5m2fnuz = DType("f8e5m2fnuz", "opaque", 8, None)
f8e8m0 = DType("f8e8m0", "opaque", 8, None)
f4e2m1 = DType("f4e2m1", "opaque", 8, None)
i4 = DType("i4", "opaque", 8, None)
u4 = DType("u4", "opaque", 8, None)
i2 = DType("i2", "opaque", 8, None)
u2 = DType("u2", "opaque", 8, None)

string = DType("string", "string", 64, "object")

ALL: tuple[DType, ...] = (f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean)
"""The types that are computed with."""
OPAQUE: tuple[DType, ...] = (f8e4m3fn, f8e4m3fnuz, f8e5m2, f8e5m2fnuz, f8e8m0, f4e2m1, i4, u4, i2, u2)
BY_NAME: dict[str, DType] = {d.name: d for d in (*ALL, *OPAQUE, string)}
_ML_DTYPES: dict[str, str] = {
    "bf16": "bfloat16",
    "f8e4m3fn": "float8_e4m3fn",
    "f8e4m3fnuz": "float8_e4m3fnuz",
    "f8e5m2": "float8_e5m2",
    "f8e5m2fnuz": "float8_e5m2fnuz",
    "f8e8m0": "float8_e8m0fnu",
    "f4e2m1": "float4_e2m1fn",
    "i4": "int4",
    "u4": "uint4",
    "i2": "int2",
    "u2": "uint2",
}
_BY_NUMPY: dict[str, DType] = {
    **{d.numpy: d for d in ALL if d.numpy},
    **{numpy_name: BY_NAME[name] for name, numpy_name in _ML_DTYPES.items()},
    "object": string,
}


def stored_dtype(dtype: DType) -> DType:
    """The element type in memory that code works on: handles for strings."""
    return i64 if dtype.kind == "string" else dtype


def from_numpy(dtype: np.dtype[Any]) -> DType:
    """The element type of a numpy dtype (any byte order); TypeError when there is none."""
    try:
        return _BY_NUMPY[np.dtype(dtype).name]
    except KeyError:
        raise TypeError(f"no element type for numpy dtype {dtype}; supported: {', '.join(_BY_NUMPY)}") from None
