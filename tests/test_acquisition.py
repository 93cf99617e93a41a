"""Box decompositions, acquisition functions and Gaussian processes against independent truths."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from optuna.distributions import (
    CategoricalDistribution,
)

from nas.pareto import hypervolume
from nas.searchers import map_fit, model_fits
from nas.searchers.bayesian import (
    ImprovementScore,
    chebyshev,
    log_feasibility,
    normal_draws,
)
from nas.searchers.boxes import non_dominated_boxes
from nas.searchers.candidates import Candidates
from nas.searchers.gaussian_process import GaussianProcess, describe
from nas.searchers.history import History
from nas.searchers.map_fit import Parts
from nas.searchers.model_fits import ModelFits
from nas.searchers.parameters import ParameterSpace
from nas.searchers.rungs import COLD_EVERY, rungs
from nas.searchers.staircases import Staircases

FloatArray = npt.NDArray[np.float64]


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("grid", [False, True], ids=["general", "ties"])
def test_boxes_measure_the_hypervolume_improvement(m: int, grid: bool) -> None:
    rng = np.random.default_rng(m)
    for k in (0, 1, 2, 9):
        Y = rng.integers(0, 6, (k, m)) / 5.0 if grid else rng.random((k, m)) * 1.2
        ref = np.ones(m)
        lower, upper = non_dominated_boxes(Y, ref)
        assert m > 3 or len(lower) <= 2 * k + 1
        for y in rng.random((20, m)) * 1.3 - 0.1:
            added = np.prod(np.maximum(upper - np.maximum(lower, y), 0.0), axis=1).sum()
            brute = float(hypervolume(np.vstack([Y, y]), ref)) - float(hypervolume(Y, ref))
            assert added == pytest.approx(brute, abs=1e-12)


@pytest.mark.parametrize("grid", [False, True], ids=["general", "ties"])
def test_staircases_equal_the_boxes_of_every_front(grid: bool) -> None:
    rng = np.random.default_rng(3)
    for k in (0, 1, 2, 15):
        front = rng.integers(0, 7, (6, k, 2)) / 5.0 if grid else rng.random((6, k, 2)) * 1.3
        new = rng.integers(-1, 8, (6, 40, 2)) / 5.0 if grid else rng.random((6, 40, 2)) * 1.4
        new[:, :3] -= 0.5  # better than everything in one objective or both
        ref = np.array([1.0, 1.1])
        staircases = Staircases(front, ref)
        found = staircases.improvement(new)
        lower_Sb2, upper_Sb2 = staircases.boxes()
        assert found.shape == (6, 40)
        for s in range(6):
            lower, upper = non_dominated_boxes(front[s], ref)
            for low, high in ((lower, upper), (lower_Sb2[s], upper_Sb2[s])):
                sides = np.maximum(high - np.maximum(low, new[s][:, None]), 0.0)
                assert found[s] == pytest.approx(sides.prod(axis=2).sum(axis=1), abs=1e-12)
        assert k < 2 or (found == 0.0).any()
        assert (found > 0.0).any()


def quiet_botorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep BoTorch from compiling its C++ kernel in a test."""
    from botorch.acquisition.multi_objective import logei

    monkeypatch.setattr(logei, "_load_attempted", True)


@pytest.mark.parametrize("m", [2, 3])
def test_improvement_score_equals_botorch_on_the_same_draws(
    m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet_botorch(monkeypatch)
    from botorch.acquisition.multi_objective.logei import (
        TAU_RELU,
        qLogExpectedHypervolumeImprovement,
    )
    from botorch.models.deterministic import GenericDeterministicModel
    from botorch.utils.multi_objective.box_decompositions.non_dominated import (
        FastNondominatedPartitioning,
    )

    rng = np.random.default_rng(0)
    base, new = 0.3 + rng.random((12, m)), rng.random((35, m))
    new[30:] += 1.0
    ref = np.full(m, 1.1)
    ours = ImprovementScore(base[None], ref, np.ones(m))
    partitioning = FastNondominatedPartitioning(torch.tensor(-ref), Y=torch.tensor(-base))
    identity = GenericDeterministicModel(lambda X: -X, num_outputs=m)  # BoTorch maximizes
    theirs = qLogExpectedHypervolumeImprovement(
        identity, torch.tensor(-ref), partitioning, tau_relu=TAU_RELU, tau_max=1e-3
    )
    expected = theirs(torch.tensor(new)[:, None]).numpy()
    improving = expected > math.log(1e-4)
    assert 3 < improving.sum() < len(new)
    # The exact improvement, without BoTorch's smoothing of its kinks:
    assert ours(new[None])[improving] == pytest.approx(expected[improving], abs=0.05)
    # The smoothed one, in BoTorch's boxes (the tails depend on how the region is cut):
    upper, lower = -partitioning.get_hypercell_bounds()
    ours._lower, ours._upper = lower[None], upper[None]
    smooth = ours._smooth_log_improvement(torch.tensor(new)[None]).numpy()
    assert smooth == pytest.approx(expected, abs=1e-6)


def test_improvement_score_averages_draws_and_never_loses_the_order() -> None:
    rng = np.random.default_rng(1)
    draws = rng.random((8, 6, 2))
    scored = ImprovementScore(draws, np.ones(2), np.ones(2))
    new = rng.random((8, 10, 2)) * 0.5
    gains = [
        [
            float(hypervolume(np.vstack([draws[s], new[s, i]]), np.ones(2)))
            - float(hypervolume(draws[s], np.ones(2)))
            for s in range(8)
        ]
        for i in range(10)
    ]
    assert np.exp(scored(new)) == pytest.approx(np.mean(gains, axis=1))
    # No candidate improves: the nearer to the front, the better, and all below any that does.
    hopeless = np.stack([np.full((8, 2), 1.0 + d) for d in (0.5, 0.1, 1.0)], axis=1)
    values = scored(hopeless)
    assert values[1] > values[0] > values[2]
    assert values.max() < scored(new).min()


def test_one_objective_gives_noisy_expected_improvement() -> None:
    rng = np.random.default_rng(2)
    draws, new = rng.random((16, 5, 1)), rng.random((16, 7, 1))
    scored = ImprovementScore(draws, np.array([10.0]), np.ones(1))
    expected = np.maximum(draws.min(axis=1)[:, None] - new, 0.0)[..., 0].mean(axis=0)
    assert np.exp(scored(new)) == pytest.approx(expected)


def test_chebyshev_equals_botorch_up_to_sign() -> None:
    from botorch.utils.multi_objective.scalarization import get_chebyshev_scalarization

    rng = np.random.default_rng(0)
    Y, weights = rng.random((20, 3)), np.array([0.2, 0.5, 0.3])
    theirs = get_chebyshev_scalarization(torch.tensor(weights), torch.tensor(-Y))
    expected = -theirs(torch.tensor(-Y)).numpy()
    assert chebyshev(Y, weights, Y.min(axis=0), Y.max(axis=0)) == pytest.approx(expected)


def some_data(n: int = 40, d: int = 6) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    F = rng.integers(0, 3, (n, d)) / 2.0
    return F, F @ rng.standard_normal(d) + 2.0 * F[:, 0] * F[:, 1] + 0.05 * rng.standard_normal(n)


SPLIT = Parts(slice(0, 4), slice(2, 5), slice(5, 6))


@pytest.mark.parametrize("parts", [None, SPLIT], ids=["plain", "parts"])
def test_hyperparameters_are_at_least_as_good_as_botorchs_own_fit(parts: Parts | None) -> None:
    from botorch.fit import fit_gpytorch_mll
    from gpytorch.mlls import ExactMarginalLogLikelihood

    def log_posterior(model: Any) -> float:
        model.train()
        mll = ExactMarginalLogLikelihood(model.likelihood, model)
        with torch.no_grad():
            return float(mll(model(*model.train_inputs), model.train_targets))

    F, y = some_data()
    model = GaussianProcess(F, y, parts=parts).model
    ours = log_posterior(model)
    for parameter in model.parameters():  # start BoTorch at a worse point
        parameter.data.mul_(1.5)
    assert log_posterior(model) < ours - 0.01
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    assert ours > log_posterior(model) - 1e-3


@pytest.mark.parametrize("parts", [Parts.plain(6), SPLIT], ids=["plain", "parts"])
def test_covariances_equal_those_of_the_botorch_model(parts: Parts) -> None:
    F, y = some_data()
    gp = GaussianProcess(F, y, parts=parts)
    other = np.random.default_rng(5).random((7, 6))
    dense = gp.model.covar_module(torch.from_numpy(F), torch.from_numpy(other))
    expected = dense.to_dense().detach().numpy()
    h = gp.description.found
    assert map_fit.covariance(F, other, h, parts) == pytest.approx(expected, rel=1e-8)
    own = np.diag(map_fit.covariance(other, other, h, parts))
    assert map_fit.variance(other, h, parts) == pytest.approx(own)


def test_a_warm_fit_is_as_good_as_a_cold_one_and_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    F, y = some_data(60)
    before = describe(F[:50], y[:50])
    evaluations: list[int] = []
    minimize = map_fit.minimize

    def counted(*args: Any, **options: Any) -> Any:
        found = minimize(*args, **options)
        evaluations.append(found.nfev)
        return found

    monkeypatch.setattr(map_fit, "minimize", counted)
    cold, warm = describe(F, y), describe(F, y, before=before)
    assert warm.found.cost == pytest.approx(cold.found.cost, abs=0.05)
    assert evaluations[1] < evaluations[0]


def test_a_logarithm_is_given_up_where_a_value_is_not_positive() -> None:
    F, y = some_data()
    before = describe(F, np.exp(y))
    assert before.is_log
    y_now = np.append(np.exp(y), -1.0)
    F_now = np.vstack([F, F[:1]])
    assert not describe(F_now, y_now, before=before).is_log
    assert np.isfinite(GaussianProcess(F_now, y_now, description=before).predict(F)[0]).all()


def told(X: FloatArray, y: FloatArray) -> History:
    """A study of one objective."""
    n, d = X.shape
    ref, none = np.array([y.max() + 1.0]), np.zeros((0, d))
    return History(X, y[:, None], np.ones(n, dtype=np.bool_), {}, none, none, np.ones(1), ref)


def test_remembered_fits_equal_those_of_a_fresh_start(monkeypatch: pytest.MonkeyPatch) -> None:
    space = ParameterSpace({f"p{i}": CategoricalDistribution((0, 1, 2)) for i in range(6)})
    X = space.random(np.random.default_rng(0), 50)
    y = X @ np.arange(6.0) + X[:, 0] * X[:, 1]

    def features_of(space: ParameterSpace, X: FloatArray) -> Any:
        return space.features, Parts.plain(6)

    calls = []

    def counted(*args: Any) -> Any:
        calls.append(len(args[1]))
        return describe(*args)

    monkeypatch.setattr(model_fits, "describe", counted)
    lived = ModelFits(features_of)
    for n in range(10, 51):
        found = lived.description(space, told(X[:n], y[:n]), "y", y[:n], True)
    lived_calls = len(calls)
    calls.clear()
    fresh = ModelFits(features_of).description(space, told(X, y), "y", y, True)
    assert fresh.found.lengths_f.tolist() == found.found.lengths_f.tolist()
    assert fresh.found.scalars == found.found.scalars
    assert (fresh.mean, fresh.scale, fresh.is_log) == (found.mean, found.scale, found.is_log)
    assert calls == rungs(50)[-3:]  # a cold fit and two from the fit before
    assert len(calls) <= COLD_EVERY
    assert calls[-1] < 50  # not at every point
    assert lived_calls < 25
    # another space, whose points are the same numbers, is fitted anew
    calls.clear()
    lived.description(ParameterSpace(space.distributions), told(X, y), "y", y, True)
    assert calls


def test_rungs_grow_by_fifteen_percent() -> None:
    found = rungs(1000)
    assert found == sorted(set(found))
    assert all(b <= max(a + 1, 1.15 * a) for a, b in itertools.pairwise(found))
    assert rungs(found[-1] - 1) == found[:-1]


def test_posterior_and_draws_agree_with_botorchs_posterior() -> None:
    F, y = some_data()
    gp = GaussianProcess(F, y, may_log=False)
    rng = np.random.default_rng(1)
    base, new = rng.integers(0, 3, (4, 6)) / 2.0, rng.integers(0, 3, (3, 6)) / 2.0
    X = torch.from_numpy(np.vstack([base, new]))
    posterior = gp.model.posterior(X)
    mean = posterior.mean.detach().numpy()[:, 0] * y.std() + y.mean()
    cov = posterior.distribution.covariance_matrix.detach().numpy() * y.var()
    found_mean, found_std = gp.predict(np.vstack([base, new]))
    assert found_mean == pytest.approx(mean, abs=1e-4)
    assert found_std == pytest.approx(np.sqrt(np.diag(cov)), rel=1e-3)
    # Baseline and candidate values are one draw: their joint covariance is the posterior's.
    z = normal_draws(4096, 5, seed=0)
    at_base = gp.start_draws(base, z[:, :4])
    for i in range(3):
        joint = np.c_[at_base, gp.extend_draws(new[i : i + 1], z[:, 4])]
        rows = [0, 1, 2, 3, 4 + i]
        assert joint.mean(axis=0) == pytest.approx(mean[rows], abs=0.02)
        expected = cov[np.ix_(rows, rows)]
        assert np.cov(joint.T) == pytest.approx(expected, abs=0.05 * np.abs(expected).max())


def test_skewed_positive_values_are_modeled_by_their_logarithm() -> None:
    F, y = some_data()
    gp = GaussianProcess(F, np.exp(3.0 * y))
    mean, std = gp.predict(F)
    assert np.corrcoef(mean, 3.0 * y)[0, 1] > 0.99
    draws = gp.start_draws(F[:5], normal_draws(256, 5, 0))
    assert np.median(draws, axis=0) == pytest.approx(np.exp(mean[:5]), rel=0.2)
    assert np.all(std > 0.0)


def test_feasibility_is_the_normal_probability() -> None:
    from scipy.stats import norm

    F, y = some_data()
    gp = GaussianProcess(F, y - 1.0, may_log=False)
    mean, std = gp.predict(F[:6])
    expected = 2.0 * norm.logcdf(-mean / std)
    assert log_feasibility([gp, gp], F[:6]) == pytest.approx(expected)


def test_a_constant_objective_can_be_modeled() -> None:
    F, _ = some_data(12)
    mean, std = GaussianProcess(F, np.full(12, 3.0)).predict(F)
    assert mean == pytest.approx(np.full(12, 3.0), abs=1e-6)
    assert np.isfinite(std).all()


def test_local_search_reaches_the_best_point_of_an_additive_score() -> None:
    space = ParameterSpace({f"p{i}": CategoricalDistribution(tuple("abcde")) for i in range(20)})
    rng = np.random.default_rng(0)
    table = rng.random((20, 5))

    def value(X: FloatArray) -> FloatArray:
        return np.array([sum(table[i, int(v)] for i, v in enumerate(x)) for x in X])

    best = table.argmax(axis=1).astype(np.float64)
    candidates = Candidates(space, lambda X: X, set(), rng, num_moves=20_000)
    found = candidates.best(value, space.random(rng, 3))
    assert found is not None
    assert found.tolist() == best.tolist()
    seen = {space.key(best)}  # the best is taken: the second best is one choice away
    second = Candidates(space, lambda X: X, seen, rng, num_moves=20_000).best(value, best[None])
    assert second is not None
    losses = np.sort(table, axis=1)[:, -1] - np.sort(table, axis=1)[:, -2]
    assert value(second[None])[0] == pytest.approx(table.max(axis=1).sum() - losses.min())
