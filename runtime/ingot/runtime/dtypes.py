"""Element types: names, storage sizes and numpy equivalents, defined once for the compiler and the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

Kind: TypeAlias = Literal["float", "signed", "unsigned", "bool"]


@dataclass(frozen=True, slots=True)
class DType:
    """An element type. `bits` is the storage size; `numpy` the equivalent numpy dtype, None where numpy has none."""

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
        """The numpy dtype; bf16 through ml_dtypes when it is installed, else TypeError."""
        if self.numpy is not None:
            return np.dtype(self.numpy)
        try:
            import ml_dtypes
        except ImportError as error:
            raise TypeError(f"numpy has no {self.name}: pip install ml_dtypes") from error
        return np.dtype(getattr(ml_dtypes, {"bf16": "bfloat16"}[self.name]))

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

ALL: tuple[DType, ...] = (f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean)
BY_NAME: dict[str, DType] = {d.name: d for d in ALL}
_BY_NUMPY: dict[str, DType] = {**{d.numpy: d for d in ALL if d.numpy}, "bfloat16": bf16}


def from_numpy(dtype: np.dtype[Any]) -> DType:
    """The element type of a numpy dtype (any byte order); TypeError when there is none."""
    try:
        return _BY_NUMPY[np.dtype(dtype).name]
    except KeyError:
        raise TypeError(f"no element type for numpy dtype {dtype}; supported: {', '.join(_BY_NUMPY)}") from None
