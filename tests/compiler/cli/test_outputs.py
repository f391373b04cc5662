"""What commands write to: nothing but regular files. Special files are scratch ones in a temporary folder."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from ingot.compiler.ir.text.graph import show_graph

from .conftest import Ingot


def _command(name: str, model: Path, artifact: Path) -> tuple[str | Path, ...]:
    return (name, artifact, "--random") if name == "run" else (name, model)


commands = pytest.mark.parametrize("name", ["compile", "run", "opt", "export", "cut"])


@commands
def test_special_files_stay_what_they_are(ingot: Ingot, model: Path, artifact: Path, name: str) -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    for path in ("pipe", "link"):
        complaint = ingot(*_command(name, model, artifact), "-o", path).complaint
        assert f"{path} cannot be written: it is a named pipe" in complaint
    assert stat.S_ISFIFO(os.lstat("pipe").st_mode) and Path("link").is_symlink()
    assert sorted(os.listdir()) == ["link", "pipe"]


@commands
def test_links_are_followed(ingot: Ingot, model: Path, artifact: Path, name: str) -> None:
    Path("folder").mkdir()
    Path("link").symlink_to("folder/target")
    command = _command(name, model, artifact)
    for _ in range(2):
        assert ingot(*command, "-o", "link", "-q").status == 0
        assert Path("link").is_symlink() and Path("folder/target").stat().st_size > 0
        assert os.listdir("folder") == ["target"]


@commands
def test_names_of_nothing(ingot: Ingot, model: Path, artifact: Path, name: str) -> None:
    command = _command(name, model, artifact)
    assert "the name of a file is needed, this is empty" in ingot(*command, "-o", "").complaint
    assert "it is a folder" in ingot(*command, "-o", ".").complaint
    assert "there is no folder" in ingot(*command, "-o", "none/out").complaint


@pytest.mark.parametrize("name", ["export", "cut"])
def test_the_model_is_not_overwritten(ingot: Ingot, model: Path, name: str) -> None:
    Path("m.onnx").write_bytes(model.read_bytes())
    assert "would be overwritten" in ingot(name, "m.onnx", "-o", "m.onnx").complaint
    assert Path("m.onnx").read_bytes() == model.read_bytes()


@commands
def test_folders_where_nothing_can_be_made(ingot: Ingot, model: Path, artifact: Path, name: str) -> None:
    """Also where the permissions say otherwise; it is told before the work is done, and nothing is left behind."""
    outcome = ingot(*_command(name, model, artifact), "-o", "/proc/x", "--verbose")
    assert outcome.complaint.startswith("/proc/x cannot be written: no file can be made in /proc: ")
    assert "import" not in outcome.err and os.listdir() == []


def test_a_full_disk_names_the_file(ingot: Ingot, model: Path) -> None:
    Path("m.ingot").write_text("old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        complaint = ingot("compile", model, "-o", "m.ingot", "-q").complaint
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert complaint == "m.ingot: File too large"
    assert Path("m.ingot").read_text() == "old" and os.listdir() == ["m.ingot"]


def test_a_graph_is_read_back_through_a_link(ingot: Ingot, model: Path) -> None:
    Path("link.ir").symlink_to("target.ir")
    assert ingot("opt", model, "-o", "link.ir", "-q").status == 0
    from ingot.compiler.cli.opt import read_graph

    assert show_graph(read_graph(Path("target.ir"), [])).startswith("graph")
