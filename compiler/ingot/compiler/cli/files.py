"""Files that commands write: checked before the work is done."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from ingot.compiler.cli.failures import CommandError
from ingot.runtime.replacement import file_to_replace


def output_type(text: str) -> Path:
    """The path of a file to be written, for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is needed, this is empty")
    if text == "-":
        raise argparse.ArgumentTypeError("files are not written to stdout; give a name (./- for a file called so)")
    return Path(text)


def require_writable(path: Path, *, sources: tuple[Path, ...] = ()) -> None:
    """Raise CommandError unless a file can be written at `path`, a symbolic link followed, that replaces none of
    `sources`; InputError where something else than a regular file is there."""
    try:
        folder = file_to_replace(path).parent
    except IsADirectoryError:
        raise CommandError(f"{path} cannot be written: it is a folder") from None
    if not folder.is_dir():
        raise CommandError(f"{path} cannot be written: there is no folder {folder}")
    try:  # the only way to know: permissions say little of file systems like /proc, or of full ones
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CommandError(f"{path} cannot be written: no file can be made in {folder}: {error.strerror}") from None
    if os.path.exists(path) and any(os.path.exists(source) and path.samefile(source) for source in sources):
        raise CommandError(f"{path} would be overwritten, but it is what is read; give another -o")
