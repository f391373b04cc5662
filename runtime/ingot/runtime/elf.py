"""The closed ELF64 shared objects that hold an artifact's machine code: constants and a strict reader.

Closed means that nothing is imported: the only relocations are RELATIVE. The reader accepts only the shape that the
compiler's linker writes, and checks every size, offset, address and count.
Format: System V ABI (gABI 4.1) chapters 4 and 5, with the x86-64 and AArch64 supplements.
"""

from __future__ import annotations

import os
import struct
import sys
from types import MappingProxyType
from typing import Final, NamedTuple

from ingot.runtime.errors import ArtifactError, UnsupportedCpuError

EM_X86_64: Final = 62
EM_AARCH64: Final = 183
MACHINE_NAMES: Final = MappingProxyType({EM_X86_64: "x86-64", EM_AARCH64: "AArch64"})

SEGMENT_ALIGNMENT: Final = MappingProxyType({EM_X86_64: 4096, EM_AARCH64: 65536})
"""Alignment in bytes of the segments, and of the artifact member that holds them, for each ELF machine number."""

MAX_IMAGE_BYTES: Final = 1 << 31
"""Address space one image may take: what the small code model can reach."""

HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
DYNAMIC_ENTRY: Final = struct.Struct("<qQ")
SYMBOL: Final = struct.Struct("<IBBHQQ")
RELOCATION: Final = struct.Struct("<QQq")
IDENTIFICATION: Final = b"\x7fELF\x02\x01\x01" + bytes(9)  # 64 bit, little endian, version 1, System V ABI

ET_DYN: Final = 3
PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PT_GNU_STACK: Final = 0x6474E551
PT_GNU_RELRO: Final = 0x6474E552
PF_X: Final = 1
PF_W: Final = 2
PF_R: Final = 4
DT_NULL: Final = 0
DT_HASH: Final = 4
DT_STRTAB: Final = 5
DT_SYMTAB: Final = 6
DT_RELA: Final = 7
DT_RELASZ: Final = 8
DT_RELAENT: Final = 9
DT_STRSZ: Final = 10
DT_SYMENT: Final = 11
DT_SONAME: Final = 14
DT_RELACOUNT: Final = 0x6FFFFFF9
RELATIVE: Final = MappingProxyType({EM_X86_64: 8, EM_AARCH64: 1027})
GLOBAL_FUNCTION: Final = 1 << 4 | 2  # STB_GLOBAL, STT_FUNC

_REQUIRED_TAGS: Final = (DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT)
_ACCEPTED_TAGS: Final = frozenset((*_REQUIRED_TAGS, DT_RELA, DT_RELASZ, DT_RELAENT, DT_RELACOUNT, DT_SONAME))
_MAX_PROGRAM_HEADERS: Final = 16
_HOST_MACHINES: Final = MappingProxyType(
    {"x86_64": EM_X86_64, "amd64": EM_X86_64, "aarch64": EM_AARCH64, "arm64": EM_AARCH64}
)


class Segment(NamedTuple):
    """One loadable segment; all numbers are bytes, addresses are relative to the load address."""

    offset: int
    address: int
    file_size: int
    memory_size: int
    flags: int

    @property
    def end(self) -> int:
        return self.address + self.memory_size


class Layout(NamedTuple):
    """What a validated shared object asks of the loader.

    `relocations` holds (address, addend) pairs: the 8-byte word at `address` becomes load address + `addend`. `relro`
    is the page-aligned range (start, end) to be made read-only afterwards. `symbols` maps functions to addresses.
    Addresses are relative to the load address; `span` bytes from there, aligned to `alignment`, belong to the object.
    """

    segments: tuple[Segment, ...]
    span: int
    alignment: int
    relocations: tuple[tuple[int, int], ...]
    relro: tuple[int, int] | None
    symbols: dict[str, int]


def host_machine() -> int:
    """ELF machine number of this process. Raises UnsupportedCpuError where machine code cannot be loaded at all."""
    name = os.uname().machine.lower()
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32 or sys.byteorder != "little":
        raise UnsupportedCpuError(
            f"compiled code runs on 64-bit little-endian Linux only; this is {name} on {sys.platform}"
        )
    if name not in _HOST_MACHINES:
        raise UnsupportedCpuError(f"no compiled code exists for {name} processors; x86-64 and AArch64 are supported")
    return _HOST_MACHINES[name]


def read_layout(code: bytes, *, machine: int, page_size: int) -> Layout:
    """Validate a closed shared object and return what is needed to load it.

    Raises UnsupportedCpuError for code of another machine or page size, ArtifactError for everything else that differs
    from what the compiler's linker writes.
    """
    headers = _read_headers(code, machine)
    segments: list[Segment] = []
    dynamic: tuple[int, int] | None = None
    relro: tuple[int, int] | None = None
    stack_flags: int | None = None
    alignment = page_size
    for kind, flags, offset, address, _, file_size, memory_size, align in headers:
        if kind == PT_LOAD:
            if align & (align - 1) or not 4096 <= align <= 65536:
                raise ArtifactError(f"machine code: segment alignment {align} is not a power of two of 4 to 64 KiB")
            if align < page_size:
                raise UnsupportedCpuError(
                    f"machine code is laid out for pages of {align} bytes, but this kernel uses {page_size}"
                )
            segment = Segment(offset, address, file_size, memory_size, flags)
            _check_segment(segment, segments, len(code), align, page_size)
            segments.append(segment)
            alignment = max(alignment, align)
        elif kind == PT_DYNAMIC and dynamic is None:
            dynamic = (address, memory_size)
        elif kind == PT_GNU_RELRO and relro is None:
            relro = (address, address + memory_size)
        elif kind == PT_GNU_STACK and stack_flags is None:
            stack_flags = flags
        else:
            raise ArtifactError(f"machine code: program header of type {kind:#x} is repeated or not allowed")
    if not segments or dynamic is None:
        raise ArtifactError("machine code: no loadable segment or no dynamic section")
    if stack_flags is None or stack_flags & PF_X:
        raise ArtifactError("machine code: it asks for an executable stack")
    if relro is not None:
        relro = _check_relro(relro, segments, page_size)
    span = round_up(segments[-1].end, page_size)

    memory = _FileBackedMemory(code, tuple(segments))
    tags = _read_dynamic(memory, *dynamic)
    return Layout(
        segments=tuple(segments),
        span=span,
        alignment=alignment,
        relocations=_read_relocations(memory, tags, span, RELATIVE[machine]),
        relro=relro,
        symbols=_read_symbols(memory, tags),
    )


def round_up(value: int, alignment: int) -> int:
    return (value + alignment - 1) & -alignment


def round_down(value: int, alignment: int) -> int:
    return value & -alignment


def _read_headers(code: bytes, machine: int) -> list[tuple[int, int, int, int, int, int, int, int]]:
    if len(code) < HEADER.size:
        raise ArtifactError(f"machine code: {len(code)} bytes cannot hold an ELF header")
    identification, kind, found, version, _, start, *rest = HEADER.unpack_from(code)
    _, _, header_size, entry_size, count, *_ = rest
    if identification != IDENTIFICATION or kind != ET_DYN or version != 1 or header_size != HEADER.size:
        raise ArtifactError("machine code: not an ELF64 little-endian shared object")
    if found != machine:
        name = MACHINE_NAMES.get(found, f"ELF machine {found}")
        raise UnsupportedCpuError(f"machine code is for {name}, not {MACHINE_NAMES.get(machine, machine)}")
    if entry_size != PROGRAM_HEADER.size or not 0 < count <= _MAX_PROGRAM_HEADERS:
        raise ArtifactError(f"machine code: {count} program headers of {entry_size} bytes")
    end = start + count * PROGRAM_HEADER.size
    if start < HEADER.size or end > len(code):
        raise ArtifactError("machine code: the program headers lie outside the file")
    return list(PROGRAM_HEADER.iter_unpack(code[start:end]))


def _check_segment(segment: Segment, before: list[Segment], code_size: int, align: int, page_size: int) -> None:
    if segment.offset + segment.file_size > code_size or segment.file_size > segment.memory_size:
        raise ArtifactError("machine code: a segment reaches past the end of the file or of its memory")
    if segment.memory_size == 0 or segment.end > MAX_IMAGE_BYTES:
        raise ArtifactError(f"machine code: a segment of {segment.memory_size} bytes is empty or beyond 2 GiB")
    if segment.flags not in (PF_R, PF_R | PF_X, PF_R | PF_W):
        raise ArtifactError(f"machine code: segment permissions {segment.flags:#x} are not R, RX or RW")
    if not segment.flags & PF_W and segment.file_size != segment.memory_size:
        raise ArtifactError("machine code: a read-only segment is larger in memory than in the file")
    if segment.address % align != segment.offset % align:
        raise ArtifactError("machine code: a segment's address and file offset do not agree on the place in a page")
    if before:
        if round_down(segment.address, page_size) < round_up(before[-1].end, page_size):
            raise ArtifactError("machine code: segments overlap or are not in order of address")
    elif segment.address or segment.offset:
        raise ArtifactError("machine code: the first segment does not begin at address and offset 0")


def _check_relro(relro: tuple[int, int], segments: list[Segment], page_size: int) -> tuple[int, int]:
    start, end = relro
    for segment in segments:
        if segment.flags & PF_W and segment.address <= start < end <= round_up(segment.end, page_size):
            return round_down(start, page_size), round_down(end, page_size)
    raise ArtifactError("machine code: the range to protect after relocation is not part of a writable segment")


class _FileBackedMemory(NamedTuple):
    """The parts of the image's memory whose content comes from the file, read before anything is mapped."""

    code: bytes
    segments: tuple[Segment, ...]

    def read(self, address: int, size: int, what: str) -> bytes:
        for segment in self.segments:
            start = address - segment.address
            if start >= 0 and start + size <= segment.file_size:
                return self.code[segment.offset + start : segment.offset + start + size]
        raise ArtifactError(f"machine code: the {what} lies outside the file-backed segments")


def _read_dynamic(memory: _FileBackedMemory, address: int, size: int) -> dict[int, int]:
    if size % DYNAMIC_ENTRY.size:
        raise ArtifactError("machine code: the dynamic section is cut short")
    tags: dict[int, int] = {}
    for tag, value in DYNAMIC_ENTRY.iter_unpack(memory.read(address, size, "dynamic section")):
        if tag == DT_NULL:
            break
        if tag not in _ACCEPTED_TAGS or tag in tags:
            raise ArtifactError(f"machine code: dynamic tag {tag:#x} is repeated or not that of a closed object")
        tags[tag] = value
    else:
        raise ArtifactError("machine code: the dynamic section has no end")
    if any(tag not in tags for tag in _REQUIRED_TAGS) or tags[DT_SYMENT] != SYMBOL.size:
        raise ArtifactError("machine code: the dynamic section lacks a symbol table")
    return tags


def _read_relocations(
    memory: _FileBackedMemory, tags: dict[int, int], span: int, relative: int
) -> tuple[tuple[int, int], ...]:
    if DT_RELA not in tags:
        return ()
    size = tags.get(DT_RELASZ, 0)
    if size % RELOCATION.size or tags.get(DT_RELAENT) != RELOCATION.size:
        raise ArtifactError("machine code: the relocation table has entries of an unknown size")
    writable = [(segment.address, segment.end - 8) for segment in memory.segments if segment.flags & PF_W]
    relocations: list[tuple[int, int]] = []
    for address, info, addend in RELOCATION.iter_unpack(memory.read(tags[DT_RELA], size, "relocation table")):
        if info != relative:
            raise ArtifactError(f"machine code: relocation {info:#x} is not RELATIVE: the object is not closed")
        if address % 8 or not any(first <= address <= last for first, last in writable):
            raise ArtifactError(f"machine code: relocation of {address:#x}, which is not a writable aligned word")
        if not 0 <= addend <= span:
            raise ArtifactError(f"machine code: relocation to {addend:#x}, outside the image")
        relocations.append((address, addend))
    return tuple(relocations)


def _read_symbols(memory: _FileBackedMemory, tags: dict[int, int]) -> dict[str, int]:
    count = int.from_bytes(memory.read(tags[DT_HASH], 8, "symbol hash table")[4:], "little")
    table = memory.read(tags[DT_SYMTAB], count * SYMBOL.size, "symbol table")
    names = memory.read(tags[DT_STRTAB], tags[DT_STRSZ], "string table")
    executable = [(s.address, s.address + s.file_size) for s in memory.segments if s.flags & PF_X]
    if not count or any(table[: SYMBOL.size]):
        raise ArtifactError("machine code: the symbol table does not begin with the null symbol")
    symbols: dict[str, int] = {}
    for name_offset, info, _, section, address, _ in SYMBOL.iter_unpack(table[SYMBOL.size :]):
        end = names.find(b"\0", name_offset)
        name = names[name_offset:end].decode("latin-1") if end >= 0 else ""
        if not name or not name.isascii() or name in symbols:
            raise ArtifactError("machine code: an exported symbol has no valid name of its own")
        if info != GLOBAL_FUNCTION or not section:
            raise ArtifactError(f"machine code: symbol {name!r} is not a function that is defined here")
        for first, last in executable:
            if first <= address < last:
                break
        else:
            raise ArtifactError(f"machine code: function {name!r} lies outside the executable segments")
        symbols[name] = address
    return symbols
