"""What ``ingot quantize --scheme mixed`` asks for, and does: a scheme for each layer within a bound."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.compiler.cli.console import Console, Progress
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.files import output_type

if TYPE_CHECKING:
    from ingot.compiler.quantization import Choice
    from ingot.compiler.quantization.sensitivity import Metric

NOT_KEPT = 1  # the exit status
OWN = ("max_error", "max_drop", "metric", "labels", "held_out", "candidates", "sensitivity", "limit")
OTHERS = ("only", "exclude", "ends", "rounding", "group", "tables", "plan")


def add_mixed_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the scheme mixed."""
    mixed = parser.add_argument_group("mixed: a scheme for each layer, the cheapest within a bound")
    mixed.add_argument("--max-error", type=_share, metavar="X", help="of the outputs, relative, as 0.02 or 2%%")
    mixed.add_argument("--max-drop", type=_share, metavar="X", help="of --metric, relative, as 0.01 or 1%%")
    mixed.add_argument(
        "--metric", metavar="NAME", help="top1 with --labels, or module:function of all outputs, larger is better"
    )
    mixed.add_argument("--labels", type=Path, metavar="FILE", help="an .npy of whole numbers, for --held-out in order")
    mixed.add_argument(
        "--held-out", action="append", metavar="PATH", help="samples to judge by (default: every third of --data)"
    )
    mixed.add_argument("--objective", choices=("latency", "size"), help="what is to become small (latency)")
    mixed.add_argument(
        "--candidates", type=lambda text: tuple(text.split(",")), metavar="SCHEMES", help="to choose from, with commas"
    )
    mixed.add_argument("--sensitivity", type=output_type, metavar="FILE", help="write what each layer loses and brings")
    mixed.add_argument("--limit", type=float, metavar="S", help="seconds to look at layers; the others stay in f32")


def require_mixed(options: argparse.Namespace) -> None:
    """Raise CommandError for options that do not go with the scheme."""
    named = {name: getattr(options, name) for name in (*OWN, "objective", *OTHERS)}
    given = [name for name, value in named.items() if value not in (None, [], False)]
    if options.scheme != "mixed":
        if wrong := [name for name in given if name in (*OWN, "objective")]:
            raise CommandError(f"{_option(wrong[0])} is for --scheme mixed")
        return
    if wrong := [name for name in given if name in OTHERS]:
        raise CommandError(f"{_option(wrong[0])} does not go with --scheme mixed, which looks at all layers")
    if (options.max_error is None) == (options.max_drop is None):
        raise CommandError("mixed needs a bound: give either --max-error or --max-drop")
    if options.max_drop is not None and options.metric is None:
        raise CommandError("--max-drop is the drop of a --metric: give top1 with --labels, or module:function")
    if (options.metric == "top1") != (options.labels is not None):
        raise CommandError("--metric top1 and --labels go together")
    if options.labels is not None and not options.held_out:
        raise CommandError("--labels are those of --held-out, which is needed too")
    if not options.data:
        raise CommandError("mixed needs samples: give --data")


def chosen(options: argparse.Namespace, given: Mapping[str, Any], progress: Callable[[str], None]) -> Choice:
    """What is found; `given` are the arguments that `choose` and `quantize` have in common."""
    from ingot.compiler.passes.quantize.dynamic import DynamicOptions
    from ingot.compiler.passes.quantize.static import StaticOptions
    from ingot.compiler.passes.quantize.weights import WeightOptions
    from ingot.compiler.quantization import Bound, choose
    from ingot.compiler.quantization.mixture import Mixture

    weights = WeightOptions(options.weight_bits, not options.per_tensor, options.clip_weights)
    mixture = Mixture(
        StaticOptions(options.activations, options.symmetric, weights),
        DynamicOptions(options.grain, options.symmetric, weights),
        options.everywhere,
    )
    choice = choose(
        options.model,
        options.data,
        bound=Bound(options.max_error, options.max_drop),
        held_out=options.held_out,
        objective=options.objective or "latency",
        metric=_metric(options),
        schemes=options.candidates,
        mixture=mixture,
        correct_biases=not options.no_bias_correction,
        limit=math.inf if options.limit is None else options.limit,
        progress=progress,
        **given,
    )
    if options.sensitivity is not None:
        choice.table.save(options.sensitivity)
    return choice


def tell_not_kept(choice: Choice, model: Path, console: Console, progress: Progress) -> int:
    """What was found where nothing is written."""
    record = {
        "model": model,
        "outputs": [],
        "seconds": progress.seconds,
        "met": False,
        "notes": list(choice.notes),
        "sensitivities": choice.table.record(),
    }
    console.result(record, [*choice.text().splitlines(), "nothing is written"])
    return NOT_KEPT


def _metric(options: argparse.Namespace) -> Metric | None:
    if options.metric is None:
        return None
    if options.metric != "top1":
        from ingot.compiler.calibration.samples import named_function

        return named_function(options.metric)
    from ingot.compiler.array_files import load_arrays
    from ingot.compiler.quantization import top1

    loaded: Any = load_arrays(options.labels)
    if isinstance(loaded, Mapping):
        raise CommandError(f"{options.labels} holds several arrays: give an .npy of labels")
    return top1(loaded)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _share(text: str) -> float:
    """A part of something, from a number or per cents."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0, nor per cents")
    return value
