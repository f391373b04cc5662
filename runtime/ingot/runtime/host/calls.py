"""The host calls of a model, as its manifest lists them.

A call has words in the argument table: for each operand and then for each result the address of its first element and
its extents, row-major without gaps. The code hands the address of the first of them to the function whose address is
the table's word for the host, with the number of the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from ingot.runtime import records
from ingot.runtime.dtypes import BY_NAME, DType
from ingot.runtime.errors import ArtifactError
from ingot.runtime.host.attributes import Attribute
from ingot.runtime.host.functions import FUNCTIONS, check_attributes
from ingot.runtime.records import Record

MAX_CALLS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """An operand or result: its element type and number of axes."""

    dtype: DType
    rank: int


@dataclass(frozen=True)
class Call:
    """One call of a host function."""

    function: str
    attributes: Mapping[str, Attribute]
    operands: tuple[Tensor, ...]
    results: tuple[Tensor, ...]

    def encode(self) -> dict[str, Any]:
        """What `parse_calls` reads, as JSON can hold it."""
        return {
            "function": self.function,
            "attributes": {key: list(v) if isinstance(v, tuple) else v for key, v in self.attributes.items()},
            "operands": [[t.dtype.name, t.rank] for t in self.operands],
            "results": [[t.dtype.name, t.rank] for t in self.results],
        }

    @property
    def words(self) -> int:
        """How many words of the argument table the call has."""
        return sum(1 + t.rank for t in (*self.operands, *self.results))


def parse_calls(value: object, max_rank: int) -> tuple[Call, ...]:
    """The calls that decoded JSON stands for. Raises ArtifactError for calls of functions that are not on the list or
    do not take what is said."""
    calls: list[Call] = []
    for index, entry in enumerate(records.sequence(value, "host", MAX_CALLS)):
        where = f"host[{index}]"
        record = Record(where, entry)
        name = record.take("function")
        if not isinstance(name, str) or name not in FUNCTIONS:
            raise ArtifactError(f"{where}: there is no host function {str(name)[:40]!r}; update ingot")
        function = FUNCTIONS[name]
        operands = _tensors(record.take("operands"), f"{where}.operands", max_rank)
        results = _tensors(record.take("results"), f"{where}.results", max_rank)
        given, wanted = (*operands, *results), (*function.operands, *function.results)
        if len(operands) != len(function.operands) or len(given) != len(wanted):
            raise ArtifactError(f"{where}: {name} does not have {len(operands)} operands and {len(results)} results")
        for tensor, allowed in zip(given, wanted, strict=True):
            if tensor.dtype not in allowed:
                raise ArtifactError(f"{where}: {name} takes no {tensor.dtype.name} there")
        attributes = _attributes(record.take("attributes"), where)
        record.end()
        if (problem := check_attributes(name, attributes)) is not None:
            raise ArtifactError(f"{where}: {problem}")
        calls.append(Call(name, attributes, operands, results))
    return tuple(calls)


def _tensors(value: object, where: str, max_rank: int) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    for entry in records.sequence(value, where, 16):
        match entry:
            case [str(name), int(rank)] if name in BY_NAME and type(rank) is int and 0 <= rank <= max_rank:
                tensors.append(Tensor(BY_NAME[name], rank))
            case _:
                raise ArtifactError(f"{where} has {str(entry)[:40]}, which is not [element type, number of axes]")
    return tuple(tensors)


def _attributes(value: object, where: str) -> dict[str, Attribute]:
    if not isinstance(value, dict):
        raise ArtifactError(f"{where}.attributes is not a JSON object")
    attributes: dict[str, Attribute] = {}
    for key, item in cast("dict[str, object]", value).items():
        entry: object = tuple(cast("list[object]", item)) if isinstance(item, list) else item
        if not isinstance(entry, str | int | bool | tuple):
            raise ArtifactError(f"{where}.attributes: {key[:40]!r} is neither text nor a number")
        attributes[key] = cast("Attribute", entry)
    return attributes
