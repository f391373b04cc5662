"""Weights alone in few bits: products of f32 activations with constant weights read these from blocks of codes.

Weights become ``Dequantize(codes, scale, zero point)`` with one scale for each block of the summed axis, as ONNX's
DequantizeLinear with block_size is imported, and are exported so (opset 21; 25 for two bits).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from ingot.compiler.ir.graph import Constant, Graph, Value, node_of
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.passes.quantize.allocation import Option, allocate
from ingot.compiler.passes.quantize.awq import scaled_by_activations
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.gptq import Factor, factor, gptq
from ingot.compiler.passes.quantize.groups import Array, Grouped, WeightForm, nearest, output_error
from ingot.compiler.passes.quantize.hqq import hqq
from ingot.compiler.passes.quantize.layers import weights_of
from ingot.compiler.passes.quantize.products import Product, chosen
from ingot.compiler.passes.quantize.spelling import dequantised
from ingot.compiler.passes.quantize.statistics import Statistics
from ingot.compiler.passes.quantize.tables import tables_of
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import f16

Method: TypeAlias = Literal["nearest", "gptq", "awq", "hqq"]
METHODS: tuple[Method, ...] = ("nearest", "gptq", "awq", "hqq")
WITH_DATA: tuple[Method, ...] = ("gptq", "awq")


@dataclass(frozen=True)
class StoredWeight:
    """How one weight is stored: its name and shape, its form, its bytes in the type that it is computed in and those
    that it takes now, and the part of its output's energy (without statistics: its own) that is error."""

    name: str
    shape: tuple[int, ...]
    form: WeightForm
    before: int
    after: int
    error: float


@dataclass(frozen=True)
class WeightOnly:
    """The pass: all weights of matrix products in one form, rounded without data. See `weight_only`."""

    bits: int = 4
    group: int = 32
    symmetric: bool = True
    method: Literal["nearest", "hqq"] = "nearest"
    tables: bool = False
    exclude: tuple[str, ...] = ()
    name: str = field(default="weight_only", init=False)
    lossy: bool = field(default=True, init=False)

    def __call__(self, graph: Graph) -> Graph:
        form = WeightForm(self.bits, self.group, self.symmetric)
        return weight_only(graph, form, method=self.method, tables=self.tables, exclude=self.exclude)[0]


def weight_only(
    graph: Graph,
    form: WeightForm | None = None,
    *,
    method: Method = "nearest",
    statistics: Mapping[str, Statistics] | None = None,
    forms: Mapping[str, WeightForm] | None = None,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
    tables: bool = False,
    by_activation: bool = False,
    damping: float = 0.01,
    progress: Callable[[str], None] | None = None,
) -> tuple[Graph, tuple[StoredWeight, ...]]:
    """`graph` with the weights [K, N] of its matrix products in groups of few bits, and how each is stored.

    `form` says how (default: 4 bits, groups of 32 rows), `forms` for single products by name. `method`: "nearest" and
    "hqq" need no data; "gptq" and "awq" need `statistics` of every product (`by_activation` and `damping`: see
    `gptq.factor`). With `tables`, tables that rows are looked up in (embeddings) are stored so too, in groups along
    their rows, rounded to nearest; they are called as their Gather is. A weight that several products read is stored
    once.

    Raises QuantisationError for a name that no product has, products without statistics, and weights or statistics that
    are not finite.
    """
    form, forms = form or WeightForm(), forms or {}
    if method not in METHODS:
        raise QuantisationError(f"weights are not rounded by {method!r}: take {', '.join(METHODS)}")
    lookups = _tables(graph) if tables else {}
    left = set(exclude) - lookups.keys()
    wanted = _matrix_products(graph, None if only is None else set(only) - lookups.keys(), left)
    _require_statistics(method, statistics, wanted)
    if method == "awq":
        assert statistics is not None
        for each in {form, *forms.values()}:
            mine = [name for name in wanted if forms.get(name, form) == each]
            graph, statistics = scaled_by_activations(graph, statistics, each, only=mine)
        wanted = _matrix_products(graph, None if only is None else set(only) - lookups.keys(), left)
        lookups = _tables(graph) if tables else {}

    rounding = _Rounding(method, by_activation, damping)
    mapping: dict[Value, Value] = {}
    stored: list[StoredWeight] = []
    for value, names in _readers(wanted).items():
        product = wanted[names[0]]
        own = _for_type(forms.get(names[0], form), value)
        seen = _merged([statistics[name] for name in names if name in statistics]) if statistics else None
        w = _finite(product.matrices()[0], names[0])
        made = rounding.of(w, own, seen)
        new = dequantised(made, product.w.dtype, origin=node_of(value).origin)
        for name in names:
            mapping[wanted[name].node] = wanted[name].with_operands(wanted[name].x, new)
        stored.append(_report(names[0], value, made, w, seen))
        if progress is not None:
            progress(f"{names[0]}: {made.form.bits} bits, error {stored[-1].error:.2e}")
    for name, table in lookups.items():
        if (only is not None and name not in only) or name in exclude or table in mapping:
            continue
        w = _finite(table.data.T, name)
        made = nearest(np.ascontiguousarray(w), _for_type(forms.get(name, form), table))
        mapping[table] = dequantised(made, table.dtype, transposed=True, origin=table.origin)
        stored.append(_report(name, table, made, w, None))
    return rebuild(graph, mapping), tuple(stored)


def mixed_forms(
    graph: Graph,
    forms: Sequence[WeightForm],
    ratio: float,
    *,
    statistics: Mapping[str, Statistics] | None = None,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> dict[str, WeightForm]:
    """A form for each matrix product, out of `forms`, so that together they take `ratio` of their bytes in f32 at most
    and the parts of their outputs' energies (without `statistics`: of the weights') that are error have a small sum.

    Raises QuantisationError where the smallest forms take more.
    """
    wanted = _matrix_products(graph, only, exclude)
    options: dict[str, list[Option[WeightForm]]] = {}
    budget = 0
    for names in _readers(wanted).values():
        w = _finite(wanted[names[0]].matrices()[0], names[0])
        seen = _merged([statistics[name] for name in names if name in statistics]) if statistics else None
        made = [(form, nearest(w, form)) for form in forms]
        options[names[0]] = [Option(form, each.bytes, _error(each, w, seen)) for form, each in made]
        budget += int(ratio * 4 * w.size)
    found = allocate(options, budget)
    return {name: found[names[0]].form for names in _readers(wanted).values() for name in names}


@dataclass(frozen=True)
class _Rounding:
    """How weights are rounded; the factors of moments are made once for all weights that have these in common."""

    method: Method
    by_activation: bool
    damping: float
    _last: dict[int, Factor] = field(default_factory=dict[int, Factor])

    def of(self, w: Array, form: WeightForm, seen: Statistics | None) -> Grouped:
        """w [K, N] in codes."""
        if self.method == "hqq":
            return hqq(w, form)
        if self.method == "nearest" or seen is None:
            return nearest(w, form)
        if self.method == "awq":
            return nearest(w, form, np.diagonal(seen.moment[0]))
        return gptq(w, self.factor(seen), form)

    def factor(self, seen: Statistics) -> Factor:
        """That of the moment of activations; that of the last one asked for is at hand."""
        if id(seen) not in self._last:
            self._last.clear()
            try:
                made = factor(seen.moment[0], damping=self.damping, by_activation=self.by_activation)
            except (ValueError, np.linalg.LinAlgError) as error:
                raise QuantisationError(f"the statistics of activations cannot be used: {error}") from error
            self._last[id(seen)] = made
        return self._last[id(seen)]


def _matrix_products(graph: Graph, only: Collection[str] | None, exclude: Collection[str]) -> dict[str, Product]:
    """The chosen products of matrices whose weights are floats, which may be stored as halves."""
    found = chosen(graph, only, exclude)
    return {n: p for n, p in found.items() if isinstance(p.node, MatMul) and weights_of(p.w) is not None}


def _readers(wanted: Mapping[str, Product]) -> dict[Value, list[str]]:
    """The products of each weight."""
    found: dict[Value, list[str]] = {}
    for name, product in wanted.items():
        found.setdefault(product.w, []).append(name)
    return found


def _tables(graph: Graph) -> dict[str, Constant]:
    """The tables by name."""
    return {table.name: table.w for table in tables_of(graph)}


def _require_statistics(
    method: Method, statistics: Mapping[str, Statistics] | None, wanted: Mapping[str, Product]
) -> None:
    if method not in WITH_DATA:
        return
    for name, product in wanted.items():
        depth = product.channels[0]
        if statistics is None or name not in statistics:
            raise QuantisationError(f"{method} needs statistics of {name}: give data, or take nearest or hqq")
        if statistics[name].moment.shape != (1, depth, depth):
            raise QuantisationError(
                f"the statistics of {name} have a moment of shape {statistics[name].moment.shape}, "
                f"({1}, {depth}, {depth}) is needed: they are those of another product"
            )


def _for_type(form: WeightForm, weight: Value) -> WeightForm:
    """The form for a weight: products of halves have scales of halves."""
    return replace(form, scale="f16") if weight.dtype == f16 else form


def _merged(found: Sequence[Statistics]) -> Statistics:
    """Those of all, of which several may be the same object."""
    first, *others = {id(each): each for each in found}.values()
    for other in others:
        first = first.merged(other)
    return first


def _finite(w: Array, name: str) -> Array:
    w = w.astype(np.float32)
    if not np.isfinite(w).all():
        raise QuantisationError(f"the weights of {name} have NaN or infinities: mend them or exclude it")
    return w


def _error(made: Grouped, w: Array, seen: Statistics | None) -> float:
    """The part of the output's energy (without statistics: the weight's) that is error."""
    lost = made.values() - w
    if seen is None:
        whole, error = float(np.vdot(w, w)), float(np.vdot(lost, lost))
    else:
        moment = seen.moment[0].astype(np.float32)
        whole, error = output_error(w, moment), output_error(lost, moment)
    return error / whole if whole > 0 else 0.0


def _report(name: str, value: Value, made: Grouped, w: Array, seen: Statistics | None) -> StoredWeight:
    shape = value.type.static_shape()
    return StoredWeight(name, shape, made.form, w.size * value.dtype.bytes, made.bytes, _error(made, w, seen))
