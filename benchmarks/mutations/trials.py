"""What is done with a damaged file, in a process of its own; what is raised is a failure."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from types import FrameType
from typing import get_args

import numpy as np

from ingot.compiler.api import compile
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.frontend.onnx import load_onnx
from ingot.compiler.ir.graph import Array, Graph
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.validate import compare, make_probes
from ingot.runtime import ArtifactError, InputError, RuntimeFault, Session
from ingot.runtime.dims import compile_dims
from ingot.runtime.environment import read_environment
from ingot.runtime.inputs import solve
from ingot.runtime.library import Library, Verify

SECONDS = 10.0
MEMORY = 1 << 30
"""Bytes that a trial may take beyond what its process has at the start."""
LARGEST_RUN = 10**9
"""Operations of a run; models that became larger are compiled only."""
TOLERANCE = {"f64": 1e-8, "f32": 2e-2, "f16": 5e-2, "bf16": 2e-1}


class WrongResultError(AssertionError):
    """What was compiled computes something else than its graph."""


class _NoReferenceError(Exception):
    """The interpreter takes too long."""


def examine_model(path: Path) -> None:
    """Compile and run the model at `path`. Raises what is a failure."""
    _bound_memory()
    try:
        graph = load_onnx(path)
    except ModelError:
        return
    artifact = compile(graph, jobs=1, repro=path.parent)
    artifact.save(saved := path.with_suffix(".ingot"))
    with np.errstate(all="ignore"):
        probes = _probes(graph)
    with Session(saved, threads=1) as session:
        for probe in probes:
            if _operations(saved, probe) > LARGEST_RUN:
                continue
            try:
                have = session.run(probe)
            except (RuntimeFault, InputError):
                continue
            if (wanted := _reference(graph, probe)) is None:
                continue
            if not _is_huge(wanted) and (found := compare(wanted, have, TOLERANCE)):
                raise WrongResultError(str(found))


def examine_artifact(path: Path) -> None:
    """Run the artifact at `path`, whose original and its results lie beside it. Raises what is a failure."""
    _bound_memory()
    with np.load(path.with_suffix(".npz")) as arrays:
        inputs = {name[1:]: arrays[name] for name in arrays.files if name[0] == "i"}
        wanted = {name[1:]: arrays[name] for name in arrays.files if name[0] == "o"}
        data = arrays["artifact"].tobytes()
    path.write_bytes(data)
    for verify in get_args(Verify):
        try:
            with Session(path, threads=1, verify=verify) as session:
                have = session.run(inputs)
        except ArtifactError:
            continue
        if verify == "full" and (found := compare(wanted, have)):  # else the weights may be others
            raise WrongResultError(str(found))


def _is_huge(outputs: dict[str, Array]) -> bool:
    """True where numbers are so large that the order of operations decides about infinities."""
    floats = [array for array in outputs.values() if array.dtype.kind == "f"]
    with np.errstate(all="ignore"):
        return any(bool((~(np.abs(array) < (1e4 if array.itemsize < 4 else 1e30))).any()) for array in floats)


def _probes(graph: Graph) -> list[dict[str, Array]]:
    sizes = [d for i in graph.inputs for d in i.shape if isinstance(d, int)]
    if any(size > 2**20 for size in sizes):
        return []
    try:
        return make_probes(graph)
    except (ValueError, ArithmeticError, MemoryError):  # inputs that nobody has the memory for
        return []


def _operations(path: Path, probe: dict[str, Array]) -> int:
    library = Library(path, verify="code", environment=read_environment())
    try:
        values = solve(library.manifest, tuple(probe[i.name].shape for i in library.manifest.inputs))
        return sum(compile_dims((cost.flops, cost.bytes)).evaluate(values)[0] for cost in library.costs() or ())
    except InputError:
        return 0  # sizes from data, or beyond all bounds: the run says so
    finally:
        library.close()


def _reference(graph: Graph, probe: dict[str, Array]) -> dict[str, Array] | None:
    """The interpreter's outputs; None where it fails or takes more than half of the time."""
    previous = signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, SECONDS / 3)
    try:
        with np.errstate(all="ignore"):
            return evaluate_graph(graph, probe)
    except Exception:  # the compiled model is right to go on where numpy has no memory, and the other way round
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _give_up(number: int, frame: FrameType | None) -> None:
    raise _NoReferenceError


def _bound_memory() -> None:
    """Once in a process: no more than MEMORY beyond what it has."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
