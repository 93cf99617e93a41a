"""Calibration against least squares on pseudo-observations; expected improvement against brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from nas.fidelity import Calibration, expected_improvement, telling_parts
from nas.fidelity.calibration import NOISE_SHAPE, NOISE_STD, OFFSET_STD, SLOPE_STD, Z_90
from nas.pareto import hypervolume


def twin(low: np.ndarray, full: np.ndarray, query: float) -> tuple[float, float]:
    """The same posterior by another way: the prior as two more rows of a least-squares problem, and QR instead of normal equations."""
    center = low.mean() if len(low) else 0.0
    rows = [[1.0, x - center] for x in low]
    rows += [[NOISE_STD / OFFSET_STD, 0.0], [0.0, NOISE_STD / SLOPE_STD]]
    A, y = np.array(rows), np.concatenate([full - low, [0.0, 0.0]])
    weights, *_ = np.linalg.lstsq(A, y, rcond=None)
    square_error = float(((y - A @ weights) ** 2).sum())
    freedom = 2.0 * NOISE_SHAPE + len(low)
    variance = (2.0 * NOISE_SHAPE * NOISE_STD**2 + square_error) / freedom
    q = np.array([1.0, query - center])
    half = np.linalg.solve(np.linalg.qr(A, mode="r").T, q)
    t = stats.t(freedom, scale=math.sqrt(variance * (1.0 + half @ half)))
    return float(query + q @ weights), float(t.std())


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_calibration_is_the_textbooks_posterior(count: int) -> None:
    rng = np.random.default_rng(count)
    low = 3.2 + 0.2 * rng.standard_normal(count)
    full = 0.3 + 0.9 * low + 0.02 * rng.standard_normal(count)
    calibration = Calibration.fit(low, full)
    for query in (2.9, 3.2, 4.0):
        mean, std = calibration.predict(np.array([query]))
        assert (mean[0], std[0]) == pytest.approx(twin(low, full, query), rel=1e-9)


def test_calibration_learns_offset_slope_and_noise() -> None:
    rng = np.random.default_rng(0)
    low = 3.2 + 0.2 * rng.standard_normal(400)
    for noise in (0.01, 0.08):
        full = 0.1 + 0.85 * low + noise * rng.standard_normal(400)
        mean, std = Calibration.fit(low, full).predict(np.array([3.0, 3.5]))
        assert mean == pytest.approx([0.1 + 0.85 * 3.0, 0.1 + 0.85 * 3.5], abs=0.02)
        assert std == pytest.approx([noise, noise], rel=0.15)


def test_intervals_hold_nine_tenths_of_new_architectures() -> None:
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(400):
        low = 3.2 + 0.2 * rng.standard_normal(9)
        full = low + 0.1 + 0.03 * rng.standard_normal(9)
        mean, std = Calibration.fit(low[:-1], full[:-1]).predict(low[-1:])
        inside.append(abs(full[-1] - mean[0]) <= Z_90 * std[0])
    assert 0.86 <= np.mean(inside) <= 0.96


def test_few_pairs_are_wide_and_far_queries_wider() -> None:
    none, few = Calibration.fit([], []), Calibration.fit([3.0, 3.4], [3.1, 3.5])
    spread = [c.predict(np.array([3.2]))[1][0] for c in (none, few)]
    assert spread[0] > 5 * spread[1] > 5 * NOISE_STD * 0.7
    assert none.predict(np.array([3.2]))[0][0] == 3.2  # slope 1, offset 0
    assert few.predict(np.array([5.0]))[1][0] > 2 * spread[1]


@pytest.mark.parametrize(
    ("low", "full"), [([3.0], []), ([np.nan], [3.0]), ([3.0], [np.inf]), ([[3.0]], [[3.0]])]
)
def test_pairs_that_are_none_are_refused(low: list[float], full: list[float]) -> None:
    with pytest.raises(ValueError, match="expected as many finite low"):
        Calibration.fit(low, full)


def misfit_of(losses: np.ndarray, tokens: np.ndarray, parts: list[int]) -> float:
    """Posterior scale of the noise of a calibration on some parts."""
    low = losses[:, parts] @ tokens[parts] / tokens[parts].sum()
    return Calibration.fit(low, losses @ tokens / tokens.sum()).fits[0].scale


def test_the_parts_that_tell_most_are_chosen_one_by_one() -> None:
    rng = np.random.default_rng(4)
    tokens = rng.integers(20, 60, size=9).astype(np.float64)
    losses = 3.2 + 0.3 * rng.standard_normal((12, 1)) + 0.1 * rng.standard_normal((12, 9))
    losses[:, 5] = losses @ tokens / tokens.sum() - 0.2  # one part that tells nearly all
    chosen = telling_parts(losses, tokens, 4)
    assert chosen[0] == 5
    for i in range(1, 5):  # brute force
        left = [part for part in range(9) if part not in chosen[: i - 1]]
        scales = [misfit_of(losses, tokens, [*chosen[: i - 1], part]) for part in left]
        assert left[int(np.argmin(scales))] == chosen[i - 1]
    assert telling_parts(losses, tokens, 3) == chosen[:3]
    begun = telling_parts(losses, tokens, 2, [8])
    scales = [misfit_of(losses, tokens, [8, part]) for part in range(8)]
    assert begun == [8, int(np.argmin(scales))]
    assert telling_parts(losses, tokens, 3, chosen[:2]) == chosen[:3]
    assert sorted(telling_parts(losses, tokens, 9)) == list(range(9))


def test_without_pairs_the_parts_are_spread() -> None:
    tokens = np.full(8, 10.0)
    assert telling_parts(np.zeros((0, 8)), tokens, 4) == [0, 4, 2, 6]
    assert telling_parts(np.full((5, 8), 3.0), tokens, 4) == [0, 4, 2, 6]


# --- expected improvement ----------------------------------------------------------------------------


def gain(front: np.ndarray, ref: np.ndarray, point: np.ndarray) -> float:
    """Hypervolume that a known point adds."""
    return float(hypervolume(np.vstack([front, point]), ref)) - float(hypervolume(front, ref))


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("std", [0.02, 0.3])
def test_expected_improvement_is_the_integral_over_the_distribution(m: int, std: float) -> None:
    rng = np.random.default_rng(m)
    ref = np.full(m, 3.0)
    for number in range(4):
        front = rng.uniform(0.5, 3.3, size=(7, m))  # some beyond the reference point
        column = number % m
        point = rng.uniform(0.5, 2.5, size=m)
        mean = math.log(point[column])

        def integrand(z: float, case: Any = (point, column, front, mean)) -> float:
            point, column, front, mean = case
            drawn = point.copy()
            drawn[column] = math.exp(mean + std * z)
            return gain(front, ref, drawn) * float(stats.norm.pdf(z))

        kinks = (np.log(np.append(front[:, column], ref[column])) - mean) / std
        inside = sorted(k for k in kinks if -7 < k < 7)
        expected, _ = integrate.quad(integrand, -7, 7, points=inside or None, limit=400)
        found = expected_improvement(front, ref, point, column, mean, std)
        assert found == pytest.approx(expected, rel=2e-4, abs=1e-7)


def test_a_certain_point_gains_what_it_adds() -> None:
    rng = np.random.default_rng(5)
    ref = np.full(3, 2.0)
    for _ in range(30):
        front, point = rng.uniform(0.2, 2.2, size=(6, 3)), rng.uniform(0.2, 2.2, size=3)
        found = expected_improvement(front, ref, point, 0, math.log(point[0]), 1e-9)
        assert found == pytest.approx(gain(front, ref, point), abs=1e-6)


def test_nothing_is_gained_beyond_the_reference_point_or_behind_the_front() -> None:
    ref = np.array([10.0, 5.0])
    front = np.array([[2.0, 1.0]])
    assert expected_improvement(front, ref, np.array([0.0, 5.0]), 0, 1.0, 0.1) == 0.0
    hidden = expected_improvement(front, ref, np.array([0.0, 2.0]), 0, math.log(4.0), 0.01)
    assert hidden == pytest.approx(0.0, abs=1e-12)
    hopeful = expected_improvement(front, ref, np.array([0.0, 2.0]), 0, math.log(4.0), 0.5)
    assert hopeful > 0.05
    empty = expected_improvement(front[:0], ref, np.array([0.0, 2.0]), 0, math.log(4.0), 1e-6)
    assert empty == pytest.approx((10.0 - 4.0) * (5.0 - 2.0), rel=1e-5)
