"""Whole artifacts in the cache: the answer to a request that is the same to the last bit."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

from ingot.compiler.artifact import Artifact, open_artifact
from ingot.compiler.cache import Cache, CacheWarning, open_cache
from ingot.compiler.cache.fingerprint import content_digest
from ingot.compiler.environment import read_environment
from ingot.compiler.frontend.content import model_content
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.passes.default import REGISTRY
from ingot.compiler.request import Request
from ingot.compiler.targets.target import Target
from ingot.runtime.errors import ArtifactError

P = TypeVar("P")


@dataclass(frozen=True)
class Shelf(Generic[P]):
    """The cache as one request sees it: `key` is that of its artifact, None where none is looked for or kept."""

    cache: Cache | None
    key: str | None

    def find(self) -> P | None:
        """What was made for the same request before, None when there is nothing."""
        if self.cache is None or self.key is None:
            return None
        return cast("P | None", find_program(self.cache, self.key))  # only targets that make artifacts have keys

    def keep(self, product: P) -> P:
        """`product`, kept for the next time where it can be, and the cache within its bounds."""
        if self.cache is None:
            return product
        if self.key is not None and isinstance(product, Artifact):
            product = cast("P", keep_program(self.cache, self.key, product))
        self.cache.store.trim()
        return product


def _warn(message: str) -> None:
    warnings.warn(message, CacheWarning, stacklevel=2)


def open_shelf(request: Request, target: Target[P], tuning: str = "") -> Shelf[P]:
    """The cache that the environment and the request ask for; `tuning` stands for the schedules that are wanted."""
    cache = open_cache(read_environment(), _warn) if request.cache else None
    # Nothing tells what functions of the user's mean, or what will be measured.
    unknown = cache is None or request.is_watched or request.custom or request.tune is not None
    return Shelf(cache, None if unknown or cache is None else program_key(cache, request, target.text + tuning))


def program_key(cache: Cache, request: Request, target: str) -> str | None:
    """The key of a request: the model's bytes, the passes, the target (its `Target.text`) and all options that change
    the artifact.

    None where a key cannot say what is asked for: for a model that is not a file or its bytes, for passes that are not
    Ingot's own or have options (which may name files), and for a model that is not well formed.
    """
    model, passes = request.model, request.passes
    own = {id(item) for item in REGISTRY.values()}  # by identity: others may call themselves equal
    if not isinstance(model, str | Path | bytes) or any(id(item) not in own for item in passes):
        return None
    try:
        content = content_digest(model_content(model))
    except ModelError:  # which importing will report
        return None
    shapes = sorted((name, tuple(shape)) for name, shape in (request.shapes or {}).items())
    ranges = sorted((name, tuple(pair)) for name, pair in (request.ranges or {}).items())
    variants = (list(request.variants), request.general)
    options = (request.target, request.numerics, request.forms, request.name, request.before, request.after)
    return cache.program_key(content, str(passes), target, repr(shapes), repr(ranges), repr(variants), repr(options))


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
