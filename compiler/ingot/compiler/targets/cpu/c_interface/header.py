"""The C header of a library: every declaration with what a caller must know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ingot.compiler.ir.dims import UNBOUNDED
from ingot.compiler.targets.cpu.c_interface.signature import ERRORS, TYPE_NUMBERS, Port, Signature, identifiers
from ingot.compiler.targets.cpu.team_memory import SIZE as TEAM_BYTES
from ingot.runtime.dtypes import OPAQUE
from ingot.runtime.memory import ALIGNMENT

_C_TYPES = {
    **{f"{kind}{bits}": f"{'u' * (kind == 'u')}int{bits}_t" for kind in "iu" for bits in (8, 16, 32, 64)},
    "bool": "uint8_t, 0 or 1",
    "f16": "uint16_t, binary16",
    "bf16": "uint16_t, bfloat16",
    **{dtype.name: f"uint8_t, one {dtype.name}" for dtype in OPAQUE},
    "f32": "float",
    "f64": "double",
}

# What GCC and Clang can be asked of an x86-64 processor, for the levels' distinguishing features.
_ASKED = ("avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


def header_text(signature: Signature, *, state_bytes: int) -> str:
    """The whole header, C99 and C++."""
    return "\n".join(_lines(signature, state_bytes)) + "\n"


def _lines(signature: Signature, state_bytes: int) -> Iterator[str]:
    p, big = signature.prefix, signature.prefix.upper()
    names = [each.name for each in signature.symbols]
    yield from _comment(
        [
            f"{signature.model}, compiled by Ingot for {signature.level.name}.",
            "",
            f"Needs a {signature.level.arch} processor with {' '.join(sorted(signature.level.required))}.",
            "",
            *_tensor_lines("Inputs", signature.inputs),
            *_tensor_lines("Outputs", signature.outputs),
            *_symbol_lines(signature),
            "",
            f"The library allocates nothing and keeps nothing of its own: the caller gives memory. {p}_create and",
            f"{p}_run are all that a program with malloc needs. Functions that return int32_t give {big}_OK, a",
            f"negative {big}_ERROR code, or, {p}_run alone, the positive number of something wrong with the data.",
        ]
    )
    guard = f"{big}_H"
    yield f"#ifndef {guard}\n#define {guard}\n"
    yield f"#include <stddef.h>\n#include <stdint.h>\n\n#ifndef {big}_NO_MALLOC\n#include <stdlib.h>\n#endif\n"
    yield '#ifdef __cplusplus\nextern "C" {\n#endif\n'
    yield f"#define {big}_INPUT_COUNT {len(signature.inputs)}"
    yield f"#define {big}_OUTPUT_COUNT {len(signature.outputs)}"
    yield f"#define {big}_SYMBOL_COUNT {len(names)}\n"
    yield "/* Bytes and alignment of the memory that a caller gives; the arena's size depends on the symbolic dims. */"
    yield f"#define {big}_STATE_BYTES {state_bytes}"
    yield f"#define {big}_TEAM_BYTES {TEAM_BYTES}"
    yield f"#define {big}_ALIGNMENT {ALIGNMENT}\n"
    codes = [(f"{big}_{error.name}", error.code) for error in ERRORS]
    yield from _enumeration("What functions return.", [(f"{big}_OK", 0), *codes])
    for kind, ports in (("INPUT", signature.inputs), ("OUTPUT", signature.outputs)):
        ends = identifiers([port.name for port in ports])
        pairs = [(f"{big}_{kind}_{end}", number) for number, end in enumerate(ends)]
        yield from _enumeration(f"Positions of {kind.lower()}s.", pairs)
    pairs = [(f"{big}_SYMBOL_{end}", number) for number, end in enumerate(identifiers(names))]
    yield from _enumeration("Positions of symbolic dims.", pairs)
    pairs = [(f"{big}_TYPE_{name.upper()}", number) for name, number in TYPE_NUMBERS.items()]
    yield from _enumeration("Element types, numbered as ONNX numbers them.", pairs)
    yield _named(_DECLARATIONS, signature)
    yield _named(_CONVENIENCE, signature)
    yield '#ifdef __cplusplus\n}\n#endif\n'
    yield f"#endif /* {guard} */"


def _comment(lines: Sequence[str]) -> Iterator[str]:
    yield "/*"
    for line in lines:
        text = "".join(c if c.isprintable() else "?" for c in line).replace("*/", "* /").replace("/*", "/ *")
        yield f" * {text}".rstrip().replace("??", "? ?")  # no trigraphs
    yield " */"


def _tensor_lines(title: str, ports: Sequence[Port]) -> Iterator[str]:
    yield f"{title}:{'' if ports else ' none'}"
    for number, port in enumerate(ports):
        dtype = port.storage.dtype.name
        yield f"  {number}  {port.name}  {dtype}{port.shape_text} ({_C_TYPES[dtype]}), dense, row-major"


def _symbol_lines(signature: Signature) -> Iterator[str]:
    if signature.symbols:
        yield "Symbolic dims:"
    for number, each in enumerate(signature.symbols):
        yield f"  {number}  {each.name}  {each.low} to {each.high if each.high < UNBOUNDED else 'any'}"


def _enumeration(title: str, pairs: Sequence[tuple[str, int]]) -> Iterator[str]:
    if pairs:
        yield f"/* {title} */"
        yield "enum {\n" + ",\n".join(f"  {name} = {number}" for name, number in pairs) + "\n};\n"


_DECLARATIONS = """\
/* An input or output: its name and its shape as text in UTF-8, a BIG_TYPE, the number of its axes. */
typedef struct {
  const char *name;
  const char *shape;
  int32_t type;
  int32_t rank;
} NAME_tensor_t;

/* A symbolic dim and the values that it may have, both ends included. */
typedef struct {
  const char *name;
  int64_t low;
  int64_t high;
} NAME_symbol_t;

/* What running with given symbolic dims takes: bytes of state (always BIG_STATE_BYTES), of the arena, which holds
 * intermediate results, and of a thread team (BIG_TEAM_BYTES); most_threads is how many threads could have work. */
typedef struct {
  size_t state_bytes;
  size_t arena_bytes;
  size_t team_bytes;
  int64_t most_threads;
} NAME_plan_t;

int32_t NAME_input_count(void);
int32_t NAME_output_count(void);
int32_t NAME_symbol_count(void);

/* What is known of input, output or symbolic dim number `index`; NULL where there is none. */
const NAME_tensor_t *NAME_input(int32_t index);
const NAME_tensor_t *NAME_output(int32_t index);
const NAME_symbol_t *NAME_symbol(int32_t index);

/* Store the extents of an input or output, one per axis, in `dims`. `symbols` are the values of the symbolic dims in
 * order; it may be NULL where there are none. */
int32_t NAME_input_dims(int32_t index, const int64_t *symbols, int64_t *dims);
int32_t NAME_output_dims(int32_t index, const int64_t *symbols, int64_t *dims);

/* The memory that a run with these symbolic dims needs. */
int32_t NAME_plan(const int64_t *symbols, NAME_plan_t *plan);

/* Make a state for these symbolic dims in the caller's memory. The state is aligned to 8 bytes, the arena to
 * BIG_ALIGNMENT; larger memory than planned is fine, and may be NULL where nothing is needed. Neither may be moved
 * afterwards. A state may be made anew at any time, for other dims. */
int32_t NAME_init(void *state, size_t state_bytes, void *arena, size_t arena_bytes, const int64_t *symbols);

/* Run the model: `inputs` and `outputs` are arrays of the tensors' addresses, each aligned to its element and, where
 * the tensor has no elements, of any value. Outputs overlap neither inputs nor each other. `team` is NULL, for one
 * thread, or a team that no other run uses meanwhile. A state serves one run at a time; different states are
 * independent. A positive result is a fault of the data, which NAME_error_message puts into words; the outputs are
 * undefined then, and the state can be used again. Results do not depend on the number of threads. */
int32_t NAME_run(void *state, const void *const *inputs, void *const *outputs, void *team);

/* What a result means, in words; never NULL. */
const char *NAME_error_message(int32_t code);

/* Threads are the caller's: make a team for `workers` of them in memory aligned to 64 bytes, start that many threads
 * with NAME_worker and the team as argument (pthread_create takes it as it is), and give the team to NAME_run, whose
 * own thread works too. `system_call` is libc's syscall (unistd.h, with _DEFAULT_SOURCE). To end, after the last run:
 * NAME_team_stop, then join the threads. */
int32_t NAME_team_init(void *team, size_t team_bytes, int32_t workers, long (*system_call)(long, ...));
void *NAME_worker(void *team);
void NAME_team_stop(void *team);
"""


def _named(text: str, signature: Signature) -> str:
    """`text` with the model's names and the question for what its level needs."""
    names = [name for name in _ASKED if name in signature.level.required] if signature.level.arch == "x86-64" else []
    asked = " && ".join(f'__builtin_cpu_supports("{name}")' for name in names) or "1"
    words = {"NAME": signature.prefix, "BIG": signature.prefix.upper(), "ASKED": asked}
    return re.sub("|".join(words), lambda found: words[found[0]], text)


_CONVENIENCE = """\
/* Whether this processor runs the code; 1 where the compiler cannot tell. */
static inline int NAME_supported(void) {
#if defined(__GNUC__) && defined(__x86_64__)
  return ASKED;
#else
  return 1;
#endif
}

#ifndef BIG_NO_MALLOC
/* A state with memory of its own for these symbolic dims, to be given to NAME_run and at last to NAME_free. NULL if
 * that fails, with the reason in *error, which may be NULL. */
static inline void *NAME_create(const int64_t *symbols, int32_t *error) {
  NAME_plan_t plan;
  char *memory = NULL, *state = NULL;
  int32_t code = NAME_supported() ? NAME_plan(symbols, &plan) : BIG_ERROR_CPU;
  if (code == BIG_OK) {
    size_t more = plan.state_bytes + 2 * (size_t)BIG_ALIGNMENT;
    memory = plan.arena_bytes <= SIZE_MAX - more ? (char *)malloc(more + plan.arena_bytes) : NULL;
    code = memory != NULL ? BIG_OK : BIG_ERROR_MEMORY;
  }
  if (code == BIG_OK) {
    /* At least BIG_ALIGNMENT bytes in front of the state hold the address for free. */
    state = memory + 2 * (size_t)BIG_ALIGNMENT - (uintptr_t)memory % BIG_ALIGNMENT;
    ((void **)(void *)state)[-1] = memory;
    code = NAME_init(state, plan.state_bytes, state + plan.state_bytes, plan.arena_bytes, symbols);
  }
  if (code != BIG_OK) {
    free(memory);
    state = NULL;
  }
  if (error != NULL) {
    *error = code;
  }
  return state;
}

/* Give back what NAME_create made; NULL is fine. */
static inline void NAME_free(void *state) {
  if (state != NULL) {
    free(((void **)state)[-1]);
  }
}
#endif /* BIG_NO_MALLOC */
"""
