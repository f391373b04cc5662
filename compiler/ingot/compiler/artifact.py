"""The artifact: a compiled program with its weights in one file, as the runtime reads it."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.costs import elements_read, launch_cost
from ingot.compiler.ir.dims import UNBOUNDED, Dim, Serial, serialise, symbols
from ingot.compiler.ir.lifetimes import lifetimes
from ingot.compiler.ir.program import Host, Program, Storage
from ingot.compiler.ir.types import IrError
from ingot.compiler.labels import Labels
from ingot.compiler.stored import SCHEDULES_MEMBER, StoredFile, check_digests
from ingot.runtime import Session, __version__, container, tables
from ingot.runtime import manifest as stored
from ingot.runtime.dims import Dim as StoredDim
from ingot.runtime.dims import parse_dim
from ingot.runtime.elf import EM_AARCH64, EM_X86_64, SEGMENT_ALIGNMENT
from ingot.runtime.host.calls import Call
from ingot.runtime.host.calls import Tensor as HostOperand
from ingot.runtime.image import create_memory_file
from ingot.runtime.memory import ALIGNMENT
from ingot.runtime.profile import LaunchCost, encode_costs, parse_costs

_MACHINES = {"x86-64": EM_X86_64, "aarch64": EM_AARCH64}


@dataclass(frozen=True)
class TargetDescription:
    """What the code was compiled for: the architecture, the target as the user spelt it, and the processor features
    (LLVM's names) that each level of the code needs."""

    architecture: str
    asked: str
    features: Mapping[str, Iterable[str]]


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


def build_artifact(
    program: Program,
    code: Mapping[str, bytes],
    argument_table: Sequence[Sequence[Serial]],
    labels: Labels,
    *,
    target: TargetDescription,
    vectors: bytes | None = None,
    checked: bool = False,
    variants: Sequence[tuple[Program, Sequence[Sequence[Serial]]]] = (),
    closed: bool = False,
) -> Artifact:
    """Put a program, its machine code (a shared object per level) and its weights together.

    `argument_table` lists the words that the code is called with, as ``["d", dim]`` or ``["p", storage, dim]`` with
    indices into ``program.storages``. `checked` says that the code checks its accesses of memory. `variants` are
    further programs with their tables, in the order in which they are tried, and `closed` says that `program` itself is
    not run (see `Manifest`).

    Equal weights are stored once, arrays are neither copied nor changed until they are written. Raises IrError for a
    program that is not consistent, ArtifactError where the runtime would refuse the result.
    """
    levels = sorted(code, key=lambda level: (-len(set(target.features[level])), level))
    programs = (program, *(variant for variant, _ in variants))
    placed, weights = place_weights(*programs)
    costs = tuple(tuple(map(launch_cost, each.timed())) for each in programs)
    manifest = describe_programs(
        [(program, argument_table), *variants], placed, labels, target=target, closed=closed
    )
    machine_code = tuple(stored.Code(level, tuple(sorted(set(target.features[level])))) for level in levels)
    digests = _digests({level: code[level] for level in levels}, weights, vectors, costs, labels.schedules)
    whole, *others = (
        replace(each, code=machine_code, digests=digests, checked=checked) for each in (manifest, *manifest.variants)
    )
    manifest = replace(whole, variants=tuple(others), eager=_eager_bytes(placed, *programs))
    artifact = Artifact(manifest, {level: code[level] for level in levels}, weights, vectors, costs, labels.schedules)
    artifact.encoded  # noqa: B018  refuses what the runtime would refuse
    return artifact


def describe_programs(
    programs: Sequence[tuple[Program, Sequence[Sequence[Serial]]]],
    placed: Mapping[Storage, int],
    labels: Labels,
    *,
    target: TargetDescription,
    closed: bool,
) -> stored.Manifest:
    """The manifest of an artifact of several programs with their argument tables, the general one first and the others
    called as they are; the arguments are those of `build_artifact`, the result is as that of `describe_program`."""
    (general, table), *variants = programs
    manifest = describe_program(general, table, placed, labels, target=target)
    others = (
        describe_program(variant, table, placed, replace(labels, name=variant.name), target=target)
        for variant, table in variants
    )
    return replace(manifest, variants=tuple(others), closed=closed)


def describe_program(
    program: Program,
    argument_table: Sequence[Sequence[Serial]],
    placed: Mapping[Storage, int],
    labels: Labels,
    *,
    target: TargetDescription,
) -> stored.Manifest:
    """The manifest of an artifact of `program` without its code and digests; arguments as for `build_artifact`,
    `placed` gives the offsets of weights. Raises IrError for a program that is not consistent."""
    names = program_symbols(program)
    return stored.Manifest(
        name=labels.name,
        producer=f"ingot {__version__}",
        architecture=target.architecture,
        target=target.asked,
        code=(),
        symbols={symbol: program.ranges.get(symbol, (0, UNBOUNDED)) for symbol in names},
        inputs=_signatures(program, labels.labelled(program, "input"), names),
        outputs=_signatures(program, labels.labelled(program, "output"), names),
        storages=tables.Storages.of(_storages(program, placed, names)),
        args=tables.Arguments.of(_argument(entry, names) for entry in argument_table),
        chunks=tuple(dict.fromkeys(_stored(launch.chunks, names) for launch in program.launches())),
        faults=(*program.faults, *(f"out of memory for {_title(s)}" for s in program.late_storages())),
        provenance=dict(labels.provenance),
        bound=program.bound(),
        late={program.storages.index(storage): fault for storage, fault in program.late_storages().items()},
        strings=program.strings,
        host=tuple(map(_host_call, program.host_steps())),
    )


def _host_call(step: Host) -> Call:
    sides = (step.operands, step.results)
    operands, results = (tuple(HostOperand(t.type.dtype, t.type.rank) for t in side) for side in sides)
    return Call(step.function, step.attributes, operands, results)


def program_symbols(program: Program) -> tuple[str, ...]:
    """The symbols that the program's inputs, outputs, buffers and launches speak of, sorted."""
    dims: list[Dim] = [storage.size for storage in program.storages]
    for storage in program.storages:
        dims += storage.type.shape if storage.type is not None else ()
    for launch in program.launches():
        dims += [launch.chunks, *launch.dims, *(argument.offset for argument in launch.buffers)]
    for step in program.host_steps():
        for tensor in (*step.operands, *step.results):
            dims += [tensor.offset, *tensor.type.shape]
    return tuple(sorted({*program.bound(), *(symbol for dim in dims for symbol in symbols(dim))}))


def _stored(dim: Dim, names: Sequence[str]) -> StoredDim:
    return parse_dim(serialise(dim), names)


def _argument(entry: Sequence[Serial], names: Sequence[str]) -> tables.Argument:
    match list(entry):
        case ["d", dim]:
            return tables.Value(parse_dim(dim, names))
        case ["p", int(storage), dim]:
            return tables.Pointer(storage, parse_dim(dim, names))
        case ["late"]:
            return tables.Block()
        case ["host"]:
            return tables.HostFunction()
        case _:
            raise IrError(f"an argument word is {entry!r}, not ['d', dim], ['p', storage, dim], ['late'] or ['host']")


def _title(storage: Storage) -> str:
    return storage.name if storage.kind == "output" else ", ".join(storage.origin) or storage.name


def _signatures(
    program: Program, labelled: Iterable[tuple[str, Storage]], names: Sequence[str]
) -> tuple[stored.Signature, ...]:
    positions = {storage: index for index, storage in enumerate(program.storages)}
    signatures: list[stored.Signature] = []
    for label, storage in labelled:
        if storage.type is None:
            raise IrError(f"{storage.kind} storage {storage.name} has no type")
        shape = tuple(_stored(dim, names) for dim in storage.type.shape)
        signatures.append(stored.Signature(label, storage.type.dtype, shape, positions[storage]))
    return tuple(signatures)


def _storages(program: Program, placed: Mapping[Storage, int], names: Sequence[str]) -> tuple[tables.Storage, ...]:
    live = lifetimes(program)
    records: list[tables.Storage] = []
    for storage in program.storages:
        size = _stored(storage.size, names)
        span = None
        if storage.kind == "temp":
            # A temp that no step touches keeps its number, but no memory.
            span, size = (live[storage], size) if storage in live else ((0, 0), 0)
        records.append(tables.Storage(storage.kind, storage.dtype, size, span, placed.get(storage)))
    return tuple(records)


# Weights and digests


def place_weights(*programs: Program) -> tuple[dict[Storage, int], tuple[tuple[int, NDArray[Any]], ...]]:
    """The offset of each weight of all programs, and the distinct arrays to be written with theirs, in order."""
    offsets: dict[Storage, int] = {}
    arrays: list[tuple[int, NDArray[Any]]] = []
    # Integers of 32 and 64 bits, which may be indices, lie together: their parts of the file are verified on loading.
    # What is read here and there comes last: it is not mapped on loading.
    weights = dict.fromkeys(storage for program in programs for storage in program.of_kind("weight"))
    mostly = _read_mostly(*programs)
    storages = sorted(weights, key=lambda s: (not _may_be_index(s), s not in mostly))
    arrays_of_length = Counter(_checked(storage).nbytes for storage in storages)
    known: dict[object, int] = {}
    end = 0
    for storage in storages:
        data = _checked(storage)
        # An array can only be equal to one of its length; where there is none, reading it is saved.
        key = (data.nbytes, _sha256(data) if arrays_of_length[data.nbytes] > 1 else storage)
        if key not in known:
            known[key] = end
            arrays.append((end, data))
            end += data.nbytes + -data.nbytes % ALIGNMENT
        offsets[storage] = known[key]
    return offsets, tuple(arrays)


def _eager_bytes(placed: Mapping[Storage, int], *programs: Program) -> int | None:
    """Bytes up to the end of the last weight that is read mostly; None where all are."""
    ends = {storage: offset + _checked(storage).nbytes for storage, offset in placed.items()}
    mostly = _read_mostly(*programs)
    eager = max((end for storage, end in ends.items() if storage in mostly or _may_be_index(storage)), default=0)
    return eager if eager < max(ends.values(), default=0) else None


def _may_be_index(storage: Storage) -> bool:
    return storage.dtype.is_integer and storage.dtype.bits >= 32


def _read_mostly(*programs: Program) -> frozenset[Storage]:
    """The weights that programs read at least half of, however large their inputs are: not tables that they look few
    things up in."""
    found: set[Storage] = set()
    for launch in (launch for program in programs for launch in program.launches()):
        if any(each.storage.kind == "weight" and each.storage not in found for each in launch.buffers):
            for storage, count in elements_read(launch):
                if storage.kind == "weight" and isinstance(count, int) and 2 * count >= cast("int", storage.size):
                    found.add(storage)
    return frozenset(found)


def _checked(storage: Storage) -> NDArray[Any]:
    data = storage.data
    if data is None or data.ndim != 1 or not data.flags.c_contiguous or not data.dtype.isnative:
        raise IrError(f"weight {storage.name} has no data in the form of a contiguous 1-D array")
    if data.size != storage.size or data.dtype != storage.dtype.to_numpy():
        raise IrError(
            f"weight {storage.name} has {data.size} elements of {data.dtype} as data, "
            f"but is declared with {storage.size} of {storage.dtype.name}"
        )
    return data


def _bytes_of(data: NDArray[Any]) -> memoryview:
    return data.view(np.uint8).data


def _sha256(data: NDArray[Any]) -> bytes:
    return hashlib.sha256(_bytes_of(data)).digest()


def stream_weights(weights: Iterable[tuple[int, NDArray[Any]]]) -> Iterator[memoryview]:
    """The content of the weights member: the arrays with zeros between them, piece by piece."""
    position = 0
    for offset, data in weights:
        yield memoryview(bytes(offset - position))
        yield _bytes_of(data)
        position = offset + data.nbytes


def _digests(
    code: Mapping[str, bytes],
    weights: Sequence[tuple[int, NDArray[Any]]],
    vectors: bytes | None,
    costs: Sequence[Sequence[LaunchCost]],
    schedules: bytes,
) -> dict[str, stored.Digest]:
    digests = {stored.code_member(level): _digest([memoryview(data)]) for level, data in code.items()}
    if weights:
        digests[stored.WEIGHTS_MEMBER] = _digest(stream_weights(weights))
    if vectors is not None:
        digests[stored.VECTORS_MEMBER] = _digest([memoryview(vectors)])
    for number, each in enumerate(costs):
        digests[stored.profile_member(number)] = _digest([memoryview(encode_costs(each))])
    if schedules:
        digests[SCHEDULES_MEMBER] = _digest([memoryview(schedules)])
    return digests


def _digest(pieces: Iterable[memoryview]) -> stored.Digest:
    chunks: list[str] = []
    size, hasher, room = 0, hashlib.sha256(), stored.DIGEST_CHUNK
    for piece in pieces:
        size += len(piece)
        while piece:
            hasher.update(piece[:room])
            taken = min(room, len(piece))
            piece, room = piece[taken:], room - taken
            if not room:
                chunks.append(hasher.hexdigest())
                hasher, room = hashlib.sha256(), stored.DIGEST_CHUNK
    if room < stored.DIGEST_CHUNK:
        chunks.append(hasher.hexdigest())
    return stored.Digest(size, tuple(chunks))


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
