"""Patterns of sparse matrices: what is sparse, panels of equal work, and buffers that say what the matrix says."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.lower.sparsity import Pattern, Sparsity, VectorPattern, balanced, is_sparse

Floats = NDArray[np.float32]


def sparse_matrix(depth: int, columns: int, density: float, together: int = 1) -> Floats:
    """A matrix in which visits of `together` columns are zero, or have elements, as a whole."""
    random = np.random.default_rng(depth + columns)
    kept = np.repeat(random.random((depth, -(-columns // together))) < density, together, 1)[:, :columns]
    return (random.standard_normal((depth, columns)) * kept).astype(np.float32)


def written_out(pattern: Pattern, shape: tuple[int, int], together: int) -> NDArray[Any]:
    """The matrix of a pattern whose offsets are the steps of the depth, read as the kernel does."""
    found = np.zeros((shape[0], pattern.starts[-1]), np.float32)
    for panel, first in enumerate(pattern.starts[:-1]):
        for depth in range(pattern.depths):
            place = panel * pattern.depths + depth
            visits = range(pattern.bounds[place], pattern.bounds[place + 1])
            counts = [pattern.ends[v + 1] - pattern.ends[v] for v in visits]
            assert counts == sorted(counts, reverse=True) and (depth == 0 or all(counts))
            for visit in visits:
                column = first + pattern.slots[visit]
                assert column < pattern.starts[panel + 1]
                for step in range(pattern.ends[visit], pattern.ends[visit + 1]):
                    found[pattern.offsets[step], column : column + together] += pattern.values[step]
    return found[:, : shape[1]]


@pytest.mark.parametrize("together", [1, 2, 4])
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (7, 37), (64, 96), (130, 33)])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5])
def test_the_buffers_hold_the_matrix(depth: int, columns: int, density: float, together: int) -> None:
    matrix = sparse_matrix(depth, columns, density, 2)
    matrix[0, 0] = 0  # so that a single element is none
    sparsity = Sparsity.of(matrix)
    assert sparsity is not None and sparsity.shape == matrix.shape
    for block in (1, 5, 64, 200):
        groups = -(-columns // 16)
        starts = balanced(np.ones(groups), 16, -(-groups // 3), 3)
        pattern = Pattern.of(matrix, sparsity, together, block, starts, range(depth))
        np.testing.assert_array_equal(written_out(pattern, matrix.shape, together), matrix)
        assert pattern.depths == -(-depth // block)
        assert pattern.values.shape == (len(pattern.offsets), together)
        assert pattern.columns == max(np.diff(starts))


@pytest.mark.parametrize(("depth", "columns", "density"), [(32, 1, 0.3), (77, 37, 0.2), (64, 32, 0.7), (100, 16, 0.0)])
def test_the_buffers_for_one_row_hold_the_matrix(depth: int, columns: int, density: float) -> None:
    matrix = sparse_matrix(depth, columns, density)
    sparsity = Sparsity.of(matrix)
    assert sparsity is not None
    pattern = VectorPattern.of(matrix, sparsity, 32, 16)
    indices, values = pattern.indices.reshape(-1, 16), pattern.values.reshape(-1, 16)
    found = np.zeros((depth, -(-columns // 16) * 16), np.float32)
    for panel, (first, last) in enumerate(pairwise(pattern.bounds)):
        counts = np.diff(pattern.ends[first : last + 1])
        assert list(counts) == sorted(counts, reverse=True) and (counts > 0).all()
        for visit in range(first, last):
            for step in range(pattern.ends[visit], pattern.ends[visit + 1]):
                lanes = np.flatnonzero(indices[step] >= 0)
                found[pattern.bases[visit] + indices[step, lanes], panel * 16 + lanes] += values[step, lanes]
                assert not values[step][indices[step] < 0].any() and indices[step].max() < 32
    np.testing.assert_array_equal(found[:, :columns], matrix)


def test_what_is_sparse() -> None:
    assert not is_sparse(np.ones((0, 4)))
    assert not is_sparse(np.ones((300, 300)))
    assert is_sparse(np.zeros((300, 300)))
    assert is_sparse(sparse_matrix(300, 300, 0.6)) and not is_sparse(sparse_matrix(300, 300, 0.9))
    assert Sparsity.of(np.full((4, 4), np.nan, np.float32)) is None
    alternating = np.ones((256, 256), np.float32)
    alternating[:, ::2] = 0  # whatever elements are looked at first
    assert is_sparse(alternating) and is_sparse(alternating.T)


def test_neighbours_share_their_steps() -> None:
    sparsity = Sparsity.of(sparse_matrix(200, 128, 0.25, 4))
    assert sparsity is not None
    assert sparsity.steps[1] == 2 * sparsity.steps[2] == 4 * sparsity.steps[4]
    assert sparsity.described == "75 % of 1, 75 % of 2, 75 % of 4"


def test_panels_have_equal_work() -> None:
    assert balanced(np.ones(12), 16, 3, 4) == [0, 64, 128, 192]
    assert balanced(np.array([9.0, 1, 1, 1, 3, 3]), 16, 3, 4) == [0, 16, 64, 96]
    assert balanced(np.array([1.0, 1, 1, 1, 1, 95]), 8, 2, 5) == [0, 40, 48]
    assert balanced(np.array([95.0, 1, 1, 1, 1, 1]), 8, 2, 3) == [0, 24, 48]  # sums of no more than three
    assert balanced(np.zeros(5), 4, 5, 1) == [0, 4, 8, 12, 16, 20]
