"""Artifacts built from programs: what is in the file, and that the runtime gives the same numbers from it."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.artifact import Artifact, open_artifact
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.loops import Axis, Buffer, Call, For, Kernel, Load, Store
from ingot.compiler.ir.program import Argument, Launch, Program, Storage
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.labels import Labels
from ingot.compiler.packaging import TargetDescription, build_artifact
from ingot.compiler.targets.cpu.codegen import compile_program
from ingot.compiler.targets.cpu.features import host_level
from ingot.compiler.targets.cpu.program import argument_table
from ingot.runtime import ArtifactError, Session
from ingot.runtime.dims import OPERATORS
from ingot.runtime.dtypes import f32, i64
from ingot.runtime.manifest import DIGEST_CHUNK, parse_manifest
from ingot.runtime.tables import Pointer

WIDTH = 8
LEVEL = host_level()
TARGET = TargetDescription(LEVEL.arch, "cpu", {LEVEL.name: LEVEL.required})


def weight(name: str, data: NDArray[Any]) -> Storage:
    return Storage(name, "weight", f32, data.size, data=data)


def chain(weights: list[Storage], ranges: dict[str, tuple[int, int]] | None = None) -> Program:
    """y = x + w for each weight in turn: a chain of temporaries of n rows of eight."""
    n, at = symbol("n"), symbol("i") * WIDTH + symbol("j")
    store = Store("c", at, Call("add", (Load("a", at), Load("b", symbol("j"))), f32))
    buffers = (Buffer("a", f32), Buffer("b", f32), Buffer("c", f32, "write"))
    rows = Axis("i", symbol("rows"), 64)
    kernel = Kernel("add", buffers, ("rows",), (rows,), (For("j", WIDTH, (store,), "vector"),))
    made = TensorType(f32, (n, WIDTH))
    x, y = Storage("x_0", "input", f32, made.size, made), Storage("y_0", "output", f32, made.size, made)
    temps = [Storage(f"t{index}", "temp", f32, made.size) for index in range(len(weights) - 1)]
    values = [x, *temps, y]
    steps = [
        Launch(kernel, (Argument(values[k]), Argument(w), Argument(values[k + 1])), (n,)) for k, w in enumerate(weights)
    ]
    return Program("chain", (x, y, *weights, *temps), tuple(steps), ranges or {})


def build(program: Program, *, vectors: bytes | None = None, **labels: Any) -> Artifact:
    code = {LEVEL.name: compile_program(program, LEVEL)}
    named = Labels(program.name, **labels)
    return build_artifact(program, code, argument_table(program), named, target=TARGET, vectors=vectors)


def ramp(start: float) -> NDArray[np.float32]:
    return np.arange(start, start + WIDTH, dtype=np.float32)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    weights = [weight(f"w{k}", ramp(k % 2)) for k in range(5)]
    return build(chain(weights, {"n": (1, 500)}), provenance={"options": ["fuse"], "model": "chain.onnx"})


def test_tables_that_are_read_in_part_come_last(tmp_path: Path) -> None:
    """Eight elements are read of each weight, whatever it has."""
    table = weight("table", np.tile(ramp(3), 100))
    program = chain([table, weight("w", ramp(1)), weight("small", np.tile(ramp(2), 2))])
    made = build(program)
    places = {each.name: place.offset for each, place in zip(program.storages, made.manifest.storages, strict=True)}
    assert (places["w"], places["small"], places["table"]) == (0, 64, 128) and made.manifest.eager == 128
    assert build(chain([weight("w", ramp(1))])).manifest.eager is None
    assert build(chain([table])).manifest.eager == 0
    made.save(tmp_path / "table.ingot")
    assert open_artifact(tmp_path / "table.ingot").manifest == made.manifest
    with Session(tmp_path / "table.ingot") as session:
        x = np.ones((3, WIDTH), np.float32)
        np.testing.assert_array_equal(session.run({"x_0": x})["y_0"], x + ramp(3) + ramp(1) + ramp(2))


def test_the_numbers_are_right(artifact: Artifact, tmp_path: Path) -> None:
    artifact.save(tmp_path / "chain.ingot")
    with Session(tmp_path / "chain.ingot") as saved, artifact.session(threads=1) as kept:
        for rows in (1, 64, 65, 500):
            x = np.random.default_rng(rows).standard_normal((rows, WIDTH)).astype(np.float32)
            expected = x.astype(np.float64) + 3 * ramp(0) + 2 * ramp(1)
            results = saved.run({"x_0": x})["y_0"]
            np.testing.assert_allclose(results, expected, rtol=1e-6)
            assert (kept.run({"x_0": x})["y_0"] == results).all()


def test_the_file(artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "chain.ingot"
    artifact.save(path)
    assert path.stat().st_size == artifact.size
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", f"code/{LEVEL.name}.so", "weights.bin", "profile.json"]
        assert archive.read(f"code/{LEVEL.name}.so") == artifact.code[LEVEL.name]
        manifest = parse_manifest(archive.read("manifest.json"))
        weights = archive.read("weights.bin")
        members = {name: archive.read(name) for name in manifest.digests}
        info = archive.getinfo("weights.bin")
    assert manifest == artifact.manifest
    assert manifest.provenance == {"options": ["fuse"], "model": "chain.onnx"}
    assert manifest.symbols == {"n": (1, 500)} and manifest.target == "cpu"
    assert path.read_bytes().index(weights, info.header_offset) % 64 == 0
    for name, digest in manifest.digests.items():
        data = members[name]
        parts = [data[at : at + DIGEST_CHUNK] for at in range(0, len(data), DIGEST_CHUNK)]
        assert digest.chunks == tuple(hashlib.sha256(part).hexdigest() for part in parts)


def test_equal_weights_are_stored_once(artifact: Artifact) -> None:
    offsets = [storage.offset for storage in artifact.manifest.storages if storage.kind == "weight"]
    assert offsets == [0, 64, 0, 64, 0]
    assert artifact.manifest.digests["weights.bin"].size == 64 + 4 * WIDTH
    mixed = [weight("a", ramp(0)), weight("b", ramp(0)), weight("c", np.concatenate([ramp(0), ramp(0)]))]
    program = chain(mixed[:2])
    extra = Program("extra", (*program.storages, mixed[2]), program.steps)
    assert [s.offset for s in build(extra).manifest.storages if s.kind == "weight"] == [0, 0, 64]


def test_same_input_same_bytes(artifact: Artifact, tmp_path: Path) -> None:
    again = build(
        chain([weight(f"w{k}", ramp(k % 2)) for k in range(5)], {"n": (1, 500)}),
        provenance={"options": ["fuse"], "model": "chain.onnx"},
    )
    for name, each in (("a", artifact), ("b", again), ("c", artifact)):
        each.save(tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1


def test_lifetimes_become_memory(artifact: Artifact) -> None:
    temps = [storage for storage in artifact.manifest.storages if storage.kind == "temp"]
    assert [temp.live for temp in temps] == [(k, k + 1) for k in range(4)]
    with artifact.session() as session:
        plan = session._planner.plan(((100, WIDTH),))
        # Two temporaries at a time; the staged input and output beside them.
        assert plan.arena_size == 4 * 100 * WIDTH * 4


def test_a_temporary_that_no_step_touches_takes_no_memory() -> None:
    program = chain([weight("w", ramp(0))])
    unused = Storage("unused", "temp", f32, symbol("n") * (1 << 20))
    artifact = build(Program("chain", (unused, *program.storages), program.steps))
    assert artifact.manifest.storages[0].size == 0 and artifact.manifest.storages[0].live == (0, 0)
    with artifact.session() as session:
        assert (session.run({"x_0": np.zeros((1, WIDTH), np.float32)})["y_0"] == ramp(0)).all()


def test_the_callers_names(artifact: Artifact) -> None:
    program = chain([weight("w", ramp(0))])
    named = build(program, inputs=["pixel values/1"], outputs=["größe"])
    with named.session() as session:
        x = np.zeros((1, WIDTH), np.float32)
        assert list(session.run({"pixel values/1": x})) == ["größe"]
    with pytest.raises(IrError, match="2 names are given for the program's 1 inputs"):
        build(program, inputs=["a", "b"])


def test_symbols_without_a_range_and_parallel_chunks() -> None:
    manifest = build(chain([weight("w", ramp(0))])).manifest
    assert manifest.symbols == {"n": (0, 2**62)}
    assert list(manifest.chunks) == [("//", ("+", "n", 63), 64)]
    assert [entry.storage for entry in manifest.args if isinstance(entry, Pointer)] == [0, 2, 1]


def test_levels_are_tried_best_first(artifact: Artifact) -> None:
    program = chain([weight("w", ramp(0))])
    code = {"small": b"1", "large": b"2", "medium": b"3"}
    features = {"small": [], "medium": ["avx2"], "large": ["fma", "avx2", "fma"], "other": ["x"]}
    target = TargetDescription("x86-64", "all of them", features)
    made = build_artifact(program, code, argument_table(program), Labels("levels"), target=target).manifest
    assert [(c.level, c.features) for c in made.code] == [
        ("large", ("avx2", "fma")), ("medium", ("avx2",)), ("small", ()),
    ]  # fmt: skip


def test_test_vectors_travel_along(artifact: Artifact, tmp_path: Path) -> None:
    replace(build(chain([weight("w", ramp(0))]), vectors=b"PK data")).save(tmp_path / "v.ingot")
    with zipfile.ZipFile(tmp_path / "v.ingot") as archive:
        assert archive.read("test/vectors.npz") == b"PK data"
    Session(tmp_path / "v.ingot", verify="full").close()


def test_weights_are_read_from_where_they_lie(tmp_path: Path) -> None:
    count = 3 * DIGEST_CHUNK // 4 + 5
    np.arange(count, dtype=np.float32).tofile(tmp_path / "external.bin")
    mapped = np.memmap(tmp_path / "external.bin", np.float32, mode="r")
    program = chain([weight("w", ramp(0))])
    artifact = build(Program("large", (*program.storages, weight("mapped", mapped)), program.steps))
    assert any(np.shares_memory(data, mapped) for _, data in artifact.weights)
    artifact.save(tmp_path / "large.ingot")
    assert len(artifact.manifest.digests["weights.bin"].chunks) == 4
    Session(tmp_path / "large.ingot", verify="full").close()
    with zipfile.ZipFile(tmp_path / "large.ingot") as archive:
        assert archive.read("weights.bin")[64:] == mapped.tobytes()


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (None, WIDTH),
        (ramp(0), WIDTH + 1),
        (ramp(0).astype(np.float64), WIDTH),
        (ramp(0).astype(">f4"), WIDTH),
        (ramp(0).reshape(2, 4), WIDTH),
        (np.arange(2 * WIDTH, dtype=np.float32)[::2], WIDTH),
    ],
)
def test_weights_that_are_not_what_they_are_declared_to_be(data: Any, size: Dim) -> None:
    program = chain([weight("w", ramp(0))])
    bad = Storage("bad", "weight", f32, size, data=data)
    with pytest.raises(IrError, match="weight bad"):
        build(Program("bad", (*program.storages, bad), program.steps))


def test_programs_that_the_runtime_would_refuse() -> None:
    program = chain([weight("w", ramp(0))])
    code = {LEVEL.name: b""}
    with pytest.raises(IrError, match="an argument word"):
        build_artifact(program, code, [["x", 1]], Labels("bad"), target=TARGET)
    with pytest.raises(ArtifactError, match=r"args.storage\[0\] is 77, which is not in -3 to 2"):
        build_artifact(program, code, [["p", 77, 0]], Labels("bad"), target=TARGET)
    hidden = Storage("hidden", "temp", f32, symbol("m"))
    with pytest.raises(ArtifactError, match="no input has an axis that gives the symbol m"):
        build(Program("bad", (*program.storages, hidden), program.steps))
    status = [Storage(f"status{k}", "status", i64, 1) for k in range(2)]
    with pytest.raises(ArtifactError, match="two status"):
        build(Program("bad", (*program.storages, *status), program.steps))
    with pytest.raises(ArtifactError, match="JSON"):
        build(program, provenance={"model": os})


def test_manifest_is_plain_json(artifact: Artifact) -> None:
    document = json.loads(artifact.manifest.encode())
    assert document["format"] == 4 and document["target"] == {"arch": LEVEL.arch, "asked": "cpu"}
    args, storages, dims = document["args"], document["storages"], document["dims"]
    numbered = ["n", *dims["constants"]]
    for number, left, right in zip(dims["operators"], dims["left"], dims["right"], strict=True):
        numbered.append([list(OPERATORS)[number], numbered[left], numbered[right]])
    assert [numbered[dim] for dim in args["dim"][:3]] == [["//", ["+", "n", 63], 64], 0, 0]
    assert args["storage"][:3] == [-1, 0, 2]
    assert storages["dtypes"] == ["f32"] and numbered[storages["size"][2]] == WIDTH
    assert storages["kind"][2] == 2 and storages["offset"][0] == 0
