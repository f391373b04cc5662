"""The cases of onnx's backend tests with their data, as the installed onnx has them; nothing is downloaded."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.helper import np_dtype_to_tensor_dtype

from ingot.runtime.dtypes import BY_NAME

CATEGORIES = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


@dataclass(frozen=True, eq=False)
class Case:
    """One case: a model, and inputs with the outputs that are expected."""

    name: str
    category: str
    rtol: float
    atol: float
    source: TestCase

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The model; read from a file when it is first asked for."""
        if self.source.model is not None:
            return self.source.model
        return onnx.load(self._light or Path(self.source.model_dir or "") / "model.onnx")

    @property
    def _light(self) -> Path | None:
        """A large network whose weights are all the same lies beside onnx's other data."""
        return LIGHT / Path(self.source.url).name if self.source.url else None

    def data_sets(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """Inputs and expected outputs: arrays, lists of them for sequences, None for empty optionals."""
        if self.source.data_sets is not None:
            for inputs, outputs in self.source.data_sets:
                yield [_plain(x) for x in inputs], [_plain(x) for x in outputs]
        elif self._light is not None:
            initialised = {tensor.name for tensor in self.model.graph.initializer}
            inputs = [_ramp(i) for i in self.model.graph.input if i.name not in initialised]
            stem = self._light.with_suffix("")
            stored = [Path(f"{stem}_output_{i}.pb") for i in range(len(self.model.graph.output))]
            yield inputs, [_read(path, o.type) for path, o in zip(stored, self.model.graph.output, strict=True)]
        else:
            graph = self.model.graph
            for folder in sorted(Path(self.source.model_dir or "").glob("test_data_set*")):
                inputs = [_read(path, graph.input[i].type) for i, path in enumerate(_numbered(folder, "input"))]
                yield inputs, [_read(path, graph.output[i].type) for i, path in enumerate(_numbered(folder, "output"))]

    @property
    def is_random(self) -> bool:
        """Whether ONNX leaves the numbers to the generator, so that types and shapes alone can be right."""
        return bool(re.fullmatch(r"test_bernoulli(_\w+)?|test_training_dropout(_default)?(_mask)?", self.name))

    @cached_property
    def operator(self) -> tuple[str, str, int]:
        """Domain, operator and opset of what is tested: the first node's, by the longest match with the case's name."""
        opsets = {o.domain or "ai.onnx": o.version for o in self.model.opset_import}
        # The expansion of a function is a test of that function's operators, all of ai.onnx.
        spelled = self.name.replace("_", "")
        nodes = sorted(self.model.graph.node, key=lambda n: n.op_type.lower() not in spelled)
        domain = (nodes[0].domain if nodes else "") or "ai.onnx"
        return domain, nodes[0].op_type if nodes else "", opsets.get(domain, 0)


    @property
    def types(self) -> tuple[str, ...]:
        """Names of the element types of the tensors that the model takes."""
        codes = {i.type.tensor_type.elem_type for i in self.model.graph.input if i.type.HasField("tensor_type")}
        known = {code: d.name for d in BY_NAME.values() if (code := np_dtype_to_tensor_dtype(d.to_numpy()))}
        return tuple(sorted(name for code, name in known.items() if code in codes))


def load_cases(match: str = "", categories: Sequence[str] = CATEGORIES) -> list[Case]:
    """The cases whose name the regular expression `match` finds, sorted by category and name."""
    found: list[Case] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cases divide by zero on purpose
        for category in categories:
            for source in load_model_tests(kind=category):
                if re.search(match, source.name):
                    found.append(Case(source.name, category, source.rtol, source.atol, source))
    return sorted(found, key=lambda case: (CATEGORIES.index(case.category), case.name))


def _plain(item: Any) -> Any:
    if isinstance(item, onnx.TensorProto):
        return numpy_helper.to_array(item)
    return [_plain(part) for part in item] if isinstance(item, list) else item


def _ramp(declared: onnx.ValueInfoProto) -> Any:
    """What the stored outputs of the large networks were made from."""
    shape = [d.dim_value if d.HasField("dim_value") else 1 for d in declared.type.tensor_type.shape.dim]
    return (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)


def _numbered(folder: Path, stem: str) -> list[Path]:
    return [folder / f"{stem}_{i}.pb" for i in range(len(list(folder.glob(f"{stem}_*.pb"))))]


def _read(path: Path, kind: onnx.TypeProto) -> Any:
    content = path.read_bytes()
    match kind.WhichOneof("value"):
        case "sequence_type":
            return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
        case "optional_type":
            return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
        case _:
            return numpy_helper.to_array(onnx.TensorProto.FromString(content))
