"""Command line.

python -m benchmarks.peers list
python -m benchmarks.peers install [--limit SECONDS] [NAME ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.peers import environments
from benchmarks.peers.catalogue import INSTALLED, find
from benchmarks.peers.environments import NotInstalledError


def show() -> None:
    """One line a peer: its version and where it is, or why not."""
    for peer in INSTALLED.values():
        try:
            state = str(environments.python(peer))
        except NotInstalledError as error:
            state = str(error)
        print(f"{peer.name:12} {peer.version:14} {state}")


def install(names: Sequence[str], limit: float) -> int:
    """Install peers; how many could not be."""
    failed = 0
    for peer in [find(name) for name in names] or list(INSTALLED.values()):
        try:
            print(f"{peer.label}: {environments.install(peer, limit=limit)}", flush=True)
        except NotInstalledError as error:
            failed += 1
            print(f"{peer.label}: {error}", file=sys.stderr, flush=True)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is and what is installed")
    one = commands.add_parser("install", help="make the environments of peers")
    one.add_argument("names", nargs="*", help=f"which: {', '.join(INSTALLED)}; default all")
    one.add_argument("--limit", type=float, default=1800.0, help="seconds that a step may take (1800)")
    options = parser.parse_args(arguments)
    if options.command == "list":
        show()
        return 0
    try:
        return 1 if install(options.names, options.limit) else 0
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
