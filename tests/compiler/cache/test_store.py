"""The folder of the cache: kept, found, damaged, full, read-only, shared."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ingot.compiler.cache.fingerprint import key_of
from ingot.compiler.cache.store import Store


def keys(count: int) -> list[str]:
    return [key_of(str(number)) for number in range(count)]


def silent(message: str) -> None:
    raise AssertionError(message)


def store_in(folder: Path, limit: int = 1 << 20) -> Store:
    return Store(folder, limit, silent)


def bytes_written(count: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(b"y" * count)

    return write


def used(path: Path, ago: float) -> None:
    moment = time.time() - ago
    os.utime(path, (moment, moment))


@pytest.mark.parametrize("content", [b"", b"\0", b"x" * 31, b"x" * 32, bytes(range(256)) * 1000])
def test_what_is_kept_is_found(tmp_path: Path, content: bytes) -> None:
    key, other = keys(2)
    store_in(tmp_path / "new" / "folder").keep_object(key, content)
    assert store_in(tmp_path / "new" / "folder").object(key) == content
    assert store_in(tmp_path / "new" / "folder").object(other) is None
    assert store_in(tmp_path / "none").object(key) is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:20], lambda d: b"", lambda d: b"\1" + d[1:]])
def test_damage_is_noticed_and_removed(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store, (key,) = store_in(tmp_path), keys(1)
    store.keep_object(key, b"code" * 100)
    (path,) = (entry.path for entry in store.holdings().objects)
    path.write_bytes(damage(path.read_bytes()))
    assert store.object(key) is None
    assert not path.exists()
    store.keep_object(key, b"code" * 100)
    assert store.object(key) == b"code" * 100


def test_an_entry_under_another_name_is_no_good(tmp_path: Path) -> None:
    store, (first, second) = store_in(tmp_path), keys(2)
    store.keep_object(first, b"one")
    (path,) = (entry.path for entry in store.holdings().objects)
    other = tmp_path / "objects" / second[:2] / second
    other.parent.mkdir(exist_ok=True)
    path.rename(other)
    assert store.object(second) is None


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    store = store_in(tmp_path, limit=5 * 132 + 50)  # a sixteenth is made room for besides
    names = keys(6)
    for age, key in enumerate(names):
        store.keep_object(key, b"x" * 100)
        used(tmp_path / "objects" / key[:2] / key, ago=1000 - age)
    assert store.object(names[0]) is not None  # used now
    store.trim()
    assert [key for key in names if store.object(key) is None] == [names[1]]
    assert store.holdings().size <= store.limit


def test_the_folder_is_looked_through_when_it_may_be_full(tmp_path: Path) -> None:
    store = store_in(tmp_path, limit=100 * 132)
    first, *names = keys(100)
    store.keep_object(first, b"x" * 100)
    store.trim()
    left_behind = tmp_path / "objects" / "ab" / f".ingot.{0:016x}"  # swept whenever the folder is looked through
    left_behind.parent.mkdir(exist_ok=True)
    left_behind.write_bytes(b"")
    used(left_behind, ago=10000)
    for key in names:
        store.keep_object(key, b"x" * 100)
        store.trim()
    assert left_behind.exists() and store.holdings().size == store.limit
    (another,) = keys(101)[100:]
    store.keep_object(another, b"x" * 100)
    store.trim()
    assert not left_behind.exists() and store.holdings().size <= store.limit - store.limit // 16


def test_processes_know_of_what_others_keep(tmp_path: Path) -> None:
    stores = [store_in(tmp_path, limit=10 * 132) for _ in range(7)]  # each has room for its part alone
    for number, key in enumerate(keys(70)):
        store = stores[number % len(stores)]
        store.keep_object(key, b"x" * 100)
        store.trim()
        assert store.holdings().size <= store.limit


def test_it_is_looked_through_after_many_records_at_the_latest(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    names = keys(6)
    for key in names[:5]:
        store.keep_object(key, b"x" * 100)
    store.trim()
    store.limit = 3 * 132
    growth = tmp_path / "growth"
    growth.write_bytes(bytes(8 * 1024))  # says that nothing is there
    store.keep_object(names[5], b"x" * 100)
    store.trim()
    assert store.holdings().size <= store.limit and growth.stat().st_size == 8


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 8, b"\xff" * 24, b"\0" * 8191, b"\0" * 100_000])
def test_growth_that_others_wrote(tmp_path: Path, content: bytes) -> None:
    store = store_in(tmp_path, limit=3 * 132)
    for number, key in enumerate(keys(40)):
        store.keep_object(key, b"x" * 100)
        store.trim()
        if number == 5:
            (tmp_path / "growth").write_bytes(content)
    assert store.holdings().size <= store.limit


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_something_else_in_the_place_of_growth(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "growth")
    store = store_in(tmp_path, limit=3 * 132)
    for key in keys(10):
        store.keep_object(key, b"x" * 100)
        store.trim()
        assert store.holdings().size <= store.limit


def test_programs_go_before_objects(tmp_path: Path) -> None:
    store, (key, first, second) = store_in(tmp_path, limit=1000), keys(3)
    store.keep_object(key, b"x" * 68)
    used(tmp_path / "objects" / key[:2] / key, ago=5000)
    for name in (first, second):
        assert store.keep_program(name, 700, bytes_written(700))
        used(tmp_path / "programs" / f"{name}.ingot", ago=100 if name == first else 0)
    store.trim()
    assert store.program(first) is None
    assert store.program(second) is not None
    assert store.object(key) is not None


def test_a_program_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    store, (key,) = store_in(tmp_path, limit=1000), keys(1)
    assert store.keep_program(key, 801, bytes_written(801)) is None
    assert not tmp_path.joinpath("programs").exists()


def test_a_write_that_fails_leaves_nothing_and_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    store, (first, second) = Store(tmp_path, 1000, said.append), keys(2)

    def full(path: Path) -> None:
        path.write_bytes(b"part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.keep_object(second, b"before")
    assert store.keep_program(first, 4, full) is None
    assert len(said) == 1 and "No space left" in said[0] and str(tmp_path) in said[0]
    assert store.keep_program(first, 4, full) is None
    store.keep_object(first, b"after")
    assert len(said) == 1
    assert store.object(first) is None
    assert store.object(second) == b"before"  # what is there can still be read
    assert not list((tmp_path / "programs").iterdir())


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_bytes(b"mine")
    store, (key,) = Store(tmp_path / "file", 1000, said.append), keys(1)
    assert store.object(key) is None
    store.keep_object(key, b"x")
    store.trim()
    assert len(said) == 1
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_special_files_in_the_place_of_entries(tmp_path: Path) -> None:
    said: list[str] = []
    store, (key, other) = Store(tmp_path, 1000, said.append), keys(2)
    (tmp_path / "objects" / key[:2] / key).mkdir(parents=True)
    (tmp_path / "programs").mkdir()
    os.mkfifo(tmp_path / "programs" / f"{other}.ingot")
    assert store.object(key) is None
    assert store.program(other) is None  # and does not wait for a writer
    assert len(said) == 1


def test_clear_leaves_what_is_not_the_caches(tmp_path: Path) -> None:
    store, (key, other) = store_in(tmp_path), keys(2)
    store.keep_object(key, b"x")
    store.keep_program(other, 1, bytes_written(1))
    for mine in ("mine.txt", "programs/mine.ingot", f"objects/{key[:2]}/mine", "objects/mine"):
        (tmp_path / mine).write_bytes(b"mine")
    (tmp_path / "objects" / key[:2] / ".ingot.0123456789abcdef").write_bytes(b"left behind")
    held = store.clear()
    assert (len(held.objects), len(held.programs), held.size) == (1, 1, 34)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["mine", "mine", "mine.ingot", "mine.txt"]


def test_clear_leaves_nothing_of_the_caches(tmp_path: Path) -> None:
    store, (key,) = store_in(tmp_path / "cache"), keys(1)
    store.keep_object(key, b"x")
    store.trim()
    store.clear()
    assert list(store.folder.iterdir()) == []


def test_clearing_nothing(tmp_path: Path) -> None:
    assert store_in(tmp_path / "none").clear().size == 0


def test_old_temporary_files_are_swept(tmp_path: Path) -> None:
    store, (key,) = store_in(tmp_path), keys(1)
    store.keep_object(key, b"x")
    old, new = (tmp_path / "objects" / key[:2] / f".ingot.{number:016x}" for number in range(2))
    old.write_bytes(b"")
    new.write_bytes(b"")
    used(old, ago=7200)
    store.trim()
    assert (old.exists(), new.exists()) == (False, True)


def test_many_at_once(tmp_path: Path) -> None:
    """Writers, readers, trimming and clearing of one folder: what is found is right, nobody fails."""
    names = keys(20)

    def work(seed: int) -> None:
        store = store_in(tmp_path, limit=1500)
        for step in range(60):
            key = names[(seed * 7 + step) % len(names)]
            found = store.object(key)
            assert found is None or found == key.encode() * 2
            store.keep_object(key, key.encode() * 2)
            if step % 9 == seed:
                store.trim()
            if step % 20 == 19:
                store.clear()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert all(entry.size == 160 for entry in store_in(tmp_path).holdings().objects)


def test_a_folder_that_goes_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Path.mkdir` raises FileExistsError where another process removes the folder between its two looks."""
    made = Path.mkdir
    store, (key,) = store_in(tmp_path), keys(1)

    def gone(self: Path, *arguments: Any, **options: Any) -> None:
        if self == tmp_path / "objects" / key[:2]:
            raise FileExistsError(17, "File exists", str(self))
        made(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", gone)
        store.keep_object(key, b"x")
    assert store.object(key) is None
    store.keep_object(key, b"x")
    assert store.object(key) == b"x"


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "objects").write_bytes(b"")
    told: list[str] = []
    store = Store(tmp_path, 1000, told.append)
    store.keep_object(keys(1)[0], b"x")
    assert len(told) == 1 and "cannot be used" in told[0]
