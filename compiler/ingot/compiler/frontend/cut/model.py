"""`cut_onnx`: a part of a model file as a model file. It works on the file itself, so that nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import onnx

from ingot.compiler.frontend.cut.errors import CutError
from ingot.compiler.frontend.cut.extents import Extents, change_dims
from ingot.compiler.frontend.cut.extract import extract
from ingot.compiler.frontend.cut.rename import rename as rename_ends
from ingot.compiler.frontend.export.file import SUFFIX, alignment, refer, replacing
from ingot.compiler.frontend.export.model import LARGEST
from ingot.compiler.frontend.mapping import map_file
from ingot.compiler.frontend.topology import require_text, tensors_in
from ingot.compiler.frontend.weights import ModelData, open_model
from ingot.compiler.frontend.wire import PAYLOAD_KEY


def cut_onnx(
    source: str | Path,
    target: str | Path,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    dims: Extents = (),
) -> onnx.ModelProto:
    """Write the part of the model `source` that computes `outputs` from `inputs` to `target`; gives it without weights.

    Both default to the model's own: without either, only names and dims change. Any tensor of the main graph may be an
    input or an output. `rename` gives inputs and outputs of the part new names (old -> new); `dims` pins or renames
    dims: pairs of a dim_param and one value, or of an input or output (by its old name) and all its dims. Node names,
    functions, opsets, metadata and documentation stay. External data stay where they are when the part is written
    beside the model, else what the part needs of them is written to ``<target>.data``.

    Raises CutError, ModelError, OSError.
    """
    source, target = Path(source), Path(target)
    model = open_model(map_file(source), str(source), source.parent)
    require_text(model.proto)
    if not model.proto.HasField("graph"):
        raise CutError(f"{source}: there is no graph in the file: it is not an ONNX model")

    @lru_cache(maxsize=1)
    def inferred() -> Mapping[str, onnx.ValueInfoProto]:
        return _infer(model.proto, strict=False)

    part = extract(model.proto, inputs, outputs, inferred)
    if dims:
        before = onnx.ModelProto()
        before.CopyFrom(part)
        change_dims(part, dims, lambda changed: _infer_changed(before, changed))
    rename_ends(part, rename or {})
    summary = onnx.ModelProto()
    summary.CopyFrom(part)
    _write(part, model, target)
    return summary


def _infer(model: onnx.ModelProto, *, strict: bool) -> Mapping[str, onnx.ValueInfoProto]:
    """The types of all tensors of the main graph that follow from those declared."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        if strict:
            raise
        return {}
    return {v.name: v for v in (*graph.value_info, *graph.output)}


def _infer_changed(before: onnx.ModelProto, changed: onnx.ModelProto) -> Mapping[str, onnx.ValueInfoProto]:
    """The types after a change of dims; CutError when they contradict each other and did not before."""
    try:
        return _infer(changed, strict=True)
    except onnx.shape_inference.InferenceError as error:
        try:
            _infer(before, strict=True)
        except onnx.shape_inference.InferenceError:
            return _infer(changed, strict=False)
        raise CutError(f"the model cannot take these dims: {error}") from error


# -- writing ----------------------------------------------------------------------------------------------------------


def _write(part: onnx.ModelProto, model: ModelData, target: Path) -> None:
    """Put the data of all tensors in: those that were in the file into the file while they fit, those that were outside
    outside."""
    tensors = list(tensors_in(part))
    inside = [t for t in tensors if _is_payload(t)]
    outside = [t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL and not _is_payload(t)]
    beside = model.folder is not None and target.parent.resolve() == model.folder.resolve()
    if beside:
        outside = []
    if sum(_size(model, t) for t in inside) > LARGEST:
        outside, inside = [*inside, *outside], []
    with ExitStack() as files:
        if outside:
            location = target.name + SUFFIX
            data = files.enter_context(replacing(target.with_name(location)))
            offset = 0
            for tensor in outside:
                raw = model.raw(tensor)
                assert raw is not None
                padding = -offset % alignment(len(raw))
                data.write(b"\0" * padding)
                data.write(raw)
                refer(tensor, location, offset + padding, len(raw))
                offset += padding + len(raw)
        for tensor in inside:
            raw = model.raw(tensor)
            assert raw is not None
            kept = [e for e in tensor.external_data if e.key != PAYLOAD_KEY]
            del tensor.external_data[:]
            tensor.external_data.extend(kept)
            tensor.raw_data = bytes(raw)
        files.enter_context(replacing(target)).write(part.SerializeToString(deterministic=True))


def _is_payload(tensor: onnx.TensorProto) -> bool:
    """True for a tensor whose data the parser left in the file."""
    return any(e.key == PAYLOAD_KEY for e in tensor.external_data)


def _size(model: ModelData, tensor: onnx.TensorProto) -> int:
    raw = model.raw(tensor)
    return len(raw) if raw is not None else 0
