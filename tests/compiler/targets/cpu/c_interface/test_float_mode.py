"""Denormals in libraries for C: flushed or kept by the caller's thread and by workers, whose own modes stay theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import parser
from tests.compiler.targets.cpu.c_interface.conftest import ARM, HOST

Workshop = Any  # of conftest.py
COUNT = 100_000

# Runs the product of two constants in a mode of the caller's own, with a worker whose thread is in that mode too.
SOURCE = """
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>
#include "NAME.h"

#ifdef __aarch64__
#define FLUSHING (1u << 24)
static uint32_t mode(void) { uint64_t m; __asm__ volatile("mrs %0, fpcr" : "=r"(m)); return (uint32_t)m; }
static void set(uint32_t m) { uint64_t wide = m; __asm__ volatile("msr fpcr, %0" : : "r"(wide)); }
#else
#define FLUSHING 0x9fc0u
static uint32_t mode(void) { uint32_t m; __asm__ volatile("stmxcsr %0" : "=m"(m)); return m & ~0x3fu; }
static void set(uint32_t m) { __asm__ volatile("ldmxcsr %0" : : "m"(m)); }
#endif

extern long syscall(long, ...);
static uint32_t wanted, found;

static void *work(void *team) {
  set(wanted);
  NAME_worker(team);
  found = mode();
  return NULL;
}

static float x[ELEMENTS], y[ELEMENTS];

int main(int count, char **arguments) {
  static uint64_t team[NAME_TEAM / 8] __attribute__((aligned(64)));
  int32_t code;
  int64_t none = 0;
  const void *inputs[] = {x};
  void *outputs[] = {y};
  pthread_t worker;
  void *model = NAME_create(&none, &code);
  wanted = count > 1 && arguments[1][0] == 'f' ? FLUSHING : mode();
  for (long i = 0; i < ELEMENTS; ++i) {
    x[i] = 1e-30f;
  }
  if (NAME_team_init(team, NAME_TEAM, 1, syscall) || pthread_create(&worker, NULL, work, team)) {
    return 1;
  }
  set(wanted);
  for (int run = 0; run < 20; ++run) {
    if (NAME_run(model, inputs, outputs, team) || mode() != wanted) {
      return 2;
    }
  }
  NAME_team_stop(team);
  pthread_join(worker, NULL);
  if (found != wanted) {
    return 3;
  }
  fwrite(y, sizeof y, 1, stdout);
  NAME_free(model);
  return 0;
}
"""


@pytest.mark.parametrize("denormals", ["keep", "flush"])
@pytest.mark.parametrize("target", [HOST, ARM])
def test_modes(workshop: Workshop, target: str, denormals: str) -> None:
    text = f"m (float[{COUNT}] x) => (float[{COUNT}] y) <float small = {{1e-10}}> {{ y = Mul (x, small) }}"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    library = workshop.library(model, f"denormals_{denormals}", target, denormals=denormals)
    program = workshop.program(library, target, source=SOURCE.replace("ELEMENTS", str(COUNT)))
    want = np.float32(1e-30) * np.float32(1e-10) if denormals == "keep" else 0
    for caller in ("default", "flushing"):
        found = np.frombuffer(program.output(caller), np.float32)
        np.testing.assert_array_equal(found, np.full(COUNT, want, np.float32))
