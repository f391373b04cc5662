"""Bisection finds the rule that was planted, and says where none is to blame."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from ingot.compiler import default_pipeline, load_onnx, rules
from ingot.compiler.cli import main
from ingot.compiler.debug.bisection import find_culprit, show_patch
from ingot.compiler.debug.trial import Trial
from ingot.compiler.ir.graph import Input, Node
from ingot.compiler.ops.pointwise import Add, Relu, Tanh


def test_a_model_that_does_not_fail_has_no_culprit(model: Path) -> None:
    assert find_culprit(Trial(), model) is None


def test_the_planted_rule_is_found(model: Path, faulty: str) -> None:
    module = importlib.import_module(faulty)
    pipeline = default_pipeline().after("simplify", rules(module.drop_relu, name="planted"))
    found = find_culprit(Trial(pipeline=pipeline), model)
    assert found is not None and found.firing is not None
    assert (found.failure.kind, found.pass_name, found.firing.rule) == ("accuracy", "planted", "drop_relu")
    assert found.firing.node == "relu (keep)"
    assert "relu(%squash)" in found.before and "relu" not in found.after and "tanh" in found.after
    assert found.graph_is_right is False


def test_given_data_decide(model: Path, faulty: str) -> None:
    module = importlib.import_module(faulty)
    trial = Trial(pipeline=default_pipeline().after("simplify", rules(module.drop_relu)))
    assert find_culprit(trial, model, {"x": np.ones((3, 4), np.float32)}) is None
    assert find_culprit(trial, model, {"x": -np.ones((3, 4), np.float32)}) is not None


def test_a_rule_that_raises_is_named(model: Path, faulty: str) -> None:
    module = importlib.import_module(faulty)
    found = find_culprit(Trial(pipeline=default_pipeline().before("simplify", rules(module.throw_on_tanh))), model)
    assert found is not None and found.firing is not None
    assert (found.failure.kind, found.firing.rule, found.firing.node) == ("compile", "throw_on_tanh", "tanh (squash)")


def test_a_pass_without_rules_is_named(model: Path, faulty: str) -> None:
    module = importlib.import_module(faulty)
    found = find_culprit(Trial(pipeline=default_pipeline().after("layout", module.all_positive)), model)
    assert found is not None and found.firing is None
    assert (found.pass_name, found.graph_is_right) == ("all_positive", False)


def test_command(model: Path, faulty: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bisect", str(model), "--pass", f"after:simplify={faulty}:drop_relu", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["rule"], record["node"], record["graph_is_right"]) == ("drop_relu", "relu (keep)", False)
    assert main(["bisect", str(model), "--pass", f"{faulty}:swap_add", "--check", f"{faulty}:positive"]) == 0
    assert "nothing fails" in capsys.readouterr().out
    assert not Path("repro.ir").exists()


def test_patches_show_what_both_sides_share_as_inputs(model: Path) -> None:
    graph = load_onnx(model)
    by_class: dict[type[Node], Node] = {type(node): node for node in graph.nodes()}
    relu, total = by_class[Relu], by_class[Add]
    assert isinstance(total, Add)
    before, after = show_patch({total: Add(total.b, total.a)})
    assert "%keep = input" in before and "add(%keep, %x)" in before
    assert "add(%x, %keep)" in after and "relu" not in after
    before, after = show_patch({relu: by_class[Tanh]})
    assert "relu(%squash)" in before and "tanh(%x)" in before and "tanh(%x)" in after
    assert isinstance(graph.inputs[0], Input)
