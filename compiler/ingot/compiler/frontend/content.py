"""What a model consists of, in bytes: the file and the external data that it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ingot.compiler.frontend.mapping import map_file
from ingot.compiler.frontend.wire import cut_payloads

_LOCATION: Final = b"location"
"""The key of `external_data` that names the file: without it nothing lies outside of the model's."""


def model_content(model: str | Path | bytes) -> Iterator[memoryview]:
    """All bytes that the result of `load_onnx(model)` depends on: the model's, then those of each tensor that is
    stored in another file, in the order of the model. Raises ModelError where it is malformed."""
    if isinstance(model, bytes):
        yield memoryview(model)
        return
    path = Path(model)
    data = map_file(path)
    yield data
    if _LOCATION in cut_payloads(data).data:
        yield from _external_content(data, path)


def _external_content(data: memoryview, path: Path) -> Iterator[memoryview]:
    # Here, as most models are one file, whose bytes are all that is asked for.
    from onnx import TensorProto

    from ingot.compiler.frontend.topology import tensors_in
    from ingot.compiler.frontend.weights import open_model

    opened = open_model(data, str(path), path.parent)
    for tensor in tensors_in(opened.proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            content = opened.raw(tensor)
            yield memoryview(b"") if content is None else content
