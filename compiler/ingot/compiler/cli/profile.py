"""``ingot profile``: where the time of a run goes, kernel launch by kernel launch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ingot.compiler.cli.artifacts import (
    Arrays,
    concrete_shapes,
    is_artifact,
    random_arrays,
    read_arrays,
    read_artifact,
)
from ingot.compiler.cli.console import Console, bytes_text, seconds_text, table
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.files import output_type, require_writable
from ingot.compiler.cli.run import count_type, rounds_type, threads_type
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.runtime import LaunchProfile, Profile, Session
from ingot.runtime.manifest import Manifest
from ingot.runtime.replacement import replaced

HELP = "show where the time of a run goes, kernel by kernel"

NAMES_WIDTH = 56


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", type=Path, help="an .onnx file, which is compiled first, or an .ingot file")
    parser.add_argument("--target", default="native", help="what an .onnx is compiled for (default: this machine)")
    parser.add_argument("--input", action="append", default=[], metavar="FILE", help="as for ingot run (random)")
    parser.add_argument(
        "--shape", action="append", default=[], metavar="DIMS", help=f"dims of random inputs: {SHAPE_HELP}"
    )
    parser.add_argument("--threads", type=threads_type, metavar="N", help="threads to use (default: all cores)")
    parser.add_argument("--runs", type=rounds_type, default=30, metavar="N", help="runs to measure (30)")
    parser.add_argument(
        "--top", type=count_type, default=20, metavar="N", help="launches to list, slowest first, 0 for all (20)"
    )
    parser.add_argument(
        "--trace", type=output_type, metavar="OUT.json", help="write the fastest run for chrome://tracing or Perfetto"
    )
    parser.add_argument(
        "--peak", action="store_true", help="measure multiply-adds in registers here; give each kernel's share of that"
    )


def execute(options: argparse.Namespace, console: Console) -> int:
    """Compile where needed, measure, print."""
    path: Path = options.model
    if not path.is_file():
        raise CommandError(f"{path}: there is no such file" if not path.exists() else f"{path}: not a file")
    if options.trace is not None:
        require_writable(options.trace, sources=(path,))
    progress = console.progress()
    try:
        manifest: Manifest
        if is_artifact(path):
            manifest, _ = read_artifact(path)
            session = Session(path, threads=options.threads)
        else:
            from ingot.compiler import compile

            target: str = options.target
            require_code(target)
            progress(f"compiling {path}")
            artifact = compile(path, target=target, progress=progress)
            manifest = artifact.manifest
            session = artifact.session(threads=options.threads)
        with session:
            arrays = read_arrays(options.input, session.inputs)
            arrays = random_arrays(manifest, concrete_shapes(manifest, options.shape), 0) | arrays
            progress(f"{session.metadata['threads']} thread(s): measuring")
            profile = session.profile(arrays, runs=options.runs)
        peaks: dict[str, float] | None = None
        if options.peak:
            progress("measuring the machine's peaks")
            peaks = _peaks(profile.threads)
    finally:
        progress.close()
    record = report(path, manifest, arrays, profile, peaks)
    lines = list(_lines(record, profile, options.top))
    if options.trace is not None:
        with replaced(options.trace) as partial:
            partial.write_text(json.dumps(profile.trace()), encoding="utf-8")
        record["trace"] = options.trace
        lines += ["", f"{options.trace}: {len(profile.events)} events of the fastest run"]
        if profile.lost:
            lines[-1] += f", {profile.lost} later ones left out"
    console.result(record, lines)
    return 0


def require_code(target: str) -> None:
    """Raise CommandError for a target that makes no native code, TargetError for one whose code this machine cannot
    run."""
    from ingot.compiler.targets.registry import require_runnable

    if target in ("interpreter", "null"):
        raise CommandError(f"--target {target} makes no native code; give native, cpu or a level")
    require_runnable(target)


def report(
    path: Path, manifest: Manifest, arrays: Arrays, profile: Profile, peaks: Mapping[str, float] | None
) -> dict[str, Any]:
    """All of it as JSON can hold it; times in seconds, rates per second, for one run."""
    return {
        "model": path,
        "target": manifest.target,
        "variants": [variant.name for variant in manifest.variants],
        "inputs": {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in arrays.items()},
        "program": profile.name,
        "threads": profile.threads,
        "runs": profile.runs,
        "median_seconds": profile.seconds,
        "best_seconds": profile.best,
        "between_seconds": profile.between,
        "between_share": profile.between_share,
        "peaks": peaks,
        "launches": [_launch(each, peaks) for each in profile.launches],
    }


def _launch(launch: LaunchProfile, peaks: Mapping[str, float] | None) -> dict[str, Any]:
    record = asdict(launch) | {
        "flops_rate": launch.flops_rate,
        "bytes_rate": launch.bytes_rate,
        "peak_share": None,
    }
    if peaks is not None:
        record["peak_share"] = None if launch.flops_rate is None else launch.flops_rate / peaks["flops"]
    return record


def _peaks(threads: int) -> dict[str, float]:
    from ingot.compiler.targets.cpu.features import host_level
    from ingot.compiler.targets.cpu.peak import copy_rate, multiply_add_rate

    return {"flops": threads * multiply_add_rate(host_level()), "bytes": threads * copy_rate()}


def _lines(record: Mapping[str, Any], profile: Profile, top: int) -> Iterator[str]:
    inputs = ", ".join(f"{name} {each['dtype']}{each['shape']}" for name, each in record["inputs"].items())
    yield f"{record['model']} for {record['target']}; {inputs}"
    if record["variants"]:
        yield f"program {record['program']}, of {', '.join(record['variants'])} and the general one"
    yield (
        f"{seconds_text(profile.seconds)} a run (median of {profile.runs}, best {seconds_text(profile.best)}), "
        f"{profile.threads} thread(s), {len(profile.launches)} launches"
    )
    peaks = record["peaks"]
    if peaks is not None:
        flops, copied = peaks["flops"] / 1e9, peaks["bytes"] / 1e9
        yield f"peak {flops:.1f} GFLOP/s of multiply-adds in f32; memory copies at {copied:.1f} GB/s"
    yield ""
    parallel = profile.threads > 1
    repeats = any(each.calls != 1 for each in profile.launches)
    head = ["#", "kernel", "median", "min", "share", *(["calls"] if repeats else []), "chunks"]
    head += ["busy"] if parallel else []
    head += ["MFLOP", "GFLOP/s", "moved", "GB/s", *(["peak"] if peaks is not None else []), "nodes"]
    rows: list[tuple[str, ...]] = [tuple(head)]
    slowest = sorted(record["launches"], key=lambda each: -each["seconds"])
    for each in slowest[: top or None]:
        row = [str(each["number"]), each["kernel"], seconds_text(each["seconds"]), seconds_text(each["best"])]
        row.append(f"{each['share']:.1%}")
        if repeats:
            row.append(str(each["calls"]))
        row.append(_count(each["chunks"]))
        if parallel:
            row.append(f"{each['busy'] / each['seconds']:.2f}" if each["seconds"] else "")
        row += [_scaled(each["flops"], 1e6, each["calls"]), _scaled(each["flops_rate"], 1e9)]
        row += ["" if each["bytes"] is None else bytes_text(each["bytes"] * each["calls"])]
        row += [_scaled(each["bytes_rate"], 1e9)]
        if peaks is not None:
            row.append("" if each["peak_share"] is None else f"{each['peak_share']:.0%}")
        rows.append((*row, _names(each["origin"])))
    lines = table(rows, right=[column for column in range(len(head) - 1) if column != 1])
    yield from lines
    yield ""
    if rest := slowest[top or len(slowest) :]:
        share = sum(each["share"] for each in rest)
        yield f"{len(rest)} more launches: {share:.1%} (--top 0 lists them)"
    yield f"between launches: {seconds_text(profile.between)}, {profile.between_share:.1%}"


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def _scaled(number: float | None, unit: float, times: int = 1) -> str:
    return f"{number * times / unit:.3g}" if number else ""


def _names(origin: Sequence[str]) -> str:
    """The nodes of a launch, as many as fit."""
    text = ""
    for index, name in enumerate(origin):
        if len(name) > NAMES_WIDTH:
            name = "…" + name[1 - NAMES_WIDTH :]
        longer = f"{text}, {name}" if text else name
        if index and len(longer) > NAMES_WIDTH:
            return f"{text}, +{len(origin) - index}"
        text = longer
    return text
