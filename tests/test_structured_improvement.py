"""Expected hypervolume improvement: against quadrature, draws, and BoTorch; and the region it is taken over."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import lognorm, norm, qmc

from nas.pareto import hypervolume
from nas.pareto.partial_expectation import partial_expectation
from nas.searchers.structured import region
from nas.searchers.structured.improvement import expected_improvement
from nas.searchers.structured.region import region_of


@pytest.mark.parametrize("is_log", [False, True], ids=["normal", "log-normal"])
def test_partial_expectation_is_an_integral(is_log: bool) -> None:
    level = np.array([0.01, 0.4, 1.0, 2.5, 9.0] if is_log else [-2.0, -0.3, 0.0, 1.0, 4.0])
    mean, std = np.array([-0.5, 0.3, 1.2]), np.array([0.05, 0.6, 1.5])
    found = partial_expectation(level, mean, std, is_log)
    for c in range(3):
        density = (
            lognorm(std[c], scale=math.exp(mean[c])) if is_log else norm(mean[c], std[c])
        ).pdf
        low = 0.0 if is_log else mean[c] - 12.0 * std[c]
        peak = math.exp(mean[c] - std[c] ** 2) if is_log else mean[c]
        for i, u in enumerate(level):
            if u <= low:
                expected = 0.0
            else:
                edges = [low, *(p for p in (peak - std[c], peak, peak + std[c]) if low < p < u), u]
                expected = sum(
                    quad(lambda y, u=u, density=density: (u - y) * density(y), a, b)[0]
                    for a, b in itertools.pairwise(edges)
                )
            assert found[c, i] == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("is_log", [False, True], ids=["normal", "log-normal"])
def test_partial_expectation_at_the_ends(is_log: bool) -> None:
    mean, std = np.array([0.2]), np.array([0.5])
    assert partial_expectation(np.array([-np.inf]), mean, std, is_log).tolist() == [[0.0]]
    # far above, all of y counts: u - E[y]
    center = math.exp(0.2 + 0.125) if is_log else 0.2
    found = partial_expectation(np.array([1e6]), mean, std, is_log)
    assert found == pytest.approx(1e6 - center)
    # a sure value: the kink itself
    sure = partial_expectation(np.array([0.5, 3.0]), np.array([0.2]), np.array([1e-12]), is_log)
    value = math.exp(0.2) if is_log else 0.2
    assert sure[0] == pytest.approx([max(u - value, 0.0) for u in (0.5, 3.0)])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("std", [10.0, 40.0, 1000.0])
def test_a_log_normal_of_any_width_is_finite(std: float) -> None:
    """E[y; y < u] is bounded by u, though E[y] overflows."""
    found = partial_expectation(np.array([0.0, 1.0, 5.0]), np.array([0.3]), np.array([std]), True)
    assert np.isfinite(found).all()
    assert found[0, 0] == 0.0
    # nearly all of the mass is at 0 or far beyond u
    assert found[0, 1] == pytest.approx(norm.cdf(-0.3 / std), rel=0.2)


def believed(
    m: int, seed: int, c: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A front, a reference point, and the means and deviations of candidates about it."""
    rng = np.random.default_rng(seed)
    front = rng.uniform(0.3, 0.9, (6, m))
    mean, std = rng.uniform(0.1, 0.8, (c, m)), rng.uniform(0.05, 0.4, (c, m))
    return front, np.full(m, 1.0), mean, std


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_expected_improvement_is_the_mean_over_draws(m: int) -> None:
    front, ref, mean, std = believed(m, m)
    is_log = [j % 2 == 1 for j in range(m)]
    mean = np.where(is_log, np.log(mean), mean)
    r = region_of(front, ref)
    found = expected_improvement(mean, std, is_log, r.lower_bm, r.upper_bm)
    z = norm.ppf(qmc.Sobol(m, rng=np.random.default_rng(m)).random_base2(10))
    before = float(hypervolume(front, ref))
    for c in range(len(mean)):
        y = mean[c] + std[c] * z
        y = np.where(is_log, np.exp(y), y)
        gain = [float(hypervolume(np.vstack([front, row]), ref)) - before for row in y]
        assert found[c] == pytest.approx(np.mean(gain), rel=0.04, abs=2e-4)
    assert found.max() > 1e-3


@pytest.mark.parametrize("m", [2, 3])
def test_expected_improvement_equals_botorch(m: int) -> None:
    from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
    from botorch.models.model import Model
    from botorch.utils.multi_objective.box_decompositions.non_dominated import (
        NondominatedPartitioning,
    )
    from botorch.utils.testing import MockPosterior

    front, ref, mean, std = believed(m, 10 + m, 8)

    class Believed(Model):
        num_outputs = m

        def posterior(self, X: Any, *args: Any, **kwargs: Any) -> MockPosterior:
            rows = X[..., 0].long()  # n x 1: candidates by their number
            return MockPosterior(-torch.tensor(mean)[rows], torch.tensor(std**2)[rows])

    theirs = ExpectedHypervolumeImprovement(  # BoTorch maximizes
        Believed(),
        (-ref).tolist(),
        NondominatedPartitioning(-torch.tensor(ref), -torch.tensor(front)),
    )
    expected = theirs(torch.arange(8.0, dtype=torch.float64)[:, None, None]).numpy()
    r = region_of(front, ref)
    found = expected_improvement(mean, std, [False] * m, r.lower_bm, r.upper_bm)
    assert found == pytest.approx(expected, rel=1e-6)


# --- the region -----------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_the_region_is_what_no_point_dominates(m: int) -> None:
    rng = np.random.default_rng(m)
    Y = rng.integers(0, 6, (14, m)) / 4.0  # ties, dominated points, and some beyond the reference
    ref = np.ones(m)
    found = region_of(Y, ref)
    dominated = [
        any(np.all(Y[j] <= Y[i]) and np.any(Y[j] < Y[i]) for j in range(14)) for i in range(14)
    ]
    assert {tuple(y) for y in Y[found.front]} == {
        tuple(y) for y, out in zip(Y, dominated, strict=True) if not out
    }
    for y in rng.random((200, m)) * 1.4 - 0.2:
        inside = np.all((found.lower_bm <= y) & (y < found.upper_bm), axis=1)
        is_free = bool(np.all(y < ref)) and not any(np.all(p <= y) for p in Y)
        assert inside.sum() == is_free  # in one box, or in none


def test_without_points_everything_below_the_reference_is_free() -> None:
    found = region_of(np.empty((0, 3)), np.array([1.0, 2.0, 3.0]))
    assert not len(found.front)
    assert found.lower_bm.tolist() == [[-np.inf] * 3]
    assert found.upper_bm.tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_a_large_front_is_thinned_and_keeps_its_ends(m: int) -> None:
    rng = np.random.default_rng(m)
    n = 60 if m > 4 else 400
    Y = np.abs(rng.normal(size=(n, m)))
    Y /= np.linalg.norm(Y, axis=1, keepdims=True)  # concave: all are on the front
    found = region_of(Y, np.full(m, 1.5))
    most = region._MOST_OF_FRONT.get(m, 20)
    assert len(found.front) == most
    assert len(set(found.front.tolist())) == most
    if m > 1:
        assert Y[:, 0].argmin() in found.front
        assert Y[:, 0].argmax() in found.front
