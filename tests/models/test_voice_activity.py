"""Silero's voice activity detector: STFT as a convolution, an LSTM whose state the caller carries, nested Ifs.

Its two branches are for two sampling rates and frame sizes: a fixed frame size rules one of them out, a symbolic one
decides at run time. Within each an If drops the time axis where one frame is left, else the ranks do not fit later on.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ingot.compiler import compile
from ingot.runtime import InputError, RuntimeFault

onnxruntime = pytest.importorskip("onnxruntime")

FOLDER = Path(os.environ.get("INGOT_MODELS") or Path(__file__).parents[3] / "shared" / "models") / "silero_vad"
PATH = FOLDER / "model.onnx"

pytestmark = pytest.mark.skipif(not PATH.is_file(), reason=f"{PATH} is not there: set INGOT_MODELS")


def test_detector_agrees() -> None:
    artifact = compile(PATH, shapes={"input": ["batch", 576]})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    reference = onnxruntime.InferenceSession(PATH, options, providers=["CPUExecutionProvider"])
    with artifact.session(threads=1) as session:
        for path in sorted((FOLDER / "inputs").glob("*.npz")):
            sample = np.load(path)
            have = session.run({k.removeprefix("in:"): sample[k] for k in sample.files if k.startswith("in:")})
            for name in ("output", "stateN"):
                want = sample[f"out:{name}"]
                np.testing.assert_allclose(have[name], want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))
        rng = np.random.default_rng(0)
        states = [np.zeros((2, 3, 128), np.float32)] * 2
        for _ in range(5):  # a stream: errors would add up in the state
            feed = {"input": rng.standard_normal((3, 576)).astype(np.float32) * 0.1, "sr": np.array(16000, np.int64)}
            want_output, want_state = reference.run(None, {**feed, "state": states[0]})
            have = session.run({**feed, "state": states[1]})
            np.testing.assert_allclose(have["output"], np.asarray(want_output), rtol=1e-4, atol=1e-5)
            states = [np.asarray(want_state), have["stateN"]]
        other = {"input": np.zeros((3, 576), np.float32), "state": states[1], "sr": np.array(8000, np.int64)}
        with pytest.raises(RuntimeFault, match="the condition must be true"):
            session.run(other)


def test_any_frame_size_and_both_rates() -> None:
    artifact = compile(PATH)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    reference = onnxruntime.InferenceSession(PATH, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    done = 0
    with artifact.session(threads=1) as session:
        for rate, batch, size in (
            (16000, 1, 512), (16000, 3, 576), (8000, 1, 256), (8000, 3, 256), (8000, 2, 288), (16000, 1, 192),
            (16000, 1, 640), (8000, 1, 512), (16000, 3, 64), (16000, 3, 704), (8000, 3, 577), (16000, 1, 0),
            (8000, 1, 31),
        ):  # fmt: skip
            feed = {
                "input": rng.standard_normal((batch, size)).astype(np.float32) * 0.1,
                "state": rng.standard_normal((2, batch, 128)).astype(np.float32) * 0.1,
                "sr": np.array(rate, np.int64),
            }
            try:
                wanted = reference.run(None, feed)
            except Exception:  # its errors have no common class of their own
                with pytest.raises((RuntimeFault, InputError), match=r"the condition must be true|cannot run so"):
                    session.run(feed)
                continue
            done += 1
            for have, want in zip(session.run(feed).values(), wanted, strict=True):
                np.testing.assert_allclose(have, np.asarray(want), rtol=1e-4, atol=1e-5)
    assert done >= 6
