"""Whole artifacts in the cache: the answer to a request that is the same to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ingot.compiler.artifact import Artifact, open_artifact
from ingot.compiler.cache import Cache
from ingot.compiler.cache.fingerprint import content_digest
from ingot.compiler.frontend.content import model_content
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.passes.default import PASSES
from ingot.compiler.pipeline import Pipeline
from ingot.runtime.errors import ArtifactError


class _Place(Protocol):
    """What is asked of a target."""

    @property
    def text(self) -> str:
        """All of it that code depends on."""
        ...


def program_key(
    cache: Cache,
    model: object,
    passes: Pipeline,
    place: _Place,
    shapes: Mapping[str, Sequence[int | str]] | None,
    ranges: Mapping[str, tuple[int, int]] | None,
    options: tuple[str | None, ...],
) -> str | None:
    """The key of a request: the model's bytes, the passes, the target and all options that change the artifact.

    None where a key cannot say what is asked for: for a model that is not a file or its bytes, for passes that are not
    Ingot's own or have options (which may name files), and for a model that is not well formed.
    """
    if not isinstance(model, str | Path | bytes) or any(item not in PASSES for item in passes):
        return None
    try:
        content = content_digest(model_content(model))
    except ModelError:  # which importing will report
        return None
    fixed = sorted((name, tuple(shape)) for name, shape in (shapes or {}).items())
    bounds = sorted((name, tuple(pair)) for name, pair in (ranges or {}).items())
    return cache.program_key(content, str(passes), place.text, repr(fixed), repr(bounds), repr(options))


def find_program(cache: Cache, key: str) -> Artifact | None:
    """The artifact kept under `key`, checked; None when there is none. A damaged one is removed."""
    path = cache.store.program(key)
    if path is None:
        return None
    try:
        return open_artifact(path)
    except ArtifactError:
        cache.store.discard(path)
    except OSError:  # removed by another process in the meantime, or not readable
        pass
    return None


def keep_program(cache: Cache, key: str, artifact: Artifact) -> Artifact:
    """Keep `artifact` under `key`. The artifact as it is there, mapped from its file; the one given where it is not
    kept: it is too large, the folder cannot be written, the compiler's sources have changed."""

    def write(path: Path) -> None:
        with path.open("xb") as file:
            artifact.write_to(file)

    size = sum(digest.size for digest in artifact.manifest.digests.values())
    path = cache.store.keep_program(key, size, write) if cache.everything.is_loaded() else None
    try:
        return artifact if path is None else open_artifact(path, verify=False)
    except (ArtifactError, OSError):
        return artifact
