"""The operands and attributes of a custom operator, read from the signature of its Python function.

Positional parameters are operands, those with the default None may be left out; keyword-only parameters are
attributes. An attribute's kind is its annotation, or what its default is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, get_args, get_origin

from ingot.compiler.ops.custom.errors import CustomOpError

Attribute: TypeAlias = "int | float | str | bool | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]"
REQUIRED = inspect.Parameter.empty
KINDS = "int, float, bool, str, tuple[int, ...], tuple[float, ...] or tuple[str, ...]"
_SCALARS = (int, float, bool, str)


@dataclass(frozen=True)
class Operand:
    """An operand by name; an `optional` one may be None."""

    name: str
    optional: bool = False


@dataclass(frozen=True)
class Declared:
    """An attribute by name. `kind` is one of int, float, bool and str, of each element where `many` is set; `default`
    is `REQUIRED` where there is none."""

    name: str
    kind: type[Any]
    many: bool = False
    default: Any = REQUIRED

    @property
    def annotation(self) -> Any:
        """The type of a value."""
        return tuple[self.kind, ...] if self.many else self.kind

    def fits(self, value: object) -> bool:
        """Whether `value` is of this kind; an int is a float too."""
        allowed = (int, float) if self.kind is float else (self.kind,)
        if not self.many:
            return type(value) in allowed
        return isinstance(value, tuple) and all(type(v) in allowed for v in cast("tuple[object, ...]", value))


@dataclass(frozen=True)
class Signature:
    """Operands in order, and attributes."""

    operands: tuple[Operand, ...]
    attributes: tuple[Declared, ...]


def read_signature(name: str, function: Callable[..., Any]) -> Signature:
    """The signature of `function`, which belongs to the operator `name`. Raises CustomOpError."""
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except NameError as error:
        raise CustomOpError(f"{name}: an annotation cannot be resolved: {error}") from error
    operands: list[Operand] = []
    attributes: list[Declared] = []
    for parameter in parameters.values():
        match parameter.kind:
            case inspect.Parameter.POSITIONAL_OR_KEYWORD | inspect.Parameter.POSITIONAL_ONLY:
                if parameter.default not in (REQUIRED, None):
                    raise CustomOpError(
                        f"{name}: operand {parameter.name!r} has a default other than None: if it is an attribute, put "
                        f"it behind a '*'"
                    )
                operands.append(Operand(parameter.name, parameter.default is None))
            case inspect.Parameter.KEYWORD_ONLY:
                attributes.append(_attribute(name, parameter))
            case _:
                raise CustomOpError(f"{name}: '{parameter}' takes any number of arguments: name each of them")
    return Signature(tuple(operands), tuple(attributes))


def _attribute(name: str, parameter: inspect.Parameter) -> Declared:
    hint, default = parameter.annotation, parameter.default
    if hint is REQUIRED:
        hint = _kind_of(default)
    arguments = get_args(hint)
    many = get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis
    kind = arguments[0] if many else hint
    if kind not in _SCALARS or (many and kind is bool):
        raise CustomOpError(f"{name}: attribute {parameter.name!r} must be annotated with {KINDS}")
    declared = Declared(parameter.name, kind, many, default)
    if default is not REQUIRED and not declared.fits(default):
        raise CustomOpError(f"{name}: the default {default!r} of attribute {parameter.name!r} is no {hint}")
    return declared


def _kind_of(default: object) -> Any:
    """What an attribute without an annotation is, after its default."""
    if not isinstance(default, tuple):
        return type(default)
    items = cast("tuple[object, ...]", default)
    kinds = {type(item) for item in items}
    return tuple[kinds.pop(), ...] if len(kinds) == 1 else None


def complete(name: str, signature: Signature, given: Mapping[str, object]) -> dict[str, Any]:
    """All attributes: those `given`, checked, and the defaults of the others. Raises CustomOpError."""
    unknown = sorted(given.keys() - {a.name for a in signature.attributes})
    if unknown:
        known = ", ".join(a.name for a in signature.attributes) or "none"
        raise CustomOpError(f"{name} has no attribute {', '.join(map(repr, unknown))}; it has {known}")
    values: dict[str, Any] = {}
    for attribute in signature.attributes:
        value = given.get(attribute.name, attribute.default)
        if value is REQUIRED:
            raise CustomOpError(f"{name} needs the attribute {attribute.name!r}")
        if not attribute.fits(value):
            raise CustomOpError(f"{name}: attribute {attribute.name!r} is {value!r}, not {attribute.annotation}")
        values[attribute.name] = value
    return values
