"""Arithmetic, comparison, logic, bits, Cast, Where and Clip."""

from __future__ import annotations

from collections.abc import Mapping

from ingot.compiler.frontend.export.errors import ExportError
from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Row, Table, Written
from ingot.compiler.frontend.weights import CODES, PACKED
from ingot.compiler.ir.graph import Constant, Node, Value, constant, describe, operands_of
from ingot.compiler.ops import bitwise
from ingot.compiler.ops import pointwise as ops
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType

TABLE = Table()

SAME_TYPE: Mapping[type[Node], str] = {
    ops.Abs: "Abs",
    ops.Sign: "Sign",
    ops.Reciprocal: "Reciprocal",
    ops.Sqrt: "Sqrt",
    ops.Exp: "Exp",
    ops.Log: "Log",
    ops.Erf: "Erf",
    ops.Tanh: "Tanh",
    ops.Sigmoid: "Sigmoid",
    ops.Softplus: "Softplus",
    ops.Sin: "Sin",
    ops.Cos: "Cos",
    ops.Tan: "Tan",
    ops.Asin: "Asin",
    ops.Acos: "Acos",
    ops.Atan: "Atan",
    ops.Sinh: "Sinh",
    ops.Cosh: "Cosh",
    ops.Asinh: "Asinh",
    ops.Acosh: "Acosh",
    ops.Atanh: "Atanh",
    ops.Floor: "Floor",
    ops.Ceil: "Ceil",
    ops.Round: "Round",
    ops.Neg: "Neg",
    ops.Not: "Not",
    ops.Add: "Add",
    ops.Sub: "Sub",
    ops.Mul: "Mul",
    ops.Div: "Div",
    ops.Min: "Min",
    ops.Max: "Max",
    ops.And: "And",
    ops.Or: "Or",
    ops.Xor: "Xor",
    bitwise.BitAnd: "BitwiseAnd",
    bitwise.BitOr: "BitwiseOr",
    bitwise.BitXor: "BitwiseXor",
    bitwise.BitNot: "BitwiseNot",
}
PREDICATES: Mapping[type[Node], str] = {
    ops.IsNaN: "IsNaN",
    ops.IsInf: "IsInf",
    ops.Equal: "Equal",
    ops.Less: "Less",
    ops.LessOrEqual: "LessOrEqual",
    ops.Greater: "Greater",
    ops.GreaterOrEqual: "GreaterOrEqual",
}


def _same_type(op_type: str) -> Row:
    def row(scope: Scope, node: Node) -> Written:
        return scope.apply(op_type, node, *operands_of(node))

    return row


def _predicate(op_type: str) -> Row:
    def row(scope: Scope, node: Node) -> Written:
        operands = operands_of(node)
        dtype = operands[0].dtype
        compute = scope.compute_type(op_type, dtype, node)
        return scope.add(op_type, *(scope.cast(scope.name(v), dtype, compute) for v in operands))

    return row


for _op, _name in SAME_TYPE.items():
    TABLE.add(_op, _same_type(_name))
for _op, _name in PREDICATES.items():
    TABLE.add(_op, _predicate(_name))


@TABLE.exports(ops.Clip)
def clip(scope: Scope, node: ops.Clip) -> Written:
    """Without one of the bounds ONNX Runtime puts the largest finite number in its place, so that infinities change."""
    if node.low is None or node.high is None:
        op_type, bound = ("Min", node.high) if node.low is None else ("Max", node.low)
        return scope.apply(op_type, node, node.x, bound) if bound is not None else scope.name(node.x)
    return scope.apply("Clip", node, node.x, node.low, node.high)


@TABLE.exports(ops.Relu)
def relu(scope: Scope, node: ops.Relu) -> Written:
    if node.x.dtype.is_float:
        return scope.apply("Relu", node, node.x)
    return scope.apply("Max", node, node.x, constant(0, node.x.dtype))


@TABLE.exports(ops.Identity)
def identity(scope: Scope, node: ops.Identity) -> Written:
    return scope.name(node.x)


@TABLE.exports(ops.Cast)
def cast(scope: Scope, node: ops.Cast) -> Written:
    return scope.cast(scope.name(node.x), node.x.dtype, node.to)


@TABLE.exports(ops.Where)
def where(scope: Scope, node: ops.Where) -> Written:
    dtype = node.a.dtype
    compute = scope.compute_type("Where", dtype, node)
    branches = [scope.cast(scope.name(v), dtype, compute) for v in (node.a, node.b)]
    return scope.cast(scope.add("Where", scope.name(node.condition), *branches), compute, dtype)


@TABLE.exports(ops.Fmod)
def fmod(scope: Scope, node: ops.Fmod) -> Written:
    return scope.apply("Mod", node, node.a, node.b, fmod=1)


@TABLE.exports(ops.Mod)
def mod(scope: Scope, node: ops.Mod) -> Written:
    """Of floats, which Mod does not take: the remainder with the sign of a, plus b where the signs differ."""
    if not node.a.dtype.is_float:
        return scope.apply("Mod", node, node.a, node.b)
    zero = constant(0, node.a.dtype)
    rest = ops.Fmod(node.a, node.b)
    other_side = ops.Xor(ops.Less(rest, zero), ops.Less(node.b, zero))
    shifted = ops.And(ops.Not(ops.Equal(rest, zero)), other_side)
    return ops.Where(shifted, ops.Add(rest, node.b), rest)


@TABLE.exports(ops.Pow)
def pow_(scope: Scope, node: ops.Pow) -> Written:
    base, exponent = node.a.dtype, node.b.dtype
    wide = scope.compute_type("Pow", base, node)
    power = scope.compute_type("Pow", exponent, node)
    operands = scope.cast(scope.name(node.a), base, wide), scope.cast(scope.name(node.b), exponent, power)
    return scope.cast(scope.add("Pow", *operands), wide, base)


@TABLE.exports(bitwise.BitCast)
def bit_cast(scope: Scope, node: bitwise.BitCast) -> Written:
    """Between integers a Cast, which wraps; otherwise the operator that opset 26 has."""
    have, want = node.x.dtype, node.to
    if have.is_integer and want.is_integer:
        return scope.cast(scope.name(node.x), have, want)
    if packed := {have, want} & PACKED.keys():
        since = 25 if min(each.bits for each in packed) == 2 else 21
        if scope.opset < since:
            names = " and ".join(sorted(each.name for each in packed))
            raise ExportError(f"{describe(node)}: ONNX has {names} from opset {since} on, {scope.opset} was asked for")
        raise ExportError(f"{describe(node)}: in ONNX no type has the size of {have.name} and of {want.name}")
    if scope.opset < 26:
        raise ExportError(f"{describe(node)}: BitCast needs opset 26 or later")
    return scope.add("BitCast", scope.name(node.x), to=CODES[want])


# -- shifts -----------------------------------------------------------------------------------------------------------


def _unsigned(dtype: DType) -> DType:
    return dtypes.BY_NAME[f"u{dtype.bits}"]


def _shift(scope: Scope, node: bitwise.ShiftLeft | bitwise.ShiftRight, direction: str) -> str:
    """A shift of unsigned elements; ONNX leaves open what comes of as many bits as there are."""
    dtype = node.a.dtype
    compute = scope.compute_type("BitShift", dtype, node)
    operands = [scope.cast(scope.name(v), dtype, compute) for v in (node.a, node.b)]
    shifted = scope.cast(scope.add("BitShift", *operands, direction=direction), compute, dtype)
    if isinstance(node.b, Constant) and bool((node.b.data < dtype.bits).all()):
        return shifted
    width = constant(dtype.bits, dtype)
    bits = scope.compute_type("Less", dtype, node)
    inside = scope.add("Less", *(scope.cast(scope.name(v), dtype, bits) for v in (node.b, width)))
    moved = scope.compute_type("Where", dtype, node)
    zero = scope.cast(scope.name(constant(0, dtype)), dtype, moved)
    return scope.cast(scope.add("Where", inside, scope.cast(shifted, dtype, moved), zero), moved, dtype)


@TABLE.exports(bitwise.ShiftLeft)
def shift_left(scope: Scope, node: bitwise.ShiftLeft) -> Written:
    """Signed elements are shifted as unsigned ones of the same bits."""
    if node.a.dtype.kind == "unsigned":
        return _shift(scope, node, "LEFT")
    plain = _unsigned(node.a.dtype)
    return ops.Cast(bitwise.ShiftLeft(ops.Cast(node.a, plain), ops.Cast(node.b, plain)), node.a.dtype)


@TABLE.exports(bitwise.ShiftRight)
def shift_right(scope: Scope, node: bitwise.ShiftRight) -> Written:
    """Of a negative a: the complement of the complement's shift, which is not negative."""
    dtype = node.a.dtype
    if dtype.kind == "unsigned":
        return _shift(scope, node, "RIGHT")
    plain = _unsigned(dtype)
    last, zero = constant(-1, dtype), constant(0, dtype)
    negative = ops.Less(node.a, zero)
    positive: Value = ops.Where(negative, ops.Sub(last, node.a), node.a)
    shifted = ops.Cast(bitwise.ShiftRight(ops.Cast(positive, plain), ops.Cast(node.b, plain)), dtype)
    return ops.Where(negative, ops.Sub(last, shifted), shifted)
