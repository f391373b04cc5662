"""Links relocatable ELF64 objects into one closed shared object, without a system linker.

Closed means: nothing is imported, nothing is constructed at load, and the only dynamic relocations are RELATIVE. Code
generated for reloc='pic', codemodel='small' needs no more, on x86-64 and on AArch64. The result is a regular ET_DYN
file: the runtime's loader, dlopen, C linkers, gdb, objdump and perf all read it.

Memory is laid out as R (headers, symbols, constants), RX (code), RW protected after relocation (pointer tables, dynamic
section, GOT), RW (data, bss), and R for a tail of data that may be of any size. The file is dense: a segment's address
is the next page plus its file offset within the page; the tail begins a page of its own, in the file as well.
Formats: System V ABI (gABI 4.1) chapters 4 and 5, with the processor supplements.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ingot.compiler.targets.elf_object import (
    SECTION_HEADER,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHN_ABS,
    SHN_COMMON,
    SHN_UNDEF,
    SHT_NOBITS,
    SHT_PROGBITS,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    SMALL_CODE_MODEL,
    STB_GLOBAL,
    STB_LOCAL,
    STB_WEAK,
    STT_FILE,
    STT_FUNC,
    STT_GNU_IFUNC,
    STT_OBJECT,
    STT_SECTION,
    STT_TLS,
    LinkError,
    RelocatableObject,
    Section,
    Symbol,
    read_object,
)
from ingot.compiler.targets.elf_relocations import REFUSED, RULES, OutOfRangeError, Rule, Value
from ingot.runtime import elf

__all__ = ["Link", "LinkError", "Output", "Strings", "Tail", "link", "resolved"]

_SHT_HASH: Final = 5
_SHT_DYNAMIC: Final = 6
_SHT_DYNSYM: Final = 11
_GLOBAL_OFFSET_TABLE: Final = "_GLOBAL_OFFSET_TABLE_"

# Output sections in file order; each group becomes one segment.
_READ_ONLY: Final = (".hash", ".dynsym", ".dynstr", ".rela.dyn", ".rodata", ".eh_frame")
_CODE: Final = (".text",)
_PROTECTED: Final = (".data.rel.ro", ".dynamic", ".got")
_WRITABLE: Final = (".data", ".bss")
_SEGMENTS: Final = (
    (_READ_ONLY, elf.PF_R, SHF_ALLOC),
    (_CODE, elf.PF_R | elf.PF_X, SHF_ALLOC | SHF_EXECINSTR),
    (_PROTECTED, elf.PF_R | elf.PF_W, SHF_ALLOC | SHF_WRITE),
    (_WRITABLE, elf.PF_R | elf.PF_W, SHF_ALLOC | SHF_WRITE),
)
_LOADED_FLAGS: Final = MappingProxyType({
    **{name: flags for names, _, flags in _SEGMENTS for name in names}, ".tail": SHF_ALLOC,
})  # fmt: skip
_TAIL: Final = ".tail"
_NOT_LOADED: Final = (".symtab", ".strtab", ".shstrtab")
# Type, section that sh_link names, size of one entry, alignment.
_TABLES: Final = MappingProxyType({
    ".hash": (_SHT_HASH, ".dynsym", 4, 8),
    ".dynsym": (_SHT_DYNSYM, ".dynstr", elf.SYMBOL.size, 8),
    ".dynstr": (SHT_STRTAB, "", 0, 1),
    ".rela.dyn": (SHT_RELA, ".dynsym", elf.RELOCATION.size, 8),
    ".dynamic": (_SHT_DYNAMIC, ".dynstr", elf.DYNAMIC_ENTRY.size, 8),
    ".got": (SHT_PROGBITS, "", 8, 8),
    ".symtab": (SHT_SYMTAB, ".strtab", elf.SYMBOL.size, 8),
    ".strtab": (SHT_STRTAB, "", 0, 1),
    ".shstrtab": (SHT_STRTAB, "", 0, 1),
})  # fmt: skip


@dataclass(frozen=True)
class Tail:
    """Read-only data of `size` bytes behind everything else, aligned to a page; objects know it as `symbol`. It may be
    larger than the reach of the small code model, because its address is taken from the GOT."""

    symbol: str
    size: int


def link(objects: Sequence[bytes], *, soname: str, exports: Collection[str], tail: Tail | None = None) -> bytes:
    """Link relocatable objects of one machine into a closed shared object named `soname`.

    With a `tail` the result ends where the content of the tail belongs: whoever writes the file appends it.

    Global symbols resolve across the objects (a strong definition wins over weak ones, else the first weak one); local
    symbols stay apart even when they have the same name. Only `exports`, which must be functions, can be found from
    outside; every other symbol is kept as a local one for debuggers. The same input gives the same bytes.

    Raises LinkError, listing every cause found: malformed objects, undefined or twice defined symbols, exports that are
    missing or not functions, thread-local storage, constructors, absolute addresses in read-only sections, relocations
    of an unknown type or out of range.
    """
    job = resolved(objects, soname=soname, exports=exports, tail=tail)
    job.write_tables()
    job.assign_addresses()
    job.relocate()
    job.stop_on_problems()
    job.write_addresses()
    return job.write_file()


def resolved(objects: Sequence[bytes], *, soname: str, exports: Collection[str], tail: Tail | None) -> Link:
    """A link whose sections have places, whose symbols are known and whose relocations can be made. Raises LinkError
    as `link` does."""
    if not soname or not soname.isprintable():
        raise LinkError([f"{soname!r} is no name for a shared object"])
    if not objects:
        raise LinkError(["there are no objects"])
    problems: list[str] = []
    inputs = [read_object(f"object {index}", data, problems) for index, data in enumerate(objects)]
    if len({each.machine for each in inputs}) > 1:
        raise LinkError(["the objects are for different machines"])
    job = Link(inputs, soname, sorted(set(exports)), problems, tail)
    job.place_sections()
    job.define_symbols()
    job.scan_relocations()
    job.stop_on_problems()
    return job


@dataclass
class Output:
    """One section of the result; `size` exceeds the content only for .bss, which has none."""

    name: str
    alignment: int = 1
    content: bytearray = field(default_factory=bytearray)
    size: int = 0
    address: int = 0
    offset: int = 0

    def fill(self, content: bytes | bytearray) -> None:
        """Make `content` all of it."""
        self.content[:] = content
        self.size = len(content)


class Strings:
    """A string table, `content`; equal strings share one entry."""

    def __init__(self) -> None:
        self.content = bytearray(1)
        self._offsets = {"": 0}

    def add(self, text: str) -> int:
        """The offset of `text`, which is added where it is new."""
        offset = self._offsets.get(text)
        if offset is None:
            offset = self._offsets[text] = len(self.content)
            self.content += text.encode() + b"\0"
        return offset


class Link:
    """One link in progress; its steps are called once each, in the order in which they stand here."""

    def __init__(
        self,
        objects: list[RelocatableObject],
        soname: str,
        exports: list[str],
        problems: list[str],
        tail: Tail | None,
    ) -> None:
        self.objects = objects
        self.tail = tail
        self.machine = objects[0].machine
        self.soname = soname
        self.exports = exports
        self.problems = problems
        self.outputs = {name: Output(name, 8) for names, _, _ in _SEGMENTS for name in names}
        self.starts: dict[Section, int] = {}
        self.definitions: dict[str, Symbol] = {}
        self.got: dict[Symbol, int] = {}
        self.pointers: list[tuple[Section, int, Symbol, int]] = []
        self.patches: list[tuple[Section, int, Rule, Symbol, int]] = []
        self.segments: list[tuple[int, ...]] = []
        self.loaded_bytes = 0

    def stop_on_problems(self) -> None:
        if self.problems:
            raise LinkError(self.problems)

    def place_sections(self) -> None:
        """Give every input section its place in an output section."""
        self.stop_on_problems()  # before anything of a size that a header claims is allocated
        if sum(section.size + section.alignment for each in self.objects for section in each.sections) > 1 << 30:
            raise LinkError(["the objects hold more than 1 GiB of code and data; pass large data through pointers"])
        breakpoint_instruction = b"\xcc" if self.machine == elf.EM_X86_64 else b"\0"
        for each in self.objects:
            for section in each.sections:
                output = self.outputs[section.output]
                # Unwind records form a list that a gap would end, so they are packed without any.
                alignment = 1 if section.output == ".eh_frame" else section.alignment
                start = self.starts[section] = elf.round_up(output.size, alignment)
                output.alignment = max(output.alignment, section.alignment)
                output.size = start + section.size
                if section.data is not None:
                    padding = breakpoint_instruction if section.output == ".text" else b"\0"
                    output.content += padding * (start - len(output.content))
                    output.content += section.data
        if self.outputs[".eh_frame"].size:
            self.outputs[".eh_frame"].fill(self.outputs[".eh_frame"].content + bytes(4))

    def define_symbols(self) -> None:
        """Collect the global definitions and check the exports among them."""
        if self.tail is not None:
            output = self.outputs[_TAIL] = Output(_TAIL, elf.SEGMENT_ALIGNMENT[self.machine], size=self.tail.size)
            section = Section("the tail", _TAIL, output.alignment, None, self.tail.size)
            self.starts[section] = 0
            symbol = Symbol(self.tail.symbol, STB_GLOBAL, STT_OBJECT, SHN_ABS, section, 0, self.tail.size)
            self._define("the tail", symbol)
        for each in self.objects:
            for symbol in each.symbols:
                self._define(each.label, symbol)
        for name in self.exports:
            symbol = self.definitions.get(name)
            if symbol is None:
                self.problems.append(f"export {name!r} is not defined as a global symbol by any object")
            elif symbol.type != STT_FUNC or symbol.section is None or symbol.section.output != ".text":
                # A C caller that is not position independent would copy exported data: two variables of one name.
                self.problems.append(f"export {name!r} is not a function; only functions can be exported")
            elif symbol.value >= symbol.section.size:
                self.problems.append(f"export {name!r} is a function without code")
            elif not name.isascii():
                self.problems.append(f"export {name!r} is not an ASCII name")

    def _define(self, label: str, symbol: Symbol) -> None:
        where = f"{label}: symbol {symbol.name!r}"
        if symbol.type == STT_TLS:
            self.problems.append(f"{where} is thread-local: pass state through a pointer")
        elif symbol.type == STT_GNU_IFUNC:
            self.problems.append(f"{where} is an indirect function, which only a dynamic linker can resolve")
        elif symbol.binding == STB_LOCAL or symbol.index == SHN_UNDEF:
            return
        elif symbol.binding not in (STB_GLOBAL, STB_WEAK):
            self.problems.append(f"{where} has the unknown binding {symbol.binding}")
        elif symbol.section is None:
            kind = "a common symbol: initialise it" if symbol.index == SHN_COMMON else "not in loaded code or data"
            self.problems.append(f"{where} is {kind}")
        else:
            known = self.definitions.setdefault(symbol.name, symbol)
            if known is not symbol and symbol.binding == STB_GLOBAL:
                if known.binding == STB_GLOBAL:
                    self.problems.append(f"{where} is defined a second time")
                self.definitions[symbol.name] = symbol

    def scan_relocations(self) -> None:
        """Check every relocation and find the GOT entries and dynamic relocations that they need."""
        for each in self.objects:
            targets = self.targets(each)
            for section, table in each.relocations:
                for offset, info, addend in elf.RELOCATION.iter_unpack(table):
                    kind: int = info & 0xFFFFFFFF
                    index: int = info >> 32
                    rule = RULES[self.machine].get(kind)
                    if rule is None:
                        reason = REFUSED[self.machine].get(kind, "unknown")
                        self.problems.append(
                            f"{section.label}+{offset:#x}: relocation type {kind} ({reason}) cannot be linked; "
                            f"{SMALL_CODE_MODEL}"
                        )
                    elif offset + rule.field.size > section.size or index >= len(targets):
                        raise LinkError([f"{each.label} is malformed: {section.label}+{offset:#x}: {rule.name}"])
                    elif rule.value is not Value.NOTHING:
                        target = targets[index]
                        if target is None:
                            self._report_undefined(each, each.symbols[index])
                        else:
                            self._add_relocation(section, offset, rule, target, addend)

    def targets(self, source: RelocatableObject) -> list[Symbol | None]:
        """What each symbol of an object stands for; None where it stands for nothing that is loaded."""
        return [
            symbol.section and symbol if symbol.binding == STB_LOCAL else self.definitions.get(symbol.name)
            for symbol in source.symbols
        ]

    def _report_undefined(self, source: RelocatableObject, symbol: Symbol) -> None:
        if symbol.name == _GLOBAL_OFFSET_TABLE:
            self.problems.append(f"{source.label}: addresses are relative to the GOT; {SMALL_CODE_MODEL}")
        elif symbol.index == SHN_UNDEF and symbol.name:
            self.problems.append(f"undefined symbol {symbol.name!r} ({source.label})")
        else:
            self.problems.append(f"{source.label}: reference to {symbol.name!r}, which is not in loaded code or data")

    def _add_relocation(self, section: Section, offset: int, rule: Rule, target: Symbol, addend: int) -> None:
        where = f"{section.label}+{offset:#x}: {rule.name} against {target.name!r}"
        if rule.value is Value.ABSOLUTE:
            if section.output not in (".data", ".data.rel.ro"):
                self.problems.append(f"{where}: absolute address in a read-only section; {SMALL_CODE_MODEL}")
            elif (self.starts[section] + offset) % 8:
                self.problems.append(f"{where}: address in a word that is not aligned to 8 bytes")
            self.pointers.append((section, offset, target, addend))
            return
        if rule.got:
            if addend and self.machine == elf.EM_AARCH64:
                self.problems.append(f"{where}: GOT entry with an addend")
            self.got.setdefault(target, 8 * len(self.got))
        self.patches.append((section, offset, rule, target, addend))

    def write_tables(self) -> None:
        """Write what does not depend on addresses, and give the rest its size."""
        strings = Strings()
        self.name_offsets = [strings.add(name) for name in self.exports]
        self.soname_offset = strings.add(self.soname)
        dynamic_relocations = len(self.pointers) + len(self.got)
        self.outputs[".dynstr"].fill(strings.content)
        self.outputs[".hash"].fill(_hash_table(self.exports))
        self.outputs[".dynsym"].fill(bytes(elf.SYMBOL.size * (len(self.exports) + 1)))
        self.outputs[".rela.dyn"].fill(bytes(elf.RELOCATION.size * dynamic_relocations))
        self.outputs[".got"].fill(bytes(8 * len(self.got)))
        self.outputs[".dynamic"].fill(self._dynamic_section())
        self.outputs[".dynstr"].alignment = 1

    def assign_addresses(self) -> None:
        """Lay the sections out in the file and in memory."""
        page = elf.SEGMENT_ALIGNMENT[self.machine]
        present = {name: output for name, output in self.outputs.items() if output.size}
        groups = [([present[name] for name in names if name in present], flags) for names, flags, _ in _SEGMENTS]
        groups = [(members, flags) for members, flags in groups if members]
        others: list[tuple[int, ...]] = []
        offset = elf.HEADER.size + elf.PROGRAM_HEADER.size * (len(groups) + 3 + (self.tail is not None))
        end = 0
        for members, flags in groups:
            # Aligning the offset aligns the address too, because no section asks for more than a page.
            offset = elf.round_up(offset, members[0].alignment)
            shift = elf.round_up(end, page) + offset % page - offset
            start = offset if end else 0
            end = offset + shift
            for output in members:
                if output.name == ".bss":
                    output.offset, output.address = offset, elf.round_up(end, output.alignment)
                else:
                    output.offset = elf.round_up(offset, output.alignment)
                    output.address = output.offset + shift
                    offset = output.offset + output.size
                end = output.address + output.size
            address = start + shift
            if members[0].name in _PROTECTED:
                # Whole pages, because protection works on pages and must meet only memory that is mapped.
                end = elf.round_up(end, page)
                others.append((elf.PT_GNU_RELRO, elf.PF_R, start, address, address, offset - start, end - address, 1))
            self.segments.append((elf.PT_LOAD, flags, start, address, address, offset - start, end - address, page))
        if end > elf.MAX_IMAGE_BYTES:
            raise LinkError(["the image is larger than 2 GiB, beyond the small code model"])
        if self.tail is not None:
            self.outputs[_TAIL].address = address = elf.round_up(end, page)
            end = address + self.tail.size
            place = (0, address, address, self.tail.size, self.tail.size, page)  # the offset comes last of all
            self.segments.append((elf.PT_LOAD, elf.PF_R, *place))
        for output in self.outputs.values():
            if not output.size:
                output.address = end  # objects without size have an address too, of no memory
        self.memory_end, self.loaded_bytes = end, offset
        dynamic = self.outputs[".dynamic"]
        place = (dynamic.offset, dynamic.address, dynamic.address, dynamic.size, dynamic.size, 8)
        stack = (elf.PT_GNU_STACK, elf.PF_R | elf.PF_W, 0, 0, 0, 0, 0, 16)
        self.segments += [(elf.PT_DYNAMIC, elf.PF_R | elf.PF_W, *place), stack, *others]

    def _address(self, section: Section, offset: int) -> int:
        return self.outputs[section.output].address + self.starts[section] + offset

    def _symbol_address(self, symbol: Symbol) -> int:
        assert symbol.section is not None  # only symbols in sections are targets and definitions
        return self._address(symbol.section, symbol.value)

    def relocate(self) -> None:
        """Write every relocated field, and the table of the words that the loader has to add its base to."""
        got = self.outputs[".got"].address
        for section, offset, rule, target, addend in self.patches:
            wanted = got + self.got[target] if rule.got else self._symbol_address(target)
            try:
                rule.apply(
                    self.outputs[section.output].content,
                    self.starts[section] + offset,
                    wanted + addend,
                    self._address(section, offset),
                )
            except OutOfRangeError as error:
                where = f"{section.label}+{offset:#x}: {rule.name} against {target.name!r}"
                self.problems.append(f"{where} cannot reach its target: {error}")
        words = [
            (self._address(section, offset), self._symbol_address(target) + addend)
            for section, offset, target, addend in self.pointers
        ]
        for address, value in words:
            if not 0 <= value <= self.memory_end:
                self.problems.append(f"the word at {address:#x} points to {value:#x}, outside the image")
        words += [(got + place, self._symbol_address(target)) for target, place in self.got.items()]
        self.stop_on_problems()
        relative = elf.RELATIVE[self.machine]
        table = b"".join(elf.RELOCATION.pack(address, relative, value) for address, value in sorted(words))
        self.outputs[".rela.dyn"].fill(table)

    def _dynamic_section(self) -> bytes:
        entries = [(elf.DT_SONAME, self.soname_offset)]
        entries += [
            (elf.DT_HASH, self.outputs[".hash"].address),
            (elf.DT_STRTAB, self.outputs[".dynstr"].address),
            (elf.DT_SYMTAB, self.outputs[".dynsym"].address),
            (elf.DT_STRSZ, self.outputs[".dynstr"].size),
            (elf.DT_SYMENT, elf.SYMBOL.size),
        ]
        relocations = self.outputs[".rela.dyn"]
        if relocations.size:
            entries += [
                (elf.DT_RELA, relocations.address),
                (elf.DT_RELASZ, relocations.size),
                (elf.DT_RELAENT, elf.RELOCATION.size),
                (elf.DT_RELACOUNT, relocations.size // elf.RELOCATION.size),
            ]
        return b"".join(elf.DYNAMIC_ENTRY.pack(*entry) for entry in [*entries, (elf.DT_NULL, 0)])

    def write_addresses(self) -> None:
        """Write the symbol tables and the dynamic section, whose sizes were known before."""
        self.numbers = {"": 0}
        for output in self.outputs.values():
            if output.size:
                self.numbers[output.name] = len(self.numbers)
        symbols = [bytes(elf.SYMBOL.size)]
        for name, offset in zip(self.exports, self.name_offsets, strict=True):
            symbols.append(self._symbol_entry(self.definitions[name], offset, STB_GLOBAL))
        self.outputs[".dynsym"].fill(b"".join(symbols))
        self.outputs[".dynamic"].fill(self._dynamic_section())

    def _symbol_entry(self, symbol: Symbol, name: int, binding: int) -> bytes:
        assert symbol.section is not None
        number = self.numbers.get(symbol.section.output, SHN_ABS)
        info = binding << 4 | symbol.type
        return elf.SYMBOL.pack(name, info, 0, number, self._symbol_address(symbol), symbol.size)

    def _debug_symbols(self) -> tuple[bytes, int, bytes]:
        """Symbol table of everything that has a name, the number of its local symbols, its string table."""
        strings = Strings()
        entries = [bytes(elf.SYMBOL.size)]
        exported = {self.definitions[name] for name in self.exports}
        for each in self.objects:
            for symbol in each.symbols:
                if symbol.type == STT_FILE:
                    entries.append(elf.SYMBOL.pack(strings.add(symbol.name), STT_FILE, 0, SHN_ABS, 0, 0))
                elif symbol.section is None or symbol.type == STT_SECTION or symbol in exported:
                    continue
                elif symbol.name and not symbol.name.startswith(".L"):
                    entries.append(self._symbol_entry(symbol, strings.add(symbol.name), STB_LOCAL))
        local = len(entries)
        for name in self.exports:
            entries.append(self._symbol_entry(self.definitions[name], strings.add(name), STB_GLOBAL))
        return b"".join(entries), local, bytes(strings.content)

    def write_file(self) -> bytes:
        """Put headers, sections, symbols for debuggers and section headers together."""
        symbols, local, strings = self._debug_symbols()
        sections = [output for output in self.outputs.values() if output.size]
        offset = self.loaded_bytes
        names = Strings()
        for name in (*(output.name for output in sections), *_NOT_LOADED):
            names.add(name)
        for name, content in zip(_NOT_LOADED, (symbols, strings, bytes(names.content)), strict=True):
            output = Output(name, offset=elf.round_up(offset, 8))
            output.fill(content)
            self.numbers[name] = len(self.numbers)
            sections.append(output)
            offset = output.offset + output.size
        headers_offset = elf.round_up(offset, 8)
        end = headers_offset + SECTION_HEADER.size * (len(sections) + 1)
        if self.tail is not None:
            output = self.outputs[_TAIL]
            output.offset = end = elf.round_up(end, output.alignment)
            self.segments = [
                (*each[:2], end, *each[3:]) if each[3] == output.address and each[0] == elf.PT_LOAD else each
                for each in self.segments
            ]
        result = bytearray(headers_offset)
        result[: elf.HEADER.size] = elf.HEADER.pack(
            elf.IDENTIFICATION, elf.ET_DYN, self.machine, 1, 0, elf.HEADER.size, headers_offset, 0, elf.HEADER.size,
            elf.PROGRAM_HEADER.size, len(self.segments), SECTION_HEADER.size, len(sections) + 1, len(sections),
        )  # fmt: skip
        programs = b"".join(elf.PROGRAM_HEADER.pack(*segment) for segment in self.segments)
        result[elf.HEADER.size : elf.HEADER.size + len(programs)] = programs
        headers = [bytes(SECTION_HEADER.size)]
        for output in sections:
            result[output.offset : output.offset + len(output.content)] = output.content
            default = SHT_NOBITS if output.name == ".bss" else SHT_PROGBITS, "", 0, output.alignment
            kind, linked, entry_size, alignment = _TABLES.get(output.name, default)
            info = {".symtab": local, ".dynsym": 1}.get(output.name, 0)
            place = (output.address, output.offset, output.size)
            fields = (names.add(output.name), kind, _LOADED_FLAGS.get(output.name, 0), *place)
            headers.append(SECTION_HEADER.pack(*fields, self.numbers[linked], info, alignment, entry_size))
        return (bytes(result) + b"".join(headers)).ljust(end, b"\0")


def _hash_table(names: Sequence[str]) -> bytes:
    """The DT_HASH table of `names`, which are symbols 1, 2 and so on (gABI chapter 5, Hash Table)."""
    buckets = [0] * max(1, len(names))
    chains = [0] * (len(names) + 1)
    for number, name in enumerate(names, 1):
        value = 0
        for byte in name.encode():
            value = (value << 4) + byte
            high = value & 0xF0000000
            value = (value ^ high >> 24) & ~high & 0xFFFFFFFF
        bucket = value % len(buckets)
        chains[number] = buckets[bucket]
        buckets[bucket] = number
    words = [len(buckets), len(chains), *buckets, *chains]
    return b"".join(word.to_bytes(4, "little") for word in words)
