"""What compiling leaves for the next time: machine code of kernels and whole artifacts, on disk, by content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ingot.compiler.cache.fingerprint import EMITTER, EVERYTHING, Fingerprint, installed, key_of
from ingot.compiler.cache.store import Store
from ingot.compiler.environment import Environment


class CacheWarning(UserWarning):
    """The cache cannot be used as it should; the compilation is not affected."""


@dataclass(frozen=True)
class Cache:
    """The store and what its keys begin with. Results of this process are kept as long as its code is that of the
    files that the fingerprints stand for."""

    store: Store
    emitter: Fingerprint
    everything: Fingerprint

    def object_key(self, *parts: str) -> str:
        """The key of what the emitter makes from `parts`."""
        return key_of("object", self.emitter.text, *parts)

    def program_key(self, *parts: str | bytes) -> str:
        """The key of what the whole compiler makes from `parts`."""
        return key_of("program", self.everything.text, *parts)

    def object(self, key: str) -> bytes | None:
        """The object kept under `key`, None when there is none."""
        return self.store.object(key)

    def keep_object(self, key: str, content: bytes) -> None:
        """Keep an object that this process or one that it has started has made."""
        if self.emitter.is_loaded():
            self.store.keep_object(key, content)


def open_cache(environment: Environment, report: Callable[[str], None]) -> Cache | None:
    """The cache that the environment asks for. None where it asks for none, where the compiler's sources are not there
    as files, and where they have changed since this process started: what it makes belongs to neither."""
    if environment.cache is None:
        return None
    emitter, everything = installed(EMITTER), installed(EVERYTHING)
    if emitter is None or everything is None or not emitter.is_loaded():
        return None
    return Cache(Store(environment.cache, environment.cache_size, report), emitter, everything)
