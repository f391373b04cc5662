"""Relocation types of x86-64 and AArch64 ELF that position-independent code in the small code model uses.

One row a type: what is computed from S (symbol address), A (addend) and P (place), and the field that takes it.
Sources: x86-64 psABI 1.0 section 4.4; ELF for the Arm 64-bit Architecture section 5.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from ingot.runtime.elf import EM_AARCH64, EM_X86_64

_PAGE: Final = 4096  # what ADRP counts in, whatever the page size of the system


class Value(Enum):
    """What a relocation computes; where the symbol is reached through the GOT, S is the address of its entry."""

    NOTHING = "-"
    ABSOLUTE = "S + A"
    RELATIVE = "S + A - P"
    PAGE = "Page(S + A) - Page(P)"
    LOW12 = "(S + A) mod 4096"


class OutOfRangeError(ValueError):
    """A relocation's value does not fit the field that it is for."""


@dataclass(frozen=True)
class Word:
    """A signed little-endian integer in the data or at the end of an instruction."""

    size: int

    def write(self, content: bytearray, position: int, value: int) -> None:
        limit = 1 << 8 * self.size - 1
        if not -limit <= value < limit:
            raise OutOfRangeError(f"{value:#x} does not fit {8 * self.size} bits")
        content[position : position + self.size] = value.to_bytes(self.size, "little", signed=True)


@dataclass(frozen=True)
class Immediate:
    """`bits` bits at bit `lowest` of an AArch64 instruction, which hold the value divided by 2**`scale`."""

    bits: int
    lowest: int
    scale: int = 0
    signed: bool = True
    size: int = 4

    def write(self, content: bytearray, position: int, value: int) -> None:
        if value & ((1 << self.scale) - 1):
            raise OutOfRangeError(f"{value:#x} is not a multiple of {1 << self.scale}")
        scaled = value >> self.scale
        lower, upper = (-1 << self.bits - 1, 1 << self.bits - 1) if self.signed else (0, 1 << self.bits)
        if not lower <= scaled < upper:
            raise OutOfRangeError(f"{value:#x} does not fit {self.bits} bits of {1 << self.scale} bytes")
        self.insert(content, position, ((1 << self.bits) - 1) << self.lowest, scaled << self.lowest)

    def insert(self, content: bytearray, position: int, mask: int, value: int) -> None:
        word = int.from_bytes(content[position : position + 4], "little")
        content[position : position + 4] = (word & ~mask | value & mask).to_bytes(4, "little")


@dataclass(frozen=True)
class AddressImmediate(Immediate):
    """The immediate of ADR and ADRP, whose two lowest bits stand at bit 29."""

    bits: int = 21
    lowest: int = 5

    def insert(self, content: bytearray, position: int, mask: int, value: int) -> None:
        scaled = value >> self.lowest
        super().insert(content, position, 0x7FFFF << 5, scaled >> 2 << 5)
        super().insert(content, position, 3 << 29, scaled << 29)


@dataclass(frozen=True)
class Rule:
    """How one relocation type is carried out."""

    name: str
    value: Value
    field: Word | Immediate
    got: bool = False

    def apply(self, content: bytearray, position: int, target: int, place: int) -> None:
        """Write the field at `position` for `target` = S + A and `place` = P. Raises OutOfRangeError."""
        if self.value is Value.RELATIVE:
            target -= place
        elif self.value is Value.PAGE:
            target = (target & -_PAGE) - (place & -_PAGE)
        elif self.value is Value.LOW12:
            target &= _PAGE - 1
        self.field.write(content, position, target)


def _low12(scale: int) -> Immediate:
    return Immediate(bits=12 - scale, lowest=10, scale=scale, signed=False)


_X86_64: Final = MappingProxyType({
    0: Rule("R_X86_64_NONE", Value.NOTHING, Word(0)),
    1: Rule("R_X86_64_64", Value.ABSOLUTE, Word(8)),
    2: Rule("R_X86_64_PC32", Value.RELATIVE, Word(4)),
    4: Rule("R_X86_64_PLT32", Value.RELATIVE, Word(4)),
    9: Rule("R_X86_64_GOTPCREL", Value.RELATIVE, Word(4), got=True),
    24: Rule("R_X86_64_PC64", Value.RELATIVE, Word(8)),
    41: Rule("R_X86_64_GOTPCRELX", Value.RELATIVE, Word(4), got=True),
    42: Rule("R_X86_64_REX_GOTPCRELX", Value.RELATIVE, Word(4), got=True),
})  # fmt: skip

_AARCH64: Final = MappingProxyType({
    0: Rule("R_AARCH64_NONE", Value.NOTHING, Word(0)),
    256: Rule("R_AARCH64_NONE", Value.NOTHING, Word(0)),
    257: Rule("R_AARCH64_ABS64", Value.ABSOLUTE, Word(8)),
    260: Rule("R_AARCH64_PREL64", Value.RELATIVE, Word(8)),
    261: Rule("R_AARCH64_PREL32", Value.RELATIVE, Word(4)),
    273: Rule("R_AARCH64_LD_PREL_LO19", Value.RELATIVE, Immediate(19, 5, scale=2)),
    274: Rule("R_AARCH64_ADR_PREL_LO21", Value.RELATIVE, AddressImmediate()),
    275: Rule("R_AARCH64_ADR_PREL_PG_HI21", Value.PAGE, AddressImmediate(scale=12)),
    277: Rule("R_AARCH64_ADD_ABS_LO12_NC", Value.LOW12, _low12(0)),
    278: Rule("R_AARCH64_LDST8_ABS_LO12_NC", Value.LOW12, _low12(0)),
    279: Rule("R_AARCH64_TSTBR14", Value.RELATIVE, Immediate(14, 5, scale=2)),
    280: Rule("R_AARCH64_CONDBR19", Value.RELATIVE, Immediate(19, 5, scale=2)),
    282: Rule("R_AARCH64_JUMP26", Value.RELATIVE, Immediate(26, 0, scale=2)),
    283: Rule("R_AARCH64_CALL26", Value.RELATIVE, Immediate(26, 0, scale=2)),
    284: Rule("R_AARCH64_LDST16_ABS_LO12_NC", Value.LOW12, _low12(1)),
    285: Rule("R_AARCH64_LDST32_ABS_LO12_NC", Value.LOW12, _low12(2)),
    286: Rule("R_AARCH64_LDST64_ABS_LO12_NC", Value.LOW12, _low12(3)),
    299: Rule("R_AARCH64_LDST128_ABS_LO12_NC", Value.LOW12, _low12(4)),
    311: Rule("R_AARCH64_ADR_GOT_PAGE", Value.PAGE, AddressImmediate(scale=12), got=True),
    312: Rule("R_AARCH64_LD64_GOT_LO12_NC", Value.LOW12, _low12(3), got=True),
    314: Rule("R_AARCH64_PLT32", Value.RELATIVE, Word(4)),
})  # fmt: skip

RULES: Final = MappingProxyType({EM_X86_64: _X86_64, EM_AARCH64: _AARCH64})
"""Relocation number to rule, for each ELF machine number."""


def _numbers(reason: str, *numbers: int) -> dict[int, str]:
    return dict.fromkeys(numbers, reason)


REFUSED: Final = MappingProxyType({
    EM_X86_64: MappingProxyType(
        _numbers("absolute address of fewer than 64 bits", 10, 11, 12, 14)
        | _numbers("relative to the GOT", 3, 25, 26, 27, 28, 29, 30, 31)
        | _numbers("thread-local storage", *range(16, 24), *range(34, 37))
    ),
    EM_AARCH64: MappingProxyType(
        _numbers("absolute address of fewer than 64 bits", 258, 259)
        | _numbers("absolute address in a large code model", *range(263, 273))
        | _numbers("thread-local storage", *range(512, 574))
    ),
})  # fmt: skip
"""Why some well-known relocation numbers without a rule cannot be linked."""
