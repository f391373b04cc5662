"""The environment variables that the compiler obeys, read here and nowhere else.

INGOT_DUMP       folder that receives the graph before the first pass and after every pass that changed it
INGOT_STOP_AT    how many rule firings passes may do in all; halving it finds the first harmful one
INGOT_TRACEBACK  1: commands show the Python traceback of an error too
INGOT_CACHE      folder of the kernel cache, 0 for none (default, or 1: ingot/kernels in XDG_CACHE_HOME or ~/.cache)
INGOT_CACHE_SIZE bytes that the cache may hold (suffixes K, M, G, T: powers of 1024; default 1G)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class VariableError(ValueError):
    """An environment variable has a value that means nothing."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment asks for; None where it does not say."""

    dump: Path | None = None
    stop_at: int | None = None
    traceback: bool = False
    cache: Path | None = None  # the folder, made where it is missing
    cache_size: int = 1 << 30


def read_environment(variables: Mapping[str, str] = os.environ) -> Environment:
    """Read the variables above; an empty one counts as absent. Raises VariableError for a value without a meaning."""
    dump = variables.get("INGOT_DUMP")
    stop_at = variables.get("INGOT_STOP_AT")
    if stop_at and not re.fullmatch(r"[0-9]{1,18}", stop_at):
        raise VariableError(f"INGOT_STOP_AT is {stop_at!r}; give a number of rule firings, or unset it")
    traceback = variables.get("INGOT_TRACEBACK", "")
    if traceback not in ("", "0", "1"):
        raise VariableError(f"INGOT_TRACEBACK is {traceback!r}; 1 turns it on, 0 off")
    size = variables.get("INGOT_CACHE_SIZE") or "1G"
    if not re.fullmatch(r"[1-9][0-9]{0,14}[KMGT]?", size):
        raise VariableError(f"INGOT_CACHE_SIZE is {size!r}; give bytes, such as 268435456, 256M or 2G, or unset it")
    return Environment(
        Path(dump) if dump else None,
        int(stop_at) if stop_at else None,
        traceback == "1",
        _cache_folder(variables),
        int(size.rstrip("KMGT")) << 10 * " KMGT".index(size[-1] if size[-1] in "KMGT" else " "),
    )


def _cache_folder(variables: Mapping[str, str]) -> Path | None:
    given = variables.get("INGOT_CACHE")
    if given == "0":
        return None
    if given and given != "1":
        return Path(given)
    home, caches = variables.get("HOME", ""), variables.get("XDG_CACHE_HOME", "")
    if os.path.isabs(caches):  # the specification says that relative ones do not count
        return Path(caches) / "ingot" / "kernels"
    return Path(home) / ".cache" / "ingot" / "kernels" if os.path.isabs(home) else None
