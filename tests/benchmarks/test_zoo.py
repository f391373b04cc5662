"""The zoo: its table is sound everywhere; where torch is installed, every family exports, repeatably, and runs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import benchmarks.zoo as zoo
import numpy as np
import pytest
from benchmarks.zoo.__main__ import main
from benchmarks.zoo.catalogue import MODELS
from benchmarks.zoo.specification import VARIANTS, Input, Values, extent

MISSING = [name for name in ("torch", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
exports = pytest.mark.skipif(bool(MISSING), reason=f"exporting the zoo needs {', '.join(MISSING)}")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INGOT_ZOO", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", MODELS)
def test_inputs_fit_their_specification(name: str) -> None:
    model = MODELS[name]
    other = {symbol: 3 + k for k, symbol in enumerate(model.dims)}
    for variant in VARIANTS:
        for dims in ({}, other):
            made = zoo.inputs(name, variant, **dims)
            for wanted in model.inputs(model.options(variant)):
                array = made[wanted.name]
                assert array.shape == wanted.extents({**model.dims, **dims})
                assert array.dtype == wanted.dtype
    assert set(model.traced) == set(model.dims)
    assert all(length > 1 for length in model.traced.values())


def test_inputs_are_the_same_every_time() -> None:
    first, second = zoo.inputs("bert_base", sequence=9), zoo.inputs("bert_base", sequence=9)
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("values", "shape", "want"),
    [
        (Values("valid"), ("batch", "sequence"), [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]),
        (Values("lengths", of="sequence"), ("batch",), [4, 3, 2]),
        (Values("positions", of="sequence + 2"), ("batch", 2), [[4, 5], [4, 5], [4, 5]]),
        (Values("ones"), ("batch", 1), [[1], [1], [1]]),
        (Values("zeros"), (2,), [0, 0]),
        (Values("integers", 7, 8), (2,), [7, 7]),
    ],
)
def test_values(values: Values, shape: tuple[int | str, ...], want: list[int]) -> None:
    made = Input("x", "int64", shape, values).fill({"batch": 3, "sequence": 4}, np.random.default_rng(0))
    assert made.tolist() == want


def test_extents_of_sums() -> None:
    assert [extent(dim, {"past": 6}) for dim in (3, "past", "past + 1", "2 + past + past")] == [3, 6, 7, 14]


def test_unknown_names_are_refused(cache: Path) -> None:
    with pytest.raises(ValueError, match="the zoo has no model 'lenet'"):
        zoo.load("lenet")
    with pytest.raises(ValueError, match="mlp has no dim sequence; it has batch"):
        zoo.inputs("mlp", sequence=4)
    with pytest.raises(ValueError, match=r"mlp \(full\) has no export by 'dynamo-23'; it has torchscript"):
        zoo.load("mlp", "full", "dynamo-23")


def test_what_is_not_exported_says_how(cache: Path) -> None:
    with pytest.raises(zoo.NotExportedError, match=r"python -m benchmarks\.zoo export --tiny mlp"):
        zoo.load("mlp")


@exports
@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("mlp", "torchscript-13"),
        ("mobilenet_v3", "torchscript-17"),
        ("unet", "torchscript-17"),
        ("yolo", "torchscript-13"),
        ("minilm", "torchscript-17"),
        ("gpt2_decode", "torchscript-17"),
        ("packed_tagger", "torchscript-17"),
        ("moe_routed", "torchscript-17"),
        ("light_squeezenet", "onnx-9"),
        pytest.param("mlp", "dynamo-18", marks=pytest.mark.slow),  # the exporter alone takes seconds to import
    ],
)
def test_exports_repeatably_and_runs(name: str, exporter: str, cache: Path) -> None:
    import onnxruntime

    arguments = ["export", "--tiny", "--exporter", exporter, name]
    assert main(arguments) == 0
    path = zoo.load(name, "tiny", exporter)
    record = zoo.record(name, "tiny", exporter)
    assert path.is_relative_to(cache)
    assert f"{record['exporter']}-{record['opset']}" == exporter
    assert main([*arguments, "--force"]) == 0
    assert zoo.record(name, "tiny", exporter) == record

    model = MODELS[name]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == [i["name"] for i in record["inputs"]]
    assert [o.name for o in session.get_outputs()] == record["outputs"]
    others: dict[str, int] = dict.fromkeys(model.dims, 3)
    for dims in ({}, others):
        for result in session.run(None, zoo.inputs(name, "tiny", **dims)):
            assert np.isfinite(np.asarray(result)).all()


@exports
def test_only_what_is_absent_is_exported(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "--tiny", "--exporter", "torchscript-13", "mlp"]
    assert main(arguments) == 0
    assert "mlp/tiny-torchscript-13.onnx" in capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""


def test_list_shows_every_model(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(MODELS)


def test_specifications_are_json() -> None:
    for model in MODELS.values():
        for variant in VARIANTS:
            for exporter in model.exported_by(variant):
                json.dumps(model.describe(variant, exporter))
