"""Damage models and artifacts and see what Ingot makes of them: ``python -m benchmarks.mutations --count 2000``.

A mutated model gives a typed error, or compiles to what computes the same as its own graph interpreted; a mutated
artifact gives a typed error or the results of the original. Everything else is a failure: another exception, a crash,
more than ten seconds, more than a gigabyte. Each is written to the folder given by --failures.

Half of the models are damaged as bytes, half as messages: a field changed, left out or repeated.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.mutations.campaign import campaign


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the status is 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("model", "artifact"), action="append", help="what is damaged (both)")
    parser.add_argument("--count", type=int, default=2000, help="mutants of each kind (2000)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this time for each kind (60)")
    parser.add_argument("--failures", type=Path, default=Path("mutation-failures"), help="folder (mutation-failures)")
    options = parser.parse_args(arguments)
    os.environ.setdefault("INGOT_MEMORY_LIMIT", "256M")
    bad = 0
    with tempfile.TemporaryDirectory(prefix="ingot-mutations-cache-") as cache:
        os.environ["INGOT_CACHE"] = cache  # kernels of the mutants are the originals', most of them
        for kind in options.kind or ("model", "artifact"):
            counts = campaign(kind, options.seed, options.count, options.minutes, options.failures)
            print(f"{kind}: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
            bad += counts.total() - counts["fine"]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
