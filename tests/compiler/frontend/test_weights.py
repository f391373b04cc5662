"""Constant data: memory-mapped from the model file and from external files, never copied; every storage form."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from ingot.compiler.frontend import ModelError, load_onnx
from ingot.compiler.frontend.wire import SMALLEST_PAYLOAD, cut_payloads
from ingot.compiler.ir.graph import Constant, Graph


def constant_model(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    """A model whose outputs are its initialisers."""
    outputs = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    graph = helper.make_graph([], "constants", [], outputs, list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def data_of(graph: Graph, index: int = 0) -> np.ndarray:
    value = graph.results[index]
    assert isinstance(value, Constant)
    return value.data


def backing(array: np.ndarray) -> object:
    """The object that owns an array's memory."""
    owner: Any = array
    while type(owner) in (np.ndarray, memoryview):
        owner = owner.base if type(owner) is np.ndarray else owner.obj
    return owner


WEIGHT = np.random.default_rng(0).standard_normal((37, 29)).astype(np.float32)


def test_weights_of_a_file_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    other = np.arange(3000, dtype=np.int16)
    onnx.save(constant_model(numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(other, "o")), path)
    graph = load_onnx(path)
    for index, expected in enumerate((WEIGHT, other)):
        array = data_of(graph, index)
        np.testing.assert_array_equal(array, expected)
        assert isinstance(backing(array), mmap.mmap) and not array.flags.writeable and not array.flags.owndata
    assert backing(data_of(graph, 0)) is backing(data_of(graph, 1))


def test_weights_of_bytes_are_views() -> None:
    data = constant_model(numpy_helper.from_array(WEIGHT, "w")).SerializeToString()
    array = data_of(load_onnx(data))
    np.testing.assert_array_equal(array, WEIGHT)
    assert backing(array) is data


def test_tensor_attributes_of_nested_graphs_are_mapped(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(WEIGHT))],
        "branch",
        [],
        [helper.make_tensor_value_info("k", TensorProto.FLOAT, WEIGHT.shape)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))),
            helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        ],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, WEIGHT.shape)],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    array = data_of(load_onnx(path))
    np.testing.assert_array_equal(array, WEIGHT)
    assert isinstance(backing(array), mmap.mmap)


def test_the_skeleton_is_small_and_payloads_lie_in_the_file() -> None:
    model = constant_model(numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(WEIGHT[:2], "short"))
    data = model.SerializeToString()
    skeleton = cut_payloads(memoryview(data))
    assert len(skeleton.data) < 600
    assert [data[o : o + n] for o, n in skeleton.payloads] == [WEIGHT.tobytes()]
    parsed = onnx.ModelProto.FromString(skeleton.data)
    assert not parsed.graph.initializer[0].raw_data and parsed.graph.initializer[1].raw_data == WEIGHT[:2].tobytes()
    assert parsed.graph.output == model.graph.output


def test_models_beyond_2_gb(tmp_path: Path) -> None:
    """A sparse file: a graph with one tensor whose raw_data of 2.2 GB is a hole."""
    size = 2_200_000_000
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.INT8, dims=[size]).SerializeToString()
    tail = constant_model(onnx.TensorProto(name="w", data_type=TensorProto.INT8, dims=[size]))
    del tail.graph.initializer[:]
    rest = tail.graph.SerializeToString()

    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    raw_head = b"\x4a" + varint(size)
    tensor_length = len(tensor) + len(raw_head) + size
    initializer_head = b"\x2a" + varint(tensor_length)
    graph_length = len(rest) + len(initializer_head) + tensor_length
    tail.ClearField("graph")
    head = tail.SerializeToString() + b"\x3a" + varint(graph_length) + rest + initializer_head + tensor + raw_head
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
        file.seek(len(head) + size - 1)
        file.write(b"\x07")
    array = data_of(load_onnx(path))
    assert array.shape == (size,) and array[-1] == 7 and array[0] == 0 and isinstance(backing(array), mmap.mmap)


# -- external data ----------------------------------------------------------------------------------------------------


def external(tmp_path: Path, **entries: object) -> Path:
    """A model whose weight is described by external_data entries."""
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHT.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    path = tmp_path / "models" / "m.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(constant_model(tensor).SerializeToString())
    return path


def test_external_data_is_mapped(tmp_path: Path) -> None:
    path = external(tmp_path, location="data/w.bin", offset=64, length=WEIGHT.nbytes)
    (path.parent / "data").mkdir()
    (path.parent / "data" / "w.bin").write_bytes(b"\0" * 64 + WEIGHT.tobytes() + b"more")
    array = data_of(load_onnx(path))
    np.testing.assert_array_equal(array, WEIGHT)
    assert isinstance(backing(array), mmap.mmap)


def test_external_data_as_onnx_writes_it(tmp_path: Path) -> None:
    model = constant_model(numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(WEIGHT.T.copy(), "v"))
    path = tmp_path / "m.onnx"
    external_data_helper.convert_model_to_external_data(model, location="all.bin", size_threshold=0)
    onnx.save(model, path)
    graph = load_onnx(path)
    np.testing.assert_array_equal(data_of(graph, 0), WEIGHT)
    np.testing.assert_array_equal(data_of(graph, 1), WEIGHT.T)


def test_shards_beyond_2_gb(tmp_path: Path) -> None:
    """Three tensors in two files with holes, 5 GB together: mapped, none of it read."""
    size = 1_700_000_000
    for number in range(2):
        with (tmp_path / f"shard{number}.bin").open("wb") as file:
            file.truncate(2 * size)
            file.seek(size - 1)
            file.write(bytes([number + 1]))
    tensors: list[onnx.TensorProto] = []
    for name, shard, offset in (("a", 0, 0), ("b", 0, size), ("c", 1, 0)):
        tensor = onnx.TensorProto(name=name, data_type=TensorProto.INT8, dims=[size])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": f"shard{shard}.bin", "offset": offset, "length": size}.items():
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
    path = tmp_path / "m.onnx"
    path.write_bytes(constant_model(*tensors).SerializeToString())
    before = resident_bytes()
    graph = load_onnx(path)
    a, b, c = (data_of(graph, i) for i in range(3))
    assert [int(x[-1]) for x in (a, b, c)] == [1, 0, 2]
    assert backing(a) is backing(b) and isinstance(backing(c), mmap.mmap)
    assert resident_bytes() - before < 100_000_000


def resident_bytes() -> int:
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * mmap.PAGESIZE if pages.exists() else 0


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"location": "absent.bin"}, "absent.bin', which does not exist"),
        ({"location": "../secret.bin"}, "outside the model's folder"),
        ({"location": "data/../../secret.bin"}, "outside the model's folder"),
        ({"location": "/etc/hostname"}, "outside the model's folder"),
        ({"location": "link.bin"}, "outside the model's folder"),
        ({"location": "bad\0name"}, "not a usable path|does not exist"),
        ({"location": "."}, "does not exist"),
        ({}, "no file is named"),
        ({"location": "w.bin", "offset": 8}, "4292 bytes|has 4284 bytes of data"),
        ({"location": "w.bin", "offset": 10**9}, "which has 4292"),
        ({"location": "w.bin", "length": 10**9}, "which has 4292"),
        ({"location": "w.bin", "length": "many"}, "'many', which is not a byte count"),
        ({"location": "w.bin", "offset": "-4"}, "'-4', which is not a byte count"),
    ],
)
def test_bad_external_data(tmp_path: Path, entries: dict[str, object], problem: str) -> None:
    path = external(tmp_path, **entries)
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (path.parent / "w.bin").write_bytes(WEIGHT.tobytes())
    os.symlink(tmp_path / "secret.bin", path.parent / "link.bin")
    with pytest.raises(ModelError, match=problem):
        load_onnx(path)


def test_external_data_needs_a_path(tmp_path: Path) -> None:
    data = external(tmp_path, location="w.bin").read_bytes()
    for model in (data, onnx.ModelProto.FromString(data)):
        with pytest.raises(ModelError, match="was not given as a path; pass the path"):
            load_onnx(model)


# -- storage forms ----------------------------------------------------------------------------------------------------

VALUES = {
    TensorProto.FLOAT: np.array([0.5, -1, np.inf, np.nan], np.float32),
    TensorProto.DOUBLE: np.array([0.1, -2], np.float64),
    TensorProto.FLOAT16: np.array([0.5, -65504, np.inf], np.float16),
    TensorProto.BFLOAT16: np.array([0.5, -3, np.inf], ml_dtypes.bfloat16),
    TensorProto.INT64: np.array([-(2**63), 5], np.int64),
    TensorProto.INT32: np.array([-(2**31), 5], np.int32),
    TensorProto.INT16: np.array([-(2**15), 5], np.int16),
    TensorProto.INT8: np.array([-128, 127], np.int8),
    TensorProto.UINT64: np.array([2**64 - 1, 5], np.uint64),
    TensorProto.UINT32: np.array([2**32 - 1, 5], np.uint32),
    TensorProto.UINT16: np.array([2**16 - 1, 5], np.uint16),
    TensorProto.UINT8: np.array([255, 0], np.uint8),
    TensorProto.BOOL: np.array([True, False]),
}


@pytest.mark.parametrize("code", VALUES, ids=lambda code: TensorProto.DataType.Name(code))
@pytest.mark.parametrize("raw", [False, True], ids=["fields", "raw"])
@pytest.mark.parametrize("repeat", [0, 1, SMALLEST_PAYLOAD])
def test_element_types(code: TensorProto.DataType, raw: bool, repeat: int) -> None:
    values = np.tile(VALUES[code], repeat).astype(VALUES[code].dtype)
    payload = values.tobytes() if raw else (values.astype(np.float32) if code == TensorProto.BFLOAT16 else values)
    tensor = helper.make_tensor("w", code, values.shape, payload, raw)
    array = data_of(load_onnx(constant_model(tensor).SerializeToString()))
    assert array.dtype == values.dtype
    np.testing.assert_array_equal(array, values)


NARROW = {
    TensorProto.INT4: np.array([-8, 7, -1, 3, 0], ml_dtypes.int4),
    TensorProto.UINT4: np.array([15, 0, 9], ml_dtypes.uint4),
    TensorProto.INT2: np.array([-2, 1, 0, -1, 1], ml_dtypes.int2),
    TensorProto.UINT2: np.array([3, 0, 2], ml_dtypes.uint2),
    TensorProto.FLOAT4E2M1: np.array([-6, 0.5, 3], ml_dtypes.float4_e2m1fn),
    TensorProto.FLOAT8E4M3FN: np.array([448, -0.5, np.nan], ml_dtypes.float8_e4m3fn),
    TensorProto.FLOAT8E4M3FNUZ: np.array([240, -0.5, np.nan], ml_dtypes.float8_e4m3fnuz),
    TensorProto.FLOAT8E5M2: np.array([57344, -0.5, np.inf], ml_dtypes.float8_e5m2),
    TensorProto.FLOAT8E5M2FNUZ: np.array([57344, -0.5, np.nan], ml_dtypes.float8_e5m2fnuz),
    TensorProto.FLOAT8E8M0: np.array([0.25, 1024], ml_dtypes.float8_e8m0fnu),
}


@pytest.mark.parametrize("code", NARROW, ids=lambda code: TensorProto.DataType.Name(code))
@pytest.mark.parametrize("raw", [False, True], ids=["fields", "raw"])
@pytest.mark.parametrize("repeat", [0, 1, SMALLEST_PAYLOAD + 1])
def test_narrow_element_types(code: TensorProto.DataType, raw: bool, repeat: int) -> None:
    """In memory every element has a byte of its own."""
    values = np.tile(NARROW[code].view(np.uint8), repeat).view(NARROW[code].dtype)
    tensor = numpy_helper.from_array(values, "w")
    if not raw:
        tensor.int32_data.extend(tensor.raw_data)
        tensor.ClearField("raw_data")
    array = data_of(load_onnx(constant_model(tensor).SerializeToString()))
    assert array.dtype == values.dtype
    np.testing.assert_array_equal(array.view(np.uint8), values.view(np.uint8))


def test_scalars_and_odd_alignment() -> None:
    scalar = numpy_helper.from_array(np.array(2.5, np.float64), "s")
    wide = numpy_helper.from_array(np.arange(999, dtype=np.float64), "w")
    for padding in range(8):  # the name's length moves the payload
        wide.name = "w" * (padding + 1)
        graph = load_onnx(constant_model(scalar, wide).SerializeToString())
        assert data_of(graph, 0).shape == () and data_of(graph, 0) == 2.5
        np.testing.assert_array_equal(data_of(graph, 1), np.arange(999))


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (onnx.TensorProto(name="w", data_type=1, dims=[3], raw_data=b"12345678"), "has 8 bytes of data, not 12"),
        (onnx.TensorProto(name="w", data_type=1, dims=[2**40, 2**40], raw_data=b"1234"), "4 bytes of data, not"),
        (onnx.TensorProto(name="w", data_type=1, dims=[2], float_data=[1.0]), "1 elements, not 2"),
        (onnx.TensorProto(name="w", data_type=1, dims=[2**60]), "0 elements, not"),
        (onnx.TensorProto(name="w", data_type=2, dims=[1], int32_data=[256]), "outside the range of u8"),
        (onnx.TensorProto(name="w", data_type=1, dims=[-1]), "negative dim"),
        (onnx.TensorProto(name="w", data_type=0, dims=[1]), "no element type"),
        (onnx.TensorProto(name="w", data_type=22, dims=[3], raw_data=b"1"), "1 bytes of data, not 2"),
        (onnx.TensorProto(name="w", data_type=25, dims=[3], raw_data=b"12"), "2 bytes of data, not 1"),
        (onnx.TensorProto(name="w", data_type=8, dims=[1], string_data=[b"\xff"]), "no UTF-8 text"),
        (onnx.TensorProto(name="w", data_type=8, dims=[1], raw_data=b"s"), "strings as raw bytes"),
        (onnx.TensorProto(name="w", data_type=14, dims=[1], float_data=[1, 2]), "element type complex64"),
        (onnx.TensorProto(name="w", data_type=14, dims=[1], float_data=[1.0, 2.0]), "element type complex64"),
        (onnx.TensorProto(name="w", data_type=17, dims=[2], raw_data=b"1"), "has 1 bytes of data, not 2"),
        (onnx.TensorProto(name="w", data_type=17, dims=[1], int32_data=[256]), "outside the range of f8e4m3fn"),
        (onnx.TensorProto(name="w", data_type=77, dims=[1], raw_data=b"1"), "element type number 77"),
    ],
)
def test_bad_tensors(tensor: onnx.TensorProto, problem: str) -> None:
    model = constant_model(tensor)
    model.graph.output[0].type.tensor_type.Clear()
    with pytest.raises(ModelError, match=problem):
        load_onnx(model)


def test_forged_payload_numbers_are_refused() -> None:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1])
    tensor.external_data.add(key="ingot.payload", value="3")
    with pytest.raises(ModelError, match="names payload '3', which the file does not have"):
        load_onnx(constant_model(tensor).SerializeToString())


def sparse_model(places: np.ndarray, shape: Sequence[int], values: np.ndarray) -> onnx.ModelProto:
    model = constant_model(numpy_helper.from_array(WEIGHT, "w"))
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values, "s"), numpy_helper.from_array(places, "s_indices"), list(shape)
    )
    model.graph.sparse_initializer.append(sparse)
    model.graph.output.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, list(shape)))
    model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, list(shape)))
    return model


@pytest.mark.parametrize("places", [np.array([1, 7]), np.array([[0, 1], [1, 3]])], ids=["flat", "coordinates"])
def test_sparse_tensors(places: np.ndarray) -> None:
    graph = load_onnx(sparse_model(places, [2, 4], np.array([2.5, -1], np.float32)))
    wanted = np.array([[0, 2.5, 0, 0], [0, 0, 0, -1]], np.float32)
    for index in (1, 2):
        np.testing.assert_array_equal(data_of(graph, index), wanted)


@pytest.mark.parametrize(
    ("places", "shape", "problem"),
    [
        (np.array([1, 8]), [2, 4], "an index outside its shape"),
        (np.array([-1, 2]), [2, 4], "an index outside its shape"),
        (np.array([[0, 1], [0, 4]]), [2, 4], "an index outside its shape"),
        (np.array([1]), [2, 4], "one row of coordinates, is needed"),
        (np.array([[1], [2]]), [2, 4], "one row of coordinates, is needed"),
        (np.array([1, 2]), [2**30, 2**30], "at most 67108864 are supported"),
    ],
)
def test_bad_sparse_tensors(places: np.ndarray, shape: list[int], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        load_onnx(sparse_model(places, shape, np.array([2.5, -1], np.float32)))
