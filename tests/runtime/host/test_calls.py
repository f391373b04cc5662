"""Host calls in a manifest, which believes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingot.runtime import ArtifactError
from ingot.runtime.dtypes import i64, string
from ingot.runtime.host.calls import Call, Tensor, parse_calls

CALLS = (
    Call("string_split", {"delimiter": ",", "maxsplit": -1}, (Tensor(string, 1),), (Tensor(string, 2),)),
    Call("string_kept", {"stopwords": ("é", ""), "case_sensitive": False}, (Tensor(string, 1),), (Tensor(i64, 0),)),
)


def encoded() -> list[Any]:
    return json.loads(json.dumps([call.encode() for call in CALLS]))


def test_calls_read_back() -> None:
    assert parse_calls(encoded(), 64) == CALLS
    assert [call.words for call in CALLS] == [5, 3]
    assert parse_calls([], 64) == ()


DAMAGE: list[tuple[tuple[Any, ...], Any]] = [
    ((), {}),
    ((0,), []),
    ((0,), {"function": "string_split"}),
    ((0, "more"), 1),
    ((0, "function"), "os_system"),
    ((0, "function"), None),
    ((0, "function"), "string_concat"),
    ((0, "function"), ["string_split"]),
    ((0, "operands"), []),
    ((0, "operands"), [["string", 1], ["string", 1]]),
    ((0, "operands"), [["i64", 1]]),
    ((0, "operands"), [["string", 65]]),
    ((0, "operands"), [["string", -1]]),
    ((0, "operands"), [["string", True]]),
    ((0, "operands"), [["nothing", 1]]),
    ((0, "operands"), ["string"]),
    ((0, "operands"), "string"),
    ((0, "results"), [["i64", 2]]),
    ((0, "results"), None),
    ((0, "attributes"), None),
    ((0, "attributes"), {}),
    ((0, "attributes", "maxsplit"), True),
    ((0, "attributes", "maxsplit"), 1.0),
    ((0, "attributes", "maxsplit"), None),
    ((0, "attributes", "delimiter"), 1),
    ((0, "attributes", "other"), 1),
    ((1, "attributes", "stopwords"), [1]),
    ((1, "attributes", "stopwords"), "text"),
    ((1, "attributes", "stopwords"), {}),
    ((1, "attributes", "case_sensitive"), 1),
]


@pytest.mark.parametrize(("place", "value"), DAMAGE, ids=str)
def test_damage_is_found(place: tuple[Any, ...], value: Any) -> None:
    document: Any = {"host": encoded()}
    at = document
    path = ("host", *place)
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(ArtifactError, match="host"):
        parse_calls(document["host"], 64)
