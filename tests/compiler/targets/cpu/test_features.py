"""Levels by name, with extensions."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from ingot.compiler import compile
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.errors import TargetError
from ingot.compiler.targets.registry import require_runnable
from ingot.runtime import UnsupportedCpuError
from ingot.runtime.cpu import kernel_flags, missing_features

MODEL = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> m (float[n, 4] x) => (float[n, 4] y) { y = Exp (x) }'
)


@pytest.mark.parametrize(
    ("name", "dot", "signed", "lanes", "needs"),
    [
        ("x86-64-v3", 2, False, 8, set[str]()),
        ("x86-64-v3+avxvnni", 4, False, 8, {"avxvnni"}),
        ("x86-64-v4+avx512vnni", 4, False, 16, {"avx512vnni"}),
        ("x86-64-v4+amx-int8", 4, False, 16, {"avx512vnni", "amx-tile", "amx-int8"}),
        ("aarch64", 4, True, 4, set[str]()),
        ("aarch64+i8mm", 4, False, 4, {"i8mm"}),
        ("aarch64+sve256", 4, True, 8, {"sve", "sve256"}),
        ("aarch64+i8mm+sve256", 4, False, 8, {"i8mm", "sve", "sve256"}),
    ],
)
def test_extensions(name: str, dot: int, signed: bool, lanes: int, needs: set[str]) -> None:
    level, base = features.level(name), features.level(name.partition("+")[0])
    machine = features.machine(level)
    assert (level.name, level.dot, level.signed_dot, level.lanes(4)) == (name, dot, signed, lanes)
    assert (machine.dot, machine.signed_dot, machine.lanes_f32) == (dot, signed, lanes)
    assert (machine.matrices, machine.tiles) == ("i8mm" in needs, "amx-int8" in needs)
    assert level.required - base.required == needs


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("x86-64-v9", "no instruction set level 'x86-64-v9'; there are"),
        ("x86-64-v3+avx512vnni", r"the level x86-64-v3 takes, each once, \+avxvnni$"),
        ("x86-64-v3+amx-int8", r"the level x86-64-v3 takes, each once, \+avxvnni$"),
        ("aarch64+i8mm+i8mm", r"the level aarch64 takes, each once, \+i8mm, \+sve256$"),
        ("aarch64+", "the level aarch64 takes"),
        ("native+avxvnni", "no instruction set level"),
    ],
)
def test_names_that_are_none(name: str, problem: str) -> None:
    with pytest.raises(IrError, match=problem):
        features.level(name)
    with pytest.raises(TargetError, match=r"x86-64-v3|aarch64"):
        compile(MODEL, target=name)


def test_native_code_has_no_tiles() -> None:
    """Programs must ask the kernel for them: code has them where their level is named."""
    native = features.level("native")
    assert not native.tiles and not any(each.startswith("amx-") for each in native.required)


@pytest.mark.skipif(features.host_arch() != "x86-64", reason="levels of x86-64")
@pytest.mark.parametrize("name", ["x86-64-v3+avxvnni", "x86-64-v4+avx512vnni", "x86-64-v4+amx-int8"])
def test_artifacts_run_where_the_extension_is(name: str) -> None:
    artifact = compile(MODEL, target=name, jobs=1)
    (code,) = artifact.manifest.code
    assert code.level == name and set(code.features) == features.level(name).required
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    if missing := missing_features(code.features, "x86-64", kernel_flags()):
        with pytest.raises(UnsupportedCpuError, match=missing[0]):
            artifact.session()
        with pytest.raises(TargetError, match=missing[0]):
            require_runnable(name)
    else:
        require_runnable(name)
        with artifact.session(threads=1) as session:
            np.testing.assert_allclose(session.run({"x": x})["y"], np.exp(x), rtol=1e-6)
