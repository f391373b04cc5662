"""ncnn: converted by pnnx, f32 throughout. It has no batch axis: the first of every array, of extent 1, goes."""
# The peer lives in an environment of its own and comes without types.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import math
import subprocess
from importlib import metadata, util
from pathlib import Path

import ncnn
import numpy as np

from benchmarks.peers.engines.pinned import input_names, output_shapes, pin
from benchmarks.peers.jobs import Call, Job, RefusedError, contiguous

KINDS = {"float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32", "uint8": "u8", "bool": "bool"}


def prepare(job: Job) -> Call:
    """Convert, load. pnnx calls inputs and outputs in0, in1, ... and out0, ... in the model's order."""
    model = pin(job)
    names = input_names(model)
    if batched := [name for name in names if job.shape(name)[:1] != (1,)]:
        raise RefusedError(f"ncnn has no batch axis, and the first axis of {batched[0]} is not of extent 1")
    param, weights = _converted(model, job)
    net = ncnn.Net()
    net.opt.num_threads = job.threads
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise RefusedError("ncnn does not load what pnnx makes of the model")
    arrays = [contiguous(_narrow(job.inputs[name][0])) for name in names]
    shapes = output_shapes(model)

    def run() -> list[np.ndarray]:
        outputs: list[np.ndarray] = []
        with net.create_extractor() as extractor:
            for number, array in enumerate(arrays):
                extractor.input(f"in{number}", ncnn.Mat(array))
            for number, shape in enumerate(shapes):
                status, value = extractor.extract(f"out{number}")
                if status:
                    raise RefusedError(f"ncnn does not compute output {number} (status {status})")
                found = np.array(value)[None]
                outputs.append(found.reshape(shape) if shape and math.prod(shape) == found.size else found)
        return outputs

    return run


def version() -> str:
    """Of the package."""
    return metadata.version("ncnn")


def _narrow(array: np.ndarray) -> np.ndarray:
    """Elements of ncnn have 32 bits at most."""
    return array.astype(np.int32) if array.dtype.kind in "iu" else array


def _converted(model: Path, job: Job) -> tuple[Path, Path]:
    param, weights = job.folder / "model.ncnn.param", job.folder / "model.ncnn.bin"
    if not weights.exists():
        specification = util.find_spec("pnnx")
        if specification is None or specification.origin is None:
            raise RefusedError("pnnx is not installed")
        arrays = [job.inputs[name] for name in input_names(model)]
        shapes = ",".join(f"[{','.join(map(str, array.shape))}]{KINDS[array.dtype.name]}" for array in arrays)
        done = subprocess.run(
            (str(Path(specification.origin).with_name("pnnx")), str(model), f"inputshape={shapes}", "fp16=0",
             f"ncnnparam={param}", f"ncnnbin={weights}"),
            cwd=job.folder, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if not param.exists() or not weights.exists():
            said = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
            raise RefusedError(f"pnnx does not convert it: {said[:200]}")
    return param, weights
