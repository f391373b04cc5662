"""What cannot be cut, and names that might have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 5  # near matches in a message


class CutError(ValueError):
    """The part that was asked for cannot be made. The message says why and what to do."""


def near(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'a', 'b'?`` for the names in `known` like `name`, or all of a few; empty when there are none."""
    names = list(dict.fromkeys(n for n in known if n))
    close = difflib.get_close_matches(name, names, SHOWN, 0.6)
    close += [n for n in names if (name.lower() in n.lower() or n.lower() in name.lower()) and n not in close]
    if close:
        return "; did you mean " + ", ".join(map(repr, close[:SHOWN])) + "?"
    if len(names) <= SHOWN:
        return "; there are " + ", ".join(map(repr, names)) if names else ""
    return ""
