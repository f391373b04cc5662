"""Recurrent layers: the input's part of all steps as one contraction, then a kernel that walks the steps.

The recurrent weights are packed in panels of as many units as a vector has lanes, the gates of a unit side by side:
``[direction, panel, k, gate, lane]``. So a panel gives all gates of its units at once and the cell is computed where
the sums are, in registers. The hidden state has two copies that take turns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ingot.compiler.ir.dims import Dim, ceil_divide, minimum, product, symbol
from ingot.compiler.ir.graph import Constant, Graph, Input, Value, constant, describe
from ingot.compiler.ir.loops import Accumulate, Axis, Call, Const, Expr, For, Index, Let, Local, Stmt, Store, When
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower import cells
from ingot.compiler.lower.cells import Arithmetic
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.linear import lower_contraction
from ingot.compiler.lower.nest import KernelBuilder
from ingot.compiler.lower.pointwise import copy, fill, index_value, materialise, zero
from ingot.compiler.lower.views import View, dense_strides
from ingot.compiler.ops import recurrent as ops
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.pointwise import Add
from ingot.runtime.dtypes import DType, boolean, f32, f64, i64

ROW_BLOCK = 8  # batch rows of a grid point: they share what a step reads of the weights
CHAINS = 8  # sums in flight that keep the multipliers busy
