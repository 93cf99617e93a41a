"""Attainment surfaces and shares against their definition on a grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.pareto import attained_share, attainment_surface

runs_of_two = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=6), min_size=1, max_size=5
)


def attained(run: list[tuple[int, ...]], point: tuple[int, ...]) -> bool:
    return any(all(y <= p for y, p in zip(found, point, strict=True)) for found in run)


@given(runs_of_two)
def test_surfaces_bound_what_k_runs_attain(runs: list[list[tuple[int, int]]]) -> None:
    arrays = [np.array(run, dtype=float).reshape(-1, 2) for run in runs]
    grid = list(itertools.product(range(7), repeat=2))
    for k in range(1, len(runs) + 1):
        surface = attainment_surface(arrays, k)
        corners = [tuple(c) for c in surface.tolist()]
        for point in grid:
            expected = sum(attained(run, point) for run in runs) >= k
            assert attained(corners, point) == expected, (k, point)
        # Corners alone: rising in the first objective, falling in the second, nothing to spare.
        assert all(a[0] < b[0] and a[1] > b[1] for a, b in itertools.pairwise(corners))


@given(st.lists(st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=5), min_size=1, max_size=4))
def test_shares_in_three_objectives_are_counted(runs: list[list[tuple[int, int, int]]]) -> None:
    grid = list(itertools.product(range(4), repeat=3))
    expected = [sum(attained(run, p) for run in runs) / len(runs) for p in grid]
    assert attained_share(runs, grid).tolist() == expected


def test_a_share_of_half_is_on_or_behind_the_median_surface() -> None:
    rng = np.random.default_rng(0)
    runs = [rng.random((20, 2)) for _ in range(6)]
    points = rng.random((400, 2))
    surface = attainment_surface(runs, 3)
    behind = [bool(np.any(np.all(surface <= p, axis=1))) for p in points]
    assert (attained_share(runs, points) >= 0.5).tolist() == behind
    assert 0 < sum(behind) < len(behind)


def test_wrong_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="one run or more, got none"):
        attainment_surface([], 1)
    with pytest.raises(ValueError, match="expected two objectives, got 3; .*attained_share"):
        attainment_surface([[[1.0, 2.0, 3.0]]], 1)
    for k in (0, 3, 1.5, True):
        with pytest.raises(ValueError, match="expected k from 1 to the 2 runs"):
            attainment_surface([[[1.0, 2.0]], []], k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="equally many objectives"):
        attainment_surface([[[1.0, 2.0]], [[1.0]]], 1)
    with pytest.raises(ValueError, match="3 objectives like the points, got 2"):
        attained_share([[[1.0, 2.0]]], [[1.0, 2.0, 3.0]])
    assert attainment_surface([[[1.0, 2.0]], []], 2).shape == (0, 2)
    assert attained_share([[[1.0, 2.0]]], []).shape == (0,)
