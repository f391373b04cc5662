"""`custom_op`: an operator of the user's own from a Python function.

    @custom_op("my.domain::Swish")
    def swish(x, *, beta: float = 1.0):
        return x / (1 + math.exp(-beta * x))

    compile("model.onnx", custom=[swish])

Three forms. "scalar": the function gives one element of the result for one of each operand; it becomes pointwise
operators, which are fused and vectorised like any other. "graph": it gets Values and returns Values made of Ingot's
operators. "loops": it fills arrays; Numba compiles it to native code when the model is compiled, and the artifact needs
neither Numba nor Python.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ingot.compiler.ir.graph import Origin, Value
from ingot.compiler.ops.custom.errors import CustomOpError
from ingot.compiler.ops.custom.nodes import (
    Composed,
    Custom,
    Definition,
    Infer,
    Loops,
    Rule,
    Scalar,
    field_name,
    node_class,
)
from ingot.compiler.ops.custom.signature import Operand, Signature, complete, read_signature

Form: TypeAlias = Literal["scalar", "loops", "graph"]
_CLASSES: Mapping[str, type[Custom]] = {"scalar": Scalar, "loops": Loops, "graph": Composed}
_NAME = re.compile(r"([A-Za-z_][\w.-]*)?::([A-Za-z_]\w*)")


@dataclass(frozen=True, eq=False)
class CustomOp:
    """A custom operator: nodes `op_type` of `domain` from opset `since` on mean it. `shadow` lets it take the place of
    an operator that Ingot has. Calling it makes a node, as a "graph" function or a pass does."""

    domain: str
    op_type: str
    form: Form
    node: type[Custom]
    since: int = 1
    shadow: bool = False

    @property
    def name(self) -> str:
        """``domain::Name``"""
        return self.node.definition.name

    @property
    def spelling(self) -> str:
        """How nodes are spelt in IR text."""
        return self.node.name

    @property
    def signature(self) -> Signature:
        """Operands and attributes."""
        return self.node.definition.signature

    def __repr__(self) -> str:
        return f"<custom operator {self.name}, {self.form}>"

    def __call__(self, *operands: Value | None, origin: Origin = (), **attributes: Any) -> Any:
        """The node's result on these operands, a tuple where it has several. Raises CustomOpError, IrError."""
        node = self.build(operands, attributes, origin)
        results = node.results()
        return results[0] if len(results) == 1 else results

    def build(self, operands: Sequence[Value | None], attributes: Mapping[str, Any], origin: Origin = ()) -> Custom:
        """A node. Raises CustomOpError for operands or attributes that the operator has not, IrError for types."""
        definition, declared = self.node.definition, self.signature.operands
        if len(operands) > len(declared):
            raise CustomOpError(f"{self.name} takes {len(declared)} operands, not {len(operands)}")
        given = (*operands, *(None,) * (len(declared) - len(operands)))
        missing = [o.name for o, value in zip(declared, given, strict=True) if value is None and not o.optional]
        if missing:
            raise CustomOpError(f"{self.name} needs its operand {', '.join(map(repr, missing))}")
        values = complete(self.name, self.signature, attributes)
        fields = dict(zip(definition.operands, given, strict=True))
        fields |= dict(zip(definition.attributes, values.values(), strict=True))
        return self.node(**fields, origin=origin)


def custom_op(
    name: str,
    *,
    form: Form = "scalar",
    infer: Infer | None = None,
    parallel: Iterable[str] = (),
    checked: bool = False,
    since: int = 1,
    shadow: bool = False,
) -> Callable[[Callable[..., Any]], CustomOp]:
    """Decorator: a Python function becomes the operator `name`, "domain::Name", of ONNX models (`CustomOp`).

    Positional parameters are operands, those with the default None optional; keyword-only parameters are attributes,
    annotated with int, float, bool, str, tuple[int, ...], tuple[float, ...] or tuple[str, ...].

    form "scalar": from one element of each operand to one of each result (a tuple for several). Operands broadcast.
    Python's arithmetic, comparisons, `if`, constant loops, functions of `math` and numpy, and functions of the user's.
    A number takes the type of what it meets; other types meet only after ``numpy.float32(x)``.

    form "graph": from Values to a Value or a tuple of them.

    form "loops": gets dense arrays, the operands (None where left out) and then one for each result, and fills those
    completely; compiled by Numba without memory of its own or Python objects. Needs `infer`, a function of the
    operands' `TensorType`s (None where left out; a parameter with the default None is an optional operand) and of
    attributes that gives the results' types. A dim is an int or symbolic (with + - * // % and ==). `parallel` names
    operands and results whose first axis may be cut: the function is then called for parts of them, from several
    threads. An exception that it raises is reported by the run. Indices are not checked unless `checked` is set: one
    that is out of range then is such an exception.

    Raises CustomOpError.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise CustomOpError(f"{name!r} is no operator's name: write 'domain::Name'")
    if form not in _CLASSES:
        raise CustomOpError(f"{name}: the forms are {', '.join(_CLASSES)}, not {form!r}")
    domain = "" if found[1] in (None, "ai.onnx") else found[1]
    if domain == "" and not shadow:
        raise CustomOpError(f"{name}: the domain is ONNX's own; take another, or shadow=True to replace its operator")
    if since < 1:
        raise CustomOpError(f"{name}: opsets count from 1, not {since}")

    def define(function: Callable[..., Any]) -> CustomOp:
        signature = read_signature(name, function)
        rule: Rule | None = None
        results: tuple[str, ...] = ()
        cut = tuple(parallel)
        if form == "loops":
            signature, rule, results = _split(name, signature, infer)
            unknown = sorted(set(cut) - {o.name for o in signature.operands} - set(results))
            if unknown:
                raise CustomOpError(f"{name}: there is no {', '.join(unknown)} to be parallel")
            if cut and not set(results) <= set(cut):
                raise CustomOpError(f"{name}: every result must be parallel, or none: add {', '.join(results)}")
        elif infer is not None or cut or checked:
            raise CustomOpError(f"{name}: infer, parallel and checked belong to form='loops'")
        if not signature.operands:
            raise CustomOpError(f"{name}: an operator needs an operand")
        definition = Definition(
            name,
            function,
            signature,
            tuple(field_name(o.name) for o in signature.operands),
            tuple(field_name(a.name) for a in signature.attributes),
            rule,
            results,
            cut,
            checked,
            since,
        )
        spelling = "custom." + re.sub(r"[^\w.]", "_", f"{domain}." if domain else "") + found[2]
        return CustomOp(domain, found[2], form, node_class(_CLASSES[form], spelling, definition), since, shadow)

    return define


def _split(name: str, signature: Signature, infer: Infer | None) -> tuple[Signature, Rule, tuple[str, ...]]:
    """The signature of a "loops" function without its results, the type rule, and the names of the results. The first
    parameters of the function are those of `infer`, which also says which operands are optional."""
    if infer is None:
        raise CustomOpError(f"{name}: form='loops' needs infer, which gives the types of the results")
    parameters = inspect.signature(infer).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise CustomOpError(f"{name}: infer takes any number of arguments: name each of them")
    known = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    own = [o.name for o in signature.operands]
    if own[: len(known)] != [p.name for p in known]:
        raise CustomOpError(
            f"{name}: infer has the operands {', '.join(p.name for p in known)}, so the function must begin with them; "
            f"it has {', '.join(own)}"
        )
    results = tuple(own[len(known) :])
    if not results:
        raise CustomOpError(f"{name}: the function has no parameter for a result behind those of infer")
    wanted = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    unknown = sorted(set(wanted) - {a.name for a in signature.attributes})
    if unknown:
        raise CustomOpError(f"{name}: infer has the attribute {', '.join(unknown)}, the function has not")
    operands = tuple(Operand(p.name, p.default is None) for p in known)
    return Signature(operands, signature.attributes), Rule(infer, wanted), results
