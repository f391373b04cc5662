"""Targets by name."""

from __future__ import annotations

from collections.abc import Mapping

from ingot.compiler.targets.target import Target, TargetError

# The level that "cpu" stands for: what nearly every machine of the architecture in use today runs.
PORTABLE: Mapping[str, str] = {"x86-64": "x86-64-v3", "aarch64": "aarch64"}


def target_names() -> tuple[str, ...]:
    """What `find_target` takes."""
    from ingot.compiler.targets.cpu import features

    return ("cpu", *features.names())


def find_target(name: str) -> Target:
    """The target called `name`: "cpu" is the portable level of this machine's architecture. Raises TargetError."""
    from ingot.compiler.ir.types import IrError
    from ingot.compiler.targets.cpu import features
    from ingot.compiler.targets.cpu.target import CpuTarget

    if name not in target_names():
        raise TargetError(f"no target {name!r}; there are {', '.join(target_names())}")
    try:
        level = features.level(PORTABLE[features.host_arch()] if name == "cpu" else name)
    except IrError as error:
        raise TargetError(str(error)) from None
    return CpuTarget(level)
