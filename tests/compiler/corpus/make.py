"""Remakes the corpus: every snippet by every exporter that it names.

    python -m tests.compiler.corpus.make [snippet ...]

Hand-written snippets need onnx only, the others torch 2.13 and onnxscript. Weights are seeded by the snippet's name.
"""
# pyright: basic, reportMissingImports=false
# torch is installed only where the corpus is made.

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx
from tests.compiler.corpus.sources.snippet import TRACED, Snippet, Tensor

FOLDER = Path(__file__).parent
FAMILIES = ("activation", "norm", "attention", "movement", "written")
LIMIT = 20_000  # bytes a file


def randomized(module: Any, name: str) -> Any:
    """`module` in eval mode with weights seeded by `name`: matrices by their width, scales around one."""
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    for path, parameter in [*module.named_parameters(), *module.named_buffers()]:
        if path.endswith(("mask", "causal", "rate", "num_batches_tracked")):
            continue
        data = torch.randn(parameter.shape, generator=generator)
        fan = parameter[0].numel() if parameter.ndim > 1 else 16
        scaled = path.endswith(("scale", "norm.weight", "running_var")) or (parameter.ndim == 1 and path == "weight")
        parameter.data.copy_(1 + data.abs() / 4 if scaled else data / fan**0.5)
    return module.eval()


def arguments(inputs: Sequence[Tensor]) -> tuple[Any, ...]:
    """Ones of the extents that exporters see."""
    import torch

    kinds = {"float32": torch.float32, "int64": torch.int64}
    shapes = [[TRACED[d] if isinstance(d, str) else d for d in i.shape] for i in inputs]
    return tuple(torch.ones(shape, dtype=kinds[i.dtype]) for i, shape in zip(inputs, shapes, strict=True))


def export(snippet: Snippet, exporter: str) -> onnx.ModelProto:
    """The snippet's module as one of torch's exporters writes it."""
    import torch

    kind, opset = exporter.split("-")
    torch.manual_seed(0)
    module = randomized(snippet.build(), snippet.name)
    given = arguments(snippet.inputs)
    names = [i.name for i in snippet.inputs]
    symbols = [{axis: dim for axis, dim in enumerate(i.shape) if isinstance(dim, str)} for i in snippet.inputs]
    file = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            axes = dict(zip(names, symbols, strict=True))
            options: dict[str, Any] = {"dynamo": False, "dynamic_axes": axes, "input_names": names}
            torch.onnx.export(module, given, file, opset_version=int(opset), **options)
            made = onnx.load_from_string(file.getvalue())
        else:
            dims = {d: torch.export.Dim(d, min=2, max=64) for s in symbols for d in s.values()}
            shapes = [{axis: dims[d] for axis, d in s.items()} for s in symbols]
            fixed = module.forward.__code__.co_argcount - 1
            dynamic = (*shapes[:fixed], tuple(shapes[fixed:])) if len(shapes) > fixed else tuple(shapes)
            options = {"dynamo": True, "dynamic_shapes": dynamic, "verbose": False, "input_names": names}
            program = torch.onnx.export(module, given, opset_version=int(opset), **options)
            assert program is not None
            made = program.model_proto
    torch.backends.mha.set_fastpath_enabled(fast)
    return bare(made)


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what no compiler reads: documentation, stack traces, shapes of inner values."""
    model.doc_string = ""
    del model.metadata_props[:]
    graphs = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        graph.doc_string = ""
        del graph.value_info[:]
        del graph.metadata_props[:]
        for value in (*getattr(graph, "initializer", ()), *graph.input, *graph.output):
            if not isinstance(value, str):
                value.doc_string = ""
                del value.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
            graphs += [a.g for a in node.attribute if a.HasField("g")]
    return model


def snippets(names: Iterable[str] = ()) -> list[tuple[str, Snippet]]:
    """(family, snippet) of those named, or of all."""
    wanted = set(names)
    found: list[tuple[str, Snippet]] = []
    for family in FAMILIES:
        table = importlib.import_module(f"tests.compiler.corpus.sources.{family}").SNIPPETS
        found += [(family, snippet) for snippet in table if not wanted or snippet.name in wanted]
    return found


def contents(model: onnx.ModelProto) -> bytes:
    """The model but for who wrote it and in which opset."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.opset_import[:]
    copy.ir_version = 0
    return copy.SerializeToString(deterministic=True)


def main(names: Sequence[str]) -> int:
    """Exports that differ from one in an older opset by nothing but the opset's number are left out."""
    failures = 0
    for family, snippet in snippets(names):
        (FOLDER / family).mkdir(exist_ok=True)
        written: set[bytes] = set()
        for exporter in snippet.exporters:
            path = FOLDER / family / f"{snippet.name}.{exporter}.onnx"
            path.unlink(missing_ok=True)
            try:
                model = snippet.build() if family == "written" else export(snippet, exporter)
                onnx.checker.check_model(model, full_check=True)
                data = model.SerializeToString(deterministic=True)
                if contents(model) in written:
                    continue
                written.add(contents(model))
            except Exception as error:  # one that cannot be exported must not hide the others
                failures += 1
                reason = str(error).strip().split("\n")[0]
                print(f"{path.name}: {type(error).__name__}: {reason}", file=sys.stderr)
                continue
            if len(data) > LIMIT:
                failures += 1
                print(f"{path.name}: {len(data)} bytes are more than {LIMIT}", file=sys.stderr)
            path.write_bytes(data)
            print(f"{path.relative_to(FOLDER)}: {len(data)} bytes", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
