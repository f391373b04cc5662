"""``--shape``: dims given on the command line, for models that are to be compiled and for artifacts that are to be run.

The values of an input's axes, or of one symbolic dim: ``x=1,3,224,224``, ``x=batch,3,height,width``, ``batch=8``,
``batch=1..32``. Several may stand in one text, ``batch=1,seq=128``: what follows a comma and has no equals sign
belongs to the name before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

from ingot.compiler.cli.failures import CommandError

Assignments: TypeAlias = Sequence[tuple[str, tuple[str, ...]]]

HELP = "x=1,3,224,224 (the axes of an input; a name makes one symbolic), batch=8 or batch=1..32 (a symbolic dim)"

VARIANT_HELP = (
    "batch=1,seq=128 or batch=1,seq=1..128: a program of its own for these dims, in the same file as the general one; "
    "may be given more than once"
)

_NUMBER = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")
_NAME = re.compile(r"[^\W\d][\w +*/()-]*")


def parse_assignments(texts: Sequence[str], option: str = "--shape") -> Assignments:
    """The (name, values) pairs of all occurrences of `option`. Raises CommandError."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name = ""
        for piece in text.split(","):
            before, equals, after = piece.partition("=")
            if equals:
                name = before.strip()
                if name in found:
                    raise CommandError(f"{option} gives {name!r} twice")
                found[name] = []
                if not after.strip():
                    continue  # x= is a scalar
            value = (after if equals else before).strip()
            if not name:
                raise CommandError(f"{option} {text!r} has no name; write {HELP}")
            if not (_NUMBER.fullmatch(value) or _RANGE.fullmatch(value) or _NAME.fullmatch(value)):
                raise CommandError(f"{option} gives {name!r} the dim {value!r}; write {HELP}")
            found[name].append(value)
    return tuple((name, tuple(values)) for name, values in found.items())


def for_variants(texts: Sequence[str]) -> list[dict[str, int | tuple[int, int]]]:
    """The cases of ``--specialise``, as `compile` takes them: dims with a value or a range. Raises CommandError."""
    cases: list[dict[str, int | tuple[int, int]]] = []
    for text in texts:
        case: dict[str, int | tuple[int, int]] = {}
        for name, values in parse_assignments([text], "--specialise"):
            value = values[0] if len(values) == 1 else ""
            bounds = _RANGE.fullmatch(value)
            if not (bounds or _NUMBER.fullmatch(value)):
                raise CommandError(f"--specialise {text}: write dims with a number or a range: batch=1,seq=1..128")
            case[name] = (int(bounds[1]), int(bounds[2])) if bounds else int(value)
        cases.append(case)
    return cases


def for_compile(
    texts: Sequence[str], input_names: Callable[[], Collection[str]]
) -> tuple[dict[str, tuple[int | str, ...]], dict[str, tuple[int, int]]]:
    """Shapes by input and ranges by symbolic dim, as `compile` takes them.

    A single number belongs to an input of one axis where there is an input of that name, else it pins a symbolic dim;
    `input_names` is asked only then. Raises CommandError.
    """
    shapes: dict[str, tuple[int | str, ...]] = {}
    ranges: dict[str, tuple[int, int]] = {}
    for name, values in parse_assignments(texts):
        bounds = _RANGE.fullmatch(values[0]) if len(values) == 1 else None
        if bounds:
            ranges[name] = int(bounds[1]), int(bounds[2])
        elif len(values) == 1 and name not in input_names():
            if not _NUMBER.fullmatch(values[0]):
                raise CommandError(f"--shape {name}={values[0]}: the model has no input {name!r}")
            ranges[name] = int(values[0]), int(values[0])
        else:
            if ranged := [value for value in values if _RANGE.fullmatch(value)]:
                raise CommandError(
                    f"--shape gives an axis of {name!r} the range {ranged[0]}; name the axis and bound the name: "
                    f"--shape {name}=n,... --shape n={ranged[0]}"
                )
            shapes[name] = tuple(int(v) if _NUMBER.fullmatch(v) else v for v in values)
    return shapes, ranges


def symbol_values(
    texts: Sequence[str], symbols: Mapping[str, tuple[int, int]], inputs: Mapping[str, tuple[object, ...]]
) -> dict[str, int]:
    """A value for every symbolic dim of an artifact: as given, else the smallest of its range, but not 0.

    `symbols` has the range of each, `inputs` the shape of each input, symbols as their names. Raises CommandError for
    names that the artifact has not, for ranges and for values that differ from what is fixed.
    """
    given: dict[str, int] = {}

    def assign(symbol: str, value: str, where: str) -> None:
        if not _NUMBER.fullmatch(value):
            raise CommandError(f"--shape gives {where} {value!r}; a number is needed")
        low, high = symbols[symbol]
        if not low <= int(value) <= high:
            raise CommandError(f"--shape gives {where} {value}, but {symbol} must be in {low} to {high}")
        if given.setdefault(symbol, int(value)) != int(value):
            raise CommandError(f"--shape gives {symbol} the values {given[symbol]} and {value}")

    for name, values in parse_assignments(texts):
        if name in symbols and len(values) == 1:
            assign(name, values[0], repr(name))
        elif name in inputs:
            shape = inputs[name]
            if len(values) != len(shape):
                raise CommandError(f"--shape gives input {name!r} {len(values)} axes, it has {len(shape)}")
            for axis, (dim, value) in enumerate(zip(shape, values, strict=True)):
                if isinstance(dim, str) and dim in symbols:
                    assign(dim, value, f"axis {axis} of input {name!r}")
                elif isinstance(dim, int) and value != str(dim):
                    raise CommandError(f"--shape gives axis {axis} of input {name!r} {value}, the model has {dim}")
        else:
            known = f"symbolic dims {', '.join(symbols) or 'none'}; inputs {', '.join(inputs) or 'none'}"
            raise CommandError(f"--shape names {name!r}; there are: {known}")
    return {symbol: given.get(symbol, min(max(low, 1), high)) for symbol, (low, high) in symbols.items()}
