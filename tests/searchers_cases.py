"""Problems that many tests of the judgement of the searchers share."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import optuna

from experiments.searchers import methods
from experiments.searchers.judged import Box, JudgedProblem
from surrogates.base import FloatArray

RANDOM, NSGA2 = methods.select(["random", "nsga2"])


def every(distributions: Any) -> list[dict[str, Any]]:
    """All parameters of a small grid."""
    values = [
        d.choices
        if isinstance(d, optuna.distributions.CategoricalDistribution)
        else range(d.low, d.high + 1)
        for d in distributions.values()
    ]
    return [dict(zip(distributions, point, strict=True)) for point in itertools.product(*values)]


def line(name: str = "line", **changed: Any) -> JudgedProblem:
    """f1 + f2 = 1 in ten steps; best hypervolume by hand."""
    distributions = {"x": optuna.distributions.IntDistribution(0, 9)}

    def evaluate(params: Any) -> FloatArray:
        return np.array([params["x"] / 9.0, 1.0 - params["x"] / 9.0])

    box = Box(np.zeros(2), np.ones(2), sum(1 - x / 9 for x in range(1, 9)) / 9, "enumeration")
    return JudgedProblem(name, ("f1", "f2"), distributions, evaluate, box, "1", **changed)
