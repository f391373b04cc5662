"""The text of dataclass fields, whatever the dataclass: what is written follows from the value, how it is read from
the field's annotation."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, cast

from ingot.compiler.ir import dims
from ingot.compiler.ir.text.scanner import Scanner
from ingot.compiler.ir.types import IrError, TensorType
from ingot.runtime.dtypes import DType


@dataclass(frozen=True, slots=True)
class Form:
    """How values of one class are written (`show` gets the indentation in levels) and read."""

    show: Callable[[Any, int], str]
    parse: Callable[[Scanner], Any]


@functools.cache
def field_hints(cls: type[Any]) -> Mapping[str, Any]:
    """The resolved annotations of a dataclass's fields, in order; `origin` is left out. Raises IrError."""
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise IrError(
            f"{cls.__module__}.{cls.__qualname__}: {error}; the classes in field annotations must be importable at run "
            "time, not only under TYPE_CHECKING"
        ) from error
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.name != "origin"}


class Fields:
    """Writes and reads field values. `forms` gives classes a syntax of their own; all other frozen dataclasses are
    written ``ClassName(field=value, ...)``."""

    def __init__(self, forms: Mapping[type[Any], Form]) -> None:
        self.forms = forms

    def form_of(self, cls: Any) -> Form | None:
        """The form of a class or of one of its bases."""
        if isinstance(cls, type):
            for base in cls.__mro__:
                if base in self.forms:
                    return self.forms[base]
        return None

    def show(self, value: Any, hint: Any = Any, indent: int = 0) -> str:
        """`value` as text; `hint` matters only where an int stands for a float."""
        form = self.form_of(type(value))
        if form is not None:
            return form.show(value, indent)
        if hint is float and isinstance(value, int):
            value = float(value)
        cls = cast("type[Any]", type(value))
        if dataclasses.is_dataclass(cls) and cls not in (dims.Expr, DType, TensorType):
            return f"{cls.__name__}({self.show_fields(value, indent)})"
        match value:
            case None:
                return "none"
            case bool():
                return "true" if value else "false"
            case enum.Enum():
                return value.name
            case float():
                return repr(value)
            case int() | dims.Expr():
                return dims.show(value)
            case str():
                return json.dumps(value, ensure_ascii=False)
            case DType():
                return value.name
            case TensorType():
                return str(value)
            case tuple():
                inner = typing.get_args(hint)[:1] if typing.get_origin(hint) is tuple else ()
                items = cast("tuple[Any, ...]", value)
                return "(" + ", ".join(self.show(x, inner[0] if inner else Any, indent) for x in items) + ")"
            case Mapping():
                pairs = cast("Mapping[Any, Any]", value).items()
                return "{" + ", ".join(f"{json.dumps(k)}: {self.show(v, Any, indent)}" for k, v in pairs) + "}"
            case _:
                raise IrError(f"a {cls.__name__} has no text form: {value!r}")

    def show_fields(self, item: Any, indent: int = 0, separator: str = ", ") -> str:
        """``name=value`` of all fields of a dataclass."""
        hints = field_hints(cast("type[Any]", type(item)))
        return separator.join(f"{name}={self.show(getattr(item, name), hint, indent)}" for name, hint in hints.items())

    def parse(self, scanner: Scanner, hint: Any) -> Any:
        """Read a value of the annotated type."""
        form = self.form_of(hint)
        if form is not None:
            return form.parse(scanner)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (Union, types.UnionType):
            return self._parse_union(scanner, arguments)
        if origin is Literal:
            return self._parse_literal(scanner, arguments)
        if origin is tuple or hint is tuple:
            return self._parse_tuple(scanner, arguments)
        if origin is not None and issubclass(origin, Mapping):
            return self._parse_mapping(scanner, arguments)
        form = self.form_of(origin)  # NDArray[Any] and other generic aliases
        if form is not None:
            return form.parse(scanner)
        if hint is type(None):
            scanner.expect("none")
            return None
        if hint is bool:
            return scanner.boolean()
        if hint is int:
            return scanner.integer()
        if hint is float:
            return float(scanner.number())
        if hint is str:
            return scanner.string()
        if hint is DType:
            return scanner.dtype()
        if hint is TensorType:
            return scanner.tensor_type()
        if hint is dims.Expr:
            return scanner.dim()
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            start = scanner.at
            name = scanner.word()
            if name not in hint.__members__:
                scanner.fail(" or ".join(hint.__members__), start)
            return hint[name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            scanner.expect(hint.__name__)
            return hint(**self.parse_fields(scanner, hint, "(", ")"))
        raise IrError(f"a field annotated {hint} has no text form")

    def parse_fields(self, scanner: Scanner, cls: type[Any], opening: str, closing: str) -> dict[str, Any]:
        """``name=value, ...`` between brackets, as keyword arguments."""
        hints = field_hints(cls)
        values: dict[str, Any] = {}
        scanner.expect(opening)
        while not scanner.accept(closing):
            if values:
                scanner.expect(",")
            start = scanner.at
            name = scanner.word("the name of a field")
            if name not in hints or name in values:
                scanner.fail(f"one of {', '.join(n for n in hints if n not in values)}", start)
            scanner.expect("=")
            values[name] = self.parse(scanner, hints[name])
        required = [f.name for f in dataclasses.fields(cls) if f.init and not _has_default(f) and f.name in hints]
        missing = [name for name in required if name not in values]
        if missing:
            scanner.fail(f"{', '.join(missing)} among the fields of {cls.__name__} before this")
        return values

    def _parse_union(self, scanner: Scanner, arguments: tuple[Any, ...]) -> Any:
        if type(None) in arguments and scanner.accept("none"):
            return None
        choices = [a for a in arguments if a is not type(None)]
        if len(choices) == 1:
            return self.parse(scanner, choices[0])
        if dims.Expr in choices:
            return scanner.dim()
        form = self.form_of(choices[0])
        if form is not None:  # a family of classes with one syntax
            return form.parse(scanner)
        if bool in choices and (scanner.sees("true") or scanner.sees("false")):
            return scanner.boolean()
        if str in choices and scanner.sees('"'):
            return scanner.string()
        sequences = [choice for choice in choices if typing.get_origin(choice) is tuple]
        if sequences and scanner.sees("("):
            return self.parse(scanner, sequences[0])
        if float in choices or int in choices:
            text = scanner.number()
            return int(text) if int in choices and text.lstrip("-").isdigit() else float(text)
        named = {c.__name__: c for c in choices if dataclasses.is_dataclass(c) and isinstance(c, type)}
        start = scanner.at
        name = scanner.word(" or ".join(named) or "a value")
        if name not in named:
            scanner.fail(" or ".join(named) or "a value", start)
        return named[name](**self.parse_fields(scanner, named[name], "(", ")"))

    def _parse_literal(self, scanner: Scanner, choices: tuple[Any, ...]) -> Any:
        start = scanner.at
        for choice in choices:
            if scanner.accept(self.show(choice)):
                return choice
        scanner.fail(" or ".join(self.show(c) for c in choices), start)

    def _parse_tuple(self, scanner: Scanner, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        scanner.expect("(")
        items: list[Any] = []
        many = len(arguments) == 2 and arguments[1] is Ellipsis
        while not scanner.accept(")"):
            if items:
                scanner.expect(",")
            if not many and len(items) == len(arguments):
                scanner.fail("')'")
            items.append(self.parse(scanner, arguments[0] if many else arguments[len(items)]))
        if not many and len(items) != len(arguments):
            scanner.fail(f"{len(arguments)} items before this")
        return tuple(items)

    def _parse_mapping(self, scanner: Scanner, arguments: tuple[Any, ...]) -> dict[str, Any]:
        scanner.expect("{")
        items: dict[str, Any] = {}
        while not scanner.accept("}"):
            if items:
                scanner.expect(",")
            key = scanner.string()
            scanner.expect(":")
            items[key] = self.parse(scanner, arguments[1])
        return items


def _has_default(f: dataclasses.Field[Any]) -> bool:
    return f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING


def parse_ranges(scanner: Scanner) -> dict[str, tuple[int, int]]:
    """``{batch: 1..64, seq: 0..512}``"""
    ranges: dict[str, tuple[int, int]] = {}
    scanner.expect("{")
    while not scanner.accept("}"):
        if ranges:
            scanner.expect(",")
        name = scanner.word("a dim's name")
        scanner.expect(":")
        low = scanner.integer()
        scanner.expect("..")
        ranges[name] = (low, scanner.integer())
    return ranges


def show_ranges(ranges: Mapping[str, tuple[int, int]]) -> str:
    """What `parse_ranges` reads."""
    return "{" + ", ".join(f"{name}: {low}..{high}" for name, (low, high) in ranges.items()) + "}"
