"""ONNX's backend tests through native code: ``python -m benchmarks.conformance [--match regex] [--jobs 2] [--json]``.

All cases of the installed onnx (node, simple, converted and operator models of PyTorch, the light networks) are
compiled for this machine, run by one thread and compared with the vectors stored with them, by the rules of onnx's own
runner. The program fails when a case comes out otherwise than exceptions.txt says. ``--tables`` writes
docs/onnx-support.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from benchmarks.conformance.cases import CATEGORIES, load_cases
from benchmarks.conformance.judge import judged
from benchmarks.conformance.report import EXCEPTIONS, summary, surprises, write_exceptions, write_tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 when a case surprises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="", help="a regular expression that the names of cases contain")
    parser.add_argument("--categories", default=",".join(CATEGORIES), help="comma separated; default all")
    parser.add_argument("--jobs", type=int, default=1, help="processes that work on cases")
    parser.add_argument("--json", action="store_true", help="a JSON object a case instead of tables")
    parser.add_argument("--alone", action="store_true", help="without onnx.reference and ONNX Runtime")
    parser.add_argument("--tables", action="store_true", help="write docs/onnx-support.md, from all cases")
    parser.add_argument("--accept", action="store_true", help=f"write what came out to {EXCEPTIONS.name}")
    options = parser.parse_args(arguments)
    cases = load_cases(options.match, options.categories.split(","))
    if not cases:
        parser.error("no case has such a name")
    results = judged(cases, options.jobs, peers=not options.alone)
    if options.json:
        for result in results:
            print(json.dumps(dataclasses.asdict(result)))
    else:
        print(summary(results))
    if options.accept:
        write_exceptions(results)
    if options.tables:
        write_tables(results)
    found = surprises(results)
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
