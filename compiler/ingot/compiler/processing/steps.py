"""Steps as they are asked for: by name, each as text: ``name``, ``name:value,..`` and ``name:key=value,..``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from ingot.compiler.processing.errors import ProcessingError
from ingot.runtime.dtypes import ALL, DType

Steps: TypeAlias = Mapping[str, str | Sequence[str]]
Listed: TypeAlias = Mapping[str, Sequence[str]]

NO_STEPS: Steps = MappingProxyType({})


def read_steps(steps: Steps) -> Listed:
    """`steps` with every name's as a list, in the order in which data meet them."""
    return {name: [given] if isinstance(given, str) else list(given) for name, given in steps.items()}


@dataclass(frozen=True)
class Step:
    """A parsed step. `words` are its values without a key."""

    text: str
    name: str
    words: tuple[str, ...]
    options: Mapping[str, str]

    def require(self, words: int, *keys: str) -> None:
        """Raise ProcessingError for more than `words` words or a key that is not among `keys`."""
        if len(self.words) > words:
            raise self.error(f"{self.words[words]!r} is one value too many")
        for key in self.options:
            if key not in keys:
                raise self.error(f"there is no option {key!r}; there are {', '.join(keys) or 'none'}")

    def error(self, message: str) -> ProcessingError:
        """A ProcessingError that quotes the step."""
        return ProcessingError(f"{self.text!r}: {message}")

    def integer(self, text: str) -> int:
        """`text` as an int."""
        try:
            return int(text)
        except ValueError:
            raise self.error(f"{text!r} is no whole number") from None

    def number(self, text: str) -> float:
        """`text` as a float; a fraction such as 1/255 too."""
        above, bar, below = text.partition("/")
        try:
            return float(above) / (float(below) if bar else 1.0)
        except (ValueError, ZeroDivisionError):
            raise self.error(f"{text!r} is no number or fraction") from None

    def dtype(self, text: str) -> DType:
        """`text` as an element type."""
        for dtype in ALL:
            if dtype.name == text:
                return dtype
        raise self.error(f"{text!r} is no element type; there are {', '.join(d.name for d in ALL)}")


def parse_step(text: str) -> Step:
    """The step that `text` spells. Raises ProcessingError."""
    name, colon, rest = text.partition(":")
    words: list[str] = []
    options: dict[str, str] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        if not part or (equals and not (key and value)):
            raise ProcessingError(f"{text!r}: an option is empty; steps are written name:value,key=value")
        if equals and key in options:
            raise ProcessingError(f"{text!r}: {key!r} is given twice")
        if equals:
            options[key] = value
        else:
            words.append(part)
    return Step(text, name.strip(), tuple(words), options)
