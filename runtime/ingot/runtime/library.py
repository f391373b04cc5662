"""An artifact opened and mapped: its manifest, the machine code that fits this processor, its weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ingot.runtime import container
from ingot.runtime.cpu import host_architecture, kernel_flags, missing_features, obtain_state
from ingot.runtime.environment import Environment
from ingot.runtime.errors import ArtifactError, InputError, UnsupportedCpuError
from ingot.runtime.image import Image
from ingot.runtime.manifest import (
    CALL_SYMBOL,
    DIGEST_CHUNK,
    MANIFEST_MEMBER,
    MAX_MANIFEST_BYTES,
    MAX_PROFILE_BYTES,
    PROFILE_SYMBOL,
    RUN_SYMBOL,
    STOP_SYMBOL,
    TEAM_INIT_SYMBOL,
    TEAM_SIZE_SYMBOL,
    WEIGHTS_MEMBER,
    WORKER_SYMBOL,
    Code,
    Manifest,
    code_member,
    parse_manifest,
    profile_member,
)
from ingot.runtime.memory import ALIGNMENT, populate
from ingot.runtime.tables import WEIGHT, Storages
from ingot.runtime.threads import TeamFunctions

if TYPE_CHECKING:
    from ingot.runtime.profile import LaunchCost

Verify: TypeAlias = Literal["code", "full"]
_CHOICES: Final = get_args(Verify)
_RECOMPILE: Final = "compile the model again with --target for this machine"


class Library:
    """The parts of an artifact that a session works with.

    The manifest is compared with its CRC-32, the machine code and the weights that are indices with their SHA-256; with
    ``verify="full"`` all weights are, which reads them. Weights are mapped from the file, read-only, shared with other
    processes.

    Raises ArtifactError for a file that is damaged or not an artifact, UnsupportedCpuError when it holds no code for
    this processor, OSError when it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, verify: Verify, environment: Environment) -> None:
        if verify not in _CHOICES:
            raise InputError(f"verify is {verify!r}; 'code' or 'full' can be asked for")
        with container.read(path) as file:
            try:
                self.manifest: Manifest = _read_manifest(file)
                self.code: Code = _choose_code(self.manifest)
                obtain_state(self.code.features)
                member = code_member(self.code.level)
                content = file.view(member).tobytes()
                _verify(member, content, self.manifest)
                self._weights = _map_weights(file, self.manifest, verify)
                self._costs = tuple(_find_costs(file, n) for n in range(1 + len(self.manifest.variants)))
            except UnsupportedCpuError as error:
                raise UnsupportedCpuError(f"{file.path}: {error}") from None
            except ArtifactError as error:
                raise ArtifactError(f"{file.path}: {error}") from None
            entry = file.entry(member)
            self._image = Image(
                file.fileno(),
                entry.offset,
                entry.size,
                name=f"{self.manifest.name[:80]}-{self.code.level}",
                debug_dir=environment.debug_dir,
                content=content,
            )
        try:
            symbol = self._image.symbol
            self.run: int = symbol(RUN_SYMBOL)
            self.call: int | None = symbol(CALL_SYMBOL) if CALL_SYMBOL in self._image.symbols else None
            """Address of the entry for Python, which an artifact may lack."""
            self.profile: int | None = symbol(PROFILE_SYMBOL) if PROFILE_SYMBOL in self._image.symbols else None
            """Address of the entry with time stamps, which an artifact may lack."""
            self.team_functions: TeamFunctions = TeamFunctions(
                symbol(TEAM_SIZE_SYMBOL), symbol(TEAM_INIT_SYMBOL), symbol(WORKER_SYMBOL), symbol(STOP_SYMBOL)
            )
        except ArtifactError:
            self.close()
            raise

    @property
    def weights_address(self) -> int:
        """Address of the first weight; 0 without weights."""
        return self._weights.ctypes.data if self._weights.size else 0

    def costs(self, number: int = 0) -> tuple[LaunchCost, ...] | None:
        """What the artifact says of the launches of its program of that number; None where it says nothing. Raises
        ArtifactError for nonsense."""
        from ingot.runtime.profile import parse_costs

        read = self._costs[number]
        return None if read is None else parse_costs(bytes(read()))

    def close(self) -> None:
        """Unmap code and weights. No thread may be running the code."""
        self._image.close()
        self._weights = np.empty(0, np.uint8)


def _find_costs(file: container.Container, number: int) -> Callable[[], memoryview] | None:
    """What reads them: most sessions never do."""
    member = profile_member(number)
    if member not in file.members:
        return None
    if file.entry(member).size > MAX_PROFILE_BYTES:
        raise ArtifactError(f"{member!r} has more than {MAX_PROFILE_BYTES} bytes")
    return file.claim(member)


def _read_manifest(file: container.Container) -> Manifest:
    if file.entry(MANIFEST_MEMBER).size > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"the manifest has more than {MAX_MANIFEST_BYTES} bytes")
    return parse_manifest(bytes(file.claim(MANIFEST_MEMBER)()))


def _choose_code(manifest: Manifest) -> Code:
    here = host_architecture()
    if manifest.architecture != here:
        raise UnsupportedCpuError(f"it holds code for {manifest.architecture}, this is {here}: {_RECOMPILE}")
    flags = kernel_flags()
    missing = {code: missing_features(code.features, here, flags) for code in manifest.code}
    for code, features in missing.items():
        if not features:
            return code
    nearest = min(missing, key=lambda code: len(missing[code]))
    raise UnsupportedCpuError(
        f"this processor cannot run any of its code levels ({', '.join(code.level for code in missing)}); "
        f"{nearest.level} needs {', '.join(missing[nearest])}: {_RECOMPILE}"
    )


def _verify(
    member: str, data: bytes | memoryview, manifest: Manifest, chunks: Collection[int] | None = None
) -> None:
    """Compare the `data` of a member with its digests, or those of its chunks that are named."""
    digest = manifest.digests[member]
    if len(data) != digest.size:
        raise ArtifactError(f"member {member!r} has {len(data)} bytes, the manifest says {digest.size}")
    for index, expected in enumerate(digest.chunks):
        if chunks is not None and index not in chunks:
            continue
        start = index * DIGEST_CHUNK
        chunk = data[start : start + DIGEST_CHUNK]
        if hashlib.sha256(chunk).hexdigest() != expected:
            raise ArtifactError(f"member {member!r} is damaged between bytes {start} and {start + len(chunk)}")


def _index_chunks(storages: Storages) -> frozenset[int]:
    """The chunks of the weights that hold integers of 32 or 64 bits. The code trusts constants that it finds elements
    by, so that damage to them would be worse than wrong results."""
    wide = [dtype.is_integer and dtype.bits >= 32 for dtype in storages.dtypes]
    if not any(wide):
        return frozenset()
    found: set[int] = set()
    for number, start, end in zip(storages.numbers(WEIGHT), storages.offset, storages.weight_ends(), strict=True):
        if wide[storages.dtype[number]]:
            found.update(range(start // DIGEST_CHUNK, (end - 1) // DIGEST_CHUNK + 1))
    return frozenset(found)


def _map_weights(file: container.Container, manifest: Manifest, verify: Verify) -> NDArray[np.uint8]:
    digest = manifest.digests.get(WEIGHTS_MEMBER)
    if digest is None:
        return np.empty(0, np.uint8)
    entry = file.entry(WEIGHTS_MEMBER)
    if entry.size != digest.size or entry.offset % ALIGNMENT:
        raise ArtifactError(f"the weights are not {digest.size} bytes at a multiple of {ALIGNMENT}")
    indices = frozenset[int]().union(*(_index_chunks(each.storages) for each in (manifest, *manifest.variants)))
    weights: NDArray[Any] = file.view(WEIGHTS_MEMBER)
    _verify(WEIGHTS_MEMBER, weights.data, manifest, None if verify == "full" else indices)
    # The system begins to read what is not in memory yet, so that the first run finds most of it there.
    os.posix_fadvise(file.fileno(), entry.offset, entry.size, os.POSIX_FADV_WILLNEED)
    populate(weights[: manifest.eager])
    return weights
