"""``ingot cache``: what the kernel cache holds, and how to empty it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ingot.compiler.cli.console import Console, bytes_text
from ingot.compiler.cli.failures import CommandError

if TYPE_CHECKING:
    from ingot.compiler.cache.store import Holdings

HELP = "show or empty the kernel cache"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", choices=("show", "clear"), help="show: what there is; clear: remove it all")


def execute(options: argparse.Namespace, console: Console) -> int:
    """Count, or remove."""
    from ingot.compiler.cache.store import Store

    folder, limit = console.environment.cache, console.environment.cache_size
    if folder is None:
        raise CommandError("there is no cache: INGOT_CACHE is 0, or neither it nor a home folder is known")
    store = Store(folder, limit, console.note)
    held = store.clear() if options.action == "clear" else store.holdings()
    record = {
        "folder": folder,
        "limit": limit,
        "kernels": len(held.objects),
        "kernel_bytes": sum(entry.size for entry in held.objects),
        "programs": len(held.programs),
        "program_bytes": sum(entry.size for entry in held.programs),
        "cleared": options.action == "clear",
    }
    verb = "removed from" if options.action == "clear" else "in"
    console.result(record, [f"{_counted(held)} {verb} {folder}; at most {bytes_text(limit)} are kept"])
    return 0


def _counted(held: Holdings) -> str:
    parts = [
        f"{len(entries)} {kind}{'' if len(entries) == 1 else 's'} ({bytes_text(sum(e.size for e in entries))})"
        for kind, entries in (("kernel", held.objects), ("program", held.programs))
    ]
    return " and ".join(parts)
