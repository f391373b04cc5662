"""Level 3, the program: kernel launches, branches and loops over buffers with lifetimes.

Execution is sequential step by step; inside a launch the chunks of the grid run in parallel. Values that a branch or
a loop produces are buffers that every path writes: there are no phi nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim, ceil_divide, product, substitute, symbols
from ingot.compiler.ir.loops import Axis, Kernel
from ingot.compiler.ir.types import TensorType
from ingot.runtime.dtypes import DType
from ingot.runtime.host.attributes import Attribute

Kind: TypeAlias = Literal["input", "output", "weight", "temp", "status", "entropy"]


@dataclass(frozen=True, eq=False)
class Storage:
    """A buffer: `size` elements. Inputs and outputs are dense row-major tensors of `type`; a weight has its `data`
    (1-D, already packed); a temp lives in the arena between its first and last use. The status (at most one, i64, one
    element) is zero before a run; a kernel that meets bad data stores a fault number there: 1 + an index into
    `Program.faults`. The entropy (at most one, u64, two elements) keeps what it holds from run to run: the key of the
    session's random numbers, and a count that a kernel raises."""

    name: str
    kind: Kind
    dtype: DType
    size: Dim
    type: TensorType | None = None  # of inputs and outputs
    data: NDArray[Any] | None = None  # of weights
    origin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Argument:
    """What a kernel's buffer parameter is bound to: element `offset` of `storage`."""

    storage: Storage
    offset: Dim = 0


@dataclass(frozen=True, eq=False)
class Launch:
    """Run `kernel` over its grid: `buffers` in the order of ``kernel.buffers``, `dims` in that of ``kernel.dims``."""

    kernel: Kernel
    buffers: tuple[Argument, ...]
    dims: tuple[Dim, ...]
    origin: tuple[str, ...] = ()

    @property
    def grid(self) -> tuple[Axis, ...]:
        """The kernel's grid in terms of the program's symbols."""
        values = dict(zip(self.kernel.dims, self.dims, strict=True))
        return tuple(Axis(a.var, substitute(a.extent, values), substitute(a.grain, values)) for a in self.kernel.grid)

    @cached_property
    def chunks(self) -> Dim:
        """Number of chunks of one launch."""
        return product(ceil_divide(a.extent, a.grain) for a in self.grid)


@dataclass(frozen=True, eq=False, slots=True)
class Branch:
    """Run `then` if the bool element at `condition` holds, else `otherwise`."""

    condition: Argument
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...]
    origin: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Repeat:
    """``i = 0; while (no trip or i < trip) and (no condition or condition): body; i += 1``.

    `counter` (i64, one element) holds i while the body runs; `trip` (i64) is read once, before; `condition` (bool) is
    read before every iteration, the body may write it."""

    counter: Argument
    trip: Argument | None
    condition: Argument | None
    body: tuple[Step, ...]
    origin: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Bind:
    """From here on the symbol has the value that the i64 element at `value` holds now.

    The run ends where the status is set already, and with fault number `fault` where the value is outside the range of
    the symbol; all binds of one symbol have one number. Storages whose size mentions the symbol get their memory here
    (see `late_storages`), as soon as all their symbols are bound; what they held before is lost.
    """

    symbol: str
    value: Argument
    fault: int
    origin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostTensor:
    """What a host function reads or writes: a tensor of `type` from element `offset` of `storage` on, row-major without
    gaps. Strings are handles there: the storage holds i64."""

    storage: Storage
    offset: Dim
    type: TensorType

    @property
    def argument(self) -> Argument:
        """The first element."""
        return Argument(self.storage, self.offset)


@dataclass(frozen=True, eq=False, slots=True)
class Host:
    """The host computes `function`, one of `ingot.runtime.host.functions`: from `operands` it writes `results`.

    The run ends where the status is set already, and with fault number `fault` where the function fails.
    """

    function: str
    operands: tuple[HostTensor, ...]
    results: tuple[HostTensor, ...]
    attributes: Mapping[str, Attribute]
    fault: int
    origin: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Stop:
    """The run ends here where the status is set."""

    origin: tuple[str, ...] = ()


Step: TypeAlias = Launch | Branch | Repeat | Bind | Host | Stop


@dataclass(frozen=True, eq=False)
class Program:
    """A whole model at level 3. `ranges` bounds the symbols (both ends included). `strings` are the model's own, which
    handles in weights and kernels number; the first is empty. There are none where the model has no strings."""

    name: str
    storages: tuple[Storage, ...]
    steps: tuple[Step, ...]
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    faults: tuple[str, ...] = ()  # messages for what a kernel may report in the status storage
    strings: tuple[str, ...] = ()

    def of_kind(self, kind: Kind) -> tuple[Storage, ...]:
        """The storages of one kind, in order."""
        return tuple(s for s in self.storages if s.kind == kind)

    def all_steps(self) -> Iterator[Step]:
        """All steps, each before those nested in it, in program order."""
        stack: list[Step] = list(reversed(self.steps))
        while stack:
            step = stack.pop()
            yield step
            match step:
                case Branch(then=then, otherwise=otherwise):
                    stack.extend(reversed((*then, *otherwise)))
                case Repeat(body=body):
                    stack.extend(reversed(body))
                case _:
                    pass

    def launches(self) -> Iterator[Launch]:
        """All launches, nested ones included, in program order."""
        return (step for step in self.all_steps() if isinstance(step, Launch))

    def host_steps(self) -> Iterator[Host]:
        """All host steps, nested ones included, in program order."""
        return (step for step in self.all_steps() if isinstance(step, Host))

    def timed(self) -> Iterator[Launch | Host]:
        """What a profile measures, in program order."""
        return (step for step in self.all_steps() if isinstance(step, Launch | Host))

    def bound(self) -> dict[str, int]:
        """The symbols that steps bind, in order, with the number of the fault that a value out of range is."""
        return {step.symbol: step.fault for step in self.all_steps() if isinstance(step, Bind)}

    def late_storages(self) -> dict[Storage, int]:
        """The storages whose sizes are known only during the run: they have memory of their own, outside the arena,
        which is kept and enlarged when it is too small. With each the number of the fault that is reported when there
        is not enough; those numbers follow on those of `faults`."""
        bound = self.bound().keys()
        late = [s for s in self.storages if symbols(s.size) & bound] if bound else []
        return {storage: len(self.faults) + 1 + i for i, storage in enumerate(late)}
