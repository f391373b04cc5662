"""Files that commands write: checked before the work is done, replaced at once when it is."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from ingot.compiler.cli.failures import CommandError


def require_writable(path: Path, *, sources: tuple[Path, ...] = ()) -> None:
    """Raise CommandError unless a file can be written at `path` that replaces none of `sources`."""
    folder = path.parent
    if not folder.is_dir():
        raise CommandError(f"{path} cannot be written: there is no folder {folder}")
    if path.is_dir():
        raise CommandError(f"{path} cannot be written: it is a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CommandError(f"{path} cannot be written: no permission to write to {folder}")
    if any(source.exists() and path.exists() and path.samefile(source) for source in sources):
        raise CommandError(f"{path} would be overwritten, but it is what is read; give another -o")


@contextmanager
def replaced(path: Path) -> Generator[Path]:
    """A temporary path beside `path`, moved there when the block ends well, removed when it does not."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(FileNotFoundError):
            partial.unlink()
        raise
