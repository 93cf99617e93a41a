"""The additive surrogate on what others measured (HW-GPT-Bench, 2405.10299): 200 rows seen, 1000 others asked."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from surrogates import Prediction, coverage, feature_matrix, kendall_tau, mape
from surrogates.additive.encoding import Encoder
from surrogates.additive.surrogate import AdditiveSurrogate
from tests.additive_cases import GPT_S, PREFILL, Array, published

NUM_FIT, NUM_ASKED = 200, 1000


@functools.cache
def split() -> tuple[Array, Array]:
    order = np.random.default_rng(0).permutation(len(published()))
    return order[:NUM_FIT], order[NUM_FIT : NUM_FIT + NUM_ASKED]


@functools.cache
def belief(metric: str, device: str | None) -> tuple[Prediction, Array, Array]:
    """What is believed of the rows asked, their typical values and their single measurements."""
    table, (seen, asked) = published(), split()
    repeats_nr = table.repeats(metric, device)
    surrogate = AdditiveSurrogate(GPT_S, PREFILL)
    surrogate.fit(table.encoded.take(seen), repeats_nr=repeats_nr[seen])
    guess = surrogate.predict(table.encoded.take(asked))
    return guess, table.values(metric, device)[asked], repeats_nr[asked]


def test_perplexity() -> None:
    """Least squares on one-hot choices with 8 000 rows has tau 0.967."""
    guess, truth, _ = belief("perplexity", None)
    assert kendall_tau(guess.mean_n, truth) >= 0.965
    assert mape(guess.mean_n, truth) < 0.004


def test_latency_of_a_clean_device() -> None:
    """A linear model of the counts with 8 000 rows has tau 0.993 and 0.2 %."""
    guess, truth, _ = belief("prefill_ms", "a100")
    assert kendall_tau(guess.mean_n, truth) >= 0.985
    assert mape(guess.mean_n, truth) <= 0.005


def test_least_squares_on_the_same_counts_is_beaten_on_a_dirty_device() -> None:
    """Counts of the roofline, one intercept, no weights: what a first attempt would be."""
    guess, truth, _ = belief("prefill_ms", "rtx2080")
    table, (seen, asked) = published(), split()
    encoder = Encoder(GPT_S)
    both = encoder.decode(table.encoded.take(np.concatenate([seen, asked])))
    counts_nf = feature_matrix(both, GPT_S.family, PREFILL)
    counts_nf = counts_nf[:, np.ptp(counts_nf, axis=0) > 0]
    counts_nf = np.column_stack([np.ones(len(both)), counts_nf / counts_nf.mean(axis=0)])
    values_n = table.values("prefill_ms", "rtx2080")[seen]
    weights_f = np.linalg.lstsq(counts_nf[:NUM_FIT], values_n, rcond=None)[0]
    least_squares = mape(counts_nf[NUM_FIT:] @ weights_f, truth)
    assert mape(guess.mean_n, truth) < 0.9 * least_squares


@pytest.mark.parametrize(
    ("metric", "device"),
    [
        ("perplexity", None),
        ("prefill_ms", "a100"),
        ("prefill_ms", "rtx2080"),
        ("prefill_ms", "v100"),
        ("prefill_ms", "cpu_xeon_gold"),
        ("prefill_ms", "cpu_amd_7513"),
        ("energy_j", "h100"),
        ("energy_j", "P100"),
        ("peak_memory_bytes", "rtx2080"),
    ],
)
def test_intervals_hold_single_measurements(metric: str, device: str | None) -> None:
    """All repeats of the rows asked together; one draw of 200 rows moves the coverage by 2 % (its standard deviation)."""
    guess, _, repeats_nr = belief(metric, device)
    there_nr = np.isfinite(repeats_nr)
    low_nr, high_nr = (
        np.broadcast_to(end[:, None], repeats_nr.shape)[there_nr]
        for end in (guess.low_n, guess.high_n)
    )
    assert 0.80 <= coverage(low_nr, high_nr, repeats_nr[there_nr]) <= 0.97
    assert np.all(guess.low_n > 0)
    assert guess.extrapolates_n.mean() < 0.05
