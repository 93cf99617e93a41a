"""Noise: told from a rough function by evidence, outliers by leaving each observation out, and the front that is believed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from nas.pareto import hypervolume
from nas.searchers import believed_front, make_sampler
from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.belief import Belief, Data, Description, describe
from nas.searchers.structured.beliefs import Beliefs
from nas.searchers.structured.features import FeatureMap
from nas.searchers.structured.fits import Quantity
from nas.searchers.structured.kernel import Layout
from nas.searchers.structured.outliers import noise_inflation
from nas.searchers.structured.sampler import StructuredSampler
from tests.structured_cases import WIDE, Array, SlowKernel, draws, some_theta, told
from tests.structured_studies import FUNCTION, REF, auto

SPACE = ParameterSpace(WIDE)
FEATURES = FeatureMap(SPACE)


def smooth(X: Array, seed: int = 0) -> Array:
    """A sum of effects, positive."""
    F = FEATURES(X).own_np
    return np.asarray(20.0 + F @ np.random.default_rng(seed).normal(size=F.shape[1]))


def alike(seed: int, n: int) -> Array:
    """Points about four centers, as a search makes them: what is rough and what is noise shows among neighbors only."""
    rng = np.random.default_rng(seed)
    X = draws(SPACE, 1000 + seed, 4)[rng.integers(4, size=n)]
    other = draws(SPACE, 2000 + seed, n)
    return np.where(rng.random(X.shape) < 0.1, other, X)


def with_tail(y_n: Array, seed: int, share: float = 0.08) -> Array:
    """Values of which some are measured a third too small, the others to half a per cent."""
    rng = np.random.default_rng(seed)
    accident = rng.random(len(y_n)) < share
    return np.asarray(y_n * np.where(accident, 0.67, np.exp(0.005 * rng.normal(size=len(y_n)))))


# --- outliers ----------------------------------------------------------------------------------------


def test_inflation_is_that_of_fits_without_each_observation() -> None:
    """Every round against a dense solve of the other observations."""
    rng = np.random.default_rng(0)
    F = rng.normal(size=(14, 3))
    K, noise = F @ F.T + 0.3, 0.02
    y = F @ np.array([1.0, -0.5, 0.2]) + 0.1 * rng.normal(size=14)
    y[4] += 3.0
    inflation = np.ones(14)
    for _ in range(4):
        z2 = np.empty(14)
        for i in range(14):
            rest = [j for j in range(14) if j != i]
            A = K[np.ix_(rest, rest)] + np.diag(noise * inflation[rest] + 1e-8)
            mean = K[i, rest] @ np.linalg.solve(A, y[rest])
            variance = K[i, i] - K[i, rest] @ np.linalg.solve(A, K[rest, i])
            z2[i] = (y[i] - mean) ** 2 / (variance + noise)
        inflation = np.maximum(z2 / 2.5**2, 1.0)
    found = noise_inflation(K, noise, y)
    assert found == pytest.approx(inflation, rel=1e-4)
    assert found.argmax() == 4
    assert found[4] > 30.0
    assert np.median(found) == 1.0


def test_an_accident_among_alike_observations_is_not_believed() -> None:
    X = draws(SPACE, 0, 60)
    y = smooth(X)
    y[7] *= 0.6
    description = describe(FEATURES, Data(X, y), is_noisy=True)
    belief = Belief(FEATURES, Data(X, y), description)
    typical = belief.typical(belief.columns(X))
    assert typical[7] == pytest.approx(smooth(X)[7], rel=0.05)
    others = np.delete(np.arange(60), 7)
    assert typical[others] == pytest.approx(y[others], rel=0.03)


# --- noise or not ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_found_out_and_its_absence_too(seed: int) -> None:
    X = alike(seed, 80)
    y = smooth(X, seed)
    rng = np.random.default_rng(seed)
    assert not describe(FEATURES, Data(X, y)).is_noisy
    assert not describe(FEATURES, Data(X[:9], y[:9])).is_noisy  # nothing can be said yet
    assert describe(FEATURES, Data(X, y * np.exp(0.05 * rng.normal(size=80)))).is_noisy
    assert describe(FEATURES, Data(X, y), is_noisy=True).is_noisy
    assert not describe(FEATURES, Data(X, with_tail(y, seed)), is_noisy=False).is_noisy


@pytest.mark.parametrize("seed", range(3))
def test_accidents_are_found_out_as_noise(seed: int) -> None:
    X = alike(seed, 150)
    assert describe(FEATURES, Data(X, with_tail(smooth(X, seed), seed))).is_noisy


def test_the_posterior_with_inflated_noise_is_the_textbooks() -> None:
    X, Z = draws(SPACE, 1, 12), draws(SPACE, 2, 5)
    y = smooth(X)
    y[3] *= 0.5
    theta = some_theta(Layout(FEATURES, is_noisy=True), 0)
    belief = Belief(FEATURES, Data(X, y), Description(False, False, theta, is_noisy=True))
    x, z = FEATURES(X), FEATURES(Z)
    kernel = SlowKernel(FEATURES, theta)
    center, size = y.mean(), y.std()
    K = kernel.matrix(x, x)
    inflation = noise_inflation(K, kernel.noise, (y - center) / size)
    assert inflation.max() > 1.0
    K += np.diag(kernel.noise * inflation + 1e-8)
    expected = center + size * kernel.matrix(z, x) @ np.linalg.solve(K, (y - center) / size)
    assert belief.predict(belief.columns(Z))[0] == pytest.approx(expected, rel=1e-6)


def test_medians_and_spreads_are_those_of_draws() -> None:
    X = draws(SPACE, 3, 30)
    quantities, beliefs = {}, {}
    for j, is_log in enumerate((True, False)):
        description = Description(is_log, False, Layout(FEATURES).median)
        name = f"objective {j}"
        quantities[name] = Quantity(name, smooth(X), True, FEATURES, None)
        beliefs[name] = Belief(FEATURES, Data(X, np.exp(0.2 * smooth(X))), description)
    both = Beliefs(2, quantities, beliefs, {})
    Z = draws(SPACE, 4, 6)
    mean, std = both.moments(Z)
    drawn = mean + std * np.random.default_rng(0).normal(size=(200_000, 6, 2))
    drawn[..., 0] = np.exp(drawn[..., 0])
    assert both.is_log == [True, False]
    assert both.typical(Z) == pytest.approx(np.median(drawn, axis=0), rel=0.02)
    assert both.spread(Z) == pytest.approx(drawn.std(axis=0), rel=0.05)


# --- the believed front ----------------------------------------------------------------------------------


def noisy_study(n_trials: int, sampler: str = "random", sign: float = 1.0) -> optuna.Study:
    """Costs of which one in eight is told far too small."""
    rng = np.random.default_rng(1)

    def function(params: Mapping[str, Any]) -> list[float]:
        error, cost = FUNCTION(params)
        accident = rng.random() < 0.12
        return [error, sign * (cost - (3.0 if accident else 0.0) + 0.02 * rng.normal())]

    directions = ("minimize", "minimize" if sign > 0 else "maximize")
    return told(make_sampler(sampler, seed=0), WIDE, function, n_trials, directions)


def true_volume(trials: list[optuna.trial.FrozenTrial]) -> float:
    return float(hypervolume([FUNCTION(t.params) for t in trials], REF))


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_believed_front_sees_through_luck(sampler: str) -> None:
    study = noisy_study(80, sampler)
    believed = believed_front(study, auto(0, noisy=[1]))
    lucky = true_volume(study.best_trials)
    whole = true_volume(study.trials)
    assert true_volume([b.trial for b in believed]) > 0.5 * (lucky + whole)
    errors = [abs(b.values[1] - FUNCTION(b.trial.params)[1]) for b in believed]
    told_errors = [abs(t.values[1] - FUNCTION(t.params)[1]) for t in study.best_trials]
    assert np.mean(errors) < 0.6 * np.mean(told_errors)
    assert np.mean([e < 3.0 * b.stds[1] for e, b in zip(errors, believed, strict=True)]) > 0.8


def test_directions_change_nothing_but_the_sign_of_what_is_believed() -> None:
    plain, turned = believed_front(noisy_study(40)), believed_front(noisy_study(40, sign=-1.0))
    assert [b.trial.number for b in plain] == [b.trial.number for b in turned]
    for a, b in zip(plain, turned, strict=True):
        assert a.values == pytest.approx((b.values[0], -b.values[1]))
        assert a.stds == pytest.approx(b.stds)


def test_only_feasible_trials_and_each_architecture_once() -> None:
    space = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
    study = optuna.create_study(directions=["minimize"] * 2)
    for x, y in [(0.1, 0.2), (0.1, 0.2), (0.0, 0.5), (0.9, 0.1), (0.5, 0.5), (0.3, 0.9)]:
        study.enqueue_trial({"x": x, "y": y})
        trial = study.ask(space)
        trial.set_constraint("bound", 1.0 if x == 0.0 else -1.0)
        study.tell(trial, [x, y])
    unfinished = study.ask(space)
    front = believed_front(study)
    assert [b.trial.number for b in front] == [0, 3]
    assert [b.values for b in front] == [
        pytest.approx(v, abs=0.02) for v in ((0.1, 0.2), (0.9, 0.1))
    ]
    study.tell(unfinished, state=optuna.trial.TrialState.FAIL)
    assert [b.trial.number for b in believed_front(study)] == [0, 3]


def test_what_is_far_worse_than_the_bulk_is_believed_as_told() -> None:
    space = {"k": IntDistribution(0, 39)}
    study = optuna.create_study(directions=["minimize"] * 2)
    for k in range(40):
        study.enqueue_trial({"k": k})
        study.tell(study.ask(space), [float(k), 1000.0 if k == 0 else 10.0 - 0.1 * k])
    sampler = make_sampler("auto", ref_point=[20.0, 9.0])
    for front in (believed_front(study), believed_front(study, sampler)):  # type: ignore[arg-type]
        assert front[0].values == pytest.approx((0.0, 1000.0), abs=0.05)
        assert front[-1].values == pytest.approx((39.0, 6.1), abs=0.05)


def test_points_that_mean_the_same_are_one() -> None:
    space = {"g": IntDistribution(0, 1), "w": IntDistribution(1, 4)}

    def canonical(params: dict[str, Any]) -> dict[str, Any]:
        return params if params["g"] else params | {"w": 1}

    study = optuna.create_study(directions=["minimize"] * 2)
    for w in (1, 2, 3, 4):
        study.enqueue_trial({"g": 0, "w": w})
        study.tell(study.ask(space), [1.0, 2.0])
    sampler = StructuredSampler(seed=0, canonical=canonical)
    assert [b.trial.number for b in believed_front(study, sampler)] == [0]


def test_a_study_whose_trials_differ_in_parameters_is_refused() -> None:
    study = optuna.create_study(directions=["minimize"] * 2)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        depth = trial.suggest_int("depth", 1, 3)
        return float(sum(trial.suggest_int(f"w{i}", 1, 9) for i in range(depth))), -float(depth)

    study.optimize(objective, n_trials=12)
    with pytest.raises(ValueError, match="expected trials with the same parameters, got some with"):
        believed_front(study)
    with pytest.raises(ValueError, match="expected an Optuna study and a sampler 'auto'"):
        believed_front(study, make_sampler("tpe"))  # type: ignore[arg-type]


def test_nothing_feasible_is_an_empty_front() -> None:
    study = optuna.create_study(directions=["minimize"] * 2)
    for x in (0.1, 0.4, 0.7):
        study.enqueue_trial({"x": x})
        trial = study.ask({"x": FloatDistribution(0.0, 1.0)})
        trial.set_constraint("bound", 1.0)
        study.tell(trial, [x, 1.0 - x])
    assert believed_front(study) == []


def test_too_little_to_believe_is_refused() -> None:
    study = optuna.create_study(directions=["minimize"] * 2)
    with pytest.raises(ValueError, match="expected two complete trials or more"):
        believed_front(study)
    told(auto(0), WIDE, FUNCTION, 1, study=study)
    with pytest.raises(ValueError, match="got 1"):
        believed_front(study)


def test_noise_that_is_declared_is_expected_from_the_start() -> None:
    def heard(params: Mapping[str, Any]) -> list[float]:
        error, cost = FUNCTION(params)
        accident = zlib.crc32(repr(sorted(params.items())).encode()) / 2**32 - 0.5
        return [error, cost + accident]

    plain, declared = (
        told(auto(0, **options), WIDE, heard, 20) for options in ({}, {"noisy": [1]})
    )
    assert [t.params for t in plain.trials[:10]] == [t.params for t in declared.trials[:10]]
    later = ([t.params for t in study.trials[10:]] for study in (plain, declared))
    assert next(later) != next(later)
    with pytest.raises(ValueError, match="expected noisy objectives among the 2 of the study"):
        told(auto(0, noisy=[2]), WIDE, FUNCTION, 11)
