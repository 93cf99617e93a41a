"""Searchers: the contract of all, and the parts of ours against closed forms, brute force and BoTorch."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pytest
import torch
from contracts_searcher import DISCRETE, SamplerContract, proposals, run, score
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from nas.pareto import hypervolume
from nas.searchers import default_ref_point, make_sampler, samplers
from nas.searchers.bayesian import (
    GaussianProcess,
    ImprovementScore,
    chebyshev,
    log_feasibility,
    normal_draws,
)
from nas.searchers.bayesian_sampler import BayesianSampler, SpaceExhaustedError
from nas.searchers.boxes import non_dominated_boxes
from nas.searchers.candidates import Candidates
from nas.searchers.indexed import index_of
from nas.searchers.parameters import ParameterSpace

FloatArray = npt.NDArray[np.float64]
FAST = {"n_startup": 6, "effort": 0.3}
POPULATION = {"population_size": 4}
STARTUP = {"n_startup_trials": 6}


class TestRandom(SamplerContract):
    name = "random"


class TestNSGA2(SamplerContract):
    name = "nsga2"
    options = POPULATION


class TestNSGA3(SamplerContract):
    name = "nsga3"
    options = POPULATION


class TestTPE(SamplerContract):
    name = "tpe"
    options = STARTUP


class TestGP(SamplerContract):
    name = "gp"
    options = STARTUP
    n_trials = 8
    n_running = 2


class TestNEHVI(SamplerContract):
    name = "qlognehvi"
    options = FAST


class TestNParEGO(SamplerContract):
    name = "qlognparego"
    options = FAST


# --- by name ---------------------------------------------------------------------------------------


def test_the_contract_covers_every_sampler() -> None:
    covered = {cls.name for cls in SamplerContract.__subclasses__()}
    assert covered == set(samplers())


@pytest.mark.parametrize(
    ("typo", "meant"), [("qlognehv", "qlognehvi"), ("nsga", "nsga2"), ("TPE", "tpe")]
)
def test_a_typo_gets_near_names(typo: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"expected a sampler in random.*got '{typo}'.*{meant}"):
        make_sampler(typo, seed=0)


@pytest.mark.parametrize("name", samplers())
def test_wrong_options_are_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="expected options of the sampler"):
        make_sampler(name, seed=0, no_such_option=1)
    with pytest.raises(ValueError, match="expected a seed"):
        make_sampler(name, seed=-1)


@pytest.mark.parametrize(
    "options", [{"n_startup": 1}, {"effort": 0.0}, {"num_draws": 1}, {"acquisition": "ei"}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        BayesianSampler(seed=0, **options)


def test_importing_the_searchers_does_not_import_botorch() -> None:
    code = (
        "import sys, nas.searchers; print(any(m.split('.')[0] == 'botorch' for m in sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


# --- points of a space -------------------------------------------------------------------------------


def distributions() -> st.SearchStrategy[BaseDistribution]:
    integers = st.tuples(st.integers(1, 50), st.integers(0, 300), st.integers(1, 7), st.booleans())
    floats = st.tuples(st.floats(1e-4, 10.0), st.floats(0.01, 100.0), st.sampled_from("clq"))

    def integer(args: tuple[int, int, int, bool]) -> BaseDistribution:
        low, span, step, log = args
        if log:
            return IntDistribution(low, low + span, log=True)
        return IntDistribution(low, low + span // step * step, step=step)

    def real(args: tuple[float, float, str]) -> BaseDistribution:
        low, span, kind = args
        if kind == "q":
            return FloatDistribution(low, low + 4 * span, step=span)
        return FloatDistribution(low, low + span, log=kind == "l")

    values = st.one_of(st.integers(-5, 5), st.text(max_size=3), st.booleans(), st.none())
    choices = st.lists(values, min_size=1, max_size=5, unique=True)
    return st.one_of(
        integers.map(integer), floats.map(real), choices.map(lambda v: CategoricalDistribution(tuple(v)))
    )  # fmt: skip


spaces = st.lists(distributions(), min_size=1, max_size=5).map(
    lambda found: ParameterSpace({f"p{i}": d for i, d in enumerate(found)})
)


@given(spaces, st.integers(0, 2**32 - 1))
def test_points_and_params_are_inverse(space: ParameterSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for x in space.random(rng, 5):
        params = space.params(x)
        for name, distribution in space.distributions.items():
            assert distribution._contains(distribution.to_internal_repr(params[name]))
        assert space.key(space.point(params)) == space.key(x)
    F = space.features(space.random(rng, 5))
    assert np.all((F >= 0.0) & (F <= 1.0))


@given(spaces, st.integers(0, 2**32 - 1))
def test_neighbors_differ_in_one_parameter_and_offspring_stay_inside(
    space: ParameterSpace, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = space.random(rng, 1)[0]
    for y in space.neighbors(x, rng):
        assert np.sum(y != x) <= 1
        assert space.key(space.point(space.params(y))) == space.key(y)
    for y in space.offspring(space.random(rng, 3), rng, 5):
        assert space.key(space.point(space.params(y))) == space.key(y)


def test_neighbors_of_a_grid_are_all_one_choice_changes() -> None:
    space = ParameterSpace({n: d for n, d in DISCRETE.items() if n != "fixed"})
    listed = [space.list_points(np.array([i]))[0] for i in range(3 * 3 * 2 * 4)]
    assert space.cardinality == len({space.key(x) for x in listed}) == 72
    x = listed[37]
    brute = {space.key(y) for y in listed if np.sum(y != x) == 1}
    found = {space.key(y) for y in space.neighbors(x, np.random.default_rng(0))}
    assert found == brute


def test_unordered_values_are_equally_far_apart_and_ordered_ones_are_not() -> None:
    space = ParameterSpace(
        {
            "p": CategoricalDistribution(("a", "b", "c")),
            "n": CategoricalDistribution((16, 4, 1)),
            "m": CategoricalDistribution((4, 16, 1)),
        }
    )

    def distance(one: tuple[Any, ...], two: tuple[Any, ...]) -> float:
        a, b = (
            space.features(space.point(dict(zip("pnm", v, strict=True)))[None]) for v in (one, two)
        )
        return float(np.sum((a - b) ** 2))

    base = ("a", 16, 4)
    assert distance(base, ("b", 16, 4)) == pytest.approx(1.0)
    assert distance(base, ("c", 16, 4)) == pytest.approx(1.0)
    assert distance(base, ("a", 4, 4)) == pytest.approx(0.25)  # sorted, so ordered: half the way
    assert distance(base, ("a", 1, 4)) == pytest.approx(1.0)
    assert distance(base, ("a", 16, 16)) == pytest.approx(1.0)  # not sorted, so unordered


def test_the_design_fills_the_space_and_grows() -> None:
    space = ParameterSpace({f"p{i}": CategoricalDistribution((0, 1)) for i in range(12)})
    short, long = space.design(3, 8), space.design(3, 32)
    assert np.array_equal(short, long[:8])
    assert np.all(long.mean(axis=0) == 0.5)  # a Sobol sequence balances every choice exactly


# --- boxes, acquisition functions and models against independent truths ------------------------------


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


def test_hyperparameters_are_at_least_as_good_as_botorchs_own_fit() -> None:
    from botorch.fit import fit_gpytorch_mll
    from gpytorch.mlls import ExactMarginalLogLikelihood

    def log_posterior(model: Any) -> float:
        model.train()
        mll = ExactMarginalLogLikelihood(model.likelihood, model)
        with torch.no_grad():
            return float(mll(model(*model.train_inputs), model.train_targets))

    F, y = some_data()
    model = GaussianProcess(F, y).model
    ours = log_posterior(model)
    for parameter in model.parameters():  # start BoTorch at a worse point
        parameter.data.mul_(1.5)
    assert log_posterior(model) < ours - 0.01
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    assert ours > log_posterior(model) - 1e-3


def test_posterior_and_draws_agree_with_botorchs_posterior() -> None:
    F, y = some_data()
    gp = GaussianProcess(F, y, may_log=False)
    rng = np.random.default_rng(1)
    base, new = rng.integers(0, 3, (4, 6)) / 2.0, rng.integers(0, 3, (3, 6)) / 2.0
    X = torch.from_numpy(np.vstack([base, new]) - F.mean(axis=0))
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


# --- the sampler -------------------------------------------------------------------------------------

SMALL = {"a": CategoricalDistribution((1, 2, 3, 4)), "b": IntDistribution(0, 5)}


@pytest.mark.parametrize("name", ["qlognehvi", "qlognparego"])
def test_every_point_once_then_exhausted(name: str) -> None:
    study = optuna.create_study(directions=["minimize"] * 2)
    study.sampler = make_sampler(name, seed=0, search_space=SMALL, **FAST)
    for _ in range(24):
        trial = study.ask(SMALL)
        study.tell(trial, [trial.params["a"], 10.0 - trial.params["b"]])
    points = {(p["a"], p["b"]) for p in proposals(study)}
    assert points == set(itertools.product((1, 2, 3, 4), range(6)))
    with pytest.raises(SpaceExhaustedError, match="24 points"):
        study.ask(SMALL)


def test_running_points_are_not_proposed() -> None:
    study = optuna.create_study(directions=["minimize"] * 2)
    study.sampler = make_sampler("qlognehvi", seed=0, search_space=SMALL, n_startup=4)
    for _ in range(6):
        trial = study.ask(SMALL)
        study.tell(trial, [trial.params["a"], 10.0 - trial.params["b"]])
    asked = [tuple(study.ask(SMALL).params.values()) for _ in range(18)]
    told = {tuple(p.values()) for p in proposals(study)}
    assert len({*asked}) == 18
    assert not told & {*asked}


def test_points_that_mean_the_same_are_proposed_once() -> None:
    space: dict[str, BaseDistribution] = {
        "depth": CategoricalDistribution((1, 2)),
        "first": CategoricalDistribution((0, 1, 2)),
        "second": CategoricalDistribution((0, 1, 2)),
    }

    def canonical(params: dict[str, Any]) -> dict[str, Any]:
        return params if params["depth"] == 2 else params | {"second": 0}

    study = optuna.create_study(directions=["minimize"] * 2)
    study.sampler = make_sampler(
        "qlognehvi", seed=1, search_space=space, canonical=canonical, n_startup=4
    )
    for _ in range(12):  # 3 of depth 1, 9 of depth 2
        trial = study.ask(space)
        study.tell(trial, [trial.params["first"] + trial.params["depth"], -trial.params["second"]])
    assert len({tuple(canonical(p).values()) for p in proposals(study)}) == 12
    with pytest.raises(SpaceExhaustedError):
        study.ask(space)


@pytest.mark.parametrize("workers", [1, 3], ids=["alone", "others running"])
def test_indices_are_the_smallest_free(workers: int) -> None:
    study = optuna.create_study(sampler=make_sampler("random", seed=0))
    running = [study.ask(SMALL) for _ in range(workers)]
    study.tell(running[0], state=optuna.trial.TrialState.FAIL)
    lost = running[0].params
    again, further = study.ask(SMALL), study.ask(SMALL)
    assert again.params == lost
    trials = study.trials
    assert index_of(trials[again.number]) == 0
    assert index_of(trials[further.number]) == workers


def zdt1(params: dict[str, Any]) -> list[float]:
    """ZDT1 with 15 choices of 5 values (Zitzler et al. 2000, eq. 7): the front is f2 = 1 - sqrt(f1), reached where g = 1."""
    x = np.array([params[f"x{i}"] for i in range(15)]) / 4.0
    g = 1.0 + 9.0 * float(np.mean(x[1:]))
    return [float(x[0]), g * (1.0 - math.sqrt(x[0] / g))]


ZDT1: dict[str, BaseDistribution] = {
    f"x{i}": CategoricalDistribution((0, 1, 2, 3, 4)) for i in range(15)
}
REF = [1.1, 7.0]


def volume_after(name: str, seed: int, n_trials: int, **options: Any) -> float:
    """Hypervolume of ZDT1 that a sampler has found."""
    study = optuna.create_study(directions=["minimize"] * 2)
    study.sampler = make_sampler(name, seed=seed, **options)
    for _ in range(n_trials):
        trial = study.ask(ZDT1)
        study.tell(trial, zdt1(trial.params))
    return float(hypervolume([t.values for t in study.trials], REF))


@pytest.mark.parametrize("name", ["qlognehvi", "qlognparego"])
def test_ours_beats_random_search_and_nears_the_optimum(name: str) -> None:
    front = [[a / 4.0, 1.0 - math.sqrt(a / 4.0)] for a in range(5)]
    optimum = float(hypervolume(front, REF))
    ours = [volume_after(name, s, 30, ref_point=REF, effort=0.5) for s in range(3)]
    random = [volume_after("random", s, 30) for s in range(3)]
    assert min(ours) > max(random)
    assert np.mean(ours) > 0.9 * optimum


def test_a_known_objective_is_used_and_not_learned() -> None:
    seen: set[str] = set()

    def second(params: Any) -> tuple[FloatArray, float]:
        assert len(params) > 0
        assert not seen & {str(p) for p in params}  # a point is asked about once
        seen.update(str(p) for p in params)
        return np.array([zdt1(p)[1] for p in params]), 0.0

    options: dict[str, Any] = {"ref_point": REF, "n_startup": 5, "effort": 0.3}
    without = np.mean([volume_after("qlognehvi", s, 11, **options) for s in range(3)])
    found = []
    for seed in range(3):
        seen.clear()
        found.append(volume_after("qlognehvi", seed, 11, known={1: second}, **options))
    assert np.mean(found) > without


def test_an_uncertain_known_objective_draws_around_its_mean() -> None:
    """With one uncertain known objective alone, the sampler maximizes E[max(best - y, 0)], which grows with the uncertainty."""
    space: dict[str, BaseDistribution] = {"x": CategoricalDistribution(tuple(range(30)))}

    def known(params: Any) -> tuple[FloatArray, FloatArray]:
        x = np.array([p["x"] for p in params])
        return np.where(x == 17, 1.0, 1.5), np.where(x == 23, 2.0, 0.0)

    study = optuna.create_study()
    study.sampler = make_sampler(
        "qlognehvi", seed=0, search_space=space, known={0: known}, n_startup=4
    )
    for x in (0, 1, 2, 3):
        trial = optuna.trial.create_trial(params={"x": x}, distributions=space, value=1.5)
        study.add_trial(trial)
    assert study.ask(space).params["x"] == 23  # E = 0.8 against 0.5 for the sure gain


@pytest.mark.parametrize(
    "wrong", [lambda p: (np.zeros(1), 0.0), lambda p: (np.full(len(p), np.nan), 0.0)]
)
def test_a_broken_known_objective_is_refused(wrong: Any) -> None:
    sampler = make_sampler("qlognehvi", seed=0, known={1: wrong}, **FAST)
    with pytest.raises(ValueError, match="expected known objective 1 to return"):
        run(sampler, DISCRETE, 10)


@pytest.mark.parametrize("options", [{"known": {5: len}}, {"ref_point": [1.0, 1.0, 1.0]}])
def test_options_that_do_not_fit_the_study_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        run(make_sampler("qlognehvi", seed=0, **FAST, **options), DISCRETE, 10)


def test_constraints_steer_the_proposals() -> None:
    def feasible_volume(name: str, seed: int, **options: Any) -> float:
        study = optuna.create_study(directions=["minimize"] * 2)
        study.sampler = make_sampler(name, seed=seed, **options)
        for _ in range(25):
            trial = study.ask(ZDT1)
            x = np.array([trial.params[f"x{i}"] for i in range(15)])
            trial.set_constraint(
                "last", float(np.sum(x[8:]) - 9.0)
            )  # a fifth of all points keep to it
            study.tell(trial, zdt1(trial.params))
        kept = [t.values for t in study.trials if t.constraints["last"] <= 0.0]
        return float(hypervolume(np.array(kept).reshape(-1, 2), REF))

    ours = [
        feasible_volume("qlognehvi", s, ref_point=REF, n_startup=6, effort=0.3) for s in range(2)
    ]
    random = [feasible_volume("random", s) for s in range(4)]
    assert min(ours) > max(random)


def test_it_works_while_no_trial_is_feasible() -> None:
    study = optuna.create_study(directions=["minimize"] * 2)
    study.sampler = make_sampler("qlognehvi", seed=0, **FAST)
    for number in range(9):
        trial = study.ask(DISCRETE)
        trial.set_constraint("never", 1.0 + number % 2)
        study.tell(trial, score(trial.params, 2))
    assert study.best_trials == []
    assert len(proposals(study)) == 9


def test_it_works_under_another_default_dtype_and_device() -> None:
    code = (
        "import torch, optuna; torch.set_default_dtype(torch.float16); torch.set_default_device('meta')\n"
        "from contracts_searcher import run, proposals, DISCRETE\n"
        "from nas.searchers import make_sampler\n"
        "print(len(proposals(run(make_sampler('qlognehvi', seed=0, n_startup=4), DISCRETE, 6))))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd="tests",
        env=_environment(),
    )
    assert found.stdout.strip() == "6", found.stderr


def _environment() -> dict[str, str]:
    import os

    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.path.join(os.getcwd(), "tests")]),
    }


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), min_size=1, max_size=8))
def test_default_ref_point_is_worse_than_every_point(points: list[list[float]]) -> None:
    ref = default_ref_point(points)
    assert np.all(ref > np.array(points).max(axis=0))
