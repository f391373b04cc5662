"""Late storages: what a manifest may say about them, and the memory they live in."""

from __future__ import annotations

import copy
import ctypes
import gc
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from ingot.compiler import compile
from ingot.compiler.artifact import Artifact
from ingot.runtime import ArtifactError, RuntimeFault
from ingot.runtime.late import LateMemory, record_word, value_word
from ingot.runtime.manifest import parse_manifest
from ingot.runtime.tables import BLOCK, VALUE


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """What is found in a list of n elements."""
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["p"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("p", TensorProto.INT64, None)],
    )
    return compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_the_manifest_comes_back(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert list(manifest.bound) == ["p"] and manifest.late
    assert parse_manifest(manifest.encode()) == manifest


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.pop(key)


def _put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document[key] = value

    return change


def _set_word(document: dict[str, Any], old: int, new: int) -> None:
    column = document["args"]["storage"]
    column[column.index(old)] = new


def _weight(document: dict[str, Any]) -> None:
    document["inputs"][0]["shape"] = ["p"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_without("bound"), "unknown keys: late"),
        (_without("late"), "no 'late'"),
        (_put("bound", []), "bound is empty"),
        (_put("bound", [["q", 1]]), "bound names 'q', which is no symbol"),
        (_put("bound", [["p", 1], ["p", 1]]), "bound names 'p', which is no symbol or is bound twice"),
        (_put("bound", [["p", 0]]), "the fault of a bound symbol is 0"),
        (_put("bound", [["p", 99]]), "a fault without a message"),
        (_put("bound", [["p"]]), "the entry is not a pair"),
        (_put("bound", {"p": 1}), "not a JSON array"),
        (_put("late", []), "the late storages are not those"),
        (_put("late", [[99, 1]]), "a late storage is 99"),
        (lambda d: d["late"].append(d["late"][0]), "twice"),
        (lambda d: _set_word(d, BLOCK, VALUE), "args has 0 words for the block"),
        (lambda d: _set_word(d, VALUE, BLOCK), "args has 2 words for the block"),
        (_weight, "the shape of an input mentions a bound symbol"),
    ],
)
def test_bad_manifests(artifact: Artifact, change: Callable[[dict[str, Any]], Any], problem: str) -> None:
    document = copy.deepcopy(json.loads(artifact.manifest.encode()))
    change(document)
    with pytest.raises(ArtifactError, match=problem):
        parse_manifest(json.dumps(document).encode())


def test_outputs_larger_than_what_was_written_are_refused() -> None:
    memory = LateMemory(2, ("n",), 1 << 20)
    with pytest.raises(RuntimeFault, match=r"shape \[3\] is larger than what the model has written"):
        memory.copy(1, np.dtype(np.float32), (3,))
    assert memory.copy(0, np.dtype(np.float32), (0, 7)).shape == (0, 7)
    assert memory.values() == {"n": 0} and memory.wanted(1) == 0


def test_the_block_is_laid_out_as_said() -> None:
    memory = LateMemory(2, ("n", "m"), 4096)
    words = (ctypes.c_int64 * value_word(2, 2)).from_address(memory.address)
    assert words[2] == 4096 and words[0] and words[1]
    allocate = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)(words[0])
    place = allocate(64, 128)
    assert place is not None and place % 64 == 0
    ctypes.memset(place, 7, 128)
    words[record_word(1, "address")], words[record_word(1, "capacity")] = place, 128
    words[value_word(2, 1)] = 5
    assert memory.values() == {"n": 0, "m": 5}
    np.testing.assert_array_equal(memory.copy(1, np.dtype(np.uint8), (128,)), np.full(128, 7, np.uint8))
    del memory, words  # frees what hangs in the block
    gc.collect()


def test_memory_is_kept_and_grows(artifact: Artifact) -> None:
    with artifact.session(threads=1) as session:
        for count in (10, 1000, 0, 5, 100_000, 3):
            x = np.arange(count, dtype=np.float32) % 3
            np.testing.assert_array_equal(session.run({"x": x})["p"][0], np.flatnonzero(x))
