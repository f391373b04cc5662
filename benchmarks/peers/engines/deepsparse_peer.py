"""DeepSparse: one stream, as many cores as threads. Shapes are pinned here: its own way writes to the model's file."""
# The peer lives in an environment of its own and comes without types.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

from importlib import metadata

from deepsparse import Engine

from benchmarks.peers.engines.pinned import pin
from benchmarks.peers.jobs import Call, Job, contiguous


def prepare(job: Job) -> Call:
    """Compile. Without a batch size the model's own shapes hold, wherever its batch axes are."""
    engine = Engine(str(pin(job)), batch_size=None, num_cores=job.threads, num_streams=1, scheduler="single_stream")
    arrays = [contiguous(job.inputs[name]) for name in engine.input_names]
    return lambda: engine.run(arrays, val_inp=False)


def version() -> str:
    """Of the package."""
    return metadata.version("deepsparse")
