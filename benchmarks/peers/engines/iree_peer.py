"""IREE: llvm-cpu for this processor, all optimisations; local-sync for one thread, local-task for more."""
# The peer lives in an environment of its own and comes without types.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import iree.runtime as rt
import numpy as np
import onnx
from iree.runtime import flags

from benchmarks.peers.engines.pinned import input_names, pin
from benchmarks.peers.jobs import Call, Job, RefusedError, contiguous

COMPILE = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=host",
    "--iree-opt-level=O3",
    # Fused softmax over a long axis needs more than the 32 KiB that are allowed by default.
    "--iree-llvmcpu-stack-allocation-limit=262144",
)


def prepare(job: Job) -> Call:
    """Import, compile, load. The compiled module serves any number of threads; a process only one."""
    model = pin(job)
    module = _compiled(model, job.folder)
    if job.threads > 1:
        flags.parse_flags(f"--task_topology_group_count={job.threads}")
    config = rt.Config("local-sync" if job.threads == 1 else "local-task")
    loaded = rt.load_vm_module(rt.VmModule.mmap(config.vm_instance, str(module)), config)
    names = [n for n in loaded.vm_module.function_names if not n.startswith("__") and not n.endswith("$async")]
    if len(names) != 1:
        raise RefusedError(f"the compiled module has the functions {', '.join(names)}, not one")
    function = loaded[names[0]]
    arrays = [contiguous(job.inputs[name]) for name in input_names(model)]

    def run() -> list[np.ndarray]:
        result = function(*arrays)
        return [value.to_host() for value in (result if isinstance(result, (tuple, list)) else (result,))]

    return run


def version() -> str:
    """Of the runtime package."""
    return metadata.version("iree-base-runtime")


def _compiled(model: Path, folder: Path) -> Path:
    imported, made = folder / "model.mlir", folder / "model.vmfb"
    if not made.exists():
        unfinished = made.with_suffix(".partial")
        importer = (sys.executable, "-m", "iree.compiler.tools.import_onnx", str(model), "-o", str(imported))
        try:
            _tool("import", *importer, *_newer(model))
        except RefusedError:
            _tool("import", *importer)  # what cannot be converted may still be read
        compiler = Path(sys.executable).with_name("iree-compile")
        _tool("compile", str(compiler), str(imported), *COMPILE, "-o", str(unfinished))
        imported.unlink()
        unfinished.replace(made)
    return made


def _newer(model: Path) -> tuple[str, ...]:
    """Its importer is made for opset 17 and later, and converts what is older when it is told to."""
    imports = onnx.load(str(model), load_external_data=False).opset_import
    return ("--opset-version", "17") if any(not each.domain and each.version < 17 for each in imports) else ()


def _tool(what: str, *command: str) -> None:
    """Run one of its programs; raises RefusedError with the first line of what went wrong."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        errors = [line for line in lines if "error:" in line.lower()]
        raise RefusedError(f"does not {what}: {(errors or lines[-1:])[0].split('error: ')[-1][:200]}")
