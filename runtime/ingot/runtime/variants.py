"""The programs of an artifact: which of them runs inputs of given shapes."""

from __future__ import annotations

from ingot.runtime.errors import InputError
from ingot.runtime.inputs import solve
from ingot.runtime.manifest import Manifest
from ingot.runtime.plan import STAGED_BYTES, Loaded, Plan, Planner

Shapes = tuple[tuple[int, ...], ...]


def programs(manifest: Manifest) -> tuple[Manifest, ...]:
    """All programs of an artifact by number: the general one, which is never run in a closed artifact, then the
    variants in the order in which they are tried."""
    return (manifest, *manifest.variants)


def choose(manifest: Manifest, shapes: Shapes) -> int:
    """The number of the program that runs inputs of these shapes, which are in the order of the model's inputs: that of
    the first variant whose inputs can have the shapes, else 0.

    Raises InputError for shapes that fit no variant of a closed artifact.
    """
    for number, variant in enumerate(manifest.variants, 1):
        try:
            solve(variant, shapes)
            return number
        except InputError:
            continue
    if manifest.closed:
        solve(manifest, shapes)  # which says what no variant could take
        given = ", ".join(f"{each.name!r} {list(shape)}" for each, shape in zip(manifest.inputs, shapes, strict=True))
        known = "; ".join(variant.name for variant in manifest.variants)
        raise InputError(
            f"there is no program for inputs of these shapes ({given}); the model was compiled for these alone: {known}"
        )
    return 0


class Variants:
    """Makes the plans of one loaded model, each for the program that its shapes belong to."""

    def __init__(self, manifest: Manifest, loaded: Loaded) -> None:
        self._manifest = manifest
        self._programs = programs(manifest)
        self._loaded = loaded
        self._planners: dict[int, Planner] = {}

    def plan(self, shapes: Shapes, *, staged_bytes: int = STAGED_BYTES) -> Plan:
        """The plan for inputs of these shapes, in the order of the model's inputs.

        Raises InputError for shapes that the model does not take or that need more memory than the limit.
        """
        return self._planner(choose(self._manifest, shapes)).plan(shapes, staged_bytes=staged_bytes)

    def _planner(self, number: int) -> Planner:
        planner = self._planners.get(number)
        if planner is None:  # threads that come here at once may each make one: any will do
            planner = self._planners[number] = Planner(self._programs[number], self._loaded)
        return planner
