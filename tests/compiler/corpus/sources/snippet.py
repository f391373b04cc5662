"""What a snippet of the corpus is: a torch module with its inputs, or a model written node by node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Symbols and the extents that exporters see (never 1: both may treat 1 as fixed).
TRACED = {"batch": 2, "tokens": 7, "keys": 5, "height": 6, "width": 5}
TORCHSCRIPT = ("torchscript-11", "torchscript-13", "torchscript-17")
DYNAMO = ("dynamo-18", "dynamo-23")


@dataclass(frozen=True)
class Tensor:
    """A graph input. Inputs named ``mask...`` hold ones and zeros, ``ids...`` small integers, others normal numbers."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Snippet:
    """`build` makes a module (exported by each of `exporters`) or, for hand-written ones, an onnx.ModelProto."""

    name: str
    build: Callable[[], Any]
    inputs: tuple[Tensor, ...] = ()
    exporters: tuple[str, ...] = (*TORCHSCRIPT, *DYNAMO)


IMAGE = Tensor("x", ("batch", 8, 6, 5))
TOKENS = Tensor("x", ("batch", "tokens", 16))
