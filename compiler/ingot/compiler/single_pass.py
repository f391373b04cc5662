"""A single pass: what it is, how it is called and spelled, and what a failing one leaves behind.

A pass is anything with a `name` that maps a Graph to a Graph: a plain function, `rules(...)`, or a frozen dataclass
whose fields are its options and whose spelling follows from them (``quantize{scheme=int8,axis=0}``). A pass that runs
rewrite rules should take ``trace: Trace | None = None`` by keyword and hand it to `rewrite`: then its firings are
numbered with all others of the compile.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, cast, runtime_checkable

from ingot.compiler.ir.graph import Graph
from ingot.compiler.options import show_options
from ingot.compiler.rewrite import RewriteError, Rule, Trace, rewrite, rule_classes, rule_name


@runtime_checkable
class Pass(Protocol):
    """A named step from graph to graph."""

    @property
    def name(self) -> str:
        """What pipelines, dumps and messages call the pass."""
        ...

    def __call__(self, graph: Graph) -> Graph:
        """The transformed graph, or `graph` itself where there is nothing to do."""
        ...


PassLike: TypeAlias = Pass | Callable[..., Graph]


class PassError(RuntimeError):
    """A pass failed or left an invalid graph. `pass_name`, `rule` and `node` say where ("" when not known);
    `repro` is the file with the graph before the pass, None when it could not be written."""

    def __init__(self, message: str, pass_name: str, rule: str = "", node: str = "", repro: Path | None = None) -> None:
        super().__init__(message)
        self.pass_name = pass_name
        self.rule = rule
        self.node = node
        self.repro = repro


@dataclass(frozen=True)
class Named:
    """A pass under a name of its own: a plain function, or a third-party pass by the reference it was loaded from."""

    target: Callable[..., Graph]
    name: str

    def __call__(self, graph: Graph, *, trace: Trace | None = None) -> Graph:
        return call_pass(self.target, graph, trace)


@dataclass(frozen=True)
class Rules:
    """A pass that applies rewrite rules until none fires."""

    functions: tuple[Rule, ...]
    name: str

    def __call__(self, graph: Graph, *, trace: Trace | None = None) -> Graph:
        return rewrite(graph, self.functions, trace=trace, pass_name=self.name)


def rules(*functions: Rule, name: str | None = None) -> Rules:
    """A pass out of rewrite rules, named after the first of them unless `name` says otherwise. Raises TypeError where
    a rule's first parameter is not annotated with node classes."""
    if not functions:
        raise TypeError("rules() needs at least one rule")
    for function in functions:
        rule_classes(function)
    return Rules(functions, name or rule_name(functions[0]))


def as_pass(thing: PassLike) -> Pass:
    """`thing` as a Pass: functions are named after themselves, dataclasses without a name after their class."""
    if isinstance(thing, type) or not callable(thing):
        raise TypeError(f"not a pass: {thing!r}; give a function Graph -> Graph or a pass object")
    if isinstance(thing, Named | Rules | Pass):  # the protocol last, which takes long to look at
        return thing
    name = getattr(thing, "__name__", None) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(thing).__name__).lower()
    return Named(thing, str(name))


def call_pass(target: Callable[..., object], graph: Graph, trace: Trace | None) -> Graph:
    """Call a pass, with the trace where it takes one. Raises TypeError when it does not give back a Graph."""
    result = target(graph, trace=trace) if _takes_trace(target) else target(graph)
    if not isinstance(result, Graph):
        name = getattr(target, "name", None) or getattr(target, "__name__", None) or type(target).__name__
        hint = "; graphs are not changed in place: return the new one, or the graph itself" if result is None else ""
        raise TypeError(f"{name} returned {type(result).__name__}, not a Graph{hint}")
    return result


def _takes_trace(target: Callable[..., object]) -> bool:
    # Those of this package do: a signature takes longer to read than many a pass to run.
    return isinstance(target, Named | Rules) or "trace" in inspect.signature(target).parameters


def spelling(item: Pass) -> str:
    """The text of one pass: its name and, in braces, the options that differ from their defaults."""
    target = item.target if isinstance(item, Named) else item
    return item.name + show_options(target) if not isinstance(target, Rules) else item.name


def write_repro(folder: Path, graph: Graph, item: Pass) -> tuple[Path, str]:
    """Write `graph` as ``repro.ir`` and give its path and the command that runs pass `item` on it again."""
    from ingot.compiler.ir.text.graph import show_graph
    from ingot.compiler.ir.text.resources import WeightFolder

    path = folder / "repro.ir"
    spelled = spelling(item)
    command = f"ingot opt {path} --pass {spelled if re.fullmatch(r'[A-Za-z0-9_.:,-]+', spelled) else repr(spelled)}"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {command}\n{show_graph(graph, WeightFolder(folder / 'weights'))}", encoding="utf-8")
    return path, command


def pass_failure(item: Pass, error: BaseException, before: Graph, folder: Path) -> PassError:
    """What is raised for `error`, which pass `item` raised on the graph `before`, left as a reproducer in `folder`."""
    rule, node = (error.rule, error.node) if isinstance(error, RewriteError) else ("", "")
    what = f"it called sys.exit({error.code!r})" if isinstance(error, SystemExit) else str(error)
    message = f"pass {item.name} failed: {what or type(error).__name__}"
    try:
        repro, command = write_repro(folder, before, item)
    except Exception as problem:  # the reproducer must not hide the error that it is about
        return PassError(f"{message}\nno reproducer could be written: {problem}", item.name, rule, node)
    return PassError(f"{message}\nreplay with: {command}", item.name, rule, node, cast("Path | None", repro))
