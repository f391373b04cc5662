"""Checked builds: what is planted out of bounds is found, named and not performed; what is sound runs as before."""

# pyright: reportMissingParameterType=false
# The custom operator is written as its author writes it.

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from onnx import parser

from ingot.compiler import compile, compile_library, custom_op, default_pipeline
from ingot.compiler.artifact import Artifact
from ingot.compiler.demo import held_out, model_path
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.execute import ExecutionError, run_program
from ingot.compiler.ir.graph import Array, Graph, Input, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.loops import Buffer, Call, Const, For, Index, Kernel, Let, Load, Scratch, Stmt, Store, When
from ingot.compiler.ir.program import Argument, Branch, Launch, Program, Storage
from ingot.compiler.ir.templates import Attention as AttentionTemplate
from ingot.compiler.ir.templates import Contraction, Depthwise
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.labels import Labels
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.composite import Attention, Softmax
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.pointwise import Add, Exp, Relu
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.cpu.access_checks import check_accesses, size_of
from ingot.compiler.targets.cpu.checked import checked_program
from ingot.compiler.targets.cpu.emit import emit_kernel
from ingot.compiler.targets.cpu.functions import F32, I8, I32, I64, PTR
from ingot.compiler.targets.cpu.objects import kernel_text, level_text, new_module
from ingot.compiler.targets.cpu.program import argument_table
from ingot.compiler.targets.cpu.target import CpuTarget
from ingot.compiler.targets.errors import TargetError
from ingot.compiler.targets.registry import PORTABLE
from ingot.compiler.targets.target import Programs
from ingot.runtime import ArtifactError, RuntimeFault, Session
from ingot.runtime.checked import FOUND, PLACE_SHIFT, found_by_check
from ingot.runtime.dtypes import boolean, f32, i64
from ingot.runtime.manifest import parse_manifest

LEVEL = replace(features.level(PORTABLE[features.host_arch()]), checked=True)
PLAIN = replace(LEVEL, checked=False)
N = symbol("n")


def random(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def lowered(graph: Graph) -> Program:
    return lower(default_pipeline().run(graph), features.machine(LEVEL))


def built(program: Program, level: features.Level = LEVEL) -> Artifact:
    return CpuTarget(level).build(Programs(program), Labels(program.name))


def ran(program: Program, feed: Mapping[str, Array], threads: int = 1) -> dict[str, Array]:
    with built(program).session(threads=threads) as session:
        return session.run(feed)


# -- planting ---------------------------------------------------------------------------------------------------------


def moved(program: Program, storage: str, by: Dim, template: type | None = None) -> Program:
    """The program with one launch's argument `by` elements further into the storage."""
    steps = list(program.steps)
    for i, step in enumerate(steps):
        if not isinstance(step, Launch) or (template is not None and not isinstance(step.kernel.body, template)):
            continue
        places = [k for k, a in enumerate(step.buffers) if storage in (a.storage.name, a.storage.kind)]
        if places:
            buffers = list(step.buffers)
            buffers[places[0]] = replace(buffers[places[0]], offset=buffers[places[0]].offset + by)
            steps[i] = replace(step, buffers=tuple(buffers))
            return replace(program, steps=tuple(steps))
    raise AssertionError(f"no launch takes {storage}")


def pointwise() -> Graph:
    x = Input("x", TensorType(f32, (N, 7)))
    return Graph((x,), (("y", Exp(Add(x, x))),), "pointwise", {"n": (1, 100)})


def product() -> Graph:
    x = Input("x", TensorType(f32, (N, 19)))
    return Graph((x,), (("y", Relu(MatMul(x, constant(random(19, 37))))),), "product", {"n": (1, 100)})


def convolution() -> Graph:
    x = Input("x", TensorType(f32, (1, 9, 9, 5)))
    node = Conv(x, constant(random(13, 5, 3, 3)), None, (2, 2), (0, 0, 0, 0), (1, 1), 1, True)
    return Graph((x,), (("y", node),), "convolution")


def depthwise() -> Graph:
    x = Input("x", TensorType(f32, (1, 9, 9, 11)))
    node = Conv(x, constant(random(11, 1, 3, 3)), None, (1, 1), (0, 0, 0, 0), (1, 1), 11, True)
    return Graph((x,), (("y", node),), "depthwise")


def attention() -> Graph:
    q, k, v = (Input(name, TensorType(f32, (2, N, 16))) for name in "qkv")
    return Graph((q, k, v), (("y", Attention(q, k, v, None, 0.25, "none")),), "attention", {"n": (1, 100)})


def rows() -> Graph:
    x = Input("x", TensorType(f32, (N, 21)))
    return Graph((x,), (("y", Softmax(x, 1)),), "rows", {"n": (1, 100)})


CASES: list[tuple[Callable[[], Graph], str, Dim, type | None]] = [
    (pointwise, "x", 1, None),
    (pointwise, "y", -1, None),
    (pointwise, "x", N * 7, None),
    (product, "x", 1, Contraction),
    (product, "y", -2, Contraction),
    (product, "weight", -1, Contraction),
    (convolution, "y", 1, Contraction),
    (depthwise, "x", 2, Depthwise),
    (depthwise, "weight", 1, Depthwise),
    (attention, "k", 1, AttentionTemplate),
    (attention, "v", -1, AttentionTemplate),
    (attention, "y", 3, AttentionTemplate),
    (rows, "y", 1, None),
]


def feed_of(graph: Graph, n: int = 3) -> dict[str, Array]:
    return {x.label: random(*(n if d == N else int(d) for d in x.shape)) for x in graph.inputs}


@pytest.mark.parametrize(("make", "storage", "by", "template"), CASES, ids=lambda c: getattr(c, "__name__", str(c)))
def test_planted_offsets_are_found(make: Callable[[], Graph], storage: str, by: Dim, template: type | None) -> None:
    graph = make()
    feed, program = feed_of(graph), lowered(graph)
    wrong = moved(program, storage, by, template)
    names = next(s for s in program.storages if storage in (s.name, s.kind))
    with pytest.raises(ExecutionError, match="outside its"):
        run_program(wrong, feed)
    artifact = built(wrong)
    for threads in (1, 2):
        with artifact.session(threads=threads) as session, pytest.raises(RuntimeFault) as found:
            session.run(feed)
        assert f"elements (f32) of the {names.kind} {names.name}: element " in str(found.value)


@pytest.mark.parametrize("make", [pointwise, product, convolution, depthwise, attention, rows])
def test_sound_programs_run_as_before(make: Callable[[], Graph]) -> None:
    graph = make()
    program = lowered(graph)
    checked, plain = built(program), built(program, PLAIN)
    for feed in (feed_of(graph, 1), feed_of(graph, 3)):
        want = evaluate_graph(graph, feed)["y"]
        with checked.session(threads=2) as session, plain.session(threads=1) as other:
            have = session.run(feed)["y"]
            assert have.tobytes() == other.run(feed)["y"].tobytes()
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


def test_the_message_names_everything() -> None:
    source = """<ir_version: 8, opset_import: ["" : 17]>
    doubled (float[n, 7] x) => (float[n, 7] y) { double = Add(x, x)  y = Exp(double) }"""
    program = moved(lowered(load_onnx(parser.parse_model(source))), "y", 5)
    launch = next(iter(program.launches()))
    with pytest.raises(RuntimeFault) as found:
        ran(program, {"x": random(3, 7)})
    (buffer,) = (b.name for b, a in zip(launch.kernel.buffers, launch.buffers, strict=True) if a.storage.name == "y")
    assert str(found.value).startswith(
        f"kernel {launch.kernel.name}: an access through {buffer} is outside the 7*n elements (f32) of the output y, "
        f"from {', '.join(launch.origin)}: element "
    )
    assert str(found.value).endswith(", where n is 3")


def test_what_is_refused_is_not_performed_and_the_session_goes_on() -> None:
    """Memory around an output is not touched, and the next run is none the worse."""
    program = moved(lowered(pointwise()), "y", 4)
    around = np.full(64, 7, np.float32)
    x = random(3, 7)
    with built(program).session(threads=1) as session:
        run = session.bind({"x": x}, {"y": around[16:37].reshape(3, 7)})
        for _ in range(2):
            with pytest.raises(RuntimeFault, match="element 2"):
                run()
        assert np.all(around[:16] == 7) and np.all(around[37:] == 7)
        with pytest.raises(RuntimeFault, match="where n is 5"):
            session.run({"x": random(5, 7)})


# -- kernels by hand --------------------------------------------------------------------------------------------------


def gathering(extent: int = 5, *extra: Stmt) -> Program:
    """y[i] = x[index[i]], without a look at the index; x is a temporary between two others in the arena."""
    x = Storage("x", "input", f32, 6, TensorType(f32, (6,)))
    index = Storage("index", "input", i64, extent, TensorType(i64, (extent,)))
    y = Storage("y", "output", f32, extent, TensorType(f32, (extent,)))
    at = (Let("at", Load("index", symbol("i"))), Store("y", symbol("i"), Load("x", symbol("at"))))
    kernel = Kernel(
        "gathering",
        (Buffer("x", f32), Buffer("index", i64), Buffer("y", f32, "write")),
        (),
        (),
        (For("i", extent, (*at, *extra), "vector" if not extra else "serial"),),
    )
    return Program("gathering", (x, index, y), (Launch(kernel, (Argument(x), Argument(index), Argument(y)), ()),))


@pytest.mark.parametrize("extent", [1, 8, 33])
def test_an_index_from_data(extent: int) -> None:
    index = np.arange(extent) % 6
    feed = {"x": random(6), "index": index}
    with built(gathering(extent)).session(threads=1) as session:
        np.testing.assert_array_equal(session.run(feed)["y"], feed["x"][index])
        for bad in (-1, 6, 1 << 40, -(1 << 61), (1 << 61) - 1):
            feed["index"] = np.where(np.arange(extent) == extent - 1, bad, index)
            with pytest.raises(RuntimeFault, match="an access through x is outside the 6 elements") as found:
                session.run(feed)
            if abs(bad) < 1 << 41:
                assert str(found.value).endswith(f"element {bad}")


@pytest.mark.parametrize(("at", "element"), [(0, 0), (3, 0), (4, 6), (9, 11), (-1, -1), (-5, -5), (1 << 40, None)])
def test_neighbours_are_checked_together(at: int, element: int | None) -> None:
    """Accesses a constant apart: the one at fault is named, whichever comes first, and none is performed."""
    index = Storage("index", "input", i64, 1, TensorType(i64, (1,)))
    y = Storage("y", "output", f32, 6, TensorType(f32, (6,)))
    places = [symbol("at") + by for by in (1, 0, 2)]
    cleared = For("i", 6, (Store("y", symbol("i"), Const(0.0, f32)),))
    stores = (Store("y", place, Const(float(i + 1), f32)) for i, place in enumerate(places))
    kernel = Kernel(
        "neighbours",
        (Buffer("index", i64), Buffer("y", f32, "write")),
        (),
        (),
        (cleared, Let("at", Load("index", 0)), *stores),
    )
    program = Program("neighbours", (index, y), (Launch(kernel, (Argument(index), Argument(y)), ()),))
    feed = {"index": np.array([at])}
    if 0 <= at <= 3:
        expected = np.zeros(6, np.float32)
        expected[at : at + 3] = 2, 1, 3
        np.testing.assert_array_equal(ran(program, feed)["y"], expected)
        return
    around = np.full(64, 7, np.float32)
    with built(program).session(threads=1) as session:
        run = session.bind(feed, {"y": around[16:22]})
        with pytest.raises(RuntimeFault, match="an access through y is outside the 6 elements") as found:
            run()
    assert np.all(around[:16] == 7) and np.all(around[22:] == 7)
    if element is not None:
        assert str(found.value).endswith(f"element {element}")


def test_a_tile_is_checked_by_few_comparisons() -> None:
    """Of the hundreds of accesses in the inner loop of a product, those of one row or panel share a check."""
    program = checked_program(lowered(product()))
    launch = next(step for step in program.launches() if isinstance(step.kernel.body, Contraction))
    module = new_module("product", LEVEL)
    text = str(emit_kernel(module, launch.kernel, LEVEL))
    assert text.count("ptrtoint") / 2 < (text.count(" load ") + text.count(" store ")) / 3


def test_arrays_on_the_stack() -> None:
    for size, fits in ((6, True), (4, False)):
        place = symbol("at")
        extra = (
            Scratch("room", f32, size),
            Store("room", place, Const(1.0, f32)),
            Store("y", symbol("i"), Load("room", place)),
        )
        program = gathering(5, *extra)
        feed = {"x": random(6), "index": np.array([0, 5, 3, 2, 1])}
        if fits:
            assert ran(program, feed)["y"].tolist() == [1.0] * 5
        else:
            with pytest.raises(
                RuntimeFault, match="kernel gathering: an access is outside an array on its stack: element 5"
            ):
                ran(program, feed)


def test_masked_lanes_are_judged_alone() -> None:
    """The last vector of a loop reaches beyond the buffer with lanes that are off."""
    n = symbol("n")
    x = Storage("x", "input", f32, n, TensorType(f32, (n,)))
    y = Storage("y", "output", f32, n, TensorType(f32, (n,)))
    value = Call("exp", (Load("x", symbol("i")),), f32)
    kernel = Kernel(
        "masked",
        (Buffer("x", f32), Buffer("y", f32, "write")),
        ("m",),
        (),
        (For("i", symbol("m"), (Store("y", symbol("i"), value),), "vector"),),
    )

    def program(count: Dim) -> Program:
        return Program("masked", (x, y), (Launch(kernel, (Argument(x), Argument(y)), (count,)),), {"n": (0, 100)})

    with built(program(n)).session(threads=1) as sound, built(program(n + 1)).session(threads=1) as wrong:
        for extent in (1, 7, 8, 9, 31):
            feed = {"x": random(extent)}
            np.testing.assert_allclose(sound.run(feed)["y"], np.exp(feed["x"]), rtol=1e-6)
            with pytest.raises(
                RuntimeFault, match=rf"outside the n elements .*: element {extent}, where n is {extent}"
            ):
                wrong.run(feed)


def test_conditions_protect() -> None:
    """An access that does not happen is no violation."""
    x = Storage("x", "input", f32, 4, TensorType(f32, (4,)))
    y = Storage("y", "output", f32, 9, TensorType(f32, (9,)))
    i = symbol("i")
    there = Call("lt", (Index(i), Const(4, i64)), boolean)
    body = When(there, (Store("y", i, Load("x", i)),), (Store("y", i, Const(0.0, f32)),))
    kernel = Kernel("guarded", (Buffer("x", f32), Buffer("y", f32, "write")), (), (), (For("i", 9, (body,), "vector"),))
    program = Program("guarded", (x, y), (Launch(kernel, (Argument(x), Argument(y)), ()),))
    feed = {"x": random(4)}
    np.testing.assert_array_equal(ran(program, feed)["y"], [*feed["x"], 0, 0, 0, 0, 0])


def test_memory_never_written_shows() -> None:
    """A temporary whose producer is left out is NaN, not what happens to be there."""
    x = Input("x", TensorType(f32, (3, 21)))
    graph = Graph((x,), (("y", MatMul(Softmax(x, 1), constant(random(21, 4)))),), "late")
    program = lowered(graph)
    feed = {"x": random(3, 21)}
    assert np.isfinite(ran(program, feed)["y"]).all()
    assert np.isnan(ran(replace(program, steps=program.steps[1:]), feed)["y"]).all()


def test_sizes_from_data() -> None:
    """The extents of late storages are those of the run."""
    source = """<ir_version: 8, opset_import: ["" : 17]>
    chosen (float[n] x) => (float[m] y) {
        mask = Cast<to = 9>(x)  all = Compress<axis = 0>(x, mask)  y = Add(all, all)
    }"""
    with compile(parser.parse_model(source), checked=True).session(threads=1) as session:
        for values in ([1.0, 0.0, 2.0, 0.0], [0.0], [3.0] * 40):
            have = session.run({"x": np.array(values, np.float32)})["y"]
            np.testing.assert_array_equal(have, [2 * v for v in values if v])


# -- custom operators -------------------------------------------------------------------------------------------------


def test_routines_get_arrays_that_are_inside() -> None:
    def doubled(x, y):
        for i in range(x.shape[0]):
            y[i] = 2 * x[i]

    operator = custom_op("test::Doubled", form="loops", infer=lambda x: x)(doubled)
    x = Input("x", TensorType(f32, (N,)))
    program = lowered(Graph((x,), (("y", operator(x)),), "custom", {"n": (0, 100)}))
    for count in (0, 1, 9):
        feed = {"x": random(count)}
        np.testing.assert_array_equal(ran(program, feed)["y"], 2 * feed["x"])
    with pytest.raises(RuntimeFault, match=r"an access through .* is outside the n elements"):
        ran(moved(program, "y", 1), {"x": random(9)})


def test_routines_check_their_indices() -> None:
    def beyond(x, y):
        for i in range(x.shape[0]):
            y[i + 1] = x[i]

    operator = custom_op("test::Beyond", form="loops", infer=lambda x: x)(beyond)
    x = Input("x", TensorType(f32, (N,)))
    graph = Graph((x,), (("y", operator(x)),), "custom")
    with (
        compile(graph, checked=True).session(threads=1) as session,
        pytest.raises(RuntimeFault, match="reports an error"),
    ):
        session.run({"x": random(4)})


# -- what is refused, what stays as it is -----------------------------------------------------------------------------


def test_addresses_of_unknown_origin_are_refused() -> None:
    """No access gets by: what cannot be traced is an error of the compiler."""
    kernel = next(iter(checked_program(gathering()).launches())).kernel

    def emitted(write: Callable[[ir.IRBuilder, ir.Module, ir.Value], None]) -> None:
        module = new_module("m", LEVEL)
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, I64]), "k")
        b = ir.IRBuilder(function.append_basic_block("entry"))
        pointers = {buffer.name: (b.load(function.args[0], typ=PTR), buffer.dtype) for buffer in kernel.buffers}
        values = {name: b.load(function.args[0], typ=I64) for name in kernel.dims}
        write(b, module, pointers["x"][0])
        b.ret_void()
        check_accesses(function, kernel, pointers, values)

    def loaded(b: ir.IRBuilder, module: ir.Module, x: ir.Value) -> None:
        b.load(b.load(x, typ=PTR), typ=F32)

    def made(b: ir.IRBuilder, module: ir.Module, x: ir.Value) -> None:
        b.store(F32(0), b.inttoptr(I64(64), PTR))

    def handed_on(b: ir.IRBuilder, module: ir.Module, x: ir.Value) -> None:
        b.call(ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR]), "other"), [x])

    def mixed(b: ir.IRBuilder, module: ir.Module, x: ir.Value) -> None:
        room = b.alloca(F32)
        room.type = PTR
        b.load(b.select(ir.IntType(1)(1), x, room), typ=F32)

    def swapped(b: ir.IRBuilder, module: ir.Module, x: ir.Value) -> None:
        b.atomic_rmw("add", x, I32(1), "monotonic")

    for write in (loaded, made, handed_on, mixed, swapped):
        with pytest.raises(IrError, match="cannot be checked"):
            emitted(write)
    emitted(lambda b, module, x: None)


def test_steps_are_checked_when_compiled() -> None:
    flag = Storage("flag", "input", boolean, 1, TensorType(boolean, ()))
    program = replace(gathering(), steps=(Branch(Argument(flag, 1), (), ()),))
    with pytest.raises(IrError, match="a branch's condition is element 1 of flag, which has 1 elements"):
        checked_program(program)
    with pytest.raises(IrError, match="does not know the extents"):
        emit_kernel(new_module("m", LEVEL), next(iter(gathering().launches())).kernel, LEVEL)


def test_unchecked_code_has_nothing_of_it() -> None:
    program = lowered(rows())
    plain, checked = built(program, PLAIN), built(program)
    assert not plain.manifest.checked and checked.manifest.checked
    assert len(plain.manifest.args) == len(argument_table(program)) < len(checked.manifest.args)
    assert plain.manifest.faults == program.faults and len(checked.manifest.faults) > len(program.faults)
    for before, after in zip(program.launches(), checked_program(program).launches(), strict=True):
        assert kernel_text(before.kernel) != kernel_text(after.kernel)
        assert after.dims[: len(before.dims)] == before.dims and after.kernel.body is before.kernel.body
        module = new_module("m", PLAIN)
        emit_kernel(module, before.kernel, PLAIN)
        assert "checked" not in str(module) and "ptrtoint" not in str(module)
    assert level_text(PLAIN) != level_text(LEVEL)  # what kernels are kept under in the cache


def test_artifacts_on_disk(tmp_path: Path) -> None:
    feed = {"x": random(3, 7)}
    artifact = compile(pointwise(), checked=True)
    artifact.save(tmp_path / "model.ingot")
    with Session(tmp_path / "model.ingot", threads=2) as session, compile(pointwise()).session(threads=2) as plain:
        assert session.metadata["provenance"]["checked"] is True
        assert "checked" not in plain.metadata["provenance"]
        for _ in range(2):
            assert session.run(feed)["y"].tobytes() == plain.run(feed)["y"].tobytes()
    document = json.loads(artifact.manifest.encode())
    assert parse_manifest(json.dumps(document).encode()).checked
    for value in (False, 1, None):
        with pytest.raises(ArtifactError, match="checked is not true"):
            parse_manifest(json.dumps({**document, "checked": value}).encode())


def test_other_targets() -> None:
    with pytest.raises(TargetError, match="libraries for C have no checks"):
        compile_library(model_path(), checked=True)
    with pytest.raises(TargetError, match="null makes no code"):
        compile(model_path(), target="null", checked=True)
    images = {"image": held_out()[0][:2]}
    with compile(model_path(), target="interpreter", checked=True).session() as session:
        assert session.run(images)["logits"].shape == (2, 10)


def test_words_of_the_status() -> None:
    for number in (1, FOUND - 1):
        assert found_by_check(number) is None
        for place in (0, 5, -1, -(1 << 41), 1 << 41):
            assert found_by_check((place << PLACE_SHIFT) | FOUND | number) == (number, place)


def test_sizes_of_types() -> None:
    assert [size_of(t) for t in (I8, I32, ir.VectorType(F32, 3), ir.IntType(1), PTR)] == [1, 4, 12, 1, 8]
    with pytest.raises(IrError, match="cannot be checked"):
        size_of(ir.ArrayType(F32, 2))
