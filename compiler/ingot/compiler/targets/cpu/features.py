# pyright: basic
# llvmlite is untyped.
"""Instruction set levels: what compiled kernels may assume of the processor that runs them.

A level is spelled out in full (triple, CPU, features), so that the code compiled for it does not depend on the machine
that compiles. `native` is no exception: it is resolved to the features of this machine by name.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from llvmlite import binding as llvm

from ingot.compiler.ir.types import IrError
from ingot.compiler.lower.machine import AVX2, AVX512, NEON, Machine

Arch = Literal["x86-64", "aarch64"]

_V3 = ("avx", "avx2", "bmi", "bmi2", "cmov", "crc32", "cx16", "cx8", "f16c", "fma", "fxsr", "lzcnt", "mmx", "movbe")
_V3 += ("popcnt", "sahf", "sse", "sse2", "sse3", "sse4.1", "sse4.2", "ssse3", "xsave")
_AVX512 = ("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_ARM = ("neon", "fp-armv8", "fullfp16", "rdm", "lse", "crc", "dotprod")


@dataclass(frozen=True)
class Level:
    """An instruction set level.

    vector_bytes: width of a vector register; vector_registers: how many there are. masked_bytes: the narrowest element,
    in bytes, for which masked loads and stores are one instruction; 0 where there are none. l2: bytes of second-level
    cache that kernels block for. required: the features a machine must have, by LLVM's names.
    checked: whether kernels check each access of memory (`access_checks`). flushes: whether they take denormals for
    zeros (`float_mode`). tiles: whether bytes are multiplied in AMX's tiles (`amx`). tune: for whose pipelines
    instructions are scheduled, by LLVM's name; "" for those of `cpu`.
    """

    name: str
    arch: Arch
    triple: str
    cpu: str
    features: tuple[str, ...]  # LLVM's names with + or -
    vector_bytes: int
    vector_registers: int
    masked_bytes: int = 0
    fma: bool = True
    l2: int = 1 << 20
    required: frozenset[str] = frozenset()
    checked: bool = False
    flushes: bool = False
    tiles: bool = False
    tune: str = ""

    @property
    def dot(self) -> int:
        """8-bit products that one instruction sums for each 32-bit lane: 4 with VNNI or Arm's dot products, 2 as 16-bit
        pairs, else 1."""
        if self.arch != "x86-64":
            return 4 if "dotprod" in self.required else 1
        return 4 if self.required >= {"avx512vnni", "avx512vl"} or "avxvnni" in self.required else 2

    @property
    def signed_dot(self) -> bool:
        """Whether `dot` products are of signed bytes only: Arm multiplies bytes of both kinds with i8mm."""
        return self.arch == "aarch64" and self.dot > 1 and "i8mm" not in self.required

    @property
    def matrices(self) -> bool:
        """Whether one instruction multiplies 2 x 8 by 8 x 2 bytes of both kinds: i8mm's."""
        return self.arch == "aarch64" and self.dot > 1 and not self.signed_dot

    @property
    def is_scalable(self) -> bool:
        """Whether vectors are longer than those of the architecture's base: then they are SVE's, of which code uses the
        first `vector_bytes`, whatever the length of the processor's."""
        return self.arch == "aarch64" and self.vector_bytes > 16

    @property
    def feature_string(self) -> str:
        """The features as LLVM's target machine takes them."""
        return ",".join(self.features)

    def lanes(self, element_bytes: int) -> int:
        """Elements of a vector register."""
        return max(1, self.vector_bytes // element_bytes)


def _x86(name: str, cpu: str, names: tuple[str, ...], off: tuple[str, ...] = (), tune: str = "") -> Level:
    have = frozenset(names)
    wide = have.issuperset(_AVX512)
    vector = 64 if wide else 32 if "avx2" in have else 16
    return Level(
        name,
        "x86-64",
        "x86_64-unknown-linux-gnu",
        cpu,
        # Kernels choose their vectors themselves; the tuning flag would split 512-bit ones.
        (*(f"+{f}" for f in sorted(have)), *(f"-{f}" for f in sorted(off)), *(("-prefer-256-bit",) if wide else ())),
        vector_bytes=vector,
        vector_registers=32 if wide else 16,
        masked_bytes=1 if wide else 4 if "avx2" in have else 0,
        fma="fma" in have,
        required=have,
        tune=tune,
    )


def _extended(base: Level, name: str) -> Level:
    """`base` with the extension called `name`."""
    features, changes = _EXTENSIONS[base.arch][name]
    return replace(
        base,
        name=f"{base.name}+{name}",
        features=(*base.features, *(f"+{f}" for f in features)),
        required=base.required | {*features, name},
        **changes,
    )


# What may follow on a level's name -> LLVM's features and what else changes of the level.
_EXTENSIONS: Mapping[str, Mapping[str, tuple[tuple[str, ...], Mapping[str, int]]]] = {
    "x86-64": {
        "avxvnni": (("avxvnni",), {}),
        "avx512vnni": (("avx512vnni",), {}),
        "amx-int8": (("avx512vnni", "amx-tile", "amx-int8"), {"tiles": True}),  # few rows are multiplied without
    },
    "aarch64": {"i8mm": (("i8mm",), {}), "sve256": (("sve",), {"vector_bytes": 32})},
}
_UNFIT = frozenset((("x86-64-v3", "avx512vnni"), ("x86-64-v3", "amx-int8"), ("x86-64-v4", "avxvnni")))


_LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        # LLVM schedules x86-64-v3 for Haswell and keeps more values than there are registers: those of a depthwise
        # convolution's taps, for one. Later cores wait less for loads.
        _x86("x86-64-v3", "x86-64-v3", _V3, tune="znver3"),
        _x86("x86-64-v4", "x86-64-v4", (*_V3, *_AVX512)),
        Level(
            "aarch64",
            "aarch64",
            "aarch64-unknown-linux-gnu",
            "generic",
            ("+v8.2a", *(f"+{f}" for f in _ARM)),
            vector_bytes=16,
            vector_registers=32,
            l2=512 << 10,
            required=frozenset(_ARM),
            tune="neoverse-n2",
        ),
    )
}


def machine(level: Level) -> Machine:
    """What schedules for `level` are made for."""
    if level.arch == "aarch64":
        lanes, dot = level.lanes(4), level.dot
        return replace(NEON, lanes_f32=lanes, dot=dot, signed_dot=level.signed_dot, matrices=level.matrices)
    return replace(AVX512 if level.vector_bytes == 64 else AVX2, dot=level.dot, tiles=level.tiles)


def names() -> tuple[str, ...]:
    """The names `level` takes."""
    return (*_LEVELS, "native")


def level(name: str) -> Level:
    """The level called `name`: x86-64-v3 (AVX2, FMA, F16C), x86-64-v4 (AVX-512), aarch64 (Armv8.2-A with half
    precision and dot products) or native (this machine).

    Extensions follow on the name: x86-64-v3+avxvnni, x86-64-v4+avx512vnni (products of bytes),
    x86-64-v4+amx-int8 (products of bytes in tiles), aarch64+i8mm (products
    of signed and unsigned bytes), aarch64+sve256 (SVE with vectors of 256 bits or more). Raises IrError for other
    names.
    """
    if name == "native":
        return _native()
    base, *extensions = name.split("+")
    if base not in _LEVELS:
        raise IrError(f"no instruction set level {base!r}; there are {', '.join(names())}")
    found = _LEVELS[base]
    for extension in extensions:
        takes = [each for each in _EXTENSIONS[found.arch] if (base, each) not in _UNFIT]
        if extension not in takes or extension in found.required:
            raise IrError(f"{name!r}: the level {base} takes, each once, {', '.join(f'+{each}' for each in takes)}")
        found = _extended(found, extension)
    return found


@functools.cache
def _host() -> tuple[str, dict[str, bool]]:
    return llvm.get_host_cpu_name(), dict(llvm.get_host_cpu_features())


def _native() -> Level:
    cpu, features = _host()
    # Programs must ask the kernel for AMX's tiles: code has them where its level is asked for by name only.
    on = tuple(name for name, present in features.items() if present and not name.startswith("amx-"))
    off = tuple(name for name in features if name not in on)
    if host_arch() == "aarch64":
        generic = _LEVELS["aarch64"]
        spelled = (*(f"+{f}" for f in sorted(on)), *(f"-{f}" for f in sorted(off)))
        return Level("native", "aarch64", generic.triple, cpu, spelled, 16, 32, l2=generic.l2, required=frozenset(on))
    if not {"avx2", "fma", "f16c"} <= set(on):
        raise IrError("kernels need AVX2, FMA and F16C; this machine has not got them, compile for another level")
    return _x86("native", cpu, on, off)


def host_arch() -> Arch:
    """The architecture of this machine; IrError when kernels cannot be made for it."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return "x86-64"
    if machine in ("aarch64", "arm64"):
        return "aarch64"
    raise IrError(f"no kernels can be made for {machine} processors; x86-64 and AArch64 are supported")


def host_level() -> Level:
    """The highest portable level that this machine runs. Raises IrError when it runs none."""
    arch, (_, features) = host_arch(), _host()
    for candidate in reversed(_LEVELS.values()):
        if candidate.arch == arch and all(features.get(f, f in ("fp-armv8", "cx8")) for f in candidate.required):
            return candidate
    raise IrError(f"this machine runs none of the levels {', '.join(_LEVELS)}")
