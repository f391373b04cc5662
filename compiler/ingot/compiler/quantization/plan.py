"""What is done with each layer of a model, as a small JSON file that people can read and change.

    {"format": "ingot quantisation plan", "version": 1,
     "layers": {"conv1": {"scheme": "f32", "reason": "the first layer"},
                "fc1": {"scheme": "int4-weights", "bits": 4, "group": 32, "method": "gptq"}}}

Layers are called as the model calls them, by the name of a node or a tensor. Those that are not named stay in f32.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, TypeGuard, cast

from ingot.compiler.ops.linear import MatMul
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.tables import LookupTable, Part
from ingot.compiler.passes.quantize.weight_only import METHODS, Method
from ingot.runtime.replacement import replaced

FORMAT, VERSION = "ingot quantisation plan", 1
LONGEST = 1 << 26  # bytes of a file
WEIGHTS: Mapping[str, tuple[int, int]] = MappingProxyType({"int8-weights": (8, 128), "int4-weights": (4, 32)})
"""The bits of weights of the schemes for weights alone, and how many rows have one scale."""
PLANNED = ("f32", "int8", "int8-dynamic", *WEIGHTS, "fp16", "bf16")
"""The schemes that single layers can have."""
OF_PRODUCTS = ("int8-dynamic", *WEIGHTS)
_INTEGERS = ("int8", *OF_PRODUCTS)
_BITS, _LARGEST_GROUP = range(2, 9), 1 << 20
_Check: TypeAlias = Callable[[Any], bool]


class PlanError(QuantisationError):
    """A plan is no plan, or none of this model; the message names the layer and the key."""


@dataclass(frozen=True)
class LayerPlan:
    """What is done with one layer: its `scheme`, the `bits` of its weights, and of weights alone, how many rows
    have one scale (`group`, 0: all) and how they are rounded (`method`). None is what the scheme has by default.
    `reason` says why, for people."""

    scheme: str
    bits: int | None = None
    group: int | None = None
    method: Method | None = None
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """What is done with the layers of a model, by name."""

    layers: Mapping[str, LayerPlan]

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read a file. Raises PlanError for what is no plan, naming layer and key, and OSError."""
        with Path(path).open("rb") as file:
            data = file.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise PlanError(f"{path}: a plan has {LONGEST} bytes at most: this is another file")
        try:
            return Plan.parse(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise PlanError(f"{path}: a plan is text in UTF-8: {error}") from None
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from None

    @staticmethod
    def parse(text: str) -> Plan:
        """What a file holds. Raises PlanError."""
        try:
            record: Any = json.loads(text, object_pairs_hook=_once)
        except PlanError:
            raise
        except (ValueError, RecursionError) as error:
            raise PlanError(f"a plan is JSON, this is not: {error or 'it nests too deep'}") from None
        if not _is_object(record) or record.get("format") != FORMAT:
            raise PlanError(f'a plan is an object with "format": "{FORMAT}": ingot quantize --write-plan writes one')
        version = record.get("version")
        if not _is_whole(version) or version != VERSION:
            raise PlanError(f"version {version!r} of plans is not known, {VERSION} is: write the plan again")
        _known(record, ("format", "version", "layers"), "the plan")
        layers = record.get("layers")
        if not _is_object(layers):
            raise PlanError('"layers" is to be an object with an object for each layer, by name')
        return Plan({name: _layer(name, each) for name, each in layers.items()})

    def text(self) -> str:
        """The JSON."""
        layers = {
            name: {key: value for key, value in asdict(each).items() if value is not None and value != ""}
            for name, each in self.layers.items()
        }
        return json.dumps({"format": FORMAT, "version": VERSION, "layers": layers}, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file. Raises OSError."""
        with replaced(Path(path)) as partial:
            partial.write_text(self.text(), encoding="utf-8")

    def among(self, layers: Sequence[Part]) -> dict[Part, LayerPlan]:
        """What is done with each of the layers that the plan names, in order.

        Raises PlanError for a name that no layer has, or several have, two plans for one layer, and schemes that a
        layer cannot have.
        """
        own = {layer.name: layer for layer in layers}
        by_name: dict[str, list[Part]] = {}
        for layer in layers:
            for name in layer.names:
                by_name.setdefault(name, []).append(layer)
        found: dict[Part, str] = {}
        for name, each in self.layers.items():
            matching = [own[name]] if name in own else by_name.get(name, [])
            if not matching:
                near = difflib.get_close_matches(name, by_name, 3) or list(own)[:3]
                hint = f"; there are {', '.join(map(repr, near))}" if near else ""
                raise PlanError(f"the plan has a layer {name!r}, the model has no layer of that name{hint}")
            if len(matching) > 1:
                raise PlanError(f"{name!r} is a name of {_and(matching)}: take these")
            if (other := found.setdefault(matching[0], name)) != name:
                raise PlanError(f"{other!r} and {name!r} are names of one layer: keep one of them")
            require_possible(matching[0], each, name)
        return {layer: self.layers[found[layer]] for layer in layers if layer in found}


def is_possible(layer: Part, scheme: str) -> bool:
    """Whether a layer can have the scheme: some are for products of matrices alone, tables are stored narrow alone."""
    if isinstance(layer, LookupTable):
        return scheme not in ("int8", "int8-dynamic")
    if scheme in WEIGHTS:
        return isinstance(layer.node, MatMul) and layer.w.rank == 2
    return scheme not in OF_PRODUCTS or isinstance(layer.node, MatMul)


def require_possible(layer: Part, plan: LayerPlan, name: str) -> None:
    """Raise PlanError for a scheme that a layer cannot have."""
    if not is_possible(layer, plan.scheme):
        what = "products with matrices of weights" if plan.scheme in WEIGHTS else "products"
        other = "int8"
        if isinstance(layer, LookupTable):
            what, other = "layers that compute", "int8-weights"
        raise PlanError(
            f"layer {name!r}, key 'scheme': {plan.scheme} is for {what}, this is a {layer.node.name}: take {other}"
        )
    if isinstance(layer, LookupTable) and plan.method not in (None, "nearest"):
        raise PlanError(f"layer {name!r}, key 'method': tables are rounded to nearest: leave {plan.method} out")


def _and(layers: Sequence[Part]) -> str:
    return " and ".join(repr(layer.name) for layer in layers)


def _layer(name: str, record: Any) -> LayerPlan:
    where = f"layer {name!r}"
    if not _is_object(record):
        raise PlanError(f'{where}: an object is needed, such as {{"scheme": "int8"}}')
    _known(record, tuple(LayerPlan.__dataclass_fields__), where)
    scheme = record.get("scheme")
    if scheme not in PLANNED:
        raise PlanError(f"{where}, key 'scheme': {_shown(scheme)} is no scheme of layers: take {', '.join(PLANNED)}")
    checks: Mapping[str, tuple[_Check, str, Sequence[str]]] = {
        "bits": (lambda v: _is_whole(v) and v in _BITS, "a number from 2 to 8", _INTEGERS),
        "group": (lambda v: _is_whole(v) and 0 <= v <= _LARGEST_GROUP, "a number of rows, 0 for all", tuple(WEIGHTS)),
        "method": (lambda v: v in METHODS, f"one of {', '.join(METHODS)}", tuple(WEIGHTS)),
        "reason": (lambda v: isinstance(v, str), "text", PLANNED),
    }
    for key, (is_right, wanted, schemes) in checks.items():
        if key not in record:
            continue
        if scheme not in schemes:
            raise PlanError(f"{where}, key {key!r}: {scheme} has none, it is for {', '.join(schemes)}: leave it out")
        if not is_right(record[key]):
            raise PlanError(f"{where}, key {key!r}: {_shown(record[key])} is not {wanted}")
    return LayerPlan(**record)


def _known(record: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in record:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1) or keys
            raise PlanError(f"{where}: the key {key!r} is not known; there is {', '.join(map(repr, near))}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all differ."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise PlanError(f"{twice!r} is there twice: keep one of them")
    return found


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(cast("object", value))
    return text if len(text) <= 60 else f"{text[:57]}..."
