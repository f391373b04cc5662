"""Runs compiled artifacts; needs numpy and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingot.runtime.errors import ArtifactError, IngotError, InputError, RuntimeFault, UnsupportedCpuError
from ingot.runtime.inputs import TensorInfo
from ingot.runtime.session import Session

if TYPE_CHECKING:
    from ingot.runtime.profile import Event, LaunchProfile, Profile

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "Event",
    "IngotError",
    "InputError",
    "LaunchProfile",
    "Profile",
    "RuntimeFault",
    "Session",
    "TensorInfo",
    "UnsupportedCpuError",
    "__version__",
]

_OF_PROFILES = ("Event", "LaunchProfile", "Profile")


def __getattr__(name: str) -> Any:
    if name not in _OF_PROFILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ingot.runtime import profile  # here, as few programs profile

    return getattr(profile, name)
