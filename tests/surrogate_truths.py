"""Architectures with latencies that are known, for the tests of surrogates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from search_spaces import (
    Architecture,
    Workload,
    preset,
)
from surrogates import (
    feature_matrix,
    feature_names,
)

DECODE = Workload("decode")


TINY = preset("tiny")


Array = npt.NDArray[np.float64]


def sample(n: int, seed: int) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    return [TINY.sample(rng) for _ in range(n)]


def hidden_truth(architectures: list[Architecture]) -> Array:
    """Milliseconds of an invented machine that no surrogate has the form of: own costs per operator, and a 10 % bend in the size."""
    names = feature_names()
    per_unit = {"launches": 4e-3, "flops": 2e-8, "bytes": 3e-8, "dense_flops": 0.0}
    factor = {"unstructured": 3.0, "block": 1.5, "vector": 0.7, "n:m": 1.2, "attention": 2.0}
    coefficients = np.array(
        [per_unit[n.split(".")[1]] * factor.get(n.split(".")[0], 1.0) for n in names]
    )
    base = feature_matrix(architectures, TINY.family, DECODE) @ coefficients
    return base * (1.0 + 0.1 * np.sin(4.0 * np.log(base)))
