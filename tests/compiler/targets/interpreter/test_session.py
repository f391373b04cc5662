"""The interpreter as a target: an artifact's interface, and its values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import parser

from ingot.compiler import compile
from ingot.compiler.demo import held_out, model_path
from ingot.compiler.targets.errors import TargetError
from ingot.runtime.errors import InputError, RuntimeFault

GATHER = """<ir_version: 8, opset_import: ["" : 17]>
gather (float[n] x, int64[k] i) => (float[k] y, float[n] z) { y = Gather(x, i) z = Neg(x) }"""


def test_values_of_a_session() -> None:
    images = {"image": held_out()[0][:3]}
    made = compile(model_path(), target="interpreter")
    with made.session(threads=2) as session, compile(model_path()).session(threads=1) as native:
        assert (session.inputs, session.outputs) == (native.inputs, native.outputs)
        found, wanted = session.run(images), native.run(images)
        assert list(found) == list(wanted)
        np.testing.assert_allclose(found["logits"], wanted["logits"], rtol=0, atol=1e-4)
        assert session.metadata["name"] == native.metadata["name"] and session.metadata["target"] == "interpreter"
    with pytest.raises(RuntimeFault, match="the session is closed"):
        session.run(images)


def test_errors_of_a_session() -> None:
    model = parser.parse_model(GATHER)
    x, i = np.arange(3, dtype=np.float32), np.array([2, 0, -1])
    with compile(model, target="interpreter").session() as session, compile(model).session(threads=1) as native:
        for each in (session, native):
            assert each.run({"x": x, "i": i}, ["y"])["y"].tolist() == [2, 0, 2]
            assert list(each.run({"x": x, "i": i[:0]}, ["z", "y"])) == ["z", "y"]
            with pytest.raises(RuntimeFault, match=r"Gather|index|range"):
                each.run({"x": x, "i": np.array([3])})
            with pytest.raises(InputError, match="no value is given for 'i'"):
                each.run({"x": x})
            with pytest.raises(InputError, match="has dtype float64"):
                each.run({"x": x.astype(np.float64), "i": i})
            with pytest.raises(InputError, match="has 2 axes, 1 are needed"):
                each.run({"x": x[None], "i": i})
            with pytest.raises(InputError):
                each.run({"x": x, "i": i}, ["nothing"])
            with pytest.raises(InputError):
                each.run({"x": x, "i": i}, "y")


def test_sizes_from_data() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> n (float[n] x) => (int64[1, found] y) { y = NonZero(x) }'
    )
    with compile(model, target="interpreter").session() as session:
        for x in ([0.0, 2.0, 0.0, -1.0], [0.0], [], [1.0]):
            array = np.array(x, np.float32)
            assert session.run({"x": array})["y"].tolist() == [np.flatnonzero(array).tolist()]


def test_there_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "x.ingot"
    with pytest.raises(TargetError, match="makes no file; use ingot run"):
        compile(model_path(), target="interpreter").save(path)
    assert not path.exists()
