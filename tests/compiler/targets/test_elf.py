"""The linker: its results under dlopen, C linkers, binutils and, for AArch64, qemu; what it refuses; hostile input."""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from ingot.compiler.targets.elf import LinkError, link
from ingot.compiler.targets.elf_object import SECTION_HEADER, SHT_RELA
from ingot.compiler.targets.elf_relocations import RULES
from ingot.runtime.elf import EM_AARCH64, EM_X86_64, host_machine, read_layout

X86_64 = ("x86_64-unknown-linux-gnu", "x86-64-v3")
AARCH64 = ("aarch64-unknown-linux-gnu", "cortex-a76")
MACHINES: dict[tuple[str, str], int] = {X86_64: EM_X86_64, AARCH64: EM_AARCH64}
SYSROOT = "/usr/aarch64-linux-gnu"

on_x86_64 = pytest.mark.skipif(host_machine() != EM_X86_64, reason="runs x86-64 code")


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def output_of(*command: str | Path) -> str:
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert not done.stderr, done.stderr
    return done.stdout


def compile_ir(text: str, target: tuple[str, str] = X86_64, reloc: str = "pic", codemodel: str = "small") -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple, cpu = target
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{text}')
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3, reloc=reloc, codemodel=codemodel)
    return machine.emit_object(module)


# Two objects that call each other and use each other's data; both have a local `scale` and a local `step`.
FIRST = """
@table = internal constant [3 x ptr] [ptr @one, ptr @two, ptr @second]
@step = internal global i64 7
@zeros = internal global [1000 x i64] zeroinitializer, align 64
@shared = global i64 5
@wide = internal constant [8 x i32] [i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 8], align 64
declare i64 @second(i64)
define internal i64 @one(i64 %x) { ret i64 1 }
define internal i64 @two(i64 %x) { ret i64 2 }
define internal i64 @scale() noinline { ret i64 10 }
define i64 @first(i64 %i) {
  %slot = getelementptr [3 x ptr], ptr @table, i64 0, i64 %i
  %function = load ptr, ptr %slot
  %called = call i64 %function(i64 3)
  %scale = call i64 @scale()
  %other = call i64 @second(i64 %i)
  %old = load i64, ptr @step
  %new = add i64 %old, 1
  store i64 %new, ptr @step
  %cell = getelementptr [1000 x i64], ptr @zeros, i64 0, i64 %i
  %zero = load i64, ptr %cell
  %shared = load i64, ptr @shared
  %wide.cell = getelementptr [8 x i32], ptr @wide, i64 0, i64 %i
  %wide = load i32, ptr %wide.cell
  %wide.long = zext i32 %wide to i64
  %a = add i64 %called, %scale
  %b = add i64 %a, %other
  %c = add i64 %b, %old
  %d = add i64 %c, %zero
  %e = add i64 %d, %shared
  %f = add i64 %e, %wide.long
  ret i64 %f
}
"""
SECOND = """
@shared = external global i64
@step = internal constant [4 x double] [double 0.5, double 1.5, double 2.5, double 3.5]
define internal i64 @scale() noinline { ret i64 1000 }
define i64 @second(i64 %x) {
  %scale = call i64 @scale()
  %product = mul i64 %x, %scale
  %shared = load i64, ptr @shared
  %sum = add i64 %product, %shared
  ret i64 %sum
}
define i64 @cases(i64 %x) {
  switch i64 %x, label %other [ i64 0, label %a
    i64 1, label %b
    i64 2, label %c
    i64 3, label %d
    i64 4, label %e ]
a: %ra = call i64 @scale()
  ret i64 %ra
b: %rb = call i64 @second(i64 1)
  ret i64 %rb
c: store i64 6, ptr @shared
  ret i64 -2
d: ret i64 77
e: %re = call i64 @second(i64 4)
  ret i64 %re
other: ret i64 -1
}
define double @half(i64 %x) {
  %cell = getelementptr [4 x double], ptr @step, i64 0, i64 %x
  %value = load double, ptr %cell
  ret double %value
}
"""
EXPORTS = ("first", "cases", "half")


def expected_first(i: int, calls_before: int) -> int:
    second = 1000 * i + 5
    return (1, 2, 3005)[i] + 10 + second + (7 + calls_before) + 0 + 5 + (i + 1)


C_CALLER = """
#include <stdio.h>
long first(long); long cases(long); double half(long);
int main(void) {
    for (long i = 0; i < 3; i++) printf("%ld ", first(i));
    for (long i = -1; i < 6; i++) printf("%ld ", cases(i));
    printf("%g", half(3));
}
"""
C_OUTPUT = " ".join(
    [*(str(expected_first(i, i)) for i in range(3)), *("-1", "1000", "1005", "-2", "77", "4006", "-1"), "3.5"]
)


@pytest.fixture(scope="module", params=[X86_64, AARCH64], ids=["x86-64", "aarch64"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    objects = [compile_ir(FIRST, request.param), compile_ir(SECOND, request.param)]
    path = tmp_path_factory.mktemp("library") / "libcalls.so"
    path.write_bytes(link(objects, soname="libcalls.so", exports=EXPORTS))
    return MACHINES[request.param], path


def test_calls_between_objects(library: tuple[int, Path]) -> None:
    machine, path = library
    if machine != host_machine():
        pytest.skip("code of another machine")
    loaded = ctypes.CDLL(str(path))
    loaded.first.restype = loaded.cases.restype = ctypes.c_int64
    loaded.half.restype = ctypes.c_double
    assert [loaded.first(ctypes.c_int64(i)) for i in range(3)] == [expected_first(i, i) for i in range(3)]
    assert [loaded.cases(ctypes.c_int64(i)) for i in range(-1, 6)] == [-1, 1000, 1005, -2, 77, 4006, -1]
    assert [loaded.half(i) for i in range(4)] == [0.5, 1.5, 2.5, 3.5]
    assert not hasattr(loaded, "second")


def test_only_exports_are_dynamic_and_the_reader_accepts(library: tuple[int, Path]) -> None:
    machine, path = library
    layout = read_layout(path.read_bytes(), machine=machine, page_size=4096)
    assert set(layout.symbols) == set(EXPORTS)
    assert len(layout.relocations) >= 3
    assert [segment.flags for segment in layout.segments] == [4, 5, 6, 6]


def test_binutils_read_it_without_warnings(library: tuple[int, Path]) -> None:
    _, path = library
    symbols = output_of(tool("readelf"), "-aW", path)
    assert "libcalls.so" in symbols and symbols.count(" scale\n") == 2 and symbols.count(" step\n") == 2
    assert "GLOBAL DEFAULT" in symbols and "UND first" not in symbols
    dynamic = output_of(tool("readelf"), "--dyn-syms", "-W", path)
    assert all(name in dynamic for name in EXPORTS) and "second" not in dynamic and "scale" not in dynamic
    histogram = output_of(tool("readelf"), "-I", "-W", path)
    assert "bucket list length" in histogram


def test_objdump_shows_internal_names(library: tuple[int, Path]) -> None:
    machine, path = library
    objdump = tool("objdump" if machine == host_machine() else "aarch64-linux-gnu-objdump")
    code = output_of(objdump, "-d", path)
    assert code.count("<scale>:") == 2 and "<second>:" in code


@pytest.mark.parametrize("flags", [(), ("-no-pie",), ("-fno-pic", "-no-pie", "-O2")], ids=["pie", "no-pie", "no-pic"])
def test_c_caller(library: tuple[int, Path], tmp_path: Path, flags: tuple[str, ...]) -> None:
    machine, path = library
    native = machine == host_machine()
    gcc = tool("gcc" if native else "aarch64-linux-gnu-gcc")
    source, program = tmp_path / "caller.c", tmp_path / "caller"
    source.write_text(C_CALLER)
    output_of(gcc, *flags, source, path, f"-Wl,-rpath,{path.parent}", "-o", program)
    if native:
        assert output_of(program) == C_OUTPUT
        return
    for page_size in ("4096", "16384", "65536"):
        assert output_of(tool("qemu-aarch64"), "-p", page_size, "-L", SYSROOT, program) == C_OUTPUT


def test_same_input_gives_same_bytes() -> None:
    objects = [compile_ir(FIRST), compile_ir(SECOND)]
    once = link(objects, soname="a.so", exports=["first", "half"])
    assert once == link(objects, soname="a.so", exports={"half", "first"})
    assert once == link([compile_ir(FIRST), compile_ir(SECOND)], soname="a.so", exports=("half", "first", "first"))


def test_smallest_objects() -> None:
    code = link([compile_ir("")], soname="empty.so", exports=[])
    assert read_layout(code, machine=EM_X86_64, page_size=4096).symbols == {}
    code = link([compile_ir("define void @f() { ret void }")], soname="f.so", exports=["f"])
    assert set(read_layout(code, machine=EM_X86_64, page_size=4096).symbols) == {"f"}
    assert len(code) < 2048


@pytest.mark.parametrize("target", [X86_64, AARCH64], ids=["x86-64", "aarch64"])
def test_objects_without_size(target: tuple[str, str]) -> None:
    text = """@none = internal global [0 x i32] zeroinitializer
    @empty = constant [0 x i32] zeroinitializer
    @pointers = global [2 x ptr] [ptr @none, ptr @empty]
    define internal void @never() { unreachable }
    define ptr @f() { ret ptr @none }
    define ptr @g() { ret ptr @never }"""
    code = link([compile_ir(text, target)], soname="x.so", exports=["f", "g"])
    layout = read_layout(code, machine=MACHINES[target], page_size=4096)
    assert all(0 <= addend <= layout.span for _, addend in layout.relocations)
    with pytest.raises(LinkError, match="without code"):
        link([compile_ir("define void @f() { unreachable }", target)], soname="x.so", exports=["f"])


@on_x86_64
def test_strong_definition_wins_over_weak_ones(tmp_path: Path) -> None:
    weak = "define weak i32 @value() { ret i32 %d }\n"
    caller = "declare i32 @value()\ndefine i32 @f() { %r = call i32 @value()\n ret i32 %r }"
    strong = "define i32 @value() { ret i32 3 }"
    answers: list[int] = []
    for number, others in enumerate([[strong], [], [weak % 2, strong]]):
        path = tmp_path / f"weak{number}.so"
        texts = [weak % 1, *others, caller]
        path.write_bytes(link([compile_ir(text) for text in texts], soname=path.name, exports=["f"]))
        answers.append(ctypes.CDLL(str(path)).f())
    assert answers == [3, 1, 3]


@on_x86_64
def test_many_functions_and_names_of_any_hash(tmp_path: Path) -> None:
    names = [f"kernel_{'x' * (i % 40)}_{i}" for i in range(300)]
    objects = [compile_ir(f"define i32 @{name}() {{ ret i32 {i} }}") for i, name in enumerate(names)]
    path = tmp_path / "many.so"
    path.write_bytes(link(objects, soname="many.so", exports=names))
    loaded = ctypes.CDLL(str(path))
    assert [getattr(loaded, name)() for name in names] == list(range(300))


VOID = "define void @f() { ret void }"
REFUSALS: dict[str, tuple[str, dict[str, str], str]] = {
    "undefined": (
        """declare float @expf(float)
        declare void @gone()
        define void @f(float %x) {
          %y = call float @expf(float %x)
          call void @gone()
          ret void
        }""", {}, "undefined symbol 'expf'",
    ),
    "thread-local": ("@t = thread_local global i32 1\n define ptr @f() { ret ptr @t }", {}, "thread-local"),
    "constructor": (
        """@llvm.global_ctors = appending global [1 x { i32, ptr, ptr }] [{ i32, ptr, ptr } { i32 1, ptr @f, ptr null }]
        define void @f() { ret void }""", {}, "constructors",
    ),
    "static code": (
        """@g = internal global [9 x i32] zeroinitializer
        define i32 @f(i64 %i) {
          %p = getelementptr [9 x i32], ptr @g, i64 0, i64 %i
          %r = load i32, ptr %p
          ret i32 %r
        }""", {"reloc": "static"}, "absolute address of fewer than 64 bits",
    ),
    "static pointer table": (f"@g = constant ptr @f\n {VOID}", {"reloc": "static"}, "read-only"),
    "large code model": (
        """@g = global i32 1
        define i32 @f() {
          %r = load i32, ptr @g
          ret i32 %r
        }""", {"codemodel": "large"}, "codemodel='small'",
    ),
    "common symbol": ("@g = common global i32 0\n define ptr @f() { ret ptr @g }", {}, "common symbol"),
    "indirect function": (
        f"@i = ifunc void (), ptr @r\n define ptr @r() {{ ret ptr null }}\n {VOID}", {}, "indirect function",
    ),
    "packed pointer": (f"@g = global <{{ i8, ptr }}> <{{ i8 1, ptr @f }}>\n {VOID}", {}, "aligned"),
    "alignment": (f"@g = global i32 1, align 8192\n {VOID}", {}, "alignment 8192"),
    "pointer out of the image": (f"@g = global ptr getelementptr (i8, ptr @f, i64 99999999)\n {VOID}", {}, "outside"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, options, message = REFUSALS[case]
    with pytest.raises(LinkError, match=message) as caught:
        link([compile_ir(text, X86_64, **options)], soname="x.so", exports=["f"])
    assert caught.value.problems and all(isinstance(problem, str) for problem in caught.value.problems)


@pytest.mark.parametrize("target", [X86_64, AARCH64], ids=["x86-64", "aarch64"])
@pytest.mark.parametrize("addend", [2**31 + 4096, -(2**31) - 4096, 2**63 - 1, -(2**63)])
def test_refuses_targets_out_of_reach(target: tuple[str, str], addend: int) -> None:
    code = bytearray(compile_ir("declare void @g()\n define void @f() { tail call void @g()\n ret void }", target))
    callee = compile_ir("define void @g() { ret void }", target)
    start = int.from_bytes(code[40:48], "little")
    headers = SECTION_HEADER.iter_unpack(code[start:])
    (place,) = [offset for _, kind, _, _, offset, *_ in headers if kind == SHT_RELA and code[offset] < 16]
    code[place + 16 : place + 24] = addend.to_bytes(8, "little", signed=True)
    with pytest.raises(LinkError, match=r"against 'g' cannot reach its target.*(does not fit|multiple)"):
        link([bytes(code), callee], soname="x.so", exports=["f"])


def test_lists_every_cause() -> None:
    text, _, _ = REFUSALS["undefined"]
    with pytest.raises(LinkError) as caught:
        link([compile_ir(text)], soname="x.so", exports=["f", "absent"])
    message = str(caught.value)
    assert "'expf'" in message and "'gone'" in message and "'absent'" in message


def test_refuses_wrong_arguments() -> None:
    one = compile_ir("@data = global i32 1\ndefine void @f() { ret void }\ndefine internal void @g() { ret void }")
    other = compile_ir("define void @f() { ret void }", AARCH64)
    for objects, exports, message in [
        ([one, one], ["f"], "a second time"),
        ([one, other], ["f"], "different machines"),
        ([], [], "no objects"),
        ([one], ["data"], "not a function"),
        ([one], ["g"], "not defined"),
        ([one], ["f", "h"], "'h'"),
        ([b""], [], "malformed"),
        ([b"\x7fELF" + bytes(200)], [], "not a relocatable"),
        ([link([one], soname="x.so", exports=["f"])], ["f"], "not a relocatable"),
        ([one[:100]], ["f"], "malformed"),
    ]:
        with pytest.raises(LinkError, match=message):
            link(objects, soname="x.so", exports=exports)
    for name in ("", "a\0b", "a\nb"):
        with pytest.raises(LinkError, match="no name"):
            link([one], soname=name, exports=["f"])


@pytest.mark.parametrize("target", [X86_64, AARCH64], ids=["x86-64", "aarch64"])
def test_mutated_objects_give_a_link_error_or_a_valid_image(target: tuple[str, str]) -> None:
    objects = [compile_ir(FIRST, target), compile_ir(SECOND, target)]
    random_source = random.Random(20)
    linked = 0
    for _ in range(1500):
        mutated = [bytearray(each) for each in objects]
        victim = random_source.choice(mutated)
        # Half of the time in the section headers and the ELF header, where the numbers are that steer the reader.
        tables = [*range(64), *range(int.from_bytes(victim[40:48], "little"), len(victim))]
        for _ in range(random_source.choice([1, 1, 2, 8])):
            place = random_source.choice(tables if random_source.random() < 0.5 else range(len(victim)))
            victim[place] = random_source.choice([0, 1, 0x7F, 0x80, 0xFF, random_source.randrange(256)])
        if random_source.random() < 0.1:
            del victim[random_source.randrange(len(victim)) :]
        try:
            code = link([bytes(each) for each in mutated], soname="x.so", exports=EXPORTS)
        except LinkError:
            continue
        read_layout(code, machine=MACHINES[target], page_size=4096)
        linked += 1
    assert 0 < linked < 1500


# Every AArch64 relocation type of the table, most of which LLVM does not emit: addresses of the parts of `bytes`.
AARCH64_ASSEMBLY = """
    .text
    .globl probe
    .type probe, %function
probe:
    stp x29, x30, [sp, #-16]!
    mov x9, #0
    adrp x1, bytes
    ldrb w2, [x1, #:lo12:bytes]
    add x9, x9, x2
    ldrh w2, [x1, #:lo12:bytes+2]
    add x9, x9, x2
    ldr w2, [x1, #:lo12:bytes+4]
    add x9, x9, x2
    ldr x2, [x1, #:lo12:bytes+8]
    add x9, x9, x2
    ldr q0, [x1, #:lo12:bytes+16]
    umov x2, v0.d[1]
    add x9, x9, x2
    add x3, x1, #:lo12:bytes
    ldrb w2, [x3, #32]
    add x9, x9, x2
    adr x3, near
    ldr x2, [x3]
    add x9, x9, x2
    ldr x2, near
    add x9, x9, x2
    adrp x3, :got:bytes
    ldr x3, [x3, #:got_lo12:bytes]
    ldrb w2, [x3]
    add x9, x9, x2
    adr x3, prel64
    ldr x2, [x3]
    add x3, x3, x2
    ldrb w2, [x3]
    add x9, x9, x2
    adr x3, prel32
    ldrsw x2, [x3]
    add x3, x3, x2
    ldrb w2, [x3, #2]
    add x9, x9, x2
    adrp x3, pointer
    ldr x3, [x3, #:lo12:pointer]
    ldrb w2, [x3]
    add x9, x9, x2
    mov x0, x9
    bl outer
    cbz xzr, conditional
    mov x0, #0
    .globl resume
resume:
    add x0, x0, #4, lsl #12
    b last
    .size probe, . - probe
    .data
    .balign 8
    .globl pointer
pointer: .xword bytes
"""
AARCH64_OTHER = """
    .text
    .globl outer, conditional, last, near, prel64, prel32
    .type outer, %function
    .type conditional, %function
    .type last, %function
    .balign 8
near: .xword 0x100000
prel64: .xword bytes - .
prel32: .word bytes - .
outer: add x0, x0, #1, lsl #12
    ret
conditional: add x0, x0, #2, lsl #12
    tbz xzr, #3, resume
    mov x0, #0
last: ldp x29, x30, [sp], #16
    ret
    .section .rodata
    .balign 16
    .globl bytes
bytes: .byte 1, 0
    .hword 0x20
    .word 0x300
    .xword 0x4000
    .xword 0
    .xword 0x50000
    .byte 2
"""
AARCH64_SUM = 1 + 0x20 + 0x300 + 0x4000 + 0x50000 + 2 + 2 * 0x100000 + 1 + 1 + 0x20 + 1 + 0x7000
AARCH64_CALLER = """
#include <stdio.h>
long probe(void);
int main(void) { printf("%#lx", probe()); }
"""


def assemble(folder: Path, name: str, text: str) -> bytes:
    source = folder / f"{name}.s"
    source.write_text(text)
    output_of(tool("aarch64-linux-gnu-gcc"), "-c", source, "-o", source.with_suffix(".o"))
    return source.with_suffix(".o").read_bytes()


def test_every_aarch64_relocation_type(tmp_path: Path) -> None:
    objects = [assemble(tmp_path, "probe", AARCH64_ASSEMBLY), assemble(tmp_path, "other", AARCH64_OTHER)]
    listing = output_of(tool("readelf"), "-rW", tmp_path / "probe.o", tmp_path / "other.o")
    names = {rule.name for rule in RULES[EM_AARCH64].values()} - {"R_AARCH64_NONE", "R_AARCH64_PLT32"}
    shown = {word for word in listing.split() if word.startswith("R_AARCH64_")}
    assert shown == {name[: max(map(len, shown))] for name in names}  # readelf cuts long names
    library, program = tmp_path / "libprobe.so", tmp_path / "caller"
    library.write_bytes(link(objects, soname="libprobe.so", exports=["probe"]))
    (tmp_path / "caller.c").write_text(AARCH64_CALLER)
    gcc = tool("aarch64-linux-gnu-gcc")
    output_of(gcc, tmp_path / "caller.c", library, f"-Wl,-rpath,{tmp_path}", "-o", program)
    assert output_of(tool("qemu-aarch64"), "-L", SYSROOT, program) == hex(AARCH64_SUM)


def test_aarch64_branches_out_of_reach(tmp_path: Path) -> None:
    for instruction, distance in [("tbz x0, #0, far", 1 << 15), ("b.eq far", 1 << 20), ("adr x0, far", 1 << 20)]:
        near = f".text\n.globl f\n.type f, %function\nf: {instruction}\n.space {distance - 64}\n"
        far = ".text\n.globl far\n.balign 4\n.space {}\nfar: ret\n"
        objects = [assemble(tmp_path, "near", near), assemble(tmp_path, "far", far.format(4))]
        link(objects, soname="x.so", exports=["f"])
        objects[1] = assemble(tmp_path, "far", far.format(128))
        with pytest.raises(LinkError, match="cannot reach"):
            link(objects, soname="x.so", exports=["f"])
