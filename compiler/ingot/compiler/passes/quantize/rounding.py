"""Rounding that makes the error of a layer's output small instead of that of its weights.

What AdaRound learns by gradients ("Up or Down? Adaptive Rounding for Post-Training Quantization", Nagel et al. 2020)
has the second moment of the activations as its only statistic, so that no training is needed: GPTQ's order of rounding
gives codes, descent along single codes improves them until none alone can be better, and the scales of least squares
belong to these codes. For convolutions the activations are patches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ingot.compiler.ir.graph import Graph, Value
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.gptq import factor, gptq
from ingot.compiler.passes.quantize.groups import Array, Fit, Grouped, WeightForm, blocks_of, fit
from ingot.compiler.passes.quantize.products import chosen
from ingot.compiler.passes.quantize.statistics import Statistics
from ingot.compiler.rewrite import rebuild

BLOCK = 64  # rows whose products with the moment are kept up to date while codes change
SWEEPS = 4


def round_weights_to_outputs(
    graph: Graph,
    statistics: Mapping[str, Statistics],
    *,
    bits: int = 8,
    damping: float = 0.01,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> Graph:
    """`graph` with the weights of its products moved to grids of `bits` bits, symmetric, one for each output channel,
    so that the mean squared error of each output over the activations of the `statistics` is small. The weights are
    floats still, on their grids, where a quantiser finds them.

    Raises QuantisationError for other bits than a WeightForm has, and unknown names.
    """
    form = column_form(bits)
    changed: dict[Value, Value] = {}
    for name, product in chosen(graph, only, exclude).items():
        if name not in statistics:
            continue
        matrices = product.matrices().astype(np.float32)
        made = [
            rounded_to_outputs(w, moment, form, damping=damping).values()
            for w, moment in zip(matrices, statistics[name].moment, strict=True)
        ]
        changed[product.node] = product.with_operands(product.x, product.weight_of(np.stack(made)))
    return rebuild(graph, changed)


def column_form(bits: int) -> WeightForm:
    """Symmetric codes with a scale for each column. Raises QuantisationError."""
    try:
        return WeightForm(bits, 0)
    except ValueError as error:
        raise QuantisationError(str(error)) from error


def rounded_to_outputs(w: Array, moment: Array, form: WeightForm, *, damping: float = 0.01) -> Grouped:
    """w [K, N] in codes that make ``trace(d.T @ moment @ d)`` of what is lost small, by GPTQ, descent and least squares
    in turn: never larger than that of rounding to nearest."""
    moment = moment.astype(np.float64)
    wide = w.astype(np.float64)
    importance = np.diagonal(moment) if moment.any() else np.ones(len(w))
    moment = moment if moment.any() else np.eye(len(w))
    grid = fit(blocks_of(wide, form), form, blocks_of(importance[:, None], form)[:, :, 0])
    starts = [gptq(wide, factor(moment, damping=damping), form, grid=grid).codes.astype(np.float64)]
    starts.append(form.codes(wide, _spread(grid, form, len(w))))
    best = min((_descended(wide, codes, grid, moment, form) for codes in starts), key=lambda each: each[0])
    return Grouped.of(form, best[1], best[2])


def _descended(w: Array, codes: Array, grid: Fit, moment: Array, form: WeightForm) -> tuple[float, Array, Fit]:
    """The error, codes and grid after codes and scales have been improved in turn."""
    for _ in range(2):
        codes = descend(w, codes, grid, moment, form)
        grid = solved_scales(w, codes, grid, moment, form)
    scale, zero = _spread(grid, form, len(w))
    lost = (codes - zero) * scale - w
    return float(np.vdot(lost, moment @ lost)), codes, grid


def _spread(grid: Fit, form: WeightForm, depth: int) -> Fit:
    rows = form.rows(depth)
    return np.repeat(grid[0], rows, axis=0)[:depth], np.repeat(grid[1], rows, axis=0)[:depth]


def descend(w: Array, codes: Array, grid: Fit, moment: Array, form: WeightForm, *, sweeps: int = SWEEPS) -> Array:
    """`codes` [K, N] for w [K, N] on the `grid`, row by row one higher or lower where ``trace(d.T @ moment @ d)`` of
    the error d becomes smaller by that, until nothing changes or after `sweeps`."""
    depth = len(w)
    scale, zero = _spread(grid, form, depth)
    codes = codes.astype(np.float64)
    lost = (codes - zero) * scale - w
    for _ in range(sweeps):
        changed = False
        for start in range(0, depth, BLOCK):
            rows = slice(start, min(start + BLOCK, depth))
            slope = moment[rows] @ lost  # half the derivative of the error
            for i in range(rows.start, rows.stop):
                own = slope[i - start]
                step = -np.sign(own)
                allowed = (codes[i] + step >= form.low) & (codes[i] + step <= form.high)
                change = step * scale[i]
                better = allowed & (2 * change * own + change**2 * moment[i, i] < -1e-12 * scale[i] ** 2)
                if not better.any():
                    continue
                changed = True
                change = np.where(better, change, 0)
                codes[i] += np.where(better, step, 0)
                lost[i] += change
                slope += moment[rows, i][:, None] * change
        if not changed:
            break
    return codes


def solved_scales(w: Array, codes: Array, grid: Fit, moment: Array, form: WeightForm) -> Fit:
    """The grid with the scales that make ``trace(d.T @ moment @ d)`` smallest for these codes [K, N]: least squares
    over the blocks of each column. Columns whose solution is not positive keep theirs."""
    depth, columns = w.shape
    rows = form.rows(depth)
    offsets = codes - _spread(grid, form, depth)[1]
    blocks = len(grid[0])
    starts = [slice(i * rows, min((i + 1) * rows, depth)) for i in range(blocks)]
    matrix = np.empty((columns, blocks, blocks))
    for j, part in enumerate(starts):
        seen = moment[:, part] @ offsets[part]
        for i, other in enumerate(starts):
            matrix[:, i, j] = np.einsum("kn,kn->n", offsets[other], seen[other])
    seen = moment @ w
    right = np.stack([np.einsum("kn,kn->n", offsets[part], seen[part]) for part in starts], axis=1)
    empty = np.einsum("nii->ni", matrix) <= 0  # blocks of zeros, whose scale is of no account
    matrix[:, range(blocks), range(blocks)] += np.where(empty, 1, 1e-9 * np.einsum("nii->ni", matrix))
    scales = np.linalg.solve(matrix, np.where(empty, grid[0].T, right)[..., None])[..., 0].T
    usable = np.isfinite(scales).all(0) & (scales > 0).all(0)
    return np.where(usable, form.rounded(np.where(usable, scales, 1)), grid[0]), grid[1]
