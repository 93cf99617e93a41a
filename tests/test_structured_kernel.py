"""The kernel and its evidence: against a double loop, SciPy's densities and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.features import FeatureMap
from nas.searchers.structured.kernel import (
    Gram,
    Layout,
    evidence,
    inverse_of,
    maximize_evidence,
)
from tests.structured_cases import DEEP, EVERY_KIND, SlowKernel, Space, draws, some_theta

JITTER = 1e-8
SPACES = pytest.mark.parametrize(
    ("parameters", "gated", "num_extra"),
    [(DEEP, False, 0), (DEEP, True, 1), (EVERY_KIND, False, 2)],
    ids=["families", "gated", "every kind"],
)


def features_and_points(parameters: Space, num_extra: int, seed: int, n: int):  # type: ignore[no-untyped-def]
    space = ParameterSpace(parameters)
    extra = np.random.default_rng(seed).random((n, num_extra)) if num_extra else None
    return FeatureMap(space, num_extra), draws(space, seed, n), extra


@SPACES
def test_gram_is_the_kernel_of_every_pair(parameters: Space, gated: bool, num_extra: int) -> None:
    features, X, extra = features_and_points(parameters, num_extra, 0, 6)
    _, Z, extra_z = features_and_points(parameters, num_extra, 1, 5)
    theta = some_theta(Layout(features), 0)
    x, z = features(X, gated, extra), features(Z, gated, extra_z)
    slow = SlowKernel(features, theta)
    gram = Gram(x, Layout(features).unpack(theta))
    assert gram(z) == pytest.approx(slow.matrix(z, x), rel=1e-9)
    assert gram(x) == pytest.approx(slow.matrix(x, x), rel=1e-7)
    assert gram.variance(z) == pytest.approx(np.diag(slow.matrix(z, z)), rel=1e-9)


@pytest.mark.parametrize("is_noisy", [False, True])
@SPACES
def test_evidence_is_the_density_of_the_data_times_the_prior(
    parameters: Space, gated: bool, num_extra: int, is_noisy: bool
) -> None:
    features, X, extra = features_and_points(parameters, num_extra, 2, 12)
    layout = Layout(features, is_noisy)
    inflation = np.random.default_rng(9).uniform(1.0, 30.0, 12) if is_noisy else 1.0
    x, y = features(X, gated, extra), np.random.default_rng(2).normal(size=12)

    def slow(theta: np.ndarray) -> float:
        kernel = SlowKernel(features, theta)
        K = kernel.matrix(x, x) + np.diag(kernel.noise * inflation * np.ones(12) + JITTER)
        likelihood = multivariate_normal(np.zeros(12), K).logpdf(y)
        prior = norm(layout.median, layout.deviation).logpdf(theta).sum()
        return float(-likelihood - prior)

    theta, other = some_theta(layout, 3), some_theta(layout, 4)
    found, found_other = (evidence(t, y, x, layout, inflation)[0] for t in (theta, other))
    # up to a constant, and this is:
    constants = 0.5 * (12 + len(theta)) * np.log(2.0 * np.pi)
    assert found + constants == pytest.approx(slow(theta), rel=1e-9)
    assert found - found_other == pytest.approx(slow(theta) - slow(other), rel=1e-7)


@pytest.mark.parametrize("is_noisy", [False, True])
@SPACES
def test_the_gradient_of_the_evidence(
    parameters: Space, gated: bool, num_extra: int, is_noisy: bool
) -> None:
    features, X, extra = features_and_points(parameters, num_extra, 5, 15)
    layout = Layout(features, is_noisy)
    inflation = np.random.default_rng(9).uniform(1.0, 30.0, 15) if is_noisy else 1.0
    x, y = features(X, gated, extra), np.random.default_rng(5).normal(size=15)
    theta = some_theta(layout, 5)
    gradient = evidence(theta, y, x, layout, inflation)[1]
    step = 1e-5
    numeric = np.empty_like(theta)
    for i in range(len(theta)):
        shift = np.zeros_like(theta)
        shift[i] = step
        ahead, behind = (evidence(theta + s, y, x, layout, inflation)[0] for s in (shift, -shift))
        numeric[i] = (ahead - behind) / (2.0 * step)
    # along what is fixed by its prior the slope is that of the prior alone, and huge
    assert gradient == pytest.approx(numeric, rel=1e-5, abs=1e-5)


def test_a_lonely_parameter_has_a_shared_effect_only() -> None:
    features = FeatureMap(ParameterSpace(DEEP))
    layout = Layout(features)
    h = layout.unpack(layout.median)
    lonely = features.members_g[features.family_p] == 1
    assert lonely.any()
    assert not lonely.all()
    assert h.own_p[lonely].max() < 1e-5 < h.own_p[~lonely].min()
    assert h.product_own_p[lonely].max() < 1e-5 < h.product_own_p[~lonely].min()


def test_maximizing_the_evidence_finds_a_stationary_point() -> None:
    features, X, _ = features_and_points(DEEP, 0, 6, 40)
    layout = Layout(features)
    x = features(X)
    y = x.shared_ns @ np.random.default_rng(6).normal(size=x.shared_ns.shape[1])
    y = (y - y.mean()) / y.std()
    theta, cost = maximize_evidence(y, x, layout, layout.median, 500)
    assert cost == evidence(theta, y, x, layout)[0]
    assert cost < evidence(layout.median, y, x, layout)[0] - 10.0
    free = layout.deviation > 0.1
    assert np.abs(evidence(theta, y, x, layout)[1][free]).max() < 0.05
    # linear data of shared effects: neither products nor a remainder
    h = layout.unpack(theta)
    assert h.shared_s.max() > 100.0 * max(h.product_shared_s.max(), h.remainder)


def test_a_matrix_that_is_not_positive_costs_much_and_leads_nowhere() -> None:
    features, X, _ = features_and_points(DEEP, 0, 7, 5)
    layout = Layout(features)
    theta = layout.median.copy()
    theta[-3] = 60.0  # a constant beside which the noise is lost in rounding
    X = np.repeat(X[:1], 5, axis=0)
    cost, gradient = evidence(theta, np.arange(5.0), features(X), layout)
    assert cost == 1e10
    assert not gradient.any()


def test_inverse_of_a_product() -> None:
    A = np.random.default_rng(8).normal(size=(7, 7))
    K = A @ A.T + np.eye(7)
    assert inverse_of(np.linalg.cholesky(K)) == pytest.approx(np.linalg.inv(K))
