"""Task metrics (accuracy and the like) of compiled models beside ONNX Runtime's, on the data that lies with the models.

    python -m benchmarks.tasks [names...]

Uses the evaluation harness in the folder of real models (see `benchmarks.models`); a model whose data or packages
(pillow, tokenizers) are missing is reported as such.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.models import models_folder
from ingot.compiler import compile

Outputs = list[np.ndarray[Any, Any]]
Runner = Callable[[dict[str, Any]], Outputs]
NAMES = (
    "mnist_cnn",
    "resnet20_cifar10",
    "mobilenet_v2_224_fp32",
    "mobilenet_v2_tf2_qdq",
    "yolox_nano",
    "ultraface_rfb_320",
    "superres_espcn",
    "minilm_l6_v2_fp16w",
    "magika_v3_3",
    "silero_vad",
)


def harness() -> ModuleType:
    """The module with the tasks; SystemExit when the folder has none."""
    path = models_folder() / "_tools" / "tasks.py"
    if not path.exists():
        raise SystemExit(f"{path} is not there: set INGOT_MODELS to the folder of real models")
    os.environ["EVAL_ROOT"] = str(models_folder())
    spec = importlib.util.spec_from_file_location("tasks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tasks"] = module
    spec.loader.exec_module(module)
    return module


def compiled(threads: int) -> Callable[[str], Runner]:
    """A way to run models by name, compiled by Ingot."""

    def runner(name: str) -> Runner:
        session = compile(models_folder() / name / "model.onnx").session(threads=threads)
        known = {info.name for info in session.inputs}
        return lambda feed: list(session.run({k: np.asarray(v) for k, v in feed.items() if k in known}).values())

    return runner


def shown(metrics: dict[str, Any]) -> str:
    """Metrics as text."""
    return ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())


def table(names: Sequence[str] = NAMES) -> str:
    """The Markdown table."""
    tasks = harness()
    lines = ["| model | Ingot | ONNX Runtime |", "|---|---|---|"]
    for name in names:
        try:
            mine, peer = (tasks.TASKS[name]("dev", run) for run in (compiled(1), tasks.ort_runner()))
            lines.append(f"| {name} | {shown(mine)} | {shown(peer)} |")
        except (ImportError, FileNotFoundError) as error:
            lines.append(f"| {name} | not measured: {error} | |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    print(table(parser.parse_args(arguments).names))


if __name__ == "__main__":
    main()
