"""Reading IR text: a cursor over characters with exact positions in errors."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.types import IrError, TensorType
from ingot.runtime.dtypes import BY_NAME, DType

_SPACE = re.compile(r"\s+")
_COMMENT = re.compile(r"#[^\n]*")
_NAME = re.compile(r"[^\W\d]\w*(?:\.\w+)*")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_INTEGER = re.compile(r"-?\d+")
_NUMBER = re.compile(r"-?(?:inf\b|nan(?:\(0x[0-9a-f]+\))?|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")
_FOUND = re.compile(r'"(?:[^"\\\n]|\\.)*"|[\w.]+|\S')


class TextError(IrError):
    """IR text does not parse. `line` and `column` count from 1; `expected` says what should have stood there."""

    def __init__(self, source: str, line: int, column: int, expected: str, found: str) -> None:
        super().__init__(f"{source}:{line}:{column}: expected {expected}, found {found}")
        self.line = line
        self.column = column
        self.expected = expected


class Scanner:
    """A cursor over IR text. Space is skipped before every token; a line that starts with ``#`` is a comment."""

    def __init__(self, text: str, source: str = "text") -> None:
        self.text = text
        self.source = source
        self.at = 0
        self._skip()

    def _skip(self) -> None:
        while True:
            space = _SPACE.match(self.text, self.at)
            fresh_line = self.at == 0 or (space is not None and "\n" in space.group())
            if space is not None:
                self.at = space.end()
            comment = _COMMENT.match(self.text, self.at) if fresh_line else None
            if comment is None:
                return
            self.at = comment.end()

    def fail(self, expected: str, at: int | None = None) -> NoReturn:
        """Raise TextError at the cursor or at an earlier position."""
        at = self.at if at is None else at
        line = self.text.count("\n", 0, at) + 1
        found = _FOUND.match(self.text, at)
        raise TextError(
            self.source, line, at - self.text.rfind("\n", 0, at), expected, found.group() if found else "the end"
        )

    @property
    def done(self) -> bool:
        """True at the end of the text."""
        return self.at >= len(self.text)

    def sees(self, token: str) -> bool:
        """True when `token` (punctuation or a whole word) comes next."""
        if not self.text.startswith(token, self.at):
            return False
        after = self.text[self.at + len(token) : self.at + len(token) + 1]
        return not (token[-1].isalnum() and (after.isalnum() or after == "_"))

    def accept(self, token: str) -> bool:
        """Consume `token` if it comes next."""
        if not self.sees(token):
            return False
        self.at += len(token)
        self._skip()
        return True

    def expect(self, token: str) -> None:
        """Consume `token` or fail."""
        if not self.accept(token):
            self.fail(f"'{token}'")

    def match(self, pattern: re.Pattern[str], expected: str) -> str:
        """Consume what `pattern` matches here or fail."""
        found = pattern.match(self.text, self.at)
        if found is None:
            self.fail(expected)
        self.at = found.end()
        self._skip()
        return found.group()

    def word(self, expected: str = "a name") -> str:
        """A bare identifier (dots inside allowed)."""
        return self.match(_NAME, expected)

    def name(self, expected: str = "a name") -> str:
        """A bare identifier or any text in quotes: what `show_name` writes."""
        return self.string(expected) if self.sees('"') else self.word(expected)

    def string(self, expected: str = "text in quotes") -> str:
        """Text in double quotes, escaped as in JSON."""
        start = self.at
        text = self.match(_STRING, expected)
        try:
            return str(json.loads(text))
        except ValueError:
            self.fail(expected, start)

    def integer(self, expected: str = "an integer") -> int:
        """A decimal integer."""
        return int(self.match(_INTEGER, expected))

    def number(self, expected: str = "a number") -> str:
        """The text of a number: decimal, ``inf``, ``nan`` or ``nan(0x7fc00001)``, with an optional minus."""
        return self.match(_NUMBER, expected)

    def boolean(self) -> bool:
        """``true`` or ``false``."""
        if self.accept("true"):
            return True
        if not self.accept("false"):
            self.fail("true or false")
        return False

    def dtype(self) -> DType:
        """The name of an element type."""
        start = self.at
        name = self.word("an element type")
        if name not in BY_NAME:
            self.fail(f"an element type ({', '.join(BY_NAME)})", start)
        return BY_NAME[name]

    def tensor_type(self) -> TensorType:
        """``f32[batch, 3]``"""
        dtype = self.dtype()
        self.expect("[")
        shape: list[Dim] = []
        while not self.accept("]"):
            if shape:
                self.expect(",")
            shape.append(self.dim())
        return TensorType(dtype, tuple(shape))

    def dim(self) -> Dim:
        """A dim expression as `dims.show` writes it."""
        total = self._product()
        while True:
            if self.accept("+"):
                total = total + self._product()
            elif self.accept("-"):
                total = total - self._product()
            else:
                return total

    def _product(self) -> Dim:
        negative = self.accept("-")
        total = self._factor()
        while True:
            for operation in ("*", "//", "%"):
                start = self.at
                if self.accept(operation):
                    try:
                        total = dims.apply(operation, total, self._factor())
                    except ZeroDivisionError:
                        self.fail("a divisor other than 0", start)
                    break
            else:
                return -total if negative else total

    def _factor(self) -> Dim:
        if self.accept("("):
            inner = self.dim()
            self.expect(")")
            return inner
        if self.sees("-") or self.text[self.at : self.at + 1].isdigit():
            return self.integer("a dim")
        name = self.word("a dim")
        if name in ("max", "min") and self.accept("("):
            left = self.dim()
            self.expect(",")
            right = self.dim()
            self.expect(")")
            return dims.apply(name, left, right)
        return dims.symbol(name)


def show_name(name: str, reserved: frozenset[str] = frozenset()) -> str:
    """`name` bare where it is an identifier that is not reserved, else in quotes."""
    return name if _NAME.fullmatch(name) and name not in reserved else json.dumps(name, ensure_ascii=False)


def show_origin(origin: tuple[str, ...]) -> str:
    """``  ; "Conv_0", "Relu_1"`` or nothing."""
    return "  ; " + ", ".join(json.dumps(name, ensure_ascii=False) for name in origin) if origin else ""


def parse_origin(scanner: Scanner) -> tuple[str, ...]:
    """The names after a semicolon, if there is one."""
    if not scanner.accept(";"):
        return ()
    names = [scanner.string()]
    while scanner.accept(","):
        names.append(scanner.string())
    return tuple(names)
