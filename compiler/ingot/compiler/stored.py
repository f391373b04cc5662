"""Artifacts that are files already: checked by their digests, copied without being read into this process."""

from __future__ import annotations

import hashlib
import os
import shutil
import weakref
from collections.abc import Iterable, Sequence

from ingot.runtime.container import Container
from ingot.runtime.errors import ArtifactError
from ingot.runtime.manifest import DIGEST_CHUNK, Manifest
from ingot.runtime.replacement import replaced_durably

SCHEDULES_MEMBER = "schedules.json"
"""Name of the member that says what was chosen for the kernels, which no session reads; it may be absent."""

_COPY_BYTES = 1 << 30  # the most that one system call copies
_FEW_BYTES = 8 << 20  # digests of fewer take no longer than starting threads


class StoredFile:
    """An open file, whose `descriptor` is closed with the last reference to this object."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    @property
    def link(self) -> str:
        """A path of the file for this process, whatever became of its name."""
        return f"/proc/self/fd/{self._descriptor}"

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._descriptor).st_size

    def copy(self, path: str | os.PathLike[str]) -> None:
        """Copy the file to `path`, which is complete and synchronised to the disk afterwards or has not changed. Raises
        as `container.write` does."""
        with replaced_durably(path) as temporary, open(self.link, "rb") as source, open(temporary, "xb") as target:
            _copy(source.fileno(), target.fileno(), self.size)


def _copy(source: int, target: int, size: int) -> None:
    """The kernel copies, or the file system shares the blocks, where they can; else the bytes pass through here."""
    done = 0
    try:
        while done < size:
            copied = os.copy_file_range(source, target, min(_COPY_BYTES, size - done))
            if not copied:
                break
            done += copied
    except OSError:  # between file systems that cannot, or an old kernel
        if done:
            raise
    if done < size:
        os.lseek(source, done, os.SEEK_SET)
        os.lseek(target, done, os.SEEK_SET)
        with open(source, "rb", closefd=False) as reader, open(target, "wb", closefd=False) as writer:
            shutil.copyfileobj(reader, writer)


def check_digests(file: Container, manifest: Manifest) -> None:
    """Compare all members with their digests, those that the manifest has none of with their CRC-32, on all
    processors. Raises ArtifactError naming the first that differs."""
    for name in file.members.keys() - manifest.digests.keys():
        file.verify(name)
    chunks: list[tuple[str, int, memoryview, str]] = []
    for name, digest in manifest.digests.items():
        data = file.view(name).data
        if len(data) != digest.size:
            raise ArtifactError(f"{file.path}: member {name!r} has {len(data)} bytes, the manifest says {digest.size}")
        for index, expected in enumerate(digest.chunks):
            start = index * DIGEST_CHUNK
            chunks.append((name, start, data[start : start + DIGEST_CHUNK], expected))
    for (name, start, data, expected), digest in zip(chunks, _digests([data for _, _, data, _ in chunks]), strict=True):
        if digest != expected:
            raise ArtifactError(
                f"{file.path}: member {name!r} is damaged between bytes {start} and {start + len(data)}"
            )


def _digests(pieces: Sequence[memoryview]) -> Iterable[str]:
    """The SHA-256 of each piece, in hexadecimal, by all processors where there is much to read."""
    if sum(map(len, pieces)) < _FEW_BYTES:
        return map(_sha256, pieces)
    from concurrent.futures import ThreadPoolExecutor  # here, as it takes longer to import than small files to read

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(_sha256, pieces))


def _sha256(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
