"""Sums over parts equal the closed forms and the operator counts of whole architectures."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces import SearchSpace, Workload, costs, decode_flops, prefill_flops, preset
from surrogates import feature_matrix
from surrogates.additive.counts import Counts, histogram
from surrogates.additive.encoding import Encoder
from surrogates.additive.exact import METRICS, ExactCosts
from tests.additive_cases import GPT_S, TINY, draws
from tests.search_space_cases import SPACE as SMALL

GPT_S_SPARSE = preset("gpt-s", True)
CASES = [TINY, GPT_S, GPT_S_SPARSE, SMALL]


@pytest.mark.parametrize("space", CASES, ids=lambda s: s.name)
@pytest.mark.parametrize(("value_bytes", "phase"), [(4, "decode"), (2, "prefill")])
def test_exact_costs_equal_the_closed_forms(
    space: SearchSpace, value_bytes: int, phase: str
) -> None:
    asked = [space.smallest, space.largest, *draws(space, 30, 0)]
    encoder = Encoder(space)
    exact = ExactCosts(encoder, value_bytes, phase, 100)
    flops = decode_flops if phase == "decode" else prefill_flops
    for metric in METRICS:
        expected = [
            flops(a, space.family, 100)
            if metric == "flops"
            else getattr(costs(a, space.family, value_bytes), metric)
            for a in asked
        ]
        found = exact(metric, encoder(asked))
        assert [int(value) for value in found] == expected, metric
        assert np.all(found == np.round(found))


def test_an_unknown_exact_cost_is_refused() -> None:
    encoder = Encoder(TINY)
    with pytest.raises(ValueError, match="expected a metric in params"):
        ExactCosts(encoder)("latency", encoder([TINY.smallest]))


@pytest.mark.parametrize("space", [TINY, GPT_S], ids=lambda s: s.name)
@pytest.mark.parametrize(
    "workload", [Workload("decode", 2, 77), Workload("prefill", 8, 200)], ids=str
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_counts_are_the_operator_counts_up_to_scale(
    space: SearchSpace, workload: Workload, dtype: str
) -> None:
    asked = draws(space, 60, 1)
    encoder = Encoder(space)
    found_nk = Counts(encoder, workload, dtype)(encoder(asked))
    truth_nf = feature_matrix(asked, space.family, workload, dtype)
    truth_nf = truth_nf[:, np.ptp(truth_nf, axis=0) > 0]
    found_nk = found_nk[:, np.any(found_nk != 0, axis=0)]  # biases, in a space without them
    found_nk = found_nk / found_nk.mean(axis=0)
    truth_nf = truth_nf / truth_nf.mean(axis=0)
    gap_kf = np.abs(found_nk[:, :, None] - truth_nf[:, None, :]).max(axis=0)
    assert np.all(gap_kf.min(axis=1) < 1e-9), "a count that is none of the roofline's"
    assert np.all(gap_kf.min(axis=0) < 1e-9), "a count of the roofline's is missing"


@pytest.mark.parametrize("space", [TINY, GPT_S], ids=lambda s: s.name)
def test_counts_are_of_unit_size(space: SearchSpace) -> None:
    """Their unit is a mean over the parts; a sample's mean differs as parts are dropped more often than that (half the time)."""
    encoder = Encoder(space)
    mean_k = Counts(encoder, Workload("decode"))(encoder(draws(space, 400, 2))).mean(axis=0)
    mean_k = mean_k[mean_k > 0]
    assert len(mean_k) >= 5
    assert np.all((mean_k > 0.4) & (mean_k < 2.5))


def test_histogram_counts_what_is_there() -> None:
    parts_nl = np.array([[0, 2, 2, -1], [1, -1, -1, -1], [-1, -1, -1, -1]])
    expected = [[1, 0, 2], [0, 1, 0], [0, 0, 0]]
    assert histogram(parts_nl, 3).tolist() == expected
