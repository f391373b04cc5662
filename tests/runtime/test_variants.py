"""Artifacts of several programs: which one runs, what refuses shapes, what a manifest may say of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.conftest import rowwise, tensor

from ingot.compiler.artifact import Artifact, open_artifact
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.program import Argument, Launch, Program, Storage
from ingot.compiler.labels import Labels
from ingot.compiler.packaging import TargetDescription, build_artifact
from ingot.compiler.targets.cpu.codegen import compile_program
from ingot.compiler.targets.cpu.features import host_level
from ingot.compiler.targets.cpu.variants import numbered_tables
from ingot.runtime import ArtifactError, InputError, Session
from ingot.runtime.dtypes import f32
from ingot.runtime.manifest import MAX_VARIANTS, Manifest, parse_manifest
from ingot.runtime.variants import choose

WIDTH = 16
Document = dict[str, Any]


def program(name: str, rows: Dim, ranges: Mapping[str, tuple[int, int]], weight: int) -> Program:
    """y[rows, 16] = x * weight, so that the result tells which program ran."""
    x, y = tensor("x", "input", f32, (rows, WIDTH)), tensor("y", "output", f32, (rows, WIDTH))
    w = Storage("w", "weight", f32, WIDTH, data=np.full(WIDTH, weight, np.float32))
    kernel = rowwise("scale", "mul", WIDTH, symbol("j"), 4)
    launch = Launch(kernel, (Argument(x), Argument(w), Argument(y)), (rows,))
    return Program(name, (x, y, w), (launch,), ranges)


def make(*, closed: bool = False) -> Artifact:
    n = symbol("n")
    programs = (
        program("rows", n, {"n": (0, 100)}, 1),
        program("n=3", 3, {}, 2),
        program("n=0", 0, {}, 3),
        program("n=2..9", n, {"n": (2, 9)}, 4),
    )
    general, *others = programs
    level = host_level()
    code = {level.name: compile_program(general, level, variants=others)}
    target = TargetDescription(level.arch, "cpu", {level.name: level.required})
    table, *tables = numbered_tables(programs)
    return build_artifact(
        general,
        code,
        table,
        Labels("rows"),
        target=target,
        variants=list(zip(others, tables, strict=True)),
        closed=closed,
    )


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return make()


@pytest.fixture(scope="module")
def closed() -> Artifact:
    return make(closed=True)


def runs(rows: int) -> int:
    """The weight of the program that is to run that many rows."""
    return {0: 3, 3: 2}.get(rows, 4 if 2 <= rows <= 9 else 1)


def feed(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(rows).standard_normal((rows, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_that_fits_runs(artifact: Artifact, threads: int) -> None:
    with artifact.session(threads=threads) as session:
        for rows in (5, 3, 0, 1, 2, 3, 9, 10, 100, 3, *range(20)):
            for _ in range(3):  # the third is the fast call's
                x = feed(rows)
                np.testing.assert_array_equal(session.run({"x": x})["y"], x * runs(rows))


def test_bound_functions_choose(artifact: Artifact) -> None:
    with artifact.session(threads=1) as session:
        calls = []
        for rows in (0, 1, 3, 5, 50):
            x, y = feed(rows), np.empty((rows, WIDTH), np.float32)
            calls.append((session.bind({"x": x}, {"y": y}), x, y, runs(rows)))
        for call, x, y, weight in [*calls, *reversed(calls)]:
            x += 1
            call()
            np.testing.assert_array_equal(y, x * weight)


def test_threads_share_a_session(artifact: Artifact) -> None:
    def work(first: int) -> None:
        for rows in range(first, first + 60):
            x = feed(rows % 13)
            np.testing.assert_array_equal(session.run({"x": x})["y"], x * runs(rows % 13))

    with artifact.session(threads=2) as session, ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_signature_is_that_of_the_general_program(artifact: Artifact, closed: Artifact) -> None:
    for each in (artifact, closed):
        with each.session() as session:
            assert session.inputs[0].shape == ("n", WIDTH) and session.outputs[0].shape == ("n", WIDTH)


def test_a_profile_names_its_program(artifact: Artifact) -> None:
    with artifact.session() as session:
        for rows, name in ((3, "n=3"), (0, "n=0"), (4, "n=2..9"), (50, "rows")):
            profile = session.profile({"x": feed(rows)}, runs=2)
            assert profile.name == name and [each.kernel for each in profile.launches] == ["scale"]
            assert profile.launches[0].bytes is not None


def test_refused_shapes(artifact: Artifact, closed: Artifact) -> None:
    with artifact.session() as session, pytest.raises(InputError, match=r"'x'.* axis 0, but n must be in 0 to 100"):
        session.run({"x": feed(101)})
    with closed.session() as session:
        for rows in (0, 2, 3, 9):
            np.testing.assert_array_equal(session.run({"x": feed(rows)})["y"], feed(rows) * runs(rows))
        for rows in (1, 10):
            with pytest.raises(InputError, match=rf"'x' \[{rows}, 16\].* these alone: n=3; n=0; n=2..9"):
                session.run({"x": feed(rows)})
        with pytest.raises(InputError, match="n must be in 0 to 100"):
            session.run({"x": feed(101)})
        with pytest.raises(InputError, match="these alone"):
            session.bind({"x": feed(1)}, {"y": feed(1)})
        with pytest.raises(InputError, match="these alone"):
            session.profile({"x": feed(1)})


def test_weights_are_stored_once_and_verified(artifact: Artifact, tmp_path: Any) -> None:
    path = tmp_path / "rows.ingot"
    artifact.save(path)
    again = open_artifact(path)
    assert again.manifest == artifact.manifest and again.costs == artifact.costs
    assert artifact.manifest.digests["weights.bin"].size == 4 * 64
    with Session(path, verify="full") as session:
        np.testing.assert_array_equal(session.run({"x": feed(3)})["y"], feed(3) * 2)


def test_a_plain_artifact_says_nothing_of_variants(affine: Artifact) -> None:
    document = json.loads(affine.manifest.encode())
    assert "variants" not in document and "closed" not in document
    assert choose(affine.manifest, ((3, 16), (4, 16))) == 0  # which its plan will refuse


def test_manifests_come_back(artifact: Artifact, closed: Artifact) -> None:
    for each in (artifact, closed):
        data = each.manifest.encode()
        assert parse_manifest(data) == each.manifest and parse_manifest(data).encode() == data


def _drop(key: str) -> Callable[[Document], object]:
    return lambda m: m["variants"][0].pop(key)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m.update(variants=[]), "variants has 0 entries"),
        (lambda m: m.update(variants=m["variants"] * MAX_VARIANTS), f"not 1 to {MAX_VARIANTS}"),
        (lambda m: m.update(variants={}), "variants is not a JSON array"),
        (lambda m: m["variants"].insert(0, 7), r"variants\[0\] is not a JSON object"),
        (lambda m: m["variants"][1].update(code=[]), r"variants\[1\].*unknown keys: code"),
        (lambda m: m["variants"][0].update(variants=m["variants"][1:]), "unknown keys: variants"),
        (lambda m: m["variants"][0].update(closed=True), "unknown keys: closed"),
        (_drop("name"), r"variants\[0\] has no 'name'"),
        (_drop("args"), r"variants\[0\] has no 'args'"),
        (_drop("storages"), r"variants\[0\] has no 'storages'"),
        (_drop("symbols"), r"variants\[0\] has no 'symbols'"),
        (lambda m: m["variants"].reverse(), "first argument word is not the program's number, 1"),
        (lambda m: m["args"]["storage"].__setitem__(0, 0), "first argument word is not the program's number, 0"),
        (lambda m: m["variants"][0]["args"].update(dim=[], storage=[]), "first argument word is not"),
        (lambda m: m["args"]["dim"].__setitem__(0, 0), "the program's number, 0"),
        (_drop("dims"), r"variants\[0\] has no 'dims'"),
        (lambda m: m["variants"][0]["inputs"][0].update(name="z"), r"variants\[0\]: the inputs are not those"),
        (lambda m: m["variants"][0]["outputs"][0]["shape"].append(1), r"variants\[0\]: the outputs are not those"),
        (lambda m: m["variants"][2]["inputs"][0].update(shape=[3, 16]), "no input has an axis that gives the symbol n"),
        (lambda m: m["variants"][0]["storages"]["offset"].__setitem__(0, 1 << 30), "a weight ends"),
        (lambda m: m["variants"][0]["storages"]["kind"].__setitem__(0, 1), r"variants\[0\]"),
        (lambda m: m.update(closed=False), "closed is not true"),
        (lambda m: m.update(closed=1), "closed is not true"),
        (lambda m: (m.update(closed=True), m.pop("variants")), "closed and has no variants"),
    ],
)
def test_bad_manifests(artifact: Artifact, change: Callable[[Document], object], problem: str) -> None:
    document = copy.deepcopy(json.loads(artifact.manifest.encode()))
    change(document)
    with pytest.raises(ArtifactError, match=problem):
        parse_manifest(json.dumps(document).encode())


def test_a_manifest_that_cannot_be_read_is_not_written(artifact: Artifact) -> None:
    def refused(manifest: Manifest) -> None:
        with pytest.raises(ArtifactError):
            manifest.encode()

    refused(replace(artifact.manifest, variants=(), closed=True))
    refused(replace(artifact.manifest, variants=artifact.manifest.variants[::-1]))
