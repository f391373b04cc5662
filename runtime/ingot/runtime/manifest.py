"""The manifest of an artifact: what it holds, how to call its code, what its memory must look like.

This is the definition of the format. The compiler fills a `Manifest` and writes `encode`'s bytes; the runtime reads
them back with `parse_manifest`, which believes nothing: every name, kind, dtype, index and range is checked.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict, TypeVar, cast

from ingot.runtime import records
from ingot.runtime.cpu import ARCHITECTURES
from ingot.runtime.dims import (
    UNBOUNDED,
    CompiledDims,
    Dim,
    DimTable,
    compile_dims,
    linear,
    parse_dims,
    show,
    symbols_of,
)
from ingot.runtime.dtypes import BY_NAME, DType, stored_dtype, string
from ingot.runtime.errors import ArtifactError
from ingot.runtime.records import Record
from ingot.runtime.tables import (
    BLOCK,
    HOST,
    INPUT,
    MAX_SIZE,
    OUTPUT,
    STATUS,
    STORAGE_KINDS,
    TEMP,
    VALUE,
    Arguments,
    Storages,
    encode_dim_table,
    parse_dim_table,
)

if TYPE_CHECKING:
    from ingot.runtime.host.calls import Call

FORMAT_VERSION: Final = 4

MANIFEST_MEMBER: Final = "manifest.json"
WEIGHTS_MEMBER: Final = "weights.bin"
VECTORS_MEMBER: Final = "test/vectors.npz"

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
MAX_PROFILE_BYTES: Final = 1 << 26

MAX_NAME: Final = 4096
"""Characters in the name of an input or output."""
MAX_RANK: Final = 64
MAX_SYMBOL: Final = 256
"""Characters in the name of a symbolic dim."""
MAX_VARIANTS: Final = 64
"""Programs that an artifact may hold besides the general one."""

_NAME: Final = re.compile(r"[A-Za-z0-9_+=@.-]{1,64}")
_HEXADECIMAL: Final = re.compile(r"[0-9a-f]*")
_DIGITS: Final = 64  # of a digest
_T = TypeVar("_T")


def code_member(level: str) -> str:
    """Name of the member that holds the machine code of a level."""
    return f"code/{level}.so"


def profile_member(number: int) -> str:
    """Name of the member that says what the launches of program `number` cost; it may be absent, and is looked at by
    whoever asks, not on loading."""
    return f"profile.{number}.json" if number else "profile.json"


class Code(NamedTuple):
    """Machine code for one instruction set level; it runs on processors with all of `features` (LLVM's names)."""

    level: str
    features: tuple[str, ...]


class Signature(NamedTuple):
    """One input or output: `storage` indexes `Manifest.storages`. A symbol's value follows from an input axis whose
    dim is that symbol and nothing else."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    storage: int

    def described(self) -> dict[str, Any]:
        """Name, element type and shape for whoever reads JSON: dims that are not numbers as text."""
        shape = [dim if isinstance(dim, int) else show(dim) for dim in self.shape]
        return {"name": self.name, "dtype": self.dtype.name, "shape": shape}


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

    `strings` are those of the model by their handles, the first is empty; a model without strings has none. `host` are
    the calls of host functions in the order of their numbers.

    `checked` says that the code checks its accesses of memory and what it leaves in the status is read as
    `ingot.runtime.checked` says; working memory is then poisoned before every run.

    `eager` is the number of bytes at the beginning of the weights of which runs read most: they are mapped on loading.
    The others, such as embeddings, are read here and there. None stands for all weights.

    `variants` are more programs of the same model, each for some of its shapes, with this one's code and weights: a run
    takes the first whose inputs can have the shapes that are given, this one where none can. With variants the first
    word of every argument table is the number of its program, 0 for this one, by which the code tells them apart.
    `closed` says that shapes that fit no variant are refused: then this one says what the model takes and gives, and
    is never run.
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
    chunks: CompiledDims = field(default_factory=lambda: compile_dims(()))
    faults: tuple[str, ...] = ()
    digests: Mapping[str, Digest] = field(default_factory=dict[str, Digest])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    bound: Mapping[str, int] = field(default_factory=dict[str, int])
    late: Mapping[int, int] = field(default_factory=dict[int, int])
    checked: bool = False
    eager: int | None = None
    variants: tuple[Manifest, ...] = ()
    closed: bool = False
    strings: tuple[str, ...] = ()
    host: tuple[Call, ...] = ()

    def encode(self) -> bytes:
        """The manifest as UTF-8 JSON; equal manifests give equal bytes. Raises ArtifactError, as reading would, for one
        that the runtime would refuse."""
        document: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "producer": self.producer,
            "name": self.name,
            "target": {"arch": self.architecture, "asked": self.target},
            "code": [{"level": code.level, "features": list(code.features)} for code in self.code],
            **self._encode_program(),
            "digests": {name: (digest.size, "".join(digest.chunks)) for name, digest in self.digests.items()},
            "provenance": self.provenance,
        }
        if self.checked:
            document["checked"] = True
        if self.eager is not None:
            document["eager"] = self.eager
        if self.variants:
            document["variants"] = [{"name": each.name, **each._encode_program()} for each in self.variants]
        if self.closed:
            document["closed"] = True
        try:
            data = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"the manifest cannot be written as JSON: {error}") from error
        parse_manifest(data)
        return data

    def _encode_program(self) -> dict[str, Any]:
        """The part that each variant has of its own."""
        columns: tuple[list[Dim], ...] = (
            [self.storages.dims[number] for number in self.storages.size],
            [self.args.dims[number] for number in self.args.dim],
            list(self.chunks),
        )
        dims, numbers = DimTable.of((dim for column in columns for dim in column), self.symbols)
        if unknown := [name for name in dims.symbols if name not in self.symbols]:
            raise ArtifactError(f"a dim names {unknown[0]!r}, which is no symbol of the model")
        left = iter(numbers)
        sizes, words, chunks = (list(itertools.islice(left, len(column))) for column in columns)
        document: dict[str, Any] = {
            "symbols": {name: list(bounds) for name, bounds in self.symbols.items()},
            "dims": encode_dim_table(dims),
            "inputs": [_encode_signature(each) for each in self.inputs],
            "outputs": [_encode_signature(each) for each in self.outputs],
            "storages": self.storages.encode(sizes),
            "args": self.args.encode(words),
            "chunks": chunks,
            "faults": self.faults,
        }
        if self.bound:
            document["bound"] = [[name, fault] for name, fault in self.bound.items()]
            document["late"] = [[storage, fault] for storage, fault in self.late.items()]
        if self.strings:
            document["strings"] = self.strings
        if self.host:
            document["host"] = [call.encode() for call in self.host]
        return document


def _encode_signature(signature: Signature) -> dict[str, Any]:
    name, dtype, shape, storage = signature.name, signature.dtype.name, signature.shape, signature.storage
    return {"name": name, "dtype": dtype, "shape": shape, "storage": storage}


def parse_manifest(data: bytes) -> Manifest:
    """Read and check a manifest. Raises ArtifactError for anything that is not one of this format version."""
    top = Record("the manifest", records.decode(data, "the manifest", MAX_MANIFEST_BYTES))
    version = top.take("format")
    if version != FORMAT_VERSION or isinstance(version, bool | float):
        raise ArtifactError(
            f"the artifact has format version {str(version)[:20]}, this runtime reads version {FORMAT_VERSION}: "
            "update ingot, or compile the model again"
        )
    return _parse_document(top)


def _parse_document(top: Record) -> Manifest:
    target = Record("target", top.take("target"))
    manifest = Manifest(
        name=top.text("name"),
        producer=top.text("producer", longest=256),
        architecture=target.choice("arch", ARCHITECTURES),
        target=target.text("asked", longest=4096),
        code=tuple([_parse_code(Record(f"code[{i}]", c)) for i, c in enumerate(top.sequence("code"))]),
        digests=_parse_digests(top.take("digests")),
        provenance=_provenance(top.take("provenance")),
        checked=_parse_flag(top, "checked"),
        eager=top.integer("eager", 0, MAX_SIZE) if "eager" in top else None,
        closed=_parse_flag(top, "closed"),
        **_parse_program(top),
    )
    target.end()
    if "variants" in top:
        manifest = replace(manifest, variants=_parse_variants(top, replace(manifest, closed=False)))
    top.end()
    _check_whole(manifest)
    _check_variants(manifest)
    return manifest


def _parse_variants(top: Record, whole: Manifest) -> tuple[Manifest, ...]:
    given = top.sequence("variants")
    if not 0 < len(given) <= MAX_VARIANTS:
        raise ArtifactError(f"variants has {len(given)} entries, not 1 to {MAX_VARIANTS}")
    variants: list[Manifest] = []
    for index, value in enumerate(given):
        record = Record(f"variants[{index}]", value)
        try:
            variant = replace(whole, name=record.text("name"), **_parse_program(record))
            record.end()
            _check_whole(variant)
        except ArtifactError as error:
            raise ArtifactError(f"variants[{index}]: {error}") from None
        variants.append(variant)
    return tuple(variants)


class _ProgramFields(TypedDict):
    """The fields of `Manifest` that each variant has of its own, besides its name."""

    symbols: dict[str, tuple[int, int]]
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    storages: Storages
    args: Arguments
    chunks: CompiledDims
    faults: tuple[str, ...]
    bound: dict[str, int]
    late: dict[int, int]
    strings: tuple[str, ...]
    host: tuple[Call, ...]


def _parse_program(top: Record) -> _ProgramFields:
    symbols = _parse_symbols(Record("symbols", top.take("symbols")))
    dims = parse_dim_table(top.take("dims"), tuple(symbols))
    storages = Storages.parse(top.take("storages"), dims)
    bound, late = _parse_late(top, symbols, len(storages))
    return _ProgramFields(
        symbols=symbols,
        inputs=_parse_signatures("inputs", INPUT, top, symbols, storages),
        outputs=_parse_signatures("outputs", OUTPUT, top, symbols, storages),
        storages=storages,
        args=Arguments.parse(top.take("args"), dims, len(storages)),
        chunks=CompiledDims(dims, top.integers("chunks", 0, len(dims) - 1)),
        faults=tuple(top.texts("faults")),
        bound=bound,
        late=late,
        strings=_parse_strings(top),
        host=_parse_host(top),
    )


def _each(where: str, values: Iterable[object], parse: Callable[[object], _T]) -> tuple[_T, ...]:
    parsed: list[_T] = []
    for index, value in enumerate(values):
        try:
            parsed.append(parse(value))
        except ArtifactError as error:
            raise ArtifactError(f"{where}[{index}]: {error}") from None
    return tuple(parsed)


def _parse_symbols(record: Record) -> dict[str, tuple[int, int]]:
    symbols: dict[str, tuple[int, int]] = {}
    for name in record.names():
        bounds = record.sequence(name)
        if len(bounds) != 2:
            raise ArtifactError(f"symbols.{name[:80]} is not [lowest, highest]")
        low = records.integer(bounds[0], f"symbols.{name[:80]}", 0, UNBOUNDED)
        high = records.integer(bounds[1], f"symbols.{name[:80]}", low, UNBOUNDED)
        symbols[records.text(name, "a symbol's name", MAX_SYMBOL)] = low, high
    return symbols


def _parse_code(record: Record) -> Code:
    level = record.text("level", longest=64)
    if not _NAME.fullmatch(level):
        raise ArtifactError(f"{record.where}.level is {level!r}, which cannot be part of a member's name")
    features = tuple(record.texts("features", 64))
    record.end()
    return Code(level, features)


def _parse_signatures(
    key: str, kind: int, top: Record, symbols: Collection[str], storages: Storages
) -> tuple[Signature, ...]:
    signatures: list[Signature] = []
    for index, value in enumerate(top.sequence(key)):
        record = Record(f"{key}[{index}]", value)
        name = record.text("name", longest=MAX_NAME)
        dtype = BY_NAME[record.choice("dtype", BY_NAME)]
        extents = record.sequence("shape")
        storage = record.integer("storage", 0, len(storages) - 1)
        record.end()
        try:
            shape = parse_dims(extents, symbols)
        except ArtifactError as error:
            raise ArtifactError(f"{record.where}.shape: {error}") from None
        if len(shape) > MAX_RANK or any(isinstance(d, int) and d < 0 for d in shape):
            raise ArtifactError(f"{record.where}.shape has a negative extent or more than {MAX_RANK} axes")
        if storages.kind[storage] != kind or storages.dtypes[storages.dtype[storage]] != stored_dtype(dtype):
            raise ArtifactError(f"{record.where}: storage {storage} is not an {STORAGE_KINDS[kind]} of {dtype.name}")
        signatures.append(Signature(name, dtype, shape, storage))
    if len({s.name for s in signatures}) != len(signatures) or len({s.storage for s in signatures}) != len(signatures):
        raise ArtifactError(f"{key}: two have the same name or the same storage")
    if len(signatures) != storages.kind.count(kind):
        raise ArtifactError(f"{key}: not every storage of that kind has a name")
    return tuple(signatures)


def _parse_late(
    top: Record, symbols: Mapping[str, tuple[int, int]], storages: int
) -> tuple[dict[str, int], dict[int, int]]:
    """The entries `bound` and `late`; a manifest without bound symbols has neither."""
    bound: dict[str, int] = {}
    late: dict[int, int] = {}
    if "bound" not in top:
        return bound, late
    for name, fault in _each("bound", top.sequence("bound"), _pair):
        if not isinstance(name, str) or name not in symbols or name in bound:
            raise ArtifactError(f"bound names {str(name)[:80]!r}, which is no symbol or is bound twice")
        bound[name] = records.integer(fault, "the fault of a bound symbol", 1, 2**31)
    for index, fault in _each("late", top.sequence("late"), _pair):
        storage = records.integer(index, "a late storage", 0, storages - 1)
        if storage in late:
            raise ArtifactError(f"late names storage {storage} twice")
        late[storage] = records.integer(fault, "the fault of a late storage", 1, 2**31)
    if not bound:
        raise ArtifactError("bound is empty")
    return bound, late


def _parse_strings(top: Record) -> tuple[str, ...]:
    if "strings" not in top:
        return ()
    strings = tuple(top.texts("strings", MAX_MANIFEST_BYTES))
    if not strings or strings[0] or len(set(strings)) != len(strings):
        raise ArtifactError("strings does not begin with an empty one, or two are equal")
    return strings


def _parse_host(top: Record) -> tuple[Call, ...]:
    if "host" not in top:
        return ()
    from ingot.runtime.host.calls import parse_calls  # here, as few models need the host

    return parse_calls(top.take("host"), MAX_RANK)


def _parse_flag(top: Record, key: str) -> bool:
    if key not in top:
        return False
    if top.take(key) is not True:
        raise ArtifactError(f"{key} is not true; an artifact that is not {key} has no such entry")
    return True


def _pair(value: object) -> tuple[object, object]:
    parts = records.sequence(value, "the entry")
    if len(parts) != 2:
        raise ArtifactError("the entry is not a pair")
    return parts[0], parts[1]


def _parse_digests(value: object) -> dict[str, Digest]:
    if not isinstance(value, dict):
        raise ArtifactError("digests is not a JSON object")
    digests: dict[str, Digest] = {}
    for name, entry in cast("dict[str, object]", value).items():
        match entry:
            case [int(size), str(text)] if type(size) is int and 0 <= size <= MAX_SIZE and _HEXADECIMAL.fullmatch(text):
                chunks = tuple([text[start : start + _DIGITS] for start in range(0, len(text), _DIGITS)])
                if len(text) % _DIGITS or len(chunks) != -(-size // DIGEST_CHUNK):
                    raise ArtifactError(f"digests.{name[:80]}: these are not the SHA-256 digests of {size} bytes")
                digests[name] = Digest(size, chunks)
            case _:
                raise ArtifactError(f"digests.{name[:80]} is not a size in bytes and SHA-256 digests of as many")
    return digests


def _provenance(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ArtifactError("provenance is not a JSON object")
    return cast("dict[str, Any]", value)


def _check_whole(manifest: Manifest) -> None:
    """What no entry can be asked alone."""
    solved = {form[1] for each in manifest.inputs for d in each.shape if (form := linear(d)) is not None}
    _check_late(manifest)
    _check_host(manifest)
    if unsolved := manifest.symbols.keys() - solved - manifest.bound.keys():
        raise ArtifactError(f"no input has an axis that gives the symbol {', '.join(sorted(unsolved))[:200]}")
    levels = [code.level for code in manifest.code]
    if not levels or len(set(levels)) != len(levels):
        raise ArtifactError("there is no machine code, or one level of it twice")
    wanted = {code_member(level) for level in levels}
    ends = manifest.storages.weight_ends()
    if ends:
        wanted.add(WEIGHTS_MEMBER)
    if missing := wanted - manifest.digests.keys():
        raise ArtifactError(f"there is no digest of {', '.join(sorted(missing))[:200]}")
    if ends and max(ends) > manifest.digests[WEIGHTS_MEMBER].size:
        raise ArtifactError(f"a weight ends {max(ends)} bytes into the weights member, beyond its end")
    if manifest.eager is not None and (not ends or manifest.eager > manifest.digests[WEIGHTS_MEMBER].size):
        raise ArtifactError(f"eager is {manifest.eager} bytes, the weights have fewer")


def _check_late(manifest: Manifest) -> None:
    """Bound symbols are told by no input; late storages are those whose sizes mention them; faults can be reported."""
    bound = manifest.bound.keys()
    blocks = manifest.args.storage.count(BLOCK)
    if blocks != (1 if bound else 0):
        raise ArtifactError(f"args has {blocks} words for the block of late storages")
    if not bound:
        return
    storages = manifest.storages
    mentions = storages.dims.mentions(bound)
    if set(manifest.late) != {number for number, size in enumerate(storages.size) if mentions[size]}:
        raise ArtifactError("the late storages are not those whose sizes mention bound symbols")
    if not {storages.kind[number] for number in manifest.late} <= {TEMP, OUTPUT}:
        raise ArtifactError("a late storage is neither a temp nor an output")
    if any(symbols_of(dim) & bound for each in manifest.inputs for dim in each.shape):
        raise ArtifactError("the shape of an input mentions a bound symbol")
    if STATUS not in storages.kind:
        raise ArtifactError("there are bound symbols but no status storage")
    if max((*manifest.bound.values(), *manifest.late.values()), default=0) > len(manifest.faults):
        raise ArtifactError("a bound symbol or late storage has a fault without a message")


def _check_host(manifest: Manifest) -> None:
    """Strings have a pool, calls a word for the function that answers them (which loops may have too) and a status for
    their faults."""
    tensors = [t for call in manifest.host for t in (*call.operands, *call.results)]
    dtypes = [each.dtype for each in (*manifest.inputs, *manifest.outputs, *tensors)]
    if string in dtypes and not manifest.strings:
        raise ArtifactError("there are tensors of strings, but not even the empty string among the strings")
    words = manifest.args.storage.count(HOST)
    if words > 1 or (manifest.host and not words):
        raise ArtifactError(f"args has {words} words for the function that answers {len(manifest.host)} host calls")
    if manifest.host and STATUS not in manifest.storages.kind:
        raise ArtifactError("there are host calls but no status storage")


def _check_variants(manifest: Manifest) -> None:
    """Variants have the inputs and outputs of the whole, and tables that begin with their numbers."""
    if manifest.closed and not manifest.variants:
        raise ArtifactError("the artifact is closed and has no variants: it could not be run")
    for number, variant in enumerate((manifest, *manifest.variants) if manifest.variants else ()):
        where = f"variants[{number - 1}]" if number else "the manifest"
        args = variant.args
        if not len(args) or args.storage[0] != VALUE or args.dims.constant(args.dim[0]) != number:
            raise ArtifactError(f"{where}: the first argument word is not the program's number, {number}")
        for side in ("inputs", "outputs"):
            if _interface(getattr(variant, side)) != _interface(getattr(manifest, side)):
                raise ArtifactError(f"{where}: the {side} are not those of the model: names, types or ranks differ")


def _interface(signatures: Sequence[Signature]) -> list[tuple[str, DType, int]]:
    return [(each.name, each.dtype, len(each.shape)) for each in signatures]
