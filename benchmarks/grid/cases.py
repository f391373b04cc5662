"""The crossing: every version of every operator, with the element types that its schema allows, with its examples."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper

from benchmarks.fuzz.build import numpy_type
from benchmarks.grid.examples import Example, Given, Maker, scalar_type, value_infos
from benchmarks.grid.operators import TABLE
from ingot.runtime.dtypes import BY_NAME, from_numpy

FULL = 36
"""Combinations of types up to which all are tried; beyond, each type of each parameter once."""

PREFERRED = ("float32", "int64", "uint8", "int32")
"""The types of the other parameters while one goes through all of its types."""

TIED = ("T", "S", "V", "O")
"""Parameters of sequences and optionals that are about the same elements."""


@dataclass(frozen=True, eq=False)
class Case:
    """An example in one version and one set of types. `opset`: the one that its model imports."""

    given: Given
    maker: Maker
    example: Example
    opset: int

    @property
    def operator(self) -> str:
        """The operator and its version."""
        return f"{self.given.op}-{self.given.since}"

    @property
    def types(self) -> str:
        """The element types by parameter, or the only one."""
        names = {k: short(v) for k, v in self.given.types.items()}
        return ",".join(f"{k}={v}" for k, v in names.items()) if len(names) > 1 else next(iter(names.values()), "-")

    @property
    def name(self) -> str:
        """Operator, types and variant."""
        return f"{self.operator} {self.types} {self.example.variant}"

    @cached_property
    def newest(self) -> Example | None:
        """The same example in the spelling of the newest version, which oracles know best."""
        types = _translated(self.given, history()[self.given.op][-1])
        return None if types is None else _newest(self.given.op, tuple(types.items())).get(self.example.variant)

    @property
    def is_spelled_as_newest(self) -> bool:
        """Whether the newest version has the same nodes, inputs and constants."""
        own, newest = self.example, self.newest
        return newest is not None and (own.nodes, [*own.inputs], [*own.constants]) == (
            newest.nodes, [*newest.inputs], [*newest.constants],
        )  # fmt: skip

    @cached_property
    def declared(self) -> dict[str, np.dtype[Any]]:
        """The element types of the outputs, as far as ONNX infers them."""
        infos = value_infos(self.example, self.opset)
        codes = {name: infos[name].type.tensor_type.elem_type for name in self.example.outputs}
        return {name: helper.tensor_dtype_to_np_dtype(code) for name, code in codes.items() if code}

    @property
    def newest_opset(self) -> int:
        """The opset for `newest`."""
        return history()[self.given.op][-1].since_version


def short(dtype: str) -> str:
    """The compiler's name of an element type."""
    try:
        return "string" if dtype == "string" else from_numpy(numpy_type(dtype)).name
    except TypeError:  # no element type here
        return dtype


def is_known(dtype: str) -> bool:
    """Whether the compiler has an element type."""
    return dtype == "string" or short(dtype) in BY_NAME


@cache
def history() -> dict[str, list[onnx.defs.OpSchema]]:
    """The versions of each operator of ai.onnx that has examples, the oldest first; withdrawn ones left out."""
    found: dict[str, list[onnx.defs.OpSchema]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in TABLE.rows and not schema.deprecated:
            found[schema.name].append(schema)
    return {name: sorted(found[name], key=lambda s: s.since_version) for name in sorted(found)}


@cache
def opset_of(op: str, since: int) -> int:
    """The opset in which a version is tried: of few different ones, so that many cases share a model."""
    starts = sorted(
        {s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and s.name == op}
    )
    after = next((v for v in starts if v > since), None)
    last = after - 1 if after is not None else onnx.defs.onnx_opset_version()
    return next((o for o in _stops() if since <= o <= last), last)


@cache
def _stops() -> tuple[int, ...]:
    """Opsets such that each version is the newest one in at least one of them, found from the earliest end on."""
    intervals: list[tuple[int, int]] = []
    grouped: dict[str, list[int]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            grouped[schema.name].append(schema.since_version)
    for versions in grouped.values():
        ordered = [*sorted(versions), onnx.defs.onnx_opset_version() + 1]
        intervals += [(b - 1, a) for a, b in itertools.pairwise(ordered)]
    stops: list[int] = []
    for last, first in sorted(intervals):
        if not stops or stops[-1] < first:
            stops.append(last)
    return tuple(stops)


def type_lists(schema: onnx.defs.OpSchema) -> dict[str, list[str]]:
    """The element types that a version allows by type parameter."""
    found: dict[str, list[str]] = {}
    for constraint in schema.type_constraints:
        kinds = [scalar_type(text) for text in constraint.allowed_type_strs]
        found[constraint.type_param_str] = list(dict.fromkeys(kind for kind in kinds if kind))
    return {name: kinds for name, kinds in found.items() if kinds}


def assignments(schema: onnx.defs.OpSchema, *, product: bool = False) -> Iterator[dict[str, str]]:
    """Types for all parameters of a version: all combinations where there are few, else each type of each once."""
    lists = type_lists(schema)
    tied = [name for name in lists if name in TIED] if len(lists) > 1 and _about_elements(schema) else []
    for name in tied[1:]:
        lists[tied[0]] = [kind for kind in lists[tied[0]] if kind in lists[name]]
    free = {name: kinds for name, kinds in lists.items() if name not in tied[1:]}
    count = 1
    for kinds in free.values():
        count *= len(kinds)
    if count <= FULL or product:
        chosen = [dict(zip(free, combination, strict=True)) for combination in itertools.product(*free.values())]
    else:
        usual = {name: next((p for p in PREFERRED if p in kinds), kinds[0]) for name, kinds in free.items()}
        chosen = [{**usual, name: kind} for name, kinds in free.items() for kind in kinds]
        shared = [kind for kind in next(iter(free.values())) if all(kind in kinds for kinds in free.values())]
        chosen += [dict.fromkeys(free, kind) for kind in shared]
    seen: set[tuple[str, ...]] = set()
    for types in chosen:
        whole = {name: types.get(name, types[tied[0]] if name in tied else "") for name in lists}
        if tuple(whole.values()) not in seen:
            seen.add(tuple(whole.values()))
            yield whole


def _about_elements(schema: onnx.defs.OpSchema) -> bool:
    return "Sequence" in schema.name or schema.name.startswith("Optional")


def examples_of(schema: onnx.defs.OpSchema, types: Mapping[str, str]) -> dict[str, Example]:
    """The examples of a version with these types, by variant."""
    made: dict[str, Example] = {}
    for example in TABLE.rows[schema.name].make(Given(schema, types)):
        if example.variant in made:
            raise ValueError(f"{schema.name} has two examples {example.variant!r}")
        made[example.variant] = example
    return made


@lru_cache(maxsize=32)
def _newest(op: str, types: tuple[tuple[str, str], ...]) -> dict[str, Example]:
    return examples_of(history()[op][-1], dict(types))


def _translated(given: Given, newest: onnx.defs.OpSchema) -> dict[str, str] | None:
    """The types of the newest version's parameters for the same operands and results."""
    found: dict[str, str] = {}
    for old, new in ((given.schema.inputs, newest.inputs), (given.schema.outputs, newest.outputs)):
        for a, b in zip(old, new, strict=False):
            found.setdefault(b.type_str, given.dtype(a.type_str))
    lists = type_lists(newest)
    types = {n: found.get(n, next((p for p in PREFERRED if p in kinds), kinds[0])) for n, kinds in lists.items()}
    return types if all(types[name] in lists[name] for name in types) else None


def all_cases(operators: Sequence[str] = ()) -> Iterator[Case]:
    """Every case of these operators, or of all; those of an operator behind one another. Where an older version is
    spelled just as the newest is, it differs by the number of the opset alone: its types and variants are not crossed,
    each occurs once."""
    for op, schemas in history().items():
        if operators and op not in operators:
            continue
        maker = TABLE.rows[op]
        for schema in schemas:
            repeated: list[Case] = []
            for types in assignments(schema, product=maker.product and schema is schemas[-1]):
                given = Given(schema, types)
                for example in examples_of(schema, types).values():
                    case = Case(given, maker, example, opset_of(op, schema.since_version))
                    if schema is not schemas[-1] and case.is_spelled_as_newest:
                        repeated.append(case)
                    else:
                        yield case
            yield from pairwise(repeated)


def pairwise(cases: Sequence[Case]) -> list[Case]:
    """Cases in which each pair of operator and version, operator and set of types, operator and variant occurs."""
    chosen: list[Case] = []
    seen: set[tuple[str, str, str]] = set()

    def pairs(case: Case) -> set[tuple[str, str, str]]:
        op = case.given.op
        return {
            ("version", case.operator, ""),
            ("variant", op, case.example.variant),
            *(("type", op, f"{parameter} {kind}") for parameter, kind in case.given.types.items()),
        }

    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.given.op].append(case)
    for group in groups.values():
        left = set().union(*map(pairs, group)) - seen
        while left:
            best = max(group, key=lambda case: len(pairs(case) & left))
            chosen.append(best)
            left -= pairs(best)
    return chosen


def slice_cases(operators: Sequence[str] = ()) -> Iterator[Case]:
    """A few cases of each operator, in which every version, every variant, and every type of every parameter occurs
    that the compiler has."""
    for op, schemas in history().items():
        if operators and op not in operators:
            continue
        seen: set[str] = set()
        for schema in reversed(schemas):
            is_newest = schema is schemas[-1]
            types = [t for t in assignments(schema) if all(map(is_known, t.values()))]
            first = min(types, key=_rank)
            names = [*examples_of(schema, first), *(n for t in types[:1] for n in examples_of(schema, t))]
            variants = [name for name in dict.fromkeys(names) if name not in seen] or names[:1]
            for i in range(max(len(variants), len(types) if is_newest else 1)):
                chosen = Given(schema, types[i % len(types)] if is_newest else first)
                for given in (chosen, Given(schema, first)):
                    found = _example(given, variants[i % len(variants)])
                    if found is not None:
                        seen.add(found.variant)
                        yield Case(given, TABLE.rows[op], found, opset_of(op, schema.since_version))
                    if found is not None and found.variant == variants[i % len(variants)]:
                        break


def _rank(types: Mapping[str, str]) -> tuple[int, int, int]:
    """Lower for the types that most examples are for: the usual ones, few different ones."""
    places = [PREFERRED.index(kind) if kind in PREFERRED else len(PREFERRED) for kind in types.values()]
    return places.count(len(PREFERRED)), len(set(types.values())), sum(places)


def _example(given: Given, variant: str) -> Example | None:
    """The example of this name, else the last one; None where these types have none."""
    last: Example | None = None
    for example in TABLE.rows[given.op].make(given):
        if example.variant == variant:
            return example
        last = example
    return last
