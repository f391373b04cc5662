"""Compile random models, compare, and reduce what fails: ``python -m benchmarks.fuzz --graphs 1000 --minutes 10``.

Each failure is written to the folder given by --failures as ``seed-N.onnx`` with its inputs ``seed-N.npz``, and
reduced as ``seed-N.small.onnx``. `ingot reduce --check benchmarks.fuzz.campaign:examine` goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from time import monotonic

from benchmarks.fuzz.campaign import HARMLESS, attempt, outcome, save
from benchmarks.fuzz.coverage import count, report
from benchmarks.fuzz.generate import generate
from ingot.compiler.debug.failure import message_shape
from ingot.compiler.debug.sandbox import Sandbox

EVERY = 1000
"""After so many models the counts are printed."""


def told(counts: Counter[str]) -> str:
    """How often each outcome came."""
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing was tried"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the status is 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=1000, help="models to try (1000)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this time (60)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--nodes", type=int, default=12, help="steps of the largest models (12)")
    parser.add_argument("--reduce", type=float, default=60.0, help="seconds to reduce a failure (60); 0: do not")
    parser.add_argument("--coverage", action="store_true", help="compile nothing; print what the models contain")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="folder (fuzz-failures)")
    options = parser.parse_args(arguments)
    if options.coverage:
        seeds = range(options.seed, options.seed + options.graphs)
        print(report(count(generate(seed, options.nodes) for seed in seeds)))
        return 0
    deadline = monotonic() + 60 * options.minutes
    seeds = iter(range(options.seed, options.seed + options.graphs))
    counts: Counter[str] = Counter()
    known: set[str] = set()
    lock = Lock()

    def work() -> None:
        with Sandbox(60.0) as sandbox:
            while monotonic() < deadline:
                with lock:
                    seed = next(seeds, None)
                if seed is None:
                    return
                sample = generate(seed, options.nodes)
                failure = attempt(sandbox, sample)
                came = outcome(failure)
                with lock:
                    counts[came] += 1
                    if counts.total() % EVERY == 0:
                        print(f"seed {seed}: {told(counts)}", flush=True)
                    if failure is None or came in HARMLESS:
                        continue
                    shape = f"{failure.error} {message_shape(failure.message)}"
                    fresh = shape not in known
                    known.add(shape)
                print(f"seed {seed}: {failure}", flush=True)
                reduced = save(options.failures, seed, sample, sandbox, options.reduce if fresh else 0.0)
                if reduced:
                    print(reduced, flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        for job in [pool.submit(work) for _ in range(options.jobs)]:
            job.result()
    print(told(counts))
    return 1 if set(counts) - {"agreed", *HARMLESS} else 0


if __name__ == "__main__":
    sys.exit(main())
