"""``ingot quantize``: a model with 8-bit or narrower numbers, as an ONNX model or an artifact."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ingot.compiler.cli.compile import input_names, read_steps, require_model
from ingot.compiler.cli.console import Console, bytes_text
from ingot.compiler.cli.custom import add_custom_argument, load_custom
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.files import output_type, require_writable
from ingot.compiler.cli.mixed import add_mixed_arguments, chosen, require_mixed, tell_not_kept
from ingot.compiler.cli.passes import working_directory_importable
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.compiler.cli.shapes import for_compile

HELP = "quantise a model (.onnx) and write it as ONNX or as an artifact"

SCHEMES = ("int8", "int8-dynamic", "int8-weights", "int4-weights", "fp16", "bf16", "lossless", "mixed")
UNPLANNED = ("fp16", "bf16", "lossless")
SUFFIXES = (".onnx", ".ingot")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument(
        "-o",
        "--output",
        type=output_type,
        action="append",
        required=True,
        metavar="OUT",
        help="the file to write, .onnx or .ingot; may be given for both",
    )
    parser.add_argument(
        "--scheme",
        choices=SCHEMES,
        help="int8 (default): activations and weights, with ranges from --data; int8-dynamic: products, with ranges "
        "found as the model runs; int8-weights, int4-weights: weights of products alone; fp16, bf16: weights rounded; "
        "lossless: weights that lie on a grid of 8 bits; mixed: the cheapest for each layer within a bound",
    )
    data = parser.add_argument_group("samples (see docs/calibration.md)")
    data.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="PATH",
        help="an .npz, a folder of these or of images, or MODULE:FUNCTION (the current directory is searched too)",
    )
    data.add_argument("--samples", type=_count, metavar="N", help="take this many at most")
    data.add_argument(
        "--preprocess", action="append", default=[], metavar="INPUT=STEP", help="steps for samples: image:imagenet, ..."
    )
    data.add_argument(
        "--method", default="mse", metavar="NAME", help="how ranges follow: minmax, average, percentile, entropy, mse"
    )
    parser.add_argument("--plan", type=Path, metavar="FILE", help="a scheme for each layer, as --write-plan writes it")
    parser.add_argument(
        "--write-plan", type=output_type, metavar="FILE", help="write what was done with each layer, to be changed"
    )
    layers = parser.add_argument_group("layers, by name or by pattern")
    layers.add_argument("--only", action="append", default=[], metavar="NAME", help="quantise these (repeatable)")
    layers.add_argument("--exclude", action="append", default=[], metavar="NAME", help="not these (repeatable)")
    layers.add_argument(
        "--ends", action=argparse.BooleanOptionalAction, help="the first and last layers too (default: all but int8)"
    )
    grids = parser.add_argument_group("grids")
    grids.add_argument("--activations", choices=("u8", "i8", "u16", "i16"), default="u8", help="their type (u8)")
    grids.add_argument("--symmetric", action="store_true", help="zero in the middle of the activations' grids")
    grids.add_argument(
        "--everywhere", action="store_true", help="quantise what Ingot keeps in registers, too, for other runtimes"
    )
    grids.add_argument(
        "--grain", choices=("token", "tensor"), default="token", help="of int8-dynamic: a grid a row, or one for all"
    )
    grids.add_argument("--weight-bits", type=int, choices=range(2, 9), default=8, metavar="N", help="2 to 8 (default)")
    grids.add_argument("--per-tensor", action="store_true", help="one grid for all the weights of a layer")
    grids.add_argument("--clip-weights", action="store_true", help="cut weights off where that makes the error smaller")
    grids.add_argument("--no-bias-correction", action="store_true", help="leave the biases as they are")
    grids.add_argument(
        "--least-snr",
        type=float,
        default=25.0,
        metavar="DB",
        help="layers that alone take an output below this ratio of signal to noise stay in floats (25); 0: none does",
    )
    grids.add_argument("--no-balance", action="store_true", help="leave channels of different sizes as they are")
    alone = parser.add_argument_group("weights alone (see docs/weights.md)")
    alone.add_argument(
        "--rounding", choices=("nearest", "gptq", "awq", "hqq"), help="gptq with --data, nearest without (default)"
    )
    alone.add_argument("--group", type=int, metavar="N", help="how many rows have one scale; 0: all (32; 128 for int8)")
    alone.add_argument("--tables", action="store_true", help="tables that rows are looked up in, too")
    add_mixed_arguments(parser)
    told = parser.add_argument_group("report")
    told.add_argument("--report", type=output_type, metavar="FILE", help="write the report, as JSON if FILE is .json")
    told.add_argument("--no-measure", action="store_true", help="do not compare the layers' results")
    parser.add_argument("--opset", type=_count, default=21, metavar="N", help="of an ONNX model (21)")
    parser.add_argument("--target", default="cpu", help="of an artifact: what ingot compile takes (cpu)")
    parser.add_argument("--shape", action="append", default=[], metavar="DIMS", help=f"of the model: {SHAPE_HELP}")
    add_custom_argument(parser)


def execute(options: argparse.Namespace, console: Console) -> int:
    """Quantise and write."""
    model: Path = options.model
    require_model(model)
    outputs: list[Path] = options.output
    for output in outputs:
        if output.suffix not in SUFFIXES:
            raise CommandError(f"{output}: write {' or '.join(SUFFIXES)}, as what the model is wanted")
    plan: Path | None = options.plan
    if plan is not None and options.scheme is not None:
        raise CommandError("--plan has a scheme for each layer: leave --scheme out")
    scheme = options.scheme or "int8"
    if options.write_plan is not None and scheme in UNPLANNED:
        raise CommandError(f"{scheme} is no scheme of single layers: there is no plan to write")
    require_mixed(options)
    _require_places(options)
    from ingot.compiler.frontend.export.model import require_opset
    from ingot.compiler.quantization import quantize
    from ingot.compiler.targets.registry import find_level

    require_opset(options.opset)  # before samples run, which takes its time
    find_level(options.target)

    shapes, ranges = for_compile(options.shape, lambda: input_names(model))
    steps = read_steps("--preprocess", options.preprocess)
    progress = console.progress()
    common: dict[str, Any] = {
        "method": options.method,
        "samples": options.samples,
        "shapes": shapes,
        "ranges": ranges,
        "custom": load_custom(options.custom),
        "preprocess": steps or None,
        "measure": not options.no_measure,
    }
    choice = None
    try:
        with working_directory_importable(*options.data, *(options.held_out or ()), options.metric):
            if scheme == "mixed":
                choice = chosen(options, common, progress)
                quantised = choice.quantized
            else:
                quantised = quantize(
                    model,
                    options.data or None,
                    scheme=scheme,
                    plan=plan,
                    only=options.only,
                    exclude=options.exclude,
                    ends=options.ends,
                    activations=options.activations,
                    symmetric=options.symmetric,
                    everywhere=options.everywhere,
                    grain=options.grain,
                    weight_bits=options.weight_bits,
                    per_channel=not options.per_tensor,
                    clip_weights=options.clip_weights,
                    correct_biases=not options.no_bias_correction,
                    balance=not options.no_balance,
                    least_snr=options.least_snr or None,
                    rounding=options.rounding,
                    group=options.group,
                    tables=options.tables,
                    progress=progress,
                    **common,
                )
        if quantised is None or (choice is not None and not choice.is_met):
            assert choice is not None
            return tell_not_kept(choice, model, console, progress)
        for output in outputs:
            progress(f"writing {output}")
            if output.suffix == ".onnx":
                quantised.save(output, opset=options.opset)
            else:
                quantised.save(output, target=options.target, progress=progress)
        if options.report:
            quantised.report.save(options.report)
        if options.write_plan is not None:
            assert quantised.plan is not None
            quantised.plan.save(options.write_plan)
    finally:
        progress.close()
    report = quantised.report
    record: dict[str, Any] = {
        "model": model,
        "outputs": [{"path": output, "bytes": output.stat().st_size} for output in outputs],
        "seconds": progress.seconds,
        "report": report.record(),
    }
    if choice is not None:
        record |= {"met": True, "notes": list(choice.notes), "sensitivities": choice.table.record()}
    lines = [] if options.report else report.text().splitlines()
    lines += [] if choice is None else choice.notes
    lines += [f"{output}: {bytes_text(output.stat().st_size)}" for output in outputs]
    console.result(record, lines)
    return 0


def _require_places(options: argparse.Namespace) -> None:
    """Raise CommandError for a file that cannot be written, is read too, or is to be written twice."""
    read = [*options.data, *(options.held_out or ()), *filter(None, (options.plan, options.labels))]
    written = (*options.output, *filter(None, (options.report, options.write_plan, options.sensitivity)))
    for number, output in enumerate(written):
        require_writable(output, sources=(options.model, *_sources(read, output)))
        if any(output.resolve() == other.resolve() for other in written[:number]):
            raise CommandError(f"{output} is to be written twice: give every file a name of its own")


def _sources(data: Sequence[str | Path], output: Path) -> list[Path]:
    """What is read that a file at `output` could take the place of."""
    found = [Path(each) for each in data]
    return [output if each.is_dir() and each.resolve() in output.resolve().parents else each for each in found]


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)
