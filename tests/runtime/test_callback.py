"""The function that code calls on its way, and loops that it ends."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler import compile
from ingot.runtime import RuntimeFault, Session
from ingot.runtime.callback import Callback

Native = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
FOREVER = 2**62
X = np.array([1, np.nan, -2], np.float32)


def call(callback: Callback, words: int | None = None) -> int:
    return Native(callback.address)(words)


@contextmanager
def handled(handler: Callable[..., Any]) -> Generator[None]:
    """SIGUSR1 is handled so."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


class StoppedError(Exception):
    """What the handler of a signal raises."""


def stop(*_: object) -> None:
    raise StoppedError


def test_steps_are_answered_and_failures_kept() -> None:
    seen: list[int] = []

    def answer(words: int) -> None:
        seen.append(words)
        if words == 7:
            raise ValueError("seven")

    callback = Callback(answer)
    assert call(callback) == 1 and call(callback, 5) == 1 and callback.error is None
    assert call(callback, 7) == 0 and isinstance(callback.error, ValueError)
    assert isinstance(callback.take(), ValueError) and callback.take() is None
    assert call(callback, 9) == 1 and seen == [5, 7, 9]
    for error in (StopIteration, KeyboardInterrupt, SystemExit):

        def fail(words: int, error: type[BaseException] = error) -> None:
            raise error

        callback = Callback(fail)
        assert [call(callback, 1), call(callback), call(callback, 1)] == [0, 1, 0] and isinstance(callback.error, error)


def test_a_step_that_nobody_answers_ends_the_run() -> None:
    callback = Callback()
    assert call(callback) == 1 and call(callback, 1) == 0 and isinstance(callback.error, RuntimeFault)


@functools.cache
def loop(kind: str) -> Any:
    """y is x after n iterations of nothing, of a sine, of loops of three sines, or of the host's work."""
    dtype = TensorProto.STRING if kind == "host" else TensorProto.FLOAT
    names = ("i", TensorProto.INT64), ("going", TensorProto.BOOL)
    before = [helper.make_tensor_value_info(name, each, []) for name, each in names]
    a, b = (helper.make_tensor_value_info(name, dtype, [3]) for name in "ab")
    after = helper.make_tensor_value_info("on", TensorProto.BOOL, [])

    def body(step: Any) -> Any:
        nodes = [helper.make_node("Identity", ["going"], ["on"]), step]
        return helper.make_graph(nodes, "body", [*before, a], [after, b])

    step = helper.make_node("Identity" if kind == "nothing" else "Sin", ["a"], ["b"])
    if kind == "host":
        step = helper.make_node("StringConcat", ["a", "mark"], ["b"])
    if kind == "nested":
        step = helper.make_node("Loop", ["few", "", "a"], ["b"], body=body(step))
    n = helper.make_tensor_value_info("n", TensorProto.INT64, [])
    x, y = (helper.make_tensor_value_info(name, dtype, [3]) for name in "xy")
    few = helper.make_tensor("few", TensorProto.INT64, [], [3])
    mark = numpy_helper.from_array(np.array("", object), "mark")
    node = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body(step))
    graph = helper.make_graph([node], "loop", [n, x], [y], [few, mark])
    return compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def sines(x: Any, count: int) -> Any:
    for _ in range(count):
        x = np.sin(x)
    return x


@contextmanager
def signalled(number: int) -> Generator[None]:
    """The process gets a signal soon."""
    timer = threading.Timer(0.1, os.kill, (os.getpid(), number))
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["nothing", "sines", "nested"])
def test_loops_can_be_interrupted(kind: str, threads: int, tmp_path: Path) -> None:
    path = tmp_path / "loop.ingot"
    loop(kind).save(path)
    with Session(path, threads=threads) as session, handled(stop):
        for runs in range(4):  # the first runs are slow ones, later ones `ingot_call`
            with signalled(signal.SIGUSR1), pytest.raises(StoppedError):
                session.run({"n": FOREVER, "x": X} if runs % 2 else {"n": np.array(FOREVER), "x": X})
            for _ in range(2):
                y = session.run({"n": np.array(2), "x": X})["y"]
                wanted = X if kind == "nothing" else sines(X, 6 if kind == "nested" else 2)
                np.testing.assert_allclose(y, wanted, rtol=1e-6)
        out = np.zeros(3, np.float32)
        count = np.array(FOREVER)
        bound = session.bind({"n": count, "x": X}, {"y": out})
        with signalled(signal.SIGUSR1), pytest.raises(StoppedError):
            bound()
        count[...] = 0
        bound()
        np.testing.assert_array_equal(out, X)
        with signalled(signal.SIGUSR1), pytest.raises(StoppedError):
            session.profile({"n": FOREVER, "x": X})


def test_ctrl_c_ends_a_run_and_handlers_that_return_do_not(tmp_path: Path) -> None:
    path = tmp_path / "loop.ingot"
    loop("sines").save(path)
    seen: list[int] = []
    with Session(path) as session, handled(lambda number, _: seen.append(number)):
        with signalled(signal.SIGUSR1), signalled(signal.SIGINT), pytest.raises(KeyboardInterrupt):
            session.run({"n": FOREVER, "x": X})
        assert seen == [signal.SIGUSR1]
        np.testing.assert_array_equal(session.run({"n": 0, "x": X})["y"], X)


def test_interrupts_around_host_steps_are_not_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "loop.ingot"
    loop("host").save(path)
    words = np.array(["a", "", "b"], object)
    with Session(path) as session, handled(stop):
        for _ in range(5):
            with signalled(signal.SIGUSR1), pytest.raises((StoppedError, RuntimeFault)) as caught:
                session.run({"n": FOREVER, "x": words})
            assert isinstance(caught.value, StoppedError) or isinstance(caught.value.__cause__, StoppedError)
        assert session.run({"n": 2, "x": words})["y"].tolist() == words.tolist()
    assert "ignored" not in capfd.readouterr().err
