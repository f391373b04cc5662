"""The native entry for Python: what it takes, what it declines, and that it leaves no trace."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.conftest import build

from ingot.compiler.artifact import Artifact
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.loops import Axis, Buffer, Call, For, Kernel, Load, Store
from ingot.compiler.ir.program import Argument, Launch, Program, Storage
from ingot.compiler.ir.types import Shape, TensorType
from ingot.runtime import InputError, RuntimeFault, Session, fastcall
from ingot.runtime.dtypes import DType, bf16, boolean, f16, f32, f64, i64, u8
from ingot.runtime.manifest import CALL_SYMBOL

Arrays = dict[str, NDArray[Any]]


def feeds(rows: int, seed: int = 0) -> Arrays:
    source = np.random.default_rng(seed)
    return {name: source.standard_normal((rows, 16)).astype(np.float32) for name in ("x", "z")}


def check(inputs: Arrays, results: Arrays) -> None:
    scaled = inputs["x"].astype(np.float64) * np.arange(16)
    assert list(results) == ["y", "s"]
    np.testing.assert_allclose(results["y"], scaled + inputs["z"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(results["s"], scaled * inputs["z"], rtol=1e-6, atol=1e-6)


def warm(session: Session, inputs: Arrays) -> fastcall.Call:
    """The call that two runs with the same shapes leave behind, or a few more where some were interrupted."""
    session.run(inputs)
    for _ in range(fastcall.SLOW_RUNS):
        session.run(inputs)
        frame = session._idle[-1].current
        if frame is None or frame.call is not None:
            break
    return session._idle[-1].call


def is_native(call: fastcall.Call | None) -> bool:
    return type(call).__name__ == "builtin_function_or_method"


def without_entry(artifact: Artifact) -> Artifact:
    """The artifact as a compiler that knows no entry for Python would make it."""
    ((level, code),) = artifact.code.items()
    code = code.replace(b"\0" + CALL_SYMBOL.encode() + b"\0", b"\0ingot_none\0")
    ((member, digest),) = ((name, each) for name, each in artifact.manifest.digests.items() if name.startswith("code/"))
    digest = replace(digest, chunks=(hashlib.sha256(code).hexdigest(),))
    manifest = replace(artifact.manifest, digests={**artifact.manifest.digests, member: digest})
    return replace(artifact, manifest=manifest, code={level: code})


def copy_program(dtype: DType, shape: Shape) -> Program:
    """y = x, element by element."""
    made = TensorType(dtype, shape)
    x, y = Storage("x", "input", dtype, made.size, made), Storage("y", "output", dtype, made.size, made)
    body = (Store("y", symbol("i"), Load("x", symbol("i"))),)
    buffers = (Buffer("x", dtype), Buffer("y", dtype, "write"))
    kernel = Kernel("copy", buffers, ("count",), (Axis("i", symbol("count"), 1 << 20),), body)
    return Program("copy", (x, y), (Launch(kernel, (Argument(x), Argument(y)), (made.size,)),))


def long_program(steps: int) -> Program:
    """y[256, 64] = x + x + ... in `steps` launches of one chunk each."""
    made = TensorType(f32, (256, 64))
    x, y = Storage("x", "input", f32, made.size, made), Storage("y", "output", f32, made.size, made)
    at = symbol("i") * 64 + symbol("j")
    add = Store("c", at, Call("add", (Load("a", at), Load("b", at)), f32))
    buffers = (Buffer("a", f32), Buffer("b", f32), Buffer("c", f32, "write"))
    kernel = Kernel("add", buffers, ("rows",), (Axis("i", symbol("rows"), 1024),), (For("j", 64, (add,), "vector"),))
    launches = [Launch(kernel, (Argument(x), Argument(x), Argument(y)), (256,))]
    launches += [Launch(kernel, (Argument(x), Argument(y), Argument(y)), (256,))] * (steps - 1)
    return Program("long", (x, y), tuple(launches))


@pytest.fixture
def session(affine: Artifact) -> Iterator[Session]:
    with affine.session(threads=1) as opened:
        yield opened


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 1024])
def test_results(session: Session, rows: int) -> None:
    call = warm(session, feeds(rows))
    assert is_native(call)
    for seed in range(3):
        inputs = feeds(rows, seed)
        results = call(inputs)
        assert results is not None
        check(inputs, results)
        check(inputs, session.run(inputs))
        for array in results.values():
            assert array.flags.owndata and array.flags.writeable and array.dtype == np.float32
    x, z = np.full((rows, 16), np.inf, np.float32), np.full((rows, 16), np.nan, np.float32)
    assert np.isnan(session.run({"x": x, "z": z})["y"]).all()


def test_large_arrays_take_the_other_way(session: Session) -> None:
    inputs = feeds(2000)
    assert warm(session, inputs) is fastcall.decline
    check(inputs, session.run(inputs))


@pytest.mark.parametrize("limit", [0, 1 << 60])
def test_several_chunks(affine: Artifact, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """A session of one thread does them in the call, one of two only when there is little to do."""
    monkeypatch.setattr(fastcall, "ALONE_NS", limit)
    for threads in (1, 2):
        with affine.session(threads=threads) as session:
            many = session.metadata["threads"] > 1
            for rows in (5, 40, 1024):
                assert is_native(warm(session, feeds(rows))) is (limit > 0 or not many)
                for seed in range(3):
                    inputs = feeds(rows, seed)
                    check(inputs, session.run(inputs))


def test_shapes_in_turn(session: Session) -> None:
    for rows in (3000, 1, 1, 2, 2, 1, 2, 3000, 1, 1, 4, 0, 0):
        check(inputs := feeds(rows, rows), session.run(inputs))
    calls = {id(frame.call) for frame in session._idle[-1].frames.values() if frame.call is not None}
    assert len(calls) == 3  # each shape that came twice in a row keeps its own


@pytest.mark.parametrize("dtype", [f64, f32, f16, bf16, i64, u8, boolean], ids=repr)
@pytest.mark.parametrize("shape", [(), (7,), (1, 3, 5), (2, 0, 3)], ids=str)
def test_element_types_and_ranks(dtype: DType, shape: tuple[int, ...]) -> None:
    if dtype is bf16:
        pytest.importorskip("ml_dtypes")
    with build(copy_program(dtype, shape)).session() as session:
        x = np.random.default_rng(0).integers(0, 2, shape).astype(session.inputs[0].dtype)
        call = warm(session, {"x": x})
        assert is_native(call)
        results = call({"x": x})
        assert results is not None and results["y"].dtype == x.dtype and results["y"].shape == shape
        assert results["y"].tobytes() == x.tobytes() and results["y"] is not x


class Named(dict[str, Any]):
    pass


class Counted(np.ndarray):
    pass


class Hostile:
    """Looks like the name "x" until it is compared."""

    def __hash__(self) -> int:
        return hash("x")

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


def test_what_fits_is_taken(session: Session) -> None:
    inputs = feeds(3)
    call, x = warm(session, inputs), inputs["x"]
    locked = x.copy()
    locked.flags.writeable = False
    raw = bytearray(x.nbytes + 1)
    unaligned = np.frombuffer(raw, np.float32, count=x.size, offset=1).reshape(x.shape)
    unaligned[...] = x
    odd = np.concatenate([x, x])[3:]
    reordered = {"z": inputs["z"], "x": x}
    for each in ({**inputs, "x": locked}, {**inputs, "x": unaligned}, {**inputs, "x": odd}, reordered):
        results = call(each)
        assert results is not None
        check(inputs, results)


def test_what_does_not_fit_is_declined(session: Session) -> None:
    inputs = feeds(3)
    call, x, z = warm(session, inputs), inputs["x"], inputs["z"]
    wide = np.repeat(x, 2, axis=1)
    same = {  # answered by the slow path
        "strides": wide[:, ::2],
        "fortran": np.asfortranarray(x),
        "big-endian": x.astype(">f4"),
        "subclass": x.view(Counted),
        "own dtype object": x.view(np.dtype("<f4", metadata={"own": 1})),
        "list": x.tolist(),
        "masked": np.ma.masked_array(x),
    }
    for name, array in same.items():
        assert call({"x": array, "z": z}) is None, name
        check(inputs, session.run({"x": array, "z": z}))
    for mapping in (Named(inputs), OrderedDict(inputs), MappingProxyType(inputs)):
        assert call(mapping) is None
        check(inputs, session.run(mapping))
    more = feeds(2)
    assert call(more) is None
    check(more, session.run(more))


WRONG: dict[str, Any] = {
    "dtype": {"x": np.ones((3, 16), "f8")},
    "size of the dtype": {"x": np.ones((3, 16), "i4")},
    "rank": {"x": np.ones((1, 3, 16), "f4")},
    "flat": {"x": np.ones(48, "f4")},
    "scalar": {"x": np.float32(1)},
    "shape": {"x": np.ones((16, 3), "f4")},
    "rows": {"z": np.ones((4, 16), "f4")},
    "None": {"x": None},
    "text": {"x": "x"},
    "object": {"x": np.full((3, 16), None)},
    "unknown": {"q": np.ones((3, 16), "f4")},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_errors_are_those_of_the_slow_path(
    session: Session, affine: Artifact, monkeypatch: pytest.MonkeyPatch, change: Arrays
) -> None:
    call = warm(session, feeds(3))
    monkeypatch.setenv("INGOT_FASTCALL", "0")
    wrong = {**feeds(3), **change}
    assert call(wrong) is None
    with affine.session(threads=1) as plain, pytest.raises(InputError) as expected:
        plain.run(wrong)
    for _ in range(2):
        with pytest.raises(InputError) as found:
            session.run(wrong)
        assert str(found.value) == str(expected.value)
    check(inputs := feeds(3), session.run(inputs))


@pytest.mark.parametrize("wrong", [None, 3, "x", [], (), {}, {"x": None}], ids=repr)
def test_things_that_are_no_inputs(session: Session, wrong: Any) -> None:
    call = warm(session, feeds(3))
    assert call(wrong) is None
    with pytest.raises(InputError):
        session.run(wrong)


def test_keys_that_raise(session: Session) -> None:
    inputs = feeds(3)
    call = warm(session, inputs)
    hostile: Any = {Hostile(): inputs["x"], "z": inputs["z"]}
    assert call(hostile) is None
    with pytest.raises(ZeroDivisionError):
        session.run(hostile)
    check(inputs, session.run(inputs))


def test_exceptions_while_results_are_made(session: Session) -> None:
    inputs = feeds(3)
    warm(session, inputs)
    (frame,) = session._idle[-1].frames.values()
    made: list[Any] = []

    def copy() -> NDArray[Any]:
        if len(made) == 2:
            raise MemoryError("full")
        made.append(None)
        return np.zeros((3, 16), np.float32)

    first = frame.copies[0]
    frame.call, frame.copies = None, (first, ("s", copy))
    session._call = None
    np.copyto(frame.arena.view(0, np.dtype(np.uint8), (frame.arena.size,)), 0)  # results are zeros, as those of `copy`
    address = session._library.call
    assert address is not None
    call = fastcall.make_call(frame, address, session._native, alone=True, took=0)
    assert call is not None and is_native(call)
    before = sys.getrefcount(first[0]), sys.getrefcount(first[1])
    for _ in range(10):
        with pytest.raises(MemoryError, match="full"):
            call(inputs)
    assert before == (sys.getrefcount(first[0]), sys.getrefcount(first[1]))


def test_faults_carry_the_models_message(lookup: Artifact) -> None:
    with lookup.session() as session:
        good = {"index": np.array([4, 1])}
        call = warm(session, good)
        assert is_native(call)
        for wrong in (-1, 5, 2**40):
            bad = {"index": np.array([1, wrong])}
            assert call(bad) is None
            assert call(good) is not None  # the fault is not remembered
            with pytest.raises(RuntimeFault, match="an index is not in 0 to 4"):
                session.run(bad)
            assert session.run(good)["y"].tolist() == [16, 2]


def test_no_references_are_lost(session: Session) -> None:
    inputs = feeds(3)
    call = warm(session, inputs)
    (frame,) = session._idle[-1].frames.values()
    declined = {**inputs, "x": np.ones((3, 16))}
    watched: list[Any] = [inputs, *inputs.values(), declined, *declined.values(), call, call.__self__]  # type: ignore
    watched += [each for copies in frame.copies for each in copies]
    immortal = [*(take[0] for take in frame.takes), np.dtype(np.float32), np.ndarray, dict, None]

    def counts(objects: list[Any]) -> list[int]:
        return [sys.getrefcount(each) for each in objects]

    gc.collect()
    before, loose, blocks = counts(watched), counts(immortal), sys.getallocatedblocks()
    for _ in range(100_000):
        session.run(inputs)
    for _ in range(100_000):
        call(declined)
    gc.collect()
    assert counts(watched) == before
    # Others may take and drop references to these meanwhile.
    assert all(abs(after - count) < 1000 for after, count in zip(counts(immortal), loose, strict=True))
    assert sys.getallocatedblocks() - blocks < 1000


def test_functions_die_with_their_session(affine: Artifact) -> None:
    session = affine.session(threads=1)
    found = weakref.ref(warm(session, feeds(2)))
    session.close()
    gc.collect()
    assert found() is None
    with pytest.raises(RuntimeFault, match="closed"):
        session.run(feeds(2))


@pytest.mark.parametrize("releases", [False, True])
def test_threads(affine: Artifact, monkeypatch: pytest.MonkeyPatch, releases: bool) -> None:
    monkeypatch.setattr(fastcall, "RELEASE_NS", -1 if releases else 1 << 60)
    errors: list[BaseException] = []
    session = affine.session(threads=1)

    def work(seed: int) -> None:
        try:
            for round in range(300):
                inputs = feeds(1 + (seed + round // 100) % 4, seed)
                for _ in range(3):
                    check(inputs, session.run(inputs))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    # A lane that was opened late may have seen each shape but once: two more runs, and none is left without a function.
    lanes = list(session._idle)
    for lane in lanes:
        session._idle[:] = [lane]
        assert is_native(warm(session, feeds(2)))
    session.close()


def test_closing_while_others_run(affine: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastcall, "RELEASE_NS", -1)
    for _ in range(20):
        session, faults = affine.session(threads=1), list[str]()
        running = threading.Barrier(4)

        def work(session: Session = session, faults: list[str] = faults, running: Any = running) -> None:
            inputs = feeds(2)
            warm(session, inputs)
            running.wait()
            try:
                while True:
                    check(inputs, session.run(inputs))
            except RuntimeFault as error:
                faults.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        running.wait()
        session.close()
        for thread in threads:
            thread.join()
        assert faults == ["the session is closed"] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_goes_on(affine_path: Path) -> None:
    script = """
import os, sys, numpy as np
from ingot.runtime import Session
session = Session(sys.argv[1], threads=1)
inputs = {name: np.ones((2, 16), np.float32) for name in "xz"}
for _ in range(3):
    expected = session.run(inputs)["y"]
child = os.fork()
for _ in range(100):
    assert (session.run(inputs)["y"] == expected).all()
assert type(session._idle[-1].call).__name__ == "builtin_function_or_method"
if child:
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script, affine_path], check=True, timeout=60)


def test_exit_while_a_daemon_thread_runs(tmp_path: Path) -> None:
    build(long_program(20)).save(tmp_path / "long.ingot")
    script = """
import sys, threading, numpy as np
from ingot.runtime import Session
session = Session(sys.argv[1], threads=1)
inputs = {"x": np.ones((256, 64), np.float32)}
for _ in range(3):
    assert (session.run(inputs)["y"] == 21).all()
started = threading.Event()
def work():
    while True:
        session.run(inputs)
        started.set()
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
started.wait()
"""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "long.ingot"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 and not done.stderr


def test_long_runs_release_the_lock() -> None:
    with build(long_program(20)).session(threads=1) as session:
        inputs = {"x": np.ones((256, 64), np.float32)}
        context: Any = warm(session, inputs).__self__  # type: ignore
        assert context[fastcall.HEADER.index("releases")] == 1
        assert (session.run(inputs)["y"] == 21).all()


def test_a_run_that_takes_long_is_not_repeated(affine: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastcall, "WORTH_NS", 0)
    runs: list[int] = []
    with affine.session(threads=1) as session:
        native = session._native
        monkeypatch.setattr(session, "_native", lambda *arguments: (runs.append(1), native(*arguments))[1])
        inputs = feeds(3)
        assert warm(session, inputs) is fastcall.decline and len(runs) == 1 + fastcall.SLOW_RUNS
        check(inputs, session.run(inputs))


def test_switched_off(affine: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, native in (("0", False), ("1", True), ("", True)):
        monkeypatch.setenv("INGOT_FASTCALL", text)
        with affine.session(threads=1) as session:
            inputs = feeds(3)
            assert is_native(warm(session, inputs)) is native
            check(inputs, session.run(inputs))
    monkeypatch.setenv("INGOT_FASTCALL", "no")
    with pytest.raises(InputError, match="INGOT_FASTCALL is 'no'; 0 turns it off"):
        affine.session()


def test_artifacts_without_the_entry(affine: Artifact) -> None:
    with without_entry(affine).session(threads=1) as session:
        assert session._library.call is None
        inputs = feeds(3)
        assert warm(session, inputs) is fastcall.decline
        check(inputs, session.run(inputs))


def test_poisoned_memory_shows(affine: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_POISON", "1")
    with affine.session(threads=1) as session:
        assert warm(session, feeds(3)) is fastcall.decline


def test_calls_that_give_other_results_are_not_used(session: Session, lookup: Artifact) -> None:
    """The first call is compared with the run before it."""
    inputs = feeds(3)
    warm(session, inputs)
    (frame,) = session._idle[-1].frames.values()
    with lookup.session() as other:
        address = other._library.call  # its ingot_run is another model's
        assert address is not None
        index = {"index": np.array([4, 1])}
        warm(other, index)
        (strange,) = other._idle[-1].frames.values()
        view = strange.takes[0][3]
        assert view is not None
        assert is_native(fastcall.make_call(strange, address, other._native, alone=True, took=0))
        strange.names = ("renamed",)
        assert fastcall.make_call(strange, address, other._native, alone=True, took=0) is fastcall.decline
        view[0] = 7  # a fault
        assert fastcall.make_call(strange, address, other._native, alone=True, took=0) is fastcall.decline
    assert frame.call is not fastcall.decline


def test_layouts_that_differ_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastcall._is_layout_as_expected()
    for name in ("ARRAY_DATA", "ARRAY_RANK", "ARRAY_EXTENTS", "ARRAY_DTYPE", "ARRAY_FLAGS", "OBJECT_TYPE"):
        right = getattr(fastcall, name)
        # 8 further lies something else: strides, base, a pointer of an array that is not contiguous.
        for wrong in (right - 8, right + 8):
            if name == "ARRAY_EXTENTS" and wrong < right:
                continue  # the rank, which is no address to look at
            with monkeypatch.context() as changed:
                changed.setattr(fastcall, name, wrong)
                assert not fastcall._is_layout_as_expected(), (name, wrong)
