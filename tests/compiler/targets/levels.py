"""The levels whose code this machine runs: one with VNNI, or Arm's products of bytes, and one without."""

from __future__ import annotations

from ingot.compiler.targets.cpu import features

RUNNABLE = [
    name
    for name in ("x86-64-v3", "x86-64-v3+avxvnni", "x86-64-v4", "x86-64-v4+avx512vnni", "aarch64")
    if features.level(name).arch == features.host_arch()
    and features.level(name).required <= features.level("native").required | {"fp-armv8", "cx8"}
]
