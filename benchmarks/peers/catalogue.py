"""The peers: where each comes from, by version, and what runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# PyTorch's own index has builds for CPUs; what else it lists it does not always serve.
_TORCH = ("--no-deps", "--index-url", "https://download.pytorch.org/whl/cpu")


@dataclass(frozen=True)
class Peer:
    """An engine. Each of `installs` is the arguments of one ``pip install``; without any it is in this environment.
    `newest_python` is the last minor version of Python 3 that its packages are built for, `variables` what it wants in
    its environment."""

    name: str
    title: str
    version: str
    installs: tuple[tuple[str, ...], ...] = ()
    newest_python: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.title} {self.version}".strip()


_ALL = (
    Peer(
        "deepsparse",
        "DeepSparse",
        "1.8.0",
        (("deepsparse==1.8.0",),),
        newest_python=11,
        variables={"NM_DISABLE_ANALYTICS": "1"},
    ),
    # pnnx without what it depends on: of it only the program is used, which contains all that it needs of PyTorch.
    Peer(
        "ncnn",
        "ncnn",
        "1.0.20261020",
        (("numpy", "onnx"), ("--no-deps", "ncnn==1.0.20261020", "pnnx==20261020")),
    ),
    Peer("tract", "tract", "0.23.9", (("tract==0.23.9",),)),
    Peer(
        "inductor",
        "PyTorch Inductor",
        "2.13.0",
        (
            ("numpy", "onnx", "pillow", "filelock", "fsspec", "jinja2", "networkx", "sympy", "typing-extensions"),
            (*_TORCH, "torch==2.13.0+cpu"),
            # onnx2torch needs some torchvision, which would bring a torch of its own.
            ("--no-deps", "torchvision==0.28.0", "onnx2torch==1.5.15"),
        ),
        variables={"TORCHINDUCTOR_COMPILE_THREADS": "1"},
    ),
    Peer("iree", "IREE", "3.13.0", (("iree-base-compiler[onnx]==3.13.0", "iree-base-runtime==3.13.0"),)),
)
PEERS: Mapping[str, Peer] = MappingProxyType({peer.name: peer for peer in _ALL})
"""The peers that run models in an environment of their own, by name."""

NNCF = Peer("nncf", "OpenVINO + NNCF", "3.4.0", (("nncf==3.4.0", "openvino==2026.4.1"),))
"""Makes models for OpenVINO, which runs them in this environment."""

INSTALLED: Mapping[str, Peer] = MappingProxyType({**PEERS, NNCF.name: NNCF})
"""All that have an environment of their own."""


def find(name: str) -> Peer:
    """The peer of that name; raises ValueError naming those that exist."""
    if name not in INSTALLED:
        raise ValueError(f"there is no peer {name!r}; there are {', '.join(INSTALLED)}")
    return INSTALLED[name]
