"""Programs, their code and their weights put together as an artifact."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.artifact import Artifact, stream_weights
from ingot.compiler.ir.costs import elements_read, launch_cost
from ingot.compiler.ir.dims import UNBOUNDED, Dim, Serial, serialise, symbols
from ingot.compiler.ir.lifetimes import lifetimes
from ingot.compiler.ir.program import Host, Program, Storage
from ingot.compiler.ir.types import IrError
from ingot.compiler.labels import Labels
from ingot.compiler.stored import SCHEDULES_MEMBER
from ingot.runtime import __version__, tables
from ingot.runtime import manifest as stored
from ingot.runtime.dims import Dim as StoredDim
from ingot.runtime.dims import compile_dims, parse_dim
from ingot.runtime.host.calls import Call
from ingot.runtime.host.calls import Tensor as HostOperand
from ingot.runtime.memory import ALIGNMENT
from ingot.runtime.profile import LaunchCost, encode_costs


@dataclass(frozen=True)
class TargetDescription:
    """What the code was compiled for: the architecture, the target as the user spelt it, and the processor features
    (LLVM's names) that each level of the code needs."""

    architecture: str
    asked: str
    features: Mapping[str, Iterable[str]]


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
        chunks=compile_dims(dict.fromkeys(_stored(launch.chunks, names) for launch in program.launches())),
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


def _sha256(data: NDArray[Any]) -> bytes:
    return hashlib.sha256(data.view(np.uint8).data).digest()


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
