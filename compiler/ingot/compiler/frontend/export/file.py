"""`save_onnx`: models as files of any size. Constants go from their arrays to the file without becoming protobuf."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
import onnx

from ingot.compiler.frontend.export.errors import ExportError
from ingot.compiler.frontend.export.model import LARGEST, Written, write
from ingot.compiler.frontend.export.tensors import little_endian
from ingot.compiler.frontend.wire import varint
from ingot.compiler.ir.graph import Array, Graph
from ingot.runtime.replacement import file_to_replace, replaced

ExternalData: TypeAlias = Literal["auto", "always", "never"]

SUFFIX = ".data"
"""What the name of the model's file is followed by in the name of the file of external data."""
SMALLEST = 1024
"""Bytes from which constants become external; smaller ones stay in the model."""
CHUNK = 2**24
"""Bytes that are written at once."""

_GRAPH, _INITIALIZER, _RAW_DATA, _BYTES = 7, 5, 9, 2  # fields of ModelProto, GraphProto, TensorProto; a wire type


def save_onnx(
    graph: Graph,
    path: str | Path,
    *,
    opset: int = 21,
    name: str | None = None,
    functions: bool = True,
    external_data: ExternalData = "auto",
) -> None:
    """Write `graph` as the ONNX model of `export_onnx`.

    `external_data`: "auto" writes the constants into the model unless they exceed 2 GB, "always" into the file
    ``<path>.data`` beside it, "never" refuses what does not fit. Constants are streamed from their arrays, so that
    memory-mapped weights are never held in memory. Files appear when they are complete. Raises ExportError, OSError,
    InputError for a path that is something else than a regular file (a device, a pipe).
    """
    path = file_to_replace(path)  # external data lies beside what a link leads to
    written = write(graph, opset=opset, name=name, functions=functions)
    fits = written.bytes <= LARGEST
    if external_data == "never" and not fits:
        raise ExportError(f"the constants are {written.bytes / 1e9:.1f} GB, an ONNX file without external data holds 2")
    with ExitStack() as files:
        if external_data == "always" or not fits:
            _write_external(
                written, files.enter_context(replacing(path.with_name(path.name + SUFFIX))), path.name + SUFFIX
            )
            target = files.enter_context(replacing(path))
            target.write(written.model.SerializeToString(deterministic=True))
        else:
            _write_whole(written, files.enter_context(replacing(path)))


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well."""
    with replaced(path) as partial, partial.open("xb") as file:
        yield file


def write_array(data: Array, write: Callable[[memoryview], object]) -> None:
    """The bytes of `data` in row-major order and the byte order of ONNX, in pieces."""
    elements = data.reshape(-1) if data.flags.c_contiguous else data.flat
    step = CHUNK // data.itemsize
    for start in range(0, data.size, step):
        piece = np.ascontiguousarray(little_endian(np.asarray(elements[start : start + step])))
        write(piece.view(np.uint8).data)


def _write_whole(written: Written, file: BinaryIO) -> None:
    """One file. The fields of a message may come in any order: the initialisers are written by hand at the end of the
    graph, each its header followed by the bytes of its array."""
    model = onnx.ModelProto()
    model.CopyFrom(written.model)
    headers = [tensor.SerializeToString(deterministic=True) for tensor in model.graph.initializer]
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString(deterministic=True)
    model.ClearField("graph")
    prefixes: list[bytes] = []
    for header, data in zip(headers, written.constants, strict=True):
        raw = _tag(_RAW_DATA) + varint(data.nbytes)
        prefixes.append(_tag(_INITIALIZER) + varint(len(header) + len(raw) + data.nbytes) + header + raw)
    size = len(graph) + sum(map(len, prefixes)) + written.bytes
    file.write(model.SerializeToString(deterministic=True))
    file.write(_tag(_GRAPH) + varint(size) + graph)
    for prefix, data in zip(prefixes, written.constants, strict=True):
        file.write(prefix)
        write_array(data, file.write)


def _write_external(written: Written, file: BinaryIO, location: str) -> None:
    """The arrays one after the other, at offsets that can be memory-mapped; the tensors say where."""
    offset = 0
    for tensor, data in zip(written.model.graph.initializer, written.constants, strict=True):
        if data.nbytes < SMALLEST:
            tensor.raw_data = little_endian(data).tobytes()
            continue
        padding = -offset % alignment(data.nbytes)
        file.write(b"\0" * padding)
        offset += padding
        refer(tensor, location, offset, data.nbytes)
        write_array(data, file.write)
        offset += data.nbytes


def alignment(size: int) -> int:
    """Where a tensor of `size` bytes may begin in a file: large ones at what every system maps from."""
    return 65536 if size >= 2**20 else 64


def refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Make `tensor` one whose data lie in the file `location`."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _tag(number: int) -> bytes:
    return varint(number << 3 | _BYTES)
