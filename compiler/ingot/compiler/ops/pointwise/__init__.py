"""Pointwise operators: every result element depends on one element of each operand. Operands broadcast as in numpy.

Semantics are those of ONNX. Functions of f16, bf16 and f32 are evaluated in f64 and rounded once; arithmetic on f16
and bf16 is rounded after every operation.
"""

from ingot.compiler.ops.pointwise.arithmetic import (
    Abs,
    Add,
    Clip,
    Div,
    Fmod,
    Max,
    Min,
    Mod,
    Mul,
    Neg,
    Pow,
    Sign,
    Sub,
)
from ingot.compiler.ops.pointwise.conversion import (
    Cast,
    Ceil,
    Floor,
    Identity,
    Round,
)
from ingot.compiler.ops.pointwise.functions import (
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Cos,
    Cosh,
    Erf,
    Exp,
    Gelu,
    Log,
    Reciprocal,
    Relu,
    Sigmoid,
    Sin,
    Sinh,
    Softplus,
    Sqrt,
    Tan,
    Tanh,
)
from ingot.compiler.ops.pointwise.logic import (
    And,
    Equal,
    Greater,
    GreaterOrEqual,
    IsInf,
    IsNaN,
    Less,
    LessOrEqual,
    Not,
    Or,
    Where,
    Xor,
)
from ingot.compiler.ops.pointwise.operator import (
    ANY,
    COMPARABLE,
    FLOAT,
    LOGICAL,
    NUMBER,
    SIGNED,
    Binary,
    Pointwise,
    Unary,
)

__all__ = [
    "ANY", "COMPARABLE", "FLOAT", "LOGICAL", "NUMBER", "SIGNED", "Abs", "Acos", "Acosh", "Add", "And", "Asin",
    "Asinh", "Atan", "Atanh", "Binary", "Cast", "Ceil", "Clip", "Cos", "Cosh", "Div", "Equal", "Erf", "Exp",
    "Floor", "Fmod", "Gelu", "Greater", "GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual",
    "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pointwise", "Pow", "Reciprocal", "Relu", "Round",
    "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Sqrt", "Sub", "Tan", "Tanh", "Unary", "Where", "Xor",
]  # fmt: skip
