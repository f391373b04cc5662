"""What a compilation is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ingot.compiler.ops.custom import CustomOp
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.pipeline import Pipeline
from ingot.compiler.processing import NO_STEPS, Listed, Steps, read_steps

Numerics: TypeAlias = Literal["default", "strict"]


@dataclass(frozen=True)
class Request:
    """The arguments of `compile`, which explains them, with their defaults. `target` is the name that was asked for."""

    model: Any
    target: str
    shapes: Mapping[str, Sequence[int | str]] | None = None
    ranges: Mapping[str, tuple[int, int]] | None = None
    custom: Iterable[CustomOp] = ()
    preprocess: Steps = field(default_factory=lambda: NO_STEPS)
    postprocess: Steps = field(default_factory=lambda: NO_STEPS)
    pipeline: Pipeline | None = None
    numerics: Numerics = "default"
    verify: bool = False
    checked: bool = False
    print_after: Collection[str] = ()
    dump: Path | None = None
    repro: Path | None = None
    stop_at: int | None = None
    jobs: int | None = None
    name: str | None = None
    cache: bool = True
    progress: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "custom", tuple(self.custom))  # it is read more than once

    @property
    def passes(self) -> Pipeline:
        """The pipeline, the default one where none is given."""
        return self.pipeline if self.pipeline is not None else default_pipeline(self.numerics)

    @property
    def before(self) -> Listed:
        """The steps before the inputs, each name's as a list."""
        return read_steps(self.preprocess)

    @property
    def after(self) -> Listed:
        """The steps after the outputs, each name's as a list."""
        return read_steps(self.postprocess)

    @property
    def is_watched(self) -> bool:
        """Whether more is asked for than the artifact: that the passes be checked, printed or stopped."""
        return bool(self.verify or self.print_after or self.dump or self.stop_at is not None)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the artifact says of how it was made."""
        said: dict[str, Any] = {"pipeline": str(self.passes), "numerics": self.numerics, "target": self.target}
        asked = {"checked": self.checked, "preprocess": self.before, "postprocess": self.after}
        return {**said, **{key: value for key, value in asked.items() if value}}
