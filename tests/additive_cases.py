"""Spaces, synthetic devices and the public data that the tests of the additive surrogate share."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from search_spaces import Architecture, SearchSpace, Workload, preset, presets
from surrogates import feature_matrix
from surrogates.additive.counts import Counts
from surrogates.additive.descriptors import Described, Descriptors
from surrogates.additive.encoding import Encoded, Encoder
from surrogates.tables import MeasurementTable

Array = npt.NDArray[np.float64]
HW_GPT_BENCH = Path(__file__).parents[2] / "shared" / "data" / "hw-gpt-bench" / "gpt-s.npz"
TINY, GPT_S = preset("tiny"), preset("gpt-s")
DECODE, PREFILL = Workload("decode"), Workload("prefill", 8, 1024)
SPACES = {
    space.name: space for name in presets() for space in (preset(name, False), preset(name, True))
}


def draws(space: SearchSpace, n: int, seed: int) -> list[Architecture]:
    """Random architectures of a space."""
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(n)]


def device_ms(
    architectures: list[Architecture], space: SearchSpace, workload: Workload, seed: int
) -> Array:
    """Cost on an invented device: a random positive combination of the operator counts, about 1 in the mean."""
    counts_nf = feature_matrix(architectures, space.family, workload)
    mean_f = feature_matrix(draws(space, 50, 0), space.family, workload).mean(axis=0)
    used = mean_f > 0
    share_f = np.random.default_rng(seed).dirichlet(np.ones(int(used.sum())))
    cost_n: Array = (counts_nf[:, used] / mean_f[used]) @ share_f
    return cost_n


def described(
    space: SearchSpace, workload: Workload, n: int, seed: int
) -> tuple[Encoded, Described]:
    """Random architectures as the kernel sees them, with two made-up columns of other devices."""
    encoder = Encoder(space)
    encoded = encoder(draws(space, n, seed))
    others_no = np.random.default_rng(seed).normal(size=(n, 2))
    return encoded, Descriptors(encoder)(encoded, Counts(encoder, workload)(encoded), others_no)


@functools.cache
def _published() -> MeasurementTable:
    return MeasurementTable.load(HW_GPT_BENCH)


def published() -> MeasurementTable:
    """The measurements of HW-GPT-Bench; skips aloud without them."""
    if not HW_GPT_BENCH.exists():
        pytest.skip(f"needs the measurements of HW-GPT-Bench in {HW_GPT_BENCH}")
    return _published()


@functools.cache
def published_arch() -> npt.NDArray[np.int64]:
    """The array ``arch`` of that file, as it is."""
    published()
    with np.load(HW_GPT_BENCH, allow_pickle=False) as archive:
        return archive["arch"].astype(np.int64)
