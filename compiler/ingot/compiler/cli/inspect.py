"""``ingot inspect``: what an artifact holds. Needs numpy and the runtime alone, on any architecture."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ingot.compiler.cli.artifacts import Member, concrete_shapes, read_artifact, require_artifact
from ingot.compiler.cli.console import Console, bytes_text
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.kernels import kernel_lines, kernel_record
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.runtime.cpu import host_architecture, kernel_flags, missing_features
from ingot.runtime.dims import UNBOUNDED
from ingot.runtime.errors import UnsupportedCpuError
from ingot.runtime.manifest import FORMAT_VERSION, WEIGHTS_MEMBER, Manifest, code_member
from ingot.runtime.plan import Loaded
from ingot.runtime.tables import TEMP, WEIGHT
from ingot.runtime.variants import Variants

HELP = "show what an artifact holds, and how its kernels or those of a model are scheduled"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("artifact", type=Path, help="the .ingot file; with --kernels an .onnx file too")
    parser.add_argument(
        "--shape", action="append", default=[], metavar="DIMS", help=f"dims to plan memory for: {SHAPE_HELP}"
    )
    parser.add_argument("--verify", action="store_true", help="read everything and compare it with its digests")
    parser.add_argument(
        "--kernels", action="store_true", help="what was chosen for convolutions and matrix products, and out of what"
    )
    parser.add_argument("--target", default="native", help="with --kernels, for an .onnx file (default: this machine)")
    parser.add_argument("--tuning", type=Path, metavar="FILE", help="the record of schedules for an .onnx file")


def execute(options: argparse.Namespace, console: Console) -> int:
    """Read the manifest, plan the memory, print both."""
    path: Path = options.artifact
    if options.kernels:
        record = kernel_record(path, options, console)
        console.result(record, kernel_lines(record))
        return 0
    require_artifact(path)
    manifest, members = read_artifact(path, verify=options.verify)
    damaged = [member.name for member in members if member.intact is False]
    if damaged:
        raise CommandError(
            f"{path} is damaged in {', '.join(damaged)}: the digests are others; compile the model again"
        )
    record = describe_artifact(path, manifest, members, options.shape)
    console.result(record, _lines(record))
    return 0


def describe_artifact(path: Path, manifest: Manifest, members: tuple[Member, ...], dims: list[str]) -> dict[str, Any]:
    """All of it as JSON can hold it. Raises CommandError for `dims` that do not fit."""
    sizes = {member.name: member.size for member in members}
    provenance = dict(manifest.provenance)
    return {
        "artifact": path,
        "bytes": path.stat().st_size,
        "format": FORMAT_VERSION,
        "producer": manifest.producer,
        "name": manifest.name,
        "target": {
            "asked": manifest.target,
            "architecture": manifest.architecture,
            "levels": {code.level: sorted(code.features) for code in manifest.code},
            "runs_here": _runs_here(manifest),
        },
        "inputs": [each.described() for each in manifest.inputs],
        "outputs": [each.described() for each in manifest.outputs],
        "symbols": _bounds(manifest),
        "code_bytes": {code.level: sizes.get(code_member(code.level), 0) for code in manifest.code},
        "weights_bytes": sizes.get(WEIGHTS_MEMBER, 0),
        "weights_types": _weight_types(manifest),
        "kernels": provenance.pop("kernels", None),
        "launches": provenance.pop("launches", None),
        "argument_words": len(manifest.args),
        "host": dict(Counter(call.function for call in manifest.host)),
        "variants": [_variant(each) for each in manifest.variants],
        "closed": manifest.closed,
        "storages": _storages(manifest),
        "memory": _memory(manifest, dims),
        "provenance": provenance,
        "members": [
            {"name": m.name, "bytes": m.size, "sha256": m.sha256 or _digest(manifest, m), "verified": m.intact}
            for m in members
        ],
    }


def _variant(variant: Manifest) -> dict[str, Any]:
    """A program for some shapes: what it is called, and what it takes."""
    return {
        "name": variant.name,
        "inputs": [each.described() for each in variant.inputs],
        "symbols": _bounds(variant),
        "argument_words": len(variant.args),
        "storages": _storages(variant),
    }


def _bounds(manifest: Manifest) -> dict[str, list[int | None]]:
    return {name: [low, None if high >= UNBOUNDED else high] for name, (low, high) in manifest.symbols.items()}


def _storages(manifest: Manifest) -> dict[str, int]:
    return {name: len(manifest.storages.numbers(kind)) for name, kind in (("weight", WEIGHT), ("temp", TEMP))}


def _weight_types(manifest: Manifest) -> dict[str, int]:
    """Bytes of the weights of each element type, the most first; what several programs share counts once."""
    found: dict[int, tuple[int, str]] = {}
    for program in (manifest, *manifest.variants):
        table = program.storages
        for number, start, end in zip(table.numbers(WEIGHT), table.offset, table.weight_ends(), strict=True):
            name = table.dtypes[table.dtype[number]].name
            found[start] = max(found.get(start, (0, "")), (end - start, name))
    total: Counter[str] = Counter()
    for size, name in found.values():
        total[name] += size
    return dict(total.most_common())


def _runs_here(manifest: Manifest) -> str | None:
    """The level that this machine would run, None when it runs none."""
    try:
        if host_architecture() != manifest.architecture:
            return None
        flags = kernel_flags()
    except UnsupportedCpuError:
        return None
    fits = (c.level for c in manifest.code if not missing_features(c.features, manifest.architecture, flags))
    return next(fits, None)


def _memory(manifest: Manifest, dims: list[str]) -> dict[str, Any]:
    """The working memory of one run at concrete shapes, placed as the runtime places it."""
    shapes = concrete_shapes(manifest, dims)
    plan = Variants(manifest, Loaded.described(manifest)).plan(tuple(shapes.values()))
    return {"shapes": {name: list(shape) for name, shape in shapes.items()}, "arena_bytes": plan.arena_size}


def _digest(manifest: Manifest, member: Member) -> str | None:
    """The digest that the manifest states, where one chunk is the whole member."""
    digest = manifest.digests.get(member.name)
    return digest.chunks[0] if digest is not None and len(digest.chunks) == 1 else None


def _ranges(symbols: Mapping[str, Sequence[int | None]]) -> str:
    return ", ".join(f"{name} in {low}..{'' if high is None else high}" for name, (low, high) in symbols.items())


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    target = record["target"]

    def row(title: str, text: str) -> str:
        return f"{title:<11}{text}"

    def signature(each: Mapping[str, Any]) -> str:
        return f"{each['name']}  {each['dtype']}[{', '.join(map(str, each['shape']))}]"

    yield row("artifact", f"{record['artifact']}  {bytes_text(record['bytes'])}, format {record['format']}")
    yield row("model", f"{record['name']}, by {record['producer']}")
    here = f"runs here as {target['runs_here']}" if target["runs_here"] else "does not run on this machine"
    yield row("target", f"{target['asked']}: {target['architecture']}, {here}")
    for index, each in enumerate(record["inputs"]):
        yield row("" if index else "inputs", signature(each))
    for index, each in enumerate(record["outputs"]):
        yield row("" if index else "outputs", signature(each))
    yield row("dims", _ranges(record["symbols"]) or "all fixed")
    for index, each in enumerate(record["variants"]):
        others = ", ".join(f"{i['name']}[{', '.join(map(str, i['shape']))}]" for i in each["inputs"])
        yield row("" if index else "variants", f"{each['name']}: {others}")
    if record["closed"]:
        yield row("", "no others: these are the shapes that the model takes")
    for level, size in record["code_bytes"].items():
        features = " ".join(target["levels"][level]) or "nothing special"
        yield row("code", f"{level}  {bytes_text(size)}, needs {features}")
    types = ", ".join(f"{name} {bytes_text(size)}" for name, size in record["weights_types"].items())
    arrays = f"{bytes_text(record['weights_bytes'])} in {record['storages']['weight']} arrays"
    yield row("weights", f"{arrays}: {types}" if types else arrays)
    if record["kernels"] is not None:
        yield row("kernels", f"{record['kernels']}, {record['launches']} launches")
    if record["host"]:
        yield row("host", ", ".join(f"{function} {count}" for function, count in record["host"].items()))
    shapes = ", ".join(f"{name}[{', '.join(map(str, shape))}]" for name, shape in record["memory"]["shapes"].items())
    yield row("memory", f"{bytes_text(record['memory']['arena_bytes'])} to run with {shapes or 'no inputs'}")
    for index, (key, value) in enumerate(record["provenance"].items()):
        yield row("" if index else "made with", f"{key}: {value}")
    for index, member in enumerate(record["members"]):
        state = "  verified" if member["verified"] else ""
        digest = f"  sha256 {member['sha256'][:16]}…" if member["sha256"] else ""
        yield row("" if index else "members", f"{member['name']}  {member['bytes']} B{digest}{state}")
