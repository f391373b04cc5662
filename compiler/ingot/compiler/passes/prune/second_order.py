"""Methods that know how the error of a layer's output depends on its weights: the second moment of the activations.

The error of removing weights with the changes D [K, N] is ``trace(D.T @ moment @ D)``.
"""

from __future__ import annotations

import numpy as np

from ingot.compiler.passes.prune.patterns import Array, Mask, Pattern
from ingot.compiler.passes.quantize.gptq import factor

BLOCK = 32  # rows that are chosen from at once: fewer than in the paper, which errs more here
ROUNDS = 512
_TOLERANCE = 1e-10


def sparsegpt(
    w: Array, moment: Array, pattern: Pattern, rate: float, *, taps: int = 1, damping: float = 0.01
) -> tuple[Array, Mask]:
    """w [K, N] with what `pattern` and `rate` ask for removed, row by row, and what each row loses made up for by those
    behind it; and the mask of what stays. "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot"
    (Frantar and Alistarh 2023), which solves Optimal Brain Surgeon (Hassibi and Stork 1992) approximately: in each
    block of rows those go whose removal costs least after later rows have made up for it.
    """
    depth = len(w)
    upper = factor(moment, damping=damping).upper
    weight = np.diagonal(upper)[:, None] ** 2
    work = w.astype(np.float64)
    mask = np.ones(w.shape, bool)
    unit = taps if pattern.kernel else pattern.rows
    step = depth if taps > 1 and not pattern.kernel and unit > 1 else max(BLOCK // unit, 1) * unit
    for start in range(0, depth, step):
        end = min(start + step, depth)
        scores = work[start:end] ** 2 / weight[start:end]
        scores[w[start:end] == 0] = -np.inf
        own = taps if step == depth or pattern.kernel else 1
        mask[start:end] = pattern.keeps(scores[None], rate, taps=own)[0] & (w[start:end] != 0)
        errors = np.empty((end - start, w.shape[1]))
        for i in range(start, end):
            errors[i - start] = np.where(mask[i], 0, work[i]) / upper[i, i]
            work[i] = np.where(mask[i], work[i], 0)
            work[i + 1 : end] -= np.outer(upper[i, i + 1 : end], errors[i - start])
        work[end:] -= upper[start:end, end:].T @ errors
    return np.where(mask, work, 0), mask


def greedy(w: Array, moment: Array, pattern: Pattern, rate: float, *, taps: int = 1) -> Mask:
    """What stays of w [K, N] if that unit goes next whose removal, given what is gone, changes the output least: the
    greedy choice of subsets (Das and Kempe 2011, "Submodular meets Spectral"). A column's scores are renewed when one
    of its units has gone, in turns of half of the columns; where there are more than `ROUNDS` units a column to remove,
    several of it go at a time. Scores are exact but for products within a unit.

    An N:M pattern is chosen in one round.
    """
    wide = w.astype(np.float64)
    if pattern.keep is not None:
        scores = np.where(wide == 0, -np.inf, wide**2 * np.diagonal(moment)[:, None])
        return pattern.keeps(scores[None], rate, taps=taps)[0]
    order, height = pattern.order(len(w), taps)
    width = pattern.columns
    depth = len(w) + -len(w) % height
    rows = np.zeros((depth, w.shape[1] + -w.shape[1] % width))
    rows[: len(w), : w.shape[1]] = wide[order]
    seen = np.zeros((depth, depth))
    seen[: len(w), : len(w)] = moment[np.ix_(order, order)]
    blocks = rows.reshape(depth // height, height, -1, width)
    count, lists = len(blocks), blocks.shape[2]
    alone = np.square(blocks) * np.diagonal(seen).reshape(count, height, 1, 1)
    cost = np.einsum("uhjc->uj", alone)
    felt = np.zeros((depth, lists, width))  # the moment times what the column has lost
    gone = np.zeros((count, lists), bool)
    left = round(rate * count * lists)
    picks = max(1, -(-left // (ROUNDS * lists)))
    while left:
        scores = cost + 2 * np.einsum("uhjc,uhjc->uj", blocks, felt.reshape(count, height, lists, width))
        scores[gone] = np.inf
        chosen = np.argpartition(scores, min(picks, count) - 1, axis=0)[:picks]
        least = np.take_along_axis(scores, chosen, 0)
        # Half of the columns, those that lose least: the others may find better when their turn comes.
        turn = max(1, min(-(-lists // 2), left // len(chosen)))
        columns = np.argsort(least.min(0), kind="stable")[:turn]
        for unit, score in zip(chosen[:, columns], least[:, columns], strict=True):
            open_ = columns[np.isfinite(score)][:left]
            unit = unit[np.isfinite(score)][:left]
            gone[unit, open_] = True
            left -= len(unit)
            for i in range(height):
                felt[:, open_] += seen[:, unit * height + i][:, :, None] * blocks[unit, i, open_]
    kept = np.ones(w.shape, bool)
    kept[order] = ~np.repeat(np.repeat(gone, height, 0), width, 1)[: len(w), : w.shape[1]]
    return kept


def least_squares(w: Array, moment: Array, mask: Mask, *, damping: float = 1e-4, iterations: int = 64) -> Array:
    """The weights [K, N], zero outside of `mask`, that make ``trace(D.T @ moment @ D)`` least for D, what they differ
    from w by: the closed form ``moment[s, s] @ v = moment[s] @ w`` of each column's support s, by conjugate gradients
    on all columns at once (Hestenes and Stiefel 1952). `damping` of the moment's mean diagonal is added to it."""
    depth = len(w)
    if not moment.any() or mask.all():
        return np.where(mask, w, 0)
    matrix = moment.astype(np.float64) + np.eye(depth) * damping * float(np.diagonal(moment).mean())
    goal = w.astype(np.float64)
    found = np.where(mask, goal, 0)
    residual = np.where(mask, matrix @ (goal - found), 0)
    scale = 1 / np.diagonal(matrix)[:, None]
    turned = scale * residual
    direction = turned.copy()
    size = np.einsum("kn,kn->n", residual, turned)
    enough = _TOLERANCE * size
    for _ in range(iterations):
        ahead = np.where(mask, matrix @ direction, 0)
        curve = np.einsum("kn,kn->n", direction, ahead)
        length = np.divide(size, curve, out=np.zeros_like(size), where=curve > 0)
        found += length * direction
        residual -= length * ahead
        turned = scale * residual
        new = np.einsum("kn,kn->n", residual, turned)
        if (new <= enough).all():
            break
        direction = turned + np.divide(new, size, out=np.zeros_like(size), where=size > 0) * direction
        size = new
    return found


def output_error(w: Array, pruned: Array, moment: Array) -> float:
    """The part of the output's energy that is error: of w [groups, K, N] and what it has become."""
    change = pruned.astype(np.float64) - w
    lost = np.einsum("gkn,gkn->", change, moment @ change)
    whole = np.einsum("gkn,gkn->", w.astype(np.float64), moment @ w.astype(np.float64))
    return float(lost / whole) if whole > 0 else 0.0
