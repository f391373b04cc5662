"""Whole artifacts in the cache: the answer to a request that is the same to the last bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeVar, cast

from ingot.compiler.artifact import Artifact, open_artifact
from ingot.compiler.cache import Cache, CacheWarning, open_cache
from ingot.compiler.cache.fingerprint import content_digest
from ingot.compiler.environment import read_environment
from ingot.compiler.frontend.content import model_content
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.request import Request
from ingot.compiler.targets.registry import machine_text
from ingot.runtime.errors import ArtifactError

P = TypeVar("P")


@dataclass(frozen=True)
class Shelf:
    """The cache as one request sees it: `key` is that of its artifact, None where none is looked for or kept.
    `opened` is when that was asked, on the clock of `perf_counter`."""

    cache: Cache | None
    key: str | None
    opened: float

    def find(self, tell: Callable[[str], None] | None) -> Artifact | None:
        """What was made for the same request before, None when there is nothing. `tell` is told how long that took."""
        if self.cache is None or self.key is None:
            return None
        found = find_program(self.cache, self.key)
        if found is not None and tell is not None:
            tell(f"from the cache: {perf_counter() - self.opened:.2f} s")
        return found

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


def open_shelf(request: Request, schedules: str = "", *, programs: bool = True) -> Shelf:
    """The cache that the environment and the request ask for; `schedules` stands for those that are wanted. Without
    `programs` no artifact is looked for or kept: what is made is none."""
    opened = perf_counter()
    cache = open_cache(read_environment(), _warn) if request.cache else None
    # Nothing tells what functions of the user's mean, or what will be measured.
    unknown = not programs or request.is_watched or request.custom or request.tune is not None
    return Shelf(cache, None if unknown or cache is None else program_key(cache, request, schedules), opened)


def program_key(cache: Cache, request: Request, schedules: str = "") -> str | None:
    """The key of a request: the model's bytes, the passes, this machine where the target is one of its own, the
    schedules that are wanted, and all options that change the artifact. It is made without what compiles.

    None where a key cannot say what is asked for: for a model that is not a file or its bytes, for passes that are not
    Ingot's own or have options (which may name files), and for a model that is not well formed.
    """
    model, passes = request.model, _passes_text(request)
    if not isinstance(model, str | Path | bytes) or passes is None:
        return None
    try:
        content = content_digest(model_content(model))
    except ModelError:  # which importing will report
        return None
    shapes = sorted((name, tuple(shape)) for name, shape in (request.shapes or {}).items())
    ranges = sorted((name, tuple(pair)) for name, pair in (request.ranges or {}).items())
    variants = (list(request.variants), request.general)
    target = (request.target, request.checked, request.denormals, machine_text(request.target))
    numerics = (request.numerics, request.requantise)
    forms = (request.memory, request.weights, request.sparse)
    options = (numerics, forms, request.name, request.before, request.after)
    parts = (target, shapes, ranges, variants, options)
    return cache.program_key(content, passes, schedules, *map(repr, parts))


def _passes_text(request: Request) -> str | None:
    """What stands for the passes: nothing for the default ones, which the numerics name; None where nothing can."""
    if request.pipeline is None:
        return ""
    from ingot.compiler.passes.default import REGISTRY, default_pipeline

    own = {id(item) for item in REGISTRY.values()}  # by identity: others may call themselves equal
    if any(id(item) not in own for item in request.pipeline):
        return None
    text = str(request.pipeline)
    return "" if text == str(default_pipeline(request.numerics, request.requantise)) else text


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
