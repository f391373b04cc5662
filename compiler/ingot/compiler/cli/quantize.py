"""``ingot quantize``: a model with 8-bit or narrower numbers, as an ONNX model or an artifact."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ingot.compiler.cli.compressing import (
    add_data_arguments,
    add_model_arguments,
    add_written_arguments,
    model_arguments,
    require_files,
    require_target,
    tell,
    write,
)
from ingot.compiler.cli.console import Console
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.files import output_type
from ingot.compiler.cli.mixed import add_mixed_arguments, chosen, require_mixed, tell_not_kept
from ingot.compiler.cli.passes import working_directory_importable

HELP = "quantise a model (.onnx) and write it as ONNX or as an artifact"

SCHEMES = ("int8", "int8-dynamic", "int8-weights", "int4-weights", "fp16", "bf16", "lossless", "mixed")
UNPLANNED = ("fp16", "bf16", "lossless")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model_arguments(parser)
    parser.add_argument(
        "--scheme",
        choices=SCHEMES,
        help="int8 (default): activations and weights, with ranges from --data; int8-dynamic: products, with ranges "
        "found as the model runs; int8-weights, int4-weights: weights of products alone; fp16, bf16: weights rounded; "
        "lossless: weights that lie on a grid of 8 bits; mixed: the cheapest for each layer within a bound",
    )
    data = add_data_arguments(parser)
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
    told = add_written_arguments(parser)
    told.add_argument("--no-measure", action="store_true", help="do not compare the layers' results")


def execute(options: argparse.Namespace, console: Console) -> int:
    """Quantise and write."""
    plan: Path | None = options.plan
    if plan is not None and options.scheme is not None:
        raise CommandError("--plan has a scheme for each layer: leave --scheme out")
    scheme = options.scheme or "int8"
    if options.write_plan is not None and scheme in UNPLANNED:
        raise CommandError(f"{scheme} is no scheme of single layers: there is no plan to write")
    require_mixed(options)
    read = [*(options.held_out or ()), *filter(None, (options.plan, options.labels))]
    require_files(options, read, (options.write_plan, options.sensitivity))
    require_target(options)
    from ingot.compiler.quantization import quantize

    common = model_arguments(options)
    common |= {"method": options.method, "measure": not options.no_measure}
    progress = console.progress()
    choice = None
    try:
        with working_directory_importable(*options.data, *(options.held_out or ()), options.metric):
            if scheme == "mixed":
                choice = chosen(options, common, progress)
                quantised = choice.quantized
            else:
                quantised = quantize(
                    options.model,
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
            return tell_not_kept(choice, options.model, console, progress)
        write(quantised, options, progress)
        if options.write_plan is not None:
            assert quantised.plan is not None
            quantised.plan.save(options.write_plan)
    finally:
        progress.close()
    more: dict[str, Any] = {}
    if choice is not None:
        more = {"met": True, "notes": list(choice.notes), "sensitivities": choice.table.record()}
    tell(quantised.report, options, console, progress, **more)
    return 0
