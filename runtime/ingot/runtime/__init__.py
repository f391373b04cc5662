"""Runs compiled artifacts; needs numpy and nothing else."""

from __future__ import annotations

from ingot.runtime.errors import ArtifactError, IngotError, InputError, RuntimeFault, UnsupportedCpuError
from ingot.runtime.inputs import TensorInfo
from ingot.runtime.profile import Event, LaunchProfile, Profile
from ingot.runtime.session import Session

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
