"""Compiling with the cache: the same artifact, made once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler import Artifact, Graph, ModelError, compile, default_pipeline, load_onnx
from ingot.compiler.api import Options
from ingot.compiler.cache import CacheWarning, Store
from ingot.compiler.cache.fingerprint import Fingerprint
from ingot.compiler.passes.default import REGISTRY
from ingot.compiler.pipeline import Pipeline

WEIGHTS = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)


def model_proto(weights: np.ndarray = WEIGHTS) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "layer.onnx"
    onnx.save(model_proto(), path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty cache that compilations use. Sources count as unchanged, though somebody may just have edited them."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("INGOT_CACHE", str(folder))
    monkeypatch.delenv("INGOT_CACHE_SIZE", raising=False)
    monkeypatch.setattr(Fingerprint, "is_loaded", lambda self: True)
    return Store(folder, 1 << 30, pytest.fail)


def said_of(model: object, **options: object) -> tuple[Artifact, list[str]]:
    """The artifact, and what was done."""
    said: list[str] = []
    artifact = compile(model, progress=said.append, **options)  # type: ignore[arg-type]
    return artifact, [line.partition(":")[0] for line in said]


def bytes_of(artifact: Artifact, folder: Path) -> bytes:
    artifact.save(folder / "saved.ingot")
    assert (folder / "saved.ingot").stat().st_size == artifact.size
    return (folder / "saved.ingot").read_bytes()


def check_runs(artifact: Artifact) -> None:
    x = np.linspace(-2, 3, 12, dtype=np.float32).reshape(3, 4)
    with artifact.session(threads=1) as session:
        y = session.run({"x": x})["y"]
    np.testing.assert_allclose(y, np.maximum(x.astype(np.float64) @ WEIGHTS, 0), rtol=1e-5, atol=1e-6)


def test_the_second_time_nothing_is_done(model: Path, cache: Store, tmp_path: Path) -> None:
    plain = bytes_of(compile(model, cache=False), tmp_path)
    assert cache.holdings().size == 0
    first, did = said_of(model)
    assert "generate" in did
    second, did = said_of(model)
    assert did == ["from the cache"]
    assert bytes_of(first, tmp_path) == bytes_of(second, tmp_path) == plain
    check_runs(first)
    check_runs(second)
    assert second.manifest == first.manifest and second.code == first.code and second.costs == first.costs


def test_what_the_cache_answers_needs_no_compiler(model: Path, cache: Store, tmp_path: Path) -> None:
    """Importing what compiles takes longer than all else that such an answer takes."""
    plain = bytes_of(compile(model, shapes={"x": (2, 4)}, target="native"), tmp_path)
    lines = """
import sys
from ingot.compiler import compile
compile(sys.argv[1], shapes={"x": (2, 4)}, target="native").save(sys.argv[2])
print(*sys.modules)
"""
    arguments = [sys.executable, "-c", lines, str(model), str(tmp_path / "again.ingot")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert (tmp_path / "again.ingot").read_bytes() == plain
    loaded = {name for name in done.stdout.split() if not name.startswith("ingot.runtime")}
    parts = {name.removeprefix("ingot.compiler.").partition(".")[0] for name in loaded}
    assert not parts & {"driver", "ops", "passes", "pipeline", "rewrite", "tuning", "onnx", "google", "llvmlite"}


def test_kernels_alone(model: Path, cache: Store, tmp_path: Path) -> None:
    """A graph has no bytes to make a key of; its kernels have."""
    plain = bytes_of(compile(load_onnx(model), cache=False), tmp_path)
    for compiled in (True, False):
        artifact, did = said_of(load_onnx(model))
        assert "generate" in did and ("kernel 1 of 1" in did) is compiled
        assert bytes_of(artifact, tmp_path) == plain
        # The kernel, the function that launches it and what no program changes.
        assert (len(cache.holdings().objects), len(cache.holdings().programs)) == (3, 0)


@pytest.mark.parametrize("what", ["objects", "programs"])
def test_damaged_entries_are_made_again(model: Path, cache: Store, tmp_path: Path, what: str) -> None:
    plain = bytes_of(compile(model), tmp_path)
    held = cache.holdings()
    for entry in getattr(held, what):
        data = bytearray(entry.path.read_bytes())
        middle = data.find(WEIGHTS[2].tobytes()) if what == "programs" else len(data) // 2
        data[middle] ^= 1
        entry.path.write_bytes(data)
    if what == "objects":
        for entry in held.programs:
            entry.path.unlink()
    artifact, did = said_of(model)
    assert "generate" in did
    assert bytes_of(artifact, tmp_path) == plain
    assert said_of(model)[1] == ["from the cache"]


@pytest.mark.parametrize("content", [b"", b"PK\3\4", bytes(1000)])
def test_a_file_that_is_no_artifact(model: Path, cache: Store, tmp_path: Path, content: bytes) -> None:
    plain = bytes_of(compile(model), tmp_path)
    cache.holdings().programs[0].path.write_bytes(content)
    assert bytes_of(compile(model), tmp_path) == plain


def test_every_option_makes_another_program(model: Path, cache: Store, tmp_path: Path) -> None:
    requests: list[dict[str, object]] = [
        {},
        {"target": "x86-64-v3"},
        {"target": "aarch64"},
        {"shapes": {"x": (2, 4)}},
        {"shapes": {"x": ("rows", 4)}},
        {"ranges": {"n": (1, 8)}},
        {"ranges": {"n": (1, 9)}},
        {"specialise": [{"n": 1}]},
        {"specialise": [{"n": 1}], "general": False},
        {"numerics": "strict"},
        {"requantise": "tosa"},
        {"denormals": "flush"},
        {"memory": "small"},
        {"weights": "keep"},
        {"checked": True},
        {"pipeline": default_pipeline().without("fuse")},
        {"name": "other"},
    ]
    made = [said_of(model, **options) for options in requests]
    found = [said_of(model, **options) for options in requests]
    for options, (first, did), (second, did_then) in zip(requests, made, found, strict=True):
        assert "generate" in did, options
        assert did_then == ["from the cache"], options
        assert bytes_of(first, tmp_path) == bytes_of(second, tmp_path)
    assert len({bytes_of(artifact, tmp_path) for artifact, _ in found}) == len(requests)
    known = {*(key for options in requests for key in options), "preprocess", "postprocess", "tuning"} - {"target"}
    known |= {"custom", "verify", "print_after", "dump", "repro", "stop_at", "tune"}  # programs are not looked for
    known |= {"jobs", "progress", "cache"}  # these change no artifact
    known |= {"sparse"}  # changes none without zeros; the next test has some
    assert Options.__annotations__.keys() == known, "a new option belongs into the key, or here"


def test_whether_zeros_are_skipped_makes_another_program(cache: Store, tmp_path: Path) -> None:
    weights = np.zeros((256, 256), np.float32)
    weights[::16] = 1
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    pruned (float[128, 256] x) => (float[128, 256] y) { y = MatMul(x, w) }
    """
    sparse = onnx.parser.parse_model(text)
    sparse.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    path = tmp_path / "pruned.onnx"
    onnx.save(sparse, path)
    made = {choice: said_of(path, sparse=choice) for choice in ("on", "off")}
    found = {choice: said_of(path, sparse=choice) for choice in ("on", "off")}
    assert all(did == ["from the cache"] for _, did in found.values())
    parts = {choice: bytes_of(artifact, tmp_path) for choice, (artifact, _) in found.items()}
    assert parts["on"] != parts["off"]
    assert parts == {choice: bytes_of(artifact, tmp_path) for choice, (artifact, _) in made.items()}


def test_what_is_watched_is_done(model: Path, cache: Store, tmp_path: Path) -> None:
    compile(model)
    printed: list[Graph] = []

    def own(graph: Graph) -> Graph:
        printed.append(graph)
        return graph

    for options in (
        {"verify": True},
        {"dump": tmp_path / "dump"},
        {"stop_at": 100},
        {"print_after": ["fuse"]},
        {"pipeline": default_pipeline().after("simplify", own)},
    ):
        for _ in range(2):
            assert "passes" in said_of(model, **options)[1], options
    assert len(printed) == 2
    assert "import" in said_of(model_proto())[1]


def test_a_pass_that_passes_for_one_of_ours_is_run(model: Path, cache: Store) -> None:
    compile(model)
    calls: list[str] = []

    def fuse(graph: Graph) -> Graph:
        calls.append("function")
        return graph

    class Lookalike:
        name = "fuse"

        def __call__(self, graph: Graph) -> Graph:
            calls.append("object")
            return graph

        def __eq__(self, other: object) -> bool:
            return getattr(other, "name", None) == self.name

        def __hash__(self) -> int:
            return 0

    for own in (fuse, Lookalike()):
        pipeline = default_pipeline().replace("fuse", own)
        assert str(pipeline) == str(default_pipeline())
        for _ in range(2):
            assert "passes" in said_of(model, pipeline=pipeline)[1]
    assert calls == ["function", "function", "object", "object"]
    assert said_of(model)[1] == ["from the cache"]
    assert said_of(model, pipeline=Pipeline.parse(str(default_pipeline()), REGISTRY))[1] == ["from the cache"]


def test_other_weights_are_another_program(model: Path, cache: Store) -> None:
    compile(model)
    onnx.save(model_proto(WEIGHTS + 1), model)
    assert "generate" in said_of(model)[1]
    assert said_of(model.read_bytes())[1] == ["from the cache"]  # wherever the bytes are
    held = cache.holdings()
    assert (len(held.objects), len(held.programs)) == (3, 2)  # the code is the same


def test_external_data_is_content(cache: Store, tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    onnx.save(model_proto(), path, save_as_external_data=True, location="large.bin", size_threshold=0)
    check_runs(compile(path))
    assert said_of(path)[1] == ["from the cache"]
    data = bytearray((tmp_path / "large.bin").read_bytes())
    data[:4] = np.float32(7).tobytes()
    (tmp_path / "large.bin").write_bytes(data)
    artifact, did = said_of(path)
    assert "generate" in did
    with artifact.session(threads=1) as session:
        assert session.run({"x": np.eye(4, dtype=np.float32)})["y"][0, 0] == 7
    (tmp_path / "large.bin").unlink()
    with pytest.raises(ModelError, match=r"large\.bin"):
        compile(path)


def test_models_that_are_none(cache: Store, tmp_path: Path) -> None:
    for content in (b"", b"no model", model_proto().SerializeToString()[:-30]):
        (tmp_path / "bad.onnx").write_bytes(content)
        for _ in range(2):
            with pytest.raises(ModelError):
                compile(tmp_path / "bad.onnx")
    with pytest.raises(ModelError):
        compile(tmp_path / "none.onnx")
    assert cache.holdings().size == 0


def test_what_is_taken_out_stays_usable(model: Path, cache: Store, tmp_path: Path) -> None:
    """The cache is cleared while an artifact from it is held."""
    plain = bytes_of(compile(model), tmp_path)
    artifact = compile(model)
    cache.clear()
    check_runs(artifact)
    assert bytes_of(artifact, tmp_path) == plain


def test_a_saved_artifact_is_a_file_of_its_own(model: Path, cache: Store, tmp_path: Path) -> None:
    compile(model)
    artifact, saved = compile(model), tmp_path / "mine.ingot"
    artifact.save(saved)
    saved.write_bytes(b"changed")
    assert said_of(model)[1] == ["from the cache"]
    check_runs(compile(model))
    target = tmp_path / "target"
    target.write_bytes(b"old")
    (tmp_path / "link").symlink_to(target)
    artifact.save(tmp_path / "link")
    assert target.read_bytes() == bytes_of(artifact, tmp_path)
    with pytest.raises(IsADirectoryError):
        artifact.save(tmp_path)


def test_a_folder_that_cannot_be_written(model: Path, cache: Store, tmp_path: Path) -> None:
    cache.folder.write_bytes(b"")
    with pytest.warns(CacheWarning, match="goes on without it") as warned:
        artifact = compile(model)
    assert len(warned) == 1
    check_runs(artifact)


def test_a_limit_below_one_program(model: Path, cache: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_CACHE_SIZE", "9K")
    check_runs(compile(model))
    held = cache.holdings()
    assert not held.programs and held.size <= 9 << 10


def test_code_that_was_edited_is_not_kept(model: Path, cache: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fingerprint, "is_loaded", lambda self: False)
    check_runs(compile(model))
    assert cache.holdings().size == 0


def test_processes_at_once(model: Path, cache: Store, tmp_path: Path) -> None:
    """Several processes compile the same model into one empty cache: all make the same artifact."""
    line = "import sys; from ingot.compiler import compile; compile(sys.argv[1], jobs=1).save(sys.argv[2])"
    saved = [tmp_path / f"{number}.ingot" for number in range(3)]
    started = [subprocess.Popen([sys.executable, "-c", line, str(model), str(path)]) for path in saved]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert {path.read_bytes() for path in saved} == {bytes_of(compile(model, cache=False), tmp_path)}


def test_permissions_of_a_saved_artifact(model: Path, cache: Store, tmp_path: Path) -> None:
    compile(model, cache=False).save(tmp_path / "a.ingot")
    compile(model).save(tmp_path / "b.ingot")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.ingot", "b.ingot")}
    assert len(modes) == 1


def test_no_warning_without_trouble(model: Path, cache: Store) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(model)
        compile(model)
    assert sorted(os.listdir(cache.folder)) == ["growth", "objects", "programs"]
