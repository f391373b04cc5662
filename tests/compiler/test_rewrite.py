"""The rule engine: dispatch, sweeps, types, origins, sub-graphs, firing numbers, and rules that never settle."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input, Node, Result, Value, constant, node_of
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.control import If
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.movement import Split
from ingot.compiler.ops.pointwise import Abs, Add, Exp, Greater, Identity, Mul, Neg, Pointwise, Relu, Sigmoid, Sub
from ingot.compiler.ops.reduction import ReduceMax
from ingot.compiler.rewrite import (
    CycleError,
    Patch,
    RewriteError,
    Trace,
    rebuild,
    rewrite,
    rule_classes,
    rule_name,
    substitute,
)
from ingot.runtime.dtypes import f32, f64

X = Input("x", TensorType(f32, (symbol("batch"), 4)), origin=("x",))


def graph_of(*values: Value, inputs: tuple[Input, ...] = (X,)) -> Graph:
    return Graph(inputs, tuple((f"y{i}", v) for i, v in enumerate(values)))


def ops(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes()]


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


def negate_twice(node: Neg | Abs, graph: Graph) -> Patch | None:
    """neg(neg(x)) -> x, abs(neg(x)) -> abs(x)"""
    match node:
        case Neg(Neg(x)):
            return {node: x}
        case Abs(Neg(x)):
            return {node: Abs(x)}
        case _:
            return None


class TestDispatch:
    def test_class_union_and_base(self) -> None:
        def any_pointwise(node: Pointwise, graph: Graph) -> Patch | None:
            return None

        def anything(node: Node, graph: Graph) -> Patch | None:
            return None

        assert rule_classes(drop_double_relu) == (Relu,)
        assert rule_classes(negate_twice) == (Neg, Abs)
        assert rule_classes(any_pointwise) == (Pointwise,)
        assert rule_classes(anything) == (Node,)

    def test_base_class_sees_subclasses_and_node_sees_all(self) -> None:
        seen: list[str] = []

        def look(node: Pointwise, graph: Graph) -> Patch | None:
            seen.append(node.name)
            return None

        graph = graph_of(ReduceMax(Add(Relu(X), X), (1,), False))
        assert rewrite(graph, [look]) is graph
        assert seen == ["relu", "add"]

    def test_partial_and_object(self) -> None:
        class Drop:
            def __call__(self, node: Relu, graph: Graph) -> Patch | None:
                return drop_double_relu(node, graph)

        def configured(node: Identity, graph: Graph, keep: bool) -> Patch | None:
            return None if keep else {node: node.x}

        never, always = functools.partial(configured, keep=True), functools.partial(configured, keep=False)
        assert rule_name(always) == "configured" and rule_name(Drop()) == "Drop"
        assert ops(rewrite(graph_of(Relu(Relu(X))), [Drop()])) == ["input", "relu"]
        assert ops(rewrite(graph_of(Relu(Identity(X))), [never])) == ["input", "identity", "relu"]
        assert ops(rewrite(graph_of(Relu(Identity(X))), [always])) == ["input", "relu"]

    def test_without_annotation(self) -> None:
        with pytest.raises(TypeError, match="annotate its first parameter"):
            rewrite(graph_of(Relu(X)), [lambda node, graph: None])

        def wrong(node: int, graph: Graph) -> Patch | None:
            return None

        with pytest.raises(TypeError, match="rule wrong"):
            rewrite(graph_of(Relu(X)), [wrong])


class TestSweeps:
    def test_untouched_graph_is_the_same_object(self) -> None:
        graph = graph_of(Relu(Neg(X)))
        assert rewrite(graph, [drop_double_relu, negate_twice]) is graph

    def test_chain_settles(self) -> None:
        value: Value = X
        for _ in range(50):
            value = Relu(value)
        graph = rewrite(graph_of(value), [drop_double_relu])
        assert ops(graph) == ["input", "relu"]
        feed = {"x": np.array([[-1, 2, np.nan, np.inf]], np.float32)}
        np.testing.assert_array_equal(evaluate_graph(graph, feed)["y0"], [[0, 2, np.nan, np.inf]])

    def test_rules_see_settled_use_counts(self) -> None:
        """Only where relu has one reader may it go into it; the count changes from sweep to sweep."""
        fired: list[int] = []

        def absorb(node: Exp, graph: Graph) -> Patch | None:
            match node:
                case Exp(Relu(x) as inner):
                    fired.append(graph.uses()[inner])
                    return {node: Sigmoid(x)} if graph.uses()[inner] == 1 else None
                case _:
                    return None

        relu = Relu(X)
        graph = rewrite(graph_of(Add(Exp(relu), Identity(relu))), [absorb])
        assert ops(graph) == ["input", "relu", "exp", "identity", "add"]
        graph = rewrite(graph_of(Exp(relu), Exp(Identity(relu))), [absorb, drop_identity])
        assert ops(graph) == ["input", "relu", "exp", "exp"]
        assert set(fired) == {2}

    def test_first_rule_wins_and_conflicts_wait(self) -> None:
        split = Split(X, 1, (2, 2))

        def swap_uses(node: Add, graph: Graph) -> Patch | None:
            """add(a, b) with results of one split: both adds want to replace the split's first result"""
            a = node.a
            if not isinstance(a, Result) or a.index or not isinstance(node.b, Result):
                return None
            other = a.node.result(1)
            return {a: Relu(other), node: Mul(Relu(other), other)}

        first, second = Add(split.result(0), split.result(1)), Add(split.result(0), split.result(1))
        trace = Trace()
        graph = rewrite(graph_of(first, second), [swap_uses], trace=trace)
        assert len(trace.firings) == 1  # the second add no longer reads result 0 in the next sweep
        assert sorted(ops(graph)) == ["add", "input", "mul", "relu", "relu", "split"]

    def test_what_finds_nothing_is_not_tried_again_in_a_compile(self) -> None:
        tried: list[Node] = []

        def look(node: Add, graph: Graph) -> Patch | None:
            tried.append(node)
            return None

        def drop(node: Neg, graph: Graph) -> Patch | None:
            return {node: node.x}

        trace, graph = Trace(), graph_of(Neg(Add(X, X)))
        assert rewrite(graph, [look], trace=trace) is rewrite(graph, [look], trace=trace) is graph
        assert len(tried) == 1
        rewrite(graph, [look])  # another compile
        rewrite(graph, [look], trace=Trace())
        assert len(tried) == 3
        changed = rewrite(graph, [look, drop], trace=trace)  # other rules: both sweeps
        assert len(tried) == 5
        assert rewrite(changed, [look], trace=trace) is changed
        assert len(tried) == 6
        stopped = Trace(stop_at=0)
        rewrite(graph, [drop], trace=stopped)
        assert not stopped.settled

    def test_patches_of_one_sweep_compose(self) -> None:
        """Each replacement refers to values that other patches of the same sweep replace."""

        def to_mul(node: Add, graph: Graph) -> Patch | None:
            return {node: Mul(node.a, node.b)}

        y = Add(X, X)
        z = Add(y, X)
        w = Add(z, y)
        graph = rewrite(graph_of(w), [to_mul])
        assert ops(graph) == ["input", "mul", "mul", "mul"]
        x = np.array([[1, -2, 3, 0.5]], np.float32)
        np.testing.assert_array_equal(evaluate_graph(graph, {"x": x})["y0"], x**5)

    def test_patches_that_together_make_a_cycle(self) -> None:
        """a and b are the same; replacing each by something of the other must not tie a knot."""

        def lean_on_twin(node: Relu, graph: Graph) -> Patch | None:
            twin = next((n for n in graph.nodes() if isinstance(n, Relu) and n is not node), None)
            return {node: Identity(twin)} if twin is not None else None

        graph = rewrite(graph_of(Relu(X), Relu(X)), [lean_on_twin])
        assert sorted(ops(graph)) == ["identity", "input", "relu"]

    def test_deep_graph(self) -> None:
        value: Value = X
        for _ in range(20_000):
            value = Identity(value)
        assert ops(rewrite(graph_of(Relu(value)), [drop_identity])) == ["input", "relu"]

    def test_several_results_at_once(self) -> None:
        def other_split(node: Split, graph: Graph) -> Patch | None:
            return {node: Split(Relu(node.x), node.axis, node.sizes)} if not isinstance(node.x, Relu) else None

        split = Split(X, 1, (1, 3))
        graph = rewrite(graph_of(split.result(1), split.result(0)), [other_split])
        assert ops(graph) == ["input", "relu", "split"]
        assert graph.results[0].shape == (symbol("batch"), 3)


class TestErrors:
    def test_type_change(self) -> None:
        def widen(node: Relu, graph: Graph) -> Patch | None:
            return {node: Input("other", TensorType(f64, node.type.shape))}

        with pytest.raises(RewriteError, match=r"rule widen on relu \(r1\).*f32\[batch, 4\].*f64\[batch, 4\]") as error:
            rewrite(graph_of(Relu(X, origin=("r1",))), [widen])
        assert error.value.rule == "widen" and error.value.node == "relu (r1)"

    def test_rule_raises(self) -> None:
        def broken(node: Relu, graph: Graph) -> Patch | None:
            raise KeyError("scale")

        with pytest.raises(RewriteError, match=r"rule broken failed on relu: KeyError: 'scale'"):
            rewrite(graph_of(Relu(X)), [broken])

    def test_foreign_value(self) -> None:
        def foreign(node: Relu, graph: Graph) -> Patch | None:
            return {Neg(X): node}

        with pytest.raises(RewriteError, match="neg is not part of the graph"):
            rewrite(graph_of(Relu(X)), [foreign])

    def test_replacement_depends_on_replaced(self) -> None:
        def wrap(node: Relu, graph: Graph) -> Patch | None:
            return {node: Neg(node)}

        with pytest.raises(RewriteError, match="depends on the value it replaces"):
            rewrite(graph_of(Relu(X)), [wrap])

    def test_oscillation_names_both_rules(self) -> None:
        def to_sub(node: Add, graph: Graph) -> Patch | None:
            return {node: Sub(node.a, Neg(node.b))}

        def to_add(node: Sub, graph: Graph) -> Patch | None:
            match node:
                case Sub(a, Neg(b)):
                    return {node: Add(a, b)}
                case _:
                    return None

        with pytest.raises(RewriteError, match=r"undo each other: to_\w+ .*, to_\w+"):
            rewrite(graph_of(Add(X, X)), [to_sub, to_add])

    def test_endless_growth(self) -> None:
        def grow(node: Relu, graph: Graph) -> Patch | None:
            return {node: Relu(Neg(Neg(node.x)))}

        with pytest.raises(RewriteError, match="never settle: grow"):
            rewrite(graph_of(Relu(X)), [grow])

    def test_missing_results(self) -> None:
        def half(node: Split, graph: Graph) -> Patch | None:
            return {node: Relu(node.x)}

        with pytest.raises(RewriteError, match="2 results; replace each"):
            rewrite(graph_of(Split(X, 1, (2, 2)).result(0)), [half])


class TestOrigins:
    def test_new_node_gets_origins_of_the_whole_pattern(self) -> None:
        def to_sigmoid(node: Exp, graph: Graph) -> Patch | None:
            match node:
                case Exp(Neg(Abs(x))):
                    return {node: Sigmoid(Relu(x))}
                case _:
                    return None

        pattern = Exp(Neg(Abs(X, origin=("a",)), origin=("n",)), origin=("e", "e2"))
        graph = rewrite(graph_of(pattern), [to_sigmoid])
        assert {n.name: n.origin for n in graph.nodes()} == {
            "input": ("x",),
            "relu": ("e", "e2", "n", "a"),
            "sigmoid": ("e", "e2", "n", "a"),
        }

    def test_own_origin_is_kept(self) -> None:
        def rename(node: Neg, graph: Graph) -> Patch | None:
            return {node: Relu(node.x, origin=("mine",))}

        graph = rewrite(graph_of(Neg(X, origin=("theirs",))), [rename])
        assert node_of(graph.results[0]).origin == ("mine",)

    def test_existing_replacement_without_origin_inherits(self) -> None:
        graph = rewrite(graph_of(Relu(Relu(X), origin=("outer",))), [drop_double_relu])
        assert node_of(graph.results[0]).origin == ("outer",)
        graph = rewrite(graph_of(Relu(Relu(X, origin=("inner",)), origin=("outer",))), [drop_double_relu])
        assert node_of(graph.results[0]).origin == ("inner",)

    def test_constant_in_place_of_a_subtree_is_not_named_after_what_it_reads(self) -> None:
        def fold(node: Sub, graph: Graph) -> Patch | None:
            return {node: constant(np.zeros((4,), np.float32))}

        x = Input("x", TensorType(f32, (4,)))
        inner = Exp(x, origin=("far",))
        graph = rewrite(graph_of(Sub(inner, inner, origin=("near",)), inputs=(x,)), [fold])
        assert node_of(graph.results[0]).origin == ("near",)


class TestSubgraphs:
    def body(self, label: str) -> Graph:
        inner = Input(label, TensorType(f32, (4,)))
        return Graph((inner,), (("o", Relu(Relu(inner))),), label)

    def test_bodies_are_rewritten(self) -> None:
        x = Input("x", TensorType(f32, (4,)))
        condition = Greater(ReduceMax(x, (0,), True), constant(np.zeros(1, np.float32)))
        nested = Graph((i := Input("i", TensorType(f32, (4,))),), (("o", Fused((i,), self.body("f"))),), "nested")
        branch = If(condition, (x,), self.body("t"), nested)
        graph = graph_of(branch, Relu(branch), inputs=(x,))
        trace = Trace()
        made = rewrite(graph, [drop_double_relu], trace=trace)
        found = next(n for n in made.nodes() if isinstance(n, If))
        assert ops(found.then_graph) == ["input", "relu"]
        inner = next(n for n in found.else_graph.nodes() if isinstance(n, Fused))
        assert ops(inner.body) == ["input", "relu"]
        assert len(trace.firings) == 2
        for feed in (np.array([-1, 0, 1, 2], np.float32), np.array([-1, -2, -3, np.nan], np.float32)):
            before, after = evaluate_graph(graph, {"x": feed}), evaluate_graph(made, {"x": feed})
            np.testing.assert_array_equal(before["y0"], after["y0"])
        assert rewrite(graph, [drop_double_relu], subgraphs=False) is graph


class TestTrace:
    def chain(self, n: int) -> Graph:
        value: Value = X
        for i in range(n):
            value = Identity(Relu(value), origin=(f"id{i}",))
        return graph_of(value)

    def test_numbers_run_on(self) -> None:
        trace = Trace()
        graph = rewrite(self.chain(3), [drop_identity], trace=trace, pass_name="first")
        rewrite(graph, [drop_double_relu], trace=trace, pass_name="second")
        assert [f.number for f in trace.firings] == [1, 2, 3, 4, 5]
        assert trace.firings[0].rule == "drop_identity" and trace.firings[0].node == "identity (id0)"
        assert {f.pass_name for f in trace.firings[3:]} == {"second"}
        assert str(trace.firings[0]) == "1: first/drop_identity on identity (id0)"

    @pytest.mark.parametrize("stop", range(7))
    def test_stop_at_gives_a_prefix(self, stop: int) -> None:
        full = Trace()
        rewrite(self.chain(3), [drop_identity, drop_double_relu], trace=full)
        part = Trace(stop_at=stop)
        graph = rewrite(self.chain(3), [drop_identity, drop_double_relu], trace=part)
        assert [f.node for f in part.firings] == [f.node for f in full.firings[:stop]]
        assert len(graph.nodes()) == 7 - min(stop, 5)


class TestRebuild:
    def test_sharing_is_kept(self) -> None:
        shared = Exp(Neg(X))
        graph = graph_of(Add(shared, Relu(shared)), shared)
        made = rebuild(graph, {node_of(shared.x): Abs(X)})
        assert ops(made) == ["input", "abs", "exp", "relu", "add"]

    def test_nothing_to_do(self) -> None:
        graph = graph_of(Relu(X))
        assert rebuild(graph, {}) is graph
        assert rebuild(graph, {Neg(X): X}) is graph

    def test_replacements_are_looked_through(self) -> None:
        a, b = Neg(X), Abs(X)
        assert ops(rebuild(graph_of(Relu(a)), {a: Exp(b), b: X})) == ["input", "exp", "relu"]

    def test_cycles(self) -> None:
        a, b = Neg(X), Abs(X)
        with pytest.raises(CycleError):
            rebuild(graph_of(a), {a: b, b: a})
        with pytest.raises(CycleError):
            rebuild(graph_of(a, b), {a: Exp(b), b: Exp(a)})

    def test_substitute_values(self) -> None:
        inner = Input("inner", X.declared)
        body = Relu(Neg(inner))
        (made,) = substitute((body,), {inner: X})
        assert ops(graph_of(made)) == ["input", "neg", "relu"]


def test_a_rule_must_give_a_mapping() -> None:
    def listing(node: Relu, graph: Graph) -> Patch | None:
        return [node.x]  # type: ignore[return-value]

    with pytest.raises(RewriteError, match=r"rule listing on .*a rule gives a patch .* not list") as caught:
        rewrite(graph_of(Relu(X)), [listing])
    assert caught.value.rule == "listing" and "relu" in caught.value.node.lower()
