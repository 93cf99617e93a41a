"""How well latencies are predicted: by the machine's figures alone, and by a surrogate of a few measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from search_spaces import Architecture, Family, Workload
from surrogates import DeviceSpec, LatencySurrogate, coverage, kendall_tau, latencies_ms, mape
from surrogates.base import FloatArray


def analytic(
    architectures: Sequence[Architecture],
    family: Family,
    workload: Workload,
    spec: DeviceSpec | str,
    dtype: str,
    measured_n: FloatArray,
) -> dict[str, Any]:
    """Scores of the roofline, nothing fitted.

    Args:
        architectures: n subnets.
        family: theirs.
        workload: that was timed.
        spec: device.
        dtype: of the runtime.
        measured_n: milliseconds.

    Returns:
        ``kendall_tau``; ``mape`` and ``bias`` (median of predicted over measured), fractions; ``predicted_ms``.
    """
    predicted_n = latencies_ms(architectures, family, spec, workload, dtype)
    return {
        "kendall_tau": kendall_tau(predicted_n, measured_n),
        "mape": mape(predicted_n, measured_n),
        "bias": float(np.median(predicted_n / measured_n)),
        "predicted_ms": [float(v) for v in predicted_n],
    }


def random_splits(
    architectures: Sequence[Architecture],
    family: Family,
    workload: Workload,
    spec: DeviceSpec | str,
    dtype: str,
    rounds_nr: FloatArray,
    *,
    fitted: int,
    splits: int,
    seed: int,
) -> list[dict[str, float]]:
    """Fit to one measurement each of some architectures, judge on the medians of all others; once a split.

    Args:
        architectures: n subnets.
        family: theirs.
        workload: that was timed.
        spec: reference device of the surrogate.
        dtype: of the runtime.
        rounds_nr: milliseconds of each round; a split fits to one of them.
        fitted: measurements a surrogate sees.
        splits: to draw.
        seed: of the draws.

    Raises:
        ValueError: if fewer than two architectures are left to judge on.
    """
    n, r = rounds_nr.shape
    if n - fitted < 2:
        raise ValueError(
            f"expected two architectures or more beside the {fitted} fitted ones, got {n} in all; measure more"
        )
    truth_n = np.median(rounds_nr, axis=1)
    found = []
    for split in range(splits):
        order = np.random.default_rng((seed, split)).permutation(n)
        seen, rest = order[:fitted], order[fitted:]
        surrogate = LatencySurrogate(family, workload, dtype=dtype, reference=spec)
        surrogate.fit([architectures[i] for i in seen], rounds_nr[seen, split % r])
        guess = surrogate.predict([architectures[i] for i in rest])
        found.append(
            {
                "mape": mape(guess.mean_n, truth_n[rest]),
                "kendall_tau": kendall_tau(guess.mean_n, truth_n[rest]),
                "coverage": coverage(guess.low_n, guess.high_n, truth_n[rest]),
            }
        )
    return found
