"""Bytes and operations of launches beside numbers counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir import dims
from ingot.compiler.ir.costs import bytes_moved, launch_cost, operations
from ingot.compiler.ir.dims import minimum, symbol
from ingot.compiler.ir.loops import Axis, Buffer, Const, For, Kernel, Let, Load, Local, Scratch, Store, When
from ingot.compiler.ir.program import Argument, Launch, Storage
from ingot.compiler.lower.lowering import lower
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.cpu import features
from ingot.runtime.dtypes import boolean, f32, i64

i, j, o, p, n = (symbol(name) for name in "ijopn")


def launches(signature: str, body: str, **weights: np.ndarray[Any, Any]) -> list[Launch]:
    """The launches of a model in ONNX's text form."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> main {signature} {{ {body} }}')
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    graph = default_pipeline().run(load_onnx(proto), verify=True)
    return list(lower(graph, features.machine(features.level("x86-64-v3"))).launches())


def numbers(found: list[Launch], **values: int) -> list[tuple[int, int]]:
    """(operations, bytes) of each launch."""
    wanted = [(operations(launch), bytes_moved(launch)) for launch in found]
    return [(dims.evaluate(work, values), dims.evaluate(moved, values)) for work, moved in wanted]


@pytest.mark.parametrize("rows", [0, 1, 7, 100_000])
def test_pointwise(rows: int) -> None:
    found = launches("(float[n, 5] x) => (float[n, 5] y)", "y = Relu(x)")
    assert numbers(found, n=rows) == [(5 * rows, 2 * 4 * 5 * rows)]


def test_what_is_read_twice_counts_once() -> None:
    found = launches("(float[n, 64] x) => (float[n, 64] y)", "a = Exp(x) b = Sin(x) c = Mul(a, b) y = Add(c, x)")
    assert [moved for _, moved in numbers(found, n=10)] == [2 * 4 * 640]
    found = launches("(float[n, 64] x) => (float[n, 64] y)", "y = Softmax <axis = -1> (x)")
    assert [moved for _, moved in numbers(found, n=10)] == [2 * 4 * 640]


def test_broadcast_operands_are_small() -> None:
    found = launches("(float[n, 64] x, float[64] b, float z) => (float[n, 64] y)", "a = Mul(x, b) y = Add(a, z)")
    assert [moved for _, moved in numbers(found, n=10)] == [4 * (2 * 640 + 64 + 1)]


def test_a_slice_is_what_it_reads() -> None:
    body = "s = Constant <value_ints: ints = [2]> () e = Constant <value_ints: ints = [5]> () y = Slice(x, s, e)"
    found = launches("(float[100, 8] x) => (float[3, 8] y)", body)
    assert numbers(found) == [(0, 2 * 4 * 24)]


def test_matmul() -> None:
    w = np.ones((30, 20), np.float32)
    found = launches("(float[n, 30] x) => (float[n, 20] y)", "y = MatMul(x, w)", w=w)
    assert numbers(found, n=11) == [(2 * 11 * 30 * 20, 4 * (11 * 30 + 30 * 20 + 11 * 20))]


def test_gathered_rows() -> None:
    table = np.zeros((100, 8), np.float32)
    found = launches("(int64[k] at) => (float[k, 8] y)", "y = Gather <axis = 0> (w, at)", w=table)
    # Rows read and written, indices; the status may be written.
    assert [moved for _, moved in numbers(found, k=3)] in ([2 * 4 * 24 + 24], [2 * 4 * 24 + 24 + 8])
    # Never more than there is.
    assert next(moved for _, moved in numbers(found, k=1000)) <= 4 * 800 + 4 * 8000 + 8000 + 8


def test_attention_reads_each_operand_once() -> None:
    found = launches(
        "(float[2, 6, 8] q, float[2, 6, 8] k, float[2, 6, 8] v) => (float[2, 6, 8] y)",
        "t = Transpose <perm = [0, 2, 1]> (k) s = MatMul(q, t) p = Softmax <axis = -1> (s) y = MatMul(p, v)",
    )
    (attention,) = [launch for launch in found if launch.kernel.name.startswith("attention")]
    assert numbers([attention]) == [(2 * 6 * 6 * 2 * 16, 4 * 4 * 96)]


def bound(kernel: Kernel, *sizes: int, **values: int) -> Launch:
    arguments = tuple(
        Argument(Storage(b.name, "temp", b.dtype, size)) for b, size in zip(kernel.buffers, sizes, strict=True)
    )
    return Launch(kernel, arguments, tuple(values[name] for name in kernel.dims))


def test_loops_over_blocks() -> None:
    at = o * 16 + i
    body = (For("i", minimum(16, n - o * 16), (Store("y", at, Load("x", at)),)),)
    buffers = (Buffer("x", f32), Buffer("y", f32, "write"))
    kernel = Kernel("copy", buffers, ("n",), (Axis("o", dims.ceil_divide(n, 16)),), body)
    assert bytes_moved(bound(kernel, 40, 40, n=40)) == 2 * 4 * 40
    assert bytes_moved(bound(kernel, 5, 5, n=5)) == 2 * 4 * 5


def test_overlapping_windows_are_no_more_than_the_buffer() -> None:
    window = For("j", 3, (Store("y", i * 3 + j, Load("x", i + j)),))
    kernel = Kernel("windows", (Buffer("x", f32), Buffer("y", f32, "write")), (), (Axis("i", 8),), (window,))
    assert bytes_moved(bound(kernel, 10, 24)) == 4 * (10 + 24)


def test_operations_are_counted() -> None:
    found = launches("(float[n, 64] x) => (float[n, 64] y)", "a = Exp(x) b = Sin(x) c = Mul(a, b) y = Add(c, x)")
    assert [work for work, _ in numbers(found, n=1000)] == [4 * 64_000]
    found = launches("(float[n, 64] x) => (float[n, 1] y)", "y = ReduceSum <keepdims = 1> (x, a)", a=np.array([1]))
    assert [work for work, _ in numbers(found, n=1000)] == [64_000]
    found = launches("(float[n, 64] x) => (bool[n, 64] y)", "c = Greater(x, x) y = Not(c)")
    assert [work for work, _ in numbers(found, n=1000)] == [0]


def test_scratch_is_not_memory() -> None:
    body = (Scratch("s", f32, 4), Store("s", 0, Load("x", i)), Store("y", i, Load("s", 0)))
    kernel = Kernel("through", (Buffer("x", f32), Buffer("y", f32, "write")), (), (Axis("i", 8),), body)
    assert bytes_moved(bound(kernel, 8, 8)) == 64


def test_both_sides_of_a_choice_count() -> None:
    choice = When(
        Load("c", i), (Store("y", i, Load("a", i)),), (Let("v", Load("b", 0)), Store("y", i, Local("v", f32)))
    )
    buffers = (Buffer("c", boolean), Buffer("a", f32), Buffer("b", f32), Buffer("y", f32, "write"))
    kernel = Kernel("choice", buffers, (), (Axis("i", 8),), (choice,))
    assert bytes_moved(bound(kernel, 8, 8, 1, 8)) == 8 + 32 + 4 + 32


def test_a_buffer_that_is_updated_counts_twice() -> None:
    body = (Store("x", i, Load("x", i)),)
    kernel = Kernel("update", (Buffer("x", f32, "readwrite"),), (), (Axis("i", 8),), body)
    assert bytes_moved(bound(kernel, 8)) == 64


def test_indices_that_come_from_memory() -> None:
    body = (Let("p", Load("at", i)), For("j", 4, (Store("y", i * 4 + j, Load("x", p * 4 + j)),)))
    buffers = (Buffer("at", i64), Buffer("x", f32), Buffer("y", f32, "write"))
    kernel = Kernel("rows", buffers, (), (Axis("i", 3),), body)
    assert bytes_moved(bound(kernel, 3, 400, 12)) == 3 * 8 + 48 + 48


def test_constants_cost_nothing() -> None:
    kernel = Kernel("fill", (Buffer("y", f32, "write"),), (), (Axis("i", 8, 4),), (Store("y", i, Const(1.0, f32)),))
    cost = launch_cost(bound(kernel, 8))
    assert (cost.kernel, cost.chunks, cost.flops, cost.bytes) == ("fill", 2, 0, 32)
