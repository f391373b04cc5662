"""Files as bytes that are read where they are touched."""

from __future__ import annotations

import mmap
from pathlib import Path

from ingot.compiler.frontend.errors import ModelError


def map_file(path: Path) -> memoryview:
    """The bytes of a file, memory-mapped read-only; ModelError when it cannot be read."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
