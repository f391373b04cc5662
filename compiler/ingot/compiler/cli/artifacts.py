"""Artifacts on the command line: what they hold, arrays that fit them. Needs numpy and the runtime alone."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.array_files import ArrayFileError, Arrays, as_declared, load_arrays
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.shapes import symbol_values
from ingot.runtime import TensorInfo, container
from ingot.runtime.dims import compile_dims
from ingot.runtime.errors import ArtifactError
from ingot.runtime.inputs import describe
from ingot.runtime.manifest import DIGEST_CHUNK, MANIFEST_MEMBER, Manifest, Signature, parse_manifest

SUFFIX = ".ingot"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
RANDOM_BYTES = 8  # of a random number before it is converted


def is_artifact(path: Path) -> bool:
    """True where the name or else the first bytes of the file say that it is an artifact."""
    if path.suffix in (SUFFIX, ".onnx"):
        return path.suffix == SUFFIX
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def require_artifact(path: Path) -> None:
    """Raise CommandError for a file that is not there or that is named as a model."""
    if not path.is_file():
        raise CommandError(f"{path}: there is no such file" if not path.exists() else f"{path}: not a file")
    if path.suffix == ".onnx":
        raise CommandError(f"{path} is a model, not an artifact; compile it first: ingot compile {path}")


@dataclass(frozen=True)
class Member:
    """A member of an artifact: bytes, and whether they are those that the manifest's digest was made of (None where
    that was not looked at)."""

    name: str
    size: int
    sha256: str | None
    intact: bool | None


def read_artifact(path: Path, *, verify: bool = False) -> tuple[Manifest, tuple[Member, ...]]:
    """The manifest and the members; with `verify` all bytes are read and compared with their digests.

    Works for artifacts of any architecture. Raises ArtifactError, OSError.
    """
    with container.read(path) as file:
        file.verify(MANIFEST_MEMBER)
        try:
            manifest = parse_manifest(file.view(MANIFEST_MEMBER).tobytes())
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from None
        members: list[Member] = []
        for name, entry in file.members.items():
            digest = manifest.digests.get(name)
            intact = None
            if verify and digest is not None:
                data = file.view(name)
                chunks = (data[start : start + DIGEST_CHUNK] for start in range(0, entry.size, DIGEST_CHUNK))
                intact = entry.size == digest.size and all(
                    sha256(chunk.data).hexdigest() == expected
                    for chunk, expected in zip(chunks, digest.chunks, strict=True)
                )
            members.append(Member(name, entry.size, file.sha256(name) if verify else None, intact))
    return manifest, tuple(members)


class Interface(Protocol):
    """What takes inputs: a manifest, or something else with its two fields."""

    @property
    def inputs(self) -> Sequence[Signature]:
        """The inputs in order."""
        ...

    @property
    def symbols(self) -> Mapping[str, tuple[int, int]]:
        """The range of each symbolic dim, both ends included."""
        ...


def concrete_shapes(interface: Interface, texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shape of each input, symbolic dims as ``--shape`` says (see `symbol_values`); without it the smallest, in an
    artifact that is closed those of its first variant. Raises CommandError."""
    if isinstance(interface, Manifest) and interface.closed and not texts:
        interface = interface.variants[0]
    shapes = {signature.name: signature.shape for signature in interface.inputs}
    values = symbol_values(texts, interface.symbols, shapes)
    return {name: tuple(compile_dims(shape).evaluate(values)) for name, shape in shapes.items()}


def random_arrays(interface: Interface, shapes: Mapping[str, tuple[int, ...]], seed: int) -> Arrays:
    """Inputs of these shapes: floats of the standard normal distribution, integers 0 or 1 (so that they are good
    indices), bools, words of three letters. The same seed gives the same arrays."""
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for info in describe(interface.inputs):
        shape = shapes[info.name]
        if math.prod(shape) * max(info.dtype.itemsize, RANDOM_BYTES) > sys.maxsize:
            raise CommandError(f"input {info.name!r} of shape {list(shape)} fits into no memory; give smaller dims")
        if info.dtype.hasobject:
            letters = rng.choice(list(LETTERS), (math.prod(shape), 3)).tolist()
            arrays[info.name] = np.array(["".join(word) for word in letters], object).reshape(shape)
        elif info.dtype.kind in "iub":
            arrays[info.name] = rng.integers(0, 2, shape).astype(info.dtype)
        else:  # bf16 has a kind of its own
            arrays[info.name] = rng.standard_normal(shape).astype(info.dtype)
    return arrays


def read_arrays(texts: Sequence[str], inputs: Sequence[TensorInfo], *, option: str = "--input") -> Arrays:
    """The arrays of `option`: ``name=array.npy``, or an .npz with an array for every name.

    Raises CommandError for files that are not there, that hold something else, and for names given twice.
    """
    dtypes = {info.name: info.dtype for info in inputs}
    arrays: Arrays = {}
    for text in texts:
        names = [name for name in dtypes if text.startswith(f"{name}=")]
        if not names and text.endswith(".npz"):
            loaded = _load(Path(text))
            if not isinstance(loaded, dict):
                raise CommandError(f"{text} holds one array without a name; write {option} name={text}")
        else:
            name = max(names, key=len) if names else text.partition("=")[0]
            path = text[len(name) + 1 :]
            if not path:
                raise CommandError(f"{option} {text!r}: write name=array.npy or arrays.npz")
            array = _load(Path(path))
            if isinstance(array, dict):
                raise CommandError(f"{path} is an archive of named arrays; write {option} {path}")
            loaded = {name: array}
        for name, array in loaded.items():
            if name in arrays:
                raise CommandError(f"{option} gives {name!r} twice")
            arrays[name] = as_declared(array, dtypes.get(name))
    return arrays


def array_files(texts: Sequence[str]) -> tuple[Path, ...]:
    """The files that `read_arrays` may read for the same texts."""
    return tuple(Path(part) for text in texts for part in (text, text.partition("=")[2]) if part)


def _load(path: Path) -> NDArray[Any] | Arrays:
    try:
        return load_arrays(path)
    except ArrayFileError as error:
        raise CommandError(str(error)) from error


def require_archive(path: Path) -> None:
    """Raise CommandError where the name of a file that `write_arrays` is to write promises a single array."""
    if path.suffix == ".npy":
        raise CommandError(f"{path}: outputs are written as an .npz archive; give a name that ends in .npz")
