"""What a compilation is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.ir.dims import UNBOUNDED
from ingot.compiler.ir.graph import Graph
from ingot.compiler.lower.sparsity import Sparse
from ingot.compiler.lower.weight_forms import Memory, WeightForms, Weights
from ingot.compiler.processing.steps import NO_STEPS, Listed, Steps, read_steps
from ingot.compiler.targets.target import Denormals
from ingot.compiler.variants import Case, read_variants
from ingot.runtime.errors import InputError
from ingot.runtime.manifest import MAX_NAME

if TYPE_CHECKING:
    from ingot.compiler.ops.custom import CustomOp
    from ingot.compiler.pipeline import Pipeline

Numerics: TypeAlias = Literal["default", "strict"]
Requantise: TypeAlias = Literal["onnx", "tosa", "tosa-double"]


@dataclass(frozen=True)
class Request:
    """The arguments of `compile`, which explains them, with their defaults. `target` is the name that was asked for."""

    model: Any
    target: str
    shapes: Mapping[str, Sequence[int | str]] | None = None
    ranges: Mapping[str, tuple[int, int]] | None = None
    specialise: Iterable[Case] = ()
    general: bool = True
    custom: Iterable[CustomOp] = ()
    preprocess: Steps = field(default_factory=lambda: NO_STEPS)
    postprocess: Steps = field(default_factory=lambda: NO_STEPS)
    pipeline: Pipeline | None = None
    numerics: Numerics = "default"
    requantise: Requantise = "onnx"
    denormals: Denormals = "keep"
    memory: Memory = "fast"
    weights: Weights = "default"
    sparse: Sparse = "auto"
    verify: bool = False
    checked: bool = False
    print_after: Collection[str] = ()
    dump: Path | None = None
    repro: Path | None = None
    stop_at: int | None = None
    jobs: int | None = None
    name: str | None = None
    cache: bool = True
    tune: float | None = None
    tuning: Path | None = None
    progress: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        for name in ("shapes", "ranges", "preprocess", "postprocess"):
            if not isinstance(getattr(self, name), Mapping | None):
                raise InputError(f"{name} is {getattr(self, name)!r}; it is a dict by name")
        for name in ("custom", "specialise", "print_after"):
            given = getattr(self, name)
            if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
                raise InputError(f"{name} is {given!r}; it is a list")
            object.__setattr__(self, name, tuple(cast("Iterable[object]", given)))  # as it is read more than once
        if not (self.name is None or (isinstance(self.name, str) and len(self.name) <= MAX_NAME)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"name is {str(self.name)[:40]!r}; it is a str of at most {MAX_NAME} characters")
        if not (self.progress is None or callable(self.progress)):
            raise InputError(f"progress is {self.progress!r}; it is a function that takes a str")
        chosen = {"numerics": Numerics, "requantise": Requantise, "denormals": Denormals}
        chosen |= {"memory": Memory, "weights": Weights, "sparse": Sparse}
        for name, words in chosen.items():
            if getattr(self, name) not in get_args(words):
                raise InputError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(get_args(words))}")
        for name, least in (("jobs", 1), ("stop_at", 0)):
            count = getattr(self, name)
            if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < least):
                raise InputError(f"{name} is {count!r}; it is a whole number of at least {least}, or None")
        seconds: Any = self.tune
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and 0 < seconds < float("inf")):
            raise InputError(f"tune is {self.tune!r}; it is a number of seconds above 0, or None")
        object.__setattr__(self, "tuning", None if self.tuning is None else Path(self.tuning))
        self._check_passes()
        for label, dims in (self.shapes or {}).items():
            if isinstance(dims, str) or not all(isinstance(d, str | Integral) for d in _items(dims)):
                raise InputError(f"the shape of {label!r} is given as {dims!r}; it is a list of ints and names")
        for label, ends in (self.ranges or {}).items():
            if len(_items(ends)) != 2 or not all(isinstance(end, Integral) for end in _items(ends)):
                raise InputError(f"the range of {label!r} is given as {ends!r}; it is (low, high), both whole numbers")
            if max(ends) > UNBOUNDED:
                raise InputError(f"the range of {label!r} is given as {ends!r}; no dim is larger than 2**62")

    def _check_passes(self) -> None:
        """The modules of passes and operators are imported where some are given: a request that the cache answers does
        without them."""
        if self.pipeline is not None:
            from ingot.compiler.pipeline import Pipeline

            if not isinstance(self.pipeline, Pipeline):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InputError(
                    f"pipeline is a {type(self.pipeline).__name__}; it is a Pipeline (see default_pipeline)"
                )
        if self.custom:
            from ingot.compiler.ops.custom import CustomOp

            for each in self.custom:
                if not isinstance(each, CustomOp):  # pyright: ignore[reportUnnecessaryIsInstance]
                    raise InputError(f"custom holds a {type(each).__name__}; it is a list of what @custom_op makes")

    @property
    def variants(self) -> Mapping[str, Request]:
        """What is asked for each variant, by its name, in the order in which they are tried. Raises ModelError."""
        ranges = dict(self.ranges or {})
        found = read_variants(self.specialise, ranges)
        if found and isinstance(self.model, Graph):
            raise ModelError("a Graph has the dims that it has", remedy="give the ONNX model for variants of it")
        if not (found or self.general):
            raise ModelError("without a general program there is nothing to compile", remedy="give variants")
        return {
            variant.name: replace(
                self,
                ranges={**ranges, **variant.ranges},
                specialise=(),
                general=True,
                dump=None if self.dump is None else self.dump / variant.name,
            )
            for variant in found
        }

    @property
    def passes(self) -> Pipeline:
        """The pipeline, the default one where none is given."""
        from ingot.compiler.passes.default import default_pipeline

        return self.pipeline if self.pipeline is not None else default_pipeline(self.numerics, self.requantise)

    @property
    def forms(self) -> WeightForms:
        """In which forms weights may lie."""
        return WeightForms(self.memory, self.weights)

    @property
    def before(self) -> Listed:
        """The steps before the inputs, each name's as a list."""
        return read_steps(self.preprocess)

    @property
    def after(self) -> Listed:
        """The steps after the outputs, each name's as a list."""
        return read_steps(self.postprocess)

    @property
    def processes(self) -> int:
        """How many processes compile kernels, one a core where no number is given."""
        return self.jobs if self.jobs is not None else len(os.sched_getaffinity(0))

    @property
    def is_watched(self) -> bool:
        """Whether more is asked for than the artifact: that the passes be checked, printed or stopped."""
        return bool(self.verify or self.print_after or self.dump or self.stop_at is not None)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the artifact says of how it was made."""
        said: dict[str, Any] = {"pipeline": str(self.passes), "numerics": self.numerics, "target": self.target}
        asked = {"checked": self.checked, "preprocess": self.before, "postprocess": self.after}
        asked |= {"requantise": "" if self.requantise == "onnx" else self.requantise}
        asked |= {"denormals": "" if self.denormals == "keep" else self.denormals}
        asked |= {"memory": self.memory if self.memory != "fast" else None}
        asked |= {"weights": self.weights if self.weights != "default" else None}
        asked |= {"sparse": self.sparse if self.sparse != "auto" else None}
        asked |= {"variants": list(self.variants), "closed": not self.general}
        return {**said, **{key: value for key, value in asked.items() if value}}


def _items(given: object) -> tuple[object, ...]:
    """What a list or tuple holds; for anything else a tuple that is neither a shape nor a range, so that the checks
    refuse it."""
    return tuple(cast("Iterable[object]", given)) if isinstance(given, Iterable) else (given, None, None)
