# pyright: basic
# llvmlite is untyped.
"""One kernel, one relocatable object: LLVM's code generator for a level.

LLVM's mid-level passes are skipped: the emitters write what they would leave. So is the code generator's reduction of
strength in loops for the templates with the most code, where it would take two fifths of the time to find the addresses
that they are written with. For code that has little to do (the
walk over the program, kernels that `effort` names) LLVM's fast selection of instructions does: it takes a third to a
tenth of the time.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from dataclasses import replace

from llvmlite import binding as llvm
from llvmlite import ir

from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.sparse import SparseProduct, SparseVector
from ingot.compiler.ir.templates import Contraction, Strassen
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu.assembly import module_text
from ingot.compiler.targets.cpu.emit import emit_kernel
from ingot.compiler.targets.cpu.features import Level

_EMITTING = threading.Lock()


def kernel_symbol(kernel: Kernel) -> str:
    """The name of the function that structurally equal kernels share, whatever they are called."""
    return "k" + hashlib.sha256(kernel_text(kernel).encode()).hexdigest()[:16]


def kernel_text(kernel: Kernel) -> str:
    """All that the object of a kernel depends on, besides the level."""
    return repr(replace(kernel, name="", flops=0))


class KernelSymbols:
    """`kernel_symbol`, which reads a kernel to its last expression, asked once for each kernel object."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Kernel, str]] = {}  # a kernel that is alive keeps its id

    def __call__(self, kernel: Kernel) -> str:
        known = self._known.get(id(kernel))
        if known is None:
            known = self._known[id(kernel)] = kernel, kernel_symbol(kernel)
        return known[1]


def level_text(level: Level) -> str:
    """All that an object depends on besides its kernel: the level, and the LLVM that generates the code."""
    # The features that a machine must have are a set, whose order is not fixed, and change no code.
    return f"LLVM {'.'.join(map(str, llvm.llvm_version_info))} {replace(level, required=frozenset())!r}"


@functools.cache
def target_machine(level: Level, *, optimise: bool = True) -> llvm.TargetMachine:
    """LLVM's code generator for a level: position-independent, small code model."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(level.triple)
    return target.create_target_machine(
        cpu=level.cpu, features=level.feature_string, opt=2 if optimise else 0, reloc="pic", codemodel="small"
    )


def new_module(name: str, level: Level) -> ir.Module:
    """An empty module for `level`."""
    module = ir.Module(name)
    module.triple = level.triple
    module.data_layout = str(target_machine(level).target_data)
    return module


def object_code(
    module: ir.Module | str, level: Level, *, optimise: bool = True, reduce_strength: bool = True
) -> bytes:
    """A relocatable ELF object of a module or its text; without `reduce_strength` addresses in loops stay as they are
    written. Raises RuntimeError with LLVM's message when the module is malformed."""
    parsed = llvm.parse_assembly(module if isinstance(module, str) else module_text(module))
    parsed.verify()
    return emitted(parsed, target_machine(level, optimise=optimise), reduce_strength=reduce_strength)


def emitted(module: llvm.ModuleRef, machine: llvm.TargetMachine, *, reduce_strength: bool = True) -> bytes:
    """The object that `machine` makes of a module that was verified; `reduce_strength` as for `object_code`."""
    with _EMITTING:  # one at a time anyway, as llvmlite sees to; what an option changes it changes for all threads
        if reduce_strength:
            return machine.emit_object(module)
        llvm.set_option("ingot", "-disable-lsr=true")
        try:
            return machine.emit_object(module)
        finally:  # other users of LLVM in this process have it again
            llvm.set_option("ingot", "-disable-lsr=false")


def compile_kernel(kernel: Kernel, level: Level, *, optimise: bool = True, name: str | None = None) -> bytes:
    """The object that defines `kernel` under `name`, its symbol where none is given. Raises IrError naming the kernel
    when it is malformed."""
    name = name or kernel_symbol(kernel)
    module = new_module(name, level)
    try:
        emit_kernel(module, kernel, level, name)
    except IrError as error:
        raise IrError(f"kernel {kernel.name}: {error}") from error
    return object_code(module, level, optimise=optimise, reduce_strength=reduces_strength(kernel, level))


def reduces_strength(kernel: Kernel, level: Level) -> bool:
    """Whether the loops of a kernel gain by other addresses than those they are written with: not those of products,
    where any load takes a register, a scaled one and a number."""
    match kernel.body:
        case Strassen() | SparseProduct() | SparseVector() | Contraction(dot=1, blocks=None):
            return level.arch != "x86-64"
        case _:
            return True
