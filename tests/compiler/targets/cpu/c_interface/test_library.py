"""Libraries for C: values against sessions and ONNX Runtime, one thread and two, wrong calls, files and names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from ingot.compiler import compile
from ingot.compiler.api import compile_library
from ingot.compiler.demo import held_out, model_path
from ingot.compiler.targets.cpu.c_interface.library import SUFFIXES
from ingot.compiler.targets.cpu.c_interface.signature import ERRORS, identifiers, prefix_of
from ingot.compiler.targets.errors import TargetError
from ingot.runtime import Session
from ingot.runtime.elf import PF_R, host_machine, read_layout

Workshop = Any  # of conftest.py
HOST = "cpu"


def by_onnxruntime(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    content = Path(model).read_bytes() if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def close(have: dict[str, Any], want: dict[str, Any]) -> None:
    assert list(have) == list(want)
    for name, array in want.items():
        scale = float(np.abs(array).max(initial=0)) or 1.0
        np.testing.assert_allclose(have[name], array, rtol=0, atol=2e-5 * scale, err_msg=name)


def weighted() -> onnx.ModelProto:
    """Two symbolic dims, weights of several types, outputs of several types, one of constant shape."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((24, 40)).astype(np.float32) / 5,
        "v": rng.standard_normal((40, 7)).astype(np.float32) / 6,
        "table": rng.standard_normal((11, 24)).astype(np.float32),
    }
    made = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        two_dims (float[batch, seq, 24] x, int64[batch, seq] ids) =>
                 (float[batch, seq, 7] y, int64[batch] best, bool[batch, seq] sign, float[7] total) {
          e = Gather(table, ids)
          s = Add(x, e)
          h = MatMul(s, w)
          g = Tanh(h)
          p = MatMul(g, v)
          y = Softmax<axis = 2>(p)
          m = ReduceSum<keepdims = 0>(x, last)
          best = ArgMax<axis = 1, keepdims = 0>(m)
          sign = Greater(m, zero)
          total = ReduceSum<keepdims = 0>(y, both)
        }"""
    )
    arrays |= {"last": np.array([2]), "both": np.array([0, 1]), "zero": np.float32(0)}
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items())
    return made


def weighted_inputs(batch: int, seq: int) -> dict[str, Any]:
    rng = np.random.default_rng(batch * 100 + seq)
    x = rng.standard_normal((batch, seq, 24)).astype(np.float32)
    return {"x": x, "ids": rng.integers(0, 11, (batch, seq))}


@pytest.mark.parametrize("kind", [".so", ".o"])
def test_digits(workshop: Workshop, kind: str) -> None:
    program = workshop.program(workshop.library(model_path(), "digits"), kind=kind)
    images, labels = held_out()
    with compile(model_path()).session(threads=1) as session:
        for count in (0, 70):
            inputs = {"image": images[:count]}
            results = [program.run(inputs, {"batch": count}, threads) for threads in (1, 2)]
            want = session.run(inputs)
            for result in results:
                np.testing.assert_array_equal(result["logits"], want["logits"])
            if count:
                close(results[0], by_onnxruntime(model_path(), inputs))
                assert (results[0]["logits"].argmax(1) == labels[:count]).mean() > 0.95


@pytest.mark.parametrize("kind", [".so", ".o"])
def test_two_symbolic_dims(workshop: Workshop, kind: str) -> None:
    model = weighted()
    program = workshop.program(workshop.library(model, "two_dims"), kind=kind)
    with compile(model).session(threads=2) as session:
        for batch, seq in ((1, 1), (3, 65)):
            inputs = weighted_inputs(batch, seq)
            results = [program.run(inputs, {"batch": batch, "seq": seq}, threads) for threads in (1, 3)]
            close(results[0], by_onnxruntime(model, inputs))
            want = session.run(inputs)
            for name in want:
                np.testing.assert_array_equal(results[0][name], want[name])
                np.testing.assert_array_equal(results[1][name], want[name])


def test_random_numbers(workshop: Workshop) -> None:
    """Those of a session with seed 0, from its first run on: the program writes what the third gives."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        draws (float[n] x) => (float[n] y, float[n] z) {
            y = RandomUniformLike(x) z = RandomNormalLike<seed = 3.0>(x) }"""
    )
    program = workshop.program(workshop.library(model, "draws"), kind=".so")
    inputs = {"x": np.zeros(33, np.float32)}
    compile(model).save(workshop.folder / "draws.ingot")
    with Session(workshop.folder / "draws.ingot", seed=0) as session:
        want = [session.run(inputs) for _ in range(3)][-1]
    for name, array in program.run(inputs, {"n": 33}, 1).items():
        np.testing.assert_array_equal(array, want[name])


CALLS = r"""
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "NAME.h"
static union { char bytes[1 << 20]; long double aligned; } room;
static char state[65536], moved[65536];
#define show(call) printf("%d\n", (int)(call))
int main(void) {
  char *arena = room.bytes + 64 - (uintptr_t)room.bytes % 64;
  int64_t symbols[] = {2, 3}, dims[8] = {-1, -1, -1, -1}, negative[] = {-1, 3}, large[] = {2, 5000};
  int64_t huge[] = {INT64_C(1) << 61, 4096};
  float x[144] = {0}, y[42], total[7];
  int64_t ids[6] = {0, 1, 2, 10, 3, 4}, best[2];
  uint8_t sign[6];
  const void *in[] = {x, ids}, *missing[] = {x, NULL}, *odd[] = {(char *)x + 1, ids};
  void *out[] = {y, best, sign, total}, *none[] = {y, best, NULL, total};
  NAME_plan_t plan;
  void *s = state + 64 - (uintptr_t)state % 64, *t = moved + 64 - (uintptr_t)moved % 64, *team = arena + (1 << 19);
  printf("%d %d %d\n", NAME_input_count(), NAME_output_count(), NAME_symbol_count());
  printf("%s %s %d %d\n", NAME_input(1)->name, NAME_input(1)->shape, NAME_input(1)->type, NAME_input(1)->rank);
  printf("%s %s\n", NAME_output(3)->name, NAME_output(3)->shape);
  printf("%s %lld\n", NAME_symbol(1)->name, (long long)NAME_symbol(1)->high);
  printf("%d\n", NAME_input(2) == NULL && NAME_input(-1) == NULL && NAME_output(4) == NULL && NAME_symbol(2) == NULL);
  show(NAME_output_dims(0, symbols, dims));
  printf("%lld %lld %lld %lld\n", (long long)dims[0], (long long)dims[1], (long long)dims[2], (long long)dims[3]);
  show(NAME_output_dims(4, symbols, dims));
  show(NAME_input_dims(-1, symbols, dims));
  show(NAME_input_dims(0, NULL, dims));
  show(NAME_input_dims(0, symbols, NULL));
  show(NAME_plan(symbols, NULL));
  show(NAME_plan(NULL, &plan));
  show(NAME_plan(negative, &plan));
  show(NAME_plan(large, &plan));
  show(NAME_plan(huge, &plan));
  show(NAME_plan(symbols, &plan));
  show(plan.state_bytes == NAME_STATE && plan.team_bytes == NAME_TEAM && plan.arena_bytes > 0);
  show(NAME_run(s, in, out, NULL));
  show(NAME_init(NULL, sizeof state, arena, plan.arena_bytes, symbols));
  show(NAME_init((char *)s + 4, plan.state_bytes, arena, plan.arena_bytes, symbols));
  show(NAME_init(s, plan.state_bytes - 1, arena, plan.arena_bytes, symbols));
  show(NAME_init(s, plan.state_bytes, arena, plan.arena_bytes - 1, symbols));
  show(NAME_init(s, plan.state_bytes, NULL, plan.arena_bytes, symbols));
  show(NAME_init(s, plan.state_bytes, arena + 8, plan.arena_bytes, symbols));
  show(NAME_init(s, plan.state_bytes, arena, plan.arena_bytes, negative));
  show(NAME_run(s, in, out, NULL));
  show(NAME_init(s, plan.state_bytes, arena, plan.arena_bytes, symbols));
  memcpy(t, s, plan.state_bytes);
  show(NAME_run(t, in, out, NULL));
  show(NAME_run(NULL, in, out, NULL));
  show(NAME_run(s, NULL, out, NULL));
  show(NAME_run(s, in, NULL, NULL));
  show(NAME_run(s, missing, out, NULL));
  show(NAME_run(s, odd, out, NULL));
  show(NAME_run(s, in, none, NULL));
  show(NAME_run(s, in, out, (char *)team + 8));
  show(NAME_team_init(NULL, NAME_TEAM, 1, syscall));
  show(NAME_team_init(team, NAME_TEAM - 1, 1, syscall));
  show(NAME_team_init(team, NAME_TEAM, -1, syscall));
  show(NAME_team_init(team, NAME_TEAM, 1, NULL));
  show(NAME_team_init(team, NAME_TEAM, 0, syscall));
  show(NAME_run(s, in, out, team));
  show(NAME_run(s, in, out, NULL));
  ids[2] = 11;
  show(NAME_run(s, in, out, NULL));
  puts(NAME_error_message(1));
  ids[2] = 0;
  show(NAME_run(s, in, out, NULL));
  puts(NAME_error_message(0));
  puts(NAME_error_message(-2));
  puts(NAME_error_message(77));
  puts(NAME_error_message(-77));
  puts(NAME_error_message(INT32_MIN));
  show(NAME_supported());
  NAME_free(NULL);
  show(NAME_create(negative, NULL) == NULL);
  return 0;
}
"""


def test_wrong_calls_give_codes(workshop: Workshop) -> None:
    library = workshop.library(weighted(), "strict_dims", ranges={"seq": (0, 4096), "batch": (0, 2**62)})
    program = workshop.program(library, source=CALLS)
    assert program.output().decode().splitlines() == [
        *("2 4 2", "ids [batch, seq] 7 2", "total [7]", "seq 4096", "1"),
        *("0", "2 3 7 -1", "-1", "-1", "-1", "-1"),  # dims
        *("-1", "-1", "-2", "-2", "-3", "0", "1"),  # plan
        "-5",
        *("-1", "-1", "-4", "-4", "-1", "-1", "-2", "-5", "0"),  # init
        *("-5", "-1", "-1", "-1", "-1", "-1", "-1", "-1"),  # run
        *("-1", "-4", "-1", "-1", "0", "0", "0"),  # team
        *("1", library.signature.faults[0], "0"),
        *("no error", "the value of a symbolic dim is outside its range"),
        *("unknown error code",) * 3,
        *("1", "1"),
    ]


def test_the_shared_object_is_closed(workshop: Workshop) -> None:
    """No names but its own, nothing imported, weights in a segment that is only read."""
    library = workshop.library(model_path(), "digits")
    code = (workshop.folder / HOST / "digits.so").read_bytes()
    layout = read_layout(code, machine=host_machine(), page_size=4096)
    assert sorted(layout.symbols) == sorted(library.exports)
    last = layout.segments[-1]
    assert last.flags == PF_R and last.offset + last.file_size == len(code)
    assert last.offset % 64 == last.address % 64 == 0
    for offset, data in library.weights:
        assert code[last.offset + offset :].startswith(data.tobytes())
    listing = subprocess.run(
        ["readelf", "-WlS", workshop.folder / HOST / "digits.so"], capture_output=True, text=True
    )
    assert not listing.stderr and ".tail" in listing.stdout


def test_the_object_file_defines_its_exports_alone(workshop: Workshop) -> None:
    workshop.compiler(HOST)
    library = workshop.library(model_path(), "digits")
    listing = subprocess.run(
        ["nm", "-g", workshop.folder / HOST / "digits.o"], capture_output=True, text=True, check=True
    )
    assert not listing.stderr
    found = [line.split()[1:] for line in listing.stdout.splitlines()]
    assert found == [["T", name] for name in sorted(library.exports)]


def test_two_models_in_one_program(workshop: Workshop) -> None:
    """The same kernels twice: names of objects that are linked together must not meet."""
    first, second = workshop.library(model_path(), "digits"), workshop.library(model_path(), "other")
    source = '#include "digits.h"\n#include "other.h"\nint main(void) { int64_t batch = 1; digits_plan_t plan;\n'
    source += "return digits_plan(&batch, &plan) + other_symbol_count() - 1; }\n"
    path = workshop.folder / HOST / "both.c"
    path.write_text(source)
    objects = [str(workshop.folder / HOST / f"{each.signature.prefix}.o") for each in (first, second)]
    made = workshop.folder / HOST / "both"
    workshop.run_compiler([*workshop.compiler(HOST), str(path), *objects, "-o", str(made)])
    assert subprocess.run([made]).returncode == 0


def test_the_header_is_cxx_too(workshop: Workshop) -> None:
    workshop.library(weighted(), "two_dims")
    compiler = workshop.compiler(HOST)[0].replace("gcc", "g++").replace("clang", "clang++")
    path = workshop.folder / HOST / "cxx.cc"
    path.write_text('#include "two_dims.h"\nint main() { return two_dims_symbol_count() - TWO_DIMS_SYMBOL_COUNT; }\n')
    try:
        workshop.run_compiler([compiler, "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", str(path)])
    except FileNotFoundError:
        pytest.skip("no C++ compiler")


def test_no_inputs_no_symbols_no_weights(workshop: Workshop) -> None:
    """Sizes of nothing, and names that C cannot spell."""
    node = helper.make_node("Constant", [], ["a b"], value=numpy_helper.from_array(np.arange(3, dtype=np.int16)))
    other = helper.make_node("Neg", ["*/x"], ["π"])
    graph = helper.make_graph(
        [node, other],
        "2 names",
        [helper.make_tensor_value_info("*/x", TensorProto.DOUBLE, [])],
        [
            helper.make_tensor_value_info("a b", TensorProto.INT16, [3]),
            helper.make_tensor_value_info("π", TensorProto.DOUBLE, []),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    library = workshop.library(model, "model_2_names")
    assert compile_library(model, jobs=1).signature.prefix == "model_2_names"
    results = workshop.program(library).run({"*/x": np.float64(2.5)}, {}, 1)
    assert results["a b"].tolist() == [0, 1, 2] and results["π"] == -2.5


def test_control_flow(workshop: Workshop) -> None:
    """A branch in a loop, names that the header's macros have."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        control (float[n] COUNT, int64 trip) => (float[n] result) {
          result = Loop(trip, , COUNT) <body = body (int64 i, bool c, float[n] x) => (bool again, float[n] y) {
            again = Identity(c)
            sum = ReduceSum<keepdims = 0>(x)
            zero = Constant<value = float {0.0}>()
            positive = Greater(sum, zero)
            half = Constant<value = float {0.5}>()
            y = If(positive) <
              then_branch = down () => (float[n] t) { s = Sub(x, half) t = Mul(s, half) },
              else_branch = up () => (float[n] e) { e = Sub(half, x) }>
          }>
        }"""
    )
    program = workshop.program(workshop.library(model, "control"))
    x = np.array([3.0, -1.0, 2.5, -0.25, 0.0], np.float32)
    for trip in (0, 1, 2, 5):
        inputs = {"COUNT": x, "trip": np.array(trip)}
        result = program.run(inputs, {"n": 5}, 2)
        np.testing.assert_allclose(result["result"], by_onnxruntime(model, inputs)["result"], rtol=1e-6)


def test_same_model_same_bytes(tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> same (float[n] x) => (float[n] y) { a = Neg(x) y = Add(a, x) }'
    )
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        library = compile_library(model, jobs=1, cache=False)
        for suffix in SUFFIXES:
            library.save(tmp_path / folder / f"same{suffix}")
    for suffix in SUFFIXES:
        first, second = ((tmp_path / folder / f"same{suffix}").read_bytes() for folder in ("a", "b"))
        assert first == second


def test_refusals(tmp_path: Path) -> None:
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> n (float[n] x) => (float[n] y) { y = Neg(x) }')
    library = compile_library(model, jobs=1)
    with pytest.raises(TargetError, match=r"x\.dll: a library is written as \.so, \.o, \.h"):
        library.save(tmp_path / "x.dll")
    found = '<ir_version: 8, opset_import: ["" : 17]> n (float[n] x) => (int64[1, found] y) { y = NonZero(x) }'
    with pytest.raises(TargetError, match=r"sizes of this model come from data \(.*\.ingot artifact"):
        compile_library(parser.parse_model(found))
    for target in ("interpreter", "null"):
        with pytest.raises(TargetError, match=f"no library for C can be made for the target {target}"):
            compile_library(model, target=target)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("digits", "digits"), ("a-b.c", "a_b_c"), ("7zip", "model_7zip"), ("", "model"), ("名", "model"),
        ("__x__", "x"), ("int", "int"), ("x" * 100, "x" * 60),
    ],
)  # fmt: skip
def test_prefixes(name: str, prefix: str) -> None:
    assert prefix_of(name) == prefix and re.fullmatch(r"[A-Za-z]\w*", prefix)


def test_identifiers_are_different() -> None:
    names = ["a", "a ", "a.", "a_", "", "名", "a__2", "COUNT", "COUNT_7"]
    found = identifiers(names)
    assert len({*found, "COUNT"}) == len(names) + 1 and all(re.fullmatch(r"\w+", each, re.ASCII) for each in found)


def test_error_codes_are_dense() -> None:
    assert [error.code for error in ERRORS] == [-1 - i for i in range(len(ERRORS))]
