"""tract: the optimised model on concrete input facts. What its Python package offers runs on one thread."""
# The peer lives in an environment of its own and comes without types.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

from importlib import metadata

import tract

from benchmarks.peers.jobs import Call, Job, RefusedError, contiguous


def prepare(job: Job) -> Call:
    """Load, set the facts of the inputs, optimise."""
    if job.threads > 1:
        raise RefusedError("its Python package runs on one thread")
    loaded = tract.onnx().load(job.model)
    names = [loaded.input_name(number) for number in range(loaded.input_count())]
    for number, name in enumerate(names):
        array = job.inputs[name]
        kind = "bool" if array.dtype.kind == "b" else f"{array.dtype.kind}{8 * array.dtype.itemsize}"
        loaded.set_input_fact(number, ",".join((*map(str, array.shape), kind)))
    runnable = loaded.into_model().into_runnable()
    arrays = [contiguous(job.inputs[name]) for name in names]
    return lambda: [value.to_numpy() for value in runnable.run(arrays)]


def version() -> str:
    """Of the package."""
    return metadata.version("tract")
