"""Failures and when two of them are of one kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["compile", "run", "accuracy", "check", "reference", "crash", "hang"]

KEPT = 0.1
"""A difference of results stays the same failure while it is at least this part of the first one."""

_QUOTED = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")
_BRACKETED = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_REPLAY = re.compile(r"^(replay with:|no reproducer could be written:).*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Failure:
    """How a model fails.

    `kind`: "compile" (the compile raises `error`), "run" (the artifact does), "accuracy" (results differ by `amount` of
    their largest magnitude), "check" (a check of the user's says so or raises `error`), "crash" and "hang" (the process
    that tried it died or did not end), "reference" (nothing is known: the model cannot be evaluated).
    """

    kind: Kind
    error: str
    message: str
    amount: float = 0.0

    @staticmethod
    def raised(kind: Kind, error: BaseException) -> Failure:
        """The failure that `error` is; files of its own that it speaks of are gone with the trial."""
        return Failure(kind, type(error).__name__, _REPLAY.sub("", str(error)).rstrip())

    def __str__(self) -> str:
        return f"{self.kind}: {self.error + ': ' if self.error else ''}{self.message}"

    def is_like(self, other: Failure) -> bool:
        """True when this is the failure `other` in another model: the same kind, class of error and shape of message,
        and a difference of results that is not much smaller."""
        return (
            (self.kind, self.error) == (other.kind, other.error)
            and message_shape(self.message) == message_shape(other.message)
            and self.amount >= KEPT * min(other.amount, 1.0)
        )


def message_shape(message: str) -> str:
    """`message` without what differs from model to model: quoted names, lists in brackets, words with digits,
    paths."""
    text = _QUOTED.sub("_", message)
    while (shorter := _BRACKETED.sub("_", text)) != text:
        text = shorter
    words = (word.strip(",;:.") for word in text.split())
    return " ".join("_" if re.search(r"[0-9/]|::", word) else word for word in words if word)
