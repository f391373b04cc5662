"""Peers in processes and environments of their own: the protocol, and what becomes of those that fail."""

from __future__ import annotations

import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmarks.peers import environments
from benchmarks.peers.__main__ import main
from benchmarks.peers.catalogue import PEERS, Peer, find
from benchmarks.peers.client import PeerError, Worker
from benchmarks.peers.environments import NotInstalledError
from benchmarks.peers.worker import LOCAL, one_line, serve

from ingot.compiler.bench import engines
from ingot.compiler.bench.agreement import relative_error
from ingot.compiler.demo import held_out, model_path

CPUS = sorted(os.sched_getaffinity(0))[:1]
HERE = Peer("onnxruntime", "ONNX Runtime", "")


@pytest.fixture
def worker() -> Iterator[Worker]:
    pytest.importorskip("onnxruntime")
    made = Worker(HERE, CPUS)
    yield made
    made.close()


def inputs() -> dict[str, np.ndarray]:
    return {"image": held_out()[0][:3]}


@pytest.mark.parametrize("name", LOCAL)
def test_worker_computes_what_the_reference_does(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name if name != "ingot" else "llvmlite")
    want = engines.reference(model_path(), 1).run(inputs())
    made = Worker(Peer(name, name, ""), CPUS)
    try:
        assert made.load(model_path(), inputs(), 1, tmp_path / "made") > 0
        assert relative_error(made.outputs(), want) < 1e-5
        times = made.run(4)
        assert len(times) == 4 and min(times) > 0
        assert made.version[0].isdigit()
    finally:
        made.close()


def test_worker_outlives_what_the_peer_raises(worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="no model is loaded"):
        worker.run(1)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(PeerError) as caught:
        worker.load(broken, inputs(), 1, tmp_path)
    assert "broken.onnx" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(PeerError, match="not a request"):
        worker.ask(call="dance")
    worker.load(model_path(), inputs(), 1, tmp_path)
    assert worker.outputs()["0"].shape == (3, 10)


def test_worker_rests_between_its_turns(worker: Worker, tmp_path: Path) -> None:
    def state() -> str:
        return Path(f"/proc/{worker._process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    worker.load(model_path(), inputs(), 1, tmp_path)
    for _ in range(2):
        deadline = time.monotonic() + 10
        while state() != "T" and time.monotonic() < deadline:
            time.sleep(0.001)
        assert state() == "T"
        assert len(worker.run(1)) == 1


def test_worker_that_dies_is_told(worker: Worker) -> None:
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(PeerError, match="ended by SIGKILL"):
        worker.run(1)
    with pytest.raises(PeerError, match="ended by SIGKILL"):
        worker.run(1)


def test_worker_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    made = Worker(HERE, CPUS, limit=0.0)
    try:
        with pytest.raises(PeerError, match="took more than 0 s"):
            made.load(model_path(), inputs(), 1, tmp_path)
        with pytest.raises(PeerError, match="ended by SIGKILL"):
            made.run(1)
    finally:
        made.close()


def test_worker_of_an_unknown_peer_says_so(tmp_path: Path) -> None:
    made = Worker(Peer("nobody", "Nobody", ""), CPUS)
    try:
        with pytest.raises(PeerError, match="nobody_peer"):
            made.load(model_path(), inputs(), 1, tmp_path)
    finally:
        made.close()


def test_every_line_has_an_answer() -> None:
    answers = io.StringIO()
    serve("onnxruntime", io.StringIO('nonsense\n{"call": "run", "count": 1}\n[]\n'), answers)
    lines = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert len(lines) == 3 and all(list(line) == ["error"] for line in lines)


def test_reasons_are_one_line() -> None:
    assert one_line(ValueError("\n  first\nsecond")) == "first"
    assert one_line(ValueError("two things:\n  - one\n  - two")) == "two things: - one"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("x" * 1000))) == 300


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INGOT_PEERS", str(tmp_path / "peers"))
    return tmp_path


def test_what_is_not_installed_says_how(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotInstalledError, match=r"python -m benchmarks\.peers install tract"):
        environments.python(find("tract"))
    with pytest.raises(NotInstalledError):
        Worker(find("tract"), CPUS)
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and peer.version in listed for name, peer in PEERS.items())


def test_peers_are_pinned() -> None:
    for peer in PEERS.values():
        assert any(f"=={peer.version}" in package for step in peer.installs for package in step), peer.name
    with pytest.raises(ValueError, match="there is no peer 'tvm'; there are deepsparse, ncnn"):
        find("tvm")
    with pytest.raises(SystemExit):
        main(["install", "tvm"])


@pytest.mark.slow
def test_failed_installation_is_remembered_and_mended(place: Path) -> None:
    wheels = place / "wheels"
    wheels.mkdir()
    offline = ("--no-index", "--find-links", str(wheels), "smelter==1.0")
    peer = Peer("smelter", "Smelter", "1.0", (offline,))
    with pytest.raises(NotInstalledError, match=r"does not install: No matching distribution found for smelter==1\.0"):
        environments.install(peer)
    assert not environments.place(peer).exists()
    with pytest.raises(NotInstalledError, match="No matching distribution found"):
        environments.python(peer)

    with zipfile.ZipFile(wheels / "smelter-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("smelter.py", "HEAT = 1\n")
        about = "smelter-1.0.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: smelter\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    home = environments.install(peer)
    assert "smelter==1.0" in json.loads((home / environments.RECORD).read_text())["packages"]
    assert environments.python(peer) == home / "bin/python"
    record = (home / environments.RECORD).stat().st_mtime_ns
    assert environments.install(peer) == home and (home / environments.RECORD).stat().st_mtime_ns == record


def test_installation_that_takes_too_long_is_given_up(place: Path) -> None:
    with pytest.raises(NotInstalledError, match="took more than 0 s"):
        environments.install(find("tract"), limit=0.001)
    with pytest.raises(NotInstalledError, match="took more than 0 s"):
        environments.python(find("tract"))


def test_peer_for_older_pythons_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(NotInstalledError, match=r"no package for a Python after 3\.2"):
        environments.install(Peer("old", "Old", "1", (("old",),), newest_python=2))
