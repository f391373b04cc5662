"""Denormals kept or flushed, in every thread and whatever the caller's mode, which is found again after the call."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx.parser
import pytest
from numpy.typing import NDArray

from ingot.compiler import compile
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.errors import TargetError
from ingot.runtime import InputError, RuntimeFault, Session
from ingot.runtime.host import lane as host_lane

Array = NDArray[np.float32]
X86 = features.host_arch() == "x86-64"
DEFAULT, FLUSHING = (0x1F80, 0x9FC0) if X86 else (0, 1 << 24)
UPWARD = 0x5F80 if X86 else 1 << 22  # rounding towards plus infinity
MODES = [DEFAULT, FLUSHING, UPWARD]
LARGE = 200_000  # elements that the team shares
TINY = np.float32(1e-40)


class _Environment(ctypes.Structure):
    """fenv_t of the C library, as far as the mode goes."""

    _fields_ = [("before", ctypes.c_uint8 * (28 if X86 else 0)), ("mode", ctypes.c_uint32), ("more", ctypes.c_uint32)]


_MATH = ctypes.CDLL("libm.so.6" if sys.platform == "linux" else None)


def mode() -> int:
    """The thread's mode, without the flags that operations leave behind."""
    found = _Environment()
    assert _MATH.fegetenv(ctypes.byref(found)) == 0
    return found.mode & ~0x3F if X86 else found.mode


@contextmanager
def callers_mode(wanted: int) -> Generator[None]:
    """A mode of the caller's own. Nothing is computed by others inside."""
    before, changed = _Environment(), _Environment()
    _MATH.fegetenv(ctypes.byref(before))
    ctypes.memmove(ctypes.byref(changed), ctypes.byref(before), ctypes.sizeof(before))
    changed.mode = wanted
    _MATH.fesetenv(ctypes.byref(changed))
    try:
        assert mode() == wanted
        yield
    finally:
        _MATH.fesetenv(ctypes.byref(before))


def model(text: str) -> Any:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')


PRODUCT = "m (float[n] x, float[n] z) => (float[n] y) { y = Mul (x, z) }"


@pytest.fixture(scope="module", params=["keep", "flush"])
def denormals(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=[1, 2])
def session(request: pytest.FixtureRequest, denormals: Any) -> Iterator[Session]:
    with compile(model(PRODUCT), denormals=denormals, jobs=1).session(threads=request.param) as made:
        yield made


def expected(denormals: str, x: Array, z: Array) -> Array:
    if denormals == "keep":
        return x * z
    small = np.finfo(np.float32).smallest_normal
    x, z = (np.where(abs(a) < small, a * 0, a) for a in (x, z))
    return np.where(abs(x * z) < small, np.float32(0), x * z)


def by_run(session: Session, inputs: dict[str, Array]) -> Array:
    return session.run(inputs)["y"]


def by_binding(session: Session, inputs: dict[str, Array]) -> Array:
    y = np.empty_like(inputs["x"])
    session.bind(inputs, {"y": y})()
    return y


def by_profile(session: Session, inputs: dict[str, Array]) -> Array:
    y = by_run(session, inputs)
    session.profile(inputs, runs=2)
    return y


@pytest.mark.parametrize("count", [7, LARGE])
@pytest.mark.parametrize("called", [by_run, by_binding, by_profile])
@pytest.mark.parametrize("caller", MODES)
def test_results_and_the_mode_after(
    session: Session, denormals: str, count: int, called: Callable[..., Array], caller: int
) -> None:
    """Denormal operands, denormal results and results that are none, from any mode."""
    rng = np.random.default_rng(0)
    x = (rng.choice([1e-40, 1e-30, -1e-30, 1.0, 3.0], count) * rng.random(count)).astype(np.float32)
    z = rng.choice(np.array([1e-10, 1e30, 1.0], np.float32), count)
    want = expected(denormals, x, z)
    assert (want == x * z).all() == (denormals == "keep")
    with callers_mode(caller):
        y = called(session, {"x": x, "z": z})
        after = mode()
    assert after == caller
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("caller", MODES)
def test_small_calls_from_python(denormals: Any, caller: int) -> None:
    """The entry that a session takes for repeated runs of one shape."""
    text = "m (float[4] x, float[4] z) => (float[4] y) { y = Mul (x, z) }"
    x, z = np.full(4, 1e-30, np.float32), np.full(4, 1e-10, np.float32)
    want = expected(denormals, x, z)
    with compile(model(text), denormals=denormals, jobs=1).session(threads=1) as made:
        for _ in range(5):
            with callers_mode(caller):
                y = made.run({"x": x, "z": z})["y"]
                after = mode()
            assert after == caller
            np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("caller", MODES)
def test_after_a_fault(denormals: Any, caller: int) -> None:
    text = "m (float[5] x, int64[k] i) => (float[k] y) { y = GatherElements (x, i) }"
    x = np.full(5, TINY, np.float32)
    with compile(model(text), denormals=denormals, jobs=1).session(threads=1) as made:
        with callers_mode(caller):
            with pytest.raises(RuntimeFault, match="out of range"):
                made.run({"x": x, "i": np.array([9])})
            after = mode()
        assert after == caller


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("caller", MODES)
def test_around_host_steps(denormals: Any, caller: int, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host computes in the caller's mode, between kernels that do not."""
    text = """m (float[n] x, string[n] s) => (float[n] y) {
        a = Mul (x, x)  k = Cast <to = 1> (s)  b = Mul (k, a)  y = Add (b, a) }"""
    seen: list[int] = []
    y: Any = None
    answer: Any = host_lane.HostLane._answer  # pyright: ignore[reportPrivateUsage]

    def watched(self: Any, *arguments: Any) -> Any:
        seen.append(mode())
        return answer(self, *arguments)

    monkeypatch.setattr(host_lane.HostLane, "_answer", watched)
    x = np.array([1e-20, 2.0], np.float32)
    words = np.array(["3", "no" if fails else "1"], object)
    want = np.array([4 * (x[0] * x[0]) if denormals == "keep" else 0, 8], np.float32)
    with compile(model(text), denormals=denormals, jobs=1).session(threads=1) as made, callers_mode(caller):
        if fails:
            with pytest.raises(RuntimeFault, match="'no' is no number"):
                made.run({"x": x, "s": words})
        else:
            y = made.run({"x": x, "s": words})["y"]
        after = mode()
    if not fails:
        np.testing.assert_array_equal(y, want)
    assert seen == [caller] and after == caller


def test_nothing_flushes_by_default() -> None:
    """Denormals through operators of all families, to the last bit."""
    rng = np.random.default_rng(0)
    cases = {
        "MatMul (a, b)": lambda a, b: (a.astype(np.float64) @ b).astype(np.float32),
        "Add (a, a)": lambda a, b: a + a,
        "Relu (a)": lambda a, b: np.maximum(a, 0),
        "Sqrt (a)": lambda a, b: np.sqrt(a),
        "Tanh (a)": lambda a, b: a,
        "ReduceSum <keepdims = 0> (a)": lambda a, b: np.float32(a.astype(np.float64).sum()),
        "ReduceMax <keepdims = 0> (a)": lambda a, b: a.max(),
    }
    a = (rng.integers(1, 1000, (5, 5)) * 2.0**-149).astype(np.float32)
    b = rng.integers(1, 9, (5, 5)).astype(np.float32)
    for text, reference in cases.items():
        rank = "" if "Reduce" in text else "[5, 5]"
        each = model(f"m (float[5, 5] a, float[5, 5] b) => (float{rank} y) {{ y = {text} }}")
        with compile(each, jobs=1).session(threads=1) as made:
            np.testing.assert_array_equal(made.run({"a": a, "b": b})["y"], reference(a, b), err_msg=text)


def test_options() -> None:
    with pytest.raises(InputError, match="denormals is 'zero'; it is one of keep, flush"):
        compile(model(PRODUCT), denormals="zero")  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="the interpreter keeps denormals"):
        compile(model(PRODUCT), target="interpreter", denormals="flush")
    artifacts = {each: compile(model(PRODUCT), denormals=each, jobs=1) for each in ("keep", "flush")}
    assert artifacts["flush"].manifest.provenance["denormals"] == "flush"
    assert "denormals" not in artifacts["keep"].manifest.provenance
