"""The loader of machine code: what it maps and how, what it gives back, and that no bytes can lead it astray."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from ingot.compiler.targets.elf import link
from ingot.runtime.elf import DYNAMIC_ENTRY, EM_AARCH64, EM_X86_64, HEADER, PROGRAM_HEADER, host_machine, read_layout
from ingot.runtime.errors import ArtifactError, IngotError, RuntimeFault, UnsupportedCpuError
from ingot.runtime.image import Image

TRIPLES = {EM_X86_64: "x86_64-unknown-linux-gnu", EM_AARCH64: "aarch64-unknown-linux-gnu"}
CODE = """
@functions = internal constant [2 x ptr] [ptr @one, ptr @two]
@counter = internal global i64 100
@zeros = internal global [3000 x i64] zeroinitializer, align 64
define internal i64 @one() { ret i64 1 }
define internal i64 @two() { ret i64 2 }
define i64 @count() {
  %old = load i64, ptr @counter
  %new = add i64 %old, 1
  store i64 %new, ptr @counter
  ret i64 %old
}
define i64 @call(i64 %i) {
  %slot = getelementptr [2 x ptr], ptr @functions, i64 0, i64 %i
  %function = load ptr, ptr %slot
  %result = call i64 %function()
  ret i64 %result
}
define ptr @table() { ret ptr @functions }
define i64 @add(i64 %i, i64 %amount) {
  %slot = getelementptr [3000 x i64], ptr @zeros, i64 0, i64 %i
  %old = load i64, ptr %slot
  %new = add i64 %old, %amount
  store i64 %new, ptr %slot
  ret i64 %new
}
"""
EXPORTS = ("add", "call", "count", "table")


def build(machine: int, text: str = CODE, exports: tuple[str, ...] = EXPORTS) -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(f'target triple = "{TRIPLES[machine]}"\n{text}')
    target = llvm.Target.from_triple(TRIPLES[machine])
    emitted = target.create_target_machine(opt=3, reloc="pic", codemodel="small").emit_object(module)
    return link([emitted], soname="code.so", exports=exports)


@pytest.fixture(scope="module")
def code() -> bytes:
    return build(host_machine())


def function(image: Image, name: str, arguments: int) -> Callable[..., int]:
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arguments)(image.symbol(name))


def maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def mappings_of(image: Image, size: int) -> list[str]:
    """Lines of the process's memory map that lie in the image."""
    inside: list[str] = []
    for line in maps():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if image.base <= start and end <= image.base + size:
            inside.append(line)
    return inside


def check_works(image: Image) -> None:
    assert image.symbols == EXPORTS
    assert [function(image, "call", 1)(i) for i in range(2)] == [1, 2]
    assert [function(image, "count", 0)() for _ in range(3)] == [100, 101, 102]
    add = function(image, "add", 2)
    assert [add(i, 0) for i in range(3000)] == [0] * 3000
    assert add(2999, 5) == 5 and add(2999, 6) == 11 and add(2998, 0) == 0


@pytest.mark.parametrize("offset", [0, 4096, 65536, 17, 4096 + 64])
@pytest.mark.parametrize("by_descriptor", [False, True], ids=["path", "descriptor"])
def test_loads_from_any_offset(code: bytes, tmp_path: Path, offset: int, by_descriptor: bool) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(b"\xa5" * offset + code + b"\x5a" * 5000)
    with open(path, "rb") as file:
        file.seek(3)
        with Image(file.fileno() if by_descriptor else path, offset, len(code)) as image:
            assert image.in_memory == (offset % mmap.PAGESIZE != 0) and image.path is None
            check_works(image)
        assert file.tell() == 3


def test_size_defaults_to_the_rest_of_the_file(code: bytes, tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(bytes(mmap.PAGESIZE) + code)
    with Image(str(path), mmap.PAGESIZE) as image:
        check_works(image)


def test_loads_from_memory(code: bytes) -> None:
    with Image.from_bytes(code, name="kernels") as image:
        assert image.in_memory
        assert any("memfd:ingot-kernels" in line for line in mappings_of(image, 1 << 20))
        check_works(image)


def test_no_memory_is_writable_and_executable_and_tables_are_protected(code: bytes) -> None:
    layout = read_layout(code, machine=host_machine(), page_size=mmap.PAGESIZE)
    with Image.from_bytes(code) as image:
        lines = mappings_of(image, layout.span)
        permissions = {line.split()[1] for line in lines}
        assert "r-xp" in permissions and "rw-p" in permissions and "r--p" in permissions
        assert not any("w" in each and "x" in each for each in permissions)
        table = function(image, "table", 0)()
        (line,) = [
            line for line in maps()
            if int(line.split("-")[0], 16) <= table < int(line.split()[0].split("-")[1], 16)
        ]  # fmt: skip
        assert line.split()[1] == "r--p"
        assert ctypes.c_uint64.from_address(table).value - image.base < layout.span


def test_images_are_independent(code: bytes, tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(code)
    with Image(path) as first, Image(path) as second, Image.from_bytes(code) as third:
        assert [function(first, "count", 0)() for _ in range(3)] == [100, 101, 102]
        check_works(second)
        check_works(third)
        assert len({first.base, second.base, third.base}) == 3
    assert path.read_bytes() == code


def test_close_returns_memory_and_descriptors(code: bytes, tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(code)
    Image(path).close()
    Image.from_bytes(code).close()
    descriptors, before = os.listdir("/proc/self/fd"), maps()
    for _ in range(50):
        Image(path).close()
        Image.from_bytes(code).close()
    assert os.listdir("/proc/self/fd") == descriptors
    assert abs(len(maps()) - len(before)) <= 2  # the allocator may map of its own


def test_after_close(code: bytes) -> None:
    image = Image.from_bytes(code)
    image.close()
    image.close()
    with pytest.raises(RuntimeFault, match="closed"):
        image.symbol("call")
    with pytest.raises(RuntimeFault, match="closed"):
        _ = image.base


def test_unknown_symbol(code: bytes) -> None:
    with Image.from_bytes(code) as image, pytest.raises(ArtifactError, match=r"'nothing'.*add, call, count, table"):
        image.symbol("nothing")


@pytest.mark.parametrize("by_environment", [False, True])
def test_debug_directory(code: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool) -> None:
    directory = None if by_environment else tmp_path
    if by_environment:
        monkeypatch.setenv("INGOT_DEBUG_DIR", str(tmp_path))
    with Image.from_bytes(code, name="model", debug_dir=directory) as image:
        assert image.path is not None and not image.in_memory
        assert Path(image.path).read_bytes() == code and Path(image.path).parent == tmp_path
        assert Path(image.path).name.startswith("model-") and image.path.endswith(".so")
        assert any(image.path in line for line in mappings_of(image, 1 << 20))
        with Image.from_bytes(code, name="model", debug_dir=directory) as again:
            assert again.path == image.path
            check_works(again)
        check_works(image)
    assert len(list(tmp_path.iterdir())) == 1


def test_debug_directory_that_cannot_be_used(code: bytes, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="INGOT_DEBUG_DIR"):
        Image.from_bytes(code, debug_dir=tmp_path / "missing")


CHILD = """
import ctypes, sys
from ingot.runtime.image import Image
{before}
with Image(sys.argv[1]) as image:
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(image.symbol("call"))
    print(image.in_memory, call(0), call(1))
"""


def run_child(before: str, path: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "INGOT_DEBUG_DIR": ""}
    script = CHILD.format(before=before)
    command = [*prefix, sys.executable, "-c", script, str(path)]
    return subprocess.run(command, text=True, capture_output=True, env=environment)


def test_file_system_without_execution(code: bytes, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    mount = f'mount -t tmpfs -o noexec none "{tmp_path}"'
    prefix = (str(unshare), "-Urm", "sh", "-c")
    if unshare is None or subprocess.run([*prefix, mount], capture_output=True).returncode:
        pytest.skip("no right to mount a file system in a name space of its own")
    source, path = tmp_path.with_name(f"{tmp_path.name}-code"), tmp_path / "artifact"
    source.write_bytes(code)
    done = run_child("", path, *prefix, f'{mount} && cp "{source}" "{path}" && exec "$@"', "sh")
    assert done.stdout.split() == ["True", "1", "2"], done.stderr


@pytest.mark.parametrize("offset", [0, 1], ids=["from-file", "from-memory"])
def test_works_where_memory_may_not_become_executable(code: bytes, tmp_path: Path, offset: int) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(code)
    forbid = (
        "refused = ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN\n"
        "if refused: print('unsupported'); sys.exit()"
    )
    if offset:
        forbid += "\nImage = lambda path: __import__('ingot.runtime.image').runtime.image.Image.from_bytes("
        forbid += "open(path, 'rb').read())"
    done = run_child(forbid, path)
    if done.stdout.strip() == "unsupported":
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert done.stdout.split() == [str(bool(offset)), "1", "2"], done.stderr


# Refusals


def test_other_machine_and_page_size() -> None:
    other = EM_AARCH64 if host_machine() == EM_X86_64 else EM_X86_64
    with pytest.raises(UnsupportedCpuError, match="machine code is for"):
        Image.from_bytes(build(other))
    arm = build(EM_AARCH64)
    for page_size in (4096, 16384, 65536):
        assert set(read_layout(arm, machine=EM_AARCH64, page_size=page_size).symbols) == set(EXPORTS)
    with pytest.raises(UnsupportedCpuError, match="pages of 4096 bytes"):
        read_layout(build(EM_X86_64), machine=EM_X86_64, page_size=16384)


def test_alignment_beyond_the_page_size() -> None:
    """An object laid out for 64 KiB pages is loaded at a multiple of 64 KiB, and all of the reservation is returned."""
    arm = bytearray(build(EM_AARCH64))
    layout = read_layout(bytes(arm), machine=EM_AARCH64, page_size=mmap.PAGESIZE)
    if host_machine() == EM_X86_64:  # it is mapped and not run, so that only the numbers have to fit
        arm[18:20] = struct.pack("<H", EM_X86_64)
        arm = arm.replace(struct.pack("<Q", 1027), struct.pack("<Q", 8))
    images = [Image.from_bytes(bytes(arm)) for _ in range(5)]
    for image in images:
        assert image.base % 65536 == 0
        start = image.base + layout.relocations[0][0]
        assert ctypes.c_uint64.from_address(start).value == image.base + layout.relocations[0][1]
    for image in images:
        base = image.base
        image.close()
        assert not any(line.startswith(f"{base:x}-") for line in maps())


def test_ranges_outside_the_file(code: bytes, tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(code)
    for offset, size in [(0, len(code) + 1), (-1, 10), (0, -1), (len(code) + 1, None), (1 << 62, 1 << 62), (0, 0)]:
        with pytest.raises(ArtifactError):
            Image(path, offset, size)
    with pytest.raises(ArtifactError, match="regular file"):
        Image("/dev/zero")
    with pytest.raises(FileNotFoundError):
        Image(tmp_path / "missing")


def program_header(code: bytes, kind: int, flags: int | None = None) -> int:
    """Place of the first program header of a type."""
    start, count = struct.unpack_from("<Q", code, 32)[0], struct.unpack_from("<H", code, 56)[0]
    for place in range(start, start + count * PROGRAM_HEADER.size, PROGRAM_HEADER.size):
        found = struct.unpack_from("<II", code, place)
        if found[0] == kind and flags in (None, found[1]):
            return place
    raise AssertionError(kind)


def changed(code: bytes, place: int, layout: str, *values: int) -> bytes:
    copy = bytearray(code)
    struct.pack_into(layout, copy, place, *values)
    return bytes(copy)


def dynamic_entry(code: bytes, wanted: int) -> int:
    offset = struct.unpack_from("<Q", code, program_header(code, 2) + 8)[0]
    while True:
        if struct.unpack_from("<q", code, offset)[0] == wanted:
            return offset
        offset += DYNAMIC_ENTRY.size


def table(code: bytes, tag: int) -> int:
    return struct.unpack_from("<Q", code, dynamic_entry(code, tag) + 8)[0]  # its segment begins at address 0


def hostile(code: bytes) -> dict[str, tuple[bytes, str]]:
    read, run, write = (program_header(code, 1, flags) for flags in (4, 5, 6))
    size = len(code)
    return {
        "writable code": (changed(code, run + 4, "<I", 7), "permissions"),
        "segment past the end": (changed(code, run + 32, "<QQ", size, size), "past the end"),
        "segment of huge size": (changed(code, write + 40, "<Q", 1 << 63), "2 GiB"),
        "segment beyond 2 GiB": (changed(code, write + 16, "<Q", 1 << 40), "2 GiB"),
        "smaller in memory": (changed(code, write + 40, "<Q", 1), "past the end of the file or of its memory"),
        "grown read-only": (changed(code, read + 40, "<Q", 8192), "larger in memory"),
        "moved file offset": (changed(code, run + 8, "<Q", 16), "do not agree"),
        "overlapping segments": (
            changed(code, run + 16, "<Q", struct.unpack_from("<Q", code, run + 8)[0]), "overlap"),
        "odd alignment": (changed(code, run + 48, "<Q", 4095), "alignment 4095"),
        "alignment of nothing": (changed(code, run + 48, "<Q", 0), "alignment 0"),
        "executable stack": (changed(code, program_header(code, 0x6474E551) + 4, "<I", 7), "executable stack"),
        "no stack entry": (changed(code, program_header(code, 0x6474E551), "<I", 7), "not allowed"),
        "interpreter": (changed(code, program_header(code, 0x6474E551), "<I", 3), "not allowed"),
        "protected code": (
            changed(code, program_header(code, 0x6474E552) + 16, "<Q", struct.unpack_from("<Q", code, run + 16)[0]),
            "protect after relocation"),
        "needed library": (changed(code, dynamic_entry(code, 14), "<q", 1), "closed object"),
        "initialiser": (changed(code, dynamic_entry(code, 14), "<q", 12), "closed object"),
        "moved string table": (changed(code, dynamic_entry(code, 5) + 8, "<Q", 1 << 63), "string table"),
        "endless string table": (changed(code, dynamic_entry(code, 10) + 8, "<Q", 1 << 62), "string table"),
        "odd relocations": (changed(code, dynamic_entry(code, 8) + 8, "<Q", 25), "relocation table"),
        "relocation of code": (
            changed(code, table(code, 7), "<Q", struct.unpack_from("<Q", code, run + 16)[0]), "not a writable"),
        "relocation outside": (changed(code, table(code, 7), "<Q", (1 << 64) - 8), "not a writable"),
        "relocation to outside": (changed(code, table(code, 7) + 16, "<q", -1), "outside the image"),
        "imported symbol": (changed(code, table(code, 6) + 24 + 6, "<H", 0), "not a function"),
        "exported data": (changed(code, table(code, 6) + 24 + 4, "<B", 0x11), "not a function"),
        "function in data": (changed(code, table(code, 6) + 24 + 8, "<Q", 64), "outside the executable"),
        "name outside": (changed(code, table(code, 6) + 24, "<I", 0xFFFFFFFF), "no valid name"),
        "same name twice": (changed(code, table(code, 6) + 48, "<I", 1), "no valid name"),
        "endless symbols": (changed(code, table(code, 4) + 4, "<I", 0xFFFFFFFF), "symbol table"),
        "no symbols": (changed(code, table(code, 4) + 4, "<I", 0), "null symbol"),
        "no program headers": (changed(code, 56, "<H", 0), "0 program headers"),
        "endless program headers": (changed(code, 56, "<H", 65535), "65535 program headers"),
        "program headers outside": (changed(code, 32, "<Q", size), "outside the file"),
        "32 bit": (changed(code, 4, "<B", 1), "not an ELF64"),
        "big endian": (changed(code, 5, "<B", 2), "not an ELF64"),
        "relocatable object": (changed(code, 16, "<H", 1), "not an ELF64"),
        "empty": (b"", "cannot hold"),
        "header alone": (code[: HEADER.size], "outside the file"),
    }  # fmt: skip


@pytest.mark.parametrize("case", hostile(build(EM_X86_64)))
@pytest.mark.parametrize("machine", [EM_X86_64, EM_AARCH64], ids=["x86-64", "aarch64"])
def test_refuses(case: str, machine: int) -> None:
    code, message = hostile(build(machine))[case]
    with pytest.raises(ArtifactError, match=message):
        read_layout(code, machine=machine, page_size=4096)


def load(code: bytes) -> bool:
    """Map `code`, which may be anything; whether it was accepted."""
    try:
        image = Image.from_bytes(code)
    except ArtifactError:
        return False
    for name in image.symbols:
        ctypes.string_at(image.symbol(name), 1)
    image.close()
    return True


def test_every_word_of_the_headers_at_its_extremes(code: bytes) -> None:
    """Whatever number stands anywhere in the headers and tables, mapping raises ArtifactError or is safe."""
    text = program_header(code, 1, 5)
    end = struct.unpack_from("<Q", code, text + 8)[0]
    dynamic, size = struct.unpack_from("<Q24xQ", code, program_header(code, 2) + 8)
    accepted = 0
    for place in [*range(0, end, 8), *range(dynamic, dynamic + size, 8)]:
        word = struct.unpack_from("<Q", code, place)[0]
        for value in (0, (1 << 64) - 1, 1 << 63, word + 1, word + 4096, word - 4096, len(code), 1 << 31):
            accepted += load(changed(code, place, "<Q", value % (1 << 64)))
    assert accepted


def test_mutated_code_gives_an_artifact_error_or_a_safe_image(code: bytes) -> None:
    source = random.Random(21)
    accepted = 0
    for _ in range(3000):
        mutated = bytearray(code)
        for _ in range(source.choice([1, 2, 4])):
            mutated[source.randrange(len(code))] = source.choice([0, 1, 8, 0x7F, 0x80, 0xFF, source.randrange(256)])
        accepted += load(bytes(mutated))
    assert 0 < accepted < 3000


def test_cut_short(code: bytes) -> None:
    end = max(
        struct.unpack_from("<Q", code, place + 8)[0] + struct.unpack_from("<Q", code, place + 32)[0]
        for place in (program_header(code, 1, flags) for flags in (4, 5, 6))
    )
    for length in [*range(0, end, 37), end - 1]:
        assert not load(code[:length])


def test_errors_are_one_family() -> None:
    assert issubclass(UnsupportedCpuError, ArtifactError) and issubclass(ArtifactError, IngotError)
    assert issubclass(RuntimeFault, IngotError) and not issubclass(RuntimeFault, ArtifactError)
