"""What is known of a model of the zoo before it is exported: its inputs, symbols and sizes.

Nothing here needs torch: inputs can be made wherever numpy is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Variant = Literal["tiny", "full"]
Options = Mapping[str, Any]
VARIANTS: tuple[Variant, ...] = ("tiny", "full")

EXPORTERS = ("torchscript-13", "torchscript-17", "dynamo-18", "dynamo-23")


@dataclass(frozen=True)
class Values:
    """How an input is filled.

    normal: standard normal. integers: uniform in [low, high). ones, zeros. valid: per row, ones and then zeros (a
    padding mask; the first row has ones only). lengths: per row the number of valid elements, in the first row the
    extent `of`. positions: consecutive integers along the last axis, the last of them the extent `of` less one.
    """

    kind: Literal["normal", "integers", "ones", "zeros", "valid", "lengths", "positions"]
    low: int = 0
    high: int = 2
    of: str = ""


@dataclass(frozen=True)
class Input:
    """A graph input. A dim is an extent, a symbol, or a sum of these written as ``past + 1``."""

    name: str
    dtype: Literal["float32", "int64", "bool"]
    shape: tuple[int | str, ...]
    values: Values

    def extents(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """The shape where every symbol has the extent given by `dims`."""
        return tuple(extent(dim, dims) for dim in self.shape)

    def pinned(self, fixed: Mapping[str, int]) -> Input:
        """The same input where the symbols of `fixed` are extents."""
        return replace(self, shape=tuple(fixed.get(dim, dim) if isinstance(dim, str) else dim for dim in self.shape))

    def fill(self, dims: Mapping[str, int], rng: np.random.Generator) -> NDArray[Any]:
        """An array of sensible values."""
        shape = self.extents(dims)
        match self.values.kind:
            case "normal":
                return rng.standard_normal(shape, np.float32).astype(self.dtype)
            case "integers":
                return rng.integers(self.values.low, self.values.high, shape).astype(self.dtype)
            case "ones":
                return np.ones(shape, self.dtype)
            case "zeros":
                return np.zeros(shape, self.dtype)
            case "valid":
                return (np.arange(shape[1]) < _lengths(shape[0], shape[1])[:, None]).astype(self.dtype)
            case "lengths":
                return _lengths(shape[0], extent(self.values.of, dims)).astype(self.dtype)
            case "positions":
                end = extent(self.values.of, dims)
                return np.broadcast_to(np.arange(end - shape[-1], end), shape).astype(self.dtype)


def extent(dim: int | str, dims: Mapping[str, int]) -> int:
    """The value of a dim; raises KeyError for a symbol that `dims` does not name."""
    if isinstance(dim, int):
        return dim
    terms = [term.strip() for term in dim.split("+")]
    return sum(int(term) if term.isdigit() else dims[term] for term in terms)


def _lengths(rows: int, longest: int) -> NDArray[np.int64]:
    """Falling lengths, each at least one, the first the longest."""
    return np.maximum(1, longest - np.arange(rows) * max(1, longest // 4))


@dataclass(frozen=True)
class Model:
    """A model of the zoo.

    `builder` is ``file:Class`` within this package; the class is called with the options of the variant. `inputs` and
    `outputs` may depend on these. `dims` gives every symbol the extent it has unless another is asked for, `traced`
    the extents at which the exporters see it (never 1: both exporters may treat 1 as fixed). `exporters` are those of
    the tiny variant; the full one is exported by those of them that are also in `full_exporters`.
    Symbols in `fixed_by_dynamo` have only their usual extent there, because torch cannot export them open.
    """

    name: str
    builder: str
    inputs: Callable[[Options], tuple[Input, ...]]
    outputs: Callable[[Options], tuple[str, ...]]
    tiny: Options
    full: Options
    dims: Mapping[str, int]
    traced: Mapping[str, int] = field(default_factory=dict[str, int])
    exporters: tuple[str, ...] = EXPORTERS
    full_exporters: tuple[str, ...] = ("torchscript-17", "dynamo-18")
    fixed_by_dynamo: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """Seed of the weights and of the inputs."""
        return zlib.crc32(self.name.encode())

    def options(self, variant: Variant) -> Options:
        return self.tiny if variant == "tiny" else self.full

    def exported_by(self, variant: Variant) -> tuple[str, ...]:
        """Exporters of a variant, the one that stands for it first."""
        if variant == "tiny":
            return self.exporters
        return tuple(name for name in self.exporters if name in self.full_exporters) or self.exporters[:1]

    def fixed(self, exporter: str) -> dict[str, int]:
        """Symbols that the exporter makes fixed, with their extents."""
        return {name: self.dims[name] for name in self.fixed_by_dynamo} if exporter.startswith("dynamo") else {}

    def arrays(self, variant: Variant, dims: Mapping[str, int]) -> dict[str, NDArray[Any]]:
        """Seeded inputs by name; `dims` replaces default extents."""
        if unknown := sorted(set(dims) - set(self.dims)):
            raise ValueError(f"{self.name} has no dim {', '.join(unknown)}; it has {', '.join(self.dims) or 'none'}")
        rng = np.random.default_rng(self.seed)
        chosen = {**self.dims, **dims}
        return {made.name: made.fill(chosen, rng) for made in self.inputs(self.options(variant))}

    def describe(self, variant: Variant, exporter: str) -> dict[str, Any]:
        """The part of the record beside an exported file that is known beforehand."""
        options, fixed = self.options(variant), self.fixed(exporter)
        return {
            "name": self.name,
            "variant": variant,
            "seed": self.seed,
            "options": dict(options),
            "dims": {name: extent for name, extent in self.dims.items() if name not in fixed},
            "inputs": [asdict(made.pinned(fixed)) for made in self.inputs(options)],
            "outputs": list(self.outputs(options)),
        }
