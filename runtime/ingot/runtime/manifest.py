"""The manifest of an artifact: what it holds, how to call its code, what its memory must look like.

This is the definition of the format. The compiler fills a `Manifest` and writes `encode`'s bytes; the runtime reads
them back with `parse_manifest`, which believes nothing: every name, kind, dtype, index and range is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar, cast

import numpy as np

from ingot.runtime.cpu import ARCHITECTURES
from ingot.runtime.dims import Dim, linear, parse_dim, symbols_of
from ingot.runtime.dtypes import BY_NAME, DType
from ingot.runtime.errors import ArtifactError
from ingot.runtime.tables import (
    BLOCK,
    INPUT,
    MAX_SIZE,
    OUTPUT,
    STATUS,
    STORAGE_KINDS,
    TEMP,
    Arguments,
    Storages,
)

FORMAT_VERSION: Final = 2

MANIFEST_MEMBER: Final = "manifest.json"
WEIGHTS_MEMBER: Final = "weights.bin"
VECTORS_MEMBER: Final = "test/vectors.npz"
PROFILE_MEMBER: Final = "profile.json"  # may be absent; read by whoever asks, not on loading

RUN_SYMBOL: Final = "ingot_run"
TEAM_SIZE_SYMBOL: Final = "ingot_team_size"
TEAM_INIT_SYMBOL: Final = "ingot_team_init"
WORKER_SYMBOL: Final = "ingot_worker"
STOP_SYMBOL: Final = "ingot_stop"
CALL_SYMBOL: Final = "ingot_call"  # may be absent
PROFILE_SYMBOL: Final = "ingot_profile"  # may be absent
EXPORTS: Final = (RUN_SYMBOL, TEAM_SIZE_SYMBOL, TEAM_INIT_SYMBOL, WORKER_SYMBOL, STOP_SYMBOL)

DIGEST_CHUNK: Final = 1 << 20
"""Bytes of a member that one digest covers; the last chunk may be shorter."""
MAX_MANIFEST_BYTES: Final = 1 << 28

MAX_NAME: Final = 4096
"""Characters in the name of an input or output."""
MAX_RANK: Final = 64
MAX_SYMBOL: Final = 256
"""Characters in the name of a symbolic dim."""

_NAME: Final = re.compile(r"[A-Za-z0-9_+=@.-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


def code_member(level: str) -> str:
    """Name of the member that holds the machine code of a level."""
    return f"code/{level}.so"


@dataclass(frozen=True, slots=True)
class Code:
    """Machine code for one instruction set level; it runs on processors with all of `features` (LLVM's names)."""

    level: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """One input or output: `storage` indexes `Manifest.storages`. A symbol's value follows from an input axis whose
    dim is that symbol and nothing else."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    storage: int


@dataclass(frozen=True, slots=True)
class Digest:
    """SHA-256 of a member's bytes, DIGEST_CHUNK at a time. It shows damage; it does not show who wrote the file."""

    size: int
    chunks: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """All that the runtime must know of a model.

    `target` is what the user asked the compiler for; `code` holds the levels in the file, best first. `symbols` gives
    each symbolic dim's range, both ends included. `args` describes the table of 64-bit words that the code is called
    with. `chunks` are the chunk counts of the parallel steps: where none exceeds 1, one thread does all. A run that
    leaves n > 0 in the status storage failed with the message `faults[n - 1]`.

    `bound` are the symbols whose values come from data, in the order of the block, each with the number of the fault
    that a value out of its range is; `late` are the storages whose size mentions such a symbol, with the number of the
    fault that there is no memory. The code fills in the words of `args` that depend on either.

    `checked` says that the code checks its accesses of memory and what it leaves in the status is read as
    `ingot.runtime.checked` says; working memory is then poisoned before every run.
    """

    name: str
    producer: str
    architecture: str
    target: str
    code: tuple[Code, ...]
    symbols: Mapping[str, tuple[int, int]]
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    storages: Storages
    args: Arguments
    chunks: tuple[Dim, ...] = ()
    faults: tuple[str, ...] = ()
    digests: Mapping[str, Digest] = field(default_factory=dict[str, Digest])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    bound: Mapping[str, int] = field(default_factory=dict[str, int])
    late: Mapping[int, int] = field(default_factory=dict[int, int])
    checked: bool = False

    def encode(self) -> bytes:
        """The manifest as UTF-8 JSON; equal manifests give equal bytes. Raises ArtifactError, as reading would, for one
        that the runtime would refuse."""
        document: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "producer": self.producer,
            "name": self.name,
            "target": {"arch": self.architecture, "asked": self.target},
            "code": [{"level": code.level, "features": list(code.features)} for code in self.code],
            "symbols": {name: list(bounds) for name, bounds in self.symbols.items()},
            "inputs": [_encode_signature(each) for each in self.inputs],
            "outputs": [_encode_signature(each) for each in self.outputs],
            "storages": self.storages.encode(),
            "args": self.args.encode(),
            "chunks": self.chunks,
            "faults": self.faults,
            "digests": {name: {"size": d.size, "chunks": d.chunks} for name, d in self.digests.items()},
            "provenance": self.provenance,
        }
        if self.bound:
            document["bound"] = [[name, fault] for name, fault in self.bound.items()]
            document["late"] = [[storage, fault] for storage, fault in self.late.items()]
        if self.checked:
            document["checked"] = True
        try:
            data = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"the manifest cannot be written as JSON: {error}") from error
        parse_manifest(data)
        return data


def _encode_signature(signature: Signature) -> dict[str, Any]:
    name, dtype, shape, storage = signature.name, signature.dtype.name, signature.shape, signature.storage
    return {"name": name, "dtype": dtype, "shape": shape, "storage": storage}


def parse_manifest(data: bytes) -> Manifest:
    """Read and check a manifest. Raises ArtifactError for anything that is not one of this format version."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"the manifest has {len(data)} bytes; {MAX_MANIFEST_BYTES} is the most")
    try:
        document: object = json.loads(data.decode(), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the manifest is not valid JSON: {error}") from error
    top = _Record("the manifest", document)
    version = top.take("format")
    if version != FORMAT_VERSION or isinstance(version, bool | float):
        raise ArtifactError(
            f"the artifact has format version {str(version)[:20]}, this runtime reads version {FORMAT_VERSION}: "
            "update ingot, or compile the model again"
        )
    return _parse_document(top)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key is given twice")
    return record


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


class _Record:
    """A decoded JSON object that is taken apart key by key; each error says where it is."""

    def __init__(self, where: str, value: object) -> None:
        if not isinstance(value, dict):
            raise ArtifactError(f"{where} is not a JSON object")
        self.where = where
        self._rest = dict(cast("dict[str, object]", value))

    def take(self, key: str) -> object:
        if key not in self._rest:
            raise ArtifactError(f"{self.where} has no {key!r}")
        return self._rest.pop(key)

    def names(self) -> tuple[str, ...]:
        return tuple(self._rest)

    def text(self, key: str, *, longest: int = 1 << 16) -> str:
        return _text(self.take(key), f"{self.where}.{key}", longest)

    def integer(self, key: str, low: int, high: int) -> int:
        return _integer(self.take(key), f"{self.where}.{key}", low, high)

    def sequence(self, key: str) -> list[object]:
        return _sequence(self.take(key), f"{self.where}.{key}")

    def choice(self, key: str, values: Sequence[str]) -> str:
        value = self.take(key)
        if not isinstance(value, str) or value not in values:
            raise ArtifactError(f"{self.where}.{key} is {str(value)[:40]!r}; known are {', '.join(values)}")
        return value

    def end(self) -> None:
        if self._rest:
            raise ArtifactError(f"{self.where} has unknown keys: {', '.join(sorted(self._rest))[:200]}")


def _text(value: object, where: str, longest: int = 1 << 16) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise ArtifactError(f"{where} is not a string of at most {longest} characters")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ArtifactError(f"{where} is not valid Unicode")
    return value


def _integer(value: object, where: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ArtifactError(f"{where} is {str(value)[:40]}, not an integer of {low} to {high}")
    return value


def _sequence(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise ArtifactError(f"{where} is not a JSON array")
    return cast("list[object]", value)


def _parse_document(top: _Record) -> Manifest:
    target = _Record("target", top.take("target"))
    symbols = _parse_symbols(_Record("symbols", top.take("symbols")))
    storages = Storages.parse(top.take("storages"), symbols.keys())

    def read(value: object) -> Dim:
        return parse_dim(value, symbols.keys())

    bound, late = _parse_late(top, symbols, len(storages))
    manifest = Manifest(
        name=top.text("name"),
        producer=top.text("producer", longest=256),
        architecture=target.choice("arch", ARCHITECTURES),
        target=target.text("asked", longest=4096),
        code=tuple(_parse_code(_Record(f"code[{i}]", c)) for i, c in enumerate(top.sequence("code"))),
        symbols=symbols,
        inputs=_parse_signatures("inputs", INPUT, top, read, storages),
        outputs=_parse_signatures("outputs", OUTPUT, top, read, storages),
        storages=storages,
        args=Arguments.parse(top.take("args"), symbols.keys(), len(storages)),
        chunks=_each("chunks", top.sequence("chunks"), read),
        faults=_each("faults", top.sequence("faults"), lambda f: _text(f, "a message")),
        digests=_parse_digests(_Record("digests", top.take("digests"))),
        provenance=_provenance(top.take("provenance")),
        bound=bound,
        late=late,
        checked=_parse_checked(top),
    )
    target.end()
    top.end()
    _check_whole(manifest)
    return manifest


def _each(where: str, values: Iterable[object], parse: Callable[[object], _T]) -> tuple[_T, ...]:
    parsed: list[_T] = []
    for index, value in enumerate(values):
        try:
            parsed.append(parse(value))
        except ArtifactError as error:
            raise ArtifactError(f"{where}[{index}]: {error}") from None
    return tuple(parsed)


def _parse_symbols(record: _Record) -> dict[str, tuple[int, int]]:
    symbols: dict[str, tuple[int, int]] = {}
    for name in record.names():
        bounds = record.sequence(name)
        if len(bounds) != 2:
            raise ArtifactError(f"symbols.{name[:80]} is not [lowest, highest]")
        low = _integer(bounds[0], f"symbols.{name[:80]}", 0, 2**62)
        high = _integer(bounds[1], f"symbols.{name[:80]}", low, 2**62)
        symbols[_text(name, "a symbol's name", MAX_SYMBOL)] = low, high
    return symbols


def _parse_code(record: _Record) -> Code:
    level = record.text("level", longest=64)
    if not _NAME.fullmatch(level):
        raise ArtifactError(f"{record.where}.level is {level!r}, which cannot be part of a member's name")
    features = _each(f"{record.where}.features", record.sequence("features"), lambda f: _text(f, "a feature", 64))
    record.end()
    return Code(level, features)


def _parse_signatures(
    key: str,
    kind: int,
    top: _Record,
    read: Callable[[object], Dim],
    storages: Storages,
) -> tuple[Signature, ...]:
    signatures: list[Signature] = []
    for index, value in enumerate(top.sequence(key)):
        record = _Record(f"{key}[{index}]", value)
        name = record.text("name", longest=MAX_NAME)
        dtype = BY_NAME[record.choice("dtype", tuple(BY_NAME))]
        shape = _each(f"{record.where}.shape", record.sequence("shape"), read)
        storage = record.integer("storage", 0, len(storages) - 1)
        record.end()
        if len(shape) > MAX_RANK or any(isinstance(d, int) and d < 0 for d in shape):
            raise ArtifactError(f"{record.where}.shape has a negative extent or more than {MAX_RANK} axes")
        if storages.kind[storage] != kind or storages.dtypes[storages.dtype[storage]] != dtype:
            raise ArtifactError(f"{record.where}: storage {storage} is not an {STORAGE_KINDS[kind]} of {dtype.name}")
        signatures.append(Signature(name, dtype, shape, storage))
    if len({s.name for s in signatures}) != len(signatures) or len({s.storage for s in signatures}) != len(signatures):
        raise ArtifactError(f"{key}: two have the same name or the same storage")
    if len(signatures) != len(storages.numbers(kind)):
        raise ArtifactError(f"{key}: not every storage of that kind has a name")
    return tuple(signatures)


def _parse_late(
    top: _Record, symbols: Mapping[str, tuple[int, int]], storages: int
) -> tuple[dict[str, int], dict[int, int]]:
    """The entries `bound` and `late`; a manifest without bound symbols has neither."""
    bound: dict[str, int] = {}
    late: dict[int, int] = {}
    if "bound" not in top.names():
        return bound, late
    for name, fault in _each("bound", top.sequence("bound"), _pair):
        if not isinstance(name, str) or name not in symbols or name in bound:
            raise ArtifactError(f"bound names {str(name)[:80]!r}, which is no symbol or is bound twice")
        bound[name] = _integer(fault, "the fault of a bound symbol", 1, 2**31)
    for index, fault in _each("late", top.sequence("late"), _pair):
        storage = _integer(index, "a late storage", 0, storages - 1)
        if storage in late:
            raise ArtifactError(f"late names storage {storage} twice")
        late[storage] = _integer(fault, "the fault of a late storage", 1, 2**31)
    if not bound:
        raise ArtifactError("bound is empty")
    return bound, late


def _parse_checked(top: _Record) -> bool:
    if "checked" not in top.names():
        return False
    if top.take("checked") is not True:
        raise ArtifactError("checked is not true; an artifact without checks has no such entry")
    return True


def _pair(value: object) -> tuple[object, object]:
    parts = _sequence(value, "the entry")
    if len(parts) != 2:
        raise ArtifactError("the entry is not a pair")
    return parts[0], parts[1]


def _parse_digests(record: _Record) -> dict[str, Digest]:
    digests: dict[str, Digest] = {}
    for name in record.names():
        entry = _Record(f"digests.{name[:80]}", record.take(name))
        size = entry.integer("size", 0, MAX_SIZE)
        chunks = _each(f"{entry.where}.chunks", entry.sequence("chunks"), lambda c: _text(c, "a digest", 64))
        entry.end()
        if len(chunks) != -(-size // DIGEST_CHUNK) or not all(_DIGEST.fullmatch(c) for c in chunks):
            raise ArtifactError(f"{entry.where}: these are not the SHA-256 digests of {size} bytes")
        digests[name] = Digest(size, chunks)
    return digests


def _provenance(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ArtifactError("provenance is not a JSON object")
    return cast("dict[str, Any]", value)


def _check_whole(manifest: Manifest) -> None:
    """What no entry can be asked alone."""
    solved = {form[1] for each in manifest.inputs for d in each.shape if (form := linear(d)) is not None}
    _check_late(manifest)
    if unsolved := manifest.symbols.keys() - solved - manifest.bound.keys():
        raise ArtifactError(f"no input has an axis that gives the symbol {', '.join(sorted(unsolved))[:200]}")
    levels = [code.level for code in manifest.code]
    if not levels or len(set(levels)) != len(levels):
        raise ArtifactError("there is no machine code, or one level of it twice")
    wanted = {code_member(level) for level in levels}
    ends = manifest.storages.weight_ends()
    if ends.size:
        wanted.add(WEIGHTS_MEMBER)
    if missing := wanted - manifest.digests.keys():
        raise ArtifactError(f"there is no digest of {', '.join(sorted(missing))[:200]}")
    if ends.size and ends.max() > manifest.digests[WEIGHTS_MEMBER].size:
        raise ArtifactError(f"a weight ends {ends.max()} bytes into the weights member, beyond its end")


def _check_late(manifest: Manifest) -> None:
    """Bound symbols are told by no input; late storages are those whose sizes mention them; faults can be reported."""
    bound = manifest.bound.keys()
    storages = manifest.storages
    is_late = np.array([bool(bound and symbols_of(dim) & bound) for dim in storages.dims], np.bool_)[storages.size]
    if set(np.flatnonzero(is_late).tolist()) != set(manifest.late):
        raise ArtifactError("the late storages are not those whose sizes mention bound symbols")
    if not np.isin(storages.kind[is_late], (TEMP, OUTPUT)).all():
        raise ArtifactError("a late storage is neither a temp nor an output")
    if any(symbols_of(dim) & bound for each in manifest.inputs for dim in each.shape):
        raise ArtifactError("the shape of an input mentions a bound symbol")
    blocks = np.count_nonzero(manifest.args.storage == BLOCK)
    if blocks != (1 if bound else 0):
        raise ArtifactError(f"args has {blocks} words for the block of late storages")
    if bound and not len(storages.numbers(STATUS)):
        raise ArtifactError("there are bound symbols but no status storage")
    if max((*manifest.bound.values(), *manifest.late.values()), default=0) > len(manifest.faults):
        raise ArtifactError("a bound symbol or late storage has a fault without a message")
