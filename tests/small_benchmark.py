"""A small table of invented measurements: two devices whose truth is a positive combination of analytic counts, for tests in seconds."""

from __future__ import annotations

import numpy as np

from search_spaces import SearchSpace, Workload, preset
from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.counts import Counts
from surrogates.additive.encoding import Encoded, Encoder
from surrogates.base import FloatArray
from surrogates.tables import MeasurementTable

SPACE = preset("gpt-s")
WORKLOAD = Workload("prefill", 8, 1024)


def truths(encoded: Encoded, space: SearchSpace = SPACE) -> dict[tuple[str, str], FloatArray]:
    """Noise-free values of every column."""
    encoder = Encoder(space)
    counts_nk = Counts(encoder, WORKLOAD)(encoded)
    k = counts_nk.shape[1]
    wide, tall = np.linspace(1.0, 2.0, k), np.linspace(2.0, 0.5, k)
    size_n = counts_nk.mean(axis=1)
    return {
        ("perplexity", ""): 20.0 + 15.0 / (0.3 + size_n),
        ("prefill_ms", "fast"): 1.0 + counts_nk @ wide,
        ("prefill_ms", "slow chip"): 10.0 + 9.0 * counts_nk @ tall,
        ("energy_j", "fast"): 50.0 + 30.0 * counts_nk @ tall,
    }


def small_table(n: int = 240, seed: int = 0, repeats: int = 5) -> MeasurementTable:
    """Measurements with one percent of noise."""
    rng = np.random.default_rng(seed)
    choices = ChoiceVectors(Encoder(SPACE))
    encoded = choices.decode(choices.sample(n, rng))
    columns = {}
    for (metric, device), truth_n in truths(encoded).items():
        r = 1 if metric == "perplexity" else repeats
        noise = 0.0 if metric == "perplexity" else 0.01
        columns[metric, device] = truth_n[:, None] * np.exp(noise * rng.normal(size=(n, r)))
    return MeasurementTable(SPACE, WORKLOAD, encoded, columns, provenance={"source": "invented"})
