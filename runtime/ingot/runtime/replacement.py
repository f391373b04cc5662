"""Files that appear complete or not at all: written beside their place, then moved there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ingot.runtime.errors import InputError

_KINDS: Final = (
    (stat.S_ISCHR, "character device"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
)


def file_to_replace(path: str | os.PathLike[str]) -> Path:
    """Where a file written to `path` belongs: `path` itself, or what it leads to where it is a symbolic link.

    Raises InputError for a path that is empty, has a NUL character, or leads to anything but a regular file, which a
    rename would destroy; IsADirectoryError for a folder; OSError where the path cannot be followed.
    """
    text = os.fspath(path)
    if not text:
        raise InputError("an empty path names no file to write")
    if not isinstance(text, str) or "\0" in text:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"{text!r} is no path of a file: a str without NUL characters is needed")
    target = Path(os.path.realpath(text)) if os.path.islink(text) else Path(text)
    try:
        status = os.stat(text)
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), text)
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "special file")
        raise InputError(f"{text} cannot be written: it is a {kind}, not a regular file; give another path")
    if not (target.exists() and os.path.samestat(os.stat(target), status)):
        raise InputError(f"{text} cannot be written: it leads to a file without a name; give another path")
    return target


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Generator[Path]:
    """A temporary path beside the file that `path` leads to, moved there when the block ends well, removed when not.

    Raises what `file_to_replace` does. An OSError about the temporary file or about none speaks of `path`.
    """
    target = file_to_replace(path)
    temporary = target.with_name(f".ingot.{os.urandom(8).hex()}")
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)) and error.errno is not None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


@contextmanager
def replaced_durably(path: str | os.PathLike[str]) -> Generator[Path]:
    """What `replaced` does, for a file that is to outlive a power failure: when the block has ended, its bytes and its
    name are synchronised to the disk."""
    with replaced(path) as temporary:
        yield temporary
        _synchronise(temporary, os.O_RDONLY)
    _synchronise(temporary.parent, os.O_RDONLY | os.O_DIRECTORY)


def _synchronise(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
