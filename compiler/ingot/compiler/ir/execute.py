"""Reference interpreter of level 3: whole programs, step by step. Kernels are run by `execute_kernel`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.compiler.ir import dims
from ingot.compiler.ir.execute_kernel import BufferArgument, ExecutionError, poisoned, run_kernel
from ingot.compiler.ir.graph import Array, Graph, Input
from ingot.compiler.ir.interpret import bind
from ingot.compiler.ir.program import Bind, Branch, Host, HostTensor, Launch, Program, Repeat, Step, Stop, Storage
from ingot.runtime.dtypes import string
from ingot.runtime.errors import HostError
from ingot.runtime.host.functions import call
from ingot.runtime.host.pool import Constants, Pool

__all__ = ["BufferArgument", "ExecutionError", "FaultError", "run_kernel", "run_program"]


class FaultError(ExecutionError):
    """A kernel reported bad data through the status storage, or a host function failed."""


def run_program(
    program: Program, inputs: Mapping[str, Array], *, check_races: bool = True, entropy: tuple[int, int] = (0, 0)
) -> dict[str, Array]:
    """The outputs by storage name for dense arrays by input storage name.

    `entropy` is the key of random numbers and the number of the run. Symbols come from the input shapes (BindingError
    when they do not fit). Temporaries and outputs start as NaN or an
    unlikely number, so that what is read unwritten shows. Raises FaultError when a kernel sets the status and
    ExecutionError as `run_kernel` does.
    """
    given = program.of_kind("input")
    signature = Graph(tuple(Input(s.name, _type_of(s)) for s in given), (), program.name, program.ranges)
    values = bind(signature, inputs)
    memory: dict[Storage, Array] = {}
    pool = Pool(Constants(program.strings))
    late = program.late_storages()
    for storage in program.storages:
        if storage in late:
            continue
        dtype = storage.dtype.to_numpy()
        size = dims.evaluate(storage.size, values)
        match storage.kind:
            case "input":
                given = np.asarray(inputs[storage.name])
                held = pool.intern(given) if given.dtype.hasobject else given
                memory[storage] = np.array(held, dtype).reshape(-1)
            case "weight":
                if storage.data is None:
                    raise ExecutionError(f"weight {storage.name} has no data")
                memory[storage] = storage.data
            case "status":
                memory[storage] = np.zeros(size, dtype)
            case "entropy":
                memory[storage] = np.array(entropy, dtype)
            case _:
                memory[storage] = poisoned(size, dtype)
    _Machine(program, memory, values, check_races, pool, tuple(late)).steps(program.steps)
    results: dict[str, Array] = {}
    for storage in program.of_kind("output"):
        declared = _type_of(storage)
        array = memory[storage].reshape([dims.evaluate(d, values) for d in declared.shape])
        results[storage.name] = pool.strings(array) if declared.dtype == string else array
    return results


def _type_of(storage: Storage) -> Any:
    if storage.type is None:
        raise ExecutionError(f"{storage.kind} {storage.name} has no type")
    return storage.type


@dataclass(eq=False)
class _Machine:
    program: Program
    memory: dict[Storage, Array]
    values: dict[str, int]
    check_races: bool
    pool: Pool
    late: tuple[Storage, ...] = ()

    def steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Launch():
                    self.launch(step)
                case Branch(condition=condition, then=then, otherwise=otherwise):
                    self.steps(then if self.element(condition) else otherwise)
                case Repeat():
                    self.repeat(step)
                case Bind():
                    self.bind(step)
                case Host():
                    self.host(step)
                case Stop():
                    pass  # a launch that sets the status ends the run

    def bind(self, step: Bind) -> None:
        value = self.element(step.value)
        low, high = self.program.ranges.get(step.symbol, (0, dims.UNBOUNDED))
        if not low <= value <= high:
            raise FaultError(f"{self.program.faults[step.fault - 1]}: it is {value}")
        self.values[step.symbol] = value
        for storage in self.late:
            names = dims.symbols(storage.size)
            if step.symbol in names and names <= self.values.keys():
                size = dims.evaluate(storage.size, self.values)
                if size < 0:
                    raise ExecutionError(f"{storage.name} would have {size} elements")
                self.memory[storage] = poisoned(size, storage.dtype.to_numpy())

    def host(self, step: Host) -> None:
        operands, results = ([self.tensor(t) for t in side] for side in (step.operands, step.results))
        given = [
            self.pool.strings(array) if tensor.type.dtype == string else array
            for tensor, array in zip(step.operands, operands, strict=True)
        ]
        wanted = [(t.type.dtype.to_numpy(), array.shape) for t, array in zip(step.results, results, strict=True)]
        try:
            made = call(step.function, given, step.attributes, wanted)
        except HostError as error:
            raise FaultError(f"{self.program.faults[step.fault - 1]}: {error}") from error
        for target, array in zip(results, made, strict=True):
            target[...] = self.pool.intern(array) if array.dtype.hasobject else array

    def tensor(self, tensor: HostTensor) -> Array:
        """A view of what a host function reads or writes."""
        shape = [dims.evaluate(d, self.values) for d in tensor.type.shape]
        start = dims.evaluate(tensor.offset, self.values)
        array = self.memory[tensor.storage]
        size = math.prod(shape)
        if min(shape, default=0) < 0 or start < 0 or start + size > array.size:
            raise ExecutionError(f"{size} elements from {start} on are outside {tensor.storage.name}, of {array.size}")
        return array[start : start + size].reshape(shape)

    def launch(self, step: Launch) -> None:
        missing = [a.storage.name for a in step.buffers if a.storage not in self.memory]
        if missing:
            raise ExecutionError(f"kernel {step.kernel.name}: {', '.join(missing)} has no memory yet")
        buffers: dict[str, BufferArgument] = {
            parameter.name: (self.memory[a.storage], dims.evaluate(a.offset, self.values))
            for parameter, a in zip(step.kernel.buffers, step.buffers, strict=True)
        }
        values = {name: dims.evaluate(d, self.values) for name, d in zip(step.kernel.dims, step.dims, strict=True)}
        try:
            run_kernel(step.kernel, buffers, values, check_races=self.check_races)
        except ExecutionError as error:
            origin = f" (from {', '.join(step.origin)})" if step.origin else ""
            raise ExecutionError(f"{error}{origin}") from error
        for status in self.program.of_kind("status"):
            number = int(self.memory[status][0])
            if number:
                known = 0 < number <= len(self.program.faults)
                message = self.program.faults[number - 1] if known else f"unknown fault {number}"
                raise FaultError(f"{message} (kernel {step.kernel.name})")

    def repeat(self, step: Repeat) -> None:
        trip = self.element(step.trip) if step.trip is not None else None
        i = 0
        while (trip is None or i < trip) and (step.condition is None or self.element(step.condition)):
            counter = self.memory[step.counter.storage]
            counter[dims.evaluate(step.counter.offset, self.values)] = i
            self.steps(step.body)
            i += 1

    def element(self, argument: Any) -> int:
        array = self.memory[argument.storage]
        at = dims.evaluate(argument.offset, self.values)
        if not 0 <= at < array.size:
            raise ExecutionError(f"element {at} of {argument.storage.name} is outside its {array.size} elements")
        return int(array[at])
