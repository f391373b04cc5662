"""Steps before and after a model agree with numpy and with onnx.reference, compiled and fused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ingot.compiler import compile
from ingot.compiler.cli import main
from ingot.compiler.processing.errors import ProcessingError
from ingot.runtime import RuntimeFault

RANDOM = np.random.default_rng(5)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def model(shape: tuple[int | str, ...], dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = relu(x)"""
    x = helper.make_tensor_value_info("x", dtype, shape)
    y = helper.make_tensor_value_info("y", dtype, None)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def convolution() -> onnx.ModelProto:
    """A 3x3 convolution of stride 2 over pictures of 32 x 40."""
    weights = RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 32, 40))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def pixels(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, shape, np.uint8)


def run(made: onnx.ModelProto, given: NDArray[Any], **steps: Any) -> dict[str, NDArray[Any]]:
    with compile(made, jobs=1, cache=False, **steps).session(threads=1) as session:
        return session.run({"x": given})


def test_imagenet_pictures() -> None:
    given = pixels(2, 5, 7, 3)
    found = run(model(("n", 3, 5, 7)), given, preprocess={"x": "image:imagenet"})["y"]
    wanted = np.maximum(((given / 255.0 - MEAN) / STD).transpose(0, 3, 1, 2), 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "shape", "wanted"),
    [
        ("image", ("n", 3, 5, 6), lambda p: p.transpose(0, 3, 1, 2)),
        ("image:unit", ("n", 5, 6, 3), lambda p: p / 255),
        ("image:signed,channels=reversed", ("n", 5, 6, 3), lambda p: np.maximum(p[..., ::-1] / 127.5 - 1, 0)),
        ("image:scale=1/4,mean=3,std=2", ("n", 5, 6, 3), lambda p: np.maximum((p / 4 - 3) / 2, 0)),
        ("image:mean=1:2:3,std=1:2:4", ("n", 5, 6, 3), lambda p: np.maximum((p - [1.0, 2, 3]) / [1, 2, 4], 0)),
    ],
)
def test_normalisations_and_layouts(step: str, shape: tuple[Any, ...], wanted: Any) -> None:
    given = pixels(1, 5, 6, 3)
    found = run(model(shape), given, preprocess={"x": step})["y"]
    np.testing.assert_allclose(found, wanted(given.astype(np.float64)), rtol=1e-5, atol=1e-5)


def test_floats_channels_first() -> None:
    given = RANDOM.standard_normal((2, 3, 4, 5)).astype(np.float32)
    found = run(model((2, 3, 4, 5)), given, preprocess={"x": "image:layout=nchw,dtype=f32"})["y"]
    np.testing.assert_array_equal(found, np.maximum(given, 0))


@pytest.mark.parametrize("how", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("size", ["9x6", "any"])
def test_resized_pictures(how: str, size: str) -> None:
    given = pixels(1, 9, 6, 3)
    found = run(model((1, 3, 4, 8)), given, preprocess={"x": f"image:size={size},resize={how}"})["y"]
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode=how)
    sizes = numpy_helper.from_array(np.array([1, 3, 4, 8], np.int64), "s")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy")
    reference = helper.make_model(
        helper.make_graph([node], "g", [x], [y], [sizes]), opset_imports=[helper.make_opsetid("", 18)]
    )
    (wanted,) = ReferenceEvaluator(reference).run(None, {"x": given.transpose(0, 3, 1, 2).astype(np.float32)})
    np.testing.assert_allclose(found, np.maximum(np.asarray(wanted), 0), rtol=1e-4, atol=1e-3)


def test_normalisation_is_part_of_the_convolutions_border_copy() -> None:
    outlines = [compile(convolution(), target="null", preprocess=steps) for steps in ({}, {"x": "image:imagenet"})]
    plain, prepared = (sum(use.launches for use in outline.kernels) for outline in outlines)
    assert prepared == plain


def test_steps_in_order() -> None:
    given = pixels(2, 3)
    found = run(model((3, 2)), given, preprocess={"x": ["transpose:1:0", "cast:u8"][::-1]})["y"]
    np.testing.assert_array_equal(found, given.T.astype(np.float32))


def test_topk_of_an_open_axis() -> None:
    given = np.random.default_rng(7).standard_normal((4, 6)).astype(np.float32)
    with compile(model(("n", 6)), postprocess={"y": "topk:3,axis=0"}, cache=False).session() as session:
        order = np.argsort(-np.maximum(given, 0), axis=0, kind="stable")[:3]
        assert np.array_equal(session.run({"x": given})["y_indices"], order)
        assert session.run({"x": given[:3]})["y"].shape == (3, 6)
        for batch in (0, 2):
            with pytest.raises(RuntimeFault, match=r"topk:3,axis=0 needs 3 element.* on axis 0 of output y"):
                session.run({"x": given[:batch]})


def test_argmax_of_an_open_axis() -> None:
    given = np.random.default_rng(8).standard_normal((4, 6)).astype(np.float32)
    with compile(model(("n", 6)), postprocess={"y": "argmax:0"}, cache=False).session() as session:
        assert np.array_equal(session.run({"x": given})["y"], np.maximum(given, 0).argmax(0))
        with pytest.raises(RuntimeFault, match=r"argmax:0 needs 1 element.* on axis 0 of output y"):
            session.run({"x": given[:0]})


def test_after() -> None:
    given = RANDOM.standard_normal((3, 6)).astype(np.float32)
    kept = np.maximum(given, 0)
    assert run(model((3, 6)), given, postprocess={"y": "argmax"})["y"].tolist() == kept.argmax(-1).tolist()
    assert run(model((3, 6)), given, postprocess={"y": "argmax:0"})["y"].tolist() == kept.argmax(0).tolist()
    found = run(model((3, 6)), given, postprocess={"y": ["softmax", "topk:2"]})
    share = np.exp(kept.astype(np.float64))
    share /= share.sum(-1, keepdims=True)
    order = np.argsort(-share, axis=-1, kind="stable")[:, :2]
    np.testing.assert_array_equal(found["y_indices"], order)
    np.testing.assert_allclose(found["y"], np.take_along_axis(share, order, -1), rtol=1e-5)
    halves = run(model((3, 6)), given, postprocess={"y": ["sigmoid", "cast:f16", "transpose:1:0"]})["y"]
    assert halves.dtype == np.float16
    np.testing.assert_allclose(halves, 1 / (1 + np.exp(-kept.T.astype(np.float64))), rtol=1e-3)


@pytest.mark.parametrize(
    ("where", "steps", "says"),
    [
        ("preprocess", {"z": "image"}, "no input 'z'; it has x"),
        ("postprocess", {"x": "argmax"}, "no output 'x'; it has y"),
        ("preprocess", {"x": "argmax"}, "no step 'argmax' here; there are image, cast, transpose"),
        ("preprocess", {"x": "image:coco"}, "no normalisation 'coco'"),
        ("preprocess", {"x": "image:size=big"}, "HEIGHTxWIDTH"),
        ("preprocess", {"x": "image:size=0x4"}, "at least 1"),
        ("preprocess", {"x": "image:mean=1:2"}, "2 numbers for 3 channels"),
        ("preprocess", {"x": "image:std=0"}, "deviation of 0"),
        ("preprocess", {"x": "image:depth=8"}, "no option 'depth'"),
        ("preprocess", {"x": "image:mean="}, "empty"),
        ("preprocess", {"x": "image:scale=1/0"}, "no number"),
        ("preprocess", {"x": "cast:int"}, "no element type"),
        ("preprocess", {"x": "transpose:0:1"}, "order of the 4 axes"),
        ("postprocess", {"y": "topk:99"}, "99 elements"),
        ("postprocess", {"y": "topk:0"}, "at least 1 is needed"),
        ("postprocess", {"y": "topk:many"}, "no whole number"),
        ("postprocess", {"y": "softmax:7"}, "no axis 7"),
    ],
)
def test_what_does_not_fit_is_said(where: str, steps: dict[str, str], says: str) -> None:
    with pytest.raises(ProcessingError, match=says):
        compile(model((1, 3, 4, 4)), **{where: steps})  # type: ignore[arg-type]


def test_no_channels() -> None:
    with pytest.raises(ProcessingError, match="no axis of 1, 3 or 4 channels"):
        compile(model((1, 5, 6, 7)), preprocess={"x": "image"})
    with pytest.raises(ProcessingError, match="pictures of every size go in"):
        compile(model((1, 3, "h", "w")), preprocess={"x": "image:size=4x4"})


def test_command(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model((1, 3, 4, 4)), path)
    out = tmp_path / "model.ingot"
    options = ["--preprocess", "x=image:imagenet", "--postprocess", "y=topk:2"]
    assert main(["compile", str(path), "-o", str(out), *options]) == 0
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "u8[1, 4, 4, 3]" in shown and "y_indices" in shown
    assert main(["compile", str(path), "-o", str(out), "--preprocess", "image"]) != 0
    assert "NAME=STEP" in capsys.readouterr().err
