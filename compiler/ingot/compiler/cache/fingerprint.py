"""Keys: digests of everything that a cached result depends on.

A key is made of the request (a kernel, a model and options) and of a fingerprint of what turns the request into the
result: the source files of this very installation and the versions of the libraries. Editing a source therefore makes
other keys; nothing has to be counted up by hand.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import ingot.runtime

EMITTER = (
    "compiler/ir",
    "compiler/labels.py",
    "compiler/lower/machine.py",
    "compiler/ops",
    "compiler/targets",
    "runtime/checked.py",
    "runtime/dims.py",
    "runtime/dtypes.py",
    "runtime/errors.py",
    "runtime/host/attributes.py",
)
"""The sources that decide a kernel's object, given the kernel and the level."""

EVERYTHING = ("compiler", "runtime")
"""The sources that decide an artifact, given the model and the options."""

_LIBRARIES = ("ingot", "llvmlite", "ml_dtypes", "numpy", "onnx")
_BLOCK = 8 << 20


def key_of(*parts: str | bytes) -> str:
    """A key for these parts in this order, as hexadecimal text: SHA-256, each part with its length before it."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def content_digest(pieces: Iterable[memoryview], *, threads: int | None = None) -> bytes:
    """A digest of the pieces' bytes and of where one ends and the next begins, by `threads` threads (default: the
    processor's): SHA-256 over the SHA-256 of blocks of 8 MiB."""
    blocks: list[memoryview] = []
    shape: list[int] = []
    for piece in pieces:
        shape.append(len(piece))
        blocks += [piece[start : start + _BLOCK] for start in range(0, len(piece), _BLOCK)]
    total = hashlib.sha256(repr(shape).encode())
    if len(blocks) < 2:
        digests = map(_sha256, blocks)
    else:
        from concurrent.futures import ThreadPoolExecutor  # here, as small models do without

        with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
            digests = list(pool.map(_sha256, blocks))
    for digest in digests:
        total.update(digest)
    return total.digest()


def _sha256(block: memoryview) -> bytes:
    return hashlib.sha256(block).digest()


@dataclass(frozen=True)
class Fingerprint:
    """`text` stands for the content of `files` and for the versions of the libraries."""

    text: str
    files: tuple[Path, ...]

    def is_loaded(self) -> bool:
        """Whether the code that this process runs is that of the files as they are now: none has changed since the
        process started. What other code made must not be kept under the name of this one."""
        started = _process_start()
        try:
            # The time of the last change of the file here, not the one that an archive may have brought along.
            return all(os.stat(path).st_ctime < started for path in self.files)
        except OSError:
            return False


def fingerprint(parts: Sequence[str] = EVERYTHING, *, roots: Sequence[Path] | None = None) -> Fingerprint | None:
    """The fingerprint of the sources below `parts`, folders or files under one of `roots` (default: those of the
    installed halves, ``compiler`` and ``runtime``); None where there are no readable source files, as in an archive."""
    homes = roots if roots is not None else _installed_roots()
    files: list[tuple[str, Path]] = []
    for part in parts:
        found = [home / part for home in homes if (home / part).exists()]
        if not found:
            return None
        for place in found:
            modules = place.rglob("*.py") if place.is_dir() else [place]
            files += [(f"{part}/{module.relative_to(place)}", module) for module in modules]
    files.sort()
    texts: list[str | bytes] = []
    try:
        for name, path in files:
            texts += [name, path.read_bytes()]
    except OSError:
        return None
    if not files:
        return None
    versions = [f"{name} {_version(name)}" for name in _LIBRARIES]
    return Fingerprint(key_of(*versions, *texts), tuple(path for _, path in files))


@functools.cache
def installed(parts: Sequence[str]) -> Fingerprint | None:
    """The fingerprint of the installed sources, taken once: what a process has loaded does not change with the files,
    and `Fingerprint.is_loaded` tells when they do."""
    return fingerprint(parts)


def _installed_roots() -> tuple[Path, ...]:
    return Path(__file__).parents[2], Path(ingot.runtime.__file__).parents[1]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


@functools.cache
def _process_start() -> float:
    """When this process began, in seconds since the epoch, some hundredths too early rather than too late."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age - 0.02
