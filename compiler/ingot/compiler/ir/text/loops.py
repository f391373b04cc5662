"""The text form of kernels.

    kernel scale(x: f32 read, y: f32 write; n) {
      grid i in n by 1024, j in 16
      flops 16*n
      let t = x[16*i + j]
      for k in 4 unroll {
        t add= mul(%t:f32, 2.0:f32):f32
      }
      when lt(%t:f32, 0.0:f32):bool {
        y[16*i + j] = -inf:f32
      } else {
        y[16*i + j] = %t:f32
      }
    }

Expressions: ``1.5:f32`` a literal, ``index(i + 1)``, ``x[offset]`` a load, ``%t:f32`` a local, ``add(a, b):f32`` a
call. A template stands in place of the statements: ``template contraction(field=value, ...)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from ingot.compiler.ir import dims, templates
from ingot.compiler.ir.loops import (
    FUNCTIONS,
    Accumulate,
    Axis,
    Buffer,
    Call,
    Const,
    Expr,
    For,
    Index,
    Kernel,
    Let,
    Load,
    Local,
    Mode,
    Scratch,
    Stmt,
    Store,
    Template,
    When,
)
from ingot.compiler.ir.routines import RoutineCall
from ingot.compiler.ir.sparse import BlockTranspose, SparseProduct, SparseVector
from ingot.compiler.ir.text.fields import Fields, Form, field_hints
from ingot.compiler.ir.text.scanner import Scanner, show_name
from ingot.compiler.ir.types import IrError

_RESERVED = frozenset(("for", "let", "when", "scratch", "template", "grid", "flops", "index", "true", "false"))
_INFINITE = frozenset(("inf", "nan"))
Templates = Mapping[str, type[Any]]

TEMPLATES: Templates = {
    **{
        cls.__name__.lower(): cls
        for cls in cast("list[type[Any]]", [c for c in vars(templates).values() if isinstance(c, type)])
        if cls.__module__ == templates.__name__ and hasattr(cls, "nest")
    },
    "routinecall": RoutineCall,
    "blocktranspose": BlockTranspose,
    "sparseproduct": SparseProduct,
    "sparsevector": SparseVector,
}


def show_kernel(kernel: Kernel, indent: int = 0) -> str:
    """`kernel` as text, without a newline at the end. Raises IrError where a template's field has no text form."""
    margin = "  " * indent
    buffers = ", ".join(f"{_name(b.name)}: {b.dtype.name} {b.access}" for b in kernel.buffers)
    values = "; " + ", ".join(map(_name, kernel.dims)) if kernel.dims else ""
    lines = [f"{margin}kernel {_name(kernel.name)}({buffers}{values}) {{"]
    if kernel.grid:
        lines.append(f"{margin}  grid {', '.join(map(_show_axis, kernel.grid))}")
    if kernel.flops != 0:
        lines.append(f"{margin}  flops {dims.show(kernel.flops)}")
    if isinstance(kernel.body, tuple):
        lines.extend(_show_statements(kernel.body, indent + 1))
    else:
        lines.extend(_show_template(kernel.body, indent + 1))
    return "\n".join([*lines, margin + "}"])


def parse_kernel(text: str, *, templates: Templates = TEMPLATES, source: str = "text") -> Kernel:
    """The kernel that `show_kernel` wrote. `templates` are the template classes by lower-case name. Raises TextError
    with line and column."""
    scanner = Scanner(text, source)
    kernel = read_kernel(scanner, templates)
    if not scanner.done:
        scanner.fail("the end")
    return kernel


def show_expression(expression: Expr) -> str:
    """An expression as text."""
    match expression:
        case Const(value=value, dtype=dtype):
            if dtype.kind == "bool" or isinstance(value, bool):
                shown = "true" if value else "false"
            elif dtype.is_float:
                shown = repr(float(value))
            else:
                shown = str(value)
            return f"{shown}:{dtype.name}"
        case Index(dim=dim):
            return f"index({dims.show(dim)})"
        case Load(buffer=buffer, offset=offset):
            return f"{_name(buffer)}[{dims.show(offset)}]"
        case Local(name=name, dtype=dtype):
            return f"%{_name(name)}:{dtype.name}"
        case Call(fn=fn, args=args, dtype=dtype):
            return f"{fn}({', '.join(map(show_expression, args))}):{dtype.name}"


def _name(name: str) -> str:
    return show_name(name, _RESERVED | _INFINITE)


def _show_axis(axis: Axis) -> str:
    grain = "" if axis.grain == 1 else f" by {dims.show(axis.grain)}"
    return f"{_name(axis.var)} in {dims.show(axis.extent)}{grain}"


def _show_statements(body: Sequence[Stmt], indent: int) -> list[str]:
    margin = "  " * indent
    lines: list[str] = []
    for statement in body:
        match statement:
            case Let(name=name, value=value):
                lines.append(f"{margin}let {_name(name)} = {show_expression(value)}")
            case Accumulate(name=name, fn=fn, value=value):
                lines.append(f"{margin}{_name(name)} {fn}= {show_expression(value)}")
            case Store():
                lines.append(margin + _show_store(statement))
            case Scratch(name=name, dtype=dtype, size=size):
                lines.append(f"{margin}scratch {_name(name)}: {dtype.name}[{size}]")
            case For(var=var, extent=extent, body=inner, mode=mode):
                marked = "" if mode == "serial" else f" {mode}"
                lines.append(f"{margin}for {_name(var)} in {dims.show(extent)}{marked} {{")
                lines += [*_show_statements(inner, indent + 1), margin + "}"]
            case When(condition=condition, body=inner, otherwise=otherwise):
                lines.append(f"{margin}when {show_expression(condition)} {{")
                lines += _show_statements(inner, indent + 1)
                if otherwise:
                    lines += [margin + "} else {", *_show_statements(otherwise, indent + 1)]
                lines.append(margin + "}")
    return lines


def _show_store(store: Store) -> str:
    return f"{_name(store.buffer)}[{dims.show(store.offset)}] = {show_expression(store.value)}"


def _show_template(template: Template, indent: int) -> list[str]:
    if not dataclasses.is_dataclass(template):
        raise IrError(f"template {type(template).__name__} is not a dataclass: it has no text form")
    fields = Fields(_forms())
    margin = "  " * indent
    hints = field_hints(cast("type[Any]", type(template)))
    shown = [f"{margin}  {name}={fields.show(getattr(template, name), hint)}" for name, hint in hints.items()]
    opening = f"{margin}template {type(template).__name__.lower()}("
    return [opening, *(line + "," for line in shown[:-1]), *shown[-1:], margin + ")"]


def _forms() -> dict[type[Any], Form]:
    expression = Form(lambda e, _: show_expression(e), _read_expression)
    return {
        **dict.fromkeys(get_args(Expr), expression),
        Axis: Form(lambda a, _: _show_axis(a), _read_axis),
        Store: Form(lambda s, _: _show_store(s), _read_store),
    }


def read_kernel(scanner: Scanner, templates: Templates) -> Kernel:
    """Read one kernel at the cursor."""
    scanner.expect("kernel")
    name = scanner.name("the kernel's name")
    buffers: list[Buffer] = []
    values: list[str] = []
    scanner.expect("(")
    while not (scanner.sees(")") or scanner.sees(";")):
        if buffers:
            scanner.expect(",")
        buffer = scanner.name("a buffer's name")
        scanner.expect(":")
        buffers.append(Buffer(buffer, scanner.dtype(), _one_of(scanner, Buffer, "access")))
    if scanner.accept(";"):
        values.append(scanner.name("the name of a dim"))
        while scanner.accept(","):
            values.append(scanner.name("the name of a dim"))
    scanner.expect(")")
    scanner.expect("{")
    grid: list[Axis] = []
    if scanner.accept("grid"):
        grid.append(_read_axis(scanner))
        while scanner.accept(","):
            grid.append(_read_axis(scanner))
    flops = scanner.dim() if scanner.accept("flops") else 0
    if scanner.accept("template"):
        body: tuple[Stmt, ...] | Template = _read_template(scanner, templates)
        scanner.expect("}")
    else:
        body = _read_statements(scanner)
    return Kernel(name, tuple(buffers), tuple(values), tuple(grid), body, flops)


def _read_template(scanner: Scanner, templates: Templates) -> Template:
    start = scanner.at
    name = scanner.word("a template's name")
    if name not in templates:
        scanner.fail(f"a template ({', '.join(templates)})", start)
    return templates[name](**Fields(_forms()).parse_fields(scanner, templates[name], "(", ")"))


def _read_axis(scanner: Scanner) -> Axis:
    name = scanner.name("an axis")
    scanner.expect("in")
    extent = scanner.dim()
    return Axis(name, extent, scanner.dim() if scanner.accept("by") else 1)


def _read_statements(scanner: Scanner) -> tuple[Stmt, ...]:
    """Statements up to and with the closing brace."""
    body: list[Stmt] = []
    while not scanner.accept("}"):
        body.append(_read_statement(scanner))
    return tuple(body)


def _read_statement(scanner: Scanner) -> Stmt:
    if scanner.accept("let"):
        name = scanner.name("a local's name")
        scanner.expect("=")
        return Let(name, _read_expression(scanner))
    if scanner.accept("scratch"):
        name = scanner.name("a buffer's name")
        scanner.expect(":")
        dtype = scanner.dtype()
        scanner.expect("[")
        size = scanner.integer()
        scanner.expect("]")
        return Scratch(name, dtype, size)
    if scanner.accept("for"):
        name = scanner.name("a loop variable")
        scanner.expect("in")
        extent = scanner.dim()
        mode: Mode = "serial" if scanner.sees("{") else _one_of(scanner, For, "mode")
        scanner.expect("{")
        return For(name, extent, _read_statements(scanner), mode)
    if scanner.accept("when"):
        condition = _read_expression(scanner)
        scanner.expect("{")
        body = _read_statements(scanner)
        otherwise: tuple[Stmt, ...] = ()
        if scanner.accept("else"):
            scanner.expect("{")
            otherwise = _read_statements(scanner)
        return When(condition, body, otherwise)
    start = scanner.at
    name = scanner.name("a statement or '}'")
    if scanner.sees("["):
        scanner.at = start
        return _read_store(scanner)
    fn = _one_of(scanner, Accumulate, "fn")
    scanner.expect("=")
    return Accumulate(name, fn, _read_expression(scanner))


def _read_store(scanner: Scanner) -> Store:
    name = scanner.name("a buffer's name")
    scanner.expect("[")
    offset = scanner.dim()
    scanner.expect("]")
    scanner.expect("=")
    return Store(name, offset, _read_expression(scanner))


def _one_of(scanner: Scanner, cls: type[Any], field: str) -> Any:
    """A word out of the literals that a field is annotated with."""
    choices: tuple[str, ...] = get_args(field_hints(cls)[field])
    start = scanner.at
    word = scanner.word(" or ".join(choices))
    if word not in choices:
        scanner.fail(" or ".join(choices), start)
    return word


def _read_expression(scanner: Scanner) -> Expr:
    if scanner.accept("%"):
        name = scanner.name("a local's name")
        scanner.expect(":")
        return Local(name, scanner.dtype())
    following = scanner.text[scanner.at : scanner.at + 1]
    if following.isdigit() or following == "-" or any(map(scanner.sees, ("inf", "nan", "true", "false"))):
        return _read_const(scanner)
    start = scanner.at
    quoted = scanner.sees('"')
    name = scanner.name("an expression")
    if scanner.accept("["):
        offset = scanner.dim()
        scanner.expect("]")
        return Load(name, offset)
    if quoted or not scanner.accept("("):
        scanner.fail(f"'[' or '(' after {name}")
    if name == "index":
        dim = scanner.dim()
        scanner.expect(")")
        return Index(dim)
    if name not in FUNCTIONS:
        scanner.fail("a scalar function", start)
    args: list[Expr] = []
    while not scanner.accept(")"):
        if args:
            scanner.expect(",")
        args.append(_read_expression(scanner))
    scanner.expect(":")
    return Call(name, tuple(args), scanner.dtype())


def _read_const(scanner: Scanner) -> Const:
    if scanner.sees("true") or scanner.sees("false"):
        value = scanner.boolean()
        scanner.expect(":")
        return Const(value, scanner.dtype())
    start = scanner.at
    text = scanner.number()
    scanner.expect(":")
    dtype = scanner.dtype()
    if dtype.is_float:
        return Const(float("nan") if "nan" in text else float(text), dtype)
    if dtype.kind == "bool":
        scanner.fail("true or false before :bool", start)
    if not text.lstrip("-").isdigit():
        scanner.fail(f"an integer before :{dtype.name}", start)
    return Const(int(text), dtype)
