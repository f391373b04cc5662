"""Operators that the host computes: text and encoded images. Each is a function of `ingot.runtime.host.functions`.

Where the size of a result depends on the content of a string or an image, one operator tells it and another one, whose
field is that size, makes the result (`Graph.bound`). White space, letter case and the order of strings are those of the
Unicode standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Array, Node, Value, describe, op, operands_of
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.ops.checks import broadcast, fail
from ingot.runtime.dtypes import ALL, DType, boolean, i64, string, u8
from ingot.runtime.errors import HostError
from ingot.runtime.host import regex
from ingot.runtime.host.attributes import Attribute
from ingot.runtime.host.functions import FUNCTIONS, call
from ingot.runtime.host.images import CHANNELS

CaseChange: TypeAlias = Literal["LOWER", "UPPER", "NONE"]
PixelFormat: TypeAlias = Literal["RGB", "BGR", "Grayscale"]


@dataclass(frozen=True, eq=False, repr=False)
class HostOp(Node):
    """An operator computed by the host function called `function`, whose attributes are fields of the same names."""

    function: ClassVar[str]

    def attributes(self) -> dict[str, Attribute]:
        """The attributes of the host function."""
        return {name: getattr(self, name) for name in FUNCTIONS[self.function].attributes}

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        results = [(t.dtype.to_numpy(), t.static_shape()) for t in self.types]
        try:
            return call(self.function, operands, self.attributes(), results)
        except HostError as error:
            raise IrError(f"{describe(self)}: {error}") from error

    def infer(self) -> Sequence[TensorType]:
        for value, allowed in zip(operands_of(self), FUNCTIONS[self.function].operands, strict=True):
            if value.dtype not in allowed:
                names = ", ".join(sorted(dtype.name for dtype in allowed))
                fail(self, f"an operand is {value.type}, but elements of {names} are needed")
        return self.result_types()

    def result_types(self) -> Sequence[TensorType]:
        """Types of the results from operands of the right element types."""
        raise NotImplementedError(type(self).__name__)


@op("string_concat")
class StringConcat(HostOp):
    """The strings of a with those of b behind them; operands broadcast. ONNX StringConcat."""

    a: Value
    b: Value
    function = "string_concat"

    def result_types(self) -> Sequence[TensorType]:
        return (TensorType(string, broadcast(self, self.a, self.b)),)


@op("string_parts")
class StringParts(HostOp):
    """How many parts each string is cut into by `StringSplit`, i64."""

    x: Value
    delimiter: str
    maxsplit: int
    function = "string_parts"

    def result_types(self) -> Sequence[TensorType]:
        return (TensorType(i64, self.x.type.shape),)


@op("string_split")
class StringSplit(HostOp):
    """The parts of each string on a new last axis of extent `width`, "" behind them. ONNX StringSplit.

    Strings are cut at `delimiter`, at most `maxsplit` times from the left (negative: everywhere); where it is empty, at
    runs of white space, of which there is then none at either end.
    """

    x: Value
    delimiter: str
    maxsplit: int
    width: Dim
    function = "string_split"

    def result_types(self) -> Sequence[TensorType]:
        return (TensorType(string, (*self.x.type.shape, self.width)),)


@op("string_kept")
class StringKept(HostOp):
    """How many of the strings `StringNormalize` keeps, i64 []: at least 1."""

    x: Value
    stopwords: tuple[str, ...]
    case_sensitive: bool
    function = "string_kept"

    def result_types(self) -> Sequence[TensorType]:
        return (TensorType(i64, ()),)


@op("string_normalize")
class StringNormalize(HostOp):
    """The strings [n] that are no stop words [length], in upper or lower case or as they are; one empty string where
    none is left. ONNX StringNormalizer."""

    x: Value
    stopwords: tuple[str, ...]
    case_sensitive: bool
    case: CaseChange
    length: Dim
    function = "string_normalize"

    def result_types(self) -> Sequence[TensorType]:
        if self.x.rank != 1 or self.case not in get_args(CaseChange):
            fail(self, f"{self.x.type} and case {self.case!r}: rank 1 and one of {get_args(CaseChange)} are needed")
        return (TensorType(string, (self.length,)),)


@op("string_rank")
class StringRank(HostOp):
    """The place of each string among the different ones in order, i64: ranks are ordered as the strings are."""

    x: Value
    function = "string_rank"

    def result_types(self) -> Sequence[TensorType]:
        return (TensorType(i64, self.x.type.shape),)


@op("regex_full_match")
class RegexFullMatch(HostOp):
    """Whether all of a string matches a regular expression in RE2's syntax. ONNX RegexFullMatch."""

    x: Value
    pattern: str
    function = "regex_full_match"

    def result_types(self) -> Sequence[TensorType]:
        try:
            regex.compile_pattern(self.pattern)
        except HostError as error:
            fail(self, str(error))
        return (TensorType(boolean, self.x.type.shape),)


@op("string_to_number")
class StringToNumber(HostOp):
    """The numbers that strings stand for, of a type that numpy has. ONNX Cast from strings."""

    x: Value
    to: DType
    function = "string_to_number"

    def result_types(self) -> Sequence[TensorType]:
        if self.to not in ALL or self.to.numpy is None:
            fail(self, f"strings are not read as {self.to}: cast to float32 first")
        return (TensorType(self.to, self.x.type.shape),)


@op("number_to_string")
class NumberToString(HostOp):
    """Numbers in plain decimal, with the fewest digits that read back to them. ONNX Cast to strings."""

    x: Value
    function = "number_to_string"

    def result_types(self) -> Sequence[TensorType]:
        return (TensorType(string, self.x.type.shape),)


@op("image_size")
class ImageSize(HostOp):
    """Height and width [2], i64, of an image whose encoded bytes are x [n]; 0 and 0 where it cannot be decoded."""

    x: Value
    function = "image_size"

    def result_types(self) -> Sequence[TensorType]:
        if self.x.rank != 1:
            fail(self, f"{self.x.type} is no list of bytes")
        return (TensorType(i64, (2,)),)


@op("image_decode")
class ImageDecode(HostOp):
    """The pixels [height, width, channels], u8, of an image whose encoded bytes are x [n]. ONNX ImageDecoder."""

    x: Value
    pixel_format: PixelFormat
    height: Dim
    width: Dim
    function = "image_decode"

    def result_types(self) -> Sequence[TensorType]:
        if self.x.rank != 1 or self.pixel_format not in CHANNELS:
            fail(self, f"{self.x.type} as {self.pixel_format!r}: bytes and one of {list(CHANNELS)} are needed")
        return (TensorType(u8, (self.height, self.width, CHANNELS[self.pixel_format])),)
