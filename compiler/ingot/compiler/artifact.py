"""The artifact: a compiled program with its weights in one file, as the runtime reads it."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.stored import SCHEDULES_MEMBER, StoredFile, check_digests
from ingot.runtime import Session, container
from ingot.runtime import manifest as stored
from ingot.runtime.elf import EM_AARCH64, EM_X86_64, SEGMENT_ALIGNMENT
from ingot.runtime.image import create_memory_file
from ingot.runtime.memory import ALIGNMENT
from ingot.runtime.profile import LaunchCost, encode_costs, parse_costs

_MACHINES = {"x86-64": EM_X86_64, "aarch64": EM_AARCH64}


@dataclass(frozen=True, eq=False)
class Artifact:
    """A compiled model. `code` holds a shared object per instruction set level, `weights` the distinct weight arrays
    with their offsets in the weights member, `vectors` test data as an .npz file, `costs` what is known of each launch
    of each program before it runs, the general program first, then the variants, `schedules` what was chosen for the
    kernels, as bytes that only tools read."""

    manifest: stored.Manifest
    code: Mapping[str, bytes]
    weights: tuple[tuple[int, NDArray[Any]], ...]
    vectors: bytes | None = None
    costs: tuple[tuple[LaunchCost, ...], ...] = ()
    schedules: bytes = b""
    _file: StoredFile | None = field(default=None, init=False, repr=False)  # where the artifact was read from

    def __getstate__(self) -> dict[str, Any]:
        """What pickling and copying take: all but the open file, which belongs to this object and this process."""
        return {**self.__dict__, "_file": None}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; a file already there is replaced at once, so that processes using it keep the old one.

        The same artifact gives the same bytes. Raises OSError when the file system refuses.
        """
        if self._file is not None:
            self._file.copy(path)
        else:
            container.write(path, self._members())

    def write_to(self, file: BinaryIO) -> None:
        """Write the file's bytes into an empty, seekable file, which is not synchronised to the disk."""
        container.write_to(file, self._members())

    def session(self, *, threads: int | None = None, seed: int | None = None) -> Session:
        """The model loaded from an anonymous memory file, or from the file that the artifact was opened from. Raises
        what `Session` raises."""
        if self._file is not None:
            return Session(self._file.link, threads=threads, seed=seed)
        descriptor = create_memory_file(re.sub(r"[^A-Za-z0-9_.-]", "-", self.manifest.name)[:80] + ".ingot")
        try:
            with open(descriptor, "wb", closefd=False) as file:
                container.write_to(file, self._members())
            return Session(f"/proc/self/fd/{descriptor}", threads=threads, seed=seed)
        finally:
            os.close(descriptor)

    @cached_property
    def size(self) -> int:
        """Bytes of the file."""
        if self._file is not None:
            return self._file.size
        meter = _Meter()
        container.write_to(cast("BinaryIO", meter), self._members())
        return meter.size

    @cached_property
    def encoded(self) -> bytes:
        """The manifest as it is written."""
        return self.manifest.encode()

    def _members(self) -> list[container.Member]:
        alignment = SEGMENT_ALIGNMENT[_MACHINES[self.manifest.architecture]]
        members = [container.Member(stored.MANIFEST_MEMBER, self.encoded)]
        for level, data in self.code.items():
            members.append(container.Member(stored.code_member(level), data, alignment))
        if stored.WEIGHTS_MEMBER in self.manifest.digests:
            members.append(container.Member(stored.WEIGHTS_MEMBER, stream_weights(self.weights), ALIGNMENT))
        for number, costs in enumerate(self.costs):
            members.append(container.Member(stored.profile_member(number), encode_costs(costs)))
        if self.schedules:
            members.append(container.Member(SCHEDULES_MEMBER, self.schedules))
        if self.vectors is not None:
            members.append(container.Member(stored.VECTORS_MEMBER, self.vectors))
        return members


def open_artifact(path: str | os.PathLike[str], *, verify: bool = True) -> Artifact:
    """The artifact in a file, all of which is compared with its digests unless `verify` is false. The weights are
    mapped from the file, which must not be written meanwhile; it may be removed or replaced.

    Raises ArtifactError for a file that is damaged or not an artifact, OSError when it cannot be opened.
    """
    with container.read(path) as file:
        file.verify(stored.MANIFEST_MEMBER)
        manifest = stored.parse_manifest(file.view(stored.MANIFEST_MEMBER).tobytes())
        if verify:
            check_digests(file, manifest)
        profiles = [stored.profile_member(number) for number in range(1 + len(manifest.variants))]
        has_costs = all(name in file.members for name in profiles)
        weights = file.view(stored.WEIGHTS_MEMBER) if stored.WEIGHTS_MEMBER in manifest.digests else None
        vectors = stored.VECTORS_MEMBER in manifest.digests
        artifact = Artifact(
            manifest,
            {code.level: file.view(stored.code_member(code.level)).tobytes() for code in manifest.code},
            () if weights is None else ((0, weights),),
            file.view(stored.VECTORS_MEMBER).tobytes() if vectors else None,
            tuple(parse_costs(file.view(name).tobytes()) for name in profiles) if has_costs else (),
            file.view(SCHEDULES_MEMBER).tobytes() if SCHEDULES_MEMBER in file.members else b"",
        )
        object.__setattr__(artifact, "_file", StoredFile(os.dup(file.fileno())))
    return artifact


def stream_weights(weights: Iterable[tuple[int, NDArray[Any]]]) -> Iterator[memoryview]:
    """The content of the weights member: the arrays with zeros between them, piece by piece."""
    position = 0
    for offset, data in weights:
        yield memoryview(bytes(offset - position))
        yield data.view(np.uint8).data
        position = offset + data.nbytes


class _Meter(io.RawIOBase):
    """A file that keeps nothing but its size."""

    def __init__(self) -> None:
        super().__init__()
        self.size = self._position = 0

    def write(self, data: Any, /) -> int:
        length = memoryview(data).nbytes
        self._position += length
        self.size = max(self.size, self._position)
        return length

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._position = offset
        return offset
