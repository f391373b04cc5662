"""The roofline table: what kernels are said to do, what the roof is, and how it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from benchmarks.algorithms import conv, matmul
from benchmarks.models import Case, cases
from benchmarks.roofline import Kernel, Machine, Rates, Roofline, Work, kernels_of, main, measured, table, told, work_of

from ingot.compiler import compile
from ingot.compiler.driver import explain
from ingot.compiler.ir.dims import evaluate, symbol
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.program import Program
from ingot.compiler.request import Request
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import i8, u8
from ingot.runtime.profile import LaunchProfile

FLAT = Machine({1: 1e9, 2: 2e9, 4: 4e9}, ((1e3, Rates(8.0, 4.0)), (1e4, Rates(4.0, 2.0)), (math.inf, Rates(2.0, 1.0))))


def lowered(graph: Graph) -> Program:
    _, (program,) = explain(Request(graph, "cpu"), find_target("cpu").machine)
    return program


def profiled(program: Program, values: Mapping[str, int], calls: int = 1) -> list[Kernel]:
    """The kernels, each launch of which took a second."""
    launches = [
        LaunchProfile(
            number, step.kernel.name, step.origin, calls, 9.0, 1.0, 1.0, 0.1, evaluate(step.chunks, values), None, None
        )
        for number, step in enumerate(program.launches())
    ]
    return list(kernels_of(program, launches, values, FLAT))


def test_winograd_counts_as_the_sum_that_it_is_for() -> None:
    (kernel,) = [each for each in profiled(lowered(conv(12, 16, 32)), {}) if each.flops]
    assert kernel.algorithm == "Winograd" and kernel.nodes == ("conv",) and len(kernel.names) >= 3
    assert kernel.flops == 2 * 9 * 16 * 32 * 12 * 12 and kernel.seconds == len(kernel.names)
    assert kernel.arithmetic == pytest.approx(kernel.flops / 1e9)


def test_of_products_for_any_number_of_rows_that_which_is_run_counts() -> None:
    program = lowered(matmul(symbol("rows"), 1024, 1024))
    assert len(list(program.launches())) == 3
    for rows, algorithm, launches in ((8, "", 1), (513, "Strassen", 2)):
        (kernel,) = profiled(program, {"rows": rows})
        assert (kernel.algorithm, len(kernel.names), kernel.nodes) == (algorithm, launches, ("matmul",))
        assert kernel.flops == 2 * rows * 1024 * 1024
    assert work_of(next(program.launches()), {}) is None


def test_bytes_and_products() -> None:
    (product,) = [work_of(step, {}) for step in lowered(matmul(8, 64, 32)).timed()]
    assert product == (work := Work(2 * 8 * 64 * 32, 4 * 64 * 32, 4 * 8 * 64, 4 * 8 * 32))
    assert work.bytes == 4 * (8 * 64 + 64 * 32 + 8 * 32)
    works = [work for step in lowered(matmul(8, 64, 32, (u8, i8))).timed() if (work := work_of(step, {}))]
    assert max(work.dot for work in works) == find_target("cpu").machine.dot


def test_the_roof() -> None:
    assert FLAT.arithmetic(Work(flops=3 * 10**9)) == 3.0
    assert FLAT.arithmetic(Work(flops=3 * 10**9, dot=2)) == 1.5
    # Written bytes are copied with as many that are read, the others are read, all from where 1000 bytes fit.
    assert FLAT.traffic(Work(read=600, written=200), 0) == 400 / 4 + 400 / 8
    assert FLAT.traffic(Work(read=200, written=600), 0) == 800 / 4
    # The kernel's 800 bytes are near, but not its weights, which are some of 5000.
    assert FLAT.traffic(Work(weights=400, read=200, written=200), 5000) == 400 / 4 + 400 / 4
    assert FLAT.traffic(Work(weights=400, read=200, written=200), 50000) == 400 / 4 + 400 / 2
    assert FLAT.rates(10**6) == Rates(2.0, 1.0)
    better = FLAT.faster(Machine({1: 2e9, 2: 1.0, 4: 1.0}, ((1e3, Rates(1.0, 9.0)), *FLAT.memory[1:])))
    assert better.flops == {1: 2e9, 2: 2e9, 4: 4e9} and better.memory == ((1e3, Rates(8.0, 9.0)), *FLAT.memory[1:])


def test_loops_do_their_work_more_than_once() -> None:
    once, often = (profiled(lowered(matmul(8, 64, 32)), {}, calls)[0] for calls in (1, 5))
    assert (often.flops, often.bytes) == (5 * once.flops, 5 * once.bytes)
    assert (often.arithmetic, often.traffic) == pytest.approx((5 * once.arithmetic, 5 * once.traffic))


def test_another_program_is_no_match() -> None:
    with pytest.raises(RuntimeError, match="another program"):
        list(kernels_of(lowered(matmul(8, 64, 32)), [], {}, FLAT))


def test_a_model(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    looped (int64 trip, float[n, 64] x) => (float[n, 64] y) {
      on = Constant <value = bool {1}> ()
      y = Loop <body = body (int64 i, bool c, float[n, 64] v) => (bool d, float[n, 64] w) {
        d = Identity(c)
        w = MatMul(v, weights)
      }> (trip, on, x)
    }
    """
    model = onnx.parser.parse_model(text)
    weights = np.full((64, 64), 1 / 64, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
    onnx.save(model, tmp_path / "looped.onnx")
    feeds = {"trip": np.array(7), "x": np.ones((16, 64), np.float32)}
    row, machine = measured(Case("looped", "demo", tmp_path / "looped.onnx", lambda: feeds), "native", 3)
    assert 2 * 7 * 16 * 64 * 64 <= sum(each.flops for each in row.kernels) < 1.1 * 2 * 7 * 16 * 64 * 64
    assert row.seconds > 0 and 0 <= row.near <= 1 and 0 <= row.lost <= 1
    assert sum(each.seconds for each in row.kernels) + row.elsewhere == pytest.approx(row.seconds)
    assert machine.flops[1] > 1e8 and told(machine).startswith("One thread: ")
    # `ingot profile` and the table tell of the same work.
    with compile(tmp_path / "looped.onnx", target="native").session(threads=1) as session:
        launches = session.profile(feeds, runs=1).launches
    assert sum(each.flops * each.calls for each in launches if each.flops) == sum(each.flops for each in row.kernels)


def test_the_table() -> None:
    kernels = (
        Kernel(("a",), ("first|node", "second"), "", 2e-6, 1e-6, 1.5e-6, 4 * 10**6, 10**6),
        Kernel(("b", "c"), ("x" * 60,), "Winograd", 1e-6, 2e-6, 1e-7, 6 * 10**6, 10**5),
        Kernel(("d",), (), "", 1e-6, 8e-7, 0.0, 0, 0),
        Kernel(("e",), ("last",), "", 1e-7, 0.0, 0.0, 0, 0),
    )
    row = Roofline("model", 5e-6, 9e-7, kernels)
    assert (row.rate, row.near, row.lost) == pytest.approx((2e12, 0.4, 0.16))
    assert [each.names[0] for each in row.worst] == ["a", "d", "e"]
    *_, line = table([row]).splitlines()
    assert line == (
        "| model | 0.005 | 2000.0 | 40% | 16% | `first\\|node` +1: 2.0 µs, 4 MFLOP, 1 MB, 75% (bytes)<br>"
        "`d`: 1.0 µs, 0 MFLOP, 0 MB, 80% (arithmetic)<br>`last`: 0.1 µs, 0 MFLOP, 0 MB, 0% (arithmetic) |"
    )
    (short,) = [cell for cell in table([Roofline("m", 1.0, 0.0, kernels[1:2])]).split("`") if "xx" in cell]
    assert len(short) == 40 and short.startswith("…x")


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["--models", "digits", "--groups", "demo", "--runs", "2", "--json", str(tmp_path / "rows.json")])
    told = capsys.readouterr().out
    assert cases("demo")[0].name == "digits" and "| digits | 0.0" in told and "GFLOP/s of f32" in told
    assert '"model": "digits"' in (tmp_path / "rows.json").read_text()
