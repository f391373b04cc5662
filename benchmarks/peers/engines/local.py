"""The engines of this environment, by the same protocol; Ingot compiles the model first."""

from __future__ import annotations

from benchmarks.peers.jobs import Call, Job
from ingot.compiler.bench import engines

_VERSIONS: dict[str, str] = {}


def prepare(name: str, job: Job) -> Call:
    """An engine of `ingot.compiler.bench.engines` at its best settings."""
    if name == "ingot":
        from ingot.compiler import compile

        artifact = job.folder / "model.ingot"
        if not artifact.exists():
            compile(job.model).save(artifact)
        engine = engines.ingot(artifact, job.threads)
    else:
        engine = engines.PEERS[name](job.model, job.threads)
    _VERSIONS[name] = engine.version
    inputs = dict(job.inputs)
    return lambda: list(engine.run(inputs).values())


def version(name: str) -> str:
    """Of an engine that was made ready."""
    return _VERSIONS[name]
