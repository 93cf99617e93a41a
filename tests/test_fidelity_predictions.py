"""Predicted full perplexities: agreement of architectures by hand, the posterior against joint densities, and what it is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from growing_cases import WIDTH, WINDOWS
from scipy import integrate, stats
from small_study import SPACE

from nas.fidelity import Calibration, LossRecord, Predictions, agreement
from nas.fidelity.calibration import NOISE_SHAPE, NOISE_STD, OFFSET_STD, RATIOS, SLOPE_STD
from nas.objectives import Evaluation
from search_spaces import Architecture, LayerConfig

LOW_PARTS = (0, 8)


def architectures(count: int, seed: int = 0) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    found = dict.fromkeys(SPACE.sample(rng) for _ in range(4 * count))
    return list(found)[:count]


# --- agreement ---------------------------------------------------------------------------------------


def test_agreement_is_the_share_of_equal_choices() -> None:
    plain = Architecture(32, (LayerConfig(2, 4.0), LayerConfig(2, 4.0)))
    narrow = Architecture(16, (LayerConfig(2, 4.0), LayerConfig(2, 4.0)))
    biased = Architecture(32, (LayerConfig(2, 4.0), LayerConfig(2, 4.0)), bias=True)
    sparse = Architecture(32, (LayerConfig(2, 4.0), LayerConfig(1, 4.0, ffn_sparsity="2:4")))
    # width and bias, and five choices in each of two layers
    found = agreement([plain], [plain, narrow, biased, sparse])
    assert found == pytest.approx(np.array([[12, 11, 11, 10]]) / 12)
    assert agreement([], [plain]).shape == (0, 1)
    assert agreement([plain], []).shape == (1, 0)


def test_layers_that_are_missing_share_nothing_and_others_do_not_matter() -> None:
    deep = Architecture(32, (LayerConfig(2, 4.0),) * 4)
    shallow, other = (Architecture(32, (LayerConfig(heads, 4.0),)) for heads in (2, 1))
    assert agreement([shallow], [deep]) == pytest.approx(np.array([[7 / math.sqrt(7 * 22)]]))
    alone, beside = agreement([shallow], [other]), agreement([shallow], [other, deep])
    assert alone[0, 0] == beside[0, 0] == pytest.approx(6 / 7)


def test_agreement_is_a_kernel() -> None:
    rng = np.random.default_rng(1)
    some = [
        Architecture(a.embed_dim, a.layers[: int(rng.integers(1, a.depth + 1))])
        for a in architectures(30)
    ]
    found = agreement(some, some)
    assert np.array_equal(found, found.T)
    assert np.diag(found) == pytest.approx(np.ones(30))
    assert np.linalg.eigvalsh(found).min() > -1e-9
    assert agreement(some[:7], some) == pytest.approx(found[:7])


# --- the posterior -----------------------------------------------------------------------------------


def twin(low: np.ndarray, full: np.ndarray, alike: np.ndarray) -> tuple[float, float]:
    """Moments of the last full value given the others, by integrating the joint density: a mixture of multivariate t."""
    known = len(full)
    center = low[:-1].mean()
    offset = np.full((known + 1, known + 1), (OFFSET_STD / NOISE_STD) ** 2)
    slope = (SLOPE_STD / NOISE_STD) ** 2 * np.outer(low - center, low - center)

    def density(last: float) -> float:
        total = 0.0
        for ratio in RATIOS:
            covariance = NOISE_STD**2 * (np.eye(known + 1) + offset + slope + ratio * alike)
            joint = stats.multivariate_t(low, covariance, df=2 * NOISE_SHAPE)
            total += joint.pdf(np.append(full, last))
        return total

    grid = np.linspace(low[-1] - 1.0, low[-1] + 1.0, 2001)
    values = np.array([density(x) for x in grid])
    values /= integrate.simpson(values, x=grid)
    mean = float(integrate.simpson(values * grid, x=grid))
    return mean, math.sqrt(integrate.simpson(values * (grid - mean) ** 2, x=grid))


@pytest.mark.parametrize("count", [5, 12])
def test_the_prediction_is_that_of_the_joint_density(count: int) -> None:
    rng = np.random.default_rng(count)
    some = architectures(count + 1, seed=count)
    alike = agreement(some, some)
    low = 3.2 + 0.2 * rng.standard_normal(count + 1)
    shift = np.linalg.cholesky(alike + 1e-9 * np.eye(count + 1)) @ rng.standard_normal(count + 1)
    full = (low + 0.1 + 0.08 * shift + 0.01 * rng.standard_normal(count + 1))[:-1]
    calibration = Calibration.fit(low[:-1], full, alike[:-1, :-1])
    mean, std = calibration.predict(low[-1:], alike[:-1, -1:])
    assert (mean[0], std[0]) == pytest.approx(twin(low, full, alike), rel=2e-3)


def test_an_agreement_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected an agreement of all 2 pairs, shape \(2, 2\)"):
        Calibration.fit([3.0, 3.1], [3.0, 3.1], np.ones((1, 2)))


def test_a_missing_agreement_is_refused() -> None:
    fitted = Calibration.fit([3.0, 3.1], [3.0, 3.1], np.eye(2))
    with pytest.raises(ValueError, match="expected the agreement with the pairs' architectures"):
        fitted.predict([3.0])


# --- what it is worth --------------------------------------------------------------------------------


def evaluated(architecture: Architecture, shift: float, parts: tuple[int, ...]) -> Evaluation:
    """Perplexity 20 to 28 by width, on the first parts changed by the architecture."""
    level = math.log(20.0 + 0.25 * (32 - architecture.embed_dim) + len(architecture.layers))
    nats = {part: WIDTH * (level + shift * (part in LOW_PARTS)) for part in parts}
    record = LossRecord().extended({part: (WIDTH, value) for part, value in nats.items()})
    values = {"perplexity": record.perplexity}
    return Evaluation(
        architecture, values, fidelity=record.num_tokens, provenance=record.to_provenance()
    )


def test_what_choices_do_to_the_windows_is_learned() -> None:
    """Windows that some choices hurt more than others: neighbors tell by how much, a straight line does not."""
    rng = np.random.default_rng(2)
    some = architectures(70, seed=2)
    effects = 0.3 * np.linalg.cholesky(agreement(some, some) + 1e-9 * np.eye(70))
    shifts = effects @ rng.standard_normal(70)
    every = tuple(range(WINDOWS))
    full = [evaluated(a, s, every) for a, s in zip(some, shifts, strict=True)]
    partial = [evaluated(a, s, LOW_PARTS) for a, s in zip(some, shifts, strict=True)]
    true = np.log([e.value("perplexity") for e in full[40:]])
    found = Predictions()(full[:40], partial[40:])
    error = np.array([p.mean for p in found]) - true
    records = [LossRecord.of(e) for e in full[:40]]
    line = Calibration.fit([r.mean(LOW_PARTS) for r in records], [r.mean() for r in records])
    straight = line.predict([LossRecord.of(e).mean() for e in partial[40:]])[0] - true
    assert np.std(error) < 0.75 * np.std(straight)
    inside = np.abs(error) < 1.645 * np.array([p.std for p in found])
    assert 0.75 <= inside.mean() <= 1.0


def test_every_set_of_parts_has_its_own_calibration() -> None:
    some = architectures(12, seed=5)
    every = tuple(range(WINDOWS))
    full = [evaluated(a, 0.2, every) for a in some[:8]]
    hard = [evaluated(a, 0.2, LOW_PARTS) for a in some[8:10]]
    easy = [evaluated(a, 0.2, (3, 5)) for a in some[10:]]
    mixed = Predictions()(full, [hard[0], easy[0], hard[1], easy[1]])
    apart = [*Predictions()(full, hard), *Predictions()(full, easy)]
    assert [p.mean for p in mixed] == pytest.approx([apart[i].mean for i in (0, 2, 1, 3)])
    true = [evaluated(a, 0.2, every).value("perplexity") for a in some[8:]]
    assert [p.perplexity for p in apart] == pytest.approx(true, rel=0.01)


def test_nothing_known_or_nothing_asked() -> None:
    (one,) = architectures(1)
    (guess,) = Predictions()([], [evaluated(one, 0.0, LOW_PARTS)])
    assert guess.perplexity == pytest.approx(evaluated(one, 0.0, LOW_PARTS).value("perplexity"))
    assert guess.std > 0.3
    assert Predictions()([evaluated(one, 0.0, tuple(range(WINDOWS)))], []) == []


def test_what_is_remembered_is_what_is_found_anew() -> None:
    """To the last digit: a resumed study asks for all at once what an uninterrupted one asked for one by one."""
    some = architectures(20, seed=7)
    rng = np.random.default_rng(7)
    shifts = 0.2 * rng.standard_normal(20)
    every = tuple(range(WINDOWS))
    full = [evaluated(a, s, every) for a, s in zip(some[:8], shifts, strict=False)]
    partial = [evaluated(a, s, LOW_PARTS) for a, s in zip(some[8:], shifts[8:], strict=True)]
    remembered = Predictions()
    for count in (5, 8):
        one_by_one = [remembered(full[:count], [e])[0] for e in partial]
        assert one_by_one == Predictions()(full[:count], partial)
        assert remembered(full[:count], partial) == one_by_one
    assert remembered(full[:5], partial) != one_by_one
