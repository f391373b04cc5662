"""Text and encoded images. What is two operators here, one for the size and one for the result, is one in ONNX: it is
written for each."""

from __future__ import annotations

from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.ir.graph import Node, Value
from ingot.compiler.ops import host as ops
from ingot.runtime.dtypes import string

TABLE = Table()


@TABLE.exports(ops.StringConcat)
def string_concat(scope: Scope, node: ops.StringConcat) -> Written:
    scope.require("StringConcat", node)
    return scope.add("StringConcat", scope.name(node.a), scope.name(node.b))


@TABLE.exports(ops.StringParts)
def string_parts(scope: Scope, node: ops.StringParts) -> Written:
    return _split(scope, node, node.x, node.delimiter, node.maxsplit)[1]


@TABLE.exports(ops.StringSplit)
def string_split(scope: Scope, node: ops.StringSplit) -> Written:
    return _split(scope, node, node.x, node.delimiter, node.maxsplit)[0]


def _split(scope: Scope, node: Node, x: Value, delimiter: str, most: int) -> list[str]:
    scope.require("StringSplit", node)
    maxsplit = most if most >= 0 else None
    return scope.add_many("StringSplit", [scope.name(x)], 2, delimiter=delimiter or None, maxsplit=maxsplit)


@TABLE.exports(ops.StringKept)
def string_kept(scope: Scope, node: ops.StringKept) -> Written:
    kept = _normalized(scope, node.x, node.stopwords, node.case_sensitive, "NONE")
    return scope.add("Gather", scope.add("Shape", kept), scope.scalar(0), axis=0)


@TABLE.exports(ops.StringNormalize)
def string_normalize(scope: Scope, node: ops.StringNormalize) -> Written:
    return _normalized(scope, node.x, node.stopwords, node.case_sensitive, node.case)


def _normalized(scope: Scope, x: Value, stopwords: tuple[str, ...], sensitive: bool, case: str) -> str:
    return scope.add(
        "StringNormalizer",
        scope.name(x),
        stopwords=list(stopwords) or None,
        is_case_sensitive=int(sensitive),
        case_change_action=case,
    )


@TABLE.exports(ops.StringRank)
def string_rank(scope: Scope, node: ops.StringRank) -> Written:
    """Where each string is among the different ones in order."""
    flat = scope.add("Reshape", scope.name(node.x), scope.constant([-1], "all"))
    ranks = scope.add_many("Unique", [flat], 3, sorted=1)[2]
    return scope.add("Reshape", ranks, scope.add("Shape", scope.name(node.x)))


@TABLE.exports(ops.RegexFullMatch)
def regex_full_match(scope: Scope, node: ops.RegexFullMatch) -> Written:
    scope.require("RegexFullMatch", node)
    return scope.add("RegexFullMatch", scope.name(node.x), pattern=node.pattern)


@TABLE.exports(ops.StringToNumber)
def string_to_number(scope: Scope, node: ops.StringToNumber) -> Written:
    return scope.cast(scope.name(node.x), string, node.to)


@TABLE.exports(ops.NumberToString)
def number_to_string(scope: Scope, node: ops.NumberToString) -> Written:
    return scope.cast(scope.name(node.x), node.x.dtype, string)


@TABLE.exports(ops.ImageSize)
def image_size(scope: Scope, node: ops.ImageSize) -> Written:
    """Of what cannot be decoded ONNX has no size: the run fails."""
    shape = scope.add("Shape", _decoded(scope, node, node.x, "RGB"))
    return scope.add("Slice", shape, scope.constant([0], "first"), scope.constant([2], "end"))


@TABLE.exports(ops.ImageDecode)
def image_decode(scope: Scope, node: ops.ImageDecode) -> Written:
    return _decoded(scope, node, node.x, node.pixel_format)


def _decoded(scope: Scope, node: Node, x: Value, pixel_format: str) -> str:
    scope.require("ImageDecoder", node)
    return scope.add("ImageDecoder", scope.name(x), pixel_format=pixel_format)
