"""``ingot diff``: how far results deviate from a reference, tensor by tensor under the names that the user knows."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.compiler.cli.artifacts import (
    Arrays,
    Interface,
    concrete_shapes,
    is_artifact,
    random_arrays,
    read_arrays,
    read_artifact,
)
from ingot.compiler.cli.console import Console, Progress, table
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.files import output_type, require_writable
from ingot.compiler.cli.passes import add_pipeline_arguments, build_pipeline, working_directory_importable
from ingot.compiler.cli.profile import require_code
from ingot.compiler.cli.run import count_type, seed_type
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.compiler.cli.trials import bound_type
from ingot.runtime import Session
from ingot.runtime.inputs import describe
from ingot.runtime.tables import ENTROPY

if TYPE_CHECKING:
    from ingot.compiler.bench.deviation import Deviation

HELP = "compare what a model computes with a reference, layer by layer"

OVER = 1
BOUND = 1e-3
QUANTISED_BOUND = 5e-2
"""A value that falls between two steps of a quantisation may be rounded either way, and that carries on."""

NAME_WIDTH = 52


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model", type=Path, help="the .onnx file, evaluated as the reference (or an .ingot file, whose outputs are it)"
    )
    parser.add_argument(
        "other",
        type=Path,
        nargs="?",
        help="what is compared with it: an .ingot file, output by output, or a second .onnx file, by common names "
        "(default: what Ingot makes of the model, layer by layer)",
    )
    parser.add_argument("--data", action="append", default=[], metavar="X.npz", help="inputs (as --input of ingot run)")
    parser.add_argument("--seed", type=seed_type, default=0, metavar="N", help="of random inputs where none are given")
    parser.add_argument(
        "--shape", action="append", default=[], metavar="DIMS", help=f"dims of random inputs: {SHAPE_HELP}"
    )
    parser.add_argument(
        "--reference",
        choices=("exact", "onnxruntime"),
        default="exact",
        help="who evaluates ONNX: onnx.reference in float64, or ONNX Runtime in the model's types, not optimised",
    )
    parser.add_argument(
        "--bound",
        type=bound_type,
        metavar="B",
        help=f"largest deviation allowed, as a share of a tensor's largest magnitude (default {BOUND}, for quantised "
        f"models {QUANTISED_BOUND})",
    )
    parser.add_argument(
        "--write-plan",
        type=output_type,
        metavar="FILE",
        help="of a model and its quantised form, both .onnx: a plan for ingot quantize --plan, in which layers stay in "
        f"f32 that add more than the bound (here {QUANTISED_BOUND}) to the error of their results",
    )
    parser.add_argument("--top", type=count_type, default=30, metavar="N", help="tensors to list, 0 for all (30)")
    parser.add_argument("--target", default="native", help="what the model is compiled for (default: this machine)")
    parser.add_argument("--numerics", choices=("default", "strict"), default="default")
    add_pipeline_arguments(parser)


@dataclass(frozen=True)
class Row:
    """One tensor: the reference's type and how the other one deviates."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_output: bool
    deviation: Deviation
    over: bool


def execute(options: argparse.Namespace, console: Console) -> int:
    """Evaluate both sides on the same inputs and compare."""
    from ingot.compiler.bench.deviation import deviation

    model: Path = options.model
    other: Path | None = options.other
    for path in filter(None, (model, other)):
        if not path.is_file():
            raise CommandError(f"{path}: there is no such file" if not path.exists() else f"{path}: not a file")
    if other is None and is_artifact(model):
        raise CommandError(f"{model} is an artifact: give its model before it, ingot diff MODEL.onnx {model}")
    if options.write_plan is not None:
        _require_layers(model, other, options.write_plan)
    progress = console.progress()
    try:
        sides = _Sides(options, progress)
        inputs, want, have, outputs, taps = sides.evaluate()
    finally:
        progress.close()
    common = [name for name in want if name in have and (name in outputs or name not in inputs)]
    drawn = [name for name in common if name in sides.random]
    common = [name for name in common if name not in sides.random]
    if drawn and not common:
        raise CommandError(
            f"nothing to compare: all that both sides have ({_some(drawn)}) depends on random numbers, which are "
            "others on each side; cut the model behind the operators that draw them (ingot cut)"
        )
    if not common:
        raise CommandError(
            f"nothing to compare: {model} has {_some(outputs)}, {other or 'the other side'} has {_some(list(have))}"
        )
    found = {name: deviation(want[name], have[name]) for name in common}
    quantised = any(array.dtype.kind in "iu" and array.dtype.itemsize == 1 for array in want.values())
    bound: float = options.bound if options.bound is not None else QUANTISED_BOUND if quantised else BOUND
    rows = [
        Row(name, str(have[name].dtype), want[name].shape, name in outputs, each, not each.relative <= bound)
        for name, each in found.items()
    ]
    if options.write_plan is not None and other is not None:
        from ingot.compiler.quantization.findings import plan_from

        allowed = QUANTISED_BOUND if options.bound is None else bound
        plan_from(model, other, want, have, allowed).save(options.write_plan)
    first = next((row.name for row in rows if row.over), None)
    record: dict[str, Any] = {
        "model": model,
        "other": other,
        "reference": options.reference if not is_artifact(model) else "artifact",
        "inputs": {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in inputs.items()},
        "bound": bound,
        "first_over": first,
        "over": sum(row.over for row in rows),
        "reference_tensors": len(want),
        "random": drawn,
        "taps_deviation": taps,
        "tensors": [_record(row) for row in rows],
    }
    console.result(record, _lines(record, rows, options.top))
    return OVER if first is not None else 0


def _require_layers(model: Path, other: Path | None, plan: Path) -> None:
    """Raise CommandError unless both sides are models whose layers can be compared, and a plan can be written."""
    if other is None or is_artifact(model) or is_artifact(other):
        what = "an artifact has its outputs alone" if other is not None else "there is one model"
        raise CommandError(
            f"{what}, and --write-plan compares the layers of two: ingot diff MODEL.onnx QUANTISED.onnx, of which "
            "ingot quantize writes the second"
        )
    require_writable(plan, sources=(model, other))


class _Sides:
    """The two sides of a comparison. `random` names what has other values in every engine, once they are evaluated."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self.model: Path = options.model
        self.other: Path | None = options.other
        self.random: frozenset[str] = frozenset()

    def evaluate(self) -> tuple[Arrays, Arrays, Arrays, list[str], float | None]:
        """Inputs, the reference's tensors, the other side's, the names of the reference's outputs, and how far taps
        move the outputs (None without taps)."""
        if self.other is None:
            return self._with_layers(self.model)
        self._require_same_inputs(self.model, self.other)
        interface = self._interface()
        inputs = self._inputs(interface)
        want, have = (self._run(path, inputs) for path in (self.model, self.other))
        if is_artifact(self.model):
            return inputs, want, have, list(want), None
        return inputs, want, have, self._outputs(self.model), None

    def _with_layers(self, model: Path) -> tuple[Arrays, Arrays, Arrays, list[str], float]:
        from ingot.compiler import compile
        from ingot.compiler.bench.deviation import deviation
        from ingot.compiler.frontend import load_onnx
        from ingot.compiler.ops.random import touched_by_chance
        from ingot.compiler.passes.tap import tap

        options = self.options
        target: str = options.target
        require_code(target)
        with working_directory_importable(options.pipeline, *options.passes):
            passes = build_pipeline(
                options.numerics, text=options.pipeline, passes=options.passes, without=options.without
            )
            graph = load_onnx(model, watch=True)
            self.random = touched_by_chance(graph)
            tapped = passes.before("fuse", tap) if "fuse" in passes.names else passes.after(passes.names[-1], tap)
            make = partial(compile, target=target, numerics=options.numerics, progress=self.progress)
            self.progress(f"compiling {model}")
            plain = make(dataclasses.replace(graph, watched={}), pipeline=passes)
            self.progress(f"compiling {model} with its layers as outputs")
            layered = make(graph, pipeline=tapped)
        inputs = self._inputs(plain.manifest)
        self.progress("running")
        with plain.session(seed=0) as session:
            outputs = session.run(inputs)
        with layered.session(seed=0) as session:
            layers = session.run(inputs)
        taps = max((deviation(array, layers[name]).relative for name, array in outputs.items()), default=0.0)
        return inputs, self._run(model, inputs), layers | outputs, list(outputs), taps

    def _require_same_inputs(self, *paths: Path) -> None:
        """Raise CommandError where the two sides cannot be given the same inputs."""
        (first, needed), (second, also_needed) = map(_input_names, paths)
        if not (needed <= set(second) and also_needed <= set(first)):
            raise CommandError(
                f"{paths[0]} and {paths[1]} have different inputs, {_some(first)} and {_some(second)}: "
                "give two that belong together, or rename inputs with ingot cut"
            )

    def _interface(self) -> Interface:
        """What takes inputs: an artifact's manifest if there is one."""
        assert self.other is not None
        manifest = next((read_artifact(path)[0] for path in (self.other, self.model) if is_artifact(path)), None)
        draws = manifest is None or len(manifest.storages.numbers(ENTROPY)) > 0
        if manifest is not None and (is_artifact(self.model) or not draws):
            return manifest
        from ingot.compiler.calibration.interface import interface_of
        from ingot.compiler.frontend import load_onnx
        from ingot.compiler.ops.random import touched_by_chance

        graph = load_onnx(self.model, watch=True)
        self.random = touched_by_chance(graph)
        return manifest or interface_of(graph)

    def _inputs(self, interface: Interface) -> Arrays:
        given = read_arrays(self.options.data, describe(interface.inputs), option="--data")
        if unknown := given.keys() - {each.name for each in interface.inputs}:
            known = ", ".join(each.name for each in interface.inputs)
            raise CommandError(f"--data has {', '.join(sorted(unknown))}; the model's inputs are {known}")
        if len(given) == len(interface.inputs):
            return given
        shapes = concrete_shapes(interface, self.options.shape)
        return random_arrays(interface, shapes, self.options.seed) | given

    def _run(self, path: Path, inputs: Arrays) -> Arrays:
        if is_artifact(path):
            self.progress(f"running {path}")
            with Session(path, seed=0) as session:
                return session.run(inputs)
        from ingot.compiler.bench.intermediates import EVALUATORS

        self.progress(f"evaluating {path}")
        return EVALUATORS[self.options.reference](path, inputs)

    def _outputs(self, model: Path) -> list[str]:
        from ingot.compiler.frontend.mapping import map_file
        from ingot.compiler.frontend.weights import open_model

        proto = open_model(map_file(model), str(model), model.parent).proto
        return [value.name for value in proto.graph.output]


def _input_names(path: Path) -> tuple[list[str], set[str]]:
    """The inputs in order, and those of them that have no default."""
    if is_artifact(path):
        names = [each.name for each in read_artifact(path)[0].inputs]
        return names, set(names)
    from ingot.compiler.frontend.mapping import map_file
    from ingot.compiler.frontend.weights import open_model

    graph = open_model(map_file(path), str(path), path.parent).proto.graph
    names = [value.name for value in graph.input]
    defaults = {each.name for each in graph.initializer} | {each.values.name for each in graph.sparse_initializer}
    return names, set(names) - defaults


def _record(row: Row) -> dict[str, Any]:
    each = row.deviation
    return {
        "name": row.name,
        "dtype": row.dtype,
        "shape": list(row.shape),
        "output": row.is_output,
        "max_abs": each.absolute,
        "max_rel": each.relative,
        "infinite": math.isinf(each.relative),
        "scale": each.scale,
        "index": list(each.index),
        "want": each.want,
        "have": each.have,
        "differing": each.differing,
        "detail": each.detail,
        "over": row.over,
    }


def _lines(record: Mapping[str, Any], rows: Sequence[Row], top: int) -> Iterator[str]:
    inputs = ", ".join(f"{name} {each['dtype']}{each['shape']}" for name, each in record["inputs"].items())
    other = record["other"] or "what Ingot makes of it"
    how = {"exact": "in float64", "onnxruntime": "by ONNX Runtime", "artifact": "as it is"}[record["reference"]]
    yield f"{record['model']}, {how}, and {other}; {inputs}"
    rest = " (the others are part of something else after the passes)" if record["other"] is None else ""
    yield f"{len(rows)} of {record['reference_tensors']} tensors compared{rest}"
    if record["random"]:
        yield f"left out are {len(record['random'])} that depend on random numbers: {_some(record['random'])}"
    yield f"bound {record['bound']:g}, relative to the largest magnitude of each tensor"
    yield ""
    worst = sorted(rows, key=lambda row: -row.deviation.relative)[: top or None]
    listed = {row.name for row in worst} | {row.name for row in rows if row.is_output} | {record["first_over"]}
    cells = [("", "tensor", "type", "max abs", "max rel", "differ", "at", "want", "have")]
    cells += [_cells(row) for row in rows if row.name in listed]
    yield from table(cells, right=(3, 4, 5))
    yield ""
    if left := len(rows) - len(cells) + 1:
        yield f"{left} more deviate less (--top 0 lists them)"
    if record["taps_deviation"] is not None and record["taps_deviation"] > 0:
        yield f"layers are read from a second compilation, whose outputs differ by {record['taps_deviation']:.1e}"
    if record["first_over"] is None:
        peak = max(rows, key=lambda row: row.deviation.relative)
        yield f"all within the bound; the largest is {peak.deviation.relative:.1e}, of {peak.name}"
    else:
        yield f"{record['over']} over the bound, the first is {record['first_over']}"


def _cells(row: Row) -> tuple[str, ...]:
    each = row.deviation
    name = row.name if len(row.name) <= NAME_WIDTH else "…" + row.name[1 - NAME_WIDTH :]
    mark = "!" if row.over else ">" if row.is_output else ""
    kind = f"{row.dtype}{list(row.shape)}"
    if each.detail:
        return mark, name, kind, "", "", "", each.detail, "", ""
    if each.differing == 0:
        return mark, name, kind, "0", "0", "0", "", "", ""
    return (
        mark,
        name,
        kind,
        f"{each.absolute:.2e}",
        f"{each.relative:.2e}",
        str(each.differing),
        f"[{', '.join(map(str, each.index))}]",
        f"{each.want:.7g}",
        f"{each.have:.7g}",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "nothing"
