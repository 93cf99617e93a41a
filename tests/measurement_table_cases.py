"""A small table of made-up measurements, for the tests of MeasurementTable."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from surrogates.tables import MeasurementTable
from tests.additive_cases import DECODE, TINY, draws

N = 12
ASKED = draws(TINY, N, 0)
LATENCY = ("decode_ms", "gpu_a")
NAN = float("nan")


def columns(**changed: npt.ArrayLike) -> dict[tuple[str, str], npt.ArrayLike]:
    """A latency with repeats on two devices, an energy on one, a perplexity on none."""
    repeats = np.exp(0.1 * np.random.default_rng(1).normal(size=(N, 4)))
    repeats[2, 1:] = NAN
    return {
        LATENCY: changed.get("latency", repeats),
        ("decode_ms", "cpu_b"): 3.0 * repeats,
        ("energy_j", "gpu_a"): repeats[:, 0],
        ("perplexity", ""): np.linspace(20.0, 30.0, N),
    }


def table(**changed: npt.ArrayLike) -> MeasurementTable:
    return MeasurementTable.of(
        TINY, DECODE, ASKED, columns(**changed), dtype="bfloat16", provenance={"by": ["me", 1]}
    )
