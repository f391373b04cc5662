"""The grid: ``python -m benchmarks.grid [--operators Add,Conv] [--executors native,graph] [--slice] [--json FILE]``.

Every operator of ai.onnx in every version, crossed with the element types that its schema allows and with its examples
(shapes, attributes, special numbers), many cases a model. The program fails when a case comes out otherwise than
exceptions.txt says. ``--accept`` writes that list anew for the operators that were run; ``--json`` keeps the outcomes,
``--from`` takes them from such files instead of running, and ``--tables`` writes the section of docs/onnx-support.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.grid.batches import EXECUTORS, Executor, judged
from benchmarks.grid.cases import all_cases, history, slice_cases
from benchmarks.grid.report import Record, read_records, summary, surprises, write_exceptions, write_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 when a case surprises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operators", default="", help="comma separated; default all")
    parser.add_argument("--executors", default="native", help=f"comma separated, of {', '.join(EXECUTORS)}")
    parser.add_argument("--slice", action="store_true", help="each version, type and variant of each operator once")
    parser.add_argument("--json", type=Path, help="append the outcomes to this file, a line each")
    parser.add_argument(
        "--from", dest="files", type=Path, nargs="+", help="outcomes that were kept, instead of running"
    )
    parser.add_argument("--accept", action="store_true", help="write what came out to exceptions.txt")
    parser.add_argument("--tables", action="store_true", help="write docs/onnx-support.md, from all cases")
    options = parser.parse_args(arguments)
    operators = [name for name in options.operators.split(",") if name]
    executors: list[Executor] = [e for e in EXECUTORS if e in options.executors.split(",")]
    if unknown := sorted(set(operators) - history().keys()):
        parser.error(f"there are no examples for {', '.join(unknown)}")
    if not executors:
        parser.error(f"no executor of {', '.join(EXECUTORS)} is named")
    if options.files:
        records = list(
            {(r.operator, r.types, r.variant): r for path in options.files for r in read_records(path)}.values()
        )
    else:
        records = []
        for name in operators or history():
            cases = slice_cases([name]) if options.slice else all_cases([name])
            found = [Record.of(outcome) for outcome in judged(list(cases), executors)]
            records += found
            if options.json:
                with options.json.open("a") as file:
                    file.writelines(f"{record.line()}\n" for record in found)
    print(summary(records))
    if options.accept:
        write_exceptions(records)
    if options.tables:
        write_table(records)
    unexpected = list(surprises(records))
    for line in unexpected:
        print(line, file=sys.stderr)
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
