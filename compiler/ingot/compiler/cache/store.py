"""The folder of the cache: files named by key, complete or absent, the least recently used thrown out.

    <folder>/objects/ab/ab12...    machine code of a kernel, a SHA-256 of key and code after it
    <folder>/programs/ab12....ingot    an artifact, which has digests of its own
    <folder>/growth                 how full the folder may be (see `Store.trim`)

Processes share the folder without locks. A file appears under its name by rename, so readers see all of it or nothing;
two that make the same entry make the same bytes; one that is removed while it is read stays readable. Nothing here
fails a compilation: a folder that cannot be read or written is reported once and then left alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ingot.runtime.errors import InputError
from ingot.runtime.replacement import replaced

PROGRAM_SHARE = 0.8
"""The part of the limit that one program may take: a larger one would throw out nearly all else."""

_STALE = 3600.0  # seconds after which a temporary file belongs to a process that died
_SLACK = 16  # trimming makes room for this part of the limit, so that it is needed seldom
_MOST_RECORDS = 1024  # after so many the folder is looked through however little was kept
_RECORD = struct.Struct("<Q")
_DIGEST = hashlib.sha256().digest_size
_OBJECT = re.compile(r"[0-9a-f]{64}")
_PROGRAM = re.compile(r"[0-9a-f]{64}\.ingot")
_TEMPORARY = re.compile(r"\.ingot\.[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the cache: its size in bytes and when it was last used, in seconds since the epoch."""

    path: Path
    size: int
    used: float


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a cache holds, each the least recently used first."""

    objects: tuple[Entry, ...]
    programs: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in (*self.objects, *self.programs))


class Store:
    """The cache in `folder`, which is made when something is first kept; `limit` is in bytes. `report` is told the
    first time that the file system refuses; from then on nothing more is kept. Where reading is what fails, nothing
    is found either."""

    def __init__(self, folder: Path, limit: int, report: Callable[[str], None]) -> None:
        self.folder = folder
        self.limit = limit
        self._report = report
        self._is_readable = self._is_writable = True
        self._grown = 0

    def object(self, key: str) -> bytes | None:
        """The object kept under `key`; None when there is none. A damaged one is removed."""
        path = self._object_path(key)
        data = self._read(path)
        if data is None:
            return None
        content, digest = data[:-_DIGEST], data[-_DIGEST:]
        if digest != _seal(key, content):
            self.discard(path)
            return None
        _touch(path)
        return content

    def keep_object(self, key: str, content: bytes) -> None:
        """Keep `content` under `key`."""

        def write(path: Path) -> None:
            path.write_bytes(content + _seal(key, content))

        self._write(self._object_path(key), write)

    def program(self, key: str) -> Path | None:
        """The artifact kept under `key`, as a file that may disappear any time; None when there is none. Its content
        is the caller's to check, and to `discard`."""
        path = self._program_path(key)
        if not self._is_readable:
            return None
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                return None
        except FileNotFoundError:
            return None
        except OSError as error:
            self._is_readable = False
            self._refuse(error)
            return None
        _touch(path)
        return path

    def keep_program(self, key: str, size: int, write: Callable[[Path], None]) -> Path | None:
        """The place of an artifact of `size` bytes that `write` writes to the path it is given; None when it is too
        large for the cache or cannot be kept."""
        if size > self.limit * PROGRAM_SHARE:
            return None
        path = self._program_path(key)
        return path if self._write(path, write) else None

    def discard(self, path: Path) -> None:
        """Remove an entry that is no good."""
        with suppress(OSError):
            path.unlink()

    def trim(self) -> None:
        """Throw out what is too much, if anything was kept since the last time: programs first, as each takes the
        place of many kernels, the least recently used first.

        The folder is looked through when it may be full, not each time: `growth` has the bytes found then and, as a
        record each, what processes have kept since. What is missing from it, since a process died or wrote while
        another looked, is found after some hundred records.
        """
        if not self._grown:
            return
        grown, self._grown = self._grown, 0
        if self._has_room(grown):
            return
        held = self.holdings()
        size = held.size
        if size > self.limit:
            for entry in (*held.programs, *held.objects):
                if size <= self.limit - self.limit // _SLACK:
                    break
                self.discard(entry.path)
                size -= entry.size
        with suppress(OSError, InputError), replaced(self._growth_path) as temporary:
            temporary.write_bytes(_RECORD.pack(size))
        self._sweep()

    def _has_room(self, grown: int) -> bool:
        """Whether the folder is surely within the limit with the `grown` bytes kept by this process, now recorded."""
        try:
            with open(os.open(self._growth_path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK), "r+b", buffering=0) as file:
                status = os.fstat(file.fileno())
                full = _RECORD.size * _MOST_RECORDS
                if not stat.S_ISREG(status.st_mode) or status.st_size not in range(_RECORD.size, full, _RECORD.size):
                    return False
                file.write(_RECORD.pack(grown))
                file.seek(0)
                records = file.read(2 * full)
        except OSError:  # the first time, or the folder was cleared
            return False
        whole = records[: len(records) // _RECORD.size * _RECORD.size]
        return sum(size for (size,) in _RECORD.iter_unpack(whole)) <= self.limit

    def clear(self) -> Holdings:
        """Remove every entry; what it was. Files that are not the cache's stay. Raises OSError."""
        held = self.holdings()
        for entry in (*held.objects, *held.programs):
            with suppress(FileNotFoundError):
                entry.path.unlink()
        self._sweep(age=0.0)
        with suppress(OSError):
            self._growth_path.unlink()
        for folder in (*self._shards(), self.folder / "objects", self.folder / "programs"):
            with suppress(OSError):
                folder.rmdir()
        return held

    def holdings(self) -> Holdings:
        """What there is now."""
        objects = [entry for shard in self._shards() for entry in _entries(shard, _OBJECT)]
        programs = list(_entries(self.folder / "programs", _PROGRAM))
        return Holdings(
            tuple(sorted(objects, key=lambda entry: (entry.used, entry.path))),
            tuple(sorted(programs, key=lambda entry: (entry.used, entry.path))),
        )

    @property
    def _growth_path(self) -> Path:
        return self.folder / "growth"

    def _object_path(self, key: str) -> Path:
        return self.folder / "objects" / key[:2] / key

    def _program_path(self, key: str) -> Path:
        return self.folder / "programs" / f"{key}.ingot"

    def _shards(self) -> Iterator[Path]:
        with suppress(OSError), os.scandir(self.folder / "objects") as found:
            yield from sorted(Path(item.path) for item in found if re.fullmatch("[0-9a-f]{2}", item.name))

    def _read(self, path: Path) -> bytes | None:
        if not self._is_readable:
            return None
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._is_readable = False
            self._refuse(error)
            return None

    def _write(self, path: Path, write: Callable[[Path], None]) -> bool:
        if not self._is_writable:
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as temporary:
                write(temporary)
                size = os.stat(temporary).st_size
        except (FileNotFoundError, InputError):  # somebody clears the cache, or has put something else there
            return False
        except OSError as error:
            if not (isinstance(error, FileExistsError) and _may_be_made(path.parent)):
                self._refuse(error)
            return False
        self._grown += size
        return True

    def _refuse(self, error: OSError) -> None:
        if not self._is_writable:
            return
        self._is_writable = False
        self._report(
            f"the cache {self.folder} cannot be used ({error.strerror or error}): compiling goes on without it; "
            "make room or let the environment name another folder (see docs/tools.md)"
        )

    def _sweep(self, age: float = _STALE) -> None:
        """Remove temporary files that processes left which died."""
        before = time.time() - age
        for folder in (*self._shards(), self.folder / "programs", self.folder):
            for entry in _entries(folder, _TEMPORARY):
                if entry.used <= before:
                    self.discard(entry.path)


def _seal(key: str, content: bytes) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(content)
    return digest.digest()


def _may_be_made(folder: Path) -> bool:
    """Whether a folder that was said to exist is one, or has gone: `Path.mkdir` says so of what others remove between
    its two looks."""
    return folder.is_dir() or not folder.exists()


def _touch(path: Path) -> None:
    with suppress(OSError):  # a folder that is read-only can still be read from
        os.utime(path)


def _entries(folder: Path, name: re.Pattern[str]) -> Iterator[Entry]:
    with suppress(OSError), os.scandir(folder) as found:
        for item in found:
            if not name.fullmatch(item.name):
                continue
            with suppress(OSError):
                status = item.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield Entry(Path(item.path), status.st_size, status.st_mtime)
