"""Merging objects: what a linker makes of the result, its names, tails, what is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from ingot.compiler.targets.elf import LinkError, Tail, link
from ingot.compiler.targets.elf_merge import merge
from ingot.compiler.targets.elf_object import read_object
from ingot.runtime.elf import EM_AARCH64, EM_X86_64, host_machine, read_layout

X86_64, AARCH64 = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
MACHINES = {X86_64: EM_X86_64, AARCH64: EM_AARCH64}

# Two objects that call each other and read each other's data; both have a local `part`, a table and writable data.
FIRST = """
@part = internal constant [2 x i64] [i64 100, i64 200]
@shared = global i64 7
@zeros = internal global [64 x i64] zeroinitializer, align 64
@table = internal constant [2 x ptr] [ptr @one, ptr @second]
@data = external constant i8
declare i64 @second(i64)
define internal i64 @one(i64 %x) { ret i64 1 }
define i64 @first(i64 %i) {
  %slot = getelementptr [2 x ptr], ptr @table, i64 0, i64 %i
  %function = load ptr, ptr %slot
  %called = call i64 %function(i64 %i)
  %cell = getelementptr [2 x i64], ptr @part, i64 0, i64 %i
  %part = load i64, ptr %cell
  %zero.cell = getelementptr [64 x i64], ptr @zeros, i64 0, i64 %i
  %zero = load i64, ptr %zero.cell
  %byte.cell = getelementptr i8, ptr @data, i64 %i
  %byte = load i8, ptr %byte.cell
  %wide = zext i8 %byte to i64
  %a = add i64 %called, %part
  %b = add i64 %a, %zero
  %c = add i64 %b, %wide
  ret i64 %c
}
"""
SECOND = """
@part = internal constant [2 x i64] [i64 1000, i64 2000]
@shared = external global i64
define i64 @second(i64 %i) {
  %cell = getelementptr [2 x i64], ptr @part, i64 0, i64 %i
  %part = load i64, ptr %cell
  %shared = load i64, ptr @shared
  %sum = add i64 %part, %shared
  ret i64 %sum
}
"""
MAIN = """
long first(long);
long second(void) { return -1; }
long shared = -1;
int main(void) { return first(0) == 1 + 100 + 11 && first(1) == 2007 + 200 + 22 && second() == -1 ? 0 : 1; }
"""
DATA = bytes([11, 22, 33])


def compile_ir(text: str, triple: str) -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{text}')
    machine = llvm.Target.from_triple(triple).create_target_machine(reloc="pic", codemodel="small")
    return machine.emit_object(module)


def objects(triple: str) -> list[bytes]:
    return [compile_ir(FIRST, triple), compile_ir(SECOND, triple)]


def merged(triple: str) -> bytes:
    return merge(objects(triple), exports=["first"], tail=Tail("data", len(DATA))) + DATA


@pytest.mark.parametrize("flags", [("-O1",), ("-no-pie",), ("-pie", "-fPIE")], ids=" ".join)
@pytest.mark.parametrize("triple", [X86_64, AARCH64])
def test_linked_into_a_program(triple: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    """The program has a `second` and a `shared` of its own, which the object must not meet."""
    here = MACHINES[triple] == host_machine()
    compiler = shutil.which("gcc" if here else "aarch64-linux-gnu-gcc" if triple == AARCH64 else "x86_64-linux-gnu-gcc")
    emulator = "" if here else shutil.which("qemu-aarch64" if triple == AARCH64 else "qemu-x86_64")
    if compiler is None or emulator is None:
        pytest.skip(f"no compiler or no emulator for {triple}")
    (tmp_path / "merged.o").write_bytes(merged(triple))
    (tmp_path / "main.c").write_text(MAIN)
    done = subprocess.run(
        [compiler, *flags, tmp_path / "main.c", tmp_path / "merged.o", "-o", tmp_path / "main"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    where = [emulator, "-L", "/usr/aarch64-linux-gnu"] if emulator else []
    assert subprocess.run([*where, str(tmp_path / "main")]).returncode == 0


@pytest.mark.parametrize("triple", [X86_64, AARCH64])
def test_read_again(triple: str) -> None:
    """The result is an object like its parts: it can be merged and linked again, and only its export is global."""
    problems: list[str] = []
    read = read_object("merged", merged(triple), problems)
    assert not problems
    assert [symbol.name for symbol in read.symbols if symbol.binding] == ["first"]
    assert bytes(next(s for s in read.sections if s.label.endswith(".rodata.tail")).data or b"") == DATA
    again = merge([merged(triple)], exports=["first"])
    code = link([again], soname="x.so", exports=["first"])
    assert list(read_layout(code, machine=MACHINES[triple], page_size=4096).symbols) == ["first"]


def test_same_input_gives_same_bytes() -> None:
    assert merged(X86_64) == merged(X86_64)


def test_binutils_read_it_without_warnings(tmp_path: Path) -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    (tmp_path / "merged.o").write_bytes(merged(X86_64))
    done = subprocess.run([readelf, "-aW", tmp_path / "merged.o"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr and "Warning" not in done.stdout


def test_tail_of_a_shared_object(tmp_path: Path) -> None:
    """Read-only, aligned to a page in memory and in the file, at the end; larger than the reach of an instruction."""
    size = 5 << 30
    for triple, page in ((X86_64, 4096), (AARCH64, 65536)):
        code = link(objects(triple), soname="x.so", exports=["first"], tail=Tail("data", len(DATA)))
        assert len(code) % page == 0
        layout = read_layout(code + DATA, machine=MACHINES[triple], page_size=4096)
        last = layout.segments[-1]
        assert (last.flags, last.offset, last.file_size) == (4, len(code), len(DATA)) and last.address % page == 0
        assert any(value == last.address for _, value in layout.relocations)
        large = link(objects(triple), soname="x.so", exports=["first"], tail=Tail("data", size))
        assert len(large) == len(code)


def test_refusals() -> None:
    first, second = objects(X86_64)
    with pytest.raises(LinkError, match="undefined symbol 'second'"):
        merge([first], exports=["first"], tail=Tail("data", 1))
    with pytest.raises(LinkError, match="undefined symbol 'data'"):
        merge([first, second], exports=["first"])
    with pytest.raises(LinkError, match="'data' is defined a second time"):
        merge([first, second, compile_ir("@data = constant i8 1", X86_64)], exports=["first"], tail=Tail("data", 1))
    with pytest.raises(LinkError, match="'third' is not defined"):
        merge([first, second], exports=["third"], tail=Tail("data", 1))
    with pytest.raises(LinkError, match="different machines"):
        merge([first, compile_ir(SECOND, AARCH64)], exports=["first"])
    for cut in (1, 40, 100, len(second) - 1):
        with pytest.raises(LinkError):
            merge([first, second[:cut]], exports=["first"], tail=Tail("data", 1))
