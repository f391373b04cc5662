"""Pipelines: named passes in order, with options, dumps, timing, reproducers and validation; passes by name."""

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
from typing import Any, TypeAlias

from ingot.compiler.ir.graph import Array, Graph
from ingot.compiler.options import OptionError, coerce_options, parse_spec, split_specs
from ingot.compiler.rewrite import Trace, rule_classes
from ingot.compiler.single_pass import Named, Pass, PassLike, Rules, as_pass, call_pass, pass_failure, rules, spelling
from ingot.compiler.validate import validate_pass

ENTRY_POINTS = "ingot.passes"

Registry: TypeAlias = Mapping[str, Any]  # name -> function, pass object or dataclass of passes


class PipelineError(ValueError):
    """A pipeline's text or one of its names is not right; the message says what is known."""


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
    """What a registry or a reference gave, with the options put in: dataclasses have some, all else has none."""
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
                raise pass_failure(item, error, before, folder) from error
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
