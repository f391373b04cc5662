"""Task metrics of models before and after quantisation, beside ONNX Runtime's own quantisation of the same models.

    python -m benchmarks.quantization [names...]

Every third sample of the data that lies with the real models (see `benchmarks.tasks`) is for calibration, the others
are what the metrics are of. Models of ONNX Runtime's `quantize_static` (after its `quant_pre_process`) run in ONNX
Runtime, ours in Ingot, NNCF's in OpenVINO. MiniLM is quantised dynamically by the first two, in each its default way,
and by NNCF with ranges from samples as it has it for transformers. "off the grid" are weights that were moved by a
little noise. How much is changed is judged on 1000 inputs and more (see `benchmarks.judging`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from benchmarks.judging import Judge, Judgement, measured, observed, vary_boxes
from benchmarks.models import models_folder
from benchmarks.peers.catalogue import NNCF
from benchmarks.peers.client import PeerError, call
from benchmarks.peers.environments import NotInstalledError
from benchmarks.tasks import Outputs, Runner
from ingot.compiler import Quantized, quantize

Arrays = dict[str, Any]
CALIBRATED = 128  # samples at most
THIRD = 3


@dataclass(frozen=True)
class Trial:
    """A model, the metric that counts, and whether it is quantised with ranges from data."""

    model: str
    metric: str
    is_static: bool = True
    is_noisy: bool = False

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{self.model}{', off the grid' if self.is_noisy else ''}"


TRIALS = (
    Trial("mnist_cnn", "top1"),
    Trial("resnet20_cifar10", "top1"),
    Trial("mobilenet_v2_224_fp32", "top1"),
    Trial("mobilenet_v2_224_fp32", "top1", is_noisy=True),
    Trial("yolox_nano", "mAP50"),
    Trial("ultraface_rfb_320", "ref_recall_iou.9"),
    Trial("superres_espcn", "psnr_model"),
    Trial("minilm_l6_v2_fp16w", "spearman", is_static=False),
)


@contextmanager
def halves() -> Generator[tuple[Path, Path]]:
    """Two folders like that of the real models, one with every third sample and one with the others."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "calibration"), Path(folder, "evaluation")
        for root, keeps in zip(found, (lambda i: i % THIRD == 0, lambda i: i % THIRD != 0), strict=True):
            _part(root, keeps)
        vary_boxes(found[1] / "_data/dev/voc")
        yield found


def _part(root: Path, keeps: Callable[[int], bool]) -> None:
    """The folder of real models at `root` with those samples whose number `keeps` says."""
    source = models_folder()
    data = root / "_data" / "dev"
    data.mkdir(parents=True)
    for path in source.iterdir():
        if path.name != "_data":
            (root / path.name).symlink_to(path)

    def files(place: str, pattern: str) -> list[str]:
        chosen = [p for i, p in enumerate(sorted((source / "_data" / place).glob(pattern))) if keeps(i)]
        (root / "_data" / place).mkdir(parents=True, exist_ok=True)
        for path in chosen:
            (root / "_data" / place / path.name).symlink_to(path)
        return [path.name for path in chosen]

    files("dev/imagenet", "*.jpg")
    files("dev/sr", "*.png")
    faces = files("raw_faces/imgs", "*.jpg")
    (root / "_data/cifar_eran").symlink_to(source / "_data/cifar_eran")  # of no metric that counts
    for name in ("cifar10_1000.npz", "mnist_2000.npz"):
        with np.load(source / "_data/dev" / name) as arrays:
            kept = [i for i in range(len(arrays["y"])) if keeps(i)]
            np.savez(data / name, x=arrays["x"][kept], y=arrays["y"][kept])
    rows = json.loads((source / "_data/dev/stsb_500.json").read_text())
    (data / "stsb_500.json").write_text(json.dumps([row for i, row in enumerate(rows) if keeps(i)]))
    known = json.loads((source / "_data/dev/faces_ref_rfb.json").read_text())
    (data / "faces_ref_rfb.json").write_text(json.dumps({name: known[name] for name in faces}))
    (data / "voc").mkdir()
    boxes = json.loads((source / "_data/dev/voc/gt.json").read_text())
    names = [name for i, name in enumerate(sorted(boxes)) if keeps(i)]
    (data / "voc/gt.json").write_text(json.dumps({name: boxes[name] for name in names}))
    for name in names:
        (data / f"voc/{name}.jpg").symlink_to(source / f"_data/dev/voc/{name}.jpg")


def recorded(model: str, root: Path) -> list[Arrays]:
    """The inputs that the task gives its model on the data in `root`, `CALIBRATED` of them at most."""
    feeds = observed(model, root, onnx_runtime(models_folder() / model / "model.onnx")).feeds
    return feeds[:: max(1, len(feeds) // CALIBRATED)][:CALIBRATED]


def onnx_runtime(path: Path) -> Runner:
    """A way to run a model by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    known = [each.name for each in session.get_inputs()]

    def run(feed: Arrays) -> Outputs:
        return [np.asarray(each) for each in session.run(None, {name: feed[name] for name in known})]

    return run


def ours(quantised: Quantized) -> Runner:
    """A way to run a quantised model by Ingot."""
    session = quantised.compile(target="native").session(threads=1)
    known = {info.name for info in session.inputs}
    return lambda feed: list(session.run({k: np.asarray(v) for k, v in feed.items() if k in known}).values())


def theirs(path: Path, feeds: Sequence[Arrays] | None, folder: Path, **options: Any) -> Runner:
    """A way to run the model after ONNX Runtime's quantisation: static with samples, dynamic without."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, feeds: Sequence[Arrays]) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> Arrays | None:  # pyright: ignore[reportIncompatibleMethodOverride] - None ends them
            return next(self.feeds, None)

    prepared, made = folder / "prepared.onnx", folder / "quantised.onnx"
    model = onnx.load(path)
    if model.opset_import[0].version < 13:  # grids per channel need that
        model = version_converter.convert_version(model, 13)
    constants = {each.name for each in model.graph.initializer}
    for each in [each for each in model.graph.input if each.name in constants]:  # nothing is folded into these
        model.graph.input.remove(each)
    onnx.save(model, prepared)
    path = prepared
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    if feeds is None:
        quantize_dynamic(str(prepared), str(made), **options)
    else:
        # With grids per channel the adjustment of weights to biases fails on an array's truth value.
        extra = {"QDQDisableWeightAdjustForInt32Bias": True} if options.get("per_channel") else {}
        quantize_static(str(prepared), str(made), Reader(feeds), extra_options=extra, **options)
    return onnx_runtime(made)


def noisy(path: Path, folder: Path) -> Path:
    """The model with each of its weights moved by up to half a per cent."""
    model = onnx.load(path)
    random = np.random.default_rng(0)
    for each in model.graph.initializer:
        data = numpy_helper.to_array(each)
        if data.dtype == np.float32 and data.ndim > 1:
            moved = data * random.uniform(0.995, 1.005, data.shape).astype(np.float32)
            each.CopyFrom(numpy_helper.from_array(moved, each.name))
    onnx.save(model, folder / "noisy.onnx")
    return folder / "noisy.onnx"


def nncf(path: Path, feeds: Sequence[Arrays], folder: Path, *, is_transformer: bool) -> Runner:
    """A way to run the model in OpenVINO after NNCF's quantisation, which has an environment of its own."""
    import openvino

    given, made = folder / "feeds.npz", folder / "nncf.xml"
    np.savez(given, **{f"{i}:{name}": array for i, feed in enumerate(feeds) for name, array in feed.items()})
    call(NNCF, "benchmarks.peers.nncf_model", str(path), str(given), str(made), str(int(is_transformer)))
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(made), "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    )
    known = [each.any_name for each in compiled.inputs]

    def run(feed: Arrays) -> Outputs:
        found = compiled({name: feed[name] for name in known})
        return [np.array(found[each]) for each in compiled.outputs]

    return run


COLUMNS = (
    "fp32",
    "Ingot",
    "Ingot, all layers",
    "ONNX Runtime",
    "ONNX Runtime, per channel",
    "the same, reduced range",
    "OpenVINO + NNCF",
)
JUDGED = ("Ingot", "ONNX Runtime, per channel", "OpenVINO + NNCF")
"""What is compared with the model before on many inputs."""


def row(trial: Trial, calibration: Path, evaluation: Path, method: str, wanted: Sequence[str]) -> dict[str, Any]:
    """The metric of the model and of each of the `wanted` ways to quantise it, its `Judgement` where there is one, and
    why there is no metric."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = models_folder() / trial.model / "model.onnx"
        path = noisy(path, folder) if trial.is_noisy else path
        samples = recorded(trial.model, calibration)
        feeds = samples if trial.is_static else None
        scheme = "int8" if trial.is_static else "int8-dynamic"
        notes: list[tuple[str, ...]] = []

        def mine(**options: Any) -> Runner:
            ranged = {"method": method} if trial.is_static else {}
            quantised = quantize(path, feeds, scheme=scheme, measure=False, **ranged, **options)
            notes.append(quantised.report.notes)
            return ours(quantised)

        ways: dict[str, Callable[[], Runner]] = {
            "Ingot": mine,
            "Ingot, all layers": lambda: mine(ends=True),
            "ONNX Runtime": lambda: theirs(path, feeds, folder),
            "ONNX Runtime, per channel": lambda: theirs(path, feeds, folder, per_channel=True),
            "the same, reduced range": lambda: theirs(path, feeds, folder, per_channel=True, reduce_range=True),
            "OpenVINO + NNCF": lambda: nncf(path, samples, folder, is_transformer=not trial.is_static),
        }
        judge = Judge(trial.model, trial.metric, evaluation, onnx_runtime(path))
        found: dict[str, Any] = {"model": trial.name, "metric": trial.metric}
        found["fp32"] = judge.before.metrics[trial.metric]
        for name, make in ways.items():
            if name not in wanted:
                continue
            try:
                run = make()
            except (NotInstalledError, PeerError) as error:
                found[name] = str(error)
                continue
            if name in JUDGED:
                judgement = judge.judged(run)
                found[f"{name}: judgement"] = judgement
                found[name] = judgement.metrics[trial.metric]
            else:
                found[name] = measured(trial.model, evaluation, lambda _, run=run: run)[trial.metric]
        found["notes"] = notes[0] if notes else ()
        return found


def table(names: Sequence[str] = (), method: str = "mse", ways: Sequence[str] = COLUMNS) -> str:
    """The Markdown tables of the trials with one of `names` in theirs (default: all): metrics, and what is different
    from the models before."""
    columns = [name for name in COLUMNS if name in ("fp32", *ways)]
    judged = [name for name in JUDGED if name in columns]
    metrics = [f"| model | metric | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    cells = " | ".join(f"{name}: change | flips | SNR" for name in judged)
    changes = [f"| model | inputs | {cells} |", "|---|---|" + "---|---|---|" * len(judged)]
    notes: list[str] = []
    with halves() as (calibration, evaluation):
        for trial in TRIALS:
            if names and not any(name in trial.name for name in names):
                continue
            found = row(trial, calibration, evaluation, method, ways)
            shown = (found[name] if isinstance(found[name], str) else f"{found[name]:.4f}" for name in columns)
            metrics.append(f"| {trial.name} | {trial.metric} | {' | '.join(shown)} |")
            known = [found.get(f"{name}: judgement") for name in judged]
            inputs = next((f"{each.inputs}" for each in known if each is not None), "")
            changes.append(f"| {trial.name} | {inputs} | {' | '.join(map(_judgement, known))} |")
            notes += [f"{trial.name}: {note}." for note in found["notes"]]
            print(metrics[-1], changes[-1], sep="\n", flush=True)
    return "\n".join([*metrics, "", *changes, "", *notes]).rstrip()


def _judgement(found: Judgement | None) -> str:
    if found is None:
        return " | | "
    change = "" if found.change is None else "{:+.4f} ({:+.4f} to {:+.4f})".format(*found.change)
    return f"{change} | {'' if found.flips is None else f'{found.flips:.2%}'} | {found.snr:.1f} dB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="texts in names of trials (default: all)")
    parser.add_argument("--method", default="mse", help="how Ingot's ranges follow from what was seen")
    parser.add_argument("--ways", nargs="*", default=COLUMNS, help="columns (default: all)")
    options = parser.parse_args(arguments)
    print(table(options.names, options.method, options.ways))


if __name__ == "__main__":
    main()
