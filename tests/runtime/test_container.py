"""The ZIP container of artifacts: alignment, determinism, other readers, and that the reader accepts one shape only."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ingot.runtime import container as container_format
from ingot.runtime.container import Container, Entry, Member, read, write
from ingot.runtime.errors import ArtifactError, InputError, RuntimeFault

MANIFEST = b'{"format": 1}'
CODE = bytes(range(256)) * 20
WEIGHTS = np.arange(1000, dtype=np.float32).reshape(10, 100)


def members() -> list[Member]:
    return [
        Member("manifest.json", MANIFEST),
        Member("code/x86-64-v3.so", CODE, 4096),
        Member("code/armv8.2-a.so", CODE[::-1], 65536),
        Member("weights.bin", WEIGHTS, 64),
        Member("empty", b"", 4096),
    ]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("container") / "model.ingot"
    write(path, members())
    return path


def test_round_trip(artifact: Path) -> None:
    with read(artifact) as container:
        assert list(container.members) == [member.name for member in members()]
        for member in members():
            entry = container.members[member.name]
            data = np.asarray(member.data).tobytes() if isinstance(member.data, np.ndarray) else member.data
            assert isinstance(data, bytes)
            view = container.view(member.name)
            assert view.dtype == np.uint8 and not view.flags.writeable and view.tobytes() == data
            assert entry == Entry(member.name, entry.offset, len(data), zlib.crc32(data))
            assert entry.offset % member.alignment == 0
            assert container.sha256(member.name) == hashlib.sha256(data).hexdigest()
            container.verify(member.name)
            assert os.pread(container.fileno(), entry.size, entry.offset) == data
        assert container.view("weights.bin").ctypes.data % 64 == 0
        np.testing.assert_array_equal(container.view("weights.bin").view(np.float32).reshape(10, 100), WEIGHTS)


def test_views_outlive_the_container(artifact: Path) -> None:
    container = read(artifact)
    view = container.view("weights.bin").view(np.float32)
    container.close()
    container.close()
    gc.collect()
    np.testing.assert_array_equal(view, WEIGHTS.reshape(-1))
    for use in (container.fileno, lambda: container.view("weights.bin")):
        with pytest.raises(RuntimeFault, match="closed"):
            use()
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_memory_and_descriptors_are_returned(artifact: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(artifact.name)

    descriptors = os.listdir("/proc/self/fd")
    for _ in range(20):
        with read(artifact) as container:
            container.view("weights.bin")
            assert mapped() == 1
        with pytest.raises(ArtifactError):
            read(Path(__file__))
    assert mapped() == 0 and os.listdir("/proc/self/fd") == descriptors


def test_unknown_member(artifact: Path) -> None:
    with read(artifact) as container, pytest.raises(ArtifactError, match=r"'absent'.*manifest.json"):
        container.view("absent")


def test_other_readers(artifact: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(artifact) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [member.name for member in members()]
        assert archive.read("code/x86-64-v3.so") == CODE
        assert all(info.date_time == (1980, 1, 1, 0, 0, 0) for info in archive.infolist())
    unzip = shutil.which("unzip")
    if unzip is None:
        pytest.skip("unzip is not installed; zipfile has read it")
    subprocess.run([unzip, "-q", artifact, "-d", tmp_path], check=True)
    assert (tmp_path / "weights.bin").read_bytes() == WEIGHTS.tobytes()


def test_same_members_give_same_bytes(artifact: Path, tmp_path: Path) -> None:
    def streamed(data: object) -> Iterator[bytes]:
        content = np.asarray(data).tobytes() if isinstance(data, np.ndarray) else data
        assert isinstance(content, bytes)
        for start in range(0, len(content), 333):
            yield content[start : start + 333]
            yield b""

    again, streams = tmp_path / "again", tmp_path / "streams"
    write(again, members())
    write(streams, [Member(member.name, streamed(member.data), member.alignment) for member in members()])
    assert again.read_bytes() == artifact.read_bytes() == streams.read_bytes()


@pytest.mark.parametrize(
    "array",
    [
        np.float64(3.5).reshape(()),
        np.zeros((0, 3), np.int8),
        np.array([1.5, -2.25, np.nan, np.inf], ml_dtypes.bfloat16),
        np.arange(-3, 4, dtype=np.int16),
        np.array([True, False, True]),
        np.arange(3 << 20, dtype=np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_arrays(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "a"
    write(path, [Member("a", array), Member("b", iter([array, memoryview(b"tail"), bytearray(b"!")]))])
    with read(path) as container:
        assert container.view("a").tobytes() == array.tobytes()
        assert container.view("b").tobytes() == array.tobytes() + b"tail!"
        container.verify("b")


def test_buffers_of_any_shape(tmp_path: Path) -> None:
    path = tmp_path / "a"
    words = memoryview(struct.pack("<6I", *range(6))).cast("I", (2, 3))
    write(path, [Member("words", words), Member("none", np.zeros((0, 2)).data)])
    with read(path) as container:
        assert container.view("words").view("<u4").tolist() == list(range(6))
        assert container.view("none").size == 0


def test_every_distance_to_the_next_alignment(tmp_path: Path) -> None:
    """The padding of a member is at most what an extra field can hold, wherever the member before it ends."""
    path = tmp_path / "a"
    gaps = 0
    for size in [*range(65536 - 400, 65536), *range(0, 65536, 5003)]:
        data = bytes([size % 251]) * size
        write(path, [Member("first", data, 1), Member("second", data, 65536), Member("third", b"x", 1)])
        with read(path) as container:
            assert container.view("first").tobytes() == container.view("second").tobytes() == data
            assert container.members["second"].offset % 65536 == 0
        content = path.read_bytes()
        gaps += content[30 + 5 + 24 + size :].startswith(bytes(64) + b"PK\x03\x04")
        if size % 100 == 0:
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
    assert gaps == 24  # the sizes at which 65535 bytes of padding would not do


def test_many_members(tmp_path: Path) -> None:
    path = tmp_path / "many"
    write(path, [Member(f"m/{i}", b"%d" % i, 1) for i in range(65_536)])  # more than fit without ZIP64
    with read(path) as container:
        assert len(container.members) == 65_536 and container.view("m/65535").tobytes() == b"65535"
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 65_536
    write(path, [])
    with read(path) as container:
        assert not container.members


def large_container(path: Path, size: int) -> None:
    """A container with a first member of `size` zeros, which takes no disk, and a small one after it."""
    first, data_offset = Entry("large", 64 * 2, size, 0), 128
    local = container_format._local_header(first, data_offset - 30 - len("large"))
    second = Entry("small", 0, 5, zlib.crc32(b"after"))
    header = data_offset + size
    central = container_format._central_header(first, 0) + container_format._central_header(second, header)
    after = container_format._local_header(second, 28) + b"after"
    with open(path, "wb") as file:
        file.write(local)
        file.seek(header)
        file.write(after + central + container_format._end_records(2, header + len(after), len(central)))


@pytest.mark.parametrize("size", [2**32 - 2, 2**32 - 1, 2**32, 2**32 + 4096, 2**33])
def test_members_beyond_4_gib(tmp_path: Path, size: int) -> None:
    path = tmp_path / "large"
    large_container(path, size)
    if path.stat().st_blocks * 512 > 1 << 24:
        pytest.skip("the file system does not keep holes")
    with read(path) as container:
        assert container.members["large"].size == size
        assert container.view("small").tobytes() == b"after"
        container.verify("small")
        assert container.view("large")[size - 1] == 0
    with zipfile.ZipFile(path) as archive:
        assert [info.file_size for info in archive.infolist()] == [size, 5]
        assert archive.read("small") == b"after"


@pytest.mark.slow
def test_writes_members_beyond_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "large"
    block = np.zeros(1 << 24, np.uint8)
    write(path, [Member("large", (block for _ in range(257))), Member("small", b"after")])
    with read(path) as container:
        assert container.members["large"].size == 257 << 24
        container.verify("large")
        container.verify("small")
    with zipfile.ZipFile(path) as archive:
        assert archive.read("small") == b"after" and archive.getinfo("large").file_size == 257 << 24


def test_replaces_by_rename_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "model.ingot"
    write(path, [Member("a", b"old" * 2000)])
    with read(path) as old:
        view = old.view("a")
        write(path, [Member("a", b"new")])
        assert view.tobytes() == b"old" * 2000

    def failing() -> Iterator[bytes]:
        yield b"some"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write(path, [Member("a", failing())])
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "absent" / "model.ingot", [])
    assert [each.name for each in tmp_path.iterdir()] == ["model.ingot"]
    with read(path) as container:
        assert container.view("a").tobytes() == b"new"
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", "..", "../a", "a/../b", ".", "a/./b", "a\\b", "C:a", "a b", "ä", "a\n", "a\0", "x" * 256],
)
def test_refuses_to_write_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot name"):
        write(tmp_path / "a", [Member(name, b"")])


def test_refuses_to_write(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for alignment in (0, -64, 3, 65537, 131072):
        with pytest.raises(InputError, match="alignment"):
            write(path, [Member("a", b"", alignment)])
    with pytest.raises(InputError, match="twice"):
        write(path, [Member("a", b""), Member("a", b"")])
    for array in (np.zeros((4, 4))[:, ::2], np.asfortranarray(np.zeros((2, 3))), np.array([object()])):
        with pytest.raises(InputError, match="ascontiguousarray"):
            write(path, [Member("a", array)])
        with pytest.raises(InputError, match="ascontiguousarray"):
            write(path, [Member("a", iter([array]))])
    with pytest.raises(InputError, match="not a contiguous buffer"):
        write(path, [Member("a", memoryview(bytes(10))[::2])])
    with pytest.raises(InputError, match="str is not"):
        write(path, [Member("a", "text")])  # pyright: ignore[reportArgumentType]
    assert not list(tmp_path.iterdir())


# What the reader refuses. Every case but the first few is a ZIP archive that other readers open.


def local_header(data: bytes, number: int) -> int:
    place = 0
    for _ in range(number + 1):
        place = data.index(b"PK\x03\x04", place + 1) if _ else 0
    return place


def central_header(data: bytes, number: int) -> int:
    place = data.index(b"PK\x01\x02")
    for _ in range(number):
        place = data.index(b"PK\x01\x02", place + 1)
    return place


def patched(data: bytes, place: int, layout: str, *values: object) -> bytes:
    copy = bytearray(data)
    struct.pack_into(layout, copy, place, *values)
    return bytes(copy)


def both(data: bytes, number: int, local: int, central: int, layout: str, *values: object) -> bytes:
    once = patched(data, local_header(data, number) + local, layout, *values)
    return patched(once, central_header(data, number) + central, layout, *values)


def moved_end(data: bytes, added: bytes) -> bytes:
    """`added` between the last member and the central directory, with the end record adjusted."""
    start = central_header(data, 0)
    offset = struct.unpack_from("<I", data, len(data) - 6)[0]
    return patched(data[:start] + added + data[start:], len(data) + len(added) - 6, "<I", offset + len(added))


def with_zipfile(path: Path, compression: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("manifest.json", MANIFEST)
    return path.read_bytes()


Change = Callable[[bytes, Path], bytes]
REFUSALS: dict[str, tuple[Change, str]] = {
    "empty": (lambda data, _: b"", "too short"),
    "one byte short": (lambda data, _: data[:-1], "cut short"),
    "half": (lambda data, _: data[: len(data) // 2], "cut short"),
    "first byte lost": (lambda data, _: data[1:], "end record"),
    "bytes before": (lambda data, _: b"#!/bin/sh\n" + data, "end record"),
    "bytes after": (lambda data, _: data + b"\n", "bytes added"),
    "comment": (lambda data, _: patched(data, len(data) - 2, "<H", 5) + b"hello", "bytes added"),
    "comment of zeros": (lambda data, _: patched(data, len(data) - 2, "<H", 22) + bytes(22), "bytes added"),
    "second end record": (lambda data, _: data + data[-22:], "end record"),
    "bytes before the directory": (lambda data, _: moved_end(data, bytes(4)), "belong to no member"),
    "hidden member": (lambda data, _: moved_end(data, data[: local_header(data, 1)]), "belong to no member"),
    "fewer members": (lambda data, _: patched(data, len(data) - 14, "<HH", 4, 4), "belong to no member"),
    "more members": (lambda data, _: patched(data, len(data) - 14, "<HH", 6, 6), "directory is cut short"),
    "counts that differ": (lambda data, _: patched(data, len(data) - 14, "<H", 4), "end record"),
    "two disks": (lambda data, _: patched(data, len(data) - 18, "<H", 1), "end record"),
    "local name": (lambda data, _: patched(data, local_header(data, 0) + 30, "5s", b"Mani_"), "does not agree"),
    "local size": (lambda data, _: patched(data, local_header(data, 0) + 22, "<I", 1), "does not agree"),
    "local checksum": (lambda data, _: patched(data, local_header(data, 1) + 14, "<I", 1), "does not agree"),
    "local method": (lambda data, _: patched(data, local_header(data, 1) + 8, "<H", 8), "does not agree"),
    "local extra": (lambda data, _: patched(data, local_header(data, 0) + 30 + 13 + 10, "5s", b"hello"), "does not"),
    "local flags": (lambda data, _: patched(data, local_header(data, 0) + 6, "<H", 8), "does not agree"),
    "time": (lambda data, _: both(data, 0, 10, 12, "<H", 1), "not accepted"),
    "encrypted": (lambda data, _: both(data, 0, 6, 8, "<H", 1), "not accepted"),
    "descriptor": (lambda data, _: both(data, 0, 6, 8, "<H", 8), "not accepted"),
    "method": (lambda data, _: both(data, 0, 8, 10, "<H", 8), "compressed"),
    "two sizes": (lambda data, _: both(data, 0, 18, 20, "<I", 5), "two sizes"),
    "huge size": (lambda data, _: both(data, 0, 18, 20, "<II", 2**31, 2**31), "outside the file"),
    "wide size": (lambda data, _: both(data, 0, 18, 20, "<II", 2**32 - 1, 2**32 - 1), "not accepted"),
    "member comment": (lambda data, _: patched(data, central_header(data, 0) + 32, "<H", 3), "not accepted"),
    "device": (lambda data, _: patched(data, central_header(data, 0) + 38, "<I", 0o60644 << 16), "not accepted"),
    "same header twice": (lambda data, _: patched(data, central_header(data, 1) + 42, "<I", 0), "does not begin"),
    "header outside": (lambda data, _: patched(data, central_header(data, 4) + 42, "<I", 2**31), "does not begin"),
    "same name twice": (lambda data, _: both(data, 2, 30, 46, "17s", b"code/x86-64-v3.so"), "there twice"),
    "up": (lambda data, _: both(data, 1, 30, 46, "3s", b"../"), "name that is not accepted"),
    "absolute": (lambda data, _: both(data, 1, 30, 46, "1s", b"/"), "name that is not accepted"),
    "backslash": (lambda data, _: both(data, 1, 34, 50, "1s", b"\\"), "name that is not accepted"),
    "not ASCII": (lambda data, _: both(data, 1, 30, 46, "2s", "é".encode()), "name that is not accepted"),
    "zipfile, stored": (lambda _, path: with_zipfile(path), "not accepted"),
    "zipfile, deflated": (lambda _, path: with_zipfile(path, zipfile.ZIP_DEFLATED), "compressed"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(artifact: Path, tmp_path: Path, case: str) -> None:
    change, message = REFUSALS[case]
    path = tmp_path / "changed"
    path.write_bytes(change(artifact.read_bytes(), tmp_path / "zipfile"))
    with pytest.raises(ArtifactError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(ArtifactError, match="not a file"):
        read("/dev/null")


def test_damaged_content_is_found(artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    data = bytearray(artifact.read_bytes())
    with read(artifact) as container:
        entry = container.members["weights.bin"]
        digest = container.sha256("weights.bin")
    data[entry.offset + 1234] ^= 1
    path.write_bytes(data)
    with read(path) as container:
        container.verify("manifest.json")
        with pytest.raises(ArtifactError, match=r"'weights.bin' is damaged"):
            container.verify("weights.bin")
        assert container.sha256("weights.bin") != digest


def test_mutated_files_give_an_artifact_error_or_the_same_members(tmp_path: Path) -> None:
    """Every byte but those of the members' content is fixed, so that no changed file is accepted with other members."""
    path = tmp_path / "original"
    write(
        path, [Member("manifest.json", MANIFEST), Member("code/a.so", CODE[:600], 256), Member("weights.bin", WEIGHTS)]
    )
    original = path.read_bytes()
    with read(path) as container:
        entries = dict(container.members)
    content = {place for e in entries.values() for place in range(e.offset, e.offset + e.size)}
    headers = sorted(set(range(len(original))) - content)
    source = random.Random(22)
    accepted = 0
    target = tmp_path / "mutated"
    for _ in range(2000):
        data = bytearray(original)
        action = source.random()
        if action < 0.8:
            for _ in range(source.choice([1, 1, 2, 6])):
                place = source.choice(headers) if source.random() < 0.9 else source.randrange(len(data))
                data[place] = source.choice([0, 1, 0x7F, 0xFF, data[place] ^ 1 << source.randrange(8)])
        elif action < 0.9:
            del data[source.randrange(len(data)) :]
        else:
            start, end = sorted(source.choices(range(len(data)), k=2))
            data[start:end] = original[end:start:-1] if source.random() < 0.5 else b""
        target.write_bytes(data)
        try:
            container = Container(target)
        except ArtifactError:
            continue
        with container:
            assert dict(container.members) == entries
            assert all(data[place] == original[place] for place in headers)
            for name in container.members:
                container.view(name).tobytes()
        accepted += 1
    assert 0 < accepted < 2000
