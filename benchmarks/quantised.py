"""Int8 networks beside other engines, and beside themselves in f32: ``python -m benchmarks.quantised [--models vgg]``.

The files are made of models of the zoo by ONNX Runtime's quantiser, so that all engines get what they know well: CNNs
with u8 activations and i8 weights, one scale a filter (``static``: QuantizeLinear and DequantizeLinear around
everything; ``static 7``: weights of seven bits), Transformers with activations that are quantised as they come
(``dynamic``: MatMulInteger). They are kept beside the models. Rounds are interleaved, medians are shown; the error is
the largest difference from ONNX Runtime without optimisations, which computes such models in floats between the steps,
over the largest output.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks import zoo
from benchmarks.entrants import GATING, TITLES, enter, race
from benchmarks.models import Case, cases
from benchmarks.placement import processors
from ingot.compiler import compile
from ingot.compiler.bench.agreement import relative_error
from ingot.compiler.bench.engines import onnxruntime

Scheme = Literal["static", "static 7", "dynamic"]
TRIALS: tuple[tuple[str, Scheme], ...] = (
    *((name, scheme) for name in ("resnet50", "mobilenet_v2", "vgg11") for scheme in ("static", "static 7")),
    ("densenet121", "static"),
    ("efficientnet_b0", "static"),
    *((name, "dynamic") for name in ("minilm", "bert_base", "deit_tiny", "vit_b16")),
)


@dataclass(frozen=True)
class Trial:
    """A model of the zoo, and the case of its quantised file."""

    scheme: Scheme
    plain: Case
    quantised: Case


def trials(wanted: Sequence[str] = ()) -> list[Trial]:
    """Those of `TRIALS` whose models are there and have one of the `wanted` in their names, if there are any; files
    that are not there are made."""
    there = {case.name.removeprefix("zoo/"): case for case in cases("zoo")}
    found: list[Trial] = []
    for name, scheme in TRIALS:
        said = f"{name}, {scheme}"
        if name in there and (not wanted or any(text in said for text in wanted)):
            plain = there[name]
            path = quantised_file(name, scheme, plain.path)
            found.append(Trial(scheme, plain, replace(plain, name=said, path=path, quantised=True)))
    return found


def quantised_file(name: str, scheme: Scheme, source: Path) -> Path:
    """The file of a model in a scheme, made unless it is there."""
    path = source.with_name(f"{source.stem}.{scheme.replace(' ', '')}.onnx")
    if path.is_file():
        return path
    # onnxruntime's quantiser comes without types.
    from onnxruntime import quantization as ort  # pyright: ignore[reportMissingTypeStubs]
    from onnxruntime.quantization.shape_inference import quant_pre_process  # pyright: ignore[reportMissingTypeStubs]

    class Reader(ort.CalibrationDataReader):  # pyright: ignore[reportUntypedBaseClass]
        def __init__(self) -> None:
            self.rest = [zoo.inputs(name, "full")]

        def get_next(self) -> Any:
            return self.rest.pop() if self.rest else None

    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        made, prepared = Path(folder) / "made.onnx", Path(folder) / "prepared.onnx"
        if scheme == "dynamic":
            ort.quantize_dynamic(source, made, per_channel=True, weight_type=ort.QuantType.QInt8)
        else:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            ort.quantize_static(
                prepared,
                made,
                Reader(),
                quant_format=ort.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=scheme == "static 7",
                activation_type=ort.QuantType.QUInt8,
                weight_type=ort.QuantType.QInt8,
            )
        made.replace(path)
    return path


def measure(trial: Trial, target: str, threads: int, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """One row: milliseconds and errors by engine; ``f32`` is Ingot with the model as it was."""
    case, cpus = trial.quantised, processors(threads)
    with tempfile.TemporaryDirectory(prefix="ingot-bench-") as made, ExitStack() as stack:
        folder = Path(made)
        for label, each in (("q", case), ("f", trial.plain)):
            compile(each.path, target=target).save(folder / f"{label}.ingot")
        ready = {"ingot": enter("ingot", case, folder / "q.ingot", threads, cpus, folder)}
        ready["f32"] = enter("ingot", trial.plain, folder / "f.ingot", threads, cpus, folder)
        ready |= {name: enter(name, case, folder / "q.ingot", threads, cpus, folder / name) for name in names}
        for entrant in ready.values():
            stack.callback(entrant.close)
        want = onnxruntime(case.path, 1, optimise=False).run(dict(case.inputs()))
        times, _ = race({name: entrant.sample for name, entrant in ready.items()}, rounds)
        return {
            "model": case.name,
            "kind": case.kind,
            "threads": threads,
            "milliseconds": {name: t.median * 1e3 for name, t in times.items()},
            "speedup": {name: t.over(times["ingot"]) for name, t in times.items() if name != "ingot"},
            "error": {name: relative_error(e.outputs, want) for name, e in ready.items() if name != "f32"},
        }


def table(rows: Iterable[Mapping[str, Any]], names: Sequence[str] = tuple(GATING)) -> str:
    """The rows as a Markdown table, and the geometric means of the speedups."""
    rows = list(rows)
    heads = ["model", "threads", "Ingot ms", "Ingot f32 ms", *(f"{TITLES[name]} ms" for name in names), "× f32"]
    heads += [f"× {TITLES[name]}" for name in names]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["model"], str(row["threads"])]
        for name in ("ingot", "f32", *names):
            error = f" ({row['error'][name]:.0e})" if name in row["error"] else ""
            cells.append(f"{row['milliseconds'][name]:.3f}{error}")
        cells += [f"{row['speedup'][name]:.2f}" for name in ("f32", *names)]
        lines.append(f"| {' | '.join(cells)} |")
    said: list[str] = []
    for kind, title in (("cnn", "CNNs"), ("transformer", "Transformers")):
        for threads in sorted({row["threads"] for row in rows}):
            chosen = [row["speedup"] for row in rows if (row["kind"], row["threads"]) == (kind, threads)]
            if chosen:
                over = [("f32", _mean(each["f32"] for each in chosen))]
                over.append(("the faster engine", _mean(min(each[name] for name in names) for each in chosen)))
                over += [(TITLES[name], _mean(each[name] for each in chosen)) for name in names]
                shown = ", ".join(f"{mean:.2f} against {name}" for name, mean in over)
                said.append(f"- {title}, {threads} thread{'s' * (threads > 1)}: geometric means {shown}")
    return "\n".join([*lines, "", *said])


def _mean(numbers: Iterable[float]) -> float:
    logarithms = [math.log(number) for number in numbers]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def report(threads: Sequence[int] = (1, 2), rounds: int = 9) -> str:
    """The table of all trials on this machine."""
    return table(measure(trial, "native", count, tuple(GATING), rounds) for trial in trials() for count in threads)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2", help="thread counts, comma separated")
    parser.add_argument("--models", default="", help="texts in names such as 'resnet50, static', separated by ';'")
    parser.add_argument("--target", default="native", help="what Ingot compiles for")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for trial in trials([text for text in options.models.split(";") if text]):
        for count in map(int, options.threads.split(",")):
            rows.append(measure(trial, options.target, count, tuple(GATING), options.rounds))
            print(table(rows[-1:]).splitlines()[2], flush=True)
    print(f"\n{table(rows)}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
