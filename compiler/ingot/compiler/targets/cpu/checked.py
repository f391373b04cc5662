"""Programs whose kernels know the extent of every buffer: what a checked build is made of.

Each kernel gets, behind its own parameters, the status as one more buffer, and as dims where each buffer begins in its
storage, how many elements that storage has, and the number of the launch's first fault. `access_checks` puts the checks
into the kernel's code; a violation is fault number first + i for buffer i, or for an array on the stack first + the
number of buffers, with the element in the bits above (`ingot.runtime.checked`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ingot.compiler.ir.dims import show
from ingot.compiler.ir.loops import Buffer, Kernel
from ingot.compiler.ir.program import Argument, Bind, Branch, Host, Launch, Program, Repeat, Step, Stop, Storage
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.errors import TargetError
from ingot.runtime.checked import FOUND
from ingot.runtime.dtypes import i64

# The parameters that a checked kernel has besides its own; a dot is in no other name.
STATUS = "checked.status"
FIRST = "checked.first"


def start_dim(buffer: str) -> str:
    """The dim parameter that holds the element of its storage where `buffer` begins."""
    return f"checked.start.{buffer}"


def extent_dim(buffer: str) -> str:
    """The dim parameter that holds the elements of the storage of `buffer`."""
    return f"checked.extent.{buffer}"


def own_buffers(kernel: Kernel) -> tuple[Buffer, ...]:
    """The buffers that a checked kernel had before. Raises IrError for a kernel that is not checked."""
    if not kernel.buffers or kernel.buffers[-1].name != STATUS or FIRST not in kernel.dims:
        raise IrError("code with checks is asked for, but the kernel does not know the extents of its buffers")
    return kernel.buffers[:-1]


def checked_program(program: Program) -> Program:
    """`program` with the extents of buffers as parameters of its kernels, and a fault for every buffer of every launch.

    Raises TargetError where there are more faults than the status has bits for, IrError where a step itself (a branch's
    condition, a loop's counter) is bound beyond its storage.
    """
    status = next(iter(program.of_kind("status")), None) or Storage("status", "status", i64, 1)
    storages = program.storages if status in program.storages else (*program.storages, status)
    extension = _Extension(status, list(program.faults))
    steps = extension.steps(program.steps)
    if len(extension.faults) + len(program.late_storages()) >= FOUND:
        raise TargetError(f"{program.name} has too many kernel launches for a checked build: check a part (ingot cut)")
    return replace(program, storages=storages, steps=steps, faults=tuple(extension.faults))


@dataclass(eq=False)
class _Extension:
    status: Storage
    faults: list[str]
    kernels: dict[Kernel, Kernel] = field(default_factory=dict[Kernel, Kernel])

    def steps(self, steps: Sequence[Step]) -> tuple[Step, ...]:
        return tuple(map(self.step, steps))

    def step(self, step: Step) -> Step:
        match step:
            case Launch():
                return self.launch(step)
            case Branch():
                _require_inside("a branch's condition", step.condition)
                return replace(step, then=self.steps(step.then), otherwise=self.steps(step.otherwise))
            case Repeat():
                for what in ("counter", "trip", "condition"):
                    if (argument := getattr(step, what)) is not None:
                        _require_inside(f"a loop's {what}", argument)
                return replace(step, body=self.steps(step.body))
            case Bind():
                _require_inside(f"the size {step.symbol}", step.value)
                return step
            case Host() | Stop():
                return step

    def launch(self, launch: Launch) -> Launch:
        kernel = self.kernels.get(launch.kernel)
        if kernel is None:
            kernel = self.kernels[launch.kernel] = _extended(launch.kernel)
        first = len(self.faults) + 1
        origin = f", from {', '.join(launch.origin)}" if launch.origin else ""
        for buffer, argument in zip(launch.kernel.buffers, launch.buffers, strict=True):
            storage = argument.storage
            self.faults.append(
                f"kernel {kernel.name}: an access through {buffer.name} is outside the {show(storage.size)} elements "
                f"({storage.dtype.name}) of the {storage.kind} {storage.name}{origin}"
            )
        self.faults.append(f"kernel {kernel.name}: an access is outside an array on its stack{origin}")
        extents = [dim for a in launch.buffers for dim in (a.offset, a.storage.size)]
        return replace(
            launch,
            kernel=kernel,
            buffers=(*launch.buffers, Argument(self.status)),
            dims=(*launch.dims, *extents, first),
        )


def _extended(kernel: Kernel) -> Kernel:
    extents = [dim for b in kernel.buffers for dim in (start_dim(b.name), extent_dim(b.name))]
    return replace(
        kernel,
        buffers=(*kernel.buffers, Buffer(STATUS, i64, "readwrite")),
        dims=(*kernel.dims, *extents, FIRST),
    )


def _require_inside(what: str, argument: Argument) -> None:
    """Steps read single elements at places that are nearly always constant: those are checked here."""
    offset, size = argument.offset, argument.storage.size
    if isinstance(offset, int) and isinstance(size, int) and not 0 <= offset < size:
        raise IrError(f"{what} is element {offset} of {argument.storage.name}, which has {size} elements")
