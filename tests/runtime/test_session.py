from __future__ import annotations

import copy
import gc
import mmap
import pickle
import resource
import types
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.artifact import Artifact
from ingot.runtime import ArtifactError, InputError, RuntimeFault, Session, TensorInfo, UnsupportedCpuError
from ingot.runtime.manifest import Code, code_member
from ingot.runtime.session import MAX_PLANS, _call

Arrays = dict[str, NDArray[Any]]


def feeds(rows: int, seed: int = 0) -> Arrays:
    source = np.random.default_rng(seed)
    return {name: source.standard_normal((rows, 16)).astype(np.float32) for name in ("x", "z")}


def check(inputs: Mapping[str, NDArray[Any]], results: Mapping[str, NDArray[Any]]) -> None:
    scaled = inputs["x"].astype(np.float64) * np.arange(16)
    expected = {"y": scaled + inputs["z"], "s": scaled * inputs["z"]}
    assert list(results) == ["y", "s"]
    for name, array in results.items():
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable and array.flags.owndata
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-6)


# 1024 rows are the last whose arrays are staged, 4 the last that are one chunk.
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 1024, 1025, 3001])
@pytest.mark.parametrize("threads", [1, 2])
def test_results(affine: Artifact, rows: int, threads: int) -> None:
    with affine.session(threads=threads) as session:
        for seed in range(3):
            inputs = feeds(rows, seed)
            check(inputs, session.run(inputs))


def test_shapes_in_turn(affine: Artifact) -> None:
    with affine.session() as session:
        for rows in (1, 2000, 3, 2000, 1, 5000, 0, 3, *range(2 * MAX_PLANS), 5000, 1):
            inputs = feeds(rows)
            check(inputs, session.run(inputs))
        assert len(session._plans) == MAX_PLANS


def test_results_do_not_depend_on_what_memory_holds(affine: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_POISON", "1")
    with affine.session(threads=2) as session:
        for rows in (1, 3, 1, 2000):
            inputs = feeds(rows)
            check(inputs, session.run(inputs))
        outputs = {name: np.zeros((3, 16), np.float32) for name in ("y", "s")}
        session.bind(inputs := feeds(3), outputs)()
        scaled = inputs["x"].astype(np.float64) * np.arange(16)
        np.testing.assert_allclose(outputs["s"], scaled * inputs["z"], rtol=1e-6)


def test_nan_and_infinity_pass(affine: Artifact) -> None:
    with affine.session() as session:
        x = np.full((2, 16), np.inf, np.float32)
        z = np.full((2, 16), np.nan, np.float32)
        assert np.isnan(session.run({"x": x, "z": z})["y"]).all()
        y = session.run({"x": x, "z": np.zeros_like(z)})["y"]
        assert np.isnan(y[:, 0]).all() and np.isposinf(y[:, 1:]).all()  # inf * 0, inf * w


def test_signature_and_metadata(affine_path: Path) -> None:
    with Session(affine_path, threads=1) as session:
        f32 = np.dtype(np.float32)
        assert session.inputs == (TensorInfo("x", f32, ("n", 16)), TensorInfo("z", f32, ("n", 16)))
        assert session.outputs == (TensorInfo("y", f32, ("n", 16)), TensorInfo("s", f32, ("n", 16)))
        assert session.metadata["name"] == "affine" and session.metadata["threads"] == 1
        assert session.metadata["path"] == str(affine_path)
        assert repr(session).startswith("<Session 'affine' (x: float32['n', 16], z: float32['n', 16]) -> (y: float32")


def test_some_outputs(affine: Artifact) -> None:
    with affine.session() as session:
        for rows in (2, 2000):
            inputs = feeds(rows)
            everything = session.run(inputs)
            assert list(session.run(inputs, outputs=["s"])) == ["s"]
            both = session.run(inputs, outputs=("s", "y"))
            assert list(both) == ["s", "y"] and (both["s"] == everything["s"]).all()
            assert session.run(inputs, outputs=[]) == {}
        with pytest.raises(InputError, match=r"no output 'q'; there are 'y', 's'"):
            session.run(feeds(2), outputs=["q"])


def test_results_are_the_callers_own(affine: Artifact) -> None:
    session = affine.session()
    first = session.run(one := feeds(2, 1))
    session.run(feeds(2, 2))
    check(one, first)
    first["y"][...] = 0
    session.close()
    check(one, {"y": one["x"] * np.arange(16, dtype=np.float32) + one["z"], "s": first["s"]} | {})


class Counted(np.ndarray):
    pass


@pytest.mark.parametrize("rows", [3, 2000])
def test_unusual_arrays(affine: Artifact, rows: int) -> None:
    inputs = feeds(rows)
    x = inputs["x"]
    locked = x.copy()
    locked.flags.writeable = False
    raw = bytearray(x.nbytes + 1)
    unaligned = np.frombuffer(raw, np.float32, count=x.size, offset=1).reshape(x.shape)
    unaligned[...] = x
    assert not unaligned.flags.aligned
    wide = np.zeros((rows, 32), np.float32)
    wide[:, ::2] = x
    unusual = {
        "transposed": np.asfortranarray(x),
        "strided": wide[:, ::2],
        "reversed": np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
        "read-only": locked,
        "unaligned": unaligned,
        "big-endian": x.astype(">f4"),
        "own dtype object": x.view(np.dtype("<f4", metadata={"own": 1})),
        "subclass": x.view(Counted),
        "masked": np.ma.masked_array(x),
        "list": x.tolist(),
        "tuple of arrays": tuple(x),
    }
    with affine.session() as session:
        for array in unusual.values():
            check(inputs, session.run({"x": array, "z": inputs["z"]}))


def test_python_numbers(lookup: Artifact, affine: Artifact) -> None:
    with lookup.session() as session:
        assert session.run({"index": [3, 0]})["y"].tolist() == [8, 1]
        assert session.run({"index": []})["y"].tolist() == []
        for wrong in ([0.5], ["a"], [[1], [2, 3]], [2**70], [None]):
            with pytest.raises(InputError, match="input 'index'"):
                session.run({"index": wrong})  # type: ignore
    with affine.session() as session:
        assert session.run({"x": [[1] * 16], "z": [[True] * 16]})["y"].tolist() == [[1.0 + j for j in range(16)]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": np.ones((2, 16), "f4")}, r"no value is given for 'z'; the model's inputs are 'x', 'z'"),
        ({"x": np.ones((2, 16), "f4"), "q": 1, "z": 0}, r"there is no input 'q'; the model's inputs are"),
        ({"x": np.ones((2, 16)), "z": np.ones((2, 16), "f4")}, r"'x' has dtype float64, the model needs float32"),
        ({"x": np.ones((2, 16), "i4"), "z": np.ones((2, 16), "f4")}, "dtype int32"),
        ({"x": np.ones(16, "f4"), "z": np.ones((2, 16), "f4")}, r"'x' of shape \[16\] .*has 1 axes, 2 are needed"),
        (
            {"x": np.ones((2, 15), "f4"), "z": np.ones((2, 16), "f4")},
            r"'x' of shape \[2, 15\] \(the model needs \[n, 16\]\) has 15 on axis 1, but 16 is needed",
        ),
        (
            {"x": np.ones((2, 16), "f4"), "z": np.ones((3, 16), "f4")},
            r"'z' of shape \[3, 16\] .*has 3 on axis 0, but axis 0 of input 'x' has n = 2",
        ),
        (
            {name: np.broadcast_to(np.float32(1), ((1 << 20) + 1, 16)) for name in "xz"},
            r"has 1048577 on axis 0, but n must be in 0 to 1048576",
        ),
        ({"x": np.float32(1), "z": np.ones((2, 16), "f4")}, "has 0 axes"),
        ([1, 2], "by name"),
        (None, "by name"),
    ],
)
def test_inputs_that_do_not_fit(affine: Artifact, inputs: Any, message: str) -> None:
    with affine.session() as session:
        for _ in range(2):
            with pytest.raises(InputError, match=message):
                session.run(inputs)
            check(good := feeds(2), session.run(good))


def test_faults_carry_the_models_message(lookup: Artifact) -> None:
    with lookup.session() as session:
        index = np.array([4, 1], np.int64)
        y = np.zeros(2, np.float32)
        bound = session.bind({"index": index}, {"y": y})
        for _ in range(2):
            for wrong in (-1, 5, 2**40):
                with pytest.raises(RuntimeFault, match="an index is not in 0 to 4"):
                    session.run({"index": np.array([1, wrong])})
            assert session.run({"index": np.array([4, 1])})["y"].tolist() == [16, 2]
            bound()
            assert y.tolist() == [16, 2]
            index[0] = 9
            with pytest.raises(RuntimeFault, match="an index is not in 0 to 4"):
                bound()
            index[0] = 4


def test_memory_limit_is_checked_first(affine: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_MEMORY_LIMIT", "64K")
    with affine.session() as session:
        check(inputs := feeds(100), session.run(inputs))
        with pytest.raises(InputError, match=r"125 KiB of working memory.*limit is 64 KiB.*INGOT_MEMORY_LIMIT"):
            session.run(feeds(2000))


# -- bind -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 2000])
def test_bound_arrays_are_read_and_written_in_place(affine: Artifact, rows: int) -> None:
    with affine.session(threads=2) as session:
        inputs, outputs = feeds(rows), {name: np.zeros((rows, 16), np.float32) for name in ("y", "s")}
        bound = session.bind(inputs, outputs)
        for seed in range(3):
            for name, array in feeds(rows, seed).items():
                inputs[name][...] = array
            assert bound() is None
            check(inputs, outputs)
            check(inputs, session.run(inputs))


def test_bound_functions_outlive_the_session_and_their_arrays(affine: Artifact) -> None:
    session = affine.session(threads=2)
    small = {name: np.zeros((2, 16), np.float32) for name in ("y", "s")}
    large = {name: np.zeros((2000, 16), np.float32) for name in ("y", "s")}
    calls = [session.bind(feeds(2), small), session.bind(feeds(2000), large)]
    session.close()
    with pytest.raises(RuntimeFault, match="closed"):
        session.bind(feeds(2), small)
    del session
    gc.collect()
    for call in calls:
        call()
    check(feeds(2), small)
    check(feeds(2000), large)


def test_sessions_cannot_be_copied(affine: Artifact) -> None:
    with affine.session() as session:
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="a session cannot be copied or pickled"):
                duplicate(session)


@pytest.mark.parametrize("rows", [2, 2000])
def test_bound_functions_can_be_copied_and_taken_apart(affine: Artifact, rows: int) -> None:
    session = affine.session(threads=2)
    inputs, outputs = feeds(rows), {name: np.zeros((rows, 16), np.float32) for name in ("y", "s")}
    bound: Any = session.bind(inputs, outputs)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(bound)
    for arguments, named in (((1,), {}), ((2.5,), {}), ((), {"a": 1})):
        with pytest.raises(TypeError, match="argument"):
            bound(*arguments, **named)
    for duplicate in (copy.copy(bound), copy.deepcopy(bound)):
        assert duplicate is bound
    code, cells = bound.__code__, bound.__closure__
    del bound, duplicate
    session.close()
    gc.collect()
    # Whatever calls the code keeps it mapped.
    types.FunctionType(code, {"_call": _call}, closure=cells)()
    check(inputs, outputs)
    assert session._lanes == 1
    del cells
    gc.collect()
    assert session._lanes == 0


@pytest.mark.parametrize("outputs", ["y", "ys", b"y", 3])
def test_outputs_are_a_list_of_names(affine: Artifact, outputs: Any) -> None:
    with affine.session() as session, pytest.raises(InputError, match="a list of names is needed"):
        session.run(feeds(2), outputs=outputs)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_are_counted(affine_path: Path, threads: Any) -> None:
    with pytest.raises(InputError, match="threads is"):
        Session(affine_path, threads=threads)


@pytest.mark.parametrize("path", [b"m.ingot", "m\0.ingot", 3, None])
def test_paths_are_text(path: Any) -> None:
    with pytest.raises(InputError, match="path of an artifact"):
        Session(path)


def test_arrays_beyond_memory(affine: Artifact) -> None:
    huge = np.broadcast_to(np.float32(1), (1 << 20, 16))
    with affine.session() as session:
        limit = resource.getrlimit(resource.RLIMIT_AS)
        session.run(feeds(2))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (size + (16 << 20), limit[1]))
        try:
            with pytest.raises((RuntimeFault, InputError), match="memory"):
                session.run({"x": huge, "z": huge})
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limit)
        check(feeds(2), session.run(feeds(2)))


def test_what_cannot_be_bound(affine: Artifact) -> None:
    def outputs(**changes: Any) -> dict[str, Any]:
        return {name: np.zeros((2, 16), np.float32) for name in ("y", "s")} | changes

    good = feeds(2)
    locked = np.zeros((2, 16), np.float32)
    locked.flags.writeable = False
    cases: list[tuple[Any, Any, str]] = [
        (good, {"y": outputs()["y"]}, "there is none for s"),
        (good, None, "outputs are given by name"),
        (good, outputs(q=1), "no output 'q'"),
        (good, outputs(y=[0]), "'y' cannot be bound: it is not a writable"),
        (good, outputs(y=locked), "'y' cannot be bound: it is not a writable"),
        (good, outputs(y=np.zeros((2, 16))), "'y' has dtype float64"),
        (good, outputs(y=np.zeros((3, 16), np.float32)), r"shape \[3, 16\], the model gives float32 \[2, 16\]"),
        (good, outputs(y=np.zeros((16, 2), np.float32).T), "'y' cannot be bound: the array is not C-contiguous"),
        (good, outputs(y=good["x"]), "'x' and output 'y' cannot be bound: they share memory"),
        (good | {"x": good["x"].tolist()}, outputs(), "'x' cannot be bound: it is no numpy array"),
        (good | {"x": good["x"].astype(">f4")}, outputs(), "'x' cannot be bound: it is no numpy array"),
        (good | {"x": np.asfortranarray(good["x"])}, outputs(), "'x' cannot be bound: the array is not C-contiguous"),
        ({"x": good["x"]}, outputs(), "no value is given for 'z'"),
    ]
    with affine.session() as session:
        both = np.zeros((3, 16), np.float32)
        cases.append((good, outputs(y=both[:2], s=both[1:]), "'y' and output 's' cannot be bound"))
        for inputs, results, message in cases:
            with pytest.raises(InputError, match=message):
                session.bind(inputs, results)
        session.bind(good | {"z": good["x"]}, outputs())()  # inputs may share memory


# -- loading ----------------------------------------------------------------------------------------------------------


def test_close(affine_path: Path) -> None:
    session = Session(affine_path)
    session.run(feeds(1))
    with session:
        assert "closed" not in repr(session)
    session.close()
    assert "closed" in repr(session)
    with pytest.raises(RuntimeFault, match="the session is closed"):
        session.run(feeds(1))


def mappings(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def test_nothing_stays_mapped(affine_path: Path) -> None:
    gc.collect()
    before = mappings(affine_path)
    for closed in (True, False):
        session = Session(affine_path, threads=2)
        inputs = feeds(2000)
        bound = session.bind(inputs, session.run(inputs))
        assert mappings(affine_path) > before
        if closed:
            session.close()
        del session
        gc.collect()
        bound()
        del bound
        gc.collect()
        assert mappings(affine_path) == before


def change(path: Path, member: str, target: Path) -> Path:
    """A copy of the artifact in which the last byte of a member is another one."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
        with archive.open(member) as file:
            content = file.read()
    data = bytearray(path.read_bytes())
    position = data.find(content, info.header_offset)
    data[position + len(content) - 1] ^= 1
    target.write_bytes(data)
    return target


def test_damage(affine: Artifact, affine_path: Path, tmp_path: Path) -> None:
    changed = change(affine_path, "weights.bin", tmp_path / "weights.ingot")
    Session(changed).close()
    with pytest.raises(ArtifactError, match=r"weights.ingot: member 'weights.bin' is damaged between bytes 0 and 64"):
        Session(changed, verify="full")
    Session(affine_path, verify="full").close()
    member = code_member(affine.manifest.code[0].level)
    with pytest.raises(ArtifactError, match=f"member '{member}' is damaged"):
        Session(change(affine_path, member, tmp_path / "code.ingot"))
    with pytest.raises(ArtifactError, match=r"member 'manifest.json' is damaged"):
        Session(change(affine_path, "manifest.json", tmp_path / "manifest.ingot"))


def test_code_as_a_file_for_debuggers(affine: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_DEBUG_DIR", str(tmp_path))
    with affine.session() as session:
        check(inputs := feeds(3), session.run(inputs))
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("affine-") and file.read_bytes() == next(iter(affine.code.values()))


def test_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Session(tmp_path / "none.ingot")
    (tmp_path / "text.ingot").write_text("text " * 100)
    with pytest.raises(ArtifactError, match=r"text.ingot: not an artifact"):
        Session(tmp_path / "text.ingot")


def test_options(affine_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for threads in (0, -1):
        with pytest.raises(InputError, match="at least 1"):
            Session(affine_path, threads=threads)
    with pytest.raises(InputError, match="verify is 'none'"):
        Session(affine_path, verify="none")  # type: ignore
    monkeypatch.setenv("INGOT_THREADS", "1")
    with Session(affine_path) as session:
        assert session.metadata["threads"] == 1
    monkeypatch.setenv("INGOT_THREADS", "many")
    with pytest.raises(InputError, match="INGOT_THREADS"):
        Session(affine_path)


def with_levels(artifact: Artifact, **levels: tuple[str, ...]) -> Artifact:
    code, (member, digest) = next(iter(artifact.code.values())), next(iter(artifact.manifest.digests.items()))
    rest = {name: each for name, each in artifact.manifest.digests.items() if name != member}
    manifest = replace(
        artifact.manifest,
        code=tuple(Code(level, features) for level, features in levels.items()),
        digests=rest | {code_member(level): digest for level in levels},
    )
    return replace(artifact, manifest=manifest, code=dict.fromkeys(levels, code))


def test_the_best_level_that_runs_here_is_taken(affine: Artifact) -> None:
    features = affine.manifest.code[0].features
    with with_levels(affine, better=("avx9",), good=features, plain=()).session() as session:
        assert session.metadata["level"] == "good"
        check(inputs := feeds(3), session.run(inputs))


def test_processors_that_lack_features(affine: Artifact) -> None:
    with pytest.raises(UnsupportedCpuError, match=r"\(first, second\); second needs avx9: compile .* --target"):
        with_levels(affine, first=("avx9", "avx10", "fma"), second=("avx9",)).session()
    other = "aarch64" if affine.manifest.architecture == "x86-64" else "x86-64"
    foreign = replace(affine, manifest=replace(affine.manifest, architecture=other))
    with pytest.raises(UnsupportedCpuError, match=f"it holds code for {other}"):
        foreign.session()
