"""Ranks, masks, hypervolume and exclusive contributions of arrays against peeling, differences, counted cells, BoTorch and Optuna."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from surrogates.dominance import (
    hypervolume,
    hypervolume_contributions,
    non_dominated_mask,
    non_dominated_rank,
)

Points = npt.NDArray[np.float64]

# Few different values: ties and repeated points in every example.
integer_points = st.integers(1, 4).flatmap(
    lambda m: hnp.arrays(
        np.float64, st.tuples(st.integers(0, 14), st.just(m)), elements=st.integers(0, 5).map(float)
    )
)


def peeled(Y: Points) -> list[int]:
    """Ranks by definition: take away what none of the rest dominates, again and again."""
    ranks, left = [-1] * len(Y), set(range(len(Y)))
    for rank in itertools.count():
        if not left:
            return ranks
        front = {i for i in left if not any(all(Y[j] <= Y[i]) and any(Y[j] < Y[i]) for j in left)}
        for i in front:
            ranks[i] = rank
        left -= front
    raise AssertionError


def sphere(n: int, m: int, seed: int = 0) -> Points:
    """A front: points of the unit sphere seen from outside, none of which dominates another."""
    Y = np.abs(np.random.default_rng(seed).normal(size=(n, m)))
    return 1.0 - Y / np.linalg.norm(Y, axis=1, keepdims=True)


def count_cells(Y: Points, side: int) -> npt.NDArray[np.int64]:
    """How many of the points dominate each unit cell of the cube below (side, side, ..), and which cells each dominates alone."""
    m = Y.shape[1]
    cells = np.array(list(itertools.product(range(side), repeat=m)))
    dominated = np.all(Y[:, None, :] <= cells[None, :, :], axis=2)
    alone = dominated & (dominated.sum(axis=0) == 1)
    return np.append(dominated.any(axis=0).sum(), alone.sum(axis=1))


# --- ranks


@given(integer_points)
def test_rank_equals_peeling(Y: Points) -> None:
    assert non_dominated_rank(Y).tolist() == peeled(Y)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
@pytest.mark.parametrize("levels", [4, 30, 1000])
def test_rank_of_several_heads_equals_peeling(m: int, levels: int) -> None:
    """More points than bits in a word; few values make many ties, many values many points on a front."""
    Y = np.random.default_rng(m).integers(0, levels, size=(230, m)).astype(float)
    ranks = non_dominated_rank(Y)
    assert ranks.tolist() == peeled(Y)
    assert ((ranks == 0) == non_dominated_mask(Y)).all()


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_rank_of_a_chain_and_of_one_front(m: int) -> None:
    order = np.random.default_rng(0).permutation(300)
    assert (non_dominated_rank(np.repeat(order[:, None] * 1.0, m, axis=1)) == order).all()
    if m > 1:
        assert not non_dominated_rank(sphere(300, m)).any()


def test_rank_of_equal_points_and_of_nothing() -> None:
    Y = [[1.0, -0.0, 2.0], [1.0, 0.0, 2.0], [1.0, 0.0, 3.0], [0.0, 0.0, 2.0], [1.0, 0.0, 3.0]]
    assert non_dominated_rank(Y).tolist() == [1, 1, 2, 0, 2]
    assert non_dominated_rank([]).shape == (0,)
    with pytest.raises(ValueError, match="finite"):
        non_dominated_rank([[1.0, math.nan]])


@pytest.mark.parametrize("m", [3, 4])
def test_mask_of_a_front_behind_a_front(m: int) -> None:
    """Heads of 64 points of which some, none or all survive, and tables made anew as points drop out."""
    front, back = sphere(500, m, seed=1), sphere(500, m, seed=4) + 0.02
    Y = np.concatenate([back, front, front[:50]])
    order = np.random.default_rng(2).permutation(len(Y))
    behind = np.array([not np.any(np.all(front <= y, axis=1)) for y in back])
    expected = np.concatenate([behind, np.ones(550, bool)])
    assert (non_dominated_mask(Y[order]) == expected[order]).all()
    assert 0 < behind.sum() < 500


@pytest.mark.parametrize("m", [2, 3, 4])
def test_a_hundred_thousand_points(m: int) -> None:
    """Two sheets of a known order among noise behind them."""
    rng = np.random.default_rng(m)
    front = sphere(20_000, m, seed=3)
    Y = np.concatenate([front, front + 1.0, 3.0 + rng.random((60_000, m))])
    ranks = non_dominated_rank(Y)
    assert not ranks[:20_000].any()
    assert (ranks[20_000:40_000] == 1).all()  # each is behind its own point, and none behind two
    assert ranks[40_000:].min() == 2
    assert non_dominated_mask(Y).sum() == 20_000


# --- hypervolume


@given(integer_points)
def test_hypervolume_of_integers_is_exact(Y: Points) -> None:
    assert hypervolume(Y, [4.0] * Y.shape[1]) == count_cells(Y, 4)[0]


@pytest.mark.parametrize(("m", "n", "side"), [(2, 300, 200), (3, 200, 22), (4, 120, 10)])
def test_hypervolume_of_many_integers_is_exact(m: int, n: int, side: int) -> None:
    rng = np.random.default_rng(m)
    Y = np.round(sphere(n, m, seed=m) * side)
    ref = np.full(m, side)
    expected = count_cells(Y, side)
    assert hypervolume(rng.permutation(Y), ref) == expected[0]
    assert (hypervolume_contributions(Y, ref) == expected[1:]).all()


@pytest.mark.parametrize(("m", "n"), [(2, 1000), (3, 300), (4, 60), (5, 20)])
def test_hypervolume_equals_botorch_and_optuna(m: int, n: int) -> None:
    from botorch.utils.multi_objective.hypervolume import Hypervolume as Botorch
    from optuna._hypervolume import compute_hypervolume

    Y = sphere(n, m, seed=m)
    expected = Botorch(torch.full((m,), -1.1, dtype=torch.float64)).compute(-torch.tensor(Y))
    assert hypervolume(Y, [1.1] * m) == pytest.approx(expected, rel=1e-12)
    assert hypervolume(Y, [1.1] * m) == pytest.approx(
        compute_hypervolume(Y, np.full(m, 1.1)), rel=1e-12
    )


def test_hypervolume_of_a_large_front() -> None:
    """10 000 points of an octant of the unit ball: its share of the cube is 1 - pi / 6."""
    volume = hypervolume(sphere(10_000, 3), np.ones(3))
    assert 0.0 < math.pi / 6 - volume < 0.02


# --- exclusive contributions


@given(integer_points)
def test_contributions_count_cells(Y: Points) -> None:
    contributions = hypervolume_contributions(Y, [4.0] * Y.shape[1])
    assert (contributions == count_cells(Y, 4)[1:]).all()


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_contributions_equal_differences(m: int) -> None:
    Y = np.random.default_rng(m).normal(size=(25, m))  # dominated ones and ones beyond among them
    ref = np.full(m, 0.9)
    whole = hypervolume(Y, ref)
    expected = [whole - hypervolume(np.delete(Y, i, axis=0), ref) for i in range(len(Y))]
    np.testing.assert_allclose(hypervolume_contributions(Y, ref), expected, atol=1e-12)


def test_contributions_of_repeated_points_and_of_nothing() -> None:
    assert hypervolume_contributions([[1, 1, 1]] * 2, [2, 2, 2]).tolist() == [0.0, 0.0]
    assert hypervolume_contributions([], [2.0, 2.0]).shape == (0,)
    assert hypervolume_contributions([[3.0, 0.0]], [2.0, 2.0]).tolist() == [0.0]
    with pytest.raises(ValueError, match="2 values"):
        hypervolume_contributions([[1.0, 1.0]], [2.0] * 3)


@settings(max_examples=30)
@given(integer_points)
def test_contributions_of_a_front_sum_to_no_more_than_its_volume(Y: Points) -> None:
    ref = [5.0] * Y.shape[1]
    assert hypervolume_contributions(Y, ref).sum() <= hypervolume(Y, ref)
