"""Options of `compile` that mean nothing are refused with their name before any work is done."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from ingot.compiler import compile
from ingot.runtime import InputError

MODEL = onnx.parser.parse_model(
    '<ir_version: 9, opset_import: ["" : 18]> m (float[n, k] x) => (float[n, k] y) { y = Neg (x) }'
)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"numerics": "fast"}, "numerics is 'fast'; it is one of default, strict"),
        ({"memory": "tiny"}, "memory is 'tiny'; it is one of fast, small"),
        ({"weights": "f8"}, "weights is 'f8'; it is one of default, f32, keep, f16, bf16"),
        ({"jobs": 0}, "jobs is 0"),
        ({"jobs": True}, "jobs is True"),
        ({"jobs": 1.5}, "jobs is 1.5"),
        ({"stop_at": -1}, "stop_at is -1"),
        ({"pipeline": "fuse"}, "pipeline is a str"),
        ({"custom": [abs]}, "custom holds a builtin_function_or_method"),
        ({"shapes": {"x": 3}}, "the shape of 'x' is given as 3"),
        ({"shapes": {"x": "n,k"}}, "the shape of 'x' is given as 'n,k'"),
        ({"shapes": {"x": (1.5, 2)}}, "the shape of 'x' is given as"),
        ({"shapes": {"x": (None, 2)}}, "the shape of 'x' is given as"),
        ({"ranges": {"n": 3}}, "the range of 'n' is given as 3"),
        ({"ranges": {"n": (1,)}}, "the range of 'n' is given as"),
        ({"ranges": {"n": (1, 2.5)}}, "the range of 'n' is given as"),
        ({"ranges": {"n": (0, 2**62 + 1)}}, r"no dim is larger than 2\*\*62"),
        ({"ranges": [("n", 1, 2)]}, "ranges is .*; it is a dict by name"),
        ({"shapes": [1, 2]}, "shapes is .*; it is a dict by name"),
        ({"preprocess": ["x=cast:u8"]}, "preprocess is .*; it is a dict by name"),
        ({"specialise": {"n": 1}}, "specialise is .*; it is a list"),
        ({"specialise": 3}, "specialise is 3; it is a list"),
        ({"custom": 3}, "custom is 3; it is a list"),
        ({"print_after": "fuse"}, "print_after is 'fuse'; it is a list"),
        ({"name": 3}, "name is '3'; it is a str"),
        ({"name": "m" * 5000}, "name is 'm.*; it is a str of at most 4096"),
        ({"progress": 3}, "progress is 3; it is a function"),
    ],
)
def test_what_means_nothing_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        compile(MODEL, target="null", **options)


def test_integers_of_numpy_are_integers() -> None:
    outline = compile(MODEL, target="null", shapes={"x": (np.int64(2), "k")}, ranges={"k": [1, np.int32(4)]}, jobs=1)  # type: ignore[dict-item]
    assert outline is not None


def test_bounds_in_messages() -> None:
    text = '<ir_version: 9, opset_import: ["" : 18]> m (float[n] x) => (float[a] y, int64[a] z) <int64[1] k = {3}>'
    artifact = compile(onnx.parser.parse_model(text + " { y, z = TopK (x, k) }"), jobs=1)
    with artifact.session(threads=1) as session, pytest.raises(InputError, match=r"but n must be 3 or more$"):
        session.run({"x": np.zeros(2, np.float32)})
