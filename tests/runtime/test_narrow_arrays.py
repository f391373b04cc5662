"""Arrays of element types that numpy lacks: ml_dtypes' where it is installed, raw bits where it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from ingot.compiler import compile
from ingot.runtime import InputError, Session

KINDS = {
    "bfloat16": TensorProto.BFLOAT16,
    "float8_e4m3fn": TensorProto.FLOAT8E4M3FN,
    "float8_e5m2": TensorProto.FLOAT8E5M2,
    "float4_e2m1fn": TensorProto.FLOAT4E2M1,
    "int4": TensorProto.INT4,
    "uint2": TensorProto.UINT2,
}

WITHOUT = """
import sys
sys.modules["ml_dtypes"] = None  # as if it were not installed
import numpy as np
from ingot.runtime import Session
given = dict(np.load(sys.argv[2]))
with Session(sys.argv[1], threads=1) as session:
    assert [str(i.dtype) for i in session.inputs] == [str(given[i.name].dtype) for i in session.inputs]
    np.savez(sys.argv[3], **session.run(given))
"""


def model() -> bytes:
    """Each type cast to f32, doubled and cast back."""
    nodes, inputs, outputs = [], [], []
    for name, code in KINDS.items():
        inputs.append(helper.make_tensor_value_info(f"x_{name}", code, ["n", 3]))
        outputs.append(helper.make_tensor_value_info(f"y_{name}", code, ["n", 3]))
        nodes.append(helper.make_node("Cast", [f"x_{name}"], [f"wide_{name}"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Neg", [f"wide_{name}"], [f"neg_{name}"]))
        nodes.append(helper.make_node("Abs", [f"neg_{name}"], [f"abs_{name}"]))
        nodes.append(helper.make_node("Cast", [f"abs_{name}"], [f"y_{name}"], to=code))
    graph = helper.make_graph(nodes, "narrow", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)]).SerializeToString()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("narrow") / "model.ingot"
    compile(model(), jobs=1).save(path)
    return path


def given() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    numbers = {name: np.asarray(rng.uniform(-2, 2, (5, 3)), np.float32) for name in KINDS}
    return {f"x_{name}": x.astype(getattr(ml_dtypes, name)) for name, x in numbers.items()}


def as_bits(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.view(f"uint{8 * array.dtype.itemsize}") for name, array in arrays.items()}


def test_ml_dtypes_arrays_go_in_and_come_out(artifact: Path) -> None:
    feed = given()
    with Session(artifact, threads=1) as session:
        have = session.run(feed)
        with pytest.raises(InputError, match="bfloat16"):
            session.run(feed | as_bits({"x_bfloat16": feed["x_bfloat16"]}))
    for name in KINDS:
        wanted = np.abs(feed[f"x_{name}"].astype(np.float32)).astype(getattr(ml_dtypes, name))
        assert have[f"y_{name}"].dtype == wanted.dtype
        np.testing.assert_array_equal(have[f"y_{name}"].astype(np.float32), wanted.astype(np.float32))


def test_raw_bits_where_ml_dtypes_is_absent(artifact: Path, tmp_path: Path) -> None:
    feed = given()
    with Session(artifact, threads=1) as session:
        wanted = as_bits(session.run(feed))
    np.savez(tmp_path / "given.npz", allow_pickle=False, **as_bits(feed))
    files = [str(path) for path in (artifact, tmp_path / "given.npz", tmp_path / "found.npz")]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    assert set(found.files) == wanted.keys()
    for name, bits in wanted.items():
        assert found[name].dtype == bits.dtype
        np.testing.assert_array_equal(found[name], bits)
