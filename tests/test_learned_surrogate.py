"""The learned surrogate: its parts, known truths, files."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from search_spaces import (
    Architecture,
    LayerConfig,
)
from surrogates import (
    LatencySurrogate,
    coverage,
    device,
    feature_matrix,
    feature_names,
    kendall_tau,
    mape,
)
from surrogates.mean import AnalyticMean, roofline_coefficients
from surrogates.posterior import GaussianProcess, Hyperparameters
from surrogates.records import to_records
from surrogates.storage import read_archive, write_archive
from tests.surrogate_truths import DECODE, TINY, hidden_truth, sample

# ---- the parts of the learned surrogate


def test_analytic_mean_finds_a_true_combination() -> None:
    """Exact data of a non-negative combination: coefficients are non-negative and predictions right beyond the data."""
    architectures, others = sample(60, 3), [TINY.largest, TINY.smallest, *sample(50, 4)]
    true = roofline_coefficients(device("a100"), "float32")
    counts = feature_matrix(architectures, TINY.family, DECODE)
    reference = roofline_coefficients(device("cpu"), "float32")
    mean = AnalyticMean.fit(counts, counts @ true, reference)
    assert np.all(mean.coefficients_f >= 0)
    unseen = feature_matrix(others, TINY.family, DECODE)
    np.testing.assert_allclose(mean(unseen), unseen @ true, rtol=0.02)
    # Three measurements wrong by a factor of five, up and down, do not move the fit
    spoiled = counts @ true
    spoiled[::40] *= 5.0
    spoiled[20::40] /= 5.0
    robust = AnalyticMean.fit(counts, spoiled, reference)
    np.testing.assert_allclose(robust(unseen), unseen @ true, rtol=0.05)


def test_process_equals_botorch() -> None:
    models = pytest.importorskip("botorch.models")
    from gpytorch.kernels import MaternKernel, ScaleKernel

    rng = np.random.default_rng(0)
    X, Z, y, noise = (
        rng.normal(size=(20, 3)),
        rng.normal(size=(9, 3)),
        rng.normal(size=20),
        rng.random(20),
    )
    hyper = Hyperparameters(np.array([0.7, 2.0, 5.0]), 1.7, 0.3, 0.05)
    kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=3)).double()
    kernel.base_kernel.lengthscale = torch.tensor(hyper.lengthscale_d)
    kernel.outputscale = hyper.outputscale
    oracle = models.SingleTaskGP(
        torch.tensor(X),
        torch.tensor(y)[:, None],
        train_Yvar=torch.tensor(noise + hyper.noise)[:, None],
        covar_module=kernel,
        outcome_transform=None,
    )
    oracle.mean_module.constant = hyper.mean
    with torch.no_grad():
        posterior = oracle.posterior(torch.tensor(Z))
    mean, variance = GaussianProcess(X, y, noise, hyper)(Z)
    np.testing.assert_allclose(mean, posterior.mean.numpy()[:, 0], atol=1e-6)
    np.testing.assert_allclose(variance, posterior.variance.numpy()[:, 0], atol=1e-6)


def test_records_find_noise_and_drift() -> None:
    """400 architectures in 6 rounds with known noise (3 %) and known factors of the rounds."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.0, 2.0, 400)
    drift = np.array([0.0, 0.05, -0.04, 0.02, 0.01, -0.04])
    logs = truth[:, None] + drift + rng.normal(0.0, 0.03, (400, 6))
    logs[rng.random(logs.shape) < 0.1] = np.nan  # rounds that were cut short
    records = to_records(400, None, None, np.exp(logs))
    assert math.sqrt(records.single_noise) == pytest.approx(0.03, rel=0.1)
    assert records.drift_std == pytest.approx(float(np.std(drift, ddof=1)), rel=0.1)
    error = records.log_ms_n - truth
    assert abs(error.mean()) < 0.004
    assert error.std() < 1.4 * 0.03 / math.sqrt(
        5.4
    )  # a median of 5.4 normals, 1.25 times the spread of their mean
    # Student's t for 5 degrees of freedom at 95 %: 2.0150 (any table), the normal: 1.6449
    expected = records.drift_std * math.sqrt(2.0150**2 * (1 + 1 / 6) - 1.6449**2)
    assert records.drift_margin(0.9) == pytest.approx(expected, rel=1e-3)


def test_records_without_rounds_know_no_drift() -> None:
    records = to_records(2, [1.0, 2.0], [0.1, 0.1], None)
    np.testing.assert_allclose(records.noise_n, [0.01, 0.0025])
    assert records.drift_margin(0.9) == 0.0
    for arguments in (
        (2, None, None, None),
        (2, None, None, [[1.0], [np.nan]]),
        (2, None, None, [1.0, 2.0]),
        (2, [1.0, 2.0], [0.1], None),
        (2, [1.0, 2.0], [0.1, -0.1], None),
    ):
        with pytest.raises(ValueError, match="expected"):
            to_records(*arguments)  # type: ignore[arg-type]


# ---- the learned surrogate on known truths


def test_intervals_cover_fresh_measurements() -> None:
    """No drift, 4 % noise: over 8 draws of 64 records each, coverage of 400 fresh measurements is 90 % within sampling error.

    One draw's coverage scatters by sqrt(0.9 x 0.1 / 66) = 0.037 (a beta distribution), so eight draws' mean by 0.013; the
    conformal correction adds up to 1 / 65. The band is four of those deviations.
    """
    shares = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        architectures = sample(464, 100 + seed)
        values = hidden_truth(architectures) * np.exp(rng.normal(0.0, 0.04, 464))
        surrogate = LatencySurrogate(TINY.family, DECODE).fit(architectures[:64], values[:64])
        guess = surrogate.predict(architectures[64:])
        shares.append(coverage(guess.low_n, guess.high_n, values[64:]))
    assert 0.85 < float(np.mean(shares)) < 0.96


def test_intervals_hold_the_drift_of_a_later_session() -> None:
    """Sessions drift by 5 %, all architectures alike. Calibrated on single rounds, the intervals cover a later session; calibrated on
    the medians over rounds, as if those could be measured again, they do not."""
    with_rounds, without = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        architectures = sample(248, 200 + seed)
        truth = hidden_truth(architectures)[:, None]
        noise = rng.normal(0.0, 0.01, (248, 5)) + rng.normal(0.0, 0.05, 5)
        rounds = truth[:48] * np.exp(noise[:48])
        later = truth[48:] * np.exp(rng.normal(0.0, 0.01, (200, 40)) + rng.normal(0.0, 0.05, 40))
        fit = LatencySurrogate(TINY.family, DECODE).fit
        for shares, guess in (
            (with_rounds, fit(architectures[:48], repeats_nr=rounds).predict(architectures[48:])),
            (without, fit(architectures[:48], np.median(rounds, 1)).predict(architectures[48:])),
        ):
            shares += [coverage(guess.low_n, guess.high_n, session) for session in later.T]
    assert float(np.mean(with_rounds)) > 0.87
    assert float(np.mean(without)) < 0.8


def test_uncertainty_grows_away_from_the_data_and_is_flagged() -> None:
    dense = [a for a in sample(6000, 7) if a.embed_dim == 128 and a.depth <= 4]
    near = [a for a in dense if all(layer.ffn_sparsity.is_dense for layer in a.layers)]
    blocks = [a for a in dense if any(x.ffn_sparsity.pattern == "block" for x in a.layers)]
    assert min(len(near) - 60, len(blocks)) > 20
    surrogate = LatencySurrogate(TINY.family, DECODE).fit(near[:60], hidden_truth(near[:60]))
    inside, unseen_kernel = surrogate.predict(near[60:]), surrogate.predict(blocks)
    larger = surrogate.predict([TINY.largest])
    assert inside.extrapolates_n.mean() < 0.1
    assert unseen_kernel.extrapolates_n.mean() > 0.9
    assert larger.extrapolates_n.all()
    relative = [np.median(g.std_n / g.mean_n) for g in (inside, unseen_kernel, larger)]
    assert relative[1] > 2 * relative[0]
    assert relative[2] > 2 * relative[0]


def test_scales_with_the_unit() -> None:
    architectures = sample(100, 9)
    values = hidden_truth(architectures)
    one = LatencySurrogate(TINY.family, DECODE).fit(architectures[:50], values[:50])
    thousand = LatencySurrogate(TINY.family, DECODE).fit(architectures[:50], 1e3 * values[:50])
    a, b = one.predict(architectures[50:]), thousand.predict(architectures[50:])
    np.testing.assert_allclose(b.mean_n, 1e3 * a.mean_n, rtol=1e-3)


def test_constant_measurements_and_equal_counts() -> None:
    """Nothing to learn is no error: the constant comes back."""
    layers = [LayerConfig(2, 1.0), LayerConfig(4, 1.0), LayerConfig(8, 1.0), LayerConfig(2, 4.0)]
    orders = [Architecture(128, p) for p in itertools.permutations(layers)]
    guess = LatencySurrogate(TINY.family, DECODE).fit(orders, np.full(24, 3.0)).predict(orders)
    np.testing.assert_allclose(guess.mean_n, 3.0, rtol=1e-3)


def test_coefficients_are_named_and_not_negative() -> None:
    architectures = sample(60, 5)
    surrogate = LatencySurrogate(TINY.family, DECODE)
    with pytest.raises(ValueError, match="fit"):
        _ = surrogate.coefficients
    surrogate.fit(architectures, hidden_truth(architectures))
    assert set(surrogate.coefficients) <= set(feature_names())
    assert min(surrogate.coefficients.values()) > 0
    assert surrogate.num_records == 60


def test_cross_validation_judges_honestly() -> None:
    """The stated figures against those on fresh data; with shuffled values nothing may look predictable."""
    rng = np.random.default_rng(3)
    architectures = sample(560, 11)
    values = hidden_truth(architectures) * np.exp(rng.normal(0.0, 0.03, 560))
    surrogate = LatencySurrogate(TINY.family, DECODE).fit(architectures[:60], values[:60])
    stated = surrogate.cross_validate(k=5)
    guess = surrogate.predict(architectures[60:])
    assert stated["num_records"] == 60
    assert stated["interval_level"] == 0.9
    assert stated["kendall_tau"] == pytest.approx(kendall_tau(guess.mean_n, values[60:]), abs=0.04)
    assert stated["mape"] == pytest.approx(mape(guess.mean_n, values[60:]), rel=0.5)
    assert stated["coverage"] > 0.75  # 60 judgments: 0.9 less four deviations of 0.039
    shuffled = LatencySurrogate(TINY.family, DECODE).fit(
        architectures[:60], rng.permutation(values[:60])
    )
    assert abs(shuffled.cross_validate()["kendall_tau"]) < 0.35  # 60 random pairs: deviation 0.09
    for k in (1, 61):
        with pytest.raises(ValueError, match="folds"):
            surrogate.cross_validate(k)


def test_records_of_one_architecture_are_judged_together() -> None:
    """Each architecture measured twice: the twin of a held-out record must not vouch for it."""
    rng = np.random.default_rng(0)
    architectures = sample(40, 13)
    own = np.exp(
        rng.normal(0.0, 0.3, 40)
    )  # unpredictable from the architecture, equal in both of its records
    values = hidden_truth(architectures) * own
    surrogate = LatencySurrogate(TINY.family, DECODE).fit(architectures * 2, np.tile(values, 2))
    assert surrogate.cross_validate()["mape"] > 0.15  # E|exp(0.3 z) - 1| = 0.25


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="did you mean"):
        LatencySurrogate(TINY.family, DECODE, reference="h10")
    with pytest.raises(ValueError, match="dtype"):
        LatencySurrogate(TINY.family, DECODE, dtype="int3")
    with pytest.raises(ValueError, match="level"):
        LatencySurrogate(TINY.family, DECODE, level=0.0)
    architectures = sample(20, 0)
    strict = LatencySurrogate(TINY.family, DECODE, level=0.99)
    with pytest.raises(ValueError, match="99 or more"):
        strict.fit(architectures, hidden_truth(architectures))


# ---- files


def test_files_of_another_kind_or_version_are_refused(tmp_path: Path) -> None:
    architectures = sample(20, 0)
    surrogate = LatencySurrogate(TINY.family, DECODE).fit(
        architectures, hidden_truth(architectures)
    )
    path = tmp_path / "surrogate.npz"
    surrogate.save(path)
    meta, arrays = read_archive(path, "latency-surrogate", 1)
    json.dumps(meta)
    for kind, schema, message in (
        ("energy-surrogate", 1, "energy-surrogate"),
        ("latency-surrogate", 99, "schema 99"),
    ):
        write_archive(path, kind, schema, meta, arrays)
        with pytest.raises(ValueError, match=message):
            LatencySurrogate.load(path)
    write_archive(path, "latency-surrogate", 1, {**meta, "feature_names": ["x"]}, arrays)
    with pytest.raises(ValueError, match="operator counts"):
        LatencySurrogate.load(path)
    del meta["unit"]
    write_archive(path, "latency-surrogate", 1, meta, arrays)
    with pytest.raises(ValueError, match="unit"):
        LatencySurrogate.load(path)


def test_a_loaded_surrogate_still_judges_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    architectures = sample(30, 0)
    rounds = hidden_truth(architectures)[:, None] * np.exp(rng.normal(0.0, 0.05, (30, 4)))
    surrogate = LatencySurrogate(TINY.family, DECODE).fit(architectures, repeats_nr=rounds)
    surrogate.save(tmp_path / "s.npz")
    loaded = LatencySurrogate.load(tmp_path / "s.npz")
    assert loaded.coefficients == surrogate.coefficients
    assert loaded.cross_validate() == surrogate.cross_validate()
