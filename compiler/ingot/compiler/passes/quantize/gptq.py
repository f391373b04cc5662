"""GPTQ: "Accurate Post-Training Quantization for Generative Pre-trained Transformers" (Frantar et al. 2022).

Rows of a weight are rounded one after another, and what is lost with each is made up for by those that follow, as the
second moment of the activations says. The factor of the inverse moment is found by one Cholesky decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ingot.compiler.passes.quantize.groups import Array, Fit, Grouped, WeightForm, blocks_of, fit

BLOCK = 128  # rows whose errors are held back before those that follow are changed


@dataclass(frozen=True, eq=False)
class Factor:
    """The upper triangular U [K, K] with ``inverse(moment) == U.T @ U``, its rows and columns in the order `order` [K]
    in which rows of the weight are rounded."""

    upper: Array
    order: Array

    @property
    def importance(self) -> Array:
        """[K] in the order of the weight: what an error of each row costs once the following rows have made up for
        it."""
        found: Array = np.empty(len(self.order))
        found[self.order] = np.diagonal(self.upper).astype(np.float64) ** -2
        return found


def factor(moment: Array, *, damping: float = 0.01, by_activation: bool = False) -> Factor:
    """The factor for a second moment [K, K], to whose diagonal `damping` of its mean is added. `by_activation`: the
    rows of the largest activations are rounded first. A moment of zeros counts as that of independent activations.

    Raises ValueError for a moment that is not finite.
    """
    if not np.isfinite(moment).all():
        raise ValueError("the second moment of the activations is not finite: look for NaN and infinities in the data")
    moment = moment.astype(np.float64)
    depth = len(moment)
    mean = float(np.diagonal(moment).mean()) if depth else 0.0
    moment = moment + np.eye(depth) * damping * mean if mean else np.eye(depth)
    order = np.argsort(-np.diagonal(moment), kind="stable") if by_activation else np.arange(depth)
    # With the order reversed the Cholesky factor of the moment is upper triangular, and its inverse what is wanted.
    backwards = order[::-1]
    lower = np.linalg.cholesky(moment[np.ix_(backwards, backwards)])
    return Factor(_inverse(lower[::-1, ::-1]), order)


def _inverse(upper: Array) -> Array:
    """The inverse of an upper triangular matrix, by halves."""
    size = len(upper)
    if size <= 64:
        return np.triu(np.linalg.inv(upper))
    half = size // 2
    result = np.zeros_like(upper)
    first, last = _inverse(upper[:half, :half]), _inverse(upper[half:, half:])
    result[:half, :half], result[half:, half:] = first, last
    result[:half, half:] = -first @ (upper[:half, half:] @ last)
    return result


def gptq(w: Array, found: Factor, form: WeightForm, *, grid: Fit | None = None) -> Grouped:
    """w [K, N] in codes. Scales are fitted to each group when its turn comes, or (in an order by activation) to all
    groups at first; `grid` gives them ([groups, N] each) where they are known."""
    depth, columns = w.shape
    rows = form.rows(depth)
    upper = found.upper.astype(w.dtype)
    importance = blocks_of(found.importance[:, None].astype(w.dtype), form)[:, :, 0]
    in_order = found.order.tolist() == list(range(depth))
    if grid is None and not in_order:
        grid = fit(blocks_of(w, form), form, importance)
    fixed = grid is not None
    if grid is None:
        shape = (len(importance), columns)
        grid = np.ones(shape, w.dtype), np.zeros(shape, w.dtype)
    work = w[found.order]
    codes: Array = np.empty_like(w)
    step = max(BLOCK // rows, 1) * rows  # a group that is fitted has seen what all rows before it lost
    for start in range(0, depth, step):
        end = min(start + step, depth)
        errors = np.empty((end - start, columns), w.dtype)
        for i in range(start, end):
            row = found.order[i]
            place = row // rows
            if not fixed and row % rows == 0:
                group = work[None, i : i + rows]
                scale, zero = fit(group, form, importance[place : place + 1, : group.shape[1]])
                grid[0][place], grid[1][place] = scale[0], zero[0]
            own = grid[0][place], grid[1][place]
            codes[row] = form.codes(work[i], own)
            errors[i - start] = (work[i] - (codes[row] - own[1]) * own[0]) / upper[i, i]
            work[i + 1 : end] -= np.outer(upper[i, i + 1 : end], errors[i - start])
        work[end:] -= upper[start:end, end:].T @ errors
    return Grouped.of(form, codes, grid)
