"""The text form of programs.

    program "classifier" {
      dims {batch: 1..64}
      faults ("index out of range")
      strings ("", "yes")
      input x: f32[3*batch] as f32[batch, 3]  ; "x"
      weight w = f32[48]@0123456789abcdef
      temp t: f32[16*batch]  ; "Gemm_0"
      output y: f32[16*batch] as f32[batch, 16]
      status fault: i64[1]
      kernel gemm_0(...) { ... }
      launch gemm_0(x, w, t[0]; batch)  ; "Gemm_0"
      if c[0] {
        launch ...
      } else {
      }
      repeat i trip n while c {
        launch ...
      }
      host "string_concat" (s as string[3], w as string[]) to (t as string[3]) {} fault 1
    }

Each kernel is written once, before the steps. ``t`` is ``t[0]``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence

from ingot.compiler.ir import dims
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import (
    Argument,
    Bind,
    Branch,
    Host,
    HostTensor,
    Launch,
    Program,
    Repeat,
    Step,
    Stop,
    Storage,
)
from ingot.compiler.ir.text.arrays import Array, parse_array, show_array
from ingot.compiler.ir.text.fields import Fields, parse_ranges, show_ranges
from ingot.compiler.ir.text.loops import TEMPLATES, Templates, read_kernel, show_kernel
from ingot.compiler.ir.text.scanner import Scanner, parse_origin, show_name, show_origin
from ingot.compiler.ir.types import IrError
from ingot.runtime.dtypes import from_numpy

_RESERVED = frozenset(
    (
        *("program", "dims", "faults", "strings", "kernel", "launch", "if", "else", "repeat", "trip", "while", "as"),
        *("bind", "stop", "host", "to"),
        *("input", "output", "weight", "temp", "status", "entropy"),
    )
)


def show_program(program: Program, resources: MutableMapping[str, Array] | None = None) -> str:
    """`program` as text. Weights of more than 16 elements are put into `resources` under their hash; without
    `resources` the text still names the hash but cannot be parsed. Raises IrError when two kernels share a name."""
    lines = [f"program {json.dumps(program.name, ensure_ascii=False)} {{"]
    if program.ranges:
        lines.append(f"  dims {show_ranges(program.ranges)}")
    if program.faults:
        lines.append(f"  faults {Fields({}).show(program.faults)}")
    if program.strings:
        lines.append(f"  strings {Fields({}).show(program.strings)}")
    for storage in program.storages:
        lines.append("  " + _show_storage(storage, resources))
    kernels: dict[str, Kernel] = {}
    for launch in program.launches():
        known = kernels.setdefault(launch.kernel.name, launch.kernel)
        if known is not launch.kernel and known != launch.kernel:
            raise IrError(f"program {program.name}: two different kernels are named {launch.kernel.name!r}")
    lines.extend(show_kernel(kernel, 1) for kernel in kernels.values())
    lines.extend(_show_steps(program.steps, 1))
    return "\n".join([*lines, "}"]) + "\n"


def parse_program(
    text: str,
    resources: Mapping[str, Array] | None = None,
    *,
    templates: Templates = TEMPLATES,
    source: str = "text",
) -> Program:
    """The program that `show_program` wrote. Raises TextError with line and column."""
    scanner = Scanner(text, source)
    program = _Reader(resources or {}, templates).program(scanner)
    if not scanner.done:
        scanner.fail("the end")
    return program


def _name(name: str) -> str:
    return show_name(name, _RESERVED)


def _show_storage(s: Storage, resources: MutableMapping[str, Array] | None) -> str:
    if s.kind == "weight":
        if s.data is None:
            raise IrError(f"weight {s.name} has no data")
        return f"weight {_name(s.name)} = {show_array(s.data, resources, s.__dict__)}{show_origin(s.origin)}"
    tensor = f" as {s.type}" if s.type is not None else ""
    return f"{s.kind} {_name(s.name)}: {s.dtype.name}[{dims.show(s.size)}]{tensor}{show_origin(s.origin)}"


def _show_argument(argument: Argument) -> str:
    offset = "" if argument.offset == 0 else f"[{dims.show(argument.offset)}]"
    return _name(argument.storage.name) + offset


def _show_tensors(tensors: Sequence[HostTensor]) -> str:
    return ", ".join(f"{_show_argument(t.argument)} as {t.type}" for t in tensors)


def _show_steps(steps: Sequence[Step], indent: int) -> list[str]:
    margin = "  " * indent
    lines: list[str] = []
    for step in steps:
        origin = show_origin(step.origin)
        match step:
            case Launch(kernel=kernel, buffers=buffers, dims=values):
                given = ", ".join(map(_show_argument, buffers))
                given += "; " + ", ".join(map(dims.show, values)) if values else ""
                lines.append(f"{margin}launch {_name(kernel.name)}({given}){origin}")
            case Branch(condition=condition, then=then, otherwise=otherwise):
                lines.append(f"{margin}if {_show_argument(condition)} {{")
                lines += _show_steps(then, indent + 1)
                if otherwise:
                    lines += [margin + "} else {", *_show_steps(otherwise, indent + 1)]
                lines.append(f"{margin}}}{origin}")
            case Repeat(counter=counter, trip=trip, condition=condition, body=body):
                head = f"{margin}repeat {_show_argument(counter)}"
                head += f" trip {_show_argument(trip)}" if trip is not None else ""
                head += f" while {_show_argument(condition)}" if condition is not None else ""
                lines += [head + " {", *_show_steps(body, indent + 1), f"{margin}}}{origin}"]
            case Bind(symbol=symbol, value=value, fault=fault):
                lines.append(f"{margin}bind {symbol} = {_show_argument(value)} fault {fault}{origin}")
            case Host(function=function, operands=operands, results=results, attributes=attributes, fault=fault):
                read, wrote, given = _show_tensors(operands), _show_tensors(results), Fields({}).show(attributes)
                lines.append(f'{margin}host "{function}" ({read}) to ({wrote}) {given} fault {fault}{origin}')
            case Stop():
                lines.append(f"{margin}stop{origin}")
    return lines


class _Reader:
    def __init__(self, resources: Mapping[str, Array], templates: Templates) -> None:
        self.resources = resources
        self.templates = templates
        self.storages: dict[str, Storage] = {}
        self.kernels: dict[str, Kernel] = {}

    def program(self, scanner: Scanner) -> Program:
        scanner.expect("program")
        name = scanner.string("the program's name in quotes")
        scanner.expect("{")
        ranges = parse_ranges(scanner) if scanner.accept("dims") else {}
        faults: tuple[str, ...] = ()
        if scanner.accept("faults"):
            faults = Fields({}).parse(scanner, tuple[str, ...])
        strings: tuple[str, ...] = ()
        if scanner.accept("strings"):
            strings = Fields({}).parse(scanner, tuple[str, ...])
        while self.storage(scanner):
            pass
        while scanner.sees("kernel"):
            start = scanner.at
            kernel = read_kernel(scanner, self.templates)
            if kernel.name in self.kernels:
                scanner.fail("a kernel's name that is not taken", start)
            self.kernels[kernel.name] = kernel
        steps = self.steps(scanner)
        return Program(name, tuple(self.storages.values()), steps, ranges, faults, strings)

    def storage(self, scanner: Scanner) -> bool:
        start = scanner.at
        if scanner.accept("weight"):
            name = self.new_name(scanner)
            scanner.expect("=")
            at = scanner.at
            data = parse_array(scanner, self.resources)
            if data.ndim != 1:
                scanner.fail("an array with one axis", at)
            origin = parse_origin(scanner)
            self.storages[name] = Storage(
                name, "weight", from_numpy(data.dtype), int(data.size), data=data, origin=origin
            )
            return True
        for kind in ("input", "output", "temp", "status", "entropy"):
            if scanner.accept(kind):
                name = self.new_name(scanner)
                scanner.expect(":")
                dtype = scanner.dtype()
                scanner.expect("[")
                size = scanner.dim()
                scanner.expect("]")
                declared = scanner.tensor_type() if scanner.accept("as") else None
                if kind in ("input", "output") and declared is None:
                    scanner.fail(f"'as' and the type of the {kind}", start)
                self.storages[name] = Storage(name, kind, dtype, size, declared, origin=parse_origin(scanner))
                return True
        return False

    def new_name(self, scanner: Scanner) -> str:
        start = scanner.at
        name = scanner.name("a storage's name")
        if name in self.storages:
            scanner.fail("a storage's name that is not taken", start)
        return name

    def steps(self, scanner: Scanner) -> tuple[Step, ...]:
        """Steps up to and with the closing brace."""
        steps: list[Step] = []
        while not scanner.accept("}"):
            steps.append(self.step(scanner))
        return tuple(steps)

    def step(self, scanner: Scanner) -> Step:
        if scanner.accept("launch"):
            return self.launch(scanner)
        if scanner.accept("if"):
            condition = self.argument(scanner)
            scanner.expect("{")
            then = self.steps(scanner)
            otherwise: tuple[Step, ...] = ()
            if scanner.accept("else"):
                scanner.expect("{")
                otherwise = self.steps(scanner)
            return Branch(condition, then, otherwise, parse_origin(scanner))
        if scanner.accept("repeat"):
            counter = self.argument(scanner)
            trip = self.argument(scanner) if scanner.accept("trip") else None
            condition = self.argument(scanner) if scanner.accept("while") else None
            scanner.expect("{")
            return Repeat(counter, trip, condition, self.steps(scanner), parse_origin(scanner))
        if scanner.accept("bind"):
            symbol = scanner.word("a dim's name")
            scanner.expect("=")
            value = self.argument(scanner)
            scanner.expect("fault")
            return Bind(symbol, value, scanner.integer(), parse_origin(scanner))
        if scanner.accept("host"):
            function = scanner.string("a host function's name in quotes")
            operands = self.tensors(scanner)
            scanner.expect("to")
            results = self.tensors(scanner)
            attributes = Fields({}).parse(scanner, Mapping[str, int | bool | str | tuple[str, ...]])
            scanner.expect("fault")
            return Host(function, operands, results, attributes, scanner.integer(), parse_origin(scanner))
        if scanner.accept("stop"):
            return Stop(parse_origin(scanner))
        scanner.fail("launch, if, repeat, bind, host, stop or '}'")

    def tensors(self, scanner: Scanner) -> tuple[HostTensor, ...]:
        found: list[HostTensor] = []
        scanner.expect("(")
        while not scanner.accept(")"):
            if found:
                scanner.expect(",")
            argument = self.argument(scanner)
            scanner.expect("as")
            found.append(HostTensor(argument.storage, argument.offset, scanner.tensor_type()))
        return tuple(found)

    def launch(self, scanner: Scanner) -> Launch:
        start = scanner.at
        name = scanner.name("a kernel's name")
        if name not in self.kernels:
            scanner.fail("a kernel defined above", start)
        kernel = self.kernels[name]
        buffers: list[Argument] = []
        values: list[dims.Dim] = []
        scanner.expect("(")
        while not (scanner.sees(")") or scanner.sees(";")):
            if buffers:
                scanner.expect(",")
            buffers.append(self.argument(scanner))
        if scanner.accept(";"):
            values.append(scanner.dim())
            while scanner.accept(","):
                values.append(scanner.dim())
        if len(buffers) != len(kernel.buffers) or len(values) != len(kernel.dims):
            scanner.fail(f"{len(kernel.buffers)} buffers and {len(kernel.dims)} dims for {name}", start)
        scanner.expect(")")
        return Launch(kernel, tuple(buffers), tuple(values), parse_origin(scanner))

    def argument(self, scanner: Scanner) -> Argument:
        start = scanner.at
        name = scanner.name("a storage's name")
        if name not in self.storages:
            scanner.fail("a storage defined above", start)
        if not scanner.accept("["):
            return Argument(self.storages[name])
        offset = scanner.dim()
        scanner.expect("]")
        return Argument(self.storages[name], offset)
