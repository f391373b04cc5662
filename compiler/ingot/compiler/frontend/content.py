"""What a model consists of, in bytes: the file and the external data that it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from ingot.compiler.frontend.topology import tensors_in
from ingot.compiler.frontend.weights import map_file, open_model


def model_content(model: str | Path | bytes) -> Iterator[memoryview]:
    """All bytes that the result of `load_onnx(model)` depends on: the model's, then those of each tensor that is
    stored in another file, in the order of the model. Raises ModelError where it is malformed."""
    if isinstance(model, bytes):
        yield memoryview(model)
        return
    path = Path(model)
    data = map_file(path)
    yield data
    opened = open_model(data, str(path), path.parent)
    for tensor in tensors_in(opened.proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            content = opened.raw(tensor)
            yield memoryview(b"") if content is None else content
