"""Operators on strings, which the host computes, and conversions between strings and numbers."""

from __future__ import annotations

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.narrow import converted as converted_numbers
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import host
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Reshape
from ingot.compiler.ops.reduction import ReduceMax
from ingot.runtime.dtypes import DType, f32, i64, string

TABLE = Table()
onnx_op = TABLE.onnx_op


def converted(ctx: Context, x: Value, to: DType) -> Value:
    """x as elements of the type `to`: ONNX Cast, of any two types."""
    if x.dtype == to or string not in (x.dtype, to):
        return converted_numbers(ctx, x, to)
    ctx.ignore("saturate", "round_mode")
    if to == string:
        # What numpy does not have is widened: the digits are those of the wider number.
        wide = x if x.dtype.numpy is not None else converted_numbers(ctx, x, f32)
        return ctx.build(host.NumberToString, wide)
    if to.numpy is not None:
        return ctx.build(host.StringToNumber, x, to)
    return converted_numbers(ctx, ctx.build(host.StringToNumber, x, f32), to)


@onnx_op("StringConcat", since=20)
def string_concat(ctx: Context) -> Results:
    return ctx.pointwise(host.StringConcat, ctx.operand(0), ctx.operand(1))


@onnx_op("StringSplit", since=20)
def string_split(ctx: Context) -> Results:
    """The parts, as many as the string with the most of them has, and their numbers."""
    x = ctx.operand(0)
    delimiter = ctx.attribute("delimiter", "")
    most = ctx.maybe("maxsplit", int)
    cuts = -1 if most is None else most
    parts = ctx.build(host.StringParts, x, delimiter, cuts)
    flat = ctx.build(Reshape, parts, (parts.type.size,))
    widest = ctx.build(ops.Max, ctx.build(ReduceMax, flat, (0,), False), ctx.constant(0, i64))
    width = ctx.size(widest, "the most parts of a string")
    return ctx.build(host.StringSplit, x, delimiter, cuts, width), parts


@onnx_op("StringNormalizer", since=10)
def string_normalizer(ctx: Context) -> Results:
    """Without stop words no string goes, and no size depends on data."""
    ctx.ignore("locale")
    x, case = ctx.operand(0), ctx.attribute("case_change_action", "NONE")
    words, sensitive = ctx.strings("stopwords") or (), bool(ctx.attribute("is_case_sensitive", 0))
    if case not in ("LOWER", "UPPER", "NONE"):
        raise ctx.error(f"case_change_action is {case!r}, LOWER, UPPER or NONE is needed")
    if x.rank not in (1, 2) or (x.rank == 2 and x.shape[0] != 1):
        raise ctx.error(f"StringNormalizer of {x.type}", "the shape [C] or [1, C] is needed")
    row = ctx.build(Reshape, x, (x.shape[-1],))
    if words or not isinstance(x.shape[-1], int) or x.shape[-1] == 0:
        length = ctx.size(ctx.build(host.StringKept, row, words, sensitive), "the number of strings that are kept")
    else:
        length = x.shape[-1]
    made = ctx.build(host.StringNormalize, row, words, sensitive, case, length)
    return made if x.rank == 1 else ctx.build(Reshape, made, (1, length))


@onnx_op("RegexFullMatch", since=20)
def regex_full_match(ctx: Context) -> Results:
    pattern = ctx.maybe("pattern", str)
    if pattern is None:
        raise ctx.error("RegexFullMatch has no attribute 'pattern'")
    return ctx.build(host.RegexFullMatch, ctx.operand(0), pattern)


@onnx_op("ImageDecoder", since=20)
def image_decoder(ctx: Context) -> Results:
    """The pixels; an image that cannot be decoded has none."""
    data, pixel_format = ctx.operand(0), ctx.attribute("pixel_format", "RGB")
    if pixel_format not in ("RGB", "BGR", "Grayscale"):
        raise ctx.error(f"pixel_format is {pixel_format!r}, RGB, BGR or Grayscale is needed")
    sizes = ctx.build(host.ImageSize, data)
    height, width = (ctx.size(ctx.element(sizes, i), what) for i, what in enumerate(("the height", "the width")))
    return ctx.build(host.ImageDecode, data, pixel_format, height, width)
