"""The command as a process: streams, signals, and environments that lack packages."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
COMMAND = (sys.executable, "-m", "ingot.compiler.cli")


def run(*arguments: str | Path, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_json_is_alone_on_stdout(tmp_path: Path, model: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import sys, time\n"
        "def loud(graph):\n"
        "    print('this is loud')\n"
        "    sys.stdout.write('and this\\n')\n"
        "    time.sleep(1.1)\n"
        "    return graph\n"
    )
    done = run("compile", model, "-o", "m.ingot", "--pass", "loud:loud", "--json", "--print-after=all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["artifact"] == "m.ingot"
    assert "this is loud" in done.stderr and "and this" in done.stderr
    # More than a second has gone by: progress, in whole lines.
    assert "loud:loud" in done.stderr and "\r" not in done.stderr and "\x1b" not in done.stderr


def test_no_progress_for_what_is_quick(tmp_path: Path, artifact: Path) -> None:
    done = run("run", artifact, "--random", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("y  float32[1, 4]")


def test_streams_without_unicode(tmp_path: Path, artifact: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run("bench", artifact, "--rounds", "1", "--threads", "1", cwd=tmp_path, env=environment)
    assert done.returncode == 0 and "?s" in done.stdout, done.stderr  # µs


def test_progress_on_a_terminal(tmp_path: Path, model: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "compile", str(model), "-o", "m.ingot"]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, timeout=120)
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed: all has been read
            break
        text += part
    os.close(ours)
    assert done.returncode == 0
    assert b"\r\x1b[K" in text and b"\n" not in text and text.endswith(b"\r\x1b[K")


def test_interrupt(tmp_path: Path, model: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import sys, time\n"
        "def slow(graph):\n"
        "    print('waiting', file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
        "    return graph\n"
    )
    command = [*COMMAND, "compile", str(model), "-o", "m.ingot", "--pass", "slow:slow", "-q"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stderr.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert rest == "ingot: interrupted\n"
    assert not (tmp_path / "m.ingot").exists()


@pytest.mark.parametrize("module", ["numpy", "ingot.compiler.cli.bench", "ingot.runtime.session", "onnx"])
def test_interrupts_while_modules_are_imported(tmp_path: Path, model: Path, module: str) -> None:
    """Ctrl-C comes when a module is asked for; the handler runs at the next instruction, in the midst of imports."""
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *others):\n"
        f"        if name == {module!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *filter(None, sys.path)))}
    done = run("compile", model, "-o", "m.ingot", "--no-cache", "-q", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "ingot: interrupted\n")
    assert not (tmp_path / "m.ingot").exists()


@pytest.mark.parametrize("arguments", [("inspect", "{}"), ("inspect", "{}", "--json"), ("--version",)])
def test_closed_pipe(tmp_path: Path, artifact: Path, arguments: tuple[str, ...]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [*COMMAND, *(argument.format(artifact) for argument in arguments)]
    done = subprocess.run(command, cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


def without(stream: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process that is started with the stream of that number closed."""
    command = ["/bin/sh", "-c", f'exec "$@" {stream}>&-', "sh", *COMMAND, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_streams_that_are_closed(tmp_path: Path, artifact: Path) -> None:
    done = without("1", "inspect", str(artifact), "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = without("2", "inspect", "nowhere.ingot", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.fixture(scope="module")
def numpy_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has numpy and Ingot and no other package."""
    folder = tmp_path_factory.mktemp("numpy")
    installed = Path(np.__file__).parents[1]
    for part in (installed / "numpy", *installed.glob("numpy.libs")):
        (folder / part.name).symlink_to(part)
    paths = [folder, ROOT / "compiler", ROOT / "runtime"]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}


def bare(*arguments: str | Path, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The command without site-packages."""
    command = [sys.executable, "-S", *COMMAND[1:], *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_artifacts_need_numpy_alone(tmp_path: Path, artifact: Path, numpy_alone: dict[str, str]) -> None:
    probe = (
        "import importlib.util as u; print([n for n in ('numpy', 'onnx', 'llvmlite', 'ml_dtypes') if u.find_spec(n)])"
    )
    found = subprocess.run([sys.executable, "-S", "-c", probe], env=numpy_alone, capture_output=True, text=True)
    assert found.stdout == "['numpy']\n"
    np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    done = bare("run", artifact, "--input", "x=x.npy", "-o", "y.npz", cwd=tmp_path, env=numpy_alone)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "y.npz")["y"].shape == (2, 4)
    done = bare("inspect", artifact, "--verify", "--json", cwd=tmp_path, env=numpy_alone)
    assert done.returncode == 0 and json.loads(done.stdout)["name"] == "scale"
    done = bare("bench", artifact, "--rounds", "1", "--threads", "1", cwd=tmp_path, env=numpy_alone)
    assert done.returncode == 0 and "ingot" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("compile", "{model}"), "pip install 'ingot[compiler]'"),
        (("check", "{model}"), "pip install 'ingot[compiler]'"),
        (("opt", "{model}"), "pip install 'ingot[compiler]'"),
        (("bench", "{model}"), "pip install 'ingot[compiler]'"),
        (("bench", "{model}", "--against", "onnxruntime"), "onnxruntime is not installed: pip install 'ingot[bench]'"),
        (("bench", "{model}", "--against", "openvino"), "openvino is not installed: pip install 'ingot[bench]'"),
        (("demo",), "pip install 'ingot[compiler]'"),
    ],
)
def test_missing_extras_are_named(
    tmp_path: Path, model: Path, numpy_alone: dict[str, str], arguments: tuple[str, ...], line: str
) -> None:
    done = bare(*(a.format(model=model) for a in arguments), cwd=tmp_path, env=numpy_alone)
    assert done.returncode == 2 and done.stdout == ""
    last = done.stderr.splitlines()[-1]  # progress may stand before it on a slow machine
    assert last.startswith("ingot: error: ") and line in last
