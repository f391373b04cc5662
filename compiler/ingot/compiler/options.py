"""The spelling of passes with options: ``quantize{scheme=int8,axis=0}``.

The fields of a frozen dataclass are its options. Values are written as ``true false none``, numbers, bare words,
``"quoted text"`` and ``(tuples, of, these)``; the field's annotation decides what a word means.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union, cast


class OptionError(ValueError):
    """The text of a pass or of its options is not right."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """A value that was written in quotes: text whatever it looks like."""

    text: str


Raw: TypeAlias = "str | Quoted | tuple[Raw, ...]"

_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[-+\w.:/]+|[(){}=,])')
_WORD = re.compile(r"[-+\w.:/]+")
_LOOKS_TYPED = re.compile(r"true|false|none|[-+]?(\d.*|\.\d.*|inf|nan)", re.IGNORECASE)


def show_options(item: object) -> str:
    """``{field=value,...}`` of the fields of dataclass `item` that differ from their defaults; "" when none does."""
    if not dataclasses.is_dataclass(item) or isinstance(item, type):
        return ""
    parts: list[str] = []
    for f in dataclasses.fields(item):
        value = getattr(item, f.name)
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        if f.init and f.name != "name" and (default is dataclasses.MISSING or value != default):
            parts.append(f"{f.name}={show_value(value)}")
    return "{" + ",".join(parts) + "}" if parts else ""


def show_value(value: object) -> str:
    """One option value as text."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case enum.Enum():
            return value.name
        case int() | float():
            return repr(value)
        case tuple():
            return "(" + ",".join(show_value(v) for v in cast("tuple[object, ...]", value)) + ")"
        case str() | Path():
            text = str(value)
            return text if _WORD.fullmatch(text) and not _LOOKS_TYPED.fullmatch(text) else json.dumps(text)
        case _:
            raise OptionError(f"{value!r} cannot be written as an option")


def split_specs(text: str) -> list[str]:
    """The passes of a pipeline's text: split at commas outside braces and quotes."""
    specs: list[str] = []
    depth = start = 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"|[(){},]', text):
        found: str = token.group()
        if found in ("(", "{"):
            depth += 1
        elif found in (")", "}"):
            depth -= 1
        elif found == "," and depth == 0:
            specs.append(text[start : token.start()].strip())
            start = token.end()
    specs.append(text[start:].strip())
    if specs == [""]:
        return []
    if "" in specs:
        raise OptionError(f"an empty pass name in {text!r}")
    return specs


def parse_spec(text: str) -> tuple[str, dict[str, Raw]]:
    """The name and the raw options of one pass."""
    tokens: list[str] = []
    at = 0
    while at < len(text.rstrip()):
        found = _TOKEN.match(text, at)
        if found is None:
            raise OptionError(f"{text!r}: unexpected {text[at:].strip()[:12]!r} at column {at + 1}")
        tokens.append(found.group(1))
        at = found.end()
    tokens.reverse()

    def sees(*starts: str) -> bool:
        return bool(tokens) and tokens[-1].startswith(starts)

    def accept(what: str) -> None:
        if sees(what):
            tokens.pop()

    def expect(what: str) -> None:
        got = tokens.pop() if tokens else "the end"
        if got != what:
            raise OptionError(f"{text!r}: expected {what!r}, found {got!r}")

    def word(what: str) -> str:
        got = tokens.pop() if tokens else "the end"
        if not _WORD.fullmatch(got):
            raise OptionError(f"{text!r}: expected {what}, found {got!r}")
        return got

    def value() -> Raw:
        if sees("("):
            expect("(")
            items: list[Raw] = []
            while tokens and not sees(")"):
                items.append(value())
                accept(",")
            expect(")")
            return tuple(items)
        return Quoted(json.loads(tokens.pop())) if sees('"') else word("a value")

    name = word("the name of a pass")
    options: dict[str, Raw] = {}
    if tokens:
        expect("{")
        while tokens and not sees("}"):
            key = word("the name of an option")
            expect("=")
            if key in options:
                raise OptionError(f"{text!r}: option {key} is given twice")
            options[key] = value()
            accept(",")
        expect("}")
    if tokens:
        raise OptionError(f"{text!r}: unexpected {tokens[-1]!r}")
    return name, options


def coerce_options(cls: type[Any], name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The raw options as values of the types that dataclass `cls` declares for them. `name` is for messages."""
    hints = typing.get_type_hints(cls)
    known = {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}
    result: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise OptionError(f"pass {name} has no option {key!r}; it has {', '.join(known) or 'none'}")
        try:
            result[key] = _coerce(value, known[key])
        except ValueError:
            shown = getattr(known[key], "__name__", None) or str(known[key])
            if typing.get_origin(known[key]) is not None:
                shown = str(known[key])
            raise OptionError(f"pass {name}: option {key} must be {shown}, not {_plain(value)}") from None
    return result


def _plain(raw: Raw) -> str:
    """A raw value as it was written."""
    if isinstance(raw, tuple):
        return "(" + ",".join(map(_plain, raw)) + ")"
    return json.dumps(raw.text) if isinstance(raw, Quoted) else raw


def _coerce(raw: Raw, hint: Any) -> Any:
    """`raw` as a value of the annotation `hint`. Raises ValueError, without a message, where it spells none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        # None and the narrow types first, so that "none" and numbers are not read as text
        for choice in sorted(arguments, key=lambda a: (a is not type(None), a is str)):
            try:
                return _coerce(raw, choice)
            except ValueError:
                continue
        raise ValueError
    if origin is Literal:
        for choice in arguments:
            if show_value(choice) == _plain(raw) or (isinstance(raw, Quoted) and raw.text == choice):
                return choice
        raise ValueError
    if origin is tuple:
        if not isinstance(raw, tuple):
            raise ValueError
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_coerce(item, arguments[0]) for item in raw)
        if len(arguments) != len(raw):
            raise ValueError
        return tuple(_coerce(item, choice) for item, choice in zip(raw, arguments, strict=True))
    if isinstance(raw, tuple):
        raise ValueError
    text = raw.text if isinstance(raw, Quoted) else raw
    if hint is str or hint is Path:
        return hint(text)
    if isinstance(raw, Quoted):
        raise ValueError
    if hint is type(None):
        if text != "none":
            raise ValueError
        return None
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError
        return text == "true"
    if hint is int or hint is float:
        return hint(text)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        if text not in hint.__members__:
            raise ValueError
        return hint[text]
    raise ValueError
