"""Merges relocatable ELF64 objects into one, as ``ld -r`` does, and keeps their names to itself.

The result defines the exports and nothing else that a linker could take for names of other objects: every other symbol
becomes a local one, and relocations stay relocations against symbols of the same object.
Format: System V ABI (gABI 4.1) chapter 4.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import MappingProxyType
from typing import Final

from ingot.compiler.targets.elf import Link, Output, Strings, Tail, resolved
from ingot.compiler.targets.elf_object import (
    SECTION_HEADER,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_NOBITS,
    SHT_PROGBITS,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    STB_GLOBAL,
    STB_LOCAL,
    STT_SECTION,
    Symbol,
)
from ingot.runtime import elf

_ET_REL: Final = 1
_SHF_INFO_LINK: Final = 0x40
_FLAGS: Final = MappingProxyType({
    ".rodata": SHF_ALLOC,
    ".eh_frame": SHF_ALLOC,
    ".text": SHF_ALLOC | SHF_EXECINSTR,
    ".data.rel.ro": SHF_ALLOC | SHF_WRITE,
    ".data": SHF_ALLOC | SHF_WRITE,
    ".bss": SHF_ALLOC | SHF_WRITE,
    ".tail": SHF_ALLOC,
})  # fmt: skip
_NAMES: Final = MappingProxyType({".tail": ".rodata.tail"})
_TAIL_ALIGNMENT: Final = 64


def merge(objects: Sequence[bytes], *, exports: Collection[str], tail: Tail | None = None) -> bytes:
    """One relocatable object of what `objects`, all for one machine, hold; only the functions `exports` are global.

    With a `tail` the result ends where its content belongs, at a multiple of 64 bytes: whoever writes the file appends
    it. The same input gives the same bytes. Raises LinkError as `elf.link` does.
    """
    return _Merge(resolved(objects, soname="merged", exports=exports, tail=tail)).write_file()


class _Merge:
    """A link that stops before addresses."""

    def __init__(self, job: Link) -> None:
        self.job = job
        self.outputs = [job.outputs[name] for name in _FLAGS if name in job.outputs and job.outputs[name].size]
        self.numbers = {output.name: number for number, output in enumerate(self.outputs, 1)}
        self.strings = Strings()
        self.symbols: list[bytes] = [bytes(elf.SYMBOL.size)]
        self.places: dict[Symbol, int] = {}
        self._list_symbols()

    def _list_symbols(self) -> None:
        """Section symbols, then the other local ones, then the exports: globals come last."""
        for output in self.outputs:
            self.symbols.append(elf.SYMBOL.pack(0, STB_LOCAL << 4 | STT_SECTION, 0, self.numbers[output.name], 0, 0))
        exported = {self.job.definitions[name] for name in self.job.exports}
        known = [symbol for each in self.job.objects for symbol in each.symbols]
        for symbol in (*known, *self.job.definitions.values()):
            wanted = symbol.binding == STB_LOCAL or self.job.definitions.get(symbol.name) is symbol
            if symbol.section is None or symbol.type == STT_SECTION or symbol in exported or not wanted:
                continue
            if symbol not in self.places:
                self._add(symbol, STB_LOCAL)
        self.first_global = len(self.symbols)
        for name in self.job.exports:
            self._add(self.job.definitions[name], STB_GLOBAL)

    def _add(self, symbol: Symbol, binding: int) -> None:
        assert symbol.section is not None  # only what is loaded is listed
        # A section that nothing else is in may be empty and have gone.
        number = self.numbers.get(symbol.section.output, 0)
        if not number:
            return
        self.places[symbol] = len(self.symbols)
        value = self.job.starts[symbol.section] + symbol.value
        info = binding << 4 | symbol.type
        self.symbols.append(elf.SYMBOL.pack(self.strings.add(symbol.name), info, 0, number, value, symbol.size))

    def _relocations(self) -> dict[str, bytes]:
        """The relocations of each section, by its name."""
        tables: dict[str, list[tuple[int, int, int]]] = {}
        for each in self.job.objects:
            targets = self.job.targets(each)
            for section, table in each.relocations:
                start, entries = self.job.starts[section], tables.setdefault(section.output, [])
                for offset, info, given in elf.RELOCATION.iter_unpack(table):
                    index: int = info >> 32
                    kind: int = info & 0xFFFFFFFF
                    addend: int = given
                    target, number = targets[index], 0
                    if target is not None and target.type == STT_SECTION:
                        assert target.section is not None
                        number = self.numbers[target.section.output]
                        addend += self.job.starts[target.section] + target.value
                    elif target is not None:
                        number = self.places[target]
                    entries.append((start + offset, number << 32 | kind, addend))
        return {
            name: b"".join(elf.RELOCATION.pack(*entry) for entry in sorted(entries))
            for name, entries in tables.items()
            if entries
        }

    def write_file(self) -> bytes:
        """Header, sections, symbols, relocations, section headers; then the tail's place."""
        content = bytearray(elf.HEADER.size)
        headers = [bytes(SECTION_HEADER.size)]
        names = Strings()
        relocations = self._relocations()
        symbol_table = len(self.outputs) + len(relocations) + 1

        def add(name: str, kind: int, flags: int, data: bytes, size: int, *rest: int) -> None:
            link, info, alignment, entry_size = rest
            content.extend(bytes(-len(content) % alignment))
            place = (0, len(content), size)
            headers.append(
                SECTION_HEADER.pack(names.add(name), kind, flags, *place, link, info, alignment, entry_size)
            )
            content.extend(data)

        for output in self.outputs:
            if output.name == ".tail":
                headers.append(b"")  # lies behind everything else
                continue
            kind = SHT_NOBITS if output.name == ".bss" else SHT_PROGBITS
            add(output.name, kind, _FLAGS[output.name], bytes(output.content), output.size, 0, 0, output.alignment, 0)
        for name, table in relocations.items():
            numbers = (symbol_table, self.numbers[name], 8, elf.RELOCATION.size)
            add(f".rela{name}", SHT_RELA, _SHF_INFO_LINK, table, len(table), *numbers)
        symbols, strings = b"".join(self.symbols), bytes(self.strings.content)
        add(".symtab", SHT_SYMTAB, 0, symbols, len(symbols), symbol_table + 1, self.first_global, 8, elf.SYMBOL.size)
        add(".strtab", SHT_STRTAB, 0, strings, len(strings), 0, 0, 1, 0)
        add(".note.GNU-stack", SHT_PROGBITS, 0, b"", 0, 0, 0, 1, 0)
        for name in (".shstrtab", *_NAMES.values()):
            names.add(name)
        add(".shstrtab", SHT_STRTAB, 0, bytes(names.content), len(names.content), 0, 0, 1, 0)
        content.extend(bytes(-len(content) % 8))
        headers_offset = len(content)
        content.extend(bytes(SECTION_HEADER.size * len(headers)))
        if ".tail" in self.numbers:
            content.extend(bytes(-len(content) % _TAIL_ALIGNMENT))
            headers[self.numbers[".tail"]] = self._tail_header(names, self.job.outputs[".tail"], len(content))
        table = b"".join(headers)
        content[headers_offset : headers_offset + len(table)] = table
        content[: elf.HEADER.size] = elf.HEADER.pack(
            elf.IDENTIFICATION, _ET_REL, self.job.machine, 1, 0, 0, headers_offset, 0, elf.HEADER.size, 0, 0,
            SECTION_HEADER.size, len(headers), len(headers) - 1,
        )  # fmt: skip
        return bytes(content)

    def _tail_header(self, names: Strings, tail: Output, offset: int) -> bytes:
        name = names.add(_NAMES[tail.name])
        return SECTION_HEADER.pack(name, SHT_PROGBITS, SHF_ALLOC, 0, offset, tail.size, 0, 0, _TAIL_ALIGNMENT, 0)
