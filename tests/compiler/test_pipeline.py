"""Pipelines: spelling, editing, running, dumps, reproducers, and validation down to the harmful rule."""

from __future__ import annotations

import enum
import sys
import types
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from ingot.compiler import pipeline as pipeline_module
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Constant, Graph, Input, Node, Value, constant, node_of
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.text.graph import parse_graph, show_graph
from ingot.compiler.ir.text.resources import WeightFolder
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.machine import AVX2
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Gather
from ingot.compiler.ops.pointwise import Add, Identity, Mul, Neg, Relu
from ingot.compiler.options import OptionError, show_options
from ingot.compiler.pipeline import PassReport, Pipeline, PipelineError, known_passes, load_pass
from ingot.compiler.rewrite import Patch, Trace
from ingot.compiler.single_pass import Named, PassError, as_pass, rules, spelling
from ingot.compiler.validate import ValidationError, compare, make_probes, validate_lowering
from ingot.runtime.dtypes import f32, i64

X = Input("x", TensorType(f32, (symbol("batch"), 4)), origin=("x",))


def array(dtype: type[Any], values: list[float]) -> np.ndarray[Any, Any]:
    return np.array(values, dtype)


def graph_of(*values: Value, inputs: tuple[Input, ...] = (X,)) -> Graph:
    return Graph(inputs, tuple((f"y{i}", v) for i, v in enumerate(values)), ranges={"batch": (1, 8)})


def drop_double_relu(node: Relu, graph: Graph) -> Patch | None:
    """relu(relu(x)) -> relu(x)"""
    match node:
        case Relu(Relu() as inner):
            return {node: inner}
        case _:
            return None


def drop_identity(node: Identity, graph: Graph) -> Patch | None:
    """identity(x) -> x"""
    return {node: node.x}


def nothing(graph: Graph) -> Graph:
    return graph


class Rounding(enum.Enum):
    nearest = 1
    down = 2


@dataclass(frozen=True)
class Quantize:
    """A pass with options of every kind."""

    name: ClassVar[str] = "quantize"
    scheme: Literal["int8", "int4"] = "int8"
    axis: int | None = None
    keep: tuple[str, ...] = ()
    factor: float = 1.0
    exact: bool = False
    note: str = ""
    rounding: Rounding = Rounding.nearest
    window: tuple[int, int] = (0, 1)

    def __call__(self, graph: Graph) -> Graph:
        return graph


REGISTRY: dict[str, Any] = {
    "nothing": nothing,
    "quantize": Quantize,
    "relu": rules(drop_double_relu, name="relu"),
    "identity": rules(drop_identity, name="identity"),
}


class TestSpelling:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "nothing",
            "nothing,relu,nothing",
            "quantize",
            "quantize{scheme=int4,axis=0}",
            'quantize{keep=(conv1,"a b","1","none"),factor=0.25,exact=true}',
            'quantize{factor=1e-07,note="x, {y}=\\"z\\"",rounding=down,window=(2,-3)},relu',
            "quantize{factor=inf}",
        ],
    )
    def test_round_trip(self, text: str) -> None:
        made = Pipeline.parse(text, REGISTRY)
        assert str(made) == text
        assert str(Pipeline.parse(str(made), REGISTRY)) == text

    def test_parsed_options(self) -> None:
        (item,) = Pipeline.parse(' quantize { scheme = "int4" , axis=-1, keep=(a, b) }', REGISTRY)
        assert item == Quantize(scheme="int4", axis=-1, keep=("a", "b"))
        (item,) = Pipeline.parse("quantize{axis=none}", REGISTRY)
        assert item == Quantize()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("quantise", "unknown pass 'quantise'; known: .*quantize.*module:attribute"),
            ("quantize{sceme=int8}", "no option 'sceme'; it has scheme, axis"),
            ("quantize{scheme=int2}", "option scheme must be .*int8.*int4.*, not int2"),
            ("quantize{axis=1.5}", r"option axis must be .*int.*, not 1\.5"),
            ("quantize{exact=yes}", "option exact must be bool, not yes"),
            ("quantize{window=(1,2,3)}", r"option window must be tuple\[int, int\], not \(1,2,3\)"),
            ("quantize{axis=1,axis=2}", "given twice"),
            ("quantize{axis=1", "expected '}', found 'the end'"),
            ("quantize{axis}", "expected '=', found '}'"),
            ("quantize}", "expected '{'"),
            ("relu,,relu", "empty pass name"),
            ("nothing{a=1}", "has no options"),
            ("rel?u", "unexpected '\\?u'"),
            ("missing_module_xyz:p", "no pass 'missing_module_xyz:p'"),
        ],
    )
    def test_errors(self, text: str, message: str) -> None:
        with pytest.raises(PipelineError, match=message):
            Pipeline.parse(text, REGISTRY)

    def test_options_that_cannot_be_written(self) -> None:
        @dataclass(frozen=True)
        class Odd:
            table: object = None

        with pytest.raises(OptionError):
            show_options(Odd(table={1: 2}))

    def test_third_party(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module: Any = types.ModuleType("third_party_passes")
        module.halve, module.Quantize = nothing, Quantize
        module.number = 3
        monkeypatch.setitem(sys.modules, "third_party_passes", module)
        text = "third_party_passes:halve,third_party_passes:Quantize{axis=2}"
        made = Pipeline.parse(text, REGISTRY)
        assert str(made) == text
        assert made.names == ("third_party_passes:halve", "third_party_passes:Quantize")
        assert len(made.without("third_party_passes:halve")) == 1
        assert load_pass("third_party_passes:halve") is nothing
        for reference in ("third_party_passes:gone", "third_party_passes:number"):
            with pytest.raises(PipelineError, match=reference):
                load_pass(reference)

    def test_entry_points(self, monkeypatch: pytest.MonkeyPatch) -> None:
        point = EntryPoint("shrink", f"{__name__}:nothing", "ingot.passes")
        monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, types.ModuleType(__name__)))
        monkeypatch.setattr(sys.modules[__name__], "nothing", nothing, raising=False)
        monkeypatch.setattr(pipeline_module, "entry_points", lambda group: [point] if group == "ingot.passes" else [])
        assert "shrink" in known_passes(REGISTRY)
        made = Pipeline.parse("shrink,relu", REGISTRY)
        assert str(made) == "shrink,relu"
        with pytest.raises(PipelineError, match=r"installed entry points of ingot\.passes: shrink"):
            load_pass("grow")


class TestEditing:
    base = Pipeline((nothing, rules(drop_identity), rules(drop_double_relu), nothing))

    def test_names(self) -> None:
        assert self.base.names == ("nothing", "drop_identity", "drop_double_relu", "nothing")
        assert str(self.base) == "nothing,drop_identity,drop_double_relu,nothing"

    def test_edits_make_new_pipelines(self) -> None:
        extra = Quantize(axis=1)
        twice = self.base.after("nothing", extra, extra)
        replaced = self.base.replace("nothing", extra)
        assert self.base.before("drop_double_relu", extra).names[2] == "quantize"
        assert twice.names[:4] == ("nothing", "quantize", "quantize", "drop_identity")
        assert self.base.without("nothing", "drop_identity").names == ("drop_double_relu",)
        assert replaced.names == ("quantize", "drop_identity", "drop_double_relu", "quantize")
        assert len(self.base) == 4

    @pytest.mark.parametrize("edit", ["before", "after", "without", "replace"])
    def test_unknown_names(self, edit: str) -> None:
        arguments = () if edit == "without" else (nothing,)
        with pytest.raises(PipelineError, match="no pass 'fuse' in the pipeline nothing,"):
            getattr(self.base, edit)("fuse", *arguments)

    def test_as_pass(self) -> None:
        @dataclass(frozen=True)
        class DropDead:
            limit: int = 3

            def __call__(self, graph: Graph) -> Graph:
                return graph

        assert as_pass(DropDead()).name == "drop_dead"
        assert spelling(as_pass(DropDead(limit=4))) == "drop_dead{limit=4}"
        assert spelling(Named(nothing, "other")) == "other"
        with pytest.raises(TypeError):
            as_pass(DropDead)  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError):
            rules()


class TestRunning:
    graph = graph_of(Relu(Relu(Identity(X, origin=("id",)), origin=("r1",)), origin=("r2",)))
    passes = Pipeline((nothing, rules(drop_identity), nothing, rules(drop_double_relu)))

    def test_reports_and_trace(self) -> None:
        reports: list[PassReport] = []
        trace = Trace()
        made = self.passes.run(self.graph, trace=trace, verbose=reports.append)
        assert [n.name for n in made.nodes()] == ["input", "relu"]
        assert [(r.index, r.changed, r.firings, r.nodes_after) for r in reports] == [
            (1, False, 0, 4),
            (2, True, 1, 3),
            (3, False, 0, 3),
            (4, True, 1, 2),
        ]
        assert [f.pass_name for f in trace.firings] == ["drop_identity", "drop_double_relu"]
        assert str(reports[1]).startswith("02 drop_identity: 4 -> 3 nodes, 1 firings, ")
        assert str(reports[2]).startswith("03 nothing: unchanged, ")

    def test_stop_at(self) -> None:
        made = self.passes.run(self.graph, trace=Trace(stop_at=1))
        assert [n.name for n in made.nodes()] == ["input", "relu", "relu"]

    def test_dump_only_changes(self, tmp_path: Path) -> None:
        weights = np.arange(32, dtype=np.float32).reshape(4, 8)
        graph = graph_of(MatMul(Identity(X), constant(weights)))
        self.passes.run(graph, dump_dir=tmp_path / "d")
        names = sorted(str(p.relative_to(tmp_path / "d")) for p in (tmp_path / "d").rglob("*") if p.is_file())
        assert names[:2] == ["00-import.ir", "02-drop_identity.ir"]
        assert len(names) == 3 and names[2].startswith("weights/") and names[2].endswith(".npy")
        text = (tmp_path / "d" / "02-drop_identity.ir").read_text()
        loaded = parse_graph(text, WeightFolder(tmp_path / "d" / "weights"))
        assert show_graph(loaded) == text
        (data,) = [n.data for n in loaded.nodes() if isinstance(n, Constant)]
        np.testing.assert_array_equal(data, weights)

    def test_print_after(self) -> None:
        printed: list[str] = []
        self.passes.run(self.graph, print_after=["drop_identity"], output=printed.append)
        assert len(printed) == 1 and printed[0].startswith("# after drop_identity\ngraph ")
        self.passes.run(self.graph, print_after=["all"], output=printed.append)
        assert len(printed) == 5
        with pytest.raises(PipelineError, match="cannot print after fuse"):
            self.passes.run(self.graph, print_after=["fuse"])

    def test_failing_rule(self, tmp_path: Path) -> None:
        def explode(node: Relu, graph: Graph) -> Patch | None:
            raise ZeroDivisionError("no scale")

        with pytest.raises(PassError) as error:
            self.passes.after("drop_identity", rules(explode)).run(self.graph, repro_dir=tmp_path)
        assert (error.value.pass_name, error.value.rule, error.value.node) == ("explode", "explode", "relu (r1)")
        assert error.value.repro == tmp_path / "repro.ir"
        command = f"ingot opt {tmp_path / 'repro.ir'} --pass explode"
        assert "no scale" in str(error.value) and command in str(error.value)
        text = (tmp_path / "repro.ir").read_text()
        assert text.startswith(f"# {command}\n")
        assert [n.name for n in parse_graph(text).nodes()] == ["input", "relu", "relu"]

    def test_failing_pass_shows_its_options(self, tmp_path: Path) -> None:
        @dataclass(frozen=True)
        class Fail(Quantize):
            name: ClassVar[str] = "fail"

            def __call__(self, graph: Graph) -> Graph:
                raise RuntimeError

        with pytest.raises(PassError, match=r"pass fail failed: RuntimeError\n.*--pass 'fail\{axis=3\}'"):
            Pipeline((Fail(axis=3),)).run(self.graph, repro_dir=tmp_path)

    def test_not_a_graph(self, tmp_path: Path) -> None:
        def forgets(graph: Graph) -> Graph:
            return None  # pyright: ignore[reportReturnType]

        with pytest.raises(PassError, match="returned NoneType, not a Graph"):
            Pipeline((forgets,)).run(self.graph, repro_dir=tmp_path)

    def test_verification_after_each_pass(self, tmp_path: Path) -> None:
        def leak(graph: Graph) -> Graph:
            return graph_of(Neg(Input("stray", X.declared)))

        with pytest.raises(PassError, match=r"pass leak failed: .*'stray'"):
            Pipeline((leak,)).run(self.graph, repro_dir=tmp_path)
        assert Pipeline((leak,)).run(self.graph, verify=False) is not self.graph

        def refuse(graph: Graph) -> None:
            if len(graph.nodes()) < 3:
                raise IrError("too small")

        with pytest.raises(PassError, match="drop_double_relu failed: too small"):
            self.passes.run(self.graph, verify=refuse, repro_dir=tmp_path)


def square_wrongly(node: Mul, graph: Graph) -> Patch | None:
    """x * x -> x + x for the third product only: right for 0 and 2"""
    return {node: Add(node.a, node.b)} if node.origin == ("m2",) else None


class TestValidation:
    def chain(self) -> Graph:
        value: Value = X
        for i in range(4):
            value = Identity(Mul(value, value, origin=(f"m{i}",)), origin=(f"i{i}",))
        return graph_of(value)

    def test_names_pass_rule_and_node(self, tmp_path: Path) -> None:
        passes = Pipeline((rules(drop_double_relu), rules(drop_identity, square_wrongly, name="mixed")))
        passes.run(self.chain(), repro_dir=tmp_path)
        with pytest.raises(ValidationError) as error:
            passes.run(self.chain(), validate=True, repro_dir=tmp_path)
        found = error.value
        assert (found.pass_name, found.rule, found.node, found.output) == ("mixed", "square_wrongly", "mul (m2)", "y0")
        assert "--verify" in str(found) and (tmp_path / "repro.ir").is_file()
        assert "by rule square_wrongly on mul (m2)" in str(found)

    def test_pass_without_rules(self) -> None:
        def negate(graph: Graph) -> Graph:
            return graph_of(Neg(graph.results[0]))

        with pytest.raises(ValidationError, match="pass negate changes the result: output 'y0' differs by 2 ") as error:
            Pipeline((nothing, negate)).run(self.chain(), validate=True)
        assert error.value.firing is None

    def test_lowering(self) -> None:
        def lowered(value: Value) -> tuple[Graph, Program]:
            graph = graph_of(value)
            return graph, lower(graph, AVX2)

        (graph, program), (other, _) = lowered(Mul(X, X)), lowered(Add(X, X))
        validate_lowering(graph, program)
        with pytest.raises(ValidationError, match="lowering changes the result: output 'y0' differs by ") as error:
            validate_lowering(other, program)
        assert (error.value.pass_name, error.value.output) == ("lower", "y0")

    def test_correct_and_lossy_passes(self) -> None:
        Pipeline((rules(drop_identity),)).run(self.chain(), validate=True)

        @dataclass(frozen=True)
        class Coarse:
            name: ClassVar[str] = "coarse"
            lossy: ClassVar[bool] = True

            def __call__(self, graph: Graph) -> Graph:
                return graph_of(Neg(graph.results[0]))

        Pipeline((Coarse(),)).run(self.chain(), validate=True)

    def test_own_probes(self) -> None:
        """Indices that no made-up probe would get right."""
        index = Input("index", TensorType(i64, (2,)))
        low = constant(np.array([-5, -5], np.int64))
        gathered = Gather(constant(np.arange(2, dtype=np.float32)), Add(index, low), 0)
        graph = graph_of(Identity(gathered), inputs=(index,))
        with pytest.raises(ValidationError, match=r"cannot be evaluated on the probe inputs .*hand in probes"):
            Pipeline((rules(drop_identity),)).run(graph, validate=True)
        probes = [{"index": np.array([5, 6], np.int64)}]
        Pipeline((rules(drop_identity),)).run(graph, validate=True, probes=probes)

    def test_changed_outputs(self) -> None:
        def rename(graph: Graph) -> Graph:
            return Graph(graph.inputs, (("z", node_of(graph.results[0])),), ranges=graph.ranges)

        with pytest.raises(ValidationError, match="became z"):
            Pipeline((rename,)).run(self.chain(), validate=True)

    @pytest.mark.parametrize(
        ("a", "b", "same"),
        [
            (array(np.float32, [1, np.nan, np.inf]), array(np.float32, [1, np.nan, np.inf]), True),
            (array(np.float32, [1, np.nan]), array(np.float32, [1, 2]), False),
            (array(np.float32, [1, np.inf]), array(np.float32, [1, -np.inf]), False),
            (array(np.float32, [1, 2]), array(np.float32, [1, np.inf]), False),
            (array(np.float32, [100, 1]), array(np.float32, [100, 1.005]), True),
            (array(np.float32, [100, 1]), array(np.float32, [100, 1.02]), False),
            (array(np.int32, [1, 2]), array(np.int32, [1, 3]), False),
            (array(np.int32, [1, 2]), array(np.int64, [1, 2]), False),
            (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), True),
            (np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32), False),
            (np.array(True), np.array(False), False),
        ],
    )
    def test_compare(self, a: Any, b: Any, same: bool) -> None:
        assert (compare({"y": a}, {"y": b}) is None) == same

    def test_probes_keep_to_ranges(self) -> None:
        other = Input("z", TensorType(i64, (symbol("seq"), 2 * symbol("batch"))))
        graph = Graph((X, other), (("y", X),), ranges={"seq": (7, 9), "batch": (1, 1)})
        first, second = make_probes(graph)
        assert first["x"].shape == (1, 4) and first["z"].shape == (7, 2) and first["z"].dtype == np.int64
        assert second["x"].shape == (1, 4) and not second["x"].any()


def test_node_is_the_base_of_rules() -> None:
    def rename(node: Node, graph: Graph) -> Patch | None:
        return None

    assert Pipeline((rules(rename, name="rename"),)).run(TestRunning.graph) is TestRunning.graph


def test_a_pass_that_returns_nothing_is_told_so(tmp_path: Path) -> None:
    def in_place(graph: Graph) -> Graph:
        return None  # type: ignore[return-value]

    x = Input("x", TensorType(f32, (2,)))
    graph = Graph((x,), (("y", Relu(x)),))
    with pytest.raises(PassError, match="in_place returned NoneType, not a Graph; graphs are not changed") as e:
        Pipeline([in_place]).run(graph, repro_dir=tmp_path)
    assert " at 0x" not in str(e.value)


def test_an_entry_point_named_like_a_pass_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", "nowhere:mine", pipeline_module.ENTRY_POINTS)
    monkeypatch.setattr(pipeline_module, "entry_points", lambda group: [point])
    with pytest.raises(PipelineError, match="two passes are named 'mine'"):
        Pipeline.parse("mine", {"mine": rules(_nothing)})


def _nothing(node: Relu, graph: Graph) -> Patch | None:
    return None


@pytest.mark.parametrize("reference", [":x", "json:", ":"])
def test_halves_of_references(reference: str) -> None:
    with pytest.raises(PipelineError, match="write module:attribute"):
        load_pass(reference)
