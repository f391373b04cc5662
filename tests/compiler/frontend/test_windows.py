"""Room for the windows of convolutions and pools: checked on import where extents are known, else by the runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from ingot.compiler import compile
from ingot.compiler.frontend import ModelError, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.runtime import InputError

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def net(body: str, spatial: str = "h, w") -> onnx.ModelProto:
    weight = "float[4, 3, 3, 3] k = {" + ", ".join(["1"] * 108) + "}"
    signature = f"net (float[1, 3, {spatial}] x) => (float[1, c, p, q] y) <{weight}>"
    return parser.parse_model(f"{HEADER}{signature} {{ {body} }}")


@pytest.mark.parametrize(
    ("body", "least"),
    [
        ("y = Conv(x, k)", (3, 3)),
        ("y = Conv<auto_pad = 'VALID'>(x, k)", (3, 3)),
        ("y = Conv<pads = [1, 1, 1, 1]>(x, k)", (1, 1)),
        ("y = Conv<pads = [1, 0, 0, 0]>(x, k)", (2, 3)),
        ("y = Conv<dilations = [1, 4]>(x, k)", (3, 9)),
        ("a = Conv(x, k)  y = MaxPool<kernel_shape = [2, 5]>(a)", (4, 7)),
        ("a = Conv<strides = [2, 2]>(x, k)  y = AveragePool<kernel_shape = [3, 1]>(a)", (7, 3)),
        ("y = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(x)", (3, 3)),
        ("y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)", (2, 2)),
        ("a = Concat<axis = 2>(x, x)  y = MaxPool<kernel_shape = [5, 1]>(a)", (3, 1)),
    ],
)
def test_the_least_extents(body: str, least: tuple[int, int]) -> None:
    body = body.replace("'", '"')
    ranges = load_onnx(net(body)).ranges
    assert tuple(max(1, ranges.get(name, (0, 0))[0]) for name in ("h", "w")) == least
    # The bounds are tight: fixed extents of that size are taken, smaller ones are not.
    load_onnx(net(body, f"{least[0]}, {least[1]}"))
    for axis in (0, 1):
        smaller = [str(extent - (axis == index)) for index, extent in enumerate(least)]
        if "0" not in smaller:
            with pytest.raises(ModelError, match=rf"(Conv|Pool).*the kernel spans \d+ on axis {axis + 2}.* only \d"):
                load_onnx(net(body, ", ".join(smaller)))


def test_the_runtime_names_input_and_axis() -> None:
    session = compile(net("y = Conv(x, k)")).session()
    assert session.run({"x": np.ones((1, 3, 3, 4), np.float32)})["y"].tolist() == [[[[27.0, 27.0]]] * 4]
    for shape, axis in (((2, 2), 2), ((1, 5), 2), ((5, 1), 3), ((0, 9), 2)):
        problem = rf"input 'x' .*has {shape[axis - 2]} on axis {axis}, but .* must be 3 or more"
        with pytest.raises(InputError, match=problem):
            session.run({"x": np.ones((1, 3, *shape), np.float32)})


def test_a_range_without_room() -> None:
    with pytest.raises(ModelError, match=r"the kernel spans 3 on axis 2 of .*, but h is at most 2"):
        load_onnx(net("y = Conv(x, k)"), ranges={"h": (1, 2)})
    assert load_onnx(net("y = Conv(x, k)"), ranges={"h": (1, 9)}).ranges["h"] == (3, 9)


def test_a_branch_that_may_not_run_demands_nothing() -> None:
    body = """y = If(c)<then_branch = t () => (float[1, 3, a, b] s) { s = MaxPool<kernel_shape = [3, 3]>(x) },
                        else_branch = e () => (float[1, 3, a, b] l) { l = MaxPool<kernel_shape = [3, 3]>(x) }>"""
    model = parser.parse_model(HEADER + f"net (bool c, float[1, 3, h, w] x) => (float[1, 3, p, q] y) {{ {body} }}")
    assert "h" not in load_onnx(model).ranges


@pytest.mark.parametrize("extent", [2, 3, 4, 5])
@pytest.mark.parametrize("options", [{"strides": [2, 2], "ceil_mode": 1}, {"strides": [2, 2]}])
def test_small_pools_against_onnxruntime(extent: int, options: dict[str, Any]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    text = ", ".join(f"{name} = {value}" for name, value in options.items())
    model = net(f"y = MaxPool<kernel_shape = [3, 3], {text}>(x)")
    x = np.random.default_rng(0).standard_normal((1, 3, extent, 5)).astype(np.float32)
    session = compile(model).session()
    if extent == 2 and "ceil_mode" not in options:
        with pytest.raises(InputError):
            session.run({"x": x})
        return
    options_of_session = runtime.SessionOptions()
    options_of_session.log_severity_level = 4
    reference = runtime.InferenceSession(
        model.SerializeToString(), options_of_session, providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(session.run({"x": x})["y"], reference.run(None, {"x": x})[0])


AUTO_PAD = """net (float[n, 3, h, w] x, int8[2, 3, 3, 2] k) => (conv, mean, whole, largest, places, norm, sums) {
    f = Cast<to = 1>(k)
    conv = Conv<auto_pad = "MODE", strides = [2, 3]>(x, f)
    mean = AveragePool<auto_pad = "MODE", kernel_shape = [3, 2], strides = [2, 2]>(x)
    whole = AveragePool<auto_pad = "MODE", kernel_shape = [4, 5], strides = [2, 3], count_include_pad = 1>(x)
    largest, places = MaxPool<auto_pad = "MODE", kernel_shape = [3, 3], strides = [2, 2]>(x)
    norm = LpPool<auto_pad = "MODE", kernel_shape = [2, 3], strides = [2, 2]>(x)
    b = Cast<to = 3>(x)  sums = ConvInteger<auto_pad = "MODE", strides = [2, 3]>(b, k)
}"""


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_pads_that_depend_on_open_extents(mode: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(1)
    model = parser.parse_model(HEADER + AUTO_PAD.replace("MODE", mode))
    byte = parser.parse_model(HEADER + AUTO_PAD.replace("MODE", mode).replace("<to = 3>", "<to = 2>"))
    reference = runtime.InferenceSession(byte.SerializeToString(), providers=["CPUExecutionProvider"])
    k = rng.integers(-5, 6, (2, 3, 3, 2)).astype(np.int8)
    with compile(model, jobs=1).session(threads=1) as session:
        for shape in ((1, 3, 7, 6), (2, 3, 8, 9), (1, 3, 1, 1), (1, 3, 2, 4)):
            x = (rng.random(shape) * 9).astype(np.float32)  # whole parts are the same as u8 and as i8
            found = session.run({"x": x, "k": k})
            for got, want in zip(found.values(), reference.run(None, {"x": x, "k": k}), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        assert session.run({"x": np.ones((1, 3, 0, 5), np.float32), "k": k})["conv"].shape == (1, 2, 0, 2)


def test_open_extents_and_strides_beyond_the_window() -> None:
    """There are no pads then, whatever the extents."""
    body = 'y = MaxPool<auto_pad = "SAME_UPPER", kernel_shape = [1, 2], strides = [3, 4]>(x)'
    with compile(net(body), jobs=1).session(threads=1) as session:
        for extents in ((1, 1), (3, 4), (5, 6), (7, 8)):
            x = np.random.default_rng(2).standard_normal((1, 3, *extents)).astype(np.float32)
            pinned = load_onnx(net(body, ", ".join(map(str, extents))))
            np.testing.assert_array_equal(session.run({"x": x})["y"], evaluate_graph(pinned, {"x": x})["y"])
