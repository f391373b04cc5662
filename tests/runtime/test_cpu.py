from __future__ import annotations

import platform
from pathlib import Path

import pytest

from ingot.compiler.targets.cpu import features
from ingot.runtime.cpu import (
    ARCHITECTURES,
    host_architecture,
    kernel_flags,
    missing_features,
    obtain_state,
    processor_name,
)
from ingot.runtime.errors import UnsupportedCpuError


def test_what_was_compiled_for_this_machine_runs_here() -> None:
    assert host_architecture() == features.host_arch()
    for level in (features.host_level(), features.level("native")):
        assert missing_features(level.required, level.arch, kernel_flags()) == ()


def test_every_level_is_of_a_known_architecture() -> None:
    for name in features.names():
        assert features.level(name).arch in ARCHITECTURES


def test_flags_of_x86(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu sse sse2 pni sse4_1 abm avx512_vnni\nflags : other\n")
    flags = kernel_flags(str(cpuinfo))
    wanted = ["sse3", "sse4.1", "lzcnt", "avx512vnni", "sse2", "avx2", "bmi", "shstk"]
    assert missing_features(wanted, "x86-64", flags) == ("avx2", "bmi")


def test_flags_of_aarch64(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("Features\t: fp asimd crc32 atomics fphp asimdrdm asimddp\n")
    flags = kernel_flags(str(cpuinfo))
    wanted = ["neon", "fp-armv8", "crc", "lse", "rdm", "dotprod", "fullfp16", "i8mm"]
    assert missing_features(wanted, "aarch64", flags) == ("fullfp16", "i8mm")


def test_the_length_of_vectors(tmp_path: Path) -> None:
    """A processor whose vectors are too short, or of a length that nobody tells, runs no code for longer ones."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("Features\t: fp asimd sve i8mm\n")
    flags = kernel_flags(str(cpuinfo))
    if host_architecture() == "x86-64":
        assert missing_features(["sve", "sve256", "i8mm"], "aarch64", flags) == ("sve256",)
    assert missing_features(["sve256"], "aarch64", flags | {"sve256"}) == ()


def test_the_kernel_is_asked_for_tiles() -> None:
    obtain_state(["avx2", "amx-int8"])  # nothing to ask for
    if host_architecture() == "x86-64" and "amxtile" in kernel_flags():
        obtain_state(["amx-tile"])
    else:
        for _ in range(2):
            with pytest.raises(UnsupportedCpuError, match=r"AMX's tiles \(arch_prctl: \w"):
                obtain_state(["amx-tile"])


def test_a_silent_kernel(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCpuError, match="cannot be read"):
        kernel_flags(str(tmp_path / "none"))
    (tmp_path / "cpuinfo").write_text("processor : 0\n")
    with pytest.raises(UnsupportedCpuError, match="does not list"):
        kernel_flags(str(tmp_path / "cpuinfo"))


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    listed = tmp_path / "cpuinfo"
    listed.write_text("model : 17\ncpu family : 25\nmodel name : A: B\n\nprocessor : 1\nmodel name : C\n")
    assert processor_name(str(listed)) == "A: B, family 25, model 17"
    listed.write_text("processor : 0\n")
    assert processor_name(str(listed)) == processor_name(str(tmp_path / "none")) == platform.machine()
