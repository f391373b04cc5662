"""What this machine's processor can do, in the names that artifacts use for it.

Features carry LLVM's names (`avx2`, `sse4.1`, `dotprod`); `sve256` stands for SVE whose vectors have 256 bits or
more. The Linux kernel lists them in /proc/cpuinfo under names of its own, and only those that it has enabled for
programs; most differ in punctuation alone, the rest is in the tables.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from ingot.runtime.elf import EM_X86_64, host_machine
from ingot.runtime.errors import UnsupportedCpuError

ARCHITECTURES: Final = ("x86-64", "aarch64")

_KERNEL_NAMES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType({
    "x86-64": {
        "64bit": ("lm",), "bmi": ("bmi1",), "crc32": ("sse42",), "lzcnt": ("abm",), "pclmul": ("pclmulqdq",),
        "prfchw": ("3dnowprefetch",), "rdrnd": ("rdrand",), "sahf": ("lahflm",), "sha": ("shani",), "sse3": ("pni",),
    },
    "aarch64": {
        "aes": ("aes", "pmull"), "complxnum": ("fcma",), "crc": ("crc32",), "dotprod": ("asimddp",),
        "fp-armv8": ("fp",), "fp16fml": ("asimdfhm",), "fullfp16": ("fphp", "asimdhp"), "jsconv": ("jscvt",),
        "lse": ("atomics",), "neon": ("asimd",), "rand": ("rng",), "rcpc": ("lrcpc",), "rdm": ("asimdrdm",),
        "sha2": ("sha1", "sha2"),
    },
})  # fmt: skip

# Compilers name these for a machine that has them, but no arithmetic is made of them, and kernels do not list them all.
_FOR_SYSTEMS: Final = frozenset((
    "cldemote", "clflushopt", "clwb", "clzero", "enqcmd", "fsgsbase", "hreset", "invpcid", "kl", "lwp", "mwaitx",
    "pconfig", "pku", "prefetchi", "ptwrite", "rdpru", "rtm", "serialize", "sgx", "shstk", "tsxldtrk", "uintr",
    "usermsr", "waitpkg", "wbnoinvd", "widekl", "xsavec", "xsaveopt", "xsaves",
))  # fmt: skip

_PUNCTUATION: Final = "_.-+"
_DELETED: Final = str.maketrans("", "", _PUNCTUATION)
_LISTED: Final = re.compile(rb"^(?:flags|Features)\s*:(.*)\n", re.MULTILINE)
_BLOCK: Final = 1 << 12  # bytes
_ARCH_PRCTL: Final = 158  # the number of Linux' system call on x86-64
_REQUEST: Final = 0x1023  # its ARCH_REQ_XCOMP_PERM
_TILE_DATA: Final = 18  # the state that is asked for, by its number in XCR0
_SVE_LENGTH: Final = 51  # PR_SVE_GET_VL of prctl, whose answer has the bytes of a vector in its lower 16 bits


def host_architecture() -> str:
    """The architecture of this process, one of ARCHITECTURES. Raises UnsupportedCpuError on any other machine."""
    return ARCHITECTURES[0] if host_machine() == EM_X86_64 else ARCHITECTURES[1]


@functools.cache  # a processor keeps its features
def kernel_flags(path: str = "/proc/cpuinfo") -> frozenset[str]:
    """The processor flags that the Linux kernel reports, without punctuation. UnsupportedCpuError if there are none."""
    listed = b""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # No more than it takes: the file has a part for each processor.
            while (found := _LISTED.search(listed)) is None and (part := os.read(descriptor, _BLOCK)):
                listed += part
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnsupportedCpuError(f"the processor's features cannot be read: {error}") from error
    if found is None:
        raise UnsupportedCpuError(f"{path} does not list the processor's features")
    names = found[1].lower().translate(None, _PUNCTUATION.encode())
    flags = frozenset(names.decode("ascii", "replace").split())
    return flags | {"sve256"} if "sve" in flags and _sve_bytes() >= 32 else flags


def processor_name(path: str = "/proc/cpuinfo") -> str:
    """The processor as Linux names it, with the numbers of its family and model where it has them, else the
    architecture."""
    found: dict[str, str] = {}
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                name, colon, value = line.partition(":")
                if not colon and found:
                    break  # the next processor
                found[name.strip()] = value.strip()
    except OSError:
        pass
    name = found.get("model name", os.uname().machine)
    numbers = [f"{key.removeprefix('cpu ')} {found[key]}" for key in ("cpu family", "model") if key in found]
    return ", ".join([name, *numbers])


def missing_features(required: Iterable[str], architecture: str, flags: frozenset[str]) -> tuple[str, ...]:
    """Those of the `required` features that a processor with these kernel flags lacks, sorted."""
    names = _KERNEL_NAMES[architecture]
    wanted = frozenset(required) - _FOR_SYSTEMS
    others = (wanted - flags) | (wanted & names.keys())  # most are called as the kernel calls them
    return tuple(sorted(f for f in others if not flags.issuperset(names.get(f) or (_plain(f),))))


def obtain_state(features: Iterable[str]) -> None:
    """Ask the kernel for the registers that code with these features needs and that a process has only on request:
    AMX's tiles. The answer holds for all threads, and for processes that are forked. Raises UnsupportedCpuError where
    the kernel refuses."""
    if "amx-tile" in features:
        _obtain_tiles()


@functools.cache  # an error is raised anew
def _obtain_tiles() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA):
        reason = os.strerror(ctypes.get_errno())
        raise UnsupportedCpuError(f"the kernel does not let this process use AMX's tiles (arch_prctl: {reason})")


def _sve_bytes() -> int:
    """The length of SVE's vectors for this thread, in bytes; 0 where the kernel knows none."""
    answer = int(ctypes.CDLL(None).prctl(_SVE_LENGTH, 0, 0, 0, 0))
    return answer & 0xFFFF if answer > 0 else 0


def _plain(names: str) -> str:
    return names.lower().translate(_DELETED)
