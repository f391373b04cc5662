"""Reads relocatable ELF64 objects: what of them is loaded, their symbols, their relocations.

Everything is checked against the size of the file, so malformed bytes give a LinkError and nothing else.
Format: System V ABI (gABI 4.1) chapter 4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from ingot.runtime import elf
from ingot.runtime.errors import IngotError

SECTION_HEADER: Final = struct.Struct("<IIQQQQIIQQ")
SHT_PROGBITS: Final = 1
SHT_SYMTAB: Final = 2
SHT_STRTAB: Final = 3
SHT_RELA: Final = 4
SHT_NOTE: Final = 7
SHT_NOBITS: Final = 8
SHF_WRITE: Final = 1
SHF_ALLOC: Final = 2
SHF_EXECINSTR: Final = 4
STB_LOCAL: Final = 0
STB_GLOBAL: Final = 1
STB_WEAK: Final = 2
STT_OBJECT: Final = 1
STT_FUNC: Final = 2
STT_SECTION: Final = 3
STT_FILE: Final = 4
STT_TLS: Final = 6
STT_GNU_IFUNC: Final = 10
SHN_UNDEF: Final = 0
SHN_ABS: Final = 0xFFF1
SHN_COMMON: Final = 0xFFF2

SMALL_CODE_MODEL: Final = "compile with reloc='pic', codemodel='small'"

_ET_REL: Final = 1
_SHT_REL: Final = 9
_SHT_X86_64_UNWIND: Final = 0x70000001
_CONSTRUCTOR_TYPES: Final = (14, 15, 16)  # SHT_INIT_ARRAY, SHT_FINI_ARRAY, SHT_PREINIT_ARRAY
_CONSTRUCTOR_NAMES: Final = (".init", ".fini", ".ctors", ".dtors")
_OTHER_RELOCATIONS: Final = (_SHT_REL, 19, 0x40000014)  # SHT_REL, SHT_RELR, SHT_CREL
_SHF_TLS: Final = 0x400
_SHF_COMPRESSED: Final = 0x800
_SHF_X86_64_LARGE: Final = 0x10000000
_SHN_LORESERVE: Final = 0xFF00
_SHN_XINDEX: Final = 0xFFFF
_SHOWN_PROBLEMS: Final = 20


class LinkError(IngotError):
    """The objects cannot become one closed shared object; `problems` has one line for each reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        shown = self.problems[:_SHOWN_PROBLEMS]
        more = len(self.problems) - len(shown)
        super().__init__("cannot link: " + "; ".join(shown) + (f"; and {more} more" if more else ""))


@dataclass(frozen=True, eq=False)
class Section:
    """A section that is loaded. `output` names the section of the result that it joins; .bss ones have no `data`."""

    label: str
    output: str
    alignment: int
    data: memoryview | None
    size: int


@dataclass(frozen=True, eq=False)
class Symbol:
    """A symbol; `section` is None when it is undefined or defined outside of what is loaded."""

    name: str
    binding: int
    type: int
    index: int
    section: Section | None
    value: int
    size: int


@dataclass(frozen=True)
class RelocatableObject:
    """What the linker uses of one object; `relocations` pairs a section with its raw ELF64 RELA entries."""

    label: str
    machine: int
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    relocations: tuple[tuple[Section, memoryview], ...]


class _SectionHeader(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


def read_object(label: str, content: bytes, problems: list[str]) -> RelocatableObject:
    """Read one object. What is well formed but cannot be linked is appended to `problems`; LinkError if malformed."""
    data = memoryview(content).cast("B")
    if len(data) < elf.HEADER.size:
        raise LinkError([f"{label} is malformed: {len(data)} bytes cannot hold an ELF header"])
    identification, kind, machine, *_, table, _, _, _, _, entry_size, count, last = elf.HEADER.unpack_from(data)
    names: int = last
    # The byte after the version is the OS ABI: System V, or GNU for objects that use its extensions.
    if identification[:7] != elf.IDENTIFICATION[:7] or identification[7] not in (0, 3) or kind != _ET_REL:
        raise LinkError([f"{label} is not a relocatable ELF64 little-endian object"])
    if machine not in elf.MACHINE_NAMES:
        raise LinkError([f"{label} is for ELF machine {machine}; only x86-64 and AArch64 objects can be linked"])
    if entry_size != SECTION_HEADER.size or not 0 <= names < count:
        raise LinkError([f"{label} is malformed: {count} section headers of {entry_size} bytes"])
    header_table = _part(data, table, count * SECTION_HEADER.size, label)
    headers = [_SectionHeader(*fields) for fields in SECTION_HEADER.iter_unpack(header_table)]
    section_names = bytes(_part(data, headers[names].offset, headers[names].size, label))
    sections = [_read_section(header, section_names, data, label, machine, problems) for header in headers]
    tables = [index for index, header in enumerate(headers) if header.type == SHT_SYMTAB]
    if len(tables) > 1:
        raise LinkError([f"{label} is malformed: it has {len(tables)} symbol tables"])
    symbols = _read_symbols(headers, tables[0], data, sections, label) if tables else ()
    relocations: list[tuple[Section, memoryview]] = []
    for header in headers:
        target = sections[header.info] if header.info < count else None
        if target is None or header.type not in (SHT_RELA, *_OTHER_RELOCATIONS):
            continue
        usable = header.type == SHT_RELA and header.size % elf.RELOCATION.size == 0 and [header.link] == tables
        if not usable or target.data is None:
            raise LinkError([f"{label} is malformed: the relocations of {target.label} cannot be read"])
        relocations.append((target, _part(data, header.offset, header.size, label)))
    loaded = tuple(section for section in sections if section is not None)
    return RelocatableObject(label, machine, loaded, symbols, tuple(relocations))


def _part(data: memoryview, offset: int, size: int, label: str) -> memoryview:
    if offset + size > len(data):
        raise LinkError([f"{label} is malformed: a section or table lies outside the file"])
    return data[offset : offset + size]


def _name(table: bytes, offset: int, label: str) -> str:
    end = table.find(b"\0", offset)
    if end < 0:
        raise LinkError([f"{label} is malformed: a name lies outside its string table"])
    try:
        return table[offset:end].decode()
    except UnicodeDecodeError:
        raise LinkError([f"{label} is malformed: a name is not UTF-8"]) from None


def _read_section(
    header: _SectionHeader, names: bytes, data: memoryview, label: str, machine: int, problems: list[str]
) -> Section | None:
    kind, flags, alignment = header.type, header.flags, header.alignment
    if not kind:
        return None
    name = _name(names, header.name, label)
    where = f"{label}, section {name}"
    if name == ".note.GNU-stack" and flags & SHF_EXECINSTR:
        problems.append(f"{where}: asks for an executable stack")
    # Notes describe the object, not its code: dropped with everything else that is not loaded.
    if not flags & SHF_ALLOC or kind == SHT_NOTE or (kind in _CONSTRUCTOR_TYPES and not header.size):
        return None
    writable, executable = flags & SHF_WRITE, flags & SHF_EXECINSTR
    if flags & _SHF_TLS:
        problems.append(f"{where}: thread-local storage needs a dynamic linker; pass state through a pointer")
    elif kind in _CONSTRUCTOR_TYPES or name.startswith(_CONSTRUCTOR_NAMES):
        problems.append(f"{where}: constructors and destructors are not run; initialise from an exported function")
    elif flags & _SHF_X86_64_LARGE and machine == elf.EM_X86_64:
        problems.append(f"{where}: belongs to the large code model; {SMALL_CODE_MODEL}")
    elif kind not in (SHT_PROGBITS, SHT_NOBITS) and (kind, machine) != (_SHT_X86_64_UNWIND, elf.EM_X86_64):
        problems.append(f"{where}: loaded section of unknown type {kind:#x}")
    elif flags & _SHF_COMPRESSED or (writable and executable):
        problems.append(f"{where}: loaded section that is compressed, or both writable and executable")
    elif kind == SHT_NOBITS and (executable or not writable):
        problems.append(f"{where}: section without content that is not writable data")
    elif alignment & (alignment - 1) or alignment > elf.SEGMENT_ALIGNMENT[machine]:
        problems.append(f"{where}: alignment {alignment} is not a power of two up to {elf.SEGMENT_ALIGNMENT[machine]}")
    if kind == SHT_NOBITS:
        return Section(where, ".bss", max(alignment, 1), None, header.size)
    if executable:
        output = ".text"
    elif writable:
        output = ".data.rel.ro" if name.startswith(".data.rel.ro") else ".data"
    else:
        output = ".eh_frame" if name == ".eh_frame" else ".rodata"
    content = _part(data, header.offset, header.size, label)
    return Section(where, output, max(alignment, 1), content, header.size)


def _read_symbols(
    headers: list[_SectionHeader], table: int, data: memoryview, sections: list[Section | None], label: str
) -> tuple[Symbol, ...]:
    header = headers[table]
    if header.size % elf.SYMBOL.size or header.link >= len(headers):
        raise LinkError([f"{label} is malformed: the symbol table cannot be read"])
    names = bytes(_part(data, headers[header.link].offset, headers[header.link].size, label))
    entries = _part(data, header.offset, header.size, label)
    symbols: list[Symbol] = []
    index: int
    for name_offset, info, _, index, value, length in elf.SYMBOL.iter_unpack(entries):
        name = _name(names, name_offset, label) if name_offset else ""
        if index == _SHN_XINDEX or len(headers) <= index < _SHN_LORESERVE:
            raise LinkError([f"{label} is malformed: symbol {name!r} lies in a section that does not exist"])
        section = sections[index] if index < len(headers) else None
        if section is not None and value > section.size:
            raise LinkError([f"{label} is malformed: symbol {name!r} lies outside its section"])
        symbols.append(Symbol(name, info >> 4, info & 15, index, section, value, length))
    return tuple(symbols)
