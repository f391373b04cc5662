"""The element types an operator is written with: those that the standard allows and ONNX Runtime computes on CPUs.

Operands of other types are cast to a wider one that holds them exactly, and the result back. What no such type holds
(f64 where there are only f32 kernels) is written as the standard allows it: valid, for runtimes that have the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import onnx

from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType

_EVERY = frozenset(dtypes.ALL)


def _types(text: str) -> frozenset[DType]:
    return frozenset(dtypes.BY_NAME[name] for name in text.split())


_FLOATS = _types("f64 f32 f16")
_SINGLES = _types("f32 f16")
_NUMBERS = _EVERY - _types("bf16 bool")
_WIDE = _types("f64 f32 f16 i64 i32")
_ORDERED = _types("f64 f32 f16 i64 i32 i8 u64 u32 u8")
_LOGICAL = _types("bool")

# ONNX Runtime 1.31, operators from opset 13 on. Those that are missing run with every type that the standard allows.
RUNS: Mapping[str, frozenset[DType]] = {
    **dict.fromkeys(("Abs", "Add", "Sub", "Mul", "Div", "Mod"), _NUMBERS),
    **dict.fromkeys(("Less", "LessOrEqual", "Greater", "GreaterOrEqual"), _NUMBERS),
    **dict.fromkeys(("Min", "Max", "Clip"), _ORDERED),
    **dict.fromkeys(("Reciprocal", "Sqrt", "Exp", "Log", "Tanh", "Sigmoid", "Sin", "Cos"), _FLOATS),
    **dict.fromkeys(("Floor", "Ceil", "Round", "Softmax", "LogSoftmax", "BatchNormalization", "Swish"), _FLOATS),
    **dict.fromkeys(("Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"), _SINGLES),
    **dict.fromkeys(("Erf", "Softplus", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Gelu"), _SINGLES),
    **dict.fromkeys(("Conv", "AveragePool"), _SINGLES),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceProd", "CumSum", "CumProd"), _WIDE),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), _WIDE | _types("i8 u8 bool")),
    **dict.fromkeys(("ArgMax", "ArgMin"), _WIDE | _types("i8 u8")),
    **dict.fromkeys(("And", "Or", "Xor", "Not"), _LOGICAL),
    "Neg": _types("f64 f32 f16 i64 i32 i16 i8"),
    "Relu": _types("f64 f32 f16 i32 i8"),
    "Equal": _NUMBERS | _LOGICAL,
    "Where": _types("f64 f32 f16 i64 i32 i8 u32 u8"),
    "Pow": _WIDE,
    "MatMul": _types("f64 f32 f16 i64 i32 u64 u32"),
    "MaxPool": _types("f64 f32 f16 i8 u8"),
    "Expand": _EVERY - _types("bf16"),
    "Pad": _types("f64 f32 f16 i64 i32 i8 u64 u32 u8 bool"),
    "BitShift": _types("u8 u32 u64"),
    "LayerNormalization": _SINGLES,  # f64 would be computed in f32, by the standard's stash_type
    "Attention": _FLOATS,
    "Range": _types("i64 i32"),
    "LSTM": _FLOATS,
    **dict.fromkeys(("RNN", "GRU", "ConvTranspose"), _SINGLES),
    "TopK": _types("f64 f32 f16 i64 i32 i16 i8 u8"),
    "QuantizeLinear": _SINGLES,
    "DequantizeLinear": _types("i8 u8 i16 u16 i32"),
}

# Types that hold every value of a type, nearest first.
_WIDER: Mapping[DType, tuple[DType, ...]] = {
    dtypes.f16: (dtypes.f32,),
    dtypes.bf16: (dtypes.f32,),
    dtypes.i8: (dtypes.i32, dtypes.i64, dtypes.f32),
    dtypes.i16: (dtypes.i32, dtypes.i64, dtypes.f32),
    dtypes.i32: (dtypes.i64, dtypes.f64),
    dtypes.u8: (dtypes.i32, dtypes.i64, dtypes.f32),
    dtypes.u16: (dtypes.i32, dtypes.i64, dtypes.u32, dtypes.f32),
    dtypes.u32: (dtypes.i64, dtypes.u64, dtypes.f64),
    dtypes.boolean: (dtypes.u8, dtypes.i32),
}
# Operators whose result modulo 2**64 depends on nothing but their operands modulo 2**64.
_MODULAR = frozenset(("Where", "Neg", "ReduceSum", "ReduceProd", "CumSum", "CumProd", "Expand", "Pad"))


@cache
def allowed(op_type: str, opset: int) -> frozenset[DType]:
    """The element types of the first operand of a standard operator (of Where: what it chooses from); empty when the
    opset has no such operator."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return frozenset()
    if schema.deprecated:
        return frozenset()
    parameter = schema.inputs[1 if op_type == "Where" else 0].type_str
    spelled = next(
        (set(c.allowed_type_strs) for c in schema.type_constraints if c.type_param_str == parameter), {parameter}
    )
    return frozenset(dtype for dtype, text in _SPELLING.items() if text in spelled)


_SPELLING: Mapping[DType, str] = {
    dtypes.f64: "tensor(double)",
    dtypes.f32: "tensor(float)",
    dtypes.f16: "tensor(float16)",
    dtypes.bf16: "tensor(bfloat16)",
    **{d: f"tensor(int{d.bits})" for d in dtypes.ALL if d.kind == "signed"},
    **{d: f"tensor(uint{d.bits})" for d in dtypes.ALL if d.kind == "unsigned"},
    dtypes.boolean: "tensor(bool)",
    dtypes.string: "tensor(string)",
}


def compute_type(op_type: str, dtype: DType, opset: int) -> DType | None:
    """The element type in which operands of `dtype` are given to `op_type`, None when the opset allows none that holds
    them. Prefers types that ONNX Runtime computes."""
    standard = allowed(op_type, opset)
    runnable = standard & RUNS.get(op_type, _EVERY)
    wider = _WIDER.get(dtype, ())
    if dtype == dtypes.u64 and op_type in _MODULAR:
        wider = (dtypes.i64,)
    for choices in (runnable, standard):
        for candidate in (dtype, *wider):
            if candidate in choices:
                return candidate
    return None


def runs(op_type: str, dtype: DType, opset: int) -> bool:
    """True when ONNX Runtime computes `op_type` for operands of `dtype`, cast to a wider type or not."""
    found = compute_type(op_type, dtype, opset)
    return found is not None and found in RUNS.get(op_type, _EVERY)
