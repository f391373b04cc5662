/* Runs the library called NAME on bytes from stdin: symbolic dims as 64-bit words, then the inputs; writes the outputs.
 * The argument is the number of threads. */
#define _DEFAULT_SOURCE
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "NAME.h"

static size_t bytes_of(const NAME_tensor_t *tensor, const int64_t *dims) {
  static const size_t sizes[] = {0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8, 0, 0, 2};
  size_t bytes = sizes[tensor->type];
  for (int32_t axis = 0; axis < tensor->rank; ++axis) {
    bytes *= (size_t)dims[axis];
  }
  return bytes;
}

static void check(int32_t code) {
  if (code != 0) {
    fprintf(stderr, "%d: %s\n", (int)code, NAME_error_message(code));
    exit(1);
  }
}

int main(int count, char **arguments) {
  int threads = count > 1 ? atoi(arguments[1]) : 1, runs = 3;
  int64_t symbols[NAME_SYMBOLS + 1], dims[64];
  void *inputs[NAME_INPUTS + 1], *outputs[NAME_OUTPUTS + 1];
  size_t sizes[NAME_OUTPUTS + 1];
  pthread_t workers[16];
  void *team = NULL;
  int32_t code;
  if (fread(symbols, 8, NAME_SYMBOLS, stdin) != NAME_SYMBOLS) {
    return 2;
  }
  void *model = NAME_create(symbols, &code);
  check(code);
  for (int32_t i = 0; i < NAME_input_count(); ++i) {
    check(NAME_input_dims(i, symbols, dims));
    size_t bytes = bytes_of(NAME_input(i), dims);
    inputs[i] = malloc(bytes + 1);
    if (fread(inputs[i], 1, bytes, stdin) != bytes) {
      return 3;
    }
  }
  for (int32_t i = 0; i < NAME_output_count(); ++i) {
    check(NAME_output_dims(i, symbols, dims));
    sizes[i] = bytes_of(NAME_output(i), dims);
    outputs[i] = malloc(sizes[i] + 1);
  }
  if (threads > 1) {
    if (posix_memalign(&team, 64, NAME_TEAM)) {
      return 4;
    }
    check(NAME_team_init(team, NAME_TEAM, threads - 1, syscall));
    for (int i = 0; i < threads - 1; ++i) {
      if (pthread_create(&workers[i], NULL, NAME_worker, team)) {
        return 5;
      }
    }
  }
  for (int run = 0; run < runs; ++run) {
    check(NAME_run(model, (const void *const *)inputs, outputs, team));
  }
  if (team != NULL) {
    NAME_team_stop(team);
    for (int i = 0; i < threads - 1; ++i) {
      pthread_join(workers[i], NULL);
    }
  }
  for (int32_t i = 0; i < NAME_output_count(); ++i) {
    fwrite(outputs[i], 1, sizes[i], stdout);
    free(outputs[i]);
  }
  for (int32_t i = 0; i < NAME_input_count(); ++i) {
    free(inputs[i]);
  }
  free(team);
  NAME_free(model);
  return 0;
}
