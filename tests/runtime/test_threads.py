from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.artifact import Artifact
from ingot.runtime import RuntimeFault, Session
from ingot.runtime.environment import Environment
from ingot.runtime.library import Library
from ingot.runtime.threads import Team, Threads

ROWS = (1, 3, 40, 1030, 2500)


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.fixture
def library(affine_path: Path) -> Iterator[Library]:
    opened = Library(affine_path, verify="code", environment=Environment())
    yield opened
    opened.close()


def test_a_team_is_there_only_while_needed(library: Library) -> None:
    before = native_threads()
    threads = Threads(library.team_functions, 4)
    assert native_threads() == before
    team = threads.lead()
    assert team is not None and native_threads() == before + 3
    assert threads.lead() is None  # one leader at a time
    threads.release()
    assert threads.lead() is team
    threads.release()
    threads.close()
    assert native_threads() == before
    assert threads.lead() is None
    threads.close()


def test_one_thread_is_no_team(library: Library) -> None:
    before = native_threads()
    threads = Threads(library.team_functions, 1)
    assert threads.lead() is None and native_threads() == before
    threads.close()


def test_teams_start_and_stop_many_times(library: Library) -> None:
    before = native_threads()
    for round in range(50):
        team = Team(library.team_functions, round % 5)
        assert native_threads() == before + round % 5
        team.close()
        team.close()
    assert native_threads() == before


def test_small_runs_start_no_threads(affine: Artifact) -> None:
    before = native_threads()
    with affine.session() as session:
        session.run(feeds(4))
        assert native_threads() == before
        session.run(feeds(5))
        assert native_threads() == before + session.metadata["threads"] - 1
    assert native_threads() == before


def feeds(rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    source = np.random.default_rng([rows, seed])
    return {name: source.standard_normal((rows, 16)).astype(np.float32) for name in ("x", "z")}


def test_results_are_the_same_bits_for_every_number_of_threads(affine: Artifact) -> None:
    with affine.session(threads=1) as alone:
        expected = {rows: alone.run(feeds(rows)) for rows in ROWS}
    with affine.session(threads=2) as session:
        # More threads than processors too: chunks do not depend on who takes them.
        session._threads = Threads(session._library.team_functions, 5)
        for _ in range(20):
            for rows in ROWS:
                results = session.run(feeds(rows))
                assert all((results[name] == expected[rows][name]).all() for name in results)
        session._threads.close()


def test_threads_share_a_session(affine: Artifact) -> None:
    session = affine.session(threads=2)
    expected = {(rows, seed): session.run(feeds(rows, seed)) for rows in ROWS for seed in range(3)}
    problems: list[object] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        source = np.random.default_rng(number)
        own = {name: np.empty((40, 16), np.float32) for name in ("y", "s")}
        bound = session.bind(feeds(40, number % 3), own)
        start.wait()
        try:
            for _ in range(150):
                rows, seed = int(source.choice(ROWS)), int(source.integers(3))
                results = session.run(feeds(rows, seed))
                if any((results[name] != expected[rows, seed][name]).any() for name in results):
                    problems.append((number, rows, seed))
                bound()
                if any((own[name] != expected[40, number % 3][name]).any() for name in own):
                    problems.append((number, "bound"))
        except BaseException as error:
            problems.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not problems
    assert 1 <= len(session._idle) <= 8
    session.close()


def test_close_waits_for_runs_under_way(affine_path: Path) -> None:
    for _ in range(5):
        session = Session(affine_path, threads=2)
        expected = session.run(feeds(2500))
        problems: list[object] = []
        running = threading.Barrier(5)

        def work(
            session: Session, expected: dict[str, Any], problems: list[object], running: threading.Barrier
        ) -> None:
            running.wait()
            try:
                while True:
                    results = session.run(feeds(2500))
                    if any((results[name] != expected[name]).any() for name in results):
                        problems.append("wrong")
            except RuntimeFault as error:
                if "closed" not in str(error):
                    problems.append(error)
            except BaseException as error:
                problems.append(error)

        workers = [threading.Thread(target=work, args=(session, expected, problems, running)) for _ in range(4)]
        for worker in workers:
            worker.start()
        running.wait()
        session.run(feeds(3))
        session.close()
        for worker in workers:
            worker.join()
        assert not problems and session._lanes == 0
        with pytest.raises(RuntimeFault):
            session._library._image.base  # noqa: B018


PROLOGUE = """
import os, signal, sys, threading, time
import numpy as np
from ingot.runtime import Session
signal.alarm(60)  # a hang becomes a failure
session = Session(sys.argv[1], threads=2)
inputs = {name: np.ones((2500, 16), np.float32) for name in ("x", "z")}
def correct():
    return (session.run(inputs)["y"] == np.arange(16) + 1).all()
"""


def run_script(path: Path, body: str) -> str:
    command = [sys.executable, "-c", PROLOGUE + body, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    assert not done.stderr
    return done.stdout


FORK = """
assert correct()
held = threading.Event()
def hold():  # another thread holds the session's locks at the time of the fork
    with session._lock:
        session._threads._busy.acquire()
        held.set()
        time.sleep(0.5)
        session._threads._busy.release()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if not child:
    tasks = len(os.listdir("/proc/self/task"))
    inputs = {name: np.ones((3000, 16), np.float32) for name in ("x", "z")}
    good = tasks == 1 and correct() and correct()
    good = good and len(os.listdir("/proc/self/task")) == session.metadata["threads"]
    grandchild = os.fork()
    if not grandchild:
        os._exit(not correct())
    good = good and os.waitpid(grandchild, 0)[1] == 0
    session.close()
    os._exit(not good)
status = os.waitpid(child, 0)[1]
thread.join()
assert correct()
session.close()
print(status)
"""


def test_a_forked_child_makes_its_own_team(affine_path: Path) -> None:
    assert run_script(affine_path, FORK) == "0\n"


@pytest.mark.parametrize(
    "ending",
    [
        "assert correct()",
        "import gc; assert correct(); session.self = session; del session; gc.collect()",
        "def work():\n    while True: correct()\nthreading.Thread(target=work, daemon=True).start(); time.sleep(0.05)",
        "bound = session.bind(inputs, session.run(inputs)); bound()",
    ],
)
def test_the_process_ends_cleanly(affine_path: Path, ending: str) -> None:
    assert run_script(affine_path, ending) == ""


def test_signals_go_to_python(affine_path: Path) -> None:
    body = """
assert correct()
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(threading.current_thread() is threading.main_thread()))
def read(task):
    status = dict(line.split(":", 1) for line in open(f"/proc/self/task/{task}/status"))
    return status["Name"].strip(), int(status["SigBlk"], 16)
def blocks(task, number):
    return read(task)[1] >> (number - 1) & 1
workers = 0
for task in os.listdir("/proc/self/task"):
    is_worker = read(task)[0] == "ingot-worker"
    workers += is_worker
    if is_worker or int(task) == os.getpid():
        while blocks(task, signal.SIGSEGV):  # until it has begun, a thread blocks everything
            time.sleep(0.001)
        assert blocks(task, signal.SIGUSR1) == is_worker
assert workers == session.metadata["threads"] - 1
os.kill(os.getpid(), signal.SIGUSR1)
assert correct() and seen == [True]
"""
    assert run_script(affine_path, body) == ""
