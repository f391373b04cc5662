"""Files that appear complete or not at all. Special files are scratch ones in a temporary folder."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import pytest

from ingot.runtime import InputError
from ingot.runtime.container import Member, write
from ingot.runtime.replacement import file_to_replace, replaced, replaced_durably

Replacing: TypeAlias = Callable[[Path], AbstractContextManager[Path]]


@pytest.mark.parametrize("replacing", [replaced, replaced_durably])
def test_a_file_is_replaced(tmp_path: Path, replacing: Replacing) -> None:
    path = tmp_path / "a"
    for content in ("one", "two"):
        with replacing(path) as partial:
            partial.write_text(content)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == content and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("replacing", [replaced, replaced_durably])
def test_a_failure_leaves_what_was_there(tmp_path: Path, replacing: Replacing) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as partial:
        partial.write_text("new")
        raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, first, second = tmp_path / "folder" / "target", tmp_path / "first", tmp_path / "second"
    first.symlink_to("folder/target")
    second.symlink_to(first)
    for content in (b"one", b"two"):  # the first finds no target
        write(second, [Member("m", content)])
        assert content in target.read_bytes() and target.read_bytes() == second.read_bytes()
    assert second.is_symlink() and first.is_symlink() and os.listdir(tmp_path / "folder") == ["target"]
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="round"):
        write(tmp_path / "round", [])


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")


@pytest.mark.parametrize(
    ("make", "kind"), [(_pipe, "named pipe"), (_socket, "socket"), (_device, "character device")]
)
@pytest.mark.parametrize("linked", [False, True])
def test_special_files_are_refused(tmp_path: Path, make: object, kind: str, linked: bool) -> None:
    special = tmp_path / "special"
    assert callable(make)
    make(special)
    before = os.lstat(special)
    path = tmp_path / "link" if linked else special
    if linked:
        path.symlink_to(special)
    with pytest.raises(InputError, match=f"cannot be written: it is a {kind}"):
        write(path, [Member("m", b"data")])
    after = os.lstat(special)
    assert (before.st_ino, before.st_mode, before.st_rdev) == (after.st_ino, after.st_mode, after.st_rdev)
    assert sorted(os.listdir(tmp_path)) == sorted({"special", path.name})


def test_paths_that_name_no_file(tmp_path: Path) -> None:
    for path in ("", "a\0b", b"a"):
        with pytest.raises(InputError):
            file_to_replace(path)  # type: ignore[arg-type]
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        file_to_replace(tmp_path)
    descriptor = os.memfd_create("nameless")
    with pytest.raises(InputError, match="without a name"):
        file_to_replace(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a"
    with pytest.raises(FileNotFoundError) as caught:
        write(path, [])
    assert caught.value.filename == str(path) and ".ingot." not in str(caught.value)
    path = tmp_path / "a"
    with pytest.raises(OSError, match="too large") as large, replaced(path):
        raise OSError(27, "File too large")  # as from a write, which knows no name
    assert large.value.filename == str(path)
