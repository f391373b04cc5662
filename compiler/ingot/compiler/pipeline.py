"""Pipelines: named passes in order, with options, dumps, timing, reproducers and validation.

A pass is anything with a `name` that maps a Graph to a Graph: a plain function, `rules(...)`, or a frozen dataclass
whose fields are its options and whose spelling follows from them (``quantize{scheme=int8,axis=0}``). A pass that runs
rewrite rules should take ``trace: Trace | None = None`` by keyword and hand it to `rewrite`: then its firings are
numbered with all others of the compile.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from ingot.compiler.ir.graph import Array, Graph
from ingot.compiler.options import OptionError, coerce_options, parse_spec, show_options, split_specs
from ingot.compiler.rewrite import RewriteError, Rule, Trace, rewrite, rule_classes, rule_name

ENTRY_POINTS = "ingot.passes"


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
Registry: TypeAlias = Mapping[str, Any]  # name -> function, pass object or dataclass of passes


class PipelineError(ValueError):
    """A pipeline's text or one of its names is not right; the message says what is known."""


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
    if isinstance(thing, Pass):
        return thing
    name = getattr(thing, "__name__", None) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(thing).__name__).lower()
    return Named(thing, str(name))


def call_pass(target: Callable[..., object], graph: Graph, trace: Trace | None) -> Graph:
    """Call a pass, with the trace where it takes one. Raises TypeError when it does not give back a Graph."""
    takes_trace = "trace" in inspect.signature(target).parameters
    result = target(graph, trace=trace) if takes_trace else target(graph)
    if not isinstance(result, Graph):
        name = getattr(target, "name", None) or getattr(target, "__name__", None) or type(target).__name__
        hint = "; graphs are not changed in place: return the new one, or the graph itself" if result is None else ""
        raise TypeError(f"{name} returned {type(result).__name__}, not a Graph{hint}")
    return result


def spelling(item: Pass) -> str:
    """The text of one pass: its name and, in braces, the options that differ from their defaults."""
    target = item.target if isinstance(item, Named) else item
    return item.name + show_options(target) if not isinstance(target, Rules) else item.name


def load_pass(reference: str) -> Any:
    """The pass (or dataclass of passes) that ``module:attribute`` or the name of an entry point of the group
    ``ingot.passes`` refers to; a rewrite rule stands for the pass of that rule. Raises PipelineError."""
    loaded = _load(reference)
    return rules(loaded) if _is_rule(loaded) else loaded


def _is_rule(thing: Any) -> bool:
    """True for a function of a node, by its annotation, and a graph."""
    if not inspect.isfunction(thing) or len(inspect.signature(thing).parameters) != 2:
        return False
    try:
        return bool(rule_classes(thing))
    except TypeError:
        return False


def _load(reference: str) -> Any:
    if ":" not in reference:
        found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
        if reference not in found:
            known = ", ".join(sorted(found)) or "none"
            raise PipelineError(f"no pass {reference!r}: installed entry points of {ENTRY_POINTS}: {known}")
        return found[reference].load()
    module, _, attribute = reference.partition(":")
    if not module or not attribute:
        raise PipelineError(f"no pass {reference!r}: write module:attribute, both with a name")
    try:
        loaded: Any = importlib.import_module(module)
        for part in attribute.split("."):
            loaded = getattr(loaded, part)
    except (ImportError, AttributeError) as error:
        raise PipelineError(f"no pass {reference!r}: {error}") from error
    if not callable(loaded):
        raise PipelineError(f"{reference!r} is a {type(loaded).__name__}, not a pass")
    return loaded


def known_passes(registry: Registry) -> tuple[str, ...]:
    """All names that `Pipeline.parse` takes with this registry, installed entry points included."""
    return tuple(sorted({*registry, *(point.name for point in entry_points(group=ENTRY_POINTS))}))


def parse_pass(text: str, registry: Registry) -> Pass:
    """The pass spelled `text`: a known name or ``module:attribute``, with options in braces. Raises PipelineError."""
    try:
        name, raw = parse_spec(text)
        if name in registry:
            if any(point.name == name for point in entry_points(group=ENTRY_POINTS)):
                raise PipelineError(
                    f"two passes are named {name!r}: Ingot's own and an installed entry point of {ENTRY_POINTS}; "
                    "rename the entry point, or write module:attribute for it"
                )
            made = _with_options(registry[name], name, raw)
            return made if getattr(made, "name", None) == name and isinstance(made, Pass) else Named(made, name)
        if ":" not in name and name not in known_passes(registry):
            raise PipelineError(
                f"unknown pass {name!r}; known: {', '.join(known_passes(registry)) or 'none'}; "
                "your own are written module:attribute"
            )
        return Named(_with_options(load_pass(name), name, raw), name)
    except OptionError as error:
        raise PipelineError(str(error)) from error


def _with_options(entry: Any, name: str, raw: Mapping[str, Any]) -> Any:
    if dataclasses.is_dataclass(entry) and not isinstance(entry, Named | Rules):
        cls = entry if isinstance(entry, type) else type(entry)
        values = coerce_options(cls, name, raw)
        if not isinstance(entry, type):
            return dataclasses.replace(entry, **values)
        try:
            return entry(**values)
        except (TypeError, ValueError) as error:
            raise OptionError(f"pass {name}: {error}") from error
    if isinstance(entry, type):
        entry = entry()
    if raw:
        raise OptionError(f"pass {name} has no options, but {', '.join(raw)} is given")
    return entry


@dataclass(frozen=True, slots=True)
class PassReport:
    """What one pass did: wall-clock seconds, nodes before and after, rule firings."""

    index: int
    name: str
    seconds: float
    nodes_before: int
    nodes_after: int
    firings: int
    changed: bool

    def __str__(self) -> str:
        change = f"{self.nodes_before} -> {self.nodes_after} nodes" if self.changed else "unchanged"
        fired = f", {self.firings} firings" if self.firings else ""
        return f"{self.index:02d} {self.name}: {change}{fired}, {self.seconds * 1e3:.1f} ms"


@dataclass(frozen=True)
class Pipeline:
    """Passes in order. Immutable: `before`, `after`, `without` and `replace` give a new pipeline."""

    passes: tuple[Pass, ...]

    def __init__(self, passes: Sequence[PassLike]) -> None:
        object.__setattr__(self, "passes", tuple(as_pass(p) for p in passes))

    @property
    def names(self) -> tuple[str, ...]:
        """The passes' names in order."""
        return tuple(p.name for p in self.passes)

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __str__(self) -> str:
        """One line that `parse` reads back, given a registry that knows the names."""
        return ",".join(spelling(p) for p in self.passes)

    @staticmethod
    def parse(text: str, registry: Registry) -> Pipeline:
        """The pipeline written ``simplify,quantize{scheme=int8,axis=0},my_module:my_pass``. Raises PipelineError."""
        try:
            return Pipeline([parse_pass(spec, registry) for spec in split_specs(text)])
        except OptionError as error:
            raise PipelineError(str(error)) from error

    def _places(self, name: str) -> list[int]:
        places = [i for i, p in enumerate(self.passes) if p.name == name]
        if not places:
            raise PipelineError(f"no pass {name!r} in the pipeline {self}")
        return places

    def before(self, name: str, *passes: PassLike) -> Pipeline:
        """With `passes` put before the first pass called `name`."""
        at = self._places(name)[0]
        return Pipeline((*self.passes[:at], *passes, *self.passes[at:]))

    def after(self, name: str, *passes: PassLike) -> Pipeline:
        """With `passes` put after the first pass called `name`."""
        at = self._places(name)[0] + 1
        return Pipeline((*self.passes[:at], *passes, *self.passes[at:]))

    def without(self, *names: str) -> Pipeline:
        """Without all passes of these names."""
        gone = {i for name in names for i in self._places(name)}
        return Pipeline([p for i, p in enumerate(self.passes) if i not in gone])

    def replace(self, name: str, item: PassLike) -> Pipeline:
        """With every pass called `name` replaced."""
        places = self._places(name)
        return Pipeline([item if i in places else p for i, p in enumerate(self.passes)])

    def run(
        self,
        graph: Graph,
        *,
        trace: Trace | None = None,
        print_after: Collection[str] = (),
        output: Callable[[str], None] = print,
        dump_dir: Path | None = None,
        repro_dir: Path | None = None,
        verify: bool | Callable[[Graph], None] = True,
        validate: bool = False,
        probes: Sequence[Mapping[str, Array]] | None = None,
        verbose: Callable[[PassReport], None] | None = None,
    ) -> Graph:
        """The graph after all passes.

        `print_after` names passes whose result goes to `output` as text ("all" for every pass). `dump_dir` receives
        ``00-import.ir``, ``01-<pass>.ir`` ... where something changed, weights beside under ``weights/``. `verify`
        checks the graph before the first and after every pass. `validate` evaluates the graph before and after each
        pass on `probes` (made up from the input types by default) and raises ValidationError for the first pass that
        changes a result; passes with a true attribute `lossy` are excepted. A pass that fails leaves ``repro.ir`` in
        `repro_dir` (default: `dump_dir`, else the working directory) and raises PassError.
        """
        unknown = set(print_after) - {*self.names, "all"}
        if unknown:
            raise PipelineError(f"cannot print after {', '.join(sorted(unknown))}: the pipeline is {self}")
        trace = trace if trace is not None else Trace()
        checker = _checker(verify)
        folder = repro_dir or dump_dir or Path(".")
        dumped = _dump(dump_dir, 0, "import", graph, None)
        if checker is not None:
            checker(graph)
        for index, item in enumerate(self.passes, 1):
            before, fired = graph, len(trace.firings)
            started = time.perf_counter()
            try:
                graph = call_pass(item, before, trace)
                seconds = time.perf_counter() - started
                if checker is not None and graph is not before:
                    checker(graph)
            except (Exception, SystemExit) as error:
                raise _failure(item, error, before, folder) from error
            if verbose is not None:
                firings = len(trace.firings) - fired
                sizes = len(before.nodes()), len(graph.nodes())
                verbose(PassReport(index, item.name, seconds, *sizes, firings, graph is not before))
            if graph is not before:
                dumped = _dump(dump_dir, index, item.name, graph, dumped)
            if item.name in print_after or "all" in print_after:
                from ingot.compiler.ir.text.graph import show_graph

                output(f"# after {item.name}\n{show_graph(graph)}")
            if validate and graph is not before and not getattr(item, "lossy", False):
                from ingot.compiler.validate import validate_pass

                validate_pass(item, before, graph, probes, folder)
        return graph


def _checker(verify: bool | Callable[[Graph], None]) -> Callable[[Graph], None] | None:
    if not isinstance(verify, bool):
        return verify
    if not verify:
        return None
    from ingot.compiler.ir.verify import verify_graph

    return verify_graph


def _dump(folder: Path | None, index: int, name: str, graph: Graph, previous: str | None) -> str | None:
    """Write the graph unless its text is `previous`; the text."""
    if folder is None:
        return None
    from ingot.compiler.ir.text.graph import show_graph
    from ingot.compiler.ir.text.resources import WeightFolder

    text = show_graph(graph, WeightFolder(folder / "weights"))
    if text != previous:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:02d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.ir").write_text(text, encoding="utf-8")
    return text


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


def _failure(item: Pass, error: BaseException, before: Graph, folder: Path) -> PassError:
    rule, node = (error.rule, error.node) if isinstance(error, RewriteError) else ("", "")
    what = f"it called sys.exit({error.code!r})" if isinstance(error, SystemExit) else str(error)
    message = f"pass {item.name} failed: {what or type(error).__name__}"
    try:
        repro, command = write_repro(folder, before, item)
    except Exception as problem:  # the reproducer must not hide the error that it is about
        return PassError(f"{message}\nno reproducer could be written: {problem}", item.name, rule, node)
    return PassError(f"{message}\nreplay with: {command}", item.name, rule, node, cast("Path | None", repro))
