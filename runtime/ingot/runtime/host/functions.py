"""The closed list of what a program may ask the host to compute, by name.

A function takes arrays and gives arrays whose types and shapes the program knows before it calls: where a size depends
on the content of a string or of an image, one function tells the size and a second one computes the result. Strings
come and go as arrays of str objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType
from ingot.runtime.errors import HostError
from ingot.runtime.host import images, numerals, regex, text
from ingot.runtime.host.attributes import Attributes

Array: TypeAlias = NDArray[Any]
Types: TypeAlias = frozenset[DType]
Shape: TypeAlias = tuple[int, ...]
Compute: TypeAlias = Callable[[Sequence[Array], Any, Sequence[tuple[np.dtype[Any], Shape]]], Sequence[Array]]

_STRING: Final = frozenset((dtypes.string,))
_COUNT: Final = frozenset((dtypes.i64,))
_BYTES: Final = frozenset((dtypes.u8,))
_NUMBERS: Final = frozenset(d for d in dtypes.ALL if d.numpy is not None)


@dataclass(frozen=True)
class Function:
    """A host function: the element types that each operand and each result may have, and the types of its attributes,
    all of which are given. `compute` gets the operands, the attributes by name and the (numpy dtype, shape) of each
    result; it raises HostError for content that it cannot work with."""

    operands: tuple[Types, ...]
    results: tuple[Types, ...]
    compute: Compute
    attributes: Mapping[str, type] = field(default_factory=dict[str, type])


_SPLIT: Final[Mapping[str, type]] = {"delimiter": str, "maxsplit": int}
_STOPWORDS: Final[Mapping[str, type]] = {"stopwords": tuple, "case_sensitive": bool}

FUNCTIONS: Final[Mapping[str, Function]] = {
    "string_concat": Function(
        (_STRING, _STRING), (_STRING,), lambda x, _, results: [text.concat(x[0], x[1], results[0][1])]
    ),
    "string_parts": Function(
        (_STRING,), (_COUNT,), lambda x, a, _: [text.parts(x[0], a["delimiter"], a["maxsplit"])], _SPLIT
    ),
    "string_split": Function(
        (_STRING,),
        (_STRING,),
        lambda x, a, results: [text.split(x[0], a["delimiter"], a["maxsplit"], results[0][1])],
        _SPLIT,
    ),
    "string_kept": Function(
        (_STRING,), (_COUNT,), lambda x, a, _: [text.kept(x[0], a["stopwords"], a["case_sensitive"])], _STOPWORDS
    ),
    "string_normalize": Function(
        (_STRING,),
        (_STRING,),
        lambda x, a, results: [text.normalise(x[0], a["stopwords"], a["case_sensitive"], a["case"], results[0][1])],
        {**_STOPWORDS, "case": str},
    ),
    "string_rank": Function((_STRING,), (_COUNT,), lambda x, _, __: [text.rank(x[0])]),
    "string_to_number": Function((_STRING,), (_NUMBERS,), lambda x, _, results: [numerals.parse(x[0], results[0][0])]),
    "number_to_string": Function((_NUMBERS,), (_STRING,), lambda x, _, __: [numerals.show(x[0])]),
    "regex_full_match": Function(
        (_STRING,),
        (frozenset((dtypes.boolean,)),),
        lambda x, a, _: [regex.full_match(x[0], a["pattern"])],
        {"pattern": str},
    ),
    "image_size": Function((_BYTES,), (_COUNT,), lambda x, _, __: [images.size(x[0])]),
    "image_decode": Function(
        (_BYTES,),
        (_BYTES,),
        lambda x, a, results: [images.decode(x[0], a["pixel_format"], results[0][1])],
        {"pixel_format": str},
    ),
}


def call(
    name: str, operands: Sequence[Array], attributes: Attributes, results: Sequence[tuple[np.dtype[Any], Shape]]
) -> tuple[Array, ...]:
    """The results of a host function. Raises HostError for content that it cannot work with, and where it does not give
    what `results` promises."""
    made = tuple(FUNCTIONS[name].compute(operands, attributes, results))
    for array, (dtype, shape) in zip(made, results, strict=True):
        if array.dtype != dtype or array.shape != shape:
            raise HostError(f"{name} gives {array.dtype}{list(array.shape)} where {dtype}{list(shape)} is expected")
    return made


def check_attributes(name: str, attributes: Attributes) -> str | None:
    """What is wrong with the attributes of a call of function `name`, None where they are right."""
    wanted = FUNCTIONS[name].attributes
    if attributes.keys() != wanted.keys():
        return f"{name} has the attributes {sorted(wanted)}, {sorted(attributes)} are given"
    for key, kind in wanted.items():
        value = attributes[key]
        if type(value) is not kind or (isinstance(value, tuple) and not all(type(item) is str for item in value)):
            return f"attribute {key} of {name} is {str(value)[:80]!r}, not of type {kind.__name__}"
    return None
