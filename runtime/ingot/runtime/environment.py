"""The environment variables that the runtime obeys, read here and nowhere else.

INGOT_THREADS       threads a session uses when its caller asks for none in particular
INGOT_MEMORY_LIMIT  most bytes of working memory one run may take (suffixes K, M, G, T: powers of 1024)
INGOT_POISON        1: fill working memory with 0xFF bytes before every run, so that reads of unwritten data show as NaN
INGOT_FASTCALL      0: never call small models through their native entry for Python, see `fastcall`
INGOT_SEED          where the random numbers of sessions begin that are not given a seed: 0 to 2**64 - 1
INGOT_DEBUG_DIR     folder that receives the machine code as files, where debuggers and profilers find its symbols
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ingot.runtime.errors import InputError

_SUFFIXES = " KMGT"


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment asks for; None where it does not say. `memory_limit` is in bytes."""

    threads: int | None = None
    memory_limit: int | None = None
    poison: bool = False
    debug_dir: str | None = None
    fastcall: bool = True
    seed: int | None = None


def read_environment(variables: Mapping[str, str] = os.environ) -> Environment:
    """Read the variables above; an empty one counts as absent. Raises InputError for a value that has no meaning."""
    threads = memory = None
    if text := variables.get("INGOT_THREADS"):
        if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
            raise InputError(f"INGOT_THREADS is {text!r}; give a number of threads, 1 or more, or unset it")
        threads = int(text)
    if text := variables.get("INGOT_MEMORY_LIMIT"):
        match = re.fullmatch(r"([1-9][0-9]{0,17})([KMGT]?)", text)
        if not match:
            raise InputError(f"INGOT_MEMORY_LIMIT is {text!r}; give bytes, such as 268435456, 256M or 2G, or unset it")
        memory = int(match[1]) << 10 * _SUFFIXES.index(match[2] or " ")
    poison = variables.get("INGOT_POISON", "")
    if poison not in ("", "0", "1"):
        raise InputError(f"INGOT_POISON is {poison!r}; 1 turns it on, 0 off")
    fastcall = variables.get("INGOT_FASTCALL", "")
    if fastcall not in ("", "0", "1"):
        raise InputError(f"INGOT_FASTCALL is {fastcall!r}; 0 turns it off, 1 on")
    seed = None
    if text := variables.get("INGOT_SEED"):
        if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) >= 2**64:
            raise InputError(f"INGOT_SEED is {text!r}; give a whole number of 0 to 2**64 - 1, or unset it")
        seed = int(text)
    return Environment(threads, memory, poison == "1", variables.get("INGOT_DEBUG_DIR") or None, fastcall != "0", seed)
