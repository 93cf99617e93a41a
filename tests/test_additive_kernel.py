"""The prior covariance: against a slow twin with loops, its weight-space form, and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from search_spaces import SearchSpace, preset
from surrogates.additive.descriptors import KINDS, Described, Descriptors
from surrogates.additive.encoding import Encoder
from surrogates.additive.kernel import NAMES, Gram, Whitening, starting_point
from tests.additive_cases import DECODE, GPT_S, TINY, Array, described

CASES = [TINY, GPT_S, preset("gpt-s-wide", True)]


def random_theta(num_layers: int, seed: int) -> Array:
    """Hyperparameters near their medians, raised until every term matters."""
    rng = np.random.default_rng(seed)
    theta = starting_point(num_layers) + rng.normal(0.0, 0.5, len(NAMES))
    for name in ("width", "depth", "bias", "whole", *KINDS):
        theta[NAMES.index(name)] = rng.normal(-1.0, 0.5)
    return theta


def slow_kernel(x: Described, kinds: tuple[str, ...], theta: Array, i: int, j: int) -> float:
    """k(x_i, x_j) term by term, as the module's docstring writes it."""
    value = {name: math.exp(t) for name, t in zip(NAMES, theta, strict=True)}
    distance = (x.log_width_n[i] - x.log_width_n[j]) / value["width scale"]
    near_width = math.exp(-0.5 * distance**2)
    own = value["width"]
    own += value["depth"] * x.depth_n[i] * x.depth_n[j]
    own += value["bias"] * x.bias_n[i] * x.bias_n[j]
    num_layers = x.layers_njl.shape[2]
    for d, kind in enumerate(kinds):
        for one in range(num_layers):
            for two in range(num_layers):
                near = math.exp(-0.5 * ((one - two) / value["layer scale"]) ** 2)
                effect = x.layers_njl[i, d, one] * x.layers_njl[j, d, two]
                own += value[kind] * (near + value["offset"]) * effect
    q = sum(a * b for a, b in zip(x.whole_ng[i], x.whole_ng[j], strict=True))
    q /= value["whole scale"] ** 2
    own += value["whole"] * (q + 0.5 * q**2)
    shared = value["constant"]
    shared += value["counts"] * sum(
        a * b for a, b in zip(x.counts_nk[i], x.counts_nk[j], strict=True)
    )
    shared += value["others"] * sum(
        a * b for a, b in zip(x.others_no[i], x.others_no[j], strict=True)
    )
    return float(shared + near_width * own)


@pytest.fixture(params=CASES, ids=lambda s: s.name)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    found: SearchSpace = request.param
    return found


def kinds_of(space: SearchSpace) -> tuple[str, ...]:
    return Descriptors(Encoder(space)).kinds


def test_gram_matrix_equals_the_slow_twin(space: SearchSpace) -> None:
    _, x = described(space, DECODE, 7, 0)
    theta, kinds = random_theta(space.depths[-1], 1), kinds_of(space)
    slow = [[slow_kernel(x, kinds, theta, i, j) for j in range(7)] for i in range(7)]
    np.testing.assert_allclose(Gram(x, kinds)(theta)[0], slow, rtol=1e-10)


def test_whitened_features_have_the_gram_matrix(space: SearchSpace) -> None:
    encoded, x = described(space, DECODE, 60, 2)
    theta, kinds = random_theta(space.depths[-1], 3), kinds_of(space)
    log_width_w = np.log2(space.embed_dims) - np.log2(space.embed_dims)[[0, -1]].mean()
    whiten = Whitening(theta, kinds, log_width_w, space.depths[-1], x.whole_ng.shape[1])
    psi_np = whiten(x, encoded.width_n)
    gram_nn, _ = Gram(x, kinds)(theta)
    np.testing.assert_allclose(psi_np @ psi_np.T, gram_nn, rtol=1e-8, atol=1e-10 * gram_nn.max())


@pytest.mark.parametrize("seed", [4, 5])
def test_gram_matrix_is_positive_semi_definite(space: SearchSpace, seed: int) -> None:
    _, x = described(space, DECODE, 80, seed)
    gram_nn, _ = Gram(x, kinds_of(space))(random_theta(space.depths[-1], seed))
    np.testing.assert_allclose(gram_nn, gram_nn.T, rtol=1e-12)
    eigenvalues = np.linalg.eigvalsh(gram_nn)
    assert eigenvalues.min() > -1e-10 * eigenvalues.max()


def test_gradient_equals_finite_differences(space: SearchSpace) -> None:
    """Of the function sum(half * K), whose derivative by K is ``half``."""
    n, step = 20, 1e-4
    _, x = described(space, DECODE, n, 6)
    theta = random_theta(space.depths[-1], 7)
    gram = Gram(x, kinds_of(space))
    half_nn = np.random.default_rng(8).normal(size=(n, n))
    half_nn = half_nn + half_nn.T
    found = gram(theta)[1](half_nn)
    assert set(found) <= set(NAMES) - {"noise"}
    for i, name in enumerate(NAMES):
        up, down = theta.copy(), theta.copy()
        up[i] += step
        down[i] -= step
        slope = float(np.sum(half_nn * (gram(up)[0] - gram(down)[0]))) / (2 * step)
        assert found.get(name, 0.0) == pytest.approx(slope, rel=1e-5, abs=1e-6), name


def test_starting_point_has_every_hyperparameter() -> None:
    theta = starting_point(12)
    assert theta.shape == (len(NAMES),)
    assert np.all(np.isfinite(theta))
    assert math.exp(theta[NAMES.index("layer scale")]) == pytest.approx(3.0)
