"""What the attributes of a host function may be. Apart from the functions, so that a program that names one can be
described without loading what computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Attribute: TypeAlias = str | int | bool | tuple[str, ...]
Attributes: TypeAlias = Mapping[str, Attribute]
