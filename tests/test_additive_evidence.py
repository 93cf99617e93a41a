"""Posterior, robust weights and hyperparameters: against textbook formulas, brute-force refits and an outlier."""

from __future__ import annotations

import math

import numpy as np
import pytest

from surrogates.additive.descriptors import Descriptors
from surrogates.additive.encoding import Encoder
from surrogates.additive.evidence import (
    inverse_spd,
    learn,
    out_of_fold,
    posterior,
    robust_weights,
    solve,
)
from surrogates.additive.kernel import NAMES, Gram, starting_point
from tests.additive_cases import DECODE, GPT_S, Array, described

FEW, MANY = (25, 40), (60, 12)  # fewer rows than features, and more
SHAPES = pytest.mark.parametrize("shape", [FEW, MANY], ids=["few rows", "many rows"])


def problem(shape: tuple[int, int], seed: int) -> tuple[Array, Array, Array]:
    """Features, targets and noise variances of a linear truth."""
    rng = np.random.default_rng(seed)
    n, p = shape
    psi_np = rng.normal(size=shape) / math.sqrt(p)
    noise_n = rng.uniform(0.005, 0.02, n)
    y_n = psi_np @ rng.normal(size=p) + np.sqrt(noise_n) * rng.normal(size=n)
    return psi_np, y_n, noise_n


def textbook(psi_np: Array, y_n: Array, noise_n: Array, psi_sp: Array) -> tuple[Array, Array]:
    """Rasmussen & Williams 2006, eq. 2.25 and 2.26, with dense inverses."""
    cross_sn = psi_sp @ psi_np.T
    inverse_nn = np.linalg.inv(psi_np @ psi_np.T + np.diag(noise_n))
    own_s = np.diag(psi_sp @ psi_sp.T)
    return cross_sn @ inverse_nn @ y_n, own_s - np.diag(cross_sn @ inverse_nn @ cross_sn.T)


@SHAPES
def test_mean_without_reweighting_is_the_textbook_mean(shape: tuple[int, int]) -> None:
    psi_np, y_n, noise_n = problem(shape, 0)
    psi_sp = np.random.default_rng(1).normal(size=(9, shape[1]))
    mean_p, used_n = solve(psi_np, y_n, noise_n, reweightings=1)
    np.testing.assert_array_equal(used_n, noise_n)
    expected, _ = textbook(psi_np, y_n, noise_n, psi_sp)
    np.testing.assert_allclose(psi_sp @ mean_p, expected, rtol=1e-8, atol=1e-10)


@SHAPES
def test_posterior_is_the_textbook_posterior_with_the_noise_it_settled_on(
    shape: tuple[int, int],
) -> None:
    psi_np, y_n, noise_n = problem(shape, 2)
    psi_sp = np.random.default_rng(3).normal(size=(9, shape[1]))
    found = posterior(psi_np, y_n, noise_n)
    assert found.is_reduction == (shape == FEW)
    mean_s, variance_s = found(psi_sp)
    expected = textbook(psi_np, y_n, solve(psi_np, y_n, noise_n)[1], psi_sp)
    np.testing.assert_allclose(mean_s, expected[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(variance_s, expected[1], rtol=1e-8, atol=1e-10)


def t_weights(residual_n: Array, variance_n: Array) -> Array:
    """Expected precision of Student's t with 4 degrees of freedom; the scale from the median of its absolute value."""
    e_n = residual_n / np.sqrt(variance_n)
    scale = 1.4826 * np.median(np.abs(e_n)) / math.sqrt(2.0)
    return np.array([5.0 / (4.0 + (e / scale) ** 2) for e in e_n])


def test_leave_one_out_judgement_equals_refits_without_the_row() -> None:
    psi_np, y_n, noise_n = problem(FEW, 4)
    y_n[3] += 3.0
    left_n, variance_n = np.zeros(len(y_n)), np.zeros(len(y_n))
    for i in range(len(y_n)):
        others = np.arange(len(y_n)) != i
        mean, variance = textbook(psi_np[others], y_n[others], noise_n[others], psi_np[i : i + 1])
        left_n[i], variance_n[i] = y_n[i] - mean[0], variance[0] + noise_n[i]
    _, used_n = solve(psi_np, y_n, noise_n, reweightings=2)
    np.testing.assert_allclose(used_n, noise_n / t_weights(left_n, variance_n), rtol=1e-7)


def test_residual_judgement_with_many_rows() -> None:
    psi_np, y_n, noise_n = problem(MANY, 5)
    mean_p, _ = solve(psi_np, y_n, noise_n, reweightings=1)
    _, used_n = solve(psi_np, y_n, noise_n, reweightings=2)
    expected = noise_n / t_weights(y_n - psi_np @ mean_p, noise_n)
    np.testing.assert_allclose(used_n, expected, rtol=1e-7)
    assert robust_weights(np.array([0.0, 1.0, -1.0]), np.ones(3))[0] == pytest.approx(1.25)


@pytest.mark.parametrize("shape", [(60, 90), (60, 12)], ids=["few rows", "many rows"])
def test_a_row_times_1000_hardly_moves_anything(shape: tuple[int, int]) -> None:
    """Six shared effects: an outlier moves the fit by less than 5 % of the signal; least squares by more than its whole size."""
    rng = np.random.default_rng(6)
    psi_np = 0.03 * rng.normal(size=shape)
    psi_np[:, :6] = rng.normal(size=(shape[0], 6))
    psi_sp = 0.03 * rng.normal(size=(50, shape[1]))
    psi_sp[:, :6] = rng.normal(size=(50, 6))
    noise_n = np.full(shape[0], 1e-2)
    y_n = psi_np[:, :6] @ np.array([2.0, -1.0, 1.0, 0.5, -1.5, 1.0])
    y_n += 0.1 * rng.normal(size=shape[0])
    spoiled_n = y_n.copy()
    row = int(np.argmax(np.abs(y_n)))
    spoiled_n[row] *= 1000.0
    clean_s, robust_s = (psi_sp @ solve(psi_np, y, noise_n)[0] for y in (y_n, spoiled_n))
    ruined_s = psi_sp @ solve(psi_np, spoiled_n, noise_n, reweightings=1)[0]
    size = float(np.std(clean_s))
    assert np.sqrt(np.mean((robust_s - clean_s) ** 2)) < 0.05 * size
    assert np.sqrt(np.mean((ruined_s - clean_s) ** 2)) > size


@SHAPES
def test_out_of_fold_equals_refits_without_the_fold(shape: tuple[int, int]) -> None:
    psi_np, y_n, noise_n = problem(shape, 7)
    fold_n = np.random.default_rng(8).permutation(len(y_n)) % 5
    mean_n, variance_n = out_of_fold(psi_np, y_n, noise_n, fold_n, np.array([0, 1, 3, 4]))
    for fold in (0, 1, 3, 4):
        held = fold_n == fold
        seen = posterior(psi_np[~held], y_n[~held], noise_n[~held])
        mean_s, variance_s = seen(psi_np[held])
        np.testing.assert_allclose(mean_n[held], mean_s, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(variance_n[held], variance_s, rtol=1e-6, atol=1e-9)
    assert not mean_n[fold_n == 2].any(), "a fold that was not asked for"


def test_compression_loses_no_more_than_allowed() -> None:
    """Mean variance over the points given, by the full covariance matrices."""
    rng = np.random.default_rng(9)
    psi_np = rng.normal(size=(400, 30)) * np.geomspace(3.0, 1e-3, 30)
    noise_n, allowed = np.full(400, 1e-2), 1e-6
    whole = posterior(psi_np, psi_np.sum(axis=1), noise_n)
    psi_sp = rng.normal(size=(200, 30)) * np.geomspace(3.0, 1e-3, 30)
    small = whole.compressed(psi_sp, allowed)
    assert 0 < len(small.spread_rp) < len(whole.spread_rp)
    lost_pp = whole.spread_rp.T @ whole.spread_rp - small.spread_rp.T @ small.spread_rp
    assert np.linalg.eigvalsh(lost_pp).min() > -1e-9
    assert 0.0 < np.mean(np.einsum("sp,pq,sq->s", psi_sp, lost_pp, psi_sp)) <= allowed
    np.testing.assert_array_equal(small.mean_p, whole.mean_p)
    few = posterior(psi_np[:5], psi_np[:5].sum(axis=1), noise_n[:5])
    assert few.compressed(psi_sp, 1.0) is few


def test_inverse() -> None:
    half_nn = np.random.default_rng(10).normal(size=(8, 8))
    matrix = half_nn @ half_nn.T + np.eye(8)
    np.testing.assert_allclose(inverse_spd(matrix) @ matrix, np.eye(8), atol=1e-10)
    with pytest.raises(np.linalg.LinAlgError):
        inverse_spd(-matrix)


def test_learned_hyperparameters_are_a_maximum() -> None:
    """Of the density of the data (SciPy's) times the prior: no single step away from them is better."""
    from scipy.stats import multivariate_normal

    n = 60
    _, x = described(GPT_S, DECODE, n, 11)
    gram = Gram(x, Descriptors(Encoder(GPT_S)).kinds)
    rng = np.random.default_rng(12)
    prior = starting_point(12)
    y_n = x.layers_njl[:, 0].sum(axis=1) + x.counts_nk[:, 0] + 0.1 * rng.normal(size=n)
    y_n = (y_n - y_n.mean()) / y_n.std()
    relative_n = rng.uniform(0.5, 2.0, n)

    def log_density(theta: Array) -> float:
        covariance = gram(theta)[0] + np.diag(
            math.exp(theta[NAMES.index("noise")]) * relative_n
            + 1e-8 * math.exp(theta[NAMES.index("constant")])
        )
        gap = theta - prior
        return float(multivariate_normal(cov=covariance).logpdf(y_n) - 0.05 * gap @ gap)

    found = learn(gram, y_n, relative_n, prior, prior, 300)
    best = log_density(found)
    assert best > log_density(prior) + 5.0
    for i, name in enumerate(NAMES):
        for step in (-0.5, 0.5):
            other = found.copy()
            other[i] += step
            assert log_density(other) < best + 1e-3, name
