"""The graph's text form: a golden, exact round trips, and errors with positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.graph import OPS, Constant, Graph, Input, Node, Value, constant, op
from ingot.compiler.ir.text.arrays import content_hash
from ingot.compiler.ir.text.graph import parse_graph, show_graph
from ingot.compiler.ir.text.resources import WeightFolder
from ingot.compiler.ir.text.scanner import Scanner, TextError
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.ops.control import If, Loop
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.movement import Pad, Reshape, Split
from ingot.compiler.ops.pointwise import Add, Cast, Greater, Mul, Neg, Relu
from ingot.compiler.ops.reduction import ReduceMax
from ingot.runtime.dtypes import ALL, DType, boolean, f32, i64

Array = NDArray[Any]
BATCH = symbol("batch")
X = Input("x", TensorType(f32, (BATCH, 3, 8, 8)), origin=("x",))


def example() -> Graph:
    """Constants big and small, several results, an If, symbolic attributes, odd names."""
    w = constant(np.linspace(-1, 1, 108, dtype=np.float32).reshape(4, 3, 3, 3), origin=("conv.weight",))
    b = constant(np.array([0.1, -0.0, np.inf, np.nan], np.float32))
    y = Conv(X, w, b, (1, 1), (1, 1, 1, 1), (1, 1), 1, False, origin=("/block/Conv 0", "Conv_0"))
    split = Split(y, 1, (2, 2))
    total = Add(split.result(0), split.result(1))
    inner = Input("in put", total.type)
    then_graph = Graph((inner,), (("o", Relu(inner)),), "then")
    else_graph = Graph((inner,), (("o", Neg(Neg(inner))),), 'else "quoted"')
    condition = Greater(ReduceMax(total, (0, 1, 2, 3), False), constant(np.float32(0.5)))
    branch = If(condition, (total,), then_graph, else_graph, origin=("if",))
    flat = Reshape(branch, (BATCH, 128))
    padded = Pad(flat, (0, BATCH // 2, 0, dims.maximum(3 - BATCH, 0)), "constant", None)
    return Graph((X,), (("y", padded), ("part", split.result(1)), ("x again", X)), "main", {"batch": (1, 64)})


GOLDEN = """graph "main" {
  dims {batch: 1..64}
  %x = input("x") : f32[batch, 3, 8, 8]  ; "x"
  %conv.weight = constant(f32[4, 3, 3, 3]@HASH)  ; "conv.weight"
  %constant = constant(f32[4]{0.1, -0.0, inf, nan})
  %block/Conv_0 = conv(%x, %conv.weight, bias=%constant, strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), group=1, \
channels_last=false) : f32[batch, 4, 8, 8]  ; "/block/Conv 0", "Conv_0"
  %split:2 = split(%block/Conv_0, axis=1, sizes=(2, 2)) : (f32[batch, 2, 8, 8], f32[batch, 2, 8, 8])
  %add = add(%split#0, %split#1) : f32[batch, 2, 8, 8]
  %reduce_max = reduce_max(%add, axes=(0, 1, 2, 3), keepdims=false) : f32[]
  %constant.1 = constant(f32[]{0.5})
  %greater = greater(%reduce_max, %constant.1) : bool[]
  %if = if(%greater, captures=(%add), then_graph=graph "then" {
    %in_put = input("in put") : f32[batch, 2, 8, 8]
    %relu = relu(%in_put) : f32[batch, 2, 8, 8]
    return %relu as "o"
  }, else_graph=graph "else \\"quoted\\"" {
    %in_put = input("in put") : f32[batch, 2, 8, 8]
    %neg = neg(%in_put) : f32[batch, 2, 8, 8]
    %neg.1 = neg(%neg) : f32[batch, 2, 8, 8]
    return %neg.1 as "o"
  }, extents=()) : f32[batch, 2, 8, 8]  ; "if"
  %reshape = reshape(%if, shape=(batch, 128)) : f32[batch, 128]
  %pad = pad(%reshape, pads=(0, (batch // 2), 0, max(-batch + 3, 0)), mode="constant", value=none) : \
f32[batch, (batch // 2) + max(-batch + 3, 0) + 128]
  return %pad as "y", %split#1 as "part", %x as "x again"
}
"""


def round_trip(graph: Graph) -> tuple[Graph, str]:
    resources: dict[str, Array] = {}
    text = show_graph(graph, resources)
    made = parse_graph(text, resources)
    assert show_graph(made) == text
    return made, text


def test_golden() -> None:
    graph = example()
    (w,) = [n.data for n in graph.nodes() if isinstance(n, Constant) and n.data.size == 108]
    _, text = round_trip(graph)
    assert text == GOLDEN.replace("HASH", content_hash(w))


def test_parsed_graph_equals_original() -> None:
    graph = example()
    made, _ = round_trip(graph)
    assert made.name == graph.name and dict(made.ranges) == dict(graph.ranges)
    for a, b in zip(graph.nodes(), made.nodes(), strict=True):
        assert (type(a), a.origin, a.types) == (type(b), b.origin, b.types)
        if isinstance(a, Constant) and isinstance(b, Constant):
            assert a.data.tobytes() == b.data.tobytes() and not b.data.flags.writeable


def test_loop_and_optional_operands() -> None:
    i, c = Input("i", TensorType(i64, ())), Input("c", TensorType(boolean, ()))
    v = Input("v", TensorType(f32, (BATCH,)))
    body = Graph((i, c, v), (("c", c), ("v", Add(v, v)), ("s", v)), "body")
    x = Input("x", v.declared)
    trip = constant(np.array(3, np.int64))
    loop = Loop(trip, None, (x,), (), body, (symbol("steps"),))
    _, text = round_trip(Graph((x,), (("last", loop.result(0)), ("all", loop.result(1)))))
    assert "loop(trip=%constant, condition=none, carried=(%x), captures=(), body=graph" in text
    assert ": (f32[batch], f32[steps, batch])" in text


def test_empty_graphs() -> None:
    round_trip(Graph((), ()))
    round_trip(Graph((X,), (("x", X),)))
    round_trip(Graph((), (("c", constant(np.zeros((0, 3), np.float32))),)))


def test_names_are_unique_and_safe() -> None:
    values: list[Value] = [Relu(X, origin=(name,)) for name in ("a", "a", "a.1", "%b c#1:2", "/", "..", "é")]
    graph = Graph((X,), tuple((str(i), v) for i, v in enumerate(values)))
    made, text = round_trip(graph)
    names = [line.split()[0] for line in text.splitlines() if " = relu" in line]
    assert names == ["%a", "%a.1", "%a.1.1", "%_b_c_1_2", "%relu", "%relu.1", "%é"]
    assert [n.origin for n in made.nodes()] == [n.origin for n in graph.nodes()]


@pytest.mark.parametrize("dtype", ALL, ids=repr)
@pytest.mark.parametrize("size", [0, 1, 5, 16, 17, 300])
def test_every_dtype_keeps_its_bits(dtype: DType, size: int, tmp_path: Path) -> None:
    data = np.random.default_rng(size).integers(0, 256, size * dtype.bytes, np.uint8)
    if dtype is boolean:
        data &= 1
    array = data.view(dtype.to_numpy())
    folder = WeightFolder(tmp_path)
    text = show_graph(Graph((), (("c", Constant(array)),)), folder)
    (node,) = parse_graph(text, folder).nodes()
    assert isinstance(node, Constant)
    assert node.data.dtype == array.dtype and node.data.tobytes() == array.tobytes()
    assert len(folder) == (1 if size > 16 else 0)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=16))
@settings(max_examples=200, deadline=None)
def test_every_f32_bit_pattern(bits: list[int]) -> None:
    array = np.array(bits, np.uint32).view(np.float32)
    (node,) = parse_graph(show_graph(Graph((), (("c", Constant(array)),)))).nodes()
    assert isinstance(node, Constant) and node.data.tobytes() == array.tobytes()


def test_splat_and_shared_resources(tmp_path: Path) -> None:
    zeros = Constant(np.full((64, 64), -0.0, np.float32))
    assert "constant(f32[64, 64]{splat -0.0})" in show_graph(Graph((), (("c", zeros),)))
    data = np.arange(100, dtype=np.int32)
    folder = WeightFolder(tmp_path / "weights")
    graph = Graph((), (("a", Constant(data)), ("b", Constant(data.copy())), ("c", Constant(data.reshape(10, 10)))))
    text = show_graph(graph, folder)
    assert len(folder) == 2 and sorted(folder) == sorted(p.stem for p in (tmp_path / "weights").iterdir())
    assert show_graph(parse_graph(text, folder)) == text
    assert "../../etc/passwd" not in folder


def test_without_resources_text_cannot_be_parsed() -> None:
    text = show_graph(Graph((), (("c", Constant(np.arange(17))),)))
    with pytest.raises(TextError, match="expected the hash of an array among the resources"):
        parse_graph(text)
    with pytest.raises(TextError, match=r"expected an array of type i64\[17\] \(the stored one is float32\[2\]\)"):
        parse_graph(text, {content_hash(np.arange(17)): np.zeros(2, np.float32)})


ATOMS = st.sampled_from([symbol("a"), symbol("b_1"), symbol("seq.len"), 0, 1, 2, 3, -5, 7])


def _combined(children: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
    operations = st.sampled_from(["+", "*", "max", "min"])
    divisions = st.tuples(st.sampled_from(["//", "%"]), children, st.sampled_from([2, 3, symbol("a")]))
    plain = st.tuples(operations, children, children)
    return st.one_of(plain, divisions).map(lambda t: dims.apply(*t))


@given(st.recursive(ATOMS, _combined, max_leaves=8))
@settings(max_examples=200, deadline=None)
def test_dims_round_trip(dim: Dim) -> None:
    scanner = Scanner(dims.show(dim))
    assert scanner.dim() == dim and scanner.done


class Level(Enum):
    low = 1
    high = 2


@dataclass(frozen=True)
class Part:
    size: Dim
    scale: float = 1.0


def test_fields_of_every_kind() -> None:
    @op("text_test_node")
    class TextTestNode(Node):
        x: Value
        others: tuple[Value, ...]
        ratio: float
        level: Level
        mode: Literal["a", "b"]
        parts: tuple[Part, ...]
        element: DType
        kind: TensorType
        pair: tuple[int, str]
        table: Array
        limit: int | None = None

        def infer(self) -> Sequence[TensorType]:
            return (self.x.type,)

    try:
        table = np.array([1, 2], np.int8)
        node = TextTestNode(
            *(X, (X, X), 2, Level.high, "b", (Part(BATCH + 1), Part(3, float("inf"))), i64, TensorType(f32, (BATCH,))),
            *((-1, 'q"'), table),
        )
        made, text = round_trip(Graph((X,), (("y", node),)))
    finally:
        del OPS["text_test_node"]
    assert text.splitlines()[2].strip() == (
        '%text_test_node = text_test_node(%x, others=(%x, %x), ratio=2.0, level=high, mode="b", '
        "parts=(Part(size=batch + 1, scale=1.0), Part(size=3, scale=inf)), element=i64, kind=f32[batch], "
        'pair=(-1, "q\\""), table=i8[2]{1, 2}, limit=none) : f32[batch, 3, 8, 8]'
    )
    back = made.nodes()[-1]
    assert isinstance(back, TextTestNode)
    assert (back.ratio, back.level, back.parts, back.pair) == (2.0, Level.high, node.parts, node.pair)


def test_field_without_text_form() -> None:
    @op("text_test_bad")
    class TextTestBad(Node):
        thing: Any

        def infer(self) -> Sequence[TensorType]:
            return (TensorType(f32, ()),)

    try:
        with pytest.raises(IrError, match="a set has no text form"):
            show_graph(Graph((), (("y", TextTestBad({1})),)))
    finally:
        del OPS["text_test_bad"]


def test_stray_input() -> None:
    with pytest.raises(IrError, match="input 'x' is used in graph 'main' but is not one of its inputs"):
        show_graph(Graph((), (("y", Relu(X)),)))


PROLOGUE = 'graph "main" {\n  %x = input("x") : f32[2, 3]\n'


@pytest.mark.parametrize(
    ("line", "column", "expected"),
    [
        ("  %y = frobnicate(%x) : f32[2, 3]", 8, "one of the .* known operators, found frobnicate"),
        ("  %y = relu(%z) : f32[2, 3]", 13, "a value defined above, found %"),
        ("  %y = relu(%x) : f32[2, 4]", 19, r"the inferred type f32\[2, 3\], found f32"),
        ("  %y = relu(%x)", 1, "':' and the type, found }"),
        ("  %y = relu(%x, y=1) : f32[2, 3]", 17, r"a field of relu \(\), found y"),
        ("  %y = relu() : f32[2, 3]", 12, r"field x among the arguments of relu, found \("),
        ("  %y = cast(%x, to=f33) : f32[2, 3]", 20, r"an element type \(f64, .*, found f33"),
        ("  %y = transpose(%x, perm=(0, a)) : f32[2, 3]", 31, "an integer, found a"),
        ("  %y = transpose(%x, perm=(0, 0)) : f32[2, 3]", 8, "a valid transpose: .*no permutation"),
        ("  %y:2 = relu(%x) : (f32[2, 3], f32[2, 3])", 10, "%name:1 before the operator .*1 results"),
        ("  %x = relu(%x) : f32[2, 3]", 3, "a name that is not taken, found %"),
        ("  %y = constant(f32[2]{1.0})", 27, "2 elements, got 1, then '}', found }"),
        ("  %y = constant(u8[1]{256})", 23, "an element of u8, found 256"),
        ("  %y = constant(f32[n]{1.0})", 17, "a type without symbolic dims"),
        ("  %y = relu(%x#1) : f32[2, 3]", 13, "a result below 1 of %x"),
        ('  %y = input("y" : f32[2, 3]', 18, "',', found :"),
        ("  %y = relu(%x) : f32[2, (3]", 28, r"'\)', found \]"),
        ("  %y = relu(%x) : f32[2, 3 // 0]", 28, "a divisor other than 0, found /"),
        ("  %y = relu(%x) : f32[2, 3] ; Conv", 31, "text in quotes, found Conv"),
        ("  %y = add(%x, a=%x) : f32[2, 3]", 16, r"a field of add \(b\), found a"),
    ],
)
def test_errors_have_positions(line: str, column: int, expected: str) -> None:
    text = f'{PROLOGUE}{line}\n}}\n  return %x as "y"\n}}\n'
    with pytest.raises(TextError, match=expected) as error:
        parse_graph(text, source="model.ir")
    assert error.value.column == column
    assert error.value.line in (3, 4)
    assert str(error.value).startswith(f"model.ir:{error.value.line}:{column}: expected ")


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ("grph", 1, 1),
        ("graph main {", 1, 7),
        ('graph "m" {\n  dims {a: 1..}\n', 2, 15),
        ('graph "m" {\n  return\n}\nmore', 4, 1),
        ('graph "m" {\n  %x = input("x") : f32[2]\n  return %x\n}', 4, 1),
    ],
)
def test_errors_outside_nodes(text: str, line: int, column: int) -> None:
    with pytest.raises(TextError) as error:
        parse_graph(text)
    assert (error.value.line, error.value.column) == (line, column)


def test_comments_and_layout_do_not_matter() -> None:
    text = '# a comment\ngraph "m"{ %x=input("x"):f32[ 2 ]\n  # another\n %y = cast( %x , to = f16 )\n: f16[2] '
    text += 'return %y as "y" }'
    graph = parse_graph(text)
    assert isinstance(graph.results[0], Cast)
    round_trip(graph)


def test_operands_by_name() -> None:
    graph = parse_graph(PROLOGUE + '  %y = mul(b=%x, a=%x) : f32[2, 3]\n  return %y as "y"\n}')
    assert isinstance(graph.results[0], Mul)
