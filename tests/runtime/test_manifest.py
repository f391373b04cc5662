from __future__ import annotations

import copy
import json
import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from ingot.compiler.artifact import Artifact
from ingot.runtime.dims import MAX_DEPTH, MAX_NODES, DimTable
from ingot.runtime.dtypes import f32
from ingot.runtime.errors import ArtifactError
from ingot.runtime.manifest import FORMAT_VERSION, Manifest, parse_manifest
from ingot.runtime.tables import ENTROPY, STATUS, Arguments, Block, Pointer, Storage, Storages, Value


@pytest.fixture(scope="module")
def manifest(affine: Artifact) -> Manifest:
    return replace(affine.manifest, provenance={"options": {"passes": ["fuse"], "bound": 0.5, "none": None}})


@pytest.fixture
def document(manifest: Manifest) -> dict[str, Any]:
    return json.loads(manifest.encode())


def parse(document: object) -> Manifest:
    return parse_manifest(json.dumps(document).encode())


def test_what_is_written_is_read(manifest: Manifest, lookup: Artifact) -> None:
    assert parse_manifest(manifest.encode()) == manifest
    assert parse_manifest(lookup.manifest.encode()) == lookup.manifest
    assert manifest.encode() == manifest.encode()


def test_writing_refuses_what_reading_would(manifest: Manifest) -> None:
    with pytest.raises(ArtifactError, match="no digest"):
        replace(manifest, digests={}).encode()
    with pytest.raises(ArtifactError, match="cannot be written"):
        replace(manifest, provenance={"when": float("nan")}).encode()
    with pytest.raises(ArtifactError, match="cannot be written"):
        replace(manifest, provenance={"who": object()}).encode()
    with pytest.raises(ArtifactError, match="cannot be written"):
        replace(manifest, name="\ud800").encode()


@pytest.mark.parametrize("version", [0, 3, 5, "4", None, True, 4.0])
def test_other_versions(document: dict[str, Any], version: object) -> None:
    document["format"] = version
    with pytest.raises(ArtifactError, match=f"this runtime reads version {FORMAT_VERSION}: update ingot"):
        parse(document)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b"3", b"null", b'{"format": 2}', b'{"format": 2, "format": 2}', b'{"format": NaN}',
     b"[" * 100_000, b'{"format":' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_not_json_or_not_an_object(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        parse_manifest(data)


CHANGES: list[tuple[str, Any, str]] = [
    ("name", 3, "not a string"),
    ("surprise", 3, "unknown keys"),
    ("target.arch", "vax", "known are x86-64"),
    ("target.level", "x", "unknown keys"),
    ("code", [], "no machine code"),
    ("code.0.level", "../../etc", "cannot be part of a member's name"),
    ("code.0.level", "other", "no digest"),
    ("code.0.features", "avx", "not a JSON array"),
    ("symbols.n", [5, 4], "not an integer of 5"),
    ("symbols.n", [-1, 4], "not an integer of 0"),
    ("symbols.n", [0, 2**63], "not an integer"),
    ("symbols.n", [0], "lowest, highest"),
    ("inputs.0.name", "z", "same name"),
    ("inputs.0.storage", 1, "same storage"),
    ("inputs.0.storage", 2, "not an input"),
    ("inputs.0.storage", -1, "not an integer of 0"),
    ("inputs.0.storage", True, "not an integer"),
    ("inputs.0.storage", 0.0, "not an integer"),
    ("inputs.0.dtype", "f64", "not an input of f64"),
    ("inputs.0.dtype", "f31", "known are"),
    ("inputs.0.shape", ["m", 16], "no symbol"),
    ("inputs.0.shape", ["n", -1], "negative"),
    ("inputs.0.shape", [1] * 65, "more than 64 axes"),
    ("inputs", [], "not every storage"),
    ("outputs.0.storage", 0, "not an output"),
    ("storages", [], "not a JSON object"),
    ("storages", {"kind": []}, "has no 'dtypes'"),
    ("storages.surprise", [], "unknown keys: surprise"),
    ("storages.dtypes.0", "f31", "has 'f31'; known are f64"),
    ("storages.dtypes.0", ["f32"], "known are f64"),
    ("dims", [], "not a JSON object"),
    ("dims", {"constants": [], "operators": [], "left": [], "right": []}, "not in 0 to 0"),
    ("dims.constants.0", -1, "size is -1"),
    ("dims.constants.0", 2**57, "size is"),
    ("dims.constants.0", 2**63, "dims.constants.0. is 9223372036854775808, which is not in"),
    ("dims.constants.0", "n", "not an array of integers"),
    ("dims.operators.0", 6, "dims.operators.0. is 6, which is not in 0 to 5"),
    ("dims.operators.0", "*", "not an array of integers"),
    ("dims.left.0", 99, "is not made of those before it"),
    ("dims.left.0", 2**70, "dims.left.0. is 1180591620717411303424, which is not in"),
    ("dims.right.0", -1, "dims.right.0. is -1, which is not in"),
    ("dims.right", [], "not of one length"),
    ("dims.surprise", [], "unknown keys: surprise"),
    ("storages.kind.0", 6, "not in 0 to 5"),
    ("storages.kind.0", 3, "not a first and last step for each temp"),
    ("storages.kind.0", "input", "not an array of integers"),
    ("storages.kind", "", "not a JSON array"),
    ("storages.kind", [0], "not of one length"),
    ("storages.dtype.0", 1, "not in 0 to 0"),
    ("storages.size.0", True, "not an array of integers"),
    ("storages.size.0", 0.0, "not an array of integers"),
    ("storages.size.0", 2**70, "not in 0 to"),
    ("storages.size.4", 0, "must be constant"),
    ("storages.offset", [8], "multiple of 64"),
    ("storages.offset", [], "multiple of 64"),
    ("storages.offset", [64], "beyond its end"),
    ("storages.offset", [-64], "not in 0 to"),
    ("storages.live", [3, 2], "not a first and last step"),
    ("storages.live", [3], "not a first and last step"),
    ("args", [], "not a JSON object"),
    ("args.dim.0", -1, "args.dim.0. is -1, which is not in 0"),
    ("args.dim", [0], "not of one length"),
    ("args.storage.1", 6, "not in -3 to 5"),
    ("args.storage.1", -4, "not in -3 to 5"),
    ("args.storage.1", [], "not an array of integers"),
    ("args.storage.0", -2, "1 words for the block"),
    ("chunks.0", "m", "chunks is not an array of integers"),
    ("chunks.0", 99, "chunks.0. is 99, which is not in 0 to"),
    ("faults", [3], "not a string"),
    ("digests", {}, "no digest"),
    ("digests", [], "digests is not a JSON object"),
    ("digests.weights\\.bin", [64], "not a size in bytes and SHA-256 digests"),
    ("digests.weights\\.bin.0", 1 << 21, "not the SHA-256 digests of 2097152 bytes"),
    ("digests.weights\\.bin.0", True, "not a size in bytes"),
    ("digests.weights\\.bin.0", -1, "not a size in bytes"),
    ("digests.weights\\.bin.1", "g" * 64, "not a size in bytes and SHA-256 digests"),
    ("digests.weights\\.bin.1", "0" * 65, "not the SHA-256 digests"),
    ("digests.weights\\.bin.1", "0" * 128, "not the SHA-256 digests"),
    ("eager", -1, "eager is -1, not an integer of 0 to"),
    ("eager", True, "not an integer"),
    ("eager", None, "not an integer"),
    ("eager", 1 << 21, "eager is 2097152 bytes, the weights have fewer"),
    ("provenance", [], "not a JSON object"),
]


def test_code_reaches_python_through_one_word_at_most(document: dict[str, Any]) -> None:
    words = document["args"]["storage"]
    words[1] = -3  # as loops have it, where there are no host calls
    parse(document)
    words[2] = -3
    with pytest.raises(ArtifactError, match="2 words for the function that answers 0 host calls"):
        parse(document)


@pytest.mark.parametrize(("place", "value", "message"), CHANGES, ids=[f"{p}={str(v)[:20]}" for p, v, _ in CHANGES])
def test_each_entry_is_checked(document: dict[str, Any], place: str, value: Any, message: str) -> None:
    *path, last = [part.replace("\0", ".") for part in place.replace("\\.", "\0").split(".")]
    inner: Any = document
    for part in path:
        inner = inner[int(part) if isinstance(inner, list) else part]
    inner[int(last) if isinstance(inner, list) else last] = value
    with pytest.raises(ArtifactError, match=message):
        parse(document)


def make_room(document: dict[str, Any], number: int) -> None:
    """All dims from this number on get the next one."""
    dims = document["dims"]
    for table, key in ((dims, "left"), (dims, "right"), (document["storages"], "size"), (document["args"], "dim"),
                       (document, "chunks")):  # fmt: skip
        table[key] = [each + (each >= number) for each in table[key]]


def add_constant(document: dict[str, Any], value: int) -> int:
    """The number of a new dim."""
    number = len(document["symbols"]) + len(document["dims"]["constants"])
    document["dims"]["constants"].append(value)
    make_room(document, number)
    return number


def test_a_symbol_that_no_input_tells(document: dict[str, Any]) -> None:
    document["symbols"]["other"] = [0, 1]
    make_room(document, 1)
    with pytest.raises(ArtifactError, match="no input has an axis that gives the symbol other"):
        parse(document)


def test_an_operation_is_on_what_stands_before_it(document: dict[str, Any]) -> None:
    dims = document["dims"]
    last = len(document["symbols"]) + len(dims["constants"]) + len(dims["operators"]) - 1
    for side in ("left", "right"):
        before = dims[side][-1]
        dims[side][-1] = last
        with pytest.raises(ArtifactError, match=f"dim {last} is not made of those before it"):
            parse(document)
        dims[side][-1] = before
    parse(document)


def test_dims_that_are_too_deep_or_too_large(document: dict[str, Any]) -> None:
    dims = document["dims"]

    def append(left: int, right: int) -> int:
        for key, number in (("operators", 0), ("left", left), ("right", right)):
            dims[key].append(number)
        return len(document["symbols"]) + len(dims["constants"]) + len(dims["operators"]) - 1

    before = json.dumps(dims)
    number = 0
    for _ in range(MAX_DEPTH):
        number = append(number, 0)
    parse(document)
    append(number, 0)
    with pytest.raises(ArtifactError, match=f"dim {number + 1} is nested more than {MAX_DEPTH} levels deep"):
        parse(document)
    dims = document["dims"] = json.loads(before)
    number = 0
    for _ in range(MAX_NODES.bit_length() - 2):
        number = append(number, number)
    parse(document)
    append(number, number)
    with pytest.raises(ArtifactError, match=f"has over {MAX_NODES} parts"):
        parse(document)


def test_two_status_storages(lookup: Artifact) -> None:
    document = json.loads(lookup.manifest.encode())
    table = document["storages"]
    last = table["kind"].index(STATUS)
    for column in ("kind", "dtype", "size"):
        table[column].append(table[column][last])
    with pytest.raises(ArtifactError, match="two status"):
        parse(document)
    for column in ("kind", "dtype", "size"):
        table[column].pop()
    table["size"][last] = add_constant(document, 2)
    with pytest.raises(ArtifactError, match="1 i64"):
        parse(document)


def test_entropy_storages(lookup: Artifact) -> None:
    document = json.loads(lookup.manifest.encode())
    table = document["storages"]
    table["dtypes"].append("u64")
    two, three = add_constant(document, 2), add_constant(document, 3)
    for _ in range(2):
        table["kind"].append(ENTROPY)
        table["dtype"].append(len(table["dtypes"]) - 1)
        table["size"].append(two)
    with pytest.raises(ArtifactError, match="two entropy"):
        parse(document)
    for column in ("kind", "dtype", "size"):
        table[column].pop()
    parse(document)
    table["size"][-1] = three
    with pytest.raises(ArtifactError, match="2 u64"):
        parse(document)


def test_tables_are_sequences(manifest: Manifest, lookup: Artifact) -> None:
    for each in (manifest, lookup.manifest):
        assert Storages.of(each.storages) == each.storages and Storages.of(tuple(each.storages)) == each.storages
        assert Arguments.of(each.args) == each.args != Arguments.of(())
        assert len(tuple(each.storages)) == len(each.storages) and len(tuple(each.args)) == len(each.args)
    assert manifest.storages[5] == Storage("temp", f32, ("*", 16, "n"), live=(0, 2))
    assert manifest.storages[4:5] == (Storage("weight", f32, 16, offset=0),)
    assert manifest.args[0] == Value(("//", ("+", "n", 3), 4)) and manifest.args[1] == Pointer(0, 0)
    assert Arguments.of([Block()])[0] == Block()
    empty = Storages.parse(Storages.of(()).encode([]), DimTable())
    assert len(empty) == 0 and empty == Storages.of(())


def test_storages_without_what_their_kind_needs() -> None:
    for wrong in (Storage("temp", f32, 1), Storage("weight", f32, 1), Storage("input", f32, 1, live=(0, 0))):
        with pytest.raises(ArtifactError, match="temps alone have lives, weights alone offsets"):
            Storages.of([wrong])


def mutate(value: Any, random: random.Random) -> Any:
    """`value` with one thing in it exchanged, dropped, repeated or moved."""
    if isinstance(value, dict | list) and value and random.random() < 0.9:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = random.choice(keys)
        if random.random() < 0.12:
            del value[key]
        elif isinstance(value, list) and random.random() < 0.08:
            value.insert(key, copy.deepcopy(random.choice(value)))
        else:
            value[key] = mutate(value[key], random)
        return value
    if isinstance(value, int) and random.random() < 0.5:
        return value + random.choice([-1, 1, 2**31, 2**62, -(2**63)])
    return random.choice(
        [None, True, -1, 0, 1, 0.5, 2**64, "", "n", "x" * 70, [], {}, ["*", "n", "n"], [0, 1], {"n": []}]
    )


def test_mutations_give_typed_errors_or_valid_manifests(manifest: Manifest, lookup: Artifact) -> None:
    source = random.Random(7)
    accepted = 0
    for original in (manifest.encode(), lookup.manifest.encode()):
        for _ in range(1500):
            document = json.loads(original)
            for _ in range(source.choice([1, 1, 1, 2, 5])):
                document = mutate(document, source)
            try:
                parsed = parse(document)
            except ArtifactError as error:
                assert str(error)
            else:
                accepted += 1
                assert parse_manifest(parsed.encode()) == parsed
    assert accepted < 1500


def test_damaged_text_gives_typed_errors(manifest: Manifest) -> None:
    source = random.Random(11)
    data = manifest.encode()
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(source.choice([1, 1, 3])):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        with suppress(ArtifactError):
            parse_manifest(bytes(damaged[: source.choice([len(data), source.randrange(len(data))])]))
