"""How good a quantised model is beside the model before: the change of its metric, decisions that change, and noise.

A metric on a few dozen pictures says little. Its change has an interval by paired bootstrap, in which pictures are
drawn with replacement and both models are judged on the same ones; and outputs are compared on a thousand inputs and
more. Where there are not as many, pictures are varied: mirrored, cut to a part that is enlarged again, with other
contrast and with noise. What is in a picture stays what it is, so that labels hold for classifiers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.models import models_folder
from benchmarks.tasks import Outputs, Runner, harness

Array = NDArray[Any]
Arrays = dict[str, Any]
Score = Callable[[Array], float]
"""A metric of the samples with these numbers, of which some may be there several times."""

INPUTS = 1000  # that outputs are compared on, at least
DRAWS = 1000  # of the bootstrap
VARIANT = "~"  # in the names of pictures that are made of others
VARIANTS = 8  # of each picture whose objects are known, itself among them
CONFIDENT = {"yolox_nano": 0.3, "ultraface_rfb_320": 0.7}  # the score from which on a detector says that there is one
VARIED = ("resnet20_cifar10", "mobilenet_v2_224_fp32", "yolox_nano", "ultraface_rfb_320", "superres_espcn")


@dataclass(frozen=True)
class Judgement:
    """The metrics of the task; the change of the one that counts and its interval of 95 per cent (None where there are
    too few samples); the share of decisions that are others than those of the model before (None for models that do not
    decide), and the outputs' ratio of signal to noise in decibels, over `inputs` inputs."""

    metrics: dict[str, float]
    change: tuple[float, float, float] | None
    flips: float | None
    snr: float
    inputs: int


@dataclass
class Record:
    """What a model computed for a task: its metrics, its inputs, and a metric of any selection of `count` samples."""

    metrics: dict[str, float]
    feeds: list[Arrays]
    outputs: list[Outputs]
    score: Score | None = None
    count: int = 0


def tasks_in(root: Path) -> ModuleType:
    """The harness on the data of another folder."""
    tasks = harness()
    tasks.M, tasks.D = f"{root}/", f"{root}/_data/"  # pyright: ignore[reportAttributeAccessIssue]
    return tasks


def measured(model: str, root: Path, runner: Callable[[str], Runner]) -> dict[str, float]:
    """The task metrics on the data in `root`. The number of samples follows from what is there."""
    return _metrics(tasks_in(root), model, root, runner)


def _metrics(tasks: ModuleType, model: str, root: Path, runner: Callable[[str], Runner]) -> dict[str, float]:
    if model == "mnist_cnn":
        with np.load(root / "_data/dev/mnist_2000.npz") as arrays:
            return tasks.mnist("dev", runner(model), n=len(arrays["y"]))
    return tasks.TASKS[model]("dev", runner)


def observed(model: str, root: Path, run: Runner, metric: str = "") -> Record:
    """The task of `model` on the data in `root`. The number of samples follows from what is there."""
    tasks = tasks_in(root)
    found = Record({}, [], [])
    seen: dict[str, list[Any]] = {"ranked": [], "boxes": []}
    spearman, ap50 = tasks.spearman, tasks.ap50

    def runner(_: str) -> Runner:
        def call(feed: Arrays) -> Outputs:
            found.feeds.append({name: np.asarray(array) for name, array in feed.items()})
            found.outputs.append([np.array(each) for each in run(feed)])
            return found.outputs[-1]

        return call

    def ranked(a: Any, b: Any) -> float:
        seen["ranked"].append((np.asarray(a), np.asarray(b)))
        return spearman(a, b)

    def boxes(detections: Any, truth: Any) -> float | None:
        seen["boxes"].append((detections, truth))
        return ap50(detections, truth)

    tasks.spearman, tasks.ap50 = ranked, boxes  # pyright: ignore[reportAttributeAccessIssue]
    found.metrics = _metrics(tasks, model, root, runner)
    if metric == "top1":
        right = correct(model, root, found.outputs)
        found.score, found.count = (lambda chosen: float(right[chosen].mean())), len(right)
    elif seen["ranked"]:
        a, b = seen["ranked"][0]
        found.score, found.count = (lambda chosen: spearman(a[chosen], b[chosen])), len(a)
    elif seen["boxes"]:
        groups: dict[str, list[str]] = {}  # of what was made of one picture
        for name in sorted({name for _, truth in seen["boxes"] for name in truth}):
            groups.setdefault(name.partition(VARIANT)[0], []).append(name)
        every = list(groups.values())
        found.score, found.count = (lambda chosen: _precision(seen["boxes"], every, chosen, ap50)), len(every)
    return found


def labels(model: str, root: Path) -> Array:
    """The classes of a classifier's samples, in the order in which its task takes them."""
    data = root / "_data" / "dev"
    if model.startswith("mobilenet"):
        return np.array([int(path.name[:4]) for path in sorted((data / "imagenet").glob("*.jpg"))])
    name = {"mnist_cnn": "mnist_2000.npz", "resnet20_cifar10": "cifar10_1000.npz"}[model]
    with np.load(data / name) as arrays:
        return np.asarray(arrays["y"]).reshape(-1)


def correct(model: str, root: Path, outputs: Sequence[Outputs], times: int = 1) -> Array:
    """Whether a classifier is right about each sample, and then about each varied one, `times` for each sample."""
    known = np.tile(labels(model, root), times)
    return np.array([_class(model, each) == label for each, label in zip(outputs, known, strict=False)])


def _class(model: str, outputs: Outputs) -> int:
    logits = outputs[0][0]
    return int((logits[1:] if model.startswith("mobilenet") else logits).argmax())


def _precision(
    classes: Sequence[Any], names: Sequence[Sequence[str]], chosen: Array, ap50: Callable[..., Any]
) -> float:
    """The mean over classes of the average precision on the chosen pictures, with all that was made of them."""
    found: list[float] = []
    taken = [name for i in chosen for name in names[int(i)]]
    for detections, truth in classes:
        own = {f"{place}": truth[name] for place, name in enumerate(taken) if name in truth}
        by_name: dict[str, list[Any]] = {}
        for name, score, box in detections:
            by_name.setdefault(name, []).append((score, box))
        moved = [(f"{place}", *each) for place, name in enumerate(taken) for each in by_name.get(name, [])]
        precision = ap50(moved, own)
        if precision is not None:
            found.append(precision)
    return float(np.mean(found)) if found else 0.0


def varied(feed: Arrays, random: np.random.Generator) -> Arrays:
    """An input [1, C, H, W] mirrored or not, a part of it enlarged to all of it, with other contrast and with noise, in
    the range of what it was."""
    (name, x), *_ = feed.items()
    low, high = float(x.min()), float(x.max())
    new = x[..., ::-1] if random.random() < 0.5 else x
    share = random.uniform(0.7, 1.0)
    for axis in (2, 3):
        extent = x.shape[axis]
        start = random.uniform(0, (1 - share) * (extent - 1))
        places = start + share * np.arange(extent)
        below = np.minimum(places.astype(int), extent - 2)
        part = (places - below).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(4)])
        new = np.take(new, below, axis) * (1 - part) + np.take(new, below + 1, axis) * part
    middle = new.mean()
    new = (new - middle) * random.uniform(0.8, 1.2) + middle
    new = new + random.normal(0, random.uniform(0, 0.03) * (high - low), x.shape)
    return {**feed, name: np.ascontiguousarray(np.clip(new, low, high), np.float32)}


def vary_boxes(folder: Path) -> None:
    """Beside the pictures in `folder`, of which ``gt.json`` has the objects, some that are made of each: mirrored, with
    other contrast and noise, and smaller. Average precision of a few pictures changes by leaps."""
    truth = json.loads((folder / "gt.json").read_text())
    random = np.random.default_rng(0)
    for name, boxes in list(truth.items()):
        with Image.open(folder / f"{name}.jpg") as opened:
            picture = np.asarray(opened.convert("RGB"), np.float32)
        height, width = picture.shape[:2]
        for number in range(1, VARIANTS):
            data, size = picture, 1.0
            if number > 1:
                data = (data - data.mean()) * random.uniform(0.8, 1.2) + data.mean()
                data = data + random.normal(0, random.uniform(0, 8), data.shape)
            if number > VARIANTS // 2:
                size = random.uniform(0.7, 1.0)
            objects = [list(each) for each in boxes]
            if number % 2:
                data = data[:, ::-1]
                objects = [[kind, width - x2, y1, width - x1, y2, *rest] for kind, x1, y1, x2, y2, *rest in objects]
            image = Image.fromarray(np.ascontiguousarray(np.clip(data, 0, 255), np.uint8))
            image = image.resize((int(width * size), int(height * size)), Image.Resampling.BILINEAR)
            image.save(folder / f"{name}{VARIANT}{number}.jpg", format="PNG")
            scaled = [[kind, *(float(v) * size for v in place[:4]), *place[4:]] for kind, *place in objects]
            truth[f"{name}{VARIANT}{number}"] = scaled
    (folder / "gt.json").write_text(json.dumps(truth))


@dataclass
class Judge:
    """The model before, `run`, on the data in `root`, to judge others by; `metric` is the one that counts."""

    model: str
    metric: str
    root: Path
    run: Runner
    before: Record = field(init=False)
    times: int = field(init=False, default=1)
    feeds: list[Arrays] = field(init=False)
    outputs: list[Outputs] = field(init=False)

    def __post_init__(self) -> None:
        self.before = observed(self.model, self.root, self.run, self.metric)
        feeds = self.before.feeds[: self.before.count] if self.metric == "top1" else self.before.feeds
        if self.model in VARIED:
            random = np.random.default_rng(0)
            self.times = -(-INPUTS // len(feeds))
            feeds = feeds + [varied(feed, random) for _ in range(self.times - 1) for feed in feeds]
        elif self.model.startswith("minilm"):  # of no pair that has a label twice, but all sentences
            feeds = observed(self.model, models_folder(), self.run).feeds
        self.feeds = feeds
        self.outputs = [self.run(feed) for feed in feeds]

    def judged(self, run: Runner) -> Judgement:
        """What there is to say of another model."""
        after = observed(self.model, self.root, run, self.metric)
        outputs = [run(feed) for feed in self.feeds]
        return Judgement(
            after.metrics, self._change(after, outputs), self._flips(outputs), self._snr(outputs), len(self.feeds)
        )

    def _change(self, after: Record, outputs: Sequence[Outputs]) -> tuple[float, float, float] | None:
        if self.metric == "top1":  # pictures with all that was made of them are drawn
            right = [correct(self.model, self.root, each, self.times) for each in (self.outputs, outputs)]
            change = (right[1].astype(float) - right[0]).reshape(self.times, -1).mean(0)

            def of(chosen: Array) -> float:
                return float(change[chosen].mean())

        elif self.before.score is not None and after.score is not None:
            before, now = self.before.score, after.score

            def of(chosen: Array) -> float:
                return now(chosen) - before(chosen)

        else:
            return None
        count = self.before.count
        random = np.random.default_rng(1)
        drawn = np.sort([of(random.integers(0, count, count)) for _ in range(DRAWS if self.metric == "top1" else 200)])
        return of(np.arange(count)), *np.quantile(drawn, (0.025, 0.975)).tolist()

    def _flips(self, outputs: Sequence[Outputs]) -> float | None:
        if self.metric == "top1":
            pairs = zip(self.outputs, outputs, strict=True)
            return float(np.mean([_class(self.model, a) != _class(self.model, b) for a, b in pairs]))
        if self.model not in CONFIDENT:
            return None
        changed = whole = 0
        for one, other in zip(self.outputs, outputs, strict=True):
            a, b = _found(self.model, one), _found(self.model, other)
            changed += int((a != b).sum())
            whole += int(((a >= 0) | (b >= 0)).sum())
        return changed / max(whole, 1)

    def _snr(self, outputs: Sequence[Outputs]) -> float:
        signal = noise = 0.0
        for one, other in zip(self.outputs, outputs, strict=True):
            for a, b in zip(one, other, strict=True):
                signal += float(np.square(a, dtype=np.float64).sum())
                noise += float(np.square(b.astype(np.float64) - a).sum())
        return float(10 * np.log10(signal / noise)) if noise else float("inf")


def _found(model: str, outputs: Outputs) -> Array:
    """The class that a detector finds at each place, -1 where nothing is."""
    if model == "yolox_nano":
        scores = outputs[0][0][:, 4:5] * outputs[0][0][:, 5:]
        best = scores.argmax(1)
        return np.where(scores.max(1) > CONFIDENT[model], best, -1)
    return np.where(outputs[0][0][:, 1] > CONFIDENT[model], 1, -1)
